"""Where each block lies in the flat entries: full matrices, pairs within the cutoff, crystals."""

import numpy as np
import pytest
import torch

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, molecule_layout, to_dense
from hamnet.data.samples import cutoff_layout, make_sample
from hamnet.errors import HamnetError
from hamnet.graph import build_graph
from hamnet.irreps import BlockType
from hamnet.structure import Structure
from hamnet.testing import random_model

BASIS = OrbitalBasis("made up", {1: (0, 1), 6: (0, 0, 1), 8: (0, 1)}, {1: "", 6: "", 8: ""})
CUTOFFS = (2.0, 3.0)


def cluster(periodic: bool) -> Structure:
    generator = np.random.default_rng(3)
    numbers = generator.permutation([1, 1, 1, 8, 8, 6])
    grid = np.array([[x, y, 0] for x in range(3) for y in range(2)]) * 1.4
    positions = grid + generator.normal(scale=0.05, size=(6, 3))
    if not periodic:
        return Structure(numbers, positions)
    cell = np.diag([4.3, 2.9, 3.1]) + 0.1
    return Structure(numbers, positions, cell=cell, pbc=np.array([True] * 3))


@pytest.mark.parametrize("periodic", [False, True])
def test_index_of_every_pair_is_its_block_or_the_transposed_partner(periodic):
    structure = cluster(periodic)
    graph = build_graph(structure, *CUTOFFS)
    layout = cutoff_layout(graph, BASIS.atom_offsets(structure.numbers))
    sample = make_sample(structure, layout, BASIS, CUTOFFS)
    blocks = HamiltonianBlocks(layout, np.arange(sample.n_entries, dtype=np.float64))
    where = {tuple(pair): k for k, pair in enumerate(layout.atom_pairs.tolist())}
    assert len(where) == len(structure) + graph.pairs.shape[1]
    start = 0
    for (z_i, z_j), count in zip(graph.pair_types, graph.pair_counts, strict=True):
        index = sample.index[BlockType.pair((z_i, z_j))].numpy()
        for row, p in zip(index, range(start, start + count), strict=True):
            (i, j), shift = graph.pairs[:, p].tolist(), graph.shifts[p].tolist()
            direct = where.get((*shift, i, j))
            partner = where.get((*(-s for s in shift), j, i))
            expected = blocks.block(partner).T if direct is None else blocks.block(direct)
            assert np.array_equal(row, expected.ravel())
        start += count
    for z in np.unique(structure.numbers):
        atoms = np.flatnonzero(structure.numbers == z)
        for row, atom in zip(sample.index[BlockType.atom(int(z))].numpy(), atoms, strict=True):
            assert np.array_equal(row, blocks.block(where[0, 0, 0, atom, atom]).ravel())


def test_blocks_within_the_cutoff_are_those_of_the_full_matrix():
    """Without a layout only they exist; in the full matrix the others are zero."""
    model = random_model("sto-3g", [1, 6, 8], l_max=2, message_cutoff=2.0, pair_cutoff=3.0)
    structure = cluster(periodic=False)
    full = molecule_layout(model.basis.atom_offsets(structure.numbers))
    matrices = []
    for layout in (None, full):
        sample = make_sample(structure, layout, model.basis, model.cutoffs)
        with torch.no_grad():
            blocks = HamiltonianBlocks(sample.layouts[0], model(sample).numpy())
        matrices.append(to_dense(blocks))
        assert len(blocks.layout.atom_pairs) == (21 if layout else 6 + sample.graph.pairs.shape[1])
    assert sample.graph.pairs.shape[1] < 15
    assert np.array_equal(*matrices)


def test_a_pair_without_a_block_is_named():
    structure = cluster(periodic=False)
    near = cutoff_layout(build_graph(structure, 1.0, 1.7), BASIS.atom_offsets(structure.numbers))
    with pytest.raises(HamnetError, match=r"no block for the pair \[0, 0, 0, \d, \d\]"):
        make_sample(structure, near, BASIS, CUTOFFS)
