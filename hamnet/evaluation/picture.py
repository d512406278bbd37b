"""One small matplotlib picture: inside an HTML page, and as SVG and PNG files.

Inside a page text stays text, and lines and letters take the colours ``--ink`` and ``--grid`` of
the page, so that one picture serves light and dark. Nothing in the output points outside the page.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from hamnet.files import replacing

INK, GRID = "#1e2531", "#dee3e9"
"""Colours of letters and grid in files; in a page the page's own replace them."""

BLUE, ORANGE, GREEN, PURPLE = "#3f7fd9", "#e07b2e", "#2f9e62", "#9a6ad6"
"""Colours of data, legible on white and on black."""

FEW_TICKS = 50.0
"""Axes that span less than this factor get ticks at 2 and 5 too."""

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#c2457f", "#8a8f98")

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
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with its name and caption.

    Attributes:
        name: stem of its files.
        caption: what it shows, one line.
        figure: with one plot.
    """

    name: str
    caption: str
    figure: Figure

    def inline(self) -> str:
        """Return an SVG element for an HTML page."""
        return inline(self._svg)

    def save(self, folder: Path) -> None:
        """Write ``NAME.svg`` and ``NAME.png``, dark on white.

        Raises:
            HamnetError: a file cannot be written.
        """
        with replacing(folder / f"{self.name}.svg") as partial:
            head, tag, body = self._svg.partition("<svg")
            attributes, _, content = body.partition(">")
            paper = '<rect width="100%" height="100%" fill="white"/>'
            partial.write_text(f"{head}{tag}{attributes}>{paper}{content}", encoding="utf-8")
        with replacing(folder / f"{self.name}.png") as partial, mpl.rc_context(_STYLE):
            self.figure.savefig(partial, format="png", dpi=200, facecolor="white")

    @cached_property
    def _svg(self) -> str:
        file = StringIO()
        with mpl.rc_context({**_STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(file, format="svg", dpi=200, metadata=_NO_METADATA)
        return file.getvalue()


def log_scale(axes: Axes, which: str) -> None:
    """Make axes (``x``, ``y`` or ``xy``) logarithmic once all is drawn, with numbers in full."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_locator(log_ticks(*axis.get_view_interval()))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> LogLocator:
    """Return ticks at powers of ten, and at 2 and 5 between them where there are few."""
    return LogLocator(subs=(1.0, 2.0, 5.0) if high < FEW_TICKS * low else (1.0,))


@contextmanager
def drawing(
    name: str, caption: str, width: float = 4.2, height: float = 3.2
) -> Iterator[tuple[Picture, Axes]]:
    """Yield a new picture and the axes to draw on; sizes are inches."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield Picture(name, caption, figure), figure.add_subplot()


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
