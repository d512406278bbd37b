"""Records of a store as training data, kept in memory ready for the loss while they fit."""

import math
from collections.abc import Callable, Iterable

import numpy as np
from torch.utils.data import Dataset

from hamnet.data.record import Record
from hamnet.data.samples import Sample, record_sample, record_target
from hamnet.data.store import Store
from hamnet.references import Reference

CACHE_LIMIT = 4e9
"""Bytes of samples that a process keeps in memory; beyond that they are made anew."""

SUPPORT = 1e-5
"""Hartree (and the same for S); pairs of crystals whose blocks are smaller set no cutoff."""


def support_radius(records: Iterable[Record]) -> float:
    """Return the largest distance of two atoms whose block of H - mu S or S is not negligible.

    A crystal's labels know themselves how far H reaches: Angstrom, rounded up to a tenth.
    """
    largest = 0.0
    for record in records:
        layout = record.layout
        pairs = layout.atom_pairs
        matrices = record_target(record).numpy().reshape(-1, layout.n_entries)
        size = np.abs(np.concatenate([matrices, record.overlap[None]])).max(axis=0)
        kept = np.maximum.reduceat(size, layout.boundaries[:-1]) > SUPPORT
        i, j = pairs[kept, 3], pairs[kept, 4]
        positions = record.structure.positions
        vector = positions[j] + pairs[kept, :3] @ record.structure.cell - positions[i]
        largest = max(largest, float(np.linalg.norm(vector, axis=1).max()))
    return math.ceil(10 * largest + 1e-6) / 10


class RecordDataset(Dataset[Record]):
    """Some records of a store.

    Args:
        store: the file.
        indices: which records.
    """

    def __init__(self, store: Store, indices: Iterable[int]) -> None:
        self.store, self.indices = store, [int(i) for i in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Record:
        return self.store[self.indices[item]]


class SampleDataset(Dataset[Sample]):
    """The same as samples of a model, kept in memory while they fit.

    Attributes:
        prepare: applied once to a sample before it is kept, such as
            `hamnet.models.HamiltonianModel.with_goals`; set when the model's units are known.

    Args:
        records: the records.
        cutoffs: message and pair cutoff, Angstrom.
        reference: H0 that is subtracted from the target.
    """

    def __init__(
        self, records: RecordDataset, cutoffs: tuple[float, float], reference: Reference
    ) -> None:
        self.records, self.cutoffs, self.reference = records, cutoffs, reference
        self.prepare: Callable[[Sample], Sample] | None = None
        self._cache: dict[int, Sample] = {}
        self._bytes = 0
        self._n_pairs: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int) -> Sample:
        sample = kept = self._cache.get(item)
        if sample is None:
            basis = self.records.store.basis
            sample = record_sample(self.records[item], basis, self.cutoffs, self.reference)
            self._n_pairs[item] = sample.n_pairs
        if self.prepare is not None and not sample.goals:
            sample = self.prepare(sample)
        if sample is not kept:
            self._keep(item, sample)
        return sample

    @property
    def groups(self) -> list[str]:
        """Return the group of each sample; its number where not all groups are known."""
        names = self.records.store.groups
        found = [names[k] for k in self.records.indices]
        if len(set(found)) < 2 or "" in found:
            return [str(k) for k in range(len(self))]
        return found

    def n_pairs(self, item: int) -> int:
        """Return the number of directed pairs of a sample."""
        if item not in self._n_pairs:
            self[item]
        return self._n_pairs[item]

    def _keep(self, item: int, sample: Sample) -> None:
        old = self._cache.pop(item, None)
        if old is not None:
            self._bytes -= old.n_bytes
        if self._bytes + sample.n_bytes < CACHE_LIMIT:
            self._bytes += sample.n_bytes
            self._cache[item] = sample
