"""QH9 as its authors' scripts write it: both tables, both units, the four published splits."""

import random
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from pyscf import dft, gto

from hamnet.data.level import LevelOfTheory
from hamnet.data.splits import split_geometries, split_molecules
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet_datasets.dense import ImportOptions
from hamnet_datasets.qh9 import import_qh9

NO_REFERENCES = ImportOptions(references=())
STABLE = "id INTEGER NOT NULL PRIMARY KEY, N INTEGER, Z BLOB, pos BLOB, Ham BLOB"
DYNAMIC = (
    "id INTEGER NOT NULL, geo_id INTEGER NOT NULL, N INTEGER, Z BLOB, pos BLOB, ekin FLOAT, "
    "epot FLOAT, etot FLOAT, time FLOAT, Ham BLOB, converged INT"
)


@pytest.fixture(scope="module")
def made():
    """Two geometries of HF with PySCF's default thresholds, as those scripts leave them."""
    frames = []
    for length in (0.91, 0.97):
        mole = gto.M(
            atom=[[9, (0.1, 0, 0)], [1, (0.1, 0.3, length)]], basis="def2svp", unit="ang", verbose=0
        )
        mf = dft.RKS(mole, xc="b3lyp5")
        mf.kernel()
        frames.append((mole, mf.get_fock(), mf.e_tot))
    return frames


def write(path, columns, rows):
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"CREATE TABLE data ({columns})")
        for row in rows:
            database.execute(f"INSERT INTO data VALUES ({','.join('?' * len(row))})", row)
        database.commit()
    return path


def stable_row(key, mole, fock):
    numbers = mole.atom_charges().astype(np.int32)
    positions = mole.atom_coords(unit="ang")
    return key, mole.natm, numbers.tobytes(), positions.tobytes(), fock.tobytes()


def dynamic_row(key, geometry, mole, fock, energy, converged=1):
    numbers = mole.atom_charges().astype(np.int32)
    blob = np.int64(key).tobytes()  # what an SQLite driver makes of a NumPy integer
    positions = mole.atom_coords()  # Bohr
    return (
        blob, geometry, mole.natm, numbers.tobytes(), positions.tobytes(), 0.01, energy,
        energy + 0.01, 50.0 * geometry, fock.tobytes(), converged,
    )  # fmt: skip


def check(record, mole):
    """The matrices belong to this geometry: S by PySCF, p shells x, y, z -> y, z, x."""
    found = record.structure.positions
    np.testing.assert_allclose(found, mole.atom_coords(unit="ang"), atol=1e-12)
    by_hand = [0, 1, 2, 4, 5, 3, 7, 8, 6, *range(9, 14), 14, 15, 17, 18, 16]
    overlap = mole.intor("int1e_ovlp")[np.ix_(by_hand, by_hand)]
    np.testing.assert_allclose(record.blocks("overlap").block(1), overlap[:14, 14:], atol=1e-12)


def test_stable(tmp_path, made):
    path = write(
        tmp_path / "QH9Stable.db", STABLE, [stable_row(k, m, h) for k, (m, h, _) in enumerate(made)]
    )
    report = import_qh9(path, tmp_path / "a.h5", options=NO_REFERENCES)
    assert (report.n_records, report.failures) == (2, [])
    store = Store.open(tmp_path / "a.h5")
    for record, (mole, _, _) in zip(store, made, strict=True):
        check(record, mole)
    assert store.groups == ["", ""]
    assert (store.level.xc, store.level.conv_tol) == ("b3lyp5", 1e-9)


def test_dynamic_in_the_order_of_the_file_without_what_did_not_converge(tmp_path, made):
    (one, h1, e1), (two, h2, e2) = made
    rows = [
        dynamic_row(70_000, 0, one, h1, e1),
        dynamic_row(70_000, 1, two, h2, e2, converged=0),
        dynamic_row(5, 0, two, h2, e2),
    ]
    path = write(tmp_path / "QH9Dynamic.db", DYNAMIC, rows)
    report = import_qh9(path, tmp_path / "a.h5", options=NO_REFERENCES)
    store = Store.open(tmp_path / "a.h5")
    assert store.groups == ["molecule-70000", "molecule-5"]
    for record, (mole, _, energy) in zip(store, made, strict=True):
        check(record, mole)
        assert record.energy == energy
    (failure,) = report.failures
    assert failure.origin.endswith("row 70000, geometry 1")
    assert "did not converge" in failure.reason


