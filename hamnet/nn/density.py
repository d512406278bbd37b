"""What an atom knows of the density of H0's orbitals."""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from hamnet.graph import NeighbourGraph
from hamnet.irreps import BlockIrreps, BlockType, IrrepClass
from hamnet.nn.readout import block_rows


class DensityEmbedding(nn.Module):
    """``x_i = W_Z (q_i - mean) / rms``, q_i the irreps of the density's block on atom i.

    Mean (of the scalars) and root mean square of what remains are those of the element in the
    training data, one number for all irreps: what hardly changes stays small.

    Args:
        tables: irreps of every block type.
        channels: natural and pseudo channels of an atom.
        l_max: largest degree of its features.
        weight: size of the features beside those of the element.
    """

    def __init__(
        self, tables: Sequence[BlockIrreps], channels: tuple[int, int], l_max: int, weight: float
    ) -> None:
        super().__init__()
        self.tables = {t.type: t for t in tables if t.type.on_site}
        self.channels, self.n_rows = channels, (l_max + 1) ** 2
        self.weights = nn.ParameterDict()
        for t in self.tables.values():
            self.register_buffer(f"matrix_{t.type.key}", t.matrix, persistent=False)
            self.register_buffer(f"mean_{t.type.key}", torch.zeros(t.n_numbers).double())
            self.register_buffer(f"rms_{t.type.key}", torch.ones(()).double())
            for c, name in self._classes(t):
                w = torch.randn(c.n_irreps, channels[c.pseudo])
                self.weights[name] = nn.Parameter(w * weight / math.sqrt(c.n_irreps))

    @staticmethod
    def _classes(table: BlockIrreps) -> Iterator[tuple[IrrepClass, str]]:
        for k, c in enumerate(table.classes):
            yield c, f"{table.type.key}_{k}"

    def _irreps(self, block_type: BlockType, blocks: Tensor) -> Tensor:
        matrix = self.get_buffer(f"matrix_{block_type.key}")
        return blocks.to(matrix.dtype) @ matrix

    def fit(self, densities: Mapping[BlockType, Tensor]) -> None:
        """Set mean and root mean square from the blocks of the training data.

        Args:
            densities: on-site blocks of each element, ``(n_atoms, n_i * n_i)``.
        """
        for t, blocks in densities.items():
            q = self._irreps(t, blocks)
            mean = self.get_buffer(f"mean_{t.key}")
            for c in self.tables[t].classes:
                if c.is_invariant:
                    mean[c.columns] = q[:, c.columns].mean(dim=0).to(mean.dtype)
            rms = (q - mean).square().mean().sqrt().clamp(min=1e-6)
            self.get_buffer(f"rms_{t.key}").copy_(rms)

    def forward(self, densities: Mapping[BlockType, Tensor], graph: NeighbourGraph) -> Tensor:
        """Return features of atoms, laboratory rows, natural channels first, ``(A, K, C)``.

        Args:
            densities: on-site blocks of every element of the graph, `hamnet.data.samples.Sample`.
            graph: the atoms.
        """
        shape = (len(graph.numbers), self.n_rows)
        weight = next(iter(self.weights.values()))
        halves = [weight.new_zeros(*shape, n) for n in self.channels]
        for z in graph.elements:
            t = BlockType.atom(z)
            rows, table = block_rows(graph, t), self.tables[t]
            mean, rms = self.get_buffer(f"mean_{t.key}"), self.get_buffer(f"rms_{t.key}")
            q = ((self._irreps(t, densities[t]) - mean) / rms).to(weight.dtype)
            for c, name in self._classes(table):
                y = q[:, c.columns].unflatten(1, (c.n_components, -1)) @ self.weights[name]
                halves[c.pseudo][rows, c.order**2 : (c.order + 1) ** 2] = y
        return torch.cat(halves, dim=2)
