"""Matplotlib figures as SVG that lives inside an HTML page: its colours follow the page's theme.

Text stays text, lines and letters take the colours ``--ink`` and ``--grid`` of the page, so that
one picture serves light and dark. Nothing in the output points outside the page.
"""

import re
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GRID = "#0a0b0c", "#c0b0a0"
"""Stand-ins that are replaced by the page's own colours."""

BLUE, ORANGE, GREEN, PURPLE = "#3f7fd9", "#e07b2e", "#2f9e62", "#9a6ad6"
"""Colours of data, legible on white and on black."""

_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.4,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


class Drawing:
    """One small figure with one plot, drawn inside ``with Drawing("name") as axes``."""

    def __init__(self, name: str, width: float = 4.2, height: float = 3.2) -> None:
        self._style = mpl.rc_context({**_STYLE, "svg.hashsalt": name})
        self._size = (width, height)
        self.svg = ""
        """The picture, once the block is left."""

    def __enter__(self) -> Axes:
        self._style.__enter__()
        self._figure = Figure(figsize=self._size, layout="constrained")
        return self._figure.add_subplot()

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                file = StringIO()
                self._figure.savefig(file, format="svg", dpi=200, metadata=_NO_METADATA)
                self.svg = inline(file.getvalue())
        finally:
            self._style.__exit__(None, None, None)


def inline(document: str) -> str:
    """Turn an SVG file of matplotlib's into an element of an HTML page."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # names that several pictures would share
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)  # HTML knows the namespaces itself
    svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'font: (\S+) [^;"]*', r"font-size: \1", svg)  # the page's own typeface
    return svg.replace(INK, "var(--ink)").replace(GRID, "var(--grid)")
