"""Result files of the accuracy benchmark as Markdown tables, and learning curves as a picture."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = Mapping[str, Any]
Key = tuple[Any, ...]
KEYS = ("task", "reference", "variant", "stage", "budget", "train_frames")
"""What one line of a table is; seeds are averaged."""

ERRORS = {
    "h_mae_uha": "H (µHa)",
    "h_loewdin_mae_uha": "Löwdin (µHa)",
    "eps_occ_mae_mev": "occupied (meV)",
    "homo_mae_mev": "HOMO",
    "lumo_mae_mev": "LUMO",
    "gap_mae_mev": "gap (meV)",
    "psi_cosine": "cosine",
    "density_error": "density",
    "spurious_low": "spurious per molecule",
    "h0_reduction": "H0's error / error",
}


def markdown(results: Sequence[Path | Sequence[Row]]) -> str:
    """Return the tables of result files (or of rows): errors, learning curves, ablation."""
    groups = grouped(row for result in results for row in _load(result))
    tables = [_errors(groups)]
    if any(len(c) > 1 for c in curves(groups).values()):
        tables.append(_curves(groups))
    if len({key[2] for key in groups if key[2]}) > 1:
        tables.append(_ablation(groups))
    return "\n\n".join(tables)


def grouped(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """Return the rows of all seeds by what else they are; see `KEYS`."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in KEYS), []).append(row)
    return groups


def curves(groups: Mapping[Key, Sequence[Row]]) -> dict[Key, dict[int, float]]:
    """Return the error of H against the number of training frames, mean over seeds."""
    found: dict[Key, dict[int, float]] = {}
    for key, rows in groups.items():
        found.setdefault(key[:-1], {})[key[-1]] = _mean(rows, "h_mae_uha")
    return found


def slope(curve: Mapping[int, float]) -> float:
    """Return the exponent of ``error ~ frames^slope``: a straight line through the logarithms."""
    n, error = np.array(sorted(curve.items())).T
    return float(np.polyfit(np.log(n), np.log(error), 1)[0])


def plot_curves(results: Sequence[Path], path: Path) -> None:
    """Draw the learning curves of result files."""
    import matplotlib as mpl  # noqa: PLC0415 (tables need no picture)

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "hamnet"  # the same picture is the same file
    from matplotlib import pyplot  # noqa: PLC0415

    found = curves(grouped(row for result in results for row in _load(result)))
    figure, axes = pyplot.subplots(figsize=(5.2, 3.6), layout="constrained")
    for key, curve in found.items():
        if len(curve) > 1:
            label = f"{_name(key)}, {slope(curve):+.2f}"
            axes.loglog(*zip(*sorted(curve.items()), strict=True), "o-", markersize=4, label=label)
    frames = sorted({n for curve in found.values() for n in curve})
    axes.set_xticks(frames, [f"{n:g}" for n in frames])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="training frames", ylabel="mean |dH| on test frames (µHa)")
    axes.legend(fontsize=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _load(result: Path | Sequence[Row]) -> Sequence[Row]:
    if isinstance(result, Path):
        rows: list[Row] = json.loads(result.read_text(encoding="utf-8"))["rows"]
        return rows
    return result


def _errors(groups: Mapping[Key, Sequence[Row]]) -> str:
    lines = []
    for key, rows in groups.items():
        start = [key[0], key[1], _name(key), key[-1], _cell(rows, "seconds")]
        lines.append([*start, *(_cell(rows, name) for name in ERRORS)])
        held_out = [row["held_out"] for row in rows if "held_out" in row]
        if held_out:
            start = [f"{key[0]}, other temperature", key[1], _name(key), key[-1], ""]
            lines.append([*start, *(_cell(held_out, name) for name in ERRORS)])
    return _table(("task", "reference", "model", "frames", "seconds", *ERRORS.values()), lines)


def _curves(groups: Mapping[Key, Sequence[Row]]) -> str:
    found = {key: curve for key, curve in curves(groups).items() if len(curve) > 1}
    sizes = sorted({n for curve in found.values() for n in curve})
    lines = [
        [
            *(key[0], key[1], _name(key)),
            *(f"{curve[n]:.3g}" if n in curve else "" for n in sizes),
            f"{slope(curve):+.2f}",
        ]
        for key, curve in found.items()
    ]
    columns = ("task", "reference", "H (µHa) of", *(f"{n} frames" for n in sizes), "slope")
    return _table(columns, lines)


def _ablation(groups: Mapping[Key, Sequence[Row]]) -> str:
    """One line for each variant and budget: before and after the solve, beside the plain one."""
    runs: dict[Key, dict[str, Sequence[Row]]] = {}
    for (task, reference, variant, stage, budget, n), rows in groups.items():
        if variant and budget:
            runs.setdefault((task, reference, budget, n, variant), {})[stage] = rows
    lines = []
    for key, stages in runs.items():
        line = [*key, _cell(stages["trained"], "parameters"), _cell(stages["trained"], "steps")]
        for name in ("h_mae_uha", "eps_occ_mae_mev", "lumo_mae_mev"):
            for stage in ("trained", "trained, solved"):
                cell = _cell(stages.get(stage, ()), name)
                plain = runs.get((*key[:-1], "plain"), {}).get(stage)
                if plain and key[-1] != "plain" and stage in stages:
                    change = _mean(stages[stage], name) / _mean(plain, name) - 1
                    cell += f" ({100 * change:+.0f} %)"
                line.append(cell)
        lines.append(line)
    errors = [
        f"{name}{stage}"
        for name in ("H (µHa)", "occupied (meV)", "LUMO (meV)")
        for stage in ("", ", solved")
    ]
    columns = ("task", "reference", "budget", "frames", "variant", "parameters", "steps", *errors)
    return _table(columns, lines)


def _name(key: Key) -> str:
    _, _, variant, stage, budget, *_ = key
    parts = [stage, budget, None if variant == "default" else variant]
    return ", ".join(part for part in parts if part)


def _mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def _cell(rows: Sequence[Row], name: str) -> str:
    """Return the mean over seeds, and half of the spread between them."""
    values = [row[name] for row in rows if row.get(name) is not None]
    if not values:
        return ""
    if name in ("parameters", "steps"):
        return f"{np.mean(values):,.0f}"
    text = format(float(np.mean(values)), ".6f" if name == "psi_cosine" else ".3g")
    spread = (max(values) - min(values)) / 2
    return f"{text} ± {spread:.1g}" if len(values) > 1 and name != "psi_cosine" else text


def _table(columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)
