"""When a model must not be trusted: hard guards, which may be forced, and soft warnings."""

from dataclasses import replace

import numpy as np

from hamnet.basis import OrbitalBasis
from hamnet.errors import HamnetError
from hamnet.integrals import basis_of
from hamnet.interop.pyscf import Mole
from hamnet.models.metadata import Metadata
from hamnet.prediction import Prediction
from hamnet.structure import FloatArray, Structure, check_cell, check_contacts, symbol
from hamnet.units import HARTREE_TO_EV

NEAR_ZERO_GAP_EV = 0.2
"""Below such a gap the order of the frontier orbitals is as uncertain as their energies."""

MAX_AMPLIFICATION = 10.0
"""Limit of ``|c|^2``, by which errors of H are amplified in the energy of an orbital.

Measured over molecules of H to Cl in 6-31g*, def2-SVP, def2-TZVP, cc-pVTZ, aug-cc-pVDZ and -TZ:
true occupied orbitals stay below 1.6, true LUMOs below -1 eV under 4; the spurious ones that noise
on H makes lie between 10 and 10,000. Less bound LUMOs are diffuse and reach 30 by nature.
"""

BOUND_LUMO_EV = -1.0
"""Only below this energy is a LUMO suspected of being spurious."""

FORCE = "--force (in Python force=True) predicts all the same"
"""The cure, where there is such an option: the note of the error, which a traceback shows."""


def check_elements(structure: Structure, elements: tuple[int, ...]) -> None:
    """Refuse elements for which a network has no weights; nothing can force it.

    Raises:
        HamnetError: names the first such atom.
    """
    for atom, z in enumerate(structure.numbers.tolist()):
        if z not in elements:
            names = ", ".join(map(symbol, elements))
            raise HamnetError(
                f"atom {atom} is {symbol(z)}, but the model was trained for {names} only"
            )


def untrained(structure: Structure, metadata: Metadata) -> tuple[str, ...]:
    """Return in which respects a structure is none that the model was trained for.

    Raises:
        HamnetError: lattice vectors that make no crystal.
    """
    found = []
    if structure.is_periodic != metadata.periodic:
        kind, learnt = "periodic", "molecules"
        if not structure.is_periodic:
            kind, learnt = "a molecule (pbc is False everywhere)", "crystals"
        found.append(f"the structure is {kind}, but the model was trained on {learnt}")
    elif structure.is_periodic:
        check_cell(structure)
    for name, value, trained in (
        ("charge", structure.charge, metadata.charges),
        ("spin", structure.spin, metadata.spins),
    ):
        if value not in trained:
            allowed = ", ".join(map(str, trained))
            found.append(f"{name} is {value}, but the model was trained for {allowed}")
    try:
        check_contacts(structure)
    except HamnetError as error:
        found.append(str(error))
    return tuple(found)


def other_basis(mole: Mole, basis: OrbitalBasis) -> tuple[str, ...]:
    """Return that a PySCF molecule is built in another basis than the model's, if it is.

    Raises:
        HamnetError: see `hamnet.integrals.basis_of`.
    """
    here = basis_of(mole)
    marks = here.fingerprints.items()
    wrong = [symbol(z) for z, mark in marks if basis.fingerprints.get(z) != mark]
    if not wrong:
        return ()
    return (
        f"the molecule is built in another basis ('{here.name}'), but the model predicts matrices "
        f"in '{basis.name}'; they differ for {', '.join(wrong)}",
    )


def refuse(reasons: tuple[str, ...], *cures: str) -> None:
    """Refuse a structure for the first of some reasons; the cures are notes of the error.

    Raises:
        HamnetError: there is a reason.
    """
    if reasons:
        error = HamnetError(reasons[0])
        for cure in cures:
            error.add_note(cure)
        raise error


def runnable(structure: Structure) -> Structure:
    """Return what can be computed of a forced structure.

    A periodic one becomes a molecule in a box; an odd number of electrons without spin gets one
    unpaired electron.
    """
    if structure.is_periodic:
        structure = replace(structure, cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool))
    if (structure.n_electrons - structure.spin) % 2:
        structure = replace(structure, spin=structure.n_electrons % 2)
    return structure


def orbital_warnings(prediction: Prediction) -> tuple[str, ...]:
    """Return what is suspicious about the orbitals of a prediction.

    A *spurious* orbital lives in directions in which the basis is nearly linearly dependent. There,
    a small error of H is divided by a small eigenvalue of S and pulls an orbital down that should
    be far above. Such an orbital has huge coefficients: ``|c|^2`` is the factor by which an error
    of H enters its energy (``dE = c^T dH c``). Suspected are occupied orbitals, and a LUMO
    below `BOUND_LUMO_EV`, with ``|c|^2`` above `MAX_AMPLIFICATION`.
    """
    warnings = []
    if prediction.n_dropped:
        warnings.append(
            f"{prediction.n_dropped} linearly dependent direction(s) of the basis were projected "
            "out"
        )
    n_electrons = prediction.structure.n_electrons
    if n_electrons % 2:
        warnings.append(f"odd number of electrons ({n_electrons})")
    worst = _largest_amplification(prediction)
    if worst > MAX_AMPLIFICATION:
        warnings.append(
            "spurious low orbital: an occupied orbital or a bound LUMO amplifies errors of H by "
            f"{worst:.0f} (expected below {MAX_AMPLIFICATION:g}); do not trust HOMO, LUMO and gap"
        )
    gap = HARTREE_TO_EV * prediction.gap
    if gap < NEAR_ZERO_GAP_EV:
        warnings.append(f"near-zero gap ({gap:.3f} eV): the occupation is uncertain")
    return tuple(warnings)


def _largest_amplification(prediction: Prediction) -> float:
    energies: FloatArray = prediction.orbital_energies
    occupied = prediction.occupations > 0
    low_lumo = (energies == prediction.lumo) & (HARTREE_TO_EV * energies < BOUND_LUMO_EV)
    suspects = occupied | low_lumo
    squares = (np.abs(prediction.coefficients) ** 2).sum(axis=1)  # (n_spin, n_mo)
    return float(squares[suspects].max(initial=0.0))
