"""Execute notebooks in order, with papermill, in this process.

A source `.py` becomes an `.ipynb`, is executed with the project root as working folder, and ends up
under `<runs>/<run_id>/executed/`. The copy is renamed into place when it has ended, well or badly,
so an older one stays readable until then. After a failure the remaining notebooks are not started.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitorlab.pipeline.kernel import KERNEL_NAME, kernel_environment
from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.parameters import Value, check_parameters
from monitorlab.pipeline.records import (
    Failure,
    Record,
    check_run_id,
    executed_path,
    git_commit,
    now,
    write_record,
)
from monitorlab.pipeline.runs import runs_folder
from monitorlab.pipeline.sources import project_root

START_TIMEOUT = 120
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LONGEST_MESSAGE = 2_000


class RunError(RuntimeError):
    """A notebook that did not run to its end.

    Attributes
    ----------
    record : Record
        The failed execution.
    path : Path
        The executed notebook, with all outputs up to the failure.
    """

    def __init__(self, record: Record, path: Path) -> None:
        self.record = record
        self.path = path
        super().__init__(_describe(record, path))


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
        Receives one line of text when a notebook starts or ends.
    variables : mapping
        Further environment variables for the kernels.
    """

    runs: Path = field(default_factory=runs_folder)
    root: Path = field(default_factory=project_root)
    cell_timeout: int = 3_600
    progress: bool = False
    report: Callable[[str], None] = lambda line: None
    variables: Mapping[str, str] = field(default_factory=dict)


def run_notebooks(
    notebooks: Sequence[Notebook],
    given: Mapping[str, object],
    options: Options | None = None,
) -> tuple[Record, ...]:
    """Execute notebooks in the given order.

    Parameters
    ----------
    notebooks : sequence of Notebook
        In an order in which they can run, as `discover` returns them.
    given : mapping of str to object
        Parameter values by name, text or Python values. Each notebook receives those it declares.
    options : Options, optional
        Where and how.

    Returns
    -------
    tuple of Record
        One per notebook, all complete.

    Raises
    ------
    ParameterError
        Before anything runs: an unknown name or a value of the wrong type.
    RunError
        If a cell failed, took too long or took the kernel with it.
    """
    options = options or Options()
    values = check_parameters(given, {n.stem: n.parameters for n in notebooks})
    records = []
    for position, notebook in enumerate(notebooks, start=1):
        label = f"[{position}/{len(notebooks)}] {notebook.stem}"
        if not options.progress:  # a bar shows the name itself
            options.report(label)
        record = execute(notebook, values[notebook.stem], options, label)
        options.report(f"{label} done in {record.seconds:.1f} s")
        records.append(record)
    return tuple(records)


def execute(
    notebook: Notebook, values: Mapping[str, Value], options: Options, label: str = ""
) -> Record:
    """Execute one notebook with checked parameter values and leave its record.

    Raises
    ------
    RunError
        If it did not run to its end; its record and executed copy are written all the same.
    """
    effective = {p.name: p.default for p in notebook.parameters} | dict(values)
    record = Record(
        stem=notebook.stem,
        run_id=check_run_id(str(effective.get("RUN_ID", "default"))),
        profile=str(effective.get("PROFILE", "")),
        status="running",
        parameters=effective,
        digest=notebook.digest,
        started=now(),
        commit=git_commit(options.root),
        process=os.getpid(),
    )
    target = executed_path(options.runs, record.run_id, notebook.stem)
    write_record(options.runs, record)
    start = time.perf_counter()
    status, failure = "interrupted", None
    workplace = target.parent / f".{notebook.stem}.{os.getpid()}.part"
    try:
        failure = _run_in(workplace, notebook, values, options, label, record.profile)
        status = "failed" if failure else "complete"
    finally:  # also on Ctrl-C: keep what the cells printed so far
        if (workplace / "output.ipynb").is_file():
            (workplace / "output.ipynb").replace(target)
        shutil.rmtree(workplace, ignore_errors=True)
        record = dataclasses.replace(
            record, status=status, failure=failure, finished=now(),
            seconds=round(time.perf_counter() - start, 3),
        )
        write_record(options.runs, record)
    if failure:
        raise RunError(record, target)
    return record


def write_source_notebook(notebook: Notebook, path: Path) -> None:
    """Convert a py:percent file to an unexecuted `.ipynb` with the project's kernel."""
    import jupytext

    document = jupytext.read(notebook.path, fmt="py:percent")
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
) -> Failure | None:
    """Execute inside a folder of its own; return the failure instead of raising it."""
    source, output = workplace / "source.ipynb", workplace / "output.ipynb"
    write_source_notebook(notebook, source)
    variables = {"MONITORLAB_RUNS": str(options.runs.resolve())} | dict(options.variables)
    with kernel_environment(profile, variables):
        return _call_papermill(source, output, values, options, label)


def _call_papermill(
    source: Path, output: Path, values: Mapping[str, Value], options: Options, label: str
) -> Failure | None:
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
    except (DeadKernelError, RuntimeError) as error:
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


def _failure(output: Path, error: str, message: str, source: str | None = None) -> Failure:
    """Find the last cell that started; a dead kernel leaves no error output behind."""
    import nbformat

    cells = nbformat.read(output, as_version=4).cells if output.is_file() else []
    code = [c for c in cells if c.cell_type == "code"]
    begun = [i for i, c in enumerate(code) if c.metadata.get("papermill", {}).get("start_time")]
    number = begun[-1] + 1 if begun else 0
    if source is None:
        source = code[begun[-1]].source if begun else ""
    line = next((text for text in source.splitlines() if text.strip()), "")
    message = _ANSI.sub("", message)[:_LONGEST_MESSAGE]
    return Failure(cell=number, line=line.strip(), error=error, message=message)


def _describe(record: Record, path: Path) -> str:
    failure = record.failure or Failure(0, "", "Error", "unknown")
    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    where = f"cell [{failure.cell}] `{failure.line}`" if failure.cell else "before the first cell"
    return (
        f"{record.stem} failed in {where}\n"
        f"  {failure.error}: {failure.message}\n"
        f"  executed up to there: {shown}"
    )
