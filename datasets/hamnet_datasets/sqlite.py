"""Import of nablaDFT (SQLite) and of the MD17 Hamiltonians of SchNOrb (ASE database).

nablaDFT: table ``data (id, Z, R, E, F, H, S, C)``, blobs int32 and float32, Bohr, Hartree, Psi4's
order; table ``dataset_ids (id, MOSES_ID, CONFORMER_ID)``. SchNOrb: ASE rows with ``hamiltonian``
and ``overlap`` in their data, as arrays or in base64 with ``_shape_`` and ``_dtype_`` beside them,
Hartree, Angstrom, ORCA's order.
"""

import sqlite3
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from ase.db import connect
from numpy.typing import NDArray

from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory
from hamnet.errors import HamnetError
from hamnet.structure import Structure
from hamnet.units import BOHR_TO_ANGSTROM
from hamnet_datasets.dense import (
    DEFAULT_OPTIONS,
    Convention,
    ImportOptions,
    MatrixTask,
    import_dense,
)
from hamnet_datasets.jobs import Report

NABLA_LEVEL = LevelOfTheory(xc="wb97x_d", basis="def2-svp", program="psi4")
MD17_LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp", program="orca")

NABLA = Convention("psi4", overlap_error=1e-5, fock_error=5e-3, asymmetry=1e-4)
MD17 = Convention("orca", overlap_error=1e-4, fock_error=5e-3, asymmetry=1e-4)
"""Single precision and other programs' grids: wide enough for those, too narrow for a mistake."""

_SIGNATURE = b"SQLite format 3\x00"


