"""A comparison as files: ``compare.html``, ``compare.json``, ``per_frame.csv``, pictures."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hamnet.evaluation.compare import Comparison
from hamnet.evaluation.figures import compare as figures
from hamnet.evaluation.headline import LABELS
from hamnet.evaluation.html import Section, details, digits, flat, page, table
from hamnet.evaluation.report import FIGURES
from hamnet.evaluation.tables import write_csv, write_json
from hamnet.files import write_text
from hamnet.metrics import METRICS

FORMAT = "hamnet-comparison"
FORMAT_VERSION = 1

_PER_FRAME = ("h_mae_uha", "eps_occ_mae_mev", "gap_mae_mev")


def write_comparison(
    comparison: Comparison, out_dir: Path, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the files into a folder, and return what is in ``compare.json``.

    Args:
        comparison: the results.
        out_dir: the folder; made if absent.
        provenance: models, data, split, versions, JSON-ready.

    Raises:
        HamnetError: a file cannot be written.
    """
    summary = comparison_json(comparison, provenance)
    write_json(out_dir / "compare.json", summary)
    columns = [f"{name}:{run}" for name in METRICS for run in comparison.runs]
    rows = (
        (
            *(frame.index, frame.record_id, frame.formula),
            *(f"{x:.7g}" for name in METRICS for x in comparison.values[name][n]),
        )
        for n, frame in enumerate(comparison.frames)
    )
    write_csv(out_dir / "per_frame.csv", ("frame", "id", "formula", *columns), rows)
    sections = [
        _differences(comparison),
        _left_out(comparison),
        _frames(comparison),
        _provenance(provenance),
    ]
    kept = [section for section in sections if section is not None]
    for section in kept:
        for picture in section.all_pictures:
            picture.save(out_dir / FIGURES)
    write_text(out_dir / "compare.html", _page(comparison, provenance, kept))
    return summary


def comparison_json(comparison: Comparison, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results, JSON-ready."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "runs": list(comparison.runs),
        "n_frames": len(comparison.frames),
        "n_left_out": len(comparison.left_out),
        "resampled": comparison.resampled,
        "differences": [asdict(d) | {"verdict": d.verdict} for d in comparison.differences],
        "provenance": dict(provenance),
    }


def _page(comparison: Comparison, provenance: Mapping[str, Any], sections: list[Section]) -> str:
    return page(
        "hamnet comparison",
        " against ".join((", ".join(comparison.runs[1:]), comparison.runs[0])),
        f"{len(comparison.frames)} frames ({provenance.get('split', 'all')} split) of "
        f"{provenance.get('data', 'labelled data')}",
        [f"baseline: {comparison.runs[0]}"],
        sections,
    )


def _differences(comparison: Comparison) -> Section:
    rows = []
    for d in comparison.differences:
        label, unit = LABELS[d.metric]
        rows.append(
            (
                label,
                d.run,
                f"{digits(d.metric, d.mean)} {unit}".strip(),
                f"{digits(d.metric, d.baseline)} {unit}".strip(),
                f"{d.difference:+.3g} {unit}".strip(),
                f"{d.low:+.3g} to {d.high:+.3g}",
                f"{100 * d.share_better:.0f} %",
                d.verdict,
            )
        )
    drawn = "trajectories" if comparison.resampled == "group" else "frames"
    text = (
        f"Every run against {comparison.runs[0]}, frame by frame. The interval holds 95 % of the "
        f"mean differences in 2,000 bootstrap samples of the {drawn}; where it includes zero, "
        "these frames do not tell which run is better."
    )
    header = (
        *("error of", "run", "mean", comparison.runs[0], "difference", "95 % interval"),
        *("better on", "verdict"),
    )
    labels = {name: label for name, (label, _) in LABELS.items()}
    return Section(
        "Differences", text, [figures.forest(comparison, labels)], body=table(header, rows)
    )


def _left_out(comparison: Comparison) -> Section | None:
    if not comparison.left_out:
        return None
    text = f"{len(comparison.left_out)} frames that at least one run could not predict."
    body = table(("record", "reason"), comparison.left_out.items(), "text")
    return Section("Frames left out", text, body=body, alarm=True)


def _frames(comparison: Comparison) -> Section:
    pictures = [
        figures.frame_by_frame(comparison, name, f"Error of {LABELS[name][0]}", LABELS[name][1])
        for name in _PER_FRAME
    ]
    return Section("Frame by frame", "per_frame.csv beside this file has the numbers.", pictures)


def _provenance(provenance: Mapping[str, Any]) -> Section:
    body = details("Models, data and versions", table(("key", "value"), flat(provenance), "text"))
    return Section("Provenance", body=body)
