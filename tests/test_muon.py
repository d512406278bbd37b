"""The optimiser of steps through the solution: against the SVD, and against PyTorch's own."""

import pytest
import torch

from hamnet.training.muon import MOMENTUM, Muon, matrices_and_others, orthogonal


def descend(optimiser, weights, n_steps):
    """Descend a quartic that has a different slope at every step."""
    torch.manual_seed(7)
    for _ in range(n_steps):
        optimiser.zero_grad()
        loss = sum(((w - torch.randn_like(w)) ** 4).sum() for w in weights)
        loss.backward()
        optimiser.step()


def weights_of(*shapes):
    torch.manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (3, 5, 8), (1, 4)])
def test_singular_vectors_stay_and_singular_values_become_one(shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    core = u.mT @ orthogonal(x) @ v.mT
    values = core.diagonal(dim1=-2, dim2=-1)
    assert (core - torch.diag_embed(values)).abs().max() < 1e-10
    assert 0.68 < values.min() <= values.max() < 1.21


def test_a_stack_is_its_matrices_and_size_does_not_matter():
    torch.manual_seed(0)
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    singles = torch.stack([orthogonal(1e3 * one) for one in x])
    assert (orthogonal(x) - singles).abs().max() < 1e-12
    assert orthogonal(torch.zeros(3, 4)).abs().max() == 0
    small = orthogonal(1e-30 * x.float())
    assert (small - orthogonal(x.float())).abs().max() < 1e-5


def test_vectors_move_as_by_adamw():
    mine, torchs = weights_of((5,), (3,)), weights_of((5,), (3,))
    descend(Muon([], mine, 1e-2, 3e-3, 0.1), mine, 20)
    descend(torch.optim.AdamW(torchs, lr=3e-3, weight_decay=0), torchs, 20)
    for a, b in zip(mine, torchs, strict=True):
        assert (a - b).abs().max() < 1e-12


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9")
def test_matrices_move_as_by_pytorchs_muon_up_to_its_bfloat16():
    shapes = ((6, 9), (9, 6))
    start, mine, torchs = weights_of(*shapes), weights_of(*shapes), weights_of(*shapes)
    descend(Muon(mine, [], 1e-2, 3e-3, 0.1), mine, 10)
    theirs = torch.optim.Muon(
        torchs, lr=5e-2, momentum=MOMENTUM, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
    )
    descend(theirs, torchs, 10)
    for a, b, s in zip(mine, torchs, start, strict=True):
        assert (a - s).abs().max() > 1e-2
        assert (a - b).norm() < 0.03 * (a - s).norm()


def test_a_resumed_run_goes_on_as_if_nothing_had_happened():
    shapes = ((2, 4, 6), (4, 4), (5,))
    runs = []
    for interrupted in (False, True):
        weights = weights_of(*shapes)
        optimiser = Muon(weights[:2], weights[2:], 1e-2, 3e-3, 1e-3)
        descend(optimiser, weights, 4)
        if interrupted:
            state = optimiser.state_dict()
            optimiser = Muon(weights[:2], weights[2:], 1e-2, 3e-3, 1e-3)
            optimiser.load_state_dict(state)
        descend(optimiser, weights, 4)
        runs.append(weights)
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_tables_of_elements_are_no_maps_and_what_is_not_trained_is_left_out():
    network = torch.nn.ModuleList([torch.nn.Embedding(3, 4), torch.nn.Linear(4, 5)])
    table, (weight, bias) = network[0].weight, network[1].parameters()
    assert [list(map(id, x)) for x in matrices_and_others(network)] == [
        [id(weight)],
        [id(table), id(bias)],
    ]
    weight.requires_grad_(False)
    assert matrices_and_others(network)[0] == []
