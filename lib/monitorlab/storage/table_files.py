"""Tables in files as people have them: CSV, TSV, JSON lines, JSON and parquet.

Values stay what they are in the file: every field of a CSV file is text, whatever it looks like.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import reprlib
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError as JSONError
from pathlib import Path
from typing import Any, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.storage.manifests import Results

ENDINGS = re.compile(r"\.(?:(?P<text>csv|tsv|jsonl|ndjson|json)(?:\.gz)?|parquet|pq)$", re.I)
_EXPECTED_ENDINGS = (".csv, .tsv, .jsonl, .ndjson, .json, each also with .gz, or .parquet, also "
                     "called .pq")
_SEPARATORS = ",;\t|"
_SHARED = 100_000  # of so many texts of a column that come again, one copy is kept
_INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name

# Names of a file's columns to those that are wanted.
Choice = Callable[[Sequence[str]], Collection[str]]


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

    columns: dict[str, Any]
    places: Sequence[str]

    @classmethod
    def read(
        cls, path: Path, expected: str, names: Collection[str] = (),
        report: Callable[[str], object] = lambda words: None, choose: Choice | None = None,
    ) -> FileTable:
        """Read a file as a table.

        Parameters
        ----------
        path : Path
            ``.csv`` or ``.tsv`` (with a header, separated by what the header shows: commas, tabs,
            semicolons or bars, or by what a first line ``sep=;`` names), ``.jsonl`` or ``.ndjson``
            (one object per line), ``.json`` (an array of objects, an object that holds exactly one
            such array, or an object of columns), all of these also as ``.gz``, or ``.parquet``;
            texts in UTF-8, with or without a byte order mark. Endings in any case; whether a JSON
            file holds lines is read off its text.
        expected : str
            Which columns there should be, for messages.
        names : collection of str
            Columns that are known: a JSON object with one of them is a row, not an envelope of
            rows.
        report : callable
            Takes what a reader should know, one sentence at a time.
        choose : callable, optional
            Given the file's columns, returns those to keep, where others may hold anything and
            occur twice; numbers of a parquet file then come as arrays. All of them by default.

        Raises
        ------
        TableFileError
            For a missing, empty or unreadable file, an unknown ending, text that is not UTF-8, a
            column that occurs twice, a row with too many or too few fields, or no row at all.
        ArtifactError
            For the table of a run that is not as its notebook left it.
        """
        ending = ENDINGS.search(path.name)
        if ending is None:
            raise TableFileError(f"unknown ending {path.suffix!r}, expected one of "
                                 f"{_EXPECTED_ENDINGS}")
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            shown = reprlib.repr(str(path)) if len(str(path)) > 200 else path
            raise TableFileError(f"{shown} {what}. Give the path of a file with the columns "
                                 f"{expected}")
        if path.stat().st_size == 0:
            raise TableFileError(f"the file is empty. Expected the columns {expected}")
        kind = (ending["text"] or "parquet").lower()
        if kind == "parquet":
            Results.check_file(path)
            table = _from_parquet(path, choose)
        else:
            table = _from_text(path, kind, expected, names, report, choose or _all_once)
        if not table.places or not table.columns:
            raise TableFileError("there is no row in it, expected an array of objects or rows with "
                                 f"the columns {expected}")
        return table

    @staticmethod
    def named_columns(text: str, known: Collection[str]) -> dict[str, str]:
        """Read ``"score:p_bad, label:verdict"`` as a mapping of our names to a file's columns.

        Raises
        ------
        TableFileError
            For a part without a colon, a name that is not known, and one that comes twice.
        """
        columns: dict[str, str] = {}
        for part in filter(str.strip, text.split(",")):
            ours, colon, theirs = (piece.strip() for piece in part.partition(":"))
            if not colon or ours in columns or ours not in known:
                raise TableFileError(f"COLUMNS holds {reprlib.repr(part.strip())}, expected pairs "
                                     "such as score:p_bad, each of "
                                     f"{', '.join(known)} at most once.")
            columns[ours] = theirs
        return columns


def kind_name(value: object) -> str:
    """What a value is called in messages."""
    kinds = {dict: "an object", list: "an array", str: "text", bool: "true or false",
             int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _all_once(names: Sequence[str]) -> Collection[str]:
    for name in names:
        if names.count(name) > 1:
            raise TableFileError(f"column {name!r:.60} occurs twice; keep one")
    return names


def _from_text(
    path: Path, kind: str, expected: str, names: Collection[str],
    report: Callable[[str], object], choose: Choice,
) -> FileTable:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with cast(TextIO, opened(path, "rt", encoding="utf-8-sig", newline="")) as lines:
            if kind in ("csv", "tsv"):
                return _from_csv(lines, "\t" if kind == "tsv" else "", choose)
            rows, places = _json_rows(lines.read(), kind != "json", names, report)
    except UnicodeDecodeError:
        with opened(path, "rb") as stream:
            raise TableFileError(_not_utf8(stream.read())) from None
    except (OSError, EOFError, zlib.error) as error:
        named = kind.upper() if kind in ("csv", "tsv") else "JSON"
        raise TableFileError(f"it cannot be read as {named} ({error!s:.200})") from None
    return _from_objects(rows, places, expected, choose)


def _not_utf8(data: bytes) -> str:
    """Say where a text stops being UTF-8."""
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return (f"byte {error.start + 1} (line {line}) is {data[error.start]:#04x}, which is not "
                "UTF-8. Save the file with the encoding UTF-8")
    return "the file changed while it was read"


def _from_csv(lines: TextIO, separator: str, choose: Choice) -> FileTable:
    csv.field_size_limit(2**31 - 1)  # long texts are welcome
    before, first = next(((n, line) for n, line in enumerate(lines) if line.strip()), (0, ""))

    def width(sign: str) -> int:
        return len(next(csv.reader([first], delimiter=sign), []))

    said = re.fullmatch(r'"?sep=(.)"?\s*', first)
    separator = said[1] if said else max(separator + _SEPARATORS, key=width)
    rest = lines if said else itertools.chain([first], lines)
    rows = _rows(csv.reader(rest, delimiter=separator, strict=True), before + bool(said))
    names = [name.strip() for name in next(rows, (1, []))[1]]
    while names and not names[-1]:
        names.pop()  # a separator at the end of the header names nothing
    chosen = list(dict.fromkeys(choose(names)))
    at = [names.index(name) for name in chosen]
    columns: list[list[str]] = [[] for _ in chosen]
    copies: list[dict[str, str]] = [{} for _ in chosen]
    places = []
    for number, (line, row) in enumerate(rows, start=1):
        if len(row) != len(names):
            _check_width(f"line {line}, row {number}", row, len(names))
        places.append(f"line {line}")
        for column, position, seen in zip(columns, at, copies, strict=True):
            cell = row[position]
            share = seen.setdefault if len(seen) < _SHARED else seen.get
            column.append(share(cell, cell))
    return FileTable(dict(zip(chosen, columns, strict=True)), places)


def _rows(reader: Any, before: int) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line of the file at which it starts."""
    line = before + 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = before + reader.line_num + 1
    except csv.Error as error:
        raise TableFileError(f"the row that starts in line {line} is broken: {error}. Is a quote "
                             "not closed, or not doubled?") from None


