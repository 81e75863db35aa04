"""Paired comparisons: hand-made pairs, and scipy and statsmodels one pair of monitors at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, ttest_1samp
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from monitorlab.evaluation.bootstrap import Paired
from monitorlab.evaluation.comparisons import (
    ERRORS,
    _newcombe_paired,
    cochran_q,
    compare,
    mcnemar_exact,
    pair_anatomy,
    sign_flip,
)
from monitorlab.evaluation.rates import ALARM, FAILED, NOT_ASKED, SILENT, Panel
from monitorlab.statistics.intervals import wilson


def make_judged(
    states: dict[str, np.ndarray], cells: tuple[str, ...] = ("sg_qa",), scenario: int = 1
) -> pd.DataFrame:
    """Judged verdicts from states per monitor, misbehaving and benign answers in turn.

    So many samples make a scenario; with one, the units are samples.
    """
    tables = []
    for name, state in states.items():
        number = np.arange(len(state))
        pair = number // 2
        verdict = pd.Series(state == ALARM, dtype="boolean").where(state >= SILENT)
        table = pd.DataFrame({
            "name": name, "sample_id": [f"{i:05d}" for i in number], "draw": 0,
            "pair_id": [f"{i:05d}" for i in pair], "label": 1 - number % 2,
            "scenario_id": [f"{i // scenario:05d}" for i in number],
            "cell": [cells[i % len(cells)] for i in pair], "verdict": verdict, "score": np.nan,
            "status": np.where(state >= SILENT, "parsed", "unparsed"),
        })  # fmt: skip
        tables.append(table[state != NOT_ASKED])
    return pd.concat(tables, ignore_index=True)


def random_states(monitors: int, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = 1 - np.arange(samples) % 2
    states = {}
    for number in range(monitors):
        right = random.random(samples) < 0.6 + 0.35 * number / monitors
        failed = random.random(samples) < 0.05
        state = np.where(right, labels, 1 - labels)
        states[f"m{number}"] = np.where(failed, FAILED, state)
    return states


def test_anatomy_of_five_pairs_each_treated_differently():
    state = np.array([ALARM, SILENT, ALARM, ALARM, SILENT, SILENT, SILENT, ALARM,
                      ALARM, FAILED, FAILED, FAILED, ALARM, NOT_ASKED])  # fmt: skip
    found = pair_anatomy(make_judged({"a": state})).set_index("treatment")
    assert found["count"].to_dict() == {
        "discriminates": 1, "both": 1, "blind": 1, "inverted": 1, "undecided": 2
    }  # fmt: skip
    assert set(found["pairs"]) == {6} and set(found["incomplete"]) == {1}
    low, high = wilson(2, 6)
    assert found.loc["undecided", ["share", "low", "high"]].tolist() == pytest.approx(
        [2 / 6, float(low), float(high)]
    )


def test_anatomy_takes_scenarios_as_units():
    """Scenarios of five pairs that are all treated alike say as much as one pair each."""
    state = np.repeat(np.random.default_rng(0).random(60) < 0.4, 5)
    judged = make_judged({"a": np.repeat(np.where(state, ALARM, SILENT), 2)}, scenario=10)
    found = pair_anatomy(judged).set_index("treatment").loc["both"]
    low, high = (float(end) for end in wilson(found["count"] / 5, 60))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.01)
    pairs = pair_anatomy(judged, unit="pair").set_index("treatment").loc["both"]
    assert [pairs["low"], pairs["high"]] == pytest.approx(
        [float(end) for end in wilson(found["count"], 300)])


def test_anatomy_by_cell_adds_up_to_the_whole():
    judged = make_judged(random_states(3, 400), cells=("sg_qa", "spv_qa", "syco_qa"))
    whole = pair_anatomy(judged).set_index(["name", "treatment"])["count"]
    parts = pair_anatomy(judged, by=("name", "cell"))
    added = parts.groupby(["name", "treatment"])["count"].sum()
    pd.testing.assert_series_equal(added, whole.sort_index())
    assert len(parts) == 3 * 3 * 5
    assert (parts.groupby(["name", "cell"])["share"].sum() - 1).abs().max() < 1e-12


def test_anatomy_of_one_label_only_has_no_whole_pair():
    judged = make_judged({"a": np.array([ALARM, SILENT] * 3)})
    found = pair_anatomy(judged[judged["label"] == 1])
    assert set(found["pairs"]) == {0} and set(found["incomplete"]) == {3}
    assert found["share"].isna().all()


def test_anatomy_refuses_a_pair_with_two_answers_of_one_label():
    judged = make_judged({"a": np.array([ALARM, SILENT, ALARM, SILENT])}).assign(pair_id="p")
    with pytest.raises(ValueError, match=r"two verdicts on answers of pair 'p' with label 1"):
        pair_anatomy(judged)


def test_mcnemar_agrees_with_statsmodels_at_every_small_table():
    for b, c in itertools.product(range(15), repeat=2):
        expected = mcnemar([[3, b], [c, 4]], exact=True).pvalue if b + c else 1.0
        assert float(mcnemar_exact(b, c)) == pytest.approx(min(expected, 1.0), abs=1e-12)
    assert float(mcnemar_exact(700, 500)) == pytest.approx(
        mcnemar([[0, 700], [500, 0]], exact=True).pvalue, rel=1e-9
    )


def by_enumeration(gaps: np.ndarray) -> float:
    signs = np.array(list(itertools.product([1, -1], repeat=len(gaps))))
    return float(np.mean(np.abs(signs @ gaps) >= abs(gaps.sum())))


def test_sign_flips_are_exact_over_all_signs():
    random = np.random.default_rng(0)
    for _ in range(200):
        gaps = random.integers(-4, 5, random.integers(1, 11))
        assert sign_flip(gaps) == pytest.approx(by_enumeration(gaps), abs=1e-12)
    assert sign_flip(np.zeros(5, int)) == 1.0 and sign_flip(np.array([], int)) == 1.0


def test_sign_flips_of_single_samples_are_mcnemar():
    for b, c in itertools.product(range(12), repeat=2):
        gaps = np.repeat([1, -1, 0], [b, c, 3])
        assert sign_flip(gaps) == pytest.approx(float(mcnemar_exact(b, c)), abs=1e-12)
    assert sign_flip(np.repeat([1, -1], [900, 500])) == pytest.approx(
        float(mcnemar_exact(900, 500)), rel=1e-9)  # about 1e-26


def test_newcombe_published_example():
    difference, low, high = _newcombe_paired(14, 5, 0, 22)
    assert [float(difference), float(low), float(high)] == pytest.approx(
        [0.1220, 0.0115, 0.2265], abs=5e-5
    )


def test_newcombe_turns_with_the_order_and_stays_in_range():
    random = np.random.default_rng(1)
    a, b, c, d = random.integers(0, 12, (4, 500))
    difference, low, high = _newcombe_paired(a, b, c, d)
    turned = _newcombe_paired(a, c, b, d)
    np.testing.assert_allclose([-turned[0], -turned[2], -turned[1]], [difference, low, high])
    told = a + b + c + d > 0
    inside = (low >= -1) & (low <= difference) & (difference <= high) & (high <= 1)
    assert inside[told].all()
    assert np.isnan(_newcombe_paired(0, 0, 0, 0)[0])


def naive(judged: pd.DataFrame, error: str) -> pd.DataFrame:
    """One pair of monitors at a time, sample by sample, with the libraries' own tests."""
    kept = {"miss": [1], "false_alarm": [0], "wrong": [0, 1]}[error]
    told = judged[judged["label"].isin(kept)]
    wide = told.pivot(index="sample_id", columns="name", values="verdict")
    labels = told.groupby("sample_id")["label"].first()
    rows = []
    for first, second in itertools.combinations(sorted(wide.columns), 2):
        table = np.zeros((2, 2), int)
        left_out = 0
        for sample, x, y in zip(wide.index, wide[first], wide[second], strict=True):
            if pd.isna(x) or pd.isna(y):
                left_out += 1
            else:
                table[int(x == labels[sample]), int(y == labels[sample])] += 1
        rows.append({"first": first, "second": second, "n": table.sum(), "left_out": left_out,
                     "b": table[0, 1], "c": table[1, 0],
                     "difference": (table[0].sum() - table[:, 0].sum()) / table.sum(),
                     "p": mcnemar(table, exact=True).pvalue})  # fmt: skip
    result = pd.DataFrame(rows)
    return result.assign(p_holm=multipletests(result["p"], method="holm")[1])


