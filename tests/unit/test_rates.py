"""Rates, their intervals and the bounds that failed verdicts allow, against small hand counts."""

from __future__ import annotations

import itertools
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from monitorlab.chapters.finetuning.transfer import Transfer, matrix
from monitorlab.evaluation.bootstrap import Bootstrap, Paired, curve_table
from monitorlab.evaluation.comparisons import cochran_q, compare, pair_anatomy
from monitorlab.evaluation.cost import _cascade, _escalation_band, cascade_sweep, cost_table
from monitorlab.evaluation.label_noise import noise_bounds
from monitorlab.evaluation.operating_points import calibrated_points, default_rates, resplit_check
from monitorlab.evaluation.rates import (
    FAILURES,
    Panel,
    first_draws,
    join,
    ledger,
    macro,
    rates,
)
from monitorlab.evaluation.tradeoff import decompose
from monitorlab.statistics.intervals import clopper_pearson, wilson
from monitorlab.statistics.roc import JudgedError, roc
from monitorlab.storage.tables import CELLS, VERDICTS

FACTS = {"category": "sg", "task": "qa", "misbehavior_type": "t", "split": "test"}


def make_samples(
    pairs: int, cells: tuple[str, ...] = ("sg_qa",), scenario: int = 1
) -> pd.DataFrame:
    """Pairs 0, 1, ... in turn in each cell; `-m` misbehaves, `-b` does not."""
    rows = [
        {"sample_id": f"{i}-{side}", "pair_id": str(i), "cell": cells[i % len(cells)],
         "scenario_id": f"s{i // scenario}", "label": label, **FACTS}
        for i in range(pairs)
        for label, side in ((1, "m"), (0, "b"))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_verdicts(
    said: dict[str, str], monitor: str = "a", draw: int = 0, prompt: str = "none"
) -> pd.DataFrame:
    """Verdicts from words: alarm, silent, or a failing status."""
    parsed = {"alarm": True, "silent": False}
    rows = [
        {"sample_id": sample, "monitor": monitor, "prompt": prompt, "draw": draw,
         "status": "parsed" if word in parsed else word, "verdict": parsed.get(word),
         "score": {"alarm": 0.9, "silent": 0.2}.get(word),
         "evidence": None if word in parsed else f"why {word}", "input_tokens": None,
         "output_tokens": None, "seconds": 0.1, "cost_usd": None, "request_hash": "x"}
        for sample, word in said.items()
    ]  # fmt: skip
    return VERDICTS.check(pd.DataFrame(rows, columns=VERDICTS.columns))


SAID = dict.fromkeys(["0-m", "1-m", "2-m", "4-b"], "alarm")
SAID |= dict.fromkeys(["3-m", "4-m", "0-b", "1-b", "2-b", "3-b"], "silent")
SAMPLES = make_samples(5)


def rates_of(said: dict[str, str]) -> pd.Series:
    return rates(join(make_verdicts(said), SAMPLES)).iloc[0]


def test_rates_of_a_hand_counted_monitor():
    found = rates_of(SAID)
    assert (found["n_misbehaving"], found["n_benign"]) == (5, 5)
    assert found["mr"] == pytest.approx(2 / 5)
    assert found["far"] == pytest.approx(1 / 5)
    assert found["g2"] == pytest.approx(3 / 5 * 4 / 5)
    assert found["balanced_accuracy"] == pytest.approx((3 / 5 + 4 / 5) / 2)
    assert found["mr_least"] == found["mr_most"] == found["mr"]
    assert found["parsed_misbehaving"] == found["parsed_benign"] == 1
    assert found[list(FAILURES)].sum() == 0


@pytest.mark.parametrize(("rate", "count"), [("mr", 2), ("far", 1)])
def test_intervals_of_the_rates_agree_with_scipy(rate, count):
    found = rates_of(SAID)
    # With one sample of each kind in a scenario, the interval over scenarios is Wilson's.
    for method, prefix in (("wilson", rate), ("wilson", f"{rate}_wilson"),
                           ("exact", f"{rate}_exact")):
        expected = binomtest(count, 5).proportion_ci(0.95, method)
        assert found[f"{prefix}_low"] == pytest.approx(expected.low, abs=1e-12)
        assert found[f"{prefix}_high"] == pytest.approx(expected.high, abs=1e-12)


@pytest.mark.parametrize(("interval", "method"), [(wilson, "wilson"), (clopper_pearson, "exact")])
def test_intervals_agree_with_scipy_at_every_count(interval, method):
    for n, level in ((1, 0.95), (30, 0.9), (133, 0.99)):
        low, high = interval(np.arange(n + 1), n, level)
        for count in range(n + 1):
            expected = binomtest(count, n).proportion_ci(level, method)
            assert low[count] == pytest.approx(expected.low, abs=1e-10)
            assert high[count] == pytest.approx(expected.high, abs=1e-10)
        assert low.min() >= 0 and high.max() <= 1


@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize(("sample", "rate", "event"), [
    ("0-m", "mr", False), ("3-m", "mr", True), ("0-b", "far", False), ("4-b", "far", True),
])  # fmt: skip
def test_a_failed_verdict_is_neither_alarm_nor_silence(status, sample, rate, event):
    events = {"mr": 2, "far": 1}[rate]
    kind, other = ("misbehaving", "far") if rate == "mr" else ("benign", "mr")
    found, before = rates_of(SAID | {sample: status}), rates_of(SAID)
    assert found[rate] == pytest.approx((events - event) / 4)  # out of numerator and denominator
    assert found[f"parsed_{kind}"] == pytest.approx(4 / 5)
    assert found[f"{rate}_least"] == pytest.approx((events - event) / 5)
    assert found[f"{rate}_most"] == pytest.approx((events - event + 1) / 5)
    assert found[f"{rate}_least"] <= before[rate] <= found[f"{rate}_most"]
    assert found[status] == 1
    assert found[list(FAILURES)].sum() == 1
    assert found[other] == before[other]
    assert found[f"{rate}_outer_low"] <= min(found[f"{rate}_low"], before[f"{rate}_low"])
    assert found[f"{rate}_outer_high"] >= max(found[f"{rate}_high"], before[f"{rate}_high"])


def test_bounds_are_the_extremes_over_all_ways_to_read_the_failures():
    open_ones = ["0-m", "3-m", "1-b", "4-b"]
    bounds = rates_of(SAID | dict.fromkeys(open_ones, "refused"))
    read = [
        rates_of(SAID | dict(zip(open_ones, words, strict=True)))
        for words in itertools.product(["alarm", "silent"], repeat=len(open_ones))
    ]
    for rate in ("mr", "far"):
        values = [found[rate] for found in read]
        assert bounds[f"{rate}_least"] == pytest.approx(min(values))
        assert bounds[f"{rate}_most"] == pytest.approx(max(values))
        assert bounds[f"{rate}_outer_low"] == pytest.approx(min(f[f"{rate}_low"] for f in read))
        assert bounds[f"{rate}_outer_high"] == pytest.approx(max(f[f"{rate}_high"] for f in read))


@pytest.mark.parametrize("sample", list(SAID))
def test_flipping_one_verdict_changes_exactly_one_count(sample):
    def counts(found: pd.Series) -> np.ndarray:
        said = found["n_misbehaving"] * found["parsed_misbehaving"]
        passed = found["n_benign"] * found["parsed_benign"]
        numbers = [said, passed, found["mr"] * said, found["far"] * passed, *found[list(FAILURES)]]
        return np.round(np.array(numbers, float), 9)

    flipped = "silent" if SAID[sample] == "alarm" else "alarm"
    change = counts(rates_of(SAID | {sample: flipped})) - counts(rates_of(SAID))
    assert abs(change).sum() == 1
    assert change[2 if sample.endswith("m") else 3] == (1 if sample[-1] == "b" else -1) * (
        1 if flipped == "alarm" else -1
    )


def test_without_a_parsed_verdict_the_rates_are_unknown_and_the_bounds_are_everything():
    found = rates_of(dict.fromkeys(SAID, "truncated"))
    assert np.isnan(found[["mr", "mr_low", "mr_exact_high", "far", "g2", "balanced_accuracy_low"]]
                    .astype(float)).all()
    assert tuple(found[["mr_least", "mr_most", "far_least", "far_most"]]) == (0, 1, 0, 1)
    assert found["truncated"] == 10


def test_an_empty_class_is_nan_without_a_warning():
    only = {sample: word for sample, word in SAID.items() if sample.endswith("m")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rates_of(only)
    assert found["mr"] == pytest.approx(0.4)
    assert found["n_benign"] == 0
    empty = ["far", "far_low", "far_least", "far_most", "far_outer_high", "parsed_benign", "g2"]
    assert np.isnan(found[empty].astype(float)).all()


def test_groups_are_rated_apart():
    samples = make_samples(6, ("sg_qa", "spv_qa"))
    first = make_verdicts(dict.fromkeys(samples["sample_id"], "alarm"))
    second = make_verdicts(dict.fromkeys(samples["sample_id"], "silent"), prompt="direct")
    found = rates(join(pd.concat([first, second]), samples), by=("name", "cell"))
    assert found[["name", "cell", "mr", "far", "n_benign"]].to_numpy().tolist() == [
        ["a", "sg_qa", 0, 1, 3], ["a", "spv_qa", 0, 1, 3],
        ["a, direct", "sg_qa", 1, 0, 3], ["a, direct", "spv_qa", 1, 0, 3],
    ]  # fmt: skip


def test_join_keeps_every_verdict_and_adds_what_is_known_of_the_sample():
    judged = join(make_verdicts(SAID, prompt="direct"), SAMPLES)
    assert len(judged) == len(SAID)
    assert set(judged["name"]) == {"a, direct"}
    facts = judged.set_index("sample_id")
    assert facts.loc["3-m", ["pair_id", "cell", "label"]].tolist() == ["3", "sg_qa", 1]
    assert (facts["label"] == facts.index.str.endswith("m")).all()


def test_join_does_not_invent_verdicts_for_samples_that_were_not_asked_about():
    judged = join(make_verdicts({"0-m": "alarm", "1-b": "error"}), SAMPLES)
    assert len(judged) == 2
    assert rates(judged)[["n_misbehaving", "n_benign"]].to_numpy().tolist() == [[1, 1]]


def test_join_refuses_tables_that_do_not_fit():
    good = make_verdicts(SAID)
    with pytest.raises(JudgedError, match=r"2 verdicts.*first about '3-b'"):
        join(good, SAMPLES[SAMPLES["pair_id"] != "3"])
    with pytest.raises(JudgedError, match="'0-m' occurs twice among the samples"):
        join(good, pd.concat([SAMPLES, SAMPLES.head(1)]))
    with pytest.raises(JudgedError, match="two verdicts of 'a' on '0-m', draw 0"):
        join(pd.concat([good, good[good["sample_id"] == "0-m"]]), SAMPLES)
    other = good["sample_id"] != "0-m"
    with pytest.raises(JudgedError, match="status 'refused' with verdict True"):
        join(good.assign(status=good["status"].where(other, "refused")), SAMPLES)
    with pytest.raises(JudgedError, match="status 'parsed' with verdict <NA>"):
        join(good.assign(verdict=good["verdict"].where(other)), SAMPLES)


def test_join_refuses_draws_over_different_samples_and_names_that_collide():
    more = make_verdicts({"0-m": "alarm"}, draw=1)
    with pytest.raises(JudgedError, match=r"'a' has 2 draws, but 1 for sample '0-b'"):
        join(pd.concat([make_verdicts(SAID), more]), SAMPLES)
    same_name = [make_verdicts(SAID, "a", prompt="b"), make_verdicts(SAID, "a, b")]
    with pytest.raises(JudgedError, match="two verdicts of 'a, b'"):
        join(pd.concat(same_name), SAMPLES)


def test_draws_that_repeat_each_other_add_no_certainty():
    one = rates(join(make_verdicts(SAID | {"0-m": "refused"}), SAMPLES))
    said = SAID | {"0-m": "refused"}
    three = rates(join(pd.concat([make_verdicts(said, draw=d) for d in range(3)]), SAMPLES))
    same = [column for column in one if column not in ("name", *FAILURES)]
    np.testing.assert_allclose(three[same].astype(float), one[same].astype(float), rtol=1e-12)
    assert three["refused"].item() == 3  # verdicts, not samples


def test_rates_of_several_draws_are_means_over_draws():
    draws = [make_verdicts(SAID), make_verdicts(SAID | {"0-m": "silent"}, draw=1)]
    found = rates(join(pd.concat(draws), SAMPLES)).iloc[0]
    assert found["mr"] == pytest.approx((2 + 3) / 10)
    assert found["mr_high"] == pytest.approx(wilson(2.5, 5)[1])
    assert found["n_misbehaving"] == 5


def six_cells() -> pd.DataFrame:
    samples = make_samples(60, CELLS)
    said = {row.sample_id: "alarm" if (row.label == 1) == (i % 7 > 0) else "silent"
            for i, row in enumerate(samples.itertuples())}
    return join(make_verdicts(said), samples)


def test_macro_is_the_mean_over_cells_with_distances_added_in_squares():
    by_cell = rates(six_cells(), by=("name", "cell"))
    found = macro(by_cell).iloc[0]
    assert found["cells"] == 6
    assert by_cell["mr"].std() > 0
    for summary in ("mr", "far", "g2", "balanced_accuracy"):
        value, low, high = (by_cell[f"{summary}{end}"] for end in ("", "_low", "_high"))
        assert found[summary] == pytest.approx(value.mean())
        squares = sum((v - lower) ** 2 for v, lower in zip(value, low, strict=True))
        assert found[f"{summary}_low"] == pytest.approx(value.mean() - squares**0.5 / 6)
        squares = sum((upper - v) ** 2 for v, upper in zip(value, high, strict=True))
        assert found[f"{summary}_high"] == pytest.approx(value.mean() + squares**0.5 / 6)


def test_macro_of_fewer_cells_must_be_asked_for():
    by_cell = rates(six_cells(), by=("name", "cell"))
    partial = by_cell[by_cell["cell"].isin(["sg_qa", "spv_qa"])]
    found = macro(partial).iloc[0]
    assert found["cells"] == 2 and np.isnan(found["mr"]) and np.isnan(found["g2_high"])
    two = macro(partial, cells=("sg_qa", "spv_qa")).iloc[0]
    assert two["mr"] == pytest.approx(partial["mr"].mean())


def test_intervals_of_the_accuracies_turn_the_right_way():
    found = rates_of(SAID)
    # Balanced accuracy is lowest where both rates are highest; pair 4 has both errors.
    miss = np.array([0, 0, 0, 1, 1]) - 2 / 5
    cry = np.array([0, 0, 0, 0, 1]) - 1 / 5
    r = (miss @ cry) / np.sqrt((miss @ miss) * (cry @ cry))
    one, two = found["mr_high"] - found["mr"], found["far_high"] - found["far"]
    gap = np.sqrt(one**2 + 2 * r * one * two + two**2) / 2
    assert found["balanced_accuracy_low"] == pytest.approx(found["balanced_accuracy"] - gap)
    assert found["g2_low"] < found["g2"] < found["g2_high"]


def clustered(scenario: int, alike: float, pairs: int = 240, seed: int = 0) -> pd.DataFrame:
    """Judged verdicts; with probability `alike` a sample is judged as its scenario is."""
    random = np.random.default_rng(seed)
    samples = make_samples(pairs, scenario=scenario)
    number = samples["scenario_id"].str[1:].astype(int).to_numpy()
    shared = random.random((number.max() + 1, 2))[number, samples["label"]] < 0.3
    own = random.random(len(samples)) < 0.3
    wrong = np.where(random.random(len(samples)) < alike, shared, own)
    alarm = (samples["label"] == 1).to_numpy() != wrong
    said = dict(zip(samples["sample_id"], np.where(alarm, "alarm", "silent"), strict=True))
    return join(make_verdicts(said), samples)


def test_the_design_effect_is_the_spread_over_scenarios_by_hand():
    judged = clustered(4, 0.8)
    found = rates(judged).iloc[0]
    bad = judged[judged["label"] == 1]
    missed = (~bad["verdict"].astype(bool)).groupby(bad["scenario_id"]).agg(["sum", "size"])
    # One more scenario of four, half all missed and half none.
    n, p = 240 + 4, (missed["sum"].sum() + 2) / (240 + 4)
    spread = ((missed["sum"] - 4 * p) ** 2).sum() + ((4 - 4 * p) ** 2 + (4 * p) ** 2) / 2
    effect = 61 / 60 * spread / (n * p * (1 - p))
    assert found["mr_design_effect"] == pytest.approx(effect) and 2 < effect < 4
    assert found["units"] == 60
    worth = (norm.ppf(0.975) / student.ppf(0.975, 59)) ** 2 / effect
    low, high = wilson(missed["sum"].sum() * worth, 240 * worth)
    assert (found["mr_low"], found["mr_high"]) == pytest.approx((float(low), float(high)))


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_intervals_over_scenarios_are_as_wide_as_a_bootstrap_of_scenarios(alike):
    judged = clustered(6, alike, pairs=600)
    found = rates(judged).iloc[0]
    drawn = Bootstrap.of(judged, np.random.default_rng(0), resamples=2000)
    for metric in ("mr", "far", "balanced_accuracy", "g2"):
        spread = drawn.draws[drawn.metrics.index(metric), 0].std()
        width = found[f"{metric}_high"] - found[f"{metric}_low"]
        assert width == pytest.approx(2 * 1.984 * spread, rel=0.12)  # t with 99 degrees of freedom
    plain = found["mr_wilson_high"] - found["mr_wilson_low"]
    ratio = (found["mr_high"] - found["mr_low"]) / plain
    assert ratio == pytest.approx(np.sqrt(found["mr_design_effect"]), rel=0.03)
    assert (ratio > 2) == (alike == 1.0)


def test_pairs_as_units_give_wilson_whatever_scenarios_have_in_common():
    judged = clustered(4, 1.0)
    found = rates(judged, unit="pair").iloc[0]
    for rate in ("mr", "far"):
        assert found[f"{rate}_low"] == pytest.approx(found[f"{rate}_wilson_low"])
        assert found[f"{rate}_design_effect"] == 1
    assert found["units"] == 240


def test_a_rate_of_zero_is_as_uncertain_as_its_number_of_scenarios():
    """By 60 scenarios of 4 nothing is known below about 1 in 60, and by one nothing at all."""
    samples = make_samples(240, scenario=4)
    silent = join(make_verdicts(dict.fromkeys(samples["sample_id"], "silent")), samples)
    found = rates(silent).iloc[0]
    assert (found["far"], found["far_low"]) == pytest.approx((0, 0))
    assert found["far_high"] == pytest.approx(wilson(0, 60)[1], rel=0.1)
    assert found["far_wilson_high"] == pytest.approx(wilson(0, 240)[1])
    alone = rates(silent.assign(scenario_id="the only one")).iloc[0]
    assert (alone["far_low"], alone["far_high"]) == (0, 1)


@pytest.mark.parametrize(("label", "words"), [
    (None, "missing"), (np.nan, "missing"), (pd.NA, "missing"), ("1", "'1'"), (2, "2"), (-1, "-1"),
    ("misbehavior", "'misbehavior'"), (0.5, "0.5"), ([1], "[1]"), ("", "''"), (b"0", "b'0'"),
])  # fmt: skip
def test_labels_that_are_none_are_refused_and_never_benign(label, words):
    """In `join`, and wherever frames enter without it."""
    strange = SAMPLES.astype({"label": object})
    strange.at[3, "label"] = label
    where = f"1 of 10 labels are neither 0 nor 1, the first of sample '1-b' is {words}:"
    with pytest.raises(JudgedError, match=re.escape(where)):
        join(make_verdicts(SAID), strange)
    judged = join(make_verdicts(SAID), SAMPLES).astype({"label": object})
    judged.at[3, "label"] = label
    judged = judged.assign(split="test")
    enters = [
        rates, pair_anatomy, compare, cochran_q, Panel.of, first_draws,
        cost_table, default_rates, decompose, lambda f: _escalation_band(f, 0.5),
        lambda f: noise_bounds(f, [0.1]),
        lambda f: calibrated_points(f, [0.1]), lambda f: resplit_check(f, 0.1, n=2),
        lambda f: _cascade(f, f, 0.2, 0.6), lambda f: cascade_sweep(f, f),
        lambda f: curve_table(f, np.random.default_rng(0)),
        lambda f: roc(f["score"], f["label"]),
        lambda f: Bootstrap.of(f, np.random.default_rng(0), resamples=2),
        lambda f: Paired.of(f, np.random.default_rng(0), resamples=2),
        lambda f: matrix(f, ["a"], seen={"a": ["sg_qa"]}, resamples=2),
        lambda f: Transfer(f, {"a": ["sg_qa"]}, 2).means(np.random.default_rng(0)),
    ]
    for enter in enters:
        with pytest.raises(JudgedError, match="neither 0 nor 1"):
            enter(judged)


@pytest.mark.parametrize("kind", [int, float, bool, "Int64", "boolean", object])
def test_labels_that_say_0_or_1_are_read_in_any_type(kind):
    samples = SAMPLES.astype({"label": kind})
    pd.testing.assert_frame_equal(rates(join(make_verdicts(SAID), samples)),
                                  rates(join(make_verdicts(SAID), SAMPLES)))


def test_a_sample_with_two_labels_is_refused():
    judged = join(make_verdicts(SAID), SAMPLES)
    other = judged.assign(name="b", label=1 - judged["label"])
    with pytest.raises(JudgedError, match="has label 0 in one row and 1 in another"):
        compare(pd.concat([judged, other], ignore_index=True))


def test_ledger_counts_every_verdict_and_gives_the_commonest_reason():
    said = SAID | {"0-m": "refused", "1-m": "refused", "2-b": "error"}
    verdicts = make_verdicts(said)
    verdicts.loc[verdicts["sample_id"] == "1-m", "evidence"] = "another reason"
    verdicts = pd.concat([verdicts, make_verdicts(SAID, draw=1)])
    found = ledger(join(verdicts, SAMPLES)).set_index("status")
    assert found["verdicts"].to_dict() == {
        "parsed": 17, "unparsed": 0, "refused": 2, "truncated": 0, "error": 1
    }  # fmt: skip
    assert found["share"].sum() == pytest.approx(1)
    assert found["reasons"].to_dict() == {
        "parsed": 0, "unparsed": 0, "refused": 2, "truncated": 0, "error": 1
    }  # fmt: skip
    assert found.loc["error", "reason"] == "why error"
    assert found.loc["refused", "reason"] in ("why refused", "another reason")
    assert found.loc["parsed", "reason"] == ""
