"""What a model answers for one structure: the matrix, and the orbitals that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamnet import properties
from hamnet.basis import OrbitalBasis, from_hamnet_order
from hamnet.blocks import HamiltonianBlocks, PairLayout, SpinKind, to_dense
from hamnet.errors import HamnetError
from hamnet.integrals import KohnShamLevel, energy_of_density, nuclear_charges
from hamnet.interop.cube import MARGIN, SPACING, save_cube
from hamnet.interop.molden import save_molden
from hamnet.interop.npz import save_npz
from hamnet.registry import look_up
from hamnet.spinor import refuse_spinors, symmetrised
from hamnet.structure import FloatArray, IntArray, Structure
from hamnet.units import HARTREE_TO_EV

DOS_WIDTH_EV = 0.2
DOS_BELOW_EV, DOS_ABOVE_EV, DOS_STEP_EV = 25.0, 10.0, 0.05
"""Default energies of a density of states: from below the HOMO to above the LUMO."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The Hamiltonian of one structure and what follows from it; Hartree, hamnet's orbital order.

    The spin axis has one channel for a closed shell and two (alpha, beta) for an open one. With
    spin-orbit coupling H has four matrices (`hamnet.spinor`), and orbitals are complex spinors of
    one channel, each of one electron: rows of the coefficients are all orbitals with spin up, then
    with spin down. Orbitals are fewer than basis functions where the overlap was linearly
    dependent. Crystals have H and S only; their bands are another step (`hamnet.bands`).

    Attributes:
        structure: the geometry, charge and spin that was asked for.
        basis: the basis of the matrices.
        hamiltonian: H, entries ``[n_spin, n_entries]``; see `hamnet.blocks.SpinKind`.
        overlap: S, entries ``[n_entries]``; computed, not predicted.
        orbital_energies: Hartree, ascending, shape ``[n_channels, n_mo]``.
        coefficients: orbitals as columns, normalised in S, shape ``[n_channels, n_ao, n_mo]``, of
            spinors ``[1, 2 n_ao, n_mo]``.
        occupations: electrons per orbital, shape ``[n_channels, n_mo]``.
        warnings: what the user should know about this frame, one sentence each.
        level: level of theory that the model learnt; `total_energy` needs it.
        uncertainty: standard deviations of ``homo``, ``lumo``, ``gap`` and ``h`` (root mean square
            over the elements of H), Hartree; empty where the model knows none.
        n_electrons: valence electrons in the cell of a crystal; None where unknown.

    Raises:
        HamnetError: the arrays do not belong together.
    """

    structure: Structure
    basis: OrbitalBasis
    hamiltonian: HamiltonianBlocks
    overlap: HamiltonianBlocks
    orbital_energies: FloatArray
    coefficients: NDArray[Any]
    occupations: FloatArray
    warnings: tuple[str, ...] = ()
    level: KohnShamLevel | None = None
    uncertainty: Mapping[str, float] = field(default_factory=dict)
    n_electrons: int | None = None

    def __post_init__(self) -> None:
        n_spin, n_mo = self.hamiltonian.spin_kind, self.orbital_energies.shape[1]
        n_channels = n_spin.n_channels
        expected = {
            "hamiltonian.entries": (int(n_spin), int(self.layout.boundaries[-1])),
            "overlap.entries": (int(self.layout.boundaries[-1]),),
            "orbital_energies": (n_channels, n_mo),
            "coefficients": (n_channels, self.n_functions, n_mo),
            "occupations": (n_channels, n_mo),
        }
        given = {
            "hamiltonian.entries": self.hamiltonian.entries.shape,
            "overlap.entries": self.overlap.entries.shape,
            "orbital_energies": self.orbital_energies.shape,
            "coefficients": self.coefficients.shape,
            "occupations": self.occupations.shape,
        }
        for name, shape in expected.items():
            if given[name] != shape:
                raise HamnetError(
                    f"{name} must have shape {shape} (n_spin={int(n_spin)}, n_mo={n_mo}), "
                    f"got {given[name]}"
                )

    @property
    def layout(self) -> PairLayout:
        """Pairs of the matrices."""
        return self.hamiltonian.layout

    @property
    def n_functions(self) -> int:
        """Rows of the coefficients: orbitals of the basis, of spinors those of both spins."""
        return self.hamiltonian.spin_kind.n_components * self.layout.n_orbitals

    @property
    def n_dropped(self) -> int:
        """Directions that were projected out of a linearly dependent basis."""
        if self.structure.is_periodic:
            return 0
        return self.n_functions - int(self.orbital_energies.shape[1])

    @property
    def homo(self) -> float:
        """Energy of the highest occupied orbital of all spins, Hartree; NaN without electrons."""
        return frontier(self.orbital_energies, self.occupations)[0]

    @property
    def lumo(self) -> float:
        """Energy of the lowest empty orbital of all spins, Hartree; NaN if all are full."""
        return frontier(self.orbital_energies, self.occupations)[1]

    @property
    def gap(self) -> float:
        """LUMO - HOMO, Hartree."""
        return self.lumo - self.homo

    def matrix(self, name: str, order: str = "hamnet") -> FloatArray:
        """Return a dense matrix in the orbital order of any code.

        Args:
            name: ``hamiltonian`` or ``density``, ``[n_spin, n, n]``, or ``overlap``, ``[n, n]``.
                With spin-orbit coupling the Hamiltonian is H0, Kx, Ky and Kz (`hamnet.spinor`).
            order: a key of `hamnet.basis.AO_ORDERS`, such as ``pyscf``.

        Raises:
            HamnetError: unknown name or order.
        """
        blocks = {"hamiltonian": self.hamiltonian, "overlap": self.overlap, "density": None}
        found = look_up("matrix", name, blocks)
        dense = self.density_matrix if found is None else to_dense(found)
        return from_hamnet_order(dense, self.basis, self.structure.numbers, order)

    @cached_property
    def density_matrix(self) -> FloatArray:
        """``P = C n C^T`` of each spin channel, hamnet's order, ``[n_channels, n, n]``.

        Of spinors the sum over both spins, whose density of spin vanishes by time reversal.

        Raises:
            HamnetError: a crystal.
        """
        if self.structure.is_periodic:
            raise HamnetError(
                "the prediction of a crystal is H and S, without orbitals and a density; see "
                "hamnet.bands"
            )
        density = properties.density_matrix(self.coefficients, self.occupations)
        if self.hamiltonian.is_spinor:
            density = 2 * symmetrised(density)[:, 0]
        return density

    @property
    def charges(self) -> FloatArray:
        """Mulliken's atomic charges, e, ``[N]``."""
        return properties.mulliken_charges(*self._density, self._nuclei)

    @property
    def loewdin_charges(self) -> FloatArray:
        """Loewdin's atomic charges, e, ``[N]``."""
        return properties.loewdin_charges(*self._density, self._nuclei)

    @property
    def bond_orders(self) -> FloatArray:
        """Mayer's bond orders, ``[N, N]``.

        Raises:
            HamnetError: spinors.
        """
        refuse_spinors(self.hamiltonian, "bond orders")
        return properties.mayer_bond_orders(*self._density)

    @property
    def wiberg_bond_orders(self) -> FloatArray:
        """Wiberg's bond orders in Loewdin's basis, ``[N, N]``.

        Raises:
            HamnetError: spinors.
        """
        refuse_spinors(self.hamiltonian, "bond orders")
        return properties.wiberg_bond_orders(*self._density)

    @property
    def dipole(self) -> FloatArray:
        """Dipole moment about the origin of the positions, Debye, ``[3]``."""
        return properties.dipole_moment(self.density_matrix, self.structure, self.basis)

    def density_of_states(
        self, energies_ev: FloatArray | None = None, width_ev: float = DOS_WIDTH_EV
    ) -> tuple[FloatArray, FloatArray]:
        """Return energies (eV) and the density of states (electrons per eV), each ``[n]``.

        Args:
            energies_ev: where; by default from 25 eV below the HOMO to 10 eV above the LUMO.
            width_ev: standard deviation of the Gaussian on every orbital.
        """
        if energies_ev is None:
            levels = HARTREE_TO_EV * np.array([self.homo, self.lumo])
            low, high = np.nanmin(levels) - DOS_BELOW_EV, np.nanmax(levels) + DOS_ABOVE_EV
            energies_ev = np.arange(low, high, DOS_STEP_EV)
        levels = HARTREE_TO_EV * self.orbital_energies
        per_orbital = self.hamiltonian.spin_kind.per_orbital
        return energies_ev, properties.density_of_states(levels, energies_ev, width_ev, per_orbital)

    def total_energy(self) -> float:
        """Return the Kohn-Sham energy of the predicted density, Hartree: one Fock build by PySCF.

        Its error is of second order in the error of the density, and never negative beyond the
        noise of the quadrature grid.

        Raises:
            HamnetError: the level of theory is not known; spinors.
        """
        refuse_spinors(self.hamiltonian, "total energies of a density")
        if self.level is None:
            raise HamnetError(
                "this prediction does not say at which level of theory its energy is to be "
                "computed; predictions of a model do"
            )
        return energy_of_density(self.structure, self.level, self.basis, self.density_matrix)

    def to_molden(self, path: str | Path) -> None:
        """Write basis and orbitals for a viewer; see `hamnet.interop.molden.save_molden`."""
        save_molden(Path(path), self)

    def to_npz(self, path: str | Path, order: str = "hamnet") -> None:
        """Write H, S and orbitals with labels; see `hamnet.interop.npz.save_npz`."""
        save_npz(Path(path), self, order)

    def to_cube(
        self, path: str | Path, what: str, *, spacing: float = SPACING, margin: float = MARGIN
    ) -> None:
        """Write ``homo``, ``lumo+1``, ``density``... on a grid, lengths in Angstrom.

        See `hamnet.interop.cube.save_cube`.
        """
        save_cube(Path(path), self, what, spacing=spacing, margin=margin)

    @property
    def _density(self) -> tuple[FloatArray, FloatArray, IntArray]:
        return self.density_matrix, to_dense(self.overlap), self.layout.atom_offsets

    @cached_property
    def _nuclei(self) -> FloatArray:
        return nuclear_charges(self.structure, self.basis)


