"""Matrices as lists of atom-pair blocks, one representation for molecules and crystals.

A pair is ``(i, j, R)`` with an integer cell shift ``R``; its block is
``H[i, j, R] = <phi_i(r) | H | phi_j(r - R.L)>``, shape ``[n_i, n_j]``. Only canonical pairs are
kept: ``R`` lexicographically positive, or ``R = 0`` and ``i <= j``. The partner is
``H[j, i, -R] = H[i, j, R]^dagger``: a matrix built from blocks is Hermitian by construction.

With spin-orbit coupling H is four real matrices, ``H = H0 (x) 1 + i sum_a K_a (x) sigma_a``
(`hamnet.spinor`); the partner of ``K_a[i, j, R]`` is ``-K_a[i, j, R]^T``.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hamnet.errors import HamnetError
from hamnet.structure import FloatArray, IntArray


class SpinKind(IntEnum):
    """How a Hamiltonian treats spin; the value is the length of the first axis of its entries."""

    CLOSED = 1
    """One matrix for both spins."""
    COLLINEAR = 2
    """Alpha and beta."""
    SPINOR = 4
    """H0, Kx, Ky, Kz: spin-orbit coupling with time-reversal symmetry."""

    @property
    def n_channels(self) -> int:
        """Number of eigenproblems, the first axis of orbital energies."""
        return 2 if self is SpinKind.COLLINEAR else 1

    @property
    def per_orbital(self) -> int:
        """Electrons that an orbital holds."""
        return 2 if self is SpinKind.CLOSED else 1

    @property
    def n_components(self) -> int:
        """Components of an orbital for each basis function."""
        return 2 if self is SpinKind.SPINOR else 1


SPINOR_PARTNER = np.array([1.0, -1.0, -1.0, -1.0])
"""Sign of the transposed block of (i, j, R) in (j, i, -R), for H0, Kx, Ky, Kz."""


@dataclass(frozen=True, eq=False)
class PairLayout:
    """Which pairs a matrix has, and where each block lies in the flat list of entries.

    Attributes:
        atom_pairs: rows ``(R1, R2, R3, i, j)``, shape ``[P, 5]``, canonical.
        atom_offsets: first orbital of each atom and, last, their number, shape ``[N + 1]``.
    """

    atom_pairs: IntArray
    atom_offsets: IntArray

    def __post_init__(self) -> None:
        shift, i, j = self.atom_pairs[:, :3], self.atom_pairs[:, 3], self.atom_pairs[:, 4]
        if not (is_canonical(shift, i, j) if shift.any() else i <= j).all():
            bad = int(np.flatnonzero(~is_canonical(shift, i, j))[0])
            raise HamnetError(
                f"pair {bad} {self.atom_pairs[bad].tolist()} is not canonical: the cell shift must "
                "be lexicographically positive, or zero with i <= j"
            )

    @property
    def shapes(self) -> IntArray:
        """Block shapes ``[P, 2]``."""
        sizes = np.diff(self.atom_offsets)
        return np.stack([sizes[self.atom_pairs[:, 3]], sizes[self.atom_pairs[:, 4]]], axis=1)

    @property
    def sizes(self) -> IntArray:
        """Number of entries of each block, ``[P]``."""
        return np.asarray(self.shapes.prod(axis=1))

    @property
    def on_site(self) -> NDArray[np.bool_]:
        """Which pairs are an atom with itself, ``[P]``."""
        same: NDArray[np.bool_] = self.atom_pairs[:, 3] == self.atom_pairs[:, 4]
        return same & ~self.atom_pairs[:, :3].any(axis=1)

    @property
    def boundaries(self) -> IntArray:
        """First entry of each block and, last, the number of entries: ``[P + 1]``."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def n_entries(self) -> int:
        """Number of entries of all blocks."""
        return int(self.sizes.sum())

    @property
    def n_orbitals(self) -> int:
        """Number of orbitals of the structure (of its cell)."""
        return int(self.atom_offsets[-1])

    def orbital_indices(self) -> tuple[IntArray, IntArray]:
        """Return row and column of every entry in the dense matrix, each ``[n_entries]``."""
        size, boundaries = self.sizes, self.boundaries
        local = np.arange(boundaries[-1]) - np.repeat(boundaries[:-1], size)
        width = np.repeat(self.shapes[:, 1], size)
        row = np.repeat(self.atom_offsets[self.atom_pairs[:, 3]], size) + local // width
        col = np.repeat(self.atom_offsets[self.atom_pairs[:, 4]], size) + local % width
        return row.astype(np.int64), col.astype(np.int64)


