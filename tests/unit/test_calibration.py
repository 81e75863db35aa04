"""Ranks and thresholds: the published table, both risks, ties, and honest refusals."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from monitorlab.online.comparison import _ville_threshold
from monitorlab.online.metrics import alarm_steps
from monitorlab.statistics.ranks import (
    RANK_RULES,
    _binomial_rank,
    _crc_rank,
    _hoeffding_bentkus_rank,
    _tolerance_rank,
    sequences_needed,
)
from monitorlab.statistics.thresholds import (
    ALWAYS_ALARM,
    CALIBRATED,
    MISSED_DETECTION,
    NEVER_ALARM,
    calibrate,
)

LEVELS = (0.01, 0.05, 0.10, 0.20)
EXACT_RANKS = {
    100: (0, 2, 6, 15),
    200: (0, 6, 15, 33),
    500: (2, 19, 41, 89),
    1000: (6, 41, 88, 184),
    5000: (41, 230, 473, 964),
}
CRC_RANKS = {
    100: (1, 5, 10, 20),
    200: (2, 10, 20, 40),
    500: (5, 25, 50, 100),
    1000: (10, 50, 100, 200),
    5000: (50, 250, 500, 1000),
}


@pytest.mark.parametrize("n", EXACT_RANKS)
def test_rank_table(n):
    assert tuple(_binomial_rank(n, level, 0.1) for level in LEVELS) == EXACT_RANKS[n]
    assert tuple(_crc_rank(n, level) for level in LEVELS) == CRC_RANKS[n]


@pytest.mark.parametrize("n", [0, 1, 5, 22, 66, 133, 1000])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.37])
@pytest.mark.parametrize("delta", [0.05, 0.1, 0.3])
def test_tolerance_limit_is_the_binomial_threshold_from_the_other_end(n, level, delta):
    assert _tolerance_rank(n, level, delta) == _binomial_rank(n, level, delta)
    assert _hoeffding_bentkus_rank(n, level, delta) <= _binomial_rank(n, level, delta)


@pytest.mark.parametrize("calibrator", RANK_RULES)
@pytest.mark.parametrize("level", [0.05, 0.1, 0.2])
def test_sequences_needed_is_the_smallest_feasible_size(calibrator, level):
    needed = sequences_needed(calibrator, level, 0.1)
    assert RANK_RULES[calibrator](needed, level, 0.1) >= 1
    assert RANK_RULES[calibrator](needed - 1, level, 0.1) == 0


def test_crc_is_the_grid_search_of_equation_8():
    """On a fine grid of safety thresholds, the paper's maximum gives the same alarms."""
    rng = np.random.default_rng(1)
    for n in (12, 50, 133):
        safety = rng.random(n)
        threshold = calibrate(1.0 - safety, 0.1)
        grid = np.unique(np.concatenate([safety, np.linspace(0, 1, 2001)]))
        risk = np.array([(safety < lam).mean() for lam in grid])
        best = grid[n / (n + 1) * risk + 1 / (n + 1) <= 0.1].max()
        fresh = rng.random(5000)
        np.testing.assert_array_equal(fresh < best, (1.0 - fresh) > threshold.value)


def test_too_few_sequences_never_alarm_and_say_how_many_are_needed():
    threshold = calibrate(np.arange(6.0), 0.10)
    assert (threshold.state, threshold.value, threshold.k) == (NEVER_ALARM, np.inf, 0)
    assert threshold.explain().startswith("9 safe sequences are needed for level 0.1, there are 6")
    missed = calibrate(np.arange(6.0), 0.10, risk=MISSED_DETECTION)
    assert (missed.state, missed.value) == (ALWAYS_ALARM, -np.inf)
    assert "always alarms" in missed.explain()


def test_no_calibration_sequences_at_all():
    assert calibrate(np.empty(0), 0.1).state == NEVER_ALARM


def test_missed_detection_threshold_lets_its_own_rank_alarm():
    peaks = np.arange(1.0, 20.0)
    threshold = calibrate(peaks, 0.10, risk=MISSED_DETECTION)
    assert threshold.k == 2
    assert threshold.attained == pytest.approx(1 / 19)
    assert np.sum(peaks > threshold.value) == 18


def test_ties_fall_on_the_safe_side_and_the_attained_level_says_so():
    peaks = np.repeat([0.2, 0.5, 0.9], [50, 30, 20])
    threshold = calibrate(peaks, 0.15)
    assert threshold.value == 0.9
    assert threshold.attained == 0.0
    assert threshold.state == CALIBRATED


@pytest.mark.parametrize("risk", ["false_alarm", "missed_detection"])
def test_randomised_ties_spend_the_level(risk):
    peaks = np.repeat([0.2, 0.5, 0.9], [500, 300, 200])
    rng = np.random.default_rng(0)
    threshold = calibrate(peaks, 0.15, risk=risk, tie_rng=rng)
    assert threshold.attained == pytest.approx((threshold.k - 1) / 1000)
    fresh = np.repeat([0.2, 0.5, 0.9], [5000, 3000, 2000])[:, None]
    alarms = alarm_steps(fresh, threshold, np.random.default_rng(1)) > 0
    event = alarms if risk == "false_alarm" else ~alarms
    assert event.mean() == pytest.approx(0.15, abs=0.03)


