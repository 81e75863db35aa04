"""Trees of token sequences: nothing twice, nothing lost, nobody sees a stranger."""

import numpy as np
import pytest

from monitorlab.models.engine import (
    _cheap_groups,
    _merged_tree,
    _plain_batch,
    _tree_batch,
    _tree_row,
    common_prefix,
)


def random_sequences(seed: int) -> list[list[int]]:
    """Short sequences over three tokens, so that many begin alike or are equal."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, size=rng.integers(1, 7)).tolist() for _ in range(12)]


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 3], 2), ([], [1], 0), ([2], [1], 0), ([1], [1], 1)],
)
def test_common_prefix(first: list[int], second: list[int], shared: int) -> None:
    assert common_prefix(first, second) == common_prefix(second, first) == shared


@pytest.mark.parametrize("seed", range(20))
def test_merged_sequences_are_all_there_and_every_prefix_is_there_once(seed: int) -> None:
    sequences = random_sequences(seed)
    tree = _merged_tree(sequences)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == sequence
        assert tree.depth[path].tolist() == list(range(len(sequence)))
    prefixes = {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}
    assert len(tree) == len(prefixes)


@pytest.mark.parametrize("seed", range(10))
def test_tokens_of_a_tree_batch_see_the_prefix_their_ancestors_and_themselves(seed: int) -> None:
    sequences, shared = random_sequences(seed), 2
    parts = [list(range(0, 5)), list(range(5, 12))]
    rows = [_tree_row(p, [sequences[i] for i in p], [1] * len(p)) for p in parts]
    batch = _tree_batch(rows, shared, pad_id=9)
    assert batch.visible is not None and batch.positions is not None
    assert isinstance(batch.keep, int)
    for r, number, slots in batch.slots:
        column = batch.ids.shape[1] - batch.keep + slots[0]
        seen = np.flatnonzero(batch.visible[r, column])
        assert seen[:shared].tolist() == [0, 1]
        own = seen[shared:] - shared
        by_depth = own[np.argsort(batch.positions[r, own])]
        assert batch.ids[r, by_depth].tolist() == sequences[number]
        assert batch.positions[r, by_depth].tolist() == [
            shared + k for k in range(len(sequences[number]))
        ]
    assert {number for _, number, _ in batch.slots} == set(range(12))
    assert batch.visible.any(axis=-1).all(), "padding must see something"
    assert batch.n_tokens == sum(len(row) for row in rows)


def test_several_tokens_at_the_end_of_a_sequence_can_be_read() -> None:
    row = _tree_row([4, 7], [[1, 2, 3, 5], [1, 2, 6]], [3, 2])
    batch = _tree_batch([row], 0, pad_id=0)
    kept = batch.ids[0, -batch.keep:]  # type: ignore[operator]
    assert [kept[slots].tolist() for _, _, slots in batch.slots] == [[2, 3, 5], [2, 6]]
    assert batch.keep == 4, "the shared token 2 is read once"


def test_plain_batch_pads_on_the_right_and_keeps_each_position_once() -> None:
    batch = _plain_batch([3, 5], [[1, 2, 3, 4], [6, 7]], [2, 1], pad_id=0)
    assert batch.ids.tolist() == [[1, 2, 3, 4], [6, 7, 0, 0]]
    assert batch.keep == [1, 2, 3]
    assert [(r, n, s.tolist()) for r, n, s in batch.slots] == [(0, 3, [1, 2]), (1, 5, [0])]
    assert batch.visible is None and batch.positions is None


def test_sequences_are_grouped_where_the_shared_part_is_worth_it() -> None:
    request, rng = list(range(100)), np.random.default_rng(0)
    short = [request + rng.integers(200, 900, size=120).tolist() for _ in range(2)]
    stranger = rng.integers(1000, 2000, size=220).tolist()
    groups = _cheap_groups([short[0], stranger, short[1]], 300, 1000)
    assert sorted(map(sorted, groups)) == [[0, 2], [1]]
    long = [request[:5] + rng.integers(200, 900, size=3000).tolist() for _ in range(2)]
    assert sorted(_cheap_groups(long, 0, 1000)) == [[0], [1]]


def test_equal_sequences_always_share() -> None:
    assert [sorted(members) for members in _cheap_groups([[1, 2, 3]] * 4, 0, 1)] == [[0, 1, 2, 3]]
