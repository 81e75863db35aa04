"""Runs: what is read is complete, unchanged and up to date, or the error says what to run."""

import errno
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitorlab.pipeline.runs import Run, RunLock, _digest_table, mark, open_run
from monitorlab.storage import files
from monitorlab.storage.files import (
    LIBRARIES,
    TRAINING,
    made_by,
    write_folder_atomic,
    write_text_atomic,
)
from monitorlab.storage.manifests import ArtifactError, Results
from monitorlab.storage.tables import SchemaError

SIX, SEVEN, EIGHT = "06_step_signals", "07_online_monitoring", "08_shift"


@pytest.fixture(autouse=True)
def _no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MONITORLAB_RUNS", "MONITORLAB_CHECKPOINTS", "MONITORLAB_ROOT"):
        monkeypatch.delenv(name, raising=False)


def begin(root: Path, notebook: str = SIX, **options: Any) -> Run:
    values: dict[str, Any] = {"profile": "tiny", "seed": 1, "root": root} | options
    return open_run(notebook, **values)


def steps(score: float = 0.5) -> pd.DataFrame:
    return pd.DataFrame({
        "dataset": "math", "signal": "verifier", "trajectory_id": ["b", "a"], "step": 1,
        "score": [score, 0.25], "tokens": 3, "label": [1, 0], "step_label": -1,
    })


def metrics() -> pd.DataFrame:
    return pd.DataFrame([{
        "dataset": "math", "signal": "v", "statistic": "latest", "calibrator": "crc",
        "risk": "false_alarm", "level": 0.1, "split": 0, "threshold": np.inf,
        "state": "never_alarm", "far": 0.0, "power": 0.0, "after_onset": None, "by_half": 0.0,
        "delay": np.nan,
        "restricted_delay": 1.0, "delay_tokens": np.nan, "restricted_delay_tokens": 1.0,
    }])


def finish(root: Path, frame: pd.DataFrame | None = None, **options: Any) -> Run:
    run = begin(root, **options)
    run.write_table("steps", steps() if frame is None else frame)
    run.close()
    return run


# Round trip and manifest


def test_a_table_comes_back_sorted_and_typed(tmp_path: Path) -> None:
    finish(tmp_path)
    frame = begin(tmp_path, SEVEN).read_table(SIX, "steps")
    assert list(frame["trajectory_id"]) == ["a", "b"]
    assert frame["step"].dtype == np.int64 and list(frame["score"]) == [0.25, 0.5]


@pytest.mark.parametrize("name", ["metrics", "verdicts"])
def test_missing_and_infinite_values_survive(tmp_path: Path, name: str) -> None:
    frame = metrics() if name == "metrics" else pd.DataFrame({
        "sample_id": ["a", "b"], "monitor": "m", "prompt": "p", "draw": 0,
        "status": ["parsed", "error"], "verdict": [False, None], "score": [0.5, None],
        "evidence": ["ä\n", None], "input_tokens": [3, None], "output_tokens": [3, None],
        "seconds": [1.0, None], "cost_usd": None, "request_hash": "x",
    })
    run = begin(tmp_path)
    run.write_table(name, frame)
    once = run.read_table(SIX, name)
    run.close()
    pd.testing.assert_frame_equal(begin(tmp_path, SEVEN).read_table(SIX, name), once)
    assert once.isna().sum().sum() == frame.isna().sum().sum()


