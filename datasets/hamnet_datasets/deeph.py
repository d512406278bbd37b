"""DeepH folders, the legacy layout in and the new layout in and out; eV and Angstrom.

Legacy, a folder per structure: ``lat.dat`` and ``site_positions.dat`` with vectors as columns,
``element.dat``, ``orbital_types.dat``, ``info.json``, ``hamiltonians.h5`` and ``overlaps.h5``
with a dataset ``[R1, R2, R3, i, j]`` per pair, atoms counted from 1, OpenMX's orbital order. New:
``POSCAR``, ``info.json`` with ``elements_orbital_map``, ``hamiltonian.h5`` and ``overlap.h5``
with ``atom_pairs`` (from 0), ``chunk_boundaries``, ``chunk_shapes`` and ``entries``; m = -l..l.
With spin-orbit coupling (``isspinful``, ``spinful`` in ``info.json``) blocks of H are complex,
``[[uu, ud], [du, dd]]``, and those of S as before.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
from numpy.typing import NDArray

from hamnet.blocks import HamiltonianBlocks, SpinKind
from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory
from hamnet.data.record import Record
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.interop.ase import from_atoms, to_atoms
from hamnet.spinor import to_spinor
from hamnet.structure import FloatArray, IntArray, Structure, atomic_number, symbol
from hamnet.units import HARTREE_TO_EV
from hamnet_datasets.crystal import (
    Block,
    BlockFrame,
    import_blocks,
    real_block,
    spin_blocks,
)
from hamnet_datasets.dense import DEFAULT_OPTIONS, ImportOptions
from hamnet_datasets.jobs import Report

VACUUM = 20.0
"""Angstrom around a molecule, which these formats put into a box."""


def _import(
    path: Path,
    name: str,
    read: Callable[[Path], BlockFrame],
    out: str | Path,
    level: LevelOfTheory,
    order: str,
    options: ImportOptions,
) -> Report:
    """Convert every folder that holds a file of that name; the first says if H is spinful."""
    folders = folders_with(path, name, options.limit)
    if _spinful(folders[0]):
        level = level.model_copy(update={"relativity": "spin-orbit"})
    frames = (read_or_fail(read, folder) for folder in folders)
    return import_blocks(
        frames, out, level, order, total=len(folders), source=path, options=options
    )


def import_deeph_legacy(
    path: str | Path,
    out: str | Path,
    *,
    level: LevelOfTheory,
    order: str = "openmx",
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert a folder of the legacy layout, or a folder of such folders.

    Raises:
        HamnetError: no such folder, nothing in it; see also `import_blocks`.
    """
    return _import(Path(path), "hamiltonians.h5", _legacy, out, level, order, options)


