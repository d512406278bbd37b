"""Potentials of atoms that were fitted to labels: what an operator can say of H - H0.

Nearly all of the error of a cheap H0 is the same for every atom of an element wherever it is. With
S the overlap and three sets of coefficients for each element

    V = sum_atoms sum_k c_k <i| exp(-a_k r^2) |j>              local, r from the atom
      + sum_atoms sum_{l, n <= n'} w_nn' sum_m S_i,nlm S_n'lm,j + h.c.     separable
      + sum_shells u_n (P_n S + S P_n)                          Hueckel's

The first two are the form of a pseudopotential (Kleinman and Bylander,
doi:10.1103/PhysRevLett.48.1425): sums over a third atom, which a network of pairs has to learn
atom by atom. The third (Wolfsberg and Helmholz, doi:10.1063/1.1700580; P_n picks the orbitals of a
shell) gives every shell an energy. Where S has a small eigenvalue so have all of them, as an
operator has: they make no orbitals that do not exist, as errors of single entries do
(`hamnet.correction`).

V is linear in the coefficients, and obeys the symmetries of H exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from hamnet.basis import OrbitalBasis
from hamnet.integrals import gaussian_potentials
from hamnet.structure import FloatArray, Structure, atomic_number, symbol

EXPONENTS = tuple(0.05 * 2.2**k for k in range(9))
"""Of the local potentials, bohr^-2; more of them or other ones fit no better."""


def shell_pairs(basis: OrbitalBasis, number: int) -> list[tuple[int, int]]:
    """Return the pairs ``n <= n'`` of an element's shells with the same angular momentum."""
    ls = basis.of(number)
    pairs = combinations_with_replacement(range(len(ls)), 2)
    return [(a, b) for a, b in pairs if ls[a] == ls[b]]


def n_coefficients(basis: OrbitalBasis, number: int) -> int:
    """Return the number of coefficients of an element: local, separable, Hueckel's."""
    return len(EXPONENTS) + len(shell_pairs(basis, number)) + len(basis.of(number))


@dataclass(frozen=True, eq=False)
class AtomicPotentials:
    """Potentials of the atoms of some elements.

    Attributes:
        coefficients: by atomic number, Hartree, ``[n_coefficients]``; see the module.
    """

    coefficients: Mapping[int, FloatArray]

    def matrix(self, structure: Structure, basis: OrbitalBasis, overlap: FloatArray) -> FloatArray:
        """Return V, ``[n_ao, n_ao]``; see `potential_matrices`."""
        columns = {z: c[:, None] for z, c in self.coefficients.items()}
        found: FloatArray = potential_matrices(columns, structure, basis, overlap)[0]
        return found

    def to_dict(self) -> dict[str, tuple[float, ...]]:
        """Return a JSON-ready dictionary; inverse of `from_dict`."""
        return {symbol(z): tuple(c.tolist()) for z, c in sorted(self.coefficients.items())}

    @staticmethod
    def from_dict(data: Mapping[str, tuple[float, ...]]) -> "AtomicPotentials":
        """Rebuild potentials from `to_dict`."""
        return AtomicPotentials({atomic_number(s): np.array(c) for s, c in data.items()})


def potential_matrices(
    coefficients: Mapping[int, FloatArray],
    structure: Structure,
    basis: OrbitalBasis,
    overlap: FloatArray,
) -> FloatArray:
    """Return the matrices of several potentials in hamnet's order, Hartree, ``[n, n_ao, n_ao]``.

    Args:
        coefficients: by atomic number, ``[n_coefficients, n]``; other elements have no potential.
        structure: a molecule.
        basis: its basis.
        overlap: S in hamnet's order, ``[n_ao, n_ao]``.
    """
    offsets = basis.atom_offsets(structure.numbers)
    n = next(iter(coefficients.values())).shape[1]
    local = np.zeros((n, *overlap.shape))
    separable, energies = np.zeros_like(local), np.zeros((n, len(overlap)))
    for z in sorted(set(structure.numbers.tolist()) & set(coefficients)):
        atoms = np.flatnonzero(structure.numbers == z)
        n_local, n_shells = len(EXPONENTS), len(basis.of(z))
        gaussians, weights, levels = np.split(coefficients[z], [n_local, -n_shells])
        local += gaussian_potentials(structure, basis, atoms, EXPONENTS, gaussians)
        block, levels = _on_atom(basis, z, weights, levels)
        for first in offsets[atoms]:
            at = slice(first, first + block.shape[1])
            separable[:, at, at], energies[:, at] = block, levels
    hueckel = (energies[:, :, None] + energies[:, None, :]) * overlap
    return np.asarray(local + overlap @ separable @ overlap + hueckel)


def _on_atom(
    basis: OrbitalBasis, number: int, weights: FloatArray, energies: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return an element's separable potential ``[n, m, m]`` and the energies of its m orbitals."""
    sizes = [2 * l + 1 for l in basis.of(number)]
    first = np.concatenate([[0], np.cumsum(sizes)])
    block = np.zeros((weights.shape[1], first[-1], first[-1]))
    for (a, b), w in zip(shell_pairs(basis, number), weights, strict=True):
        m = np.arange(sizes[a])
        block[:, first[a] + m, first[b] + m] += w[:, None]
        block[:, first[b] + m, first[a] + m] += w[:, None]
    return block, np.repeat(energies, sizes, axis=0).T
