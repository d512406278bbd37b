"""Batches by molecules or by pairs, the same ones whatever the number of processes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hamnet.data.record import Record
from hamnet.data.samples import Sample, batch_samples
from hamnet.training import parallel
from hamnet.training.config import TrainingConfig
from hamnet.training.dataset import SampleDataset


def cut(order: Sequence[int], dataset: SampleDataset, settings: TrainingConfig) -> list[list[int]]:
    """Cut an order of samples into batches.

    With ``training.batch_pairs`` a batch is full when the next sample would bring it above so many
    directed pairs (a larger sample is a batch of its own); otherwise it holds
    ``training.batch_size`` samples.
    """
    if settings.batch_pairs is None:
        n = settings.batch_size
        return [list(order[k : k + n]) for k in range(0, len(order), n)]
    batches: list[list[int]] = []
    total = 0
    for item in order:
        n_pairs = dataset.n_pairs(item)
        if not batches or total + n_pairs > settings.batch_pairs:
            batches.append([])
            total = 0
        batches[-1].append(item)
        total += n_pairs
    return batches


@dataclass(frozen=True, eq=False)
class Share:
    """One process's part of a batch.

    Attributes:
        sample: the part.
        counts: False where a batch has fewer samples than there are processes: this one takes part
            in the step with a sample of another process, at weight zero.
    """

    sample: Sample
    counts: bool = True


class TrainingBatches:
    """Shuffled batches of one epoch after another.

    The order depends on the seed and the number of the epoch alone. The number is asked for when
    the epoch begins: a resumed run goes on in the order in which the uninterrupted one would have.

    Args:
        dataset: the samples.
        settings: seed and size of a batch, counted over all processes.
        epoch: returns the number of the epoch.
    """

    def __init__(
        self, dataset: SampleDataset, settings: TrainingConfig, epoch: Callable[[], int]
    ) -> None:
        self.dataset, self.settings, self.epoch = dataset, settings, epoch

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the samples of every batch of an epoch."""
        generator = np.random.default_rng((self.settings.seed, epoch))
        return cut(generator.permutation(len(self.dataset)).tolist(), self.dataset, self.settings)

    def __len__(self) -> int:
        if self.settings.batch_pairs is not None:
            raise TypeError("the number of batches differs from epoch to epoch")
        return math.ceil(len(self.dataset) / self.settings.batch_size)

    def __iter__(self) -> Iterator[Share]:
        for chosen in self.plan(self.epoch()):
            own = parallel.share(chosen)
            samples = [self.dataset[k] for k in own or chosen[:1]]
            yield Share(batch_samples(samples), counts=bool(own))


def sample_batches(
    dataset: SampleDataset,
    settings: TrainingConfig,
    limit: int | None = None,
    *,
    shared: bool = True,
) -> Iterator[Sample]:
    """Yield batches in the order of the file.

    Args:
        dataset: the samples.
        settings: size of a batch.
        limit: number of samples, all by default.
        shared: this process's share of the batches, and not all of them.
    """
    batches = cut(range(len(dataset))[:limit], dataset, settings)
    for chosen in parallel.share(batches) if shared else batches:
        yield batch_samples([dataset[k] for k in chosen])


def group_batches(dataset: SampleDataset, settings: TrainingConfig) -> Iterator[Sample]:
    """Yield this process's share of batches of one group each; a larger group is cut."""
    members: dict[str, list[int]] = {}
    for k, name in enumerate(dataset.groups):
        members.setdefault(name, []).append(k)
    batches = [some for group in members.values() for some in cut(group, dataset, settings)]
    for chosen in parallel.share(batches):
        yield batch_samples([dataset[k] for k in chosen])


class RecordBatches:
    """Labelled records in lists, in the order of the file.

    Args:
        dataset: the samples of the same records.
        settings: size of a batch.
        limit: number of records, all by default.
        shared: this process's share of every list, and not all of it.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        settings: TrainingConfig,
        limit: int | None = None,
        *,
        shared: bool = True,
    ) -> None:
        self.dataset, self.shared = dataset, shared
        self._batches = cut(range(len(dataset))[:limit], dataset, settings)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Record]]:
        for chosen in self._batches:
            own = parallel.share(chosen) if self.shared else chosen
            yield [self.dataset.records[k] for k in own]
