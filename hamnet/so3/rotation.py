"""Rotation into the edge frame, without angles.

The half turn about the bisector ``n = (r + z)/|r + z|`` takes the edge direction r to the polar
axis z and is its own inverse. The matrix of a half turn is linear in the harmonics of its axis,

    D^l(n)[m, m'] = sum_{k even <= 2l} c^l_k sum_q w3j(l, l, k)[m, m', q] Y_kq(n),
    c^l_k = sqrt(2k+1) sum_m (-1)^m w3j(l, l, k)[m, m, 0],

(project D^l(z) = diag((-1)^m) on the coupled basis), so that all degrees are one matrix product of
even harmonics with a constant: no trigonometry, and nothing special at the poles. Where r.z < 0 the
bisector of r and -z is used, followed by the half turn about x, which is a diagonal of signs. The
choice between the two charts is a rotation about the edge, which no SO(2)-equivariant layer sees.
"""

import math
from functools import cache

import torch
from e3nn import o3
from torch import Tensor, nn

from hamnet.so3.layout import SO2Layout


def real_harmonics(degrees: list[int], vectors: Tensor) -> Tensor:
    """Return real spherical harmonics ``m = -l..l`` of unit vectors ``(..., 3)`` for each degree.

    'Component' normalisation: ``Y_l0(z) = sqrt(2l+1)``. Those of degrees 1 and 2 are e3nn's; higher
    ones are the product of the two that were found last but one and of degree 2, coupled to the
    largest degree: one matrix product each, for any degree.
    """
    base = o3.spherical_harmonics(
        [0, 1, 2], vectors.roll(-1, dims=-1), normalize=False, normalization="component"
    )
    found = dict(enumerate(base.split([1, 3, 5], dim=-1)))
    parities = {l % 2 for l in degrees}
    for l in range(3, max(degrees) + 1):
        if l % 2 in parities:
            product = (found[l - 2][..., :, None] * found[2][..., None, :]).flatten(-2)
            found[l] = product @ _stretched(l).to(product)
    return torch.cat([found[l] for l in degrees], dim=-1)


@cache
def _stretched(l: int) -> Tensor:
    """Return the matrix from the products of harmonics l - 2 and 2 to those of degree l."""
    w = o3.wigner_3j(l - 2, 2, l, dtype=torch.float64)
    at_pole = math.sqrt((2 * l - 3) * 5) * w[l - 2, 2, l]
    matrix: Tensor = (math.sqrt(2 * l + 1) / at_pole * w).flatten(0, 1)
    return matrix


def half_turn_coefficients(l: int) -> Tensor:
    """Return the constant ``[sum_k (2k+1), 2l+1, 2l+1]`` that takes even harmonics to D^l."""
    parts = []
    for k in range(0, 2 * l + 1, 2):
        w = o3.wigner_3j(l, l, k, dtype=torch.float64)  # (2l+1, 2l+1, 2k+1)
        sign = torch.tensor([(-1.0) ** m for m in range(-l, l + 1)], dtype=torch.float64)
        c = math.sqrt(2 * k + 1) * torch.dot(sign, w[:, :, k].diagonal())
        parts.append(c * w.permute(2, 0, 1))
    return torch.cat(parts)


class EdgeFrame(nn.Module):
    """Build the matrices that rotate features into the frames of given edges.

    Args:
        l_max: largest degree.
    """

    coefficients: Tensor
    half_turn: Tensor
    pole: Tensor

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.layout = SO2Layout(l_max)
        self._degrees = list(range(0, 2 * l_max + 1, 2))
        n_harmonics = sum(2 * k + 1 for k in self._degrees)
        parts = []
        for l in range(l_max + 1):
            part = half_turn_coefficients(l).flatten(1)
            parts.append(nn.functional.pad(part, (0, 0, 0, n_harmonics - len(part))))
        # derived from l_max: not part of the state dictionary
        self.register_buffer("coefficients", torch.cat(parts, dim=1), persistent=False)
        self.register_buffer("half_turn", self.layout.half_turn, persistent=False)
        pole = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        self.register_buffer("pole", pole, persistent=False)

    def forward(self, directions: Tensor) -> tuple[Tensor, ...]:
        """Return the rotations of every degree.

        Args:
            directions: unit vectors, ``(P, 3)``.

        Returns:
            For l = 0..L an orthogonal matrix a pair, ``(P, 2l+1, 2l+1)``, rows and columns
            ``m = -l..l``, that takes the edge to the polar axis. Transposes rotate back.
        """
        upper = directions[:, 2:] >= 0  # (P, 1)
        pole = self.pole.to(directions.dtype)
        axis = directions + torch.where(upper, pole, -pole)
        axis = axis / axis.norm(dim=-1, keepdim=True)
        harmonics = real_harmonics(self._degrees, axis)  # (P, n)
        numbers = [2 * l + 1 for l in range(self.layout.l_max + 1)]
        matrices = (harmonics @ self.coefficients).split([n * n for n in numbers], dim=1)
        flips = torch.where(upper, torch.ones_like(self.half_turn), self.half_turn)  # (P, K)
        return tuple(
            d.unflatten(1, (n, n)) * flip[:, :, None]
            for n, d, flip in zip(numbers, matrices, flips.split(numbers, dim=1), strict=True)
        )
