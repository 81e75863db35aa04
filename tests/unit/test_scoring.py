"""The scoring loop: every answer is kept, none is asked for twice, and it knows when to give up."""

from __future__ import annotations

import _thread
import json
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitorlab.monitors.monitor import MonitorStop, Sample, SettingsChanged
from monitorlab.monitors.scoring import ScoringError, score
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import PARSED, Verdict
from monitorlab.storage.tables import VERDICTS

SAMPLES = [Sample(f"s{i:02}", f"request {i}", f"response {i}") for i in range(12)]


@dataclass
class Spy:
    """A monitor that does what `answer` says and remembers what it was asked."""

    answer: Callable[[Sample, int], Verdict] = lambda sample, draw: Verdict.from_score(0.75)
    size: int = 1
    workers: int = 1
    version: int = 1
    name: str = "spy"
    prompt: str = "none"
    asked: list[tuple[str, int]] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        return {"kind": "spy", "version": self.version}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        places = list(range(len(samples)))
        return [places[i : i + self.size] for i in range(0, len(places), self.size)]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        self.asked += [(sample.sample_id, draw) for sample in samples]
        return [self.answer(sample, draw) for sample in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        return verdict


@pytest.fixture
def store(tmp_path: Path) -> VerdictStore:
    return VerdictStore(tmp_path / "store.jsonl")


def again(store: VerdictStore) -> VerdictStore:
    """The store as the next process finds it."""
    return VerdictStore(store.path)


def number(sample: Sample) -> int:
    return int(sample.sample_id[1:])


def failing(*numbers: int) -> Callable[[Sample, int], Verdict]:
    """Answer, but raise for the samples with these numbers."""
    def answer(sample: Sample, draw: int) -> Verdict:
        if number(sample) in numbers:
            raise RuntimeError(f"no answer  for\n{sample.sample_id}")
        return Verdict.from_score(0.25)
    return answer


def test_the_table_has_a_row_for_every_sample_and_fits_its_schema() -> None:
    table = score(Spy(lambda sample, draw: Verdict(PARSED, True, 0.9, "here", "raw", "", 7, 3)),
                  SAMPLES)
    assert list(table.columns) == VERDICTS.columns
    assert list(table["sample_id"]) == [sample.sample_id for sample in SAMPLES]
    row = table.iloc[0]
    assert list(row[["monitor", "prompt", "draw", "status"]]) == ["spy", "none", 0, "parsed"]
    assert (row["verdict"], row["score"], row["evidence"]) == (True, 0.9, "here")
    assert (row["input_tokens"], row["output_tokens"]) == (7, 3)
    assert row["request_hash"] == SAMPLES[0].key({"kind": "spy", "version": 1})
    assert table["seconds"].between(0, 1).all()


def test_no_samples_give_an_empty_table() -> None:
    assert score(Spy(), []).empty


def test_samples_come_from_a_table_without_what_a_monitor_must_not_see() -> None:
    frame = pd.DataFrame({"sample_id": ["a"], "label": [1], "request": ["q"], "response": ["r"]})
    assert Sample.rows(frame) == [Sample("a", "q", "r")]


@pytest.mark.parametrize("status", ["unparsed", "refused", "truncated", "error"])
def test_a_failed_verdict_stays_what_it_is(store: VerdictStore, status: str) -> None:
    monitor = Spy(lambda sample, draw: Verdict.failure(status, "because", "raw"))
    table = score(monitor, SAMPLES[:3], store)
    assert list(table["status"]) == [status] * 3
    assert table["verdict"].isna().all() and table["score"].isna().all()
    assert list(table["evidence"]) == ["because"] * 3


def test_an_exception_is_an_error_of_its_unit_only() -> None:
    table = score(Spy(failing(4), size=3), SAMPLES).set_index("sample_id")
    assert list(table.index[table["status"] == "error"]) == ["s03", "s04", "s05"]
    assert set(table.loc[["s03", "s05"], "evidence"]) == {"RuntimeError: no answer for s04"}


def test_a_unit_with_the_wrong_number_of_verdicts_is_an_error() -> None:
    class Short(Spy):
        def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
            return super().judge(samples, draw)[1:]

    table = score(Short(size=2), SAMPLES[:2])
    assert list(table["evidence"]) == ["ValueError: 1 verdicts for 2 samples"] * 2


@pytest.mark.parametrize("value", [float("nan"), 7.0, -0.1])
def test_a_score_that_is_none_is_an_error_and_not_benign(value: float) -> None:
    table = score(Spy(lambda sample, draw: Verdict.from_score(value)), SAMPLES[:2])
    assert list(table["status"]) == ["error", "error"]
    assert table["evidence"].str.contains(r"expected a number in \[0, 1\]").all()


def test_what_is_stored_is_not_asked_again(store: VerdictStore) -> None:
    first = score(Spy(), SAMPLES[:5], store)
    assert list(first["status"]) == ["parsed"] * 5
    monitor = Spy()
    second = score(monitor, SAMPLES, again(store))
    assert [name for name, _ in monitor.asked] == [sample.sample_id for sample in SAMPLES[5:]]
    pd.testing.assert_frame_equal(second.head(5), first)
    third = Spy()
    pd.testing.assert_frame_equal(score(third, SAMPLES, again(store)), second)
    assert third.asked == []


def test_other_settings_or_another_text_are_another_question(store: VerdictStore) -> None:
    score(Spy(), SAMPLES[:2], store)
    changed = Spy(version=2)
    score(changed, SAMPLES[:2], again(store))
    assert len(changed.asked) == 2
    edited = Spy()
    score(edited, [SAMPLES[0], Sample("s01", "request 1", "response 1!")], again(store))
    assert edited.asked == [("s01", 0)]


def test_a_renamed_sample_is_the_same_question(store: VerdictStore) -> None:
    score(Spy(), SAMPLES[:1], store)
    monitor = Spy()
    table = score(monitor, [Sample("new name", "request 0", "response 0")], again(store))
    assert monitor.asked == [] and list(table["sample_id"]) == ["new name"]


def test_identical_texts_are_asked_about_once(store: VerdictStore) -> None:
    twins = [Sample(name, "same", "same") for name in "abcdef"]
    monitor = Spy()
    table = score(monitor, twins, store)
    assert len(monitor.asked) == 1 and len(table) == 6 and table["request_hash"].nunique() == 1


def test_two_samples_with_one_id_are_refused_before_anything_is_asked() -> None:
    monitor = Spy()
    with pytest.raises(ValueError, match="same sample_id"):
        score(monitor, [SAMPLES[0], Sample("s00", "other", "other")])
    assert monitor.asked == []


def test_errors_are_asked_again_and_answers_are_not(store: VerdictStore) -> None:
    score(Spy(failing(2, 7)), SAMPLES, store)
    monitor = Spy()
    table = score(monitor, SAMPLES, again(store))
    assert monitor.asked == [("s02", 0), ("s07", 0)]
    assert (table["status"] == "parsed").all()


def test_what_units_lack_is_judged_together_and_the_stored_is_not_asked_again(
    store: VerdictStore,
) -> None:
    score(Spy(lambda sample, draw: Verdict.failure("error", "busy") if number(sample) in (1, 4)
              else Verdict.from_score(0.25), size=3), SAMPLES, store)
    monitor = Spy(lambda sample, draw: Verdict.from_score(1.0), size=3)
    table = score(monitor, SAMPLES, again(store)).set_index("sample_id")
    assert [name for name, _ in monitor.asked] == ["s01", "s04"]
    assert (table.loc[["s01", "s04"], "score"] == 1.0).all()
    assert (table.drop(index=["s01", "s04"])["score"] == 0.25).all()


def test_every_draw_is_a_question_of_its_own(store: VerdictStore) -> None:
    monitor = Spy(lambda sample, draw: Verdict.from_score(draw / 4))
    table = score(monitor, SAMPLES[:2], store, draws=3)
    assert [tuple(row) for row in table[["sample_id", "draw", "score"]].to_numpy()] == [
        (name, draw, draw / 4) for name in ("s00", "s01") for draw in range(3)]
    assert table["request_hash"].nunique() == 6
    more = Spy()
    score(more, SAMPLES[:2], again(store), draws=4)
    assert more.asked == [("s00", 3), ("s01", 3)]


def test_fewer_than_one_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="draws is 0, expected at least 1"):
        score(Spy(), SAMPLES, draws=0)


