"""Reference Hamiltonians H0, that of the core and that with X2C, by PySCF.

Everything is in PySCF's orbital order but `reference_hamiltonian`, which is in hamnet's.
"""

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from pyscf import gto
from pyscf.dft import rks
from pyscf.gto import basis as pyscf_basis
from pyscf.scf import hf
from pyscf.x2c import x2c

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, from_dense, to_dense
from hamnet.errors import HamnetError
from hamnet.integrals import (
    KohnShamLevel,
    basis_name,
    basis_of,
    check_fingerprint,
    to_blocks,
    to_mole,
)
from hamnet.potentials import AtomicPotentials
from hamnet.registry import look_up
from hamnet.spinor import from_spinor
from hamnet.structure import FloatArray, Structure

_SAP_FIT = "sapgrasplarge"


@dataclass(frozen=True, eq=False)
class Reference:
    """The H0 of a model: what is added to what its network gives.

    Attributes:
        kind: ``none``, ``sap`` or ``minao``; see `reference_hamiltonian`.
        potentials: added to it; None for none.
    """

    kind: str
    potentials: AtomicPotentials | None = None

    def entries(
        self,
        structure: Structure,
        level: KohnShamLevel,
        basis: OrbitalBasis,
        overlap: HamiltonianBlocks,
    ) -> FloatArray | None:
        """Return the entries of a molecule's H0, ``[n_matrices, n_entries]``; None of ``none``."""
        if self.kind == "none":
            return None
        h0 = reference_hamiltonian(structure, level, self.kind, basis).entries
        return self.improved(h0, structure, basis, overlap)

    def improved(
        self,
        h0: FloatArray,
        structure: Structure,
        basis: OrbitalBasis,
        overlap: HamiltonianBlocks,
    ) -> FloatArray:
        """Return the entries of `reference_hamiltonian` with those of the potentials added.

        Args:
            h0: ``[n_entries]`` or ``[n_matrices, n_entries]``, of which the first gets them.
            structure: the molecule.
            basis: its basis.
            overlap: S.
        """
        h = np.array(np.atleast_2d(h0))
        if self.potentials is not None:
            v = self.potentials.matrix(structure, basis, to_dense(overlap))
            h[0] += from_dense(v, overlap.layout).entries
        return h


def reference_hamiltonian(
    structure: Structure, level: KohnShamLevel, kind: str, basis: OrbitalBasis | None = None
) -> HamiltonianBlocks:
    """Return the reference H0 that a model may add to what it has learnt.

    Args:
        structure: a molecule.
        level: functional, basis and quadrature grid.
        kind: ``minao``, the Fock matrix of the guess density, or ``sap``, the kinetic energy plus
            the superposition of atomic potentials (no quadrature, a fortieth of the cost).
        basis: if given, PySCF's definition of the basis is checked against it.

    With spin-orbit coupling H0 has four matrices: the two-component core Hamiltonian, of which K is
    a part, and potentials without spin.

    Raises:
        HamnetError: unknown kind; see also `to_mole`.
    """
    make = look_up("reference Hamiltonian", kind, {"minao": _minao_fock, "sap": sap_hamiltonian})
    mole = to_mole(structure, level.basis)
    here = basis_of(mole, basis_name(level.basis))
    if basis is not None:
        check_fingerprint(basis, here)
    return to_blocks(make(mole, level), here, structure)


def _minao_fock(mole: gto.Mole, level: KohnShamLevel) -> FloatArray:
    mf = rks.RKS(mole, xc=level.xc)  # of the total density, whatever the spin
    mf.grids.level = level.grid_level
    density = hf.init_guess_by_minao(mole)
    h = core_hamiltonian(mole, level)
    h[0] += mf.get_veff(mole, density)
    return h if level.relativity == "x2c" else h[0]


def core_hamiltonian(mole: gto.Mole, level: KohnShamLevel) -> FloatArray:
    """Return the one-electron Hamiltonian in PySCF's order, ``[1, n, n]``.

    With ``x2c`` H0, Kx, Ky, Kz of the exact two-component one (Kutzelnigg and Liu,
    doi:10.1080/00268970500209624; one-electron X2C), ``[4, n, n]``.

    Raises:
        HamnetError: see `check_x2c`.
    """
    if level.relativity == "none":
        return np.asarray(hf.get_hcore(mole))[None]
    check_x2c(mole, level)
    return from_spinor(x2c.SpinOrbitalX2CHelper(mole).get_hcore())


def check_x2c(mole: gto.Mole, level: KohnShamLevel) -> None:
    """Check that PySCF can compute a molecule's spin-orbit coupling.

    Raises:
        HamnetError: core potentials, with which there is no X2C; another program's treatment.
    """
    if level.relativity != "x2c":
        raise HamnetError(
            f"a spin-orbit coupling of the kind '{level.relativity}' cannot be computed by PySCF"
        )
    if mole.has_ecp():
        names = ", ".join(sorted(mole._ecp))
        raise HamnetError(
            f"x2c is for all electrons, but the basis gives {names} an effective core potential: "
            "take a basis without, such as dyall-v2z, ano or sto-3g"
        )


def sap_hamiltonian(mole: gto.Mole, level: KohnShamLevel) -> FloatArray:
    """Return core Hamiltonian + superposition of atomic potentials, PySCF's order, ``[n, n]``.

    Gaussian fits of the potentials (Lehtola, Visscher, Engel, doi:10.1063/5.0004046): analytic
    integrals, so that no grid breaks the symmetry. With ``x2c`` four matrices, ``[4, n, n]``.

    Raises:
        HamnetError: an atom has an effective core potential; the fits are for all electrons.
    """
    if mole.has_ecp():
        names = ", ".join(sorted(mole._ecp))
        raise HamnetError(
            f"the reference 'sap' is for all electrons, but the basis gives {names} an effective "
            "core potential: use the reference 'minao' alone"
        )
    fit = {s: _sap_fit(s) for s in {mole.atom_symbol(i) for i in range(mole.natm)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        h = core_hamiltonian(mole, level)
        h[0] += hf.make_sap(mole, fit)
    return h if level.relativity == "x2c" else h[0]


@cache
def _sap_fit(element: str) -> FloatArray:
    loaded = pyscf_basis.load(_SAP_FIT, element)
    shells = loaded[element] if isinstance(loaded, dict) else loaded
    return np.asarray(shells[0][1:], dtype=float)
