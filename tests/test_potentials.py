"""Potentials of atoms: the laws of H, their definition, the fit, and models that have them."""

from dataclasses import replace

import numpy as np
import pytest
from pyscf import dft

from hamnet.basis import to_hamnet_order
from hamnet.blocks import from_dense, to_dense
from hamnet.data.store import Store
from hamnet.integrals import basis_for, gaussian_potentials, overlap, to_mole
from hamnet.models import load_model
from hamnet.potentials import (
    EXPONENTS,
    AtomicPotentials,
    n_coefficients,
    potential_matrices,
    shell_pairs,
)
from hamnet.structure import Structure
from hamnet.testing import moved, random_rotation, rotate_orbitals
from hamnet.training.config import load_config
from hamnet.training.dataset import RecordDataset
from hamnet.training.potential_fit import fit_potentials
from hamnet.training.run import train
from tests.synthetic import SMALL, write_store

METHANOL = Structure(
    np.array([6, 8, 1, 1, 1, 1]),
    np.array(
        [
            [0.0, 0.66, 0.0],
            [0.0, -0.76, 0.1],
            [-1.03, 0.97, 0.0],
            [0.87, -1.05, 0.0],
            [0.44, 1.07, 0.89],
            [0.44, 1.07, -0.89],
        ]
    ),
)


@pytest.fixture(scope="module")
def basis():
    return basis_for(METHANOL, "def2-svp")


@pytest.fixture
def potentials(basis, rng):
    return AtomicPotentials({z: rng.normal(size=n_coefficients(basis, z)) for z in (1, 6, 8)})


def matrix(potentials, structure, basis):
    return potentials.matrix(structure, basis, to_dense(overlap(structure, basis)))


@pytest.mark.parametrize("improper", [False, True])
def test_they_turn_with_the_molecule(potentials, basis, rng, improper):
    rotation = random_rotation(rng, improper=improper)
    d = rotate_orbitals(basis, METHANOL.numbers, rotation)
    after = moved(METHANOL, METHANOL.positions @ rotation.T + rng.normal(size=3))
    expected = d @ matrix(potentials, METHANOL, basis) @ d.T
    assert np.abs(matrix(potentials, after, basis) - expected).max() < 1e-10


def test_they_follow_the_order_of_the_atoms(potentials, basis, rng):
    order = rng.permutation(len(METHANOL))
    after = Structure(METHANOL.numbers[order], METHANOL.positions[order])
    offsets = basis.atom_offsets(METHANOL.numbers)
    rows = np.concatenate([np.arange(offsets[k], offsets[k + 1]) for k in order])
    expected = matrix(potentials, METHANOL, basis)[np.ix_(rows, rows)]
    assert np.abs(matrix(potentials, after, basis) - expected).max() < 1e-10


def test_local_ones_are_integrals_in_space(basis):
    """Against PySCF's quadrature, for two centres and three Gaussians."""
    mole = to_mole(METHANOL, "def2-svp")
    grid = dft.Grids(mole)
    grid.level = 6
    grid.build()
    orbitals = mole.eval_gto("GTOval_sph", grid.coords)
    atoms, exponents = np.array([1, 4]), EXPONENTS[1:6:2]
    c = np.array([[1.0, 0.3], [-2.0, 0.1], [0.5, 0.0]])
    found = gaussian_potentials(METHANOL, basis, atoms, exponents, c)
    for column, v in zip(c.T, found, strict=True):
        values = np.zeros(len(grid.coords))
        for centre in mole.atom_coords()[atoms]:
            square = ((grid.coords - centre) ** 2).sum(axis=1)
            values += sum(x * np.exp(-a * square) for x, a in zip(column, exponents, strict=True))
        expected = (orbitals.T * (grid.weights * values)) @ orbitals
        expected = to_hamnet_order(expected, basis, METHANOL.numbers, "pyscf")
        assert np.abs(v - expected).max() < 1e-6


