"""How a network is run: what changes its speed and memory, not its function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Execution:
    """Options of a network's layers; the readout is always run plainly and in full precision.

    Attributes:
        compiled: `torch.compile` for the SO(2) convolutions, see `hamnet.nn.so2.SO2Convolution`.
        checkpoint: keep only what goes into a layer and compute the rest again on the way back.
        bf16: matrix products in bfloat16, those with rotations in full precision.
    """

    compiled: bool = False
    checkpoint: bool = False
    bf16: bool = False

    def layer(self, layer: Callable[..., Any], *inputs: Any) -> Any:
        """Run a layer, under activation checkpointing if that is on and gradients are wanted."""
        if not (self.checkpoint and torch.is_grad_enabled()):
            return layer(*inputs)
        return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)

    def products(self, device: torch.device) -> torch.autocast:
        """Return the context in which matrix products have their precision."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)


class _Product(torch.autograd.Function):
    """A product in full precision, forward and backward."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(matrix, x)
        return _highest(matrix, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        matrix, x = ctx.saved_tensors
        of_matrix = _highest(grads[0], x.mT) if ctx.needs_input_grad[0] else None
        return of_matrix, _highest(matrix.mT, grads[0])


def _highest(a: Tensor, b: Tensor) -> Tensor:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return a @ b
    finally:
        torch.set_float32_matmul_precision(before)


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """Return ``matrix @ x`` in the precision of the matrix, whatever that of other products is."""
    with torch.autocast(matrix.device.type, enabled=False):
        x = x.to(matrix.dtype)
        if matrix.shape[-1] == 1:  # of degree 0: a third of the time of a product
            return matrix * x
        if torch.get_float32_matmul_precision() == "highest":
            return matrix @ x
        y: Tensor = _Product.apply(matrix, x)  # type: ignore[no-untyped-call]
        return y
