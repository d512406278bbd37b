"""What a run starts from: data, units and a model with random weights."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hamnet.blocks import SpinKind
from hamnet.data.identity import hash_ids
from hamnet.data.samples import has_density
from hamnet.data.splits import split_of
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.irreps import BlockType
from hamnet.models import HamiltonianModel
from hamnet.models.metadata import Metadata, TrainingData, library_versions
from hamnet.models.model import type_name
from hamnet.models.ranges import RangeMeter
from hamnet.nn.execution import Execution
from hamnet.nn.radial import nearness
from hamnet.nn.readout import block_rows, block_types
from hamnet.nn.standardise import TRACE_FLOOR
from hamnet.references import Reference
from hamnet.structure import IntArray
from hamnet.training.callbacks import Report
from hamnet.training.config import TrainConfig
from hamnet.training.dataset import RecordDataset, SampleDataset, support_radius
from hamnet.training.finetune import (
    check_same_basis,
    describe_start,
    inherit,
    take_over,
)
from hamnet.training.potential_fit import fit_potentials

CRYSTAL_L_MAX = 4
"""Least degree of a crystal's features: its bases are small, but neighbours stand all around. With
s and p orbitals alone degree 2 would do for the blocks, and costs three times the error of H."""

DENSITY_WEIGHT = 0.2
"""Size of the density's features where nothing is said; 0.15 to 0.3 are as good."""


@dataclass(frozen=True, eq=False)
class Setup:
    """A run before its first step.

    Attributes:
        model: random weights; units of the training data.
        train: training samples, with goals.
        validation: validation samples that the model can predict, likewise.
        uniform: every training sample has blocks of every type.
    """

    model: HamiltonianModel
    train: SampleDataset
    validation: SampleDataset
    uniform: bool


def set_up(
    store: Store,
    split: Mapping[str, IntArray],
    config: TrainConfig,
    report: Report,
    parent: HamiltonianModel | None = None,
) -> Setup:
    """Return model and data of a run; the weights follow from the seed, and from the parent.

    Args:
        store: the labels.
        split: rows of the store, see `choose_split`.
        config: all settings.
        report: takes lines of progress.
        parent: model to start from, see `hamnet.training.finetune.load_parent`.

    Raises:
        HamnetError: molecules and crystals in one file.
    """
    torch.manual_seed(config.training.seed)
    if parent is not None:
        check_same_basis(store, parent, str(config.training.start_from))
    cutoffs = choose_cutoffs(store, split["train"], config)
    labels = {name: RecordDataset(store, split[name]) for name in ("train", "validation")}
    reference = parent.reference if parent else _reference(labels["train"], config)
    train, validation = (SampleDataset(some, cutoffs, reference) for some in labels.values())
    metadata = _metadata(store, train, split, config)
    if parent is not None:
        metadata = inherit(metadata, parent, str(config.training.start_from))
    model = HamiltonianModel(metadata)
    model.network.to(getattr(torch, config.training.precision))
    model.network.execution = Execution(compiled=config.training.compile)
    uniform = _fit_units(model, train, parent)
    if parent is not None:
        take_over(model, parent)
        report(describe_start(metadata, parent.metadata))
    validation = _usable(model, validation, report)
    train.prepare = validation.prepare = model.with_goals
    n_parameters = sum(p.numel() for p in model.network.parameters())
    report(
        f"{len(train)} training and {len(validation)} validation frames; "
        f"{n_parameters / 1e6:.2f} M parameters; reference {config.target.reference}"
    )
    return Setup(model, train, validation, uniform)


def step_execution(config: TrainConfig) -> Execution:
    """Return how the network is run in gradient steps."""
    return Execution(
        compiled=config.training.compile,
        checkpoint=config.training.checkpoint_activations,
        bf16=config.training.matmul_precision == "bf16",
    )


def choose_split(store: Store, config: TrainConfig) -> dict[str, IntArray]:
    """Return the file's own split, or one by groups.

    Raises:
        HamnetError: no records, or none to train on.
    """
    if not len(store):
        raise HamnetError(f"{store.path}: holds no labelled frames")
    split = split_of(store, config.data.fractions, config.data.split_seed)
    if not len(split["train"]):
        raise HamnetError(f"{store.path}: the split leaves no frame to train on")
    return split


def choose_cutoffs(store: Store, training: IntArray, config: TrainConfig) -> tuple[float, float]:
    """Return message and pair cutoff, Angstrom: of crystals the labels' own support at the most.

    Raises:
        HamnetError: molecules and crystals in one file.
    """
    model = config.model
    kinds = {store.structure(int(k)).is_periodic for k in training}
    if len(kinds) == 2:
        raise HamnetError(
            f"{store.path}: holds molecules and crystals; train a model for each, 'hamnet data' "
            "splits files"
        )
    pair = model.pair_cutoff
    if kinds == {True} and config.training.start_from is None:  # a parent's weights know its own
        pair = min(pair, support_radius(store[int(k)] for k in training))
    return min(model.message_cutoff, pair), pair


def _reference(records: RecordDataset, config: TrainConfig) -> Reference:
    """Return H0, with potentials that are fitted to the training records."""
    kind = config.target.reference
    if kind == "none" or not config.target.potentials or records[0].structure.is_periodic:
        return Reference(kind)
    return Reference(kind, fit_potentials(records, kind))


