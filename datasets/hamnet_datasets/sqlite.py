"""Import of QH9 and nablaDFT (SQLite) and of the MD17 Hamiltonians of SchNOrb (ASE database).

QH9: table ``data (id, N, Z, pos, Ham)``, in Dynamic also ``geo_id``; blobs int32 and float64,
PySCF's orbital order, Hartree; positions in Angstrom (Stable) or Bohr (Dynamic): which one is
proven, not believed. nablaDFT: table ``data (id, Z, R, E, F, H, S, C)``, blobs int32 and float32,
Bohr, Psi4's order. SchNOrb: ASE rows with ``hamiltonian`` and ``overlap`` in their data, Hartree,
Angstrom, ORCA's order.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
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
    check_first,
    import_dense,
)
from hamnet_datasets.jobs import Report
from hamnet_datasets.labels import resolve

QH9_LEVEL = LevelOfTheory(xc="b3lyp5", basis="def2-svp")
"""Made by PySCF before 2.3, where ``b3lyp`` meant what is ``b3lyp5`` now."""

NABLA_LEVEL = LevelOfTheory(xc="wb97x_d", basis="def2-svp", program="psi4")
MD17_LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp", program="orca")

NABLA = Convention("psi4", overlap_error=1e-5, fock_error=5e-3, asymmetry=1e-4)
MD17 = Convention("orca", overlap_error=1e-4, fock_error=5e-3, asymmetry=1e-4)
"""Single precision and other programs' grids: wide enough for those, too narrow for a mistake."""

_SIGNATURE = b"SQLite format 3\x00"


def import_qh9(
    path: str | Path,
    out: str | Path,
    *,
    level: LevelOfTheory = QH9_LEVEL,
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert a QH9 file; in Dynamic the frames of a molecule are a group.

    Raises:
        HamnetError: no such file, not QH9, no rows, or numbers that no unit explains.
    """
    path = Path(path)
    total = _count(path, {"id", "N", "Z", "pos", "Ham"}, "QH9", options.limit)
    scale = _unit(path, level)
    frames = _qh9_frames(path, scale)
    return _import(frames, _qh9_frames(path, scale), out, level, Convention(), total, path, options)


def _qh9_frames(path: Path, scale: float) -> Iterator[MatrixTask | Failure]:
    columns = {row[1] for row in _rows(path, "pragma table_info(data)")}
    geometry = "geo_id" if "geo_id" in columns else "null"
    query = f"select id, {geometry}, N, Z, pos, Ham from data order by id, 2"
    for order, (key, geo, n, z, pos, ham) in enumerate(_rows(path, query)):
        origin = f"{path}, row {key}" + ("" if geo is None else f", geometry {geo}")
        try:
            numbers = _array(z, np.int32, (n,), "Z")
            positions = _array(pos, np.float64, (n, 3), "pos") * scale
            structure = Structure(numbers.astype(np.int64), positions)
            group = "" if geo is None else f"molecule-{key}"
            matrix = _square(ham, np.float64, "Ham")
        except HamnetError as error:
            yield Failure(origin, "read", str(error))
            continue
        yield MatrixTask(structure, origin, group, order, hamiltonian=matrix)


def _unit(path: Path, level: LevelOfTheory) -> float:
    """Return Angstrom per unit of length of the file, proven by the Fock matrix of one frame.

    Raises:
        HamnetError: neither unit fits.
    """
    first = _first(_qh9_frames(path, 1.0), path)
    why = ""
    for scale in (1.0, BOHR_TO_ANGSTROM):
        s = first.structure
        scaled = replace(first, structure=Structure(s.numbers, s.positions * scale))
        try:
            check_first(scaled, resolve(level), Convention())
        except HamnetError as error:
            why = why or str(error)
        else:
            return scale
    raise HamnetError(f"{path}: with positions in Angstrom or Bohr alike: {why}")


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
    total = _count(path, {"id", "Z", "R", "E", "H", "S"}, "nablaDFT", options.limit)
    frames = _nabla_frames(path)
    return _import(frames, _nabla_frames(path), out, level, NABLA, total, path, options)


def _nabla_frames(path: Path) -> Iterator[MatrixTask | Failure]:
    for order, (key, z, r, e, h, s) in enumerate(
        _rows(path, "select id, Z, R, E, H, S from data order by id")
    ):
        origin = f"{path}, row {key}"
        try:
            numbers = np.frombuffer(z, dtype="<i4").astype(np.int64)
            positions = _array(r, np.float32, (len(numbers), 3), "R").astype(float)
            structure = Structure(numbers, positions * BOHR_TO_ANGSTROM)
            matrices = (_square(blob, np.float32, name) for blob, name in ((h, "H"), (s, "S")))
            hamiltonian, overlap = matrices
            energy = float(np.frombuffer(e, "<f4")[0]) if isinstance(e, bytes) else float(e)
        except HamnetError as error:
            yield Failure(origin, "read", str(error))
            continue
        group = structure.formula
        yield MatrixTask(
            structure,
            origin,
            group,
            order,
            hamiltonian=hamiltonian,
            overlap=overlap,
            energy=energy,
        )


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
            h, s = (np.asarray(row.data[key], dtype=float) for key in ("hamiltonian", "overlap"))
            n = round(np.sqrt(h.size))
            try:
                structure = Structure(row.numbers, row.positions)
            except HamnetError as error:
                yield Failure(origin, "read", str(error))
                continue
            yield MatrixTask(
                structure,
                origin,
                order=order,
                hamiltonian=h.reshape(n, n),
                overlap=s.reshape(n, n),
            )


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
        _first(again, path),
        out,
        level,
        convention,
        total=total,
        source=path,
        options=options,
    )


def _first(frames: Iterator[MatrixTask | Failure], path: Path) -> MatrixTask:
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


def _count(path: Path, columns: set[str], name: str, limit: int | None) -> int:
    """Return the number of rows to read.

    Raises:
        HamnetError: no such file, another kind of file, no rows.
    """
    _check_signature(path)
    found = {row[1] for row in _rows(path, "pragma table_info(data)")}
    if not columns <= found:
        raise HamnetError(
            f"{path} is not {name}: its table 'data' has the columns "
            f"{', '.join(sorted(found)) or 'of no such table'}; expected "
            f"{', '.join(sorted(columns))}"
        )
    n = int(next(_rows(path, "select count(*) from data"))[0])
    if n == 0:
        raise HamnetError(f"{path} holds no frame")
    return min(n, limit or n)


def _rows(path: Path, query: str) -> Iterator[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            yield from database.execute(query)
    except sqlite3.Error as error:
        raise HamnetError(f"{path}: SQLite cannot read it ({error}); is it complete?") from error


def _array(blob: bytes, dtype: Any, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    values = np.frombuffer(blob, dtype=np.dtype(dtype).newbyteorder("<"))
    if values.size != np.prod(shape):
        raise HamnetError(f"{name} holds {values.size} numbers, expected shape {shape}")
    return values.reshape(shape)


def _square(blob: bytes, dtype: Any, name: str) -> NDArray[np.float64]:
    n = round(np.sqrt(len(blob) / np.dtype(dtype).itemsize))
    return _array(blob, dtype, (n, n), name).astype(np.float64)
