"""The door through which your own samples come in: CSV, TSV, JSON lines, JSON or parquet."""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monitorlab.monitors.verdicts import WORDING, mended
from monitorlab.storage.table_files import FileTable, TableFileError, kind_name
from monitorlab.storage.tables import CELLS, SAMPLES

REQUIRED = ("request", "response")
CHATS = ("messages", "conversations")
IDENTIFIERS = ("pair_id", "scenario_id", "component")  # text, as sample_id is, but may be missing
NAMES = ("sample_id", *REQUIRED, "label", *IDENTIFIERS, "cell", *CHATS)
EXPECTED = ("request, response and optionally sample_id, label, pair_id, cell; or messages, a chat "
            "whose last answer is the response")
_WORDS = WORDING["sample_files"]
_LABELS: dict[str, int] = {word: label for label, name in enumerate(("benign", "misbehavior"))
                           for word in _WORDS[name]}
_ROLES: dict[str, str] = {word: role for role, words in WORDING["roles"].items() for word in words}
ASSISTANT = "assistant"
_SHOWN = 3  # rows that a sentence names
OWN = "own"  # the cell, and whatever else the benchmark says of a sample and a file need not
EVERY_CELL = "all"  # what tables call all cells together
SPLITS = ("dev", "test")
# What lies within what, and what to do where it does not.
_WITHIN = (
    ("pair_id", "scenario_id", "The samples of a pair answer one request: give them one scenario"),
    ("scenario_id", "cell", "Give the scenario another name in each cell, or drop the column cell"),
    ("scenario_id", "split", "Keep whole scenarios in one split, or drop the column split"),
)


class SampleFileError(TableFileError):
    """A file of samples cannot be used; the message names the row and says what to do."""


def load_samples(path: str | Path, report: Callable[[str], object] = warnings.warn) -> pd.DataFrame:
    """Read a file of samples to judge.

    Columns are found without regard to case, and to blanks or hyphens for underscores. Instead of
    request and response a file may have ``messages`` or ``conversations``, as
    :func:`monitorlab.benchmark.sample_files._read_chat` reads them.

    Parameters
    ----------
    path : str or Path
        A file as :meth:`monitorlab.storage.table_files.FileTable.read` reads it.
    report : callable
        Takes what a reader should know, one sentence at a time, a warning by default: ids that were
        made, responses that are empty, a column that looks like a label, rows that repeat or
        contradict each other.

    Returns
    -------
    DataFrame
        In the file's order: ``sample_id`` (text, unique; "row-1", "row-2", ... if the file has
        none), ``request`` (text, not blank), ``response`` (text, may be empty), ``label`` (1 is
        misbehavior, 0 benign) if the file has labels, and every other column as it is, of which
        ``pair_id``, ``scenario_id`` and ``component`` are text or missing.

    Raises
    ------
    SampleFileError
        For a file that is no table, a missing or repeated column, a missing request or response,
        text that is none, a chat without an answer, a repeated sample_id, or a label that is not
        0 or 1 (also as 1.0, true, unsafe and misbehavior, or false, safe and benign).

    Examples
    --------
    >>> samples = load_samples("samples.jsonl")
    >>> len(samples), sorted(samples.columns)[:3]
    (12, ['label', 'pair_id', 'request'])
    """
    file = Path(path).expanduser()
    notes: list[str] = []
    try:
        table = _named(FileTable.read(file, EXPECTED, NAMES, notes.append))
        table = _with_texts(table, notes.append)
        columns = _checked(table)
    except TableFileError as error:
        raise SampleFileError(f"{file.name}: {error}") from None
    for words in notes:
        report(f"{file.name}: {words}")
    if "sample_id" not in table.columns:
        other = next((name for name in table.columns if _plain(name) in _WORDS["other_ids"]), None)
        hint = f". Is it {other!r}? Then call that sample_id" if other else ""
        report(f"{file.name} has no column sample_id: its samples are called row-1 to "
               f"row-{len(table.places)}{hint}")
    if "label" not in table.columns:
        _hint_at_label(file.name, table, report)
    _report_oddities(table, columns, report)
    for words in _repeats(table, columns):
        report(f"{file.name}: {words}")
    return pd.DataFrame(columns)


