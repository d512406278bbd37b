"""Spinful blocks of other codes, written here from integrals, and read as four real matrices.

H0 is the kinetic energy, K the spin-orbit integrals ``p V x p`` of the nuclei in the cells of both
orbitals, from PySCF.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from pyscf import gto
from typer.testing import CliRunner

from hamnet.bands import band_energies
from hamnet.blocks import SpinKind, to_k
from hamnet.data.level import LevelOfTheory
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.models import load_model
from hamnet.spinor import to_spinor
from hamnet.structure import Structure
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.units import HARTREE_TO_EV
from hamnet_cli.app import app
from hamnet_datasets.crystal import BlockFrame, to_record
from tests import test_import_crystals
from tests.synthetic import SMALL
from tests.test_import_crystals import (
    CELL,
    NUMBERS,
    POSITIONS,
    SHELLS,
    blocks,
    legacy,
    molecule,
    new_deeph,
    places,
    run,
)

REACH = 2
STRENGTH = 0.05
Blocks = dict[tuple[int, ...], np.ndarray]


def four(kind: str) -> Blocks:
    """``(R1, R2, R3, i, j) -> H0, Kx, Ky, Kz`` in the orbital order of a format."""
    index, sign = places(kind)
    cuts = np.cumsum([0, 14, 5, 5])
    home, found = molecule(np.zeros(3)), {}
    for r in range(-REACH, REACH + 1):
        there = molecule(np.array([r, 0, 0]))
        kinetic = gto.intor_cross("int1e_kin", home, there)[None]
        coupling = gto.intor_cross("int1e_pnucxp", home, there)
        matrix = np.concatenate([kinetic, STRENGTH * coupling])
        matrix = matrix[:, index[:, None], index] * np.outer(sign, sign)
        for i in range(3):
            for j in range(3):
                found[r, 0, 0, i, j] = matrix[:, cuts[i] : cuts[i + 1], cuts[j] : cuts[j + 1]]
    return found


def spinful(block: np.ndarray) -> np.ndarray:
    """``[[uu, ud], [du, dd]]`` in eV, written out: i K.sigma with Pauli's matrices."""
    h, x, y, z = HARTREE_TO_EV * block
    return np.block([[h + 1j * z, y + 1j * x], [-y + 1j * x, h - 1j * z]])


def write_legacy(folder: Path, magnetic: float = 0.0) -> list[str]:
    command = legacy(folder)
    (folder / "info.json").write_text(json.dumps({"isspinful": True}))
    with h5py.File(folder / "hamiltonians.h5", "w") as file:
        for (a, b, c, i, j), block in four("openmx").items():
            values = spinful(block)
            n, m = block.shape[1:]
            values[:n, :m] += magnetic * HARTREE_TO_EV
            file[f"[{a}, {b}, {c}, {i + 1}, {j + 1}]"] = values
    return command


def write_new(folder: Path) -> list[str]:
    command = new_deeph(folder)
    info = json.loads((folder / "info.json").read_text())
    (folder / "info.json").write_text(json.dumps({**info, "spinful": True}))
    found = {key: spinful(block) for key, block in four("wiki").items()}
    with h5py.File(folder / "hamiltonian.h5", "w") as file:
        file["atom_pairs"] = np.array(list(found))
        file["chunk_shapes"] = np.array([b.shape for b in found.values()])
        sizes = [b.size for b in found.values()]
        file["chunk_boundaries"] = np.concatenate([[0], np.cumsum(sizes)])
        file["entries"] = np.concatenate([b.ravel() for b in found.values()])
    return command


@pytest.mark.parametrize("write", [write_legacy, write_new], ids=["legacy", "new"])
def test_spinful_blocks_become_four_real_ones(tmp_path, write):
    folder = tmp_path / "one"
    folder.mkdir()
    answer = run(write(folder), tmp_path, tmp_path / "out.h5")
    assert answer.exit_code == 0, answer.stderr
    with Store.open(tmp_path / "out.h5") as store:
        assert store.level.relativity == "spin-orbit"
        record = store[0]
    assert record.spin_kind is SpinKind.SPINOR
    truth, h = four("wiki"), record.blocks("hamiltonian")
    for k, pair in enumerate(record.layout.atom_pairs.tolist()):
        block = h.block(k)
        expected = truth.get(tuple(pair), np.zeros_like(block))
        np.testing.assert_allclose(block, expected, atol=1e-12)
    assert np.abs(record.hamiltonian[1:]).max() > 1e-3
    checked = CliRunner().invoke(app, ["data", "check", str(tmp_path / "out.h5"), "-q"])
    assert checked.exit_code == 0, checked.stderr


def test_bands_of_a_spinful_label(tmp_path):
    """Those of the complex sum over all pairs, written out; without inversion they are split."""
    run(write_legacy(tmp_path), tmp_path, tmp_path / "out.h5")
    with Store.open(tmp_path / "out.h5") as store:
        record = store[0]
    k = np.array([0.21, 0.0, 0.0])
    cuts = np.cumsum([0, 14, 5, 5])
    whole = np.zeros((48, 48), complex)
    for (r, _, _, i, j), block in four("wiki").items():
        values = np.exp(2j * np.pi * k[0] * r) * spinful(block) / HARTREE_TO_EV
        rows = np.concatenate([np.arange(cuts[i], cuts[i + 1]) + spin for spin in (0, 24)])
        cols = np.concatenate([np.arange(cuts[j], cuts[j + 1]) + spin for spin in (0, 24)])
        whole[np.ix_(rows, cols)] += values
    h, s = record.blocks("hamiltonian"), record.blocks("overlap")
    assert np.abs(to_spinor(to_k(h, k)) - whole).max() < 1e-12
    energies = band_energies(h, s, np.array([k]))[0, 0]
    assert energies.shape == (48,)
    assert np.diff(energies)[::2].max() > 1e-4
    command = ["bands", str(tmp_path / "out.h5"), "--path", "GX", "--npoints", "3", "--electrons"]
    options = ["8", "--mesh-length", "6", "-o", str(tmp_path / "bands.json"), "-q"]
    answer = CliRunner().invoke(app, [*command, *options])
    assert answer.exit_code == 0, answer.stderr
    found = json.loads((tmp_path / "bands.json").read_text())
    assert np.array(found["energies_ev"]).shape == (1, 3, 48)


