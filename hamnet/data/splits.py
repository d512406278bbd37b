"""Training, validation and test sets that do not cut through a trajectory.

Frames 10 fs apart are nearly the same frame: a random split of them tests on the training set.
"""

from collections.abc import Sequence

import numpy as np

from hamnet.data.schema import SUBSETS
from hamnet.data.store import Store
from hamnet.errors import HamnetError
from hamnet.structure import IntArray

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)


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
    shares = np.asarray(fractions, dtype=float)
    n = len(groups)
    wanted = int((shares > 0).sum())
    if shares.shape != (len(SUBSETS),) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise HamnetError(
            f"the fractions {', '.join(f'{x:g}' for x in fractions)} are not three shares "
            "(training, validation, test) that sum to 1"
        )
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
