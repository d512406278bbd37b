"""The report: one HTML file that explains itself and needs no network."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from hamnet.evaluation import figures
from hamnet.evaluation.evaluate import Evaluation, FrameResult, Ladder
from hamnet.evaluation.tables import write_tables
from hamnet.files import write_text
from hamnet.metrics import METRICS

CARDS = {
    "h_mae_uha": ("H, mean |dH|", "µHa"),
    "eps_occ_mae_mev": ("occupied orbitals", "meV"),
    "homo_mae_mev": ("HOMO", "meV"),
    "lumo_mae_mev": ("LUMO", "meV"),
    "gap_mae_mev": ("gap", "meV"),
    "psi_cosine": ("orbital cosine", ""),
}
MAX_ROWS = 25
_ENERGY_CURVES = {
    "occupied": "val_eps_occ_mae_mev",
    "HOMO": "val_homo_mae_mev",
    "LUMO": "val_lumo_mae_mev",
    "gap": "val_gap_mae_mev",
}


def write_results(
    evaluation: Evaluation,
    out_dir: Path,
    provenance: Mapping[str, Any],
    history: Path | None = None,
) -> dict[str, Any]:
    """Write ``report.html``, ``metrics.json``, ``per_frame.csv`` and ``per_block.csv``.

    Args:
        evaluation: the results.
        out_dir: the folder; made if absent.
        provenance: model, data, split, versions: whatever a reader must know, JSON-ready.
        history: ``history.csv`` of the training run, for the learning curve.

    Returns:
        What is in ``metrics.json``.
    """
    metrics = write_tables(evaluation, out_dir, provenance)
    curves = read_history(history) if history and history.is_file() else {}
    write_text(out_dir / "report.html", report_html(evaluation, provenance, curves))
    return metrics


def report_html(
    evaluation: Evaluation,
    provenance: Mapping[str, Any],
    history: Mapping[str, figures.Curve] | None = None,
) -> str:
    """Return the report as one self-contained page.

    Args:
        evaluation: the results.
        provenance: JSON-ready; its entries ``model``, ``data`` and ``split`` make the title.
        history: columns of ``history.csv`` against seconds, see `read_history`.
    """
    template = Template((files("hamnet.evaluation") / "report.html").read_text(encoding="utf-8"))
    n, failed = len(evaluation.frames), evaluation.n_failed
    subset = f"{provenance['split']} split" if provenance.get("split") else "all frames"
    subtitle = f"{n} frames ({subset}) of {provenance.get('data', 'labelled data')}"
    sections = [
        _failures(evaluation),
        _ladders(evaluation),
        _elements(evaluation),
        _blocks(evaluation),
        _learning(history or {}),
        _worst(evaluation),
        _definitions(),
        _provenance(provenance),
    ]
    return template.substitute(
        title=escape(f"hamnet: {provenance.get('model', 'evaluation')}"),
        subtitle=escape(subtitle + (f"; {failed} could not be predicted" if failed else "")),
        cards="\n".join(_card(evaluation, name) for name in CARDS),
        sections="\n".join(section for section in sections if section),
        footer=escape(
            f"Written by hamnet {provenance.get('hamnet_version', '')}.".replace(" .", ".")
        ),
    )


def read_history(path: Path) -> dict[str, figures.Curve]:
    """Return each column of a ``history.csv`` against seconds, rows without a number left out."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, figures.Curve] = {}
    for name in rows[0] if rows else ():
        points = np.array([(_float(row["seconds"]), _float(row[name])) for row in rows])
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            found[name] = (points[:, 0], points[:, 1])
    return found


def _float(text: str | None) -> float:
    return float(text) if text else math.nan


def _card(evaluation: Evaluation, name: str) -> str:
    label, unit = CARDS[name]
    value = evaluation.metrics[name]
    shown = "-" if not math.isfinite(value) else _digits(name, value)
    return f'<div class="card"><b>{shown} {unit}</b><span>{label}</span></div>'


def _digits(name: str, value: float) -> str:
    """Return four digits; of a cosine near 1, the digits that matter."""
    return f"{value:.6f}" if name == "psi_cosine" else f"{value:.4g}"


