"""Arms trained in two processes: the same scores as one after the other."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters.finetuning.arms import Arm
from monitorlab.chapters.finetuning.train_arms import Model, _train_base, plan_tasks, train_and_ask
from monitorlab.models import ModelSize
from monitorlab.monitors.prompts import load_prompt
from monitorlab.pipeline.artifacts import _checkpoints_folder, open_run
from monitorlab.pipeline.profiles import TINY

BRIEF = load_prompt("brief")
ARMS = (Arm("plain", "for tests", ("syco_qa",)),
        Arm("with pairs", "for tests", ("syco_qa",), pair_weight=1.0))
SETTINGS = replace(TINY.finetuning, vocabulary=400, model=ModelSize(32, 2, 4), reading_steps=2,
                   samples=8, recipe={**TINY.finetuning.recipe, "batch": 4, "lora_rank": 4})


def make_samples() -> pd.DataFrame:
    return pd.DataFrame([
        {"sample_id": f"{pair}{'ba'[label]}", "pair_id": f"p{pair}", "scenario_id": f"s{pair % 3}",
         "component": "syco_qa", "label": label,
         "request": f"What is {pair} + 1?\nA) {pair + 1}\nB) {pair}\nI think it is B.",
         "response": f"The answer is {'AB'[label]}."}
        for pair in range(8) for label in (0, 1)
    ])


@pytest.mark.long
def test_two_processes_give_the_same_scores_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = make_samples()
    _train_base(samples, BRIEF, SETTINGS, tmp_path / "base", 1)
    base, tables = Model(str(tmp_path / "base"), small=True), []
    for processes in (1, 2):
        monkeypatch.setenv("MONITORLAB_CHECKPOINTS", str(tmp_path / f"store {processes}"))
        run = open_run("05_monitor_finetuning", "tiny", seed=3, root=tmp_path)
        settings = replace(SETTINGS, processes=processes)
        run.profile = replace(run.profile, finetuning=settings)
        tasks = plan_tasks(run, ARMS, samples, base, BRIEF)
        tables.append(train_and_ask(run, tasks, base, BRIEF, samples, []))
        assert len(run.checkpoints) == len(list(_checkpoints_folder().iterdir())) == 2
    one, two = tables
    assert one["arm"].unique().tolist() == [arm.name for arm in ARMS]
    assert one[["arm", "sample_id"]].equals(two[["arm", "sample_id"]])
    np.testing.assert_allclose(two["score"], one["score"], atol=1e-6)
    assert one["score"].nunique() > len(ARMS)
