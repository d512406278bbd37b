"""Which of several models is better: paired differences on the same frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.evaluation.bootstrap import mean_interval, resampled
from hamnet.evaluation.evaluate import Evaluation, FrameResult
from hamnet.evaluation.model import choose_records
from hamnet.metrics import METRICS
from hamnet.models.metadata import Metadata
from hamnet.structure import FloatArray, IntArray

HIGHER_IS_BETTER = ("psi_cosine",)


@dataclass(frozen=True)
class Difference:
    """One metric of one run against the first run, on the same frames.

    Attributes:
        metric: a key of `METRICS`.
        run: name of the run.
        baseline, mean: mean of the first run and of this one.
        difference, low, high: ``mean - baseline``, and its 95 % bootstrap interval.
        share_better: share of frames on which this run is the better one.
    """

    metric: str
    run: str
    baseline: float
    mean: float
    difference: float
    low: float
    high: float
    share_better: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval excludes zero, else ``undecided``."""
        if not (self.low > 0 or self.high < 0):
            return "undecided"
        return "better" if (self.low > 0) == (self.metric in HIGHER_IS_BETTER) else "worse"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs on the same frames; the first is the baseline.

    Attributes:
        runs: their names.
        frames: the frames that all of them predicted, as the first run saw them.
        left_out: frames that at least one run could not predict, with the reason.
        values: each metric of each frame and run, ``[n_frames, n_runs]``.
        differences: of every run but the first, metric by metric.
        resampled: what the bootstrap draws, ``frame`` or ``group``.
    """

    runs: tuple[str, ...]
    frames: tuple[FrameResult, ...]
    left_out: Mapping[str, str]
    values: Mapping[str, FloatArray]
    differences: tuple[Difference, ...]
    resampled: str


def common_records(models: Mapping[str, Metadata], store: Store, subset: str = "test") -> IntArray:
    """Return the records of a file that are a subset, such as ``test``, of every model.

    Raises:
        HamnetError: two models have different frames there; see also `choose_records`.
    """
    rows = {run: choose_records(metadata, store, subset) for run, metadata in models.items()}
    (first, chosen), *others = rows.items()
    ids = {store.ids[row] for row in chosen}
    for run, mine in others:
        other = {store.ids[row] for row in mine}
        if other != ids:
            raise HamnetError(
                f"{store.path}: '{first}' and '{run}' have different {subset} frames "
                f"({len(ids)} and {len(other)}, {len(ids & other)} of them common): train both "
                "with the same data, data.fractions and data.split_seed, or store a split in the "
                "file ('hamnet data split')"
            )
    return chosen


def compare(evaluations: Mapping[str, Evaluation]) -> Comparison:
    """Compare evaluations of several models on the same frames.

    Args:
        evaluations: by the name of the run, the baseline first.

    Raises:
        HamnetError: fewer than two runs; other frames in one of them; no frame that all predicted.
    """
    if len(evaluations) < 2:
        raise HamnetError("a comparison needs at least two runs")
    by_id = {
        run: {frame.record_id: frame for frame in found.frames}
        for run, found in evaluations.items()
    }
    runs = tuple(by_id)
    ids = list(by_id[runs[0]])
    for run in runs[1:]:
        if set(by_id[run]) != set(ids):
            raise HamnetError(f"'{runs[0]}' and '{run}' were not evaluated on the same frames")
    left_out = {
        i: f"{run}: {frames[i].error}"
        for run, frames in reversed(by_id.items())
        for i in ids
        if frames[i].error
    }
    ids = [i for i in ids if i not in left_out]
    if not ids:
        raise HamnetError("there is no frame that all the runs could predict")
    values = {
        name: np.array([[by_id[run][i].metrics[name] for run in runs] for i in ids])
        for name in METRICS
    }
    frames = tuple(by_id[runs[0]][i] for i in ids)
    groups = [frame.group for frame in frames]
    return Comparison(
        runs=runs,
        frames=frames,
        left_out=left_out,
        values=values,
        differences=tuple(
            difference
            for name in METRICS
            for difference in _differences(name, runs, values[name], groups)
        ),
        resampled=resampled(groups),
    )


def _differences(
    name: str, runs: Sequence[str], values: FloatArray, groups: Sequence[str]
) -> list[Difference]:
    paired = values[:, 1:] - values[:, :1]  # (n_frames, n_runs - 1)
    known = np.isfinite(paired)
    if not known.any():
        return []
    mean, low, high = mean_interval(paired, groups)
    better = paired > 0 if name in HIGHER_IS_BETTER else paired < 0
    return [
        Difference(
            metric=name,
            run=run,
            baseline=float(values[known[:, k], 0].mean()),
            mean=float(values[known[:, k], k + 1].mean()),
            difference=float(mean[k]),
            low=float(low[k]),
            high=float(high[k]),
            share_better=float(better[known[:, k], k].mean()),
        )
        for k, run in enumerate(runs[1:])
        if known[:, k].any()
    ]
