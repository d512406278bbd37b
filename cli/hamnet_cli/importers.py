"""``hamnet data import``: other people's data; every convention is proven, none believed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hamnet.errors import HamnetError
from hamnet_cli.common import Json, Limit, Quiet, Reference, Workers, complain
from hamnet_cli.label import print_report, reporting

if TYPE_CHECKING:
    from hamnet.data.level import LevelOfTheory
    from hamnet_datasets.dense import ImportOptions

importers = typer.Typer(
    no_args_is_help=True,
    help="Convert other formats into a dataset. Units, orbital orders and cell shifts are proven "
    "by computing overlaps and Fock matrices again, or, for numerical orbitals, by the direction "
    "of every overlap column; pickles are never loaded.\n\n"
    "Example: hamnet data import qh9 QH9Stable.db -o qh9.h5",
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Dataset to write.")]
Xc = Annotated[str, typer.Option(help="Functional, if not the format's own.")]
Basis = Annotated[str, typer.Option(help="Basis set, if not the format's own.")]
Label = Annotated[str, typer.Option(help="Name of the functional, for the record.")]
BasisLabel = Annotated[str, typer.Option(help="Name of the orbitals, for the record.")]
Program = Annotated[str, typer.Option(help="Code that made the matrices, for the record.")]
Order = Annotated[str, typer.Option(help="Orbital order of the file.")]
Orbitals = Annotated[str, typer.Option(help="Shells of every element: C=2s2p1d,H=2s1p.")]
Citation = Annotated[str, typer.Option(help="Whom to cite.")]
Licence = Annotated[str, typer.Option(help="Licence of the data.")]


@contextmanager
def _options(
    out: Path,
    reference: str,
    citation: str,
    licence: str,
    limit: int | None,
    workers: int | None,
    quiet: bool,
) -> Iterator["ImportOptions"]:
    """Yield the options of an import; Ctrl-C ends it cleanly."""
    from hamnet_datasets.dense import ImportOptions
    from hamnet_datasets.engine import default_workers
    from hamnet_datasets.jobs import interrupted_message

    with reporting("import", quiet) as on_progress:
        try:
            yield ImportOptions(
                references=tuple(name.strip() for name in reference.split(",")),
                card={"citation": citation, "licence": licence},
                n_workers=default_workers() if workers is None else workers,
                limit=limit,
                on_progress=on_progress,
            )
        except KeyboardInterrupt:
            complain(interrupted_message(out))
            raise typer.Exit(130) from None


def _changed(level: "LevelOfTheory", **changes: Any) -> "LevelOfTheory":
    given = {key: value for key, value in changes.items() if value}
    return type(level).model_validate({**level.model_dump(), **given})


def _level(program: str, xc: str, basis: str) -> "LevelOfTheory":
    from hamnet.data.level import LevelOfTheory

    return LevelOfTheory(xc=xc, basis=basis, program=program)


@importers.command()
def npz(
    file: Annotated[Path, typer.Argument(help="File with Z, R (Angstrom), H (Hartree), S.")],
    out: Out,
    xc: Annotated[str, typer.Option(help="Functional, if the file does not say it.")] = "",
    basis: Annotated[str, typer.Option(help="Basis set, if the file does not say it.")] = "",
    grid: Annotated[
        int | None,
        typer.Option(min=0, max=9, help="PySCF's grid level; default: the file's, or 3."),
    ] = None,
    order: Order = "pyscf",
    split: Annotated[
        str | None, typer.Option(help="Numbers of train, validation and test frames: 200,50,50.")
    ] = None,
    reference: Reference = "minao,sap",
    citation: Citation = "",
    licence: Licence = "",
    limit: Limit = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Plain NumPy arrays: Angstrom, Hartree, any orbital order.

    S is computed again for every frame, and for the first one the Fock matrix of H's own density.

    Example: hamnet data import npz water.npz -o water.h5 --split 200,50,50
    """
    from hamnet_datasets.npz import import_npz

    with _options(out, reference, citation, licence, limit, workers, quiet) as options:
        report = import_npz(
            file,
            out,
            xc=xc,
            basis=basis,
            grid_level=grid,
            order=order,
            split=None if split is None else _whole_numbers(split),
            options=options,
        )
    print_report(report, json)


