"""Typed tables: what every file that passes between notebooks holds.

A schema says, per column, its type, unit, meaning, range and whether it may be missing.
`check` is the door: it casts without losing anything, or says which row is wrong.
One orientation everywhere: `score` is suspicion, high is unsafe; `label` 1 is unsafe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

LARGEST_EXACT = 2**53  # above this a float64 no longer holds every integer
TYPES = {
    "str": ("str", "str", pa.string()),
    "int": ("int64", "Int64", pa.int64()),
    "float": ("float64", "float64", pa.float64()),
    "bool": ("bool", "boolean", pa.bool_()),
}
KINDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}


class SchemaError(ValueError):
    """A frame does not fit its schema; the message says where and what to do."""


@dataclass(frozen=True)
class Field:
    """One column.

    Attributes
    ----------
    name : str
        Column name.
    dtype : str
        "str", "int", "float" or "bool".
    unit : str
        Unit of the values; empty for text and pure numbers.
    meaning : str
        One clause, with the orientation where there is one.
    minimum, maximum : float or None
        Inclusive range of numbers.
    nullable : bool
        Whether a value may be missing.
    choices : tuple of str
        Allowed texts; empty means any.
    infinite : bool
        Whether a float may be +inf or -inf.
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    minimum: float | None = None
    maximum: float | None = None
    nullable: bool = False
    choices: tuple[str, ...] = ()
    infinite: bool = False

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        words = [KINDS[self.dtype]]
        if self.choices:
            words.append("one of " + ", ".join(self.choices))
        if self.minimum is not None:
            words.append(f"at least {self.minimum:g}")
        if self.maximum is not None:
            words.append(f"at most {self.maximum:g}")
        if self.dtype == "float":
            words.append("infinities allowed" if self.infinite else "finite")
        if self.nullable:
            words.append("may be missing")
        return ", ".join(words)

    def arrow(self) -> pa.Field:
        """Return the Arrow field, with unit and meaning as metadata."""
        words = {"unit": self.unit, "meaning": self.meaning, "expected": self.expected}
        return pa.field(self.name, TYPES[self.dtype][2], nullable=self.nullable, metadata=words)


# A rule looks at the whole cast frame; it returns None or (row, column, what is wrong).
Rule = Callable[[pd.DataFrame], "tuple[int, str, str] | None"]


