"""The regression tests are tested: goldens fit their sources, compare enough, and do fail."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.runner import (
    IGNORE_TAG,
    Options,
    RegressionError,
    _freeze_metrics,
    _normalize,
    _unstable_outputs,
    freeze,
)

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
LEAST_COMPARED = 0.4  # share of the code cells with output

REAL = Notebook.discover(ROOT / "notebooks") if (ROOT / "notebooks").is_dir() else ()
with_notebooks = pytest.mark.parametrize("notebook", REAL, ids=lambda n: n.stem)


def golden_of(notebook: Notebook) -> Any:
    path = GOLDEN / f"{notebook.stem}.ipynb"
    assert path.is_file(), f"no golden copy of {notebook.stem}; run: python -m monitorlab freeze"
    return nbformat.read(path, as_version=4)


def code_cells(document: Any) -> list[Any]:
    return [cell for cell in document.cells if cell.cell_type == "code"]


def compared_of(document: Any, source: Notebook) -> tuple[int, int]:
    """Cells whose output is compared, and all with output; goldens hold none of ignored ones."""
    compared = sum(bool(c.outputs) for c in code_cells(document))
    return compared, compared + sum(IGNORE_TAG in c.tags for c in source.cells if c.kind == "code")


@with_notebooks
def test_golden_and_source_are_the_same_notebook(notebook: Notebook) -> None:
    golden = [(c.cell_type, c.source, tuple(c.metadata.get("tags", ())))
              for c in golden_of(notebook).cells]
    source = [(c.kind, c.source, c.tags) for c in notebook.cells]
    assert golden == source, f"{notebook.stem} changed; run: python -m monitorlab freeze"


@with_notebooks
def test_every_golden_code_cell_was_executed(notebook: Notebook) -> None:
    counts = [c.execution_count for c in code_cells(golden_of(notebook)) if c.source.strip()]
    assert counts == list(range(1, len(counts) + 1))  # nbval does not compare a cell without one


@with_notebooks
def test_enough_outputs_are_compared(notebook: Notebook) -> None:
    compared, with_output = compared_of(golden_of(notebook), notebook)
    assert compared > 0
    assert compared >= LEAST_COMPARED * with_output, f"{compared} of {with_output} are compared"


@with_notebooks
def test_compared_outputs_hold_no_paths_times_or_stderr(notebook: Notebook) -> None:
    golden = golden_of(notebook)
    assert _unstable_outputs(golden) == []
    names = {o.get("name") for c in code_cells(golden) for o in c.outputs}
    assert "stderr" not in names


def test_no_golden_copy_is_left_over() -> None:
    stems = {path.stem for path in GOLDEN.glob("*.ipynb")}
    assert stems <= {notebook.stem for notebook in REAL}


def test_every_golden_metric_has_a_tolerance() -> None:
    path = GOLDEN / "metrics.json"
    if not path.is_file():
        pytest.skip("no golden metrics frozen yet")
    for stem, metrics in json.loads(path.read_text()).items():
        assert stem in {notebook.stem for notebook in REAL}
        for name, reference in metrics.items():
            assert reference.keys() == {"value", "atol"}, name
            assert reference["atol"] > 0, name


# From here on, small notebooks of our own. ---------------------------------------------------

FIRST = """\
# %% [markdown]
# # 1. First
#
# > A claim.

# %% [markdown]
# **Reads** nothing. **Writes** `numbers`.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny | cpu | gpu
RUN_ID: str = "default"  # folder
SEED: int = 2026  # seed

# %%
import json
import os
from pathlib import Path

from IPython.display import HTML, display

folder = Path(os.environ["MONITORLAB_RUNS"]) / RUN_ID / "01_first"
folder.mkdir(parents=True)
_ = (folder / "metrics.json").write_text(json.dumps({"value": 0.5}))

# %%
# what monitorlab.display.progress sends, without importing pandas in four kernels
bar = {"application/vnd.jupyter.widget-view+json": {"model_id": "random"}, "text/plain": "0 %"}
handle = display(bar, raw=True, display_id=True)
handle.update({"text/plain": "counting: 3 of 3"}, raw=True)
print("pi is 3.14159")

# %%
display(HTML("<b>bold</b>"))
display({"text/markdown": "said **0.25**", "text/plain": "said 0.25"}, raw=True)

# %% tags=["nbval-ignore-output"]
import time
print(time.time())

# %%
{"a": 1}
"""

SECOND = FIRST.split("# %%\nimport json")[0].replace("1. First", "2. Second").replace(
    "**Reads** nothing. **Writes** `numbers`", "**Reads** `01_first/numbers`. **Writes** `more`"
) + """\
# %%
import json
import os
from pathlib import Path

