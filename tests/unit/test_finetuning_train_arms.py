"""Arms trained and asked: complete tables, nothing trained twice, failures that cost one arm."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finetuning_cases import PROMPT, make_base, make_samples

from monitorlab.chapters.finetuning import train_arms
from monitorlab.chapters.finetuning.arms import Arm
from monitorlab.chapters.finetuning.train_arms import (
    Model,
    Task,
    ask_base,
    base_model,
    plan_tasks,
    task_table,
    train_and_ask,
)
from monitorlab.finetuning.record import read_training
from monitorlab.finetuning.train import LeakError, finetune
from monitorlab.models import ModelSize
from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.monitor import MonitorError, samples_of
from monitorlab.monitors.scoring import score
from monitorlab.pipeline.artifacts import Run, _checkpoints_folder, open_run
from monitorlab.pipeline.profiles import TINY

SHORT = replace(PROMPT, name="brief", user="{request}\n{response}\nUnkind?")
PLAIN = Arm("plain", "for tests", ("spv_code",))
PAIRS = Arm("with pairs", "for tests", ("spv_code",), pair_weight=1.0)
RECIPE = {"lora_rank": 4, "dtype": "float32", "batch": 4, "accumulation": 1, "max_tokens": 512,
          "learning_rate": 1e-2, "gradient_checkpointing": False}
SETTINGS = replace(TINY.finetuning, samples=12, recipe=RECIPE, processes=1, vocabulary=400,
                   model=ModelSize(32, 2, 4), reading_steps=1)


@dataclass
class Lab:
    """A run with its own store of checkpoints, and the small model that it starts from."""

    run: Run
    base: Model
    corpus: pd.DataFrame
    samples: pd.DataFrame

    def plan(self, *arms: Arm, **options: Any) -> list[Task]:
        return plan_tasks(self.run, arms, self.corpus, self.base, SHORT, **options)

    def ask(self, tasks: Sequence[Task], forbidden: Sequence[str] = ()) -> pd.DataFrame:
        return train_and_ask(self.run, tasks, self.base, SHORT, self.samples, forbidden)

    def stored(self) -> dict[str, list[str]]:
        """Files of every arm that is stored, by the name of its folder."""
        return {folder.name: sorted(file.name for file in folder.iterdir())
                for folder in _checkpoints_folder().glob("arm-*") if folder.suffix != ".work"}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "base-123"
    base = make_base()
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def lab(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("MONITORLAB_CHECKPOINTS", str(tmp_path / "checkpoints"))
    run = open_run("05_monitor_finetuning", "tiny", seed=3, root=tmp_path)
    run.profile = replace(run.profile, finetuning=SETTINGS)
    corpus = make_samples(12).assign(component="spv_code")
    samples = make_samples(16).iloc[24:].reset_index(drop=True)
    yield Lab(run, Model(str(base_folder), small=True), corpus, samples)
    leftovers = list(_checkpoints_folder().glob("*.tmp"))
    assert not leftovers


def refuse(*given: Any, **more: Any) -> None:
    raise AssertionError("trained again")


def failing_at(place: int, error: Exception) -> Callable[..., Any]:
    """`finetune`, but for one call."""
    calls = iter(range(100))

    def train(*given: Any, **more: Any) -> Any:
        if next(calls) == place:
            raise error
        return finetune(*given, **more)

    return train


# The plan


def test_tasks_share_their_pairs_and_a_repetition_draws_others(lab: Lab) -> None:
    plain, pairs = lab.plan(PLAIN, PAIRS)
    again, = lab.plan(PLAIN, repetition=1)
    half, = lab.plan(PLAIN, share=0.5)
    assert plain.examples == pairs.examples and plain.seed == pairs.seed
    assert plain.examples != again.examples and plain.seed != again.seed
    drawn = [str(example) for example in plain.examples]
    assert len(drawn) == 12 and {str(e) for e in half.examples} < set(drawn)
    assert (plain.recipe.max_steps, half.recipe.max_steps) == (3, 2)
    assert plain.recipe.pair_weight == 0 and pairs.recipe.pair_weight == 1
    titles = {task.title for task in (plain, pairs, again, half)}
    assert len(titles) == 4 and all(" " not in title for title in titles)
    table = task_table([plain, pairs, half])
    assert table["arm"].tolist() == ["plain", "with pairs", "plain"]
    assert table[["misbehavior", "benign", "steps"]].to_numpy().tolist() == [
        [6, 6, 3], [6, 6, 3], [3, 3, 2]]
    assert table["scenarios"].between(1, 4).all()


def test_a_named_model_is_taken_and_a_small_one_is_trained(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert base_model(lab.run, lab.corpus, SHORT, "owner/model", "abc", "cuda") == Model(
        "owner/model", "abc", "bfloat16", "cuda")
    monkeypatch.setattr(train_arms, "_base_checkpoint", lambda *given: Path(lab.base.name))
    assert base_model(lab.run, lab.corpus, SHORT) == lab.base
    assert lab.base.load().model.config.hidden_size == 32


# Trained and asked


def test_the_table_is_complete_in_order_and_no_arm_is_trained_twice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = lab.plan(PLAIN, PAIRS)
    first = lab.ask(tasks)
    ids = sorted(lab.samples["sample_id"])
    assert first["sample_id"].tolist() == ids * 2
    assert first["arm"].tolist() == ["plain"] * len(ids) + ["with pairs"] * len(ids)
    assert (first["monitor"] == first["arm"]).all() and (first["status"] == "parsed").all()
    assert set(first["seed"]) == {tasks[0].seed} and set(first["share"]) == {1.0}
    assert first["score"].between(0, 1).all() and first["score"].nunique() > len(ids) // 2
    stored = lab.stored()
    assert len(stored) == 2 == len(lab.run.checkpoints)
    assert all({"adapter_model.safetensors", "training.json", "fingerprint.json"} <= set(files)
               for files in stored.values())
    for folder in _checkpoints_folder().iterdir():
        record = read_training(folder)
        arm = folder.name.split("-")[1].replace("_", " ")
        assert record["provenance"] == {"arm": arm}
        assert record["seconds"] == first.loc[first["arm"] == arm, "train_seconds"].iloc[0]

    monkeypatch.setattr(train_arms, "finetune", refuse)
    pd.testing.assert_frame_equal(_without_times(lab.ask(tasks)), _without_times(first))
    assert lab.stored() == stored
    assert all(entry["reused"] for entry in lab.run.checkpoints.values())


def _without_times(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="seconds")


def test_other_weights_at_the_same_place_are_another_base(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    shutil.copytree(lab.base.name, folder)
    lab.base = Model(str(folder))
    tasks = lab.plan(PLAIN)
    lab.ask(tasks)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + bytes(4))
    lab.ask(tasks)
    assert len(lab.stored()) == 2


def test_training_moves_the_scores_of_the_base(lab: Lab) -> None:
    long = replace(lab.plan(PLAIN)[0].recipe, max_steps=40)
    task = replace(lab.plan(PLAIN)[0], recipe=long)
    before, after = ask_base(lab.base, SHORT, lab.samples), lab.ask([task])
    assert list(before) == list(after)
    assert before[["arm", "seed", "share", "train_seconds"]].drop_duplicates().to_numpy().tolist() \
        == [["base", -1, 0.0, 0.0]]
    alone = score(LogitMonitor(lab.base.load(), SHORT), samples_of(lab.samples))
    np.testing.assert_allclose(before["score"], alone["score"], atol=1e-6)
    labels = lab.samples.set_index("sample_id")["label"]
    means = [table.groupby(table["sample_id"].map(labels))["score"].mean()
             for table in (before, after)]
    gaps = [mean[1] - mean[0] for mean in means]
    assert gaps[1] > gaps[0] + 0.15


def test_the_prompt_itself_is_asked_not_one_of_its_name(lab: Lab) -> None:
    task, = lab.plan(PLAIN)
    table = lab.ask([task])
    folder = next(_checkpoints_folder().glob("arm-plain*"))
    trained = train_arms.load_finetuned(folder, lab.base.load())
    alone = score(LogitMonitor(trained, SHORT), samples_of(lab.samples))
    np.testing.assert_allclose(table["score"], alone["score"], atol=1e-6)


# What goes wrong


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
def test_a_forbidden_scenario_stops_its_arm_and_no_other(lab: Lab, stored: bool) -> None:
    clean, leaking = lab.plan(PLAIN)[0], lab.plan(PAIRS, repetition=1)[0]
    secret = sorted({e["scenario"] for e in leaking.examples}
                    - {e["scenario"] for e in clean.examples}) or ["scenario 0"]
    free = tuple(e for e in clean.examples if e["scenario"] != secret[0])
    clean = replace(clean, examples=free)
    if stored:
        lab.ask([leaking])
    with pytest.raises(LeakError, match=f"{secret[0]!r}, which is kept for testing"):
        lab.ask([clean, leaking], secret[:1])
    assert any(name.startswith("arm-plain-") for name in lab.stored())
    assert any(name.startswith("arm-with_pairs-") for name in lab.stored()) == stored


def test_a_training_that_fails_leaves_the_arms_before_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = lab.plan(PLAIN, PAIRS)
    monkeypatch.setattr(train_arms, "finetune", failing_at(1, MonitorError("no memory")))
    with pytest.raises(MonitorError, match="no memory"):
        lab.ask(tasks)
    assert [name.split("-")[1] for name in lab.stored()] == ["plain"]

    trained = []

    def counted(*given: Any, **more: Any) -> Any:
        trained.append(more["provenance"]["arm"])
        return finetune(*given, **more)

    monkeypatch.setattr(train_arms, "finetune", counted)
    table = lab.ask(tasks)
    assert trained == ["with pairs"] and set(table["arm"]) == {"plain", "with pairs"}


def test_an_arm_that_was_trained_but_not_stored_is_adopted(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = lab.plan(PLAIN)

    def crash(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(train_arms, "checkpoint", crash)
        with pytest.raises(KeyboardInterrupt):
            lab.ask(tasks)
    work, = _checkpoints_folder().iterdir()
    weights = (work / "adapter_model.safetensors").stat().st_mtime_ns
    lab.ask(tasks)
    stored, = _checkpoints_folder().iterdir()
    assert not stored.name.endswith(".work")
    assert (stored / "adapter_model.safetensors").stat().st_mtime_ns == weights
