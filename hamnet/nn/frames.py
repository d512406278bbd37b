"""Features of both ends of a pair, in the pair's frame and back."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hamnet.graph import NeighbourGraph
from hamnet.nn.execution import product
from hamnet.so3.layout import SO2Layout
from hamnet.so3.rotation import EdgeFrame

PIECE = 800_000
"""Numbers of a tensor of pairs that are computed together, 3 MB: few enough to stay in a
processor's cache from one operation to the next."""


@dataclass(frozen=True, eq=False)
class PairFrames:
    """Rotations into the frames of pairs (i, j), built once and shared by all layers.

    The frame of the reversed pair is the same one after a mirror across the polar axis, a diagonal
    of signs: both directions of a pair share one matrix. It is left-handed, which no layer notices,
    because all of them commute with mirrors.

    Attributes:
        rotations: of every degree, ``(P, 2l+1, 2l+1)``, from the laboratory to the frame.
        pairs: atoms i and j, ``(2, P)``.
        distance: Angstrom, ``(P,)``.
    """

    rotations: tuple[Tensor, ...]
    pairs: Tensor
    distance: Tensor

    @staticmethod
    def of(graph: NeighbourGraph, frame: EdgeFrame) -> "PairFrames":
        """Build the frames of all pairs of a graph, in the precision of its positions."""
        vectors = graph.pair_vectors()
        distance = vectors.norm(dim=1)
        return PairFrames(frame(vectors / distance[:, None]), graph.pairs, distance)

    def to(self, dtype: torch.dtype) -> "PairFrames":
        """Return the same frames in another precision."""
        return replace(
            self,
            rotations=tuple(d.to(dtype) for d in self.rotations),
            distance=self.distance.to(dtype),
        )

    def select(self, index: Tensor) -> "PairFrames":
        """Return the frames of some of the pairs."""
        return PairFrames(
            tuple(d.index_select(0, index) for d in self.rotations),
            self.pairs.index_select(1, index),
            self.distance.index_select(0, index),
        )

    def scaled(self, factor: Tensor) -> "PairFrames":
        """Return matrices multiplied by a number for each pair, ``(P,)``."""
        return replace(self, rotations=tuple(d * factor[:, None, None] for d in self.rotations))

    def pieces(self, size: int) -> "list[PairFrames]":
        """Return the frames of so many pairs after the other."""
        if len(self.distance) <= size:
            return [self]
        by_degree = zip(*(d.split(size) for d in self.rotations), strict=True)
        parts = zip(by_degree, self.pairs.split(size, 1), self.distance.split(size), strict=True)
        return [PairFrames(*part) for part in parts]

    def rotate(self, x: Tensor) -> Tensor:
        """Turn ``(P, K, C)``, rows ``(l, m)``, into the frames; rows stay in that order."""
        parts = x.split([d.shape[1] for d in self.rotations], dim=1)
        return torch.cat(
            [product(d, part) for d, part in zip(self.rotations, parts, strict=True)], dim=1
        )

    def rotate_back(self, x: Tensor) -> Tensor:
        """Turn ``(P, K, C)`` out of the frames: the transpose of `rotate`."""
        parts = x.split([d.shape[1] for d in self.rotations], dim=1)
        turned = [product(d.mT, part) for d, part in zip(self.rotations, parts, strict=True)]
        return torch.cat(turned, dim=1)

    def axial_harmonics(self) -> Tensor:
        """Return the direction's harmonics, one unit vector for each degree, ``(P, K)``."""
        return torch.cat([d[:, l] for l, d in enumerate(self.rotations)], dim=1)


