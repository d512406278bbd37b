"""A check finds what is wrong; merging and splitting keep every number."""

import json

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory
from hamnet.data.record import Record
from hamnet.data.select import merge, with_split
from hamnet.data.splits import (
    split_at_random,
    split_by_size,
    split_geometries,
    split_molecules,
)
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.structure import Structure
from hamnet_cli.app import app
from hamnet_datasets.check import check_store
from hamnet_datasets.labels import resolve

LEVEL = resolve(LevelOfTheory(xc="pbe", basis="def2-svp"))


def hamnet(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def write(path, records, basis, *, level=LEVEL, subsets=None, failures=()):
    with Writer(path, level, references=("minao", "sap"), card={"licence": "CC0"}) as writer:
        for k, record in enumerate(records):
            writer.append(record, basis, order=k, subset=subsets[k] if subsets else "")
        for failure in failures:
            writer.fail(failure)
        writer.finish()
    return path


def changed(record: Record, **fields) -> Record:
    return Record(**{**record.__dict__, **fields})


def findings(path, **options) -> str:
    return "\n".join(f"{f.where}: {f.what}" for f in check_store(path, **options).findings)


def test_a_sound_file_has_no_findings(tmp_path, many_waters, water_basis):
    path = write(tmp_path / "a.h5", many_waters, water_basis, subsets=["train"] * 8 + ["test"] * 8)
    report = check_store(path, recompute=1)
    assert report.findings == []
    assert report.n_records == len(many_waters)
    assert max(report.recomputed_uha) < 0.01
    assert report.min_overlap_eigenvalue > 1e-3
    run = hamnet("data", "check", path, "--recompute", 1, "--json", "-q")
    assert run.exit_code == 0
    assert json.loads(run.stdout)["findings"] == []


def test_another_functional_is_found_by_recomputing(tmp_path, water_records, water_basis):
    level = resolve(LevelOfTheory(xc="blyp", basis="def2-svp"))
    path = write(tmp_path / "a.h5", water_records, water_basis, level=level)
    assert findings(path) == ""
    assert "H differs by" in findings(path, recompute=1)
    run = hamnet("data", "check", path, "--recompute", 1, "-q")
    assert run.exit_code == 1
    assert "another functional, orbital order, unit or charge" in run.stderr


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda r: {"orbital_energies": r.orbital_energies + 1e-6}, "orbital energies differ by 1"),
        (lambda r: {"occupations": r.occupations * 0.9}, "9 electrons in the orbitals"),
        (lambda r: {"overlap": -r.overlap}, "not positive"),
        (
            lambda r: {"hamiltonian": r.hamiltonian + (np.arange(r.hamiltonian.size) == 1)},
            "hamiltonian is not Hermitian",
        ),
        (
            lambda r: {
                "structure": Structure(r.structure.numbers, r.structure.positions * 0.4),
            },
            "closer than",
        ),
    ],
)
def test_numbers_that_contradict_each_other_are_found(
    tmp_path, water_records, water_basis, change, what
):
    bad = changed(water_records[1], **change(water_records[1]))
    path = write(tmp_path / "a.h5", [water_records[0], bad], water_basis)
    found = findings(path)
    assert what in found
    assert "record 1" in found
    assert "record 0" not in found


def test_a_flipped_bit_anywhere_in_the_labels_is_found(tmp_path, water_records, water_basis):
    path = write(tmp_path / "a.h5", water_records, water_basis)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    parts = [
        water_records[2].hamiltonian,
        water_records[2].overlap,
        water_records[1].references["sap"],
    ]
    for part in parts:
        at = content.find(part.tobytes()) + int(rng.integers(part.nbytes))
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert "checksum" in findings(path)


def test_the_same_geometry_in_two_subsets_is_found(tmp_path, water_records, water_basis):
    one = water_records[0]
    s = one.structure
    turned = changed(
        one, id="f" * 32, structure=Structure(s.numbers, s.positions[:, [1, 2, 0]] + 0.5)
    )
    records = [*water_records, turned]
    subsets = ["train", "train", "validation", "test", "test"]
    path = write(tmp_path / "a.h5", records, water_basis, subsets=subsets)
    assert "records 0 (train) and 4 (test) are the same geometry" in findings(path)


