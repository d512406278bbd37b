"""Cube files: orbitals and densities in space, for every viewer of molecules."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.io.cube import write_cube

from hamnet.errors import HamnetError
from hamnet.files import replacing
from hamnet.integrals import orbital_values
from hamnet.interop.ase import to_atoms
from hamnet.registry import did_you_mean
from hamnet.spinor import refuse_spinors
from hamnet.structure import FloatArray, IntArray

if TYPE_CHECKING:
    from hamnet.prediction import Prediction

SPACING, MARGIN = 0.15, 3.0
"""Defaults, Angstrom: between points, and around the atoms."""

MAX_POINTS = 20_000_000
DENSITY = "density"

_FRONTIER = re.compile(r"(homo)(-\d+)?|(lumo)(\+\d+)?")


def save_cube(
    path: Path,
    prediction: "Prediction",
    what: str,
    *,
    spacing: float = SPACING,
    margin: float = MARGIN,
) -> None:
    """Write an orbital (bohr^(-3/2)) or the electron density (bohr^(-3)) on a grid.

    Args:
        path: the file.
        prediction: the frame.
        what: see `check_cube`.
        spacing: largest distance between points, Angstrom.
        margin: from the outermost atoms to the faces of the box, Angstrom.

    Raises:
        HamnetError: there is no such orbital; the grid is too large; a file that cannot be written.
    """
    structure = prediction.structure
    low, steps, shape = cube_grid(prediction, what, spacing, margin)
    axes = [low[k] + steps[k] * np.arange(shape[k]) for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    values = _values(prediction, what, points).reshape(shape)
    atoms = to_atoms(structure)
    atoms.cell = np.diag(steps * shape)  # ASE divides it by the number of points
    comment = f"hamnet: {what} of {structure.formula}, atomic units"
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        write_cube(file, atoms, values, origin=low, comment=comment)


def check_cube(what: str) -> None:
    """Check that a name means a density or an orbital.

    Names are ``density``, ``homo``, ``homo-1``, ``lumo``, ``lumo+2``, and the number of an
    orbital, from 0 as in ``orbital_energies.csv``.

    Raises:
        HamnetError: another name.
    """
    if what != DENSITY and not what.isdecimal() and not _FRONTIER.fullmatch(what):
        known = (DENSITY, "homo", "lumo", "homo-1", "lumo+1")
        raise HamnetError(
            f"unknown contents of a cube file '{what}'{did_you_mean(what, known)} (or the number "
            "of an orbital, from 0)"
        )


def cube_grid(
    prediction: "Prediction", what: str, spacing: float = SPACING, margin: float = MARGIN
) -> tuple[FloatArray, FloatArray, IntArray]:
    """Return first point and steps (Angstrom) and the number of points along each axis, ``[3]``.

    Raises:
        HamnetError: what `save_cube` is asked for does not exist, or the grid is too large;
            spinors.
    """
    check_cube(what)
    refuse_spinors(prediction.hamiltonian, "cube files")
    if what != DENSITY:
        orbital_place(prediction, what)
    positions = prediction.structure.positions
    extent = np.ptp(positions, axis=0) + 2 * margin
    shape = np.ceil(extent / spacing).astype(np.int64) + 1
    if shape.prod() > MAX_POINTS:
        raise HamnetError(
            f"a cube file of {prediction.structure.formula} with {spacing} A between points would "
            f"have {shape.prod()} of them, more than {MAX_POINTS}: take a larger spacing"
        )
    return positions.min(axis=0) - margin, extent / (shape - 1), shape


def orbital_place(prediction: "Prediction", what: str) -> tuple[int, int]:
    """Return spin channel and index of an orbital by its name; see `check_cube`.

    ``homo`` and ``lumo`` are the frontier orbitals of all spins, and what is counted from them
    stays in their channel; a number means the first channel.

    Raises:
        HamnetError: there is no such orbital.
    """
    occupied = prediction.occupations > 0
    n_mo = occupied.shape[1]
    if what.isdecimal():
        channel, index = 0, int(what)
    elif what.startswith("homo"):
        levels = np.where(occupied, prediction.orbital_energies, -np.inf)
        channel, index = divmod(int(levels.argmax()), n_mo)
        index += int(what.removeprefix("homo") or 0) if occupied.any() else n_mo
    else:
        levels = np.where(occupied, np.inf, prediction.orbital_energies)
        channel, index = divmod(int(levels.argmin()), n_mo)
        index += int(what.removeprefix("lumo") or 0) if not occupied.all() else n_mo
    if not 0 <= index < n_mo:
        raise HamnetError(
            f"{prediction.structure.formula} has no orbital '{what}': it has {n_mo} orbitals, of "
            f"which {int(occupied[channel].sum())} are occupied"
        )
    return channel, index


def _values(prediction: "Prediction", what: str, points: FloatArray) -> FloatArray:
    structure, basis = prediction.structure, prediction.basis
    if what != DENSITY:
        channel, index = orbital_place(prediction, what)
        orbital = prediction.coefficients[channel][:, index : index + 1]
        return orbital_values(structure, basis, orbital, points)[:, 0]
    density = np.zeros(len(points))
    for coefficients, occupations in zip(
        prediction.coefficients, prediction.occupations, strict=True
    ):
        filled = occupations > 0
        values = orbital_values(structure, basis, coefficients[:, filled], points)
        density += values**2 @ occupations[filled]
    return density
