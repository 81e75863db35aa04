"""The door through which step scores come in: files of users, published ones, tables of a run.

Whatever has one meaning is read: any case of a column's name, lists per trajectory, decimal commas,
percentages, labels in words. Whatever has two is refused with its row, and nothing is filled in.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from monitorlab.online.running import FloatArray, IntArray
from monitorlab.online.trajectories import UNKNOWN, ScoreFileError, Trajectories
from monitorlab.storage.table_files import ENDINGS, FileTable, TableFileError

Cells = Sequence[Any] | NDArray[Any]

COLUMNS = ("trajectory_id", "step", "score", "label", "tokens", "total_tokens", "group", "signal",
           "onset")
EXPECTED_COLUMNS = "trajectory_id, step, score and optionally label, tokens, group, signal, onset"
EXPECTED_NUMBER = "a finite number; nothing is filled in"
EXPECTED_SCORE = ("a number, or inf or -inf where it could not be computed and the stream is "
                  "scored in the same way; leaving trajectories out would break the promise")
HOW_TO_NAME = 'name them: --columns score:p_bad, columns={"score": "p_bad"}, COLUMNS=score:p_bad'
ORIENTATIONS = ("suspicion", "safety")
POSITIVES = ("unsafe", "safe")
WORDS = {"safe": 0, "benign": 0, "harmless": 0, "correct": 0,
         "unsafe": 1, "misbehavior": 1, "harmful": 1, "incorrect": 1}
TRUTH = {"false": 0.0, "no": 0.0, "true": 1.0, "yes": 1.0}
ABSENT = {"", "nan", "none", "null", "na", "n/a", "<na>"}
LARGEST = 1e100  # squares of scores are summed, and must not overflow
MOST_SIGNALS = 50
# So many growing pairs of steps are no accident: tokens are then counted from the beginning on.
UNLIKELY = np.log(1e6)
PUBLISHED_TITLES = {"evaluator_math": "MATH, process reward model",
                    "evaluator_gsm8k": "GSM8K, judge scores"}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def load_scores(path: str | Path, orientation: str = "suspicion", dataset: str | None = None, *,
                columns: Mapping[str, str] | str = "", group: str = "", positive: str = "unsafe",
                signal: str = "") -> Trajectories:
    """Read a user's own score file.

    Parameters
    ----------
    path : str or Path
        CSV or TSV (also with semicolons and decimal commas), JSON (an array of objects), JSON lines
        or parquet, the text formats also as ``.gz``. One row per step, or one per trajectory with
        lists of scores; columns as in :func:`from_frame`, further ones are ignored. Without labels,
        all sequences are unknown.
    orientation : {"suspicion", "safety"}
        What a high score means in the file. ``safety`` scores s are turned into -s, which reverses
        their order and loses no difference, however small.
    dataset : str, optional
        Name; the file's name without its ending by default.
    columns : mapping of str to str, or str
        Our names to those of the file, as in ``{"score": "p_bad", "label": "verdict"}`` or
        ``"score:p_bad, label:verdict"``. Ours are ``trajectory_id, step, score, label, tokens`` (of
        a step), ``total_tokens`` (from the beginning of the sequence on), ``group, signal`` and
        ``onset`` (first wrong step, from 1; 0 or nothing for none).
    group : str
        Column that says what sequences have in common: a prompt, a user, a day.
    positive : {"unsafe", "safe"}
        What a label of 1 or true means in the file.
    signal : str
        Which one to read if the file holds several; see :func:`load_signals`.

    Raises
    ------
    ScoreFileError
        As :func:`from_frame`, and for a file that is missing, empty, unreadable or of an unknown
        ending, an unknown orientation, and several signals of which none was chosen.

    Examples
    --------
    >>> logs = load_scores("scores.csv")
    >>> len(logs.labels), int((logs.labels == 1).sum())
    (40, 10)
    """
    found = load_signals(
        path, orientation, dataset, columns=columns, group=group, positive=positive)
    chosen = [one for one in found if signal in ("", one.signal)]
    if len(chosen) != 1:
        raise ScoreFileError(
            f"{_shown(path)} holds the signals {_listed([one.signal for one in found])}. Choose "
            f"one, as in signal={_brief(found[0].signal)}, or read all of them with load_signals.")
    return chosen[0]


def load_signals(path: str | Path, orientation: str = "suspicion", dataset: str | None = None, *,
                 columns: Mapping[str, str] | str = "", group: str = "",
                 positive: str = "unsafe") -> list[Trajectories]:
    """Read a score file in which a column ``signal`` says which of several scored the step.

    Parameters as in :func:`load_scores`. A file without such a column holds one signal, ``score``.

    Returns
    -------
    list of Trajectories
        One per signal, in order of first appearance.
    """
    if orientation not in ORIENTATIONS:
        raise ScoreFileError(
            f"ORIENTATION is {_brief(orientation)}, expected one of {', '.join(ORIENTATIONS)}: "
            "does a high score mean danger (suspicion) or success (safety)?")
    file = Path(path).expanduser()
    with _naming(file):
        named = (FileTable.named_columns(columns, COLUMNS) if isinstance(columns, str)
                 else dict(columns))
        if group:
            named["group"] = group
        rows = _read(file, named, positive)
        if "tokens" not in named and not rows.running_total:
            rows.refuse_running_totals()
        found = rows.by_signal(dataset or ENDINGS.sub("", file.name))
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
    theirs = {"trajectory_id": "uq_problem_idx", "step": "num_steps", "score": "judge_probability",
              "label": "solved", "tokens": "generated_tokens"}
    file = Path(path)
    with _naming(file):
        found = _read(file, theirs, "safe", optional="tokens").trajectories(dataset, "verifier")
    return replace(_turn(found), title=PUBLISHED_TITLES.get(dataset, ""))


def from_frame(frame: pd.DataFrame, dataset: str, signal: str, *,
               positive: str = "unsafe") -> Trajectories:
    """Check a table of step scores and put it into arrays. The order of rows does not matter.

    Parameters
    ----------
    frame : DataFrame
        Columns ``trajectory_id``, ``step`` (1, 2, ... or 0, 1, ... without gaps), ``score``
        (suspicion, any number, also infinite) and optionally ``label`` (0 safe, 1 unsafe; one value
        per trajectory), ``tokens`` (positive), ``group`` and ``onset`` (first wrong step, from 1; 0
        or nothing for none), also as levels of the index. Cells may be text that reads as a number;
        with lists of scores a row is a whole trajectory.
    dataset, signal : str
        Names to carry along.
    positive : {"unsafe", "safe"}
        What a label of 1 means in the table.

    Returns
    -------
    Trajectories
        Sequences in order of first appearance. Without labels all of them are unknown.

    Raises
    ------
    ScoreFileError
        For an empty table, a missing or repeated column, text or NaN where a number belongs, a
        label that is none, a trajectory with two labels, a duplicate step or a gap. The message
        names column and row, counting rows from 1.
    """
    names = [name for name in frame.index.names if name is not None and name not in frame.columns]
    if names:
        frame = frame.reset_index(names)
    frame = frame.set_axis(list(map(str, frame.columns)), axis=1)
    cells: dict[str, Cells] = {}
    for ours, theirs in _choose_columns(list(frame.columns), {}).items():
        column = frame[theirs]
        plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf"
        cells[ours] = column.to_numpy() if plain else column.tolist()
    return _Rows(cells, positive).trajectories(dataset, signal)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Say in which file a fault is."""
    try:
        yield
    except (ScoreFileError, TableFileError) as error:
        raise ScoreFileError(f"{_shown(file)}: {error}") from None


