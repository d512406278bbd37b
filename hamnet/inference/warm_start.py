"""Start a PySCF calculation from the density of a predicted Hamiltonian.

The guess is checked before it is used, and PySCF's own guess steps in where it is worse. Measure of
both is the residual of the equation that an SCF solves, in an orthonormal basis ``X``,

    r(P) = || X^T (F P S - S P F) X ||,

which is zero for the converged density (Pulay, doi:10.1002/jcc.540030413). ``F`` is the Fock matrix
of the model's density, which the calculation needs anyway: the checks cost no Fock build.
"""

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from hamnet.basis import from_hamnet_order
from hamnet.blocks import to_dense
from hamnet.errors import HamnetError
from hamnet.integrals import xc_components
from hamnet.interop.pyscf import mix_in, structure_of
from hamnet.models import HamiltonianModel, load_model
from hamnet.models.guards import other_basis, refuse
from hamnet.prediction import Prediction, aufbau
from hamnet.spectrum import solve
from hamnet.structure import FloatArray

KEY = "hamnet"
"""Value of ``mf.init_guess`` that stands for the model."""

MAX_RESIDUAL_RATIO = 0.1
"""Largest residual of the model's guess, relative to PySCF's own, with which it is used.

Measured with noisy Hamiltonians of water and ethanol: below 0.1 the calculation always took fewer
cycles than from ``minao``, up to 0.3 fewer or as many, above more (docs/results.md).
"""

TRUNCATION = 1e-2
"""Eigenvalue of S below which directions are left out of the second density."""

MAX_DISAGREEMENT = 1.0
"""Largest ``|P - P'|`` in the metric of S; an electron pair in another orbital makes 2.83."""

MAX_ELECTRON_ERROR = 1e-6


@dataclass(frozen=True)
class Guess:
    """What became of the model's guess for one geometry.

    Attributes:
        used: the model's density was used, and not PySCF's own guess.
        warning: what the user should know; empty if all is well.
        n_electrons: ``tr(P S)``; NaN if nothing could be predicted, as all numbers here.
        disagreement: distance of the densities from all of S and from its well-conditioned part.
        residual: of the model's density, Hartree.
        own_residual: of PySCF's own guess in the same Fock matrix, Hartree.
        seconds: wall time of the prediction.
    """

    used: bool
    warning: str = ""
    n_electrons: float = float("nan")
    disagreement: float = float("nan")
    residual: float = float("nan")
    own_residual: float = float("nan")
    seconds: float = float("nan")


