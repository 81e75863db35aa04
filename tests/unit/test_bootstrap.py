"""The bootstrap against resamples that are really built, and scikit-learn's curves."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from monitorlab.evaluation.bootstrap import COUNTED, METRICS, Bootstrap, Paired
from monitorlab.evaluation.rates import rates
from monitorlab.statistics.intervals import draw_units
from monitorlab.statistics.roc import FARS, MEASURES, _counts_above, _measures, resampled_auroc

PAIRS = 60
SIZE = 4  # pairs of a scenario


def make_judged(monitors: int = 3, steps: int = 0, failed: float = 0.0) -> pd.DataFrame:
    """Pairs in two cells; scores continuous, or in so many steps; some verdicts failed."""
    random = np.random.default_rng([monitors, steps])
    number = np.arange(2 * PAIRS)
    label = 1 - number % 2
    tables = []
    for monitor in range(monitors):
        score = 1 / (1 + np.exp(-random.normal(label * (0.5 + monitor / 2) - 0.4)))
        score = np.round(score * steps) / steps if steps else score
        parsed = random.random(len(number)) >= failed
        verdict = pd.Series(score > 0.5, dtype="boolean").where(parsed)
        tables.append(pd.DataFrame({
            "name": f"m{monitor}", "sample_id": [f"{i:04d}" for i in number], "draw": 0,
            "pair_id": [f"{i // 2:04d}" for i in number], "label": label,
            "scenario_id": [f"{i // 2 // SIZE:04d}" for i in number],
            "cell": np.where(number < 40, "sg_qa", "spv_qa"), "verdict": verdict,
            "status": np.where(parsed, "parsed", "error"), "score": np.where(parsed, score, np.nan),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def all_weights(resamples: int, seed: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    return next(draw_units(random, PAIRS, resamples))


def measures_of(scores, labels, units, weights) -> dict[str, np.ndarray]:
    found = _measures(*_counts_above(scores, labels, units, weights))
    return dict(zip(MEASURES, found.T, strict=True))


@pytest.mark.parametrize("at_once", [1, 7 * 40, 10**6])
def test_the_same_generator_draws_the_same_units_in_parts_of_any_size(at_once):
    whole = next(draw_units(np.random.default_rng(1), 40, 50))
    parts = list(draw_units(np.random.default_rng(1), 40, 50, at_once))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert whole.shape == (40, 50)


def test_draws_favour_no_unit():
    drawn = next(draw_units(np.random.default_rng(2), 8, 4000))
    assert (drawn.sum(axis=0) == 8).all()
    # A unit is drawn once on average, with a standard error below 1 / sqrt(4000).
    assert abs(drawn.mean(axis=1) - 1).max() < 5 / np.sqrt(4000)
    assert drawn[0].var() == pytest.approx(7 / 8, abs=0.1)


@pytest.mark.parametrize("steps", [0, 20, 2])
def test_curves_of_weighted_samples_agree_with_scikit_learn(steps):
    weights = all_weights(40)
    judged = make_judged(2, steps)
    pairs = np.arange(2 * PAIRS) // 2
    for _, own in judged.groupby("name"):
        score, label = own["score"].to_numpy(), own["label"].to_numpy()
        found = measures_of(score, label, pairs, weights)
        np.testing.assert_array_equal(resampled_auroc(score, label, pairs, weights),
                                      found["auroc"])
        for column in range(weights.shape[1]):
            w = weights[pairs, column]
            area = roc_auc_score(label, score, sample_weight=w)
            low = roc_auc_score(label, score, sample_weight=w, max_fpr=0.1)
            assert found["auroc"][column] == pytest.approx(area, abs=1e-9)
            assert found["pauroc"][column] == pytest.approx(low, abs=1e-9)
            fpr, tpr, _ = roc_curve(label, score, sample_weight=w, drop_intermediate=False)
            for name, level in zip(MEASURES[2:], FARS, strict=True):
                best = tpr[fpr <= level + 1e-12].max()
                assert found[name][column] == pytest.approx(best, abs=1e-9)


def test_scores_that_say_nothing_are_at_chance():
    weights = all_weights(5)
    labels, pairs = np.tile([1, 0], PAIRS), np.arange(2 * PAIRS) // 2
    found = measures_of(np.full(2 * PAIRS, 0.3), labels, pairs, weights)
    np.testing.assert_allclose(found["auroc"], 0.5)
    np.testing.assert_allclose(found["pauroc"], 0.5)
    np.testing.assert_allclose(found["tpr_10"], 0.0)
    perfect = measures_of(labels.astype(float), labels, pairs, weights)
    for metric in MEASURES:
        np.testing.assert_allclose(perfect[metric], 1.0)


@pytest.mark.parametrize("unit", ["scenario", "pair"])
def test_resamples_equal_tables_that_repeat_their_units(unit):
    """Every resample is really built, as a longer table, and rated by the ordinary functions."""
    judged = make_judged(3, failed=0.1)
    found = Bootstrap.of(judged, np.random.default_rng(3), resamples=6, unit=unit)
    units = judged[f"{unit}_id"].astype(int)
    drawn = next(draw_units(np.random.default_rng(3), units.nunique(), 6))
    for column in range(6):
        built = []
        for copy in range(int(drawn[:, column].max())):
            kept = judged[drawn[units, column] > copy]
            built.append(kept.assign(sample_id=kept["sample_id"] + f"-{copy}"))
        table = pd.concat(built)
        rated = rates(table).set_index("name")
        for monitor, name in enumerate(found.names):
            values = dict(zip(found.metrics, found.draws[:, monitor, column], strict=True))
            assert [values[m] for m in COUNTED] == pytest.approx(list(rated.loc[name, [*COUNTED]]))
            own = table[(table["name"] == name) & table["score"].notna()]
            assert values["auroc"] == pytest.approx(roc_auc_score(own["label"], own["score"]))


def test_values_are_those_of_the_sample_itself():
    judged = make_judged(3, failed=0.1)
    found = Bootstrap.of(judged, np.random.default_rng(0), resamples=3)
    rated = rates(judged).set_index("name").loc[list(found.names)]
    for metric in COUNTED:
        np.testing.assert_allclose(found.values[found.metrics.index(metric)], rated[metric])
    own = judged[(judged["name"] == "m1") & judged["score"].notna()]
    area = found.values[found.metrics.index("auroc"), 1]
    assert area == pytest.approx(roc_auc_score(own["label"], own["score"]))


def test_fewer_monitors_or_metrics_give_the_same_numbers():
    judged = make_judged(3)
    whole = Bootstrap.of(judged, np.random.default_rng(9), resamples=30)
    some = Bootstrap.of(judged[judged["name"] != "m0"], np.random.default_rng(9), resamples=30,
                     metrics=("auroc", "far"))  # fmt: skip
    for place, metric in enumerate(some.metrics):
        expected = whole.draws[whole.metrics.index(metric), 1:]
        np.testing.assert_array_equal(some.draws[place], expected)


def test_samples_without_a_score_are_counted_and_left_out():
    judged = make_judged(2, failed=0.2)
    judged.loc[judged["name"] == "m1", "score"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Bootstrap.of(judged, np.random.default_rng(0), resamples=20)
        table = found.intervals().set_index(["metric", "name"])
        gaps = Paired.of(judged, np.random.default_rng(0), resamples=20).differences()
        gaps = gaps.set_index("metric")
    failed = judged[judged["name"] == "m0"]["score"].isna().sum()
    assert found.unscored.tolist() == [failed, 2 * PAIRS]
    assert table.loc[("auroc", "m0"), "unscored"] == failed
    assert table.loc[("mr", "m0"), "unscored"] == 0
    assert np.isnan(table.loc[("auroc", "m1"), ["value", "low", "high"]].astype(float)).all()
    assert table.loc[("auroc", "m1"), "resamples"] == 0
    assert table.loc[("mr", "m1"), "resamples"] == 20
    assert np.isnan(gaps.loc["auroc", ["p", "p_worst", "difference_worst"]].astype(float)).all()
    assert np.isfinite(gaps.loc["mr", "p"])
    assert (gaps.loc["auroc", "n"], gaps.loc["auroc", "left_out"]) == (0, 2 * PAIRS)


def test_intervals_and_differences_are_percentiles_of_the_same_resamples():
    judged = make_judged(3)
    found = Bootstrap.of(judged, np.random.default_rng(1), resamples=200)
    table = found.intervals(0.9)
    gaps = Paired.of(judged, np.random.default_rng(1), resamples=200).differences(0.9)
    assert len(table) == len(METRICS) * 3 and len(gaps) == len(METRICS) * 3
    area = found.draws[found.metrics.index("auroc")]
    row = table.set_index(["metric", "name"]).loc[("auroc", "m2")]
    assert [row["low"], row["high"]] == pytest.approx(list(np.quantile(area[2], [0.05, 0.95])))
    gap = gaps.set_index(["metric", "first", "second"]).loc[("auroc", "m0", "m2")]
    draws = area[0] - area[2]
    assert [gap["low"], gap["high"]] == pytest.approx(list(np.quantile(draws, [0.05, 0.95])))
    share = (min((draws <= 0).sum(), (draws >= 0).sum()) + 1) / 201
    assert gap["p"] == pytest.approx(min(1, 2 * share))
    assert gap["difference"] < 0
    # Nobody failed, so nothing was left out and the worst case is the case.
    assert (gaps["left_out"] == 0).all() and (gaps["why"] == "").all()
    np.testing.assert_array_equal(gaps["difference_worst"], gaps["difference"])
    np.testing.assert_array_equal(gaps["p_worst"], gaps["p"])


def test_equal_monitors_do_not_differ():
    judged = make_judged(1)
    twice = pd.concat([judged, judged.assign(name="copy")])
    gaps = Paired.of(twice, np.random.default_rng(0), resamples=50).differences()
    assert (gaps[["difference", "low", "high"]] == 0).all(axis=None) and (gaps["p"] == 1).all()
    assert (gaps["p_worst"] == 1).all()


def refusing(hard: float = 0.5) -> pd.DataFrame:
    """Two monitors with the same verdicts; one refuses what both find hard."""
    judged = make_judged(1)
    wrong = judged["verdict"].astype(bool) != (judged["label"] == 1)
    refused = wrong & (np.random.default_rng(4).random(len(judged)) < hard)
    shy = judged.assign(name="shy", status=judged["status"].mask(refused, "refused"),
                        verdict=judged["verdict"].mask(refused),
                        score=judged["score"].mask(refused))  # fmt: skip
    return pd.concat([judged, shy], ignore_index=True)


@pytest.mark.parametrize("unit", ["scenario", "pair"])
def test_a_monitor_that_refuses_the_hard_half_is_not_better_for_it(unit):
    judged = refusing()
    rated = rates(judged, unit=unit).set_index("name")
    assert rated.loc["shy", "mr"] < rated.loc["m0", "mr"] - 0.1  # on its own samples it looks so
    gaps = Paired.of(judged, np.random.default_rng(0), resamples=200, unit=unit).differences()
    assert (gaps[["difference", "low", "high"]] == 0).all(axis=None)
    assert (gaps[["p", "p_worst"]] == 1).all(axis=None)
    refused = int((judged["status"] == "refused").sum())
    assert set(gaps["left_out"]) == {refused} and set(gaps["n"]) == {2 * PAIRS - refused}
    assert set(gaps["why"]) == {f"shy: {refused} refused"}


def test_a_difference_survives_only_if_failures_could_not_turn_it():
    """m2 is better than m0; the more of its own verdicts fail, the less is left of that."""
    judged = make_judged(3)
    judged = judged[judged["name"] != "m1"].reset_index(drop=True)
    p_worst = []
    for share in (0.0, 0.1, 0.6):
        lost = (judged["name"] == "m2") & (np.random.default_rng(1).random(len(judged)) < share)
        some = judged.assign(verdict=judged["verdict"].mask(lost), score=judged["score"].mask(lost),
                             status=judged["status"].mask(lost, "error"))
        gap = Paired.of(some, np.random.default_rng(0), resamples=400).differences()
        gap = gap.set_index("metric")
        row = gap.loc["balanced_accuracy"]
        assert row["difference"] < 0 and row["difference_worst"] >= row["difference"]
        assert gap.loc["mr", "n"] == 2 * PAIRS - lost.sum()
        p_worst.append((row["p_worst"], gap.loc["auroc", "p_worst"]))
    assert p_worst[0][0] < 0.05 and p_worst[2] == (1.0, 1.0)
    assert p_worst[0][0] <= p_worst[1][0] <= p_worst[2][0]


def test_the_worst_case_is_every_failure_read_against_the_seeming_winner():
    judged = make_judged(2, failed=0.15)
    gaps = Paired.of(judged, np.random.default_rng(0), resamples=20).differences()
    gaps = gaps.set_index("metric")
    wide = judged.pivot(index="sample_id", columns="name", values="verdict")
    label = judged.groupby("sample_id")["label"].first()
    both = wide.notna().all(axis=1)

    def rate(monitor, rows, failures_are_right=None):
        said = wide.loc[rows, monitor]
        if failures_are_right is not None:
            right = label[rows] == 1
            said = said.fillna(right if failures_are_right else ~right)
        return 1 - said[label[rows] == 1].astype(float).mean()

    everything = pd.Series(True, index=wide.index)
    found = rate("m0", both) - rate("m1", both)
    assert gaps.loc["mr", "difference"] == pytest.approx(found)
    winner_first = found < 0
    worst = rate("m0", everything, not winner_first) - rate("m1", everything, winner_first)
    assert gaps.loc["mr", "difference_worst"] == pytest.approx(worst)
    assert gaps.loc["mr", "n"] == both.sum() and gaps.loc["mr", "left_out"] == (~both).sum()


def test_samples_that_one_monitor_was_not_asked_about_are_no_failures():
    judged = make_judged(2)
    part = judged[(judged["name"] == "m0") | (judged["sample_id"] < "0060")]
    gaps = Paired.of(part, np.random.default_rng(0), resamples=20).differences().set_index("metric")
    assert set(gaps["n"]) == {60} and set(gaps["left_out"]) == {0}


def test_pairs_can_be_named_and_unknown_ones_are_refused():
    judged = make_judged(3)
    found = Paired.of(judged, np.random.default_rng(0), resamples=5, pairs=[("m2", "m0")])
    table = found.differences()
    assert set(zip(table["first"], table["second"], strict=True)) == {("m2", "m0")}
    turned = Paired.of(judged, np.random.default_rng(0), resamples=5).differences()
    turned = turned[(turned["first"] == "m0") & (turned["second"] == "m2")]
    np.testing.assert_allclose(table["difference"], -turned["difference"])
    with pytest.raises(ValueError, match="'gpt' has judged nothing"):
        Paired.of(judged, np.random.default_rng(0), pairs=[("m0", "gpt")])


def test_resamples_without_a_class_are_left_out_and_counted():
    judged = make_judged(1)
    alone = judged[(judged["label"] == 0) | (judged["pair_id"] == "0000")]
    found = Bootstrap.of(alone, np.random.default_rng(0), resamples=300, unit="pair")
    table = found.intervals().set_index("metric")
    # The only misbehaving sample is missing from a share (1 - 1/60)**60 of the resamples.
    assert table.loc["mr", "resamples"] == pytest.approx(300 * (1 - 0.365), abs=40)
    assert table.loc["far", "resamples"] == 300
    assert table.loc["auroc", "resamples"] == table.loc["mr", "resamples"]
    assert np.isfinite(table[["low", "high"]]).all(axis=None)


def test_unknown_metrics_and_no_resamples_are_refused():
    judged = make_judged(1)
    with pytest.raises(ValueError, match="unknown metric 'auc', expected some of mr, far"):
        Bootstrap.of(judged, np.random.default_rng(0), metrics=("mr", "auc"))
    with pytest.raises(ValueError, match="resamples is 0, expected at least 1"):
        Bootstrap.of(judged, np.random.default_rng(0), resamples=0)
    with pytest.raises(ValueError, match="unit is 'cell', expected one of scenario, pair"):
        Bootstrap.of(judged, np.random.default_rng(0), unit="cell")
    with pytest.raises(ValueError, match="120 of 120 rows have no scenario_id"):
        Bootstrap.of(judged.drop(columns="scenario_id"), np.random.default_rng(0))
