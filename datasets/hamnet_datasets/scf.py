"""One converged Kohn-Sham calculation: plain, damped, or by second-order steps, in this order.

Every rung starts from the same guess, so that a label stays a function of geometry and settings;
which rung converged is part of the label.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pyscf import gto
from pyscf.dft import gks, rks, uks

from hamnet.data.level import LevelOfTheory
from hamnet.data.record import SCF_RUNGS
from hamnet.errors import HamnetError
from hamnet.spinor import doubled, from_spinor, to_spinor
from hamnet.structure import FloatArray

LEVEL_SHIFT = 0.3
"""Hartree; lifts the virtual orbitals while the damped rung looks for the right valley."""

DAMPING = 0.5
MAX_ROTATIONS = 3
"""How often an unstable density is rotated and converged again."""


class ScfError(HamnetError):
    """A calculation that did not converge to a density worth storing."""


@dataclass(frozen=True)
class Converged:
    """A converged calculation; matrices in PySCF's orbital order, first axis spin.

    With ``x2c`` matrices are H0, Kx, Ky, Kz (`hamnet.spinor`), and orbitals spinors.

    Attributes:
        fock: Hartree, ``[n_spin, n, n]``.
        energies: Hartree, ``[n_channels, n_mo]``.
        occupations: ``[n_channels, n_mo]``.
        energy: Hartree.
        dipole: Debye.
        cycles: of all rungs together.
        rung: index into `SCF_RUNGS`.
        guess_fock: Fock matrix of the guess density, ``[n, n]``, with ``x2c`` ``[4, n, n]``; closed
            shells only.
    """

    fock: FloatArray
    energies: FloatArray
    occupations: FloatArray
    energy: float
    dipole: FloatArray
    cycles: int
    rung: int
    guess_fock: FloatArray | None


@dataclass
class _Hooks:
    """Matrices picked up inside PySCF's SCF, which computes them anyway."""

    guess_fock: FloatArray | None = None
    fock: Any = None
    gradient: float = float("nan")
    cycles: int = 0

    def before(self, env: dict[str, Any]) -> None:
        if self.guess_fock is None:
            self.guess_fock = _real(env["h1e"] + env["vhf"])

    def cycle(self, env: dict[str, Any]) -> None:
        self.gradient = float(env["norm_gorb"])
        self.cycles += 1

    def after(self, env: dict[str, Any]) -> None:
        self.fock = env["fock"]


@dataclass
class _Run:
    """A mean field between its rungs."""

    mole: gto.Mole
    level: LevelOfTheory
    guess: FloatArray
    hooks: _Hooks = field(default_factory=_Hooks)

    def mean_field(self) -> Any:
        """Return a new mean field with the settings of the level."""
        level = self.level
        mf = self._method()
        mf.grids.level = level.grid_level
        mf.conv_tol, mf.conv_tol_grad = level.conv_tol, level.conv_tol_grad
        mf.max_cycle = level.max_cycle
        mf.chkfile = None
        vars(mf).pop("_chkfile", None)  # an open temporary file that nobody would close
        if level.program == "gpu4pyscf":
            mf = on_gpu(mf)
        mf.callback, mf.post_kernel = self.hooks.cycle, self.hooks.after
        return mf

    def _method(self) -> Any:
        """Return the mean field of this level and spin.

        The density of spin vanishes where time reversal is a symmetry, so that a functional of
        collinear spin is all that is needed.
        """
        if self.level.relativity == "x2c":
            return gks.GKS(self.mole, xc=self.level.xc).x2c()
        return (rks.RKS if self.mole.spin == 0 else uks.UKS)(self.mole, xc=self.level.xc)

    def newton(self, density: Any) -> Any:
        """Return a mean field after Newton steps with a trust region."""
        mf = self.mean_field().newton()
        mf.callback = self.hooks.cycle
        mf.kernel(density)
        self.hooks.fock = None  # of the last macro step, not of the last density
        return mf


def plain(run: _Run) -> Any:
    """DIIS from the guess."""
    mf = run.mean_field()
    mf.pre_kernel = run.hooks.before
    mf.kernel(run.guess)
    return mf


def damped(run: _Run) -> Any:
    """Level shift and damping first, then plain DIIS from where they lead."""
    mf = run.mean_field()
    mf.level_shift, mf.damp = LEVEL_SHIFT, DAMPING
    mf.conv_tol, mf.conv_tol_grad = 1e3 * run.level.conv_tol, 1e3 * run.level.conv_tol_grad
    mf.kernel(run.guess)
    last = run.mean_field()
    last.kernel(mf.make_rdm1())
    return last


def second_order(run: _Run) -> Any:
    """Newton steps with a trust region."""
    return run.newton(run.guess)


LADDER: dict[str, Callable[[_Run], Any]] = {
    "plain": plain,
    "damped": damped,
    "second-order": second_order,
}
"""Rungs in the order in which they are tried; their names are those of `SCF_RUNGS`."""


