"""Growth with the system: the Hamiltonian's blocks of up to 2,000 atoms, time and memory.

    python benchmarks/scaling.py --quick

What is measured is the way from a geometry to the predicted blocks of all pairs within the pair
cutoff: graph, sparse layout, network, assembly, all linear in the number of atoms. Dense matrices,
PySCF's overlap (dense) and the eigenproblem (cubic) are not in it. `alkane` is an all-trans chain,
`water` a drop of liquid density with random orientations; neither needs a relaxed geometry for its
cost. In a drop the pairs of an atom grow with the third power of the cutoff, and only in the bulk
their number is constant: the fit over pairs says what the model costs, that over atoms also how the
surface fades. Default size, def2-SVP, random weights; every row is a process of its own,
`peak_mb` is its largest resident memory (getrusage), of which `base_mb` was there before the call.
A row is left out, and says so, where the memory, extrapolated by pairs from the row before, would
pass ``--memory``.
"""

import argparse

import numpy as np
import torch
from common import (
    CLOCKS,
    Row,
    Rows,
    exponent,
    finish,
    in_own_process,
    markdown,
    parser,
    resident_mb,
    seconds,
)
from systems import untrained_model

from hamnet.blocks import HamiltonianBlocks
from hamnet.data.samples import make_sample
from hamnet.graph import build_graph
from hamnet.structure import FloatArray, Structure
from hamnet.testing import random_rotation

KEY = ("system", "message_cutoff", "pair_cutoff", "atoms")


def main() -> None:
    options = _options()
    rows: list[Row] = []
    for system in options.systems:
        cutoffs = CUTOFFS[system] if options.cutoffs is None else tuple(options.cutoffs)
        for n_atoms in options.atoms:
            row = _case(system, n_atoms, cutoffs)
            before = rows[-1] if rows and rows[-1]["system"] == system else None
            reason = _too_much(row, before, options.memory)
            rows.append(
                {**row, "left_out": reason}
                if reason
                else in_own_process(_measure, row, options.threads, options.clock)
            )
            print(rows[-1], flush=True)
            if reason:
                break
    finish(rows, options, KEY, _growth, threads=options.threads, clock=options.clock)
    print("growth exponents:", _growth(rows))


def _options() -> argparse.Namespace:
    made = parser(__doc__, _table)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--clock", default="wall", choices=list(CLOCKS))
    made.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    made.add_argument("--atoms", type=int, nargs="+", default=[125, 250, 500, 1000, 2000])
    made.add_argument(
        "--cutoffs",
        type=float,
        nargs=2,
        metavar=("MESSAGE", "PAIR"),
        help="Angstrom; by default 8 and 12 for the alkane, 5 and 6 for water.",
    )
    made.add_argument("--memory", type=float, default=12.0, help="GB for a process.")
    options = made.parse_args()
    if options.quick:
        options.atoms = [60, 120]
    return options


def _case(system: str, n_atoms: int, cutoffs: tuple[float, float]) -> Row:
    structure = SYSTEMS[system](n_atoms)
    graph = build_graph(structure, *cutoffs)
    return {
        "system": system,
        "message_cutoff": cutoffs[0],
        "pair_cutoff": cutoffs[1],
        "size": n_atoms,
        "atoms": len(structure),
        "messages": 2 * len(graph.edges),
        "pairs": graph.pairs.shape[1],
    }


def _too_much(case: Row, before: Row | None, limit: float) -> str:
    if before is None:
        return ""
    ratio = case["pairs"] / before["pairs"]
    memory = (before["base_mb"] + (before["peak_mb"] - before["base_mb"]) * ratio) / 1024
    return f"about {memory:.0f} GB, limit {limit:.0f} GB" if memory > limit else ""


