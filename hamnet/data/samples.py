"""Records as the model sees them: graphs, and where each block lies in the flat entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hamnet.basis import OrbitalBasis
from hamnet.blocks import PairLayout
from hamnet.data.record import Record
from hamnet.errors import HamnetError
from hamnet.graph import NeighbourGraph, batch_graphs, build_graph
from hamnet.irreps import BlockType
from hamnet.structure import IntArray, Structure


@dataclass(frozen=True, eq=False)
class Sample:
    """One structure or, in the same type, a batch.

    Attributes:
        graph: atoms and pairs.
        layouts: layout of each structure; their entries lie one after the other.
        index: for each block type the position of each number of a block in the flat entries,
            ``(n_rows, n_i * n_j)``; rows in the order of the graph.
        target: entries of H, or of H - H0, Hartree, float64, ``(n_entries,)``; None if unlabelled.
    """

    graph: NeighbourGraph
    layouts: tuple[PairLayout, ...]
    index: Mapping[BlockType, Tensor]
    target: Tensor | None = None

    def to(self, device: torch.device) -> "Sample":
        """Return the sample on another device."""
        return replace(
            self,
            graph=self.graph.to(device),
            index={t: rows.to(device) for t, rows in self.index.items()},
            target=None if self.target is None else self.target.to(device),
        )

    @property
    def n_entries(self) -> int:
        """Number of entries of all the layouts."""
        return sum(int(layout.boundaries[-1]) for layout in self.layouts)


def make_sample(
    structure: Structure,
    layout: PairLayout,
    basis: OrbitalBasis,
    cutoffs: tuple[float, float],
    target: Tensor | None = None,
) -> Sample:
    """Return the sample of one structure.

    Args:
        structure: the geometry.
        layout: pairs of the matrix; pairs beyond the pair cutoff are left to zero.
        basis: orbitals of each element.
        cutoffs: message and pair cutoff, Angstrom.
        target: entries to learn, ``(n_entries,)``.
    """
    graph = build_graph(structure, *cutoffs)
    return Sample(graph, (layout,), _entry_index(graph, layout, basis), target)


def record_target(record: Record, reference: str) -> Tensor:
    """Return the entries of H - H0 (H for the reference ``none``), ``(n_entries,)``, float64.

    Raises:
        HamnetError: the record has two spin channels, or no such reference.
    """
    if len(record.hamiltonian) != 1:
        raise HamnetError(
            f"record {record.id} ({record.structure.formula}, spin {record.structure.spin}) is an "
            "open shell with two Hamiltonians; models are trained on closed shells"
        )
    h = record.hamiltonian[0]
    if reference != "none":
        if reference not in record.references:
            raise HamnetError(
                f"record {record.id} holds no reference '{reference}' (it holds "
                f"{', '.join(record.references) or 'none'}): label again with it, or train with "
                "target.reference=none"
            )
        h = h - record.references[reference]
    return torch.from_numpy(np.ascontiguousarray(h))


def record_sample(
    record: Record, basis: OrbitalBasis, cutoffs: tuple[float, float], reference: str
) -> Sample:
    """Return a labelled record as a sample; see `make_sample` and `record_target`.

    Raises:
        HamnetError: a crystal; see also `record_target`.
    """
    if record.structure.is_periodic:
        raise HamnetError(
            f"record {record.id} ({record.origin}) is periodic: crystals can be imported, checked, "
            "split and exported, but models learn molecules only"
        )
    target = record_target(record, reference)
    return make_sample(record.structure, record.layout, basis, cutoffs, target)


def batch_samples(samples: Sequence[Sample]) -> Sample:
    """Return several samples as one."""
    if len(samples) == 1:
        return samples[0]
    first = np.cumsum([0] + [s.n_entries for s in samples])
    index: dict[BlockType, list[Tensor]] = {}
    for sample, start in zip(samples, first, strict=False):
        for block_type, rows in sample.index.items():
            index.setdefault(block_type, []).append(rows + int(start))
    targets = [s.target for s in samples if s.target is not None]
    return Sample(
        batch_graphs([s.graph for s in samples]),
        tuple(layout for s in samples for layout in s.layouts),
        {t: torch.cat(parts) for t, parts in index.items()},
        torch.cat(targets) if len(targets) == len(samples) else None,
    )


def _entry_index(
    graph: NeighbourGraph, layout: PairLayout, basis: OrbitalBasis
) -> dict[BlockType, Tensor]:
    """Find the entries of every on-site and pair block of one structure's graph."""
    where = {tuple(pair): k for k, pair in enumerate(layout.atom_pairs.tolist())}
    numbers = graph.numbers.numpy()
    index: dict[BlockType, Tensor] = {}
    for z in np.unique(numbers):
        atoms = np.flatnonzero(numbers == z)
        rows = [where[0, 0, 0, int(a), int(a)] for a in atoms]
        n = basis.n_orbitals(int(z))
        index[BlockType.atom(int(z))] = _positions(layout, rows, [False] * len(rows), (n, n))
    start = 0
    for (z_i, z_j), count in zip(graph.pair_types, graph.pair_counts, strict=True):
        chosen = slice(start, start + count)
        start += count
        found, swapped = [], []
        for (i, j), shift in zip(
            graph.pairs[:, chosen].T.tolist(), graph.shifts[chosen].tolist(), strict=True
        ):
            direct = where.get((*shift, i, j))
            swapped.append(direct is None)
            found.append(where[(*(-s for s in shift), j, i)] if direct is None else direct)
        shape = basis.n_orbitals(z_i), basis.n_orbitals(z_j)
        index[BlockType.pair((z_i, z_j))] = _positions(layout, found, swapped, shape)
    return index


def _positions(
    layout: PairLayout, pairs: Sequence[int], swapped: Sequence[bool], shape: tuple[int, int]
) -> Tensor:
    """Return the entries of blocks as rows, transposed where the stored pair is (j, i)."""
    local: IntArray = np.arange(shape[0] * shape[1])
    transposed = local.reshape(shape[1], shape[0]).T.ravel()
    starts = layout.boundaries[:-1][np.asarray(pairs, dtype=np.int64)]
    rows = np.where(np.asarray(swapped)[:, None], transposed, local) + starts[:, None]
    return torch.from_numpy(rows)
