"""A label: one converged Kohn-Sham calculation, checked, in hamnet's orbital order."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyscf
import scipy.linalg
from numpy.typing import NDArray
from pyscf import gto

from hamnet.basis import OrbitalBasis
from hamnet.blocks import molecule_layout
from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import REFERENCES, Record
from hamnet.errors import HamnetError
from hamnet.integrals import basis_name, basis_of, to_blocks, to_mole, xc_components
from hamnet.references import check_x2c, reference_hamiltonian, sap_hamiltonian
from hamnet.registry import look_up
from hamnet.spinor import matrix_problem
from hamnet.structure import FloatArray, Structure, check_contacts
from hamnet.units import OVERLAP_EIGENVALUE_CUT
from hamnet_datasets.periodic import crystal_record, resolve_crystal
from hamnet_datasets.scf import ScfError, converge

DEFAULT_REFERENCES = ("minao", "sap")
MAX_ENERGY_RESIDUAL = 1e-9
"""Largest difference allowed between stored energies and those of H and S, Hartree; or ..."""
ROUNDING = 1e-13
"""... this much of the largest energy, 1e5 Hartree and more in uncontracted bases."""


class LabelError(HamnetError):
    """A structure that gets no label.

    Attributes:
        stage: ``input``, ``scf`` or ``check``.
        reason: one sentence for people.
    """

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[type["LabelError"], tuple[str, str]]:
        return LabelError, (self.stage, self.reason)


@dataclass(frozen=True)
class Skipped:
    """A frame that is left out on purpose.

    Attributes:
        origin: file and frame.
        reason: one sentence for people.
    """

    origin: str
    reason: str


@dataclass(frozen=True)
class Known:
    """A frame that has its label already, which its origin tells: its geometry was not made.

    Attributes:
        origin: recipe and frame.
    """

    origin: str


@dataclass(frozen=True)
class Task:
    """One frame to label.

    Attributes:
        structure: the geometry.
        origin: file and frame, or recipe and frame.
        group: trajectory or molecule.
        order: position among the frames.
        subset: ``train``, ``validation`` or ``test`` where the data come with a split.
    """

    structure: Structure
    origin: str = ""
    group: str = ""
    order: int = 0
    subset: str = ""


def resolve(level: LevelOfTheory) -> LevelOfTheory:
    """Look up functional and basis, and note what this PySCF understands by their names.

    Raises:
        HamnetError: unknown functional or basis; spin-orbit coupling that PySCF has not.
    """
    if level.is_spinor and (level.pseudo or level.relativity != "x2c"):
        raise HamnetError(
            f"there are no labels of {'crystals' if level.pseudo else 'molecules'} with relativity "
            f"'{level.relativity}': with spin-orbit coupling, molecules are labelled by x2c, and "
            "crystals imported"
        )
    exchange, components = xc_components(level.xc)
    return LevelOfTheory.model_validate(
        {
            **level.model_dump(),
            **(resolve_crystal(level) if level.pseudo else {"basis": basis_name(level.basis)}),
            "xc_components": components,
            "xc_exchange": exchange,
            "pyscf_version": pyscf.__version__,
        }
    )


def check_references(references: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the reference Hamiltonians to store, sorted, without ``none``.

    Raises:
        HamnetError: unknown name.
    """
    for name in references:
        look_up("reference Hamiltonian", name, dict.fromkeys(REFERENCES))
    return tuple(sorted(set(references) - {"none"}))


def label(
    structure: Structure,
    level: LevelOfTheory,
    *,
    references: Sequence[str] = DEFAULT_REFERENCES,
    origin: str = "",
    group: str = "",
) -> Record:
    """Label one molecule: restricted Kohn-Sham if ``spin = 0``, unrestricted otherwise.

    The stored H is the Fock matrix of the converged density, the energies are its eigenvalues.

    Raises:
        LabelError: bad geometry, electron count, basis or functional (stage ``input``); no
            convergence (``scf``); numbers that contradict each other (``check``).
    """
    start = time.perf_counter()
    level, mole, basis, wanted = _prepare(structure, level, references)
    try:
        run = converge(mole, level)
    except ScfError as error:
        raise LabelError("scf", str(error)) from error
    overlap = mole.intor_symmetric("int1e_ovlp")
    reference: dict[str, FloatArray] = {}
    if "sap" in wanted:
        reference["sap"] = to_blocks(sap_hamiltonian(mole, level), basis, structure).entries
    if "minao" in wanted:
        if run.guess_fock is None:
            reference["minao"] = reference_hamiltonian(structure, level, "minao").entries
        else:
            reference["minao"] = to_blocks(run.guess_fock, basis, structure).entries
    record = Record(
        id=record_id(structure, level),
        structure=structure,
        layout=molecule_layout(basis.atom_offsets(structure.numbers)),
        hamiltonian=to_blocks(run.fock, basis, structure).entries,
        overlap=to_blocks(overlap, basis, structure).entries,
        references=reference,
        orbital_energies=run.energies,
        occupations=run.occupations,
        group=group,
        origin=origin,
        energy=run.energy,
        dipole=run.dipole,
        scf_cycles=run.cycles,
        scf_rung=run.rung,
        seconds=time.perf_counter() - start,
    )
    check_energies(run.fock, overlap, run.energies)
    return record


