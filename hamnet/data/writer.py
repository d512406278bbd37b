"""Writing a store: records go into a journal one by one, the file appears in one piece.

``water.h5`` in the making is ``water.h5.partial``, a `Journal`. `Writer.finish` writes the HDF5
file under a temporary name and renames it, so that there is never half a ``water.h5``; frames can
be added to a finished file in the same way.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hamnet.basis import OrbitalBasis
from hamnet.data import schema
from hamnet.data.failure import Failure
from hamnet.data.journal import Journal
from hamnet.data.level import LevelOfTheory, check_same_level
from hamnet.data.record import Record
from hamnet.data.store import Store, partial_path
from hamnet.errors import HamnetError

_BATCH = 256
_SPARE_BYTES = 1 << 21
"""Room for chunks that are not full and for the index of an HDF5 file."""


class Writer:
    """Adds records to a store; crash-safe, resumable, one process at a time.

    Args:
        path: the store; need not exist. What it holds already is kept.
        level: level of theory of all the records.
        references: names of the reference Hamiltonians that every record holds.
        card: name, citation, licence and provenance; ignored if the file exists already.

    Raises:
        HamnetError: the file, or an unfinished run of it, holds another level of theory or other
            references; another process is writing it; it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        level: LevelOfTheory,
        *,
        references: Iterable[str] = (),
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.level = level
        self.references = tuple(sorted(references))
        self.card = dict(card or {})
        self.basis = OrbitalBasis(level.basis, {}, {})
        self.ids: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._records: dict[str, int] = {}  # id -> entry of the journal
        self._orders: dict[str, int] = {}
        if not self.path.parent.is_dir():
            raise HamnetError(f"{self.path}: the folder {self.path.parent} does not exist")
        self._has_file = self.path.exists()
        if self._has_file:
            self._load_file()
        self._journal = Journal(partial_path(self.path))
        try:
            self._load_journal()
        except BaseException:
            self._journal.close()
            raise

    def _load_file(self) -> None:
        with Store.open(self.path) as store:
            self._check(store.level, store.references, str(self.path))
            self.basis = store.basis
            self.card = dict(store.card)
            self.ids.update(store.ids)
            self._failures = {f.origin: f for f in store.failures}

    def _check(self, level: LevelOfTheory, references: tuple[str, ...], where: str) -> None:
        check_same_level(level, self.level, where)
        if references != self.references:
            raise HamnetError(
                f"{where} holds the references {', '.join(references) or 'none'}, but "
                f"{', '.join(self.references) or 'none'} were asked: write to another file"
            )

    def _load_journal(self) -> None:
        if len(self._journal) == 0:
            header = {"level": self.level.model_dump_json(), "card": json.dumps(self.card)}
            header["references"] = json.dumps(self.references)
            self._journal.append({"kind": "header", **header}, {})
            return
        header = dict(self._journal.read(0).text)
        if header.get("kind") != "header":
            raise HamnetError(f"{self._journal.path} lost its first entry: move it away")
        level = LevelOfTheory.model_validate_json(header["level"])
        self._check(level, tuple(json.loads(header["references"])), str(self._journal.path))
        for entry in range(1, len(self._journal)):
            text = self._journal.read(entry).text
            if text["kind"] == "failure":
                self._note_failure(Failure(**json.loads(text["failure"])))
            else:
                self._note_record(text, entry)

    def _note_record(self, text: Mapping[str, str], entry: int) -> None:
        self._failures.pop(text["origin"], None)
        if text["id"] in self.ids:
            return
        self.ids.add(text["id"])
        self._records[text["id"]] = entry
        self._orders[text["id"]] = int(text["order"])
        found = OrbitalBasis.from_dict(json.loads(text["basis"]))
        self.basis = self.basis.merged(found)

    def _note_failure(self, failure: Failure) -> None:
        self._failures[failure.origin] = failure

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def failures(self) -> list[Failure]:
        """Frames without a label, by origin; the last reason of each."""
        return list(self._failures.values())

    def append(
        self, record: Record, basis: OrbitalBasis, *, order: int = 0, subset: str = ""
    ) -> bool:
        """Add a record; when this returns, kill -9 cannot lose it.

        Args:
            record: the labels.
            basis: the basis of (at least) its elements.
            order: position among the new records in the finished file, however late it came.
            subset: ``train``, ``validation`` or ``test`` where the data come with a split.

        Returns:
            False if the file holds the record already; it is then not added again.

        Raises:
            HamnetError: numbers that are not finite, shapes that do not fit, another definition of
                the basis, a full disk.
        """
        if record.id in self.ids:
            return False
        check_record(record, self.references)
        self.basis.merged(basis)  # refuses another definition before anything is written
        text = {
            "kind": "record",
            "id": record.id,
            "order": str(order),
            "origin": record.origin,
            "subset": subset,
            "basis": json.dumps(basis.to_dict()),
        }
        self._journal.append(text, schema.to_tensors(record))
        self._note_record(text, len(self._journal) - 1)
        return True

    def fail(self, failure: Failure) -> None:
        """Record a frame that got no label; a later label of the same origin takes it back."""
        if self._failures.get(failure.origin) != failure:
            self._journal.append({"kind": "failure", "failure": json.dumps(failure.to_dict())}, {})
            self._note_failure(failure)

    def finish(self) -> Path:
        """Write the HDF5 file from the journal and delete the journal.

        Raises:
            HamnetError: the disk is full, say; the journal is kept.
        """
        self._journal.sync()
        if len(self._journal) > 1 or not self._has_file:
            temporary = self.path.with_name(f"{self.path.name}.tmp")  # ours: we hold the journal
            try:
                self._write_file(temporary)
                os.replace(temporary, self.path)
            except (OSError, RuntimeError) as error:
                self._journal.close()
                reason = getattr(error, "strerror", None) or error
                raise HamnetError(
                    f"cannot write {self.path}: {reason}; the {len(self._records)} new records are "
                    f"safe in {self._journal.path}: make room and run the same command again"
                ) from error
            finally:
                temporary.unlink(missing_ok=True)
        self._journal.remove()
        return self.path

    def _write_file(self, path: Path) -> None:
        old = self.path.stat().st_size if self._has_file else 0
        _reserve(path, old + int(1.1 * self._journal.size) + _SPARE_BYTES)
        if self._has_file:
            shutil.copyfile(self.path, path)
        with h5py.File(path, "r+" if self._has_file else "w") as file:
            if not self._has_file:
                _create(file, self.references)
            subsets: dict[str, list[int]] = {name: [] for name in schema.SUBSETS}
            n_before = len(file["frames/id"])
            queue = sorted(self._records, key=lambda key: (self._orders[key], key))
            for start in range(0, len(queue), _BATCH):
                entries = [
                    self._journal.read(self._records[i]) for i in queue[start : start + _BATCH]
                ]
                for offset, entry in enumerate(entries, start=n_before + start):
                    if entry.text["subset"]:
                        subsets[entry.text["subset"]].append(offset)
                _extend(file, [schema.from_tensors(e.arrays, e.text["id"]) for e in entries])
            _set_split(file, subsets)
            self._describe(file)
        with path.open("rb+") as finished:
            os.fsync(finished.fileno())

    def _describe(self, file: h5py.File) -> None:
        file.attrs["format"] = schema.FORMAT
        file.attrs["format_version"] = schema.FORMAT_VERSION
        file.attrs["ao_order"] = schema.AO_ORDER
        file.attrs["units"] = "energies Hartree, positions Angstrom, dipoles Debye"
        file.attrs["level"] = self.level.model_dump_json()
        file.attrs["basis"] = json.dumps(self.basis.to_dict())
        file.attrs["card"] = json.dumps(self.card)
        failures = json.dumps([f.to_dict() for f in self._failures.values()]).encode()
        if "failures" in file:
            del file["failures"]
        file.create_dataset(
            "failures", data=np.frombuffer(failures, np.uint8), chunks=True, fletcher32=True
        )

    def discard(self) -> None:
        """Forget what has been appended since the file was last finished."""
        self._journal.remove()

    def close(self) -> None:
        """Stop; what has been appended stays in the journal and the next run goes on from there."""
        if len(self._journal) <= 1:
            self._journal.remove()
        else:
            self._journal.close()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_record(record: Record, references: Iterable[str]) -> None:
    """Check shapes and finiteness of a record before it is stored.

    Raises:
        HamnetError: names what is wrong.
    """
    n = int(record.layout.boundaries[-1])
    arrays = {
        "hamiltonian": record.hamiltonian,
        "overlap": record.overlap,
        **{f"reference {name}": h0 for name, h0 in record.references.items()},
    }
    if set(record.references) != set(references):
        raise HamnetError(
            f"{record.origin}: expected the references {', '.join(references) or 'none'}, "
            f"got {', '.join(record.references) or 'none'}"
        )
    for name, values in arrays.items():
        shape = (len(record.hamiltonian), n) if name == "hamiltonian" else (n,)
        if values.shape != shape:
            raise HamnetError(
                f"{record.origin}: {name} must have shape {shape}, got {values.shape}"
            )
        if not np.isfinite(values).all():
            raise HamnetError(f"{record.origin}: {name} holds numbers that are not finite")
    if record.orbital_energies.shape != record.occupations.shape:
        raise HamnetError(
            f"{record.origin}: {record.orbital_energies.shape} orbital energies, but "
            f"{record.occupations.shape} occupations"
        )


