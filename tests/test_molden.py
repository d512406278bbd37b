"""Molden and npz files hold the orbitals that were predicted: read back by others."""

import numpy as np
import pytest
from pyscf.tools import molden

from hamnet.basis import OrbitalBasis, ao_order, from_hamnet_order
from hamnet.blocks import to_dense
from hamnet.data.level import LevelOfTheory
from hamnet.errors import HamnetError
from hamnet.integrals import basis_for
from hamnet.interop.molden import save_molden
from hamnet.interop.npz import orbital_labels, save_npz
from hamnet.interop.pyscf import to_mole
from hamnet.structure import Structure
from hamnet_datasets.labels import label


@pytest.fixture(scope="session")
def f_shell_record():
    """Hydrogen fluoride with f functions and contracted shells."""
    structure = Structure(np.array([9, 1]), np.array([[0.1, 0.0, 0.0], [0.0, 0.5, 0.8]]))
    return label(structure, LevelOfTheory(xc="pbe", basis="cc-pvtz", grid_level=1))


@pytest.fixture(params=["water", "radical", "f shells"])
def prediction(request, water_records, radical_record, f_shell_record, predict_from):
    records = {"water": water_records[0], "radical": radical_record, "f shells": f_shell_record}
    record = records[request.param]
    name = "cc-pvtz" if request.param == "f shells" else "def2-svp"
    return predict_from(record, basis_for(record.structure, name), record.hamiltonian)


def test_molden_read_back_by_pyscf(prediction, tmp_path):
    path = tmp_path / "frame.molden"
    save_molden(path, prediction)
    mole, energies, coefficients, occupations, _, spins = molden.load(str(path))
    n_spin = len(prediction.orbital_energies)
    if n_spin == 1:
        energies, coefficients, occupations = [energies], [coefficients], [occupations]
    else:
        assert [names[0].lower() for names in spins] == ["alpha", "beta"]
    assert np.allclose(energies, prediction.orbital_energies, atol=1e-8)
    assert np.array_equal(occupations, prediction.occupations)
    # The orbitals are the same functions: their overlap across the two molecules is the identity.
    structure = prediction.structure
    original = to_mole(structure, prediction.basis.name)
    perm, _ = ao_order(prediction.basis, structure.numbers, "pyscf")
    cross = original.intor_symmetric("int1e_ovlp")
    assert np.allclose(mole.intor_symmetric("int1e_ovlp"), cross, atol=1e-7)
    for channel in range(n_spin):
        ours = np.empty_like(prediction.coefficients[channel])
        ours[perm] = prediction.coefficients[channel]
        identity = ours.T @ cross @ coefficients[channel]
        assert np.allclose(identity, np.eye(identity.shape[0]), atol=1e-6)
    assert np.allclose(mole.atom_coords(unit="Angstrom"), structure.positions, atol=1e-6)


@pytest.mark.parametrize("order", ["hamnet", "pyscf", "abacus"])
def test_npz_solves_its_own_eigenproblem(prediction, order, tmp_path):
    path = tmp_path / "frame.npz"
    save_npz(path, prediction, order)
    with np.load(path, allow_pickle=False) as file:
        data = dict(file)
    assert str(data["ao_order"]) == order
    n = len(data["overlap"])
    for h, c, e in zip(
        data["hamiltonian_hartree"],
        data["coefficients"],
        data["orbital_energies_hartree"],
        strict=True,
    ):
        assert np.abs(h @ c - data["overlap"] @ c * e).max() < 1e-9
        assert np.allclose(c.T @ data["overlap"] @ c, np.eye(n), atol=1e-10)
    expected = from_hamnet_order(
        to_dense(prediction.hamiltonian), prediction.basis, prediction.structure.numbers, order
    )
    assert np.array_equal(data["hamiltonian_hartree"], expected)


def test_npz_in_pyscf_order_has_pyscf_overlap_and_labels(prediction, tmp_path):
    path = tmp_path / "frame.npz"
    save_npz(path, prediction, "pyscf")
    mole = to_mole(prediction.structure, prediction.basis.name)
    with np.load(path) as file:
        assert np.abs(file["overlap"] - mole.intor_symmetric("int1e_ovlp")).max() < 1e-12
        labels = file["orbital_labels"].tolist()
    component = {"m=-1": "y", "m=0": "z", "m=+1": "x"}
    for label_, (atom, element, shell, m) in zip(labels, mole.ao_labels(fmt=None), strict=True):
        ours = label_.split()
        assert ours[:2] == [str(atom), element]
        assert ours[2][0] == shell[-1]
        if shell[-1] == "p":
            assert component[ours[3]] == m


def test_orbital_labels():
    basis = OrbitalBasis("b", {1: (0,), 8: (0, 0, 1)}, {1: "", 8: ""})
    assert orbital_labels(basis, np.array([8, 1])) == [
        "0 O s1 m=0",
        "0 O s2 m=0",
        "0 O p1 m=-1",
        "0 O p1 m=0",
        "0 O p1 m=+1",
        "1 H s1 m=0",
    ]


def test_h_functions_do_not_fit_into_molden(prediction, tmp_path):
    shells = {z: (*ls, 5) for z, ls in prediction.basis.shells.items()}
    high = OrbitalBasis("made-up", shells, prediction.basis.fingerprints)
    object.__setattr__(prediction, "basis", high)
    with pytest.raises(HamnetError, match="ends with g functions"):
        save_molden(tmp_path / "frame.molden", prediction)
    assert list(tmp_path.iterdir()) == []


def test_unknown_order(prediction, tmp_path):
    with pytest.raises(HamnetError, match="did you mean 'pyscf'"):
        save_npz(tmp_path / "frame.npz", prediction, "pysfc")
