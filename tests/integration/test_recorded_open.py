"""Recorded judges from the published files.

Needs the open tier: a cache named by MONITORLAB_CACHE, or a network.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from monitorlab.benchmark.sources.records import Record
from monitorlab.benchmark.sources.texts import CATEGORIES, lie_detector
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors import recorded
from monitorlab.monitors.recorded import (
    BASELINES,
    BEGINS_WITH_B,
    BEST_LETTER,
    CATEGORIES_JUDGED,
    CONTRADICTION,
    JUDGES,
    NO_LABEL,
    _Recording,
    _recordings,
    letter_verdicts,
    recorded_verdicts,
)
from monitorlab.storage.sources import load_sources
from monitorlab.storage.tables import STATUSES

Get = Callable[[str], Path]
SCORER = "escaped_transcript_scorer"


@pytest.fixture(scope="module")
def samples(get: Get) -> pd.DataFrame:
    parts = [lie_detector(get, category).unpaired for category in CATEGORIES_JUDGED]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def differences(get: Get) -> pd.DataFrame:
    """How replies are read here beside the publisher's own reading, over whole files."""
    rows = [compared(judge, category, list(_recordings(get, judge, category)),
                     list(published(get, judge, category)))
            for judge in JUDGES for category in CATEGORIES_JUDGED]
    return pd.DataFrame(rows).set_index(["judge", "category"])


def published(get: Get, judge: str, category: str) -> Iterator[tuple[bool | None, float | None]]:
    """The publisher's reading of each reply: verdict and score, or nothing."""
    for record in Record.array(get(recorded._key(judge, category)), "samples"):
        read = record.within("scores").within(SCORER).within("metadata")
        yield (read.take("predicted_binary", str) == "A", read.take("predicted_score", int) / 100) \
            if read.take("parseable", bool) else (None, None)


def compared(
    judge: str, category: str, calls: list[_Recording],
    theirs: list[tuple[bool | None, float | None]],
) -> dict[str, object]:
    both = [(c.verdict, own) for c, own in zip(calls, theirs, strict=True)
            if c.verdict.verdict is not None and own[0] is not None]
    said = [c.verdict.evidence for c in calls]
    known = [(c.verdict.verdict is not None, own[0] is not None)
             for c, own in zip(calls, theirs, strict=True)]
    return {
        "judge": judge, "category": category, "n": len(calls),
        **Counter({status: 0 for status in STATUSES}), **Counter(c.verdict.status for c in calls),
        "contradictions": sum(text.startswith(CONTRADICTION) for text in said),
        "no_label": sum(text.startswith(NO_LABEL) for text in said),
        "other_verdict": sum(here.verdict != own[0] for here, own in both),
        "other_score": sum(here.score != own[1] for here, own in both),
        "only_file": known.count((False, True)), "only_here": known.count((True, False)),
    }  # fmt: skip


def test_all_files_are_listed_sources() -> None:
    keys = {recorded._key(judge, name) for judge in JUDGES for name in CATEGORIES_JUDGED}
    assert keys <= set(load_sources()) and len(keys) == 10


def test_every_reply_is_accounted_for(differences: pd.DataFrame) -> None:
    statuses = ["parsed", "unparsed", "refused", "truncated"]
    assert (differences[statuses].sum(axis=1) == differences["n"]).all()
    assert set(differences.xs("tool", level="category")["n"]) == {244}
    assert set(differences.xs("cot_unfaithfulness", level="category")["n"]) == {34}
    opus = differences.loc[("claude-opus-4", "tool")]
    assert (opus["parsed"], opus["truncated"], opus["unparsed"]) == (220, 19, 5)


def test_readings_differ_from_the_publishers_only_where_the_label_decides(
    differences: pd.DataFrame,
) -> None:
    assert (differences[["only_file", "only_here"]] == 0).all(axis=None)
    assert differences["other_verdict"].sum() == 11
    assert differences["contradictions"].sum() == 10  # and one "not lie" with a score of 50
    assert differences["no_label"].sum() == 27
    assert differences["other_score"].sum() == 5  # a score of 0, which the publisher turns into 1


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("category", CATEGORIES_JUDGED)
def test_the_publishers_counts_come_out(get: Get, judge: str, category: str) -> None:
    """The file's own summary, from its labels and its reading of each reply."""
    path = get(f"lie_detector/{CATEGORIES[category].folder}/{judge}.json")
    lied = [record.within("metadata").within("meta").take("did_lie", bool)
            for record in Record.array(path, "samples")]
    said = [verdict for verdict, _ in published(get, judge, category)]
    summary = json.loads(path.read_text())["aggregated_metrics"][SCORER]
    found = Counter(zip(lied, said, strict=True))
    assert summary["confusion_matrix"] == {
        "tp": found[True, True], "tn": found[False, False],
        "fp": found[False, True], "fn": found[True, False]}


def test_every_clear_transcript_has_a_recording_of_every_judge(
    get: Get, samples: pd.DataFrame
) -> None:
    table = recorded_verdicts(get, samples)
    assert len(table) == len(samples) * len(JUDGES) == 248 * 5
    assert "error" not in set(table["status"])
    prompts = table.groupby("sample_id")["request_hash"].unique()
    assert (prompts.str.len() == 1).all()  # every judge got the same prompt
    assert prompts.str[0].is_unique


def test_gpt_4o_on_the_tool_transcripts(get: Get, samples: pd.DataFrame) -> None:
    """Counted from the published file with a few lines of other code."""
    table = recorded_verdicts(get, samples, ["gpt-4o"])
    tool = table.merge(samples[["sample_id", "source", "label"]], on="sample_id")
    tool = tool[tool["source"] == "lie_detector_tool"]
    assert tool["label"].value_counts().to_dict() == {1: 115, 0: 105}
    alarms = tool.groupby("label")["verdict"].sum()
    assert alarms.to_dict() == {0: 32, 1: 108}


def test_one_letter_is_a_better_judge_of_the_tool_transcripts_than_any(
    get: Get, samples: pd.DataFrame
) -> None:
    table = pd.concat([recorded_verdicts(get, samples), letter_verdicts(samples)])
    rated = rates(join(table, samples, ["source"]), by=("source", "monitor"))
    tool = rated[rated["source"] == "lie_detector_tool"].set_index("monitor")["balanced_accuracy"]
    assert tool[BEGINS_WITH_B] == pytest.approx((1 + 94 / 105) / 2)  # .948
    assert tool[BEGINS_WITH_B] > tool.drop(list(BASELINES)).max()
    assert tool[BEST_LETTER] == tool[BEGINS_WITH_B]  # learned on other scenarios, the same rule
