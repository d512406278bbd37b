"""ABACUS ``out_mat_hs2`` files: H(R) and S(R) as text, one sparse matrix per cell shift, Rydberg.

Old header: ``STEP``, ``Matrix Dimension of H(R)``, ``Matrix number of H(R)``; the geometry is in
another file. New header (3.9 and later): ``--- Ionic Step``, numbers with a ``#`` remark behind
them, then the unit cell, its lattice constant in Angstrom. Molecular dynamics appends its steps to
one file. ABACUS writes all of the matrix, or the upper triangle at R = 0.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
from scipy.sparse import csr_array

from hamnet.basis import OrbitalBasis
from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory
from hamnet.errors import HamnetError
from hamnet.interop.ase import from_atoms
from hamnet.structure import FloatArray, Structure, atomic_number
from hamnet_datasets.crystal import Block, BlockFrame, import_blocks
from hamnet_datasets.deeph import folders_with
from hamnet_datasets.deeptb import parse_orbitals
from hamnet_datasets.dense import DEFAULT_OPTIONS, ImportOptions
from hamnet_datasets.jobs import Report

RYDBERG = 0.5
"""Hartree."""

_NEW = ("hrs{spin}_nao.csr", "srs1_nao.csr")
_OLD = ("data-HR-sparse_SPIN{old}.csr", "data-SR-sparse_SPIN0.csr")


def import_abacus(
    path: str | Path,
    out: str | Path,
    *,
    level: LevelOfTheory,
    orbitals: str,
    structure: str = "",
    order: str = "abacus",
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert an output folder of ABACUS (``OUT.ABACUS``), or a folder of such folders.

    Args:
        path: the folder.
        out: the store to write.
        level: what is known of the level of theory.
        orbitals: shells of every element, such as ``Si=2s2p1d``, as in the names of the .orb files.
        structure: name of a file beside the matrices with the geometry (any that ASE reads), for
            the old header; atoms in ABACUS's order.
        order: orbital order of the files.
        options: card and progress.

    Raises:
        HamnetError: no such folder, nothing in it; see also `import_blocks`.
    """
    path = Path(path)
    shells = parse_orbitals(orbitals)
    new = path.is_dir() and any(path.rglob(_NEW[0].format(spin=1)))
    names = _NEW if new else _OLD
    folders = folders_with(path, names[0].format(spin=1, old=0), None)
    total = sum(_count_steps(folder / names[0].format(spin=1, old=0)) for folder in folders)
    frames = (frame for folder in folders for frame in _frames(folder, names, shells, structure))
    return import_blocks(
        islice(frames, options.limit),
        out,
        level,
        order,
        total=min(total, options.limit or total),
        source=path,
        options=options,
    )


