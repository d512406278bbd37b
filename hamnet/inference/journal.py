"""Rows as JSON lines, each whole on disk before the next is begun: what a killed run leaves."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hamnet.errors import HamnetError
from hamnet.files import partial_name, writing


class RowJournal:
    """A file of JSON lines that is written row by row and continued after any interruption.

    While it is open its name ends in ``.partial``; `finish` gives it its own name. A last line that
    a killed process left unfinished is dropped.

    Args:
        path: the name of the finished file.

    Raises:
        HamnetError: another process is writing it; it is damaged; it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._partial = path, partial_name(path)
        with writing(path):
            if path.exists() and not self._partial.exists():
                os.replace(path, self._partial)
            self._file = self._partial.open("a+b")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise HamnetError(
                    f"another process is writing {path}: wait until it ends, or choose another "
                    "folder"
                ) from None
            self._file.truncate(self._end_of_last_line())

    def append(self, row: Mapping[str, Any]) -> None:
        """Write a row."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with writing(self.path):
            self._file.write(line)
            self._file.flush()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that are there.

        Raises:
            HamnetError: a line that is no row.
        """
        return read_rows(self._partial)

    def close(self) -> None:
        """Close the file; the next journal of this name goes on."""
        self._file.close()

    def finish(self) -> None:
        """Close the file and give it its own name: it is complete."""
        with writing(self.path):
            os.replace(self._partial, self.path)
        self.close()

    def _end_of_last_line(self) -> int:
        with self._partial.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            while position:
                start = max(0, position - 65536)
                file.seek(start)
                found = file.read(position - start).rfind(b"\n")
                if found >= 0:
                    return start + found + 1
                position = start
        return 0


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON lines.

    Raises:
        HamnetError: a line that is no JSON object.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise HamnetError(f"{path}, line {number}: damaged ({error})") from error
            if not isinstance(row, dict):
                raise HamnetError(f"{path}, line {number}: not a row of predictions")
            yield row
