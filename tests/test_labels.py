"""Labels: right, self-consistent, a pure function of geometry and settings; or refused."""

import numpy as np
import pytest
import scipy.linalg
from pyscf import dft, gto

from hamnet.blocks import to_dense
from hamnet.data.level import LevelOfTheory, check_same_level, record_id
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for, overlap
from hamnet.references import reference_hamiltonian
from hamnet.structure import Structure
from hamnet_datasets.labels import DEFAULT_REFERENCES, LabelError, label, resolve

QUICK = LevelOfTheory(xc="lda,vwn", basis="sto-3g", grid_level=0)
H2 = Structure(np.array([1, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.1, 0.74]]))


def pyscf_run(structure: Structure, level: LevelOfTheory):
    """The same calculation written by hand."""
    atoms = list(zip(structure.numbers.tolist(), structure.positions, strict=True))
    mole = gto.M(atom=atoms, basis=level.basis, verbose=0)
    mf = dft.RKS(mole)
    mf.xc, mf.grids.level = level.xc, level.grid_level
    mf.conv_tol, mf.conv_tol_grad = level.conv_tol, level.conv_tol_grad
    mf.kernel()
    return mf


def test_h_and_s_from_the_store_reproduce_pyscf_energies(tmp_path, water_records, water_basis):
    path = tmp_path / "water.h5"
    level = resolve(LevelOfTheory(xc="pbe", basis="def2-svp"))
    with Writer(path, level, references=DEFAULT_REFERENCES) as writer:
        for record in water_records:
            writer.append(record, water_basis)
        writer.finish()
    record = Store.open(path)[0]
    mf = pyscf_run(record.structure, level)
    expected, _ = mf.canonicalize(mf.mo_coeff, mf.mo_occ)
    h = to_dense(record.blocks("hamiltonian"))[0]
    energies = scipy.linalg.eigh(h, to_dense(record.blocks("overlap")), eigvals_only=True)
    np.testing.assert_allclose(energies, expected, atol=1e-9)
    np.testing.assert_allclose(record.orbital_energies[0], energies, atol=1e-9)
    assert record.energy == pytest.approx(mf.e_tot, abs=1e-9)
    np.testing.assert_allclose(record.dipole, mf.dip_moment(verbose=0), atol=1e-6)
    assert record.occupations.sum() == record.structure.n_electrons


def test_references_are_those_that_prediction_computes(water_records, water_basis):
    level = LevelOfTheory(xc="pbe", basis="def2-svp")
    record = water_records[1]
    for kind in DEFAULT_REFERENCES:
        h0 = reference_hamiltonian(record.structure, level, kind, water_basis)
        np.testing.assert_allclose(record.references[kind], h0.entries, atol=1e-12, err_msg=kind)
    s = overlap(record.structure, water_basis)
    np.testing.assert_allclose(record.overlap, s.entries, atol=1e-13)


def test_a_reference_is_close_to_the_hamiltonian(water_records):
    for record in water_records:
        h, far = record.hamiltonian[0], np.abs(record.hamiltonian[0]).mean()
        minao, sap = (np.abs(h - record.references[k]).mean() for k in DEFAULT_REFERENCES)
        assert minao < sap < 0.5 * far


def test_a_label_does_not_depend_on_its_neighbours(water_records):
    again = label(water_records[2].structure, LevelOfTheory(xc="pbe", basis="def2-svp"))
    np.testing.assert_array_equal(again.hamiltonian, water_records[2].hamiltonian)
    assert again.id == water_records[2].id


def test_open_shells_have_two_channels(radical_record):
    assert radical_record.hamiltonian.shape[0] == 2
    assert radical_record.occupations.sum(axis=1).tolist() == [5.0, 4.0]
    s = to_dense(radical_record.blocks("overlap"))
    for h, energies in zip(
        to_dense(radical_record.blocks("hamiltonian")),
        radical_record.orbital_energies,
        strict=True,
    ):
        solved = scipy.linalg.eigh(h, s, eigvals_only=True)
        np.testing.assert_allclose(solved, energies, atol=1e-9)


