"""Tasks of the accuracy benchmark: regenerable data, and how they are divided."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hamnet.data.select import with_split
from hamnet.data.splits import split_by_group, split_of
from hamnet.data.store import Store
from hamnet.structure import IntArray
from hamnet_datasets.jobs import Options, label_recipe
from hamnet_datasets.recipes import SamplingMethod, load_recipe

Split = dict[str, IntArray]
FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Data:
    """Labels that a shipped recipe makes.

    Attributes:
        recipe: its name.
        method: sampling; None for the recipe's own.
        n_frames: of the first frames; None for all.
    """

    recipe: str
    method: SamplingMethod | None = None
    n_frames: int | None = None


DATA: Mapping[str, Data] = {
    "water-500k": Data("water-pbe-svp", "langevin"),
    "water-300k": Data("water-pbe-svp", "normal-modes", 500),
    "ethanol-500k": Data("ethanol-b3lyp5-svp", "langevin", 1000),
    "ethanol-500k-more": Data("ethanol-b3lyp5-svp", "langevin"),
    "mixed": Data("mixed-b3lyp5-svp", "normal-modes", 260),
    "mixed-more": Data("mixed-b3lyp5-svp", "normal-modes"),
    "water-gauss": Data("water-gauss-pbe-svp"),
    "ethanol-gauss": Data("ethanol-gauss-b3lyp-svp"),
}
"""Stems of the files in ``benchmarks/data``."""


@dataclass(frozen=True)
class Task:
    """What to train on and what to test on.

    Attributes:
        data: see `DATA`.
        split: makes the subsets.
        held_out: data of another temperature, whose test frames are predicted as well.
    """

    data: str
    split: Callable[[Store], Split]
    held_out: str | None = None


def by_group(*fractions: float) -> Callable[[Store], Split]:
    """Divide trajectories or molecules, or take the file's own split."""
    return lambda store: split_of(store, fractions)


def by_group_and_more(n_frames: int, *fractions: float) -> Callable[[Store], Split]:
    """Divide the molecules of the first frames; all others are trained on."""

    def split(store: Store) -> Split:
        first = split_by_group(store.groups[:n_frames], fractions)
        others = np.arange(n_frames, len(store))
        return {**first, "train": np.concatenate([first["train"], others])}

    return split


def by_heavy_atoms(store: Store) -> Split:
    """Train on up to 5 heavy atoms, validate on 6, test on 7 to 9."""
    n = np.array([(store[k].structure.numbers > 1).sum() for k in range(len(store))])
    masks = {"train": n <= 5, "validation": n == 6, "test": n >= 7}
    return {name: np.flatnonzero(mask).astype(np.int64) for name, mask in masks.items()}


TASKS: Mapping[str, Task] = {
    "water": Task("water-500k", by_group(0.5, 0.1, 0.4), held_out="water-300k"),
    "water-300k": Task("water-300k", by_group(0.5, 0.1, 0.4), held_out="water-500k"),
    "ethanol": Task("ethanol-500k", by_group(0.5, 0.1, 0.4)),
    "ethanol-more": Task("ethanol-500k-more", by_group(2 / 3, 1 / 15, 4 / 15)),
    "mixed": Task("mixed", by_group(0.7, 0.1, 0.2)),
    "mixed-more": Task("mixed-more", by_group_and_more(260, 0.7, 0.1, 0.2)),
    "size": Task("mixed", by_heavy_atoms),
    "water-gauss": Task("water-gauss", by_group(0.8, 0.1, 0.1)),
    "ethanol-gauss": Task("ethanol-gauss", by_group(0.8, 0.1, 0.1)),
}
"""Those of water and ethanol are divided by trajectory, mixed by molecule; mixed-more validates and
tests on the molecules of mixed."""


def labels(name: str, limit: int | None = None) -> Path:
    """Return the labels of `DATA`, made if absent; with a limit, of fewer frames."""
    data = DATA[name]
    path = FOLDER / (f"{name}-{limit}.h5" if limit else f"{name}.h5")
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        options = Options(limit=limit or data.n_frames)
        label_recipe(load_recipe(data.recipe), path, method=data.method, options=options)
    return path


def first_frames(rows: IntArray, n: int | None) -> IntArray:
    """Return n of the rows; a larger n gives the same and more, so that learning curves nest.

    They are drawn from all of them: the first frames of a file are of one trajectory.
    """
    order = np.random.default_rng(0).permutation(len(rows))
    return rows if n is None else np.sort(rows[order[:n]])


def divide(task: Task, path: Path, folder: Path, n_frames: int | None) -> Path:
    """Write the labels with the task's split into a folder, and return the file."""
    with Store.open(path) as store:
        split = dict(task.split(store))
    split["train"] = first_frames(split["train"], n_frames)
    out = folder / path.name
    with_split(path, out, split, {"benchmark": "accuracy", "train_frames": len(split["train"])})
    return out
