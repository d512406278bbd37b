"""Pictures of predicted standard deviations against errors."""

from collections.abc import Sequence

import numpy as np

from hamnet.evaluation.calibration import LEVELS, Calibration
from hamnet.evaluation.picture import BLUE, COLOURS, INK, Picture, drawing, log_scale

N_BINS = 8


def coverage(found: Sequence[Calibration]) -> Picture:
    """Draw the share of errors inside each central interval against the share that should be."""
    caption = "Coverage: share of frames inside a predicted interval; the diagonal is perfect"
    with drawing("calibration-coverage", caption) as (picture, axes):
        axes.plot([0, 100], [0, 100], color=INK, linewidth=0.6)
        for one, colour in zip(found, COLOURS, strict=False):
            shares = [100 * one.coverage(level) for level in LEVELS]
            axes.plot(100 * LEVELS, shares, color=colour, linewidth=1.4, label=one.name.upper())
        axes.set_xlabel("predicted (%)")
        axes.set_ylabel("observed (%)")
        axes.set_aspect("equal")
        axes.legend()
    return picture


def spread(one: Calibration, unit: str) -> Picture:
    """Draw errors against predicted standard deviations, with the rms of bins of equal size."""
    caption = f"{one.name.upper()}: error against predicted standard deviation; line: rms of bins"
    with drawing(f"calibration-{one.name}", caption) as (picture, axes):
        axes.scatter(one.std, one.error, s=5, color=BLUE, linewidths=0, rasterized=True)
        order = np.argsort(one.std)
        chunks = [chunk for chunk in np.array_split(order, N_BINS) if len(chunk)]
        x = [one.std[chunk].mean() for chunk in chunks]
        y = [np.sqrt((one.error[chunk] ** 2).mean()) for chunk in chunks]
        axes.plot(x, y, color=INK, linewidth=1.4, marker="o", markersize=3)
        ends = [one.std.min(), one.std.max()]
        axes.plot(ends, ends, color=INK, linewidth=0.6, linestyle=":")
        log_scale(axes, "xy")
        axes.set_xlabel(f"predicted standard deviation ({unit})")
        axes.set_ylabel(f"|error| ({unit})")
    return picture