def _check_width(place: str, row: Sequence[str], width: int) -> None:
    """Refuse a row that is too short, or too long by more than separators at its end."""
    found = f"{place} has {len(row)} fields, the header names {width} columns"
    if len(row) < width:
        raise TableFileError(f"{found}. Was the file cut off, or is a text with line breaks not in "
                             "quotes?")
    surplus = [field for field in row[width:] if field.strip()]
    if surplus:
        raise TableFileError(
            f"{found}: what is {reprlib.repr(surplus[0])}? Name every column, put quotes around a "
            'text with commas or line breaks, and write a quote in it as ""'
        )


def _json_rows(
    text: str, by_line: bool, names: Collection[str], report: Callable[[str], object]
) -> tuple[list[Any] | dict[str, list[Any]], list[str]]:
    """Rows, or columns by name, with what each row is called."""
    try:
        found = _loads(text)
    except JSONError as error:
        if by_line or error.msg == "Extra data":
            return _json_lines(text)
        raise TableFileError(f"not JSON in line {error.lineno}, column {error.colno} "
                             f"({error.msg})") from None
    except (ValueError, RecursionError) as error:
        if by_line:
            return _json_lines(text)
        deep = isinstance(error, RecursionError)
        words = "nested too deeply, expected an array of objects" if deep else str(error)
        raise TableFileError(f"it cannot be read as JSON: {words}") from None
    if isinstance(found, dict) and by_line:
        return _json_lines(text)
    if isinstance(found, dict):
        found = _table_in(found, names, report)
    if isinstance(found, dict):
        return found, [f"row {number + 1}" for number in range(_common_length(found.values()))]
    if not isinstance(found, list):
        raise TableFileError(f"found {kind_name(found)}, expected an array of objects")
    return found, [f"row {number + 1}" for number in range(len(found))]


