"""Crystals from labels to a report; the labels are Hueckel's Hamiltonians of perturbed graphene."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hamnet.blocks import HamiltonianBlocks, energy_zero
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.data.samples import record_sample, record_target
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.lattice import crystal_basis
from hamnet.metrics import frame_metrics
from hamnet.models import load_model
from hamnet.references import Reference
from hamnet.structure import Structure
from hamnet.training.callbacks import read_history
from hamnet.training.config import load_config
from hamnet.training.dataset import support_radius
from hamnet.training.run import train
from hamnet_cli.app import app
from hamnet_datasets.recipes import load_recipe
from hamnet_datasets.sampling import n_frames, recipe_tasks
from tests.huckel import huckel

LEVEL = LevelOfTheory(
    xc="pbe", basis="gth-szv-molopt-sr", pseudo="gth-pbe", program="hueckel", smearing=0.005
)
BASIS = crystal_basis([6], LEVEL.basis, LEVEL.pseudo)
FRAMES = [task.structure for task in recipe_tasks(load_recipe("graphene-pbe-szv"), limit=14)]
SMALL = [
    "training.max_steps=0",
    "model.channels=16",
    "model.pseudo_channels=4",
    "model.layers=1",
    "model.message_cutoff=3.0",
    "model.pair_cutoff=5.0",
]


def label(structure: Structure, shift: float = 0.0) -> Record:
    made = huckel(structure, 4 * len(structure))
    near = np.abs(made.overlap.entries).reshape(len(made.overlap.layout.atom_pairs), -1).max(axis=1)
    keep = near > 1e-8
    layout = replace(made.overlap.layout, atom_pairs=made.overlap.layout.atom_pairs[keep])
    chosen = np.repeat(keep, 16)
    s = made.overlap.entries[chosen]
    none = np.zeros((1, 0))
    return Record(
        id=record_id(structure, LEVEL),
        structure=structure,
        layout=layout,
        hamiltonian=made.hamiltonian.entries[:, chosen] + shift * s,
        overlap=s,
        references={},
        orbital_energies=none,
        occupations=none,
        energy_zero=0.25,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A dataset with frames of 4, 8 and 16 atoms, and a model of it."""
    folder = tmp_path_factory.mktemp("crystals")
    with Writer(folder / "graphene.h5", LEVEL, references=(), card={"name": "test"}) as writer:
        for k, structure in enumerate(FRAMES):
            subset = ("train", "validation", "test")[(k >= 10) + (k >= 12)]
            writer.append(label(structure), BASIS, order=k, subset=subset)
        writer.finish()
    train(
        folder / "graphene.h5", folder / "run", load_config(overrides=SMALL), report=lambda _: None
    )
    return folder


def test_records_come_back(run):
    with Store.open(run / "graphene.h5") as store:
        record = store[3]
        assert record.energy_zero == 0.25
        assert np.array_equal(record.structure.cell, FRAMES[3].cell)
        assert record.structure.pbc.tolist() == [True, True, False]


def test_the_target_does_not_know_the_zero_of_energy():
    one, two = label(FRAMES[0]), label(FRAMES[0], shift=0.7)
    assert (record_target(one) - record_target(two)).abs().max() < 1e-12
    h = HamiltonianBlocks(one.layout, record_target(one).numpy()[None])
    assert abs(energy_zero(h, one.blocks("overlap"))) < 1e-12


def test_pairs_without_a_stored_block_are_zero():
    record = label(FRAMES[0])
    radius = support_radius([record])
    assert 5.0 < radius < 9.0
    sample = record_sample(record, BASIS, (3.0, radius + 3), Reference("none"))
    n = int(record.layout.boundaries[-1])
    assert sample.n_entries > n
    assert not sample.target[n:].any()


def test_a_model_of_crystals_predicts_unseen_ones(run):
    model = load_model(run / "run")
    assert model.metadata.periodic
    assert model.metadata.model.pair_cutoff == 5.0
    with Store.open(run / "graphene.h5") as store:
        tests = [store[int(k)] for k in store.split["test"]]
        metrics = [
            frame_metrics(p, r) for p, r in zip(model.predict_labelled(tests), tests, strict=True)
        ]
    assert np.mean([m["h_mae_mev"] for m in metrics]) < 20
    assert np.mean([m["bands_mae_mev"] for m in metrics]) < 200
    assert all(np.isnan(m["homo_mae_mev"]) for m in metrics)