def _read(file: Path, columns: Mapping[str, str], positive: str, optional: str = "") -> _Rows:
    """Read and check the columns of a file; `optional` is one that it may lack."""
    chosen: dict[str, str] = {}

    def choose(names: Sequence[str]) -> Collection[str]:
        wanted = {ours: "" if ours == optional and theirs not in names else theirs
                  for ours, theirs in columns.items()}
        chosen.update(_choose_columns(names, wanted))
        return chosen.values()

    found = FileTable.read(file, EXPECTED_COLUMNS, choose=choose).columns
    return _Rows({ours: found[theirs] for ours, theirs in chosen.items()}, positive)


def _turn(trajectories: Trajectories) -> Trajectories:
    return replace(trajectories, flat_scores=-trajectories.flat_scores)


def _shown(path: str | Path) -> str:
    name = Path(path).name
    return name if len(name) <= 80 else f"{name[:50]}...{name[-27:]}"


def _brief(value: object) -> str:
    """Return a value as Python writes it, cut in the middle if it is long."""
    return _short.repr(value.item() if isinstance(value, np.generic) else value)


def _listed(names: Sequence[object], most: int = 6) -> str:
    """Return names with commas, only the first few of many."""
    shown = [text if len(text) <= 30 else f"{text[:27]}..." for text in map(str, names[:most])]
    more = len(names) - most
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _choose_columns(names: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Say which column of a table is which: our names to the table's.

    Parameters
    ----------
    names : sequence of str
        Columns of the table.
    columns : mapping of str to str
        Ours (a name of ``COLUMNS``) to the table's. An empty text leaves an optional column out.
        A column that is not named here is found by its own name, without regard to case.
    """
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise ScoreFileError(
            f"columns names {_brief(unknown[0])}, expected one of {', '.join(COLUMNS)} on the left "
            "and a column of the table on the right.")
    found = {}
    for ours in COLUMNS:
        wanted = columns.get(ours)
        if wanted == "":
            continue
        free = [name for name in names if name not in columns.values()]
        same = ([name for name in names if name == wanted] if wanted else
                _alike(ours, free) or (_alike("scores", free) if ours == "score" else []))
        if len(same) > 1:
            raise ScoreFileError(
                f"column {_brief(same[0])} appears twice ({_listed(same)}); keep one of them.")
        if same:
            found[ours] = same[0]
        elif wanted:
            raise ScoreFileError(f"there is no column {_brief(wanted)}; found {_listed(names)}.")
    missing = [name for name in ("trajectory_id", "score") if name not in found]
    if missing:
        raise ScoreFileError(
            f"missing column {' and '.join(missing)}; found {_listed(names)}. Expected "
            f"{EXPECTED_COLUMNS}: rename them, or {HOW_TO_NAME}.")
    if "tokens" in found and "total_tokens" in found:
        raise ScoreFileError("there are tokens and total_tokens: leave one of the columns out.")
    return found


def _alike(ours: str, names: Sequence[str]) -> list[str]:
    """Columns that are called as ours is, in any case."""
    return [name for name in names if name.strip().casefold() == ours]


class _Rows:
    """Checked steps in the order of a table.

    Parameters
    ----------
    columns : mapping of str to cells
        By our names: ``trajectory_id``, ``step`` (whole, from 1 or from 0), ``score`` (a number,
        infinite ones included), and optionally ``label``, ``tokens`` (of each step) or
        ``total_tokens`` (from the beginning on), ``group``, ``signal``, ``onset`` (the first wrong
        step, from 1; 0 or nothing where there is none). Numbers may be text. Where the scores are
        lists, a row is a trajectory, and ``step`` is not needed.
    positive : {"unsafe", "safe"}
        What a label of 1, true or yes means. Words (safe, benign, harmless, correct; unsafe,
        misbehavior, harmful, incorrect) mean themselves; an empty label is unknown.

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
    """

    def __init__(self, columns: Mapping[str, Cells], positive: str) -> None:
        if positive not in POSITIVES:
            raise ScoreFileError(
                f"positive is {_brief(positive)}, expected unsafe or safe: what does label 1 mean?")
        if not len(columns["score"]):
            raise ScoreFileError(
                f"the table has a header and no rows. Expected {EXPECTED_COLUMNS}.")
        self._places: tuple[IntArray, IntArray] | None = None
        lists = _as_lists(columns["score"])
        table = columns if lists is None else self._spread(columns, lists)
        if "step" not in table:
            raise ScoreFileError(f"missing column step. Expected {EXPECTED_COLUMNS}: number the "
                                 f"steps of a trajectory, or {HOW_TO_NAME}.")
        codes, ids = pd.factorize(self._texts("trajectory_id", table["trajectory_id"]))
        self.codes = np.asarray(codes, dtype=np.int64)
        self.ids = np.asarray(ids, dtype=object)
        self.running_total = "total_tokens" in table
        tokens = "total_tokens" if self.running_total else "tokens"
        numbers = self._numbers(
            {name: table[name] for name in ("step", "score", tokens) if name in table})
        self.steps, self.scores = numbers["step"], numbers["score"]
        self._check("step", (self.steps % 1 == 0) & (self.steps >= 0), table["step"],
                    "a whole number from 1 upwards")
        self.tokens = numbers.get(tokens, np.ones(len(codes)))
        self._check(tokens, self.tokens > 0, self.tokens, "a positive number of tokens")
        self.labels = np.full(len(codes), UNKNOWN, dtype=np.int8)
        if "label" in table:
            self._read_labels(table["label"], positive)
        self.groups, self.signals = (
            self._texts(name, table[name]) if name in table else None
            for name in ("group", "signal"))
        if self.groups is not None:
            self._one_each("group", self.groups, "A trajectory belongs to one group.")
        self.onsets = self._read_onsets(table["onset"]) if "onset" in table else None

    def trajectories(self, dataset: str, signal: str,
                     chosen: NDArray[np.bool_] | None = None) -> Trajectories:
        """Sort rows, all or only the chosen, into sequences without repeated steps and gaps."""
        at = np.arange(len(self.codes)) if chosen is None else np.flatnonzero(chosen)
        at = at[np.lexsort((self.steps[at], self.codes[at]))]
        codes, steps = self.codes[at], self.steps[at]
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        lengths = np.diff(starts, append=len(codes))
        begin = 1 if steps[starts].any() else 0  # all trajectories may count from 0
        self._check_steps(at, np.arange(len(codes)) - np.repeat(starts, lengths) + begin)
        first, tokens = at[starts], self.tokens[at]
        if self.running_total:
            tokens = np.diff(tokens, prepend=0.0)
            tokens[starts] = self.tokens[first]
            if (tokens <= 0).any():
                row = int(at[np.argmax(tokens <= 0)])
                raise self._fault("total_tokens", row, (
                    f"found {self.tokens[row]:g}, not more than in the step before. If it is the "
                    "length of each step, call it tokens."))
        return Trajectories(
            dataset, signal, self.ids[codes[starts]], self.scores[at], tokens, lengths,
            self.labels[first], None if self.groups is None else self.groups[first],
            None if self.onsets is None or not self.onsets[first].any() else self.onsets[first])

    def by_signal(self, dataset: str) -> list[Trajectories]:
        """Sort rows into sequences, those of every signal on their own."""
        if self.signals is None:
            return [self.trajectories(dataset, "score")]
        names = list(dict.fromkeys(self.signals))
        if len(names) > MOST_SIGNALS:
            raise ScoreFileError(
                f"column signal names {len(names)} signals: {_listed(names, 3)}. If it says "
                'something else, leave it out: columns={"signal": ""} or COLUMNS=signal:')
        found = [self.trajectories(dataset, name, self.signals == name) for name in names]
        if len(names) == 1:
            return found
        return [replace(one, title=f"{dataset}, {one.signal}") for one in found]

    def refuse_running_totals(self) -> None:
        """Refuse tokens that grow with every step of every trajectory."""
        order = np.lexsort((self.steps, self.codes))
        same = np.diff(self.codes[order]) == 0
        growing = np.diff(self.tokens[order]) > 0
        if growing[same].all() and special.gammaln(np.bincount(self.codes) + 1).sum() > UNLIKELY:
            raise ScoreFileError(
                "column tokens grows with every step of every trajectory. Is it a running total "
                "(COLUMNS=total_tokens:tokens), or the length of each step (tokens:tokens)?")

    def _fault(self, name: str, row: int, said: str) -> ScoreFileError:
        """Return the error that says something about a cell; rows count from 0 here."""
        place = f"row {row + 1}"
        if self._places is not None:
            place = f"row {self._places[0][row] + 1}, step {self._places[1][row] + 1}"
        return ScoreFileError(f"column {name}, {place}: {said}")

    def _check(self, name: str, good: NDArray[Any], cells: Cells, expected: str) -> None:
        if not good.all():
            row = int(np.argmin(good))
            value = cells[row]
            shown = f"{value:g}" if isinstance(value, int | float | np.number) else _brief(value)
            raise self._fault(name, row, f"found {shown}, expected {expected}.")

    def _spread(self, columns: Mapping[str, Cells],
                scores: list[Sequence[Any]]) -> dict[str, Cells]:
        """Spread out rows that hold a whole trajectory in lists."""
        lengths = np.array([len(cells) for cells in scores])
        if not lengths.all():
            raise self._fault("score", int(np.argmin(lengths)),
                              "an empty list. A trajectory has at least one step.")
        ends = np.cumsum(lengths)
        rows = np.repeat(np.arange(len(scores)), lengths)
        entries = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        spread: dict[str, Cells] = {"step": entries + 1}
        for name, cells in columns.items():
            listed = name in ("step", "score", "tokens", "total_tokens")
            lists = _as_lists(cells) if listed else None
            if listed and lists is None:
                raise self._fault(name, 0, f"found {_brief(cells[0])} where score has a list. "
                                           "Expected a list with one entry per step.")
            for row, one in enumerate(lists or ()):
                if len(one) != lengths[row]:
                    raise self._fault(name, row, f"{len(one)} entries, but {lengths[row]} scores. "
                                                 "Expected one per step.")
            spread[name] = ([cells[row] for row in rows.tolist()] if lists is None else
                            [cell for one in lists for cell in one])
        self._places = rows, entries
        return spread

    def _texts(self, name: str, cells: Cells) -> NDArray[Any]:
        texts = np.empty(len(cells), dtype=object)
        texts[:] = [cell if isinstance(cell, str) else "" if _absent(cell) else str(cell)
                    for cell in cells]
        blank = [not text.strip() for text in texts]
        if any(blank):
            what = "identifier" if name == "trajectory_id" else name
            raise self._fault(name, blank.index(True), f"no {what}. Every step needs one.")
        return texts

    def _numbers(self, columns: Mapping[str, Cells]) -> dict[str, FloatArray]:
        """Parse columns to floats, all with the same decimal sign, or say which cell is none."""
        written = {name: "" if isinstance(cells, np.ndarray) else
                   "\n".join(cell for cell in cells if isinstance(cell, str))
                   for name, cells in columns.items()}
        comma = any("," in text for text in written.values())
        if comma:
            self._check_commas(columns)
        found = {}
        for name, cells in columns.items():
            if "%" in written[name]:
                self._check_percent(name, cells)
            values = _floats(cells, not any(sign in written[name] for sign in ",%_"), comma)
            bad = np.isnan(values) if name == "score" else ~np.isfinite(values)
            if bad.any():
                row, count = int(np.argmax(bad)), int(bad.sum())
                what = EXPECTED_SCORE if name == "score" else EXPECTED_NUMBER
                raise self._fault(name, row, f"found {_brief(cells[row])}, expected {what} "
                                             f"({count} such row{'s' if count > 1 else ''}).")
            self._check(name, (np.abs(values) <= LARGEST) | np.isinf(values), values, (
                f"a number between -{LARGEST:g} and {LARGEST:g}: divide all by the same number"))
            found[name] = values
        return found

    def _check_commas(self, columns: Mapping[str, Cells]) -> None:
        """Refuse commas that may be something else than a decimal sign."""
        texts = [(name, row, cell) for name, cells in columns.items()
                 for row, cell in enumerate(cells) if isinstance(cell, str)]
        commas = [one for one in texts if "," in one[2]]
        point = any("." in cell for _, _, cell in texts)
        parts = [cell.strip().removesuffix("%").rpartition(",") for _, _, cell in commas]
        certain = any(len(rest) != 3 or whole.lstrip("+-") == "0" for whole, _, rest in parts)
        if point or not certain:
            name, row, cell = commas[0]
            other = "other numbers have a point" if point else "it may separate thousands"
            raise self._fault(name, row, f"found {_brief(cell)}. Is the comma a decimal sign? "
                                         f"Here {other}: write all numbers with a point.")

    def _check_percent(self, name: str, cells: Cells) -> None:
        marked = [isinstance(cell, str) and cell.rstrip().endswith("%") for cell in cells]
        if any(marked) and not all(marked):
            row = marked.index(not marked[0])
            raise self._fault(name, row, f"found {_brief(cells[row])}, and other rows are written "
                                         "the other way. Put % behind all numbers or none.")

    def _read_labels(self, cells: Cells, positive: str) -> None:
        found = [_label(cell, positive) for cell in cells]
        if None in found:
            row = found.index(None)
            cell = cells[row]
            shown = f"{cell:g}" if isinstance(cell, float | np.floating) else _brief(cell)
            hint = (" Where -1 means that no step is wrong, write 0 for it and 1 for all others; "
                    "where it means unknown, leave it empty.")
            raise self._fault("label", row, (
                f"found {shown}, expected 0 (safe) or 1 (unsafe), false or true, no or yes, safe "
                "or unsafe, or nothing where it is unknown."
                + hint * (str(cell).strip() in ("-1", "-1.0"))))
        self.labels = np.array(found, dtype=np.int8)
        known = np.full(len(self.ids), UNKNOWN, dtype=np.int8)
        np.maximum.at(known, self.codes, self.labels)
        gap = (self.labels == UNKNOWN) & (known[self.codes] != UNKNOWN)
        if gap.any():
            row = int(np.argmax(gap))
            raise self._fault("label", row, (
                f"found {_brief(cells[row])}, but trajectory {self._id(row)} has label "
                f"{known[self.codes[row]]} in another row. Write it in every row, or in none."))
        self._one_each("label", self.labels, "The whole trajectory has one label.")

    def _read_onsets(self, cells: Cells) -> IntArray:
        filled = ["0" if _absent(cell) else cell for cell in cells]
        found = self._numbers({"onset": filled})["onset"]
        if found.any() and not self.steps.all():
            raise ScoreFileError(
                "column step counts from 0, column onset from 1: count both from 1.")
        last = np.zeros(len(self.ids))
        np.maximum.at(last, self.codes, self.steps)
        self._check("onset", (found % 1 == 0) & (found >= 0) & (found <= last[self.codes]), found,
                    "the number of a step of its trajectory, from 1, or 0 or nothing for none")
        onsets = found.astype(np.int64)
        self._one_each("onset", onsets, "Write its first wrong step into every row.")
        return onsets

    def _id(self, row: int) -> str:
        return _brief(self.ids[self.codes[row]])

    def _one_each(self, name: str, values: NDArray[Any], advice: str) -> None:
        """Refuse a row whose value is not that of the first row of its trajectory."""
        before = values[np.unique(self.codes, return_index=True)[1]][self.codes]
        other = values != before
        if other.any():
            row = int(np.argmax(other))
            raise self._fault(name, row, (
                f"trajectory {self._id(row)} has {name} {_brief(values[row])} here and "
                f"{_brief(before[row])} before. {advice}"))

    def _check_steps(self, at: IntArray, expected: IntArray) -> None:
        """``at`` are rows in order of trajectory and step."""
        codes, steps = self.codes[at], self.steps[at]
        twice = np.flatnonzero((np.diff(codes) == 0) & (np.diff(steps) == 0)) + 1
        if len(twice):
            row = int(at[twice].min())
            raise self._fault("step", row, (
                f"step {self.steps[row]:g} of trajectory {self._id(row)} appears twice. Keep one "
                'row, or name the column of the signal, as in columns={"signal": "model"}.'))
        gap = np.flatnonzero(steps != expected)
        if len(gap) and expected[0] == 1 and (steps == 0).any():
            raise self._fault("step", int(at[steps == 0].min()), (
                "found 0, expected a whole number from 1 upwards, as in other trajectories."))
        if len(gap):
            row = int(at[gap[0]])
            raise self._fault("step", row, (
                f"trajectory {self._id(row)} has step {self.steps[row]:g} where step "
                f"{expected[gap[0]]} was expected. Steps count 1, 2, 3, ... without gaps."))


def _absent(cell: object) -> bool:
    """Whether a cell holds nothing."""
    if isinstance(cell, str):
        return not cell.strip()
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def _as_lists(cells: Cells) -> list[Sequence[Any]] | None:
    """Return the cells as lists if that is what they are, also written as text."""
    if isinstance(cells, np.ndarray) and cells.dtype != object:
        return None
    written = isinstance(cells[0], str) and cells[0].lstrip().startswith("[")
    kinds, lists = (list, tuple, np.ndarray), []
    for row, cell in enumerate(cells):
        try:
            lists.append(json.loads(cell) if written and isinstance(cell, str) else cell)
        except ValueError:
            raise ScoreFileError(f"row {row + 1}: found {_brief(cell)}, expected a list with "
                                 "commas, as in [0.1, 0.7].") from None
    if not any(isinstance(cell, kinds) for cell in lists):
        return None
    for row, cell in enumerate(lists):
        if not isinstance(cell, kinds):
            raise ScoreFileError(f"row {row + 1}: found {_brief(cell)} where other rows have a "
                                 "list. Give every trajectory a list, as in [0.1, 0.7].")
    return lists


def _floats(cells: Cells, plain: bool, comma: bool) -> FloatArray:
    """Read cells as floats; NaN where one is no number. ``plain`` ones need no second look."""
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "iuf":
        return cells.astype(np.float64)
    kinds = set(map(type, cells))
    if plain and (kinds <= {int, float} or kinds == {str}):
        with suppress(ValueError, OverflowError):
            values = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
            if np.isfinite(values).all():
                return values
    return np.array([_number(cell, comma) for cell in cells], dtype=np.float64)


def _number(cell: Any, comma: bool) -> float:
    if isinstance(cell, bool | np.bool_) or _absent(cell):
        return np.nan
    text = cell.strip() if isinstance(cell, str) else ""
    number = text.removesuffix("%")
    number = number.replace(",", ".") if comma else number
    try:
        value = float(number if text else cell)
    except (TypeError, ValueError, OverflowError):
        return np.nan
    if "_" in number or (np.isinf(value) and any(sign.isdigit() for sign in number)):
        return np.nan
    return value / 100.0 if text.endswith("%") else value


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