def import_deeph(
    path: str | Path,
    out: str | Path,
    *,
    level: LevelOfTheory,
    order: str = "hamnet",
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert a folder of the new layout, or a folder of such folders (``dft/``).

    Raises:
        HamnetError: no such folder, nothing in it; see also `import_blocks`.
    """
    return _import(Path(path), "hamiltonian.h5", _new, out, level, order, options)


def folders_with(path: Path, file: str, limit: int | None) -> list[Path]:
    """Return the folders below a path that hold a file, in the order of their names.

    Raises:
        HamnetError: there is none.
    """
    if not path.is_dir():
        raise HamnetError(f"{path}: no such folder")
    found = sorted(p.parent for p in path.rglob(file))[:limit]
    if not found:
        raise HamnetError(f"{path} holds no {file}: is it this layout?")
    return found


def read_or_fail(read: Callable[[Path], BlockFrame], folder: Path) -> BlockFrame | Failure:
    """Return what a reader makes of a folder, or why it cannot."""
    try:
        return read(folder)
    except HamnetError as error:
        return Failure(str(folder), "read", str(error))
    except (OSError, KeyError, ValueError) as error:
        return Failure(str(folder), "read", f"{type(error).__name__}: {error}")


def _info(folder: Path) -> dict[str, Any]:
    path = folder / "info.json"
    info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return info


def _spinful(folder: Path) -> bool:
    info = _info(folder)
    return bool(info.get("isspinful") or info.get("spinful"))


def _legacy(folder: Path) -> BlockFrame:
    numbers = np.loadtxt(folder / "element.dat", dtype=int, ndmin=1)
    structure = Structure(
        numbers,
        np.loadtxt(folder / "site_positions.dat", ndmin=2).T,
        cell=np.loadtxt(folder / "lat.dat").T,
        pbc=np.ones(3, dtype=bool),
    )
    lines = (folder / "orbital_types.dat").read_text(encoding="utf-8").splitlines()
    types = [tuple(map(int, line.split())) for line in lines if line.strip()]
    shells = dict(zip(numbers.tolist(), types, strict=True))
    return BlockFrame(
        structure,
        _hamiltonian(folder, _legacy_blocks(folder / "hamiltonians.h5"), numbers, shells),
        _overlap(_legacy_blocks(folder / "overlaps.h5")),
        shells,
        str(folder),
    )


def _hamiltonian(
    folder: Path,
    blocks: Mapping[Block, NDArray[Any]],
    numbers: IntArray,
    shells: Mapping[int, tuple[int, ...]],
) -> dict[Block, FloatArray]:
    sizes = np.array([sum(2 * l + 1 for l in shells[z]) for z in numbers.tolist()])
    return spin_blocks(blocks, 1 / HARTREE_TO_EV, sizes if _spinful(folder) else None)


def _overlap(blocks: Mapping[Block, NDArray[Any]]) -> dict[Block, FloatArray]:
    return {key: real_block(values) for key, values in blocks.items()}


def _legacy_blocks(path: Path) -> dict[Block, NDArray[Any]]:
    with h5py.File(path, "r") as file:
        found: dict[Block, NDArray[Any]] = {}
        for name, data in file.items():
            r1, r2, r3, i, j = json.loads(name)
            found[r1, r2, r3, i - 1, j - 1] = data[()]
    return found


def _new(folder: Path) -> BlockFrame:
    info = _info(folder)
    atoms = ase.io.read(folder / "POSCAR", format="vasp")
    assert not isinstance(atoms, list)
    shells = {atomic_number(s): tuple(ls) for s, ls in info["elements_orbital_map"].items()}
    return BlockFrame(
        from_atoms(atoms),
        _hamiltonian(folder, _new_blocks(folder / "hamiltonian.h5"), atoms.numbers, shells),
        _overlap(_new_blocks(folder / "overlap.h5")),
        shells,
        str(folder),
    )


def _new_blocks(path: Path) -> dict[Block, NDArray[Any]]:
    with h5py.File(path, "r") as file:
        pairs, cuts = file["atom_pairs"][()], file["chunk_boundaries"][()]
        shapes, entries = file["chunk_shapes"][()], file["entries"][()]
    found: dict[Block, NDArray[Any]] = {}
    for k, (r1, r2, r3, i, j) in enumerate(pairs.tolist()):
        found[r1, r2, r3, i, j] = entries[cuts[k] : cuts[k + 1]].reshape(shapes[k])
    return found


def export_deeph(store: Store, out: Path, indices: list[int]) -> int:
    """Write records as ``OUT/000000/{POSCAR, info.json, overlap.h5, hamiltonian.h5}``.

    Atoms are sorted by element, as POSCAR wants them. A molecule gets a box with vacuum.

    Returns:
        The number of records written.

    Raises:
        HamnetError: two spin channels, which the layout does not have.
    """
    for index in indices:
        record = store[index]
        if record.spin_kind is SpinKind.COLLINEAR:
            raise HamnetError(
                f"record {index} has two spin channels, which the DeepH layout cannot hold"
            )
        folder = out / f"{index:06d}"
        folder.mkdir(parents=True)
        order = by_element(record.structure)
        atoms = to_atoms(in_a_box(record.structure))[order]
        ase.io.write(folder / "POSCAR", atoms, format="vasp", direct=False)
        info = {
            "atoms_quantity": len(record.structure),
            "orbits_quantity": record.layout.n_orbitals,
            "orthogonal_basis": False,
            "spinful": record.spin_kind is SpinKind.SPINOR,
            "fermi_energy_eV": _fermi_ev(record),
            "elements_orbital_map": {
                symbol(z): list(store.basis.of(z))
                for z in dict.fromkeys(record.structure.numbers[order].tolist())
            },
        }
        (folder / "info.json").write_text(json.dumps(info), encoding="utf-8")
        place = np.argsort(order)
        for name, unit in (("overlap", 1.0), ("hamiltonian", HARTREE_TO_EV)):
            blocks = both_directions(record.blocks(name))
            _write_new(folder / f"{name}.h5", blocks, place, unit)
    return len(indices)


def _fermi_ev(record: Record) -> float:
    """Return the middle of the gap, or the HOMO without LUMO; 0 where there are no orbitals."""
    occupied = record.occupations > 0
    if not occupied.any():
        return 0.0
    homo = float(record.orbital_energies[occupied].max())
    empty = record.orbital_energies[~occupied]
    return HARTREE_TO_EV * (homo + (float(empty.min()) if empty.size else homo)) / 2


def by_element(structure: Structure) -> list[int]:
    """Return an order of the atoms in which every element is in one piece."""
    first = {z: k for k, z in reversed(list(enumerate(structure.numbers.tolist())))}
    return sorted(range(len(structure)), key=lambda k: (first[int(structure.numbers[k])], k))


def in_a_box(structure: Structure) -> Structure:
    """Return a molecule in a periodic box with vacuum around it; a crystal as it is."""
    if structure.is_periodic:
        return structure
    low = structure.positions.min(axis=0)
    size = structure.positions.max(axis=0) - low + VACUUM
    return Structure(
        structure.numbers,
        structure.positions - low + VACUUM / 2,
        cell=np.diag(size),
        pbc=np.ones(3, dtype=bool),
    )


def both_directions(blocks: HamiltonianBlocks) -> dict[Block, NDArray[Any]]:
    """Return every block of a matrix and its partner, first spin channel; spinful ones complex."""
    found: dict[Block, NDArray[Any]] = {}
    entries = blocks.entries.reshape(-1, blocks.entries.shape[-1])
    boundaries, shapes = blocks.layout.boundaries, blocks.layout.shapes
    for k, (r1, r2, r3, i, j) in enumerate(blocks.layout.atom_pairs.tolist()):
        channels = entries[:, boundaries[k] : boundaries[k + 1]].reshape(-1, *shapes[k])
        block = to_spinor(channels) if blocks.is_spinor else channels[0]
        found[r1, r2, r3, i, j] = block
        found[-r1, -r2, -r3, j, i] = block.conj().T
    return found


def _write_new(path: Path, blocks: Mapping[Block, NDArray[Any]], place: Any, unit: float) -> None:
    moved = {
        (r1, r2, r3, int(place[i]), int(place[j])): block * unit
        for (r1, r2, r3, i, j), block in blocks.items()
    }
    keys = sorted(moved)
    sizes = [moved[key].size for key in keys]
    with h5py.File(path, "w") as file:
        file["atom_pairs"] = np.array(keys, dtype=np.int64)
        file["chunk_boundaries"] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        file["chunk_shapes"] = np.array([moved[key].shape for key in keys], dtype=np.int64)
        file["entries"] = np.concatenate([moved[key].ravel() for key in keys])
