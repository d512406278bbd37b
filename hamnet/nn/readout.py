"""The last, linear map: from features to standardised irreps of every block type."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hamnet.graph import NeighbourGraph
from hamnet.irreps import BlockIrreps, BlockType, IrrepClass


@dataclass(frozen=True, eq=False)
class BlockFeatures:
    """Equivariant features of all blocks of a batch, laboratory rows.

    Attributes:
        nodes: on-site, ``(A, K, C)``, natural channels first.
        pairs: ``(P, K, 2G)``: natural even and odd under exchange, pseudo even and odd.
        envelope: smooth factor of each pair's block, 0 at the pair cutoff, ``(P,)``.
        node_natural: number of natural channels of a node.
        pair_natural: number of natural channels of a pair (even + odd).
    """

    nodes: Tensor
    pairs: Tensor
    envelope: Tensor
    node_natural: int
    pair_natural: int


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

    An irrep is read from the features of its own degree, parity and behaviour under exchange, so
    that the blocks transform exactly as a Hamiltonian's do. Since the map is linear, its optimum
    for given features is a least-squares problem: see `hamnet.training.readout`.

    Args:
        tables: irreps of every block type.
        node_channels: natural and pseudo channels of a node.
        pair_channels: natural and pseudo channels of one direction of a pair.
    """

    def __init__(
        self,
        tables: Sequence[BlockIrreps],
        node_channels: tuple[int, int],
        pair_channels: tuple[int, int],
    ) -> None:
        super().__init__()
        self.tables = {t.type: t for t in tables}
        self.node_channels, self.pair_channels = node_channels, pair_channels
        self.weights = nn.ParameterDict()
        self.biases = nn.ParameterDict()
        for block_type, irrep_class, name in self.classes():
            channels = self._channels(block_type, irrep_class)
            n_in = channels.stop - channels.start
            shape = (n_in, irrep_class.n_irreps)
            self.weights[name] = nn.Parameter(torch.randn(shape) / math.sqrt(max(n_in, 1)))
            if irrep_class.is_invariant:
                self.biases[name] = nn.Parameter(torch.zeros(irrep_class.n_irreps))

    def classes(self) -> Iterator[tuple[BlockType, IrrepClass, str]]:
        """Yield every (block type, irrep class) and the name of its weights."""
        for block_type, table in self.tables.items():
            for k, irrep_class in enumerate(table.classes):
                yield block_type, irrep_class, f"{block_type.key}_{k}"

    def _channels(self, block_type: BlockType, irrep_class: IrrepClass) -> slice:
        if block_type.on_site:
            natural, pseudo = self.node_channels
            return slice(natural, natural + pseudo) if irrep_class.pseudo else slice(0, natural)
        natural, pseudo = self.pair_channels
        start, n = (2 * natural, pseudo) if irrep_class.pseudo else (0, natural)
        first = start + (n if irrep_class.exchange == -1 else 0)
        return slice(first, first + (n if irrep_class.exchange else 2 * n))

    def inputs(
        self, features: BlockFeatures, rows: Tensor | slice, block_type: BlockType, c: IrrepClass
    ) -> Tensor:
        """Return what a class is read from: ``(n_rows, 2l+1, n_in)``."""
        source = features.nodes if block_type.on_site else features.pairs
        components = slice(c.l**2, (c.l + 1) ** 2)
        return source[rows][:, components, self._channels(block_type, c)]

    def forward(self, features: BlockFeatures, graph: NeighbourGraph) -> dict[BlockType, Tensor]:
        """Return the standardised irreps of each block type present, ``(n_rows, n_numbers)``.

        Columns are those of `BlockIrreps.matrix`.
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
