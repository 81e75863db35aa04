"""The matrix, verdicts at calibrated thresholds, and threshold told from discrimination."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import confusion_matrix, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from monitorlab.chapters.finetuning.published import PAIRS, SEEN, published
from monitorlab.chapters.finetuning.transfer import at_threshold, matrix
from monitorlab.evaluation.operating_points import default_rates
from monitorlab.evaluation.rates import rates
from monitorlab.evaluation.tradeoff import (
    CHANGES,
    _split_change,
    decompose,
    detection,
    discrimination_or_threshold,
    shift_of_rates,
)
from monitorlab.storage.tables import CELLS


def arm_rows(name: str, d_prime: float, criterion: float = 0.0, *, pairs: int = 90,
             seed: int = 0, failed: float = 0.0, noise: float = 0.0) -> pd.DataFrame:
    """Normal scores of known d' and criterion; the same noise in every arm but for `noise`."""
    rng = np.random.default_rng(seed)
    n = 2 * pairs * len(CELLS)
    number, labels = np.arange(n) // 2, np.tile([1, 0], n // 2)
    x = d_prime * (labels - 0.5) + np.random.default_rng(11).normal(size=n)
    x = x + noise * rng.normal(size=n)
    parsed = rng.random(n) >= failed
    cells = np.repeat(CELLS, 2 * pairs)
    return pd.DataFrame({
        "name": name, "draw": 0, "label": labels, "sample_id": [f"s{i:05}" for i in range(n)],
        "pair_id": [f"p{i:05}" for i in number], "scenario_id": [f"c{i // 6}" for i in number],
        "cell": cells, "category": [cell.split("_")[0] for cell in cells],
        "task": [cell.split("_")[1] for cell in cells],
        "split": np.where(number % 3 == 0, "dev", "test"),
        "status": np.where(parsed, "parsed", "unparsed"),
        "score": np.where(parsed, norm.cdf(x), np.nan),
        "verdict": pd.Series(x > criterion, dtype="boolean").where(parsed),
    })  # fmt: skip


JUDGED = pd.concat([arm_rows("base", 0.8), arm_rows("all", 2.0, 0.4, noise=0.5, seed=1),
                    arm_rows("spv_qa", 1.0, failed=0.15, noise=0.5, seed=2)], ignore_index=True)
ARMS = ["all", "base", "spv_qa"]
MATRIX = matrix(JUDGED, ARMS, resamples=200)
BY_PAIR = matrix(JUDGED, ARMS, resamples=200, unit="pair")
TEST = JUDGED[JUDGED["split"] == "test"]


def test_rates_areas_and_counts_by_scikit_learn_and_statsmodels():
    assert list(MATRIX["arm"]) == [arm for arm in ARMS for _ in CELLS]
    assert list(MATRIX["cell"]) == list(CELLS) * 3
    for row, by_pair in zip(MATRIX.to_dict("records"), BY_PAIR.to_dict("records"), strict=True):
        part = TEST[(TEST["name"] == row["arm"]) & (TEST["cell"] == row["cell"])]
        said = part[part["status"] == "parsed"]
        tn, fp, fn, tp = confusion_matrix(said["label"], said["verdict"].astype(bool)).ravel()
        assert (row["mr"], row["far"]) == pytest.approx((fn / (tp + fn), fp / (tn + fp)))
        assert (by_pair["mr_low"], by_pair["mr_high"]) == pytest.approx(
            proportion_confint(fn, tp + fn, method="wilson"))
        assert (by_pair["far_low"], by_pair["far_high"]) == pytest.approx(
            proportion_confint(fp, tn + fp, method="wilson"))
        assert row["mr_low"] <= by_pair["mr_low"] and row["far_high"] >= by_pair["far_high"]
        assert row["balanced_accuracy"] == pytest.approx(1 - (row["mr"] + row["far"]) / 2)
        assert row["g2"] == pytest.approx((1 - row["mr"]) * (1 - row["far"]))
        assert row["alarm_share"] == pytest.approx((tp + fp) / len(said))
        assert row["auroc"] == pytest.approx(roc_auc_score(said["label"], said["score"]))
        assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
        assert row["auroc_high"] - row["auroc_low"] == pytest.approx(3.92 * row["auroc_se"],
                                                                     rel=0.25)
        assert (row["n"], row["failed"], row["unscored"]) == (
            len(part), len(part) - len(said), len(part) - len(said))
        assert row["seen"] == (row["cell"] in SEEN[row["arm"]])
    assert (MATRIX.loc[MATRIX["arm"] == "spv_qa", "failed"] > 0).all()


