"""Really executing notebooks: order, parameters, failures, dead kernels, the kernel itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.records import RunRecord, State
from monitorlab.pipeline.runner import Options, RunError, run_notebooks, sweep
from monitorlab.pipeline.runs import RunLock
from monitorlab.report.page import render_report
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.settings import ParameterError

HEAD = """\
# %% [markdown]
# # {number}. Title
#
# > A claim.

# %% [markdown]
# **Reads** {reads}. **Writes** {writes}.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny | cpu | gpu
RUN_ID: str = "default"  # folder under data/runs
SEED: int = 2026  # one seed
ALPHA: float = 0.1  # level

# %%
print("started", ALPHA)

# %%
{code}

# %%
print("reached the end")
"""


def write_notebook(
    folder: Path, stem: str, code: str, reads: str = "nothing", writes: str = "nothing"
) -> None:
    """Write a notebook whose fourth cell is `code`."""
    folder.mkdir(exist_ok=True)
    text = HEAD.format(number=int(stem[:2]), code=code, reads=reads, writes=writes)
    (folder / f"{stem}.py").write_text(text)


def run_all(
    root: Path, given: dict[str, object] | None = None, **options: Any
) -> tuple[str, ...]:
    """Run every notebook of a folder; return the statuses."""
    chosen = Options(runs=root / "runs", root=root, **options)
    records = run_notebooks(found(root), {"RUN_ID": "test"} | (given or {}), chosen)
    return tuple(record.status for record in records)


def found(root: Path) -> tuple[Notebook, ...]:
    return Notebook.discover(root / "notebooks")


def printed(root: Path, stem: str) -> str:
    """Everything that the executed copy of a notebook printed."""
    document = nbformat.read(RunRecord.copy_path(root / "runs", "test", stem), as_version=4)
    outputs = [o for c in document.cells if c.cell_type == "code" for o in c.outputs]
    return "".join(o.text for o in outputs if o.output_type == "stream")


FACTS = """
import json, os, sys
names = ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "PYTHONHASHSEED",
         "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE", "MONITORLAB_RUNS"]
print("FACTS" + json.dumps({"cwd": os.getcwd(), "python": sys.executable,
                            "environment": {name: os.environ.get(name) for name in names}}))
"""


def test_a_run_passes_parameters_and_controls_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a machine with start-up files and where another `python3` kernel is installed
    broken = tmp_path / "other" / "kernels" / "python3"
    broken.mkdir(parents=True)
    spec = {"argv": ["/nonexistent/python"], "display_name": "x", "language": "python"}
    (broken / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(broken.parents[1]))
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("print('a start-up file')")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    before = dict(os.environ)
    lines: list[str] = []
    write_notebook(tmp_path / "notebooks", "06_a", FACTS)
    assert run_all(tmp_path, {"ALPHA": "0.25"}, report=lines.append) == ("complete",)
    assert dict(os.environ) == before
    text = printed(tmp_path, "06_a")
    assert "start-up" not in text
    assert "started 0.25" in text
    assert "reached the end" in text
    facts = json.loads(text.split("FACTS")[1].splitlines()[0])
    assert facts["cwd"] == str(tmp_path)
    assert facts["python"] == sys.executable
    assert facts["environment"] == {
        "MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000",
        "MALLOC_TOP_PAD_": "268435456", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1", "MONITORLAB_RUNS": str(tmp_path / "runs"),
    }
    record = RunRecord.load(tmp_path / "runs", "test", "06_a")
    assert record is not None
    assert record.failure is None
    assert record.parameters["ALPHA"] == 0.25
    assert record.parameters["SEED"] == 2026
    assert lines[0] == "[1/1] 06_a"
    assert lines[1].startswith("[1/1] 06_a done in ")
    leftovers = [p for p in RunRecord.copy_path(tmp_path / "runs", "test", "x").parent.iterdir()
                 if p.name.startswith(".")]
    assert not leftovers


def test_an_unknown_parameter_stops_before_anything_runs(tmp_path: Path) -> None:
    write_notebook(tmp_path / "notebooks", "06_a", "pass")
    with pytest.raises(ParameterError, match=r"unknown parameter ALFA[\s\S]*ALPHA: float = 0.1"):
        run_all(tmp_path, {"ALFA": 0.2})
    assert not (tmp_path / "runs").exists()


def test_a_failed_cell_is_named_and_what_ran_stays(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    write_notebook(folder, "06_a", "x = 1", writes="`steps`")
    write_notebook(folder, "07_b", "y = 2\nraise ValueError('level <script> is 1.5')",
                   reads="`06_a/steps`", writes="`metrics`")
    write_notebook(folder, "08_c", "z = 3", reads="`07_b/metrics`")
    with pytest.raises(RunError) as caught:
        run_all(tmp_path)
    message = str(caught.value)
    assert "07_b failed in cell [4] `y = 2`" in message  # [2] are the injected parameters
    assert "ValueError: level <script> is 1.5" in message
    assert str(caught.value.path) in message
    assert "reached the end" in printed(tmp_path, "06_a")
    assert "started" in printed(tmp_path, "07_b")
    assert "reached" not in printed(tmp_path, "07_b")
    states = State.of_run(tmp_path / "runs", "test", found(tmp_path))
    assert [s.status for s in states] == ["complete", "failed", "missing"]

    report = render_report("test", found(tmp_path), tmp_path / "runs", tmp_path / "reports")
    assert len(report.pages) == 2
    page = report.pages[1].read_text()
    assert "ValueError: level &lt;script&gt; is 1.5" in page
    assert '<span class="count">[4]</span>' in page

    write_notebook(folder, "07_b", "y = 2", reads="`06_a/steps`", writes="`metrics`")
    assert run_all(tmp_path) == ("complete", "complete", "complete")
    states = State.of_run(tmp_path / "runs", "test", found(tmp_path))
    assert [s.status for s in states] == ["complete", "complete", "complete"]


@pytest.mark.parametrize(
    ("code", "error", "options"),
    [
        ("import os; os._exit(1)", "DeadKernelError: the kernel died", {}),
        ("import time; time.sleep(60)", "CellTimeoutError: the cell did not end within 2 s",
         {"cell_timeout": 2}),
    ],
    ids=["dead kernel", "timeout"],
)
def test_a_dead_or_hanging_kernel_ends_soon(
    tmp_path: Path, code: str, error: str, options: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_notebook(tmp_path / "notebooks", "06_a", code)
    start = time.perf_counter()
    with pytest.raises(RunError, match=error) as caught:
        run_all(tmp_path, **options)
    assert time.perf_counter() - start < 20
    assert f"cell [4] `{code}`" in str(caught.value)
    assert "started" in printed(tmp_path, "06_a")
    record = RunRecord.load(tmp_path / "runs", "test", "06_a")
    assert record is not None
    assert record.status == "failed"
    assert "Traceback" not in capfd.readouterr().err


MEETS = """
import os, pathlib, time
place, end = pathlib.Path(os.environ["MONITORLAB_RUNS"]), time.monotonic() + 60
(place / "{mine}").touch()
while not (place / "{other}").exists():
    assert time.monotonic() < end, "the other one never came"
    time.sleep(0.05)
