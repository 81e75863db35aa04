"""Command line: `python -m monitorlab`.

Everything heavy is imported inside a command, and those that need a module of their own stand in
`commands`, so that help appears at once. Expected errors become one message on stderr and exit code
1 (something failed) or 2 (the command was wrong); a signal gives 128 and its number, and so does a
reader of stdout that closes it. `score` ends with 3 if it wrote a table without a verdict.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import os
import pkgutil
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer.core
from typer import Argument, Option, echo

from monitorlab.commands import CommandError, relative

if TYPE_CHECKING:
    from monitorlab.pipeline.notebooks import Notebook

# Threads of torch that wait for each other should soon yield. On two cores that others use, two
# steps of SmolLM2 took 50 s with the default and 10 s with this; idle ones lose 7 %.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Errors that a user can act on, by name: what was not raised need not be imported.
EXIT_CODES = dict.fromkeys(
    ("ArtifactError", "RegressionError", "RunError", "SourceError", "OSError", "ScenarioError",
     "ExportError", "ScoringError", "StoreError", "RealDataError", "CommandError"), 1)
EXIT_CODES |= dict.fromkeys(
    ("RunIdError", "MonitorError", "ModelError", "JudgedError", "TableFileError", "LeakError",
     "ScoreFileError", "PolicyError", "NotebookError", "ParameterError", "RecordingError",
     "PairError"), 2)
_ELSEWHERE: dict[str, str] = {}  # function below `commands` that carries out a command


class _Commands(typer.core.TyperGroup):
    """Commands, some of other modules, whose expected errors become a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _expected_errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that was asked for, and only now import where it stands."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in _ELSEWHERE and command is not None:
            function = pkgutil.resolve_name(f"monitorlab.commands.{_ELSEWHERE[name]}")
            found = typer.main.CommandInfo(name, callback=_with_options(function),
                                           help=command.help,
                                           context_settings=dict(command.context_settings))
            command = typer.main.get_command_from_info(
                found, pretty_exceptions_short=False, rich_markup_mode=None)
        return name, command, rest


app = typer.Typer(name="monitorlab", cls=_Commands, add_completion=False, rich_markup_mode=None,
                  pretty_exceptions_enable=False)


