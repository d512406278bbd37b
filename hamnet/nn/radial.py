"""What layers know of a distance."""

import math
from collections.abc import Sequence

import torch
from e3nn.math import soft_one_hot_linspace
from scipy.optimize import nnls
from torch import Tensor, nn


def envelope(distance: Tensor, cutoff: float, order: int = 6) -> Tensor:
    """Return a polynomial that falls from 1 to 0 at the cutoff with two vanishing derivatives.

    Gasteiger, Gross & Guennemann, arXiv 2003.03123, equation 8.
    """
    x = distance / cutoff
    p = order
    value = (
        1
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2)
    )
    return torch.where(x < 1, value, torch.zeros_like(value))


def nearness(distance: Tensor, cutoff: float, reach: float) -> Tensor:
    """Return the factor of a message: a Gaussian of width ``reach``, zero from the cutoff on."""
    return envelope(distance, cutoff) * torch.exp(-((distance / reach) ** 2))


TYPICAL_DECAY = 0.15
"""Of overlaps of valence orbitals, ``exp(-0.15 r^2)``, r in Angstrom."""


class Decay(nn.Module):
    """How fast blocks of pairs fall with the distance: ``exp(-b r - c r^2)``, fitted to labels.

    Without it far blocks, whose labels are a thousand times smaller than those of neighbours, are
    only zero where features of near pairs cancel: not in a molecule larger than those of training,
    where what is left over belongs to overlaps of 1e-5 and makes orbitals out of nothing.
    """

    rates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rates", torch.zeros(2, dtype=torch.float64))

    def forward(self, distance: Tensor) -> Tensor:
        """Return the factors ``(P,)`` of distances in Angstrom, ``(P,)``."""
        b, c = self.rates.to(distance.dtype).unbind()
        return torch.exp(-(b + c * distance) * distance)

    def fit(self, sizes: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Set the rates, which are not negative, by least squares of the logarithms.

        A hundredth of the weight has `TYPICAL_DECAY`, for labels whose distances hardly vary.

        Args:
            sizes: distances and sizes of the labels of each type of pairs, ``(n,)`` each; types
                differ by a factor, which is not kept.
        """
        if not sizes:
            return
        columns = [torch.stack([r, r.square(), -size.log()], dim=1) for r, size in sizes]
        r = torch.linspace(1.0, 6.0, 11)
        typical = torch.stack([r, r.square(), TYPICAL_DECAY * r.square()], dim=1)
        weight = math.sqrt(0.01 * sum(map(len, columns)) / len(r))
        centred = [c - c.mean(dim=0) for c in columns]
        centred.append(weight * (typical - typical.mean(dim=0)))
        rows = torch.cat([c.double() for c in centred]).numpy()
        self.rates.copy_(torch.from_numpy(nnls(rows[:, :2], rows[:, 2])[0]))


class PairEmbedding(nn.Module):
    """Invariant description of a directed pair: Gaussians of the distance and both elements.

    Args:
        elements: atomic numbers that the model knows.
        cutoff: Angstrom; the Gaussians span ``[0, cutoff]``.
        n_radial: number of Gaussians.
        n_element: size of an element's embedding.
    """

    index: Tensor

    def __init__(
        self, elements: tuple[int, ...], cutoff: float, n_radial: int, n_element: int
    ) -> None:
        super().__init__()
        self.cutoff, self.n_radial = cutoff, n_radial
        index = torch.zeros(max(elements) + 1, dtype=torch.int64)
        index[list(elements)] = torch.arange(len(elements))
        self.register_buffer("index", index, persistent=False)
        self.element = nn.Embedding(len(elements), n_element)
        self.size = n_radial + 2 * n_element

    def forward(self, distance: Tensor, z_target: Tensor, z_source: Tensor) -> Tensor:
        """Return ``(E, size)`` for distances ``(E,)`` and the elements of both ends ``(E,)``."""
        radial = soft_one_hot_linspace(
            distance, 0.0, self.cutoff, self.n_radial, basis="gaussian", cutoff=False
        )
        ends = [self.element(self.index[z]) for z in (z_target, z_source)]
        return torch.cat([radial, *ends], dim=-1)