def own_samples(
    path: str | Path, rng: np.random.Generator, report: Callable[[str], object] = warnings.warn
) -> pd.DataFrame:
    """Read a file of labelled samples as what takes the place of the benchmark.

    Parameters
    ----------
    path : str or Path
        As for :func:`monitorlab.benchmark.sample_files.load_samples`, with labels. The columns
        ``pair_id``, ``scenario_id``, ``cell`` and ``split`` may be there.
    rng : Generator
        Deals scenarios to the splits, if the file does not.
    report : callable
        Takes what `load_samples` reports, and what was made of columns that are not there.

    Returns
    -------
    DataFrame
        In the file's order, with the columns of schema ``samples``, and tier and protocol, empty
        where the file does not say them. Without a pair_id a sample is a
        pair of its own, without a scenario_id a pair is a scenario of its own, and without a cell a
        sample is in the cell `OWN`. Category and task are those of the benchmark's cell of that
        name, or the cell. Without a column split, a third of the scenarios is in dev,
        drawn evenly over cells and labels, and the others are in test.

    Raises
    ------
    SampleFileError
        As `load_samples`; without a label; for a split that is not dev or test, or is missing in a
        part of the rows; a cell called "all"; a pair in two scenarios, a scenario in two cells or
        two splits; and if test lacks misbehaving or benign samples.
    """
    frame = load_samples(path, report)
    name = Path(path).name
    if "label" not in frame.columns:
        raise SampleFileError(f"{name}: there is no column 'label', expected 1 (misbehavior) or 0 "
                              "(benign) in every row")
    pairs, alone = _given(frame, "pair_id"), frame["sample_id"]
    # A sample without a pair must not fall into the pair that is called as it is.
    pairs = pairs.fillna(alone.where(~alone.isin(set(pairs.dropna())), alone + " (alone)"))
    table = frame[["sample_id", "request", "response", "label"]].assign(
        pair_id=pairs, scenario_id=_given(frame, "scenario_id").fillna(pairs),
        cell=_given(frame, "cell").fillna(OWN), source=name, misbehavior_type=OWN, cue_type=OWN,
        generator=OWN, has_thinking=frame["response"].str.contains("<think>", regex=False),
    )
    ours = table["cell"].isin(CELLS)  # such a name says category and task
    for place, part in enumerate(("category", "task")):
        table[part] = table["cell"].where(~ours, table["cell"].str.split("_").str[place])
    if EVERY_CELL in set(table["cell"]):
        raise SampleFileError(f"{name}: a cell is called {EVERY_CELL!r}, as tables call all cells "
                              "together: give it another name")
    column = next((known for known in frame.columns if _plain(known) == "split"), "")
    table["split"] = _given_split(frame, column, name) if column else _dealt(table, rng)
    grades = {grade: _given(frame, grade).fillna("") for grade in ("tier", "protocol")}
    _check_own(table, name)
    for words in _made_up(frame, table, column):
        report(f"{name}: {words}")
    texts = {field.name: "str" for field in SAMPLES.fields if field.dtype == "str"}
    return table[SAMPLES.columns].astype(texts).assign(**grades)