def test_merged_files_hold_every_record_once(tmp_path, many_waters, water_basis):
    a = write(
        tmp_path / "a.h5",
        many_waters[:6],
        water_basis,
        subsets=["train"] * 5 + ["test"],
        failures=[Failure("lost", "scf", "no"), Failure(many_waters[7].origin, "scf", "no")],
    )
    b = write(tmp_path / "b.h5", many_waters[4:9], water_basis, subsets=["train"] * 4 + ["test"])
    out = tmp_path / "c.h5"
    merged = merge([a, b], out)
    assert (merged.n_records, merged.n_repeated) == (9, 2)
    store = Store.open(out)
    assert store.ids == [r.id for r in many_waters[:9]]
    for got, put in zip(store, many_waters, strict=False):
        np.testing.assert_array_equal(got.hamiltonian, put.hamiltonian)
        assert got.origin == put.origin
    assert {k: v.tolist() for k, v in store.split.items()} == {
        "train": [0, 1, 2, 3, 4, 6, 7],
        "validation": [],
        "test": [5, 8],
    }
    assert [f.origin for f in store.failures] == ["lost"]
    assert store.card["merged_from"] == ["a.h5", "b.h5"]
    with pytest.raises(HamnetError, match=r"c\.h5 exists"):
        merge([a], out)
    blyp = resolve(LevelOfTheory(xc="blyp", basis="def2-svp"))
    other = write(tmp_path / "d.h5", many_waters[9:10], water_basis, level=blyp)
    with pytest.raises(HamnetError, match="cannot be mixed"):
        merge([a, other], tmp_path / "e.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "b.h5", "c.h5", "d.h5"]


def test_a_split_is_stored_with_its_seed(tmp_path, many_waters, water_basis):
    path = write(tmp_path / "a.h5", many_waters, water_basis)
    run = hamnet("data", "split", path, "--by", "random", "--seed", 7)
    assert run.exit_code == 0, run.stderr
    store = Store.open(path)
    assert store.card["split"] == {"by": "random", "seed": 7, "fractions": [0.8, 0.1, 0.1]}
    assert sorted(np.concatenate(list(store.split.values())).tolist()) == list(range(16))
    for got, put in zip(store, many_waters, strict=True):
        np.testing.assert_array_equal(got.hamiltonian, put.hamiltonian)
    store.close()
    assert hamnet("data", "split", path, "--by", "size").exit_code == 1
    assert "did you mean 'group'" in hamnet("data", "split", path, "--by", "groups").stderr
    with_split(path, tmp_path / "b.h5", {"test": np.array([3])}, {})
    assert Store.open(tmp_path / "b.h5").split["test"].tolist() == [3]


def test_qh9_splits():
    order = np.random.RandomState(43).permutation(101)
    split = split_at_random(101)
    assert split["train"].tolist() == order[:80].tolist()
    assert split["validation"].tolist() == order[80:90].tolist()
    assert split["test"].tolist() == order[90:].tolist()
    sizes = split_by_size([5, 20, 21, 22, 23, 29])
    assert [part.tolist() for part in sizes.values()] == [[0, 1], [2, 3], [4, 5]]
    groups = [f"m{k // 10}" for k in range(100)]
    molecules = split_molecules(groups)
    assert [len(part) for part in molecules.values()] == [80, 10, 10]
    assert len({groups[k] for k in molecules["test"]}) == 1
    geometries = split_geometries(groups)
    assert [len(part) for part in geometries.values()] == [80, 10, 10]
    assert len({groups[k] for k in geometries["test"]}) == 10
    with pytest.raises(HamnetError, match="record 1 has no group"):
        split_molecules(["a", ""])


def test_a_file_written_before_a_column_existed_is_still_read(tmp_path, water_records, water_basis):
    path = write(tmp_path / "a.h5", water_records[:2], water_basis)
    with h5py.File(path, "r+") as file:
        del file["frames/scf_rung"], file["checksums"]
        chunked = file["hamiltonian"][()]
        del file["hamiltonian"]
        file.create_dataset("hamiltonian", data=chunked, chunks=(100,), fletcher32=True)
    assert Store.open(path)[1].scf_rung == 0
    np.testing.assert_array_equal(Store.open(path)[1].hamiltonian, water_records[1].hamiltonian)
    write(path, water_records, water_basis)
    store = Store.open(path)
    assert [r.scf_rung for r in store] == [0, 0, 1, 1]
    assert findings(path) == ""
