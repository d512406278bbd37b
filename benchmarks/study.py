"""One training run taken apart, and measured at every stage."""

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from baselines import Unlearnt, WaterPolynomial

from hamnet.blocks import HamiltonianBlocks
from hamnet.data.record import Record
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.metrics import CRYSTALS_ONLY, METRICS, frame_metrics, h_mae, summarise
from hamnet.models import HamiltonianModel, load_model
from hamnet.models.stream import Predictor, predict_records
from hamnet.references import Reference
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.units import HARTREE_TO_UHA

Row = dict[str, Any]
DIGITS = 5
"""Significant digits in rows."""


class Study:
    """Runs on one file of labels whose split is the task's.

    Args:
        path: labels, see `tasks.divide`.
        folder: for the runs.
        reference: ``none``, ``sap`` or ``minao``.
        settings: overrides of all runs.
        held_out: labels of another temperature, divided likewise.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        reference: str,
        settings: Sequence[str] = (),
        held_out: Path | None = None,
    ) -> None:
        self.path, self.folder, self.reference = path, folder, reference
        self.settings, self.held_out = list(settings), held_out
        self.n_runs = 0
        with Store.open(path) as store:
            self.n_train = len((store.split or {})["train"])

    def baselines(self) -> Iterator[Row]:
        """Yield the rows of predictors that any model has to beat."""
        mean, _ = self._train(["training.max_steps=0", "readout.solve=false"])
        yield {"stage": "mean", **self.measure(mean)}
        with Store.open(self.path) as store:
            basis, split = store.basis, store.split or {}
            if self.reference != "none":
                alone = Reference(self.reference)
                yield {"stage": "H0 unchanged", **self.measure(Unlearnt(basis, alone))}
                fitted = mean.reference
                yield {"stage": "H0 and potentials", **self.measure(Unlearnt(basis, fitted))}
            subsets = [[store[int(k)] for k in split[name]] for name in ("train", "validation")]
        if all(sorted(r.structure.numbers) == [1, 1, 8] for r in subsets[0]):
            polynomial = WaterPolynomial(basis, self.reference).fit(*subsets)
            yield {"stage": "polynomial", **self.measure(polynomial)}

    def instant(self, settings: Sequence[str] = ()) -> Row:
        """Return the row of random features with a solved readout."""
        model, row = self._train([*settings, "training.max_steps=0"])
        return {"stage": "instant", **row, **self.measure(model)}

    def trained(self, settings: Sequence[str]) -> Iterator[Row]:
        """Yield the row of a network that was trained through the solution of its readout.

        Of one all of whose weights were trained, those before and after its readout is solved.
        """
        if load_config(overrides=[*self.settings, *settings]).through_solution:
            model, row = self._train(settings)
            yield {"stage": "trained", **row, **self.measure(model)}
            return
        model, row = self._train([*settings, "readout.solve=false"])
        yield {"stage": "trained", **row, **self.measure(model)}
        start = f"training.start_from={self.folder / f'run-{self.n_runs}'}"
        model, solved = self._train([*settings, start, "training.max_steps=0"])
        row["seconds"] = round(row["seconds"] + solved["seconds"], 1)
        yield {"stage": "trained, solved", **row, **self.measure(model)}

    def _train(self, settings: Sequence[str]) -> tuple[HamiltonianModel, Row]:
        overrides = [f"target.reference={self.reference}", *self.settings, *settings]
        config = load_config(overrides=overrides)
        self.n_runs += 1
        run = train(self.path, self.folder / f"run-{self.n_runs}", config, report=progress)
        model = load_model(run.model_file)
        return model, {
            "seed": config.training.seed,
            "parameters": sum(p.numel() for p in model.network.parameters()),
            "steps": run.n_steps,
            "seconds": round(run.seconds, 1),
            "history": compact(run.model_file.parent / "history.csv"),
        }

    def measure(self, model: Predictor) -> Row:
        """Return the errors on test and validation frames, and on those of the other file."""
        row = self._errors(model, self.path, "test")
        row["validation"] = self._errors(model, self.path, "validation")
        if self.held_out is not None:
            row["held_out"] = self._errors(model, self.held_out, "test")
        return row

    def _errors(self, model: Predictor, path: Path, subset: str) -> Row:
        with Store.open(path) as store:
            rows = (store.split or {})[subset]
            return errors(model, [store[int(k)] for k in rows], self.reference)


def progress(line: str) -> None:
    """Print a line beside the results."""
    print(line, file=sys.stderr, flush=True)


def errors(model: Predictor, records: Sequence[Record], reference: str) -> Row:
    """Return the mean errors of frames, and what they are worth beside H0.

    ``spurious_frames`` are those with a spurious orbital, ``failed_frames`` those that the model
    refuses, ``h0_reduction`` how many times smaller the error of H is than that of H0.
    """
    frames, of_h0, failed = [], [], 0
    for outcome, record in predict_records(model, records):
        if isinstance(outcome, HamnetError):
            failed += 1
            continue
        frames.append(frame_metrics(outcome, record))
        if reference != "none":
            h0 = HamiltonianBlocks(record.layout, record.references[reference][None])
            of_h0.append(HARTREE_TO_UHA * h_mae(h0, record.blocks("hamiltonian")))
    means = summarise(frames) if frames else dict.fromkeys(METRICS, float("nan"))
    row: Row = {"frames": len(frames), "failed_frames": failed}
    row |= {name: rounded(value) for name, value in means.items() if name not in CRYSTALS_ONLY}
    row["spurious_frames"] = sum(frame["spurious_low"] > 0 for frame in frames)
    if of_h0:
        row["h0_reduction"] = rounded(float(np.mean(of_h0)) / max(means["h_mae_uha"], 1e-9))
    return row


def rounded(value: float) -> float:
    """Return a number with few digits; a cosine keeps those that matter."""
    return float(f"{value:.{DIGITS}g}") if abs(value - 1) > 1e-2 else round(value, 9)


def compact(path: Path) -> Mapping[str, list[float]]:
    """Return the columns of a ``history.csv`` as short lists; empty without one."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = rows[0].keys() if rows else ()
    return {name: [rounded(float(row[name] or "nan")) for row in rows] for name in names}
