"""Model files of older versions, brought to the present one step by step."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hamnet.errors import HamnetError
from hamnet.models.metadata import FORMAT_VERSION

Tensors = dict[str, Any]
"""Weights by name."""


def _to_2(data: dict[str, Any], tensors: Tensors) -> None:
    """Version 2 has uncertainty, parent and the citation of the data; a version 1 has none."""


def _to_3(data: dict[str, Any], tensors: Tensors) -> None:
    """Version 3 has further features of atoms for the readout, and other names for their kind."""
    data["model"]["node_expansion"] = 0
    for old in list(tensors):
        new = re.sub(r"\.feed\.(up|gates)\.", r".feed.expand.\1.", old)
        tensors[new] = tensors.pop(old)


def _to_4(data: dict[str, Any], tensors: Tensors) -> None:
    """Version 4 has blocks that fall with the distance as the labels do, and messages as well."""
    data["model"]["message_range"] = 1e9
    tensors["network.decay.rates"] = torch.zeros(2, dtype=torch.float64)


def _to_5(data: dict[str, Any], tensors: Tensors) -> None:
    """Version 5 has features that are made of the density of H0's orbitals."""
    data["model"]["density_weight"] = 0.0


def _to_6(data: dict[str, Any], tensors: Tensors) -> None:
    """Version 6 has potentials of atoms that are added to H0; a version 5 has none."""


UPGRADES: Mapping[int, Callable[[dict[str, Any], Tensors], None]] = {
    1: _to_2,
    2: _to_3,
    3: _to_4,
    4: _to_5,
    5: _to_6,
}
"""From a version to the next: each changes metadata and weights in place."""


def upgrade(data: dict[str, Any], tensors: Tensors, source: str) -> None:
    """Bring metadata and weights to the present version, in place.

    Raises:
        HamnetError: a version that this hamnet does not know.
    """
    found = data.get("format_version")
    if not isinstance(found, int) or found not in {*UPGRADES, FORMAT_VERSION}:
        raise HamnetError(
            f"{source}: model format version {found}, this hamnet reads versions "
            f"{min(UPGRADES)} to {FORMAT_VERSION}; use the hamnet version with which the model was "
            "made, or train again"
        )
    for version in range(found, FORMAT_VERSION):
        UPGRADES[version](data, tensors)
        data["format_version"] = version + 1
