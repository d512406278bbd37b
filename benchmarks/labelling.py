"""Labels per second against a bare loop over PySCF, and memory over many frames.

The loop and hamnet label the same thermal waters in the same run, one thread a process, restricted
PBE/def2-SVP, grid 3, without reference Hamiltonians. The start of the workers (a second or two,
once) is in ``seconds`` and not in ``labels_per_second``. The part on memory passes frames with a
label function that costs nothing through workers, writer and file.
"""

import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, parser
from pyscf import lib
from pyscf.dft import rks

from hamnet.basis import OrbitalBasis
from hamnet.blocks import molecule_layout
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.integrals import to_mole
from hamnet.structure import Structure
from hamnet_datasets.engine import label_frames, process
from hamnet_datasets.labels import Task, resolve
from hamnet_datasets.recipes import load_recipe
from hamnet_datasets.sampling import recipe_tasks

LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp")
CHEAP_BASIS = OrbitalBasis("def2-svp", {1: (0, 0, 1), 8: (0, 0, 0, 1, 1, 2)}, {1: "h", 8: "o"})
WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])


def bare_loop(structures: list[Structure]) -> float:
    """Return labels per second of PySCF alone, one thread, the same settings."""
    start = time.perf_counter()
    with lib.with_omp_threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for structure in structures:
            mf = rks.RKS(to_mole(structure, LEVEL.basis), xc=LEVEL.xc)
            mf.grids.level = LEVEL.grid_level
            mf.conv_tol, mf.conv_tol_grad = LEVEL.conv_tol, LEVEL.conv_tol_grad
            mf.kernel()
            mf.get_fock()
    return len(structures) / (time.perf_counter() - start)


def with_workers(tasks: list[Task], n_workers: int) -> tuple[float, float]:
    """Return labels per second once the workers are up, and all the seconds."""
    seen: list[tuple[float, int]] = []
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        Writer(Path(folder) / "water.h5", resolve(LEVEL)) as writer,
    ):
        label_frames(
            tasks,
            writer,
            total=len(tasks),
            references=("none",),
            n_workers=n_workers,
            on_progress=lambda p: seen.append((time.perf_counter(), p.labelled)),
        )
        writer.finish()
    seconds = time.perf_counter() - start
    warm = [(t, n) for t, n in seen if n >= 2 * n_workers]
    (t0, n0), (t1, n1) = warm[0], warm[-1]
    return (n1 - n0) / (t1 - t0), seconds


def speed_rows(n: int) -> list[dict[str, Any]]:
    """Return labels per second: the loop, one worker, two workers, the loop again."""
    tasks = list(recipe_tasks(load_recipe("water-pbe-svp"), limit=n))
    structures = [task.structure for task in tasks]
    bare_loop(structures[:4])  # PySCF loads its libraries
    alone = bare_loop(structures)
    one, seconds_one = with_workers(tasks, 1)
    two, seconds_two = with_workers(tasks, 2)
    again = bare_loop(structures)
    base = (alone + again) / 2
    rows: list[dict[str, Any]] = [
        {"what": f"PySCF loop, 1 core, {n} waters", "labels_per_second": alone},
        {"what": "the same loop afterwards", "labels_per_second": again},
    ]
    for name, rate, seconds in (("1 worker", one, seconds_one), ("2 workers", two, seconds_two)):
        rows.append(
            {
                "what": f"hamnet, {name}",
                "labels_per_second": rate,
                "relative_to_loop": rate / base,
                "relative_to_1_worker": rate / one,
                "seconds": seconds,
            }
        )
    return rows


def cheap_label(task: Task) -> tuple[Record, OrbitalBasis]:
    """Return a record of numbers that cost nothing."""
    layout = molecule_layout(CHEAP_BASIS.atom_offsets(task.structure.numbers))
    entries = np.full(int(layout.boundaries[-1]), task.structure.positions[0, 0])
    energies = np.zeros((1, layout.n_orbitals))
    key = record_id(task.structure, LEVEL)
    record = Record(
        key, task.structure, layout, entries[None], entries, {}, energies, energies, "", task.origin
    )
    return record, CHEAP_BASIS


def many_tasks(n: int) -> Iterator[Task]:
    """Yield so many waters, each another."""
    for k in range(n):
        positions = WATER + np.array([1e-4 * k, 0.0, 0.0])
        yield Task(Structure([8, 1, 1], positions), f"frame {k}", order=k)


def resident_mb() -> float:
    """Return the memory that this process holds now, MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def memory_rows(n: int, n_workers: int) -> list[dict[str, Any]]:
    """Return the resident memory along a run over many frames, and the time of its end."""
    how = f"through {n_workers} worker" if n_workers else "in process"
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()

    def note(progress: Any) -> None:
        if progress.done and progress.done % (n // 5) == 0:
            rows.append(_row(f"{progress.done} frames {how}", start))
            print(rows[-1], file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.h5"
        with Writer(path, LEVEL) as writer:
            process(
                many_tasks(n), writer, cheap_label, total=n, n_workers=n_workers, on_progress=note
            )
            begin = time.perf_counter()
            writer.finish()
        rows.append(_row(f"writing {n} records", begin))
        begin = time.perf_counter()
        with Writer(path, LEVEL) as writer:
            record, basis = cheap_label(Task(Structure([8, 1, 1], WATER - 1.0), "one more"))
            writer.append(record, basis)
            writer.finish()
        rows.append(_row(f"adding 1 record to {n}", begin))
        begin = time.perf_counter()
        assert len(Store.open(path)) == n + 1
        rows.append(_row(f"opening {n} records", begin))
    return rows


def _row(what: str, begin: float) -> dict[str, Any]:
    seconds = time.perf_counter() - begin
    return {"what": what, "resident_mb": resident_mb(), "seconds": seconds}


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--part", choices=("all", "speed", "memory"), default="all")
    arguments = made.parse_args()
    rows: list[dict[str, Any]] = []
    if arguments.part != "memory":
        rows += speed_rows(16 if arguments.quick else 160)
    if arguments.part != "speed":
        rows += memory_rows(500 if arguments.quick else 100_000, n_workers=1)
        rows += memory_rows(2_000 if arguments.quick else 100_000, n_workers=0)
    finish(rows, arguments, level=LEVEL.model_dump(mode="json"))


if __name__ == "__main__":
    main()
