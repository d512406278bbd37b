"""Starting an SCF from a model, against PySCF's own guesses.

    python benchmarks/warm_start.py --task ethanol-gauss
    python benchmarks/warm_start.py --task unseen --data mixed.h5 --append

An instant model of each reference Hamiltonian is trained on the data's training frames; frames of
the test set, or with ``--molecules`` molecules that are not in the data at all, are converged from
each guess to PySCF's default tolerance. The model's times hold its prediction; on a shared machine
look at the processor's seconds, with OMP_NUM_THREADS=1. A row is a frame and a guess; ``--table``
prints the means over the frames. Errors are against the calculation that was converged from PySCF's
default guess: ``h_loewdin_mae_uha`` is the mean error of S^(-1/2) H S^(-1/2), ``density_error`` is
``|dP|`` in the metric of S.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule
from common import Rows, finish, markdown, parser
from pyscf import lib
from tasks import TASKS, labels

from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.inference.scf import DEFAULT_GUESS, ScfRun, converge
from hamnet.interop.ase import from_atoms
from hamnet.interop.pyscf import to_pyscf_matrix
from hamnet.models import HamiltonianModel, load_model
from hamnet.registry import look_up
from hamnet.structure import Structure
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.training.setup import choose_split

GUESSES = (DEFAULT_GUESS, "atom", "huckel", "sap")
REFERENCES = ("none", "sap", "minao")


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    lib.num_threads(1)
    warnings.simplefilter("ignore")  # PySCF's own guesses warn of their own deprecations
    frames: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        runs = options.runs or Path(folder)
        models = {r: _model(options, runs / f"{options.task}-{r}", r) for r in options.references}
        for name, structure in _structures(options):
            if not frames:  # the first run also loads libraries
                converge(structure, next(iter(models.values())), DEFAULT_GUESS)
            frames += _frame(options.task, name, structure, models)
            print(
                *(f"{f['guess']} {f['cycles']}" for f in frames if f["frame"] == name),
                sep=", ",
                flush=True,
            )
    finish(frames, options, key=("task", "frame", "guess"), settings=options.set)


def _options() -> argparse.Namespace:
    made = parser(__doc__, _table)
    made.add_argument("--task", default="water", help="Name of the rows.")
    made.add_argument("--data", type=Path, help="Labels to train on; default: the task's recipe.")
    made.add_argument("--frames", type=int, default=10, help="Test frames.")
    made.add_argument("--heavy", type=int, help="Of frames with at most so many heavy atoms.")
    made.add_argument("--molecules", nargs="*", help="ASE's names of molecules instead of frames.")
    made.add_argument("--references", nargs="+", choices=REFERENCES, default=list(REFERENCES))
    made.add_argument("--runs", type=Path, help="Keep the models here, and use those there are.")
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = made.parse_args()
    if options.quick:
        options.frames, options.references = 2, options.references[:1]
    if options.data is None:
        data = look_up("task", options.task, TASKS).data
        options.data = labels(data, 60 if options.quick and "gauss" not in data else None)
    return options


def _model(options: argparse.Namespace, folder: Path, reference: str) -> HamiltonianModel:
    if not folder.is_dir():
        settings = ["training.max_steps=0", f"target.reference={reference}", *options.set]
        train(options.data, folder, load_config(overrides=settings))
    return load_model(folder)


def _structures(options: argparse.Namespace) -> Iterator[tuple[str, Structure]]:
    if options.molecules:
        yield from ((name, from_atoms(molecule(name))) for name in options.molecules)
        return
    with Store.open(options.data) as store:
        test = choose_split(store, load_config(overrides=options.set))["test"]
        if options.heavy is not None:
            n_heavy = [(store.structure(int(k)).numbers > 1).sum() for k in test]
            test = test[np.array(n_heavy) <= options.heavy]
        chosen = np.linspace(0, len(test) - 1, min(options.frames, len(test))).astype(int)
        for k in test[chosen]:
            origin = store.origins[k]
            name = Path(origin).name if origin.startswith("/") else origin
            yield name, store.structure(int(k))


def _frame(
    task: str, name: str, structure: Structure, models: dict[str, HamiltonianModel]
) -> Iterable[dict[str, Any]]:
    """Yield what each guess took for one structure."""
    first = next(iter(models.values()))
    runs = {guess: converge(structure, first, guess) for guess in GUESSES}
    default = runs[DEFAULT_GUESS]
    about = {"task": task, "frame": name, "formula": structure.formula}
    for guess, run in runs.items():
        yield about | {"guess": guess} | _took(run, default)
    for reference, model in models.items():
        start = time.process_time()
        model.predict([structure])
        predicted = time.process_time() - start
        run = converge(structure, model)
        row = about | {"guess": f"model ({reference})"} | _took(run, default)
        found = run.guess
        row |= {"used": found.used, "prediction_processor_seconds": round(predicted, 3)}
        row |= {"residual_ratio": found.residual / found.own_residual}
        yield row | _errors(model, structure, default)


def _took(run: ScfRun, default: ScfRun) -> dict[str, Any]:
    if not run.mf.converged:
        raise RuntimeError("the SCF did not converge")
    return {
        "cycles": run.cycles,
        "fock_builds": run.fock_builds,
        "seconds": round(run.seconds, 3),
        "processor_seconds": round(run.processor_seconds, 3),
        "energy_difference_hartree": run.mf.e_tot - default.mf.e_tot,
    }


def _errors(model: HamiltonianModel, structure: Structure, exact: ScfRun) -> dict[str, float]:
    try:
        (prediction,) = model.predict([structure])
    except HamnetError:
        return {}
    overlap, density, fock = exact.mf.get_ovlp(), exact.mf.make_rdm1(), exact.mf.get_fock()
    values, vectors = np.linalg.eigh(overlap)
    half = (vectors * np.sqrt(values)) @ vectors.T
    inverse = (vectors / np.sqrt(values)) @ vectors.T
    h = to_pyscf_matrix(prediction.hamiltonian, prediction.basis, structure)[0]
    c = np.linalg.eigh(inverse @ h @ inverse)[1][:, : exact.mf.mol.nelectron // 2]
    return {
        "h_mae_uha": 1e6 * float(np.abs(h - fock).mean()),
        "h_loewdin_mae_uha": 1e6 * float(np.abs(inverse @ (h - fock) @ inverse).mean()),
        "density_error": float(np.linalg.norm(2 * c @ c.T - half @ density @ half)),
        "smallest_overlap_eigenvalue": float(values[0]),
    }


def _table(frames: Rows) -> str:
    """Return the means over the frames of a task, a row for each guess."""
    tasks = dict.fromkeys((f["task"], f["guess"]) for f in frames)
    return markdown([_summary(task, guess, frames) for task, guess in tasks])


def _summary(task: str, guess: str, frames: Rows) -> dict[str, Any]:
    here = [f for f in frames if f["task"] == task]
    mine = [f for f in here if f["guess"] == guess]
    default = [f for f in here if f["guess"] == DEFAULT_GUESS]

    def mean(name: str, digits: int) -> float | str:
        values = [f[name] for f in mine if name in f]
        return round(float(np.mean(values)), digits) if values else ""

    cycles, default_cycles = (np.array([f["cycles"] for f in rows]) for rows in (mine, default))
    return {
        "task": task,
        "guess": guess,
        "frames": len(mine),
        "used": sum(f["used"] for f in mine) if "used" in mine[0] else "",
        "cycles": mean("cycles", 2),
        "most": int(cycles.max()),
        "saved %": round(100 * (1 - cycles.sum() / default_cycles.sum())),
        "worse frames": int((cycles > default_cycles).sum()),
        "Fock builds": mean("fock_builds", 1),
        "processor s": mean("processor_seconds", 2),
        "of it prediction": mean("prediction_processor_seconds", 2),
        "H MAE (µHa)": mean("h_mae_uha", 1),
        "Löwdin H MAE (µHa)": mean("h_loewdin_mae_uha", 1),
        "density error": mean("density_error", 4),
        "largest dE (Ha)": max(abs(f["energy_difference_hartree"]) for f in mine),
    }


if __name__ == "__main__":
    main()
