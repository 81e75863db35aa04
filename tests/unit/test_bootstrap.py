"""The pair bootstrap against resamples that are really built, and scikit-learn's curves."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from monitorlab.evaluation.bootstrap import (
    COUNTED,
    METRICS,
    RANKED,
    bootstrap,
    differences,
    draw_pairs,
    intervals,
)
from monitorlab.evaluation.rates import rates
from monitorlab.evaluation.weighted_roc import TPR_AT, roc_metrics

PAIRS = 60


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
            "cell": np.where(number < 40, "sg_qa", "spv_qa"), "verdict": verdict,
            "status": np.where(parsed, "parsed", "error"), "score": np.where(parsed, score, np.nan),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def all_weights(resamples: int, seed: int = 5) -> np.ndarray:
    random = np.random.default_rng(seed)
    return next(draw_pairs(random, np.zeros(PAIRS, int), resamples))


@pytest.mark.parametrize("at_once", [1, 7 * 40, 10**6])
def test_the_same_generator_draws_the_same_pairs_in_parts_of_any_size(at_once):
    strata = np.arange(40) % 3
    whole = next(draw_pairs(np.random.default_rng(1), strata, 50))
    parts = list(draw_pairs(np.random.default_rng(1), strata, 50, at_once))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert whole.shape == (40, 50)


def test_draws_fill_every_stratum_and_favour_no_pair():
    strata = np.array([0, 1, 1, 0, 2, 1, 0, 0])
    drawn = next(draw_pairs(np.random.default_rng(2), strata, 4000))
    for stratum in range(3):
        assert (drawn[strata == stratum].sum(axis=0) == (strata == stratum).sum()).all()
    # A pair is drawn once on average, with a standard error below 1 / sqrt(4000).
    assert abs(drawn.mean(axis=1) - 1).max() < 5 / np.sqrt(4000)
    assert (drawn[4] == 1).all()  # alone in its stratum
    assert drawn[0].var() == pytest.approx(3 / 4, abs=0.1)


@pytest.mark.parametrize("steps", [0, 20, 2])
def test_curves_of_weighted_samples_agree_with_scikit_learn(steps):
    weights = all_weights(40)
    judged = make_judged(2, steps)
    pairs = np.arange(2 * PAIRS) // 2
    for _, own in judged.groupby("name"):
        score, label = own["score"].to_numpy(), own["label"].to_numpy()
        found = roc_metrics(score, label, pairs, weights)
        assert set(found) == set(RANKED)
        for column in range(weights.shape[1]):
            w = weights[pairs, column]
            area = roc_auc_score(label, score, sample_weight=w)
            low = roc_auc_score(label, score, sample_weight=w, max_fpr=0.1)
            assert found["auroc"][column] == pytest.approx(area, abs=1e-9)
            assert found["partial_auroc"][column] == pytest.approx(low, abs=1e-9)
            fpr, tpr, _ = roc_curve(label, score, sample_weight=w, drop_intermediate=False)
            for name, level in TPR_AT.items():
                best = tpr[fpr <= level + 1e-12].max()
                assert found[name][column] == pytest.approx(best, abs=1e-9)


def test_scores_that_say_nothing_are_at_chance():
    weights = all_weights(5)
    labels, pairs = np.tile([1, 0], PAIRS), np.arange(2 * PAIRS) // 2
    found = roc_metrics(np.full(2 * PAIRS, 0.3), labels, pairs, weights)
    np.testing.assert_allclose(found["auroc"], 0.5)
    np.testing.assert_allclose(found["partial_auroc"], 0.5)
    np.testing.assert_allclose(found["tpr_at_fpr_10"], 0.0)
    perfect = roc_metrics(labels.astype(float), labels, pairs, weights)
    for metric in RANKED:
        np.testing.assert_allclose(perfect[metric], 1.0)


@pytest.mark.parametrize("stratify", [False, True])
def test_resamples_equal_tables_that_repeat_their_pairs(stratify):
    """Every resample is really built, as a longer table, and rated by the ordinary functions."""
    judged = make_judged(3, failed=0.1)
    found = bootstrap(judged, np.random.default_rng(3), resamples=6, stratify=stratify)
    cells = judged.groupby("pair_id")["cell"].first()
    strata = pd.factorize(cells)[0] if stratify else np.zeros(PAIRS, int)
    drawn = next(draw_pairs(np.random.default_rng(3), strata, 6))
    for column in range(6):
        built = []
        for copy in range(int(drawn[:, column].max())):
            kept = judged[drawn[judged["pair_id"].astype(int), column] > copy]
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
    found = bootstrap(judged, np.random.default_rng(0), resamples=3)
    rated = rates(judged).set_index("name").loc[list(found.names)]
    for metric in COUNTED:
        np.testing.assert_allclose(found.values[found.metrics.index(metric)], rated[metric])
    own = judged[(judged["name"] == "m1") & judged["score"].notna()]
    area = found.values[found.metrics.index("auroc"), 1]
    assert area == pytest.approx(roc_auc_score(own["label"], own["score"]))


def test_fewer_monitors_or_metrics_give_the_same_numbers():
    judged = make_judged(3)
    whole = bootstrap(judged, np.random.default_rng(9), resamples=30)
    some = bootstrap(judged[judged["name"] != "m0"], np.random.default_rng(9), resamples=30,
                     metrics=("auroc", "far"))  # fmt: skip
    for place, metric in enumerate(some.metrics):
        expected = whole.draws[whole.metrics.index(metric), 1:]
        np.testing.assert_array_equal(some.draws[place], expected)


def test_samples_without_a_score_are_counted_and_left_out():
    judged = make_judged(2, failed=0.2)
    judged.loc[judged["name"] == "m1", "score"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bootstrap(judged, np.random.default_rng(0), resamples=20)
        table = intervals(found).set_index(["metric", "name"])
        gaps = differences(found).set_index("metric")
    failed = judged[judged["name"] == "m0"]["score"].isna().sum()
    assert found.unscored.tolist() == [failed, 2 * PAIRS]
    assert table.loc[("auroc", "m0"), "unscored"] == failed
    assert table.loc[("mr", "m0"), "unscored"] == 0
    assert np.isnan(table.loc[("auroc", "m1"), ["value", "low", "high"]].astype(float)).all()
    assert table.loc[("auroc", "m1"), "resamples"] == 0
    assert table.loc[("mr", "m1"), "resamples"] == 20
    assert np.isnan(gaps.loc["auroc", "p"]) and np.isfinite(gaps.loc["mr", "p"])


def test_intervals_and_differences_are_percentiles_of_the_same_resamples():
    found = bootstrap(make_judged(3), np.random.default_rng(1), resamples=200)
    table, gaps = intervals(found, 0.9), differences(found, 0.9)
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


def test_equal_monitors_do_not_differ():
    judged = make_judged(1)
    twice = pd.concat([judged, judged.assign(name="copy")])
    gaps = differences(bootstrap(twice, np.random.default_rng(0), resamples=50))
    assert (gaps[["difference", "low", "high"]] == 0).all(axis=None) and (gaps["p"] == 1).all()


def test_resamples_without_a_class_are_left_out_and_counted():
    judged = make_judged(1)
    alone = judged[(judged["label"] == 0) | (judged["pair_id"] == "0000")]
    found = bootstrap(alone, np.random.default_rng(0), resamples=300)
    table = intervals(found).set_index("metric")
    # The only misbehaving sample is missing from a share (1 - 1/60)**60 of the resamples.
    assert table.loc["mr", "resamples"] == pytest.approx(300 * (1 - 0.365), abs=40)
    assert table.loc["far", "resamples"] == 300
    assert table.loc["auroc", "resamples"] == table.loc["mr", "resamples"]
    assert np.isfinite(table[["low", "high"]]).all(axis=None)


def test_unknown_metrics_and_no_resamples_are_refused():
    judged = make_judged(1)
    with pytest.raises(ValueError, match="unknown metric 'auc', expected some of mr, far"):
        bootstrap(judged, np.random.default_rng(0), metrics=("mr", "auc"))
    with pytest.raises(ValueError, match="resamples is 0, expected at least 1"):
        bootstrap(judged, np.random.default_rng(0), resamples=0)
