"""A training run: from a store to a model file."""

import copy
import json
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.files import write_text
from hamnet.models import save_model
from hamnet.models.card import CARD_FILE, model_card
from hamnet.models.files import MODEL_FILE
from hamnet.training import parallel
from hamnet.training.batches import RecordBatches, sample_batches
from hamnet.training.callbacks import Report
from hamnet.training.candidates import Candidate, best_candidate, make_candidate
from hamnet.training.config import TrainConfig, load_config, to_toml
from hamnet.training.finetune import load_parent
from hamnet.training.fit import CHECKPOINT, fit
from hamnet.training.projection import forget_readout
from hamnet.training.readout import solve_readout
from hamnet.training.setup import Setup, choose_split, set_up
from hamnet.training.uncertainty import MAX_FRAMES, add_uncertainty


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
    config, parent = load_parent(config)
    with parallel.process_group(), Store.open(data) as store:
        if parallel.rank():
            report = _say_nothing
        split = choose_split(store, config)
        if parallel.rank() == 0:
            _prepare_folder(out, config, resume)
            _write_json(out / "split.json", {name: rows.tolist() for name, rows in split.items()})
        setup = set_up(store, split, config, report, parent)
        model = setup.model
        candidates = []
        if config.readout.solve:
            untrained = copy.deepcopy(model.network)
            candidates.append(make_candidate("instant", setup, config, report))
            model.network = untrained
        starts = config.readout.start and config.training.max_steps != 0 and parent is None
        if starts and not config.through_solution:
            batches = sample_batches(setup.train, config.training)
            solve_readout(model.to(parallel.device()), batches, (), config.readout.start)
        instant = candidates[0] if candidates else None
        module = fit(setup, config, out, resume, report, begin, instant)
        if module.global_step or not candidates:
            model.network = module.average
            if config.through_solution:
                forget_readout(model)
            candidates.append(make_candidate("trained", setup, config, report))
        best = best_candidate(candidates)
        if len(candidates) > 1:
            report(f"kept: {best.name}")
        seconds = module.elapsed + time.monotonic() - begin
        if parallel.rank() == 0:
            _write_model(out, setup, config, best, candidates, module.global_step, seconds)
    return TrainResult(out / MODEL_FILE, best.metrics, module.global_step, seconds)


def _write_model(
    out: Path,
    setup: Setup,
    config: TrainConfig,
    best: Candidate,
    candidates: list[Candidate],
    n_steps: int,
    seconds: float,
) -> None:
    model = setup.model
    model.network = best.network
    found = {"metrics": dict(best.metrics), "overlap_floor": best.floor}
    model.metadata = model.metadata.model_copy(update=found)
    if best.covariance is not None:
        few = RecordBatches(setup.validation, config.training, MAX_FRAMES, shared=False)
        add_uncertainty(model, best.covariance, few)
    save_model(model.cpu(), out / MODEL_FILE)
    write_text(out / CARD_FILE, model_card(model.metadata))
    summary = {
        "kept": best.name,
        "validation": best.metrics,
        "candidates": {c.name: c.metrics for c in candidates},
        "steps": n_steps,
        "seconds": round(seconds, 1),
    }
    _write_json(out / "metrics.json", summary)


def _say_nothing(_: str) -> None:
    """Take the lines of a process that does not report."""


def _prepare_folder(out: Path, config: TrainConfig, resume: bool) -> None:
    settings = out / "config.toml"
    if resume:
        if not (out / CHECKPOINT).exists():
            raise HamnetError(f"{out}: no checkpoint to resume from ({CHECKPOINT})")
        if not zipfile.is_zipfile(out / CHECKPOINT):
            raise HamnetError(
                f"{out / CHECKPOINT}: damaged, the run cannot be resumed; start again in another "
                "folder"
            )
        if _function(load_config(settings)) != _function(config):
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
        settings.write_text(to_toml(config), encoding="utf-8")
    except OSError as error:
        raise HamnetError(f"{out}: cannot be written ({error.strerror})") from error


def _function(config: TrainConfig) -> TrainConfig:
    """Return the settings without those that change the speed and not what is computed."""
    plain = {"devices": 1, "compile": False, "checkpoint_activations": False}
    return config.model_copy(update={"training": config.training.model_copy(update=plain)})


def _write_json(path: Path, data: Mapping[str, object]) -> None:
    write_text(path, json.dumps(data, indent=1) + "\n")
