"""What a run will need, measured on a few steps before it starts (``hamnet train --dry-run``)."""

import copy
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hamnet.data.samples import batch_samples
from hamnet.data.store import Store
from hamnet.memory import free_memory, peak_memory, reset_peak
from hamnet.models import HamiltonianModel
from hamnet.structure import IntArray
from hamnet.training import parallel
from hamnet.training.batches import Share
from hamnet.training.callbacks import Report
from hamnet.training.config import TrainConfig
from hamnet.training.dataset import CACHE_LIMIT, SampleDataset
from hamnet.training.finetune import load_parent
from hamnet.training.module import TrainingModule
from hamnet.training.orbital_fit import has_closed_shells
from hamnet.training.projection import Halves, Penalties, n_halves
from hamnet.training.readout import accumulate, readout_weights
from hamnet.training.setup import choose_split, set_up, step_execution

MAX_FRAMES = 256
"""Frames that are looked at in a larger file: so many at equal distances, and the largest ones."""

N_LARGEST = 8

ORBITAL_STEP = 0.1
"""Seconds of a step of `hamnet.training.orbital_fit`, relative to the sums of normal equations."""

USABLE = 0.8
"""Share of the free memory that a run may plan with."""


@dataclass(frozen=True)
class Estimate:
    """What a run will need.

    Attributes:
        n_parameters: weights of the network.
        n_frames: training frames.
        n_looked_at: those that pairs and messages were counted in.
        pairs_mean: directed pairs of a frame.
        pairs_max: the same of the largest frame.
        messages_mean: directed pairs of a frame that exchange messages.
        messages_max: the same of the largest frame.
        step_seconds: of a batch of frames of mean size.
        epoch_seconds: of all batches.
        solve_seconds: of one solution of the readout; a run makes two, without steps one.
        peak_mb: of the process: the larger one of a step on the largest frames and a solution.
        free_mb: memory that the process may take, with what it holds already.
        batch_size: number of the largest frames that fit into `USABLE` of that.
        batch_pairs: the same in directed pairs.
        measured: directed pairs, seconds and peak memory (MB) of each step that was run.
    """

    n_parameters: int
    n_frames: int
    n_looked_at: int
    pairs_mean: float
    pairs_max: int
    messages_mean: float
    messages_max: int
    step_seconds: float
    epoch_seconds: float
    solve_seconds: float
    peak_mb: float
    free_mb: float
    batch_size: int
    batch_pairs: int
    measured: tuple[tuple[int, float, float], ...]


def estimate(data: Path, config: TrainConfig, report: Report = print) -> Estimate:
    """Run a few steps of a training run and extrapolate; nothing is written.

    Whole gradient steps (forward, backward, optimiser) are run on the largest frame alone, on a
    batch of frames of mean size and on a batch of the largest ones; the last only if the first two
    say that it fits. Seconds and memory are straight lines in the number of directed pairs.

    Args:
        data: HDF5 store.
        config: all settings.
        report: takes lines of progress.

    Raises:
        HamnetError: nothing to train on, or labels that cannot be used.
    """
    config, parent = load_parent(config)
    with Store.open(data) as store:
        split = choose_split(store, config)
        rows = split["train"]
        few, even = _choose(store, rows)
        rows_looked_at = {**split, "train": few, "validation": few[:0]}
        setup = set_up(store, rows_looked_at, config, report, parent)
        model, samples = setup.model.to(parallel.device()), setup.train
        n_pairs = np.array([samples.n_pairs(k) for k in range(len(few))])
        n_messages = np.array([samples[k].n_messages for k in range(len(few))])
        mean = float(n_pairs[even].mean())
        n_batch = _frames_in_a_batch(config, len(rows), mean)
        steps = _Steps(model, config, report)
        by_size = np.argsort(-n_pairs, kind="stable")
        typical = np.argsort(np.abs(n_pairs - mean), kind="stable")
        largest = np.resize(by_size[:N_LARGEST], n_batch)
        steps.run(samples, by_size[:1])
        steps.run(samples, np.resize(typical[:n_batch], n_batch))
        free = free_memory(model.device)
        if steps.memory(int(n_pairs[largest].sum())) < USABLE * free:
            steps.run(samples, largest)
        n_total = mean * (len(rows) + len(split["validation"]))
        solve_seconds, solve_bytes = 0.0, 0.0
        if config.readout.solve:
            steps_after = config.readout.orbital_steps if has_closed_shells(model) else 0
            solve_seconds, solve_bytes = _solve(
                model, samples, typical[:n_batch], n_total, steps_after
            )
        sizes = [samples[k].n_bytes for k in even.tolist()]
    kept = min(CACHE_LIMIT, float(np.mean(sizes)) * len(rows)) - sum(sizes)
    fixed = max(kept, 0.0) + steps.memory(0)
    room = max(USABLE * free - fixed, 0.0) / max(steps.memory(1) - steps.memory(0), 1.0)
    n_steps = math.ceil(len(rows) / n_batch)
    if config.through_solution:
        n_steps = n_halves(len(rows), config)
    step_seconds = steps.seconds(mean * len(rows) / n_steps)
    of_steps = steps.memory(n_batch * int(n_pairs.max())) - steps.memory(0)
    return Estimate(
        n_parameters=sum(p.numel() for p in model.network.parameters()),
        n_frames=len(rows),
        n_looked_at=len(few),
        pairs_mean=mean,
        pairs_max=int(n_pairs.max()),
        messages_mean=float(n_messages[even].mean()),
        messages_max=int(n_messages.max()),
        step_seconds=step_seconds,
        epoch_seconds=step_seconds * n_steps,
        solve_seconds=solve_seconds,
        peak_mb=(fixed + max(of_steps, solve_bytes)) / 2**20,
        free_mb=free / 2**20,
        batch_size=int(room) // max(int(n_pairs.max()), 1),
        batch_pairs=int(room),
        measured=tuple((n, s, b / 2**20) for n, s, b in steps.points),
    )


