"""Step scores of many sequences, one behind the other in flat arrays, checked on the way in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.online.step_rows import (
    EXPECTED_COLUMNS,
    UNKNOWN,
    Rows,
    ScoreFileError,
    brief,
    choose_columns,
    read_rows,
)

__all__ = [
    "EXPECTED_COLUMNS", "UNKNOWN", "ScoreFileError", "Trajectories", "build_trajectories",
    "from_frame", "from_steps", "require_two_classes", "to_frame",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Padded arrays of up to this many cells are made in one piece; larger ones in pieces of similar
# length, so that a few long sequences do not pad all the others.
BLOCK_CELLS = 2**20
MOST_CELLS = 2**28  # 2 GB


@dataclass(frozen=True)
class Trajectories:
    """Step scores of n sequences of one data set under one signal.

    The steps stand in flat arrays, those of the first sequence, then those of the second, and so
    on, since a few long sequences beside many short ones would make a padded array mostly empty.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    signal : str
        What scored the steps: ``verifier``, ``min_logprob``, ``judge``, ...
    ids : ndarray of object, shape (n,)
        Sequence identifiers, text, unique.
    flat_scores : ndarray of float, shape (number of steps in all,)
        Suspicion per step, high is unsafe, any real or infinite number.
    flat_tokens : ndarray of float, the same shape
        Tokens of each step, above 0. All ones when unknown, so that token delays equal step delays.
    lengths : ndarray of int, shape (n,)
        Steps of each sequence, at least 1.
    labels : ndarray of int, shape (n,)
        1 is unsafe, 0 is safe, for the whole sequence; -1 where nobody knows.
    groups : ndarray of object, shape (n,), optional
        What sequences have in common that makes them resemble one another: a prompt, a user, a day.
    onsets : ndarray of int, shape (n,), optional
        First wrong or unsafe step, from 1; 0 where it is not known or there is none.
    title : str
        Readable name; the name of the data set if empty.
    stand_in : bool
        Whether the scores come from a small stand-in model, which figures must say.
    """

    dataset: str
    signal: str
    ids: NDArray[Any]
    flat_scores: FloatArray
    flat_tokens: FloatArray
    lengths: IntArray
    labels: NDArray[np.int8]
    groups: NDArray[Any] | None = None
    onsets: IntArray | None = None
    title: str = ""
    stand_in: bool = False

    @classmethod
    def from_padded(
        cls, dataset: str, signal: str, ids: Sequence[str] | NDArray[Any], scores: FloatArray,
        tokens: FloatArray, labels: NDArray[Any],
    ) -> Trajectories:
        """Take scores and tokens as arrays of shape (n, T), NaN after the last step."""
        present = ~np.isnan(scores)
        return cls(
            dataset, signal, np.asarray(ids, dtype=object), scores[present], tokens[present],
            np.sum(present, axis=1), np.asarray(labels, dtype=np.int8),
        )

    @property
    def scores(self) -> FloatArray:
        """Scores as an array of shape (n, T), NaN after the last step; made anew at each call.

        Raises
        ------
        ValueError
            If a few long sequences would make it larger than 2 GB.
        """
        return self._padded(self.flat_scores)

    @property
    def tokens(self) -> FloatArray:
        """Tokens as an array like the scores."""
        return self._padded(self.flat_tokens)

    @property
    def starts(self) -> IntArray:
        """Where each sequence begins in the flat arrays, shape (n,)."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def name(self) -> str:
        """Readable name."""
        return self.title or self.dataset

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, label: int) -> int:
        """How many sequences have this label."""
        return int(np.sum(self.labels == label))

    def take(self, index: NDArray[Any]) -> Trajectories:
        """Return the sequences at ``index`` (positions or a boolean mask), in that order."""
        at = self._steps_of(index)
        return replace(
            self, ids=self.ids[index], flat_scores=self.flat_scores[at],
            flat_tokens=self.flat_tokens[at], lengths=self.lengths[index],
            labels=self.labels[index], groups=None if self.groups is None else self.groups[index],
            onsets=None if self.onsets is None else self.onsets[index],
        )

    def steps(self, position: int) -> FloatArray:
        """Return the scores of one sequence."""
        start = int(self.starts[position])
        return self.flat_scores[start : start + int(self.lengths[position])]

    def blocks(self) -> Iterator[tuple[Trajectories, IntArray]]:
        """Yield parts that may be padded, each with the places of its steps in the flat arrays."""
        for rows in _blocks(self.lengths, np.arange(len(self))):
            yield self.take(rows), self._steps_of(rows)

    def transformed(self, transform: Callable[[FloatArray], FloatArray]) -> Trajectories:
        """Return the sequences with a running statistic in place of the scores.

        Parameters
        ----------
        transform : callable
            Maps padded scores, shape (n, T), to a statistic of that shape, row by row.
        """
        running = np.empty_like(self.flat_scores)
        for block, at in self.blocks():
            scores = block.scores
            running[at] = transform(scores)[~np.isnan(scores)]
        return replace(self, flat_scores=running)

    def _steps_of(self, index: NDArray[Any]) -> IntArray:
        starts, lengths = self.starts[index], self.lengths[index]
        ends = np.cumsum(lengths)
        return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)

    def _padded(self, flat: FloatArray) -> FloatArray:
        longest = int(max(self.lengths, default=0))
        if len(self) * longest > MOST_CELLS:
            raise ValueError(
                f"{len(self)} sequences of up to {longest} steps would take "
                f"{len(self) * longest * 8 / 1e9:.0f} GB as one padded array, for "
                f"{len(flat)} steps. peaks, alarm_steps and transformed take Trajectories as "
                "they are; flat_scores, steps and blocks give the numbers."
            )
        present = np.arange(longest) < self.lengths[:, None]
        padded = np.full(present.shape, np.nan)
        padded[present] = flat
        return padded


