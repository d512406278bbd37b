"""What follows from a predicted matrix: against PySCF on the same H and S, and by sum rules."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
from pyscf import lo
from pyscf.scf import hf, uhf

from hamnet.errors import HamnetError
from hamnet.integrals import basis_for, overlap, to_blocks, valence_electrons
from hamnet.interop.pyscf import to_mole
from hamnet.models.guards import orbital_warnings
from hamnet.models.model import orbitals
from hamnet.prediction import Prediction
from hamnet.structure import Structure
from hamnet.testing import random_rotation
from hamnet.units import HARTREE_TO_EV


def core_prediction(structure: Structure, basis: str) -> Prediction:
    """The answer of a model whose H is the core Hamiltonian."""
    here = basis_for(structure, basis)
    h = to_blocks(hf.get_hcore(to_mole(structure, basis)), here, structure)
    n_electrons = valence_electrons(structure, here)
    return orbitals(structure, here, h.entries, overlap(structure, here), n_electrons)


WATER = Structure([8, 1, 1], [[0.1, 0.2, 0.3], [0.86, 0.79, 0.3], [-0.66, 0.79, 0.2]])
CASES = {
    "water": (WATER, "def2-svp"),
    "f shells": (Structure([9, 1], [[0.1, 0.0, 0.0], [0.0, 0.5, 0.8]]), "cc-pvtz"),
    "core potential": (Structure([53, 1], [[0.0, 0.0, 0.0], [0.0, 1.0, 1.2]]), "def2-svp"),
    "ion": (Structure([8, 1], [[0.0, 0.0, 0.1], [0.0, 0.2, 1.0]], charge=-1), "def2-svp"),
    "open shell": (Structure([8, 1], [[0.0, 0.0, 0.1], [0.0, 0.2, 1.0]], spin=1), "def2-svp"),
}


@pytest.fixture(params=list(CASES))
def prediction(request):
    return core_prediction(*CASES[request.param])


def pyscf_density(prediction):
    density = prediction.matrix("density", "pyscf")
    return density[0] if len(density) == 1 else density


def test_density_holds_the_electrons_and_is_idempotent(prediction):
    s = prediction.matrix("overlap")
    electrons = np.einsum("sij,ji->", prediction.density_matrix, s)
    assert np.isclose(electrons, prediction.occupations.sum(), atol=1e-10)
    full = prediction.occupations.max()
    for p in prediction.density_matrix:
        assert np.abs(p @ s @ p - full * p).max() < 1e-9


def test_mulliken_charges_are_those_of_pyscf(prediction):
    mole = to_mole(prediction.structure, prediction.basis.name)
    population = hf if len(prediction.density_matrix) == 1 else uhf
    s = mole.intor_symmetric("int1e_ovlp")
    _, charges = population.mulliken_pop(mole, pyscf_density(prediction), s, verbose=0)
    assert np.abs(prediction.charges - charges).max() < 1e-10


def test_loewdin_charges_are_those_of_pyscfs_orthogonal_orbitals(prediction):
    mole = to_mole(prediction.structure, prediction.basis.name)
    s = mole.intor_symmetric("int1e_ovlp")
    inverse = np.linalg.inv(lo.orth.lowdin(s))  # orthogonal orbitals = S^-1/2
    total = prediction.matrix("density", "pyscf").sum(axis=0)
    population = np.diag(inverse @ total @ inverse.T)
    by_atom = [population[start:stop].sum() for *_, start, stop in mole.aoslice_by_atom()]
    assert np.abs(prediction.loewdin_charges - (mole.atom_charges() - by_atom)).max() < 1e-10


def test_charges_sum_to_the_charge(prediction):
    for charges in (prediction.charges, prediction.loewdin_charges):
        assert np.isclose(charges.sum(), prediction.structure.charge, atol=1e-10)


def test_dipole_is_that_of_pyscf(prediction):
    mole = to_mole(prediction.structure, prediction.basis.name)
    expected = hf.dip_moment(mole, pyscf_density(prediction), unit="Debye", verbose=0)
    assert np.abs(prediction.dipole - expected).max() < 1e-10


def test_a_labels_own_matrix_gives_its_dipole_and_energy(
    water_records, water_basis, predict_from, level
):
    for record in water_records[:2]:
        found = replace(predict_from(record, water_basis, record.hamiltonian), level=level)
        assert np.abs(found.dipole - record.dipole).max() < 1e-5  # of the last cycle's density
        assert abs(found.total_energy() - record.energy) < 1e-9


def test_energy_error_is_positive_and_of_second_order(
    water_records, water_basis, predict_from, level, rng
):
    record = water_records[0]
    noise = rng.standard_normal(record.hamiltonian.shape)
    errors = []
    for scale in (1e-3, 1e-4):
        noisy = predict_from(record, water_basis, record.hamiltonian + scale * noise)
        errors.append(replace(noisy, level=level).total_energy() - record.energy)
    assert 1e-7 < errors[1] < errors[0]
    assert 60 < errors[0] / errors[1] < 150  # 100, and higher orders


def test_energy_of_an_open_shell(radical_record, predict_from, level):
    basis = basis_for(radical_record.structure, level.basis)
    found = predict_from(radical_record, basis, radical_record.hamiltonian)
    energy = replace(found, level=level).total_energy()
    assert abs(energy - radical_record.energy) < 1e-9


def test_energy_needs_a_level_of_theory(water_records, water_basis, predict_from):
    record = water_records[0]
    with pytest.raises(HamnetError, match="at which level of theory"):
        predict_from(record, water_basis, record.hamiltonian).total_energy()


def test_bond_orders_of_known_bonds():
    """Exact by symmetry: one bond in H2 and half a bond in H2+, in any basis."""
    ends = [[0.0, 0.0, 0.0], [0.0, 0.5, 0.6]]
    for charge, spin, expected in ((0, 0, 1.0), (1, 1, 0.5)):
        found = core_prediction(Structure([1, 1], ends, charge=charge, spin=spin), "def2-svp")
        assert np.isclose(found.wiberg_bond_orders[0, 1], expected, atol=1e-10)
        assert np.isclose(found.wiberg_bond_orders, found.wiberg_bond_orders.T).all()
    found = core_prediction(Structure([1, 1], ends), "sto-3g")
    assert np.isclose(found.bond_orders[0, 1], 1.0, atol=1e-10)


def test_bond_orders_sum_to_the_valence():
    """``sum_B B_AB = 2 Q_A - sum_{ij in A} (PS)_ij (PS)_ji`` for a closed shell (Mayer)."""
    found = core_prediction(*CASES["water"])
    ps = found.density_matrix[0] @ found.matrix("overlap")
    offsets = found.layout.atom_offsets
    for atom, (start, stop) in enumerate(pairwise(offsets)):
        own = ps[start:stop, start:stop]
        valence = 2 * np.trace(own) - np.einsum("ij,ji->", own, own)
        assert np.isclose(found.bond_orders[atom].sum(), valence, atol=1e-10)


def test_rotation_turns_the_dipole_and_changes_no_charge(rng):
    rotation = random_rotation(rng, improper=True)
    one = core_prediction(WATER, "def2-svp")
    two = core_prediction(Structure(WATER.numbers, WATER.positions @ rotation.T), "def2-svp")
    assert np.abs(two.dipole - rotation @ one.dipole).max() < 1e-9
    for name in ("charges", "loewdin_charges", "bond_orders", "wiberg_bond_orders"):
        assert np.abs(getattr(one, name) - getattr(two, name)).max() < 1e-9


def test_density_of_states_counts_electrons(prediction):
    levels = HARTREE_TO_EV * prediction.orbital_energies
    energies = np.arange(levels.min() - 5, levels.max() + 5, 0.1)
    _, density = prediction.density_of_states(energies, width_ev=0.3)
    assert np.isclose(density.sum() * 0.1, prediction.layout.n_orbitals * 2, atol=1e-6)
    middle = HARTREE_TO_EV * (prediction.homo + prediction.lumo) / 2
    _, sharp = prediction.density_of_states(energies, width_ev=0.2)
    if prediction.gap * HARTREE_TO_EV > 4:
        electrons = sharp[energies < middle].sum() * 0.1
        assert np.isclose(electrons, prediction.occupations.sum(), atol=1e-3)


def test_default_energies_of_a_density_of_states():
    found = core_prediction(WATER, "def2-svp")
    energies, density = found.density_of_states()
    homo, lumo = HARTREE_TO_EV * found.homo, HARTREE_TO_EV * found.lumo
    assert energies[0] == pytest.approx(homo - 25)
    assert energies[-1] == pytest.approx(lumo + 10, abs=0.06)
    assert density.shape == energies.shape


def test_matrices_in_the_order_of_pyscf(prediction):
    mole = to_mole(prediction.structure, prediction.basis.name)
    expected = mole.intor_symmetric("int1e_ovlp")
    assert np.abs(prediction.matrix("overlap", "pyscf") - expected).max() < 1e-12
    h = prediction.matrix("hamiltonian", "pyscf")
    assert np.abs(h - hf.get_hcore(mole)).max() < 1e-12
    with pytest.raises(HamnetError, match="did you mean 'density'"):
        prediction.matrix("densty")


def test_a_basis_that_is_nearly_dependent_is_cut_and_says_so():
    """Benzene in aug-cc-pVTZ: two directions of S below 1e-6, against a cut by hand."""
    ring = np.arange(6) * np.pi / 3
    circle = np.stack([np.cos(ring), np.sin(ring), 0 * ring], axis=1)
    benzene = Structure([6] * 6 + [1] * 6, np.concatenate([1.395 * circle, 2.482 * circle]))
    found = core_prediction(benzene, "aug-cc-pvtz")
    mole = to_mole(benzene, "aug-cc-pvtz")
    values, vectors = scipy.linalg.eigh(mole.intor_symmetric("int1e_ovlp"))
    x = (vectors / np.sqrt(values))[:, values > 1e-6]
    expected = scipy.linalg.eigvalsh(x.T @ hf.get_hcore(mole) @ x)
    assert found.n_dropped == len(values) - x.shape[1] == 2
    assert np.abs(found.orbital_energies[0] - expected).max() < 1e-7
    assert "2 linearly dependent direction(s)" in orbital_warnings(found)[0]
    assert np.isclose(found.charges.sum(), 0.0, atol=1e-8)
