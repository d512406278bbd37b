"""How the error of H falls with the distance of two atoms, beside H itself."""

from dataclasses import dataclass, field

import numpy as np

from hamnet.data.record import Record
from hamnet.prediction import Prediction
from hamnet.structure import FloatArray, symbol
from hamnet.units import HARTREE_TO_UHA

BIN_ANGSTROM = 0.2
N_BINS = 150
"""The last bin also takes what is farther than 30 Angstrom."""


@dataclass(frozen=True)
class DistanceError:
    """The blocks of one pair of elements whose distance lies in one bin.

    Attributes:
        elements: such as ``H-O``.
        distance_angstrom: mean distance of the pairs in the bin.
        count: number of pairs.
        mae_uha: mean |dH| over the elements of the blocks, microhartree.
        size_uha: mean |H| of the label, microhartree.
    """

    elements: str
    distance_angstrom: float
    count: int
    mae_uha: float
    size_uha: float


@dataclass
class DistanceErrorSum:
    """Adds up errors over frames; see `result`."""

    _sums: dict[tuple[int, int], FloatArray] = field(default_factory=dict)

    def add(self, prediction: Prediction, record: Record) -> None:
        """Add the pairs of one frame, without the on-site blocks."""
        layout, structure = record.layout, record.structure
        pairs, starts = layout.atom_pairs, layout.boundaries[:-1]
        i, j = pairs[:, 3], pairs[:, 4]
        offset = pairs[:, :3] @ structure.cell
        vectors = structure.positions[j] + offset - structure.positions[i]
        distance = np.linalg.norm(vectors, axis=1)  # (P,)
        error = np.abs(prediction.hamiltonian.entries - record.hamiltonian).sum(axis=0)
        size = np.abs(record.hamiltonian).sum(axis=0)
        n_numbers = len(record.hamiltonian) * layout.sizes  # (P,)
        columns = np.stack(
            [
                np.ones(len(pairs)),
                distance,
                n_numbers,
                np.add.reduceat(error, starts),
                np.add.reduceat(size, starts),
            ],
            axis=1,
        )  # (P, 5)
        row = np.minimum(distance / BIN_ANGSTROM, N_BINS - 1).astype(np.int64)
        kinds = np.sort(structure.numbers[pairs[:, 3:]], axis=1)  # (P, 2)
        for pair in np.flatnonzero(distance > 0):
            key = (int(kinds[pair, 0]), int(kinds[pair, 1]))
            sums = self._sums.setdefault(key, np.zeros((N_BINS, columns.shape[1])))
            sums[row[pair]] += columns[pair]

    def result(self) -> tuple[DistanceError, ...]:
        """Return every bin that holds pairs, by elements and distance."""
        found = []
        for (one, two), sums in sorted(self._sums.items()):
            for count, distance, n_numbers, error, size in sums[sums[:, 0] > 0]:
                found.append(
                    DistanceError(
                        elements=f"{symbol(one)}-{symbol(two)}",
                        distance_angstrom=float(distance / count),
                        count=round(float(count)),
                        mae_uha=HARTREE_TO_UHA * float(error / n_numbers),
                        size_uha=HARTREE_TO_UHA * float(size / n_numbers),
                    )
                )
        return tuple(found)
