"""Tables made of the rows of predictions: CSV for spreadsheets, extended xyz for ASE."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.extxyz import write_xyz

from hamnet.files import replacing
from hamnet.inference.rows import COLUMNS
from hamnet.structure import FloatArray

ORBITAL_COLUMNS = ("row", "channel", "orbital", "occupation", "energy_ev")

_NOT_INFO = (
    *("numbers", "positions_angstrom", "cell_angstrom", "pbc"),
    *("orbital_energies_ev", "occupations", "error"),
)
_PER_ATOM = ("mulliken_charges", "loewdin_charges")


def write_frames(path: Path, rows: Iterable[Mapping[str, Any]], extra: tuple[str, ...]) -> None:
    """Write a CSV table with a row per frame; lists are JSON.

    Args:
        path: the file.
        rows: the predictions.
        extra: columns beside `COLUMNS`; they stand before warnings and error.
    """
    columns = (*COLUMNS[:-2], *extra, *COLUMNS[-2:])
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(_cell(row.get(name)) for name in columns)


def write_orbitals(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV table with a row per orbital."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(ORBITAL_COLUMNS)
        for row in rows:
            energies, occupations = row.get("orbital_energies_ev", []), row.get("occupations", [])
            for channel, levels in enumerate(energies):
                for orbital, energy in enumerate(levels):
                    occupation = f"{occupations[channel][orbital]:g}"
                    writer.writerow((row["row"], channel, orbital, occupation, energy))


def write_dos(path: Path, energies_ev: FloatArray, density: FloatArray) -> None:
    """Write a density of states as a CSV table, each ``[n]``."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("energy_ev", "electrons_per_ev"))
        for energy, value in zip(energies_ev, density, strict=True):
            writer.writerow((f"{energy:.4f}", f"{value:.6g}"))


def write_extxyz(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the predicted frames as an extended xyz file, values in ``info``, charges by atom."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for row in rows:
            if not row.get("error"):
                write_xyz(file, [_atoms(row)])


def _atoms(row: Mapping[str, Any]) -> Atoms:
    skip = (*_NOT_INFO, *_PER_ATOM)
    info = {
        key: np.array(value) if isinstance(value, list) else value
        for key, value in row.items()
        if key not in skip and value not in (None, "", [])
    }
    where = {"cell": row.get("cell_angstrom"), "pbc": row.get("pbc", False)}
    atoms = Atoms(row["numbers"], row["positions_angstrom"], info=info, **where)
    for name in _PER_ATOM:
        if name in row:
            atoms.set_array(name, np.array(row[name]))
    return atoms


def _cell(value: Any) -> Any:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value
