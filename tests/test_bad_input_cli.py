"""Bad input to train, evaluate and predict: one message that names what, where and the cure."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.inference.folder import PredictionFolder
from hamnet.interop.ase import Frame
from hamnet_cli.app import app
from tests.synthetic import SMALL, write_store

GOOD = "3\ngood\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n"
BAD_FRAMES = {
    "3\nnan\nO 0 0 0\nH nan 0.59 0\nH -0.76 0.59 0\n": "not finite",
    "3\nan ion charge=1 spin=1\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n": "charge is 1",
    "1\nan atom spin=2\nO 0 0 0\n": "spin is 2",
    "4\nammonia\nN 0 0 0\nH 0.9 0 0.3\nH -0.5 0.8 0.3\nH -0.5 -0.8 0.3\n": "atom 0 is N",
    "3\nclose\nO 0 0 0\nH 0.1 0 0\nH -0.76 0.59 0\n": "apart",
    '3\nbox Lattice="9 0 0 0 9 0 0 0 9" pbc="T T T"\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n': (
        "periodic"
    ),
    "3\nno such element\nO 0 0 0\nXx 0.76 0.59 0\nH -0.76 0.59 0\n": "unknown element",
    "3\ntruncated\nO 0 0 0\n": "truncated",
}


def hamnet(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return result, lines


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A model that was not trained at all, but for its readout."""
    out = tmp_path_factory.mktemp("run") / "water"
    small = [f"--set={s}" for s in SMALL]
    result, _ = hamnet("train", store, "-o", out, "--quiet", "--json", "--instant", *small)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["model"] == str(out / "model.safetensors")
    return out


def test_evaluate(run, store, tmp_path):
    result, errors = hamnet("evaluate", run, store, "-o", tmp_path, "--json", "--quiet")
    assert (result.exit_code, errors) == (0, [])
    summary = json.loads(result.stdout)
    assert summary == json.loads((tmp_path / "metrics.json").read_text())
    assert summary["n_frames"] == len(json.loads((run / "split.json").read_text())["test"])
    assert summary["provenance"]["split"] == "test"
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_bad_frames_are_rows_and_the_others_come_out(run, tmp_path):
    path = tmp_path / "mixed.xyz"
    path.write_text(GOOD + "".join(bad + GOOD for bad in list(BAD_FRAMES)[:-1]))
    last = tmp_path / "last.xyz"
    last.write_text(list(BAD_FRAMES)[-1])
    files = [path, tmp_path / "no.xyz", last]
    result, errors = hamnet("predict", run, *files, "-o", tmp_path / "out", "--molden", "--npz")
    assert result.exit_code == 1
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    good = [row for row in rows if not row["error"]]
    bad = [row for row in rows if row["error"]]
    assert len(good) == len(BAD_FRAMES)
    energies = [float(row["homo_ev"]) for row in good]
    assert max(energies) - min(energies) < 2e-6  # in batches of several sizes
    reasons = [*list(BAD_FRAMES.values())[:-1], "no such file", "truncated"]
    assert len(bad) == len(reasons)
    assert errors.pop() == f"error: {len(bad)} of {len(rows)} frames have no prediction"
    for row, message, reason in zip(bad, errors, reasons, strict=True):
        assert reason in row["error"]
        assert message == f"error: {row['error']}"
        assert row["homo_ev"] == ""
        assert ".xyz" in row["error"]  # which file, and below which frame
    assert "frame 1" in bad[0]["error"] or "mixed.xyz@1" in bad[0]["error"]
    with (tmp_path / "out" / "orbital_energies.csv").open(newline="") as file:
        assert {row["row"] for row in csv.DictReader(file)} == {row["row"] for row in good}
    assert len(list((tmp_path / "out").glob("frame_*.molden"))) == len(good)
    assert len(list((tmp_path / "out").glob("frame_*.npz"))) == len(good)


def test_only_bad_frames(run, tmp_path):
    path = tmp_path / "empty.xyz"
    path.write_text("")
    result, errors = hamnet("predict", run, path, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["n_failed"] == 1
    assert "empty" in errors[0]
    assert "empty.xyz" in errors[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--order", "pysfc"], "did you mean 'pyscf'"),
        (["-o", "{file}"], "new.xyz"),
        (["-o", "{file}/out"], "new.xyz"),
    ],
)
def test_predict_options(run, tmp_path, arguments, expected):
    path = tmp_path / "new.xyz"
    path.write_text(GOOD)
    arguments = [a.format(file=path) for a in arguments]
    out = [] if "-o" in arguments else ["-o", tmp_path / "out"]
    result, errors = hamnet("predict", run, path, *out, *arguments)
    assert result.exit_code == 1
    assert len(errors) == 1
    assert expected in errors[0]
    assert path.read_text() == GOOD


