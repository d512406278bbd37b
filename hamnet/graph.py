"""Atom pairs of one structure or of a batch: the frozen input of every model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hamnet.structure import IntArray, Structure, half_list

PairType = tuple[int, int]
"""Atomic numbers ``(Z_i, Z_j)`` of a pair, ``Z_i <= Z_j``."""


@dataclass(frozen=True, eq=False)
class NeighbourGraph:
    """Atoms and pairs of one structure or, in the same type, of a batch.

    Every unordered pair stands once, oriented so that ``Z_i <= Z_j``, and the pairs are sorted by
    type, so that the pairs of a type are a slice. Pairs are those that get a matrix block; the
    shorter list `edges` selects those that also carry messages (in both directions).

    Attributes:
        numbers: atomic numbers, ``(A,)``.
        positions: Angstrom, ``(A, 3)``.
        structure: which structure of the batch an atom belongs to, ``(A,)``.
        cells: lattice vectors as rows, Angstrom, ``(B, 3, 3)``.
        pairs: atoms i and j, ``(2, P)``.
        shifts: cell shift R of atom j, ``(P, 3)``.
        edges: pairs within the message cutoff, ``(E,)``.
        pair_types: types present, in the order of the pairs.
        pair_counts: number of pairs of each type.
        elements: atomic numbers present, in rising order.
        element_atoms: atoms of each element, rising: kept here so that no step of a model has to
            look for them and make the host wait for the device.
    """

    numbers: Tensor
    positions: Tensor
    structure: Tensor
    cells: Tensor
    pairs: Tensor
    shifts: Tensor
    edges: Tensor
    pair_types: tuple[PairType, ...]
    pair_counts: tuple[int, ...]
    elements: tuple[int, ...]
    element_atoms: tuple[Tensor, ...]

    @property
    def n_structures(self) -> int:
        """Number of structures in the batch."""
        return len(self.cells)

    def pair_vectors(self) -> Tensor:
        """Return the vectors from atom i to the image of atom j, Angstrom, ``(P, 3)``."""
        i, j = self.pairs
        cells = self.cells[self.structure[i]]  # (P, 3, 3)
        offset = torch.einsum("pr,prx->px", self.shifts.to(self.positions.dtype), cells)
        return self.positions[j] + offset - self.positions[i]

    def pairs_alone(self, start: int, stop: int) -> "NeighbourGraph":
        """Return the graph of some of the pairs, none of whose atoms has a block."""
        ends = np.cumsum([0, *self.pair_counts]).clip(start, stop)
        counts = zip(self.pair_types, np.diff(ends).tolist(), strict=True)
        types, kept = zip(*((t, n) for t, n in counts if n), strict=True)
        return replace(
            self,
            pairs=self.pairs[:, start:stop],
            shifts=self.shifts[start:stop],
            edges=self.edges[:0],
            pair_types=types,
            pair_counts=kept,
            elements=(),
            element_atoms=(),
        )

    def atoms_alone(self) -> "NeighbourGraph":
        """Return the graph without its pairs."""
        none: dict[str, Any] = {"pair_types": (), "pair_counts": ()}
        return replace(
            self, pairs=self.pairs[:, :0], shifts=self.shifts[:0], edges=self.edges[:0], **none
        )

    def to(self, device: torch.device) -> "NeighbourGraph":
        """Return the graph on another device."""

        def move(x: Tensor) -> Tensor:
            return x.to(device)

        return replace(
            self,
            numbers=move(self.numbers),
            positions=move(self.positions),
            structure=move(self.structure),
            cells=move(self.cells),
            pairs=move(self.pairs),
            shifts=move(self.shifts),
            edges=move(self.edges),
            element_atoms=tuple(move(atoms) for atoms in self.element_atoms),
        )


def build_graph(structure: Structure, message_cutoff: float, pair_cutoff: float) -> NeighbourGraph:
    """Return the graph of one structure; positions in float64.

    Args:
        structure: the geometry.
        message_cutoff: pairs closer than this carry messages, Angstrom.
        pair_cutoff: pairs closer than this get a matrix block, Angstrom; at least `message_cutoff`.
    """
    i, j, shift = half_list(structure, pair_cutoff)
    flip = structure.numbers[i] > structure.numbers[j]
    i, j = np.where(flip, j, i), np.where(flip, i, j)
    shift = np.where(flip[:, None], -shift, shift)
    vector = structure.positions[j] + shift @ structure.cell - structure.positions[i]
    distance = np.linalg.norm(vector, axis=1)
    types = np.stack([structure.numbers[i], structure.numbers[j]], axis=1)
    order = np.lexsort((j, i, *shift.T[::-1], types[:, 1], types[:, 0]))
    return _assemble(
        torch.tensor(structure.numbers),
        torch.tensor(structure.positions),
        torch.zeros(len(structure), dtype=torch.int64),
        torch.tensor(structure.cell)[None],
        np.stack([i, j])[:, order],
        shift[order],
        distance[order] < message_cutoff,
        types[order],
    )


def batch_graphs(graphs: Sequence[NeighbourGraph]) -> NeighbourGraph:
    """Return several graphs as one; the pairs are sorted by type again."""
    if len(graphs) == 1:
        return graphs[0]
    first_atom = np.cumsum([0] + [len(g.numbers) for g in graphs])
    first_structure = np.cumsum([0] + [g.n_structures for g in graphs])
    pairs, types, messages = [], [], []
    for g, start in zip(graphs, first_atom, strict=False):
        pairs.append(g.pairs.numpy() + start)
        types.append(np.repeat(np.array(g.pair_types).reshape(-1, 2), g.pair_counts, axis=0))
        flag = np.zeros(g.pairs.shape[1], dtype=bool)
        flag[g.edges.numpy()] = True
        messages.append(flag)
    type_rows = np.concatenate(types)
    order = batch_order(type_rows)
    return _assemble(
        torch.cat([g.numbers for g in graphs]),
        torch.cat([g.positions for g in graphs]),
        torch.cat([g.structure + s for g, s in zip(graphs, first_structure, strict=False)]),
        torch.cat([g.cells for g in graphs]),
        np.concatenate(pairs, axis=1)[:, order],
        np.concatenate([g.shifts.numpy() for g in graphs])[order],
        np.concatenate(messages)[order],
        type_rows[order],
    )


def batch_order(type_rows: IntArray) -> IntArray:
    """Return the stable order that sorts pairs by type; ``type_rows`` is ``[P, 2]``."""
    return np.lexsort((type_rows[:, 1], type_rows[:, 0])).astype(np.int64)


def _assemble(
    numbers: Tensor,
    positions: Tensor,
    structure: Tensor,
    cells: Tensor,
    pairs: IntArray,
    shifts: IntArray,
    carries_message: IntArray,
    type_rows: IntArray,
) -> NeighbourGraph:
    kinds, counts = np.unique(type_rows, axis=0, return_counts=True)
    elements = np.unique(numbers.numpy())
    return NeighbourGraph(
        numbers,
        positions,
        structure,
        cells,
        torch.tensor(pairs, dtype=torch.int64).reshape(2, -1),
        torch.tensor(shifts, dtype=torch.int64).reshape(-1, 3),
        torch.tensor(np.flatnonzero(carries_message), dtype=torch.int64),
        tuple((int(a), int(b)) for a, b in kinds),
        tuple(int(c) for c in counts),
        tuple(int(z) for z in elements),
        tuple(torch.nonzero(numbers == int(z))[:, 0] for z in elements),
    )
