"""Seeded Monte Carlo: learning from all unsafe sequences and half of the safe ones breaks nothing.

Each trial draws a small calibration set, learns, calibrates on the safe sequences that are left and
counts false alarms on many fresh safe ones. Their mean over trials must not exceed the level by
more than chance. Calibrating on what was learned from does exceed it: the test can fail.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitorlab.online.metrics import peaks
from monitorlab.online.running import (
    ChosenPrefix,
    Cusum,
    LearnedPrefix,
    Statistic,
    training_part,
)
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import FALSE_ALARM, MISSED_DETECTION, calibrate

TRIALS = 100
CHANCE = 1e-4
LEVEL = 0.2


def draw(rng: np.random.Generator, labels: np.ndarray) -> Trajectories:
    """Random walks of three to eight steps that drift a little if unsafe, on a coarse grid."""
    n = len(labels)
    scores = rng.normal(0.15 * labels[:, None], 1.0, (n, 8)).cumsum(axis=1).round(1)
    scores[np.arange(8) >= rng.integers(3, 9, n)[:, None]] = np.nan
    return Trajectories.from_padded("d", "s", np.arange(n).astype(str), scores,
                                    np.where(np.isnan(scores), np.nan, 1.0), labels)


def risks(statistic: Statistic, risk: str, honest: bool, n: int = 90) -> np.ndarray:
    """The share of fresh sequences of the class at risk on which the event happens, per trial."""
    at_risk = int(risk == MISSED_DETECTION)
    found = np.empty(TRIALS)
    for trial in range(TRIALS):
        rng = np.random.default_rng([trial, at_risk])
        data = draw(rng, (rng.random(n) < 0.5).astype(np.int8))
        learns = training_part(statistic, data.labels, at_risk)
        fitted = statistic.fit(data.take(learns))
        left = (data.labels == at_risk) & (~learns if honest else learns)
        calibrating = peaks(data.take(left).transformed(fitted))
        threshold = calibrate(calibrating, LEVEL, risk=risk, tie_rng=rng)
        fresh = draw(rng, np.full(400, at_risk, dtype=np.int8)).transformed(fitted)
        alarms = threshold.alarms(peaks(fresh), rng.random(400))
        found[trial] = np.mean(alarms if risk == FALSE_ALARM else ~alarms)
    return found


@pytest.mark.parametrize("risk", [FALSE_ALARM, MISSED_DETECTION])
@pytest.mark.parametrize("statistic", [
    LearnedPrefix(),
    pytest.param(ChosenPrefix(), marks=pytest.mark.long),
    ChosenPrefix("power", "chosen_power"),
    Cusum(),
], ids=lambda one: one.name)
def test_the_level_is_kept_whatever_was_learned(statistic: Statistic, risk: str) -> None:
    found = risks(statistic, risk, honest=True)
    margin = stats.norm.isf(CHANCE) * found.std(ddof=1) / np.sqrt(TRIALS)
    assert found.mean() <= LEVEL + margin, found.mean()
    assert found.mean() > LEVEL / 2, "a rule that never alarms would keep any level"


def test_calibrating_on_what_was_learned_from_is_caught() -> None:
    found = risks(LearnedPrefix(), FALSE_ALARM, honest=False)
    margin = stats.norm.isf(CHANCE) * found.std(ddof=1) / np.sqrt(TRIALS)
    assert found.mean() > LEVEL + margin, found.mean()
