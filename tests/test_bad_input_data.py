"""Bad structure files and datasets: one clear message each, and the good frames come out."""

import json

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from hamnet.data.store import Store, partial_path
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.interop.ase import from_atoms, read_frames, read_structures, to_atoms
from hamnet.structure import Structure
from hamnet_cli.app import app

GOOD = "2\n\nH 0 0 0\nH 0 0 0.74\n"
LEVEL = ["--xc", "lda,vwn", "--basis", "sto-3g", "--workers", "0"]


def hamnet(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def write(path, *frames: str):
    path.write_text("".join(frames))
    return path


# ---- structure files


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("2\n\nH 0 0 0\nH 0 0 nan\n", r"atom 1 \(H\) has the position .*nan.*not finite"),
        ("2\n\nH 0 0 0\nH 0 0 inf\n", "not finite"),
        ("2\n\nH 0 0 0\nXq 0 0 1\n", "unknown element 'Xq'"),
        ("2\n\nH 0 0 0\nH 0 zero 1\n", "line 5 cannot be read"),
        ("3\n\nH 0 0 0\nH 0 0 0.74\n", "line 5 cannot be read"),
        ("1\n\nH 0 0 0\nH 0 0 0.74\n", "line 5 announces 1 atoms, but more"),
        ("0\n\n", "no atoms"),
        ("two\n\nH 0 0 0\nH 0 0 0.74\n", "line 5 should hold the number of atoms"),
        ("2\ncharge=half\nH 0 0 0\nH 0 0 0.74\n", "charge must be a whole number, got 'half'"),
    ],
)
def test_a_bad_frame_does_not_hide_the_others(tmp_path, bad, message):
    path = write(tmp_path / "f.xyz", GOOD, bad, GOOD, GOOD)
    frames = list(read_frames(path))
    good = [f for f in frames if isinstance(f.structure, Structure)]
    wrong = [f for f in frames if isinstance(f.structure, HamnetError)]
    assert len(good) == 3
    assert [f.index for f in wrong] == [1]
    with pytest.raises(HamnetError, match=rf"f\.xyz, frame 1: .*{message}"):
        raise wrong[0].structure


@pytest.mark.parametrize("lost", [5, 11, 12, 16])
def test_a_truncated_file_gives_what_is_whole(tmp_path, lost):
    path = write(tmp_path / "f.xyz", GOOD, GOOD, GOOD[:-lost])
    *whole, (index, last) = read_structures(path)
    assert [i for i, s in whole if isinstance(s, Structure)] == [0, 1]
    assert index == 2
    assert isinstance(last, HamnetError)
    assert "frame 2" in str(last)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.xyz", b"", "f.xyz: the file is empty"),
        ("f.xyz", b"\n\n \n", "the file is empty"),
        ("f.xyz", b"\x00\xff\xfe\x80binary", "not a text file"),
        ("f.unknown", b"what", "ASE does not know this kind of file"),
    ],
)
def test_a_file_without_frames_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(HamnetError, match=message):
        list(read_structures(path))
    with pytest.raises(HamnetError, match=r"nothing.xyz: no such file"):
        list(read_structures(tmp_path / "nothing.xyz"))


def test_charge_spin_and_group_come_from_the_comment_line(tmp_path):
    comment = "Properties=species:S:1:pos:R:3 charge=1 multiplicity=2 group=run-7"
    path = write(tmp_path / "f.xyz", f"2\n{comment}\nH 0 0 0\nH 0 0 1\n")
    (frame,) = read_frames(path)
    assert (frame.structure.charge, frame.structure.spin, frame.group) == (1, 1, "run-7")
    (frame,) = read_frames(path, charge=-1, spin=3)
    assert (frame.structure.charge, frame.structure.spin) == (-1, 3)
    back = from_atoms(to_atoms(frame.structure))
    np.testing.assert_array_equal(back.positions, frame.structure.positions)
    assert (back.charge, back.spin) == (-1, 3)


