"""The command line answers at once: help imports no heavy library."""

import os
import subprocess
import sys
import time

import pytest

from hamnet_cli.app import app

HEAVY = ("torch", "pyscf", "numpy", "scipy", "ase", "h5py", "matplotlib", "lightning")

SHOW_HELP = """
import sys
from hamnet_cli.app import app
sys.argv = ["hamnet", *sys.argv[1:]]
try:
    app()
finally:
    print("MODULES", *sorted(name.partition(".")[0] for name in sys.modules), file=sys.stderr)
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", SHOW_HELP, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    )


def command_names():
    named = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands]
    return sorted(named + [group.name for group in app.registered_groups])


@pytest.mark.parametrize("arguments", [(), *((name,) for name in command_names())])
def test_help_imports_nothing_heavy(arguments):
    answer = run(*arguments, "--help")
    assert answer.returncode == 0, answer.stderr
    assert "Usage: hamnet" in answer.stdout
    loaded = set(answer.stderr.split("MODULES", 1)[1].split())
    assert not loaded & set(HEAVY)


def test_help_answers_within_half_a_second():
    def seconds():
        start = time.perf_counter()
        run("--help")
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.5


def test_every_command_is_listed():
    answer = run("--help")
    for name in command_names():
        assert f" {name} " in answer.stdout


def test_version():
    answer = run("--version")
    assert answer.returncode == 0
    assert answer.stdout.startswith("hamnet 0.")


def test_unknown_command_and_option_are_usage_errors():
    for arguments in (["trian"], ["--no-such-option"]):
        answer = run(*arguments)
        assert answer.returncode == 2
        assert answer.stdout == ""
        assert "Error" in answer.stderr
