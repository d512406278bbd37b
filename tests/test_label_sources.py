"""What becomes a label: the SCF ladder, SMILES, shards, frames that repeat each other."""

import json
import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from hamnet.blocks import to_dense
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.integrals import to_mole
from hamnet.interop.ase import read_structures
from hamnet.spectrum import solve
from hamnet.structure import Structure
from hamnet_cli.app import app
from hamnet_datasets.distinct import distinct, rmsd
from hamnet_datasets.labels import LabelError, Skipped, Task, label, resolve
from hamnet_datasets.scf import LADDER, ScfError, converge
from hamnet_datasets.smiles import embed

QUICK = LevelOfTheory(xc="lda,vwn", basis="sto-3g", grid_level=0)
WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])


def hamnet(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def waters(path, n):
    rng = np.random.default_rng(5)
    with path.open("w") as file:
        for _ in range(n):
            file.write("3\n\n")
            for name, p in zip("OHH", WATER + 0.05 * rng.standard_normal((3, 3)), strict=True):
                file.write(f"{name} {p[0]:.8f} {p[1]:.8f} {p[2]:.8f}\n")
    return path


# ---- the ladder


def test_every_rung_leads_to_the_same_label():
    mole = to_mole(Structure([8, 1, 1], WATER), "def2-svp")
    level = LevelOfTheory(xc="pbe", basis="def2-svp", grid_level=1)
    results = [converge(mole, level, (name,)) for name in LADDER]
    assert [r.rung for r in results] == [1, 2, 3]
    for other in results[1:]:
        np.testing.assert_allclose(other.fock, results[0].fock, atol=1e-6)
        assert other.energy == pytest.approx(results[0].energy, abs=1e-9)
        np.testing.assert_array_equal(other.occupations, results[0].occupations)


def test_the_ladder_is_climbed_as_far_as_needed_and_the_rung_is_stored(tmp_path):
    path = waters(tmp_path / "w.xyz", 1)
    rungs = set()
    for cycles in (3, 5, 7, 100):
        level = LevelOfTheory(xc="pbe", basis="def2-svp", grid_level=0, max_cycle=cycles)
        (structure,) = (s for _, s in read_structures(path))
        try:
            rungs.add(label(structure, level, references=()).scf_rung)
        except LabelError as error:
            rungs.add(0 if (error.stage, "not converged" in error.reason) == ("scf", True) else -1)
    assert rungs >= {0, 1, 3}
    out = tmp_path / "w.h5"
    run = hamnet("label", path, "--xc", "lda,vwn", "--basis", "sto-3g", "--workers", 0, "-o", out)
    assert run.exit_code == 0
    assert Store.open(out)[0].scf_rung == 1
    assert json.loads(hamnet("data", "info", out, "--json").stdout)["scf_rungs"] == {"plain": 1}


def test_a_density_that_is_no_ground_state_is_not_stored():
    singlet = Structure([8, 8], [[0, 0, 0], [0, 0, 1.2]])
    with pytest.raises(LabelError, match=r"not the ground state of its own Fock matrix|not conv"):
        label(singlet, QUICK)


def test_stability_is_checked_and_is_part_of_the_level():
    h2 = Structure([1, 1], [[0, 0, 0], [0, 0, 0.74]])
    checked = resolve(QUICK.model_copy(update={"stability": True}))
    record = label(h2, checked)
    np.testing.assert_allclose(record.hamiltonian, label(h2, QUICK).hamiltonian, atol=1e-8)
    assert record.id != record_id(h2, resolve(QUICK))
    # stretched, unrestricted and symmetric: a saddle point, from which the way down is found
    far = Structure([1] * 4, [[0, 0, 0], [0, 0, 1.9], [0, 1.9, 0], [0, 1.9, 1.9]], spin=2)
    assert label(far, checked).energy <= label(far, QUICK).energy + 1e-8


def test_two_channels_reach_the_eigensolver(radical_record):
    h = to_dense(radical_record.blocks("hamiltonian"))
    s = to_dense(radical_record.blocks("overlap"))
    assert h.shape[0] == 2
    solved = solve(torch.from_numpy(h), torch.from_numpy(np.broadcast_to(s, h.shape).copy()))
    np.testing.assert_allclose(solved.energies, radical_record.orbital_energies, atol=1e-9)
    for matrix, energies in zip(h, radical_record.orbital_energies, strict=True):
        np.testing.assert_allclose(scipy.linalg.eigvalsh(matrix, s), energies, atol=1e-9)


def test_a_gpu_that_is_not_there_gets_its_pip_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gpu4pyscf", None)
    path = waters(tmp_path / "w.xyz", 1)
    level = ["--xc", "pbe", "--basis", "sto-3g", "--workers", 0]
    run = hamnet("label", path, *level, "--gpu", "-o", tmp_path / "w.h5")
    assert run.exit_code == 1
    assert "pip install 'hamnet[gpu]'" in run.stderr
    gpu = resolve(QUICK.model_copy(update={"program": "gpu4pyscf"}))
    h2 = Structure([1, 1], [[0, 0, 0], [0, 0, 0.74]])
    assert record_id(h2, gpu) == record_id(h2, resolve(QUICK))  # the same label, the same file
    with pytest.raises(HamnetError, match="gpu4pyscf"):
        converge(to_mole(h2, "sto-3g"), gpu)
    with pytest.raises(ScfError):
        converge(to_mole(h2, "sto-3g"), QUICK.model_copy(update={"max_cycle": 1}), ("plain",))


# ---- frames that repeat each other


def test_rmsd_is_of_the_best_rotation_and_knows_mirrors():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(5, 3))
    turned = one @ Rotation.random(rng=rng).as_matrix().T + [1, 2, 3]
    assert rmsd(one, turned) == pytest.approx(0, abs=1e-7)
    assert rmsd(one, one * [1, 1, -1]) > 0.1
    moved = one + 0.01 * rng.normal(size=(5, 3))
    align = Rotation.align_vectors(one - one.mean(0), moved - moved.mean(0))
    assert rmsd(one, moved) == pytest.approx(align[1] / np.sqrt(5), rel=1e-6)


