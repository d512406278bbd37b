"""The equivariant convolution: hamnet's SO(2) form against e3nn's tensor products and fairchem's.

    python benchmarks/so2.py --quick
    python benchmarks/so2.py --table benchmarks/results/so2.json

Each method maps node features to node features along given edges: gather, radial weights, (rotate,)
product, (rotate back,) sum on the target. `hamnet` is exactly O(3)-equivariant with a quarter of
its channels pseudo; `e3nn-uvu` is the depthwise product with a linear map afterwards (NequIP);
`e3nn-uvw` the fully weighted product, with weights of every edge from the radial network as in
e3nn's documentation, `e3nn-uvw-shared` the same with one set of weights and radial factors;
`fairchem` the SO(2) convolution of eSEN/UMA, SO(3) only, run if fairchem-core is installed (in an
environment of its own: add its rows with ``--append``).

Half of the edges are the other half reversed, as in every neighbour list. Times are medians,
rotations included in hamnet's and fairchem's. `peak_mb` is the largest memory that tensors hold at
one time in a forward and backward pass (torch profiler), without the inputs and weights.
`cpu_share` is the processor time over the wall time meanwhile: with one thread, less than 1 means
that something else was running. `peak_share` is hamnet's share of the rate of a matrix product that
is timed beside it: the operations of the matrix products that the convolution needs (radial
network, both rotations degree by degree, SO(2) matrices), forward, over the forward time. A cell is
left out, and its row says so, where its time or memory, extrapolated from the method's largest cell
so far, passes ``--budget`` or ``--memory``.
"""

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from common import Row, Rows, exponent, finish, parser, seconds
from convolutions import METHODS, N_RADIAL, Hamnet
from torch import Tensor, nn