def test_a_run_reads_back_its_own_table_before_it_is_closed(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.write_table("steps", steps())
    assert len(run.read_table(SIX, "steps")) == 2
    assert run.inputs == {}


def test_the_manifest_records_the_run(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / f"{SEVEN}.py").write_text("# %%\n")
    finish(tmp_path)
    with begin(tmp_path, SEVEN, parameters={"ALPHA": 0.1}) as run:
        run.read_table(SIX, "steps")
        run.write_table("metrics", metrics())
        run.write_metrics({"far": np.float64(0.5)})
    manifest = Results(run.folder).manifest()
    assert manifest is not None
    expected = {"notebook": SEVEN, "run_id": "default", "status": "complete", "profile": "tiny",
                "seed": 1, "parameters": {"ALPHA": 0.1}, "device": "cpu"}
    assert {name: manifest[name] for name in expected} == expected
    assert manifest["inputs"][f"{SIX}/steps"]["rows"] == 2
    assert manifest["outputs"]["metrics"]["rows"] == 1
    assert len(manifest["outputs"]["metrics"]["digest"]) == len(manifest["source_digest"]) == 64
    assert manifest["packages"]["numpy"] == np.__version__
    assert manifest["seconds"] >= 0 and manifest["code"] == {"commit": None, "dirty": None}
    assert json.loads((run.folder / "metrics.json").read_text()) == {"far": 0.5}
    assert str(tmp_path) not in (run.folder / "manifest.json").read_text()


def test_commit_and_dirty_flag_are_recorded_inside_git(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / ".gitignore").write_text("data/\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run(git + words, check=True)
    assert (Results(finish(tmp_path).folder).manifest() or {})["code"]["dirty"] is False
    (tmp_path / "new.txt").write_text("x")
    code = (Results(finish(tmp_path).folder).manifest() or {})["code"]
    assert code["dirty"] is True and len(code["commit"]) == 40


def test_digests_depend_on_content_and_not_on_row_order_or_compression(tmp_path: Path) -> None:
    first = finish(tmp_path).outputs["steps"]["digest"]
    assert finish(tmp_path, steps().iloc[::-1]).outputs["steps"]["digest"] == first
    assert finish(tmp_path, steps(0.51)).outputs["steps"]["digest"] != first
    path = finish(tmp_path).folder / "steps.parquet"
    pq.write_table(pq.read_table(path), tmp_path / "other.parquet", compression="none")
    assert files.digest_file(path) != files.digest_file(tmp_path / "other.parquet")
    assert _digest_table(pq.read_table(tmp_path / "other.parquet")) == first


def test_text_digests_see_where_one_text_ends(tmp_path: Path) -> None:
    one, two = steps(), steps()
    one["trajectory_id"], two["trajectory_id"] = ["ab", "c"], ["a", "bc"]
    digests = [finish(tmp_path, frame.assign(score=0.5, label=0)).outputs["steps"]["digest"]
               for frame in (one, two)]
    assert digests[0] != digests[1]


def test_long_text_digests_depend_on_the_texts_alone() -> None:
    def table(texts: list[str | None]) -> pa.Table:
        found = pa.Table.from_pandas(pd.DataFrame({"text": pd.Series(texts, dtype="str").copy()}))
        assert pa.types.is_large_string(found.schema.field("text").type)
        return found

    texts = ["ä", "bc", None, ""]
    first = _digest_table(table(texts))
    assert _digest_table(table(["".join(list(text)) if text else text for text in texts])) \
        == first
    for other in (["äb", "c", None, ""], ["ä", "bc", "", None], ["ä", "bc", None, "x"]):
        assert _digest_table(table(other)) != first
    assert _digest_table(table([None, *texts]).slice(1)) == first


def test_digests_tell_missing_from_zero(tmp_path: Path) -> None:
    run, digests = begin(tmp_path), []
    for delay in (0.0, np.nan):
        run.write_table("metrics", metrics().assign(delay=delay))
        digests.append(run.outputs["metrics"]["digest"])
    assert digests[0] != digests[1]


# Refusals on writing


def test_a_bad_frame_writes_nothing(tmp_path: Path) -> None:
    run = begin(tmp_path)
    with pytest.raises(SchemaError, match="column 'score', row 0"):
        run.write_table("steps", steps(np.nan))
    assert [path.name for path in run.folder.iterdir()] == ["manifest.json"]


def test_an_unknown_table_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="unknown table 'stepz': expected one of samples, "):
        begin(tmp_path).write_table("stepz", steps())


def test_a_closed_run_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is complete. Write before"):
        finish(tmp_path).write_table("steps", steps())


@pytest.mark.parametrize("value", [np.nan, np.inf, "0.5", None, True])
def test_a_metric_is_a_finite_number(tmp_path: Path, value: Any) -> None:
    run = begin(tmp_path)
    with pytest.raises(ArtifactError, match="metric 'far': found .* expected a finite number"):
        run.write_metrics({"far": value})
    assert not (run.folder / "metrics.json").exists()


@pytest.mark.parametrize("options", [
    {"run_id": "../elsewhere"}, {"run_id": ""}, {"run_id": ".hidden"}, {"notebook": "a/b"},
    {"seed": -1}, {"seed": 1.5}, {"seed": True}, {"seed": "1"}, {"seed": 2**31},
    {"profile": "huge"},
])
def test_bad_names_and_seeds_are_refused_before_anything_is_made(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="expected"):
        begin(tmp_path, **({"notebook": SIX} | options))
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot record .*PosixPath"):
        begin(tmp_path, parameters={"FILE": tmp_path})


# Refusals on reading


def refusal(root: Path, table: str = "steps", **options: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        begin(root, SEVEN, **options).read_table(SIX, table)
    assert "python -m monitorlab run 06" in str(caught.value)
    return str(caught.value)


def test_a_missing_run_names_the_notebook(tmp_path: Path) -> None:
    assert f"notebook {SIX} has not been run in run 'default'" in refusal(tmp_path)


def test_another_run_id_is_another_run(tmp_path: Path) -> None:
    finish(tmp_path)
    message = refusal(tmp_path, run_id="second")
    assert "run 'second'" in message and "--run-id second" in message


def test_a_table_that_was_not_written_is_named(tmp_path: Path) -> None:
    finish(tmp_path)
    assert "wrote steps in run 'default', but not 'trajectories'" in refusal(
        tmp_path, "trajectories")


def test_an_unfinished_run_is_not_read(tmp_path: Path) -> None:
    finish(tmp_path)
    begin(tmp_path).write_table("steps", steps())  # opened again, never closed: a crash
    assert "did not finish" in refusal(tmp_path) and "'running'" in refusal(tmp_path)


def test_a_failed_run_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(KeyError), begin(tmp_path) as run:
        run.write_table("steps", steps())
        raise KeyError
    assert "'failed'" in refusal(tmp_path)


def test_opening_again_removes_what_the_last_run_left(tmp_path: Path) -> None:
    run = finish(tmp_path)
    run.write_metrics({"far": 0.1})
    (run.folder / "figures").mkdir()
    (run.folder / "figures" / "06_x.png").write_bytes(b"")
    (run.folder / "notes.txt").write_text("mine")
    begin(tmp_path)
    left = sorted(path.name for path in run.folder.rglob("*") if path.is_file())
    assert left == ["manifest.json", "notes.txt"]


def test_a_table_from_another_profile_or_seed_is_not_read(tmp_path: Path) -> None:
    finish(tmp_path)
    message = refusal(tmp_path, profile="cpu")
    assert "run with profile 'tiny', this one has 'cpu'" in message and "--profile cpu" in message
    message = refusal(tmp_path, seed=2)
    assert "run with seed 1, this one has 2" in message and "-p SEED=2" in message


def test_a_file_changed_afterwards_is_not_read(tmp_path: Path) -> None:
    path = finish(tmp_path).folder / "steps.parquet"
    table = pq.read_table(path)
    scores = table.column("score").to_pylist()
    index = table.schema.get_field_index("score")
    pq.write_table(table.set_column(index, table.schema.field("score"), [[scores[0], 0.9]]), path)
    assert "was changed after it was written" in refusal(tmp_path)


def test_a_flipped_byte_of_a_table_is_always_the_one_error(tmp_path: Path) -> None:
    path = finish(tmp_path).folder / "steps.parquet"
    whole, reader, said = path.read_bytes(), begin(tmp_path, SEVEN), set()
    for place in (*range(0, len(whole), 53), len(whole) - 1):  # data, footer, magic words
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1:])
        with pytest.raises(ArtifactError) as caught:
            reader.read_table(SIX, "steps")
        said.add(str(caught.value))
    for cut in (b"", whole[:200], whole[:-1], whole + b" "):
        path.write_bytes(cut)
        said.add(refusal(tmp_path))
    (only,) = said
    assert only.startswith(f"table 'steps' of {SIX} was changed after it was written. Run the")
    assert reader.inputs == {}
    path.unlink()
    assert "is gone, although its run is complete" in refusal(tmp_path)


