"""``hamnet doctor`` tells what is there, and notices when something computes wrongly."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hamnet import basis
from hamnet.doctor import EXTRAS
from hamnet_cli.app import app

ROOT = Path(__file__).parents[1]


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments], catch_exceptions=False)


def test_json_report():
    answer = doctor("--json", "--quiet")
    assert answer.exit_code == 0, answer.stdout
    assert answer.stderr == ""
    found = json.loads(answer.stdout)
    assert {"python", "hamnet", "torch", "pyscf"} <= found["versions"].keys()
    assert found["devices"][0] == "cpu"
    assert found["threads"]["torch"] >= 1
    assert [test["passed"] for test in found["self_tests"]] == [True, True]
    for extra in found["extras"]:
        assert extra["install"] == f"pip install 'hamnet[{extra['extra']}]'"


def test_table():
    answer = doctor()
    assert answer.exit_code == 0
    for text in ("torch", "OMP_NUM_THREADS", "compiler", "extra gpu", "passed"):
        assert text in answer.stdout


def test_a_wrong_orbital_order_is_noticed(monkeypatch):
    monkeypatch.setitem(basis.AO_ORDERS, "pyscf", ({}, False))  # p shells left as x, y, z
    answer = doctor("--json", "--quiet")
    assert answer.exit_code == 1
    assert "self-test failed: orbital order of PySCF" in answer.stderr
    passed = {t["name"]: t["passed"] for t in json.loads(answer.stdout)["self_tests"]}
    assert passed["orbital order of PySCF"] is False


@pytest.mark.parametrize("extra", EXTRAS)
def test_extras_are_those_of_the_package(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert list(EXTRAS) == list(project["optional-dependencies"])
    packages = [re.split(r"[<>=~!]", p)[0] for p in project["optional-dependencies"][extra]]
    assert packages == [EXTRAS[extra][0]]
