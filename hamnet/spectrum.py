"""The generalised eigenproblem ``H C = S C eps``: orbital energies and orbitals."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hamnet.errors import HamnetError
from hamnet.units import OVERLAP_EIGENVALUE_CUT


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Orbital energies and orbitals, float64, one matrix or a batch.

    Attributes:
        energies: ascending, Hartree, ``(..., n_mo)``; +inf fills up where one matrix of a batch has
            fewer orbitals than another.
        coefficients: orbitals as columns, ``C^dagger S C = 1``, ``(..., n, n_mo)``; zero there.
        n_dropped: directions of a linearly dependent basis that were projected out, ``(...)``.
    """

    energies: Tensor
    coefficients: Tensor
    n_dropped: Tensor


def solve(
    hamiltonian: Tensor, overlap: Tensor, threshold: float = OVERLAP_EIGENVALUE_CUT
) -> Spectrum:
    """Solve ``H C = S C eps`` in float64.

    Where every overlap is well conditioned, one batched Cholesky factorisation; else canonical
    orthogonalisation: directions of S with an eigenvalue below the threshold are projected out, and
    their number is reported.

    Args:
        hamiltonian: Hermitian, ``(..., n, n)``.
        overlap: Hermitian and positive, same shape.
        threshold: smallest eigenvalue of S that is kept.

    Raises:
        HamnetError: a matrix is not finite, or S has no direction above the threshold.
    """
    dtype = torch.complex128 if hamiltonian.is_complex() else torch.float64
    h, s = hamiltonian.to(dtype), overlap.to(dtype)
    for name, matrix in (("Hamiltonian", h), ("overlap", s)):
        if not torch.isfinite(torch.view_as_real(matrix) if dtype.is_complex else matrix).all():
            raise HamnetError(f"the {name} is not finite: there are no orbital energies")
    lead = h.shape[:-2]
    if bool((torch.linalg.eigvalsh(s)[..., 0] >= threshold).all()):
        factor = torch.linalg.cholesky(s)
        half = torch.linalg.solve_triangular(factor, h, upper=False)
        reduced = torch.linalg.solve_triangular(factor, half.mH, upper=False)
        energies, rotation = torch.linalg.eigh(reduced)
        coefficients = torch.linalg.solve_triangular(factor.mH, rotation, upper=True)
        return Spectrum(energies, coefficients, torch.zeros(lead, dtype=torch.int64))
    values, vectors = torch.linalg.eigh(s)
    return _canonical(h, values, vectors, threshold)


def _canonical(h: Tensor, values: Tensor, vectors: Tensor, threshold: float) -> Spectrum:
    lead, n = h.shape[:-2], h.shape[-1]
    kept = values >= threshold  # ascending: the last ones
    n_kept = kept.sum(dim=-1)
    if not bool(n_kept.all()):
        raise HamnetError(
            f"the overlap has no eigenvalue above {threshold:g} (the largest is "
            f"{float(values.max()):.3g}): do atoms coincide?"
        )
    n_mo = int(n_kept.max())
    energies = torch.full((*lead, n_mo), torch.inf, dtype=values.dtype).reshape(-1, n_mo)
    coefficients = torch.zeros((*lead, n, n_mo), dtype=h.dtype).reshape(-1, n, n_mo)
    flat = zip(h.reshape(-1, n, n), values.reshape(-1, n), vectors.reshape(-1, n, n), strict=True)
    for k, (matrix, value, vector) in enumerate(flat):
        good = value >= threshold
        orthogonal = vector[:, good] / value[good].sqrt()
        energy, rotation = torch.linalg.eigh(orthogonal.mH @ matrix @ orthogonal)
        energies[k, : len(energy)] = energy
        coefficients[k, :, : len(energy)] = orthogonal @ rotation
    return Spectrum(energies.reshape(*lead, n_mo), coefficients.reshape(*lead, n, n_mo), n - n_kept)
