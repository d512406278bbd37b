"""Selection takes what teaches, not what is alike."""

import json

import ase.io
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.interop.ase import read_frames
from hamnet.models import load_model
from hamnet.structure import Structure
from hamnet.testing import random_model
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.training.selection import Candidate, _directions, _Greedy, _same, select
from hamnet_cli.app import app
from tests.synthetic import SMALL

WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
SETTINGS = [
    *SMALL,
    "model.radial_hidden=64",  # features that tell stretched molecules from known ones
    "model.node_expansion=0",  # not seen by the posterior, which is tested here
    "model.tracegrad=none",
    "training.max_steps=0",
    "target.reference=minao",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, store):
    out = tmp_path_factory.mktemp("select") / "run"
    train(store, out, load_config(overrides=SETTINGS), report=lambda _: None)
    return out


@pytest.fixture(scope="module")
def known(run, store):
    """The frames on which the model was trained."""
    rows = json.loads((run / "split.json").read_text())["train"]
    with Store.open(store) as opened:
        return [opened.structure(k) for k in rows]


def waters(rng, n, width):
    numbers = np.array([8, 1, 1])
    return [Structure(numbers, WATER + width * rng.standard_normal((3, 3))) for _ in range(n)]


def test_the_gain_is_the_expected_error_that_goes_away(rng):
    """Greedy's formulas against the normal matrices written out."""
    rows = [torch.from_numpy(rng.normal(size=(3, 6))).float() for _ in range(5)]
    greedy = _Greedy([Candidate({"a": z}, 2.0) for z in rows], {"a": 0.7})
    pool = sum(0.7 / 4 * z.double().T @ z.double() for z in rows)
    a = torch.eye(6).double()
    for k in (2, 0):
        before = torch.trace(torch.linalg.solve(a, pool))
        assert greedy.expected_error() == pytest.approx(float(before), rel=1e-10)
        a = a + rows[k].double().T @ rows[k].double()
        after = torch.trace(torch.linalg.solve(a, pool))
        assert greedy.gain(k) == pytest.approx(float(before - after), rel=1e-10)
        greedy.add(k)


def test_the_directions_are_those_in_which_the_pool_varies_most_beyond_the_labels(rng):
    """Kept in full they give the whole predicted error; a new input counts as well."""
    pool = torch.from_numpy(rng.normal(size=(40, 6))).double()
    labelled = torch.from_numpy(rng.normal(size=(9, 6)) * [1, 1, 1, 1, 1, 0]).double()
    known, wanted = labelled.T @ labelled, pool.T @ pool
    v, spread = _directions(known, wanted)
    a = torch.linalg.inv(v @ v.T)
    penalty = a - known
    assert torch.allclose(penalty, torch.diag(penalty.diagonal()), atol=1e-9 * float(known.max()))
    assert (penalty.diagonal() > 0).all()
    assert spread == pytest.approx(float(torch.trace(torch.linalg.solve(a, wanted))), rel=1e-8)
    spreads = ((pool @ v) ** 2).sum(dim=0)
    assert spreads.sum() == pytest.approx(spread, rel=1e-8)
    assert int(spreads.argmax()) == 5
    assert v[5, 5].abs() > 100 * v[:5, 5].abs().max()  # the input that no labelled frame has


