"""An SCF that starts from a model: fewer cycles, the same energy, and never a worse guess."""

import csv
import json

import numpy as np
import pytest
from pyscf import dft, gto, scf
from pyscf.pbc import gto as pbc_gto
from pyscf.tools import molden
from typer.testing import CliRunner

import hamnet
from hamnet.errors import HamnetError
from hamnet.inference.scf import converge
from hamnet.inference.warm_start import checked_guess, scf_residual
from hamnet.integrals import basis_of, to_blocks
from hamnet.interop.pyscf import structure_of, to_mole
from hamnet.models import load_model
from hamnet.models.model import orbitals
from hamnet.testing import random_model
from hamnet.training.config import load_config
from hamnet.training.run import train
from hamnet_cli.app import app

SMALL = ("model.channels=8", "model.pseudo_channels=2", "training.max_steps=0")


@pytest.fixture(scope="module")
def model_file(store, tmp_path_factory):
    """An instant model of sixteen waters, reference sap: H errors of about 1e-4 Ha."""
    config = load_config(overrides=[*SMALL, "target.reference=sap"])
    return train(store, tmp_path_factory.mktemp("warm") / "run", config).model_file


@pytest.fixture(scope="module")
def model(model_file):
    return load_model(model_file)


@pytest.fixture
def water(many_waters):
    return to_mole(many_waters[3].structure, "def2-svp")


def coarse(mf):
    """A small grid: the laws here hold on any."""
    mf.grids.level = 1
    return mf


def rks(mole):
    return coarse(dft.RKS(mole, xc="pbe"))


CALCULATIONS = {
    "RKS": rks,
    "UKS": lambda mole: coarse(dft.UKS(mole, xc="pbe")),
    "ROKS": lambda mole: coarse(dft.ROKS(mole, xc="pbe")),
    "density fitting": lambda mole: rks(mole).density_fit(),
    "Newton": lambda mole: rks(mole).newton(),
    "Newton of UKS with density fitting": lambda mole: (
        coarse(dft.UKS(mole, xc="pbe,pbe")).density_fit().newton()
    ),
}


def cycles_of(mf, **arguments):
    count = []
    mf.callback = lambda _: count.append(1)
    mf.kernel(**arguments)
    assert mf.converged
    return len(count)


@pytest.mark.parametrize("make", CALCULATIONS.values(), ids=CALCULATIONS)
def test_same_energy_in_fewer_cycles(make, water, model):
    plain, warm = make(water), hamnet.warm_start(make(water), model)
    default = cycles_of(plain)
    assert cycles_of(warm) < default
    assert warm.guess.used
    assert warm.guess.warning == ""
    assert warm.guess.n_electrons == pytest.approx(10, abs=1e-9)
    assert abs(warm.e_tot - plain.e_tot) < 1e-8
    assert isinstance(warm, type(plain))  # gradients and the rest of PySCF work on it


def test_the_original_is_not_touched_and_old_orbitals_are_left(water, model_file):
    plain = rks(water)
    plain.kernel()
    before = dict(vars(plain))
    warm = hamnet.warm_start(plain, model_file)
    assert warm.mo_coeff is None
    assert vars(plain) == before
    assert cycles_of(warm) >= 1
    assert warm.guess.used


def test_wrapped_before_newton_and_density_fitting(water, model):
    for wrapped, plain in (
        (hamnet.warm_start(rks(water), model).newton(), rks(water).newton()),
        (hamnet.warm_start(rks(water), model).density_fit(), rks(water).density_fit()),
    ):
        assert cycles_of(wrapped) < cycles_of(plain)
        assert wrapped.guess.used
        assert abs(wrapped.e_tot - plain.e_tot) < 1e-8


def test_an_explicit_density_and_other_guesses_win(water, model):
    plain, warm = rks(water), hamnet.warm_start(rks(water), model)
    assert cycles_of(warm, dm0=plain.get_init_guess()) == cycles_of(plain)
    assert warm.guess is None
    np.testing.assert_array_equal(warm.get_init_guess(key="1e"), plain.get_init_guess(key="1e"))
    assert np.abs(warm.get_init_guess() - plain.get_init_guess()).max() > 1e-2  # no key: the model


def test_the_fock_matrix_of_the_guess_is_built_once(water, model):
    run = converge(structure_of(water), model)
    assert run.guess.used
    assert run.fock_builds == run.cycles + 2  # the guess, and PySCF's extra cycle at the end


