"""ASE in and out: `Atoms` objects and every structure file that ASE reads.

A bad frame never hides the others: it comes back as the error that says what is wrong with it.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError

from hamnet.errors import HamnetError
from hamnet.structure import Structure

_XYZ_SUFFIXES = (".xyz", ".extxyz")


@dataclass(frozen=True)
class Frame:
    """One frame of a structure file: a structure, or the reason why there is none.

    Attributes:
        index: position in the file, from 0.
        origin: file and index, for people.
        structure: the geometry, or the error (it names file and frame).
        group: trajectory of the frame, from the key ``group`` of an extended xyz; else empty.
        file: name of the file; empty where the frame is from none.
    """

    index: int
    origin: str
    structure: Structure | HamnetError
    group: str = ""
    file: str = ""


def from_atoms(atoms: Atoms, charge: int | None = None, spin: int | None = None) -> Structure:
    """Convert ASE atoms.

    Args:
        atoms: geometry, Angstrom.
        charge: total charge; by default ``atoms.info["charge"]`` or 0.
        spin: unpaired electrons; by default ``atoms.info["spin"]``, or
            ``atoms.info["multiplicity"] - 1``, or 0.

    Raises:
        HamnetError: charge or spin that are no whole numbers; see also `Structure`.
    """
    info: Mapping[str, Any] = atoms.info
    if charge is None:
        charge = _whole(info, "charge", 0)
    if spin is None:
        spin = _whole(info, "spin", _whole(info, "multiplicity", 1) - 1)
    return Structure(
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=np.asarray(atoms.cell),
        pbc=atoms.pbc,
        charge=charge,
        spin=spin,
    )


def _whole(info: Mapping[str, Any], key: str, default: int) -> int:
    value = info.get(key, default)
    try:
        if int(value) == float(value):
            return int(value)
    except (TypeError, ValueError):
        pass
    raise HamnetError(f"{key} must be a whole number, got {value!r}")


def to_atoms(structure: Structure) -> Atoms:
    """Convert to ASE atoms; charge and spin go into ``atoms.info``."""
    return Atoms(
        numbers=structure.numbers,
        positions=structure.positions,
        cell=structure.cell,
        pbc=structure.pbc,
        info={"charge": structure.charge, "spin": structure.spin},
    )


def read_structures(
    path: str | Path, *, charge: int | None = None, spin: int | None = None
) -> Iterator[tuple[int, Structure | HamnetError]]:
    """Yield ``(index, structure or error)`` for every frame; see `read_frames`."""
    for frame in read_frames(path, charge=charge, spin=spin):
        yield frame.index, frame.structure


def read_frames(
    path: str | Path, *, charge: int | None = None, spin: int | None = None
) -> Iterator[Frame]:
    """Yield the frames of a structure file; ASE tells the format from the name.

    Args:
        path: the file.
        charge: total charge of every frame; by default what the frame says, or 0.
        spin: unpaired electrons of every frame; by default what the frame says, or 0.

    Raises:
        HamnetError: the file does not exist, cannot be read at all, or holds no frame. What is
            wrong with a single frame is not raised but yielded.
    """
    path = Path(path)
    if not path.is_file():
        raise HamnetError(f"{path}: no such file")
    frames = _xyz_frames(path) if path.suffix.lower() in _XYZ_SUFFIXES else _ase_frames(path)
    index = -1
    for index, atoms in enumerate(frames):
        origin = f"{path}, frame {index}"
        if isinstance(atoms, HamnetError):
            yield Frame(index, origin, atoms.at(origin), file=str(path))
            continue
        try:
            structure = from_atoms(atoms, charge, spin)
        except HamnetError as error:
            yield Frame(index, origin, error.at(origin), file=str(path))
        else:
            group = str(atoms.info.get("group", ""))
            yield Frame(index, origin, structure, group, str(path))
    if index < 0:
        raise HamnetError(f"{path}: the file is empty: it holds no frame")


def _ase_frames(path: Path) -> Iterator[Atoms | HamnetError]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from ase.io.iread(path)
    except UnknownFileTypeError as error:
        raise HamnetError(
            f"{path}: ASE does not know this kind of file ({error}); known are for instance "
            ".xyz, .extxyz, .traj, .pdb, .cif, .vasp, .json, .db"
        ) from error
    except Exception as error:  # readers of foreign files fail in every possible way
        yield HamnetError(f"cannot be read, nor can anything behind it ({_reason(error)})")


class _Lines:
    """The lines of a text file by their number, from 0; memory holds what is not forgotten."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._kept, self._first = file, deque[str](), 0

    def has(self, at: int) -> bool:
        """Say whether there is a line of this number."""
        while at >= self._first + len(self._kept):
            line = self._file.readline()
            if not line:
                return False
            self._kept.append(line.rstrip("\n"))
        return True

    def __getitem__(self, at: int) -> str:
        return self._kept[at - self._first]

    def between(self, start: int, stop: int) -> list[str]:
        """Return lines, fewer where the file ends."""
        return [self[at] for at in takewhile(self.has, range(start, stop))]

    def forget(self, before: int) -> None:
        """Drop the lines with smaller numbers."""
        while self._kept and self._first < before:
            self._kept.popleft()
            self._first += 1