def _blocks(lengths: IntArray, rows: IntArray) -> Iterator[IntArray]:
    """Split rows by length until padding at most doubles a part, or the part is small."""
    if not len(rows):
        return
    longest = int(lengths[rows].max())
    if len(rows) * longest <= max(BLOCK_CELLS, 2 * int(lengths[rows].sum())):
        yield rows
        return
    long = lengths[rows] > longest // 2
    yield from _blocks(lengths, rows[~long])
    yield from _blocks(lengths, rows[long])


def from_frame(
    frame: pd.DataFrame, dataset: str, signal: str, *, positive: str = "unsafe"
) -> Trajectories:
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
    chosen = choose_columns(list(map(str, frame.columns)))
    frame = frame.set_axis(list(map(str, frame.columns)), axis=1)
    rows = read_rows({ours: _cells(frame[theirs]) for ours, theirs in chosen.items()}, positive)
    return build_trajectories(rows, dataset, signal)


def from_steps(steps: pd.DataFrame) -> dict[tuple[str, str], Trajectories]:
    """Split a ``steps`` table into one :class:`Trajectories` per data set and signal.

    Parameters
    ----------
    steps : DataFrame
        The table ``steps`` of a run, already checked against its schema.

    Returns
    -------
    dict
        Keyed by (dataset, signal), in order of first appearance.
    """
    return {
        (str(dataset), str(signal)): _with_onsets(
            from_frame(group.reset_index(drop=True), str(dataset), str(signal)), group
        )
        for (dataset, signal), group in steps.groupby(["dataset", "signal"], sort=False)
    }


def _with_onsets(trajectories: Trajectories, steps: pd.DataFrame) -> Trajectories:
    """Add the first step that is labelled wrong, if any is, from the column ``step_label``."""
    if "step_label" not in steps or not (steps["step_label"] == 1).any():
        return trajectories
    wrong = steps[steps["step_label"] == 1]
    first = wrong.groupby("trajectory_id")["step"].min().reindex(trajectories.ids, fill_value=0)
    return replace(trajectories, onsets=first.to_numpy(dtype=np.int64))


def build_trajectories(
    rows: Rows, dataset: str, signal: str, chosen: NDArray[np.bool_] | None = None
) -> Trajectories:
    """Sort checked rows into sequences.

    Parameters
    ----------
    rows : Rows
        As from :func:`monitorlab.online.step_rows.read_rows`.
    dataset, signal : str
        Names to carry along.
    chosen : ndarray of bool, optional
        Only these rows.

    Raises
    ------
    ScoreFileError
        For a step that appears twice and for a gap.
    """
    at = np.arange(len(rows.codes)) if chosen is None else np.flatnonzero(chosen)
    at = at[np.lexsort((rows.steps[at], rows.codes[at]))]
    codes, steps = rows.codes[at], rows.steps[at]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    begin = 1 if steps[starts].any() else 0  # all trajectories may count from 0
    expected = np.arange(len(codes)) - np.repeat(starts, lengths) + begin
    _check_steps(rows, at, steps, expected)
    first = at[starts]
    tokens = rows.tokens[at]
    if rows.running_total:
        tokens = np.diff(tokens, prepend=0.0)
        tokens[starts] = rows.tokens[first]
        _check_growing(rows, at, tokens)
    return Trajectories(
        dataset, signal, rows.ids[codes[starts]], rows.scores[at], tokens, lengths,
        rows.labels[first], None if rows.groups is None else rows.groups[first],
        None if rows.onsets is None or not rows.onsets[first].any() else rows.onsets[first],
    )


