"""Labels of crystals: Kohn-Sham with k points by PySCF, and H(R), S(R) in real space.

PySCF gives H(k) on a Gamma-centred mesh. The inverse Fourier sum knows H(R) only up to vectors of
the mesh's supercell; each pair of atoms takes the nearest of the equivalent R, and shares its block
among those that are equally near (Wigner-Seitz). The error of S(k) rebuilt between the points of
the mesh tells, before any SCF, whether the mesh is large enough: that of the bands follows it.
"""

import itertools
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf.pbc import dft, gto, tools
from pyscf.pbc.dft.multigrid.multigrid import _get_j_pass2
from pyscf.pbc.gto.pseudo import pp_int

from hamnet.bands import Mesh, k_mesh, mesh_points
from hamnet.basis import OrbitalBasis, ao_order
from hamnet.blocks import HamiltonianBlocks, PairLayout, canonical, energy_zero, to_k
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.errors import HamnetError
from hamnet.lattice import crystal_basis, gth_names, pair_overlaps, to_cell
from hamnet.structure import (
    FloatArray,
    IntArray,
    Structure,
    check_cell,
    check_contacts,
    complete_cell,
    half_list,
)
from hamnet_datasets.plane_waves import GridOrbitals
from hamnet_datasets.scf import ScfError

MAX_OFF_MESH_ERROR = 1e-6
"""Of S(k) between the points of the mesh."""

SUPPORT = 1e-8
"""Pairs whose blocks of H - mu S and S are smaller everywhere are not stored."""

MIN_GAP = 1e-4
"""Hartree; without smearing a smaller gap on the mesh makes occupations a matter of chance."""

_REACH = 14.0
"""Angstrom; no two orbitals of the bases for crystals overlap by 1e-8 farther away."""

_TIE = 1e-4
"""Angstrom; images this close to the nearest one are equally near."""

_MAX_MESH = 40


@dataclass(frozen=True, eq=False)
class BlochMatrices:
    """A converged calculation on a mesh, in hamnet's orbital order.

    Attributes:
        k_points: fractional, ``[n_k, 3]``.
        hamiltonian: Hartree, ``[n_spin, n_k, n, n]``.
        overlap: ``[n_k, n, n]``.
        energy: of the cell, Hartree.
        cycles: of the SCF.
    """

    k_points: FloatArray
    hamiltonian: NDArray[np.complex128]
    overlap: NDArray[np.complex128]
    energy: float
    cycles: int


def wrap(structure: Structure) -> tuple[Structure, IntArray]:
    """Return the structure with all atoms inside the cell, and the shift of each atom ``[N, 3]``.

    ``wrapped = position + shift @ cell``.
    """
    fractional = structure.positions @ np.linalg.inv(complete_cell(structure))
    shift = -np.floor(fractional + 1e-9).astype(np.int64) * structure.pbc
    positions = structure.positions + shift @ structure.cell
    inside = Structure(
        structure.numbers, positions, structure.cell, structure.pbc, spin=structure.spin
    )
    return inside, shift


def nearest_images(structure: Structure, mesh: Mesh) -> tuple[IntArray, FloatArray]:
    """Return for every pair of atoms and residue of R modulo the mesh the nearest R, with weights.

    Returns:
        Directed pairs ``(R1, R2, R3, i, j)``, ``[P, 5]``, and the share of each, ``[P]``.
    """
    n = np.array(mesh)
    cell = complete_cell(structure)
    fractional = structure.positions @ np.linalg.inv(cell)
    residues = np.array(list(itertools.product(*map(range, mesh))))  # (n_r, 3)
    steps = [
        (-2, -1, 0, 1, 2) if k > 1 or p else (0,) for k, p in zip(mesh, structure.pbc, strict=True)
    ]
    around = np.array(list(itertools.product(*steps))) * n  # (n_m, 3)
    rows, weights = [], []
    for i, j in itertools.product(range(len(structure)), repeat=2):
        apart = fractional[j] - fractional[i]
        centred = residues - n * np.round((residues + apart) / n).astype(np.int64) * structure.pbc
        images = centred[:, None] + around  # (n_r, n_m, 3)
        distance = np.linalg.norm((images + apart) @ cell, axis=2)
        near = distance < distance.min(axis=1, keepdims=True) + _TIE
        share = np.broadcast_to(1 / near.sum(axis=1, keepdims=True), near.shape)
        found = images[near]
        rows.append(np.column_stack([found, np.full(len(found), i), np.full(len(found), j)]))
        weights.append(share[near])
    return np.concatenate(rows).astype(np.int64), np.concatenate(weights)