def _xyz_frames(path: Path) -> Iterator[Atoms | HamnetError]:
    """Cut an xyz file into frames itself: ASE gives up the rest of a file at the first bad one."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from _cut_frames(_Lines(file))
    except UnicodeDecodeError as error:
        raise HamnetError(f"{path}: not a text file, so not an xyz file ({error})") from error


def _cut_frames(lines: _Lines) -> Iterator[Atoms | HamnetError]:
    start = 0
    while lines.has(start):
        lines.forget(start)
        if not lines[start].strip():
            start += 1
            continue
        n_atoms = _count(lines[start])
        stop = start + (n_atoms or 0) + 2
        frame = _parse_xyz(lines, start, n_atoms)
        yield frame
        is_whole = isinstance(frame, Atoms) or (n_atoms is not None and _may_end(lines, stop))
        start = stop if is_whole else _next_count(lines, start + 1)


def _count(line: str) -> int | None:
    text = line.strip()
    return int(text) if text.isdecimal() and text.isascii() else None


def _may_end(lines: _Lines, at: int) -> bool:
    """Say whether a frame may end before a line: the file ends there, or a frame begins."""
    if lines.has(at):
        return _count(lines[at]) is not None
    return lines.has(at - 1)


def _is_atom(line: str) -> bool:
    try:
        return len([float(word) for word in line.split()[1:4]]) == 3
    except ValueError:
        return False


def _next_count(lines: _Lines, start: int) -> int:
    """Return the next line that looks like the beginning of a frame, or the end of the file."""
    while lines.has(start) and _count(lines[start]) is None:
        start += 1
    return start


def _parse_xyz(lines: _Lines, start: int, n_atoms: int | None) -> Atoms | HamnetError:
    line = start + 1  # people count lines from 1
    if n_atoms is None:
        return HamnetError(
            f"line {line} should hold the number of atoms, but holds {lines[start][:40]!r}"
        )
    stop = start + n_atoms + 2
    found = lines.between(start, stop)
    if len(found) < n_atoms + 2:
        return HamnetError(
            f"truncated: line {line} announces {n_atoms} atoms, but the file ends after "
            f"{max(len(found) - 2, 0)}"
        )
    if lines.has(stop) and _is_atom(lines[stop]):
        return HamnetError(f"line {line} announces {n_atoms} atoms, but more of them follow")
    text = "\n".join(found) + "\n"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms = ase.io.read(StringIO(text), format="extxyz")
    except KeyError as error:
        return HamnetError(f"unknown element {error} (frame at line {line})")
    except Exception as error:  # ASE's readers fail in every possible way
        return HamnetError(f"the frame at line {line} cannot be read ({_reason(error)})")
    assert isinstance(atoms, Atoms)
    return atoms


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
