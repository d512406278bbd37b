"""HOMO and LUMO in space, predicted and labelled, on coarse grids for the report."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hamnet.basis import OrbitalBasis
from hamnet.blocks import to_dense
from hamnet.data.record import Record
from hamnet.evaluation.evaluate import Evaluation, FrameResult
from hamnet.integrals import orbital_values
from hamnet.prediction import Prediction
from hamnet.spectrum import solve
from hamnet.structure import FloatArray, IntArray, Structure
from hamnet.units import HARTREE_TO_EV

MARGIN_ANGSTROM = 2.6
SPACING_ANGSTROM = 0.25
MAX_POINTS_PER_AXIS = 44
"""Larger molecules get a wider spacing: a report stays small."""


@dataclass(frozen=True, eq=False)
class Orbital:
    """One orbital, predicted and labelled.

    Attributes:
        energy_ev, energy_ref_ev: orbital energies, eV.
        overlap: ``|<predicted|label>|`` in the metric S, 1 is perfect.
        predicted, label: values in space, bohr^(-3/2), ``[n_x, n_y, n_z]``, of the same sign.
    """

    energy_ev: float
    energy_ref_ev: float
    overlap: float
    predicted: FloatArray
    label: FloatArray


@dataclass(frozen=True, eq=False)
class FrameOrbitals:
    """The frontier orbitals of one frame, turned so that the molecule lies flat.

    Attributes:
        frame: the frame.
        words: why this frame is shown, such as ``worst``.
        numbers: atomic numbers ``[N]``.
        positions: Angstrom, principal axes, the thinnest one last, ``[N, 3]``.
        origin: first point of the grid, Angstrom, ``[3]``.
        spacing: Angstrom.
        orbitals: ``HOMO`` and ``LUMO``, those that exist.
    """

    frame: FrameResult
    words: str
    numbers: IntArray
    positions: FloatArray
    origin: FloatArray
    spacing: float
    orbitals: Mapping[str, Orbital]


def extreme_frames(evaluation: Evaluation, metric: str = "eps_occ_mae_mev") -> dict[str, int]:
    """Return places in ``evaluation.frames`` of the best, the median and the worst frame.

    Crystals have no orbitals: the answer is empty.
    """
    frames = evaluation.frames
    predicted = [n for n, f in enumerate(frames) if not f.error and np.isfinite(f.metrics[metric])]
    ranked = sorted(predicted, key=lambda n: frames[n].metrics[metric])
    if not ranked:
        return {}
    return {"worst": ranked[-1], "median": ranked[len(ranked) // 2], "best": ranked[0]}


def frame_orbitals(
    frame: FrameResult, words: str, prediction: Prediction, record: Record
) -> FrameOrbitals:
    """Evaluate the frontier orbitals of a frame in space.

    Raises:
        HamnetError: see `hamnet.integrals.orbital_values`.
    """
    structure = record.structure
    centre = structure.positions.mean(axis=0)
    axes = principal_axes(structure.positions)
    positions = (structure.positions - centre) @ axes.T
    low, high = positions.min(axis=0) - MARGIN_ANGSTROM, positions.max(axis=0) + MARGIN_ANGSTROM
    spacing = max(SPACING_ANGSTROM, float((high - low).max()) / (MAX_POINTS_PER_AXIS - 1))
    shape = np.ceil((high - low) / spacing).astype(int) + 1
    steps = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    points = (low + spacing * steps).reshape(-1, 3) @ axes + centre  # back in the lab frame
    return FrameOrbitals(
        frame=frame,
        words=words,
        numbers=structure.numbers,
        positions=positions,
        origin=low,
        spacing=spacing,
        orbitals=_frontier(prediction, record, structure, points, tuple(shape)),
    )


def principal_axes(positions: FloatArray) -> FloatArray:
    """Return a proper rotation whose rows are the long, the middle and the thin axis."""
    centred = positions - positions.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes.T[::-1]  # eigh is ascending
    largest = axes[np.arange(3), np.abs(axes).argmax(axis=1)]
    axes = axes * np.sign(largest)[:, None]  # one of the two signs, always the same
    rotation: FloatArray = axes * np.array([1.0, 1.0, np.linalg.det(axes)])[:, None]
    return rotation


def _frontier(
    prediction: Prediction,
    record: Record,
    structure: Structure,
    points: FloatArray,
    shape: tuple[int, ...],
) -> dict[str, Orbital]:
    overlap = torch.from_numpy(to_dense(record.blocks("overlap")))
    matrix = torch.from_numpy(to_dense(record.blocks("hamiltonian")))
    label = solve(matrix, overlap.expand_as(matrix))
    found = {}
    for name, occupied in (("HOMO", True), ("LUMO", False)):
        ours = _place(prediction.orbital_energies, prediction.occupations > 0, occupied)
        theirs = _place(label.energies.numpy(), record.occupations > 0, occupied)
        if ours is None or theirs is None:
            continue
        one = prediction.coefficients[ours[0]][:, ours[1]]
        two = label.coefficients[theirs[0]].numpy()[:, theirs[1]]
        projection = float(one @ overlap.numpy() @ two)
        both = np.stack([one * (1.0 if projection >= 0 else -1.0), two], axis=1)
        values = _values(structure, prediction.basis, both, points).reshape(*shape, 2)
        found[name] = Orbital(
            energy_ev=HARTREE_TO_EV * float(prediction.orbital_energies[ours]),
            energy_ref_ev=HARTREE_TO_EV * float(label.energies.numpy()[theirs]),
            overlap=abs(projection),
            predicted=values[..., 0],
            label=values[..., 1],
        )
    return found


def _values(
    structure: Structure, basis: OrbitalBasis, coefficients: FloatArray, points: FloatArray
) -> FloatArray:
    """Evaluate orbitals; the second one's sign makes the largest value positive."""
    values = orbital_values(structure, basis, coefficients, points)
    largest = values[np.abs(values[:, 1]).argmax(), 1]
    return values * (1.0 if largest >= 0 else -1.0)


def _place(
    energies: FloatArray, occupied: NDArray[np.bool_], highest_occupied: bool
) -> tuple[int, int] | None:
    """Return channel and number of the HOMO or the LUMO over all spins."""
    n_mo = min(energies.shape[1], occupied.shape[1])
    if highest_occupied:
        levels = np.where(occupied[:, :n_mo], energies[:, :n_mo], -np.inf)
        place = int(levels.argmax())
    else:
        levels = np.where(occupied[:, :n_mo], np.inf, energies[:, :n_mo])
        place = int(levels.argmin())
    channel, number = divmod(place, n_mo)
    return (channel, number) if np.isfinite(levels[channel, number]) else None
