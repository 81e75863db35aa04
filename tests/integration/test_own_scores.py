"""Notebook 07 on a user's own file: every table includes it, a bad file stops it before writing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from monitorlab.online.comparison import ALL_METHODS
from monitorlab.pipeline.notebooks import Notebook
from monitorlab.pipeline.profiles import Profile
from monitorlab.pipeline.records import State
from monitorlab.pipeline.runner import Options, RunError, run_notebooks
from monitorlab.pipeline.runs import open_run
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.sources import project_root

NOTEBOOK = "07_online_monitoring"


def steps(seed: int, dataset: str, signal: str, n: int = 160) -> pd.DataFrame:
    """Random walks of suspicion that drift upwards in unsafe sequences."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        label, length = int(rng.random() < 0.4), int(rng.integers(2, 6))
        walk = np.cumsum(rng.normal(0.4 * label, 1.0, length))
        rows += [(dataset, signal, f"t{i}", t + 1, walk[t], 5, label, -1) for t in range(length)]
    columns = ["dataset", "signal", "trajectory_id", "step", "score", "tokens", "label",
               "step_label"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs folder in which notebook 06 has left random steps under its real names."""
    monkeypatch.setenv("MONITORLAB_RUNS", str(tmp_path / "runs"))
    math = [(f"miniature_math_{one}", signal) for one in ("strong", "weak")
            for signal in ("verifier", "min_logprob", "mean_logprob")]
    sets = [*math, ("miniature_conversations", "guard")]
    with open_run("06_step_signals", profile="tiny", seed=2026) as run:
        # labels belong to the sequence, so all signals of a data set share its seed
        frames = [steps(len(dataset), dataset, signal) for dataset, signal in sets]
        run.write_table("steps", pd.concat(frames))
    return tmp_path / "runs"


def execute(runs: Path, file: Path | str, **parameters: object) -> None:
    found = Notebook.discover(project_root() / "notebooks")
    chosen = [one for one in found if one.stem == NOTEBOOK]
    run_notebooks(chosen, {"SCORES_FILE": str(file), **parameters}, Options(runs=runs))


@pytest.mark.long  # the next test makes them of a plain file
def test_every_table_is_made_for_the_file_too(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A relative path from elsewhere, other columns, the other orientation, a name with dollars.

    Two signals in one file, one called like a signal of the miniature, and a file called like a
    data set of it: neither may be taken for what it is called.
    """
    mine = pd.concat([steps(99, "mine", signal) for signal in ("words", "cost_$5_vs_$x")])
    mine = mine.assign(p_good=-mine["score"], ok=1 - mine["label"], user=mine["trajectory_id"])
    mine = mine[["trajectory_id", "step", "p_good", "ok", "signal", "user"]]
    monkeypatch.chdir(tmp_path)
    mine.sample(frac=1, random_state=0).to_json(
        "miniature_math_strong.JSONL.gz", orient="records", lines=True, compression="gzip")
    execute(runs, "miniature_math_strong.JSONL.gz", ORIENTATION="safety", POSITIVE="safe",
            COLUMNS="score:p_good, label:ok, group:user")
    folder = runs / "default" / NOTEBOOK
    metrics = pq.read_table(folder / "metrics.parquet").to_pandas()
    online = Profile.named("tiny").online
    for signal in ("words", "cost_$5_vs_$x"):
        own = metrics[(metrics["dataset"] == "miniature_math_strong (own file)")
                      & (metrics["signal"] == signal)]
        assert len(own) == len(ALL_METHODS) * len(online.levels) * online.n_splits
        measures = ["far", "power", "restricted_delay", "restricted_delay_tokens"]
        assert own[measures].notna().all().all()
        latest = own[(own["statistic"] == "running_min") & (own["level"] == 0.5)]
        assert latest["power"].mean() > latest["far"].mean()  # the orientation was turned
    assert (folder / "figures" / "07_outside.png").is_file()
    said = (runs / "default" / "executed" / f"{NOTEBOOK}.ipynb").read_text()
    assert "miniature_math_strong, words (own file) (" in said


def test_in_a_new_run_the_file_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other notebook ran; without the file, the message names the one to run."""
    monkeypatch.setenv("MONITORLAB_RUNS", str(tmp_path / "runs"))
    mine = steps(99, "mine", "score", 80).drop(columns=["dataset", "signal", "step_label"])
    mine["label"] = mine["label"].map({0: "no", 1: "yes"})
    mine.to_csv(tmp_path / "mine.csv", index=False)
    everything = Notebook.discover(project_root() / "notebooks")
    chosen = [one for one in everything if one.stem == NOTEBOOK]
    with pytest.raises(ArtifactError, match="reads tables of 06_step_signals"):
        run_notebooks(chosen, {}, Options(runs=tmp_path / "runs"), among=everything)
    run_notebooks(chosen, {"SCORES_FILE": str(tmp_path / "mine.csv")},
                  Options(runs=tmp_path / "runs"), among=everything)
    folder = tmp_path / "runs" / "default" / NOTEBOOK
    metrics = pq.read_table(folder / "metrics.parquet").to_pandas()
    assert set(metrics["dataset"]) == {"mine", "processbench_gsm8k", "tau_bench"}
    assert metrics.loc[metrics["dataset"] != "mine", "after_onset"].notna().all()
    states = State.of_run(tmp_path / "runs", "default", everything)
    assert [one.status for one in states if one.notebook.stem == NOTEBOOK] == ["complete"]


def test_bad_input_stops_before_anything_is_written(runs: Path, tmp_path: Path) -> None:
    """Classes are counted in what was read, so a file that cannot be read stops earlier still."""
    steps(99, "mine", "score").assign(label=0).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(RunError) as caught:
        execute(runs, tmp_path / "mine.csv")
    assert "column label: all 160 sequences have label 0" in str(caught.value)
    assert not (runs / "default" / NOTEBOOK).exists()
