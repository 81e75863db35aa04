"""The door through which score files come in: a user's own, and published ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import special

from monitorlab.online.step_rows import (
    COLUMNS,
    EXPECTED_COLUMNS,
    Rows,
    ScoreFileError,
    brief,
    choose_columns,
    listed,
    read_rows,
)
from monitorlab.online.trajectories import Trajectories, build_trajectories
from monitorlab.storage.table_files import (
    ENDINGS,
    TableFileError,
    parse_columns,
    read_table_file,
)

ORIENTATIONS = ("suspicion", "safety")
MOST_SIGNALS = 50
# So many growing pairs of steps are no accident: tokens are then counted from the beginning on.
UNLIKELY = np.log(1e6)

PUBLISHED_TITLES = {
    "evaluator_math": "MATH, process reward model",
    "evaluator_gsm8k": "GSM8K, judge scores",
}


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
        As :func:`monitorlab.online.trajectories.from_frame`, and for a file that is missing, empty,
        unreadable or of an unknown ending, an unknown orientation, and several signals of which
        none was chosen.

    Examples
    --------
    >>> logs = load_scores("scores.csv")
    >>> len(logs.labels), int((logs.labels == 1).sum())
    (40, 10)
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
            f"signal={brief(names[0])}, or read all of them with load_signals."
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
            f"ORIENTATION is {brief(orientation)}, expected one of {', '.join(ORIENTATIONS)}: "
            "does a high score mean danger (suspicion) or success (safety)?"
        )
    file = Path(path).expanduser()
    try:
        named = parse_columns(columns, COLUMNS) if isinstance(columns, str) else dict(columns)
    except TableFileError as error:
        raise ScoreFileError(str(error)) from None
    if group:
        named["group"] = group
    name = dataset or ENDINGS.sub("", file.name)
    rows = _read(file, lambda names: choose_columns(names, named), positive)
    try:
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

    found = _turn(build_trajectories(_read(file, choose, "safe"), dataset, "verifier"))
    return replace(found, title=PUBLISHED_TITLES.get(dataset, ""))


def _split(rows: Rows, dataset: str) -> list[Trajectories]:
    if rows.signals is None:
        return [build_trajectories(rows, dataset, "score")]
    names = list(dict.fromkeys(rows.signals))
    if len(names) > MOST_SIGNALS:
        raise ScoreFileError(
            f"column signal names {len(names)} signals: {listed(names, 3)}. If it says something "
            'else, leave it out: columns={"signal": ""} or COLUMNS=signal:'
        )
    found = [build_trajectories(rows, dataset, name, rows.signals == name) for name in names]
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


def _shown(path: str | Path) -> str:
    name = Path(path).name
    return name if len(name) <= 80 else f"{name[:50]}...{name[-27:]}"


def _read(
    file: Path, choose: Callable[[Sequence[str]], dict[str, str]], positive: str
) -> Rows:
    """Read and check the chosen columns: `choose` gives, for a file's columns, ours to theirs."""
    chosen: dict[str, str] = {}

    def theirs(names: Sequence[str]) -> Collection[str]:
        chosen.update(choose(names))
        return chosen.values()

    try:
        columns = read_table_file(file, EXPECTED_COLUMNS, choose=theirs).columns
        return read_rows({ours: columns[name] for ours, name in chosen.items()}, positive)
    except (ScoreFileError, TableFileError) as error:
        raise ScoreFileError(f"{_shown(file)}: {error}") from None
