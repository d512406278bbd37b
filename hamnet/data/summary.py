"""What a store holds, in numbers."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np

from hamnet.blocks import SpinKind
from hamnet.data.record import SCF_RUNGS
from hamnet.data.store import Store
from hamnet.structure import FloatArray, hill_formula, symbol
from hamnet.units import HARTREE_TO_EV


def frontier_energies(store: Store) -> tuple[FloatArray, FloatArray]:
    """Return HOMO and LUMO energies of every record, Hartree, each ``[n]``.

    Both are of the same spin, the one with the smaller gap; NaN where there is no such orbital.
    """
    energies = store.column("orbitals/energies")
    occupied = store.column("orbitals/occupations") > 0
    cuts, n_spins = store.column("offsets/orbitals"), store.column("frames/n_spin")
    frontier = np.full((2, len(store)), np.nan)
    for k, (start, stop) in enumerate(pairwise(cuts)):
        if start == stop:  # a crystal: its orbitals depend on k
            continue
        e = energies[start:stop].reshape(SpinKind(n_spins[k]).n_channels, -1)
        full = occupied[start:stop].reshape(e.shape)
        homo = np.where(full, e, -np.inf).max(axis=1)
        lumo = np.where(full, np.inf, e).min(axis=1)
        spin = int(np.argmin(lumo - homo))
        frontier[:, k] = homo[spin], lumo[spin]
    frontier[~np.isfinite(frontier)] = np.nan
    return frontier[0], frontier[1]


def summarise(store: Store) -> dict[str, Any]:
    """Return a JSON-ready summary of a store, units in the names."""
    homo, lumo = frontier_energies(store)
    numbers = store.column("atoms/numbers")
    cuts = store.column("offsets/atoms")
    formulas = Counter(hill_formula(numbers[a:b]) for a, b in pairwise(cuts))
    split = store.split or {}
    return {
        "path": str(store.path),
        "bytes": store.path.stat().st_size,
        "records": len(store),
        "level": store.level.model_dump(mode="json"),
        "basis_shells": store.basis.to_dict()["shells"],
        "elements": [symbol(int(z)) for z in np.unique(numbers)],
        "formulas": dict(formulas.most_common()),
        "atoms_per_record": _range(np.diff(cuts)),
        "groups": len(set(store.groups) - {""}),
        "open_shell_records": int((store.column("frames/spin") != 0).sum()),
        "charged_records": int((store.column("frames/charge") != 0).sum()),
        "references": list(store.references),
        "split": {name: len(indices) for name, indices in split.items()},
        "energy_hartree": _range(store.column("frames/energy")),
        "homo_ev": _range(homo * HARTREE_TO_EV),
        "lumo_ev": _range(lumo * HARTREE_TO_EV),
        "gap_ev": _range((lumo - homo) * HARTREE_TO_EV),
        "scf_rungs": _rungs(store),
        "seconds_per_label": _range(store.column("frames/seconds")),
        "failures": [f.to_dict() for f in store.failures],
        "card": dict(store.card),
    }


def _rungs(store: Store) -> dict[str, int]:
    found, counts = np.unique(store.column("frames/scf_rung"), return_counts=True)
    return {SCF_RUNGS[k]: int(n) for k, n in zip(found, counts, strict=True)}


def _range(values: Any) -> dict[str, float] | None:
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if len(finite) == 0:
        return None
    low, middle, high = np.quantile(finite, [0.05, 0.5, 0.95])
    return {
        "min": float(finite.min()),
        "p05": float(low),
        "median": float(middle),
        "mean": float(finite.mean()),
        "p95": float(high),
        "max": float(finite.max()),
    }