class EdgeRows(nn.Module):
    """Features of both ends of pairs in the order of `SO2Layout`, and back to the atoms.

    A function of a pair has two directions: f(i, j), in the frame of (i, j), and f(j, i), in that
    of (j, i). They are kept as ``plus`` and ``minus``, their sum and difference over sqrt 2, which
    exchange of the atoms multiplies by 1 and -1. What commutes with the exchange never mixes them,
    so that linear maps of both directions cost half as much.

    Args:
        l_max: largest degree.
        channels: natural and pseudo channels.
    """

    order: Tensor
    inverse: Tensor
    own_sign: Tensor
    other_sign: Tensor

    def __init__(self, l_max: int, channels: tuple[int, int]) -> None:
        super().__init__()
        layout = SO2Layout(l_max)
        self._row = layout.n_rows * sum(channels)
        # Rows are moved in pieces that belong to one parity: one pass over memory for both.
        self.piece = math.gcd(*channels)
        n_pieces = sum(channels) // self.piece
        order, signs = [], []
        natural, pseudo = layout.rows(pseudo=False), layout.rows(pseudo=True)
        for row in range(layout.n_rows):
            for piece in range(n_pieces):
                rows, sign = natural if piece * self.piece < channels[0] else pseudo
                order.append(rows[row] * n_pieces + piece)
                signs.append(float(sign[row]))
        own = torch.tensor(signs).view(layout.n_rows, n_pieces).repeat_interleave(self.piece, 1)
        parity = torch.tensor([1.0] * channels[0] + [-1.0] * channels[1])
        mirror = layout.reflection.float()[:, None] * parity
        self.register_buffer("order", torch.tensor(order), persistent=False)
        self.register_buffer("inverse", torch.argsort(torch.tensor(order)), persistent=False)
        self.register_buffer("own_sign", own, persistent=False)
        self.register_buffer("other_sign", own * mirror, persistent=False)

    def at_once(self, n_pairs: int) -> int:
        """Return how many pairs are best computed together, in pieces of much the same size."""
        n_pieces = math.ceil(n_pairs * self._row / PIECE)
        return math.ceil(n_pairs / max(n_pieces, 1))

    def gather(self, nodes: Tensor, atoms: Tensor, frames: PairFrames) -> Tensor:
        """Return the features of one end of each pair in the frame of the pair (i, j).

        Args:
            nodes: ``(A, K, C)``, laboratory rows, natural channels first.
            atoms: the end, ``(P,)``.
            frames: of P pairs.

        Returns:
            ``(P, K, C)`` in edge rows, to be multiplied by `own_sign` for what the pair (i, j)
            sees, by `other_sign` for what (j, i) sees; layers fold that into their weights.
        """
        return self._move(frames.rotate(nodes.index_select(0, atoms)), self.order, self.inverse)

    def back(self, x: Tensor, frames: PairFrames) -> Tensor:
        """Return ``(P, K, C)`` in laboratory rows: the transpose of `gather`, signs included."""
        return frames.rotate_back(self._move(x, self.inverse, self.order))

    def scatter(self, plus: Tensor, minus: Tensor, frames: PairFrames, nodes: Tensor) -> Tensor:
        """Add f(i, j) to atom i and f(j, i) to atom j.

        Args:
            plus: sum of both directions over sqrt 2, ``(P, K, C)``, edge rows.
            minus: the same of their difference.
            frames: of P pairs; may be scaled (`PairFrames.scaled`).
            nodes: to which is added, ``(A, K, C)``, laboratory rows.

        Returns:
            The sum, of the same shape.
        """
        half = math.sqrt(0.5)
        for atoms, both, sign in (
            (frames.pairs[0], plus + minus, self.own_sign),
            (frames.pairs[1], plus - minus, self.other_sign),
        ):
            nodes = nodes.index_add(0, atoms, self.back(both.mul_(half * sign), frames))
        return nodes

    def _move(self, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        pieces = x.view(len(x), len(order), self.piece)
        moved: Tensor = _Permutation.apply(pieces, order, inverse)  # type: ignore[no-untyped-call]
        return moved.view(x.shape)


class _Permutation(torch.autograd.Function):
    """Rows in another order; backward as well, instead of a sum over indices at twice the time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        back: Tensor = _Permutation.apply(grads[0], inverse, order)  # type: ignore[no-untyped-call]
        return back, None, None
