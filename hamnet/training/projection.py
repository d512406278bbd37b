"""Features trained through the readout's solution: variable projection.

For given features the readout is solved exactly (`hamnet.training.readout`), so the error that is
left is a function of the features alone. Its gradient (Golub & Pereyra, doi:10.1137/0710036) lets
the network's other weights be trained for what the solved readout will make of them; steps on all
weights at once spoil features faster than they improve the readout.

What the training frames themselves leave over says little where features are as many as rows. So
each step divides its frames into halves by group: the readout is solved on one half,

    W = (X_A^T X_A + P)^-1 X_A^T R_A,

and the error of the other half, ``L(X_B W - R_B)``, is made smaller. With ``G = dL/dW`` and
``V = (X_A^T X_A + P)^-1 G``, both taken for constants, its gradient is that of

    L(X_B W - R_B) + tr(V^T X_A^T (R_A - X_A W)).

P is the penalty that the validation frames have chosen.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hamnet.data.samples import Sample, batch_samples
from hamnet.irreps import BlockType
from hamnet.models import HamiltonianModel
from hamnet.training import parallel
from hamnet.training.batches import cut
from hamnet.training.config import LossConfig, TrainConfig
from hamnet.training.dataset import SampleDataset
from hamnet.training.readout import Solution, design_rows

Penalties = dict[str, Tensor]
"""Diagonal of P for one training frame, ``(n_in,)`` of every class."""


@dataclass(frozen=True, eq=False)
class Halves:
    """One process's share of the frames of a step, in batches that fit into memory.

    Attributes:
        fit: on which the readout is solved.
        check: whose error is made smaller.
        n_fit: frames to solve on, of all processes.
    """

    fit: Sequence[Sample]
    check: Sequence[Sample]
    n_fit: int


def n_halves(n_frames: int, config: TrainConfig) -> int:
    """Return the number of steps of an epoch."""
    return max(1, round(n_frames / config.readout.projection_frames))


class HalvesOfData:
    """Random halves of one epoch after another, divided by group.

    Args:
        dataset: the samples.
        config: seed, size of a batch and of a step.
        epoch: returns the number of the epoch.
    """

    def __init__(
        self, dataset: SampleDataset, config: TrainConfig, epoch: Callable[[], int]
    ) -> None:
        self.dataset, self.config, self.epoch = dataset, config, epoch
        self.groups = dataset.groups

    def __len__(self) -> int:
        return n_halves(len(self.dataset), self.config)

    def plan(self, epoch: int) -> list[tuple[list[int], list[int]]]:
        """Return the samples of both halves of every step of an epoch."""
        generator = np.random.default_rng((self.config.training.seed, epoch))
        names = sorted(set(self.groups))
        members: dict[str, list[int]] = {}
        for k, name in enumerate(self.groups):
            members.setdefault(name, []).append(k)
        order = [k for g in generator.permutation(len(names)) for k in members[names[g]]]
        halves = []
        for part in np.array_split(np.array(order), len(self)):
            middle = len(part) // 2
            # a group that lies on the boundary belongs to the first half
            while 0 < middle < len(part) - 1 and self._same(part[middle - 1], part[middle]):
                middle += 1
            halves.append((part[:middle].tolist(), part[middle:].tolist()))
        return halves

    def _same(self, a: int, b: int) -> bool:
        return self.groups[a] == self.groups[b]

    def __iter__(self) -> Iterator[Halves]:
        for fit, check in self.plan(self.epoch()):
            a, b = (
                [
                    batch_samples([self.dataset[k] for k in chosen])
                    for chosen in parallel.share(cut(half, self.dataset, self.config.training))
                ]
                for half in (fit, check)
            )
            yield Halves(a, b, len(fit))


@torch.no_grad()
def forget_readout(model: HamiltonianModel) -> None:
    """Set the readout to zero: a solution for other features is no prior."""
    for parameter in model.network.readout.parameters():
        parameter.zero_()


def penalties_of(solved: Mapping[str, Solution], n_frames: int) -> Penalties:
    """Return the penalties of a solution on so many training frames."""
    return {name: s.ridge / s.unit.square() / n_frames for name, s in solved.items()}


def projected_loss(
    model: HamiltonianModel,
    halves: Halves,
    penalties: Penalties,
    config: LossConfig,
    ramp: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return a loss whose gradient is that of the error through the solved readout, and its value.

    The gradient is made here, batch by batch, so that memory is that of one batch; the loss is a
    product of it with the weights, which any number of processes may add up.

    Args:
        model: its readout is not looked at.
        halves: frames to solve on and frames to be better at.
        penalties: see `penalties_of`.
        config: share of the label invariants.
        ramp: factor of that share.

    Returns:
        The loss of this process, and its value: the root mean square error of an irrep in units of
        its scale, mean over the irreps.
    """
    problem = _Problem(model, penalties)
    problem.solve(halves)
    problem.check(halves)
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    gradient = [torch.zeros_like(p) for p in parameters]
    n_traces = torch.tensor(float(sum(_n_traces(sample) for sample in halves.check)))
    n_traces = parallel.add(n_traces).clamp(min=1.0)
    for sample in halves.check:
        rows, traces = design_rows(model, sample, traces=True)
        terms = problem.errors(rows)
        if traces:
            trace = torch.stack([_trace_error(t, y, sample) for t, y in traces.items()]).sum()
            size = trace.detach() / _n_traces(sample)
            factor = (problem.value / size.clamp(min=1e-12)).clamp(max=config.trace_max)
            terms.append(ramp * config.trace * factor * trace / n_traces)
        _accumulate(gradient, terms, parameters)
    for sample in halves.fit:
        _accumulate(gradient, problem.solutions(design_rows(model, sample)[0]), parameters)
    total = torch.stack([(p * g).sum() for p, g in zip(parameters, gradient, strict=True)]).sum()
    return parallel.size() * total, torch.tensor(problem.value, dtype=torch.float64)


