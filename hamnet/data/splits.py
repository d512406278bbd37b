"""Training, validation and test sets that do not cut through a trajectory.

Frames 10 fs apart are nearly the same frame: a random split of them tests on the training set.
Splits by size and at random are for data without trajectories and for comparison with others.
"""

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hamnet.data.schema import SUBSETS
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.structure import IntArray

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
QH9_SEED = 43
"""Of QH9's published splits."""


def split_of(
    store: Store, fractions: Sequence[float] = DEFAULT_FRACTIONS, seed: int = 0
) -> dict[str, IntArray]:
    """Return the split that the store carries, or else a split by group."""
    return store.split or split_by_group(store.groups, fractions, seed)


def split_by_group(
    groups: Sequence[str], fractions: Sequence[float] = DEFAULT_FRACTIONS, seed: int = 0
) -> dict[str, IntArray]:
    """Divide records so that all records of a group are in one subset.

    The shuffled groups go, one after the other, to the subset that lacks most of its share. A
    record without a group is a group by itself. With fewer groups than subsets (one trajectory,
    say) the records are cut into contiguous blocks instead.

    Args:
        groups: group of each record; the same name is the same group, ``""`` is none.
        fractions: shares of training, validation and test set; they sum to 1.
        seed: of the shuffle.

    Returns:
        ``{"train": ..., "validation": ..., "test": ...}``, sorted indices.

    Raises:
        HamnetError: fractions that are negative or do not sum to 1; fewer records than subsets.
    """
    shares = _check_fractions(fractions)
    n = len(groups)
    wanted = int((shares > 0).sum())
    if n < wanted:
        raise HamnetError(f"{n} records cannot be divided into {wanted} subsets: label more frames")
    names = [name or f"\0{k}" for k, name in enumerate(groups)]  # no name: a group by itself
    members: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        members.setdefault(name, []).append(k)
    if len(members) < wanted:
        return _contiguous(n, shares)
    order = np.random.default_rng(seed).permutation(len(members))
    blocks = list(members.values())
    return _fill([blocks[k] for k in order], shares, n)


def split_by_size(
    sizes: Sequence[int], validation: int = 21, test: int = 23
) -> dict[str, IntArray]:
    """Train on small structures and test on large ones; the defaults are QH9's out-of-distribution.

    Args:
        sizes: atoms of each record.
        validation: smallest number of atoms in the validation set.
        test: smallest number of atoms in the test set.

    Raises:
        HamnetError: a subset would be empty.
    """
    n = np.asarray(sizes)
    masks = (n < validation, (n >= validation) & (n < test), n >= test)
    split = {k: np.flatnonzero(m).astype(np.int64) for k, m in zip(SUBSETS, masks, strict=True)}
    for name, members in split.items():
        if len(members) == 0:
            raise HamnetError(
                f"with validation from {validation} and test from {test} atoms on, the {name} set "
                f"is empty: the records have {n.min()} to {n.max()} atoms"
            )
    return split


def split_at_random(
    n: int, fractions: Sequence[float] = DEFAULT_FRACTIONS, seed: int = QH9_SEED
) -> dict[str, IntArray]:
    """Shuffle single records; with the default seed and fractions it is QH9's random split.

    QH9: ``RandomState(43).permutation``, the first 80 % and next 10 % rounded down, then the rest.

    Raises:
        HamnetError: fractions that are not three shares that sum to 1.
    """
    _check_fractions(fractions)
    order = np.random.RandomState(seed).permutation(n).astype(np.int64)
    train, validation = int(n * fractions[0]), int(n * fractions[1])
    parts = np.split(order, [train, train + validation])
    return dict(zip(SUBSETS, parts, strict=True))


def split_molecules(
    groups: Sequence[str], fractions: Sequence[float] = DEFAULT_FRACTIONS, seed: int = QH9_SEED
) -> dict[str, IntArray]:
    """Shuffle groups, whole, as QH9-Dynamic does with its molecules.

    QH9: the molecules in the order of the file, shuffled by Python's own generator, then cut as in
    `split_at_random`.

    Raises:
        HamnetError: a record without a group; fractions that are not three shares that sum to 1.
    """
    names = _names(groups)
    _check_fractions(fractions)
    random.Random(seed).shuffle(names)
    train, validation = int(len(names) * fractions[0]), int(len(names) * fractions[1])
    cuts = {"train": train, "validation": train + validation, "test": len(names)}
    subset = {name: next(s for s, end in cuts.items() if k < end) for k, name in enumerate(names)}
    owner = np.array([subset[g] for g in groups])
    return {k: np.flatnonzero(owner == k).astype(np.int64) for k in SUBSETS}


