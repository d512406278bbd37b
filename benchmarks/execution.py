"""Ways to run a network: plain, compiled, checkpointed, bf16. Gradient step and prediction.

    python benchmarks/execution.py
    python benchmarks/execution.py --ways plain compiled --molecule aspirin --batch 8

Distorted copies of one molecule in a batch, a model of the default size with random weights, random
targets. A step is forward and backward; a prediction is the entries of H of the batch. `first_s` is
the first step, which holds the compilation. `peak_mb` is what tensors hold at most in a step, with
neither weights nor batch. `deviation` is that of the gradient from the plain one, relative.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from common import CLOCKS, Row, finish, parser, seconds
from systems import LEVEL, MOLECULES, molecule, untrained_model
from torch import Tensor

from hamnet.blocks import molecule_layout
from hamnet.data.samples import Sample, batch_samples, make_sample
from hamnet.models import HamiltonianModel
from hamnet.nn.execution import Execution
from hamnet.structure import Structure
from hamnet.training.config import LossConfig
from hamnet.training.loss import compute_loss

WAYS = {
    "plain": Execution(),
    "compiled": Execution(compiled=True),
    "checkpointed": Execution(checkpoint=True),
    "bf16": Execution(bf16=True),
}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--clock", default="wall", choices=list(CLOCKS))
    made.add_argument("--batch", type=int, default=32)
    made.add_argument("--molecule", default="ethanol", choices=list(MOLECULES))
    made.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = made.parse_args()
    if options.quick:
        options.molecule, options.batch = "water", 2
    torch.set_num_threads(options.threads)
    structure = molecule(options.molecule)
    model = untrained_model(structure)
    for weight in model.network.readout.weights.values():
        torch.nn.init.normal_(weight, std=0.1)
    batch = batch_samples(_samples(model, structure, options.batch))
    rows: list[Row] = []
    exact: Tensor | None = None
    for way in options.ways:
        model.network.execution = WAYS[way]
        row, gradient = _row(model, batch, options.clock)
        exact = gradient if way == "plain" else exact
        if exact is not None:
            row["deviation"] = float((gradient - exact).norm() / exact.norm())
        case = {"way": way, "molecule": options.molecule, "batch": options.batch}
        rows.append({**case, **row})
        print(rows[-1], flush=True)
    key = ("way", "molecule", "batch")
    finish(rows, options, key, threads=options.threads, clock=options.clock, basis=LEVEL.basis)


def _row(model: HamiltonianModel, batch: Sample, clock: str) -> tuple[Row, Tensor]:
    """Return times and memory of a step and a prediction, and the gradient."""
    labelled = model.with_goals(batch)

    def step() -> None:
        model.zero_grad()
        compute_loss(model, labelled, LossConfig()).total.backward()

    def predict() -> None:
        with torch.inference_mode():
            model(batch)

    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    found = [p.grad for p in model.network.parameters() if p.grad is not None]
    gradient = torch.cat([g.flatten().double() for g in found])
    row = {
        "first_s": round(first, 2),
        "step_ms": round(1e3 * seconds(step, clock=clock), 1),
        "predict_ms": round(1e3 * seconds(predict, clock=clock), 1),
        "peak_mb": round(_peak_mb(step), 1),
    }
    return row, gradient


def _peak_mb(function: Callable[[], object]) -> float:
    """Return the largest memory that tensors made in a call hold at one time."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def _samples(model: HamiltonianModel, structure: Structure, n: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    layout = molecule_layout(model.basis.atom_offsets(structure.numbers))
    made = []
    for shift in rng.normal(scale=0.02, size=(n, len(structure), 3)):
        moved = Structure(structure.numbers, structure.positions + shift)
        target = torch.from_numpy(rng.standard_normal(int(layout.boundaries[-1])))
        made.append(make_sample(moved, layout, model.basis, model.cutoffs, target))
    return made


if __name__ == "__main__":
    main()
