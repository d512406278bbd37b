"""Errors of predictions, against errors that are known beforehand."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch

from hamnet.blocks import HamiltonianBlocks, from_dense, to_dense
from hamnet.errors import HamnetError
from hamnet.evaluation import evaluate
from hamnet.evaluation.tables import write_tables
from hamnet.integrals import basis_for
from hamnet.metrics import CRYSTALS_ONLY, METRICS, frame_metrics
from hamnet.models.stream import predict_records, predict_structures
from hamnet.prediction import aufbau
from hamnet.spectrum import solve
from hamnet.units import HARTREE_TO_EV, HARTREE_TO_MEV, HARTREE_TO_UHA


@pytest.fixture
def noisy_pairs(water_records, water_basis, predict_from, rng):
    return [
        (
            predict_from(
                record,
                water_basis,
                record.hamiltonian + 1e-4 * rng.standard_normal(record.hamiltonian.shape),
            ),
            record,
        )
        for record in water_records
    ]


def test_the_label_itself_has_no_error(water_records, water_basis, predict_from):
    record = water_records[0]
    found = frame_metrics(predict_from(record, water_basis, record.hamiltonian), record)
    assert set(found) == set(METRICS)
    assert np.isnan([found.pop(name) for name in CRYSTALS_ONLY]).all()
    assert found.pop("psi_cosine") == pytest.approx(1.0, abs=1e-10)
    assert found == pytest.approx(dict.fromkeys(found, 0.0), abs=1e-5)


def test_shifting_the_energy_zero_shifts_every_orbital(water_records, water_basis, predict_from):
    record, shift = water_records[0], 1e-3
    found = frame_metrics(
        predict_from(record, water_basis, record.hamiltonian + shift * record.overlap), record
    )
    for name in ("eps_occ_mae_mev", "eps_all_mae_mev", "homo_mae_mev", "lumo_mae_mev"):
        assert found[name] == pytest.approx(shift * HARTREE_TO_MEV, abs=1e-4)
    assert found["gap_mae_mev"] == pytest.approx(0.0, abs=1e-4)
    assert found["psi_cosine"] == pytest.approx(1.0, abs=1e-8)


def pulled_down(record, orbitals, energies):
    """The label's H with some orbitals moved to other energies (Hartree): H + S C de C^T S."""
    hamiltonian, overlap = (
        torch.from_numpy(to_dense(record.blocks(n))) for n in ("hamiltonian", "overlap")
    )
    found = solve(hamiltonian[0], overlap)
    vectors = (overlap @ found.coefficients)[:, orbitals]
    change = torch.as_tensor(energies).double() - found.energies[orbitals]
    moved = hamiltonian[0] + (vectors * change) @ vectors.T
    return from_dense(moved.numpy()[None], record.layout).entries


def test_orbitals_pulled_below_the_lumo_are_spurious(water_records, water_basis, predict_from):
    """Exactly those from more than 1 eV above the LUMO to more than 50 meV below it."""
    record = water_records[0]
    energies, n = record.orbital_energies[0], 5
    lumo = energies[n]
    assert energies[10] - lumo > 1 / HARTREE_TO_EV

    def count(orbitals, depths_mev):
        moved = pulled_down(record, orbitals, [lumo - d / HARTREE_TO_MEV for d in depths_mev])
        return frame_metrics(predict_from(record, water_basis, moved), record)["spurious_low"]

    assert count([10], [60]) == 1
    assert count([10], [40]) == 0
    assert count([10, 15, 20], [60, 500, 1e5]) == 3
    assert count([n], [3000]) == 0  # the LUMO itself, too low: wrong, but not spurious
    assert count([0, n - 1], [-2000, 1e6]) == 0  # occupied ones belong there


