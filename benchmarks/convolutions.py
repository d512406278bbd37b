"""The convolutions that `so2.py` compares: node features to node features along given edges."""

import math
from collections.abc import Callable

import torch
from e3nn import o3
from torch import Tensor, nn

from hamnet.nn.frames import EdgeRows, PairFrames
from hamnet.nn.so2 import RadialWeights, SO2Linear
from hamnet.so3.rotation import EdgeFrame

N_RADIAL = 16


class Hamnet(nn.Module):
    """Gather the source, rotate, SO(2) map with radial weights, rotate back, sum."""

    def __init__(self, l_max: int, channels: int) -> None:
        super().__init__()
        parts = (channels - channels // 4, channels // 4)
        self.l_max, self.parts = l_max, parts
        self.frame = EdgeFrame(l_max)
        self.rows = EdgeRows(l_max, parts)
        self.weights = RadialWeights(l_max, parts, N_RADIAL, 64)
        self.linear = SO2Linear(l_max, parts, parts)

    def forward(self, x: Tensor, vectors: Tensor, ends: Tensor, embedding: Tensor) -> Tensor:
        every = PairFrames(self.frame(vectors), ends, embedding[:, 0])
        sign = self.rows.own_sign
        filters, out = self.weights.filters(sign), torch.zeros_like(x)
        size = self.rows.at_once(len(vectors))
        for frames, part in zip(every.pieces(size), embedding.split(size), strict=True):
            target, source = frames.pairs
            weighted = self.weights(self.rows.gather(x, source, frames), part, filters)
            y, _ = self.linear(weighted)
            out = out.index_add(0, target, self.rows.back(y.mul_(sign), frames))
        return out

    def gflop(self, n_edges: int) -> dict[str, float]:
        """Return the operations of the matrix products that the layer needs, in 1e9.

        ``so2``: the SO(2) matrices; ``radial``: the radial network; ``rotation``: both rotations,
        degree by degree, whatever more the implementation multiplies.
        """
        natural, pseudo = self.parts
        channels, n = natural + pseudo, self.l_max + 1
        so2 = (n * natural) ** 2 + (n * pseudo) ** 2
        so2 += sum(2 * ((n - m) * channels) ** 2 for m in range(1, n))
        radial = sum(w.numel() for w in self.weights.parameters() if w.ndim == 2)
        rotation = 2 * channels * sum((2 * l + 1) ** 2 for l in range(n))
        parts = {"so2": so2, "radial": radial, "rotation": rotation}
        return {name: 2e-9 * n_edges * count for name, count in parts.items()}


class E3nnUvu(nn.Module):
    """Depthwise tensor product with radial weights, then a linear map (NequIP's convolution)."""

    def __init__(self, l_max: int, channels: int) -> None:
        super().__init__()
        features = o3.Irreps([(channels, (l, (-1) ** l)) for l in range(l_max + 1)])
        filters = o3.Irreps.spherical_harmonics(l_max)
        outputs, paths = [], []
        for i, (_, a) in enumerate(features):
            for f, (_, b) in enumerate(filters):
                for c in a * b:
                    if c.l <= l_max and c.p == (-1) ** c.l:
                        paths.append((i, f, len(outputs), "uvu", True))
                        outputs.append((channels, c))
        middle = o3.Irreps(outputs)
        self.filters = filters
        self.product = o3.TensorProduct(
            features, filters, middle, paths, internal_weights=False, shared_weights=False
        )
        self.radial = _radial(self.product.weight_numel)
        self.linear = o3.Linear(middle.simplify(), features)

    def forward(self, x: Tensor, vectors: Tensor, ends: Tensor, embedding: Tensor) -> Tensor:
        y = o3.spherical_harmonics(self.filters, vectors, normalize=False)
        messages = self.product(x[ends[1]], y, self.radial(embedding))
        total = messages.new_zeros(len(x), messages.shape[1]).index_add(0, ends[0], messages)
        out: Tensor = self.linear(total)
        return out


class E3nnUvw(nn.Module):
    """Fully weighted tensor product, all weights of every edge from the radial network."""

    def __init__(self, l_max: int, channels: int) -> None:
        super().__init__()
        features = o3.Irreps([(channels, (l, (-1) ** l)) for l in range(l_max + 1)])
        self.filters = o3.Irreps.spherical_harmonics(l_max)
        self.product = o3.FullyConnectedTensorProduct(
            features, self.filters, features, internal_weights=False, shared_weights=False
        )
        self.radial = _radial(self.product.weight_numel)

    def forward(self, x: Tensor, vectors: Tensor, ends: Tensor, embedding: Tensor) -> Tensor:
        y = o3.spherical_harmonics(self.filters, vectors, normalize=False)
        messages = self.product(x[ends[1]], y, self.radial(embedding))
        return messages.new_zeros(len(x), messages.shape[1]).index_add(0, ends[0], messages)


class E3nnUvwShared(nn.Module):
    """Fully weighted tensor product with one weight for all edges.

    The radial weights multiply the filter of each degree: cheaper, and closer to what the SO(2)
    forms compute.
    """

    def __init__(self, l_max: int, channels: int) -> None:
        super().__init__()
        features = o3.Irreps([(channels, (l, (-1) ** l)) for l in range(l_max + 1)])
        self.filters = o3.Irreps.spherical_harmonics(l_max)
        self.product = o3.FullyConnectedTensorProduct(features, self.filters, features)
        self.radial = _radial(l_max + 1)
        degree = [l for l in range(l_max + 1) for _ in range(2 * l + 1)]
        self.register_buffer("degree", torch.tensor(degree))

    def forward(self, x: Tensor, vectors: Tensor, ends: Tensor, embedding: Tensor) -> Tensor:
        y = o3.spherical_harmonics(self.filters, vectors, normalize=False)
        messages = self.product(x[ends[1]], y * self.radial(embedding)[:, self.degree])
        return messages.new_zeros(len(x), messages.shape[1]).index_add(0, ends[0], messages)


class Fairchem(nn.Module):
    """The SO(2) convolution of eSEN/UMA with its own Wigner matrices; SO(3)-equivariant only."""

    def __init__(self, l_max: int, channels: int) -> None:
        super().__init__()
        from fairchem.core.models.uma.common.rotation import (  # noqa: PLC0415
            eulers_to_wigner,
            init_edge_rot_euler_angles,
        )
        from fairchem.core.models.uma.common.so3 import CoefficientMapping  # noqa: PLC0415
        from fairchem.core.models.uma.nn.so2_layers import SO2_Convolution  # noqa: PLC0415

        self.angles, self.wigner, self.l_max = init_edge_rot_euler_angles, eulers_to_wigner, l_max
        mapping = CoefficientMapping(l_max, l_max)
        self.register_buffer("to_m", mapping.to_m)
        widths = [N_RADIAL, 64, 64]
        self.convolution = SO2_Convolution(
            channels, channels, l_max, l_max, mapping, internal_weights=False,
            edge_channels_list=widths,
        )  # fmt: skip
        self.jd = [_jd(l) for l in range(l_max + 1)]

    def forward(self, x: Tensor, vectors: Tensor, ends: Tensor, embedding: Tensor) -> Tensor:
        wigner = self.wigner(self.angles(vectors), 0, self.l_max, self.jd)
        turned = (self.to_m @ wigner) @ x[ends[1]]
        y = self.convolution(turned, embedding)
        back = wigner.mT @ (self.to_m.T @ y)
        return torch.zeros_like(x).index_add(0, ends[0], back)


def _jd(l: int) -> Tensor:
    """Return the constant matrix of fairchem's Wigner matrices: the exchange of y and z."""
    half = torch.tensor(math.pi / 2)
    zero = torch.tensor(0.0)
    return o3.wigner_D(l, zero, half, zero)


METHODS: dict[str, Callable[[int, int], nn.Module]] = {
    "hamnet": Hamnet,
    "e3nn-uvu": E3nnUvu,
    "e3nn-uvw": E3nnUvw,
    "e3nn-uvw-shared": E3nnUvwShared,
    "fairchem": Fairchem,
}


def _radial(n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(N_RADIAL, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, n_out)
    )
