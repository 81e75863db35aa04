"""Execute notebooks in order, with papermill.

A source `.py` becomes an `.ipynb`, is executed with the project root as working folder, and ends up
under `<runs>/<run_id>/executed/`. The copy is renamed into place when it has ended, well or badly,
so an older one stays readable until then. After a failure the remaining notebooks are not started.
What can be known beforehand (parameters, inputs, who else works in the run) is checked before the
first kernel starts. With several jobs, notebooks that do not read one another are executed side by
side, each by a process of its own; the run is held by this one.

Which kernels are installed on a machine, and which IPython start-up files a user has, must not
matter: for as long as `_kernel_environment` lasts, here and in the regression tests, the name
`python3` means the interpreter that runs this code, through a private kernel specification and an
empty IPython folder. The environment of a kernel is part of a result (hash seed, offline mode) and
of its speed (allocator).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from monitorlab.pipeline.notebooks import Notebook, check_parameters, dependencies, with_inputs
from monitorlab.pipeline.records import (
    CellFailure,
    RecordError,
    RunRecord,
    check_run_id,
    executed_path,
    git_commit,
    keep_copy,
    now,
    pick_up,
    read_run_record,
    run_states,
    tables_seal,
    why_run,
    write_record,
)
from monitorlab.pipeline.runs import (
    RUNNER,
    check_free,
    checked_seed,
    hold,
    mark,
    runs_folder,
)
from monitorlab.storage.files import (
    FULL_DISK,
    LIBRARY,
    digest_file,
    digest_json,
    quick_jsonschema,
    tells_of_full_disk,
)
from monitorlab.storage.manifests import ArtifactError, finished_manifest, unchanged_tables
from monitorlab.storage.settings import ParameterError, Value
from monitorlab.storage.sources import project_root

START_TIMEOUT = 120
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ANSWER = re.compile(r"\s*<details>.*?</details>", re.DOTALL)
_LONGEST_MESSAGE = 2_000


class RunError(RuntimeError):
    """A notebook that did not run to its end.

    Attributes
    ----------
    record : RunRecord
        The failed execution.
    path : Path
        The executed notebook, with all outputs up to the failure; where they could not be `kept`,
        that of an earlier execution or nothing.
    """

    def __init__(self, record: RunRecord, path: Path, kept: bool = True) -> None:
        self.record = record
        self.path = path
        super().__init__(_describe(record, path if kept else None))
        self.kept = kept

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.record, self.path, self.kept)


@dataclass(frozen=True)
class Options:
    """How to execute.

    Attributes
    ----------
    runs : Path
        Folder of all runs.
    root : Path
        Working folder of the kernels.
    cell_timeout : int
        Seconds that one cell may take, 0 for no limit.
    progress : bool
        Whether to draw a progress bar on stderr.
    report : callable
        Receives one line of text when a notebook starts, ends or is skipped.
    resume : bool
        Skip notebooks that are complete and fresh.
    with_inputs : bool
        Run what the notebooks need first, unless it is complete and fresh.
    jobs : int
        How many notebooks may be executed at once, 1 or more; without a progress bar if more.
    runner : int
        The process that holds the run.
    variables : mapping
        Further environment variables for the kernels.
    """

    runs: Path = field(default_factory=runs_folder)
    root: Path = field(default_factory=project_root)
    cell_timeout: int = 3_600
    progress: bool = False
    report: Callable[[str], None] = lambda line: None
    resume: bool = False
    with_inputs: bool = False
    jobs: int = 1
    runner: int = field(default_factory=os.getpid)
    variables: Mapping[str, str] = field(default_factory=dict)


def run_notebooks(
    notebooks: Sequence[Notebook],
    given: Mapping[str, object],
    options: Options | None = None,
    among: Sequence[Notebook] | None = None,
) -> tuple[RunRecord, ...]:
    """Execute notebooks in the given order.

    Parameters
    ----------
    notebooks : sequence of Notebook
        In an order in which they can run, as `discover` returns them.
    given : mapping of str to object
        Parameter values by name, text or Python values. Each notebook receives those it declares.
    options : Options, optional
        Where and how.
    among : sequence of Notebook, optional
        All notebooks of the project, where inputs are looked for; `notebooks` if not given.

    Returns
    -------
    tuple of Record
        One per notebook, all complete; of a skipped one the record that it has.

    Raises
    ------
    ParameterError
        Before anything runs: an unknown name or a value that cannot be.
    ArtifactError
        Before anything runs: an input is missing or not fit to be read, or another process works
        in the run.
    RunError
        If a cell failed, took too long or took the kernel with it.
    """
    options, among = options or Options(), notebooks if among is None else among
    named = {n.stem for n in notebooks}
    chosen = with_inputs(notebooks, among) if options.with_inputs else tuple(notebooks)
    values = check_parameters(given, {n.stem: n.parameters for n in chosen})
    project = _digest_project(options.root)
    begun = {n.stem: _begin(n, values[n.stem], options, project) for n in chosen}
    for run_id in {record.run_id for record in begun.values()}:
        check_free(options.runs / run_id)
    for notebook in chosen:
        _check_inputs(notebook, among, begun, options.runs)
        if notebook.stem not in named:
            _check_input_parameters(begun[notebook.stem], values[notebook.stem], options.runs)
    with ExitStack() as held:
        for run_id in dict.fromkeys(record.run_id for record in begun.values()):
            held.enter_context(hold(options.runs / run_id))
            pick_up(options.runs, run_id)
        work = _Work(chosen, named, values, begun, among, options)
        return work.one_by_one() if options.jobs == 1 else work.side_by_side()


def sweep(
    notebooks: Sequence[Notebook],
    given: Mapping[str, object],
    swept: Mapping[str, Sequence[str]],
    options: Options,
    among: Sequence[Notebook],
) -> tuple[dict[str, str | float], ...]:
    """Execute notebooks once for every combination of values, each as a run of its own.

    Parameters
    ----------
    notebooks, given, options, among
        As for `run_notebooks`; what the notebooks read is run first in every run.
    swept : mapping of str to sequence of str
        Values of each swept parameter. A run is called RUN_ID-NAMEvalue-NAMEvalue.

    Returns
    -------
    tuple of dict
        Per run its name ("run"), the swept values, and the metrics and headlines of all
        `notebooks` under "NN metric".

    Raises
    ------
    ParameterError
        Before anything runs: a parameter without a value, given twice, or unknown; or two
        combinations whose runs would have one name.
    """
    runs: dict[str, dict[str, str]] = {}
    if twice := sorted({"RUN_ID", *given} & set(swept)):
        raise ParameterError(f"{', '.join(twice)} cannot be swept: it is given, or names the run")
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, (value.strip() for value in values), strict=True))
        words = (re.sub(r"[^A-Za-z0-9_.]+", "_", f"{key}{value}") for key, value in chosen.items())
        name = "-".join([str(given.get("RUN_ID", "default")), *words])
        if name in runs or not all(chosen.values()):
            raise ParameterError(f"the sweep has {chosen} twice, or an empty value: expected "
                                 "NAME=VALUE,VALUE with different values")
        check_parameters({**given, **chosen}, {n.stem: n.parameters for n in among})
        runs[name] = chosen
    rows = []
    options = dataclasses.replace(options, with_inputs=True)
    for name, chosen in runs.items():
        options.report(f"run {name}")
        run_notebooks(notebooks, {**given, **chosen, "RUN_ID": name}, options, among)
        row: dict[str, str | float] = {"run": name, **chosen}
        states = run_states(options.runs, name, notebooks)  # what these read comes after them
        for notebook, state in zip(notebooks, states, strict=False):
            measured = finished_manifest(options.runs / name / notebook.stem)["metrics"]
            shown = {"headline": state.headline["value"]} if state.headline else {}
            row |= {f"{notebook.number:02d} {what}": value
                    for what, value in {**shown, **measured}.items()}
        rows.append(row)
    return tuple(rows)


@dataclass(frozen=True)
class _Work:
    """What `run_notebooks` has checked and is about to execute."""

    chosen: Sequence[Notebook]
    named: set[str]
    values: Mapping[str, Mapping[str, Value]]
    begun: Mapping[str, RunRecord]
    among: Sequence[Notebook]
    options: Options

    def one_by_one(self) -> tuple[RunRecord, ...]:
        """Execute in order, in this process."""
        records = []
        for notebook in self.chosen:
            label, done = self.label(notebook), self.fresh(notebook)
            if done is None:
                if not self.options.progress:  # a bar shows the name itself
                    self.options.report(label)
                done = execute(notebook, self.values[notebook.stem], self.options, label)
                self.ended(notebook, done)
            records.append(done)
        return tuple(records)

    def side_by_side(self) -> tuple[RunRecord, ...]:
        """Execute up to `jobs` at once, each when what it reads is there, in own processes.

        After a failure no further one is started, and those that work are waited for.
        """
        variables = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.options.jobs))}
        quiet = dataclasses.replace(self.options, report=print, progress=False, variables={
            **{k: v for k, v in variables.items() if k not in os.environ},
            **self.options.variables})
        done: dict[str, RunRecord] = {}
        failed: Exception | None = None
        waiting = list(self.chosen)
        working: dict[Any, _Worker] = {}
        try:
            while working or (waiting and failed is None):
                missing = {n.stem for n in [*waiting, *(w.notebook for w in working.values())]}
                ready = [n for n in waiting
                         if not missing.intersection(dependencies(n, self.among))]
                if ready and failed is None and len(working) < self.options.jobs:
                    waiting.remove(ready[0])
                    record = self.fresh(ready[0])
                    if record is not None:
                        done[ready[0].stem] = record
                        continue
                    self.options.report(self.label(ready[0]))
                    worker = _Worker(ready[0], self.values[ready[0].stem], quiet)
                    working[worker.said] = worker
                    continue
                for said in wait(list(working)):
                    worker = working.pop(said)
                    result = worker.result(self.begun[worker.notebook.stem])
                    if isinstance(result, Exception):
                        failed = failed or result
                    else:
                        done[worker.notebook.stem] = result
                        self.ended(worker.notebook, result)
        finally:  # also on Ctrl-C, which the terminal may have sent to all
            with _signals_wait():
                for worker in working.values():
                    worker.interrupt()
        if failed is not None:
            raise failed
        return tuple(done[n.stem] for n in self.chosen)

    def label(self, notebook: Notebook) -> str:
        return f"[{self.chosen.index(notebook) + 1}/{len(self.chosen)}] {notebook.stem}"

    def fresh(self, notebook: Notebook) -> RunRecord | None:
        """Return the record of a notebook that need not run, and say so; else say why it runs."""
        if not self.options.resume and notebook.stem in self.named:
            return None
        wanted, label = self.begun[notebook.stem], self.label(notebook)
        if reason := why_run(self.options.runs, wanted, notebook, self.among):
            self.options.report(f"{label} is run: {reason}")
            return None
        self.options.report(f"{label} skipped: complete and fresh")
        return read_run_record(self.options.runs, wanted.run_id, notebook.stem)

    def ended(self, notebook: Notebook, record: RunRecord) -> None:
        self.options.report(f"{self.label(notebook)} done in {record.seconds:.1f} s")


class _Worker:
    """A process that executes one notebook and says what became of it."""

    def __init__(
        self, notebook: Notebook, values: Mapping[str, Value], options: Options
    ) -> None:
        context = multiprocessing.get_context("spawn")  # inherits no lock
        self.notebook, self.options = notebook, options
        self.said, says = context.Pipe(duplex=False)
        self.process = context.Process(target=_execute_and_say,
                                       args=(says, notebook, values, options))
        self.process.start()
        says.close()

    def result(self, begun: RunRecord) -> RunRecord | Exception:
        """Wait for the end; the record, or the error that a caller of `execute` would see."""
        try:
            said: RunRecord | Exception = self.said.recv()
        except EOFError:
            self.process.join()
            failure = CellFailure(0, "", "DeadRunnerError", "the process that executed it ended "
                                  f"with code {self.process.exitcode} (often: out of memory)")
            record = dataclasses.replace(begun, status="failed", failure=failure, finished=now())
            with suppress(OSError):
                write_record(self.options.runs, record)
                mark(self.options.runs / record.run_id / record.stem, "failed")
            target = executed_path(self.options.runs, record.run_id, record.stem)
            return RunError(record, target, target.is_file())
        self.process.join()
        return said

    def interrupt(self) -> None:
        """Let it end as on Ctrl-C, with what ran so far kept, and wait for that."""
        with suppress(ProcessLookupError, TypeError):  # it has ended
            os.kill(self.process.pid, signal.SIGINT)  # type: ignore[arg-type]
        self.process.join()


def _execute_and_say(
    says: Connection, notebook: Notebook, values: Mapping[str, Value], options: Options
) -> None:
    """Execute in this process, which ends when the one that holds the run is no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whoever holds the run says when to stop
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        try:
            says.send(execute(notebook, values, options, notebook.stem))
        except Exception as error:
            says.send(error)


