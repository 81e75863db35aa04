"""The e-valuator port: the package's numbers on clean input, right where the package breaks."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from evaluator import EValuator
from evaluator.utils import add_judge_probability_series

from monitorlab.online.comparison import _ville_threshold
from monitorlab.online.metrics import peaks
from monitorlab.online.running import LikelihoodRatio, TooFewSequencesError
from monitorlab.online.score_files import from_frame
from monitorlab.online.trajectories import ScoreFileError, Trajectories
from monitorlab.statistics.thresholds import calibrate

COLUMNS = {
    "uq_problem_idx": "trajectory_id",
    "num_steps": "step",
    "judge_probability": "score",
    "solved": "label",
}


@cache
def published_frame(n: int, seed: int) -> pd.DataFrame:
    """Scores in the package's format: safety, ``solved`` 1 is safe; long tails are rare.

    The same object is returned every time: copy it before changing it.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        solved = int(rng.random() < 0.6)
        level = rng.normal(0.8 if solved else -0.4)
        for step in range(1, 3 + rng.geometric(0.3)):
            level += rng.normal(0.1 if solved else -0.1, 0.5)
            rows.append((f"p{i:04d}", step, 1 / (1 + np.exp(-level)), solved))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def ours(frame: pd.DataFrame) -> Trajectories:
    renamed = frame.rename(columns=COLUMNS)
    return from_frame(
        renamed.assign(label=1 - renamed["label"], score=1.0 - renamed["score"]), "d", "s"
    )


@cache
def package(n: int, seed: int, variant: str, **options) -> EValuator:
    """The package's evaluator, fitted on a frame once: it prepares one row at a time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = EValuator(mt_variant=variant, alphas=[0.1, 0.3], **options)
        evaluator.fit(add_judge_probability_series(published_frame(n, seed)))
        return evaluator


def package_values(evaluator: EValuator, test: pd.DataFrame) -> np.ndarray:
    column = "PAC_e_val" if evaluator.mt_variant == "PAC" else "Ville_e_val"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluator.apply(add_judge_probability_series(test))[column].to_numpy()


def flat(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]


def test_anytime_equals_the_package():
    calibration, test = published_frame(120, 0), published_frame(30, 1)
    theirs = package_values(package(120, 0, "Ville"), test)
    transform = LikelihoodRatio(training_share=1.0).fit(ours(calibration))
    np.testing.assert_allclose(flat(transform(ours(test).scores)), theirs, rtol=1e-9, atol=1e-9)


def test_pac_equals_the_package():
    calibration, test = published_frame(160, 2), published_frame(30, 3)
    # delta' = w1 * alpha; at alpha = .3 and weights (2/3, 1/3) that is level .2 with delta .1.
    evaluator = package(160, 2, "PAC", alpha_delta_weights=(2 / 3, 1 / 3), random_state=7)
    theirs = package_values(evaluator, test)
    ids = calibration["uq_problem_idx"].unique()
    chosen = np.random.default_rng(7).choice(ids, size=80, replace=False)
    everything = ours(calibration)
    first = np.isin(everything.ids, chosen)
    transform = LikelihoodRatio().fit(everything.take(first))
    np.testing.assert_allclose(flat(transform(ours(test).scores)), theirs, rtol=1e-9, atol=1e-9)
    rest = everything.take(~first)
    safe_peaks = peaks(transform(rest.scores[rest.labels == 0]))
    threshold = calibrate(safe_peaks, 0.2, "tolerance", delta=0.1)
    assert threshold.value == pytest.approx(evaluator.thresholds[0.3], rel=1e-9)


def test_shuffled_rows_change_nothing_here_and_scramble_the_package():
    calibration, test = published_frame(120, 0), published_frame(30, 1)
    shuffled = test.sample(frac=1, random_state=0)
    transform = LikelihoodRatio(training_share=1.0).fit(ours(calibration))
    right, again = ours(test), ours(shuffled)
    order = np.argsort(again.ids)
    np.testing.assert_allclose(
        transform(again.take(order).scores), transform(right.scores), rtol=1e-12
    )
    # The package repeats the last ratio of *file order* where a step has no model, and writes by
    # index label: after a shuffle its column is either wrong or an error.
    clean = package_values(package(120, 0, "Ville"), test)
    scrambled = package_values(package(120, 0, "Ville"), shuffled)
    assert not np.allclose(scrambled, clean[shuffled.index])


def test_non_range_index():
    test = published_frame(30, 1)
    moved = test.set_index(test.index + 10_000)
    np.testing.assert_array_equal(ours(moved).scores, ours(test).scores)
    with pytest.raises(IndexError):
        package_values(package(120, 0, "Ville"), moved)


def test_missing_score_is_refused_by_name():
    test = published_frame(30, 1).copy()
    test.loc[4, "judge_probability"] = np.nan
    with pytest.raises(ScoreFileError, match="column score, row 5"):
        ours(test)


def test_missing_step_is_refused_by_name():
    test = published_frame(30, 1)
    row = int(test.index[(test["num_steps"] == 2)][0])
    with pytest.raises(ScoreFileError, match="step 3 where step 2 was expected"):
        ours(test.drop(index=row))


def test_no_successes_to_learn_or_calibrate_from():
    calibration = published_frame(120, 0)
    with pytest.raises(TooFewSequencesError, match="0 safe and"):
        LikelihoodRatio().fit(ours(calibration[calibration["solved"] == 0]))
    # The package answers an empty calibration half with threshold 0: it then alarms always.
    assert calibrate(np.empty(0), 0.1, "tolerance").value == np.inf


def test_steps_without_a_model_repeat_the_last_ratio():
    calibration, test = ours(published_frame(60, 5)), ours(published_frame(60, 6))
    values = LikelihoodRatio(training_share=1.0).fit(calibration)(test.scores)
    longest = int(np.argmax(test.lengths))
    last = test.lengths[longest] - 1
    assert values[longest, last] == values[longest, last - 1]


def test_ville_threshold():
    assert _ville_threshold(0.1).value == pytest.approx(10.0)
    with pytest.raises(ValueError, match="false alarms only"):
        _ville_threshold(0.1, "missed_detection")