def _section(title: str, text: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n<p>{text}</p>\n{body}\n</section>"


def _figures(pictures: Mapping[str, str]) -> str:
    shown = (
        f'<figure role="img" aria-label="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption>{svg}</figure>"
        for caption, svg in pictures.items()
    )
    return f'<div class="figures">{"".join(shown)}</div>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], css: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _failures(evaluation: Evaluation) -> str:
    failed = [frame for frame in evaluation.frames if frame.error]
    if not failed:
        return ""
    rows = [(str(f.index), f.formula, f.error) for f in failed[:MAX_ROWS]]
    text = f"{len(failed)} of {len(evaluation.frames)} frames; the means leave them out."
    return _section(
        '<span class="bad">Frames without a prediction</span>',
        text,
        _table(("frame", "formula", "reason"), rows, "text"),
    )


def _by_error(evaluation: Evaluation, name: str = "eps_occ_mae_mev") -> list[FrameResult]:
    """Return the predicted frames, best first."""
    predicted = [frame for frame in evaluation.frames if not frame.error]
    return sorted(predicted, key=lambda frame: frame.metrics[name])


def _ladders(evaluation: Evaluation) -> str:
    ranked = _by_error(evaluation)
    if not ranked:
        return ""
    by_index: dict[int, Ladder] = {ladder.index: ladder for ladder in evaluation.ladders}
    chosen = {"best": ranked[0], "median": ranked[len(ranked) // 2], "worst": ranked[-1]}
    pictures = {
        f"{word}: frame {frame.index}, {frame.formula}, occupied orbitals off by "
        f"{frame.metrics['eps_occ_mae_mev']:.3g} meV": figures.ladder(by_index[frame.index])
        for word, frame in chosen.items()
    }
    text = "Valence orbital energies of three frames, labels beside predictions."
    return _section("Orbital energies", text, _figures(pictures))


def _elements(evaluation: Evaluation) -> str:
    if not any(len(points) for points in evaluation.parity.values()):
        return ""
    pictures = {
        "Predicted against labelled matrix elements": figures.parity(evaluation.parity),
        "Error against the size of the element": figures.error_by_size(evaluation.parity),
    }
    text = "A sample of matrix elements of every frame; on-site blocks and pairs of atoms."
    return _section("Matrix elements", text, _figures(pictures))


def _blocks(evaluation: Evaluation) -> str:
    maps = figures.heat_maps(evaluation.blocks)
    if not maps:
        return ""
    text = (
        "Mean |dH| in µHa for every pair of shells (p2 is the second p shell of its element), one "
        "colour scale for all. In a pair of elements the rows are the first one's shells."
    )
    return _section("Error by elements and shells", text, _figures(maps))


def _learning(history: Mapping[str, figures.Curve]) -> str:
    pictures = {}
    if "train_loss" in history:
        loss = {"loss": history["train_loss"]}
        pictures["Training loss"] = figures.curves("loss", loss, "loss")
    if "val_h_mae_uha" in history:
        h = {"H": history["val_h_mae_uha"]}
        pictures["H on the validation frames"] = figures.curves("h", h, "mean |dH| (µHa)")
    energies = {label: history[name] for label, name in _ENERGY_CURVES.items() if name in history}
    if energies:
        pictures["Orbital energies on the validation frames"] = figures.curves(
            "energies", energies, "mean error (meV)"
        )
    if not pictures:
        return ""
    return _section(
        "Learning curve",
        "During training, before the readout is solved; the run's metrics.json says what was kept.",
        _figures(pictures),
    )


def _worst(evaluation: Evaluation) -> str:
    ranked = _by_error(evaluation, "h_mae_uha")[::-1][:MAX_ROWS]
    if not ranked:
        return ""
    names = [name for name in METRICS if name != "eps_all_mae_mev"]
    rows = [
        (
            str(frame.index),
            frame.formula,
            *(_digits(name, frame.metrics[name]) for name in names),
            "; ".join(frame.warnings),
        )
        for frame in ranked
    ]
    text = "Largest error of H first; per_frame.csv beside this file has every frame."
    return _section("Worst frames", text, _table(("frame", "formula", *names, "warnings"), rows))


def _definitions() -> str:
    rows = list(METRICS.items())
    text = "Means over frames of the mean over each frame, as QH9 defines them."
    return _section("What the numbers mean", text, _table(("metric", "meaning"), rows, "text"))


def _provenance(provenance: Mapping[str, Any]) -> str:
    rows = list(_flat(provenance))
    if not rows:
        return ""
    text = "Which model, which data, which versions."
    return _section("Provenance", text, _table(("key", "value"), rows, "text"))


def _flat(data: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
