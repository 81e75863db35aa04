"""The door through which score files come in: a user's own, and published ones."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import pandas as pd

from monitorlab.online.trajectories import (
    EXPECTED_COLUMNS,
    ScoreFileError,
    Trajectories,
    from_frame,
    require_two_classes,
)

ORIENTATIONS = ("suspicion", "safety")


def load_scores(
    path: str | Path, orientation: str = "suspicion", dataset: str | None = None
) -> Trajectories:
    """Read a user's own score file.

    Parameters
    ----------
    path : str or Path
        CSV (also ``.csv.gz``) or parquet file with the columns of :func:`from_frame`; further
        columns are ignored.
    orientation : {"suspicion", "safety"}
        What a high score means in the file. ``safety`` scores s are turned into 1 - s, which keeps
        their order reversed and needs no bounds.
    dataset : str, optional
        Name; the file's stem by default.

    Raises
    ------
    ScoreFileError
        As :func:`from_frame`, and for a file that is missing, empty or unreadable, holds one class
        only, or an unknown orientation.
    """
    if orientation not in ORIENTATIONS:
        raise ScoreFileError(
            f"ORIENTATION is {orientation!r}, expected one of {', '.join(ORIENTATIONS)}: "
            "does a high score mean danger (suspicion) or success (safety)?"
        )
    file = Path(path).expanduser()
    frame = _read_table(file)
    name = dataset or file.name.split(".")[0]
    try:
        trajectories = from_frame(frame, name, "score")
    except ScoreFileError as error:
        raise ScoreFileError(f"{file.name}: {error}") from None
    require_two_classes(trajectories)
    return trajectories if orientation == "suspicion" else _turn(trajectories)


def load_evaluator(path: str | Path, dataset: str) -> Trajectories:
    """Read a score file published with e-valuator (arXiv 2512.03109) and turn it to suspicion.

    Parameters
    ----------
    path : str or Path
        CSV with ``uq_problem_idx, num_steps, judge_probability`` (high: will succeed), ``solved``
        and, for some files, ``generated_tokens``.
    dataset : str
        Name to carry along.
    """
    frame = _read_table(Path(path))
    names = {
        "uq_problem_idx": "trajectory_id",
        "num_steps": "step",
        "judge_probability": "score",
        "generated_tokens": "tokens",
        "solved": "label",
    }
    columns = [name for name in names if name in frame.columns]
    frame = frame[columns].rename(columns=names)
    solved = frame["label"].astype(str).str.strip().map({"True": 0, "1": 0, "False": 1, "0": 1})
    return _turn(from_frame(frame.assign(label=solved), dataset, "verifier"))


def _turn(trajectories: Trajectories) -> Trajectories:
    return replace(trajectories, scores=1.0 - trajectories.scores)


def _read_table(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise ScoreFileError(f"{file} is not a file. Give the path of a CSV or parquet file.")
    if file.stat().st_size == 0:
        raise ScoreFileError(f"{file.name} is empty. Expected the columns {EXPECTED_COLUMNS}.")
    try:
        if file.name.endswith((".parquet", ".pq")):
            return pd.read_parquet(file)
        # Text first: a stray word must be reported with its row, not turn a column into objects.
        return pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise ScoreFileError(
            f"{file.name} cannot be read as {'parquet' if 'parquet' in file.name else 'CSV'}: "
            f"{error}. Expected a table with the columns {EXPECTED_COLUMNS}."
        ) from error
