"""Densities and potentials of a small crystal, from orbitals kept on the plane-wave grid.

PySCF's multigrid adds up pairs of orbitals over all images of the cell in every cycle, which for
cells of a few atoms and many k points costs ten times more than the rest. Here the Bloch sums of
the orbitals are computed once on the same grid; a cycle is then one matrix product per k point for
the density and one for the potential. Of k and -k only one is kept.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf.lib import tag_array
from pyscf.pbc import gto, tools
from pyscf.pbc.dft.multigrid import MultiGridNumInt

from hamnet.structure import FloatArray, IntArray

MAX_BYTES = 4e9
"""Of orbitals that are kept; larger cells are left to PySCF's multigrid."""

_BLOCK = 8192
"""Points of the grid at a time."""

_NEGLIGIBLE = 1e-6
"""Points of the vacuum where every orbital is smaller are left out; products count."""

Array = NDArray[Any]


class GridOrbitals(MultiGridNumInt):  # type: ignore[misc]
    """PySCF's integrator on the plane-wave grid, with the orbitals kept from cycle to cycle.

    Args:
        cell: three-dimensional, with ``ke_cutoff``.
        k_points: absolute, ``[n_k, 3]``.
    """

    def __init__(self, cell: gto.Cell, k_points: FloatArray) -> None:
        super().__init__(cell)
        self._k = np.asarray(k_points)
        self._kept: list[tuple[IntArray, list[Array]]] | None = None
        self._representative, self._mirrored = time_reversed(cell, self._k)

    def reset(self, cell: gto.Cell | None = None) -> "GridOrbitals":
        """Forget the orbitals, as PySCF's method forgets its tasks."""
        self._kept = None
        super().reset(cell)
        return self

    def fits(self, xc: str) -> bool:
        """Return whether the orbitals are few enough, and the functional needs no more of them."""
        n = np.unique(self._representative).size * self.cell.nao * np.prod(self.mesh)
        return bool(16.0 * n < MAX_BYTES) and self._xc_type(xc) in ("LDA", "GGA")

    def nr_rks(
        self, cell: gto.Cell, grids: Any, xc_code: str, dm_kpts: Array, relativity: int = 0,
        hermi: int = 1, kpts: FloatArray | None = None, kpts_band: FloatArray | None = None,
        **_: Any,
    ) -> tuple[float, float, Array]:  # fmt: skip
        """Return electrons, energy and potential, Coulomb included, as PySCF's method does."""
        n, exc, veff = self._veff(xc_code, np.asarray(dm_kpts)[None], kpts_band)
        return float(n[0]), exc, tag_array(veff[0], **veff.__dict__)

    def nr_uks(
        self, cell: gto.Cell, grids: Any, xc_code: str, dm_kpts: Array, relativity: int = 0,
        hermi: int = 1, kpts: FloatArray | None = None, kpts_band: FloatArray | None = None,
        **_: Any,
    ) -> tuple[FloatArray, float, Array]:  # fmt: skip
        """Return the same for two spin channels."""
        return self._veff(xc_code, np.asarray(dm_kpts), kpts_band)

    def _veff(
        self, xc: str, dm: Array, kpts_band: FloatArray | None
    ) -> tuple[FloatArray, float, Array]:
        """Return the integrals of density matrices ``[n_spin, n_k, n, n]``."""
        cell, mesh = self.cell, self.mesh
        weight = cell.vol / np.prod(mesh)
        g = cell.get_Gv(mesh)
        rho = np.stack([self._density(channel) for channel in dm])  # (s, grid)
        rho_g = tools.fft(rho, mesh)
        coulomb = rho_g.sum(axis=0) * tools.get_coulG(cell, mesh=mesh)
        energy = 0.5 * weight**2 * np.vdot(rho_g.sum(axis=0), coulomb).real / cell.vol
        gga = self._xc_type(xc) == "GGA"
        if gga:
            slopes = [tools.ifft(1j * g[:, x] * rho_g, mesh).real for x in range(3)]
            rho = np.stack([rho, *slopes], axis=1)  # (s, 4, grid)
        exc, vxc = self.eval_xc_eff(xc, rho if len(dm) == 2 else rho[0], deriv=1)[:2]
        vxc = np.asarray(vxc).reshape(len(dm), -1, rho.shape[-1])
        v_g = tools.fft(vxc.reshape(-1, rho.shape[-1]), mesh).reshape(vxc.shape)
        total = v_g[:, 0] + coulomb
        if gga:
            total -= 1j * np.einsum("sxg,gx->sg", v_g[:, 1:], g)
        density = rho[:, 0] if gga else rho
        bands = None if kpts_band is None else np.reshape(kpts_band, (-1, 3))
        veff = np.stack([self.matrices(tools.ifft(v, mesh).real, bands) for v in total])
        if kpts_band is not None and np.ndim(kpts_band) == 1:
            veff = veff[:, 0]
        e_xc = float(density.sum(axis=0) @ exc) * weight
        tagged = tag_array(veff, ecoul=energy, exc=e_xc, vj=None, vk=None)
        return density.sum(axis=1) * weight, e_xc, tagged

    def _density(self, dm: Array) -> FloatArray:
        """Return the density of one channel ``[n_k, n, n]`` on the grid."""
        rho = np.zeros(np.prod(self.mesh))
        chosen, counts = np.unique(self._representative, return_counts=True)
        natural = []
        for k in chosen:
            occupied, vectors = np.linalg.eigh(dm[k])
            some = occupied > 1e-14 * occupied[-1]
            natural.append((vectors[:, some] * np.sqrt(occupied[some])).T)
        for points, orbitals in self._orbitals():
            for each, states, count in zip(orbitals, natural, counts, strict=True):
                if np.isrealobj(each):
                    parts = [states.real @ each, states.imag @ each]
                    rho[points] += count * sum(np.einsum("pg,pg->g", x, x) for x in parts)
                else:
                    psi = states @ each
                    rho[points] += count * np.einsum("pg,pg->g", psi.conj(), psi).real
        return rho / len(self._k)

    def matrices(self, potential: FloatArray, k_points: FloatArray | None = None) -> Array:
        """Return the matrices ``[n_k, n, n]`` of a local potential on the grid, Hartree.

        Args:
            potential: ``[n_grid]``.
            k_points: absolute; those of the mesh by default.
        """
        weight = self.cell.vol / np.prod(self.mesh)
        if k_points is None or np.array_equal(k_points, self._k):
            places, mirrored = self._representative, self._mirrored
            chosen, blocks = np.unique(places), self._orbitals
        else:
            chosen, mirrored = np.arange(len(k_points)), np.zeros(len(k_points), dtype=bool)
            places, blocks = chosen, lambda: self._evaluate(k_points)
        n = self.cell.nao
        out = np.zeros((len(chosen), n, n), dtype=complex)
        for points, orbitals in blocks():
            v = potential[points] * weight
            for k, each in enumerate(orbitals):
                out[k] += each.conj() @ (each * v).T
        whole = out[np.searchsorted(chosen, places)]
        whole[mirrored] = whole[mirrored].conj()
        return whole

    def _orbitals(self) -> Iterator[tuple[IntArray, list[Array]]]:
        if self._kept is None:
            chosen = np.unique(self._representative)
            self._kept = list(self._evaluate(self._k[chosen]))
        yield from self._kept

    def _evaluate(self, k_points: FloatArray) -> Iterator[tuple[IntArray, list[Array]]]:
        """Yield points of the grid and the orbitals there at every k point, ``[n, n_points]``."""
        grid = self.cell.get_uniform_grids(self.mesh, wrap_around=False)
        twice = 2 * self.cell.get_scaled_kpts(k_points)
        real = np.abs(twice - np.round(twice)).max(axis=1) < 1e-9
        for start in range(0, len(grid), _BLOCK):
            coords = grid[start : start + _BLOCK]
            found = [x.T for x in self.cell.pbc_eval_gto("GTOval_sph", coords, kpts=k_points)]
            some = np.max([np.abs(x).max(axis=0) for x in found], axis=0) > _NEGLIGIBLE
            if some.any():
                yield (
                    start + np.flatnonzero(some),
                    [
                        np.ascontiguousarray((x.real if r else x)[:, some])
                        for x, r in zip(found, real, strict=True)
                    ],
                )


def time_reversed(cell: gto.Cell, k_points: FloatArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """Return for every k point the one that stands for it, and whether that is its -k.

    Args:
        cell: of the k points.
        k_points: absolute, ``[n_k, 3]``.
    """
    k = cell.get_scaled_kpts(k_points)
    apart = k[:, None] + k[None]
    opposite = (np.abs(apart - np.round(apart)) < 1e-9).all(axis=2)
    place = np.arange(len(k))
    partner = np.where(opposite.any(axis=1), opposite.argmax(axis=1), place)
    return np.minimum(place, partner), partner < place
