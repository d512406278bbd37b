"""An append-only log that survives kill -9 at any moment.

HDF5 writes data, index and header of a dataset at different times: a process killed between two
of them leaves a file that does not open. Labels in the making therefore go into this log, and the
HDF5 file is written from it in one piece and appears by rename.

Layout: a magic line, then entries of 8 bytes length, 4 bytes CRC-32 (both little endian) and a
safetensors document. An entry that died half-way is cut off when the log is opened again.
"""

import fcntl
import json
import os
import struct
import time
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from hamnet.errors import HamnetError

MAGIC = b"hamnet journal 1\n"
_HEAD = struct.Struct("<QI")
_SECONDS_BETWEEN_SYNCS = 1.0


@dataclass(frozen=True)
class Entry:
    """One entry: strings and arrays.

    Attributes:
        text: names and values.
        arrays: names and arrays.
    """

    text: Mapping[str, str]
    arrays: Mapping[str, NDArray[Any]]


class Journal:
    """The log of one output file; only one process can hold it.

    Args:
        path: the log; created if it does not exist.

    Raises:
        HamnetError: held by another process; not a log of this format; cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.positions = array("q")
        self._file = _locked(path)
        try:
            self.n_damaged = self._recover()
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def _recover(self) -> int:
        """Find the intact entries, cut off what died half-way; return how many are damaged."""
        size = self.size
        head = self._file.read(len(MAGIC))
        if head != MAGIC:
            if not MAGIC.startswith(head):
                raise HamnetError(
                    f"{self.path} is not a journal of this version of hamnet: move it away"
                )
            self._rewind(0)
            self._write(MAGIC)
            return 0
        damaged = 0
        at = len(MAGIC)
        while at + _HEAD.size <= size:
            self._file.seek(at)
            length, crc = _HEAD.unpack(self._file.read(_HEAD.size))
            end = at + _HEAD.size + length
            if end > size:
                break
            if zlib.crc32(self._file.read(length)) == crc:
                self.positions.append(at)
            else:
                damaged += 1
            at = end
        self._rewind(at)
        return damaged

    def _rewind(self, size: int) -> None:
        self._file.truncate(size)
        self._file.seek(size)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    @property
    def size(self) -> int:
        """Number of bytes on the disk."""
        return os.fstat(self._file.fileno()).st_size

    def __len__(self) -> int:
        return len(self.positions)

    def append(self, text: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Append one entry; when this returns, kill -9 cannot lose it.

        Raises:
            HamnetError: the disk is full, say; the log is left as it was before.
        """
        tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        payload = save_tensors(tensors, dict(text))
        at = self._file.seek(0, os.SEEK_END)
        try:
            self._write(_HEAD.pack(len(payload), zlib.crc32(payload)) + payload)
            if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
                self.sync()
        except OSError as error:
            self._rewind(at)
            raise HamnetError(
                f"cannot write {self.path}: {error.strerror}; what was written before is safe: "
                "make room and run the same command again"
            ) from error
        self.positions.append(at)

    def sync(self) -> None:
        """Force everything onto the disk: from here on a power failure cannot lose it either."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def read(self, index: int) -> Entry:
        """Return an entry."""
        self._file.seek(self.positions[index])
        length, _ = _HEAD.unpack(self._file.read(_HEAD.size))
        payload = self._file.read(length)
        (header,) = struct.unpack_from("<Q", payload)
        return Entry(_strings(payload[8 : 8 + header]), load_tensors(payload))

    def peek(self, index: int) -> tuple[dict[str, str], dict[str, int]]:
        """Return the strings of an entry and the length of each of its arrays; reads no array."""
        self._file.seek(self.positions[index] + _HEAD.size)
        (length,) = struct.unpack("<Q", self._file.read(8))
        header = self._file.read(length)
        arrays = json.loads(header)
        lengths = {k: v["shape"][0] for k, v in arrays.items() if k != "__metadata__"}
        return _strings(header), lengths

    def close(self) -> None:
        """Close the log and keep it."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def remove(self) -> None:
        """Delete the log: everything in it is safe elsewhere."""
        self.path.unlink(missing_ok=True)
        self._file.close()


def _locked(path: Path) -> FileIO:
    """Open a file (made if absent) that no other process can open in this way meanwhile.

    Raises:
        HamnetError: another process has it; it cannot be written.
    """
    while True:
        try:
            file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        except OSError as error:
            raise HamnetError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        except BlockingIOError as error:
            owner = _owner(file.fileno())
            file.close()
            raise HamnetError(
                f"another process is writing {path}{owner}: wait until it ends, or write to "
                "another file"
            ) from error
        file.close()  # its last owner finished and removed it in between


def _owner(descriptor: int) -> str:
    """Return which process of this machine holds the lock, where the system tells (Linux)."""
    status = os.fstat(descriptor)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    for lock in locks:
        _, kind, _, access, pid, where, *_ = lock.split()
        if (kind, access, where) == ("FLOCK", "WRITE", device):
            return f" (pid {pid})"
    return ""


def _strings(header: bytes) -> dict[str, str]:
    """Return the strings of a safetensors document, which its own loader does not give."""
    return dict(json.loads(header).get("__metadata__", {}))
