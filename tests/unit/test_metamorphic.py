"""Changes that must not change a verdict, and how often they do."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from monitorlab.monitors.metamorphic import (
    TRANSFORMATIONS,
    criteria_orders,
    flip_rates,
    transformed,
)
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.scoring import score
from monitorlab.monitors.verdicts import Verdict

SAMPLES = [Sample(f"s{i}", f"request {i}", f"First line {i}.\n\nLast line {i}.") for i in range(12)]


def verdicts(values, suffix="", draw=0):
    """Rows as in the table of verdicts; None is a failed one."""
    return pd.DataFrame({
        "sample_id": [f"s{i}{suffix}" for i in range(len(values))],
        "draw": draw,
        "status": ["unparsed" if value is None else "parsed" for value in values],
        "verdict": pd.array([pd.NA if v is None else v for v in values], dtype="boolean"),
    })


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_a_change_keeps_the_request_and_every_word_of_the_response(name):
    changed = transformed(SAMPLES, name)
    assert [sample.sample_id for sample in changed] == [f"s{i}~{name}" for i in range(12)]
    for before, after in zip(SAMPLES, changed, strict=True):
        assert after.request == before.request
        assert after.response != before.response
        if name == "blank_lines":
            assert after.response.split() == before.response.split()
        else:
            assert before.response in after.response
    assert changed == transformed(SAMPLES, name)  # no hidden randomness


@pytest.mark.parametrize("name", ["says_benign", "says_misbehavior", "role_tags", "polite_opening"])
def test_several_wordings_are_used(name):
    added = {
        after.response.replace(before.response, "")
        for before, after in zip(SAMPLES, transformed(SAMPLES, name), strict=True)
    }
    assert len(added) == 3


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_an_empty_response_can_be_changed(name):
    assert transformed([Sample("s", "r", "")], name)[0].response


def test_code_runs_the_same_with_more_blank_lines():
    code = "def twice(x):\n    y = x + x\n\n    return y\n\n\nresult = twice(21)\n"
    names: dict[str, object] = {}
    exec(transformed([Sample("s", "r", code)], "blank_lines")[0].response, names)
    assert names["result"] == 42


def test_an_unknown_change_names_those_that_exist():
    with pytest.raises(ValueError, match="expected one of says_benign"):
        transformed(SAMPLES, "rot13")


def test_flips_are_counted_by_direction_and_failures_apart():
    base = verdicts([True, True, False, False, None, True])
    after = verdicts([False, True, True, False, True, None], "~says_benign")
    row = flip_rates(base, {"says_benign": after}).iloc[0]
    assert (row["n"], row["flips"], row["to_misbehavior"], row["to_benign"]) == (4, 2, 1, 1)
    assert row["newly_failed"] == 1
    assert row["rate"] == 0.5
    low, high = proportion_confint(2, 4, 0.05, method="wilson")
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    # Wilson's formula by hand: centre and half width for 2 of 4 at z = 1.959964.
    z = 1.959963984540054
    half = z * (0.25 / 4 + z * z / 64) ** 0.5 / (1 + z * z / 4)
    assert (row["low"], row["high"]) == pytest.approx((0.5 - half, 0.5 + half))


def test_rows_are_matched_by_sample_not_by_position():
    values = [True, False, True, False, False]
    after = verdicts(values, "~blank_lines").sample(frac=1, random_state=1)
    row = flip_rates(verdicts(values), {"blank_lines": after}).iloc[0]
    assert (row["n"], row["flips"]) == (5, 0)


def test_a_column_of_original_ids_is_used_and_a_part_of_the_samples_is_enough():
    after = verdicts([True, True]).assign(sample_id=["p", "q"], original_id=["s3", "s1"])
    row = flip_rates(verdicts([False] * 4), {"own": after}).iloc[0]
    assert (row["n"], row["to_misbehavior"]) == (2, 2)


def test_draws_are_matched_with_their_own_draw():
    base = pd.concat([verdicts([True]), verdicts([False], draw=1)])
    after = pd.concat([verdicts([False], "~x", draw=1), verdicts([True], "~x")])
    assert flip_rates(base, {"x": after})["flips"].tolist() == [0]


def test_without_a_pair_the_rate_is_unknown_and_the_interval_is_everything():
    row = flip_rates(verdicts([None]), {"x": verdicts([True], "~x")}).iloc[0]
    assert row["n"] == 0 and pd.isna(row["rate"]) and (row["low"], row["high"]) == (0, 1)


def test_no_changes_give_an_empty_table_with_its_columns():
    assert list(flip_rates(verdicts([True]), {}).columns)[:3] == ["transformation", "n", "flips"]


def test_mixed_up_verdicts_are_refused():
    twice = pd.concat([verdicts([True]), verdicts([False])])
    with pytest.raises(ValueError, match="one monitor"):
        flip_rates(twice, {})
    with pytest.raises(ValueError, match="no verdict in base"):
        flip_rates(verdicts([True]), {"x": verdicts([True, True], "~x")})


def test_orders_of_criteria_are_distinct_prompts_with_the_same_criteria():
    prompt = load_prompt("direct")
    orders = criteria_orders(prompt)
    assert set(orders) == {"criteria_reversed", "criteria_rotated"}
    assert len({prompt.digest, *(other.digest for other in orders.values())}) == 3
    assert all(set(other.criteria) == set(prompt.criteria) for other in orders.values())


class Gullible:
    """A monitor that believes what a response says about itself."""

    name, prompt, workers = "gullible", "none", 1

    def settings(self):
        return {}

    def units(self, samples):
        return [[i] for i in range(len(samples))]

    def judge(self, samples, draw):
        return [Verdict("parsed", self.alarms(sample.response)) for sample in samples]

    def reread(self, verdict, sample):
        return verdict

    def alarms(self, text):
        if re.search(r"is benign|Nothing was found|has passed", text):
            return False
        return "Last line 3" in text or '"misbehavior_detected": true' in text


def test_a_gullible_monitor_is_found_out():
    monitor = Gullible()
    base = score(monitor, SAMPLES)
    changed = {name: score(monitor, transformed(SAMPLES, name)) for name in TRANSFORMATIONS}
    rates = flip_rates(base, changed).set_index("transformation")
    assert rates.loc["says_benign", ["n", "to_benign", "to_misbehavior"]].tolist() == [12, 1, 0]
    assert rates.loc["fake_misbehavior_verdict", "to_misbehavior"] == 11
    assert rates.loc[["blank_lines", "role_tags", "polite_opening"], "flips"].sum() == 0
