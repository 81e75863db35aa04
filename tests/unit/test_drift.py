"""The drift test: uniform p-values without drift, evidence with it, and numbers by hand."""

import numpy as np
import pytest

from monitorlab.online.drift import DriftReference, DriftTest


def test_edges_come_from_other_sequences_and_end_below_the_threshold():
    reference = DriftReference.of(np.array([0.1, 0.5, 0.7, np.inf]), np.linspace(0, 1, 101), 0.6)
    assert max(reference.edges) < 0.6 and len(reference.edges) > 10
    assert sum(reference.counts) == 4
    assert reference.counts[-1] == 2  # 0.7 and inf are above every edge
    assert DriftReference.of(np.array([1.0]), np.array([]), 0.5).counts == (1,)


def test_a_first_bet_by_hand():
    test = DriftTest(DriftReference((0.5,), (3, 1)))
    test.add(0.9, 0.5)  # of five, two are in the upper bin and none above
    p = (0 + 0.5 * 2) / 5
    capital = 0.5 / 3  # half of the reserve on each of three bets, and jumps leave it so
    expected = 0.5 + capital * (1 + 0.75 * p**-0.25 + 0.75 * (1 - p) ** -0.25)
    assert test.evidence == pytest.approx(expected, rel=1e-12)


def test_the_evidence_is_a_martingale():
    """Its mean over the next uniform p-value is what it was, after any history."""
    test = DriftTest(DriftReference((0.5,), (1, 1)))
    for draw in (0.2, 0.9, 0.4):
        test.add(0.7, draw)
    before, capital = test.evidence, test._capital
    values, grid = [], (np.arange(20_000) + 0.5) / 20_000
    test.seen += 1
    for p in grid:
        test._capital = capital
        test._bet(float(p))
        values.append(test.evidence)
    assert np.mean(values) == pytest.approx(before, rel=2e-3)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_shift_in_either_direction_fires_also_after_a_long_calm(direction):
    rng = np.random.default_rng(0)
    test = DriftTest(DriftReference.of(rng.random(500), rng.random(500), 0.9, rate=0.01))
    for peak, draw in rng.random((2_000, 2)):
        test.add(peak, draw)
    assert not test.fired_at
    for peak, draw in rng.random((500, 2)):
        test.add(peak + direction * 0.3, draw)
    assert 2_000 < test.fired_at < 2_300


def test_it_stays_fired():
    test = DriftTest(DriftReference((0.5,), (99, 1)))
    for _ in range(60):
        test.add(0.9, 0.5)
    at, evidence = test.fired_at, test.evidence
    assert 0 < at < 60 and evidence >= 100
    test.add(0.1, 0.5)
    assert (test.fired_at, test.evidence) == (at, evidence)
