"""Crystals from other codes: blocks ``(R, i, j)``, their conventions proven by the overlap alone.

Numerical orbitals cannot be computed again here, but between two atoms the column ``<s|l m>`` of
the overlap is parallel to ``Y_lm`` of the bond. That holds orbital order, signs, positions, cell
and cell shifts to account at once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.special import sph_harm_y

from hamnet.basis import AO_ORDERS, OrbitalBasis, ao_order
from hamnet.blocks import SPINOR_PARTNER, HamiltonianBlocks, PairLayout, SpinKind, to_k
from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.spinor import from_spinor
from hamnet.structure import FloatArray, IntArray, Structure, symbol
from hamnet.units import MIN_DISTANCE_FRACTION
from hamnet_datasets.dense import ImportOptions
from hamnet_datasets.engine import Progress, note_failure
from hamnet_datasets.jobs import Report, finish, made_by

Block = tuple[int, int, int, int, int]
"""Cell shift and atoms from 0: ``(R1, R2, R3, i, j)``."""

MIN_COSINE = 0.999
_MIN_COLUMN = 1e-3
_FAR, _BONDED = 1.6, 0.4
"""Bonds taken for Angstrom where they are Bohr are 1.9 covalent radii long and overlap as at one:
the largest element is 0.41 (Al, gth-dzvp-molopt-sr) to 0.70 (O-H) in the bases tried."""
_LONG_ANYWAY = frozenset({1, 2, 10, 18, 36, 54, 86})
"""Rare gases overlap by up to 0.5 in diffuse bases, and stretched hydrogen too."""
_TIME_REVERSAL = 1e-5
"""Hartree; what other programs' spinful blocks may lack of time-reversal symmetry."""
_HERMITIAN = 1e-4
"""Hartree (and the same for S): the two directions of a pair may differ by the file's precision."""


@dataclass(frozen=True)
class BlockFrame:
    """One structure with the blocks of its matrices, in the orbital order of the file.

    Attributes:
        structure: geometry.
        hamiltonian: blocks in Hartree, ``[n_spin, n_i, n_j]``.
        overlap: blocks, ``[n_i, n_j]``.
        shells: angular momenta of the shells of each element.
        origin: file and frame.
        group: trajectory.
    """

    structure: Structure
    hamiltonian: Mapping[Block, FloatArray]
    overlap: Mapping[Block, FloatArray]
    shells: Mapping[int, tuple[int, ...]]
    origin: str
    group: str = ""


def real_block(values: NDArray[Any]) -> FloatArray:
    """Return a block of a file in double precision.

    Raises:
        HamnetError: it is complex.
    """
    if np.iscomplexobj(values):
        raise HamnetError("complex blocks in a file that does not say that it is spinful")
    return np.asarray(values, dtype=float)


def spin_blocks(
    blocks: Mapping[Block, NDArray[Any]], unit: float, sizes: IntArray | None = None
) -> dict[Block, FloatArray]:
    """Return the blocks of H in Hartree, ``[n_spin, n_i, n_j]``.

    Args:
        blocks: of a file, ``[n_i, n_j]``; spinful ones are ``[[uu, ud], [du, dd]]``.
        unit: of the file, in Hartree.
        sizes: orbitals of each atom, of a spinful H; None: H has no spin-orbit coupling.

    Raises:
        HamnetError: complex blocks that are not spinful; blocks that time reversal changes.
    """
    if sizes is None:
        return {key: unit * real_block(values)[None] for key, values in blocks.items()}
    found = {}
    for key, values in blocks.items():
        expected = (2 * int(sizes[key[3]]), 2 * int(sizes[key[4]]))
        if values.shape != expected:
            raise HamnetError(
                f"block {key} of H has shape {values.shape}, but spinful blocks of these shells "
                f"have {expected}"
            )
        try:
            found[key] = from_spinor(unit * np.asarray(values, np.complex128), _TIME_REVERSAL)
        except HamnetError as error:
            raise HamnetError(f"block {key}: {error}") from None
    return found