def test_interrupted_prediction_keeps_what_was_done(
    water_records, water_basis, predict_from, tmp_path
):
    record = water_records[0]
    prediction = predict_from(record, water_basis, record.hamiltonian)

    def interrupted():
        with PredictionFolder(tmp_path) as folder:
            folder.write(Frame(0, "a@0", record.structure), prediction)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 2
    assert len((tmp_path / "predictions.jsonl.partial").read_text().splitlines()) == 1
    with PredictionFolder(tmp_path) as folder:
        assert folder.n_rows == 1
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == 1


def test_full_disk(run, tmp_path):
    path = tmp_path / "new.xyz"
    path.write_text(GOOD)
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)); "
        "from hamnet_cli.app import app; app()"
    )
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            limited,
            "predict",
            run,
            path,
            "-o",
            tmp_path / "out",
            "-q",
            "--molden",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 1
    (line,) = answer.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "frame_000000.molden: cannot be written (file too large)" in line
    assert not (tmp_path / "out" / "frame_000000.molden").exists()


def test_data_that_is_no_dataset(tmp_path, store):
    missing, text, foreign = tmp_path / "no.h5", tmp_path / "text.h5", tmp_path / "foreign.h5"
    text.write_text("not HDF5")
    with h5py.File(foreign, "w") as file:
        file["x"] = 1
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(store.read_bytes()[:-2000])
    for path in (missing, text, foreign, damaged):
        result, errors = hamnet("train", path, "-o", tmp_path / "run")
        assert result.exit_code == 1
        assert len(errors) == 1
        assert str(path) in errors[0]
        assert not (tmp_path / "run").exists()


def test_settings_with_mistakes(tmp_path, store):
    config = tmp_path / "train.toml"
    config.write_text("[target]\nrefrence = 'minao'\n")
    result, errors = hamnet(
        "train", store, "-o", tmp_path / "run", "-c", config, "--set", "training.seed=x"
    )
    assert result.exit_code == 1
    assert "2 mistakes" in errors[0]
    assert "did you mean 'reference'?" in result.stderr
    assert "training.seed" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(run, store):
    before = (run / "model.safetensors").read_bytes()
    result, errors = hamnet("train", store, "-o", run)
    assert result.exit_code == 1
    assert "--resume" in errors[0]
    assert (run / "model.safetensors").read_bytes() == before


def test_models_that_are_none(tmp_path, store):
    foreign = tmp_path / "model.safetensors"
    foreign.write_bytes(b"\0" * 100)
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nothing", foreign, tmp_path / "folder"):
        result, errors = hamnet("evaluate", path, store)
        assert result.exit_code == 1
        assert len(errors) == 1
        assert str(path) in errors[0]


def test_a_misspelt_split(run, store):
    result, errors = hamnet("evaluate", run, store, "--split", "tset")
    assert (result.exit_code, len(errors)) == (1, 1)
    assert "did you mean 'test'?" in errors[0]


def test_frames_that_may_have_been_trained_on(run, many_waters, level, water_basis, tmp_path):
    other = write_store(tmp_path / "other.h5", many_waters[:7], level, water_basis)
    result, errors = hamnet("evaluate", run, other, "-q")
    assert result.exit_code == 1
    assert "not trained with this file" in errors[0]
    assert "--split all" in errors[0]
    result, errors = hamnet("evaluate", run, other, "--split", "all", "-o", tmp_path / "o", "-q")
    assert (result.exit_code, errors) == (0, [])


def test_labels_of_another_level(run, many_waters, level, water_basis, tmp_path):
    finer = level.model_copy(update={"grid_level": 4})
    other = write_store(tmp_path / "finer.h5", many_waters[:2], finer, water_basis)
    result, errors = hamnet("evaluate", run, other, "--split", "all", "-q")
    assert result.exit_code == 1
    assert "grid_level: 4 there, 3 in the model" in errors[0]


def test_labels_without_the_models_reference_are_recomputed(
    store, many_waters, level, water_basis, tmp_path
):
    settings = [f"--set={s}" for s in (*SMALL, "target.reference=minao")]
    hamnet("train", store, "-o", tmp_path / "m", "-q", "--instant", *settings)
    bare = tmp_path / "bare.h5"
    with Writer(bare, level) as writer:
        for record in many_waters:
            writer.append(replace(record, references={}), water_basis)
        writer.finish()
    found = []
    for path in (store, bare):
        result, _ = hamnet("evaluate", tmp_path / "m", path, "-q", "--json", "-o", tmp_path / "o")
        assert result.exit_code == 0
        found.append(json.loads(result.stdout)["metrics"]["h_mae_uha"])
    assert np.isclose(*found, rtol=1e-3)


def test_store_is_not_changed_by_all_that(store):
    with Store.open(store) as again:
        assert len(again) == 16