def frontier(orbital_energies: FloatArray, occupations: FloatArray) -> tuple[float, float]:
    """Return HOMO and LUMO over all spins, NaN where there is none; arrays ``[n_spin, n_mo]``."""
    occupied = occupations > 0
    homo = orbital_energies[occupied].max(initial=-np.inf)
    lumo = orbital_energies[~occupied].min(initial=np.inf)
    return (
        float(homo) if np.isfinite(homo) else float("nan"),
        float(lumo) if np.isfinite(lumo) else float("nan"),
    )


def aufbau(
    orbital_energies: FloatArray,
    n_electrons: int,
    spin: int = 0,
    kind: SpinKind | None = None,
) -> FloatArray:
    """Fill orbitals from below.

    Args:
        orbital_energies: ascending in each channel, shape ``[n_channels, n_mo]``.
        n_electrons: electrons to place (without those of an effective core potential).
        spin: N(alpha) - N(beta); 0 where there is one channel.
        kind: how spin is treated; by default one channel holds two electrons per orbital.

    Returns:
        Electrons per orbital, same shape.

    Raises:
        HamnetError: charge and spin do not fit together, or there are too few orbitals.
    """
    n_spin, n_mo = orbital_energies.shape
    if (n_electrons - spin) % 2 or (n_spin == 1 and spin):
        raise HamnetError(
            f"{n_electrons} electrons cannot have {spin} unpaired ones in {n_spin} spin channel(s)"
        )
    kind = SpinKind(n_spin) if kind is None else kind
    filled = [(n_electrons + spin) // 2, (n_electrons - spin) // 2][:n_spin]
    filled = [kind.n_components * n for n in filled]  # a pair of spinors
    if min(filled) < 0 or max(filled) > n_mo:
        raise HamnetError(f"{n_electrons} electrons (spin {spin}) do not fit into {n_mo} orbitals")
    occupations = np.zeros((n_spin, n_mo))
    for channel, n in enumerate(filled):
        occupations[channel, :n] = kind.per_orbital
    return occupations
