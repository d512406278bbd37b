"""The command line answers at once: help imports no heavy library."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

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
        """Of a processor: what else is running must not count."""
        start = os.times()
        run("--help")
        end = os.times()
        return end.children_user + end.children_system - start.children_user - start.children_system

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


def commands():
    """Yield every command and group with its full name."""
    todo = [("hamnet", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop()
        yield name, command
        todo += [(f"{name} {sub}", c) for sub, c in getattr(command, "commands", {}).items()]


COMMANDS = dict(commands())
WORKING = [name for name, command in COMMANDS.items() if not hasattr(command, "commands")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_parses(name):
    found = re.search(r"Example: (hamnet[^\n>]*)", COMMANDS[name].help)
    assert found, f"the help of '{name}' has no example"
    words = shlex.split(found[1])
    assert found[1].startswith(name)
    command = COMMANDS["hamnet"]
    while hasattr(command, "commands"):
        words = words[1:]
        command = command.commands[words[0]]
    command.make_context(words[0], words[1:])  # a usage error if an option does not exist


@pytest.mark.parametrize("name", WORKING)
def test_every_command_can_be_quiet_and_speak_json(name):
    options = {text for parameter in COMMANDS[name].params for text in parameter.opts}
    assert {"--quiet", "-q", "--json"} <= options


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shell_completion_completes_commands_and_options(shell):
    """What the shell runs when the user presses Tab; `hamnet --install-completion` sets it up."""

    def complete(line):
        environment = {
            "_HAMNET_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
            "_TYPER_COMPLETE_ARGS": line,
        }
        return CliRunner().invoke(app, env=environment, prog_name="hamnet").stdout

    assert {"demo", "doctor"} <= set(re.findall(r"\w+", complete("hamnet d")))
    assert "--compare" in complete("hamnet scf --comp")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell):
    """What `hamnet --show-completion` prints in that shell."""
    environment = {"_HAMNET_COMPLETE": f"source_{shell}"}
    answer = CliRunner().invoke(app, env=environment, prog_name="hamnet")
    assert answer.exit_code == 0, answer.output
    assert f"complete_{shell}" in answer.stdout
