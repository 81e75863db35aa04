"""Step scores of many sequences as padded arrays, checked on the way in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

REQUIRED_COLUMNS = ("trajectory_id", "step", "score", "label")
EXPECTED_COLUMNS = ", ".join(REQUIRED_COLUMNS) + " and optionally tokens"


class ScoreFileError(ValueError):
    """A score table cannot be used; the message names column and row and says what to do."""


@dataclass(frozen=True)
class Trajectories:
    """Step scores of n sequences of one data set under one signal.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    signal : str
        What scored the steps: ``verifier``, ``min_logprob``, ``judge``, ...
    ids : ndarray of str, shape (n,)
        Sequence identifiers, unique.
    scores : ndarray of float, shape (n, T)
        Suspicion per step, high is unsafe, any finite real; NaN after the last step.
    tokens : ndarray of float, shape (n, T)
        Tokens of each step, at least 1; NaN after the last step. All ones when unknown, so that
        token delays equal step delays.
    labels : ndarray of int, shape (n,)
        1 is unsafe, 0 is safe, for the whole sequence.
    """

    dataset: str
    signal: str
    ids: NDArray[Any]
    scores: FloatArray
    tokens: FloatArray
    labels: NDArray[np.int8]

    @property
    def lengths(self) -> IntArray:
        """Steps of each sequence, shape (n,)."""
        return np.sum(~np.isnan(self.scores), axis=1)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[Any]) -> Trajectories:
        """Return the sequences at ``index`` (positions or a boolean mask), in that order."""
        return Trajectories(
            self.dataset, self.signal, self.ids[index], self.scores[index], self.tokens[index],
            self.labels[index],
        )


def from_frame(frame: pd.DataFrame, dataset: str, signal: str) -> Trajectories:
    """Check a table of step scores and pad it into arrays. The order of rows does not matter.

    Parameters
    ----------
    frame : DataFrame
        Columns ``trajectory_id``, ``step`` (1, 2, ... without gaps), ``score`` (suspicion, finite),
        ``label`` (0 safe, 1 unsafe; one value per trajectory) and optionally ``tokens`` (positive).
        Cells may be text that reads as a number, as in a CSV file read without type inference.
    dataset, signal : str
        Names to carry along.

    Returns
    -------
    Trajectories
        Sequences in order of first appearance.

    Raises
    ------
    ScoreFileError
        For an empty table, a missing column, text, NaN or infinity where a number belongs, a label
        other than 0 or 1, a trajectory with two labels, a duplicate step or a gap. The message
        names column and row, counting rows from 1.
    """
    _require_columns(frame)
    clean = pd.DataFrame({"trajectory_id": _identifiers(frame["trajectory_id"])})
    for column in ("step", "score", "label"):
        clean[column] = _numbers(frame[column])
    clean["tokens"] = _numbers(frame["tokens"]) if "tokens" in frame.columns else 1.0
    _check_range(clean["tokens"] > 0, clean["tokens"], "a positive number of tokens")
    _check_range(clean["label"].isin([0, 1]), clean["label"], "0 (safe) or 1 (unsafe)")
    whole = (clean["step"] % 1 == 0) & (clean["step"] >= 1)
    _check_range(whole, clean["step"], "a whole number from 1 upwards")
    _check_one_label(clean)
    _check_steps(clean)
    return _pad(clean, dataset, signal)


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
        (str(dataset), str(signal)): from_frame(
            group.reset_index(drop=True), str(dataset), str(signal)
        )
        for (dataset, signal), group in steps.groupby(["dataset", "signal"], sort=False)
    }


def to_frame(trajectories: Trajectories) -> pd.DataFrame:
    """Return one row per step: ``trajectory_id, step, score, tokens, label``.

    The inverse of :func:`from_frame`, in order of sequence and step.
    """
    present = ~np.isnan(trajectories.scores)
    rows, columns = np.nonzero(present)
    return pd.DataFrame(
        {
            "trajectory_id": trajectories.ids[rows],
            "step": columns + 1,
            "score": trajectories.scores[present],
            "tokens": trajectories.tokens[present],
            "label": trajectories.labels[rows].astype(np.int64),
        }
    )


def require_two_classes(trajectories: Trajectories) -> None:
    """Raise if a data set holds only safe or only unsafe sequences."""
    unsafe = int(np.sum(trajectories.labels == 1))
    if unsafe in (0, len(trajectories)):
        missing = "unsafe (label 1)" if unsafe == 0 else "safe (label 0)"
        raise ScoreFileError(
            f"data set {trajectories.dataset!r}, column label: all {len(trajectories)} sequences "
            f"have label {int(unsafe > 0)}, none is {missing}. Calibration needs the class its "
            "risk is about, and false alarms and power together need both."
        )


def _require_columns(frame: pd.DataFrame) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in frame.columns]
    if missing:
        raise ScoreFileError(
            f"missing column {', '.join(missing)}; found {', '.join(map(str, frame.columns))}. "
            f"Expected {EXPECTED_COLUMNS}: rename the columns of the file."
        )
    repeated = frame.columns[frame.columns.duplicated()].tolist()
    if repeated:
        raise ScoreFileError(f"column {repeated[0]!r} appears twice; keep one of them.")
    if frame.empty:
        raise ScoreFileError(f"the table has a header and no rows. Expected {EXPECTED_COLUMNS}.")


def _identifiers(column: pd.Series[Any]) -> NDArray[Any]:
    empty = (column.isna() | (column.astype(str).str.strip() == "")).to_numpy()
    if empty.any():
        raise ScoreFileError(
            f"column trajectory_id, row {int(np.argmax(empty)) + 1}: no identifier. "
            "Every step needs the id of its trajectory."
        )
    return column.astype(str).to_numpy(dtype=object)


def _numbers(column: pd.Series[Any]) -> FloatArray:
    """Parse a column to finite floats or say which cell is not one."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        raise ScoreFileError(
            f"column {column.name}, row {row + 1}: found {column.iloc[row]!r}, expected a finite "
            f"number ({int(bad.sum())} such row{'s' if bad.sum() > 1 else ''}). Correct the value, "
            "or leave the whole trajectory out; a missing step is never filled in."
        )
    return values


