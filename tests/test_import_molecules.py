"""QH9, nablaDFT and MD17: files written here byte by byte come out as PySCF's own matrices."""

import json
import sqlite3
from contextlib import closing

import ase.db
import numpy as np
import pytest
from ase import Atoms
from typer.testing import CliRunner

from hamnet.blocks import to_dense
from hamnet.data.level import LevelOfTheory
from hamnet.data.store import Store
from hamnet.units import BOHR_TO_ANGSTROM
from hamnet_cli.app import app
from hamnet_datasets.labels import label

# PySCF's place of each orbital of water (O 3s2p1d, H 2s1p) in Psi4's and ORCA's order, by hand:
# p is z, x, y and d is z2, xz, yz, x2-y2, xy
_P, _D = [2, 0, 1], [2, 3, 1, 4, 0]
_OXYGEN = [0, 1, 2, *(3 + k for k in _P), *(6 + k for k in _P), *(9 + k for k in _D)]
_HYDROGEN = [0, 1, *(2 + k for k in _P)]
Z_FIRST = np.array([*_OXYGEN, *(14 + k for k in _HYDROGEN), *(19 + k for k in _HYDROGEN)])


def hamnet(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def dense(record, name):
    """The matrix in PySCF's order, by hand: p shells are x, y, z."""
    y_z_x = [2, 0, 1]
    order = [0, 1, 2, *(3 + k for k in y_z_x), *(6 + k for k in y_z_x), *range(9, 14)]
    order += [14, 15, *(16 + k for k in y_z_x), 19, 20, *(21 + k for k in y_z_x)]
    matrix = to_dense(record.blocks(name))
    matrix = matrix[0] if matrix.ndim == 3 else matrix
    return matrix[np.ix_(order, order)]


def write_qh9(path, records, *, unit=1.0, dynamic=False):
    with closing(sqlite3.connect(path)) as database:
        extra = "geo_id INTEGER, " if dynamic else ""
        database.execute(
            f"CREATE TABLE data (id INTEGER, {extra}N INTEGER, Z BLOB, pos BLOB, Ham BLOB)"
        )
        for k, record in enumerate(records):
            s = record.structure
            row = [k // 2, k % 2] if dynamic else [k]
            row += [
                len(s),
                s.numbers.astype(np.int32).tobytes(),
                (s.positions / unit).astype(np.float64).tobytes(),
                dense(record, "hamiltonian").tobytes(),
            ]
            database.execute(f"INSERT INTO data VALUES ({','.join('?' * len(row))})", row)
        database.commit()
    return path


@pytest.fixture(scope="module")
def b3lyp5(water_records):
    level = LevelOfTheory(xc="b3lyp5", basis="def2-svp")
    return [label(r.structure, level, references=()) for r in water_records[:2]]


OPTIONS = ["--reference", "none", "--workers", 0, "--json", "-q"]


@pytest.mark.parametrize(("unit", "dynamic"), [(1.0, False), (BOHR_TO_ANGSTROM, True)])
def test_qh9_in_either_unit(tmp_path, b3lyp5, unit, dynamic):
    path = write_qh9(tmp_path / "QH9.db", b3lyp5, unit=unit, dynamic=dynamic)
    run = hamnet("data", "import", "qh9", path, "-o", tmp_path / "a.h5", *OPTIONS)
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["n_records"] == 2
    store = Store.open(tmp_path / "a.h5")
    for got, put in zip(store, b3lyp5, strict=True):
        np.testing.assert_allclose(got.structure.positions, put.structure.positions, atol=1e-14)
        np.testing.assert_allclose(got.hamiltonian, put.hamiltonian, atol=1e-9)
        np.testing.assert_allclose(got.overlap, put.overlap, atol=1e-12)
        np.testing.assert_allclose(got.orbital_energies, put.orbital_energies, atol=1e-8)
    assert store.groups == (["molecule-0"] * 2 if dynamic else ["", ""])
    assert store.level.xc == "b3lyp5"
    assert hamnet("data", "check", tmp_path / "a.h5", "-q", "--recompute", 1).exit_code == 0


def test_qh9_of_another_functional_is_refused_and_then_named(tmp_path, water_records):
    path = write_qh9(tmp_path / "QH9.db", water_records[:1])
    run = hamnet("data", "import", "qh9", path, "-o", tmp_path / "a.h5", *OPTIONS)
    assert run.exit_code == 1
    assert "Angstrom or Bohr alike" in run.stderr
    run = hamnet("data", "import", "qh9", path, "-o", tmp_path / "a.h5", *OPTIONS, "--xc", "pbe")
    assert run.exit_code == 0, run.stderr


def test_qh9_goes_out_and_comes_back(tmp_path, b3lyp5):
    write_qh9(tmp_path / "QH9.db", b3lyp5)
    hamnet("data", "import", "qh9", tmp_path / "QH9.db", "-o", tmp_path / "a.h5", *OPTIONS)
    run = hamnet("data", "export", tmp_path / "a.h5", "--format", "qh9", "-o", tmp_path / "b.db")
    assert run.stdout.endswith("b.db: 2 of 2 records\n")
    with closing(sqlite3.connect(tmp_path / "b.db")) as database:
        key, n, z, pos, ham = database.execute("select * from data where id = 1").fetchone()
    assert (key, n, np.frombuffer(z, np.int32).tolist()) == (1, 3, [8, 1, 1])
    np.testing.assert_allclose(
        np.frombuffer(pos).reshape(3, 3), b3lyp5[1].structure.positions, atol=1e-14
    )
    np.testing.assert_allclose(
        np.frombuffer(ham).reshape(24, 24), dense(b3lyp5[1], "hamiltonian"), atol=1e-9
    )
    run = hamnet("data", "export", tmp_path / "a.h5", "--format", "npz", "-o", tmp_path / "b.npz")
    assert run.exit_code == 0
    run = hamnet("data", "import", "npz", tmp_path / "b.npz", "-o", tmp_path / "b.h5", *OPTIONS)
    assert run.exit_code == 0, run.stderr
    one, two = Store.open(tmp_path / "a.h5"), Store.open(tmp_path / "b.h5")
    assert one.ids == two.ids
    np.testing.assert_allclose(two[0].hamiltonian, one[0].hamiltonian, atol=1e-14)
    assert hamnet("data", "export", tmp_path / "a.h5", "--format", "qh", "-o", "c").exit_code == 1
    again = hamnet("data", "export", tmp_path / "a.h5", "--format", "qh9", "-o", tmp_path / "b.db")
    assert "b.db exists" in again.stderr


def test_nabladft(tmp_path, water_records):
    path = tmp_path / "nabla.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE data (id INTEGER NOT NULL PRIMARY KEY, Z BLOB, R BLOB, E FLOAT, F BLOB, "
            "H BLOB, S BLOB, C BLOB)"
        )
        for k, r in enumerate(water_records[:2]):
            blobs = [
                dense(r, name)[np.ix_(Z_FIRST, Z_FIRST)].astype(np.float32).tobytes()
                for name in ("hamiltonian", "overlap")
            ]
            positions = (r.structure.positions / BOHR_TO_ANGSTROM).astype(np.float32)
            numbers = r.structure.numbers.astype(np.int32).tobytes()
            row = (k, numbers, positions.tobytes(), r.energy, b"", *blobs, b"")
            database.execute("INSERT INTO data VALUES (?,?,?,?,?,?,?,?)", row)
        database.commit()
    command = ["data", "import", "nabladft", path, "-o", tmp_path / "a.h5", *OPTIONS]
    run = hamnet(*command, "--xc", "pbe")
    assert run.exit_code == 0, run.stderr
    store = Store.open(tmp_path / "a.h5")
    for got, put in zip(store, water_records, strict=False):
        np.testing.assert_allclose(got.hamiltonian, put.hamiltonian, atol=3e-6)
        np.testing.assert_allclose(got.overlap, put.overlap, atol=1e-6)
        assert got.energy == pytest.approx(put.energy, abs=1e-5)
    assert store.level.program == "psi4"
    wrong = hamnet(*command[:-4], tmp_path / "b.h5", *OPTIONS, "--xc", "hf")
    assert wrong.exit_code != 0


def test_md17(tmp_path, water_records):
    path = tmp_path / "water.db"
    with ase.db.connect(path) as database:
        for r in water_records[:2]:
            data = {
                name: dense(r, name)[np.ix_(Z_FIRST, Z_FIRST)]
                for name in ("hamiltonian", "overlap")
            }
            database.write(Atoms(r.structure.numbers, r.structure.positions), data=data)
        database.write(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), data={})
    run = hamnet("data", "import", "md17", path, "-o", tmp_path / "a.h5", *OPTIONS)
    assert run.exit_code == 1
    assert "row 3 [read]: no hamiltonian and no overlap" in run.stderr
    store = Store.open(tmp_path / "a.h5")
    assert len(store) == 2
    for got, put in zip(store, water_records, strict=False):
        np.testing.assert_allclose(got.hamiltonian, put.hamiltonian, atol=1e-12)
        np.testing.assert_allclose(got.orbital_energies, put.orbital_energies, atol=1e-9)


@pytest.mark.parametrize("name", ["qh9", "nabladft", "md17"])
def test_foreign_empty_and_truncated_files_are_refused(tmp_path, name, water_records):
    foreign, empty, cut = (tmp_path / f"{k}.db" for k in ("foreign", "empty", "cut"))
    foreign.write_bytes(b"\x80\x04pickle")
    write_qh9(empty, [])
    write_qh9(cut, water_records)
    cut.write_bytes(cut.read_bytes()[:4096])
    for path in (foreign, empty, cut, tmp_path / "absent.db"):
        run = hamnet("data", "import", name, path, "-o", tmp_path / "a.h5", *OPTIONS)
        assert run.exit_code == 1, path
        assert str(path) in run.stderr
        assert "Traceback" not in run.stderr
    assert not (tmp_path / "a.h5").exists()


def test_the_help_lists_every_format_with_its_convention():
    text = hamnet("data", "import", "--help").stdout
    for name in ("npz", "qh9", "nabladft", "md17", "deeph-legacy", "deeph", "deeptb", "abacus"):
        assert name in text
    assert "pickles are never" in " ".join(text.split())
