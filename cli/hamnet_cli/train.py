"""``hamnet train``: from labels to a model."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hamnet_cli.common import Json, Labels, Quiet, complain, note, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from hamnet.training.config import TrainConfig


def train(
    data: Labels,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the results.")] = None,
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
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the convolutions (training.compile).")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Measure a few steps: time, memory, batch size; no files."),
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a model; the output folder gets model.safetensors, metrics.json and history.csv.

    Example: hamnet train water.h5 -o runs/water --set target.reference=minao --max-minutes 10
    """
    from json import dumps

    from hamnet.errors import HamnetError
    from hamnet.training.config import load_config
    from hamnet.training.launch import train_on_devices as run

    overrides = list(settings or [])
    if max_minutes is not None:
        overrides.append(f"training.max_minutes={max_minutes}")
    if seed is not None:
        overrides.append(f"training.seed={seed}")
    if start_from is not None:
        overrides.append(f"training.start_from={dumps(start_from)}")
    if instant:
        overrides.append("training.max_steps=0")
    if compiled:
        overrides.append("training.compile=true")
    report = (lambda _: None) if quiet else note
    if dry_run:
        _dry_run(data, load_config(config, overrides), report, json)
        return
    if out is None:
        raise HamnetError("a folder for the results is needed: -o FOLDER")
    if resume and config is None and not overrides:
        config = out / "config.toml"
    loaded = load_config(config, overrides)
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


def _dry_run(
    data: Path, config: "TrainConfig", report: "Callable[[str], None]", json: bool
) -> None:
    """Print what the run would need."""
    from hamnet.training.estimate import USABLE, estimate

    found = estimate(data, config, report)
    if json:
        print_json(asdict(found))
        return
    looked = "" if found.n_looked_at == found.n_frames else f" ({found.n_looked_at} looked at)"
    typer.echo(
        f"parameters         {found.n_parameters:,}\n"
        f"training frames    {found.n_frames:,}{looked}\n"
        f"pairs a frame      {found.pairs_mean:.1f} on average, {found.pairs_max} at most\n"
        f"messages a frame   {found.messages_mean:.1f} on average, {found.messages_max} at most\n"
        f"a step             {found.step_seconds:.3g} s\n"
        f"an epoch           {found.epoch_seconds:.3g} s\n"
        f"solving readout    {found.solve_seconds:.3g} s\n"
        f"peak memory        {found.peak_mb:.0f} MB of {found.free_mb:.0f} MB\n"
        f"batches that fit   training.batch_size={found.batch_size} of the largest frames, "
        f"or training.batch_pairs={found.batch_pairs} ({USABLE:.0%} of the memory)"
    )