"""


def test_what_needs_nothing_of_one_another_runs_side_by_side(tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    write_notebook(folder, "06_a", MEETS.format(mine="a", other="c") + "(place / 'end').touch()",
                   writes="`steps`")
    write_notebook(folder, "07_b", MEETS.format(mine="b", other="end") + "raise ValueError('no')",
                   reads="`06_a/steps`", writes="`metrics`")
    write_notebook(folder, "08_c", MEETS.format(mine="c", other="b") + "time.sleep(2)")
    write_notebook(folder, "09_d", "pass", reads="`07_b/metrics`")
    lines: list[str] = []
    with pytest.raises(RunError, match="07_b failed in cell"):
        run_all(tmp_path, jobs=2, report=lines.append)
    assert [line.partition(" done")[0] for line in lines] == [
        "[1/4] 06_a", "[3/4] 08_c", "[1/4] 06_a", "[2/4] 07_b", "[3/4] 08_c"]
    states = State.of_run(tmp_path / "runs", "test", found(tmp_path))
    assert [s.status for s in states] == ["complete", "failed", "complete", "missing"]
    assert "reached the end" in printed(tmp_path, "08_c")


def test_a_process_that_dies_beside_another_is_named(tmp_path: Path) -> None:
    write_notebook(tmp_path / "notebooks", "06_a",
                   "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    with pytest.raises(RunError, match="06_a failed outside its cells[\\s\\S]*code -9"):
        run_all(tmp_path, jobs=2)
    (state,) = State.of_run(tmp_path / "runs", "test", found(tmp_path))
    assert state.status == "failed"


SLEEPS = """
import os
from pathlib import Path
Path(os.environ["MONITORLAB_RUNS"], "kernel").write_text(str(os.getpid()))
import time; time.sleep(600)
"""


def hear_signals() -> None:
    """Tests may run under nohup or behind an ampersand: what is ignored stays so in a child."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def working(
    root: Path, *command: str, jobs: str = "1"
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the command line; yield the process and the number of its kernel, which sleeps."""
    write_notebook(root / "notebooks", "06_a", SLEEPS)
    environment = dict(os.environ) | {"MONITORLAB_ROOT": str(root)}
    environment.pop("MONITORLAB_RUNS", None)
    process = subprocess.Popen(
        [*command, sys.executable, "-m", "monitorlab", "run", "--run-id", "test", "--jobs", jobs],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=hear_signals,
    )
    place, deadline = root / "data" / "runs" / "kernel", time.monotonic() + 60
    try:
        while not (place.is_file() and place.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process, int(place.read_text())
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def assert_gone(process: int) -> None:
    """Wait a little for a process to end; one that nobody has waited for counts as ended."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {process} is still there")


