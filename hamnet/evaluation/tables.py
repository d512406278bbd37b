"""An evaluation as files: ``metrics.json``, ``per_frame.csv``, ``per_block.csv``."""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hamnet.evaluation.calibration import LEVELS, SINGLE, calibrations
from hamnet.evaluation.evaluate import Evaluation
from hamnet.files import replacing, write_text
from hamnet.metrics import METRICS

FORMAT = "hamnet-metrics"
FORMAT_VERSION = 1

_FRONTIER = ("homo_ev", "homo_ref_ev", "lumo_ev", "lumo_ref_ev", "gap_ev", "gap_ref_ev")

_STDS = ("homo_std_mev", "lumo_std_mev", "gap_std_mev", "h_std_uha")


def write_tables(
    evaluation: Evaluation, out_dir: Path, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the three files into a folder, and return what is in ``metrics.json``.

    Args:
        evaluation: the results.
        out_dir: the folder; made if absent.
        provenance: model, data, split, versions: whatever a reader must know, JSON-ready.
    """
    metrics = metrics_json(evaluation, provenance)
    write_json(out_dir / "metrics.json", metrics)
    write_csv(out_dir / "per_frame.csv", FRAME_COLUMNS, _frame_rows(evaluation))
    write_csv(out_dir / "per_block.csv", BLOCK_COLUMNS, _block_rows(evaluation))
    return metrics


def metrics_json(evaluation: Evaluation, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary; a number that does not exist is None."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "n_frames": len(evaluation.frames),
        "n_failed": evaluation.n_failed,
        "metrics": {name: _or_none(value) for name, value in evaluation.metrics.items()},
        "uncertainty": uncertainty_json(evaluation),
        "provenance": dict(provenance),
    }


def uncertainty_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return how well standard deviations fit the errors, by quantity; empty without any.

    ``coverage_68`` and ``coverage_95``: share of frames whose error is inside the central interval
    of that probability; ``expected`` and ``observed``: the same at many, the calibration curve.
    They exist for single numbers, not for H, whose error is a mean over elements.
    """
    found: dict[str, Any] = {}
    for one in calibrations(evaluation.frames):
        found[one.name] = {
            "n_frames": len(one.std),
            f"rms_error_{one.unit}": float(np.sqrt(np.mean(one.error**2))),
            f"rms_std_{one.unit}": float(np.sqrt(np.mean(one.std**2))),
            "spearman": _or_none(one.rank_correlation),
        }
        if one.name in SINGLE:
            found[one.name] |= {
                "coverage_68": one.coverage(0.683),
                "coverage_95": one.coverage(0.95),
                "expected": LEVELS.tolist(),
                "observed": [one.coverage(float(level)) for level in LEVELS],
            }
    return found


FRAME_COLUMNS = (
    "frame",
    "id",
    "group",
    "origin",
    "formula",
    "n_atoms",
    "n_electrons",
    *METRICS,
    *_FRONTIER,
    *_STDS,
    "warnings",
    "error",
)
BLOCK_COLUMNS = ("elements", "first_shell", "second_shell", "count", "h_mae_uha", "h_max_uha")


def _frame_rows(evaluation: Evaluation) -> Iterable[Sequence[object]]:
    for frame in evaluation.frames:
        yield (
            frame.index,
            frame.record_id,
            frame.group,
            frame.origin,
            frame.formula,
            len(frame.structure),
            frame.structure.n_electrons,
            *(_number(frame.metrics.get(name)) for name in METRICS),
            *(_number(frame.frontier_ev.get(name)) for name in _FRONTIER),
            *(_number(frame.metrics.get(name)) for name in _STDS),
            "; ".join(frame.warnings),
            frame.error,
        )


def _block_rows(evaluation: Evaluation) -> Iterable[Sequence[object]]:
    for block in evaluation.blocks:
        yield (
            block.elements,
            block.first.name,
            block.second.name,
            block.count,
            _number(block.mae_uha),
            _number(block.max_uha),
        )


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON file, see `hamnet.files.replacing`."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table, see `hamnet.files.replacing`."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _number(value: float | None) -> str:
    """Return seven digits, or nothing where there is no number."""
    return "" if value is None or not math.isfinite(value) else f"{value:.7g}"


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
