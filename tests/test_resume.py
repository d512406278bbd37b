"""Labelling survives kill -9, Ctrl-C, dead workers and a full disk: nothing lost or doubled."""

import os
import resource
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from hamnet.data.level import LevelOfTheory
from hamnet.data.store import Store, partial_path
from hamnet.interop.ase import read_frames
from hamnet_datasets.engine import repeating_lost_interrupts, run_tasks
from hamnet_datasets.jobs import Options, label_file
from hamnet_datasets.labels import Task, label

N_FRAMES = 16
LEVEL = LevelOfTheory(xc="lda,vwn", basis="sto-3g", grid_level=4)
COMMAND = [sys.executable, "-c", "from hamnet_cli.app import app; app()", "label"]
OPTIONS = ["--xc", "lda,vwn", "--basis", "sto-3g", "--tight"]


@pytest.fixture(autouse=True)
def heeding_ctrl_c() -> Iterator[None]:
    """What a shell starts in the background ignores Ctrl-C, and so does all that it starts."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.fixture(scope="module")
def waters(tmp_path_factory) -> Path:
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("frames") / "waters.xyz"
    corners = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    with path.open("w") as file:
        for _ in range(N_FRAMES):
            file.write("3\n\n")
            for name, p in zip("OHH", corners + 0.05 * rng.standard_normal((3, 3)), strict=True):
                file.write(f"{name} {p[0]:.8f} {p[1]:.8f} {p[2]:.8f}\n")
    return path


@pytest.fixture(scope="module")
def expected(waters, tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("whole") / "waters.h5"
    label_file(waters, path, LEVEL)
    return Store.open(path)


def assert_complete(path: Path, expected: Store) -> None:
    store = Store.open(path)
    assert sorted(store.ids) == sorted(expected.ids)
    by_id = {record.id: record for record in store}
    for record in expected:
        np.testing.assert_array_equal(by_id[record.id].hamiltonian, record.hamiltonian)
    assert store.failures == []
    assert list(path.parent.iterdir()) == [path]


def start(waters: Path, out: Path, workers: int, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, str(waters), *OPTIONS, "--workers", str(workers), "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_until_it_grows(path: Path, process: subprocess.Popen, n_bytes: int) -> None:
    """Return as soon as the journal has grown by so much: a bad moment to be killed."""
    first = path.stat().st_size if path.exists() else 0
    while process.poll() is None and (not path.exists() or path.stat().st_size < first + n_bytes):
        time.sleep(1e-4)


def test_kill_9_again_and_again(tmp_path, waters, expected):
    path = tmp_path / "waters.h5"
    for n_bytes in (1, 9000, 20000):
        process = start(waters, path, workers=0)
        wait_until_it_grows(partial_path(path), process, n_bytes)
        process.kill()
        process.communicate()
        assert not path.exists()
    process = start(waters, path, workers=0)
    out, _ = process.communicate()
    assert process.returncode == 0
    new, known = (int(out.split(word)[0].split()[-1].strip("(")) for word in (" new", " there"))
    assert known >= 3
    assert new + known == N_FRAMES
    assert_complete(path, expected)


def test_ctrl_c_stops_cleanly_and_the_next_run_goes_on(tmp_path, waters, expected):
    path = tmp_path / "waters.h5"
    process = start(waters, path, workers=2, start_new_session=True)
    wait_until_it_grows(partial_path(path), process, 12000)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the group
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"run the same command again to go on with {path}" in errors
    assert not path.exists()
    report = label_file(waters, path, LEVEL)
    assert report.progress.known >= 1
    assert_complete(path, expected)


class Finalised:
    def __del__(self) -> None:
        raise KeyboardInterrupt


class Watched:
    pass


def raise_interrupt(_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["finaliser", "callback"])
def test_a_ctrl_c_that_python_drops_comes_again(kind):
    with pytest.raises(KeyboardInterrupt), repeating_lost_interrupts():  # noqa: PT012
        if kind == "finaliser":
            Finalised()
        else:
            watched = Watched()
            reference = weakref.ref(watched, raise_interrupt)
            del watched
            assert reference() is None
        time.sleep(5)


def test_a_worker_that_dies_costs_nothing(tmp_path, waters, expected):
    path = tmp_path / "waters.h5"
    killed: list[int] = []

    def kill_one_worker(progress) -> None:
        if progress.labelled == 3 and not killed:
            workers = [
                child
                for child in psutil.Process().children(recursive=True)
                if "spawn_main" in " ".join(child.cmdline())
            ]
            killed.append(workers[0].pid)
            workers[0].kill()

    label_file(waters, path, LEVEL, options=Options(n_workers=2, on_progress=kill_one_worker))
    assert killed
    assert_complete(path, expected)


def test_workers_give_the_numbers_that_one_process_gives(waters, expected):
    frames = [f for f in read_frames(waters) if f.index < 2]
    tasks = [Task(f.structure, f.origin, order=f.index) for f in frames]
    for task, outcome in run_tasks(len, [()] * 3):
        assert (task, outcome) == ((), 0)
    for task in tasks:
        record = label(task.structure, LEVEL)
        np.testing.assert_array_equal(record.hamiltonian, expected[task.order].hamiltonian)


def test_an_exception_in_a_task_is_a_result_of_that_task():
    results = dict(run_tasks(abs, [1, "two", -3]))
    assert results[1] == 1
    assert results[-3] == 3
    assert isinstance(results["two"], TypeError)


def test_a_task_that_kills_its_workers_fails_and_the_others_do_not():
    results = dict(run_tasks(os._exit, [1], n_workers=1))
    assert "died" in str(results[1])


@pytest.mark.parametrize("limit", [40_000, 1_000_000])
def test_a_full_disk_loses_nothing(tmp_path, waters, expected, limit):
    """A limit on file sizes stands for a full disk: the journal, then the HDF5 file, hits it."""
    path = tmp_path / "waters.h5"
    process = start(
        waters,
        path,
        workers=0,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    out, errors = process.communicate()
    assert process.returncode == 1
    assert out == ""
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert "make room and run the same command again" in line
    assert list(tmp_path.iterdir()) == [partial_path(path)]
    report = label_file(waters, path, LEVEL)
    assert report.progress.known >= 3
    assert_complete(path, expected)