def import_blocks(
    frames: Iterable[BlockFrame | Failure],
    out: str | Path,
    level: LevelOfTheory,
    order: str,
    *,
    total: int,
    source: Path,
    options: ImportOptions,
) -> Report:
    """Convert frames with blocks into a store; resumable.

    Args:
        frames: all of them; taken one by one.
        out: the store to write.
        level: what is known of the level of theory.
        order: orbital order of the files.
        total: number of frames.
        source: file or folder.
        options: card and progress; reference Hamiltonians cannot be computed for these bases.

    Raises:
        HamnetError: the writer cannot write; no frame could be read.
    """
    card = {"name": source.stem, **options.card, **made_by(), "imported_from": source.name}
    progress = Progress(total)
    with Writer(out, level, card=card) as writer:
        for index, frame in enumerate(frames):
            if isinstance(frame, Failure):
                note_failure(frame, writer, progress)
            else:
                try:
                    record, basis = to_record(frame, level, order)
                    new = writer.append(record, basis, order=index)
                    progress.labelled += new
                    progress.known += not new
                except HamnetError as error:
                    note_failure(Failure(frame.origin, "check", str(error)), writer, progress)
            options.on_progress(progress)
        if progress.done == 0:
            raise HamnetError(f"{source} holds no frame")
        return finish(writer, progress)


def to_record(frame: BlockFrame, level: LevelOfTheory, order: str) -> tuple[Record, OrbitalBasis]:
    """Turn one frame into a record: the union of the pairs of H and S, canonical, hamnet's order.

    Raises:
        HamnetError: blocks of the wrong shape, directions that contradict each other, an overlap
            that the geometry, the order or the signs do not explain.
    """
    structure = frame.structure
    names = {
        z: f"{level.program}:{level.basis}:{'-'.join(map(str, ls))}"
        for z, ls in frame.shells.items()
    }
    basis = OrbitalBasis(level.basis, dict(sorted(frame.shells.items())), names)
    for z in structure.numbers.tolist():
        basis.of(z)
    offsets = basis.atom_offsets(structure.numbers)
    pairs = _canonical_pairs([*frame.hamiltonian, *frame.overlap], len(structure))
    layout = PairLayout(pairs, offsets)
    n_spin = len(next(iter(frame.hamiltonian.values())))
    s = _entries({k: v[None] for k, v in frame.overlap.items()}, layout, 1, "S")
    h = _entries(frame.hamiltonian, layout, n_spin, "H")
    permute = _reorder(layout, basis, structure.numbers, order)
    blocks = HamiltonianBlocks(layout, permute(s[0]))
    check_overlap(blocks, basis, structure, order)
    none = np.zeros((SpinKind(n_spin).n_channels, 0))
    record = Record(
        id=record_id(structure, level),
        structure=structure,
        layout=layout,
        hamiltonian=np.stack([permute(channel) for channel in h]),
        overlap=blocks.entries,
        references={},
        orbital_energies=none,
        occupations=none,
        group=frame.group,
        origin=frame.origin,
    )
    return record, basis


def _canonical_pairs(keys: Iterable[Block], n_atoms: int) -> IntArray:
    chosen = {_canonical(key) for key in keys} | {(0, 0, 0, k, k) for k in range(n_atoms)}
    pairs = np.array(sorted(chosen), dtype=np.int64)
    if pairs[:, 3:].min() < 0 or pairs[:, 3:].max() >= n_atoms:
        raise HamnetError(f"blocks name atom {int(pairs[:, 3:].max())}, but there are {n_atoms}")
    return pairs


def _canonical(key: Block) -> Block:
    r1, r2, r3, i, j = key
    shift = (r1, r2, r3)
    if shift < (0, 0, 0) or (shift == (0, 0, 0) and i > j):
        return (-r1, -r2, -r3, j, i)
    return key


def _partner(key: Block) -> Block:
    return (-key[0], -key[1], -key[2], key[4], key[3])


