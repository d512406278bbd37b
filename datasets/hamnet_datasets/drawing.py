"""Random geometries: drawn again and again until no atoms touch."""

from collections.abc import Callable

from hamnet.errors import HamnetError
from hamnet.structure import Structure, check_contacts

DECIMALS = 7
"""Of positions and cells, Angstrom: another machine's last bits make no other geometry."""

_MAX_TRIES = 100


def draw(attempt: Callable[[], Structure]) -> Structure:
    """Return the first geometry that is sound.

    Args:
        attempt: makes a geometry, another one each time.

    Raises:
        HamnetError: nearly all geometries have atoms that touch.
    """
    for _ in range(_MAX_TRIES):
        frame = attempt()
        try:
            check_contacts(frame)
        except HamnetError as error:
            last = error
            continue
        return frame
    raise HamnetError(f"no sound geometry of {frame.formula} in {_MAX_TRIES} tries: {last}")
