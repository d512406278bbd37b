"""``hamnet train``: from labels to a model."""

from pathlib import Path
from typing import Annotated

import typer

from hamnet_cli.common import Json, OutDir, Quiet, complain, note, print_json


def train(
    data: Annotated[Path, typer.Argument(help="Labels, made by 'hamnet label'.")],
    out: OutDir,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings, a TOML file.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, may be repeated."),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Wall time (training.max_minutes).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed (training.seed).")] = None,
    instant: Annotated[
        bool,
        typer.Option("--instant", help="No gradient steps: random features, solved readout."),
    ] = False,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start from this model's weights: fine-tuning (training.start_from).",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the output folder.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a model; the output folder gets model.safetensors, metrics.json and history.csv.

    Example: hamnet train water.h5 -o runs/water --set target.reference=minao --max-minutes 10
    """
    from json import dumps

    from hamnet.training.config import load_config
    from hamnet.training.run import train as run

    overrides = list(settings or [])
    if max_minutes is not None:
        overrides.append(f"training.max_minutes={max_minutes}")
    if seed is not None:
        overrides.append(f"training.seed={seed}")
    if start_from is not None:
        overrides.append(f"training.start_from={dumps(start_from)}")
    if instant:
        overrides.append("training.max_steps=0")
    if resume and config is None and not overrides:
        config = out / "config.toml"
    loaded = load_config(config, overrides)
    report = (lambda _: None) if quiet else note
    try:
        result = run(data, out, loaded, resume=resume, report=report)
    except KeyboardInterrupt:
        complain(
            f"interrupted; continue from the last validation: hamnet train {data} -o {out} --resume"
        )
        raise typer.Exit(130) from None
    if json:
        print_json(
            {
                "model": str(result.model_file),
                "steps": result.n_steps,
                "seconds": result.seconds,
                "validation": result.metrics,
            }
        )
    else:
        typer.echo(f"model: {result.model_file}")