def _end_with_parent() -> None:
    holder_of_run = multiprocessing.parent_process()
    if holder_of_run is not None:
        holder_of_run.join()
        os._exit(1)


def execute(
    notebook: Notebook, values: Mapping[str, Value], options: Options, label: str = ""
) -> RunRecord:
    """Execute one notebook with checked parameter values and leave its record.

    Raises
    ------
    RunError
        If it did not run to its end; its record and executed copy are written all the same.
    """
    record = dataclasses.replace(
        _begin(notebook, values, options, _digest_project(options.root)),
        commit=git_commit(options.root), process=options.runner,
    )
    target = executed_path(options.runs, record.run_id, notebook.stem)
    folder = options.runs / record.run_id / notebook.stem
    start = time.perf_counter()
    status, failure, kept = "interrupted", None, False
    workplace = target.parent / f".{notebook.stem}.{options.runner}.part"
    try:
        write_record(options.runs, record)
        mark(folder, "running")
        failure = _run_in(workplace, notebook, values, options, label, record.profile)
        status = "failed" if failure else "complete"
    except Exception as error:
        _raise_interruption(error)
        status, failure = "failed", CellFailure(0, "", type(error).__name__, str(error))
    finally:  # also on Ctrl-C: keep what the cells printed so far
        with _signals_wait():
            kept = keep_copy(workplace / "output.ipynb", target)
            shutil.rmtree(workplace, ignore_errors=True)
            if status != "complete":
                with suppress(OSError):  # "running" is not read either
                    mark(folder, status)
            record = dataclasses.replace(
                record, status=status, failure=_with_advice(failure, kept, target),
                finished=now(), seconds=round(time.perf_counter() - start, 3),
                tables=tables_seal(folder),
            )
            with suppress(OSError):  # the disk is full, which the message says
                write_record(options.runs, record)
    if record.failure:
        raise RunError(record, target, kept)
    return record


