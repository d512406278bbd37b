"""Uncertainties: first-order propagation is exact, does not rotate, and is calibrated."""

import csv
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hamnet.data.samples import batch_samples, make_sample
from hamnet.data.store import Store
from hamnet.evaluation.evaluate import Evaluation, FrameResult
from hamnet.evaluation.tables import uncertainty_json
from hamnet.integrals import overlap
from hamnet.models import load_model
from hamnet.models.metadata import QUANTITIES, Calibration
from hamnet.models.model import orbitals
from hamnet.nn.covariance import ReadoutCovariance, random_signs
from hamnet.structure import Structure
from hamnet.testing import moved, random_model, random_rotation
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet_cli.app import app
from tests.synthetic import SMALL

SETTINGS = [
    *SMALL,
    "training.max_steps=0",
    "target.reference=minao",
    "data.fractions=[0.5, 0.25, 0.25]",
]
WATER = Structure(np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0.8, 0.6, 0], [-0.7, 0.6, 0.1]]))
ACETYLENE = Structure(  # linear: pi levels are degenerate
    np.array([1, 6, 6, 1]), np.array([[0, 0, -1.66], [0, 0, -0.6], [0, 0, 0.6], [0, 0, 1.66]])
)


def uncertain_model(elements, size=16):
    """A random model with a random covariance, so sketched that every class has fewer inputs."""
    model = random_model("sto-3g", elements)
    model.metadata = model.metadata.model_copy(update={"uncertainty": Calibration(size=size)})
    model.covariance = ReadoutCovariance(model.network.readout, size)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.covariance.state_dict().items():
        noise = torch.rand(buffer.shape, generator=generator)
        buffer.copy_(0.1 * noise if name.startswith("factor") else 0.5 + noise)
    return model


def stds(model, structures):
    return [tuple(p.uncertainty[q] for q in QUANTITIES) for p in model.predict(structures)]


@pytest.fixture(scope="module", params=[WATER, ACETYLENE], ids=["water", "degenerate"])
def case(request):
    structure = request.param
    return uncertain_model(sorted(set(structure.numbers.tolist()))), structure


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "improper"])
def test_a_rotation_does_not_change_it(case, rng, improper):
    model, structure = case
    rotation = random_rotation(rng, improper=improper)
    turned = moved(structure, structure.positions @ rotation.T)
    one, two = stds(model, [structure, turned])
    assert min(one) > 0
    assert two == pytest.approx(one, rel=1e-8)


def test_the_order_of_atoms_does_not_change_it(case, rng):
    model, structure = case
    order = rng.permutation(len(structure))
    other = Structure(structure.numbers[order], structure.positions[order])
    one, two = stds(model, [structure, other])
    assert two == pytest.approx(one, rel=1e-8)


def test_a_batch_gives_what_its_members_give():
    model = uncertain_model((1, 8))
    others = [WATER, Structure(np.array([8, 1]), np.array([[0.0, 0, 0], [0, 0, 1]]), charge=-1)]
    model.metadata = model.metadata.model_copy(update={"charges": (0, -1)})
    singles = [stds(model, [s])[0] for s in others]
    for one, two in zip(stds(model, others), singles, strict=True):
        assert two == pytest.approx(one, rel=1e-10)


def test_it_is_the_sum_over_all_directions_of_the_weights():
    """Displace the weights along every column of a square root of their covariance."""
    model = uncertain_model((1, 8), size=10_000)  # nothing is sketched away
    covariance, readout = model.covariance, model.network.readout
    known = {"8_1": 0.3, "1-8_1": 0.2}  # an on-site class and a pair class with two components
    for name in readout.weights:
        covariance.get_buffer(f"sigma_{name}").fill_(known.get(name, 0.0))
    found = np.array(stds(model, [WATER])[0])

    s = overlap(WATER, model.basis)
    batch = batch_samples([make_sample(WATER, s.layout, model.basis, model.cutoffs)])

    def outcome():
        with torch.no_grad():
            entries = model.infer(batch).entries.numpy()
        p = orbitals(WATER, model.basis, entries, s, 10)
        return np.array([p.homo, p.lumo, p.gap]), entries

    twice = np.where(s.layout.atom_pairs[:, 3] == s.layout.atom_pairs[:, 4], 1.0, 2.0)
    twice = np.repeat(twice, s.layout.sizes)
    square, step = np.zeros(4), 1e-4
    for name, sigma in known.items():
        n = len(readout.weights[name]) + (name in readout.biases)
        root = covariance.whiten(name, torch.eye(n, dtype=torch.float64))  # A^-1 = root root^T
        for column in root.T:
            for k in range(readout.weights[name].shape[1]):
                sides = []
                for sign in (1, -1):
                    change = sign * step * sigma * column
                    with torch.no_grad():
                        displace(readout, name, k, change)
                        sides.append(outcome())
                        displace(readout, name, k, -change)
                energies, entries = ((a - b) / (2 * step) for a, b in zip(*sides, strict=True))
                square[:3] += energies**2
                square[3] += (twice * entries**2).sum() / s.layout.n_orbitals**2
    assert found == pytest.approx(np.sqrt(square), rel=1e-5, abs=1e-8)  # differences: 1e-9


