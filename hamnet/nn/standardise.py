"""Targets in their natural units: shift and scale of every irrep of every block type."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from hamnet.irreps import BlockIrreps, BlockType

TRACE_FLOOR = 1e-6
"""Hartree; smaller norms are noise of the quadrature."""

SCALE_FLOOR = 1e-5
"""Hartree; irreps that vanish by symmetry in all the data keep a finite scale."""


class Standardiser(nn.Module):
    """``h = env (shift + scale y)``, and the label invariants on a log scale.

    Irreps of pairs are in the pairs' frames, where every natural component with m = 0 may have a
    mean. Shift: mean of such components and of on-site scalars. Scale: root mean square of what
    remains. Invariants of the labels are norms of
    irreps, ``T = ||h||^2`` (their sum over l is the trace of TraceGrad, tr(H_ab H_ab^dagger)), as
    ``(log(T + tau^2)/2 - mean - slope (r - <r>)) / std``.

    Args:
        tables: irreps of every block type.
    """

    def __init__(self, tables: Sequence[BlockIrreps]) -> None:
        super().__init__()
        self.tables = {t.type: t for t in tables}
        for table in tables:
            key, n, k = table.type.key, table.n_numbers, table.n_irreps
            self.register_buffer(f"shift_{key}", torch.zeros(n, dtype=torch.float64))
            self.register_buffer(f"scale_{key}", torch.ones(n, dtype=torch.float64))
            # rows: mean, slope in distance, standard deviation
            self.register_buffer(f"trace_{key}", torch.zeros(3, k, dtype=torch.float64))
            self.register_buffer(f"distance_{key}", torch.zeros((), dtype=torch.float64))

    def shift_scale(self, block_type: BlockType) -> tuple[Tensor, Tensor]:
        """Return shift and scale ``(n_numbers,)``, Hartree."""
        key = block_type.key
        return self.get_buffer(f"shift_{key}"), self.get_buffer(f"scale_{key}")

    def physical(self, block_type: BlockType, y: Tensor, envelope: Tensor | None) -> Tensor:
        """Return irreps in Hartree, float64, ``(n_rows, n_numbers)``."""
        shift, scale = self.shift_scale(block_type)
        h = shift + scale * y.to(scale.dtype)
        return h if envelope is None else h * envelope.to(scale.dtype)[:, None]

    def traces(self, block_type: BlockType, h: Tensor, distance: Tensor | None) -> Tensor:
        """Return the standardised invariants of irreps ``h`` in Hartree, ``(n, n_irreps)``."""
        mean, slope, std = self.get_buffer(f"trace_{block_type.key}")
        log = self._log_norm(block_type, h)
        if distance is not None:
            centre = self.get_buffer(f"distance_{block_type.key}")
            log = log - slope * (distance.to(h.dtype) - centre)[:, None]
        standardised: Tensor = (log - mean) / std
        return standardised

    def _log_norm(self, block_type: BlockType, h: Tensor) -> Tensor:
        table = self.tables[block_type]
        square = h.new_zeros(len(h), table.n_irreps)
        square.index_add_(1, table.irrep_of_column.to(h.device), h.square())
        return 0.5 * torch.log(square + TRACE_FLOOR**2)

    def fit(
        self,
        irreps: Mapping[BlockType, Tensor],
        distances: Mapping[BlockType, Tensor],
        envelopes: Mapping[BlockType, Tensor],
    ) -> None:
        """Set shift, scale and trace statistics from training data.

        Args:
            irreps: targets in Hartree, ``(n_rows, n_numbers)``.
            distances: Angstrom, ``(n_rows,)``, for the pair types.
            envelopes: factors of the blocks, likewise.
        """
        for block_type, h in irreps.items():
            table, key = self.tables[block_type], block_type.key
            shift, scale = self.shift_scale(block_type)
            fade = envelopes.get(block_type, torch.ones(len(h)))[:, None].to(h)
            for c in table.classes:
                part = h[:, c.columns]
                if c.is_invariant:
                    mean = (fade * part).sum(dim=0) / fade.square().sum()
                    shift[c.columns] = mean
                    part = part - fade * mean
                rms = part.square().view(-1, c.n_irreps).mean(dim=0).sqrt()
                scale[c.columns] = rms.clamp(min=SCALE_FLOOR).repeat(c.n_components)
            log = self._log_norm(block_type, h)
            mean = log.mean(dim=0)
            slope = torch.zeros_like(mean)
            if block_type in distances:
                r = distances[block_type].to(h.dtype)
                self.get_buffer(f"distance_{key}").copy_(r.mean())
                r = r - r.mean()
                slope = (r @ (log - mean)) / r.square().sum().clamp(min=1e-12)
                log = log - slope * r[:, None]
            std = (log - mean).square().mean(dim=0).sqrt().clamp(min=1e-3)
            self.get_buffer(f"trace_{key}").copy_(torch.stack([mean, slope, std]))
