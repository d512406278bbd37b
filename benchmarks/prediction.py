"""From a geometry to orbital energies: the network against PySCF's converged RKS.

    python benchmarks/prediction.py
    python benchmarks/prediction.py --max-pyscf-atoms 21

Same process, same number of threads, same geometry (PBE/def2-SVP, PySCF's defaults). The weights
are random: they do not change the time. The time of the network holds the overlap by PySCF, the
graph, the network, the assembly and the eigenproblem, and with a reference its H0. Medians of
several calls; PySCF runs once beyond 10 atoms, and not at all beyond ``--max-pyscf-atoms``: nothing
is extrapolated (``--keep-pyscf`` measures hamnet anew beside earlier times). On a machine that is
not quiet, ``--clock cpu`` counts the processor time of the one thread. The exponents say how the
times grow with the number of orbitals.
"""

import argparse
import json
from collections.abc import Callable

import torch
from common import CLOCKS, Row, Rows, exponent, finish, parser, seconds
from pyscf import dft, lib
from systems import LEVEL, MOLECULES, molecule, sizes, untrained_model

from hamnet.integrals import to_mole
from hamnet.structure import Structure

REFERENCES = ("none", "sap", "minao")
KEY = ("molecule", "reference")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    lib.num_threads(options.threads)
    rows: list[Row] = []

    def time(function: Callable[[], object], budget: float) -> float:
        return round(1e3 * seconds(function, False, budget, options.clock), 2)

    known = _known(options)
    for name in options.molecules:
        structure = molecule(name)
        scf: Row = {"pyscf_left_out": f"beyond {options.max_pyscf_atoms} atoms"}
        if name in known:
            scf = {"pyscf_ms": known[name], "pyscf_kept": True}
        elif len(structure) <= options.max_pyscf_atoms:
            repeat = len(structure) <= 10 and not options.quick
            scf = {"pyscf_ms": time(lambda s=structure: _scf(s), budget=1.0 if repeat else 0.0)}
        for reference in options.references:
            model = untrained_model(structure, reference)
            model.predict([structure])
            own = {"hamnet_ms": time(lambda m=model, s=structure: m.predict([s]), budget=2.0)}
            row = {"molecule": name, **sizes(structure, model), "reference": reference}
            row |= {"threads": options.threads, "clock": options.clock, **own, **scf}
            if "pyscf_ms" in scf:
                row["ratio"] = round(scf["pyscf_ms"] / own["hamnet_ms"], 1)
            rows.append(row)
            print(row, flush=True)
    finish(rows, options, KEY, _growth, level=str(LEVEL))
    print("growth exponents in the number of orbitals:", _growth(rows))


def _options() -> argparse.Namespace:
    made = parser(__doc__, _table)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--clock", default="wall", choices=list(CLOCKS))
    made.add_argument("--molecules", nargs="+", default=list(MOLECULES), choices=list(MOLECULES))
    made.add_argument("--references", nargs="+", default=list(REFERENCES), choices=REFERENCES)
    made.add_argument(
        "--max-pyscf-atoms",
        type=int,
        default=100,
        help="Largest molecule for which PySCF is run (60 atoms: many minutes on one thread).",
    )
    made.add_argument(
        "--keep-pyscf",
        action="store_true",
        help="Take PySCF's times from the file of --json where it has them; the rows say so.",
    )
    options = made.parse_args()
    if options.quick:
        options.molecules = ["water", "ethanol"]
    return options


def _known(options: argparse.Namespace) -> dict[str, float]:
    """Return PySCF's time for each molecule from an earlier run, if that is wanted."""
    if not options.keep_pyscf or options.json is None or not options.json.exists():
        return {}
    rows = json.loads(options.json.read_text(encoding="utf-8"))["rows"]
    return {r["molecule"]: r["pyscf_ms"] for r in rows if "pyscf_ms" in r}


def _scf(structure: Structure) -> None:
    mf = dft.RKS(to_mole(structure, LEVEL.basis), xc=LEVEL.xc)
    mf.grids.level = LEVEL.grid_level
    mf.kernel()
    if not mf.converged:
        raise RuntimeError("the SCF did not converge")


def _growth(rows: Rows) -> dict[str, float]:
    """Return the powers of the number of orbitals with which the times grow."""
    found = {}
    for reference in REFERENCES:
        points = [r for r in rows if r["reference"] == reference]
        for name in ("hamnet_ms", "pyscf_ms"):
            known = [r for r in points if name in r]
            if len(known) > 1:
                key = "pyscf" if name == "pyscf_ms" else f"hamnet, {reference}"
                found[key] = exponent([r["orbitals"] for r in known], [r[name] for r in known])
    return found


def _table(rows: Rows) -> str:
    lines = ["| molecule | atoms | orbitals | reference | PySCF (ms) | hamnet (ms) | ratio |"]
    lines.append("|---" * 7 + "|")
    for r in rows:
        scf = f"{r['pyscf_ms']:,.0f}" if "pyscf_ms" in r else "not run"
        cells = [r["molecule"], r["atoms"], r["orbitals"], r["reference"], scf]
        cells += [f"{r['hamnet_ms']:,.1f}", r.get("ratio", "")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    growth = ", ".join(f"{name}: {power}" for name, power in _growth(rows).items())
    return "\n".join([*lines, "", f"Growth exponents in the number of orbitals: {growth}"])


if __name__ == "__main__":
    main()