def test_the_other_b3lyp_is_refused(tmp_path, made):
    path = write(tmp_path / "a.db", STABLE, [stable_row(0, *made[0][:2])])
    level = LevelOfTheory(xc="b3lyp", basis="def2-svp")
    with pytest.raises(HamnetError, match=r"Angstrom or Bohr alike.*b3lyp or b3lyp5"):
        import_qh9(path, tmp_path / "a.h5", level=level, options=NO_REFERENCES)


def test_a_split_counts_the_rows_of_the_file(tmp_path, made):
    mole, fock, energy = made[0]
    n_molecules, n_geometries = 10, 10
    rows = [
        dynamic_row(key, geo, mole, fock, energy, converged=0)
        for key in range(n_molecules)
        for geo in range(n_geometries)
    ]
    kept = [3, 17, 42, 76, 99]
    for k in kept:  # five frames that differ, the others drop out
        moved = mole.copy()
        moved.set_geom_(mole.atom_coords() + 0.1 * k, unit="bohr")
        rows[k] = dynamic_row(k // 10, k % 10, moved, fock, energy)
    path = write(tmp_path / "a.db", DYNAMIC, rows)
    order = list(range(n_molecules))
    random.seed(43)
    random.shuffle(order)
    by_molecule = {m: k for k, m in enumerate(order)}
    for split in ("molecule", "geometry"):
        out = tmp_path / f"{split}.h5"
        import_qh9(path, out, split=split, options=NO_REFERENCES)
        found = Store.open(out).split
        assert found is not None
        for place, row in enumerate(kept):
            if split == "molecule":
                position = by_molecule[row // 10]
            else:
                last = row // 10 * 10 + 9
                shuffled = np.random.RandomState(seed=last).permutation(n_geometries)
                position = shuffled.tolist().index(row % 10)
            subset = "train" if position < 8 else "validation" if position == 8 else "test"
            assert place in found[subset]
    with pytest.raises(HamnetError, match="did you mean 'geometry'"):
        import_qh9(path, tmp_path / "b.h5", split="geometri", options=NO_REFERENCES)


def test_random_and_size_are_of_rows_too(tmp_path, made):
    rows = [stable_row(k, mole, fock) for k, (mole, fock, _) in enumerate(made)]
    rows += [(k, n, b"", b"", b"") for k, n in enumerate([20, 21, 22, 23, 9, 9, 9, 29], start=2)]
    path = write(tmp_path / "a.db", STABLE, rows)
    report = import_qh9(path, tmp_path / "r.h5", split="random", options=NO_REFERENCES)
    assert (report.n_records, len(report.failures)) == (2, 8)
    order = np.random.RandomState(seed=43).permutation(10)
    found = Store.open(tmp_path / "r.h5").split
    wanted = {k: sorted(r for r in order[a:b].tolist() if r < 2)
              for k, a, b in (("train", 0, 8), ("validation", 8, 9), ("test", 9, 10))}  # fmt: skip
    assert {k: v.tolist() for k, v in found.items()} == wanted
    import_qh9(path, tmp_path / "s.h5", split="size", options=NO_REFERENCES)
    assert Store.open(tmp_path / "s.h5").split["train"].tolist() == [0, 1]


def test_the_published_dynamic_splits():
    """Derived again from their definition, 12 molecules of 100 geometries."""
    groups = [f"molecule-{m}" for m in range(12) for _ in range(100)]
    order = list(range(12))
    random.seed(43)
    random.shuffle(order)
    parts = split_molecules(groups)
    for name, chosen in (("train", order[:9]), ("validation", order[9:10]), ("test", order[10:])):
        expected = [k for k in range(1200) if k // 100 in chosen]
        assert parts[name].tolist() == expected
    parts = split_geometries(groups)
    train = [
        100 * m + k
        for m in range(12)
        for k in np.random.RandomState(seed=100 * m + 99).permutation(100)[:80]
    ]
    assert parts["train"].tolist() == sorted(train)
    assert [len(part) for part in parts.values()] == [960, 120, 120]
    assert parts["train"].tolist() != split_geometries(groups, seed=1)["train"].tolist()
