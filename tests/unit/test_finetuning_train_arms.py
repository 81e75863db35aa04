"""Arms trained and asked: complete tables, nothing trained twice, failures that cost one arm."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from finetuning_cases import PROMPT, make_base, make_samples

from monitorlab.chapters.finetuning import study
from monitorlab.chapters.finetuning.arms import Arm
from monitorlab.chapters.finetuning.study import RANDOM, Experiment, _base_model, _Task
from monitorlab.finetuning.recipe import LeakError
from monitorlab.finetuning.saved import Trained
from monitorlab.finetuning.train import finetune
from monitorlab.models.loading import Checkpoint
from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.scoring import score
from monitorlab.pipeline.profiles import PROFILES
from monitorlab.pipeline.runs import Run, open_run

SHORT = replace(PROMPT, name="brief", user="{request}\n{response}\nUnkind?")
PLAIN = Arm("plain", "for tests", ("spv_code",))
PAIRS = Arm("with pairs", "for tests", ("spv_code",), pair_weight=1.0)
RECIPE = {"lora_rank": 4, "dtype": "float32", "batch": 4, "accumulation": 1, "max_tokens": 512,
          "learning_rate": 1e-2, "gradient_checkpointing": False}
SETTINGS = replace(PROFILES["tiny"].finetuning, samples=12, recipe=RECIPE)


def checkpoints() -> Path:
    """Folder of everything that is trained, as the fixture `lab` sets it."""
    return Path(os.environ["MONITORLAB_CHECKPOINTS"])


@dataclass
class Lab:
    """A run with its own store of checkpoints, and the small model that it starts from."""

    run: Run
    base: Checkpoint
    corpus: pd.DataFrame
    samples: pd.DataFrame

    @property
    def experiment(self) -> Experiment:
        return Experiment(self.run, self.corpus, self.base, SHORT)

    def plan(self, *arms: str, **options: Any) -> list[_Task]:
        return self.experiment.plan(arms, **options)

    def ask(self, tasks: Sequence[_Task], forbidden: Sequence[str] = ()) -> pd.DataFrame:
        return self.experiment.ask(self.experiment.train(tasks, forbidden), self.samples)

    def stored(self) -> dict[str, list[str]]:
        """Files of every arm that is stored, by the name of its folder."""
        return {folder.name: sorted(file.name for file in folder.iterdir())
                for folder in checkpoints().glob("arm-*") if folder.suffix != ".work"}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("MONITORLAB_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setattr(study, "EVERY_ARM", {"plain": PLAIN, "with pairs": PAIRS})
    run = open_run("05_monitor_finetuning", "tiny", seed=3, root=tmp_path)
    run.profile = replace(run.profile, finetuning=SETTINGS)
    corpus = make_samples(12).assign(component="spv_code")
    samples = make_samples(16).iloc[24:].reset_index(drop=True)
    yield Lab(run, make_base(), corpus, samples)
    leftovers = list(checkpoints().glob("*.tmp"))
    assert not leftovers


def refuse(*given: Any, **more: Any) -> None:
    raise AssertionError("trained or asked again")


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
    plain, pairs = lab.plan("base", "plain", " with pairs")
    again, = lab.plan("plain", repetition=1)
    half, = lab.plan("plain", share=0.5)
    assert plain.examples == pairs.examples and plain.seed == pairs.seed
    assert plain.examples != again.examples and plain.seed != again.seed
    drawn = [str(example) for example in plain.examples]
    assert len(drawn) == 12 and {str(e) for e in half.examples} < set(drawn)
    assert (plain.recipe.max_steps, half.recipe.max_steps) == (3, 2)
    large, = lab.plan("plain", share=2.0, batch=2 * plain.recipe.batch)
    assert (large.recipe.batch, large.recipe.max_steps) == (2 * plain.recipe.batch, 3)
    assert large.recipe.learning_rate == plain.recipe.learning_rate
    assert plain.recipe.pair_weight == 0 and pairs.recipe.pair_weight == 1
    titles = {task.title for task in (plain, pairs, again, half)}
    assert len(titles) == 4 and all(" " not in title for title in titles)
    table = pd.DataFrame([task.row for task in (plain, pairs, half)])
    assert table["arm"].tolist() == ["plain", "with pairs", "plain"]
    assert table[["misbehavior", "benign", "steps"]].to_numpy().tolist() == [
        [6, 6, 3], [6, 6, 3], [3, 3, 2]]
    assert table["scenarios"].between(1, 4).all()
    with pytest.raises(MonitorError, match="no arm 'sycophancy': expected some of plain, with"):
        lab.plan("sycophancy")


def test_without_a_model_random_weights_say_what_they_are(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study.smollm2, "smollm2_installed", lambda: False)
    first, second = (_base_model(lab.run, lab.corpus, name) for name in ("", "smollm2"))
    assert first.identity == second.identity and first.identity["model"]["name"] == RANDOM
    assert first.model.config.model_type == "llama"
    assert "SmolLM2 is not installed" in capsys.readouterr().out
    lab.base = first
    table = lab.ask(lab.plan("plain"))
    assert table["score"].between(0, 1).all() and table["arm"].unique().tolist() == [
        "base", "plain"]


# Trained and asked


def test_the_table_is_complete_and_nothing_is_trained_or_asked_twice(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = lab.plan("plain", "with pairs")
    first = lab.ask(tasks)
    ids = sorted(lab.samples["sample_id"])
    assert first["sample_id"].tolist() == ids * 3
    assert first["arm"].unique().tolist() == ["base", "plain", "with pairs"]
    assert (first["monitor"] == first["arm"]).all() and (first["status"] == "parsed").all()
    assert first["seed"].unique().tolist() == [-1, tasks[0].seed]
    assert first["share"].unique().tolist() == [0.0, 1.0]
    assert first["score"].between(0, 1).all() and first["score"].nunique() > len(ids) // 2
    stored = lab.stored()
    assert len(stored) == 2 == len(lab.run.checkpoints)
    assert all({"adapter_model.safetensors", "training.json", "fingerprint.json"} <= set(files)
               for files in stored.values())
    for name in stored:
        record = Trained.record(checkpoints() / name)
        arm = name.split("-")[1].replace("_", " ")
        assert record["provenance"] == {"arm": arm, "share": 1.0}
        assert record["seconds"] == first.loc[first["arm"] == arm, "train_seconds"].iloc[0]
    logged = lab.experiment.losses(lab.experiment.train(tasks, []))
    assert logged["loss"].notna().all() and set(logged["arm"]) == {"plain", "with pairs"}

    monkeypatch.setattr(study, "finetune", refuse)
    monkeypatch.setattr(LogitMonitor, "judge", refuse)
    pd.testing.assert_frame_equal(lab.ask(tasks), first)
    assert lab.stored() == stored
    assert all(entry["reused"] for entry in lab.run.checkpoints.values())


def test_two_runs_with_one_seed_give_the_same_table(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for place in ("one", "two"):
        monkeypatch.setenv("MONITORLAB_CHECKPOINTS", str(tmp_path / place))
        tables.append(lab.ask(lab.plan("plain", "with pairs")))
    np.testing.assert_allclose(tables[0]["score"], tables[1]["score"], atol=1e-6, rtol=0)
    assert tables[0]["score"].nunique() > 2


def test_training_moves_the_scores_of_the_base(lab: Lab) -> None:
    long = replace(lab.plan("plain")[0].recipe, max_steps=40)
    table = lab.ask([replace(lab.plan("plain")[0], recipe=long)])
    alone = score(LogitMonitor(lab.base, SHORT), Sample.rows(lab.samples))
    np.testing.assert_allclose(table.loc[table["arm"] == "base", "score"], alone["score"],
                               atol=1e-6)
    labels = lab.samples.set_index("sample_id")["label"]
    means = table.groupby(["arm", table["sample_id"].map(labels)])["score"].mean()
    gaps = {arm: means[arm, 1] - means[arm, 0] for arm in ("base", "plain")}
    assert gaps["plain"] > gaps["base"] + 0.15


def test_the_prompt_itself_is_asked_not_one_of_its_name(lab: Lab) -> None:
    table = lab.ask(lab.plan("plain"))
    folder = next(checkpoints().glob("arm-plain*"))
    trained = study.load_finetuned(folder, lab.base)
    alone = score(LogitMonitor(trained, SHORT), Sample.rows(lab.samples))
    np.testing.assert_allclose(table.loc[table["arm"] == "plain", "score"], alone["score"],
                               atol=1e-6)


# What goes wrong


@pytest.mark.parametrize("stored", [False, True], ids=["new", "stored"])
def test_a_forbidden_scenario_stops_its_arm_and_no_other(lab: Lab, stored: bool) -> None:
    clean, leaking = lab.plan("plain")[0], lab.plan("with pairs", repetition=1)[0]
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
    tasks = lab.plan("plain", "with pairs")
    monkeypatch.setattr(study, "finetune", failing_at(1, MonitorError("no memory")))
    with pytest.raises(MonitorError, match="no memory"):
        lab.ask(tasks)
    assert [name.split("-")[1] for name in lab.stored()] == ["plain"]

    trained = []

    def counted(*given: Any, **more: Any) -> Any:
        trained.append(more["provenance"]["arm"])
        return finetune(*given, **more)

    monkeypatch.setattr(study, "finetune", counted)
    table = lab.ask(tasks)
    assert trained == ["with pairs"] and set(table["arm"]) == {"base", "plain", "with pairs"}


def test_an_arm_that_was_trained_but_not_stored_is_adopted(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = lab.plan("plain")

    def crash(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Run, "checkpoint", crash)
        with pytest.raises(KeyboardInterrupt):
            lab.ask(tasks)
    work, = checkpoints().glob("*.work")
    weights = (work / "adapter_model.safetensors").stat().st_mtime_ns
    lab.ask(tasks)
    stored, = checkpoints().glob("arm-*")
    assert not stored.name.endswith(".work")
    assert (stored / "adapter_model.safetensors").stat().st_mtime_ns == weights
