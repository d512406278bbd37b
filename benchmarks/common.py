"""What every benchmark shares: options, environment, clock, and the result file."""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hamnet.allocator import keep_freed_memory

PACKAGES = ("hamnet", "torch", "e3nn", "numpy", "scipy", "pyscf", "lightning", "fairchem-core")
"""Whose versions are recorded, where they are installed."""

Row = dict[str, Any]
Rows = Sequence[Row]


def parser(
    description: str | None, table: Callable[[Rows], str] | None = None
) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark.

    Args:
        description: the benchmark's own docstring.
        table: makes the markdown of ``--table`` from the rows of a file; `markdown` by default.
    """
    make = table or markdown
    keep_freed_memory()  # as hamnet's commands do

    class Table(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
            print(make(json.loads(Path(given[1]).read_text(encoding="utf-8"))["rows"]))
            parser.exit()

    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="A small version, for a look.")
    made.add_argument("--json", type=Path, help="Write environment and rows to this file.")
    made.add_argument(
        "--append", action="store_true", help="Add the rows to those of the file, or replace them."
    )
    made.add_argument("--table", action=Table, help="Print the table of a result file, and stop.")
    return made


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Processor time of one thread is the wall time of a machine that does nothing else."""


def seconds(
    function: Callable[[], object], warm_up: bool = True, budget: float = 1.0, clock: str = "wall"
) -> float:
    """Return the median time of a call after a warming-up one.

    At least three calls, up to twenty within the budget; a single one where it takes more than
    twice the budget, because the noise of a machine is small over such times.
    """
    if warm_up:
        function()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < budget and len(times) < 20):
        start = CLOCKS[clock]()
        function()
        times.append(CLOCKS[clock]() - start)
        if times[0] > 2 * budget:
            break
    return statistics.median(times)


def in_own_process(function: Callable[..., Row], *arguments: Any) -> Row:
    """Return what a function of a module returns in a new process, whose memory is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=keep_freed_memory) as pool:
        return pool.submit(function, *arguments).result()


def resident_mb() -> float:
    """Return the largest resident memory of this process so far."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of log(value) in log(size): the power with which the values grow."""
    x, y = torch.tensor(sizes).double().log(), torch.tensor(values).double().log()
    x = x - x.mean()
    return round(float(x @ (y - y.mean()) / (x @ x)), 2)


def environment() -> dict[str, Any]:
    """Return what numbers depend on: versions, processor, threads, date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an environment made for one other library
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def finish(
    rows: Rows,
    options: argparse.Namespace,
    key: Sequence[str] = (),
    fits: Callable[[Rows], Any] | None = None,
    **settings: Any,
) -> None:
    """Print the rows as a table and write the result file.

    Args:
        rows: of this run.
        options: as the benchmark's parser gave them.
        key: columns that tell one row from another: ``--append`` replaces rows with the same ones.
        fits: what follows from all rows of the file.
        settings: what else belongs into the file.
    """
    print(markdown(rows))
    if options.json is None:
        return
    run = {"environment": environment(), "settings": settings}
    data = {**run, "rows": list(rows)}
    if options.append and options.json.exists():
        data = json.loads(options.json.read_text(encoding="utf-8"))
        runs = data.setdefault("appended", [])
        runs.append(run)
        new = {tuple(row.get(k) for k in key) for row in rows}
        kept = [row for row in data["rows"] if tuple(row.get(k) for k in key) not in new]
        data["rows"] = kept + [{**row, "run": len(runs)} for row in rows]
    if fits is not None:
        data["fits"] = fits(data["rows"])
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def write(rows: Rows, path: Path, **settings: Any) -> None:
    """Write the rows that a long study has so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"environment": environment(), "settings": settings, "rows": list(rows)}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def markdown(rows: Rows) -> str:
    """Return rows as a markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
