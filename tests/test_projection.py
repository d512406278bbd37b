"""Steps through the readout's solution: the gradient, the halves, and what they are worth."""

import csv
import re

import pytest
import torch

from hamnet.data.store import Store
from hamnet.training.candidates import solve_again
from hamnet.training.config import load_config
from hamnet.training.projection import HalvesOfData, projected_loss
from hamnet.training.run import train
from hamnet.training.setup import choose_split, set_up
from tests.synthetic import SMALL

SETTINGS = [*SMALL, "data.fractions=[0.6, 0.2, 0.2]", "training.batch_size=3"]


@pytest.fixture
def start(store):
    """A model in float64, its data, the first halves and penalties."""
    config = load_config(overrides=[*SETTINGS, "training.precision=float64", "loss.trace=0"])
    with Store.open(store) as data:
        setup = set_up(data, choose_split(data, config), config, lambda _: None)
        setup.model.network.readout.requires_grad_(False)
        penalties = solve_again(setup.model, setup, config)
        # as strong that the solution is no matter of rounding
        penalties = {
            name: p.clamp(min=1e-4 + 1e-3 * float(p.max())) for name, p in penalties.items()
        }
        halves = next(iter(HalvesOfData(setup.train, config, lambda: 0)))
        yield setup.model, config, halves, penalties


def test_gradient_is_that_of_the_error_through_the_solution(start):
    """Against finite differences along random directions of every group of weights."""
    model, config, halves, penalties = start
    total, value = projected_loss(model, halves, penalties, config.loss)
    total.backward()
    assert 1e-4 < float(value) < 1
    torch.manual_seed(0)
    for part in ("message_layers", "pair_layers", "element", "expansion", "pair_embedding"):
        moved = [
            (p, torch.randn_like(p) * p.detach().abs().mean())
            for name, p in model.network.named_parameters()
            if name.startswith(part) and p.grad is not None
        ]
        slope = sum(float((p.grad * d).sum()) for p, d in moved)
        values = []
        for step in (1e-5, -1e-5):
            for p, d in moved:
                p.data.add_(step * d)
            values.append(float(projected_loss(model, halves, penalties, config.loss)[1]))
            for p, d in moved:
                p.data.sub_(step * d)
        assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4), part


def test_a_group_is_in_one_half_and_every_frame_in_one_step(store):
    config = load_config(overrides=[*SETTINGS, "readout.projection_frames=4"])
    with Store.open(store) as data:
        setup = set_up(data, choose_split(data, config), config, lambda _: None)
        halves = HalvesOfData(setup.train, config, lambda: 0)
        halves.groups = [str(k // 2) for k in range(len(setup.train))]
        for epoch in range(5):
            plan = halves.plan(epoch)
            assert len(plan) == len(halves)
            assert sorted(k for step in plan for half in step for k in half) == list(
                range(len(setup.train))
            )
            for fit, check in plan:
                assert fit
                assert check
                assert not {halves.groups[k] for k in fit} & {halves.groups[k] for k in check}
        assert halves.plan(0) != halves.plan(1)


def test_steps_lower_the_error_of_the_solved_readout(store, tmp_path):
    """Trained features have a better H on validation than random ones, and the run says so."""
    settings = [*SETTINGS, "training.max_steps=12", "optimiser.warmup_steps=1"]
    settings.append("training.validate_every=3")
    lines = []
    config = load_config(overrides=[*settings, "optimiser.learning_rate=3e-3"])
    result = train(store, tmp_path / "run", config, report=lines.append)
    assert result.n_steps == 12
    errors = {
        name: float(found[1])
        for name in ("instant", "trained")
        for line in lines
        if (found := re.match(rf"{name}, readout solved: validation h ([\d.]+)", line))
    }
    assert errors["trained"] < 0.95 * errors["instant"]
    with (tmp_path / "run" / "history.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
