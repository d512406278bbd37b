"""Layers on one atom: linear maps, norm and feed-forward, degree by degree."""

import math
from typing import Any

import torch
from torch import Tensor, nn


def degree_of_row(l_max: int) -> Tensor:
    """Return the degree l of each laboratory row, ``((L+1)^2,)``."""
    return torch.tensor([l for l in range(l_max + 1) for _ in range(2 * l + 1)])


class _SumOfSquares(torch.autograd.Function):
    """``sum_c x^2``, with a gradient of one pass over memory where autograd's takes three."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
        return norm.square()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return x * (2 * grads[0])[..., None]


class RMSNorm(nn.Module):
    """Divide by one root mean square over all degrees and channels, natural and pseudo.

    Pseudo channels start at exactly zero, so they have no norm of their own. Every degree counts
    the same. There are no learnt factors: a linear map follows that has them.

    Args:
        degree: degree l of each row, ``((L+1)^2,)``: `degree_of_row` in the laboratory,
            `SO2Layout.degree_of_row` in the edge frame.
    """

    balance: Tensor

    def __init__(self, degree: Tensor, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        balance = 1.0 / ((2 * degree + 1) * (int(degree.max()) + 1))
        self.register_buffer("balance", balance, persistent=False)

    def forward(self, *parts: Tensor) -> Tensor:
        """Return the inverse root mean square ``(A, 1, 1)`` of tensors ``(A, (L+1)^2, C)``.

        Several tensors (plus and minus of a pair, several layers) share one.
        """
        n = sum(x.shape[2] for x in parts)
        squares = torch.stack([_SumOfSquares.apply(x) for x in parts])  # type: ignore[no-untyped-call]
        square = (squares * self.balance).sum(dim=(0, 2))
        return torch.rsqrt(square / n + self.eps)[:, None, None]


class DegreeLinear(nn.Module):
    """A matrix for each degree: the linear maps that commute with rotations.

    Args:
        l_max: largest degree.
        n_in: channels that come in.
        n_out: channels that go out.
    """

    def __init__(self, l_max: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.rows = [2 * l + 1 for l in range(l_max + 1)]
        self.weight = nn.Parameter(torch.randn(l_max + 1, n_in, n_out) / math.sqrt(max(n_in, 1)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map ``(A, (L+1)^2, C_in)`` to a tensor ``(A, 2l+1, C_out)`` for each degree."""
        parts = zip(x.split(self.rows, dim=1), self.weight, strict=True)
        return [part @ w for part, w in parts]


class Expansion(nn.Module):
    """More features of atoms: linear maps, gated by the natural scalars; parities never mix.

    Args:
        l_max: largest degree.
        inputs: natural and pseudo channels that come in.
        outputs: the same for those that go out.
    """

    def __init__(self, l_max: int, inputs: tuple[int, int], outputs: tuple[int, int]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.l_max = inputs, outputs, l_max
        self.up = nn.ModuleList(
            DegreeLinear(l_max, n, h) for n, h in zip(inputs, outputs, strict=True)
        )
        self.gates = nn.Linear(inputs[0], outputs[0] + (l_max + 1) * sum(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(A, (L+1)^2, C_in)`` to ``(A, (L+1)^2, C_out)``."""
        scalars = self.gates(x[:, 0, : self.inputs[0]])
        first, gates = scalars.split([self.outputs[0], (self.l_max + 1) * sum(self.outputs)], dim=1)
        gates = torch.sigmoid(gates.view(len(x), self.l_max + 1, 1, -1))
        parts = zip(self.up, x.split(self.inputs, dim=2), strict=True)
        by_degree = zip(*(up(part) for up, part in parts), strict=True)
        hidden = [torch.cat(both, dim=2) * gates[:, l] for l, both in enumerate(by_degree)]
        # natural scalars need no gate: they may pass through a function of their own
        silu = nn.functional.silu(first)
        hidden[0] = hidden[0] + nn.functional.pad(silu, (0, self.outputs[1]))[:, None]
        return torch.cat(hidden, dim=1)


class FeedForward(nn.Module):
    """Widen with gates, and narrow.

    Args:
        l_max: largest degree.
        channels: natural and pseudo channels.
        widen: factor of the hidden layer.
    """

    def __init__(self, l_max: int, channels: tuple[int, int], widen: int) -> None:
        super().__init__()
        self.hidden = (widen * channels[0], widen * channels[1])
        self.expand = Expansion(l_max, channels, self.hidden)
        self.down = nn.ModuleList(
            DegreeLinear(l_max, h, c) for c, h in zip(channels, self.hidden, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(A, (L+1)^2, C)`` to the same shape."""
        parts = zip(self.down, self.expand(x).split(self.hidden, dim=2), strict=True)
        by_degree = zip(*(down(part) for down, part in parts), strict=True)
        return torch.cat([torch.cat(both, dim=2) for both in by_degree], dim=1)
