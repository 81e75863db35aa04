"""Agreement: by hand, against other implementations, degenerate labels and interval coverage."""

from __future__ import annotations

import krippendorff
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.metrics import cohen_kappa_score

from monitorlab.benchmark.audit import annotation as module
from monitorlab.benchmark.audit.annotation import (
    STATISTICS,
    Statistic,
    _ac1,
    _alpha,
    _observed,
    _with_interval,
    agreement_table,
    kappa,
)


def labels(both_one: int, first_only: int, second_only: int, neither: int) -> list[np.ndarray]:
    """Labels of two annotators from the four counts of their table."""
    counts = [both_one, first_only, second_only, neither]
    return [np.repeat(column, counts) for column in ([1, 1, 0, 0], [1, 0, 1, 0])]


def test_coefficients_by_hand() -> None:
    """20 both 1, 5 and 10 apart, 15 both 0: the textbook table of fifty."""
    first, second = labels(20, 5, 10, 15)
    assert _observed(first, second) == pytest.approx(0.7)
    # Rates of label 1 are .5 and .6: chance .5 * .6 + .5 * .4 = .5.
    assert kappa(first, second) == pytest.approx((0.7 - 0.5) / 0.5)
    # 55 ones and 45 zeros in 100 values; disagreement 15/50 against 2 * 55 * 45 / (100 * 99).
    assert _alpha(first, second) == pytest.approx(1 - 0.3 / (2 * 55 * 45 / 9900))
    # The mean rate is .55: chance 2 * .55 * .45 = .495.
    assert _ac1(first, second) == pytest.approx((0.7 - 0.495) / 0.505)


def test_a_rare_label_pushes_kappa_down_and_ac1_not() -> None:
    """One both 1, 2 and 3 apart, 94 both 0."""
    first, second = labels(1, 2, 3, 94)
    assert kappa(first, second) == pytest.approx((0.95 - 0.9324) / (1 - 0.9324))
    chance = 2 * 0.035 * 0.965
    assert _ac1(first, second) == pytest.approx((0.95 - chance) / (1 - chance))


def test_other_implementations_agree() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        first = random.integers(0, 2, 30)
        second = np.where(random.random(30) < 0.3, 1 - first, first)
        ratings = np.array([first, second], dtype=float)
        expected = krippendorff.alpha(ratings, level_of_measurement="nominal")
        assert _alpha(first, second) == pytest.approx(expected)
        assert kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
        shares = np.bincount([*first, *second]) / 60
        chance = (shares * (1 - shares)).sum()  # Gwet's general form for two labels
        found = (np.mean(first == second) - chance) / (1 - chance)
        assert _ac1(first, second) == pytest.approx(found)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((6, 0, 0, 0), (1, 1, 1, 1)),
        ((0, 0, 0, 6), (1, 1, 1, 1)),
        ((3, 0, 0, 3), (1, 1, 1, 1)),
        ((0, 3, 3, 0), (0, -1, 1 - 1 / (2 * 36 / 132), -1)),
        ((3, 3, 0, 0), (0.5, 0, 1 - 0.5 / (2 * 27 / 132), (0.5 - 0.375) / 0.625)),
    ],
)
def test_degenerate_labels(counts: tuple[int, ...], expected: tuple[float, ...]) -> None:
    """All alike, all apart, or one annotator who always says 1."""
    found = [statistic(*labels(*counts)) for statistic in STATISTICS.values()]
    assert found == pytest.approx(expected)


def test_the_table_has_every_coefficient_with_an_interval_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 300)
    first, second = (pd.Series(x) for x in labels(20, 5, 10, 15))
    table = agreement_table(first, second, np.random.default_rng(1))
    assert list(table["coefficient"]) == list(STATISTICS)
    assert (table["low"] < table["value"]).all() and (table["value"] < table["high"]).all()
    # The share of agreement has a known interval: .7 with standard error .065.
    low, high = table.loc[0, ["low", "high"]]
    assert (low, high) == pytest.approx((0.57, 0.83), abs=0.03)
    again = agreement_table(first, second, np.random.default_rng(1))
    pd.testing.assert_frame_equal(table, again)


def test_perfect_agreement_keeps_room_for_unseen_disagreement() -> None:
    value, low, high = _with_interval(kappa, *labels(130, 0, 0, 134), np.random.default_rng(0))
    # 0 of 264: up to 1.39 % (exact, 97.5 %), so up to 4 disagreements, would be no surprise.
    assert (value, high) == (1, 1)
    assert low == pytest.approx(1 - 2 * 4 / 264, abs=2e-3)


def test_a_few_agreeing_labels_prove_little() -> None:
    value, low, high = _with_interval(kappa, *labels(3, 0, 0, 4), np.random.default_rng(0))
    assert (value, high) == (1, 1)
    assert low < 0.3


@pytest.mark.parametrize("statistic", [_observed, _ac1])
def test_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch, statistic: Statistic) -> None:
    """Two annotators who err on 10 % of balanced samples; nominal 95 %, 90 % demanded.

    A percentile bootstrap of 200 samples covers a little less than its nominal level, so the lower
    bound is the .1 % quantile of a coverage of .90, and the upper one that of .98.
    """
    monkeypatch.setattr(module, "RESAMPLES", 300)
    random, hits, runs = np.random.default_rng(3), 0, 150
    agree = 0.9**2 + 0.1**2
    truth = agree if statistic is _observed else (agree - 0.5) / 0.5  # both rates are one half
    for _ in range(runs):
        real = random.integers(0, 2, 200)
        first, second = (np.where(random.random(200) < 0.1, 1 - real, real) for _ in "ab")
        _, low, high = _with_interval(statistic, first, second, random)
        hits += low <= truth <= high
    assert hits >= binom.ppf(0.001, runs, 0.90)
    assert hits <= binom.ppf(0.999, runs, 0.98), "intervals that are far too wide cover always"
