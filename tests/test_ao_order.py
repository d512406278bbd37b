"""The orbital order against PySCF: H of a rotated molecule is the rotated H of the molecule.

Hartree-Fock, because no quadrature grid breaks its symmetry. `rotate_orbitals` finds the rotation
of the harmonics from their values at random points: independent of the edge frame's matrices.
"""

import numpy as np
import pytest
import torch
from pyscf import gto, scf
from scipy.spatial.transform import Rotation

from hamnet.blocks import from_dense, molecule_layout, to_dense
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for, overlap
from hamnet.interop.pyscf import basis_of, from_pyscf_matrix, structure_of, to_mole, to_pyscf_matrix
from hamnet.so3.rotation import real_harmonics
from hamnet.structure import Structure
from hamnet.testing import rotate_orbitals

MOLECULE = Structure(
    np.array([8, 9, 1]), np.array([[0.0, 0.1, 0.0], [0.3, 1.4, -0.1], [-0.2, -0.3, 0.9]])
)
ROTATION = Rotation.from_euler("zyx", [0.7, -1.1, 2.3]).as_matrix()


def harmonics(l: int, points: np.ndarray) -> np.ndarray:
    """Real harmonics m = -l..l at unit vectors ``[P, 3]``."""
    return real_harmonics([l], torch.as_tensor(points)).numpy()


@pytest.mark.parametrize(
    ("basis", "l_max"), [("def2-svp", 2), ("def2-tzvp", 3), ("cc-pvtz", 3)], ids=str
)
def test_the_fock_matrix_rotates_with_the_molecule(basis, l_max):
    """Proper and improper; the SCF of the rotated molecule starts from the rotated density."""
    mole = to_mole(MOLECULE, basis)
    mf = scf.RHF(mole)
    mf.conv_tol, mf.conv_tol_grad = 1e-11, 1e-7
    mf.kernel()
    assert mf.converged
    orbitals = basis_of(mole, basis)
    assert orbitals.l_max == l_max
    density, fock = mf.make_rdm1(), mf.get_fock()
    h = to_dense(from_pyscf_matrix(fock, mole))
    for rotation in (ROTATION, -ROTATION):
        turned = Structure(MOLECULE.numbers, MOLECULE.positions @ rotation.T + [1.0, -2.0, 0.5])
        d = rotate_orbitals(orbitals, MOLECULE.numbers, rotation)
        np.testing.assert_allclose(d @ d.T, np.eye(len(d)), atol=1e-12)
        other = to_mole(turned, basis)
        ordered = d @ to_dense(from_pyscf_matrix(density, mole)) @ d.T
        layout = molecule_layout(orbitals.atom_offsets(turned.numbers))
        start = to_pyscf_matrix(from_dense(ordered, layout), orbitals, turned)
        again = scf.RHF(other)
        rotated = to_dense(from_pyscf_matrix(again.get_fock(dm=start), other))
        np.testing.assert_allclose(rotated, d @ h @ d.T, atol=1e-10)
        assert again.energy_tot(start) == pytest.approx(mf.e_tot, abs=1e-9)


def test_g_functions_rotate_too():
    orbitals = basis_for(MOLECULE, "cc-pvqz")
    assert orbitals.l_max == 4
    d = rotate_orbitals(orbitals, MOLECULE.numbers, -ROTATION)
    turned = Structure(MOLECULE.numbers, -MOLECULE.positions @ ROTATION.T)
    s, rotated = (to_dense(overlap(x, orbitals)) for x in (MOLECULE, turned))
    np.testing.assert_allclose(rotated, d @ s @ d.T, atol=1e-12)


def test_contracted_shells_count_contraction_by_contraction():
    mole = to_mole(MOLECULE, "cc-pvdz")
    assert max(mole.bas_nctr(i) for i in range(mole.nbas)) > 1
    orbitals = basis_of(mole, "cc-pvdz")
    assert orbitals.shells[8] == (0, 0, 0, 1, 1, 2)
    assert orbitals.atom_offsets(MOLECULE.numbers)[-1] == mole.nao


@pytest.mark.parametrize("bond", [[0.3, 1.0, -0.6], [0.0, 0.0, 1.0], [-1.0, 0.2, 0.1]])
def test_the_overlap_of_s_with_a_shell_points_along_the_bond(bond):
    pair = Structure(np.array([1, 26]), np.array([[0.0, 0.0, 0.0], bond]), spin=1)
    orbitals = basis_for(pair, "def2-tzvp")
    s = to_dense(overlap(pair, orbitals))
    column = orbitals.n_orbitals(1)
    for l in orbitals.of(26):
        values = s[0, column : column + 2 * l + 1]
        column += 2 * l + 1
        expected = harmonics(l, np.array([bond]))[0]
        cosine = values @ expected / np.linalg.norm(values) / np.linalg.norm(expected)
        assert abs(cosine) == pytest.approx(1.0, abs=1e-10)


def test_pyscf_and_back_is_the_identity(rng):
    mole = to_mole(MOLECULE, "def2-tzvp")
    matrix = rng.standard_normal((mole.nao, mole.nao))
    matrix += matrix.T
    blocks = from_pyscf_matrix(matrix, mole)
    back = to_pyscf_matrix(blocks, basis_of(mole), structure_of(mole))
    np.testing.assert_array_equal(back, matrix)
    np.testing.assert_allclose(structure_of(mole).positions, MOLECULE.positions, atol=1e-14)


def test_cartesian_functions_and_ghost_atoms_are_refused():
    with pytest.raises(HamnetError, match="cart=False"):
        basis_of(gto.M(atom="He 0 0 0", basis="def2-svp", cart=True, verbose=0))
    ghost = gto.M(atom="He 0 0 0; ghost-H 0 0 1", basis="sto-3g", verbose=0)
    with pytest.raises(HamnetError, match=r"atom 1 .* is a ghost atom"):
        basis_of(ghost)


def test_two_bases_on_one_element_are_refused():
    mixed = gto.M(atom="H1 0 0 0; H2 0 0 0.8", basis={"H1": "sto-3g", "H2": "def2-svp"}, verbose=0)
    with pytest.raises(HamnetError, match="another basis than other atoms of its element"):
        basis_of(mixed)
