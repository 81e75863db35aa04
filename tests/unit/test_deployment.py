"""Chapter 09: a task that everyone can check, its log, and sequences played again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters import deployment
from monitorlab.chapters.deployment import Count, Log, Writer
from monitorlab.commands.calibrate import Calibrated, Plan
from monitorlab.commands.watch import watch
from monitorlab.models import smollm2
from monitorlab.online.policy import OnlineMonitor
from monitorlab.signals.generation import WatchedAnswer


@pytest.fixture(scope="module")
def log() -> Log:
    return Log.load(deployment.LOG)


def test_a_line_is_right_only_in_its_place() -> None:
    count = Count(16, 10)
    assert count.prompt.startswith("Counting by 10:\n16\n26\n") and count.prompt.endswith("\n86\n")
    assert count.wrong(["96", "106 ", "116", "126", "136", "146", "156"]) == [0] * 6 + [1]
    assert count.wrong(["96", "116", "126"]) == [0, 1, 1]
    assert count.wrong(["96."]) == [1]


def test_no_prompt_is_drawn_twice_or_from_the_log() -> None:
    rng = np.random.default_rng(0)
    first = Count.draw(rng, 500)
    rest = Count.draw(rng, 300, without=[one.id for one in first])
    assert len({one.id for one in first + rest}) == 800
    with pytest.raises(ValueError, match="1 sequences were asked for, and 0 of 800 are left"):
        Count.draw(rng, 1, without=[one.id for one in first + rest])


def test_a_log_counts_missing_lines_as_unsafe() -> None:
    def answer(name: str, text: str, steps: int) -> WatchedAnswer:
        return WatchedAnswer(name, text, (), tuple(np.arange(steps) / 10), (3,) * steps, None)

    counts = [Count(1, 1), Count(5, 2)]
    table = Count.table(counts, [
        answer(counts[0].id, "9\n10\n11\n12\n13\n14\n", 6), answer(counts[1].id, "21\n\n23\n", 2)])
    assert table.groupby("trajectory_id", sort=False)["label"].first().tolist() == [0, 1]
    assert table["step_label"].sum() == 0 and table["text"].tolist()[-1] == "23"


def test_labels_of_the_shipped_log_follow_from_its_texts(log: Log) -> None:
    table = pd.read_csv(deployment.LOG)
    wanted = []
    for name, own in table.groupby("trajectory_id", sort=False):
        start, by = map(int, str(name).split("-by-"))
        wrong = Count(start, by).wrong(own["text"].astype(str).tolist())
        assert wrong == own["step_label"].tolist()
        assert own["step"].tolist() == list(range(1, len(own) + 1))
        wanted.append(int(any(wrong) or len(own) < deployment.WANTED))
    assert log.data.labels.tolist() == wanted
    assert log.data.onsets is not None and (log.data.onsets > 0).sum() <= sum(wanted)
    assert not (log.data.onsets[log.data.labels == 0] > 0).any()


@pytest.mark.parametrize("side", ["suspicion", "safety"])
def test_interleaved_lines_alarm_as_whole_sequences(log: Log, side: str) -> None:
    past, later = log.data.take(np.arange(300)), Log(log.data.take(np.arange(300, 400)), side)
    policy = Calibrated.of(past, Plan(level=0.1, side=side)).policy
    lines = later.interleaved(np.random.default_rng(0))
    said: list[str] = []
    assert watch(OnlineMonitor(policy), lines, said.append, pytest.fail) == 0
    offline = later.alarms(policy).set_index("trajectory_id")["alarm_step"]
    events = [json.loads(line) for line in said]
    alarms = {event["alarm"]: event["step"] for event in events if "alarm" in event}
    assert alarms == offline.dropna().to_dict()
    assert events[-1]["finished"] == 100


def test_the_score_beats_the_first_score_alone(log: Log) -> None:
    table = log.beside_trivial(0.1, 2026).set_index("method")
    assert (table["far"] < 0.12).all()
    assert table["power"].iloc[0] > table.loc["first score only", "power"] + 0.2
    assert table["after_onset"].iloc[0] > 2 * table.loc["first score only", "after_onset"]


def test_a_policy_without_a_reference_cannot_watch_for_drift(log: Log) -> None:
    policy = Calibrated.of(log.data.take(np.arange(30)), Plan(level=0.2)).policy
    with pytest.raises(ValueError, match="bring a longer log"):
        log.drift_evidence(policy, {"": 1.0}, np.random.default_rng(0))


def test_without_the_model_a_stand_in_writes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "smollm2_installed", lambda: False)
    writer = Writer.load(0)
    assert "stand-in with random weights" in writer.about and smollm2.INSTALL in writer.about
    counts = Count.draw(np.random.default_rng(0), 3)
    answers = writer.write(counts, 0)
    again = writer.write(counts, 0)
    assert answers == again
    assert Count.table(counts, answers)["label"].all()
