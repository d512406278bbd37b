"""Errors on frames that were never seen, after a given wall time of training.

    python benchmarks/accuracy.py --task ethanol --reference minao --minutes 10 --json ethanol.json
    python benchmarks/accuracy.py --task ethanol --reference minao --curve 30 60 125 250 500
    python benchmarks/accuracy.py --task ethanol --ablation --steps 2000 --seed 1 2
    python benchmarks/accuracy.py --tables benchmarks/results/accuracy_*.json

A task labels the frames of a shipped recipe first, once, into ``benchmarks/data`` (or reads
``--data``). Rows: baselines (mean irreps; H0 unchanged, and with potentials; for water a
polynomial), the instant model (random features and the solved readout), and the network whose
features were trained through that solution. With ``--set readout.projection=false`` the steps train
all weights, and there are rows before and after the readout is solved. Equal wall time
(``--minutes``) and equal steps (``--steps``) may both be asked for.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import parser, write
from study import Row, Study, progress
from tables import markdown, plot_curves
from tasks import TASKS, divide, labels
from variants import VARIANTS, register

from hamnet.registry import look_up

HIDDEN = ("history", "validation", "held_out")
"""What the progress of a row leaves out."""


def main() -> None:
    options = _options()
    if options.tables:
        print(markdown(options.tables))
        if options.plot:
            plot_curves(options.tables, options.plot)
        return
    register()
    rows: list[Row] = []
    if options.append and options.json is not None and options.json.exists():
        rows += json.loads(options.json.read_text(encoding="utf-8"))["rows"]
    for row in _rows(options):
        rows.append(row)
        progress(str({name: row[name] for name in row if name not in HIDDEN}))
        if options.json is not None:  # after each run: a long study may be interrupted
            write(rows, options.json, command=sys.argv[1:])
    print(markdown([rows]))


def _options() -> argparse.Namespace:
    made = parser(__doc__, table=lambda rows: markdown([rows]))
    made.add_argument("--task", default="water", help=", ".join(TASKS))
    made.add_argument("--data", type=Path, help="Labels of the task, if they are elsewhere.")
    made.add_argument("--held-out", type=Path, help="Labels of the other temperature.")
    made.add_argument("--reference", choices=("none", "sap", "minao"), default="none")
    made.add_argument("--minutes", type=float, help="Wall time of a run; 10 if nothing is said.")
    made.add_argument("--steps", type=int, help="Gradient steps of a run.")
    made.add_argument("--seed", type=int, nargs="+", default=[1])
    made.add_argument("--frames", type=int, help="Of the training frames, the first so many.")
    made.add_argument("--curve", type=int, nargs="+", help="Learning curve: numbers of frames.")
    made.add_argument(
        "--ablation", nargs="*", metavar="VARIANT", help=f"All, or some of: {', '.join(VARIANTS)}"
    )
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    made.add_argument("--tables", type=Path, nargs="+", help="Print tables of several results.")
    made.add_argument("--plot", type=Path, help="With --tables: learning curves as SVG.")
    options = made.parse_args()
    if options.minutes is None and options.steps is None:
        options.minutes = 10.0
    if options.quick and options.minutes:
        options.minutes = min(options.minutes, 0.5)
    return options


def _rows(options: argparse.Namespace) -> Iterator[Row]:
    """Yield the row of every run and stage."""
    task = look_up("task", options.task, TASKS)
    limit = 60 if options.quick and options.data is None and "gauss" not in options.task else None
    data = options.data or labels(task.data, limit)
    other = options.held_out
    if task.held_out and other is None and options.data is None:
        other = labels(task.held_out, limit)
    with tempfile.TemporaryDirectory() as name:
        if other is not None:
            (Path(name) / "other").mkdir()
            other = divide(task, other, Path(name) / "other", None)
        for n_frames in options.curve or [options.frames]:
            folder = Path(name) / str(n_frames)
            folder.mkdir()
            study = Study(
                divide(task, data, folder, n_frames), folder, options.reference, options.set, other
            )
            shared = {"task": options.task, "reference": options.reference}
            for row in _runs(options, study):
                yield {**shared, "train_frames": study.n_train, **row}


def _runs(options: argparse.Namespace, study: Study) -> Iterator[Row]:
    yield from study.baselines()
    variants = ["default"] if options.ablation is None else (options.ablation or list(VARIANTS)[1:])
    for seed in options.seed:
        for variant in variants:
            settings = [f"training.seed={seed}", *look_up("variant", variant, VARIANTS)]
            yield {"variant": variant, **study.instant(settings)}
            for budget, limits in _budgets(options):
                for row in study.trained([*settings, *limits]):
                    yield {"variant": variant, "budget": budget, **row}


def _budgets(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield name and settings of equal wall time and of equal steps."""
    if options.minutes:
        yield f"{options.minutes:g} min", [f"training.max_minutes={options.minutes}"]
    if options.steps:
        yield (
            f"{options.steps} steps",
            [f"training.max_steps={options.steps}", "training.max_minutes=1e6"],
        )


if __name__ == "__main__":
    main()
