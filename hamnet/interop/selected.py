"""Pools of structures to choose from, and files of those that were chosen."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

from hamnet.errors import HamnetError
from hamnet.files import replacing
from hamnet.interop.ase import Frame, read_frames, to_atoms

COLUMNS = ("rank", "origin", "formula", "h_std_uha", "left")


def read_pool(
    paths: Iterable[Path],
    max_frames: int,
    seed: int,
    *,
    charge: int | None = None,
    spin: int | None = None,
) -> tuple[list[Frame], list[str]]:
    """Return the frames of several files, and why some cannot be read.

    Args:
        paths: files that ASE reads.
        max_frames: of more than these so many are drawn at random, in their order.
        seed: of that draw.
        charge: total charge of every frame; by default what the frame says, or 0.
        spin: unpaired electrons, likewise.
    """
    frames, unread = [], []
    for path in paths:
        try:
            for frame in read_frames(path, charge=charge, spin=spin):
                if isinstance(frame.structure, HamnetError):
                    unread.append(str(frame.structure))
                else:
                    frames.append(frame)
        except HamnetError as error:
            unread.append(str(error))
    if len(frames) > max_frames:
        drawn = np.random.default_rng(seed).permutation(len(frames))[:max_frames]
        frames = [frames[k] for k in np.sort(drawn)]
    return frames, unread


def write_chosen(path: Path, chosen: Sequence[tuple[Frame, float, float]]) -> list[dict[str, Any]]:
    """Write chosen frames as extended xyz, and return their rows.

    The comment line of a frame holds charge, spin, group, where it came from and the rest of its
    row (`COLUMNS`).

    Args:
        path: of the file; it ends in ``.xyz`` or ``.extxyz``.
        chosen: frame, predicted error of H in µHa, and share of the pool's squared error that is
            predicted to be left once it is labelled.

    Raises:
        HamnetError: another ending, or the file cannot be written.
    """
    if path.suffix not in (".xyz", ".extxyz"):
        raise HamnetError(f"{path}: chosen frames are written as extended xyz; end it in .xyz")
    images, rows = [], []
    for rank, (frame, h_std_uha, left) in enumerate(chosen, start=1):
        structure = frame.structure
        assert not isinstance(structure, HamnetError)
        values = (rank, frame.origin, structure.formula, round(h_std_uha, 3), round(left, 4))
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        atoms = to_atoms(structure)
        if not structure.is_periodic:
            atoms.cell = None
        atoms.info |= {name: rows[-1][name] for name in ("rank", "origin", "h_std_uha", "left")}
        if frame.group:
            atoms.info["group"] = frame.group
        images.append(atoms)
    with replacing(path) as partial:
        ase.io.write(partial, images, format="extxyz")
    return rows