def test_the_matrix_does_not_look_at_dev_or_at_the_order_of_rows():
    spoilt = JUDGED.copy()
    dev = spoilt["split"] == "dev"
    spoilt.loc[dev, "score"] = 0.0
    pd.testing.assert_frame_equal(matrix(spoilt.sample(frac=1, random_state=0), ARMS,
                                         resamples=200), MATRIX)


def test_a_missing_cell_is_an_empty_row():
    partial = JUDGED[(JUDGED["name"] != "all") | (JUDGED["cell"] != "sg_qa")]
    found = matrix(partial, ARMS, resamples=20).set_index(["arm", "cell"])
    assert found.loc[("all", "sg_qa"), ["n", "failed", "unscored"]].tolist() == [0, 0, 0]
    assert found.loc[("all", "sg_qa"), ["mr", "far_low", "auroc", "alarm_share"]].isna().all()
    kept = found.drop(("all", "sg_qa"))
    assert kept[["mr", "far", "auroc"]].notna().all(axis=None)


def test_an_arm_with_only_failed_verdicts_or_constant_scores():
    none = arm_rows("all", 1.0).assign(status="error", score=np.nan,
                                       verdict=pd.array([pd.NA] * 1080, "boolean"))
    flat = arm_rows("base", 1.0).assign(score=0.5)
    found = matrix(pd.concat([none, flat], ignore_index=True), ["all", "base"], resamples=20)
    found = found.set_index("arm")
    assert (found.loc["all", "failed"] == found.loc["all", "n"]).all()
    assert found.loc["all", ["mr", "far", "alarm_share", "auroc"]].isna().all(axis=None)
    assert (found.loc["base", ["auroc", "auroc_low", "auroc_high"]] == 0.5).all(axis=None)


@pytest.mark.parametrize(("arms", "words"), [
    (["all", "contrastive"], "what arm 'contrastive' has seen is not known"),
    (["syco_qa"], "no arms were named"), ([], "no arms")])
def test_arms_that_cannot_be_are_named(arms, words):
    with pytest.raises(ValueError, match=words):
        matrix(JUDGED, arms, resamples=5)


def test_an_arm_that_was_not_trained_keeps_its_rows_and_changes_no_other():
    found = matrix(JUDGED, ["base", "syco_qa", "all"], resamples=20).set_index("arm")
    assert found.loc["syco_qa", "n"].tolist() == [0] * len(CELLS)
    assert found.loc["syco_qa", ["mr", "far", "auroc", "auroc_low"]].isna().all(axis=None)
    known = matrix(JUDGED, ["base", "all"], resamples=20).set_index("arm")
    pd.testing.assert_frame_equal(found.loc[["base", "all"]], known)


def test_thresholds_of_a_task_keep_the_mean_loss_of_its_dev_scenarios():
    found = at_threshold(JUDGED, 0.2)
    assert (found["status"] == "parsed").all()
    for (arm, task), own in found.groupby(["name", "task"]):
        mine = JUDGED[(JUDGED["name"] == arm) & (JUDGED["task"] == task)]
        dev = mine[(mine["split"] == "dev") & (mine["label"] == 0)]
        score, n = dev["score"].fillna(2.0), dev["scenario_id"].nunique()
        (threshold,), (state,) = own["threshold"].unique(), own["state"].unique()

        def bound(value, score=score, dev=dev, n=n):
            loss = (score > value).groupby(dev["scenario_id"]).mean().mean()
            return (n * loss + 1) / (n + 1)

        assert bound(threshold) <= 0.2 + 1e-12  # and no lower threshold would do
        assert bound(np.nextafter(threshold, -1)) > 0.2
        if state == "calibrated":  # a failed verdict is the highest
            alarms = mine["score"].fillna(2.0) > threshold
            assert (own["verdict"].astype(bool) == alarms).all()
        else:
            assert state == "too_many_failures" and arm == "spv_qa"
            assert not own["verdict"].any()
    assert "calibrated" in set(found["state"])


def test_rates_at_thresholds_leave_areas_alone():
    found = matrix(at_threshold(JUDGED, 0.2), ARMS, resamples=200)
    areas = ["auroc", "auroc_low", "auroc_high", "unscored"]
    pd.testing.assert_frame_equal(found[areas], MATRIX[areas])
    assert (found["failed"] == 0).all()
    own = found[found["arm"] != "spv_qa"]
    assert own["far"].mean() == pytest.approx(0.2, abs=0.06)


def test_too_few_dev_samples_never_alarm_and_say_so():
    found = at_threshold(JUDGED, 0.001)
    assert set(found["state"]) == {"never_alarm"} and np.isinf(found["threshold"]).all()
    assert not found["verdict"].any()
    by_cell = rates(found[found["split"] == "test"], by=("name", "cell"))
    assert (by_cell["mr"] == 1).all() and (by_cell["far"] == 0).all()