class _Steps:
    """Gradient steps, their seconds and peak memory as lines in the number of pairs."""

    def __init__(self, model: HamiltonianModel, config: TrainConfig, report: Report) -> None:
        solve = _even_penalties if config.through_solution else None
        self.module = TrainingModule(copy.deepcopy(model), config, 1.0, solve)
        self.module.penalties = _even_penalties(model)
        self.module.model.network.execution = step_execution(config)
        self.optimiser = self.module.configure_optimizers()["optimizer"]
        self.report = report
        self.points: list[tuple[int, float, int]] = []

    def run(self, samples: SampleDataset, chosen: Iterable[int]) -> None:
        """Measure a batch: the second of two steps, after what is made once."""
        sample = batch_samples([samples[int(k)] for k in chosen])
        batch = Share(sample) if self.module.solve is None else Halves([sample], [sample], 1)
        device = self.module.model.device
        reset_peak(device)
        for _ in range(2):
            start = time.perf_counter()
            self.module.training_step(batch, 0).backward()
            self.module.on_after_backward()
            self.optimiser.step()
            self.optimiser.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start
        self.points.append((sample.n_pairs, seconds, peak_memory(device)))
        n, s, b = self.points[-1]
        self.report(f"a step of {n} pairs: {s:.3g} s, {b / 2**20:.0f} MB")

    def seconds(self, n_pairs: float) -> float:
        """Return the seconds of a step.

        Those that were run through the solution of the readout had every batch in both halves.
        """
        own = n_pairs if self.module.solve is None else n_pairs / 2
        return self._line(own, [s for _, s, _ in self.points])

    def memory(self, n_pairs: float) -> float:
        """Return the peak memory of the process in a step, bytes."""
        return self._line(n_pairs, [float(b) for _, _, b in self.points])

    def _line(self, n_pairs: float, values: Sequence[float]) -> float:
        x = np.array([n for n, _, _ in self.points], dtype=np.float64)
        if np.ptp(x) == 0:
            return max(values)
        slope, start = np.polyfit(x, values, 1)
        return float(max(start, 0.0) + max(slope, 0.0) * n_pairs)


def _even_penalties(model: HamiltonianModel) -> Penalties:
    """Return penalties that take the time of any others."""
    readout = model.network.readout
    return {
        name: torch.full_like(readout_weights(readout, name)[:, 0], 1e-3)
        for _, _, name in readout.classes()
    }


def _choose(store: Store, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Return frames to look at, and which of them stand for all: the others are the largest."""
    if len(rows) <= MAX_FRAMES:
        return rows, np.arange(len(rows))
    even = rows[np.linspace(0, len(rows) - 1, MAX_FRAMES).astype(np.int64)]
    n_atoms = np.diff(store.column("offsets/atoms"))[rows]
    largest = rows[np.argsort(-n_atoms, kind="stable")[:N_LARGEST]]
    few: IntArray = np.union1d(even, largest).astype(np.int64)
    return few, np.isin(few, even).nonzero()[0]


def _frames_in_a_batch(config: TrainConfig, n_frames: int, mean_pairs: float) -> int:
    settings = config.training
    wanted = settings.batch_size
    if settings.batch_pairs is not None:
        wanted = int(settings.batch_pairs / max(mean_pairs, 1.0))
    return max(1, min(wanted, n_frames))


def _solve(
    model: HamiltonianModel,
    samples: SampleDataset,
    chosen: IntArray,
    n_total: float,
    orbital_steps: int,
) -> tuple[float, float]:
    """Return seconds and bytes of one solution: sums over all pairs, then an eigenproblem each."""
    batch = batch_samples([samples[int(k)] for k in chosen])
    share = n_total / max(batch.n_pairs, 1)
    start = time.perf_counter()
    with torch.no_grad():
        found = list(accumulate(model, [batch]).values())
    sums = (time.perf_counter() - start) * share
    grams = [equations.gram for equations in found]
    middle = sorted(grams, key=len)[len(grams) // 2]
    start = time.perf_counter()
    torch.linalg.eigh(middle)
    of_one = (time.perf_counter() - start) / len(middle) ** 3
    seconds = sums + of_one * sum(len(g) ** 3 for g in grams)
    kept = 0.0
    if orbital_steps:  # features once more, of as many frames as fit
        size = share * sum(e.n_rows * len(e.gram) for e in found) * model.dtype.itemsize
        kept = min(CACHE_LIMIT, size)
        seconds += (1 + ORBITAL_STEP * orbital_steps) * sums * kept / size
    return seconds, 2.0 * sum(g.nbytes for g in grams) + kept
