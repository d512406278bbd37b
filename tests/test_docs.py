"""The documentation is true: its tutorial runs, its pages know every command and option."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from hamnet_cli.app import app

ROOT = Path(__file__).parents[1]
SMALLER = {"--limit 100": "--limit 20", "--max-minutes 2": "--max-minutes 0.05"}
"""The tutorial with small numbers, so that its test is quick."""


def blocks(page, language):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def run(script, folder):
    """Run a shell script as a user would, the environment active."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    answer = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer


def test_demo(tmp_path):
    answer = run("hamnet demo --frames 20 --seconds 2", tmp_path)
    for expected in ("HOMO", "LUMO", "occupied 1", "PySCF (eV)", "error (meV)"):
        assert expected in answer.stdout
    assert re.search(r"held-out frames: H MAE \d+\.\d µHa, occupied", answer.stdout)
    assert "Warning" not in answer.stderr
    for name in ("report.html", "metrics.json", "run/model.safetensors"):
        assert (tmp_path / "demo" / name).is_file()
    assert list((tmp_path / "demo" / "predicted").glob("*.molden"))


def test_tutorial(tmp_path):
    commands = "\n".join([*blocks("start.md", "bash"), *blocks("report.md", "bash")])
    for long, short in SMALLER.items():
        assert long in commands
        commands = commands.replace(long, short)
    pages = ("start.md", "report.md", "extend.md")
    python = "\n".join(block for page in pages for block in blocks(page, "python"))
    (tmp_path / "use.py").write_text(python, encoding="utf-8")
    answer = run(f"{commands}\npython use.py", tmp_path)
    assert re.search(r"HOMO -\d+\.\d+ eV, gap \d+\.\d+ eV", answer.stdout)
    for name in (
        "runs/water/evaluate-test/report.html",
        "compare/compare.html",
        "out/frame_000000.molden",
        "report/report.html",
    ):
        assert (tmp_path / name).is_file()


def test_start_an_scf(tmp_path):
    commands = "\n".join(blocks("scf.md", "bash"))
    assert "--limit 40" in commands
    commands = commands.replace("--limit 40", "--limit 20")
    (tmp_path / "use.py").write_text("\n".join(blocks("scf.md", "python")), encoding="utf-8")
    answer = run(f"{commands}\npython use.py", tmp_path)
    assert re.search(r"\d\.\d cycles a frame instead of \d", answer.stdout)
    assert re.search(r"converged: True, \d cycles, guess of the model: True", answer.stdout)
    assert (tmp_path / "scf" / "frame_000000.molden").is_file()


def test_label_your_own_molecules(tmp_path):
    pytest.importorskip("rdkit")
    commands = "\n".join(blocks("label.md", "bash"))
    for long, short in {"molecule = 12": "molecule = 4", "recompute 2": "recompute 1"}.items():
        assert long in commands
        commands = commands.replace(long, short)
    answer = run(commands, tmp_path)
    assert "molecules.h5: 3 records" in answer.stdout  # one conformer of each
    assert "methanol.h5: 4 records, 0 findings" in answer.stdout
    assert "again.h5: 4 records" in answer.stdout


def test_label_what_teaches_most(tmp_path):
    """Both Python parts in the order of the page: the pool before it is used, the table last."""
    first, last = blocks("active.md", "python")
    (tmp_path / "pool.py").write_text(first, encoding="utf-8")
    (tmp_path / "compare.py").write_text(last, encoding="utf-8")
    commands = blocks("active.md", "bash")
    script = "\n".join([commands[0], "python pool.py", *commands[1:], "python compare.py"])
    assert "--limit 20" in script
    script = script.replace("--limit 20", "--limit 14")  # fewer do not calibrate an uncertainty
    answer = run(script, tmp_path)
    assert "# A hamnet model of" in answer.stdout
    found = re.findall(r"mean uncertainty of the gap (\d+\.\d+) meV", answer.stdout)
    before, after = map(float, found)
    assert after < before


def options():
    """Yield every command with each of its options."""
    group = typer.main.get_command(app)
    todo = [("hamnet", group)]
    while todo:
        name, command = todo.pop()
        todo += [(f"{name} {sub}", c) for sub, c in getattr(command, "commands", {}).items()]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield name, max(parameter.opts, key=len)


@pytest.mark.parametrize(("command", "option"), list(options()))
def test_every_option_is_documented(command, option):
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    sections = re.split(r"^#+ `?", page, flags=re.MULTILINE)
    texts = [s for s in sections if s.startswith(f"{command}`")]
    if command == "hamnet":
        texts = sections[1:2]
    assert len(texts) == 1, f"docs/commands.md has no section on '{command}': run make docs"
    assert option in texts[0], f"'{option}' is missing: run make docs"


def test_links_between_pages_exist():
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
