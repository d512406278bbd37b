"""Do uncertainties rank and cover the errors, inside and outside of the training distribution?

    hamnet label --recipe water-gauss-pbe-svp -o water-gauss.h5
    python benchmarks/uncertainty.py --data water-gauss.h5

An instant model, and three ways to say how sure it is: the readout's posterior (what hamnet ships),
the spread of readouts solved on bootstrap samples of the training frames over the same features,
and the spread of instant models with other seeds. Each is scaled by one factor per quantity on the
validation frames. The errors are those of the one model. Outside: geometries of the test frames
with every interatomic vector stretched and shaken, labelled by PySCF.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, parser
from scipy.stats import spearmanr

from hamnet.blocks import entry_weights
from hamnet.data.level import LevelOfTheory
from hamnet.data.record import Record
from hamnet.data.samples import batch_samples, record_sample
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.models import HamiltonianModel, load_model
from hamnet.models.metadata import QUANTITIES
from hamnet.prediction import Prediction, frontier
from hamnet.structure import Structure
from hamnet.training.config import load_config
from hamnet.training.readout import solve_readout
from hamnet.training.run import train
from hamnet.training.setup import choose_split
from hamnet_datasets.labels import label

BATCH = 16


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True, help="Labels.")
    made.add_argument("--reference", choices=("none", "sap", "minao"), default="minao")
    made.add_argument("--members", type=int, default=5, help="Of each ensemble.")
    made.add_argument("--outside", type=int, default=40, help="Frames outside the distribution.")
    options = made.parse_args()
    if options.quick:
        options.members, options.outside = 3, 6
    options.task = options.data.stem
    finish(
        _rows(options),
        options,
        ("task", "method", "set"),
        reference=options.reference,
        members=options.members,
    )


def _rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, Store.open(options.data) as store:
        models = [
            _instant(options, seed, Path(folder) / str(seed))
            for seed in range(1, options.members + 1)
        ]
        split = choose_split(store, load_config())
        sets = {name: [store[int(k)] for k in split[name]] for name in ("validation", "test")}
        sets["outside"] = _outside(sets["test"], store.level, options)
        shallow = [
            _bootstrap(models[0], store, split, seed) for seed in range(1, options.members + 1)
        ]
    spreads = {"posterior": {}, "bootstrap": {}, "seeds": {}}
    errors = {}
    for name, records in sets.items():
        found = _predict(models[0], records)
        errors[name] = np.array([_errors(p, r) for p, r in zip(found, records, strict=True)])
        spreads["posterior"][name] = np.array(
            [[p.uncertainty[q] for q in QUANTITIES] for p in found]
        )
        spreads["bootstrap"][name] = _spread([_predict(m, records) for m in shallow])
        others = [_predict(m, records) for m in models[1:]]
        spreads["seeds"][name] = _spread([found, *others])
    rows = []
    for method, std in spreads.items():
        ratio = errors["validation"] / std["validation"]
        factor = np.sqrt(np.mean(ratio**2, axis=0))
        for name in ("test", "outside", "both"):
            parts = ("test", "outside") if name == "both" else (name,)
            error = np.concatenate([errors[part] for part in parts])
            scaled = factor * np.concatenate([std[part] for part in parts])
            rows.append(_row(options.task, method, name, error, scaled))
    rows.append(_cost(options.task, models[0], sets["test"]))
    return rows


def _instant(options: argparse.Namespace, seed: int, out: Path) -> HamiltonianModel:
    settings = [
        "training.max_steps=0",
        f"training.seed={seed}",
        f"target.reference={options.reference}",
    ]
    train(options.data, out, load_config(overrides=settings), report=lambda _: None)
    return load_model(out)


def _bootstrap(
    model: HamiltonianModel, store: Store, split: dict[str, Any], seed: int
) -> HamiltonianModel:
    """Return the model with a readout solved on a bootstrap sample of the training frames."""
    member = copy.deepcopy(model)
    member.covariance = None
    drawn = np.random.default_rng(seed).choice(split["train"], len(split["train"]))

    def batches(rows: Sequence[int]) -> list[Any]:
        samples = [
            record_sample(store[int(k)], model.basis, model.cutoffs, model.reference) for k in rows
        ]
        samples = [model.with_goals(sample) for sample in samples]
        return [batch_samples(samples[k : k + BATCH]) for k in range(0, len(samples), BATCH)]

    for parameter in member.network.readout.parameters():
        torch.nn.init.zeros_(parameter)
    solve_readout(member, batches(drawn), batches(split["validation"]))
    return member


def _outside(
    records: Sequence[Record], level: LevelOfTheory, options: argparse.Namespace
) -> list[Record]:
    """Return stretched and shaken geometries of some frames, labelled."""
    rng = np.random.default_rng(7)
    found: list[Record] = []
    references = (options.reference,) if options.reference != "none" else ()
    while len(found) < options.outside:
        old = records[len(found) % len(records)]
        stretch, shake = rng.uniform(0.9, 1.2), rng.uniform(0.0, 0.08)
        moved = stretch * old.structure.positions + shake * rng.normal(size=(len(old.structure), 3))
        try:
            found.append(
                label(Structure(old.structure.numbers, moved), level, references=references)
            )
        except HamnetError:  # atoms too close, or no convergence
            continue
    return found


def _predict(model: HamiltonianModel, records: Sequence[Record]) -> list[Prediction]:
    return [
        prediction
        for k in range(0, len(records), BATCH)
        for prediction in model.predict_labelled(records[k : k + BATCH])
    ]


def _errors(prediction: Prediction, record: Record) -> list[float]:
    """Return |error| of HOMO, LUMO, gap, and the root mean square error of H, Hartree."""
    homo, lumo = frontier(record.orbital_energies, record.occupations)
    weight = entry_weights(record.layout)
    square = (prediction.hamiltonian.entries[0] - record.hamiltonian[0]) ** 2 @ weight
    return [
        abs(prediction.homo - homo),
        abs(prediction.lumo - lumo),
        abs(prediction.gap - (lumo - homo)),
        float(np.sqrt(square / weight.sum())),
    ]


def _spread(members: Sequence[Sequence[Prediction]]) -> np.ndarray:
    """Return standard deviations over the members of an ensemble, ``[n_frames, 4]``."""
    rows = []
    for predictions in zip(*members, strict=True):
        energies = np.array([[p.homo, p.lumo, p.gap] for p in predictions])
        entries = np.array([p.hamiltonian.entries[0] for p in predictions])
        weight = entry_weights(predictions[0].layout)
        h = np.sqrt(entries.var(axis=0, ddof=1) @ weight / weight.sum())
        rows.append([*energies.std(axis=0, ddof=1), h])
    return np.array(rows)


def _row(task: str, method: str, name: str, error: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"task": task, "method": method, "set": name, "frames": len(error)}
    for k, quantity in enumerate(QUANTITIES):
        e, s = error[:, k], std[:, k]
        row[f"spearman_{quantity}"] = round(float(spearmanr(e, s).statistic), 3)
        if quantity != "h":
            row[f"coverage_68_{quantity}"] = round(float(np.mean(e <= s)), 3)
            row[f"coverage_95_{quantity}"] = round(float(np.mean(e <= 1.96 * s)), 3)
        row[f"rms_z_{quantity}"] = round(float(np.sqrt(np.mean((e / s) ** 2))), 3)
    return row


def _cost(task: str, model: HamiltonianModel, records: Sequence[Record]) -> dict[str, Any]:
    """Return processor time and file size with and without the posterior."""
    bare = copy.deepcopy(model)
    bare.covariance = None

    def milliseconds(one: HamiltonianModel) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            _predict(one, records)
            times.append(time.process_time() - start)
        return round(1e3 * min(times) / len(records), 2)

    def megabytes(one: HamiltonianModel) -> float:
        return round(sum(t.numel() * t.element_size() for t in one.state_dict().values()) / 1e6, 2)

    return {
        "task": task,
        "method": "cost",
        "predict_ms": milliseconds(bare),
        "predict_with_std_ms": milliseconds(model),
        "model_mb": megabytes(bare),
        "model_with_covariance_mb": megabytes(model),
    }


if __name__ == "__main__":
    main()
