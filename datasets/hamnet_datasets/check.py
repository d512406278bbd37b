"""Is a dataset what it says? Every record looked at, some of them computed again."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.spatial.distance import pdist

from hamnet.blocks import HamiltonianBlocks, to_dense
from hamnet.data.level import PYSCF_PROGRAMS
from hamnet.data.record import Record
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.integrals import to_mole
from hamnet.spinor import eigenproblem
from hamnet.structure import check_contacts
from hamnet.units import HARTREE_TO_UHA
from hamnet_datasets.distinct import rmsd
from hamnet_datasets.labels import ROUNDING, label, orbital_energies

MAX_ENERGY_ERROR = 1e-8
"""Hartree, of stored orbital energies against the stored H and S."""

MAX_RECOMPUTED_UHA = 1.0
"""Two functionals or grids differ by more, two runs of the same level by a tenth of it."""

MIN_OVERLAP_EIGENVALUE = 1e-6
LEAK_RMSD = 1e-4
"""Angstrom; the same geometry, turned or written with fewer digits."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        where: record and its origin, or the whole file.
        what: one sentence for people.
    """

    where: str
    what: str


@dataclass
class CheckReport:
    """What a check has looked at and found.

    Attributes:
        n_records: records looked at.
        findings: what is wrong; empty is good.
        recomputed_uha: mean ``|dH|`` of every record that was computed again, microhartree.
        min_overlap_eigenvalue: the smallest of all the overlaps.
    """

    n_records: int = 0
    findings: list[Finding] = field(default_factory=list)
    recomputed_uha: list[float] = field(default_factory=list)
    min_overlap_eigenvalue: float = float("inf")


def check_store(
    path: str | Path,
    *,
    recompute: int = 0,
    seed: int = 0,
    on_progress: Callable[[int, str], None] = lambda done, text: None,
) -> CheckReport:
    """Check structure, checksums and numbers of a dataset.

    Of every record: finite numbers, atoms apart, a positive overlap, H and S that give the stored
    orbital energies, as many electrons as charge and core potentials leave. Of the file: no
    geometry in two subsets. ``recompute`` records are labelled again with PySCF: one comparison
    that finds a wrong functional, orbital order, unit or sign.

    Args:
        path: the dataset.
        recompute: how many records to label again, drawn at random.
        seed: of the draw.
        on_progress: called with the number of records done.

    Raises:
        HamnetError: the file cannot be opened at all.
    """
    report = CheckReport()
    with Store.open(path) as store:
        for index in range(len(store)):
            where = f"record {index} ({store.ids[index]})"
            try:
                record = store[index]
                for what in _of_record(record, store, report):
                    report.findings.append(Finding(f"{where}, {record.origin}", what))
            except HamnetError as error:
                report.findings.append(Finding(where, str(error)))
            report.n_records += 1
            on_progress(report.n_records, f"{len(report.findings)} findings")
        report.findings += _of_file(store)
        if recompute:
            _recompute(store, report, recompute, seed)
    return report


def _of_record(record: Record, store: Store, report: CheckReport) -> Iterator[str]:
    names = ("hamiltonian", "overlap", *record.references)
    bad = [name for name in names if not np.isfinite(record.blocks(name).entries).all()]
    if bad:
        yield f"numbers that are not finite in {', '.join(bad)}"
        return
    on_site = np.flatnonzero(record.layout.on_site)
    for name in names:
        blocks = record.blocks(name)
        partner = HamiltonianBlocks(blocks.layout, blocks.partners)
        worst = max((_asymmetry(blocks, partner, int(k)) for k in on_site), default=0.0)
        if worst > MAX_ENERGY_ERROR:
            yield f"{name} is not Hermitian: an on-site block differs by {worst:.1e}"
    overlap = to_dense(record.blocks("overlap"))  # of a crystal, at Gamma
    smallest = float(np.linalg.eigvalsh(overlap)[0])
    report.min_overlap_eigenvalue = min(report.min_overlap_eigenvalue, smallest)
    if smallest < MIN_OVERLAP_EIGENVALUE:
        yield f"the overlap has the eigenvalue {smallest:.1e}: not positive"
        return
    if record.structure.is_periodic:
        return
    check_contacts(record.structure)
    yield from _of_orbitals(record, store)


def _asymmetry(blocks: HamiltonianBlocks, partners: HamiltonianBlocks, pair: int) -> float:
    return float(np.abs(blocks.block(pair) - partners.block(pair).swapaxes(-1, -2)).max())


def _of_orbitals(record: Record, store: Store) -> Iterator[str]:
    fock, metric = eigenproblem(record.blocks("hamiltonian"), record.blocks("overlap"))
    for spin, (matrix, energies) in enumerate(zip(fock, record.orbital_energies, strict=True)):
        solved = orbital_energies(matrix, metric)
        if len(solved) != len(energies):
            yield f"{len(energies)} orbital energies, but H and S give {len(solved)}"
            continue
        error = float(np.abs(solved - energies).max())
        if error > max(MAX_ENERGY_ERROR, ROUNDING * float(np.abs(energies).max())):
            yield f"orbital energies differ by {error:.1e} Hartree from H and S (channel {spin})"
    electrons = float(record.occupations.sum())
    wanted = to_mole(record.structure, store.level.basis).nelectron
    if abs(electrons - wanted) > 1e-6:
        yield f"{electrons:g} electrons in the orbitals, but the molecule has {wanted} in the basis"


def _of_file(store: Store) -> Iterator[Finding]:
    repeated = [i for i, n in Counter(store.ids).items() if n > 1]
    if repeated:
        yield Finding(
            "the file", f"{len(repeated)} records are stored twice, such as {repeated[0]}"
        )
    if store.split is None:
        return
    owner: dict[int, str] = {}
    for name, members in store.split.items():
        for index in members.tolist():
            if not 0 <= index < len(store):
                yield Finding("the split", f"{name} names record {index} of {len(store)}")
            elif index in owner:
                yield Finding("the split", f"record {index} is in {owner[index]} and in {name}")
            else:
                owner[index] = name
    yield from _leaks(store, owner)


def _leaks(store: Store, owner: dict[int, str]) -> Iterator[Finding]:
    """Yield geometries that are in two subsets, also turned or rounded."""
    alike: dict[bytes, list[tuple[float, int]]] = {}
    for index in owner:
        s = store.structure(index)
        spread = float(pdist(s.positions).mean()) if len(s) > 1 else 0.0
        alike.setdefault(s.numbers.tobytes(), []).append((spread, index))
    for members in alike.values():
        members.sort()
        for k, (spread, one) in enumerate(members):
            for other, two in members[k + 1 :]:
                if other - spread > 2 * LEAK_RMSD:
                    break
                positions = store.structure(one).positions, store.structure(two).positions
                if owner[one] != owner[two] and rmsd(*positions) < LEAK_RMSD:
                    what = f"records {one} ({owner[one]}) and {two} ({owner[two]})"
                    yield Finding("the split", f"{what} are the same geometry")


def _recompute(store: Store, report: CheckReport, n: int, seed: int) -> None:
    if store.level.program not in PYSCF_PROGRAMS:
        report.findings.append(
            Finding("the file", f"labels of {store.level.program} cannot be computed by PySCF")
        )
        return
    level = store.level.model_copy(update={"pyscf_version": "", "program": "pyscf"})
    chosen = np.random.default_rng(seed).permutation(len(store))[:n]
    for index in sorted(chosen.tolist()):
        record = store[index]
        where = f"record {index}, {record.origin}"
        try:
            again = label(record.structure, level, references=())
        except HamnetError as error:
            report.findings.append(Finding(where, f"cannot be labelled again: {error}"))
            continue
        stored, new = (to_dense(r.blocks("hamiltonian")) for r in (record, again))
        error_uha = HARTREE_TO_UHA * float(np.abs(stored - new).mean())
        report.recomputed_uha.append(error_uha)
        if error_uha > MAX_RECOMPUTED_UHA:
            report.findings.append(
                Finding(
                    where,
                    f"H differs by {error_uha:.2f} uHa (mean) from PySCF at {level}: another "
                    "functional, orbital order, unit or charge",
                )
            )
