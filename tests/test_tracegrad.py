"""TraceGrad: the closed form is the gradient; z is invariant and v equivariant."""

import pytest
import torch

from hamnet.nn.tracegrad import (
    InvariantEncoder,
    TraceGrad,
    join_node,
    join_pair,
    node_groups,
    pair_groups,
    split_node,
    split_pair,
)
from hamnet.testing import random_rotation, wigner_d

L_MAX, CHANNELS = 3, (3, 2)
KINDS = {
    "nodes": (node_groups, lambda x: split_node(x, L_MAX, CHANNELS)),
    "pairs": (pair_groups, lambda x: split_pair(x, x.flip(0), L_MAX, CHANNELS)),
}


def encoder_and_features(kind, seed=0):
    torch.manual_seed(seed)
    make, split = KINDS[kind]
    encoder = InvariantEncoder(make(L_MAX, CHANNELS), rank=4, hidden=7, n_invariants=5).double()
    for p in encoder.parameters():
        torch.nn.init.normal_(p)
    x = torch.randn(6, (L_MAX + 1) ** 2, sum(CHANNELS), dtype=torch.float64)
    return encoder, split(x)


def plain_invariants(encoder, features):
    """The definition, for autograd."""
    q = [
        ((f @ a) * (f @ b)).sum(dim=1) / g.n_components**0.5
        for f, a, b, g in zip(features, encoder.left, encoder.right, encoder.groups, strict=True)
    ]
    q += [(features[int(k)] @ a)[:, 0] for k, a in encoder.linear.items()]
    a = encoder.W1(torch.cat(q, dim=1))
    h = torch.nn.functional.layer_norm(a, a.shape[1:], encoder.gamma, encoder.beta, eps=encoder.eps)
    return torch.nn.functional.silu(h) @ encoder.W2


@pytest.mark.parametrize("kind", KINDS)
def test_closed_form_is_autograd(kind):
    """For z, v, and the gradient of a loss on both with respect to every parameter."""
    encoder, features = encoder_and_features(kind)
    leaves = [f.clone().requires_grad_() for f in features]
    z, v = encoder(leaves)
    z_plain = plain_invariants(encoder, leaves)
    v_plain = torch.autograd.grad((z_plain @ encoder.cotangent).sum(), leaves, create_graph=True)
    assert torch.allclose(z, z_plain, atol=1e-10, rtol=1e-10)
    for one, two in zip(v, v_plain, strict=True):
        assert torch.allclose(one, two, atol=1e-10, rtol=1e-10)
    parameters = list(encoder.parameters())
    weights = [torch.randn_like(x) for x in (z, *v)]
    losses = [
        sum((a * w).sum() for a, w in zip((z_, *v_), weights, strict=True))
        for z_, v_ in ((z, v), (z_plain, v_plain))
    ]
    found, expected = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses)
    for one, two in zip(found, expected, strict=True):
        scale = max(1.0, float(two.abs().max()))
        assert (one - two).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("improper", [False, True])
def test_nodes_are_invariant_and_equivariant(improper, rng):
    encoder, features = encoder_and_features("nodes")
    rotation = random_rotation(rng, improper=improper)
    turned, matrices = [], []
    for k, f in enumerate(features):
        l, pseudo = k % (L_MAX + 1), k > L_MAX
        d = torch.from_numpy(wigner_d(l, rotation)) * (-1 if improper and pseudo else 1)
        matrices.append(d)
        turned.append(d @ f)
    (z, v), (z_turned, v_turned) = encoder(features), encoder(turned)
    assert torch.allclose(z, z_turned, atol=1e-10)
    for d, one, two in zip(matrices, v, v_turned, strict=True):
        assert torch.allclose(d @ one, two, atol=1e-10)


def test_exchange_of_the_atoms_changes_the_sign_of_minus_only():
    encoder, features = encoder_and_features("pairs")
    half = len(features) // 2
    exchanged = [*features[:half], *(-f for f in features[half:])]
    (z, v), (z_exchanged, v_exchanged) = encoder(features), encoder(exchanged)
    assert torch.allclose(z, z_exchanged, atol=1e-12)
    for k, (one, two) in enumerate(zip(v, v_exchanged, strict=True)):
        assert torch.allclose(one if k < half else -one, two, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gain_zero_changes_nothing_and_inference_needs_no_autograd(kind):
    make, _ = KINDS[kind]
    _, features = encoder_and_features(kind)
    layer = TraceGrad(make(L_MAX, CHANNELS), rank=4, hidden=7, n_invariants=5).double()
    with torch.inference_mode():
        _, out = layer(features)
    assert all(torch.equal(a, b) for a, b in zip(features, out, strict=True))
    for gain in layer.gain:
        torch.nn.init.ones_(gain)
    _, out = layer(features)
    added = torch.cat([(a - b).flatten(1) for a, b in zip(out, features, strict=True)], dim=1)
    rms = added.square().mean(dim=1).sqrt()
    assert torch.allclose(rms, torch.ones_like(rms), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_supervision_alone_leaves_the_features_as_they_are(kind):
    make, _ = KINDS[kind]
    _, features = encoder_and_features(kind)
    sizes = {"rank": 4, "hidden": 7, "n_invariants": 5}
    both = TraceGrad(make(L_MAX, CHANNELS), **sizes).double()
    alone = TraceGrad(make(L_MAX, CHANNELS), **sizes, induce=False).double()
    alone.encoder.load_state_dict(both.encoder.state_dict())
    z, out = alone(features)
    assert torch.equal(z, both(features)[0])
    assert all(torch.equal(a, b) for a, b in zip(features, out, strict=True))


@pytest.mark.parametrize("channels", [(3, 2), (3, 0)])
def test_split_and_join_are_inverse(channels):
    x = torch.randn(5, (L_MAX + 1) ** 2, sum(channels))
    assert torch.equal(join_node(split_node(x, L_MAX, channels), L_MAX), x)
    y = torch.randn_like(x)
    joined = join_pair(split_pair(x, y, L_MAX, channels), L_MAX, channels)
    assert all(torch.equal(one, two) for one, two in zip(joined, (x, y), strict=True))
