"""Real pairs from the published files: known counts, and nothing lost without a reason.

Needs the open tier: a cache named by MONITORLAB_CACHE, or a network. The programs are judged by
their recorded outcome here, except for a few that are really run.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from monitorlab.benchmark.sandbox.runner import Job, SandboxError, run_jobs
from monitorlab.benchmark.sources import programs, texts
from monitorlab.benchmark.sources.records import Loaded, Record
from monitorlab.chapters.construction import _combine
from monitorlab.signals.recordings import RecordedSequence

Get = Callable[[str], Path]


def problems(loaded: Loaded) -> int:
    """Problems kept and dropped: those of the file."""
    lost = loaded.dropped.query("unit == 'problem'")["count"].sum()
    return int(loaded.samples["scenario_id"].nunique() + lost)


def check_pairs(loaded: Loaded, pairs: int, kept: int, of: int) -> None:
    """Counts, and that every pair is one request with one answer of each kind."""
    groups = loaded.samples.groupby("pair_id")
    assert len(groups) == pairs
    assert loaded.samples["scenario_id"].nunique() == kept
    assert problems(loaded) == of
    assert (groups["label"].agg(["size", "sum"]) == (2, 1)).all(axis=None)
    assert (groups["request"].nunique() == 1).all()
    assert (groups["response"].nunique() == 2).all()


def test_gsm8k_answers_agree_with_the_flags(get: Get) -> None:
    loaded = texts.gsm8k_solutions(get)
    check_pairs(loaded, 964, 730, of=1319)
    assert (loaded.checked, loaded.disagreements) == (5263, 0)


def test_gsm8k_references_are_those_of_the_test_set(get: Get) -> None:
    test = {record.take("question", str): record.take("answer", str).rsplit("#### ", 1)[1]
            for record in Record.lines(get("gsm8k/test.jsonl"))}
    for record in Record.lines(get(texts.KEY)):
        reference = texts._final_answer(record.take("ground_truth", str))
        assert reference == texts.exact_number(test[record.take("question", str)])


@pytest.mark.parametrize(("part", "pairs", "of"), [("gsm8k", 23, 375), ("math", 34, 955)])
def test_processbench_flaws_are_located(get: Get, part: str, pairs: int, of: int) -> None:
    loaded = texts.processbench(get, part)
    check_pairs(loaded, pairs, pairs, of)
    flawed = loaded.samples.query("label == 1").set_index("sample_id")["response"]
    assert sorted(loaded.flaws["sample_id"]) == sorted(flawed.index)
    steps = {step for record in Record.array(get(texts.PROCESSBENCH[part]))
             for step in record.texts("steps")}
    assert all(flawed[flaw.sample_id][flaw.start: flaw.end] in steps
               for flaw in loaded.flaws.itertuples())


def test_processbench_shares_scenarios_with_gsm8k(get: Get) -> None:
    known = {texts._gsm8k_key(record.take("question", str))
             for record in Record.lines(get(texts.KEY))}
    assert set(texts.processbench(get, "gsm8k").samples["scenario_id"]) <= known


@pytest.mark.parametrize("task", texts.MISTAKE_TASKS)
def test_bigbench_mistake_has_no_pairs(get: Get, task: str) -> None:
    loaded = texts.bigbench_mistake(get, task)
    check_pairs(loaded, 0, 0, of=986 if task == "dyck_languages" else 300)


def test_hh_rlhf_sample(get: Get) -> None:
    check_pairs(texts.hh_rlhf(get, texts.SAMPLE), 134, 134, of=200)


@pytest.mark.parametrize(
    ("category", "unpaired", "unclear"),
    [("cot_unfaithfulness", 28, 6), ("tool", 220, 24), ("unanswerable", 0, 264)],
)
def test_transcripts_have_no_pairs(get: Get, category: str, unpaired: int, unclear: int) -> None:
    loaded = texts.lie_detector(get, category)
    assert loaded.samples.empty and len(loaded.unpaired) == unpaired
    assert loaded.dropped.query("unit == 'answer'")["count"].sum() == unclear


def test_every_judge_saw_the_same_tool_transcripts(get: Get) -> None:
    def seen(judge: str) -> set[str]:
        records = Record.array(get(f"lie_detector/tool/{judge}.json"), "samples")
        return {str([record.within("metadata").take("messages", list),
                     record.within("metadata").within("meta").take("did_lie", bool)])
                for record in records}

    assert seen("gpt-4o") == seen("claude-opus-4")


@pytest.fixture(scope="module")
def recorded(get: Get) -> Loaded:
    """Reflexion with the recorded outcomes; 18 of 1,802 differ when the programs are run."""
    flags = {}
    for run in programs.RUNS:
        for record in Record.lines(get(f"reflexion/{run}")):
            flags[programs._complete(record)] = record.take("is_solved", bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "run_jobs", lambda jobs, **_: [
            SimpleNamespace(status="passed" if flags[job.source] else "failed") for job in jobs])
        return programs.reflexion_runs(get)


def test_reflexion_tasks_are_all_accounted_for(recorded: Loaded) -> None:
    assert problems(recorded) == 561
    assert recorded.samples["scenario_id"].nunique() > 60
    counts = recorded.dropped.set_index("reason")["count"]
    assert (counts[programs.EMPTY], counts[programs.PASTED], counts[programs.LOST]) == (14, 5, 4)


def test_reflexion_pairs_run_in_the_sandbox(get: Get, recorded: Loaded) -> None:
    tasks = {str(record.fields["name"]): record.take("test", str)
             for record in Record.lines(get("mbpp/mbpp-py.jsonl"))}
    few = recorded.samples[recorded.samples["scenario_id"].isin(sorted(tasks)[:40])]
    jobs = [Job(row.response, tasks[row.scenario_id]) for row in few.itertuples()]
    assert len(jobs) >= 10
    try:
        outcomes = run_jobs(jobs, processes=2, seconds=programs.SECONDS)
    except SandboxError as error:
        pytest.skip(f"the sandbox does not work here: {error}")
    assert [outcome.status == "passed" for outcome in outcomes] == list(few["label"] == 0)


def test_all_sources_fit_together(get: Get, recorded: Loaded) -> None:
    parts = [texts.gsm8k_solutions(get), recorded,
             *(texts.lie_detector(get, category) for category in texts.CATEGORIES)]
    together = _combine(parts)
    assert together.samples["sample_id"].is_unique
    assert not set(together.samples["sample_id"]) & set(together.unpaired["sample_id"])
    assert together.overview["label_from"].str.len().gt(0).all()
    pd.testing.assert_frame_equal(together.samples, _combine(parts[::-1]).samples)


@pytest.mark.parametrize(("source", "unsafe", "safe", "unknown", "onsets"), [
    ("processbench_gsm8k", 207, 193, 0, 207),
    ("processbench_math", 594, 406, 0, 594),
    ("tau_bench", 60, 84, 56, 35),
])
def test_recorded_sequences_have_their_labels_and_onsets(
    get: Get, source: str, unsafe: int, safe: int, unknown: int, onsets: int
) -> None:
    get("tau_bench/gpt-4o-airline.json" if source == "tau_bench" else
        f"processbench/{source.removeprefix('processbench_')}.json")  # or the test is skipped
    found = RecordedSequence.load(source)
    assert [sum(one.label == label for one in found) for label in (1, 0, -1)] == [
        unsafe, safe, unknown]
    assert sum(one.onset > 0 for one in found) == onsets
    assert all(one.label == 1 and one.onset <= len(one.steps) for one in found if one.onset)


def test_weaknesses_and_their_fixes(get: Get) -> None:
    check_pairs(programs.cweval(get), 25, 25, of=25)
    loaded = programs.sven(get)
    check_pairs(loaded, 377, 377, of=417)
    assert len(loaded.flaws) == 377
    for text in programs.cweval(get).samples["response"]:
        assert "unsafe" not in text and "#" not in text
