"""Details of nablaDFT and SchNOrb files that were seen in the wild."""

import sqlite3
from base64 import b64encode
from contextlib import closing

import ase.db
import numpy as np
import pytest
from ase import Atoms
from pyscf import dft, gto

from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.units import BOHR_TO_ANGSTROM
from hamnet_datasets.dense import ImportOptions
from hamnet_datasets.sqlite import MD17_LEVEL, NABLA_LEVEL, import_md17, import_nabla

OPTIONS = ImportOptions(references=())

# PySCF's place of the orbitals of HF (F 3s2p1d, H 2s1p) in the order z, x, y; z2, xz, yz, x2-y2, xy
Z_FIRST = np.array([0, 1, 2, 5, 3, 4, 8, 6, 7, 11, 12, 10, 13, 9, 14, 15, 18, 16, 17])


@pytest.fixture(scope="module")
def made():
    frames = []
    for length in (0.91, 0.97):
        mole = gto.M(atom=[[9, (0.1, 0, 0)], [1, (0.1, 0.3, length)]], basis="def2-svp", verbose=0)
        mf = dft.RKS(mole, xc="pbe").run(conv_tol=1e-11)
        frames.append((mole, mf.get_fock(), mole.intor("int1e_ovlp"), mf.e_tot))
    return frames


def write_nabla(path, made, *, reorder=Z_FIRST, energies=(None, None), unit=1.0):
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "CREATE TABLE data (id INTEGER NOT NULL PRIMARY KEY, Z BLOB, R BLOB, E FLOAT, F BLOB, "
            "H BLOB, S BLOB, C BLOB)"
        )
        database.execute(
            "CREATE TABLE dataset_ids (id INTEGER NOT NULL PRIMARY KEY, MOSES_ID INT, "
            "CONFORMER_ID INT)"
        )
        for k, (mole, h, s, _) in enumerate(made):
            blobs = [
                values.astype(np.float32).tobytes()
                for values in (
                    mole.atom_coords() * unit,
                    *(m[np.ix_(reorder, reorder)] for m in (h, s)),
                )
            ]
            numbers = mole.atom_charges().astype(np.int32).tobytes()
            row = (k, numbers, blobs[0], energies[k], None, blobs[1], blobs[2], None)
            database.execute("INSERT INTO data VALUES (?,?,?,?,?,?,?,?)", row)
            database.execute("INSERT INTO dataset_ids VALUES (?,?,?)", (k, 4711, k))
        database.commit()
    return path


def nabla_level():
    return NABLA_LEVEL.model_copy(update={"xc": "pbe"})


def test_conformers_of_a_molecule_are_a_group_and_energies_may_be_null(tmp_path, made):
    path = write_nabla(tmp_path / "a.db", made, energies=(None, made[1][3]))
    import_nabla(path, tmp_path / "a.h5", level=nabla_level(), options=OPTIONS)
    store = Store.open(tmp_path / "a.h5")
    assert store.groups == ["moses-4711", "moses-4711"]
    assert np.isnan(store[0].energy)
    assert store[1].energy == made[1][3]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"reorder": np.arange(19)}, "order 'pyscf' with R in Angstrom reproduces"),
        ({"unit": BOHR_TO_ANGSTROM}, "nor does any other known order or unit fit"),
    ],
)
def test_another_order_or_unit_is_refused(tmp_path, made, change, hint):
    path = write_nabla(tmp_path / "a.db", made, **change)
    with pytest.raises(HamnetError, match=hint):
        import_nabla(path, tmp_path / "a.h5", level=nabla_level(), options=OPTIONS)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize("encoded", [True, False])
def test_schnorb_matrices_in_base64_and_as_arrays(tmp_path, made, encoded):
    path = tmp_path / "hf.db"
    with ase.db.connect(path) as database:
        for mole, h, s, _ in made:
            data = {}
            for key, matrix in (("hamiltonian", h), ("overlap", s)):
                values = matrix[np.ix_(Z_FIRST, Z_FIRST)].astype(np.float32)
                data[key] = values
                if encoded:
                    data[key] = b64encode(values.tobytes()).decode()
                    data |= {f"_shape_{key}": values.shape, f"_dtype_{key}": "float32"}
            atoms = Atoms(mole.atom_charges(), mole.atom_coords(unit="ang"))
            database.write(atoms, data=data)
    import_md17(path, tmp_path / "a.h5", level=MD17_LEVEL, options=OPTIONS)
    for record, (mole, h, _, _) in zip(Store.open(tmp_path / "a.h5"), made, strict=True):
        found = record.structure.positions
        np.testing.assert_allclose(found, mole.atom_coords(unit="ang"), atol=1e-12)
        to_y_z_x = [0, 1, 2, 4, 5, 3, 7, 8, 6, *range(9, 14), 14, 15, 17, 18, 16]
        wanted = h[np.ix_(to_y_z_x, to_y_z_x)][:14, 14:]
        np.testing.assert_allclose(record.blocks("hamiltonian").block(1)[0], wanted, atol=2e-6)