def _entries(
    blocks: Mapping[Block, FloatArray], layout: PairLayout, n_spin: int, name: str
) -> FloatArray:
    """Return flat entries ``[n_spin, n_entries]``; pairs that the file does not have are zero."""
    boundaries = layout.boundaries
    sign = SPINOR_PARTNER[:, None, None] if n_spin == SpinKind.SPINOR else 1.0
    entries = np.zeros((n_spin, int(boundaries[-1])))
    for k, (pair, shape) in enumerate(zip(layout.atom_pairs.tolist(), layout.shapes, strict=True)):
        key = (pair[0], pair[1], pair[2], pair[3], pair[4])
        mine, other = blocks.get(key), blocks.get(_partner(key))
        if other is not None:
            other = sign * np.swapaxes(other, -1, -2)
        if mine is None and other is None:
            continue
        block = other if mine is None else mine
        assert block is not None
        if block.shape != (n_spin, *shape):
            raise HamnetError(
                f"block {key} of {name} has shape {block.shape[1:]}, but the shells give "
                f"{tuple(int(x) for x in shape)}"
            )
        if mine is not None and other is not None:
            gap = float(np.abs(mine - other).max())
            if not gap <= _HERMITIAN:
                raise HamnetError(f"{name} is not Hermitian: block {key} differs by {gap:.1e}")
        start, stop = boundaries[k : k + 2]
        entries[:, start:stop] = block.reshape(n_spin, -1)
    return entries


def _reorder(
    layout: PairLayout, basis: OrbitalBasis, numbers: IntArray, order: str
) -> Callable[[FloatArray], FloatArray]:
    """Return the map from entries in the file's order to entries in hamnet's."""
    perm, sign = ao_order(basis, numbers, order)
    row, col = layout.orbital_indices()
    width = np.repeat(layout.shapes[:, 1], layout.sizes)
    first_row = np.repeat(layout.atom_offsets[layout.atom_pairs[:, 3]], layout.sizes)
    first_col = np.repeat(layout.atom_offsets[layout.atom_pairs[:, 4]], layout.sizes)
    start = np.repeat(layout.boundaries[:-1], layout.sizes)
    source = start + (perm[row] - first_row) * width + (perm[col] - first_col)
    weight = sign[row] * sign[col]
    return lambda entries: weight * entries[source]


def check_overlap(
    blocks: HamiltonianBlocks, basis: OrbitalBasis, structure: Structure, order: str
) -> None:
    """Check that the overlap belongs to this geometry and orbital order.

    Raises:
        HamnetError: it is not positive, or its columns do not point along the bonds.
    """
    smallest = float(np.linalg.eigvalsh(to_k(blocks, np.array([0.1, 0.2, 0.3])))[0])
    if smallest <= 0:
        raise HamnetError(f"the overlap is not positive: smallest eigenvalue {smallest:.1e}")
    worst, where = _worst_cosine(blocks, basis, structure)
    if worst < MIN_COSINE:
        others = [name for name in AO_ORDERS if name != order]
        raise HamnetError(
            f"the overlap does not fit the geometry in the orbital order '{order}': |cos| = "
            f"{worst:.3f} between <s|l m> and the bond {where}; try --order "
            f"{', '.join(others)}, or check the positions, cell and cell shifts"
        )
    _check_lengths(blocks, structure)


def _check_lengths(blocks: HamiltonianBlocks, structure: Structure) -> None:
    """Check the unit of length, to which the directions of bonds are blind.

    Raises:
        HamnetError: atoms nearly coincide, or atoms far apart overlap like bonded ones.
    """
    pairs = blocks.layout.atom_pairs
    i, j = pairs[:, 3], pairs[:, 4]
    bond = structure.positions[j] + pairs[:, :3] @ structure.cell - structure.positions[i]
    radius = covalent_radii[structure.numbers]
    ratio = np.linalg.norm(bond, axis=1) / (radius[i] + radius[j])
    ratio[(i == j) & ~pairs[:, :3].any(axis=1)] = np.inf  # on-site
    nearest = int(np.argmin(ratio))
    if not np.isfinite(ratio[nearest]):
        return
    largest = float(np.abs(blocks.block(nearest)).max())
    bonds = not {int(structure.numbers[k[nearest]]) for k in (i, j)} <= _LONG_ANYWAY
    far = bonds and ratio[nearest] > _FAR and largest > _BONDED
    if ratio[nearest] < MIN_DISTANCE_FRACTION or far:
        a, b = (f"{symbol(int(structure.numbers[k[nearest]]))} {k[nearest]}" for k in (i, j))
        raise HamnetError(
            f"{a} and {b}, the nearest neighbours, are {np.linalg.norm(bond[nearest]):.3f} A apart,"
            f" {ratio[nearest]:.2f} of their covalent radii, with an overlap of {largest:.2f}: are "
            "the lengths in another unit?"
        )


