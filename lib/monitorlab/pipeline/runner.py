"""Execute notebooks in order, with papermill, and freeze golden copies of them.

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

Golden notebooks are frozen executions that `pytest --nbval` compares with fresh ones. Only the text
of outputs is kept, in files that do not change unless a result does: cell ids come from the
position, metadata is stripped, pictures and HTML are dropped, and outputs of cells tagged
`nbval-ignore-output` are cleared.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest import mock

from monitorlab.pipeline import records, runs
from monitorlab.pipeline.notebooks import KERNEL_NAME, Notebook, check_parameters
from monitorlab.pipeline.records import CellFailure, RunRecord
from monitorlab.storage import files
from monitorlab.storage.manifests import ArtifactError, Results
from monitorlab.storage.settings import ParameterError, Value
from monitorlab.storage.sources import project_root

START_TIMEOUT = 120
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
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
        self.record, self.path, self.kept = record, path, kept
        failure = record.failure or CellFailure(0, "", "Error", "unknown")
        where = f"in cell [{failure.cell}] `{failure.line}`" if failure.cell else (
            "outside its cells")
        lines = [f"{record.stem} failed {where}", f"  {failure.error}: {failure.message}"]
        if kept:
            shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
            lines.append(f"  executed up to there: {shown}")
        super().__init__("\n".join(lines))

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

    runs: Path = field(default_factory=runs.runs_folder)
    root: Path = field(default_factory=project_root)
    cell_timeout: int = 3_600
    progress: bool = False
    report: Callable[[str], None] = lambda line: None
    resume: bool = False
    with_inputs: bool = False
    jobs: int = 1
    runner: int = field(default_factory=os.getpid)
    variables: Mapping[str, str] = field(default_factory=dict)


def run_notebooks(notebooks: Sequence[Notebook], given: Mapping[str, object],
                  options: Options | None = None,
                  among: Sequence[Notebook] | None = None) -> tuple[RunRecord, ...]:
    """Execute notebooks in the given order.

    Parameters
    ----------
    notebooks : sequence of Notebook
        In an order in which they can run, as `Notebook.discover` returns them.
    given : mapping of str to object
        Parameter values by name, text or Python values. Each notebook receives those it declares.
    options : Options, optional
        Where and how.
    among : sequence of Notebook, optional
        All notebooks of the project, where inputs are looked for; `notebooks` if not given.

    Returns
    -------
    tuple of RunRecord
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
    chosen = Notebook.with_inputs(notebooks, among) if options.with_inputs else tuple(notebooks)
    values = check_parameters(given, {n.stem: n.parameters for n in chosen})
    project = _digest_project(options.root)
    begun = {n.stem: _begin(n, values[n.stem], options, project) for n in chosen}
    for run_id in {record.run_id for record in begun.values()}:
        runs.RunLock(options.runs / run_id).check_free()
    for notebook in chosen:
        _check_inputs(notebook, among, begun, options.runs)
        if notebook.stem not in named:
            _check_input_parameters(begun[notebook.stem], values[notebook.stem], options.runs)
    with ExitStack() as held:
        for run_id in dict.fromkeys(record.run_id for record in begun.values()):
            held.enter_context(runs.RunLock(options.runs / run_id).hold())
            records.RunRecord.pick_up(options.runs, run_id)
        work = _Work(chosen, named, values, begun, among, options)
        return work.one_by_one() if options.jobs == 1 else work.side_by_side()