def displace(readout, name, k, change):
    n = len(readout.weights[name])
    readout.weights[name][:, k] += change[:n]
    if name in readout.biases:
        readout.biases[name][k] += change[n]


def test_whitened_inputs_have_the_norm_of_the_inverse(rng):
    model = random_model("sto-3g", (1, 8), node_expansion=0)  # all inputs count
    covariance = ReadoutCovariance(model.network.readout, 10_000)
    n = len(covariance.get_buffer("rms_8_0"))
    x = torch.from_numpy(rng.normal(size=(50, n)))
    a = x.T @ x + 0.1 * torch.eye(n)
    covariance.set_rms("8_0", x.T @ x, len(x))
    rms = covariance.get_buffer("rms_8_0").double()
    covariance.set_factor("8_0", a / rms / rms[:, None])
    expected = (x @ torch.linalg.inv(a) * x).sum(dim=1)
    found = covariance.whiten("8_0", x).square().sum(dim=1)
    assert torch.allclose(found, expected, rtol=1e-5)  # kept in float32


def test_the_sketch_is_the_same_everywhere():
    signs = random_signs(7, 5) * np.sqrt(5)
    assert signs.abs().eq(1).all()
    assert "".join("+" if x > 0 else "-" for x in signs.flatten()) == SIGNS
    assert torch.equal(random_signs(4, 4), torch.eye(4).double())


SIGNS = "+---+-++-+--+-+-+++--+-+++++---++-+"


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    train(store, out, load_config(overrides=SETTINGS), report=lambda _: None)
    return out


def test_on_the_validation_frames_the_errors_are_as_large_as_expected(store, trained):
    model = load_model(trained)
    assert model.metadata.uncertainty.n_frames == 4
    split = json.loads((trained / "split.json").read_text())
    with Store.open(store) as data:
        records = [data[k] for k in split["validation"]]
    ratios = []
    for p, record in zip(model.predict_labelled(records), records, strict=True):
        n = int((record.occupations[0] > 0).sum())
        ratios.append((p.homo - record.orbital_energies[0, n - 1]) / p.uncertainty["homo"])
    assert np.mean(np.square(ratios)) == pytest.approx(1.0, rel=1e-4)


def test_far_from_the_data_it_grows(trained):
    model = load_model(trained)
    far = moved(WATER, WATER.positions * 1.3)
    near, stretched = stds(model, [Structure(WATER.numbers, WATER.positions), far])
    assert all(b > 2 * a for a, b in zip(near, stretched, strict=True))


def test_it_can_be_left_out(store, tmp_path):
    config = load_config(overrides=[*SETTINGS, "readout.uncertainty=false"])
    model = load_model(train(store, tmp_path / "run", config, report=lambda _: None).model_file)
    assert model.metadata.uncertainty is None
    assert model.predict([WATER])[0].uncertainty == {}


def test_tables_of_evaluate_and_predict(store, trained, tmp_path):
    run = CliRunner().invoke
    result = run(app, ["evaluate", str(trained), str(store), "-o", str(tmp_path / "e"), "-q"])
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())["uncertainty"]
    rows = table(tmp_path / "e" / "per_frame.csv")
    assert metrics["gap"]["n_frames"] == len(rows) == 4
    held = [float(r["gap_mae_mev"]) < 1.0006 * float(r["gap_std_mev"]) for r in rows]
    assert metrics["gap"]["coverage_68"] == np.mean(held)
    (tmp_path / "w.xyz").write_text("3\n\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n")
    result = run(app, ["predict", str(trained), str(tmp_path / "w.xyz"), "-o", str(tmp_path / "p")])
    assert result.exit_code == 0, result.output
    (row,) = table(tmp_path / "p" / "predictions.csv")
    assert all(float(row[f"{n}_std_ev"]) > 0 for n in ("homo", "lumo", "gap"))
    assert float(row["h_std_uha"]) > 0


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_coverage_of_gaussian_errors(rng):
    """Errors drawn from what is predicted are covered; errors twice as large are not."""
    std = rng.uniform(1, 10, size=4000)
    error = np.abs(std * rng.normal(size=4000))

    def frames(factor):
        return [
            FrameResult(k, "", "", "", WATER, metrics(factor * e, s))
            for k, (e, s) in enumerate(zip(error, std, strict=True))
        ]

    right, wrong = (uncertainty_json(Evaluation(frames(k), {}, (), (), {}, ())) for k in (1, 2))
    for name in ("homo", "lumo", "gap"):
        assert right[name]["coverage_68"] == pytest.approx(0.683, abs=0.03)
        assert right[name]["coverage_95"] == pytest.approx(0.95, abs=0.015)
        assert right[name]["observed"] == pytest.approx(right[name]["expected"], abs=0.03)
        assert right[name]["spearman"] > 0.4
        assert wrong[name]["coverage_68"] < 0.45


def metrics(error, std):
    return {f"{n}_mae_mev": error for n in ("homo", "lumo", "gap")} | {
        f"{n}_std_mev": std for n in ("homo", "lumo", "gap")
    }
