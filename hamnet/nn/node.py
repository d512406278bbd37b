"""Layers on one atom: linear maps, norm and feed-forward, degree by degree."""

import math

import torch
from torch import Tensor, nn


def degree_of_row(l_max: int) -> Tensor:
    """Return the degree l of each laboratory row, ``((L+1)^2,)``."""
    return torch.tensor([l for l in range(l_max + 1) for _ in range(2 * l + 1)])


class RMSNorm(nn.Module):
    """Divide by one root mean square over all degrees and channels, natural and pseudo.

    Pseudo channels start at exactly zero, so they have no norm of their own. Every degree counts
    the same; each (degree, channel) has a learnt factor afterwards.

    Args:
        degree: degree l of each row, ``((L+1)^2,)``: `degree_of_row` in the laboratory,
            `SO2Layout.degree_of_row` in the edge frame.
        channels: number of all channels.
    """

    degree: Tensor
    balance: Tensor

    def __init__(self, degree: Tensor, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        l_max = int(degree.max())
        balance = 1.0 / ((2 * degree + 1) * (l_max + 1))
        self.register_buffer("degree", degree, persistent=False)
        self.register_buffer("balance", balance, persistent=False)
        self.factor = nn.Parameter(torch.ones(l_max + 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(A, (L+1)^2, C)``."""
        square = (x.square().mean(dim=2) * self.balance).sum(dim=1)  # (A,)
        return x * torch.rsqrt(square + self.eps)[:, None, None] * self.factor[self.degree]


class DegreeLinear(nn.Module):
    """A matrix for each degree: the linear maps that commute with rotations.

    Args:
        l_max: largest degree.
        n_in: channels that come in.
        n_out: channels that go out.
    """

    degree: Tensor

    def __init__(self, l_max: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.register_buffer("degree", degree_of_row(l_max), persistent=False)
        self.weight = nn.Parameter(torch.randn(l_max + 1, n_in, n_out) / math.sqrt(max(n_in, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(A, (L+1)^2, C_in)`` to ``(A, (L+1)^2, C_out)``."""
        return (x.transpose(0, 1) @ self.weight[self.degree]).transpose(0, 1)


class FeedForward(nn.Module):
    """Widen, gate by the natural scalars, narrow; parities never mix.

    Args:
        l_max: largest degree.
        channels: natural and pseudo channels.
        widen: factor of the hidden layer.
    """

    degree: Tensor

    def __init__(self, l_max: int, channels: tuple[int, int], widen: int) -> None:
        super().__init__()
        self.channels, self.l_max = channels, l_max
        self.hidden = (widen * channels[0], widen * channels[1])
        self.register_buffer("degree", degree_of_row(l_max), persistent=False)
        self.up = nn.ModuleList(
            DegreeLinear(l_max, c, h) for c, h in zip(channels, self.hidden, strict=True)
        )
        self.down = nn.ModuleList(
            DegreeLinear(l_max, h, c) for c, h in zip(channels, self.hidden, strict=True)
        )
        self.gates = nn.Linear(channels[0], self.hidden[0] + (l_max + 1) * sum(self.hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(A, (L+1)^2, C)`` to the same shape."""
        scalars = self.gates(x[:, 0, : self.channels[0]])
        first, gates = scalars.split([self.hidden[0], (self.l_max + 1) * sum(self.hidden)], dim=1)
        gates = torch.sigmoid(gates.view(len(x), self.l_max + 1, -1))[:, self.degree]
        parts = x.split(self.channels, dim=2)
        hidden = torch.cat([up(part) for up, part in zip(self.up, parts, strict=True)], dim=2)
        hidden = hidden * gates
        # natural scalars need no gate: they may pass through a function of their own
        natural, pseudo = hidden.split(self.hidden, dim=2)
        natural = torch.cat(
            [(natural[:, 0] + nn.functional.silu(first))[:, None], natural[:, 1:]], 1
        )
        out = [down(h) for down, h in zip(self.down, (natural, pseudo), strict=True)]
        return torch.cat(out, dim=2)
