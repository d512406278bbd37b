"""The floor of overlaps, below which the learnt correction is faded out, by validation frames."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hamnet.correction import corrected
from hamnet.data.record import Record
from hamnet.data.samples import record_reference
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import HamiltonianModel
from hamnet.models.model import orbitals
from hamnet.prediction import Prediction
from hamnet.references import Reference

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
    floor: float, reference: Reference, pairs: Iterable[tuple[Prediction, Record]]
) -> list[dict[str, float]]:
    """Return the errors of frames whose predictions were made without a floor.

    Args:
        floor: to be tried.
        reference: H0.
        pairs: predictions and labels.
    """
    found = []
    for prediction, record in pairs:
        p = prediction
        if floor:
            h0 = record_reference(record, reference, p.basis)
            assert h0 is not None
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
