"""Do predicted standard deviations say how large the errors are?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, spearmanr

from hamnet.evaluation.evaluate import FrameResult
from hamnet.structure import FloatArray

_STD = re.compile(r"(\w+)_std_(\w+)")

SINGLE = ("homo", "lumo", "gap")
"""Quantities that are one number per frame: only they can be normally distributed."""

LEVELS = np.linspace(0.05, 0.95, 19)
"""Central intervals whose coverage is drawn."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicted standard deviations of one quantity beside its errors.

    Attributes:
        name: such as ``homo``.
        unit: such as ``mev``.
        std, error: one row per frame, in that unit, ``[n]``; errors without sign.
    """

    name: str
    unit: str
    std: FloatArray
    error: FloatArray

    def coverage(self, level: float) -> float:
        """Return the share of errors inside the central interval that should hold ``level``."""
        return float(np.mean(self.error <= norm.ppf(0.5 + 0.5 * level) * self.std))

    @property
    def rank_correlation(self) -> float:
        """Spearman's correlation of standard deviation and error; NaN for fewer than 3 frames."""
        if len(self.std) < 3 or np.ptp(self.std) == 0 or np.ptp(self.error) == 0:
            return float("nan")
        return float(spearmanr(self.std, self.error).statistic)


def calibrations(frames: Sequence[FrameResult]) -> list[Calibration]:
    """Return a calibration for each metric ``X_std_UNIT`` that stands beside an ``X_mae_UNIT``."""
    predicted = [frame.metrics for frame in frames if not frame.error]
    names = dict.fromkeys(name for metrics in predicted for name in metrics)
    found = []
    for name in names:
        match = _STD.fullmatch(name)
        if not match or f"{match[1]}_mae_{match[2]}" not in names:
            continue
        std, error = (_column(predicted, key) for key in (name, f"{match[1]}_mae_{match[2]}"))
        known = np.isfinite(std) & np.isfinite(error) & (std > 0)
        if known.any():
            found.append(Calibration(match[1], match[2], std[known], error[known]))
    return found


def _column(frames: Sequence[Mapping[str, float]], name: str) -> FloatArray:
    return np.array([frame.get(name, np.nan) for frame in frames])
