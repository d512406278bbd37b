"""What is learnt at all: predictors that any model has to beat."""

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, from_dense, to_dense
from hamnet.data.record import Record
from hamnet.data.samples import record_reference
from hamnet.errors import HamnetError
from hamnet.models.model import orbitals
from hamnet.prediction import Prediction
from hamnet.references import Reference
from hamnet.structure import FloatArray, Structure
from hamnet.testing import rotate_orbitals

DEGREE = 6


class Unlearnt:
    """The reference Hamiltonian, as it is or with potentials.

    Args:
        basis: of the labels.
        reference: not ``none``.
    """

    def __init__(self, basis: OrbitalBasis, reference: Reference) -> None:
        self.basis, self.reference = basis, reference

    def check(self, structure: Structure) -> None:
        """Accept every structure."""

    def predict(self, structures: Sequence[Structure]) -> list[Prediction]:
        raise NotImplementedError("the baseline reads its Hamiltonian from labels")

    def predict_labelled(self, records: Sequence[Record]) -> list[Prediction]:
        found = [(r, record_reference(r, self.reference, self.basis)) for r in records]
        return [_orbitals(r, self.basis, h0[0]) for r, h0 in found if h0 is not None]


class WaterPolynomial:
    """A polynomial in water's three internal coordinates for each matrix element.

    In a frame that turns with the molecule (z along the bisector of the bonds, the atoms in the
    plane xz) the matrix H - H0 is a smooth function of both bond lengths and the angle. Least
    squares over all monomials up to a degree, which is chosen on the validation frames.

    Args:
        basis: of the labels.
        reference: ``none``, ``sap`` or ``minao``.
        degree: the largest one.
    """

    def __init__(self, basis: OrbitalBasis, reference: str, degree: int = DEGREE) -> None:
        self.basis, self.reference, self.degree = basis, reference, degree

    def fit(self, train: Sequence[Record], validation: Sequence[Record]) -> "WaterPolynomial":
        """Fit the coefficients."""
        x = np.array([internal_coordinates(r.structure) for r in train])
        self.centre, self.width = x.mean(axis=0), x.std(axis=0)
        y = np.array([self._in_frame(r) for r in train])  # (F, n * n)
        held_out = np.array([self._in_frame(r) for r in validation])
        errors, fits = [], []
        for degree in range(1, self.degree + 1):
            self.powers = monomials(degree)
            self.coefficients = np.linalg.lstsq(self._design(train), y, rcond=None)[0]
            fits.append((self.powers, self.coefficients))
            errors.append(
                np.abs(self._design(validation) @ self.coefficients - held_out).mean()
                if len(validation)
                else -degree
            )
        self.powers, self.coefficients = fits[int(np.argmin(errors))]
        return self

    def check(self, structure: Structure) -> None:
        """Refuse everything but water."""
        if sorted(structure.numbers) != [1, 1, 8]:
            raise HamnetError(f"{structure.formula} is no water molecule")

    def predict(self, structures: Sequence[Structure]) -> list[Prediction]:
        raise NotImplementedError("the baseline reads its reference Hamiltonian from labels")

    def predict_labelled(self, records: Sequence[Record]) -> list[Prediction]:
        out = []
        values = self._design(records) @ self.coefficients
        for record, value in zip(records, values, strict=True):
            d = self._rotation(record.structure)
            n = record.layout.n_orbitals
            entries = from_dense(d.T @ value.reshape(n, n) @ d, record.layout).entries
            if self.reference != "none":
                entries = entries + record.references[self.reference]
            out.append(_orbitals(record, self.basis, entries))
        return out

    def _design(self, records: Sequence[Record]) -> FloatArray:
        """Return the monomials of every frame, ``[F, n_monomials]``."""
        x = np.array([internal_coordinates(r.structure) for r in records])
        x = (x - self.centre) / self.width
        return np.prod(x[:, None, :] ** self.powers, axis=2)

    def _in_frame(self, record: Record) -> FloatArray:
        entries = record.hamiltonian[0]
        if self.reference != "none":
            entries = entries - record.references[self.reference]
        d = self._rotation(record.structure)
        matrix = to_dense(HamiltonianBlocks(record.layout, entries))
        return np.asarray(d @ matrix @ d.T).ravel()

    def _rotation(self, structure: Structure) -> FloatArray:
        return rotate_orbitals(self.basis, structure.numbers, molecule_frame(structure))


def monomials(degree: int, n: int = 3) -> FloatArray:
    """Return the powers of all monomials of n variables up to a degree, ``[n_monomials, n]``."""
    chosen = combinations_with_replacement(range(n + 1), degree)  # the last one stands for 1
    return np.array([[c.count(k) for k in range(n)] for c in chosen], dtype=float)


def internal_coordinates(structure: Structure) -> tuple[float, float, float]:
    """Return both bond lengths (Angstrom, hydrogens in the order of the atoms) and the angle."""
    first, second = _bonds(structure)
    a, b = np.linalg.norm(first), np.linalg.norm(second)
    return float(a), float(b), float(np.arccos(first @ second / (a * b)))


def molecule_frame(structure: Structure) -> FloatArray:
    """Return the rotation into the frame of the molecule, ``[3, 3]``."""
    first, second = (bond / np.linalg.norm(bond) for bond in _bonds(structure))
    z = (first + second) / np.linalg.norm(first + second)
    x = first - (first @ z) * z
    x /= np.linalg.norm(x)
    return np.array([x, np.cross(z, x), z])


def _bonds(structure: Structure) -> FloatArray:
    oxygen = int(np.argmax(structure.numbers))
    hydrogens = np.delete(np.arange(3), oxygen)
    return structure.positions[hydrogens] - structure.positions[oxygen]


def _orbitals(record: Record, basis: OrbitalBasis, entries: FloatArray) -> Prediction:
    n_electrons = round(float(record.occupations.sum()))
    return orbitals(record.structure, basis, entries, record.blocks("overlap"), n_electrons)
