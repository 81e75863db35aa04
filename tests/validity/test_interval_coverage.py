"""95 % intervals cover in 93 to 97 % of cases, and tests that promise 5 % keep it.

Intervals of one rate are checked exactly, by adding up the binomial law. The others are simulated:
with 20,000 replications the standard error of a coverage is below 0.2 %, with 3,000 it is 0.4 %.
The bootstrap has 200 replications and may leave 93 to 97 % by a binomial tail of 1e-4 at its ends.
Tests of a level may exceed 5 % by a binomial tail of 1e-5.

Where the errors of a scenario come together, intervals over scenarios cover and tests over
scenarios keep their level. Those that take samples as independent do neither, which the same
simulations show.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monitorlab.evaluation.bootstrap import Bootstrap, Paired
from monitorlab.evaluation.comparisons import (
    _Gaps,
    _newcombe_paired,
    cochran_q,
    compare,
    mcnemar_exact,
    sign_flip,
)
from monitorlab.evaluation.rates import macro, rates
from monitorlab.statistics.intervals import Clustered, clopper_pearson, wilson
from monitorlab.storage.tables import CELLS

CHANCE = 1e-5
RATES = np.linspace(0.05, 0.95, 37)


def exact_coverage(low: np.ndarray, high: np.ndarray, n: int, p: float) -> float:
    """Probability that the interval of Bin(n, p) events holds p."""
    return float(stats.binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum())


@pytest.mark.parametrize("n", [100, 149, 488, 1505])
def test_wilson_covers_at_every_rate(n):
    low, high = wilson(np.arange(n + 1), n)
    covered = [exact_coverage(low, high, n, p) for p in RATES]
    assert min(covered) >= 0.93 and max(covered) <= 0.97
    assert np.mean(covered) == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize("n", [5, 30, 100, 1505])
def test_clopper_pearson_never_covers_less_than_promised(n):
    low, high = clopper_pearson(np.arange(n + 1), n)
    assert min(exact_coverage(low, high, n, p) for p in [0.001, 0.01, *RATES, 0.995]) >= 0.95


@pytest.mark.parametrize("spread", [0.3, 3.0, 100.0])
def test_draws_of_one_sample_do_not_make_intervals_too_narrow(spread):
    """Three draws each; a small `spread` makes the draws of a sample agree nearly always."""
    random = np.random.default_rng(round(spread * 10))
    own = random.beta(0.3 * spread, 0.7 * spread, size=(4000, 200))
    alarms = random.binomial(3, own).sum(axis=1) / 3
    low, high = wilson(alarms, 200)
    assert np.mean((low <= 0.3) & (high >= 0.3)) >= 0.94


# Probabilities of (both err, only the first, only the second, neither).
TABLES = [(0.05, 0.10, 0.10, 0.75), (0.02, 0.05, 0.12, 0.81), (0.30, 0.15, 0.05, 0.50),
          (0.10, 0.40, 0.20, 0.30)]  # fmt: skip


@pytest.mark.parametrize("n", [100, 300, 1505])
@pytest.mark.parametrize("table", TABLES)
def test_newcombe_covers_the_difference_of_paired_rates(table, n):
    drawn = np.random.default_rng(n).multinomial(n, table, size=20_000)
    _, low, high = _newcombe_paired(*drawn.T)
    truth = table[1] - table[2]
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.97


@pytest.mark.parametrize("n", [200, 1505])
@pytest.mark.parametrize("discordant", [0.01, 0.05, 0.2, 0.5])
def test_exact_mcnemar_keeps_its_level(discordant, n):
    random = np.random.default_rng(n)
    total = random.binomial(n, discordant, size=20_000)
    b = random.binomial(total, 0.5)
    found = np.sum(mcnemar_exact(b, total - b) <= 0.05)
    assert found <= stats.binom.isf(CHANCE, 20_000, 0.05)


def alike_monitors(random: np.random.Generator, samples: int, monitors: int) -> np.ndarray:
    """Errors of monitors with the same rate on every sample; hard samples are hard for all."""
    return random.random((samples, monitors)) < random.beta(0.6, 1.4, size=(samples, 1))


@pytest.mark.long
def test_holm_keeps_the_family_wise_error_of_equal_monitors():
    random = np.random.default_rng(6)
    replications, false = 200, 0
    sample = [f"{i:04d}" for i in range(150)]
    for _ in range(replications):
        errors = alike_monitors(random, 150, 6)
        alarm = ~errors.T.ravel()  # on misbehaving samples, an error is a silence
        judged = pd.DataFrame({
            "name": np.repeat(list("abcdef"), 150), "sample_id": sample * 6, "label": 1,
            "pair_id": sample * 6, "scenario_id": sample * 6, "cell": "sg_qa", "score": np.nan,
            "status": "parsed",
            "verdict": pd.array(alarm, dtype="boolean"),
        })  # fmt: skip
        found = compare(judged)
        false += found.loc[found["error"] == "miss", "separated"].any()
    assert false <= stats.binom.isf(1e-3, replications, 0.05)


def test_uncorrected_comparisons_of_six_monitors_do_not_keep_it():
    """The simulation can tell: without Holm, one of 15 true hypotheses falls much too often."""
    random = np.random.default_rng(6)
    false = 0
    for _ in range(400):
        errors = alike_monitors(random, 150, 6).astype(int)
        only = errors.T @ (1 - errors)
        false += mcnemar_exact(only, only.T).min() <= 0.05
    assert false > 400 * 0.15


def six_cells(alike: float, names: int = 3000, pairs: int = 40) -> tuple[pd.DataFrame, np.ndarray]:
    """Judged verdicts of many monitors with the same rates per cell; the rates (2, 6).

    With probability `alike` the two answers of a pair are judged by the same uniform draw.
    """
    random = np.random.default_rng(round(10 * alike))
    truth = np.array([[0.1, 0.2, 0.5, 0.6, 0.3, 0.4], [0.3, 0.2, 0.1, 0.1, 0.15, 0.4]])
    shape = (names, len(CELLS), pairs)
    first, second = random.random((2, *shape))
    second = np.where(random.random(shape) < alike, first, second)
    alarm = np.stack([first < 1 - truth[0][:, None], second < truth[1][:, None]], axis=-1)
    place = np.indices(alarm.shape).reshape(4, -1)
    judged = pd.DataFrame({
        "name": place[0], "cell": pd.Categorical.from_codes(place[1], CELLS), "draw": 0,
        "sample_id": (place[1] * pairs + place[2]) * 2 + place[3], "label": 1 - place[3],
        "scenario_id": place[1] * pairs + place[2],
        "status": "parsed", "verdict": pd.array(alarm.ravel(), dtype="boolean"),
    })  # fmt: skip
    return judged, truth


def covered(table: pd.DataFrame, name: str, truth: float) -> float:
    return float(((table[f"{name}_low"] <= truth) & (truth <= table[f"{name}_high"])).mean())


def test_macro_averages_and_accuracies_cover():
    judged, truth = six_cells(alike=0.0)
    mean = truth.mean(axis=1)
    found = macro(rates(judged, by=("name", "cell")))
    assert 0.93 <= covered(found, "mr", mean[0]) <= 0.97
    assert 0.93 <= covered(found, "far", mean[1]) <= 0.97
    assert 0.93 <= covered(found, "balanced_accuracy", 1 - mean.mean()) <= 0.97
    assert 0.93 <= covered(found, "g2", ((1 - truth[0]) * (1 - truth[1])).mean()) <= 0.97


def test_macro_allows_for_a_monitor_that_treats_pairs_alike():
    judged, truth = six_cells(alike=0.8)
    found = macro(rates(judged, by=("name", "cell")))
    assert 0.93 <= covered(found, "mr", truth[0].mean()) <= 0.97
    assert 0.93 <= covered(found, "balanced_accuracy", 1 - truth.mean()) <= 0.97


@pytest.mark.long
def test_pair_bootstrap_covers_auroc_and_differences():
    """Binormal scores, correlated within pairs and between two monitors."""
    random = np.random.default_rng(11)
    replications, pairs, shifts = 200, 120, np.array([1.5, 1.0])
    sample = np.arange(2 * pairs)
    label = 1 - sample % 2
    hits = dict.fromkeys(["auroc", "balanced_accuracy", "auroc gap", "balanced_accuracy gap"], 0)
    area = stats.norm.cdf(shifts / np.sqrt(2))
    accuracy = stats.norm.cdf(shifts / 2)
    truth = {"auroc": area[0], "balanced_accuracy": accuracy[0]}
    gap = {"auroc": area[0] - area[1], "balanced_accuracy": accuracy[0] - accuracy[1]}
    for _ in range(replications):
        shared = np.repeat(random.normal(size=pairs), 2)
        own = random.normal(size=2 * pairs)
        tables = []
        for name, shift in zip("ab", shifts, strict=True):
            noise = (shared + own + random.normal(size=2 * pairs)) / np.sqrt(3)
            score = stats.norm.cdf(shift * (label - 0.5) + noise)
            tables.append(pd.DataFrame({
                "name": name, "sample_id": sample, "pair_id": sample // 2, "cell": "sg_qa",
                "status": "parsed", "label": label, "score": score,
                "verdict": pd.array(score > 0.5, dtype="boolean"),
            }))  # fmt: skip
        judged, how = pd.concat(tables), {"resamples": 300, "metrics": tuple(truth), "unit": "pair"}
        alone = Bootstrap.of(judged, random, **how).intervals().query("name == 'a'")
        alone = alone.set_index("metric")[["low", "high"]]
        both = Paired.of(judged, random, **how).differences().set_index("metric")[["low", "high"]]
        for metric in truth:
            hits[metric] += alone.loc[metric, "low"] <= truth[metric] <= alone.loc[metric, "high"]
            low, high = both.loc[metric]
            hits[f"{metric} gap"] += low <= gap[metric] <= high
    least = stats.binom.ppf(1e-4, replications, 0.93)
    most = stats.binom.isf(1e-4, replications, 0.97)
    assert all(least <= hit <= most for hit in hits.values()), hits


def states_by_scenario(
    random: np.random.Generator, law: tuple[float, ...], scenarios: int, alike: float, times: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of each state, (times, scenarios, states), and sizes from 1 to 9.

    With probability `alike` a sample is in the state of its scenario, else in one of its own.
    """
    sizes = random.integers(1, 10, (times, scenarios))
    states = len(law)
    ends = np.cumsum(law)[:-1]
    shared = np.searchsorted(ends, random.random((times, scenarios, 1)), side="right")
    own = np.searchsorted(ends, random.random((times, scenarios, 9)), side="right")
    state = np.where(random.random(own.shape) < alike, shared, own)
    there = np.arange(9) < sizes[..., None]
    return np.stack([((state == k) & there).sum(axis=2) for k in range(states)], axis=2), sizes


