"""A run in several processes of this machine: what torchrun does, from within hamnet."""

import multiprocessing
import os
import socket
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import (
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from hamnet.errors import HamnetError
from hamnet.training.callbacks import Report
from hamnet.training.config import TrainConfig
from hamnet.training.run import TrainResult, train

POLL_SECONDS = 0.2


def train_on_devices(
    data: Path, out: Path, config: TrainConfig, *, resume: bool = False, report: Report = print
) -> TrainResult:
    """Train with ``training.devices`` processes; arguments and errors are those of `train`.

    In a process that torchrun has started, that setting says nothing.

    Raises:
        HamnetError: also for more devices than there are.
    """
    n = config.training.devices
    if n == 1 or "WORLD_SIZE" in os.environ:
        return train(data, out, config, resume=resume, report=report)
    present = torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1
    if n > present:
        raise HamnetError(f"training.devices = {n}, but this machine has {present}")
    context = multiprocessing.get_context("spawn")
    messages = context.SimpleQueue()
    port, threads = _free_port(), max(1, torch.get_num_threads() // n)
    arguments = (n, port, threads, messages, data, out, config, resume)
    processes = start_processes(_work, arguments, nprocs=n, join=False, start_method="spawn")
    found: list[Any] = []

    def listen() -> None:
        while not messages.empty():
            kind, content = messages.get()
            if kind == "line":
                report(content)
            else:
                found.append(content)

    try:
        while not processes.join(timeout=POLL_SECONDS):
            listen()
    except (ProcessRaisedException, ProcessExitedException) as error:
        listen()
        if found and isinstance(found[0], HamnetError):
            raise found[0] from None
        raise HamnetError(f"a training process failed: {error}") from error
    listen()
    result: TrainResult = found[0]
    return result


def _work(
    rank: int,
    n: int,
    port: int,
    threads: int,
    messages: "SimpleQueue[tuple[str, Any]]",
    data: Path,
    out: Path,
    config: TrainConfig,
    resume: bool,
) -> None:
    """Run one process; the first one sends lines of progress and what came out."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(n),
        LOCAL_WORLD_SIZE=str(n),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
    )
    torch.set_num_threads(threads)
    try:
        result = train(
            data, out, config, resume=resume, report=lambda line: messages.put(("line", line))
        )
    except HamnetError as error:
        messages.put(("error", error))
        raise
    if rank == 0:
        messages.put(("result", result))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
