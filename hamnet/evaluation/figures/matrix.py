"""Errors of matrix elements: against the label, its size, and the distance of the atoms."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from hamnet.evaluation.distance_errors import DistanceError
from hamnet.evaluation.picture import BLUE, COLOURS, INK, ORANGE, Picture, drawing, log_scale
from hamnet.structure import FloatArray
from hamnet.units import HARTREE_TO_UHA

KINDS = {"on_site": ("on-site blocks", ORANGE), "pair": ("pairs of atoms", BLUE)}
MAX_ELEMENT_PAIRS = len(COLOURS)

_LINEAR_BELOW = 1e-3
_SMALLEST = 1e-9


def parity(points: FloatArray, kind: str) -> Picture:
    """Draw predicted against labelled matrix elements on a symmetric logarithmic scale.

    Args:
        points: label and prediction, Hartree, ``[n, 2]``.
        kind: ``on_site`` or ``pair``.
    """
    label, colour = KINDS[kind]
    error = HARTREE_TO_UHA * np.abs(points[:, 1] - points[:, 0]).mean() if len(points) else 0.0
    caption = f"H predicted against H of the label, {label}: mean error {error:.3g} µHa"
    with drawing(f"parity-{kind.replace('_', '-')}", caption) as (picture, axes):
        largest = np.abs(points).max(initial=_LINEAR_BELOW)
        axes.plot([-largest, largest], [-largest, largest], color=INK, linewidth=0.6, zorder=0)
        axes.scatter(points[:, 0], points[:, 1], s=4, color=colour, linewidths=0, rasterized=True)
        axes.set_xscale("symlog", linthresh=_LINEAR_BELOW)
        axes.set_yscale("symlog", linthresh=_LINEAR_BELOW)
        ticks = [-10.0, -0.1, -_LINEAR_BELOW, _LINEAR_BELOW, 0.1, 10.0]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks], rotation=45)
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("H label (Ha)")
        axes.set_ylabel("H predicted (Ha)")
    return picture


def error_by_size(points: Mapping[str, FloatArray]) -> Picture:
    """Draw ``|dH|`` in microhartree against ``|H|`` in Hartree, both logarithmic."""
    caption = "Error of a matrix element against its size"
    with drawing("error-by-size", caption) as (picture, axes):
        for kind in ("pair", "on_site"):
            label, colour = KINDS[kind]
            reference, predicted = points[kind].T
            error = HARTREE_TO_UHA * np.maximum(np.abs(predicted - reference), _SMALLEST)
            size = np.maximum(np.abs(reference), _SMALLEST)
            axes.scatter(size, error, s=3, color=colour, linewidths=0, label=label, rasterized=True)
        log_scale(axes, "xy")
        axes.set_xlabel("|H| label (Ha)")
        axes.set_ylabel("|dH| (µHa)")
        _legend(axes, markerscale=4)
    return picture


def error_by_distance(errors: Sequence[DistanceError]) -> Picture:
    """Draw mean ``|dH|`` (lines) and mean ``|H|`` (dots) against the distance of the atoms."""
    frequent = Counter[str]()
    for error in errors:
        frequent[error.elements] += error.count
    names = [name for name, _ in frequent.most_common(MAX_ELEMENT_PAIRS)]
    caption = "Error against the distance of two atoms; dotted: the mean size of H itself"
    with drawing("error-by-distance", caption) as (picture, axes):
        for name, colour in zip(sorted(names), COLOURS, strict=False):
            rows = [error for error in errors if error.elements == name]
            x = [row.distance_angstrom for row in rows]
            axes.plot(
                x,
                [max(row.mae_uha, HARTREE_TO_UHA * _SMALLEST) for row in rows],
                color=colour,
                linewidth=1.4,
                marker="o",
                markersize=2.5,
                label=name,
            )
            axes.plot(x, [row.size_uha for row in rows], color=colour, linewidth=1.0, linestyle=":")
        log_scale(axes, "y")
        axes.set_xlabel("distance (Å)")
        axes.set_ylabel("mean |dH|, mean |H| (µHa)")
        _legend(axes, handlelength=1.2)
    return picture


def _legend(axes: Axes, **options: float) -> None:
    """Put the legend above the plot, where it hides no point."""
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.0, **options
    )
