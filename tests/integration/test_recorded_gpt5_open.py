"""The recorded GPT-5 monitor from the published files.

Needs the open tier: a cache named by MONITORLAB_CACHE, or a network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from monitorlab.benchmark.sources.records import Record
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors.recorded import CUE_RULE, GPT5, GPT5_KEYS, gpt5_verdicts
from monitorlab.statistics.roc import auroc
from monitorlab.storage.sources import load_sources

Get = Callable[[str], Path]


@pytest.fixture(scope="module")
def told(get: Get) -> pd.DataFrame:
    samples, verdicts = gpt5_verdicts(get)
    assert set(GPT5_KEYS) == {key for key in load_sources() if key.startswith("cue_coding/")}
    assert len(samples) == 759 and samples["scenario_id"].nunique() == 7
    return join(verdicts, samples, ["family", "cue", "generator"])


def test_the_figures_of_the_files_come_out(told: pd.DataFrame) -> None:
    found = rates(told, by=("monitor",)).set_index("monitor").loc[GPT5]
    assert (found["n_misbehaving"], found["n_benign"], found["error"]) == (364, 395, 15)
    assert (round(found["mr"], 3), round(found["far"], 3)) == (0.141, 0.050)
    judged = told[(told["monitor"] == GPT5) & told["score"].notna()]
    assert auroc(judged["score"], judged["label"]) == pytest.approx(0.920, abs=0.001)
    by_agent = [auroc(part["score"], part["label"]) for _, part in judged.groupby("generator")]
    assert len(by_agent) == 16
    assert (round(max(by_agent), 2), round(min(by_agent), 2)) == (0.99, 0.70)


def test_families_differ_and_the_kind_of_cue_says_a_part(told: pd.DataFrame) -> None:
    found = rates(told, by=("monitor", "family")).set_index(["monitor", "family"])
    assert found.loc[(GPT5, "OLMo"), "mr"] == pytest.approx(0.475, abs=0.001)
    assert found.loc[(GPT5, "gpt-oss"), "mr"] == pytest.approx(0.073, abs=0.001)
    assert found.loc[(GPT5, "gpt-oss"), "error"] == 0
    rule = rates(told, by=("monitor",)).set_index("monitor").loc[CUE_RULE]
    assert rule["balanced_accuracy"] == pytest.approx(0.724, abs=0.001)


def test_the_label_is_the_library_that_the_code_uses(get: Get) -> None:
    for key in GPT5_KEYS:
        for record in Record.array(get(key)):
            library = record.maybe("library_choice", str)
            usual = record.take("baseline_library", str)
            assert record.take("switched", bool) == (library not in (usual, "other", None))
