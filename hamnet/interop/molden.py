"""Molden files: predicted orbitals for every viewer that quantum chemists use."""

from pathlib import Path
from typing import TYPE_CHECKING

from hamnet.basis import orbitals_from_hamnet_order
from hamnet.errors import HamnetError
from hamnet.files import replacing
from hamnet.integrals import check_fingerprint
from hamnet.interop.pyscf import basis_of, to_mole, write_molden
from hamnet.spinor import refuse_spinors

if TYPE_CHECKING:
    from hamnet.prediction import Prediction

MAX_L = 4
"""The Molden format ends with g functions."""


def save_molden(path: Path, prediction: "Prediction") -> None:
    """Write basis, orbitals, energies and occupations; two spin channels as Alpha and Beta.

    Raises:
        HamnetError: see `check_molden`; a basis that PySCF now defines in another way; a file that
            cannot be written.
    """
    check_molden(prediction)
    structure, basis = prediction.structure, prediction.basis
    mole = to_mole(structure, basis.name)
    check_fingerprint(basis, basis_of(mole, basis.name))
    coefficients = orbitals_from_hamnet_order(
        prediction.coefficients, basis, structure.numbers, "pyscf"
    )
    with replacing(path) as partial:
        write_molden(
            partial, mole, coefficients, prediction.orbital_energies, prediction.occupations
        )


def check_molden(prediction: "Prediction") -> None:
    """Check that the format can hold a prediction.

    Raises:
        HamnetError: h functions or higher; spinors.
    """
    refuse_spinors(prediction.hamiltonian, "Molden files")
    structure, basis = prediction.structure, prediction.basis
    highest = max(l for z in structure.numbers for l in basis.of(int(z)))
    if highest > MAX_L:
        raise HamnetError(
            f"the Molden format ends with g functions (l = {MAX_L}), but the basis "
            f"'{basis.name}' has l = {highest}; use the .npz output"
        )
