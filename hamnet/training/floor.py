"""The floor of overlaps, below which the learnt correction is faded out, by validation frames."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hamnet.correction import corrected
from hamnet.data.record import Record
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import HamiltonianModel
from hamnet.models.model import orbitals
from hamnet.prediction import Prediction
from hamnet.structure import FloatArray

FLOORS = (0.0, 0.003, 0.01, 0.03, 0.1)
"""Candidates; see `hamnet.correction`."""

JUDGED = ("h_mae_uha", "eps_occ_mae_mev", "lumo_mae_mev", "density_error")
"""Errors whose product is to be small."""


def floors_of(model: HamiltonianModel) -> Sequence[float]:
    """Return the candidates of a model: only 0 for crystals, or without an H0 to fall back on."""
    if model.metadata.periodic or model.metadata.reference == "none":
        return FLOORS[:1]
    return FLOORS


def frames_with(
    floor: float, frames: Iterable[tuple[Prediction, Record, FloatArray | None]]
) -> list[dict[str, float]]:
    """Return the errors of frames whose predictions were made without a floor.

    Args:
        floor: to be tried.
        frames: predictions, labels and the entries of H0 (`hamnet.data.samples.record_reference`).
    """
    found = []
    for prediction, record, h0 in frames:
        p = prediction
        if floor and h0 is not None:
            h = h0 + corrected(p.hamiltonian.entries[: len(h0)] - h0, p.overlap, floor)
            n_electrons = round(float(record.occupations.sum()))
            p = orbitals(p.structure, p.basis, h, p.overlap, n_electrons)
        found.append(frame_metrics(p, record))
    return found


def merit(errors: Mapping[str, float]) -> float:
    """Return the logarithm of the product of the errors in `JUDGED` that exist."""
    judged = [errors[name] for name in JUDGED if np.isfinite(errors.get(name, np.nan))]
    return float(np.log(np.maximum(judged, 1e-12)).sum())


def best_floor(frames: Mapping[float, list[dict[str, float]]]) -> float:
    """Return the floor with the smallest `merit`."""
    return min(frames, key=lambda floor: merit(summarise(frames[floor])))