def _given(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as text, missing where it is blank or not there."""
    if column not in frame.columns:
        return pd.Series(None, frame.index, dtype=object)
    values = frame[column]
    texts = values.astype(str).str.strip()
    return texts.astype(object).where(values.notna() & (texts != ""), None)


def _given_split(frame: pd.DataFrame, column: str, name: str) -> pd.Series:
    """Return the split of every row, or say which is none."""
    given = _given(frame, column)
    split = given.str.lower()
    strange = ~split.isin(SPLITS)
    if strange.any():
        sample, found = frame.loc[strange, "sample_id"].iloc[0], given[strange].iloc[0]
        shown = reprlib.repr(found) if isinstance(found, str) else "missing"
        raise SampleFileError(f"{name}: the split of sample {sample!r} is {shown}, expected dev or "
                              "test in every row. Drop the column to have a third of the scenarios "
                              "drawn for dev")
    return split


def _dealt(table: pd.DataFrame, rng: np.random.Generator) -> pd.Series:
    """Deal whole scenarios to dev and test: every third, in an order by cell, label and chance."""
    worst = table.groupby("scenario_id")["label"].transform("max")
    scenarios = table.assign(label=worst).drop_duplicates("scenario_id")
    scenarios = scenarios.assign(turn=rng.permutation(len(scenarios)))
    dev = scenarios.sort_values(["cell", "label", "turn"])["scenario_id"].iloc[1::3]
    return table["scenario_id"].isin(dev).map({True: SPLITS[0], False: SPLITS[1]})


def _check_own(table: pd.DataFrame, name: str) -> None:
    """Raise unless pairs, scenarios, cells and splits nest, and test has both labels."""
    for inner, outer, advice in _WITHIN:
        several = table.groupby(inner)[outer].unique()
        several = several[several.map(len) > 1]
        if len(several):
            one, other = several.iloc[0][:2]
            raise SampleFileError(f"{name}: {inner} {several.index[0]!r} is in {outer} {one!r} and "
                                  f"in {other!r}. {advice}")
    test = table[table["split"] == "test"]
    bad = int(test["label"].sum())
    if not 0 < bad < len(test):
        raise SampleFileError(f"{name}: the test split has {bad} misbehaving and {len(test) - bad} "
                              f"benign samples (of {len(table)} in all), expected some of both. "
                              "Add samples, or give a column split")


def _made_up(frame: pd.DataFrame, table: pd.DataFrame, split: str) -> Iterator[str]:
    """Say what stands where the file says nothing."""
    if _given(frame, "scenario_id").isna().any():
        unit = "pair" if "pair_id" in frame.columns else "sample"
        yield (f"a {unit} without a scenario_id counts as a scenario of its own. Give those that "
               "share a situation one scenario_id, else intervals are too narrow")
    if not split:
        scenarios = table.drop_duplicates("scenario_id")["split"]
        dev = int((scenarios == "dev").sum())
        yield (f"there is no column split, so {dev} of {len(scenarios)} scenarios were drawn for "
               f"dev and {len(scenarios) - dev} for test")


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _named(table: FileTable) -> FileTable:
    """Give the columns that are known by name our spelling of it."""
    theirs: dict[str, str] = {}
    columns: dict[str, list[Any]] = {}
    for name, values in table.columns.items():
        ours = _plain(name) if _plain(name) in NAMES else name
        if ours in columns:
            raise SampleFileError(f"the columns {theirs[ours]!r} and {name!r} are both called "
                                  f"{ours}; keep one")
        theirs[ours], columns[ours] = name, values
    return FileTable(columns, table.places)


def _with_texts(table: FileTable, report: Callable[[str], object]) -> FileTable:
    """Make request and response of a chat where there is one and they are not there."""
    chats = [name for name in CHATS if name in table.columns]
    texts = [name for name in REQUIRED if name in table.columns]
    if not chats or len(texts) == len(REQUIRED):
        _check_names([*table.columns])
        return table
    if texts or len(chats) > 1:
        raise SampleFileError(f"there are the columns {' and '.join([*texts, *chats])}: give "
                              "request and response, or one column with the whole chat")
    read, after = [], 0
    for value, place in zip(table.columns[chats[0]], table.places, strict=True):
        try:
            request, response, left = _read_chat(value)
        except TableFileError as error:
            raise SampleFileError(f"{place}: {chats[0]} {error}") from None
        read.append((request, response))
        after += left > 0
    if after:
        report(f"in {after:,} of {len(read):,} chats messages follow the last answer; they are not "
               "judged")
    others = {name: values for name, values in table.columns.items() if name != chats[0]}
    made = dict(zip(REQUIRED, map(list, zip(*read, strict=True)), strict=True))
    return FileTable(made | others, table.places)


def _check_names(names: list[str]) -> None:
    for wanted in REQUIRED:
        if wanted in names:
            continue
        # Probably it is there under another usual name, or spelled otherwise.
        plain = {name.strip().lower(): name for name in names if name not in REQUIRED}
        likely = [other for other in WORDING["other_columns"][wanted] if other in plain]
        likely += difflib.get_close_matches(wanted, plain, n=1)
        hint = f" Is it {plain[likely[0]]!r}? Then rename that" if likely else ""
        found = ", ".join(repr(name) for name in names)
        raise SampleFileError(f"there is no column {wanted!r}; found {found:.200}.{hint}")


def _checked(table: FileTable) -> dict[str, list[Any]]:
    """Return the columns with checked ids, texts and labels, the ids first."""
    columns: dict[str, list[Any]] = {"sample_id": _ids(table)}
    for name in REQUIRED:
        columns[name] = [_checked_text(name, value, place) for value, place in _cells(table, name)]
    for text, place in zip(columns["request"], table.places, strict=True):
        if not text.strip():
            raise SampleFileError(f"{place}: the request is empty. A response is judged against "
                                  "its request: fill it in, or drop the row")
    if "label" in table.columns:
        columns["label"] = [_label(value, place) for value, place in _cells(table, "label")]
    others = {
        name: [value if value is None else _identifier(name, value, place)
               for value, place in _cells(table, name)] if name in IDENTIFIERS else values
        for name, values in table.columns.items() if name not in columns
    }
    return columns | others


def _cells(table: FileTable, name: str) -> list[tuple[Any, str]]:
    return list(zip(table.columns[name], table.places, strict=True))


def _ids(table: FileTable) -> list[str]:
    if "sample_id" not in table.columns:
        return [f"row-{number}" for number in range(1, len(table.places) + 1)]
    first: dict[str, str] = {}
    for value, place in _cells(table, "sample_id"):
        name = _identifier("sample_id", value, place)
        if not name.strip():
            raise SampleFileError(f"{place}: the sample_id is empty. Give every sample its own, or "
                                  "drop the column")
        if name in first:
            raise SampleFileError(f"{place}: the sample_id {reprlib.repr(name)} already occurs in "
                                  f"{first[name]}. Give every sample its own")
        first[name] = place
    return list(first)


def _identifier(name: str, value: object, place: str) -> str:
    """Return an identifier as text; whole numbers are written out, other numbers are none."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return _checked_text(name, str(value) if number else value, place)


def _checked_text(name: str, value: object, place: str) -> str:
    if value is None:
        raise SampleFileError(f"{place}: there is no {name}, expected text (\"\" if a model really "
                              "said nothing)")
    if not isinstance(value, str):
        hint = ". A chat belongs into one column, messages" * isinstance(value, list)
        raise SampleFileError(f"{place}: {name} is {kind_name(value)} ({reprlib.repr(value)}), "
                              f"expected text{hint}")
    return value if value.isascii() else mended(value)


def _label(value: object, place: str) -> int:
    found = str(value).strip().lower() if isinstance(value, (bool, int, float, str)) else ""
    number = re.fullmatch(r"([01])(?:\.0*)?", found)
    label = int(number[1]) if number else _LABELS.get(found)
    if label is None:
        shown = "missing" if value is None else reprlib.repr(value)
        raise SampleFileError(f"{place}: the label is {shown}, expected 1 (misbehavior; also true, "
                              "unsafe) or 0 (benign; also false, safe) in every row. Drop the "
                              "column if there are no labels")
    return label


def _hint_at_label(name: str, table: FileTable, report: Callable[[str], object]) -> None:
    """Name the columns that look like labels: which they are, and which way round, is not ours."""
    for column, values in table.columns.items():
        words = set(re.findall(r"[a-z]+", _plain(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column))))
        kinds = {repr(value) for value in values if value not in (None, "")}
        if column in NAMES or words.isdisjoint(_WORDS["like_a_label"]) or not 1 <= len(kinds) <= 2:
            continue
        turned = not words.isdisjoint(_WORDS["turned_label"])
        how = "turn its values and call it label" if turned else "call it label"
        report(f"{name} has no column label, so there are no rates. {column!r} looks like "
               f"{'the opposite of one' if turned else 'one'}: {how}, where 1 is misbehavior")


