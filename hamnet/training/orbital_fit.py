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
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
"""Of the ridges: the sum of squares has a second term now, and fewer frames than weights."""

Weights = dict[str, Tensor]


@torch.no_grad()
def fit_orbitals(
    model: HamiltonianModel,
    records: Iterable[Sequence[Record]],
    solved: Mapping[str, Solution],
    steps: int,
) -> None:
    """Change the solved weights of a model's readout towards the orbitals of the labels.

    Args:
        model: of closed-shell molecules; changed in place.
        records: training records in batches, this process's share; gone through once a step.
        solved: what gave the present weights.
        steps: of conjugate gradients.
    """
    problem = _Problem(model, records, solved)
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
        metric: ``M = F C g^2 C^T F``, ``(n, n)``: ``|g C^T F dH F C g|^2 = tr(dH M dH M)``.
    """

    position: Tensor
    partner: Tensor
    weight: Tensor
    metric: Tensor

    def pull(self, entries: Tensor) -> Tensor:
        """Return half the derivative of ``|dH|^2 + tr(dH M dH M)`` by the entries of dH."""
        n = len(self.metric)
        h = entries.new_zeros(n * n)
        h[self.position] = entries
        h[self.partner] = entries
        h = h.view(n, n)
        h = h + self.metric @ h @ self.metric
        return self.weight * h.flatten()[self.position]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Some molecules: what multiplies the weights, and the error before the fit, in entries."""

    sample: Sample
    frames: PairFrames
    design: list[tuple[BlockType, IrrepClass, str, Tensor]]
    matrices: list[_Matrix]
    error: Tensor

    @property
    def n_bytes(self) -> int:
        return sum(x.nbytes for *_, x in self.design) + sum(m.metric.nbytes for m in self.matrices)


class _Problem:
    """The least-squares problem, in the changes of the classes' weights from W0."""

    def __init__(
        self,
        model: HamiltonianModel,
        records: Iterable[Sequence[Record]],
        solved: Mapping[str, Solution],
    ) -> None:
        self.model, self.records, self.solved = model, records, solved
        self.units: Weights = {}  # squared scales: irreps are standardised, errors in Hartree
        for t, c, name in model.network.readout.classes():
            scale = model.standardiser.shift_scale(t)[1][c.columns][: c.n_irreps]
            self.units[name] = scale.square() * (1 if t.on_site else 2)
        self._kept: dict[int, _Batch] = {}
        self._bytes = 0

    def descent(self, change: Weights) -> Weights:
        """Return half the negative gradient at the present weights, W0 + change."""
        pulled = self._sum((batch, batch.error) for batch in self._batches())
        return {name: x - self._ridge(name, change[name]) for name, x in pulled.items()}

    def curvature(self, step: Weights) -> Weights:
        """Return half the Hessian times a step."""
        batches = self._batches()
        pulled = self._sum((b, self._entries(b.sample, b.frames, b.design, step)) for b in batches)
        return {name: x + self._ridge(name, step[name]) for name, x in pulled.items()}

    def preconditioned(self, x: Weights) -> Weights:
        """Return what the ridge's own Hessian makes of a gradient."""
        return {
            name: self.solved[name].inverse(y, KAPPA) / self.units[name] for name, y in x.items()
        }

    def _ridge(self, name: str, x: Tensor) -> Tensor:
        solution = self.solved[name]
        penalty = KAPPA * solution.ridge / solution.unit.square()
        return penalty[:, None] * x * self.units[name]

    def _sum(self, parts: Iterable[tuple[_Batch, Tensor]]) -> Weights:
        """Return the sum over all molecules of errors of entries, pulled back to the weights."""
        total = {name: torch.zeros_like(s.change) for name, s in self.solved.items()}
        for batch, entries in parts:
            sample, errors = batch.sample, entries.split(batch.sample.sizes)
            pulled = [m.pull(e) for m, e in zip(batch.matrices, errors, strict=True)]
            irreps = self.model.assembler.inverse(
                torch.cat(pulled), sample.index, sample.graph, batch.frames
            )
            for t, c, name, x in batch.design:
                scale = self.model.standardiser.shift_scale(t)[1]
                rows = (scale * irreps[t])[:, c.columns].reshape(-1, c.n_irreps)
                total[name] += x.flatten(0, 1).T @ rows
        return {name: parallel.add(x) for name, x in total.items()}

    def _entries(
        self,
        sample: Sample,
        frames: PairFrames,
        design: Iterable[tuple[BlockType, IrrepClass, str, Tensor]],
        weights: Weights,
        fade: Tensor | None = None,
    ) -> Tensor:
        """Return the entries that weights make, with the shift of the units where fade is given."""
        parts: dict[BlockType, list[Tensor]] = {}
        for t, _, name, x in design:
            parts.setdefault(t, []).append((x @ weights[name]).flatten(1))
        irreps = {}
        for t, y in parts.items():
            shift, scale = self.model.standardiser.shift_scale(t)
            irreps[t] = scale * torch.cat(y, dim=1)
            if fade is not None:
                irreps[t] += shift if t.on_site else fade[block_rows(sample.graph, t), None] * shift
        n = sample.n_entries
        entries: Tensor = self.model.assembler(irreps, sample.index, n, sample.graph, frames)
        return entries

    def _batches(self) -> Iterator[_Batch]:
        """Yield the batches, kept in memory while they fit."""
        for k, records in enumerate(self.records):
            if not records:
                continue
            batch = self._kept.get(k) or self._prepare(records)
            if k not in self._kept and self._bytes + batch.n_bytes < CACHE_LIMIT:
                self._bytes += batch.n_bytes
                self._kept[k] = batch
            yield batch

    def _prepare(self, records: Sequence[Record]) -> _Batch:
        model, network = self.model, self.model.network
        reference = model.metadata.reference
        samples = [record_sample(r, model.basis, model.cutoffs, reference) for r in records]
        sample = batch_samples(samples).to(model.device)
        assert sample.target is not None
        frames = model.frames(sample.graph)
        features, _ = network.features(sample.graph, frames.to(model.dtype))
        fade = network.envelope(frames.distance).double()
        design = list(network.readout.design(features, sample.graph, fade))
        now = {name: readout_weights(network.readout, name) for *_, name, _ in design}
        error = sample.target - self._entries(sample, frames, design, now, fade)
        matrices = [self._matrix(record) for record in records]
        return _Batch(sample, frames, design, matrices, error)

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
            (f / (1 + (above / WIDTH) ** 2)) @ f.T,
        )
        return _Matrix(*(torch.from_numpy(x).to(self.model.device) for x in parts))
