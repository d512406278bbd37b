"""Files that are either the old one or the whole new one, never half of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hamnet.errors import HamnetError

PARTIAL = ".partial"
"""Ending of a file that is being written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write to; when all has gone well it becomes ``path``.

    The folder is made if absent. On any error what was there before stays.

    Raises:
        HamnetError: the file cannot be written (a full disk, no permission): says which.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        if partial.is_file():
            partial.unlink()
        if isinstance(error, OSError):
            raise HamnetError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