def test_the_two_solvers_agree_on_spinful_bands(tmp_path):
    run(write_legacy(tmp_path), tmp_path, tmp_path / "out.h5")
    made = {}
    for solver in ("dense", "sparse"):
        out = tmp_path / f"{solver}.json"
        command = ["bands", str(tmp_path / "out.h5"), "--path", "GX", "--npoints", "3", "-q"]
        options = ["--electrons", "8", "--near-fermi", "6", "--mesh-length", "6", "-o", str(out)]
        answer = CliRunner().invoke(app, [*command, *options, "--solver", solver])
        assert answer.exit_code == 0, answer.stderr
        made[solver] = json.loads(out.read_text())
    one, two = (np.array(made[solver]["energies_ev"]) for solver in made)
    assert np.abs(one - two).max() < 1e-6
    assert made["dense"]["first_band"] == made["sparse"]["first_band"] == 5
    assert abs(made["dense"]["fermi_ev"] - made["sparse"]["fermi_ev"]) < 1e-4


def test_magnetic_blocks_are_refused_with_their_deviation(tmp_path):
    answer = run(write_legacy(tmp_path, magnetic=1e-3), tmp_path, tmp_path / "out.h5")
    assert answer.exit_code == 1
    assert "not time-reversal symmetric: it differs by 5.0e-04" in answer.stderr


def test_kinds_are_not_mixed(tmp_path):
    for name, write in (("a", write_legacy), ("b", legacy)):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
    moved = np.loadtxt(tmp_path / "b" / "site_positions.dat") + 0.5  # another frame
    np.savetxt(tmp_path / "b" / "site_positions.dat", moved)
    answer = run(["deeph-legacy"], tmp_path, tmp_path / "out.h5")
    assert answer.exit_code == 1
    assert json.loads(answer.stdout)["n_records"] == 1
    assert "H has 1 matrices, which does not fit labels" in answer.stderr


def test_a_spinful_label_goes_out_and_comes_back(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    command = write_new(folder)
    assert run(command, folder, tmp_path / "a.h5").exit_code == 0
    sent = ["data", "export", str(tmp_path / "a.h5"), "--format", "deeph", "-o"]
    assert CliRunner().invoke(app, [*sent, str(tmp_path / "out")]).exit_code == 0
    assert run(command, tmp_path / "out", tmp_path / "b.h5").exit_code == 0
    one, two = (Store.open(tmp_path / name)[0] for name in ("a.h5", "b.h5"))
    assert one.structure.numbers.tolist() == NUMBERS
    np.testing.assert_allclose(one.hamiltonian, two.hamiltonian, atol=1e-13)
    sent = ["data", "export", str(tmp_path / "a.h5"), "--format", "deeptb", "-o"]
    refused = CliRunner().invoke(app, [*sent, str(tmp_path / "tb")])
    assert refused.exit_code == 1
    assert "4 matrices" in refused.stderr


def test_a_model_learns_spinful_crystals(tmp_path, monkeypatch):
    """From 14 chains, of two others; pairs that a label lacks are zero."""
    rng = np.random.default_rng(4)
    level = LevelOfTheory(xc="pbe", basis="numerical", relativity="spin-orbit", program="openmx")
    records = []
    for n in range(20):
        noise = 0.05 * rng.normal(size=(3, 3))
        monkeypatch.setattr(test_import_crystals, "POSITIONS", POSITIONS + noise)
        structure = Structure(np.array(NUMBERS), POSITIONS + noise, CELL, np.ones(3))
        shells = {z: tuple(ls) for z, ls in SHELLS.items()}
        s = blocks("int1e_ovlp", "wiki", REACH)
        records.append(
            to_record(BlockFrame(structure, four("wiki"), s, shells, str(n)), level, "hamnet")
        )
    with Writer(tmp_path / "chains.h5", level) as writer:
        for k, (record, basis) in enumerate(records[:18]):
            writer.append(record, basis, subset="train" if k < 16 else "validation")
        writer.finish()
    settings = ["model.pair_cutoff=4.5", "model.message_cutoff=4", "training.max_steps=0"]
    config = load_config(overrides=[*SMALL, *settings])
    trained = train(tmp_path / "chains.h5", tmp_path / "run", config, report=lambda _: None)
    model = load_model(trained.model_file)
    assert model.network.l_max == 5  # two d shells and the spin
    mean = np.mean([record.hamiltonian for record, _ in records[:16]], axis=0)
    for record, _ in records[18:]:
        (found,) = model.predict_labelled([record])
        assert found.hamiltonian.is_spinor
        near = np.abs(record.hamiltonian).max(axis=0) > 1e-2
        error = np.abs(found.hamiltonian.entries - record.hamiltonian)[1:, near].mean()
        baseline = np.abs(mean - record.hamiltonian)[1:, near].mean()
        assert error < 0.15 * baseline
