"""Work on many frames: one-thread worker processes by Dask, one writer, results as they come.

A worker process stays alive from frame to frame (importing PySCF costs more than a small label) and
runs one thread: two workers of one thread beat one worker of two. A worker that dies is replaced
and its frame tried again; a frame that keeps killing workers comes back as an exception.
"""

import itertools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from threading import Timer
from typing import TypeVar

import dask
from distributed import Client, KilledWorker, LocalCluster, as_completed
from pyscf import lib

from hamnet.data.failure import Failure
from hamnet.data.level import record_id
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet_datasets.labels import DEFAULT_REFERENCES, Known, Outcome, Skipped, Task, run_task

T = TypeVar("T")
R = TypeVar("R")
TaskT = TypeVar("TaskT", bound=Task)

IN_FLIGHT_PER_WORKER = 4
"""Enough to keep a worker busy, few enough to keep memory flat."""

SECONDS_TO_CONNECT = 10
SECONDS_BETWEEN_COUNTS = 5.0
"""Workers of a cluster come and go."""

_DEATHS_BEFORE_SUSPICION = 1

_WORKER_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
"""In place before a worker imports PySCF. Dask's own choice also makes malloc give back memory at
once, which costs PySCF page faults."""


def default_workers() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks(
    function: Callable[[T], R],
    tasks: Iterable[T],
    *,
    n_workers: int = 0,
    scheduler: str | None = None,
) -> Generator[tuple[T, R | Exception]]:
    """Yield ``(task, result)`` in the order in which results come.

    Args:
        function: a function of a module, so that it can be sent to other processes.
        tasks: taken one by one; only a few are in flight at any time.
        n_workers: worker processes; 0 works in this process, in order.
        scheduler: address of a running Dask scheduler, whose workers then do the work instead.

    Yields:
        The task with its result, or with the exception that it raised or its worker died of.

    Raises:
        HamnetError: no scheduler answers, or it is gone.
    """
    tasks = iter(tasks)
    if scheduler is not None:
        with connect(scheduler) as client:
            yield from _stream(client, function, tasks)
        return
    if n_workers == 0:
        for task in tasks:
            yield task, _call(function, task)
        return
    first = list(itertools.islice(tasks, n_workers))
    if not first:
        return
    cluster = _start_cluster(len(first))
    try:
        with Client(cluster) as client:
            yield from _stream(client, function, itertools.chain(first, tasks))
    finally:
        # Dask stumbles over a worker that is being replaced at this moment; all results are in, and
        # what is left of the workers ends with this process.
        with suppress(Exception):
            cluster.close()


def connect(scheduler: str) -> Client:
    """Connect to a running Dask scheduler and wait until it has a worker.

    Raises:
        HamnetError: no scheduler answers at this address.
    """
    try:
        client = Client(scheduler, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError, TimeoutError) as error:
        raise HamnetError(
            f"no Dask scheduler answers at '{scheduler}' ({type(error).__name__}): give the "
            "address that 'dask scheduler' prints, such as tcp://10.0.0.1:8786"
        ) from error
    client.wait_for_workers(1)
    return client


