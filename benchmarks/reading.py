"""Random access to 10,000 ragged molecules: hamnet, an LMDB of pickles, a group per molecule.

All three hold the same records (numbers are noise, sizes 3 to 12 atoms of H, C and O in def2-SVP,
two reference Hamiltonians) and give back the same object. Each is read in a random order;
hamnet's file twice, because it verifies the checksum of a record when it is read for the first
time in a process. The share of waiting is measured on waters: reading a record and making it into
a graph, against the gradient steps of `hamnet train`. The files are written by this script.
"""

import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from common import finish, parser
from torch.utils.data import DataLoader

from hamnet.basis import OrbitalBasis
from hamnet.blocks import PairLayout, molecule_layout
from hamnet.data.level import LevelOfTheory, record_id
from hamnet.data.record import Record
from hamnet.data.store import Store
from hamnet.data.writer import Writer
from hamnet.references import Reference
from hamnet.structure import Structure
from hamnet.training.config import TrainConfig
from hamnet.training.dataset import RecordDataset, SampleDataset
from hamnet.training.run import train
from hamnet_datasets.jobs import Options, label_recipe
from hamnet_datasets.recipes import load_recipe

LEVEL = LevelOfTheory(xc="pbe", basis="def2-svp")
_HEAVY = (0, 0, 0, 1, 1, 2)
BASIS = OrbitalBasis("def2-svp", {1: (0, 0, 1), 6: _HEAVY, 8: _HEAVY}, {1: "h", 6: "c", 8: "o"})
REFERENCES = ("minao", "sap")


def records(n: int) -> Iterator[Record]:
    """Yield molecules of different sizes on a loose grid, with noise for labels."""
    rng = np.random.default_rng(0)
    grid = np.array([[i, j, k] for i in range(3) for j in range(2) for k in range(2)]) * 1.4
    for k in range(n):
        size = int(rng.integers(3, 13))
        numbers = rng.choice([1, 6, 8], size, p=[0.55, 0.35, 0.1])
        structure = Structure(numbers, grid[:size] + 0.1 * rng.normal(size=(size, 3)))
        layout = molecule_layout(BASIS.atom_offsets(structure.numbers))
        noise = rng.normal(size=int(layout.boundaries[-1]))
        energies = rng.normal(size=(1, layout.n_orbitals))
        yield Record(
            record_id(structure, LEVEL),
            structure,
            layout,
            noise[None],
            noise,
            {"minao": 0.9 * noise, "sap": 0.8 * noise},
            energies,
            energies,
            origin=f"molecule {k}",
        )


def write_groups(path: Path, store: Store) -> None:
    """Write one HDF5 group a molecule, the layout of many published datasets."""
    with h5py.File(path, "w") as file:
        for k, record in enumerate(store):
            group = file.create_group(f"{k:06d}")
            group.attrs["id"], group.attrs["origin"] = record.id, record.origin
            group.attrs["charge"], group.attrs["spin"] = 0, 0
            group["numbers"] = record.structure.numbers
            group["positions"] = record.structure.positions
            group["atom_pairs"] = record.layout.atom_pairs
            group["offsets"] = record.layout.atom_offsets
            for name in ("hamiltonian", "overlap", "orbital_energies", "occupations"):
                group[name] = getattr(record, name)
            for name, h0 in record.references.items():
                group[name] = h0


def read_group(file: h5py.File, k: int) -> Record:
    """Return the record of one group."""
    group = file[f"{k:06d}"]
    attrs = group.attrs
    return Record(
        attrs["id"],
        Structure(
            group["numbers"][()],
            group["positions"][()],
            charge=int(attrs["charge"]),
            spin=int(attrs["spin"]),
        ),
        PairLayout(group["atom_pairs"][()], group["offsets"][()]),
        group["hamiltonian"][()],
        group["overlap"][()],
        {name: group[name][()] for name in REFERENCES},
        group["orbital_energies"][()],
        group["occupations"][()],
        origin=attrs["origin"],
    )


def per_sample(read: Callable[[int], Record], order: np.ndarray) -> float:
    """Return microseconds a record, in this order."""
    start = time.perf_counter()
    for k in order.tolist():
        read(k)
    return 1e6 * (time.perf_counter() - start) / len(order)


