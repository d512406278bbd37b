"""The network: geometry -> features of atoms and pairs -> standardised irreps of every block."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hamnet.errors import HamnetError
from hamnet.graph import NeighbourGraph
from hamnet.irreps import BlockIrreps, BlockType
from hamnet.models.config import ModelConfig
from hamnet.nn.density import DensityEmbedding
from hamnet.nn.execution import Execution
from hamnet.nn.frames import EdgeRows, PairFrames
from hamnet.nn.layers import MessageLayer, PairFeatures, PairLayer, directions
from hamnet.nn.node import Expansion, RMSNorm, degree_of_row
from hamnet.nn.radial import Decay, PairEmbedding, envelope, nearness
from hamnet.nn.readout import BlockFeatures, LinearReadout, block_rows, block_types
from hamnet.nn.so2 import SO2Convolution
from hamnet.nn.standardise import Standardiser
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

ELEMENT_SIZE = 2.0
"""Of an element's embedding at the start, beside neighbours of size 1: the larger, the smoother
random features are functions of the geometry."""


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """What the network gives for a batch.

    Attributes:
        irreps: standardised, ``(n_rows, n_numbers)`` of each block type.
        traces: predicted standardised label invariants ``(n_rows, n_irreps)`` of each block type;
            empty without TraceGrad, or if nobody asked for them.
        envelope: factor of each pair's block, ``(P,)``.
        features: from which the irreps were read.
    """

    irreps: dict[BlockType, Tensor]
    traces: dict[BlockType, Tensor]
    envelope: Tensor
    features: BlockFeatures


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some pairs: features after each layer, their scale, TraceGrad's invariants, atoms' sums."""

    pairs: list[PairFeatures]
    scale: Tensor
    invariants: Tensor | None
    sums: Tensor


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _needed(tracegrad: TraceGrad | None, traces: bool) -> TraceGrad | None:
    """Return TraceGrad where it does something: features change, or its invariants are wanted."""
    if tracegrad is None or not (traces or tracegrad.changes_features()):
        return None
    return tracegrad


