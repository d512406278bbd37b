"""What the training data leave open about the weights of the last layer."""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from hamnet.nn.readout import LinearReadout

SKETCH_SIZE = 128
"""Random combinations of the inputs of a class whose covariance is kept."""

FLOOR = 1e-12
"""Smallest root mean square of an input, so that one that is always zero can be divided by it."""


class ReadoutCovariance(nn.Module):
    """Gaussian of the readout's weights, ``cov(W_ai, W_bj) = (A^-1)_ab s_i^2 delta_ij``.

    The readout is linear, so ridge regression has a posterior in closed form with the normal matrix
    ``A = sum x x^T + lambda tau`` of each irrep class. Bigi, Chong, Ceriotti & Grasselli
    (arXiv 2403.02251) use it for energies. A class has up to 1281 inputs; here ``x`` is first
    divided by its root mean square and multiplied by a matrix of random signs, ``(n_in, k)``: inner
    products are nearly kept (Johnson & Lindenstrauss), and a class needs ``k (k + 1) / 2`` numbers.

    Inputs are scalars of the symmetry group as far as weights are concerned: every component of an
    irrep is multiplied by the same weight. So any function of ``A`` is equivariant.

    The further features of an atom (`hamnet.nn.node.Expansion`) are left out: they are functions of
    its other ones, and would drown them where training frames are few.

    Args:
        readout: whose weights.
        size: k.
    """

    def __init__(self, readout: LinearReadout, size: int = SKETCH_SIZE) -> None:
        super().__init__()
        for block_type, c, name in readout.classes():
            layer = readout.layers(block_type, c)
            kept = torch.arange(len(layer))
            if block_type.on_site:
                kept = kept[layer < readout.n_layers]
            n_in = len(kept)
            k = min(size, n_in)
            self.register_buffer(f"kept_{name}", kept, persistent=False)
            self.register_buffer(f"rms_{name}", torch.ones(n_in))
            self.register_buffer(f"factor_{name}", torch.zeros(k * (k + 1) // 2))
            self.register_buffer(f"sigma_{name}", torch.zeros(c.n_irreps))

    def sketch(self, name: str, x: Tensor) -> Tensor:
        """Return k combinations of inputs ``(..., n_in)`` in units of their root mean square."""
        rms: Tensor = self.get_buffer(f"rms_{name}")
        x = x.index_select(-1, self.get_buffer(f"kept_{name}"))
        signs = random_signs(len(rms), _size(self.get_buffer(f"factor_{name}")))
        return (x / rms.to(x)) @ signs.to(x)

    def whiten(self, name: str, x: Tensor) -> Tensor:
        """Return ``z (..., k)`` of inputs ``(..., n_in)``, with ``z.z = x A^-1 x``."""
        packed = self.get_buffer(f"factor_{name}").to(x)
        k = _size(packed)
        factor = x.new_zeros(k, k)
        factor[tuple(torch.tril_indices(k, k, device=x.device))] = packed
        return self.sketch(name, x) @ factor.T

    def sigma(self, name: str) -> Tensor:
        """Return the standard deviations ``s`` of a class, standardised units, ``(n_irreps,)``."""
        return self.get_buffer(f"sigma_{name}").double()

    def set_rms(self, name: str, gram: Tensor, n_rows: int) -> None:
        """Set the units of the inputs from ``sum x x^T`` over rows."""
        kept = self.get_buffer(f"kept_{name}")
        rms = (gram.diagonal()[kept] / max(n_rows, 1)).sqrt().clamp(min=FLOOR)
        self.get_buffer(f"rms_{name}").copy_(rms)

    def set_factor(self, name: str, precision: Tensor) -> None:
        """Set ``A`` ``(k, k)`` in sketched inputs; kept is the inverse of its Cholesky factor."""
        factor = torch.linalg.cholesky(precision)
        eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
        k = len(factor)
        self.get_buffer(f"factor_{name}").copy_(inverse[tuple(torch.tril_indices(k, k))])


def _size(packed: Tensor) -> int:
    """Return k of a triangle of ``k (k + 1) / 2`` numbers."""
    return int((np.sqrt(8 * len(packed) + 1) - 1) / 2 + 0.5)


@cache
def random_signs(n: int, k: int) -> Tensor:
    """Return ``(n, k)`` with entries ``+-1/sqrt(k)``, the same on every machine; 1 for ``n = k``.

    The bits are those of the generator itself, which NumPy never changes.
    """
    if n == k:
        return torch.eye(n, dtype=torch.float64)
    words = np.random.PCG64(n).random_raw(-(-n * k // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[: n * k].reshape(n, k)
    return torch.from_numpy((2.0 * bits - 1.0) / np.sqrt(k))
