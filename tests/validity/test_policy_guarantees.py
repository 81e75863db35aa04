"""Seeded Monte Carlo: what a policy of `calibrate` promises, alone, of both risks, and by group.

Each trial draws a log, calibrates a policy on it and counts alarms on many fresh sequences, so that
choosing and fitting a statistic, ties and the file's own thresholds are all inside.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from monitorlab.commands.calibrate import Calibrated, Plan
from monitorlab.online.metrics import alarm_steps
from monitorlab.online.policy import hashed_draws
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import FALSE_ALARM, MISSED_DETECTION, Threshold

CHANCE = 1e-4
LEVEL = 0.2


def draw(rng: np.random.Generator, n: int) -> Trajectories:
    """Noise on a coarse grid, in which unsafe sequences rise a little at every step."""
    lengths, labels = rng.integers(4, 9, n), (rng.random(n) < 0.4).astype(np.int8)
    scores = rng.normal(np.repeat(labels, lengths) * 0.6, 1.0).round(1)
    ids = rng.integers(2**60, size=n).astype(str).astype(object)
    return Trajectories("log", "score", ids, scores, np.ones(len(scores)), lengths, labels)


def rates(found: Calibrated, rule: Threshold, fresh: Trajectories) -> dict[str, float]:
    """False alarm and miss rate of a threshold of the policy on fresh sequences."""
    running = fresh.transformed(found.policy.statistic)
    alarmed = alarm_steps(running, rule, hashed_draws(fresh.ids)) > 0
    return {FALSE_ALARM: float(alarmed[fresh.labels == 0].mean()),
            MISSED_DETECTION: float(1.0 - alarmed[fresh.labels == 1].mean())}


def assert_at_most(values: list[float], level: float) -> None:
    margin = stats.norm.isf(CHANCE) * np.std(values, ddof=1) / np.sqrt(len(values))
    assert np.mean(values) <= level + margin, np.mean(values)


@pytest.mark.parametrize("risk", [FALSE_ALARM, MISSED_DETECTION])
@pytest.mark.parametrize(("statistic", "trials"), [
    ("running_mean", 60), pytest.param("", 30, marks=pytest.mark.long)])
def test_a_policy_keeps_its_level_and_the_other_risk_as_it_says(statistic, trials, risk):
    """`also` is read off each log, so it is its mean that bounds the mean of the other risk."""
    (other,) = {FALSE_ALARM, MISSED_DETECTION} - {risk}
    kept, excess = [], []
    for trial in range(trials):
        rng = np.random.default_rng([trial, len(risk), trials])
        found = Calibrated.of(draw(rng, 200), Plan(level=LEVEL, statistic=statistic, risk=risk))
        measured = rates(found, found.policy.threshold, draw(rng, 300))
        kept.append(measured[risk])
        excess.append(measured[other] - found.levels.set_index("level").loc[LEVEL, "also"])
    assert_at_most(kept, LEVEL)
    assert np.mean(kept) > LEVEL / 2, "a rule that always or never alarms would keep a level, too"
    assert_at_most(excess, 0.0)
    assert np.mean(excess) > -0.1, "to announce much more than what happens promises nothing"


def test_each_group_has_its_level():
    """Scores of one group are two higher; a common threshold would stop it far too often."""
    kept: dict[str, list[float]] = {"easy": [], "hard": []}
    common = []
    for trial in range(40):
        rng = np.random.default_rng(trial)
        data = draw(rng, 240)
        hard = rng.random(240) < 0.3
        data.flat_scores[np.repeat(hard, data.lengths)] += 2.0
        data = replace(data, groups=np.where(hard, "hard", "easy").astype(object))
        found = Calibrated.of(data, Plan(level=LEVEL, statistic="running_min", per_group=True))
        for name, values in kept.items():
            fresh = draw(rng, 300)
            fresh.flat_scores[:] += 2.0 * (name == "hard")
            values.append(rates(found, found.policy.groups[name], fresh)[FALSE_ALARM])
        common.append(rates(found, found.policy.threshold, fresh)[FALSE_ALARM])
    for values in kept.values():
        assert_at_most(values, LEVEL)
        assert np.mean(values) > LEVEL / 2
    assert np.mean(common) > 2 * LEVEL


@pytest.mark.parametrize("named", [True, False])
def test_groups_that_resemble_one_another_must_be_named(named):
    """Thirty prompts with twelve safe answers each; the true rate of a threshold is known."""
    above, trials = 0, 120
    prompts = np.repeat(np.arange(30), 12)
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        scores = (rng.normal(size=30)[prompts] + rng.normal(size=360)) / np.sqrt(2)
        ones = np.ones(360)
        ids = np.array([f"{trial}-{i}" for i in range(360)], dtype=object)
        data = Trajectories("log", "score", ids, scores, ones, ones.astype(int),
                            np.zeros(360, np.int8),
                            groups=prompts.astype(str).astype(object) if named else None)
        plan = Plan(level=LEVEL, calibrator="binomial", statistic="running_min")
        above += stats.norm.sf(Calibrated.of(data, plan).policy.threshold.value) > LEVEL
    allowed = stats.binom.isf(CHANCE, trials, plan.delta)
    assert (above <= allowed) == named, above