def test_rows_keep_their_order_and_a_repeated_index():
    twice = pd.concat([arm_rows("base", 1.0), arm_rows("all", 2.0)])  # index occurs twice
    found = at_threshold(twice, 0.1)
    assert found["sample_id"].tolist() == twice["sample_id"].tolist()
    plain = at_threshold(twice.reset_index(drop=True), 0.1)
    assert (found["verdict"].to_numpy() == plain["verdict"].to_numpy()).all()


def test_detection_is_that_of_the_decomposition():
    part = TEST[TEST["cell"] == "sg_qa"]
    expected = decompose(part).monitors
    counts = default_rates(part)
    d_prime, criterion = detection(counts["mr"], counts["far"], counts["n_bad"],
                                   counts["n_benign"])
    assert d_prime == pytest.approx(expected["d_prime"].to_numpy())
    assert criterion == pytest.approx(expected["criterion"].to_numpy())


def test_detection_recovers_a_known_model():
    d, c = detection(norm.cdf(0.4 - 0.75), norm.cdf(-0.4 - 0.75), 10**9, 10**9)
    assert (float(d), float(c)) == pytest.approx((1.5, 0.4), abs=1e-6)
    assert np.isfinite(detection([0, 1], [1, 0], 50, 50)).all()


def test_parts_add_up_and_vanish_where_nothing_of_their_kind_changed():
    rng = np.random.default_rng(0)
    before, after = rng.normal(1, 1, (2, 50)), rng.normal(1, 1, (2, 50))
    found = _split_change(tuple(before), tuple(after))
    assert set(found) == set(CHANGES)
    for rate in ("mr", "far"):
        assert found[f"{rate}_by_discrimination"] + found[f"{rate}_by_criterion"] == pytest.approx(
            found[f"{rate}_change"])
    back = _split_change(tuple(after), tuple(before))
    for name in set(CHANGES) - {"criterion_share"}:  # the order of the arms turns every sign
        assert back[name] == pytest.approx(-found[name])
    assert back["criterion_share"] == pytest.approx(found["criterion_share"])
    only_c = _split_change((before[0], before[1]), (before[0], after[1]))
    assert np.abs(only_c["mr_by_discrimination"]).max() < 1e-12
    assert only_c["criterion_share"] == pytest.approx(np.ones(50))
    only_d = _split_change((before[0], before[1]), (after[0], before[1]))
    assert np.abs(only_d["far_by_criterion"]).max() < 1e-12
    assert only_d["criterion_share"] == pytest.approx(np.zeros(50))
    still = _split_change(tuple(before), tuple(before))
    assert np.isnan(still["criterion_share"]).all() and (still["mr_change"] == 0).all()


KNOWN = pd.concat([
    arm_rows("base", 1.0, pairs=300), arm_rows("strict", 1.0, 0.8, pairs=300),
    arm_rows("skilled", 2.0, pairs=300), arm_rows("lax and worse", 0.2, -0.7, pairs=300),
    arm_rows("same", 1.0, pairs=300),
], ignore_index=True)
SHIFT = discrimination_or_threshold(KNOWN, resamples=200, cells=["sg_code", "sg_qa"])


def test_a_moved_threshold_is_told_from_discrimination():
    found = SHIFT.groupby("arm", sort=False)
    assert list(found.groups) == ["strict", "skilled", "lax and worse", "same"]
    assert found["discrimination"].unique().map(list).to_dict() == {
        "strict": ["unclear"], "skilled": ["better"], "lax and worse": ["worse"],
        "same": ["unclear"]}
    assert found["criterion_moved"].unique().map(list).to_dict() == {
        "strict": ["fewer alarms"], "skilled": ["unclear"], "lax and worse": ["more alarms"],
        "same": ["unclear"]}
    assert set(SHIFT["measured_by"]) == {"auroc"}
    share = found["criterion_share"].mean()
    assert share["strict"] > 0.9 and share["skilled"] < 0.1 and np.isnan(share["same"])
    # The strict arm has the base's scores: AUROC is the same to the last digit.
    strict = SHIFT[SHIFT["arm"] == "strict"]
    assert (strict[["auroc_change", "auroc_change_low", "auroc_change_high"]] == 0).all(axis=None)
    means = found[["d_prime_change", "criterion_change"]].mean()
    assert means.loc["strict"].tolist() == pytest.approx([0, 0.8], abs=0.15)
    assert means.loc["skilled"].tolist() == pytest.approx([1, 0], abs=0.15)
    assert means.loc["lax and worse"].tolist() == pytest.approx([-0.8, -0.7], abs=0.15)


