"""TraceGrad: invariants that are supervised, and the equivariant features that they induce.

Yin et al., arXiv 2405.05722. An invariant encoder ``z = s(q(f))`` learns to predict invariants of
the labels, ``T = tr(H H^dagger)`` per shell pair; its gradient ``v = dz/df`` is equivariant because
``z`` is invariant, and carries the non-linearity of ``s`` back: ``f <- f + gain * v``.

Here the quadratic invariants are of low rank and the gradient is written out, so that nothing is
differentiated twice and inference runs without autograd. For each group g of components that rotate
into each other (of a node: the 2l+1 components of a degree and parity; of a pair in its own frame:
the components of an ``|m|``)

    u = f A,  w = f B,   q_k = sum_m u_mk w_mk / sqrt(n_components)
    a = W1 q + b1,  n = LayerNorm(a),  h = gamma n + beta,  z = W2 silu(h)
    g_h = (W2^T c) * silu'(h)          c: a learnt cotangent
    g_a = LayerNorm-VJP(gamma * g_h),  g_q = W1^T g_a
    v = [(g_q * w) A^T + (g_q * u) B^T] / sqrt(n_components).

A group of one component (natural m = 0 of a pair) is invariant itself and also enters linearly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """Components that rotate into each other.

    Attributes:
        n_components: number of components m.
        n_features: number of features of each.
        is_invariant: the single component is itself an invariant.
    """

    n_components: int
    n_features: int
    is_invariant: bool = False


class InvariantEncoder(nn.Module):
    """``z = s(q(f))`` and ``v = d(c.z)/df`` in closed form.

    Args:
        groups: the groups of components.
        rank: invariants made of each group.
        hidden: width of the network.
        n_invariants: size of ``z``.
    """

    def __init__(self, groups: Sequence[Group], rank: int, hidden: int, n_invariants: int) -> None:
        super().__init__()
        self.groups = tuple(groups)
        sizes = [g.n_features for g in groups]
        self.left = nn.ParameterList(_projection(n, rank) for n in sizes)
        self.right = nn.ParameterList(_projection(n, rank) for n in sizes)
        self.linear = nn.ParameterDict(
            {
                str(k): _projection(g.n_features, rank)
                for k, g in enumerate(groups)
                if g.is_invariant
            }
        )
        self.rank = rank
        self.W1 = nn.Linear(rank * (len(groups) + len(self.linear)), hidden)
        self.gamma = nn.Parameter(torch.ones(hidden))
        self.beta = nn.Parameter(torch.zeros(hidden))
        self.W2 = nn.Parameter(torch.randn(hidden, n_invariants) / math.sqrt(hidden))
        self.cotangent = nn.Parameter(torch.randn(n_invariants) / math.sqrt(n_invariants))
        self.eps = 1e-5

    def forward(
        self, features: Sequence[Tensor], induce: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Return ``z`` ``(N, n_invariants)`` and ``v``, a tensor for each group.

        Args:
            features: a tensor ``(N, n_components, n_features)`` for each group.
            induce: false: there is no need of ``v``, which is empty then.
        """
        # 1. invariants
        projected = [
            (f @ A, f @ B) for f, A, B in zip(features, self.left, self.right, strict=True)
        ]
        q = [
            (u * w).sum(dim=1) / math.sqrt(g.n_components)
            for (u, w), g in zip(projected, self.groups, strict=True)
        ]
        q += [(features[int(k)] @ A)[:, 0] for k, A in self.linear.items()]
        # 2. the encoder
        a = self.W1(torch.cat(q, dim=1))
        centred = a - a.mean(dim=1, keepdim=True)
        inverse = torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + self.eps)
        n = centred * inverse
        h = self.gamma * n + self.beta
        gate = torch.sigmoid(h)
        z = (h * gate) @ self.W2
        if not induce:
            return z, []
        # 3. its gradient, backwards through the same steps
        g_n = self.gamma * (self.W2 @ self.cotangent) * gate * (1 + h * (1 - gate))
        g_a = inverse * (
            g_n - g_n.mean(dim=1, keepdim=True) - n * (g_n * n).mean(dim=1, keepdim=True)
        )
        g_q = (g_a @ self.W1.weight).split(self.rank, dim=1)
        v = [
            ((g[:, None] * w) @ A.T + (g[:, None] * u) @ B.T) / math.sqrt(group.n_components)
            for g, (u, w), A, B, group in zip(
                g_q, projected, self.left, self.right, self.groups, strict=False
            )
        ]
        for g, (k, A) in zip(g_q[len(v) :], self.linear.items(), strict=True):
            v[int(k)] = v[int(k)] + (g @ A.T)[:, None]
        return z, v


