"""How far a mean over frames can be trusted: bootstrap intervals."""

from collections.abc import Sequence

import numpy as np

from hamnet.structure import FloatArray, IntArray

N_RESAMPLES = 2000
LEVEL = 0.95
_COUNTS_AT_ONCE = 4_000_000
MIN_GROUPS = 10
"""With fewer trajectories their number says too little, and single frames are drawn."""


def mean_interval(
    values: FloatArray, groups: Sequence[str] | None = None, seed: int = 0
) -> FloatArray:
    """Return the mean and its 95 % percentile interval, shape ``[3, ...]``: mean, low, high.

    Frames of one trajectory are not independent, so whole groups are drawn where there are at least
    ten of them. Entries that are NaN are left out of their column.

    Args:
        values: one row per frame, ``[n, ...]``; the same frames are drawn for every column, so that
            differences between columns are paired.
        groups: the trajectory of each frame; empty for a frame of its own.
        seed: of the resampling.
    """
    unit = _units(len(values), groups)
    finite = np.isfinite(values)
    n_units = int(unit.max(initial=0)) + 1
    sums, counts = np.zeros((2, n_units, *values.shape[1:]))
    np.add.at(sums, unit, np.where(finite, values, 0.0))
    np.add.at(counts, unit, finite)
    rng = np.random.default_rng(seed)
    means = []
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(axis=0) / counts.sum(axis=0)
        for size in _batches(n_units):
            drawn = rng.multinomial(n_units, np.full(n_units, 1.0 / n_units), size=size)
            means.append(np.tensordot(drawn, sums, axes=1) / np.tensordot(drawn, counts, axes=1))
    tail = 50.0 * (1.0 - LEVEL)
    interval = np.full((2, *mean.shape), np.nan)
    known = np.isfinite(mean)
    if known.any():
        ends = [tail, 100.0 - tail]
        interval[:, known] = np.nanpercentile(np.concatenate(means)[:, known], ends, axis=0)
    return np.concatenate([mean[None], interval])


def resampled(groups: Sequence[str]) -> str:
    """Return what `mean_interval` draws: ``group`` or ``frame``."""
    return "group" if len(set(groups)) >= MIN_GROUPS and len(set(groups)) < len(groups) else "frame"


def _batches(n_units: int) -> list[int]:
    """Cut the resamples so that counting them takes little memory."""
    size = max(1, min(N_RESAMPLES, _COUNTS_AT_ONCE // n_units))
    whole, rest = divmod(N_RESAMPLES, size)
    return [size] * whole + [rest] * bool(rest)


def _units(n: int, groups: Sequence[str] | None) -> IntArray:
    if groups is None or resampled(groups) == "frame":
        return np.arange(n)
    names = [group or f"frame {k}" for k, group in enumerate(groups)]
    unit: IntArray = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return unit