KEY = ("method", "L", "channels", "edges")
GROWTH = {
    "hamnet": ((3, 1), (4, 1)),
    "e3nn-uvu": ((6, 1), (4, 1)),
    "e3nn-uvw": ((6, 2), (3, 2)),
    "e3nn-uvw-shared": ((6, 2), (4, 1)),
    "fairchem": ((3, 1), (4, 1)),
}
"""Powers of (L+1) and of the channels with which time and memory are extrapolated."""
CALLS = 2.5
"""A slow cell costs about this many forward and backward passes."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    cells = itertools.product(options.edges, options.channels, options.l, options.methods)
    for n_edges, channels, l_max, name in cells:
        row = {"method": name, "L": l_max, "channels": channels, "edges": n_edges}
        reason = _too_much(row, rows, options)
        rows.append({**row, "left_out": reason} if reason else _measure(row))
        print(rows[-1], flush=True)
    finish(rows, options, KEY, _exponents, threads=options.threads)
    print("growth exponents in (L+1):", _exponents(rows))


def _options() -> argparse.Namespace:
    made = parser(__doc__, _table)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--l", type=int, nargs="+", default=list(range(1, 9)))
    made.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128])
    made.add_argument("--edges", type=int, nargs="+", default=[2000, 10000])
    made.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    made.add_argument("--budget", type=float, default=60.0, help="Seconds for a cell.")
    made.add_argument("--memory", type=float, default=8.0, help="GB for a cell.")
    options = made.parse_args()
    if options.quick:
        options.l, options.channels, options.edges = [1, 2, 3], [32], [500]
    return options


def _too_much(cell: Row, rows: Rows, options: argparse.Namespace) -> str:
    """Return why a cell is left out, or nothing."""
    time_powers, memory_powers = GROWTH[cell["method"]]

    def work(r: Row, powers: tuple[int, int] = time_powers) -> float:
        return float((r["L"] + 1) ** powers[0] * r["channels"] ** powers[1] * r["edges"])

    same = [r for r in rows if r["method"] == cell["method"] and "peak_mb" in r]
    smaller = [r for r in same if work(r) < work(cell)]
    if not smaller:
        return ""
    near = max(smaller, key=work)
    spent = CALLS * near["forward_backward_ms"] / 1e3 * work(cell) / work(near)
    memory = near["peak_mb"] / 1024 * work(cell, memory_powers) / work(near, memory_powers)
    if spent > options.budget:
        return f"about {spent:.0f} s, budget {options.budget:.0f} s"
    if memory > options.memory:
        return f"about {memory:.0f} GB, limit {options.memory:.0f} GB"
    return ""


def _measure(row: Row) -> Row:
    channels, n_edges, l_max = row["channels"], row["edges"], row["L"]
    torch.manual_seed(0)
    try:
        layer: nn.Module = METHODS[row["method"]](l_max, channels).float()
    except ImportError as error:
        return {**row, "left_out": f"not installed ({error.name})"}
    n_nodes = n_edges // 20
    shape = (n_nodes, (l_max + 1) ** 2, channels)
    flat = row["method"].startswith("e3nn")
    x = torch.randn(n_nodes, shape[1] * channels) if flat else torch.randn(shape)
    x.requires_grad_()
    half = torch.nn.functional.normalize(torch.randn(n_edges // 2, 3), dim=1)
    pairs = torch.randint(0, n_nodes, (2, n_edges // 2))
    vectors, ends = torch.cat([half, -half]), torch.cat([pairs, pairs.flip(0)], dim=1)
    embedding = torch.randn(n_edges, N_RADIAL)

    def forward() -> Tensor:
        out: Tensor = layer(x, vectors, ends, embedding)
        return out

    def both() -> None:
        forward().sum().backward()

    peak_mb = _peak_mb(both)  # warms up, too
    wall, cpu = time.perf_counter(), time.process_time()
    both_ms = 1e3 * seconds(both, warm_up=False)
    with torch.no_grad():
        forward_ms = 1e3 * seconds(forward)
    cpu_share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    row = {
        **row,
        "forward_ms": round(forward_ms, 2),
        "forward_backward_ms": round(both_ms, 2),
        "peak_mb": round(peak_mb, 1),
        "cpu_share": round(cpu_share, 2),
        "matrix_product_gflops": round(_matrix_product_gflops(), 1),
    }
    if isinstance(layer, Hamnet):
        row["gflop"] = {k: round(v, 4) for k, v in layer.gflop(n_edges).items()}
        rate = sum(row["gflop"].values()) / (forward_ms / 1e3)
        row["peak_share"] = round(rate / row["matrix_product_gflops"], 3)
    return row


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
    return 2 * n**3 / seconds(lambda: a @ b, budget=0.3) / 1e9


def _exponents(rows: Rows) -> dict[str, float]:
    """Return the growth of the time with (L+1), L >= 2, both passes, at one size of each method.

    The one with the fewest edges and closest to 64 channels; three degrees at least.
    """
    found: dict[str, float] = {}
    for name in METHODS:
        measured = [r for r in rows if r["method"] == name and "peak_mb" in r and r["L"] >= 2]
        sizes = [(r["edges"], abs(r["channels"] - 64)) for r in measured]
        points = [r for r, size in zip(measured, sizes, strict=True) if size == min(sizes)]
        if len(points) >= 3:
            degrees = [r["L"] + 1 for r in points]
            found[name] = exponent(degrees, [r["forward_backward_ms"] for r in points])
    return found


def _table(rows: Rows) -> str:
    """Return a table for each number of channels and edges, and the exponents."""
    lines = []
    for edges, channels in sorted({(r["edges"], r["channels"]) for r in rows}):
        cell = {
            (r["method"], r["L"]): r
            for r in rows
            if (r["edges"], r["channels"]) == (edges, channels)
        }
        measured = {r["method"] for r in cell.values() if "peak_mb" in r}
        names = [name for name in METHODS if name in measured]
        lines += [f"{edges:,} edges, {channels} channels; forward / forward and backward in ms", ""]
        lines += [
            f"| L | {' | '.join(names)} | e3nn uvu / hamnet (both passes) "
            "| fairchem / hamnet (forward) | hamnet's peak_share | peak_mb, in the same order |",
            "|---" * (len(names) + 5) + "|",
        ]
        for l in sorted({l for _, l in cell}):
            at = {name: cell.get((name, l), {}) for name in names}
            columns = [str(l), *(_times(row) for row in at.values())]
            columns += [_ratio(at, "e3nn-uvu", "forward_backward_ms")]
            columns += [_ratio(at, "fairchem", "forward_ms")]
            columns += [str(at.get("hamnet", {}).get("peak_share", ""))]
            columns += [" / ".join(str(row.get("peak_mb", "-")) for row in at.values())]
            lines.append(f"| {' | '.join(columns)} |")
        lines.append("")
    growth = ", ".join(f"{name} {power}" for name, power in _exponents(rows).items())
    return "\n".join([*lines, f"Growth exponents in (L+1), both passes: {growth}"])


def _times(row: Row) -> str:
    if "peak_mb" not in row:
        return "-"
    return f"{row['forward_ms']:,.0f} / {row['forward_backward_ms']:,.0f}"


def _ratio(at: dict[str, Row], name: str, what: str) -> str:
    other, own = (at.get(n, {}).get(what) for n in (name, "hamnet"))
    return f"{other / own:.1f}" if other and own else "-"


if __name__ == "__main__":
    main()