def _begin(
    notebook: Notebook, values: Mapping[str, Value], options: Options, project: str
) -> RunRecord:
    """Return the record that an execution begins with, after a look at what cannot be.

    Raises
    ------
    ParameterError
        If the seed is no seed.
    RunIdError
        If the run id is no folder name.
    """
    effective = {p.name: p.default for p in notebook.parameters} | dict(values)
    try:
        checked_seed(effective.get("SEED", 0))
    except ValueError as error:
        raise ParameterError(f"{notebook.stem}: {error}") from None
    return RunRecord(
        stem=notebook.stem,
        run_id=check_run_id(str(effective.get("RUN_ID", "default"))),
        profile=str(effective.get("PROFILE", "")),
        status="running",
        parameters=effective,
        digest=notebook.digest,
        started=now(),
        project=project,
        files=_named_files(effective, options.root),
    )


def _digest_project(root: Path) -> str:
    """SHA-256 of the library that is imported and of the authored files below `root/data`.

    Everything that a notebook's results depend on besides its own text and what the manifest
    records; what runs generate (`data/runs`, `data/cache`) is left out.
    """
    data = [p for p in sorted((root / "data").glob("*")) if p.name not in ("runs", "cache")]
    files = [f for p in (LIBRARY, *data) for f in ([p] if p.is_file() else sorted(p.rglob("*")))]
    digest = hashlib.sha256()
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            top = LIBRARY if path.is_relative_to(LIBRARY) else root
            digest.update(f"{path.relative_to(top).as_posix()}\n{digest_file(path)}\n".encode())
    return digest.hexdigest()


