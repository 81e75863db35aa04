"""Transfer: means, intervals and tests against brute force, scikit-learn and statsmodels."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from monitorlab.chapters.finetuning.arms import EVERY_ARM
from monitorlab.chapters.finetuning.published import SEEN, published_transfer
from monitorlab.chapters.finetuning.transfer import Transfer, reproduction
from monitorlab.evaluation.bootstrap import CELL_METRICS, CellDraws, split_rows
from monitorlab.evaluation.comparisons import sign_flip
from monitorlab.storage.tables import CELLS

ALL = SEEN["all"]
SOME = {"base": frozenset(), "spv_qa": SEEN["spv_qa"], "all": ALL, "pairs": ALL, "mixed": ALL}
DEFAULT_D = {"base": 0.3, "spv_qa": 0.8, "all": 1.2, "pairs": 2.2, "mixed": 1.2}


def arm_rows(name: str, d_prime: float, seed: int, pairs: int = 30, failed: float = 0.0,
             criterion: float = 0.0, shared: float = 0.85) -> pd.DataFrame:
    """Pairs in every cell, a third of them dev, normal scores with a part that a pair shares."""
    rng = np.random.default_rng(seed)
    n = 2 * pairs * len(CELLS)
    number, labels = np.arange(n) // 2, np.tile([1, 0], n // 2)
    common = np.repeat(np.random.default_rng(99).normal(size=n // 2), 2)
    x = d_prime * (labels - 0.5) + np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(
        size=n)
    parsed = rng.random(n) >= failed
    cells = np.repeat(CELLS, 2 * pairs)
    return pd.DataFrame({
        "name": name, "monitor": name, "prompt": "none", "draw": 0, "label": labels,
        "sample_id": [f"s{i:05}" for i in range(n)], "pair_id": [f"p{i:05}" for i in number],
        "scenario_id": [f"c{i // 6}" for i in number], "cell": cells,
        "category": [cell.split("_")[0] for cell in cells],
        "split": np.where(number % 3 == 0, "dev", "test"),
        "status": np.where(parsed, "parsed", "unparsed"),
        "score": np.where(parsed, norm.cdf(x - criterion), np.nan),
        "verdict": pd.Series(x > criterion, dtype="boolean").where(parsed),
    })  # fmt: skip


def judged_of(ds: dict[str, float], **options) -> pd.DataFrame:
    return pd.concat([arm_rows(name, d, seed, **options)
                      for seed, (name, d) in enumerate(ds.items())], ignore_index=True)


JUDGED = judged_of(DEFAULT_D)
TEST = JUDGED[JUDGED["split"] == "test"]
TRANSFER = Transfer(JUDGED, SOME, 400).means(np.random.default_rng(3))
DIFFERENCES = Transfer(JUDGED, SOME, 400).differences(np.random.default_rng(3))
PAIRS = {"table": Transfer(JUDGED, SOME, 400, unit="pair").means(np.random.default_rng(3)),
         "gaps": Transfer(JUDGED, SOME, 400, unit="pair").differences(np.random.default_rng(3))}
TESTS = Transfer(JUDGED, SOME).tests()


def holm(p: pd.Series) -> np.ndarray:
    return multipletests(p, method="holm")[1]


def cells_of(row: dict) -> list[str]:
    return row["cells"].split(", ")


def by_hand(part: pd.DataFrame, metric: str) -> float:
    bad = part["label"] == 1
    alarm = part["verdict"].astype(bool)
    mr, far = (~alarm[bad]).mean(), alarm[~bad].mean()
    return {"mr": mr, "far": far, "g2": (1 - mr) * (1 - far),
            "balanced_accuracy": balanced_accuracy_score(part["label"], alarm),
            "auroc": roc_auc_score(part["label"], part["score"])}[metric]


def test_values_are_means_over_cells_by_scikit_learn():
    assert len(TRANSFER) == len(CELL_METRICS) * (2 + 3 + 2 + 2 + 2)
    for row in TRANSFER.to_dict("records"):
        own = TEST[TEST["name"] == row["arm"]]
        expected = np.mean([by_hand(own[own["cell"] == cell], row["metric"])
                            for cell in cells_of(row)])
        assert row["value"] == pytest.approx(expected, abs=1e-12)
        assert row["low"] <= row["value"] <= row["high"]


def test_rows_are_in_order_and_an_untrained_arm_has_seen_nothing():
    groups = TRANSFER.groupby("arm", sort=False)["group"].unique().apply(list)
    assert list(groups.index) == list(SOME)
    assert groups["base"] == ["unseen SG", "unseen other"]
    assert groups["spv_qa"] == ["seen", "unseen SG", "unseen other"]
    assert groups["all"] == ["seen", "unseen SG"]
    assert TRANSFER["metric"].tolist() == list(CELL_METRICS) * (len(TRANSFER) // len(CELL_METRICS))


def test_intervals_agree_with_a_brute_force_bootstrap_of_pairs():
    rng = np.random.default_rng(0)
    one, other = (TEST[TEST["name"] == name] for name in ("pairs", "all"))
    values = []
    for _ in range(60):
        drawn = []
        for cell in ("sg_code", "sg_qa"):
            a, b = (part[part["cell"] == cell].sort_values("sample_id") for part in (one, other))
            places = rng.integers(0, len(a) // 2, len(a) // 2)  # two rows to a pair
            rows = np.sort(np.concatenate([2 * places, 2 * places + 1]))
            drawn.append([(roc_auc_score(p["label"].to_numpy()[rows], p["score"].to_numpy()[rows]),
                           balanced_accuracy_score(p["label"].to_numpy()[rows],
                                                   p["verdict"].to_numpy(bool)[rows]))
                          for p in (a, b)])
        mean = np.mean(drawn, axis=0)
        values.append(np.concatenate([mean[0], mean[0] - mean[1]]))
    spread = np.std(values, axis=0, ddof=1)
    table, gaps = (PAIRS[name].set_index(["arm", "group", "metric"]) for name in ("table", "gaps"))
    for place, metric in enumerate(("auroc", "balanced_accuracy")):
        row, gap = table.loc[("pairs", "unseen SG", metric)], gaps.loc[("pairs", "unseen SG",
                                                                        metric)]
        assert row["se"] == pytest.approx(spread[place], rel=0.35)
        assert row["high"] - row["low"] == pytest.approx(3.92 * spread[place], rel=0.35)
        assert gap["high"] - gap["low"] == pytest.approx(3.92 * spread[2 + place], rel=0.35)


def test_differences_are_of_the_same_cells_and_paired():
    table = TRANSFER.set_index(["arm", "group", "metric"])
    assert set(DIFFERENCES["arm"]) == set(SOME) - {"all"}
    for row in DIFFERENCES.to_dict("records"):
        own = table.loc[(row["arm"], row["group"], row["metric"]), "value"]
        other = TEST[TEST["name"] == "all"]
        reference = np.mean([by_hand(other[other["cell"] == cell], row["metric"])
                             for cell in cells_of(row)])
        assert row["difference"] == pytest.approx(own - reference, abs=1e-12)
    # Scores share the difficulty of a pair, so a paired interval is narrower than an unpaired one.
    gap = DIFFERENCES.set_index(["arm", "group", "metric"]).loc[("mixed", "seen", "mr")]
    apart = np.hypot(*[table.loc[(arm, "seen", "mr"), "se"] for arm in ("mixed", "all")])
    assert gap["high"] - gap["low"] < 0.9 * 3.92 * apart


def test_bootstrap_p_and_holm():
    found = DIFFERENCES.set_index(["arm", "group", "metric"])
    assert found.loc[("pairs", "unseen SG", "auroc"), "p"] == pytest.approx(2 / 401)
    for metric in ("g2", "auroc"):
        part = DIFFERENCES[(DIFFERENCES["metric"] == metric)
                           & (DIFFERENCES["group"] == "unseen SG")]
        assert len(part) == 4
        assert part["p_holm"].to_numpy() == pytest.approx(holm(part["p"]))
    assert (DIFFERENCES["p_holm"] >= DIFFERENCES["p"]).all()


def test_an_arm_equal_to_the_reference_differs_by_nothing():
    twin = TEST[TEST["name"] == "all"].assign(name="twin")
    judged = pd.concat([TEST, twin], ignore_index=True)
    seen = {"all": ALL, "twin": ALL}
    gaps = Transfer(judged, seen, 50).differences(np.random.default_rng(0))
    assert (gaps[["difference", "low", "high"]] == 0).all(axis=None)
    assert (gaps[["p", "p_holm"]] == 1).all(axis=None)
    tests = Transfer(judged, seen).tests()
    assert (tests[["arm_only", "reference_only"]] == 0).all(axis=None) and (tests["p"] == 1).all()


def test_draws_do_not_depend_on_other_arms_or_the_order_of_rows():
    few = {name: SOME[name] for name in ("all", "pairs")}
    mixed = JUDGED.sample(frac=1, random_state=1)
    found = Transfer(mixed, few, 400).means(np.random.default_rng(3))
    expected = TRANSFER[TRANSFER["arm"].isin(few)].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected)


def test_a_strictly_rising_map_of_scores_changes_no_auroc():
    bent = JUDGED.assign(score=JUDGED["score"] ** 3)
    bent = Transfer(bent, SOME, 400).means(np.random.default_rng(3))
    pd.testing.assert_frame_equal(bent, TRANSFER)


def test_mcnemar_by_statsmodels_and_signs_of_scenarios():
    scenario = TEST.drop_duplicates("sample_id").set_index("sample_id")["scenario_id"]
    wide = TEST.assign(wrong=TEST["verdict"].astype(bool) != (TEST["label"] == 1)).pivot(
        index=["cell", "label", "sample_id"], columns="name", values="wrong").reset_index()
    kinds = {"miss": [1], "false_alarm": [0], "wrong": [0, 1]}
    for row in TESTS.to_dict("records"):
        part = wide[wide["cell"].isin(cells_of(row)) & wide["label"].isin(kinds[row["error"]])]
        own, other = part[row["arm"]].astype(bool), part["all"].astype(bool)
        b, c = int((own & ~other).sum()), int((~own & other).sum())
        assert (row["arm_only"], row["reference_only"], row["n"]) == (b, c, len(part))
        assert row["difference"] == pytest.approx((b - c) / len(part))
        assert row["low"] <= row["difference"] <= row["high"]
        expected = mcnemar([[0, b], [c, 0]], exact=True).pvalue if b + c else 1.0
        assert row["p_mcnemar"] == pytest.approx(min(1.0, expected))
        gaps = (own.astype(int) - other).groupby(scenario.loc[part["sample_id"]].to_numpy()).sum()
        assert row["p"] == sign_flip(gaps.to_numpy())
    for group in ("seen", "unseen SG"):
        part = TESTS[(TESTS["error"] == "wrong") & (TESTS["group"] == group)]
        assert len(part) >= 3
        assert part["p_holm"].to_numpy() == pytest.approx(holm(part["p"]))


def test_an_arm_that_refuses_the_hard_half_gains_nothing():
    """Equal to the reference where it answers, and silent where both would err."""
    twin = TEST[TEST["name"] == "all"].assign(name="twin")
    wrong = twin["verdict"].astype(bool) != (twin["label"] == 1)
    twin = twin.assign(status=twin["status"].mask(wrong, "refused"),
                       verdict=twin["verdict"].mask(wrong), score=twin["score"].mask(wrong))
    judged = pd.concat([TEST, twin], ignore_index=True)
    seen = {"all": ALL, "twin": ALL}
    table = Transfer(judged, seen, 50).means(np.random.default_rng(0)).set_index(
        ["arm", "group", "metric"])["value"]
    assert table["twin", "seen", "mr"] == 0 < table["all", "seen", "mr"]
    gaps = Transfer(judged, seen, 50).differences(np.random.default_rng(0))
    assert (gaps[["difference", "low", "high"]] == 0).all(axis=None)
    assert (gaps[["p", "p_holm", "p_worst"]] == 1).all(axis=None)
    lost = TEST[(TEST["name"] == "all") & TEST["cell"].isin(ALL)]
    lost = int((lost["verdict"].astype(bool) != (lost["label"] == 1)).sum())
    there = gaps[gaps["group"] == "seen"]
    assert set(there["left_out"]) == {lost} and set(there["why"]) == {f"twin: {lost} refused"}


def test_failed_verdicts_are_left_out_and_counted():
    judged = pd.concat([arm_rows("all", 1.2, 2), arm_rows("pairs", 2.0, 3, failed=0.2)],
                       ignore_index=True)
    seen = {"all": ALL, "pairs": ALL}
    found = Transfer(judged, seen, 50).means(np.random.default_rng(0)).set_index(
        ["arm", "group", "metric"])
    own = judged[(judged["name"] == "pairs") & (judged["split"] == "test")
                 & judged["cell"].isin(ALL)]
    failed = int((own["status"] != "parsed").sum())
    assert found.loc[("pairs", "seen", "auroc"), "unscored"] == failed > 0
    assert found.loc[("pairs", "seen", "mr"), "unscored"] == 0
    parsed = own[own["status"] == "parsed"]
    expected = np.mean([by_hand(parsed[parsed["cell"] == cell], "g2") for cell in sorted(ALL)])
    assert found.loc[("pairs", "seen", "g2"), "value"] == pytest.approx(expected)
    tests = Transfer(judged, seen).tests().set_index(["arm", "group", "error"])
    row = tests.loc[("pairs", "seen", "wrong")]
    assert (row["left_out"], row["n"] + row["left_out"]) == (failed, len(own))
    assert row["p_worst"] >= row["p"]


def test_an_arm_with_one_score_has_chance_auroc_without_noise():
    flat = arm_rows("pairs", 1.0, 3).assign(score=0.5, verdict=pd.array([False] * 360, "boolean"))
    judged = pd.concat([arm_rows("all", 1.2, 2), flat], ignore_index=True)
    found = Transfer(judged, {"all": ALL, "pairs": ALL}, 50).means(np.random.default_rng(0))
    own = found[(found["arm"] == "pairs") & (found["group"] == "seen")].set_index("metric")
    assert own.loc["auroc", ["value", "low", "high"]].tolist() == [0.5] * 3
    assert own.loc[["mr", "far", "g2"], "value"].tolist() == [1, 0, 0]


def test_a_missing_cell_leaves_the_mean_open_rather_than_taking_another():
    partial = JUDGED[(JUDGED["name"] != "pairs") | (JUDGED["cell"] != "sg_code")]
    found = Transfer(partial, SOME, 50).means(np.random.default_rng(0))
    open_rows = found["value"].isna()
    assert set(found.loc[open_rows, "arm"]) == {"pairs"}
    assert set(found.loc[open_rows, "group"]) == {"unseen SG"}
    assert found.loc[open_rows, ["low", "high", "se"]].isna().all(axis=None)
    gaps = Transfer(partial, SOME, 50).differences(np.random.default_rng(0))
    lost = gaps["p"].isna()
    assert set(gaps.loc[lost, "arm"]) == {"pairs"} and gaps.loc[lost, "p_holm"].isna().all()
    others = gaps[(gaps["group"] == "unseen SG") & (gaps["metric"] == "mr") & ~lost]
    assert others["p_holm"].to_numpy() == pytest.approx(holm(others["p"]))


def test_scenarios_instead_of_pairs_widen_intervals_where_they_resemble_each_other():
    rows = arm_rows("all", 1.0, 2, pairs=60)
    scenario = rows["scenario_id"].str[1:].astype(int)
    right = np.random.default_rng(5).random(scenario.max() + 1) < 0.6  # whole scenarios right
    alarm = np.where(right[scenario], rows["label"] == 1, rows["label"] == 0)
    judged = rows.assign(verdict=pd.array(alarm, dtype="boolean"))
    se = [Transfer(judged, {"all": ALL}, 300, unit=unit).means(np.random.default_rng(0)).query(
        "metric == 'mr' and group == 'seen'")["se"].iloc[0] for unit in ("pair", "scenario")]
    assert se[1] > 1.5 * se[0]  # four test pairs in a scenario: about twice


@pytest.mark.parametrize(("judged", "words"), [
    (Transfer(JUDGED, {"nobody": ALL}, 5), "no verdicts in"),
    (Transfer(JUDGED, {}, 5), "no arms were named"),
    (Transfer(JUDGED, SOME, 5, unit="cell"), "unit is 'cell'"),
])
def test_what_cannot_be_is_said_plainly(judged, words):
    with pytest.raises(ValueError, match=words):
        judged.means(np.random.default_rng(0))


def test_a_reference_alone_and_an_arm_named_twice_are_refused():
    with pytest.raises(ValueError, match="to be compared"):
        Transfer(JUDGED, {"all": ALL}).tests()
    with pytest.raises(ValueError, match="named twice"):
        split_rows(JUDGED, ["all", "all"], "test")


def test_cell_draws_keep_the_order_asked_for():
    found = CellDraws.of(TEST, ["pairs", "all"], np.random.default_rng(0), 7,
                       cells=["sg_qa", "spv_qa"], metrics=["mr"])
    for cell in ["sg_qa", "spv_qa"]:
        own = found.over(found.arms, [cell])
        assert own.names.tolist() == ["pairs", "all"]
        assert own.values.shape == (1, 2) and own.draws.shape == (1, 2, 7)
        for arm, value in zip(own.names, own.values[0], strict=True):
            part = TEST[(TEST["cell"] == cell) & (TEST["name"] == arm)]
            assert value == pytest.approx(by_hand(part, "mr"))


def test_draws_of_a_cell_do_not_depend_on_what_other_cells_hold():
    whole, part = (CellDraws.of(rows, ["all"], np.random.default_rng(0), 20)
                   for rows in (TEST, TEST[TEST["cell"] != CELLS[0]]))
    assert np.isnan(part.over(["all"], CELLS[:1]).draws).all()
    for cell in CELLS[1:]:
        np.testing.assert_array_equal(part.over(["all"], [cell]).draws,
                                      whole.over(["all"], [cell]).draws)


def test_fourteen_arms_take_seconds():
    judged = judged_of({f"arm {i}": 1.0 for i in range(14)}, pairs=251)
    seen = dict.fromkeys(judged["name"].unique(), ALL)
    start = time.process_time()
    Transfer(judged, seen, 2000).means(np.random.default_rng(0))
    assert time.process_time() - start < 8  # half a second alone on a slow core


# What our intervals say about the published changes


@pytest.mark.parametrize(("low", "high", "n", "outcome"), [
    (0.01, 0.30, 40, "reproduces"), (-0.30, -0.01, 40, "does not reproduce"),
    (-0.10, 0.02, 40, "does not reproduce"), (-0.10, 0.20, 40, "open"), (0.0, 0.0, 40, "open"),
    (0.01, 0.30, 39, "too few samples"), (np.nan, np.nan, 40, "not tested"),
])
def test_an_interval_decides_whether_a_published_change_is_found(low, high, n, outcome):
    ours = pd.DataFrame([{"arm": "all", "group": "unseen SG", "metric": "balanced_accuracy",
                          "cells": "sg_code, sg_qa", "n": n,
                          "difference": (low + high) / 2, "low": low, "high": high}])
    found = reproduction(ours, published_transfer()).set_index(["arm", "group"])
    row = found.loc[("all", "unseen SG")]
    # By hand from figure 8: all .70/.07 and .35/.02, base .49/.35 and .33/.11.
    assert row["published"] == pytest.approx((0.615 + 0.815) / 2 - (0.58 + 0.78) / 2)
    assert row["outcome"] == outcome
    assert (found.drop(index=("all", "unseen SG"))["outcome"] == "not tested").all()
    seen = found.loc[("spv_qa", "seen"), "published"]
    assert seen == pytest.approx((1 - (0.13 + 0.16) / 2) - (1 - (0.17 + 0.51) / 2))


def test_tiers_are_those_parts_of_the_samples_and_a_missing_cell_leaves_its_group_out():
    tiers = np.where(JUDGED["pair_id"].str[-1].isin(["0", "1", "2", "3"]), "open", "hidden")
    judged = JUDGED.assign(tier=tiers)
    judged = judged[(judged["tier"] == "open") | (judged["cell"] != "sg_qa")]
    arms = {name: SOME[name] for name in ("base", "all")}
    found = Transfer(judged, arms, 50).by_tier(np.random.default_rng(0))
    assert set(found["metric"]) == {"auroc"}
    assert set(zip(found["tier"], found["group"], strict=True)) == {
        ("open", "seen"), ("open", "unseen SG"), ("hidden", "seen")}
    part = judged[(judged["tier"] == "hidden") & (judged["split"] == "test")]
    areas = {name: np.mean([roc_auc_score(rows["label"], rows["score"])
                            for cell, rows in part[part["name"] == name].groupby("cell")
                            if cell in ALL]) for name in arms}
    row = found[found["tier"] == "hidden"].iloc[0]
    assert row["difference"] == pytest.approx(areas["all"] - areas["base"])


def test_words_alone_learn_from_the_components_of_an_arm_and_judge_its_cells():
    told = pd.DataFrame({"response": ["plain word"] * 6 + ["sly word"] * 6,
                         "label": [0] * 6 + [1] * 6})
    corpus = pd.concat([told.assign(component="spv_qa"),
                        told.assign(component="syco_qa", label=1 - told["label"])])
    asked = pd.concat([told.assign(cell="spv_qa"), told.assign(cell="sg_qa", label=0)])
    assert EVERY_ARM["spv_qa"].words_alone(corpus, asked) == 1.0
    asked["label"] = 1 - asked["label"]
    assert EVERY_ARM["spv_qa pairs"].words_alone(corpus, asked) == 0.0
