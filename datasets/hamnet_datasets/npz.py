"""Import of plain NumPy files: geometries with Hamiltonians and overlaps as dense matrices.

Keys: ``Z [N]`` or ``[F, N]``, ``R [F, N, 3]``, ``H [F, n, n]`` in Hartree, ``S [F, n, n]``, and
optionally ``eps [F, n]`` in Hartree, ``xc``, ``basis``. Nothing is believed: unit and orbital order
are proven by computing S again, the level of theory by building the Fock matrix of H's own density.
"""

import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf.dft import rks

from hamnet.basis import AO_ORDERS, OrbitalBasis, from_hamnet_order, to_hamnet_order
from hamnet.blocks import from_dense, molecule_layout, to_dense
from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.data.schema import SUBSETS
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for, overlap, reference_hamiltonian, to_mole
from hamnet.registry import look_up
from hamnet.structure import FloatArray, Structure
from hamnet.units import BOHR_TO_ANGSTROM
from hamnet_datasets.engine import Progress, process
from hamnet_datasets.jobs import Report, finish, made_by
from hamnet_datasets.labels import (
    DEFAULT_REFERENCES,
    LabelError,
    Outcome,
    Task,
    check_energies,
    check_references,
    orbital_energies,
    resolve,
)

MAX_OVERLAP_ERROR = 1e-8
MAX_FOCK_ERROR = 1e-5
"""Hartree: two functionals differ by 1e-4 and more, two PySCF versions by 1e-7."""


@dataclass(frozen=True)
class MatrixTask(Task):
    """A frame that comes with its matrices, in the orbital order of the file.

    Attributes:
        hamiltonian: Hartree, ``[n, n]``.
        overlap: ``[n, n]``.
        energies: orbital energies, Hartree, ``[n_mo]``, or None.
    """

    hamiltonian: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    overlap: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    energies: FloatArray | None = None