def test_a_flipped_byte_of_a_manifest_is_always_the_one_error(tmp_path: Path) -> None:
    path = finish(tmp_path).folder / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        if whole[place:place + 1].isspace():  # not content
            continue
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        with pytest.raises(ArtifactError, match="manifest.json is not a manifest as it was writt"):
            Results(path.parent).manifest()
    for text in (b"", b"{", b"[]", b"3", b'"text"', b"null", b"{}", b"\xff\xfe", whole[:-40],
                 b"[" * 100_000, json.dumps({"status": "complete"}).encode()):
        path.write_bytes(text)
        message = refusal(tmp_path)
        assert "is not a manifest as it was written" in message and len(message) < 600
        with pytest.raises(ArtifactError, match="is not a manifest"):
            Results(path.parent).stale()


def chain(root: Path) -> Run:
    """Run 06, then 07 which reads it, both complete."""
    finish(root)
    with begin(root, SEVEN) as seven:
        seven.read_table(SIX, "steps")
        seven.write_table("metrics", metrics())
    return seven


def test_a_table_made_from_an_older_input_is_stale(tmp_path: Path) -> None:
    seven = chain(tmp_path)
    assert Results(seven.folder).stale() == []
    finish(tmp_path, steps(0.75))
    with pytest.raises(ArtifactError) as caught:
        begin(tmp_path, EIGHT).read_table(SEVEN, "metrics")
    message = str(caught.value)
    assert f"{SEVEN} read an older 'steps' of {SIX}" in message
    assert "is stale" in message and "python -m monitorlab run 07" in message


