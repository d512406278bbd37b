"""Blocks of a matrix and their irreducible parts (Wigner-Eckart).

For shells a and b with angular momenta l1 and l2

    H[a m1, b m2] = sum_l sum_m C(l1, l2, l)[m1, m2, m] h[a, b, l, m],   C = sqrt(2l+1) w3j.

With that factor the change of basis is orthogonal: norms and squared errors are the same on both
sides. ``h[a, b, l]`` has parity (-1)^(l1+l2): *natural* where that is (-1)^l, else *pseudo*.

An on-site block is its own partner: it has a <= b, and even l only where a = b. Its irreps stay in
the laboratory frame. Those of a pair are turned into the pair's own frame (`hamnet.so3.layout`),
where all degrees of one ``|m|`` may be read from the same features.

Exchange of the two atoms maps ``h_ji[b, a, l] = s h_ij[a, b, l]``, ``s = +1`` for natural and -1
for pseudo irreps. Of two atoms of one element take ``(h[a, b] + e h[b, a])/sqrt 2``, e = 1 and -1.
From the frame of (i, j) to that of (j, i), a mirror across the polar axis, their components take
the sign ``e (-1)^(l+m)``, which is the *exchange* of a component. Read from features of the same
exchange, H is the same whichever atom comes first.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from e3nn import o3
from torch import Tensor

from hamnet.basis import OrbitalBasis
from hamnet.graph import PairType
from hamnet.so3.layout import edge_row


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
class Irrep:
    """One irreducible part of a block.

    Attributes:
        a: shell on atom i.
        b: shell on atom j.
        l: degree.
        pseudo: parity is (-1)^(l+1) instead of (-1)^l.
        exchange: e = +1 or -1 for pairs of one element, 0 elsewhere.
    """

    a: int
    b: int
    l: int
    pseudo: bool
    exchange: int


@dataclass(frozen=True)
class IrrepClass:
    """Components that are read by one matrix.

    Attributes:
        order: degree l on site, ``|m|`` for a pair.
        pseudo: parity; for a pair with m > 0 both parities are in one class, and this is False.
        exchange: sign under exchange of the atoms, 0 where it says nothing.
        irreps: running numbers of the irreps.
        n_components: components of each: 2l+1 on site; for a pair 1 (m = 0) or 2 (even, odd).
        start: first column; the columns are component major, irrep minor.
        is_invariant: a constant is allowed.
    """

    order: int
    pseudo: bool
    exchange: int
    irreps: tuple[int, ...]
    n_components: int
    start: int
    is_invariant: bool

    @property
    def n_irreps(self) -> int:
        """Number of irreps."""
        return len(self.irreps)

    @property
    def columns(self) -> slice:
        """Columns of the class."""
        return slice(self.start, self.start + self.n_components * self.n_irreps)


@dataclass(frozen=True, eq=False)
class BlockIrreps:
    """The irreps of one block type.

    Attributes:
        type: the block type.
        shape: orbitals on atoms i and j.
        irreps: all irreps, by degree and parity.
        classes: components that are read together; they fill the columns one after the other.
        matrix: orthonormal columns, ``(n_i * n_j, n_numbers)``: ``vec(H) = matrix @ h`` with ``h``
            in the laboratory frame, m major and irrep minor within a degree and parity.
        column_order: column of the classes -> position after rotation, ``(n_numbers,)``.
        column_sign: sign between the two, `SO2Layout.pseudo`, ``(n_numbers,)``.
        irrep_of_column: number of the irrep of each column of the classes, ``(n_numbers,)``.
    """

    type: BlockType
    shape: tuple[int, int]
    irreps: tuple[Irrep, ...]
    classes: tuple[IrrepClass, ...]
    matrix: Tensor
    column_order: Tensor
    column_sign: Tensor
    irrep_of_column: Tensor

    @property
    def n_irreps(self) -> int:
        """Number of irreps."""
        return len(self.irreps)

    @property
    def n_numbers(self) -> int:
        """Number of independent numbers of a block."""
        return int(self.matrix.shape[1])

    def degrees(self) -> Iterator[tuple[int, bool, slice]]:
        """Yield (l, pseudo, columns in the laboratory frame) of each degree and parity."""
        start = 0
        for (l, pseudo), members in _by_degree(self.irreps).items():
            stop = start + (2 * l + 1) * len(members)
            yield l, pseudo, slice(start, stop)
            start = stop


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
    """Return the irreps of a block type, their classes and the orthogonal change of basis."""
    irreps = tuple(
        sorted(_irreps(basis, block_type), key=lambda p: (p.l, p.pseudo, p.exchange, p.a, p.b))
    )
    columns = []
    for members in _by_degree(irreps).values():
        matrices = [_matrices(basis, block_type, irreps[k]) for k in members]
        columns.append(torch.stack(matrices, dim=1).flatten(2).flatten(0, 1))
    classes = _on_site_classes(irreps) if block_type.on_site else _pair_classes(irreps)
    order, sign, owner = _columns(irreps, classes, on_site=block_type.on_site)
    return BlockIrreps(
        block_type,
        (basis.n_orbitals(block_type.z_i), basis.n_orbitals(block_type.z_j)),
        irreps,
        classes,
        torch.cat(columns).T.contiguous(),
        torch.tensor(order),
        torch.tensor(sign),
        torch.tensor(owner),
    )


def _irreps(basis: OrbitalBasis, block_type: BlockType) -> Iterator[Irrep]:
    same = block_type.z_i == block_type.z_j
    for a, l1 in enumerate(basis.of(block_type.z_i)):
        for b, l2 in enumerate(basis.of(block_type.z_j)):
            if same and a > b:
                continue  # comes with (b, a)
            for l in range(abs(l1 - l2), l1 + l2 + 1):
                pseudo = bool((l1 + l2 + l) % 2)
                if not same or (block_type.on_site and a < b):
                    yield Irrep(a, b, l, pseudo, 0)
                elif block_type.on_site:
                    if l % 2 == 0:
                        yield Irrep(a, b, l, pseudo, 0)
                else:
                    yield Irrep(a, b, l, pseudo, 1)
                    if a < b:
                        yield Irrep(a, b, l, pseudo, -1)


def _matrices(basis: OrbitalBasis, block_type: BlockType, irrep: Irrep) -> Tensor:
    """Return the block of each component m in the laboratory, ``(2l+1, n_i, n_j)``."""
    shells = basis.of(block_type.z_i), basis.of(block_type.z_j)
    first = [np.concatenate([[0], np.cumsum([2 * l + 1 for l in ls])]) for ls in shells]

    def product(a: int, b: int) -> Tensor:
        out = torch.zeros(2 * irrep.l + 1, first[0][-1], first[1][-1], dtype=torch.float64)
        rows, cols = slice(first[0][a], first[0][a + 1]), slice(first[1][b], first[1][b + 1])
        out[:, rows, cols] = coupling(shells[0][a], shells[1][b], irrep.l).permute(2, 0, 1)
        return out

    direct = product(irrep.a, irrep.b)
    if irrep.a == irrep.b or block_type.z_i != block_type.z_j:
        return direct
    if block_type.on_site:
        return (direct + direct.transpose(1, 2)) / math.sqrt(2)
    return (direct + irrep.exchange * product(irrep.b, irrep.a)) / math.sqrt(2)


def _by_degree(irreps: tuple[Irrep, ...]) -> dict[tuple[int, bool], list[int]]:
    found: dict[tuple[int, bool], list[int]] = {}
    for k, irrep in enumerate(irreps):
        found.setdefault((irrep.l, irrep.pseudo), []).append(k)
    return found


def _on_site_classes(irreps: tuple[Irrep, ...]) -> tuple[IrrepClass, ...]:
    classes, start = [], 0
    for (l, pseudo), members in _by_degree(irreps).items():
        invariant = l == 0 and not pseudo
        classes.append(IrrepClass(l, pseudo, 0, tuple(members), 2 * l + 1, start, invariant))
        start = classes[-1].columns.stop
    return tuple(classes)


def _pair_classes(irreps: tuple[Irrep, ...]) -> tuple[IrrepClass, ...]:
    found: dict[tuple[int, bool, int], list[int]] = {}
    for k, irrep in enumerate(irreps):
        for m in range(irrep.l + 1):
            exchange = irrep.exchange * (-1) ** (irrep.l + m)
            found.setdefault((m, irrep.pseudo and m == 0, exchange), []).append(k)
    classes, start = [], 0
    for (m, pseudo, exchange), members in sorted(found.items()):
        invariant = m == 0 and not pseudo and exchange >= 0
        size = 1 if m == 0 else 2
        classes.append(IrrepClass(m, pseudo, exchange, tuple(members), size, start, invariant))
        start = classes[-1].columns.stop
    return tuple(classes)


def _columns(
    irreps: tuple[Irrep, ...], classes: tuple[IrrepClass, ...], *, on_site: bool
) -> tuple[list[int], list[float], list[int]]:
    """Return, for each column of the classes, its position after rotation, sign and irrep."""
    place, start = {}, 0
    for (l, _), members in _by_degree(irreps).items():
        for row in range(2 * l + 1):
            for k in members:
                place[k, row] = start
                start += 1
    order, signs, owner = [], [], []
    for c in classes:
        for component in range(c.n_components):
            for k in c.irreps:
                m, sign = component - c.order, 1.0
                if not on_site:
                    m, sign = edge_row(c.order, odd=component == 1, pseudo=irreps[k].pseudo)
                order.append(place[k, irreps[k].l + m])
                signs.append(sign)
                owner.append(k)
    return order, signs, owner


def into_frame(table: BlockIrreps, h: Tensor, rotations: Sequence[Tensor]) -> Tensor:
    """Turn the irreps of pairs from the laboratory into the pairs' frames.

    Args:
        table: of a pair type.
        h: laboratory columns, ``(n, n_numbers)``.
        rotations: of every degree, ``(n, 2l+1, 2l+1)``; see `hamnet.so3.rotation`.

    Returns:
        Columns of `BlockIrreps.classes`, ``(n, n_numbers)``.
    """
    turned = [
        (rotations[l] @ h[:, columns].unflatten(1, (2 * l + 1, -1))).flatten(1)
        for l, _, columns in table.degrees()
    ]
    signs = table.column_sign.to(h)
    return torch.cat(turned, dim=1)[:, table.column_order.to(h.device)] * signs


def out_of_frame(table: BlockIrreps, y: Tensor, rotations: Sequence[Tensor]) -> Tensor:
    """Inverse of `into_frame`."""
    turned = torch.empty_like(y)
    turned[:, table.column_order.to(y.device)] = y * table.column_sign.to(y)
    h = [
        (rotations[l].mT @ turned[:, columns].unflatten(1, (2 * l + 1, -1))).flatten(1)
        for l, _, columns in table.degrees()
    ]
    return torch.cat(h, dim=1)
