"""Ranks and thresholds: the published table, both risks, ties, and honest refusals."""

from __future__ import annotations

import numpy as np
import pytest

from monitorlab.online.calibration import (
    ALWAYS_ALARM,
    CALIBRATED,
    MISSED_DETECTION,
    NEVER_ALARM,
    calibrate,
)
from monitorlab.online.metrics import alarm_steps
from monitorlab.online.ranks import (
    RANK_RULES,
    binomial_rank,
    crc_rank,
    hoeffding_bentkus_rank,
    sequences_needed,
    tolerance_rank,
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
    assert tuple(binomial_rank(n, level, 0.1) for level in LEVELS) == EXACT_RANKS[n]
    assert tuple(crc_rank(n, level) for level in LEVELS) == CRC_RANKS[n]


@pytest.mark.parametrize("n", [0, 1, 5, 22, 66, 133, 1000])
@pytest.mark.parametrize("level", [0.05, 0.1, 0.37])
@pytest.mark.parametrize("delta", [0.05, 0.1, 0.3])
def test_tolerance_limit_is_the_binomial_threshold_from_the_other_end(n, level, delta):
    assert tolerance_rank(n, level, delta) == binomial_rank(n, level, delta)
    assert hoeffding_bentkus_rank(n, level, delta) <= binomial_rank(n, level, delta)


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
    with pytest.raises(ValueError, match="pass tie_rng"):
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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_peaks_must_be_finite(bad):
    with pytest.raises(ValueError, match="peak 1 is"):
        calibrate(np.array([0.1, bad, 0.3]), 0.1)
