"""Thresholds chosen on dev: what counts as an alarm, what is reported, what a resplit shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monitorlab.evaluation.operating_points import (
    ALL,
    FAILED_SCORE,
    _allowed_loss,
    _expected_far,
    _resplit_alarms,
    calibrated_points,
    choose_rule,
    default_alarms,
    operating_scores,
    resplit_check,
    tradeoff_at_own_threshold,
)
from monitorlab.evaluation.tradeoff import decompose
from monitorlab.statistics.roc import auroc
from monitorlab.statistics.thresholds import calibrate


def judged_frame(
    pairs: int = 100,
    seed: int = 0,
    name: str = "m",
    cell: str = "sg_qa",
    shift: float = 0.3,
    failed: float = 0.0,
    dev: float = 0.5,
    scenario_size: int = 2,
) -> pd.DataFrame:
    """Pairs of one cell; misbehavior scores `shift` higher, a share `failed` has no verdict."""
    rng = np.random.default_rng(seed)
    scores = 0.7 * rng.random((pairs, 2)) + shift * np.array([0.0, 1.0])
    parsed = (rng.random(2 * pairs) >= failed)
    number = np.repeat(np.arange(pairs), 2)
    return pd.DataFrame({
        "name": name, "draw": 0, "cell": cell, "label": np.tile([0, 1], pairs),
        "sample_id": [f"{cell}{i}" for i in range(2 * pairs)],
        "pair_id": [f"{cell}{i}" for i in number],
        "scenario_id": [f"{cell}{i // scenario_size}" for i in number],
        "split": np.where(number < dev * pairs, "dev", "test"),
        "status": np.where(parsed, "parsed", "refused"),
        "score": np.where(parsed, scores.ravel(), np.nan),
        "verdict": pd.array(scores.ravel() > 0.5, "boolean").copy(),
    }).assign(verdict=lambda f: f["verdict"].where(parsed))


def test_a_failed_verdict_scores_above_all_and_a_bare_one_as_it_says():
    frame = pd.DataFrame({
        "status": ["parsed", "parsed", "parsed", "refused", "error"],
        "score": [0.4, np.nan, np.nan, np.nan, np.nan],
        "verdict": pd.array([False, True, False, None, None], "boolean"),
    })
    assert operating_scores(frame).tolist() == [0.4, 1.0, 0.0, FAILED_SCORE, FAILED_SCORE]
    assert default_alarms(frame).tolist() == [False, True, False, True, True]


def two_cells() -> pd.DataFrame:
    return pd.concat([judged_frame(seed=1, failed=0.04),
                      judged_frame(seed=2, failed=0.04, cell="syco_qa")], ignore_index=True)


@pytest.mark.parametrize("calibrator", ["crc", "binomial"])
def test_points_by_pair_are_those_of_calibrate_and_of_counting(calibrator):
    frame = two_cells()
    table = calibrated_points(frame, [0.2], [calibrator], unit="pair")
    assert table["cell"].tolist() == ["sg_qa", "syco_qa", ALL]
    scores, alarms = operating_scores(frame), np.zeros(len(frame), bool)
    for cell in ("sg_qa", "syco_qa"):
        here = (frame["cell"] == cell).to_numpy()
        dev, benign = (frame["split"] == "dev").to_numpy(), (frame["label"] == 0).to_numpy()
        threshold = calibrate(scores[here & dev & benign], 0.2, calibrator)
        alarms[here] = scores[here] > threshold.value
        row = table[table["cell"] == cell].iloc[0]
        assert row["threshold"] == threshold.value
        assert row["n_needed"] == threshold.n_needed
        assert row["dev_far"] == pytest.approx(threshold.attained)
        assert row["far"] == pytest.approx(alarms[here & ~dev & benign].mean())
        assert row["mr"] == pytest.approx(1 - alarms[here & ~dev & ~benign].mean())
        assert (row["n_dev"], row["dev_units"], row["n_test"]) == (50, 50, 50)
        assert row["state"] == "calibrated"
    whole, test = table.iloc[2], (frame["split"] == "test").to_numpy()
    assert whole["far"] == pytest.approx(alarms[test & (frame["label"] == 0)].mean())
    assert whole["g2"] == pytest.approx((1 - whole["far"]) * (1 - whole["mr"]))
    assert np.isnan(whole["threshold"]) and whole["state"] == "per_cell"


def by_hand(dev: pd.DataFrame, level: float, calibrator: str) -> float:
    """The lowest score whose mean share of alarms over scenarios keeps the promise."""
    scores = pd.Series(operating_scores(dev), dev["scenario_id"].to_numpy())
    n = scores.index.nunique()
    best = np.inf
    for value in sorted(set(scores), reverse=True):
        loss = (scores > value).groupby(level=0).mean().mean()
        if calibrator == "crc":
            kept = n / (n + 1) * loss + 1 / (n + 1) <= level + 1e-12
        else:
            a = min(loss, level)
            entropy = sum(x * np.log(x / y) for x, y in ((a, level), (1 - a, 1 - level)) if x > 0)
            tail = np.e * stats.binom.cdf(np.ceil(n * loss - 1e-9), n, level)
            kept = min(np.exp(-n * entropy), tail) <= 0.1
        if not kept:
            break
        best = value
    return best


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("calibrator", ["crc", "hoeffding_bentkus"])
def test_points_by_scenario_bound_the_mean_loss_of_scenarios(calibrator, size):
    frame = judged_frame(pairs=200, seed=1, failed=0.03, scenario_size=size)
    for level in (0.1, 0.2, 0.35):
        row = calibrated_points(frame, [level], [calibrator]).iloc[0]
        dev = frame[(frame["split"] == "dev") & (frame["label"] == 0)]
        expected = by_hand(dev, level, calibrator)
        assert row["threshold"] == expected
        assert row["dev_units"] == -(-100 // size) and row["n_dev"] == 100
        test = frame[(frame["split"] == "test") & (frame["label"] == 0)]
        alarm = pd.Series(operating_scores(test) > expected, test["scenario_id"].to_numpy())
        assert row["far"] == pytest.approx(alarm.mean())
        assert row["far_scenarios"] == pytest.approx(alarm.groupby(level=0).mean().mean())


def test_scenarios_of_one_sample_give_the_threshold_of_crc():
    frame = judged_frame(pairs=200, seed=4, scenario_size=1)
    for level in (0.01, 0.05, 0.1, 0.3):
        one, other = (calibrated_points(frame, [level], ["crc"], unit=unit)["threshold"].iloc[0]
                      for unit in ("scenario", "pair"))
        assert one == other


@pytest.mark.parametrize(("level", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.2, 4)])
def test_feasibility_by_scenario_is_a_matter_of_their_number(level, needed):
    assert _allowed_loss("crc", needed, level) == pytest.approx(0, abs=1e-9)
    assert _allowed_loss("crc", needed - 1, level) == -1
    exact = int(np.ceil(np.log(0.1) / np.log(1 - level) - 1e-9))  # (1 - level)**n <= delta
    assert _allowed_loss("hoeffding_bentkus", exact, level) >= 0
    assert _allowed_loss("hoeffding_bentkus", exact - 1, level) == -1
    frame = judged_frame(pairs=2 * 3 * (needed - 1), scenario_size=3)
    row = calibrated_points(frame, [level], ["crc"]).iloc[0]
    assert (row["state"], row["dev_units"], row["n_needed"]) == ("never_alarm", needed - 1, needed)
    assert (row["far"], row["mr"]) == (0.0, 1.0)


def test_a_rule_for_zeros_and_ones_is_refused_for_shares():
    frame = judged_frame()
    with pytest.raises(ValueError, match="'binomial', expected crc or hoeffding_bentkus"):
        calibrated_points(frame, [0.1], ["binomial"])
    with pytest.raises(ValueError, match="expected crc or hoeffding_bentkus"):
        resplit_check(frame, 0.1, "binomial", n=2)
    with pytest.raises(ValueError, match="expected scenarios to stay whole"):
        resplit_check(frame, 0.1, n=2, split_by="pair")


def test_test_rates_have_intervals_over_scenarios_beside_exact_ones():
    """Scenarios that alarm as a whole: the interval is that of their number, not of samples."""
    frame = judged_frame(pairs=400, dev=0.5, scenario_size=8)
    level = np.repeat(np.random.default_rng(0).random(50), 16)
    frame["score"] = level
    row = calibrated_points(frame, [0.2], ["crc"]).iloc[0]
    exact = stats.binomtest(round(row["far"] * 200), 200).proportion_ci(method="exact")
    assert (row["far_exact_low"], row["far_exact_high"]) == pytest.approx((exact.low, exact.high))
    few = stats.binomtest(round(row["far"] * 25), 25).proportion_ci(method="exact")
    assert (row["far_low"], row["far_high"]) == pytest.approx((few.low, few.high), abs=0.03)


def test_a_global_threshold_is_one_threshold_measured_in_every_cell():
    frame = pd.concat([judged_frame(seed=1), judged_frame(seed=2, cell="syco_qa", shift=0.1)])
    table = calibrated_points(frame, [0.1], ["crc"], scope="global", unit="pair")
    benign = (frame["label"] == 0) & (frame["split"] == "dev")
    assert set(table["threshold"]) == {calibrate(frame.loc[benign, "score"], 0.1).value}
    assert table.set_index("cell")["n_dev"].to_dict() == {"sg_qa": 50, "syco_qa": 50, ALL: 100}
    table = calibrated_points(frame, [0.1], ["crc"], scope="global")
    assert set(table["threshold"]) == {by_hand(frame[benign], 0.1, "crc")}


def test_too_few_samples_never_alarm_and_say_how_many_are_needed():
    row = calibrated_points(judged_frame(pairs=16), [0.05], ["crc"], unit="pair").iloc[0]
    assert (row["state"], row["n_dev"], row["n_needed"]) == ("never_alarm", 8, 19)
    assert (row["far"], row["mr"], row["threshold"]) == (0.0, 1.0, np.inf)


def test_a_monitor_that_fails_too_often_keeps_no_level_and_misses_all():
    table = calibrated_points(judged_frame(failed=0.3), [0.1, 0.5], ["crc"])
    strict, loose = (table[(table["level"] == v) & (table["cell"] == "sg_qa")].iloc[0]
                     for v in (0.1, 0.5))
    assert (strict["state"], strict["mr"], strict["far"]) == ("too_many_failures", 1.0, 0.0)
    assert loose["state"] == "calibrated" and loose["threshold"] <= 1


def test_failures_use_up_the_level():
    """The promise counts escalated failures, so what is left for scores is less."""
    clean = judged_frame(pairs=400, seed=3)
    some = clean.copy()
    lost = (some["label"] == 0) & (np.arange(len(some)) % 30 == 0)
    some.loc[lost, ["status", "score", "verdict"]] = ["error", np.nan, pd.NA]
    value = [calibrated_points(f, [0.1], ["crc"])["threshold"][0] for f in (clean, some)]
    assert value[1] > value[0]


def test_unknown_scope_split_and_unit_are_named():
    frame = judged_frame(pairs=20)
    with pytest.raises(ValueError, match="scope is 'task'"):
        calibrated_points(frame, scope="task")
    with pytest.raises(ValueError, match="expected dev and test only"):
        calibrated_points(frame.assign(split="train"))
    with pytest.raises(ValueError, match="unit is 'sample'"):
        resplit_check(frame, 0.1, unit="sample")
    with pytest.raises(ValueError, match="unit is 'sample'"):
        calibrated_points(frame, [0.1], unit="sample")
    with pytest.raises(ValueError, match="rows have no scenario_id"):
        calibrated_points(frame.drop(columns="scenario_id"), [0.1])
    with pytest.raises(ValueError, match="0 verdicts"):
        calibrated_points(frame.iloc[:0])
    with pytest.raises(ValueError, match="no verdicts to measure"):
        tradeoff_at_own_threshold(frame[frame["split"] == "dev"])


@pytest.mark.parametrize("calibrator", ["crc", "binomial"])
def test_vectorised_resplits_equal_calibrate_split_by_split(calibrator):
    rng = np.random.default_rng(0)
    for scores in (rng.random(40), rng.integers(0, 4, 40) / 4,
                   np.where(rng.random(40) < 0.2, FAILED_SCORE, rng.random(40))):
        dev = rng.random((60, 40)) < rng.uniform(0.05, 0.9, (60, 1))
        n, k, false = _resplit_alarms(scores, dev, 0.2, calibrator)
        for row, mine in enumerate(dev):
            threshold = calibrate(scores[mine], 0.2, calibrator)
            assert (n[row], k[row]) == (threshold.n, threshold.k)
            assert false[row] == np.sum(scores[~mine] > threshold.value)


def test_reference_is_the_law_of_ranks_by_enumeration():
    """All 4 + 3 interleavings of dev and test samples, k = 2."""
    from itertools import combinations

    found = []
    for dev in combinations(range(7), 4):  # ranks of the dev samples, 0 the highest
        second = sorted(dev)[1]
        found.append((second - 1) / 3)  # test samples above it
    mean, exceed, _ = _expected_far(4, 3, 2, 0.4)
    assert float(mean) == pytest.approx(np.mean(found))
    assert float(exceed) == pytest.approx(np.mean(np.array(found) > 0.4))


def test_never_alarm_has_no_false_alarms_to_expect():
    assert [float(v) for v in _expected_far(5, 50, 0, 0.1)] == [0.0, 0.0, 0.0]


def alike_within_scenarios() -> pd.DataFrame:
    """Six pairs of a scenario share their level: dev knows less than its samples say."""
    frame = judged_frame(pairs=240, dev=0.25, scenario_size=6, seed=5)
    level = np.repeat(np.random.default_rng(1).random(40) * 0.6, 12)
    return frame.assign(score=level + 0.01 * frame["score"])


def test_resplits_by_pair_agree_with_the_reference_and_clusters_do_not():
    check = {split: resplit_check(alike_within_scenarios(), 0.1, "binomial", n=2000, unit="pair",
                                  rng=np.random.default_rng(2), split_by=split).iloc[0]
             for split in ("pair", "scenario")}
    pair, scenario = check["pair"], check["scenario"]
    assert pair["mean_far"] == pytest.approx(pair["mean_far_expected"], abs=0.004)
    assert pair["exceed"] == pytest.approx(pair["exceed_expected"], abs=0.04)
    assert pair["true_exceed_expected"] <= 0.1 < pair["exceed"] + 0.05
    assert scenario["exceed"] > scenario["exceed_expected"] + 0.1
    assert (pair["n_dev"], scenario["n_test"]) == (60, 180)


@pytest.mark.parametrize("calibrator", ["crc", "hoeffding_bentkus"])
@pytest.mark.parametrize("level", [0.05, 0.2, 0.4])
def test_resplits_by_scenario_equal_choosing_split_by_split(calibrator, level):
    frame = alike_within_scenarios()
    found = resplit_check(frame, level, calibrator, rng=np.random.default_rng(7), n=40).iloc[0]
    benign = frame[frame["label"] == 0]
    names = np.unique(benign["scenario_id"])
    rank = np.argsort(np.argsort(np.random.default_rng(7).random((40, len(names))), axis=1), axis=1)
    far = []
    for row in rank < 10:
        mine = benign["scenario_id"].isin(names[row]).to_numpy()
        rule = choose_rule(benign["score"].to_numpy()[mine], benign["scenario_id"][mine], level,
                           calibrator, 0.1, "scenario")
        rest = benign[~mine]
        far.append((rest["score"] > rule.value).groupby(rest["scenario_id"]).mean().mean())
    assert found["mean_far"] == pytest.approx(np.mean(far))
    assert found["far_q90"] == pytest.approx(np.quantile(far, 0.9))
    assert found["exceed"] == pytest.approx(np.mean(np.array(far) > level + 1e-12))
    assert (found["n_dev"], found["n_test"]) == (60, 180) and np.isnan(found["exceed_expected"])


def test_resplit_check_has_a_row_per_cell_or_one_for_all():
    frame = pd.concat([judged_frame(), judged_frame(cell="syco_qa"), judged_frame(name="b")])
    rng = np.random.default_rng(0)
    cells = resplit_check(frame, 0.1, rng=rng, n=20)
    assert cells[["name", "cell"]].to_numpy().tolist() == [["m", "sg_qa"], ["m", "syco_qa"],
                                                           ["b", "sg_qa"]]
    whole = resplit_check(frame, 0.1, scope="global", rng=rng, n=20)
    assert whole["cell"].tolist() == [ALL, ALL] and whole["n_dev"].tolist() == [100, 50]


def monitors_at(criteria: dict[str, float], pairs: int = 400) -> pd.DataFrame:
    """The same scores, normal and 1.5 apart on a probit scale, under different thresholds."""
    frames = []
    spread = np.random.default_rng(0).normal(size=2 * pairs) + np.tile([0.0, 1.5], pairs)
    for name, threshold in criteria.items():
        frame = judged_frame(pairs=pairs, name=name).assign(score=stats.norm.cdf(spread))
        frames.append(frame.assign(verdict=pd.array(frame["score"] > threshold, "boolean")))
    return pd.concat(frames, ignore_index=True)


def test_a_trade_off_of_thresholds_alone_is_gone_at_a_common_level():
    frame = monitors_at({"bold": 0.3, "middle": 0.5, "shy": 0.7})
    table = tradeoff_at_own_threshold(frame, [0.05, 0.1])
    own = table[table["rule"] == "own default"].set_index("name")
    assert own["mr"].is_monotonic_increasing and own["far"].is_monotonic_decreasing
    test = frame[(frame["split"] == "test") & (frame["name"] == "shy")]
    missed = ~test["verdict"].to_numpy(bool)[test["label"] == 1]
    assert own.loc["shy", "mr"] == pytest.approx(missed.mean())
    for rule in ("far <= 0.05", "far <= 0.1"):
        assert table.loc[table["rule"] == rule, "mr"].nunique() == 1
    assert table["mr"].between(table["mr_low"], table["mr_high"]).all()


def test_variation_along_one_curve_is_criterion():
    found = decompose(monitors_at({"a": 0.3, "b": 0.4, "c": 0.5, "d": 0.6, "e": 0.7}))
    assert found.criterion_share > 0.95
    assert found.r < -0.9
    assert found.monitors["auroc"].nunique() == 1


def test_variation_between_curves_is_discrimination():
    parts = []
    for i, shift in enumerate((0.0, 0.1, 0.2, 0.3)):
        frame = judged_frame(pairs=400, seed=9, name=f"m{i}", shift=shift)
        threshold = 0.35 + shift / 2  # half-way: no bias
        parts.append(frame.assign(verdict=pd.array(frame["score"] > threshold, "boolean")))
    frame = pd.concat(parts)
    found = decompose(frame)
    assert found.criterion_share < 0.1
    assert found.r > 0.9
    assert found.monitors["auroc"].is_monotonic_increasing
    last = frame[frame["name"] == "m3"]
    assert found.monitors["auroc"].iloc[3] == pytest.approx(
        auroc(last["score"].to_numpy(), last["label"].to_numpy()))


def test_decomposition_has_the_stated_identities():
    frame = pd.concat([judged_frame(name=f"m{i}", seed=i, shift=0.1 * i, failed=0.05 * i)
                       for i in range(4)])
    found = decompose(frame)
    d, c = found.monitors["d_prime"], found.monitors["criterion"]
    z_miss, z_false = c - d / 2, -c - d / 2
    assert np.cov(z_miss, z_false)[0, 1] == pytest.approx(found.var_d / 4 - found.var_c)
    assert z_miss.var() + z_false.var() == pytest.approx(2 * found.var_c + found.var_d / 2)
    first = frame[frame["name"] == "m2"]
    hits = int(np.sum(default_alarms(first) & (first["label"] == 1).to_numpy()))
    assert stats.norm.cdf(-z_miss[2]) == pytest.approx((hits + 0.5) / 101)  # Hautus (1995)


def test_one_monitor_has_no_variation():
    found = decompose(judged_frame())
    assert np.isnan([found.var_d, found.var_c, found.criterion_share, found.r]).all()
