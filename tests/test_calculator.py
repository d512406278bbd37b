"""A model as an ASE calculator: the same numbers in ASE's units, made when they are asked for."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.units import Debye, Hartree

import hamnet
from hamnet.errors import HamnetError
from hamnet.models import save_model
from hamnet.testing import random_model

WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])


@pytest.fixture(scope="module")
def model():
    return random_model("def2-svp", (1, 8))


@pytest.fixture
def atoms(model):
    return Atoms("OH2", WATER, calculator=hamnet.Calculator(model))


def test_numbers_are_those_of_the_prediction(model, atoms):
    found = model.predict(atoms)
    assert np.isclose(atoms.get_potential_energy(), found.total_energy() * Hartree, atol=1e-6)
    assert np.allclose(atoms.get_dipole_moment(), found.dipole * Debye, atol=1e-9)
    assert np.allclose(atoms.get_charges(), found.charges, atol=1e-9)
    calculator = atoms.calc
    assert np.allclose(calculator.get_eigenvalues(), found.orbital_energies[0] * Hartree, rtol=1e-7)
    assert calculator.get_occupation_numbers().sum() == 10
    homo, lumo = calculator.get_homo_lumo()
    assert lumo - homo == pytest.approx(found.gap * Hartree, rel=1e-7)
    assert homo <= calculator.get_fermi_level() <= lumo
    assert not calculator.get_spin_polarized()


def test_one_prediction_for_a_geometry_and_energy_only_if_asked_for(atoms, monkeypatch):
    calls, original = [], atoms.calc.model.predict

    def counted(systems, **options):
        calls.append(len(systems))
        return original(systems, **options)

    monkeypatch.setattr(atoms.calc.model, "predict", counted)
    atoms.get_dipole_moment()
    atoms.get_charges()
    assert "energy" not in atoms.calc.results
    atoms.get_potential_energy()
    assert len(calls) == 1
    first = atoms.get_dipole_moment()
    atoms.rotate(90, "z")
    assert np.allclose(atoms.get_dipole_moment(), [-first[1], first[0], first[2]], atol=1e-6)
    assert len(calls) == 2


def test_charge_and_spin_of_info_are_guarded(atoms, model):
    atoms.get_dipole_moment()
    atoms.info["charge"] = 2
    with pytest.raises(HamnetError, match="charge is 2"):
        atoms.get_dipole_moment()
    atoms.calc = hamnet.Calculator(model, force=True)
    assert atoms.calc.predict(atoms).occupations.sum() == 8


def test_there_are_no_forces(atoms):
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_forces()


def test_from_a_file_and_before_any_atoms(model, tmp_path):
    save_model(model, tmp_path / "model.safetensors")
    calculator = hamnet.Calculator(tmp_path)
    with pytest.raises(HamnetError, match="no atoms yet"):
        calculator.get_eigenvalues()
    assert calculator.predict(Atoms("OH2", WATER)).structure.formula == "H2O"
