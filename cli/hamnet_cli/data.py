"""``hamnet data``: look into datasets, import other people's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hamnet.errors import HamnetError
from hamnet_cli.common import Json, Quiet, complain, print_json, print_table
from hamnet_cli.label import print_report, reporting

data = typer.Typer(no_args_is_help=True, help="Look into datasets, import other people's.")
importers = typer.Typer(no_args_is_help=True, help="Convert other formats into a dataset.")
data.add_typer(importers, name="import")


@data.command()
def info(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    json: Json = False,
) -> None:
    """Show level of theory, molecules, energies, failures and provenance.

    Example: hamnet data info water.h5
    """
    from hamnet.data.store import Store
    from hamnet.data.summary import summarise

    with Store.open(file) as store:
        summary = summarise(store)
    if json:
        print_json(summary)
    else:
        _print_summary(summary)


def _print_summary(summary: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    level, card = summary["level"], summary["card"]
    table = Table(show_header=False, title=escape(summary["path"]), title_justify="left")
    rows = {
        "records": f"{summary['records']} ({summary['bytes'] / 1e6:.1f} MB)",
        "level of theory": f"{level['xc']}/{level['basis']}, grid {level['grid_level']}, "
        f"PySCF {level['pyscf_version'] or 'unknown'}",
        "functional": ", ".join(f"libxc {i} x {w:g}" for i, w in level["xc_components"]),
        "elements": " ".join(summary["elements"]),
        "molecules": _molecules(summary["formulas"]),
        "atoms a record": _span(summary["atoms_per_record"], "g"),
        "groups": str(summary["groups"]) if summary["groups"] else "none: independent frames",
        "open shells": str(summary["open_shell_records"]),
        "references": ", ".join(summary["references"]) or "none",
        "split": ", ".join(f"{name} {n}" for name, n in summary["split"].items()) or "none stored",
        "total energy (Hartree)": _span(summary["energy_hartree"], ".6f"),
        "HOMO (eV)": _span(summary["homo_ev"], ".3f"),
        "LUMO (eV)": _span(summary["lumo_ev"], ".3f"),
        "gap (eV)": _span(summary["gap_ev"], ".3f"),
        "seconds a label": _span(summary["seconds_per_label"], ".2f"),
        "failures": str(len(summary["failures"])),
        **{key: str(value) for key, value in card.items() if isinstance(value, str)},
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    print_table(table)
    if summary["failures"]:
        failures = Table(title="Frames without a label", title_justify="left")
        for name in ("origin", "stage", "reason"):
            failures.add_column(name)
        for failure in summary["failures"]:
            failures.add_row(*(escape(failure[key]) for key in ("origin", "stage", "reason")))
        print_table(failures)


def _molecules(formulas: Mapping[str, int], shown: int = 8) -> str:
    parts = [f"{name} x {n}" for name, n in list(formulas.items())[:shown]]
    more = len(formulas) - shown
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _span(values: Mapping[str, float] | None, digits: str) -> str:
    if values is None:
        return "unknown"
    low, mean, high = (format(values[key], digits) for key in ("min", "mean", "max"))
    return low if low == high else f"{low} to {high}, mean {mean}"


@importers.command()
def npz(
    file: Annotated[Path, typer.Argument(help="File with Z, R (Angstrom), H (Hartree), S.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Dataset to write.")],
    xc: Annotated[str, typer.Option(help="Functional, if the file does not say it.")] = "",
    basis: Annotated[str, typer.Option(help="Basis set, if the file does not say it.")] = "",
    grid: Annotated[int, typer.Option(min=0, max=9, help="PySCF's grid level.")] = 3,
    order: Annotated[str, typer.Option(help="Orbital order of the file.")] = "pyscf",
    split: Annotated[
        str | None, typer.Option(help="Numbers of train, validation and test frames: 200,50,50.")
    ] = None,
    reference: Annotated[
        str, typer.Option(help="Reference Hamiltonians to compute: minao, sap, none.")
    ] = "minao,sap",
    citation: Annotated[str, typer.Option(help="Whom to cite.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the data.")] = "",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Worker processes; default: one a processor.")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Import plain NumPy arrays; order, unit and functional are proven, not believed.

    S is computed again for every frame, and for the first one the Fock matrix of H's own density.

    Example: hamnet data import npz water.npz -o water.h5 --split 200,50,50
    """
    from hamnet_datasets.engine import default_workers
    from hamnet_datasets.jobs import interrupted_message
    from hamnet_datasets.npz import import_npz

    with reporting("import", quiet) as on_progress:
        try:
            report = import_npz(
                file,
                out,
                xc=xc,
                basis=basis,
                grid_level=grid,
                order=order,
                split=None if split is None else _whole_numbers(split),
                references=tuple(name.strip() for name in reference.split(",")),
                card={"citation": citation, "licence": licence},
                n_workers=default_workers() if workers is None else workers,
                on_progress=on_progress,
            )
        except KeyboardInterrupt:
            complain(interrupted_message(out))
            raise typer.Exit(130) from None
    print_report(report, json)


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise HamnetError(
            f"--split must be whole numbers such as 200,50,50, got '{text}'"
        ) from None