def test_prediction_without_a_label_is_the_one_with_it(run):
    """Overlap and pairs come from the geometry; blocks are those of the labelled prediction."""
    model = load_model(run / "run")
    with Store.open(run / "graphene.h5") as store:
        record = store[13]
    (one,), (two,) = model.predict([record.structure]), model.predict_labelled([record])
    assert one.n_electrons == 4 * len(record.structure)
    where = {tuple(p): k for k, p in enumerate(two.layout.atom_pairs.tolist())}
    common = [
        (k, where[tuple(p)])
        for k, p in enumerate(one.layout.atom_pairs.tolist())
        if tuple(p) in where
    ]
    assert len(common) > 0.9 * len(one.layout.atom_pairs)
    for a, b in common:
        assert np.abs(one.hamiltonian.block(a) - two.hamiltonian.block(b)).max() < 1e-6
        assert np.abs(one.overlap.block(a) - two.overlap.block(b)).max() < 1e-10


def test_commands(run, tmp_path):
    data, model = str(run / "graphene.h5"), str(run / "run")
    report = CliRunner().invoke(app, ["evaluate", model, data, "-o", str(tmp_path / "e"), "--json"])
    assert report.exit_code == 0, report.output
    metrics = json.loads(report.stdout)["metrics"]
    assert metrics["bands_mae_mev"] > 0
    assert metrics["homo_mae_mev"] is None
    assert (tmp_path / "e" / "report.html").is_file()
    out = str(tmp_path / "bands.json")
    bands = CliRunner().invoke(
        app, ["bands", data, "--frame", "2", "--npoints", "5", "--mesh-length", "8", "-o", out]
    )
    assert bands.exit_code == 0, bands.output
    cell = tmp_path / "cell.xyz"
    s = FRAMES[12]
    rows = " ".join(f"{x:.8f}" for x in s.cell.ravel())
    atoms = "\n".join(f"C {x:.8f} {y:.8f} {z:.8f}" for x, y, z in s.positions)
    cell.write_text(f'{len(s)}\nLattice="{rows}" pbc="T T F"\n{atoms}\n', encoding="utf-8")
    predicted = CliRunner().invoke(
        app, ["predict", model, str(cell), "-o", str(tmp_path / "p"), "--npz"]
    )
    assert predicted.exit_code == 0, predicted.output
    with np.load(tmp_path / "p" / "frame_000000.npz") as file:
        assert file["atom_pairs"].shape[1] == 5
        assert int(file["n_electrons"]) == 4 * len(s)
    row = json.loads((tmp_path / "p" / "predictions.jsonl").read_text(encoding="utf-8"))
    assert np.allclose(row["cell_angstrom"], s.cell, atol=1e-7)
    assert row["pbc"] == [True, True, False]
    assert row["n_electrons"] == 4 * len(s)
    refused = CliRunner().invoke(
        app, ["predict", model, str(cell), "-o", str(tmp_path / "q"), "--properties", "charges"]
    )
    assert refused.exit_code == 1
    assert "leave out --properties" in " ".join(refused.output.split())


def test_the_history_holds_the_errors_of_crystals(run, tmp_path):
    steps = ["training.max_steps=1", "training.validate_every=1", "readout.solve=false"]
    config = load_config(overrides=[*SMALL, "training.batch_size=2", *steps])
    train(run / "graphene.h5", tmp_path, config, report=lambda _: None)
    (row,) = read_history(tmp_path / "history.csv")
    assert float(row["val_h_mae_mev"]) > 0
    assert float(row["val_bands_max_mev"]) >= float(row["val_bands_mae_mev"]) > 0
    assert row["val_homo_mae_mev"] == "nan"


def test_molecules_and_crystals_are_not_mixed(run, tmp_path):
    with Writer(tmp_path / "both.h5", LEVEL, references=(), card={}) as writer:
        writer.append(label(FRAMES[0]), BASIS, order=0)
        molecule = replace(FRAMES[1], pbc=np.zeros(3), cell=np.zeros((3, 3)))
        writer.append(label_molecule(molecule), BASIS, order=1)
        writer.finish()
    with pytest.raises(HamnetError, match="holds molecules and crystals"):
        train(
            tmp_path / "both.h5",
            tmp_path / "run",
            load_config(overrides=[*SMALL, "data.fractions=[1.0, 0.0, 0.0]"]),
        )


def label_molecule(structure: Structure) -> Record:
    return replace(label(structure), id="0" * 32)


@pytest.mark.parametrize("name", ["graphene", "bilayer-graphene", "hbn", "silicon", "carbon-chain"])
def test_recipes_of_crystals(name):
    recipe = load_recipe(f"{name}-pbe-szv")
    first, again = (
        [t.structure for t in recipe_tasks(recipe, limit=4)],
        [t.structure for t in recipe_tasks(recipe, limit=3)],
    )
    assert len({len(s) for s in first}) > 1  # sizes take turns
    for one, two in zip(first, again, strict=False):
        assert np.array_equal(one.positions, two.positions)
        assert np.array_equal(one.cell, two.cell)
    assert 150 <= n_frames(recipe) <= 400