def import_nabla(
    path: str | Path,
    out: str | Path,
    *,
    level: LevelOfTheory = NABLA_LEVEL,
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert a nablaDFT Hamiltonian database.

    Raises:
        HamnetError: no such file, not nablaDFT, no rows, or an overlap that is not reproduced.
    """
    path = Path(path)
    total = count_rows(path, {"id", "Z", "R", "E", "H", "S"}, "nablaDFT", options.limit)
    frames = _nabla_frames(path)
    return _import(frames, _nabla_frames(path), out, level, NABLA, total, path, options)


def _nabla_frames(path: Path) -> Iterator[MatrixTask | Failure]:
    has_molecules = next(
        rows_of(path, "select count(*) from sqlite_master where name = 'dataset_ids'")
    )[0]
    molecule = (
        "(select MOSES_ID from dataset_ids where dataset_ids.id = data.id)"
        if has_molecules
        else "null"
    )
    query = f"select id, Z, R, E, H, S, {molecule} from data order by id"
    for order, (key, z, r, e, h, s, moses) in enumerate(rows_of(path, query)):
        origin = f"{path}, row {key}"
        try:
            numbers = np.frombuffer(z, dtype="<i4").astype(np.int64)
            positions = array_of(r, np.float32, (len(numbers), 3), "R").astype(float)
            structure = Structure(numbers, positions * BOHR_TO_ANGSTROM)
            hamiltonian, overlap = square(h, np.float32, "H"), square(s, np.float32, "S")
            energy = float("nan") if e is None else _number(e)
        except (HamnetError, ValueError, TypeError) as error:
            yield Failure(origin, "read", str(error))
            continue
        yield MatrixTask(
            structure,
            origin,
            structure.formula if moses is None else f"moses-{moses}",
            order,
            hamiltonian=hamiltonian,
            overlap=overlap,
            energy=energy,
        )


def _number(value: bytes | float) -> float:
    return float(np.frombuffer(value, "<f4")[0]) if isinstance(value, bytes) else float(value)


def import_md17(
    path: str | Path,
    out: str | Path,
    *,
    level: LevelOfTheory = MD17_LEVEL,
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert an ASE database of SchNOrb.

    Raises:
        HamnetError: no such file, no rows, no matrices, or an overlap that is not reproduced.
    """
    path = Path(path)
    _check_signature(path)
    try:
        with connect(path, type="db") as database:
            total = min(database.count(), options.limit or database.count())
    except (sqlite3.Error, KeyError, OSError) as error:
        raise HamnetError(f"{path}: ASE cannot read it as a database ({error})") from error
    if total == 0:
        raise HamnetError(f"{path} holds no frame")
    frames = _md17_frames(path)
    return _import(frames, _md17_frames(path), out, level, MD17, total, path, options)


def _md17_frames(path: Path) -> Iterator[MatrixTask | Failure]:
    with connect(path, type="db") as database:
        for order, row in enumerate(database.select(sort="id")):
            origin = f"{path}, row {row.id}"
            missing = [key for key in ("hamiltonian", "overlap") if key not in row.data]
            if missing:
                yield Failure(origin, "read", f"no {' and no '.join(missing)} in its data")
                continue
            try:
                structure = Structure(row.numbers, row.positions)
                h, s = (_md17_matrix(row.data, key) for key in ("hamiltonian", "overlap"))
            except (HamnetError, ValueError, TypeError) as error:
                yield Failure(origin, "read", str(error))
                continue
            yield MatrixTask(
                structure,
                origin,
                order=order,
                hamiltonian=h,
                overlap=s,
            )


def _md17_matrix(data: Mapping[str, Any], key: str) -> NDArray[np.float64]:
    """Return a matrix that lies in a row as an array or as base64 with its shape and type."""
    values = data[key]
    if isinstance(values, str):
        dtype = np.dtype(data[f"_dtype_{key}"])
        values = np.frombuffer(b64decode(values), dtype).reshape(data[f"_shape_{key}"])
    matrix = np.asarray(values, dtype=float)
    n = round(np.sqrt(matrix.size))
    if n * n != matrix.size:
        raise HamnetError(f"{key} holds {matrix.size} numbers, which is no square matrix")
    return matrix.reshape(n, n)


def _import(
    frames: Iterator[MatrixTask | Failure],
    again: Iterator[MatrixTask | Failure],
    out: str | Path,
    level: LevelOfTheory,
    convention: Convention,
    total: int,
    path: Path,
    options: ImportOptions,
) -> Report:
    return import_dense(
        islice(frames, options.limit),
        first_frame(again, path),
        out,
        level,
        convention,
        total=total,
        source=path,
        options=options,
    )


def first_frame(frames: Iterator[MatrixTask | Failure], path: Path) -> MatrixTask:
    """Return the first frame that could be read.

    Raises:
        HamnetError: there is none.
    """
    for frame in frames:
        if isinstance(frame, MatrixTask):
            return frame
    raise HamnetError(f"{path}: not one frame can be read")


def _check_signature(path: Path) -> None:
    if not path.is_file():
        raise HamnetError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(len(_SIGNATURE)) != _SIGNATURE:
            raise HamnetError(f"{path} is not an SQLite database")


def count_rows(path: Path, columns: set[str], name: str, limit: int | None) -> int:
    """Return the number of rows to read.

    Raises:
        HamnetError: no such file, another kind of file, no rows.
    """
    _check_signature(path)
    found = column_names(path)
    if not columns <= found:
        raise HamnetError(
            f"{path} is not {name}: its table 'data' has the columns "
            f"{', '.join(sorted(found)) or 'of no such table'}; expected "
            f"{', '.join(sorted(columns))}"
        )
    n = int(next(rows_of(path, "select count(*) from data"))[0])
    if n == 0:
        raise HamnetError(f"{path} holds no frame")
    return min(n, limit or n)


def column_names(path: Path) -> set[str]:
    """Return the columns of the table ``data``, none if there is no such table."""
    return {row[1] for row in rows_of(path, "pragma table_info(data)")}


def rows_of(path: Path, query: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query; the file is opened read-only.

    Raises:
        HamnetError: it cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            yield from database.execute(query)
    except sqlite3.Error as error:
        raise HamnetError(f"{path}: SQLite cannot read it ({error}); is it complete?") from error


def array_of(blob: bytes, dtype: Any, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """Return a little-endian blob as an array.

    Raises:
        HamnetError: it does not have this shape.
    """
    if len(blob) % np.dtype(dtype).itemsize:
        raise HamnetError(f"{name} ends in the middle of a number")
    values = np.frombuffer(blob, dtype=np.dtype(dtype).newbyteorder("<"))
    if values.size != np.prod(shape):
        raise HamnetError(f"{name} holds {values.size} numbers, expected shape {shape}")
    return values.reshape(shape)


def square(blob: bytes, dtype: Any, name: str) -> NDArray[np.float64]:
    """Return a blob as a square matrix.

    Raises:
        HamnetError: its length is no square.
    """
    n = round(np.sqrt(len(blob) / np.dtype(dtype).itemsize))
    return array_of(blob, dtype, (n, n), name).astype(np.float64)
