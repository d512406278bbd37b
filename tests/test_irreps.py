"""Blocks <-> irreps: orthogonal, and transforming as they should."""

import itertools

import numpy as np
import pytest
import torch

from hamnet.basis import OrbitalBasis
from hamnet.irreps import BlockType, block_irreps, coupling, into_frame, out_of_frame
from hamnet.so3.rotation import EdgeFrame
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


SPINORS = pytest.mark.parametrize("spinor", [False, True], ids=["", "spin-orbit"])
TRANSPOSE = np.array([1.0, -1.0, -1.0, -1.0])[:, None, None]


def random_block(t, rng, spinor=False):
    """H0 or, with spin-orbit coupling, H0, Kx, Ky and Kz."""
    shape = BASIS.n_orbitals(t.z_i), BASIS.n_orbitals(t.z_j)
    block = rng.normal(size=(4, *shape) if spinor else shape)
    return block + transposed(block) if t.on_site else block


def transposed(block):
    """The block of (j, i)."""
    return TRANSPOSE * block.transpose(0, 2, 1) if block.ndim == 3 else block.T


def turn(t, block, rotation):
    d_i = rotate_orbitals(BASIS, np.array([t.z_i]), rotation)
    d_j = rotate_orbitals(BASIS, np.array([t.z_j]), rotation)
    block = d_i @ block @ d_j.T
    if block.ndim == 3:
        block[1:] = np.linalg.det(rotation) * np.einsum("ab,bij->aij", rotation, block[1:])
    return block


def irreps_of(t, block):
    table = block_irreps(BASIS, t, spinor=block.ndim == 3)
    return table, table.matrix.T @ torch.from_numpy(block).flatten()


@SPINORS
@pytest.mark.parametrize("t", TYPES, ids=lambda t: t.key + ("" if t.on_site else " pair"))
def test_round_trip_and_norm(t, spinor, rng):
    block = random_block(t, rng, spinor)
    table, h = irreps_of(t, block)
    back = (table.matrix @ h).reshape(block.shape).numpy()
    assert np.abs(back - block).max() < 1e-13
    assert np.isclose(float(h.norm()), np.linalg.norm(block), rtol=1e-13)
    n, one = block.size, BASIS.n_orbitals(t.z_i)
    independent = one * (one + 1) // 2 + (3 * one * (one - 1) // 2 if spinor else 0)
    assert table.n_numbers == (independent if t.on_site else n)
    assert table.n_matrices == (4 if spinor else 1)


def laboratory(table, h):
    """Yield the components m = -l..l of all irreps of each degree and parity."""
    for l, pseudo, columns in table.degrees():
        yield l, pseudo, h[columns].unflatten(0, (2 * l + 1, -1))


@SPINORS
@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("t", TYPES, ids=lambda t: t.key + ("" if t.on_site else " pair"))
def test_irreps_rotate_by_their_degree_and_parity(t, improper, spinor, rng):
    rotation = random_rotation(rng, improper=improper)
    block = random_block(t, rng, spinor)
    table, h = irreps_of(t, block)
    _, rotated = irreps_of(t, turn(t, block, rotation))
    for (l, pseudo, before), (_, _, after) in zip(
        laboratory(table, h), laboratory(table, rotated), strict=True
    ):
        sign = -1.0 if improper and pseudo else 1.0  # natural parity is in wigner_d already
        d = sign * torch.from_numpy(wigner_d(l, rotation))
        assert torch.allclose(after, d @ before, atol=1e-12)


PAIRS = [t for t in TYPES if not t.on_site]


def in_frame(t, block, direction):
    table, h = irreps_of(t, block)
    rotations = EdgeFrame(7)(torch.from_numpy(direction)[None])
    y = into_frame(table, h[None], rotations)
    back = out_of_frame(table, y, rotations)
    assert torch.allclose(back[0], h, atol=1e-13)
    return table, y[0]


@SPINORS
@pytest.mark.parametrize("improper", [False, True])
@pytest.mark.parametrize("t", PAIRS, ids=lambda t: t.key)
def test_in_the_frame_only_a_turn_about_the_pair_is_left(t, improper, spinor, rng):
    """m = 0 is invariant (odd ones up to the mirror); so is the length of the two rows of m > 0."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    rotation = random_rotation(rng, improper=improper)
    block = random_block(t, rng, spinor)
    table, one = in_frame(t, block, direction)
    _, two = in_frame(t, turn(t, block, rotation), rotation @ direction)
    for c in table.classes:
        before, after = (y[c.columns].view(c.n_components, -1) for y in (one, two))
        if c.order == 0:
            sign = -1 if improper and c.pseudo else 1
            assert torch.allclose(after, sign * before, atol=1e-12)
        else:
            assert torch.allclose(after.norm(dim=0), before.norm(dim=0), atol=1e-12)
            # all irreps of the class turn by the same angle: their inner products stay
            assert torch.allclose(after.T @ after, before.T @ before, atol=1e-11)


@SPINORS
@pytest.mark.parametrize("t", [BlockType.pair((1, 1)), BlockType.pair((6, 6))], ids=["H", "C"])
def test_exchange_of_equal_atoms(t, spinor, rng):
    """From the frame of (i, j) to that of (j, i) components take the sign of their class."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    block = random_block(t, rng, spinor)
    table, one = in_frame(t, block, direction)
    _, h = irreps_of(t, transposed(block))
    mirrored = [
        d * torch.tensor([(-1.0) ** (l + m) for m in range(-l, l + 1)]).double()[:, None]
        for l, d in enumerate(EdgeFrame(7)(torch.from_numpy(direction)[None]))
    ]
    parity = torch.tensor([1 - 2 * table.irreps[k].pseudo for k in table.irrep_of_column])
    two = into_frame(table, h[None], mirrored)[0] * parity
    for c in table.classes:
        assert torch.allclose(two[c.columns], c.exchange * one[c.columns], atol=1e-13)


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
        squares = torch.cat([part.square().sum(dim=0) for _, _, part in laboratory(table, h)])
        for irrep, value in zip(table.irreps, squares.tolist(), strict=True):
            traces[irrep.a, irrep.b] += value
        expected = [
            [np.square(block[i0:i1, j0:j1]).sum() for j0, j1 in itertools.pairwise(starts_j)]
            for i0, i1 in itertools.pairwise(starts_i)
        ]
        assert np.abs(traces - expected).max() < 1e-10


def test_coupling_changes_phase_with_the_order_of_its_shells():
    for l1, l2, l in [(0, 1, 1), (1, 2, 1), (1, 2, 2), (2, 3, 4), (1, 1, 1)]:
        sign = (-1) ** (l1 + l2 + l)
        assert torch.equal(coupling(l2, l1, l).transpose(0, 1), sign * coupling(l1, l2, l))
