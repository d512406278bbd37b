"""``hamnet predict``: a row for every frame, whatever happens; the same command goes on."""

import csv
import json
import signal
import subprocess
import sys
import time

import ase.io
import numpy as np
import pytest
from pyscf.tools import molden
from typer.testing import CliRunner

import hamnet
from hamnet.data.level import record_id
from hamnet.errors import HamnetError
from hamnet.inference.folder import Output, PredictionFolder
from hamnet.inference.journal import RowJournal, read_rows
from hamnet.inference.run import predict_files
from hamnet.interop.ase import Frame, read_structures
from hamnet.models import save_model
from hamnet.testing import random_model
from hamnet.units import HARTREE_TO_EV
from hamnet_cli.app import app

WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
BAD = "3\nclose\nO 0 0 0\nH 0.1 0 0\nH -0.76 0.59 0\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights: its numbers are nonsense, but they are numbers."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(random_model("def2-svp", (1, 8)), path)
    return path


def write_waters(path, n, bad=()):
    rng = np.random.default_rng(7)
    frames = []
    for k in range(n):
        atoms = zip("OHH", WATER + 0.03 * rng.standard_normal((3, 3)), strict=True)
        lines = [f"{name} {x:.8f} {y:.8f} {z:.8f}" for name, (x, y, z) in atoms]
        frames.append(BAD if k in bad else "\n".join(["3", f"frame {k}", *lines, ""]))
    path.write_text("".join(frames))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "-q"], catch_exceptions=False)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_asked_for_is_written(model, tmp_path):
    file, out = write_waters(tmp_path / "w.xyz", 3, bad=[1]), tmp_path / "out"
    options = ["--molden", "--npz", "--extxyz", "--cube", "homo,density", "--cube-spacing", "0.4"]
    properties = ["--properties", "charges,dipole,bond-orders,dos,energy"]
    result = run(model, file, "-o", out, *options, *properties, "--json")
    assert result.exit_code == 1
    assert [json.loads(result.stdout)[key] for key in ("n_frames", "n_failed")] == [3, 1]
    rows = list(read_rows(out / "predictions.jsonl"))
    assert json.loads(result.stdout)["frames"] == rows
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    found = hamnet.load(model).predict([s for _, s in read_structures(file)][::2])
    for row, prediction in zip(rows[::2], found, strict=True):
        assert row["homo_ev"] == pytest.approx(prediction.homo * HARTREE_TO_EV, abs=1e-5)
        assert row["mulliken_charges"] == pytest.approx(prediction.charges, abs=1e-5)
        assert row["loewdin_charges"] == pytest.approx(prediction.loewdin_charges, abs=1e-5)
        assert row["dipole_vector_debye"] == pytest.approx(prediction.dipole, abs=1e-5)
        assert row["dipole_debye"] == pytest.approx(np.linalg.norm(prediction.dipole), abs=1e-5)
        assert row["energy_hartree"] == pytest.approx(prediction.total_energy(), abs=1e-7)
        for i, j, order in row["mayer_bond_orders"]:
            assert order == pytest.approx(prediction.bond_orders[i, j], abs=1e-4)
        assert row["id"] == record_id(prediction.structure, prediction.level)
        levels = np.array(row["orbital_energies_ev"])
        assert np.abs(levels - HARTREE_TO_EV * prediction.orbital_energies).max() < 1e-5
    for number in (0, 2):
        stem = f"frame_{number:06d}"
        for name in (".molden", ".npz", ".dos.csv", "_homo.cube", "_density.cube"):
            assert (out / f"{stem}{name}").is_file()
    assert not list(out.glob("frame_000001*"))
    energies = molden.load(str(out / "frame_000002.molden"))[1]
    assert np.abs(energies * HARTREE_TO_EV - rows[2]["orbital_energies_ev"][0]).max() < 1e-5


