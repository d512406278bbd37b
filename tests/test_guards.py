"""What a model was not trained for: refused, or forced and said; what is doubtful: warned of."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from pyscf import gto
from pyscf.pbc import gto as pbc_gto

import hamnet
from hamnet.data.level import LevelOfTheory
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for, overlap
from hamnet.interop.ase import from_atoms
from hamnet.interop.pyscf import to_mole
from hamnet.models.guards import FORCE, orbital_warnings
from hamnet.models.model import orbitals
from hamnet.references import reference_hamiltonian
from hamnet.structure import Structure
from hamnet.testing import random_model
from hamnet.training.config import load_config
from hamnet.training.run import train
from tests.synthetic import SMALL

WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])

ETHANE = [
    [0.0, 0.0, 0.765],
    [0.0, 0.0, -0.765],
    [0.0, 1.02, 1.16],
    [-0.883, -0.51, 1.16],
    [0.883, -0.51, 1.16],
    [0.0, -1.02, -1.16],
    [-0.883, 0.51, -1.16],
    [0.883, 0.51, -1.16],
]


def water(**changes):
    return Structure(**{"numbers": [8, 1, 1], "positions": WATER, **changes})


@pytest.fixture(scope="module")
def model():
    return random_model("def2-svp", (1, 8))


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A model of the sixteen waters, instantly."""
    out = tmp_path_factory.mktemp("guards") / "run"
    config = load_config(overrides=[*SMALL, "training.max_steps=0"])
    train(store, out, config, report=lambda _: None)
    return hamnet.load(out)


FORCED = {
    "charge": (water(charge=2), "charge is 2, but the model was trained for 0"),
    "spin": (water(spin=2), "spin is 2, but the model was trained for 0"),
    "periodic": (water(pbc=[True] * 3, cell=9 * np.eye(3)), "the structure is periodic"),
    "contact": (water(positions=WATER * 0.55), "closer than"),
}


@pytest.mark.parametrize("name", list(FORCED))
def test_forced_is_predicted_and_said(model, name):
    structure, message = FORCED[name]
    with pytest.raises(HamnetError, match=message) as caught:
        model.predict(structure)
    assert caught.value.__notes__ == [FORCE]
    assert "--force" not in str(caught.value)  # not every command has it
    found = model.predict(structure, force=True)
    (forced,) = (text for text in found.warnings if text.startswith("forced: "))
    assert message in forced
    assert "--force" not in forced
    n_electrons = found.structure.n_electrons
    assert found.occupations.sum() == n_electrons == 10 - structure.charge
    assert not found.structure.is_periodic


def test_periodicity_is_ignored_where_forced(model):
    found = model.predict(FORCED["periodic"][0], force=True)
    same = model.predict(water())
    assert np.array_equal(found.hamiltonian.entries, same.hamiltonian.entries)


def test_a_forced_open_shell_has_the_same_orbitals_for_both_spins(model):
    found = model.predict(water(charge=1), force=True)  # an odd number of electrons, no spin given
    assert found.structure.spin == 1
    assert found.occupations.sum(axis=1).tolist() == [5, 4]
    assert np.array_equal(found.orbital_energies[0], found.orbital_energies[1])
    assert np.array_equal(found.density_matrix.shape, (2, 24, 24))
    assert any("odd number of electrons (9)" in text for text in found.warnings)
    assert any("near-zero gap" in text for text in found.warnings)


def test_elements_and_their_pairs_cannot_be_forced(model):
    with pytest.raises(HamnetError, match="atom 0 is S, but the model was trained for H, O only"):
        model.predict(water(numbers=[16, 1, 1]), force=True)


def test_one_molecule_in_any_form(model):
    structure = water()
    expected = model.predict(structure)
    atoms = Atoms("OH2", WATER)
    mole = to_mole(structure, "def2-svp")
    for one in (atoms, mole):
        found = model.predict(one)
        assert np.allclose(found.hamiltonian.entries, expected.hamiltonian.entries, atol=1e-9)
    assert isinstance(model.predict([structure]), list)
    many = model.predict([structure, atoms, mole])
    assert [p.structure.formula for p in many] == ["H2O"] * 3
    with pytest.raises(HamnetError, match="expected a hamnet Structure, ASE Atoms or a PySCF Mole"):
        model.predict("water.xyz")