@pytest.mark.parametrize("error", ERRORS)
def test_all_comparisons_agree_with_one_at_a_time(error):
    judged = make_judged(random_states(5, 300))
    found = compare(judged)
    found = found[found["error"] == error].reset_index(drop=True)
    expected = naive(judged, error)
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False, rtol=1e-9)
    assert (found["separated"] == (expected["p_holm"] <= 0.05)).all()
    assert 0 < found["separated"].sum() < len(found)
    fewer = found["second"].where(found["difference"] > 0, found["first"])
    assert (found["better"] == fewer.where(found["separated"], "")).all()


def clustered_states(seed: int = 0, samples: int = 300, size: int = 10) -> dict[str, np.ndarray]:
    """Two monitors of equal quality on average that err on whole scenarios."""
    random = np.random.default_rng(seed)
    labels = 1 - np.arange(samples) % 2
    states = {}
    for name in "ab":
        wrong = np.repeat(random.random(samples // size) < 0.35, size)
        states[name] = np.where(wrong, 1 - labels, labels)
    return states


def test_errors_that_come_by_scenario_are_tested_by_scenario():
    """For the same verdicts McNemar sees hundreds of samples where there are thirty scenarios."""
    mcnemar_says = flips_say = 0
    for seed in range(20):
        judged = make_judged(clustered_states(seed), scenario=10)
        row = compare(judged).set_index("error").loc["wrong"]
        table = judged.assign(wrong=judged["verdict"].astype(bool) != (judged["label"] == 1))
        wide = table.pivot_table(index="scenario_id", columns="name", values="wrong", aggfunc="sum")
        gaps = (wide["a"] - wide["b"]).to_numpy().astype(int)
        assert row["p"] == sign_flip(gaps)
        assert row["p_mcnemar"] == pytest.approx(float(mcnemar_exact(row["b"], row["c"])))
        pairs = compare(judged, unit="pair").set_index("error").loc["wrong"]
        assert pairs["units"] == 150 and row["units"] == 30 and row["n"] == 300
        assert row["separated"] == (row["p"] <= 0.05)
        mcnemar_says += row["p_mcnemar"] <= 0.05
        flips_say += row["separated"]
    assert mcnemar_says > 7 and flips_say <= 4


def test_the_interval_of_a_difference_is_as_wide_as_a_bootstrap_of_scenarios():
    random = np.random.default_rng(3)
    states = {}
    labels = 1 - np.arange(1200) % 2
    for name, rate in (("a", 0.4), ("b", 0.3)):
        wrong = np.where(random.random(1200) < 0.6, np.repeat(random.random(120) < rate, 10),
                         random.random(1200) < rate)
        states[name] = np.where(wrong, 1 - labels, labels)
    judged = make_judged(states, scenario=10)
    row = compare(judged).set_index("error").loc["miss"]
    drawn = Paired.of(judged, random, resamples=2000, metrics=["mr"]).draws[0, 0, 0]
    assert row["high"] - row["low"] == pytest.approx(2 * 1.98 * drawn.std(), rel=0.1)
    assert row["design_effect"] > 2
    plain = [float(x) for x in _newcombe_paired(*counts(judged))][1:]
    assert row["high"] - row["low"] > 1.4 * (plain[1] - plain[0])


def counts(judged: pd.DataFrame) -> tuple[int, int, int, int]:
    bad = judged[judged["label"] == 1]
    a, b = (~bad.loc[bad["name"] == name, "verdict"].to_numpy(bool) for name in "ab")
    return int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum())


def test_one_scenario_separates_nothing():
    state = np.repeat([ALARM, SILENT], 40)
    judged = make_judged({"a": state, "b": 1 - state}, scenario=80)
    row = compare(judged).iloc[0]
    assert (row["low"], row["high"], row["units"]) == (-1, 1, 1)
    assert row["p"] == 1 and not row["separated"]


def test_worst_case_is_the_least_favourable_way_to_read_the_failures():
    """Against every completion of the failed verdicts of a small table."""
    first = np.array([SILENT] * 9 + [ALARM] * 3 + [FAILED, SILENT, FAILED])
    second = np.array([ALARM] * 9 + [SILENT, ALARM, ALARM, ALARM, FAILED, FAILED])
    rows = np.repeat([SILENT], 2 * len(first)), np.repeat([SILENT], 2 * len(first))
    for row, state in zip(rows, (first, second), strict=True):
        row[::2] = state
    found = compare(make_judged({"x": rows[0], "y": rows[1]})).iloc[0]
    assert (found["error"], found["b"], found["c"], found["left_out"]) == ("miss", 9, 1, 3)
    open_places = [(side, place) for side, state in enumerate((first, second))
                   for place in np.flatnonzero(state == FAILED)]
    worst = 0.0
    for words in itertools.product([ALARM, SILENT], repeat=len(open_places)):
        read = [first.copy(), second.copy()]
        for (side, place), word in zip(open_places, words, strict=True):
            read[side][place] = word
        b = np.sum((read[0] == SILENT) & (read[1] == ALARM))
        c = np.sum((read[0] == ALARM) & (read[1] == SILENT))
        worst = max(worst, float(mcnemar_exact(b, c)) if b > c else 1.0)
    assert found["p_worst"] == pytest.approx(worst)
    assert found["p"] < found["p_worst"] < 1
    assert found["separated"] and not found["survives"]


def test_failures_that_could_turn_the_order_leave_no_separation():
    first, second = np.repeat([SILENT, ALARM], [12, 40]), np.repeat([ALARM, FAILED], [12, 40])
    states = {name: np.repeat(state, 2) for name, state in (("x", first), ("y", second))}
    found = compare(make_judged(states)).iloc[0]
    assert (found["b"], found["c"], found["left_out"]) == (12, 0, 40)
    assert found["better"] == "y" and found["p"] < 0.001
    assert found["p_worst"] == 1  # read against y, the failures would make x the better one


def test_without_failures_the_worst_case_is_the_case():
    states = {name: np.where(s == FAILED, SILENT, s) for name, s in random_states(4, 300).items()}
    found = compare(make_judged(states))
    differ = found["b"] != found["c"]
    np.testing.assert_allclose(found["p_worst"][differ], found["p"][differ])
    assert (found["left_out"] == 0).all()
    assert (found.loc[differ, "survives"] == found.loc[differ, "separated"]).all()


def test_samples_that_one_monitor_was_not_asked_about_are_not_failures():
    states = random_states(2, 100)
    states["m1"][:40] = NOT_ASKED
    found = compare(make_judged(states)).set_index("error")
    both = ((states["m0"][40:] >= SILENT) & (states["m1"][40:] >= SILENT)).sum()
    assert found.loc["wrong", "n"] == both
    assert found.loc["wrong", "left_out"] == 60 - both


def test_cochran_q_by_its_formula():
    judged = make_judged(random_states(4, 300))
    found = cochran_q(judged).set_index("error")
    data = Panel.of(judged)
    for error, kept in (("miss", [1]), ("false_alarm", [0]), ("wrong", [0, 1])):
        chosen = np.isin(data.labels, kept) & (data.verdicts >= SILENT).all(axis=1)
        wrong = (data.verdicts != data.labels[:, None])[chosen].astype(int)
        columns, rows, k = wrong.sum(axis=0), wrong.sum(axis=1), 4
        spread = k * np.sum(columns**2) - columns.sum() ** 2
        q = (k - 1) * spread / (k * rows.sum() - np.sum(rows**2))
        assert found.loc[error, "q"] == pytest.approx(q)
        assert found.loc[error, "p_samples"] == pytest.approx(chi2.sf(q, 3))
        left_out = np.isin(data.labels, kept).sum() - chosen.sum()
        assert found.loc[error, ["n", "left_out"]].tolist() == [chosen.sum(), left_out]


def test_hotelling_of_two_monitors_is_the_t_test_of_scenario_totals():
    judged = make_judged({name: state for name, state in random_states(2, 400, 5).items()},
                         scenario=8)
    found = cochran_q(judged).set_index("error").loc["wrong"]
    whole = judged.groupby("sample_id")["status"].transform(lambda s: (s == "parsed").all())
    told = judged[whole].assign(wrong=lambda f: f["verdict"].astype(bool) != (f["label"] == 1))
    wide = told.pivot_table(index="scenario_id", columns="name", values="wrong", aggfunc="sum")
    expected = ttest_1samp((wide["m1"] - wide["m0"]).astype(float), 0)
    assert found["p"] == pytest.approx(expected.pvalue)
    assert found["t2"] == pytest.approx(expected.statistic**2) and found["units"] == len(wide)


def test_equal_errors_by_scenario_are_not_told_apart_by_their_samples():
    judged = make_judged(clustered_states(1) | {"c": clustered_states(2)["a"]}, scenario=10)
    found = cochran_q(judged).set_index("error").loc["wrong"]
    assert found["p_samples"] < 0.01 < 0.05 < found["p"]
    few = cochran_q(make_judged(clustered_states(1, 20), scenario=20)).iloc[0]
    assert np.isnan(few["p"]) and few["units"] == 1


def test_monitors_that_never_differ_are_not_separated():
    state = random_states(1, 80)["m0"]
    judged = make_judged({"a": state, "b": state, "c": state})
    assert (cochran_q(judged)["p"] == 1).all() and (cochran_q(judged)["q"] == 0).all()
    found = compare(judged)
    assert (found["p"] == 1).all() and (found["difference"] == 0).all()
    assert not found["separated"].any() and (found["better"] == "").all()


def test_one_monitor_alone_gives_empty_tables():
    judged = make_judged(random_states(1, 20))
    assert len(compare(judged)) == 0 and "p_holm" in compare(judged)
    assert len(cochran_q(judged)) == 0


def test_several_draws_are_refused():
    judged = make_judged(random_states(2, 20))
    with pytest.raises(ValueError, match="'m0' judged a sample several times"):
        compare(pd.concat([judged, judged.assign(draw=1)]))
