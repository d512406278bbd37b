"""The network: geometry -> features of atoms and pairs -> standardised irreps of every block."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hamnet.errors import HamnetError
from hamnet.graph import NeighbourGraph
from hamnet.irreps import BlockIrreps, BlockType
from hamnet.models.config import ModelConfig
from hamnet.nn.frames import PairFrames
from hamnet.nn.node import FeedForward, RMSNorm, degree_of_row
from hamnet.nn.radial import PairEmbedding, envelope
from hamnet.nn.readout import BlockFeatures, LinearReadout, block_rows, block_types
from hamnet.nn.so2 import SO2Convolution
from hamnet.nn.tracegrad import (
    TraceGrad,
    join_node,
    join_pair,
    node_groups,
    pair_groups,
    split_node,
    split_pair,
)
from hamnet.so3.layout import SO2Layout


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """What the network gives for a batch.

    Attributes:
        irreps: standardised, ``(n_rows, n_numbers)`` of each block type.
        traces: predicted standardised label invariants ``(n_rows, n_irreps)`` of each block type;
            empty without TraceGrad.
        envelope: factor of each pair's block, ``(P,)``.
    """

    irreps: dict[BlockType, Tensor]
    traces: dict[BlockType, Tensor]
    envelope: Tensor


class MessageLayer(nn.Module):
    """Residual message passing (SO(2) convolution) and feed-forward, each with a norm before it.

    Args:
        config: sizes.
        l_max: largest degree.
        n_invariants: size of the pair embedding.
    """

    def __init__(self, config: ModelConfig, l_max: int, n_invariants: int) -> None:
        super().__init__()
        self.channels = c = (config.channels, config.pseudo_channels)
        both = (2 * c[0], 2 * c[1])
        self.norm_message = RMSNorm(degree_of_row(l_max), sum(c))
        self.convolution = SO2Convolution(l_max, both, c, c, n_invariants, config.radial_hidden)
        self.norm_feed = RMSNorm(degree_of_row(l_max), sum(c))
        self.feed = FeedForward(l_max, c, widen=2)

    def forward(self, x: Tensor, frames: PairFrames, invariants: Tensor, weight: Tensor) -> Tensor:
        """Update node features ``(A, K, C)``.

        Args:
            x: node features, laboratory rows.
            frames: of the E pairs that carry messages.
            invariants: embedding of both directions, ``(2E, n_invariants)``.
            weight: envelope and normalisation of both directions, ``(2E, 1, 1)``.
        """
        edges = frames.gather(self.norm_message(x), self.channels[0])
        messages = self.convolution(edges, invariants) * weight
        x = x + frames.scatter(messages, self.channels[0], len(x))
        y: Tensor = x + self.feed(self.norm_feed(x))
        return y


class PairLayer(nn.Module):
    """Update of the pairs' own features, which stay in their frames.

    Args:
        config: sizes.
        l_max: largest degree.
        n_invariants: size of the pair embedding.
        first: there are no pair features yet.
    """

    def __init__(self, config: ModelConfig, l_max: int, n_invariants: int, first: bool) -> None:
        super().__init__()
        self.channels = c = (config.channels, config.pseudo_channels)
        n_parts = 2 if first else 3
        self.norm_node = RMSNorm(degree_of_row(l_max), sum(c))
        self.norm_pair = None if first else RMSNorm(SO2Layout(l_max).degree_of_row, sum(c))
        self.convolution = SO2Convolution(
            l_max, (n_parts * c[0], n_parts * c[1]), c, c, n_invariants, config.radial_hidden
        )

    def forward(
        self, x: Tensor, pairs: Tensor | None, frames: PairFrames, invariants: Tensor
    ) -> Tensor:
        """Return new pair features ``(2P, K, C)`` in edge rows; `pairs` is None in the first."""
        ends = frames.gather(self.norm_node(x), self.channels[0])
        if pairs is None or self.norm_pair is None:
            y: Tensor = self.convolution(ends, invariants)
            return y
        n = self.channels[0]
        own = self.norm_pair(pairs)
        joined = torch.cat([ends[..., : 2 * n], own[..., :n], ends[..., 2 * n :], own[..., n:]], -1)
        update: Tensor = self.convolution(joined, invariants)
        return pairs + update


class SO2Network(nn.Module):
    """SO(2) backbone with TraceGrad and a linear readout.

    Node features pass through message layers; pair features are made from both ends, in the pair's
    frame and in both directions, and stay there: the readout gives the irreps of a block in its
    pair's frame. It reads the features of every layer, and for an on-site block also the sum of the
    atom's pairs: more features for one least-squares problem at no further cost.

    Args:
        config: sizes and parts.
        tables: irreps of every block type of the training data.
        n_neighbours: mean number of messages that an atom receives in the training data.

    Raises:
        HamnetError: ``l_max`` is too small for the basis.
    """

    def __init__(
        self, config: ModelConfig, tables: Sequence[BlockIrreps], n_neighbours: float
    ) -> None:
        super().__init__()
        needed = max(irrep.l for t in tables for irrep in t.irreps)
        l_max = needed if config.l_max is None else config.l_max
        if l_max < needed:
            raise HamnetError(
                f"model.l_max = {l_max} is too small: the basis has shells whose products reach "
                f"l = {needed}; leave model.l_max out to have it set"
            )
        self.config, self.l_max = config, l_max
        self.channels = c = (config.channels, config.pseudo_channels)
        self.message_weight = 1 / math.sqrt(max(n_neighbours, 1.0))
        elements = tuple(sorted(t.type.z_i for t in tables if t.type.on_site))
        element_size = 16
        cutoffs = (config.message_cutoff, config.pair_cutoff)
        embeddings = [
            PairEmbedding(elements, cutoff, config.n_radial, element_size) for cutoff in cutoffs
        ]
        self.message_embedding, self.pair_embedding = embeddings
        n_invariants = embeddings[0].size
        self.element = nn.Embedding(len(elements), c[0])
        self.degree_embedding = nn.Sequential(
            nn.Linear(n_invariants, config.radial_hidden),
            nn.SiLU(),
            nn.Linear(config.radial_hidden, (l_max + 1) * c[0]),
        )
        self.message_layers = nn.ModuleList(
            MessageLayer(config, l_max, n_invariants) for _ in range(config.layers)
        )
        self.pair_layers = nn.ModuleList(
            PairLayer(config, l_max, n_invariants, first=k == 0) for k in range(config.pair_layers)
        )
        sizes = (config.tracegrad_rank, config.tracegrad_hidden, config.tracegrad_hidden)
        on_nodes = config.tracegrad in ("nodes", "both")
        on_pairs = config.tracegrad in ("pairs", "both")
        self.node_tracegrad = TraceGrad(node_groups(l_max, c), *sizes) if on_nodes else None
        self.pair_tracegrad = TraceGrad(pair_groups(l_max, c), *sizes) if on_pairs else None
        self.trace_decoder = nn.ModuleDict(
            {
                t.type.key: nn.Linear(config.tracegrad_hidden, t.n_irreps)
                for t in tables
                if (on_nodes if t.type.on_site else on_pairs)
            }
        )
        n_node, n_pair = config.layers + 2, config.pair_layers
        self.node_norms = nn.ModuleList(
            RMSNorm(degree_of_row(l_max), sum(c)) for _ in range(n_node)
        )
        self.pair_norms = nn.ModuleList(
            RMSNorm(SO2Layout(l_max).degree_of_row, sum(c)) for _ in range(n_pair)
        )
        self.readout = LinearReadout(
            tables, (n_node * c[0], n_node * c[1]), (n_pair * c[0], n_pair * c[1]), l_max
        )

    def features(
        self, graph: NeighbourGraph, frames: PairFrames
    ) -> tuple[BlockFeatures, dict[BlockType, Tensor]]:
        """Return the features of all blocks, and the predicted label invariants."""
        # 1. atoms: element, neighbourhood, messages within the shorter cutoff
        nodes = self._atoms(graph, frames.select(graph.edges))
        traces: dict[BlockType, Tensor] = {}
        types = block_types(graph)
        if self.node_tracegrad is not None:
            z, groups = self.node_tracegrad(split_node(nodes[-1], self.l_max, self.channels))
            nodes[-1] = join_node(groups, self.l_max)
            traces |= self._decode(z, graph, [t for t in types if t.on_site])
        # 2. pairs, in both directions
        invariants = self._embed(self.pair_embedding, graph, frames)
        pairs: list[Tensor] = []
        for layer in self.pair_layers:
            pairs.append(layer(nodes[-1], pairs[-1] if pairs else None, frames, invariants))
        if self.pair_tracegrad is not None:
            z, groups = self.pair_tracegrad(split_pair(pairs[-1], self.l_max, self.channels))
            pairs[-1] = join_pair(groups, self.l_max, self.channels)
            forward, backward = z.chunk(2, dim=0)
            traces |= self._decode(forward + backward, graph, [t for t in types if not t.on_site])
        # 3. the readout sees every layer; an atom also the sum of its pairs
        n = self.channels[0]
        pairs = [norm(y) for norm, y in zip(self.pair_norms, pairs, strict=True)]
        fade = self.envelope(frames) * self.message_weight
        nodes.append(
            frames.scatter(pairs[-1] * torch.cat([fade, fade])[:, None, None], n, len(nodes[0]))
        )
        nodes = [norm(x) for norm, x in zip(self.node_norms, nodes, strict=True)]
        both = frames.exchange(_join(pairs, n), n * len(pairs))
        return BlockFeatures(_join(nodes, n), both), traces

    def forward(self, graph: NeighbourGraph, frames: PairFrames) -> NetworkOutput:
        """Return the standardised irreps of all blocks of a batch.

        Args:
            graph: atoms and pairs.
            frames: frames of its pairs, in the precision of the network.
        """
        features, traces = self.features(graph, frames)
        return NetworkOutput(self.readout(features, graph), traces, self.envelope(frames))

    def envelope(self, frames: PairFrames) -> Tensor:
        """Return the factor of each pair's block, 1 at contact and 0 at the cutoff, ``(P,)``."""
        return envelope(frames.distance, self.config.pair_cutoff)

    def _atoms(self, graph: NeighbourGraph, frames: PairFrames) -> list[Tensor]:
        """Return the node features ``(A, K, C)`` before and after each message layer."""
        n_rows, n, n_atoms = (self.l_max + 1) ** 2, self.l_max + 1, len(graph.numbers)
        x = frames.natural.new_zeros(n_atoms, n_rows, sum(self.channels))
        x[:, 0, : self.channels[0]] = self.element(self.message_embedding.index[graph.numbers])
        invariants = self._embed(self.message_embedding, graph, frames)
        fade = envelope(frames.distance, self.config.message_cutoff) * self.message_weight
        weight = torch.cat([fade, fade])[:, None, None]
        axial = self.degree_embedding(invariants).view(len(invariants), n, self.channels[0])
        start = x.new_zeros(len(invariants), n_rows, sum(self.channels))
        start[:, :n, : self.channels[0]] = axial
        stages = [x + frames.scatter(start * weight, self.channels[0], n_atoms)]
        for layer in self.message_layers:
            stages.append(layer(stages[-1], frames, invariants, weight))
        return stages

    def _embed(self, embedding: nn.Module, graph: NeighbourGraph, frames: PairFrames) -> Tensor:
        """Return the embedding of both directions, ``(2P, n_invariants)``."""
        z_i, z_j = graph.numbers[frames.pairs[0]], graph.numbers[frames.pairs[1]]
        distance = torch.cat([frames.distance, frames.distance])
        both: Tensor = embedding(distance, torch.cat([z_i, z_j]), torch.cat([z_j, z_i]))
        return both

    def _decode(
        self, z: Tensor, graph: NeighbourGraph, types: Sequence[BlockType]
    ) -> dict[BlockType, Tensor]:
        return {t: self.trace_decoder[t.key](z[block_rows(graph, t)]) for t in types}


def _join(stages: Sequence[Tensor], n_natural: int) -> Tensor:
    """Join the features of several layers: all natural channels, then all pseudo ones."""
    parts = [x[..., :n_natural] for x in stages] + [x[..., n_natural:] for x in stages]
    return torch.cat(parts, dim=-1)
