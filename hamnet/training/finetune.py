"""Start from another model's weights: what is kept, what is new."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.models import HamiltonianModel, load_model
from hamnet.models.files import model_file
from hamnet.models.metadata import Metadata, Parent
from hamnet.models.model import parse_type
from hamnet.structure import symbol
from hamnet.training.config import TrainConfig

_ELEMENT_TABLES = (
    "element.weight",
    "message_embedding.element.weight",
    "pair_embedding.element.weight",
)
"""Weights with a row for each element, by atomic number."""


def load_parent(config: TrainConfig) -> tuple[TrainConfig, HamiltonianModel | None]:
    """Return the settings as the model of ``training.start_from`` has them, and that model.

    The settings themselves and None where a run starts from nothing.

    Raises:
        HamnetError: no such model, or it contradicts the settings.
    """
    start = config.training.start_from
    if start is None:
        return config, None
    parent = load_model(start)
    return adopt(config, parent), parent


def adopt(config: TrainConfig, parent: HamiltonianModel) -> TrainConfig:
    """Return the settings with the parent's network and reference.

    Raises:
        HamnetError: a setting was given that contradicts the parent: its weights would not fit.
    """
    source, metadata = config.training.start_from, parent.metadata
    model = metadata.model.model_copy(update={"l_max": parent.network.l_max})
    given = {f"model.{k}": getattr(config.model, k) for k in config.model.model_fields_set}
    kept = {f"model.{k}": v for k, v in model.model_dump().items()}
    if "reference" in config.target.model_fields_set:
        given["target.reference"] = config.target.reference
    kept["target.reference"] = metadata.reference
    for name, value in given.items():
        if value != kept[name] and value is not None:
            raise HamnetError(
                f"{name} = {value}, but the model {source} has {kept[name]}, and its weights fit "
                f"no other: leave {name} out, or train without --from"
            )
    target = config.target.model_copy(update={"reference": metadata.reference})
    return config.model_copy(update={"model": model, "target": target})


def check_same_basis(store: Store, parent: HamiltonianModel, source: str) -> None:
    """Check that a model's weights mean the same in the labels of a file.

    Args:
        store: the labels.
        parent: the model to start from.
        source: its file or folder.

    Raises:
        HamnetError: the two define the basis of an element differently; one has spin-orbit
            coupling, the other not.
    """
    if store.level.is_spinor != parent.metadata.level.is_spinor:
        raise HamnetError(
            f"cannot start from {source}: it learnt labels with relativity "
            f"'{parent.metadata.level.relativity}', and the new ones have "
            f"'{store.level.relativity}': spin-orbit coupling needs other weights"
        )
    try:
        store.basis.merged(parent.basis)
    except HamnetError as error:
        raise HamnetError(f"cannot start from {source}: {error}") from None


def inherit(metadata: Metadata, parent: HamiltonianModel, source: str) -> Metadata:
    """Return the metadata of a model that starts from a parent's weights.

    Args:
        metadata: of the new training data.
        parent: the model to start from.
        source: its file or folder.
    """
    old = parent.metadata
    start = Parent(
        file=source,
        sha256=hashlib.sha256(model_file(Path(source)).read_bytes()).hexdigest(),
        data=old.data.name,
        kept=tuple(name for name in metadata.pairs if name in old.pairs),
        new=tuple(name for name in metadata.pairs if name not in old.pairs),
    )
    # the mean number of neighbours scales the sum of messages: the weights have learnt that
    kept = {"n_neighbours": old.n_neighbours, "overlap_floor": old.overlap_floor}
    return metadata.model_copy(update={"parent": start, **kept})


@torch.no_grad()
def take_over(model: HamiltonianModel, parent: HamiltonianModel) -> None:
    """Copy what a model shares with its parent: weights by name, elements' rows, units of targets.

    What is new keeps its random weights, and the units of its own training data.

    Args:
        model: new, with the parent's architecture; changed in place.
        parent: may know other elements and pairs.
    """
    known = parent.network.state_dict()
    for name, weight in model.network.state_dict().items():
        if name in _ELEMENT_TABLES:
            _copy_elements(weight, model, known[name], parent)
        elif name in known:
            weight.copy_(known[name])
    units = parent.standardiser.state_dict()
    for name, buffer in model.standardiser.state_dict().items():
        if name in units:
            buffer.copy_(units[name])


def _copy_elements(
    weight: Tensor, model: HamiltonianModel, known: Tensor, parent: HamiltonianModel
) -> None:
    """Copy the rows of a table of elements, sorted by atomic number in both."""
    mine, theirs = sorted(model.elements), sorted(parent.elements)
    for row, z in enumerate(mine):
        if z in theirs:
            weight[row] = known[theirs.index(z)]


def describe_start(metadata: Metadata, old: Metadata) -> str:
    """Return what a fine-tuned model keeps and what is new to it, one line."""
    kept = metadata.parent
    assert kept is not None
    parts = [f"from {kept.file}: kept the network"]
    if kept.kept:
        parts[0] += f", and readout and units of {', '.join(kept.kept)}"
    if kept.new:
        elements = [symbol(t.z_i) for t in map(parse_type, kept.new) if t.on_site]
        named = f" (elements {', '.join(elements)})" if elements else ""
        parts.append(f"new: {', '.join(kept.new)}{named}")
    if lost := [name for name in old.pairs if name not in metadata.pairs]:
        parts.append(f"not in the data, so given up: {', '.join(lost)}")
    if old.level.physics() != metadata.level.physics():
        parts.append(f"labels are {metadata.level}, the model learnt {old.level}")
    return "; ".join(parts)
