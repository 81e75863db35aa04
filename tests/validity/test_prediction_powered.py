"""Seeded Monte Carlo: corrected rates cover the truth, and good guesses are worth labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from monitorlab.statistics.intervals import corrected_rate

TIMES = 250


def draw(rng: np.random.Generator, size: int, quality: float):
    """Labels, alarms, and guesses of the label: 1 knows it, 0 is wrong about it by a constant."""
    unsafe = rng.random(size) < 0.3
    alarm = rng.random(size) < np.where(unsafe, 0.6, 0.1)
    guess = quality * unsafe + (1 - quality) * np.clip(0.5 + rng.normal(0, 0.2, size), 0, 1)
    return unsafe, alarm, guess


def rate_of(rng: np.random.Generator, n: int, m: int, quality: float, misses: bool = False):
    unsafe, alarm, guess = draw(rng, n + m, quality)
    among, event = (unsafe, ~alarm) if misses else (~unsafe, alarm)
    among_guess = guess if misses else 1 - guess
    event_guess = among_guess * event
    return corrected_rate(
        (event & among)[:n].astype(float), among[:n].astype(float), event_guess[:n],
        among_guess[:n], (event_guess[n:], among_guess[n:]))


@pytest.mark.parametrize("misses", [False, True])
@pytest.mark.parametrize("quality", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("n", [60, 300])
def test_the_interval_covers_the_truth(n, quality, misses):
    rng = np.random.default_rng([n, round(quality * 10), misses])
    truth = 0.4 if misses else 0.1
    found = [rate_of(rng, n, 3000, quality, misses) for _ in range(TIMES)]
    covered = sum(one.low <= truth <= one.high for one in found)
    assert covered >= stats.binom.isf(1 - 1e-5, TIMES, 0.93), covered / TIMES
    assert abs(np.mean([one.value for one in found]) - truth) < 0.012


def test_good_guesses_narrow_the_interval_and_bad_ones_do_not_widen_it():
    rng = np.random.default_rng(0)
    widths = {q: np.mean([one.high - one.low for one in
                          (rate_of(rng, 200, 4000, q) for _ in range(50))]) for q in (0, 0.8, 1)}
    plain = rate_of(rng, 200, 4000, 0.0)
    assert widths[1] < 0.5 * widths[0] and widths[0.8] < 0.9 * widths[0]
    assert widths[0] < 1.05 * (plain.plain_high - plain.plain_low) + 0.02


def test_the_labels_to_buy_give_the_width_that_was_asked_for():
    rng = np.random.default_rng(1)
    first = rate_of(rng, 300, 4000, 0.3)
    needed = first.labels_needed(0.015)
    assert 300 < needed < 4300
    halves = [(one.high - one.low) / 2 for one in
              (rate_of(rng, needed, 4300 - needed, 0.3) for _ in range(20))]
    assert np.mean(halves) == pytest.approx(0.015, rel=0.15)
    assert first.labels_needed(1e-4) == 0


def test_without_events_or_others_it_is_the_plain_rate():
    zeros, ones = np.zeros(20), np.ones(20)
    none = corrected_rate(zeros, ones, ones * 0.3, ones, (ones * 0.3, ones))
    assert (none.value, none.low) == (0, 0) and none.high == none.plain_high > 0.1
    alone = corrected_rate(ones, ones, ones, ones, (zeros[:0], zeros[:0]))
    assert alone.value == 1 and alone.low == alone.plain_low
    nobody = corrected_rate(zeros, zeros, zeros, zeros, (ones, ones))
    assert np.isnan(nobody.value) and np.isnan(nobody.low) and nobody.labels_needed(0.1) == 0
