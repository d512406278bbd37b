"""``hamnet demo``: the whole path on water, in three minutes."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hamnet_cli.common import Json, Quiet, note, print_json, print_table
from hamnet_cli.label import reporting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hamnet.data.record import Record
    from hamnet.evaluation import Evaluation
    from hamnet.models import HamiltonianModel

RECIPE = "water-pbe-svp"
MAX_PREDICTED = 4


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder; an earlier demo in it is replaced.")
    ] = Path("demo"),
    frames: Annotated[int, typer.Option(min=20, help="Water molecules to label.")] = 96,
    seconds: Annotated[float, typer.Option(min=1.0, help="Time for training.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Random seed of the training.")] = 1,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Label water molecules, train a model, and compare it with PySCF on frames it never saw.

    Needs no network and about three minutes on two processors. It writes water.h5, run/ with the
    model, report.html, metrics.json, and Molden files of predicted frames.

    Example: hamnet demo -o demo
    """
    say = (lambda _: None) if quiet else note
    start = time.monotonic()
    say(f"1. PBE/def2-SVP labels of {frames} water molecules by PySCF -> {out / 'water.h5'}")
    _label(out / "water.h5", frames, quiet)
    say(f"2. Training for {seconds:.0f} s -> {out / 'run'}")
    _train(out, seconds, seed, quiet)
    say(f"3. Held-out frames -> {out / 'report.html'}")
    model, found, held_out = _evaluate(out)
    say(f"4. Prediction from geometry alone -> {out / 'predicted'}")
    label_s, prediction_s = _predict(model, held_out, out / "predicted")
    if json:
        print_json(
            {
                "out": str(out),
                "n_frames": len(found.frames),
                "metrics": found.metrics,
                "seconds_per_label": label_s,
                "seconds_per_prediction": prediction_s,
            }
        )
    else:
        _print_results(found)
        typer.echo(
            f"one label took {label_s:.2f} s of a processor, its prediction {prediction_s:.3f} s"
        )
    say(f"open {out / 'report.html'}; done in {time.monotonic() - start:.0f} s")


def _label(path: Path, n_frames: int, quiet: bool) -> None:
    from hamnet_datasets.engine import default_workers
    from hamnet_datasets.jobs import Options, label_recipe
    from hamnet_datasets.recipes import load_recipe

    path.parent.mkdir(parents=True, exist_ok=True)
    with reporting("label", quiet) as on_progress:
        options = Options(n_workers=default_workers(), limit=n_frames, on_progress=on_progress)
        label_recipe(load_recipe(RECIPE), path, options=options)


def _train(out: Path, seconds: float, seed: int, quiet: bool) -> None:
    from hamnet.training.config import load_config
    from hamnet.training.run import train

    shutil.rmtree(out / "run", ignore_errors=True)
    config = load_config(
        overrides=[
            f"training.max_minutes={seconds / 60}",
            f"training.seed={seed}",
            "training.validate_every=100",
        ]
    )
    train(out / "water.h5", out / "run", config, report=(lambda _: None) if quiet else note)


def _evaluate(out: Path) -> tuple["HamiltonianModel", "Evaluation", list["Record"]]:
    from hamnet.data.store import Store
    from hamnet.evaluation.model import choose_records, evaluate_model, provenance, show_orbitals
    from hamnet.evaluation.report import write_results
    from hamnet.models import load_model

    model = load_model(out / "run")
    with Store.open(out / "water.h5") as store:
        rows = choose_records(model.metadata, store, "test")
        found = evaluate_model(model, store, rows)
        about = provenance(model, out / "run", store, "test")
        shown = show_orbitals(model, store, found)
        held_out = [store[int(row)] for row in rows[:MAX_PREDICTED]]
    write_results(found, out, about, out / "run" / "history.csv", shown)
    return model, found, held_out


def _predict(
    model: "HamiltonianModel", records: "Sequence[Record]", folder: Path
) -> tuple[float, float]:
    """Predict frames from their geometry alone; return seconds per label and per prediction."""
    from hamnet.inference.folder import Output, PredictionFolder
    from hamnet.interop.ase import Frame

    structures = [record.structure for record in records]
    model.predict(structures)  # the first call also loads the basis
    start = time.perf_counter()
    predictions = model.predict(structures)
    elapsed = time.perf_counter() - start
    shutil.rmtree(folder, ignore_errors=True)
    with PredictionFolder(folder, Output(molden=True, npz=True), level=model.metadata.level) as out:
        for record, prediction in zip(records, predictions, strict=True):
            out.write(Frame(0, record.origin, record.structure), prediction)
    return sum(record.seconds for record in records) / len(records), elapsed / len(records)


def _print_results(found: "Evaluation") -> None:
    from hamnet_cli.tables import frames_table, orbitals_table, summary_line

    print_table(orbitals_table(found))
    print_table(frames_table(found))
    typer.echo(f"mean over {len(found.frames)} held-out frames: {summary_line(found)}")
