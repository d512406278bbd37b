"""What training minimises."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hamnet.data.samples import Sample
from hamnet.models import HamiltonianModel
from hamnet.models.so2_network import NetworkOutput
from hamnet.nn.readout import block_rows
from hamnet.training import parallel
from hamnet.training.config import LossConfig


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss and its parts.

    Attributes:
        total: what is minimised: of several processes, the mean is the loss of the whole batch.
        value: loss of the whole batch, without gradient.
        hamiltonian: error of the irreps.
        trace: error of the predicted label invariants; zero without TraceGrad.
    """

    total: Tensor
    value: Tensor
    hamiltonian: Tensor
    trace: Tensor


def compute_loss(
    model: HamiltonianModel,
    batch: Sample,
    config: LossConfig,
    ramp: float = 1.0,
    *,
    counts: bool = True,
) -> Loss:
    """Return the loss of a batch.

    The error of an irrep is measured in two units: its own scale, so that small irreps are learnt,
    and the mean scale of all, so that the matrix elements are. Squared errors of irreps are squared
    errors of matrix elements, because the change of basis is orthogonal.

    The trace loss is weighted to a fixed share of the Hamiltonian's (TraceGrad's lambda), without
    a gradient through the weight.

    Args:
        model: network and units.
        batch: samples with goals (`HamiltonianModel.with_goals`), this process's share of a batch.
        config: weights of the parts.
        ramp: share of the trace loss, 0 at the start of training.
        counts: False for a share that has weight zero.
    """
    batch = batch.to(model.device)
    frames = model.frames(batch.graph)
    out: NetworkOutput = model.network(
        batch.graph, frames.to(model.dtype), batch.density, traces=True
    )
    # 1. sums over this process's share, and over all
    local = (_sums(model, batch, out) * (1.0 if counts else 0.0)).unbind()
    whole = parallel.add(torch.stack(local).detach().clone()).unbind()
    # 2. the mean error in both units
    n, scales, n_traces = whole[3:]
    hamiltonian, hamiltonian_part = (
        config.relative * x[0] / n + config.absolute * x[1] / scales for x in (whole, local)
    )
    # 3. the invariants, at a share of it
    trace, trace_part = (x[2] / n_traces.clamp(min=1.0) for x in (whole, local))
    factor = (
        ramp * config.trace * (hamiltonian / trace.clamp(min=1e-12)).clamp(max=config.trace_max)
    )
    total = parallel.size() * (hamiltonian_part + factor * trace_part)
    return Loss(total, hamiltonian + factor * trace, hamiltonian, trace)


def _sums(model: HamiltonianModel, batch: Sample, out: NetworkOutput) -> Tensor:
    """Return squared error, absolute error, that of the invariants, and what they are divided by.

    Squared errors of irreps and invariants in their own scale, absolute errors in Hartree; then
    the number of irreps' components, the sum of their scales, and the number of invariants.
    """
    relative, absolute, scales, n = [], [], [], 0
    for t, y in out.irreps.items():
        scale = model.standardiser.shift_scale(t)[1].to(y.dtype)
        if not t.on_site:
            y = out.envelope[block_rows(batch.graph, t)][:, None] * y  # noqa: PLW2901
        error = y - batch.goals[t].to(y.dtype)  # (n_rows, n_numbers)
        relative.append(error.square().sum())
        absolute.append((error * scale).abs().sum())
        scales.append(scale.sum() * len(y))
        n += y.numel()
    traces, n_traces = [out.envelope.new_zeros(())], 0
    for t, predicted in out.traces.items():
        traces.append((predicted - batch.traces[t].to(predicted.dtype)).square().sum())
        n_traces += predicted.numel()
    sums = [torch.stack(parts).sum() for parts in (relative, absolute, traces, scales)]
    numbers = [torch.full_like(sums[0], float(k), requires_grad=False) for k in (n, n_traces)]
    return torch.stack([*sums[:3], numbers[0], sums[3], numbers[1]])
