"""The runner around the kernel: what is checked before one starts, what is skipped, what is kept.

A stand-in does what the kernel of a notebook would do, so that no kernel has to start here; real
ones, signals included, are in `tests/integration/test_runner.py`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from monitorlab.pipeline import runner, runs
from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.records import RunRecord, State
from monitorlab.pipeline.runner import Options, RunError, run_notebooks
from monitorlab.pipeline.runs import open_run
from monitorlab.storage.files import digest_file, read_sealed, sealed_json
from monitorlab.storage.manifests import ArtifactError, Results
from monitorlab.storage.settings import ParameterError

SIX, SEVEN, EIGHT = "06_signals", "07_online", "08_shift"
TEXT = """\
# %% [markdown]
# # {number}. Title
#
# > A claim.

# %% [markdown]
# **Reads** {reads}. **Writes** `{writes}`.

# %% tags=["parameters"]
PROFILE: str = "tiny"  # tiny | cpu | gpu
RUN_ID: str = "default"  # folder under data/runs
SEED: int = 2026  # one seed
{more}
"""
TABLES = {SIX: "steps", SEVEN: "metrics", EIGHT: "thresholds"}


def write_notebook(root: Path, stem: str, reads: str = "nothing", more: str = "") -> None:
    (root / "notebooks").mkdir(exist_ok=True)
    text = TEXT.format(number=int(stem[:2]), reads=reads, writes=TABLES[stem], more=more)
    (root / "notebooks" / f"{stem}.py").write_text(text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three notebooks, each of which reads the one before."""
    write_notebook(tmp_path, SIX, more="SHARE: float = 0.5  # how much")
    write_notebook(tmp_path, SEVEN, f"`{SIX}/steps`", 'SCORES_FILE: str = ""  # a file')
    write_notebook(tmp_path, EIGHT, "`metrics`")
    for name in ("MONITORLAB_RUNS", "MONITORLAB_RUNNER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runner, "_run_in", works)
    return tmp_path


def steps(score: float) -> pd.DataFrame:
    return pd.DataFrame({
        "dataset": "math", "signal": "verifier", "trajectory_id": ["a"], "step": 1,
        "score": score, "tokens": 3, "label": 1, "step_label": -1,
    })


def metrics(score: float) -> pd.DataFrame:
    return pd.DataFrame([{
        "dataset": "math", "signal": "v", "statistic": "latest", "calibrator": "crc",
        "risk": "false_alarm", "level": 0.1, "split": 0, "threshold": score,
        "state": "calibrated", "far": 0.0, "power": 0.0, "after_onset": None, "by_half": 0.0,
        "delay": 1.0,
        "restricted_delay": 1.0, "delay_tokens": 1.0, "restricted_delay_tokens": 1.0,
    }])


def write_output(workplace: Path, text: str = "executed") -> None:
    workplace.mkdir(parents=True)
    cell = nbformat.v4.new_code_cell("1", outputs=[
        nbformat.v4.new_output("stream", name="stdout", text=text)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), workplace / "output.ipynb")


def works(
    workplace: Path, notebook: Notebook, values: dict[str, Any], options: Options, label: str,
    profile: str,
) -> None:
    """Do what a kernel does: open the run, read, write, close; the score follows SHARE."""
    write_output(workplace)
    record = RunRecord.load(options.runs, values.get("RUN_ID", "default"), notebook.stem)
    assert record is not None and record.status == "running"
    effective = record.parameters
    with open_run(notebook.stem, profile, record.run_id, int(effective["SEED"]), root=options.root
                  ) as run:
        if notebook.stem == SIX:
            run.write_table("steps", steps(float(effective["SHARE"])))
        elif notebook.stem == SEVEN:
            run.read_table(SIX, "steps")
            run.write_table("metrics", metrics(0.5))
        else:
            run.read_table(SEVEN, "metrics")


def go(root: Path, *names: str, **options: Any) -> list[str]:
    """Run some notebooks of a project; return what was reported."""
    given = options.pop("given", {})
    found = Notebook.discover(root / "notebooks")
    said: list[str] = []
    chosen = [n for n in found if not names or n.stem in names]
    run_notebooks(chosen, given, Options(runs=root / "data" / "runs", root=root,
                                         report=said.append, **options), among=found)
    return said


def done(said: list[str]) -> list[str]:
    """Return the stems that were executed, in order."""
    return [line.split()[1] for line in said if " done in " in line]


def statuses(root: Path, run_id: str = "default") -> list[str]:
    found = Notebook.discover(root / "notebooks", strict=False)
    states = State.of_run(root / "data" / "runs", run_id, found)
    return [state.status for state in states]


# Before anything runs


@pytest.mark.parametrize("seed", [-1, "-1", "1.5", "x", "", 2**31, "99999999999999999999"])
def test_a_seed_that_is_none_is_found_before_anything_runs(project: Path, seed: object) -> None:
    with pytest.raises(ParameterError, match=r"(?i)seed (is|must be).* whole number") as caught:
        go(project, given={"SEED": seed})
    assert len(str(caught.value)) < 200
    assert not (project / "data").exists()


def test_missing_inputs_are_found_before_anything_runs(project: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        go(project, SEVEN)
    for words in (f"{SEVEN} reads tables of {SIX}", "has not been run in run 'default'",
                  "python -m monitorlab run 06 --profile tiny --run-id default", "--with-inputs"):
        assert words in str(caught.value)
    assert not (project / "data").exists()
    go(project, SIX, SEVEN)  # what runs in the same go is no missing input
    assert statuses(project) == ["complete", "complete", "missing"]


def test_inputs_that_cannot_be_read_are_found_before_anything_runs(project: Path) -> None:
    go(project, SIX)
    folder = project / "data" / "runs" / "default" / SIX
    for given, words in (({"SEED": 7}, "with seed 2026, this one has 7"),
                         ({"PROFILE": "cpu"}, "with profile 'tiny', this one has 'cpu'")):
        with pytest.raises(ArtifactError, match=words):
            go(project, SEVEN, given=given)
    whole = (folder / "steps.parquet").read_bytes()
    (folder / "steps.parquet").write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        go(project, SEVEN)
    (folder / "steps.parquet").write_bytes(whole)
    runs.mark(folder, "interrupted")
    with pytest.raises(ArtifactError, match="--with-inputs .* did not finish .*'interrupted'"):
        go(project, SEVEN)
    assert not (folder.parent / SEVEN).exists()


# With inputs, and resumed


def test_inputs_are_run_first_unless_they_are_complete_and_fresh(project: Path) -> None:
    assert done(go(project, EIGHT, with_inputs=True)) == [SIX, SEVEN, EIGHT]
    said = go(project, EIGHT, with_inputs=True)
    assert done(said) == [EIGHT]
    assert said[0] == f"[1/3] {SIX} skipped: complete and fresh"
    path = project / "notebooks" / f"{SIX}.py"
    path.write_text(path.read_text() + "# changed\n")
    said = go(project, EIGHT, with_inputs=True)
    assert done(said) == [SIX, EIGHT], "the content is the same, so 07 is fresh"
    assert said[0] == f"[1/3] {SIX} is run: the notebook changed after this run"
    assert done(go(project, EIGHT, with_inputs=True, given={"SHARE": 0.25})) == [SIX, SEVEN, EIGHT]
    assert statuses(project) == ["complete"] * 3


def test_a_complete_input_is_not_replaced_because_a_parameter_was_left_out(project: Path) -> None:
    go(project, SIX, given={"SHARE": 0.25, "PROFILE": "cpu"})
    words = (f"{SIX} is complete in run 'default' with other parameters than this command gives. "
             "Add -p PROFILE=cpu -p SHARE=0.25 to use it")
    with pytest.raises(ParameterError, match=words):
        go(project, SEVEN, with_inputs=True)
    said = go(project, SEVEN, with_inputs=True, given={"SHARE": 0.25, "PROFILE": "cpu"})
    assert done(said) == [SEVEN]


def change_nothing(root: Path) -> dict[str, object]:
    return {}


def change_notebook(root: Path) -> dict[str, object]:
    path = root / "notebooks" / f"{SIX}.py"
    path.write_text(path.read_text() + "# changed\n")
    return {}


def change_table(root: Path) -> dict[str, object]:
    path = root / "data" / "runs" / "default" / SIX / "steps.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    return {}


def change_data(root: Path) -> dict[str, object]:
    (root / "data" / "prompts").mkdir()
    (root / "data" / "prompts" / "direct.yaml").write_text("new")
    return {}


def run_by_hand(root: Path) -> dict[str, object]:
    with open_run(SIX, "tiny", root=root) as run:
        run.write_table("steps", steps(0.5))
    return {}


def lose_manifest(root: Path) -> dict[str, object]:
    (root / "data" / "runs" / "default" / SIX / "manifest.json").unlink()
    return {}


def break_record(root: Path) -> dict[str, object]:
    path = RunRecord.copy_path(root / "data" / "runs", "default", SIX)
    path.with_suffix(".json").write_text("[]")
    return {}


@pytest.mark.parametrize(("change", "again", "why"), [
    (change_nothing, [], "skipped: complete and fresh"),
    (lambda root: {"SHARE": 0.25}, [SIX, SEVEN], "SHARE is 0.25, was 0.5"),
    (lambda root: {"SEED": 7}, [SIX, SEVEN, EIGHT], "SEED is 7, was 2026"),
    (change_notebook, [SIX], "the notebook changed after this run"),
    (change_table, [SIX], "table 'steps' of 06_signals was changed after it was written"),
    (change_data, [SIX, SEVEN, EIGHT], "the library or its data changed after this run"),
    (run_by_hand, [SIX], "its tables were written again later, and not by the runner"),
    (lose_manifest, [SIX], "notebook 06_signals has not been run"),
    (break_record, [SIX], "the record of its execution, 06_signals.json, is damaged"),
])
def test_resuming_skips_what_is_complete_and_fresh_and_says_why_not(
    project: Path, change: Callable[[Path], dict[str, object]], again: list[str], why: str
) -> None:
    go(project)
    said = go(project, resume=True, given=change(project))
    assert why in said[0] and said[0].startswith(f"[1/3] {SIX} ")
    assert done(said) == again
    assert statuses(project) == ["complete"] * 3
    assert done(go(project)) == [SIX, SEVEN, EIGHT], "without the option everything runs"


def test_resuming_sees_another_version_of_a_library(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(project, SIX)
    versions = runs.package_versions()
    monkeypatch.setattr("monitorlab.pipeline.records.package_versions",
                        lambda: versions | {"numpy": "99"})
    assert "the version of numpy changed" in go(project, SIX, resume=True)[0]


def test_resuming_looks_into_the_files_that_parameters_name(project: Path) -> None:
    (project / "mine.csv").write_text("1")
    given = {"SCORES_FILE": str(project / "mine.csv")}
    go(project, given=given)
    assert done(go(project, resume=True, given=given)) == []
    (project / "mine.csv").write_text("2")
    said = go(project, resume=True, given=given)
    assert done(said) == [SEVEN]
    assert any("the file that SCORES_FILE names changed" in line for line in said)


@pytest.mark.parametrize(("value", "expected"), [
    ("", None), ("mine.py", True), ("mine.py:monitor", True), ("hf:model", ""), ("model", ""),
    ("hf:Qwen/Qwen3-4B", None), ("keywords", None), ("x" * 5_000, None), ("~nobody/x", None),
    ("a\0b", None), ("keywords; mine.py:monitor", True), ("hf:model;coin", ""),
])
def test_a_parameter_may_name_a_file_in_several_ways(
    project: Path, value: str, expected: object
) -> None:
    (project / "mine.py").write_text("1")
    (project / "model").mkdir()
    found = runner._named_files({"MONITOR": value, "PROFILE": "model", "SEED": 3}, project)
    wanted = digest_file(project / "mine.py") if expected is True else expected
    assert found == ({} if wanted is None else {"MONITOR": wanted})


def test_resuming_does_not_look_into_folders(project: Path) -> None:
    (project / "model").mkdir()
    given = {"SCORES_FILE": str(project / "model")}
    go(project, given=given)
    said = go(project, resume=True, given=given)
    assert done(said) == [SEVEN]
    assert any("a parameter names a folder, and what lies in it is not compa" in s for s in said)


def test_resuming_goes_on_after_a_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*arguments: Any) -> None:
        if arguments[1].stem == SEVEN:
            raise ValueError("no")
        works(*arguments)

    monkeypatch.setattr(runner, "_run_in", breaks)
    with pytest.raises(RunError, match=f"{SEVEN} failed outside its cells\n  ValueError: no"):
        go(project)
    assert statuses(project) == ["complete", "failed", "missing"]
    monkeypatch.setattr(runner, "_run_in", works)
    said = go(project, resume=True)
    assert done(said) == [SEVEN, EIGHT]
    assert f"[2/3] {SEVEN} is run: its last execution failed" in said
    assert f"[3/3] {EIGHT} is run: it has not been run yet" in said


# How an execution ends


def test_what_an_earlier_execution_left_is_no_result_of_a_failed_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(project)
    for error, status in ((OSError("no kernel"), "failed"), (KeyboardInterrupt(), "interrupted")):
        def ends(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(runner, "_run_in", ends)
        with pytest.raises((RunError, KeyboardInterrupt)):
            go(project, SIX)
        assert statuses(project)[0] == status
        manifest = Results(project / "data" / "runs" / "default" / SIX).manifest() or {}
        assert manifest["status"] == status
        with pytest.raises(ArtifactError, match="did not finish"):
            go(project, SEVEN)


def test_an_error_while_the_terminal_goes_away_is_an_interruption(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(workplace: Path, *_: object) -> None:
        write_output(workplace, "so far")
        try:
            raise KeyboardInterrupt
        finally:
            raise OSError(errno.EIO, "the progress bar cannot be drawn")

    monkeypatch.setattr(runner, "_run_in", ends)
    with pytest.raises(KeyboardInterrupt):
        go(project, SIX)
    assert statuses(project)[0] == "interrupted"
    assert "so far" in RunRecord.copy_path(project / "data" / "runs", "default", SIX).read_text()


@pytest.mark.parametrize("half", [None, "", '{"cells": [', "[", "\xff"])
def test_a_full_disk_leaves_the_old_copy_and_says_failed(
    project: Path, monkeypatch: pytest.MonkeyPatch, half: str | None
) -> None:
    go(project)
    path = RunRecord.copy_path(project / "data" / "runs", "default", SIX)
    before = path.read_bytes()

    def fills(workplace: Path, *_: object) -> None:
        workplace.mkdir()
        if half is not None:
            (workplace / "output.ipynb").write_text(half, encoding="latin-1")

        def full(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patched.setattr("tempfile.mkstemp", full)  # from now on nothing new can be written
        full()

    with monkeypatch.context() as patched:
        patched.setattr(runner, "_run_in", fills)
        with pytest.raises(RunError) as caught:
            go(project, SIX)
    message = str(caught.value)
    assert "No space left on device: the disk is full" in message
    assert "Free some space and run the same command again" in message
    assert "executed up to there" not in message and len(message) < 500
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir() if SIX in p.name) == [
        f"{SIX}.ipynb", f"{SIX}.json"]
    found = Notebook.discover(project / "notebooks")
    state = State.of_run(project / "data" / "runs", "default", found)[0]
    assert state.status == "failed"
    assert "the executed copy is that of an earlier execution" in state.reason


def test_a_disk_that_was_full_before_says_failed_too(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    for names, expected in (((SIX,), "missing"), ((), "failed")):
        with monkeypatch.context() as patched:
            patched.setattr("tempfile.mkstemp", full)
            with pytest.raises(RunError, match="the disk is full; .* run the same command again"):
                go(project, *names)
        assert statuses(project)[0] == expected
        go(project)


# Who is gone, and who is there


def leave_dead(root: Path, output: str | None) -> Path:
    """Leave what a runner leaves that was killed while notebook 06 worked."""
    go(root)
    folder = root / "data" / "runs"
    record = RunRecord.load(folder, "default", SIX)
    assert record is not None
    values = vars(record) | {"status": "running", "finished": "", "process": 2**22 + 1}
    type(record)(**values).save(folder)
    runs.mark(folder / "default" / SIX, "running")
    part = RunRecord.copy_path(folder, "default", SIX).parent / f".{SIX}.{2**22 + 1}.part"
    write_output(part, "printed before the end")
    if output is not None:
        (part / "output.ipynb").write_text(output)
    return part


@pytest.mark.parametrize("output", [None, "", '{"cells": ['])
def test_what_a_killed_runner_left_is_picked_up(project: Path, output: str | None) -> None:
    part = leave_dead(project, output)
    copy = RunRecord.copy_path(project / "data" / "runs", "default", SIX)
    found = Notebook.discover(project / "notebooks")
    state = State.of_run(project / "data" / "runs", "default", found)[0]
    assert state.status == "interrupted" and "the process that ran it is gone" in state.reason
    assert part.exists(), "looking changes nothing"
    (part.parent / f".{SIX}.json.abc.tmp").touch()
    RunRecord.pick_up(project / "data" / "runs", "default")
    assert [p.name for p in part.parent.glob(".*")] == []
    assert ("printed before the end" in copy.read_text()) == (output is None)
    assert statuses(project)[0] == "interrupted"
    manifest = Results(project / "data" / "runs" / "default" / SIX).manifest() or {}
    assert manifest["status"] == "interrupted"
    assert done(go(project, resume=True)) == [SIX]


def test_a_run_picks_up_other_notebooks_of_the_dead(project: Path) -> None:
    part = leave_dead(project, None)
    go(project, SIX, given={"RUN_ID": "other"})
    assert part.exists(), "another run"
    with pytest.raises(ArtifactError, match="did not finish"):
        go(project, SEVEN)
    go(project, SEVEN, with_inputs=True)
    assert not part.exists()


def test_running_is_what_the_holder_of_the_run_does(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def looks(*arguments: Any) -> None:
        seen.append(State.of_run(project / "data" / "runs", "default", Notebook.discover(
            project / "notebooks"))[0])
        works(*arguments)

    monkeypatch.setattr(runner, "_run_in", looks)
    go(project, SIX)
    assert (seen[0].status, seen[0].reason) == ("running", f"by process {os.getpid()}")
    record = RunRecord.load(project / "data" / "runs", "default", SIX)
    assert record is not None
    type(record)(**vars(record) | {"status": "running"}).save(project / "data" / "runs")
    # this process is alive, and somebody may have got the number of a dead one
    assert statuses(project)[0] == "interrupted"


# What cannot be read


@pytest.mark.parametrize("text", [
    "", "{", "[]", "3", "null", '"x"', "{}", '{"status": "complete"}', "\xff\xfe", "[" * 100_000,
])
def test_one_broken_record_stops_nothing(project: Path, text: str) -> None:
    go(project)
    path = RunRecord.copy_path(project / "data" / "runs", "default", SEVEN).with_suffix(".json")
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError):
        RunRecord.load(project / "data" / "runs", "default", SEVEN)
    found = Notebook.discover(project / "notebooks")
    states = State.of_run(project / "data" / "runs", "default", found)
    assert [s.status for s in states] == ["complete", "broken", "stale"]
    assert "07_online.json, is damaged" in states[1].reason and len(states[1].reason) < 400
    assert "python -m monitorlab run 07 --run-id default" in states[1].reason


@pytest.mark.parametrize("change", [{"colour": "blue"}, {"failure": {"cell": 1}}])
def test_a_record_of_another_version_stops_nothing(
    project: Path, change: dict[str, object]
) -> None:
    go(project, SIX)
    path = RunRecord.copy_path(project / "data" / "runs", "default", SIX).with_suffix(".json")
    path.write_text(sealed_json(read_sealed(path) | change))
    assert statuses(project)[0] == "broken"


def test_a_flipped_byte_of_a_record_is_noticed(project: Path) -> None:
    go(project, SIX)
    path = RunRecord.copy_path(project / "data" / "runs", "default", SIX).with_suffix(".json")
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        if not whole[place:place + 1].isspace():
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
            assert statuses(project)[0] == "broken", place


def test_an_executed_notebook_whose_source_is_gone_is_shown(project: Path) -> None:
    go(project)
    (project / "notebooks" / f"{SEVEN}.py").rename(project / "notebooks" / "07_renamed.py")
    found = Notebook.discover(project / "notebooks", strict=False)
    states = State.of_run(project / "data" / "runs", "default", found)
    assert [(s.notebook.stem, s.status) for s in states][1::2] == [
        ("07_renamed", "missing"), (SEVEN, "stale")]
    assert states[-1].reason == "its source is no longer among the notebooks"


def test_an_executed_copy_that_is_gone_is_shown(project: Path) -> None:
    go(project)
    RunRecord.copy_path(project / "data" / "runs", "default", SIX).unlink()
    assert statuses(project) == ["broken", "complete", "complete"]


def test_headlines_that_are_none_are_left_out(project: Path) -> None:
    go(project, SIX)
    path = project / "data" / "runs" / "default" / SIX / "headline.json"
    for text in ("3", "[]", '"value"', "{", "null", "true"):
        path.write_text(text)
        assert statuses(project)[0] == "complete"
    path.write_text(json.dumps({"value": 3, "caption": "c"}))
    found = Notebook.discover(project / "notebooks")
    state = State.of_run(project / "data" / "runs", "default", found)[0]
    assert state.headline == {"value": "3", "caption": "c"}
