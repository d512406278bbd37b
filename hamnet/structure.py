"""A geometry with its charge and spin: what goes into a calculation or a prediction."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from numpy.typing import ArrayLike, NDArray

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


def check_contacts(structure: Structure) -> None:
    """Refuse a molecule in which two atoms nearly coincide.

    An SCF "converges" on such a geometry, to nonsense.

    Raises:
        HamnetError: names the first pair of atoms closer than 0.6 of their covalent radii's sum.
    """
    radius = covalent_radii[structure.numbers]
    delta = structure.positions[:, None] - structure.positions[None]
    distance = np.linalg.norm(delta, axis=-1)  # (N, N)
    limit = MIN_DISTANCE_FRACTION * (radius[:, None] + radius[None])
    close = np.argwhere(np.triu(distance < limit, k=1))
    if len(close):
        i, j = close[0]
        raise HamnetError(
            f"atoms {i} ({symbol(structure.numbers[i])}) and {j} ({symbol(structure.numbers[j])}) "
            f"are {distance[i, j]:.3f} A apart, closer than {limit[i, j]:.3f} A "
            f"({MIN_DISTANCE_FRACTION} of their covalent radii): check the geometry and its unit "
            "(positions are Angstrom)"
        )