def test_a_scanner_asks_the_model_at_every_geometry(model, many_waters):
    scanner = hamnet.warm_start(rks(to_mole(many_waters[0].structure, "def2-svp")), model)
    scanner = scanner.as_scanner()
    for record in many_waters[:2]:
        mole = to_mole(record.structure, "def2-svp")
        energy = scanner(mole)
        assert scanner.guess.used
        assert energy == pytest.approx(rks(mole).kernel(), abs=1e-8)
        scanner.guess = None


def test_the_checkpoint_holds_the_result(water, model, tmp_path):
    warm = hamnet.warm_start(rks(water), model)
    warm.chkfile = str(tmp_path / "water.chk")
    cycles_of(warm)
    again = rks(water)
    again.init_guess, again.chkfile = "chkfile", warm.chkfile
    assert cycles_of(again) < cycles_of(rks(water))
    behind = hamnet.warm_start(again, model)
    assert behind.own_guess == "chkfile"  # steps in where the model's guess is worse


def test_a_useless_model_costs_cycles_nothing_and_says_so(water):
    model = random_model("def2-svp", [1, 8])
    warm = hamnet.warm_start(rks(water), model)
    with pytest.warns(UserWarning, match="PySCF's own guess is used"):
        assert cycles_of(warm) == cycles_of(rks(water))
    assert not warm.guess.used
    assert abs(warm.e_tot - rks(water).kernel()) < 1e-8


def test_a_label_converges_at_once(many_waters, water, water_basis, predict_from):
    label = many_waters[3]
    prediction = predict_from(label, water_basis, label.hamiltonian)
    mf = dft.RKS(water, xc="pbe")
    density, guess = checked_guess(prediction, mf, water, mf.get_init_guess())
    assert guess.used
    assert guess.residual < 1e-5
    assert guess.disagreement < 1e-9  # no direction of this overlap is below the cut
    assert cycles_of(mf, dm0=density) == 1


@pytest.mark.parametrize(("noise", "used"), [(1e-4, True), (1e-3, True), (0.1, False)])
def test_the_check_separates_good_guesses_from_bad_ones(
    noise, used, many_waters, water, water_basis, predict_from, rng
):
    label = many_waters[3]
    error = noise * rng.standard_normal(label.hamiltonian.shape)
    prediction = predict_from(label, water_basis, label.hamiltonian + error)
    mf = rks(water)
    own = mf.get_init_guess()
    density, guess = checked_guess(prediction, mf, water, own)
    assert guess.used == used
    assert (density is not None) == used
    # The residual of PySCF's guess in the model's Fock matrix stands for that in its own.
    itself = scf_residual(mf.get_fock(dm=own), own, mf.get_ovlp())
    assert guess.own_residual == pytest.approx(itself, rel=0.6)
    if used:
        assert cycles_of(mf, dm0=density) < cycles_of(rks(water))


def test_a_ghost_orbital_is_left_out():
    """An error of H along a nearly dependent direction puts a pair of electrons there."""
    structure = hamnet.Structure([8, 1, 1], [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])
    mole = to_mole(structure, "def2-svp")
    mole.basis = {k: [*v, [0, [0.13, 1.0]]] for k, v in mole._basis.items()}  # nearly dependent
    mole.build(parse_arg=False, dump_input=False)
    mf = rks(mole)
    mf.kernel()
    s, exact = mf.get_ovlp(), mf.make_rdm1()
    values, vectors = np.linalg.eigh(s)
    assert values[0] < 1e-2
    ghost = s @ vectors[:, 0] / np.sqrt(values[0])  # lowered by 20 Ha
    basis = basis_of(mole, "custom")
    h, overlap = (
        to_blocks(m, basis, structure) for m in (mf.get_fock() - 20 * np.outer(ghost, ghost), s)
    )
    prediction = orbitals(structure, basis, h.entries, overlap, mole.nelectron)
    density, guess = checked_guess(prediction, mf, mole, mf.get_init_guess())
    assert guess.disagreement > 2.5
    assert "nearly dependent" in guess.warning
    assert guess.used
    wrong = density - exact
    assert np.einsum("ij,jk,kl,li->", wrong, s, wrong, s) < 0.1


def test_the_residual_vanishes_for_the_converged_density_only(water):
    mf = rks(water)
    mf.conv_tol_grad = 1e-7
    mf.kernel()
    density, s = mf.make_rdm1(), mf.get_ovlp()
    assert scf_residual(mf.get_fock(), density, s) < 1e-5
    gradient = np.linalg.norm(mf.get_grad(mf.mo_coeff, mf.mo_occ, mf.get_hcore()))
    one_electron = scf_residual(mf.get_hcore(), density, s)
    assert one_electron == pytest.approx(np.sqrt(2) * gradient, rel=1e-9)


