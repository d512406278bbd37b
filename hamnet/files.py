"""Files that are either the old one or the whole new one, never half of it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hamnet.errors import HamnetError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file (a full disk, no permission) into an error that names it.

    Raises:
        HamnetError: in place of `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HamnetError(f"{path}: cannot be written ({reason})") from error


def partial_name(path: Path) -> Path:
    """Return the name of a file while it is being written."""
    return path.with_name(path.name + ".partial")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write to; when all has gone well it becomes ``path``.

    The folder is made if absent. On any error what was there before stays.

    Raises:
        HamnetError: see `writing`.
    """
    partial = partial_name(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            os.replace(partial, path)
        except BaseException:
            if partial.is_file():
                partial.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file, see `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