class WarmStart:
    """Mixed into the class of a PySCF mean field: its initial guess comes from a model.

    Attributes:
        model: the model.
        own_guess: name of PySCF's guess that steps in.
        guess: what became of the last guess; None before the first.
    """

    __name_mixin__ = "WarmStart"
    _keys: ClassVar[set[str]] = {"model", "own_guess", "guess"}

    def __init__(self, mf: Any, model: HamiltonianModel) -> None:
        vars(self).update(vars(mf))
        self.model = model
        self.own_guess = mf.init_guess
        self.init_guess = KEY
        self.guess: Guess | None = None
        self._forget()

    def _forget(self) -> None:
        """Forget orbitals: PySCF prefers them to any guess."""
        self.mo_coeff = self.mo_occ = self.mo_energy = None
        self.converged = False
        vars(self).pop("_known_veff", None)

    def reset(self, mol: Any = None) -> Any:
        """Move to another geometry, which starts from the model, not from the last orbitals."""
        super().reset(mol)  # type: ignore[misc]
        self._forget()
        return self

    def get_init_guess(self, mol: Any = None, key: Any = None, **kwargs: Any) -> Any:
        """Return the model's density matrix, or PySCF's own guess where that is better."""
        key = self.init_guess if key is None else key
        pyscf_guess = super().get_init_guess  # type: ignore[misc]
        if not isinstance(key, str) or key != KEY:
            return pyscf_guess(mol, key, **kwargs)
        own = pyscf_guess(mol, self.own_guess, **kwargs)
        core = vars(self).get("_scf", self)  # Newton steps: the calculation that they wrap
        density, self.guess = model_guess(self.model, core, mol or core.mol, own)
        if self.guess.warning:
            warnings.warn(self.guess.warning, stacklevel=2)
        return own if density is None else density

    def get_veff(self, mol: Any = None, dm: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return PySCF's potential; that of the guess is not computed twice."""
        known = vars(self).pop("_known_veff", None)
        if known is not None and known[0] is dm:
            return known[1]
        return super().get_veff(mol, dm, *args, **kwargs)  # type: ignore[misc]


def warm_start(mf: Any, model: HamiltonianModel | str | Path) -> Any:
    """Return the same calculation, started from a model's Hamiltonian.

    ``kernel()`` of what is returned uses the model; ``kernel(dm0)`` uses ``dm0``. Wrap last, after
    ``density_fit()``, ``newton()`` or ``to_gpu()``. The converged energy is that of the plain
    calculation. Orbitals that ``mf`` already has are left out. A scanner asks the model at every
    geometry. Where the guess is worse than PySCF's own, a warning says so and PySCF's is used;
    ``mf.guess`` tells what happened.

    Args:
        mf: a molecular RKS, UKS or ROKS calculation of PySCF or gpu4pyscf; it is not changed.
        model: a model, its file, or the folder of its training run.

    Raises:
        HamnetError: no mean field, or one that has a model already; a crystal; another functional
            or basis than the model's; elements, charge or spin that the model was not trained for.
    """
    if not isinstance(model, HamiltonianModel):
        model = load_model(model)
    if not hasattr(mf, "get_init_guess") or not hasattr(mf, "mol"):
        raise HamnetError(
            f"a warm start needs a PySCF mean field such as dft.RKS(mol), got {type(mf).__name__}"
        )
    check_calculation(mf, model)
    if isinstance(mf, WarmStart):
        raise HamnetError(
            "the calculation starts from a model already: wrap the original calculation again"
        )
    started = mix_in(WarmStart(mf, model), WarmStart, type(mf))
    if "_scf" in vars(mf):
        started._scf = warm_start(mf._scf, model)
    return started


def check_calculation(mf: Any, model: HamiltonianModel) -> None:
    """Check that a calculation is one that the model was trained for.

    Raises:
        HamnetError: see `warm_start`.
    """
    mole = mf.mol
    if hasattr(mole, "lattice_vectors"):
        raise HamnetError("the calculation is periodic, but the model was trained on molecules")
    if model.metadata.level.is_spinor:
        raise HamnetError(
            "the model predicts a Hamiltonian with spin-orbit coupling, from which calculations "
            "cannot be started"
        )
    model.check(structure_of(mole))
    level, xc = model.metadata.level, getattr(mf, "xc", "hf")
    trained = (level.xc_exchange, level.xc_components)
    if not (level.xc_components or any(level.xc_exchange)):
        trained = xc_components(level.xc)
    found = xc_components(xc)
    if _flat(found) != _flat(trained):
        raise HamnetError(
            f"the calculation's functional is '{xc}' ({_named(found)}), but the model was trained "
            f"for '{level.xc}' ({_named(trained)}): use mf.xc = '{level.xc}' or another model"
        )
    refuse(other_basis(mole, model.basis))


def _flat(functional: Any) -> list[float]:
    exchange, parts = functional
    return [round(float(x), 9) for x in (*exchange, *(x for part in sorted(parts) for x in part))]


def _named(functional: Any) -> str:
    exchange, parts = functional
    names = [f"libxc {i} x {w:g}" for i, w in parts]
    return ", ".join(names + [f"exact exchange x {exchange[0]:g}"] * bool(exchange[0]))


def model_guess(model: HamiltonianModel, mf: Any, mole: Any, own: Any) -> tuple[Any | None, Guess]:
    """Predict a density and check it, see `checked_guess`."""
    start = time.perf_counter()
    try:
        (prediction,) = model.predict([structure_of(mole)])
        seconds = time.perf_counter() - start
        density, found = checked_guess(prediction, mf, mole, own)
    except HamnetError as error:
        return None, Guess(False, f"no guess from the model, PySCF's own is used: {error}")
    return density, replace(found, seconds=seconds)


def checked_guess(prediction: Prediction, mf: Any, mole: Any, own: Any) -> tuple[Any | None, Guess]:
    """Return the density matrix as ``mf`` wants it, or None, and what the checks found.

    Args:
        prediction: a Hamiltonian and its orbitals.
        mf: mean field; it remembers the potential of the density that is returned.
        mole: its molecule.
        own: PySCF's own guess, ``[n, n]`` or ``[2, n, n]``.

    Raises:
        HamnetError: the well-conditioned part of the basis cannot hold the electrons.
    """
    overlap = _pyscf_order(prediction, to_dense(prediction.overlap))
    density, disagreement = _density(prediction, overlap)
    n_electrons = float(np.einsum("sij,ij->", density, overlap))
    found = Guess(False, "", n_electrons, disagreement)
    notes = []
    if disagreement > MAX_DISAGREEMENT:
        notes.append(
            "nearly dependent basis functions spoil the predicted density: they were left out"
        )
    if abs(n_electrons - mole.nelectron) > MAX_ELECTRON_ERROR:
        notes = [f"the predicted density holds {n_electrons:.6f} electrons, not {mole.nelectron}"]
        return None, replace(found, warning=_fallback(notes))
    guess = _like(density, own)
    veff = mf.get_veff(mole, guess)
    fock = _host(mf.get_hcore(mole)) + _host(veff)
    residual = scf_residual(fock, _host(guess), overlap)
    own_residual = scf_residual(fock, _host(own), overlap)
    found = replace(found, residual=residual, own_residual=own_residual)
    if residual < MAX_RESIDUAL_RATIO * own_residual:
        mf._known_veff = (guess, veff)
        return guess, replace(found, used=True, warning="; ".join(notes))
    notes.append(
        f"the predicted density (residual {residual:.2g} Ha) is not clearly better than "
        f"PySCF's own guess ({own_residual:.2g} Ha)"
    )
    return None, replace(found, warning=_fallback(notes))


def _fallback(notes: list[str]) -> str:
    return f"{'; '.join(notes)}: PySCF's own guess is used"


def scf_residual(fock: FloatArray, density: FloatArray, overlap: FloatArray) -> float:
    """Return ``|| X^T (F P S - S P F) X ||`` over all spin channels, Hartree.

    Args:
        fock: ``[..., n, n]``.
        density: same shape.
        overlap: ``[n, n]``.
    """
    values, vectors = np.linalg.eigh(overlap)
    x = vectors / np.sqrt(np.maximum(values, np.finfo(float).eps))
    product = fock @ density @ overlap
    return float(np.linalg.norm(x.T @ (product - np.swapaxes(product, -1, -2)) @ x))


def _density(prediction: Prediction, overlap: FloatArray) -> tuple[FloatArray, float]:
    """Return the density ``[n_spin, n, n]`` in PySCF's order, and how much the overlap matters.

    A small error of H can push a combination of nearly dependent functions among the occupied
    orbitals. The density of the well-conditioned part of S tells, and replaces it then.
    """
    h = torch.from_numpy(to_dense(prediction.hamiltonian))
    s = torch.from_numpy(to_dense(prediction.overlap)).expand_as(h)
    orbitals = solve(h, s, TRUNCATION)
    occupied = prediction.occupations.sum(axis=1)
    n_electrons, spin = round(occupied.sum()), round(occupied[0] - occupied[-1])
    energies, c = orbitals.energies.numpy(), orbitals.coefficients.numpy()
    safe = _pyscf_order(prediction, _occupy(c, aufbau(energies, n_electrons, spin)))
    full = _pyscf_order(prediction, _occupy(prediction.coefficients, prediction.occupations))
    delta = (full - safe).sum(axis=0)
    squared = np.einsum("ij,jk,kl,li->", delta, overlap, delta, overlap, optimize=True)
    disagreement = float(np.sqrt(max(squared, 0.0)))
    return (safe if disagreement > MAX_DISAGREEMENT else full), disagreement


def _occupy(coefficients: FloatArray, occupations: FloatArray) -> FloatArray:
    weighted = coefficients * occupations[:, None, :]
    return np.asarray(weighted @ np.swapaxes(coefficients, -1, -2))


def _pyscf_order(prediction: Prediction, matrix: FloatArray) -> FloatArray:
    return from_hamnet_order(matrix, prediction.basis, prediction.structure.numbers, "pyscf")


def _like(density: FloatArray, own: Any) -> Any:
    """Return ``[n_spin, n, n]`` in the shape of PySCF's guess, and in the memory where it lies."""
    if own.ndim == 2:
        density = density.sum(axis=0)
    elif len(density) == 1:
        density = np.concatenate([density / 2, density / 2])
    if hasattr(own, "get"):  # on a GPU: an array of CuPy
        import cupy  # type: ignore[import-not-found]  # noqa: PLC0415

        return cupy.asarray(density)
    return density


def _host(array: Any) -> FloatArray:
    """Return an array in the memory of the processor, also where it lies on a GPU."""
    return np.asarray(array.get() if hasattr(array, "get") else array, dtype=np.float64)
