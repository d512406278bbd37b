"""``hamnet compare``: which of several models is better, on the same frames."""

from pathlib import Path
from typing import Annotated

import typer

from hamnet_cli.common import (
    BatchSize,
    Json,
    Labels,
    Quiet,
    Split,
    complain,
    note,
    print_json,
    print_table,
    progress,
)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of training runs, or model files; baseline first.")
    ],
    data: Labels,
    split: Split = "test",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the report.")] = Path(
        "compare"
    ),
    batch_size: BatchSize = 32,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compare models on the same frames: paired differences with bootstrap intervals.

    Writes compare.html, compare.json and per_frame.csv.

    Example: hamnet compare runs/none runs/minao water.h5
    """
    from hamnet.data.store import Store
    from hamnet.errors import HamnetError
    from hamnet.evaluation.compare import common_records
    from hamnet.evaluation.compare import compare as compare_evaluations
    from hamnet.evaluation.compare_report import write_comparison
    from hamnet.evaluation.model import evaluate_model, provenance
    from hamnet.models import load_model
    from hamnet_cli.tables import comparison_table

    if len(runs) < 2:
        raise HamnetError(
            "hamnet compare needs at least two runs and the labels: hamnet compare RUN RUN DATA"
        )
    names = _names(runs)
    models = {name: load_model(path) for name, path in zip(names, runs, strict=True)}
    evaluations, about = {}, {}
    with Store.open(data) as store:
        metadata = {name: model.metadata for name, model in models.items()}
        rows = common_records(metadata, store, split)
        for name, path in zip(names, runs, strict=True):
            with progress(f"evaluate {name}", len(rows), quiet) as advance:
                evaluations[name] = evaluate_model(
                    models[name], store, rows, batch_size=batch_size, advance=advance
                )
            about[name] = provenance(models[name], path, store, split)
    found = compare_evaluations(evaluations)
    summary = write_comparison(found, out, {"data": str(data), "split": split, "runs": about})
    if json:
        print_json(summary)
    else:
        print_table(comparison_table(found))
        note(f"report: {out / 'compare.html'}")
    if found.left_out:
        complain(f"{len(found.left_out)} frames could not be predicted by every run")
        raise typer.Exit(1)


def _names(runs: list[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell the runs apart."""
    from hamnet.errors import HamnetError

    paths = [run.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise HamnetError("a run is compared with itself: " + ", ".join(map(str, runs)))
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