def test_it_gives_up_after_as_many_failures_in_a_row_as_it_has_patience(
    store: VerdictStore,
) -> None:
    monitor = Spy(failing(*range(3, 12)))
    with pytest.raises(ScoringError, match="4 units failed in a row, the last with: RuntimeError"):
        score(monitor, SAMPLES, store, patience=4)
    assert [name for name, _ in monitor.asked] == [f"s{i:02}" for i in range(7)]
    assert len(again(store)) == 3


def test_failures_that_are_not_in_a_row_do_not_exhaust_patience(store: VerdictStore) -> None:
    table = score(Spy(failing(0, 1, 3, 4, 6, 7, 9, 10)), SAMPLES, store, patience=3)
    assert list(table["status"] == "error") == [True, True, False] * 4


def test_a_unit_with_one_answer_is_not_a_failed_unit() -> None:
    error = Verdict.failure("error", "x")
    half = Spy(lambda s, draw: Verdict.from_score(0.5) if number(s) % 2 else error, size=2)
    assert (score(half, SAMPLES, patience=1)["status"] == "parsed").sum() == 6


def test_a_monitor_that_stops_itself_keeps_what_it_said(store: VerdictStore) -> None:
    def answer(sample: Sample, draw: int) -> Verdict:
        if number(sample) == 5:
            raise MonitorStop("the cap of 1 USD is reached")
        return Verdict.from_score(0.5)

    with pytest.raises(ScoringError, match="the cap of 1 USD is reached"):
        score(Spy(answer), SAMPLES, store)
    assert len(again(store)) == 5
    rest = Spy()
    score(rest, SAMPLES, again(store))
    assert len(rest.asked) == 7


