"""The readout, solved for what the eigenproblem sees.

Ridge regression (`hamnet.training.readout`) makes the errors of matrix elements small, each class
of irreps by itself. An orbital energy is one number of them all, ``d eps_p = c_p^T dH c_p``, and
what moves the density is ``c_i^T dH c_a / (eps_a - eps_i)``: errors that cancel there do no harm,
and along nearly dependent functions small ones do much. So all classes are solved once more,
together, for

    min_W  sum over molecules  |dH|^2 + |g C^T dH C g|^2  +  kappa sum over classes  |W - W0|^2,

``C`` the orbitals of the labels (``C^T S C = 1``), ``g = 1`` for the occupied ones and
``(1 + ((eps - eps_lumo) / width)^2)^(-1/2)`` for the others, and the last term the classes' own
ridges in Hartree. H is linear in W: this is a least-squares problem still, and its gradient exact
also where orbitals are degenerate. It is the aim of WALoss (arXiv 2502.19227) without its descent:
a few steps of conjugate gradients, preconditioned by the ridge's own solution, from which they
start, solve it. The correction that fades out at small overlaps (`hamnet.correction`) is in dH.

The first term and the last are known from the normal equations of all frames. The second is summed
over as many of them as fit into memory, and weighted to stand for all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hamnet.blocks import entry_weights, to_dense
from hamnet.correction import trust
from hamnet.data.record import Record
from hamnet.data.samples import Sample, batch_samples, record_sample
from hamnet.irreps import BlockType, IrrepClass
from hamnet.models import HamiltonianModel
from hamnet.nn.frames import PairFrames
from hamnet.nn.readout import block_rows
from hamnet.prediction import frontier
from hamnet.spectrum import solve
from hamnet.training import parallel
from hamnet.training.dataset import CACHE_LIMIT
from hamnet.training.readout import Solution, change_weights, readout_weights

WIDTH = 0.1
"""Hartree above the LUMO, at which an empty orbital counts by a factor sqrt(2) less."""

KAPPA = 3.0
"""Factor of the ridges, which were chosen for the first term alone. On thermal ethanol 1 to 10 do
alike; for molecules that were never seen 1 gains nothing and 10 spoils the occupied orbitals."""

Weights = dict[str, Tensor]


def has_closed_shells(model: HamiltonianModel) -> bool:
    """Return whether a model is one of closed-shell molecules, whose readout can be fitted."""
    return not (model.metadata.periodic or model.metadata.level.is_spinor)


def fitting(model: HamiltonianModel, solved: Mapping[str, Solution], n_frames: int) -> int:
    """Return how many of the training frames, of all processes, have features that fit into memory.

    Args:
        model: their network.
        solved: normal equations of all frames.
        n_frames: their number.
    """
    numbers = sum(s.equations.n_rows * len(s.equations.gram) for s in solved.values())
    n_fitting = parallel.size() * CACHE_LIMIT * n_frames / (numbers * model.dtype.itemsize)
    return min(n_frames, max(1, int(n_fitting)))


@torch.no_grad()
def fit_orbitals(
    model: HamiltonianModel,
    records: Iterable[Sequence[Record]],
    solved: Mapping[str, Solution],
    steps: int,
    weight: float = 1.0,
) -> None:
    """Change the solved weights of a model's readout towards the orbitals of the labels.

    Args:
        model: of closed-shell molecules; changed in place.
        records: training records in batches, this process's share.
        solved: what gave the present weights.
        steps: of conjugate gradients.
        weight: of a record, where the records stand for more of them.
    """
    problem = _Problem(model, records, solved, weight)
    start = {name: solution.change for name, solution in solved.items()}
    weights = {name: x.clone() for name, x in start.items()}
    left = problem.descent(weights)
    step = ready = problem.preconditioned(left)
    size = _dot(left, ready)
    for _ in range(steps):
        curved = problem.curvature(step)
        if not size > 0 or not (bend := _dot(step, curved)) > 0:
            break  # solved to rounding
        for name, x in step.items():
            weights[name] += size / bend * x
            left[name] -= size / bend * curved[name]
        ready = problem.preconditioned(left)
        size, before = _dot(left, ready), size
        step = {name: x + size / before * step[name] for name, x in ready.items()}
    change_weights(model, {name: x - start[name] for name, x in weights.items()})


def _dot(one: Weights, two: Weights) -> float:
    return float(torch.stack([(x * two[name]).sum() for name, x in one.items()]).sum())


@dataclass(frozen=True, eq=False)
class _Matrix:
    """Where the entries of one molecule stand in its matrix, and how errors there are measured.

    Attributes:
        position: of each entry in the flat matrix.
        partner: of the transposed.
        weight: how often an entry occurs.
        metric: ``M = F C g^2 C^T F``, ``(n, n)``: ``|g C^T F dH F C g|^2 = tr(dH M dH M)``; times
            the square root of the molecule's weight.
    """

    position: Tensor
    partner: Tensor
    weight: Tensor
    metric: Tensor

    def pull(self, entries: Tensor) -> Tensor:
        """Return half the derivative of ``tr(dH M dH M)`` by the entries of dH."""
        n = len(self.metric)
        h = entries.new_zeros(n * n)
        h[self.position] = entries
        h[self.partner] = entries
        h = self.metric @ h.view(n, n) @ self.metric
        return self.weight * h.flatten()[self.position]


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What multiplies the weights of one class, `LinearReadout.design`, in the network's precision.

    Attributes:
        type: block type.
        irreps: the class.
        name: of its weights.
        features: ``(n_rows, n_components, n_inputs)``.
        scale: of the features of a row, float64, ``(n_rows, 1, 1)``.
        fade: of the block of a row, likewise.
    """

    type: BlockType
    irreps: IrrepClass
    name: str
    features: Tensor
    scale: Tensor
    fade: Tensor

    def times(self, weights: Tensor) -> Tensor:
        """Return the irreps that weights make, ``(n_rows, n_components, n_irreps)``."""
        if not self.irreps.is_invariant:
            return self.fade * self.scale * (self.features.double() @ weights)
        made: Tensor = self.scale * (self.features.double() @ weights[:-1])
        return self.fade * (made + weights[-1])

    def pull(self, x: Tensor) -> Tensor:
        """Return the derivative by the weights; transposed `times`."""
        x = self.fade * x
        features = self.features.double().flatten(0, 1)
        pulled = features.T @ (self.scale * x).flatten(0, 1)
        if not self.irreps.is_invariant:
            return pulled
        return torch.cat([pulled, x.sum(dim=(0, 1))[None]])


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some molecules: what multiplies the weights, and the error before the fit, in entries."""

    sample: Sample
    frames: PairFrames
    inputs: list[_Inputs]
    matrices: list[_Matrix]
    error: Tensor


class _Problem:
    """The least-squares problem, in the changes of the classes' weights from W0."""

    def __init__(
        self,
        model: HamiltonianModel,
        records: Iterable[Sequence[Record]],
        solved: Mapping[str, Solution],
        weight: float,
    ) -> None:
        self.model, self.solved, self.weight = model, solved, weight
        self.units: Weights = {}  # squared scales: irreps are standardised, errors in Hartree
        for t, c, name in model.network.readout.classes():
            scale = model.standardiser.shift_scale(t)[1][c.columns][: c.n_irreps]
            self.units[name] = scale.square() * (1 if t.on_site else 2)
        self.batches = [self._prepare(some) for some in records if some]

    def descent(self, change: Weights) -> Weights:
        """Return half the negative gradient at the present weights, W0 + change."""
        pulled = self._sum((batch, batch.error) for batch in self.batches)
        found = {}
        for name, x in pulled.items():
            moment = self.units[name] * self.solved[name].equations.moment
            found[name] = x + moment - self._elements(name, change[name])
        return found

    def curvature(self, step: Weights) -> Weights:
        """Return half the Hessian times a step."""
        entries = ((b, self._entries(b.sample, b.frames, b.inputs, step)) for b in self.batches)
        pulled = self._sum(entries)
        return {name: x + self._elements(name, step[name]) for name, x in pulled.items()}

    def preconditioned(self, x: Weights) -> Weights:
        """Return what the ridge's own Hessian makes of a gradient."""
        return {
            name: self.solved[name].inverse(y, KAPPA) / self.units[name] for name, y in x.items()
        }

    def _elements(self, name: str, x: Tensor) -> Tensor:
        """Return what the errors of matrix elements and the ridge make of weights."""
        solution = self.solved[name]
        penalty = KAPPA * solution.ridge / solution.unit.square()
        return (solution.equations.gram @ x + penalty[:, None] * x) * self.units[name]

    def _sum(self, parts: Iterable[tuple[_Batch, Tensor]]) -> Weights:
        """Return the sum over all molecules of errors of entries, pulled back to the weights."""
        total = {name: torch.zeros_like(s.change) for name, s in self.solved.items()}
        for batch, entries in parts:
            sample, errors = batch.sample, entries.split(batch.sample.sizes)
            pulled = [m.pull(e) for m, e in zip(batch.matrices, errors, strict=True)]
            irreps = self.model.assembler.inverse(
                torch.cat(pulled), sample.index, sample.graph, batch.frames
            )
            for one in batch.inputs:
                scale = self.model.standardiser.shift_scale(one.type)[1]
                columns = (scale * irreps[one.type])[:, one.irreps.columns]
                total[one.name] += one.pull(columns.unflatten(1, (-1, one.irreps.n_irreps)))
        return {name: parallel.add(x) for name, x in total.items()}

    def _entries(
        self,
        sample: Sample,
        frames: PairFrames,
        inputs: Iterable[_Inputs],
        weights: Weights,
        fade: Tensor | None = None,
    ) -> Tensor:
        """Return the entries that weights make, with the shift of the units where fade is given."""
        parts: dict[BlockType, list[Tensor]] = {}
        for one in inputs:
            parts.setdefault(one.type, []).append(one.times(weights[one.name]).flatten(1))
        irreps = {}
        for t, y in parts.items():
            shift, scale = self.model.standardiser.shift_scale(t)
            irreps[t] = scale * torch.cat(y, dim=1)
            if fade is not None:
                irreps[t] += shift if t.on_site else fade[block_rows(sample.graph, t), None] * shift
        n = sample.n_entries
        entries: Tensor = self.model.assembler(irreps, sample.index, n, sample.graph, frames)
        return entries

    def _prepare(self, records: Sequence[Record]) -> _Batch:
        model, network = self.model, self.model.network
        samples = [record_sample(r, model.basis, model.cutoffs, model.reference) for r in records]
        sample = batch_samples(samples).to(model.device)
        assert sample.target is not None
        frames = model.frames(sample.graph)
        features, _ = network.features(sample.graph, frames.to(model.dtype), sample.density)
        fade = network.envelope(frames.distance).double()
        inputs = []
        for t, c, name, x in network.readout.inputs(features, sample.graph):
            rows = block_rows(sample.graph, t)
            ones = fade.new_ones(1, 1, 1)
            factors = (features.scale.double(), fade)
            both = (ones, ones) if t.on_site else (y[rows, None, None] for y in factors)
            inputs.append(_Inputs(t, c, name, x, *both))
        now = {one.name: readout_weights(network.readout, one.name) for one in inputs}
        error = sample.target - self._entries(sample, frames, inputs, now, fade)
        matrices = [self._matrix(record) for record in records]
        return _Batch(sample, frames, inputs, matrices, error)

    def _matrix(self, record: Record) -> _Matrix:
        overlap, layout = record.blocks("overlap"), record.layout
        h, s = to_dense(record.blocks("hamiltonian")), to_dense(overlap)
        orbitals = solve(torch.from_numpy(h), torch.from_numpy(s)[None])
        energies, c = orbitals.energies[0].numpy(), orbitals.coefficients[0].numpy()
        lumo = frontier(record.orbital_energies, record.occupations)[1]
        above = np.clip(np.nan_to_num(energies - lumo), 0.0, None)
        floor = self.model.metadata.overlap_floor
        f = trust(overlap, floor) @ c if floor else c
        row, col = layout.orbital_indices()
        n = layout.n_orbitals
        parts = (
            row * n + col,
            col * n + row,
            entry_weights(layout),
            np.sqrt(self.weight) * (f / (1 + (above / WIDTH) ** 2)) @ f.T,
        )
        return _Matrix(*(torch.from_numpy(x).to(self.model.device) for x in parts))