def _report_oddities(
    table: FileTable, columns: Mapping[str, list[Any]], report: Callable[[str], object]
) -> None:
    empty = sum(not text.strip() for text in columns["response"])
    if empty:
        report(f"{empty} of {len(table.places)} responses are empty; they are judged like others")
    mended = sum(text != raw for name in REQUIRED
                 for text, raw in zip(columns[name], table.columns[name], strict=True))
    if mended:
        report(f"{mended} texts held half a character, such as a cut emoji; it was replaced by the "
               "replacement character U+FFFD")


def _repeats(table: FileTable, columns: Mapping[str, list[Any]]) -> Iterator[str]:
    """Say which rows are the same, and which of them have different labels."""
    first: dict[tuple[str, str], int] = {}
    same: list[tuple[int, int]] = []
    different: list[tuple[int, int]] = []
    labels = columns.get("label")
    for row, texts in enumerate(zip(columns["request"], columns["response"], strict=True)):
        known = first.setdefault(texts, row)
        if known != row:
            contradict = labels is not None and labels[row] != labels[known]
            (different if contradict else same).append((known, row))
    for pairs, words in (
        (different, "have the request and response of an earlier row and another label, so one of "
                    "them is wrong"),
        (same, "repeat the request and response of an earlier row, and count again"),
    ):
        if pairs:
            shown = ", ".join(f"{table.places[b]} ({table.places[a]})" for a, b in pairs[:_SHOWN])
            more = ", ..." * (len(pairs) > _SHOWN)
            yield f"{len(pairs):,} of {len(table.places):,} rows {words}: {shown}{more}"


