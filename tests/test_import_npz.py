"""Import of npz files: what comes out is what went in, and nothing is believed."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hamnet.blocks import to_dense
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.interop.pyscf import to_pyscf_matrix
from hamnet.units import BOHR_TO_ANGSTROM
from hamnet_cli.app import app
from hamnet_datasets.dense import ImportOptions
from hamnet_datasets.npz import import_npz


@pytest.fixture
def arrays(water_records, water_basis) -> dict[str, np.ndarray]:
    """The labels of the waters as another code would write them: dense, in PySCF's order."""

    def dense(record, name):
        matrix = to_pyscf_matrix(record.blocks(name), water_basis, record.structure)
        return matrix.reshape(water_basis.atom_offsets(record.structure.numbers)[-1:].repeat(2))

    return {
        "Z": water_records[0].structure.numbers,
        "R": np.array([r.structure.positions for r in water_records]),
        "H": np.array([dense(r, "hamiltonian") for r in water_records]),
        "S": np.array([dense(r, "overlap") for r in water_records]),
        "eps": np.array([r.orbital_energies[0] for r in water_records]),
        "xc": np.array("pbe"),
        "basis": np.array("def2-svp"),
    }


@pytest.fixture
def converted(tmp_path, arrays):
    """Write some arrays to a file and import it."""

    def run(options=None, **changes):
        kept = {**arrays, **changes}
        np.savez(tmp_path / "in.npz", **{k: v for k, v in kept.items() if v is not None})
        options = dict(options or {})
        chosen = {"references": options.pop("references")} if "references" in options else {}
        out = tmp_path / "out.h5"
        report = import_npz(tmp_path / "in.npz", out, **options, options=ImportOptions(**chosen))
        return report, Store.open(tmp_path / "out.h5")

    return run


def test_labels_come_out_as_they_went_in(converted, water_records):
    report, store = converted({"split": (2, 1, 1)})
    assert (report.n_records, report.failures) == (4, [])
    for got, put in zip(store, water_records, strict=True):
        assert got.id == put.id
        np.testing.assert_array_equal(got.structure.positions, put.structure.positions)
        np.testing.assert_allclose(got.hamiltonian, put.hamiltonian, atol=1e-14)
        np.testing.assert_allclose(got.overlap, put.overlap, atol=1e-14)
        np.testing.assert_array_equal(got.orbital_energies, put.orbital_energies)
        np.testing.assert_array_equal(got.occupations, put.occupations)
        for kind, h0 in put.references.items():
            np.testing.assert_allclose(got.references[kind], h0, atol=1e-12)
        assert np.isnan(got.energy)
    assert store.split is not None
    assert [part.tolist() for part in store.split.values()] == [[0, 1], [2], [3]]
    assert store.level.xc_components == ((101, 1.0), (130, 1.0))
    assert store.card["imported_from"] == "in.npz"


def test_the_command_imports_with_workers(tmp_path, arrays):
    np.savez(tmp_path / "in.npz", **arrays)
    files = [str(tmp_path / "in.npz"), "-o", str(tmp_path / "out.h5")]
    options = ["--split", "2,1,1", "--workers", "2", "--licence", "CC0-1.0", "--json"]
    run = CliRunner().invoke(app, ["data", "import", "npz", *files, *options])
    assert run.exit_code == 0
    assert json.loads(run.stdout)["n_records"] == 4
    shown = CliRunner().invoke(app, ["data", "info", str(tmp_path / "out.h5"), "--json"])
    summary = json.loads(shown.stdout)
    assert summary["split"] == {"train": 2, "validation": 1, "test": 1}
    assert summary["formulas"] == {"H2O": 4}
    assert summary["card"]["licence"] == "CC0-1.0"
    assert summary["energy_hartree"] is None


def test_energies_may_be_absent(converted, water_records):
    _, store = converted({"references": ()}, eps=None)
    for got, put in zip(store, water_records, strict=True):
        np.testing.assert_allclose(got.orbital_energies, put.orbital_energies, atol=1e-10)


def test_another_order_is_named_and_then_read(converted, arrays, water_records):
    shape = arrays["S"].shape[1:]
    order = {
        key: np.array([to_dense(r.blocks(name)).reshape(shape) for r in water_records])
        for key, name in (("H", "hamiltonian"), ("S", "overlap"))
    }
    with pytest.raises(HamnetError, match="the order 'hamnet' with R in Angstrom reproduces it"):
        converted(**order)
    _, store = converted({"order": "hamnet", "references": ()}, **order)
    np.testing.assert_array_equal(store[3].hamiltonian, water_records[3].hamiltonian)


def test_another_unit_is_named(converted, arrays):
    with pytest.raises(HamnetError, match="the order 'pyscf' with R in Bohr reproduces it"):
        converted(R=arrays["R"] / BOHR_TO_ANGSTROM)


def test_another_functional_is_found_out(converted):
    with pytest.raises(HamnetError, match=r"H differs by .* from the Fock matrix .* at blyp"):
        converted(xc=np.array("blyp"))


def test_bad_frames_do_not_stop_the_others(converted, arrays):
    r, s, h = (arrays[k].copy() for k in ("R", "S", "H"))
    r[1, 0, 0] = np.nan
    s[2, 0, 1] += 1e-6
    h[3, 0, 1] += 1e-6
    report, store = converted({"references": ()}, R=r, S=s, H=h)
    assert len(store) == 1
    assert [f.origin.split(", ")[-1] for f in report.failures] == ["frame 1", "frame 2", "frame 3"]
    for failure, reason in zip(
        report.failures, ["not finite", "S differs by", "H is not symmetric"], strict=True
    ):
        assert reason in failure.reason


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"S": None}, {}, "has no S; it holds H, R, Z"),
        ({"xc": None}, {}, "does not say its xc: give it with --xc"),
        ({}, {"split": (3, 3, 3)}, "holds 4 frames, which the split 3,3,3 does not divide"),
        ({}, {"basis": "def2-tzvp"}, "def2-tzvp gives 43 orbitals for H2O"),
        ({}, {"order": "pyscff"}, "did you mean 'pyscf'"),
        ({"eps": np.zeros((3, 24))}, {}, "4 frames in R, but 3 in eps"),
        ({"H": np.array([{"a": 1}])}, {}, "pickled objects are never loaded"),
    ],
)
def test_what_does_not_fit_is_refused(converted, changes, options, message):
    with pytest.raises(HamnetError, match=message):
        converted(options, **changes)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_what_is_no_npz_is_refused(tmp_path, content):
    path = tmp_path / "in.npz"
    path.write_bytes(content)
    with pytest.raises(HamnetError, match=r"in.npz: not a readable \.npz file"):
        import_npz(path, tmp_path / "out.h5")
