"""Really executing notebooks: order, parameters, failures, dead kernels, the kernel itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

from monitorlab.pipeline.notebooks import Notebook, discover
from monitorlab.pipeline.parameters import ParameterError
from monitorlab.pipeline.records import executed_path, read_record, run_states
from monitorlab.pipeline.report import render_report
from monitorlab.pipeline.runner import Options, RunError, run_notebooks

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
    return discover(root / "notebooks")


def printed(root: Path, stem: str) -> str:
    """Everything that the executed copy of a notebook printed."""
    document = nbformat.read(executed_path(root / "runs", "test", stem), as_version=4)
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
    record = read_record(tmp_path / "runs", "test", "06_a")
    assert record is not None
    assert record.failure is None
    assert record.parameters["ALPHA"] == 0.25
    assert record.parameters["SEED"] == 2026
    assert lines[0] == "[1/1] 06_a"
    assert lines[1].startswith("[1/1] 06_a done in ")
    leftovers = [p for p in executed_path(tmp_path / "runs", "test", "x").parent.iterdir()
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
    states = run_states(tmp_path / "runs", "test", found(tmp_path))
    assert [s.status for s in states] == ["complete", "failed", "missing"]

    report = render_report("test", found(tmp_path), tmp_path / "runs", tmp_path / "reports")
    assert len(report.pages) == 2
    page = report.pages[1].read_text()
    assert "ValueError: level &lt;script&gt; is 1.5" in page
    assert '<span class="count">[4]</span>' in page

    write_notebook(folder, "07_b", "y = 2", reads="`06_a/steps`", writes="`metrics`")
    assert run_all(tmp_path) == ("complete", "complete", "complete")
    states = run_states(tmp_path / "runs", "test", found(tmp_path))
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
    record = read_record(tmp_path / "runs", "test", "06_a")
    assert record is not None
    assert record.status == "failed"
    assert "Traceback" not in capfd.readouterr().err


def test_ctrl_c_keeps_what_ran_and_says_interrupted(tmp_path: Path) -> None:
    write_notebook(tmp_path / "notebooks", "06_a", "import time; time.sleep(60)")
    (tmp_path / "reports").mkdir()
    environment = dict(os.environ) | {"MONITORLAB_ROOT": str(tmp_path)}
    environment.pop("MONITORLAB_RUNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "monitorlab", "run", "--run-id", "test"],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )
    runs = tmp_path / "data" / "runs"
    part = executed_path(runs, "test", "06_a").parent
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # until the cell before the sleeping one has been saved
        saved = [p.read_text() for p in part.glob(".06_a.*.part/output.ipynb")]
        if any("started 0.1" in text for text in saved):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "interrupted; what ran so far is kept" in stderr
    assert "Traceback" not in stderr
    record = read_record(runs, "test", "06_a")
    assert record is not None
    assert record.status == "interrupted"
    assert "started" in executed_path(runs, "test", "06_a").read_text()
