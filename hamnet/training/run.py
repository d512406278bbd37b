"""A training run: from a store to a model file."""

import copy
import json
import logging
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from hamnet.data.identity import hash_ids
from hamnet.data.splits import split_of
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.files import write_text, writing
from hamnet.irreps import BlockType
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import HamiltonianModel, save_model
from hamnet.models.card import CARD_FILE, model_card
from hamnet.models.files import MODEL_FILE
from hamnet.models.metadata import Metadata, TrainingData, library_versions
from hamnet.models.model import type_name
from hamnet.models.ranges import RangeMeter
from hamnet.models.so2_network import SO2Network
from hamnet.nn.covariance import ReadoutCovariance
from hamnet.nn.readout import block_rows
from hamnet.structure import IntArray
from hamnet.training.callbacks import Heartbeat, History, Report, describe
from hamnet.training.config import TrainConfig, to_toml
from hamnet.training.dataset import (
    RecordDataset,
    SampleDataset,
    plain_loader,
    record_loader,
    train_loader,
)
from hamnet.training.finetune import adopt, describe_start, inherit, load_parent, take_over
from hamnet.training.module import TrainingModule
from hamnet.training.readout import solve_readout
from hamnet.training.uncertainty import MAX_FRAMES, add_uncertainty, fit_covariance

CHECKPOINT = Path("checkpoints") / "last.ckpt"
RESERVE = 0.08
"""Share of the wall time that is kept for the solution of the readout and the last validation."""


@dataclass(frozen=True)
class TrainResult:
    """What a run gives.

    Attributes:
        model_file: where the model is.
        metrics: errors on validation, the units in the names; empty without validation frames.
        n_steps: gradient steps.
        seconds: wall time.
    """

    model_file: Path
    metrics: Mapping[str, float]
    n_steps: int
    seconds: float