@pytest.mark.parametrize(("number", "jobs"), [
    (signal.SIGTERM, "2"),
    pytest.param(signal.SIGINT, "1", marks=pytest.mark.long),
    pytest.param(signal.SIGTERM, "1", marks=pytest.mark.long),
    pytest.param(signal.SIGHUP, "1", marks=pytest.mark.long),
    pytest.param(signal.SIGINT, "2", marks=pytest.mark.long),
])
def test_a_signal_keeps_what_ran_and_says_interrupted(
    tmp_path: Path, number: signal.Signals, jobs: str
) -> None:
    with working(tmp_path, jobs=jobs) as (process, kernel):
        process.send_signal(number)
        time.sleep(0.2)
        process.send_signal(number)  # an impatient second one
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert "interrupted; what ran so far is kept" in stderr
    assert "Traceback" not in stderr
    assert_gone(kernel)
    runs = tmp_path / "data" / "runs"
    record = RunRecord.load(runs, "test", "06_a")
    assert record is not None
    assert record.status == "interrupted"
    assert record.failure is None and record.finished
    copy = RunRecord.copy_path(runs, "test", "06_a")
    assert "started 0.1" in copy.read_text()
    assert sorted(path.name for path in copy.parent.iterdir()) == ["06_a.ipynb", "06_a.json"]


def test_a_killed_runner_blocks_nobody_and_what_it_printed_is_picked_up(tmp_path: Path) -> None:
    runs, notebooks = tmp_path / "data" / "runs", tmp_path / "notebooks"
    with working(tmp_path, "nohup", jobs="2") as (process, kernel):
        process.send_signal(signal.SIGHUP)  # which nohup lets nobody hear
        with pytest.raises(ArtifactError, match=f"is being executed by process {process.pid} sin"):
            run_notebooks(Notebook.discover(notebooks), {"RUN_ID": "test"},
                          Options(runs=runs, root=tmp_path))
        (state,) = State.of_run(runs, "test", Notebook.discover(notebooks))
        assert (state.status, state.reason) == ("running", f"by process {process.pid}")
        process.kill()
        process.wait()
    assert_gone(kernel)
    (state,) = State.of_run(runs, "test", Notebook.discover(notebooks))
    assert state.status == "interrupted" and "the process that ran it is gone" in state.reason
    (part,) = RunRecord.copy_path(runs, "test", "06_a").parent.glob(".06_a.*.part")
    with RunLock(runs / "test").hold():  # nobody has to break the lock of the dead
        RunRecord.pick_up(runs, "test")
    assert not part.exists()
    assert "started 0.1" in RunRecord.copy_path(runs, "test", "06_a").read_text()
    (state,) = State.of_run(runs, "test", Notebook.discover(notebooks))
    assert state.status == "interrupted"


MEASURE = """
from monitorlab import display
from monitorlab.pipeline.runs import RunLock, open_run
run = open_run("02_reads", PROFILE, RUN_ID, SEED)
run.write_metrics({"level": ALPHA, "seed": SEED})
display.use(run)
display.headline(f"{ALPHA:.0%}", "level")
run.close()
"""


def test_a_sweep_is_a_run_for_every_combination(tmp_path: Path) -> None:
    write_notebook(tmp_path / "notebooks", "02_reads", MEASURE)
    options = Options(runs=tmp_path / "runs", root=tmp_path)
    rows = sweep(found(tmp_path), {"RUN_ID": "s", "SEED": 7}, {"ALPHA": [".05", " 0.2"]}, options,
                 found(tmp_path))
    assert [dict(row) for row in rows] == [
        {"run": "s-ALPHA.05", "ALPHA": ".05", "02 headline": "5%", "02 level": 0.05,
         "02 seed": 7.0},
        {"run": "s-ALPHA0.2", "ALPHA": "0.2", "02 headline": "20%", "02 level": 0.2,
         "02 seed": 7.0}]


@pytest.mark.parametrize(("swept", "words"), [
    ({"ALPHA": ["0.1", ""]}, "empty value"), ({"ALPHA": ["0.1", "0.1 "]}, "twice"),
    ({"ALPHA": ["much"]}, "ALPHA must be"), ({"BETA": ["1"]}, "unknown parameter BETA"),
    ({"SEED": ["1"]}, "SEED cannot be swept"), ({"RUN_ID": ["a"]}, "RUN_ID cannot be swept")])
def test_a_sweep_is_checked_before_anything_runs(
    tmp_path: Path, swept: dict[str, list[str]], words: str
) -> None:
    write_notebook(tmp_path / "notebooks", "02_reads", MEASURE)
    options = Options(runs=tmp_path / "runs", root=tmp_path)
    with pytest.raises(ParameterError, match=words):
        sweep(found(tmp_path), {"SEED": 7}, swept, options, found(tmp_path))
    assert not (tmp_path / "runs").exists()
