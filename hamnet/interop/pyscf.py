"""PySCF in and out: molecules, bases and matrices.

Building blocks live in `hamnet.integrals`, a floor below; this is the public room.
"""

import numpy as np
from pyscf import gto

from hamnet.basis import OrbitalBasis, from_hamnet_order
from hamnet.blocks import HamiltonianBlocks, to_dense
from hamnet.errors import HamnetError
from hamnet.integrals import basis_of, to_blocks, to_mole
from hamnet.structure import FloatArray, Structure

__all__ = ["basis_of", "from_pyscf_matrix", "structure_of", "to_mole", "to_pyscf_matrix"]


def structure_of(mole: gto.Mole) -> Structure:
    """Return geometry (Angstrom), charge and spin of a built PySCF molecule.

    Raises:
        HamnetError: the molecule holds a ghost atom.
    """
    symbols = [mole.atom_pure_symbol(i) for i in range(mole.natm)]
    for atom, label in enumerate(symbols):
        if gto.is_ghost_atom(label):
            raise HamnetError(f"atom {atom} ({label}) is a ghost atom, which is not supported")
    return Structure(
        numbers=np.array([gto.charge(s) for s in symbols]),
        positions=mole.atom_coords(unit="Angstrom"),
        charge=int(mole.charge),
        spin=int(mole.spin),
    )


def from_pyscf_matrix(matrix: FloatArray, mole: gto.Mole) -> HamiltonianBlocks:
    """Turn a matrix ``[..., n, n]`` in PySCF's orbital order into blocks in hamnet's."""
    return to_blocks(matrix, basis_of(mole), structure_of(mole))


def to_pyscf_matrix(
    blocks: HamiltonianBlocks, basis: OrbitalBasis, structure: Structure
) -> FloatArray:
    """Turn blocks into a matrix ``[..., n, n]`` in PySCF's orbital order."""
    return from_hamnet_order(to_dense(blocks), basis, structure.numbers, "pyscf")
