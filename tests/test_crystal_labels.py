"""Labels of crystals: H(R) and S(R) give PySCF's own bands, also between the points of the mesh."""

from dataclasses import replace

import numpy as np
import pytest

from hamnet.bands import band_energies, k_mesh, mesh_points
from hamnet.blocks import HamiltonianBlocks, energy_zero, to_k
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.errors import HamnetError
from hamnet.lattice import crystal_basis, pair_overlaps, to_cell, valence_charges
from hamnet.structure import Structure
from hamnet_datasets.labels import LabelError, Task, resolve, run_task
from hamnet_datasets.periodic import (
    check_mesh,
    crystal_record,
    exact_overlap,
    mean_field,
    nearest_images,
)
from hamnet_datasets.plane_waves import GridOrbitals

LEVEL = resolve(
    LevelOfTheory(
        xc="pbe",
        basis="gth-szv-molopt-sr",
        pseudo="gth-pbe",
        k_length=11.0,
        conv_tol=1e-10,
        conv_tol_grad=1e-6,
    )
)
HELIUM = Structure(
    np.array([2, 2]),
    np.array([[0.1, 0.0, 0.2], [1.2, 1.4, 1.5]]),
    np.array([[2.6, 0.1, 0.0], [0.0, 2.7, 0.0], [0.3, 0.0, 2.8]]),
    np.ones(3),
)


@pytest.fixture(scope="module")
def record() -> Record:
    return crystal_record(HELIUM, LEVEL)[0]


def test_bands_between_the_points_of_the_mesh_are_pyscfs_own(record):
    mesh = k_mesh(HELIUM, LEVEL.k_length)
    cell = to_cell(HELIUM, LEVEL)
    mf = mean_field(cell, cell.get_abs_kpts(mesh_points(mesh)), 0, LEVEL)
    mf.kernel()
    k = np.array([[0.0, 0.0, 0.0], [0.1, 0.05, 0.3], [0.5, 0.11, 0.21]])
    expected = np.array(mf.get_bands(cell.get_abs_kpts(k))[0])
    s = record.blocks("overlap")
    found = band_energies(record.blocks("hamiltonian"), s, k)[0] + record.energy_zero
    assert np.abs(found - expected).max() < 3e-6
    assert abs(record.energy - mf.e_tot) < 1e-8


@pytest.mark.parametrize("spin", [0, 2])
def test_kept_orbitals_give_the_fock_matrix_of_pyscfs_multigrid(spin, monkeypatch):
    """Density, Coulomb, exchange-correlation and pseudopotential, both spins, +k and -k."""
    mesh, level = (3, 1, 2), LEVEL.model_copy(update={"smearing": 0.01})
    cell = to_cell(HELIUM, level)
    k = cell.get_abs_kpts(mesh_points(mesh))

    def fock():
        mf = mean_field(cell, k, spin, level)
        dm = mf.get_init_guess(key="minao")
        dm = dm if spin == 0 else dm * np.array([1.4, 0.6])[:, None, None, None]
        potential = mf.get_veff(cell, dm)
        return mf, mf.get_hcore() + potential, potential.ecoul, potential.exc

    kept, one, *energies = fock()
    assert isinstance(kept._numint, GridOrbitals)
    monkeypatch.setattr("hamnet_datasets.plane_waves.MAX_BYTES", 0)
    pyscfs, two, *expected = fock()
    assert not isinstance(pyscfs._numint, GridOrbitals)
    assert np.abs(one - two).max() < 2e-8
    assert np.abs(np.subtract(energies, expected)).max() < 1e-7


def test_overlap_is_that_of_the_atoms_themselves(record):
    basis = crystal_basis([2], LEVEL.basis, LEVEL.pseudo)
    exact = exact_overlap(HELIUM, basis, LEVEL.pseudo)
    for k in ([0.0, 0.0, 0.0], [0.13, 0.27, 0.41]):
        stored = to_k(record.blocks("overlap"), np.array(k))
        assert np.abs(stored - to_k(exact, np.array(k))).max() < 1e-6
        assert np.linalg.eigvalsh(stored)[0] > 0.1


def test_the_energy_zero_is_where_h_and_s_are_orthogonal(record):
    h, s = record.blocks("hamiltonian"), record.blocks("overlap")
    assert abs(energy_zero(h, s)) < 1e-7
    shifted = HamiltonianBlocks(h.layout, h.entries + 0.3 * s.entries)
    assert abs(energy_zero(shifted, s) - energy_zero(h, s) - 0.3) < 1e-12


def test_wrapped_and_unwrapped_atoms_have_the_same_label(record):
    moved = replace(
        HELIUM, positions=HELIUM.positions + np.array([[1, 0, -2], [0, 1, 0]]) @ HELIUM.cell
    )
    other = crystal_record(moved, LEVEL)[0]
    assert other.id != record.id
    k = np.array([[0.13, 0.27, 0.41]])
    one, two = (
        band_energies(r.blocks("hamiltonian"), r.blocks("overlap"), k) for r in (record, other)
    )
    assert np.abs(one - two).max() < 1e-8
    # each atom's orbitals keep their own place: blocks between them move to other cells
    assert record.layout.n_entries == other.layout.n_entries


