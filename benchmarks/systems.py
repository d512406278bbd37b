"""Molecules and untrained models for the benchmarks."""

from functools import cache
from typing import Any

import numpy as np
import torch

from hamnet.data.level import LevelOfTheory
from hamnet.integrals import basis_for
from hamnet.models import HamiltonianModel
from hamnet.models.config import ModelConfig
from hamnet.models.metadata import Metadata
from hamnet.potentials import AtomicPotentials, n_coefficients
from hamnet.structure import Structure, symbol
from hamnet_datasets.smiles import embed

LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp")

MOLECULES = {
    "water": "O",
    "ethanol": "CCO",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "estrone": "C[C@]12CC[C@H]3[C@H]([C@@H]1CCC2=O)CCC4=C3C=CC(=C4)O",
    "testosterone isobutyrate": (
        "CC(C)C(=O)O[C@H]1CC[C@H]2[C@@H]3CCC4=CC(=O)CC[C@]4(C)[C@H]3CC[C@]12C"
    ),
}
"""3, 9, 21, 42 and 60 atoms (1, 3, 13, 20 and 26 heavy ones), as SMILES."""


@cache
def molecule(name: str) -> Structure:
    """Return one of `MOLECULES`, the first geometry of RDKit's ETKDG and MMFF94, seed 0."""
    return embed(MOLECULES[name])[0]


def untrained_model(
    structure: Structure, reference: str = "none", n_neighbours: float = 10.0, **settings: Any
) -> HamiltonianModel:
    """Return a model with random weights for the elements of a structure.

    The weights do not change the time of a call, but for TraceGrad's gains: while they are zero, as
    in instant models, predictions leave it out. Here they are not, as after gradient steps.
    """
    basis = basis_for(structure, LEVEL.basis)
    names = [symbol(z) for z in sorted(basis.shells)]
    names += [f"{a}-{b}" for k, a in enumerate(names) for b in names[k:]]
    torch.manual_seed(0)
    potentials = AtomicPotentials({z: np.ones(n_coefficients(basis, z)) for z in basis.shells})
    metadata = Metadata(
        basis=basis.to_dict(),
        level=LEVEL,
        pairs=tuple(names),
        reference=reference,
        potentials={} if reference == "none" else potentials.to_dict(),
        model=ModelConfig(**settings),
        n_neighbours=n_neighbours,
    )
    model = HamiltonianModel(metadata).eval()
    for t in model.types:  # as after a fit: finite units of the invariants
        model.standardiser.get_buffer(f"trace_{t.key}")[2] = 1.0
    for layer in (model.network.node_tracegrad, model.network.pair_tracegrad):
        for gain in () if layer is None else layer.gain:
            torch.nn.init.ones_(gain)
    return model


def sizes(structure: Structure, model: HamiltonianModel) -> dict[str, int]:
    """Return the numbers of atoms, heavy atoms and orbitals."""
    return {
        "atoms": len(structure),
        "heavy_atoms": int((structure.numbers > 1).sum()),
        "orbitals": int(model.basis.atom_offsets(structure.numbers)[-1]),
    }