@dataclass(frozen=True)
class Schema:
    """One table.

    Attributes
    ----------
    name : str
        Table name, also the stem of its file.
    fields : tuple of Field
        Columns, in file order.
    key : tuple of str
        Columns that together identify a row; also the sort order.
    about : str
        What one row is.
    rules : tuple of Rule
        Conditions that concern several rows at once.
    """

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    about: str
    rules: tuple[Rule, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Column names in file order."""
        return [field.name for field in self.fields]

    def arrow(self) -> pa.Schema:
        """Return the Arrow schema; metadata carries meaning, key and orientation."""
        words = {
            "table": self.name,
            "about": self.about,
            "key": ", ".join(self.key),
            "orientation": "score: high is unsafe; label: 1 is unsafe",
        }
        return pa.schema([field.arrow() for field in self.fields], metadata=words)


def check(frame: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Cast `frame` to `schema`, sorted by key, or say what is wrong.

    Parameters
    ----------
    frame : DataFrame
        Any column order and index; row numbers in messages count from 0 in this frame.
    schema : Schema
        What the table must hold.

    Returns
    -------
    DataFrame
        New frame with exactly the schema's columns and a fresh index.

    Raises
    ------
    SchemaError
        For missing or unknown columns, missing values, values of another type (also a cast
        that would lose digits), values out of range, repeated keys, broken rules.
    """
    _check_columns(frame, schema)
    cast = {field.name: _cast(frame[field.name], field, schema.name) for field in schema.fields}
    typed = pd.DataFrame(cast, columns=schema.columns)
    _check_key(typed, schema)
    for rule in schema.rules:
        problem = rule(typed)
        if problem is not None:
            row, column, words = problem
            raise SchemaError(f"{_where(schema.name, column, row)}: {words}")
    return typed.sort_values(list(schema.key), kind="stable", ignore_index=True)


def describe(schema: Schema) -> str:
    """Return the schema as a Markdown table for documentation."""
    lines = [
        f"**{schema.name}**: {schema.about}. Key: {', '.join(f'`{name}`' for name in schema.key)}.",
        "",
        "| column | unit | meaning | expected |",
        "|---|---|---|---|",
    ]
    for field in schema.fields:
        lines.append(f"| `{field.name}` | {field.unit} | {field.meaning} | {field.expected} |")
    return "\n".join(lines)


def _where(table: str, column: str, row: int) -> str:
    return f"table {table!r}, column {column!r}, row {row} (the first row is 0)"


def _check_columns(frame: pd.DataFrame, schema: Schema) -> None:
    repeated = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
    if repeated:
        raise SchemaError(f"table {schema.name!r}: column {repeated[0]!r} occurs twice; keep one")
    missing = [name for name in schema.columns if name not in frame.columns]
    extra = [str(name) for name in frame.columns if name not in schema.columns]
    if missing or extra:
        found = []
        if missing:
            found.append(f"missing columns {', '.join(missing)}")
        if extra:
            found.append(f"unknown columns {', '.join(extra)}")
        raise SchemaError(
            f"table {schema.name!r}: {' and '.join(found)}; "
            f"expected exactly {', '.join(schema.columns)}. Rename, add or drop columns."
        )


def _check_key(frame: pd.DataFrame, schema: Schema) -> None:
    repeated = frame.duplicated(list(schema.key), keep="first").to_numpy()
    if repeated.any():
        row = int(np.argmax(repeated))
        values = frame.loc[row, list(schema.key)]
        same = (frame[list(schema.key)] == values).all(axis=1).to_numpy()
        first = int(np.argmax(same))
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise SchemaError(
            f"{_where(schema.name, ', '.join(schema.key), row)}: the key ({shown}) already occurs "
            f"in row {first}; expected one row per key. Drop or rename one of the two."
        )


def _fail(field: Field, table: str, row: int, value: object) -> SchemaError:
    shown = "nothing (a missing value)" if pd.api.types.is_scalar(value) and pd.isna(value) \
        else repr(value.item() if isinstance(value, np.generic) else value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return SchemaError(
        f"{_where(table, field.name, row)}: found {shown}, expected {field.expected}. "
        f"Mend this value or drop its row ({field.name}: {field.meaning})."
    )


def _cast(column: pd.Series, field: Field, table: str) -> pd.Series:
    values = column.astype(object).to_numpy() if column.dtype == "category" else column.to_numpy()
    absent = pd.isna(column).to_numpy()
    if absent.any() and not field.nullable:
        row = int(np.argmax(absent))
        raise _fail(field, table, row, None)
    present = column[~absent]
    casters = {"str": _as_text, "int": _as_int, "float": _as_float, "bool": _as_bool}
    good, wrong = casters[field.dtype](present)
    wrong = wrong | _out_of_range(good, field, wrong)
    if wrong.any():
        row = int(np.flatnonzero(~absent)[np.argmax(wrong)])
        raise _fail(field, table, row, values[row])
    result = np.full(len(column), np.nan if field.dtype == "float" else pd.NA, dtype=object)
    result[~absent] = good
    return pd.Series(result).astype(TYPES[field.dtype][1 if field.nullable else 0])


def _out_of_range(good: np.ndarray, field: Field, wrong: np.ndarray) -> np.ndarray:
    bad = np.zeros(len(good), dtype=bool)
    if field.choices:
        return ~wrong & ~np.isin(good, field.choices)
    if field.dtype == "float" and not field.infinite:
        bad |= ~np.isfinite(good)
    if field.minimum is not None:
        bad |= good < field.minimum
    if field.maximum is not None:
        bad |= good > field.maximum
    return bad & ~wrong


def _as_text(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    values = column.astype(object).to_numpy()
    wrong = np.array([not isinstance(value, str) for value in values], dtype=bool)
    return values, wrong


def _as_number(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 values and a mask of what is not a real number."""
    if pd.api.types.is_numeric_dtype(column.dtype) and column.dtype.kind in "iufb":
        return column.to_numpy(dtype=np.float64), np.zeros(len(column), dtype=bool)
    numbers = (int, float, np.integer, np.floating, np.bool_)
    wrong = np.array([not isinstance(value, numbers) for value in column], dtype=bool)
    good = np.array([0.0 if bad else float(v) for v, bad in zip(column, wrong, strict=True)])
    return good.astype(np.float64), wrong


def _as_int(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    if column.dtype.kind in "iu":
        too_large = (column > np.iinfo(np.int64).max).to_numpy(dtype=bool)
        return column.where(~too_large, 0).to_numpy(dtype=np.int64), too_large
    values, wrong = _as_number(column)
    with np.errstate(invalid="ignore"):
        wrong |= ~np.isfinite(values) | (values != np.floor(values)) | _is_inexact(values)
    return np.where(wrong, 0.0, values).astype(np.int64), wrong


def _as_float(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    values, wrong = _as_number(column)
    if column.dtype.kind in "iu":
        wrong |= _is_inexact(values)
    return values, wrong


def _is_inexact(values: np.ndarray) -> np.ndarray:
    """Mark floats so large that the whole number they came from is not certain."""
    return abs(values) >= LARGEST_EXACT


def _as_bool(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    values, wrong = _as_number(column)
    wrong |= (values != 0) & (values != 1)
    return values == 1, wrong


def _steps_are_consecutive(frame: pd.DataFrame) -> tuple[int, str, str] | None:
    """Steps of a trajectory are 1, 2, 3, ... without a gap."""
    group = ["dataset", "signal", "trajectory_id"]
    order = frame.sort_values([*group, "step"], kind="stable")
    expected = order.groupby(group, sort=False).cumcount() + 1
    wrong = (order["step"] != expected).to_numpy()
    if not wrong.any():
        return None
    row = int(order.index[np.argmax(wrong)])
    name, found = frame.loc[row, "trajectory_id"], frame.loc[row, "step"]
    return row, "step", (
        f"trajectory {name!r} has step {found} where {expected.loc[row]} was expected. "
        "Number the steps of a trajectory 1, 2, 3, ... without gaps."
    )


def _one_label(frame: pd.DataFrame) -> tuple[int, str, str] | None:
    """A trajectory has one label, whatever the signal."""
    first = frame.groupby(["dataset", "trajectory_id"], sort=False)["label"].transform("first")
    wrong = (frame["label"] != first).to_numpy()
    if not wrong.any():
        return None
    row = int(np.argmax(wrong))
    return row, "label", (
        f"trajectory {frame.loc[row, 'trajectory_id']!r} has label {frame.loc[row, 'label']}, but "
        f"{first.loc[row]} in an earlier row. Give every step the label of its trajectory."
    )


def _text(name: str, meaning: str, *choices: str, nullable: bool = False) -> Field:
    return Field(name, "str", "", meaning, choices=choices, nullable=nullable)


CELLS = ("spv_code", "spv_qa", "syco_qa", "syco_reasoning", "sg_code", "sg_qa")
STATUSES = ("parsed", "unparsed", "refused", "truncated", "error")
LABEL = Field("label", "int", "", "1 is unsafe or misbehavior, 0 is safe or benign", 0, 1)
DATASET = _text("dataset", "name of the data set")
SIGNAL = _text("signal", "which model or quantity gives the step scores")
TRAJECTORY = _text("trajectory_id", "identifies the trajectory within its data set")
METHOD = (
    DATASET,
    SIGNAL,
    _text("statistic", "running statistic that is compared with the threshold"),
    _text("calibrator", "rule that chose the threshold"),
    _text("risk", "which error the level bounds", "false_alarm", "missed_detection"),
    Field("level", "float", "probability", "target level epsilon", 0, 1),
    Field("split", "int", "", "number of the random split, from 0", 0),
)
METHOD_KEY = tuple(field.name for field in METHOD)
# A threshold is infinite for "never" and "always", and missing where a method has none.
THRESHOLD = Field(
    "threshold", "float", "score", "alarm when the statistic is above it; +inf is never, -inf is "
    "always, missing is none", nullable=True, infinite=True,
)
STATE = _text(
    "state", "outcome of the calibration", "calibrated", "never_alarm", "always_alarm",
    "not_trainable",
)


def _rate(name: str, meaning: str, nullable: bool = False, unit: str = "probability") -> Field:
    return Field(name, "float", unit, meaning, 0, 1, nullable=nullable)


SAMPLES = Schema(
    "samples",
    (
        _text("sample_id", "identifies the sample"),
        _text("pair_id", "the misbehaving and the benign sample of one request share it"),
        _text("scenario_id", "splits never share a scenario"),
        _text("cell", "category and task together", *CELLS),
        _text("category", "misbehavior category", "spv", "syco", "sg"),
        _text("task", "kind of task", "code", "qa", "reasoning"),
        _text("misbehavior_type", "named type of the misbehavior"),
        _text("cue_type", "type of the contextual cue"),
        _text("source", "where the request comes from"),
        _text("generator", "what wrote the response"),
        _text("request", "what the model was asked"),
        _text("response", "what the monitor judges"),
        Field("has_thinking", "bool", "", "the response shows its thinking"),
        LABEL,
        _text("split", "part of the benchmark", "dev", "test"),
    ),
    ("sample_id",),
    "one row per benchmark sample",
)

VERDICTS = Schema(
    "verdicts",
    (
        _text("sample_id", "the sample that was judged"),
        _text("monitor", "name of the monitor"),
        _text("prompt", "name of the monitor prompt"),
        Field("draw", "int", "", "number of the repeated draw, from 0", 0),
        _text("status", "what became of the answer", *STATUSES),
        Field("verdict", "bool", "", "true is misbehavior; missing when not parsed", nullable=True),
        _rate("score", "suspicion, high is unsafe; missing when not parsed", True, ""),
        _text("evidence", "what the monitor quotes", nullable=True),
        Field("input_tokens", "int", "tokens", "length of the prompt", 0, nullable=True),
        Field("output_tokens", "int", "tokens", "length of the answer", 0, nullable=True),
        Field("seconds", "float", "s", "wall-clock time of the call", 0, nullable=True),
        Field("cost_usd", "float", "USD", "price of the call", 0, nullable=True),
        _text("request_hash", "SHA-256 of the full request"),
    ),
    ("sample_id", "monitor", "prompt", "draw"),
    "one row per sample, monitor, prompt and draw",
)

TRAJECTORIES = Schema(
    "trajectories",
    (
        DATASET,
        TRAJECTORY,
        _text("generator", "what wrote the trajectory"),
        _text("split", "part of the data the trajectory belongs to"),
        Field("n_steps", "int", "steps", "length of the trajectory", 1),
        Field("tokens", "int", "tokens", "length of the trajectory", 1),
        LABEL,
        _text("text", "the whole trajectory, for reading"),
    ),
    ("dataset", "trajectory_id"),
    "one row per trajectory",
)

STEPS = Schema(
    "steps",
    (
        DATASET,
        SIGNAL,
        TRAJECTORY,
        Field("step", "int", "steps", "position in the trajectory, from 1, without gaps", 1),
        Field("score", "float", "", "suspicion of this step, high is unsafe; only order counts"),
        Field("tokens", "int", "tokens", "length of this step", 1),
        LABEL,
        Field("step_label", "int", "", "1 is a wrong or unsafe step, 0 a right one, -1 unknown",
              -1, 1),
    ),
    ("dataset", "signal", "trajectory_id", "step"),
    "one row per data set, signal, trajectory and step",
    (_steps_are_consecutive, _one_label),
)

THRESHOLDS = Schema(
    "thresholds",
    (
        *METHOD,
        THRESHOLD,
        _rate("tie_break", "on a tie, alarm if a uniform draw is above it; 1 is never"),
        Field("k", "int", "", "rank of the order statistic that is the threshold", 0,
              nullable=True),
        Field("n", "int", "trajectories", "calibration trajectories the risk is about", 0),
        Field("n_needed", "int", "trajectories", "smallest n with which the level is feasible", 0,
              nullable=True),
        _rate("attained", "level that the threshold really attains, ties included", True),
        STATE,
    ),
    METHOD_KEY,
    "one row per calibrated threshold",
)

ALARMS = Schema(
    "alarms",
    (
        *METHOD,
        TRAJECTORY,
        LABEL,
        Field("n_steps", "int", "steps", "length of the trajectory", 1),
        Field("alarm_step", "int", "steps", "first step with an alarm; missing is none", 1,
              nullable=True),
    ),
    (*METHOD_KEY, "trajectory_id"),
    "one row per method, split and test trajectory",
)

METRICS = Schema(
    "metrics",
    (
        *METHOD,
        THRESHOLD,
        STATE,
        _rate("far", "false alarm rate: share of safe trajectories with an alarm", True),
        _rate("power", "share of unsafe trajectories with an alarm", True),
        _rate("delay", "mean alarm step over length, detected unsafe trajectories only", True,
              "share of steps"),
        _rate("restricted_delay", "the same over all unsafe trajectories, a miss counts as 1",
              True, "share of steps"),
        _rate("delay_tokens", "delay in tokens", True, "share of tokens"),
        _rate("restricted_delay_tokens", "restricted delay in tokens", True, "share of tokens"),
    ),
    METHOD_KEY,
    "one row per data set, signal, statistic, calibrator, risk, level and split",
)

SCHEMAS: dict[str, Schema] = {
    schema.name: schema
    for schema in (SAMPLES, VERDICTS, TRAJECTORIES, STEPS, THRESHOLDS, ALARMS, METRICS)
}
