"""Is a structure like those a model was trained on? Distances and neighbourhoods, measured."""

from collections.abc import Iterator

import numpy as np

from hamnet.graph import NeighbourGraph
from hamnet.models.metadata import TrainingRanges
from hamnet.structure import FloatArray, IntArray, symbol

DISTANCE_MARGIN = 0.05
"""A distance may leave the training range by this much before it is worth a warning, Angstrom."""


class RangeMeter:
    """Collects the ranges of distances and neighbourhoods over training frames."""

    def __init__(self) -> None:
        self._distances: dict[str, tuple[float, float]] = {}
        self._neighbours: dict[str, tuple[int, int]] = {}

    def add(self, graph: NeighbourGraph) -> None:
        """Count a frame in."""
        for name, _, distances in _pair_distances(graph):
            low, high = self._distances.get(name, (np.inf, 0.0))
            found = float(distances.min()), float(distances.max())
            self._distances[name] = min(low, found[0]), max(high, found[1])
        for name, _, counts in _neighbour_counts(graph):
            few, many = self._neighbours.get(name, (int(counts.min()), 0))
            self._neighbours[name] = min(few, int(counts.min())), max(many, int(counts.max()))

    def result(self) -> TrainingRanges:
        """Return what was found."""
        return TrainingRanges(distances=self._distances, neighbours=self._neighbours)


def range_warnings(
    graph: NeighbourGraph, ranges: TrainingRanges, cutoffs: tuple[float, float]
) -> tuple[str, ...]:
    """Return where one structure leaves the ranges of the training frames.

    One sentence for each pair of elements, on the pair that is furthest outside, and one for each
    element, on such an atom.

    Args:
        graph: of one structure.
        ranges: of the training frames.
        cutoffs: message and pair cutoff of the model, Angstrom.
    """
    warnings = []
    for name, pairs, distances in _pair_distances(graph):
        low, high = ranges.distances.get(name, (0.0, np.inf))
        outside = np.maximum(low - distances, distances - high)
        worst = int(outside.argmax())
        if outside[worst] > DISTANCE_MARGIN:
            i, j = pairs[:, worst].tolist()
            warnings.append(
                f"atoms {i} and {j} ({name}) are {distances[worst]:.2f} A apart, outside the "
                f"training data ({low:.2f} to {high:.2f} A)"
            )
    for name, atoms, counts in _neighbour_counts(graph):
        few, many = ranges.neighbours.get(name, (0, int(counts.max())))
        excess = np.maximum(few - counts, counts - many)
        worst = int(excess.argmax())
        if excess[worst] > 0:
            warnings.append(
                f"atom {atoms[worst]} ({name}) has {counts[worst]} neighbours within "
                f"{cutoffs[0]:g} A, outside the training data ({few} to {many})"
            )
    return tuple(warnings)


def _pair_distances(graph: NeighbourGraph) -> Iterator[tuple[str, IntArray, FloatArray]]:
    """Yield name, atoms ``[2, n]`` and distances ``[n]`` (Angstrom) of each pair of elements."""
    distance = graph.pair_vectors().norm(dim=1).double().cpu().numpy()
    pairs = graph.pairs.cpu().numpy()
    start = 0
    for (z_i, z_j), count in zip(graph.pair_types, graph.pair_counts, strict=True):
        chosen = slice(start, start + count)
        start += count
        yield f"{symbol(z_i)}-{symbol(z_j)}", pairs[:, chosen], distance[chosen]


def _neighbour_counts(graph: NeighbourGraph) -> Iterator[tuple[str, IntArray, IntArray]]:
    """Yield name, atoms ``[n]`` and numbers of neighbours ``[n]`` of each element."""
    numbers = graph.numbers.cpu().numpy()
    ends = graph.pairs[:, graph.edges].cpu().numpy().ravel()
    counts = np.bincount(ends, minlength=len(numbers))
    for z in np.unique(numbers):
        atoms = np.flatnonzero(numbers == z)
        yield symbol(int(z)), atoms, counts[atoms]