def test_tables_hold_the_same_as_the_rows(model, tmp_path):
    file, out = write_waters(tmp_path / "w.xyz", 3, bad=[1]), tmp_path / "out"
    run(model, file, "-o", out, "--extxyz", "--properties", "charges,dipole")
    rows = list(read_rows(out / "predictions.jsonl"))
    for row, cells in zip(rows, table(out / "predictions.csv"), strict=True):
        assert list(cells)[-2:] == ["warnings", "error"]
        assert (cells["id"], cells["file"]) == (row["id"], str(file))
        assert int(cells["frame"]) == int(cells["row"]) == row["row"]
        if not row["error"]:
            assert float(cells["gap_ev"]) == row["gap_ev"]
            assert json.loads(cells["mulliken_charges"]) == row["mulliken_charges"]
    orbitals = table(out / "orbital_energies.csv")
    assert [float(o["energy_ev"]) for o in orbitals if o["row"] == "2"] == (
        rows[2]["orbital_energies_ev"][0]
    )
    frames = ase.io.read(out / "predictions.extxyz", ":")
    assert [atoms.info["row"] for atoms in frames] == [0, 2]
    for atoms, row in zip(frames, (rows[0], rows[2]), strict=True):
        assert atoms.info["homo_ev"] == row["homo_ev"]
        assert np.allclose(atoms.info["dipole_vector_debye"], row["dipole_vector_debye"])
        assert np.allclose(atoms.arrays["mulliken_charges"], row["mulliken_charges"])
        assert np.allclose(atoms.positions, row["positions_angstrom"])


