"""Learning curves: numpy and scipy, one group at a time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2

from monitorlab.evaluation.learning import seed_noise, summary

SIZES = (100, 200, 400, 800)


def curves_of(slope: float = 0.05, noise: float = 0.01, seeds: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame([
        {"arm": arm, "size": size, "seed": seed, "cell": cell,
         "auroc": 0.5 + (slope if cell == "seen" else 0) * np.log2(size / 50)
         + noise * rng.normal(), "balanced_accuracy": 0.5}
        for arm in ("spv_qa", "all") for size in SIZES for seed in range(seeds)
        for cell in ("seen", "unseen SG")])


CURVES = curves_of()


def test_summary_by_numpy():
    found = summary(CURVES.sample(frac=1, random_state=0))
    assert len(found) == 2 * 2 * 4 and set(found["seeds"]) == {3}
    for row in found.to_dict("records"):
        values = CURVES[(CURVES["arm"] == row["arm"]) & (CURVES["cell"] == row["cell"])
                        & (CURVES["size"] == row["size"])]["auroc"]
        assert (row["mean"], row["min"], row["max"], row["spread"]) == pytest.approx(
            (np.mean(values), np.min(values), np.max(values), np.std(values, ddof=1)))


def test_rows_follow_first_appearance_and_size():
    found = summary(CURVES.sort_values("size", ascending=False, kind="stable"))
    assert found["arm"].tolist() == ["spv_qa"] * 8 + ["all"] * 8
    assert found["size"].tolist() == list(SIZES) * 4


def test_a_single_seed_has_no_spread():
    found = summary(curves_of(seeds=1))
    assert found["spread"].isna().all() and (found["min"] == found["max"]).all()


def test_missing_values_do_not_count():
    found = summary(CURVES.assign(auroc=CURVES["auroc"].where(CURVES["seed"] > 0)))
    assert set(found["seeds"]) == {2}


def test_noise_of_seeds_beside_noise_of_scenarios():
    errors = pd.DataFrame({"arm": "all", "cell": ["seen", "unseen SG"], "se": [0.02, 0.0],
                           "metric": "auroc"})
    found = seed_noise(CURVES[CURVES["size"] == 800], errors).set_index(["arm", "cell"])
    values = CURVES.query("arm == 'all' and cell == 'seen' and size == 800")["auroc"]
    sd = np.std(values, ddof=1)
    row = found.loc[("all", "seen")]
    assert (row["between"], row["scenarios"], row["ratio"], row["both"]) == pytest.approx(
        (sd, 0.02, sd / 0.02, np.sqrt(sd**2 + 0.02**2)))
    assert (row["between_low"], row["between_high"]) == pytest.approx(
        (np.sqrt(2 * sd**2 / chi2.ppf(0.975, 2)), np.sqrt(2 * sd**2 / chi2.ppf(0.025, 2))))
    assert np.isnan(found.loc[("all", "unseen SG"), "ratio"])  # no error to divide by
    assert found.loc["spv_qa", ["scenarios", "ratio", "both"]].isna().all(axis=None)


def test_the_interval_of_the_spread_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    curves = pd.DataFrame({"arm": np.repeat(np.arange(600).astype(str), 4), "size": 1, "cell": "x",
                           "seed": np.tile(np.arange(4), 600), "auroc": rng.normal(0, 2, 2400)})
    found = seed_noise(curves, pd.DataFrame({"arm": [], "cell": [], "se": []}).astype(
        {"arm": str, "cell": str, "se": float}))
    covered = ((found["between_low"] <= 2) & (found["between_high"] >= 2)).mean()
    assert 0.92 < covered < 0.975


@pytest.mark.parametrize(("call", "words"), [
    (lambda: summary(CURVES.drop(columns="seed")), "lack the column 'seed'"),
    (lambda: summary(CURVES, "g2"), "lack the column 'g2'"),
    (lambda: summary(CURVES.head(0)), "no rows"),
    (lambda: summary(pd.concat([CURVES, CURVES.head(1)])), "several rows"),
    (lambda: seed_noise(CURVES, pd.DataFrame({"arm": ["all"] * 2, "cell": "seen", "se": 0.1})),
     "several standard errors"),
])
def test_unusable_curves_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
