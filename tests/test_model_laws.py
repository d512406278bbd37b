"""Every model obeys the laws of a Hamiltonian."""

import numpy as np
import pytest
import torch

from hamnet.blocks import to_dense
from hamnet.graph import build_graph
from hamnet.models import HamiltonianModel
from hamnet.models.model import MODELS
from hamnet.nn.radial import Decay
from hamnet.structure import Structure
from hamnet.testing import (
    check_batch,
    check_hermitian,
    check_permutation,
    check_rotation,
    check_translation,
    moved,
    predict_matrix,
    random_model,
    random_rotation,
    rotate_orbitals,
)

SETTINGS = {name: {"name": name} for name in MODELS}
SETTINGS |= {
    "no tracegrad": {"tracegrad": "none"},
    "no induced features": {"tracegrad_features": False},
    "no pseudo channels": {"pseudo_channels": 0},
    "no messages": {"layers": 0, "pair_layers": 1},
    "larger l_max": {"l_max": 5},
    "density": {"density_weight": 0.2},
}
CUTOFFS = {"message_cutoff": 3.0, "pair_cutoff": 4.0}


def molecules() -> list[Structure]:
    rng = np.random.default_rng(3)
    formaldehyde = np.array([[0, 0, 0], [0, 0, 1.2], [0.94, 0, -0.54], [-0.94, 0, -0.54]])
    peroxide = np.array([[0, 0.72, 0], [0, -0.72, 0], [0.8, 0.9, 0.4], [-0.8, -0.9, 0.4]])
    return [
        Structure(np.array([6, 8, 1, 1]), formaldehyde + 0.05 * rng.normal(size=(4, 3))),
        Structure(np.array([8, 8, 1, 1]), peroxide + 0.05 * rng.normal(size=(4, 3))),
        Structure(np.array([8]), np.zeros((1, 3))),
    ]


def make_model(**settings) -> HamiltonianModel:
    return random_model("def2-svp", (1, 6, 8), **{**CUTOFFS, **settings})


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS)
def model(request) -> HamiltonianModel:
    return make_model(**request.param)


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "improper"])
def test_rotation_and_inversion(model, improper):
    for structure in molecules():
        check_rotation(model, structure, improper=improper)


def test_translation(model):
    for structure in molecules():
        check_translation(model, structure)


def test_permutation(model):
    for structure in molecules():
        check_permutation(model, structure)


def test_hermiticity(model):
    for structure in molecules():
        check_hermitian(model, structure)


def test_batch_of_different_molecules_equals_singles(model):
    check_batch(model, molecules())


def test_predictions_are_not_trivial(model):
    """The laws above hold for a constant too; this one does not."""
    structure = molecules()[0]
    matrix = predict_matrix(model, structure)
    moved_atom = structure.positions + np.eye(4, 3)
    change = predict_matrix(model, moved(structure, moved_atom)) - matrix
    assert np.abs(change).max() > 1e-3
    for a, b in ((0, 1), (0, 2), (2, 3)):  # on every pair
        offsets = model.basis.atom_offsets(structure.numbers)
        block = matrix[offsets[a] : offsets[a + 1], offsets[b] : offsets[b + 1]]
        assert np.abs(block).max() > 1e-3


@pytest.mark.parametrize("cutoff", [3.0, 4.0], ids=["message", "pair"])
def test_smooth_at_the_cutoff(cutoff):
    """An atom that crosses the cutoff changes H by O(step^3): two derivatives vanish there."""
    model = make_model()
    numbers = np.array([6, 8, 1])

    def matrix(distance):
        return predict_matrix(
            model, Structure(numbers, np.array([[0, 0, 0], [0, 1.3, 0], [0, 0, distance]]))
        )

    for step in (1e-3, 1e-4):
        inside, at, outside = (matrix(cutoff + k * step) for k in (-1, 0, 1))
        second = np.abs(inside - 2 * at + outside).max() / step**2
        slope = [np.abs(x - at).max() / step for x in (inside, outside)]
        # with a kink, slopes would differ by a finite amount and the second difference diverge
        assert second < 50
        assert abs(slope[0] - slope[1]) < 50 * step


