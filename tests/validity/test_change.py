"""Seeded Monte Carlo: promises where sequences changed in a known way, and rates of detectors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitorlab.chapters.shift import CORRECTED, DETECTORS, MARTINGALE, REPEATED
from monitorlab.statistics.thresholds import calibrate, calibrate_weighted

CHANCE = 1e-5


@pytest.mark.parametrize("level", [0.1, 0.2])
@pytest.mark.parametrize("n", [20, 100])
def test_known_weights_keep_the_level_and_none_do_not(n, level):
    """A property x is uniform before; later it has density 2x, and the peak rises with it.

    A peak is x plus a uniform number, so above a threshold v the later risk is an integral.
    """
    rng = np.random.default_rng([n, round(100 * level)])
    at = (np.arange(4000) + 0.5) / 4000

    def later_risk(value: float) -> float:
        return float(np.mean(2 * at * np.clip(1 - (value - at), 0, 1)))

    risks = np.empty((600, 2))
    for row in risks:
        x = rng.random(n)
        peaks = x + rng.random(n)
        row[:] = (later_risk(calibrate_weighted(peaks, np.maximum(2 * x, 1e-9), level, 2.0)),
                  later_risk(calibrate(peaks, level).value))
    margin = stats.norm.isf(CHANCE) * risks.std(axis=0, ddof=1) / np.sqrt(len(risks))
    assert risks[:, 0].mean() <= level + margin[0]
    assert risks[:, 1].mean() > level + margin[1]
    if n == 100:
        assert risks[:, 0].mean() > 0.7 * level


@pytest.mark.parametrize("name", [MARTINGALE, CORRECTED])
def test_without_a_change_detectors_keep_their_rate(name):
    rng, plays, rate = np.random.default_rng(3), 200, 0.05
    reports = [DETECTORS[name](rng.random(80), rng.random(150), rate, rng) for _ in range(plays)]
    assert np.sum(np.array(reports) > 0) <= stats.binom.isf(CHANCE, plays, rate)


def test_a_test_that_looks_again_and_again_does_not_keep_it():
    rng, plays, rate = np.random.default_rng(3), 120, 0.05
    reports = [DETECTORS[REPEATED](rng.random(80), rng.random(400), rate, rng)
               for _ in range(plays)]
    assert np.sum(np.array(reports) > 0) > stats.binom.isf(CHANCE, plays, rate)


def test_a_change_is_reported():
    rng = np.random.default_rng(3)
    for name, detect in DETECTORS.items():
        reports = [detect(rng.random(200), 0.4 + rng.random(300), 0.05, rng) for _ in range(10)]
        assert min(reports) > 0, name
