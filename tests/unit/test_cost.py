"""Cost per caught misbehavior and cascades, against sample-by-sample logic."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monitorlab.evaluation.cost import (
    _cascade,
    _escalation_band,
    cascade_sweep,
    cost_table,
)
from monitorlab.evaluation.operating_points import default_alarms
from monitorlab.statistics.roc import roc


def judged_frame(
    name: str, seed: int = 0, n: int = 200, skill: float = 0.3, usd: float = 0.01,
    failed: float = 0.0, grid: int = 0,
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], n // 2)
    scores = np.clip(rng.normal(0.5 + skill * (labels - 0.5), 0.2), 0, 1)
    scores = np.round(scores * grid) / grid if grid else scores
    parsed = rng.random(n) >= failed
    return pd.DataFrame({
        "name": name, "monitor": name, "prompt": "none", "draw": 0, "label": labels,
        "sample_id": [f"s{i:03}" for i in range(n)],
        "pair_id": [f"p{i // 2}" for i in range(n)], "cell": "sg_qa",
        "scenario_id": [f"c{i // 8}" for i in range(n)],
        "split": np.where(np.arange(n) < n // 2, "dev", "test"),
        "status": np.where(parsed, "parsed", "unparsed"),
        "score": np.where(parsed, scores, np.nan),
        "verdict": pd.array(scores > 0.5, "boolean"),
        "seconds": 100 * usd, "cost_usd": usd,
        "input_tokens": pd.array([100] * n, "Int64"), "output_tokens": pd.array([5] * n, "Int64"),
        "evidence": name, "request_hash": name,
    }).assign(verdict=lambda f: f["verdict"].where(parsed))


def test_cost_per_caught_is_the_bill_of_a_long_run():
    """Add up what a hundred thousand samples at the base rate cost, without the formula."""
    frame = judged_frame("m", failed=0.1)
    frame["cost_usd"] = np.where(frame["label"] == 1, 0.03, 0.01)
    row = cost_table(frame, base_rate=0.02, review_usd=2.0).iloc[0]
    alarm, bad = default_alarms(frame), (frame["label"] == 1).to_numpy()
    weight = np.where(bad, 2_000 / bad.sum(), 98_000 / (~bad).sum())
    bill = np.sum(weight * (frame["cost_usd"].to_numpy() + 2.0 * alarm))
    caught = np.sum(weight * (alarm & bad))
    assert row["usd_per_caught"] == pytest.approx(bill / caught)
    assert row["usd"] == pytest.approx(0.02 * 0.03 + 0.98 * 0.01)
    assert row["caught_per_1000"] == pytest.approx(caught / 100)
    assert row["alarms_per_1000"] == pytest.approx(np.sum(weight * alarm) / 100)
    assert row["false_per_caught"] == pytest.approx(np.sum(weight * (alarm & ~bad)) / caught)
    assert row["usd_per_caught_low"] < row["usd_per_caught"] < row["usd_per_caught_high"]


def test_the_price_is_as_uncertain_as_there_are_scenarios():
    frame = judged_frame("m")
    alike = np.random.default_rng(0).random(25) < 0.7
    frame["verdict"] = pd.array(np.repeat(alike, 8), "boolean")  # whole scenarios are caught
    by = {unit: cost_table(frame, 0.1, 1.0, unit=unit).iloc[0] for unit in ("scenario", "pair")}
    assert by["scenario"]["usd_per_caught"] == by["pair"]["usd_per_caught"]
    widths = {unit: row["usd_per_caught_high"] - row["usd_per_caught_low"]
              for unit, row in by.items()}
    assert widths["scenario"] > 1.5 * widths["pair"]


def test_a_monitor_that_catches_nothing_costs_infinitely_much():
    frame = judged_frame("m")
    frame["verdict"] = pd.array([False] * len(frame), "boolean")
    row = cost_table(frame).iloc[0]
    assert row["usd_per_caught"] == np.inf
    assert row["caught_per_1000"] == 0


def test_an_unknown_cost_is_not_nothing():
    frame = judged_frame("m")
    frame.loc[5, "cost_usd"] = np.nan
    row = cost_table(frame, review_usd=1.0).iloc[0]
    assert np.isnan(row["usd"]) and np.isnan(row["usd_per_caught"])
    assert row["seconds"] == pytest.approx(1.0)
    frame.loc[5, ["status", "verdict"]] = ["error", pd.NA]  # no reply, no bill
    assert cost_table(frame).iloc[0]["usd"] == pytest.approx(0.01)


def test_impossible_prices_and_rates_are_named():
    with pytest.raises(ValueError, match="base_rate is 0"):
        cost_table(judged_frame("m"), base_rate=0)
    with pytest.raises(ValueError, match="review_usd"):
        cost_table(judged_frame("m"), review_usd=-1)


@pytest.mark.parametrize("ends", [(0.4, 0.6), (0.0, 1.0), (0.7, 0.9), (np.inf, 0.5), (0.5, 0.5)])
def test_cascade_follows_the_rule_on_every_sample(ends):
    low, high = ends
    cheap = judged_frame("cheap", 1, failed=0.1, grid=10)
    dear = judged_frame("dear", 2, usd=1.0, failed=0.1)
    found = _cascade(cheap, dear.sample(frac=1, random_state=0), low, high)
    assert set(found["name"]) == {"cheap > dear"}
    for one, two, got in zip(cheap.itertuples(), dear.itertuples(), found.itertuples(),
                             strict=True):
        ask = one.status != "parsed" or low <= one.score <= high
        assert got.sample_id == one.sample_id and got.escalated == ask
        assert got.cost_usd == pytest.approx(0.01 + (1.0 if ask else 0.0))
        assert got.seconds == pytest.approx(1.0 + (100.0 if ask else 0.0))
        assert got.input_tokens == (200 if ask else 100)
        assert got.evidence == ("dear" if ask else "cheap")
        if ask and two.status != "parsed":
            assert got.status == "unparsed" and pd.isna(got.verdict) and np.isnan(got.score)
            continue
        assert got.status == "parsed"
        assert got.verdict == (two.verdict if ask else one.score > high)
        third = 1 if ask else 2 if one.score > high else 0
        assert got.score == pytest.approx((third + (two.score if ask else one.score)) / 3)


def test_cascade_scores_are_ordered_like_its_decisions():
    found = _cascade(judged_frame("cheap", 1), judged_frame("dear", 2), 0.35, 0.6)
    assert found["score"].between(0, 1).all()
    middle = found.loc[found["escalated"], "score"]
    rest = found[~found["escalated"]]
    assert rest.loc[rest["score"] < 0.35, "score"].max() < middle.min()
    assert rest.loc[rest["score"] > 0.6, "score"].min() > middle.max()
    # The cascade's decision is one of the rules of its own ROC curve: threshold .5 is 1/3 + .5/3.
    assert (found["verdict"].to_numpy(bool) == (found["score"] > 0.5).to_numpy()).all()
    bad = found["label"] == 1
    own = (found.loc[~bad, "verdict"].mean(), found.loc[bad, "verdict"].mean())
    points = roc(found["score"], found["label"])
    assert np.min(np.hypot(points["far"] - own[0], points["tpr"] - own[1])) < 1e-12


def test_cascade_cost_is_unknown_where_one_monitor_has_none():
    dear = judged_frame("dear", 2).assign(cost_usd=np.nan, input_tokens=pd.NA)
    found = _cascade(judged_frame("cheap", 1), dear, 0.4, 0.6)
    assert (found["cost_usd"].isna() == found["escalated"]).all()
    assert (found["input_tokens"] == 100).all()  # a monitor without tokens adds none
    assert np.isnan(cost_table(found).iloc[0]["usd"])


def test_cascade_needs_the_same_samples_and_one_monitor_each():
    cheap, dear = judged_frame("cheap"), judged_frame("dear")
    with pytest.raises(ValueError, match="1 samples were judged by one monitor only, such as 's19"):
        _cascade(cheap, dear.iloc[:-1], 0, 1)
    with pytest.raises(ValueError, match="holds 2 monitors"):
        _cascade(pd.concat([cheap, dear]), dear, 0, 1)


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.3, 0.7])
@pytest.mark.parametrize("failed", [0.0, 0.2])
def test_band_is_the_widest_around_the_center_that_keeps_the_rank_rule(budget, failed):
    dev = judged_frame("cheap", 3, n=400, grid=20, failed=failed)
    low, high = _escalation_band(dev, budget, center=0.5, base_rate=0.2)

    def bound(reach):
        inside = (dev["score"] - 0.5).abs().fillna(0) <= reach + 1e-12
        total = 0.0
        for label, weight in ((1, 0.2), (0, 0.8)):
            shares = inside[dev["label"] == label].groupby(dev["scenario_id"]).mean()
            total += weight * (shares.sum() + 1) / (len(shares) + 1)
        return total

    reaches = np.arange(11) / 20  # the grid of scores, from the center
    kept = [reach for reach in reaches if bound(reach) <= budget + 1e-9]
    if kept:
        assert (low, high) == pytest.approx((0.5 - kept[-1], 0.5 + kept[-1]))
    else:
        assert (low, high) == (np.inf, 0.5)


def test_sweep_starts_with_the_cheap_and_ends_with_the_expensive_monitor():
    cheap, dear = judged_frame("cheap", 1, skill=0.1), judged_frame("dear", 2, skill=0.6, usd=1.0)
    table = cascade_sweep(cheap, dear, [0.0, 0.25, 0.5, 1.0], base_rate=0.1, review_usd=1.0)
    for frame, row, usd in ((cheap, table.iloc[0], 0.01), (dear, table.iloc[-1], 1.01)):
        alone = cost_table(frame[frame["split"] == "test"]).iloc[0]
        assert (row["tpr"], row["far"]) == pytest.approx((alone["tpr"], alone["far"]))
        assert row["usd"] == pytest.approx(usd)
        assert row["mr"] == pytest.approx(1 - alone["tpr"])
    assert table["share"].iloc[[0, -1]].tolist() == pytest.approx([0.0, 1.0])
    assert table["share"].is_monotonic_increasing and table["usd"].is_monotonic_increasing
    assert table["usd"].to_numpy() == pytest.approx(0.01 + table["share"].to_numpy())
    assert 0 < table["share"].iloc[1] < table["share"].iloc[2] < 1


def test_bands_are_chosen_without_looking_at_test():
    cheap, dear = judged_frame("cheap", 1), judged_frame("dear", 2)
    other = cheap.copy()
    test = (other["split"] == "test").to_numpy()
    other.loc[test, "score"] = 1 - other.loc[test, "score"]
    columns = ["budget", "low", "high"]
    pd.testing.assert_frame_equal(cascade_sweep(cheap, dear)[columns],
                                  cascade_sweep(other, dear)[columns])


def test_failed_cheap_verdicts_are_escalated_even_without_a_budget():
    cheap, dear = judged_frame("cheap", 1, failed=0.3), judged_frame("dear", 2)
    row = cascade_sweep(cheap, dear, [0.0], base_rate=0.5).iloc[0]
    test = cheap[cheap["split"] == "test"]
    assert row["share"] == pytest.approx((test["status"] != "parsed").mean())
    with pytest.raises(ValueError, match="budget is 1.2"):
        cascade_sweep(cheap, dear, [1.2])
    with pytest.raises(ValueError, match="no sample has the split dev"):
        cascade_sweep(cheap.assign(split="test"), dear.assign(split="test"))