@importers.command()
def qh9(
    file: Annotated[Path, typer.Argument(help="QH9Stable.db, QH9Dynamic.db.")],
    out: Out,
    xc: Xc = "",
    basis: Basis = "",
    split: Annotated[
        str,
        typer.Option(help="As published: random or size (Stable), molecule or geometry (Dynamic)."),
    ] = "",
    reference: Reference = "minao,sap",
    citation: Citation = "",
    licence: Licence = "",
    limit: Limit = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """QH9 (SQLite): Hartree, PySCF's order; Angstrom in Stable, Bohr in Dynamic; b3lyp5/def2-SVP.

    The unit of length and the functional are proven by the Fock matrix of the first density.

    Example: hamnet data import qh9 QH9Stable.db -o qh9.h5 --split random
    """
    from hamnet_datasets.qh9 import QH9_LEVEL, import_qh9

    with _options(out, reference, citation, licence, limit, workers, quiet) as options:
        level = _changed(QH9_LEVEL, xc=xc, basis=basis)
        report = import_qh9(file, out, level=level, split=split, options=options)
    print_report(report, json)


@importers.command()
def nabladft(
    file: Annotated[Path, typer.Argument(help="Hamiltonian database.")],
    out: Out,
    xc: Xc = "",
    basis: Basis = "",
    reference: Reference = "minao,sap",
    citation: Citation = "",
    licence: Licence = "",
    limit: Limit = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """NablaDFT (SQLite): Bohr, Hartree, Psi4's order, single precision; wb97x-d/def2-SVP.

    S is computed again for every frame, and for the first one the Fock matrix of H's own density.

    Example: hamnet data import nabladft dataset_train_2k.db -o nabla.h5
    """
    from hamnet_datasets.sqlite import NABLA_LEVEL, import_nabla

    with _options(out, reference, citation, licence, limit, workers, quiet) as options:
        level = _changed(NABLA_LEVEL, xc=xc, basis=basis)
        report = import_nabla(file, out, level=level, options=options)
    print_report(report, json)


@importers.command()
def md17(
    file: Annotated[Path, typer.Argument(help="ASE database of SchNOrb, such as ethanol.db.")],
    out: Out,
    xc: Xc = "",
    basis: Basis = "",
    reference: Reference = "minao,sap",
    citation: Citation = "",
    licence: Licence = "",
    limit: Limit = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """MD17 Hamiltonians (ASE database): Angstrom, Hartree, ORCA's order; PBE/def2-SVP.

    S is computed again for every frame, and for the first one the Fock matrix of H's own density.

    Example: hamnet data import md17 schnorb_hamiltonian_water.db -o water.h5
    """
    from hamnet_datasets.sqlite import MD17_LEVEL, import_md17

    with _options(out, reference, citation, licence, limit, workers, quiet) as options:
        level = _changed(MD17_LEVEL, xc=xc, basis=basis)
        report = import_md17(file, out, level=level, options=options)
    print_report(report, json)


@importers.command(name="deeph-legacy")
def deeph_legacy(
    folder: Annotated[Path, typer.Argument(help="Folder, or folder of folders.")],
    out: Out,
    xc: Label = "unknown",
    basis: BasisLabel = "numerical",
    program: Program = "openmx",
    order: Order = "openmx",
    citation: Citation = "",
    licence: Licence = "",
    limit: Limit = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """DeepH's first layout: eV, Angstrom, OpenMX's order, atoms from 1, a dataset per pair.

    Example: hamnet data import deeph-legacy processed/ -o graphene.h5 --xc pbe
    """
    from hamnet_datasets.deeph import import_deeph_legacy

    with _options(out, "none", citation, licence, limit, 0, quiet) as options:
        level = _level(program, xc, basis)
        report = import_deeph_legacy(folder, out, level=level, order=order, options=options)
    print_report(report, json)


@importers.command()
def deeph(
    folder: Annotated[Path, typer.Argument(help="Folder, or folder of folders (dft/).")],
    out: Out,
    xc: Label = "unknown",
    basis: BasisLabel = "numerical",
    program: Program = "unknown",
    order: Order = "hamnet",
    citation: Citation = "",
    licence: Licence = "",
    limit: Limit = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """DeepH's new layout: eV, Angstrom, m = -l..l, atoms from 0, flat entries.

    Example: hamnet data import deeph dft/ -o silicon.h5 --xc pbe --program openmx
    """
    from hamnet_datasets.deeph import import_deeph

    with _options(out, "none", citation, licence, limit, 0, quiet) as options:
        level = _level(program, xc, basis)
        report = import_deeph(folder, out, level=level, order=order, options=options)
    print_report(report, json)


@importers.command()
def deeptb(
    folder: Annotated[Path, typer.Argument(help="Folder, or folder of folders.")],
    out: Out,
    xc: Label = "unknown",
    basis: BasisLabel = "numerical",
    program: Program = "unknown",
    order: Order = "hamnet",
    orbitals: Orbitals = "",
    citation: Citation = "",
    licence: Licence = "",
    limit: Limit = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """DeePTB and dftio: eV, Angstrom, m = -l..l, single precision, both directions of a pair.

    Example: hamnet data import deeptb data/ -o silicon.h5 --xc pbe --program abacus
    """
    from hamnet_datasets.deeptb import import_deeptb

    with _options(out, "none", citation, licence, limit, 0, quiet) as options:
        report = import_deeptb(
            folder,
            out,
            level=_level(program, xc, basis),
            order=order,
            orbitals=orbitals,
            options=options,
        )
    print_report(report, json)


@importers.command()
def abacus(
    folder: Annotated[Path, typer.Argument(help="OUT.ABACUS, or a folder of such folders.")],
    out: Out,
    orbitals: Orbitals,
    structure: Annotated[
        str, typer.Option(help="Geometry beside the matrices, for old headers: STRU.cif.")
    ] = "",
    xc: Label = "unknown",
    basis: BasisLabel = "numerical",
    order: Order = "abacus",
    citation: Citation = "",
    licence: Licence = "",
    limit: Limit = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """ABACUS csr, old and new header: Rydberg, Angstrom, m = 0, 1, -1, ... with sign (-1)^m.

    Example: hamnet data import abacus OUT.ABACUS -o silicon.h5 --orbitals Si=2s2p1d
    """
    from hamnet_datasets.abacus import import_abacus

    with _options(out, "none", citation, licence, limit, 0, quiet) as options:
        report = import_abacus(
            folder,
            out,
            level=_level("abacus", xc, basis),
            orbitals=orbitals,
            structure=structure,
            order=order,
            options=options,
        )
    print_report(report, json)


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise HamnetError(
            f"--split must be whole numbers such as 200,50,50, got '{text}'"
        ) from None
