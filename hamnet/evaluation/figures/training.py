"""Learning curves."""

from collections.abc import Mapping

from hamnet.evaluation.picture import COLOURS, Picture, drawing, log_scale
from hamnet.structure import FloatArray

Curve = tuple[FloatArray, FloatArray]
"""Abscissae and ordinates."""

FEW_POINTS = 30
"""So few points get a mark each."""


def curves(name: str, caption: str, series: Mapping[str, Curve], y_label: str) -> Picture:
    """Draw learning curves against seconds of training, logarithmic where all are positive."""
    with drawing(name, caption) as (picture, axes):
        for (label, (x, y)), colour in zip(series.items(), COLOURS, strict=False):
            marker = "o" if len(x) < FEW_POINTS else None
            axes.plot(x, y, color=colour, linewidth=1.4, marker=marker, markersize=3, label=label)
        if all((y > 0).all() for _, y in series.values()):
            log_scale(axes, "y")
        axes.set_xlabel("training time (s)")
        axes.set_ylabel(y_label)
        if len(series) > 1:
            axes.legend()
    return picture
