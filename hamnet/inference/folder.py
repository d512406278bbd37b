"""A folder of predictions, written frame by frame as they come, and continued where it stopped."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import Field

from hamnet.basis import AO_ORDERS
from hamnet.data.level import LevelOfTheory
from hamnet.errors import HamnetError
from hamnet.files import write_text, writing
from hamnet.inference.journal import RowJournal
from hamnet.inference.rows import (
    PROPERTIES,
    STDS,
    Row,
    error_text,
    frame_id,
    frame_values,
    prediction_values,
    property_columns,
)
from hamnet.inference.tables import write_dos, write_extxyz, write_frames, write_orbitals
from hamnet.interop.ase import Frame
from hamnet.interop.cube import SPACING, check_cube, cube_grid
from hamnet.interop.molden import check_molden
from hamnet.prediction import Prediction
from hamnet.registry import look_up
from hamnet.validation import Section

ROWS, FRAMES, ORBITALS, EXTXYZ, SETTINGS = (
    "predictions.jsonl",
    "predictions.csv",
    "orbital_energies.csv",
    "predictions.extxyz",
    "settings.json",
)
FORMAT, FORMAT_VERSION = "hamnet-predictions", 1
DOS = "dos"


class Output(Section):
    """What is written for each frame beside its row."""

    molden: bool = False
    """Molden files."""
    cubes: tuple[str, ...] = ()
    """Cube files; see `hamnet.interop.cube.check_cube` for the names."""
    cube_spacing: float = Field(default=SPACING, gt=0)
    """Between points of the cube files, Angstrom."""
    npz: bool = False
    """H, S and orbitals."""
    order: str = "hamnet"
    """Orbital order of the npz files, a key of `hamnet.basis.AO_ORDERS`."""
    extxyz: bool = False
    """One extended xyz file of all predicted frames."""
    properties: tuple[str, ...] = ()
    """Keys of `hamnet.inference.rows.PROPERTIES`; ``dos`` is a file of each frame."""

    def check(self) -> None:
        """Check all the names before anything is computed.

        Raises:
            HamnetError: an unknown name; the message suggests the closest one.
        """
        look_up("orbital order", self.order, AO_ORDERS)
        for what in self.cubes:
            check_cube(what)
        for name in self.properties:
            look_up("property", name, {**dict.fromkeys(PROPERTIES), DOS: None})

    def check_crystals(self) -> None:
        """Check that nothing is asked for that crystals have not: whatever is made of orbitals.

        Raises:
            HamnetError: names what.
        """
        asked = {"--molden": self.molden, "--cube": self.cubes, "--properties": self.properties}
        if found := [name for name, value in asked.items() if value]:
            raise HamnetError(
                f"the model was trained on crystals, of which H and S are predicted and no "
                f"orbitals: leave out {', '.join(found)}; --npz writes H and S, 'hamnet bands' "
                "makes bands of them"
            )

    @property
    def in_rows(self) -> tuple[str, ...]:
        """The properties that are columns."""
        return tuple(name for name in self.properties if name != DOS)


class PredictionFolder:
    """A folder that fills with predictions.

    ``predictions.jsonl`` gets a row as soon as a frame is done, after the frame's other files
    (``frame_000000.molden`` ...). When the ``with`` block is left, the tables ``predictions.csv``,
    ``orbital_energies.csv`` and, if asked for, ``predictions.extxyz`` are made of it. A folder that
    was interrupted, also by ``kill -9``, is continued by opening it with the same settings.

    Args:
        folder: made if absent.
        output: what to write for each frame.
        level: level of theory of the model, for the ``id`` of the rows.
        source: what else the predictions depend on (model, options), JSON-ready.

    Raises:
        HamnetError: unknown names in ``output``; the folder holds predictions of other settings, or
            cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        output: Output | None = None,
        *,
        level: LevelOfTheory | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.output, self.level = folder, output or Output(), level
        self.output.check()
        self._settings = {**(source or {}), **self.output.model_dump(mode="json")}
        self.n_rows = self.n_known = self.n_failed = 0

    def __enter__(self) -> "PredictionFolder":
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._check_settings()
        self._journal = RowJournal(self.folder / ROWS)
        for row in self._journal.rows():
            self.n_known += 1
            self.n_failed += bool(row["error"])
        self.n_rows = self.n_known
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self._write_tables()
        if kind is None:
            self._journal.finish()
        else:
            self._journal.close()

    def remaining(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Yield the frames that have no row yet; the first ones must be those that have.

        Raises:
            HamnetError: a frame is not the one of which the folder holds a prediction.
        """
        cure = "give the same files as before, or choose another folder"
        for number, row in enumerate(islice(self.rows(), self.n_known)):
            frame = next(frames, None)
            if frame is None:
                raise HamnetError(
                    f"{self.folder}: holds predictions of {self.n_known} frames, but only "
                    f"{number} were given; {cure}"
                )
            same = (frame.file, frame.index, frame_id(frame, self.level))
            if same != (row["file"], row["frame"], row["id"]):
                raise HamnetError(
                    f"{self.folder}: row {number} is a prediction of {row['file']}, frame "
                    f"{row['frame']}, but {frame.origin} is another frame, or has changed since; "
                    f"{cure}"
                )
        yield from frames

    def write(self, frame: Frame, outcome: Prediction | HamnetError) -> Row:
        """Write one frame; return its row."""
        row = frame_values(frame, self.n_rows, self.level)
        if isinstance(outcome, Prediction):
            row |= prediction_values(outcome, self.output.in_rows)
            missing = self._write_files(self.folder / f"frame_{self.n_rows:06d}", outcome)
            row |= {"warnings": "; ".join((*outcome.warnings, *missing)), "error": ""}
        else:
            row |= {"warnings": "", "error": error_text(frame, outcome)}
        self._journal.append(row)
        self.n_rows += 1
        self.n_failed += bool(row["error"])
        return row

    def rows(self) -> Iterator[Row]:
        """Yield all the rows, also those of earlier runs."""
        return self._journal.rows()

    def _write_files(self, stem: Path, prediction: Prediction) -> list[str]:
        """Write the files of a frame; return why some of them cannot be made."""
        output, missing = self.output, []
        if output.molden:
            if reason := _reason(check_molden, prediction):
                missing.append(f"no Molden file: {reason}")
            else:
                prediction.to_molden(stem.with_suffix(".molden"))
        for what in output.cubes:
            if reason := _reason(cube_grid, prediction, what, output.cube_spacing):
                missing.append(f"no cube file: {reason}")
            else:
                path = stem.with_name(f"{stem.name}_{what}.cube")
                prediction.to_cube(path, what, spacing=output.cube_spacing)
        if output.npz:
            prediction.to_npz(stem.with_suffix(".npz"), output.order)
        if DOS in output.properties:
            write_dos(stem.with_suffix(".dos.csv"), *prediction.density_of_states())
        return missing

    def _check_settings(self) -> None:
        path = self.folder / SETTINGS
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        if not path.exists():
            write_text(path, json.dumps({**head, "settings": self._settings}, indent=1) + "\n")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            there = {key: found[key] for key in head}
            settings = found["settings"]
        except (ValueError, KeyError, TypeError):
            raise HamnetError(
                f"{path}: not written by this hamnet; choose another folder"
            ) from None
        if there != head:
            raise HamnetError(f"{path}: {there}, but this hamnet writes {head}")
        for key in sorted(settings.keys() | self._settings.keys()):
            if settings.get(key) != self._settings.get(key):
                raise HamnetError(
                    f"{self.folder}: holds predictions with other settings ({key}: "
                    f"{settings.get(key)} there, {self._settings.get(key)} asked); give the same "
                    "command to go on, or choose another folder"
                )

    def _write_tables(self) -> None:
        extra = property_columns(self.output.in_rows)
        found = {name for row in self.rows() for name in row}
        extra += tuple(column for column, _ in STDS.values() if column in found)
        write_frames(self.folder / FRAMES, self.rows(), extra)
        write_orbitals(self.folder / ORBITALS, self.rows())
        if self.output.extxyz:
            write_extxyz(self.folder / EXTXYZ, self.rows())


def _reason(check: Callable[..., object], *arguments: object) -> str:
    """Return why a file cannot be made, empty if it can."""
    try:
        check(*arguments)
    except HamnetError as error:
        return str(error)
    return ""