def test_near_duplicates_are_left_out_and_nothing_else():
    rng = np.random.default_rng(1)
    frames = [WATER + 0.03 * rng.normal(size=(3, 3)) for _ in range(80)]
    turned = frames[3] @ Rotation.random(rng=rng).as_matrix().T
    tasks = [Task(Structure([8, 1, 1], p), f"f{k}") for k, p in enumerate([*frames, turned])]
    kept = [t for t in distinct(tasks, 0.02) if isinstance(t, Task)]
    left_out = [t for t in distinct(tasks, 0.02) if isinstance(t, Skipped)]
    assert len(kept) + len(left_out) == len(tasks)
    assert left_out[-1].origin == "f80"
    assert "closer than 0.02 A to f3" in left_out[-1].reason or "f80" not in str(kept)
    positions = [t.structure.positions for t in kept]
    for k, one in enumerate(positions):  # the filter by distances loses none: by brute force
        assert all(rmsd(one, two) >= 0.02 for two in positions[:k])
    for out in left_out:
        mine = tasks[int(out.origin[1:])].structure.positions
        assert any(rmsd(mine, two) < 0.02 for two in positions)


# ---- shards, SMILES


def test_shards_together_are_the_whole(tmp_path):
    path = waters(tmp_path / "w.xyz", 5)
    options = ["--xc", "lda,vwn", "--basis", "sto-3g", "--workers", 0, "--reference", "none"]
    origins = []
    for k in (1, 2):
        out = tmp_path / f"w.{k}.h5"
        assert hamnet("label", path, *options, "--shard", f"{k}/2", "-o", out).exit_code == 0
        origins += Store.open(out).origins
        assert Store.open(out).card["shard"] == f"{k}/2"
    assert sorted(origins) == [f"{path}, frame {k}" for k in range(5)]
    run = hamnet("data", "merge", tmp_path / "w.1.h5", tmp_path / "w.2.h5", "-o", tmp_path / "w.h5")
    assert run.exit_code == 0, run.stderr
    assert len(Store.open(tmp_path / "w.h5")) == 5
    for wrong in ("3/2", "0/2", "1", "a/b"):
        run = hamnet("label", path, *options, "--shard", wrong, "-o", tmp_path / "x.h5")
        assert run.exit_code == 1
        assert "--shard" in run.stderr


def test_smiles_become_molecules_with_charge_and_spin(tmp_path):
    pytest.importorskip("rdkit")
    (ethanol,) = embed("CCO", seed=1)
    assert ethanol.formula == "C2H6O"
    np.testing.assert_array_equal(ethanol.positions, embed("CCO", seed=1)[0].positions)
    assert len(embed("CCO", conformers=3)) == 3
    assert (embed("[NH4+]")[0].charge, embed("[OH]")[0].spin) == (1, 1)
    path = tmp_path / "m.smi"
    path.write_text("# molecules\nO water\nnonsense(\n[OH-] hydroxide\n")
    out = tmp_path / "m.h5"
    run = hamnet("label", path, "--xc", "lda,vwn", "--basis", "sto-3g", "--workers", 0, "-o", out)
    assert run.exit_code == 1
    assert "m.smi, line 3: 'nonsense(' is no SMILES" in run.stderr
    store = Store.open(out)
    assert store.groups == ["water", "hydroxide"]
    assert store[1].structure.charge == -1


def test_missing_rdkit_gets_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(HamnetError, match=r"pip install 'hamnet\[smiles\]'"):
        embed("O")
