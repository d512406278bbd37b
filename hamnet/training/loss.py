"""What training minimises."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hamnet.data.samples import Sample
from hamnet.irreps import BlockType
from hamnet.models import HamiltonianModel
from hamnet.models.so2_network import NetworkOutput
from hamnet.nn.readout import block_rows
from hamnet.training.config import LossConfig


@dataclass(frozen=True, eq=False)
class Loss:
    """The loss and its parts.

    Attributes:
        total: what is minimised.
        hamiltonian: error of the irreps.
        trace: error of the predicted label invariants; zero without TraceGrad.
    """

    total: Tensor
    hamiltonian: Tensor
    trace: Tensor


def compute_loss(
    model: HamiltonianModel, batch: Sample, config: LossConfig, ramp: float = 1.0
) -> Loss:
    """Return the loss of a batch.

    The error of an irrep is measured in two units: its own scale, so that small irreps are learnt,
    and the mean scale of all, so that the matrix elements are. Squared errors of irreps are squared
    errors of matrix elements, because the change of basis is orthogonal.

    The trace loss is weighted to a fixed share of the Hamiltonian's (TraceGrad's lambda), without
    a gradient through the weight.

    Args:
        model: network and units.
        batch: labelled samples.
        config: weights of the parts.
        ramp: share of the trace loss, 0 at the start of training.
    """
    batch = batch.to(model.device)
    frames = model.frames(batch.graph)
    targets = model.targets(batch, frames)
    out: NetworkOutput = model.network(batch.graph, frames.to(model.dtype))
    hamiltonian = _hamiltonian_loss(model, batch, out, targets, config)
    trace = _trace_loss(model, batch, out, targets, frames.distance)
    total = hamiltonian
    if out.traces and config.trace > 0:
        share = (hamiltonian.detach() / trace.detach().clamp(min=1e-12)).clamp(max=config.trace_max)
        total = total + ramp * config.trace * share * trace
    return Loss(total, hamiltonian.detach(), trace.detach())


def _hamiltonian_loss(
    model: HamiltonianModel,
    batch: Sample,
    out: NetworkOutput,
    targets: Mapping[BlockType, Tensor],
    config: LossConfig,
) -> Tensor:
    relative, absolute, scales, n = [], [], [], 0
    for t, y in out.irreps.items():
        shift, scale = (x.to(targets[t].dtype) for x in model.standardiser.shift_scale(t))
        fade = y.new_ones(1) if t.on_site else out.envelope[block_rows(batch.graph, t)]
        goal = (targets[t] - fade[:, None].to(shift.dtype) * shift) / scale  # (n_rows, n_numbers)
        error = fade[:, None] * y - goal.to(y.dtype)
        relative.append(error.square().sum())
        absolute.append((error * scale.to(y.dtype)).abs().sum())
        scales.append(scale.sum() * len(y))
        n += y.numel()
    mean_scale = torch.stack(scales).sum() / n
    parts = torch.stack(relative).sum() / n, torch.stack(absolute).sum() / (n * mean_scale)
    total: Tensor = config.relative * parts[0] + config.absolute * parts[1].to(parts[0].dtype)
    return total


def _trace_loss(
    model: HamiltonianModel,
    batch: Sample,
    out: NetworkOutput,
    targets: Mapping[BlockType, Tensor],
    distances: Tensor,
) -> Tensor:
    if not out.traces:
        return out.envelope.new_zeros(())
    errors, n = [], 0
    for t, predicted in out.traces.items():
        distance = None if t.on_site else distances[block_rows(batch.graph, t)]
        goal = model.network.trace_targets(model.standardiser, t, targets[t], distance)
        errors.append((predicted - goal.to(predicted.dtype)).square().sum())
        n += goal.numel()
    return torch.stack(errors).sum() / n
