"""Bands: Fermi levels, gaps, counting of states, files; the Hamiltonian is Hueckel's."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr
from typer.testing import CliRunner

from hamnet import pardiso
from hamnet.bands import (
    band_edges,
    band_energies,
    band_path,
    bloch_matrix,
    half_mesh,
    k_mesh,
    mesh_points,
)
from hamnet.blocks import HamiltonianBlocks, to_k
from hamnet.errors import HamnetError
from hamnet.evaluation.band_files import plot_bands, read_bands, write_bands
from hamnet.evaluation.bands import DOS_WIDTH_EV, CrystalMatrices, band_structure, compare_bands
from hamnet.memory import check_memory
from hamnet.models import save_model
from hamnet.sparse import Shifted, find_level
from hamnet.structure import Structure
from hamnet.testing import random_model
from hamnet.units import HARTREE_TO_EV
from hamnet_cli.app import app
from hamnet_datasets.supercells import repeated
from tests.huckel import huckel

BASIS, PSEUDO, A = "gth-szv-molopt-sr", "gth-pbe", 2.46
LAYER = np.array([[A, 0, 0], [-A / 2, A * np.sqrt(3) / 2, 0], [0, 0, 0]])
IN_PLANE = np.array([True, True, False])


def layer(numbers=(6, 6)) -> Structure:
    atoms = np.array([[0, 0, 0], [0, A / np.sqrt(3), 0]])
    return Structure(np.array(numbers), atoms, LAYER, IN_PLANE)


@pytest.fixture(scope="module")
def graphene() -> CrystalMatrices:
    return huckel(layer(), 8)


@pytest.fixture(scope="module")
def boron_nitride() -> CrystalMatrices:
    return huckel(layer((5, 7)), 8)


def test_sparse_and_dense_matrices_are_one(graphene):
    k = np.array([0.13, 0.29, 0.0])
    assert (
        np.abs(bloch_matrix(graphene.overlap, k).toarray() - to_k(graphene.overlap, k)).max()
        < 1e-14
    )
    real = bloch_matrix(graphene.overlap, np.array([0.5, 0.0, 0.0]))
    assert real.dtype == np.float64
    assert np.abs(real.toarray() - to_k(graphene.overlap, np.array([0.5, 0, 0]))).max() < 1e-14


def test_graphene_is_a_semimetal_with_its_dirac_point_at_k(graphene):
    k = np.array([[1 / 3, 1 / 3, 0.0]])
    e = band_energies(graphene.hamiltonian, graphene.overlap, k)[0, 0]
    assert (np.diff(e) < 1e-10).sum() >= 2


def test_a_gap_that_closes_between_the_points_of_the_mesh_is_seen_on_the_path(graphene):
    off = band_structure(graphene, path="GM", n_points=5, mesh_length=8.0)  # no K on this mesh
    on = band_structure(graphene, path="GMKG", n_points=31, mesh_length=8.0)
    assert all(n % 3 for n in on.mesh[:2])
    assert off.edges.gap > 0.05
    assert on.edges.gap < 1e-9


def test_boron_nitride_has_its_gap_between_the_fourth_and_fifth_band(boron_nitride):
    found = band_structure(boron_nitride, path="GMKG", n_points=31, mesh_length=15.0)
    assert found.edges is not None
    assert found.edges.valence is not None
    assert found.edges.conduction is not None
    assert found.edges.gap > 0.1
    assert found.edges.gap == pytest.approx(found.edges.conduction - found.edges.valence)
    for k, energy, band in (
        (found.edges.valence_k, found.edges.valence, 3),
        (found.edges.conduction_k, found.edges.conduction, 4),
    ):
        e = band_energies(boron_nitride.hamiltonian, boron_nitride.overlap, np.array([k]))[0, 0]
        assert e[band] == pytest.approx(energy, abs=1e-12)


def test_half_a_mesh_has_the_weights_of_the_whole(graphene):
    for mesh in ((4, 3, 1), (5, 5, 1), (1, 1, 6)):
        k, weights = half_mesh(mesh)
        assert weights.sum() == pytest.approx(1.0)
        whole = np.cos(2 * np.pi * mesh_points(mesh) @ [1, 2, 1]).mean()
        assert weights @ np.cos(2 * np.pi * k @ [1, 2, 1]) == pytest.approx(whole, abs=1e-12)
    assert k_mesh(graphene.structure, 14.0) == (7, 7, 1)


def test_the_fermi_level_of_a_metal_holds_its_electrons(graphene):
    k, weights = half_mesh((9, 9, 1))
    e = band_energies(graphene.hamiltonian, graphene.overlap, k)
    for n in (3.0, 7.3):
        level = band_edges(e, k, weights, n, smearing=0.01).fermi
        filled = 2 / (1 + np.exp((e[0] - level) / 0.01))
        assert weights @ filled.sum(axis=1) == pytest.approx(n, abs=1e-8)
    with pytest.raises(HamnetError, match="17 electrons do not fit into 8 bands"):
        band_edges(e, k, weights, 17)


def test_the_density_of_states_counts_two_electrons_a_band(graphene):
    found = band_structure(graphene, n_points=2, mesh_length=8.0)
    k, weights = half_mesh(found.mesh)
    levels = HARTREE_TO_EV * band_energies(graphene.hamiltonian, graphene.overlap, k)[0]
    ends = found.dos_energies_ev[[0, -1], None, None]
    below = 2 * weights @ ndtr((ends - levels) / DOS_WIDTH_EV).sum(axis=2).T  # each Gaussian's part
    total = np.trapezoid(found.dos_per_ev, found.dos_energies_ev)
    assert total == pytest.approx(below[1] - below[0], rel=1e-3)


@pytest.fixture(params=["superlu", "pardiso"])
def factorisation(request, monkeypatch) -> str:
    """Both ways to factorise; the second is an extra."""
    if request.param == "superlu":
        monkeypatch.setattr("hamnet.pardiso.library", lambda: None)
    elif pardiso.library() is None:
        pytest.skip("pypardiso is not installed")
    return request.param


@pytest.mark.parametrize("k", [(0.0, 0.0, 0.0), (0.1, 0.3, 0.0)], ids=["real", "complex"])
@pytest.mark.usefixtures("factorisation")
def test_states_near_an_energy_and_their_number(boron_nitride, k):
    """Inertia: the dense spectrum has as many states below as the signs of the factors say."""
    large = repeated(boron_nitride.structure, (3, 2, 1))
    matrices = huckel(large, 48)
    h, s = (
        HamiltonianBlocks(matrices.hamiltonian.layout, matrices.hamiltonian.entries[0]),
        matrices.overlap,
    )
    point = np.array(k)
    dense = band_energies(matrices.hamiltonian, s, point[None])[0, 0]
    sigma = find_level(bloch_matrix(h, point), bloch_matrix(s, point), 24, 1)
    assert abs((dense < sigma).sum() - 24) <= 1
    found = Shifted(bloch_matrix(h, point), bloch_matrix(s, point), sigma).states(10)
    assert np.abs(found.energies - dense[found.first : found.first + 10]).max() < 1e-10


@pytest.mark.usefixtures("factorisation")
def test_sparse_and_dense_bands_are_the_same(boron_nitride):
    matrices = huckel(repeated(boron_nitride.structure, (3, 2, 1)), 48)
    options = {"path": "GX", "n_points": 4, "mesh_length": 8.0, "near_fermi": 12}
    dense = band_structure(matrices, solver="dense", **options)
    sparse = band_structure(matrices, solver="sparse", **options)
    assert dense.fermi_ev == pytest.approx(sparse.fermi_ev, abs=1e-6)
    assert compare_bands(sparse, dense, 5.0)["bands_max_mev"] < 1e-3


def test_memory_is_asked_for_before_it_is_taken():
    with pytest.raises(
        HamnetError, match=r"a dense solution .* takes about \d+\.\d GB, but .* free"
    ):
        check_memory(1e15, "a dense solution of 1000000 orbitals")


def test_factors_that_do_not_fit_are_refused(factorisation, boron_nitride, monkeypatch):
    monkeypatch.setattr("hamnet.memory._available", lambda: 100)
    h = HamiltonianBlocks(boron_nitride.overlap.layout, boron_nitride.hamiltonian.entries[0])
    point = np.zeros(3)
    with pytest.raises(HamnetError, match=r"factorising 8 orbitals takes about .* GB, but"):
        Shifted(bloch_matrix(h, point), bloch_matrix(boron_nitride.overlap, point), 0.123)


def test_files_come_back_and_pictures_are_drawn(boron_nitride, tmp_path):
    found = band_structure(boron_nitride, path="GMKG", n_points=12, mesh_length=10.0)
    write_bands(tmp_path / "bands.json", found)
    again = read_bands(tmp_path / "bands.json")
    errors = compare_bands(again, found, 20.0)
    assert errors["bands_max_mev"] < 1e-6
    assert again.edges is not None
    assert again.fermi_ev == pytest.approx(found.fermi_ev)
    assert again.edges.conduction_k == found.edges.conduction_k
    for name in ("bands.png", "bands.svg"):
        plot_bands(tmp_path / name, found, again)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(HamnetError, match=r"\.png, \.svg or \.pdf"):
        plot_bands(tmp_path / "bands.doc", found)
    other = band_structure(boron_nitride, path="GM", n_points=12, mesh_length=10.0)
    with pytest.raises(HamnetError, match="other k points"):
        compare_bands(other, found, 2.0)


def test_perturbed_and_special_cells_have_paths(rng):
    noisy = LAYER + 0.03 * rng.normal(size=(3, 3)) * IN_PLANE[:, None] * IN_PLANE
    perturbed = Structure(np.array([6, 6]), layer().positions, noisy, IN_PLANE)
    assert [name for _, name in band_path(perturbed, "GMKG").ticks] == ["G", "M", "K", "G"]
    with pytest.raises(HamnetError, match="no path 'GQ'"):
        band_path(layer(), "GQ")
    with pytest.raises(HamnetError, match="a molecule has no bands"):
        band_path(Structure(np.array([6]), np.zeros((1, 3))))


def test_command(tmp_path: Path):
    model = random_model(BASIS, (6,), pseudo=PSEUDO, message_cutoff=2.0, pair_cutoff=3.0)
    for t in model.types:  # a Hamiltonian small enough that its bands are tame
        for values in model.standardiser.shift_scale(t):
            values.mul_(0.02)
    save_model(model, tmp_path / "model.safetensors")
    cell = tmp_path / "cell.xyz"
    rows = " ".join(f"{x:.8f}" for x in LAYER.ravel())
    cell.write_text(
        f'2\nLattice="{rows}" pbc="T T F"\nC 0 0 0\nC 0 {A / np.sqrt(3):.8f} 0\n', encoding="utf-8"
    )
    common = [str(tmp_path / "model.safetensors"), str(cell), "--path", "GMKG", "--npoints", "9"]
    out = str(tmp_path / "bands.json")
    first = CliRunner().invoke(app, ["bands", *common, "--mesh-length", "8", "-o", out, "--json"])
    assert first.exit_code == 0, first.output
    summary = json.loads(first.stdout)
    assert summary["n_electrons"] == 8
    assert summary["fermi_ev"] is not None
    picture = str(tmp_path / "bands.png")
    again = CliRunner().invoke(
        app,
        [
            *("bands", *common, "--mesh-length", "8", "-o", str(tmp_path / "b.json")),
            *("--reference", out, "--plot", picture, "--near-fermi", "4", "--window", "50"),
        ],
    )
    assert again.exit_code == 0, again.output
    assert "bands_mae_mev" in again.stdout
    assert Path(picture).is_file()
    missing = CliRunner().invoke(app, ["bands", str(tmp_path / "model.safetensors")])
    assert missing.exit_code == 1
    assert "give the crystal too" in missing.stderr
