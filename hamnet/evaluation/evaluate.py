"""Compare predictions with labels, frame by frame."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hamnet.basis import OrbitalBasis
from hamnet.data.record import Record
from hamnet.errors import HamnetError
from hamnet.evaluation.block_errors import BlockError, BlockErrorSum
from hamnet.evaluation.distance_errors import DistanceError, DistanceErrorSum
from hamnet.metrics import frame_metrics, summarise
from hamnet.prediction import Prediction, frontier
from hamnet.structure import FloatArray, Structure
from hamnet.units import HARTREE_TO_EV, HARTREE_TO_MEV, HARTREE_TO_UHA

PARITY_POINTS_PER_FRAME = 400
"""Matrix elements drawn from each frame for the parity plot."""


@dataclass(frozen=True)
class FrameResult:
    """One frame: its errors, and the frontier orbitals in eV; or why there is no prediction.

    Attributes:
        index: number of the record in its file.
        record_id, group, origin, structure: of the record.
        metrics: see `hamnet.metrics.METRICS`, and standard deviations where the model knows them
            (``homo_std_mev``, ``h_std_uha``, ...); empty where the prediction failed.
        frontier_ev: ``homo_ev``, ``homo_ref_ev``, ``lumo_ev``, ... ; empty likewise.
        warnings: the prediction's.
        error: why there is no prediction; empty otherwise.
    """

    index: int
    record_id: str
    group: str
    origin: str
    structure: Structure
    metrics: Mapping[str, float] = field(default_factory=dict)
    frontier_ev: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str = ""

    @property
    def formula(self) -> str:
        """Chemical formula of the frame."""
        return self.structure.formula


@dataclass(frozen=True, eq=False)
class Ladder:
    """Orbital energies of one frame, for the picture.

    Attributes:
        index: number of the record in its file.
        predicted_ev, reference_ev, occupations: shape ``[n_spin, n_mo]``.
    """

    index: int
    predicted_ev: FloatArray
    reference_ev: FloatArray
    occupations: FloatArray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was found out about a model on labelled frames.

    Attributes:
        frames: one result per frame, failed ones included.
        metrics: means over the frames that were predicted, see `hamnet.metrics.METRICS`.
        blocks: errors per pair of shells.
        distances: errors per pair of elements and distance.
        parity: sampled matrix elements by kind (``on_site``, ``pair``), shape ``[n, 2]``: label and
            prediction, Hartree.
        ladders: orbital energies of every predicted frame.
    """

    frames: tuple[FrameResult, ...]
    metrics: Mapping[str, float]
    blocks: tuple[BlockError, ...]
    distances: tuple[DistanceError, ...]
    parity: Mapping[str, FloatArray]
    ladders: tuple[Ladder, ...]

    @property
    def n_failed(self) -> int:
        """Number of frames without a prediction."""
        return sum(bool(frame.error) for frame in self.frames)


def evaluate(
    pairs: Iterable[tuple[Prediction | HamnetError, Record]],
    basis: OrbitalBasis,
    indices: Sequence[int] | None = None,
) -> Evaluation:
    """Compare predictions with labels.

    Args:
        pairs: a prediction, or the reason why there is none, and its label.
        basis: a basis that holds every element that occurs.
        indices: number of each record in its file; counted from 0 by default.

    Raises:
        HamnetError: no frame at all, or a prediction that does not belong to its label.
    """
    frames: list[FrameResult] = []
    ladders: list[Ladder] = []
    blocks, distances = BlockErrorSum(basis), DistanceErrorSum()
    parity: dict[str, list[FloatArray]] = {"on_site": [], "pair": []}
    for n, (outcome, record) in enumerate(pairs):
        index = n if indices is None else int(indices[n])
        frames.append(_frame_result(index, outcome, record))
        if isinstance(outcome, HamnetError):
            continue
        blocks.add(outcome, record)
        distances.add(outcome, record)
        ladders.append(_ladder(index, outcome, record))
        for kind, points in _parity(outcome, record, seed=index).items():
            parity[kind].append(points)
    if not frames:
        raise HamnetError("there is no frame to evaluate")
    return Evaluation(
        frames=tuple(frames),
        metrics=summarise([frame.metrics for frame in frames if not frame.error]),
        blocks=blocks.result(),
        distances=distances.result(),
        parity={kind: np.concatenate([np.zeros((0, 2)), *p]) for kind, p in parity.items()},
        ladders=tuple(ladders),
    )


def _frame_result(index: int, outcome: Prediction | HamnetError, record: Record) -> FrameResult:
    result = FrameResult(
        index=index,
        record_id=record.id,
        group=record.group,
        origin=record.origin,
        structure=record.structure,
    )
    if isinstance(outcome, HamnetError):
        return replace(result, error=str(outcome))
    return replace(
        result,
        metrics=frame_metrics(outcome, record) | _stds(outcome),
        frontier_ev=_frontier_ev(outcome, record),
        warnings=outcome.warnings,
    )


def _frontier_ev(prediction: Prediction, record: Record) -> dict[str, float]:
    homo, lumo = frontier(record.orbital_energies, record.occupations)
    hartree = {
        "homo_ev": prediction.homo,
        "homo_ref_ev": homo,
        "lumo_ev": prediction.lumo,
        "lumo_ref_ev": lumo,
        "gap_ev": prediction.gap,
        "gap_ref_ev": lumo - homo,
    }
    return {name: HARTREE_TO_EV * energy for name, energy in hartree.items()}


def _stds(prediction: Prediction) -> dict[str, float]:
    found = {}
    for name, std in prediction.uncertainty.items():
        unit, factor = ("uha", HARTREE_TO_UHA) if name == "h" else ("mev", HARTREE_TO_MEV)
        found[f"{name}_std_{unit}"] = factor * std
    return found


def _ladder(index: int, prediction: Prediction, record: Record) -> Ladder:
    n_mo = min(prediction.orbital_energies.shape[1], record.orbital_energies.shape[1])
    return Ladder(
        index=index,
        predicted_ev=HARTREE_TO_EV * prediction.orbital_energies[:, :n_mo],
        reference_ev=HARTREE_TO_EV * record.orbital_energies[:, :n_mo],
        occupations=record.occupations[:, :n_mo],
    )


def _parity(prediction: Prediction, record: Record, seed: int) -> dict[str, FloatArray]:
    """Draw matrix elements of the first spin channel: label and prediction, ``[n, 2]``."""
    both = np.stack([record.hamiltonian[0], prediction.hamiltonian.entries[0]], axis=1)
    on_site = np.repeat(record.layout.on_site, record.layout.sizes)
    rng = np.random.default_rng(seed)
    drawn = {}
    for kind, points in (("on_site", both[on_site]), ("pair", both[~on_site])):
        chosen = rng.permutation(len(points))[:PARITY_POINTS_PER_FRAME]
        drawn[kind] = points[chosen]
    return drawn
