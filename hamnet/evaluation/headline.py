"""The numbers that a report begins with."""

import numpy as np

from hamnet.evaluation.bootstrap import mean_interval, resampled
from hamnet.evaluation.evaluate import Evaluation
from hamnet.evaluation.html import Section, digits, table
from hamnet.metrics import METRICS

LABELS = {
    "h_mae_uha": ("H, mean |dH|", "µHa"),
    "eps_occ_mae_mev": ("occupied orbitals", "meV"),
    "eps_all_mae_mev": ("all orbitals", "meV"),
    "homo_mae_mev": ("HOMO", "meV"),
    "lumo_mae_mev": ("LUMO", "meV"),
    "gap_mae_mev": ("HOMO-LUMO gap", "meV"),
    "psi_cosine": ("orbital cosine", ""),
    "density_error": ("density matrix, |dP| in the metric of S", "electrons"),
    "h_loewdin_mae_uha": ("H in the Löwdin basis, mean |dH|", "µHa"),
    "spurious_low": ("spurious orbitals below the LUMO", "per molecule"),
    "h_mae_mev": ("H of crystals", "meV"),
    "bands_mae_mev": ("bands near the Fermi level", "meV"),
    "bands_max_mev": ("the worst of these bands", "meV"),
}
"""What each of `METRICS` is called in tables, and its unit."""


def headline(evaluation: Evaluation) -> Section:
    """Return the table of mean errors with their spread over frames."""
    frames = [frame for frame in evaluation.frames if not frame.error]
    groups = [frame.group for frame in frames]
    rows = []
    every = np.array([[frame.metrics[name] for name in METRICS] for frame in frames])
    every = every.reshape(-1, len(METRICS))  # also without any frame
    intervals = mean_interval(every, groups)
    for name, values, interval in zip(METRICS, every.T, intervals.T, strict=True):
        label, unit = LABELS[name]
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        mean, low, high = (float(x) for x in interval)
        bad_side = 5 if name == "psi_cosine" else 95
        worst = known.min() if name == "psi_cosine" else known.max()
        spread = (np.median(known), np.percentile(known, bad_side), worst)
        shown = [digits(name, float(x)) for x in (mean, *spread)]
        ends = f"{digits(name, low)} – {digits(name, high)}"
        rows.append((label, f"{shown[0]} {unit}".strip(), ends, *shown[1:], name))
    drawn = "trajectories" if resampled(groups) == "group" else "frames"
    text = (
        "Errors of H, of orbital energies, and the cosine between predicted and labelled occupied "
        "orbitals: means over frames of the mean over each frame, as QH9 defines them. The 95 % "
        f"interval is a bootstrap over {drawn}. To compare: at PySCF's default grid the quadrature "
        "error of a label is a few tenths of a µHa in H, and chemical accuracy is 43 meV."
    )
    header = ("error of", "mean", "95 % interval", "median", "95 % of frames within", "worst")
    body = table((*header, "in metrics.json"), rows, "headline")
    return Section("Mean errors", text, body=body)