def _command(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a command; its help is the first part of the function's docstring."""
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        words = (inspect.getdoc(function) or "").partition("\n\nParameters\n")[0]
        app.command(name, help=words)(_with_options(function))
        return function

    return register


def _elsewhere(name: str, function: str, words: str, **settings: Any) -> None:
    """List a command that a function below `commands` carries out, and say what it does."""
    _ELSEWHERE[name] = function
    app.command(name, help=words, context_settings=settings)(lambda: None)


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function be called from a command line, as its signature and its docstring say.

    What stands before a star is an argument, what stands behind it an option. A parameter that is
    a dataclass gives way to its fields, as options. An annotation may say more, but for the help.
    """
    signature, meanings = inspect.signature(function, eval_str=True), _meanings(function)
    parameters: list[inspect.Parameter] = []
    made: dict[str, Any] = {}
    for one in signature.parameters.values():
        if dataclasses.is_dataclass(one.annotation):
            made[one.name] = one.annotation
            meanings |= _meanings(made[one.name])
            fields = inspect.signature(made[one.name], eval_str=True).parameters.values()
            parameters += [field.replace(kind=field.KEYWORD_ONLY) for field in fields]
        else:
            parameters.append(one)
    parameters = [_described(one, meanings[one.name]) if one.name in meanings else one
                  for one in parameters]

    def called(**given: Any) -> Any:
        for name, kind in made.items():
            given[name] = kind(**{field.name: given.pop(field.name)
                                  for field in dataclasses.fields(kind)})
        return function(**given)

    called.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[one.replace(kind=one.KEYWORD_ONLY) for one in parameters])
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def _described(one: inspect.Parameter, meaning: str) -> inspect.Parameter:
    """Annotate a parameter with the option or argument that it is; a flag has no opposite."""
    kind, said = one.annotation, None
    if get_origin(kind) is Annotated:
        kind, said = get_args(kind)
    elif kind is bool and not one.default:
        said = Option(f"--{one.name.replace('_', '-')}")
    elif one.kind is one.KEYWORD_ONLY:
        said = Option()
    said = copy.copy(said or Argument())
    said.help = meaning
    return one.replace(annotation=Annotated[kind, said])


def _meanings(documented: object) -> dict[str, str]:
    """Return what a NumPy docstring says of each parameter or attribute, on one line."""
    found: dict[str, str] = {}
    name = ""
    section = (inspect.getdoc(documented) or "").partition("\n----------\n")[2]
    for line in section.partition("\n\n")[0].splitlines():
        if line.startswith(" "):
            found[name] = f"{found[name]} {line.strip()}".strip()
        else:
            name = line.partition(" : ")[0]
            found[name] = ""
    return found


RunId = Annotated[str, Option("--run-id", help="Folder under data/runs and reports.")]
Names = Annotated[list[str] | None, Argument(
    help="Numbers or names (06, 07_online_monitoring); all if none.")]


@app.callback(invoke_without_command=True)
def _main(context: typer.Context) -> None:
    """Reliable monitoring of LLMs: run the notebooks, render the report, check the results."""
    if context.invoked_subcommand is None:
        echo(context.get_help())


@_command("run")
def _run(
    notebooks: Names = None, *, profile: str = "", run_id: RunId = "default",
    seed: int | None = None,
    parameter: Annotated[
        list[str] | None, Option("--parameter", "-p", metavar="NAME=VALUE")] = None,
    timeout: Annotated[int | None, Option(min=0, show_default=False)] = None,
    with_inputs: bool = False, resume: bool = False,
    jobs: Annotated[int, Option("--jobs", "-j", min=1)] = 1,
    swept: Annotated[
        list[str] | None, Option("--sweep", metavar="NAME=VALUE,VALUE")] = None,
) -> None:
    """Execute notebooks in order and keep their outputs.

    Parameters
    ----------
    profile : str
        tiny, cpu, overnight or gpu. [default: the notebook's]
    seed : int, optional
        The one seed. [default: the notebook's]
    parameter : list of str, optional
        A parameter of a notebook, repeatable; see `params`.
    timeout : int, optional
        Seconds one cell may take, 0 for no limit. [default: 3600 in tiny and cpu, no limit in
        overnight and gpu, where one cell trains everything]
    with_inputs : bool
        Run first what these notebooks need and is not complete and fresh.
    resume : bool
        Skip what is complete and fresh: same text, parameters, inputs, library.
    jobs : int
        Notebooks at once, where none reads what the other writes.
    swept : list of str, optional
        Values of a parameter, repeatable: one run for every combination, with its inputs, and a
        table that compares their metrics.
    """
    from monitorlab.pipeline import runner
    from monitorlab.pipeline.profiles import PROFILES
    from monitorlab.storage.settings import ParameterError, Setting

    given: dict[str, object] = dict(Setting.split(parameter or []))
    options = {"PROFILE": profile or None, "SEED": seed,
               "RUN_ID": run_id if run_id != "default" else None}
    for name, value in options.items():
        if value is not None and str(given.setdefault(name, value)) != str(value):
            raise ParameterError(f"{name} is given twice: {value} and {given[name]}")
    if given.get("PROFILE", "tiny") not in PROFILES:
        raise ParameterError(f"unknown profile {given['PROFILE']!r}: expected one of "
                             + ", ".join(PROFILES))
    if timeout is None:
        timeout = 3_600 if given.get("PROFILE", "tiny") in ("tiny", "cpu") else 0
    found = _found()
    selected = _found(notebooks)
    how = runner.Options(cell_timeout=timeout, progress=sys.stderr.isatty(), report=echo,
                         resume=resume, with_inputs=with_inputs, jobs=jobs)
    if swept:
        values = {name: text.split(",") for name, text in Setting.split(swept).items()}
        _write_sweep(runner.sweep(selected, given, values, how, found), given, list(values))
        return
    records = runner.run_notebooks(selected, given, how, among=found)
    actual = records[0].run_id if records else run_id
    echo(f"Run {actual!r} is complete. Render it with: "
         f"python -m monitorlab report --run-id {actual}")


def _write_sweep(rows: Sequence[Mapping[str, str | float]], given: Mapping[str, object],
                 swept: Sequence[str]) -> None:
    """Write what a sweep measured as a CSV table and a page below `reports`."""
    import pandas as pd
    from markupsafe import Markup

    from monitorlab.display.tables import Table
    from monitorlab.report.page import render_page
    from monitorlab.storage.files import write_text_atomic

    name = f"{given.get('RUN_ID', 'default')}-sweep"
    folder = _project() / "reports" / name
    frame = pd.DataFrame(rows)
    write_text_atomic(folder / "metrics.csv", frame.to_csv(index=False))
    table = Table(frame.set_index("run").T.rename_axis("").reset_index(), 4)
    write_text_atomic(folder / "index.html", render_page(
        "sweep.html.j2", name=name, swept=swept, rows=rows,
        table=Markup(table.html())))
    echo(table.text())
    echo(f"Open {relative(folder / 'index.html')}, or read {relative(folder)}/metrics.csv")


@_command("students")
def _students(to: Path, notebooks: Names = None) -> None:
    """Write notebooks for a class: as .ipynb, without outputs and without the folded answers.

    Parameters
    ----------
    to : Path
        Folder for the notebooks of a class.
    """
    for notebook in _found(notebooks):
        notebook.write(to.expanduser() / f"{notebook.stem}.ipynb", answers=False)
    echo(f"Open them with: jupyter lab {relative(to.expanduser())}")


@_command("params")
def _params(notebook: str = "") -> None:
    """List parameters with type, default and meaning.

    Parameters
    ----------
    notebook : str
        Number or name; all if none.
    """
    from monitorlab.pipeline.notebooks import describe_all

    echo(describe_all({n.stem: n.parameters for n in _found([notebook] if notebook else [])}))


@_command("report")
def _report(*, run_id: RunId = "default") -> None:
    """Render a run to reports/RUN_ID/index.html; exit code 1 if a part of it cannot be read."""
    from monitorlab.pipeline.runs import runs_folder
    from monitorlab.report.page import render_report

    reports = _project() / "reports"
    written = render_report(run_id, _found(strict=False), runs_folder(), reports)
    for problem in written.problems:
        echo(f"formula shown as TeX source: {problem}", err=True)
    count = len(written.pages) + len(written.beside)
    echo(f"{count} {'page' if count == 1 else 'pages'}. Open {relative(written.index)}")
    if written.broken:
        raise CommandError("not all of it can be read:\n  " + "\n  ".join(written.broken))


@_command("status")
def _status(*, run_id: str = "") -> None:
    """Show which runs exist and how each notebook stands.

    Parameters
    ----------
    run_id : str
        Only this run. [default: all]
    """
    from monitorlab.pipeline.records import State, list_runs
    from monitorlab.pipeline.runs import RunIdError, runs_folder

    runs, known = runs_folder(), list_runs(runs_folder())
    if run_id and run_id not in known:
        raise RunIdError(f"no run {run_id!r}. Runs: {', '.join(known) or 'none yet'}")
    if not known:
        echo("No runs yet. Make one with: python -m monitorlab run")
    for name in [run_id] if run_id else known:
        echo(f"run {name}")
        for state in State.of_run(runs, name, _found(strict=False)):
            done, headline = state.record, " ".join(state.headline.values())
            when = done.started[:16].replace("T", " ") if done else ""
            seconds = f"{done.seconds:8.1f} s" if done else " " * 10
            echo(f"  {state.notebook.stem:<32} {state.status:<11} {when:<16} {seconds}  "
                 f"{headline}".rstrip())
            if state.reason:
                echo(f"      {state.reason.splitlines()[0]}")


@_command("freeze")
def _freeze(*, readme_only: bool = False) -> None:
    """Renew the golden notebooks that tests compare with.

    Parameters
    ----------
    readme_only : bool
        Only regenerate notebooks/README.md.
    """
    from monitorlab.pipeline import runner
    from monitorlab.report.page import render_page
    from monitorlab.storage.files import write_text_atomic

    found = _found()
    readme = render_page("notebooks.md.j2", notebooks=found)
    write_text_atomic(_project() / "notebooks" / "README.md", readme)
    echo("wrote notebooks/README.md")
    if not readme_only:
        options = runner.Options(progress=sys.stderr.isatty())
        runner.freeze(found, _project() / "tests" / "golden", options, report=echo)


@_command("scenarios")
def _scenarios(cell: str = "", *, pairs: int = 2, seed: int = 2026) -> None:
    """Check scenario files: their form, and pairs composed from them, executed and solved.

    Parameters
    ----------
    cell : str
        A cell that has scenarios; all if none.
    pairs : int
        Pairs to compose and check per scenario.
    seed : int
        Seed of the pairs.
    """
    from monitorlab.benchmark.writing.corpus import inspect_cells

    if inspect_cells([cell] if cell else None, pairs, seed, echo):
        raise typer.Exit(1)


@_command("pairs")
def _pairs(files: list[Path] | None = None, *, run: bool = True) -> None:
    """Check written pairs: their form, what proves each label, and what gives it away.

    Parameters
    ----------
    files : list of Path, optional
        Files or folders of written pairs; data/pairs if none.
    run : bool
        Run the programs and solvers.
    """
    from monitorlab.benchmark.written import WrittenPair, inspect_pairs

    if inspect_pairs(WrittenPair.load(files), echo, run):
        raise typer.Exit(1)


_elsewhere("construct", "construct:construct_pairs",
           "Let a model make pairs of one's own; the same command goes on where it stopped.")


@_command("export")
def _export(to: Path, *, run_id: RunId = "default") -> None:
    """Write the benchmark of a run as a Hugging Face dataset folder with its card.

    Parameters
    ----------
    to : Path
        Folder to write; must not exist, or be an export.
    """
    from monitorlab.benchmark.export import export_run
    from monitorlab.pipeline.runs import runs_folder

    rows = export_run(runs_folder() / run_id, to)
    echo(f"{rows} samples written to {relative(to)}")


_elsewhere(
    "score", "score:score_samples",
    """Judge a file of samples with a monitor; the same command goes on where it stopped.

    Ends with 0 if at least one verdict could be read (the summary counts the others), 1 if scoring
    was given up, 2 if the command was wrong, 3 if a table was written and holds no verdict.
    """, allow_extra_args=True, ignore_unknown_options=True)
_elsewhere("compare", "compare:compare_files",
           "Compare monitors: rates, paired tests, AUROC, and what failed verdicts could change.")
_elsewhere(
    "score-steps", "score_steps:score_steps",
    "Score every step of solutions or conversations; the same command goes on where it stopped.")
_elsewhere(
    "calibrate", "calibrate:calibrate_file",
    "Make a policy for `watch` from a log: statistic, threshold, what to expect, and a page.")
_elsewhere(
    "watch", "watch:watch_stdin",
    "Read JSON lines with id and score, write alarms as JSON lines; 1 if a line was of no use.")
_elsewhere("reread", "score:reread_file",
           "Read stored replies again with today's rules, without a call; the old files stay.")
_elsewhere("finetune", "finetune:finetune_file",
           "Train a monitor on labelled samples; the same command goes on where it stopped.")


@_command("monitors")
def _monitors(name: str = "") -> None:
    """List the monitors that `score` knows, or the settings of one with their meaning.

    Parameters
    ----------
    name : str
        Kind or monitor, such as api or gpt-5-mini: list its settings.
    """
    from monitorlab.monitors.build import describe

    echo(describe(name))


@_command("fetch")
def _fetch(keys: list[str] | None = None) -> None:
    """Download and verify the openly licensed data files.

    Parameters
    ----------
    keys : list of str, optional
        Keys of data/sources.toml; all if none.
    """
    from monitorlab.storage import sources

    paths = {key: sources.fetch(key) for key in keys} if keys else sources.fetch_all()
    for key, path in paths.items():
        echo(f"{key}: {relative(path)}")


def _project() -> Path:
    from monitorlab.storage.sources import project_root

    return project_root()


def _found(names: Sequence[str] | None = None, strict: bool = True) -> tuple[Notebook, ...]:
    """Notebooks of the project, those of these names or all."""
    from monitorlab.pipeline.notebooks import Notebook, NotebookError

    folder = _project() / "notebooks"
    found = Notebook.discover(folder, strict)
    if strict and not found:
        raise NotebookError(f"no notebooks NN_name.py in {relative(folder)}: set MONITORLAB_ROOT "
                            "to a copy of the repository, which has them")
    return Notebook.select(found, names or ())


@contextlib.contextmanager
def _expected_errors() -> Iterator[None]:
    """Turn errors that a user can act on into a message and an exit code."""
    stopped = [signal.SIGINT]
    try:
        with _ends_like_ctrl_c(stopped):
            yield
    except KeyboardInterrupt:
        _stop("interrupted; what ran so far is kept", 128 + stopped[-1])
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            raise typer.Exit(128 + signal.SIGPIPE) from None
        for kind in type(error).__mro__:
            ours = kind is OSError or kind.__module__.startswith("monitorlab.")
            if ours and kind.__name__ in EXIT_CODES:
                _stop(str(error), EXIT_CODES[kind.__name__])
        raise


def _nobody_reads() -> bool:
    """Say whether what reads stdout has closed it, as `head` does; then nothing more is written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file, or no `poll`
        stdout, watched = sys.stdout.fileno(), select.poll()
        watched.register(stdout, 0)
        if watched.poll(0):
            with open(os.devnull, "wb") as nothing:  # or the interpreter complains at its end
                os.dup2(nothing.fileno(), stdout)
            return True
    return False


@contextlib.contextmanager
def _ends_like_ctrl_c(stopped: list[signal.Signals]) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does; `stopped` receives which it was.

    A signal that is ignored (`nohup`) stays ignored, and processes of `torchrun` end at once: they
    may be waiting for one another inside a library, where Python hears nothing.
    """
    def stop(number: int, _: object) -> None:
        stopped.append(signal.Signals(number))
        raise KeyboardInterrupt

    ours = []
    if threading.current_thread() is threading.main_thread() and "LOCAL_RANK" not in os.environ:
        names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        ours = [n for n in map(signal.Signals.__getitem__, names)
                if signal.getsignal(n) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _stop(message: str, code: int) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        echo(f"error: {message}", err=True)
    raise typer.Exit(code)
