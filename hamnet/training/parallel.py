"""Several processes that train one model: what they share, and who writes.

All processes run the same code. Each one computes its share of every batch; sums over the shares
make the result that of one process, so the number of processes changes the speed and nothing else.
With one process every function here returns what it was given.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that torchrun (or `hamnet.training.launch`) has started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process; the first one, 0, reports and writes."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def device() -> torch.device:
    """Return the device of this process."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's share, every `size`-th item."""
    return items[rank() :: size()]


def add(x: Tensor) -> Tensor:
    """Return the sum over the processes; in place, without gradient."""
    if size() > 1:
        distributed.all_reduce(x)
    return x


def gather(items: Sequence[T]) -> list[T]:
    """Return the items of all processes."""
    if size() == 1:
        return list(items)
    parts: list[Sequence[T]] = [[] for _ in range(size())]
    distributed.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def first(value: float) -> float:
    """Return the number that the first process has, such as its clock."""
    if size() == 1:
        return value
    x = torch.tensor(value, dtype=torch.float64)
    distributed.broadcast(x, src=0)
    return float(x)


def equalise(module: nn.Module) -> None:
    """Give every process the weights of the first one."""
    if size() > 1:
        for parameter in module.parameters():
            distributed.broadcast(parameter.data, src=0)
