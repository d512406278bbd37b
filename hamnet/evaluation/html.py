"""Pieces of the self-contained pages: sections, figures, tables, and the page around them."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from importlib.resources import files
from string import Template
from typing import Any

from hamnet.evaluation.picture import Picture


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        title: plain text; also its anchor.
        text: plain text under the title.
        pictures: drawn side by side.
        body: HTML above the pictures.
        below: HTML under the pictures.
        folded: pictures that are shown on demand, with the words to click on.
        alarm: something went wrong.
    """

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    body: str = ""
    below: str = ""
    folded: tuple[str, Sequence[Picture]] = ("", ())
    alarm: bool = False

    @property
    def anchor(self) -> str:
        """Name for links within the page."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")

    @property
    def all_pictures(self) -> list[Picture]:
        """The pictures, folded ones included."""
        return [*self.pictures, *self.folded[1]]

    def html(self) -> str:
        """Return the section element."""
        title = escape(self.title)
        parts = [
            f'<h2 class="bad">{title}</h2>' if self.alarm else f"<h2>{title}</h2>",
            f"<p>{escape(self.text)}</p>" if self.text else "",
            self.body,
            figures(self.pictures),
            _folded(*self.folded),
            self.below,
        ]
        body = "\n".join(part for part in parts if part)
        return f'<section id="{self.anchor}">\n{body}\n</section>'


def page(
    kind: str,
    title: str,
    subtitle: str,
    facts: Iterable[str],
    sections: Sequence[Section],
    extra: str = "",
) -> str:
    """Return a whole page that needs nothing from outside.

    Args:
        kind: what sort of page this is, plain text.
        title: plain text.
        subtitle: plain text.
        facts: short plain texts under the title.
        sections: its parts; the first ones are what the reader should see first.
        extra: HTML at the end of the body, such as scripts.
    """
    links = (f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections)
    return Template(asset("page.html")).substitute(
        kind=escape(kind),
        title=escape(title),
        subtitle=escape(subtitle),
        facts="".join(f"<li>{escape(fact)}</li>" for fact in facts),
        links="".join(links),
        css=asset("page.css"),
        sections="\n".join(section.html() for section in sections),
        footer=escape(f"Written by hamnet {version('hamnet')}."),
        extra=extra,
    )


def asset(name: str) -> str:
    """Return the text of a file that is shipped with the package."""
    return (files("hamnet.evaluation") / "assets" / name).read_text(encoding="utf-8")


def figures(pictures: Sequence[Picture]) -> str:
    """Return pictures side by side, as many as fit."""
    shown = (
        f'<figure role="img" aria-label="{escape(picture.caption)}">'
        f"<figcaption>{escape(picture.caption)}</figcaption>{picture.inline()}</figure>"
        for picture in pictures
    )
    return f'<div class="figures">{"".join(shown)}</div>' if pictures else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    """Return a table of plain texts that scrolls sideways where it is too wide."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="{css}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """Return HTML that is shown on demand; the summary is plain text."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _folded(summary: str, pictures: Sequence[Picture]) -> str:
    return details(summary, figures(pictures)) if pictures else ""


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Yield nested keys, joined by dots, with their values as text."""
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def digits(name: str, value: float) -> str:
    """Return a metric with three digits; of a cosine near 1, the digits that matter."""
    if math.isnan(value):
        return "–"
    if name == "psi_cosine":
        return f"1 − {max(1.0 - value, 0.0):.1e}" if value > 0.99999 else f"{value:.5f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
