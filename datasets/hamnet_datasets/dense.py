"""Molecules with dense matrices, as many codes write them: nothing is believed, all is proven.

Unit and orbital order are proven by computing S again for every frame, the level of theory by
building the Fock matrix of H's own density for the first one.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from pyscf.dft import rks

from hamnet.basis import AO_ORDERS, OrbitalBasis, from_hamnet_order, to_hamnet_order
from hamnet.blocks import from_dense, molecule_layout, to_dense
from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for, overlap, to_mole
from hamnet.references import reference_hamiltonian
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


@dataclass(frozen=True)
class MatrixTask(Task):
    """A frame that comes with its matrices, in the orbital order of the file.

    Attributes:
        hamiltonian: Hartree, ``[n, n]``.
        overlap: ``[n, n]``, or None if the file has none.
        energies: orbital energies, Hartree, ``[n_mo]``, or None.
        energy: total energy, Hartree; NaN where unknown.
    """

    hamiltonian: FloatArray = field(default_factory=lambda: np.zeros((0, 0)))
    overlap: FloatArray | None = None
    energies: FloatArray | None = None
    energy: float = float("nan")


@dataclass(frozen=True)
class Convention:
    """How a format writes its numbers.

    Attributes:
        order: orbital order, a key of `hamnet.basis.AO_ORDERS`.
        overlap_error: largest error of S; the precision of the file.
        fock_error: largest error of H against the Fock matrix of its own density, Hartree: two
            functionals differ by 1e-4 and more, two PySCF versions by 1e-7, other programs by
            their grids and fitted integrals.
        asymmetry: largest ``|H - H^T|``, Hartree; below it H is made symmetric.
    """

    order: str = "pyscf"
    overlap_error: float = 1e-8
    fock_error: float = 1e-5
    asymmetry: float = 1e-9


@dataclass(frozen=True)
class ImportOptions:
    """What is the same for all importers.

    Attributes:
        references: reference Hamiltonians to compute and store.
        card: name, citation, licence; where the data came from is added.
        n_workers: worker processes; 0 works in this process.
        limit: stop after so many frames; None for all.
        on_progress: called after every frame.
    """

    references: Sequence[str] = DEFAULT_REFERENCES
    card: Mapping[str, Any] = field(default_factory=dict)
    n_workers: int = 0
    limit: int | None = None
    on_progress: Callable[[Progress], None] = lambda progress: None


DEFAULT_OPTIONS = ImportOptions()


def import_dense(
    frames: Iterable[MatrixTask | Failure],
    first: MatrixTask,
    out: str | Path,
    level: LevelOfTheory,
    convention: Convention,
    *,
    total: int,
    source: Path,
    options: ImportOptions,
) -> Report:
    """Convert frames with dense matrices into a store; resumable.

    Args:
        frames: all of them; taken one by one.
        first: a frame on which unit, orbital order and level of theory are proven.
        out: the store to write.
        level: level of theory.
        convention: of the file.
        total: number of frames.
        source: the file.
        options: references, workers, card.

    Raises:
        HamnetError: an order, unit or level of theory that does not reproduce the file's numbers.
    """
    look_up("orbital order", convention.order, AO_ORDERS)
    level = resolve(level)
    check_first(first, level, convention)
    wanted = check_references(options.references)
    card = {"name": source.stem, **options.card, **made_by(), "imported_from": source.name}
    with Writer(out, level, references=wanted, card=card) as writer:
        convert = partial(convert_task, level=level, convention=convention, references=wanted)
        progress = process(
            frames,
            writer,
            convert,
            total=total,
            n_workers=options.n_workers,
            on_progress=options.on_progress,
        )
        return finish(writer, progress)


def check_first(task: MatrixTask, level: LevelOfTheory, convention: Convention) -> None:
    """Prove unit, orbital order and level of theory on one frame.

    Raises:
        HamnetError: the numbers of the file are not reproduced; the message says what would.
    """
    basis = basis_for(task.structure, level.basis)
    n = int(basis.atom_offsets(task.structure.numbers)[-1])
    for name, matrix in (("H", task.hamiltonian), ("S", task.overlap)):
        if matrix is not None and matrix.shape != (n, n):
            raise HamnetError(
                f"{task.origin}: {name} has shape {matrix.shape}, but {level.basis} gives {n} "
                f"orbitals for {task.structure.formula}"
            )
    error = _overlap_error(task, task.structure, basis, convention.order)
    if error > convention.overlap_error:
        raise HamnetError(
            f"{task.origin}: S differs by {error:.1e} from the overlap of {level.basis} in the "
            f"orbital order '{convention.order}'{_what_fits(task, basis, convention)}"
        )
    check_fock(task, level, basis, convention)


def _overlap_error(
    task: MatrixTask, structure: Structure, basis: OrbitalBasis, order: str
) -> float:
    if task.overlap is None:
        return 0.0
    computed = to_dense(overlap(structure, basis))
    given = to_hamnet_order(task.overlap, basis, structure.numbers, order)
    return float(np.abs(given - computed).max())


def _what_fits(task: MatrixTask, basis: OrbitalBasis, convention: Convention) -> str:
    """Return what order and unit would reproduce the overlap."""
    s = task.structure
    units = {"Angstrom": s, "Bohr": Structure(s.numbers, s.positions * BOHR_TO_ANGSTROM)}
    for unit, structure in units.items():
        for order in AO_ORDERS:
            if _overlap_error(task, structure, basis, order) <= convention.overlap_error:
                return f"; the order '{order}' with R in {unit} reproduces it"
    return ", nor does any other known order or unit fit: is the basis the right one?"


def check_fock(
    task: MatrixTask, level: LevelOfTheory, basis: OrbitalBasis, convention: Convention
) -> None:
    """Check that H is the Fock matrix of its own density at this level of theory.

    Raises:
        HamnetError: it is not: another functional, unit or grid.
    """
    mole = to_mole(task.structure, level.basis)
    numbers = task.structure.numbers
    ordered = to_hamnet_order(task.hamiltonian, basis, numbers, convention.order)
    h = from_hamnet_order(ordered, basis, numbers, "pyscf")
    s = mole.intor_symmetric("int1e_ovlp")
    _, coefficients = scipy.linalg.eigh(h, s)
    occupied = coefficients[:, : mole.nelectron // 2]
    mf = rks.RKS(mole, xc=level.xc)
    mf.grids.level = level.grid_level
    fock = np.asarray(mf.get_hcore() + mf.get_veff(mole, 2 * occupied @ occupied.T))
    error = float(np.abs(fock - h).max())
    if error > convention.fock_error:
        raise HamnetError(
            f"{task.origin}: H differs by {error:.1e} Hartree from the Fock matrix of its own "
            f"density at {level}: another functional (b3lyp or b3lyp5?), unit or orbital order, or "
            "not converged"
        )


def convert_task(
    task: MatrixTask, level: LevelOfTheory, convention: Convention, references: Sequence[str]
) -> Outcome:
    """Turn one frame with its matrices into a record, checking S and the orbital energies."""
    try:
        return _convert(task, level, convention, references)
    except HamnetError as error:
        stage = error.stage if isinstance(error, LabelError) else "check"
        return Failure(task.origin, stage, str(error), record_id(task.structure, level))


def _convert(
    task: MatrixTask, level: LevelOfTheory, convention: Convention, references: Sequence[str]
) -> tuple[Record, OrbitalBasis]:
    start = time.perf_counter()
    structure = task.structure
    basis = basis_for(structure, level.basis)
    error = _overlap_error(task, structure, basis, convention.order)
    if not error <= convention.overlap_error:
        raise HamnetError(f"S differs by {error:.1e} from the overlap of this geometry")
    asymmetry = float(np.abs(task.hamiltonian - task.hamiltonian.T).max())
    if not asymmetry <= convention.asymmetry:
        raise LabelError("check", f"H is not symmetric: {asymmetry:.1e} Hartree")
    given = to_hamnet_order(task.hamiltonian, basis, structure.numbers, convention.order)
    fock = (given + given.T) / 2
    s_blocks = overlap(structure, basis)
    energies = task.energies
    if energies is None:
        energies = orbital_energies(fock, to_dense(s_blocks))
    check_energies(fock[None], to_dense(s_blocks), energies[None])
    layout = molecule_layout(basis.atom_offsets(structure.numbers))
    n_occupied = to_mole(structure, level.basis).nelectron // 2
    record = Record(
        id=record_id(structure, level),
        structure=structure,
        layout=layout,
        hamiltonian=from_dense(fock, layout).entries[None],
        overlap=s_blocks.entries,
        references={
            kind: reference_hamiltonian(structure, level, kind, basis).entries
            for kind in references
        },
        orbital_energies=energies[None],
        occupations=np.where(np.arange(len(energies)) < n_occupied, 2.0, 0.0)[None],
        group=task.group,
        origin=task.origin,
        energy=task.energy,
        seconds=time.perf_counter() - start,
    )
    return record, basis
