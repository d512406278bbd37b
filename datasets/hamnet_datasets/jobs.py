"""Labelling from end to end: from a structure file or a recipe to a finished store."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyscf

from hamnet.data.failure import Failure
from hamnet.data.level import LevelOfTheory
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.interop.ase import Frame, read_frames
from hamnet_datasets.distinct import distinct
from hamnet_datasets.engine import Progress, label_frames
from hamnet_datasets.labels import (
    DEFAULT_REFERENCES,
    Known,
    Skipped,
    Task,
    check_references,
    resolve,
)
from hamnet_datasets.recipes import Recipe, SamplingMethod
from hamnet_datasets.sampling import n_frames, remaining_tasks
from hamnet_datasets.scf import check_gpu
from hamnet_datasets.smiles import SMILES_SUFFIX, read_smiles


@dataclass(frozen=True)
class Options:
    """How to run a job.

    Attributes:
        references: reference Hamiltonians to store.
        n_workers: worker processes; 0 labels in this process.
        scheduler: address of a running Dask scheduler, whose workers label instead.
        limit: stop after so many frames; None for all.
        shard: ``(k, n)`` labels the frames k, k + n, k + 2n ... counted from 1; None for all.
        min_rmsd: leave out frames that are closer to an earlier one, Angstrom; 0 keeps all.
        retry_failed: try frames again that failed in an earlier run.
        on_progress: called after every frame.
    """

    references: Sequence[str] = DEFAULT_REFERENCES
    n_workers: int = 0
    scheduler: str | None = None
    limit: int | None = None
    shard: tuple[int, int] | None = None
    min_rmsd: float = 0.0
    retry_failed: bool = False
    on_progress: Callable[[Progress], None] = lambda progress: None


@dataclass(frozen=True)
class Report:
    """What a job has done.

    Attributes:
        path: the store; it does not exist if it would hold no record.
        n_records: records in the store.
        progress: what happened in this run.
        failures: all frames without a label, also of earlier runs.
    """

    path: Path
    n_records: int
    progress: Progress
    failures: list[Failure]


def made_by() -> dict[str, str]:
    """Return versions and time for the card of a dataset."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"created": now, "hamnet_version": version("hamnet"), "pyscf_version": pyscf.__version__}


def label_file(
    path: str | Path,
    out: str | Path,
    level: LevelOfTheory,
    *,
    charge: int | None = None,
    spin: int | None = None,
    conformers: int = 1,
    seed: int = 0,
    options: Options = Options(),
) -> Report:
    """Label every frame of a structure file; run it again to go on where it stopped.

    Args:
        path: any file that ASE reads, or a list of SMILES (``.smi``).
        out: the store to write or to go on with.
        level: level of theory.
        charge: total charge of every frame; by default what the frame says, or 0.
        spin: unpaired electrons of every frame; by default what the frame says, or 0.
        conformers: geometries of every SMILES.
        seed: of their embedding.
        options: references, workers, limit.

    Raises:
        HamnetError: nothing in the file can be read; unknown functional or basis; the store cannot
            be written or holds another level of theory. Single bad frames are reported instead.
    """
    path = Path(path)

    def frames() -> Iterator[Frame]:
        if path.suffix.lower() == SMILES_SUFFIX:
            read: Iterator[Frame] = read_smiles(path, conformers=conformers, seed=seed)
        else:
            read = read_frames(path, charge=charge, spin=spin)
        return itertools.islice(read, options.limit)

    total = sum(1 for _ in frames())  # read twice, so that memory does not grow with the file
    card = {"name": Path(out).stem, "source": path.name}
    orders = _share(total, options)

    def tasks(_: Writer) -> Iterator[Task | Failure]:
        return map(_task, itertools.islice(frames(), orders.start, None, orders.step))

    return _run(tasks, len(orders), out, level, card, options)


def _task(frame: Frame) -> Task | Failure:
    if isinstance(frame.structure, HamnetError):
        return Failure(frame.origin, "read", str(frame.structure).removeprefix(f"{frame.origin}: "))
    return Task(frame.structure, frame.origin, frame.group, frame.index)


def label_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    method: SamplingMethod | None = None,
    options: Options = Options(),
) -> Report:
    """Make and label the frames of a recipe; run it again to go on where it stopped.

    Args:
        recipe: the recipe.
        out: the store to write or to go on with.
        method: sampling; the recipe's own by default.
        options: references, workers, limit.

    Raises:
        HamnetError: see `label_file` and `hamnet_datasets.sampling.recipe_tasks`; the store was
            made by another recipe.
    """
    total = min(n_frames(recipe, method), options.limit or n_frames(recipe, method))
    orders = _share(total, options)
    fingerprint = recipe.fingerprint(method or recipe.sampling.method)

    def tasks(writer: Writer) -> Iterator[Task | Known]:
        made = writer.card.get("recipe_sha256")
        if made not in (None, fingerprint):
            raise HamnetError(
                f"{out} was made by another version of recipe {recipe.name}, or by other sampling: "
                "write to another file ('hamnet data merge' joins them)"
            )
        # whether a frame is distinct depends on the geometries of those before it
        told = made is not None and not options.min_rmsd
        known = writer.origins if told else frozenset()
        return remaining_tasks(recipe, orders, known, method=method)

    card = {**recipe.card(), "recipe_sha256": fingerprint}
    return _run(tasks, len(orders), out, recipe.level, card, options)


def _share(total: int, options: Options) -> range:
    """Return the positions of the frames of a shard."""
    k, n = options.shard or (1, 1)
    return range(total)[k - 1 :: n]


def _run(
    frames: Callable[[Writer], Iterable[Task | Failure | Skipped | Known]],
    total: int,
    out: str | Path,
    level: LevelOfTheory,
    card: Mapping[str, Any],
    options: Options,
) -> Report:
    references = check_references(options.references)
    card = {**card, **made_by()}
    if level.program == "gpu4pyscf" and options.scheduler is None:
        check_gpu()
    if options.shard is not None:
        card["shard"] = "{}/{}".format(*options.shard)
    if options.min_rmsd > 0:
        card["min_rmsd_angstrom"] = options.min_rmsd
    with Writer(out, resolve(level), references=references, card=card) as writer:
        new = frames(writer)
        progress = label_frames(
            distinct(new, options.min_rmsd) if options.min_rmsd > 0 else new,
            writer,
            total=total,
            references=references,
            n_workers=options.n_workers,
            scheduler=options.scheduler,
            retry_failed=options.retry_failed,
            on_progress=options.on_progress,
        )
        return finish(writer, progress)


def finish(writer: Writer, progress: Progress) -> Report:
    """Write the store, unless it would hold no record, and report."""
    if len(writer):
        writer.finish()
    else:
        writer.discard()
    return Report(writer.path, len(writer), progress, writer.failures)


def interrupted_message(out: str | Path) -> str:
    """Return what to say after Ctrl-C."""
    return f"stopped; finished labels are kept: run the same command again to go on with {out}"
