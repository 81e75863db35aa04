"""The door through which score files come in: a user's own, and published ones."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import special

from monitorlab.online.step_rows import (
    COLUMNS,
    EXPECTED_COLUMNS,
    Cells,
    Rows,
    ScoreFileError,
    choose_columns,
    listed,
    read_rows,
    short,
)
from monitorlab.online.trajectories import Trajectories, build

ORIENTATIONS = ("suspicion", "safety")
ENDINGS = re.compile(r"\.(?:(?P<text>csv|tsv|json|jsonl|ndjson)(?:\.gz)?|parquet|pq)$", re.I)
SEPARATORS = (",", ";", "\t", "|")
MOST_SIGNALS = 50
# So many growing pairs of steps are no accident: tokens are then counted from the beginning on.
UNLIKELY = np.log(1e6)

PUBLISHED_TITLES = {
    "evaluator_math": "MATH, process reward model",
    "evaluator_gsm8k": "GSM8K, judge scores",
}

# Names of the columns to the choice among them: ours to the file's.
Choice = Callable[[Sequence[str]], dict[str, str]]


def load_scores(
    path: str | Path,
    orientation: str = "suspicion",
    dataset: str | None = None,
    *,
    columns: Mapping[str, str] | str = "",
    group: str = "",
    positive: str = "unsafe",
    signal: str = "",
) -> Trajectories:
    """Read a user's own score file.

    Parameters
    ----------
    path : str or Path
        CSV or TSV (also with semicolons and decimal commas), JSON (an array of objects), JSON lines
        or parquet, the text formats also as ``.gz``. One row per step, or one per trajectory with
        lists of scores; columns as in :func:`monitorlab.online.trajectories.from_frame`, further
        ones are ignored. Without labels, all sequences are unknown.
    orientation : {"suspicion", "safety"}
        What a high score means in the file. ``safety`` scores s are turned into -s, which reverses
        their order and loses no difference, however small.
    dataset : str, optional
        Name; the file's name without its ending by default.
    columns : mapping of str to str, or str
        Our names to those of the file, as in ``{"score": "p_bad", "label": "verdict"}`` or
        ``"score:p_bad, label:verdict"``. Ours are ``trajectory_id, step, score, label, tokens`` (of
        a step), ``total_tokens`` (from the beginning of the sequence on), ``group, signal``.
    group : str
        Column that says what sequences have in common: a prompt, a user, a day.
    positive : {"unsafe", "safe"}
        What a label of 1 or true means in the file.
    signal : str
        Which one to read if the file holds several; see :func:`load_signals`.

    Raises
    ------
    ScoreFileError
        As :func:`monitorlab.online.trajectories.from_frame`, and for a file that is missing, empty,
        unreadable or of an unknown ending, an unknown orientation, and several signals of which
        none was chosen.
    """
    found = load_signals(
        path, orientation, dataset, columns=columns, group=group, positive=positive
    )
    names = [one.signal for one in found]
    if signal:
        found = [one for one in found if one.signal == signal]
    if len(found) != 1:
        raise ScoreFileError(
            f"{_shown(path)} holds the signals {listed(names)}. Choose one, as in "
            f"signal={short(names[0])}, or read all of them with load_signals."
        )
    return found[0]


def load_signals(
    path: str | Path,
    orientation: str = "suspicion",
    dataset: str | None = None,
    *,
    columns: Mapping[str, str] | str = "",
    group: str = "",
    positive: str = "unsafe",
) -> list[Trajectories]:
    """Read a score file in which a column ``signal`` says which of several scored the step.

    Parameters as in :func:`load_scores`. A file without such a column holds one signal, ``score``.

    Returns
    -------
    list of Trajectories
        One per signal, in order of first appearance.
    """
    if orientation not in ORIENTATIONS:
        raise ScoreFileError(
            f"ORIENTATION is {short(orientation)}, expected one of {', '.join(ORIENTATIONS)}: "
            "does a high score mean danger (suspicion) or success (safety)?"
        )
    file = Path(path).expanduser()
    named = dict(parse_columns(columns) if isinstance(columns, str) else columns)
    if group:
        named["group"] = group
    name = dataset or ENDINGS.sub("", file.name)
    try:
        rows = read_rows(_read(file, lambda names: choose_columns(names, named)), positive)
        if "tokens" not in named and not rows.running_total:
            _refuse_running_totals(rows)
        found = _split(rows, name)
    except ScoreFileError as error:
        raise ScoreFileError(f"{_shown(file)}: {error}") from None
    return [_turn(one) for one in found] if orientation == "safety" else found


def load_evaluator(path: str | Path, dataset: str) -> Trajectories:
    """Read a score file published with e-valuator (arXiv 2512.03109) and turn it to suspicion.

    Parameters
    ----------
    path : str or Path
        CSV with ``uq_problem_idx, num_steps, judge_probability`` (high: will succeed), ``solved``
        and, for some files, ``generated_tokens`` (of each step).
    dataset : str
        Name to carry along.
    """
    theirs = {
        "trajectory_id": "uq_problem_idx",
        "step": "num_steps",
        "score": "judge_probability",
        "label": "solved",
        "tokens": "generated_tokens",
    }
    file = Path(path)

    def choose(names: Sequence[str]) -> dict[str, str]:
        return choose_columns(names, {ours: one if one in names or ours != "tokens" else ""
                                      for ours, one in theirs.items()})

    rows = read_rows(_read(file, choose), "safe")
    found = _turn(build(rows, dataset, "verifier"))
    return replace(found, title=PUBLISHED_TITLES.get(dataset, ""))


def parse_columns(text: str) -> dict[str, str]:
    """Read ``"score:p_bad, label:verdict"`` as a mapping of our names to a file's columns.

    Raises
    ------
    ScoreFileError
        For a part without a colon, and for a name that comes twice.
    """
    columns: dict[str, str] = {}
    for part in filter(str.strip, text.split(",")):
        ours, colon, theirs = (piece.strip() for piece in part.partition(":"))
        if not colon or ours in columns or ours not in COLUMNS:
            raise ScoreFileError(
                f"COLUMNS holds {short(part.strip())}, expected pairs such as score:p_bad, "
                f"label:verdict, each of {', '.join(COLUMNS)} at most once."
            )
        columns[ours] = theirs
    return columns


def _split(rows: Rows, dataset: str) -> list[Trajectories]:
    if rows.signals is None:
        return [build(rows, dataset, "score")]
    names = list(dict.fromkeys(rows.signals))
    if len(names) > MOST_SIGNALS:
        raise ScoreFileError(
            f"column signal names {len(names)} signals: {listed(names, 3)}. If it says something "
            'else, leave it out: columns={"signal": ""} or COLUMNS=signal:'
        )
    found = [build(rows, dataset, name, rows.signals == name) for name in names]
    if len(names) == 1:
        return found
    return [replace(one, title=f"{dataset}, {one.signal}") for one in found]


def _turn(trajectories: Trajectories) -> Trajectories:
    return replace(trajectories, flat_scores=-trajectories.flat_scores)


def _refuse_running_totals(rows: Rows) -> None:
    """Refuse tokens that grow with every step of every trajectory."""
    order = np.lexsort((rows.steps, rows.codes))
    same = np.diff(rows.codes[order]) == 0
    growing = np.diff(rows.tokens[order]) > 0
    if growing[same].all() and special.gammaln(np.bincount(rows.codes) + 1).sum() > UNLIKELY:
        raise ScoreFileError(
            "column tokens grows with every step of every trajectory. If it is a running total, "
            'say columns={"total_tokens": "tokens"} or COLUMNS=total_tokens:tokens; if it is the '
            'length of each step, {"tokens": "tokens"} or COLUMNS=tokens:tokens.'
        )


# Files ---------------------------------------------------------------------------------------


def _shown(path: str | Path) -> str:
    name = Path(path).name
    return name if len(name) <= 80 else f"{name[:50]}...{name[-27:]}"


def _read(file: Path, choose: Choice) -> dict[str, Cells]:
    """Return the chosen columns, by our names."""
    ending = ENDINGS.search(file.name)
    if ending is None:
        raise ScoreFileError(
            "unknown ending, expected .csv, .tsv, .json, .jsonl or .ndjson, each also with .gz, "
            "or .parquet."
        )
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not a file"
        raise ScoreFileError(f"{short(str(file))} {what}. Give the path of a table of step scores.")
    if file.stat().st_size == 0:
        raise ScoreFileError(f"{_shown(file)} is empty. Expected the columns {EXPECTED_COLUMNS}.")
    kind = (ending["text"] or "parquet").lower()
    try:
        if kind == "parquet":
            return _from_parquet(file, choose)
        opened = gzip.open if file.name.lower().endswith(".gz") else open
        with cast(TextIO, opened(file, "rt", encoding="utf-8-sig", newline="")) as lines:
            if kind in ("csv", "tsv"):
                return _from_csv(lines, choose)
            return _from_json(lines.read(), choose)
    except ScoreFileError:
        raise
    except (OSError, ValueError, EOFError, zlib.error, csv.Error, RecursionError) as error:
        named = {"parquet": "parquet", "csv": "CSV", "tsv": "TSV"}.get(kind, "JSON")
        raise ScoreFileError(
            f"{_shown(file)} cannot be read as {named}: {str(error)[:200]}. Expected a table in "
            f"UTF-8 with the columns {EXPECTED_COLUMNS}."
        ) from error


def _from_parquet(file: Path, choose: Choice) -> dict[str, Cells]:
    with pq.ParquetFile(file) as source:
        chosen = choose(source.schema_arrow.names)  # levels of an index stand among the columns
        table = source.read(columns=list(dict.fromkeys(chosen.values())))
    return {ours: _arrow_cells(table[theirs]) for ours, theirs in chosen.items()}


def _arrow_cells(column: pa.ChunkedArray) -> Cells:
    plain = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return column.to_numpy() if plain and not column.null_count else column.to_pylist()


def _from_csv(lines: TextIO, choose: Choice) -> dict[str, Cells]:
    csv.field_size_limit(2**31 - 1)
    first = next(filter(str.strip, lines), "")
    said = re.fullmatch(r'"?sep=(.)"?\s*', first)
    separator = said[1] if said else max(
        SEPARATORS, key=lambda sign: len(next(csv.reader([first], delimiter=sign), [])))
    rest = lines if said else itertools.chain([first], lines)
    rows = filter(None, csv.reader(rest, delimiter=separator, strict=True))
    names = [name.strip() for name in next(rows, [])]
    while names and not names[-1]:
        names.pop()  # a comma at the end of the header names nothing
    chosen = choose(names)
    places = [names.index(theirs) for theirs in chosen.values()]
    columns: list[list[str]] = [[] for _ in places]
    # One copy of each of the texts that come again and again: all but the scores.
    copies: list[dict[str, str] | None] = [None if ours == "score" else {} for ours in chosen]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            _check_width(number, row, len(names))
        for column, place, seen in zip(columns, places, copies, strict=True):
            cell = row[place]
            column.append(cell if seen is None else seen.setdefault(cell, cell))
    return dict(zip(chosen, columns, strict=True))


def _check_width(number: int, row: list[str], width: int) -> None:
    if len(row) < width:
        raise ScoreFileError(
            f"row {number} has {len(row)} fields, the header names {width} columns. Was the file "
            "cut off?"
        )
    surplus = [field for field in row[width:] if field.strip()]
    if surplus:
        raise ScoreFileError(
            f"row {number} has {len(row)} fields, the header names {width} columns: what is "
            f"{short(surplus[0])}? Name every column, and put quotes around a text with a comma."
        )


def _from_json(text: str, choose: Choice) -> dict[str, Cells]:
    """One array of objects, one object per line, or an object that holds columns."""
    decode = json.JSONDecoder(object_pairs_hook=_object).decode
    try:
        found = decode(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
        found = _json_lines(text, decode)
    if isinstance(found, dict):
        found = _unwrapped(found)
    if isinstance(found, dict):
        chosen = choose(list(found))
        _check_columns_of(found, chosen.values())
        return {ours: found[theirs] for ours, theirs in chosen.items()}
    if not isinstance(found, list) or not found:
        raise ScoreFileError(f"found {short(found)}, expected an array of objects with the keys "
                             f"{EXPECTED_COLUMNS}.")
    for number, item in enumerate(found, start=1):
        if not isinstance(item, dict):
            raise ScoreFileError(f"row {number} is {short(item)}, expected an object with the keys "
                                 f"{EXPECTED_COLUMNS}.")
    chosen = choose(list(dict.fromkeys(name for item in found for name in item)))
    return {ours: [item.get(theirs) for item in found] for ours, theirs in chosen.items()}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ScoreFileError(f"column {short(twice)} appears twice in one object; keep one of "
                             "them.")
    return found


def _json_lines(text: str, decode: Callable[[str], Any]) -> list[Any]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(decode(line))
        except json.JSONDecodeError as error:
            raise ScoreFileError(f"line {number} is not JSON ({error.msg}, column {error.colno}). "
                                 "Every line must hold one object; was the file cut off?") from None
    return found


def _unwrapped(found: dict[str, Any]) -> dict[str, Any] | list[Any]:
    """Return the only array of objects in an object, or its columns as arrays.

    An object that holds neither is a single row.
    """
    by_row = all(isinstance(value, dict) for value in found.values())  # as pandas writes columns
    if by_row and len({tuple(value) for value in found.values()}) == 1:
        return {name: list(value.values()) for name, value in found.items()}
    tables = [value for value in found.values()
              if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)]
    if len(tables) == 1:
        return tables[0]
    return found if all(isinstance(value, list) for value in found.values()) else [found]


def _check_columns_of(found: dict[str, Any], names: Iterable[str]) -> None:
    lengths = {len(found[name]) for name in names}
    if len(lengths) > 1:
        raise ScoreFileError(f"the columns have {listed(sorted(lengths))} entries, expected the "
                             "same number in all of them.")
