"""A split never cuts through a group, uses every record once and keeps the shares."""

import numpy as np
import pytest

from hamnet.data.splits import split_by_group
from hamnet.errors import HamnetError


def assert_partition(split, n):
    together = np.concatenate(list(split.values()))
    assert sorted(together.tolist()) == list(range(n))


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed):
    rng = np.random.default_rng(seed)
    groups = [f"block {k}" for k in rng.integers(0, 25, size=300)]
    split = split_by_group(groups, seed=seed)
    assert_partition(split, 300)
    owners = {name: {groups[k] for k in part} for name, part in split.items()}
    assert not owners["train"] & owners["test"]
    assert not owners["train"] & owners["validation"]
    assert not owners["validation"] & owners["test"]
    assert abs(len(split["train"]) / 300 - 0.8) < 0.06


def test_records_without_group_are_split_one_by_one():
    split = split_by_group([""] * 64)
    assert_partition(split, 64)
    assert [len(part) for part in split.values()] == [51, 7, 6]


def test_the_seed_decides():
    groups = [f"{k // 4}" for k in range(80)]
    one, same, other = (split_by_group(groups, seed=s) for s in (1, 1, 2))
    assert all((one[k] == same[k]).all() for k in one)
    assert any(len(one[k]) != len(other[k]) or (one[k] != other[k]).any() for k in one)


def test_three_groups_fill_three_subsets_however_small_the_share():
    split = split_by_group(["a"] * 10 + ["b"] * 10 + ["c"] * 10, (0.98, 0.01, 0.01))
    assert [len(part) for part in split.values()] == [10, 10, 10]


def test_one_trajectory_is_cut_into_blocks():
    split = split_by_group(["run"] * 50)
    assert_partition(split, 50)
    assert all(len(part) and (np.diff(part) == 1).all() for part in split.values())


def test_a_subset_may_be_left_out():
    split = split_by_group([""] * 10, (0.9, 0.0, 0.1))
    assert [len(part) for part in split.values()] == [9, 0, 1]


def test_nonsense_is_refused():
    with pytest.raises(HamnetError, match="sum to 1"):
        split_by_group([""] * 10, (0.8, 0.3, 0.1))
    with pytest.raises(HamnetError, match="2 records cannot be divided into 3"):
        split_by_group(["", ""])
