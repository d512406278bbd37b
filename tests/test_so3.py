"""The edge frame, and SO(2) convolution = tensor product."""

import math

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.special import lpmv

from hamnet.nn.frames import EdgeRows, PairFrames
from hamnet.nn.so2 import EdgeGate, RadialWeights, SO2Linear
from hamnet.so3.layout import SO2Layout
from hamnet.so3.rotation import EdgeFrame, real_harmonics
from hamnet.testing import wigner_d

L_MAX = 3
POLES = [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]


def directions() -> torch.Tensor:
    torch.manual_seed(0)
    r = torch.randn(30, 3, dtype=torch.float64)
    near = torch.tensor(POLES, dtype=torch.float64) + torch.tensor([1e-6, -1e-6, 0])
    special = torch.tensor([*POLES, [1.0, 0, 0], [0, -1.0, 0]], dtype=torch.float64)
    r = torch.cat([r, near, special])
    return r / r.norm(dim=1, keepdim=True)


def test_real_harmonics_are_those_of_scipy():
    """To degree 16, of which e3nn has 12: no Condon-Shortley sign, 'component' normalisation."""
    degrees, r = list(range(17)), directions()[:30]  # near the poles scipy loses digits of sin
    z, phi = r[:, 2].numpy(), torch.atan2(r[:, 1], r[:, 0]).numpy()
    expected = []
    for l in degrees:
        for m in range(-l, l + 1):
            k = abs(m)
            norm = (2 * l + 1) * (2 if m else 1) * math.factorial(l - k) / math.factorial(l + k)
            turn = np.sin(k * phi) if m < 0 else np.cos(k * phi)
            expected.append((-1) ** k * math.sqrt(norm) * lpmv(k, l, z) * turn)
    found = real_harmonics(degrees, r).numpy()
    assert np.abs(found - np.stack(expected, axis=1)).max() < 1e-10


@pytest.mark.parametrize("l_max", [1, 4, 5, 7, 8])
def test_edge_frame_takes_the_edge_to_the_pole(l_max):
    r = directions()
    frame = EdgeFrame(l_max)
    for l, d in enumerate(frame(r)):
        eye = torch.eye(2 * l + 1, dtype=torch.float64)
        assert torch.allclose(d @ d.mT, eye.expand_as(d), atol=1e-12)
        rotated = (d @ real_harmonics([l], r)[..., None])[..., 0]
        pole = math.sqrt(2 * l + 1) * eye[l]
        assert torch.allclose(rotated, pole.expand(len(r), -1), atol=1e-12)


def test_edge_frame_is_a_proper_rotation():
    r = directions()
    _, d1, d2 = EdgeFrame(2)(r)  # rows of d1: y, z, x
    assert torch.allclose(torch.linalg.det(d1), torch.ones(len(r), dtype=torch.float64))
    for k in range(len(r)):  # the l = 2 block is that of the same rotation
        rotation = d1[k][[2, 0, 1]][:, [2, 0, 1]].numpy()
        expected = torch.from_numpy(wigner_d(2, rotation))
        assert torch.allclose(d2[k], expected, atol=1e-10)


def test_mirrored_frame_is_the_frame_of_the_reversed_edge():
    """`PairFrames` uses that for both directions of a pair."""
    r = directions()
    for l, d in enumerate(EdgeFrame(3)(r)):
        mirror = torch.tensor([(-1.0) ** (l + m) for m in range(-l, l + 1)]).double()
        turned = mirror * (d @ real_harmonics([l], -r)[..., None])[..., 0]
        assert (turned[:, l] > 0).all()
        turned[:, l] = 0
        assert turned.abs().max() < 1e-12