def test_loewdin_error_is_the_error_in_an_orthonormal_basis(noisy_pairs, rng):
    """``dH = a S`` is a in every diagonal element; a change of S^1/2 X S^1/2 is the mean of X."""
    for prediction, record in noisy_pairs:
        overlap = to_dense(record.blocks("overlap"))
        n = len(overlap)
        x = rng.standard_normal((n, n))
        x = 1e-5 * (x + x.T)
        root = scipy.linalg.sqrtm(overlap).real
        for error, expected in ((1e-5 * overlap, 1e-5 / n), (root @ x @ root, np.abs(x).mean())):
            entries = record.hamiltonian + from_dense(error[None], record.layout).entries
            wrong = replace(prediction, hamiltonian=HamiltonianBlocks(record.layout, entries))
            found = frame_metrics(wrong, record)["h_loewdin_mae_uha"]
            assert found == pytest.approx(HARTREE_TO_UHA * expected, rel=1e-8)


def test_h_mae_is_the_mean_over_the_dense_matrix(noisy_pairs):
    for prediction, record in noisy_pairs:
        dense = to_dense(prediction.hamiltonian) - to_dense(record.blocks("hamiltonian"))
        expected = HARTREE_TO_UHA * np.abs(dense).mean()
        assert frame_metrics(prediction, record)["h_mae_uha"] == pytest.approx(expected, rel=1e-12)


def test_means_are_over_frames(noisy_pairs, water_basis):
    found = evaluate(noisy_pairs, water_basis, indices=[7, 3, 5, 1])
    assert [frame.index for frame in found.frames] == [7, 3, 5, 1]
    for name, value in found.metrics.items():
        single = [frame_metrics(*pair)[name] for pair in noisy_pairs]
        assert value == pytest.approx(np.mean(single), rel=1e-12, nan_ok=name in CRYSTALS_ONLY)


def test_block_errors_add_up_to_the_whole_matrix(noisy_pairs, water_basis):
    found = evaluate(noisy_pairs, water_basis)
    count = sum(block.count for block in found.blocks)
    assert count == len(noisy_pairs) * noisy_pairs[0][0].layout.n_orbitals ** 2
    mean = sum(block.count * block.mae_uha for block in found.blocks) / count
    assert mean == pytest.approx(found.metrics["h_mae_uha"], rel=1e-10)
    names = {block.elements for block in found.blocks}
    assert names == {"H (on site)", "O (on site)", "H-H", "H-O"}


def test_an_error_is_attributed_to_its_shells(water_records, water_basis, predict_from):
    record = water_records[0]
    layout = record.layout
    pair = next(
        p for p, (*_, i, j) in enumerate(layout.atom_pairs) if (i, j) == (0, 1)
    )  # O with the first H
    wrong = record.hamiltonian.copy()
    first, row_length = layout.boundaries[pair], layout.shapes[pair][1]
    wrong[0, first + 3 * row_length + 1] += 1e-3  # row: first p orbital of O; column: H's second s
    found = evaluate([(predict_from(record, water_basis, wrong), record)], water_basis)
    hit = [block for block in found.blocks if block.max_uha > 1e-6]
    assert [(b.elements, b.first.name, b.second.name) for b in hit] == [("H-O", "s2", "p1")]
    assert hit[0].max_uha == pytest.approx(1000.0)


def test_two_spin_channels(radical_record, predict_from, rng):
    basis = basis_for(radical_record.structure, "def2-svp")
    shape = radical_record.hamiltonian.shape
    assert shape[0] == 2
    wrong = radical_record.hamiltonian + 1e-4 * rng.standard_normal(shape)
    prediction = predict_from(radical_record, basis, wrong)
    found = evaluate([(prediction, radical_record)], basis)
    dense = to_dense(prediction.hamiltonian) - to_dense(radical_record.blocks("hamiltonian"))
    assert found.metrics["h_mae_uha"] == pytest.approx(HARTREE_TO_UHA * np.abs(dense).mean())
    assert sum(block.count for block in found.blocks) == dense.size
    filled = radical_record.occupations > 0
    assert prediction.homo == prediction.orbital_energies[filled].max()
    assert prediction.lumo == prediction.orbital_energies[~filled].min()