def to_frame(trajectories: Trajectories) -> pd.DataFrame:
    """Return one row per step: ``trajectory_id, step, score, tokens, label``, any group and onset.

    The inverse of :func:`from_frame`, in order of sequence and step.
    """
    rows = np.repeat(np.arange(len(trajectories)), trajectories.lengths)
    frame = pd.DataFrame(
        {
            "trajectory_id": trajectories.ids[rows],
            "step": np.arange(len(rows)) - trajectories.starts[rows] + 1,
            "score": trajectories.flat_scores,
            "tokens": trajectories.flat_tokens,
            "label": trajectories.labels[rows].astype(np.int64),
        }
    )
    unknown = frame["label"] == UNKNOWN
    if unknown.any():
        frame["label"] = frame["label"].astype("Int64").mask(unknown)
    known = {"group": trajectories.groups, "onset": trajectories.onsets}
    return frame.assign(**{name: of[rows] for name, of in known.items() if of is not None})


def require_two_classes(trajectories: Trajectories) -> None:
    """Raise if labels are missing, or if a data set holds only safe or only unsafe sequences."""
    unknown, unsafe = trajectories.count(UNKNOWN), trajectories.count(1)
    where = f"data set {brief(trajectories.dataset)}, column label: "
    if unknown:
        raise ScoreFileError(
            f"{where}{unknown} of {len(trajectories)} sequences have none. Calibration needs to "
            "know how its sequences ended: take those with a label, or, if the labels are in a "
            'column of another name, give it, as in columns={"label": "verdict"} or '
            "COLUMNS=label:verdict. Alarms at a given threshold need no label (alarm_table)."
        )
    if unsafe in (0, len(trajectories)):
        missing = "unsafe (label 1)" if unsafe == 0 else "safe (label 0)"
        raise ScoreFileError(
            f"{where}all {len(trajectories)} sequences have label {int(unsafe > 0)}, none is "
            f"{missing}. Calibration needs the class its risk is about, and false alarms and power "
            "together need both."
        )


def _cells(column: pd.Series[Any]) -> NDArray[Any] | list[Any]:
    """Numbers as an array, everything else as Python objects."""
    plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf"
    return column.to_numpy() if plain else column.tolist()


def _check_steps(rows: Rows, at: IntArray, steps: FloatArray, expected: IntArray) -> None:
    """``at`` are rows in order of trajectory and step."""
    codes = rows.codes[at]
    twice = np.flatnonzero((np.diff(codes) == 0) & (np.diff(steps) == 0)) + 1
    if len(twice):
        row = int(at[twice].min())
        raise ScoreFileError(
            f"column step, {rows.place(row)}: step {rows.steps[row]:g} of trajectory "
            f"{brief(rows.ids[rows.codes[row]])} appears twice. Keep one row per step; if a column "
            'says which signal scored it, name it, as in columns={"signal": "model"}.'
        )
    gap = np.flatnonzero(steps != expected)
    if len(gap) and expected[0] == 1 and (steps == 0).any():
        row = int(at[steps == 0].min())
        raise ScoreFileError(
            f"column step, {rows.place(row)}: found 0, expected a whole number from 1 upwards, as "
            "in other trajectories. Count from 0 everywhere, or nowhere."
        )
    if len(gap):
        row = int(at[gap[0]])
        raise ScoreFileError(
            f"column step, {rows.place(row)}: trajectory {brief(rows.ids[codes[gap[0]]])} has step "
            f"{steps[gap[0]]:g} where step {expected[gap[0]]} was expected. Steps count 1, 2, 3, "
            "... without gaps."
        )


def _check_growing(rows: Rows, at: IntArray, tokens: FloatArray) -> None:
    if (tokens <= 0).any():
        row = int(at[np.argmax(tokens <= 0)])
        raise ScoreFileError(
            f"column total_tokens, {rows.place(row)}: found {rows.tokens[row]:g}, not more than in "
            "the step before. A running total grows; is it the number of tokens of each step?"
        )
