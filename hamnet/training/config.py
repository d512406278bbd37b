"""Settings of a training run: a TOML file, and ``--set section.key=value`` on top of it."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hamnet.errors import HamnetError
from hamnet.models.config import ModelConfig
from hamnet.validation import Section, validate


class DataConfig(Section):
    """Which records are used for what."""

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Train, validation, test; unused where the file carries its own split."""
    split_seed: int = 0


class TargetConfig(Section):
    """What the network predicts."""

    reference: Literal["none", "sap", "minao"] = "none"
    """Reference Hamiltonian that is subtracted: the target is H, or H - H0."""
    potentials: bool = True
    """Potentials of atoms that are fitted to the training labels are added to the reference of
    molecules (`hamnet.potentials`)."""


class LossConfig(Section):
    """Weights of the parts of the loss.

    Steps through the solution of the readout have the root mean square error of every irrep in
    place of ``relative`` and ``absolute``.
    """

    relative: float = Field(default=1.0, ge=0)
    """Mean squared error in units of each irrep's own scale."""
    absolute: float = Field(default=1.0, ge=0)
    """Mean absolute error in units of the mean scale of all irreps."""
    trace: float = Field(default=0.3, ge=0)
    """TraceGrad's lambda: share of the supervised invariants."""
    trace_max: float = Field(default=1.0, gt=0)
    """Largest factor that brings the trace loss to the size of the Hamiltonian's."""
    trace_ramp_steps: int = Field(default=200, ge=0)
    """Steps over which the share grows from zero."""


