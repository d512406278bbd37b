"""Where the time of a call goes: forward and backward passes by stage, with the torch profiler.

Functions of hamnet are marked while a call is profiled. A stage's time is that of its functions
without the stages called from within. An operation of the backward pass belongs to the stage of the
forward operation that it differentiates: both carry the same sequence number.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

import hamnet.models.model as prediction
from hamnet.models import HamiltonianModel
from hamnet.models.so2_network import SO2Network
from hamnet.nn.assembler import BlockAssembler
from hamnet.nn.frames import PairFrames
from hamnet.nn.layers import MessageLayer, PairLayer
from hamnet.nn.node import FeedForward
from hamnet.nn.readout import LinearReadout
from hamnet.nn.standardise import Standardiser
from hamnet.nn.tracegrad import TraceGrad
from hamnet.references import Reference

MARK = "stage: "

FUNCTIONS: tuple[tuple[Any, str, str], ...] = (
    (prediction, "overlap", "overlap (PySCF)"),
    (Reference, "entries", "H0 (PySCF)"),
    (prediction, "valence_electrons", "overlap (PySCF)"),
    (prediction, "make_sample", "graph"),
    (prediction, "batch_samples", "graph"),
    (prediction, "orbitals", "dense matrices"),
    (prediction, "solve", "eigensolver"),
    (HamiltonianModel, "frames", "rotation"),
    (PairFrames, "to", "rotation"),
    (SO2Network, "forward", "rest of the network"),
    (MessageLayer, "forward", "convolution"),
    (PairLayer, "forward", "convolution"),
    (FeedForward, "forward", "feed-forward"),
    (TraceGrad, "forward", "tracegrad"),
    (LinearReadout, "forward", "readout"),
    (Standardiser, "physical", "assembly"),
    (Standardiser, "traces", "assembly"),
    (BlockAssembler, "forward", "assembly"),
    (BlockAssembler, "inverse", "assembly"),
)
"""Where a function is looked up, its name, and its stage."""


def stage(name: str) -> Any:
    """Return a context that counts what happens in it to a stage."""
    return record_function(MARK + name)


def stage_shares(call: Callable[[], object]) -> dict[str, float]:
    """Return the share of each stage in the time of a call, largest first."""
    with _marked(), profile(activities=[ProfilerActivity.CPU]) as profiler, stage("other"):
        call()
    events = sorted(profiler.events(), key=lambda e: e.time_range.start)
    spent: dict[str, float] = defaultdict(float)
    stage_of_number: dict[int, str] = {}
    for event in events:
        own, backward = _stage_of(event), event.name.startswith("autograd::engine::evaluate")
        if event.name.startswith(MARK):
            spent[event.name] += event.time_range.elapsed_us()
            if own:
                spent[own] -= event.time_range.elapsed_us()
        elif backward:
            source = stage_of_number.get(event.sequence_nr, own)
            spent[source] += event.time_range.elapsed_us()
            spent[own] -= event.time_range.elapsed_us()
        elif event.sequence_nr >= 0 and own:
            # of several operations with one number the last one made the node
            stage_of_number[event.sequence_nr] = own
    total = sum(spent.values())
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {name.removeprefix(MARK): round(us / total, 4) for name, us in ordered}


def _stage_of(event: Any) -> str:
    """Return the stage within which an event happened."""
    parent = event.cpu_parent
    while parent is not None and not parent.name.startswith(MARK):
        parent = parent.cpu_parent
    return parent.name if parent is not None else ""


@contextmanager
def _marked() -> Iterator[None]:
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in FUNCTIONS]
    try:
        for (owner, name, label), (_, _, original) in zip(FUNCTIONS, originals, strict=True):
            setattr(owner, name, _marking(original, label))
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _marking(function: Callable[..., Any], label: str) -> Callable[..., Any]:
    @wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        with stage(label):
            return function(*args, **kwargs)

    return marked