def _count_steps(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        return sum("Ionic Step" in line or "Matrix Dimension" in line for line in lines)


def _frames(
    folder: Path, names: tuple[str, str], shells: dict[int, tuple[int, ...]], structure: str
) -> Iterator[BlockFrame | Failure]:
    """Yield the ionic steps of a folder; more than one are a trajectory."""
    try:
        spins = [folder / names[0].format(spin=k + 1, old=k) for k in range(2)]
        files = [read_csr(path) for path in [*spins, folder / names[1]] if path.exists()]
        if not (folder / names[1]).exists():
            raise HamnetError(f"no {names[1]}: ABACUS writes it beside H with out_mat_hs2")
        lengths = {len(steps) for steps in files}
        if len(lengths) > 1:
            raise HamnetError(f"the files of H and S hold {sorted(lengths)} ionic steps")
        steps = list(zip(*files, strict=True))
        geometries = _geometries(folder / structure, len(steps)) if structure else None
    except HamnetError as error:
        yield Failure(str(folder), "read", str(error))
        return
    for k, (*channels, overlap) in enumerate(steps):
        origin = f"{folder}, step {k}" if len(steps) > 1 else str(folder)
        try:
            geometry = channels[0].structure if geometries is None else geometries[k]
            frame = _frame(channels, overlap, geometry, shells, origin)
        except HamnetError as error:
            yield Failure(origin, "read", str(error))
            continue
        yield replace(frame, group=str(folder)) if len(steps) > 1 else frame


def _geometries(path: Path, n_steps: int) -> list[Structure]:
    try:
        found = ase.io.read(path, index=":")
    except Exception as error:  # ASE's readers raise whatever they like
        raise HamnetError(f"{path}: ASE cannot read it ({error})") from error
    assert isinstance(found, list)
    if len(found) != n_steps:
        raise HamnetError(f"{path} holds {len(found)} geometries for {n_steps} ionic steps")
    return [from_atoms(atoms) for atoms in found]


def _frame(
    channels: "list[CsrMatrices]",
    overlap: "CsrMatrices",
    geometry: Structure | None,
    shells: dict[int, tuple[int, ...]],
    origin: str,
) -> BlockFrame:
    if geometry is None:
        raise HamnetError("the old header has no geometry: name its file with --structure")
    offsets = OrbitalBasis("", shells, {}).atom_offsets(geometry.numbers)
    for matrices in (*channels, overlap):
        if offsets[-1] != matrices.n_orbitals:
            raise HamnetError(
                f"{matrices.n_orbitals} orbitals in the file, but --orbitals gives {offsets[-1]}"
            )
    cut = [_blocks(c.matrices, offsets) for c in channels]
    keys = set().union(*cut)
    zero = {key: np.zeros(_shape(key, offsets)) for key in keys}
    hamiltonian = {k: RYDBERG * np.stack([c.get(k, zero[k]) for c in cut]) for k in keys}
    return BlockFrame(geometry, hamiltonian, _blocks(overlap.matrices, offsets), shells, origin)


def _shape(key: Block, offsets: np.ndarray) -> tuple[int, int]:
    sizes = np.diff(offsets)
    return int(sizes[key[3]]), int(sizes[key[4]])


def _blocks(
    matrices: dict[tuple[int, int, int], csr_array], offsets: np.ndarray
) -> dict[Block, FloatArray]:
    found: dict[Block, FloatArray] = {}
    for (r1, r2, r3), matrix in matrices.items():
        dense = matrix.toarray()
        if not np.tril(dense, -1).any() and (r1, r2, r3) == (0, 0, 0):
            dense = dense + np.triu(dense, 1).T  # the upper triangle alone
        for i in range(len(offsets) - 1):
            rows = dense[offsets[i] : offsets[i + 1]]
            for j in range(len(offsets) - 1):
                block = rows[:, offsets[j] : offsets[j + 1]]
                if block.any():
                    found[r1, r2, r3, i, j] = block
    return found


@dataclass(frozen=True)
class CsrMatrices:
    """One ionic step of a file.

    Attributes:
        n_orbitals: size of the matrices.
        matrices: by cell shift.
        structure: geometry, where the header has it.
    """

    n_orbitals: int
    matrices: dict[tuple[int, int, int], csr_array]
    structure: Structure | None


def read_csr(path: Path) -> list[CsrMatrices]:
    """Read all ionic steps of a file with either header.

    Raises:
        HamnetError: no such file, another kind of file, spinors, or it ends too early.
    """
    if not path.is_file():
        raise HamnetError(f"{path}: no such file")
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    steps: list[CsrMatrices] = []
    try:
        for head in lines:
            if "Ionic Step" in head:
                steps.append(_new_header(lines))
            elif "Matrix Dimension" in head:
                n = int(head.split()[-1])
                steps.append(
                    CsrMatrices(n, _matrices(lines, n, int(next(lines).split()[-1])), None)
                )
    except (StopIteration, ValueError, IndexError, KeyError) as error:
        raise HamnetError(f"{path}: no csr file of ABACUS, or it ends too early") from error
    except HamnetError as error:
        raise HamnetError(f"{path}: {error}") from error
    if not steps:
        raise HamnetError(f"{path}: no csr file of ABACUS: neither header is there")
    return steps


def _new_header(lines: Iterator[str]) -> CsrMatrices:
    numbers: dict[str, int] = {}
    for line in lines:
        value, _, remark = line.partition("#")
        if value.strip():
            numbers[remark.strip()] = int(value)
        if "Bravais lattice vector" in remark:
            break
    n = numbers["number of localized basis"]
    structure = _unit_cell(lines)
    matrices = _matrices(lines, n, numbers["number of Bravais lattice vector R"])
    return CsrMatrices(n, matrices, structure)


def _unit_cell(lines: Iterator[str]) -> Structure:
    text = (line.strip() for line in lines if line.strip())
    next(text)  # kind of lattice
    scale = float(next(text))
    cell = np.array([next(text).split() for _ in range(3)], dtype=float) * scale
    symbols, counts = next(text).split(), [int(x) for x in next(text).split()]
    is_direct = next(text).lower().startswith("d")
    numbers = np.repeat([_element(s) for s in symbols], counts)
    rows = np.array([next(text).split()[:3] for _ in numbers], dtype=float)
    positions = rows @ cell if is_direct else rows * scale
    return Structure(numbers, positions, cell=cell, pbc=np.ones(3, dtype=bool))


def _element(label: str) -> int:
    """Return the element of a label such as ``Fe1`` or ``Fe_up``."""
    letters = re.match(r"[A-Z][a-z]?", label)
    return atomic_number(letters.group() if letters else label)


def _matrices(lines: Iterator[str], n: int, count: int) -> dict[tuple[int, int, int], csr_array]:
    text = (line for line in lines if line.strip() and not line.strip().startswith("#"))
    found = {}
    for _ in range(count):
        r1, r2, r3, filled = map(int, next(text).split())
        if filled == 0:
            continue
        values = _take(text, filled)
        if "(" in values[0]:
            raise HamnetError("complex matrices (nspin = 4): hamnet has no spinors yet")
        columns, starts = _take(text, filled), _take(text, n + 1)
        data = np.array(values, float), np.array(columns, int), np.array(starts, int)
        found[r1, r2, r3] = csr_array(data, shape=(n, n))
    return found


def _take(text: Iterator[str], count: int) -> list[str]:
    """Return so many numbers, whatever lines they are on."""
    words: list[str] = []
    while len(words) < count:
        words += next(text).split()
    if len(words) != count:
        raise ValueError(f"{len(words)} numbers instead of {count}")
    return words
