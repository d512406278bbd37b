"""Heat maps: mean ``|dH|`` per pair of elements, and per pair of shells."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm

from hamnet.evaluation.block_errors import BlockError
from hamnet.evaluation.picture import Picture, drawing, log_ticks
from hamnet.structure import FloatArray, symbol

MAX_ANNOTATED = 8

_SMALLEST = 1e-9


def element_map(blocks: Sequence[BlockError]) -> Picture:
    """Draw the mean ``|dH|`` of each pair of elements, on-site blocks in a row of their own."""
    numbers = sorted({z for block in blocks for z in (block.first.number, block.second.number)})
    place = {z: n for n, z in enumerate(numbers)}
    total, count = np.zeros((2, len(numbers) + 1, len(numbers)))
    for block in blocks:
        one, two = place[block.first.number], place[block.second.number]
        cells = {(len(numbers), one)} if block.on_site else {(one, two), (two, one)}
        for cell in cells:
            total[cell] += block.count * block.mae_uha
            count[cell] += block.count
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    names = [symbol(z) for z in numbers]
    caption = "Mean |dH| (µHa) of each pair of elements; last row: on-site blocks"
    return _map("heat-elements", caption, mean, [*names, "on site"], names, _norm(mean))


def shell_maps(blocks: Sequence[BlockError]) -> list[Picture]:
    """Draw, for each pair of elements, the mean ``|dH|`` of each pair of shells."""
    norm = _norm(np.array([block.mae_uha for block in blocks]))
    names = dict.fromkeys(block.elements for block in sorted(blocks, key=_order))
    return [
        _shell_map(name, [block for block in blocks if block.elements == name], norm)
        for name in names
    ]


def _order(block: BlockError) -> tuple[bool, int, int]:
    return not block.on_site, block.first.number, block.second.number


def _norm(values: FloatArray) -> LogNorm:
    positive = values[values > _SMALLEST]
    low, high = positive.min(initial=1e9), positive.max(initial=_SMALLEST)
    return LogNorm(min(low, high), max(high, 1.01 * min(low, high)))


def _shell_map(name: str, blocks: Sequence[BlockError], norm: LogNorm) -> Picture:
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
    stem = name.replace(" (on site)", "-on-site")
    labels = [kind.name for kind in rows], [kind.name for kind in columns]
    return _map(f"heat-{stem}", f"{name}: mean |dH| (µHa)", table, *labels, norm)


def _map(
    name: str,
    caption: str,
    table: FloatArray,
    rows: Sequence[str],
    columns: Sequence[str],
    norm: LogNorm,
) -> Picture:
    with drawing(name, caption, width=3.4, height=3.0) as (picture, axes):
        shades = axes.pcolormesh(np.maximum(table, _SMALLEST), norm=norm, cmap="viridis")
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if max(table.shape) <= MAX_ANNOTATED:
            for (i, j), value in np.ndenumerate(table):
                if not np.isfinite(value):
                    continue
                axes.text(
                    j + 0.5,
                    i + 0.5,
                    _short(float(value)),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="#ffffff" if norm(max(value, _SMALLEST)) < 0.6 else "#000000",
                )
        ticks = log_ticks(float(norm.vmin or 0.0), float(norm.vmax or 0.0))
        bar = picture.figure.colorbar(shades, ax=axes, ticks=ticks, format="{x:g}")
        bar.minorticks_off()
        bar.outline.set_visible(False)
        bar.set_label("µHa")
    return picture


def _short(value: float) -> str:
    """Return a number of about three digits that fits into a cell."""
    if value >= 1e4:
        return f"{value / 1e3:.0f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"