def _reserve(path: Path, size: int) -> None:
    """Make sure that a file of some size fits onto the disk, before HDF5 finds out.

    The HDF5 library does not raise when it cannot write, it kills the process.

    Raises:
        OSError: it does not fit.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def _create(file: h5py.File, references: Iterable[str]) -> None:
    for name, column in schema.columns(references).items():
        row_bytes = np.dtype(column.dtype).itemsize * int(np.prod(column.row, dtype=int))
        is_matrix = column.counter in ("entries", "spin_entries")
        chunk_bytes = schema.MATRIX_CHUNK_BYTES if is_matrix else schema.CHUNK_BYTES
        packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        data = file.create_dataset(
            name,
            shape=(0, *column.row),
            maxshape=(None, *column.row),
            dtype=column.dtype,
            chunks=(max(1, chunk_bytes // row_bytes), *column.row),
            fletcher32=True,
            **(packed if name.startswith("pairs/") else {}),
        )
        if column.unit:
            data.attrs["unit"] = column.unit
    for counter in schema.COUNTERS:
        file.create_dataset(
            f"offsets/{counter}",
            data=np.zeros(1, np.int64),
            maxshape=(None,),
            chunks=(schema.CHUNK_BYTES // 8,),
            fletcher32=True,
        )


def _extend(file: h5py.File, rows: list[schema.Row]) -> None:
    """Append the rows of some frames to every column and move the offsets on."""
    lengths: dict[str, NDArray[np.int64]] = {}
    for name in rows[0]:
        parts = [row[name] for row in rows]
        _append(file[name], np.concatenate(parts))
        counter = schema.counter_of(name)
        if counter:
            lengths[counter] = np.array([len(p) for p in parts])
    for counter, length in lengths.items():
        offsets = file[f"offsets/{counter}"]
        _append(offsets, offsets[-1] + np.cumsum(length))


def _append(dataset: h5py.Dataset, values: NDArray[Any]) -> None:
    n = len(dataset)
    dataset.resize(n + len(values), axis=0)
    dataset[n:] = values


def _set_split(file: h5py.File, subsets: Mapping[str, list[int]]) -> None:
    for name, indices in subsets.items():
        if not indices:
            continue
        if f"split/{name}" not in file:
            file.create_dataset(
                f"split/{name}",
                shape=(0,),
                maxshape=(None,),
                dtype=np.int64,
                chunks=(schema.CHUNK_BYTES // 8,),
                fletcher32=True,
            )
        _append(file[f"split/{name}"], np.array(indices, dtype=np.int64))
