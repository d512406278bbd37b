"""Workers, schedulers and writers die; a frame is lost only if it is itself the murderer."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import LocalCluster
from typer.testing import CliRunner

from hamnet.data.journal import Journal
from hamnet.data.level import LevelOfTheory
from hamnet.data.store import Store, partial_path
from hamnet.errors import HamnetError
from hamnet_cli.app import app
from hamnet_datasets.engine import run_tasks
from hamnet_datasets.jobs import Options, label_file
from tests.synthetic import make_record, open_writer, write_records

LEVEL = LevelOfTheory(xc="lda,vwn", basis="sto-3g", grid_level=0)
H2 = "2\n\nH 0 0 0\nH 0 0 {:.6f}\n"


def kill_yourself(task: int) -> int:
    """Dies of a seven; the others take a moment, so that they wait on the worker that dies."""
    if task == 7:
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return task * task


def test_a_murderer_is_found_and_the_frames_behind_it_are_not_blamed():
    results = dict(run_tasks(kill_yourself, range(24), n_workers=2))
    assert len(results) == 24
    assert "died" in str(results.pop(7))
    assert results == {k: k * k for k in range(24) if k != 7}


def test_workers_killed_at_random_cost_no_frame():
    rng = np.random.default_rng(0)
    victims, results = 0, {}
    for task, result in run_tasks(kill_yourself, range(100, 160), n_workers=2):
        results[task] = result
        if len(results) in (5, 20, 35):
            workers = [
                child
                for child in psutil.Process().children(recursive=True)
                if "spawn_main" in " ".join(child.cmdline())
            ]
            workers[int(rng.integers(len(workers)))].kill()
            victims += 1
    assert victims == 3
    assert results == {k: k * k for k in range(100, 160)}


def test_a_running_scheduler_is_used_and_gives_the_same_labels(tmp_path):
    path = tmp_path / "h.xyz"
    path.write_text("".join(H2.format(0.7 + 0.01 * k) for k in range(6)))
    label_file(path, tmp_path / "here.h5", LEVEL)
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        options = ["--scheduler", cluster.scheduler_address, "--xc", "lda,vwn", "--basis", "sto-3g"]
        command = ["label", str(path), *options, "-o", str(tmp_path / "there.h5"), "--json"]
        run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.stderr
    assert json.loads(run.stdout)["n_new"] == 6
    label_file(path, tmp_path / "same.h5", LevelOfTheory(xc="lda,vwn", basis="sto-3g"))
    there, same = Store.open(tmp_path / "there.h5"), Store.open(tmp_path / "same.h5")
    for one, two in zip(there, same, strict=True):
        np.testing.assert_array_equal(one.hamiltonian, two.hamiltonian)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense"])
def test_no_scheduler_is_said_so(tmp_path, address, monkeypatch):
    monkeypatch.setattr("hamnet_datasets.engine.SECONDS_TO_CONNECT", 1)
    with pytest.raises(HamnetError, match="no Dask scheduler answers at"):
        list(run_tasks(abs, [1], scheduler=address))


def test_a_writer_killed_at_twenty_moments_loses_nothing_and_writes_nothing_twice(tmp_path):
    """Processes append records and finish; each is killed at a random moment."""
    path, n = tmp_path / "a.h5", 60
    moments = np.random.default_rng(2).uniform(0.0, 0.12, size=20)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.synthetic"])
    write_records(tmp_path / "first.h5", 1)  # and the server is up
    first = context.Process(target=write_records, args=(tmp_path / "first.h5", 2))
    first.start()
    first.join()
    seen, killed = 0, 0
    for moment in moments:
        process = context.Process(target=write_records, args=(path, n))
        process.start()
        time.sleep(moment)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        if path.exists():
            assert len(Store.open(path)) == n
            path.unlink()  # and once more from the beginning
            partial_path(path).unlink(missing_ok=True)
            seen = 0
            continue
        if partial_path(path).exists():
            journal = Journal(partial_path(path))
            assert journal.n_damaged == 0
            assert len(journal) >= seen
            seen = len(journal)
            journal.close()
    write_records(path, n)
    store = Store.open(path)
    assert killed >= 5
    assert store.ids == [make_record(k).id for k in range(n)]
    np.testing.assert_array_equal(store[n - 1].hamiltonian, make_record(n - 1).hamiltonian)


def test_the_second_writer_is_refused_with_the_pid_of_the_first(tmp_path):
    path = tmp_path / "h.xyz"
    path.write_text(H2.format(0.74))
    out = tmp_path / "h.h5"
    code = (
        "import sys; from pathlib import Path; from hamnet.data.journal import Journal;"
        f"j = Journal(Path({str(partial_path(out))!r})); print('ready', flush=True); input()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    first.stdout.readline()
    level = ["--xc", "lda,vwn", "--basis", "sto-3g", "--workers", "0"]
    run = CliRunner().invoke(app, ["label", str(path), *level, "-o", str(out)])
    first.communicate("\n")
    assert run.exit_code == 1
    assert f"another process is writing {partial_path(out)} (pid {first.pid})" in run.stderr


def test_a_full_disk_during_a_rewrite_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.h5"
    write_records(path, 1)
    before = path.read_bytes()
    limit = path.stat().st_size + 200_000  # stands for a disk: of the journal, then of the file
    code = (
        "from pathlib import Path; from tests.synthetic import write_records;"
        f"write_records(Path({str(path)!r}), 60)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert process.returncode != 0
    assert "make room and run the same command again" in process.stderr
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.h5", "a.h5.partial"]
    with open_writer(path) as writer:
        assert len(writer) > 1
    write_records(path, 60)
    assert len(Store.open(path)) == 60


def test_999_of_1000_come_out(tmp_path):
    """A quick basis of one function an atom; one frame of each kind that can go wrong."""
    frames = [H2.format(0.6 + 3e-4 * k) for k in range(1000)]
    bad = {
        200: "2\n\nH 0 0 0\nH 0 0 nan\n",
        400: "2\n\nH 0 0 0\nH 0 0 0\n",
        600: "2\n\nU 0 0 0\nU 0 0 4\n",
        800: "2\nProperties=species:S:1:pos:R:3 spin=1\nH 0 0 0\nH 0 0 0.74\n",
    }
    for at, frame in bad.items():
        frames.insert(at, frame)
    path = tmp_path / "h.xyz"
    path.write_text("".join(frames))
    report = label_file(path, tmp_path / "h.h5", LEVEL, options=Options(references=("none",)))
    assert report.n_records == 1000
    assert [f.origin.split()[-1] for f in report.failures] == [str(at) for at in bad]
    assert [f.stage for f in report.failures] == ["read", "input", "input", "input"]
    summary = json.loads(
        CliRunner().invoke(app, ["data", "info", str(tmp_path / "h.h5"), "--json"]).stdout
    )
    assert len(summary["failures"]) == 4
