"""Running statistics look at the past only, and keep the padding."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from monitorlab.online.comparison import ALL_METHODS
from monitorlab.online.running import (
    FEATURES,
    Cusum,
    Ewma,
    LearnedPrefix,
    TooFewSequencesError,
    _normal_scores,
    _prefix_features,
    cusum,
    ewma,
    running_max,
    running_mean,
)
from monitorlab.online.trajectories import Trajectories

STATISTICS = list({method.statistic.name: method.statistic for method in ALL_METHODS}.values())


def make(n: int = 80, horizon: int = 6, seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.int8)
    scores = rng.normal(size=(n, horizon)) + 0.8 * labels[:, None] * np.arange(horizon) / horizon
    lengths = rng.integers(2, horizon + 1, n)
    scores[np.arange(horizon) >= lengths[:, None]] = np.nan
    tokens = np.where(np.isnan(scores), np.nan, 1.0)
    ids = np.arange(n).astype(str)
    return Trajectories.from_padded("toy", "noise", ids, scores, tokens, labels)


def test_by_hand():
    scores = np.array([[1.0, 3.0, 2.0, np.nan]])
    np.testing.assert_allclose(running_mean(scores)[0], [1, 2, 2, np.nan])
    np.testing.assert_allclose(running_max(scores)[0], [1, 3, 3, np.nan])
    np.testing.assert_allclose(ewma(scores, 0.5)[0], [1, 2, 2, np.nan])
    np.testing.assert_allclose(cusum(scores, 2.0)[0], [0, 1, 1, np.nan])


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)
def test_the_future_cannot_be_seen(statistic):
    """Changing or cutting later steps leaves every earlier value as it was."""
    train, test = make(seed=1), make(seed=2)
    transform = statistic.fit(train)
    whole = transform(test.scores)
    np.testing.assert_array_equal(np.isnan(whole), np.isnan(test.scores))
    for cut in (1, 3):
        early = transform(test.scores[:, :cut])
        np.testing.assert_allclose(early, whole[:, :cut], rtol=1e-12)
        changed = np.where(np.isnan(test.scores), np.nan, 99.0)
        changed[:, :cut] = test.scores[:, :cut]
        np.testing.assert_allclose(transform(changed)[:, :cut], whole[:, :cut], rtol=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)
def test_rows_do_not_influence_one_another(statistic):
    train, test = make(seed=1), make(seed=2)
    transform = statistic.fit(train)
    whole = transform(test.scores)
    np.testing.assert_allclose(transform(test.scores[7:8]), whole[7:8], rtol=1e-12)
    assert transform(test.scores[:0]).shape == test.scores[:0].shape


def test_normal_scores_are_finite_monotone_and_share_ties():
    reference = np.sort(np.array([0.0, 0.0, 0.5, 1.0]))
    got = _normal_scores(np.array([-9.0, 0.0, 0.0, 0.3, 0.5, 2.0, np.nan]), reference)
    assert np.isfinite(got[:-1]).all() and np.isnan(got[-1])
    assert got[1] == got[2]
    assert (np.diff(got[[0, 1, 3, 4, 5]]) > 0).all()


def test_learned_statistic_ignores_the_scale_of_the_score():
    train, test = make(seed=1), make(seed=2)
    plain = LearnedPrefix().fit(train)(test.scores)
    bent = replace(train, flat_scores=np.exp(train.flat_scores))
    np.testing.assert_allclose(LearnedPrefix().fit(bent)(np.exp(test.scores)), plain, atol=1e-9)
    assert _prefix_features(test.scores).shape == (*test.scores.shape, len(FEATURES))


@pytest.mark.parametrize("statistic", [s for s in STATISTICS if s.training_share > 0],
                         ids=lambda s: s.name)
def test_learning_from_one_class_is_refused(statistic):
    train = make()
    with pytest.raises(TooFewSequencesError, match="safe"):
        statistic.fit(train.take(train.labels == 0))


ENDS = np.array([
    [1.0, -np.inf, 2.0, 3.0], [1.0, np.inf, 2.0, np.nan], [-np.inf, np.inf, -np.inf, 0.0],
    [np.inf, -np.inf, -np.inf, np.nan], [-np.inf, -np.inf, -np.inf, -np.inf],
])


def test_infinite_scores_by_hand():
    """From there on infinite; where both signs meet, suspicion wins; the floor of a sum stays."""
    inf = np.inf
    mean = [[1, -inf, -inf, -inf], [1, inf, inf, np.nan], [-inf, inf, inf, inf],
            [inf, inf, inf, np.nan], [-inf] * 4]
    np.testing.assert_array_equal(running_mean(ENDS), mean)
    np.testing.assert_array_equal(ewma(ENDS, 0.5), mean)
    np.testing.assert_array_equal(ewma(ENDS, 1.0), ENDS)
    np.testing.assert_array_equal(cusum(ENDS, 0.5), [
        [0.5, 0, 1.5, 4], [0.5, inf, inf, np.nan], [0, inf, inf, inf], [inf, inf, inf, np.nan],
        [0, 0, 0, 0]])


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)
@pytest.mark.parametrize("where", ["train", "test", "both"])
def test_infinite_scores_give_defined_statistics(statistic, where):
    """With numpy set to raise: no warning reaches a notebook, and nothing becomes NaN."""
    train, test = make(seed=1), make(seed=2)
    rng = np.random.default_rng(3)
    data = {"train": train, "test": test}
    for name in data if where == "both" else [where]:
        scores = data[name].flat_scores
        scores[rng.random(len(scores)) < 0.2] = -np.inf
        scores[rng.random(len(scores)) < 0.1] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        running = test.transformed(statistic.fit(train))
    assert not np.isnan(running.flat_scores).any()
    rising = np.unique(running.flat_scores)
    assert len(rising) > 10


def test_a_class_without_a_finite_score_cannot_fix_the_reference():
    train = make()
    train.flat_scores[np.repeat(train.labels, train.lengths) == 0] = -np.inf
    with pytest.raises(TooFewSequencesError, match="scores of the safe ones are infinite"):
        Cusum().fit(train)


def test_the_largest_scores_that_come_in_do_not_overflow():
    """The door refuses what is larger than 1e100; everything below must be harmless."""
    train = make(seed=1)
    train.flat_scores[:] *= 1e100 / np.abs(train.flat_scores).max()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for statistic in STATISTICS:
            assert np.isfinite(train.transformed(statistic.fit(train)).flat_scores).all()


def test_ewma_weight_is_checked():
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\]"):
        Ewma(weight=0.0).fit(make())
    assert Cusum().training_share < 1
