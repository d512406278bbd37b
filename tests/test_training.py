"""Training: it learns, repeats itself, and resumes as if nothing had happened."""

import json
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hamnet.data.samples import record_sample
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import load_model
from hamnet.models.files import MODEL_FILE
from hamnet.references import Reference
from hamnet.structure import Structure
from hamnet.training.callbacks import read_history
from hamnet.training.config import load_config
from hamnet.training.floor import FLOORS, JUDGED
from hamnet.training.loss import compute_loss
from hamnet.training.run import CHECKPOINT, train
from hamnet_cli.app import app
from hamnet_datasets.labels import label
from tests.synthetic import SMALL

SETTINGS = [
    *SMALL,
    "training.batch_size=4",
    "training.validate_every=2",
    "training.max_minutes=60",
    "optimiser.warmup_steps=2",
    "data.fractions=[0.5, 0.25, 0.25]",
]


def settings(*more):
    return load_config(overrides=[*SETTINGS, *more])


def quiet(_):
    pass


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    return train(store, out, settings("training.max_steps=8"), report=quiet)


def test_a_run_leaves_what_it_promises(trained):
    out = trained.model_file.parent
    assert trained.n_steps == 8
    assert trained.metrics["h_mae_uha"] > 0
    assert json.loads((out / "metrics.json").read_text())["steps"] == 8
    rows = read_history(out / "history.csv")
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8]
    assert all(float(row["val_gap_mae_mev"]) > 0 for row in rows)
    split = json.loads((out / "split.json").read_text())
    assert sorted(k for rows in split.values() for k in rows) == list(range(16))
    metadata = load_model(out).metadata
    assert metadata.pairs == ("H", "O", "H-H", "H-O")
    assert metadata.data.n_train == 8
    assert metadata.versions["torch"] == version("torch")
    assert metadata.metrics == dict(trained.metrics)


