"""What a model answers for one structure: the matrix, and the orbitals that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, PairLayout
from hamnet.errors import HamnetError
from hamnet.structure import FloatArray, Structure


@dataclass(frozen=True, eq=False)
class Prediction:
    """The Hamiltonian of one structure and its orbitals, in hamnet's orbital order, Hartree.

    The spin axis has one channel for a closed shell and two (alpha, beta) for an open one. Orbitals
    are fewer than basis functions where the overlap was linearly dependent.

    Attributes:
        structure: the geometry, charge and spin that was asked for.
        basis: the basis of the matrices.
        hamiltonian: H, entries ``[n_spin, n_entries]``.
        overlap: S, entries ``[n_entries]``; computed, not predicted.
        orbital_energies: Hartree, ascending, shape ``[n_spin, n_mo]``.
        coefficients: orbitals as columns, normalised in S, shape ``[n_spin, n_ao, n_mo]``.
        occupations: electrons per orbital, shape ``[n_spin, n_mo]``.
        warnings: what the user should know about this frame, one sentence each.
        uncertainty: standard deviations of ``homo``, ``lumo``, ``gap`` and ``h`` (root mean square
            over the elements of H), Hartree; empty where the model knows none.

    Raises:
        HamnetError: the arrays do not belong together.
    """

    structure: Structure
    basis: OrbitalBasis
    hamiltonian: HamiltonianBlocks
    overlap: HamiltonianBlocks
    orbital_energies: FloatArray
    coefficients: FloatArray
    occupations: FloatArray
    warnings: tuple[str, ...] = ()
    uncertainty: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_spin, n_mo = self.orbital_energies.shape
        expected = {
            "hamiltonian.entries": (n_spin, int(self.layout.boundaries[-1])),
            "overlap.entries": (int(self.layout.boundaries[-1]),),
            "coefficients": (n_spin, self.layout.n_orbitals, n_mo),
            "occupations": (n_spin, n_mo),
        }
        given = {
            "hamiltonian.entries": self.hamiltonian.entries.shape,
            "overlap.entries": self.overlap.entries.shape,
            "coefficients": self.coefficients.shape,
            "occupations": self.occupations.shape,
        }
        for name, shape in expected.items():
            if given[name] != shape:
                raise HamnetError(
                    f"{name} must have shape {shape} (n_spin={n_spin}, n_mo={n_mo}), "
                    f"got {given[name]}"
                )

    @property
    def layout(self) -> PairLayout:
        """Pairs of the matrices."""
        return self.hamiltonian.layout

    @property
    def n_dropped(self) -> int:
        """Directions that were projected out of a linearly dependent basis."""
        return self.layout.n_orbitals - int(self.orbital_energies.shape[1])

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


def frontier(orbital_energies: FloatArray, occupations: FloatArray) -> tuple[float, float]:
    """Return HOMO and LUMO over all spins, NaN where there is none; arrays ``[n_spin, n_mo]``."""
    occupied = occupations > 0
    homo = orbital_energies[occupied].max(initial=-np.inf)
    lumo = orbital_energies[~occupied].min(initial=np.inf)
    return (
        float(homo) if np.isfinite(homo) else float("nan"),
        float(lumo) if np.isfinite(lumo) else float("nan"),
    )


def aufbau(orbital_energies: FloatArray, n_electrons: int, spin: int = 0) -> FloatArray:
    """Fill orbitals from below.

    Args:
        orbital_energies: ascending in each channel, shape ``[n_spin, n_mo]``; one channel holds two
            electrons per orbital, two channels hold one.
        n_electrons: electrons to place (without those of an effective core potential).
        spin: N(alpha) - N(beta); 0 where there is one channel.

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
    filled = [(n_electrons + spin) // 2, (n_electrons - spin) // 2][:n_spin]
    if min(filled) < 0 or max(filled) > n_mo:
        raise HamnetError(f"{n_electrons} electrons (spin {spin}) do not fit into {n_mo} orbitals")
    occupations = np.zeros((n_spin, n_mo))
    for channel, n in enumerate(filled):
        occupations[channel, :n] = 2.0 if n_spin == 1 else 1.0
    return occupations