def test_charged_molecules_are_what_they_say():
    hydronium = np.array([[0, 0, 0.1], [0.95, 0, -0.2], [-0.5, 0.8, -0.2], [-0.5, -0.8, -0.2]])
    record = label(Structure(np.array([8, 1, 1, 1]), hydronium, charge=1), QUICK)
    assert record.occupations.sum() == 10


def test_a_core_potential_is_used_where_the_basis_needs_one():
    hi = Structure(np.array([53, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.61]]))
    level = LevelOfTheory(xc="lda,vwn", basis="def2-svp", grid_level=0)
    record = label(hi, level, references=("minao",))
    assert record.occupations.sum() == 26  # 28 electrons are in the core of iodine
    with pytest.raises(LabelError, match="'sap' is for all electrons, but the basis gives I"):
        label(hi, level)


def test_the_meaning_of_b3lyp_is_stored():
    b3lyp, b3lyp5 = (resolve(LevelOfTheory(xc=x, basis="def2-svp")) for x in ("b3lyp", "b3lyp5"))
    assert b3lyp.xc_components != b3lyp5.xc_components
    assert b3lyp5.xc_exchange[0] == pytest.approx(0.2)
    assert record_id(H2, b3lyp) != record_id(H2, b3lyp5)
    same = resolve(LevelOfTheory(xc="PBE,PBE", basis="DEF2SVP"))
    assert record_id(H2, same) == record_id(H2, resolve(LevelOfTheory(xc="pbe", basis="def2-svp")))
    with pytest.raises(HamnetError, match=r"there.h5 holds labels of b3lyp/def2-svp"):
        check_same_level(b3lyp, b3lyp5, "there.h5")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"positions": H2.positions + np.array([[0, 0, 0], [0, 0, 1e-9]])}, False),
        ({"positions": np.where(H2.positions == 0, -0.0, H2.positions)}, True),
        ({"charge": 2}, False),
        ({"spin": 2}, False),
    ],
)
def test_the_id_follows_geometry_charge_and_spin(change, same):
    fields = {"numbers": H2.numbers, "positions": H2.positions, **change}
    assert (record_id(Structure(**fields), QUICK) == record_id(H2, QUICK)) is same


@pytest.mark.parametrize(
    ("structure", "level", "stage", "message"),
    [
        (Structure([8, 1], [[0, 0, 0], [0, 0, 1]]), QUICK, "input", "9 electrons, an odd number"),
        (Structure([1, 1], [[0, 0, 0], [0, 0, 0.8]], spin=1), QUICK, "input", "an even number"),
        (Structure([1], [[0, 0, 0]], charge=1), QUICK, "input", "has 0 electrons"),
        (Structure([1, 1], [[0, 0, 0], [0, 0, 0]]), QUICK, "input", "are 0.000 A apart"),
        (
            Structure([1, 1], [[0, 0, 0], [0, 0, 0.3]]),
            QUICK,
            "input",
            "closer than 0.372 A .* unit",
        ),
        (
            Structure([2], [[0, 0, 0]], cell=np.eye(3), pbc=[True] * 3),
            QUICK,
            "input",
            "the structure is periodic",
        ),
        (
            Structure([92], [[0, 0, 0]]),
            LevelOfTheory(xc="pbe", basis="def2-svp"),
            "input",
            "does not hold the element U",
        ),
        (H2, QUICK.model_copy(update={"basis": "def2-svpp"}), "input", "mean 'def2-svp'"),
        (H2, QUICK.model_copy(update={"xc": "pbee"}), "input", "did you mean 'pbe'"),
        (
            Structure([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]),
            QUICK.model_copy(update={"max_cycle": 1}),
            "scf",
            "not converged in 1 cycles",
        ),
    ],
)
def test_what_would_be_nonsense_is_refused(structure, level, stage, message):
    with pytest.raises(LabelError, match=message) as caught:
        label(structure, level)
    assert caught.value.stage == stage


def test_a_basis_that_was_redefined_is_refused():
    here = basis_for(H2, "sto-3g")
    other = type(here)(here.name, here.shells, {1: "something else"})
    with pytest.raises(HamnetError, match="'sto-3g' of H is defined differently by this PySCF"):
        overlap(H2, other)
