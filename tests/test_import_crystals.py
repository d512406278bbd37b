"""Crystals of other codes: each format is written here from integrals, by its own tables, and read.

The truth are overlap and kinetic energy between Gaussians in a chain of cells, from PySCF.
"""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from pyscf import gto
from typer.testing import CliRunner

from hamnet.basis import OrbitalBasis, ao_order
from hamnet.blocks import to_k
from hamnet.data.store import Store
from hamnet.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV
from hamnet_cli.app import app
from hamnet_datasets.crystal import real_harmonics

NUMBERS = [6, 1, 1]
CELL = np.array([[3.1, 0.2, 0.1], [0.4, 9.0, 0.3], [-0.2, 0.5, 8.0]])
POSITIONS = np.array([[0.1, 0.2, 0.3], [0.9, 0.7, -0.4], [-0.2, -0.8, 0.6]])
SHELLS = {6: [0, 0, 0, 1, 1, 2], 1: [0, 0, 1]}
REACH = 3
LATTICE_CONSTANT = 2.7  # Angstrom in ABACUS's new header, whatever unit its input has

# rows: the place of m = -l..l in PySCF's shell and in that of each format, with its sign;
# written out by hand, not taken from hamnet
FROM_PYSCF = {0: [0], 1: [1, 2, 0], 2: [0, 1, 2, 3, 4]}  # y z x from x y z
TO_FORMAT = {
    "wiki": {0: [0], 1: [0, 1, 2], 2: [0, 1, 2, 3, 4]},
    "openmx": {0: [0], 1: [2, 0, 1], 2: [2, 4, 0, 3, 1]},  # x y z; z2 x2-y2 xy xz yz
    "abacus": {0: [0], 1: [1, 2, 0], 2: [2, 3, 1, 4, 0]},  # m = 0, 1, -1, 2, -2
}


def molecule(shift: np.ndarray) -> gto.Mole:
    moved = POSITIONS + shift @ CELL
    atoms = list(zip(["C", "H", "H"], moved.tolist(), strict=True))
    return gto.M(atom=atoms, basis="def2-svp", unit="Angstrom", verbose=0, spin=0)


