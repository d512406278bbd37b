"""PySCF in and out: molecules, bases and matrices.

Building blocks live in `hamnet.integrals`, a floor below; this is the public room.
"""

from pathlib import Path
from typing import Any

import numpy as np
from pyscf import dft, gto, lib
from pyscf.tools import molden

from hamnet.basis import OrbitalBasis, from_hamnet_order
from hamnet.blocks import HamiltonianBlocks, to_dense
from hamnet.errors import HamnetError
from hamnet.integrals import KohnShamLevel, basis_of, to_blocks, to_mole
from hamnet.structure import FloatArray, Structure
from hamnet.units import BOHR_TO_ANGSTROM

Mole = gto.mole.MoleBase
"""PySCF's molecules and, of the same base, its crystals (``pyscf.pbc.gto.Cell``)."""

__all__ = [
    "Mole",
    "basis_of",
    "from_pyscf_matrix",
    "kohn_sham",
    "mix_in",
    "n_threads",
    "structure_of",
    "to_mole",
    "to_pyscf_matrix",
    "write_molden",
]


def structure_of(mole: gto.Mole) -> Structure:
    """Return geometry (Angstrom), charge and spin of a built PySCF molecule or cell.

    Raises:
        HamnetError: the molecule holds a ghost atom, or was not built.
    """
    if not mole._built:
        raise HamnetError("the PySCF molecule is not built: call its build() first")
    symbols = [mole.atom_pure_symbol(i) for i in range(mole.natm)]
    for atom, label in enumerate(symbols):
        if gto.is_ghost_atom(label):
            raise HamnetError(f"atom {atom} ({label}) is a ghost atom, which is not supported")
    return Structure(
        numbers=np.array([gto.charge(s) for s in symbols]),
        positions=mole.atom_coords(unit="Angstrom"),
        charge=int(mole.charge),
        spin=int(mole.spin),
        **_cell_of(mole),
    )


def _cell_of(mole: gto.Mole) -> dict[str, Any]:
    """Return lattice vectors and periodic directions of a cell; nothing for a molecule."""
    if not hasattr(mole, "lattice_vectors"):
        return {}
    periodic = np.arange(3) < mole.dimension
    return {"cell": mole.lattice_vectors() * BOHR_TO_ANGSTROM, "pbc": periodic}


def from_pyscf_matrix(matrix: FloatArray, mole: gto.Mole) -> HamiltonianBlocks:
    """Turn a matrix ``[..., n, n]`` in PySCF's orbital order into blocks in hamnet's."""
    return to_blocks(matrix, basis_of(mole), structure_of(mole))


def to_pyscf_matrix(
    blocks: HamiltonianBlocks, basis: OrbitalBasis, structure: Structure
) -> FloatArray:
    """Turn blocks into a matrix ``[..., n, n]`` in PySCF's orbital order."""
    return from_hamnet_order(to_dense(blocks), basis, structure.numbers, "pyscf")


def kohn_sham(structure: Structure, level: KohnShamLevel) -> Any:
    """Return the calculation of a level of theory, restricted if no electron is unpaired.

    Raises:
        HamnetError: see `hamnet.integrals.to_mole`.
    """
    mole = to_mole(structure, level.basis)
    mf = (dft.RKS if structure.spin == 0 else dft.UKS)(mole, xc=level.xc)
    mf.grids.level = level.grid_level
    mf.chkfile = None
    vars(mf).pop("_chkfile", None)  # an open temporary file that nobody would close
    return mf


def mix_in(obj: Any, *bases: type) -> Any:
    """Give a PySCF object the class made of several, as PySCF does for density fitting."""
    return lib.set_class(obj, bases)


def n_threads() -> int:
    """Return the number of threads that PySCF uses."""
    return int(lib.num_threads())


def write_molden(
    path: Path,
    mole: gto.Mole,
    coefficients: FloatArray,
    energies: FloatArray,
    occupations: FloatArray,
) -> None:
    """Write orbitals in the Molden format.

    Args:
        path: the file.
        mole: built molecule.
        coefficients: orbitals as columns in PySCF's orbital order, ``[n_spin, n_ao, n_mo]``.
        energies: Hartree, ``[n_spin, n_mo]``.
        occupations: electrons per orbital, ``[n_spin, n_mo]``.
    """
    with path.open("w", encoding="utf-8") as file:
        molden.header(mole, file)
        for spin, c, e, occ in zip(
            ("Alpha", "Beta"), coefficients, energies, occupations, strict=False
        ):
            molden.orbital_coeff(mole, file, c, spin=spin, ene=e, occ=occ)
