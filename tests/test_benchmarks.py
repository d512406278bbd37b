"""Benchmarks start, their tools keep what they say, and what they time is what they claim."""

import json
import runpy
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from hamnet.blocks import molecule_layout
from hamnet.data.samples import make_sample
from hamnet.structure import Structure, half_list
from hamnet.testing import random_model, random_rotation, wigner_d

FOLDER = Path(__file__).parents[1] / "benchmarks"
BENCHMARKS = [p for p in sorted(FOLDER.glob("*.py")) if "__main__" in p.read_text("utf-8")]
NEEDS = {"reading": "lmdb"}


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    """Run as a script in the folder would."""
    monkeypatch.syspath_prepend(str(FOLDER))


def start(monkeypatch, path, *arguments):
    monkeypatch.setattr(sys, "argv", [path.name, *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(path), run_name="__main__")
    assert stopped.value.code == 0


def test_there_are_benchmarks():
    assert {"so2", "model", "prediction", "scaling"} <= {p.stem for p in BENCHMARKS}


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda p: p.stem)
def test_options(path, monkeypatch, capsys):
    if path.stem in NEEDS:
        pytest.importorskip(NEEDS[path.stem])
    start(monkeypatch, path, "--quick", "--append", "--json", "rows.json", "--help")
    assert "--table" in capsys.readouterr().out


TABLES = [p.stem for p in BENCHMARKS if (FOLDER / "results" / f"{p.stem}.json").exists()]


@pytest.mark.parametrize("name", TABLES)
def test_table_of_the_results(name, monkeypatch, capsys):
    results = FOLDER / "results" / f"{name}.json"
    start(monkeypatch, FOLDER / f"{name}.py", "--table", results)
    lines = capsys.readouterr().out.splitlines()
    tables = [list(group) for row, group in groupby(lines, lambda x: x.startswith("|")) if row]
    assert tables
    for header, rule, *rows in tables:
        assert set(rule) <= set("| -")
        assert rows
        assert {line.count("|") for line in (rule, *rows)} == {header.count("|")}


def test_rows_of_a_second_run_replace_those_with_the_same_key(tmp_path):
    common = runpy.run_path(str(FOLDER / "common.py"))
    options = common["parser"]("").parse_args(["--append", "--json", str(tmp_path / "rows.json")])
    common["finish"]([{"a": 1, "ms": 1.0}, {"a": 2, "ms": 2.0}], options, ("a",))
    common["finish"]([{"a": 2, "ms": 3.0}, {"a": 3, "ms": 4.0}], options, ("a",), len, threads=1)
    data = json.loads(options.json.read_text(encoding="utf-8"))
    assert [(r["a"], r["ms"]) for r in data["rows"]] == [(1, 1.0), (2, 3.0), (3, 4.0)]
    assert [r.get("run") for r in data["rows"]] == [None, 1, 1]
    assert data["fits"] == 3
    assert data["appended"][0]["settings"] == {"threads": 1}
    assert data["environment"]["versions"]["torch"] == torch.__version__


def test_exponent_of_a_power():
    sizes = [2.0, 3.0, 7.0, 11.0]
    exponent = runpy.run_path(str(FOLDER / "common.py"))["exponent"]
    assert exponent(sizes, [5 * x**2.5 for x in sizes]) == 2.5


def test_stages_share_the_whole_call_and_backward_belongs_to_forward():
    stages = runpy.run_path(str(FOLDER / "stages.py"))
    model = random_model("sto-3g", [1, 8], l_max=2).train()
    water = Structure(np.array([8, 1, 1]), np.array([[0, 0, 0.1], [0, 0.8, -0.5], [0, -0.8, -0.5]]))
    layout = molecule_layout(model.basis.atom_offsets(water.numbers))
    sample = make_sample(water, layout, model.basis, model.cutoffs)
    with stages["_marked"]():
        model(sample)  # a first call is slower
    shares = stages["stage_shares"](lambda: model(sample).square().sum().backward())
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-2)
    assert {"convolution", "tracegrad", "readout", "assembly", "rotation"} <= set(shares)
    forward = stages["stage_shares"](lambda: model(sample))
    assert sum(forward.values()) == pytest.approx(1.0, abs=1e-2)
    assert not any(name.startswith("stage") for name in shares)
    # the backward pass, more than half of the work, is not left in 'other'
    assert shares["other"] < 0.5


@pytest.mark.parametrize("improper", [False, True])
def test_the_timed_convolution_is_equivariant(improper):
    l_max, channels, n_edges = 2, 8, 6
    torch.manual_seed(0)
    layer = runpy.run_path(str(FOLDER / "convolutions.py"))["Hamnet"](l_max, channels).double()
    rotation = random_rotation(np.random.default_rng(0), improper=improper)
    d = torch.tensor(scipy.linalg.block_diag(*(wigner_d(l, rotation) for l in range(l_max + 1))))
    parity = torch.ones(channels, dtype=torch.float64)
    parity[channels - channels // 4 :] = -1.0 if improper else 1.0  # pseudo channels
    x = torch.randn(4, (l_max + 1) ** 2, channels, dtype=torch.float64)
    half = torch.nn.functional.normalize(torch.randn(n_edges // 2, 3, dtype=torch.float64), dim=1)
    pairs = torch.tensor([[0, 1, 2], [1, 2, 3]])
    vectors, ends = torch.cat([half, -half]), torch.cat([pairs, pairs.flip(0)], dim=1)
    embedding = torch.randn(n_edges, 16, dtype=torch.float64)
    expected = (d @ layer(x, vectors, ends, embedding)) * parity
    turned = vectors @ torch.from_numpy(rotation).T
    found = layer((d @ x) * parity, turned, ends, embedding)
    assert expected.abs().max() > 0.1
    assert torch.allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("cell", [(1, 2), (4, 5)], ids=str)
def test_a_twisted_bilayer_is_two_sheets_of_graphene(cell):
    structure = runpy.run_path(str(FOLDER / "twisted.py"))["twisted_bilayer"](*cell)
    i, j, shift = half_list(structure, 1.6)
    bonds = structure.positions[j] + shift @ structure.cell - structure.positions[i]
    assert np.bincount(np.concatenate([i, j])).tolist() == [3] * len(structure)
    assert np.abs(np.linalg.norm(bonds, axis=1) - 2.46 / np.sqrt(3)).max() < 1e-9
