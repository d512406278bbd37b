"""Molecules of other libraries as structures."""

from typing import TypeAlias

from ase import Atoms

from hamnet.errors import HamnetError
from hamnet.interop.ase import from_atoms
from hamnet.interop.pyscf import Mole, structure_of
from hamnet.structure import Structure

System: TypeAlias = Structure | Atoms
"""What people have a molecule in; also a PySCF molecule, which is untyped."""


def to_structure(system: System) -> Structure:
    """Return the structure of ASE atoms, of a built PySCF molecule, or the structure itself.

    Raises:
        HamnetError: something else; see also `from_atoms` and `structure_of`.
    """
    if isinstance(system, Structure):
        return system
    if isinstance(system, Atoms):
        return from_atoms(system)
    if isinstance(system, Mole):
        return structure_of(system)
    raise HamnetError(
        f"expected a hamnet Structure, ASE Atoms or a PySCF Mole, got {type(system).__name__}; "
        "files are read by hamnet.interop.ase.read_frames or by 'hamnet predict'"
    )
