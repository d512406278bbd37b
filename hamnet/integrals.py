"""Molecules, overlaps and other integrals by PySCF, in hamnet's orbital order.

Only this module, `hamnet.references`, `hamnet.lattice`, `hamnet.interop.pyscf` and the dataset
builders import PySCF.
"""

import hashlib
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
from pyscf import gto
from pyscf.dft import libxc, rks, uks
from pyscf.gto import basis as pyscf_basis
from pyscf.gto.moleintor import getints
from pyscf.lib import unpack_tril
from pyscf.lib.exceptions import BasisNotFoundError

from hamnet.basis import OrbitalBasis, ao_order, from_hamnet_order, to_hamnet_order
from hamnet.blocks import HamiltonianBlocks, from_dense, molecule_layout
from hamnet.errors import HamnetError
from hamnet.registry import did_you_mean
from hamnet.structure import FloatArray, IntArray, Structure, atomic_number, symbol
from hamnet.units import BOHR_TO_ANGSTROM

LAST_ALL_ELECTRON_DEF2 = 36
"""Beyond krypton the def2 bases hold valence shells only and need their core potential."""

_POINTS_AT_ONCE = 20_000
_INTEGRALS_AT_ONCE = 50_000_000


class KohnShamLevel(Protocol):
    """What a reference Hamiltonian needs to know of the level of theory."""

    @property
    def xc(self) -> str:
        """Functional in PySCF's notation."""

    @property
    def basis(self) -> str:
        """Basis set in PySCF's notation."""

    @property
    def grid_level(self) -> int:
        """PySCF's quadrature grid level."""

    @property
    def relativity(self) -> str:
        """``none``, or ``x2c`` with spin-orbit coupling."""


def basis_name(name: str) -> str:
    """Return the usual spelling of a basis set (``def2svp`` becomes ``def2-svp``).

    Raises:
        HamnetError: PySCF knows no such basis; the message suggests the closest name.
    """
    known = _known_bases()
    key = pyscf_basis._format_basis_name(name)
    if key not in known:
        raise HamnetError(f"unknown basis '{name}'{did_you_mean(name.lower(), known.values())}")
    return known[key]


@cache
def _known_bases() -> dict[str, str]:
    names = {}
    for key, files in pyscf_basis.ALIAS.items():
        stem = files.removesuffix(".dat").lower() if isinstance(files, str) else key
        names[key] = stem if pyscf_basis._format_basis_name(stem) == key else key
    return names


def xc_components(xc: str) -> tuple[tuple[float, float, float], tuple[tuple[int, float], ...]]:
    """Return ``(full-range exchange, long-range exchange, omega), ((libxc id, weight), ...)``.

    Raises:
        HamnetError: libxc knows no such functional; the message suggests the closest name.
    """
    try:
        exchange, parts = libxc.parse_xc(xc)
    except (KeyError, ValueError, IndexError) as error:
        known = {name.lower() for name in (*libxc.XC_ALIAS, *libxc.XC_CODES)}
        raise HamnetError(f"unknown functional '{xc}'{_suggest_xc(xc.lower(), known)}") from error
    full, long_range, omega = (float(x) for x in exchange)
    return (full, long_range, omega), tuple((int(i), float(w)) for i, w in parts)


def _suggest_xc(xc: str, known: set[str]) -> str:
    hint = did_you_mean(xc, known)
    return hint if "did you mean" in hint else "; PySCF's documentation of pyscf.dft lists them"


def to_mole(structure: Structure, basis: str, *, verbose: int = 0) -> gto.Mole:
    """Build the PySCF molecule, with the core potential where the basis needs one.

    Args:
        structure: a molecule, Angstrom.
        basis: name of the basis set.
        verbose: PySCF's level of printing.

    Raises:
        HamnetError: a crystal; unknown basis; an element that the basis does not hold; charge and
            spin that do not fit the number of electrons.
    """
    if structure.is_periodic:
        raise HamnetError(
            "the structure is periodic, but the level of theory is one of molecules: crystals need "
            "pseudopotentials, such as --pseudo gth-pbe with the basis gth-szv-molopt-sr; set pbc "
            "to False if it is a molecule in a box"
        )
    check_electrons(structure)
    name = basis_name(basis)
    symbols = [symbol(int(z)) for z in structure.numbers]
    parts = {s: _element_basis(name, s) for s in set(symbols)}
    mole = gto.Mole(
        atom=list(zip(symbols, structure.positions.tolist(), strict=True)),
        unit="Angstrom",
        basis={s: shells for s, (shells, _) in parts.items()},
        ecp={s: ecp for s, (_, ecp) in parts.items() if ecp is not None},
        charge=structure.charge,
        spin=structure.spin,
        verbose=verbose,
    )
    mole.build(dump_input=False, parse_arg=False)
    return mole


