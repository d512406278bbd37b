"""Layers of the network: messages between atoms, and updates of pairs."""

from torch import Tensor, nn

from hamnet.nn.frames import EdgeRows, PairFrames
from hamnet.nn.node import FeedForward, RMSNorm, degree_of_row
from hamnet.nn.so2 import BothEnds, SO2Convolution
from hamnet.so3.layout import SO2Layout

PairFeatures = tuple[Tensor, Tensor]
"""Features of pairs in edge rows, plus and minus (`EdgeRows`), ``(P, K, C)`` each."""


class MessageLayer(nn.Module):
    """Residual message passing (SO(2) convolution) and feed-forward, each with a norm before it.

    Args:
        l_max: largest degree.
        channels: natural and pseudo channels.
        n_invariants: size of the pair embedding.
        hidden: width of the radial network.
    """

    def __init__(
        self, l_max: int, channels: tuple[int, int], n_invariants: int, hidden: int
    ) -> None:
        super().__init__()
        c = channels
        self.rows = EdgeRows(l_max, c)
        self.norm = RMSNorm(degree_of_row(l_max))
        self.ends = BothEnds(l_max, c, n_invariants, hidden)
        self.convolution = SO2Convolution(l_max, c, c)
        self.feed = FeedForward(l_max, c, widen=2)

    def forward(
        self, x: Tensor, frames: PairFrames, back: PairFrames, invariants: Tensor
    ) -> Tensor:
        """Update node features ``(A, K, C)``.

        Args:
            x: node features, laboratory rows.
            frames: of the E pairs that carry messages.
            back: the same, scaled by envelope and normalisation.
            invariants: embedding of both directions, ``(2E, n_invariants)``.
        """
        normed, filters = x * self.norm(x), self.ends.filters()
        size = self.rows.at_once(len(frames.distance))
        for part, scaled, both in zip(
            frames.pieces(size), back.pieces(size), directions(invariants, size), strict=True
        ):
            i, j = (self.rows.gather(normed, atoms, part) for atoms in part.pairs)
            plus, minus = self.convolution(*self.ends((i, j), both, filters))
            x = self.rows.scatter(plus, minus, scaled, x)
        y: Tensor = x + self.feed(x * self.norm(x))
        return y


class PairLayer(nn.Module):
    """Update of the pairs' own features, which stay in their frames.

    Args:
        l_max: largest degree.
        channels: natural and pseudo channels.
        n_invariants: size of the pair embedding.
        hidden: width of the radial network.
        first: there are no pair features yet.
    """

    def __init__(
        self, l_max: int, channels: tuple[int, int], n_invariants: int, hidden: int, *, first: bool
    ) -> None:
        super().__init__()
        c = channels
        self.ends = BothEnds(l_max, c, n_invariants, hidden)
        rows = SO2Layout(l_max).degree_of_row
        self.norm_pair = None if first else RMSNorm(rows)
        self.convolution = SO2Convolution(l_max, c, c)

    def forward(
        self,
        ends: tuple[Tensor, Tensor],
        pairs: PairFeatures | None,
        invariants: tuple[Tensor, Tensor],
    ) -> PairFeatures:
        """Return new pair features.

        Args:
            ends: of atoms i and j in the frames of the pairs, `EdgeRows.gather`.
            pairs: the pairs' features so far; None in the first layer.
            invariants: embedding of both directions, ``(P, n_invariants)``.
        """
        plus, minus = self.ends(ends, invariants, self.ends.filters())
        if pairs is None or self.norm_pair is None:
            made: PairFeatures = self.convolution(plus, minus)
            return made
        inverse = self.norm_pair(*pairs)
        plus, minus = plus + pairs[0] * inverse, minus + pairs[1] * inverse
        update = self.convolution(plus, minus)
        return pairs[0] + update[0], pairs[1] + update[1]


def directions(invariants: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Cut the embeddings of (i, j) and of (j, i), ``(2P, n)``, as `PairFrames.pieces` does."""
    forward, backward = (half.split(size) for half in invariants.chunk(2, dim=0))
    return list(zip(forward, backward, strict=True))
