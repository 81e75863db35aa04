"""Seeded Monte Carlo: without drift the test fires at most at its nominal rate, as it is used.

Bins come from other sequences, but end below a threshold that was placed on the counted ones, and
a sequence that alarms is stopped. The bound is a binomial tail at 1e-5.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitorlab.online.drift import DriftReference, DriftTest
from monitorlab.statistics.thresholds import calibrate

STREAMS, LENGTH, RATE = 200, 400, 0.2


def fires(rng: np.random.Generator, n: int, grid: float, drift: float = 0.0) -> bool:
    """Whether one stream of peaks is reported; on a grid they tie."""
    def draw(size: int, shift: float = 0.0) -> np.ndarray:
        peaks = rng.gumbel(size=size) + shift
        return np.round(peaks / grid) * grid if grid else peaks

    counted = draw(n)
    rule = calibrate(counted, 0.1, tie_rng=rng)
    test = DriftTest(DriftReference.of(counted, draw(n), rule.value, RATE))
    stream = draw(LENGTH, drift)
    stream[rule.alarms(stream, rng.random(LENGTH))] = np.inf
    for peak, number in zip(stream.tolist(), rng.random(LENGTH).tolist(), strict=True):
        test.add(peak, number)
    return test.fired_at > 0


@pytest.mark.parametrize("grid", [0.0, 0.5])
@pytest.mark.parametrize("n", [60, 500])
def test_without_drift_the_rate_is_kept(n, grid):
    rng = np.random.default_rng([n, round(grid * 10)])
    found = sum(fires(rng, n, grid) for _ in range(STREAMS))
    assert found <= stats.binom.isf(1e-5, STREAMS, RATE)
    assert found > 0  # the bound is no formality: bets are made


@pytest.mark.parametrize("shift", [0.7, -0.7])
def test_drift_is_found(shift):
    rng = np.random.default_rng(7)
    assert sum(fires(rng, 500, 0.0, shift) for _ in range(20)) >= 19
