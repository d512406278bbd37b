"""Bands of labels against PySCF's own, between the points of the mesh.

    python benchmarks/bands.py --json benchmarks/results/bands.json

H(R) and S(R) of a label are rebuilt from H(k) on a mesh; PySCF computes the bands at other k points
by itself, from the same converged density. The difference is what the mesh costs.
"""

from typing import Any

import numpy as np
from common import finish, parser

from hamnet.bands import band_energies, mesh_points
from hamnet.data.level import LevelOfTheory
from hamnet.lattice import crystal_basis, to_cell
from hamnet.structure import Structure
from hamnet.units import HARTREE_TO_MEV
from hamnet_datasets.labels import resolve
from hamnet_datasets.periodic import (
    Mesh,
    converge_crystal,
    exact_overlap,
    mean_field,
    off_mesh_error,
    to_real_space,
    wrap,
)
from hamnet_datasets.recipes import load_recipe

N_POINTS = 12
CASES: dict[str, tuple[str, list[Mesh]]] = {
    "graphene": ("graphene-pbe-szv", [(5, 5, 1), (7, 7, 1)]),
    "h-BN": ("hbn-pbe-szv", [(6, 6, 1), (8, 8, 1)]),
    "silicon": ("silicon-pbe-szv", [(4, 4, 4), (5, 5, 5), (6, 6, 6)]),
}
PRIMITIVE = {"graphene": 2.46, "h-BN": 2.504}
"""Lattice constant of the hexagonal cell, Angstrom; recipes have rectangular ones."""


def main() -> None:
    options = parser(__doc__).parse_args()
    names = ["graphene"] if options.quick else list(CASES)
    finish([_row(name, mesh) for name in names for mesh in CASES[name][1]], options)


def _row(name: str, mesh: Mesh) -> dict[str, Any]:
    recipe = CASES[name][0]
    loaded = load_recipe(recipe)
    assert loaded.crystal is not None
    structure = _hexagonal(loaded.crystal.structure(), PRIMITIVE.get(name))
    level = resolve(loaded.level)
    return {"crystal": name, "mesh": "x".join(map(str, mesh)), **_errors(structure, mesh, level)}


def _hexagonal(structure: Structure, a: float | None) -> Structure:
    """Return the primitive cell of a layer given by its rectangular one."""
    if a is None:
        return structure
    cell = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 0]])
    return Structure(structure.numbers[:2], structure.positions[:2], cell, structure.pbc)


def _errors(structure: Structure, mesh: Mesh, level: LevelOfTheory) -> dict[str, Any]:
    basis = crystal_basis(structure.numbers.tolist(), level.basis, level.pseudo)
    inside, _ = wrap(structure)
    run = converge_crystal(inside, level, mesh, basis)
    h, s = (to_real_space(x, inside, mesh, basis) for x in (run.hamiltonian, run.overlap))
    cell = to_cell(inside, level)
    mf = mean_field(cell, cell.get_abs_kpts(mesh_points(mesh)), 0, level)
    mf.kernel()
    steps = np.linspace(0.02, 0.48, N_POINTS)[:, None]
    k = steps * np.array([1.0, 0.6, 0.3]) * structure.pbc
    expected = np.array(mf.get_bands(cell.get_abs_kpts(k))[0])
    error = np.abs(band_energies(h, s, k)[0] - expected) * HARTREE_TO_MEV
    n = int(cell.nelectron) // 2
    exact = exact_overlap(structure, basis, level.pseudo)
    return {
        "atoms": len(structure),
        "s_error": off_mesh_error(exact, structure, mesh, basis),
        "occupied_and_lowest_empty_mae_mev": float(error[:, : n + 1].mean()),
        "occupied_and_lowest_empty_max_mev": float(error[:, : n + 1].max()),
        "all_max_mev": float(error.max()),
    }


if __name__ == "__main__":
    main()
