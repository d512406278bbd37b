"""The density of a Hamiltonian's orbitals in Löwdin's basis.

With orthonormal combinations of the basis functions, S = U s U^T, the occupied orbitals of H0 make

    Q = S^(1/2) P S^(1/2) = U c n c^T U^T,   c: eigenvectors of s^(-1/2) U^T H0 U s^(-1/2).

What H differs in from H0 is the potential of the density by which the two differ, and the on-site
blocks of Q say what H0 makes of the charge and the shape of every atom: what an atom's surroundings
have done to it, which a network that sees neighbours alone would have to learn. Q is bounded
(eigenvalues 0 to 2) however nearly dependent the basis is, and turns with the molecule.
"""

import numpy as np

from hamnet.blocks import HamiltonianBlocks, from_dense, to_dense
from hamnet.structure import FloatArray
from hamnet.units import OVERLAP_EIGENVALUE_CUT

SAME_LEVEL = 1e-6
"""Hartree; levels that are closer to the highest occupied one share their electrons with it, so
that the density has the symmetry of the molecule."""


def loewdin_density(
    hamiltonian: HamiltonianBlocks, overlap: HamiltonianBlocks, n_electrons: int
) -> FloatArray:
    """Return the entries of Q, ``[n_entries]``, of a molecule without open shells.

    Args:
        hamiltonian: one matrix, such as H0, Hartree.
        overlap: S, the same pairs.
        n_electrons: electrons, without those of core potentials.
    """
    s = to_dense(overlap)
    h = to_dense(hamiltonian).reshape(s.shape)
    values, vectors = np.linalg.eigh(s)
    kept = values >= OVERLAP_EIGENVALUE_CUT
    basis = vectors[:, kept]
    orthonormal = basis / np.sqrt(values[kept])
    energies, c = np.linalg.eigh(orthonormal.T @ h @ orthonormal)
    occupations = np.clip(n_electrons - 2.0 * np.arange(len(energies)), 0.0, 2.0)
    highest = energies[max(int(np.count_nonzero(occupations)) - 1, 0)]
    level = np.abs(energies - highest) < SAME_LEVEL
    occupations[level] = occupations[level].mean()
    orbitals = basis @ c
    return from_dense((orbitals * occupations) @ orbitals.T, overlap.layout).entries
