"""A row per frame: what was predicted, what to beware of, or why there is no prediction."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hamnet.data.level import LevelOfTheory, record_id
from hamnet.errors import HamnetError
from hamnet.interop.ase import Frame
from hamnet.prediction import Prediction
from hamnet.structure import FloatArray
from hamnet.units import HARTREE_TO_EV, HARTREE_TO_UHA

MIN_BOND_ORDER = 0.05
"""Smaller bond orders are left out of rows."""

COLUMNS = (
    "row",
    "id",
    "file",
    "frame",
    "formula",
    "charge",
    "spin",
    "n_electrons",
    "homo_ev",
    "lumo_ev",
    "gap_ev",
    "warnings",
    "error",
)
"""Columns of every table; those of properties and uncertainties stand before the last two."""

FRONTIER = ("homo", "lumo", "gap")

STDS: Mapping[str, tuple[str, float]] = {
    "homo": ("homo_std_ev", HARTREE_TO_EV),
    "lumo": ("lumo_std_ev", HARTREE_TO_EV),
    "gap": ("gap_std_ev", HARTREE_TO_EV),
    "h": ("h_std_uha", HARTREE_TO_UHA),
}
"""Standard deviations by their name in `Prediction.uncertainty`: column and factor from Hartree."""

Row = Mapping[str, Any]


def _charges(prediction: Prediction) -> dict[str, Any]:
    return {
        "mulliken_charges": _rounded(prediction.charges),
        "loewdin_charges": _rounded(prediction.loewdin_charges),
    }


def _dipole(prediction: Prediction) -> dict[str, Any]:
    dipole = prediction.dipole
    return {
        "dipole_debye": round(float(np.linalg.norm(dipole)), 6),
        "dipole_vector_debye": _rounded(dipole),
    }


def _bond_orders(prediction: Prediction) -> dict[str, Any]:
    return {
        "mayer_bond_orders": _bonds(prediction.bond_orders),
        "wiberg_bond_orders": _bonds(prediction.wiberg_bond_orders),
    }


def _energy(prediction: Prediction) -> dict[str, Any]:
    return {"energy_hartree": round(prediction.total_energy(), 9)}


PROPERTIES: Mapping[str, tuple[tuple[str, ...], Callable[[Prediction], dict[str, Any]]]] = {
    "charges": (("mulliken_charges", "loewdin_charges"), _charges),
    "dipole": (("dipole_debye", "dipole_vector_debye"), _dipole),
    "bond-orders": (("mayer_bond_orders", "wiberg_bond_orders"), _bond_orders),
    "energy": (("energy_hartree",), _energy),
}
"""What a row may hold beside the orbital energies: name -> columns, and what computes them."""


def property_columns(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of some properties."""
    return tuple(column for name in names for column in PROPERTIES[name][0])


def prediction_values(prediction: Prediction, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the columns of a prediction and of its properties.

    Raises:
        HamnetError: a property cannot be computed.
    """
    values: dict[str, Any] = {}
    for name in FRONTIER:
        values[f"{name}_ev"] = _ev(getattr(prediction, name))
    for name, std in prediction.uncertainty.items():
        column, factor = STDS[name]
        values[column] = float(f"{factor * std:.4g}") if math.isfinite(std) else None
    for name in names:
        values |= PROPERTIES[name][1](prediction)
    energies = [[_ev(energy) for energy in channel] for channel in prediction.orbital_energies]
    if prediction.n_electrons is not None:
        values["n_electrons"] = prediction.n_electrons
    return values | {
        "orbital_energies_ev": energies,
        "occupations": prediction.occupations.tolist(),
    }


def frame_values(frame: Frame, number: int, level: LevelOfTheory | None) -> dict[str, Any]:
    """Return the columns that say which frame this is, and its geometry.

    Args:
        frame: the frame.
        number: of the row.
        level: level of theory of the model; ``id`` is what a label of this frame at this level is
            known by in a dataset. With pseudopotentials the valence electrons count, which the
            prediction knows (`prediction_values`).
    """
    values: dict[str, Any] = {
        "row": number,
        "id": frame_id(frame, level),
        "file": frame.file,
        "frame": frame.index,
    }
    structure = frame.structure
    if isinstance(structure, HamnetError):
        return values
    if structure.is_periodic:
        values |= {"cell_angstrom": structure.cell.tolist(), "pbc": structure.pbc.tolist()}
    return values | {
        "formula": structure.formula,
        "charge": structure.charge,
        "spin": structure.spin,
        "n_electrons": None if level is not None and level.pseudo else structure.n_electrons,
        "numbers": structure.numbers.tolist(),
        "positions_angstrom": structure.positions.tolist(),
    }


def frame_id(frame: Frame, level: LevelOfTheory | None) -> str:
    """Return the identity of a frame's label; empty where it has no structure or no level."""
    if isinstance(frame.structure, HamnetError) or level is None:
        return ""
    return record_id(frame.structure, level)


def error_text(frame: Frame, error: HamnetError) -> str:
    """Return why a frame has no prediction, and the cure; names file and frame."""
    unread = isinstance(frame.structure, HamnetError)  # then the message names them already
    notes = getattr(error, "__notes__", ())
    return "; ".join([str(error if unread else error.at(frame.origin)), *notes])


def _ev(energy: float) -> float | None:
    return round(HARTREE_TO_EV * float(energy), 6) if math.isfinite(energy) else None


def _rounded(values: FloatArray) -> list[float]:
    return [float(x) for x in np.round(values, 6)]


def _bonds(orders: FloatArray) -> list[list[float]]:
    """Return ``[atom, atom, order]`` of each pair of atoms that has a bond order to speak of."""
    pairs = np.argwhere(np.triu(np.abs(orders) >= MIN_BOND_ORDER, k=1))
    return [[int(i), int(j), round(float(orders[i, j]), 4)] for i, j in pairs]
