"""Variants that the ablation compares, each a list of settings."""

from collections.abc import Mapping

from published_tracegrad import PublishedNetwork

from hamnet.models.model import MODELS

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "plain": ("model.tracegrad=none",),
    "trace only": ("model.tracegrad=both", "model.tracegrad_features=false"),
    "features only": ("model.tracegrad=both", "loss.trace=0"),
    "both": ("model.tracegrad=both",),
    "both, on nodes": ("model.tracegrad=nodes",),
    "both, on pairs": ("model.tracegrad=pairs",),
    "both, rank 64": ("model.tracegrad=both", "model.tracegrad_rank=64"),
    "both, rank 128": ("model.tracegrad=both", "model.tracegrad_rank=128"),
    "published": ("model.name=so2-published-tracegrad",),
}
"""Name and overrides; what they do not name is the default of `hamnet train`."""


def register() -> None:
    """Make the networks that are no part of hamnet known to it, in this process."""
    MODELS["so2-published-tracegrad"] = PublishedNetwork
