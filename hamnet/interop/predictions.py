"""A folder of predictions, written frame by frame as they come."""

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from hamnet.basis import AO_ORDERS
from hamnet.errors import HamnetError
from hamnet.files import partial_name, writing
from hamnet.interop.ase import Frame, read_frames
from hamnet.interop.molden import check_molden, save_molden
from hamnet.interop.npz import save_npz
from hamnet.prediction import Prediction
from hamnet.registry import look_up
from hamnet.units import HARTREE_TO_EV, HARTREE_TO_UHA

STDS = ("homo_std_ev", "lumo_std_ev", "gap_std_ev", "h_std_uha")
"""Standard deviations, empty where the model knows none."""

FRAME_COLUMNS = (
    "frame",
    "origin",
    "formula",
    "charge",
    "spin",
    "n_electrons",
    "homo_ev",
    "lumo_ev",
    "gap_ev",
    *STDS,
    "warnings",
    "error",
)
FRAMES, ORBITALS, ORBITALS_JSON = (
    "predictions.csv",
    "orbital_energies.csv",
    "orbital_energies.json",
)
ORBITAL_COLUMNS = ("frame", "channel", "orbital", "occupation", "energy_hartree", "energy_ev")

Row = Mapping[str, Any]


def frames_of(
    paths: Iterable[Path], *, charge: int | None = None, spin: int | None = None
) -> Iterator[Frame]:
    """Yield the frames of several files; a file that cannot be read is one bad frame."""
    for path in paths:
        try:
            yield from read_frames(path, charge=charge, spin=spin)
        except HamnetError as error:
            yield Frame(0, str(path), error)


class PredictionFolder:
    """A folder that fills with predictions.

    It gets the tables ``predictions.csv``, ``orbital_energies.csv`` and ``orbital_energies.json``,
    and for each frame ``frame_000000.molden`` and ``frame_000000.npz``. The tables end in
    ``.partial`` until the ``with`` block is left; after an interrupt they hold what was done.

    Args:
        folder: made if absent.
        molden: write Molden files.
        npz: write H, S and orbitals.
        order: orbital order of the npz files, a key of `hamnet.basis.AO_ORDERS`.

    Raises:
        HamnetError: unknown order; a file that cannot be written.
    """

    def __init__(
        self, folder: Path, *, molden: bool = True, npz: bool = True, order: str = "hamnet"
    ) -> None:
        look_up("orbital order", order, AO_ORDERS)
        self.folder, self.order = folder, order
        self._molden, self._npz = molden, npz
        self._count = self._written = 0
        self._tables: dict[str, TextIO] = {}

    def __enter__(self) -> "PredictionFolder":
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (FRAMES, ORBITALS, ORBITALS_JSON):
                partial = partial_name(self.folder / name)
                self._tables[name] = partial.open("w", encoding="utf-8", newline="")
            csv.writer(self._tables[FRAMES], lineterminator="\n").writerow(FRAME_COLUMNS)
            csv.writer(self._tables[ORBITALS], lineterminator="\n").writerow(ORBITAL_COLUMNS)
            self._tables[ORBITALS_JSON].write("[")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        complete = kind is None or issubclass(kind, KeyboardInterrupt)
        with writing(self.folder):
            if complete:
                self._tables[ORBITALS_JSON].write("\n]\n")
            for name, file in self._tables.items():
                file.close()
                if complete:
                    os.replace(partial_name(self.folder / name), self.folder / name)

    def write(self, frame: Frame, outcome: Prediction | HamnetError) -> Row:
        """Write one frame; return its row of ``predictions.csv``."""
        number = self._count
        self._count += 1
        if isinstance(outcome, Prediction):
            stem = self.folder / f"frame_{number:06d}"
            warnings = list(outcome.warnings)
            if self._molden:
                try:
                    check_molden(outcome)
                except HamnetError as error:
                    warnings.append(f"no Molden file: {error}")
                else:
                    save_molden(stem.with_suffix(".molden"), outcome)
            if self._npz:
                save_npz(stem.with_suffix(".npz"), outcome, self.order)
            row = frame_row(number, frame, outcome, warnings)
            with writing(self.folder / ORBITALS):
                self._write_orbitals(number, frame, outcome)
        else:
            row = frame_row(number, frame, outcome, ())
        with writing(self.folder / FRAMES):
            file = self._tables[FRAMES]
            csv.DictWriter(file, FRAME_COLUMNS, lineterminator="\n").writerow(row)
            file.flush()
        return row

    def _write_orbitals(self, number: int, frame: Frame, prediction: Prediction) -> None:
        energies, occupations = prediction.orbital_energies, prediction.occupations
        writer = csv.writer(self._tables[ORBITALS], lineterminator="\n")
        for channel, levels in enumerate(energies):
            for orbital, energy in enumerate(levels):
                occupation = f"{occupations[channel, orbital]:g}"
                ev = f"{HARTREE_TO_EV * energy:.6f}"
                writer.writerow((number, channel, orbital, occupation, f"{energy:.9f}", ev))
        record = {
            "frame": number,
            "origin": frame.origin,
            "formula": prediction.structure.formula,
            "orbital_energies_hartree": energies.tolist(),
            "occupations": occupations.tolist(),
        }
        comma = "," if self._written else ""
        self._tables[ORBITALS_JSON].write(f"{comma}\n{json.dumps(record)}")
        self._written += 1


def frame_row(
    number: int, frame: Frame, outcome: Prediction | HamnetError, warnings: Iterable[str]
) -> Row:
    """Return a frame's row; what is not known is None."""
    row: dict[str, Any] = dict.fromkeys(FRAME_COLUMNS)
    row |= {"frame": number, "origin": frame.origin, "warnings": "; ".join(warnings)}
    structure = frame.structure
    if not isinstance(structure, HamnetError):
        row |= {"formula": structure.formula, "charge": structure.charge, "spin": structure.spin}
        row["n_electrons"] = structure.n_electrons
    if isinstance(outcome, HamnetError):
        unread = isinstance(structure, HamnetError)  # then the message names file and frame
        row["error"] = str(outcome if unread else outcome.at(frame.origin))
    else:
        for name in ("homo", "lumo", "gap"):
            energy = HARTREE_TO_EV * getattr(outcome, name)
            row[f"{name}_ev"] = round(energy, 6) if math.isfinite(energy) else None
        for name, std in outcome.uncertainty.items():
            unit, factor = ("uha", HARTREE_TO_UHA) if name == "h" else ("ev", HARTREE_TO_EV)
            shown = float(f"{factor * std:.4g}") if math.isfinite(std) else None
            row[f"{name}_std_{unit}"] = shown
    return row