class OptimiserConfig(Section):
    """AdamW, or Muon through the solved readout; with warm-up and a cosine."""

    learning_rate: float | None = Field(default=None, gt=0)
    """The largest; if nothing is said, 3e-3 for steps through the solved readout, else 3e-4."""
    matrix_rate: float = Field(default=8e-3, ge=0)
    """Largest root mean square change of a matrix of weights in a step through the solved readout,
    all its directions alike (`hamnet.training.muon`); 0: AdamW changes them, with
    ``learning_rate``."""
    weight_decay: float = Field(default=1e-3, ge=0)
    warmup_steps: int | None = Field(default=None, ge=0)
    """If nothing is said, 3 for steps through the solved readout, else 100."""
    final_fraction: float = Field(default=1e-2, ge=0, le=1)
    """Learning rate at the end of the cosine, relative to the largest."""
    clip_norm: float = Field(default=10.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Of the exponential moving average of the weights, which is what is kept; 0 for none."""


class TrainingConfig(Section):
    """How long and how."""

    max_minutes: float = Field(default=10.0, gt=0)
    """Wall time, the solution of the readout included."""
    max_steps: int | None = Field(default=None, ge=0)
    """Number of gradient steps; with it the result depends on the seed alone, not on the machine's
    speed. Whichever limit is reached first ends the training."""
    batch_size: int = Field(default=16, ge=1)
    """Molecules of a step, counted over all devices."""
    batch_pairs: int | None = Field(default=None, ge=1)
    """Directed pairs of a step instead: batches of equal work, whatever the molecules' sizes. A
    larger molecule is a batch of its own."""
    devices: int = Field(default=1, ge=1)
    """Processes on this machine, each with a GPU or one core's share; torchrun overrules it. The
    result does not depend on it, up to rounding."""
    compile: bool = False
    """Compile the network's convolutions (torch.compile)."""
    checkpoint_activations: bool = False
    """Compute each layer again on the way back instead of keeping what is inside it."""
    matmul_precision: Literal["highest", "tf32", "bf16"] = "highest"
    """Of the matrix products of gradient steps in float32; rotations, readout, validation and
    prediction stay in full precision."""
    seed: int = Field(default=1, ge=0)
    start_from: str | None = None
    """Model whose weights are taken over (fine-tuning)."""
    precision: Literal["float32", "float64"] = "float32"
    validate_every: int = Field(default=500, ge=1)
    """Steps between validations, rounded to whole epochs; each one also writes a checkpoint."""
    max_validation_frames: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainingConfig":
        if self.matmul_precision != "highest" and self.precision != "float32":
            raise ValueError(
                f"matmul_precision = {self.matmul_precision} needs precision = float32"
            )
        if self.matmul_precision == "tf32" and self.compile:
            raise ValueError("matmul_precision = tf32 and compile do not go together")
        return self


class ReadoutConfig(Section):
    """The exact solution of the last linear map."""

    solve: bool = True
    """Solve it before the gradient steps and after them, and keep the better network."""
    orbital_steps: int = Field(default=12, ge=0)
    """Steps of conjugate gradients that solve it again, together for all blocks, for what moves
    orbital energies and density (`hamnet.training.orbital_fit`); 0: for matrix elements alone.
    Closed-shell molecules only."""
    start: float = Field(default=1e-2, ge=0)
    """Ridge (lambda of `hamnet.training.readout`) of the solution from which
    gradient steps start (not in fine-tuning); 0 starts from zero. The best solution for random
    features, with a far smaller ridge, rests on directions that no gradient step could follow."""
    projection: bool = True
    """Gradient steps go through the solution (`hamnet.training.projection`): the features are
    trained for what the solved readout makes of them. False, without ``solve`` or in fine-tuning:
    steps on all weights at once."""
    projection_frames: int = Field(default=256, ge=2)
    """Frames of such a step, half of them to solve on, half to be better at."""
    uncertainty: bool = True
    """Keep the covariance of the solution: it says how sure a prediction is. Needs validation
    frames."""


class TrainConfig(Section):
    """All settings of a training run; every key has a default."""

    data: DataConfig = DataConfig()
    target: TargetConfig = TargetConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    training: TrainingConfig = TrainingConfig()
    readout: ReadoutConfig = ReadoutConfig()

    @property
    def through_solution(self) -> bool:
        """Whether gradient steps go through the solution of the readout.

        Not in fine-tuning: a parent's readout knows more than a few new frames.
        """
        wanted = self.readout.projection and self.readout.solve
        return wanted and self.training.start_from is None

    @property
    def learning_rate(self) -> float:
        """The largest one of the run."""
        given = self.optimiser.learning_rate
        return given if given is not None else 3e-3 if self.through_solution else 3e-4

    @property
    def warmup_steps(self) -> int:
        """Steps over which it is reached."""
        given = self.optimiser.warmup_steps
        return given if given is not None else 3 if self.through_solution else 100


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Return the settings of a file with overrides applied.

    Args:
        path: TOML file; None for the defaults.
        overrides: ``section.key=value``, the value written as in TOML; the last one wins.

    Raises:
        HamnetError: the file cannot be read, or any key or value is wrong: all of them are listed.
    """
    tables = _read_toml(path) if path else {}
    source = str(path) if path else "settings"
    for text in overrides:
        _override(tables, text)
    if path and overrides:
        source += " and --set"
    elif overrides:
        source = "--set"
    return validate(TrainConfig, tables, source)


def to_toml(config: TrainConfig) -> str:
    """Return the settings as TOML, every key written out; `load_config` reads it back."""
    lines: list[str] = []
    for section, table in config.model_dump(mode="json", exclude_none=True).items():
        lines += [f"[{section}]", *(f"{k} = {_toml_value(v)}" for k, v in table.items()), ""]
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    """Return a scalar or a list in TOML; it is JSON there, in all that a setting can hold."""
    return json.dumps(value, ensure_ascii=False)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HamnetError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HamnetError(f"{path}: not valid TOML ({error})") from None


def _override(tables: dict[str, Any], text: str) -> None:
    """Put ``a.b=value`` into nested tables.

    Raises:
        HamnetError: not of that form, or ``a`` holds a plain value already.
    """
    name, equals, value = text.partition("=")
    *path, key = [part.strip() for part in name.split(".")]
    if not equals or not key or not all(path):
        raise HamnetError(f"--set {text}: expected section.key=value")
    for part in path:
        inner = tables.setdefault(part, {})
        if not isinstance(inner, dict):
            raise HamnetError(f"--set {text}: '{part}' is a value, not a section")
        tables = inner
    tables[key] = _parse(value.strip())


def _parse(value: str) -> Any:
    """Return a value written as in TOML; text that is no TOML value stands for itself."""
    try:
        parsed: Mapping[str, Any] = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return value
    return parsed["value"] if set(parsed) == {"value"} else value