@pytest.mark.parametrize("pole", POLES)
@pytest.mark.parametrize("offset", [0.0, 1e-6])
def test_value_and_two_derivatives_at_the_poles(pole, offset):
    """A message through the frame is smooth there: compared with e3nn's tensor product."""
    layer, product, weights = so2_and_tensor_product()
    torch.manual_seed(1)
    x = torch.randn(1, 16, 2, dtype=torch.float64)
    probe = torch.randn(1, 16, 2, dtype=torch.float64)
    frame = EdgeFrame(L_MAX)
    r0 = torch.tensor(pole, dtype=torch.float64) + torch.tensor([offset, -offset, 0])

    def by_frame(r):
        return (through_frame(layer, frame, x, (r / r.norm())[None]) * probe).sum()

    def by_product(r):
        return (through_product(product, weights, x, (r / r.norm())[None]) * probe).sum()

    assert torch.allclose(by_frame(r0), by_product(r0), atol=1e-10)
    gradients = [torch.autograd.functional.jacobian(f, r0) for f in (by_frame, by_product)]
    assert torch.allclose(*gradients, atol=1e-10)
    hessians = [torch.autograd.functional.hessian(f, r0) for f in (by_frame, by_product)]
    assert torch.allclose(*hessians, atol=1e-9)


def test_so2_convolution_is_the_full_tensor_product():
    """All O(3)-allowed paths for l <= 3, natural and pseudo, filters to l = 6."""
    layer, product, weights = so2_and_tensor_product()
    torch.manual_seed(2)
    r = directions()
    x = torch.randn(len(r), 16, 2, dtype=torch.float64)
    found = through_frame(layer, EdgeFrame(L_MAX), x, r)
    expected = through_product(product, weights, x, r)
    assert torch.allclose(found, expected, atol=1e-10)