def check_electrons(structure: Structure) -> None:
    """Check that charge and spin fit the number of electrons.

    With an odd number of electrons and ``spin = 0`` an SCF runs restricted and never converges.

    Raises:
        HamnetError: no electrons, or a number of electrons of the other parity than the spin.
    """
    n, charge, spin = structure.n_electrons, structure.charge, structure.spin
    state = f"{structure.formula} with charge {charge} has {n} electrons"
    if n <= 0 or spin < 0 or spin > n:
        raise HamnetError(f"{state}, which does not allow spin {spin} (unpaired electrons)")
    if (n - spin) % 2:
        parity = "odd" if n % 2 else "even"
        raise HamnetError(
            f"{state}, an {parity} number, which does not fit spin {spin} (unpaired electrons): "
            "set charge and spin of this frame, for instance 'charge=1 spin=0' in the comment "
            "line of an extended xyz file"
        )


@cache
def _element_basis(name: str, element: str) -> tuple[Any, Any]:
    """Return shells and core potential (or None) of one element, in PySCF's internal format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PySCF advertises a package for every unknown basis
        try:
            shells = pyscf_basis.load(name, element)
        except (BasisNotFoundError, KeyError) as error:
            raise HamnetError(f"the basis '{name}' does not hold the element {element}") from error
        try:
            ecp = pyscf_basis.load_ecp(name, element) or None
        except (BasisNotFoundError, KeyError, FileNotFoundError):  # dyall's are Python modules
            ecp = None
    needs_ecp = name.startswith("def2") and atomic_number(element) > LAST_ALL_ELECTRON_DEF2
    if needs_ecp and ecp is None:
        raise HamnetError(
            f"the basis '{name}' holds only valence shells of {element}, and PySCF has no core "
            "potential for it"
        )
    return shells, ecp


def basis_of(mole: gto.Mole, name: str = "") -> OrbitalBasis:
    """Read the basis from the molecule itself, shell by shell, contraction by contraction.

    Args:
        mole: a built PySCF molecule.
        name: name of the basis; the molecule's own by default.

    Raises:
        HamnetError: Cartesian functions; ghost atoms; two atoms of one element with two bases.
    """
    if mole.cart:
        raise HamnetError("Cartesian basis functions are not supported: build with cart=False")
    if not name:
        name = mole.basis if isinstance(mole.basis, str) else "custom"
    found: dict[int, tuple[tuple[int, ...], str]] = {}
    known: dict[tuple[str, bytes], tuple[tuple[int, ...], str]] = {}
    for atom in range(mole.natm):
        label = mole.atom_symbol(atom)
        if gto.is_ghost_atom(label):
            raise HamnetError(f"atom {atom} ({label}) is a ghost atom, which is not supported")
        z = int(gto.charge(mole.atom_pure_symbol(atom)))
        # atoms of one label share their numbers: where those stand says that they are the same
        where = label, mole._bas[mole.atom_shell_ids(atom), gto.ANG_OF :].tobytes()
        one = known[where] = known.get(where) or _shells_of(mole, atom)
        if found.setdefault(z, one) != one:
            raise HamnetError(
                f"atom {atom} ({label}) has another basis than other atoms of its element"
            )
    ordered = sorted(found.items())
    return OrbitalBasis(
        name, {z: ls for z, (ls, _) in ordered}, {z: mark for z, (_, mark) in ordered}
    )


def _shells_of(mole: gto.Mole, atom: int) -> tuple[tuple[int, ...], str]:
    ls: list[int] = []
    digest = hashlib.sha256()
    for shell in mole.atom_shell_ids(atom):
        l, exps, coefs = mole.bas_angular(shell), mole.bas_exp(shell), mole.bas_ctr_coeff(shell)
        ls += [int(l)] * int(mole.bas_nctr(shell))
        for numbers in (exps, coefs):  # ten digits: normalisation differs in the last ones
            digest.update(f"{l}:{','.join(f'{x:.9e}' for x in np.ravel(numbers))};".encode())
    ecp = mole._ecp.get(mole.atom_symbol(atom), mole._ecp.get(mole.atom_pure_symbol(atom)))
    pseudo = getattr(mole, "_pseudo", {}).get(mole.atom_symbol(atom))  # of a crystal's cell
    digest.update(repr(ecp if pseudo is None else pseudo).encode())
    return tuple(ls), digest.hexdigest()[:16]


def basis_for(structure: Structure, basis: str) -> OrbitalBasis:
    """Return the basis of the elements of a structure; see `to_mole` for the errors."""
    return basis_of(to_mole(structure, basis), basis_name(basis))


def to_blocks(matrix: FloatArray, basis: OrbitalBasis, structure: Structure) -> HamiltonianBlocks:
    """Cut a molecule's matrix ``[..., n, n]`` in PySCF's orbital order into hamnet's blocks."""
    layout = molecule_layout(basis.atom_offsets(structure.numbers))
    ordered = to_hamnet_order(np.asarray(matrix), basis, structure.numbers, "pyscf")
    return from_dense(ordered, layout)


