"""What the commands share: results on stdout, progress and complaints on stderr."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

Advance = Callable[[int, str], None]
"""``advance(n_done, text)`` reports how far a loop has come."""

SECONDS_BETWEEN_LINES = 5.0
"""Progress in a log file is one line every few seconds."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
OutDir = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]

Model = Annotated[Path, typer.Argument(help="Folder of a training run, or a model file.")]
Files = Annotated[list[Path], typer.Argument(help="Structures, any file that ASE reads; Angstrom.")]
Labels = Annotated[Path, typer.Argument(help="Labels, made by 'hamnet label'.")]
Split = Annotated[str, typer.Option(help="train, validation, test or all.")]

Charge = Annotated[
    int | None, typer.Option(help="Charge of every frame, instead of what the file says.")
]
Spin = Annotated[int | None, typer.Option(help="Unpaired electrons of every frame, likewise.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first frames.")]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Worker processes; default: one a processor.")
]
Reference = Annotated[str, typer.Option(help="Reference Hamiltonians to store: minao, sap, none.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Frames predicted at once.")]
Compiled = Annotated[bool, typer.Option("--compile", help="Compile the network's convolutions.")]


def complain(message: str) -> None:
    """Print an error to stderr."""
    typer.echo(f"error: {message}", err=True)


def note(message: str) -> None:
    """Print progress or a remark to stderr."""
    typer.echo(message, err=True)


def print_json(data: Mapping[str, Any]) -> None:
    """Print a JSON object to stdout; numbers that JSON has no word for (NaN) become null."""
    typer.echo(json.dumps(_without_nan(data), indent=2, ensure_ascii=False, allow_nan=False))


def _without_nan(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):  # noqa: PLR0124
        return None
    return data


def print_table(table: "Table") -> None:
    """Print a rich table to stdout; in a pipe it is as wide as it needs to be."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


@contextmanager
def progress(description: str, total: int | None, quiet: bool = False) -> Iterator[Advance]:
    """Yield a function that reports progress on stderr: a bar, or in a log a line now and then.

    Args:
        description: what is being done, such as ``label``.
        total: number of items; None where it is not known.
        quiet: report nothing.
    """
    if quiet:
        yield lambda _done, _text: None
    elif sys.stderr.isatty():
        yield from _bar(description, total)
    else:
        yield from _lines(description, total)


def _bar(description: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, text="")
        yield lambda done, text: bar.update(task, completed=done, text=text)


def _lines(description: str, total: int | None) -> Iterator[Advance]:
    start = last = time.monotonic()

    def advance(done: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES and done != total:
            return
        last = now
        of = f"/{total}" if total is not None else ""
        note(f"{description} {done}{of} {now - start:.0f} s {text}".rstrip())

    yield advance