def test_radial_factors_and_their_gradients():
    """Rows times one factor for each degree, |m| and channel; gradients by finite differences."""
    torch.manual_seed(3)
    channels, layout = (3, 2), SO2Layout(2)
    weights = RadialWeights(2, channels, 4, 5).double()
    sign = EdgeRows(2, channels).double().other_sign
    x = torch.randn(4, layout.n_rows, 5, dtype=torch.float64, requires_grad=True)
    invariants = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)

    def weighted(x, invariants):
        return weights(x, invariants, weights.filters(sign))

    pairs = [(m, l) for m in range(3) for l in range(m, 3)]
    order = [(m, l) for m in range(3) for _ in range(2 if m else 1) for l in range(m, 3)]
    factors = weights.last(weights.network(invariants)).view(4, len(pairs), 5)
    plain = x * factors[:, [pairs.index(row) for row in order]] * sign
    assert torch.allclose(weighted(x, invariants), plain, atol=1e-12)
    assert torch.autograd.gradcheck(weighted, (x, invariants))
    probe = torch.randn_like(plain)
    parameters = list(weights.parameters())
    found = torch.autograd.grad((weighted(x, invariants) * probe).sum(), parameters)
    expected = torch.autograd.grad((plain * probe).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def so2_and_tensor_product():
    """Return an SO2Linear and the e3nn product of which it is the edge-frame form."""
    features = o3.Irreps([(1, (l, (-1) ** l * s)) for s in (1, -1) for l in range(L_MAX + 1)])
    filters = o3.Irreps.spherical_harmonics(2 * L_MAX)
    paths = [
        (i, f, o, "uvw", True)
        for i, (_, a) in enumerate(features)
        for f, (_, b) in enumerate(filters)
        for o, (_, c) in enumerate(features)
        if c in a * b
    ]
    product = o3.TensorProduct(
        features, filters, features, paths,
        irrep_normalization="none", path_normalization="none",
        internal_weights=False, shared_weights=True,
    ).double()  # fmt: skip
    torch.manual_seed(0)
    weights = torch.randn(len(paths), dtype=torch.float64)
    layer = SO2Linear(L_MAX, (1, 1), (1, 1)).double()
    torch.nn.init.zeros_(layer.natural.bias)
    dense = dense_in_edge_frame(product, paths, weights)
    layout, n = SO2Layout(L_MAX), L_MAX + 1
    natural, pseudo = layout.rows(pseudo=False), layout.rows(pseudo=True)
    rows = [[*natural[0]], [16 + k for k in pseudo[0]]]
    signs = torch.stack([natural[1], pseudo[1]])

    def block(own, other):  # (row of the layout, parity) for inputs and outputs
        i = [rows[p][k] for k, p in own]
        o = [rows[p][k] for k, p in other]
        s = torch.stack([signs[p, k] for k, p in own])
        t = torch.stack([signs[p, k] for k, p in other])
        return dense[i][:, o] * s[:, None] * t

    with torch.no_grad():
        zero = [[(k, p) for k in range(n)] for p in (0, 1)]
        layer.natural.weight.copy_(block(zero[0], zero[0]).T)
        layer.pseudo.copy_(block(zero[1], zero[1]))
        start = n
        for m, weight in enumerate(layer.weights, start=1):
            degrees = n - m
            even = [(start + k, p) for k in range(degrees) for p in (0, 1)]
            odd = [(start + degrees + k, p) for k in range(degrees) for p in (0, 1)]
            assert torch.allclose(block(even, even), block(odd, odd), atol=1e-12)
            assert block(even, odd).abs().max() < 1e-12
            weight.copy_(block(even, even))
            start += 2 * degrees
    return layer, product, weights


def dense_in_edge_frame(product, paths, weights):
    """Return the matrix of the product with the harmonics of the pole, ``(32, 32)``."""
    pole = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    y = real_harmonics(list(range(2 * L_MAX + 1)), pole)
    return product(torch.eye(32, dtype=torch.float64), y.expand(32, -1), weights)


def through_product(product, weights, x, r):
    y = real_harmonics(list(range(2 * L_MAX + 1)), r)
    out = product(torch.cat([x[..., 0], x[..., 1]], dim=1), y, weights)
    return torch.stack(out.chunk(2, dim=1), dim=2)


def through_frame(layer, frame, x, r):
    """The convolution's path in the network: rotate, reorder, map, and back."""
    frames = PairFrames(frame(r), torch.zeros(2, len(r), dtype=torch.int64), r.norm(dim=1))
    rows = EdgeRows(L_MAX, (1, 1)).double()
    y, _ = layer(rows.gather(x, torch.arange(len(r)), frames) * rows.own_sign)
    return rows.back(y * rows.own_sign, frames)


def test_gate_commutes_with_turns_and_mirrors_of_the_edge_and_exchange_of_its_ends():
    torch.manual_seed(0)
    layout, channels = SO2Layout(L_MAX), (3, 2)
    gate = EdgeGate(L_MAX, channels)
    x = torch.randn(2, 4, 16, 5, dtype=torch.float64)
    gates = torch.randn(4, gate.n_gates, dtype=torch.float64)
    turn = torch.from_numpy(rotation_about_pole(layout, 0.7))
    odd = torch.ones(16, 1, dtype=torch.float64)  # a mirror changes the sign of the odd rows
    start = L_MAX + 1
    for n in layout.degrees[1:]:
        odd[start + n : start + 2 * n] = -1
        start += 2 * n
    mirror = torch.cat([odd.expand(-1, 3), odd.expand(-1, 2).clone()], dim=1)
    mirror[: L_MAX + 1, 3:] = -1  # pseudo m = 0 is odd
    exchange = torch.tensor([1.0, -1.0]).double()[:, None, None, None]
    before = torch.stack(gate(*x, gates))
    for act in (lambda y: turn @ y, lambda y: mirror * y, lambda y: exchange * y):
        assert torch.allclose(torch.stack(gate(*act(x), gates)), act(before), atol=1e-12)


def rotation_about_pole(layout, angle):
    c, s = np.cos(angle), np.sin(angle)
    out = np.eye(layout.n_rows)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    full = np.zeros_like(out)
    for l in range(layout.l_max + 1):
        full[l * l : (l + 1) ** 2, l * l : (l + 1) ** 2] = wigner_d(l, rotation)
    rows, _ = layout.rows(pseudo=False)
    return full[np.ix_(rows, rows)]
