"""Bounds under wrong labels, against enumeration of every relabelling and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monitorlab.evaluation.label_noise import (
    _corrected,
    _Counts,
    _worst_case,
    eta_from_agreement,
    noise_bounds,
)


def verdicts_of(counts: _Counts) -> tuple[np.ndarray, np.ndarray]:
    """Labels and verdicts (1 alarm, 0 silence, -1 failed) of single samples."""
    rows = [(1, 1, counts.hits), (1, 0, counts.misses), (1, -1, counts.failed_bad),
            (0, 1, counts.false_alarms), (0, 0, counts.passes), (0, -1, counts.failed_benign)]
    flat = [(label, verdict) for label, verdict, n in rows for _ in range(n)]
    return np.array([r[0] for r in flat]), np.array([r[1] for r in flat])


def by_enumeration(counts: _Counts, eta1: float, eta0: float) -> dict[str, list[float]]:
    """MR and FAR under every allowed relabelling and every reading of failed verdicts."""
    labels, verdicts = verdicts_of(counts)
    failed = np.flatnonzero(verdicts < 0)
    out: dict[str, list[float]] = {"mr": [], "far": []}
    for flips in product((0, 1), repeat=len(labels)):
        flip = np.array(flips)
        if any(np.sum(flip[labels == k]) > eta * np.sum(labels == k) + 1e-9
               for k, eta in ((1, eta1), (0, eta0))):
            continue
        truth = labels ^ flip
        if len(set(truth)) < 2:
            continue
        for reading in product((0, 1), repeat=len(failed)):
            said = verdicts.copy()
            said[failed] = reading
            out["mr"].append(1 - said[truth == 1].mean())
            out["far"].append(said[truth == 0].mean())
    return out


@pytest.mark.parametrize(("eta1", "eta0"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.25), (0.35, 0.3),
                                            (0.8, 0.75)])
@pytest.mark.parametrize("counts", [
    _Counts(3, 2, 1, 3), _Counts(5, 0, 0, 4), _Counts(0, 5, 4, 0), _Counts(3, 1, 1, 2, 1, 1),
    _Counts(1, 1, 2, 1, 3, 1),
])
def test_worst_case_is_the_range_over_all_relabellings(counts, eta1, eta0):
    found = _worst_case(counts, eta1, eta0)
    for rate, values in by_enumeration(counts, eta1, eta0).items():
        assert found[rate] == pytest.approx((min(values), max(values)))


def test_intervals_hold_those_of_every_relabelling():
    counts, eta1, eta0 = _Counts(6, 2, 1, 7), 0.25, 0.25
    found = _worst_case(counts, eta1, eta0)
    for x_miss, x_hit, y_alarm, y_pass in product(range(3), repeat=4):
        if x_miss + x_hit > 2 or y_alarm + y_pass > 2 or y_alarm > counts.false_alarms:
            continue
        misses = counts.misses - x_miss + y_pass
        n = misses + counts.hits - x_hit + y_alarm
        interval = stats.binomtest(misses, n).proportion_ci(method="exact")
        assert found["mr_interval"][0] <= interval.low + 1e-12
        assert found["mr_interval"][1] >= interval.high - 1e-12


def test_without_noise_everything_is_as_observed():
    counts = _Counts(30, 10, 5, 45)
    assert _corrected(0.25, 0.1, 0.0, 0.0) == pytest.approx((0.25, 0.1))
    found = _worst_case(counts, 0.0, 0.0)
    assert found["mr"] == (0.25, 0.25) and found["far"] == (0.1, 0.1)
    interval = stats.binomtest(10, 40).proportion_ci(method="exact")
    assert found["mr_interval"] == pytest.approx((interval.low, interval.high))


def test_correction_recovers_the_truth_from_independent_noise():
    rng = np.random.default_rng(0)
    n = 400_000
    labels = rng.random(n) < 0.5
    truth = np.where(labels, rng.random(n) >= 0.15, rng.random(n) < 0.05)
    alarm = np.where(truth, rng.random(n) < 0.8, rng.random(n) < 0.1)
    miss, false = 1 - alarm[labels].mean(), alarm[~labels].mean()
    assert miss > 0.25  # wrong labels look like misses
    assert _corrected(miss, false, 0.15, 0.05) == pytest.approx((0.2, 0.1), abs=0.005)


def test_correction_inverts_the_mixture():
    matrix = np.array([[0.9, 0.1], [0.2, 0.8]])
    hit, false = np.linalg.solve(matrix, [0.7, 0.3])
    assert _corrected(0.3, 0.3, 0.1, 0.2) == pytest.approx((1 - hit, false))


def judged_frame(name: str, counts: _Counts) -> pd.DataFrame:
    labels, verdicts = verdicts_of(counts)
    return pd.DataFrame({
        "name": name, "draw": 0, "label": labels, "cell": "sg_qa",
        "sample_id": [f"s{i}" for i in range(len(labels))],
        "scenario_id": [f"c{i}" for i in range(len(labels))],
        "status": np.where(verdicts < 0, "truncated", "parsed"),
        "verdict": pd.array([None if v < 0 else bool(v) for v in verdicts], "boolean"),
    })


def test_table_has_both_rates_of_every_monitor_and_noise_rate():
    first, second = _Counts(30, 10, 5, 45, 2, 3), _Counts(40, 0, 0, 50)
    frame = pd.concat([judged_frame("a", first), judged_frame("b", second)])
    table = noise_bounds(frame, [0.02, (0.1, 0.0)])
    assert len(table) == 2 * 2 * 2
    far = table[(table["name"] == "a") & (table["rate"] == "far")].iloc[0]
    assert (far["n"], far["n_failed"], far["observed"]) == (50, 3, 0.1)
    row = table[(table["name"] == "a") & (table["rate"] == "mr") & (table["eta1"] == 0.1)].iloc[0]
    assert (row["n"], row["n_failed"], row["observed"], row["eta0"]) == (40, 2, 0.25, 0.0)
    assert row["corrected"] == pytest.approx(_corrected(0.25, 0.1, 0.1, 0.0)[0])
    assert (row["worst_low"], row["worst_high"]) == pytest.approx(_worst_case(first, 0.1, 0)["mr"])
    assert row["outer_low"] < row["worst_low"] < row["observed"] < row["worst_high"]
    assert (table["corrected_low"] <= table["corrected"]).all()
    assert (table["corrected"] <= table["corrected_high"]).all()


def test_ranges_allow_for_errors_that_come_by_scenario():
    frame = judged_frame("a", _Counts(30, 10, 5, 45))
    scenario = frame.assign(scenario_id=[f"c{i // 5}" for i in range(len(frame))])
    one, other = (noise_bounds(f, [0.02]) for f in (frame, scenario))
    pd.testing.assert_frame_equal(noise_bounds(scenario.assign(pair_id=frame["sample_id"]), [0.02],
                                               unit="pair"), one)
    same = ["observed", "corrected", "worst_low", "worst_high"]
    pd.testing.assert_frame_equal(one[same], other[same])  # points and ranges of the sample
    assert (other["outer_low"] < one["outer_low"]).all()
    assert (other["outer_high"] > one["outer_high"]).all()
    assert (other["corrected_high"] > one["corrected_high"]).all()


def test_a_perfect_monitor_contradicts_noisy_labels():
    """Labels that are wrong independently of a perfect monitor would make it look imperfect."""
    table = noise_bounds(judged_frame("b", _Counts(40, 0, 0, 50)), [0.1])
    assert not table["consistent"].any()
    assert (table["corrected"] == 0).all()
    assert (table["worst_low"] == 0).all() and (table["worst_high"] > 0.05).all()


def test_corrected_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(120):
        truth = np.concatenate([rng.random(150) >= 0.1, rng.random(150) < 0.05])
        alarm = np.where(truth, rng.random(300) < 0.7, rng.random(300) < 0.2)
        frame = judged_frame("m", _Counts(1, 1, 1, 1)).iloc[[0]].loc[[0] * 300].assign(
            label=np.repeat([1, 0], 150), sample_id=[str(i) for i in range(300)],
            scenario_id=[str(i) for i in range(300)],
            verdict=pd.array(alarm, "boolean"))
        row = noise_bounds(frame, [(0.1, 0.05)]).iloc[0]
        covered += row["corrected_low"] <= 0.3 <= row["corrected_high"]
    assert covered >= stats.binom.isf(1 - 1e-4, 120, 0.95)


def test_agreement_gives_an_upper_bound():
    assert eta_from_agreement(0, 50) == pytest.approx(1 - 0.05 ** (1 / 50))
    assert eta_from_agreement(3, 50) > 3 / 50


def test_groups_without_a_parsed_verdict_of_both_labels_are_left_out():
    frame = judged_frame("a", _Counts(3, 1, 2, 2))
    frame.loc[frame["label"] == 1, ["status", "verdict"]] = ["refused", pd.NA]
    assert noise_bounds(frame, [0.1]).empty


def test_impossible_noise_is_named():
    with pytest.raises(ValueError, match="a sum below 1"):
        _corrected(0.1, 0.1, 0.6, 0.4)
    with pytest.raises(ValueError, match="noise rates are 1"):
        noise_bounds(judged_frame("a", _Counts(1, 1, 1, 1)), [(1.0, 0.0)])
