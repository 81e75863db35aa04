"""Command line: `python -m monitorlab`.

Everything heavy is imported inside a command, so that help appears at once. Expected errors become
one message on stderr and exit code 1 (something failed) or 2 (the command was wrong); a signal
gives 128 and its number, and so does a reader of stdout that closes it. `score` ends with 3 if it
wrote a table without a verdict.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.core

if TYPE_CHECKING:
    from monitorlab.online.policy import Policy
    from monitorlab.pipeline.notebooks import Notebook
    from monitorlab.pipeline.records import State

# Threads of torch that wait for each other should soon yield. On two cores that others use, two
# steps of SmolLM2 took 50 s with the default and 10 s with this; idle ones lose 7 %.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

# Errors that a user can act on, by name: what was not raised need not be imported.
EXIT_CODES = {
    "ArtifactError": 1, "RegressionError": 1, "RunError": 1, "SourceError": 1, "OSError": 1,
    "ScenarioError": 1, "ExportError": 1, "ScoringError": 1, "StoreError": 1,
    "RunIdError": 2, "MonitorError": 2, "ModelError": 2, "JudgedError": 2,
    "TableFileError": 2, "LeakError": 2, "ScoreFileError": 2, "PolicyError": 2,
    "NotebookError": 2, "ParameterError": 2, "RecordingError": 2, "RealDataError": 1,
    "QuestionError": 2, "PairError": 2, "ConstructionError": 1,
}


class _Commands(typer.core.TyperGroup):
    """Commands whose expected errors become one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        with _expected_errors():
            return super().invoke(ctx)


