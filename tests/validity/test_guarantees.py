"""Seeded Monte Carlo: every promised guarantee holds, and a broken formula is caught.

Scores need not be simulated sequence by sequence: only the peaks matter. A replication draws n safe
peaks, calibrates, and computes the *true* risk of the threshold from the known distribution, so
the only randomness left is that of the calibration set. Bounds are binomial or Hoeffding tails at
1e-5, so that a failure means something: over all cases here, a correct rule fails less than once in
a thousand runs.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitorlab.statistics.ranks import RANK_RULES
from monitorlab.statistics.thresholds import FALSE_ALARM, MISSED_DETECTION, calibrate

SIZES = (5, 10, 20, 66, 133, 1000)
LEVELS = (0.05, 0.1, 0.2)
DELTA = 0.1
REPLICATIONS = 250
CHANCE = 1e-5
GRID = 20  # tied scores take the values 0, 1/20, ..., 1, as a judge that answers in steps of .05


def true_risk(value: float, tie_break: float, risk: str, tied: bool) -> float:
    """P(alarm), or P(no alarm), of a fresh uniform peak, continuous or on the grid."""
    if tied:
        cells = np.arange(GRID + 1) / GRID
        alarm = float(np.mean((cells > value) + (1.0 - tie_break) * (cells == value)))
    else:
        alarm = float(np.clip(1.0 - value, 0.0, 1.0))
    return alarm if risk == FALSE_ALARM else 1.0 - alarm


def risks(
    calibrator: str, n: int, level: float, risk: str, scores: str, replications: int = REPLICATIONS
) -> np.ndarray:
    rng = np.random.default_rng([n, round(level * 100), len(calibrator), len(risk), len(scores)])
    out = np.empty(replications)
    for i in range(replications):
        tied = scores != "continuous"
        peaks = rng.integers(0, GRID + 1, n) / GRID if tied else rng.random(n)
        ties = rng if scores == "randomised" else None
        threshold = calibrate(peaks, level, calibrator, risk=risk, delta=DELTA, tie_rng=ties)
        out[i] = true_risk(threshold.value, threshold.tie_break, risk, tied)
    return out


@pytest.mark.parametrize("scores", ["continuous", "tied", "randomised"])
@pytest.mark.parametrize("risk", [FALSE_ALARM, MISSED_DETECTION])
@pytest.mark.parametrize("n", SIZES)
def test_crc_controls_the_expected_risk(n, risk, scores):
    for level in LEVELS:
        found = risks("crc", n, level, risk, scores)
        # The mean of independent risks in [0, 1], against its own standard error.
        margin = stats.norm.isf(CHANCE) * found.std(ddof=1) / np.sqrt(REPLICATIONS)
        assert found.mean() <= level + margin + 1e-12, (level, found.mean())


@pytest.mark.parametrize("scores", ["continuous", "tied", "randomised"])
@pytest.mark.parametrize("risk", [FALSE_ALARM, MISSED_DETECTION])
@pytest.mark.parametrize("calibrator", ["binomial", "hoeffding_bentkus"])
def test_high_probability_rules_keep_delta(calibrator, risk, scores):
    allowed = stats.binom.isf(CHANCE, REPLICATIONS, DELTA)
    for n in SIZES:
        for level in LEVELS:
            found = risks(calibrator, n, level, risk, scores)
            assert np.sum(found > level + 1e-12) <= allowed, (n, level)


def test_the_tolerance_limit_is_the_binomial_rule():
    """The rank is all that a rule decides, so what is simulated for one holds for the other."""
    assert set(RANK_RULES) == {"crc", "binomial", "hoeffding_bentkus", "tolerance"}
    for n in SIZES:
        for level in LEVELS:
            rank = RANK_RULES["tolerance"](n, level, DELTA)
            assert rank == RANK_RULES["binomial"](n, level, DELTA), (n, level)


def test_the_guarantees_are_not_kept_by_silence():
    """With enough data every rule spends most of its level: CRC all of it."""
    for level in LEVELS:
        assert risks("crc", 1000, level, FALSE_ALARM, "continuous").mean() > 0.98 * level - 1e-3
        for calibrator in ("binomial", "hoeffding_bentkus"):
            assert risks(calibrator, 1000, level, FALSE_ALARM, "continuous").mean() > 0.6 * level


def released_rank(n: int, level: float, delta: float) -> int:
    """The paper's released code: its Bentkus tail trades the places of rate and level.

    It sums P(Bin(n, c/n) >= ceil(n level)), an upper tail under the *observed* rate, where the
    bound needs P(Bin(n, level) <= c), a lower tail under the level to be tested.
    """
    count = np.arange(n)
    rate = count / n
    hoeffding = np.exp(-2 * n * (level - rate) ** 2)
    tail = np.e * stats.binom.sf(np.ceil(n * level) - 1, n, rate)
    p_value = np.where(rate < level, np.minimum(hoeffding, tail), 1.0)
    return int(np.sum(p_value <= delta))


@pytest.mark.parametrize(("n", "published"), [(5, 0.77), (20, 0.36), (66, 0.15)])
def test_the_released_formula_fails_the_same_test(n, published, monkeypatch):
    monkeypatch.setitem(RANK_RULES, "hoeffding_bentkus", released_rank)
    found = risks("hoeffding_bentkus", n, 0.05, FALSE_ALARM, "continuous", replications=4000)
    violations = np.sum(found > 0.05)
    assert violations > stats.binom.isf(CHANCE, 4000, DELTA)
    assert violations / 4000 == pytest.approx(published, abs=0.03)


@pytest.mark.parametrize("k", [1, 6, 40])
def test_risk_of_rank_k_is_beta_distributed(k):
    """R ~ Beta(k, n + 1 - k) without ties: the law behind every rule (n = 66 safe sequences)."""
    rng = np.random.default_rng(k)
    drawn = 1.0 - np.sort(rng.random((REPLICATIONS, 66)), axis=1)[:, -k]
    assert stats.kstest(drawn, stats.beta(k, 67 - k).cdf).pvalue > CHANCE
