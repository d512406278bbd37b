"""Where the error of H sits: per pair of elements and per pair of shells."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hamnet.basis import OrbitalBasis
from hamnet.blocks import PairLayout, entry_weights
from hamnet.data.record import Record
from hamnet.prediction import Prediction
from hamnet.structure import FloatArray, IntArray, symbol
from hamnet.units import HARTREE_TO_UHA


@dataclass(frozen=True, order=True)
class ShellKind:
    """One shell of one element, such as the second p shell of oxygen.

    Attributes:
        number: atomic number.
        index: place among the element's shells.
        name: ``p2``: the letter of l, and the count among the element's shells of that l.
    """

    number: int
    index: int
    name: str


@dataclass(frozen=True)
class BlockError:
    """The error of all the blocks between two kinds of shells.

    Attributes:
        on_site: the two shells sit on one atom.
        first, second: the shells; the first element is not heavier than the second.
        count: number of matrix elements seen, each element of the full matrix counted once.
        mae_uha: mean |dH|, microhartree.
        max_uha: largest |dH|, microhartree.
    """

    on_site: bool
    first: ShellKind
    second: ShellKind
    count: int
    mae_uha: float
    max_uha: float

    @property
    def elements(self) -> str:
        """``O (on site)`` or ``H-O``."""
        if self.on_site:
            return f"{symbol(self.first.number)} (on site)"
        return f"{symbol(self.first.number)}-{symbol(self.second.number)}"


def shell_kinds(basis: OrbitalBasis) -> list[ShellKind]:
    """Return all the shells of a basis, lightest element first."""
    return [
        ShellKind(number, index, name)
        for number in sorted(basis.shells)
        for index, name in enumerate(basis.shell_names(number))
    ]


@dataclass
class BlockErrorSum:
    """Adds up errors over frames; see `result`."""

    basis: OrbitalBasis
    _kinds: list[ShellKind] = field(init=False)
    _first: Mapping[int, int] = field(init=False)
    _count: FloatArray = field(init=False)
    _sum: FloatArray = field(init=False)
    _max: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self._kinds = shell_kinds(self.basis)
        self._first = {kind.number: n for n, kind in enumerate(self._kinds) if kind.index == 0}
        size = 2 * len(self._kinds) ** 2
        self._count, self._sum, self._max = np.zeros(size), np.zeros(size), np.zeros(size)

    def add(self, prediction: Prediction, record: Record) -> None:
        """Add one frame."""
        layout = record.layout
        error = np.abs(prediction.hamiltonian.entries - record.hamiltonian)  # (n_spin, n_entries)
        category = self._categories(layout, record.structure.numbers)
        weight = entry_weights(layout)
        n = len(self._count)
        self._count += len(error) * np.bincount(category, weight, n)
        self._sum += np.bincount(category, weight * error.sum(axis=0), n)
        np.maximum.at(self._max, category, error.max(axis=0))

    def result(self) -> tuple[BlockError, ...]:
        """Return the errors of every kind of block that occurred."""
        k = len(self._kinds)
        found = []
        for n in np.flatnonzero(self._count):
            on_site, rest = divmod(int(n), k * k)
            found.append(
                BlockError(
                    on_site=bool(on_site),
                    first=self._kinds[rest // k],
                    second=self._kinds[rest % k],
                    count=round(float(self._count[n])),
                    mae_uha=HARTREE_TO_UHA * float(self._sum[n] / self._count[n]),
                    max_uha=HARTREE_TO_UHA * float(self._max[n]),
                )
            )
        return tuple(found)

    def _categories(self, layout: PairLayout, numbers: IntArray) -> IntArray:
        """Return for every entry ``on_site * K * K + kind_a * K + kind_b``, kind_a <= kind_b."""
        kind_of_orbital = np.concatenate([self._kinds_of(int(z)) for z in numbers])
        row, col = layout.orbital_indices()
        one, two = kind_of_orbital[row], kind_of_orbital[col]
        k = len(self._kinds)
        on_site = np.repeat(layout.on_site, layout.sizes)
        category: IntArray = on_site * k * k + np.minimum(one, two) * k + np.maximum(one, two)
        return category

    def _kinds_of(self, number: int) -> IntArray:
        """Return the kind of each orbital of an element."""
        ls = self.basis.of(number)
        return np.repeat(self._first[number] + np.arange(len(ls)), [2 * l + 1 for l in ls])
