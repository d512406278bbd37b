"""The laws of a Hamiltonian, for crystals, layers and chains."""

from dataclasses import replace

import numpy as np
import pytest

from hamnet.bands import band_energies
from hamnet.blocks import HamiltonianBlocks, to_k
from hamnet.errors import HamnetError
from hamnet.lattice import pair_overlaps
from hamnet.models import HamiltonianModel
from hamnet.structure import Structure, half_list
from hamnet.testing import (
    check_batch,
    check_hermitian,
    check_permutation,
    check_rotation,
    check_supercell,
    check_translation,
    check_wrapping,
    predict_blocks,
    random_model,
)

BASIS, PSEUDO = "gth-szv-molopt-sr", "gth-pbe"
A = 2.46


def graphene(noise: float = 0.0) -> Structure:
    cell = np.array([[A, 0, 0], [-A / 2, A * np.sqrt(3) / 2, 0], [0, 0, 0]])
    atoms = np.array([[0, 0, 0], [0, A / np.sqrt(3), 0]])
    rng = np.random.default_rng(1)
    return Structure(
        np.array([6, 6]),
        atoms + noise * rng.normal(size=(2, 3)),
        cell,
        np.array([True, True, False]),
    )


def crystals() -> list[Structure]:
    rng = np.random.default_rng(2)
    cell = np.array([[0.1, 2.6, 2.7], [2.7, 0.0, 2.6], [2.6, 2.7, 0.1]])
    chain = np.array([[0.1, 0.2, 0.0], [0.0, 0.0, 1.27]])
    return [
        graphene(0.05),
        Structure(
            np.array([5, 7]), rng.normal(size=(2, 3)) + np.array([[0], [2]]), cell, np.ones(3)
        ),
        Structure(np.array([6, 6]), chain, np.diag([0, 0, 2.57]), np.array([False, False, True])),
    ]


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    return random_model(BASIS, (5, 6, 7), pseudo=PSEUDO, message_cutoff=2.5, pair_cutoff=3.5)


@pytest.fixture(params=[0, 1, 2], ids=["layer", "bulk", "chain"])
def crystal(request) -> Structure:
    return crystals()[request.param]


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "improper"])
def test_rotation_of_cell_and_positions(model, crystal, improper):
    check_rotation(model, crystal, improper=improper)


def test_choice_of_origin(model, crystal):
    check_translation(model, crystal)


def test_order_of_atoms(model, crystal):
    check_permutation(model, crystal)


def test_h_of_k_is_hermitian(model, crystal):
    check_hermitian(model, crystal)


def test_wrapped_and_unwrapped_atoms(model, crystal):
    check_wrapping(model, crystal)


@pytest.mark.parametrize("repeat", [(2, 1, 2), (1, 3, 2)], ids=str)
def test_a_supercell_folds_the_bands(model, crystal, repeat):
    check_supercell(model, crystal, tuple(int(n) for n in np.where(crystal.pbc, repeat, 1)))


def test_batch_of_different_cells_equals_singles(model):
    check_batch(model, crystals())


def test_large_systems_keep_no_features_and_change_nothing(model, monkeypatch):
    several = crystals()
    expected = [p.hamiltonian.entries for p in model.predict(several)]
    monkeypatch.setattr("hamnet.models.model.MAX_KEPT_PAIRS", 0)
    monkeypatch.setattr("hamnet.nn.frames.PIECE", 2000)
    found = [p.hamiltonian.entries for p in model.predict(several)]
    for one, two in zip(found, expected, strict=True):
        assert np.abs(one - two).max() < 1e-12


def test_time_reversal(model, crystal):
    blocks, k = predict_blocks(model, crystal), np.array([0.1, 0.2, 0.3])
    assert np.abs(to_k(blocks, -k) - to_k(blocks, k).conj()).max() < 1e-12