def test_a_rerun_with_the_same_content_makes_nothing_stale(tmp_path: Path) -> None:
    seven = chain(tmp_path)
    finish(tmp_path)
    assert Results(seven.folder).stale() == []
    assert len(begin(tmp_path, EIGHT).read_table(SEVEN, "metrics")) == 1


def test_an_input_that_is_unfinished_or_gone_makes_stale(tmp_path: Path) -> None:
    seven = chain(tmp_path)
    six = begin(tmp_path)
    assert "is running" in Results(seven.folder).stale()[0]
    (six.folder / "manifest.json").unlink()
    assert "is gone" in Results(seven.folder).stale()[0]


def test_staleness_is_found_two_notebooks_up(tmp_path: Path) -> None:
    chain(tmp_path)
    with begin(tmp_path, EIGHT) as eight:
        eight.read_table(SEVEN, "metrics")
        eight.write_table("metrics", metrics())
    finish(tmp_path, steps(0.75))
    assert Results(eight.folder).stale() == [f"{SEVEN} read an older 'steps' of {SIX}"]


# Randomness


def test_generators_depend_on_seed_and_name_only(tmp_path: Path) -> None:
    run = begin(tmp_path, seed=2026)
    first = run.rng("splits").random(3)
    run.rng("other").random(100)
    np.testing.assert_array_equal(run.rng("splits").random(3), first)
    assert not np.array_equal(run.rng("other").random(3), first)
    assert not np.array_equal(begin(tmp_path, seed=2027).rng("splits").random(3), first)


