"""DeePTB folders as dftio writes them, in and out; eV and Angstrom, m = -l..l.

A folder per system: ``positions.dat [F N, 3]``, ``cell.dat [3 or 3 F, 3]``, ``pbc.dat``,
``atomic_numbers.dat``, ``basis.dat`` (``{'C': '2s2p1d'}``), ``hamiltonians.h5`` and
``overlaps.h5`` with a group per frame and a dataset ``i_j_R1_R2_R3`` per pair, both directions.
dftio has also written the names in the singular, and atoms have been counted from 0 and from 1:
both are read.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import h5py
import numpy as np

from hamnet.basis import SHELL_LETTERS, OrbitalBasis
from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.structure import FloatArray, Structure, atomic_number, symbol
from hamnet.units import HARTREE_TO_EV
from hamnet_datasets.crystal import Block, BlockFrame, import_blocks, real_block
from hamnet_datasets.deeph import both_directions
from hamnet_datasets.dense import DEFAULT_OPTIONS, ImportOptions
from hamnet_datasets.jobs import Report


def import_deeptb(
    path: str | Path,
    out: str | Path,
    *,
    level: LevelOfTheory,
    order: str = "hamnet",
    orbitals: str = "",
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert a folder, or a folder of folders.

    Args:
        path: the folder.
        out: the store to write.
        level: what is known of the level of theory.
        order: orbital order of the file.
        orbitals: shells where ``basis.dat`` is absent, such as ``C=2s2p1d,H=2s1p``.
        options: card and progress.

    Raises:
        HamnetError: no such folder, nothing in it, shells unknown; see also `import_blocks`.
    """
    path = Path(path)
    if not path.is_dir():
        raise HamnetError(f"{path}: no such folder")
    found = sorted({p.parent for n in ("hamiltonians.h5", "hamiltonian.h5") for p in path.rglob(n)})
    if not found:
        raise HamnetError(f"{path} holds no hamiltonians.h5: is it DeePTB's layout?")
    total = sum(_count(folder) for folder in found)
    frames = (frame for folder in found for frame in _frames(folder, orbitals))
    return import_blocks(
        islice(frames, options.limit),
        out,
        level,
        order,
        total=min(total, options.limit or total),
        source=path,
        options=options,
    )


def _count(folder: Path) -> int:
    """Return the number of frames in a folder; 1, the failure, if it cannot be read."""
    try:
        with h5py.File(_either(folder, "hamiltonians.h5"), "r") as file:
            return len(file)
    except OSError:
        return 1


def _frames(folder: Path, orbitals: str) -> Iterator[BlockFrame | Failure]:
    try:
        yield from _read(folder, orbitals)
    except HamnetError as error:
        yield Failure(str(folder), "read", str(error))
    except (OSError, KeyError, ValueError, SyntaxError) as error:
        yield Failure(str(folder), "read", f"{type(error).__name__}: {error}")


def _read(folder: Path, orbitals: str) -> Iterator[BlockFrame | Failure]:
    numbers = np.loadtxt(_either(folder, "atomic_numbers.dat"), dtype=int, ndmin=1)
    positions = np.loadtxt(_either(folder, "positions.dat"), ndmin=2).reshape(-1, len(numbers), 3)
    cells = np.loadtxt(folder / "cell.dat").reshape(-1, 3, 3)
    has_pbc = (folder / "pbc.dat").exists()
    pbc = np.broadcast_to(np.loadtxt(folder / "pbc.dat").astype(bool) if has_pbc else True, 3)
    cells = cells if pbc.any() else np.zeros_like(cells)
    shells = _shells(folder, orbitals)
    with (
        h5py.File(_either(folder, "hamiltonians.h5"), "r") as h,
        h5py.File(_either(folder, "overlaps.h5"), "r") as s,
    ):
        names = sorted(h, key=int)
        if len(names) != len(positions):
            raise HamnetError(f"{len(positions)} geometries, but {len(names)} Hamiltonians")
        for k, name in enumerate(names):
            origin = f"{folder}, frame {name}"
            try:
                cell = cells[k if len(cells) > 1 else 0]
                structure = Structure(numbers, positions[k], cell=cell, pbc=pbc)
                hamiltonian = _blocks(h[name])
                overlap = _blocks(s[name])
            except (HamnetError, OSError, KeyError, ValueError) as error:
                yield Failure(origin, "read", str(error))
                continue
            yield BlockFrame(
                structure,
                {key: v[None] / HARTREE_TO_EV for key, v in hamiltonian.items()},
                overlap,
                shells,
                origin,
                group=folder.name,
            )


