"""One labelled structure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hamnet.blocks import HamiltonianBlocks, PairLayout, SpinKind
from hamnet.structure import FloatArray, Structure

REFERENCES = ("none", "sap", "minao")
"""Reference Hamiltonians H0 that a model may subtract from its target."""

SCF_RUNGS = ("unknown", "plain", "damped", "second-order")
"""How an SCF converged: at once, with level shift and damping, or by second-order steps."""


@dataclass(frozen=True, eq=False)
class Record:
    """The labels of one structure, in hamnet's orbital order, Hartree.

    Attributes:
        id: hash of geometry and level of theory: the same label is never stored twice.
        structure: geometry, charge, spin.
        layout: pairs of all the matrices.
        hamiltonian: entries of H, shape ``[n_spin, n_entries]``; see `hamnet.blocks.SpinKind`.
        overlap: entries of S, shape ``[n_entries]``.
        references: entries of H0 by name (``minao``, ``sap``), shape ``[n_entries]``; with
            spin-orbit coupling ``[4, n_entries]``, as H.
        orbital_energies: Hartree, shape ``[n_channels, n_mo]``.
        occupations: electrons per orbital, shape ``[n_channels, n_mo]``.
        group: trajectory or molecule; a split never cuts through a group.
        origin: where the geometry came from (file and frame, or recipe and frame).
        energy: total energy, Hartree; NaN where unknown.
        energy_zero: what was subtracted from H times S, Hartree; 0 for molecules.
        dipole: Debye, shape ``[3]``; NaN where unknown.
        scf_cycles: cycles to convergence, 0 where unknown.
        scf_rung: how it converged, an index into `SCF_RUNGS`.
        seconds: wall time of the label, 0 where unknown.
    """

    id: str
    structure: Structure
    layout: PairLayout
    hamiltonian: FloatArray
    overlap: FloatArray
    references: Mapping[str, FloatArray]
    orbital_energies: FloatArray
    occupations: FloatArray
    group: str = ""
    origin: str = ""
    energy: float = float("nan")
    energy_zero: float = 0.0
    dipole: FloatArray = field(default_factory=lambda: np.full(3, np.nan))
    scf_cycles: int = 0
    scf_rung: int = 0
    seconds: float = 0.0

    @property
    def spin_kind(self) -> SpinKind:
        """How H treats spin."""
        return SpinKind(len(self.hamiltonian))

    def blocks(self, name: str) -> HamiltonianBlocks:
        """Return ``"hamiltonian"``, ``"overlap"`` or a reference (``"minao"``) as blocks."""
        if name in ("hamiltonian", "overlap"):
            return HamiltonianBlocks(self.layout, getattr(self, name))
        return HamiltonianBlocks(self.layout, self.references[name])
