"""The pictures of the report, each a function from results to an SVG element."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import LogNorm

from hamnet.evaluation.block_errors import BlockError
from hamnet.evaluation.evaluate import Ladder
from hamnet.evaluation.svg import BLUE, GREEN, INK, ORANGE, PURPLE, Drawing
from hamnet.structure import FloatArray
from hamnet.units import HARTREE_TO_UHA

Curve = tuple[FloatArray, FloatArray]
"""Abscissae and ordinates."""

MAX_ANNOTATED_SHELLS = 8
VALENCE_EV = 45.0
"""The ladder shows occupied orbitals this far below the vacuum, not the cores."""
LADDER_ABOVE_LUMO_EV = 8.0

_KINDS = {"on_site": ("on site", ORANGE), "pair": ("pairs", BLUE)}
_LINEAR_BELOW = 1e-3
_SMALLEST = 1e-9


def parity(points: Mapping[str, FloatArray]) -> str:
    """Draw predicted against labelled matrix elements, Hartree, on a symmetric log scale."""
    drawing = Drawing("parity")
    with drawing as axes:
        largest = max((np.abs(p).max(initial=0.0) for p in points.values()), default=0.0) or 1.0
        axes.plot([-largest, largest], [-largest, largest], color=INK, linewidth=0.6, zorder=0)
        for kind in ("pair", "on_site"):
            label, colour = _KINDS[kind]
            reference, predicted = points[kind].T
            axes.scatter(reference, predicted, s=3, color=colour, linewidths=0, label=label)
        axes.set_xscale("symlog", linthresh=_LINEAR_BELOW)
        axes.set_yscale("symlog", linthresh=_LINEAR_BELOW)
        ticks = [-10.0, -0.1, -_LINEAR_BELOW, _LINEAR_BELOW, 0.1, 10.0]
        axes.set_xticks(ticks, [f"{t:g}" for t in ticks], rotation=45)
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel("H label (Ha)")
        axes.set_ylabel("H predicted (Ha)")
        axes.legend(markerscale=4)
        _rasterise(axes.collections)
    return drawing.svg


def error_by_size(points: Mapping[str, FloatArray]) -> str:
    """Draw ``|dH|`` in microhartree against ``|H|`` in Hartree, both logarithmic."""
    drawing = Drawing("error-by-size")
    with drawing as axes:
        for kind in ("pair", "on_site"):
            label, colour = _KINDS[kind]
            reference, predicted = points[kind].T
            error = HARTREE_TO_UHA * np.maximum(np.abs(predicted - reference), _SMALLEST)
            size = np.maximum(np.abs(reference), _SMALLEST)
            axes.scatter(size, error, s=3, color=colour, linewidths=0, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("|H| label (Ha)")
        axes.set_ylabel("|dH| (µHa)")
        axes.legend(markerscale=4)
        _rasterise(axes.collections)
    return drawing.svg


def heat_maps(blocks: Sequence[BlockError]) -> dict[str, str]:
    """Draw, for each pair of elements, the mean ``|dH|`` in microhartree of each pair of shells."""
    if not blocks:
        return {}
    errors = [max(block.mae_uha, _SMALLEST) for block in blocks]
    norm = LogNorm(min(errors), max(*errors, 1.01 * min(errors)))
    names = dict.fromkeys(block.elements for block in sorted(blocks, key=_heat_order))
    return {
        name: _heat_map(name, [block for block in blocks if block.elements == name], norm)
        for name in names
    }


def ladder(frame: Ladder) -> str:
    """Draw the valence orbital energies of one frame, the label left of the prediction."""
    drawing = Drawing(f"ladder-{frame.index}", width=3.2, height=4.2)
    with drawing as axes:
        empty = frame.reference_ev[frame.occupations == 0]
        top = empty.min(initial=np.inf) + LADDER_ABOVE_LUMO_EV if empty.size else np.inf
        for channel, occupations in enumerate(frame.occupations):
            left = 3.0 * channel
            reference, predicted = frame.reference_ev[channel], frame.predicted_ev[channel]
            shown = (reference > -VALENCE_EV) & (reference < top)
            for one, two, occupation in zip(
                reference[shown], predicted[shown], occupations[shown], strict=True
            ):
                colour = BLUE if occupation > 0 else ORANGE
                axes.plot([left, left + 1], [one, one], color=colour, linewidth=1.6)
                axes.plot([left + 1.3, left + 2.3], [two, two], color=colour, linewidth=1.6)
                axes.plot(
                    [left + 1, left + 1.3], [one, two], color=colour, linewidth=0.6, linestyle=":"
                )
        ticks = [3.0 * c + x for c in range(len(frame.occupations)) for x in (0.5, 1.8)]
        axes.set_xticks(ticks, ["label", "predicted"] * len(frame.occupations))
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("orbital energy (eV)")
        axes.plot([], [], color=BLUE, label="occupied")
        axes.plot([], [], color=ORANGE, label="empty")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return drawing.svg


def curves(name: str, series: Mapping[str, Curve], y_label: str) -> str:
    """Draw learning curves against seconds of training, logarithmic where all are positive."""
    drawing = Drawing(name)
    with drawing as axes:
        for (label, (x, y)), colour in zip(
            series.items(), (BLUE, ORANGE, GREEN, PURPLE), strict=False
        ):
            axes.plot(x, y, color=colour, linewidth=1.4, label=label)
        if all((y > 0).all() for _, y in series.values()):
            axes.set_yscale("log")
        axes.set_xlabel("training time (s)")
        axes.set_ylabel(y_label)
        if len(series) > 1:
            axes.legend()
    return drawing.svg


def _heat_order(block: BlockError) -> tuple[bool, int, int]:
    return not block.on_site, block.first.number, block.second.number


def _heat_map(name: str, blocks: Sequence[BlockError], norm: LogNorm) -> str:
    rows = sorted({block.first for block in blocks})
    columns = sorted({block.second for block in blocks})
    if blocks[0].first.number == blocks[0].second.number:
        rows = columns = sorted({*rows, *columns})
    table = np.full((len(rows), len(columns)), np.nan)
    for block in blocks:
        i, j = rows.index(block.first), columns.index(block.second)
        table[i, j] = block.mae_uha
        if rows == columns:
            table[j, i] = block.mae_uha
    drawing = Drawing(f"heat-{name}", width=3.4, height=3.0)
    with drawing as axes:
        shades = axes.pcolormesh(np.maximum(table, _SMALLEST), norm=norm, cmap="viridis")
        axes.set_xticks(np.arange(len(columns)) + 0.5, [kind.name for kind in columns])
        axes.set_yticks(np.arange(len(rows)) + 0.5, [kind.name for kind in rows])
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if max(table.shape) <= MAX_ANNOTATED_SHELLS:
            for (i, j), value in np.ndenumerate(table):
                shade = norm(max(value, _SMALLEST))
                axes.text(
                    j + 0.5,
                    i + 0.5,
                    _short(value),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="#ffffff" if shade < 0.6 else "#000000",
                )
        bar = axes.figure.colorbar(shades, ax=axes)
        bar.outline.set_visible(False)
        bar.set_label("µHa")
    return drawing.svg


def _short(value: float) -> str:
    """Return a number of about three digits that fits into a cell."""
    if value >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _rasterise(collections: Sequence[object]) -> None:
    """Store thousands of points as one picture instead of thousands of elements."""
    for collection in collections:
        collection.set_rasterized(True)  # type: ignore[attr-defined]
