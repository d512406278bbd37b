"""Pictures of several runs on the same frames."""

import numpy as np

from hamnet.evaluation.compare import HIGHER_IS_BETTER, Comparison
from hamnet.evaluation.picture import COLOURS, INK, Picture, drawing, log_scale


def forest(comparison: Comparison, labels: dict[str, str]) -> Picture:
    """Draw each run's difference to the first one in percent, with its 95 % interval.

    Args:
        comparison: the runs.
        labels: what to call each metric.
    """
    runs = comparison.runs[1:]
    shown = [
        d for d in comparison.differences if d.metric not in HIGHER_IS_BETTER and d.baseline > 0
    ]
    names = list(dict.fromkeys(d.metric for d in shown))
    caption = f"Error relative to {comparison.runs[0]}, with 95 % interval; left is better"
    height = 1.2 + 0.34 * len(names) * max(1.0, 0.6 * len(runs))
    with drawing("compare-differences", caption, width=5.2, height=height) as (picture, axes):
        for k, (run, colour) in enumerate(zip(runs, COLOURS, strict=False)):
            for d in shown:
                if d.run != run:
                    continue
                y = names.index(d.metric) + 0.6 * ((k + 0.5) / len(runs) - 0.5)
                low, middle, high = (100 * x / d.baseline for x in (d.low, d.difference, d.high))
                axes.plot([low, high], [y, y], color=colour, linewidth=2.0)
                axes.plot([middle], [y], color=colour, marker="o", markersize=5)
            axes.plot([], [], color=colour, marker="o", label=run)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(names)), [labels[name] for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("difference (%)")
        axes.grid(visible=False, axis="y")
        if len(runs) > 1:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return picture


def frame_by_frame(comparison: Comparison, metric: str, label: str, unit: str) -> Picture:
    """Draw the error of each frame by each run against its error by the first run."""
    caption = f"{label} of every frame; below the line the run is better than the first one"
    values = comparison.values[metric]
    values = values[np.isfinite(values).all(axis=1) & (values > 0).all(axis=1)]
    with drawing(f"compare-{metric.replace('_', '-')}", caption) as (picture, axes):
        for k, colour in zip(range(1, len(comparison.runs)), COLOURS, strict=False):
            axes.scatter(
                values[:, 0],
                values[:, k],
                s=8,
                color=colour,
                linewidths=0,
                label=comparison.runs[k],
                rasterized=True,
            )
        if len(values):
            ends = [values.min(), values.max()]
            axes.plot(ends, ends, color=INK, linewidth=0.6)
        log_scale(axes, "xy")
        axes.set_xlabel(f"{comparison.runs[0]} ({unit})")
        axes.set_ylabel(f"other runs ({unit})")
        if len(comparison.runs) > 2:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, markerscale=2)
    return picture
