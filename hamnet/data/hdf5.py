"""Writing the HDF5 file of a store in one piece, from rows that come one by one."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hamnet.basis import OrbitalBasis
from hamnet.data import schema
from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory

_BATCH_BYTES = 1 << 24
_SPARE_BYTES = 1 << 20
"""Room for chunks that are not full and for the index of an HDF5 file."""


@dataclass(frozen=True)
class Description:
    """What a file says about all its records.

    Attributes:
        level: level of theory.
        basis: shells of every element.
        references: names of the reference Hamiltonians.
        card: name, citation, licence, provenance.
        failures: frames without a label.
    """

    level: LevelOfTheory
    basis: OrbitalBasis
    references: tuple[str, ...]
    card: Mapping[str, Any]
    failures: Iterable[Failure] = ()


@dataclass
class Lengths:
    """How many rows the columns of a file will have.

    Attributes:
        frames: number of records.
        counters: summed length of the columns of each counter.
    """

    frames: int = 0
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(schema.COUNTERS, 0))

    def add(self, lengths: Mapping[str, int]) -> None:
        """Count one more record, by the lengths of its columns."""
        self.frames += 1
        for counter, column in _ONE_OF_EACH.items():
            self.counters[counter] += lengths[column]


_ONE_OF_EACH = {spec.counter: name for name, spec in schema.columns(()).items() if spec.counter}
"""A column of each counter."""


def write_hdf5(
    path: Path,
    description: Description,
    rows: Iterable[schema.Row],
    lengths: Lengths,
    split: Mapping[str, NDArray[np.int64]] | None = None,
) -> None:
    """Write the file of a store; the caller renames it when it is complete.

    Args:
        path: the file.
        description: what holds for all the records.
        rows: the records, as columns; taken one by one.
        lengths: of all the rows together.
        split: row numbers of the subsets.

    Raises:
        OSError: the disk is full, say.
    """
    columns = schema.columns(description.references, spinor=description.level.is_spinor)
    with h5py.File(path, "w") as file:
        for name, column in columns.items():
            _create(file, name, column, lengths)
        _reserve(path, _size(columns, lengths))
        _fill(file, columns, rows)
        for name, indices in (split or {}).items():
            _put(file, f"split/{name}", np.asarray(indices, dtype=np.int64))
        _describe(file, description)
    with path.open("rb+") as finished:
        finished.truncate(_end_of_file(finished.read(48)))
        os.fsync(finished.fileno())


def _size(columns: Mapping[str, schema.Column], lengths: Lengths) -> int:
    counted = {"": lengths.frames, **lengths.counters}
    rows = sum(counted[c.counter] * c.row_bytes for c in columns.values())
    return rows + lengths.frames * 8 * (len(columns) + len(schema.COUNTERS)) + _SPARE_BYTES


def _reserve(path: Path, size: int) -> None:
    """Take the room on the disk before HDF5 writes: it does not raise when it cannot, it kills.

    Raises:
        OSError: it does not fit.
    """
    with path.open("rb+") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def _end_of_file(superblock: bytes) -> int:
    """Return where the content of an HDF5 file ends; behind it lies what has been reserved."""
    at = 40 if superblock[8] < 2 else 28  # versions 0 and 1, or 2 and 3, of the superblock
    return int.from_bytes(superblock[at : at + 8], "little")


def _create(file: h5py.File, name: str, column: schema.Column, lengths: Lengths) -> None:
    n = lengths.counters[column.counter] if column.counter else lengths.frames
    shape = (n, *column.row)
    if column.counter:
        data = file.create_dataset(name, shape, column.dtype)
    else:
        chunk = max(1, min(n, schema.CHUNK_BYTES // column.row_bytes))
        data = file.create_dataset(
            name, shape, column.dtype, chunks=(chunk, *column.row), fletcher32=True
        )
    if column.unit:
        data.attrs["unit"] = column.unit


def _fill(
    file: h5py.File, columns: Mapping[str, schema.Column], rows: Iterable[schema.Row]
) -> None:
    at = dict.fromkeys(columns, 0)
    offsets: dict[str, list[int]] = {counter: [0] for counter in schema.COUNTERS}
    sums: dict[str, list[int]] = {name: [] for name, c in columns.items() if c.counter}
    for batch in _batches(rows):
        for name in columns:
            values = np.concatenate([row[name] for row in batch])
            if len(values):
                file[name][at[name] : at[name] + len(values)] = values
            at[name] += len(values)
        for row in batch:
            for counter, name in _ONE_OF_EACH.items():
                offsets[counter].append(offsets[counter][-1] + len(row[name]))
            for name, found in sums.items():
                found.append(schema.checksum(row[name]))
    for counter, cuts in offsets.items():
        _put(file, f"offsets/{counter}", np.array(cuts, dtype=np.int64))
    for name, found in sums.items():
        _put(file, f"checksums/{name}", np.array(found, dtype=np.uint64))


def _batches(rows: Iterable[schema.Row]) -> Iterator[list[schema.Row]]:
    batch: list[schema.Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(values.nbytes for values in row.values())
        if size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _put(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    chunk = max(1, min(len(values), schema.CHUNK_BYTES // values.itemsize))
    file.create_dataset(
        name, data=values, chunks=(chunk,), maxshape=(max(1, len(values)),), fletcher32=True
    )


def _describe(file: h5py.File, description: Description) -> None:
    file.attrs["format"] = schema.FORMAT
    file.attrs["format_version"] = schema.FORMAT_VERSION
    file.attrs["ao_order"] = schema.AO_ORDER
    file.attrs["units"] = "energies Hartree, positions Angstrom, dipoles Debye"
    file.attrs["level"] = description.level.model_dump_json()
    file.attrs["basis"] = json.dumps(description.basis.to_dict())
    file.attrs["card"] = json.dumps(description.card)
    failures = json.dumps([f.to_dict() for f in description.failures]).encode()
    _put(file, "failures", np.frombuffer(failures, np.uint8))
