"""A few states around an energy, of matrices too large for a dense solution: shift and invert.

``(H - sigma S)^-1 S c = c / (e - sigma)``: the states nearest to sigma are the largest ones of the
left side, which Lanczos steps (ARPACK) find after one sparse factorisation (PARDISO where pypardiso
is installed, else SuperLU). The signs of the factors' diagonal count the states below sigma
(Sylvester's law of inertia).
"""

import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh, splu

from hamnet import pardiso
from hamnet.errors import HamnetError
from hamnet.memory import check_memory
from hamnet.structure import FloatArray

FILL = 9.0
"""Numbers in the factors over ``nnz sqrt(log2 n)``."""

_MAX_HALVINGS = 60


@dataclass(frozen=True, eq=False)
class NearStates:
    """States around an energy.

    Attributes:
        energies: ascending, Hartree, ``[n]``.
        first: number of states below the first of them.
    """

    energies: FloatArray
    first: int


def factor_bytes(matrix: scipy.sparse.csr_array) -> float:
    """Return about how much memory the factorisation of a Hermitian matrix takes."""
    n = matrix.shape[0]
    return float(FILL * matrix.nnz * np.sqrt(np.log2(max(n, 2))) * (matrix.dtype.itemsize + 4))


class Factors(Protocol):
    """A factorised Hermitian matrix."""

    def solve(self, right: NDArray[Any]) -> NDArray[Any]:
        """Return ``A^-1 b``."""

    def n_negative(self) -> int:
        """Return the number of negative eigenvalues."""


class SuperLUFactors:
    """Factors by SciPy's own SuperLU, where nothing better is installed.

    Args:
        matrix: Hermitian, ``[n, n]``.

    Raises:
        RuntimeError, Warning: the matrix is singular.
    """

    def __init__(self, matrix: scipy.sparse.csr_array) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self._lu = splu(
                scipy.sparse.csc_array(matrix),
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options={"SymmetricMode": True},
            )
        self.solve = self._lu.solve

    def n_negative(self) -> int:
        """Return the number of negative eigenvalues.

        Raises:
            HamnetError: rows were exchanged, so that the factors say nothing about signs.
        """
        if not np.array_equal(self._lu.perm_r, self._lu.perm_c):
            raise HamnetError(
                "states below cannot be counted: the factorisation had to exchange rows"
            )
        return int((self._lu.U.diagonal().real < 0).sum())


def factorise(matrix: scipy.sparse.csr_array, what: str) -> Factors:
    """Return the factors of a Hermitian matrix, by PARDISO where pypardiso is installed.

    Args:
        matrix: ``[n, n]``.
        what: for messages.

    Raises:
        HamnetError: the factors do not fit into memory; the matrix is singular.
    """
    task = f"factorising {matrix.shape[0]} orbitals"
    try:
        if pardiso.library() is None:
            check_memory(factor_bytes(matrix), task)
            return SuperLUFactors(matrix)
        factors = pardiso.PardisoFactors(matrix)
        check_memory(factors.analyse(), task)
        factors.factorise()
        return factors
    except (RuntimeError, Warning) as error:
        raise HamnetError(f"{what} cannot be factorised ({error})") from error


class Shifted:
    """The factors of ``H - sigma S``.

    Args:
        hamiltonian: sparse Hermitian, ``[n, n]``.
        overlap: likewise, positive.
        sigma: Hartree; no state may lie exactly there.

    Raises:
        HamnetError: the factors do not fit into memory; sigma is a state.
    """

    def __init__(
        self, hamiltonian: scipy.sparse.csr_array, overlap: scipy.sparse.csr_array, sigma: float
    ) -> None:
        self.hamiltonian, self.overlap, self.sigma = hamiltonian, overlap, sigma
        matrix = scipy.sparse.csr_array(hamiltonian - sigma * overlap)
        self._factors = factorise(matrix, f"H - sigma S at sigma = {sigma:.6f} Hartree")

    def n_below(self) -> int:
        """Return the number of states below sigma.

        Raises:
            HamnetError: the factors say nothing about signs.
        """
        return self._factors.n_negative()

    def states(self, n_states: int) -> NearStates:
        """Return the states nearest to sigma and their place among all."""
        size = self.hamiltonian.shape[0]
        solve, dtype = self._factors.solve, self.hamiltonian.dtype
        inverse = LinearOperator((size, size), matvec=solve, dtype=dtype)
        start = np.random.default_rng(0).normal(size=size).astype(self.hamiltonian.dtype)
        energies = eigsh(
            self.hamiltonian,
            k=min(n_states, size - 2),
            M=self.overlap,
            sigma=self.sigma,
            OPinv=inverse,
            v0=start,
            return_eigenvectors=False,
        )
        energies = np.sort(np.asarray(energies).real)
        below = int((energies < self.sigma).sum())
        return NearStates(energies, self.n_below() - below)


def find_level(
    hamiltonian: scipy.sparse.csr_array,
    overlap: scipy.sparse.csr_array,
    n_states: float,
    tolerance: float,
    bracket: tuple[float, float] = (-1.0, 1.0),
) -> float:
    """Return an energy below which there are ``n_states`` states, give or take ``tolerance``.

    Args:
        hamiltonian: sparse Hermitian, ``[n, n]``.
        overlap: likewise.
        n_states: wanted number of states below.
        tolerance: in states.
        bracket: energies to begin with, Hartree.

    Raises:
        HamnetError: see `Shifted`; no such level.
    """
    low, high = bracket
    for _ in range(_MAX_HALVINGS):
        middle = 0.5 * (low + high)
        count = Shifted(hamiltonian, overlap, middle).n_below()
        if abs(count - n_states) <= tolerance:
            return middle
        low, high = (middle, high) if count < n_states else (low, middle)
        if high - low < 1e-9:
            low, high = low - (bracket[1] - bracket[0]), high + (bracket[1] - bracket[0])
    raise HamnetError(f"no energy has {n_states:g} +- {tolerance:g} states below it")
