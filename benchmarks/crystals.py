"""Accuracy of models of a crystal on unseen frames: H in meV, bands near the Fermi level.

    hamnet label --recipe graphene-pbe-szv -o graphene.h5 --reference none --limit 72
    python benchmarks/crystals.py graphene.h5 --minutes 4 --json benchmarks/results/crystals.json

``instant`` solves the readout of random features; ``trained`` has gradient steps for a given wall
time first, whatever is kept in the end. A fifth of the frames is for the test.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from common import finish, parser

from hamnet.data.splits import split_of
from hamnet.data.store import Store
from hamnet.evaluation.model import evaluate_model
from hamnet.models import load_model
from hamnet.training.config import load_config
from hamnet.training.run import train

FRACTIONS = (0.7, 0.1, 0.2)
INSTANT = "training.max_steps=0"
VARIANTS: dict[str, list[str]] = {
    "instant, degree 2": [INSTANT, "model.l_max=2"],
    "instant": [INSTANT],
    "instant, no TraceGrad": [INSTANT, "model.tracegrad=none"],
    "instant, 128 channels": [INSTANT, "model.channels=128"],
    "instant, 128 channels, no TraceGrad": [
        INSTANT, "model.channels=128", "model.tracegrad=none",
    ],
    "trained": ["model.tracegrad=both"],
    "trained, no TraceGrad": ["model.tracegrad=none"],
}  # fmt: skip
QUICK = ("instant, degree 2", "instant")
ERRORS = ("h_mae_mev", "bands_mae_mev", "bands_max_mev")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("data", type=Path, help="Labels of a crystal.")
    arguments.add_argument("--minutes", type=float, default=4.0, help="Of every trained variant.")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1])
    arguments.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="All by default.")
    options = arguments.parse_args()
    names = options.variants or (QUICK if options.quick else list(VARIANTS))
    rows = [
        _row(options.data, name, seed, options.minutes) for name in names for seed in options.seeds
    ]
    with Store.open(options.data) as store:
        recipe = store.card.get("recipe", store.path.name)
    finish(rows, options, key=("variant", "seed"), recipe=recipe)


def _row(data: Path, name: str, seed: int, minutes: float) -> dict[str, Any]:
    given = [f"training.seed={seed}", f"data.fractions={list(FRACTIONS)}", *VARIANTS[name]]
    if INSTANT not in given:
        given += [f"training.max_minutes={minutes}", "training.batch_size=4"]
        given += ["training.validate_every=200", "training.max_validation_frames=8"]
    config = load_config(None, given)
    with tempfile.TemporaryDirectory() as folder:
        result = train(data, Path(folder) / "run", config)
        model = load_model(result.model_file)
        kept = json.loads((Path(folder) / "run" / "metrics.json").read_text("utf-8"))["kept"]
    with Store.open(data) as store:
        split = split_of(store, FRACTIONS, config.data.split_seed)
        errors = evaluate_model(model, store, split["test"]).metrics
    return {
        "variant": name,
        "seed": seed,
        "train_frames": len(split["train"]),
        "test_frames": len(split["test"]),
        "seconds": round(result.seconds),
        "steps": result.n_steps,
        "kept": kept,
        **{key: round(errors[key], 3) for key in ERRORS},
    }


if __name__ == "__main__":
    main()