class SO2Network(nn.Module):
    """SO(2) backbone with TraceGrad and a linear readout.

    Node features pass through message layers; pair features are made from both ends, in the pair's
    frame and in both directions, and stay there: the readout gives the irreps of a block in its
    pair's frame. It reads the features of every layer, and for an on-site block also the sum of the
    atom's pairs and products of all these with functions of their invariants (`Expansion`): more
    features for one least-squares problem at little further cost.

    Args:
        config: sizes and parts.
        tables: irreps of every block type of the training data.
        n_neighbours: sum of the squared factors of the messages that an atom receives, mean over
            the training data.

    Raises:
        HamnetError: ``l_max`` is too small for the basis.
    """

    degree: Tensor

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
        self.message_weight = 1 / math.sqrt(max(n_neighbours, 0.1))
        elements = tuple(sorted(t.type.z_i for t in tables if t.type.on_site))
        element_size = 16
        cutoffs = (config.message_cutoff, config.pair_cutoff)
        embeddings = [
            PairEmbedding(elements, cutoff, config.n_radial, element_size) for cutoff in cutoffs
        ]
        self.message_embedding, self.pair_embedding = embeddings
        self.decay = Decay()
        n_invariants = embeddings[0].size
        self.element = nn.Embedding(len(elements), c[0])
        nn.init.normal_(self.element.weight, std=ELEMENT_SIZE)
        self.density: DensityEmbedding | None = None
        if config.density_weight:
            self.density = DensityEmbedding(tables, c, l_max, config.density_weight)
        self.degree_embedding = nn.Sequential(
            nn.Linear(n_invariants, config.radial_hidden),
            nn.SiLU(),
            nn.Linear(config.radial_hidden, (l_max + 1) * c[0]),
        )
        self.message_layers = nn.ModuleList(
            MessageLayer(l_max, c, n_invariants, config.radial_hidden) for _ in range(config.layers)
        )
        self.pair_layers = nn.ModuleList(
            PairLayer(l_max, c, n_invariants, config.radial_hidden, first=k == 0)
            for k in range(config.pair_layers)
        )
        width = config.tracegrad_hidden
        sizes = (config.tracegrad_rank, width, width, config.tracegrad_features)
        on_nodes = config.tracegrad in ("nodes", "both")
        on_pairs = config.tracegrad in ("pairs", "both")
        self.node_tracegrad = TraceGrad(node_groups(l_max, c), *sizes) if on_nodes else None
        self.pair_tracegrad = TraceGrad(pair_groups(l_max, c), *sizes) if on_pairs else None
        self.trace_decoder = nn.ModuleDict(
            {
                t.type.key: nn.Linear(width, t.n_irreps)
                for t in tables
                if (on_nodes if t.type.on_site else on_pairs)
            }
        )
        self.rows = EdgeRows(l_max, c)
        self.register_buffer("degree", degree_of_row(l_max), persistent=False)
        self.norm_node, self.norm_pair = (
            RMSNorm(rows) for rows in (degree_of_row(l_max), SO2Layout(l_max).degree_of_row)
        )
        node_channels = [c] * (config.layers + 2)
        self.expansion: Expansion | None = None
        if config.node_expansion:
            both = (sum(natural for natural, _ in node_channels), sum(p for _, p in node_channels))
            wide = (config.node_expansion * c[0], config.node_expansion * c[1])
            self.expansion = Expansion(l_max, both, wide)
            node_channels.append(wide)
        self.readout = LinearReadout(
            tables, node_channels, [c] * config.pair_layers, l_max, config.layers + 2
        )
        self.execution = Execution()

    def features(
        self,
        graph: NeighbourGraph,
        frames: PairFrames,
        density: Mapping[BlockType, Tensor],
        *,
        traces: bool = False,
    ) -> tuple[BlockFeatures, dict[BlockType, Tensor]]:
        """Return the features of all blocks, and the predicted label invariants; see `forward`."""
        with self.execution.products(graph.numbers.device):
            features, predicted = self._features(graph, frames, density, traces)
        return features.to(self.dtype), {t: x.to(self.dtype) for t, x in predicted.items()}

    def _features(
        self,
        graph: NeighbourGraph,
        frames: PairFrames,
        density: Mapping[BlockType, Tensor],
        traces: bool,
    ) -> tuple[BlockFeatures, dict[BlockType, Tensor]]:
        # 1. atoms: element, density, neighbourhood, messages within the shorter cutoff
        nodes, z = self._atoms(graph, frames.select(graph.edges), density, traces)
        predicted: dict[BlockType, Tensor] = {}
        types = block_types(graph)
        if traces and z is not None:
            predicted |= self._decode(z, graph, [t for t in types if t.on_site])
        # 2. pairs, from both ends, piece by piece; an atom gets the sum of its pairs
        made = list(self._pair_pieces(nodes[-1], graph, frames, traces))
        nodes.append(made[-1].sums)
        invariants = [m.invariants for m in made if m.invariants is not None]
        if traces and invariants:
            pair_types = [t for t in types if not t.on_site]
            predicted |= self._decode(torch.cat(invariants), graph, pair_types)
        # 3. the readout sees every layer
        layers = [
            [_joined(parts) for parts in zip(*y, strict=True)]
            for y in zip(*(m.pairs for m in made), strict=True)
        ]
        plus, minus = zip(*layers, strict=True)
        scale = torch.cat([m.scale for m in made])
        return BlockFeatures(self._expanded(nodes), plus, minus, scale), predicted

    def _expanded(self, nodes: Sequence[Tensor]) -> list[Tensor]:
        """Return what on-site blocks are read from: the features of every layer, and more."""
        made = [x * self.norm_node(x) for x in nodes]
        if self.expansion is not None:
            natural, pseudo = zip(*(x.split(self.channels, dim=2) for x in made), strict=True)
            made.append(self.expansion(torch.cat([*natural, *pseudo], dim=2)))
        return made

    def _pair_pieces(
        self, nodes: Tensor, graph: NeighbourGraph, frames: PairFrames, traces: bool
    ) -> Iterator["_Piece"]:
        """Yield the features of some pairs after the other, made from their atoms'."""
        tracegrad = _needed(self.pair_tracegrad, traces)
        normed = nodes * self.norm_node(nodes)
        sums = torch.zeros_like(normed)
        for part in frames.pieces(self.rows.at_once(len(frames.distance))):
            forward, backward = self._embed(self.pair_embedding, graph, part).chunk(2, dim=0)
            pairs = self._pairs(normed, part, (forward, backward))
            z = None
            if tracegrad is not None:
                z, groups = tracegrad(split_pair(*pairs[-1], self.l_max, self.channels))
                pairs[-1] = join_pair(groups, self.l_max, self.channels)
            scale = self.norm_pair(*(x for y in pairs for x in y))[:, 0, 0]
            fade = nearness(part.distance, self.config.pair_cutoff, self.config.message_range)
            back = part.scaled(fade * self.message_weight * scale)
            sums = self.rows.scatter(*pairs[-1], back, sums)
            yield _Piece(pairs, scale, z, sums)

    @torch.no_grad()
    def stream(
        self, graph: NeighbourGraph, frames: PairFrames, density: Mapping[BlockType, Tensor]
    ) -> NetworkOutput:
        """Return the same irreps as `forward`, without keeping the features: for large systems.

        Of a pair its irreps are all that remains, so that memory is a few hundred bytes a pair. The
        output has no features and no traces.
        """
        with self.execution.products(graph.numbers.device):
            nodes, _ = self._atoms(graph, frames.select(graph.edges), density, traces=False)
            parts: dict[BlockType, list[Tensor]] = {}
            start, sums = 0, torch.zeros_like(nodes[-1])
            for m in self._pair_pieces(nodes[-1], graph, frames, traces=False):
                plus, minus = zip(*m.pairs, strict=True)
                some = graph.pairs_alone(start, start + len(m.scale))
                found = self.readout(BlockFeatures([], plus, minus, m.scale).to(self.dtype), some)
                for t, y in found.items():
                    parts.setdefault(t, []).append(y)
                start, sums = start + len(m.scale), m.sums
            nodes = self._expanded([*nodes, sums])
            none = BlockFeatures(nodes, [], [], sums.new_zeros(0)).to(self.dtype)
            irreps = self.readout(none, graph.atoms_alone())
        irreps |= {t: torch.cat(y) for t, y in parts.items()}
        return NetworkOutput(
            irreps, {}, self.envelope(frames.distance), BlockFeatures([], [], [], sums)
        )

    @property
    def execution(self) -> Execution:
        """How the layers are run."""
        return self._execution

    @execution.setter
    def execution(self, execution: Execution) -> None:
        self._execution = execution
        for module in self.modules():
            if isinstance(module, SO2Convolution):
                module.compiled = execution.compiled

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.element.weight.dtype

    def forward(
        self,
        graph: NeighbourGraph,
        frames: PairFrames,
        density: Mapping[BlockType, Tensor],
        *,
        traces: bool = False,
    ) -> NetworkOutput:
        """Return the standardised irreps of all blocks of a batch.

        Args:
            graph: atoms and pairs.
            frames: frames of its pairs, in the precision of the network.
            density: on-site blocks of the density of H0's orbitals, `hamnet.data.samples.Sample`;
                looked at by networks with ``density_weight`` alone.
            traces: predict the label invariants as well, which training supervises.
        """
        features, predicted = self.features(graph, frames, density, traces=traces)
        irreps = self.readout(features, graph)
        return NetworkOutput(irreps, predicted, self.envelope(frames.distance), features)

    def _pairs(
        self, nodes: Tensor, frames: PairFrames, invariants: tuple[Tensor, Tensor]
    ) -> list[PairFeatures]:
        """Return the features of pairs after each layer."""
        i, j = (self.rows.gather(nodes, atoms, frames) for atoms in frames.pairs)
        pairs: list[PairFeatures] = []
        for layer in self.pair_layers:
            last = pairs[-1] if pairs else None
            pairs.append(self.execution.layer(layer, (i, j), last, invariants))
        return pairs

    def envelope(self, distance: Tensor) -> Tensor:
        """Return the factor of each pair's block, ``(P,)``: that of the labels, 0 at the cutoff."""
        factor: Tensor = envelope(distance, self.config.pair_cutoff) * self.decay(distance)
        return factor

    def trace_targets(
        self, units: Standardiser, block_type: BlockType, h: Tensor, distance: Tensor | None
    ) -> Tensor:
        """Return the label invariants that `traces` is to predict, ``(n, n_irreps)``.

        Args:
            units: statistics of the labels.
            block_type: of the rows.
            h: labels, Hartree, ``(n, n_numbers)``.
            distance: of pairs, Angstrom, ``(n,)``.
        """
        return units.traces(block_type, h, distance)

    def _atoms(
        self,
        graph: NeighbourGraph,
        frames: PairFrames,
        density: Mapping[BlockType, Tensor],
        traces: bool,
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return the node features ``(A, K, C)`` before and after each message layer.

        Where TraceGrad has something to do, also its invariants.
        """
        n_rows, n_atoms = (self.l_max + 1) ** 2, len(graph.numbers)
        element = self.element(self.message_embedding.index[graph.numbers])  # (A, C_natural)
        x = nn.functional.pad(element[:, None], (0, self.channels[1], 0, n_rows - 1))
        if self.density is not None:
            x = x + self.density(density, graph)
        invariants = self._embed(self.message_embedding, graph, frames)
        near = nearness(frames.distance, self.config.message_cutoff, self.config.message_range)
        fade = near * self.message_weight
        start = self._axial(invariants, frames, fade, n_atoms)
        stages = [x + nn.functional.pad(start, (0, self.channels[1]))]
        back = frames.scaled(fade)
        for layer in self.message_layers:
            stages.append(self.execution.layer(layer, stages[-1], frames, back, invariants))
        tracegrad = _needed(self.node_tracegrad, traces)
        if tracegrad is None:
            return stages, None
        z, groups = tracegrad(split_node(stages[-1], self.l_max, self.channels))
        stages[-1] = join_node(groups, self.l_max)
        return stages, z

    def _axial(self, invariants: Tensor, frames: PairFrames, fade: Tensor, n_atoms: int) -> Tensor:
        """Sum the harmonics of the neighbours' directions, ``(A, K, C_natural)``.

        Args:
            invariants: embedding of both directions, ``(2P, n_invariants)``.
            frames: of P pairs.
            fade: factor of each pair, ``(P,)``.
            n_atoms: number of atoms A.
        """
        degree, n = self.degree, self.channels[0]
        parity = 1 - 2 * (degree % 2).to(fade)  # of the opposite direction
        out = fade.new_zeros(n_atoms, len(degree), n)
        size = self.rows.at_once(len(fade))
        for part, f, both in zip(
            frames.pieces(size), fade.split(size), directions(invariants, size), strict=True
        ):
            y = part.axial_harmonics() * f[:, None]  # (P, K)
            for atoms, x, harmonics in zip(part.pairs, both, (y, y * parity), strict=True):
                rows = (
                    self.degree_embedding(x).view(-1, self.l_max + 1, n).index_select(1, degree)
                )  # (P, K, C)
                out = out.index_add(0, atoms, rows * harmonics[:, :, None])
        return out

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
