"""The door through which your own samples come in: CSV, JSON lines, JSON or parquet."""

from __future__ import annotations

import csv
import difflib
import io
import json
import reprlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from json import JSONDecodeError as JSONError
from pathlib import Path
from typing import Any

import pandas as pd

from monitorlab.pipeline.artifacts import check_file

ENDINGS = (".csv", ".jsonl", ".json", ".parquet")
REQUIRED = ("request", "response")
EXPECTED = "request, response and optionally sample_id, label, pair_id, cell"
NO_SAMPLE = f"there is no sample in it, expected rows with the columns {EXPECTED}"
LABELS = {"0": 0, "false": 0, "benign": 0, "1": 1, "true": 1, "misbehavior": 1}
# What other people's files call these columns, where spelling alone does not tell.
OTHER_NAMES = {
    "request": ("prompt", "question", "instruction", "input", "user", "query", "task"),
    "response": ("answer", "completion", "output", "reply", "assistant", "solution"),
}


class SampleFileError(ValueError):
    """A file of samples cannot be used; the message names the row and says what to do."""


@dataclass(frozen=True)
class _Table:
    """Columns as they stand in a file, and what its rows are called in messages."""

    columns: dict[str, list[Any]]
    places: Sequence[str]


def read_samples(
    path: str | Path, report: Callable[[str], object] = lambda words: None
) -> pd.DataFrame:
    """Read a file of samples to judge.

    Parameters
    ----------
    path : str or Path
        ``.csv`` (comma-separated, with a header), ``.jsonl`` (one object per line), ``.json`` (an
        array of objects) or ``.parquet``; texts in UTF-8, with or without a byte order mark.
    report : callable
        Takes what a reader should know, one sentence at a time: ids that were made, responses that
        are empty.

    Returns
    -------
    DataFrame
        In the file's order: ``sample_id`` (text, unique; "row-1", "row-2", ... if the file has
        none), ``request`` (text, not blank), ``response`` (text, may be empty), ``label`` (1 is
        misbehavior, 0 benign) if the file has labels, and every other column as it is.

    Raises
    ------
    SampleFileError
        For a missing, empty or unreadable file, an unknown ending, text that is not UTF-8, a
        missing or repeated column, a row with too many or too few fields, a missing request or
        response, text that is none, a repeated sample_id, or a label that is not 0 or 1.
    """
    file = Path(path).expanduser()
    try:
        table = _read(file)
        columns = _checked(table)
    except SampleFileError as error:
        raise SampleFileError(f"{file.name}: {error}") from None
    if "sample_id" not in table.columns:
        report(f"{file.name} has no column sample_id: its samples are called row-1 to "
               f"row-{len(table.places)}")
    _report_oddities(table, columns, report)
    return pd.DataFrame(columns)


def _report_oddities(
    table: _Table, columns: dict[str, list[Any]], report: Callable[[str], object]
) -> None:
    empty = sum(not text.strip() for text in columns["response"])
    if empty:
        report(f"{empty} of {len(table.places)} responses are empty; they are judged like others")
    mended = sum(text != raw for name in REQUIRED
                 for text, raw in zip(columns[name], table.columns[name], strict=True))
    if mended:
        report(f"{mended} texts held half a character, such as a cut emoji; it was replaced by the "
               "replacement character U+FFFD")


def _read(file: Path) -> _Table:
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        raise SampleFileError(f"unknown ending {ending!r}, expected one of {', '.join(ENDINGS)}")
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise SampleFileError(f"{file} {what}. Give the path of a file with the columns {EXPECTED}")
    if file.stat().st_size == 0:
        raise SampleFileError(f"the file is empty. Expected the columns {EXPECTED}")
    readers = {".csv": _from_csv, ".jsonl": _from_json_lines, ".json": _from_json}
    table = _from_parquet(file) if ending == ".parquet" else readers[ending](_text(file))
    if not table.places:
        raise SampleFileError(NO_SAMPLE)
    return table


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SampleFileError(
            f"byte {error.start + 1} (line {line}) is {data[error.start]:#04x}, which is not "
            "UTF-8. Save the file with the encoding UTF-8"
        ) from None


def _from_csv(text: str) -> _Table:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # long samples are welcome
    rows = _csv_rows(text)
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    _check_names(names)
    places, values = [], []
    for line, row in rows:
        if len(row) != len(names):
            raise SampleFileError(
                f"line {line} has {len(row)} fields, the header has {len(names)}. Put quotes "
                'around a text with commas or line breaks, and write a quote in it as ""'
            )
        places.append(f"line {line}")
        values.append(row)
    return _Table({name: [row[i] for row in values] for i, name in enumerate(names)}, places)


def _csv_rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line it starts at."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise SampleFileError(f"the row that starts in line {line} is broken: {error}. Is a quote "
                              "not closed, or not doubled?") from None


def _from_json_lines(text: str) -> _Table:
    places, objects = [], []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines breaks at U+2028 as well
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            words = f"{error.msg}, column {error.colno}" if isinstance(error, JSONError) else error
            raise SampleFileError(f"line {number} is not JSON ({words}). Every line must hold one "
                                  "object; was the file cut off?") from None
        places.append(f"line {number}")
    return _from_objects(objects, places)