def is_canonical(shift: IntArray, i: IntArray, j: IntArray) -> NDArray[np.bool_]:
    """Return which pairs ``(i, j, R)`` are canonical; shifts ``[P, 3]``, atoms ``[P]``."""
    weight = np.sign(shift) @ np.array([4, 2, 1])  # the first non-zero component decides the sign
    found: NDArray[np.bool_] = (weight > 0) | ((weight == 0) & (i <= j))
    return found


def canonical(pairs: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """Return the canonical form of pairs ``(R1, R2, R3, i, j)``, ``[P, 5]``, and which changed."""
    swapped = ~is_canonical(pairs[:, :3], pairs[:, 3], pairs[:, 4])
    partner = np.column_stack([-pairs[:, :3], pairs[:, 4], pairs[:, 3]])
    return np.where(swapped[:, None], partner, pairs).astype(np.int64), swapped


def molecule_layout(atom_offsets: IntArray) -> PairLayout:
    """Return the layout of a molecule's full matrix: every pair ``i <= j``, row by row."""
    i, j = np.triu_indices(len(atom_offsets) - 1)
    pairs = np.zeros((len(i), 5), dtype=np.int64)
    pairs[:, 3], pairs[:, 4] = i, j
    return PairLayout(pairs, np.asarray(atom_offsets, dtype=np.int64))


@dataclass(frozen=True, eq=False)
class HamiltonianBlocks:
    """A Hermitian matrix as blocks of canonical pairs.

    Attributes:
        layout: the pairs.
        entries: the blocks' numbers, row-major, one after the other, shape ``[..., n_entries]``;
            of a Hamiltonian the first axis is that of `SpinKind`.
    """

    layout: PairLayout
    entries: FloatArray

    def __post_init__(self) -> None:
        n = int(self.layout.boundaries[-1])
        if self.entries.shape[-1:] != (n,):
            raise HamnetError(
                f"the pairs have {n} entries, got an array of shape {self.entries.shape}"
            )

    @property
    def spin_kind(self) -> SpinKind:
        """How a Hamiltonian treats spin; closed shell for any other matrix."""
        return SpinKind(len(self.entries)) if self.entries.ndim == 2 else SpinKind.CLOSED

    @property
    def is_spinor(self) -> bool:
        """True for the four matrices of a Hamiltonian with spin-orbit coupling."""
        return self.entries.ndim == 2 and len(self.entries) == SpinKind.SPINOR

    @property
    def partners(self) -> FloatArray:
        """Entries of the transposed blocks, real parts of the partners, ``[..., n_entries]``."""
        return SPINOR_PARTNER[:, None] * self.entries if self.is_spinor else self.entries

    def block(self, pair: int) -> FloatArray:
        """Return the block of one pair, ``[..., n_i, n_j]``."""
        start, stop = self.layout.boundaries[pair : pair + 2]
        return self.entries[..., start:stop].reshape(
            *self.entries.shape[:-1], *self.layout.shapes[pair]
        )


def from_dense(matrix: FloatArray, layout: PairLayout) -> HamiltonianBlocks:
    """Cut a molecule's dense matrix ``[..., n, n]`` into blocks.

    Raises:
        HamnetError: the matrix has another size than the layout, or the layout has cell shifts.
    """
    n = layout.n_orbitals
    if matrix.shape[-2:] != (n, n):
        raise HamnetError(f"expected a matrix of {n} x {n} orbitals, got shape {matrix.shape}")
    if layout.atom_pairs[:, :3].any():
        raise HamnetError("a dense matrix holds no cell shifts; a crystal's blocks come from H(k)")
    row, col = layout.orbital_indices()
    return HamiltonianBlocks(layout, matrix[..., row, col])


def to_dense(blocks: HamiltonianBlocks) -> FloatArray:
    """Return a molecule's dense matrix ``[..., n, n]``; of a crystal, the matrix at Gamma.

    Of a spinor Hamiltonian the four real matrices, see `hamnet.spinor`.
    """
    layout, n = blocks.layout, blocks.layout.n_orbitals
    if layout.atom_pairs[:, :3].any():
        at_gamma: FloatArray = to_k(blocks, np.zeros(3)).real
        return at_gamma
    row, col = layout.orbital_indices()
    matrix = np.zeros((*blocks.entries.shape[:-1], n, n))
    matrix[..., col, row] = blocks.partners
    matrix[..., row, col] = blocks.entries  # last: on-site blocks are stored as a whole
    return matrix


def to_k(blocks: HamiltonianBlocks, k: FloatArray) -> NDArray[np.complex128]:
    """Return ``H(k) = sum_R exp(2 pi i k.R) H(R)`` at a fractional k point, ``[..., n, n]``.

    Of a spinor Hamiltonian the four sums: H0(k) is Hermitian, K_a(k) antihermitian.
    """
    layout = blocks.layout
    n = layout.n_orbitals
    row, col = layout.orbital_indices()
    phase = np.exp(2j * np.pi * layout.atom_pairs[:, :3] @ np.asarray(k, dtype=float))
    phases = np.repeat(phase, layout.sizes)
    values, partners = blocks.entries * phases, blocks.partners * phases.conj()  # (..., n_entries)
    on_site = np.repeat(layout.on_site, layout.sizes)
    lead = values.shape[:-1]
    matrix = np.zeros((n * n, *lead), dtype=np.complex128)
    np.add.at(matrix, row * n + col, np.moveaxis(values, -1, 0))
    np.add.at(matrix, (col * n + row)[~on_site], np.moveaxis(partners, -1, 0)[~on_site])
    return np.moveaxis(matrix, 0, -1).reshape(*lead, n, n)


def energy_zero(hamiltonian: HamiltonianBlocks, overlap: HamiltonianBlocks) -> float:
    """Return ``mu = sum(H * S) / sum(S * S)`` over the full matrices, Hartree.

    A crystal's energy has an arbitrary zero, a multiple of S; ``H - mu S`` does not depend on it.
    """
    weight = entry_weights(overlap.layout) * overlap.entries
    h = spin_free(hamiltonian)
    return float(np.mean(h @ weight) / (overlap.entries @ weight))


def spin_free(hamiltonian: HamiltonianBlocks) -> FloatArray:
    """Return the entries of H without spin-orbit coupling, one row a spin channel; a view."""
    return hamiltonian.entries[:1] if hamiltonian.is_spinor else hamiltonian.entries


def without_zero(hamiltonian: HamiltonianBlocks, overlap: HamiltonianBlocks) -> HamiltonianBlocks:
    """Return ``H - mu S`` with `energy_zero`."""
    moved = HamiltonianBlocks(overlap.layout, hamiltonian.entries.copy())
    rows = spin_free(moved)
    rows -= energy_zero(hamiltonian, overlap) * overlap.entries
    return moved


def entry_weights(layout: PairLayout) -> FloatArray:
    """Return how often each entry occurs in the full matrix: 1 on site, 2 elsewhere."""
    return np.repeat(np.where(layout.on_site, 1.0, 2.0), layout.sizes)
