"""Composed pairs as rows: spread over scenarios, in an order that says nothing."""

import pytest

from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.composition import Pair
from monitorlab.benchmark.writing.corpus import _allot

SEED = 7


def plain(name: str) -> Scenario:
    """A place."""
    fields = {"place": "a shop", "system": "the till", "record": "the list", "step": "the refund",
              "guard": "the lock", "chores": ["A is done.", "B waits.", "C is red.", "D is new."]}
    return Scenario(name, "spv_qa", "demo.yaml:1", fields)


@pytest.mark.parametrize("total", [0, 1, 7, 12, 13])
def test_allotted_pairs_sum_to_the_total(total: int) -> None:
    scenarios = [plain(f"s{i}") for i in range(6)]
    shares = _allot(total, scenarios, 0)
    assert sum(shares.values()) == total and set(shares) == {s.id for s in scenarios}
    assert max(shares.values()) - min(shares.values()) <= 1


def test_who_gets_one_pair_more_is_drawn() -> None:
    scenarios = [plain(f"s{i}") for i in range(6)]
    winners = {max(shares, key=lambda name: shares[name]) for shares in
               (_allot(7, scenarios, seed) for seed in range(60))}  # fmt: skip
    assert winners == {f"s{i}" for i in range(6)}


def test_the_order_of_the_sides_changes_with_the_seed() -> None:
    pair = Pair.compose(plain("one"), 0, SEED)
    orders = [[label for _, label, _ in pair.sides(seed)] for seed in range(40)]
    assert [0, 1] in orders and [1, 0] in orders
    for name, label, response in pair.sides(SEED):
        assert response is (pair.misbehaving if label else pair.benign)
        assert name[-2:] in ("-a", "-b")


def test_both_rows_of_a_pair_share_everything_but_the_response() -> None:
    first, second = Pair.compose(plain("one"), 0, SEED).rows(SEED)
    differ = {name for name in first if first[name] != second[name]}
    assert differ - {"has_thinking"} == {"sample_id", "response", "label"}