def _from_json(text: str) -> _Table:
    try:
        objects = json.loads(text)
    except JSONError as error:
        lines = " One object per line? Then call the file .jsonl"
        raise SampleFileError(f"not JSON in line {error.lineno}, column {error.colno} "
                              f"({error.msg}).{lines * (error.msg == 'Extra data')}") from None
    except RecursionError:
        raise SampleFileError("nested too deeply, expected an array of objects") from None
    if not isinstance(objects, list):
        raise SampleFileError(f"found {_kind(objects)}, expected an array of objects")
    return _from_objects(objects, [f"row {number}" for number in range(1, len(objects) + 1)])


def _from_objects(objects: list[Any], places: Sequence[str]) -> _Table:
    for place, item in zip(places, objects, strict=True):
        if not isinstance(item, dict):
            raise SampleFileError(f"{place} is {_kind(item)}, expected an object with the keys "
                                  f"{EXPECTED}")
    names = list(dict.fromkeys(name for item in objects for name in item))
    _check_names(names)
    return _Table({name: [item.get(name) for item in objects] for name in names}, places)


def _from_parquet(file: Path) -> _Table:
    check_file(file)
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise SampleFileError(f"it cannot be read as parquet ({error})") from None
    names = [str(name) for name in frame.columns]
    _check_names(names)
    columns = {name: _values(frame.iloc[:, i]) for i, name in enumerate(names)}
    return _Table(columns, [f"row {number}" for number in range(1, len(frame) + 1)])


def _values(column: pd.Series) -> list[Any]:
    """Python values, with None for what is missing."""
    absent = column.isna() if column.dtype != object else column.map(lambda value: value is None)
    return column.astype(object).where(~absent, None).tolist()


def _check_names(names: list[str]) -> None:
    if not names:
        raise SampleFileError(NO_SAMPLE)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SampleFileError(f"column {repeated[0]!r} occurs twice; keep one")
    for wanted in REQUIRED:
        if wanted in names:
            continue
        close = _likely(wanted, [name for name in names if name not in REQUIRED])
        found = ", ".join(repr(name) for name in names)
        hint = f" Is it {close!r}? Then rename that" if close else ""
        if len(names) == 1 and any(sign in names[0] for sign in ";\t|"):
            hint = " Separate the columns by commas"
        raise SampleFileError(f"there is no column {wanted!r}; found {found}.{hint}")


def _likely(wanted: str, names: Sequence[str]) -> str | None:
    """The column that probably is the wanted one: a usual other name, or one spelled alike."""
    plain = {name.strip().lower(): name for name in names}
    for other in (wanted, *OTHER_NAMES[wanted]):
        if other in plain:
            return plain[other]
    close = difflib.get_close_matches(wanted, plain, n=1)
    return plain[close[0]] if close else None


def _checked(table: _Table) -> dict[str, list[Any]]:
    """Return the columns with checked ids, texts and labels, the ids first."""
    columns: dict[str, list[Any]] = {"sample_id": _ids(table)}
    for name in REQUIRED:
        pairs = zip(table.columns[name], table.places, strict=True)
        columns[name] = [_checked_text(name, value, place) for value, place in pairs]
    for text, place in zip(columns["request"], table.places, strict=True):
        if not text.strip():
            raise SampleFileError(f"{place}: the request is empty. A response is judged against "
                                  "its request: fill it in, or drop the row")
    if "label" in table.columns:
        pairs = zip(table.columns["label"], table.places, strict=True)
        columns["label"] = [_label(value, place) for value, place in pairs]
    return columns | {name: c for name, c in table.columns.items() if name not in columns}


def _ids(table: _Table) -> list[str]:
    if "sample_id" not in table.columns:
        return [f"row-{number}" for number in range(1, len(table.places) + 1)]
    first: dict[str, str] = {}
    for value, place in zip(table.columns["sample_id"], table.places, strict=True):
        number = isinstance(value, int) and not isinstance(value, bool)
        name = _checked_text("sample_id", str(value) if number else value, place)
        if not name.strip():
            raise SampleFileError(f"{place}: the sample_id is empty. Give every sample its own, or "
                                  "drop the column")
        if name in first:
            raise SampleFileError(f"{place}: the sample_id {reprlib.repr(name)} already occurs in "
                                  f"{first[name]}. Give every sample its own")
        first[name] = place
    return list(first)


def _checked_text(name: str, value: object, place: str) -> str:
    if value is None:
        raise SampleFileError(f"{place}: there is no {name}, expected text (\"\" if a model really "
                              "said nothing)")
    if not isinstance(value, str):
        raise SampleFileError(f"{place}: {name} is {_kind(value)} ({reprlib.repr(value)}), "
                              "expected text")
    return value if value.isascii() else _whole(value)


def _whole(text: str) -> str:
    """Replace halves of characters, as a cut emoji leaves them: no file in UTF-8 can hold them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _label(value: object, place: str) -> int:
    found = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    label = LABELS.get(found.strip().lower())
    if label is None:
        shown = "missing" if value is None else reprlib.repr(value)
        raise SampleFileError(f"{place}: the label is {shown}, expected 1 (misbehavior) or 0 "
                              "(benign) in every row. Drop the column if there are no labels")
    return label


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "an array", str: "text", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")