first = Path(os.environ["MONITORLAB_RUNS"]) / RUN_ID / "01_first" / "metrics.json"
print(json.loads(first.read_text()))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two notebooks, the second reading what the first wrote, and the real golden set-up."""
    folder, golden = tmp_path / "notebooks", tmp_path / "golden"
    folder.mkdir()
    golden.mkdir()
    (folder / "01_first.py").write_text(FIRST)
    (folder / "02_second.py").write_text(SECOND)
    for name in ("conftest.py", "test_metrics.py", "nbval.cfg"):
        shutil.copy(GOLDEN / name, golden)
    return tmp_path


def nbval(root: Path, *files: str) -> tuple[int, str]:
    """Run pytest --nbval on the golden copies, in the order given."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval",
               "--nbval-sanitize-with", "nbval.cfg", *(files or ["."])]
    done = subprocess.run(command, cwd=root / "golden", capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_freezing_is_repeatable_and_nbval_sees_a_change(project: Path) -> None:
    notebooks = Notebook.discover(project / "notebooks")
    options = Options(root=project)
    paths = freeze(notebooks, project / "golden", options, report=lambda line: None)
    texts = [path.read_bytes() for path in paths]
    again = freeze(notebooks[:1], project / "again", options, report=lambda line: None)
    assert [path.read_bytes() for path in again] == texts[:1]

    first = nbformat.read(paths[0], as_version=4)
    nbformat.validate(first)
    assert [cell.id for cell in first.cells[:2]] == ["cell-000", "cell-001"]
    assert compared_of(first, notebooks[0]) == (3, 4)
    shown = json.dumps([output for cell in code_cells(first) for output in cell.outputs])
    assert "counting: 3 of 3" in shown
    assert "said **0.25**" in shown
    for dropped in ("text/html", "widget", "image/png"):
        assert dropped not in shown
    assert b"papermill" not in texts[0]

    changed = texts[0].replace(rb'"pi is 3.14159\n"', rb'"pi is 3.14158\n"')  # only the output
    assert changed != texts[0]
    paths[0].write_bytes(changed)
    (project / "golden" / "metrics.json").write_text(
        json.dumps({"01_first": {"value": {"value": 0.6, "atol": 0.05}}})
    )
    # the order of the command line does not matter: 02 needs what 01 writes
    code, output = nbval(project, "test_metrics.py", "02_second.ipynb", "01_first.ipynb")
    assert code == 1
    assert "2 failed, 7 passed" in output, output  # all but the two that were changed
    assert "3.14158" in output
    assert "01_first/value: 0.5 instead of 0.6" in output


def executed(source: str, *outputs: Any, tags: tuple[str, ...] = ()) -> Any:
    """Return a notebook with one executed code cell."""
    cell = nbformat.v4.new_code_cell(source, execution_count=1, outputs=list(outputs))
    cell.metadata["tags"] = list(tags)
    return nbformat.v4.new_notebook(cells=[cell])


def test_stderr_is_refused_even_where_output_is_ignored() -> None:
    warning = nbformat.v4.new_output("stream", name="stderr", text="Warning: old\n")
    with pytest.raises(RegressionError, match="cell 1 wrote to stderr: 'Warning: old'"):
        _normalize(executed("warn()", warning, tags=(IGNORE_TAG,)))


@pytest.mark.parametrize(
    "text",
    ["saved to /home/me/file.csv", "C:\\data", "took 3.2 s", "12 ms", "on 2026-01-31",
     "<object at 0x7f00deadbeef>", "at 10:20"],
)
def test_unstable_text_is_found(text: str) -> None:
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    assert len(_unstable_outputs(executed("x", output))) == 1


@pytest.mark.parametrize(
    "text",
    ["1/2 and a/b/c", "0.5 +- 0.1", "3 steps", "n = 9 sequences", "see https://arxiv.org/abs/2607",
     "4 splits", "06_step_signals/steps", "</table></div>"],
)
def test_stable_text_is_left_alone(text: str) -> None:
    output = nbformat.v4.new_output("stream", name="stdout", text=text)
    assert _unstable_outputs(executed("x", output)) == []


def test_metrics_are_checked_each_with_its_tolerance(tmp_path: Path) -> None:
    check_metrics = runpy.run_path(str(GOLDEN / "test_metrics.py"))["check_metrics"]
    golden = tmp_path / "metrics.json"
    golden.write_text(json.dumps({"06_a": {"auc": {"value": 0.9, "atol": 0.02},
                                           "far": {"value": 0.1, "atol": 0.01}}}))
    folder = tmp_path / "run" / "06_a"
    folder.mkdir(parents=True)

    def measured(values: dict[str, float]) -> None:
        (folder / "metrics.json").write_text(json.dumps(values))

    measured({"auc": 0.915, "far": 0.095})
    check_metrics(tmp_path / "run", golden)
    for values, message in (
        ({"auc": 0.93, "far": 0.1}, "06_a/auc: 0.93 instead of 0.9"),
        ({"auc": float("nan"), "far": 0.1}, "06_a/auc: nan instead"),
        ({"auc": 0.9}, "06_a/far: missing"),
        ({"auc": 0.9, "far": 0.1, "new": 1.0}, "06_a/new: no reference"),
    ):
        measured(values)
        with pytest.raises(AssertionError, match=message):
            check_metrics(tmp_path / "run", golden)


def test_freezing_metrics_keeps_tolerances_set_by_hand(tmp_path: Path) -> None:
    golden, lines = tmp_path / "metrics.json", list[str]()
    golden.write_text(json.dumps({"06_a": {"auc": {"value": 0.9, "atol": 0.002}}}))
    _freeze_metrics({"06_a": {"auc": 0.91, "far": 0.1}}, golden, lines.append)
    assert json.loads(golden.read_text()) == {
        "06_a": {"auc": {"value": 0.91, "atol": 0.002}, "far": {"value": 0.1, "atol": 0.01}}
    }
    assert lines == ["new metric 06_a/far: check its tolerance in metrics.json"]
