"""Records of a store as training data."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from hamnet.data.record import Record
from hamnet.data.samples import Sample, batch_samples, record_sample
from hamnet.data.store import Store

CACHE_LIMIT = 4e9
"""Bytes of samples that a process keeps in memory; beyond that they are made anew."""


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

    Args:
        records: the records.
        cutoffs: message and pair cutoff, Angstrom.
        reference: H0 that is subtracted from the target.
    """

    def __init__(
        self, records: RecordDataset, cutoffs: tuple[float, float], reference: str
    ) -> None:
        self.records, self.cutoffs, self.reference = records, cutoffs, reference
        self._cache: dict[int, Sample] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self.records)

    def first(self, n: int) -> "SampleDataset":
        """Return the first n of them."""
        records = RecordDataset(self.records.store, self.records.indices[:n])
        return SampleDataset(records, self.cutoffs, self.reference)

    def __getitem__(self, item: int) -> Sample:
        if item in self._cache:
            return self._cache[item]
        basis = self.records.store.basis
        sample = record_sample(self.records[item], basis, self.cutoffs, self.reference)
        self._bytes += sum(rows.numel() * rows.element_size() for rows in sample.index.values())
        if self._bytes < CACHE_LIMIT:
            self._cache[item] = sample
        return sample


class EpochShuffle(Sampler[int]):
    """A new order every epoch, which depends on the seed and the number of the epoch alone.

    The number is asked for when the epoch begins: a resumed run goes on in the order in which the
    uninterrupted one would have.

    Args:
        n: number of samples.
        seed: of the run.
        epoch: returns the number of the epoch.
    """

    def __init__(self, n: int, seed: int, epoch: Callable[[], int]) -> None:
        self.n, self.seed, self.epoch = n, seed, epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch()))
        yield from generator.permutation(self.n).tolist()


def train_loader(
    dataset: SampleDataset, batch_size: int, seed: int, steps: Callable[[], int]
) -> DataLoader[Sample]:
    """Return shuffled batches; ``steps`` returns the number of gradient steps taken so far."""
    per_epoch = -(-len(dataset) // batch_size)
    sampler = EpochShuffle(len(dataset), seed, lambda: steps() // per_epoch)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=batch_samples)


def plain_loader(dataset: SampleDataset, batch_size: int) -> DataLoader[Sample]:
    """Return batches in the order of the file."""
    return DataLoader(dataset, batch_size=batch_size, collate_fn=batch_samples)


def record_loader(records: RecordDataset, batch_size: int) -> DataLoader[Record]:
    """Return lists of records in the order of the file."""
    return DataLoader(records, batch_size=batch_size, collate_fn=list)