def _named_files(parameters: Mapping[str, Value], root: Path) -> dict[str, str]:
    """Return the digest of each file that a parameter names, "" for a folder.

    A monitor is named `file.py:function` or `hf:folder`, and several have semicolons between.
    """
    found = {}
    for name, value in parameters.items():
        if not isinstance(value, str) or name in ("PROFILE", "RUN_ID"):
            continue
        parts = dict.fromkeys([value, *(part.strip() for part in value.split(";"))])
        digests = [one for part in parts if (one := _named_digest(part, root)) is not None]
        if digests:
            found[name] = digests[0] if len(digests) == 1 else digest_json(digests)
    return found


def _named_digest(value: str, root: Path) -> str | None:
    """Digest of the file that a text names, "" for a folder, and nothing if it names neither."""
    texts = (value, value.rpartition(":")[0], value.partition(":")[2])
    for path in [place for text in texts if text for place in (Path(text), root / text)]:
        with suppress(OSError, RuntimeError):  # too long for a name, or no such home
            path = path.expanduser()
            if path.exists():
                return digest_file(path) if path.is_file() else ""
    return None


def _check_inputs(
    notebook: Notebook, among: Sequence[Notebook], begun: Mapping[str, RunRecord], runs: Path
) -> None:
    """Refuse a notebook whose inputs are not there; those that run in the same go will be."""
    mine = begun[notebook.stem]
    given = mine.parameters.get("SEED")
    seed = None if given is None else int(given)
    for stem in dependencies(notebook, among):
        if stem in begun:
            continue
        folder = runs / mine.run_id / stem
        if notebook.needs_nothing(mine.parameters) and not folder.exists():
            continue
        try:
            manifest = finished_manifest(folder, mine.profile or None, seed)
            unchanged_tables(folder, manifest, notebook.reads)
        except ArtifactError as error:
            raise ArtifactError(f"{notebook.stem} reads tables of {stem} (--with-inputs runs "
                                f"first what is missing or out of date): {error}") from error


