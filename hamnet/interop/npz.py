"""Predicted matrices as NumPy archives that say themselves what is in them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hamnet.basis import (
    OrbitalBasis,
    ao_order,
    from_hamnet_order,
    orbitals_from_hamnet_order,
)
from hamnet.blocks import to_dense
from hamnet.errors import HamnetError
from hamnet.files import replacing
from hamnet.structure import FloatArray, IntArray, symbol

if TYPE_CHECKING:
    from hamnet.prediction import Prediction

FORMAT = "hamnet-prediction"
FORMAT_VERSION = 1


def save_npz(path: Path, prediction: "Prediction", order: str = "hamnet") -> None:
    """Write H, S and the orbitals of one frame.

    The arrays are ``hamiltonian_hartree [n_spin, n, n]``, ``overlap [n, n]``,
    ``orbital_energies_hartree [n_spin, n_mo]``, ``coefficients [n_spin, n, n_mo]``,
    ``occupations [n_spin, n_mo]``, ``orbital_labels [n]``, ``numbers [N]``,
    ``positions_angstrom [N, 3]``, ``charge``, ``spin``, ``basis``, ``ao_order``, ``format`` and
    ``format_version``; no pickles.

    With spin-orbit coupling the Hamiltonian is H0, Kx, Ky, Kz (`hamnet.spinor`), and coefficients
    are complex, ``[1, 2 n, n_mo]``, all orbitals with spin up first.

    Args:
        path: the file.
        prediction: the frame.
        order: orbital order of the matrices, a key of `hamnet.basis.AO_ORDERS`.

    A crystal's file has the blocks instead (`save_crystal_npz`).

    Raises:
        HamnetError: unknown order; a file that cannot be written.
    """
    structure, basis = prediction.structure, prediction.basis
    if structure.is_periodic:
        save_crystal_npz(path, prediction, order)
        return
    perm, _ = ao_order(basis, structure.numbers, order)  # hamnet = sign * other[perm]
    n_components = prediction.hamiltonian.spin_kind.n_components
    spins = prediction.coefficients.reshape(
        *(-1, n_components, len(perm), prediction.coefficients.shape[-1])
    )
    coefficients = orbitals_from_hamnet_order(spins, basis, structure.numbers, order).reshape(
        prediction.coefficients.shape
    )
    labels = np.empty(len(perm), dtype=np.dtypes.StrDType(24))
    labels[perm] = orbital_labels(basis, structure.numbers)

    def dense(matrix: FloatArray) -> FloatArray:
        return from_hamnet_order(matrix, basis, structure.numbers, order)

    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            format=FORMAT,
            format_version=FORMAT_VERSION,
            hamiltonian_hartree=dense(to_dense(prediction.hamiltonian)),
            overlap=dense(to_dense(prediction.overlap)),
            orbital_energies_hartree=prediction.orbital_energies,
            coefficients=coefficients,
            occupations=prediction.occupations,
            orbital_labels=labels,
            numbers=structure.numbers,
            positions_angstrom=structure.positions,
            charge=structure.charge,
            spin=structure.spin,
            basis=basis.name,
            ao_order=order,
        )


def save_crystal_npz(path: Path, prediction: "Prediction", order: str = "hamnet") -> None:
    """Write the blocks of H and S of a crystal; see docs/conventions.md for pairs.

    The arrays are ``atom_pairs [P, 5]`` (R1, R2, R3, i, j), ``chunk_boundaries [P + 1]``,
    ``chunk_shapes [P, 2]``, ``hamiltonian_hartree [n_spin, n_entries]``, ``overlap [n_entries]``,
    ``n_electrons`` (-1 if unknown), ``numbers``, ``positions_angstrom``, ``cell_angstrom``,
    ``pbc``, ``basis``, ``ao_order``, ``format`` and ``format_version``.

    Raises:
        HamnetError: another order than hamnet's; a file that cannot be written.
    """
    if order != "hamnet":
        raise HamnetError(
            f"blocks of crystals are written in hamnet's orbital order, not '{order}'; "
            "'hamnet data export' writes the formats of other codes"
        )
    structure, layout = prediction.structure, prediction.layout
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            format=FORMAT,
            format_version=FORMAT_VERSION,
            atom_pairs=layout.atom_pairs,
            chunk_boundaries=layout.boundaries,
            chunk_shapes=layout.shapes,
            hamiltonian_hartree=prediction.hamiltonian.entries,
            overlap=prediction.overlap.entries,
            n_electrons=-1 if prediction.n_electrons is None else prediction.n_electrons,
            numbers=structure.numbers,
            positions_angstrom=structure.positions,
            cell_angstrom=structure.cell,
            pbc=structure.pbc,
            basis=prediction.basis.name,
            ao_order=order,
        )


def orbital_labels(basis: OrbitalBasis, numbers: IntArray) -> list[str]:
    """Return ``"atom symbol shell m"`` of every orbital in hamnet's order, as ``"0 O p2 m=-1"``."""
    labels = []
    for atom, z in enumerate(numbers):
        for l, name in zip(basis.of(int(z)), basis.shell_names(int(z)), strict=True):
            shell = f"{atom} {symbol(int(z))} {name}"
            labels += [f"{shell} m={m:+d}" if m else f"{shell} m=0" for m in range(-l, l + 1)]
    return labels