ALIKE = [0.0, 0.5, 0.9]


@pytest.mark.parametrize("alike", ALIKE)
@pytest.mark.parametrize(("scenarios", "rate"), [(30, 0.2), (30, 0.5), (120, 0.05), (120, 0.3)])
def test_intervals_over_scenarios_cover_rates_whose_errors_come_together(scenarios, rate, alike):
    random = np.random.default_rng([scenarios, round(100 * rate), round(10 * alike)])
    counts, sizes = states_by_scenario(random, (rate, 1 - rate), scenarios, alike, 3000)
    group = np.repeat(np.arange(3000), scenarios)
    found = Clustered.of(counts[..., 0].ravel(), sizes.ravel(), group, 3000)
    for low, high in (found.wilson(), found.clopper_pearson()):
        assert np.mean((low <= rate) & (rate <= high)) >= 0.93
    low, high = found.wilson()
    assert np.mean((low <= rate) & (rate <= high)) <= 0.985
    if alike == 0.9:  # the design effect is about 5, so Wilson's interval is less than half as wide
        low, high = wilson(found.events, found.n)
        assert np.mean((low <= rate) & (rate <= high)) < 0.75


@pytest.mark.parametrize("alike", ALIKE)
@pytest.mark.parametrize("law", [(0.1, 0.2, 0.1, 0.6), (0.05, 0.05, 0.05, 0.85)])
def test_intervals_of_paired_differences_cover_where_errors_come_together(law, alike):
    """States: both err, only the first, only the second, neither."""
    random = np.random.default_rng([round(100 * law[1]), round(10 * alike)])
    counts, sizes = states_by_scenario(random, law, 100, alike, 3000)
    gaps = (counts[..., 1] - counts[..., 2]).T.astype(float)
    total = counts.sum(axis=1)
    worth = _Gaps.between(gaps, sizes.T.astype(float), total[:, 1] + total[:, 2]).worth(0.95)
    _, low, high = _newcombe_paired(*(total.T * worth))
    truth = law[1] - law[2]
    assert 0.93 <= np.mean((low <= truth) & (truth <= high)) <= 0.985
    if alike == 0.9:
        _, low, high = _newcombe_paired(*total.T)
        assert np.mean((low <= truth) & (truth <= high)) < 0.75


