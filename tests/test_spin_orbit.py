"""Labels with spin-orbit coupling by X2C, and what is learnt from them."""

import numpy as np
import pytest
from pyscf.dft import gks
from typer.testing import CliRunner

from hamnet.blocks import to_dense
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for, to_mole
from hamnet.metrics import frame_metrics
from hamnet.models import load_model
from hamnet.references import reference_hamiltonian
from hamnet.spinor import turned
from hamnet.structure import Structure
from hamnet.testing import random_rotation, rotate_orbitals
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet.units import HARTREE_TO_MEV
from hamnet_cli.app import app
from hamnet_datasets.check import check_store
from hamnet_datasets.labels import LabelError, label
from tests.synthetic import SMALL, write_store

LEVEL = LevelOfTheory(xc="pbe", basis="sto-3g", relativity="x2c", grid_level=1)
TIGHT = LEVEL.model_copy(update={"grid_level": 4})


def hypobromous_acid() -> Structure:
    positions = np.array([[0.1, 0.0, 0.0], [0.9, 0.4, 0.1], [-0.6, 1.6, -0.3]])
    return Structure(np.array([8, 1, 35]), positions)


def splitting(energies: np.ndarray, n_electrons: int) -> float:
    """Between the two pairs of the highest pi orbitals, meV."""
    return HARTREE_TO_MEV * float(energies[n_electrons - 1] - energies[n_electrons - 3])


@pytest.fixture(scope="module")
def acid() -> Record:
    return label(hypobromous_acid(), TIGHT, references=("minao", "sap"))


def test_energies_are_those_of_pyscf(acid):
    mole = to_mole(acid.structure, "sto-3g")
    mf = gks.GKS(mole, xc="pbe").x2c()
    mf.grids.level, mf.conv_tol = 4, 1e-11
    mf.kernel()
    assert abs(mf.e_tot - acid.energy) < 1e-8
    assert np.abs(mf.mo_energy - acid.orbital_energies[0]).max() < 1e-6
    assert acid.hamiltonian.shape == (4, acid.layout.n_entries)
    energies = acid.orbital_energies[0]
    assert np.abs(energies[::2] - energies[1::2]).max() < 1e-9
    assert acid.occupations.sum() == acid.structure.n_electrons
    assert acid.occupations.max() == 1


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "mirror"])
def test_a_turned_molecule_has_turned_matrices(acid, improper, rng):
    rotation = random_rotation(rng, improper=improper)
    after = Structure(acid.structure.numbers, acid.structure.positions @ rotation.T)
    basis = basis_for(acid.structure, "sto-3g")
    d = rotate_orbitals(basis, acid.structure.numbers, rotation)
    expected = turned(to_dense(acid.blocks("hamiltonian")), d, rotation)
    found = to_dense(label(after, TIGHT, references=()).blocks("hamiltonian"))
    assert np.abs(found[0] - expected[0]).max() < 3e-6  # the quadrature grid
    assert np.abs(found[1:] - expected[1:]).max() < 1e-9  # no grid: K is of one electron in PBE
    assert np.abs(expected[1:]).max() > 0.1


def test_references_are_computed_again_with_their_coupling(acid):
    for kind in ("minao", "sap"):
        h0 = reference_hamiltonian(acid.structure, TIGHT, kind)
        np.testing.assert_allclose(acid.references[kind], h0.entries, atol=1e-11)
    assert np.abs(acid.hamiltonian - acid.references["minao"])[1:].max() < 1e-10
    hybrid = label(hypobromous_acid(), LEVEL.model_copy(update={"xc": "pbe0"}))
    left = np.abs(hybrid.hamiltonian - hybrid.references["minao"]).max(axis=1)
    assert left[0] > 0.1
    assert 1e-5 < left[1:].max() < 1e-2  # exact exchange has a coupling of its own


def test_a_relativistic_basis_gives_the_splitting_of_experiment():
    """0.33 eV between the two ground states of HBr+ (3/2 and 1/2)."""
    structure = Structure(np.array([1, 35]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.414]]))
    record = label(structure, LEVEL.model_copy(update={"basis": "dyall-v2z"}), references=())
    assert abs(splitting(record.orbital_energies[0], 36) - 330) < 10
    assert record.orbital_energies.max() > 1e5  # whose rounding is no error of the label


def test_the_level_is_part_of_the_label_and_of_nothing_without_it():
    plain = LevelOfTheory(xc="pbe", basis="sto-3g")
    assert "relativity" not in plain.physics()
    assert plain.physics() != LevelOfTheory(xc="pbe", basis="sto-3g", relativity="x2c").physics()
    assert record_id(hypobromous_acid(), plain) != record_id(hypobromous_acid(), LEVEL)


