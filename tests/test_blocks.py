"""Blocks: dense and back is the identity, H(k) is Hermitian, other codes' orders are invertible."""

import numpy as np
import pytest

from hamnet.basis import AO_ORDERS, OrbitalBasis, ao_order, from_hamnet_order, to_hamnet_order
from hamnet.blocks import (
    HamiltonianBlocks,
    PairLayout,
    from_dense,
    molecule_layout,
    to_dense,
    to_k,
)
from hamnet.errors import HamnetError

BASIS = OrbitalBasis(
    "made-up", {1: (0,), 8: (0, 0, 1, 2), 26: (0, 1, 2, 3)}, dict.fromkeys((1, 8, 26), "x")
)
NUMBERS = np.array([8, 1, 26, 1, 8])


@pytest.fixture
def crystal(rng) -> HamiltonianBlocks:
    """Random blocks of three atoms with cell shifts; the on-site blocks are symmetric."""
    offsets = BASIS.atom_offsets(NUMBERS[:3])
    pairs = [(0, 0, 0, i, j) for i in range(3) for j in range(i, 3)]
    pairs += [(0, 0, 1, i, j) for i in range(3) for j in range(3)]
    pairs += [(1, -2, 0, 2, 0), (0, 1, -1, 0, 1)]
    layout = PairLayout(np.array(pairs), offsets)
    entries = rng.standard_normal(int(layout.boundaries[-1]))
    blocks = HamiltonianBlocks(layout, entries)
    for k, (*shift, i, j) in enumerate(pairs):
        if i == j and not any(shift):
            block = blocks.block(k)
            entries[layout.boundaries[k] : layout.boundaries[k + 1]] = (block + block.T).ravel() / 2
    return blocks


@pytest.mark.parametrize("lead", [(), (2,), (3, 2)])
def test_dense_and_back_is_the_identity(rng, lead):
    layout = molecule_layout(BASIS.atom_offsets(NUMBERS))
    n = layout.n_orbitals
    matrix = rng.standard_normal((*lead, n, n))
    matrix = matrix + np.swapaxes(matrix, -1, -2)
    blocks = from_dense(matrix, layout)
    np.testing.assert_array_equal(to_dense(blocks), matrix)
    np.testing.assert_array_equal(from_dense(to_dense(blocks), layout).entries, blocks.entries)


def test_any_entries_give_a_hermitian_matrix_off_the_diagonal_blocks(rng):
    layout = molecule_layout(BASIS.atom_offsets(NUMBERS))
    blocks = HamiltonianBlocks(layout, rng.standard_normal(int(layout.boundaries[-1])))
    dense = to_dense(blocks)
    atom = np.repeat(np.arange(len(NUMBERS)), np.diff(layout.atom_offsets))
    off_site = atom[:, None] != atom
    np.testing.assert_array_equal(dense[off_site], dense.T[off_site])


def test_a_block_is_the_part_of_the_matrix_between_its_atoms(rng):
    layout = molecule_layout(BASIS.atom_offsets(NUMBERS))
    n = layout.n_orbitals
    matrix = rng.standard_normal((n, n))
    blocks = from_dense(matrix + matrix.T, layout)
    for pair, (*_, i, j) in enumerate(layout.atom_pairs):
        rows, cols = (slice(*layout.atom_offsets[k : k + 2]) for k in (i, j))
        np.testing.assert_array_equal(blocks.block(pair), (matrix + matrix.T)[rows, cols])


def test_h_of_k_is_hermitian_and_periodic(rng, crystal):
    for _ in range(5):
        k = rng.uniform(-1, 1, size=3)
        matrix = to_k(crystal, k)
        np.testing.assert_allclose(matrix, matrix.conj().T, atol=1e-13)
        np.testing.assert_allclose(to_k(crystal, k + np.array([1, -2, 3])), matrix, atol=1e-12)
        np.testing.assert_allclose(to_k(crystal, -k), matrix.conj(), atol=1e-13)


def test_h_of_k_sums_blocks_and_their_partners(rng, crystal):
    k = rng.uniform(-1, 1, size=3)
    layout = crystal.layout
    expected = np.zeros((layout.n_orbitals,) * 2, dtype=complex)
    for pair, (*shift, i, j) in enumerate(layout.atom_pairs):
        rows, cols = (slice(*layout.atom_offsets[a : a + 2]) for a in (i, j))
        phase = np.exp(2j * np.pi * np.dot(shift, k))
        expected[rows, cols] += phase * crystal.block(pair)
        if any(shift) or i != j:
            expected[cols, rows] += phase.conj() * crystal.block(pair).T
    np.testing.assert_allclose(to_k(crystal, k), expected, atol=1e-13)


@pytest.mark.parametrize("pair", [(0, 0, 0, 1, 0), (-1, 0, 0, 0, 1), (0, -1, 5, 0, 0)])
def test_a_pair_that_is_not_canonical_is_refused(pair):
    with pytest.raises(HamnetError, match="is not canonical"):
        PairLayout(np.array([pair]), np.array([0, 1, 2]))


def test_wrong_sizes_are_refused():
    layout = molecule_layout(BASIS.atom_offsets(NUMBERS))
    with pytest.raises(HamnetError, match=r"got an array of shape \(3,\)"):
        HamiltonianBlocks(layout, np.zeros(3))
    with pytest.raises(HamnetError, match=r"got shape \(4, 4\)"):
        from_dense(np.zeros((4, 4)), layout)


@pytest.mark.parametrize("source", AO_ORDERS)
def test_every_orbital_order_is_a_signed_permutation_with_an_inverse(rng, source):
    perm, sign = ao_order(BASIS, NUMBERS, source)
    assert sorted(perm.tolist()) == list(range(len(perm)))
    assert set(np.abs(sign).tolist()) == {1.0}
    matrix = rng.standard_normal((2, len(perm), len(perm)))
    there = to_hamnet_order(matrix, BASIS, NUMBERS, source)
    np.testing.assert_array_equal(from_hamnet_order(there, BASIS, NUMBERS, source), matrix)
