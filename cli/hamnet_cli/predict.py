"""``hamnet predict``: orbital energies, orbitals and properties of new structures."""

from typing import TYPE_CHECKING, Annotated

import typer

from hamnet_cli.common import (
    BatchSize,
    Charge,
    Compiled,
    Files,
    Json,
    Model,
    OutDir,
    Quiet,
    Spin,
    complain,
    note,
    print_json,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from hamnet.inference.rows import Row


def predict(
    model: Model,
    files: Files,
    out: OutDir,
    molden: Annotated[bool, typer.Option("--molden", help="A Molden file for each frame.")] = False,
    cube: Annotated[
        str, typer.Option(help="Cube files: density, homo, lumo+1, orbital numbers from 0; a list.")
    ] = "",
    cube_spacing: Annotated[
        float, typer.Option(min=0.01, help="Between points of cube files, Angstrom.")
    ] = 0.15,
    npz: Annotated[
        bool, typer.Option("--npz", help="H, S and orbitals of each frame, with labels.")
    ] = False,
    order: Annotated[
        str, typer.Option(help="Orbital order in the npz files: hamnet, pyscf, ...")
    ] = "hamnet",
    extxyz: Annotated[
        bool, typer.Option("--extxyz", help="One extended xyz file with the values.")
    ] = False,
    properties: Annotated[
        str, typer.Option(help="More columns: charges, dipole, bond-orders, dos, energy; a list.")
    ] = "",
    charge: Charge = None,
    spin: Spin = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also other charges, spins, contacts than were trained."),
    ] = False,
    batch_size: BatchSize = 8,
    compiled: Compiled = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Predict Hamiltonians, orbitals and what follows from them.

    The folder gets predictions.jsonl, a row per frame as it is done, and at the end the tables
    predictions.csv and orbital_energies.csv. Interrupted (also by kill -9), the same command goes
    on where it stopped. A bad frame is a row with its error and does not stop the others; the exit
    code is 1 if any frame failed. Of crystals --npz gives the blocks of H and S; 'hamnet bands'
    makes bands of them.

    Example: hamnet predict runs/water new.xyz -o out --molden --properties charges,dipole
    """
    from hamnet.inference.folder import FRAMES, ROWS, Output
    from hamnet.inference.journal import read_rows
    from hamnet.inference.run import predict_files
    from hamnet.models import load_model
    from hamnet_cli.tables import predictions_table

    output = Output(
        molden=molden,
        cubes=_names(cube),
        cube_spacing=cube_spacing,
        npz=npz,
        order=order,
        extxyz=extxyz,
        properties=_names(properties),
    )
    output.check()
    loaded = load_model(model, compiled=compiled)
    with progress("predict", None, quiet) as advance:

        def on_row(done: int, row: "Row") -> None:
            if row["error"]:
                complain(row["error"])
            advance(done, "")

        try:
            found = predict_files(
                loaded,
                files,
                out,
                output,
                charge=charge,
                spin=spin,
                force=force,
                batch_size=batch_size,
                on_row=on_row,
            )
        except KeyboardInterrupt:
            complain(f"interrupted; the same command goes on from what is in {out}")
            raise typer.Exit(130) from None
    if json:
        counts = {"n_frames": found.n_frames, "n_known": found.n_known, "n_failed": found.n_failed}
        print_json({"out": str(out), **counts, "frames": list(read_rows(out / ROWS))})
    else:
        print_table(predictions_table(found.first, found.n_frames))
        note(f"results: {out / FRAMES}")
    if found.n_failed:
        complain(f"{found.n_failed} of {found.n_frames} frames have no prediction")
        raise typer.Exit(1)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip().lower() for name in text.split(",") if name.strip())
