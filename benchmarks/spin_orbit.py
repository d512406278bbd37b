"""Spin-orbit coupling of hypobromous acid: how well H0, K and the levels that K splits are learnt.

    OMP_NUM_THREADS=1 python benchmarks/spin_orbit.py --json benchmarks/results/spin_orbit.json

Labels are PBE0/def2-SVP with X2C of displaced and turned HOBr, once without spin-orbit coupling for
the cost. Models are random features with a solved readout (`--instant`). Splittings are those of
the 2p and 3d shells of bromine: the mean of j = l + 1/2 less that of j = l - 1/2.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import Row, finish, parser

from hamnet.blocks import entry_weights
from hamnet.data.level import LevelOfTheory
from hamnet.data.record import Record
from hamnet.data.writer import Writer
from hamnet.integrals import basis_for
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import load_model
from hamnet.prediction import Prediction
from hamnet.structure import FloatArray, Structure
from hamnet.testing import random_rotation
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.units import HARTREE_TO_MEV, HARTREE_TO_UHA
from hamnet_datasets.labels import label, resolve

ACID = np.array([[0.0, 0.0, 0.0], [0.94, 0.22, 0.0], [-0.55, 1.74, 0.0]])
NUMBERS = np.array([8, 1, 35])
NOISE = 0.04
"""Angstrom; standard deviation of every coordinate."""
LEVEL = LevelOfTheory(xc="pbe0", basis="def2-svp", relativity="x2c")
SHELLS = {"2p": (4, 6, 10), "3d": (20, 24, 30)}
"""First spinor of j = l - 1/2, of j = l + 1/2, and the end. Before 2p: 1s, 2s; after it: 1s of
oxygen, 3s, 3p."""


def main() -> None:
    options = parser(__doc__).parse_args()
    n_train, n_test = (10, 2) if options.quick else (30, 12)
    structures = _structures(n_train + n_test + 4)
    plain = _seconds(structures[:3], LEVEL.model_copy(update={"relativity": "none"}))
    level = resolve(LEVEL)
    start = time.process_time()
    records = [label(s, level, references=("minao", "sap")) for s in structures]
    cost = (time.process_time() - start) / len(records)
    test = records[n_train + 4 :]
    size = np.mean([_errors(np.zeros_like(r.hamiltonian), r) for r in test], axis=0)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acid.h5"
        _write(path, records[: n_train + 4], n_train, level)
        for reference in ("none", "sap", "minao"):
            out = Path(folder) / reference
            settings = [f"target.reference={reference}", "training.max_steps=0"]
            start = time.process_time()
            run = train(path, out, load_config(overrides=settings), report=lambda _: None)
            seconds = time.process_time() - start
            found = load_model(run.model_file).predict_labelled(test)
            rows.append({"reference": reference, "seconds": seconds, **_row(found, test)})
    finish(
        rows,
        options,
        n_train=n_train,
        n_test=n_test,
        size_of_h0_uha=float(size[0]),
        size_of_k_uha=float(size[1:].mean()),
        splitting_mev={k: float(v) for k, v in _mean_splittings(test).items()},
        seconds_a_label=cost,
        seconds_a_label_without_coupling=plain,
    )


def _structures(n: int) -> list[Structure]:
    rng = np.random.default_rng(1)
    moved = [ACID + NOISE * rng.normal(size=(3, 3)) for _ in range(n)]
    return [Structure(NUMBERS, x @ random_rotation(rng).T) for x in moved]


def _seconds(structures: Sequence[Structure], level: LevelOfTheory) -> float:
    level = resolve(level)
    start = time.process_time()
    for structure in structures:
        label(structure, level, references=("minao", "sap"))
    return (time.process_time() - start) / len(structures)


def _write(path: Path, records: Sequence[Record], n_train: int, level: LevelOfTheory) -> None:
    basis = basis_for(records[0].structure, level.basis)
    with Writer(path, level, references=("minao", "sap")) as writer:
        for k, record in enumerate(records):
            writer.append(record, basis, subset="train" if k < n_train else "validation")
        writer.finish()


def _errors(hamiltonian: FloatArray, record: Record) -> FloatArray:
    """Return mean ``|dH|`` of H0, Kx, Ky, Kz, µHa."""
    weight = entry_weights(record.layout)
    return HARTREE_TO_UHA * np.abs(hamiltonian - record.hamiltonian) @ weight / weight.sum()


def _splittings(energies: FloatArray) -> dict[str, float]:
    """Return the splittings of bromine's shells, meV."""
    return {
        name: HARTREE_TO_MEV * float(energies[middle:end].mean() - energies[start:middle].mean())
        for name, (start, middle, end) in SHELLS.items()
    }


def _mean_splittings(records: Sequence[Record]) -> dict[str, float]:
    every = [_splittings(r.orbital_energies[0]) for r in records]
    return {name: float(np.mean([s[name] for s in every])) for name in every[0]}


def _row(found: Sequence[Prediction], test: Sequence[Record]) -> Row:
    parts = np.mean(
        [_errors(p.hamiltonian.entries, r) for p, r in zip(found, test, strict=True)], axis=0
    )
    metrics = summarise([frame_metrics(p, r) for p, r in zip(found, test, strict=True)])
    row = {"h0_mae_uha": float(parts[0]), "k_mae_uha": float(parts[1:].mean())}
    for name in ("eps_occ_mae_mev", "homo_mae_mev", "lumo_mae_mev"):
        row[name] = metrics[name]
    pairs = [
        (_splittings(p.orbital_energies[0]), _splittings(r.orbital_energies[0]))
        for p, r in zip(found, test, strict=True)
    ]
    for name in SHELLS:
        row[f"splitting_{name}_mae_mev"] = float(
            np.mean([abs(a[name] - b[name]) for a, b in pairs])
        )
    return row


if __name__ == "__main__":
    main()
