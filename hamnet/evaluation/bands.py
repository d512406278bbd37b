"""The band structure of one crystal: path, Fermi level, gap, density of states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from hamnet.bands import (
    MESH_LENGTH,
    BandEdges,
    BandPath,
    band_edges,
    band_energies,
    band_path,
    bands_near,
    bloch_problem,
    channel,
    half_mesh,
    k_mesh,
)
from hamnet.blocks import HamiltonianBlocks
from hamnet.errors import HamnetError
from hamnet.memory import check_memory
from hamnet.properties import density_of_states
from hamnet.registry import look_up
from hamnet.sparse import Shifted, find_level
from hamnet.structure import FloatArray, Structure
from hamnet.units import HARTREE_TO_EV

DENSE_ORBITALS = 2500
"""``auto`` takes the sparse solver beyond, where only some bands are wanted."""

DOS_WIDTH_EV = 0.1
DOS_POINTS = 400
_DENSE_MATRICES = 7
"""Complex matrices that a dense solution holds at once."""

Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class CrystalMatrices:
    """What bands are made of.

    Attributes:
        structure: the crystal.
        hamiltonian: entries ``[n_spin, n_entries]``, Hartree.
        overlap: entries ``[n_entries]``.
        n_electrons: in the cell; None where unknown.
        origin: what they are, for the file: a model and a cell, or a label.
    """

    structure: Structure
    hamiltonian: HamiltonianBlocks
    overlap: HamiltonianBlocks
    n_electrons: int | None
    origin: str


@dataclass(frozen=True, eq=False)
class BandStructure:
    """Bands along a path; energies in eV, their zero that of H.

    Attributes:
        formula, origin: what it is of.
        path: k points.
        energies_ev: ``[n_channels, n_k, n_bands]``.
        first_band: number of bands that are left out below.
        n_electrons: in the cell; None where unknown.
        edges: Fermi level and gap, Hartree; None where the number of electrons is unknown.
        mesh: k mesh on which they were found; the gap also on the path.
        dos_energies_ev, dos_per_ev: density of states of both spins, ``[n]``; empty if not made.
    """

    formula: str
    origin: str
    path: BandPath
    energies_ev: FloatArray
    first_band: int
    n_electrons: int | None
    edges: BandEdges | None
    mesh: tuple[int, int, int]
    dos_energies_ev: FloatArray
    dos_per_ev: FloatArray

    @property
    def fermi_ev(self) -> float:
        """The Fermi level, eV; NaN where unknown."""
        return float("nan") if self.edges is None else HARTREE_TO_EV * self.edges.fermi

    def summary(self) -> dict[str, Any]:
        """Return Fermi level, gap and edges, JSON-ready."""
        e = self.edges
        found: dict[str, Any] = {
            "formula": self.formula,
            "origin": self.origin,
            "n_electrons": self.n_electrons,
            "k_mesh": list(self.mesh),
            "fermi_ev": None if e is None else self.fermi_ev,
            "gap_ev": None if e is None else HARTREE_TO_EV * e.gap,
        }
        if e is not None and e.valence is not None and e.conduction is not None:
            found |= {
                "valence_band_maximum_ev": HARTREE_TO_EV * e.valence,
                "valence_band_maximum_k": list(e.valence_k),
                "conduction_band_minimum_ev": HARTREE_TO_EV * e.conduction,
                "conduction_band_minimum_k": list(e.conduction_k),
            }
        return found


def band_structure(
    crystal: CrystalMatrices,
    *,
    path: str = "",
    n_points: int = 200,
    near_fermi: int | None = None,
    solver: str = "auto",
    n_electrons: int | None = None,
    smearing_ev: float = 0.03,
    mesh_length: float = MESH_LENGTH,
    advance: Advance = lambda done: None,
) -> BandStructure:
    """Return the bands of a crystal.

    Args:
        crystal: its matrices.
        path: special points; the lattice's own by default.
        n_points: k points on the path.
        near_fermi: number of bands to keep around the Fermi level; None for all.
        solver: ``dense``, ``sparse`` or ``auto``.
        n_electrons: in the cell, where the matrices do not say.
        smearing_ev: width of a metal's occupations.
        mesh_length: thickness of the supercell of the k mesh of the Fermi level, Angstrom.
        advance: is told the number of solutions done.

    Raises:
        HamnetError: see `band_path`, `band_energies` and `Shifted`; unknown solver; bands near the
            Fermi level without a number of electrons; a solution that does not fit into memory.
    """
    electrons = n_electrons or crystal.n_electrons
    along = band_path(crystal.structure, path, n_points)
    mesh = k_mesh(crystal.structure, mesh_length)
    points, weights = half_mesh(mesh)
    look_up("solver", solver, dict.fromkeys(("auto", "dense", "sparse")))
    kind = crystal.hamiltonian.spin_kind
    n = kind.n_components * crystal.overlap.layout.n_orbitals
    sparse = solver == "sparse" or (solver == "auto" and bool(near_fermi) and n > DENSE_ORBITALS)
    if (sparse or near_fermi) and electrons is None:
        raise HamnetError(
            "bands near the Fermi level need the number of electrons in the cell, which these "
            "labels do not say: --electrons"
        )
    every = np.concatenate([along.k_points, points])
    if sparse:
        assert electrons is not None
        energies, first = _sparse(crystal, every, electrons, near_fermi or 20, advance)
    else:
        check_memory(16.0 * _DENSE_MATRICES * n**2, f"a dense solution of {n} orbitals")
        energies, first = band_energies(crystal.hamiltonian, crystal.overlap, every, advance), 0
    on_path, on_mesh = np.split(energies, [len(along.k_points)], axis=1)
    edges = None
    if electrons is not None:
        inner = electrons - first * kind.per_orbital * kind.n_channels
        # a point of the path counts for the gap, and holds no electrons
        weight = np.concatenate([np.zeros(len(along.k_points)), weights])
        width = smearing_ev / HARTREE_TO_EV
        edges = band_edges(energies, every, weight, inner, width, kind.per_orbital)
    if near_fermi and not sparse:
        assert electrons is not None
        middle = electrons * kind.n_components // 2
        first = min(max(0, middle - near_fermi // 2), max(0, n - near_fermi))
        on_path = on_path[:, :, first : first + near_fermi]
    grid, dos = _dos(on_mesh, weights, edges, kind.per_orbital)
    return BandStructure(
        formula=crystal.structure.formula,
        origin=crystal.origin,
        path=along,
        energies_ev=HARTREE_TO_EV * on_path,
        first_band=first,
        n_electrons=electrons,
        edges=edges,
        mesh=mesh,
        dos_energies_ev=HARTREE_TO_EV * grid,
        dos_per_ev=dos / HARTREE_TO_EV,
    )


def _dos(
    energies: FloatArray, weights: FloatArray, edges: BandEdges | None, per_orbital: int
) -> tuple[FloatArray, FloatArray]:
    """Return a grid of energies and the states per Hartree there."""
    width = DOS_WIDTH_EV / HARTREE_TO_EV
    centre = float(np.median(energies)) if edges is None else edges.fermi
    low = max(float(energies.min()) - 3 * width, centre - 15 / HARTREE_TO_EV)
    high = min(float(energies.max()) + 3 * width, centre + 15 / HARTREE_TO_EV)
    grid = np.linspace(low, high, DOS_POINTS)
    at_k = [
        density_of_states(levels, grid, width, per_orbital) for levels in energies.swapaxes(0, 1)
    ]
    return grid, weights @ np.array(at_k)


def _sparse(
    crystal: CrystalMatrices, points: FloatArray, electrons: int, n_states: int, advance: Advance
) -> tuple[FloatArray, int]:
    """Return bands around the Fermi level, ``[n_channels, n_k, n]``, and how many lie below."""
    kind = crystal.hamiltonian.spin_kind
    n_spin, n = kind.n_channels, kind.n_components * crystal.overlap.layout.n_orbitals
    filled = electrons * kind.n_components / 2  # bands of a channel
    first = min(max(0, int(filled) - n_states // 2), max(0, n - n_states))
    last = min(first + n_states, n - 1)
    rows = []
    for spin in range(n_spin):
        h = channel(crystal.hamiltonian, spin)
        at_gamma = bloch_problem(h, crystal.overlap, np.zeros(3))
        sigma = find_level(*at_gamma, filled, max(1.0, n_states / 8))
        for k in points:
            matrices = bloch_problem(h, crystal.overlap, k)
            found, sigma = _numbered(matrices, sigma, first, last)
            rows.append(found)
            advance(len(rows))
    return np.array(rows).reshape(n_spin, len(points), last - first), first


def _numbered(
    matrices: tuple[csr_array, csr_array], sigma: float, first: int, last: int
) -> tuple[FloatArray, float]:
    """Return the bands with given numbers, and an energy amid them for the next k point.

    The states nearest to sigma may be others at first: then sigma moves into the middle.

    Raises:
        HamnetError: see `Shifted`; sigma is far from all of them.
    """
    wanted, size = last - first + 4, matrices[0].shape[0]
    while wanted < size - 1:
        found = Shifted(*matrices, sigma).states(wanted)
        inner = slice(max(0, first - found.first), max(0, last - found.first))
        if len(found.energies[inner]):
            sigma = _amid(found.energies[inner])
        if found.first <= first and last <= found.first + len(found.energies):
            return found.energies[inner], sigma
        wanted += wanted // 4
    raise HamnetError(
        f"bands {first} to {last} are not near the Fermi level at every k point: take the dense "
        "solver, or more bands (--near-fermi)"
    )


def _amid(energies: FloatArray) -> float:
    """Return an energy in the widest gap of the inner half of some states."""
    n = len(energies)
    some = energies[n // 4 : max(n - n // 4, n // 4 + 2)]
    if len(some) < 2:
        return float(energies[0]) - 1e-4
    k = int(np.argmax(np.diff(some)))
    return 0.5 * float(some[k] + some[k + 1])


def compare_bands(
    one: BandStructure, reference: BandStructure, window_ev: float
) -> dict[str, float]:
    """Return the errors of bands near the Fermi level, each relative to its own, meV.

    Raises:
        HamnetError: other k points; a Fermi level is unknown; no band in the window.
    """
    if one.path.k_points.shape != reference.path.k_points.shape or not np.allclose(
        one.path.k_points, reference.path.k_points, atol=1e-6
    ):
        raise HamnetError("the reference has bands at other k points: give it the same --path")
    if one.edges is None or reference.edges is None:
        raise HamnetError("bands cannot be compared without Fermi levels: --electrons")
    first = max(one.first_band, reference.first_band)
    last = min(b.first_band + b.energies_ev.shape[2] for b in (one, reference))
    mine, other = (
        b.energies_ev[:, :, first - b.first_band : last - b.first_band] for b in (one, reference)
    )
    errors = 1e3 * bands_near(mine, other, (one.fermi_ev, reference.fermi_ev), window_ev)
    if not errors.size:
        raise HamnetError(f"the reference has no band within {window_ev:g} eV of its Fermi level")
    return {
        "window_ev": window_ev,
        "bands_mae_mev": float(errors.mean()),
        "bands_max_mev": float(errors.max()),
        "gap_error_mev": 1e3 * HARTREE_TO_EV * abs(one.edges.gap - reference.edges.gap),
    }
