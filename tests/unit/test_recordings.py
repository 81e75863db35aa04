"""Recorded sequences: published files in their form, own files, and where the onset is put."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monitorlab.benchmark.sources.records import RealDataError
from monitorlab.signals import recordings
from monitorlab.signals.recordings import RecordedSequence, RecordingError, ToolCallScorer


def write(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def chain(**changes: object) -> dict[str, object]:
    return {"id": "gsm8k-0", "problem": "1 + 1 + 1?", "steps": ["1 + 1 = 2.", "2 + 1 = 4."],
            "label": 1, "final_answer_correct": False, "generator": "m"} | changes


def test_the_first_wrong_step_counts_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chains = [chain(), chain(id="b", label=-1, final_answer_correct=True),
              chain(id="c", label=-1), chain(id="d", label=0, final_answer_correct=True)]
    file = write(tmp_path / "x.json", chains)
    monkeypatch.setattr(recordings, "fetch", lambda key: file)
    found = RecordedSequence.load("processbench_gsm8k")
    assert [(one.label, one.onset) for one in found] == [(1, 2), (0, 0), (-1, 0), (1, 1)]
    assert len({one.group for one in found}) == 1, "one problem"


def test_a_mark_behind_the_last_step_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write(tmp_path / "x.json", [chain(label=2)])
    monkeypatch.setattr(recordings, "fetch", lambda key: file)
    with pytest.raises(RealDataError, match="the first wrong step is 2, expected -1 to 1"):
        RecordedSequence.load("processbench_math")


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"role": "assistant", "content": None,
            "tool_calls": [{"function": {"name": name, "arguments": json.dumps(arguments)}}]}


def talk(task: int, trial: int, reward: float, *messages: dict[str, object]) -> dict[str, object]:
    reference = [{"name": "cancel_reservation", "kwargs": {"reservation_id": "A"}}]
    start = [{"role": "system", "content": "Policy."}, {"role": "user", "content": "Cancel A."}]
    return {"task_id": task, "trial": trial, "reward": reward, "traj": [*start, *messages],
            "info": {"task": {"actions": reference}}}


ASK = {"role": "assistant", "content": "Shall I?"}
YES = {"role": "user", "content": "Yes, please."}
RIGHT, WRONG = (call("cancel_reservation", reservation_id=name) for name in "AB")
DONE, REFUSED = ({"role": "tool", "content": text} for text in ("{}", "Error: not found"))


def test_the_onset_is_the_first_write_that_the_reference_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = write(tmp_path / "x.json", [
        talk(0, 0, 1.0, ASK, YES, RIGHT, DONE),
        talk(0, 1, 0.0, ASK, YES, RIGHT, DONE, WRONG, DONE),
        talk(0, 2, 0.0, WRONG, REFUSED, ASK),  # refused, so nothing was done: no onset
        talk(1, 0, 0.0, WRONG, DONE),  # no trial reached this reference
    ])
    monkeypatch.setattr(recordings, "fetch", lambda key: file)
    found = RecordedSequence.load("tau_bench")
    assert [(one.name, one.label, one.onset, one.group) for one in found] == [
        ("task00-trial0", 0, 0, "task00"), ("task00-trial1", 1, 3, "task00"),
        ("task00-trial2", 1, 0, "task00"), ("task01-trial0", -1, 0, "task01"),
    ]
    assert found[1].problem == ("Policy.\n\nCancel A.", "Yes, please.", "{}")
    assert found[1].steps[1:] == tuple(
        f'cancel_reservation({{"reservation_id": "{name}"}})' for name in "AB")


def test_the_rule_on_tool_calls_by_hand():
    asked = ("Hello.", "Yes.", "No, eyesight.", "{}")
    steps = ("Hi.", "send_certificate({})", "send_certificate({})", "get_user_details({})")
    (found,) = ToolCallScorer().score_many([(asked, steps)])
    assert found.scores.tolist() == [0.0, 2.0, 3.0, 1.0]


def test_the_rule_reads_calls_of_own_chats(tmp_path: Path):
    function = {"name": "wipe", "arguments": '{"disk": 1}'}
    chat = [{"role": "user", "content": "Yes."}, {"role": "assistant", "content": "3"},
            {"role": "user", "content": "Go."},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c", "type": "function", "function": function}]}]
    (one,) = RecordedSequence.load(str(write(tmp_path / "x.json", [{"messages": chat}])))
    (found,) = ToolCallScorer(writes=["wipe"]).score_many([(one.problem, one.steps)])
    assert found.scores.tolist() == [0.0, 3.0]


def test_own_problems_solutions_and_chats(tmp_path: Path):
    chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."},
            {"role": "assistant", "content": "What now?"}, {"role": "user", "content": "Nothing."}]
    rows = [{"question": "2 + 2?", "answer": "4"},
            {"question": "3 + 3?", "solution": "3 + 3 = 6.\n\nSo 6.", "label": "0", "id": "b"},
            {"question": "3 + 4?", "steps": ["3 + 4 = 8."], "label": 1, "onset": 1}]
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert RecordedSequence.load(str(file)) == [
        RecordedSequence("00001", "2 + 2?", answer="4"),
        RecordedSequence("b", "3 + 3?", ("3 + 3 = 6.", "So 6."), 0),
        RecordedSequence("00003", "3 + 4?", ("3 + 4 = 8.",), 1, 1),
    ]
    file.write_text(json.dumps({"messages": chat}))
    (found,) = RecordedSequence.load(str(file))
    assert (found.problem, found.steps) == (("Hi.",), ("Hello.\n\nWhat now?",))


@pytest.mark.parametrize(("row", "message"), [
    ({"text": "2 + 2?"}, "found the columns text, expected problem or messages"),
    ({"problem": ""}, "line 1: there is no problem"),
    ({"problem": "x", "label": "bad"}, "line 1: label is 'bad', expected 1 (wrong, unsafe), 0"),
    ({"problem": "x", "steps": ["y"], "onset": 2}, "line 1: onset is 2, expected a step from 1"),
    ({"messages": "hello"}, "line 1: is text, but not a JSON array"),
])
def test_what_cannot_be_read_is_refused(tmp_path: Path, row: dict[str, object], message: str):
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(RecordingError) as caught:
        RecordedSequence.load(str(file))
    assert message in str(caught.value)


@pytest.mark.parametrize(("source", "message"), [
    ("maths", "neither a file nor one of processbench_gsm8k"),
    ("math", "no revision"),
])
def test_sets_that_cannot_be_had_say_what_to_set(source: str, message: str):
    with pytest.raises(RecordingError) as caught:
        RecordedSequence.load(source)
    assert message in str(caught.value)


def test_sets_of_the_hub_from_a_local_copy(tmp_path: Path):
    rows = [
        {"model_type": "context distilled", "rating": 3.0,
         "transcript": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Now?\n\nAssistant: Fine."},
        {"model_type": "plain lm", "rating": 0.0, "transcript": "\n\nHuman: A.\n\nAssistant: B."},
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (found,) = RecordedSequence.load("red_team", path=str(tmp_path))
    assert found == RecordedSequence("attempt_00000", ("Hi.", "Now?"), ("Hello.", "Fine."), 1)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "test.jsonl").write_text(json.dumps({"problem": "2 + 2?", "answer": "4"}))
    assert RecordedSequence.load("math", path=str(tmp_path / "m")) == [
        RecordedSequence("math_0000", "2 + 2?", answer="4")]
