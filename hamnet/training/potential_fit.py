"""Potentials of atoms by least squares, from labels and H0 (`hamnet.potentials`).

    min_c  sum_frames || S^(-1/4) (H - H0 - V(c)) S^(-1/4) ||^2 / n_ao + ridge

The metric is halfway between errors of matrix entries and errors of orbital energies, which are
entries in an orthonormal basis.
"""

import numpy as np

from hamnet.blocks import HamiltonianBlocks, to_dense
from hamnet.data.samples import record_reference, record_target
from hamnet.potentials import AtomicPotentials, n_coefficients, potential_matrices
from hamnet.references import Reference
from hamnet.structure import FloatArray
from hamnet.training.dataset import RecordDataset
from hamnet.units import OVERLAP_EIGENVALUE_CUT

MAX_FRAMES = 300
"""Training frames, evenly spaced, that a hundred coefficients are fitted to."""

RIDGE = 1e-4
"""In units of each coefficient's own diagonal element of the normal equations."""


def fit_potentials(records: RecordDataset, reference: str) -> AtomicPotentials:
    """Return the potentials that take H0 closest to the labels.

    Args:
        records: labelled molecules.
        reference: kind of H0, not ``none``.

    Raises:
        HamnetError: a record without that reference; an open shell.
    """
    basis = records.store.basis
    numbers = sorted({int(z) for k in records.indices for z in records.store.numbers(k)})
    sizes = {z: n_coefficients(basis, z) for z in numbers}
    ends = np.cumsum(list(sizes.values()))
    first = dict(zip(numbers, [0, *ends], strict=False))
    gram, moment = np.zeros((ends[-1], ends[-1])), np.zeros(ends[-1])
    n = len(records)
    for k in np.unique(np.linspace(0, n - 1, min(n, MAX_FRAMES)).astype(int)):
        record = records[int(k)]
        structure, layout = record.structure, record.layout
        h0 = record_reference(record, Reference(reference), basis)
        entries = record_target(record, h0).numpy().reshape(-1, layout.n_entries)[0]
        overlap = to_dense(record.blocks("overlap"))
        metric = _metric(overlap)
        here = sorted(set(structure.numbers.tolist()))
        terms = np.concatenate(
            [potential_matrices({z: np.eye(sizes[z])}, structure, basis, overlap) for z in here]
        )
        at = np.concatenate([first[z] + np.arange(sizes[z]) for z in here])
        wanted = to_dense(HamiltonianBlocks(layout, entries[None])).reshape(overlap.shape)
        x = (metric @ terms @ metric).reshape(len(terms), -1)
        gram[np.ix_(at, at)] += x @ x.T / len(overlap)
        moment[at] += x @ (metric @ wanted @ metric).ravel() / len(overlap)
    unit = 1 / np.sqrt(np.maximum(gram.diagonal(), np.finfo(float).tiny))
    scaled = unit[:, None] * gram * unit + RIDGE * np.eye(len(unit))
    found = unit * np.linalg.solve(scaled, unit * moment)
    parts = np.split(found, ends[:-1])
    return AtomicPotentials(dict(zip(numbers, parts, strict=True)))


def _metric(overlap: FloatArray) -> FloatArray:
    """Return S^(-1/4) without the directions that the eigensolver leaves out."""
    values, vectors = np.linalg.eigh(overlap)
    kept = values >= OVERLAP_EIGENVALUE_CUT
    u = vectors[:, kept]
    return np.asarray((u * values[kept] ** -0.25) @ u.T)
