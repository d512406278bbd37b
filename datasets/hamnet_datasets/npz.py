"""Import of plain NumPy files: geometries with Hamiltonians and overlaps as dense matrices.

Keys: ``Z [N]`` or ``[F, N]``, ``R [F, N, 3]``, ``H [F, n, n]`` in Hartree, ``S [F, n, n]``, and
optionally ``eps [F, n]`` in Hartree, ``xc``, ``basis`` and ``level`` (JSON, as `hamnet data export`
writes it). Nothing is believed: unit and orbital order are proven by computing S again, the level
of theory by building the Fock matrix of H's own density.
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory
from hamnet.data.schema import SUBSETS
from hamnet.errors import HamnetError
from hamnet.structure import Structure
from hamnet_datasets.dense import (
    DEFAULT_OPTIONS,
    Convention,
    ImportOptions,
    MatrixTask,
    import_dense,
)
from hamnet_datasets.jobs import Report


def import_npz(
    path: str | Path,
    out: str | Path,
    *,
    xc: str = "",
    basis: str = "",
    grid_level: int | None = None,
    order: str = "pyscf",
    split: Sequence[int] | None = None,
    options: ImportOptions = DEFAULT_OPTIONS,
) -> Report:
    """Convert a file of closed-shell neutral molecules into a store; resumable.

    Args:
        path: the file.
        out: the store to write.
        xc: functional; by default the file's own.
        basis: basis set; by default the file's own.
        grid_level: PySCF's quadrature grid with which the labels were made; by default the file's
            own, or 3.
        order: orbital order of the file, a key of `hamnet.basis.AO_ORDERS`.
        split: numbers of training, validation and test frames, in the order of the file.
        options: references, workers, card.

    Raises:
        HamnetError: no such file, no npz, a missing key, shapes that do not fit, an order, unit or
            level of theory that does not reproduce the file's own numbers.
    """
    path = Path(path)
    data = _load(path)
    level = _level(data, path, xc, basis, grid_level)
    frames = _tasks(data, path, split)[: options.limit]
    readable = [frame for frame in frames if isinstance(frame, MatrixTask)]
    if not readable:
        raise HamnetError(f"{path}: not one of the {len(frames)} frames can be read")
    return import_dense(
        frames,
        readable[0],
        out,
        level,
        Convention(order=order),
        total=len(frames),
        source=path,
        options=options,
    )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise HamnetError(f"{path}: no such file")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise HamnetError(f"{path}: a single array; expected an .npz with Z, R, H and S")
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise HamnetError(
            f"{path}: not a readable .npz file of plain arrays ({error}); pickled objects are "
            "never loaded"
        ) from error


def _level(
    data: Mapping[str, NDArray[Any]], path: Path, xc: str, basis: str, grid_level: int | None
) -> LevelOfTheory:
    """Return the level of theory that the file carries, changed by what was given."""
    if "level" in data and not xc and not basis and grid_level is None:
        try:
            return LevelOfTheory.model_validate_json(str(data["level"]))
        except ValidationError as error:
            raise HamnetError(
                f"{path}: its level of theory cannot be read: give --xc and --basis ({error})"
            ) from error
    return LevelOfTheory(
        xc=_setting(data, "xc", xc, path),
        basis=_setting(data, "basis", basis, path),
        grid_level=3 if grid_level is None else grid_level,
    )


def _setting(data: Mapping[str, NDArray[Any]], key: str, given: str, path: Path) -> str:
    if given:
        return given
    if key not in data:
        raise HamnetError(f"{path} does not say its {key}: give it with --{key}")
    return str(data[key])


def _tasks(
    data: Mapping[str, NDArray[Any]], path: Path, split: Sequence[int] | None
) -> list[MatrixTask | Failure]:
    missing = sorted({"Z", "R", "H", "S"} - data.keys())
    if missing:
        raise HamnetError(
            f"{path} has no {', '.join(missing)}; it holds {', '.join(sorted(data)) or 'nothing'}"
        )
    n_frames = len(data["R"])
    if n_frames == 0:
        raise HamnetError(f"{path} holds no frame")
    numbers = np.broadcast_to(data["Z"], (n_frames, data["Z"].shape[-1]))
    for key in ("H", "S", "eps"):
        if key in data and len(data[key]) != n_frames:
            raise HamnetError(f"{path}: {n_frames} frames in R, but {len(data[key])} in {key}")
    subsets = _subsets(n_frames, split, path)
    tasks: list[MatrixTask | Failure] = []
    for k in range(n_frames):
        origin = f"{path}, frame {k}"
        try:
            structure = Structure(numbers[k], data["R"][k])
        except HamnetError as error:
            tasks.append(Failure(origin, "read", str(error)))
            continue
        tasks.append(
            MatrixTask(
                structure,
                origin,
                order=k,
                subset=subsets[k],
                hamiltonian=data["H"][k].astype(float),
                overlap=data["S"][k].astype(float),
                energies=data["eps"][k].astype(float) if "eps" in data else None,
            )
        )
    return tasks


def _subsets(n_frames: int, split: Sequence[int] | None, path: Path) -> list[str]:
    if split is None:
        return [""] * n_frames
    if len(split) != len(SUBSETS) or sum(split) != n_frames or min(split) < 0:
        raise HamnetError(
            f"{path} holds {n_frames} frames, which the split {','.join(map(str, split))} does not "
            "divide: give the numbers of training, validation and test frames"
        )
    return [name for name, n in zip(SUBSETS, split, strict=True) for _ in range(n)]
