"""What the runner remembers about each execution, and what follows from it.

The record of a notebook lies beside its executed copy:
`<runs>/<run_id>/executed/<stem>.json` and `.ipynb`. It exists from the moment the notebook starts,
so an execution that was killed shows as interrupted and never as complete. While it works,
papermill writes to `executed/.<stem>.<process>.part/`; what a killed process left there is picked
up by the next run or report.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.runs import RunLock, mark, package_versions
from monitorlab.storage import files
from monitorlab.storage.manifests import ArtifactError, Results

_WHY_AGAIN = {"missing": "it has not been run yet", "failed": "its last execution failed",
              "interrupted": "its last execution was interrupted"}
_PART = re.compile(r"\.(?P<stem>.+)\.\d+\.part")


def _now() -> str:
    """Return the present time, UTC, as ISO 8601 text that sorts by time."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class CellFailure:
    """Where and why an execution ended early.

    Attributes
    ----------
    cell : int
        Number of the code cell as the executed notebook shows it (`In [cell]`), 0 if the failure
        came outside the cells.
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
class RunRecord:
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
    project : str
        Digest of library and authored data at that time.
    files : dict of str to str
        Digest of each file that a parameter names, by the parameter.
    tables : str
        SHA-256 of the manifest at its end; empty if it left none.
    failure : CellFailure or None
        Set when the status is "failed".
    """

    stem: str
    run_id: str
    profile: str
    status: str
    parameters: dict[str, str | int | float | bool]
    digest: str
    started: str = field(default_factory=_now)
    finished: str = ""
    seconds: float = 0.0
    commit: str = ""
    process: int = 0
    project: str = ""
    files: dict[str, str] = field(default_factory=dict)
    tables: str = ""
    failure: CellFailure | None = None

    @classmethod
    def load(cls, runs: Path, run_id: str, stem: str) -> RunRecord | None:
        """Read the record of a notebook; None if it was never executed in this run.

        Raises
        ------
        ArtifactError
            If the file is not what was written.
        """
        path = cls.copy_path(runs, run_id, stem).with_suffix(".json")
        if not path.exists():
            return None
        try:
            data = files.read_sealed(path)
            failure = data.pop("failure", None)
            return cls(**data, failure=CellFailure(**failure) if failure else None)
        except (files.DamagedFileError, TypeError) as error:  # or of another version
            raise ArtifactError(f"the record of its execution, {path.name}, is damaged: {error}. "
                                f"Run the notebook again: python -m monitorlab run {stem[:2]} "
                                f"--run-id {run_id}") from error

    def save(self, runs: Path) -> None:
        """Write it atomically; on a full disk over the old one, which needs no new space."""
        path = self.copy_path(runs, self.run_id, self.stem).with_suffix(".json")
        text = files.sealed_json(asdict(self))
        try:
            files.write_text_atomic(path, text)
        except OSError as error:
            if error.errno not in files.FULL or not path.is_file():
                raise
            with path.open("r+b") as stream:
                stream.write(text.encode("utf-8"))
                stream.truncate()

    def keep_copy(self, runs: Path, output: Path) -> bool:
        """Move an executed notebook to its place if it is whole; say whether it was."""
        try:
            json.loads(output.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False  # never written, or cut: what lies at the target is better
        output.replace(self.copy_path(runs, self.run_id, self.stem))
        return True

    def why_run(self, runs: Path, notebook: Notebook, notebooks: Sequence[Notebook]) -> str:
        """Say why a notebook has to be executed (again); empty if it is complete and fresh.

        This record is what an execution would begin with now: its parameters, files and project
        are compared with those of the last one.

        Parameters
        ----------
        runs : Path
            Folder of all runs.
        notebook : Notebook
            Which one.
        notebooks : sequence of Notebook
            All of the project.
        """
        states = State.of_run(runs, self.run_id, notebooks)
        state = next(s for s in states if s.notebook.stem == notebook.stem)
        done = state.record
        if state.status != "complete" or done is None:
            return _WHY_AGAIN.get(state.status, state.reason)
        changed = [f"{name} is {value!r}, was {done.parameters.get(name)!r}"
                   for name, value in self.parameters.items()
                   if done.parameters.get(name) != value]
        if changed:
            return "; ".join(changed)
        if self.files != done.files:
            names = sorted(set(self.files.items()) ^ set(done.files.items()))
            return f"the file that {names[0][0]} names changed"
        if "" in self.files.values():
            return "a parameter names a folder, and what lies in it is not compared"
        if self.project != done.project:
            return "the library or its data changed after this run"
        return _why_tables_differ(runs / self.run_id / notebook.stem, done, notebook)

    def ended(self, runs: Path, status: str, **more: Any) -> RunRecord:
        """Return the record of an execution that is over, with the seal of what it left."""
        return replace(self, status=status, finished=_now(),
                       tables=_tables_seal(runs / self.run_id / self.stem), **more)

    @staticmethod
    def copy_path(runs: Path, run_id: str, stem: str) -> Path:
        """Return where the executed copy of a notebook lies."""
        return runs / run_id / "executed" / f"{stem}.ipynb"

    @classmethod
    def pick_up(cls, runs: Path, run_id: str) -> None:
        """Finish what a killed runner left: keep its outputs, say interrupted, remove its folders.

        Only for who holds the run folder: whatever is unfinished there has no process any more.
        """
        folder = runs / run_id / "executed"
        for path in folder.glob("*.json"):
            try:
                record = cls.load(runs, run_id, path.stem)
            except ArtifactError:
                continue
            if record is not None and record.status == "running":
                for output in folder.glob(f".{record.stem}.*.part/output.ipynb"):
                    record.keep_copy(runs, output)
                replace(record, status="interrupted").save(runs)
                mark(runs / run_id / record.stem, "interrupted")
        for path in folder.glob(".*.part"):
            if _PART.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class State:
    """What `status` and the index page say about one notebook of one run.

    Attributes
    ----------
    notebook : Notebook
        The source.
    status : str
        "complete", "failed", "interrupted", "running", "stale", "missing", or "broken" where
        its source, record or executed copy cannot be read.
    reason : str
        Why, in words; empty for complete and missing.
    record : RunRecord or None
        The last execution.
    headline : dict of str to str
        "value" and "caption" as the notebook left them, empty if it left none.
    """

    notebook: Notebook
    status: str
    reason: str = ""
    record: RunRecord | None = None
    headline: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_run(cls, runs: Path, run_id: str, notebooks: Sequence[Notebook]) -> tuple[State, ...]:
        """Return the state of every notebook in one run, in the order of `notebooks`.

        Notebooks that were executed and are not among them any more come last. What cannot be read
        is "broken" and stops nothing.
        """
        known = {n.stem for n in notebooks}
        gone = sorted(p for p in (runs / run_id / "executed").glob("[0-9][0-9]*.json")
                      if p.stem not in known)
        shown = [*notebooks, *(Notebook.unreadable(p, "") for p in gone)]
        records: dict[str, RunRecord | None] = {}
        faults: dict[str, str] = {}
        for notebook in shown:
            try:
                records[notebook.stem] = RunRecord.load(runs, run_id, notebook.stem)
            except ArtifactError as error:
                records[notebook.stem], faults[notebook.stem] = None, str(error)
        return tuple(cls(n, "broken", n.fault or faults[n.stem], records[n.stem])
                     if n.fault or n.stem in faults else _state(runs, run_id, n, notebooks, records)
                     for n in shown)


def list_runs(runs: Path) -> tuple[str, ...]:
    """Return the ids of all runs that the runner started."""
    if not runs.is_dir():
        return ()
    return tuple(sorted(p.name for p in runs.iterdir() if (p / "executed").is_dir()))


def _state(runs: Path, run_id: str, notebook: Notebook, notebooks: Sequence[Notebook],
           records: Mapping[str, RunRecord | None]) -> State:
    record = records[notebook.stem]
    if record is None:
        return State(notebook, "missing")
    status, reason = record.status, ""
    if record.failure is not None:
        reason = f"{record.failure.error}: {record.failure.message}"
    elif status == "running":
        owner = RunLock(runs / run_id).holder()
        if owner is not None and owner.get("process", record.process) == record.process:
            reason = f"by process {record.process}"
        else:
            status, reason = "interrupted", ("the process that ran it is gone; the next run or "
                                             "report picks up what it printed")
    elif status == "complete":
        reason = _why_stale(runs / run_id, record, notebook, notebooks, records)
        status = "stale" if reason else "complete"
        if not RunRecord.copy_path(runs, run_id, notebook.stem).is_file():
            status, reason = "broken", "its executed copy is gone"
    headline: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # absent, or not what we write
        path = runs / run_id / notebook.stem / "headline.json"
        data = json.loads(path.read_text(encoding="utf-8"))
        headline = {key: str(data[key]) for key in ("value", "caption") if key in data}
    return State(notebook, status, reason, record, headline)


def _why_stale(folder: Path, record: RunRecord, notebook: Notebook, notebooks: Sequence[Notebook],
               records: Mapping[str, RunRecord | None]) -> str:
    if notebook not in notebooks:
        return "its source is no longer among the notebooks"
    if record.digest != notebook.digest:
        return "the notebook changed after this run"
    for stem in notebook.dependencies(notebooks):
        source = records.get(stem)
        if source is None and notebook.needs_nothing(record.parameters):
            continue
        if source is None or source.status != "complete":
            return f"{stem} is not complete in this run"
        if source.profile != record.profile:
            return f"{stem} was run with profile {source.profile}"
    try:
        return "; ".join(Results(folder / notebook.stem).stale())
    except ArtifactError as error:
        return str(error)


def _why_tables_differ(folder: Path, done: RunRecord, notebook: Notebook) -> str:
    try:
        results = Results(folder)
        if not notebook.writes and results.manifest() is None:
            return ""
        manifest = results.finished()
        results.check(manifest)
    except ArtifactError as error:
        return str(error)
    if _tables_seal(folder) != done.tables:
        return "its tables were written again later, and not by the runner"
    now = package_versions()
    other = sorted(set(manifest["packages"].items()) ^ set(now.items()))
    return f"the version of {other[0][0]} changed" if other else ""


def _tables_seal(folder: Path) -> str:
    """Return the digest of the manifest of a notebook, empty if there is none."""
    path = folder / "manifest.json"
    return files.digest_file(path) if path.is_file() else ""
