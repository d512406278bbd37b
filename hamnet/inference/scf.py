"""Converge Kohn-Sham calculations from a model's Hamiltonian, and count what it took."""

import csv
import io
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hamnet.errors import HamnetError
from hamnet.files import replacing
from hamnet.inference.warm_start import Guess, warm_start
from hamnet.interop.ase import Frame
from hamnet.interop.pyscf import kohn_sham, mix_in, write_molden
from hamnet.models import HamiltonianModel
from hamnet.prediction import frontier
from hamnet.structure import Structure
from hamnet.units import HARTREE_TO_EV

DEFAULT_GUESS = "minao"
"""PySCF's own choice, with which ``--compare`` compares."""

SCF_COLUMNS = (
    "frame",
    "origin",
    "formula",
    "charge",
    "spin",
    "converged",
    "energy_hartree",
    "homo_ev",
    "lumo_ev",
    "guess",
    "cycles",
    "fock_builds",
    "seconds",
    "default_cycles",
    "default_fock_builds",
    "default_seconds",
    "energy_minus_default_hartree",
    "warnings",
    "error",
)
TABLE = "scf.csv"


@dataclass(frozen=True)
class ScfSettings:
    """How to converge.

    Attributes:
        density_fit: Coulomb and exchange by density fitting.
        second_order: Newton steps instead of DIIS.
        conv_tol: largest change of the energy in the last cycle, Hartree.
        max_cycle: cycles after which it is given up.
    """

    density_fit: bool = False
    second_order: bool = False
    conv_tol: float = 1e-9
    max_cycle: int = 50


@dataclass(frozen=True, eq=False)
class ScfRun:
    """One calculation and what it took.

    Attributes:
        mf: PySCF's mean field.
        cycles: cycles of DIIS, or Newton's macro iterations.
        fock_builds: Fock matrices that were built, those of Newton's response not counted.
        seconds: wall time, the model's prediction included.
        processor_seconds: the same as the processor counts it, all threads together.
        guess: what became of the model's guess; None without a model.
    """

    mf: Any
    cycles: int
    fock_builds: int
    seconds: float
    processor_seconds: float
    guess: Guess | None


class FockCounter:
    """Mixed into the class of a PySCF mean field: counts the Fock matrices that it builds."""

    __name_mixin__ = "Counted"
    _keys: ClassVar[set[str]] = {"fock_builds"}

    def __init__(self, mf: Any) -> None:
        vars(self).update(vars(mf))
        self.fock_builds = 0

    def get_veff(self, *args: Any, **kwargs: Any) -> Any:
        """Return PySCF's potential."""
        self.fock_builds += 1
        return super().get_veff(*args, **kwargs)  # type: ignore[misc]


def converge(
    structure: Structure,
    model: HamiltonianModel,
    guess: str | None = None,
    settings: ScfSettings = ScfSettings(),
) -> ScfRun:
    """Run the calculation of a model's level of theory.

    Args:
        structure: a molecule.
        model: fixes functional, basis and grid.
        guess: name of a guess of PySCF; None for the model's.
        settings: how to converge.

    Raises:
        HamnetError: the model was not trained for the structure.
    """
    mf = kohn_sham(structure, model.metadata.level)
    mf.conv_tol, mf.max_cycle = settings.conv_tol, settings.max_cycle
    if settings.density_fit:
        mf = mf.density_fit()
    mf = mix_in(FockCounter(mf), FockCounter, type(mf))
    if settings.second_order:
        mf = mf.newton()
    if guess is None:
        mf = warm_start(mf, model)
    else:
        mf.init_guess = guess
    cycles = 0

    def count(_: Mapping[str, Any]) -> None:
        nonlocal cycles
        cycles += 1

    mf.callback = count
    start, processor = time.perf_counter(), time.process_time()
    mf.kernel()
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    builds = vars(mf).get("_scf", mf).fock_builds
    return ScfRun(mf, cycles, builds, seconds, processor, None if guess else mf.guess)


def scf_row(
    number: int,
    frame: Frame,
    model: HamiltonianModel,
    settings: ScfSettings,
    *,
    compare: bool = False,
    molden: Path | None = None,
) -> dict[str, Any]:
    """Converge one frame; return its row, in which the error stands if there is one.

    Args:
        number: of the row.
        frame: a frame of a file.
        model: where the guess comes from.
        settings: how to converge.
        compare: run it again from PySCF's default guess.
        molden: write the converged orbitals to this file.
    """
    row: dict[str, Any] = dict.fromkeys(SCF_COLUMNS)
    row |= {"frame": number, "origin": frame.origin, "converged": False, "warnings": ""}
    structure = frame.structure
    if isinstance(structure, HamnetError):
        return row | {"error": str(structure)}
    row |= {"formula": structure.formula, "charge": structure.charge, "spin": structure.spin}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are in the row
        try:
            run = converge(structure, model, None, settings)
            default = converge(structure, model, DEFAULT_GUESS, settings) if compare else None
        except HamnetError as error:
            return row | {"error": str(error.at(frame.origin))}
    row |= _found(run)
    if default is not None:
        row |= {
            "default_cycles": default.cycles,
            "default_fock_builds": default.fock_builds,
            "default_seconds": round(default.seconds, 3),
            "energy_minus_default_hartree": run.mf.e_tot - default.mf.e_tot,
        }
    if not run.mf.converged:
        row["error"] = f"{frame.origin}: not converged in {settings.max_cycle} cycles"
    elif molden is not None:
        _save_molden(molden, run.mf)
    return row


def _found(run: ScfRun) -> dict[str, Any]:
    mf, guess = run.mf, run.guess
    homo, lumo = frontier(np.atleast_2d(mf.mo_energy), np.atleast_2d(mf.mo_occ))
    return {
        "converged": bool(mf.converged),
        "energy_hartree": float(mf.e_tot),
        "homo_ev": round(HARTREE_TO_EV * homo, 6),
        "lumo_ev": round(HARTREE_TO_EV * lumo, 6),
        "guess": "model" if guess is not None and guess.used else DEFAULT_GUESS,
        "cycles": run.cycles,
        "fock_builds": run.fock_builds,
        "seconds": round(run.seconds, 3),
        "warnings": "" if guess is None else guess.warning,
    }


def _save_molden(path: Path, mf: Any) -> None:
    coefficients = np.asarray(mf.mo_coeff)
    n_ao, n_mo = coefficients.shape[-2:]
    with replacing(path) as partial:
        write_molden(
            partial,
            mf.mol,
            coefficients.reshape(-1, n_ao, n_mo),
            np.asarray(mf.mo_energy).reshape(-1, n_mo),
            np.asarray(mf.mo_occ).reshape(-1, n_mo),
        )


def save_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as CSV.

    Raises:
        HamnetError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, SCF_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