def import_npz(
    path: str | Path,
    out: str | Path,
    *,
    xc: str = "",
    basis: str = "",
    grid_level: int = 3,
    order: str = "pyscf",
    split: Sequence[int] | None = None,
    references: Sequence[str] = DEFAULT_REFERENCES,
    card: Mapping[str, Any] | None = None,
    n_workers: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Convert a file of closed-shell neutral molecules into a store; resumable.

    Args:
        path: the file.
        out: the store to write.
        xc: functional; by default the file's own.
        basis: basis set; by default the file's own.
        grid_level: PySCF's quadrature grid with which the labels were made.
        order: orbital order of the file, a key of `hamnet.basis.AO_ORDERS`.
        split: numbers of training, validation and test frames, in the order of the file.
        references: reference Hamiltonians to compute and store.
        card: name, citation, licence; where the data came from is added.
        n_workers: worker processes; 0 works in this process.
        on_progress: called after every frame.

    Raises:
        HamnetError: no such file, no npz, a missing key, shapes that do not fit, an order, unit or
            level of theory that does not reproduce the file's own numbers.
    """
    path = Path(path)
    data = _load(path)
    look_up("orbital order", order, AO_ORDERS)
    level = resolve(
        LevelOfTheory(
            xc=_setting(data, "xc", xc, path),
            basis=_setting(data, "basis", basis, path),
            grid_level=grid_level,
        )
    )
    frames = _tasks(data, path, split)
    readable = [frame for frame in frames if isinstance(frame, MatrixTask)]
    if not readable:
        raise HamnetError(f"{path}: not one of the {len(frames)} frames can be read")
    check_first(readable[0], level, order)
    wanted = check_references(references)
    card = {"name": path.stem, **(card or {}), **made_by(), "imported_from": path.name}
    with Writer(out, level, references=wanted, card=card) as writer:
        convert = partial(convert_task, level=level, order=order, references=wanted)
        progress = process(
            frames,
            writer,
            convert,
            total=len(frames),
            n_workers=n_workers,
            on_progress=on_progress,
        )
        return finish(writer, progress)


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise HamnetError(f"{path}: no such file")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise HamnetError(f"{path}: a single array; expected an .npz with Z, R, H and S")
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise HamnetError(
            f"{path}: not a readable .npz file of plain arrays ({error}); pickled objects are "
            "never loaded"
        ) from error


def _setting(data: Mapping[str, NDArray[Any]], key: str, given: str, path: Path) -> str:
    if given:
        return given
    if key not in data:
        raise HamnetError(f"{path} does not say its {key}: give it with --{key}")
    return str(data[key])


def _tasks(
    data: Mapping[str, NDArray[Any]], path: Path, split: Sequence[int] | None
) -> list[MatrixTask | Failure]:
    missing = sorted({"Z", "R", "H", "S"} - data.keys())
    if missing:
        raise HamnetError(
            f"{path} has no {', '.join(missing)}; it holds {', '.join(sorted(data)) or 'nothing'}"
        )
    n_frames = len(data["R"])
    if n_frames == 0:
        raise HamnetError(f"{path} holds no frame")
    numbers = np.broadcast_to(data["Z"], (n_frames, data["Z"].shape[-1]))
    for key in ("H", "S", "eps"):
        if key in data and len(data[key]) != n_frames:
            raise HamnetError(f"{path}: {n_frames} frames in R, but {len(data[key])} in {key}")
    subsets = _subsets(n_frames, split, path)
    tasks: list[MatrixTask | Failure] = []
    for k in range(n_frames):
        origin = f"{path}, frame {k}"
        try:
            structure = Structure(numbers[k], data["R"][k])
        except HamnetError as error:
            tasks.append(Failure(origin, "read", str(error)))
            continue
        matrices = data["H"][k].astype(float), data["S"][k].astype(float)
        energies = data["eps"][k].astype(float) if "eps" in data else None
        tasks.append(MatrixTask(structure, origin, "", k, subsets[k], *matrices, energies))
    return tasks


def _subsets(n_frames: int, split: Sequence[int] | None, path: Path) -> list[str]:
    if split is None:
        return [""] * n_frames
    if len(split) != len(SUBSETS) or sum(split) != n_frames or min(split) < 0:
        raise HamnetError(
            f"{path} holds {n_frames} frames, which the split {','.join(map(str, split))} does not "
            "divide: give the numbers of training, validation and test frames"
        )
    return [name for name, n in zip(SUBSETS, split, strict=True) for _ in range(n)]


def check_first(task: MatrixTask, level: LevelOfTheory, order: str) -> None:
    """Prove unit, orbital order and level of theory on one frame.

    Raises:
        HamnetError: the numbers of the file are not reproduced; the message says what would.
    """
    basis = basis_for(task.structure, level.basis)
    n = int(basis.atom_offsets(task.structure.numbers)[-1])
    if task.hamiltonian.shape != (n, n) or task.overlap.shape != (n, n):
        raise HamnetError(
            f"{task.origin}: H has shape {task.hamiltonian.shape} and S {task.overlap.shape}, but "
            f"{level.basis} gives {n} orbitals for {task.structure.formula}"
        )
    error = _overlap_error(task, task.structure, basis, order)
    if error > MAX_OVERLAP_ERROR:
        raise HamnetError(
            f"{task.origin}: S differs by {error:.1e} from the overlap of {level.basis} in the "
            f"orbital order '{order}'{_what_fits(task, basis)}"
        )
    check_fock(task, level, basis, order)


def _overlap_error(
    task: MatrixTask, structure: Structure, basis: OrbitalBasis, order: str
) -> float:
    computed = to_dense(overlap(structure, basis))
    given = to_hamnet_order(task.overlap, basis, structure.numbers, order)
    return float(np.abs(given - computed).max())


def _what_fits(task: MatrixTask, basis: OrbitalBasis) -> str:
    """Return what order and unit would reproduce the overlap."""
    s = task.structure
    units = {"Angstrom": s, "Bohr": Structure(s.numbers, s.positions * BOHR_TO_ANGSTROM)}
    for unit, structure in units.items():
        for order in AO_ORDERS:
            if _overlap_error(task, structure, basis, order) <= MAX_OVERLAP_ERROR:
                return f"; the order '{order}' with R in {unit} reproduces it"
    return ", nor does any other known order or unit fit: is the basis the right one?"


def check_fock(task: MatrixTask, level: LevelOfTheory, basis: OrbitalBasis, order: str) -> None:
    """Check that H is the Fock matrix of its own density at this level of theory.

    Raises:
        HamnetError: it is not: another functional, unit or grid.
    """
    mole = to_mole(task.structure, level.basis)
    numbers = task.structure.numbers
    h, s = (
        from_hamnet_order(to_hamnet_order(m, basis, numbers, order), basis, numbers, "pyscf")
        for m in (task.hamiltonian, task.overlap)
    )
    _, coefficients = scipy.linalg.eigh(h, s)
    occupied = coefficients[:, : mole.nelectron // 2]
    mf = rks.RKS(mole, xc=level.xc)
    mf.grids.level = level.grid_level
    fock = np.asarray(mf.get_hcore() + mf.get_veff(mole, 2 * occupied @ occupied.T))
    error = float(np.abs(fock - h).max())
    if error > MAX_FOCK_ERROR:
        raise HamnetError(
            f"{task.origin}: H differs by {error:.1e} Hartree from the Fock matrix of its own "
            f"density at {level}: another functional (b3lyp or b3lyp5?), another unit, or not "
            "converged"
        )


def convert_task(
    task: MatrixTask, level: LevelOfTheory, order: str, references: Sequence[str]
) -> Outcome:
    """Turn one frame with its matrices into a record, checking S and the orbital energies."""
    try:
        return _convert(task, level, order, references)
    except HamnetError as error:
        stage = error.stage if isinstance(error, LabelError) else "check"
        return Failure(task.origin, stage, str(error), record_id(task.structure, level))


def _convert(
    task: MatrixTask, level: LevelOfTheory, order: str, references: Sequence[str]
) -> tuple[Record, OrbitalBasis]:
    start = time.perf_counter()
    structure = task.structure
    basis = basis_for(structure, level.basis)
    error = _overlap_error(task, structure, basis, order)
    if not error <= MAX_OVERLAP_ERROR:
        raise HamnetError(f"S differs by {error:.1e} from the overlap of this geometry")
    energies = task.energies
    if energies is None:
        energies = orbital_energies(task.hamiltonian, task.overlap)
    check_energies(task.hamiltonian[None], task.overlap, energies[None])
    layout = molecule_layout(basis.atom_offsets(structure.numbers))
    h, s = (
        from_dense(to_hamnet_order(m, basis, structure.numbers, order), layout).entries
        for m in (task.hamiltonian, task.overlap)
    )
    n_occupied = to_mole(structure, level.basis).nelectron // 2
    record = Record(
        id=record_id(structure, level),
        structure=structure,
        layout=layout,
        hamiltonian=h[None],
        overlap=s,
        references={
            kind: reference_hamiltonian(structure, level, kind, basis).entries
            for kind in references
        },
        orbital_energies=energies[None],
        occupations=np.where(np.arange(len(energies)) < n_occupied, 2.0, 0.0)[None],
        group=task.group,
        origin=task.origin,
        seconds=time.perf_counter() - start,
    )
    return record, basis