def test_seeds_are_the_same_in_another_process(tmp_path: Path) -> None:
    run = begin(tmp_path, seed=2026)
    code = ("from pathlib import Path; from monitorlab.pipeline.runs import RunLock, open_run;"
            f"r = open_run('x', 'tiny', seed=2026, root=Path({str(tmp_path)!r}));"
            "print(r.torch_seed('strong'), r.rng('a').integers(2**62))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env=os.environ | {"PYTHONHASHSEED": "7"})
    assert done.stdout.split() == [str(run.torch_seed("strong")), str(run.rng("a").integers(2**62))]
    assert 0 <= run.torch_seed("strong") < 2**31
    assert run.torch_seed("strong") != run.torch_seed("weak")


# Atomic writes


def test_a_crash_between_write_and_rename_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")

    def crash(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        write_text_atomic(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def full_disk(_: object, path: Path | str, *__: object, **___: object) -> None:
    Path(path).write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


ADVICE = "the disk is full; .* as it was before. Free some space and run the same command again"


def test_a_full_disk_leaves_the_table_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(tmp_path)
    run.write_table("steps", steps())
    before = dict(run.outputs)
    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match=ADVICE) as caught:
        run.write_table("steps", steps(0.75))
    assert caught.value.errno == errno.ENOSPC and "steps.parquet" in str(caught.value)
    assert sorted(path.name for path in run.folder.iterdir()) == ["manifest.json", "steps.parquet"]
    assert run.outputs == before
    assert run.read_table(SIX, "steps")["score"].max() == 0.5


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained_wherever_something_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_text_atomic(tmp_path / "a.txt", "old")
    with write_folder_atomic(tmp_path / "model") as folder:
        (folder / "weights").write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    places = [("tempfile.mkstemp", "tempfile.mkdtemp"), ("os.replace", "os.rename")]
    for place in places:
        with monkeypatch.context() as patched:
            for name in place:
                patched.setattr(name, full)
            with pytest.raises(OSError, match=ADVICE):
                write_text_atomic(tmp_path / "a.txt", "new")
            with pytest.raises(OSError, match=ADVICE), write_folder_atomic(tmp_path / "model"):
                pass
    assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_folder_atomic(tmp_path / "model") as folder:
        (folder / "weights").write_text("old")
    rename = os.rename

    def full(source: Path, target: Path) -> None:
        if source.suffix == ".tmp":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match=ADVICE), write_folder_atomic(tmp_path / "model") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(RuntimeError, match="killed"), write_folder_atomic(path) as folder:
        (folder / "weights").write_text("half")
        assert not path.exists()
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []
    for text in ("one", "two"):
        with write_folder_atomic(path) as folder:
            (folder / "weights").write_text(text)
    assert (path / "weights").read_text() == "two" and list(tmp_path.iterdir()) == [path]


def test_a_finished_folder_is_readable_by_colleagues(tmp_path: Path) -> None:
    with write_folder_atomic(tmp_path / "model") as folder:
        (folder / "sub").mkdir(mode=0o700)
        (folder / "sub" / "weights").touch(mode=0o600)
        (tmp_path / "elsewhere").touch(mode=0o600)
        (folder / "link").symlink_to(tmp_path / "elsewhere")
    modes = {name: (tmp_path / name).stat().st_mode & 0o777
             for name in ("model", "model/sub", "model/sub/weights", "elsewhere")}
    assert list(modes.values()) == [0o755, 0o755, 0o644, 0o600], modes


# Checkpoints


class Build:
    """Saves a small file and counts its calls."""

    def __init__(self, text: str = "weights") -> None:
        self.calls, self.text = 0, text

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "model.bin").write_text(self.text)


def test_a_checkpoint_is_built_once_and_shared_between_runs(tmp_path: Path) -> None:
    build = Build()
    first, second = begin(tmp_path), begin(tmp_path, run_id="second")
    folder = first.checkpoint("strong", {"steps": 3, "sizes": {"b": 1, "a": 2}}, build)
    assert second.checkpoint("strong", {"sizes": {"a": 2, "b": 1}, "steps": 3}, build) == folder
    assert build.calls == 1 and folder.name.startswith("strong-")
    assert folder.is_relative_to(tmp_path / "data" / "cache" / "checkpoints")
    assert (first.checkpoints["strong"]["reused"], second.checkpoints["strong"]["reused"]) == (
        False, True)
    assert first.checkpoints["strong"]["content"] == second.checkpoints["strong"]["content"]
    first.close()
    recorded = (Results(first.folder).manifest() or {})["checkpoints"]["strong"]
    assert folder.name.endswith(recorded["fingerprint"][:12])


def test_a_changed_fingerprint_builds_beside_the_old_one(tmp_path: Path) -> None:
    build, run = Build(), begin(tmp_path)
    folders = {run.checkpoint("strong", {"steps": steps}, build) for steps in (3, 4, 3)}
    assert len(folders) == 2 and build.calls == 2