def sweep(notebooks: Sequence[Notebook], given: Mapping[str, object],
          swept: Mapping[str, Sequence[str]], options: Options,
          among: Sequence[Notebook]) -> tuple[dict[str, str | float], ...]:
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
    planned: dict[str, dict[str, str]] = {}
    if twice := sorted({"RUN_ID", *given} & set(swept)):
        raise ParameterError(f"{', '.join(twice)} cannot be swept: it is given, or names the run")
    for values in itertools.product(*swept.values()):
        chosen = dict(zip(swept, (value.strip() for value in values), strict=True))
        words = (re.sub(r"[^A-Za-z0-9_.]+", "_", f"{key}{value}") for key, value in chosen.items())
        name = "-".join([str(given.get("RUN_ID", "default")), *words])
        if name in planned or not all(chosen.values()):
            raise ParameterError(f"the sweep has {chosen} twice, or an empty value: expected "
                                 "NAME=VALUE,VALUE with different values")
        check_parameters({**given, **chosen}, {n.stem: n.parameters for n in among})
        planned[name] = chosen
    rows = []
    options = replace(options, with_inputs=True)
    for name, chosen in planned.items():
        options.report(f"run {name}")
        run_notebooks(notebooks, {**given, **chosen, "RUN_ID": name}, options, among)
        row: dict[str, str | float] = {"run": name, **chosen}
        # What these read comes after them.
        states = records.State.of_run(options.runs, name, notebooks)
        for notebook, state in zip(notebooks, states, strict=False):
            measured = Results(options.runs / name / notebook.stem).finished()["metrics"]
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
        done = []
        for notebook in self.chosen:
            label, record = self.label(notebook), self.fresh(notebook)
            if record is None:
                if not self.options.progress:  # a bar shows the name itself
                    self.options.report(label)
                record = _execute(notebook, self.values[notebook.stem], self.options, label)
                self.options.report(f"{label} done in {record.seconds:.1f} s")
            done.append(record)
        return tuple(done)

    def side_by_side(self) -> tuple[RunRecord, ...]:
        """Execute up to `jobs` at once, each when what it reads is there, in own processes.

        After a failure no further one is started, and those that work are waited for.
        """
        threads = max(1, (os.cpu_count() or 1) // self.options.jobs)
        variables = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
        quiet = replace(self.options, report=print, progress=False,
                        variables={**variables, **self.options.variables})
        done: dict[str, RunRecord] = {}
        failed: Exception | None = None
        waiting = list(self.chosen)
        working: dict[Any, _Worker] = {}
        try:
            while working or (waiting and failed is None):
                missing = {n.stem for n in [*waiting, *(w.notebook for w in working.values())]}
                ready = [n for n in waiting if not missing.intersection(n.dependencies(self.among))]
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
                        label = self.label(worker.notebook)
                        self.options.report(f"{label} done in {result.seconds:.1f} s")
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
        if reason := wanted.why_run(self.options.runs, notebook, self.among):
            self.options.report(f"{label} is run: {reason}")
            return None
        self.options.report(f"{label} skipped: complete and fresh")
        return RunRecord.load(self.options.runs, wanted.run_id, notebook.stem)


class _Worker:
    """A process that executes one notebook and says what became of it."""

    def __init__(self, notebook: Notebook, values: Mapping[str, Value], options: Options) -> None:
        context = multiprocessing.get_context("spawn")  # inherits no lock
        self.notebook, self.options = notebook, options
        self.said, says = context.Pipe(duplex=False)
        self.process = context.Process(target=_execute_and_say,
                                       args=(says, notebook, values, options))
        self.process.start()
        says.close()

    def result(self, begun: RunRecord) -> RunRecord | Exception:
        """Wait for the end; the record, or the error that a caller of `_execute` would see."""
        try:
            said: RunRecord | Exception = self.said.recv()
        except EOFError:
            self.process.join()
            failure = CellFailure(0, "", "DeadRunnerError", "the process that executed it ended "
                                  f"with code {self.process.exitcode} (often: out of memory)")
            record = begun.ended(self.options.runs, "failed", failure=failure)
            with suppress(OSError):
                record.save(self.options.runs)
                runs.mark(self.options.runs / record.run_id / record.stem, "failed")
            target = RunRecord.copy_path(self.options.runs, record.run_id, record.stem)
            return RunError(record, target, target.is_file())
        self.process.join()
        return said

    def interrupt(self) -> None:
        """Let it end as on Ctrl-C, with what ran so far kept, and wait for that."""
        with suppress(ProcessLookupError, TypeError):  # it has ended
            os.kill(self.process.pid, signal.SIGINT)  # type: ignore[arg-type]
        self.process.join()


def _execute_and_say(says: Connection, notebook: Notebook, values: Mapping[str, Value],
                     options: Options) -> None:
    """Execute in this process, which ends when the one that holds the run is no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whoever holds the run says when to stop
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        try:
            says.send(_execute(notebook, values, options, notebook.stem))
        except Exception as error:
            says.send(error)


def _end_with_parent() -> None:
    holder_of_run = multiprocessing.parent_process()
    if holder_of_run is not None:
        holder_of_run.join()
        os._exit(1)


def _execute(notebook: Notebook, values: Mapping[str, Value], options: Options,
             label: str = "") -> RunRecord:
    """Execute one notebook with checked parameter values and leave its record.

    Raises
    ------
    RunError
        If it did not run to its end; its record and executed copy are written all the same.
    """
    record = replace(_begin(notebook, values, options, _digest_project(options.root)),
                                 commit=runs.git_commit(options.root), process=options.runner)
    target = RunRecord.copy_path(options.runs, record.run_id, notebook.stem)
    folder = options.runs / record.run_id / notebook.stem
    start = time.perf_counter()
    status, failure, kept = "interrupted", None, False
    workplace = target.parent / f".{notebook.stem}.{options.runner}.part"
    try:
        record.save(options.runs)
        runs.mark(folder, "running")
        failure = _run_in(workplace, notebook, values, options, label, record.profile)
        status = "failed" if failure else "complete"
    except Exception as error:
        _raise_interruption(error)
        status, failure = "failed", CellFailure(0, "", type(error).__name__, str(error))
    finally:  # also on Ctrl-C: keep what the cells printed so far
        with _signals_wait():
            kept = record.keep_copy(options.runs, workplace / "output.ipynb")
            shutil.rmtree(workplace, ignore_errors=True)
            if status != "complete":
                with suppress(OSError):  # "running" is not read either
                    runs.mark(folder, status)
            if failure is not None:
                message = failure.message[:_LONGEST_MESSAGE]
                if files.tells_of_full_disk(message):
                    message += f": {files.FULL_DISK}"
                if not kept and target.is_file():
                    message += " (the executed copy is that of an earlier execution)"
                failure = replace(failure, message=message)
            record = record.ended(options.runs, status, failure=failure,
                                  seconds=round(time.perf_counter() - start, 3))
            with suppress(OSError):  # the disk is full, which the message says
                record.save(options.runs)
    if record.failure:
        raise RunError(record, target, kept)
    return record


def _begin(notebook: Notebook, values: Mapping[str, Value], options: Options,
           project: str) -> RunRecord:
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
        runs.Run.checked_seed(effective.get("SEED", 0))
    except ValueError as error:
        raise ParameterError(f"{notebook.stem}: {error}") from None
    return RunRecord(
        notebook.stem, runs.Run.checked_name(str(effective.get("RUN_ID", "default")), "run id"),
        str(effective.get("PROFILE", "")), "running", effective, notebook.digest,
        project=project, files=_named_files(effective, options.root))


def _digest_project(root: Path) -> str:
    """SHA-256 of the library that is imported and of the authored files below `root/data`.

    Everything that a notebook's results depend on besides its own text and what the manifest
    records; what runs generate (`data/runs`, `data/cache`) is left out.
    """
    data = [p for p in sorted((root / "data").glob("*")) if p.name not in ("runs", "cache")]
    library, digest = files.LIBRARY, hashlib.sha256()
    for path in [f for p in (library, *data) for f in (p, *sorted(p.rglob("*")))]:
        if path.is_file() and "__pycache__" not in path.parts:
            name = path.relative_to(library if path.is_relative_to(library) else root).as_posix()
            digest.update(f"{name}\n{files.digest_file(path)}\n".encode())
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
            found[name] = digests[0] if len(digests) == 1 else files.digest_json(digests)
    return found


def _named_digest(value: str, root: Path) -> str | None:
    """Digest of the file that a text names, "" for a folder, and nothing if it names neither."""
    texts = (value, value.rpartition(":")[0], value.partition(":")[2])
    for path in [place for text in texts if text for place in (Path(text), root / text)]:
        with suppress(OSError, RuntimeError):  # too long for a name, or no such home
            path = path.expanduser()
            if path.exists():
                return files.digest_file(path) if path.is_file() else ""
    return None


def _check_inputs(notebook: Notebook, among: Sequence[Notebook], begun: Mapping[str, RunRecord],
                  folder: Path) -> None:
    """Refuse a notebook whose inputs are not there; those that run in the same go will be."""
    mine = begun[notebook.stem]
    given = mine.parameters.get("SEED")
    seed = None if given is None else int(given)
    for stem in notebook.dependencies(among):
        place = folder / mine.run_id / stem
        if stem in begun or (notebook.needs_nothing(mine.parameters) and not place.exists()):
            continue
        try:
            results = Results(place)
            results.check(results.finished(mine.profile or None, seed), notebook.reads)
        except ArtifactError as error:
            raise ArtifactError(f"{notebook.stem} reads tables of {stem} (--with-inputs runs "
                                f"first what is missing or out of date): {error}") from error


def _check_input_parameters(wanted: RunRecord, values: Mapping[str, Value], folder: Path) -> None:
    """Refuse to replace a complete input only because this command leaves a parameter out."""
    done = None
    with suppress(ArtifactError):
        done = RunRecord.load(folder, wanted.run_id, wanted.stem)
    if done is None or done.status != "complete":
        return
    left_out = {name: done.parameters[name] for name, value in wanted.parameters.items()
                if name not in values and done.parameters.get(name, value) != value}
    if left_out:
        options = " ".join(f"-p {name}={value}" for name, value in left_out.items())
        raise ParameterError(
            f"{wanted.stem} is complete in run {wanted.run_id!r} with other parameters than this "
            f"command gives. Add {options} to use it, or choose another run id.")


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


def _run_in(workplace: Path, notebook: Notebook, values: Mapping[str, Value], options: Options,
            label: str, profile: str) -> CellFailure | None:
    """Execute inside a folder of its own; return the failure instead of raising it."""
    source, output = workplace / "source.ipynb", workplace / "output.ipynb"
    notebook.write(source)
    variables = {"MONITORLAB_RUNS": str(options.runs.resolve()), runs.RUNNER: str(options.runner)}
    with _kernel_environment(profile, {**variables, **options.variables}):
        return _call_papermill(source, output, values, options, label)


def _call_papermill(source: Path, output: Path, values: Mapping[str, Value], options: Options,
                    label: str) -> CellFailure | None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it repeats what we report
    try:
        bar = {"desc": label, "file": sys.stderr, "leave": False,
               "bar_format": "{desc} {bar:24} cell {n_fmt}/{total_fmt} {elapsed}"}
        papermill.execute_notebook(
            str(source), str(output),  # paths: papermill mishandles notebook objects
            parameters=dict(values), kernel_name=KERNEL_NAME, cwd=str(options.root),
            progress_bar=bar if options.progress else False, start_timeout=START_TIMEOUT,
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


# glibc returns large blocks to the system after every tensor; keeping them makes training on a
# CPU 1.3 to 2 times faster, because page faults dominate otherwise. Read before Python starts.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000",
              "MALLOC_TOP_PAD_": "268435456"}
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
    usual = _ALLOCATOR if profile == "gpu" else {**_ALLOCATOR, "HF_HUB_OFFLINE": "1"}
    return _FIXED | {name: value for name, value in usual.items() if name not in existing}


@contextmanager
def _kernel_environment(profile: str, extra: Mapping[str, str] | None = None) -> Iterator[None]:
    """Set the environment that kernels inherit, and restore it afterwards.

    `kernels/python3/kernel.json` of a temporary folder names the running interpreter. The log level
    hides what ipykernel itself logs to the terminal, such as a warning about unencrypted loopback
    traffic once per kernel. Errors of a cell are messages and unaffected.

    Parameters
    ----------
    profile : str
        Name of the profile of the run.
    extra : mapping of str to str, optional
        Further variables, for example `MONITORLAB_RUNS`.
    """
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}",
            "--log-level=CRITICAL", "--HistoryManager.enabled=False"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    with tempfile.TemporaryDirectory(prefix="monitorlab-kernel-") as folder:
        target = Path(folder) / "kernels" / KERNEL_NAME
        target.mkdir(parents=True)
        (target / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        search = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_PATH", "")]))
        variables = _kernel_variables(profile, os.environ) | dict(extra or {})
        variables |= {"JUPYTER_PATH": search, "IPYTHONDIR": folder}
        with mock.patch.dict(os.environ, variables):
            yield


IGNORE_TAG = "nbval-ignore-output"
# Mime types that are compared. conftest.py tells nbval to skip all others.
COMPARED_TYPES = ("text/plain", "text/markdown")
SKIPPED_TYPES = ("text/html", "text/latex", "image/svg+xml", "image/png", "image/jpeg",
                 "application/json", "application/javascript")
WIDGET = "application/vnd.jupyter.widget-view+json"
# A training of some hundred steps turns a last digit into other weights, and processors round
# differently with wider registers. So goldens compute with the registers that all x86 machines of
# the last ten years have. Elsewhere what is trained may leave its tolerances.
_PROCESSOR = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
              "ONEDNN_MAX_CPU_ISA": "AVX2"}

_UNSTABLE = {
    "an absolute path": re.compile(r"(?<![\w.:/<])/(?:[\w.@+-]+/)+[\w.@+-]+|\b[A-Za-z]:\\\w"),
    "a time": re.compile(
        r"\b\d+(?:\.\d+)? ?(?:s|ms|sec|secs|seconds|minutes|it/s)\b|\b\d\d:\d\d\b"),
    "a date": re.compile(r"\b20\d\d-\d\d-\d\d\b"),
    "a memory address": re.compile(r"\b0x[0-9a-f]{6,}\b"),
}


class RegressionError(AssertionError):
    """A golden notebook that cannot be frozen."""


def freeze(notebooks: Sequence[Notebook], golden: Path, options: Options | None = None,
           report: Callable[[str], None] = print) -> tuple[Path, ...]:
    """Execute notebooks with their own defaults and write golden copies.

    Parameters
    ----------
    notebooks : sequence of Notebook
        All of them, in order: a later one reads tables of an earlier one.
    golden : Path
        Folder of the golden notebooks and of `metrics.json`.
    options : Options, optional
        Working folder and time limit; runs and checkpoints go to a temporary folder.
    report : callable
        Receives one line per file.

    Returns
    -------
    tuple of Path
        The golden notebooks. Nothing is written unless all of them succeed.

    Raises
    ------
    RunError
        If a cell fails.
    RegressionError
        If a cell wrote to stderr, or a compared output holds a path, a time, a date or an
        address; the message lists all such cells of the notebook.
    """
    import nbformat

    texts, metrics = {}, {}
    with _isolated_runs() as variables:
        place = Path(variables["MONITORLAB_RUNS"])
        options = replace(options or Options(), runs=place, variables=variables)
        for notebook in notebooks:
            record = _execute(notebook, {}, options, notebook.stem)
            path = RunRecord.copy_path(place, record.run_id, notebook.stem)
            document = _normalize(nbformat.read(path, as_version=4))
            if found := "\n  ".join(_unstable_outputs(document)):
                raise RegressionError(f"{notebook.stem} cannot be frozen:\n  {found}\nLeave it "
                                      f"out of the output, or tag the cell {IGNORE_TAG}.")
            texts[notebook.stem] = nbformat.writes(document) + "\n"
            measured = place / record.run_id / notebook.stem / "metrics.json"
            if measured.is_file():
                metrics[notebook.stem] = json.loads(measured.read_text(encoding="utf-8"))
    for stem, text in texts.items():
        files.write_text_atomic(golden / f"{stem}.ipynb", text)
        report(f"froze {stem}.ipynb")
    _freeze_metrics(metrics, golden / "metrics.json", report)
    return tuple(golden / f"{stem}.ipynb" for stem in texts)


@contextmanager
def _isolated_runs() -> Iterator[dict[str, str]]:
    """Yield environment variables: empty folders for runs and checkpoints, and the processor."""
    with tempfile.TemporaryDirectory(prefix="monitorlab-golden-") as folder:
        variables = {name: str(Path(folder) / part) for name, part in
                     (("MONITORLAB_RUNS", "runs"), ("MONITORLAB_CHECKPOINTS", "checkpoints"))}
        for path in variables.values():
            Path(path).mkdir()
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        yield variables | (_PROCESSOR if x86 else {})


def _normalize(document: Any) -> Any:
    """Return an executed notebook without anything that may differ between two equal runs.

    Raises
    ------
    RegressionError
        If a cell wrote to stderr.
    """
    import nbformat

    cells = []
    for position, cell in enumerate(document.cells):
        kept = nbformat.from_dict({
            "id": f"cell-{position:03d}", "cell_type": cell.cell_type, "source": cell.source,
            "metadata": {"tags": list(tags)} if (tags := cell.metadata.get("tags")) else {}})
        if cell.cell_type == "code":
            if said := "".join(o.text for o in cell.outputs if o.get("name") == "stderr"):
                raise RegressionError(
                    f"cell {position + 1} wrote to stderr: {said.strip().splitlines()[0]!r}. Fix "
                    "the warning at its source; golden notebooks must be silent there.")
            ignored = IGNORE_TAG in cell.metadata.get("tags", [])
            kept["execution_count"] = cell.execution_count
            kept["outputs"] = [] if ignored else _plain_outputs(cell.outputs)
        cells.append(kept)
    kernel = {"display_name": "Python 3", "language": "python", "name": KERNEL_NAME}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.from_dict(
        {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def _unstable_outputs(document: Any) -> list[str]:
    """Say which compared outputs hold a path, a time, a date or an address."""
    found = []
    for number, cell in enumerate(c for c in document.cells if c.cell_type == "code"):
        for text in _texts(cell.outputs):
            for what, pattern in _UNSTABLE.items():
                match = pattern.search(text)
                if match:
                    found.append(f"code cell {number + 1} shows {what}: {match.group(0)!r}")
    return found


def _freeze_metrics(measured: Mapping[str, Mapping[str, float]], path: Path,
                    report: Callable[[str], None] = print) -> None:
    """Write measured values as references, keeping the tolerances that a person has set.

    A new metric gets a tolerance of 5 %, at least 0.01, and a line that asks for a better one.
    """
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    new: dict[str, dict[str, dict[str, float]]] = {}
    for stem, values in sorted(measured.items()):
        new[stem] = {}
        for name, value in sorted(values.items()):
            known = old.get(stem, {}).get(name, {}).get("atol")
            if known is None:
                report(f"new metric {stem}/{name}: check its tolerance in {path.name}")
            atol = known if known is not None else round(max(0.05 * abs(value), 0.01), 4)
            new[stem][name] = {"value": value, "atol": atol}
    files.write_text_atomic(path, json.dumps(new, indent=2) + "\n")


def _plain_outputs(outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Keep streams and the compared texts; a progress bar keeps its last line of text."""
    kept = []
    for output in outputs:
        data = output.get("data", {})
        if WIDGET in data:
            continue
        plain = {key: output[key] for key in ("name", "text", "execution_count") if key in output}
        if data:
            plain["data"] = {kind: data[kind] for kind in COMPARED_TYPES if kind in data}
            plain["metadata"] = {}
            if not plain["data"]:
                continue
        kept.append({"output_type": output["output_type"]} | plain)
    return kept


def _texts(outputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for output in outputs:
        if "text" in output:
            yield str(output["text"])
        for kind in COMPARED_TYPES:
            if kind in output.get("data", {}):
                yield str(output["data"][kind])
