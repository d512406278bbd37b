"""Atomic-orbital basis: the shells of each element, and the order of the orbitals in a matrix.

Canonical order inside hamnet: atoms in the order of the structure; per atom the shells in the order
in which the basis defines them, one shell a contraction; per shell ``m = -l..l`` of the real
harmonics without Condon-Shortley sign. It is e3nn's order when vectors enter as ``(y, z, x)``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamnet.errors import HamnetError
from hamnet.registry import look_up
from hamnet.structure import FloatArray, IntArray, atomic_number, symbol

SHELL_LETTERS = "spdfghiklmno"
"""Names of the angular momenta."""

_OPENMX_D, _OPENMX_F = (2, 4, 0, 3, 1), (6, 4, 2, 0, 1, 3, 5)

AO_ORDERS: Mapping[str, tuple[Mapping[int, Sequence[int]], bool]] = {
    # name: ({l: perm} with out[m=-l..l] = in[perm], identity if absent; sign (-1)^m)
    "hamnet": ({}, False),
    "pyscf": ({1: (1, 2, 0)}, False),
    "openmx": ({1: (1, 2, 0), 2: _OPENMX_D, 3: _OPENMX_F}, False),
    "abacus": ({1: (2, 0, 1), 2: (4, 2, 0, 1, 3), 3: _OPENMX_F}, True),
    "siesta": ({}, True),
    "orca": ({1: (2, 0, 1), 2: (4, 2, 0, 1, 3), 3: _OPENMX_F}, False),
    "psi4": ({1: (2, 0, 1), 2: (4, 2, 0, 1, 3), 3: _OPENMX_F}, False),
}
"""How other codes order the orbitals of a shell."""


@dataclass(frozen=True)
class OrbitalBasis:
    """The shells of each element.

    Attributes:
        name: the name users know, such as ``def2-svp``.
        shells: atomic number -> angular momentum of each shell, in definition order; a contracted
            shell with n contractions counts n times.
        fingerprints: atomic number -> hash of exponents, coefficients and effective core potential;
            two bases with the same name and another hash are different bases.
    """

    name: str
    shells: Mapping[int, tuple[int, ...]]
    fingerprints: Mapping[int, str]

    @cached_property
    def l_max(self) -> int:
        """The largest angular momentum."""
        return max(max(ls) for ls in self.shells.values())

    def of(self, number: int) -> tuple[int, ...]:
        """Return the angular momenta of the element's shells.

        Raises:
            HamnetError: the basis holds no such element.
        """
        if number not in self.shells:
            known = ", ".join(symbol(z) for z in sorted(self.shells))
            raise HamnetError(
                f"the basis '{self.name}' holds no element {symbol(number)}; it holds {known}"
            )
        return self.shells[number]

    def shell_names(self, number: int) -> list[str]:
        """Return the name of each shell of an element, ``p2`` for its second p shell."""
        names: list[str] = []
        for l in self.of(number):
            letter = SHELL_LETTERS[l]
            names.append(f"{letter}{1 + sum(name[0] == letter for name in names)}")
        return names

    def n_orbitals(self, number: int) -> int:
        """Return the number of orbitals on one atom of the element."""
        return sum(2 * l + 1 for l in self.of(number))

    def atom_offsets(self, numbers: IntArray) -> IntArray:
        """Return the first orbital of each atom and, last, the number of orbitals: ``[N + 1]``."""
        sizes = self._sizes
        offsets = np.zeros(len(numbers) + 1, dtype=np.int64)
        try:
            np.cumsum([sizes[z] for z in numbers.tolist()], out=offsets[1:])
        except KeyError as error:
            self.of(error.args[0])  # says which elements the basis holds
        return offsets

    @cached_property
    def _sizes(self) -> dict[int, int]:
        return {z: self.n_orbitals(z) for z in self.shells}

    def merged(self, other: "OrbitalBasis") -> "OrbitalBasis":
        """Return the union of the elements of two bases of the same name.

        Raises:
            HamnetError: names differ, or one element is defined in two ways.
        """
        if self.name != other.name:
            raise HamnetError(f"cannot mix the bases '{self.name}' and '{other.name}'")
        for z in set(self.shells) & set(other.shells):
            if self.fingerprints[z] != other.fingerprints[z]:
                raise HamnetError(
                    f"the basis '{self.name}' defines {symbol(z)} in two ways "
                    f"({self.fingerprints[z]} and {other.fingerprints[z]})"
                )
        shells = {**self.shells, **other.shells}
        prints = {**self.fingerprints, **other.fingerprints}
        return OrbitalBasis(self.name, dict(sorted(shells.items())), dict(sorted(prints.items())))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; inverse of `from_dict`."""
        return {
            "name": self.name,
            "shells": {symbol(z): list(ls) for z, ls in self.shells.items()},
            "fingerprints": {symbol(z): f for z, f in self.fingerprints.items()},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "OrbitalBasis":
        """Rebuild a basis from `to_dict`."""
        return OrbitalBasis(
            str(data["name"]),
            {atomic_number(s): tuple(ls) for s, ls in data["shells"].items()},
            {atomic_number(s): str(f) for s, f in data["fingerprints"].items()},
        )


def ao_order(basis: OrbitalBasis, numbers: IntArray, source: str) -> tuple[IntArray, FloatArray]:
    """Return ``perm, sign`` with ``out = sign * in[perm]``, from another code's order to hamnet's.

    Args:
        basis: the basis of all the atoms.
        numbers: atomic numbers ``[N]``.
        source: a key of `AO_ORDERS`.

    Raises:
        HamnetError: unknown source.
    """
    perms, alternating = look_up("orbital order", source, AO_ORDERS)
    perm: list[int] = []
    sign: list[float] = []
    for z in numbers:
        for l in basis.of(int(z)):
            start = len(perm)
            perm += [start + k for k in perms.get(l, range(2 * l + 1))]
            sign += [(-1.0) ** m if alternating else 1.0 for m in range(-l, l + 1)]
    return np.array(perm, dtype=np.int64), np.array(sign)


def to_hamnet_order(
    matrix: FloatArray, basis: OrbitalBasis, numbers: IntArray, source: str
) -> FloatArray:
    """Reorder the last two axes of ``matrix`` ``[..., n, n]`` from another code's orbital order."""
    perm, sign = ao_order(basis, numbers, source)
    _check_size(matrix, len(perm))
    reordered: FloatArray = matrix[..., perm[:, None], perm] * (sign[:, None] * sign)
    return reordered


def from_hamnet_order(
    matrix: FloatArray, basis: OrbitalBasis, numbers: IntArray, target: str
) -> FloatArray:
    """Reorder the last two axes of ``matrix`` ``[..., n, n]`` into another code's orbital order."""
    perm, sign = ao_order(basis, numbers, target)
    _check_size(matrix, len(perm))
    back = np.argsort(perm)
    signed = matrix * (sign[:, None] * sign)
    reordered: FloatArray = signed[..., back[:, None], back]
    return reordered


def orbitals_from_hamnet_order(
    coefficients: FloatArray, basis: OrbitalBasis, numbers: IntArray, target: str
) -> FloatArray:
    """Reorder the rows of orbitals ``[..., n_ao, n_mo]`` into another code's orbital order."""
    perm, sign = ao_order(basis, numbers, target)
    reordered = np.empty_like(coefficients)
    reordered[..., perm, :] = sign[:, None] * coefficients
    return reordered


def _check_size(matrix: NDArray[Any], n: int) -> None:
    if matrix.shape[-2:] != (n, n):
        raise HamnetError(
            f"the matrix has shape {matrix.shape}, but the basis gives {n} orbitals for these atoms"
        )
