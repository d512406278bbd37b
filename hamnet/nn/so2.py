"""SO(3) convolutions as SO(2) ones (eSCN), exactly O(3)-equivariant."""

import math

import torch
from torch import Tensor, nn

from hamnet.so3.layout import SO2Layout


class SO2Linear(nn.Module):
    """The linear maps that commute with rotations about the edge and mirrors through it.

    Passaro & Zitnick, arXiv 2302.03655: in the frame whose polar axis is the edge, the tensor
    product with the edge's harmonics is, for each ``m``,

        [y_+m]   [W1 -W2] [x_+m]
        [y_-m] = [W2  W1] [x_-m] .

    With generic W1 and W2 that is SO(3)-equivariant only: a mirror image gets another result. A
    mirror through the edge forbids W2 between channels of the same parity and W1 between natural
    and pseudo ones. In the row order of `SO2Layout` the allowed maps are one matrix W for each m,
    acting alike on the even rows and on the odd rows; at m = 0 the natural (even) and the pseudo
    (odd) channels have a matrix each.

    Args:
        l_max: largest degree.
        inputs: number of natural and of pseudo channels that come in.
        outputs: the same for those that go out.
        n_scalars: additional invariant outputs.
    """

    def __init__(
        self, l_max: int, inputs: tuple[int, int], outputs: tuple[int, int], n_scalars: int = 0
    ) -> None:
        super().__init__()
        self.layout = layout = SO2Layout(l_max)
        self.inputs, self.outputs, self.n_scalars = inputs, outputs, n_scalars
        n = l_max + 1
        self.natural = nn.Linear(n * inputs[0], n * outputs[0] + n_scalars)
        self.pseudo = _matrix(n * inputs[1], n * outputs[1])
        self.weights = nn.ParameterList(
            _matrix(n * sum(inputs), n * sum(outputs)) for n in layout.degrees[1:]
        )

    def forward(self, x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map features in the edge frame.

        Args:
            x: ``(E, (L+1)^2, C_in)``, rows as in `SO2Layout`, natural channels first.
            scale: factors of the inputs that depend on the edge's invariants only, one for each
                degree, ``|m|`` and channel: ``(E, (L+1)(L+2)/2, C_in)``.

        Returns:
            Features ``(E, (L+1)^2, C_out)`` and invariants ``(E, n_scalars)``.
        """
        e, degrees = len(x), self.layout.degrees
        rows = x.split(self.layout.row_splits, dim=1)
        scales = scale.split(degrees, dim=1) if scale is not None else [None] * len(degrees)
        x0 = rows[0] if scales[0] is None else rows[0] * scales[0]
        natural, pseudo = x0.split(self.inputs, dim=2)
        n = degrees[0]
        y_natural = self.natural(natural.reshape(e, n * self.inputs[0]))
        y_natural, scalars = y_natural.split([n * self.outputs[0], self.n_scalars], dim=1)
        y_pseudo = pseudo.reshape(e, n * self.inputs[1]) @ self.pseudo
        zero = y_natural.view(e, n, self.outputs[0]), y_pseudo.view(e, n, self.outputs[1])
        out, n_in, n_out = [torch.cat(zero, dim=2)], sum(self.inputs), sum(self.outputs)
        for xm, n, s, w in zip(rows[1:], degrees[1:], scales[1:], self.weights, strict=True):
            both = xm.view(e, 2, n, n_in)
            if s is not None:
                both = both * s[:, None]
            out.append((both.reshape(2 * e, n * n_in) @ w).view(e, 2 * n, n_out))
        return torch.cat(out, dim=1), scalars


def _matrix(n_in: int, n_out: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(n_in, n_out) / math.sqrt(max(n_in, 1)))


class EdgeGate(nn.Module):
    """The non-linearity of the edge frame.

    Natural components with m = 0 do not change under a turn about the edge or a mirror through it:
    they may pass through any function. All others are multiplied by functions of such numbers.

    Args:
        l_max: largest degree.
        channels: number of natural and of pseudo channels.
    """

    row_of: Tensor

    def __init__(self, l_max: int, channels: tuple[int, int]) -> None:
        super().__init__()
        self.layout, self.channels, self.l_max = SO2Layout(l_max), channels, l_max
        self.n_gates = channels[1] + l_max * sum(channels)
        m_of_row = torch.cat(
            [torch.full((n,), m - 1) for m, n in enumerate(self.layout.row_splits) if m]
            or [torch.zeros(0, dtype=torch.int64)]
        )
        self.register_buffer("row_of", m_of_row, persistent=False)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Return ``x`` ``(E, (L+1)^2, C)`` gated by the invariants ``gates`` ``(E, n_gates)``."""
        n = self.l_max + 1
        x0, rest = x.split([n, x.shape[1] - n], dim=1)
        natural, pseudo = x0.split(self.channels, dim=2)
        g0, gm = torch.sigmoid(gates).split(
            [self.channels[1], self.l_max * sum(self.channels)], dim=1
        )
        gm = gm.view(len(x), self.l_max, sum(self.channels)).index_select(1, self.row_of)
        first = torch.cat([nn.functional.silu(natural), pseudo * g0[:, None]], dim=2)
        return torch.cat([first, rest * gm], dim=1)


class SO2Convolution(nn.Module):
    """Two SO(2) maps with a gate between them, the first one weighted by the pair's invariants.

    Args:
        l_max: largest degree.
        inputs: natural and pseudo channels that come in.
        hidden: the same between the two maps.
        outputs: the same for those that go out.
        n_invariants: size of the pair embedding.
        radial_hidden: width of the radial network.
    """

    def __init__(
        self,
        l_max: int,
        inputs: tuple[int, int],
        hidden: tuple[int, int],
        outputs: tuple[int, int],
        n_invariants: int,
        radial_hidden: int,
    ) -> None:
        super().__init__()
        self.n_factors, self.n_in = sum(SO2Layout(l_max).degrees), sum(inputs)
        self.radial = nn.Sequential(
            nn.Linear(n_invariants, radial_hidden),
            nn.SiLU(),
            nn.Linear(radial_hidden, radial_hidden),
            nn.SiLU(),
            nn.Linear(radial_hidden, self.n_factors * self.n_in),
        )
        self.gate = EdgeGate(l_max, hidden)
        self.first = SO2Linear(l_max, inputs, hidden, n_scalars=self.gate.n_gates)
        self.second = SO2Linear(l_max, hidden, outputs)

    def forward(self, x: Tensor, invariants: Tensor) -> Tensor:
        """Convolve features in the edge frame.

        Args:
            x: ``(E, (L+1)^2, C_in)``.
            invariants: pair embedding, ``(E, n_invariants)``.
        """
        # 1. weights of the filter: functions of distance and elements
        scale = self.radial(invariants).view(len(x), self.n_factors, self.n_in)
        # 2. the convolution, with invariants for the gate beside it
        hidden, gates = self.first(x, scale)
        # 3. non-linearity through invariants only
        hidden = self.gate(hidden, gates)
        # 4. a second convolution along the same edge
        y: Tensor = self.second(hidden)[0]
        return y