def test_a_failed_build_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    run = begin(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run.checkpoint("strong", {"steps": 3}, fail)
    assert list((tmp_path / "data" / "cache" / "checkpoints").iterdir()) == []
    build = Build()
    run.checkpoint("strong", {"steps": 3}, build)
    assert build.calls == 1


@pytest.mark.parametrize("damage", [
    "change", "delete", "add", "{", "[]", "3", "null", '{"digest": "x"}',
    '{"digest": 1, "files": 2}', '{"digest": 1, "files": {"a": [1]}}',
])
def test_a_changed_checkpoint_is_reported(tmp_path: Path, damage: str) -> None:
    run = begin(tmp_path)
    folder = run.checkpoint("strong", {"steps": 3}, Build())
    weights, named = folder / "sub" / "model.bin", "sub/model.bin"
    if damage == "change":
        weights.write_text("other")
    elif damage == "delete":
        weights.unlink()
    elif damage == "add":
        (folder / "extra").write_text("x")
        named = "extra"
    else:
        (folder / "fingerprint.json").write_text(damage)
    with pytest.raises(ArtifactError, match="was changed after it was built") as caught:
        run.checkpoint("strong", {"steps": 3}, Build())
    assert named in str(caught.value) and "Delete the folder" in str(caught.value)


def test_checkpoints_can_be_kept_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITORLAB_CHECKPOINTS", str(tmp_path / "elsewhere"))
    folder = begin(tmp_path).checkpoint("strong", {}, Build())
    assert folder.parent == tmp_path / "elsewhere"


def _race(root: Path, number: int, barrier: Any, results: Any) -> None:
    run = open_run("06_x", "tiny", run_id=f"r{number}", root=root)

    def build(folder: Path) -> None:
        (folder / "model.bin").write_text(f"weights of {number}")
        barrier.wait()  # both are ready before either renames

    run.checkpoint("strong", {"steps": 3}, build)
    results.put(run.checkpoints["strong"]["content"])


def test_two_processes_that_build_the_same_checkpoint_agree_on_one(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_race, args=(tmp_path, i, barrier, results))
               for i in range(2)]
    for worker in workers:
        worker.start()
    contents = {results.get(timeout=20) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(contents) == 1 and all(worker.exitcode == 0 for worker in workers)
    assert len(list((tmp_path / "data" / "cache" / "checkpoints").iterdir())) == 1


def test_every_line_of_the_packages_that_train_is_in_a_checkpoints_name(tmp_path: Path) -> None:
    root = tmp_path / "library"
    for package in TRAINING:
        shutil.copytree(files.LIBRARY / package, root / package,
                        ignore=shutil.ignore_patterns("__pycache__"))
    known = made_by(root)
    assert known == made_by()
    found = sorted(file for file in root.rglob("*") if file.is_file())
    assert {"train.py", "engine.py", "step_scores.py"} <= {file.name for file in found}
    for file in found[::7]:
        text = file.read_text()
        lines = text.splitlines(keepends=True)
        middle = len(lines) // 2
        file.write_text("".join([*lines[:middle], "#\n", *lines[middle:]]))
        assert made_by(root)["code"] != known["code"], file
        file.write_text(text)
    assert made_by(root) == known
    (root / "signals" / "new.py").touch()
    added = made_by(root)["code"]
    (root / "signals" / "new.py").rename(root / "signals" / "other.py")
    assert len({known["code"], added, made_by(root)["code"]}) == 3
    (root / "signals" / "__pycache__").mkdir()
    (root / "signals" / "other.py").rename(root / "signals" / "__pycache__" / "other.pyc")
    assert made_by(root) == known
    shutil.rmtree(root / "monitors")
    with pytest.raises(FileNotFoundError, match="no package 'monitors'"):
        made_by(root)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_versions_of_the_libraries_are_in_a_checkpoints_name(
    tmp_path: Path, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, run = Build(), begin(tmp_path)
    first = run.checkpoint("strong", {}, build)
    version = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "99.1" if name == library else version(name))
    assert run.checkpoint_folder("strong", {}) != first
    assert run.checkpoint("strong", {}, build) != first and build.calls == 2
    stored = json.loads((run.checkpoint_folder("strong", {}) / "fingerprint.json").read_text())
    assert stored["fingerprint"]["made by"]["versions"][library] == "99.1"


def test_code_digest_follows_the_source() -> None:
    assert files.code_digest(steps) == files.code_digest(steps)
    assert files.code_digest(steps) != files.code_digest(metrics)


# Places and sources


def test_the_run_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITORLAB_RUNS", str(tmp_path / "runs"))
    assert open_run(SIX, "tiny").folder == tmp_path / "runs" / "default" / SIX


def test_the_project_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONITORLAB_ROOT", str(tmp_path))
    assert open_run(SIX, "tiny", "r").folder == tmp_path / "data" / "runs" / "r" / SIX


def test_a_users_file_is_recorded_by_name_and_digest(tmp_path: Path) -> None:
    run = begin(tmp_path)
    (tmp_path / "scores.csv").write_text("a\n")
    run.record_file(tmp_path / "scores.csv")
    assert run.inputs == {
        "file/scores.csv": {"digest": files.digest_file(tmp_path / "scores.csv")}}
    with pytest.raises(ArtifactError, match=r"no file .*nothere.csv"):
        run.record_file(tmp_path / "nothere.csv")
    run.close()
    assert Results(run.folder).stale() == []


# Tables given by hand, and run folders with somebody in them


def test_a_table_of_a_run_that_is_given_by_hand_passes_the_same_door(tmp_path: Path) -> None:
    run = finish(tmp_path)
    path = run.folder / "steps.parquet"
    Results.check_file(path)
    mark(run.folder, "interrupted")
    with pytest.raises(ArtifactError, match="did not finish .*'interrupted'"):
        Results.check_file(path)
    finish(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        Results.check_file(path)
    (tmp_path / "copy").mkdir()
    path.rename(tmp_path / "copy" / "steps.parquet")
    Results.check_file(tmp_path / "copy" / "steps.parquet")  # nobody's run


def test_a_mark_from_outside_keeps_the_rest_of_the_manifest(tmp_path: Path) -> None:
    run = finish(tmp_path)
    before = Results(run.folder).manifest() or {}
    mark(run.folder, "failed")
    assert Results(run.folder).manifest() == before | {"status": "failed"}
    (run.folder / "manifest.json").write_text("{")
    mark(run.folder, "complete")
    assert (run.folder / "manifest.json").read_text() == "{"
    mark(tmp_path / "nowhere", "failed")
    assert not (tmp_path / "nowhere").exists()


def _hold(folder: Path, held: Any, done: Any) -> None:
    with RunLock(folder).hold():
        held.set()
        done.wait(20)


def test_a_live_run_folder_names_its_process_and_a_dead_one_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "runs" / "default"
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    worker = context.Process(target=_hold, args=(folder, held, done))
    worker.start()
    assert held.wait(20)
    who = f"run 'default' is being executed by process {worker.pid} since 20"
    assert (RunLock(folder).holder() or {})["process"] == worker.pid
    with pytest.raises(ArtifactError, match=who), RunLock(folder).hold():
        pass
    with pytest.raises(ArtifactError, match=who):
        begin(tmp_path)
    with RunLock(folder.parent / "other").hold():
        pass
    begin(tmp_path, run_id="other")
    worker.kill()
    worker.join()
    assert RunLock(folder).holder() is None
    with RunLock(folder).hold():
        assert (RunLock(folder).holder() or {})["process"] == os.getpid()
        begin(tmp_path)


def test_a_kernel_of_the_runner_may_open_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "runs" / "default"
    context = multiprocessing.get_context("fork")
    held, done = context.Event(), context.Event()
    worker = context.Process(target=_hold, args=(folder, held, done))
    worker.start()
    assert held.wait(20)
    monkeypatch.setenv("MONITORLAB_RUNNER", str(worker.pid))
    begin(tmp_path)
    done.set()
    worker.join()
