"""Model files: what cannot be right is refused, with the reason."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hamnet.errors import HamnetError
from hamnet.models import load_model, save_model
from hamnet.structure import Structure
from hamnet.testing import predict_matrix, random_model

WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])


@pytest.fixture(scope="module")
def model():
    return random_model("def2-svp", (1, 8))


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    return path


def rewrite(path, change):
    """Write the file again with other metadata."""
    with safe_open(path, framework="pt") as source:
        tensors = {k: source.get_tensor(k) for k in source.keys()}  # noqa: SIM118
        data = json.loads(source.metadata()["hamnet"])
    change(data)
    save_file(tensors, path, metadata={"hamnet": json.dumps(data)})


def test_round_trip(model, file):
    again = load_model(file)
    water = Structure(np.array([8, 1, 1]), WATER)
    assert np.array_equal(predict_matrix(model, water), predict_matrix(again, water))
    assert again.metadata == model.metadata
    assert list(file.parent.iterdir()) == [file]


def test_another_version(file):
    rewrite(file, lambda data: data.update(format_version=99))
    with pytest.raises(HamnetError, match=r"model\.safetensors: model format version 99"):
        load_model(file)


def test_a_key_of_another_hamnet(file):
    rewrite(file, lambda data: data["model"].update(chanels=3))
    with pytest.raises(HamnetError, match="did you mean 'channels'"):
        load_model(file)


def test_weights_of_another_model(file):
    rewrite(file, lambda data: data["model"].update(channels=7))
    with pytest.raises(HamnetError, match="weights and metadata do not fit"):
        load_model(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", pickle.dumps({"a": 1}), b"\xff" * 8 + b"{}"],
    ids=["empty", "text", "pickle", "oversized header"],
)
def test_no_safetensors(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(HamnetError, match="not a readable model file"):
        load_model(path)


def test_truncated(file):
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(HamnetError, match="not a readable model file"):
        load_model(file)


def test_foreign_safetensors(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(HamnetError, match="not a hamnet model"):
        load_model(path)


def test_no_file_and_no_run(tmp_path):
    with pytest.raises(HamnetError, match="no such file"):
        load_model(tmp_path / "absent.safetensors")
    with pytest.raises(HamnetError, match=r"holds no model\.safetensors"):
        load_model(tmp_path)


def test_cannot_write(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HamnetError, match="cannot be written"):
        save_model(model, tmp_path / "file" / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": [16, 1, 1]}, "atom 0 is S, but the model was trained for H, O only"),
        ({"charge": 2}, "charge is 2, but the model was trained for 0"),
        ({"spin": 2}, "spin is 2, but the model was trained for 0"),
        ({"pbc": [True] * 3, "cell": 9 * np.eye(3)}, "periodic"),
        ({"positions": WATER * 0.3}, "closer than"),
    ],
    ids=["element", "charge", "spin", "periodic", "contact"],
)
def test_what_it_was_not_trained_for(model, change, message):
    water = {"numbers": [8, 1, 1], "positions": WATER}
    with pytest.raises(HamnetError, match=message):
        model.predict([Structure(**{**water, **change})])


def test_another_basis(model, file):
    """The basis of the same name, defined in another way."""
    rewrite(file, lambda data: data["basis"]["fingerprints"].update(O="0" * 16))
    with pytest.raises(HamnetError, match="basis 'def2-svp' of O is defined differently"):
        load_model(file).predict([Structure(np.array([8, 1, 1]), WATER)])
