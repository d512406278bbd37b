"""Batches by pairs: full, never too full, all samples once, and the same after an interruption."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hamnet.data.samples import batch_samples
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.integrals import basis_for
from hamnet.memory import free_memory
from hamnet.models import load_model
from hamnet.structure import Structure
from hamnet.training.batches import RecordBatches, TrainingBatches, cut, sample_batches
from hamnet.training.config import load_config
from hamnet.training.estimate import estimate
from hamnet.training.run import train
from hamnet.training.setup import choose_split, set_up
from hamnet_cli.app import app
from hamnet_datasets.labels import label
from tests.synthetic import SMALL

SETTINGS = [
    *SMALL,
    "model.tracegrad=none",
    "training.batch_pairs=14",
    "training.validate_every=1",
    "training.max_minutes=60",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory, many_waters, level):
    """Nine waters (6 directed pairs each), two molecules of hydrogen (2)."""
    path = tmp_path_factory.mktemp("data") / "mixed.h5"
    hydrogens = [
        label(Structure(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, d]])), level)
        for d in (0.74, 0.8)
    ]
    with Writer(path, level, references=("minao", "sap")) as writer:
        for k, record in enumerate([*many_waters[:9], *hydrogens]):
            basis = basis_for(many_waters[0].structure, level.basis)
            writer.append(record, basis, subset="validation" if k < 2 else "train")
        writer.finish()
    return path


@pytest.fixture
def setup(store):
    config = load_config(overrides=SETTINGS)
    with Store.open(store) as data:
        yield set_up(data, choose_split(data, config), config, lambda _: None), config.training


def test_batches_are_full_and_hold_every_sample_once(setup):
    found, settings = setup
    batches = TrainingBatches(found.train, settings, lambda: 3)
    plan = batches.plan(3)
    assert sorted(k for chosen in plan for k in chosen) == list(range(9))
    sizes = [sum(found.train.n_pairs(k) for k in chosen) for chosen in plan]
    assert all(size <= 14 for size in sizes)
    for size, following in zip(sizes, plan[1:], strict=False):
        assert size + found.train.n_pairs(following[0]) > 14
    assert plan == batches.plan(3) != batches.plan(4)
    assert [share.sample.n_pairs for share in batches] == sizes
    with pytest.raises(TypeError, match="differs from epoch to epoch"):
        len(batches)


def test_a_larger_sample_is_a_batch_of_its_own(setup):
    found, settings = setup
    tight = settings.model_copy(update={"batch_pairs": 4})
    plan = cut(range(9), found.train, tight)
    assert [len(chosen) for chosen in plan] == [1] * 7 + [2]


def test_solution_and_validation_see_every_record_within_the_limit(setup):
    found, settings = setup
    batches = list(sample_batches(found.train, settings))
    assert sum(batch.graph.n_structures for batch in batches) == 9
    assert all(batch.n_pairs <= 14 for batch in batches)
    assert [len(records) for records in RecordBatches(found.validation, settings)] == [2]


def test_goals_are_made_once_and_are_those_of_the_batch(setup):
    """A kept sample is the same object; a batch's goals are its members' goals."""
    found, _ = setup
    assert found.train[0] is found.train[0]
    assert found.train[0].goals
    assert found.train[0].target is None
    raw = type(found.train)(found.train.records, found.train.cutoffs, found.train.reference)
    whole = found.model.with_goals(batch_samples([raw[k] for k in range(9)]))
    parts = batch_samples([found.train[k] for k in range(9)])
    assert whole.goals.keys() == parts.goals.keys()
    for t, goal in whole.goals.items():
        assert (parts.goals[t] - goal).abs().max() <= 1e-10


def test_resumed_run_with_batches_of_pairs_is_uninterrupted(store, tmp_path):
    class KilledError(Exception):
        pass

    def kill(line):
        if line.startswith("step") and int(line.split()[1]) >= 8:
            raise KilledError

    config = load_config(overrides=[*SETTINGS, "training.max_steps=12"])
    whole = train(store, tmp_path / "whole", config, report=lambda _: None)
    with pytest.raises(KilledError):
        train(store, tmp_path / "cut", config, report=kill)
    resumed = train(store, tmp_path / "cut", config, resume=True, report=lambda _: None)
    assert whole.n_steps == resumed.n_steps == 12
    one, two = (load_model(r.model_file).state_dict() for r in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("steps", ["readout.projection_frames=4", "readout.projection=false"])
def test_dry_run_measures_and_writes_nothing(store, tmp_path, monkeypatch, steps):
    monkeypatch.chdir(tmp_path)
    before = sorted(store.parent.iterdir())
    settings = [f"--set={s}" for s in (*SETTINGS, steps)]
    command = ["train", str(store), "--dry-run", "--json", "-q", *settings]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["n_frames"] == found["n_looked_at"] == 9
    assert found["pairs_max"] == found["messages_max"] == 6
    assert found["pairs_mean"] == pytest.approx((7 * 6 + 2 * 2) / 9)
    assert found["n_parameters"] > 1000
    assert [n for n, _, _ in found["measured"]] == [6, 12, 12]  # two frames a batch
    assert 0 < found["step_seconds"] < found["epoch_seconds"]
    assert found["solve_seconds"] > 0
    assert 100 < found["peak_mb"] < found["free_mb"]
    assert found["batch_size"] == found["batch_pairs"] // 6 > 0
    assert list(tmp_path.iterdir()) == []
    assert sorted(store.parent.iterdir()) == before
    text = CliRunner().invoke(app, [x for x in command if x != "--json"])
    assert "peak memory" in text.stdout


def test_larger_models_need_more(store):
    few, many = (
        estimate(store, load_config(overrides=[*SETTINGS, f"model.channels={c}"]), lambda _: None)
        for c in (8, 64)
    )
    assert many.n_parameters > 10 * few.n_parameters
    assert many.step_seconds > few.step_seconds
    assert few.free_mb <= free_memory(torch.device("cpu")) / 2**20 * 1.5


def test_a_run_needs_a_folder(store):
    answer = CliRunner().invoke(app, ["train", str(store)])
    assert answer.exit_code != 0
