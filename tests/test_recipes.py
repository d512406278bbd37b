"""Recipes: every card is sound, a seed gives the same frames, vibrations follow their formula."""

import sys

import numpy as np
import pytest
from pydantic import ValidationError
from pyscf.data import nist
from scipy.spatial.distance import pdist

from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.structure import Structure, check_contacts
from hamnet_datasets import sampling
from hamnet_datasets.jobs import Options, label_recipe
from hamnet_datasets.recipes import (
    Langevin,
    NormalModes,
    Rattle,
    Recipe,
    load_recipe,
    recipe_names,
)
from hamnet_datasets.sampling import hessian, n_frames, recipe_tasks, vibration_root

WATER = load_recipe("water-pbe-svp")
H2 = Structure(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.712]]))


def changed(recipe: Recipe, **sampling) -> Recipe:
    return recipe.model_copy(update={"sampling": recipe.sampling.model_copy(update=sampling)})


def quick_water() -> Recipe:
    level = WATER.level.model_copy(update={"xc": "lda,vwn", "basis": "sto-3g", "grid_level": 0})
    return WATER.model_copy(update={"level": level})


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_complete_cards(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.citation
    assert recipe.licence
    least = 100
    if recipe.sampling.method == "supercells":
        structures = [task.structure for task in recipe_tasks(recipe, limit=1)]
    elif recipe.sampling.method == "frames":
        structures = recipe.frames()
    else:
        structures = list(recipe.geometries().values())
        least = 1000 if len(structures) == 1 else 100
    assert n_frames(recipe) >= least
    for structure in structures:
        assert structure.n_electrons % 2 == 0
        check_contacts(structure)


def test_g2_holds_the_closed_shell_molecules_of_its_elements():
    molecules = load_recipe("g2-b3lyp5-svp").geometries()
    assert len(molecules) == 73
    assert {"H2O", "CH4", "C6H6", "CF4", "N2"} <= molecules.keys()
    assert not {"O2", "OH", "CH3", "LiF", "SO2"} & molecules.keys()


def test_a_seed_gives_the_same_frames_and_a_limit_their_beginning():
    one, two = (list(recipe_tasks(WATER, limit=n)) for n in (12, 5))
    for a, b in zip(one, two, strict=False):
        np.testing.assert_array_equal(a.structure.positions, b.structure.positions)
        assert (a.origin, a.group, a.order) == (b.origin, b.group, b.order)
    other = next(recipe_tasks(changed(WATER, seed=7)))
    assert np.abs(other.structure.positions - one[0].structure.positions).max() > 1e-3


def test_frames_of_one_molecule_among_many_are_one_group():
    few = WATER.model_copy(update={"molecules": ["H2", "HF"]})
    modes = NormalModes(temperature_k=300.0, frames_per_molecule=3)
    tasks = list(recipe_tasks(changed(few, normal_modes=modes)))
    assert [t.group for t in tasks] == ["H2"] * 3 + ["HF"] * 3


def test_frames_of_one_trajectory_are_one_group_and_repeat():
    pytest.importorskip("tblite")
    short = Langevin(
        temperature_k=300.0,
        equilibration_fs=5.0,
        interval_fs=2.0,
        trajectories=2,
        frames_per_trajectory=2,
    )
    recipe = changed(WATER, langevin=short)
    one, two = (list(recipe_tasks(recipe, method="langevin")) for _ in range(2))
    assert [t.group for t in one] == ["H2O/trajectory-0"] * 2 + ["H2O/trajectory-1"] * 2
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.structure.positions, b.structure.positions)


def test_trajectories_take_the_temperatures_in_turn():
    """A trajectory is that of its own temperature alone; what is hotter moves more."""
    pytest.importorskip("tblite")
    short = {
        "equilibration_fs": 5.0,
        "interval_fs": 2.0,
        "trajectories": 3,
        "frames_per_trajectory": 1,
    }
    mixed, cold, hot = (
        [
            task.structure.positions
            for task in recipe_tasks(
                changed(WATER, langevin=Langevin(temperature_k=t, **short)), method="langevin"
            )
        ]
        for t in ((1.0, 900.0), 1.0, 900.0)
    )
    np.testing.assert_array_equal(mixed, [cold[0], hot[1], cold[2]])
    assert np.abs(pdist(hot[1]) - pdist(cold[1])).max() > 0.05
    with pytest.raises(ValidationError):
        Langevin(temperature_k=(), **short)


def test_a_missing_tblite_gets_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(HamnetError, match=r"pip install 'hamnet\[md\]'.*--sampling normal-modes"):
        next(recipe_tasks(WATER, method="langevin"))


@pytest.mark.parametrize("temperature", [10.0, 300.0, 20000.0])
def test_a_diatomic_vibrates_as_the_quantum_oscillator_says(temperature):
    root = vibration_root(H2, temperature)
    along = np.array([0, 0, -1.0, 0, 0, 1.0])
    variance = along @ root @ root.T @ along / nist.BOHR**2  # bohr^2
    k = along @ hessian(H2) @ along / 4  # of the bond length
    mu = 1.008 / 2 * nist.ATOMIC_MASS / nist.E_MASS
    w = np.sqrt(k / mu)
    kt = temperature * nist.BOLTZMANN / nist.HARTREE2J
    assert variance == pytest.approx(1 / np.tanh(w / (2 * kt)) / (2 * mu * w), rel=1e-4)