def _check_range(good: pd.Series[bool], column: pd.Series[Any], expected: str) -> None:
    if not good.all():
        row = int(np.argmin(good.to_numpy()))
        raise ScoreFileError(
            f"column {column.name}, row {row + 1}: found {column.iloc[row]:g}, expected {expected}."
        )


def _check_one_label(clean: pd.DataFrame) -> None:
    first = clean.groupby("trajectory_id", sort=False)["label"].transform("first")
    other = (clean["label"] != first).to_numpy()
    if other.any():
        row = int(np.argmax(other))
        raise ScoreFileError(
            f"column label, row {row + 1}: trajectory {clean['trajectory_id'].iloc[row]!r} has "
            f"label {clean['label'].iloc[row]:g} here and {first.iloc[row]:g} before. "
            "A trajectory has one label: whether the whole sequence turned out unsafe."
        )


def _check_steps(clean: pd.DataFrame) -> None:
    twice = clean.duplicated(["trajectory_id", "step"]).to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        raise ScoreFileError(
            f"column step, row {row + 1}: step {clean['step'].iloc[row]:g} of trajectory "
            f"{clean['trajectory_id'].iloc[row]!r} appears twice. Keep one row per step."
        )
    ordered = clean.sort_values(["trajectory_id", "step"], kind="stable")
    expected = ordered.groupby("trajectory_id").cumcount() + 1
    gap = (ordered["step"] != expected).to_numpy()
    if gap.any():
        at = int(np.argmax(gap))
        raise ScoreFileError(
            f"column step, row {int(ordered.index[at]) + 1}: trajectory "
            f"{ordered['trajectory_id'].iloc[at]!r} has step {ordered['step'].iloc[at]:g} where "
            f"step {int(expected.iloc[at])} was expected. Steps count 1, 2, 3, ... without gaps."
        )


def _pad(clean: pd.DataFrame, dataset: str, signal: str) -> Trajectories:
    codes, ids = pd.factorize(clean["trajectory_id"])
    steps = clean["step"].to_numpy(dtype=np.int64) - 1
    shape = (len(ids), int(steps.max()) + 1)
    scores, tokens = np.full(shape, np.nan), np.full(shape, np.nan)
    scores[codes, steps] = clean["score"]
    tokens[codes, steps] = clean["tokens"]
    labels = np.zeros(len(ids), dtype=np.int8)
    labels[codes] = clean["label"].to_numpy(dtype=np.int8)
    return Trajectories(dataset, signal, np.asarray(ids, dtype=str), scores, tokens, labels)
