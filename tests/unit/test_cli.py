"""The command line: help, messages and exit codes, without starting a kernel."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitorlab.cli import _write_sweep, app
from monitorlab.pipeline import runner
from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.records import CellFailure, RunRecord
from monitorlab.pipeline.runner import Options
from monitorlab.report.page import render_page

ROOT = Path(__file__).parents[2]
NOTEBOOK = """\
# %% [markdown]
# # 6. Signals
#
# > A claim.

# %% [markdown]
# **Reads** nothing. **Writes** `steps`.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny | cpu | gpu
RUN_ID: str = "default"  # folder under data/runs
SEED: int = 2026  # one seed
ALPHA: float = 0.1  # target false alarm rate
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with one notebook and the real template."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "06_signals.py").write_text(NOTEBOOK)
    shutil.copytree(ROOT / "reports" / "template", tmp_path / "reports" / "template")
    monkeypatch.setenv("MONITORLAB_ROOT", str(tmp_path))
    monkeypatch.delenv("MONITORLAB_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of one command."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def write_execution(root: Path, status: str, failure: CellFailure | None = None) -> None:
    """Leave the record and the executed copy that the runner would have left."""
    import jupytext

    (notebook,) = Notebook.discover(root / "notebooks")
    runs = root / "data" / "runs"
    path = RunRecord.copy_path(runs, "try", notebook.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(jupytext.read(notebook.path), path, fmt="ipynb")
    RunRecord(
        stem=notebook.stem, run_id="try", profile="tiny", status=status, parameters={"SEED": 1},
        digest=notebook.digest, started="2026-01-01T10:20:00.000+00:00",
        finished="2026-01-01T10:21:00.000+00:00", seconds=60.0, process=2**22 + 1, failure=failure,
    ).save(runs)


def test_without_arguments_the_commands_are_listed() -> None:
    code, out, _ = call()
    assert code == 0
    for command in ("run", "params", "report", "status", "freeze", "finetune", "fetch"):
        assert f"\n  {command} " in out


def test_help_starts_in_under_a_second() -> None:
    command = [sys.executable, "-m", "monitorlab", "--help"]
    seconds = []
    for _ in range(3):  # the best of three: the machine may be busy
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert "Commands:" in done.stdout
    assert min(seconds) < 1.0


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys, monitorlab.cli; print([m for m in ('numpy', 'pandas', 'torch', 'jupytext',"
            " 'papermill', 'matplotlib') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_reader_that_closes_the_pipe_ends_a_command_without_a_word() -> None:
    command = [sys.executable, "-m", "monitorlab", "params"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()  # as `head` does
        assert (process.stderr.read(), process.wait()) == (b"", 141)


def test_params_show_type_default_and_meaning(project: Path) -> None:
    code, out, _ = call("params", "6")
    assert code == 0
    assert "ALPHA: float = 0.1" in out
    assert "target false alarm rate" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "9"], "no notebook '9'. Notebooks: 06_signals"),
        (["run", "-p", "ALFA=1"], "unknown parameter ALFA"),
        (["run", "-p", "ALPHA=big"], "ALPHA must be a finite number (float), got 'big'"),
        (["run", "-p", "ALPHA"], "expected NAME=VALUE, got 'ALPHA'"),
        (["run", "--profile", "huge"],
         "unknown profile 'huge': expected one of tiny, cpu, overnight, gpu"),
        (["run", "--run-id", "../x"], "run id '../x' must be a folder name"),
        (["run", "--seed", "1", "-p", "SEED=2"], "SEED is given twice"),
        (["run", "--seed", "-1"], "06_signals: seed is -1: expected a whole number from 0 to"),
        (["run", "-p", "SEED=-1"], "06_signals: seed is -1: expected a whole number from 0 to"),
        (["run", "--seed", "4294967296"], "seed is 4294967296: expected a whole number from 0"),
        (["params", "nope"], "no notebook 'nope'"),
        (["report", "--run-id", "nope"], "no run 'nope' to render. Runs: none yet"),
        (["status", "--run-id", "nope"], "no run 'nope'"),
    ],
)
def test_wrong_commands_end_with_one_message(
    project: Path, arguments: list[str], message: str
) -> None:
    code, out, err = call(*arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err + out
    assert not (project / "data" / "runs").exists(), "nothing is written"


def test_an_unknown_parameter_lists_the_known_ones(project: Path) -> None:
    assert "ALPHA: float = 0.1" in call("run", "-p", "ALFA=1")[2]


def test_a_project_without_notebooks_says_so(project: Path) -> None:
    (project / "notebooks" / "06_signals.py").unlink()
    code, _, err = call("run")
    assert code == 2
    assert "no notebooks NN_name.py in notebooks" in err


def test_status_of_complete_failed_and_abandoned_runs(project: Path) -> None:
    assert "No runs yet" in call("status")[1]
    write_execution(project, "complete")
    code, out, _ = call("status", "--run-id", "try")
    assert code == 0
    assert "run try" in out
    assert "complete" in out
    assert "60.0 s" in out
    assert "2026-01-01 10:20" in out
    write_execution(project, "failed", CellFailure(3, "x", "ValueError", "too small\nand more"))
    out = call("status")[1]
    assert "failed" in out
    assert "ValueError: too small" in out
    assert "and more" not in out
    write_execution(project, "running")
    assert "interrupted" in call("status")[1]


def test_report_renders_and_names_the_page(project: Path) -> None:
    write_execution(project, "complete")
    code, out, _ = call("report", "--run-id", "try")
    assert code == 0
    assert out == "3 pages. Open reports/try/index.html\n"  # glossary and files too
    assert (project / "reports" / "try" / "06_signals.html").is_file()


def test_one_broken_notebook_stops_neither_status_nor_report(project: Path) -> None:
    write_execution(project, "complete")
    (project / "notebooks" / "07_half.py").write_text("# %% [markdown]\n# # 7. Half\n# %% tags=5\n")
    (project / "notebooks" / "08_half.py").write_bytes(b"\xff\xfe")
    code, out, err = call("status")
    assert (code, err) == (0, "")
    assert "06_signals                       complete" in out
    assert "07_half                          broken" in out
    assert "08_half.py cannot be read: 'utf-8' codec" in out
    code, out, err = call("report", "--run-id", "try")
    assert code == 1
    assert out == "3 pages. Open reports/try/index.html\n"  # glossary and files too
    assert "error: not all of it can be read:\n  07_half: 07_half.py cannot be read" in err
    code, _, err = call("run", "6")
    assert code == 2 and "07_half.py cannot be read" in err


def test_one_broken_record_stops_neither_status_nor_report(project: Path) -> None:
    write_execution(project, "complete")
    path = project / "data" / "runs" / "try" / "executed" / "06_signals.json"
    path.write_text("{")
    code, out, _ = call("status")
    assert code == 0
    assert "06_signals                       broken" in out
    assert "the record of its execution, 06_signals.json, is damaged" in out
    code, out, err = call("report", "--run-id", "try")
    assert code == 1 and out.startswith("2 pages. Open ")
    assert "06_signals: the record of its execution, 06_signals.json, is damaged" in err


def test_missing_inputs_are_named_before_a_kernel_starts(project: Path) -> None:
    text = NOTEBOOK.replace("# 6.", "# 7.").replace("nothing", "`steps`").replace(
        "Writes** `steps`", "Writes** `metrics`")
    (project / "notebooks" / "07_online.py").write_text(text)
    code, _, err = call("run", "7", "--run-id", "x", "--profile", "cpu")
    assert code == 1
    assert "07_online reads tables of 06_signals (--with-inputs runs first what is missing" in err
    assert "Run it first: python -m monitorlab run 06 --profile cpu --run-id x\n" in err
    assert not (project / "data" / "runs").exists()


def test_a_full_disk_is_a_message_with_advice(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_execution(project, "complete")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    code, _, err = call("report", "--run-id", "try")
    assert code == 1
    assert "the disk is full" in err and "Free some space and run the same command again" in err


@pytest.mark.parametrize(("options", "seconds"), [
    ([], 3600), (["--profile", "cpu"], 3600), (["--profile", "overnight"], 0),
    (["-p", "PROFILE=gpu"], 0), (["--profile", "overnight", "--timeout", "5"], 5)])
def test_a_training_of_hours_is_one_cell_and_not_cut_short(
    project: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], seconds: int
) -> None:
    asked: list[Options] = []
    monkeypatch.setattr(runner, "run_notebooks",
                        lambda selected, given, chosen, among: asked.append(chosen) or [])
    call("run", *options)
    assert [one.cell_timeout for one in asked] == [seconds]


def test_the_readme_of_the_notebooks_is_generated(project: Path) -> None:
    code, out, _ = call("freeze", "--readme-only")
    assert (code, out) == (0, "wrote notebooks/README.md\n")
    text = (project / "notebooks" / "README.md").read_text()
    found = Notebook.discover(project / "notebooks")
    assert text == render_page("notebooks.md.j2", notebooks=found)
    assert not (project / "tests").exists()


def test_a_class_gets_notebooks_without_answers(project: Path) -> None:
    source = project / "notebooks" / "06_signals.py"
    source.write_text(NOTEBOOK + """
# %% [markdown]
# ## Exercises
# 1. Why?
#    <details><summary>Answer</summary>Because
#    it is so.</details>
# 2. How?
#    <details><summary>Answer</summary>So.</details>
""")
    code, out, _ = call("students", "class")
    assert code == 0 and out == "Open them with: jupyter lab class\n"
    text = (project / "class" / "06_signals.ipynb").read_text()
    cells = json.loads(text)["cells"]
    assert "".join(cells[-1]["source"]) == "## Exercises\n1. Why?\n2. How?"
    assert [cell["outputs"] for cell in cells if cell["cell_type"] == "code"] == [[]]
    assert "Answer" in source.read_text()


def test_every_answer_of_our_notebooks_can_be_taken_out(tmp_path: Path) -> None:
    assert call("students", str(tmp_path))[0] == 0
    for notebook in Notebook.discover(ROOT / "notebooks"):
        text = (tmp_path / f"{notebook.stem}.ipynb").read_text()
        assert "details" not in text and "## Exercises" in text
        assert notebook.path.read_text().count("<details>") == 3


def test_a_sweep_is_written_as_a_table_and_a_page(project: Path) -> None:
    rows = [{"run": "default-A1", "A": "1", "06 <b>": 0.5}, {"run": "default-A2", "A": "2"}]
    _write_sweep(rows, {}, ["A"])
    folder = project / "reports" / "default-sweep"
    assert (folder / "metrics.csv").read_text() == "run,A,06 <b>\ndefault-A1,1,0.5\ndefault-A2,2,\n"
    page = (folder / "index.html").read_text()
    assert "<td" in page and "06 &lt;b&gt;" in page and "<b>" not in page


def test_fetch_reports_an_unknown_key(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "sources.toml").write_text("")
    code, _, err = call("fetch", "nothing/here.csv")
    assert code == 1
    assert "nothing/here.csv" in err
    assert "Traceback" not in err
