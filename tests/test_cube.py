"""Cube files hold the predicted orbitals and densities: read back by PySCF and by ASE."""

import numpy as np
import pytest
from ase.io.cube import read_cube
from pyscf import dft, gto
from pyscf.tools.cubegen import Cube

from hamnet.data.level import LevelOfTheory
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for, overlap, valence_electrons
from hamnet.interop.cube import check_cube, orbital_place
from hamnet.interop.pyscf import to_mole
from hamnet.models.model import orbitals
from hamnet.references import reference_hamiltonian
from hamnet.structure import Structure
from hamnet.units import BOHR_TO_ANGSTROM

H2 = Structure([1, 1], [[0.1, 0.2, 0.3], [0.1, 0.5, 0.9]])
OH = Structure([8, 1], [[0.0, 0.0, 0.0], [0.0, 0.2, 0.95]], spin=1)


def predict(structure, basis="def2-svp"):
    """The answer of a model whose H is the Fock matrix of PySCF's guess density."""
    here, level = basis_for(structure, basis), LevelOfTheory(xc="pbe", basis=basis, grid_level=0)
    h = reference_hamiltonian(structure, level, "minao")
    n_electrons = valence_electrons(structure, here)
    return orbitals(structure, here, h.entries, overlap(structure, here), n_electrons)


@pytest.fixture(scope="module")
def h2():
    return predict(H2)


@pytest.fixture(scope="module")
def radical():
    return predict(OH)


def read_by_pyscf(path):
    """Values, points (bohr) and the volume of a point."""
    reader = Cube(gto.M(atom="H", spin=1, verbose=0))
    values = reader.read(str(path))
    step = np.diag(reader.box) / values.shape
    axes = [reader.boxorig[k] + step[k] * np.arange(values.shape[k]) for k in range(3)]
    return values, np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), step.prod(), reader.mol


@pytest.mark.parametrize("spacing", [0.2, 0.1])
def test_density_integrates_to_the_electrons(h2, tmp_path, spacing):
    """Within the error of the grid, which the finer one has a smaller one of."""
    path = tmp_path / "density.cube"
    h2.to_cube(path, "density", spacing=spacing, margin=4.0)
    values, _, volume, mole = read_by_pyscf(path)
    assert abs(values.sum() * volume - 2) < {0.2: 2e-3, 0.1: 5e-4}[spacing]
    assert np.abs(mole.atom_coords() * BOHR_TO_ANGSTROM - H2.positions).max() < 1e-6
    with path.open() as file:
        found = read_cube(file)
    step = np.diag(found["atoms"].cell) / found["data"].shape
    assert np.abs(found["data"] - values).max() == 0
    assert (step <= spacing + 1e-6).all()  # six digits
    assert np.abs(found["atoms"].positions - H2.positions).max() < 1e-6


@pytest.mark.parametrize("what", ["homo", "lumo", "lumo+1", "3"])
def test_orbitals_in_space_are_pyscfs(h2, tmp_path, what):
    path = tmp_path / "orbital.cube"
    h2.to_cube(path, what, spacing=0.25)
    values, points, volume, _ = read_by_pyscf(path)
    channel, index = orbital_place(h2, what)
    mole = to_mole(H2, "def2-svp")
    s = mole.intor_symmetric("int1e_ovlp")
    _, c = dft.RKS(mole).eig(h2.matrix("hamiltonian", "pyscf")[0], s)
    expected = mole.eval_gto("GTOval", points.reshape(-1, 3)) @ c[:, index]
    sign = np.sign(expected @ values.ravel())
    assert channel == 0
    assert np.abs(values.ravel() - sign * expected).max() < 1e-5  # six digits of the points
    assert abs((values**2).sum() * volume - 1) < 0.02


def test_density_of_an_open_shell_has_all_electrons(tmp_path):
    """Triplet hydrogen: two electrons of one spin, none of the other."""
    triplet = predict(Structure(H2.numbers, H2.positions, spin=2))
    triplet.to_cube(tmp_path / "d.cube", "density", spacing=0.2, margin=6.0)
    values, _, volume, _ = read_by_pyscf(tmp_path / "d.cube")
    assert triplet.occupations.sum(axis=1).tolist() == [2, 0]
    assert abs(values.sum() * volume - 2) < 2e-3


def test_names_of_orbitals(h2, radical):
    places = [orbital_place(h2, what) for what in ("homo", "lumo", "lumo+2", "5")]
    assert places == [(0, 0), (0, 1), (0, 3), (0, 5)]
    assert orbital_place(radical, "homo") == (0, 4)  # alpha holds five electrons, beta four
    assert orbital_place(radical, "homo-1") == (0, 3)
    assert orbital_place(radical, "lumo") == (1, 4)
    for what in ("homo-1", "lumo+9", "10"):
        with pytest.raises(HamnetError, match=r"H2 has no orbital .* of which 1 are occupied"):
            orbital_place(h2, what)


@pytest.mark.parametrize(("what", "meant"), [("hmo", "homo"), ("lumo-1", "lumo+1"), ("-1", "")])
def test_names_that_mean_nothing(what, meant):
    with pytest.raises(HamnetError, match="unknown contents of a cube file") as error:
        check_cube(what)
    assert meant in str(error.value)


def test_a_grid_too_large_is_refused_and_leaves_no_file(h2, tmp_path):
    with pytest.raises(HamnetError, match="take a larger spacing"):
        h2.to_cube(tmp_path / "d.cube", "density", spacing=0.01)
    assert not list(tmp_path.iterdir())