def places(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """PySCF's index of every orbital of a format, and its sign."""
    index, sign, start = [], [], 0
    for z in NUMBERS:
        for l in SHELLS[z]:
            canonical = [start + k for k in FROM_PYSCF[l]]
            for k in TO_FORMAT[kind][l]:
                index.append(canonical[k])
                sign.append((-1.0) ** (k - l) if kind == "abacus" else 1.0)
            start += 2 * l + 1
    return np.array(index), np.array(sign)


def blocks(integral: str, kind: str, reach: int = REACH) -> dict[tuple[int, ...], np.ndarray]:
    """``(R1, R2, R3, i, j) -> block`` in the orbital order of a format."""
    index, sign = places(kind)
    cuts = np.cumsum([0, 14, 5, 5])
    home, found = molecule(np.zeros(3)), {}
    for r in range(-reach, reach + 1):
        matrix = gto.intor_cross(integral, home, molecule(np.array([r, 0, 0])))
        matrix = matrix[np.ix_(index, index)] * np.outer(sign, sign)
        for i in range(3):
            for j in range(3):
                found[r, 0, 0, i, j] = matrix[cuts[i] : cuts[i + 1], cuts[j] : cuts[j + 1]]
    return found


def legacy(folder: Path) -> list[str]:
    np.savetxt(folder / "lat.dat", CELL.T)
    np.savetxt(folder / "site_positions.dat", POSITIONS.T)
    np.savetxt(folder / "element.dat", NUMBERS, fmt="%d")
    (folder / "orbital_types.dat").write_text(
        "".join(" ".join(map(str, SHELLS[z])) + "\n" for z in NUMBERS)
    )
    (folder / "info.json").write_text(json.dumps({"isspinful": False}))
    for name, integral, unit, reach in (
        ("hamiltonians", "int1e_kin", HARTREE_TO_EV, REACH - 1),
        ("overlaps", "int1e_ovlp", 1.0, REACH),
    ):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            for (a, b, c, i, j), block in blocks(integral, "openmx", reach).items():
                file[f"[{a}, {b}, {c}, {i + 1}, {j + 1}]"] = block * unit
    return ["deeph-legacy"]


def new_deeph(folder: Path) -> list[str]:
    rows = "\n".join(" ".join(map(repr, map(float, row))) for row in CELL)
    sites = "\n".join(" ".join(map(repr, map(float, row))) for row in POSITIONS)
    (folder / "POSCAR").write_text(f"chain\n1.0\n{rows}\nC H\n1 2\nCartesian\n{sites}\n")
    info = {"spinful": False, "elements_orbital_map": {"C": SHELLS[6], "H": SHELLS[1]}}
    (folder / "info.json").write_text(json.dumps(info))
    for name, integral, unit, reach in (
        ("hamiltonian", "int1e_kin", HARTREE_TO_EV, REACH - 1),
        ("overlap", "int1e_ovlp", 1.0, REACH),
    ):
        found = blocks(integral, "wiki", reach)
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["atom_pairs"] = np.array(list(found))
            file["chunk_shapes"] = np.array([b.shape for b in found.values()])
            sizes = [b.size for b in found.values()]
            file["chunk_boundaries"] = np.concatenate([[0], np.cumsum(sizes)])
            file["entries"] = unit * np.concatenate([b.ravel() for b in found.values()])
    return ["deeph"]


def dftio(folder: Path) -> list[str]:
    np.savetxt(folder / "positions.dat", POSITIONS)
    np.savetxt(folder / "cell.dat", CELL)
    np.savetxt(folder / "pbc.dat", [1, 1, 1])
    np.savetxt(folder / "atomic_numbers.dat", NUMBERS, fmt="%d")
    (folder / "basis.dat").write_text("{'C': '3s2p1d', 'H': '2s1p'}")
    for name, integral, unit, reach in (
        ("hamiltonians", "int1e_kin", HARTREE_TO_EV, REACH - 1),
        ("overlaps", "int1e_ovlp", 1.0, REACH),
    ):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            group = file.create_group("0")
            for (a, b, c, i, j), block in blocks(integral, "wiki", reach).items():
                group[f"{i + 1}_{j + 1}_{a}_{b}_{c}"] = (unit * block).astype(np.float32)
    return ["deeptb"]


def csr_text(integral: str, unit: float, reach: int) -> list[str]:
    index, sign = places("abacus")
    home, lines = molecule(np.zeros(3)), []
    for r in range(-reach, reach + 1):
        matrix = gto.intor_cross(integral, home, molecule(np.array([r, 0, 0])))
        matrix = unit * matrix[np.ix_(index, index)] * np.outer(sign, sign)
        values, columns, starts = [], [], [0]
        for row in matrix:
            filled = np.flatnonzero(np.abs(row) > 1e-12)
            values += [f"{x:.15e}" for x in row[filled]]
            columns += map(str, filled)
            starts.append(len(columns))
        lines.append([f"{r} 0 0 {len(values)}", values, columns, list(map(str, starts))])
    return lines


def abacus_old(folder: Path) -> list[str]:
    (folder / "geometry.xyz").write_text(
        f'3\nLattice="{" ".join(map(repr, map(float, CELL.ravel())))}" '
        'Properties=species:S:1:pos:R:3 pbc="T T T"\n'
        + "".join(
            f"{s} {p[0]!r} {p[1]!r} {p[2]!r}\n"
            for s, p in zip("CHH", POSITIONS.tolist(), strict=True)
        )
    )
    for letter, integral, unit in (("H", "int1e_kin", 2.0), ("S", "int1e_ovlp", 1.0)):
        lines = csr_text(integral, unit, REACH)
        text = f"STEP: 0\nMatrix Dimension of {letter}(R): 24\nMatrix number of {letter}(R): "
        text += f"{len(lines)}\n"
        for head, *rows in lines:
            text += "\n".join([head, *(" ".join(row) for row in rows)]) + "\n"
        (folder / f"data-{letter}R-sparse_SPIN0.csr").write_text(text)
    return ["abacus", "--orbitals", "C=3s2p1d,H=2s1p", "--structure", "geometry.xyz"]


def abacus_new(folder: Path) -> list[str]:
    direct = POSITIONS @ np.linalg.inv(CELL)
    for letter, integral, unit in (("h", "int1e_kin", 2.0), ("s", "int1e_ovlp", 1.0)):
        lines = csr_text(integral, unit, REACH)
        text = (
            f" --- Ionic Step 1 ---\n # print {letter} matrix in real space\n"
            " 1 # number of spin directions\n 1 # spin index\n 24 # number of localized basis\n"
            f" {len(lines)} # number of Bravais lattice vector R\n\n user_defined_lattice\n"
            f" {LATTICE_CONSTANT!r}\n"
            + "".join(
                " " + " ".join(map(repr, map(float, row / LATTICE_CONSTANT))) + "\n" for row in CELL
            )
            + " C1 H\n 1 2\n Direct\n"
            + "".join(" " + " ".join(map(repr, map(float, row))) + "\n" for row in direct)
            + "\n #------#\n # CSR Format #\n #------#\n\n"
        )
        for head, values, columns, starts in lines:
            text += f" {head}\n # CSR values\n {' '.join(values)}\n # CSR column indices\n"
            text += f" {' '.join(columns)}\n # CSR row pointers\n {' '.join(starts)}\n"
        (folder / f"{letter}rs1_nao.csr").write_text(text)
    return ["abacus", "--orbitals", "C=3s2p1d,H=2s1p"]


WRITERS: dict[str, tuple[Callable[[Path], list[str]], float, int]] = {
    "deeph-legacy": (legacy, 1e-12, REACH - 1),
    "deeph": (new_deeph, 1e-12, REACH - 1),
    "deeptb": (dftio, 1e-5, REACH - 1),
    "abacus, old header": (abacus_old, 1e-11, REACH),
    "abacus, new header": (abacus_new, 1e-11, REACH),
}


def run(command: list[str], folder: Path, out: Path, *more: str):
    arguments = ["data", "import", command[0], str(folder), *command[1:], "-o", str(out), *more]
    return CliRunner().invoke(app, [*arguments, "--xc", "pbe", "--json"])


@pytest.mark.parametrize("name", WRITERS)
def test_a_crystal_comes_out_as_it_was_written(tmp_path, name):
    write, tolerance, reach = WRITERS[name]
    folder = tmp_path / "one"
    folder.mkdir()
    command = write(folder)
    answer = run(command, tmp_path, tmp_path / "out.h5")
    assert answer.exit_code == 0, answer.stderr
    assert json.loads(answer.stdout)["n_records"] == 1
    store = Store.open(tmp_path / "out.h5")
    record = store[0]
    np.testing.assert_allclose(record.structure.positions, POSITIONS, atol=1e-7)
    np.testing.assert_allclose(record.structure.cell, CELL, atol=1e-7)
    assert record.structure.pbc.all()
    assert record.layout.atom_pairs[:, 0].max() == REACH  # the union: S reaches further than H
    for part, integral, far in (
        ("overlap", "int1e_ovlp", REACH),
        ("hamiltonian", "int1e_kin", reach),
    ):
        truth = blocks(integral, "wiki", far)
        got = record.blocks(part)
        for k, pair in enumerate(record.layout.atom_pairs.tolist()):
            block = got.block(k).reshape(got.layout.shapes[k])
            expected = truth.get(tuple(pair), np.zeros_like(block))
            np.testing.assert_allclose(block, expected, atol=tolerance)
    k = np.array([0.21, 0.4, 0.1])
    hk = to_k(record.blocks("hamiltonian"), k)[0]
    np.testing.assert_allclose(hk, hk.conj().T, atol=1e-12)
    shown = CliRunner().invoke(app, ["data", "info", str(tmp_path / "out.h5")])
    assert shown.exit_code == 0
    checked = CliRunner().invoke(app, ["data", "check", str(tmp_path / "out.h5"), "-q"])
    assert checked.exit_code == 0, checked.stderr


@pytest.mark.parametrize("name", WRITERS)
def test_another_orbital_order_is_found_out_by_the_overlap(tmp_path, name):
    write, _, _ = WRITERS[name]
    command = write(tmp_path)
    wrong = "hamnet" if "abacus" in name or "legacy" in name else "openmx"
    answer = run(command, tmp_path, tmp_path / "out.h5", "--order", wrong)
    assert answer.exit_code == 1
    assert f"does not fit the geometry in the orbital order '{wrong}'" in answer.stderr
    assert not (tmp_path / "out.h5").exists()


def test_wrong_positions_and_spinors_are_found_out(tmp_path):
    command = legacy(tmp_path)
    np.savetxt(tmp_path / "site_positions.dat", POSITIONS.T / BOHR_TO_ANGSTROM)
    answer = run(command, tmp_path, tmp_path / "out.h5")
    assert "does not fit the geometry" in answer.stderr
    (tmp_path / "info.json").write_text('{"isspinful": true}')
    assert "spinful" in run(command, tmp_path, tmp_path / "out.h5").stderr


def test_truncated_and_empty_sources_are_refused(tmp_path):
    command = abacus_new(tmp_path)
    path = tmp_path / "srs1_nao.csr"
    path.write_text(path.read_text()[:-4000])
    assert "ends too early" in run(command, tmp_path, tmp_path / "out.h5").stderr
    (tmp_path / "empty").mkdir()
    for format_ in (["deeph-legacy"], ["deeph"], ["deeptb"], command):
        answer = run(format_, tmp_path / "empty", tmp_path / "out.h5")
        assert answer.exit_code == 1
        assert "is it" in answer.stderr
        assert "no such folder" in run(format_, tmp_path / "nothing", tmp_path / "o.h5").stderr


def test_a_crystal_goes_out_and_comes_back(tmp_path):
    command = new_deeph(tmp_path)
    assert run(command, tmp_path, tmp_path / "a.h5").exit_code == 0
    one = Store.open(tmp_path / "a.h5")[0]
    for target, tolerance in (("deeph", 1e-12), ("deeptb", 1e-6)):
        out = tmp_path / f"to-{target}"
        sent = ["data", "export", str(tmp_path / "a.h5"), "--format", target, "-o", str(out)]
        assert CliRunner().invoke(app, sent).exit_code == 0
        assert run([target], out, tmp_path / f"{target}.h5").exit_code == 0
        two = Store.open(tmp_path / f"{target}.h5")[0]
        np.testing.assert_array_equal(two.layout.atom_pairs, one.layout.atom_pairs)
        np.testing.assert_allclose(two.hamiltonian, one.hamiltonian, atol=tolerance)
        np.testing.assert_allclose(two.overlap, one.overlap, atol=tolerance)


def spliced(path: Path, first_of_each: str) -> None:
    """Append a file to itself, as molecular dynamics does with its steps."""
    text = path.read_text()
    path.write_text(text + text.replace(*first_of_each.split("|")))


@pytest.mark.parametrize("write", [abacus_old, abacus_new])
def test_steps_of_molecular_dynamics_are_a_trajectory(tmp_path, write):
    command = write(tmp_path)
    for path in tmp_path.glob("*.csr"):
        spliced(path, " Ionic Step 1 | Ionic Step 2 " if write is abacus_new else "STEP: 0|STEP: 1")
    if write is abacus_old:  # one geometry for two steps: which one is it?
        answer = run(command, tmp_path, tmp_path / "a.h5")
        assert "geometry.xyz holds 1 geometries for 2 ionic steps" in answer.stderr
        path = tmp_path / "geometry.xyz"
        moved = path.read_text().replace("-0.2 -0.8 0.6", "-0.2 -0.8 0.6000001")
        path.write_text(path.read_text() + moved)
    answer = run(command, tmp_path, tmp_path / "a.h5")
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    # equal steps are one record: the same label is never stored twice
    assert (found["n_new"], found["n_known"]) == ((1, 1) if write is abacus_new else (2, 0))
    assert Store.open(tmp_path / "a.h5").groups[0] == str(tmp_path)
    answer = run(command, tmp_path, tmp_path / "b.h5", "--limit", "1")
    assert json.loads(answer.stdout)["n_new"] == 1


def test_two_spin_channels_of_abacus(tmp_path):
    command = abacus_new(tmp_path)
    text = (tmp_path / "hrs1_nao.csr").read_text()
    (tmp_path / "hrs2_nao.csr").write_text(text)
    assert run(command, tmp_path, tmp_path / "a.h5").exit_code == 0
    assert len(Store.open(tmp_path / "a.h5")[0].hamiltonian) == 2


def test_spinors_of_abacus_are_refused(tmp_path):
    command = abacus_new(tmp_path)
    lines = (tmp_path / "hrs1_nao.csr").read_text().splitlines()
    at = next(k for k, line in enumerate(lines) if "CSR values" in line) + 1
    lines[at] = " ".join(f"({x},0.0)" for x in lines[at].split())
    (tmp_path / "hrs1_nao.csr").write_text("\n".join(lines))
    assert "nspin = 4" in run(command, tmp_path, tmp_path / "a.h5").stderr


@pytest.mark.parametrize("factor", [BOHR_TO_ANGSTROM, 1 / BOHR_TO_ANGSTROM])
def test_lengths_in_another_unit_are_found_out(tmp_path, factor):
    """The directions of bonds do not see it when the cell is wrong by the same factor."""
    command = abacus_new(tmp_path)
    for path in tmp_path.glob("*.csr"):
        text = path.read_text()
        wrong = f" {LATTICE_CONSTANT * factor!r}\n"
        path.write_text(text.replace(f" {LATTICE_CONSTANT!r}\n", wrong))
    answer = run(command, tmp_path, tmp_path / "a.h5")
    assert answer.exit_code == 1
    assert "are the lengths in another unit?" in answer.stderr


def test_harmonics_and_orders_hold_for_f_shells():
    mole = gto.M(atom="He 0.3 -0.2 0.5; C 1.0 0.7 -0.4", basis="cc-pvtz", verbose=0)
    f = [k for k, label in enumerate(mole.ao_labels()) if "C 4f" in label]
    column = mole.intor("int1e_ovlp")[0, f]  # <1s of He|f of C>, PySCF's m = -3..3
    bond = mole.atom_coord(1) - mole.atom_coord(0)
    harmonics = real_harmonics(3, bond)
    assert abs(column @ harmonics) / np.linalg.norm(column) / np.linalg.norm(
        harmonics
    ) == pytest.approx(1, abs=1e-12)
    basis = OrbitalBasis("", {6: (3,)}, {6: ""})
    by_m = dict(zip(range(-3, 4), column, strict=True))
    for order, sign in (("openmx", 1), ("abacus", -1)):  # both write m = 0, 1, -1, 2, -2, 3, -3
        written = np.array([sign**m * by_m[m] for m in (0, 1, -1, 2, -2, 3, -3)])
        perm, signs = ao_order(basis, np.array([6]), order)
        np.testing.assert_allclose(signs * written[perm], column, atol=1e-15)
