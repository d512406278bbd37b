"""The readout solved for orbitals: the optimum of what it says, and better orbitals."""

import copy
import json

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from hamnet.blocks import HamiltonianBlocks, to_dense
from hamnet.correction import corrected
from hamnet.data.samples import record_sample
from hamnet.data.store import Store
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import load_model
from hamnet.training import orbital_fit
from hamnet.training.config import load_config
from hamnet.training.orbital_fit import KAPPA, WIDTH, fit_orbitals, fitting
from hamnet.training.readout import (
    DEFAULT_LAMBDA,
    problem_rows,
    readout_weights,
    solve_readout,
)
from hamnet.training.run import train
from tests.synthetic import SMALL

SETTINGS = [*SMALL, "training.max_steps=0", "target.reference=sap", "data.fractions=[0.5, 0.5, 0]"]


@pytest.fixture(scope="module")
def records(store):
    with Store.open(store) as data:
        return [data[k] for k in range(6)]


@pytest.fixture
def model(store, tmp_path):
    """A model in float64 whose readout is zero."""
    config = load_config(overrides=[*SETTINGS, "readout.solve=false"])
    made = load_model(train(store, tmp_path / "run", config, report=lambda _: None).model_file)
    made.network.double()
    made.metadata = made.metadata.model_copy(update={"overlap_floor": 0.05})
    return made


@torch.no_grad()
def objective(model, records, ridges):
    """Return what is to be small, from matrices and scipy's orbitals."""
    total = 0.0
    for record in records:
        sample = record_sample(record, model.basis, model.cutoffs, model.reference)
        error = (model(sample) - sample.target).numpy()
        s, layout = record.blocks("overlap"), record.layout
        energies, c = eigh(to_dense(record.blocks("hamiltonian"))[0], to_dense(s))
        through = corrected(error, s, model.metadata.overlap_floor)
        orbital = c.T @ to_dense(HamiltonianBlocks(layout, through)) @ c
        n_occupied = round(record.occupations.sum()) // 2
        above = np.maximum(energies - energies[n_occupied], 0)
        g = 1 / np.sqrt(1 + (above / WIDTH) ** 2)
        plain = to_dense(HamiltonianBlocks(layout, error))
        total += (plain**2).sum() + ((g[:, None] * orbital * g) ** 2).sum()
    readout = model.network.readout
    for t, c, name in readout.classes():
        scale = model.standardiser.shift_scale(t)[1][c.columns][: c.n_irreps]
        times = 1 if t.on_site else 2
        weights = readout_weights(readout, name)
        total += KAPPA * times * float((ridges[name] * (scale * weights) ** 2).sum())
    return total


def test_the_solution_is_the_optimum(model, records):
    """From the solution, every way is up, and by as much in a direction as against it."""
    with torch.no_grad():
        for p in (*model.network.readout.weights.values(), *model.network.readout.biases.values()):
            p.zero_()
    samples = [record_sample(r, model.basis, model.cutoffs, model.reference) for r in records]
    solved = solve_readout(model, [model.with_goals(s) for s in samples], [], 1e-3)
    ridges = {name: (s.ridge / s.unit.square())[:, None] for name, s in solved.items()}
    before = objective(model, records, ridges)
    fit_orbitals(model, [records[:2], [], records[2:]], solved, steps=400)
    best = objective(model, records, ridges)
    assert best < 0.99 * before
    generator = torch.Generator().manual_seed(1)
    for parameter in model.network.readout.parameters():
        step = 1e-3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        found = []
        for sign in (1, -2, 1):
            with torch.no_grad():
                parameter.add_(sign * step)
            found.append(objective(model, records, ridges) - best)
        forward, backward, there_and_back = found
        assert min(forward, backward) > -1e-12
        assert abs(forward - backward) < 1e-3 * max(forward, backward, 1e-12)
        assert abs(there_and_back) < 1e-12


def test_frames_that_stand_for_others_count_as_often(model, records):
    """Each record twice = each once with weight 2."""
    samples = [record_sample(r, model.basis, model.cutoffs, model.reference) for r in records]
    solved = solve_readout(model, [model.with_goals(s) for s in samples], [], 1e-3)
    start = copy.deepcopy(model.network.readout.state_dict())
    found = []
    for twice, weight in ((True, 1.0), (False, 2.0)):
        model.network.readout.load_state_dict(start)
        fit_orbitals(model, [records, records] if twice else [records], solved, 5, weight)
        found.append(copy.deepcopy(model.network.readout.state_dict()))
    for name, x in found[0].items():
        assert torch.allclose(x, found[1][name], rtol=1e-6, atol=1e-9), name
        assert x.shape[0] == 0 or not torch.equal(x, start[name])


def test_memory_limits_the_number_of_frames(model, records, monkeypatch):
    samples = [record_sample(r, model.basis, model.cutoffs, model.reference) for r in records]
    solved = solve_readout(model, [model.with_goals(s) for s in samples], [], 1e-3)
    goals = [model.with_goals(s) for s in samples]
    size = sum(x.nbytes for goal in goals for _, x, _ in problem_rows(model, goal))
    assert fitting(model, solved, len(records)) == len(records)
    monkeypatch.setattr(orbital_fit, "CACHE_LIMIT", size / 2 + 1)
    assert fitting(model, solved, len(records)) == len(records) // 2


def test_the_lumo_of_the_fitted_frames_gets_better(model, records):
    """From a readout that was solved for matrix elements."""
    model.metadata = model.metadata.model_copy(update={"overlap_floor": 0.0})
    samples = [record_sample(r, model.basis, model.cutoffs, model.reference) for r in records]
    solved = solve_readout(model, [model.with_goals(s) for s in samples], [], DEFAULT_LAMBDA)

    def lumo_error():
        pairs = zip(model.predict_labelled(records), records, strict=True)
        return summarise([frame_metrics(p, r) for p, r in pairs])["lumo_mae_mev"]

    before = lumo_error()
    fit_orbitals(model, [records], solved, steps=12)
    assert lumo_error() < 0.8 * before


def test_a_run_keeps_what_validation_frames_prefer(store, tmp_path):
    lines = []
    result = train(store, tmp_path / "a", load_config(overrides=SETTINGS), report=lines.append)
    assert sum("solved for orbitals" in line for line in lines) == 1
    kept = not any("not kept" in line for line in lines)
    plain = load_config(overrides=[*SETTINGS, "readout.orbital_steps=0"])
    without = train(store, tmp_path / "b", plain, report=lambda _: None)
    assert (result.metrics != without.metrics) == kept
    written = json.loads((tmp_path / "a" / "metrics.json").read_text())["validation"]
    assert written == dict(result.metrics)
