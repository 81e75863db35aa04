"""Seeded Monte Carlo: thresholds chosen on dev keep what they promise about false alarms.

Every replication is a monitor of its own, with fresh benign dev samples from a known distribution,
so the *true* false alarm rate of its threshold is known exactly. Failed verdicts are mixed in:
they are alarms, and the promise is about them too. Bounds are binomial or normal tails at 1e-5.

Where the samples of a scenario resemble each other, thresholds by scenario keep their promise and
thresholds by pair visibly do not.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monitorlab.evaluation.cost import _escalation_band
from monitorlab.evaluation.operating_points import (
    CALIBRATORS,
    FAILED_SCORE,
    _expected_far,
    _resplit_alarms,
    calibrated_points,
    choose_rule,
    operating_scores,
    resplit_check,
)
from monitorlab.statistics.thresholds import calibrate

CHANCE = 1e-5
REPLICATIONS = 200
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
        "pair_id": np.tile([f"p{i}" for i in range(n)], REPLICATIONS),
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
                table = calibrated_points(benign_dev(n, tied, failing, 1), LEVELS, delta=DELTA,
                                          unit="pair")
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
    k = int(_resplit_alarms(scores[0], dev[None], level, calibrator)[1][0])
    thresholds = np.sort(scores[:, :n], axis=1)[:, -k]
    alarms = np.sum(scores[:, n:] > thresholds[:, None], axis=1)
    mean, exceed, true = (float(v) for v in _expected_far(n, m, k, level))
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


def distance(alike: bool, split_by: str, calibrator: str) -> tuple[float, pd.Series]:
    """Standard errors between the exceedance found and its exchangeable reference."""
    times = 3000
    rng = np.random.default_rng(5)
    row = resplit_check(clustered(alike, 4), 0.1, calibrator, unit="pair", n=times, rng=rng,
                        split_by=split_by).iloc[0]
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


def scenario_dev(scenarios: int, alike: float, failing: float, seed: int) -> pd.DataFrame:
    """Benign dev samples of `REPLICATIONS` monitors, 1 to 15 in each scenario.

    With probability `alike` a sample has the score of its scenario, else one of its own; both are
    uniform, so a threshold of v raises an alarm with probability 1 - v whatever they have in
    common, and that is the expected loss of a new scenario. Failures come by scenario too.
    """
    rng = np.random.default_rng([scenarios, round(10 * alike), round(100 * failing), seed])
    sizes = rng.integers(1, 16, (REPLICATIONS, scenarios))
    unit = np.repeat(np.arange(sizes.size), sizes.ravel())
    shared = rng.random(len(unit)) < alike
    scores = np.where(shared, rng.random(sizes.size)[unit], rng.random(len(unit)))
    failed = (np.where(shared, rng.random(sizes.size)[unit], rng.random(len(unit))) < failing)
    return pd.DataFrame({
        "name": [f"m{i}" for i in unit // scenarios], "draw": 0, "label": 0,
        "sample_id": [f"s{i}" for i in range(len(unit))],
        "pair_id": [f"p{i}" for i in range(len(unit))], "scenario_id": unit,
        "cell": "sg_qa", "split": "dev", "status": np.where(failed, "refused", "parsed"),
        "score": np.where(failed, np.nan, scores),
        "verdict": pd.Series(scores > 0.5, dtype="boolean").where(~failed),
    })


def risks_of(frame: pd.DataFrame, failing: float, unit: str) -> pd.DataFrame:
    scores, units = operating_scores(frame), frame["scenario_id"].to_numpy()
    rows = [
        (rule, level, choose_rule(scores[own], units[own], level, rule, DELTA, unit).value)
        for own in frame.groupby("name").indices.values()
        for rule in CALIBRATORS[unit] for level in LEVELS
    ]
    table = pd.DataFrame(rows, columns=["calibrator", "level", "threshold"])
    return table.assign(true_far=true_far(table["threshold"].to_numpy(), False, failing))


CLUSTERS = [(10, 0.0), (10, 1.0), (24, 0.5), (24, 1.0), (60, 0.9)]


@pytest.mark.parametrize("failing", [0.0, 0.04])
@pytest.mark.parametrize(("scenarios", "alike"), CLUSTERS)
def test_thresholds_by_scenario_keep_both_promises_for_new_scenarios(scenarios, alike, failing):
    table = risks_of(scenario_dev(scenarios, alike, failing, 1), failing, "scenario")
    allowed = stats.binom.isf(CHANCE, REPLICATIONS, DELTA)
    for (calibrator, level), part in table.groupby(["calibrator", "level"]):
        far = part["true_far"]
        if calibrator == "crc":
            margin = stats.norm.isf(CHANCE) * far.std(ddof=1) / np.sqrt(REPLICATIONS)
            assert far.mean() <= level + margin + 1e-12, (level, far.mean())
        else:
            assert np.sum(far > level + 1e-12) <= allowed, level


def test_thresholds_by_scenario_spend_the_level_where_scenarios_are_many():
    table = risks_of(scenario_dev(60, 0.9, 0.0, 1), 0.0, "scenario")
    mean = table.groupby(["calibrator", "level"])["true_far"].mean()
    assert mean["crc", 0.2] > 0.7 * 0.2 and mean["hoeffding_bentkus", 0.2] > 0.3 * 0.2


@pytest.mark.parametrize(("scenarios", "alike"), [(24, 1.0), (60, 0.9)])
def test_thresholds_by_pair_break_their_promise_for_new_scenarios(scenarios, alike):
    table = risks_of(scenario_dev(scenarios, alike, 0.0, 1), 0.0, "pair")
    exact = table[(table["calibrator"] == "binomial") & (table["level"] == 0.2)]
    exceeded = np.mean(exact["true_far"] > 0.2)
    assert exceeded > 0.25 > 2 * DELTA  # promised: at most DELTA


def test_crc_by_pair_breaks_its_promise_where_a_scenario_is_larger_than_the_level():
    """Fifteen scenarios of eight that alarm as one: a tenth of 120 samples is 1.5 scenarios."""
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(15 * REPLICATIONS), 8)
    frame = scenario_dev(15, 1.0, 0.0, 1).head(1).loc[[0] * len(unit)].assign(
        name=[f"m{i}" for i in unit // 15], sample_id=np.arange(len(unit)).astype(str),
        pair_id=np.arange(len(unit)), scenario_id=unit, score=rng.random(unit[-1] + 1)[unit],
    ).reset_index(drop=True)  # fmt: skip
    found = {}
    for by in ("pair", "scenario"):
        table = risks_of(frame, 0.0, by)
        found[by] = table[(table["calibrator"] == "crc") & (table["level"] == 0.1)]["true_far"]
    margin = stats.norm.isf(CHANCE) * found["pair"].std(ddof=1) / np.sqrt(REPLICATIONS)
    assert found["pair"].mean() > 0.1 + margin  # 2 / 16
    assert found["scenario"].mean() <= 0.1 + margin


def test_resplits_by_scenario_keep_the_level_for_any_population():
    """Random splits make scenarios exchangeable, so CRC holds exactly for each fixed benchmark."""
    times, level = 2000, 0.1
    for seed in range(3):
        frame = clustered(True, seed)
        frame["split"] = np.where(frame["scenario_id"] < 15, "dev", "test")
        rows = {unit: resplit_check(frame, level, "crc", n=times, unit=unit, split_by="scenario",
                                    rng=np.random.default_rng(seed)).iloc[0]
                for unit in ("scenario", "pair")}
        assert rows["scenario"]["mean_far"] <= level + stats.norm.isf(CHANCE) * 0.1 / times**0.5
        assert rows["pair"]["mean_far"] > rows["scenario"]["mean_far"]


@pytest.mark.parametrize("budget", [0.1, 0.3])
def test_a_cascade_escalates_at_most_its_budget_of_new_scenarios(budget):
    """Samples of a scenario resemble each other; the base rate weighs the classes."""
    base_rate, scenarios, size = 0.2, 40, 4
    rng = np.random.default_rng([17, round(10 * budget)])
    shares = []
    for _ in range(200):
        centers = np.repeat(rng.normal(0, 0.2, 2 * scenarios), size)
        label = np.repeat([0, 1], scenarios * size)
        scores = np.clip(0.4 + 0.2 * label + centers + rng.normal(0, 0.05, len(label)), 0, 1)
        frame = pd.DataFrame({
            "label": label, "score": scores, "status": "parsed", "verdict": scores > 0.5,
            "sample_id": [f"s{i}" for i in range(len(label))],
            "scenario_id": [f"c{i // size}" for i in range(len(label))],
        })
        new = frame["scenario_id"].isin({"c0", f"c{scenarios}"})  # one of each class
        low, high = _escalation_band(frame[~new], budget, base_rate=base_rate)
        inside = frame.loc[new, "score"].between(low, high)
        by_class = inside.groupby(frame.loc[new, "label"]).mean()
        shares.append((1 - base_rate) * by_class[0] + base_rate * by_class[1])
    margin = stats.norm.isf(CHANCE) * np.std(shares, ddof=1) / np.sqrt(len(shares))
    assert np.mean(shares) <= budget + margin
    assert np.mean(shares) > budget - 2 / scenarios - margin, "the budget is used"
