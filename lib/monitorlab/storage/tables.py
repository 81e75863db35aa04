"""The tables that pass between notebooks, and those that other people's tools may rely on.

Their columns stand in ``tables.yaml`` beside this file; rules that concern several rows are here.

A schema says, per column, its type, unit, meaning, range and whether it may be missing.
`Schema.check` is the door: it casts without losing anything, or says which row is wrong.
One orientation everywhere: `score` is suspicion, high is unsafe; `label` 1 is unsafe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import yaml

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

    def cast(self, column: pd.Series, table: str) -> pd.Series:
        """Cast a column, or raise `SchemaError` about the first value that is not `expected`.

        `table` is the name that messages give.
        """
        plain = column.astype(object) if column.dtype == "category" else column
        absent = pd.isna(column).to_numpy()
        if absent.any() and not self.nullable:
            raise self._error(table, int(np.argmax(absent)), None)
        good, wrong = _CASTERS[self.dtype](column[~absent])
        wrong = wrong | self._out_of_range(good, wrong)
        if wrong.any():
            row = int(np.flatnonzero(~absent)[np.argmax(wrong)])
            raise self._error(table, row, plain.to_numpy()[row])
        result = np.full(len(column), np.nan if self.dtype == "float" else pd.NA, dtype=object)
        result[~absent] = good
        return pd.Series(result).astype(TYPES[self.dtype][1 if self.nullable else 0])

    def _error(self, table: str, row: int, value: object) -> SchemaError:
        shown = "nothing (a missing value)" if pd.api.types.is_scalar(value) and pd.isna(value) \
            else repr(value.item() if isinstance(value, np.generic) else value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return SchemaError(
            f"{_where(table, self.name, row)}: found {shown}, expected {self.expected}. "
            f"Mend this value or drop its row ({self.name}: {self.meaning})."
        )

    def _out_of_range(self, good: np.ndarray, wrong: np.ndarray) -> np.ndarray:
        bad = np.zeros(len(good), dtype=bool)
        if self.choices:
            return ~wrong & ~np.isin(good, self.choices)
        if self.dtype == "float" and not self.infinite:
            bad |= ~np.isfinite(good)
        if self.minimum is not None:
            bad |= good < self.minimum
        if self.maximum is not None:
            bad |= good > self.maximum
        return bad & ~wrong


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

    def check(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Cast `frame` to this schema, sorted by key, or say what is wrong.

        Parameters
        ----------
        frame : DataFrame
            Any column order and index; row numbers in messages count from 0 in this frame.

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
        self._check_columns(frame)
        cast = {field.name: field.cast(frame[field.name], self.name) for field in self.fields}
        typed = pd.DataFrame(cast, columns=self.columns)
        self._check_key(typed)
        for rule in self.rules:
            if (problem := rule(typed)) is not None:
                row, column, words = problem
                raise SchemaError(f"{_where(self.name, column, row)}: {words}")
        return typed.sort_values(list(self.key), kind="stable", ignore_index=True)

    def _check_columns(self, frame: pd.DataFrame) -> None:
        repeated = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
        if repeated:
            raise SchemaError(f"table {self.name!r}: column {repeated[0]!r} occurs twice; keep one")
        missing = [name for name in self.columns if name not in frame.columns]
        extra = [str(name) for name in frame.columns if name not in self.columns]
        if missing or extra:
            found = [f"{what} columns {', '.join(names)}"
                     for what, names in (("missing", missing), ("unknown", extra)) if names]
            raise SchemaError(
                f"table {self.name!r}: {' and '.join(found)}; "
                f"expected exactly {', '.join(self.columns)}. Rename, add or drop columns."
            )

    def _check_key(self, frame: pd.DataFrame) -> None:
        repeated = frame.duplicated(list(self.key), keep="first").to_numpy()
        if repeated.any():
            row = int(np.argmax(repeated))
            values = frame.loc[row, list(self.key)]
            same = (frame[list(self.key)] == values).all(axis=1).to_numpy()
            first = int(np.argmax(same))
            shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
            raise SchemaError(
                f"{_where(self.name, ', '.join(self.key), row)}: the key ({shown}) already occurs "
                f"in row {first}; expected one row per key. Drop or rename one of the two."
            )


def _where(table: str, column: str, row: int) -> str:
    return f"table {table!r}, column {column!r}, row {row} (the first row is 0)"


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


_CASTERS = {"str": _as_text, "int": _as_int, "float": _as_float, "bool": _as_bool}


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


_RULES: dict[str, Rule] = {
    "steps_are_consecutive": _steps_are_consecutive, "one_label": _one_label,
}
_RATE = {"dtype": "float", "unit": "probability", "minimum": 0, "maximum": 1}


def _field(name: str, meaning: str, type: str = "str", **more: Any) -> Field:
    kind = _RATE if type == "rate" else {"dtype": type, "unit": ""}
    return Field(**{**kind, **more, "name": name, "meaning": meaning,
                    "choices": tuple(more.get("choices", ()))})


def _fields(columns: list[Any]) -> Iterator[Field]:
    """Columns in order, those of lists within the list included."""
    for column in columns:
        yield from _fields(column) if isinstance(column, list) else [_field(**column)]


_DATA = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
CELLS: tuple[str, ...] = tuple(_DATA["values"]["cells"])
STATUSES: tuple[str, ...] = tuple(_DATA["values"]["statuses"])

SCHEMAS: dict[str, Schema] = {
    name: Schema(name, tuple(_fields(table["columns"])), tuple(table["key"]), table["about"],
                 tuple(_RULES[rule] for rule in table.get("rules", ())))
    for name, table in _DATA["tables"].items()
}

BENCHMARK = SCHEMAS["samples"]  # with what the author said of each pair
SAMPLES = SCHEMAS["real_samples"]  # what samples of any source have
CORPUS = SCHEMAS["corpus"]
LABEL_CHECKS = SCHEMAS["label_checks"]
VERDICTS = SCHEMAS["verdicts"]
RATES = SCHEMAS["rates"]
FINETUNED_VERDICTS = SCHEMAS["finetuned_verdicts"]
FINETUNING = SCHEMAS["finetuning"]
OPERATING_POINTS = SCHEMAS["operating_points"]
