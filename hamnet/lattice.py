"""Crystals by PySCF: cells with pseudopotentials, overlaps in real space, valence electrons.

The counterpart of `hamnet.integrals` for periodic structures.
"""

import warnings
from collections.abc import Iterable
from functools import cache
from typing import Any, Protocol

import numpy as np
from pyscf import gto as molecular_gto
from pyscf.gto import basis as pyscf_basis
from pyscf.gto.moleintor import getints
from pyscf.lib.exceptions import BasisNotFoundError
from pyscf.pbc import gto
from pyscf.pbc.gto import pseudo as pyscf_pseudo

from hamnet.basis import OrbitalBasis, ao_order
from hamnet.blocks import HamiltonianBlocks, PairLayout
from hamnet.errors import HamnetError
from hamnet.integrals import basis_of
from hamnet.registry import did_you_mean
from hamnet.structure import FloatArray, Structure, check_cell, complete_cell, symbol
from hamnet.units import BOHR_TO_ANGSTROM

CELL_PRECISION = 1e-6
"""Of PySCF's lattice sums: against 1e-8 it changes H by 0.4 micro-eV on average."""

_N_ATM, _N_BAS, _COORDINATE, _ATOM = 6, 8, 1, 0
"""Columns of libcint's tables."""


class CrystalLevel(Protocol):
    """What a cell needs to know of the level of theory."""

    @property
    def basis(self) -> str:
        """Basis set in PySCF's notation."""

    @property
    def pseudo(self) -> str:
        """Pseudopotentials in PySCF's notation."""

    @property
    def ke_cutoff(self) -> float:
        """Cutoff of the plane-wave grid, Hartree."""

    @property
    def vacuum(self) -> float:
        """Empty space along directions that are not periodic, Angstrom."""


def gth_names(basis: str, pseudo: str) -> tuple[str, str]:
    """Return the usual spelling of a basis and its pseudopotentials.

    Raises:
        HamnetError: PySCF knows no such basis or potential; the message suggests the closest name.
    """
    out = []
    for kind, name, known in (
        ("basis of crystals", basis, pyscf_basis.GTH_ALIAS),
        ("pseudopotential", pseudo, pyscf_basis.PP_ALIAS),
    ):
        names = {key: file.removesuffix(".dat") for key, file in known.items()}
        key = pyscf_basis._format_basis_name(name)
        if key not in names:
            hint = did_you_mean(name.lower(), names.values())
            raise HamnetError(f"unknown {kind} '{name}'{hint}")
        out.append(names[key])
    return out[0], out[1]