def test_a_randomised_threshold_needs_draws_when_applied():
    threshold = calibrate(np.ones(100), 0.1, tie_rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs a draw per sequence"):
        alarm_steps(np.ones((3, 2)), threshold)


def test_order_is_all_that_matters():
    peaks = np.random.default_rng(3).normal(size=200)
    for calibrator in RANK_RULES:
        one = calibrate(peaks, 0.1, calibrator)
        other = calibrate(np.exp(peaks), 0.1, calibrator)
        assert np.exp(one.value) == other.value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 0.0}, "strictly between"),
        ({"level": 1.0}, "strictly between"),
        ({"level": 0.1, "delta": 0.0, "calibrator": "binomial"}, "delta is 0.0"),
        ({"level": 0.1, "calibrator": "guess"}, "expected one of crc"),
        ({"level": 0.1, "risk": "both"}, "expected one of false_alarm"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        calibrate(np.arange(50.0), **arguments)


STEPS = np.random.default_rng(0).random((40, 6))


@pytest.mark.parametrize(
    ("peaks", "found"),
    [
        (STEPS, r"shape \(40, 6\)"),
        (STEPS[:, :1], r"shape \(40, 1\)"),
        (STEPS[:0], r"shape \(0, 6\)"),
        (np.float64(0.4), "a single float64"),
        ([[0.1, 0.2], [0.3]], "lists of different lengths"),
        ([0.1, np.nan, 0.3], "peak 1 is nan"),
        (["0.1", "0.2"], "peak 0 is '0.1'"),
        ([0.1, None], "peak 1 is None"),
        (np.array([True, False]), "peak 0 is True"),
        (np.array([0.1, True], dtype=object), "peak 1 is True"),
        (np.array([0.1 + 1j]), "peak 0 is "),
        (np.ma.masked_array([0.1, 0.2], [False, True]), "masked"),
        ("peaks", "a single str"),
    ],
)
def test_what_is_not_one_number_per_sequence_is_refused(peaks, found):
    """Steps taken for peaks place the threshold far too low: FAR .63 at level .10."""
    with pytest.raises(ValueError, match=found) as caught:
        calibrate(peaks, 0.1)
    assert "monitorlab.online.metrics.peaks" in str(caught.value)


def test_other_forms_of_the_same_peaks_give_the_same_threshold():
    peaks = list(range(40))
    expected = calibrate(np.array(peaks, dtype=float), 0.1)
    for same in (peaks, tuple(peaks), np.array(peaks), np.array(peaks, dtype=object),
                 pd.Series(peaks), np.array(peaks, dtype=np.float16)):
        assert calibrate(same, 0.1) == expected
    assert calibrate([], 0.1).state == NEVER_ALARM


@pytest.mark.parametrize("calibrator", RANK_RULES)
@pytest.mark.parametrize("risk", ["false_alarm", "missed_detection"])
@pytest.mark.parametrize("randomised", [False, True])
def test_infinite_peaks_are_ranks(calibrator, risk, randomised):
    """Any increasing map gives the same alarms, one that ends in infinities too."""
    rng = np.random.default_rng(4)
    grid = np.array([-np.inf, -2.0, 0.0, 1.0, np.inf])
    for weights in ([0.2] * 5, [0.9, 0, 0.1, 0, 0], [0, 0, 0.1, 0, 0.9], [0, 0, 0, 0, 1.0]):
        ranks = rng.choice(5, 200, p=weights)
        fresh = rng.choice(5, 50)
        found = []
        for values in (np.arange(5.0), grid):
            ties = np.random.default_rng(1) if randomised else None
            threshold = calibrate(values[ranks], 0.2, calibrator, risk=risk, tie_rng=ties)
            draws = np.random.default_rng(2) if randomised else None
            alarms = alarm_steps(values[fresh][:, None], threshold, draws)
            found.append((threshold.k, threshold.attained, threshold.state, alarms.tolist()))
        assert found[0] == found[1]


def test_explain_prints_what_round_trips():
    threshold = calibrate(1.0 - np.arange(1, 41) / 4e8, 0.1)
    said = threshold.explain()
    assert float(said.split()[2]) == threshold.value != 1.0
    assert float(calibrate(np.arange(40.0), 1 / 3).explain().split("level ")[1].split(",")[0]) == (
        1 / 3)


@pytest.mark.parametrize("level", [0.1, 0.05])
def test_the_anytime_threshold_does_not_claim_to_be_silent(level):
    said = _ville_threshold(level).explain()
    assert f"alarm above {1 / level!r}" in said
    assert "never" not in said and "needed" not in said


def test_a_threshold_at_infinity_says_that_it_is_silent():
    said = calibrate(np.full(40, np.inf), 0.1).explain()
    assert said.startswith("never alarm (rank 4 of 40")


@pytest.mark.parametrize("calibrator", RANK_RULES)
def test_sequences_needed_is_a_closed_form(calibrator):
    start = time.process_time()
    needed = {level: sequences_needed(calibrator, level, 0.1) for level in (1e-6, 1e-9, 1e-12)}
    assert time.process_time() - start < 1.0
    for level, n in needed.items():
        exact = 1 / level if calibrator == "crc" else np.log(0.1) / np.log1p(-level)
        assert n == pytest.approx(exact, rel=1e-8, abs=1.5)


@pytest.mark.parametrize("calibrator", RANK_RULES)
def test_sequences_needed_where_the_quotient_is_a_whole_number(calibrator):
    """delta = (1 - level)^n, or level = 1 / (n + 1): a rounding error either way is off by one."""
    for level in (0.5, 0.25, 0.1, 0.2, 0.3, 0.01):
        for n in range(1, 25):
            delta = (1.0 - level) ** n
            needed = sequences_needed(calibrator, level, delta)
            assert RANK_RULES[calibrator](needed, level, delta) >= 1
            assert needed == 1 or RANK_RULES[calibrator](needed - 1, level, delta) == 0
    for n in range(1, 300):
        assert sequences_needed("crc", 1 / (n + 1), 0.1) == n
