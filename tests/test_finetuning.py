"""Fine-tuning keeps what it says it keeps, and refuses what cannot be kept."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for
from hamnet.models import load_model, save_model
from hamnet.structure import Structure
from hamnet.testing import predict_matrix
from hamnet.training.config import load_config
from hamnet.training.finetune import adopt, inherit, take_over
from hamnet.training.run import train
from hamnet_cli.app import app
from hamnet_datasets.labels import label
from tests.synthetic import SMALL

STEPS = ["training.batch_size=4", "training.validate_every=2", "training.max_minutes=60"]
SETTINGS = [*SMALL, *STEPS]


def run(data, out, *settings, **options):
    lines = []
    config = load_config(overrides=settings)
    result = train(data, out, config, report=lines.append, **options)
    return result, lines


@pytest.fixture(scope="module")
def files(tmp_path_factory, many_waters, level):
    """Waters, and a store that also holds hydrogen fluoride: a new element with new pairs."""
    folder = tmp_path_factory.mktemp("data")
    fluorides = [
        label(Structure(np.array([9, 1]), np.array([[0, 0, 0], [0, 0, r]])), level)
        for r in (0.9, 0.95, 1.0)
    ]
    for name, records in (("water", many_waters), ("mixed", [*many_waters[:4], *fluorides])):
        with Writer(folder / f"{name}.h5", level, references=("minao", "sap")) as writer:
            for k, record in enumerate(records):
                basis = basis_for(record.structure, level.basis)
                writer.append(record, basis, subset="validation" if k % 4 in (1, 3) else "train")
            writer.finish()
    return folder


@pytest.fixture(scope="module")
def parent(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "parent"
    run(files / "water.h5", out, *SETTINGS, "training.max_steps=0", "target.reference=sap")
    return out


def test_before_training_it_is_its_parent(files, parent, many_waters):
    """New elements, but a molecule of the old ones gets the same matrix."""
    old = load_model(parent)
    config = adopt(load_config(overrides=[f"training.start_from={parent}"]), old)
    result = run(
        files / "mixed.h5",
        files / "fresh",
        *SETTINGS,
        "training.max_steps=0",
        "target.reference=sap",
        "readout.solve=false",
    )[0]
    new = load_model(result.model_file)
    new.metadata = inherit(new.metadata, old, str(parent))
    assert config.target.reference == "sap"
    model = type(new)(new.metadata)
    take_over(model, old)
    water = many_waters[9].structure
    same = np.abs(predict_matrix(model, water) - predict_matrix(old, water)).max()
    assert same < 1e-6  # float32
    assert model.metadata.parent.kept == ("H", "O", "H-H", "H-O")
    assert model.metadata.parent.new == ("F", "H-F")


def test_it_says_what_is_kept_and_learns_what_is_new(files, parent, tmp_path):
    settings = [f"training.start_from={parent}", "training.max_steps=0"]
    result, lines = run(files / "mixed.h5", tmp_path / "run", *settings)
    (line,) = [x for x in lines if x.startswith("from ")]
    assert "kept the network, and readout and units of H, O, H-H, H-O" in line
    assert "new: F, H-F (elements F)" in line
    model = load_model(result.model_file)
    assert model.metadata.reference == "sap"
    assert model.metadata.model.channels == 8
    assert model.metadata.parent.file == str(parent)
    hf = Structure(np.array([1, 9]), np.array([[0, 0, 0], [0, 0, 0.93]]))
    with Store.open(files / "mixed.h5") as store:
        labels = next(r for r in store if 9 in r.structure.numbers)
    found = model.predict([hf])[0]
    assert abs(found.homo - labels.orbital_energies[0, 4]) < 0.05
    card = (tmp_path / "run" / "model.md").read_text()
    assert "- new: F, H-F" in card


def test_what_the_data_lacks_is_given_up(files, parent, tmp_path):
    mixed, _ = run(
        files / "mixed.h5", tmp_path / "a", f"training.start_from={parent}", "training.max_steps=0"
    )
    start = f"training.start_from={mixed.model_file}"
    back, lines = run(files / "water.h5", tmp_path / "b", start, "training.max_steps=0")
    assert any("not in the data, so given up: F, H-F" in line for line in lines)
    with pytest.raises(HamnetError, match="atom 0 is F"):
        load_model(back.model_file).check(Structure(np.array([9]), np.zeros((1, 3)), charge=-1))


def test_few_labels_are_worth_more_with_a_parent(files, parent, tmp_path):
    """Three waters: from the parent, and from nothing with the same network."""
    four = ["data.fractions=[0.8,0.2,0.0]", "training.max_steps=0"]
    tuned, _ = run(files / "mixed.h5", tmp_path / "a", f"training.start_from={parent}", *four)
    fresh, _ = run(files / "mixed.h5", tmp_path / "b", *SETTINGS, *four, "target.reference=sap")
    assert tuned.metrics["h_mae_uha"] < fresh.metrics["h_mae_uha"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.channels=9", r"model\.channels = 9, but the model .* has 8"),
        ("target.reference=minao", r"target\.reference = minao, but the model .* has sap"),
    ],
)
def test_settings_that_contradict_the_parent(files, parent, tmp_path, setting, message):
    with pytest.raises(HamnetError, match=message):
        run(files / "water.h5", tmp_path / "run", f"training.start_from={parent}", setting)
    assert not (tmp_path / "run").exists()


def test_another_basis_is_refused(files, parent, many_waters, tmp_path, level):
    other = level.model_copy(update={"basis": "sto-3g"})
    path = tmp_path / "sto.h5"
    with Writer(path, other, references=("minao", "sap")) as writer:
        for k in range(3):
            structure = many_waters[k].structure
            writer.append(label(structure, other), basis_for(structure, "sto-3g"))
        writer.finish()
    with pytest.raises(HamnetError, match="cannot mix the bases 'sto-3g' and 'def2-svp'"):
        run(path, tmp_path / "run", f"training.start_from={parent}")


def test_a_larger_degree_is_refused(many_waters, tmp_path, level, files):
    """Hydrogen alone needs degree 2; oxygen's d shells need 4."""
    low = level.model_copy(update={"basis": "def2-svp"})
    path = tmp_path / "h2.h5"
    with Writer(path, low, references=("minao", "sap")) as writer:
        for r in (0.7, 0.75, 0.8):
            h2 = Structure(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, r]]))
            writer.append(label(h2, low), basis_for(h2, low.basis))
        writer.finish()
    small, _ = run(path, tmp_path / "a", *SETTINGS, "training.max_steps=0")
    with pytest.raises(HamnetError, match=r"model\.l_max = 2 is too small"):
        run(files / "water.h5", tmp_path / "b", f"training.start_from={small.model_file}")


