"""The Lightning module: one step, one validation, learning rate and averaged weights."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from hamnet.data.record import Record
from hamnet.data.samples import Sample
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import HamiltonianModel
from hamnet.models.so2_network import SO2Network
from hamnet.training.config import TrainConfig
from hamnet.training.loss import compute_loss


class TrainingModule(lightning.LightningModule):
    """Training of a model.

    Args:
        model: the model; its averaged weights are in `averaged`.
        config: all settings.
        seconds: wall time for the gradient steps.
    """

    def __init__(self, model: HamiltonianModel, config: TrainConfig, seconds: float) -> None:
        super().__init__()
        self.model, self.config, self.seconds = model, config, seconds
        self.average = AveragedModel(model.network, multi_avg_fn=self._average)
        self.elapsed = 0.0  # of earlier, interrupted runs
        self._start = time.monotonic()
        self._frames: list[dict[str, float]] = []
        self.metrics: dict[str, float] = {}
        self.train_loss = math.nan

    # -- progress ----------------------------------------------------------------------------

    def clock(self) -> float:
        """Return the seconds of training so far, those before an interruption included."""
        return self.elapsed + time.monotonic() - self._start

    def progress(self) -> float:
        """Return how much of the budget is spent, from 0 to 1.

        Counted in steps where their number is given, so that the learning rate, and with it the
        result, does not depend on the speed of the machine; in seconds elsewhere.
        """
        max_steps = self.config.training.max_steps
        spent = self.clock() / self.seconds if max_steps is None else self.global_step / max_steps
        return min(1.0, spent)

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the clock."""
        checkpoint["elapsed"] = self.clock()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the clock."""
        self.elapsed = float(checkpoint["elapsed"])

    # -- one step ----------------------------------------------------------------------------

    def training_step(self, batch: Sample, batch_index: int) -> Tensor:
        """Return the loss of a batch."""
        ramp_steps = self.config.loss.trace_ramp_steps
        ramp = min(1.0, self.global_step / ramp_steps) if ramp_steps else 1.0
        return compute_loss(self.model, batch, self.config.loss, ramp).total

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_index: int) -> None:
        """Update the averaged weights; stop when the wall time is spent."""
        self.average.update_parameters(self.model.network)
        self.train_loss = float(outputs["loss"])
        if self.clock() > self.seconds:
            self.trainer.should_stop = True

    def configure_optimizers(self) -> Any:
        """Return AdamW (no decay on vectors) with linear warm-up and a cosine."""
        settings = self.config.optimiser
        parameters = [p for p in self.model.network.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimiser = AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
        )

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(settings.warmup_steps, 1))
            cosine = 0.5 * (1 + math.cos(math.pi * self.progress()))
            return warm * (settings.final_fraction + (1 - settings.final_fraction) * cosine)

        scheduler = {"scheduler": LambdaLR(optimiser, factor), "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": scheduler}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Leave batches alone: they are frozen, and the loss moves the tensors that it needs."""
        return batch

    # -- averaged weights --------------------------------------------------------------------

    def _average(
        self, averaged: Sequence[Tensor], current: Sequence[Tensor], n_averaged: Tensor | int
    ) -> None:
        """Move the average towards the current weights, faster in the beginning."""
        n = float(n_averaged)
        decay = min(self.config.optimiser.ema_decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    def averaged_network(self) -> SO2Network:
        """Return the network with averaged weights."""
        network = self.average.module
        assert isinstance(network, SO2Network)
        return network

    @contextmanager
    def averaged(self) -> Iterator[HamiltonianModel]:
        """Lend the model with averaged weights."""
        current = self.model.network
        self.model.network = self.averaged_network()
        try:
            yield self.model
        finally:
            self.model.network = current

    # -- validation --------------------------------------------------------------------------

    def validation_step(self, records: list[Record], batch_index: int) -> None:
        """Collect the errors of a few frames."""
        with self.averaged() as model:
            self._frames += [
                frame_metrics(prediction, record)
                for prediction, record in zip(model.predict_labelled(records), records, strict=True)
            ]

    def on_validation_epoch_end(self) -> None:
        """Average the errors over the frames."""
        self.metrics = summarise(self._frames) if self._frames else {}
        self._frames = []
