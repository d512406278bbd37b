"""Records as the model sees them: graphs, and where each block lies in the flat entries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, PairLayout, SpinKind, canonical, energy_zero
from hamnet.data.record import Record
from hamnet.density import loewdin_density
from hamnet.errors import HamnetError
from hamnet.graph import NeighbourGraph, batch_graphs, build_graph
from hamnet.irreps import BlockType
from hamnet.references import Reference
from hamnet.structure import FloatArray, IntArray, Structure

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Sample:
    """One structure or, in the same type, a batch.

    Attributes:
        graph: atoms and pairs.
        layouts: layout of each structure; their entries lie one after the other.
        index: for each block type the position of each number of a block in the flat entries,
            ``(n_rows, n_matrices * n_i * n_j)``; rows in the order of the graph.
        target: entries of H, or of H - H0, Hartree, float64, ``(n_entries,)``; None if unlabelled.
            Those of the four matrices of a spinor Hamiltonian follow each other, structure by
            structure.
        goals: what a model's training wants of each block type: standardised irreps,
            ``(n_rows, n_numbers)``, float64; see `hamnet.models.HamiltonianModel.with_goals`.
        traces: the same of the label invariants, ``(n_rows, n_irreps)``.
        density: on-site blocks of the density of H0's orbitals (`hamnet.density`) of each element,
            ``(n_atoms, n_i * n_i)``, float64; empty where there is none.
        spin_kind: one matrix a structure, or four.
    """

    graph: NeighbourGraph
    layouts: tuple[PairLayout, ...]
    index: Mapping[BlockType, Tensor]
    target: Tensor | None = None
    goals: Mapping[BlockType, Tensor] = field(default_factory=dict)
    traces: Mapping[BlockType, Tensor] = field(default_factory=dict)
    density: Mapping[BlockType, Tensor] = field(default_factory=dict)
    spin_kind: SpinKind = SpinKind.CLOSED

    def to(self, device: torch.device) -> "Sample":
        """Return the sample on another device."""
        return replace(
            self,
            graph=self.graph.to(device),
            index={t: rows.to(device) for t, rows in self.index.items()},
            target=None if self.target is None else self.target.to(device),
            goals={t: rows.to(device) for t, rows in self.goals.items()},
            traces={t: rows.to(device) for t, rows in self.traces.items()},
            density={t: rows.to(device) for t, rows in self.density.items()},
        )

    @property
    def n_bytes(self) -> int:
        """Memory of the numbers that belong to blocks."""
        tables = (self.index, self.goals, self.traces, self.density)
        tensors = [rows for table in tables for rows in table.values()]
        return sum(x.nbytes for x in tensors) + (0 if self.target is None else self.target.nbytes)

    @property
    def n_messages(self) -> int:
        """Number of directed pairs that exchange messages."""
        return 2 * len(self.graph.edges)

    @property
    def n_pairs(self) -> int:
        """Number of directed pairs, to which time and memory of a step are proportional."""
        return 2 * self.graph.pairs.shape[1]

    @property
    def n_entries(self) -> int:
        """Number of entries of all matrices."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each structure."""
        return [self.spin_kind * int(layout.boundaries[-1]) for layout in self.layouts]


def make_sample(
    structure: Structure,
    layout: PairLayout | None,
    basis: OrbitalBasis,
    cutoffs: tuple[float, float],
    target: Tensor | None = None,
    spin_kind: SpinKind = SpinKind.CLOSED,
) -> Sample:
    """Return the sample of one structure.

    Args:
        structure: the geometry.
        layout: pairs of the matrix, those beyond the pair cutoff are left to zero, and those of a
            crystal within it that the layout lacks (vanishing blocks) are appended; None: only the
            pairs within it, so that nothing grows faster than the number of atoms.
        basis: orbitals of each element.
        cutoffs: message and pair cutoff, Angstrom.
        target: entries to learn, ``(n_entries,)``.
        spin_kind: one matrix, or the four of a spinor Hamiltonian.
    """
    graph = build_graph(structure, *cutoffs)
    if layout is None:
        layout = cutoff_layout(graph, basis.atom_offsets(structure.numbers))
    elif structure.is_periodic:
        layout, target = _completed(layout, graph, target, spin_kind)
    index = _entry_index(graph, layout, basis, spin_kind)
    return Sample(graph, (layout,), index, target, spin_kind=spin_kind)


