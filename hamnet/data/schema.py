"""Format version 1 of the HDF5 store: every dataset, its unit and how it is cut into frames.

Flat arrays and offsets, never a dataset per frame or pair. Frame ``f`` owns the rows
``offsets/<counter>[f] : offsets/<counter>[f + 1]`` of every column with that counter; a column
without counter has one row a frame. Blocks follow each other in the order of ``pairs/atom_pairs``,
matrix after matrix: ``frames/n_spin`` says how many there are (`hamnet.blocks.SpinKind`).

Columns with a counter lie in one piece, so that a reader can map them into memory; the `checksum`
of each frame's rows is in ``checksums/<column>``. Everything else is chunked with fletcher32.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamnet.blocks import PairLayout, SpinKind
from hamnet.data.record import Record
from hamnet.structure import FloatArray, Structure

FORMAT = "hamnet-dataset"
FORMAT_VERSION = 1
AO_ORDER = (
    "atoms as in the structure; per atom the shells as the basis defines them, one per contraction;"
    " per shell m = -l..l of the real spherical harmonics without Condon-Shortley sign"
)
SUBSETS = ("train", "validation", "test")
CHUNK_BYTES = 1 << 13
"""Of columns with one row a frame; they must not swell small files."""


@dataclass(frozen=True)
class Column:
    """One dataset of the file.

    Attributes:
        dtype: NumPy type on disk.
        row: shape of one row.
        counter: which offsets cut it into frames; empty for one row a frame.
        unit: unit of the numbers, empty for none.
        default: value in files that were written before the column existed; None if none were.
    """

    dtype: str
    row: tuple[int, ...] = ()
    counter: str = ""
    unit: str = ""
    default: int | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.row, dtype=int))


_FIXED = {
    "frames/id": Column("S32"),
    "frames/charge": Column("<i4", unit="e"),
    "frames/spin": Column("<i4"),
    "frames/n_spin": Column("<i4"),
    "frames/energy": Column("<f8", unit="Hartree"),
    "frames/energy_zero": Column("<f8", unit="Hartree", default=0),
    "frames/dipole": Column("<f8", (3,), unit="Debye"),
    "frames/scf_cycles": Column("<i4"),
    "frames/scf_rung": Column("<i4", default=0),
    "frames/seconds": Column("<f8", unit="s"),
    "frames/cell": Column("<f8", (3, 3), unit="Angstrom"),
    "frames/pbc": Column("|u1", (3,)),
    "frames/group": Column("|u1", (), "group"),
    "frames/origin": Column("|u1", (), "origin"),
    "atoms/numbers": Column("<i4", (), "atoms"),
    "atoms/positions": Column("<f8", (3,), "atoms", "Angstrom"),
    "pairs/atom_pairs": Column("<i4", (5,), "pairs"),
    "pairs/chunk_shapes": Column("<i4", (2,), "pairs"),
    "pairs/chunk_boundaries": Column("<i8", (), "pairs"),
    "overlap": Column("<f8", (), "entries"),
    "hamiltonian": Column("<f8", (), "spin_entries", "Hartree"),
    "orbitals/energies": Column("<f8", (), "orbitals", "Hartree"),
    "orbitals/occupations": Column("<f8", (), "orbitals"),
}
COUNTERS = ("group", "origin", "atoms", "pairs", "entries", "spin_entries", "orbitals")


def columns(references: Iterable[str], *, spinor: bool = False) -> dict[str, Column]:
    """Return all columns of a file that holds these reference Hamiltonians."""
    h0 = Column("<f8", (), "spin_entries" if spinor else "entries", "Hartree")
    return {**_FIXED, **{f"references/{name}": h0 for name in references}}


Row = dict[str, NDArray[Any]]


_ODD = np.arange(1, 1 << 16, 2, dtype=np.uint64)


def checksum(rows: NDArray[Any]) -> int:
    """Return ``sum_i (2 i + 1) w_i`` modulo 2^64 over the 8-byte words w (zeros fill up the last).

    It changes with every single damaged word, and takes microseconds for a matrix.
    """
    data = rows.reshape(-1).view(np.uint8)
    n = len(data) // 8
    odd = _ODD[:n] if n <= len(_ODD) else np.arange(1, 2 * n, 2, dtype=np.uint64)
    total = int(data[: 8 * n].view("<u8").dot(odd))
    if len(data) != 8 * n:
        total += (2 * n + 1) * int.from_bytes(data[8 * n :].tobytes(), "little")
    return total & 0xFFFFFFFFFFFFFFFF


def to_row(record: Record) -> Row:
    """Return the rows of one record, by column."""
    structure, layout = record.structure, record.layout
    row: dict[str, Any] = {
        "frames/id": record.id.encode(),
        "frames/charge": structure.charge,
        "frames/spin": structure.spin,
        "frames/n_spin": len(record.hamiltonian),
        "frames/energy": record.energy,
        "frames/energy_zero": record.energy_zero,
        "frames/dipole": record.dipole,
        "frames/scf_cycles": record.scf_cycles,
        "frames/scf_rung": record.scf_rung,
        "frames/seconds": record.seconds,
        "frames/cell": structure.cell,
        "frames/pbc": structure.pbc,
        "frames/group": np.frombuffer(record.group.encode(), dtype=np.uint8),
        "frames/origin": np.frombuffer(record.origin.encode(), dtype=np.uint8),
        "atoms/numbers": structure.numbers,
        "atoms/positions": structure.positions,
        "pairs/atom_pairs": layout.atom_pairs,
        "pairs/chunk_shapes": layout.shapes,
        "pairs/chunk_boundaries": layout.boundaries[:-1],
        "overlap": record.overlap,
        "hamiltonian": record.hamiltonian.reshape(-1),
        "orbitals/energies": record.orbital_energies.reshape(-1),
        "orbitals/occupations": record.occupations.reshape(-1),
        **{f"references/{name}": h0.reshape(-1) for name, h0 in record.references.items()},
    }
    specs = columns(record.references, spinor=record.spin_kind is SpinKind.SPINOR)
    return {name: _rows(value, specs[name]) for name, value in row.items()}


def _rows(value: Any, column: Column) -> NDArray[Any]:
    array = np.asarray(value, dtype=column.dtype)
    return np.ascontiguousarray(array if column.counter else array[None])


def to_tensors(record: Record) -> Row:
    """Return the rows of one record as plain arrays of numbers, for the journal."""
    row = to_row(record)
    del row["frames/id"]  # a string: the journal keeps it among its strings
    return row


def from_tensors(arrays: Mapping[str, NDArray[Any]], record_id: str) -> Row:
    """Rebuild the rows of one record; inverse of `to_tensors`."""
    absent = {
        name: np.array([column.default], column.dtype)
        for name, column in _FIXED.items()
        if column.default is not None and name not in arrays
    }
    return {"frames/id": np.array([record_id.encode()], dtype="S32"), **absent, **arrays}


def from_row(row: Mapping[str, NDArray[Any]], atom_offsets: NDArray[np.int64]) -> Record:
    """Rebuild a record; inverse of `to_row`.

    Args:
        row: the rows of one frame, by column.
        atom_offsets: first orbital of each atom and, last, their number.
    """
    n_spin = int(row["frames/n_spin"][0])
    n_channels = SpinKind(n_spin).n_channels
    h0_shape = (n_spin, -1) if n_spin == SpinKind.SPINOR else (-1,)
    return Record(
        id=row["frames/id"][0].decode(),
        structure=structure_of(row),
        layout=PairLayout(row["pairs/atom_pairs"].astype(np.int64), atom_offsets),
        hamiltonian=_native(row["hamiltonian"]).reshape(n_spin, -1),
        overlap=_native(row["overlap"]),
        references={
            name[len(_REFERENCE) :]: _native(value).reshape(h0_shape)
            for name, value in row.items()
            if name.startswith(_REFERENCE)
        },
        orbital_energies=_native(row["orbitals/energies"]).reshape(n_channels, -1),
        occupations=_native(row["orbitals/occupations"]).reshape(n_channels, -1),
        group=row["frames/group"].tobytes().decode(),
        origin=row["frames/origin"].tobytes().decode(),
        energy=float(row["frames/energy"][0]),
        energy_zero=float(row["frames/energy_zero"][0]),
        dipole=_native(row["frames/dipole"][0]),
        scf_cycles=int(row["frames/scf_cycles"][0]),
        scf_rung=int(row["frames/scf_rung"][0]),
        seconds=float(row["frames/seconds"][0]),
    )


_REFERENCE = "references/"

STRUCTURE_COLUMNS = (
    "atoms/numbers",
    "atoms/positions",
    "frames/cell",
    "frames/pbc",
    "frames/charge",
    "frames/spin",
)


def structure_of(row: Mapping[str, NDArray[Any]]) -> Structure:
    """Rebuild the structure from its columns (`STRUCTURE_COLUMNS`)."""
    return Structure(
        numbers=row["atoms/numbers"],
        positions=row["atoms/positions"],
        cell=row["frames/cell"][0],
        pbc=row["frames/pbc"][0],
        charge=int(row["frames/charge"][0]),
        spin=int(row["frames/spin"][0]),
    )


def _native(values: NDArray[Any]) -> FloatArray:
    return np.asarray(values, dtype=np.float64)