def _projection(n_features: int, rank: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(n_features, rank) / math.sqrt(max(n_features, 1)))


class TraceGrad(nn.Module):
    """Add the induced features: ``f <- f + gain * v / rms(v)``.

    The magnitude of ``v`` says little (it scales with the weights of the encoder), so it is brought
    to one over all groups; the gain of each (group, feature) is learnt and starts at zero: at the
    beginning of training the layer changes nothing.

    Args:
        groups: the groups of components.
        rank: invariants made of each group.
        hidden: width of the encoder.
        n_invariants: size of ``z``.
        induce: false: only ``z`` is made, the features stay as they are.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        rank: int,
        hidden: int,
        n_invariants: int,
        induce: bool = True,
    ) -> None:
        super().__init__()
        self.induce = induce
        self.encoder = InvariantEncoder(groups, rank, hidden, n_invariants)
        self.gain = nn.ParameterList(torch.zeros(g.n_features) for g in groups if induce)
        self.n_numbers = sum(g.n_components * g.n_features for g in groups)

    def changes_features(self) -> bool:
        """Return whether features come out different: not while all gains are zero.

        Where gradients are wanted, the gains themselves are to be learnt. On a GPU a look at them
        would make the pass wait.
        """
        if not self.induce or torch.is_grad_enabled():
            return self.induce
        return any(g.device.type != "cpu" or g.numpy().any() for g in self.gain)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the invariants ``z`` and the new features, group by group."""
        z, v = self.encoder(features, self.induce)
        if not self.induce:
            return z, list(features)
        square = torch.stack([x.square().sum(dim=(1, 2)) for x in v]).sum(dim=0) / self.n_numbers
        inverse = torch.rsqrt(square + 1e-12)[:, None, None]
        return z, [
            f + gain * (x * inverse) for f, gain, x in zip(features, self.gain, v, strict=True)
        ]


def node_groups(l_max: int, channels: tuple[int, int]) -> list[Group]:
    """Return the groups of a node's features: each degree and parity."""
    return [Group(2 * l + 1, c) for c in channels for l in range(l_max + 1) if c]


def split_node(x: Tensor, l_max: int, channels: tuple[int, int]) -> list[Tensor]:
    """Cut node features ``(A, (L+1)^2, C)`` into the groups of `node_groups`."""
    degrees = [2 * l + 1 for l in range(l_max + 1)]
    return [g for part in x.split(channels, dim=2) if part.shape[2] for g in part.split(degrees, 1)]


def join_node(groups: Sequence[Tensor], l_max: int) -> Tensor:
    """Inverse of `split_node`."""
    n = l_max + 1
    parts = [torch.cat(list(groups[k : k + n]), dim=1) for k in range(0, len(groups), n)]
    return torch.cat(parts, dim=2)


def pair_groups(l_max: int, channels: tuple[int, int]) -> list[Group]:
    """Return the groups of a pair's features in its own frame: each ``|m|``, plus and minus.

    Plus features with m = 0 are invariants; minus ones change sign with the order of the atoms.
    """
    n = l_max + 1
    groups = []
    for is_plus in (True, False):
        groups.append(Group(1, n * channels[0], is_invariant=is_plus))
        groups += [Group(1, n * channels[1])] if channels[1] else []
        groups += [Group(2, (n - m) * sum(channels)) for m in range(1, n)]
    return groups


def split_pair(plus: Tensor, minus: Tensor, l_max: int, channels: tuple[int, int]) -> list[Tensor]:
    """Cut pair features ``(P, (L+1)^2, C)`` in edge rows into the groups of `pair_groups`."""
    n, groups = l_max + 1, []
    for x in (plus, minus):
        rows = x.split([n] + [2 * (n - m) for m in range(1, n)], dim=1)
        zero = [p.flatten(1)[:, None] for p in rows[0].split(channels, dim=2) if p.shape[2]]
        groups += zero + [r.flatten(1).unflatten(1, (2, -1)) for r in rows[1:]]
    return groups


def join_pair(
    groups: Sequence[Tensor], l_max: int, channels: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Inverse of `split_pair`."""
    n, n_zero, out = l_max + 1, 2 if channels[1] else 1, []
    half = len(groups) // 2
    for part in (groups[:half], groups[half:]):
        zeros = zip(part[:n_zero], channels, strict=False)
        zero = torch.cat([g[:, 0].unflatten(1, (n, c)) for g, c in zeros], dim=2)
        rest = [g.flatten(1).unflatten(1, (-1, sum(channels))) for g in part[n_zero:]]
        out.append(torch.cat([zero, *rest], dim=1))
    return out[0], out[1]