def test_a_pyscf_molecule_in_another_basis(model):
    mole = to_mole(water(), "cc-pvdz")
    mole.basis = "cc-pvdz"
    with pytest.raises(HamnetError, match=r"another basis.*'def2-svp'") as caught:
        model.predict(mole)
    assert caught.value.__notes__ == [FORCE]
    found = model.predict(mole, force=True)
    assert found.basis.name == "def2-svp"
    assert "forced: the molecule is built in another basis" in found.warnings[0]


def test_a_pyscf_cell_is_periodic_and_a_molecule_not_built_is_refused(model):
    atoms = list(zip("OHH", WATER.tolist(), strict=True))
    cell = pbc_gto.Cell(atom=atoms, a=9 * np.eye(3), basis="def2-svp", verbose=0)
    cell.precision = 1e-3
    with pytest.raises(HamnetError, match="not built"):
        model.predict(cell)
    with pytest.raises(HamnetError, match="not built"):
        model.predict(gto.Mole(atom=atoms, basis="def2-svp"))
    cell.build()
    with pytest.raises(HamnetError, match="periodic"):
        model.predict(cell)


def test_training_ranges_are_those_of_the_training_frames(trained, many_waters):
    ranges = trained.metadata.ranges
    assert set(ranges.distances) == {"H-H", "H-O"}
    assert ranges.neighbours == {"H": (2, 2), "O": (2, 2)}
    everything = [
        np.linalg.norm(r.structure.positions[a] - r.structure.positions[0])
        for r in many_waters
        for a in (1, 2)
    ]
    low, high = ranges.distances["H-O"]
    assert min(everything) <= low < high <= max(everything)


@pytest.mark.parametrize("scale", [0.8, 1.4])
def test_distances_outside_the_training_range(trained, scale):
    assert trained.predict(water()).warnings == ()
    stretched = WATER.copy()
    stretched[2] *= scale
    found = "; ".join(trained.predict(water(positions=stretched)).warnings)
    distance = np.linalg.norm(stretched[2])
    assert f"atoms 2 and 0 (H-O) are {distance:.2f} A apart, outside the training data" in found
    assert "atoms 1 and 0" not in found


def test_a_neighbourhood_outside_the_training_range(trained):
    hydroxide = Structure([8, 1], WATER[:2], charge=-1)
    warnings = trained.predict(hydroxide, force=True).warnings
    assert any("atom 0 (O) has 1 neighbours within 8 A" in text for text in warnings)
    assert any("atom 1 (H) has 1 neighbours within 8 A" in text for text in warnings)


def test_labelled_frames_are_warned_of_too(trained, many_waters):
    record = max(many_waters, key=lambda r: np.linalg.norm(r.structure.positions, axis=1).max())
    (one,) = trained.predict_labelled([record])
    assert one.warnings == trained.predict(record.structure).warnings
    assert one.level == trained.metadata.level


def test_true_orbitals_are_not_called_spurious(many_waters, water_basis, predict_from):
    for record in many_waters:
        found = predict_from(record, water_basis, record.hamiltonian)
        assert orbital_warnings(found) == ()


@pytest.mark.parametrize("name", ["LiF", "CO2", "CH4", "CCl4", "CH3SiH3", "H2"])
def test_nor_are_those_of_other_molecules(name):
    """Of the Fock matrix of PySCF's guess density; with bound, unbound and diffuse LUMOs."""
    structure = from_atoms(molecule(name))
    basis = basis_for(structure, "def2-svp")
    level = LevelOfTheory(xc="pbe", basis="def2-svp", grid_level=0)
    h = reference_hamiltonian(structure, level, "minao").entries
    found = orbitals(structure, basis, h, overlap(structure, basis), structure.n_electrons)
    assert orbital_warnings(found) == ()


def test_noise_in_nearly_dependent_directions_is_called_spurious(rng):
    """Noise of 3 mHa on a Fock matrix pulls a ghost below the LUMO; that of 10 uHa does not."""
    structure = Structure([6, 6] + [1] * 6, ETHANE)
    basis = basis_for(structure, "def2-tzvp")
    level = LevelOfTheory(xc="pbe", basis="def2-tzvp", grid_level=0)
    fock = reference_hamiltonian(structure, level, "minao").entries
    s = overlap(structure, basis)
    noise = rng.standard_normal(fock.shape)
    found = []
    for size in (1e-5, 3e-3):
        found.append(orbital_warnings(orbitals(structure, basis, fock + size * noise, s, 18)))
    assert found[0] == ()
    assert any("spurious low orbital" in text for text in found[1])