def test_resumed_fine_tuning_is_uninterrupted(files, parent, tmp_path):
    settings = [
        f"training.start_from={parent}",
        "training.max_steps=4",
        *STEPS,
    ]
    whole, _ = run(files / "mixed.h5", tmp_path / "a", *settings)

    class KilledError(Exception):
        pass

    def kill(line):
        if line.startswith("step 4"):
            raise KilledError

    config = load_config(overrides=settings)
    with pytest.raises(KilledError):
        train(files / "mixed.h5", tmp_path / "b", config, report=kill)
    again, _ = run(files / "mixed.h5", tmp_path / "b", *settings, resume=True)
    one, two = (load_model(r.model_file).state_dict() for r in (whole, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_from_the_command_line(files, parent, tmp_path):
    command = ["train", str(files / "water.h5"), "-o", str(tmp_path / "run"), "--instant", "--json"]
    result = CliRunner().invoke(app, [*command, "--from", str(parent)])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["steps"] == 0
    assert "kept the network" in result.stderr
    result = CliRunner().invoke(app, ["train", "x.h5", "-o", "y", "--from", "absent.safetensors"])
    assert result.exit_code == 1
    assert "absent.safetensors: no such file" in result.stderr


def test_without_validation_frames_the_floor_is_the_parents(parent, tmp_path, many_waters, level):
    """Nothing could choose another one."""
    old = load_model(parent)
    old.metadata = old.metadata.model_copy(update={"overlap_floor": 0.03})
    save_model(old, tmp_path / "parent.safetensors")
    with Writer(tmp_path / "few.h5", level, references=("minao", "sap")) as writer:
        for record in many_waters[:3]:
            writer.append(record, basis_for(record.structure, level.basis), subset="train")
        writer.finish()
    start = f"training.start_from={tmp_path / 'parent.safetensors'}"
    result, _ = run(tmp_path / "few.h5", tmp_path / "run", start, "training.max_steps=0")
    assert not result.metrics
    assert load_model(result.model_file).metadata.overlap_floor == 0.03