def loaded_by(store: Store, n_workers: int) -> float:
    """Return microseconds a record through a DataLoader with so many processes."""
    dataset = RecordDataset(store, range(len(store)))
    loader = DataLoader(dataset, 32, shuffle=True, num_workers=n_workers, collate_fn=list)
    start, count = time.perf_counter(), 0
    for batch in loader:
        count += len(batch)
    return 1e6 * (time.perf_counter() - start) / count


def waiting(folder: Path, n: int, seconds: float) -> dict[str, Any]:
    """Return how long a batch takes to load from the file and a step to compute."""
    path = folder / "water.h5"
    recipe = load_recipe("water-pbe-svp")
    quick = recipe.model_copy(update={"level": recipe.level.model_copy(update={"grid_level": 0})})
    label_recipe(quick, path, options=Options(references=("minao",), limit=n))
    config = TrainConfig()
    cutoffs = config.model.message_cutoff, config.model.pair_cutoff
    batch = config.training.batch_size
    with Store.open(path) as store:
        samples = SampleDataset(RecordDataset(store, range(n)), cutoffs, Reference("minao"))
        first = per_sample(lambda k: samples[k], np.arange(n))
        later = per_sample(lambda k: samples[k], np.arange(n))
    settings = config.model_dump()
    settings["training"].update(max_minutes=seconds / 60)
    settings["target"]["reference"] = "minao"
    settings["readout"]["solve"] = False
    chosen = TrainConfig.model_validate(settings)
    result = train(path, folder / "run", chosen, report=lambda line: None)
    step = 1e6 * result.seconds / max(result.n_steps, 1) / batch
    return {
        "what": f"training, batches of {batch}",
        "us_per_record_read_and_made_into_a_graph": first,
        "us_per_record_from_memory": later,
        "us_per_record_trained": step,
        "waiting_first_epoch": first / step,
        "waiting_later_epochs": later / step,
    }


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    try:
        import lmdb  # noqa: PLC0415  (only this benchmark needs it)
    except ImportError:
        raise SystemExit("this benchmark compares with LMDB: pip install lmdb") from None
    n = 1_000 if arguments.quick else 10_000
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Writer(folder / "a.h5", LEVEL, references=REFERENCES) as writer:
            for k, record in enumerate(records(n)):
                writer.append(record, BASIS, order=k)
            writer.finish()
        store = Store.open(folder / "a.h5")
        write_groups(folder / "groups.h5", store)
        environment = lmdb.open(str(folder / "a.lmdb"), map_size=1 << 34, subdir=False)
        with environment.begin(write=True) as transaction:
            for k, record in enumerate(store):
                transaction.put(str(k).encode(), pickle.dumps(record, protocol=5))
        transaction = environment.begin()
        groups = h5py.File(folder / "groups.h5", "r")
        order = np.random.default_rng(1).permutation(n)
        store = Store.open(folder / "a.h5")
        readers: dict[str, Callable[[int], Record]] = {
            "hamnet, first epoch (checksums)": store.__getitem__,
            "hamnet, later epochs": store.__getitem__,
            "LMDB of pickles": lambda k: pickle.loads(transaction.get(str(k).encode())),
            "HDF5, a group per molecule": lambda k: read_group(groups, k),
        }
        timed = {what: per_sample(read, order) for what, read in readers.items()}
        sizes = {
            k: os.path.getsize(folder / f)
            for k, f in (("hamnet", "a.h5"), ("LMDB", "a.lmdb"), ("HDF5", "groups.h5"))
        }
        for what, microseconds in timed.items():
            rows.append(
                {
                    "what": what,
                    "us_per_record": microseconds,
                    "relative_to_lmdb": microseconds / timed["LMDB of pickles"],
                    "megabytes": sizes[what.split(",")[0].split(" ")[0]] / 1e6,
                }
            )
        for workers in (0, 2):
            microseconds = loaded_by(store, workers)
            rows.append(
                {"what": f"hamnet, DataLoader, {workers} workers", "us_per_record": microseconds}
            )
        rows.append(waiting(folder, 64 if arguments.quick else 256, 5 if arguments.quick else 30))
        groups.close()
    finish(rows, arguments, records=n)


if __name__ == "__main__":
    main()
