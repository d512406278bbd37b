"""The store: what goes in comes out, whatever dies on the way."""

import pickle

import numpy as np
import pytest

from hamnet.basis import OrbitalBasis
from hamnet.data.failure import Failure
from hamnet.data.journal import Journal
from hamnet.data.level import LevelOfTheory
from hamnet.data.record import Record
from hamnet.data.store import Store, partial_path
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from tests.synthetic import BASIS, LEVEL, make_record, open_writer


def assert_same(one: Record, two: Record) -> None:
    for name in ("id", "group", "origin", "energy", "scf_cycles", "seconds"):
        assert getattr(one, name) == getattr(two, name), name
    for name in ("hamiltonian", "overlap", "orbital_energies", "occupations", "dipole"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    for name in ("numbers", "positions", "cell", "pbc", "charge", "spin"):
        np.testing.assert_array_equal(getattr(one.structure, name), getattr(two.structure, name))
    np.testing.assert_array_equal(one.layout.atom_pairs, two.layout.atom_pairs)
    np.testing.assert_array_equal(one.layout.atom_offsets, two.layout.atom_offsets)
    assert one.references.keys() == two.references.keys()
    for name, h0 in one.references.items():
        np.testing.assert_array_equal(h0, two.references[name])


RECORDS = [
    make_record(0),
    make_record(1, (8, 1), spin=1, group="radicals"),
    make_record(2, (1, 8, 1, 8), group=""),
    make_record(3, (1,), spin=1),
]


def write(path, records, orders=None) -> None:
    with open_writer(path) as writer:
        for k, record in enumerate(records):
            writer.append(record, BASIS, order=k if orders is None else orders[k])
        writer.finish()


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "a.h5"
    write(path, RECORDS)
    store = Store.open(path)
    assert len(store) == len(RECORDS)
    for got, put in zip(store, RECORDS, strict=True):
        assert_same(got, put)
    assert store.level == LEVEL
    assert store.basis == BASIS
    assert store.references == ("minao", "sap")
    assert store.card == {"name": "test"}
    assert store.groups == [r.group for r in RECORDS]
    assert store.origins == [r.origin for r in RECORDS]
    assert store.numbers(2).tolist() == [1, 8, 1, 8]
    np.testing.assert_array_equal(store.structure(1).positions, RECORDS[1].structure.positions)
    assert store.split is None
    assert not partial_path(path).exists()
    with pytest.raises(IndexError):
        store[len(RECORDS)]


def test_a_store_can_be_sent_to_another_process(tmp_path):
    path = tmp_path / "a.h5"
    write(path, RECORDS)
    store = pickle.loads(pickle.dumps(Store.open(path)))
    assert_same(store[1], RECORDS[1])


def test_order_does_not_depend_on_arrival(tmp_path):
    write(tmp_path / "a.h5", RECORDS)
    write(tmp_path / "b.h5", RECORDS[::-1], orders=[3, 2, 1, 0])
    assert Store.open(tmp_path / "a.h5").ids == Store.open(tmp_path / "b.h5").ids


def test_a_record_is_stored_once_also_across_runs(tmp_path):
    path = tmp_path / "a.h5"
    write(path, RECORDS[:2])
    with open_writer(path) as writer:
        assert not writer.append(RECORDS[1], BASIS)
        assert writer.append(RECORDS[2], BASIS)
        assert not writer.append(RECORDS[2], BASIS)
        writer.finish()
    store = Store.open(path)
    assert store.ids == [r.id for r in RECORDS[:3]]
    for got, put in zip(store, RECORDS, strict=False):
        assert_same(got, put)


def test_split_and_failures_are_kept_and_grow(tmp_path):
    path = tmp_path / "a.h5"
    bad = Failure("wässer.xyz@7", "scf", "not converged", "0" * 32)
    with open_writer(path) as writer:
        writer.append(RECORDS[0], BASIS, order=0, subset="train")
        writer.append(RECORDS[1], BASIS, order=1, subset="test")
        writer.fail(Failure("wässer.xyz@2", "scf", "not converged"))
        writer.fail(bad)
        writer.finish()
    with open_writer(path) as writer:
        writer.append(RECORDS[2], BASIS, order=2, subset="test")  # failed at first
        writer.finish()
    store = Store.open(path)
    assert store.failures == [bad]
    assert store.split is not None
    assert {k: v.tolist() for k, v in store.split.items()} == {
        "train": [0],
        "validation": [],
        "test": [1, 2],
    }


@pytest.mark.parametrize("lost", [1, 5, 13, 100, 1000, 3000])
def test_half_an_entry_is_cut_off_and_the_rest_survives(tmp_path, lost):
    path = tmp_path / "a.h5"
    with open_writer(path) as writer:
        for k, record in enumerate(RECORDS[:3]):
            writer.append(record, BASIS, order=k)
    journal = partial_path(path)
    with journal.open("r+b") as file:
        file.truncate(journal.stat().st_size - lost)
    with open_writer(path) as writer:
        assert writer.ids == {r.id for r in RECORDS[:2]}
        for k, record in enumerate(RECORDS):
            writer.append(record, BASIS, order=k)
        writer.finish()
    for got, put in zip(Store.open(path), RECORDS, strict=True):
        assert_same(got, put)


def test_a_damaged_entry_costs_itself_only(tmp_path):
    path = tmp_path / "a.h5"
    with open_writer(path) as writer:
        for record in RECORDS[:3]:
            writer.append(record, BASIS)
    journal = Journal(partial_path(path))
    middle = journal.positions[2] + 200
    journal.close()
    with partial_path(path).open("r+b") as file:
        file.seek(middle)
        byte = file.read(1)
        file.seek(middle)
        file.write(bytes([byte[0] ^ 1]))
    with open_writer(path) as writer:
        assert writer.ids == {RECORDS[0].id, RECORDS[2].id}


def test_dying_between_rename_and_clean_up_loses_and_doubles_nothing(tmp_path):
    path = tmp_path / "a.h5"
    with open_writer(path) as writer:
        for record in RECORDS[:2]:
            writer.append(record, BASIS)
    journal = partial_path(path).read_bytes()
    with open_writer(path) as writer:
        writer.finish()
    partial_path(path).write_bytes(journal)
    with open_writer(path) as writer:
        writer.append(RECORDS[2], BASIS)
        writer.finish()
    assert sorted(Store.open(path).ids) == sorted(r.id for r in RECORDS[:3])


def test_two_processes_cannot_write_one_file(tmp_path):
    path = tmp_path / "a.h5"
    with open_writer(path) as writer:
        writer.append(RECORDS[0], BASIS)
        with pytest.raises(HamnetError, match="another process is writing"):
            open_writer(path)
        writer.append(RECORDS[1], BASIS)
        writer.finish()
    assert len(Store.open(path)) == 2


def test_nothing_appended_leaves_nothing_behind(tmp_path):
    with open_writer(tmp_path / "a.h5"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_level_or_other_references_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    write(path, RECORDS[:1])
    other = LevelOfTheory(xc="b3lyp5", basis="def2-svp", grid_level=4)
    with pytest.raises(HamnetError, match=r"grid_level: 3 there, 4 asked, xc: pbe there, b3lyp5"):
        Writer(path, other, references=("minao", "sap"))
    with pytest.raises(HamnetError, match="references minao, sap, but minao were asked"):
        Writer(path, LEVEL, references=("minao",))


def test_another_definition_of_the_basis_is_refused(tmp_path):
    other = OrbitalBasis(BASIS.name, BASIS.shells, {1: "hydrogen", 8: "another"})
    with open_writer(tmp_path / "a.h5") as writer:
        writer.append(RECORDS[0], BASIS)
        with pytest.raises(HamnetError, match="defines O in two ways"):
            writer.append(RECORDS[1], other)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    record = make_record(5)
    record.hamiltonian[0, 3] = np.nan
    with open_writer(tmp_path / "a.h5") as writer:
        with pytest.raises(HamnetError, match=r"wässer.xyz@5: hamiltonian holds numbers that are"):
            writer.append(record, BASIS)
        assert len(writer) == 0
