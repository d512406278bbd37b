"""What every benchmark shares: its options, the environment, and the result file."""

import argparse
import datetime
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hamnet.models.metadata import library_versions


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--quick`` and ``--json FILE``."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--quick", action="store_true", help="A small version, for a look.")
    made.add_argument("--json", type=Path, help="Write environment and rows to this file.")
    return made


def environment() -> dict[str, Any]:
    """Return what numbers depend on: versions, processor, threads, date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": library_versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def finish(rows: Sequence[dict[str, Any]], path: Path | None, **settings: Any) -> None:
    """Print the rows as a table and write the result file."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {"environment": environment(), "settings": settings, "rows": list(rows)}
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
