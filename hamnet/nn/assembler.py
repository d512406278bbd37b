"""From irreps to the flat entries of Hermitian blocks, one matrix product a block type."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hamnet.blocks import SPINOR_PARTNER
from hamnet.graph import NeighbourGraph
from hamnet.irreps import BlockIrreps, BlockType, into_frame, out_of_frame
from hamnet.nn.frames import PairFrames
from hamnet.nn.readout import block_rows


class BlockAssembler(nn.Module):
    """``vec(H_ij) = Q D^T y``, grouped by element pair, scattered into the entries of a layout.

    The irreps ``y`` of a pair are rotated out of its frame once (D), then one product with the
    orthonormal Q makes all blocks of a type.

    Only canonical pairs are written and on-site blocks are symmetric by their irreps, so the matrix
    is Hermitian by construction. Where a layout has the partner of a graph's pair, its block is the
    transposed one, which the index says, and with the other sign for K (`SPINOR_PARTNER`).

    Args:
        tables: irreps of every block type.
    """

    def __init__(self, tables: Sequence[BlockIrreps]) -> None:
        super().__init__()
        self.tables = {t.type: t for t in tables}
        for t in tables:
            self.register_buffer(f"matrix_{t.type.key}", t.matrix, persistent=False)

    def matrix(self, block_type: BlockType) -> Tensor:
        """Return the orthonormal change of basis Q, ``(n_matrices * n_i * n_j, n_numbers)``."""
        return self.get_buffer(f"matrix_{block_type.key}")

    def forward(
        self,
        irreps: Mapping[BlockType, Tensor],
        index: Mapping[BlockType, Tensor],
        n_entries: int,
        graph: NeighbourGraph,
        frames: PairFrames,
    ) -> Tensor:
        """Return the entries ``(n_entries,)``; pairs without irreps are zero.

        Args:
            irreps: ``(n_rows, n_numbers)`` of each block type, Hartree, pairs in their frames.
            index: where each number of a block goes, ``(n_rows, n_matrices * n_i * n_j)``.
            n_entries: number of entries of the layout(s).
            graph: the pairs.
            frames: their frames, in the precision of the irreps.
        """
        first = next(iter(irreps.values()))
        entries = first.new_zeros(n_entries)
        for t, y in irreps.items():
            h = y
            if not t.on_site:
                rows = block_rows(graph, t)
                h = out_of_frame(self.tables[t], y, [d[rows] for d in frames.rotations])
            blocks = self._turned(h @ self.matrix(t).T.to(h.dtype), t, graph)
            entries = entries.index_put((index[t].flatten(),), blocks.flatten())
        return entries

    def inverse(
        self,
        entries: Tensor,
        index: Mapping[BlockType, Tensor],
        graph: NeighbourGraph,
        frames: PairFrames,
    ) -> dict[BlockType, Tensor]:
        """Return the irreps ``(n_rows, n_numbers)`` of given entries ``(n_entries,)``."""
        out = {}
        for t, places in index.items():
            h = self._turned(entries[places], t, graph) @ self.matrix(t).to(entries.dtype)
            if not t.on_site:
                rows = block_rows(graph, t)
                h = into_frame(self.tables[t], h, [d[rows] for d in frames.rotations])
            out[t] = h
        return out

    def _turned(self, blocks: Tensor, t: BlockType, graph: NeighbourGraph) -> Tensor:
        """Change the sign of K where the layout holds the partner of a pair."""
        n_matrices = self.tables[t].n_matrices
        if t.on_site or n_matrices == 1:
            return blocks
        rows = block_rows(graph, t)
        i, j = graph.pairs[:, rows]
        weight = torch.tensor([4, 2, 1], device=i.device)
        place = (graph.shifts[rows].sign().to(weight) * weight).sum(dim=1)  # see `is_canonical`
        swapped = (place < 0) | ((place == 0) & (i > j))
        partner = torch.from_numpy(SPINOR_PARTNER).to(blocks)
        signs = torch.where(swapped[:, None], partner, torch.ones_like(partner))
        turned: Tensor = blocks.unflatten(1, (n_matrices, -1)) * signs[:, :, None]
        return turned.flatten(1)
