"""A learnt correction of H0, where the overlap lets it be known.

An error d of the matrix moves orbital energies by d / s along a direction in which the overlap has
the eigenvalue s: the nearly dependent combinations of a basis turn errors of a millihartree into
orbitals that do not exist. The correction itself is no larger there than elsewhere. So its share of
such directions is taken for noise, and H0, which is an operator's matrix and has no such errors,
stays alone: with S = U s U^T

    H = H0 + F dH F,   F = U diag(s^2 / (s^2 + floor^2)) U^T.

F is a function of S: rotations, mirrors and exchanges of atoms pass through. The floor is chosen on
validation frames (`hamnet.training.floor`).
"""

import numpy as np

from hamnet.blocks import HamiltonianBlocks, from_dense, to_dense
from hamnet.structure import FloatArray


def trust(overlap: HamiltonianBlocks, floor: float) -> FloatArray:
    """Return the symmetric matrix F, ``[n, n]``, of a molecule's overlap."""
    values, vectors = np.linalg.eigh(to_dense(overlap))
    return np.asarray((vectors * (values**2 / (values**2 + floor**2))) @ vectors.T)


def corrected(delta: FloatArray, overlap: HamiltonianBlocks, floor: float) -> FloatArray:
    """Return the entries of F dH F.

    Args:
        delta: entries of dH, ``[n_matrices, n_entries]``.
        overlap: of a molecule, the same pairs.
        floor: 0 leaves dH as it is.
    """
    if not floor:
        return delta
    f = trust(overlap, floor)
    dense = to_dense(HamiltonianBlocks(overlap.layout, delta))
    return from_dense(f @ dense @ f, overlap.layout).entries
