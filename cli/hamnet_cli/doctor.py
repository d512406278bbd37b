"""``hamnet doctor``: what is installed, and whether it computes correctly."""

from collections.abc import Mapping
from typing import Any

import typer

from hamnet_cli.common import Json, Quiet, complain, note, print_json, print_table


def doctor(quiet: Quiet = False, json: Json = False) -> None:
    """Show versions, devices, threads and extras, and test equivariance and orbital order.

    The exit code is 1 if a self-test fails: then no result of this installation can be trusted.

    Example: hamnet doctor --json > doctor.json
    """
    if not quiet:
        note("looking around, and a self-test of a few seconds")
    from hamnet.doctor import examine

    found = examine()
    if json:
        print_json(found)
    else:
        _print(found)
    failed = [test for test in found["self_tests"] if not test["passed"]]
    for test in failed:
        complain(f"self-test failed: {test['name']}: {test['problem']}")
    if failed:
        raise typer.Exit(1)


def _print(found: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    threads = found["threads"]
    rows = {
        **found["versions"],
        "interpreter": found["executable"],
        "devices": ", ".join(found["devices"]),
        "threads": f"torch {threads['torch']}, PySCF {threads['pyscf']}; "
        f"{threads['processors']} processors, OMP_NUM_THREADS "
        f"{threads['OMP_NUM_THREADS'] or 'not set'}",
        "compiler": found["compiler"] or "none: torch.compile needs g++ or clang++",
    }
    for extra in found["extras"]:
        state = extra["version"] or f"missing: {extra['install']}"
        rows[f"extra {extra['extra']}"] = f"{extra['package']} {state} ({extra['purpose']})"
    for test in found["self_tests"]:
        state = "passed" if test["passed"] else f"FAILED: {test['problem']}"
        rows[test["name"]] = f"{state} ({test['seconds']:.2f} s)"
    table = Table(show_header=False)
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    print_table(table)