def _either(folder: Path, name: str) -> Path:
    """Return the file under its plural name, or under its singular one."""
    stem, suffix = name.rsplit(".", 1)
    singular = folder / f"{stem.removesuffix('s')}.{suffix}"
    return singular if singular.exists() and not (folder / name).exists() else folder / name


def _blocks(group: h5py.Group) -> dict[Block, FloatArray]:
    found = {tuple(map(int, key.split("_"))): real_block(v[()]) for key, v in group.items()}
    first = min(min(key[:2]) for key in found)  # counted from 0 or from 1
    return {(k[2], k[3], k[4], k[0] - first, k[1] - first): v for k, v in found.items()}


def _shells(folder: Path, orbitals: str) -> dict[int, tuple[int, ...]]:
    if orbitals:
        return parse_orbitals(orbitals)
    path = folder / "basis.dat"
    if not path.exists():
        raise HamnetError("no basis.dat: give the shells, such as --orbitals C=2s2p1d,H=2s1p")
    basis: Mapping[str, str] = ast.literal_eval(path.read_text(encoding="utf-8"))
    return {atomic_number(s): _one(text) for s, text in basis.items()}


def parse_orbitals(text: str) -> dict[int, tuple[int, ...]]:
    """Return the angular momenta of ``C=2s2p1d,H=2s1p`` by atomic number.

    Raises:
        HamnetError: not of this form.
    """
    shells = {}
    for part in text.split(","):
        name, _, count = part.strip().partition("=")
        shells[atomic_number(name)] = _one(count)
    return shells


def _one(text: str) -> tuple[int, ...]:
    parts = re.findall(r"(\d+)([a-z])", text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise HamnetError(f"'{text}' names no shells; expected for instance 2s2p1d")
    return tuple(SHELL_LETTERS.index(letter) for n, letter in parts for _ in range(int(n)))


def export_deeptb(store: Store, out: Path, indices: list[int]) -> int:
    """Write records as dftio does, a folder for every system, single precision.

    A molecule has the periodicity 0 0 0 and no cell, as dftio writes it from Gaussian.

    Returns:
        The number of records written.

    Raises:
        HamnetError: two spin channels, which the layout does not have; shells that are not in the
            order s, p, d, ... that the layout implies.
    """
    systems: dict[tuple[int, ...], list[int]] = {}
    for index in indices:
        structure = store.structure(index)
        key = (*structure.pbc.tolist(), *structure.numbers.tolist())
        systems.setdefault(key, []).append(index)
    for number, members in enumerate(systems.values()):
        folder = out / f"{store.structure(members[0]).formula}.{number}"
        folder.mkdir(parents=True)
        _write(store, folder, members)
    return len(indices)


def _write(store: Store, folder: Path, members: list[int]) -> None:
    structures = [store.structure(k) for k in members]
    numbers = structures[0].numbers
    np.savetxt(folder / "positions.dat", np.concatenate([s.positions for s in structures]))
    np.savetxt(folder / "cell.dat", np.concatenate([s.cell for s in structures]))
    np.savetxt(folder / "pbc.dat", structures[0].pbc)
    np.savetxt(folder / "atomic_numbers.dat", numbers, fmt="%d")
    basis = {symbol(z): _text(store.basis, z) for z in dict.fromkeys(numbers.tolist())}
    (folder / "basis.dat").write_text(str(basis), encoding="utf-8")
    for file, name, unit in (
        ("hamiltonians.h5", "hamiltonian", HARTREE_TO_EV),
        ("overlaps.h5", "overlap", 1.0),
    ):
        with h5py.File(folder / file, "w") as h5:
            for frame, index in enumerate(members):
                record = store[index]
                if len(record.hamiltonian) != 1:
                    raise HamnetError(
                        f"record {index} has {len(record.hamiltonian)} matrices (spin), of which "
                        "DeePTB's layout holds one"
                    )
                group = h5.create_group(str(frame))
                for (r1, r2, r3, i, j), block in both_directions(record.blocks(name)).items():
                    group[f"{i}_{j}_{r1}_{r2}_{r3}"] = (block * unit).astype(np.float32)


def _text(basis: OrbitalBasis, number: int) -> str:
    ls = basis.of(number)
    if list(ls) != sorted(ls):
        raise HamnetError(f"the shells of {symbol(number)} are not in the order s, p, d, ...")
    return "".join(f"{ls.count(l)}{SHELL_LETTERS[l]}" for l in dict.fromkeys(ls))