def test_records_come_back_from_a_file(acid, tmp_path):
    basis = basis_for(acid.structure, "sto-3g")
    path = write_store(tmp_path / "acid.h5", [acid], TIGHT, basis)
    report = check_store(path, recompute=1)
    assert report.findings == []
    assert max(report.recomputed_uha) < 1e-3
    with Store.open(path) as store:
        again = store[0]
        for name in ("hamiltonian", "overlap", "orbital_energies", "occupations"):
            np.testing.assert_array_equal(getattr(again, name), getattr(acid, name))
        for kind, h0 in acid.references.items():
            np.testing.assert_array_equal(again.references[kind], h0)
    plain = LevelOfTheory(xc="pbe", basis="sto-3g", grid_level=4)
    with pytest.raises(HamnetError, match="4 matrices, which does not fit"):
        write_store(tmp_path / "wrong.h5", [acid], plain, basis)


@pytest.mark.parametrize(
    ("changes", "spin", "message"),
    [
        ({"basis": "def2-svp"}, 0, "x2c is for all electrons"),
        ({}, 2, "unpaired electrons: with spin-orbit coupling"),
        ({"stability": True}, 0, "without stability checks"),
        ({"relativity": "spin-orbit"}, 0, "molecules are labelled by x2c"),
        ({"pseudo": "gth-pbe"}, 0, "no labels of crystals with relativity 'x2c'"),
    ],
    ids=["core potential", "open shell", "stability", "another program", "crystal"],
)
def test_what_cannot_be_labelled(changes, spin, message):
    structure = Structure(np.array([1, 53]), np.array([[0, 0, 0], [0, 0, 1.6]]), spin=spin)
    with pytest.raises(LabelError, match=message):
        label(structure, LEVEL.model_copy(update=changes), references=())


def test_the_command_makes_such_labels(tmp_path):
    (tmp_path / "hbr.xyz").write_text("2\n\nH 0 0 0\nBr 0 0 1.4\n")
    out = tmp_path / "hbr.h5"
    command = ["label", str(tmp_path / "hbr.xyz"), "--xc", "pbe", "--basis", "sto-3g", "-o"]
    options = ["--workers", "0", "-q", "--relativity"]
    assert CliRunner().invoke(app, [*command, str(out), *options, "x2c"]).exit_code == 0
    with Store.open(out) as store:
        assert store.level.relativity == "x2c"
        assert store[0].hamiltonian.shape[0] == 4
    wrong = CliRunner().invoke(app, [*command, str(out), *options, "dkh"])
    assert wrong.exit_code == 1
    assert "unknown relativity 'dkh'" in wrong.stderr


def bromide(rng: np.random.Generator) -> Structure:
    direction = rng.normal(size=3)
    bond = direction / np.linalg.norm(direction) * rng.uniform(1.35, 1.5)
    return Structure(np.array([1, 35]), np.array([[0.0, 0.0, 0.0], bond]))


def test_coupling_and_its_splitting_are_learnt(tmp_path):
    """Of unseen hydrogen bromides, stretched and turned; the splitting is made by K alone."""
    rng = np.random.default_rng(5)
    records = [label(bromide(rng), LEVEL, references=()) for _ in range(16)]
    basis = basis_for(records[0].structure, "sto-3g")
    with Writer(tmp_path / "hbr.h5", LEVEL) as writer:
        for k, record in enumerate(records):
            writer.append(record, basis, subset="train" if k < 11 else "validation")
            if k == 13:
                break
        writer.finish()
    config = load_config(overrides=[*SMALL, "training.max_steps=0"])
    trained = train(tmp_path / "hbr.h5", tmp_path / "run", config, report=lambda _: None)
    model = load_model(trained.model_file)
    mean = np.mean([r.hamiltonian for r in records[:11]], axis=0)
    for record in records[14:]:
        (found,) = model.predict_labelled([record])
        error = np.abs(found.hamiltonian.entries - record.hamiltonian).mean(axis=1)
        baseline = np.abs(mean - record.hamiltonian).mean(axis=1)
        assert (error < 0.02 * baseline).all()
        n = record.structure.n_electrons
        expected = splitting(record.orbital_energies[0], n)
        assert 100 < expected < 500
        assert abs(splitting(found.orbital_energies[0], n) - expected) < 0.02 * expected
        errors = frame_metrics(found, record)
        assert errors["homo_mae_mev"] < 20
        assert found.uncertainty["homo"] > 0
