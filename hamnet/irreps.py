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

With spin-orbit coupling (`hamnet.spinor`) a block is H0 and an axial vector K of matrices, whose
parts of degree k couple with that vector to degree l:

    K_c[a m1, b m2] = sum_klm C(l1, l2, k)[m1, m2, q] C(k, 1, l)[q, c, m] h[a, b, k, l, m].

An axial vector is even, so that the parity is (-1)^(l1+l2) as before. K is antisymmetric: on site,
odd k where a = b; ``h_ji[b, a, k, l] = -(-1)^(l1+l2+k) h_ij[a, b, k, l]``, so that of equal atoms
``(h[a, b] + e' h[b, a])/sqrt 2`` with ``e' = -(-1)^(k+l) e`` has the exchange e.
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
        orbital: degree k of the orbital part of K; None for H0.
    """

    a: int
    b: int
    l: int
    pseudo: bool
    exchange: int
    orbital: int | None = None

    @property
    def partner(self) -> int:
        """Sign of ``h[b, a]`` in the irrep of equal atoms, e or e'; 0 elsewhere."""
        if self.orbital is None:
            return self.exchange
        return self.exchange * spin_orbit_sign(self.orbital, self.l)


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
        matrix: orthonormal columns, ``(n_matrices * n_i * n_j, n_numbers)``: ``vec(H) = matrix @
            h`` with ``h`` in the laboratory frame, m major and irrep minor within a degree and
            parity.
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

    @property
    def n_matrices(self) -> int:
        """Number of matrices of a block: 1, or 4 with spin-orbit coupling."""
        return int(self.matrix.shape[0]) // (self.shape[0] * self.shape[1])

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


@cache
def axial_coupling(l1: int, l2: int, k: int, l: int) -> Tensor:
    """Return ``sum_q C(l1, l2, k)[m1, m2, q] C(k, 1, l)[q, c, m]``, ``(2l+1, 3, 2*l1+1, 2*l2+1)``.

    The second axis is Kx, Ky, Kz.
    """
    xyz = coupling(k, 1, l)[:, [2, 0, 1]]  # m = -1, 0, 1 are y, z, x
    return torch.einsum("abq,qcm->mcab", coupling(l1, l2, k), xyz)


def spin_orbit_sign(k: int, l: int) -> int:
    """Return ``-(-1)^(k+l)``, by which exchange of equal atoms differs for K and H0."""
    return 1 if (k + l) % 2 else -1


def block_irreps(
    basis: OrbitalBasis, block_type: BlockType, *, spinor: bool = False
) -> BlockIrreps:
    """Return the irreps of a block type, their classes and the orthogonal change of basis.

    Args:
        basis: orbitals of each element.
        block_type: the block type.
        spinor: blocks are H0, Kx, Ky and Kz.
    """
    found = [*_irreps(basis, block_type), *(_spin_orbit(basis, block_type) if spinor else ())]
    irreps = tuple(sorted(found, key=_order))
    columns = []
    for members in _by_degree(irreps).values():
        matrices = [_matrices(basis, block_type, irreps[k], spinor) for k in members]
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


def _order(p: Irrep) -> tuple[int, bool, int, int, int, int]:
    return p.l, p.pseudo, p.exchange, p.a, p.b, -1 if p.orbital is None else p.orbital


def _shell_pairs(
    basis: OrbitalBasis, block_type: BlockType
) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield shells a and b, their angular momenta, and every degree k of their product."""
    same = block_type.z_i == block_type.z_j
    for a, l1 in enumerate(basis.of(block_type.z_i)):
        for b, l2 in enumerate(basis.of(block_type.z_j)):
            if same and a > b:
                continue  # comes with (b, a)
            for k in range(abs(l1 - l2), l1 + l2 + 1):
                yield a, b, l1, l2, k


def _irreps(basis: OrbitalBasis, block_type: BlockType) -> Iterator[Irrep]:
    same = block_type.z_i == block_type.z_j
    for a, b, l1, l2, l in _shell_pairs(basis, block_type):
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


def _spin_orbit(basis: OrbitalBasis, block_type: BlockType) -> Iterator[Irrep]:
    same = block_type.z_i == block_type.z_j
    for a, b, l1, l2, k in _shell_pairs(basis, block_type):
        if block_type.on_site and a == b and k % 2 == 0:
            continue  # symmetric
        for l in range(abs(k - 1), k + 2):
            pseudo = bool((l1 + l2 + l) % 2)
            if not same or block_type.on_site:
                yield Irrep(a, b, l, pseudo, 0, k)
                continue
            sign = spin_orbit_sign(k, l)
            yield Irrep(a, b, l, pseudo, sign, k)
            if a < b:
                yield Irrep(a, b, l, pseudo, -sign, k)


def _matrices(basis: OrbitalBasis, block_type: BlockType, irrep: Irrep, spinor: bool) -> Tensor:
    """Return the block of each component m in the laboratory, ``(2l+1, n_matrices, n_i, n_j)``."""
    shells = basis.of(block_type.z_i), basis.of(block_type.z_j)
    first = [np.concatenate([[0], np.cumsum([2 * l + 1 for l in ls])]) for ls in shells]
    n_matrices = 4 if spinor else 1

    def product(a: int, b: int) -> Tensor:
        out = torch.zeros(
            2 * irrep.l + 1, n_matrices, first[0][-1], first[1][-1], dtype=torch.float64
        )
        rows, cols = slice(first[0][a], first[0][a + 1]), slice(first[1][b], first[1][b + 1])
        if irrep.orbital is None:
            out[:, 0, rows, cols] = coupling(shells[0][a], shells[1][b], irrep.l).permute(2, 0, 1)
        else:
            out[:, 1:, rows, cols] = axial_coupling(
                shells[0][a], shells[1][b], irrep.orbital, irrep.l
            )
        return out

    direct = product(irrep.a, irrep.b)
    if irrep.a == irrep.b or block_type.z_i != block_type.z_j:
        return direct
    if block_type.on_site:
        sign = 1 if irrep.orbital is None else -1
        return (direct + sign * direct.transpose(2, 3)) / math.sqrt(2)
    return (direct + irrep.partner * product(irrep.b, irrep.a)) / math.sqrt(2)


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
