"""``hamnet evaluate``: a model's errors on labelled frames that it has not seen."""

from pathlib import Path
from typing import Annotated

import typer

from hamnet_cli.common import (
    BatchSize,
    Compiled,
    Json,
    Labels,
    Model,
    Quiet,
    Split,
    complain,
    note,
    print_json,
    print_table,
    progress,
)


def evaluate(
    model: Model,
    data: Labels,
    split: Split = "test",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the report.  [default: evaluate-SPLIT]"),
    ] = None,
    batch_size: BatchSize = 32,
    orbitals: Annotated[
        bool, typer.Option(help="Show HOMO and LUMO of three frames in the report.")
    ] = True,
    compiled: Compiled = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Compare predictions with labels: tables, metrics.json and a self-contained report.html.

    The pictures of the report are also written as SVG and PNG.

    Example: hamnet evaluate runs/water water.h5 --split test
    """
    from hamnet.data.store import Store
    from hamnet.evaluation.model import choose_records, evaluate_model, provenance, show_orbitals
    from hamnet.evaluation.report import write_results
    from hamnet.models import load_model
    from hamnet_cli.tables import metrics_table

    loaded = load_model(model, compiled=compiled)
    run_dir = model if model.is_dir() else model.parent
    out = out or run_dir / f"evaluate-{split}"
    with Store.open(data) as store:
        rows = choose_records(loaded.metadata, store, split)
        with progress("evaluate", len(rows), quiet) as advance:
            found = evaluate_model(loaded, store, rows, batch_size=batch_size, advance=advance)
        about = provenance(loaded, model, store, split)
        shown = show_orbitals(loaded, store, found) if orbitals else ()
    summary = write_results(found, out, about, run_dir / "history.csv", shown)
    if json:
        print_json(summary)
    else:
        print_table(metrics_table(found))
        note(f"report: {out / 'report.html'}")
    if found.n_failed:
        complain(f"{found.n_failed} of {len(found.frames)} frames could not be predicted")
        raise typer.Exit(1)