def split_geometries(
    groups: Sequence[str], fractions: Sequence[float] = DEFAULT_FRACTIONS, seed: int = QH9_SEED
) -> dict[str, IntArray]:
    """Shuffle the frames inside each group, as QH9-Dynamic does with its geometries.

    It tests on the neighbours of training frames: for comparison with others only. QH9 seeds each
    molecule's shuffle with the number of its last row; any other ``seed`` than the default is
    another shuffle.

    Raises:
        HamnetError: a record without a group; fractions that are not three shares that sum to 1.
    """
    names = _names(groups)
    _check_fractions(fractions)
    parts: dict[str, list[int]] = {name: [] for name in SUBSETS}
    members: dict[str, list[int]] = {name: [] for name in names}
    for k, name in enumerate(groups):
        members[name].append(k)
    for rows in members.values():
        own_seed = (rows[-1] + seed - QH9_SEED) % 2**32
        shuffled = np.array(rows)[np.random.RandomState(own_seed).permutation(len(rows))]
        train, validation = int(len(rows) * fractions[0]), int(len(rows) * fractions[1])
        pieces = np.split(shuffled, [train, train + validation])
        for subset, piece in zip(SUBSETS, pieces, strict=True):
            parts[subset] += piece.tolist()
    return {k: np.array(sorted(v), dtype=np.int64) for k, v in parts.items()}


def _names(groups: Sequence[str]) -> list[str]:
    if "" in groups:
        raise HamnetError(
            f"record {list(groups).index('')} has no group, so there are no molecules to divide: "
            "split at random or by size"
        )
    return list(dict.fromkeys(groups))


def _sizes(store: Store) -> list[int]:
    sizes: list[int] = np.diff(store.column("offsets/atoms")).tolist()
    return sizes


SPLITS: Mapping[str, Callable[[Store, Sequence[float], int], dict[str, IntArray]]] = {
    "group": lambda store, fractions, seed: split_by_group(store.groups, fractions, seed),
    "random": lambda store, fractions, seed: split_at_random(len(store), fractions, seed),
    "size": lambda store, fractions, seed: split_by_size(_sizes(store)),
    "molecule": lambda store, fractions, seed: split_molecules(store.groups, fractions, seed),
    "geometry": lambda store, fractions, seed: split_geometries(store.groups, fractions, seed),
}
"""Ways to split a store. With seed 43, QH9-Stable's are random and size, QH9-Dynamic's molecule and
geometry, as its public loader makes them."""


def _check_fractions(fractions: Sequence[float]) -> np.ndarray:
    shares = np.asarray(fractions, dtype=float)
    if shares.shape != (len(SUBSETS),) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise HamnetError(
            f"the fractions {', '.join(f'{x:g}' for x in fractions)} are not three shares "
            "(training, validation, test) that sum to 1"
        )
    return shares


def _fill(blocks: list[list[int]], shares: np.ndarray, n: int) -> dict[str, IntArray]:
    chosen: list[list[int]] = [[] for _ in SUBSETS]
    for k, block in enumerate(blocks):
        lack = shares * n - [len(c) for c in chosen]
        empty = [i for i, c in enumerate(chosen) if shares[i] > 0 and not c]
        last = len(blocks) - k <= len(empty)  # the last groups go to subsets that have none
        chosen[empty[0] if last else int(np.argmax(lack))] += block
    return {
        name: np.array(sorted(c), dtype=np.int64) for name, c in zip(SUBSETS, chosen, strict=True)
    }


def _contiguous(n: int, shares: np.ndarray) -> dict[str, IntArray]:
    sizes = np.maximum(np.floor(shares * n), shares > 0).astype(int)
    sizes[0] += n - sizes.sum()
    cuts = np.cumsum(sizes)[:-1]
    parts = np.split(np.arange(n, dtype=np.int64), cuts)
    return dict(zip(SUBSETS, parts, strict=True))
