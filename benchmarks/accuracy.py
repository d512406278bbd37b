"""Errors on frames that were never seen, after a given wall time of training.

    python benchmarks/accuracy.py --data water-gauss.h5 --task water-gauss --reference none

The file must carry its split. A second row shows the same model without gradient steps: random
features and the solved readout.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import finish, parser

from hamnet.data.store import Store
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import load_model
from hamnet.training.config import load_config
from hamnet.training.run import train


def main() -> None:
    options = _options()
    budgets = [("instant", ["training.max_steps=0"])]
    if options.minutes > 0:
        budgets.append(("trained", [f"training.max_minutes={options.minutes}"]))
    rows = [_row(options, name, settings) for name, settings in budgets]
    finish(rows, options.json, task=options.task, reference=options.reference, seed=options.seed)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True, help="Labels with a split.")
    made.add_argument("--task", required=True, help="Name of the task, for the table.")
    made.add_argument("--reference", choices=("none", "sap", "minao"), default="none")
    made.add_argument("--minutes", type=float, default=10.0, help="Wall time; 0: instant only.")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = made.parse_args()
    if options.quick:
        options.minutes = min(options.minutes, 0.5)
    return options


def _row(options: argparse.Namespace, name: str, settings: list[str]) -> dict[str, Any]:
    overrides = [
        f"target.reference={options.reference}",
        f"training.seed={options.seed}",
        *settings,
        *options.set,
    ]
    with tempfile.TemporaryDirectory() as folder, Store.open(options.data) as store:
        run = train(options.data, Path(folder) / "run", load_config(overrides=overrides))
        model = load_model(run.model_file)
        records = [store[int(k)] for k in (store.split or {})["test"]]
        predictions = model.predict_labelled(records)
        frames = [frame_metrics(p, r) for p, r in zip(predictions, records, strict=True)]
        return {
            "task": options.task,
            "reference": options.reference,
            "model": name,
            "parameters": sum(p.numel() for p in model.network.parameters()),
            "seed": options.seed,
            "train_frames": model.metadata.data.n_train,
            "test_frames": len(records),
            "steps": run.n_steps,
            "seconds": round(run.seconds, 1),
            **{key: round(value, 5) for key, value in summarise(frames).items()},
        }


if __name__ == "__main__":
    main()