def _completed(
    layout: PairLayout, graph: NeighbourGraph, target: Tensor | None, spin_kind: SpinKind
) -> tuple[PairLayout, Tensor | None]:
    """Append the pairs of a crystal's graph that its labels lack: their blocks vanish."""
    pairs, _ = _canonical_pairs(graph)
    known, wanted, found = _look_up(layout, pairs)
    missing = pairs[known[found] != wanted]
    if not len(missing):
        return layout, target
    whole = PairLayout(np.concatenate([layout.atom_pairs, missing]), layout.atom_offsets)
    if target is not None:
        extra = int(whole.boundaries[-1]) - int(layout.boundaries[-1])
        target = nn.functional.pad(target.view(spin_kind, -1), (0, extra)).flatten()
    return whole, target


def record_reference(
    record: Record, reference: Reference, basis: OrbitalBasis
) -> FloatArray | None:
    """Return the entries of a record's H0, ``[n_matrices, n_entries]``; None of ``none``.

    Raises:
        HamnetError: it holds no such reference.
    """
    kind = reference.kind
    if kind == "none":
        return None
    if kind not in record.references:
        raise HamnetError(
            f"record {record.id} holds no reference '{kind}' (it holds "
            f"{', '.join(record.references) or 'none'}): label again with it, or train with "
            "target.reference=none"
        )
    h0 = record.references[kind]
    return reference.improved(h0, record.structure, basis, record.blocks("overlap"))


def record_target(record: Record, h0: FloatArray | None = None) -> Tensor:
    """Return the entries of H - H0 (H for no H0), ``(n_entries,)``, float64.

    Of a crystal, of ``H - mu S``: see `hamnet.blocks.energy_zero`.

    Raises:
        HamnetError: the record has two spin channels.
    """
    if record.spin_kind is SpinKind.COLLINEAR:
        raise HamnetError(
            f"record {record.id} ({record.structure.formula}, spin {record.structure.spin}) is an "
            "open shell with two Hamiltonians; models are trained on closed shells"
        )
    h = np.array(record.hamiltonian)
    if h0 is not None:
        h -= h0
    if record.structure.is_periodic:
        zero = energy_zero(record.blocks("hamiltonian"), record.blocks("overlap"))
        h[0] -= zero * record.overlap
    return torch.from_numpy(h.reshape(-1))


def record_sample(
    record: Record, basis: OrbitalBasis, cutoffs: tuple[float, float], reference: Reference
) -> Sample:
    """Return a labelled record as a sample; see `make_sample` and `record_target`.

    Raises:
        HamnetError: see `record_reference` and `record_target`.
    """
    return sample_beside(
        record, basis, cutoffs, record_reference(record, reference, basis), reference
    )


def sample_beside(
    record: Record,
    basis: OrbitalBasis,
    cutoffs: tuple[float, float],
    h0: FloatArray | None,
    reference: Reference,
) -> Sample:
    """Return the same where the record's H0 (`record_reference`) is known already."""
    target, kind = record_target(record, h0), record.spin_kind
    sample = make_sample(record.structure, record.layout, basis, cutoffs, target, kind)
    if h0 is None or not has_density(reference.kind, kind):
        return sample
    n_electrons = round(float(record.occupations.sum()))
    return with_density(sample, h0, record.blocks("overlap"), n_electrons)


def has_density(reference: str, spin_kind: SpinKind) -> bool:
    """Return whether samples of molecules have the density of H0's orbitals.

    That of ``sap`` makes models worse than none (``docs/results.md``).
    """
    return reference == "minao" and spin_kind is SpinKind.CLOSED


def with_density(
    sample: Sample, h0: FloatArray, overlap: HamiltonianBlocks, n_electrons: int
) -> Sample:
    """Return the sample of a molecule with the density of H0's orbitals.

    Args:
        sample: one structure, with the layout of its overlap.
        h0: entries of H0, Hartree, ``[1, n_entries]``.
        overlap: S.
        n_electrons: electrons, without those of core potentials.
    """
    blocks = HamiltonianBlocks(overlap.layout, h0)
    q = torch.from_numpy(loewdin_density(blocks, overlap, n_electrons))
    return replace(sample, density={t: q[at] for t, at in sample.index.items() if t.on_site})


def batch_samples(samples: Sequence[Sample]) -> Sample:
    """Return several samples as one."""
    if len(samples) == 1:
        return samples[0]
    first = np.cumsum([0] + [s.n_entries for s in samples])
    shifted = [
        {t: rows + int(start) for t, rows in sample.index.items()}
        for sample, start in zip(samples, first, strict=False)
    ]
    targets = [s.target for s in samples if s.target is not None]
    return Sample(
        batch_graphs([s.graph for s in samples]),
        tuple(layout for s in samples for layout in s.layouts),
        _join(shifted),
        torch.cat(targets) if len(targets) == len(samples) else None,
        _join([s.goals for s in samples]),
        _join([s.traces for s in samples]),
        _join([s.density for s in samples]),
        samples[0].spin_kind,
    )


