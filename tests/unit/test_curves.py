"""ROC and DET curves, their areas and their bootstrap, against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from monitorlab.evaluation.bootstrap import curve_table
from monitorlab.statistics.roc import (
    FARS,
    MEASURES,
    _best_within,
    _counts_above,
    _partial_area,
    auroc,
    det,
    roc,
    roc_band,
)


def drawn(seed: int, n: int = 60, tied: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Scores in [0, 1] of n samples, higher for the second half, which misbehaves."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], n // 2)
    scores = rng.beta(2 + 2 * labels, 4 - 2 * labels)
    return (np.round(scores * 8) / 8 if tied else scores), labels


def counts_of(scores, labels) -> tuple[np.ndarray, np.ndarray]:
    once = np.ones((len(scores), 1), np.float32)
    return _counts_above(np.asarray(scores, float), labels, np.arange(len(scores)), once)


def partial_auroc(scores, labels, max_far: float) -> float:
    return float(_partial_area(*counts_of(scores, labels), max_far)[0])


def tpr_at_far(scores, labels, far: float) -> float:
    return float(_best_within(*counts_of(scores, labels), far)[0])


def judged_frame(scores, labels, name="m", status="parsed") -> pd.DataFrame:
    n = len(scores)
    return pd.DataFrame({
        "name": name, "sample_id": [f"s{i}" for i in range(n)], "draw": 0, "status": status,
        "score": scores, "label": labels, "pair_id": [f"p{i % (n // 2)}" for i in range(n)],
        "scenario_id": [f"c{i % (n // 2) // 3}" for i in range(n)],
        "cell": ["sg_qa" if i % 2 else "sg_code" for i in range(n)],
    })


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_roc_has_the_points_of_scikit_learn(seed, tied):
    scores, labels = drawn(seed, tied=tied)
    far, tpr, threshold = roc_curve(labels, scores, drop_intermediate=False)
    points = roc(scores, labels)
    assert points["far"].to_numpy() == pytest.approx(far)
    assert points["tpr"].to_numpy() == pytest.approx(tpr)
    # theirs alarms at score >= threshold, ours above it: each of our thresholds is the next score
    assert points["threshold"].to_numpy()[:-1] == pytest.approx(threshold[1:])
    assert points["threshold"].iloc[-1] == -np.inf


def test_every_roc_row_is_the_rule_it_names():
    scores, labels = drawn(4, tied=True)
    for far, tpr, threshold in roc(scores, labels).itertuples(index=False):
        alarm = scores > threshold
        assert alarm[labels == 0].mean() == pytest.approx(far)
        assert alarm[labels == 1].mean() == pytest.approx(tpr)


def test_tied_scores_are_one_step():
    points = roc([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1])
    assert points[["far", "tpr"]].to_numpy().tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("max_far", [0.03, 0.1, 0.4, 1.0])
def test_areas_equal_those_of_scikit_learn(max_far, tied):
    for seed in range(5):
        scores, labels = drawn(seed, tied=tied)
        assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
        assert partial_auroc(scores, labels, max_far) == pytest.approx(
            roc_auc_score(labels, scores, max_fpr=max_far)
        )


@pytest.mark.parametrize("tied", [False, True])
def test_tpr_at_far_is_the_best_of_all_thresholds(tied):
    for seed in range(5):
        scores, labels = drawn(seed, n=40, tied=tied)
        for far in (0.0, 0.01, 0.05, 0.1, 0.35, 1.0):
            rules = [scores > t for t in [*np.unique(scores), -1.0]]
            best = max(r[labels == 1].mean() for r in rules if r[labels == 0].mean() <= far + 1e-12)
            assert tpr_at_far(scores, labels, far) == pytest.approx(best)


def test_tpr_at_far_never_interpolates_between_rules():
    scores, labels = [0.9, 0.9, 0.1, 0.1], [1, 0, 1, 0]
    assert tpr_at_far(scores, labels, 0.49) == 0.0
    assert tpr_at_far(scores, labels, 0.5) == 0.5


def test_tpr_at_far_allows_exactly_the_level_in_spite_of_rounding():
    scores = np.append(np.arange(100) / 200, 0.4625)  # 7 of 100 benign scores lie above it
    labels = np.append(np.zeros(100, int), 1)
    assert 1 - 0.93 < 7 / 100
    assert tpr_at_far(scores, labels, 1 - 0.93) == 1.0
    assert tpr_at_far(scores, labels, 0.069) == 0.0


def test_det_is_a_straight_line_for_normal_scores():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 1, 20_000), rng.normal(1.5, 1, 20_000)])
    points = det(scores, np.repeat([0, 1], 20_000))
    inner = points[points["far"].between(0.02, 0.98) & points["mr"].between(0.02, 0.98)]
    assert (inner["x"] + inner["y"]).to_numpy() == pytest.approx(-1.5, abs=0.08)


def test_det_keeps_empty_rates_half_a_sample_from_the_end():
    points = det([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()
    assert points["x"].iloc[0] == pytest.approx(norm.ppf(1 / 4))
    assert points["y"].iloc[0] == pytest.approx(norm.ppf(3 / 4))


@pytest.mark.parametrize("tied", [False, True])
def test_band_is_that_of_resampled_samples_taken_one_by_one(tied):
    scores, labels = drawn(1, n=24, tied=tied)
    pairs = np.tile(np.arange(12), 2)
    grid = np.array([0.0, 0.1, 0.33, 1.0])
    band = roc_band(scores, labels, pairs, np.random.default_rng(5), n=150, grid=grid)
    drawn_pairs = (np.random.default_rng(5).random((150, 12)) * 12).astype(int)
    curves, measures = [], []
    for chosen in drawn_pairs:
        rows = np.concatenate([np.flatnonzero(pairs == p) for p in chosen])
        s, y = scores[rows], labels[rows]
        far, tpr, _ = roc_curve(y, s, drop_intermediate=False)
        curves.append(np.interp(grid, far, tpr))
        measures.append([roc_auc_score(y, s), roc_auc_score(y, s, max_fpr=0.1),
                         *(tpr_at_far(s, y, level) for level in FARS)])
    low, high = np.quantile(curves, [0.025, 0.975], axis=0)
    assert band.grid["low"].to_numpy() == pytest.approx(low)
    assert band.grid["high"].to_numpy() == pytest.approx(high)
    low, high = np.quantile(measures, [0.025, 0.975], axis=0)
    assert band.summary["low"].to_numpy() == pytest.approx(low)
    assert band.summary["high"].to_numpy() == pytest.approx(high)


def test_resampling_in_blocks_changes_nothing(monkeypatch):
    scores, labels = drawn(2)
    pairs = np.tile(np.arange(30), 2)
    whole = roc_band(scores, labels, pairs, np.random.default_rng(1), n=100)
    monkeypatch.setattr("monitorlab.statistics.roc._AT_ONCE", 7 * len(scores))
    parts = roc_band(scores, labels, pairs, np.random.default_rng(1), n=100)
    pd.testing.assert_frame_equal(whole.summary, parts.summary)
    pd.testing.assert_frame_equal(whole.grid, parts.grid)


def test_pairs_are_resampled_whole():
    # In every pair the misbehaving sample is .1 above its twin; pairs differ widely.
    rng = np.random.default_rng(0)
    level = rng.random(40)
    scores, labels = np.concatenate([level, level + 0.1]), np.repeat([0, 1], 40)
    paired = roc_band(scores, labels, np.tile(np.arange(40), 2), np.random.default_rng(1))
    apart = roc_band(scores, labels, np.arange(80), np.random.default_rng(1))
    width = [b.summary["high"][0] - b.summary["low"][0] for b in (paired, apart)]
    assert width[0] < 0.6 * width[1]


def test_curve_table_counts_samples_without_a_score():
    scores, labels = drawn(3)
    frame = judged_frame(scores, labels)
    frame.loc[[0, 40, 50], ["status", "score"]] = ["refused", np.nan]
    row = curve_table(frame, np.random.default_rng(0), n=200).iloc[0]
    kept = frame["status"] == "parsed"
    assert (row["n"], row["n_unscored"]) == (57, 3)
    assert row["auroc"] == pytest.approx(roc_auc_score(labels[kept], scores[kept]))
    for name in MEASURES:
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_curve_table_has_a_row_per_monitor_and_cell_and_says_missing_without_scores():
    scores, labels = drawn(3)
    frame = pd.concat([judged_frame(scores, labels),
                       judged_frame(np.full(60, np.nan), labels, name="text")])
    table = curve_table(frame, np.random.default_rng(0), by="cell", n=50)
    assert table[["name", "cell"]].to_numpy().tolist() == [
        ["m", "sg_code"], ["m", "sg_qa"], ["text", "sg_code"], ["text", "sg_qa"]]
    silent = table[table["name"] == "text"]
    assert (silent["n"] == 0).all() and (silent["n_unscored"] == 30).all()
    assert silent[["auroc", "auroc_low", "tpr_01"]].isna().all(axis=None)
    assert table.iloc[0]["auroc"] == pytest.approx(roc_auc_score(labels[::2], scores[::2]))


def test_curve_table_looks_at_the_first_draw_only():
    scores, labels = drawn(3)
    again = judged_frame(1 - scores, labels).assign(draw=1)
    table = curve_table(pd.concat([again, judged_frame(scores, labels)]),
                        np.random.default_rng(0), n=50)
    assert table["n"].tolist() == [60]
    assert table["auroc"][0] == pytest.approx(roc_auc_score(labels, scores))


@pytest.mark.parametrize(("scores", "labels", "message"), [
    ([0.1, np.nan], [0, 1], "score 1 is nan"),
    ([0.1, 0.2], [1, 1], "labels are the same"),
    ([0.1, 0.2], [0, 2], "labels are neither 0 nor 1"),
    ([0.1, 0.2], ["0", "1"], "labels are neither 0 nor 1"),
    ([0.1, 0.2], [None, 1], "is missing"),
    ([0.1, 0.2, 0.3], [0, 1], "shape"),
])
def test_unusable_input_is_named(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        roc(scores, labels)


def test_areas_take_scenarios_as_units():
    """Scenarios of ten samples that are all ranked alike: far fewer than there are pairs."""
    rng = np.random.default_rng(2)
    labels, unit = np.tile([0, 1], 200), np.repeat(np.arange(40), 10)
    good = rng.random(40) < 0.7
    scores = np.where(good[unit], 0.3 + 0.4 * labels, 0.7 - 0.4 * labels) + 0.01 * rng.random(400)
    frame = judged_frame(scores, labels).assign(
        scenario_id=[f"c{u}" for u in unit], pair_id=[f"p{i // 2}" for i in range(400)])
    wide, narrow = (curve_table(frame, np.random.default_rng(0), n=500, unit=unit).iloc[0]
                    for unit in ("scenario", "pair"))
    assert wide["auroc"] == narrow["auroc"]
    ratio = (wide["auroc_high"] - wide["auroc_low"]) / (narrow["auroc_high"] - narrow["auroc_low"])
    assert ratio == pytest.approx(np.sqrt(5), rel=0.2)
    default = curve_table(frame, np.random.default_rng(0), n=500).iloc[0]
    assert default["auroc_low"] == wide["auroc_low"]
