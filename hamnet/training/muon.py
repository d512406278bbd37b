"""Muon: steps in which all directions of a matrix count alike.

AdamW scales every weight by itself: of a matrix of weights it follows the few directions in which
gradients are large. Muon (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) makes
the momentum of a matrix orthogonal first: the singular vectors stay, the singular values become
about 1. Where a step is dear, as through the solved readout, that brings more.

`torch.optim.Muon` takes no stacks of matrices (a map of every degree), and rounds to bfloat16, by
which runs that differ in their last bits part.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MOMENTUM = 0.9
BETAS = (0.9, 0.999)
EPSILON = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Of ``x <- a x + (b x x^T + c (x x^T)^2) x``: as steep at zero as can be that stays near 1."""
N_ITERATIONS = 5


class Muon(Optimizer):
    """Muon for matrices, AdamW for all other weights.

    Args:
        matrices: weights ``(..., n, m)``; those with the same leading indices are a matrix.
        others: all other weights; they do not decay.
        matrix_rate: root mean square change of a matrix in a step.
        rate: of the others, the change of a weight in a step.
        weight_decay: share of the change by which a matrix decays.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        others: Sequence[Tensor],
        matrix_rate: float,
        rate: float,
        weight_decay: float,
    ) -> None:
        groups = [
            {"params": others, "lr": rate, "update": "adam"},
            {"params": matrices, "lr": matrix_rate, "update": "muon", "weight_decay": weight_decay},
        ]
        super().__init__(groups, {"weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change all weights that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            change = {"adam": self._adam, "muon": self._muon}[group["update"]]
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(change(weight, weight.grad), alpha=-group["lr"])
        return loss

    def _muon(self, weight: Tensor, gradient: Tensor) -> Tensor:
        """Return the orthogonalised momentum (Nesterov's), of root mean square 1."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"].mul_(MOMENTUM).add_(gradient)
        direction = orthogonal(gradient + MOMENTUM * momentum)
        change: Tensor = direction * math.sqrt(max(direction.shape[-2:]))
        return change

    def _adam(self, weight: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            zeros = torch.zeros_like(weight)
            state.update(step=torch.tensor(0.0), mean=zeros, square=zeros.clone())
        state["step"] += 1
        n = float(state["step"])
        mean: Tensor = state["mean"].lerp_(gradient, 1 - BETAS[0]) / (1 - BETAS[0] ** n)
        square = state["square"].lerp_(gradient.square(), 1 - BETAS[1]) / (1 - BETAS[1] ** n)
        change: Tensor = mean / (square.sqrt() + EPSILON)
        return change


def orthogonal(x: Tensor) -> Tensor:
    """Return matrices ``(..., n, m)`` with the singular vectors of x and singular values near 1.

    By Newton and Schulz's iteration: what is above 3e-3 of the norm ends between 0.68 and 1.21.
    """
    a, b, c = NEWTON_SCHULZ
    is_wide = x.shape[-2] <= x.shape[-1]
    y: Tensor = x if is_wide else x.mT
    tiny = torch.finfo(x.dtype).tiny
    # the squares of gradients near the smallest number are zero: first by the largest entry
    y = y / y.abs().amax(dim=(-2, -1), keepdim=True).clamp(min=tiny)
    y = y / torch.linalg.matrix_norm(y, keepdim=True).clamp(min=tiny)
    for _ in range(N_ITERATIONS):
        square = y @ y.mT
        y = a * y + (b * square + c * square @ square) @ y
    return y if is_wide else y.mT


def matrices_and_others(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trained weights that are linear maps, and all others.

    A table with a row for each element is no map.
    """
    tables = {p for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and p not in tables]
    others = [p for p in trained if p.ndim < 2 or p in tables]
    return matrices, others
