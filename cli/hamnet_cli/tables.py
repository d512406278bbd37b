"""Results as tables for people; imported by commands only when they print."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from hamnet.evaluation import Evaluation
from hamnet.evaluation.compare import Comparison
from hamnet.metrics import METRICS

MAX_FRAMES = 12


def metrics_table(evaluation: Evaluation) -> Table:
    """Return the mean errors with their meaning."""
    n = len(evaluation.frames) - evaluation.n_failed
    table = Table(title=f"Mean errors over {n} frames", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for name, meaning in METRICS.items():
        if not math.isfinite(evaluation.metrics[name]):
            continue
        digits = ".6f" if name == "psi_cosine" else ".4g"
        table.add_row(name, format(evaluation.metrics[name], digits), meaning)
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return each run's differences to the first one."""
    n, first = len(comparison.frames), comparison.runs[0]
    table = Table(title=f"Differences to {first} on {n} frames", title_justify="left")
    table.add_column("metric")
    table.add_column("run")
    for name in (escape(first), "mean", "difference", "95 % interval", "better on"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for d in comparison.differences:
        digits = ".6f" if d.metric == "psi_cosine" else ".4g"
        table.add_row(
            d.metric,
            escape(d.run),
            *(format(x, digits) for x in (d.baseline, d.mean)),
            f"{d.difference:+.3g}",
            f"{d.low:+.3g} .. {d.high:+.3g}",
            f"{100 * d.share_better:.0f} %",
            d.verdict,
        )
    return table


def frames_table(evaluation: Evaluation) -> Table:
    """Return predicted and labelled frontier orbitals, and the errors, of the first frames."""
    shown = [frame for frame in evaluation.frames if not frame.error][:MAX_FRAMES]
    table = Table(
        title=f"Held-out frames ({len(shown)} of {len(evaluation.frames)}): "
        "predicted / PySCF in eV, error in meV",
        title_justify="left",
    )
    for name in ("frame", "HOMO", "error", "LUMO", "error", "gap", "error", "occupied", "H (µHa)"):
        table.add_column(name, justify="right")
    for frame in shown:
        cells = [str(frame.index)]
        for name in ("homo", "lumo", "gap"):
            ours, label = frame.frontier_ev[f"{name}_ev"], frame.frontier_ev[f"{name}_ref_ev"]
            cells += [f"{ours:.3f} / {label:.3f}", f"{1e3 * (ours - label):+.2f}"]
        cells += [f"{frame.metrics['eps_occ_mae_mev']:.2f}", f"{frame.metrics['h_mae_uha']:.1f}"]
        table.add_row(*cells)
    return table


def orbitals_table(evaluation: Evaluation) -> Table:
    """Return every occupied orbital and the LUMO of the first frame, predicted and labelled."""
    ladder = evaluation.ladders[0]
    table = Table(title=f"Orbital energies of frame {ladder.index}", title_justify="left")
    table.add_column("orbital")
    for name in ("predicted (eV)", "PySCF (eV)", "error (meV)"):
        table.add_column(name, justify="right")
    for ours, label, occupations in zip(
        ladder.predicted_ev, ladder.reference_ev, ladder.occupations, strict=True
    ):
        n = int((occupations > 0).sum())
        for k in range(min(n + 1, len(ours))):
            name = {n - 1: "HOMO", n: "LUMO"}.get(k, f"occupied {k + 1}")
            error = 1e3 * (ours[k] - label[k])
            table.add_row(name, f"{ours[k]:.3f}", f"{label[k]:.3f}", f"{error:+.2f}")
    return table


def summary_line(evaluation: Evaluation) -> str:
    """Return the main numbers in one line."""
    m = evaluation.metrics
    return (
        f"H MAE {m['h_mae_uha']:.1f} µHa, occupied {m['eps_occ_mae_mev']:.2f} meV, "
        f"HOMO {m['homo_mae_mev']:.2f} meV, LUMO {m['lumo_mae_mev']:.2f} meV, "
        f"gap {m['gap_mae_mev']:.2f} meV"
    )


def predictions_table(rows: Sequence[Mapping[str, Any]], n_rows: int) -> Table:
    """Return the first of ``n_rows`` rows of ``predictions.csv``."""
    table = Table(title_justify="left")
    columns = ("row", "formula", "homo_ev", "lumo_ev", "gap_ev", "gap_std_ev", "warnings")
    for name in columns:
        table.add_column(name, justify="left" if name in ("formula", "warnings") else "right")
    for row in rows:
        energies = [_ev(row.get(name)) for name in columns[2:6]]
        remark = f"error: {row['error']}" if row["error"] else row["warnings"]
        table.add_row(str(row["row"]), row.get("formula", ""), *energies, escape(remark))
    if n_rows > len(rows):
        table.caption = f"{n_rows - len(rows)} more in predictions.csv"
    return table


def scf_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the first rows of ``scf.csv``; a slash separates what the default guess took."""
    table = Table(title_justify="left")
    for name in ("frame", "formula", "energy (Hartree)", "guess", "cycles", "Fock builds", "s"):
        table.add_column(name, justify="left" if name in ("formula", "guess") else "right")
    table.add_column("warnings")
    for row in rows[:MAX_FRAMES]:
        energy = "" if row["energy_hartree"] is None else f"{row['energy_hartree']:.8f}"
        remark = f"error: {row['error']}" if row["error"] else row["warnings"]
        cells = [_with_default(row, name) for name in ("cycles", "fock_builds", "seconds")]
        about = (str(row["frame"]), row["formula"] or "", energy, row["guess"] or "")
        table.add_row(*about, *cells, escape(remark))
    if len(rows) > MAX_FRAMES:
        table.caption = f"{len(rows) - MAX_FRAMES} more"
    return table


def _with_default(row: Mapping[str, Any], name: str) -> str:
    if row[name] is None:
        return ""
    default = row[f"default_{name}"]
    return f"{row[name]}" if default is None else f"{row[name]} / {default}"


def chosen_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the first rows of `hamnet select`."""
    table = Table(title_justify="left")
    for name in ("rank", "origin", "formula"):
        table.add_column(name, justify="right" if name == "rank" else "left")
    table.add_column("H uncertainty (µHa)", justify="right")
    table.add_column("squared error left", justify="right")
    for row in rows[:MAX_FRAMES]:
        numbers = (f"{row['h_std_uha']:.4g}", f"{100 * row['left']:.1f} %")
        table.add_row(str(row["rank"]), escape(row["origin"]), row["formula"], *numbers)
    if len(rows) > MAX_FRAMES:
        table.caption = f"{len(rows) - MAX_FRAMES} more in the file"
    return table


def _ev(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else ""


def bands_table(summary: Mapping[str, Any]) -> Table:
    """Return Fermi level, gap, edges and errors of a band structure."""
    table = Table(title=f"Bands of {escape(str(summary['formula']))}", title_justify="left")
    table.add_column("quantity")
    table.add_column("value", justify="right")
    for name, value in summary.items():
        if name in ("formula", "origin", "out", "plot"):
            continue
        for key, number in (value if isinstance(value, Mapping) else {name: value}).items():
            table.add_row(key, _shown(number))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{x:.4g}" for x in value)
    if isinstance(value, float):
        return f"{value:.4f}"
    return "unknown" if value is None else str(value)
