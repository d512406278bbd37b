"""Features of both ends of a pair, in the pair's frame and back."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hamnet.graph import NeighbourGraph
from hamnet.so3.rotation import EdgeFrame


@dataclass(frozen=True, eq=False)
class PairFrames:
    """Rotations into the frames of pairs (i, j), built once and shared by all layers.

    The frame of the reversed pair is the same one after a mirror across the polar axis, a diagonal
    of signs: both directions of a pair share one matrix. It is left-handed, which no layer notices,
    because all of them commute with mirrors.

    Attributes:
        natural: from laboratory rows to edge rows, natural parity, ``(P, K, K)``.
        pseudo: the same for pseudo parity.
        signs: of that mirror in edge rows; pseudo features take the opposite, ``(K, 1)``.
        pairs: atoms i and j, ``(2, P)``.
        distance: Angstrom, ``(P,)``.
    """

    natural: Tensor
    pseudo: Tensor
    signs: Tensor
    pairs: Tensor
    distance: Tensor

    @staticmethod
    def of(graph: NeighbourGraph, frame: EdgeFrame) -> "PairFrames":
        """Build the frames of all pairs of a graph, in the precision of its positions."""
        vectors = graph.pair_vectors()
        distance = vectors.norm(dim=1)
        natural, pseudo = frame(vectors / distance[:, None])
        signs = frame.layout.reflection[:, None].to(natural)
        return PairFrames(natural, pseudo, signs, graph.pairs, distance)

    def to(self, dtype: torch.dtype) -> "PairFrames":
        """Return the same frames in another precision."""
        return replace(
            self,
            natural=self.natural.to(dtype),
            pseudo=self.pseudo.to(dtype),
            signs=self.signs.to(dtype),
            distance=self.distance.to(dtype),
        )

    def select(self, index: Tensor) -> "PairFrames":
        """Return the frames of some of the pairs."""
        return replace(
            self,
            natural=self.natural[index],
            pseudo=self.pseudo[index],
            pairs=self.pairs[:, index],
            distance=self.distance[index],
        )

    def gather(self, nodes: Tensor, n_natural: int) -> Tensor:
        """Return the features of both ends, seen from either end.

        Args:
            nodes: ``(A, K, C)``, laboratory rows, natural channels first.
            n_natural: number of natural channels.

        Returns:
            ``(2P, K, 2C)``: first the P pairs as ``(i, j)``, then as ``(j, i)``; channels are own
            natural, other's natural, own pseudo, other's pseudo.
        """
        i, j = self.pairs
        own, other = nodes[i], nodes[j]
        n = n_natural
        natural = self.natural @ torch.cat([own[..., :n], other[..., :n]], dim=-1)
        pseudo = self.pseudo @ torch.cat([own[..., n:], other[..., n:]], dim=-1)
        forward = torch.cat([natural, pseudo], dim=-1)
        half = pseudo.shape[-1] // 2
        swapped = [natural[..., n:], natural[..., :n], -pseudo[..., half:], -pseudo[..., :half]]
        return torch.cat([forward, torch.cat(swapped, dim=-1) * self.signs], dim=0)

    def scatter(self, edges: Tensor, n_natural: int, n_atoms: int) -> Tensor:
        """Sum messages ``(2P, K, C)`` on their first atom; ``(A, K, C)`` in laboratory rows."""
        n = n_natural
        forward, backward = edges.chunk(2, dim=0)
        backward = backward * self.signs
        natural = self.natural.mT @ torch.cat([forward[..., :n], backward[..., :n]], dim=-1)
        pseudo = self.pseudo.mT @ torch.cat([forward[..., n:], -backward[..., n:]], dim=-1)
        half = pseudo.shape[-1] // 2
        at_i = torch.cat([natural[..., :n], pseudo[..., :half]], dim=-1)
        at_j = torch.cat([natural[..., n:], pseudo[..., half:]], dim=-1)
        out = edges.new_zeros(n_atoms, *at_i.shape[1:])
        return out.index_add(0, self.pairs[0], at_i).index_add(0, self.pairs[1], at_j)

    def exchange(self, edges: Tensor, n_natural: int) -> Tensor:
        """Combine both directions ``(2P, K, C)``, each in its own frame, in edge rows.

        Returns:
            ``(P, K, 2C)``: natural even, natural odd, pseudo even, pseudo odd under exchange of the
            ends (`hamnet.irreps`).
        """
        n = n_natural
        forward, backward = edges.chunk(2, dim=0)
        plus, minus = (forward + backward) / math.sqrt(2), (forward - backward) / math.sqrt(2)
        return torch.cat([plus[..., :n], minus[..., :n], plus[..., n:], minus[..., n:]], dim=-1)
