"""Errors on frames that were never seen, after a given wall time of training.

    python benchmarks/accuracy.py --task water --reference none
    python benchmarks/accuracy.py --task water-gauss --data water-gauss.h5

A task without ``--data`` labels the frames of a shipped recipe first, once. Two rows: the model
without gradient steps (random features and the solved readout), and the one that `hamnet train`
keeps after the given wall time.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import finish, parser

from hamnet.data.store import Store
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import load_model
from hamnet.registry import look_up
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.training.setup import choose_split
from hamnet_datasets.jobs import Options, label_recipe
from hamnet_datasets.recipes import load_recipe

RECIPES = {
    "water": ("water-pbe-svp", 300),
    "water-gauss": ("water-gauss-pbe-svp", None),
    "ethanol-gauss": ("ethanol-gauss-b3lyp-svp", None),
}
"""Tasks: the shipped recipe that makes the labels, and how many frames of it."""


def main() -> None:
    options = _options()
    budgets = [("instant", ["training.max_steps=0"])]
    if options.minutes > 0:
        budgets.append(("trained", [f"training.max_minutes={options.minutes}"]))
    rows = [_row(options, name, settings) for name, settings in budgets]
    finish(
        rows, options, ("model",), task=options.task, reference=options.reference, seed=options.seed
    )


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--task", default="water", help=f"{', '.join(RECIPES)}, or a name for --data")
    made.add_argument("--data", type=Path, help="Labels; the file's split is used if it has one.")
    made.add_argument("--reference", choices=("none", "sap", "minao"), default="none")
    made.add_argument("--minutes", type=float, default=10.0, help="Wall time; 0: instant only.")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = made.parse_args()
    if options.quick:
        options.minutes = min(options.minutes, 0.5)
    if options.data is None:
        recipe, n_frames = look_up("task", options.task, RECIPES)
        options.data = labels(recipe, 60 if options.quick and n_frames else n_frames)
    return options


def labels(recipe: str, n_frames: int | None) -> Path:
    """Return the labels of a recipe, made if absent."""
    path = Path(__file__).parent / "data" / f"{recipe}-{n_frames or 'all'}.h5"
    path.parent.mkdir(exist_ok=True)
    label_recipe(load_recipe(recipe), path, options=Options(limit=n_frames))
    return path


def _row(options: argparse.Namespace, name: str, settings: list[str]) -> dict[str, Any]:
    overrides = [
        f"target.reference={options.reference}",
        f"training.seed={options.seed}",
        *settings,
        *options.set,
    ]
    with tempfile.TemporaryDirectory() as folder, Store.open(options.data) as store:
        config = load_config(overrides=overrides)
        run = train(options.data, Path(folder) / "run", config)
        kept = json.loads((run.model_file.parent / "metrics.json").read_text())["kept"]
        model = load_model(run.model_file)
        records = [store[int(k)] for k in choose_split(store, config)["test"]]
        predictions = model.predict_labelled(records)
        frames = [frame_metrics(p, r) for p, r in zip(predictions, records, strict=True)]
        return {
            "task": options.task,
            "reference": options.reference,
            "model": name,
            "kept": kept,
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
