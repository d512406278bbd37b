"""Records in other people's formats; what is written is what the importers read."""

import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hamnet.basis import from_hamnet_order
from hamnet.blocks import SpinKind, to_dense
from hamnet.data.record import Record
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.files import replacing
from hamnet.registry import look_up
from hamnet.structure import FloatArray
from hamnet_datasets.deeph import export_deeph
from hamnet_datasets.deeptb import export_deeptb


@dataclass(frozen=True)
class Exported:
    """What an export has done.

    Attributes:
        n_written: records written.
        n_records: records of the dataset.
    """

    n_written: int
    n_records: int


def export(path: str | Path, out: str | Path, target: str, subset: str = "all") -> Exported:
    """Write the records of a dataset in another format.

    Args:
        path: the dataset.
        out: file (``npz``, ``qh9``) or new folder (``deeph``, ``deeptb``).
        target: a key of `EXPORTERS`.
        subset: ``all``, or one of the stored split.

    Raises:
        HamnetError: unknown format or subset, records that the format cannot hold, ``out`` exists.
    """
    write = look_up("format", target, EXPORTERS)
    out = Path(out)
    if out.exists():
        raise HamnetError(f"{out} exists: give another name, or remove it")
    with Store.open(path) as store:
        subsets = {"all": np.arange(len(store)), **(store.split or {})}
        indices = look_up("subset", subset, subsets).tolist()
        if not indices:
            raise HamnetError(f"{path} holds no records in '{subset}'")
        return Exported(write(store, out, indices), len(store))


def _export_npz(store: Store, out: Path, indices: list[int]) -> int:
    formulas = dict.fromkeys(tuple(store.numbers(k).tolist()) for k in indices)
    if len(formulas) > 1:
        raise HamnetError(
            f"{store.path} holds {len(formulas)} kinds of molecules, but an npz file holds one: "
            "export to qh9, deeph or deeptb"
        )
    records = [store[k] for k in indices]
    for record in records:
        _check_closed_shell(record, "an npz file")
    with replacing(out) as partial, partial.open("wb") as file:
        np.savez(
            file,
            Z=records[0].structure.numbers,
            R=np.array([r.structure.positions for r in records]),
            H=np.array([_pyscf(r, store, "hamiltonian")[0] for r in records]),
            S=np.array([_pyscf(r, store, "overlap") for r in records]),
            eps=np.array([r.orbital_energies[0] for r in records]),
            xc=store.level.xc,
            basis=store.level.basis,
            level=store.level.model_dump_json(),
        )
    return len(records)


def _export_qh9(store: Store, out: Path, indices: list[int]) -> int:
    with replacing(out) as partial, closing(sqlite3.connect(partial)) as database:
        database.execute(
            "create table data (id integer primary key, N integer, Z blob, pos blob, Ham blob)"
        )
        for index in indices:
            record = store[index]
            _check_closed_shell(record, "a QH9 file")
            s = record.structure
            matrix = _pyscf(record, store, "hamiltonian")[0]
            database.execute(
                "insert into data values (?, ?, ?, ?, ?)",
                (
                    index,
                    len(s),
                    s.numbers.astype("<i4").tobytes(),
                    s.positions.astype("<f8").tobytes(),
                    matrix.astype("<f8").tobytes(),
                ),
            )
        database.commit()
    return len(indices)


def _check_closed_shell(record: Record, what: str) -> None:
    s = record.structure
    if s.is_periodic or s.charge or s.spin or len(record.hamiltonian) != 1:
        raise HamnetError(
            f"{record.origin}: {what} holds neutral closed-shell molecules, this is {s.formula} "
            f"with charge {s.charge}, spin {s.spin}{', periodic' if s.is_periodic else ''}"
            f"{', spin-orbit coupling' if record.spin_kind is SpinKind.SPINOR else ''}"
        )


def _pyscf(record: Record, store: Store, name: str) -> FloatArray:
    matrix = to_dense(record.blocks(name))
    return from_hamnet_order(matrix, store.basis, record.structure.numbers, "pyscf")


Write = Callable[[Store, Path, list[int]], int]


def _in_one_piece(write: Write) -> Write:
    """Let a folder appear under its name only when it is complete."""

    def written(store: Store, out: Path, indices: list[int]) -> int:
        partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
        try:
            n = write(store, partial, indices)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return n

    return written


EXPORTERS: Mapping[str, Write] = {
    "npz": _export_npz,
    "qh9": _export_qh9,
    "deeph": _in_one_piece(export_deeph),
    "deeptb": _in_one_piece(export_deeptb),
}
"""Formats that datasets can be written in."""
