"""Tables in files as people have them: CSV, TSV, JSON lines, JSON and parquet.

Values stay what they are in the file: every field of a CSV file is text, whatever it looks like.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError as JSONError
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.pipeline.artifacts import check_file

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name


class TableFileError(ValueError):
    """A file cannot be read as a table; the message names the row and says what to do."""


@dataclass(frozen=True)
class FileTable:
    """Columns as they stand in a file.

    Attributes
    ----------
    columns : dict of str to list
        Values of each column, in the file's order; None where a JSON object lacks the key.
    places : sequence of str
        What each row is called in messages, such as "line 3".
    """

    columns: dict[str, list[Any]]
    places: Sequence[str]


def read_table_file(
    path: Path, expected: str, names: Collection[str],
    report: Callable[[str], object] = lambda words: None,
) -> FileTable:
    """Read a file as a table.

    Parameters
    ----------
    path : Path
        ``.csv`` (with a header; separated by commas, or by tabs or semicolons if the header is),
        ``.tsv``, ``.jsonl`` or ``.ndjson`` (one object per line), ``.json`` (an array of objects,
        or an object that holds exactly one such array) or ``.parquet``; texts in UTF-8, with or
        without a byte order mark. Endings in any case.
    expected : str
        Which columns there should be, for messages.
    names : collection of str
        Columns that are known: a JSON object with one of them is a row, not an envelope of rows.
    report : callable
        Takes what a reader should know, one sentence at a time.

    Raises
    ------
    TableFileError
        For a missing, empty or unreadable file, an unknown ending, text that is not UTF-8, a
        column that occurs twice, a row with too many or too few fields, or no row at all.
    ArtifactError
        For the table of a run that is not as its notebook left it.
    """
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise TableFileError(f"unknown ending {ending!r}, expected one of {', '.join(ENDINGS)}")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TableFileError(f"{path} {what}. Give the path of a file with the columns {expected}")
    if path.stat().st_size == 0:
        raise TableFileError(f"the file is empty. Expected the columns {expected}")
    if ending == ".parquet":
        check_file(path)
        table = _from_parquet(path)
    elif ending in (".csv", ".tsv"):
        table = _from_text(_text(path), "\t" if ending == ".tsv" else "")
    elif ending == ".json":
        table = _from_json(_text(path), expected, names, report)
    else:
        table = _from_json_lines(_text(path), expected)
    if not table.places or not table.columns:
        raise TableFileError(f"there is no row in it, expected rows with the columns {expected}")
    return table


def kind_of(value: object) -> str:
    """What a value is called in messages."""
    kinds = {dict: "an object", list: "an array", str: "text", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _text(file: Path) -> str:
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TableFileError(
            f"byte {error.start + 1} (line {line}) is {data[error.start]:#04x}, which is not "
            "UTF-8. Save the file with the encoding UTF-8"
        ) from None


def _from_text(text: str, separator: str) -> FileTable:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # long texts are welcome
    rows = _rows(text, separator or _separator(text))
    _, header = next(rows, (1, []))
    names = [name.strip() for name in header]
    places, values = [], []
    for line, row in rows:
        while len(row) > len(names) and not row[-1]:
            row = row[:-1]  # a separator at the end of the line
        if len(row) != len(names):
            raise TableFileError(
                f"line {line} has {len(row)} fields, the header has {len(names)}. Put quotes "
                'around a text with commas or line breaks, and write a quote in it as ""'
            )
        places.append(f"line {line}")
        values.append(row)
    if names and not names[-1] and not any(row[-1] for row in values):
        names.pop()
    return FileTable(_columns(names, [[row[i] for row in values] for i in range(len(names))]),
                     places)


def _separator(text: str) -> str:
    """Comma, or what separates a header in which there is none."""
    _, header = next(_rows(text, ","), (1, []))
    for other in "\t;":
        if len(header) == 1 and other in header[0]:
            return other
    return ","


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line it starts at."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableFileError(f"the row that starts in line {line} is broken: {error}. Is a quote "
                             "not closed, or not doubled?") from None


def _from_json_lines(text: str, expected: str) -> FileTable:
    places, objects = [], []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines breaks at U+2028 as well
        if not line.strip():
            continue
        try:
            objects.append(_loads(line))
        except (ValueError, RecursionError) as error:
            words = f"{error.msg}, column {error.colno}" if isinstance(error, JSONError) else error
            whole = " Is the file one array? Then call it .json" * line.lstrip().startswith("[")
            raise TableFileError(f"line {number} is not JSON ({words}). Every line must hold one "
                                 f"object; was the file cut off?{whole}") from None
        places.append(f"line {number}")
    return _from_objects(objects, places, expected)


def _from_json(
    text: str, expected: str, names: Collection[str], report: Callable[[str], object]
) -> FileTable:
    try:
        objects = _loads(text)
    except JSONError as error:
        lines = " One object per line? Then call the file .jsonl"
        raise TableFileError(f"not JSON in line {error.lineno}, column {error.colno} "
                             f"({error.msg}).{lines * (error.msg == 'Extra data')}") from None
    except ValueError as error:
        raise TableFileError(f"not JSON: {error}") from None
    except RecursionError:
        raise TableFileError("nested too deeply, expected an array of objects") from None
    if isinstance(objects, dict):
        objects = _records_in(objects, names, report)
    if not isinstance(objects, list):
        raise TableFileError(f"found {kind_of(objects)}, expected an array of objects")
    return _from_objects(objects, [f"row {number}" for number in range(1, len(objects) + 1)],
                         expected)


def _records_in(
    found: Mapping[str, Any], names: Collection[str], report: Callable[[str], object]
) -> list[Any]:
    """Return the one array of objects that an object holds."""
    arrays = [name for name, value in found.items()
              if isinstance(value, list) and value and isinstance(value[0], dict)]
    if any(name.lower() in names for name in found):
        raise TableFileError("found an object, expected an array of objects: put the row into [ ]")
    if len(arrays) != 1:
        shown = ", ".join(f"{name!r:.40}" for name in [*found][:6]) or "none"
        raise TableFileError(f"found an object, expected an array of objects, or one such array "
                             f"under a key; there are {len(arrays)}, and the keys {shown}. Write "
                             "the rows alone, as [{...}, {...}]")
    report(f"the rows are those under the key {arrays[0]!r:.40}")
    return list(found[arrays[0]])


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, unless one of its keys occurs twice."""
    item = dict(pairs)
    if len(item) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.60} occurs twice in one object; keep one")
    return item


def _from_objects(objects: list[Any], places: Sequence[str], expected: str) -> FileTable:
    for place, item in zip(places, objects, strict=True):
        if not isinstance(item, dict):
            raise TableFileError(f"{place} is {kind_of(item)}, expected an object with the keys "
                                 f"{expected}")
    names = list(dict.fromkeys(name for item in objects for name in item))
    return FileTable({name: [item.get(name) for item in objects] for name in names}, places)


def _from_parquet(file: Path) -> FileTable:
    try:
        table = pq.read_table(file)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TableFileError(f"it cannot be read as parquet ({error!s:.200})") from None
    kept = [i for i, name in enumerate(table.column_names) if not _INDEX.fullmatch(name)]
    columns = _columns([table.column_names[i] for i in kept],
                       [table.column(i).to_pylist() for i in kept])
    return FileTable(columns, [f"row {number}" for number in range(1, table.num_rows + 1)])


def _columns(names: Sequence[str], values: Sequence[list[Any]]) -> dict[str, list[Any]]:
    for name in names:
        if names.count(name) > 1:
            raise TableFileError(f"column {name!r:.60} occurs twice; keep one")
    return dict(zip(names, values, strict=True))
