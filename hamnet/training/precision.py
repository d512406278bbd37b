"""Gradient steps with matrix products in reduced precision, where a measurement allows it.

Products of weights and features in bfloat16 (autocast) or TensorFloat-32; rotations, norms, sums
over neighbours, the readout and the loss stay in float32. Validation, the solution of the readout
and prediction always run in full precision: reduced precision makes gradients noisier and nothing
else.
"""

from dataclasses import replace

import torch
from torch import Tensor

from hamnet.errors import HamnetError
from hamnet.models import HamiltonianModel
from hamnet.training.batches import Share
from hamnet.training.config import TrainConfig
from hamnet.training.loss import compute_loss

GRADIENT_TOLERANCE = 0.05
"""Largest relative deviation of a batch's gradient, |g - g0| / |g0|, that is accepted."""


def set_products(precision: str) -> None:
    """Let products in float32 run in TensorFloat-32 (``tf32``), or not (all other names)."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def check_precision(model: HamiltonianModel, batch: Share, config: TrainConfig) -> float:
    """Return how far the gradient of a batch is from that in full precision.

    Raises:
        HamnetError: further than `GRADIENT_TOLERANCE`; or ``tf32`` without a GPU.
    """
    precision = config.training.matmul_precision
    if precision == "tf32" and model.device.type != "cuda":
        raise HamnetError("training.matmul_precision = tf32 needs a GPU; use 'highest' or 'bf16'")
    plain = model.network.execution
    exact = _gradient(model, batch, config)
    try:
        model.network.execution = replace(plain, bf16=precision == "bf16")
        set_products(precision)
        reduced = _gradient(model, batch, config)
    finally:
        model.network.execution = plain
        set_products("highest")
    deviation = float((reduced - exact).norm() / exact.norm().clamp(min=1e-300))
    if not deviation <= GRADIENT_TOLERANCE:
        raise HamnetError(
            f"training.matmul_precision = {precision} is refused: the gradient of the first batch "
            f"deviates by {deviation:.2g} from that in full precision, more than "
            f"{GRADIENT_TOLERANCE}; use 'highest'"
        )
    return deviation


def _gradient(model: HamiltonianModel, batch: Share, config: TrainConfig) -> Tensor:
    parameters = [p for p in model.network.parameters() if p.requires_grad]
    loss = compute_loss(model, batch.sample, config.loss, counts=batch.counts)
    found = torch.autograd.grad(loss.total, parameters, allow_unused=True)
    return torch.cat([g.flatten().double() for g in found if g is not None])