def test_another_cell_of_the_same_crystal(model):
    """Lattice vectors are a choice: a, a + b span the same graphene as a, b."""
    one = graphene(0.05)
    mixing = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    two = replace(one, cell=mixing @ one.cell)
    k = np.array([0.1, 0.2, 0.0])
    first, second = (to_k(predict_blocks(model, s), p) for s, p in ((one, k), (two, mixing @ k)))
    assert np.abs(first - second).max() < 1e-10


def test_space_group_makes_degenerate_bands(model):
    """The Dirac point of graphene: two bands meet at K and K', in whatever orientation."""
    structure = graphene()
    h = predict_blocks(model, structure)
    s = pair_overlaps(structure, model.basis, h.layout, PSEUDO)
    h = HamiltonianBlocks(h.layout, 0.02 * h.entries + s.entries)  # small: S must stay the larger
    for k in ([1 / 3, 1 / 3, 0], [2 / 3, 2 / 3, 0]):
        e = np.sort(
            band_energies(HamiltonianBlocks(h.layout, h.entries[None]), s, np.array([k]))[0, 0]
        )
        assert (np.diff(e) < 1e-9).sum() >= 2  # of eight bands: pi, and a pair of sigma


def test_locality(model):
    """A block depends on atoms within the reach of the messages only, in cells of any size."""
    chain = crystals()[2]
    n = 12
    positions = np.concatenate([chain.positions + k * chain.cell[2] for k in range(n)])
    long = Structure(np.tile(chain.numbers, n), positions, n * chain.cell, chain.pbc)
    bent = positions.copy()
    bent[0] += [0.1, -0.2, 0.05]
    one, two = (predict_blocks(model, replace(long, positions=p)) for p in (positions, bent))
    assert np.array_equal(one.layout.atom_pairs, two.layout.atom_pairs)
    change = [np.abs(one.block(k) - two.block(k)).max() for k in range(len(one.layout.atom_pairs))]
    i, j = one.layout.atom_pairs[:, 3], one.layout.atom_pairs[:, 4]
    far = (np.abs(positions[i, 2] - 15) < 3) & (np.abs(positions[j, 2] - 15) < 3)
    assert far.sum() > 5
    assert np.max(np.array(change)[far]) == 0.0
    assert np.max(change) > 1e-3


def test_neighbours_of_mixed_periodicity_are_all_found(rng):
    for pbc in ([1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]):
        periodic = np.array(pbc, dtype=bool)
        cell = (3.2 * np.eye(3) + 0.3 * rng.normal(size=(3, 3))) * periodic[:, None]
        s = Structure(np.full(3, 6), 3 * rng.normal(size=(3, 3)), cell, periodic)
        i, _, _ = half_list(s, 5.0)
        steps = [range(-9, 10) if p else [0] for p in pbc]
        expected = sum(
            np.linalg.norm(s.positions[b] + np.array(r) @ cell - s.positions[a]) < 5.0
            for r in np.array(np.meshgrid(*steps)).reshape(3, -1).T
            for a in range(3)
            for b in range(3)
            if a != b or r.any()
        )
        assert 2 * len(i) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": np.zeros((3, 3))}, "periodic along lattice vector a"),
        ({"cell": np.array([[2.46, 0, 0], [4.92, 0, 0], [0, 0, 0]])}, "in one plane"),
        ({"cell": np.diag([3.0, 3.0, -3.0]), "pbc": np.ones(3)}, "left-handed"),
        ({"pbc": np.ones(3)}, "periodic along lattice vector c"),
        ({"pbc": np.zeros(3)}, "is a molecule"),
        ({"numbers": np.array([6, 14])}, "trained for B, C, N only"),
        ({"positions": np.array([[0, 0, 0], [2.4, 0.1, 0]])}, "apart"),
    ],
    ids=["zero cell", "flat cell", "left-handed", "mixed pbc", "molecule", "element", "contact"],
)
def test_a_model_refuses_what_is_no_crystal_of_its_kind(model, changes, message):
    with pytest.raises(HamnetError, match=message):
        model.predict([replace(graphene(), **changes)])
