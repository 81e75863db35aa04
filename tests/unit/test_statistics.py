"""Running statistics look at the past only, and keep the padding."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy import special
from sklearn.linear_model import LogisticRegression

from monitorlab.online.comparison import ALL_METHODS
from monitorlab.online.running import (
    FEATURES,
    FEWEST_TO_CHOOSE,
    LEVELS,
    OBJECTIVES,
    ChosenPrefix,
    Cusum,
    Ewma,
    Fitted,
    LatestScore,
    LearnedPrefix,
    LikelihoodRatio,
    RunningMean,
    TooFewSequencesError,
    _FittedCusum,
    _FittedPrefix,
    _logistic,
    _prefix_features,
    _Table,
    _thresholds,
    training_part,
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
    np.testing.assert_allclose(RunningMean()(scores)[0], [1, 2, 2, np.nan])
    np.testing.assert_allclose(Ewma(0.5)(scores)[0], [1, 2, 2, np.nan])
    np.testing.assert_allclose(_FittedCusum(2.0)(scores)[0], [0, 1, 1, np.nan])


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
    fitted = _FittedPrefix((0.0, 0.5, 1.0), (2, 1, 1), (0.0,) * len(FEATURES), 0.0)
    got = fitted.normal_scores(np.array([-9.0, 0.0, 0.0, 0.3, 0.5, 2.0, np.nan]))
    # half a place more than those below, and half of the ties, of one place more than there are
    expected = special.ndtri(np.array([0.5, 1.5, 1.5, 2.5, 3.0, 4.5]) / 5.0)
    np.testing.assert_allclose(got, [*expected, np.nan], rtol=1e-14, atol=1e-15)


def test_learned_statistic_ignores_the_scale_of_the_score():
    train, test = make(seed=1), make(seed=2)
    plain = LearnedPrefix().fit(train)(test.scores)
    bent = replace(train, flat_scores=np.exp(train.flat_scores))
    np.testing.assert_allclose(LearnedPrefix().fit(bent)(np.exp(test.scores)), plain, atol=1e-9)


@pytest.mark.parametrize("statistic", [s for s in STATISTICS if s.training_share > 0],
                         ids=lambda s: s.name)
def test_learning_from_one_class_is_refused(statistic):
    train = make()
    with pytest.raises(TooFewSequencesError, match="safe"):
        statistic.fit(train.take(train.labels == 0))


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda s: s.name)
def test_step_by_step_and_all_at_once_are_equal_to_the_last_bit(statistic):
    """A thousand random sequences with ties, infinities and unequal lengths, after JSON too."""
    train, test = make(200, 9, seed=1), make(1000, 14, seed=2)
    rng = np.random.default_rng(3)
    for data in (train, test):
        scores = data.flat_scores
        scores[:] = np.where(rng.random(len(scores)) < 0.3, np.round(scores, 1), scores)
        scores[rng.random(len(scores)) < 0.02] = -np.inf
        scores[rng.random(len(scores)) < 0.02] = np.inf
    fitted = statistic.fit(train)
    again = Fitted.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert again == fitted
    offline = fitted(test.scores)
    for row in range(len(test)):
        state, online = again.start(), []
        for score in test.steps(row):
            state, value = again.update(state, score)
            online.append(value)
        np.testing.assert_array_equal(online, offline[row, : test.lengths[row]])
    with pytest.raises(ValueError, match="the score is nan, expected a number"):
        fitted.update(fitted.start(), np.nan)


@pytest.mark.parametrize(("data", "message"), [
    ({"kind": "magic"}, "kind of the fitted statistic is 'magic', expected one of latest, "),
    ({}, "kind of the fitted statistic is None"),
    ([1], "the fitted statistic is list, expected an object"),
    ({"kind": "ewma"}, "of kind 'ewma' lacks field weight; expected kind and weight"),
    ({"kind": "ewma", "weight": 0.3, "w": 1}, "has the unknown field w"),
    ({"kind": "ewma", "weight": 2}, r"cannot be used: EWMA weight is 2, expected a number in"),
    ({"kind": "cusum", "reference": "0.5"}, "found '0.5', expected a number"),
    ({"kind": "cusum", "reference": float("nan")}, "found nan, expected a number"),
    ({"kind": "cusum", "reference": [0.5]}, "'cusum' cannot be used"),
    ({"kind": "prefix", "reference": [1.0, 0.0], "counts": [1, 1], "weights": [0] * 11,
      "intercept": 0.0}, "the reference must increase"),
    ({"kind": "prefix", "reference": [], "counts": [], "weights": [0] * 11, "intercept": 0.0},
     "there are 0 reference scores"),
    ({"kind": "prefix", "reference": [1.0], "counts": [1], "weights": [0] * 4, "intercept": 0.0},
     "there are 4 weights, expected 11"),
    ({"kind": "likelihood_ratio", "weights": [[1.0], [1.0]], "centres": [[0.0], [0.0, 0.0]],
      "intercepts": [0.0, 0.0], "prior": 1.0, "lowest": 0.0, "highest": 1.0},
     "the weights of step t must be t numbers, for each of the 2 intercepts"),
])
def test_numbers_that_are_no_fitted_statistic_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Fitted.from_dict(data)


def test_a_fitted_statistic_needs_numpy_alone():
    """Somebody else's program loads and runs it without the packages that made it."""
    text = """
import sys
sys.modules.update(dict.fromkeys(("pandas", "scipy", "sklearn"), None))
from monitorlab.online.running import Fitted
print(Fitted.from_dict({"kind": "ewma", "weight": 0.5}).update((0.25,), 0.75)[1])
"""
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert told.stdout == "0.5\n"


