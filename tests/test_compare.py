"""Comparisons: on the same frames only, and intervals that cover what they should."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from hamnet.errors import HamnetError
from hamnet.evaluation import evaluate
from hamnet.evaluation.bootstrap import mean_interval, resampled
from hamnet.evaluation.compare import compare
from hamnet.evaluation.compare_report import write_comparison
from hamnet_cli.app import app
from tests.page import Page
from tests.synthetic import SMALL


@pytest.fixture(scope="module")
def noisy(many_waters, water_basis, predict_from):
    """Evaluations of noise of a given size on the same frames."""

    def make(scale, seed, *, records=many_waters, fail=None):
        rng = np.random.default_rng(seed)
        pairs = []
        for n, record in enumerate(records):
            noise = scale * rng.standard_normal(record.hamiltonian.shape)
            outcome = predict_from(record, water_basis, record.hamiltonian + noise)
            pairs.append((HamnetError("refused") if n == fail else outcome, record))
        return evaluate(pairs, water_basis)

    return make


def test_differences_are_paired_and_decided(noisy, tmp_path):
    runs = {"a": noisy(1e-4, 1), "b": noisy(1e-5, 2), "c": noisy(1e-4, 3)}
    found = compare(runs)
    by_run = {(d.run, d.metric): d for d in found.differences}
    b, c = by_run["b", "h_mae_uha"], by_run["c", "h_mae_uha"]
    assert (b.verdict, b.share_better) == ("better", 1.0)
    assert b.low < b.difference < b.high < 0
    assert b.difference == pytest.approx(
        runs["b"].metrics["h_mae_uha"] - runs["a"].metrics["h_mae_uha"], rel=1e-12
    )
    assert c.high - c.low < 0.2 * c.baseline  # noise of one size: nearly the same mean
    assert by_run["b", "psi_cosine"].verdict == "better"  # where higher is better
    back = compare({"b": runs["b"], "a": runs["a"]})
    assert back.differences[0].verdict == "worse"
    summary = write_comparison(found, tmp_path, {"data": "water.h5"})
    assert json.loads((tmp_path / "compare.json").read_text()) == summary
    page = Page((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert "undecided" in " ".join(page.texts) or "better" in " ".join(page.texts)
    assert page.tags.count("svg") == len(list((tmp_path / "figures").glob("*.svg"))) == 4
    with (tmp_path / "per_frame.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.frames)
    mean = np.mean([float(row["h_mae_uha:b"]) for row in rows])
    assert mean == pytest.approx(b.mean, rel=1e-6)


def test_a_frame_that_one_run_cannot_predict_is_left_out(noisy):
    found = compare({"a": noisy(1e-4, 1), "b": noisy(1e-5, 2, fail=3)})
    assert len(found.frames) == 15
    assert list(found.left_out.values()) == ["b: refused"]


def test_other_frames_and_single_runs_are_refused(noisy, many_waters):
    one, other = noisy(1e-4, 1), noisy(1e-4, 1, records=many_waters[:4])
    with pytest.raises(HamnetError, match="'a' and 'b' were not evaluated on the same frames"):
        compare({"a": one, "b": other})
    with pytest.raises(HamnetError, match="at least two runs"):
        compare({"a": one})
    failed = replace(one.frames[0], error="refused", metrics={})
    none = replace(one, frames=(failed,))
    with pytest.raises(HamnetError, match="no frame that all"):
        compare({"a": none, "b": none})


def test_intervals_cover_the_true_mean():
    """Of 95 % intervals, about 95 % hold the mean of the distribution."""
    rng = np.random.default_rng(5)
    values = rng.exponential(size=(60, 300))  # 300 experiments with 60 frames each
    mean, low, high = mean_interval(values)
    assert np.allclose(mean, values.mean(axis=0))
    assert 0.89 < np.mean((low < 1.0) & (high > 1.0)) < 0.98


def test_frames_of_a_trajectory_are_drawn_together():
    """Ten copies of every frame bring no knowledge: the interval stays as wide."""
    rng = np.random.default_rng(6)
    values = rng.normal(size=40)
    copies, groups = np.repeat(values, 10), [f"t{k // 10}" for k in range(400)]
    assert (resampled(groups), resampled([""] * 400)) == ("group", "frame")

    def width(interval):
        return interval[2] - interval[1]

    alone = width(mean_interval(values))
    assert width(mean_interval(copies, groups)) == pytest.approx(alone, rel=0.15)
    assert width(mean_interval(copies)) < 0.5 * alone


def test_missing_numbers_are_left_out():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    mean, low, high = mean_interval(values)
    assert (mean[0], np.isnan(mean[1])) == (2.0, True)
    assert 1.0 <= low[0] <= high[0] <= 3.0
    assert np.isnan(low[1])


def hamnet(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def train(store, out, *settings):
    small = [f"--set={s}" for s in (*SMALL, *settings)]
    answer = hamnet("train", store, "-o", out, "--quiet", "--instant", *small)
    assert answer.exit_code == 0
    return out


def test_command(store, tmp_path):
    plain = train(store, tmp_path / "plain")
    minao = train(store, tmp_path / "minao", "target.reference=minao")
    other = train(store, tmp_path / "other", "data.split_seed=5")
    out = tmp_path / "compare"
    answer = hamnet("compare", plain, minao, store, "-o", out, "--json", "--quiet")
    assert answer.exit_code == 0
    summary = json.loads(answer.stdout)
    assert summary["runs"] == ["plain", "minao"]
    assert summary["differences"][0]["verdict"] == "better"
    assert (out / "compare.html").stat().st_size > 10_000
    table = hamnet("compare", plain, minao, store, "-o", out)
    assert "h_mae_uha" in table.stdout
    for arguments, message in (
        ((plain, other), "different test frames"),
        ((plain,), "at least two runs"),
        ((plain, plain), "compared with itself"),
    ):
        answer = hamnet("compare", *arguments, store, "-o", out)
        assert answer.exit_code == 1
        assert message in answer.stderr
