"""Predict files of structures into a folder."""

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hamnet.errors import HamnetError
from hamnet.inference.folder import Output, PredictionFolder
from hamnet.inference.rows import Row
from hamnet.interop.ase import Frame, read_frames
from hamnet.models import HamiltonianModel
from hamnet.models.files import fingerprint
from hamnet.models.stream import predict_structures


@dataclass(frozen=True)
class Summary:
    """What became of some files.

    Attributes:
        n_frames: rows in the folder.
        n_known: those of earlier runs.
        n_failed: frames without a prediction.
        first: the first rows.
    """

    n_frames: int
    n_known: int
    n_failed: int
    first: tuple[Row, ...]


def frames_of(
    paths: Iterable[Path], *, charge: int | None = None, spin: int | None = None
) -> Iterator[Frame]:
    """Yield the frames of several files; a file that cannot be read is one bad frame."""
    for path in paths:
        try:
            yield from read_frames(path, charge=charge, spin=spin)
        except HamnetError as error:
            yield Frame(0, str(path), error, file=str(path))


def predict_files(
    model: HamiltonianModel,
    paths: Iterable[Path],
    out: Path,
    output: Output,
    *,
    charge: int | None = None,
    spin: int | None = None,
    force: bool = False,
    batch_size: int = 32,
    n_shown: int = 12,
    on_row: Callable[[int, Row], None] | None = None,
) -> Summary:
    """Predict all frames of some files; a bad frame is a row too. See `PredictionFolder`.

    The network runs in float64: in float32 the energies of a frame depend, by up to 0.1 meV, on the
    frames that happen to be in its batch, and a continued run would not be the uninterrupted one.

    Args:
        model: the model.
        paths: any files that ASE reads, Angstrom.
        out: folder; an interrupted prediction in it is continued.
        output: what to write beside the rows.
        charge: total charge of every frame; by default what the frame says, or 0.
        spin: unpaired electrons of every frame; by default what the frame says, or 0.
        force: see `HamiltonianModel.predict`.
        batch_size: frames predicted at once; as many are repeated after a kill.
        n_shown: number of rows that the summary holds.
        on_row: is told the number of rows and each new row.

    Raises:
        HamnetError: unknown names in ``output``, or orbitals of crystals; predictions of something
            else in ``out``; a file that cannot be written.
    """
    if model.metadata.periodic:
        output.check_crystals()
    exact = copy.deepcopy(model)
    exact.network.double()
    source = {"model": fingerprint(model), "charge": charge, "spin": spin, "force": force}
    with PredictionFolder(out, output, level=model.metadata.level, source=source) as folder:
        frames = folder.remaining(frames_of(paths, charge=charge, spin=spin))
        pairs = ((frame, frame.structure) for frame in frames)
        for frame, outcome in predict_structures(exact, pairs, batch_size, force=force):
            row = folder.write(frame, outcome)
            if on_row:
                on_row(folder.n_rows, row)
        first = tuple(islice(folder.rows(), n_shown))
    return Summary(folder.n_rows, folder.n_known, folder.n_failed, first)
