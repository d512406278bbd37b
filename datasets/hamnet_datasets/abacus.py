"""ABACUS ``out_mat_hs2`` files: H(R) and S(R) as text, one sparse matrix per cell shift, Rydberg.

Old header: ``STEP``, ``Matrix Dimension of H(R)``, ``Matrix number of H(R)``; the geometry is in
another file. New header (3.9 and later): ``--- Ionic Step``, numbers with a ``#`` remark behind
them, then the unit cell (Bohr), so that no other file is needed. ABACUS writes the upper triangle
or all of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from scipy.sparse import csr_array

from hamnet.basis import OrbitalBasis
from hamnet.data.level import LevelOfTheory
from hamnet.errors import HamnetError
from hamnet.interop.ase import from_atoms
from hamnet.structure import FloatArray, Structure, atomic_number
from hamnet.units import BOHR_TO_ANGSTROM
from hamnet_datasets.crystal import Block, BlockFrame, import_blocks
from hamnet_datasets.deeph import folders_with, read_or_fail
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
    folders = folders_with(path, names[0].format(spin=1, old=0), options.limit)

    def read(folder: Path) -> BlockFrame:
        return _read(folder, names, shells, structure)

    return import_blocks(
        (read_or_fail(read, f) for f in folders),
        out,
        level,
        order,
        total=len(folders),
        source=path,
        options=options,
    )


def _read(
    folder: Path, names: tuple[str, str], shells: dict[int, tuple[int, ...]], structure: str
) -> BlockFrame:
    spins = [folder / names[0].format(spin=k + 1, old=k) for k in range(2)]
    channels = [read_csr(path) for path in spins if path.exists()]
    overlap = read_csr(folder / names[1])
    geometry = channels[0].structure
    if structure:
        atoms = ase.io.read(folder / structure)
        assert not isinstance(atoms, list)
        geometry = from_atoms(atoms)
    if geometry is None:
        raise HamnetError("the old header has no geometry: name its file with --structure")
    basis = OrbitalBasis("", shells, {})
    offsets = basis.atom_offsets(geometry.numbers)
    if offsets[-1] != channels[0].n_orbitals:
        raise HamnetError(
            f"{channels[0].n_orbitals} orbitals in the file, but --orbitals gives {offsets[-1]}"
        )
    cut = [_blocks(c.matrices, offsets) for c in channels]
    keys = set().union(*cut)
    zero = {key: np.zeros(_shape(key, offsets)) for key in keys}
    hamiltonian = {k: RYDBERG * np.stack([c.get(k, zero[k]) for c in cut]) for k in keys}
    return BlockFrame(
        geometry, hamiltonian, _blocks(overlap.matrices, offsets), shells, str(folder)
    )


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
class CsrFile:
    """The content of one file.

    Attributes:
        n_orbitals: size of the matrices.
        matrices: by cell shift.
        structure: geometry, where the header has it.
    """

    n_orbitals: int
    matrices: dict[tuple[int, int, int], csr_array]
    structure: Structure | None


def read_csr(path: Path) -> CsrFile:
    """Read a file with either header.

    Raises:
        HamnetError: no such file, another kind of file, or it ends too early.
    """
    if not path.is_file():
        raise HamnetError(f"{path}: no such file")
    lines = iter(path.read_text(encoding="utf-8").splitlines())
    try:
        head = next(lines)
        while "Ionic Step" not in head and "Matrix Dimension" not in head:
            head = next(lines)
        if "Ionic Step" in head:
            return _new_header(lines)
        n = int(head.split()[-1])
        return CsrFile(n, _matrices(lines, n, int(next(lines).split()[-1])), None)
    except (StopIteration, ValueError, IndexError) as error:
        raise HamnetError(f"{path}: no csr file of ABACUS, or it ends too early") from error


def _new_header(lines: Iterator[str]) -> CsrFile:
    numbers: dict[str, int] = {}
    for line in lines:
        value, _, remark = line.partition("#")
        if value.strip():
            numbers[remark.strip()] = int(value)
        if "Bravais lattice vector" in remark:
            break
    n = numbers["number of localized basis"]
    structure = _unit_cell(lines)
    return CsrFile(n, _matrices(lines, n, numbers["number of Bravais lattice vector R"]), structure)


def _unit_cell(lines: Iterator[str]) -> Structure:
    text = (line.strip() for line in lines if line.strip())
    next(text)  # kind of lattice
    scale = float(next(text)) * BOHR_TO_ANGSTROM
    cell = np.array([next(text).split() for _ in range(3)], dtype=float) * scale
    symbols, counts = next(text).split(), [int(x) for x in next(text).split()]
    is_direct = next(text).lower().startswith("d")
    numbers = np.repeat([atomic_number(s) for s in symbols], counts)
    rows = np.array([next(text).split()[:3] for _ in numbers], dtype=float)
    positions = rows @ cell if is_direct else rows * scale
    return Structure(numbers, positions, cell=cell, pbc=np.ones(3, dtype=bool))


def _matrices(lines: Iterator[str], n: int, count: int) -> dict[tuple[int, int, int], csr_array]:
    text = (line for line in lines if line.strip() and not line.strip().startswith("#"))
    found = {}
    for _ in range(count):
        r1, r2, r3, filled = map(int, next(text).split())
        if filled == 0:
            continue
        values, columns, starts = next(text).split(), next(text).split(), next(text).split()
        data = np.array(values, float), np.array(columns, int), np.array(starts, int)
        if len(values) != filled:
            raise ValueError("too few values")
        found[r1, r2, r3] = csr_array(data, shape=(n, n))
    return found