def converge(
    mole: gto.Mole, level: LevelOfTheory, rungs: Sequence[str] = tuple(LADDER)
) -> Converged:
    """Converge a density by the first rung that does.

    Args:
        mole: restricted Kohn-Sham if its spin is 0, unrestricted otherwise.
        level: the settings; with ``stability`` the density is checked to be a minimum.
        rungs: names in `LADDER`.

    Raises:
        ScfError: no rung converges; the density is no minimum, or is not the ground state of its
            own Fock matrix.
        HamnetError: a GPU was asked for and cannot be used.
    """
    if level.program == "gpu4pyscf":
        check_gpu()
    failed = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # a guess by name would accept unknown names silently
        run = _Run(mole, level, rks.RKS(mole).init_guess_by_minao(mole))
        if mole.spin:
            run.guess = uks.UKS(mole).init_guess_by_minao(mole)
        if level.relativity == "x2c":
            run.guess = doubled(run.guess / 2).astype(complex)
        for name in rungs:
            try:
                mf = LADDER[name](run)
                if not mf.converged:
                    continue
                if level.stability:
                    mf = _stabilise(mf, run)
                return _result(mf, run, SCF_RUNGS.index(name))
            except HamnetError:
                raise
            except Exception as error:  # anything PySCF or LAPACK may raise on a sick density
                failed = f"; PySCF gave up: {type(error).__name__}: {error}"
    raise ScfError(
        f"not converged in {level.max_cycle} cycles, {', '.join(rungs)} (orbital gradient "
        f"{run.hooks.gradient:.1e}, wanted {level.conv_tol_grad:.0e}){failed}; not stored"
    )


def _stabilise(mf: Any, run: _Run) -> Any:
    """Return a mean field at a minimum: where it is a saddle point, follow the way down.

    Raises:
        ScfError: there is always another way down.
    """
    for _ in range(MAX_ROTATIONS):
        orbitals, _, stable, _ = mf.stability(return_status=True)
        if stable:
            return mf
        mf = run.newton(mf.make_rdm1(orbitals, mf.mo_occ))
    if mf.stability(return_status=True)[2]:
        return mf
    raise ScfError(f"the density is a saddle point, also after {MAX_ROTATIONS} rotations")


def _result(mf: Any, run: _Run, rung: int) -> Converged:
    """Return what is stored: the Fock matrix of the density, and what it gives by itself.

    Raises:
        ScfError: the occupied orbitals are not the lowest ones of the Fock matrix, or that is not
            symmetric under time reversal.
    """
    restricted = run.mole.spin == 0
    density = mf.make_rdm1()
    fock = mf.get_fock(dm=density) if run.hooks.fock is None else run.hooks.fock
    overlap = mf.get_ovlp()
    energies, coefficients = mf.eig(fock, overlap, x=mf.check_linear_dependency(overlap))
    occupations = mf.get_occ(energies, coefficients)
    change = float(np.abs(_host(mf.make_rdm1(coefficients, occupations) - density)).max())
    if change > 1e3 * run.level.conv_tol_grad:
        raise ScfError(
            f"the converged density is not the ground state of its own Fock matrix (density "
            f"matrices differ by {change:.1e}); not stored"
        )
    fock = _real(fock)
    if run.level.relativity == "x2c":  # from here on exactly symmetric under time reversal
        energies, coefficients = mf.eig(to_spinor(fock), overlap)
        occupations = mf.get_occ(energies, coefficients)
    return Converged(
        fock=fock.reshape(-1, *fock.shape[-2:]),
        energies=np.atleast_2d(_host(energies)),
        occupations=np.atleast_2d(_host(occupations)),
        energy=float(mf.e_tot),
        dipole=_host(mf.dip_moment(unit="Debye", dm=density, verbose=0)),
        cycles=run.hooks.cycles,
        rung=rung,
        guess_fock=run.hooks.guess_fock if restricted else None,
    )


def _real(fock: Any) -> FloatArray:
    """Return a Fock matrix, of spinors its four real ones.

    Raises:
        ScfError: a matrix of spinors is not symmetric under time reversal.
    """
    if not np.iscomplexobj(fock):
        return _host(fock)
    try:
        return from_spinor(fock)
    except HamnetError as error:
        raise ScfError(f"{error}; not stored") from None


def _host(array: Any) -> FloatArray:
    """Return an array in the memory of the processor, also where it lies on a GPU."""
    return np.asarray(array.get() if hasattr(array, "get") else array, dtype=np.float64)


def check_gpu() -> None:
    """Check that gpu4pyscf is installed.

    Raises:
        HamnetError: it is not; the message has the pip line.
    """
    try:
        import gpu4pyscf  # noqa: F401, PLC0415
    except ImportError as error:
        raise HamnetError(
            "labels on a GPU need gpu4pyscf: pip install 'hamnet[gpu]' on a machine with CUDA 12 "
            f"({error}); or label without --gpu"
        ) from error


def on_gpu(mf: Any) -> Any:
    """Return the same calculation on the GPU.

    Raises:
        HamnetError: gpu4pyscf is not installed, or finds no GPU.
    """
    check_gpu()
    try:
        return mf.to_gpu()
    except Exception as error:  # CUDA fails in every possible way
        raise HamnetError(f"no usable GPU: {type(error).__name__}: {error}") from error
