"""Alarm metrics by hand; the protocol over splits, its determinism and its refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters.online import Scored, sizes
from monitorlab.online.comparison import (
    ALL_METHODS,
    FURTHER_METHODS,
    MEASURES,
    PAPER_METHODS,
    TRIVIAL_METHODS,
    _draw_sequences,
    _Fold,
    _Resamples,
    compare_methods,
    compare_resampled,
    random_splits,
)
from monitorlab.online.metrics import alarm_metrics, alarm_steps, peaks
from monitorlab.online.trajectories import UNKNOWN, Trajectories
from monitorlab.statistics.thresholds import FALSE_ALARM, MISSED_DETECTION, NOT_TRAINABLE, calibrate

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
    got = alarm_metrics(alarms, data)
    assert got.far == pytest.approx(1 / 2)
    assert got.power == pytest.approx(2 / 3)
    assert got.delay == pytest.approx((1 / 3 + 1) / 2)
    assert got.restricted_delay == pytest.approx((1 / 3 + 1 + 1) / 3)
    assert got.delay_tokens == pytest.approx((2 / 10 + 1) / 2)
    assert got.restricted_delay_tokens == pytest.approx((2 / 10 + 1 + 1) / 3)


def test_nothing_detected_has_no_conditional_delay():
    data = by_hand()
    got = alarm_metrics(np.zeros(5, dtype=int), data)
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
    frame = compare_methods(noise(), ALL_METHODS, random_splits(200, 2, 0.4, 0), levels=(0.1, 0.3))
    assert len(frame) == len(ALL_METHODS) * 2 * 2
    assert not frame.duplicated(["method", "level", "split"]).any()
    assert frame["far"].between(0, 1).all() and frame["power"].between(0, 1).all()
    assert (frame["restricted_delay"] <= 1).all()


def test_reproducible_and_independent_of_the_other_methods():
    data, splits = noise(), list(random_splits(200, 2, 0.4, 0))
    together = compare_methods(data, ALL_METHODS, splits, levels=(0.1,))
    alone = compare_methods(data, PAPER_METHODS[:1], splits, levels=(0.1,))
    kept = together[together["method"] == "CRC"].reset_index(drop=True)
    assert kept.equals(alone)


def test_statistics_that_cannot_learn_never_alarm_and_say_so():
    data = noise(60)
    frame = compare_methods(data, ALL_METHODS, random_splits(60, 1, 0.1, 0), levels=(0.2,))
    untrained = frame[frame["state"] == NOT_TRAINABLE]
    assert "likelihood_ratio" in set(untrained["statistic"])
    assert (untrained["far"] == 0).all() and (untrained["power"] == 0).all()


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(label):
    data = noise()
    with pytest.raises(ValueError, match=r"column label: all \d+ sequences"):
        compare_methods(data.take(data.labels == label), PAPER_METHODS,
                        random_splits(50, 1, 0.2, 0))


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_levels_are_checked(level):
    with pytest.raises(ValueError, match="strictly between"):
        compare_methods(noise(), PAPER_METHODS, random_splits(200, 1, 0.2, 0), levels=(level,))


def test_missed_detection_control():
    methods = [m for m in (*PAPER_METHODS, *FURTHER_METHODS) if m.calibrator != "ville"]
    frame = compare_methods(noise(2000), methods, random_splits(2000, 5, 0.3, 0), levels=(0.2,),
                            risk=MISSED_DETECTION)
    missed = 1 - frame.groupby("method")["power"].mean()
    assert (missed <= 0.2 + 0.04).all()
    assert frame["far"].mean() < 1


def test_randomised_ties_alarm_more_on_a_coarse_score():
    data = noise(1000)
    coarse = replace(data, flat_scores=np.round(data.flat_scores))
    splits = list(random_splits(1000, 5, 0.3, 0))
    both = compare_methods(coarse, (*PAPER_METHODS[:1], *TRIVIAL_METHODS[:1]), splits,
                           levels=(0.1, 0.2))
    safe_side, spent = (both[both["method"] == name] for name in ("CRC", "CRC, ties drawn"))
    assert spent["power"].mean() > safe_side["power"].mean()
    assert (safe_side["attained"] <= safe_side["level"]).all()
    assert set(spent["calibrator"]) == {"crc, ties drawn"}


def test_what_is_trivial_reads_no_more_than_it_says():
    """Scores after the first change nothing for one baseline, no score does for the other."""
    data, splits = noise(), list(random_splits(200, 2, 0.4, 0))
    rng = np.random.default_rng(1)
    first = data.starts
    later = data.flat_scores + rng.normal(size=len(data.flat_scores))
    later[first] = data.flat_scores[first]
    for changed, names in ((later, ["first score only", "step number only"]),
                           (rng.permutation(data.flat_scores), ["step number only"])):
        other = replace(data, flat_scores=changed)
        one, two = (compare_methods(each, TRIVIAL_METHODS, splits, levels=(0.2,))
                    for each in (data, other))
        same = one["method"].isin(names)
        pd.testing.assert_frame_equal(one[same], two[same])
        assert not one[~same].equals(two[~same])
    only = one[one["method"] == "first score only"]
    assert only["delay"].dropna().tolist() == pytest.approx([1 / 5] * 2), "first step or never"


def test_caught_after_the_onset_and_by_half_by_hand():
    data = replace(by_hand(), onsets=np.array([0, 0, 2, 3, 0]))
    # alarms at steps 1 and 3 of 3, onsets 2 and 3; the last unsafe sequence has no known onset
    got = alarm_metrics(np.array([2, 0, 1, 3, 1]), data)
    assert got.power == 1.0
    assert got.after_onset == 1 / 2, "the alarm at step 1 came before there was an error"
    assert got.by_half == 2 / 3, "steps 1 of 3 and 1 of 2, not 3 of 3"
    assert np.isnan(alarm_metrics(np.array([2, 0, 1, 3, 1]), by_hand()).after_onset)


@pytest.mark.parametrize("risk", [FALSE_ALARM, MISSED_DETECTION])
def test_sequences_drawn_anew_by_hand(risk):
    """Each draw equals the comparison of a data set that holds its sequences several times."""
    data = noise(40, seed=3)
    wrong = np.random.default_rng(4).integers(0, data.lengths + 1)
    data = replace(data, onsets=wrong * (data.labels == 1))
    split = next(random_splits(40, 1, 0.5, seed=2))
    _, drawn = compare_resampled(
        data, PAPER_METHODS[:2], [split], level=0.3, levels=(0.3,), risk=risk, draws=5
    )
    copies = _draw_sequences(40, 5)
    for draw, times in enumerate(copies):
        parts = [np.repeat(part, times[part]) for part in split]
        written = data.take(np.concatenate(parts))
        again = (np.arange(len(parts[0])), np.arange(len(parts[0]), len(written)))
        expected = compare_methods(written, PAPER_METHODS[:2], [again], levels=(0.3,), risk=risk)
        found = drawn[drawn["draw"] == draw]
        for measure in MEASURES:
            np.testing.assert_allclose(found[measure], expected[measure], atol=1e-12)


def test_drawn_ties_are_drawn_in_resamples_too():
    """On draws that take every sequence once, the resamples equal the comparison itself."""
    data, splits = noise(300), list(random_splits(300, 3, 0.4, 0))
    coarse = replace(data, flat_scores=np.round(data.flat_scores))
    results = compare_methods(coarse, TRIVIAL_METHODS, splits, levels=(0.2,))
    resamples = _Resamples(0.2, np.ones((1, 300), dtype=np.int16), FALSE_ALARM, 0.1)
    for split, (calibration, test) in enumerate(splits):
        fold = _Fold(coarse, calibration, test, FALSE_ALARM, 0.1, split, resamples)
        list(fold.rows(TRIVIAL_METHODS, (0.2,)))
    means = results.groupby("method", sort=False)[list(MEASURES)].mean()
    np.testing.assert_allclose(resamples.table()[list(MEASURES)], means, atol=1e-12)


def test_resampling_changes_nothing_else():
    data, splits = noise(), list(random_splits(200, 2, 0.4, 0))
    results, drawn = compare_resampled(
        data, ALL_METHODS, splits, level=0.15, levels=(0.1,), draws=9)
    pd.testing.assert_frame_equal(results,
                                  compare_methods(data, ALL_METHODS, splits, levels=(0.1, 0.15)))
    assert len(drawn) == len(ALL_METHODS) * 9
    assert drawn["power"].notna().all()
    assert (results["safe"] == data.count(0)).all() and (results["unsafe"] == data.count(1)).all()


def test_other_signals_of_the_same_sequences_meet_the_same_draws():
    data, splits = noise(), list(random_splits(200, 2, 0.4, 0))
    other = replace(data, signal="bent", flat_scores=np.exp(data.flat_scores))
    (_, one), (_, two) = (
        compare_resampled(each, PAPER_METHODS[:1], splits, level=0.2, draws=9)
        for each in (data, other)
    )
    np.testing.assert_array_equal(one["power"], two["power"])


def test_sequences_of_a_group_are_drawn_together():
    groups = np.array(list("aabbbc") * 5, dtype=object)
    copies = _draw_sequences(30, 50, groups)
    for name in "abc":
        assert (copies[:, groups == name] == copies[:, groups == name][:, :1]).all()
    assert (copies[:, 0] + copies[:, 2] + copies[:, 5] == 3).all()
    assert _draw_sequences(30, 50).sum(axis=1).tolist() == [30] * 50
    # Copies of one sequence in one group hold no more than one: the interval is as wide.
    data = noise(60)
    many = replace(data.take(np.repeat(np.arange(60), 4)), groups=np.repeat(data.ids, 4))
    many.ids[:] = [f"t{i}" for i in range(240)]
    widths = []
    for one, factor in ((data, 1), (many, 4), (replace(many, groups=None), 4)):
        splits = [(np.arange(24 * factor), np.arange(24 * factor, 60 * factor))]
        _, drawn = compare_resampled(one, PAPER_METHODS[:1], splits, level=0.3, draws=200)
        widths.append(drawn["far"].std())
    assert widths[1] > 0.8 * widths[0] > 1.3 * widths[2]


def test_unknown_labels_are_refused():
    data = noise()
    data.labels[3] = UNKNOWN
    with pytest.raises(ValueError, match="1 of 200 sequences have none"):
        compare_methods(data, PAPER_METHODS, random_splits(200, 1, 0.2, 0))


def test_alarms_of_padded_arrays_and_of_trajectories_agree():
    data = by_hand()
    for threshold in (0.5, 0.75, np.inf, calibrate(np.linspace(0, 0.5, 99), 0.01)):
        np.testing.assert_array_equal(
            alarm_steps(data, threshold), alarm_steps(data.scores, threshold))
    np.testing.assert_array_equal(peaks(data), peaks(data.scores))
    with pytest.raises(ValueError, match=r"shape \(13,\), expected trajectories or an array"):
        peaks(data.flat_scores)


def test_stand_ins_are_known_by_who_made_them_and_never_by_a_name():
    steps = pd.DataFrame({
        "dataset": "miniature_math_strong", "signal": "verifier", "trajectory_id": ["a", "b"],
        "step": 1, "score": [0.1, 0.9], "tokens": 1, "label": [0, 1],
    })
    scored = Scored.of_stand_ins(steps)
    (made,) = scored.values()
    own = replace(made, title="", stand_in=False)
    (added,) = scored.add([own])
    assert len(scored) == 2 and added.name == "miniature_math_strong (own file)"
    assert made.name == "miniature math, strong generator"
    assert sizes(added) == "miniature_math_strong (own file) (1 safe, 1 unsafe)"