def test_the_same_frame_is_not_chosen_twice(run, known, rng):
    """Each frame five times, turned: a choice of three frames has three different ones."""
    model = load_model(run)
    different = waters(rng, 3, 0.3)
    angle = np.pi / 3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]])
    turn = np.vstack([turn, [0, 0, 1.0]])
    pool = [
        Structure(s.numbers, s.positions @ np.linalg.matrix_power(turn, k))
        for s in different
        for k in range(5)
    ]
    found = select(model, known, pool, 3)
    assert {one.index // 5 for one in found.chosen} == {0, 1, 2}


def test_known_frames_are_left_alone(run, known, rng):
    """Of training frames and stretched ones the stretched ones are chosen."""
    model = load_model(run)
    stretched = [Structure(s.numbers, 1.15 * s.positions) for s in known[:4]]
    near = [Structure(s.numbers, s.positions + rng.normal(0, 1e-3, (3, 3))) for s in known]
    found = select(model, known, [*near, *stretched], 3)
    assert all(one.index >= len(known) for one in found.chosen)
    assert found.known == ()
    left = [one.left for one in found.chosen]
    assert sorted(left, reverse=True) == left
    assert 0 < left[-1] < left[0] < 1


def test_labelled_frames_are_never_chosen(run, known, rng):
    """Nor turned, moved or mirrored ones; a charge makes another frame of it."""
    model = load_model(run)
    moved = [Structure(s.numbers, s.positions[:, ::-1] + 1.0) for s in known]
    new = waters(rng, 2, 0.1)
    found = select(model, known, [*known, new[0], *moved, new[1]], 10)
    assert {one.index for one in found.chosen} == {len(known), 2 * len(known) + 1}
    assert len(found.known) == 2 * len(known)
    ion = Structure(known[0].numbers, known[0].positions, charge=2)
    assert _same(known, [ion, known[0]]) == {1}
    helium = Structure(np.array([2]), np.zeros((1, 3)))
    assert _same([*known, helium], [helium, ion]) == {0}


def test_the_uncertainty_is_that_of_the_prediction(run, known, rng):
    model = load_model(run)
    pool = waters(rng, 3, 0.1)
    (first,) = select(model, known, pool, 1).chosen
    expected = model.predict(pool)[first.index].uncertainty["h"]
    assert first.h_std_uha == pytest.approx(1e6 * expected, rel=1e-5)


def test_what_cannot_be_judged(run, known, rng):
    model = load_model(run)
    sulphide = Structure(np.array([16, 1, 1]), WATER)
    found = select(model, known, [sulphide, *waters(rng, 2, 0.1)], 5)
    assert len(found.chosen) == 2
    assert "atom 0 is S" in found.refused[0]
    with pytest.raises(HamnetError, match="no frame to choose from: 1 are refused, the first"):
        select(model, known, [sulphide], 1)
    with pytest.raises(HamnetError, match="all 2 frames have labels already"):
        select(model, known, known[:2], 1)
    with pytest.raises(HamnetError, match="accepts none of the 1 labelled frames"):
        select(model, [sulphide], known, 1)
    with pytest.raises(HamnetError, match="does not know how sure it is"):
        select(random_model("def2-svp", (1, 8)), known, waters(rng, 1, 0.1), 1)


def test_from_the_command_line(run, store, rng, tmp_path):
    """The chosen frames can be labelled as they are: geometry, charge and group are there."""
    pool = [
        ase.Atoms("OHH", s.positions, info={"charge": 0, "group": f"g{k}"})
        for k, s in enumerate(waters(rng, 6, 0.1))
    ]
    ase.io.write(tmp_path / "pool.xyz", [*pool, ase.Atoms("SH2", WATER)], format="extxyz")
    out = tmp_path / "next.xyz"
    command = ["select", str(run), str(tmp_path / "pool.xyz"), "--labelled", str(store)]
    command += ["-n", "2", "-o", str(out)]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 1  # one frame was refused
    assert "frame 6: atom 0 is S" in result.stderr
    summary = json.loads(result.stdout)
    assert [row["rank"] for row in summary["frames"]] == [1, 2]
    frames = list(read_frames(out))
    for frame, row in zip(frames, summary["frames"], strict=True):
        k = int(frame.group[1:])
        assert row["origin"].endswith(f"frame {k}")
        assert np.allclose(frame.structure.positions, pool[k].positions, atol=1e-7)
    assert "squared error left" in CliRunner().invoke(app, [*command, "-q"]).stdout
    few = CliRunner().invoke(app, [*command, "--max-pool", "1", "--json", "-q"])
    assert json.loads(few.stdout)["n_pool"] == 1
    one = CliRunner().invoke(app, [*command, "-n", "1", "--json", "-q"])
    assert json.loads(one.stdout)["n_pool"] == 5  # by default, for one that is chosen
    bad = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "next.cif")])
    assert bad.exit_code == 1
    assert "end it in .xyz" in bad.stderr


def test_the_command_says_how_many_frames_are_labelled_already(run, store, known, rng, tmp_path):
    """One that went through a file of coordinates with eight digits is recognised."""
    pool = [ase.Atoms(s.numbers, s.positions) for s in [known[0], *waters(rng, 2, 0.1), known[1]]]
    ase.io.write(tmp_path / "pool.xyz", pool)
    command = ["select", str(run), str(tmp_path / "pool.xyz"), "--labelled", str(store), "--json"]
    result = CliRunner().invoke(app, [*command, "-n", "4", "-o", str(tmp_path / "next.xyz")])
    assert result.exit_code == 0, result.stderr
    assert "2 of 4 frames are labelled already: left out" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["n_labelled"] == 2
    assert sorted(row["origin"][-7:] for row in summary["frames"]) == ["frame 1", "frame 2"]


def test_a_batch_gives_the_choice_of_single_frames(run, known, rng):
    """In a batch as alone."""
    model = load_model(run)
    pool = waters(rng, 3, 0.1)
    together, alone = select(model, known, pool, 3), select(model, known, pool, 3, batch_size=1)
    assert [c.index for c in together.chosen] == [c.index for c in alone.chosen]
