"""Rows of step scores as other people write them: which column is which, and what a cell says.

Whatever has one meaning is read: any case of a column's name, lists per trajectory, decimal commas,
percentages, labels in words. Whatever has two is refused with its row, and nothing is filled in.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Cells = Sequence[Any] | NDArray[Any]

COLUMNS = (
    "trajectory_id", "step", "score", "label", "tokens", "total_tokens", "group", "signal", "onset",
)
EXPECTED_COLUMNS = "trajectory_id, step, score and optionally label, tokens, group, signal, onset"
HOW_TO_NAME = (
    'name them: --columns score:p_bad, columns={"score": "p_bad"}, COLUMNS="score:p_bad"'
)

UNKNOWN = -1  # the label of a sequence of which nobody knows how it ended
POSITIVES = ("unsafe", "safe")
WORDS = {"safe": 0, "benign": 0, "harmless": 0, "correct": 0,
         "unsafe": 1, "misbehavior": 1, "harmful": 1, "incorrect": 1}
TRUTH = {"false": 0.0, "no": 0.0, "true": 1.0, "yes": 1.0}
ABSENT = {"", "nan", "none", "null", "na", "n/a", "<na>"}
LARGEST = 1e100  # squares of scores are summed, and must not overflow

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


class ScoreFileError(ValueError):
    """A score table cannot be used; the message names column and row and says what to do."""


@dataclass(frozen=True)
class Rows:
    """Checked steps in the order of a table.

    Attributes
    ----------
    codes : ndarray of int, shape (m,)
        Number of each row's trajectory, in order of first appearance.
    ids : ndarray of object
        Identifiers by that number.
    steps, scores, tokens : ndarray of float, shape (m,)
        As they stand; steps are whole and at least 0, tokens above 0.
    labels : ndarray of int, shape (m,)
        1, 0 or -1 (unknown), the same in all rows of a trajectory.
    groups, signals : ndarray of object, shape (m,), or None
        Texts; a group is the same in all rows of a trajectory.
    onsets : ndarray of int, shape (m,), or None
        First wrong step, from 1, the same in all rows of a trajectory; 0 for none, or unknown.
    running_total : bool
        Whether tokens count from the beginning of the sequence.
    place : callable
        Row number, from 0, to its name in messages.
    """

    codes: IntArray
    ids: NDArray[Any]
    steps: FloatArray
    scores: FloatArray
    tokens: FloatArray
    labels: NDArray[np.int8]
    groups: NDArray[Any] | None
    signals: NDArray[Any] | None
    onsets: IntArray | None
    running_total: bool
    place: Callable[[int], str]


def brief(value: object) -> str:
    """Return a value as Python writes it, cut in the middle if it is long."""
    return _short.repr(value.item() if isinstance(value, np.generic) else value)


def listed(names: Sequence[object], most: int = 6) -> str:
    """Return names with commas, only the first few of many."""
    shown = [text if len(text) <= 30 else f"{text[:27]}..." for text in map(str, names[:most])]
    more = len(names) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def choose_columns(
    names: Sequence[str], columns: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Say which column of a table is which.

    Parameters
    ----------
    names : sequence of str
        Columns of the table.
    columns : mapping of str to str, optional
        Ours (a name of ``COLUMNS``) to the table's. An empty text leaves an optional column out.
        A column that is not named here is found by its own name, without regard to case.

    Returns
    -------
    dict
        Ours to the table's.

    Raises
    ------
    ScoreFileError
        For a name that is not ours, a column that is missing, and one that is there twice.
    """
    columns = dict(columns or {})
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise ScoreFileError(
            f"columns names {brief(unknown[0])}, expected one of {', '.join(COLUMNS)} on the left "
            "and a column of the table on the right."
        )
    found = {}
    for ours in COLUMNS:
        wanted = columns.get(ours)
        if wanted == "":
            continue
        free = [name for name in names if name not in columns.values()]
        same = [name for name in names if name == wanted] if wanted else _alike(ours, free)
        if len(same) > 1:
            raise ScoreFileError(
                f"column {brief(same[0])} appears twice ({listed(same)}); keep one of them."
            )
        if same:
            found[ours] = same[0]
        elif wanted:
            raise ScoreFileError(f"there is no column {brief(wanted)}; found {listed(names)}.")
    missing = [name for name in ("trajectory_id", "score") if name not in found]
    if missing:
        raise ScoreFileError(
            f"missing column {' and '.join(missing)}; found {listed(names)}. Expected "
            f"{EXPECTED_COLUMNS}: rename them, or {HOW_TO_NAME}."
        )
    if "tokens" in found and "total_tokens" in found:
        raise ScoreFileError("there are tokens and total_tokens: leave one of the columns out.")
    return found


