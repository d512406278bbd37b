"""The gradient steps, by Lightning: on one device, or on several that share every batch."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from hamnet.files import writing
from hamnet.models import HamiltonianModel
from hamnet.training import parallel
from hamnet.training.batches import RecordBatches, TrainingBatches
from hamnet.training.callbacks import Heartbeat, History, Report
from hamnet.training.candidates import Candidate, solve_again
from hamnet.training.config import TrainConfig
from hamnet.training.module import TrainingModule
from hamnet.training.precision import check_precision
from hamnet.training.projection import HalvesOfData, Penalties
from hamnet.training.setup import Setup, step_execution

CHECKPOINT = Path("checkpoints") / "last.ckpt"
SOLVE_EVERY = 20
"""Steps through the solution of the readout between validations, for which it is solved again."""
RESERVE = 0.08
"""Least share of the wall time that is kept for the solution of the readout and the last
validation; what they took for random features, if that is more."""


def fit(
    setup: Setup,
    config: TrainConfig,
    out: Path,
    resume: bool,
    report: Report,
    begin: float,
    instant: Candidate | None,
) -> TrainingModule:
    """Run the gradient steps.

    Args:
        setup: model and data; the model is changed in place.
        config: all settings.
        out: folder of the run.
        resume: continue from the last checkpoint there.
        report: takes lines of progress.
        begin: when the run began, `time.monotonic`.
        instant: what was made of the same weights before, if anything: its penalties are those of
            the first steps, and what comes after the steps will take as long.
    """
    settings = config.training
    whole = 60 * settings.max_minutes
    reserve = max(instant.seconds if instant else 0.0, RESERVE * whole)
    budget = whole - reserve - (time.monotonic() - begin)
    through = config.through_solution

    def solve(model: HamiltonianModel) -> Penalties:
        return solve_again(model, setup, config)

    module = TrainingModule(setup.model, config, max(budget, 1e-3), solve if through else None)
    if through and instant is not None:
        module.penalties = instant.penalties
    if settings.max_steps == 0:
        return module
    plain = TrainingBatches(setup.train, settings, lambda: module.n_epochs)
    halves = HalvesOfData(setup.train, config, lambda: module.n_epochs)
    shown = RecordBatches(setup.validation, settings, settings.max_validation_frames)
    between = min(settings.validate_every, SOLVE_EVERY) if through else settings.validate_every
    every = max(1, round(between / len((halves if through else plain).plan(0))))
    if settings.matmul_precision != "highest":
        check_precision(setup.model, next(iter(plain)), config)
    setup.model.network.execution = step_execution(config)
    with warnings.catch_warnings(), _quiet_lightning():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*is deprecated.*")
        trainer = lightning.Trainer(
            accelerator="auto" if torch.cuda.is_available() else "cpu",
            **_devices(setup),
            max_epochs=-1,
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
                    halves if through else plain,
                    shown if len(shown) else None,
                    ckpt_path=out / CHECKPOINT if resume else None,
                    weights_only=True,
                )
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
    return module


def _devices(setup: Setup) -> dict[str, Any]:
    """Return Lightning's options for the processes that have been started already."""
    if parallel.size() == 1:
        return {"devices": 1}
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    # parameters of elements that a batch lacks get no gradient; no buffer changes in training
    strategy = DDPStrategy(
        cluster_environment=TorchElasticEnvironment(),
        find_unused_parameters=not setup.uniform,
        broadcast_buffers=False,
    )
    return {"devices": local, "num_nodes": parallel.size() // local, "strategy": strategy}


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
