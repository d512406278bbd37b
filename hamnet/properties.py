"""What follows from a density matrix: charges, bond orders, the dipole, the density of states.

Density matrices are ``[n_spin, n, n]``: one channel that counts both spins, or alpha and beta.
Charges and bond orders hold in any orbital order in which the orbitals of an atom are neighbours.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamnet.basis import OrbitalBasis
from hamnet.integrals import dipole_integrals, nuclear_charges
from hamnet.structure import FloatArray, IntArray, Structure
from hamnet.units import AU_TO_DEBYE, BOHR_TO_ANGSTROM


def density_matrix(coefficients: NDArray[Any], occupations: FloatArray) -> NDArray[Any]:
    """Return ``P = C n C^dagger`` of each spin channel, ``[n_spin, n, n]``.

    Args:
        coefficients: orbitals as columns, ``[n_spin, n, n_mo]``.
        occupations: electrons per orbital, ``[n_spin, n_mo]``.
    """
    bras = coefficients.conj().transpose(0, 2, 1)
    return np.asarray((coefficients * occupations[:, None]) @ bras)


def mulliken_charges(
    density: FloatArray, overlap: FloatArray, atom_offsets: IntArray, nuclei: FloatArray
) -> FloatArray:
    """Return Mulliken's charges ``q_A = Z_A - sum_{i in A} (P S)_ii``, e, ``[N]``.

    Args:
        density: density matrix, ``[n_spin, n, n]``.
        overlap: S, ``[n, n]``.
        atom_offsets: first orbital of each atom and, last, their number, ``[N + 1]``.
        nuclei: nuclear charges without those that core potentials screen, ``[N]``.
    """
    populations = np.einsum("sij,ji->i", density, overlap)
    return np.asarray(nuclei - np.add.reduceat(populations, atom_offsets[:-1]))


def loewdin_charges(
    density: FloatArray, overlap: FloatArray, atom_offsets: IntArray, nuclei: FloatArray
) -> FloatArray:
    """Return Loewdin's charges ``q_A = Z_A - sum_{i in A} (S^1/2 P S^1/2)_ii``, e, ``[N]``.

    The arguments are those of `mulliken_charges`.
    """
    root = _square_root(overlap)
    populations = np.einsum("ij,sjk,ki->i", root, density, root, optimize=True)
    return np.asarray(nuclei - np.add.reduceat(populations, atom_offsets[:-1]))


def mayer_bond_orders(
    density: FloatArray, overlap: FloatArray, atom_offsets: IntArray
) -> FloatArray:
    """Return Mayer's bond orders, symmetric with a zero diagonal, ``[N, N]``.

    ``B_AB = 2 sum_s sum_{i in A, j in B} (P^s S)_ij (P^s S)_ji`` with the density of one spin
    (Mayer, doi:10.1016/0009-2614(83)80005-0).

    Args:
        density: density matrix, ``[n_spin, n, n]``.
        overlap: S, ``[n, n]``.
        atom_offsets: first orbital of each atom and, last, their number, ``[N + 1]``.
    """
    return _bond_orders(density @ overlap, atom_offsets)


def wiberg_bond_orders(
    density: FloatArray, overlap: FloatArray, atom_offsets: IntArray
) -> FloatArray:
    """Return Wiberg's bond orders in Loewdin's basis, ``[N, N]``.

    As `mayer_bond_orders` with ``S^1/2 P S^1/2`` in place of ``P S``; never negative
    (Wiberg, doi:10.1016/0040-4020(68)88057-3).
    """
    root = _square_root(overlap)
    return _bond_orders(root @ density @ root, atom_offsets)


def dipole_moment(density: FloatArray, structure: Structure, basis: OrbitalBasis) -> FloatArray:
    """Return the dipole moment about the origin of the positions, Debye, ``[3]``.

    It depends on the origin where the molecule is charged.

    Args:
        density: density matrix in hamnet's order, ``[n_spin, n, n]``.
        structure: the molecule.
        basis: its basis.

    Raises:
        HamnetError: see `hamnet.integrals.to_mole`.
    """
    electrons = np.einsum("xij,sji->x", dipole_integrals(structure, basis), density)
    nuclei = nuclear_charges(structure, basis) @ structure.positions / BOHR_TO_ANGSTROM
    return np.asarray(AU_TO_DEBYE * (nuclei - electrons))


def density_of_states(
    orbital_energies: FloatArray,
    energies: FloatArray,
    width: float,
    per_orbital: int | None = None,
) -> FloatArray:
    """Return the density of states with a Gaussian on every orbital, per unit of energy.

    Its integral counts the electrons that orbitals can hold.

    Args:
        orbital_energies: ``[n_spin, n_mo]``, in any unit.
        energies: where to evaluate, ``[n]``, the same unit.
        width: standard deviation of the Gaussians, the same unit.
        per_orbital: electrons of an orbital; by default two of a closed shell (one channel), one
            of two channels.
    """
    weight = 2.0 / len(orbital_energies) if per_orbital is None else float(per_orbital)
    distance = (energies[:, None] - orbital_energies.ravel()) / width  # (n, n_spin * n_mo)
    return np.asarray(
        weight * np.exp(-(distance**2) / 2).sum(axis=1) / (width * np.sqrt(2 * np.pi))
    )


def _bond_orders(population: FloatArray, atom_offsets: IntArray) -> FloatArray:
    """Sum ``n_spin X_ij X_ji`` over the orbitals of both atoms; X is ``[n_spin, n, n]``.

    One channel holds both spins: ``2 * 2 (X/2)_ij (X/2)_ji``.
    """
    products = len(population) * (population * population.transpose(0, 2, 1)).sum(axis=0)
    first = atom_offsets[:-1]
    orders = np.add.reduceat(np.add.reduceat(products, first, axis=0), first, axis=1)
    np.fill_diagonal(orders, 0.0)
    return np.asarray(orders)


def _square_root(overlap: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(overlap)
    root = np.sqrt(np.clip(values, 0.0, None))  # rounding makes a tiny eigenvalue negative
    return np.asarray((vectors * root) @ vectors.T)