def _measure(case: Row, threads: int, clock: str) -> Row:
    torch.set_num_threads(threads)
    structure = SYSTEMS[case["system"]](case["size"])
    small = SYSTEMS[case["system"]](30)
    cutoffs = (case["message_cutoff"], case["pair_cutoff"])
    model = untrained_model(small, message_cutoff=cutoffs[0], pair_cutoff=cutoffs[1])
    base = resident_mb()

    def predict() -> HamiltonianBlocks:
        sample = make_sample(structure, None, model.basis, cutoffs)
        with torch.inference_mode():
            return HamiltonianBlocks(sample.layouts[0], model(sample).numpy())

    graph_s = seconds(
        lambda: make_sample(structure, None, model.basis, cutoffs), budget=0.2, clock=clock
    )
    total_s = seconds(predict, warm_up=case["atoms"] < 500, clock=clock)
    return {
        **case,
        "graph_ms": round(1e3 * graph_s, 1),
        "total_ms": round(1e3 * total_s, 1),
        "ms_an_atom": round(1e3 * total_s / case["atoms"], 3),
        "peak_mb": round(resident_mb()),
        "base_mb": round(base),
        "kb_an_atom": round((resident_mb() - base) * 1024 / case["atoms"], 1),
    }


def _growth(rows: Rows) -> dict[str, dict[str, float]]:
    """Return the powers of atoms and of pairs with which time and memory grow."""
    found = {}
    for system in SYSTEMS:
        points = [r for r in rows if r["system"] == system and "total_ms" in r]
        if len(points) < 2:
            continue
        memory = [r["peak_mb"] - r["base_mb"] for r in points]
        times = {"graph": [r["graph_ms"] for r in points], "time": [r["total_ms"] for r in points]}
        found[system] = {
            f"{name}, {unit}": exponent([r[unit] for r in points], values)
            for name, values in {**times, "memory": memory}.items()
            for unit in ("atoms", "pairs")
        }
    return found


def _table(rows: Rows) -> str:
    growth = [f"{system}: {powers}" for system, powers in _growth(rows).items()]
    return "\n".join([markdown(rows), "", "Growth exponents", *growth])


def alkane(n_atoms: int) -> Structure:
    """Return an all-trans chain CH3-(CH2)n-CH3 with about so many atoms, Angstrom."""
    n = max(2, round((n_atoms - 2) / 3))
    half = np.radians(112.0) / 2  # of the angle C-C-C; bonds of 1.53 and 1.09 Angstrom
    step, height = 1.53 * np.sin(half), 1.53 * np.cos(half)
    k = np.arange(n)
    side = np.where(k % 2, 1.0, -1.0)
    carbons = np.stack([k * step, 0.5 * height * side, 0 * k], axis=1)
    out, up = 1.09 * np.sin(np.radians(54.75)), 1.09 * np.cos(np.radians(54.75))
    hydrogens = [
        carbons + np.stack([0 * k, up * side, sign * out + 0 * k], axis=1) for sign in (1, -1)
    ]
    ends = []
    for first, second in ((0, 1), (-1, -2)):
        toward = carbons[first] - carbons[second]
        mirrored = toward * [1.0, -1.0, 1.0]  # the chain continued
        ends.append(carbons[first] + 1.09 * mirrored / np.linalg.norm(mirrored))
    numbers = np.repeat([6, 1], [n, 2 * n + 2])
    return Structure(numbers, np.concatenate([carbons, *hydrogens, np.array(ends)]))


def water(n_atoms: int) -> Structure:
    """Return a cubic drop of water of liquid density with random orientations, Angstrom."""
    n, generator = round(n_atoms / 3), np.random.default_rng(0)
    spacing = 3.104  # a molecule in 29.9 cubic Angstrom: 1 g/cm3
    edge = np.arange(np.ceil(n ** (1 / 3)))
    grid = np.stack(np.meshgrid(edge, edge, edge, indexing="ij"), axis=-1).reshape(-1, 3)
    centre = np.linalg.norm(grid - grid.mean(axis=0), axis=1)
    grid = grid[np.argsort(centre, kind="stable")[:n]] * spacing
    angle = np.radians(104.5) / 2
    own: FloatArray = 0.9572 * np.array(
        [[0, 0, 0], [np.sin(angle), 0, np.cos(angle)], [-np.sin(angle), 0, np.cos(angle)]]
    )
    molecules = [place + own @ random_rotation(generator).T for place in grid]
    return Structure(np.tile([8, 1, 1], n), np.concatenate(molecules))


SYSTEMS = {"alkane": alkane, "water": water}
CUTOFFS = {"alkane": (8.0, 12.0), "water": (5.0, 6.0)}


if __name__ == "__main__":
    main()