def test_pairs_beyond_the_cutoff_are_zero():
    model = make_model()
    far = Structure(np.array([6, 8]), np.array([[0, 0, 0], [0, 0, 4.001]]))
    assert np.abs(predict_matrix(model, far)[:14, 14:]).max() == 0


def test_predicted_label_invariants_do_not_rotate(rng):
    model, structure = make_model(), molecules()[0]
    turned = moved(structure, structure.positions @ random_rotation(rng, improper=True).T)

    def traces(s):
        graph = build_graph(s, *model.cutoffs)
        return model.network(graph, model.frames(graph), {}, traces=True).traces

    one, two = traces(structure), traces(turned)
    assert one
    for t, predicted in one.items():
        assert torch.allclose(predicted, two[t], atol=1e-10)


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_tracegrad_is_left_out_only_where_it_changes_nothing(gain):
    model, calls = make_model(), []
    layers = (model.network.node_tracegrad, model.network.pair_tracegrad)
    for layer in layers:
        layer.register_forward_hook(lambda *_: calls.append(1))
        for parameter in layer.gain:
            torch.nn.init.constant_(parameter, gain)

    def features() -> list[torch.Tensor]:
        graph = build_graph(molecules()[0], *model.cutoffs)
        found, _ = model.network.features(graph, model.frames(graph), {})
        return [*found.nodes, *found.plus, *found.minus]

    whole = features()  # gradients may be wanted
    assert len(calls) == 2
    with torch.inference_mode():
        found = features()
    assert len(calls) == (4 if gain else 2)
    assert all(torch.equal(a, b) for a, b in zip(whole, found, strict=True))


def test_blocks_fall_with_the_distance_as_the_labels_do():
    r = torch.linspace(0.7, 6.0, 400, dtype=torch.float64)
    size = torch.exp(-0.1 * r - 0.2 * r**2)
    decay = Decay()
    decay.fit([(r, 3.0 * size), (r[:200], 0.01 * size[:200])])  # types differ by a factor
    assert torch.allclose(decay(r).log(), size.log(), rtol=0.02, atol=0.02)
    far = decay(torch.tensor([1.0, 4.0], dtype=torch.float64))
    decay.fit([(r, 1 / size)])  # never grows
    assert torch.equal(decay(r), torch.ones_like(r))
    narrow = torch.linspace(0.9, 1.0, 400, dtype=torch.float64)
    decay.fit([(narrow, torch.exp(-5 * narrow))])  # says nothing of 4 Angstrom
    near, distant = decay(torch.tensor([1.0, 4.0], dtype=torch.float64))
    assert 0.1 < (distant / near) / (far[1] / far[0]) < 10


def test_a_correction_fades_with_the_overlap_and_turns_with_the_molecule(rng):
    """F dH F of `hamnet.correction`: nothing at floor 0, equivariant, less the higher the floor."""
    model, structure = make_model(), molecules()[0]
    rotation = random_rotation(rng, improper=True)
    turned = moved(structure, structure.positions @ rotation.T)
    d = rotate_orbitals(model.basis, structure.numbers, rotation)
    whole = to_dense(model.predict(structure).hamiltonian)[0]
    sizes = [np.abs(whole).sum()]
    for floor in (1e-9, 0.01, 0.1):
        model.metadata = model.metadata.model_copy(update={"overlap_floor": floor})
        one, two = (to_dense(model.predict(s).hamiltonian)[0] for s in (structure, turned))
        assert np.abs(two - d @ one @ d.T).max() < 1e-10
        assert np.abs(one - one.T).max() < 1e-12
        sizes.append(np.linalg.norm(whole - one))
    assert sizes[1] < 1e-9 * sizes[0]
    assert 1e-6 * sizes[0] < sizes[2] < sizes[3]
    values, vectors = np.linalg.eigh(to_dense(model.predict(structure).overlap))
    kept = (vectors.T @ one @ vectors).diagonal() / (vectors.T @ whole @ vectors).diagonal()
    assert np.allclose(kept, (values**2 / (values**2 + floor**2)) ** 2)