def test_labelling_reports_bad_frames_and_keeps_the_good_ones(tmp_path):
    path = write(
        tmp_path / "f.xyz",
        GOOD,
        "2\n\nH 0 0 0\nH 0 0 nan\n",
        "2\n\nH 0 0 0\nH 0 0 0\n",
        "2\n\nH 0 0 0\nLi 0 0 1.6\n",
        "2\nProperties=species:S:1:pos:R:3 charge=1\nH 0 0 0\nH 0 0 0.8\n",
        "2\n\nU 0 0 0\nU 0 0 4\n",
        GOOD[:-11],
    )
    run = hamnet("label", path, *LEVEL, "-o", tmp_path / "f.h5", "--json")
    assert run.exit_code == 1
    result = json.loads(run.stdout)
    assert (result["n_records"], result["n_new"], result["n_failed"]) == (2, 2, 5)
    reasons = {f["origin"].split()[-1]: (f["stage"], f["reason"]) for f in result["failures"]}
    for frame, (stage, text) in {
        "1": ("read", "not finite"),
        "2": ("input", "0.000 A apart"),
        "4": ("input", "an odd number"),
        "5": ("input", "does not hold the element U"),
        "6": ("read", "truncated"),
    }.items():
        assert reasons[frame][0] == stage
        assert text in reasons[frame][1]
    shown = hamnet("data", "info", tmp_path / "f.h5", "--json")
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["failures"] == result["failures"]
    assert "[nan" not in shown.stderr
    people = hamnet("data", "info", tmp_path / "f.h5")
    assert "[0.0, 0.0, nan]" in people.stdout
    again = hamnet("label", path, *LEVEL, "-o", tmp_path / "f.h5", "--json")
    assert (json.loads(again.stdout)["n_new"], json.loads(again.stdout)["n_known"]) == (0, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--xc", "pbbe", "--basis", "sto-3g"], "unknown functional 'pbbe'; did you mean 'pbe'?"),
        (["--xc", "pbe", "--basis", "def2svpp"], "unknown basis 'def2svpp'; did you mean"),
        (["--xc", "pbe"], "give the level of theory"),
        ([*LEVEL, "--reference", "minoa"], "did you mean 'minao'?"),
        ([*LEVEL, "--recipe", "water-pbe-svp"], "not both"),
    ],
)
def test_wrong_options_cost_nothing(tmp_path, options, message):
    path = write(tmp_path / "f.xyz", GOOD)
    run = hamnet("label", path, *options, "-o", tmp_path / "f.h5")
    assert run.exit_code == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: ")
    assert message in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["f.xyz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "water-pbe-svpp"], "did you mean 'water-pbe-svp'?"),
        (["--recipe", "water-pbe-svp", "--sampling", "langevine"], "did you mean 'langevin'?"),
        (["--recipe", "water-pbe-svp", "--xc", "pbe"], "a recipe fixes functional"),
        ([], "give the level of theory"),
        (["--xc", "pbe", "--basis", "sto-3g"], "give a structure file, or a recipe"),
    ],
)
def test_wrong_recipes_cost_nothing(tmp_path, options, message):
    run = hamnet("label", *options, "-o", tmp_path / "f.h5")
    assert run.exit_code == 1
    assert message in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    path = write(tmp_path / "f.xyz", GOOD)
    run = hamnet("label", path, *LEVEL, "-o", tmp_path / "no" / "f.h5")
    assert run.exit_code == 1
    assert f"the folder {tmp_path / 'no'} does not exist" in run.stderr


def test_an_existing_file_of_another_kind_is_not_overwritten(tmp_path):
    path = write(tmp_path / "f.xyz", GOOD)
    run = hamnet("label", path, *LEVEL, "-o", path)
    assert run.exit_code == 1
    assert "f.xyz is not an HDF5 file" in run.stderr
    assert path.read_text() == GOOD


def test_nothing_labelled_is_no_dataset(tmp_path):
    path = write(tmp_path / "f.xyz", "1\n\nH 0 0 0\n")
    run = hamnet("label", path, *LEVEL, "-o", tmp_path / "f.h5")
    assert run.exit_code == 1
    assert "no frame could be labelled" in run.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["f.xyz"]


# ---- datasets


@pytest.fixture
def dataset(tmp_path, water_records, water_basis, level):
    path = tmp_path / "water.h5"
    with Writer(path, level, references=("minao", "sap")) as writer:
        for record in water_records:
            writer.append(record, water_basis)
        writer.finish()
    return path


def refuse(path, message: str) -> None:
    with pytest.raises(HamnetError, match=message) as caught:
        Store.open(path)
    assert str(path) in str(caught.value)
    run = hamnet("data", "info", path)
    assert run.exit_code == 1
    assert run.stderr == f"error: {caught.value}\n"


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_dataset_is_refused(dataset, share):
    content = dataset.read_bytes()
    dataset.write_bytes(content[: int(len(content) * share)])
    refuse(dataset, "is a damaged HDF5 file|is damaged|is not an HDF5 file")


@pytest.mark.parametrize("content", [b"", b"what is this", b"\x80\x04pickle"])
def test_what_is_no_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    refuse(path, "is not an HDF5 file")


def test_a_foreign_hdf5_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["energies"] = [1.0]
    refuse(path, "is an HDF5 file, but not a hamnet dataset")


def test_another_format_version_is_refused(dataset):
    with h5py.File(dataset, "r+") as file:
        file.attrs["format_version"] = 2
    refuse(dataset, "has format version 2, but this hamnet reads version 1")


@pytest.mark.parametrize("name", ["overlap", "frames/id", "offsets/pairs", "failures"])
def test_a_missing_column_is_refused(dataset, name):
    with h5py.File(dataset, "r+") as file:
        del file[name]
    refuse(dataset, "is damaged")


def test_a_column_that_is_too_short_is_refused(dataset):
    with h5py.File(dataset, "r+") as file:
        del file["hamiltonian"]
        file["hamiltonian"] = np.zeros(7)
    refuse(dataset, "hamiltonian has 7 rows")


def test_a_flipped_bit_is_found_when_its_record_is_read(dataset, water_records):
    needle = water_records[2].hamiltonian[0, 40:42].tobytes()
    content = bytearray(dataset.read_bytes())
    at = content.find(needle)
    assert at > 0
    content[at] ^= 1
    dataset.write_bytes(content)
    with pytest.raises(HamnetError, match=r"water\.h5 is damaged \(record 2"):
        Store.open(dataset)[2]


def test_an_unfinished_dataset_says_how_to_finish_it(tmp_path, water_records, water_basis, level):
    path = tmp_path / "water.h5"
    with Writer(path, level, references=("minao", "sap")) as writer:
        writer.append(water_records[0], water_basis)
    assert partial_path(path).exists()
    refuse(path, "no such file, but .*water.h5.partial does: .* run the same 'hamnet label'")
    refuse(partial_path(path), "is a dataset in the making")


def test_a_foreign_journal_is_not_overwritten(tmp_path, level):
    path = tmp_path / "water.h5"
    partial_path(path).write_bytes(b"something precious of somebody else")
    with pytest.raises(HamnetError, match=r"water\.h5\.partial is not a journal"):
        Writer(path, level)
    assert partial_path(path).read_bytes() == b"something precious of somebody else"
