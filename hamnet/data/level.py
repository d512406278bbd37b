"""Level of theory: every setting that a label depends on, and the identity of a label."""

import hashlib
import json
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from hamnet.errors import HamnetError
from hamnet.structure import Structure

TIGHT_GRID_LEVEL = 4
PYSCF_PROGRAMS = ("pyscf", "gpu4pyscf")
"""Programs whose labels are the same numbers and may share a file."""

_NOT_PHYSICS = frozenset({"xc", "pyscf_version", "max_cycle"})
_CRYSTALS_ONLY = frozenset({"pseudo", "ke_cutoff", "k_length", "smearing", "vacuum"})
_MOLECULES_ONLY = frozenset({"grid_level", "density_fit", "stability"})


class LevelOfTheory(BaseModel):
    """Kohn-Sham settings of a dataset: restricted where ``spin = 0``, unrestricted elsewhere.

    With pseudopotentials (`pseudo`) the level is one of crystals, without them of molecules.

    ``b3lyp`` changed its meaning between PySCF versions: the functional's identity is therefore
    ``xc_components``, filled in when labelling starts, and not its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    xc: str = Field(min_length=1)
    """Functional in PySCF's notation, lower case."""
    basis: str = Field(min_length=1)
    """Basis set in PySCF's notation, lower case; it implies the effective core potentials."""
    grid_level: int = Field(default=3, ge=0, le=9)
    """PySCF's quadrature grid: 3 breaks rotations by 5e-7 Ha, 4 by 2.5e-8 Ha."""
    conv_tol: float = Field(default=1e-11, gt=0)
    """Largest change of the total energy in the last cycle, Hartree."""
    conv_tol_grad: float = Field(default=1e-6, gt=0)
    """Largest norm of the orbital gradient."""
    max_cycle: int = Field(default=100, ge=1)
    init_guess: Literal["minao"] = "minao"
    """Always the same start: a warm-started label would depend on its neighbours."""
    density_fit: Literal[False] = False
    pseudo: str = ""
    """Pseudopotentials (``gth-pbe``): with them the level is one of crystals."""
    ke_cutoff: float = Field(default=120.0, ge=120.0)
    """Crystals: kinetic-energy cutoff of the plane-wave grid, Hartree. The grid breaks
    translations: mean |dH| of graphene is 0.3 meV at 120 Ha."""
    k_length: float = Field(default=16.0, gt=0)
    """Crystals: the Gamma-centred mesh has as many k points along each lattice vector as make the
    supercell this thick, Angstrom: H(R) is exact within half of it."""
    smearing: float = Field(default=0.0, ge=0)
    """Crystals: Fermi-Dirac width, Hartree; needed where the mesh holds a degenerate Fermi
    level."""
    vacuum: float = Field(default=12.0, gt=0)
    """Crystals: empty space between images along directions that are not periodic, Angstrom."""
    stability: bool = False
    """True if every density was checked to be a minimum, and improved where it was none."""
    relativity: Literal["none", "x2c", "spin-orbit"] = "none"
    """``x2c``: exact two-component Kohn-Sham with spin-orbit coupling, all electrons;
    ``spin-orbit``: coupling by the treatment of another program. Both have spinor matrices."""
    program: str = "pyscf"
    """The code that made the labels; `record_id` and `check_same_level` see other codes only."""
    xc_components: tuple[tuple[int, float], ...] = ()
    """libxc ids and their weights; empty until a functional has been looked up."""
    xc_exchange: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Exact exchange added to the components: full range, long range, and its omega (1/Bohr)."""
    pyscf_version: str = ""

    @field_validator("xc", "basis", "pseudo")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.strip().lower()

    @property
    def is_spinor(self) -> bool:
        """True if Hamiltonians have spin-orbit coupling (`hamnet.blocks.SpinKind`)."""
        return self.relativity != "none"

    def physics(self) -> dict[str, Any]:
        """Return the settings on which the numbers of a label depend."""
        looked_up = bool(self.xc_components) or any(self.xc_exchange)
        skip = set(_NOT_PHYSICS if looked_up else _NOT_PHYSICS - {"xc"})
        if self.program in PYSCF_PROGRAMS:
            skip.add("program")
        if not self.stability:
            skip.add("stability")
        if self.relativity == "none":
            skip.add("relativity")
        skip |= _MOLECULES_ONLY if self.pseudo else _CRYSTALS_ONLY
        return self.model_dump(mode="json", exclude=skip)

    def __str__(self) -> str:
        if self.pseudo:
            return f"{self.xc}/{self.basis}, {self.pseudo} ({self.ke_cutoff:g} Ha)"
        extra = f", {self.relativity}" if self.is_spinor else ""
        return f"{self.xc}/{self.basis}{extra} (grid {self.grid_level})"


def check_same_level(expected: LevelOfTheory, got: LevelOfTheory, where: str) -> None:
    """Refuse to mix two levels of theory.

    Raises:
        HamnetError: names every setting that differs.
    """
    one, two = expected.physics(), got.physics()
    keys = sorted(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))
    if keys:
        details = ", ".join(f"{k}: {one.get(k)} there, {two.get(k)} asked" for k in keys)
        raise HamnetError(
            f"{where} holds labels of {expected}, which cannot be mixed with {got} ({details}); "
            "write to another file"
        )


def record_id(structure: Structure, level: LevelOfTheory) -> str:
    """Return the hash of geometry and level of theory by which a label is known, 32 hex digits."""
    digest = hashlib.sha256()
    digest.update(json.dumps(level.physics(), sort_keys=True).encode())
    digest.update(f"charge {structure.charge} spin {structure.spin}".encode())
    digest.update(structure.numbers.astype("<i8").tobytes())
    digest.update(_canonical_bytes(structure.positions))
    if structure.is_periodic:
        digest.update(structure.pbc.tobytes() + _canonical_bytes(structure.cell))
    return digest.hexdigest()[:32]


def _canonical_bytes(values: np.ndarray[Any, np.dtype[np.float64]]) -> bytes:
    return (values + 0.0).astype("<f8").tobytes()  # -0.0 becomes 0.0
