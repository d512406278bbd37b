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
        nodes: laboratory rows, natural channels first, ``(A, K, C)``.
        pairs: edge rows, ``(P, K, 2C)``, channels as `PairFrames.exchange` gives them.
    """

    nodes: Tensor
    pairs: Tensor


def block_rows(graph: NeighbourGraph, block_type: BlockType) -> Tensor | slice:
    """Return the rows of a block type: atoms of the element, or the slice of the pair type."""
    if block_type.on_site:
        return torch.nonzero(graph.numbers == block_type.z_i)[:, 0]
    index = graph.pair_types.index((block_type.z_i, block_type.z_j))
    start = sum(graph.pair_counts[:index])
    return slice(start, start + graph.pair_counts[index])


def block_types(graph: NeighbourGraph) -> list[BlockType]:
    """Return the block types that occur in a graph: elements, then element pairs."""
    elements = torch.unique(graph.numbers).tolist()
    return [BlockType.atom(z) for z in elements] + [BlockType.pair(t) for t in graph.pair_types]


class LinearReadout(nn.Module):
    """One matrix for each block type and irrep class (`hamnet.irreps.IrrepClass`).

    On site an irrep is read from features of its own degree and parity. For a pair, components of
    one ``|m|`` are read from features of that ``|m|``, of all degrees and (m > 0) both parities,
    and of the same sign under exchange of the atoms. These are all the linear maps that respect
    rotations, mirrors and permutations. Since the map is linear, its optimum for given features is
    a least-squares problem: see `hamnet.training.readout`.

    Args:
        tables: irreps of every block type.
        node_channels: natural and pseudo channels of a node.
        pair_channels: the same of one direction of a pair.
        l_max: largest degree of the features.
    """

    def __init__(
        self,
        tables: Sequence[BlockIrreps],
        node_channels: tuple[int, int],
        pair_channels: tuple[int, int],
        l_max: int,
    ) -> None:
        super().__init__()
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
        for block_type, table in self.tables.items():
            for k, irrep_class in enumerate(table.classes):
                yield block_type, irrep_class, f"{block_type.key}_{k}"

    def n_inputs(self, block_type: BlockType, c: IrrepClass) -> int:
        """Return the number of features from which a class is read."""
        natural, pseudo = self.node_channels if block_type.on_site else self.pair_channels
        if block_type.on_site:
            return pseudo if c.pseudo else natural
        directions = 1 if c.exchange else 2
        parities = natural + pseudo if c.order else (pseudo if c.pseudo else natural)
        return self.layout.degrees[c.order] * directions * parities

    def inputs(
        self, features: BlockFeatures, rows: Tensor | slice, block_type: BlockType, c: IrrepClass
    ) -> Tensor:
        """Return what a class is read from, ``(n_rows, n_components, n_inputs)``."""
        natural, pseudo = self.node_channels if block_type.on_site else self.pair_channels
        if block_type.on_site:
            x = features.nodes[rows][:, c.order**2 : (c.order + 1) ** 2]
            return x[..., natural:] if c.pseudo else x[..., :natural]
        start = sum(self.layout.row_splits[: c.order])
        x = features.pairs[rows][:, start : start + self.layout.row_splits[c.order]]
        parts = x.split([natural, natural, pseudo, pseudo], dim=2)  # even, odd of each parity
        chosen = parts if c.exchange == 0 else (parts[0::2] if c.exchange > 0 else parts[1::2])
        if c.order == 0:
            half = len(chosen) // 2
            chosen = chosen[half:] if c.pseudo else chosen[:half]
        joined = torch.cat(list(chosen), dim=2)
        n = self.layout.degrees[c.order]
        flat: Tensor = joined.unflatten(1, (c.n_components, n)).flatten(2)
        return flat

    def forward(self, features: BlockFeatures, graph: NeighbourGraph) -> dict[BlockType, Tensor]:
        """Return the standardised irreps of each block type present, ``(n_rows, n_numbers)``.

        Columns are those of `BlockIrreps.classes`; pairs are in their own frames.
        """
        out = {}
        for block_type in block_types(graph):
            rows = block_rows(graph, block_type)
            parts = []
            for k, c in enumerate(self.tables[block_type].classes):
                name = f"{block_type.key}_{k}"
                y = self.inputs(features, rows, block_type, c) @ self.weights[name]
                if name in self.biases:
                    y = y + self.biases[name]
                parts.append(y.flatten(1))
            out[block_type] = torch.cat(parts, dim=1)
        return out
