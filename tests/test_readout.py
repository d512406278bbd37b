"""The solved readout: an optimum, and the errors by which its penalties are chosen."""

import pytest
import torch

from hamnet.data.samples import batch_samples
from hamnet.data.store import Store
from hamnet.training.config import load_config
from hamnet.training.readout import (
    DEFAULT_LAMBDA,
    LAMBDAS,
    LAYER_FACTORS,
    NormalEquations,
    _Eigenproblem,
    accumulate,
    readout_weights,
    solve_readout,
    spectrum,
)
from hamnet.training.setup import choose_split, set_up
from tests.synthetic import SMALL


@pytest.fixture
def start(store):
    """A model in float64 with random features and weights, and its training samples."""
    config = load_config(overrides=[*SMALL, "training.precision=float64"])
    with Store.open(store) as data:
        setup = set_up(data, choose_split(data, config), config, lambda _: None)
        samples = [setup.train[k] for k in range(8)]
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in setup.model.network.readout.parameters():
            parameter.normal_(std=0.01)
    return setup.model, samples


def test_layers_are_those_of_the_inputs(start):
    """Inputs scaled layer by layer are the design of features scaled layer by layer."""
    model, samples = start
    sample = samples[0]
    readout, graph = model.network.readout, sample.graph
    frames = model.frames(graph)
    features, _ = model.network.features(graph, frames, sample.density)
    for parts in (features.nodes, features.plus, features.minus):
        for k, x in enumerate(parts):
            x.mul_(1 + k)
    ones = {
        name: x
        for _, _, name, x in readout.inputs(
            model.network.features(graph, frames, sample.density)[0], graph
        )
    }
    for t, c, name, x in readout.inputs(features, graph):
        layer = readout.layers(t, c)[: x.shape[2]]
        assert len(readout.layers(t, c)) == len(readout_weights(readout, name))
        assert torch.equal(x, ones[name] * (1 + layer))


def test_solution_is_the_least_squares_optimum(start):
    """At the solution the gradients of squared error and ridge cancel."""
    model, samples = start
    batch = batch_samples(samples)
    readout = model.network.readout
    before = accumulate(model, [batch])
    weights = {name: readout_weights(readout, name).detach().clone() for name in before}
    solve_readout(model, [batch], [])
    after = accumulate(model, [batch])
    for name, equations in after.items():
        assert equations.square.sum() < before[name].square.sum()
        sizes = equations.gram.diagonal().sqrt()
        ridge = (DEFAULT_LAMBDA * sizes.mean() * sizes)[:, None]
        expected = ridge * (readout_weights(readout, name) - weights[name])
        scale = before[name].moment.abs().max()
        assert (equations.moment - expected).abs().max() < 1e-8 * scale


def test_normal_equations_give_the_error_of_new_weights(start):
    """Predicted squared error = squared error after the weights are really changed."""
    model, samples = start
    batch = batch_samples(samples)
    before = accumulate(model, [batch])
    for name, equations in before.items():
        change = 0.1 * torch.randn_like(equations.moment)
        expected = equations.error(change)
        weights, biases = model.network.readout.weights, model.network.readout.biases
        with torch.no_grad():
            weights[name] += change[: len(weights[name])]
            if name in biases:
                biases[name] += change[-1]
        found = accumulate(model, [batch])[name].square
        assert torch.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("n_rows", [1, 5, 20])
@pytest.mark.parametrize("q", LAYER_FACTORS)
def test_left_out_rows_have_the_error_of_a_solution_without_them(n_rows, q):
    """Fewer rows than inputs, and more; every lambda."""
    torch.manual_seed(1)
    x, r = torch.randn(60, 10, dtype=torch.float64), torch.randn(60, 3, dtype=torch.float64)
    x *= torch.logspace(0, -2, 10)
    layer = torch.arange(10) % 3
    equations = NormalEquations.empty(x.new_zeros(10, 3))
    equations.add(x, r)
    problem = _Eigenproblem(equations, layer, q)
    some, others = slice(0, n_rows), slice(n_rows, None)
    errors = problem.left_out(x[some], r[some])
    sizes = equations.gram.diagonal().sqrt() * q**layer
    tau = (equations.gram.diagonal() / sizes).mean()
    for ridge, error in zip(LAMBDAS, errors, strict=True):
        gram = x[others].T @ x[others] + torch.diag(ridge * tau * sizes)
        weights = torch.linalg.solve(gram, x[others].T @ r[others])
        expected = (r[some] - x[some] @ weights).square().sum()
        assert float(error) == pytest.approx(float(expected), rel=1e-8)


def test_penalties_are_those_with_the_smallest_error(start):
    """On validation frames and on training frames left out, by solutions without each of them."""
    model, samples = start
    train, validation = samples[:5], samples[5:]
    folds = [(train, validation)]
    folds += [(train[:k] + train[k + 1 :], [train[k]]) for k in range(len(train))]
    sums = [[accumulate(model, some) for some in fold] for fold in folds]
    for name, solution in solve_readout(model, train, validation, groups=train).items():
        tau = solution.values.sum() / len(solution.unit)

        def error(ridge, name=name, penalty=solution.unit**-2):
            """Squared error on all left out of solutions with the same penalties."""
            changes = [
                torch.linalg.solve(fit[name].gram + torch.diag(ridge * penalty), fit[name].moment)
                for fit, _ in sums
            ]
            return float(
                sum(
                    check[name].error(change).sum()
                    for (_, check), change in zip(sums, changes, strict=True)
                )
            )

        # smaller ones, and classes that symmetry leaves empty, drown in rounding
        errors = [error(ridge * tau) for ridge in LAMBDAS[:10]]
        assert error(solution.ridge) < 1.1 * min(errors) + 1e-18, name


@pytest.mark.parametrize("n_rows", [0, 3, 14, 40])
def test_spectrum_of_few_or_many_rows(n_rows):
    """Whichever way, it is that of the normal matrix; a feature that never occurs has no part."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_rows, 20, dtype=torch.float64, generator=generator)
    x *= torch.logspace(0, -4, 20, dtype=torch.float64)
    x[:, 7] = 0
    gram = x.T @ x
    values, vectors = spectrum(gram)
    rank = min(n_rows, 19)
    assert vectors.shape == (20, rank)
    expected = torch.linalg.eigvalsh(gram)[20 - rank :]
    torch.testing.assert_close(values.sort().values, expected, rtol=1e-6, atol=1e-14)
    torch.testing.assert_close((vectors * values) @ vectors.T, gram, rtol=0, atol=1e-12)
    eye = torch.eye(rank, dtype=torch.float64)
    torch.testing.assert_close(vectors.T @ vectors, eye, rtol=0, atol=1e-10)
    assert not vectors[7].any()