def test_images_at_equal_distance_share_a_block():
    chain = Structure(
        np.array([2]), np.zeros((1, 3)), np.diag([0, 0, 2.0]), np.array([False, False, True])
    )
    pairs, weights = nearest_images(chain, (1, 1, 4))
    shared = {int(r): w for (_, _, r, _, _), w in zip(pairs, weights, strict=True)}
    assert shared == {0: 1.0, 1: 1.0, -1: 1.0, 2: 0.5, -2: 0.5}


def test_overlaps_of_p_shells_are_pyscfs(rng):
    """Orders and signs of p shells, and cells of mixed periodicity."""
    cell = np.array([[2.46, 0, 0], [-1.23, 2.1304, 0], [0, 0, 0]])
    layer = Structure(
        np.array([5, 7]),
        np.array([[0, 0, 0], [0, 1.42, 0.0]]) + 0.05 * rng.normal(size=(2, 3)),
        cell,
        np.array([True, True, False]),
    )
    basis = crystal_basis([5, 7], LEVEL.basis, LEVEL.pseudo)
    exact = exact_overlap(layer, basis, LEVEL.pseudo)
    k = np.array([0.1, 0.3, 0.0])
    pyscf_cell = to_cell(layer, LEVEL)
    expected = pyscf_cell.pbc_intor("int1e_ovlp", kpts=pyscf_cell.get_abs_kpts(k))
    order = [0, 2, 3, 1, 4, 6, 7, 5]  # x, y, z -> y, z, x
    assert np.abs(to_k(exact, k) - expected[np.ix_(order, order)]).max() < 1e-7


def test_overlap_of_a_part_of_the_pairs(rng):
    basis = crystal_basis([2], LEVEL.basis, LEVEL.pseudo)
    exact = exact_overlap(HELIUM, basis, LEVEL.pseudo)
    some = rng.permutation(len(exact.layout.atom_pairs))[:20]
    layout = replace(exact.layout, atom_pairs=exact.layout.atom_pairs[some])
    few = pair_overlaps(HELIUM, basis, layout, LEVEL.pseudo)
    assert all(np.array_equal(few.block(n), exact.block(int(k))) for n, k in enumerate(some))


def test_a_mesh_that_is_too_small_is_refused_with_the_one_that_would_do():
    level = LEVEL.model_copy(update={"k_length": 5.0})
    basis = crystal_basis([2], LEVEL.basis, LEVEL.pseudo)
    with pytest.raises(HamnetError, match=r"2 x 2 x 2 mesh is too small.*would do \(k_length"):
        check_mesh(HELIUM, level, basis)


def test_electrons_are_those_of_the_valence():
    numbers = np.array([14, 6, 1, 1])
    structure = Structure(numbers, np.arange(12.0).reshape(4, 3), 20 * np.eye(3), np.ones(3))
    assert valence_charges(structure, LEVEL.basis, LEVEL.pseudo) == 4 + 4 + 2


def test_the_level_of_a_crystal_is_another_than_that_of_a_molecule():
    molecule = LevelOfTheory(xc="pbe", basis="gth-szv-molopt-sr")
    assert "ke_cutoff" not in molecule.physics()
    assert "grid_level" not in LEVEL.physics()
    finer = LEVEL.model_copy(update={"ke_cutoff": 200.0})
    assert record_id(HELIUM, finer) != record_id(HELIUM, LEVEL)


@pytest.mark.parametrize(
    ("changes", "update", "message"),
    [
        ({"cell": np.zeros((3, 3))}, {}, "periodic along lattice vector a"),
        ({"cell": np.diag([3.0, -3.0, 3.0])}, {}, "left-handed"),
        ({"pbc": np.zeros(3)}, {}, "is a molecule"),
        ({"numbers": np.array([2, 92])}, {}, "does not hold the element U"),
        ({"numbers": np.array([2, 1])}, {}, "does not fit spin 0"),
        ({"charge": 1}, {}, "cannot have the charge 1"),
        ({}, {"pseudo": "gth-bpe"}, "unknown pseudopotential 'gth-bpe'.*did you mean"),
        ({}, {"k_length": 5.0}, "mesh is too small"),
        ({"positions": np.array([[0, 0, 0], [0, 0, 2.7]])}, {}, "apart"),
    ],
    ids=str,
)
def test_bad_crystals_fail_by_themselves(changes, update, message):
    level = LEVEL.model_copy(update=update)
    outcome = run_task(Task(replace(HELIUM, **changes), "x"), level, ())
    assert not isinstance(outcome, tuple)
    assert outcome.stage == "input"
    with pytest.raises(LabelError, match=message):
        raise LabelError(outcome.stage, outcome.reason)


def test_an_open_shell_has_two_hamiltonians():
    lattice = Structure(np.array([1]), np.zeros((1, 3)), 4 * np.eye(3), np.ones(3), spin=1)
    level = LEVEL.model_copy(update={"k_length": 16.0, "conv_tol": 1e-7, "conv_tol_grad": 1e-3})
    record, _ = crystal_record(lattice, level)
    assert len(record.hamiltonian) == 2
    alpha, beta = band_energies(
        record.blocks("hamiltonian"), record.blocks("overlap"), np.zeros((1, 3))
    )
    assert alpha[0, 0] < beta[0, 0] - 0.05