@pytest.mark.parametrize("alike", ALIKE)
@pytest.mark.parametrize("discordant", [0.05, 0.2])
def test_sign_flips_keep_their_level_where_errors_come_together(discordant, alike):
    random = np.random.default_rng([round(100 * discordant), round(10 * alike)])
    law = (0.2, discordant, discordant, 0.8 - 2 * discordant)
    counts, _ = states_by_scenario(random, law, 40, alike, 2000)
    flips = np.array([sign_flip(gaps) for gaps in counts[..., 1] - counts[..., 2]])
    most = stats.binom.isf(CHANCE, 2000, 0.05)
    assert np.sum(flips <= 0.05) <= most
    total = counts.sum(axis=1)
    separated = np.sum(mcnemar_exact(total[:, 1], total[:, 2]) <= 0.05)
    if alike == 0.0:
        assert separated <= most and np.sum(flips <= 0.05) > 0.01 * 2000
    if alike == 0.9:
        assert separated > 0.2 * 2000  # promised: 100


def judged_by_scenario(
    random: np.random.Generator, names: str, scenarios: int = 30, alike: float = 0.9
) -> pd.DataFrame:
    """Equal monitors that err on whole scenarios of six samples, half of them misbehaving."""
    tables = []
    n = 6 * scenarios
    unit, label = np.repeat(np.arange(scenarios), 6), np.tile([1, 0], n // 2)
    hard = random.beta(0.6, 1.4, scenarios)  # for all of them
    for name in names:
        own = random.random((scenarios, 2)) < hard[:, None]
        alone = random.random(n) < hard[unit]
        wrong = np.where(random.random(n) < alike, own[unit, label], alone)
        tables.append(pd.DataFrame({
            "name": name, "sample_id": np.arange(n), "pair_id": np.arange(n) // 2, "cell": "sg_qa",
            "scenario_id": unit, "status": "parsed", "label": label, "score": np.nan,
            "verdict": pd.array((label == 1) != wrong, dtype="boolean"),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


@pytest.mark.long
def test_families_of_tests_keep_their_level_by_scenario_and_not_by_sample():
    random = np.random.default_rng(8)
    times = 120
    false = dict.fromkeys(("scenario", "mcnemar", "t2", "q"), 0)
    for _ in range(times):
        judged = judged_by_scenario(random, "abcd")
        found = compare(judged)
        found = found[found["error"] == "wrong"]
        false["scenario"] += found["separated"].any()
        false["mcnemar"] += (found["p_mcnemar_holm"] <= 0.05).any()
        whole = cochran_q(judged).set_index("error").loc["wrong"]
        false["t2"] += whole["p"] <= 0.05
        false["q"] += whole["p_samples"] <= 0.05
    most = stats.binom.isf(1e-4, times, 0.05)
    assert false["scenario"] <= most and false["t2"] <= most, false
    assert min(false["mcnemar"], false["q"]) > 0.25 * times, false


def test_the_bootstrap_of_scenarios_covers_and_that_of_pairs_does_not():
    random = np.random.default_rng(12)
    times, scenarios, size = 200, 50, 6
    n = size * scenarios
    unit, label = np.repeat(np.arange(scenarios), size), np.tile([1, 0], n // 2)
    truth = stats.norm.cdf(1.2 / np.sqrt(2))
    hits = dict.fromkeys(("scenario", "pair"), 0)
    for _ in range(times):
        shared = random.normal(size=(scenarios, 2))[unit, label]  # by label: pairs do not hold it
        noise = np.sqrt(0.8) * shared + np.sqrt(0.2) * random.normal(size=n)
        judged = pd.DataFrame({
            "name": "a", "sample_id": np.arange(n), "pair_id": np.arange(n) // 2, "cell": "sg_qa",
            "scenario_id": unit, "status": "parsed", "label": label,
            "score": stats.norm.cdf(1.2 * (label - 0.5) + noise),
            "verdict": pd.array(noise > 0, dtype="boolean"),
        })  # fmt: skip
        for by in hits:
            found = Bootstrap.of(judged, random, resamples=200, metrics=["auroc"], unit=by)
            row = found.intervals().iloc[0]
            hits[by] += row["low"] <= truth <= row["high"]
    assert stats.binom.ppf(1e-4, times, 0.93) <= hits["scenario"], hits
    assert hits["pair"] < 0.85 * times, hits
