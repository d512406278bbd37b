"""New files from existing ones: several merged into one, some records, another split."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hamnet.data import schema
from hamnet.data.failure import Failure
from hamnet.data.hdf5 import Description, Lengths, write_hdf5
from hamnet.data.level import check_same_level
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.files import replacing
from hamnet.structure import IntArray


@dataclass(frozen=True)
class Merged:
    """What became of several files.

    Attributes:
        n_records: records in the new file.
        n_repeated: records that more than one file held.
    """

    n_records: int
    n_repeated: int


def merge(paths: Sequence[Path], out: Path) -> Merged:
    """Write the records of several files into one; each record once, in the order of the files.

    Splits are kept where every file has one.

    Raises:
        HamnetError: nothing to merge; two levels of theory, references or definitions of a basis;
            ``out`` exists; it cannot be written.
    """
    if out.exists():
        raise HamnetError(f"{out} exists: give the merged file another name, or remove it")
    with ExitStack() as stack:
        stores = [stack.enter_context(Store.open(path)) for path in paths]
        if not stores:
            raise HamnetError("nothing to merge: give at least one dataset")
        first = stores[0]
        basis = first.basis
        for store in stores[1:]:
            check_same_level(store.level, first.level, str(store.path))
            if store.references != first.references:
                raise HamnetError(
                    f"{store.path} holds the references {', '.join(store.references) or 'none'}, "
                    f"but {first.path} {', '.join(first.references) or 'none'}: they cannot be "
                    "merged"
                )
            basis = basis.merged(store.basis)
        chosen = _distinct(stores)
        lengths = Lengths()
        for store, indices in zip(stores, chosen, strict=True):
            part = store.lengths(indices)
            lengths.frames += part.frames
            for counter, n in part.counters.items():
                lengths.counters[counter] += n
        description = Description(
            first.level, basis, first.references, _card(stores, out), _failures(stores)
        )
        rows = (row for s, indices in zip(stores, chosen, strict=True) for row in s.rows(indices))
        _write(out, description, rows, lengths, _joined_split(stores, chosen))
        return Merged(lengths.frames, sum(map(len, stores)) - lengths.frames)


def with_split(
    path: Path, out: Path, split: Mapping[str, IntArray], made_by: Mapping[str, Any]
) -> None:
    """Write a copy of a file with another split; ``out`` may be the file itself.

    Args:
        path: the file.
        out: the new file.
        split: row numbers by subset.
        made_by: how the split was made, for the card.

    Raises:
        HamnetError: the file is damaged, or the new one cannot be written.
    """
    with Store.open(path) as store:
        card = {**store.card, "split": dict(made_by)}
        description = Description(
            store.level, store.basis, store.references, card, tuple(store.failures)
        )
        _write(out, description, store.rows(), store.lengths(), split)


def _write(
    out: Path,
    description: Description,
    rows: Iterator[schema.Row],
    lengths: Lengths,
    split: Mapping[str, IntArray] | None,
) -> None:
    temporary = out.with_name(f"{out.name}.{os.getpid()}.new")
    with replacing(temporary) as partial:  # says what is wrong with the disk
        write_hdf5(partial, description, rows, lengths, split)
    os.replace(temporary, out)


def _distinct(stores: Sequence[Store]) -> list[list[int]]:
    seen: set[str] = set()
    chosen: list[list[int]] = []
    for store in stores:
        chosen.append([k for k, i in enumerate(store.ids) if i not in seen])
        seen.update(store.ids)
    return chosen


def _joined_split(
    stores: Sequence[Store], chosen: Sequence[Sequence[int]]
) -> dict[str, IntArray] | None:
    parts: dict[str, list[int]] = {name: [] for name in schema.SUBSETS}
    start = 0
    for store, indices in zip(stores, chosen, strict=True):
        if store.split is None:
            return None
        place = {old: start + new for new, old in enumerate(indices)}
        for name, members in store.split.items():
            parts[name] += [place[k] for k in members.tolist() if k in place]
        start += len(indices)
    return {name: np.array(members, dtype=np.int64) for name, members in parts.items()}


def _card(stores: Sequence[Store], out: Path) -> dict[str, Any]:
    card: dict[str, Any] = {"name": out.stem, "merged_from": [s.path.name for s in stores]}
    for key in ("citation", "licence", "source", "recipe", "hamnet_version", "pyscf_version"):
        values = dict.fromkeys(str(s.card[key]) for s in stores if s.card.get(key))
        if values:
            card[key] = "; ".join(values)
    return card


def _failures(stores: Iterable[Store]) -> tuple[Failure, ...]:
    labelled = {origin for store in stores for origin in store.origins}
    failures = {f.origin: f for store in stores for f in store.failures}
    return tuple(f for origin, f in failures.items() if origin not in labelled)
