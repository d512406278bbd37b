"""``hamnet predict``: orbital energies and orbitals of new structures."""

from pathlib import Path
from typing import Annotated

import typer

from hamnet_cli.common import Json, OutDir, Quiet, complain, note, print_json, print_table, progress


def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a training run, or a model file.")],
    files: Annotated[
        list[Path], typer.Argument(help="Structures, any file that ASE reads; Angstrom.")
    ],
    out: OutDir,
    molden: Annotated[bool, typer.Option(help="Write a Molden file for each frame.")] = True,
    npz: Annotated[bool, typer.Option(help="Write H, S and orbitals of each frame.")] = True,
    order: Annotated[
        str, typer.Option(help="Orbital order in the npz files: hamnet, pyscf, ...")
    ] = "hamnet",
    charge: Annotated[
        int | None, typer.Option(help="Charge of every frame, instead of what the file says.")
    ] = None,
    spin: Annotated[
        int | None, typer.Option(help="Unpaired electrons of every frame, likewise.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames predicted at once.")] = 32,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Predict Hamiltonians and orbitals; a bad frame is reported and does not stop the others.

    The output folder gets predictions.csv, orbital_energies.csv and .json, and for each frame
    a Molden file and an npz file. The exit code is 1 if any frame failed.

    Example: hamnet predict runs/water new.xyz -o out
    """
    from hamnet.evaluation import predict_structures
    from hamnet.interop.predictions import PredictionFolder, frames_of
    from hamnet.models import load_model
    from hamnet_cli.tables import predictions_table

    loaded = load_model(model)
    rows = []
    with (
        PredictionFolder(out, molden=molden, npz=npz, order=order) as folder,
        progress("predict", None, quiet) as advance,
    ):
        frames = ((f, f.structure) for f in frames_of(files, charge=charge, spin=spin))
        for frame, outcome in predict_structures(loaded, frames, batch_size):
            row = folder.write(frame, outcome)
            rows.append(row)
            if row["error"]:
                complain(row["error"])
            advance(len(rows), "")
    failed = sum(bool(row["error"]) for row in rows)
    if json:
        print_json({"out": str(out), "n_frames": len(rows), "n_failed": failed, "frames": rows})
    else:
        print_table(predictions_table(rows))
        note(f"results: {out}")
    if failed:
        raise typer.Exit(1)
