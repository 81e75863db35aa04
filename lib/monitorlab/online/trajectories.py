"""Step scores of many sequences, one behind the other in flat arrays, checked on the way in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.online.running import FloatArray, IntArray

UNKNOWN = -1  # the label of a sequence of which nobody knows how it ended
# Padded arrays of up to this many cells are made in one piece; larger ones in pieces of similar
# length, so that a few long sequences do not pad all the others.
BLOCK_CELLS = 2**20
MOST_CELLS = 2**28  # 2 GB


class ScoreFileError(ValueError):
    """A score table cannot be used; the message names column and row and says what to do."""


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
    def from_padded(cls, dataset: str, signal: str, ids: Sequence[str] | NDArray[Any],
                    scores: FloatArray, tokens: FloatArray, labels: NDArray[Any]) -> Trajectories:
        """Take scores and tokens as arrays of shape (n, T), NaN after the last step."""
        present = ~np.isnan(scores)
        return cls(dataset, signal, np.asarray(ids, dtype=object), scores[present],
                   tokens[present], np.sum(present, axis=1), np.asarray(labels, dtype=np.int8))

    @property
    def scores(self) -> FloatArray:
        """Scores as an array of shape (n, T), NaN after the last step; made anew at each call.

        Raises
        ------
        ValueError
            If a few long sequences would make it larger than 2 GB.
        """
        longest = int(max(self.lengths, default=0))
        if len(self) * longest > MOST_CELLS:
            raise ValueError(
                f"{len(self)} sequences of up to {longest} steps would take "
                f"{len(self) * longest * 8 / 1e9:.0f} GB as one padded array, for "
                f"{len(self.flat_scores)} steps: peaks, alarm_steps and transformed take "
                "Trajectories as they are.")
        present = np.arange(longest) < self.lengths[:, None]
        padded = np.full(present.shape, np.nan)
        padded[present] = self.flat_scores
        return padded

    @property
    def starts(self) -> IntArray:
        """Where each sequence begins in the flat arrays, shape (n,)."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def known_onsets(self) -> IntArray:
        """First wrong step of each sequence, 0 where it is not known or there is none."""
        return np.zeros(len(self), dtype=np.int64) if self.onsets is None else self.onsets

    @property
    def step_numbers(self) -> IntArray:
        """Number of each step within its sequence, from 1, in the order of the flat arrays."""
        return np.arange(len(self.flat_scores)) - np.repeat(self.starts, self.lengths) + 1

    @property
    def name(self) -> str:
        """Readable name."""
        return self.title or self.dataset

    def __len__(self) -> int:
        return len(self.labels)

    def count(self, label: int) -> int:
        """How many sequences have this label."""
        return int(np.sum(self.labels == label))

    def with_onsets(self, steps: pd.DataFrame) -> Trajectories:
        """Return them with the first step of each that a table labels as wrong.

        Parameters
        ----------
        steps : DataFrame
            Columns ``trajectory_id``, ``step`` (from 1) and ``step_label`` (1 is wrong).
        """
        wrong = steps[steps["step_label"] == 1]
        first = wrong.groupby("trajectory_id")["step"].min().reindex(self.ids, fill_value=0)
        return replace(self, onsets=first.to_numpy(dtype=np.int64))

    def take(self, index: NDArray[Any]) -> Trajectories:
        """Return the sequences at ``index`` (positions or a boolean mask), in that order."""
        at = self._steps_of(index)
        groups, onsets = (None if of is None else of[index] for of in (self.groups, self.onsets))
        return replace(
            self, ids=self.ids[index], flat_scores=self.flat_scores[at],
            flat_tokens=self.flat_tokens[at], lengths=self.lengths[index],
            labels=self.labels[index], groups=groups, onsets=onsets)

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

    def rounded(self, step: float) -> Trajectories:
        """Return the same sequences with scores rounded to multiples of ``step``."""
        name = f"{self.name}, rounded"
        return replace(self, dataset=name, title=name,
                       flat_scores=np.round(self.flat_scores / step) * step)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per step: ``trajectory_id, step, score, tokens, label``, group and onset.

        The inverse of :func:`monitorlab.online.score_files.from_frame`, in order of sequence and
        step; the last two only if they are known.
        """
        rows = np.repeat(np.arange(len(self)), self.lengths)
        frame = pd.DataFrame({
            "trajectory_id": self.ids[rows], "step": self.step_numbers, "score": self.flat_scores,
            "tokens": self.flat_tokens, "label": self.labels[rows].astype(np.int64)})
        unknown = frame["label"] == UNKNOWN
        if unknown.any():
            frame["label"] = frame["label"].astype("Int64").mask(unknown)
        known = {"group": self.groups, "onset": self.onsets}
        return frame.assign(**{name: of[rows] for name, of in known.items() if of is not None})

    def require_two_classes(self) -> None:
        """Raise if labels are missing, or if there are only safe or only unsafe sequences."""
        unknown, unsafe = self.count(UNKNOWN), self.count(1)
        where = f"data set {self.dataset!r:.60}, column label: "
        if unknown:
            raise ScoreFileError(
                f"{where}{unknown} of {len(self)} sequences have none. Calibration needs to know "
                "how its sequences ended: take those with a label, or name its column, as in "
                'columns={"label": "verdict"} or COLUMNS=label:verdict. Alarms at a given '
                "threshold need no label (alarm_steps).")
        if unsafe in (0, len(self)):
            missing = "unsafe (label 1)" if unsafe == 0 else "safe (label 0)"
            raise ScoreFileError(
                f"{where}all {len(self)} sequences have label {int(unsafe > 0)}, none is "
                f"{missing}. False alarms and power together need both.")

    def _steps_of(self, index: NDArray[Any]) -> IntArray:
        starts, lengths = self.starts[index], self.lengths[index]
        ends = np.cumsum(lengths)
        return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


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