def _start_cluster(n_workers: int) -> LocalCluster:
    """Start workers that do not see Ctrl-C: only this process does, and it stops them.

    A blocked signal is inherited: by the cluster's thread, and by every worker that it starts.
    """
    resource_tracker.ensure_running()  # would unblock the signal if it were started later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    settings = {
        "distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT,
        "distributed.scheduler.allowed-failures": _DEATHS_BEFORE_SUSPICION,
    }
    try:
        with dask.config.set(settings):
            return LocalCluster(
                n_workers=n_workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # any free port: other runs have one too
                silence_logs=logging.CRITICAL,
                memory_limit=None,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call(function: Callable[[T], R], task: T) -> R | Exception:
    try:
        return _call_raising(function, task)
    except Exception as error:
        return error


def _call_raising(function: Callable[[T], R], task: T) -> R:
    with lib.with_omp_threads(1):  # the same label everywhere, to the last bit
        return function(task)


def _stream(
    client: Client, function: Callable[[T], R], tasks: Iterator[T]
) -> Iterator[tuple[T, R | Exception]]:
    """Keep the workers busy, and find out which task kills them.

    Dask blames every task that waits on a worker that dies. Those that it gives up are therefore
    tried again at the end, one after the other: who dies alone is guilty.
    """
    suspects: list[T] = []
    function = partial(_call_raising, function)
    for task, result in _flow(client, function, tasks, in_flight=None):
        if isinstance(result, KilledWorker):
            suspects.append(task)
        else:
            yield task, result
    for task, result in _flow(client, function, iter(suspects), in_flight=1):
        if isinstance(result, KilledWorker):
            yield (
                task,
                WorkerDiedError("the workers died of this frame, again and again: out of memory?"),
            )
        else:
            yield task, result


class WorkerDiedError(RuntimeError):
    """A task that kills the process that runs it."""


def _flow(
    client: Client, function: Callable[[T], R], tasks: Iterator[T], in_flight: int | None
) -> Iterator[tuple[T, R | Exception]]:
    """Yield results with so many tasks in flight; None: a few for each worker that there is now."""
    running: dict[str, T] = {}
    done = as_completed(with_results=True, raise_errors=False)
    asked, room = float("-inf"), 0

    def submit() -> None:
        nonlocal asked, room
        if time.monotonic() - asked > SECONDS_BETWEEN_COUNTS:
            asked = time.monotonic()
            room = in_flight or IN_FLIGHT_PER_WORKER * max(1, sum(client.nthreads().values()))
        for task in itertools.islice(tasks, max(0, room - len(running))):
            future = client.submit(function, task, pure=False)
            running[future.key] = task
            done.add(future)

    submit()
    for future, result in done:
        task = running.pop(future.key)
        if future.status in ("cancelled", "lost"):
            raise HamnetError(
                "the connection to the Dask scheduler is lost; finished labels are kept: run the "
                "same command again"
            )
        yield task, future.exception() if future.status == "error" else result
        del future, result
        submit()


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        total: frames asked for.
        labelled: new labels written.
        known: frames that the file holds already, and repeated ones.
        failed: frames without a label.
        skipped: frames left out on purpose.
        label_seconds: summed time of the new labels inside the workers.
        started: start of the run, `time.monotonic`.
    """

    total: int
    labelled: int = 0
    known: int = 0
    failed: int = 0
    skipped: int = 0
    label_seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Frames dealt with."""
        return self.labelled + self.known + self.failed + self.skipped

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.monotonic() - self.started


def label_frames(
    frames: Iterable[Task | Failure | Skipped | Known],
    writer: Writer,
    *,
    total: int,
    references: Sequence[str] = DEFAULT_REFERENCES,
    n_workers: int = 0,
    scheduler: str | None = None,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Label frames into a writer; frames that it holds already are skipped.

    Args:
        frames: tasks, frames that could not be read, that are left out or known; taken one by one.
        writer: receives every label the moment it is ready.
        total: number of frames, for the progress.
        references: reference Hamiltonians to store.
        n_workers: worker processes; 0 labels in this process.
        scheduler: address of a running Dask scheduler to use instead.
        retry_failed: try frames again that failed in an earlier run.
        on_progress: called after every frame.

    Raises:
        HamnetError: the writer cannot write, or the scheduler is gone; what is written is safe.
    """
    function = partial(run_task, level=writer.level, references=tuple(references))
    return process(
        frames,
        writer,
        function,
        total=total,
        n_workers=n_workers,
        scheduler=scheduler,
        retry_failed=retry_failed,
        on_progress=on_progress,
    )


def process(
    frames: Iterable[TaskT | Failure | Skipped | Known],
    writer: Writer,
    function: Callable[[TaskT], Outcome],
    *,
    total: int,
    n_workers: int = 0,
    scheduler: str | None = None,
    retry_failed: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Turn frames into records with any function; see `label_frames` for the arguments."""
    progress, reported = Progress(total), 0
    on_progress(progress)
    seen: set[str] = set()
    tasks = _new_tasks(frames, writer, progress, retry_failed, seen, on_progress)
    running = run_tasks(function, tasks, n_workers=n_workers, scheduler=scheduler)
    with repeating_lost_interrupts(), closing(running) as results:
        for task, outcome in results:
            _keep(outcome, task, writer, progress)
            if not isinstance(outcome, Failure | Exception):
                seen.discard(outcome[0].id)  # the writer knows it now
            reported = progress.done
            on_progress(progress)
    if progress.done != reported:  # frames at the end that needed no work
        on_progress(progress)
    return progress


@contextmanager
def repeating_lost_interrupts() -> Iterator[None]:
    """Let a Ctrl-C come again that Python drops: in a finaliser or a callback, such as Dask's."""
    usual = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            usual(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = usual


def _new_tasks(
    frames: Iterable[TaskT | Failure | Skipped | Known],
    writer: Writer,
    progress: Progress,
    retry_failed: bool,
    seen: set[str],
    on_progress: Callable[[Progress], None],
) -> Iterator[TaskT]:
    failed_before = {f.id for f in writer.failures if f.id and f.stage != "worker"}
    for frame in frames:
        if isinstance(frame, Skipped):
            progress.skipped += 1
            continue
        if isinstance(frame, Known):
            progress.known += 1
            continue
        if isinstance(frame, Failure):
            note_failure(frame, writer, progress)
            continue
        key = record_id(frame.structure, writer.level)
        if key in writer.ids or key in seen:
            progress.known += 1
            on_progress(progress)  # to sample the geometries of a recipe again may take minutes
        elif key in failed_before and not retry_failed:
            progress.failed += 1
        else:
            seen.add(key)
            yield frame


def _keep(outcome: Outcome | Exception, task: Task, writer: Writer, progress: Progress) -> None:
    if isinstance(outcome, Exception):
        reason = f"{type(outcome).__name__}: {outcome}"
        key = record_id(task.structure, writer.level)
        note_failure(Failure(task.origin, "worker", reason, key), writer, progress)
    elif isinstance(outcome, Failure):
        note_failure(outcome, writer, progress)
    else:
        record, basis = outcome
        writer.append(record, basis, order=task.order, subset=task.subset)
        progress.labelled += 1
        progress.label_seconds += record.seconds


def note_failure(failure: Failure, writer: Writer, progress: Progress) -> None:
    """Write and count a frame without a label."""
    writer.fail(failure)
    progress.failed += 1
