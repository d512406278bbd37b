"""Twisted bilayer graphene: prediction, and the states near the Fermi level, against size.

    python benchmarks/twisted.py runs/bilayer --sizes 9,10 --json benchmarks/results/twisted.json

``--sizes m,n`` are the commensurate cells of 4 (m^2 + m n + n^2) atoms; ``--write FOLDER`` writes
them as files for ``hamnet bands``. Seconds are processor time; memory is the largest resident one
of a process of its own.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write
from common import exponent, finish, in_own_process, parser, resident_mb

from hamnet.bands import bloch_matrix, channel
from hamnet.models import load_model
from hamnet.pardiso import library
from hamnet.sparse import Shifted, find_level
from hamnet.structure import Structure

A, SPACING = 2.46, 3.4
"""Lattice constant and distance of the layers, Angstrom."""

N_STATES = 40


def twisted_bilayer(m: int, n: int) -> Structure:
    """Return the commensurate cell (m, n), n = m + 1 being the smallest of its angle.

    The upper layer is turned so that its ``m a1 + n a2`` meets the lower one's ``n a1 + m a2``.
    """
    a = A * np.array([[1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    basis = np.array([[0.0, 0.0], [1 / 3, 1 / 3]])
    one, two = np.array([n, m]) @ a, np.array([m, n]) @ a
    angle = np.arctan2(one[1], one[0]) - np.arctan2(two[1], two[0])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    cell = np.array([[n, m], [-m, n + m]]) @ a
    steps = np.arange(-2 * (m + n), 2 * (m + n) + 1)
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    layers = []
    for height, vectors in ((0.0, a), (SPACING, a @ turn)):
        points = ((grid + basis).reshape(-1, 2)) @ vectors
        fractional = points @ np.linalg.inv(cell)
        inside = ((fractional > -1e-6) & (fractional < 1 - 1e-6)).all(axis=1)
        layers.append(np.column_stack([points[inside], np.full(inside.sum(), height)]))
    positions = np.concatenate(layers)
    assert len(positions) == 4 * (m * m + m * n + n * n)
    box = np.zeros((3, 3))
    box[:2, :2] = cell
    numbers = np.full(len(positions), 6)
    return Structure(numbers, positions, box, np.array([True, True, False]))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, help="Trained on bilayers.")
    arguments.add_argument("--sizes", nargs="+", default=["5,6", "9,10"], help="m,n of each cell.")
    arguments.add_argument("--write", type=Path, help="Folder for the structures.")
    options = arguments.parse_args()
    sizes = [tuple(map(int, size.split(","))) for size in options.sizes]
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        for m, n in sizes:
            s = twisted_bilayer(m, n)
            atoms = Atoms(s.numbers, s.positions, cell=s.cell, pbc=s.pbc)
            write(options.write / f"twisted-{m}-{n}.xyz", atoms)
    if options.quick:
        sizes = [(2, 3)]
    rows = [in_own_process(_row, options.model, *size) for size in sizes]
    finish(rows, options, key=("cell",), fits=_fits)


def _fits(rows: Any) -> dict[str, float]:
    if len(rows) < 2:
        return {}
    atoms = [row["atoms"] for row in rows]
    keys = ("predict_s", "factorise_s", "states_s")
    return {f"{key}_exponent": exponent(atoms, [row[key] for row in rows]) for key in keys}


def _row(path: Path, m: int, n: int) -> dict[str, Any]:
    structure = twisted_bilayer(m, n)
    start = time.process_time()
    prediction = load_model(path).predict(structure)
    predicted, memory = time.process_time() - start, resident_mb()
    assert prediction.n_electrons is not None
    gamma, half = np.zeros(3), prediction.n_electrons / 2
    h = bloch_matrix(channel(prediction.hamiltonian, 0), gamma)
    s = bloch_matrix(prediction.overlap, gamma)
    start = time.process_time()
    sigma = find_level(h, s, half, N_STATES / 8, (-0.5, 0.5))
    found = time.process_time() - start
    start = time.process_time()
    shifted = Shifted(h, s, sigma)
    factorised = time.process_time() - start
    start = time.process_time()
    states = shifted.states(N_STATES)
    return {
        "cell": f"{m},{n}",
        "atoms": len(structure),
        "orbitals": h.shape[0],
        "pairs": len(prediction.overlap.layout.atom_pairs),
        "predict_s": round(predicted, 1),
        "predict_mb": round(memory),
        "solver": "pardiso" if library() else "superlu",
        "level_s": round(found, 1),
        "factorise_s": round(factorised, 1),
        "states_s": round(time.process_time() - start, 1),
        "mb": round(resident_mb()),
        "states_below": states.first,
        "electrons": prediction.n_electrons,
    }


if __name__ == "__main__":
    main()
