"""Large cells from a model of small ones: against labels, and time and memory against atoms.

    hamnet label --recipe large.toml -o large.h5 --reference none
    python benchmarks/supercells.py runs/graphene --labels large.h5 --json supercells.json

``large.toml`` is graphene-pbe-szv with ``sizes = [[4, 4, 1, 1]]`` and another seed: 64 atoms.
Seconds are processor time; memory is the largest resident one of a process of its own.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from common import exponent, finish, in_own_process, parser, resident_mb

from hamnet.data.store import Store
from hamnet.evaluation.model import evaluate_model
from hamnet.models import load_model
from hamnet.structure import Structure
from hamnet_datasets.recipes import load_recipe
from hamnet_datasets.supercells import repeated

REPEATS = ((4, 3), (7, 7), (14, 14), (28, 28), (50, 50))
NOISE = 0.03
"""Angstrom."""

ERRORS = ("h_mae_mev", "bands_mae_mev", "bands_max_mev")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", type=Path, help="Trained on graphene.")
    arguments.add_argument("--labels", type=Path, help="Labels of larger cells.")
    options = arguments.parse_args()
    chosen = REPEATS[:2] if options.quick else REPEATS
    rows = [in_own_process(_predict, options.model, *repeat) for repeat in chosen]
    labelled = _compare(options.model, options.labels) if options.labels else []
    finish(rows, options, key=("atoms",), fits=_fits, transfer=labelled)
    print(labelled)


def _fits(rows: Any) -> dict[str, float]:
    atoms = [row["atoms"] for row in rows]
    per_atom = np.polyfit(atoms, [row["mb"] for row in rows], 1)[0] * 1e3
    return {
        "seconds_exponent": exponent(atoms, [row["seconds"] for row in rows]),
        "kb_per_atom": round(float(per_atom), 1),
    }


def _predict(path: Path, *repeat: int) -> dict[str, Any]:
    crystal = load_recipe("graphene-pbe-szv").crystal
    assert crystal is not None
    perfect = repeated(crystal.structure(), (*repeat, 1))
    noise = NOISE * np.random.default_rng(0).normal(size=perfect.positions.shape)
    structure = Structure(perfect.numbers, perfect.positions + noise, perfect.cell, perfect.pbc)
    model = load_model(path)
    before, start = resident_mb(), time.process_time()
    prediction = model.predict(structure)
    return {
        "atoms": len(structure),
        "pairs": len(prediction.overlap.layout.atom_pairs),
        "seconds": round(time.process_time() - start, 2),
        "mb_before": round(before),
        "mb": round(resident_mb()),
    }


def _compare(path: Path, labels: Path) -> list[dict[str, Any]]:
    model = load_model(path)
    rows = []
    with Store.open(labels) as store:
        for k in range(len(store)):
            errors = evaluate_model(model, store, [k]).metrics
            rows.append(
                {
                    "atoms": len(store.structure(k)),
                    **{key: round(errors[key], 3) for key in ERRORS},
                }
            )
    return rows


if __name__ == "__main__":
    main()