app = typer.Typer(
    name="monitorlab",
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

NO_VERDICT = 3

RunId = Annotated[str, typer.Option("--run-id", help="Folder under data/runs and reports.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Numbers or names (06, 07_online_monitoring); all if none."),
]


@app.callback(invoke_without_command=True)
def _main(context: typer.Context) -> None:
    """Reliable monitoring of LLMs: run the notebooks, render the report, check the results."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("run")
def _run(
    notebooks: Names = None,
    profile: Annotated[
        str, typer.Option(help="tiny, cpu, overnight or gpu. [default: the notebook's]")
    ] = "",
    run_id: RunId = "default",
    seed: Annotated[
        int | None, typer.Option(help="The one seed. [default: the notebook's]")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE",
                     help="A parameter of a notebook, repeatable; see `params`."),
    ] = None,
    timeout: Annotated[int | None, typer.Option(
        help="Seconds one cell may take, 0 for no limit. [default: 3600 in tiny and cpu, no limit "
             "in overnight and gpu, where one cell trains everything]", min=0, show_default=False)
    ] = None,
    with_inputs: Annotated[bool, typer.Option(
        "--with-inputs", help="Run first what these notebooks need and is not complete and fresh."
    )] = False,
    resume: Annotated[bool, typer.Option(
        "--resume", help="Skip what is complete and fresh: same text, parameters, inputs, library."
    )] = False,
    jobs: Annotated[int, typer.Option(
        "--jobs", "-j", help="Notebooks at once, where none reads what the other writes.", min=1
    )] = 1,
    swept: Annotated[list[str] | None, typer.Option(
        "--sweep", metavar="NAME=VALUE,VALUE",
        help="Values of a parameter, repeatable: one run for every combination, with its inputs, "
             "and a table that compares their metrics.")] = None,
) -> None:
    """Execute notebooks in order and keep their outputs."""
    from monitorlab.pipeline.notebooks import select
    from monitorlab.pipeline.runner import Options, run_notebooks, sweep
    from monitorlab.storage.settings import split_assignments

    found = _discovered()
    selected = select(found, notebooks or [])
    given = _given(profile, run_id, seed, parameter or [])
    if timeout is None:
        timeout = 3_600 if given.get("PROFILE", "tiny") in ("tiny", "cpu") else 0
    options = Options(cell_timeout=timeout, progress=sys.stderr.isatty(), report=typer.echo,
                      resume=resume, with_inputs=with_inputs, jobs=jobs)
    if swept:
        values = {k: v.split(",") for k, v in split_assignments(swept).items()}
        _write_sweep(sweep(selected, given, values, options, found), given, list(values))
        return
    records = run_notebooks(selected, given, options, among=found)
    actual = records[0].run_id if records else run_id
    typer.echo(f"Run {actual!r} is complete. Render it with: "
               f"python -m monitorlab report --run-id {actual}")


def _write_sweep(
    rows: Sequence[Mapping[str, str | float]], given: Mapping[str, object], swept: Sequence[str]
) -> None:
    """Write what a sweep measured as a CSV table and a page below `reports`."""
    import pandas as pd
    from markupsafe import Markup

    from monitorlab.display.tables import Table
    from monitorlab.report.page import render_page
    from monitorlab.storage.files import write_text_atomic

    name = f"{given.get('RUN_ID', 'default')}-sweep"
    folder = _notebooks_folder().parent / "reports" / name
    frame = pd.DataFrame(rows)
    write_text_atomic(folder / "metrics.csv", frame.to_csv(index=False))
    table = Table(frame.set_index("run").T.rename_axis("").reset_index(), 4)
    write_text_atomic(folder / "index.html", render_page(
        "sweep.html.j2", name=name, swept=swept, rows=rows,
        table=Markup(table.html())))
    typer.echo(table.text())
    typer.echo(f"Open {_relative(folder / 'index.html')}, or read {_relative(folder)}/metrics.csv")


@app.command("students")
def _students(
    to: Annotated[Path, typer.Argument(help="Folder for the notebooks of a class.")],
    notebooks: Names = None,
) -> None:
    """Write notebooks for a class: as .ipynb, without outputs and without the folded answers."""
    from monitorlab.pipeline.notebooks import select
    from monitorlab.pipeline.runner import write_notebook

    selected = select(_discovered(), notebooks or [])
    for notebook in selected:
        write_notebook(notebook, to.expanduser() / f"{notebook.stem}.ipynb", answers=False)
    typer.echo(f"Open them with: jupyter lab {_relative(to.expanduser())}")


@app.command("params")
def _params(
    notebook: Annotated[str, typer.Argument(help="Number or name; all if none.")] = "",
) -> None:
    """List parameters with type, default and meaning."""
    from monitorlab.pipeline.notebooks import describe_all, select

    selected = select(_discovered(), [notebook] if notebook else [])
    typer.echo(describe_all({n.stem: n.parameters for n in selected}))


@app.command("report")
def _report(run_id: RunId = "default") -> None:
    """Render a run to reports/RUN_ID/index.html; exit code 1 if a part of it cannot be read."""
    from monitorlab.pipeline.notebooks import survey_notebooks
    from monitorlab.pipeline.runs import runs_folder
    from monitorlab.report.page import render_report

    found = survey_notebooks(_notebooks_folder())
    written = render_report(run_id, found, runs_folder(), _notebooks_folder().parent / "reports")
    for problem in written.problems:
        typer.echo(f"formula shown as TeX source: {problem}", err=True)
    count = len(written.pages) + len(written.beside)
    pages = "1 page" if count == 1 else f"{count} pages"
    typer.echo(f"{pages}. Open {_relative(written.index)}")
    if written.broken:
        _stop("not all of it can be read:\n  " + "\n  ".join(written.broken), 1)


@app.command("status")
def _status(
    run_id: Annotated[str, typer.Option("--run-id", help="Only this run. [default: all]")] = "",
) -> None:
    """Show which runs exist and how each notebook stands."""
    from monitorlab.pipeline.notebooks import survey_notebooks
    from monitorlab.pipeline.records import RunIdError, list_runs, run_states
    from monitorlab.pipeline.runs import runs_folder

    runs, known = runs_folder(), list_runs(runs_folder())
    if run_id and run_id not in known:
        raise RunIdError(f"no run {run_id!r}. Runs: {', '.join(known) or 'none yet'}")
    if not known:
        typer.echo("No runs yet. Make one with: python -m monitorlab run")
    for name in [run_id] if run_id else known:
        typer.echo(f"run {name}")
        for state in run_states(runs, name, survey_notebooks(_notebooks_folder())):
            typer.echo(_status_line(state))


@app.command("freeze")
def _freeze(
    readme_only: Annotated[
        bool, typer.Option("--readme-only", help="Only regenerate notebooks/README.md.")
    ] = False,
) -> None:
    """Renew the golden notebooks that tests compare with."""
    from monitorlab.pipeline import regression
    from monitorlab.pipeline.notebooks import readme_text
    from monitorlab.pipeline.runner import Options
    from monitorlab.storage.files import write_text_atomic
    from monitorlab.storage.sources import project_root

    found = _discovered()
    write_text_atomic(_notebooks_folder() / "README.md", readme_text(found))
    typer.echo("wrote notebooks/README.md")
    if not readme_only:
        golden = project_root() / "tests" / "golden"
        options = Options(progress=sys.stderr.isatty())
        regression.freeze(found, golden, options, report=typer.echo)


@app.command("scenarios")
def _scenarios(
    cell: Annotated[str, typer.Argument(help="A cell that has scenarios; all if none.")] = "",
    pairs: Annotated[int, typer.Option(help="Pairs to compose and check per scenario.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the pairs.")] = 2026,
) -> None:
    """Check scenario files: their form, and pairs composed from them, executed and solved."""
    from monitorlab.benchmark.writing.corpus import inspect_cells

    faults = inspect_cells([cell] if cell else None, pairs, seed, typer.echo)
    if faults:
        raise typer.Exit(1)


@app.command("pairs")
def _pairs(
    files: Annotated[list[Path] | None, typer.Argument(
        help="Files or folders of written pairs; data/pairs if none.")] = None,
    run: Annotated[bool, typer.Option(help="Run the programs and solvers.")] = True,
) -> None:
    """Check written pairs: their form, what proves each label, and what gives it away."""
    from monitorlab.benchmark.written import inspect_pairs, load_pairs

    if inspect_pairs(load_pairs(files), typer.echo, run):
        raise typer.Exit(1)


@app.command("construct")
def _construct(
    generator: Annotated[str, typer.Option(
        help="What answers: api:MODEL, hf:NAME_OR_FOLDER or smollm2.")],
    out: Annotated[Path, typer.Option(
        help="Folder of samples.jsonl, dropped.csv, how they were made, and all answers.")],
    cells: Annotated[str, typer.Option(help="Names, with commas. [default: all six]")] = "",
    option: Annotated[list[str] | None, typer.Option(
        "--option", "-o", metavar="NAME=VALUE",
        help="A setting of the generator, repeatable, such as temperature=1, max_tokens=2048, "
             "device=cuda, dtype=bfloat16, cost_cap_usd=5; `monitors NAME` lists them.")] = None,
    source: Annotated[list[str] | None, typer.Option(
        help="Questions, repeatable: pairs (the requests of all six cells), a file in their form, "
             "gsm8k, truthfulqa, humaneval, mbpp; mmlu, gpqa, aime as NAME@COMMIT or NAME@FOLDER. "
             "[default: pairs]")] = None,
    judge: Annotated[str, typer.Option(
        help="Monitor that judges answers which no test or letter decides, with its settings as "
             "-o NAME=VALUE in the same text.")] = "",
    tries: Annotated[int, typer.Option(help="Answers per question at most.", min=2)] = 5,
    limit: Annotated[int, typer.Option(
        help="Questions per cell, drawn at random; 0 is all.", min=0)] = 0,
    max_calls: Annotated[int, typer.Option(
        help="Answers that this run may ask for; 0 is any number.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Draws options, cues and the limit.")] = 2026,
) -> None:
    """Let a model make pairs of one's own; the same command goes on where it stopped."""
    from monitorlab.commands.construct import construct_pairs

    construct_pairs(generator, out.expanduser(), cells, option or (), source or (), judge, tries,
                    limit, max_calls, seed, typer.echo)
    typer.echo(f"Samples: {_relative(out / 'samples.jsonl')}. Next: python -m monitorlab score "
               f"--monitor keywords --samples {_relative(out / 'samples.jsonl')}, or run 03 -p "
               f"SAMPLES_FILE={_relative(out / 'samples.jsonl')}")


@app.command("export")
def _export(
    to: Annotated[Path, typer.Argument(help="Folder to write; must not exist, or be an export.")],
    run_id: RunId = "default",
) -> None:
    """Write the benchmark of a run as a Hugging Face dataset folder with its card."""
    from monitorlab.benchmark.export import export_run
    from monitorlab.pipeline.runs import runs_folder

    rows = export_run(runs_folder() / run_id, to)
    typer.echo(f"{rows} samples written to {_relative(to)}")


@app.command("score", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def _score(
    context: typer.Context,
    monitor: Annotated[str, typer.Option(
        help="keywords, hf:NAME, api:MODEL, file.py:function, ...; see `monitors`.")],
    samples: Annotated[Path, typer.Option(
        help="CSV, JSON lines, JSON or parquet with request, response and, if known, sample_id "
             "and label.")],
    option: Annotated[list[str] | None, typer.Option(
        "--option", "-o", metavar="NAME=VALUE",
        help="A setting of the monitor, repeatable, also spelled --NAME VALUE; `monitors NAME` "
             "lists them.")] = None,
    out: Annotated[Path | None, typer.Option(
        help="Table of verdicts: .csv, .jsonl or .parquet. "
             "[default: verdicts/SAMPLES-MONITOR.csv]")] = None,
    force: Annotated[bool, typer.Option(
        "--force", help="Replace a table that was made otherwise.")] = False,
    store: Annotated[Path | None, typer.Option(
        help="Answers, kept as they arrive. [default: data/cache/verdicts/MONITOR.jsonl]")] = None,
    draws: Annotated[int, typer.Option(help="How often to ask about each sample.")] = 1,
    limit: Annotated[int, typer.Option(help="Only the first samples; 0 is all.")] = 0,
    patience: Annotated[int, typer.Option(
        help="Samples or batches that may fail in a row before giving up.")] = 5,
    engine: Annotated[Literal["process", "ray"], typer.Option(
        help="ray: --workers processes on this machine, each with the monitor. Ray opens ports to "
             "the network; read lib/SCALE.md first.")] = "process",
    workers: Annotated[int | None, typer.Option(
        help="Processes of --engine ray; else the monitor's setting of that name.")] = None,
) -> None:
    """Judge a file of samples with a monitor; the same command goes on where it stopped.

    Ends with 0 if at least one verdict could be read (the summary counts the others), 1 if scoring
    was given up, 2 if the command was wrong, 3 if a table was written and holds no verdict.
    """
    from monitorlab.benchmark.sample_files import load_samples
    from monitorlab.commands.score import Request, describe, score_file
    from monitorlab.monitors.build import build_monitor, spelled_settings
    from monitorlab.storage.settings import split_assignments

    on_ray = engine == "ray"
    if on_ray and not workers:
        raise typer.BadParameter("say how many processes, as in --workers 4", param_hint="--engine")
    request = Request(samples.expanduser(), out, store, draws, patience, limit, force,
                      (workers or 0) if on_ray else 0)
    given = [split_assignments(option or []), *spelled_settings(context.args)]
    if workers is not None and not on_ray:
        given.append({"workers": str(workers)})
    build = functools.partial(build_monitor, monitor, *given)
    frame = load_samples(request.samples, typer.echo)  # first: it is quick, a model is not
    summary = score_file(build(), frame, request, typer.echo, build)
    typer.echo(describe(summary))
    if not summary.parsed:
        raise typer.Exit(NO_VERDICT)


@app.command("compare")
def _compare(
    tables: Annotated[list[Path], typer.Argument(
        help="Tables of verdicts on the same samples, as `score` or another tool writes them.")],
    samples: Annotated[Path, typer.Option(help="The labelled samples that were judged.")],
    by: Annotated[list[str] | None, typer.Option(
        help="Column of the samples that makes groups, repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(
        help="New folder for all figures as CSV tables.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the resamples behind AUROC.")] = 2026,
    columns: Annotated[str, typer.Option(
        help="Columns of tables that another tool wrote, as in "
             "sample_id:id,verdict:flagged,score:p; true, yes and unsafe are alarms.")] = "",
    bound: Annotated[float | None, typer.Option(
        help="Two tables of one monitor, the earlier one first: by how much MR and FAR may have "
             "risen. Exit code 0 if both rose by less, 2 if one rose by more (or the command was "
             "wrong), 1 if these samples cannot tell.")] = None,
) -> None:
    """Compare monitors: rates, paired tests, AUROC, and what failed verdicts could change."""
    from monitorlab.benchmark.sample_files import load_samples
    from monitorlab.commands.compare import (
        compare_tables,
        describe_change,
        describe_comparison,
        read_tables,
        write_tables,
    )

    verdicts = read_tables(tables, columns)
    frame = load_samples(samples.expanduser(), typer.echo)
    found = compare_tables(verdicts, frame, by or [], seed=seed, report=typer.echo)
    if out is not None:
        write_tables(found, out.expanduser())
    typer.echo(describe_comparison(found))
    if bound is not None:
        standing, words = describe_change(found, bound)
        typer.echo(f"\n{words}")
        raise typer.Exit(standing)


@app.command("score-steps")
def _score_steps(
    source: Annotated[str, typer.Argument(
        help="Problems, solutions or conversations: a file, or processbench_gsm8k, "
             "processbench_math, tau_bench, gsm8k, math, red_team.")],
    verifier: Annotated[str, typer.Option(
        help="What scores steps: logprob:NAME, prm:NAME, guard:NAME (on the hub, a folder, or "
             "smollm2) or tool-calls.")],
    out: Annotated[Path, typer.Option(
        help="Table: .csv or .parquet with a row per step, .jsonl with a row per sequence.")],
    generator: Annotated[str, typer.Option(
        help="What solves problems that have no steps: hf:NAME, smollm2, api:MODEL; settings "
             "follow as -o NAME=VALUE in the same text.")] = "",
    check: Annotated[str, typer.Option(
        help="What compares final answers with references: boxed, exact, or a monitor.")] = "",
    option: Annotated[list[str] | None, typer.Option(
        "--option", "-o", metavar="NAME=VALUE",
        help="A setting of the verifier or of the reading, repeatable, such as device=cuda, "
             "dtype=bfloat16, limit=100, turns=both, source_revision=COMMIT.")] = None,
    force: Annotated[bool, typer.Option(
        "--force", help="Replace a table that was made otherwise.")] = False,
) -> None:
    """Score every step of solutions or conversations; the same command goes on where it stopped."""
    from monitorlab.commands.score_steps import StepRequest, score_steps

    score_steps(StepRequest(source, verifier, out.expanduser(), generator, check,
                      tuple(option or ()), force), typer.echo)
    typer.echo(f"Step scores: {_relative(out)}. Next: python -m monitorlab calibrate "
               f"{_relative(out)} --out policy, or run 07 -p SCORES_FILE={_relative(out)}")


@app.command("calibrate")
def _calibrate(
    log: Annotated[Path, typer.Argument(
        help="Step scores of finished sequences: CSV, TSV, JSON, JSON lines or parquet with "
             "trajectory_id, step, score, label.")],
    out: Annotated[Path, typer.Option(help="New folder for policy.json, tables and page.html.")],
    level: Annotated[float, typer.Option(help="Rate to keep to.")] = 0.05,
    risk: Annotated[str, typer.Option(
        help="Rate of what: false_alarm, or missed_detection.")] = "false_alarm",
    calibrator: Annotated[str, typer.Option(
        help="crc: on average over logs; binomial: with probability 1 - DELTA.")] = "crc",
    delta: Annotated[float, typer.Option(help="Error probability of the binomial.")] = 0.1,
    objective: Annotated[str, typer.Option(
        help="What the statistic is chosen for: power, restricted_delay or far. "
             "[default: power, or far where misses are bounded]", show_default=False)] = "",
    statistic: Annotated[str, typer.Option(
        help="running_min (the score itself), running_mean, ewma, cusum or learned. "
             "[default: the one that serves the objective best]", show_default=False)] = "",
    columns: Annotated[str, typer.Option(
        help="Our names to yours, as in score:p_bad,label:verdict.")] = "",
    orientation: Annotated[str, typer.Option(
        help="What a high score means: suspicion or safety.")] = "suspicion",
    positive: Annotated[str, typer.Option(help="What label 1 means: unsafe or safe.")] = "unsafe",
    signal: Annotated[str, typer.Option(help="Which of several signals in the file.")] = "",
    group: Annotated[str, typer.Option(
        help="Column that says what sequences have in common, such as a prompt.")] = "",
    per_group: Annotated[bool, typer.Option(
        "--per-group", help="A threshold for each group that has enough sequences.")] = False,
    base_rate: Annotated[float, typer.Option(
        help="Share of unsafe sequences in deployment. [default: the log's]",
        show_default=False)] = float("nan"),
    per_day: Annotated[float, typer.Option(help="Sequences per day in deployment.")] = 1000.0,
    valid_days: Annotated[int, typer.Option(help="Days until the policy expires.")] = 90,
    dtype: Annotated[str, typer.Option(
        help="Precision of the scores: float64, float32 or float16.")] = "float64",
    on_error: Annotated[str, typer.Option(
        help="What a score of no use leads to: alarm or raise.")] = "alarm",
    drift_rate: Annotated[float, typer.Option(
        help="Chance of ever reporting drift where there is none.")] = 0.01,
    half_width: Annotated[float, typer.Option(
        help="If labels are missing: how many to buy for intervals of this half width.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 2026,
    scoring: Annotated[str, typer.Option(
        help="How texts were cut and scored: the `scoring` of the loop that wrote the log.")] = "",
) -> None:
    """Make a policy for `watch` from a log: statistic, threshold, what to expect, and a page."""
    from monitorlab.commands.calibrate import (
        Plan,
        calibrate_log,
        describe_calibration,
        write_calibration,
    )
    from monitorlab.online.score_files import load_scores
    from monitorlab.storage.files import digest_file

    plan = Plan(level, delta, calibrator, objective, statistic, per_group, base_rate, per_day,
                orientation, dtype, on_error, valid_days, drift_rate, half_width, seed, scoring,
                risk)
    path = log.expanduser()
    scores = load_scores(path, orientation, columns=columns, group=group, positive=positive,
                         signal=signal)
    found = calibrate_log(scores, plan, digest_file(path))
    write_calibration(found, out.expanduser())
    typer.echo(describe_calibration(found))
    typer.echo(f"Open {_relative(out / 'page.html')}, or run: python -m monitorlab watch "
               f"{_relative(out / 'policy.json')} < lines.jsonl")


@app.command("watch")
def _watch(
    policy: Annotated[Path, typer.Argument(help="policy.json, as `calibrate` writes it.")],
    mark: Annotated[bool, typer.Option(
        "--mark", help="Write into POLICY and its page when the guarantee becomes void.")] = False,
    evidence: Annotated[Path | None, typer.Option(
        help="File that keeps the evidence of drift over restarts.")] = None,
) -> None:
    """Read JSON lines with id and score, write alarms as JSON lines; 1 if a line was of no use."""
    from monitorlab.commands.watch import read_evidence, watch, write_evidence
    from monitorlab.online.policy import OnlineMonitor, Policy

    rule = Policy.load(policy.expanduser())
    file = evidence.expanduser() if evidence else None
    monitor = OnlineMonitor(rule, read_evidence(file, rule) if file else None)
    for warning in monitor.policy.warnings():
        typer.echo(f"warning: {warning}", err=True)
    lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")
    bad = watch(
        monitor, lines, functools.partial(print, flush=True),
        functools.partial(typer.echo, err=True),
        functools.partial(_mark, policy.expanduser()) if mark else lambda now: None,
        functools.partial(write_evidence, file) if file else lambda now: None,
    )
    if bad:
        _stop(f"{bad} of the lines could not be used", 1)


def _mark(path: Path, policy: Policy) -> None:
    """Write a policy that has become void, and its page where there is one."""
    try:
        policy.save(path)
        if (path.parent / "page.html").exists():
            from monitorlab.commands.calibrate import write_page

            write_page(path.parent)
    except (OSError, ValueError, LookupError) as error:  # the watch goes on
        typer.echo(f"the policy or its page could not be marked: {error}", err=True)


@app.command("reread")
def _reread(
    store: Annotated[Path, typer.Argument(
        help="Stored answers, such as data/cache/verdicts/MONITOR.jsonl.")],
    table: Annotated[Path, typer.Option(help="Table of verdicts that they went into.")],
    samples: Annotated[Path, typer.Option(help="The file of samples that was judged.")],
    out: Annotated[Path | None, typer.Option(
        help="New table. [default: TABLE with .reread in its name]")] = None,
    out_store: Annotated[Path | None, typer.Option(
        help="New store. [default: STORE with .reread in its name]")] = None,
    prompt: Annotated[str, typer.Option(
        help="Monitor prompt, by name or file. [default: the table's]")] = "",
    max_tokens: Annotated[int, typer.Option(
        help="Longest reply that was allowed. [default: the manifest's]",
        show_default=False)] = 0,
) -> None:
    """Read stored replies again with today's rules, without a call; the old files stay."""
    from monitorlab.commands.reread import reread_file

    reread_file(store.expanduser(), table.expanduser(), samples.expanduser(), out, out_store,
                prompt, max_tokens, typer.echo)


@app.command("finetune")
def _finetune(
    base: Annotated[str, typer.Argument(
        help="Checkpoint to start from: smollm2, a folder, or a hub name with --revision.")],
    corpus: Annotated[Path, typer.Option(
        help="CSV, JSON lines, JSON or parquet with request, response, label and, if known, "
             "sample_id, pair_id, scenario_id, component.")],
    out: Annotated[Path, typer.Option(help="Folder of the result.")],
    prompt: Annotated[str, typer.Option(help="Monitor prompt. [default: direct]")] = "",
    option: Annotated[list[str] | None, typer.Option(
        "--recipe-option", "-o", metavar="NAME=VALUE",
        help="A setting of the training, such as lora_rank=8, repeatable; an unknown one lists "
             "all.")] = None,
    components: Annotated[str, typer.Option(help="Names, with commas. [default: all]")] = "",
    samples: Annotated[int, typer.Option(help="At most so many, in whole pairs; 0 is all.")] = 0,
    held_out: Annotated[str, typer.Option(
        help="File of samples, or a share of the scenarios such as 0.1.")] = "",
    forbid: Annotated[Path | None, typer.Option(
        help="File of samples whose scenarios must not be trained on.")] = None,
    revision: Annotated[str, typer.Option(help="Commit of a hub model.")] = "",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16. [default: the faster]")] = "",
    device: Annotated[str, typer.Option(help="Torch device. [default: a GPU if any]")] = "",
    merge: Annotated[Path | None, typer.Option(
        help="Folder for adapter and base as one checkpoint.")] = None,
    save_steps: Annotated[int, typer.Option(
        help="Steps between checkpoints; a short training has eight. 0 for none.")] = 100,
) -> None:
    """Train a monitor on labelled samples; the same command goes on where it stopped."""
    from monitorlab.commands.finetune import Order, finetune_file

    finetune_file(Order(
        base, corpus.expanduser(), out.expanduser(), revision, prompt,
        tuple(option or ()), components, samples, held_out, forbid, dtype, device, merge,
        save_steps,
    ), typer.echo)


@app.command("monitors")
def _monitors(
    name: Annotated[str, typer.Argument(
        help="Kind or monitor, such as api or gpt-5-mini: list its settings.")] = "",
) -> None:
    """List the monitors that `score` knows, or the settings of one with their meaning."""
    from monitorlab.monitors.build import list_monitors, list_settings

    typer.echo(list_settings(name) if name else list_monitors())


@app.command("fetch")
def _fetch(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keys of data/sources.toml; all if none.")
    ] = None,
) -> None:
    """Download and verify the openly licensed data files."""
    from monitorlab.storage import sources

    paths = {key: sources.fetch(key) for key in keys} if keys else sources.fetch_all()
    for key, path in paths.items():
        typer.echo(f"{key}: {_relative(path)}")


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
            raise typer.Exit(128 + int(signal.SIGPIPE)) from None
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
        typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)


def _given(profile: str, run_id: str, seed: int | None, parameter: list[str]) -> dict[str, object]:
    """Join the options that are parameters too with those of `-p`."""
    from monitorlab.pipeline.profiles import PROFILES
    from monitorlab.storage.settings import ParameterError, split_assignments

    given: dict[str, object] = dict(split_assignments(parameter))
    options = {"PROFILE": profile or None, "SEED": seed,
               "RUN_ID": run_id if run_id != "default" else None}
    for name, value in options.items():
        if value is None:
            continue
        if name in given and given[name] != str(value):
            raise ParameterError(f"{name} is given twice: {value} and {given[name]}")
        given[name] = value
    if given.get("PROFILE", "tiny") not in PROFILES:
        raise ParameterError(f"unknown profile {given['PROFILE']!r}: expected one of "
                             + ", ".join(PROFILES))
    return given


def _discovered() -> tuple[Notebook, ...]:
    from monitorlab.pipeline.notebooks import NotebookError, discover

    found = discover(_notebooks_folder())
    if not found:
        raise NotebookError(f"no notebooks NN_name.py in {_relative(_notebooks_folder())}: set "
                            "MONITORLAB_ROOT to a copy of the repository, which has them")
    return found


def _notebooks_folder() -> Path:
    from monitorlab.storage.sources import project_root

    return project_root() / "notebooks"


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _status_line(state: State) -> str:
    seconds = f"{state.record.seconds:8.1f} s" if state.record else " " * 10
    when = state.record.started[:16].replace("T", " ") if state.record else ""
    headline = " ".join(state.headline.values())
    line = f"  {state.notebook.stem:<32} {state.status:<11} {when:<16} {seconds}  {headline}"
    reason = state.reason.splitlines()[0] if state.reason else ""
    return line.rstrip() + (f"\n      {reason}" if reason else "")
