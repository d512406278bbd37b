"""Blocks of a matrix and their irreducible parts (Wigner-Eckart).

For shells a and b with angular momenta l1 and l2

    H[a m1, b m2] = sum_l sum_m C(l1, l2, l)[m1, m2, m] h[a, b, l, m],   C = sqrt(2l+1) w3j.

With that factor the change of basis is orthogonal: norms and squared errors are the same on both
sides. ``h[a, b, l]`` has parity (-1)^(l1+l2): *natural* where that is (-1)^l, else *pseudo*.

Exchange of the two atoms of a pair maps ``h_ji[b, a, l] = s h_ij[a, b, l]``, ``s = +1`` for
natural and -1 for pseudo. An on-site block is its own partner, so it has a <= b, and even l only
where a = b. For two atoms of the same element the combinations ``(h[a, b] +- h[b, a])/sqrt 2`` are
even or odd under exchange up to s; a model that reads them from features of the same symmetry gives
the same Hamiltonian whichever atom comes first.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from e3nn import o3
from torch import Tensor

from hamnet.basis import OrbitalBasis
from hamnet.graph import PairType


@dataclass(frozen=True)
class BlockType:
    """Blocks with the same shells: all on-site blocks of an element, or all of an element pair."""

    z_i: int
    z_j: int
    on_site: bool

    @property
    def key(self) -> str:
        """Name without a dot, for parameter dictionaries: ``8`` or ``1-8``."""
        return str(self.z_i) if self.on_site else f"{self.z_i}-{self.z_j}"

    @staticmethod
    def atom(number: int) -> "BlockType":
        """Return the type of an element's on-site blocks."""
        return BlockType(number, number, on_site=True)

    @staticmethod
    def pair(pair_type: PairType) -> "BlockType":
        """Return the type of an element pair's blocks."""
        return BlockType(*pair_type, on_site=False)


@dataclass(frozen=True)
class IrrepClass:
    """Irreps of one block type that share degree, parity and behaviour under exchange.

    Attributes:
        l: degree.
        pseudo: parity is (-1)^(l+1) instead of (-1)^l.
        exchange: +1 or -1 for pairs of one element, 0 where exchange says nothing.
        shells: shell indices (a, b) of each irrep.
        start: first column in `BlockIrreps.matrix`; the class has ``(2l+1) * len(shells)``
            columns, m major, irrep minor.
    """

    l: int
    pseudo: bool
    exchange: int
    shells: tuple[tuple[int, int], ...]
    start: int

    @property
    def n_irreps(self) -> int:
        """Number of irreps."""
        return len(self.shells)

    @property
    def columns(self) -> slice:
        """Columns of the class."""
        return slice(self.start, self.start + (2 * self.l + 1) * self.n_irreps)

    @property
    def is_invariant(self) -> bool:
        """True if a constant is allowed: scalar, natural, not odd under exchange."""
        return self.l == 0 and not self.pseudo and self.exchange >= 0


@dataclass(frozen=True, eq=False)
class BlockIrreps:
    """The irreps of one block type.

    Attributes:
        type: the block type.
        shape: orbitals on atoms i and j.
        classes: irreps by (l, parity, exchange).
        matrix: orthonormal columns, ``(n_i * n_j, n_numbers)``: ``vec(H) = matrix @ h``.
        irrep_of_column: running number of the irrep of each column, ``(n_numbers,)``.
    """

    type: BlockType
    shape: tuple[int, int]
    classes: tuple[IrrepClass, ...]
    matrix: Tensor
    irrep_of_column: Tensor

    @property
    def n_irreps(self) -> int:
        """Number of irreps."""
        return sum(c.n_irreps for c in self.classes)

    @property
    def n_numbers(self) -> int:
        """Number of independent numbers of a block."""
        return int(self.matrix.shape[1])


