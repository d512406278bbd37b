"""What happens beside the steps: the history file and lines of progress."""

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

import lightning

from hamnet.training.module import TrainingModule

HISTORY = (
    "step",
    "seconds",
    "learning_rate",
    "train_loss",
    "val_h_mae_uha",
    "val_eps_occ_mae_mev",
    "val_homo_mae_mev",
    "val_lumo_mae_mev",
    "val_gap_mae_mev",
    "val_psi_cosine",
    "val_density_error",
    "val_h_loewdin_mae_uha",
    "val_spurious_low",
    "val_h_mae_mev",
    "val_bands_mae_mev",
    "val_bands_max_mev",
)
"""Columns of ``history.csv``; crystals have no orbitals, molecules no bands."""

Report = Callable[[str], None]
"""Takes one line of progress."""


class History(lightning.Callback):
    """Append a row to ``history.csv`` after each validation.

    Args:
        path: the file; rows later than the step at which training starts are dropped.
        report: takes a line for each row.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self.path, self.report = path, report

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keep the rows of the run that is resumed."""
        if not trainer.is_global_zero:
            return
        rows = read_history(self.path) if trainer.global_step and self.path.exists() else []
        rows = [row for row in rows if int(float(row["step"])) <= trainer.global_step]
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, HISTORY)
            writer.writeheader()
            writer.writerows(rows)

    def on_validation_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        """Write the row."""
        assert isinstance(module, TrainingModule)
        if not trainer.is_global_zero:
            return
        metrics = module.metrics
        row = {
            "step": trainer.global_step,
            "seconds": round(module.clock(), 2),
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": module.train_loss,
            **{f"val_{name}": metrics.get(name) for name in metrics if f"val_{name}" in HISTORY},
        }
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, HISTORY).writerow(row)
        self.report(f"step {row['step']}  {row['seconds']:.0f} s  validation {describe(metrics)}")


class Heartbeat(lightning.Callback):
    """Report step, loss and learning rate every few seconds.

    Args:
        report: takes the lines.
        interval: seconds between lines.
    """

    def __init__(self, report: Report, interval: float = 10.0) -> None:
        self.report, self.interval, self._last = report, interval, time.monotonic()

    def on_train_batch_end(  # noqa: D102
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object
    ) -> None:
        if time.monotonic() - self._last < self.interval or not trainer.is_global_zero:
            return
        assert isinstance(module, TrainingModule)
        self._last = time.monotonic()
        self.report(
            f"step {trainer.global_step}  {module.clock():.0f} s "
            f"({100 * module.progress():.0f} %)  loss {module.train_loss:.3g}"
        )


def describe(metrics: dict[str, float]) -> str:
    """Return the main errors as one line."""
    units = {"uha": "µHa", "mev": "meV"}
    names = (
        *("h_mae_uha", "h_mae_mev", "bands_mae_mev", "bands_max_mev"),
        *("eps_occ_mae_mev", "homo_mae_mev", "lumo_mae_mev", "gap_mae_mev"),
    )
    parts = [
        f"{n.removesuffix('_' + u).removesuffix('_mae')} {metrics[n]:.4g} {unit}"
        for n in names
        for u, unit in units.items()
        if n.endswith(u) and math.isfinite(metrics.get(n, math.nan))
    ]
    return ", ".join(parts)


def read_history(path: Path) -> list[dict[str, str]]:
    """Return the rows of ``history.csv``."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
