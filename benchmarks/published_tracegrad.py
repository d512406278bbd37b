"""TraceGrad as published (Yin et al., arXiv 2405.05722), for the ablation; not part of hamnet.

On pairs only, in the place of `hamnet.nn.tracegrad`:

    q_k = sum_l sum_cc' W_l[c, c', k] sum_m f_lmc f_lmc' / sqrt(2l+1)      k = 1..1024
    z = SiLU(LayerNorm(q)) W1;   v = d(sum z)/df by autograd;   f <- f + v

``z`` predicts the traces of shell pairs, ``T_ab = ||H_ab||^2``, normalised over the shell pairs of
each block (LayerNorm of the labels). 64, 32, 16, 8, 8 ... natural channels of l = 0, 1, ... enter,
as many as make the published 5.6 million weights.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hamnet.irreps import BlockIrreps, BlockType
from hamnet.models.config import ModelConfig
from hamnet.models.so2_network import SO2Network
from hamnet.nn.standardise import Standardiser
from hamnet.nn.tracegrad import join_pair, split_pair
from hamnet.so3.layout import SO2Layout

N_INVARIANTS = 1024
CHANNELS = (64, 32, 16, 8)
"""For l = 0, 1, ...; the last one for all that follow."""


class PublishedTraceGrad(nn.Module):
    """Full-rank invariants, autograd, a cotangent of ones.

    Args:
        l_max: largest degree.
        channels: natural and pseudo channels of a pair.
        width: size of ``z``.
    """

    def __init__(self, l_max: int, channels: tuple[int, int], width: int) -> None:
        super().__init__()
        self.l_max, self.channels = l_max, channels
        degree = SO2Layout(l_max).degree_of_row
        self.rows = [torch.nonzero(degree == l)[:, 0].tolist() for l in range(l_max + 1)]
        used = [min(channels[0], CHANNELS[min(l, len(CHANNELS) - 1)]) for l in range(l_max + 1)]
        self.full_rank = nn.ParameterList(
            torch.randn(c * c, N_INVARIANTS) / math.sqrt(sum(n * n for n in used)) for c in used
        )
        self.used = used
        self.norm = nn.LayerNorm(N_INVARIANTS)
        self.W1 = nn.Linear(N_INVARIANTS, width)

    def encode(self, plus: Tensor, minus: Tensor) -> Tensor:
        """Return the ``z`` of both directed edges, summed; features ``(P, K, C)`` in edge rows.

        The directed edges' own features are (plus + minus) and (plus - minus), over sqrt 2.
        """
        x = torch.cat([plus + minus, plus - minus]) / math.sqrt(2)
        q = x.new_zeros(len(x), N_INVARIANTS)
        for l, (rows, n, weight) in enumerate(
            zip(self.rows, self.used, self.full_rank, strict=True)
        ):
            f = x[:, rows, :n]
            products = torch.einsum("nmc,nmd->ncd", f, f) / math.sqrt(2 * l + 1)
            q = q + products.flatten(1) @ weight
        z: Tensor = self.W1(nn.functional.silu(self.norm(q)))
        return z[: len(plus)] + z[len(plus) :]

    @staticmethod
    def changes_features() -> bool:
        """Return that it always does: it has no gain."""
        return True

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return ``z`` and the new features, group by group."""
        both = join_pair(features, self.l_max, self.channels)
        differentiable = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            leaves = [x if x.requires_grad else x.clone().requires_grad_() for x in both]
            z = self.encode(*leaves)
            v = torch.autograd.grad(z.sum(), leaves, create_graph=differentiable)
        plus, minus = (x + change for x, change in zip(both, v, strict=True))
        z = z if differentiable else z.detach()
        return z, split_pair(plus, minus, self.l_max, self.channels)


class PublishedNetwork(SO2Network):
    """The same backbone with the published TraceGrad on its pairs."""

    def __init__(
        self, config: ModelConfig, tables: Sequence[BlockIrreps], n_neighbours: float
    ) -> None:
        plain = config.model_copy(update={"tracegrad": "none"})
        super().__init__(plain, tables, n_neighbours)
        width = config.tracegrad_hidden
        self.pair_tracegrad = PublishedTraceGrad(self.l_max, self.channels, width)
        pairs = {t.type: t for t in tables if not t.type.on_site}
        self.shell_pairs = {k: _shell_pairs(t) for k, t in pairs.items()}
        self.trace_decoder = nn.ModuleDict(
            {k.key: nn.Linear(width, int(s.max()) + 1) for k, s in self.shell_pairs.items()}
        )

    def trace_targets(
        self, units: Standardiser, block_type: BlockType, h: Tensor, distance: Tensor | None
    ) -> Tensor:
        """Return the LayerNormed traces of shell pairs, ``(n, n_shell_pairs)``."""
        shell_pair = self.shell_pairs[block_type].to(h.device)
        traces = h.new_zeros(len(h), int(shell_pair.max()) + 1)
        traces.index_add_(1, shell_pair, h.square())
        return nn.functional.layer_norm(traces, traces.shape[1:], eps=1e-12)


def _shell_pairs(table: BlockIrreps) -> Tensor:
    """Return the number of the shell pair (a, b), a <= b for one element, of each column."""
    known: dict[tuple[int, int], int] = {}
    of_irrep = torch.tensor([known.setdefault((p.a, p.b), len(known)) for p in table.irreps])
    return of_irrep[table.irrep_of_column]
