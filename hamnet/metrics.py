"""Errors of one predicted frame, and of many, with the unit in every name.

Definitions as in QH9 where rows are compared with QH9: the mean over all elements of ``|dH|`` per
molecule, then the mean over molecules; orbital energies over the occupied orbitals; the cosine of
occupied orbitals' coefficients.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hamnet.blocks import HamiltonianBlocks, PairLayout, to_dense
from hamnet.data.record import Record
from hamnet.errors import HamnetError
from hamnet.prediction import Prediction, frontier
from hamnet.spectrum import solve
from hamnet.structure import FloatArray
from hamnet.units import HARTREE_TO_MEV, HARTREE_TO_UHA

METRICS: Mapping[str, str] = {
    "h_mae_uha": "mean |dH| over all matrix elements, µHa",
    "eps_occ_mae_mev": "mean error of the occupied orbital energies, meV",
    "eps_all_mae_mev": "mean error of all orbital energies, meV",
    "homo_mae_mev": "error of the HOMO energy, meV",
    "lumo_mae_mev": "error of the LUMO energy, meV",
    "gap_mae_mev": "error of the HOMO-LUMO gap, meV",
    "psi_cosine": "mean |cosine| of the occupied orbitals' coefficients, 1 is perfect",
}
"""What `frame_metrics` returns, with its meaning."""


def frame_metrics(prediction: Prediction, record: Record) -> dict[str, float]:
    """Return the errors of one frame; the keys are those of `METRICS`.

    A number that does not exist (the LUMO of a molecule without empty orbitals) is NaN.

    Raises:
        HamnetError: prediction and record are not of the same molecule and spin treatment.
    """
    _check_same(prediction, record)
    energies, occupations = record.orbital_energies, record.occupations
    n_mo = min(energies.shape[1], prediction.orbital_energies.shape[1])
    eps = np.abs(prediction.orbital_energies[:, :n_mo] - energies[:, :n_mo])  # (n_spin, n_mo)
    occupied = occupations[:, :n_mo] > 0
    homo, lumo = frontier(energies, occupations)
    return {
        "h_mae_uha": HARTREE_TO_UHA * h_mae(prediction.hamiltonian, record.blocks("hamiltonian")),
        "eps_occ_mae_mev": HARTREE_TO_MEV * _mean(eps[occupied]),
        "eps_all_mae_mev": HARTREE_TO_MEV * _mean(eps),
        "homo_mae_mev": HARTREE_TO_MEV * abs(prediction.homo - homo),
        "lumo_mae_mev": HARTREE_TO_MEV * abs(prediction.lumo - lumo),
        "gap_mae_mev": HARTREE_TO_MEV * abs(prediction.gap - (lumo - homo)),
        "psi_cosine": psi_cosine(prediction, record),
    }


def h_mae(predicted: HamiltonianBlocks, reference: HamiltonianBlocks) -> float:
    """Return mean ``|dH|`` over all elements of the full Hermitian matrix, Hartree."""
    weight = entry_weights(reference.layout)
    error = np.abs(predicted.entries - reference.entries) @ weight / weight.sum()
    return float(np.mean(error))


def entry_weights(layout: PairLayout) -> FloatArray:
    """Return how often each entry occurs in the full matrix: 1 on site, 2 elsewhere."""
    pairs = layout.atom_pairs
    on_site = ~pairs[:, :3].any(axis=1) & (pairs[:, 3] == pairs[:, 4])
    return np.repeat(np.where(on_site, 1.0, 2.0), layout.shapes.prod(axis=1))


def psi_cosine(prediction: Prediction, record: Record) -> float:
    """Return the mean of ``|c . c_ref| / (|c| |c_ref|)`` over the occupied orbitals."""
    overlap = to_dense(record.blocks("overlap"))
    cosines: list[FloatArray] = []
    for channel, matrix in enumerate(to_dense(record.blocks("hamiltonian"))):
        orbitals = solve(torch.from_numpy(matrix), torch.from_numpy(overlap)).coefficients
        reference = orbitals.numpy()
        n = int((record.occupations[channel] > 0).sum())
        one, two = reference[:, :n], prediction.coefficients[channel][:, :n]
        norms = np.linalg.norm(one, axis=0) * np.linalg.norm(two, axis=0)
        cosines.append(np.abs((one * two).sum(axis=0)) / norms)
    return _mean(np.concatenate(cosines))


def summarise(frames: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over frames of every metric, NaN where no frame has it."""
    return {name: _mean(np.array([frame[name] for frame in frames])) for name in METRICS}


def _mean(values: FloatArray) -> float:
    """Return the mean of the numbers that exist."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def _check_same(prediction: Prediction, record: Record) -> None:
    one, two = prediction.structure, record.structure
    if not np.array_equal(one.numbers, two.numbers):
        raise HamnetError(
            f"a prediction for {one.formula} is compared with a label of {two.formula}"
        )
    if prediction.hamiltonian.entries.shape != record.hamiltonian.shape:
        raise HamnetError(
            f"the predicted H of {one.formula} has entries {prediction.hamiltonian.entries.shape} "
            f"(n_spin, n_entries), the label {record.hamiltonian.shape}"
        )