def _json_lines(text: str) -> tuple[list[Any], list[str]]:
    places, found = [], []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines breaks at U+2028 as well
        if not line.strip():
            continue
        try:
            found.append(_loads(line))
        except (ValueError, RecursionError) as error:
            words = f"{error.msg}, column {error.colno}" if isinstance(error, JSONError) else error
            raise TableFileError(f"line {number} is not JSON ({words}). Every line must hold one "
                                 "object; was the file cut off?") from None
        places.append(f"line {number}")
    return found, places


def _table_in(
    found: Mapping[str, Any], names: Collection[str], report: Callable[[str], object]
) -> dict[str, list[Any]] | list[Any]:
    """Return the one array of objects that an object holds, its columns, or itself as a row."""
    values = found.values()
    by_row = all(isinstance(value, dict) for value in values)  # as pandas writes columns
    if by_row and len({tuple(value) for value in values}) == 1:
        return {name: list(value.values()) for name, value in found.items()}
    arrays = [name for name, value in found.items()
              if isinstance(value, list) and value and isinstance(value[0], dict)]
    if arrays and not any(name.lower() in names for name in found):
        if len(arrays) > 1:
            shown = ", ".join(f"{name!r:.40}" for name in [*found][:6])
            raise TableFileError(f"found an object, expected an array of objects, or one such "
                                 f"array under a key; there are {len(arrays)}, and the keys "
                                 f"{shown}. Write the rows alone, as [{{...}}, {{...}}]")
        report(f"the rows are those under the key {arrays[0]!r:.40}")
        return list(found[arrays[0]])
    return dict(found) if found and all(isinstance(value, list) for value in values) else [found]


def _common_length(columns: Iterable[Sequence[Any]]) -> int:
    lengths = sorted({len(column) for column in columns})
    if len(lengths) > 1:
        raise TableFileError(f"the columns have {', '.join(map(str, lengths[:6]))} entries, "
                             "expected the same number in all of them")
    return lengths[0]


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


def _from_objects(
    found: list[Any] | dict[str, list[Any]], places: Sequence[str], expected: str, choose: Choice
) -> FileTable:
    if isinstance(found, dict):
        return FileTable({name: found[name] for name in choose(list(found))}, places)
    for place, item in zip(places, found, strict=True):
        if not isinstance(item, dict):
            raise TableFileError(f"{place} is {kind_name(item)} ({reprlib.repr(item)}), expected "
                                 f"an object with the keys {expected}")
    names = choose(list(dict.fromkeys(name for item in found for name in item))) if found else ()
    return FileTable({name: [item.get(name) for item in found] for name in names}, places)


def _from_parquet(path: Path, choose: Choice | None) -> FileTable:
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if not _INDEX.fullmatch(name)]
            chosen = list(dict.fromkeys((choose or _all_once)(names)))
            table = file.read(columns=chosen)
    except (OSError, pa.ArrowException) as error:
        raise TableFileError(f"it cannot be read as parquet ({error!s:.200})") from None
    columns = {name: _values(table[name], arrays=choose is not None) for name in chosen}
    return FileTable(columns, [f"row {number + 1}" for number in range(table.num_rows)])


def _values(column: pa.ChunkedArray, arrays: bool) -> Any:
    plain = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return column.to_numpy() if arrays and plain and not column.null_count else column.to_pylist()