@cache
def _element(basis: str, pseudo: str, element: str) -> tuple[Any, Any]:
    """Return shells and pseudopotential of one element, in PySCF's internal format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PySCF advertises a package for every unknown basis
        try:
            shells = pyscf_basis.load(basis, element)
        except (BasisNotFoundError, KeyError) as error:
            raise HamnetError(f"the basis '{basis}' does not hold the element {element}") from error
        try:
            return shells, pyscf_pseudo.load(pseudo, element)
        except (BasisNotFoundError, KeyError) as error:
            raise HamnetError(
                f"there is no pseudopotential '{pseudo}' of {element}: without one its core "
                "electrons would be put into a valence basis"
            ) from error


def to_cell(structure: Structure, level: CrystalLevel) -> gto.Cell:
    """Build the PySCF cell; along directions that are not periodic it gets a vacuum.

    Args:
        structure: a crystal, a layer or a chain, Angstrom.
        level: basis, pseudopotentials and cutoff.

    Raises:
        HamnetError: a molecule; a cell that makes no crystal; unknown or missing basis and
            pseudopotential; charge; spin that does not fit the number of electrons.
    """
    if not structure.is_periodic:
        raise HamnetError(
            "the structure is a molecule (pbc is False everywhere), but the level of theory "
            f"'{level.pseudo}' is one of crystals"
        )
    check_cell(structure)
    if structure.charge:
        raise HamnetError(f"a crystal cannot have the charge {structure.charge}")
    basis, pseudo = gth_names(level.basis, level.pseudo)
    symbols = [symbol(int(z)) for z in structure.numbers]
    parts = {s: _element(basis, pseudo, s) for s in set(symbols)}
    cell = gto.Cell(
        atom=list(zip(symbols, structure.positions.tolist(), strict=True)),
        a=_box(structure, level.vacuum),
        unit="Angstrom",
        basis={s: shells for s, (shells, _) in parts.items()},
        pseudo={s: potential for s, (_, potential) in parts.items()},
        ke_cutoff=level.ke_cutoff,
        precision=CELL_PRECISION,
        spin=None,
        verbose=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cell.build(dump_input=False, parse_arg=False)
    if (cell.nelectron - structure.spin) % 2:
        raise HamnetError(
            f"{structure.formula} has {cell.nelectron} valence electrons in its cell, which does "
            f"not fit spin {structure.spin} (unpaired electrons)"
        )
    return cell


def _box(structure: Structure, vacuum: float) -> FloatArray:
    box = complete_cell(structure)
    for k in np.flatnonzero(~structure.pbc):
        extent = np.ptp(structure.positions @ box[k])
        box[k] *= extent + vacuum
    return box


def crystal_basis(numbers: Iterable[int], basis: str, pseudo: str) -> OrbitalBasis:
    """Return the shells of some elements; the fingerprint covers the pseudopotential.

    Raises:
        HamnetError: see `to_cell`.
    """
    names = gth_names(basis, pseudo)
    found = OrbitalBasis(names[0], {}, {})
    for z in sorted(set(numbers)):
        cell = _one_atom(*names, symbol(int(z)))
        found = found.merged(basis_of(cell, names[0]))
    return found


@cache
def _one_atom(basis: str, pseudo: str, element: str) -> gto.Cell:
    shells, potential = _element(basis, pseudo, element)
    cell = gto.Cell(
        atom=[(element, (0.0, 0.0, 0.0))],
        a=10 * np.eye(3),
        basis={element: shells},
        pseudo={element: potential},
        spin=None,
        verbose=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cell.build(dump_input=False, parse_arg=False)
    return cell


def valence_charges(structure: Structure, basis: str, pseudo: str) -> int:
    """Return the number of valence electrons in the cell."""
    names = gth_names(basis, pseudo)
    kinds, counts = np.unique(structure.numbers, return_counts=True)
    each = [_one_atom(*names, symbol(int(z))).nelectron for z in kinds]
    return int(counts @ np.array(each)) - structure.charge


def pair_overlaps(
    structure: Structure, basis: OrbitalBasis, layout: PairLayout, pseudo: str
) -> HamiltonianBlocks:
    """Return the overlap of every pair of a layout, by integrals between the two atoms themselves.

    Time and memory are linear in the number of pairs, whatever the size of the cell.

    Raises:
        HamnetError: see `crystal_basis`; also a basis that this PySCF defines in another way.
    """
    tables = {
        int(z): _shell_table(basis, pseudo, symbol(int(z))) for z in np.unique(structure.numbers)
    }
    order = {z: ao_order(basis, np.array([z]), "pyscf") for z in tables}
    pairs = layout.atom_pairs
    centres = structure.positions[pairs[:, 4]] + pairs[:, :3] @ structure.cell
    entries = np.empty(int(layout.boundaries[-1]))
    starts = layout.boundaries
    by_row = np.argsort(pairs[:, 3], kind="stable")
    cuts = np.flatnonzero(np.diff(pairs[by_row, 3])) + 1
    for members in np.split(by_row, cuts):
        i = int(pairs[members[0], 3])
        numbers = structure.numbers[[i, *pairs[members, 4]]].tolist()
        points = np.vstack([structure.positions[i], centres[members]])
        row = _row_overlap(tables, numbers, points)  # (n_i, sum n_j)
        perm, sign = order[numbers[0]]
        row = row[perm] * sign[:, None]
        start = 0
        for pair, z in zip(members, numbers[1:], strict=True):
            perm, sign = order[z]
            block = row[:, start : start + len(perm)][:, perm] * sign
            start += len(perm)
            entries[starts[pair] : starts[pair + 1]] = block.ravel()
    return HamiltonianBlocks(layout, entries)


def _shell_table(basis: OrbitalBasis, pseudo: str, element: str) -> tuple[Any, FloatArray]:
    """Return libcint's shells of an element and their numbers, pointers from 0."""
    cell = _one_atom(*gth_names(basis.name, pseudo), element)
    here = basis_of(cell, basis.name)
    z = molecular_gto.charge(element)
    if here.fingerprints[z] != basis.fingerprints.get(z, here.fingerprints[z]):
        raise HamnetError(
            f"the basis '{basis.name}' with '{pseudo}' of {element} is defined differently by this "
            "PySCF than it was for the labels: use the PySCF version with which they were made"
        )
    return cell._bas.copy(), np.asarray(cell._env)


def _row_overlap(
    tables: dict[int, tuple[Any, FloatArray]], numbers: list[int], points: FloatArray
) -> FloatArray:
    """Return the overlap of the first atom with all the others, ``[n_0, n_1 + n_2 + ...]``."""
    env: list[FloatArray] = []
    first: dict[int, int] = {}
    at = 0
    for z in dict.fromkeys(numbers):
        first[z] = at
        env.append(tables[z][1])
        at += len(tables[z][1])
    atm = np.zeros((len(numbers), _N_ATM), dtype=np.int32)
    atm[:, _COORDINATE] = at + 3 * np.arange(len(numbers))
    env.append((points / BOHR_TO_ANGSTROM).ravel())
    rows = []
    for k, z in enumerate(numbers):
        bas = tables[z][0].copy()
        bas[:, _ATOM] = k
        bas[:, 5:7] += first[z]  # exponents and coefficients
        rows.append(bas)
    bas = np.concatenate(rows).astype(np.int32).reshape(-1, _N_BAS)
    n = len(tables[numbers[0]][0])
    out = getints("int1e_ovlp_sph", atm, bas, np.concatenate(env), shls_slice=(0, n, n, len(bas)))
    return np.asarray(out)