def to_real_space(
    matrices: NDArray[np.complex128], structure: Structure, mesh: Mesh, basis: OrbitalBasis
) -> HamiltonianBlocks:
    """Return blocks ``[..., n_entries]`` of matrices on the mesh ``[..., n_k, n, n]``.

    Args:
        matrices: at `mesh_points`, of the wrapped structure (`wrap`).
        structure: the atoms as they are, wrapped or not.
        mesh: of the k points.
        basis: orbitals of each element.

    Raises:
        HamnetError: blocks are not real: H breaks time reversal.
    """
    inside, shift = wrap(structure)
    pairs, weights = nearest_images(inside, mesh)
    residue = np.ravel_multi_index(tuple((pairs[:, :3] % mesh).T), mesh)
    i, j = pairs[:, 3], pairs[:, 4]
    pairs = pairs.copy()
    pairs[:, :3] += shift[j] - shift[i]
    chosen = np.flatnonzero(~canonical(pairs)[1])
    chosen = chosen[np.lexsort(pairs[chosen].T[::-1])]
    layout = PairLayout(pairs[chosen], basis.atom_offsets(structure.numbers))
    k, r = mesh_points(mesh), np.array(list(itertools.product(*map(range, mesh))))
    phase = np.exp(-2j * np.pi * r @ k.T) / len(k)  # (n_r, n_k)
    periodic = np.einsum("rk,...kab->...rab", phase, matrices, optimize=True)
    if np.abs(periodic.imag).max() > 1e-5:
        raise HamnetError(
            f"H(R) is not real (imaginary part {np.abs(periodic.imag).max():.1e}): the calculation "
            "breaks time reversal"
        )
    size = layout.sizes
    row, col = layout.orbital_indices()
    at = np.repeat(residue[chosen], size)
    return HamiltonianBlocks(
        layout, np.repeat(weights[chosen], size) * periodic.real[..., at, row, col]
    )


def exact_overlap(structure: Structure, basis: OrbitalBasis, pseudo: str) -> HamiltonianBlocks:
    """Return the overlap of all pairs within the reach of any basis for crystals."""
    i, j, shift = half_list(structure, _REACH)
    pairs, _ = canonical(np.column_stack([shift, i, j]))
    n = len(structure)
    on_site = np.column_stack([np.zeros((n, 3)), np.arange(n), np.arange(n)]).astype(np.int64)
    layout = PairLayout(np.vstack([on_site, pairs]), basis.atom_offsets(structure.numbers))
    return pair_overlaps(structure, basis, layout, pseudo)


def off_mesh_error(
    exact: HamiltonianBlocks, structure: Structure, mesh: Mesh, basis: OrbitalBasis
) -> float:
    """Return the largest error of S(k) rebuilt half-way between the points of a mesh."""
    inside, shift = wrap(structure)
    pairs = exact.layout.atom_pairs.copy()
    pairs[:, :3] -= shift[pairs[:, 4]] - shift[pairs[:, 3]]
    wrapped = _same_blocks(exact, pairs)
    on_mesh = np.stack([to_k(wrapped, k) for k in mesh_points(mesh)])
    rebuilt = to_real_space(on_mesh, inside, mesh, basis)
    half = 0.5 / np.array(mesh) * structure.pbc
    probes = [half, half * np.array([1, 0, 1]) + 0.2 * structure.pbc, 0.37 * structure.pbc]
    return max(float(np.abs(to_k(rebuilt, k) - to_k(wrapped, k)).max()) for k in probes)


def _same_blocks(blocks: HamiltonianBlocks, pairs: IntArray) -> HamiltonianBlocks:
    """Return blocks with other cell shifts, transposed where a pair is no longer canonical."""
    new, flip = canonical(pairs)
    parts = [
        blocks.block(k).T.ravel() if flip[k] else blocks.block(k).ravel() for k in range(len(new))
    ]
    return HamiltonianBlocks(PairLayout(new, blocks.layout.atom_offsets), np.concatenate(parts))


