"""Evaluate a trained model on a file of labels: on frames that it has not seen."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hamnet.data.identity import hash_ids
from hamnet.data.record import Record
from hamnet.data.splits import split_by_group
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.evaluation.evaluate import Evaluation, evaluate
from hamnet.evaluation.orbital_grids import FrameOrbitals, extreme_frames, frame_orbitals
from hamnet.models import HamiltonianModel
from hamnet.models.metadata import Metadata, library_versions
from hamnet.models.stream import predict_records
from hamnet.registry import look_up
from hamnet.structure import IntArray, symbol

_CARD_KEYS = ("name", "citation", "licence")

SUBSETS = ("train", "validation", "test", "all")


def evaluate_model(
    model: HamiltonianModel,
    store: Store,
    indices: Sequence[int] | IntArray,
    *,
    batch_size: int = 32,
    advance: Callable[[int, str], None] | None = None,
) -> Evaluation:
    """Compare a model's predictions with the labels of a file.

    Args:
        model: the model.
        store: the labels.
        indices: which records; see `choose_records`.
        batch_size: records that the model gets at once.
        advance: is told the number of records done.

    Raises:
        HamnetError: no records, or labels of another level of theory or basis.
    """
    check_comparable(model.metadata, store)
    rows = [int(i) for i in indices]
    stored = model.metadata.reference in ("none", *store.references)

    def records() -> Iterator[Record]:
        for done, row in enumerate(rows, start=1):
            yield store[row]
            if advance:
                advance(done, "")

    outcomes = predict_records(model, records(), batch_size, stored=stored)
    return evaluate(outcomes, store.basis.merged(model.basis), rows)


def show_orbitals(
    model: HamiltonianModel, store: Store, evaluation: Evaluation
) -> tuple[FrameOrbitals, ...]:
    """Return HOMO and LUMO in space of the worst, the median and the best frame.

    They are predicted again, so that an evaluation need not keep every orbital. Crystals have none,
    and spinors are not drawn.

    Args:
        model: the model.
        store: the labels.
        evaluation: of that model on those labels.

    Raises:
        HamnetError: PySCF now defines the basis in another way.
    """
    if store.level.is_spinor:
        return ()
    places: dict[int, list[str]] = {}
    for words, place in extreme_frames(evaluation).items():
        places.setdefault(place, []).append(words)
    frames = {", ".join(words): evaluation.frames[place] for place, words in places.items()}
    stored = model.metadata.reference in ("none", *store.references)
    records = [store[frame.index] for frame in frames.values()]
    found = []
    for (words, frame), (outcome, record) in zip(
        frames.items(), predict_records(model, records, stored=stored), strict=True
    ):
        if not isinstance(outcome, HamnetError) and not record.structure.is_periodic:
            found.append(frame_orbitals(frame, words, outcome, record))
    return tuple(shown for shown in found if shown.orbitals)


def choose_records(metadata: Metadata, store: Store, subset: str) -> IntArray:
    """Return which records of a file are a model's training, validation or test frames.

    Args:
        metadata: the model's.
        store: the labels.
        subset: ``train``, ``validation``, ``test`` or ``all``.

    Raises:
        HamnetError: unknown subset, an empty one, or a file that the model was not trained with
            and that carries no split of its own.
    """
    look_up("split", subset, dict.fromkeys(SUBSETS))
    if subset == "all":
        return np.arange(len(store))
    split = store.split
    if split is None:
        data = metadata.settings.get("data", {})
        split = split_by_group(store.groups, data.get("fractions"), data.get("split_seed", 0))
        used = [store.ids[k] for name in ("train", "validation") for k in split[name]]
        if hash_ids(used) != metadata.data.split_id:
            raise HamnetError(
                f"{store.path}: the model was not trained with this file, so that nobody knows "
                f"which frames are its {subset} split; use --split all"
            )
    if not len(split[subset]):
        raise HamnetError(f"{store.path}: the {subset} split is empty; use --split all")
    return split[subset]


def check_comparable(metadata: Metadata, store: Store) -> None:
    """Check that the labels are what the model predicts.

    Raises:
        HamnetError: another functional, basis or setting; another definition of an element.
    """
    one, two = metadata.level.physics(), store.level.physics()
    for key in sorted(one.keys() | two.keys()):
        if one.get(key) != two.get(key):
            raise HamnetError(
                f"{store.path}: the labels are {store.level}, but the model predicts "
                f"{metadata.level} ({key}: {two.get(key)} there, {one.get(key)} in the model)"
            )
    marks = metadata.basis["fingerprints"]
    for z, mark in store.basis.fingerprints.items():
        if marks.get(symbol(z), mark) != mark:
            raise HamnetError(
                f"{store.path}: the basis '{store.basis.name}' of {symbol(z)} is defined "
                "differently there than in the model's training data"
            )


def provenance(
    model: HamiltonianModel, model_path: Path, store: Store, subset: str
) -> dict[str, Any]:
    """Return what a reader of the results must know, JSON-ready."""
    metadata = model.metadata
    return {
        "model": str(model_path),
        "data": str(store.path),
        "split": subset,
        "level": metadata.level.model_dump(mode="json"),
        "reference": metadata.reference,
        "elements": [symbol(z) for z in model.elements],
        "seed": metadata.seed,
        "training_data": metadata.data.model_dump(mode="json"),
        "training_versions": metadata.versions,
        "versions": library_versions(),
        "dataset": {
            key: store.card[key] for key in ("name", "citation", "licence") if key in store.card
        },
    }
