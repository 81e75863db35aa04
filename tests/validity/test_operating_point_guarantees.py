"""Seeded Monte Carlo: thresholds chosen on dev keep what they promise about false alarms.

Every replication is a monitor of its own, with fresh benign dev samples from a known distribution,
so the *true* false alarm rate of its threshold is known exactly. Failed verdicts are mixed in:
they are alarms, and the promise is about them too. Bounds are binomial or normal tails at 1e-5.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monitorlab.evaluation.operating_points import FAILED_SCORE, calibrated_points
from monitorlab.evaluation.resplits import expected_far, resplit_alarms, resplit_check
from monitorlab.online.calibration import calibrate

CHANCE = 1e-5
REPLICATIONS = 250
LEVELS = (0.05, 0.1, 0.2)
SIZES = (24, 120)
GRID = 10  # tied scores are 0, .1, ..., 1
DELTA = 0.1


def benign_dev(n: int, tied: bool, failing: float, seed: int) -> pd.DataFrame:
    """Benign dev samples of `REPLICATIONS` monitors, a share `failing` without a verdict."""
    rng = np.random.default_rng([n, tied, round(100 * failing), seed])
    total = n * REPLICATIONS
    scores = rng.integers(0, GRID + 1, total) / GRID if tied else rng.random(total)
    failed = rng.random(total) < failing
    return pd.DataFrame({
        "name": np.repeat([f"m{i}" for i in range(REPLICATIONS)], n), "draw": 0, "label": 0,
        "sample_id": np.tile([f"s{i}" for i in range(n)], REPLICATIONS),
        "cell": "sg_qa", "split": "dev", "status": np.where(failed, "refused", "parsed"),
        "score": np.where(failed, np.nan, scores),
        "verdict": pd.array(scores > 0.5, "boolean").copy(),
    }).assign(verdict=lambda f: f["verdict"].where(~failed))


def true_far(thresholds: np.ndarray, tied: bool, failing: float) -> np.ndarray:
    """P(a fresh benign sample alarms), with failed verdicts as alarms below their own score."""
    if tied:
        passed = np.mean(np.arange(GRID + 1) / GRID > thresholds[:, None], axis=1)
    else:
        passed = np.clip(1 - thresholds, 0, 1)
    return np.where(thresholds < FAILED_SCORE, failing + (1 - failing) * passed, 0.0)


@pytest.fixture(scope="module")
def risks() -> dict[tuple[int, bool, float], pd.DataFrame]:
    out = {}
    for n in SIZES:
        for tied in (False, True):
            for failing in (0.0, 0.06):
                table = calibrated_points(benign_dev(n, tied, failing, 1), LEVELS, delta=DELTA)
                table = table[table["cell"] == "sg_qa"]
                far = true_far(table["threshold"].to_numpy(), tied, failing)
                out[n, tied, failing] = table.assign(true_far=far)
    return out


@pytest.mark.parametrize("failing", [0.0, 0.06])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_crc_keeps_the_mean_false_alarm_rate(risks, n, tied, failing):
    table = risks[n, tied, failing]
    for level, part in table[table["calibrator"] == "crc"].groupby("level"):
        assert len(part) == REPLICATIONS
        far = part["true_far"]
        margin = stats.norm.isf(CHANCE) * far.std(ddof=1) / np.sqrt(REPLICATIONS)
        assert far.mean() <= level + margin + 1e-12, (level, far.mean())


@pytest.mark.parametrize("failing", [0.0, 0.06])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_exact_binomial_exceeds_the_level_with_at_most_delta(risks, n, tied, failing):
    allowed = stats.binom.isf(CHANCE, REPLICATIONS, DELTA)
    table = risks[n, tied, failing]
    for level, part in table[table["calibrator"] == "binomial"].groupby("level"):
        assert np.sum(part["true_far"] > level + 1e-12) <= allowed, level


def test_the_level_is_spent_and_not_kept_by_silence(risks):
    for failing in (0.0, 0.06):
        table = risks[120, False, failing]
        for level in (0.1, 0.2):
            part = table[(table["level"] == level) & (table["calibrator"] == "crc")]
            assert part["true_far"].mean() > 0.8 * level
            part = table[(table["level"] == level) & (table["calibrator"] == "binomial")]
            assert part["true_far"].mean() > 0.4 * level


def test_leaving_failures_out_of_calibration_breaks_the_promise():
    """Why they get a score before calibration: the same check catches the rule without it."""
    frame = benign_dev(120, False, 0.06, 2)
    parsed = frame[frame["status"] == "parsed"]
    thresholds = np.array([calibrate(part["score"].to_numpy(), 0.1).value
                           for _, part in parsed.groupby("name")])
    far = true_far(thresholds, False, 0.06)
    margin = stats.norm.isf(CHANCE) * far.std(ddof=1) / np.sqrt(REPLICATIONS)
    assert far.mean() > 0.1 + margin


@pytest.mark.parametrize("calibrator", ["crc", "binomial"])
@pytest.mark.parametrize(("n", "m"), [(24, 74), (60, 200)])
def test_reference_law_of_test_false_alarms(calibrator, n, m):
    """Fresh dev and test samples each time, against mean, both exceedances and the whole law."""
    rng = np.random.default_rng([n, m])
    times, level = 4000, 0.1
    scores = rng.random((times, n + m))
    dev = np.arange(n + m) < n
    k = int(resplit_alarms(scores[0], dev[None], level, calibrator)[1][0])
    thresholds = np.sort(scores[:, :n], axis=1)[:, -k]
    alarms = np.sum(scores[:, n:] > thresholds[:, None], axis=1)
    mean, exceed, true = (float(v) for v in expected_far(n, m, k, level))
    error = stats.norm.isf(CHANCE / 2)
    assert abs(alarms.mean() / m - mean) <= error * alarms.std() / m / np.sqrt(times)
    for found, chance in ((alarms / m > level, exceed), (1 - thresholds > level, true)):
        assert abs(found.mean() - chance) <= error * np.sqrt(chance * (1 - chance) / times) + 1e-9
    expected = stats.betabinom.pmf(np.arange(m + 1), m, k, n + 1 - k) * times
    counts = np.bincount(alarms, minlength=m + 1)
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    assert stats.chisquare(observed, wanted).pvalue > CHANCE


def clustered(alike: bool, seed: int) -> pd.DataFrame:
    """200 pairs in 50 scenarios; the scores of a scenario resemble each other, or do not."""
    rng = np.random.default_rng(seed)
    pairs = np.arange(200)
    level = rng.random(50)[pairs // 4] if alike else rng.random(200)
    return pd.DataFrame({
        "name": "m", "draw": 0, "cell": "sg_qa", "label": 0, "sample_id": pairs.astype(str),
        "pair_id": pairs, "scenario_id": pairs // 4, "split": np.where(pairs < 60, "dev", "test"),
        "status": "parsed", "score": 0.99 * level + 0.01 * rng.random(200), "verdict": False,
    })


def distance(alike: bool, unit: str, calibrator: str) -> tuple[float, pd.Series]:
    """Standard errors between the exceedance found and its exchangeable reference."""
    times = 3000
    rng = np.random.default_rng(5)
    row = resplit_check(clustered(alike, 4), 0.1, calibrator, unit=unit, n=times, rng=rng).iloc[0]
    chance = row["exceed_expected"]
    return (row["exceed"] - chance) / np.sqrt(chance * (1 - chance) / times), row


@pytest.mark.parametrize("calibrator", ["crc", "binomial"])
@pytest.mark.parametrize("alike", [False, True])
def test_resplits_by_pair_follow_the_reference(alike, calibrator):
    gap, row = distance(alike, "pair", calibrator)
    assert abs(gap) < stats.norm.isf(CHANCE / 2)
    assert row["mean_far"] == pytest.approx(row["mean_far_expected"], abs=0.005)


def test_scenarios_that_hang_together_break_the_promise_for_single_samples():
    gap, row = distance(True, "scenario", "binomial")
    assert gap > 10
    assert row["true_exceed_expected"] <= DELTA < row["exceed"] - 0.05
