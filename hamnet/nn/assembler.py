"""From irreps to the flat entries of Hermitian blocks, one matrix product a block type."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hamnet.irreps import BlockIrreps, BlockType


class BlockAssembler(nn.Module):
    """``vec(H_ij) = Q h``, grouped by element pair, scattered into the entries of a layout.

    Only canonical pairs are written and on-site blocks are symmetric by their irreps, so the matrix
    is Hermitian by construction.

    Args:
        tables: irreps of every block type.
    """

    def __init__(self, tables: Sequence[BlockIrreps]) -> None:
        super().__init__()
        for t in tables:
            self.register_buffer(f"matrix_{t.type.key}", t.matrix, persistent=False)

    def matrix(self, block_type: BlockType) -> Tensor:
        """Return the orthonormal change of basis Q, ``(n_i * n_j, n_numbers)``."""
        return self.get_buffer(f"matrix_{block_type.key}")

    def forward(
        self, irreps: Mapping[BlockType, Tensor], index: Mapping[BlockType, Tensor], n_entries: int
    ) -> Tensor:
        """Return the entries ``(n_entries,)``; pairs without irreps are zero.

        Args:
            irreps: ``(n_rows, n_numbers)`` of each block type, Hartree.
            index: where each number of a block goes, ``(n_rows, n_i * n_j)``.
            n_entries: number of entries of the layout(s).
        """
        dtype = next(iter(irreps.values())).dtype
        entries = torch.zeros(n_entries, dtype=dtype, device=next(iter(irreps.values())).device)
        for block_type, h in irreps.items():
            blocks = h @ self.matrix(block_type).T.to(dtype)
            entries = entries.index_put((index[block_type].flatten(),), blocks.flatten())
        return entries

    def inverse(
        self, entries: Tensor, index: Mapping[BlockType, Tensor]
    ) -> dict[BlockType, Tensor]:
        """Return the irreps ``(n_rows, n_numbers)`` of given entries ``(n_entries,)``."""
        return {t: entries[i] @ self.matrix(t).to(entries.dtype) for t, i in index.items()}
