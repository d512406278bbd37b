"""The density of H0's orbitals: what it is, how it turns, and what models do with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag, eigh, sqrtm

from hamnet.blocks import HamiltonianBlocks, from_dense, molecule_layout, to_dense
from hamnet.data.level import LevelOfTheory
from hamnet.data.samples import record_sample
from hamnet.data.store import Store
from hamnet.density import SAME_LEVEL, loewdin_density
from hamnet.errors import HamnetError
from hamnet.graph import build_graph
from hamnet.integrals import basis_for, overlap
from hamnet.irreps import BlockType
from hamnet.models import load_model
from hamnet.references import reference_hamiltonian
from hamnet.structure import Structure
from hamnet.testing import moved, random_model, random_rotation, rotate_orbitals, wigner_d
from hamnet.training.config import load_config
from hamnet.training.run import train
from tests.synthetic import SMALL

LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp")
RECIPE = [*SMALL, "training.max_steps=0", "data.fractions=[0.5, 0.5, 0]"]


def density(structure: Structure, n_electrons: int) -> np.ndarray:
    """Of the superposition of atomic potentials, which no grid disturbs, ``[n, n]``."""
    s = overlap(structure, basis_for(structure, LEVEL.basis))
    h0 = reference_hamiltonian(structure, LEVEL, "sap")
    return to_dense(HamiltonianBlocks(s.layout, loewdin_density(h0, s, n_electrons)))


def test_it_is_the_density_of_the_orbitals(water_records):
    """S^(1/2) P S^(1/2) with the orbitals of scipy; twice a projector."""
    for record in water_records:
        s, h = (record.blocks(name) for name in ("overlap", "hamiltonian"))
        q = to_dense(HamiltonianBlocks(s.layout, loewdin_density(h, s, 10)))
        occupied = eigh(to_dense(h)[0], to_dense(s))[1][:, :5]
        root = sqrtm(to_dense(s)).real
        assert np.abs(q - 2 * root @ occupied @ occupied.T @ root).max() < 1e-10
        assert np.abs(q @ q - 2 * q).max() < 1e-10


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "improper"])
def test_it_turns_with_the_molecule(rng, improper):
    numbers = np.array([6, 8, 1, 1])
    positions = np.array([[0, 0, 0], [0, 0, 1.2], [0.94, 0, -0.54], [-0.94, 0, -0.54]])
    structure = Structure(numbers, positions + 0.05 * rng.normal(size=(4, 3)))
    rotation = random_rotation(rng, improper=improper)
    d = rotate_orbitals(basis_for(structure, LEVEL.basis), numbers, rotation)
    found = density(moved(structure, structure.positions @ rotation.T), 16)
    assert np.abs(found - d @ density(structure, 16) @ d.T).max() < 1e-10
    assert found.trace() == pytest.approx(16, abs=1e-12)


def test_levels_of_one_energy_share_their_electrons():
    """An oxygen atom of a closed shell stays a ball."""
    q = density(Structure(np.array([8]), np.zeros((1, 3))), 8)
    p = q[3:6, 3:6]
    assert np.abs(p - p[0, 0] * np.eye(3)).max() < 1e-10
    assert q.trace() == pytest.approx(8, abs=1e-12)


def test_levels_that_are_close_are_not_one():
    """Electrons are shared within `SAME_LEVEL` only."""
    layout = molecule_layout(np.arange(5))
    s = from_dense(np.eye(4), layout)
    for gap, expected in ((0.1 * SAME_LEVEL, [2, 1, 1, 0]), (10 * SAME_LEVEL, [2, 2, 0, 0])):
        h = from_dense(np.diag([-1, 0, gap, 1.0])[None], layout)
        q = to_dense(HamiltonianBlocks(layout, loewdin_density(h, s, 4)))
        assert np.abs(q - np.diag(expected)).max() < 1e-12


def test_dependent_functions_leave_it_finite():
    """The same function on two atoms: nothing is divided by zero."""
    layout = molecule_layout(np.array([0, 1, 2]))
    twice = np.array([[1.0, 1.0], [1.0, 1.0]])
    s, h = from_dense(twice, layout), from_dense(-twice[None], layout)
    q = to_dense(HamiltonianBlocks(layout, loewdin_density(h, s, 2)))
    assert np.abs(q - twice).max() < 1e-12  # both electrons in their sum


def test_features_are_in_the_units_of_the_training_data(rng):
    """Scalars have mean 0, all numbers together a root mean square of 1."""
    model = random_model("def2-svp", (1, 8), density_weight=0.2)
    embedding = model.network.density
    blocks = rng.normal(size=(50, 14, 14))
    whole = torch.from_numpy((blocks + blocks.transpose(0, 2, 1)).reshape(50, -1))
    embedding.fit({BlockType.atom(8): whole})
    table = embedding.tables[BlockType.atom(8)]
    q = whole @ table.matrix
    q = (q - embedding.get_buffer("mean_8")) / embedding.get_buffer("rms_8")
    scalars = next(c for c in table.classes if c.is_invariant)
    assert q[:, scalars.columns].mean(dim=0).abs().max() < 1e-12
    assert q.square().mean() == pytest.approx(1, abs=1e-12)


def test_a_model_looks_at_it_where_h0_is_minao(store, tmp_path):
    """The weight is settled when training starts, and a saved model sees the same density."""

    def run(name, *settings):
        config = load_config(overrides=[*RECIPE, *settings])
        return load_model(train(store, tmp_path / name, config, report=lambda _: None).model_file)

    model = run("minao", "target.reference=minao")
    assert model.metadata.model.density_weight == 0.2
    assert model.network.density is not None
    with Store.open(store) as data:
        record = data[0]
        sample = record_sample(record, model.basis, model.cutoffs, model.reference)
    # H0 and S computed anew give what the labels hold
    again = model.unlabelled(record.structure)[0]
    for t, blocks in sample.density.items():
        assert torch.allclose(blocks, again.density[t], atol=1e-9)
    whole = model.infer(sample).entries
    without = {t: torch.zeros_like(x) for t, x in sample.density.items()}
    assert (model.infer(replace(sample, density=without)).entries - whole).abs().max() > 1e-4
    for name, settings in {
        "none": ["target.reference=none"],
        "sap": ["target.reference=sap"],
        "off": ["target.reference=minao", "model.density_weight=0"],
    }.items():
        plain = run(name, *settings)
        assert plain.metadata.model.density_weight == 0
        assert plain.network.density is None


@pytest.mark.parametrize("reference", ["none", "sap"])
def test_another_h0_has_no_density_to_look_at(store, tmp_path, reference):
    config = load_config(
        overrides=[*RECIPE, f"target.reference={reference}", "model.density_weight=0.3"]
    )
    with pytest.raises(HamnetError, match=r"density_weight = 0\.3.*target\.reference = minao"):
        train(store, tmp_path / "run", config, report=lambda _: None)


def test_features_turn_as_their_degree_and_parity_say(rng):
    model = random_model("def2-svp", (8,), density_weight=0.2)
    rotation = random_rotation(rng, improper=True)
    d = rotate_orbitals(model.basis, np.array([8]), rotation)
    block = rng.normal(size=(14, 14))
    graph = build_graph(Structure(np.array([8]), np.zeros((1, 3))), *model.cutoffs)

    def features(matrix):
        blocks = {BlockType.atom(8): torch.from_numpy((matrix + matrix.T).reshape(1, -1))}
        return model.network.density(blocks, graph)[0].detach().numpy()

    natural, pseudo = model.network.channels
    turned = block_diag(*(wigner_d(l, rotation) for l in range(model.network.l_max + 1)))
    parity = np.array([1.0] * natural + [-1.0] * pseudo)
    assert (np.abs(features(block)).max(axis=0) > 0.01).all()  # all channels, pseudo ones too
    error = features(d @ block @ d.T) - turned @ features(block) * parity
    assert np.abs(error).max() < 1e-10
