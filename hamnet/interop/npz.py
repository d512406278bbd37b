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

    Args:
        path: the file.
        prediction: the frame.
        order: orbital order of the matrices, a key of `hamnet.basis.AO_ORDERS`.

    Raises:
        HamnetError: unknown order; a file that cannot be written.
    """
    structure, basis = prediction.structure, prediction.basis
    perm, _ = ao_order(basis, structure.numbers, order)  # hamnet = sign * other[perm]
    coefficients = orbitals_from_hamnet_order(
        prediction.coefficients, basis, structure.numbers, order
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


def orbital_labels(basis: OrbitalBasis, numbers: IntArray) -> list[str]:
    """Return ``"atom symbol shell m"`` of every orbital in hamnet's order, as ``"0 O p2 m=-1"``."""
    labels = []
    for atom, z in enumerate(numbers):
        for l, name in zip(basis.of(int(z)), basis.shell_names(int(z)), strict=True):
            shell = f"{atom} {symbol(int(z))} {name}"
            labels += [f"{shell} m={m:+d}" if m else f"{shell} m=0" for m in range(-l, l + 1)]
    return labels
