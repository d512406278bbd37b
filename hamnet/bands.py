"""Bands of a crystal: from H(R) and S(R) to energies on a path or a mesh, and the Fermi level.

``H(k) = sum_R exp(2 pi i k.R) H(R)`` with fractional k, the same for S, and
``H(k) c = S(k) c e``. Energies are Hartree here; their zero is that of H.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from ase.cell import Cell
from scipy.optimize import brentq
from scipy.special import expit

from hamnet.blocks import SPINOR_PARTNER, HamiltonianBlocks, SpinKind
from hamnet.errors import HamnetError
from hamnet.spectrum import solve
from hamnet.spinor import SPINOR_BASIS
from hamnet.structure import FloatArray, Structure, complete_cell

MESH_LENGTH = 30.0
"""Angstrom; the mesh of a Fermi level has a supercell at least this thick."""

SMEARING = 1e-3
"""Hartree; default width of the occupations, as fine as such a mesh can resolve."""

_BATCH_NUMBERS = 1 << 24
"""Complex numbers in one batch of dense matrices."""

Mesh = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class BandPath:
    """A path through the Brillouin zone.

    Attributes:
        k_points: fractional, ``[n_k, 3]``.
        distances: along the path, 1/Angstrom (with 2 pi), ``[n_k]``.
        ticks: distance and name of every special point.
    """

    k_points: FloatArray
    distances: FloatArray
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class BandEdges:
    """Fermi level and gap, Hartree; of a metal the edges are None and the gap is 0.

    Attributes:
        fermi: the Fermi level; of an insulator the middle of the gap.
        gap: smallest distance of empty and full bands.
        valence: energy of the valence band maximum.
        conduction: energy of the conduction band minimum.
        valence_k, conduction_k: where they are, fractional.
    """

    fermi: float
    gap: float
    valence: float | None = None
    conduction: float | None = None
    valence_k: tuple[float, ...] = ()
    conduction_k: tuple[float, ...] = ()


def k_mesh(structure: Structure, length: float) -> Mesh:
    """Return the mesh whose supercell is at least ``length`` Angstrom thick in every direction.

    Directions that are not periodic have one point.
    """
    spacing = np.linalg.norm(np.linalg.inv(complete_cell(structure)), axis=0)  # 1 / thickness
    n = np.maximum(1, np.ceil(length * spacing - 1e-9))
    n[~structure.pbc] = 1
    return int(n[0]), int(n[1]), int(n[2])


def mesh_points(mesh: Mesh) -> FloatArray:
    """Return the fractional k points of a Gamma-centred mesh, ``[n_k, 3]``."""
    points: FloatArray = np.indices(mesh).reshape(3, -1).T / np.array(mesh)
    return points


def half_mesh(mesh: Mesh) -> tuple[FloatArray, FloatArray]:
    """Return one of k and -k, which have the same energies, and the weight of each (sum 1)."""
    n = np.array(mesh)
    k = np.round(mesh_points(mesh) * n).astype(np.int64)
    mirrored = np.ravel_multi_index(tuple((-k % n).T), mesh)
    kept, counts = np.unique(np.minimum(mirrored, np.arange(len(k))), return_counts=True)
    return k[kept] / n, counts / len(k)


def band_path(structure: Structure, path: str = "", n_points: int = 200) -> BandPath:
    """Return a path through special points of the lattice, by ASE.

    Args:
        structure: a crystal; the lattice of a perturbed cell is that of the perfect one.
        path: special points, such as ``GMKG``; a comma cuts it. ASE's standard path by default.
        n_points: number of k points.

    Raises:
        HamnetError: a molecule; unknown special point.
    """
    if not structure.is_periodic:
        raise HamnetError("a molecule has no bands: pbc is False everywhere")
    cell = Cell(structure.cell * structure.pbc[:, None])
    last: Exception | None = None
    for tolerance in (2e-4, 1e-2, 5e-2, 0.1, 0.2):
        try:
            found = cell.bandpath(path or None, npoints=n_points, pbc=structure.pbc, eps=tolerance)
        except Exception as error:  # ASE asserts and raises in every possible way
            last = error
            continue
        x, ticks, names = found.get_linear_kpoint_axis()
        labels = tuple((float(t), str(n)) for t, n in zip(ticks, names, strict=True))
        return BandPath(found.kpts, x, labels)
    raise HamnetError(
        f"no path '{path}' through the Brillouin zone of the cell {structure.cell.tolist()}: "
        f"{type(last).__name__}: {last}"
    )


def bloch_matrix(blocks: HamiltonianBlocks, k: FloatArray) -> scipy.sparse.csr_array:
    """Return ``H(k)`` of one spin channel as a sparse matrix, complex; real where 2 k is whole.

    Of a spinor Hamiltonian the complex matrix of twice the size, ``[2 n, 2 n]``.
    """
    if blocks.is_spinor:
        rows = zip(blocks.entries, SPINOR_PARTNER, SPINOR_BASIS, strict=True)
        terms = (
            scipy.sparse.kron(spin, _bloch_sum(HamiltonianBlocks(blocks.layout, x), k, sign))
            for x, sign, spin in rows
        )
        return scipy.sparse.csr_array(sum(terms))
    return _bloch_sum(blocks, k)


def bloch_problem(
    hamiltonian: HamiltonianBlocks, overlap: HamiltonianBlocks, k: FloatArray
) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array]:
    """Return H(k) of one spin channel (`channel`) and the S(k) that belongs to it."""
    h, s = bloch_matrix(hamiltonian, k), bloch_matrix(overlap, k)
    if hamiltonian.is_spinor:
        s = scipy.sparse.csr_array(scipy.sparse.kron(np.eye(2, dtype=h.dtype), s))
    return h, s


def _bloch_sum(
    blocks: HamiltonianBlocks, k: FloatArray, partner: float = 1.0
) -> scipy.sparse.csr_array:
    """Return the sum over R; the transposed blocks are the partners times a sign."""
    layout = blocks.layout
    row, col = layout.orbital_indices()
    n = layout.n_orbitals
    shift = layout.atom_pairs[:, :3]
    angle = 2 * np.pi * (shift @ np.asarray(k, dtype=float))
    real = np.allclose(2 * np.asarray(k), np.round(2 * np.asarray(k)), atol=1e-12)
    phase = np.round(np.cos(angle)) if real else np.exp(1j * angle)
    values = blocks.entries * np.repeat(phase, layout.sizes)
    off = ~np.repeat(layout.on_site, layout.sizes)
    rows, cols = np.concatenate([row, col[off]]), np.concatenate([col, row[off]])
    data = np.concatenate([values, partner * values[off].conj()])
    return scipy.sparse.csr_array(scipy.sparse.coo_array((data, (rows, cols)), shape=(n, n)))


def channel(hamiltonian: HamiltonianBlocks, spin: int) -> HamiltonianBlocks:
    """Return one spin channel of H; all of a spinor Hamiltonian, whose only one it is."""
    if hamiltonian.is_spinor:
        return hamiltonian
    return HamiltonianBlocks(hamiltonian.layout, hamiltonian.entries[spin])


def band_energies(
    hamiltonian: HamiltonianBlocks,
    overlap: HamiltonianBlocks,
    k_points: FloatArray,
    advance: Callable[[int], None] = lambda done: None,
) -> FloatArray:
    """Return the energies of all bands by dense solutions, ``[n_channels, n_k, n]``.

    Args:
        hamiltonian: entries ``[n_spin, n_entries]``.
        overlap: entries ``[n_entries]``.
        k_points: fractional, ``[n_k, 3]``.
        advance: is told how many solutions are done.

    Raises:
        HamnetError: S(k) is not positive; says where.
    """
    kind = hamiltonian.spin_kind
    n, n_spin = kind.n_components * overlap.layout.n_orbitals, kind.n_channels
    out = np.empty((n_spin, len(k_points), n))
    done = 0
    for spin in range(n_spin):
        h = channel(hamiltonian, spin)
        for start, points in _batches(k_points, max(1, _BATCH_NUMBERS // n**2)):
            h_k, s_k = (
                torch.from_numpy(np.stack([matrix.toarray() + 0j for matrix in matrices]))
                for matrices in zip(*(bloch_problem(h, overlap, k) for k in points), strict=True)
            )
            found = solve(h_k, s_k)
            if int(found.n_dropped.max()):
                worst = int(found.n_dropped.argmax())
                smallest = float(torch.linalg.eigvalsh(s_k[worst])[0])
                raise HamnetError(
                    f"S(k) is not safely positive at k = {np.round(points[worst], 4).tolist()}: "
                    f"its smallest eigenvalue is {smallest:.1e}; is the pair cutoff too short for "
                    "this basis?"
                )
            out[spin, start : start + len(points)] = found.energies.numpy()
            done += len(points)
            advance(done)
    return out


def _batches(points: FloatArray, size: int) -> Iterator[tuple[int, FloatArray]]:
    for start in range(0, len(points), size):
        yield start, points[start : start + size]


def band_edges(
    energies: FloatArray,
    k_points: FloatArray,
    weights: FloatArray,
    n_electrons: float,
    smearing: float = SMEARING,
    per_band: int | None = None,
) -> BandEdges:
    """Return Fermi level and gap from the energies on a mesh.

    Args:
        energies: ``[n_channels, n_k, n]``.
        k_points: fractional, ``[n_k, 3]``.
        weights: of the k points, sum 1, ``[n_k]``.
        n_electrons: in the cell.
        smearing: Fermi-Dirac width by which a metal's level is found, Hartree.
        per_band: electrons of a band (`hamnet.blocks.SpinKind`); two of one channel by default.

    Raises:
        HamnetError: more electrons than the bands hold.
    """
    n_spin, _, n_bands = energies.shape
    per_band = SpinKind(n_spin).per_orbital if per_band is None else per_band
    full = n_electrons / per_band  # bands, of all channels together
    if not 0 < full <= n_spin * n_bands:
        raise HamnetError(f"{n_electrons:g} electrons do not fit into {n_bands} bands")
    by_k = np.sort(energies.transpose(1, 0, 2).reshape(len(k_points), -1), axis=1)  # (n_k, all)
    n = round(full)
    if abs(full - n) < 1e-6 and n < by_k.shape[1]:
        top, bottom = by_k[:, n - 1], by_k[:, n]
        if top.max() < bottom.min():
            v, c = int(top.argmax()), int(bottom.argmin())
            return BandEdges(
                fermi=0.5 * float(top[v] + bottom[c]),
                gap=float(bottom[c] - top[v]),
                valence=float(top[v]),
                conduction=float(bottom[c]),
                valence_k=tuple(k_points[v].tolist()),
                conduction_k=tuple(k_points[c].tolist()),
            )

    def surplus(level: float) -> float:
        filled = expit((level - by_k) / smearing)
        return float(weights @ filled.sum(axis=1)) - full

    low, high = float(by_k.min()) - 40 * smearing, float(by_k.max()) + 40 * smearing
    return BandEdges(fermi=float(brentq(surplus, low, high, xtol=1e-12)), gap=0.0)


def bands_near(
    energies: FloatArray, reference: FloatArray, fermi: tuple[float, float], window: float
) -> FloatArray:
    """Return ``|e - e_ref|`` of bands near the Fermi level, both relative to their own level.

    Args:
        energies: ``[n_spin, n_k, n]``.
        reference: the same of the reference.
        fermi: Fermi level of each.
        window: bands of the reference within this distance of its Fermi level count, Hartree.
    """
    one, two = energies - fermi[0], reference - fermi[1]
    near: FloatArray = np.abs(one - two)[np.abs(two) < window]
    return near
