"""How sure the model is: the readout's covariance carried through to orbital energies.

To first order ``d eps_p = c_p^T dH c_p``, and H is linear in the readout's weights W, so that
``d eps_p = sum_ai G_ai dW_ai`` with ``G`` the sum over all blocks and components of inputs x times
the weight of their irrep in ``eps_p``: the projector ``c_p c_p^T``, pulled back through the
transposed assembler. With `ReadoutCovariance`

    var(eps_p) = sum over classes and irreps i of  s_i^2  G_i^T A^-1 G_i.

Blocks that share weights err together; that is in G. G does not change when the molecule is
rotated, mirrored or renumbered, so neither does the variance. A gap has ``G_lumo - G_homo``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hamnet.blocks import SpinKind, entry_weights
from hamnet.correction import trust
from hamnet.data.samples import Sample
from hamnet.irreps import BlockType, IrrepClass
from hamnet.models.so2_network import NetworkOutput
from hamnet.nn.assembler import BlockAssembler
from hamnet.nn.covariance import ReadoutCovariance
from hamnet.nn.frames import PairFrames
from hamnet.nn.readout import LinearReadout, block_rows
from hamnet.nn.standardise import Standardiser
from hamnet.prediction import Prediction
from hamnet.spinor import doubled, symmetrised
from hamnet.structure import FloatArray

DEGENERATE = 1e-4
"""Hartree; the mean of levels closer than this is what has an uncertainty: it does not depend on
how the eigensolver mixes them."""


@dataclass(frozen=True, eq=False)
class Inference:
    """A batch on its way from features to blocks.

    Attributes:
        batch: the structures.
        frames: of its pairs, float64.
        output: of the network.
        entries: of all matrices, Hartree, ``(n_entries,)``.
    """

    batch: Sample
    frames: PairFrames
    output: NetworkOutput
    entries: Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """What the readout sees of the rows of one class.

    Attributes:
        block_type, irreps, name: the class.
        owner: structure of each row, ``(n_rows,)``.
        x: inputs, ``(n_rows, n_components, n_in)``, float64.
        z: whitened ones, ``(n_rows, n_components, k)``.
        scale: standard deviations ``s``, Hartree, ``(n_irreps,)``.
    """

    block_type: BlockType
    irreps: IrrepClass
    name: str
    owner: Tensor
    x: Tensor
    z: Tensor
    scale: Tensor

    @property
    def square(self) -> Tensor:
        """Predicted squared error of the entries of each row, Hartree^2, ``(n_rows,)``."""
        both = 1 if self.block_type.on_site else 2  # a pair stands for two blocks of the matrix
        return both * self.scale.square().sum() * self.z.square().sum(dim=(1, 2))


@dataclass(frozen=True)
class Propagation:
    """The parts of a model through which an error of the weights reaches the matrix."""

    readout: LinearReadout
    covariance: ReadoutCovariance
    standardiser: Standardiser
    assembler: BlockAssembler
    floor: float

    def stds(self, run: Inference, predictions: Sequence[Prediction]) -> FloatArray:
        """Return standard deviations before calibration, Hartree, ``[n_structures, 4]``.

        Columns: `hamnet.models.metadata.QUANTITIES`. NaN where an orbital does not exist.
        """
        homo, lumo = (self._weights(run, predictions, which) for which in (0, 1))
        device = run.entries.device
        variance = torch.zeros(len(predictions), 4, dtype=torch.float64, device=device)
        for seen in self.seen(run):
            c = seen.irreps
            ends = [
                w[seen.block_type][:, c.columns].unflatten(1, (-1, c.n_irreps)) * seen.scale
                for w in (homo, lumo)
            ]
            ends.append(ends[1] - ends[0])
            for k, w in enumerate(ends):  # G: (n_structures, k, n_irreps)
                g = torch.einsum("rmk,rmi->rki", seen.z, w)
                total = g.new_zeros(len(predictions), *g.shape[1:]).index_add(0, seen.owner, g)
                variance[:, k] += total.square().sum(dim=(1, 2))
            variance[:, 3].index_add_(0, seen.owner, seen.square)
        n = np.array([p.layout.n_orbitals for p in predictions], dtype=float)
        found: FloatArray = variance.sqrt().cpu().numpy()
        found[:, 3] /= n * np.sqrt(run.batch.spin_kind)  # of all elements of all matrices
        missing = np.array([np.isnan([p.homo, p.lumo, p.gap, 0.0]) for p in predictions])
        return np.where(missing, np.nan, found)

    def seen(self, run: Inference) -> Iterator[Seen]:
        """Yield what the readout sees of a batch, class by class."""
        graph, out = run.batch.graph, run.output
        for t, c, name, x in self.readout.design(out.features, graph, out.envelope):
            rows = block_rows(graph, t)
            owner = graph.structure[rows if t.on_site else graph.pairs[0, rows]]
            scale = self.standardiser.shift_scale(t)[1][c.columns][: c.n_irreps]
            z = self.covariance.whiten(name, x)
            yield Seen(t, c, name, owner, x, z, scale * self.covariance.sigma(name))

    def _weights(
        self, run: Inference, predictions: Sequence[Prediction], which: int
    ) -> dict[BlockType, Tensor]:
        """Return the derivative of HOMO (0) or LUMO (1) by the irreps of all blocks."""
        entries = np.concatenate([_projector(p, which, self.floor) for p in predictions])
        batch = run.batch
        pulled = torch.from_numpy(entries).to(run.entries.device)
        return self.assembler.inverse(pulled, batch.index, batch.graph, run.frames)


def _projector(prediction: Prediction, which: int, floor: float) -> FloatArray:
    """Return ``d eps / d H`` of HOMO or LUMO for each entry, ``[n_entries]``; 0 without orbital.

    Entries of the four matrices of a spinor Hamiltonian follow each other. Both spinors of a
    Kramers pair count, so that the projector is time-reversal symmetric, as H is. What is learnt
    reaches the orbitals through `hamnet.correction`.
    """
    level = prediction.lumo if which else prediction.homo
    weights = entry_weights(prediction.layout)
    spinor = prediction.hamiltonian.is_spinor
    if not np.isfinite(level):
        return np.zeros(len(weights) * (SpinKind.SPINOR if spinor else 1))
    near = np.abs(prediction.orbital_energies - level) < DEGENERATE  # (n_spin, n_mo)
    near &= (prediction.occupations > 0) == (which == 0)
    c = np.concatenate([x[:, n] for x, n in zip(prediction.coefficients, near, strict=True)], 1)
    if floor:
        f = trust(prediction.overlap, floor)
        c = (doubled(f) if spinor else f) @ c
    row, col = prediction.layout.orbital_indices()
    if spinor:
        four = 2 * symmetrised(c @ c.conj().T / c.shape[1])
        return np.asarray(weights * four[:, row, col]).ravel()
    projector: FloatArray = weights * (c[row] * c[col]).mean(axis=1)
    return projector
