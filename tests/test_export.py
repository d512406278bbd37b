"""What goes out in another format and is imported again is what it was."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from hamnet.data.level import LevelOfTheory
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for
from hamnet_datasets.deeph import import_deeph
from hamnet_datasets.deeptb import import_deeptb
from hamnet_datasets.dense import ImportOptions
from hamnet_datasets.export import export
from hamnet_datasets.labels import resolve
from hamnet_datasets.npz import import_npz
from hamnet_datasets.qh9 import import_qh9

OPTIONS = ImportOptions(references=())
NUMERICAL = LevelOfTheory(xc="pbe", basis="numerical", program="unknown")


@pytest.fixture(scope="module")
def stored(tmp_path_factory, water_records, water_basis, level):
    """Four waters with an unusual setting and a split."""
    unusual = resolve(level.model_copy(update={"conv_tol": 1e-12}))
    path = tmp_path_factory.mktemp("export") / "water.h5"
    with Writer(path, unusual) as writer:
        for k, record in enumerate(water_records):
            plain = replace(record, references={})
            writer.append(plain, water_basis, order=k, subset="train" if k < 3 else "test")
        writer.finish()
    return path


def test_npz_is_the_identity(tmp_path, stored):
    done = export(stored, tmp_path / "a.npz", "npz")
    assert (done.n_written, done.n_records) == (4, 4)
    import_npz(tmp_path / "a.npz", tmp_path / "a.h5", options=OPTIONS)
    one, two = Store.open(stored), Store.open(tmp_path / "a.h5")
    assert two.level.physics() == one.level.physics()
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(b.structure.positions, a.structure.positions)
        np.testing.assert_allclose(b.hamiltonian, a.hamiltonian, atol=1e-14)
        np.testing.assert_allclose(b.overlap, a.overlap, atol=1e-14)
        np.testing.assert_array_equal(b.orbital_energies, a.orbital_energies)
        np.testing.assert_array_equal(b.occupations, a.occupations)


def test_qh9_is_the_identity(tmp_path, stored):
    done = export(stored, tmp_path / "a.db", "qh9", "train")
    assert (done.n_written, done.n_records) == (3, 4)
    level = Store.open(stored).level
    import_qh9(tmp_path / "a.db", tmp_path / "a.h5", level=level, options=OPTIONS)
    for a, b in zip(Store.open(stored), Store.open(tmp_path / "a.h5"), strict=False):
        np.testing.assert_array_equal(b.structure.positions, a.structure.positions)
        np.testing.assert_allclose(b.hamiltonian, a.hamiltonian, atol=1e-14)
        np.testing.assert_allclose(b.orbital_energies, a.orbital_energies, atol=1e-10)


def test_deeptb_is_the_identity_in_single_precision_and_a_molecule_stays_one(tmp_path, stored):
    export(stored, tmp_path / "out", "deeptb")
    (folder,) = (tmp_path / "out").iterdir()
    assert np.loadtxt(folder / "pbc.dat").tolist() == [0, 0, 0]
    assert (folder / "basis.dat").read_text() == "{'O': '3s2p1d', 'H': '2s1p'}"
    with h5py.File(folder / "hamiltonians.h5") as file:
        assert sorted(file) == ["0", "1", "2", "3"]
        assert {"0_1_0_0_0", "1_0_0_0_0", "0_0_0_0_0"} <= set(file["0"])
        forth, back = file["0/0_1_0_0_0"][()], file["0/1_0_0_0_0"][()]
        assert forth.dtype == np.float32
        np.testing.assert_array_equal(forth, back.T)
    import_deeptb(tmp_path / "out", tmp_path / "a.h5", level=NUMERICAL, options=OPTIONS)
    for a, b in zip(Store.open(stored), Store.open(tmp_path / "a.h5"), strict=True):
        assert not b.structure.is_periodic
        np.testing.assert_array_equal(b.structure.positions, a.structure.positions)
        np.testing.assert_array_equal(b.layout.atom_pairs, a.layout.atom_pairs)
        np.testing.assert_allclose(b.hamiltonian, a.hamiltonian, atol=2e-6)
        np.testing.assert_allclose(b.overlap, a.overlap, atol=1e-7)


def test_deeph_is_the_identity_up_to_the_box(tmp_path, stored):
    export(stored, tmp_path / "out", "deeph")
    import_deeph(tmp_path / "out", tmp_path / "a.h5", level=NUMERICAL, options=OPTIONS)
    for a, b in zip(Store.open(stored), Store.open(tmp_path / "a.h5"), strict=True):
        moved = b.structure.positions - a.structure.positions
        np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-12)
        np.testing.assert_array_equal(b.layout.atom_pairs, a.layout.atom_pairs)
        np.testing.assert_allclose(b.hamiltonian, a.hamiltonian, atol=1e-14)
        np.testing.assert_allclose(b.overlap, a.overlap, atol=1e-15)


@pytest.mark.parametrize("target", ["npz", "qh9", "deeph", "deeptb"])
def test_two_spin_channels_are_refused_and_nothing_is_left(tmp_path, radical_record, level, target):
    basis = basis_for(radical_record.structure, level.basis)
    with Writer(tmp_path / "oh.h5", resolve(level)) as writer:
        writer.append(replace(radical_record, references={}), basis)
        writer.finish()
    with pytest.raises(HamnetError, match=r"two spin channels|2 matrices|closed-shell"):
        export(tmp_path / "oh.h5", tmp_path / "out", target)
    assert [p.name for p in tmp_path.iterdir()] == ["oh.h5"]


def test_a_frame_with_complex_blocks_is_refused_and_the_others_are_read(tmp_path, stored):
    export(stored, tmp_path / "out", "deeptb")
    (folder,) = (tmp_path / "out").iterdir()
    with h5py.File(folder / "hamiltonians.h5", "r+") as file:
        values = file["2/0_0_0_0_0"][()].astype(np.complex64)
        del file["2/0_0_0_0_0"]
        file["2/0_0_0_0_0"] = values
    report = import_deeptb(tmp_path / "out", tmp_path / "a.h5", level=NUMERICAL, options=OPTIONS)
    (failure,) = report.failures
    assert failure.origin.endswith("frame 2")
    assert "does not say that it is spinful" in failure.reason
    assert report.n_records == 3
