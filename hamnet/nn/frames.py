"""Features of both ends of a pair, in the pair's frame and back."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PairFrames:
    """Rotations into the frames of pairs (i, j), built once and shared by all layers.

    The frame of the reversed pair is the same one after a half turn about x, a diagonal of signs:
    both directions of a pair share one matrix.

    Attributes:
        natural: from laboratory rows to edge rows, natural parity, ``(P, K, K)``.
        pseudo: the same for pseudo parity.
        flip_natural: signs of the half turn in edge rows, ``(K, 1)``.
        flip_pseudo: the same for pseudo parity.
        pairs: atoms i and j, ``(2, P)``.
    """

    natural: Tensor
    pseudo: Tensor
    flip_natural: Tensor
    flip_pseudo: Tensor
    pairs: Tensor

    def select(self, index: Tensor) -> "PairFrames":
        """Return the frames of some of the pairs."""
        return PairFrames(
            self.natural[index],
            self.pseudo[index],
            self.flip_natural,
            self.flip_pseudo,
            self.pairs[:, index],
        )

    def flip(self, natural: Tensor, pseudo: Tensor) -> Tensor:
        """Turn edge features to the reversed direction and join the parities."""
        return torch.cat([natural * self.flip_natural, pseudo * self.flip_pseudo], dim=-1)

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
        swapped = torch.cat([natural[..., n:], natural[..., :n]], dim=-1)
        swapped_pseudo = torch.cat([pseudo[..., half:], pseudo[..., :half]], dim=-1)
        return torch.cat([forward, self.flip(swapped, swapped_pseudo)], dim=0)

    def back(self, edges: Tensor, n_natural: int) -> tuple[Tensor, Tensor]:
        """Rotate edge features ``(2P, K, C)`` back to the laboratory.

        Returns:
            The features of the P pairs as ``(i, j)`` and as ``(j, i)``, each ``(P, K, C)``.
        """
        n = n_natural
        forward, backward = edges.chunk(2, dim=0)
        backward = self.flip(backward[..., :n], backward[..., n:])
        natural = self.natural.mT @ torch.cat([forward[..., :n], backward[..., :n]], dim=-1)
        pseudo = self.pseudo.mT @ torch.cat([forward[..., n:], backward[..., n:]], dim=-1)
        half = pseudo.shape[-1] // 2
        return (
            torch.cat([natural[..., :n], pseudo[..., :half]], dim=-1),
            torch.cat([natural[..., n:], pseudo[..., half:]], dim=-1),
        )

    def scatter(self, edges: Tensor, n_natural: int, n_atoms: int) -> Tensor:
        """Sum messages ``(2P, K, C)`` on their first atom; ``(A, K, C)`` in laboratory rows."""
        at_i, at_j = self.back(edges, n_natural)
        out = edges.new_zeros(n_atoms, *at_i.shape[1:])
        return out.index_add(0, self.pairs[0], at_i).index_add(0, self.pairs[1], at_j)
