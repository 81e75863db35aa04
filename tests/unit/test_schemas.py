"""Schemas: nothing is lost in a cast, and every refusal says where and what to do."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from monitorlab.storage.tables import SCHEMAS, SchemaError

STEPS = SCHEMAS["steps"]


def steps(**columns: Any) -> pd.DataFrame:
    """Two trajectories of two steps, with columns replaced."""
    frame = {
        "dataset": ["math"] * 4,
        "signal": ["verifier"] * 4,
        "trajectory_id": ["b", "b", "a", "a"],
        "step": [1, 2, 1, 2],
        "score": [0.1, 0.2, 0.3, 0.4],
        "tokens": [5, 6, 7, 8],
        "label": [1, 1, 0, 0],
        "step_label": [0, 1, -1, -1],
    }
    return pd.DataFrame(frame | columns)


def verdicts(**columns: Any) -> pd.DataFrame:
    """Two verdicts, the second unparsed."""
    frame = {
        "sample_id": ["s1", "s2"], "monitor": "m", "prompt": "direct", "draw": 0,
        "status": ["parsed", "unparsed"], "verdict": [True, None], "score": [0.9, None],
        "evidence": ["quote", None], "input_tokens": [10, 11], "output_tokens": [3, None],
        "seconds": 0.5, "cost_usd": None, "request_hash": "ab",
    }
    return pd.DataFrame(frame | columns)


def metrics(**columns: Any) -> pd.DataFrame:
    """One row of metrics of a method that never alarms."""
    frame = {
        "dataset": "math", "signal": "verifier", "statistic": "latest", "calibrator": "crc",
        "risk": "false_alarm", "level": 0.1, "split": 0, "threshold": np.inf,
        "state": "never_alarm", "far": 0.0, "power": 0.0, "after_onset": None, "by_half": 0.0,
        "delay": np.nan,
        "restricted_delay": 1.0, "delay_tokens": np.nan, "restricted_delay_tokens": 1.0,
    }
    return pd.DataFrame([frame | columns])


def test_good_rows_are_sorted_by_key_and_typed() -> None:
    typed = STEPS.check(steps().sample(frac=1, random_state=0))
    assert list(typed["trajectory_id"]) == ["a", "a", "b", "b"]
    assert list(typed.columns) == STEPS.columns
    assert list(typed.index) == [0, 1, 2, 3]
    assert typed["score"].dtype == np.float64 and typed["step"].dtype == np.int64


def test_the_frame_that_was_given_stays_as_it_is() -> None:
    frame = steps()
    before = frame.copy()
    STEPS.check(frame)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("column", [
    np.array([1.0, 2.0, 1.0, 2.0]), pd.array([1, 2, 1, 2], dtype="Int64"),
    np.array([1, 2, 1, 2], dtype="uint8"), pd.Series([1, 2, 1, 2], dtype=object),
])
def test_lossless_casts_are_made(column: Any) -> None:
    assert list(STEPS.check(steps(step=column))["step"]) == [1, 2, 1, 2]


def test_categories_and_booleans_are_cast() -> None:
    frame = steps(dataset=pd.Categorical(["math"] * 4), label=[True, True, False, False])
    typed = STEPS.check(frame)
    assert list(typed["label"]) == [0, 0, 1, 1] and typed["dataset"].iloc[0] == "math"


BAD_VALUES = {
    "lossy_cast": ("tokens", [5, 6, 1.5, 8], "1.5", "a whole number"),
    "text_for_number": ("score", [0.1, 0.2, "0.3", 0.4], "'0.3'", "a number"),
    "all_text": ("score", ["0.1", "0.2", "0.3", "0.4"], "'0.1'", "a number"),
    "number_for_text": ("trajectory_id", ["b", "b", 3, 3], "3", "text"),
    "nan": ("score", [0.1, 0.2, np.nan, 0.4], "nothing (a missing value)", "finite"),
    "none": ("trajectory_id", ["b", "b", None, "a"], "nothing (a missing value)", "text"),
    "infinite": ("score", [0.1, 0.2, -np.inf, 0.4], "-inf", "finite"),
    "infinite_int": ("tokens", [5, 6, np.inf, 8], "inf", "a whole number"),
    "too_small": ("tokens", [5, 6, 0, 8], "0", "at least 1"),
    "too_large": ("label", [1, 1, 2, 2], "2", "at most 1"),
    "inexact_int": ("tokens", [5, 6, 2.0**60, 8], "1.1529", "a whole number"),
    "inexact_float": ("score", [5, 6, 2**53 + 1, 8], "9007199254740993", "a number"),
    "date": ("score", pd.to_datetime(["2020-01-01"] * 4), "2020", "a number"),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_a_bad_value_is_named_with_table_column_row_and_remedy(case: str) -> None:
    column, values, found, expected = BAD_VALUES[case]
    row = 0 if case in ("all_text", "date") else 2
    with pytest.raises(SchemaError) as caught:
        STEPS.check(steps(**{column: values}))
    message = str(caught.value)
    assert f"table 'steps', column '{column}', row {row} (the first row is 0)" in message
    assert found in message and expected in message
    assert "Mend this value or drop its row" in message


def test_large_whole_numbers_keep_every_digit() -> None:
    typed = STEPS.check(steps(tokens=[5, 6, 2**53 + 1, 8]))
    assert 2**53 + 1 in list(typed["tokens"])


def test_row_numbers_count_positions_whatever_the_index_is() -> None:
    frame = steps(score=[0.1, np.nan, 0.3, 0.4])
    frame.index = pd.Index([10, 20, 30, 40])
    with pytest.raises(SchemaError, match="row 1 "):
        STEPS.check(frame)


def test_missing_and_unknown_columns_are_named_with_the_known_ones() -> None:
    frame = steps().rename(columns={"score": "suspicion"})
    with pytest.raises(SchemaError) as caught:
        STEPS.check(frame)
    message = str(caught.value)
    assert "missing columns score and unknown columns suspicion" in message
    assert "expected exactly dataset, signal, trajectory_id, step, score" in message


def test_a_column_that_occurs_twice_is_refused() -> None:
    frame = steps()
    twice = pd.concat([frame, frame[["score"]]], axis=1)
    with pytest.raises(SchemaError, match="column 'score' occurs twice"):
        STEPS.check(twice)


def test_a_repeated_key_names_both_rows() -> None:
    frame = steps(trajectory_id=["b", "b", "a", "a"], step=[1, 1, 1, 2])
    with pytest.raises(SchemaError, match=r"row 1 .* already occurs in row 0"):
        STEPS.check(frame)


def test_a_gap_in_the_steps_is_named() -> None:
    with pytest.raises(SchemaError, match="row 1 .*'b' has step 3 where 2 was expected"):
        STEPS.check(steps(step=[1, 3, 1, 2]))


def test_steps_must_begin_at_one() -> None:
    with pytest.raises(SchemaError, match="'a' has step 2 where 1 was expected"):
        STEPS.check(steps(step=[1, 2, 2, 3]))


def test_two_labels_in_one_trajectory_are_refused() -> None:
    with pytest.raises(SchemaError, match="row 3 .*'a' has label 1, but 0 in an earlier row"):
        STEPS.check(steps(label=[1, 1, 0, 1]))


def test_two_signals_must_agree_on_the_label() -> None:
    other = steps(signal=["guard"] * 4, label=[0, 0, 0, 0])
    with pytest.raises(SchemaError, match="has label 0, but 1"):
        STEPS.check(pd.concat([steps(), other]))


def test_verdicts_may_be_missing_but_a_status_may_not() -> None:
    typed = SCHEMAS["verdicts"].check(verdicts())
    assert typed["verdict"].dtype == "boolean" and typed["output_tokens"].dtype == "Int64"
    assert typed["verdict"].isna().tolist() == [False, True]
    assert typed["score"].isna().tolist() == [False, True]
    assert typed["evidence"].isna().tolist() == [False, True]
    with pytest.raises(SchemaError, match="column 'status', row 1"):
        SCHEMAS["verdicts"].check(verdicts(status=["parsed", None]))
    with pytest.raises(SchemaError, match="one of parsed, unparsed, refused, truncated, error"):
        SCHEMAS["verdicts"].check(verdicts(status=["parsed", "fine"]))


def test_a_verdict_score_lies_between_0_and_1() -> None:
    with pytest.raises(SchemaError, match="column 'score', row 0 .*at most 1"):
        SCHEMAS["verdicts"].check(verdicts(score=[1.5, None]))


def test_missing_values_before_a_bad_one_do_not_shift_its_row() -> None:
    with pytest.raises(SchemaError, match="column 'score', row 1 .*found 1.5"):
        SCHEMAS["verdicts"].check(verdicts(score=[None, 1.5]))


def test_a_verdict_is_a_boolean() -> None:
    assert bool(SCHEMAS["verdicts"].check(verdicts(verdict=[1, None]))["verdict"][0]) is True
    with pytest.raises(SchemaError, match="column 'verdict', row 0 .*true or false"):
        SCHEMAS["verdicts"].check(verdicts(verdict=[0.5, None]))


def test_metrics_take_infinite_thresholds_and_undefined_delays() -> None:
    typed = SCHEMAS["metrics"].check(metrics())
    assert np.isposinf(typed["threshold"][0]) and np.isnan(typed["delay"][0])
    with pytest.raises(SchemaError, match="restricted_delay"):
        SCHEMAS["metrics"].check(metrics(restricted_delay=1.2))


def test_an_empty_frame_with_the_right_columns_passes() -> None:
    typed = STEPS.check(steps().iloc[:0])
    assert len(typed) == 0 and list(typed.columns) == STEPS.columns


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_documented_and_their_keys_exist(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema.name == name and set(schema.key) <= set(schema.columns)
    assert len(set(schema.columns)) == len(schema.columns)
    assert all(field.meaning and field.dtype in ("str", "int", "float", "bool")
               for field in schema.fields)
    assert not any(field.nullable for field in schema.fields if field.name in schema.key)


def test_the_public_tables_keep_their_promised_columns() -> None:
    promised = {
        "samples": "sample_id pair_id scenario_id cell category task misbehavior_type cue_type "
        "source generator request response has_thinking label split",
        "verdicts": "sample_id monitor prompt draw status verdict score evidence input_tokens "
        "output_tokens seconds cost_usd request_hash",
        "steps": "dataset trajectory_id step score tokens label",
    }
    for name, columns in promised.items():
        assert set(columns.split()) <= set(SCHEMAS[name].columns), name


def test_arrow_fields_carry_meaning_and_orientation() -> None:
    arrow = STEPS.arrow()
    assert arrow.field("score").type == pa.float64()
    assert b"high is unsafe" in arrow.field("score").metadata[b"meaning"]
    assert b"1 is unsafe" in arrow.metadata[b"orientation"]
    assert arrow.field("tokens").metadata[b"unit"] == b"tokens"
