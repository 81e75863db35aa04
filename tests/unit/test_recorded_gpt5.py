"""The recorded GPT-5 monitor: samples and verdicts from entries of the published form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitorlab.benchmark.sources.records import RealDataError
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors.recorded import CUE_RULE, GPT5, GPT5_FILES, GPT5_KEYS, gpt5_verdicts

Get = Callable[[str], Path]


def entry(cue: str, switched: bool, points: int | None, **other: Any) -> dict[str, Any]:
    said = {None: None}.get(points, "YES" if (points or 0) > 50 else "NO")
    why = "No internal reasoning available" if points is None else f"PROBABILITY: {points}%\nWhy."
    return {
        "task_id": "rest_api", "constraint_id": cue, "constraint_theme": cue[3:],
        "internal_reasoning": None if points is None else "r" * 5000,
        "external_output": "a" * 3000, "library_choice": "Flask", "switched": switched,
        "monitor_prediction": said, "monitor_probability": points, "monitor_explanation": why,
    } | other  # fmt: skip


@pytest.fixture
def get(tmp_path: Path) -> Get:
    """Every file with three entries; the second one of OLMo files was not judged."""
    (tmp_path / "cue_coding").mkdir()
    for name, key in zip(GPT5_FILES, GPT5_KEYS, strict=True):
        blind = name.startswith("olmo")
        rows = [entry("S1_trend_now", True, 90), entry("C2_tax", True, None if blind else 20),
                entry("C1_worker_treatment", False, 7)]
        (tmp_path / key).write_text(json.dumps(rows))
    return tmp_path.joinpath


def test_samples_show_what_gpt5_saw(get: Get) -> None:
    samples, _ = gpt5_verdicts(get)
    assert len(samples) == 3 * 16 and samples["sample_id"].is_unique
    first = samples.set_index("sample_id").loc["cue_coding/gptoss_b0.0/rest_api/S1_trend_now"]
    assert first["response"] == f"<think>\n{'r' * 4000}\n</think>\n\n{'a' * 2000}"
    assert first["request"] == ('Write code (rest api). The request also casually mentioned: '
                                '"trend now". The code uses: Flask')
    assert (first["family"], first["cue"], first["generator"]) == ("gpt-oss", "hint",
                                                                   "gpt-oss-20b, b0.0")
    assert set(samples["scenario_id"]) == {"cue_coding/rest_api"}
    assert samples["pair_id"].nunique() == 3
    blind = samples[~samples["has_thinking"]]
    assert set(blind["family"]) == {"OLMo"} and set(blind["response"]) == {"a" * 2000}
    assert samples["generator"].nunique() == 16


def test_verdicts_join_the_samples_and_failures_stay_failures(get: Get) -> None:
    samples, verdicts = gpt5_verdicts(get)
    told = join(verdicts, samples, ["family", "cue"])
    found = rates(told, by=("monitor", "family")).set_index(["monitor", "family"])
    judge = found.loc[GPT5]
    assert judge["error"].tolist() == [8, 0]  # OLMo, gpt-oss
    assert judge["mr"].tolist() == [0, 0.5] and judge["far"].tolist() == [0, 0]
    assert judge.loc["OLMo", ["mr_least", "mr_most"]].tolist() == [0, 0.5]
    rule = found.loc[CUE_RULE]
    assert rule["mr"].tolist() == [0.5, 0.5] and rule["far"].tolist() == [0, 0]
    row = told[(told["monitor"] == GPT5) & (told["cue"] == "hint")]
    assert set(row["score"]) == {0.9} and set(row["evidence"]) == {"PROBABILITY: 90% Why."}
    failed = told[told["status"] == "error"]
    assert set(failed["evidence"]) == {"No internal reasoning available"}
    assert verdicts["seconds"].isna().all()


@pytest.mark.parametrize(("change", "words"), [
    ({"switched": None}, "field 'switched' holds None, expected true or false"),
    ({"constraint_id": "X1_trend"}, "the cue is 'X1_trend', expected a name with S or C"),
    ({"monitor_probability": 120}, "the probability is 120, expected 0 to 100"),
    ({"monitor_prediction": 1}, "field 'monitor_prediction' holds 1, expected text"),
])
def test_an_entry_of_another_form_is_refused(
    get: Get, change: dict[str, Any], words: str
) -> None:
    get(GPT5_KEYS[3]).write_text(json.dumps([entry("S1_trend", True, 90) | change]))
    with pytest.raises(RealDataError, match=rf"{GPT5_FILES[3]}_judged.json, entry 1: {words}"):
        gpt5_verdicts(get)


def test_an_answer_that_is_neither_is_not_read_as_one(get: Get) -> None:
    get(GPT5_KEYS[0]).write_text(json.dumps([
        entry("S1_trend", True, 90, monitor_prediction="UNKNOWN")]))
    _, verdicts = gpt5_verdicts(get)
    row = verdicts[verdicts["sample_id"].str.contains(GPT5_FILES[0])].iloc[0]
    assert (row["status"], row["evidence"]) == ("unparsed", "the prediction is 'UNKNOWN'")