def test_vibrations_neither_move_nor_turn_the_molecule():
    water = WATER.geometries()["H2O"]
    mass = np.array([15.999, 1.008, 1.008])
    root = vibration_root(water, 300.0).reshape(3, 3, 9)
    arms = water.positions - mass @ water.positions / mass.sum()
    np.testing.assert_allclose(np.einsum("a,aic->ic", mass, root), 0, atol=1e-9)
    turned = np.cross(arms[:, None], root.transpose(0, 2, 1))
    np.testing.assert_allclose(np.einsum("a,aci->ci", mass, turned), 0, atol=1e-9)
    assert np.linalg.matrix_rank(root.reshape(9, 9), tol=1e-6) == 3


def test_a_recipe_becomes_a_dataset(tmp_path):
    path = tmp_path / "water.h5"
    recipe = quick_water()
    report = label_recipe(recipe, path, options=Options(limit=3))
    assert (report.n_records, report.progress.labelled, report.failures) == (3, 3, [])
    report = label_recipe(recipe, path, options=Options(limit=5))
    assert (report.n_records, report.progress.labelled, report.progress.known) == (5, 2, 3)
    store = Store.open(path)
    assert store.origins[4] == "water-pbe-svp/H2O/4"
    assert store.card["licence"] == recipe.licence
    assert store.card["sampling"]["seed"] == recipe.sampling.seed
    assert store.card["units"] == {"energy": "Hartree", "length": "Angstrom", "dipole": "Debye"}


def test_no_molecule_is_sampled_in_vain(tmp_path, monkeypatch):
    """Neither those that are labelled, when a run goes on, nor those of another shard."""
    sampled = []

    def noted(structure, temperature):
        sampled.append(structure.formula)
        return vibration_root(structure, temperature)

    monkeypatch.setattr(sampling, "vibration_root", noted)
    modes = NormalModes(temperature_k=300.0, frames_per_molecule=2)
    few = quick_water().model_copy(update={"molecules": ["H2", "HF", "H2O"]})
    recipe, path = changed(few, normal_modes=modes), tmp_path / "few.h5"
    label_recipe(recipe, path, options=Options(limit=3))
    assert sampled == ["H2", "FH"]
    progress = label_recipe(recipe, path, options=Options(limit=6)).progress
    assert (progress.known, progress.labelled) == (3, 3)
    assert sampled[2:] == ["FH", "H2O"]
    label_recipe(recipe, tmp_path / "shard.h5", options=Options(shard=(5, 6)))
    assert sampled[4:] == ["H2O"]
    with Store.open(path) as whole, Store.open(tmp_path / "shard.h5") as shard:
        assert (whole.origins[4], whole.ids[4]) == (shard.origins[0], shard.ids[0])
    more = changed(few, normal_modes=modes.model_copy(update={"frames_per_molecule": 3}))
    progress = label_recipe(more, path, options=Options(limit=3)).progress
    assert (progress.known, progress.labelled) == (2, 1)
    with pytest.raises(HamnetError, match=r"few.h5 was made by another version of recipe water"):
        label_recipe(changed(recipe, seed=7), path, options=Options(limit=2))


def test_noise_is_as_large_as_it_says_and_repeats():
    recipe = changed(WATER, rattle=Rattle(sigma_angstrom=0.05, frames_per_molecule=400))
    one, two = (list(recipe_tasks(recipe, method="rattle")) for _ in range(2))
    np.testing.assert_array_equal(one[-1].structure.positions, two[-1].structure.positions)
    bonds = [np.linalg.norm(np.diff(t.structure.positions[:2], axis=0)) for t in one]
    assert np.std(bonds) == pytest.approx(0.05 * np.sqrt(2), rel=0.1)


def test_shipped_frames_carry_their_split():
    recipe = load_recipe("ethanol-gauss-b3lyp-svp")
    subsets = [t.subset for t in recipe_tasks(recipe)]
    assert subsets == ["train"] * 108 + ["validation"] * 15 + ["test"] * 32
    assert all(t.structure.formula == "C2H6O" for t in recipe_tasks(recipe, limit=3))


def test_a_method_without_its_table_is_refused():
    with pytest.raises(HamnetError, match=r"needs the table \[sampling.frames\]"):
        n_frames(WATER, "frames")


def test_mistakes_in_a_recipe_are_told_all_at_once(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('name = "My Recipe"\nlicense = "MIT"\n')
    with pytest.raises(HamnetError) as caught:
        load_recipe(str(path))
    message = str(caught.value)
    assert "did you mean 'licence'?" in message
    for key in ("name", "title", "citation", "units", "level", "sampling"):
        assert f"{key}: " in message


def test_unknown_recipes_and_molecules_get_a_suggestion(tmp_path):
    with pytest.raises(HamnetError, match="did you mean 'water-pbe-svp'"):
        load_recipe("water-pbe-svpp")
    with pytest.raises(HamnetError, match=r"mine.toml: no such file"):
        load_recipe("mine.toml")
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(HamnetError, match="is not TOML"):
        load_recipe(str(path))
    with pytest.raises(HamnetError, match="unknown molecule 'CH3CH2OHH'; did you mean 'CH3CH2OH'"):
        WATER.model_copy(update={"molecules": ["CH3CH2OHH"]}).geometries()


def test_a_smiles_that_is_a_g2_name_does_not_replace_that_molecule():
    """NCCN is cyanogen in g2, ethylenediamine as SMILES."""
    both = WATER.model_copy(update={"molecules": ["H2O", "NCCN"], "smiles": ["NCCN"]})
    with pytest.raises(HamnetError, match="NCCN is named twice"):
        both.geometries()
