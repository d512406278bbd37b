"""The report: one HTML file that explains itself and needs no network."""

import csv
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from hamnet.evaluation.calibration import SINGLE, calibrations
from hamnet.evaluation.evaluate import Evaluation, FrameResult, Ladder
from hamnet.evaluation.figures import calibration, heat, matrix, orbitals, space, training
from hamnet.evaluation.headline import LABELS, headline
from hamnet.evaluation.html import Section, details, digits, flat, page, table
from hamnet.evaluation.orbital_grids import FrameOrbitals, extreme_frames
from hamnet.evaluation.picture import Picture
from hamnet.evaluation.tables import write_tables
from hamnet.evaluation.viewer import orbital_section, viewer_scripts
from hamnet.files import write_text
from hamnet.metrics import METRICS
from hamnet.structure import xyz_text

FIGURES = "figures"
MAX_ROWS = 10
MAX_GEOMETRIES = 3
MAX_SHELL_MAPS = 6
"""More pairs of elements than these, and their maps are folded away."""

_ENERGY_CURVES = {
    "occupied": "val_eps_occ_mae_mev",
    "HOMO": "val_homo_mae_mev",
    "LUMO": "val_lumo_mae_mev",
    "gap": "val_gap_mae_mev",
    "bands": "val_bands_mae_mev",
}


def write_results(
    evaluation: Evaluation,
    out_dir: Path,
    provenance: Mapping[str, Any],
    history: Path | None = None,
    shown: Sequence[FrameOrbitals] = (),
) -> dict[str, Any]:
    """Write ``report.html``, its pictures as SVG and PNG, ``metrics.json`` and the tables.

    Args:
        evaluation: the results.
        out_dir: the folder; made if absent. The pictures go to ``figures`` in it.
        provenance: model, data, split, versions: whatever a reader must know, JSON-ready.
        history: ``history.csv`` of the training run, for the learning curve.
        shown: frames whose orbitals are shown in space.

    Returns:
        What is in ``metrics.json``.

    Raises:
        HamnetError: a file cannot be written.
    """
    metrics = write_tables(evaluation, out_dir, provenance)
    curves = learning_curves(history) if history and history.is_file() else {}
    sections = report_sections(evaluation, provenance, curves, shown)
    for section in sections:
        for picture in section.all_pictures:
            picture.save(out_dir / FIGURES)
    write_text(out_dir / "report.html", _page(evaluation, provenance, sections, shown))
    return metrics


def report_html(
    evaluation: Evaluation,
    provenance: Mapping[str, Any],
    history: Mapping[str, training.Curve] | None = None,
    shown: Sequence[FrameOrbitals] = (),
) -> str:
    """Return the report as one self-contained page; arguments as of `report_sections`."""
    sections = report_sections(evaluation, provenance, history or {}, shown)
    return _page(evaluation, provenance, sections, shown)


def report_sections(
    evaluation: Evaluation,
    provenance: Mapping[str, Any],
    history: Mapping[str, training.Curve],
    shown: Sequence[FrameOrbitals],
) -> list[Section]:
    """Return the parts of the report, the most important first.

    Args:
        evaluation: the results.
        provenance: JSON-ready; its entries ``model``, ``data`` and ``split`` make the title.
        history: columns of ``history.csv`` against seconds, see `learning_curves`.
        shown: frames whose orbitals are shown in space.
    """
    sections = [
        headline(evaluation),
        _failures(evaluation),
        _energies(evaluation),
        orbital_section(shown) if shown else None,
        _elements(evaluation),
        _blocks(evaluation),
        _calibration(evaluation),
        _learning(history),
        _worst(evaluation),
        _provenance(provenance),
    ]
    return [section for section in sections if section is not None]


def _page(
    evaluation: Evaluation,
    provenance: Mapping[str, Any],
    sections: Sequence[Section],
    shown: Sequence[FrameOrbitals],
) -> str:
    n, failed = len(evaluation.frames), evaluation.n_failed
    subset = f"{provenance['split']} split" if provenance.get("split") else "all frames"
    subtitle = f"{n} frames ({subset}) of {provenance.get('data', 'labelled data')}"
    level = provenance.get("level", {})
    facts = [
        "/".join(str(level[key]) for key in ("xc", "basis") if key in level),
        f"reference {provenance['reference']}" if "reference" in provenance else "",
        ", ".join(provenance.get("elements", ())),
    ]
    return page(
        "hamnet evaluation",
        str(provenance.get("model", "errors on labelled frames")),
        subtitle + (f"; {failed} could not be predicted" if failed else ""),
        [fact for fact in facts if fact],
        sections,
        extra=viewer_scripts(shown) if shown else "",
    )