def train(
    data: Path, out: Path, config: TrainConfig, *, resume: bool = False, report: Report = print
) -> TrainResult:
    """Train a model on a store.

    Writes into ``out``: ``model.safetensors``, ``model.md``, ``metrics.json``, ``history.csv``,
    ``config.toml``, ``split.json`` and ``checkpoints/last.ckpt``.

    Args:
        data: HDF5 store.
        out: folder of the run.
        config: all settings.
        resume: continue from the last checkpoint in ``out``.
        report: takes lines of progress.

    Raises:
        HamnetError: nothing to train on; labels that cannot be used; a run in ``out`` that would be
            overwritten, or that has other settings than the one to be resumed.
    """
    begin = time.monotonic()
    torch.manual_seed(config.training.seed)
    parent = load_parent(config)
    if parent is not None:
        config = adopt(config, parent)
    with Store.open(data) as store:
        split = choose_split(store, config)
        _prepare_folder(out, config, resume)
        samples = [
            SampleDataset(
                RecordDataset(store, split[name]),
                (config.model.message_cutoff, config.model.pair_cutoff),
                config.target.reference,
            )
            for name in ("train", "validation")
        ]
        metadata = _metadata(store, samples[0], split, config)
        if parent is not None:
            metadata = inherit(metadata, parent, str(config.training.start_from))
        model = HamiltonianModel(metadata)
        model.network.to(getattr(torch, config.training.precision))
        _fit_units(model, samples[0])
        if parent is not None:
            take_over(model, parent)
            report(describe_start(metadata, parent.metadata))
        samples[1] = _usable(model, samples[1], report)
        n_parameters = sum(p.numel() for p in model.network.parameters())
        report(
            f"{len(samples[0])} training and {len(samples[1])} validation frames; "
            f"{n_parameters / 1e6:.2f} M parameters; reference {config.target.reference}"
        )
        _write_json(out / "split.json", {name: rows.tolist() for name, rows in split.items()})
        candidates = []
        if config.readout.solve:
            untrained = copy.deepcopy(model.network)
            candidates.append(_candidate("instant", model, samples, config, report))
            model.network = untrained
        module = _fit(model, samples, config, out, resume, report, begin)
        if module.global_step or not candidates:
            model.network = module.averaged_network() if module.global_step else model.network
            candidates.append(_candidate("trained", model, samples, config, report))
        best = _best(candidates)
    if len(candidates) > 1:
        report(f"kept: {best.name}")
    seconds = module.elapsed + time.monotonic() - begin
    model.network = best.network
    model.metadata = metadata.model_copy(update={"metrics": dict(best.metrics)})
    if best.covariance is not None:
        few = samples[1].first(MAX_FRAMES).records
        add_uncertainty(model, best.covariance, record_loader(few, config.training.batch_size))
    save_model(model, out / MODEL_FILE)
    write_text(out / CARD_FILE, model_card(model.metadata))
    summary = {
        "kept": best.name,
        "validation": best.metrics,
        "candidates": {c.name: c.metrics for c in candidates},
        "steps": module.global_step,
        "seconds": round(seconds, 1),
    }
    _write_json(out / "metrics.json", summary)
    return TrainResult(out / MODEL_FILE, best.metrics, module.global_step, seconds)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A network that may become the result, and its errors on the validation frames."""

    name: str
    network: SO2Network
    metrics: Mapping[str, float]
    covariance: ReadoutCovariance | None


def _candidate(
    name: str,
    model: HamiltonianModel,
    samples: list[SampleDataset],
    config: TrainConfig,
    report: Report,
) -> _Candidate:
    """Solve the readout of the model as it is, and measure it."""
    covariance = None
    if config.readout.solve:
        size = config.training.batch_size
        fitted = solve_readout(model, *(plain_loader(s, size) for s in samples))
        if config.readout.uncertainty and len(samples[1]):
            few = plain_loader(samples[1].first(MAX_FRAMES), size)
            covariance = fit_covariance(model, fitted, few)
    metrics = _validate(model, samples[1].records, config)
    if metrics:
        solved = ", readout solved" if config.readout.solve else ""
        report(f"{name}{solved}: validation {describe(metrics)}")
    return _Candidate(name, model.network, metrics, covariance)


def _best(candidates: list[_Candidate]) -> _Candidate:
    """Return the candidate with the smallest error of H; the last one without validation frames.

    With few frames or little time, random features and a solved readout ("instant") can be better
    than features that gradient steps have only begun to shape.
    """
    if not candidates[-1].metrics:
        return candidates[-1]
    return min(candidates, key=lambda c: c.metrics["h_mae_uha"])


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


def _prepare_folder(out: Path, config: TrainConfig, resume: bool) -> None:
    text = to_toml(config)
    settings = out / "config.toml"
    if resume:
        if not (out / CHECKPOINT).exists():
            raise HamnetError(f"{out}: no checkpoint to resume from ({CHECKPOINT})")
        if not zipfile.is_zipfile(out / CHECKPOINT):
            raise HamnetError(
                f"{out / CHECKPOINT}: damaged, the run cannot be resumed; start again in another "
                "folder"
            )
        if settings.read_text(encoding="utf-8") != text:
            raise HamnetError(
                f"{out}: the run has other settings than those given; resume with the same "
                f"(they are in {settings}), or choose another folder"
            )
        return
    if (out / MODEL_FILE).exists() or (out / CHECKPOINT).exists():
        raise HamnetError(
            f"{out}: holds a training run already; continue it with --resume, or choose another "
            "folder"
        )
    try:
        (out / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HamnetError(f"{out}: cannot be written ({error.strerror})") from error


def _metadata(
    store: Store, samples: SampleDataset, split: Mapping[str, IntArray], config: TrainConfig
) -> Metadata:
    """Describe the training data: what the model may be used for later."""
    types: set[BlockType] = set()
    charges, spins, n_messages, n_atoms = set(), set(), 0, 0
    ranges = RangeMeter()
    for k in range(len(samples)):
        structure, sample = samples.records[k].structure, samples[k]
        charges.add(structure.charge)
        spins.add(structure.spin)
        types |= set(sample.index)
        ranges.add(sample.graph)
        n_messages += 2 * len(sample.graph.edges)
        n_atoms += len(structure)
    ordered = sorted(types, key=lambda t: (not t.on_site, t.z_i, t.z_j))
    used = [store.ids[k] for name in ("train", "validation") for k in split[name]]
    return Metadata(
        basis=store.basis.to_dict(),
        level=store.level,
        pairs=tuple(type_name(t) for t in ordered),
        charges=tuple(sorted(charges)),
        spins=tuple(sorted(spins)),
        reference=config.target.reference,
        n_neighbours=n_messages / n_atoms,
        ranges=ranges.result(),
        model=config.model,
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


def _usable(model: HamiltonianModel, samples: SampleDataset, report: Report) -> SampleDataset:
    """Leave out the validation frames for which the training frames did not make the model."""
    usable, reasons = [], []
    for k, index in enumerate(samples.records.indices):
        try:
            model.check(samples.records[k].structure)
            model.check_pairs(samples[k])
        except HamnetError as error:
            reasons.append(str(error))
        else:
            usable.append(index)
    if not reasons:
        return samples
    report(f"{len(reasons)} validation frames are left out, the first because {reasons[0]}")
    records = RecordDataset(samples.records.store, usable)
    return SampleDataset(records, samples.cutoffs, samples.reference)


def _fit_units(model: HamiltonianModel, samples: SampleDataset) -> None:
    """Set shift and scale of the targets from the training data."""
    irreps: dict[BlockType, list[torch.Tensor]] = {}
    distances: dict[BlockType, list[torch.Tensor]] = {}
    for sample in (samples[k] for k in range(len(samples))):
        frames = model.frames(sample.graph)
        for t, h in model.targets(sample, frames).items():
            irreps.setdefault(t, []).append(h)
            if not t.on_site:
                distances.setdefault(t, []).append(frames.distance[block_rows(sample.graph, t)])
    model.standardiser.fit(
        {t: torch.cat(rows) for t, rows in irreps.items()},
        {t: torch.cat(rows) for t, rows in distances.items()},
    )


def _fit(
    model: HamiltonianModel,
    samples: list[SampleDataset],
    config: TrainConfig,
    out: Path,
    resume: bool,
    report: Report,
    begin: float,
) -> TrainingModule:
    """Run the gradient steps."""
    settings = config.training
    budget = 60 * settings.max_minutes * (1 - RESERVE) - (time.monotonic() - begin)
    module = TrainingModule(model, config, max(budget, 1e-3))
    if settings.max_steps == 0:
        return module
    loader = train_loader(
        samples[0], settings.batch_size, settings.seed, lambda: module.global_step
    )
    shown = min(len(samples[1]), settings.max_validation_frames)
    few = RecordDataset(samples[1].records.store, samples[1].records.indices[:shown])
    every = max(1, round(settings.validate_every / len(loader)))
    with warnings.catch_warnings(), _quiet_lightning():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        trainer = lightning.Trainer(
            accelerator="cpu" if not torch.cuda.is_available() else "auto",
            devices=1,
            max_epochs=-1,
            max_steps=-1 if settings.max_steps is None else settings.max_steps,
            gradient_clip_val=config.optimiser.clip_norm,
            check_val_every_n_epoch=every,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=out,
            callbacks=[
                History(out / "history.csv", report),
                Heartbeat(report),
                _checkpoints(out, every),
            ],
        )
        try:
            with writing(out / CHECKPOINT):
                trainer.fit(
                    module,
                    loader,
                    record_loader(few, settings.batch_size) if shown else None,
                    ckpt_path=out / CHECKPOINT if resume else None,
                    weights_only=True,
                )
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    return module


def _checkpoints(out: Path, every: int) -> ModelCheckpoint:
    """Write ``last.ckpt`` at the end of an epoch, so that a resumed run repeats no batch."""
    return ModelCheckpoint(
        dirpath=(out / CHECKPOINT).parent,
        filename=CHECKPOINT.stem,
        save_top_k=1,
        monitor=None,
        every_n_epochs=every,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's remarks (devices found, tips) out of the output."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _validate(
    model: HamiltonianModel, records: RecordDataset, config: TrainConfig
) -> dict[str, float]:
    """Return the errors of all validation frames, of the model as it will be saved."""
    frames = []
    for batch in record_loader(records, config.training.batch_size):
        predictions = model.predict_labelled(batch)
        frames += [frame_metrics(p, r) for p, r in zip(predictions, batch, strict=True)]
    return summarise(frames) if frames else {}


def _write_json(path: Path, data: Mapping[str, object]) -> None:
    write_text(path, json.dumps(data, indent=1) + "\n")
