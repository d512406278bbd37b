"""A geometry with its charge and spin: what goes into a calculation or a prediction."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from numpy.typing import ArrayLike, NDArray
from vesin import NeighborList

from hamnet.errors import HamnetError
from hamnet.units import MIN_DISTANCE_FRACTION

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_ATOMIC_NUMBER = 118
BOND_FRACTION = 1.25


def symbol(number: int) -> str:
    """Return the chemical symbol of an atomic number."""
    return str(chemical_symbols[number])


def atomic_number(name: str) -> int:
    """Return the atomic number of a chemical symbol.

    Raises:
        HamnetError: no such element.
    """
    if name not in atomic_numbers or name == "X":
        raise HamnetError(f"unknown element '{name}'")
    return int(atomic_numbers[name])


def hill_formula(numbers: IntArray) -> str:
    """Return the chemical formula of some atoms, carbon and hydrogen first (Hill system)."""
    count = Counter(symbol(int(z)) for z in numbers)
    lead = [s for s in ("C", "H") if "C" in count and s in count]
    names = lead + sorted(set(count) - set(lead))
    return "".join(s + (str(count[s]) if count[s] > 1 else "") for s in names)


def _frozen(value: ArrayLike, dtype: type, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    array: NDArray[Any] = np.array(value, dtype=dtype)
    if array.shape != shape:
        raise HamnetError(f"{name} must have shape {shape}, got {array.shape}")
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Structure:
    """One molecule or crystal; immutable.

    Attributes:
        numbers: atomic numbers, shape ``[N]``.
        positions: Angstrom, shape ``[N, 3]``.
        cell: lattice vectors as rows, Angstrom, shape ``[3, 3]``; zeros for a molecule.
        pbc: periodic along each lattice vector, shape ``[3]``.
        charge: total charge in units of e.
        spin: number of unpaired electrons, N(alpha) - N(beta), as in PySCF.

    Raises:
        HamnetError: wrong shapes, no atoms, an element that does not exist, positions not finite.
    """

    numbers: IntArray
    positions: FloatArray
    cell: FloatArray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(3, dtype=bool))
    charge: int = 0
    spin: int = 0

    def __post_init__(self) -> None:
        n = np.size(self.numbers)
        if n == 0:
            raise HamnetError("the structure has no atoms")
        put = object.__setattr__
        put(self, "numbers", _frozen(self.numbers, np.int64, (n,), "numbers"))
        put(self, "positions", _frozen(self.positions, np.float64, (n, 3), "positions"))
        put(self, "cell", _frozen(self.cell, np.float64, (3, 3), "cell"))
        put(self, "pbc", _frozen(self.pbc, np.bool_, (3,), "pbc"))
        known = self.numbers.tolist()  # a list: the least work for a small molecule
        if min(known) < 1 or max(known) > MAX_ATOMIC_NUMBER:
            atom = int(np.argmax((self.numbers < 1) | (self.numbers > MAX_ATOMIC_NUMBER)))
            raise HamnetError(
                f"atom {atom} has atomic number {self.numbers[atom]}: no such element"
            )
        if not np.isfinite(self.positions).all():
            atom = int(np.argmin(np.isfinite(self.positions).all(axis=1)))
            raise HamnetError(
                f"atom {atom} ({symbol(self.numbers[atom])}) has the position "
                f"{self.positions[atom].tolist()}, which is not finite"
            )

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def is_periodic(self) -> bool:
        """True if any direction is periodic."""
        return bool(self.pbc.any())

    @property
    def kind(self) -> tuple[bytes, int, int]:
        """Elements in their order, charge and spin: the same for all frames of a molecule."""
        return self.numbers.tobytes(), self.charge, self.spin

    @property
    def formula(self) -> str:
        """Chemical formula, carbon and hydrogen first (Hill system)."""
        return hill_formula(self.numbers)

    @property
    def n_electrons(self) -> int:
        """Number of all electrons (cores included)."""
        return int(self.numbers.sum()) - self.charge


def xyz_text(structure: Structure, comment: str = "") -> str:
    """Return a structure as one frame of an xyz file, Angstrom."""
    rows = (
        f"{symbol(int(z)):2s} {x:14.8f} {y:14.8f} {w:14.8f}"
        for z, (x, y, w) in zip(structure.numbers, structure.positions, strict=True)
    )
    return "\n".join([str(len(structure)), comment, *rows]) + "\n"


def bonds(structure: Structure) -> list[tuple[int, int]]:
    """Return pairs of atoms that a picture joins: closer than 1.25 of their covalent radii's sum.

    Images in other cells are not looked for.
    """
    radius = covalent_radii[structure.numbers]
    delta = structure.positions[:, None] - structure.positions[None]
    close = np.linalg.norm(delta, axis=-1) < BOND_FRACTION * (radius[:, None] + radius[None])
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(close, k=1))]


def complete_cell(structure: Structure, height: float = 1.0) -> FloatArray:
    """Return three lattice vectors ``[3, 3]``, Angstrom.

    Vectors along directions that are not periodic carry no meaning (files have zeros there, or a
    box): they are replaced by vectors of length ``height``, perpendicular to the periodic ones.
    """
    periodic = structure.cell[structure.pbc]
    free = np.linalg.svd(periodic)[2][len(periodic) :] if len(periodic) else np.eye(3)
    cell = structure.cell.copy()
    cell[~structure.pbc] = height * free
    if np.linalg.det(cell) < 0 and len(free):
        cell[np.flatnonzero(~structure.pbc)[0]] *= -1
    return cell


def check_cell(structure: Structure) -> None:
    """Refuse lattice vectors that make no crystal.

    Raises:
        HamnetError: a periodic direction without a vector, vectors that lie in one plane, or a
            left-handed cell.
    """
    for k in np.flatnonzero(structure.pbc):
        if not np.isfinite(structure.cell[k]).all() or np.linalg.norm(structure.cell[k]) < 0.1:
            raise HamnetError(
                f"the structure is periodic along lattice vector {'abc'[k]} (pbc "
                f"{structure.pbc.tolist()}), but that vector is {structure.cell[k].tolist()}: give "
                "the cell, or set pbc to False there"
            )
    cell = complete_cell(structure)
    lengths = np.linalg.norm(cell, axis=1)
    flatness = np.linalg.det(cell) / lengths.prod()
    if abs(flatness) < 1e-3:
        raise HamnetError(
            f"the lattice vectors {structure.cell.tolist()} lie in one plane or on one line"
        )
    if flatness < 0:
        raise HamnetError(
            f"the cell {structure.cell.tolist()} is left-handed (volume "
            f"{np.linalg.det(cell):.3f} A^3): exchange two lattice vectors, and the fractional "
            "coordinates with them"
        )


def half_list(structure: Structure, cutoff: float) -> tuple[IntArray, IntArray, IntArray]:
    """Return each unordered pair of distinct centres closer than a cutoff once.

    Args:
        structure: molecule or crystal; atoms may lie outside the cell.
        cutoff: Angstrom.

    Returns:
        Atoms i ``[P]`` and j ``[P]``, and the cell shift of j ``[P, 3]``.
    """
    if len(structure) == 1 and not structure.is_periodic:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, empty.reshape(0, 3)
    i, j, shift = NeighborList(cutoff=cutoff, full_list=False).compute(
        points=structure.positions,
        box=complete_cell(structure) if structure.is_periodic else structure.cell,
        periodic=structure.pbc.tolist() if structure.is_periodic else False,
        quantities="ijS",
    )
    return i.astype(np.int64), j.astype(np.int64), shift.astype(np.int64)


def check_contacts(structure: Structure) -> None:
    """Refuse a structure in which two atoms nearly coincide.

    An SCF "converges" on such a geometry, to nonsense.

    Raises:
        HamnetError: names the first pair of atoms closer than 0.6 of their covalent radii's sum.
    """
    radius = covalent_radii[structure.numbers]
    i, j, shift = half_list(structure, 2 * MIN_DISTANCE_FRACTION * float(radius.max()))
    vector = structure.positions[j] + shift @ structure.cell - structure.positions[i]
    distance = np.linalg.norm(vector, axis=1)
    limit = MIN_DISTANCE_FRACTION * (radius[i] + radius[j])
    close = np.flatnonzero(distance < limit)
    if len(close):
        k = int(close[np.lexsort((j[close], i[close]))[0]])
        a, b = (f"{n} ({symbol(structure.numbers[n])})" for n in sorted((int(i[k]), int(j[k]))))
        raise HamnetError(
            f"atoms {a} and {b} are {distance[k]:.3f} A apart, closer than {limit[k]:.3f} A "
            f"({MIN_DISTANCE_FRACTION} of their covalent radii): check the geometry and its unit "
            "(positions are Angstrom)"
        )
