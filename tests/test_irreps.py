"""Blocks <-> irreps: orthogonal, and transforming as they should."""

import itertools

import numpy as np
import pytest
import torch

from hamnet.basis import OrbitalBasis
from hamnet.irreps import BlockType, block_irreps, coupling
from hamnet.testing import random_rotation, rotate_orbitals, wigner_d

BASIS = OrbitalBasis("test", {1: (0, 0, 1), 6: (0, 0, 1, 2), 8: (0, 1, 3)}, {})
TYPES = [
    BlockType.atom(1),
    BlockType.atom(6),
    BlockType.atom(8),
    BlockType.pair((1, 1)),
    BlockType.pair((1, 6)),
    BlockType.pair((6, 6)),
    BlockType.pair((6, 8)),
]


def random_block(t, rng):
    shape = BASIS.n_orbitals(t.z_i), BASIS.n_orbitals(t.z_j)
    block = rng.normal(size=shape)
    return block + block.T if t.on_site else block


def irreps_of(t, block):
    table = block_irreps(BASIS, t)
    return table, table.matrix.T @ torch.from_numpy(block).flatten()


@pytest.mark.parametrize("t", TYPES, ids=lambda t: t.key + ("" if t.on_site else " pair"))
def test_round_trip_and_norm(t, rng):
    block = random_block(t, rng)
    table, h = irreps_of(t, block)
    back = (table.matrix @ h).reshape(table.shape).numpy()
    assert np.abs(back - block).max() < 1e-13
    assert np.isclose(float(h.norm()), np.linalg.norm(block), rtol=1e-13)
    n = BASIS.n_orbitals(t.z_i) * BASIS.n_orbitals(t.z_j)
    independent = BASIS.n_orbitals(t.z_i) * (BASIS.n_orbitals(t.z_i) + 1) // 2
    assert table.n_numbers == (independent if t.on_site else n)


@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("t", TYPES, ids=lambda t: t.key + ("" if t.on_site else " pair"))
def test_irreps_rotate_by_their_degree_and_parity(t, improper, rng):
    rotation = random_rotation(rng, improper=improper)
    d_i = rotate_orbitals(BASIS, np.array([t.z_i]), rotation)
    d_j = rotate_orbitals(BASIS, np.array([t.z_j]), rotation)
    block = random_block(t, rng)
    table, h = irreps_of(t, block)
    _, rotated = irreps_of(t, d_i @ block @ d_j.T)
    for c in table.classes:
        sign = -1.0 if improper and c.pseudo else 1.0  # natural parity is in wigner_d already
        d = sign * torch.from_numpy(wigner_d(c.l, rotation))
        expected = d @ h[c.columns].view(2 * c.l + 1, -1)
        assert torch.allclose(rotated[c.columns].view_as(expected), expected, atol=1e-12)


@pytest.mark.parametrize("t", [BlockType.pair((1, 1)), BlockType.pair((6, 6))], ids=["H", "C"])
def test_exchange_of_equal_atoms(t, rng):
    block = random_block(t, rng)
    table, h = irreps_of(t, block)
    _, swapped = irreps_of(t, block.T)
    for c in table.classes:
        sign = c.exchange * (-1 if c.pseudo else 1)
        assert torch.allclose(swapped[c.columns], sign * h[c.columns], atol=1e-13)


def test_traces_of_shell_pairs_are_sums_over_irreps_and_invariant(rng):
    """``tr(H_ab H_ab^T) = sum_l |h_abl|^2``, the label invariants of TraceGrad."""
    t = BlockType.pair((1, 6))
    block = random_block(t, rng)
    rotation = random_rotation(rng, improper=True)
    turned = (
        rotate_orbitals(BASIS, np.array([1]), rotation)
        @ block
        @ rotate_orbitals(BASIS, np.array([6]), rotation).T
    )
    starts_i, starts_j = [0, 1, 2, 5], [0, 1, 2, 5, 10]
    for matrix in (block, turned):
        table, h = irreps_of(t, matrix)
        traces = np.zeros((3, 4))
        for c in table.classes:
            squares = h[c.columns].view(2 * c.l + 1, -1).square().sum(dim=0)
            for (a, b), value in zip(c.shells, squares.tolist(), strict=True):
                traces[a, b] += value
        expected = [
            [np.square(block[i0:i1, j0:j1]).sum() for j0, j1 in itertools.pairwise(starts_j)]
            for i0, i1 in itertools.pairwise(starts_i)
        ]
        assert np.abs(traces - expected).max() < 1e-10


def test_coupling_changes_phase_with_the_order_of_its_shells():
    for l1, l2, l in [(0, 1, 1), (1, 2, 1), (1, 2, 2), (2, 3, 4), (1, 1, 1)]:
        sign = (-1) ** (l1 + l2 + l)
        assert torch.equal(coupling(l2, l1, l).transpose(0, 1), sign * coupling(l1, l2, l))
