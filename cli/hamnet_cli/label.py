"""``hamnet label``: DFT labels for structures."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hamnet.errors import HamnetError
from hamnet_cli.common import (
    Advance,
    Charge,
    Json,
    Limit,
    Quiet,
    Reference,
    Spin,
    Workers,
    complain,
    note,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from hamnet.data.level import LevelOfTheory
    from hamnet_datasets.engine import Progress
    from hamnet_datasets.jobs import Options, Report

MAX_FAILURES_SHOWN = 10


def label(
    out: Annotated[Path, typer.Option("--out", "-o", help="Dataset to write or go on with.")],
    structures: Annotated[
        Path | None, typer.Argument(help="Structures, any file that ASE reads, or SMILES (.smi).")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Make the geometries by a shipped recipe or a TOML file.")
    ] = None,
    xc: Annotated[str | None, typer.Option(help="Functional, as PySCF calls it.")] = None,
    basis: Annotated[str | None, typer.Option(help="Basis set, as PySCF calls it.")] = None,
    tight: Annotated[bool, typer.Option("--tight", help="Finer grid: level 4, not 3.")] = False,
    relativity: Annotated[
        str, typer.Option(help="none, or x2c: two-component, with spin-orbit coupling.")
    ] = "none",
    reference: Reference = "minao,sap",
    charge: Charge = None,
    spin: Spin = None,
    limit: Limit = None,
    shard: Annotated[
        str | None, typer.Option(help="Only every n-th frame, from the k-th on: 3/10.")
    ] = None,
    min_rmsd: Annotated[
        float, typer.Option(min=0.0, help="Leave out frames closer to an earlier one, Angstrom.")
    ] = 0.0,
    sampling: Annotated[
        str | None,
        typer.Option(help="For a recipe: normal-modes, langevin (extra md), rattle, frames."),
    ] = None,
    conformers: Annotated[
        int, typer.Option(min=1, help="For SMILES (extra smiles): geometries of each.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="For SMILES: of the embedding.")] = 0,
    stability: Annotated[
        bool, typer.Option("--stability", help="Check that every density is a minimum.")
    ] = False,
    gpu: Annotated[bool, typer.Option("--gpu", help="Label with gpu4pyscf (extra gpu).")] = False,
    workers: Workers = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Use the workers of a Dask scheduler: tcp://10.0.0.1:8786.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try frames again that failed before.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Label structures by density-functional theory.

    Interrupted (also by kill -9), the same command goes on where it stopped. A bad frame is
    reported and does not stop the others; the exit code is 1 if any frame failed.

    Example: hamnet label water.xyz --xc pbe --basis def2-svp -o water.h5
    """
    from hamnet_datasets.engine import default_workers
    from hamnet_datasets.jobs import Options, interrupted_message, label_file

    with reporting("label", quiet) as on_progress:
        options = Options(
            references=tuple(name.strip() for name in reference.split(",")),
            n_workers=default_workers() if workers is None else workers,
            scheduler=scheduler,
            limit=limit,
            shard=None if shard is None else _shard(shard),
            min_rmsd=min_rmsd,
            retry_failed=retry_failed,
            on_progress=on_progress,
        )
        try:
            if recipe is not None:
                other = None if relativity == "none" else relativity
                _refuse_with_recipe(structures, xc, basis, tight, stability, charge, spin, other)
                report = _label_recipe(recipe, out, sampling, gpu, options)
            else:
                level = _level(xc, basis, tight, stability, gpu, relativity)
                if structures is None:
                    raise HamnetError(
                        "nothing to label: give a structure file, or a recipe with --recipe"
                    )
                report = label_file(
                    structures,
                    out,
                    level,
                    charge=charge,
                    spin=spin,
                    conformers=conformers,
                    seed=seed,
                    options=options,
                )
        except KeyboardInterrupt:
            complain(interrupted_message(out))
            raise typer.Exit(130) from None
    print_report(report, json)


