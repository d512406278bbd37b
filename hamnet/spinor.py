"""Hamiltonians with spin-orbit coupling: four real matrices and the complex one they stand for.

A time-reversal symmetric Hamiltonian in a basis of real orbitals is

    H = H0 (x) 1 + i sum_a K_a (x) sigma_a,    a = x, y, z,

with H0 real symmetric and K_a real antisymmetric: ``4 n^2`` real numbers where a Hermitian matrix
of ``2 n`` spinors has ``(2 n)^2`` complex ones. Rows of the complex matrix are all orbitals with
spin up, then all with spin down; the axes of spin are those of the laboratory. Under a rotation or
mirror Q with ``x -> Q x`` the orbitals take D, and K is an axial vector:

    H0 -> D H0 D^T,    K_a -> det(Q) sum_b Q_ab D K_b D^T.

The overlap is ``S (x) 1``. Eigenvalues come in Kramers pairs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamnet.blocks import HamiltonianBlocks, SpinKind, to_dense, to_k
from hamnet.errors import HamnetError
from hamnet.structure import FloatArray

ComplexArray = NDArray[np.complex128]

PAULI: ComplexArray = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]])
"""sigma_x, sigma_y, sigma_z, ``[3, 2, 2]``."""

SPINOR_BASIS: ComplexArray = np.concatenate([np.eye(2)[None], 1j * PAULI])
"""What the four matrices are multiplied by, ``[4, 2, 2]``."""

MAX_ASYMMETRY = 1e-8
"""Hartree; a Hamiltonian that time reversal changes by more is magnetic, or not converged."""


def to_spinor(components: NDArray[Any]) -> ComplexArray:
    """Return ``H0 (x) 1 + i sum_a K_a (x) sigma_a``, ``[..., 2 n, 2 m]``.

    Args:
        components: H0, Kx, Ky, Kz of a molecule, of a block, or their sums over R at a k point,
            ``[..., 4, n, m]``.
    """
    n, m = components.shape[-2:]
    whole = np.einsum("...cij,cst->...sitj", components, SPINOR_BASIS)
    return np.asarray(whole.reshape(*components.shape[:-3], 2 * n, 2 * m))


def from_spinor(matrix: ComplexArray, tolerance: float = MAX_ASYMMETRY) -> FloatArray:
    """Return the four real matrices ``[..., 4, n, m]`` of a complex one, ``[..., 2 n, 2 m]``.

    The matrix may be a block of H, which is not Hermitian by itself.

    Args:
        matrix: rows and columns with spin up, then with spin down.
        tolerance: largest change by time reversal, Hartree.

    Raises:
        HamnetError: the matrix is not time-reversal symmetric; names the deviation.
    """
    components = symmetrised(matrix)
    error = float(np.abs(to_spinor(components) - matrix).max(initial=0.0))
    if not error <= tolerance:
        raise HamnetError(
            f"H is not time-reversal symmetric: it differs by {error:.1e} Hartree from "
            f"H0 (x) 1 + i K (x) sigma with real H0 and K (allowed are {tolerance:.0e}); magnetic "
            "systems are not supported"
        )
    return components


def symmetrised(matrix: ComplexArray) -> FloatArray:
    """Return the four real matrices of the time-reversal symmetric part, ``[..., 4, n, m]``."""
    n, m = (size // 2 for size in matrix.shape[-2:])
    parts = matrix.reshape(*matrix.shape[:-2], 2, n, 2, m)
    return np.asarray(np.einsum("...sitj,cst->...cij", parts, SPINOR_BASIS.conj()).real / 2)


def doubled(overlap: NDArray[Any]) -> NDArray[Any]:
    """Return ``S (x) 1``, ``[..., 2 n, 2 n]``."""
    zero = np.zeros_like(overlap)
    return np.block([[overlap, zero], [zero, overlap]])


def turned(components: FloatArray, d: FloatArray, rotation: FloatArray) -> FloatArray:
    """Return the four matrices after a rotation or mirror of the molecule, ``[4, n, n]``.

    Args:
        components: H0, Kx, Ky, Kz, ``[4, n, n]``.
        d: what it does to the orbitals, ``[n, n]``.
        rotation: orthogonal, of either determinant, ``[3, 3]``.
    """
    axial = np.eye(4)
    axial[1:, 1:] = np.linalg.det(rotation) * rotation
    return np.asarray(np.einsum("ca,aij->cij", axial, d @ components @ d.T))


def eigenproblem(
    hamiltonian: HamiltonianBlocks, overlap: HamiltonianBlocks, k: FloatArray | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return H ``[n_channels, N, N]`` and S ``[N, N]`` of ``H c = S c e``, however spin is treated.

    Args:
        hamiltonian: its first axis is that of `hamnet.blocks.SpinKind`.
        overlap: one matrix.
        k: fractional k point of a crystal; None for the real matrices of a molecule.
    """
    h, s = (to_dense(b) if k is None else to_k(b, k) for b in (hamiltonian, overlap))
    return matrix_problem(h, s)


def matrix_problem(
    hamiltonian: NDArray[Any], overlap: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the same of dense matrices ``[n_spin, n, n]`` and ``[n, n]``."""
    if len(hamiltonian) == SpinKind.SPINOR:
        return to_spinor(hamiltonian)[None], doubled(overlap)
    return hamiltonian, overlap


def refuse_spinors(hamiltonian: HamiltonianBlocks, what: str) -> None:
    """Refuse what is not there for spinors.

    Raises:
        HamnetError: the Hamiltonian has spin-orbit coupling.
    """
    if hamiltonian.is_spinor:
        raise HamnetError(
            f"spinors have no {what}: with spin-orbit coupling there are orbital energies, "
            "charges, dipole, density of states and the matrices (.npz)"
        )
