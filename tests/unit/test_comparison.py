"""Alarm metrics by hand; the protocol over splits, its determinism and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from monitorlab.online.calibration import MISSED_DETECTION, NOT_TRAINABLE, calibrate
from monitorlab.online.comparison import compare
from monitorlab.online.datasets import random_splits
from monitorlab.online.methods import ALL_METHODS, FURTHER_METHODS, PAPER_METHODS
from monitorlab.online.metrics import alarm_steps, evaluate
from monitorlab.online.trajectories import Trajectories

NAN = np.nan


def by_hand() -> Trajectories:
    scores = np.array([[0.1, 0.9, 0.2], [0.1, 0.2, NAN], [0.8, 0.1, 0.1], [0.1, 0.1, 0.7],
                       [0.3, 0.3, NAN]])
    tokens = np.array([[1, 1, 1], [1, 1, NAN], [2, 4, 4], [6, 3, 1], [5, 5, NAN]], dtype=float)
    labels = np.array([0, 0, 1, 1, 1], dtype=np.int8)
    return Trajectories.from_padded("hand", "made", np.array(list("abcde")), scores, tokens, labels)


def noise(n: int = 200, shift: float = 1.0, seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.int8)
    scores = rng.normal(size=(n, 5)) + shift * labels[:, None]
    ids = np.array([f"t{i}" for i in range(n)])
    return Trajectories.from_padded("noise", "score", ids, scores, np.ones((n, 5)), labels)


def test_metrics_by_hand():
    data = by_hand()
    threshold = calibrate(np.linspace(0, 0.5, 99), 0.01)
    assert threshold.value == 0.5
    alarms = alarm_steps(data.scores, threshold)
    assert alarms.tolist() == [2, 0, 1, 3, 0]
    got = evaluate(alarms, data)
    assert got.far == pytest.approx(1 / 2)
    assert got.power == pytest.approx(2 / 3)
    assert got.delay == pytest.approx((1 / 3 + 1) / 2)
    assert got.restricted_delay == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert got.delay_tokens == pytest.approx((2 / 10 + 1) / 2)
    assert got.restricted_delay_tokens == pytest.approx((2 / 10 + 1 + 1) / 3)


def test_nothing_detected_has_no_conditional_delay():
    data = by_hand()
    got = evaluate(np.zeros(5, dtype=int), data)
    assert np.isnan(got.delay) and np.isnan(got.delay_tokens)
    assert got.restricted_delay == 1.0 and got.power == 0.0


def test_splits_are_disjoint_exhaustive_and_stable():
    splits = list(random_splits(50, 4, 0.2, seed=3))
    for calibration, test in splits:
        assert len(calibration) == 10
        assert sorted([*calibration, *test]) == list(range(50))
    again = list(random_splits(50, 2, 0.2, seed=3))
    np.testing.assert_array_equal(splits[1][0], again[1][0])
    assert not np.array_equal(splits[0][0], splits[1][0])


@pytest.mark.parametrize(("n", "fraction"), [(2, 0.2), (1, 0.5), (5, 0.95)])
def test_too_few_to_split(n, fraction):
    with pytest.raises(ValueError, match="both need at least one"):
        next(random_splits(n, 1, fraction, 0))


def test_one_row_per_method_level_and_split():
    frame = compare(noise(), ALL_METHODS, random_splits(200, 2, 0.4, 0), levels=(0.1, 0.3))
    assert len(frame) == len(ALL_METHODS) * 2 * 2
    assert not frame.duplicated(["method", "level", "split"]).any()
    assert frame["far"].between(0, 1).all() and frame["power"].between(0, 1).all()
    assert (frame["restricted_delay"] <= 1).all()


def test_reproducible_and_independent_of_the_other_methods():
    data, splits = noise(), list(random_splits(200, 2, 0.4, 0))
    together = compare(data, ALL_METHODS, splits, levels=(0.1,))
    alone = compare(data, PAPER_METHODS[:1], splits, levels=(0.1,))
    kept = together[together["method"] == "CRC"].reset_index(drop=True)
    assert kept.equals(alone)


def test_statistics_that_cannot_learn_never_alarm_and_say_so():
    data = noise(60)
    frame = compare(data, ALL_METHODS, random_splits(60, 1, 0.1, 0), levels=(0.2,))
    untrained = frame[frame["state"] == NOT_TRAINABLE]
    assert "likelihood_ratio" in set(untrained["statistic"])
    assert (untrained["far"] == 0).all() and (untrained["power"] == 0).all()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(label):
    data = noise()
    with pytest.raises(ValueError, match=r"column label: all \d+ sequences"):
        compare(data.take(data.labels == label), PAPER_METHODS, random_splits(50, 1, 0.2, 0))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_levels_are_checked(level):
    with pytest.raises(ValueError, match="strictly between"):
        compare(noise(), PAPER_METHODS, random_splits(200, 1, 0.2, 0), levels=(level,))


def test_missed_detection_control():
    methods = [m for m in (*PAPER_METHODS, *FURTHER_METHODS) if m.calibrator != "ville"]
    frame = compare(noise(2000), methods, random_splits(2000, 5, 0.3, 0), levels=(0.2,),
                    risk=MISSED_DETECTION)
    missed = 1 - frame.groupby("method")["power"].mean()
    assert (missed <= 0.2 + 0.04).all()
    assert frame["far"].mean() < 1


def test_randomised_ties_alarm_more_on_a_coarse_score():
    data = noise(1000)
    coarse = Trajectories.from_padded("c", "s", data.ids, np.round(data.scores), data.tokens, data.labels)
    splits = list(random_splits(1000, 5, 0.3, 0))
    safe_side = compare(coarse, PAPER_METHODS[:1], splits, levels=(0.1, 0.2))
    spent = compare(coarse, PAPER_METHODS[:1], splits, levels=(0.1, 0.2), randomise_ties=True)
    assert spent["power"].mean() > safe_side["power"].mean()
    assert (safe_side["attained"] <= safe_side["level"]).all()