def read_rows(table: Mapping[str, Cells], positive: str = "unsafe") -> Rows:
    """Read and check the cells of a table.

    Parameters
    ----------
    table : mapping of str to cells
        By our names: ``trajectory_id``, ``step`` (whole, from 1 or from 0), ``score`` (a number,
        infinite ones included), and optionally ``label``, ``tokens`` (of each step) or
        ``total_tokens`` (from the beginning on), ``group``, ``signal``, ``onset`` (the first wrong
        step, from 1; 0 or nothing where there is none). Numbers may be text. Where the scores are
        lists, a row is a trajectory, and ``step`` is not needed.
    positive : {"unsafe", "safe"}
        What a label of 1, true or yes means. Words (safe, benign, harmless, correct; unsafe,
        misbehavior, harmful, incorrect) mean themselves; an empty label is unknown.

    Raises
    ------
    ScoreFileError
        For no rows, a cell that cannot be read, two labels or groups in one trajectory.
    """
    if positive not in POSITIVES:
        raise ScoreFileError(
            f"positive is {brief(positive)}, expected unsafe or safe: what does label 1 mean?"
        )
    if not len(table["score"]):
        raise ScoreFileError(f"the table has a header and no rows. Expected {EXPECTED_COLUMNS}.")
    table, place = _one_row_per_step(table)
    if "step" not in table:
        raise ScoreFileError(
            f"missing column step. Expected {EXPECTED_COLUMNS}: number the steps of a trajectory, "
            f"or, if there is such a column, {HOW_TO_NAME}."
        )
    ids = _texts("trajectory_id", table["trajectory_id"], place)
    codes, names = pd.factorize(ids)
    tokens = "total_tokens" if "total_tokens" in table else "tokens"
    numbers = _numbers({name: table[name] for name in ("step", "score", tokens) if name in table},
                       place)
    steps = numbers["step"]
    _check("step", (steps % 1 == 0) & (steps >= 0), table["step"], "a whole number from 1 upwards",
           place)
    counted = numbers.get(tokens, np.ones(len(codes)))
    _check(tokens, counted > 0, counted, "a positive number of tokens", place)
    labels = _labels(table["label"], positive, place) if "label" in table else (
        np.full(len(codes), UNKNOWN, dtype=np.int8))
    if "label" in table:
        _check_label(codes, names, labels, table["label"], place)
    groups = _texts("group", table["group"], place) if "group" in table else None
    if groups is not None:
        _check_group(codes, names, groups, place)
    return Rows(
        np.asarray(codes, dtype=np.int64), np.asarray(names, dtype=object), steps,
        numbers["score"], counted, labels, groups,
        _texts("signal", table["signal"], place) if "signal" in table else None,
        _onsets(table["onset"], codes, names, steps, place) if "onset" in table else None,
        tokens == "total_tokens", place,
    )


def _absent(cell: object) -> bool:
    """Whether a cell holds nothing."""
    if isinstance(cell, str):
        return not cell.strip()
    if cell is None or cell is pd.NA or cell is pd.NaT:
        return True
    return isinstance(cell, Number) and cell != cell


# Columns -------------------------------------------------------------------------------------


def _alike(ours: str, names: Sequence[str]) -> list[str]:
    """Columns that are called as ours is, in any case; scores in lists may be called "scores"."""
    exact = [name for name in names if name == ours]
    plain = [name for name in names if str(name).strip().casefold() == ours]
    lists = [name for name in names if ours == "score" and str(name).strip().casefold() == "scores"]
    return plain if len(plain) > 1 else exact or plain or lists


