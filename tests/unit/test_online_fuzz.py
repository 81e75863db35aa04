"""Streams and policy files that nobody would think of: the monitor against its specification.

Hypothesis draws the operations and shrinks what fails. The specification is a dozen lines of plain
Python: a sequence alarms at its first score that is no number, at its first step that is out of
order, and at its first running statistic above the threshold.
"""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monitorlab.commands.watch import watch
from monitorlab.online.drift import DriftReference
from monitorlab.online.policy import OnlineMonitor, Policy, PolicyError
from monitorlab.online.running import Cusum, Ewma, LatestScore, RunningMean
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import calibrate

TWO = Trajectories("d", "s", np.array(["safe", "not"], object), np.array([0.0, 1.0]), np.ones(2),
                   np.ones(2, int), np.array([0, 1], np.int8))
STATISTICS = {one.name: one.fit(TWO) for one in (LatestScore(), RunningMean(), Ewma(), Cusum())}
POLICY = Policy(calibrate(np.linspace(-1, 1, 19), level=0.2),
                drift=DriftReference((0.0,), (10, 10)))
IDS = st.sampled_from(["a", "b", "", "\N{SNOWMAN}", "a\nb"])
NUMBERS = st.floats(allow_nan=False, width=64)
RUBBISH = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.just(math.nan),
                    st.just(10**400), st.lists(st.floats(), max_size=2))
QUICK = settings(max_examples=60, deadline=None, derandomize=True,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])


class Streams(RuleBasedStateMachine):
    """Any interleaving of sequences, with numbers, rubbish, gaps and ends."""

    def __init__(self) -> None:
        super().__init__()
        self.monitor = OnlineMonitor(POLICY)
        self.scores: dict[str, list[float]] = {}
        self.alarmed: dict[str, bool] = {}
        self.total = 0

    def expect(self, name: str, alarm: Any, should: bool) -> None:
        assert (alarm is not None) == (should or self.alarmed.get(name, False))
        if alarm is not None and not self.alarmed.get(name):
            self.total += 1
            json.dumps(alarm.to_dict(), allow_nan=False)
        self.alarmed[name] = alarm is not None

    @rule(name=IDS, score=NUMBERS)
    def number(self, name: str, score: float) -> None:
        self.scores.setdefault(name, []).append(score)
        self.expect(name, self.monitor.update(name, score), score > POLICY.threshold.value)

    @rule(name=IDS, score=RUBBISH)
    def rubbish(self, name: str, score: Any) -> None:
        self.scores.setdefault(name, []).append(math.nan)
        self.expect(name, self.monitor.update(name, score), True)

    @rule(name=IDS, skipped=st.integers(2, 10**6))
    def gap(self, name: str, skipped: int) -> None:
        seen = len(self.scores.setdefault(name, []))
        self.scores[name].append(math.nan)
        self.expect(name, self.monitor.update(name, 0.0, step=seen + 1 + skipped), True)

    @precondition(lambda self: self.scores)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.scores)))
        self.monitor.end(name)
        del self.scores[name]
        self.alarmed.pop(name, None)

    @invariant()
    def counts_add_up(self) -> None:
        assert self.monitor.open == len(self.scores)
        assert self.monitor.alarms == self.total


TestStreams = Streams.TestCase
TestStreams.settings = settings(QUICK, max_examples=25, stateful_step_count=25)


@pytest.mark.parametrize("name", STATISTICS)
@QUICK
@given(scores=st.lists(NUMBERS, max_size=40))
def test_the_first_alarm_is_that_of_the_whole_sequence(name: str, scores: list[float]) -> None:
    """Infinite scores and empty sequences included."""
    fitted = STATISTICS[name]
    monitor = OnlineMonitor(Policy(POLICY.threshold, fitted))
    raised = [monitor.update("x", score) is not None for score in scores]
    state, expected, over = fitted.start(), [], False
    for score in scores:
        state, value = fitted.update(state, score)
        over = over or not value <= POLICY.threshold.value  # what is no number alarms as well
        expected.append(over)
    assert raised == expected


@QUICK
@given(data=st.data())
def test_no_changed_policy_is_run(data: st.DataObject, tmp_path: Any) -> None:
    """Cut, or with any byte replaced by another: refused, in words."""
    path = tmp_path / "policy.json"
    POLICY.save(path)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 2))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    changed = data.draw(st.sampled_from(
        [whole[:at], whole[:at] + bytes([other]) + whole[at + 1:], whole + whole, b"",
         whole[: at + 1] + whole[at:]]))
    path.write_bytes(changed)
    if changed.split() == whole.split():  # white space between two values is no change
        assert Policy.load(path) == POLICY
        return
    with pytest.raises(PolicyError) as refused:
        Policy.load(path)
    said = str(refused.value)
    assert said.startswith(str(path)) and len(said) > len(str(path)) + 20


@QUICK
@given(lines=st.lists(st.one_of(
    st.text(max_size=20),
    st.fixed_dictionaries({"id": st.one_of(IDS, st.integers(), st.none()),
                           "score": st.one_of(NUMBERS, RUBBISH)},
                          optional={"end": st.booleans(), "step": st.integers(-1, 3)})
    .map(lambda row: json.dumps(row)[:200])), max_size=12))
def test_watch_counts_every_line_and_stops_at_none(lines: list[str]) -> None:
    alarms: list[str] = []
    monitor = OnlineMonitor(POLICY)
    watch(monitor, lines, alarms.append, lambda said: None)
    assert all(isinstance(json.loads(line), dict) for line in alarms)
    assert json.loads(alarms[-1])["alarms"] == len(alarms) - 1


@pytest.mark.long
def test_ten_million_steps_need_no_more_memory_than_ten_thousand() -> None:
    monitor, steps = OnlineMonitor(POLICY), itertools.cycle(np.linspace(-1, 0.4, 997).tolist())
    for score in itertools.islice(steps, 10_000):
        monitor.update("endless", score)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for score in itertools.islice(steps, 10_000_000):
            monitor.update("endless", score)
        assert tracemalloc.get_traced_memory()[0] - before < 2_000
    finally:
        tracemalloc.stop()
    assert monitor.steps == 10_010_000 and monitor.alarms == 0
