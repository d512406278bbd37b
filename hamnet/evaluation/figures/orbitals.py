"""Orbital energies: ladders of single frames, and the error against the energy."""

from collections.abc import Sequence

import numpy as np

from hamnet.evaluation.evaluate import Ladder
from hamnet.evaluation.picture import BLUE, INK, ORANGE, Picture, drawing, log_scale
from hamnet.structure import FloatArray

VALENCE_EV = 45.0
"""The ladder shows occupied orbitals this far below the vacuum, not the cores."""
LADDER_ABOVE_LUMO_EV = 8.0

REGIONS = ("core", "valence", "empty, up to 10 eV above the LUMO", "higher")
"""Where an orbital lies; valence begins 45 eV below the vacuum."""
_NEAR_LUMO_EV = 10.0

MAX_POINTS = 6000
SHOWN_UP_TO_EV = 60.0
_BIN_EV = 2.0
_SMALLEST_MEV = 1e-6


def ladder(frame: Ladder, caption: str) -> Picture:
    """Draw the valence orbital energies of one frame, the label left of the prediction."""
    with drawing(f"ladder-{frame.index}", caption, width=4.2, height=3.6) as (picture, axes):
        empty = frame.reference_ev[frame.occupations == 0]
        top = empty.min(initial=np.inf) + LADDER_ABOVE_LUMO_EV if empty.size else np.inf
        for channel, occupations in enumerate(frame.occupations):
            left = 3.0 * channel
            reference, predicted = frame.reference_ev[channel], frame.predicted_ev[channel]
            shown = (reference > -VALENCE_EV) & (reference < top)
            for one, two, occupation in zip(
                reference[shown], predicted[shown], occupations[shown], strict=True
            ):
                colour = BLUE if occupation > 0 else ORANGE
                axes.plot([left, left + 1], [one, one], color=colour, linewidth=1.6)
                axes.plot([left + 1.3, left + 2.3], [two, two], color=colour, linewidth=1.6)
                axes.plot(
                    [left + 1, left + 1.3], [one, two], color=colour, linewidth=0.6, linestyle=":"
                )
        ticks = [3.0 * c + x for c in range(len(frame.occupations)) for x in (0.5, 1.8)]
        axes.set_xticks(ticks, ["label", "predicted"] * len(frame.occupations))
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("orbital energy (eV)")
        axes.plot([], [], color=BLUE, label="occupied")
        axes.plot([], [], color=ORANGE, label="empty")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return picture


def energy_errors(ladders: Sequence[Ladder]) -> FloatArray:
    """Return energy (eV), error (meV), and region (index into `REGIONS`) of every orbital.

    Shape ``[n, 3]``; the energy is the label's.
    """
    rows = [np.zeros((0, 3))]
    for frame in ladders:
        energy, occupied = frame.reference_ev, frame.occupations > 0
        lumo = energy[~occupied].min(initial=np.inf)
        region = np.where(
            occupied, energy > -VALENCE_EV, np.where(energy <= lumo + _NEAR_LUMO_EV, 2, 3)
        )
        error = 1e3 * np.abs(frame.predicted_ev - energy)
        rows.append(np.stack([energy, error, region], axis=-1).reshape(-1, 3))
    points = np.concatenate(rows)
    return points[np.isfinite(points).all(axis=1)]


def error_by_energy(points: FloatArray) -> Picture:
    """Draw orbital-energy errors against the energy, with the mean in bins of 2 eV.

    Args:
        points: see `energy_errors`.
    """
    caption = "Error of orbital energies against the energy; line: mean in bins of 2 eV"
    shown = points[(points[:, 0] > -VALENCE_EV) & (points[:, 0] < SHOWN_UP_TO_EV)]
    with drawing("error-by-energy", caption) as (picture, axes):
        some = np.random.default_rng(0).permutation(len(shown))[:MAX_POINTS]
        for occupied, colour, label in ((True, BLUE, "occupied"), (False, ORANGE, "empty")):
            energy, error, _ = shown[some][(shown[some][:, 2] < 2) == occupied].T
            axes.scatter(
                energy,
                np.maximum(error, _SMALLEST_MEV),
                s=3,
                color=colour,
                linewidths=0,
                label=label,
                alpha=0.6,
                rasterized=True,
            )
        bins = np.floor(shown[:, 0] / _BIN_EV).astype(np.int64)
        for kind in (True, False):  # never a mean over occupied and empty orbitals
            of_kind = (shown[:, 2] < 2) == kind
            edges, inverse = np.unique(bins[of_kind], return_inverse=True)
            mean = np.bincount(inverse, shown[of_kind, 1]) / np.bincount(inverse)
            axes.plot(
                _BIN_EV * (edges + 0.5), np.maximum(mean, _SMALLEST_MEV), color=INK, linewidth=1.2
            )
        log_scale(axes, "y")
        axes.set_xlabel("orbital energy of the label (eV)")
        axes.set_ylabel("|error| (meV)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, markerscale=4)
    return picture
