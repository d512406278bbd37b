"""Errors of one predicted frame, and of many, with the unit in every name.

Definitions as in QH9 where rows are compared with QH9: the mean over all elements of ``|dH|`` per
molecule, then the mean over molecules; orbital energies over the occupied orbitals; the cosine of
occupied orbitals' coefficients.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from hamnet.bands import band_edges, band_energies, bands_near, half_mesh, k_mesh
from hamnet.blocks import HamiltonianBlocks, entry_weights, to_dense, without_zero
from hamnet.data.record import Record
from hamnet.errors import HamnetError
from hamnet.prediction import Prediction, frontier
from hamnet.spectrum import Spectrum, solve
from hamnet.spinor import eigenproblem
from hamnet.structure import FloatArray
from hamnet.units import (
    HARTREE_TO_EV,
    HARTREE_TO_MEV,
    HARTREE_TO_UHA,
    OVERLAP_EIGENVALUE_CUT,
)

BAND_MESH_LENGTH = 12.0
"""Angstrom; the mesh of band errors has a supercell at least this thick."""

BAND_WINDOW = 2.0 / HARTREE_TO_EV
"""Hartree; bands this close to the Fermi level count."""

METRICS: Mapping[str, str] = {
    "h_mae_uha": "mean |dH| over all matrix elements, µHa",
    "eps_occ_mae_mev": "mean error of the occupied orbital energies, meV",
    "eps_all_mae_mev": "mean error of all orbital energies, meV",
    "homo_mae_mev": "error of the HOMO energy, meV",
    "lumo_mae_mev": "error of the LUMO energy, meV",
    "gap_mae_mev": "error of the HOMO-LUMO gap, meV",
    "psi_cosine": "mean |cosine| of the occupied orbitals' coefficients, 1 is perfect; not defined "
    "for spinors, which come in degenerate pairs",
    "density_error": "|P - P_ref|, the density matrices' distance in the metric of S; a pair of "
    "electrons in another orbital makes 2.83",
    "h_loewdin_mae_uha": "mean |S^-1/2 dH S^-1/2| over all matrix elements, µHa",
    "spurious_low": "orbitals below the true LUMO that belong far above it, per molecule",
    "h_mae_mev": "crystals: mean |dH| over all matrix elements of the stored pairs, meV",
    "bands_mae_mev": "crystals: mean error of the bands within 2 eV of the Fermi level, meV",
    "bands_max_mev": "crystals: the largest of these errors, meV",
}
"""What `frame_metrics` returns, with its meaning."""

CRYSTALS_ONLY = ("h_mae_mev", "bands_mae_mev", "bands_max_mev")
"""Those that no molecule has."""

SPURIOUS_DEPTH_MEV = 50.0
"""A spurious orbital lies more than this below the true LUMO ..."""
SPURIOUS_REACH_EV = 1.0
"""... and more than half of it is made of true orbitals more than this above the true LUMO."""


def frame_metrics(prediction: Prediction, record: Record) -> dict[str, float]:
    """Return the errors of one frame; the keys are those of `METRICS`.

    A number that does not exist (the LUMO of a molecule without empty orbitals, the bands of a
    molecule, the orbitals of a crystal) is NaN.

    Raises:
        HamnetError: prediction and record are not of the same molecule and spin treatment.
    """
    _check_same(prediction, record)
    if record.structure.is_periodic:
        return dict.fromkeys(METRICS, float("nan")) | crystal_metrics(prediction, record)
    energies, occupations = record.orbital_energies, record.occupations
    n_mo = min(energies.shape[1], prediction.orbital_energies.shape[1])
    eps = np.abs(prediction.orbital_energies[:, :n_mo] - energies[:, :n_mo])  # (n_spin, n_mo)
    occupied = occupations[:, :n_mo] > 0
    homo, lumo = frontier(energies, occupations)
    overlap = to_dense(record.blocks("overlap"))
    matrix, metric = eigenproblem(record.blocks("hamiltonian"), record.blocks("overlap"))
    true = solve(torch.from_numpy(matrix), torch.from_numpy(metric)[None])
    return dict.fromkeys(METRICS, float("nan")) | {
        "h_mae_uha": HARTREE_TO_UHA * h_mae(prediction.hamiltonian, record.blocks("hamiltonian")),
        "eps_occ_mae_mev": HARTREE_TO_MEV * _mean(eps[occupied]),
        "eps_all_mae_mev": HARTREE_TO_MEV * _mean(eps),
        "homo_mae_mev": HARTREE_TO_MEV * abs(prediction.homo - homo),
        "lumo_mae_mev": HARTREE_TO_MEV * abs(prediction.lumo - lumo),
        "gap_mae_mev": HARTREE_TO_MEV * abs(prediction.gap - (lumo - homo)),
        "psi_cosine": psi_cosine(prediction, record, true),
        "density_error": density_error(prediction, record, true, metric),
        "h_loewdin_mae_uha": HARTREE_TO_UHA * h_loewdin_mae(prediction, record, overlap),
        "spurious_low": spurious_low(prediction, lumo, true, metric),
    }


def crystal_metrics(prediction: Prediction, record: Record) -> dict[str, float]:
    """Return the errors of a crystal.

    H is compared as ``H - mu S``, bands relative to each one's Fermi level, on a Gamma-centred mesh
    of a supercell of 12 Angstrom. Bands need the number of electrons (`Prediction.n_electrons`).
    """
    s = record.blocks("overlap")
    mine, label = (
        without_zero(h, s) for h in (prediction.hamiltonian, record.blocks("hamiltonian"))
    )
    error = h_mae(mine, label)
    found = {"h_mae_uha": HARTREE_TO_UHA * error, "h_mae_mev": HARTREE_TO_MEV * error}
    if prediction.n_electrons is None:
        return found
    k, weights = half_mesh(k_mesh(record.structure, BAND_MESH_LENGTH))
    energies, reference = (band_energies(h, s, k) for h in (mine, label))
    n, per_band = prediction.n_electrons, label.spin_kind.per_orbital
    edges = [band_edges(e, k, weights, n, per_band=per_band) for e in (energies, reference)]
    errors = bands_near(energies, reference, (edges[0].fermi, edges[1].fermi), BAND_WINDOW)
    if len(errors):
        found["bands_mae_mev"] = HARTREE_TO_MEV * float(errors.mean())
        found["bands_max_mev"] = HARTREE_TO_MEV * float(errors.max())
    gap = abs(edges[0].gap - edges[1].gap)
    return {**found, "gap_mae_mev": HARTREE_TO_MEV * gap}


def h_mae(predicted: HamiltonianBlocks, reference: HamiltonianBlocks) -> float:
    """Return mean ``|dH|`` over all elements of the full Hermitian matrix, Hartree."""
    weight = entry_weights(reference.layout)
    error = np.abs(predicted.entries - reference.entries) @ weight / weight.sum()
    return float(np.mean(error))


def psi_cosine(prediction: Prediction, record: Record, true: Spectrum) -> float:
    """Return the mean of ``|c . c_ref| / (|c| |c_ref|)`` over the occupied orbitals.

    NaN for spinors: which ones of a degenerate pair are compared would be chance.
    """
    if prediction.hamiltonian.is_spinor:
        return float("nan")
    cosines: list[FloatArray] = []
    for channel, reference in enumerate(true.coefficients.numpy()):
        n = int((record.occupations[channel] > 0).sum())
        one, two = reference[:, :n], prediction.coefficients[channel][:, :n]
        norms = np.linalg.norm(one, axis=0) * np.linalg.norm(two, axis=0)
        cosines.append(np.abs((one * two).sum(axis=0)) / norms)
    return _mean(np.concatenate(cosines))


def density_error(
    prediction: Prediction, record: Record, true: Spectrum, overlap: FloatArray
) -> float:
    """Return ``|S^(1/2) (P - P_ref) S^(1/2)|``, which orbitals of one energy may mix in freely.

    Args:
        prediction: the predicted orbitals.
        record: the label.
        true: its orbitals.
        overlap: S, ``[n, n]``; of spinors ``S (x) 1``.
    """
    per_orbital, square = prediction.hamiltonian.spin_kind.per_orbital, 0.0
    for channel, reference in enumerate(true.coefficients.numpy()):
        n = int((record.occupations[channel] > 0).sum())
        common = reference[:, :n].conj().T @ overlap @ prediction.coefficients[channel][:, :n]
        square += 2 * per_orbital**2 * (n - float((np.abs(common) ** 2).sum()))
    return float(np.sqrt(max(square, 0.0)))


def h_loewdin_mae(prediction: Prediction, record: Record, overlap: FloatArray) -> float:
    """Return mean ``|S^-1/2 dH S^-1/2|``, Hartree: the error as the eigenproblem sees it.

    Where S is nearly singular, an error of H that does not follow S is multiplied there; orbital
    energies break while the error of H looks small. Directions that `solve` projects out are left
    out here too.
    """
    error = to_dense(prediction.hamiltonian) - to_dense(record.blocks("hamiltonian"))
    values, vectors = np.linalg.eigh(overlap)
    kept = values >= OVERLAP_EIGENVALUE_CUT
    root = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    return float(np.abs(root @ error @ root).mean())


def spurious_low(prediction: Prediction, lumo: float, true: Spectrum, overlap: FloatArray) -> float:
    """Count predicted orbitals that stand below the true LUMO and do not belong there.

    An orbital counts if it lies more than `SPURIOUS_DEPTH_MEV` below the true LUMO while more than
    half of its norm (in S) is made of true orbitals that lie more than `SPURIOUS_REACH_EV` above
    it. A LUMO that is merely too low is an error of its energy and no spurious orbital.

    Args:
        prediction: the predicted orbitals.
        lumo: true LUMO, Hartree.
        true: the true orbitals.
        overlap: S, ``[n, n]``; of spinors ``S (x) 1``.
    """
    if not np.isfinite(lumo):
        return float("nan")
    count = 0
    for channel, energies in enumerate(true.energies.numpy()):
        low = prediction.orbital_energies[channel] < lumo - SPURIOUS_DEPTH_MEV / HARTREE_TO_MEV
        high = energies > lumo + SPURIOUS_REACH_EV / HARTREE_TO_EV
        misplaced = true.coefficients[channel].numpy()[:, high].conj().T @ overlap
        share = (np.abs(misplaced @ prediction.coefficients[channel][:, low]) ** 2).sum(axis=0)
        count += int((share > 0.5).sum())
    return float(count)


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
