"""The last, linear map: from features to standardised irreps of every block type."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hamnet.graph import NeighbourGraph
from hamnet.irreps import BlockIrreps, BlockType, IrrepClass
from hamnet.so3.layout import SO2Layout


@dataclass(frozen=True, eq=False)
class BlockFeatures:
    """Equivariant features of all blocks of a batch.

    Attributes:
        nodes: of every layer, laboratory rows, natural channels first, ``(A, K, C)``.
        plus: of every layer, pairs in edge rows, even under exchange of the atoms (`EdgeRows`),
            ``(P, K, C)``.
        minus: the same, odd.
        scale: what all features of a pair are to be multiplied by, ``(P,)``.
    """

    nodes: Sequence[Tensor]
    plus: Sequence[Tensor]
    minus: Sequence[Tensor]
    scale: Tensor

    def to(self, dtype: torch.dtype) -> "BlockFeatures":
        """Return the same features in another precision."""
        nodes, plus, minus = (
            [x.to(dtype) for x in part] for part in (self.nodes, self.plus, self.minus)
        )
        return BlockFeatures(nodes, plus, minus, self.scale.to(dtype))


def block_rows(graph: NeighbourGraph, block_type: BlockType) -> Tensor | slice:
    """Return the rows of a block type: atoms of the element, or the slice of the pair type."""
    if block_type.on_site:
        return graph.element_atoms[graph.elements.index(block_type.z_i)]
    index = graph.pair_types.index((block_type.z_i, block_type.z_j))
    start = sum(graph.pair_counts[:index])
    return slice(start, start + graph.pair_counts[index])


def block_types(graph: NeighbourGraph) -> list[BlockType]:
    """Return the block types that occur in a graph: elements, then element pairs."""
    atoms = [BlockType.atom(z) for z in graph.elements]
    return atoms + [BlockType.pair(t) for t in graph.pair_types]


class LinearReadout(nn.Module):
    """One matrix for each block type and irrep class (`hamnet.irreps.IrrepClass`).

    On site an irrep is read from features of its own degree and parity. For a pair, components of
    one ``|m|`` are read from features of that ``|m|``, of all degrees and (m > 0) both parities,
    and of the same sign under exchange of the atoms. These are all the linear maps that respect
    rotations, mirrors and permutations. Since the map is linear, its optimum for given features is
    a least-squares problem: see `hamnet.training.readout`.

    Args:
        tables: irreps of every block type.
        node_channels: natural and pseudo channels of each layer of node features.
        pair_channels: the same of pair features.
        l_max: largest degree of the features.
        n_layers: layers of node features that are not made of others; all by default.
    """

    def __init__(
        self,
        tables: Sequence[BlockIrreps],
        node_channels: Sequence[tuple[int, int]],
        pair_channels: Sequence[tuple[int, int]],
        l_max: int,
        n_layers: int | None = None,
    ) -> None:
        super().__init__()
        self.n_layers = len(node_channels) if n_layers is None else n_layers
        self.tables = {t.type: t for t in tables}
        self.node_channels, self.pair_channels = node_channels, pair_channels
        self.layout = SO2Layout(l_max)
        self.weights = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        for block_type, c, name in self.classes():
            n_in = self.n_inputs(block_type, c)
            self.weights[name] = nn.Parameter(torch.zeros(n_in, c.n_irreps))
            if c.is_invariant:
                self.biases[name] = nn.Parameter(torch.zeros(c.n_irreps))

    def classes(self) -> Iterator[tuple[BlockType, IrrepClass, str]]:
        """Yield every (block type, irrep class) and the name of its weights."""
        for block_type in self.tables:
            for irrep_class, name in self._classes_of(block_type):
                yield block_type, irrep_class, name

    def _classes_of(self, block_type: BlockType) -> Iterator[tuple[IrrepClass, str]]:
        for k, irrep_class in enumerate(self.tables[block_type].classes):
            yield irrep_class, f"{block_type.key}_{k}"

    def n_inputs(self, block_type: BlockType, c: IrrepClass) -> int:
        """Return the number of features from which a class is read."""
        if block_type.on_site:
            return sum(channels[c.pseudo] for channels in self.node_channels)
        parities = sum(sum(ch) if c.order else ch[c.pseudo] for ch in self.pair_channels)
        return self.layout.degrees[c.order] * (1 if c.exchange else 2) * parities

    def layers(self, block_type: BlockType, c: IrrepClass) -> Tensor:
        """Return the number of the layer that makes each input of a class; 0 for its bias."""
        if block_type.on_site:
            sizes = [channels[c.pseudo] for channels in self.node_channels]
            repeats = 1
        else:
            n_sources = 1 if c.exchange else 2
            parities = (0, 1) if c.order else (int(c.pseudo),)
            sizes = [ch[p] for p in parities for _ in range(n_sources) for ch in self.pair_channels]
            repeats = self.layout.degrees[c.order]
        n_layers = len(self.node_channels if block_type.on_site else self.pair_channels)
        numbers = torch.arange(len(sizes)) % n_layers
        found = numbers.repeat_interleave(torch.tensor(sizes)).repeat(repeats)
        return torch.cat([found, found.new_zeros(int(c.is_invariant))])

    def inputs(
        self, features: BlockFeatures, graph: NeighbourGraph
    ) -> Iterator[tuple[BlockType, IrrepClass, str, Tensor]]:
        """Yield what every class is read from, for the block types of a graph in their order.

        Those of pairs are still to be multiplied by `BlockFeatures.scale`.

        Yields:
            Block type, class, name of the weights, features ``(n_rows, n_components, n_inputs)``.
        """
        # Features of atoms or of pairs are absent where a graph has only the others.
        # Everything is cut by `split`, whose gradient is one copy; that of a slice is a whole
        # tensor of zeros.
        degrees = [2 * l + 1 for l in range(self.layout.l_max + 1)]
        nodes = [
            _cut(x, channels, degrees)
            for x, channels in zip(features.nodes, self.node_channels, strict=False)
        ]
        pairs = [
            [
                _cut(x, channels, self.layout.row_splits, graph.pair_counts)
                for x, channels in zip(layers, self.pair_channels, strict=False)
            ]
            for layers in (features.plus, features.minus)
        ]
        for block_type in block_types(graph):
            rows = block_rows(graph, block_type)
            for c, name in self._classes_of(block_type):
                if block_type.on_site:
                    parts = [x[c.pseudo][c.order][0][rows] for x in nodes]
                    yield block_type, c, name, torch.cat(parts, dim=2)
                    continue
                index = graph.pair_types.index((block_type.z_i, block_type.z_j))
                sources = {1: pairs[:1], -1: pairs[1:], 0: pairs}[c.exchange]
                parities = (0, 1) if c.order else (int(c.pseudo),)
                parts = [x[p][c.order][index] for p in parities for s in sources for x in s]
                joined, n = torch.cat(parts, dim=2), self.layout.degrees[c.order]
                yield block_type, c, name, joined.unflatten(1, (c.n_components, n)).flatten(2)

    def design(
        self, features: BlockFeatures, graph: NeighbourGraph, envelope: Tensor
    ) -> Iterator[tuple[BlockType, IrrepClass, str, Tensor]]:
        """Yield what multiplies the weights of every class and, last, its bias; float64.

        Args:
            features: of all blocks.
            graph: atoms and pairs.
            envelope: factor of each pair's block, ``(P,)``.

        Yields:
            As `inputs`, ``(n_rows, n_components, n_inputs)``, one more input with a bias.
        """
        for block_type, c, name, x in self.inputs(features, graph):
            pairs = None if block_type.on_site else block_rows(graph, block_type)
            rows = x.double()
            if pairs is not None:
                rows = rows * features.scale[pairs].double()[:, None, None]
            if c.is_invariant:
                rows = torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)
            if pairs is not None:
                rows = rows * envelope[pairs].double()[:, None, None]
            yield block_type, c, name, rows

    def forward(self, features: BlockFeatures, graph: NeighbourGraph) -> dict[BlockType, Tensor]:
        """Return the standardised irreps of each block type present, ``(n_rows, n_numbers)``.

        Columns are those of `BlockIrreps.classes`; pairs are in their own frames.
        """
        scales = features.scale[:, None, None].split(graph.pair_counts)
        scale_of = dict(zip(graph.pair_types, scales, strict=True))
        parts: dict[BlockType, list[Tensor]] = {}
        for t, _, name, x in self.inputs(features, graph):
            y = x @ self.weights[name]
            if not t.on_site:
                y = y * scale_of[t.z_i, t.z_j]
            if name in self.biases:
                y = y + self.biases[name]
            parts.setdefault(t, []).append(y.flatten(1))
        return {t: torch.cat(y, dim=1) for t, y in parts.items()}


def _cut(
    x: Tensor, channels: tuple[int, int], rows: list[int], counts: Sequence[int] | None = None
) -> list[list[tuple[Tensor, ...]]]:
    """Cut features ``(N, K, C)`` by parity, then by degree or order, then by the counts of N."""
    return [
        [part.split(len(x) if counts is None else counts) for part in half.split(rows, dim=1)]
        for half in x.split(channels, dim=2)
    ]
