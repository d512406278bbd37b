"""Records of noise and small networks, in no time. Also run in other processes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hamnet.basis import OrbitalBasis
from hamnet.blocks import molecule_layout
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.data.writer import Writer
from hamnet.structure import Structure

LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp")
BASIS = OrbitalBasis(
    "def2-svp", {1: (0, 0, 1), 8: (0, 0, 0, 1, 1, 2)}, {1: "hydrogen", 8: "oxygen"}
)

SMALL = [
    "model.channels=8",
    "model.pseudo_channels=4",
    "model.layers=1",
    "model.pair_layers=1",
    "model.radial_hidden=16",
    "model.tracegrad_rank=4",
    "model.tracegrad_hidden=16",
]
"""Settings of a network that is trained in seconds."""


def make_record(seed: int, numbers=(8, 1, 1), spin: int = 0, group: str = "run 0") -> Record:
    rng = np.random.default_rng(seed)
    structure = Structure(np.array(numbers), rng.normal(size=(len(numbers), 3)), spin=spin)
    layout = molecule_layout(BASIS.atom_offsets(structure.numbers))
    n_entries, n_spin = int(layout.boundaries[-1]), 2 if spin else 1
    return Record(
        id=record_id(structure, LEVEL),
        structure=structure,
        layout=layout,
        hamiltonian=rng.normal(size=(n_spin, n_entries)),
        overlap=rng.normal(size=n_entries),
        references={"minao": rng.normal(size=n_entries), "sap": rng.normal(size=n_entries)},
        orbital_energies=rng.normal(size=(n_spin, layout.n_orbitals)),
        occupations=rng.normal(size=(n_spin, layout.n_orbitals)),
        group=group,
        origin=f"wässer.xyz@{seed}",
        energy=rng.normal(),
        dipole=rng.normal(size=3),
        scf_cycles=7,
        seconds=0.25,
    )


def open_writer(path, **options) -> Writer:
    return Writer(path, LEVEL, references=("minao", "sap"), card={"name": "test"}, **options)


def write_records(path: Path, n: int) -> None:
    with open_writer(path) as writer:
        for k in range(n):
            writer.append(make_record(k), BASIS, order=k)
        writer.finish()


def write_store(
    path: Path, records: Iterable[Record], level: LevelOfTheory, basis: OrbitalBasis
) -> Path:
    """Write records that hold both references; return the path."""
    with Writer(path, level, references=("minao", "sap")) as writer:
        for record in records:
            writer.append(record, basis)
        writer.finish()
    return path
