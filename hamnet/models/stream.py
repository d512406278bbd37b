"""Predict any number of frames; a bad one is an answer too, and takes no other along."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Protocol, TypeVar

from hamnet.data.record import Record
from hamnet.errors import HamnetError
from hamnet.prediction import Prediction
from hamnet.structure import Structure

K = TypeVar("K")
X = TypeVar("X")


class Predictor(Protocol):
    """What predicts: a trained model, or any other way from a structure to a Hamiltonian."""

    def check(self, structure: Structure) -> None:
        """Raise `HamnetError` for a structure that it cannot answer for."""

    def predict(self, systems: list[Structure], *, force: bool = False) -> list[Prediction]:
        """Return one prediction per structure, in the same order."""

    def predict_labelled(self, records: list[Record]) -> list[Prediction]:
        """Return the same, with overlap and reference Hamiltonian of the labels."""


def predict_structures(
    model: Predictor,
    frames: Iterable[tuple[K, Structure | HamnetError]],
    batch_size: int = 32,
    *,
    force: bool = False,
) -> Iterator[tuple[K, Prediction | HamnetError]]:
    """Yield, in order, the prediction of each frame or the reason why there is none.

    Args:
        model: what predicts.
        frames: a key of the caller's and a structure, or the reason why there is none.
        batch_size: structures that the model gets at once.
        force: see `hamnet.models.HamiltonianModel.predict`.
    """
    predict = partial(model.predict, force=True) if force else model.predict
    return _stream(predict, frames, batch_size)


def predict_records(
    model: Predictor, records: Iterable[Record], batch_size: int = 32, *, stored: bool = True
) -> Iterator[tuple[Prediction | HamnetError, Record]]:
    """Yield each record with its prediction, or with the reason why there is none.

    Args:
        model: what predicts.
        records: the labels.
        batch_size: records that the model gets at once.
        stored: take overlap and reference Hamiltonian from the labels; else compute them again.
    """

    def predict(batch: list[Record]) -> list[Prediction]:
        for record in batch:
            model.check(record.structure)
        if stored:
            return model.predict_labelled(batch)
        return model.predict([record.structure for record in batch])

    for record, outcome in _stream(predict, ((r, r) for r in records), batch_size):
        yield outcome, record


def _stream(
    predict: Callable[[list[X]], list[Prediction]],
    items: Iterable[tuple[K, X | HamnetError]],
    batch_size: int,
) -> Iterator[tuple[K, Prediction | HamnetError]]:
    rest = iter(items)
    while batch := list(islice(rest, batch_size)):
        outcomes = iter(_each(predict, [x for _, x in batch if not isinstance(x, HamnetError)]))
        for key, x in batch:
            yield key, x if isinstance(x, HamnetError) else next(outcomes)


def _each(
    predict: Callable[[list[X]], list[Prediction]], batch: list[X]
) -> list[Prediction | HamnetError]:
    """Predict a batch; if it fails, its halves: a few bad frames cost little."""
    try:
        return list(predict(batch)) if batch else []
    except HamnetError as error:
        if len(batch) == 1:
            return [error]
    except (RuntimeError, MemoryError) as error:  # a molecule too large, no convergence of LAPACK
        if len(batch) == 1:
            text = str(error).partition("\n")[0] or "out of memory"
            return [HamnetError(f"the prediction failed: {text}")]
    half = len(batch) // 2
    return _each(predict, batch[:half]) + _each(predict, batch[half:])
