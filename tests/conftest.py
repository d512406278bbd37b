"""Real labels for the tests, each made once per run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hamnet.basis import OrbitalBasis
from hamnet.blocks import HamiltonianBlocks, to_dense
from hamnet.data.level import LevelOfTheory
from hamnet.data.record import Record
from hamnet.integrals import basis_for
from hamnet.prediction import Prediction
from hamnet.spectrum import solve
from hamnet.structure import Structure
from hamnet_datasets.labels import label
from tests.synthetic import write_store

torch.set_num_threads(1)  # small tensors: threads cost more than they bring

WATER = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def level() -> LevelOfTheory:
    return LEVEL


@pytest.fixture(scope="session")
def many_waters() -> list[Record]:
    """Sixteen distorted waters, PBE/def2-SVP, with both references."""
    rng = np.random.default_rng(1)
    return [
        label(
            Structure(np.array([8, 1, 1]), WATER + 0.05 * rng.standard_normal((3, 3))),
            LEVEL,
            origin=f"waters@{n}",
            group=f"trajectory-{n // 2}",
        )
        for n in range(16)
    ]


@pytest.fixture(scope="session")
def water_records(many_waters: list[Record]) -> list[Record]:
    """Four of them."""
    return many_waters[:4]


@pytest.fixture(scope="session")
def radical_record() -> Record:
    """OH radical, two spin channels."""
    structure = Structure(np.array([8, 1]), np.array([[0.0, 0.0, 0.0], [0.0, 0.2, 0.95]]), spin=1)
    return label(structure, LEVEL, origin="radical@0")


@pytest.fixture(scope="session")
def water_basis(water_records: list[Record]) -> OrbitalBasis:
    return basis_for(water_records[0].structure, LEVEL.basis)


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory,
    many_waters: list[Record],
    level: LevelOfTheory,
    water_basis: OrbitalBasis,
) -> Path:
    """The sixteen waters as a file."""
    path = tmp_path_factory.mktemp("data") / "water.h5"
    return write_store(path, many_waters, level, water_basis)


@pytest.fixture(scope="session")
def predict_from() -> Callable[[Record, OrbitalBasis, np.ndarray], Prediction]:
    """The answer of a model whose H has the given entries ``[n_spin, n_entries]``."""
    return _predict_from


def _predict_from(record: Record, basis: OrbitalBasis, hamiltonian: np.ndarray) -> Prediction:
    blocks = HamiltonianBlocks(record.layout, hamiltonian)
    dense = torch.from_numpy(to_dense(blocks))
    overlap = torch.from_numpy(to_dense(record.blocks("overlap"))).expand_as(dense)
    spectrum = solve(dense, overlap)
    return Prediction(
        structure=record.structure,
        basis=basis,
        hamiltonian=blocks,
        overlap=record.blocks("overlap"),
        orbital_energies=spectrum.energies.numpy(),
        coefficients=spectrum.coefficients.numpy(),
        occupations=record.occupations,
    )