def _one_row_per_step(
    table: Mapping[str, Cells],
) -> tuple[Mapping[str, Cells], Callable[[int], str]]:
    """Spread out rows that hold a whole trajectory in lists."""
    scores = _as_lists(table["score"])
    if scores is None:
        return table, lambda row: f"row {row + 1}"
    lengths = np.array([len(cells) for cells in scores])
    if not lengths.all():
        raise ScoreFileError(f"column score, row {int(np.argmin(lengths)) + 1}: an empty list. A "
                             "trajectory has at least one step.")
    ends = np.cumsum(lengths)
    rows = np.repeat(np.arange(len(scores)), lengths)
    entries = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    spread: dict[str, Cells] = {"step": entries + 1}
    for name, cells in table.items():
        numbers = name in ("step", "tokens", "total_tokens")
        lists = scores if name == "score" else _as_lists(cells) if numbers else None
        if lists is not None:
            _check_lengths(name, lists, lengths)
            spread[name] = [cell for one in lists for cell in one]
        elif numbers:
            raise ScoreFileError(f"column {name}, row 1: found {brief(cells[0])} where score has a "
                                 "list. Expected a list with one entry per step.")
        else:
            spread[name] = [cells[row] for row in rows.tolist()]
    return spread, lambda row: f"row {int(rows[row]) + 1}, step {int(entries[row]) + 1}"


def _as_lists(cells: Cells) -> list[Sequence[Any]] | None:
    """Return the cells as lists if that is what they are, also written as text."""
    if isinstance(cells, np.ndarray) and cells.dtype != object:
        return None
    if isinstance(cells[0], str) and cells[0].lstrip().startswith("["):
        cells = [_parsed(cell, row) for row, cell in enumerate(cells)]
    kinds = (list, tuple, np.ndarray)
    if not any(isinstance(cell, kinds) for cell in cells):
        return None
    for row, cell in enumerate(cells):
        if not isinstance(cell, kinds):
            raise ScoreFileError(f"row {row + 1}: found {brief(cell)} where other rows have a "
                                 "list. Give every trajectory a list, as in [0.1, 0.7].")
    return list(cells)


def _parsed(cell: object, row: int) -> object:
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        raise ScoreFileError(f"row {row + 1}: found {brief(cell)}, expected a list with commas, "
                             "as in [0.1, 0.7].") from None


def _check_lengths(name: str, lists: Sequence[Sequence[Any]], lengths: IntArray) -> None:
    for row, one in enumerate(lists):
        if len(one) != lengths[row]:
            raise ScoreFileError(f"column {name}, row {row + 1}: {len(one)} entries, but "
                                 f"{lengths[row]} scores. Expected one per step.")


# Cells ---------------------------------------------------------------------------------------


def _texts(name: str, cells: Cells, place: Callable[[int], str]) -> NDArray[Any]:
    texts = np.empty(len(cells), dtype=object)
    texts[:] = [cell if isinstance(cell, str) else "" if _absent(cell) else str(cell)
                for cell in cells]
    blank = {text for text in set(texts) if not text.strip()}
    if blank:
        row = next(row for row, text in enumerate(texts) if text in blank)
        what, of = ("identifier", "the id of its trajectory") if name == "trajectory_id" else (
            name, f"its {name}")
        raise ScoreFileError(f"column {name}, {place(row)}: no {what}. Every step needs {of}.")
    return texts


def _numbers(
    columns: Mapping[str, Cells], place: Callable[[int], str]
) -> dict[str, FloatArray]:
    """Parse columns to floats, all with the same decimal sign, or say which cell is no number."""
    written = {name: _written(cells) for name, cells in columns.items()}
    comma = any("," in text for text in written.values())
    if comma:
        _check_commas(columns, place)
    found = {}
    for name, cells in columns.items():
        if "%" in written[name]:
            _check_percent(name, cells, place)
        plain = not any(sign in written[name] for sign in ",%_")
        values = _floats(cells, plain, comma)
        infinite = name == "score"
        bad = np.isnan(values) if infinite else ~np.isfinite(values)
        if bad.any():
            raise ScoreFileError(_no_number(name, cells, bad, place))
        _check(name, (np.abs(values) <= LARGEST) | np.isinf(values), values,
               f"a number between -{LARGEST:g} and {LARGEST:g}, as larger ones overflow in sums. "
               "Only the order counts: divide all of them by the same power of ten", place)
        found[name] = values
    return found