def _label_recipe(
    recipe: str, out: Path, sampling: str | None, gpu: bool, options: "Options"
) -> "Report":
    from hamnet.registry import look_up
    from hamnet_datasets.jobs import label_recipe
    from hamnet_datasets.recipes import SAMPLING_METHODS, load_recipe

    loaded = load_recipe(recipe)
    if gpu:
        level = loaded.level.model_copy(update={"program": "gpu4pyscf"})
        loaded = loaded.model_copy(update={"level": level})
    method = loaded.sampling.method
    if sampling is not None:
        method = look_up("sampling", sampling, {name: name for name in SAMPLING_METHODS})
    return label_recipe(loaded, out, method=method, options=options)


def _refuse_with_recipe(structures: Path | None, *others: Any) -> None:
    if structures is not None:
        raise HamnetError(f"give either the file {structures} or --recipe, not both")
    if any(other not in (None, False) for other in others):
        raise HamnetError(
            "a recipe fixes functional, basis, grid, charge and spin; write a recipe of your own "
            "(a TOML file) to change them"
        )


def _level(
    xc: str | None, basis: str | None, tight: bool, stability: bool, gpu: bool, relativity: str
) -> "LevelOfTheory":
    from hamnet.data.level import TIGHT_GRID_LEVEL, LevelOfTheory
    from hamnet.registry import look_up

    if not xc or not basis:
        raise HamnetError("give the level of theory, for instance '--xc pbe --basis def2-svp'")
    chosen: dict[str, Any] = {"grid_level": TIGHT_GRID_LEVEL} if tight else {}
    chosen["relativity"] = look_up("relativity", relativity, {"none": "none", "x2c": "x2c"})
    program = "gpu4pyscf" if gpu else "pyscf"
    return LevelOfTheory(xc=xc, basis=basis, stability=stability, program=program, **chosen)


def _shard(text: str) -> tuple[int, int]:
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise HamnetError(f"--shard must be k/n, such as 3/10, got '{text}'")
    k, n = map(int, parts)
    if not 1 <= k <= n:
        raise HamnetError(f"--shard {text}: the shards are 1/{n} to {n}/{n}")
    return k, n


@contextmanager
def reporting(description: str, quiet: bool) -> Iterator[Callable[["Progress"], None]]:
    """Yield a callback that shows the progress of a job on stderr, from its first call on."""
    with ExitStack() as stack:
        advance: Advance | None = None

        def show(state: "Progress") -> None:
            nonlocal advance
            if advance is None:
                advance = stack.enter_context(progress(description, state.total, quiet))
            advance(state.done, progress_text(state))

        yield show


def progress_text(state: "Progress") -> str:
    """Return rate, time to go, failures and cost per label, for the progress line."""
    parts = []
    new = state.labelled
    if new:
        rate = new / state.seconds
        parts.append(f"{rate:.1f}/s, {(state.total - state.done) / rate:.0f} s to go")
        parts.append(f"{state.label_seconds / new:.2f} s a label")
    if state.known:
        parts.append(f"{state.known} there already")
    if state.skipped:
        parts.append(f"{state.skipped} left out")
    if state.failed:
        parts.append(f"{state.failed} failed")
    return ", ".join(parts)


def print_report(report: "Report", json: bool) -> None:
    """Print what a job has done; exit code 1 if a frame failed."""
    p = report.progress
    shown = report.failures[:MAX_FAILURES_SHOWN]
    for failure in shown:
        complain(f"{failure.origin} [{failure.stage}]: {failure.reason}")
    if len(report.failures) > len(shown):
        note(f"{len(report.failures) - len(shown)} more failures: hamnet data info {report.path}")
    if json:
        print_json(
            {
                "path": str(report.path) if report.n_records else None,
                "n_records": report.n_records,
                "n_new": p.labelled,
                "n_known": p.known,
                "n_failed": p.failed,
                "n_skipped": p.skipped,
                "seconds": p.seconds,
                "seconds_per_label": p.label_seconds / p.labelled if p.labelled else None,
                "failures": [failure.to_dict() for failure in report.failures],
            }
        )
    elif report.n_records:
        left_out = f", {p.skipped} left out" if p.skipped else ""
        typer.echo(
            f"{report.path}: {report.n_records} records ({p.labelled} new, {p.known} there "
            f"already, {p.failed} failed{left_out}) in {p.seconds:.1f} s"
        )
    else:
        complain(f"no frame could be labelled: {report.path} was not written")
    if p.failed:
        raise typer.Exit(1)
