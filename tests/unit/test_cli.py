"""The command line: help, messages and exit codes, without starting a kernel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitorlab.cli import app
from monitorlab.pipeline.notebooks import discover, readme_text
from monitorlab.pipeline.records import Failure, Record, executed_path, write_record

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


def write_execution(root: Path, status: str, failure: Failure | None = None) -> None:
    """Leave the record and the executed copy that the runner would have left."""
    import jupytext

    (notebook,) = discover(root / "notebooks")
    runs = root / "data" / "runs"
    path = executed_path(runs, "try", notebook.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(jupytext.read(notebook.path), path, fmt="ipynb")
    write_record(runs, Record(
        stem=notebook.stem, run_id="try", profile="tiny", status=status, parameters={"SEED": 1},
        digest=notebook.digest, started="2026-01-01T10:20:00.000+00:00",
        finished="2026-01-01T10:21:00.000+00:00", seconds=60.0, process=2**22 + 1, failure=failure,
    ))


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
        (["run", "--profile", "huge"], "unknown profile 'huge': expected one of tiny, cpu, gpu"),
        (["run", "--run-id", "../x"], "run id '../x' must be a folder name"),
        (["run", "--seed", "1", "-p", "SEED=2"], "SEED is given twice"),
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
    write_execution(project, "failed", Failure(3, "x", "ValueError", "too small\nand more"))
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
    assert out == "1 page. Open reports/try/index.html\n"
    assert (project / "reports" / "try" / "06_signals.html").is_file()


def test_the_readme_of_the_notebooks_is_generated(project: Path) -> None:
    code, out, _ = call("freeze", "--readme-only")
    assert (code, out) == (0, "wrote notebooks/README.md\n")
    text = (project / "notebooks" / "README.md").read_text()
    assert text == readme_text(discover(project / "notebooks"))
    assert not (project / "tests").exists()


def test_fetch_reports_an_unknown_key(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "sources.toml").write_text("")
    code, _, err = call("fetch", "nothing/here.csv")
    assert code == 1
    assert "nothing/here.csv" in err
    assert "Traceback" not in err