@cache
def coupling(l1: int, l2: int, l: int) -> Tensor:
    """Return ``C(l1, l2, l) = sqrt(2l+1) w3j``, ``(2*l1+1, 2*l2+1, 2l+1)``, float64.

    The phase is fixed so that ``C(l2, l1, l)[m2, m1] = (-1)^(l1+l2+l) C(l1, l2, l)[m1, m2]``.
    """
    if l1 > l2:
        sign = -1.0 if (l1 + l2 + l) % 2 else 1.0
        return sign * coupling(l2, l1, l).transpose(0, 1)
    w3j: Tensor = o3.wigner_3j(l1, l2, l, dtype=torch.float64)
    return math.sqrt(2 * l + 1) * w3j


def block_irreps(basis: OrbitalBasis, block_type: BlockType) -> BlockIrreps:
    """Return the irreps of a block type: their classes and the orthogonal change of basis."""
    shells_i, shells_j = basis.of(block_type.z_i), basis.of(block_type.z_j)
    n_i, n_j = basis.n_orbitals(block_type.z_i), basis.n_orbitals(block_type.z_j)
    first_i = np.concatenate([[0], np.cumsum([2 * l + 1 for l in shells_i])])
    first_j = np.concatenate([[0], np.cumsum([2 * l + 1 for l in shells_j])])

    def product(a: int, b: int, l: int) -> Tensor:
        """Matrices (2l+1, n_i, n_j) of the irrep (a, b, l)."""
        out = torch.zeros(2 * l + 1, n_i, n_j, dtype=torch.float64)
        rows = slice(int(first_i[a]), int(first_i[a + 1]))
        cols = slice(int(first_j[b]), int(first_j[b + 1]))
        out[:, rows, cols] = coupling(shells_i[a], shells_j[b], l).permute(2, 0, 1)
        return out

    found: dict[tuple[int, bool, int], list[tuple[int, int, Tensor]]] = {}
    same = block_type.z_i == block_type.z_j
    for a, l1 in enumerate(shells_i):
        for b, l2 in enumerate(shells_j):
            if same and a > b:
                continue  # comes with (b, a)
            for l in range(abs(l1 - l2), l1 + l2 + 1):
                pseudo = bool((l1 + l2 + l) % 2)
                direct = product(a, b, l)
                if not same:
                    found.setdefault((l, pseudo, 0), []).append((a, b, direct))
                elif a == b:
                    if block_type.on_site and l % 2:
                        continue
                    exchange = 0 if block_type.on_site else 1
                    found.setdefault((l, pseudo, exchange), []).append((a, b, direct))
                elif block_type.on_site:
                    both = (direct + direct.transpose(1, 2)) / math.sqrt(2)
                    found.setdefault((l, pseudo, 0), []).append((a, b, both))
                else:
                    swapped = product(b, a, l)
                    for exchange in (1, -1):
                        both = (direct + exchange * swapped) / math.sqrt(2)
                        found.setdefault((l, pseudo, exchange), []).append((a, b, both))
    return _collect(block_type, (n_i, n_j), found)


def _collect(
    block_type: BlockType,
    shape: tuple[int, int],
    found: dict[tuple[int, bool, int], list[tuple[int, int, Tensor]]],
) -> BlockIrreps:
    classes, columns, irrep_of_column = [], [], []
    start = n_irreps = 0
    for (l, pseudo, exchange), members in sorted(found.items()):
        shells = tuple((a, b) for a, b, _ in members)
        classes.append(IrrepClass(l, pseudo, exchange, shells, start))
        matrices = torch.stack([m for _, _, m in members], dim=1)  # (2l+1, n, n_i, n_j)
        columns.append(matrices.reshape(-1, shape[0] * shape[1]))
        numbers = torch.arange(len(members)) + n_irreps
        irrep_of_column.append(numbers.repeat(2 * l + 1))
        start += (2 * l + 1) * len(members)
        n_irreps += len(members)
    return BlockIrreps(
        block_type,
        shape,
        tuple(classes),
        torch.cat(columns).T.contiguous(),
        torch.cat(irrep_of_column),
    )