def test_an_arm_that_refuses_what_it_finds_hard_discriminates_no_better():
    rows = KNOWN[KNOWN["name"].isin(["base", "same"])].copy()
    wrong = rows["verdict"].astype(bool) != (rows["label"] == 1)
    hard = (rows["name"] == "same") & wrong
    rows.loc[hard, ["status", "score", "verdict"]] = ["refused", np.nan, pd.NA]
    found = discrimination_or_threshold(rows, resamples=100, cells=["sg_code", "sg_qa"])
    assert (found[["auroc_change", "auroc_change_low", "auroc_change_high"]] == 0).all(axis=None)
    assert set(found["discrimination"]) == {"unclear"}


def test_intervals_cover_and_have_the_width_of_a_brute_force_bootstrap():
    by_pair = discrimination_or_threshold(KNOWN, resamples=200, cells=["sg_qa"], unit="pair")
    row = by_pair.set_index("arm").loc["skilled"]
    test = KNOWN[(KNOWN["split"] == "test") & (KNOWN["cell"] == "sg_qa")]
    alarms = {name: part.sort_values(["pair_id", "label"])["verdict"].to_numpy(float).reshape(-1, 2)
              for name, part in test.groupby("name")}
    rng, n, values = np.random.default_rng(1), 200, []
    for _ in range(400):
        places = rng.integers(0, n, n)
        point = [detection(1 - a[places, 1].mean(), a[places, 0].mean(), n, n)
                 for a in (alarms["base"], alarms["skilled"])]
        values.append([point[1][i] - point[0][i] for i in (0, 1)])
    for i, name in enumerate(("d_prime_change", "criterion_change")):
        width = np.subtract(*np.percentile(values, [97.5, 2.5], axis=0)[:, i])
        assert row[f"{name}_high"] - row[f"{name}_low"] == pytest.approx(width, rel=0.25)
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_without_scores_d_prime_decides():
    found = discrimination_or_threshold(KNOWN.assign(score=np.nan), arms=["skilled", "strict"],
                                        resamples=100, cells=["sg_qa"])
    assert set(found["measured_by"]) == {"d_prime"} and found["auroc_change"].isna().all()
    assert found["discrimination"].tolist() == ["better", "unclear"]


def test_failed_verdicts_are_alarms_as_in_the_decomposition():
    found = discrimination_or_threshold(JUDGED, arms=["spv_qa"], resamples=20).set_index("cell")
    counts = default_rates(TEST[TEST["cell"] == "sg_qa"]).set_index("name")
    assert found.loc["sg_qa", ["mr", "far"]].tolist() == pytest.approx(
        counts.loc["spv_qa", ["mr", "far"]].tolist())
    assert found.loc["sg_qa", "far_before"] == counts.loc["base", "far"]


def test_cells_that_an_arm_lacks_have_no_row():
    partial = KNOWN[(KNOWN["name"] != "strict") | (KNOWN["cell"] != "sg_qa")]
    found = discrimination_or_threshold(partial, arms=["strict", "same"], resamples=5,
                                        cells=["sg_code", "sg_qa"])
    assert found[["arm", "cell"]].to_numpy().tolist() == [
        ["strict", "sg_code"], ["same", "sg_code"], ["same", "sg_qa"]]
    with pytest.raises(ValueError, match="have no cell in common among syco_qa"):
        discrimination_or_threshold(KNOWN[(KNOWN["name"] != "base") | (KNOWN["cell"] == "sg_qa")],
                                    arms=["same"], resamples=5, cells=["syco_qa"])


def test_the_published_arm_trained_on_all_moved_its_criterion_on_sg():
    found = shift_of_rates(published(), PAIRS).set_index(["arm", "cell"])
    for cell in ("sg_code", "sg_qa"):
        row = found.loc[("all", cell)]
        assert row["criterion_share"] > 0.5 and row["criterion_change"] > 0  # fewer alarms
        assert abs(row["mr_by_criterion"]) > abs(row["mr_by_discrimination"])
    row = found.loc[("all", "sg_code")]
    hit, false = norm.ppf(1 - 0.70), norm.ppf(0.07)
    hit0, false0 = norm.ppf(1 - 0.49), norm.ppf(0.35)
    assert row["criterion_change"] == pytest.approx((hit0 + false0 - hit - false) / 2, abs=0.03)
    assert row["d_prime_change"] == pytest.approx(hit - false - hit0 + false0, abs=0.03)
    # On the code it was trained on, it learned.
    assert found.loc[("all", "spv_code"), "criterion_share"] < 0.2


def test_rates_without_the_reference_are_refused():
    with pytest.raises(ValueError, match="no rates of 'base'"):
        shift_of_rates(published().query("arm != 'base'"), PAIRS)