def _check_input_parameters(
    wanted: RunRecord, values: Mapping[str, Value], runs: Path
) -> None:
    """Refuse to replace a complete input only because this command leaves a parameter out."""
    try:
        done = read_run_record(runs, wanted.run_id, wanted.stem)
    except RecordError:
        return
    if done is None or done.status != "complete":
        return
    left_out = {name: done.parameters[name] for name, value in wanted.parameters.items()
                if name not in values and done.parameters.get(name, value) != value}
    if left_out:
        options = " ".join(f"-p {name}={value}" for name, value in left_out.items())
        raise ParameterError(
            f"{wanted.stem} is complete in run {wanted.run_id!r} with other parameters than this "
            f"command gives. Add {options} to use it, or choose another run id."
        )


def _raise_interruption(error: BaseException) -> None:
    """Raise the Ctrl-C during which `error` happened, as when the terminal is gone."""
    cause = error.__context__
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        cause = cause.__context__


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Let a second signal wait until what the first one interrupted has been written down."""
    waiting: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda got, _: waiting.append(got))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def write_notebook(notebook: Notebook, path: Path, answers: bool = True) -> None:
    """Convert a py:percent file to an unexecuted `.ipynb`, on request without folded answers."""
    quick_jsonschema()
    import jupytext

    document = jupytext.read(notebook.path, fmt="py:percent")
    for cell in document.cells if not answers else ():
        if cell.cell_type == "markdown":
            cell.source = _ANSWER.sub("", cell.source)
    document.metadata["kernelspec"] = {
        "display_name": "Python 3", "language": "python", "name": KERNEL_NAME,
    }
    document.metadata.pop("jupytext", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(document, path, fmt="ipynb")


def _run_in(
    workplace: Path,
    notebook: Notebook,
    values: Mapping[str, Value],
    options: Options,
    label: str,
    profile: str,
) -> CellFailure | None:
    """Execute inside a folder of its own; return the failure instead of raising it."""
    source, output = workplace / "source.ipynb", workplace / "output.ipynb"
    write_notebook(notebook, source)
    variables = {"MONITORLAB_RUNS": str(options.runs.resolve()), RUNNER: str(options.runner)}
    variables |= options.variables
    with _kernel_environment(profile, variables):
        return _call_papermill(source, output, values, options, label)


def _call_papermill(
    source: Path, output: Path, values: Mapping[str, Value], options: Options, label: str
) -> CellFailure | None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it repeats what we report
    try:
        papermill.execute_notebook(
            str(source), str(output),  # paths: papermill mishandles notebook objects
            parameters=dict(values),
            kernel_name=KERNEL_NAME,
            cwd=str(options.root),
            progress_bar=_progress(label) if options.progress else False,
            start_timeout=START_TIMEOUT,
            execution_timeout=options.cell_timeout or None,
            iopub_timeout=60,  # 4 s by default, too short for a large figure on a busy machine
        )
    except PapermillExecutionError as error:
        return _failure(output, error.ename, error.evalue, source=error.source)
    except CellTimeoutError:
        limit = f"the cell did not end within {options.cell_timeout} s"
        return _failure(output, "CellTimeoutError", limit)
    except OSError as error:
        _raise_interruption(error)
        return _failure(output, type(error).__name__, str(error))
    except (DeadKernelError, RuntimeError) as error:
        _raise_interruption(error)
        told = "the kernel died (often: out of memory)" if isinstance(error, DeadKernelError) else (
            f"the kernel did not start or stopped answering: {error}")
        return _failure(output, "DeadKernelError", told)
    return None


def _progress(label: str) -> dict[str, Any]:
    return {
        "desc": label,
        "file": sys.stderr,
        "bar_format": "{desc} {bar:24} cell {n_fmt}/{total_fmt} {elapsed}",
        "leave": False,
    }


def _failure(output: Path, error: str, message: str, source: str | None = None) -> CellFailure:
    """Find the last cell that started; a dead kernel leaves no error output behind."""
    import nbformat

    cells = []
    with suppress(OSError, ValueError, AttributeError):  # a full disk leaves half a file
        cells = nbformat.read(output, as_version=4).cells
    code = [c for c in cells if c.cell_type == "code"]
    begun = [i for i, c in enumerate(code) if c.metadata.get("papermill", {}).get("start_time")]
    number = begun[-1] + 1 if begun else 0
    if source is None:
        source = code[begun[-1]].source if begun else ""
    line = next((text for text in source.splitlines() if text.strip()), "")
    message = _ANSI.sub("", message)[:_LONGEST_MESSAGE]
    return CellFailure(cell=number, line=line.strip(), error=error, message=message)


def _with_advice(failure: CellFailure | None, kept: bool, target: Path) -> CellFailure | None:
    """Complete the message of a failure with what a reader of it must know."""
    if failure is None:
        return None
    message = failure.message[:_LONGEST_MESSAGE]
    if tells_of_full_disk(message):
        message += f": {FULL_DISK}"
    if not kept and target.is_file():
        message += " (the executed copy is that of an earlier execution)"
    return dataclasses.replace(failure, message=message)


def _describe(record: RunRecord, path: Path | None) -> str:
    failure = record.failure or CellFailure(0, "", "Error", "unknown")
    where = f"in cell [{failure.cell}] `{failure.line}`" if failure.cell else "outside its cells"
    lines = [f"{record.stem} failed {where}", f"  {failure.error}: {failure.message}"]
    if path is not None:
        shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
        lines.append(f"  executed up to there: {shown}")
    return "\n".join(lines)


KERNEL_NAME = "python3"

# glibc returns large blocks to the system after every tensor; keeping them makes training on a
# CPU 1.3 to 2 times faster, because page faults dominate otherwise. Read before Python starts.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
_FIXED = {"PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false"}


def _kernel_variables(profile: str, existing: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables to set for a kernel.

    Parameters
    ----------
    profile : str
        In every profile but "gpu" the model hub is switched off, unless the user chose.
    existing : mapping of str to str
        The present environment. Allocator settings that are already there are kept.
    """
    variables = dict(_FIXED)
    variables |= {name: value for name, value in _ALLOCATOR.items() if name not in existing}
    if profile != "gpu" and "HF_HUB_OFFLINE" not in existing:
        variables["HF_HUB_OFFLINE"] = "1"
    return variables


@contextlib.contextmanager
def _kernel_environment(profile: str, extra: Mapping[str, str] | None = None) -> Iterator[None]:
    """Set the environment that kernels inherit, and restore it afterwards.

    Parameters
    ----------
    profile : str
        Name of the profile of the run.
    extra : mapping of str to str, optional
        Further variables, for example `MONITORLAB_RUNS`.
    """
    with tempfile.TemporaryDirectory(prefix="monitorlab-kernel-") as folder:
        _write_kernelspec(Path(folder))
        search = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH", "")]))
        variables = _kernel_variables(profile, os.environ) | dict(extra or {})
        with _environment(variables | {"JUPYTER_PATH": search, "IPYTHONDIR": folder}):
            yield


def _write_kernelspec(folder: Path) -> None:
    """Write `kernels/python3/kernel.json` for the running interpreter into `folder`.

    The log level hides what ipykernel itself logs to the terminal, such as a warning about
    unencrypted loopback traffic once per kernel. Errors of a cell are messages and unaffected.
    """
    target = folder / "kernels" / KERNEL_NAME
    target.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
            "--log-level=CRITICAL", "--HistoryManager.enabled=False"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (target / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
