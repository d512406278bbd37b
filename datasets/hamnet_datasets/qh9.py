"""Import of QH9 (SQLite), with its four published splits.

Stable: table ``data (id, N, Z, pos, Ham)``, positions in Angstrom. Dynamic: ``data (id, geo_id, N,
Z, pos, ekin, epot, etot, time, Ham, converged)``, positions in Bohr, ``id`` also as a blob of one
int64, frames of a molecule one after the other. Blobs are int32 and float64, matrices Hartree in
PySCF's orbital order. Which unit of length it is, is proven, not believed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory
from hamnet.data.splits import (
    split_at_random,
    split_by_size,
    split_geometries,
    split_molecules,
)
from hamnet.errors import HamnetError
from hamnet.registry import look_up
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
from hamnet_datasets.sqlite import array_of, column_names, count_rows, first_frame, rows_of, square

QH9_LEVEL = LevelOfTheory(
    xc="b3lyp5", basis="def2-svp", conv_tol=1e-9, conv_tol_grad=3.16e-5, max_cycle=50
)
"""Of its published scripts: the defaults of a PySCF before 2.3, whose ``b3lyp`` is ``b3lyp5`` now.
"""

CONVENTION = Convention(fock_error=1e-4)
"""Those thresholds leave 1e-5 Hartree in H (formic acid 1.2e-5), the other b3lyp makes it 4e-3."""


@dataclass(frozen=True)
class _Table:
    """How to query a file: Stable and Dynamic have different columns."""

    path: Path
    is_dynamic: bool
    has_converged: bool
    has_energy: bool

    def frames(self, scale: float, subsets: Sequence[str]) -> Iterator[MatrixTask | Failure]:
        """Yield the rows in the order of the file, positions multiplied by ``scale``."""
        columns = ["id", "geo_id" if self.is_dynamic else "null", "N", "Z", "pos", "Ham"]
        columns.append("converged" if self.has_converged else "1")
        columns.append("epot" if self.has_energy else "null")
        query = f"select {', '.join(columns)} from data order by rowid"
        for order, (key, geo, n, z, pos, ham, converged, energy) in enumerate(
            rows_of(self.path, query)
        ):
            name = _integer(key)
            origin = f"{self.path}, row {name}" + ("" if geo is None else f", geometry {geo}")
            if not converged:
                yield Failure(origin, "scf", "the file says that it did not converge")
                continue
            try:
                numbers = array_of(z, np.int32, (n,), "Z").astype(np.int64)
                structure = Structure(numbers, array_of(pos, np.float64, (n, 3), "pos") * scale)
                matrix = square(ham, np.float64, "Ham")
            except (HamnetError, TypeError) as error:
                yield Failure(origin, "read", str(error))
                continue
            yield MatrixTask(
                structure,
                origin,
                f"molecule-{name}" if self.is_dynamic else "",
                order,
                subset=subsets[order] if subsets else "",
                hamiltonian=matrix,
                energy=float("nan") if energy is None else float(energy),
            )

    def subsets(self, split: str) -> list[str]:
        """Return the subset of every row of the file, also of those that cannot be read.

        Raises:
            HamnetError: unknown split, or one that the rows do not allow.
        """
        rows = [
            (_integer(k), n) for k, n in rows_of(self.path, "select id, N from data order by rowid")
        ]
        groups = [f"{key}" for key, _ in rows]
        parts = {
            "random": lambda: split_at_random(len(rows)),
            "size": lambda: split_by_size([n for _, n in rows]),
            "molecule": lambda: split_molecules(groups),
            "geometry": lambda: split_geometries(groups),
        }
        found = [""] * len(rows)
        for name, members in look_up("split of QH9", split, parts)().items():
            for k in members:
                found[k] = name
        return found


def import_qh9(
    path: str | Path,
    out: str | Path,
    *,
    level: LevelOfTheory = QH9_LEVEL,
    split: str = "",
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert a QH9 file; in Dynamic the frames of a molecule are a group.

    Args:
        path: the file.
        out: the store to write.
        level: level of theory.
        split: random or size (Stable), molecule or geometry (Dynamic), as published, by the rows
            of the file: frames that cannot be read do not move the others to another subset.
            Empty for none.
        options: references, workers, card.

    Raises:
        HamnetError: no such file, not QH9, no rows, or numbers that no unit explains.
    """
    path = Path(path)
    total = count_rows(path, {"id", "N", "Z", "pos", "Ham"}, "QH9", options.limit)
    columns = column_names(path)
    table = _Table(path, "geo_id" in columns, "converged" in columns, "epot" in columns)
    subsets = table.subsets(split) if split else []
    scale = _unit(table, level)
    if split:
        card = {**options.card, "split": {"by": f"qh9 {split}"}}
        options = replace(options, card=card)
    return import_dense(
        islice(table.frames(scale, subsets), options.limit),
        first_frame(table.frames(scale, subsets), path),
        out,
        level,
        CONVENTION,
        total=total,
        source=path,
        options=options,
    )


def _unit(table: _Table, level: LevelOfTheory) -> float:
    """Return Angstrom per unit of length of the file, proven by the Fock matrix of one frame.

    Raises:
        HamnetError: neither unit fits.
    """
    first = first_frame(table.frames(1.0, ()), table.path)
    s = first.structure
    why = ""
    for scale in (1.0, BOHR_TO_ANGSTROM):
        scaled = replace(first, structure=Structure(s.numbers, s.positions * scale))
        try:
            check_first(scaled, resolve(level), CONVENTION)
        except HamnetError as error:
            why = why or str(error)
        else:
            return scale
    raise HamnetError(f"{table.path}: with positions in Angstrom or Bohr alike: {why}")


def _integer(key: int | bytes) -> int:
    """Return an id, which Dynamic holds as a blob where it was written from a NumPy integer."""
    return int.from_bytes(key, "little", signed=True) if isinstance(key, bytes) else key
