"""``hamnet bands``: bands, Fermi level and density of states of a crystal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hamnet.errors import HamnetError
from hamnet_cli.common import Json, Quiet, note, print_json, print_table, progress

if TYPE_CHECKING:
    from hamnet.evaluation.bands import CrystalMatrices


def bands(
    source: Annotated[
        Path, typer.Argument(help="A trained model, or a dataset: then the label's own bands.")
    ],
    cell: Annotated[
        Path | None, typer.Argument(help="The crystal, any file that ASE reads; for a model.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file for the bands.")] = Path(
        "bands.json"
    ),
    frame: Annotated[
        int, typer.Option(min=0, help="Frame of the structure file or of the dataset.")
    ] = 0,
    path: Annotated[
        str, typer.Option(help="Special points, such as GMKG; by default those of the lattice.")
    ] = "",
    npoints: Annotated[int, typer.Option(min=2, help="k points on the path.")] = 200,
    near_fermi: Annotated[
        int | None, typer.Option(min=1, help="Keep so many bands around the Fermi level.")
    ] = None,
    solver: Annotated[
        str, typer.Option(help="dense, sparse (needs --near-fermi), or auto: by size.")
    ] = "auto",
    electrons: Annotated[
        int | None, typer.Option(min=1, help="Electrons in the cell, where they are not known.")
    ] = None,
    smearing: Annotated[
        float, typer.Option(min=1e-5, help="Width of a metal's occupations, eV.")
    ] = 0.03,
    mesh_length: Annotated[
        float, typer.Option(min=1.0, help="Thickness of the k mesh's supercell, Angstrom.")
    ] = 30.0,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of bands and density of states: png, svg, pdf.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Another bands.json to compare with and to draw under it.")
    ] = None,
    window: Annotated[
        float, typer.Option(min=0.01, help="Bands this close to the Fermi level are compared, eV.")
    ] = 2.0,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Bands along a path, with the Fermi level, the gap and where its edges are.

    The Fermi level comes from the number of electrons on a k mesh; nothing has to be guessed.

    Example: hamnet bands runs/graphene cell.cif --path GMKG -o bands.json --plot bands.png
    """
    from hamnet.evaluation.band_files import plot_bands, read_bands, write_bands
    from hamnet.evaluation.bands import band_structure, compare_bands
    from hamnet_cli.tables import bands_table

    other = read_bands(reference) if reference else None
    crystal = _labelled(source, frame) if cell is None else _predicted(source, cell, frame)
    with progress("bands", None, quiet) as advance:
        found = band_structure(
            crystal,
            path=path,
            n_points=npoints,
            near_fermi=near_fermi,
            solver=solver,
            n_electrons=electrons,
            smearing_ev=smearing,
            mesh_length=mesh_length,
            advance=lambda done: advance(done, "solutions"),
        )
    write_bands(out, found)
    summary: dict[str, Any] = {"out": str(out), **found.summary()}
    if other is not None:
        summary["errors"] = compare_bands(found, other, window)
    if plot is not None:
        plot_bands(plot, found, other)
        summary["plot"] = str(plot)
    if json:
        print_json(summary)
    else:
        print_table(bands_table(summary))
        note(f"bands: {out}")


def _predicted(model: Path, cell: Path, frame: int) -> "CrystalMatrices":
    """Return the matrices that a model predicts for a frame of a structure file."""
    from hamnet.evaluation.bands import CrystalMatrices
    from hamnet.interop.ase import read_frames
    from hamnet.models import load_model

    found = next((f for f in read_frames(cell) if f.index == frame), None)
    if found is None:
        raise HamnetError(f"{cell}: has no frame {frame}")
    if isinstance(found.structure, HamnetError):
        raise found.structure
    loaded = load_model(model)
    try:
        (prediction,) = loaded.predict([found.structure])
    except HamnetError as error:
        raise error.at(found.origin) from error
    if not prediction.structure.is_periodic:
        raise HamnetError("a molecule has no bands: pbc is False everywhere").at(found.origin)
    return CrystalMatrices(
        prediction.structure,
        prediction.hamiltonian,
        prediction.overlap,
        prediction.n_electrons,
        f"{model}, {found.origin}",
    )


def _labelled(data: Path, frame: int) -> "CrystalMatrices":
    """Return the matrices of a label."""
    from hamnet.data.store import Store
    from hamnet.evaluation.bands import CrystalMatrices
    from hamnet.lattice import valence_charges

    if data.is_dir() or data.suffix == ".safetensors":
        raise HamnetError(f"{data} is a model: give the crystal too, any file that ASE reads")
    with Store.open(data) as store:
        if frame >= len(store):
            raise HamnetError(f"{data}: holds {len(store)} records, there is no frame {frame}")
        record, level = store[frame], store.level
    n = None
    if level.pseudo:
        n = valence_charges(record.structure, level.basis, level.pseudo)
    return CrystalMatrices(
        record.structure,
        record.blocks("hamiltonian"),
        record.blocks("overlap"),
        n,
        f"{data}, frame {frame}",
    )
