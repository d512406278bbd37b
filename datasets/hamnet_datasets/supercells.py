"""Perturbed supercells of a crystal: what recipes of crystals are made of."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from hamnet.errors import HamnetError
from hamnet.structure import FloatArray, Structure, complete_cell
from hamnet_datasets.drawing import DECIMALS, draw
from hamnet_datasets.recipes import Recipe, Supercells


def supercell_sizes(table: Supercells) -> list[tuple[int, int, int]]:
    """Return the repetitions of every frame; the sizes take turns."""
    turns = sorted(((f + 0.5) / n, k) for k, (*_, n) in enumerate(table.sizes) for f in range(n))
    return [table.sizes[k][:3] for _, k in turns]


def supercell_frames(recipe: Recipe, table: Supercells) -> Iterator[Structure]:
    """Yield perturbed supercells of `supercell_sizes`.

    Raises:
        HamnetError: the recipe has no crystal; nearly all frames have atoms that touch.
    """
    if recipe.crystal is None:
        raise HamnetError(f"recipe {recipe.name}: sampling 'supercells' needs the table [crystal]")
    primitive = recipe.crystal.structure()
    layers = np.array(recipe.crystal.layers or [0] * len(primitive))
    for f, repeat in enumerate(supercell_sizes(table)):
        rng = np.random.default_rng([recipe.sampling.seed, f])
        yield draw(partial(_perturbed, primitive, layers, repeat, table, rng))


def repeated(primitive: Structure, repeat: tuple[int, int, int]) -> Structure:
    """Return a supercell; the atoms of one primitive cell stay together."""
    shifts = np.array(list(np.ndindex(*repeat)))  # (n_cells, 3)
    positions = (primitive.positions[None] + (shifts @ primitive.cell)[:, None]).reshape(-1, 3)
    return Structure(
        np.tile(primitive.numbers, len(shifts)),
        positions,
        primitive.cell * np.array(repeat)[:, None],
        primitive.pbc,
    )


def _perturbed(
    primitive: Structure,
    layers: np.ndarray,
    repeat: tuple[int, int, int],
    table: Supercells,
    rng: np.random.Generator,
) -> Structure:
    """Return one frame: layers slide, then the supercell is strained, then every atom moves."""
    slid = primitive.positions + _slide(primitive, layers, table, rng)[layers]
    whole = repeated(Structure(primitive.numbers, slid, primitive.cell, primitive.pbc), repeat)
    deformation = _strain(primitive, table.strain, rng)
    noise = table.sigma_angstrom * rng.standard_normal(whole.positions.shape)
    return Structure(
        whole.numbers,
        np.round(whole.positions @ deformation + noise, DECIMALS),
        np.round(whole.cell @ deformation, DECIMALS),
        whole.pbc,
    )


def _slide(
    primitive: Structure, layers: np.ndarray, table: Supercells, rng: np.random.Generator
) -> FloatArray:
    """Return the move of each layer, ``[n_layers, 3]``; the first one stays."""
    n = int(layers.max()) + 1
    moves = np.zeros((n, 3))
    if table.slide:
        moves[1:] = rng.random((n - 1, 3)) @ (primitive.cell * primitive.pbc[:, None])
    if table.spacing_angstrom:
        in_plane = primitive.cell[primitive.pbc]
        normal = np.linalg.svd(in_plane)[2][-1]
        normal = normal * np.sign(normal[np.argmax(np.abs(normal))])
        moves[1:] += rng.normal(0, table.spacing_angstrom, (n - 1, 1)) * normal
    return moves


def _strain(primitive: Structure, largest: float, rng: np.random.Generator) -> FloatArray:
    """Return the deformation that scales every lattice vector: right angles stay right angles.

    PySCF's integrals on grids are twice as fast in orthogonal cells.
    """
    cell = complete_cell(primitive)
    scale = 1 + rng.uniform(-largest, largest, 3) * primitive.pbc
    deformation: FloatArray = np.linalg.inv(cell) @ np.diag(scale) @ cell
    return deformation