def learning_curves(path: Path) -> dict[str, training.Curve]:
    """Return each column of a ``history.csv`` against seconds, rows without a number left out."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, training.Curve] = {}
    for name in rows[0] if rows else ():
        points = np.array([(_float(row["seconds"]), _float(row[name])) for row in rows])
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            found[name] = (points[:, 0], points[:, 1])
    return found


def _float(text: str | None) -> float:
    return float(text) if text else math.nan


def _failures(evaluation: Evaluation) -> Section | None:
    failed = [frame for frame in evaluation.frames if frame.error]
    if not failed:
        return None
    rows = [(str(f.index), f.formula, f.error) for f in failed[:MAX_ROWS]]
    text = f"{len(failed)} of {len(evaluation.frames)} frames; the means leave them out."
    body = table(("frame", "formula", "reason"), rows, "text")
    return Section("Frames without a prediction", text, body=body, alarm=True)


def _energies(evaluation: Evaluation) -> Section | None:
    if not math.isfinite(evaluation.metrics["eps_occ_mae_mev"]):  # none, or crystals
        return None
    by_index: dict[int, Ladder] = {ladder.index: ladder for ladder in evaluation.ladders}
    pictures: list[Picture] = []
    for words, place in extreme_frames(evaluation).items():
        if words == "best":
            continue
        frame = evaluation.frames[place]
        caption = (
            f"{words} frame ({frame.index}, {frame.formula}): occupied orbitals off by "
            f"{frame.metrics['eps_occ_mae_mev']:.3g} meV"
        )
        if all(f"ladder-{frame.index}" != picture.name for picture in pictures):
            pictures.append(orbitals.ladder(by_index[frame.index], caption))
    points = orbitals.energy_errors(evaluation.ladders)
    pictures.insert(0, orbitals.error_by_energy(points))
    rows = []
    for number, region in enumerate(orbitals.REGIONS):
        errors = points[points[:, 2] == number, 1]
        if len(errors):
            stats = (errors.mean(), np.percentile(errors, 95), errors.max())
            rows.append((region, *(digits("", float(x)) for x in stats), f"{len(errors):,}"))
    header = ("orbitals", "mean (meV)", "95 % within (meV)", "worst (meV)", "number")
    return Section(
        "Orbital energies",
        "Predicted orbital energies beside those of the labels. Errors of high empty orbitals "
        "matter to few uses; those of the occupied ones, the HOMO and the LUMO matter to all.",
        pictures,
        below=table(header, rows),
    )


def _elements(evaluation: Evaluation) -> Section | None:
    if not any(len(points) for points in evaluation.parity.values()):
        return None
    pictures = [
        matrix.parity(points, kind) for kind, points in evaluation.parity.items() if len(points)
    ]
    pictures.append(matrix.error_by_size(evaluation.parity))
    text = "A sample of matrix elements of every frame."
    return Section("Matrix elements", text, pictures)


def _blocks(evaluation: Evaluation) -> Section | None:
    if not evaluation.blocks:
        return None
    title = "Error by element, shell and distance"
    maps = heat.shell_maps(evaluation.blocks)
    text = (
        "Where the error of H sits. p2 is the second p shell of its element; rows are the shells "
        "of the first element. The maps of shells share one colour scale."
    )
    first = [heat.element_map(evaluation.blocks)]
    if evaluation.distances:
        first.append(matrix.error_by_distance(evaluation.distances))
    if len(maps) <= MAX_SHELL_MAPS:
        return Section(title, text, [*first, *maps])
    folded = (f"Maps of the shells of {len(maps)} pairs of elements", maps)
    return Section(title, text, first, folded=folded)


def _calibration(evaluation: Evaluation) -> Section | None:
    found = calibrations(evaluation.frames)
    if not found:
        return None
    units = {"mev": "meV", "uha": "µHa", "ev": "eV"}
    rows = [
        (
            one.name,
            f"{one.std.mean():.3g} {units.get(one.unit, one.unit)}",
            *(
                f"{100 * one.coverage(level):.0f} %" if one.name in SINGLE else "–"
                for level in (0.683, 0.95)
            ),
            digits("", one.rank_correlation),
        )
        for one in found
    ]
    header = (
        "quantity",
        "mean standard deviation",
        "within 68 %",
        "within 95 %",
        "rank correlation",
    )
    return Section(
        "Calibration of the uncertainty",
        "Are predicted standard deviations as large as the errors? The share of frames whose error "
        "lies inside the interval that should hold 68 % (95 %) of them, and Spearman's rank "
        "correlation of standard deviation and error (1: the order is perfect). H has no coverage: "
        "its error is a mean over elements.",
        [
            calibration.coverage([one for one in found if one.name in SINGLE]),
            *(calibration.spread(one, units.get(one.unit, one.unit)) for one in found),
        ],
        body=table(header, rows),
    )


def _learning(history: Mapping[str, training.Curve]) -> Section | None:
    pictures = []
    if "train_loss" in history:
        loss = {"loss": history["train_loss"]}
        pictures.append(training.curves("learning-loss", "Training loss", loss, "loss"))
    if "val_h_mae_uha" in history:
        h = {"H": history["val_h_mae_uha"]}
        caption = "H on the validation frames"
        pictures.append(training.curves("learning-h", caption, h, "mean |dH| (µHa)"))
    energies = {label: history[name] for label, name in _ENERGY_CURVES.items() if name in history}
    if energies:
        caption = "Orbital energies on the validation frames"
        curves = training.curves("learning-energies", caption, energies, "mean error (meV)")
        pictures.append(curves)
    if not pictures:
        return None
    text = (
        "During training, before the readout is solved; the run's metrics.json says what was kept."
    )
    return Section("Learning curves", text, pictures)


def _worst(evaluation: Evaluation) -> Section | None:
    predicted = [frame for frame in evaluation.frames if not frame.error]
    known = [name for name in METRICS if math.isfinite(evaluation.metrics[name])]
    ranking = "eps_occ_mae_mev" if "eps_occ_mae_mev" in known else "h_mae_uha"
    ranked = sorted(predicted, key=lambda frame: -frame.metrics[ranking])[:MAX_ROWS]
    if not ranked:
        return None
    names = [name for name in known if name != "eps_all_mae_mev"]
    header = [f"{label} ({unit})" if unit else label for label, unit in (LABELS[n] for n in names)]
    rows = [
        (
            str(frame.index),
            frame.formula,
            *(digits(name, frame.metrics[name]) for name in names),
            "; ".join(frame.warnings),
        )
        for frame in ranked
    ]
    pictures = [
        space.molecule(
            frame.structure,
            f"worst-{rank}",
            f"frame {frame.index}, {frame.formula}: {LABELS[ranking][0]} off by "
            f"{frame.metrics[ranking]:.3g} {LABELS[ranking][1]}",
        )
        for rank, frame in enumerate(ranked[:MAX_GEOMETRIES], start=1)
    ]
    geometries = "".join(_xyz(frame) for frame in ranked[:MAX_GEOMETRIES])
    return Section(
        "Worst frames",
        f"Largest error of {LABELS[ranking][0]} first; per_frame.csv beside this file has every "
        "frame.",
        pictures,
        body=table(("frame", "formula", *header, "warnings"), rows),
        below=details("Geometries as xyz (Å)", f"<pre>{geometries}</pre>"),
    )


def _xyz(frame: FrameResult) -> str:
    state = f"charge={frame.structure.charge} spin={frame.structure.spin}"
    comment = " ".join(f"frame {frame.index} {frame.origin} {state}".split())
    return escape(xyz_text(frame.structure, comment))


def _provenance(provenance: Mapping[str, Any]) -> Section | None:
    rows = list(flat(provenance))
    if not rows:
        return None
    body = details("Model, data, settings and versions", table(("key", "value"), rows, "text"))
    return Section("Provenance", body=body)
