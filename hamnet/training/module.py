"""The Lightning module: one step, one validation, learning rate and averaged weights."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hamnet.data.record import Record
from hamnet.metrics import frame_metrics, summarise
from hamnet.models import HamiltonianModel
from hamnet.training import parallel
from hamnet.training.batches import Share
from hamnet.training.config import TrainConfig
from hamnet.training.loss import compute_loss
from hamnet.training.muon import Muon, matrices_and_others
from hamnet.training.precision import set_products
from hamnet.training.projection import Halves, Penalties, projected_loss


class TrainingModule(lightning.LightningModule):
    """Training of a model.

    Args:
        model: the model; its averaged weights are in `averaged`.
        config: all settings.
        seconds: wall time for the gradient steps.
        solve: solves the readout of a model and returns the penalties, where steps go through the
            solution; None where they train the readout as well.
    """

    def __init__(
        self,
        model: HamiltonianModel,
        config: TrainConfig,
        seconds: float,
        solve: Callable[[HamiltonianModel], Penalties] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.seconds, self.solve = model, config, seconds, solve
        self.penalties: Penalties = {}
        if solve is not None:
            model.network.readout.requires_grad_(False)
        self.average = copy.deepcopy(model.network).requires_grad_(False)
        self.n_averaged = 0
        self.n_epochs = 0
        self.elapsed = 0.0  # of earlier, interrupted runs
        self._start = time.monotonic()
        self._spent = 0.0  # the first process's clock at the last step, the same in all
        self._frames: list[dict[str, float]] = []
        self.metrics: dict[str, float] = {}
        self.loss = torch.tensor(math.nan)

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
        spent = self._spent / self.seconds if max_steps is None else self.global_step / max_steps
        return min(1.0, spent)

    def on_fit_start(self) -> None:
        """Start the clock."""
        self._start, self._spent = time.monotonic(), self.elapsed

    def on_train_start(self) -> None:
        """Take no step where a run that is resumed was at its end; solve its readout anew."""
        self._stop_when_spent()
        known = self.penalties and not self.global_step
        if self.solve is not None and not known and not self.trainer.should_stop:
            with self.averaged() as model:
                self.penalties = self.solve(model)

    def _stop_when_spent(self) -> None:
        """Stop at ``max_steps`` or when the wall time is spent.

        Lightning itself is not told of ``max_steps``: it begins a resumed run with the end of an
        epoch then, which has no step and would be counted.
        """
        max_steps = self.config.training.max_steps
        at_end = max_steps is not None and self.global_step >= max_steps
        if at_end or self._spent > self.seconds:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the clock and the numbers of epochs and averaged steps."""
        checkpoint["elapsed"] = self.clock()
        checkpoint["n_epochs"], checkpoint["n_averaged"] = self.n_epochs, self.n_averaged

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self.elapsed = self._spent = float(checkpoint["elapsed"])
        self.n_epochs, self.n_averaged = checkpoint["n_epochs"], checkpoint["n_averaged"]

    @property
    def train_loss(self) -> float:
        """Loss of the last batch; asking for it waits for the device."""
        return float(self.loss)

    # -- one step ----------------------------------------------------------------------------

    def training_step(self, batch: Share | Halves, batch_index: int) -> Tensor:
        """Return the loss of this process's share of a batch."""
        ramp_steps = self.config.loss.trace_ramp_steps
        ramp = min(1.0, self.global_step / ramp_steps) if ramp_steps else 1.0
        set_products(self.config.training.matmul_precision)
        if isinstance(batch, Halves):
            total, self.loss = projected_loss(
                self.model, batch, self.penalties, self.config.loss, ramp
            )
            return total
        loss = compute_loss(self.model, batch.sample, self.config.loss, ramp, counts=batch.counts)
        self.loss = loss.value
        return loss.total

    def on_after_backward(self) -> None:
        """Return to full precision."""
        set_products("highest")

    def on_train_batch_end(self, outputs: Any, batch: Share | Halves, batch_index: int) -> None:
        """Update the averaged weights; stop when the steps or the wall time are spent."""
        self.update_average()
        self._spent = parallel.first(self.clock())
        self._stop_when_spent()

    def on_train_epoch_end(self) -> None:
        """Count the epoch, before the checkpoint is written."""
        self.n_epochs += 1

    def configure_optimizers(self) -> Any:
        """Return the optimiser (no decay on vectors) with linear warm-up and a cosine."""
        settings, rate = self.config.optimiser, self.config.learning_rate
        optimiser: Optimizer
        if self.solve is not None and settings.matrix_rate:
            matrices, others = matrices_and_others(self.model.network)
            optimiser = Muon(matrices, others, settings.matrix_rate, rate, settings.weight_decay)
        else:
            parameters = [p for p in self.model.network.parameters() if p.requires_grad]
            groups: list[dict[str, Any]] = [
                {"params": [p for p in parameters if p.ndim >= 2]},
                {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
            ]
            optimiser = AdamW(groups, lr=rate, weight_decay=settings.weight_decay, fused=True)
        warmup = max(self.config.warmup_steps, 1)

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / warmup)
            cosine = 0.5 * (1 + math.cos(math.pi * self.progress()))
            return warm * (settings.final_fraction + (1 - settings.final_fraction) * cosine)

        scheduler = {"scheduler": LambdaLR(optimiser, factor), "interval": "step"}
        return {"optimizer": optimiser, "lr_scheduler": scheduler}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, index: int) -> Any:
        """Leave batches alone: they are frozen, and the loss moves the tensors that it needs."""
        return batch

    # -- averaged weights --------------------------------------------------------------------

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the current weights, faster in the beginning."""
        n = self.n_averaged
        decay = min(self.config.optimiser.ema_decay, (1 + n) / (10 + n)) if n else 0.0
        current = [p.detach() for p in self.model.network.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), current, 1 - decay)
        self.n_averaged += 1

    @contextmanager
    def averaged(self) -> Iterator[HamiltonianModel]:
        """Lend the model with averaged weights."""
        current = self.model.network
        self.model.network = self.average
        try:
            yield self.model
        finally:
            self.model.network = current

    # -- validation --------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Solve the readout of the averaged weights, which no step has changed."""
        if self.solve is not None:
            with self.averaged() as model:
                self.penalties = self.solve(model)

    def validation_step(self, records: list[Record], batch_index: int) -> None:
        """Collect the errors of a few frames."""
        with self.averaged() as model:
            self._frames += [
                frame_metrics(prediction, record)
                for prediction, record in zip(model.predict_labelled(records), records, strict=True)
            ]

    def on_validation_epoch_end(self) -> None:
        """Average the errors over the frames of all processes."""
        frames = parallel.gather(self._frames)
        self.metrics = summarise(frames) if frames else {}
        self._frames = []