def check_mesh(
    structure: Structure, level: LevelOfTheory, basis: OrbitalBasis
) -> tuple[Mesh, float]:
    """Return the mesh of a structure and the error of S(k) between its points.

    Raises:
        HamnetError: the error is too large; names the mesh that would do.
    """
    exact = exact_overlap(structure, basis, level.pseudo)
    mesh = k_mesh(structure, level.k_length)
    error = off_mesh_error(exact, structure, mesh, basis)
    if error <= MAX_OFF_MESH_ERROR:
        return mesh, error
    length = level.k_length
    larger, found = mesh, error
    while found > MAX_OFF_MESH_ERROR and max(larger) < _MAX_MESH:
        length += 0.5
        if k_mesh(structure, length) != larger:
            larger = k_mesh(structure, length)
            found = off_mesh_error(exact, structure, larger, basis)
    raise HamnetError(
        f"the {' x '.join(map(str, mesh))} mesh is too small: S(k) rebuilt between its points is "
        f"wrong by {error:.1e}, more than {MAX_OFF_MESH_ERROR:.0e}; {' x '.join(map(str, larger))} "
        f"would do (k_length = {length:g} Angstrom)"
    )


def converge_crystal(
    structure: Structure, level: LevelOfTheory, mesh: Mesh, basis: OrbitalBasis
) -> BlochMatrices:
    """Converge the density of a wrapped structure on a mesh.

    Restricted Kohn-Sham if its spin is 0, unrestricted otherwise.

    Raises:
        ScfError: no convergence, or no gap on the mesh and no smearing.
        HamnetError: see `hamnet.lattice.to_cell`.
    """
    cell = to_cell(structure, level)
    k = mesh_points(mesh)
    fock: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mf = mean_field(cell, cell.get_abs_kpts(k), structure.spin, level)
        mf.post_kernel = lambda env: fock.append(env["fock"])
        try:
            mf.kernel()
        except Exception as error:  # anything PySCF or LAPACK may raise on a sick density
            raise ScfError(f"PySCF gave up: {type(error).__name__}: {error}") from error
        finally:
            mf._numint.reset()  # mf refers to itself and would keep gigabytes until collected
        if not mf.converged:
            raise ScfError(f"not converged in {level.max_cycle} cycles; not stored")
        _check_gap(mf, level)
    perm, sign = ao_order(basis, structure.numbers, "pyscf")

    def ordered(matrix: Any) -> NDArray[np.complex128]:
        array = np.asarray(matrix, dtype=np.complex128)
        return array[..., perm[:, None], perm] * np.outer(sign, sign)

    n, n_k = cell.nao, len(k)
    return BlochMatrices(
        k,
        ordered(fock[-1]).reshape(-1, n_k, n, n),
        ordered(mf.get_ovlp()).reshape(n_k, n, n),
        float(mf.e_tot),
        int(mf.cycles),
    )


