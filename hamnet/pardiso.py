"""Factors of sparse Hermitian matrices by MKL's PARDISO, where ``pypardiso`` is installed.

Nested dissection and supernodes make it several times faster and smaller than SuperLU on the wide
sparse matrices of crystals. pypardiso finds the library; its own interface knows no Hermitian
matrices, so that the routine is called here.
"""

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from hamnet.errors import HamnetError

_ANALYSE, _FACTORISE, _SOLVE, _RELEASE = 11, 22, 33, -1
_SYMMETRIC = -2
_KILOBYTE = 1024.0


@cache
def library() -> Any | None:
    """Return MKL's ``pardiso``, or None where pypardiso is not installed."""
    try:
        from pypardiso import PyPardisoSolver  # noqa: PLC0415  (an extra, 200 MB)
    except ImportError:
        return None
    return PyPardisoSolver()._mkl_pardiso


class PardisoFactors:
    """``L D L^T`` of a symmetric matrix, indefinite.

    `analyse` comes first and is cheap: it tells the memory of the rest. A complex Hermitian matrix
    is factorised as the real ``[[Re, -Im], [Im, Re]]``, which has every eigenvalue twice: MKL's
    own routine for complex matrices counts no signs with safe pivots, and hundreds too many of
    4,336 orbitals without them.

    Args:
        matrix: real symmetric or complex Hermitian, ``[n, n]``.
    """

    def __init__(self, matrix: scipy.sparse.csr_array) -> None:
        self._complex = np.iscomplexobj(matrix)
        if self._complex:
            re, im = matrix.real, matrix.imag
            matrix = scipy.sparse.block_array([[re, -im], [im, re]], format="csr")
        upper = scipy.sparse.triu(matrix, format="csr")
        upper.sort_indices()
        self._type = ctypes.c_int32(_SYMMETRIC)
        self._values = np.ascontiguousarray(upper.data, dtype=float)
        self._rows = (upper.indptr + 1).astype(np.int32)
        self._columns = (upper.indices + 1).astype(np.int32)
        self._n = matrix.shape[0]
        self._handle = np.zeros(64, dtype=np.int64)
        self._settings = np.zeros(64, dtype=np.int32)
        self._settings[[0, 1, 9]] = 1, 2, 13  # not the defaults; METIS; pivots moved by 1e-13
        self._settings[[10, 12, 20]] = (
            1  # scaling, matching, pivots of two rows: for indefinite ones
        )
        self._routine = library()

    def analyse(self) -> float:
        """Return how many bytes the factorisation takes at its peak."""
        self._call(_ANALYSE)
        symbolic, permanent, numerical = (float(x) for x in self._settings[14:17])
        return _KILOBYTE * max(symbolic, permanent + numerical)

    def factorise(self) -> None:
        """Compute the factors.

        Raises:
            HamnetError: the matrix is singular.
        """
        self._call(_FACTORISE)

    def solve(self, right: NDArray[Any]) -> NDArray[Any]:
        """Return ``A^-1 b`` of one vector ``[n]``."""
        b = np.concatenate([right.real, right.imag]) if self._complex else right
        b = np.ascontiguousarray(b, dtype=float)
        x = np.empty_like(b)
        self._call(_SOLVE, b, x)
        if not self._complex:
            return x
        re, im = np.split(x, 2)
        return np.asarray(re + 1j * im)

    def n_negative(self) -> int:
        """Return the number of negative eigenvalues (Sylvester's law of inertia)."""
        return int(self._settings[22]) // (2 if self._complex else 1)

    def _call(self, phase: int, b: NDArray[Any] | None = None, x: Any = None) -> None:
        one, error = ctypes.c_int32(1), ctypes.c_int32(0)
        integers = ctypes.POINTER(ctypes.c_int32)
        assert self._routine is not None
        self._routine(
            self._handle.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)),
            one,
            one,
            self._type,
            ctypes.c_int32(phase),
            ctypes.c_int32(self._n),
            self._values.ctypes.data_as(ctypes.c_void_p),
            self._rows.ctypes.data_as(integers),
            self._columns.ctypes.data_as(integers),
            np.zeros(1, dtype=np.int32).ctypes.data_as(integers),
            one,
            self._settings.ctypes.data_as(integers),
            ctypes.c_int32(0),
            None if b is None else b.ctypes.data_as(ctypes.c_void_p),
            None if x is None else x.ctypes.data_as(ctypes.c_void_p),
            error,
        )
        if error.value:
            raise HamnetError(f"PARDISO failed in phase {phase} with error {error.value}")

    def __del__(self) -> None:
        if not sys.is_finalizing() and getattr(self, "_routine", None) and self._handle.any():
            self._call(_RELEASE)
