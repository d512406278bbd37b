"""Is it worth choosing which frames to label? The same number of labels, chosen and at random.

    python benchmarks/selection.py --data ethanol-500k.h5

A few random frames are labelled first, a fifth of them for validation; an instant model chooses
the next from the rest of the pool (`hamnet select`), or they are drawn at random, or those with the
largest uncertainty are taken, or those with the largest error, which nobody knows without their
labels. All frames have labels already, so the error of the model that is trained on the larger set
is measured on frames that took no part. The same start for all, several seeds, several random draws
for each. `h_rmse_uha` is the root mean square over all frames and
elements, `h_p95_uha` and `h_max_uha` are the 95 % quantile and the maximum over test frames.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser

from hamnet.blocks import entry_weights
from hamnet.data.record import Record
from hamnet.data.select import with_split
from hamnet.data.store import Store
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import HamiltonianModel, load_model
from hamnet.prediction import Prediction
from hamnet.structure import IntArray
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.training.selection import select
from hamnet.units import HARTREE_TO_UHA

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
    made.add_argument("--first-seed", type=int, default=0)
    made.add_argument("--draws", type=int, default=3, help="Random choices for each seed.")
    made.add_argument("--reference", choices=("none", "sap", "minao"), default="minao")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = made.parse_args()
    if options.quick:
        options.seeds, options.draws, options.pool, options.test = 1, 1, 40, 20
    with Store.open(options.data) as store:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        rows = [row for seed in seeds for row in _rows(options, store, seed)]
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
    known = [store.structure(int(k)) for k in training]
    chosen = select(start, known, structures, max(options.more)).chosen
    predictions = _predict(start, store, pool)
    stds = [p.uncertainty["h"] for p in predictions]
    errors = [_square(p, store[int(k)]) for p, k in zip(predictions, pool, strict=True)]
    draws = np.random.default_rng(seed)
    choices = [("random", draws.permutation(len(pool))) for _ in range(options.draws)]
    choices += [
        ("largest uncertainty", np.argsort(stds)[::-1]),
        ("largest error", np.argsort(errors)[::-1]),
        ("select", np.array([one.index for one in chosen])),
    ]
    for n in options.more:
        for strategy, which in choices:
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
    square = [_square(p, store[int(k)]) for p, k in zip(predictions, rows, strict=True)]
    found = {name: means[name] for name in ("h_mae_uha", "eps_occ_mae_mev", "gap_mae_mev")}
    found["h_rmse_uha"] = HARTREE_TO_UHA * float(np.sqrt(np.mean(square)))
    found |= {"h_p95_uha": float(np.quantile(h, 0.95)), "h_max_uha": float(h.max())}
    return {name: round(value, 4) for name, value in found.items()}


def _square(prediction: Prediction, record: Record) -> float:
    """Return the mean squared error of H, Hartree^2."""
    weight = entry_weights(record.layout)
    error = (prediction.hamiltonian.entries - record.hamiltonian).ravel()
    return float(error**2 @ weight / weight.sum())


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
