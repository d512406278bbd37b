"""Names given by people: look them up, and say what was probably meant when they are misspelt."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from hamnet.errors import HamnetError

T = TypeVar("T")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, else the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(names)}"


def look_up(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Return ``table[name]``.

    Raises:
        HamnetError: the name is unknown; the message suggests the closest one.
    """
    if name not in table:
        raise HamnetError(f"unknown {kind} '{name}'{did_you_mean(name, table)}")
    return table[name]