def test_same_seed_same_model_other_seed_another(store, trained, tmp_path):
    again = train(store, tmp_path / "b", settings("training.max_steps=8"), report=quiet)
    other = train(
        store, tmp_path / "c", settings("training.max_steps=8", "training.seed=2"), report=quiet
    )
    one, two, three = (load_model(r.model_file).state_dict() for r in (trained, again, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)


def test_resumed_is_uninterrupted(store, trained, tmp_path):
    """Stop after half of the steps, as a killed process would, and continue."""
    out = tmp_path / "run"

    class KilledError(Exception):
        pass

    def kill_at_half(line):
        if line.startswith("step 6"):
            raise KilledError

    config = settings("training.max_steps=8")
    with pytest.raises(KilledError):
        train(store, out, config, report=kill_at_half)
    assert (out / CHECKPOINT).exists()
    assert not (out / MODEL_FILE).exists()
    resumed = train(store, out, config, resume=True, report=quiet)
    one, two = (load_model(r.model_file).state_dict() for r in (trained, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    steps = [int(row["step"]) for row in read_history(out / "history.csv")]
    assert steps == [2, 4, 6, 8]


def test_finished_runs_are_not_overwritten_and_settings_must_agree(store, trained):
    out = trained.model_file.parent
    with pytest.raises(HamnetError, match="--resume"):
        train(store, out, settings("training.max_steps=8"), report=quiet)
    with pytest.raises(HamnetError, match="other settings"):
        train(store, out, settings("training.max_steps=9"), resume=True, report=quiet)


def test_a_damaged_checkpoint_is_refused(store, trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained.model_file.parent, out)
    whole = (out / CHECKPOINT).read_bytes()
    (out / CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HamnetError, match=r"last\.ckpt: damaged"):
        train(store, out, settings("training.max_steps=8"), resume=True, report=quiet)


def test_nothing_to_resume(store, tmp_path):
    with pytest.raises(HamnetError, match="no checkpoint"):
        train(store, tmp_path, settings(), resume=True, report=quiet)


def test_gradient_steps_learn(store, tmp_path):
    """Without the solution of the readout: errors fall on frames never seen."""
    config = settings(
        "model.channels=16",
        "training.max_steps=200",
        "training.validate_every=50",
        "optimiser.learning_rate=0.02",
        "target.reference=minao",
        "readout.solve=false",
    )
    train(store, tmp_path / "run", config, report=quiet)
    rows = read_history(tmp_path / "run" / "history.csv")
    errors = [float(row["val_h_mae_uha"]) for row in rows]
    assert errors[-1] < 0.75 * errors[0], errors


@pytest.mark.parametrize("reference", ["none", "sap", "minao"])
def test_solved_readout_learns_without_a_gradient_step(store, tmp_path, reference):
    """Random features and least squares on 8 frames, against the random readout."""
    config = settings("training.max_steps=0", f"target.reference={reference}")
    result = train(store, tmp_path / "run", config, report=quiet)
    mean = train(
        store,
        tmp_path / "mean",
        settings("training.max_steps=0", "readout.solve=false", f"target.reference={reference}"),
        report=quiet,
    )
    assert result.metrics["h_mae_uha"] < 0.2 * mean.metrics["h_mae_uha"]


def test_hamiltonian_loss_counts_both_units(store, trained):
    model = load_model(trained.model_file)
    with Store.open(store) as data:
        batch = model.with_goals(
            record_sample(data[0], model.basis, model.cutoffs, Reference("none"))
        )
    losses = {}
    for relative, absolute in ((1, 0), (0, 1), (1, 1)):
        config = settings(f"loss.relative={relative}", f"loss.absolute={absolute}", "loss.trace=0")
        losses[relative, absolute] = float(compute_loss(model, batch, config.loss).total.detach())
    assert np.isclose(losses[1, 1], losses[1, 0] + losses[0, 1], rtol=1e-5)


def test_predictions_need_the_geometry_only(store, trained):
    """`predict` (overlap and H0 by PySCF) = `predict_labelled` (from the labels)."""
    model = load_model(trained.model_file.parent)
    with Store.open(store) as data:
        records = [data[k] for k in range(3)]
    one = model.predict([r.structure for r in records])
    two = model.predict_labelled(records)
    for a, b, record in zip(one, two, records, strict=True):
        assert np.abs(a.hamiltonian.entries - b.hamiltonian.entries).max() < 1e-6  # float32
        assert np.abs(a.orbital_energies - b.orbital_energies).max() < 1e-5
        assert a.occupations.sum() == 10
        assert summarise([frame_metrics(a, record)])["psi_cosine"] > 0.5


def test_copies_of_a_run_are_the_same_model(trained, tmp_path):
    shutil.copy(trained.model_file, tmp_path / "copy.safetensors")
    assert (
        load_model(tmp_path / "copy.safetensors").metadata
        == load_model(trained.model_file.parent).metadata
    )


def test_instant_from_the_command_line(store, tmp_path):
    out = tmp_path / "run"
    command = ["train", str(store), "-o", str(out), "--instant", "--json", "-q"]
    result = CliRunner().invoke(app, [*command, *(f"--set={s}" for s in SETTINGS)])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["steps"] == 0
    assert json.loads((out / "metrics.json").read_text())["kept"] == "instant"


def test_elements_that_only_validation_holds(tmp_path, many_waters, level):
    """They are left out and named; evaluated, they are refused one by one."""
    fluoride = label(
        Structure(np.array([9, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.93]])), level
    )
    path = tmp_path / "mixed.h5"
    with Writer(path, level, references=("minao", "sap")) as writer:
        for k, record in enumerate([*many_waters[:6], fluoride]):
            basis = basis_for(record.structure, level.basis)
            writer.append(record, basis, subset="train" if k < 4 else "validation")
        writer.finish()
    lines = []
    result = train(path, tmp_path / "run", settings("training.max_steps=2"), report=lines.append)
    assert any("1 validation frames are left out" in x and "atom 0 is F" in x for x in lines)
    assert result.metrics["h_mae_uha"] > 0
    with pytest.raises(HamnetError, match="atom 0 is F"):
        load_model(result.model_file).predict_labelled([fluoride])


def test_the_floor_of_overlaps_is_the_best_on_validation_frames(store, tmp_path):
    """A poor model is better with H0 where the overlap is small; the run finds that by itself."""
    settings = [*SMALL, "training.max_steps=0", "target.reference=minao", "model.channels=4"]
    result = train(store, tmp_path / "run", load_config(overrides=settings), report=lambda _: None)
    model = load_model(result.model_file)
    with Store.open(store) as data:
        split = json.loads((tmp_path / "run" / "split.json").read_text())
        records = [data[k] for k in split["validation"]]
    products = {}
    for floor in FLOORS:
        model.metadata = model.metadata.model_copy(update={"overlap_floor": floor})
        found = zip(model.predict_labelled(records), records, strict=True)
        errors = summarise([frame_metrics(p, r) for p, r in found])
        products[floor] = np.prod([errors[name] for name in JUDGED])
    chosen = load_model(result.model_file).metadata.overlap_floor
    assert products[chosen] == pytest.approx(min(products.values()), rel=1e-4)