ENDS = np.array([
    [1.0, -np.inf, 2.0, 3.0], [1.0, np.inf, 2.0, np.nan], [-np.inf, np.inf, -np.inf, 0.0],
    [np.inf, -np.inf, -np.inf, np.nan], [-np.inf, -np.inf, -np.inf, -np.inf],
])


def test_infinite_scores_by_hand():
    """From there on infinite; where both signs meet, suspicion wins; the floor of a sum stays."""
    inf = np.inf
    mean = [[1, -inf, -inf, -inf], [1, inf, inf, np.nan], [-inf, inf, inf, inf],
            [inf, inf, inf, np.nan], [-inf] * 4]
    np.testing.assert_array_equal(RunningMean()(ENDS), mean)
    np.testing.assert_array_equal(Ewma(0.5)(ENDS), mean)
    np.testing.assert_array_equal(Ewma(1.0)(ENDS), ENDS)
    np.testing.assert_array_equal(_FittedCusum(0.5)(ENDS), [
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
    if statistic.name != "step_number":
        assert len(np.unique(running.flat_scores)) > 10


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
        Ewma(weight=0.0)
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\]"):
        Ewma(1.5)
    assert Cusum().training_share < 1


def test_prefix_features_by_hand():
    state, steps = (), []
    for value in (1.0, -2.0, 4.0):
        state, features = _prefix_features(state, value)
        steps.append(features)
    got = dict(zip(FEATURES, zip(*steps, strict=True), strict=True))
    expected = {
        "score": [1, -2, 4], "running maximum": [1, 1, 4], "running mean": [1, -0.5, 1],
        "first score": [1, 1, 1], "log step": np.log([1, 2, 3]), "running minimum": [1, -2, -2],
        "previous score": [1, 1, -2], "weighted mean": [1, 0.1, 1.27],
        "spread": [0, 1.5, np.sqrt(6)], "root of the cumulative sum": [1, 0, 2],
        "one over step": [1, 1 / 2, 1 / 3],
    }
    assert list(got) == list(expected)
    for name, numbers in expected.items():
        np.testing.assert_allclose(got[name], numbers, atol=1e-12, err_msg=name)


def test_who_learns_and_who_calibrates_by_hand():
    labels = np.array([0, 1, 0, 0, 1, 0])
    half = LearnedPrefix()
    assert training_part(half, labels).tolist() == [True, True, True, False, True, False]
    assert training_part(half, labels, 1).tolist() == [True, True, True, True, False, True]
    assert not training_part(LatestScore(), labels).any()
    # as published: the first half of everything, and all of it
    assert training_part(LikelihoodRatio(), labels).tolist() == [True] * 3 + [False] * 3
    assert training_part(LikelihoodRatio(training_share=1.0), labels).all()


def test_the_regression_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 4)) * [1.0, 1.0, 30.0, 0.0]
    labels = (rng.random(300) < 1 / (1 + np.exp(-features[:, 0]))).astype(np.int8)
    theirs = LogisticRegression(tol=1e-12, max_iter=10_000).fit(features, labels).coef_[0]
    np.testing.assert_allclose(_logistic(features, labels), theirs, rtol=1e-5, atol=1e-8)
    apart = np.repeat([[-1.0], [1.0]], 50, axis=0)  # no maximum without the penalty
    assert 1.0 < _logistic(apart, (apart[:, 0] > 0).astype(np.int8))[0] < 10.0


def test_thresholds_of_an_objective_spend_its_levels_on_ties_too():
    rng = np.random.default_rng(0)
    for peaks in (rng.random(100), np.round(rng.random(100), 1), np.zeros(100)):
        spent = sum(weight * np.mean(peaks > cut) for cut, weight in _thresholds(peaks))
        assert spent == pytest.approx(np.mean(LEVELS))
        assert sum(weight for _, weight in _thresholds(peaks)) == pytest.approx(1.0)


def early_or_late(n: int, seed: int) -> Trajectories:
    """Half of the unsafe sequences show a little at step 1, all of them do at the end."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(np.int8)
    scores = rng.normal(size=(n, 8))
    scores[:, 0] += 2.0 * labels * (rng.random(n) < 0.5)
    scores[:, 6:] += 1.0 * labels[:, None]
    return Trajectories.from_padded("toy", "noise", np.arange(n).astype(str), scores,
                                    np.ones((n, 8)), labels)


def test_the_objective_decides_what_is_chosen():
    train, test = early_or_late(800, 0), early_or_late(4000, 1)
    held_out = _Table.of(test)
    power, half, delay = np.array([
        held_out.reached(test.transformed(ChosenPrefix(one).fit(train)).flat_scores)
        for one in OBJECTIVES
    ]).T
    assert OBJECTIVES == ("power", "by_half", "restricted_delay")
    assert power[0] > power[2] + 0.02 > power[1] + 0.04
    assert half[1] > half[2] + 0.02 > half[0] + 0.04
    score = held_out.reached(test.flat_scores)
    assert (power > score[0]).all() and (delay < score[2]).all()


def test_little_or_nothing_to_choose_from_leaves_the_score_itself():
    few = make(2 * FEWEST_TO_CHOOSE - 2)
    assert ChosenPrefix().fit(few) == LatestScore()
    noise = make(400)
    noise.labels[:] = np.random.default_rng(0).permutation(noise.labels)
    with pytest.raises(ValueError, match="objective is 'speed', expected one of power, by_half"):
        ChosenPrefix("speed").fit(noise)