_JITTER = 1e-12
"""Of the diagonal of the normal matrix: its rounding."""


@dataclass(frozen=True, eq=False)
class _Solved:
    """One class, solved on one half.

    Attributes:
        factor: Cholesky factor of ``X_A^T X_A + P``.
        weights: W.
        scale: of the irreps, Hartree.
    """

    factor: Tensor
    weights: Tensor
    scale: Tensor


@dataclass(frozen=True, eq=False)
class _Checked:
    """The errors of the other half in one class.

    Attributes:
        share: what squared errors of the irreps, Hartree^2, are multiplied by.
        adjoint: V.
    """

    share: Tensor
    adjoint: Tensor


class _Problem:
    """The classes of a step: solved on one half, their errors on the other one."""

    def __init__(self, model: HamiltonianModel, penalties: Penalties) -> None:
        self.model, self.penalties, self.value = model, penalties, 0.0
        readout = model.network.readout
        self.classes = {name: (t, c) for t, c, name in readout.classes() if name in penalties}
        self.solved: dict[str, _Solved] = {}
        self.checked: dict[str, _Checked] = {}

    def _empty(self, name: str) -> tuple[Tensor, Tensor]:
        n, m = len(self.penalties[name]), self.classes[name][1].n_irreps
        zeros = self.penalties[name].new_zeros
        return zeros(n, n), zeros(n, m)

    @torch.no_grad()
    def solve(self, halves: Halves) -> None:
        """Solve every class that occurs in the first half."""
        sums = {name: self._empty(name) for name in self.classes}
        for sample in halves.fit:
            for name, x, r in design_rows(self.model, sample)[0]:
                if name in sums:
                    gram, moment = sums[name]
                    gram += x.T @ x
                    moment += x.T @ r
        for name in list(sums):
            gram, moment = sums.pop(name)  # the largest of what a step holds
            parallel.add(gram)
            parallel.add(moment)
            diagonal = gram.diagonal()
            if not bool(diagonal.any()):
                continue
            diagonal += halves.n_fit * self.penalties[name] + _JITTER * diagonal
            t, c = self.classes[name]
            scale = self.model.standardiser.shift_scale(t)[1][c.columns][: c.n_irreps]
            factor = torch.linalg.cholesky(gram)
            weights = torch.cholesky_solve(moment, factor)
            self.solved[name] = _Solved(factor, weights, scale.to(weights))

    @torch.no_grad()
    def check(self, halves: Halves) -> None:
        """Find the errors of the second half, and what follows for the first one."""
        square = {name: self._empty(name)[1][0].clone() for name in self.solved}
        slope = {name: self._empty(name)[1] for name in self.solved}
        n_rows = {name: square[name].new_zeros(1) for name in self.solved}
        for sample in halves.check:
            for name, x, r in design_rows(self.model, sample)[0]:
                if name in self.solved:
                    s = self.solved[name]
                    error = (r - x @ s.weights) * s.scale
                    square[name] += error.square().sum(dim=0)
                    slope[name] += x.T @ (error * s.scale)
                    n_rows[name] += len(x)
        for name in self.solved:
            for part in (square, slope, n_rows):
                parallel.add(part[name])
        seen = [name for name in self.solved if float(n_rows[name])]
        unit = sum(float((n_rows[name] * self.solved[name].scale).sum()) for name in seen)
        for name in seen:
            rms = (square[name] / n_rows[name]).sqrt()
            self.value += float((n_rows[name] * rms).sum()) / unit
            share = 0.5 / (rms + 1e-12) / unit  # the gradient of the root
            adjoint = torch.cholesky_solve(-2 * slope[name] * share, self.solved[name].factor)
            self.checked[name] = _Checked(share, adjoint)

    def errors(self, rows: Iterator[tuple[str, Tensor, Tensor]]) -> list[Tensor]:
        """Return the parts of ``L(X_B W - R_B)``."""
        parts = []
        for name, x, r in rows:
            if name in self.checked:
                s = self.solved[name]
                error = (r - x @ s.weights) * s.scale
                parts.append((error.square() * self.checked[name].share).sum())
        return parts

    def solutions(self, rows: Iterator[tuple[str, Tensor, Tensor]]) -> list[Tensor]:
        """Return the parts of ``tr(V^T X_A^T (R_A - X_A W))``."""
        return [
            ((x @ self.checked[name].adjoint) * (r - x @ self.solved[name].weights)).sum()
            for name, x, r in rows
            if name in self.checked
        ]


def _n_traces(sample: Sample) -> int:
    return sum(x.numel() for x in sample.traces.values())


def _trace_error(t: BlockType, predicted: Tensor, sample: Sample) -> Tensor:
    return (predicted - sample.traces[t].to(predicted)).square().sum()


def _accumulate(
    gradient: Sequence[Tensor], terms: Sequence[Tensor], parameters: Sequence[Tensor]
) -> None:
    """Add the gradient of a sum of terms."""
    if not terms:
        return
    found = torch.autograd.grad(sum(terms[1:], terms[0]), parameters, allow_unused=True)
    for total, part in zip(gradient, found, strict=True):
        if part is not None:
            total.add_(part)