def overlap(structure: Structure, basis: OrbitalBasis) -> HamiltonianBlocks:
    """Return the overlap matrix; it is computed, never learnt.

    Raises:
        HamnetError: see `to_mole`; also a basis that this PySCF defines in another way.
    """
    mole = to_mole(structure, basis.name)
    check_fingerprint(basis, basis_of(mole, basis.name))
    return to_blocks(mole.intor_symmetric("int1e_ovlp"), basis, structure)


def gaussian_potentials(
    structure: Structure,
    basis: OrbitalBasis,
    atoms: IntArray,
    exponents: Sequence[float],
    coefficients: FloatArray,
) -> FloatArray:
    """Return ``<i| sum_atoms sum_k c_kp exp(-a_k r^2) |j>``, hamnet's order, ``[n, n_ao, n_ao]``.

    Args:
        structure: a molecule.
        basis: its basis.
        atoms: the centres.
        exponents: a, bohr^-2, ``[n_exponents]``.
        coefficients: c of n potentials, ``[n_exponents, n]``.
    """
    mole = to_mole(structure, basis.name)
    n_ao, n = mole.nao, coefficients.shape[1]
    at_once = max(1, _INTEGRALS_AT_ONCE // (n * n_ao**2))
    packed = np.zeros((n_ao * (n_ao + 1) // 2, n))
    for start in range(0, len(atoms), at_once):
        centres = mole.atom_coords()[atoms[start : start + at_once]]
        others = _s_functions(centres, exponents, coefficients)
        joined = gto.conc_env(mole._atm, mole._bas, mole._env, *others)
        shells = (0, mole.nbas, 0, mole.nbas, mole.nbas, mole.nbas + len(centres))
        found = getints("int3c1e_sph", *joined, shls_slice=shells, aosym="s2ij")
        packed += found.reshape(len(packed), len(centres), n).sum(axis=1)
    return to_hamnet_order(unpack_tril(packed.T.copy()), basis, structure.numbers, "pyscf")


def _s_functions(
    centres: FloatArray, exponents: Sequence[float], coefficients: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return contracted Gaussians of unit height as PySCF's ``_atm``, ``_bas`` and ``_env``."""
    n, start = len(centres), gto.PTR_ENV_START
    atm = np.zeros((n, gto.ATM_SLOTS), dtype=np.int32)
    atm[:, gto.PTR_COORD] = start + 3 * np.arange(n)
    bas = np.zeros((n, gto.BAS_SLOTS), dtype=np.int32)
    bas[:, gto.ATOM_OF] = np.arange(n)
    bas[:, [gto.NPRIM_OF, gto.NCTR_OF]] = coefficients.shape
    bas[:, gto.PTR_EXP] = start + 3 * n
    bas[:, gto.PTR_COEFF] = start + 3 * n + len(exponents)
    height = 2 * np.sqrt(np.pi)  # over the spherical harmonic of an s function
    parts = (np.zeros(start), centres.ravel(), exponents, height * coefficients.T.ravel())
    return atm, bas, np.concatenate(parts)


def orbital_values(
    structure: Structure, basis: OrbitalBasis, coefficients: FloatArray, points: FloatArray
) -> FloatArray:
    """Return the values of orbitals in space, bohr^(-3/2), shape ``[n_points, n_orbitals]``.

    Args:
        structure: a molecule.
        basis: its basis.
        coefficients: orbitals as columns in hamnet's order, ``[n_ao, n_orbitals]``.
        points: Angstrom, ``[n_points, 3]``.

    Raises:
        HamnetError: see `to_mole`; also a basis that this PySCF defines in another way.
    """
    mole = to_mole(structure, basis.name)
    check_fingerprint(basis, basis_of(mole, basis.name))
    perm, sign = ao_order(basis, structure.numbers, "pyscf")  # hamnet = sign * pyscf[perm]
    of_pyscf = np.empty_like(coefficients)
    of_pyscf[perm] = sign[:, None] * coefficients
    values = [
        mole.eval_gto("GTOval_sph", points[start : start + _POINTS_AT_ONCE] / BOHR_TO_ANGSTROM)
        @ of_pyscf
        for start in range(0, len(points), _POINTS_AT_ONCE)
    ]
    return np.concatenate(values)


def dipole_integrals(structure: Structure, basis: OrbitalBasis) -> FloatArray:
    """Return ``<phi_i | r | phi_j>`` about the origin, bohr, hamnet's order, ``[3, n, n]``."""
    mole = to_mole(structure, basis.name)
    integrals = mole.intor_symmetric("int1e_r", comp=3)
    return to_hamnet_order(integrals, basis, structure.numbers, "pyscf")


def nuclear_charges(structure: Structure, basis: OrbitalBasis) -> FloatArray:
    """Return the charge of each nucleus, less the electrons of its core potential, ``[N]``."""
    name = basis_name(basis.name)
    ecps = [_element_basis(name, symbol(int(z)))[1] for z in structure.numbers]
    core = np.array([0 if ecp is None else ecp[0] for ecp in ecps])
    return np.asarray(structure.numbers - core, dtype=np.float64)


def energy_of_density(
    structure: Structure, level: KohnShamLevel, basis: OrbitalBasis, density: FloatArray
) -> float:
    """Return the Kohn-Sham total energy of a density, Hartree: one Fock build, no SCF.

    Args:
        structure: a molecule.
        level: functional, basis and quadrature grid.
        basis: that of the density; PySCF's definition is checked against it.
        density: density matrix in hamnet's order, ``[n_spin, n, n]``.

    Raises:
        HamnetError: see `to_mole` and `check_fingerprint`.
    """
    mole = to_mole(structure, basis.name)
    check_fingerprint(basis, basis_of(mole, basis.name))
    restricted = len(density) == 1
    mf = (rks.RKS if restricted else uks.UKS)(mole, xc=level.xc)
    mf.grids.level = level.grid_level
    ordered = from_hamnet_order(density, basis, structure.numbers, "pyscf")
    return float(mf.energy_tot(dm=ordered[0] if restricted else ordered))


def valence_electrons(structure: Structure, basis: OrbitalBasis) -> int:
    """Return the number of electrons that orbitals hold: all but those of core potentials."""
    return round(float(nuclear_charges(structure, basis).sum())) - structure.charge


def check_fingerprint(expected: OrbitalBasis, here: OrbitalBasis) -> None:
    """Check that PySCF's definition of each element is the expected one.

    Raises:
        HamnetError: an element is absent from ``expected`` or defined in another way.
    """
    for z, mark in here.fingerprints.items():
        expected.of(z)
        if expected.fingerprints[z] != mark:
            raise HamnetError(
                f"the basis '{expected.name}' of {symbol(z)} is defined differently by this PySCF "
                f"({mark}) than it was for the labels ({expected.fingerprints[z]}): use the PySCF "
                "version with which the labels were made"
            )