WATER = {"atom": "O 0 0 0; H 0.76 0.59 0; H -0.76 0.59 0", "basis": "def2-svp", "verbose": 0}
AMMONIA = {**WATER, "atom": "N 0 0 0; H 0.9 0 0.3; H -0.5 0.8 0.3; H -0.5 -0.8 0.3"}
CRYSTAL = {"atom": "O 0 0 0", "a": np.eye(3) * 5, "basis": "def2-svp", "verbose": 0}
UNLIKE = {
    "functional": lambda: dft.RKS(gto.M(**WATER), xc="b3lyp"),
    "Hartree-Fock": lambda: scf.RHF(gto.M(**WATER)),
    "basis": lambda: rks(gto.M(**{**WATER, "basis": "sto-3g"})),
    "Cartesian": lambda: rks(gto.M(**WATER, cart=True)),
    "element": lambda: rks(gto.M(**AMMONIA)),
    "spin": lambda: dft.UKS(gto.M(**WATER, spin=2), xc="pbe"),
    "crystal": lambda: pbc_gto.M(**CRYSTAL).RKS(xc="pbe"),
    "nonsense": lambda: "a string",
}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("functional", r"functional is 'b3lyp' \(libxc 402 x 1.*trained for 'pbe' \(libxc 101"),
        ("Hartree-Fock", "functional is 'hf'.*trained for 'pbe'"),
        ("basis", r"another basis \('sto-3g'\).* in 'def2-svp'; they differ for H, O"),
        ("Cartesian", "Cartesian"),
        ("element", "atom 0 is N, but the model was trained for H, O only"),
        ("spin", "spin is 2, but the model was trained for 0"),
        ("crystal", "the calculation is periodic"),
        ("nonsense", "needs a PySCF mean field .* got str"),
    ],
)
def test_calculations_of_another_kind_are_refused(name, message, model):
    with pytest.raises(HamnetError, match=message):
        hamnet.warm_start(UNLIKE[name](), model)


def test_only_one_model_at_a_time(water, model):
    with pytest.raises(HamnetError, match="from a model already"):
        hamnet.warm_start(hamnet.warm_start(rks(water), model), model)


GOOD = "3\ngood\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n"
BAD = "3\nion charge=1 spin=1\nO 0 0 0\nH 0.76 0.59 0\nH -0.76 0.59 0\n"


def run_cli(*arguments):
    return CliRunner().invoke(app, ["scf", *map(str, arguments)], catch_exceptions=False)


def test_command(model_file, tmp_path):
    (tmp_path / "new.xyz").write_text(GOOD + BAD)
    answer = run_cli(
        model_file, tmp_path / "new.xyz", "--compare", "--json", "-q", "-o", tmp_path / "out"
    )
    assert answer.exit_code == 1  # one frame failed
    (line,) = answer.stderr.splitlines()
    expected = f"error: {tmp_path}/new.xyz, frame 1: charge is 1, but the model was trained for 0"
    assert line == expected
    found = json.loads(answer.stdout)
    good, bad = found["frames"]
    assert found["n_failed"] == 1
    assert good["guess"] == "model"
    assert good["cycles"] < good["default_cycles"]
    assert good["fock_builds"] < good["default_fock_builds"]
    assert abs(good["energy_minus_default_hartree"]) < 1e-8
    assert bad["energy_hartree"] is None
    with (tmp_path / "out" / "scf.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["energy_hartree"]) == good["energy_hartree"]
    mole, energies, c, occupations, *_ = molden.load(str(tmp_path / "out" / "frame_000000.molden"))
    assert energies[4] * 27.211386 == pytest.approx(good["homo_ev"], abs=1e-4)
    overlap = c.T @ mole.intor("int1e_ovlp") @ c
    np.testing.assert_allclose(overlap, np.eye(mole.nao), atol=1e-6)
    assert occupations.sum() == 10


@pytest.mark.parametrize("option", ["--density-fit", "--second-order"])
def test_command_with_other_solvers(option, model_file, tmp_path):
    (tmp_path / "new.xyz").write_text(GOOD)
    answer = run_cli(model_file, tmp_path / "new.xyz", option, "--compare")
    assert answer.exit_code == 0, answer.stderr
    assert "cycles a frame instead of" in answer.stdout


def test_command_reports_what_does_not_converge(model_file, tmp_path):
    (tmp_path / "new.xyz").write_text(GOOD)
    answer = run_cli(model_file, tmp_path / "new.xyz", "--max-cycle", 1, "-q")
    assert answer.exit_code == 1
    assert "not converged in 1 cycles" in answer.stderr
