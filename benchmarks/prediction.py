"""From a geometry to orbital energies: the network against PySCF's converged RKS.

    python benchmarks/prediction.py

Same process, same number of threads, same geometry; the median of several runs. The weights are
random: they do not change the time. The time of the network holds the overlap by PySCF, the graph,
the network, the assembly and the eigenproblem, and with a reference its H0.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from ase.build import molecule
from common import finish, parser
from pyscf import dft, lib

from hamnet.data.level import LevelOfTheory
from hamnet.integrals import basis_for, to_mole
from hamnet.interop.ase import from_atoms
from hamnet.models import HamiltonianModel
from hamnet.models.config import ModelConfig
from hamnet.models.metadata import Metadata
from hamnet.structure import Structure, symbol

LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp")
MOLECULES = {"water": "H2O", "ethanol": "CH3CH2OH"}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--threads", type=int, default=1)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    lib.num_threads(options.threads)
    rows = []
    for name, key in MOLECULES.items():
        structure = from_atoms(molecule(key))
        scf = _median(lambda s=structure: _scf(s), 1 if options.quick else 3)
        for reference in ("none", "sap", "minao"):
            model = _model(structure, reference)
            model.predict([structure])
            runs = 3 if options.quick else 10
            seconds = _median(lambda m=model, s=structure: m.predict([s]), runs)
            rows.append(_row(name, structure, reference, scf, seconds, options.threads))
    finish(rows, options, level=str(LEVEL), threads=options.threads)


def _row(
    name: str, structure: Structure, reference: str, scf: float, seconds: float, threads: int
) -> dict[str, Any]:
    return {
        "molecule": name,
        "atoms": len(structure),
        "reference": reference,
        "threads": threads,
        "pyscf_ms": round(1e3 * scf, 1),
        "hamnet_ms": round(1e3 * seconds, 2),
        "ratio": round(scf / seconds, 1),
    }


def _median(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _scf(structure: Structure) -> None:
    mf = dft.RKS(to_mole(structure, LEVEL.basis), xc=LEVEL.xc)
    mf.grids.level = LEVEL.grid_level
    mf.kernel()
    if not mf.converged:
        raise RuntimeError("the SCF did not converge")


def _model(structure: Structure, reference: str) -> HamiltonianModel:
    basis = basis_for(structure, LEVEL.basis)
    elements = sorted(basis.shells)
    names = [symbol(z) for z in elements]
    names += [f"{a}-{b}" for k, a in enumerate(names) for b in names[k:]]
    torch.manual_seed(0)
    metadata = Metadata(
        basis=basis.to_dict(),
        level=LEVEL,
        pairs=tuple(names),
        reference=reference,
        model=ModelConfig(),
        n_neighbours=len(structure) - 1.0,
    )
    return HamiltonianModel(metadata).eval()


if __name__ == "__main__":
    main()
