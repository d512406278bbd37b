"""Writing a store: records go into a journal one by one, the file appears in one piece.

``water.h5`` in the making is ``water.h5.partial``, a `Journal`. `Writer.finish` writes the HDF5
file under a temporary name and renames it, so that there is never half a ``water.h5``; frames can
be added to a finished file in the same way.
"""

import itertools
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hamnet.basis import OrbitalBasis
from hamnet.blocks import SpinKind
from hamnet.data import schema
from hamnet.data.failure import Failure
from hamnet.data.hdf5 import Description, Lengths, write_hdf5
from hamnet.data.journal import Journal
from hamnet.data.level import LevelOfTheory, check_same_level
from hamnet.data.record import Record
from hamnet.data.store import Store, partial_path
from hamnet.errors import HamnetError
from hamnet.structure import IntArray


class Writer:
    """Adds records to a store; crash-safe, resumable, one process at a time.

    Args:
        path: the store; need not exist. What it holds already is kept.
        level: level of theory of all the records.
        references: names of the reference Hamiltonians that every record holds.
        card: name, citation, licence and provenance; ignored if the file, or an unfinished run of
            it, exists already.

    Attributes:
        ids: of all records.
        origins: of all records.

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
        self.origins: set[str] = set()
        self._bases: set[str] = set()  # as text: what has been merged
        self._failures: dict[str, Failure] = {}
        self._entries = array("q")  # entry of the journal of each new record
        self._orders = array("q")  # its place among them
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
            self.origins.update(store.origins)
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
        if not self._has_file:
            self.card = json.loads(header["card"])
        for entry in range(1, len(self._journal)):
            text, _ = self._journal.peek(entry)
            if text["kind"] == "failure":
                self._note_failure(Failure(**json.loads(text["failure"])))
            else:
                self._note_record(text, entry)

    def _note_record(self, text: Mapping[str, str], entry: int) -> None:
        self._failures.pop(text["origin"], None)
        self.origins.add(text["origin"])
        if text["id"] in self.ids:
            return
        self.ids.add(text["id"])
        self._entries.append(entry)
        self._orders.append(int(text["order"]))
        if text["basis"] not in self._bases:
            found = OrbitalBasis.from_dict(json.loads(text["basis"]))
            self.basis = self.basis.merged(found)
            self._bases.add(text["basis"])

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
        check_record(record, self.references, self.level)
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
                    f"cannot write {self.path}: {reason}; the {len(self._entries)} new records are "
                    f"safe in {self._journal.path}: make room and run the same command again"
                ) from error
            finally:
                temporary.unlink(missing_ok=True)
        self._journal.remove()
        return self.path

    def _write_file(self, path: Path) -> None:
        old = Store.open(self.path) if self._has_file else None
        try:
            lengths = old.lengths() if old is not None else Lengths()
            subsets: dict[str, list[int]] = {name: [] for name in schema.SUBSETS}
            if old is not None and old.split is not None:
                subsets = {name: old.split[name].tolist() for name in schema.SUBSETS}
            order = np.argsort(np.frombuffer(self._orders, np.int64), kind="stable")
            for entry in (self._entries[k] for k in order):
                text, sizes = self._journal.peek(entry)
                if text["subset"]:
                    subsets[text["subset"]].append(lengths.frames)
                lengths.add(sizes)
            rows = itertools.chain(old.rows() if old is not None else (), self._new_rows(order))
            has_split = any(subsets.values())
            split = {k: np.array(v, np.int64) for k, v in subsets.items()} if has_split else None
            description = Description(
                self.level, self.basis, self.references, self.card, self.failures
            )
            write_hdf5(path, description, rows, lengths, split)
        finally:
            if old is not None:
                old.close()

    def _new_rows(self, order: IntArray) -> Iterator[schema.Row]:
        for k in order:
            entry = self._journal.read(self._entries[k])
            yield schema.from_tensors(entry.arrays, entry.text["id"])

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


def check_record(record: Record, references: Iterable[str], level: LevelOfTheory) -> None:
    """Check shapes and finiteness of a record before it is stored, and that it fits its level.

    Raises:
        HamnetError: names what is wrong.
    """
    if (record.spin_kind is SpinKind.SPINOR) != level.is_spinor:
        raise HamnetError(
            f"{record.origin}: H has {len(record.hamiltonian)} matrices, which does not fit labels "
            f"of {level}, relativity '{level.relativity}'"
        )
    n = int(record.layout.boundaries[-1])
    arrays = {
        "hamiltonian": record.hamiltonian,
        "overlap": record.overlap,
        **{f"reference {name}": h0 for name, h0 in record.references.items()},
    }
    four = {"hamiltonian", *(arrays if level.is_spinor else ())} - {"overlap"}
    if set(record.references) != set(references):
        raise HamnetError(
            f"{record.origin}: expected the references {', '.join(references) or 'none'}, "
            f"got {', '.join(record.references) or 'none'}"
        )
    for name, values in arrays.items():
        shape = (len(record.hamiltonian), n) if name in four else (n,)
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