def test_the_others_are_what_the_formula_says(potentials, basis):
    """Sums over atoms, shells and m, one by one."""
    s = to_dense(overlap(METHANOL, basis))
    expected, offsets = np.zeros_like(s), basis.atom_offsets(METHANOL.numbers)
    others = {}
    for z, c in potentials.coefficients.items():
        others[z] = c.copy()
        others[z][: len(EXPONENTS)] = 0
    for z, offset in zip(METHANOL.numbers.tolist(), offsets, strict=False):
        ls = basis.of(z)
        first = offset + np.concatenate([[0], np.cumsum([2 * l + 1 for l in ls])])
        numbers = iter(others[z][len(EXPONENTS) :])
        for a, b in shell_pairs(basis, z):
            w = next(numbers)
            for m in range(2 * ls[a] + 1):
                one = np.outer(s[:, first[a] + m], s[first[b] + m])
                expected += w * (one + one.T)
        for n, _ in enumerate(ls):
            projector = np.zeros(len(s))
            projector[first[n] : first[n + 1]] = 1
            one = projector[:, None] * s
            expected += next(numbers) * (one + one.T)
    found = AtomicPotentials(others).matrix(METHANOL, basis, s)
    assert np.abs(found - expected).max() < 1e-12


def test_several_at_once_are_the_same(potentials, basis):
    """The terms that are fitted add up to the potential."""
    s, total = to_dense(overlap(METHANOL, basis)), 0.0
    for z, c in potentials.coefficients.items():
        terms = potential_matrices({z: np.eye(len(c))}, METHANOL, basis, s)
        total = total + np.tensordot(c, terms, 1)
    assert np.abs(total - matrix(potentials, METHANOL, basis)).max() < 1e-10


def test_the_fit_finds_what_the_labels_hold(many_waters, level, water_basis, tmp_path, rng):
    """Labels that are H0 + V: the potentials of ten frames give V in the others."""
    made = AtomicPotentials({z: rng.normal(size=n_coefficients(water_basis, z)) for z in (1, 8)})
    records, parts = [], []
    for record in many_waters:
        s = to_dense(record.blocks("overlap"))
        v = made.matrix(record.structure, water_basis, s)
        parts.append((record.structure, s, v))
        entries = from_dense(v, record.layout).entries
        records.append(replace(record, hamiltonian=record.references["sap"][None] + entries))
    path = write_store(tmp_path / "made.h5", records, level, water_basis)
    with Store.open(path) as store:
        found = fit_potentials(RecordDataset(store, range(10)), "sap")
    for structure, s, v in parts[10:]:
        error = np.abs(found.matrix(structure, water_basis, s) - v).max()
        assert error < 5e-3 * np.abs(v).max()  # what the ridge leaves


@pytest.mark.parametrize("reference", ["sap", "minao"])
def test_a_model_adds_them_to_h0(store, tmp_path, reference):
    """Computed anew or with the labels' H0, after saving; and they can be switched off."""
    settings = [*SMALL, "training.max_steps=0", f"target.reference={reference}"]
    settings.append("training.precision=float64")

    def run(name, *others):
        config = load_config(overrides=[*settings, *others])
        return load_model(train(store, tmp_path / name, config, report=lambda _: None).model_file)

    model, plain = run("default"), run("plain", "target.potentials=false")
    assert not plain.metadata.potentials
    assert set(model.metadata.potentials) == {"H", "O"}
    with Store.open(store) as data:
        records = [data[k] for k in range(3)]
    for record, one in zip(records, model.predict_labelled(records), strict=True):
        again = model.predict(record.structure)
        assert np.abs(again.hamiltonian.entries - one.hamiltonian.entries).max() < 1e-9
        h0 = record.references[reference]
        s = record.blocks("overlap")
        with_them = model.reference.improved(h0, record.structure, model.basis, s)
        # most of what H0 lacks is the same for every atom of an element
        error, left = (np.abs(record.hamiltonian - x).mean() for x in (h0, with_them))
        assert left < 0.2 * error


def test_a_model_without_h0_has_none(store, tmp_path):
    config = load_config(overrides=[*SMALL, "training.max_steps=0"])
    found = train(store, tmp_path / "run", config, report=lambda _: None)
    assert not load_model(found.model_file).metadata.potentials
