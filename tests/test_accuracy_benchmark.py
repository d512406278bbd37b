"""The accuracy benchmark: its controls, its subsets, and the published TraceGrad."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from hamnet.blocks import from_dense, to_dense
from hamnet.data.store import Store
from hamnet.metrics import CRYSTALS_ONLY, METRICS, h_mae
from hamnet.models.model import MODELS
from hamnet.structure import Structure
from hamnet.testing import check_all, random_model, random_rotation, rotate_orbitals

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def modules():
    """Modules of the benchmark, imported as its scripts import each other."""
    sys.path.insert(0, str(BENCHMARKS))
    import accuracy  # noqa: F401, PLC0415
    import variants  # noqa: PLC0415

    variants.register()
    yield sys.modules
    sys.path.remove(str(BENCHMARKS))
    del MODELS["so2-published-tracegrad"]


def polynomial_records(records, basis, rng):
    """Records in random orientations; in the molecule's frame H is a polynomial of degree 2."""
    baselines = sys.modules["baselines"]
    n = records[0].layout.n_orbitals
    coefficients = rng.standard_normal((10, n, n))
    coefficients += coefficients.transpose(0, 2, 1)
    out = []
    for record in records:
        turned = random_rotation(rng)
        structure = Structure(record.structure.numbers, record.structure.positions @ turned.T)
        x = np.array(baselines.internal_coordinates(structure))
        values = np.prod(x ** baselines.monomials(2), axis=1)
        d = rotate_orbitals(basis, structure.numbers, baselines.molecule_frame(structure))
        matrix = d.T @ np.tensordot(values, coefficients, 1) @ d
        hamiltonian = from_dense(matrix[None], record.layout).entries
        out.append(replace(record, structure=structure, hamiltonian=hamiltonian))
    return out


def test_the_polynomial_baseline_reproduces_a_polynomial(many_waters, water_basis, rng):
    """Of degree 2, in any orientation, from 13 frames: 10 monomials."""
    baselines = sys.modules["baselines"]
    records = polynomial_records(many_waters, water_basis, rng)
    model = baselines.WaterPolynomial(water_basis, "none", degree=2).fit(records[:13], records[13:])
    for prediction, record in zip(model.predict_labelled(records), records, strict=True):
        label = record.blocks("hamiltonian")
        assert h_mae(prediction.hamiltonian, label) < 1e-9 * np.abs(to_dense(label)).max()
        assert prediction.homo == pytest.approx(
            prediction.orbital_energies[record.occupations > 0].max()
        )


def test_monomials_are_all_of_them():
    powers = sys.modules["baselines"].monomials(6)
    assert len(powers) == len({tuple(p) for p in powers}) == 84
    assert powers.sum(axis=1).max() == 6
    assert powers.min() == 0


def test_learning_curves_nest():
    first_frames = sys.modules["tasks"].first_frames
    rows = np.arange(40, 90)
    sets = [set(first_frames(rows, n)) for n in (5, 20, 50)] + [set(first_frames(rows, None))]
    assert [len(s) for s in sets] == [5, 20, 50, 50]
    assert all(small <= large for small, large in pairwise(sets))
    assert max(sets[0]) - min(sets[0]) > 5  # not only the first trajectory


def test_slope_of_a_power_law():
    slope = sys.modules["tables"].slope
    assert slope({n: 3.0 * n**-0.7 for n in (30, 60, 125, 250)}) == pytest.approx(-0.7)


def test_published_tracegrad_obeys_the_laws_and_is_the_gradient():
    """All but mirrors and exchange follow from invariance; v is d(sum z)/df by differences."""
    model = random_model(
        "def2-svp", (1, 8), name="so2-published-tracegrad", message_cutoff=3.0, pair_cutoff=4.0
    )
    rng = np.random.default_rng(3)
    water = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    structures = [Structure(np.array([8, 1, 1]), water + 0.05 * rng.normal(size=(3, 3)))]
    check_all(model, structures * 2)
    layer = model.network.pair_tracegrad
    published = sys.modules["published_tracegrad"]
    size = (2, 1, (layer.l_max + 1) ** 2, sum(layer.channels))
    both, direction = torch.randn(size).double(), torch.randn(size).double()
    with torch.no_grad():
        _, groups = layer(published.split_pair(*both, layer.l_max, layer.channels))
        v = torch.stack(published.join_pair(groups, layer.l_max, layer.channels)) - both
        step = 1e-5 * direction
        rise = layer.encode(*(both + step)).sum() - layer.encode(*(both - step)).sum()
    assert float((v * direction).sum()) == pytest.approx(float(rise) / 2e-5, rel=1e-6)


def test_rows_of_a_study_and_their_tables(store, tmp_path):
    """Every stage has all errors on test, validation and the other file; tables name them."""
    study_module, tasks = sys.modules["study"], sys.modules["tasks"]
    task = tasks.Task("water", tasks.by_group(0.5, 0.25, 0.25))
    path = tasks.divide(task, store, tmp_path, 6)
    with Store.open(path) as found:
        assert [len(found.split[name]) for name in ("train", "validation", "test")] == [6, 4, 4]
    small = ["model.channels=8", "model.layers=1", "model.pair_layers=1", "training.batch_size=4"]
    study = study_module.Study(path, tmp_path, "minao", small, held_out=path)
    rows = list(study.baselines())
    rows.append(study.instant(["model.tracegrad=none"]))
    steps = ["training.max_steps=3", "training.max_minutes=1e6"]
    rows += study.trained(steps)
    rows += study.trained([*steps, "readout.projection=false"])
    assert [row["stage"] for row in rows] == [
        *("mean", "H0 unchanged", "H0 and potentials", "polynomial", "instant"),
        *("trained", "trained", "trained, solved"),
    ]
    for row in rows:
        own = {*METRICS} - {*CRYSTALS_ONLY}
        assert own | {"spurious_frames", "failed_frames", "h0_reduction"} <= set(row)
        assert {k: v for k, v in row["held_out"].items() if k in METRICS} == {
            k: v for k, v in row.items() if k in METRICS
        }
    errors = {row["stage"]: row["h_mae_uha"] for row in rows}
    assert rows[1]["h0_reduction"] == pytest.approx(1, abs=1e-4)
    assert errors["H0 and potentials"] < 0.5 * errors["H0 unchanged"]
    assert errors["trained, solved"] < errors["trained"]
    labelled = [
        {"task": "water", "reference": "minao", "variant": v, "budget": "3 steps", **row}
        for v in ("plain", "both")
        for row in rows[6:]
    ]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"rows": labelled}))
    text = sys.modules["tables"].markdown([file])
    assert "(+0 %)" in text
    assert "| trained, solved, 3 steps, both |" in text