def _prepare(
    structure: Structure, level: LevelOfTheory, references: Sequence[str]
) -> tuple[LevelOfTheory, gto.Mole, OrbitalBasis, tuple[str, ...]]:
    try:
        level = _resolved(level)
        wanted = check_references(references)
        check_contacts(structure)
        mole = to_mole(structure, level.basis)
        if level.is_spinor:
            check_x2c(mole, level)
            _check_spinor(structure, level)
        if "sap" in wanted and mole.has_ecp():
            sap_hamiltonian(mole, level)  # says why there is none
        return level, mole, basis_of(mole, level.basis), wanted
    except HamnetError as error:
        raise LabelError("input", str(error)) from error


def _check_spinor(structure: Structure, level: LevelOfTheory) -> None:
    """Check that a label with spin-orbit coupling can be made.

    Raises:
        HamnetError: an open shell, which breaks time-reversal symmetry; settings that PySCF does
            not have with X2C.
    """
    if structure.spin:
        raise HamnetError(
            f"{structure.formula} has {structure.spin} unpaired electrons: with spin-orbit "
            "coupling only closed shells (spin 0) are symmetric under time reversal"
        )
    if level.stability or level.program != "pyscf":
        raise HamnetError("x2c labels are made by PySCF on processors, without stability checks")


def _resolved(level: LevelOfTheory) -> LevelOfTheory:
    level = level if level.pyscf_version else resolve(level)
    if level.pyscf_version != pyscf.__version__:
        raise HamnetError(
            f"this worker has PySCF {pyscf.__version__}, the run began with "
            f"{level.pyscf_version}: install the same version everywhere"
        )
    return level


def check_energies(fock: FloatArray, overlap: FloatArray, energies: FloatArray) -> None:
    """Check that H and S reproduce the orbital energies, independently of PySCF's own solver.

    Args:
        fock: Hartree, ``[n_spin, n, n]``.
        overlap: ``[n, n]``.
        energies: Hartree, ``[n_channels, n_mo]``.

    Raises:
        LabelError: numbers not finite, H not symmetric, or energies that differ by more than 1e-9
            (more than rounding where energies are huge).
    """
    if not (np.isfinite(fock).all() and np.isfinite(overlap).all() and np.isfinite(energies).all()):
        raise LabelError("check", "H, S or the orbital energies hold numbers that are not finite")
    matrices, metric = matrix_problem(fock, overlap)
    for matrix, wanted in zip(matrices, energies, strict=True):
        asymmetry = float(np.abs(matrix - matrix.conj().T).max())
        if asymmetry > MAX_ENERGY_RESIDUAL:
            raise LabelError("check", f"H is not symmetric: {asymmetry:.1e} Hartree")
        got = orbital_energies(matrix, metric)
        if len(got) != len(wanted):
            raise LabelError("check", f"H and S give {len(got)} orbitals, expected {len(wanted)}")
        residual = float(np.abs(got - wanted).max())
        if residual > max(MAX_ENERGY_RESIDUAL, ROUNDING * float(np.abs(wanted).max())):
            raise LabelError(
                "check", f"H and S give orbital energies that differ by {residual:.1e} Hartree"
            )


def orbital_energies(hamiltonian: NDArray[Any], overlap: FloatArray) -> FloatArray:
    """Solve ``H c = S c e`` where the eigenvalues of S are not tiny; energies ``[n_mo]``."""
    weight, vectors = scipy.linalg.eigh(overlap)
    keep = weight > OVERLAP_EIGENVALUE_CUT
    x = vectors[:, keep] / np.sqrt(weight[keep])  # (n, n_mo), X^T S X = 1
    solved: FloatArray = scipy.linalg.eigvalsh(x.T @ hamiltonian @ x)
    return solved


Outcome = tuple[Record, OrbitalBasis] | Failure
"""What came of a task: a record with its basis, or the reason why there is none."""


def run_task(task: Task, level: LevelOfTheory, references: Sequence[str]) -> Outcome:
    """Label one task; the reason of a failure comes back as a value, never as an exception."""
    try:
        if level.pseudo:
            return _label_crystal(task, level)
        record = label(
            task.structure, level, references=references, origin=task.origin, group=task.group
        )
        basis = basis_of(to_mole(task.structure, level.basis), level.basis)
        return record, basis
    except LabelError as error:
        return Failure(task.origin, error.stage, error.reason, record_id(task.structure, level))


def _label_crystal(task: Task, level: LevelOfTheory) -> tuple[Record, OrbitalBasis]:
    """Label one crystal; see `hamnet_datasets.periodic`.

    Raises:
        LabelError: as `label`.
    """
    try:
        level = _resolved(level)
        return crystal_record(task.structure, level, origin=task.origin, group=task.group)
    except ScfError as error:
        raise LabelError("scf", str(error)) from error
    except HamnetError as error:
        raise LabelError("input", str(error)) from error