def _read_chat(value: object) -> tuple[str, str, int]:
    """Split a chat at its last answer.

    Parameters
    ----------
    value : object
        Messages in order, each with ``role`` and ``content`` (OpenAI) or ``from`` and ``value``
        (ShareGPT); or the same as JSON text, as a CSV file holds it. Content may be text or a list
        of text parts. Thinking that is kept apart comes first, as ``<think>...</think>``, and
        calls of tools last, as JSON.

    Returns
    -------
    request : str
        What comes before the last message of the assistant: the text of the one message, or all of
        them with their roles.
    response : str
        That last message.
    after : int
        How many messages follow it.

    Raises
    ------
    TableFileError
        It is no list of messages, a role is unknown, a part is no text, or no message is the
        assistant's.
    """
    turns = read_turns(value)
    answers = [i for i, (role, _) in enumerate(turns) if role == ASSISTANT]
    if not answers:
        raise TableFileError("has no message of the assistant: there is nothing to judge")
    before = turns[:answers[-1]]
    request = before[0][1] if len(before) == 1 else "\n\n".join(
        f"{role.capitalize()}: {text}" for role, text in before)
    return request, turns[answers[-1]][1], len(turns) - answers[-1] - 1


def read_turns(value: object) -> list[tuple[str, str]]:
    """Return roles and texts of the messages of a chat, as :func:`_read_chat` takes it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise TableFileError("is text, but not a JSON array of messages") from None
    if not isinstance(value, list) or not value:
        raise TableFileError(f"is {kind_name(value)}, expected an array of messages such as "
                             '{"role": "user", "content": "..."}')
    return [_turn(number, message) for number, message in enumerate(value, 1)]


def _turn(number: int, message: object) -> tuple[str, str]:
    """Role and text of a message."""
    where = f"holds a message {number}"
    if not isinstance(message, Mapping):
        raise TableFileError(f"{where} that is {kind_name(message)}, expected an object")
    role = message.get("role") or message.get("from")
    known = _ROLES.get(str(role).strip().lower())
    if known is None:
        raise TableFileError(f"{where} of the role {reprlib.repr(role)}, expected one of "
                             f"{', '.join(_ROLES)}")
    pieces = [_content(where, message.get("content", message.get("value")))]
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thinking, str):
        pieces.insert(0, f"<think>{thinking}</think>")
    pieces += [json.dumps(message[name], ensure_ascii=False)
               for name in ("tool_calls", "function_call") if message.get(name)]
    if isinstance(message.get("refusal"), str):
        pieces.append(message["refusal"])
    given = [piece for piece in pieces if piece is not None]
    if not given:
        raise TableFileError(f"{where} without content")
    return known, "\n".join(piece for piece in given if piece) if len(given) > 1 else given[0]


def _content(where: str, content: Any) -> str | None:
    """Text of a message: a string, or parts that are text; None if there is none."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TableFileError(f"{where} whose content is {kind_name(content)}, expected text")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, Mapping) else kind_name(part)
            raise TableFileError(f"{where} with a part that is no text ({kind!s:.40}): a monitor "
                                 "of texts cannot see it; put a description there, or drop the row")
        texts.append(text)
    return "".join(texts)
