"""Near-duplicate geometries: which frames bring nothing new."""

from collections.abc import Iterable, Iterator

import numpy as np
from scipy.spatial.distance import pdist

from hamnet.data.failure import Failure
from hamnet.structure import FloatArray
from hamnet_datasets.labels import Known, Skipped, Task

_FIRST_ROOM = 64


class _Kept:
    """The geometries of one kind of molecule so far, with their interatomic distances."""

    def __init__(self, n_atoms: int) -> None:
        self.n = 0
        self.positions = np.zeros((_FIRST_ROOM, n_atoms, 3))
        self.distances = np.zeros((_FIRST_ROOM, n_atoms * (n_atoms - 1) // 2))
        self.origins: list[str] = []

    def add(self, positions: FloatArray, distances: FloatArray, origin: str) -> None:
        if self.n == len(self.positions):
            self.positions = np.concatenate([self.positions, np.zeros_like(self.positions)])
            self.distances = np.concatenate([self.distances, np.zeros_like(self.distances)])
        self.positions[self.n], self.distances[self.n] = positions, distances
        self.origins.append(origin)
        self.n += 1

    def near(self, positions: FloatArray, distances: FloatArray, min_rmsd: float) -> str | None:
        """Return the origin of a geometry that is closer than this, or None.

        A displacement of RMSD r changes no distance by more than ``sqrt(2 N) r``: only geometries
        with such distances have to be superposed.
        """
        limit = np.sqrt(2 * len(positions)) * min_rmsd
        change = np.abs(self.distances[: self.n] - distances)
        for k in np.flatnonzero((change <= limit).all(axis=1)):
            if rmsd(self.positions[k], positions) < min_rmsd:
                return self.origins[k]
        return None


def rmsd(one: FloatArray, two: FloatArray) -> float:
    """Return the root mean square distance of atoms after the best rotation, Angstrom."""
    one, two = (x - x.mean(axis=0) for x in (one, two))
    if len(one) == 1:
        return 0.0
    covariance = two.T @ one
    u, size, v = np.linalg.svd(covariance)
    size[-1] *= np.sign(np.linalg.det(u @ v))  # a rotation, never a mirror
    squared = (one**2).sum() + (two**2).sum() - 2 * size.sum()
    return float(np.sqrt(max(squared, 0.0) / len(one)))


def distinct(
    frames: Iterable[Task | Failure | Skipped | Known], min_rmsd: float
) -> Iterator[Task | Failure | Skipped | Known]:
    """Replace frames that nearly repeat an earlier one.

    The frames must have their atoms in the same order to be recognised. What is kept depends on the
    frames before it alone, so that a run that is continued decides as the first one did.

    Args:
        frames: tasks in their order.
        min_rmsd: smallest root mean square distance to all that were kept, Angstrom.
    """
    kept: dict[tuple[bytes, int, int], _Kept] = {}
    for frame in frames:
        if not isinstance(frame, Task):
            yield frame
            continue
        s = frame.structure
        known = kept.setdefault(s.kind, _Kept(len(s)))
        distances = pdist(s.positions)
        near = known.near(s.positions, distances, min_rmsd)
        if near is None:
            known.add(s.positions, distances, frame.origin)
            yield frame
        else:
            yield Skipped(frame.origin, f"closer than {min_rmsd} A to {near}")
