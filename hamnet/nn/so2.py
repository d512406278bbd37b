"""SO(3) convolutions as SO(2) ones (eSCN), exactly O(3)-equivariant."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hamnet.nn.frames import EdgeRows
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
        bias: add a constant to the invariants; odd features must have none.
    """

    def __init__(
        self,
        l_max: int,
        inputs: tuple[int, int],
        outputs: tuple[int, int],
        n_scalars: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.layout = layout = SO2Layout(l_max)
        self.inputs, self.outputs, self.n_scalars = inputs, outputs, n_scalars
        n = l_max + 1
        self.natural = nn.Linear(n * inputs[0], n * outputs[0] + n_scalars, bias=bias)
        self.pseudo = _matrix(n * inputs[1], n * outputs[1])
        self.weights = nn.ParameterList(
            _matrix(n * sum(inputs), n * sum(outputs)) for n in layout.degrees[1:]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map features in the edge frame.

        Args:
            x: ``(E, (L+1)^2, C_in)``, rows as in `SO2Layout`, natural channels first.

        Returns:
            Features ``(E, (L+1)^2, C_out)`` and invariants ``(E, n_scalars)``.
        """
        e, degrees = len(x), self.layout.degrees
        n_in, n_out = sum(self.inputs), sum(self.outputs)
        sizes = [degrees[0]] + [n for n in degrees[1:] for _ in range(2)]
        parts = x.flatten(1).split([n * n_in for n in sizes], dim=1)
        n = degrees[0]
        natural, pseudo = parts[0].view(e, n, n_in).split(self.inputs, dim=2)
        y_natural = self.natural(natural.reshape(e, n * self.inputs[0]))
        y_natural, scalars = y_natural.split([n * self.outputs[0], self.n_scalars], dim=1)
        y_pseudo = pseudo.reshape(e, n * self.inputs[1]) @ self.pseudo
        zero = y_natural.view(e, n, self.outputs[0]), y_pseudo.view(e, n, self.outputs[1])
        out = [torch.cat(zero, dim=2).flatten(1)]
        for k, w in enumerate(self.weights):
            out += [half @ w for half in parts[1 + 2 * k : 3 + 2 * k]]
        return torch.cat(out, dim=1).view(e, self.layout.n_rows, n_out), scalars


def _matrix(n_in: int, n_out: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(n_in, n_out) / math.sqrt(max(n_in, 1)))


class EdgeGate(nn.Module):
    """The non-linearity of the edge frame.

    Natural components with m = 0 do not change under a turn about the edge or a mirror through it:
    they may pass through any function, in either direction of the pair. All others are multiplied
    by functions of such numbers.

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

    def forward(self, plus: Tensor, minus: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Gate ``plus`` and ``minus``, ``(P, K, C)``, by the invariants ``gates`` ``(P, n_gates)``.

        Both directions of a pair share the gates, which exchange of the atoms must not change.
        """
        n = self.l_max + 1
        g0, gm = torch.sigmoid(gates).split(
            [self.channels[1], self.l_max * sum(self.channels)], dim=1
        )
        gm = gm.view(len(plus), self.l_max, sum(self.channels)).index_select(1, self.row_of)
        (plus0, plus_m), (minus0, minus_m) = (
            x.split([n, x.shape[1] - n], dim=1) for x in (plus, minus)
        )
        natural, pseudo = plus0.split(self.channels, dim=2)
        natural_minus, pseudo_minus = minus0.split(self.channels, dim=2)
        forward = nn.functional.silu((natural + natural_minus) * math.sqrt(0.5))
        backward = nn.functional.silu((natural - natural_minus) * math.sqrt(0.5))
        g0 = g0[:, None]
        first = torch.cat([(forward + backward) * math.sqrt(0.5), pseudo * g0], dim=2)
        second = torch.cat([(forward - backward) * math.sqrt(0.5), pseudo_minus * g0], dim=2)
        return torch.cat([first, plus_m * gm], dim=1), torch.cat([second, minus_m * gm], dim=1)


Filters = tuple[Tensor, Tensor]
"""Weight ``(F * C, hidden)`` and bias ``(F * C,)`` of the last linear map of a radial network: F
pairs of a degree and an ``|m|``."""


class RadialWeights(nn.Module):
    """The filter of the convolution: functions of distance and elements.

    Each (degree, ``|m|``, channel) is multiplied by one.

    Args:
        l_max: largest degree.
        channels: natural and pseudo channels.
        n_invariants: size of the pair embedding.
        hidden: width of the network.
    """

    even_rows: Tensor

    def __init__(
        self, l_max: int, channels: tuple[int, int], n_invariants: int, hidden: int
    ) -> None:
        super().__init__()
        self.channels, layout = channels, SO2Layout(l_max)
        self.network = nn.Sequential(
            nn.Linear(n_invariants, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.last = nn.Linear(hidden, sum(layout.degrees) * sum(channels))
        by_m = torch.arange(layout.n_rows).split(layout.row_splits)
        even = [rows[:n] for rows, n in zip(by_m, layout.degrees, strict=True)]
        self.register_buffer("even_rows", torch.cat(even), persistent=False)

    def filters(self, sign: Tensor) -> Filters:
        """Return the last linear map times the signs of the even rows.

        Args:
            sign: of all rows, ``(K, C)``. Those of the odd rows must be those of the even ones, in
                pseudo channels the opposite, as `EdgeRows.own_sign` and `other_sign` are.
        """
        sign = sign.index_select(0, self.even_rows).flatten()
        return self.last.weight * sign[:, None], self.last.bias * sign

    def forward(self, x: Tensor, invariants: Tensor, filters: Filters) -> Tensor:
        """Weight features of one end of pairs.

        Args:
            x: ``(P, K, C)``, edge rows.
            invariants: pair embedding, seen from that end, ``(P, n_invariants)``.
            filters: made once for all pairs.
        """
        hidden = self.network(invariants)
        weight, bias = (f.to(hidden.dtype) for f in filters)  # products may have less precision
        weighted: Tensor = _Weighted.apply(  # type: ignore[no-untyped-call]
            x, hidden, weight, bias, self.channels[0]
        )
        return weighted


class _Weighted(torch.autograd.Function):
    """``x`` times ``linear(hidden)``; the factors are made again on the way back, not kept."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, n_natural: int
    ) -> Tensor:
        ctx.save_for_backward(x, hidden, weight, bias)
        ctx.n_natural = n_natural
        return _times(x, nn.functional.linear(hidden, weight, bias).to(x.dtype), n_natural)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, weight, bias = ctx.saved_tensors
        factors = nn.functional.linear(hidden, weight, bias).to(x.dtype)
        of_x = _times(grads[0], factors, ctx.n_natural)
        of_factors = _of_factors(x, grads[0], factors, ctx.n_natural).to(hidden.dtype)
        return of_x, of_factors @ weight, of_factors.mT @ hidden, of_factors.sum(0), None


def _times(x: Tensor, factors: Tensor, n_natural: int) -> Tensor:
    """Return ``x``, edge rows ``(P, K, C)``, times factors ``(P, F C)``.

    Even and odd rows share a factor; odd rows of pseudo channels get its opposite.
    """
    y = x.new_empty(x.shape)
    for rows, made, factor in zip(_by_m(x), _by_m(y), _factors_by_m(factors, x), strict=True):
        for row, out in zip(rows, made, strict=True):
            torch.mul(row, factor, out=out)
        for odd in made[1:]:
            odd.unflatten(1, (-1, x.shape[2]))[..., n_natural:].neg_()
    return y


def _of_factors(x: Tensor, grad: Tensor, factors: Tensor, n_natural: int) -> Tensor:
    """Return the gradient ``(P, F C)`` with respect to the factors of `_times`."""
    made = torch.empty_like(factors)
    for rows, grads, out in zip(_by_m(x), _by_m(grad), _factors_by_m(made, x), strict=True):
        torch.mul(rows[-1], grads[-1], out=out)
        for even, of_even in zip(rows[:-1], grads[:-1], strict=True):
            out.unflatten(1, (-1, x.shape[2]))[..., n_natural:].neg_()
            out.addcmul_(even, of_even)
    return made


def _by_m(x: Tensor) -> list[tuple[Tensor, ...]]:
    """Return the even and the odd rows of each m, ``(P, n C)``; with m = 0 all are even."""
    sizes = [n * x.shape[2] for n in _degrees(x) for _ in range(2)]
    even, *halves = x.flatten(1).split(sizes[1:], dim=1)
    return [(even,), *zip(halves[::2], halves[1::2], strict=True)]


def _factors_by_m(factors: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = factors.split([n * x.shape[2] for n in _degrees(x)], dim=1)
    return parts


def _degrees(x: Tensor) -> tuple[int, ...]:
    return SO2Layout(math.isqrt(x.shape[1]) - 1).degrees


class BothEnds(nn.Module):
    """From the atoms to functions of a pair: weighted features of both ends, plus and minus.

    Args:
        l_max: largest degree.
        channels: natural and pseudo channels.
        n_invariants: size of the pair embedding.
        hidden: width of the radial network.
    """

    def __init__(
        self, l_max: int, channels: tuple[int, int], n_invariants: int, hidden: int
    ) -> None:
        super().__init__()
        self.rows = EdgeRows(l_max, channels)
        self.weights = RadialWeights(l_max, channels, n_invariants, hidden)

    def filters(self) -> tuple[Filters, Filters]:
        """Return the filters of atoms i and of atoms j."""
        half = math.sqrt(0.5)
        own, other = half * self.rows.own_sign, half * self.rows.other_sign
        return self.weights.filters(own), self.weights.filters(other)

    def forward(
        self,
        ends: tuple[Tensor, Tensor],
        invariants: tuple[Tensor, Tensor],
        filters: tuple[Filters, Filters],
    ) -> tuple[Tensor, Tensor]:
        """Return ``plus`` and ``minus``, ``(P, K, C)``.

        Args:
            ends: features of atoms i and of atoms j, `EdgeRows.gather`.
            invariants: embedding of (i, j) and of (j, i), ``(P, n_invariants)``.
            filters: made once for all pairs.
        """
        own, other = map(self.weights, ends, invariants, filters)
        return own + other, own - other


class SO2Convolution(nn.Module):
    """SO(2) maps of plus and minus, and a gate.

    Attributes:
        compiled: run through `torch.compile`: one graph for all convolutions of the same sizes and
            any number of pairs. What cannot be compiled as one graph is an error.

    Args:
        l_max: largest degree.
        inputs: natural and pseudo channels that come in.
        outputs: the same for those that go out.
    """

    def __init__(self, l_max: int, inputs: tuple[int, int], outputs: tuple[int, int]) -> None:
        super().__init__()
        self.compiled = False
        self.gate = EdgeGate(l_max, outputs)
        self.plus = SO2Linear(l_max, inputs, outputs, n_scalars=self.gate.n_gates)
        self.minus = SO2Linear(l_max, inputs, outputs, bias=False)

    def forward(self, plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
        """Convolve ``plus`` and ``minus`` ``(P, K, C_in)`` of pairs; see `EdgeRows`."""
        if not self.compiled:
            return self._convolve(plus, minus)
        for x in (plus, minus):
            torch._dynamo.maybe_mark_dynamic(x, 0)
        return _compiled()(self, plus, minus)

    def _convolve(self, plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
        # 1. the convolution, with invariants for the gate beside it
        plus, gates = self.plus(plus)
        minus, _ = self.minus(minus)
        # 2. non-linearity through invariants only
        gated: tuple[Tensor, Tensor] = self.gate(plus, minus, gates)
        return gated


@cache
def _compiled() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(SO2Convolution._convolve, fullgraph=True)
