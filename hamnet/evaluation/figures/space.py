"""Molecules, and outlines of orbitals around them, seen along the molecule's thinnest axis."""

from dataclasses import replace

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from matplotlib.axes import Axes
from matplotlib.patches import Circle

from hamnet.evaluation.orbital_grids import FrameOrbitals, principal_axes
from hamnet.evaluation.picture import BLUE, INK, ORANGE, Picture, drawing
from hamnet.structure import Structure, bonds, symbol

ISOVALUE = 0.05
"""Surfaces of orbitals, bohr^(-3/2)."""

_RADIUS_FRACTION = 0.42
_MARGIN, _SMALLEST_HALF = 0.8, 1.5
_MAX_LABELLED_ATOMS = 60


def molecule(structure: Structure, name: str, caption: str) -> Picture:
    """Draw a molecule in its principal axes, with the numbers of its atoms."""
    centred = structure.positions - structure.positions.mean(axis=0)
    flat = replace(structure, positions=centred @ principal_axes(structure.positions).T)
    with drawing(name, caption, width=3.2, height=2.6) as (picture, axes):
        _draw(axes, flat, numbered=len(structure) <= _MAX_LABELLED_ATOMS)
    return picture


def outline(shown: FrameOrbitals, name: str) -> Picture:
    """Draw the outline of the isosurface of ``HOMO`` or ``LUMO``: filled predicted, dashed label.

    What is drawn is the shadow of the surface: where the largest value along the line of sight
    exceeds the isovalue.
    """
    orbital = shown.orbitals[name]
    words = f"{shown.words} frame {shown.frame.index}, {name}: predicted (filled), label (dashed)"
    stem = f"{name.lower()}-{shown.words.split(',')[0]}"
    with drawing(stem, words, width=3.2, height=2.8) as (picture, axes):
        x, y = (
            shown.origin[axis] + shown.spacing * np.arange(orbital.label.shape[axis])
            for axis in (0, 1)
        )
        for sign, colour in ((1.0, BLUE), (-1.0, ORANGE)):
            predicted = (sign * orbital.predicted).max(axis=2).T
            label = (sign * orbital.label).max(axis=2).T
            if predicted.max() > ISOVALUE:
                levels = [ISOVALUE, max(predicted.max(), 2 * ISOVALUE)]
                axes.contourf(x, y, predicted, levels, colors=[colour], alpha=0.45)
            if label.max() > ISOVALUE:
                axes.contour(
                    x, y, label, [ISOVALUE], colors=[INK], linewidths=0.9, linestyles="dashed"
                )
        _draw(axes, Structure(shown.numbers, shown.positions), numbered=False)
    return picture


def _draw(axes: Axes, structure: Structure, *, numbered: bool) -> None:
    """Draw atoms and bonds, the nearest last; x and y are the first two axes."""
    positions = structure.positions
    depth = np.argsort(positions[:, 2])
    order = {int(atom): 2 + rank for rank, atom in enumerate(depth)}
    for i, j in bonds(structure):
        z = min(order[i], order[j])
        axes.plot(*positions[[i, j], :2].T, color="#8a8f98", linewidth=3.0, zorder=z)
    for atom, number in enumerate(structure.numbers):
        x, y = float(positions[atom, 0]), float(positions[atom, 1])
        colour = jmol_colors[number]
        disc = Circle(
            (x, y),
            _RADIUS_FRACTION * float(covalent_radii[number]),
            facecolor=tuple(colour),
            edgecolor="#5b6472",
            linewidth=0.6,
            zorder=order[atom] + 0.1,
        )
        axes.add_patch(disc)
        axes.text(
            x,
            y,
            f"{symbol(int(number))}{atom}" if numbered else symbol(int(number)),
            ha="center",
            va="center",
            fontsize=7,
            color="#000000" if colour.mean() > 0.45 else "#ffffff",
            zorder=order[atom] + 0.2,
            clip_on=True,
        )
    low, high = positions[:, :2].min(axis=0), positions[:, :2].max(axis=0)
    middle, half = (low + high) / 2, np.maximum((high - low) / 2 + _MARGIN, _SMALLEST_HALF)
    axes.set_xlim(middle[0] - half[0], middle[0] + half[0])
    axes.set_ylim(middle[1] - half[1], middle[1] + half[1])
    axes.set_aspect("equal")
    axes.axis("off")