def test_failed_frames_are_rows_and_do_not_count(noisy_pairs, water_basis, tmp_path):
    outcomes = [*noisy_pairs, (HamnetError("no such element: Xx"), noisy_pairs[0][1])]
    found = evaluate(outcomes, water_basis)
    assert found.n_failed == 1
    expected = evaluate(noisy_pairs, water_basis).metrics
    assert found.metrics == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    summary = write_tables(found, tmp_path, {"model": "noise"})
    assert summary == json.loads((tmp_path / "metrics.json").read_text())
    assert (summary["n_frames"], summary["n_failed"]) == (5, 1)
    with (tmp_path / "per_frame.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["error"]) for row in rows] == [False] * 4 + [True]
    assert rows[4]["h_mae_uha"] == ""
    reference = noisy_pairs[0][1]
    homo = reference.orbital_energies[reference.occupations > 0].max() * HARTREE_TO_EV
    assert float(rows[0]["homo_ref_ev"]) == pytest.approx(homo, abs=1e-5)


def test_nothing_to_evaluate_is_an_error(water_basis):
    with pytest.raises(HamnetError, match="no frame"):
        evaluate([], water_basis)


def test_a_prediction_of_another_molecule_is_refused(noisy_pairs, radical_record):
    with pytest.raises(HamnetError, match="for H2O is compared with a label of HO"):
        frame_metrics(noisy_pairs[0][0], radical_record)


class MinaoGuess:
    """Predicts the Fock matrix of PySCF's guess density; refuses its first structure."""

    def __init__(self, records, basis, predict_from):
        self.records, self.basis, self.predict_from = records, basis, predict_from

    def check(self, structure):
        if structure is self.records[0].structure:
            raise HamnetError("refused")

    def predict(self, structures):
        return self.predict_labelled(
            [next(r for r in self.records if r.structure is s) for s in structures]
        )

    def predict_labelled(self, records):
        for record in records:
            self.check(record.structure)
        return [self.predict_from(r, self.basis, r.references["minao"][None]) for r in records]


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_one_bad_frame_does_not_take_its_batch_along(
    batch_size, stored, water_records, water_basis, predict_from
):
    model = MinaoGuess(water_records, water_basis, predict_from)
    outcomes = list(predict_records(model, water_records, batch_size, stored=stored))
    assert [isinstance(outcome, HamnetError) for outcome, _ in outcomes] == [True] + [False] * 3
    assert [record for _, record in outcomes] == water_records
    assert 1e3 < evaluate(outcomes, water_basis).metrics["h_mae_uha"] < 1e5


def test_bad_frames_keep_their_place(water_records, water_basis, predict_from):
    model = MinaoGuess(water_records, water_basis, predict_from)
    frames = [
        ("file@0", HamnetError("truncated")),
        *((r.origin, r.structure) for r in water_records),
        ("file@9", HamnetError("empty")),
    ]
    outcomes = list(predict_structures(model, frames, 4))
    assert [key for key, _ in outcomes] == [key for key, _ in frames]
    failed = [str(outcome) for _, outcome in outcomes if isinstance(outcome, HamnetError)]
    assert failed == ["truncated", "refused", "empty"]


def test_aufbau():
    energies = np.arange(6.0).reshape(1, 6)
    assert aufbau(energies, 4).tolist() == [[2, 2, 0, 0, 0, 0]]
    pair = np.repeat(energies, 2, axis=0)
    assert aufbau(pair, 5, spin=3).tolist() == [[1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    for bad in ((5, 0), (4, 1), (14, 0), (4, 2)):
        with pytest.raises(HamnetError):
            aufbau(energies, *bad)


def test_without_empty_orbitals_there_is_no_gap(water_records, water_basis, predict_from):
    prediction = predict_from(water_records[0], water_basis, water_records[0].hamiltonian)
    object.__setattr__(prediction, "occupations", np.full_like(prediction.occupations, 2.0))
    assert math.isnan(prediction.lumo)
    assert math.isnan(prediction.gap)
    assert math.isfinite(prediction.homo)
