"""Orbitals in space: the basis functions are PySCF's, and equal matrices give equal orbitals."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
from pyscf import dft

from hamnet.blocks import to_dense
from hamnet.evaluation import evaluate
from hamnet.evaluation.figures.space import outline
from hamnet.evaluation.orbital_grids import extreme_frames, frame_orbitals, principal_axes
from hamnet.evaluation.report import report_html
from hamnet.evaluation.viewer import CLIP, quantised
from hamnet.integrals import basis_for, orbital_values, to_mole
from hamnet.units import BOHR_TO_ANGSTROM


@pytest.fixture(scope="module")
def evaluated(water_records, water_basis, predict_from):
    rng = np.random.default_rng(3)
    pairs = []
    for record in water_records:
        noise = 1e-3 * rng.standard_normal(record.hamiltonian.shape)
        pairs.append((predict_from(record, water_basis, record.hamiltonian + noise), record))
    return evaluate(pairs, water_basis), pairs


@pytest.fixture(scope="module")
def shown(evaluated):
    found, pairs = evaluated
    return tuple(
        frame_orbitals(found.frames[place], words, *pairs[place])
        for words, place in extreme_frames(found).items()
    )


def test_integrating_the_basis_functions_gives_the_overlap(water_records, water_basis):
    """The absolute check of the orbital order: s, p and d functions against the stored S."""
    structure = water_records[0].structure
    grid = dft.Grids(to_mole(structure, "def2-svp"))
    grid.level = 3
    grid.build()
    identity = np.eye(water_records[0].layout.n_orbitals)
    points = grid.coords * BOHR_TO_ANGSTROM
    values = orbital_values(structure, water_basis, identity, points)
    overlap = to_dense(water_records[0].blocks("overlap"))
    integrated = values.T @ (grid.weights[:, None] * values)
    assert np.abs(integrated - overlap).max() < 1e-4


def test_equal_matrices_give_equal_orbitals(water_records, water_basis, predict_from, evaluated):
    record = water_records[0]
    prediction = predict_from(record, water_basis, record.hamiltonian)
    same = frame_orbitals(evaluated[0].frames[0], "best", prediction, record)
    assert list(same.orbitals) == ["HOMO", "LUMO"]
    for orbital in same.orbitals.values():
        assert orbital.overlap == pytest.approx(1.0, abs=1e-10)
        assert np.abs(orbital.predicted - orbital.label).max() < 1e-9
        assert orbital.energy_ev == pytest.approx(orbital.energy_ref_ev, abs=1e-9)
    homo = same.orbitals["HOMO"].label
    volume = (same.spacing / BOHR_TO_ANGSTROM) ** 3
    assert (homo**2).sum() * volume == pytest.approx(1.0, abs=0.02)


def test_a_wrong_matrix_gives_other_orbitals(shown, evaluated):
    found, _ = evaluated
    worst, best = shown[0], shown[-1]
    assert (worst.words, best.words) == ("worst", "best")
    errors = [frame.metrics["eps_occ_mae_mev"] for frame in found.frames]
    assert worst.frame.metrics["eps_occ_mae_mev"] == max(errors)
    orbital = worst.orbitals["HOMO"]
    assert 0.9 < orbital.overlap < 1.0 - 1e-9
    assert np.abs(orbital.predicted - orbital.label).max() > 1e-5
    assert np.vdot(orbital.predicted, orbital.label) > 0  # of the same sign


def test_open_shells_show_the_frontier_of_both_spins(radical_record, predict_from):
    basis = basis_for(radical_record.structure, "def2-svp")
    prediction = predict_from(radical_record, basis, radical_record.hamiltonian)
    found = evaluate([(prediction, radical_record)], basis)
    shown = frame_orbitals(found.frames[0], "worst", prediction, radical_record)
    assert shown.orbitals["HOMO"].energy_ref_ev == pytest.approx(
        found.frames[0].frontier_ev["homo_ref_ev"], abs=1e-5
    )
    assert shown.orbitals["LUMO"].energy_ev == pytest.approx(
        found.frames[0].frontier_ev["lumo_ev"], abs=1e-5
    )


def test_principal_axes_are_a_proper_rotation_that_lays_a_molecule_flat(rng):
    flat = rng.normal(size=(7, 3)) * np.array([3.0, 1.0, 0.0])
    turned = flat @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    axes = principal_axes(turned)
    assert np.abs(axes @ axes.T - np.eye(3)).max() < 1e-12
    assert np.linalg.det(axes) == pytest.approx(1.0)
    assert np.abs(((turned - turned.mean(axis=0)) @ axes.T)[:, 2]).max() < 1e-12


def test_the_page_holds_grids_that_are_small_and_near_the_orbitals(evaluated, shown):
    text = report_html(evaluated[0], {}, None, shown)
    data = json.loads(re.search(r'id="orbital-data">(.*?)</script>', text).group(1))
    assert data["clip"] == CLIP
    for frame, original in zip(data["frames"], shown, strict=True):
        for name, orbital in frame["orbitals"].items():
            steps = np.frombuffer(gzip.decompress(base64.b64decode(orbital["label"])), np.int8)
            values = steps.reshape(frame["shape"]) * data["clip"] / 127
            exact = np.clip(original.orbitals[name].label, -CLIP, CLIP)
            assert np.abs(values - exact).max() <= 0.5 * CLIP / 127 + 1e-12
            assert len(orbital["label"]) < 40_000
    assert "University of Pittsburgh" in text  # the licence of 3Dmol.js goes with it
    assert len(text) < 1_500_000


def test_quantisation_clips():
    assert np.frombuffer(quantised(np.array([-9.0, 0.0, CLIP, 9.0])), np.int8).tolist() == [
        *(-127, 0, 127, 127)
    ]


def test_outlines_show_both(shown):
    svg = outline(shown[0], "LUMO").inline()
    assert "stroke-dasharray" in svg
