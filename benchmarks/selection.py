"""Is it worth choosing which frames to label? The same number of labels, chosen and at random.

    python benchmarks/selection.py --data ethanol-500k.h5

A few random frames are labelled first, a fifth of them for validation; an instant model chooses the
next from the rest of the pool (`hamnet select`), or they are drawn at random, or those with the
largest uncertainty are taken. All frames have labels already, so the error of the model that is
trained on the larger set is measured on frames that took no part. The same start for all, several
seeds; `h_p95_uha` and `h_max_uha` are the 95 % quantile and the maximum over test frames.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser

from hamnet.data.select import with_split
from hamnet.data.store import Store
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import HamiltonianModel, load_model
from hamnet.prediction import Prediction
from hamnet.structure import IntArray
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.training.selection import select

BATCH = 16


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True, help="Labelled frames.")
    made.add_argument("--name", default="", help="Name of the task in the rows.")
    made.add_argument("--start", type=int, default=20, help="Frames labelled before any choice.")
    made.add_argument("--more", type=int, nargs="+", default=[20], help="Frames of each choice.")
    made.add_argument("--pool", type=int, default=300, help="Frames to choose from.")
    made.add_argument("--test", type=int, default=100, help="Frames to measure on.")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--reference", choices=("none", "sap", "minao"), default="minao")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = made.parse_args()
    if options.quick:
        options.seeds, options.pool, options.test = 1, 40, 20
    with Store.open(options.data) as store:
        rows = [row for seed in range(options.seeds) for row in _rows(options, store, seed)]
    finish(
        [*rows, *_means(rows)],
        options,
        ("task", "seed", "strategy", "labels"),
        reference=options.reference,
        settings=options.set,
    )


def _rows(options: argparse.Namespace, store: Store, seed: int) -> list[dict[str, Any]]:
    order = np.random.default_rng(seed).permutation(len(store))
    test, rest = order[: options.test], order[options.test :]
    first, pool = rest[: options.start], rest[options.start : options.start + options.pool]
    n_validation = max(2, options.start // 5)
    validation, training = first[:n_validation], first[n_validation:]
    rows = []

    def measure(strategy: str, labelled: IntArray) -> HamiltonianModel:
        model = _train(options, seed, {"train": labelled, "validation": validation})
        rows.append(
            {
                "task": options.name or options.data.stem,
                "seed": seed,
                "strategy": strategy,
                "labels": len(labelled) + n_validation,
                **_errors(model, store, test),
            }
        )
        return model

    start = measure("start", training)
    structures = [store.structure(int(k)) for k in pool]
    chosen = select(start, structures, max(options.more)).chosen
    stds = [p.uncertainty["h"] for p in _predict(start, store, pool)]
    choices = {
        "random": np.arange(len(pool)),
        "largest uncertainty": np.argsort(stds)[::-1],
        "select": np.array([one.index for one in chosen]),
    }
    for n in options.more:
        for strategy, which in choices.items():
            measure(strategy, np.concatenate([training, pool[which[:n]]]))
    return rows


def _train(options: argparse.Namespace, seed: int, split: dict[str, IntArray]) -> HamiltonianModel:
    settings = [
        "training.max_steps=0",
        f"training.seed={seed + 1}",
        f"target.reference={options.reference}",
        *options.set,
    ]
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data.h5", Path(folder) / "run"
        rows = {name: np.sort(k) for name, k in split.items()} | {"test": np.zeros(0, np.int64)}
        with_split(options.data, data, rows, {"by": "benchmarks/selection.py"})
        train(data, out, load_config(overrides=settings), report=lambda _: None)
        return load_model(out)


def _predict(model: HamiltonianModel, store: Store, rows: Sequence[int]) -> list[Prediction]:
    return [
        prediction
        for k in range(0, len(rows), BATCH)
        for prediction in model.predict_labelled([store[int(i)] for i in rows[k : k + BATCH]])
    ]


def _errors(model: HamiltonianModel, store: Store, rows: Sequence[int]) -> dict[str, float]:
    predictions = _predict(model, store, rows)
    frames = [frame_metrics(p, store[int(k)]) for p, k in zip(predictions, rows, strict=True)]
    means, h = summarise(frames), np.array([frame["h_mae_uha"] for frame in frames])
    found = {name: means[name] for name in ("h_mae_uha", "eps_occ_mae_mev", "gap_mae_mev")}
    found |= {"h_p95_uha": float(np.quantile(h, 0.95)), "h_max_uha": float(h.max())}
    return {name: round(value, 4) for name, value in found.items()}


def _means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over the seeds of every strategy and number of labels."""
    found = []
    for strategy, labels in dict.fromkeys((row["strategy"], row["labels"]) for row in rows):
        same = [r for r in rows if (r["strategy"], r["labels"]) == (strategy, labels)]
        numbers = [name for name in same[0] if name.endswith(("_uha", "_mev"))]
        means = {name: round(float(np.mean([r[name] for r in same])), 4) for name in numbers}
        found.append({**same[0], "seed": "mean", **means})
    return found


if __name__ == "__main__":
    main()