def cutoff_layout(graph: NeighbourGraph, atom_offsets: IntArray) -> PairLayout:
    """Return the layout of one structure that has the on-site blocks and the pairs of its graph.

    Its size is proportional to the number of atoms, where that of a full matrix grows with the
    square.
    """
    pairs, _ = _canonical_pairs(graph)
    atoms = np.zeros((len(graph.numbers), 5), dtype=np.int64)
    atoms[:, 3] = atoms[:, 4] = np.arange(len(atoms))
    every = np.concatenate([atoms, pairs])
    return PairLayout(every[np.lexsort(every.T[::-1])], np.asarray(atom_offsets, dtype=np.int64))


def _canonical_pairs(graph: NeighbourGraph) -> tuple[IntArray, BoolArray]:
    """Return the graph's pairs as rows ``(R1, R2, R3, i, j)``, and where i and j were swapped."""
    return canonical(np.concatenate([graph.shifts.numpy(), graph.pairs.numpy().T], axis=1))


def _join(tables: Sequence[Mapping[BlockType, Tensor]]) -> dict[BlockType, Tensor]:
    """Return the rows of several samples one after the other, as `batch_graphs` orders them."""
    found: dict[BlockType, list[Tensor]] = {}
    for table in tables:
        for block_type, rows in table.items():
            found.setdefault(block_type, []).append(rows)
    return {t: torch.cat(parts) for t, parts in found.items()}


def _entry_index(
    graph: NeighbourGraph, layout: PairLayout, basis: OrbitalBasis, spin_kind: SpinKind
) -> dict[BlockType, Tensor]:
    """Find the entries of every on-site and pair block of one structure's graph."""
    numbers = graph.numbers.numpy()
    pairs, reverse = _canonical_pairs(graph)
    atoms = np.zeros((len(numbers), 5), dtype=np.int64)
    atoms[:, 3] = atoms[:, 4] = np.arange(len(numbers))
    found = _find(layout, np.concatenate([atoms, pairs]))
    starts = layout.boundaries[:-1][found]
    index: dict[BlockType, Tensor] = {}
    for z in np.unique(numbers):
        n, chosen = basis.n_orbitals(int(z)), np.flatnonzero(numbers == z)
        index[BlockType.atom(int(z))] = _positions(starts[chosen], reverse[:0], (n, n))
    first = 0
    for (z_i, z_j), count in zip(graph.pair_types, graph.pair_counts, strict=True):
        rows = slice(first, first + count)
        first += count
        shape = basis.n_orbitals(z_i), basis.n_orbitals(z_j)
        index[BlockType.pair((z_i, z_j))] = _positions(
            starts[len(numbers) :][rows], reverse[rows], shape
        )
    if spin_kind is SpinKind.SPINOR:
        matrices = layout.n_entries * torch.arange(spin_kind)
        index = {t: (matrices[:, None] + x[:, None]).flatten(1) for t, x in index.items()}
    return index


def _find(layout: PairLayout, pairs: IntArray) -> IntArray:
    """Return the number in the layout of each canonical pair, ``[P, 5]``.

    Raises:
        HamnetError: the layout has no such pair.
    """
    known, wanted, found = _look_up(layout, pairs)
    if (missing := known[found] != wanted).any():
        raise HamnetError(
            f"the matrix has no block for the pair {pairs[missing][0].tolist()} (R1, R2, R3, i, j) "
            "within the pair cutoff"
        )
    return found


def _look_up(layout: PairLayout, pairs: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return a key of each pair of the layout, of each wanted pair, and where the latter stands.

    A wanted pair ``k`` is in the layout if ``known[found[k]] == wanted[k]``.
    """
    every = np.concatenate([layout.atom_pairs, pairs])
    low = every.min(axis=0)
    keys = np.ravel_multi_index(tuple((every - low).T), tuple(every.max(axis=0) - low + 1))
    known, wanted = np.split(keys, [len(layout.atom_pairs)])
    order = np.argsort(known)
    found = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    return known, wanted, np.asarray(found)


def _positions(starts: IntArray, swapped: BoolArray, shape: tuple[int, int]) -> Tensor:
    """Return the entries of blocks as rows, transposed where the stored pair is (j, i).

    Args:
        starts: first entry of each block.
        swapped: where that is the case, for each block; empty: nowhere.
        shape: orbitals on the atoms of the graph's pair.
    """
    local: IntArray = np.arange(shape[0] * shape[1])
    rows = starts[:, None] + local
    if swapped.any():
        rows[swapped] += local.reshape(shape[1], shape[0]).T.ravel() - local
    return torch.from_numpy(rows)
