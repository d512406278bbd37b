"""Spin-orbit coupling: four real matrices, the complex one they stand for, and their laws."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from hamnet.bands import band_energies, bloch_problem, channel
from hamnet.blocks import HamiltonianBlocks, from_dense, molecule_layout, to_dense, to_k
from hamnet.errors import HamnetError
from hamnet.models import HamiltonianModel
from hamnet.models.uncertainty import _projector
from hamnet.spectrum import solve
from hamnet.spinor import (
    PAULI,
    doubled,
    eigenproblem,
    from_spinor,
    to_spinor,
    turned,
)
from hamnet.structure import Structure
from hamnet.testing import (
    check_all,
    predict_blocks,
    predict_matrix,
    random_model,
    random_rotation,
)

CUTOFFS = {"message_cutoff": 3.0, "pair_cutoff": 4.0}


def random_components(n: int, rng: np.random.Generator) -> np.ndarray:
    """H0 symmetric, K antisymmetric."""
    a = rng.normal(size=(4, n, n))
    a[0] += a[0].T
    a[1:] -= a[1:].transpose(0, 2, 1)
    return a


def time_reversed(matrix: np.ndarray) -> np.ndarray:
    """``T H T^-1`` with ``T = i sigma_y`` times complex conjugation."""
    t = np.kron(1j * PAULI[1], np.eye(len(matrix) // 2))
    return t @ matrix.conj() @ t.conj().T


def molecules() -> list[Structure]:
    rng = np.random.default_rng(3)
    acid = np.array([[0, 0, 0], [0.9, 0.3, 0], [-0.5, 1.7, 0.3], [-1.3, -0.2, 0.6]])
    pair = np.array([[0, 0, 0], [2.2, 0.3, 0.2], [-0.5, 1.3, 0.3], [2.5, -1.2, 0.6]])
    return [
        Structure(np.array([8, 1, 17, 8]), acid + 0.05 * rng.normal(size=(4, 3))),
        Structure(np.array([17, 17, 1, 1]), pair + 0.05 * rng.normal(size=(4, 3))),
        Structure(np.array([17]), np.zeros((1, 3))),
    ]


@pytest.fixture(scope="module")
def model() -> HamiltonianModel:
    return random_model("sto-3g", (1, 8, 17), relativity="x2c", **CUTOFFS)


@pytest.fixture(scope="module")
def crystal_model() -> HamiltonianModel:
    settings = {"pseudo": "gth-pbe", "message_cutoff": 2.5, "pair_cutoff": 3.5}
    return random_model("gth-szv-molopt-sr", (5, 7), relativity="spin-orbit", **settings)


def crystal() -> Structure:
    rng = np.random.default_rng(2)
    cell = np.array([[0.1, 2.6, 2.7], [2.7, 0.0, 2.6], [2.6, 2.7, 0.1]])
    positions = rng.normal(size=(2, 3)) + np.array([[0], [2]])
    return Structure(np.array([5, 7]), positions, cell, np.ones(3))


def test_the_four_matrices_and_the_complex_one_are_the_same_numbers(rng):
    four = random_components(5, rng)
    whole = to_spinor(four)
    assert np.abs(from_spinor(whole) - four).max() < 1e-15
    block = rng.normal(size=(3, 4, 5, 2))  # blocks of pairs are not square
    assert np.abs(from_spinor(to_spinor(block)) - block).max() < 1e-15


def test_the_complex_matrix_is_hermitian_and_does_not_change_when_time_is_reversed(rng):
    whole = to_spinor(random_components(5, rng))
    assert np.abs(whole - whole.conj().T).max() == 0
    assert np.abs(time_reversed(whole) - whole).max() == 0
    energies = np.linalg.eigvalsh(whole)
    assert np.abs(energies[::2] - energies[1::2]).max() < 1e-12  # Kramers pairs


def test_a_magnetic_matrix_is_refused_with_its_deviation(rng):
    whole = to_spinor(random_components(5, rng)) + 1e-5 * np.kron(PAULI[2], np.eye(5))
    with pytest.raises(HamnetError, match=r"not time-reversal symmetric.*1\.0e-05 Hartree"):
        from_spinor(whole)
    assert from_spinor(whole, tolerance=2e-5).shape == (4, 5, 5)


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "mirror"])
def test_rotation_of_orbitals_and_of_spins(improper, rng):
    """``U (x) D`` with U of SU(2) is what `turned` does; inversion leaves spins alone."""
    axis = rng.normal(size=3)
    generator = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = expm(generator)
    u = expm(-0.5j * np.einsum("a,ast->st", axis, PAULI))
    rotation = -rotation if improper else rotation
    d = random_rotation(rng) if improper else np.linalg.qr(rng.normal(size=(3, 3)))[0]
    four = random_components(3, rng)
    both = np.kron(u, d)
    expected = both @ to_spinor(four) @ both.conj().T
    assert np.abs(to_spinor(turned(four, d, rotation)) - expected).max() < 1e-13


def test_blocks_of_canonical_pairs_hold_everything(rng):
    layout = molecule_layout(np.array([0, 2, 5, 6]))
    four = random_components(6, rng)
    blocks = from_dense(four, layout)
    assert blocks.is_spinor
    assert np.array_equal(to_dense(blocks), four)
    assert not HamiltonianBlocks(layout, blocks.entries[:2]).is_spinor


def test_laws_of_molecules(model):
    check_all(model, molecules())


def test_laws_of_crystals(crystal_model):
    check_all(crystal_model, [crystal()])


def test_a_prediction_is_symmetric_under_time_reversal(model):
    whole = to_spinor(predict_matrix(model, molecules()[0]))
    assert np.abs(time_reversed(whole) - whole).max() == 0


def test_orbitals_of_a_prediction(model):
    structure = molecules()[1]
    found = model.predict(structure)
    n = found.layout.n_orbitals
    assert found.hamiltonian.entries.shape == (4, found.layout.n_entries)
    assert found.coefficients.shape == (1, 2 * n, 2 * n)
    energies = found.orbital_energies[0]
    assert np.abs(energies[::2] - energies[1::2]).max() < 1e-9
    assert found.occupations.sum() == structure.n_electrons
    assert set(found.occupations.ravel()) == {0.0, 1.0}
    assert found.homo == energies[structure.n_electrons - 1]
    assert found.gap == energies[structure.n_electrons] - found.homo
    h, s = eigenproblem(found.hamiltonian, found.overlap)
    c = found.coefficients[0]
    assert np.abs(c.conj().T @ s @ c - np.eye(2 * n)).max() < 1e-10
    assert np.abs(h[0] @ c - s @ c * energies).max() < 1e-8 * np.abs(energies).max()


def test_charges_and_density_of_states_count_the_electrons(model):
    structure = molecules()[1]
    found = model.predict(structure)
    assert found.density_matrix.shape == (1, found.layout.n_orbitals, found.layout.n_orbitals)
    electrons = np.einsum("sij,ji->", found.density_matrix, to_dense(found.overlap))
    assert abs(electrons - structure.n_electrons) < 1e-9
    assert abs(found.charges.sum()) < 1e-9
    assert abs(found.loewdin_charges.sum()) < 1e-9
    low, high = found.orbital_energies.min() * 27.2 - 20, found.orbital_energies.max() * 27.3 + 20
    grid = np.arange(low, high, 0.25)
    _, density = found.density_of_states(grid, width_ev=1.0)
    assert abs(density.sum() * 0.25 - 2 * found.layout.n_orbitals) < 1e-6


def test_what_spinors_have_not_is_refused_in_one_way(model, tmp_path):
    found = model.predict(molecules()[0])
    asked = {
        "Molden": lambda: found.to_molden(tmp_path / "a.molden"),
        "cube": lambda: found.to_cube(tmp_path / "a.cube", "homo"),
        "bond orders": lambda: found.bond_orders,
        "total energies": found.total_energy,
    }
    for what, ask in asked.items():
        with pytest.raises(HamnetError, match=f"spinors have no {what}"):
            ask()
    found.to_npz(tmp_path / "a.npz", "pyscf")
    with np.load(tmp_path / "a.npz") as file:
        h = to_spinor(file["hamiltonian_hartree"])
        c, s = file["coefficients"][0], doubled(file["overlap"])
        assert np.abs(c.conj().T @ s @ c - np.eye(len(s))).max() < 1e-10
        energies = np.einsum("pi,pq,qi->i", c.conj(), h, c).real
        assert np.abs(energies - file["orbital_energies_hartree"][0]).max() < 1e-8


def test_derivative_of_orbital_energies_by_the_matrix(model, rng):
    """What uncertainties are made of: the mean of a Kramers pair, to first order."""
    found = model.predict(molecules()[1])
    step = 1e-5
    four = to_dense(from_dense(random_components(found.layout.n_orbitals, rng), found.layout))
    change = from_dense(four, found.layout).entries

    def homo(sign: float) -> float:
        h = HamiltonianBlocks(found.layout, found.hamiltonian.entries + sign * step * change)
        matrix, metric = eigenproblem(h, found.overlap)
        energies = solve(torch.from_numpy(matrix[0]), torch.from_numpy(metric)).energies
        return float(energies[int(found.occupations.sum()) - 1])

    expected = (homo(1) - homo(-1)) / (2 * step)
    assert (
        abs(_projector(found, 0, floor=0.0) @ change.ravel() - expected)
        < 1e-5 * abs(expected) + 1e-6
    )


def test_bands_of_a_crystal(crystal_model):
    """Sparse and dense H(k) agree, are Hermitian; E(k) = E(-k); pairs where 2 k is whole."""
    structure = crystal()
    h = predict_blocks(crystal_model, structure)
    s = HamiltonianBlocks(h.layout, np.zeros(h.layout.n_entries))
    on_site = np.flatnonzero(h.layout.on_site)
    for k in on_site:
        s.block(int(k))[...] = np.eye(int(h.layout.shapes[k, 0]))
    k = np.array([0.13, 0.27, -0.41])
    dense = to_spinor(to_k(h, k))
    sparse, metric = bloch_problem(channel(h, 0), s, k)
    assert np.abs(sparse.toarray() - dense).max() < 1e-12 * np.abs(dense).max()
    assert np.abs(metric.toarray() - np.eye(len(dense))).max() < 1e-15
    assert np.abs(dense - dense.conj().T).max() < 1e-12
    there, back, edge = band_energies(h, s, np.array([k, -k, [0.5, 0.0, 0.5]]))[0]
    assert there.shape == (2 * h.layout.n_orbitals,)
    assert np.abs(there - back).max() < 1e-9
    assert np.abs(edge[::2] - edge[1::2]).max() < 1e-9
    assert np.abs(there[::2] - there[1::2]).max() > 1e-3  # no inversion: bands are split
