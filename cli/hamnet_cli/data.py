"""``hamnet data``: look into datasets, check, merge, split and export them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hamnet.errors import HamnetError
from hamnet_cli.common import Json, Quiet, complain, print_json, print_table, progress
from hamnet_cli.importers import importers

data = typer.Typer(
    no_args_is_help=True,
    help="Look into datasets, check, merge, split, import, export them.\n\n"
    "Example: hamnet data info water.h5",
)
data.add_typer(importers, name="import")


@data.command()
def info(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    _quiet: Quiet = False,
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
        f"{level['program']} {level['pyscf_version']}".rstrip(),
        "relativity": level["relativity"],
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
        "SCF": ", ".join(f"{name} {n}" for name, n in summary["scf_rungs"].items()),
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
    low, middle, mean, high = (format(values[k], digits) for k in ("min", "median", "mean", "max"))
    return low if low == high else f"{low} to {high}, mean {mean}, median {middle}"


@data.command()
def check(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    recompute: Annotated[
        int, typer.Option(min=0, help="Label so many records again and compare H.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the choice of those records.")] = 0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Check checksums, numbers, overlaps, electrons, energies, splits; exit code 1 on any finding.

    --recompute finds a wrong functional, orbital order, unit or sign.

    Example: hamnet data check water.h5 --recompute 3
    """
    from hamnet.data.store import Store
    from hamnet_datasets.check import check_store

    with Store.open(file) as store:
        total = len(store)
    with progress("check", total, quiet) as advance:
        report = check_store(file, recompute=recompute, seed=seed, on_progress=advance)
    again = report.recomputed_uha
    worst = max(again, default=float("nan"))
    if json:
        print_json(
            {
                "path": str(file),
                "n_records": report.n_records,
                "min_overlap_eigenvalue": report.min_overlap_eigenvalue,
                "recomputed_h_mae_uha": again,
                "findings": [{"where": f.where, "what": f.what} for f in report.findings],
            }
        )
    else:
        for finding in report.findings:
            complain(f"{finding.where}: {finding.what}")
        compared = f"; {len(again)} recomputed, H MAE at most {worst:.3f} µHa" if again else ""
        typer.echo(
            f"{file}: {report.n_records} records, {len(report.findings)} findings; smallest "
            f"overlap eigenvalue {report.min_overlap_eigenvalue:.2e}{compared}"
        )
    if report.findings:
        raise typer.Exit(1)


@data.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Datasets of one level of theory.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New dataset.")],
    _quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write the records of several datasets into one, each once.

    Example: hamnet data merge water.1.h5 water.2.h5 -o water.h5
    """
    from hamnet.data.select import merge as merge_files

    merged = merge_files(files, out)
    _report(
        {"path": str(out), "n_records": merged.n_records, "n_repeated": merged.n_repeated},
        f"{out}: {merged.n_records} records of {len(files)} files "
        f"({merged.n_repeated} repeated ones left out)",
        json,
    )


@data.command()
def split(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    by: Annotated[
        str, typer.Option(help="group, random, size, molecule, geometry; see the documentation.")
    ] = "group",
    fractions: Annotated[str, typer.Option(help="Training, validation, test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Of the shuffle; QH9's own is 43.")] = 43,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New dataset; default: in place.")
    ] = None,
    _quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Store a split into training, validation and test set.

    group keeps trajectories and molecules whole. QH9's splits, seed 43: random and size (up to 20,
    21 and 22, from 23 atoms) for Stable, molecule and geometry for Dynamic.

    Example: hamnet data split qh9.h5 --by size -o qh9-ood.h5
    """
    from hamnet.data.select import with_split
    from hamnet.data.splits import SPLITS
    from hamnet.data.store import Store
    from hamnet.registry import look_up

    divide = look_up("split", by, SPLITS)
    try:
        shares = [float(part) for part in fractions.split(",")]
    except ValueError:
        raise HamnetError(f"--fractions must be three numbers, got '{fractions}'") from None
    with Store.open(file) as store:
        parts = divide(store, shares, seed)
    with_split(file, out or file, parts, {"by": by, "seed": seed, "fractions": shares})
    sizes = {name: len(members) for name, members in parts.items()}
    text = f"{out or file}: {', '.join(f'{name} {n}' for name, n in sizes.items())}"
    _report({"path": str(out or file), "split": sizes}, text, json)


@data.command()
def export(
    file: Annotated[Path, typer.Argument(help="A dataset.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New file or folder.")],
    to: Annotated[str, typer.Option("--format", "--to", help="npz, qh9, deeph or deeptb.")],
    subset: Annotated[str, typer.Option(help="all, train, validation or test.")] = "all",
    _quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a dataset in another format: npz, QH9 SQLite, DeepH's new layout, DeePTB.

    Example: hamnet data export water.h5 --format deeph -o dft
    """
    from hamnet_datasets.export import export as write

    written = write(file, out, to, subset)
    _report(
        {"path": str(out), "n_written": written.n_written, "n_records": written.n_records},
        f"{out}: {written.n_written} of {written.n_records} records",
        json,
    )


def _report(found: Mapping[str, Any], text: str, json: bool) -> None:
    """Print what a command has done, for machines or for people."""
    if json:
        print_json(found)
    else:
        typer.echo(text)