def test_killed_and_continued_is_as_if_nothing_had_happened(model, tmp_path):
    file = write_waters(tmp_path / "w.xyz", 60, bad=[3])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = [model, file, "--batch-size", "1", "--properties", "charges", "-o"]
    program = "from hamnet_cli.app import app; app()"
    command = [sys.executable, "-c", program, "predict", *map(str, options), str(killed), "-q"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal, deadline = killed / "predictions.jsonl.partial", time.monotonic() + 240
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 4):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = journal.read_bytes()
    assert before.count(b"\n") < 60
    with journal.open("ab") as half:
        half.write(b'{"row": 5, "hal')  # what a write cut short leaves
    assert run(*options, killed).exit_code == 1
    run(*options, whole)
    for name in ("predictions.jsonl", "predictions.csv", "orbital_energies.csv", "settings.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert (killed / "predictions.jsonl").read_bytes().startswith(before[: before.rindex(b"\n")])


def test_a_file_that_has_grown_is_gone_on_with(model, tmp_path):
    file, out = write_waters(tmp_path / "w.xyz", 2), tmp_path / "out"
    assert run(model, file, "-o", out).exit_code == 0
    before = (out / "predictions.jsonl").read_bytes()
    write_waters(file, 4)
    result = run(model, file, "-o", out, "--json")
    assert result.exit_code == 0
    assert [json.loads(result.stdout)[key] for key in ("n_frames", "n_known")] == [4, 2]
    assert (out / "predictions.jsonl").read_bytes().startswith(before)
    assert len(table(out / "predictions.csv")) == 4


def test_another_command_does_not_go_on(model, tmp_path):
    file, out = write_waters(tmp_path / "w.xyz", 2), tmp_path / "out"
    run(model, file, "-o", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = tmp_path / "other.safetensors"
    save_model(random_model("def2-svp", (1, 8), channels=7), other)
    short = write_waters(tmp_path / "short.xyz", 1)
    for arguments, message in (
        ([other, file], r"other settings (model: "),
        ([model, file, "--charge", "0"], "other settings (charge: None there, 0 asked)"),
        ([model, file, "--npz"], "other settings (npz: False there, True asked)"),
        ([model, short], "is another frame"),
    ):
        result = run(*arguments, "-o", out)
        assert result.exit_code == 1
        assert message in result.stderr
        assert "another folder" in result.stderr
    file.write_text(file.read_text().replace("frame 0\nO ", "frame 0\nO 1"))
    result = run(model, file, "-o", out)
    assert "row 0 is a prediction of" in result.stderr
    assert "has changed since" in result.stderr
    assert before["predictions.csv"] == (out / "predictions.csv").read_bytes()


def test_fewer_frames_than_before(model, tmp_path):
    file, out = write_waters(tmp_path / "w.xyz", 3), tmp_path / "out"
    run(model, file, "-o", out)
    write_waters(file, 2)
    result = run(model, file, "-o", out)
    assert result.exit_code == 1
    assert "holds predictions of 3 frames, but only 2 were given" in result.stderr
    write_waters(file, 3)
    assert run(model, file, "-o", out).exit_code == 0  # nothing was lost


def test_two_processes_do_not_write_one_folder(tmp_path):
    with PredictionFolder(tmp_path) as folder:
        with pytest.raises(HamnetError, match="another process is writing"):
            RowJournal(tmp_path / "predictions.jsonl")
        assert folder.n_rows == 0


def test_forced_frames_have_rows_with_warnings(model, tmp_path):
    file = tmp_path / "ion.xyz"
    file.write_text(write_waters(tmp_path / "w.xyz", 1).read_text().replace("frame 0", "charge=2"))
    refused = run(model, file, "-o", tmp_path / "no")
    assert refused.exit_code == 1
    assert "the model was trained for 0; --force (in Python force=True) predicts" in refused.stderr
    assert run(model, file, "-o", tmp_path / "yes", "--force").exit_code == 0
    (row,) = table(tmp_path / "yes" / "predictions.csv")
    assert "forced: charge is 2" in row["warnings"]
    assert row["n_electrons"] == "8"


def test_files_that_cannot_be_made_are_remarks(model, tmp_path):
    file, out = write_waters(tmp_path / "w.xyz", 1), tmp_path / "out"
    assert run(model, file, "-o", out, "--cube", "lumo+90,homo", "--cube-spacing", "0.5")
    (row,) = read_rows(out / "predictions.jsonl")
    assert "no cube file: H2O has no orbital 'lumo+90'" in row["warnings"]
    assert (out / "frame_000000_homo.cube").is_file()


@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [("--cube", "hmo", "homo"), ("--properties", "chargs", "charges"), ("--order", "x", "pyscf")],
)
def test_misspelt_names_before_anything_is_done(model, tmp_path, option, value, meant):
    result = run(model, write_waters(tmp_path / "w.xyz", 1), "-o", tmp_path / "out", option, value)
    assert result.exit_code == 1
    assert meant in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_and_a_damaged_journal(model, tmp_path):
    file, out = write_waters(tmp_path / "w.xyz", 2), tmp_path / "out"
    run(model, file, "-o", out)
    rows = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(b"\0\0\n" + rows)
    assert "line 1: damaged" in run(model, file, "-o", out).stderr
    (out / "settings.json").write_text("{}")
    assert "not written by this hamnet" in run(model, file, "-o", out).stderr


def test_uncertainties_become_columns(water_records, water_basis, predict_from, tmp_path):
    record = water_records[0]
    found = predict_from(record, water_basis, record.hamiltonian)
    object.__setattr__(found, "uncertainty", {"gap": 0.03, "h": 2e-6})
    with PredictionFolder(tmp_path, Output()) as folder:
        folder.write(Frame(0, "a@0", record.structure), found)
    (row,) = table(tmp_path / "predictions.csv")
    assert float(row["gap_std_ev"]) == pytest.approx(0.03 * HARTREE_TO_EV, rel=1e-3)
    assert float(row["h_std_uha"]) == 2.0


def test_rows_there_already_are_not_predicted_again(model, tmp_path):
    file, out = write_waters(tmp_path / "w.xyz", 3), tmp_path / "out"
    loaded, seen = hamnet.load(model), []
    for n in (3, 5):
        write_waters(file, n)
        found = predict_files(
            loaded, [file], out, Output(), n_shown=2, on_row=lambda n, row: seen.append(n)
        )
        assert len(found.first) == 2
    assert seen == [1, 2, 3, 4, 5]
    assert (found.n_frames, found.n_known, found.n_failed) == (5, 3, 0)
