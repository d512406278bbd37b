"""Reading a store: HDF5, format version 1 (`hamnet.data.schema`)."""

import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hamnet.basis import OrbitalBasis
from hamnet.data import schema
from hamnet.data.failure import Failure
from hamnet.data.hdf5 import Lengths
from hamnet.data.level import LevelOfTheory
from hamnet.data.record import Record
from hamnet.errors import HamnetError
from hamnet.structure import IntArray, Structure

_Source = tuple[str, Any, "array[int] | None"]
"""Name of a column, its rows (an array or an HDF5 dataset), and where each frame begins."""


def partial_path(path: Path) -> Path:
    """Return the journal of a store in the making."""
    return path.with_name(path.name + ".partial")


class Store:
    """A dataset of labelled structures, read-only, random access.

    A store can be pickled and sent to worker processes: each process opens its own handle.

    Args:
        path: the file.

    Raises:
        HamnetError: no such file, no HDF5, damaged, foreign, or of another format version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._pid = -1
        self._handle: h5py.File | None = None
        self._plans: dict[tuple[str, ...], list[_Source]] = {}
        self._small: dict[str, NDArray[Any]] = {}
        try:
            self._load(self._file)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def open(path: str | Path) -> "Store":
        """Open a store; see the class for the errors."""
        return Store(path)

    def _load(self, file: h5py.File) -> None:
        self._check_format(file)
        try:
            attrs = file.attrs
            self.level = LevelOfTheory.model_validate_json(attrs["level"])
            self.basis = OrbitalBasis.from_dict(json.loads(attrs["basis"]))
            self.card: Mapping[str, Any] = json.loads(attrs["card"])
            self.references: tuple[str, ...] = (
                tuple(sorted(file["references"])) if ("references" in file) else ()
            )
            self.failures = [Failure(**f) for f in json.loads(file["failures"][()].tobytes())]
            self.ids: list[str] = [i.decode() for i in file["frames/id"][()]]
            self._offsets = {c: file[f"offsets/{c}"][()] for c in schema.COUNTERS}
            self._columns = schema.columns(self.references, spinor=self.level.is_spinor)
            self._has_checksums = "checksums" in file
            self._intact = np.zeros(len(self), dtype=bool)
            self.split = _read_split(file)
            self._check_lengths(file)
        except HamnetError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self._damaged(f"{type(error).__name__}: {error}") from error

    @property
    def _file(self) -> h5py.File:
        if self._handle is None or self._pid != os.getpid():
            self._plans = {}
            self._handle = self._open()
            self._pid = os.getpid()
        return self._handle

    def _open(self) -> h5py.File:
        if not self.path.is_file():
            hint = ""
            if partial_path(self.path).exists():
                hint = (
                    f", but {partial_path(self.path)} does: labelling has not been finished; run "
                    "the same 'hamnet label' command again"
                )
            raise HamnetError(f"{self.path}: no such file{hint}")
        if self.path.suffix == ".partial":
            raise HamnetError(
                f"{self.path} is a dataset in the making: run the same 'hamnet label' command "
                f"again, and it becomes {self.path.with_suffix('')}"
            )
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            kind = "a damaged" if _has_signature(self.path) else "not an"
            raise HamnetError(
                f"{self.path} is {kind} HDF5 file ({error}); make it again with 'hamnet label' or "
                "copy it again from where it came"
            ) from error

    def _check_format(self, file: h5py.File) -> None:
        if file.attrs.get("format") != schema.FORMAT:
            raise HamnetError(
                f"{self.path} is an HDF5 file, but not a hamnet dataset; 'hamnet data import' "
                "converts the formats that it knows"
            )
        version = int(file.attrs.get("format_version", 0))
        if version != schema.FORMAT_VERSION:
            raise HamnetError(
                f"{self.path} has format version {version}, but this hamnet reads version "
                f"{schema.FORMAT_VERSION}: use the version of hamnet that wrote it, or a newer one"
            )

    def _check_lengths(self, file: h5py.File) -> None:
        n = len(self)
        for counter, offsets in self._offsets.items():
            if len(offsets) != n + 1 or (np.diff(offsets) < 0).any():
                raise self._damaged(f"{len(offsets)} offsets of {counter} for {n} frames")
        for name, column in self._columns.items():
            if name not in file and column.default is not None:
                continue
            expected = int(self._offsets[column.counter][-1]) if column.counter else n
            if len(file[name]) != expected:
                raise self._damaged(f"{name} has {len(file[name])} rows, not {expected}")

    def _damaged(self, why: str) -> HamnetError:
        return HamnetError(
            f"{self.path} is damaged ({why}); copy it again from where it came, or label again"
        )

    def __len__(self) -> int:
        return len(self.ids)

    def _per_frame(self, name: str) -> NDArray[Any]:
        """Return a column with one row a frame, read once and kept: a few bytes a frame."""
        if name not in self._small:
            if name in self._file:
                self._small[name] = self._file[name][()]
            else:
                column = self._columns[name]
                self._small[name] = np.full((len(self), *column.row), column.default, column.dtype)
        return self._small[name]

    def _plan(self, names: tuple[str, ...]) -> list[_Source]:
        """Return where each column is read from, found out once a process."""
        file = self._file  # forgets the plans of another process
        if names not in self._plans:
            self._plans[names] = [self._source(name, file) for name in names]
        return self._plans[names]

    def _source(self, name: str, file: h5py.File) -> _Source:
        counter = self._columns[name].counter
        if not counter:
            return name, self._per_frame(name), None
        rows = file[name]
        start = rows.id.get_offset()
        if not rows.size:  # nothing on the disk, so nothing to map
            rows = rows[()]
        elif start is not None:  # it lies in one piece: mapped into memory
            rows = np.memmap(self.path, rows.dtype, "r", start, rows.shape).view(np.ndarray)
        return name, rows, array("q", self._offsets[counter].tobytes())

    def _row(self, names: tuple[str, ...], index: int) -> schema.Row:
        n = len(self)
        if not -n <= index < n:
            raise IndexError(f"{self.path} holds {n} records, asked for {index}")
        index %= n
        try:
            row: schema.Row = {}
            for name, rows, cuts in self._plan(names):
                if cuts is None:
                    row[name] = rows[index : index + 1]
                else:
                    row[name] = np.array(rows[cuts[index] : cuts[index + 1]])
            if self._has_checksums and not self._intact[index]:
                self._check_sums(row, index)
        except OSError as error:
            raise self._damaged(f"record {index}, {self.ids[index]}: {error}") from error
        return row

    def _check_sums(self, row: schema.Row, index: int) -> None:
        for name, values in row.items():
            if not self._columns[name].counter:
                continue
            if schema.checksum(values) != self._per_frame_sum(name)[index]:
                raise self._damaged(f"record {index}, {self.ids[index]}: checksum of {name}")
        self._intact[index] = len(row) == len(self._columns)

    def _per_frame_sum(self, name: str) -> NDArray[Any]:
        key = f"checksums/{name}"
        if key not in self._small:
            self._small[key] = self._file[key][()]
        return self._small[key]

    def rows(self, indices: Iterable[int] | None = None) -> Iterator[schema.Row]:
        """Yield records as columns, all of them or some; checksums are verified on the way."""
        names = tuple(self._columns)
        for index in range(len(self)) if indices is None else indices:
            yield self._row(names, int(index))

    def lengths(self, indices: Iterable[int] | None = None) -> Lengths:
        """Return the summed lengths of the columns of all records, or of some."""
        chosen = np.arange(len(self)) if indices is None else np.asarray(list(indices), np.int64)
        sizes = {c: int(np.diff(cuts)[chosen].sum()) for c, cuts in self._offsets.items()}
        return Lengths(len(chosen), sizes)

    def __getitem__(self, index: int) -> Record:
        row = self._row(tuple(self._columns), int(index))
        return schema.from_row(row, self.basis.atom_offsets(row["atoms/numbers"]))

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def structure(self, index: int) -> Structure:
        """Return the geometry of a record, without its matrices."""
        return schema.structure_of(self._row(schema.STRUCTURE_COLUMNS, index))

    def numbers(self, index: int) -> IntArray:
        """Return the atomic numbers of a record, ``[N]``."""
        return self._row(("atoms/numbers",), index)["atoms/numbers"].astype(np.int64)

    @property
    def groups(self) -> list[str]:
        """Trajectory or molecule of every record, empty where unknown."""
        return self._texts("frames/group", "group")

    @property
    def origins(self) -> list[str]:
        """Where every record came from."""
        return self._texts("frames/origin", "origin")

    def _texts(self, name: str, counter: str) -> list[str]:
        whole = self.column(name).tobytes()
        cuts = self._offsets[counter]
        return [whole[a:b].decode() for a, b in pairwise(cuts)]

    def column(self, name: str) -> NDArray[Any]:
        """Return a whole column, such as ``frames/energy``; see `hamnet.data.schema`."""
        try:
            if name in self._columns and not self._columns[name].counter:
                return self._per_frame(name)
            values: NDArray[Any] = self._file[name][()]
        except OSError as error:
            raise self._damaged(f"{name}: {error}") from error
        return values

    def close(self) -> None:
        """Close this process's handle; it opens again by itself when it is needed."""
        if self._handle is not None and self._pid == os.getpid():
            self._handle.close()
        self._handle = None
        self._plans = {}

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None, "_pid": -1, "_plans": {}, "_small": {}}


def _has_signature(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _read_split(file: h5py.File) -> dict[str, IntArray] | None:
    if "split" not in file:
        return None
    empty = np.zeros(0, dtype=np.int64)
    group = file["split"]
    return {name: group[name][()] if name in group else empty for name in schema.SUBSETS}
