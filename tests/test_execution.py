"""Compiled, checkpointed and plain layers are one function; reduced precision is measured."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from hamnet.data.samples import Sample, batch_samples, make_sample
from hamnet.errors import HamnetError
from hamnet.integrals import overlap
from hamnet.models import HamiltonianModel
from hamnet.nn.execution import Execution
from hamnet.structure import Structure
from hamnet.testing import random_model
from hamnet.training.batches import Share
from hamnet.training.config import LossConfig, load_config
from hamnet.training.loss import compute_loss
from hamnet.training.module import TrainingModule
from hamnet.training.precision import GRADIENT_TOLERANCE, check_precision

WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])


@pytest.fixture(scope="module")
def samples() -> tuple[HamiltonianModel, list[Sample]]:
    """A model of the smallest basis, and waters with random targets."""
    model = random_model("sto-3g", [1, 8], layers=2, pair_layers=3)
    rng = np.random.default_rng(0)
    made = []
    for _ in range(4):
        structure = Structure(np.array([8, 1, 1]), WATER + 0.05 * rng.standard_normal((3, 3)))
        layout = overlap(structure, model.basis).layout
        target = torch.from_numpy(rng.standard_normal(layout.boundaries[-1]))
        sample = make_sample(structure, layout, model.basis, model.cutoffs, target)
        made.append(model.with_goals(sample))
    return model, made


def step(
    model: HamiltonianModel, sample: Sample, execution: Execution
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss and the gradient of every parameter."""
    model.network.execution = execution
    model.zero_grad()
    loss = compute_loss(model, sample, LossConfig()).total
    loss.backward()
    model.network.execution = Execution()
    named = model.network.named_parameters()
    return loss.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


def assert_same(model: HamiltonianModel, sample: Sample, execution: Execution) -> None:
    loss, gradients = step(model, sample, Execution())
    other_loss, other_gradients = step(model, sample, execution)
    assert torch.allclose(other_loss, loss, rtol=1e-10, atol=0)
    assert other_gradients.keys() == gradients.keys()
    scale = max(float(g.abs().max()) for g in gradients.values())
    for name, gradient in gradients.items():
        assert (other_gradients[name] - gradient).abs().max() <= 1e-10 * scale, name


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_convolutions_are_compiled_and_equal(samples):
    """One graph for all layers and all numbers of pairs."""
    model, made = samples
    torch._dynamo.reset()
    counters.clear()
    for sizes in (slice(0, 2), slice(0, 3), slice(1, 4)):
        assert_same(model, batch_samples(made[sizes]), Execution(compiled=True))
    assert counters["stats"]["unique_graphs"] == counters["aot_autograd"]["ok"] == 1
    assert not counters["graph_break"]


def _inputs(model, sample):
    return sample.graph, model.frames(sample.graph), sample.density


def test_checkpointed_layers_are_equal_and_keep_less(samples):
    model, made = samples
    batch = batch_samples(made)
    assert_same(model, batch, Execution(checkpoint=True))
    assert _kept(model, batch, Execution(checkpoint=True)) < 0.6 * _kept(model, batch, Execution())


def _kept(model: HamiltonianModel, batch: Sample, execution: Execution) -> int:
    """Return the bytes that a forward pass keeps for the way back."""
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    model.network.execution = execution
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model.network(*_inputs(model, batch))
    model.network.execution = Execution()
    return sum(kept.values())


class Products(TorchDispatchMode):
    """Note in which precision matrix products run, rotations and others."""

    def __init__(self):
        super().__init__()
        self.found = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.found.add(("weights", args[-1].dtype, torch.get_float32_matmul_precision()))
        degrees = [(n, n) for n in (1, 3, 5)]  # l = 0, 1, 2
        if func == torch.ops.aten.bmm.default and args[0].shape[1:] in degrees:
            self.found.add(("rotation", args[0].dtype, torch.get_float32_matmul_precision()))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_rotations_stay_in_full_precision(samples, precision):
    """Only products with weights are reduced, forward and backward; afterwards none is."""
    model, made = samples
    config = load_config(overrides=[f"training.matmul_precision={precision}"])
    model.network.float()
    module = TrainingModule(model, config, 1.0)
    model.network.execution = Execution(bf16=precision == "bf16")
    with Products() as products:
        module.training_step(Share(batch_samples(made)), 0).backward()
    module.on_after_backward()
    model.network.execution = Execution()
    model.network.double()
    rotations = {x[1:] for x in products.found if x[0] == "rotation"}
    assert rotations == {(torch.float32, "highest")}
    reduced = {"bf16": (torch.bfloat16, "highest"), "tf32": (torch.float32, "high")}[precision]
    assert reduced in {x[1:] for x in products.found if x[0] == "weights"}
    assert torch.get_float32_matmul_precision() == "highest"


def test_bf16_is_allowed_where_gradients_agree(samples, monkeypatch):
    model, made = samples
    config = load_config(overrides=["training.matmul_precision=bf16"])
    model.network.float()
    try:
        batch = Share(batch_samples(made))
        deviation = check_precision(model, batch, config)
        assert 1e-4 < deviation < GRADIENT_TOLERANCE
        monkeypatch.setattr("hamnet.training.precision.GRADIENT_TOLERANCE", deviation / 2)
        with pytest.raises(HamnetError, match="bf16 is refused: the gradient"):
            check_precision(model, batch, config)
        if not torch.cuda.is_available():
            tf32 = load_config(overrides=["training.matmul_precision=tf32"])
            with pytest.raises(HamnetError, match="needs a GPU"):
                check_precision(model, batch, tf32)
    finally:
        model.network.double()


def test_precisions_that_do_not_fit_are_refused():
    for more in ("training.precision=float64", "training.compile=true"):
        with pytest.raises(HamnetError, match="training"):
            load_config(overrides=["training.matmul_precision=tf32", more])