def test_workers_ask_at_the_same_time() -> None:
    meeting = threading.Barrier(4, timeout=10)

    def answer(sample: Sample, draw: int) -> Verdict:
        meeting.wait()  # only four at once get through
        return Verdict.from_score(number(sample) / 12)

    table = score(Spy(answer, workers=4), SAMPLES)
    assert list(table["score"]) == [i / 12 for i in range(12)]


def test_answers_in_flight_are_kept_when_another_unit_stops_the_run(store: VerdictStore) -> None:
    stopped = threading.Event()

    def answer(sample: Sample, draw: int) -> Verdict:
        if number(sample) == 0:
            stopped.set()
            raise MonitorStop("enough")
        assert stopped.wait(10)
        time.sleep(0.05)  # the stop is known by then
        return Verdict.from_score(0.5)

    with pytest.raises(ScoringError, match="enough"):
        score(Spy(answer, workers=4), SAMPLES, store)
    assert len(again(store)) == 3


def test_settings_that_change_make_new_keys_and_nothing_is_kept_under_the_old_ones(
    store: VerdictStore,
) -> None:
    class Learning(Spy):
        """Finds out with its first calls that it needs version 2."""

        void = False

        def settings(self) -> dict[str, Any]:
            self.version += self.void
            self.void = False
            return super().settings()

        def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
            if self.version == 1:
                self.void = True
                raise SettingsChanged("version 1 is void")
            return super().judge(samples, draw)

    monitor = Learning(workers=4)
    table = score(monitor, SAMPLES, store)
    assert sorted(monitor.asked) == [(sample.sample_id, 0) for sample in SAMPLES]
    new = [sample.key({"kind": "spy", "version": 2}) for sample in SAMPLES]
    assert list(table["request_hash"]) == new
    assert sorted(json.loads(line)["key"] for line in store.path.read_text().splitlines()) == (
        sorted(new))


def test_an_interruption_from_the_keyboard_keeps_what_arrived(store: VerdictStore) -> None:
    def answer(sample: Sample, draw: int) -> Verdict:
        if number(sample) == 6:
            _thread.interrupt_main()
            time.sleep(0.1)  # this call is under way while the interruption is handled
        return Verdict.from_score(0.5)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored, as in `&`
    try:
        with pytest.raises(KeyboardInterrupt):
            score(Spy(answer), SAMPLES, store)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert len(again(store)) == 7
    rest = Spy()
    table = score(rest, SAMPLES, again(store))
    assert [name for name, _ in rest.asked] == [f"s{i:02}" for i in range(7, 12)]
    assert (table["score"].head(7) == 0.5).all()


def test_a_stored_reply_is_read_with_todays_parser(store: VerdictStore) -> None:
    class Parsing(Spy):
        def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
            return Verdict(PARSED, verdict.reply == "yes", reply=verdict.reply)

    score(Spy(lambda sample, draw: Verdict.failure("unparsed", "?", "yes")), SAMPLES[:2], store)
    monitor = Parsing()
    table = score(monitor, SAMPLES[:2], again(store))
    assert monitor.asked == [] and list(table["verdict"]) == [True, True]


def test_a_key_depends_on_every_part_of_the_request_and_on_nothing_else() -> None:
    base = SAMPLES[0].key({"a": 1, "b": 2})
    assert base == Sample("x", "request 0", "response 0").key({"b": 2, "a": 1})
    others = [SAMPLES[0].key({"a": 1}), SAMPLES[0].key({"a": 1, "b": 2}, 1),
              SAMPLES[1].key({"a": 1, "b": 2}),
              Sample("s", "request 0response 0", "").key({"a": 1, "b": 2})]
    assert len({base, *others}) == 5
    assert len(Sample("s", "half \ud83d", "").key({})) == 64


def test_the_store_holds_the_time_of_every_call(store: VerdictStore) -> None:
    slow = Spy(lambda sample, draw: time.sleep(0.002) or Verdict.from_score(0.5), size=3)
    score(slow, SAMPLES, store)
    entries = [json.loads(line) for line in store.path.read_text().splitlines()]
    assert len(entries) == 12 and all(0.002 <= entry["seconds"] < 1 for entry in entries)