def _no_number(name: str, cells: Cells, bad: NDArray[Any], place: Callable[[int], str]) -> str:
    row, count = int(np.argmax(bad)), int(bad.sum())
    what = "a number, or inf or -inf" if name == "score" else "a finite number"
    advice = (
        "Write the score. One that could not be computed may stand as inf or -inf, if the "
        "stream is scored in the same way; leaving trajectories out would break the promise"
        if name == "score" else "Write its value; nothing is filled in"
    )
    return (f"column {name}, {place(row)}: found {brief(cells[row])}, expected {what} "
            f"({count} such row{'s' if count > 1 else ''}). {advice}.")


def _written(cells: Cells) -> str:
    """All cells that are text, in one."""
    return "" if isinstance(cells, np.ndarray) else "\n".join(
        cell for cell in cells if isinstance(cell, str))


def _floats(cells: Cells, plain: bool, comma: bool) -> FloatArray:
    """Read cells as floats; NaN where one is no number. ``plain`` ones need no second look."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "iuf":
        return cells.astype(np.float64)
    kinds = set(map(type, cells))
    if plain and (kinds <= {int, float} or kinds == {str}):
        try:
            values = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
        except (ValueError, OverflowError):
            pass
        else:
            if kinds != {str} or np.isfinite(values).all():
                return values
    return np.array([_number(cell, comma) for cell in cells], dtype=np.float64)


def _number(cell: object, comma: bool) -> float:
    if isinstance(cell, bool | np.bool_) or _absent(cell):
        return np.nan
    if not isinstance(cell, str):
        try:
            return float(cell)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            return np.nan
    text = cell.strip()
    number = text.removesuffix("%").replace(",", ".") if comma else text.removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        return np.nan
    if "_" in number or (np.isinf(value) and any(sign.isdigit() for sign in number)):
        return np.nan
    return value / 100.0 if text.endswith("%") else value


def _check_commas(columns: Mapping[str, Cells], place: Callable[[int], str]) -> None:
    """Refuse commas that may be something else than a decimal sign."""
    texts = [(name, row, cell) for name, cells in columns.items()
             if not isinstance(cells, np.ndarray)
             for row, cell in enumerate(cells) if isinstance(cell, str)]
    commas = [one for one in texts if "," in one[2]]
    point = any("." in cell for _, _, cell in texts)
    parts = [cell.strip().removesuffix("%").rpartition(",") for _, _, cell in commas]
    certain = any(len(rest) != 3 or whole.lstrip("+-") == "0" for whole, _, rest in parts)
    if point or not certain:
        name, row, cell = commas[0]
        other = "other numbers have a point" if point else "it may separate thousands"
        raise ScoreFileError(f"column {name}, {place(row)}: found {brief(cell)}. Is the comma a "
                             f"decimal sign? Here {other}: write all numbers with a point.")


def _check_percent(name: str, cells: Cells, place: Callable[[int], str]) -> None:
    marked = [isinstance(cell, str) and cell.rstrip().endswith("%") for cell in cells]
    if any(marked) and not all(marked):
        row = marked.index(not marked[0])
        raise ScoreFileError(f"column {name}, {place(row)}: found {brief(cells[row])}, and other "
                             "rows are written the other way. Put % behind all numbers or none.")


def _check(
    name: str, good: NDArray[Any], cells: Cells, expected: str, place: Callable[[int], str]
) -> None:
    if not good.all():
        row = int(np.argmin(good))
        value = cells[row]
        shown = f"{value:g}" if isinstance(value, int | float | np.number) else brief(value)
        raise ScoreFileError(f"column {name}, {place(row)}: found {shown}, expected {expected}.")


def _labels(cells: Cells, positive: str, place: Callable[[int], str]) -> NDArray[np.int8]:
    read: dict[Any, int | None] = {}
    labels = np.empty(len(cells), dtype=np.int8)
    for row, cell in enumerate(cells):
        key = cell if isinstance(cell, str) else (type(cell), str(cell))
        if key not in read:
            read[key] = _label(cell, positive)
        found = read[key]
        if found is None:
            shown = f"{cell:g}" if isinstance(cell, float | np.floating) else brief(cell)
            raise ScoreFileError(
                f"column label, {place(row)}: found {shown}, expected 0 (safe) or 1 (unsafe), "
                "false or true, no or yes, safe or unsafe, or nothing where it is unknown. A label "
                f"says how the whole trajectory ended.{_position_hint(cell)}"
            )
        labels[row] = found
    return labels


def _label(cell: object, positive: str) -> int | None:
    """Return 1, 0 or -1 (unknown), or None for what is no label."""
    text = str(cell).strip().lower()
    if _absent(cell) or text in ABSENT:
        return UNKNOWN
    if text in WORDS:
        return WORDS[text]
    try:
        number = TRUTH[text] if text in TRUTH else float(text)
    except ValueError:
        return None
    if number not in (0.0, 1.0):
        return None
    return int(number) if positive == "unsafe" else 1 - int(number)


def _position_hint(cell: object) -> str:
    """Say what to do with -1, which is "no error" in some files and "unknown" in others."""
    if str(cell).strip() not in ("-1", "-1.0"):
        return ""
    return (" Where -1 means that no step is wrong, write 0 for it and 1 for all others; where it "
            "means unknown, leave it empty.")


def _check_label(
    codes: NDArray[Any], names: NDArray[Any], labels: NDArray[np.int8], cells: Cells,
    place: Callable[[int], str],
) -> None:
    known = np.full(len(names), UNKNOWN, dtype=np.int8)
    np.maximum.at(known, codes, labels)
    gap = (labels == UNKNOWN) & (known[codes] != UNKNOWN)
    if gap.any():
        row = int(np.argmax(gap))
        raise ScoreFileError(
            f"column label, {place(row)}: found {brief(cells[row])}, but trajectory "
            f"{brief(names[codes[row]])} has label {known[codes[row]]} in another row. Write the "
            "label in every row of a trajectory, or in none."
        )
    other = _other_value(codes, len(names), labels)
    if other is not None:
        row = other
        raise ScoreFileError(
            f"column label, {place(row)}: trajectory {brief(names[codes[row]])} has label "
            f"{labels[row]} here and {1 - labels[row]} before. A trajectory has one label: whether "
            "the whole sequence turned out unsafe."
        )


def _onsets(
    cells: Cells, codes: NDArray[Any], names: NDArray[Any], steps: FloatArray,
    place: Callable[[int], str],
) -> IntArray:
    filled = ["0" if _absent(cell) else cell for cell in cells]
    onsets = _numbers({"onset": filled}, place)["onset"]
    if onsets.any() and not steps.all():
        raise ScoreFileError("column step counts from 0, column onset from 1: count both from 1.")
    last = np.zeros(len(names))
    np.maximum.at(last, codes, steps)
    _check("onset", (onsets % 1 == 0) & (onsets >= 0) & (onsets <= last[codes]), onsets,
           "the number of a step of its trajectory, from 1, or 0 or nothing for none", place)
    row = _other_value(codes, len(names), onsets)
    if row is not None:
        raise ScoreFileError(
            f"column onset, {place(row)}: trajectory {brief(names[codes[row]])} has onset "
            f"{onsets[row]:g} here and another before. Write its first wrong step into every row."
        )
    return onsets.astype(np.int64)


def _check_group(
    codes: NDArray[Any], names: NDArray[Any], groups: NDArray[Any], place: Callable[[int], str]
) -> None:
    row = _other_value(codes, len(names), pd.factorize(groups)[0])
    if row is not None:
        raise ScoreFileError(
            f"column group, {place(row)}: trajectory {brief(names[codes[row]])} has group "
            f"{brief(groups[row])} here and another before. A trajectory belongs to one group."
        )


def _other_value(codes: NDArray[Any], n: int, values: NDArray[Any]) -> int | None:
    """First row whose value is not that of the first row of its trajectory."""
    first = np.full(n, len(codes))
    np.minimum.at(first, codes, np.arange(len(codes)))
    other = values != values[first][codes]
    return int(np.argmax(other)) if other.any() else None
