"""Networks that may become the result of a run: solved, measured, and the best of them."""

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hamnet.data.samples import record_reference
from hamnet.metrics import summarise
from hamnet.models import HamiltonianModel
from hamnet.models.so2_network import SO2Network
from hamnet.nn.covariance import ReadoutCovariance
from hamnet.training import parallel
from hamnet.training.batches import RecordBatches, group_batches, sample_batches
from hamnet.training.callbacks import Report, describe
from hamnet.training.config import TrainConfig
from hamnet.training.dataset import RecordDataset, SampleDataset
from hamnet.training.floor import best_floor, floors_of, frames_with, merit
from hamnet.training.orbital_fit import fit_orbitals, fitting, has_closed_shells
from hamnet.training.projection import Penalties, forget_readout, penalties_of
from hamnet.training.readout import Solution, solve_readout
from hamnet.training.setup import Setup
from hamnet.training.uncertainty import MAX_FRAMES, fit_covariance


@dataclass(frozen=True, eq=False)
class Candidate:
    """A network that may become the result.

    Attributes:
        name: how it was made.
        network: its weights.
        metrics: errors on the validation frames; empty without any.
        floor: see `hamnet.correction`.
        covariance: of its readout, in the first process alone.
        penalties: of its readout's solution; empty if it was not solved.
        seconds: that all this took.
    """

    name: str
    network: SO2Network
    metrics: Mapping[str, float]
    floor: float
    covariance: ReadoutCovariance | None
    penalties: Penalties
    seconds: float


def solve_on(model: HamiltonianModel, setup: Setup, config: TrainConfig) -> dict[str, Solution]:
    """Solve a model's readout on the data of a run; see `solve_readout`."""
    train, validation = (
        sample_batches(x, config.training) for x in (setup.train, setup.validation)
    )
    groups = () if setup.uniform else group_batches(setup.train, config.training)
    return solve_readout(model, train, validation, groups=groups)


def solve_again(model: HamiltonianModel, setup: Setup, config: TrainConfig) -> Penalties:
    """Solve the readout from zero on all training frames, and return the penalties of that."""
    forget_readout(model)
    return penalties_of(solve_on(model, setup, config), len(setup.train))


def make_candidate(name: str, setup: Setup, config: TrainConfig, report: Report) -> Candidate:
    """Solve the readout of the model as it is, and measure it."""
    begin, model = time.monotonic(), setup.model.to(parallel.device())
    solved: dict[str, Solution] = {}
    if config.readout.solve:
        solved = solve_on(model, setup, config)
    metrics, floor = _validate(model, setup.validation, config)
    if metrics:
        how = ", readout solved" if solved else ""
        report(f"{name}{how}: validation {describe(metrics)}")
    if solved and config.readout.orbital_steps and has_closed_shells(model):
        metrics, floor = _fit_orbitals(setup, config, solved, metrics, floor, report)
    covariance = None
    wanted = solved and config.readout.uncertainty and len(setup.validation) > 0
    if wanted and not model.metadata.periodic and parallel.rank() == 0:  # which writes the model
        fitted = {name: solution.equations for name, solution in solved.items()}
        few = sample_batches(setup.validation, config.training, MAX_FRAMES, shared=False)
        covariance = fit_covariance(model, fitted, few)
    penalties = penalties_of(solved, len(setup.train))
    seconds = time.monotonic() - begin
    return Candidate(name, model.network, metrics, floor, covariance, penalties, seconds)


def _fit_orbitals(
    setup: Setup,
    config: TrainConfig,
    solved: Mapping[str, Solution],
    metrics: dict[str, float],
    floor: float,
    report: Report,
) -> tuple[dict[str, float], float]:
    """Solve the readout for the orbitals; keep that where the validation frames agree."""
    model, before = setup.model, copy.deepcopy(setup.model.network.readout.state_dict())
    _set_floor(model, floor)
    records = setup.train.records
    some = np.linspace(0, len(records) - 1, fitting(model, solved, len(records))).astype(int)
    few = RecordDataset(records.store, [records.indices[k] for k in some])
    train = RecordBatches(SampleDataset(few, model.cutoffs, setup.train.reference), config.training)
    weight = len(records) / len(few)
    fit_orbitals(model, train, solved, config.readout.orbital_steps, weight)
    fitted, best = _validate(model, setup.validation, config)
    if fitted and merit(fitted) > merit(metrics):
        report("solved for orbitals: worse on validation, not kept")
        model.network.readout.load_state_dict(before)
        return metrics, floor
    if fitted:
        report(f"solved for orbitals: validation {describe(fitted)}")
    return fitted, best


def best_candidate(candidates: list[Candidate]) -> Candidate:
    """Return the candidate with the smallest errors; the last one without validation frames.

    With few frames or little time, random features and a solved readout ("instant") can be better
    than features that gradient steps have only begun to shape.
    """
    if not candidates[-1].metrics:
        return candidates[-1]
    return min(candidates, key=lambda c: merit(c.metrics))


def _set_floor(model: HamiltonianModel, floor: float) -> None:
    model.metadata = model.metadata.model_copy(update={"overlap_floor": floor})


def _validate(
    model: HamiltonianModel, samples: SampleDataset, config: TrainConfig
) -> tuple[dict[str, float], float]:
    """Return the errors of all validation frames, of the model as it will be saved, and its floor.

    Without validation frames there are no errors, and the floor stays what it is: 0, or a parent's.
    """
    frames: dict[float, list[dict[str, float]]] = {floor: [] for floor in floors_of(model)}
    known = model.metadata.overlap_floor
    _set_floor(model, 0.0)
    for batch in RecordBatches(samples, config.training):
        h0 = [record_reference(record, model.reference, model.basis) for record in batch]
        labelled = list(zip(model.predict_labelled(batch), batch, h0, strict=True))
        for floor in frames:
            frames[floor] += frames_with(floor, labelled)
    _set_floor(model, known)
    gathered = {floor: parallel.gather(found) for floor, found in frames.items()}
    if not gathered[0.0]:
        return {}, known
    floor = best_floor(gathered)
    errors = summarise(gathered[floor])
    return {name: x for name, x in errors.items() if math.isfinite(x)}, floor
