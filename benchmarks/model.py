"""The whole model: a training step and a prediction, by stage, with peak memory.

    python benchmarks/model.py --quick
    python benchmarks/model.py --sizes default --molecules ethanol --batches 32

`default` is hamnet's default size (L = 4, 64 + 16 channels), `qhnet` that of QHNet (L = 4, 128
channels, about 20 M parameters). A step of training is: joining the samples of a batch, frames,
forward and backward pass, clipping, AdamW, the average of the weights. Graphs and standardised
irreps of single molecules are made once a training and are not in it. A prediction goes from
geometries to orbital energies, the overlap by PySCF included. Geometries are RDKit's with noise, in
def2-SVP; targets and weights are random: they do not change the time.

Every row is a process of its own. `ms` is the median of several calls; `peak_mb` the largest
resident memory of the process (getrusage), of which `base_mb` was there before the first call
(libraries, model, samples); the shares of the stages come from a profiled call after that. With
`tracegrad` none all optional stages are off. Of a batch, a row is left out, and says so, where time
or memory, proportional to the batch, would pass ``--budget`` or ``--memory``.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import CLOCKS, Row, Rows, finish, in_own_process, parser, resident_mb, seconds
from stages import stage, stage_shares
from systems import LEVEL, MOLECULES, molecule, untrained_model

from hamnet.blocks import molecule_layout
from hamnet.data.samples import Sample, batch_samples, make_sample
from hamnet.models import HamiltonianModel
from hamnet.structure import Structure
from hamnet.training.config import TrainConfig
from hamnet.training.loss import compute_loss
from hamnet.training.module import TrainingModule

SIZES: dict[str, dict[str, Any]] = {
    "default": {},
    "qhnet": {"channels": 128, "pseudo_channels": 32},
}
KEY = ("size", "tracegrad", "molecule", "batch", "pass")


def main() -> None:
    options = _options()
    rows: list[Row] = []
    cases = itertools.product(
        options.sizes, options.tracegrad, options.molecules, options.passes, options.batches
    )
    for size, tracegrad, name, kind, batch in cases:
        row = {"size": size, "tracegrad": tracegrad, "molecule": name, "pass": kind, "batch": batch}
        reason = _too_much(row, rows, options)
        rows.append(
            {**row, "left_out": reason}
            if reason
            else in_own_process(_measure, row, options.threads, options.clock)
        )
        print(rows[-1], flush=True)
    finish(rows, options, KEY, threads=options.threads, clock=options.clock, basis=LEVEL.basis)


def _options() -> argparse.Namespace:
    made = parser(__doc__, _table)
    names = [name for name in MOLECULES if name != "estrone"]
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--clock", default="wall", choices=list(CLOCKS))
    made.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    made.add_argument("--molecules", nargs="+", default=names, choices=list(MOLECULES))
    made.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    made.add_argument("--passes", nargs="+", default=["train", "predict"])
    made.add_argument("--tracegrad", nargs="+", default=["both", "none"])
    made.add_argument("--budget", type=float, default=60.0, help="Seconds for a call.")
    made.add_argument("--memory", type=float, default=16.0, help="GB for a process.")
    options = made.parse_args()
    if options.quick:
        options.sizes, options.molecules, options.batches = ["default"], ["water"], [1]
        options.tracegrad = ["both"]
    return options


def _too_much(case: Row, rows: list[Row], options: argparse.Namespace) -> str:
    """Return why a batch is left out, or nothing: extrapolated from a smaller batch."""
    same = [
        r for r in rows if "ms" in r and all(r[k] == case[k] for k in KEY if k != "batch")
    ]  # fmt: skip
    if not same:
        return ""
    known = max(same, key=lambda r: int(r["batch"]))
    ratio = case["batch"] / known["batch"]
    spent = known["ms"] / 1e3 * ratio
    memory = (known["base_mb"] + (known["peak_mb"] - known["base_mb"]) * ratio) / 1024
    if spent > options.budget:
        return f"about {spent:.0f} s a call, budget {options.budget:.0f} s"
    if memory > options.memory:
        return f"about {memory:.0f} GB, limit {options.memory:.0f} GB"
    return ""


def _measure(case: Row, threads: int, clock: str) -> Row:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    call, facts = (_training if case["pass"] == "train" else _prediction)(case)
    base = resident_mb()
    ms = 1e3 * seconds(call, clock=clock)
    peak = resident_mb()
    return {
        **case,
        **facts,
        "ms": round(ms, 2),
        "peak_mb": round(peak),
        "base_mb": round(base),
        "shares": stage_shares(call),
    }


def _training(case: Row) -> tuple[Callable[[], None], Row]:
    """Return one step of training, and the size of the problem."""
    model = _model(case)
    module = TrainingModule(model, TrainConfig(model=model.metadata.model), seconds=3600.0)
    optimiser = module.configure_optimizers()["optimizer"]
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    samples = []
    for structure in _structures(case):
        layout = molecule_layout(model.basis.atom_offsets(structure.numbers))
        target = torch.randn(int(layout.boundaries[-1]), dtype=torch.float64)
        sample = make_sample(structure, layout, model.basis, model.cutoffs, target)
        samples.append(model.with_goals(sample))

    def step() -> None:
        with stage("graph"):
            batch = batch_samples(samples)
        optimiser.zero_grad()
        with stage("loss"):
            loss = compute_loss(model, batch, module.config.loss).total
        loss.backward()
        with stage("optimiser"):
            torch.nn.utils.clip_grad_norm_(parameters, module.config.optimiser.clip_norm)
            optimiser.step()
            module.update_average()

    return step, _facts(model, samples)


def _prediction(case: Row) -> tuple[Callable[[], object], Row]:
    """Return a prediction of a batch, and the size of the problem."""
    model, structures = _model(case).eval(), _structures(case)
    layout = molecule_layout(model.basis.atom_offsets(structures[0].numbers))
    sample = make_sample(structures[0], layout, model.basis, model.cutoffs)
    return lambda: model.predict(structures), _facts(model, [sample] * len(structures))


def _facts(model: HamiltonianModel, samples: list[Sample]) -> Row:
    return {
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "atoms": sum(len(s.graph.numbers) for s in samples),
        "pairs": sum(s.graph.pairs.shape[1] for s in samples),
    }


def _structures(case: Row) -> list[Structure]:
    start, generator = molecule(case["molecule"]), np.random.default_rng(0)
    noise = generator.normal(scale=0.02, size=(case["batch"], len(start), 3))
    return [Structure(start.numbers, start.positions + shift) for shift in noise]


def _model(case: Row) -> HamiltonianModel:
    settings = {**SIZES[case["size"]], "tracegrad": case["tracegrad"]}
    return untrained_model(molecule(case["molecule"]), **settings)


def _table(rows: Rows) -> str:
    """Return a table for training and one for prediction: times, memory, and shares in percent."""
    parts = []
    for kind in dict.fromkeys(r["pass"] for r in rows):
        chosen = [r for r in rows if r["pass"] == kind]
        total: Counter[str] = Counter()
        for r in chosen:
            total.update(r.get("shares", {}))
        stages = [name for name, _ in total.most_common()]
        columns = ["size", "tracegrad", "molecule", "batch", "ms", "peak_mb"]
        lines = [f"| {' | '.join([*columns, *(f'{name} (%)' for name in stages)])} |"]
        lines.append("|---" * (len(columns) + len(stages)) + "|")
        for r in chosen:
            shares = [f"{100 * r['shares'].get(name, 0):.1f}" for name in stages if "shares" in r]
            cells = [r["size"], r["tracegrad"], r["molecule"], r["batch"]]
            cells += [f"{r['ms']:,.1f}", r["peak_mb"]] if "ms" in r else [r["left_out"], ""]
            cells += shares or [""] * len(stages)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        parts.append("\n".join([kind, "", *lines]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