def mean_field(cell: gto.Cell, k_points: FloatArray, spin: int, level: LevelOfTheory) -> Any:
    """Return PySCF's mean field of a level of theory at absolute k points, not yet converged."""
    mf = (dft.KUKS if spin else dft.KRKS)(cell, k_points)
    mf.xc = level.xc
    mf = mf.multigrid_numint()
    kept = GridOrbitals(cell, k_points)
    if kept.fits(level.xc):
        mf._numint = kept
    if spin:
        n = cell.nelectron
        mf.nelec = tuple(len(k_points) * (n + s) // 2 for s in (spin, -spin))
    if level.smearing:
        mf = mf.smearing(sigma=level.smearing, method="fermi")
    at_mesh = core_hamiltonian(mf, cell, k_points)

    def core(_cell: Any = None, kpts: FloatArray | None = None) -> NDArray[np.complex128]:
        return at_mesh if kpts is None else core_hamiltonian(mf, cell, kpts)

    mf.get_hcore = core
    mf.conv_tol, mf.conv_tol_grad = level.conv_tol, level.conv_tol_grad
    mf.max_cycle = level.max_cycle
    mf.chkfile = None
    return mf


def core_hamiltonian(mf: Any, cell: gto.Cell, k_points: FloatArray) -> NDArray[np.complex128]:
    """Return kinetic energy and pseudopotential at every k, ``[n_k, n, n]``.

    PySCF's multigrid integrates the non-local part over plane waves, k by k, which costs more than
    all cycles of the SCF; its analytic integrals give the same in milliseconds.
    """
    vectors = cell.get_Gv(mf._numint.mesh)
    local = -np.einsum("ag,ag->g", cell.get_SI(vectors), pp_int.get_gth_vlocG_part1(cell, vectors))
    if isinstance(mf._numint, GridOrbitals):
        on_grid = tools.ifft(local, mf._numint.mesh).real * np.prod(mf._numint.mesh) / cell.vol
        on_mesh = mf._numint.matrices(on_grid, k_points)
    else:
        on_mesh = _get_j_pass2(mf._numint, local, 1, k_points)[0]
    parts = (
        cell.pbc_intor("int1e_kin", hermi=1, kpts=k_points),
        on_mesh,
        pp_int.get_pp_loc_part2(cell, k_points),
        pp_int.get_pp_nl(cell, k_points),
    )
    total: NDArray[np.complex128] = sum(np.asarray(p, dtype=np.complex128) for p in parts)  # type: ignore[assignment]
    return total


def _check_gap(mf: Any, level: LevelOfTheory) -> None:
    """Check that the mesh does not cut through a degenerate level.

    Raises:
        ScfError: no gap and no smearing.
    """
    if level.smearing:
        return
    energies, occupied = np.ravel(mf.mo_energy), np.ravel(mf.mo_occ) > 0
    gap = energies[~occupied].min(initial=np.inf) - energies[occupied].max(initial=-np.inf)
    if gap < MIN_GAP:
        raise ScfError(
            f"the gap on the mesh is {gap:.1e} Hartree, so that the occupation of its Fermi level "
            "is a matter of chance: set smearing (0.005 Hartree), or another k_length"
        )


def crystal_record(
    structure: Structure, level: LevelOfTheory, *, origin: str = "", group: str = ""
) -> tuple[Record, OrbitalBasis]:
    """Label one crystal.

    Stored is ``H - mu S`` with ``mu = sum(H * S) / sum(S * S)``, because the zero of a crystal's
    energy is arbitrary; mu is `Record.energy_zero`.

    Raises:
        ScfError: see `converge_crystal`.
        HamnetError: a structure, mesh, basis or pseudopotential that cannot be used.
    """
    start = time.perf_counter()
    check_cell(structure)
    check_contacts(structure)
    basis = crystal_basis(structure.numbers.tolist(), level.basis, level.pseudo)
    to_cell(structure, level)
    mesh, _ = check_mesh(structure, level, basis)
    run = converge_crystal(wrap(structure)[0], level, mesh, basis)
    s = to_real_space(run.overlap, structure, mesh, basis)
    h = to_real_space(run.hamiltonian, structure, mesh, basis)
    mu = energy_zero(h, s)
    h, s = _supported(HamiltonianBlocks(h.layout, h.entries - mu * s.entries), s)
    none = np.zeros((len(h.entries), 0))
    record = Record(
        id=record_id(structure, level),
        structure=structure,
        layout=h.layout,
        hamiltonian=h.entries,
        overlap=s.entries,
        references={},
        orbital_energies=none,
        occupations=none,
        group=group,
        origin=origin,
        energy=run.energy,
        energy_zero=mu,
        scf_cycles=run.cycles,
        scf_rung=1,
        seconds=time.perf_counter() - start,
    )
    return record, basis


def _supported(
    h: HamiltonianBlocks, s: HamiltonianBlocks
) -> tuple[HamiltonianBlocks, HamiltonianBlocks]:
    """Drop the pairs whose blocks vanish in both matrices."""
    layout = h.layout
    size = layout.sizes
    starts = layout.boundaries[:-1]
    largest = np.maximum(np.abs(h.entries).max(axis=0), np.abs(s.entries))
    keep = np.maximum.reduceat(largest, starts) > SUPPORT
    smaller = PairLayout(layout.atom_pairs[keep], layout.atom_offsets)
    entries = np.repeat(keep, size)
    return (
        HamiltonianBlocks(smaller, h.entries[:, entries]),
        HamiltonianBlocks(smaller, s.entries[entries]),
    )


def resolve_crystal(level: LevelOfTheory) -> dict[str, str]:
    """Return the usual spelling of basis and pseudopotential, as updates of the level."""
    basis, pseudo = gth_names(level.basis, level.pseudo)
    return {"basis": basis, "pseudo": pseudo}
