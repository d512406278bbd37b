"""``hamnet scf``: converge a calculation that starts from a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hamnet_cli.common import (
    Charge,
    Files,
    Json,
    Model,
    Quiet,
    Spin,
    complain,
    note,
    print_json,
    print_table,
    progress,
)


def scf(
    model: Model,
    files: Files,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for scf.csv and Molden files.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run it again from PySCF's default guess.")
    ] = False,
    density_fit: Annotated[
        bool, typer.Option("--density-fit", help="Coulomb and exchange by density fitting.")
    ] = False,
    second_order: Annotated[
        bool, typer.Option("--second-order", help="Newton steps instead of DIIS.")
    ] = False,
    conv_tol: Annotated[
        float, typer.Option(min=1e-14, help="Largest change of the energy at the end, Hartree.")
    ] = 1e-9,
    max_cycle: Annotated[int, typer.Option(min=1, help="Cycles before giving up.")] = 50,
    charge: Charge = None,
    spin: Spin = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Converge PySCF calculations that start from a model's Hamiltonian.

    Functional, basis and grid are the model's. A guess that is worse than PySCF's own is not used,
    and the row says so. A bad frame is reported and does not stop the others; the exit code is 1 if
    any frame failed or did not converge.

    Example: hamnet scf runs/water new.xyz --compare
    """
    from hamnet.inference.run import frames_of
    from hamnet.inference.scf import TABLE, ScfSettings, save_rows, scf_row
    from hamnet.models import load_model

    loaded = load_model(model)
    settings = ScfSettings(density_fit, second_order, conv_tol, max_cycle)
    rows: list[dict[str, Any]] = []
    try:
        with progress("scf", None, quiet) as advance:
            for number, frame in enumerate(frames_of(files, charge=charge, spin=spin)):
                molden = None if out is None else out / f"frame_{number:06d}.molden"
                row = scf_row(number, frame, loaded, settings, compare=compare, molden=molden)
                rows.append(row)
                if row["error"]:
                    complain(row["error"])
                advance(len(rows), "")
    finally:  # an interrupt keeps what was done
        if out is not None:
            save_rows(out / TABLE, rows)
    failed = sum(bool(row["error"]) for row in rows)
    if json:
        print_json({"n_frames": len(rows), "n_failed": failed, "frames": rows})
    else:
        _print(rows, compare)
        if out is not None:
            note(f"results: {out}")
    if failed:
        raise typer.Exit(1)


def _print(rows: list[dict[str, Any]], compare: bool) -> None:
    from hamnet_cli.tables import scf_table

    print_table(scf_table(rows))
    done = [row for row in rows if row["converged"]]
    if compare and done:
        ours, default = (sum(row[key] for row in done) for key in ("cycles", "default_cycles"))
        worst = max(abs(row["energy_minus_default_hartree"]) for row in done)
        typer.echo(
            f"{ours / len(done):.1f} cycles a frame instead of {default / len(done):.1f}; the "
            f"energies agree to {worst:.0e} Hartree"
        )
