"""The equivariant convolution: hamnet's SO(2) form against e3nn's tensor products and fairchem's.

    python benchmarks/so2.py --quick

Each method maps node features to node features along given edges: gather, radial weights, (rotate,)
product, (rotate back,) sum on the target. `hamnet` is exactly O(3)-equivariant with a quarter of
its channels pseudo; `e3nn-uvu` is the depthwise product with a linear map afterwards (NequIP);
`e3nn-uvw` the fully weighted product; `fairchem` the SO(2) convolution of eSEN/UMA, SO(3) only,
run if fairchem-core is installed. Times are medians, rotations included in hamnet's and fairchem's.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import finish, parser
from e3nn import o3
from torch import Tensor, nn

from hamnet.nn.frames import EdgeRows, PairFrames
from hamnet.nn.so2 import RadialWeights, SO2Linear
from hamnet.so3.rotation import EdgeFrame

N_RADIAL = 16


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    peak = _matrix_product_gflops()
    rows: list[dict[str, Any]] = []
    for n_edges in options.edges:
        for channels in options.channels:
            for l_max in options.l:
                for name, make in METHODS.items():
                    if name in options.methods and _affordable(name, l_max, channels, n_edges):
                        row = _row(name, make, l_max, channels, n_edges, peak)
                        print(row, flush=True)
                        rows.append(row)
    exponents = _exponents(rows)
    finish(
        rows,
        options.json,
        threads=options.threads,
        matrix_product_gflops=round(peak, 1),
        exponent_in_l_plus_1=exponents,
    )
    print("growth exponents in (L+1):", exponents)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--l", type=int, nargs="+", default=list(range(1, 9)))
    made.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128])
    made.add_argument("--edges", type=int, nargs="+", default=[2000, 10000])
    made.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    options = made.parse_args()
    if options.quick:
        options.l, options.channels, options.edges = [2, 4], [64], [2000]
    return options


class Hamnet(nn.Module):
    """Gather the source, rotate, SO(2) map with radial weights, rotate back, sum."""

    def __init__(self, l_max: int, channels: int) -> None:
        super().__init__()
        parts = (channels - channels // 4, channels // 4)
        self.l_max, self.parts = l_max, parts
        self.frame = EdgeFrame(l_max).float()
        self.rows = EdgeRows(l_max, parts)
        self.weights = RadialWeights(l_max, channels, N_RADIAL, 64)
        self.linear = SO2Linear(l_max, parts, parts)

    def forward(self, x: Tensor, vectors: Tensor, ends: Tensor, embedding: Tensor) -> Tensor:
        frames = PairFrames(self.frame(vectors), ends, embedding[:, 0])
        sign = self.rows.own_sign
        source = self.rows.gather(x, ends[1], frames)
        y, _ = self.linear(self.weights(source, embedding, sign))
        back = self.rows.back(y * sign, frames)
        return torch.zeros_like(x).index_add(0, ends[0], back)

    def flops(self, n_edges: int) -> float:
        """Return the operations of the SO(2) matrices alone, forward."""
        return (
            2.0
            * n_edges
            * sum(
                (1 if m == 0 else 2) * w
                for m, w in enumerate(
                    [self.linear.natural.weight.numel() + self.linear.pseudo.numel()]
                    + [w.numel() for w in self.linear.weights]
                )
            )
        )


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
    """Fully weighted tensor product; the radial weights multiply the filter of each degree."""

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
    "fairchem": Fairchem,
}


def _radial(n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(N_RADIAL, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, n_out)
    )


def _affordable(name: str, l_max: int, channels: int, n_edges: int) -> bool:
    """Leave out what would need minutes or tens of GB."""
    work = channels * n_edges * (l_max + 1) ** 6
    limit = {"e3nn-uvu": 3e10, "e3nn-uvw": 3e9 / max(channels / 32, 1)}
    return work <= limit.get(name, math.inf)


def _row(
    name: str,
    make: Callable[[int, int], nn.Module],
    l_max: int,
    channels: int,
    n_edges: int,
    peak: float,
) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name, "L": l_max, "channels": channels, "edges": n_edges}
    torch.manual_seed(0)
    try:
        layer = make(l_max, channels)
    except ImportError:
        return {**row, "note": "not installed"}
    n_nodes = n_edges // 20
    shape = (n_nodes, (l_max + 1) ** 2, channels)
    flat = name.startswith("e3nn")
    x = torch.randn(n_nodes, shape[1] * channels) if flat else torch.randn(shape)
    x.requires_grad_()
    vectors = torch.nn.functional.normalize(torch.randn(n_edges, 3), dim=1)
    ends, embedding = torch.randint(0, n_nodes, (2, n_edges)), torch.randn(n_edges, N_RADIAL)

    def forward() -> Tensor:
        return layer(x, vectors, ends, embedding)

    def both() -> None:
        forward().sum().backward()

    with torch.no_grad():
        row["forward_ms"] = round(1e3 * _median(forward), 2)
    row["forward_backward_ms"] = round(1e3 * _median(both), 2)
    row["peak_mb"] = round(_peak_mb(both), 1)
    if isinstance(layer, Hamnet):
        share = layer.flops(n_edges) / (row["forward_ms"] / 1e3) / 1e9 / peak
        row["share_of_matrix_product"] = round(share, 3)
    return row


def _median(function: Callable[[], object]) -> float:
    function()
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 1.0 and len(times) < 20):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _peak_mb(function: Callable[[], object]) -> float:
    """Return the largest memory held by tensors at one time during a call."""
    with torch.profiler.profile(profile_memory=True, record_shapes=False) as profile:
        function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / 2**20


def _matrix_product_gflops(n: int = 1536) -> float:
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2 * n**3 / _median(lambda: a @ b) / 1e9


def _exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the slope of log time in log (L+1), forward + backward, 64 channels, fewest edges."""
    found: dict[str, float] = {}
    for name in METHODS:
        points = [
            (math.log(r["L"] + 1), math.log(r["forward_backward_ms"]))
            for r in rows
            if r["method"] == name
            and r["channels"] == 64
            and r.get("forward_backward_ms")
            and r["edges"] == min(q["edges"] for q in rows)
            and r["L"] >= 2
        ]
        if len(points) >= 2:
            found[name] = round(float(np.polyfit(*zip(*points, strict=True), 1)[0]), 2)
    return found


if __name__ == "__main__":
    main()
