"""What the runner remembers about each execution, and what follows from it.

The record of a notebook lies beside its executed copy:
`<runs>/<run_id>/executed/<stem>.json` and `.ipynb`. It exists from the moment the notebook starts,
so an execution that was killed shows as interrupted and never as complete.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from monitorlab.pipeline.artifacts import ArtifactError, stale_inputs
from monitorlab.pipeline.files import write_text_atomic
from monitorlab.pipeline.notebooks import Notebook, dependencies
from monitorlab.pipeline.runs import NAME, git_state


class RunIdError(ValueError):
    """A run id that is not a plain folder name, or that does not exist."""


@dataclass(frozen=True)
class Failure:
    """Where and why an execution ended early.

    Attributes
    ----------
    cell : int
        Number of the code cell as the executed notebook shows it (`In [cell]`), 0 if the failure
        came before the first cell.
    line : str
        First line of that cell.
    error : str
        Name of the exception.
    message : str
        Its text.
    """

    cell: int
    line: str
    error: str
    message: str


@dataclass(frozen=True)
class Record:
    """One execution of one notebook.

    Attributes
    ----------
    stem, run_id, profile : str
        Which notebook, in which run, at which size.
    status : str
        "running", "complete", "failed" or "interrupted".
    parameters : dict
        Effective values of all parameters, defaults included.
    digest : str
        SHA-256 of the source at that time.
    started, finished : str
        ISO 8601 with offset; `finished` is empty while running.
    seconds : float
        Wall-clock time.
    commit : str
        Short git commit, with "+" if the working tree differed; empty outside git.
    process : int
        Process id of the runner.
    failure : Failure or None
        Set when the status is "failed".
    """

    stem: str
    run_id: str
    profile: str
    status: str
    parameters: dict[str, str | int | float | bool]
    digest: str
    started: str
    finished: str = ""
    seconds: float = 0.0
    commit: str = ""
    process: int = 0
    failure: Failure | None = None


@dataclass(frozen=True)
class State:
    """What `status` and the index page say about one notebook of one run.

    Attributes
    ----------
    notebook : Notebook
        The source.
    status : str
        "complete", "failed", "interrupted", "running", "stale" or "missing".
    reason : str
        Why, in words; empty for complete and missing.
    record : Record or None
        The last execution.
    headline : dict of str to str
        "value" and "caption" as the notebook left them, empty if it left none.
    """

    notebook: Notebook
    status: str
    reason: str = ""
    record: Record | None = None
    headline: Mapping[str, str] = field(default_factory=dict)


def check_run_id(run_id: str) -> str:
    """Return `run_id` if it is a plain folder name.

    Raises
    ------
    RunIdError
        Otherwise: it becomes part of paths that are written.
    """
    if not NAME.fullmatch(run_id):
        raise RunIdError(
            f"run id {run_id!r} must be a folder name of letters, digits, dots, dashes and "
            "underscores"
        )
    return run_id


def list_runs(runs: Path) -> tuple[str, ...]:
    """Return the ids of all runs that the runner started."""
    if not runs.is_dir():
        return ()
    return tuple(sorted(p.name for p in runs.iterdir() if (p / "executed").is_dir()))


def executed_path(runs: Path, run_id: str, stem: str) -> Path:
    """Return where the executed copy of a notebook lies."""
    return runs / run_id / "executed" / f"{stem}.ipynb"


def write_record(runs: Path, record: Record) -> None:
    """Write a record atomically."""
    path = executed_path(runs, record.run_id, record.stem).with_suffix(".json")
    write_text_atomic(path, json.dumps(asdict(record), indent=2) + "\n")


def read_record(runs: Path, run_id: str, stem: str) -> Record | None:
    """Read the record of a notebook; None if it was never executed in this run."""
    path = executed_path(runs, run_id, stem).with_suffix(".json")
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    failure = data.pop("failure", None)
    known = {f.name for f in fields(Record)}
    data = {name: value for name, value in data.items() if name in known}
    return Record(**data, failure=Failure(**failure) if failure else None)


def run_states(runs: Path, run_id: str, notebooks: Sequence[Notebook]) -> tuple[State, ...]:
    """Return the state of every notebook in one run, in the order of `notebooks`."""
    records = {n.stem: read_record(runs, run_id, n.stem) for n in notebooks}
    return tuple(_state(runs, run_id, n, notebooks, records) for n in notebooks)


def _state(
    runs: Path,
    run_id: str,
    notebook: Notebook,
    notebooks: Sequence[Notebook],
    records: Mapping[str, Record | None],
) -> State:
    record = records[notebook.stem]
    if record is None:
        return State(notebook, "missing")
    headline = read_headline(runs / run_id / notebook.stem)
    status, reason = record.status, ""
    if record.failure is not None:
        reason = f"{record.failure.error}: {record.failure.message}"
    elif status == "running" and not _alive(record.process):
        status, reason = "interrupted", "the process that ran it is gone"
    elif status == "complete":
        reason = _why_stale(runs / run_id, record, notebook, notebooks, records)
        status = "stale" if reason else "complete"
    return State(notebook, status, reason, record, headline)


def _why_stale(
    folder: Path,
    record: Record,
    notebook: Notebook,
    notebooks: Sequence[Notebook],
    records: Mapping[str, Record | None],
) -> str:
    if record.digest != notebook.digest:
        return "the notebook changed after this run"
    for stem in dependencies(notebook, notebooks):
        source = records.get(stem)
        if source is None or source.status != "complete":
            return f"{stem} is not complete in this run"
        if source.profile != record.profile:
            return f"{stem} was run with profile {source.profile}"
    try:
        return "; ".join(stale_inputs(folder / notebook.stem))
    except ArtifactError as error:
        return str(error)


def read_headline(folder: Path) -> dict[str, str]:
    """Read `headline.json` of a run folder: {"value", "caption"}; empty if absent or broken."""
    with contextlib.suppress(OSError, ValueError):
        data = json.loads((folder / "headline.json").read_text(encoding="utf-8"))
        return {key: str(data[key]) for key in ("value", "caption") if key in data}
    return {}


def now() -> str:
    """Return the present time, UTC, as ISO 8601 text that sorts by time."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def git_commit(root: Path) -> str:
    """Return the short commit of `root`, "+" appended if files differ; empty outside git."""
    state = git_state(root)
    return f"{state['commit'][:9]}{'+' if state['dirty'] else ''}" if state["commit"] else ""


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0