def _worst_cosine(
    blocks: HamiltonianBlocks, basis: OrbitalBasis, structure: Structure
) -> tuple[float, str]:
    """Return the smallest ``|cos|`` between ``<s|l m>`` and ``Y_lm`` of the bond, and its pair."""
    pairs, starts = blocks.layout.atom_pairs, blocks.layout.boundaries
    i, j = pairs[:, 3], pairs[:, 4]
    bond = structure.positions[j] + pairs[:, :3] @ structure.cell - structure.positions[i]
    apart = np.linalg.norm(bond, axis=1) > 1e-6
    harmonics = [real_harmonics(l, bond[apart]) for l in range(basis.l_max + 1)]  # (P', 2l+1)
    place = np.cumsum(apart) - 1  # of each pair among those
    kinds = np.stack([structure.numbers[i], structure.numbers[j]], axis=1)
    worst, found = 1.0, -1
    for one, two in np.unique(kinds, axis=0).tolist():
        members = np.flatnonzero(apart & (kinds == (one, two)).all(axis=1))
        if len(members) == 0:
            continue
        n, m = basis.n_orbitals(one), basis.n_orbitals(two)
        entries = blocks.entries[starts[members][:, None] + np.arange(n * m)]
        matrices = entries.reshape(-1, n, m)
        for rows, columns, block in (
            (basis.of(one), basis.of(two), matrices),
            (basis.of(two), basis.of(one), matrices.swapaxes(1, 2)),
        ):
            cosine = _cosines(block, rows, columns, [y[place[members]] for y in harmonics])
            k = int(np.argmin(cosine))
            if cosine[k] < worst:
                worst, found = float(cosine[k]), int(members[k])
    if found < 0:
        return worst, ""
    a, b = (f"{symbol(int(structure.numbers[k[found]]))} {k[found]}" for k in (i, j))
    return worst, f"{a} - {b}, cell {pairs[found, :3].tolist()}"


def _cosines(
    matrices: FloatArray,
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    harmonics: list[FloatArray],
) -> FloatArray:
    """Return the smallest ``|cos|`` of each block ``[P, n, m]``; 1 where nothing overlaps."""
    smallest = np.ones(len(matrices))
    start = 0
    for l in columns:
        part = matrices[:, _s_rows(rows), start : start + 2 * l + 1]  # (P, s shells, 2l+1)
        start += 2 * l + 1
        if l == 0 or part.shape[1] == 0:
            continue
        size = np.linalg.norm(part, axis=2)
        y = harmonics[l] / np.linalg.norm(harmonics[l], axis=1, keepdims=True)
        along = np.abs(np.einsum("psm,pm->ps", part, y))
        cosine = np.where(size < _MIN_COLUMN, 1.0, along / np.maximum(size, _MIN_COLUMN))
        smallest = np.minimum(smallest, cosine.min(axis=1))
    return smallest


def _s_rows(shells: tuple[int, ...]) -> list[int]:
    starts = np.cumsum([0, *(2 * l + 1 for l in shells)])
    return [int(start) for start, l in zip(starts, shells, strict=False) if l == 0]


def real_harmonics(l: int, directions: FloatArray) -> FloatArray:
    """Return ``Y_lm`` of directions ``[..., 3]``, m = -l..l, without Condon-Shortley sign."""
    x, y, z = np.moveaxis(directions / np.linalg.norm(directions, axis=-1, keepdims=True), -1, 0)
    theta, phi = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    values = np.empty((*x.shape, 2 * l + 1))
    for m in range(l + 1):
        complex_one = (-1) ** m * sph_harm_y(l, m, theta, phi)
        values[..., l + m] = complex_one.real * (np.sqrt(2) if m else 1)
        values[..., l - m] = complex_one.imag * np.sqrt(2) if m else complex_one.real
    return values
