"""Nothing inside a step makes the host wait for the device, or copies constants to it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hamnet.data.samples import batch_samples, record_sample
from hamnet.references import Reference
from hamnet.testing import random_model
from hamnet.training.config import LossConfig
from hamnet.training.loss import compute_loss

aten = torch.ops.aten

WAITS = {
    aten._local_scalar_dense.default: "a number is read back (.item(), bool(), float(), .tolist())",
    aten.nonzero.default: "the size of the result is known to the device alone",
    aten.masked_select.default: "the size of the result is known to the device alone",
    aten.unique_dim.default: "the size of the result is known to the device alone",
    aten._unique2.default: "the size of the result is known to the device alone",
    aten.is_nonzero.default: "a number is read back",
    aten.equal.default: "a number is read back",
    aten.lift_fresh.default: "a constant of the host is copied",
}
"""Operations after or for which a GPU has to be waited for."""


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in WAITS, f"{func}: {WAITS[func]}"
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            masks = [x for x in args[1] if x is not None and x.dtype == torch.bool]
            assert not masks, f"{func}: the size of a mask's result is known to the device alone"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tracegrad", ["both", "none"])
def test_forward_and_backward_wait_for_nothing(water_records, tracegrad):
    model = random_model("def2-svp", [1, 8], tracegrad=tracegrad)
    samples = [
        record_sample(r, model.basis, model.cutoffs, Reference("minao")) for r in water_records
    ]
    batch = model.with_goals(batch_samples(samples))
    optimiser = torch.optim.AdamW(model.network.parameters(), foreach=True)
    with NoWaiting():
        loss = compute_loss(model, batch, LossConfig())
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
    optimiser.step()
    assert loss.value.isfinite()
    assert all(p.grad is not None for p in model.network.message_layers.parameters())


def test_prediction_waits_for_nothing_before_its_entries(water_records):
    model = random_model("def2-svp", [1, 8])
    samples = [
        record_sample(r, model.basis, model.cutoffs, Reference("minao")) for r in water_records
    ]
    batch = batch_samples(samples)
    with torch.inference_mode():
        model(batch)  # constants are made once
        with NoWaiting():
            entries = model(batch)
    assert entries.isfinite().all()


def test_the_mode_sees_what_it_is_for():
    x = torch.arange(3.0)
    for call in (lambda: x.sum().item(), lambda: x[x > 0], lambda: torch.tensor([1.0, 2.0])):
        with pytest.raises(AssertionError, match="aten"), NoWaiting():
            call()
