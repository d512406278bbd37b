"""Model files: what cannot be right is refused, with the reason."""

import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from hamnet.errors import HamnetError
from hamnet.models import load_model, save_model
from hamnet.models.card import model_card
from hamnet.models.metadata import FORMAT_VERSION, Calibration, Parent, TrainingData
from hamnet.models.upgrade import UPGRADES
from hamnet.nn.covariance import ReadoutCovariance
from hamnet.structure import Structure
from hamnet.testing import predict_matrix, random_model
from hamnet_cli.app import app

WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])


class Crafted:
    """A pickle that would raise if anything unpickled it."""

    def __reduce__(self):
        return (exec, ("raise RuntimeError('a pickle was run')",))


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


def test_version_1_is_upgraded():
    """A file of hamnet's first model format predicts what it predicted then."""
    model = load_model(Path(__file__).parent / "data" / "model-v1.safetensors")
    assert model.metadata.format_version == FORMAT_VERSION
    assert model.metadata.uncertainty is None
    assert model.metadata.parent is None
    h2 = Structure(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.8]]))
    diagonal, coupling = 4.879113250582227, -0.451230445953602  # as computed by version 1
    expected = np.array([[diagonal, coupling], [coupling, diagonal]])
    assert predict_matrix(model, h2) == pytest.approx(expected, abs=1e-12)


def test_every_version_has_an_upgrade_to_the_next():
    assert set(UPGRADES) == set(range(1, FORMAT_VERSION))


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
    [
        b"",
        b"not a model",
        pickle.dumps(Crafted()),
        b"\xff" * 8 + b"{}",
        struct.pack("<Q", 99_000_000) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 70)
        + b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,1000000000000]}}',
    ],
    ids=["empty", "text", "pickle", "huge header", "long header", "no object", "beyond the end"],
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


def test_a_covariance_comes_back(model, tmp_path):
    uncertain = random_model("def2-svp", (1, 8))
    known = Calibration(size=5, n_frames=3, gap=1.5)
    uncertain.metadata = uncertain.metadata.model_copy(update={"uncertainty": known})
    uncertain.covariance = ReadoutCovariance(uncertain.network.readout, 5)
    for buffer in uncertain.covariance.state_dict().values():
        buffer.uniform_()
    save_model(uncertain, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.metadata.uncertainty == known
    water = Structure(np.array([8, 1, 1]), WATER)
    one, two = (m.predict([water])[0].uncertainty for m in (uncertain, again))
    assert one == two
    assert one["gap"] > 0


def test_the_card_says_what_the_metadata_says(model, file):
    """In words, with and without what is optional; `hamnet info` prints it."""
    bare = model_card(model.metadata)
    for text in ("pbe/def2-svp", "elements: H, O", "H-O", "not stated", "does not say how sure"):
        assert text in bare
    full = model.metadata.model_copy(
        update={
            "data": TrainingData(name="waters", licence="CC0-1.0", citation="me", n_train=7),
            "metrics": {"gap_mae_mev": 1.25},
            "uncertainty": Calibration(size=5, n_frames=3),
            "parent": Parent(file="old", sha256="0" * 64, kept=("H",), new=("O",)),
        }
    )
    card = model_card(full)
    for text in ("waters", "CC0-1.0", "citation: me", "7 training", "gap_mae_mev: 1.25"):
        assert text in card
    for text in ("scaled on 3 validation frames", "from old", "kept: H", "new: O"):
        assert text in card
    result = CliRunner().invoke(app, ["info", str(file)])
    assert result.stdout == bare
    result = CliRunner().invoke(app, ["info", str(file), "--json"])
    assert json.loads(result.stdout)["level"]["xc"] == "pbe"


def test_another_basis(model, file):
    """The basis of the same name, defined in another way."""
    rewrite(file, lambda data: data["basis"]["fingerprints"].update(O="0" * 16))
    with pytest.raises(HamnetError, match="basis 'def2-svp' of O is defined differently"):
        load_model(file).predict([Structure(np.array([8, 1, 1]), WATER)])
