"""Fit what a model knows about its own errors: the readout's covariance, and its calibration.

The normal equations are those of the solved readout. The ridge and the standard deviations of a
class are those that make the residuals of the validation frames most likely under the Gaussian of
`hamnet.nn.covariance`; four factors then make the root mean square of error / uncertainty on those
frames equal to 1 for HOMO, LUMO, gap and H.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from hamnet.blocks import entry_weights
from hamnet.data.record import Record
from hamnet.data.samples import Sample
from hamnet.models import HamiltonianModel
from hamnet.models.metadata import QUANTITIES, Calibration
from hamnet.nn.covariance import SKETCH_SIZE, ReadoutCovariance
from hamnet.prediction import Prediction, frontier
from hamnet.structure import FloatArray
from hamnet.training.readout import NormalEquations, problem_rows

RIDGES = tuple(10.0 ** (-k) for k in range(1, 11))
"""Candidates, relative to the mean diagonal; smaller ones drown in float32 features."""

MAX_FRAMES = 100
"""Validation frames that are looked at."""


@torch.no_grad()
def fit_covariance(
    model: HamiltonianModel,
    fitted: Mapping[str, NormalEquations],
    validation: Iterable[Sample],
) -> ReadoutCovariance:
    """Return the covariance of the solved readout's weights.

    Args:
        model: its readout is the solution of the normal equations.
        fitted: of the training frames.
        validation: batches whose residuals set ridge and scale.
    """
    covariance = ReadoutCovariance(model.network.readout).to(model.device)
    for name, equations in fitted.items():
        covariance.set_rms(name, equations.gram, equations.n_rows)
    held_out: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for batch in validation:
        for name, x, residual in problem_rows(model, batch):
            held_out.setdefault(name, []).append((covariance.sketch(name, x), residual))
    for name, equations in fitted.items():
        eye = torch.eye(len(equations.gram), dtype=torch.float64, device=model.device)
        projection = covariance.sketch(name, eye)
        sketched = projection.T @ equations.gram @ projection
        tau = sketched.diagonal().mean().clamp(min=1e-300)
        rows = held_out.get(name)
        if rows is None:  # a class that no validation frame has: the units of its targets
            ridge, sigma = RIDGES[-1], torch.ones_like(equations.square)
        else:
            x, residual = (torch.cat(parts) for parts in zip(*rows, strict=True))
            ridge, sigma = _most_likely(sketched, tau, x, residual)
        unit = torch.eye(len(sketched), dtype=torch.float64, device=model.device)
        covariance.set_factor(name, sketched + ridge * tau * unit)
        covariance.get_buffer(f"sigma_{name}").copy_(sigma)
    return covariance


def _most_likely(
    gram: Tensor, tau: Tensor, sketched: Tensor, residual: Tensor
) -> tuple[float, Tensor]:
    """Return ridge and standard deviations that make the residuals most likely.

    Under ``r ~ N(0, s^2 v)``, ``v = x A^-1 x``, the best ``s^2`` is the mean of ``r^2 / v``.
    """
    values, vectors = torch.linalg.eigh(gram)
    square = (sketched @ vectors).square()
    best, smallest = (RIDGES[0], residual.new_zeros(residual.shape[1])), torch.inf
    for ridge in RIDGES:
        v = (square / (values.clamp(min=0) + ridge * tau)).sum(dim=1, keepdim=True)
        v = v.clamp(min=1e-300)
        variance = (residual.square() / v).mean(dim=0)
        surprise = float((v * variance.clamp(min=1e-30)).log().mean())
        if surprise < smallest:
            best, smallest = (ridge, variance.sqrt()), surprise
    return best


def add_uncertainty(
    model: HamiltonianModel, covariance: ReadoutCovariance, batches: Iterable[list[Record]]
) -> None:
    """Give a model its covariance, calibrated on labelled validation frames."""
    model.covariance = covariance
    start = Calibration(size=SKETCH_SIZE)
    model.metadata = model.metadata.model_copy(update={"uncertainty": start})
    done = _calibrated(start, model, batches)
    model.metadata = model.metadata.model_copy(update={"uncertainty": done})


def _calibrated(
    start: Calibration, model: HamiltonianModel, batches: Iterable[list[Record]]
) -> Calibration:
    """Return the factors of a model's uncertainties, which has factors of 1."""
    ratios: list[FloatArray] = []
    for batch in batches:
        for prediction, record in zip(model.predict_labelled(batch), batch, strict=True):
            ratios.append(_ratios(prediction, record))
    squares = np.array(ratios).reshape(-1, 4) ** 2
    squares = np.where(np.isfinite(squares), squares, np.nan)
    factors = [float(np.sqrt(np.nanmean(q))) if np.isfinite(q).any() else 1.0 for q in squares.T]
    return start.model_copy(
        update={"n_frames": len(ratios), **dict(zip(QUANTITIES, factors, strict=True))}
    )


def _ratios(prediction: Prediction, record: Record) -> FloatArray:
    """Return error / standard deviation of HOMO, LUMO, gap and H."""
    homo, lumo = frontier(record.orbital_energies, record.occupations)
    weight = entry_weights(record.layout)
    square = (prediction.hamiltonian.entries - record.hamiltonian) ** 2 @ weight / weight.sum()
    errors = (
        prediction.homo - homo,
        prediction.lumo - lumo,
        prediction.gap - (lumo - homo),
        float(np.sqrt(square.mean())),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array(errors) / [prediction.uncertainty[name] for name in QUANTITIES]