def _metadata(
    store: Store, samples: SampleDataset, split: Mapping[str, IntArray], config: TrainConfig
) -> Metadata:
    """Describe the training data: what the model may be used for later."""
    types: set[BlockType] = set()
    charges, spins, n_neighbours, n_atoms = set(), set(), 0.0, 0
    ranges = RangeMeter()
    for k in range(len(samples)):
        structure, sample = samples.records[k].structure, samples[k]
        charges.add(structure.charge)
        spins.add(structure.spin)
        types |= set(block_types(sample.graph))
        ranges.add(sample.graph)
        distance = sample.graph.pair_vectors()[sample.graph.edges].norm(dim=1)
        near = nearness(distance, samples.cutoffs[0], config.model.message_range)
        n_neighbours += 2 * float(near.square().sum())  # a pair has two messages
        n_atoms += len(structure)
    ordered = sorted(types, key=lambda t: (not t.on_site, t.z_i, t.z_j))
    used = [store.ids[k] for name in ("train", "validation") for k in split[name]]
    periodic, l_max = samples.records[0].structure.is_periodic, config.model.l_max
    if periodic and l_max is None:
        l_max = max(CRYSTAL_L_MAX, 2 * store.basis.l_max + store.level.is_spinor)
    resolved: dict[str, object] = {"l_max": l_max}
    resolved |= zip(("message_cutoff", "pair_cutoff"), samples.cutoffs, strict=True)
    resolved["density_weight"] = _density_weight(store, config, periodic=periodic)
    potentials = samples.reference.potentials
    return Metadata(
        basis=store.basis.to_dict(),
        level=store.level,
        pairs=tuple(type_name(t) for t in ordered),
        charges=tuple(sorted(charges)),
        spins=tuple(sorted(spins)),
        reference=samples.reference.kind,
        potentials=potentials.to_dict() if potentials else {},
        n_neighbours=n_neighbours / n_atoms,
        ranges=ranges.result(),
        periodic=periodic,
        model=config.model.model_copy(update=resolved),
        data=TrainingData(
            name=str(store.card.get("name", store.path.stem)),
            licence=str(store.card.get("licence", "")),
            citation=str(store.card.get("citation", "")),
            id=hash_ids(store.ids),
            n_train=len(split["train"]),
            n_validation=len(split["validation"]),
            n_test=len(split["test"]),
            split_id=hash_ids(used),
        ),
        settings=config.model_dump(mode="json"),
        seed=config.training.seed,
        versions=library_versions(),
    )


def _density_weight(store: Store, config: TrainConfig, *, periodic: bool) -> float:
    """Return the weight of the features that are made of the density of H0's orbitals.

    Raises:
        HamnetError: it was asked for where there is none.
    """
    kind = SpinKind.SPINOR if store.level.is_spinor else SpinKind.CLOSED
    known = has_density(config.target.reference, kind) and not periodic
    weight = config.model.density_weight
    if weight and not known:
        raise HamnetError(
            f"model.density_weight = {weight}, but only H0 of molecules with target.reference = "
            f"minao and without spin-orbit coupling has a density to look at; leave "
            "model.density_weight out"
        )
    if weight is None:
        return DENSITY_WEIGHT if known else 0.0
    return weight


def _usable(model: HamiltonianModel, samples: SampleDataset, report: Report) -> SampleDataset:
    """Leave out the validation frames for which the training frames did not make the model."""
    usable, reasons = [], []
    for k, index in enumerate(samples.records.indices):
        try:
            model.check(samples.records[k].structure)
            model.check_pairs(samples[k].graph)
        except HamnetError as error:
            reasons.append(str(error))
        else:
            usable.append(index)
    if not reasons:
        return samples
    report(f"{len(reasons)} validation frames are left out, the first because {reasons[0]}")
    records = RecordDataset(samples.records.store, usable)
    return SampleDataset(records, samples.cutoffs, samples.reference)


def _fit_units(
    model: HamiltonianModel, samples: SampleDataset, parent: HamiltonianModel | None
) -> bool:
    """Set decay (a parent's own), shift and scale; return if all samples have all block types."""
    uniform = True
    irreps: dict[BlockType, list[torch.Tensor]] = {}
    distances: dict[BlockType, list[torch.Tensor]] = {}
    densities: dict[BlockType, list[torch.Tensor]] = {}
    for sample in (samples[k] for k in range(len(samples))):
        frames = model.frames(sample.graph)
        targets = model.targets(sample, frames)
        uniform = uniform and len(targets) == len(model.types)
        for t, blocks in sample.density.items():
            densities.setdefault(t, []).append(blocks)
        for t, h in targets.items():
            irreps.setdefault(t, []).append(h)
            if not t.on_site:
                distances.setdefault(t, []).append(frames.distance[block_rows(sample.graph, t)])
    targets = {t: torch.cat(rows) for t, rows in irreps.items()}
    lengths = {t: torch.cat(rows) for t, rows in distances.items()}
    if parent is None:
        sizes = {t: (targets[t].square().mean(dim=1) + TRACE_FLOOR**2).sqrt() for t in lengths}
        model.network.decay.fit([(r, sizes[t]) for t, r in lengths.items()])
    else:
        model.network.decay.load_state_dict(parent.network.decay.state_dict())
    envelopes = {t: model.network.envelope(r) for t, r in lengths.items()}
    model.standardiser.fit(targets, lengths, envelopes)
    if model.network.density is not None:
        model.network.density.fit({t: torch.cat(rows) for t, rows in densities.items()})
    return uniform
