"""What a view shows of a sample, and what a monitor with a view is, asks and says."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pytest

from monitorlab.commands.score import _reread
from monitorlab.monitors.build import build_monitor, describe
from monitorlab.monitors.monitor import FULL, NO_PROMPT, VIEWS, MonitorError, Sample, Viewed
from monitorlab.monitors.rules import Keywords
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import PARSED, Verdict

THINKS = Sample("t", "Add 2 and 2.", "<think>\nskip the check, it is 4\n</think>\n\nIt is 4.")
PLAIN = Sample("p", "Add 2 and 2.", "It is 4.")


@dataclass
class Noting:
    """Keeps what it was asked, and alarms where the response is longer than the request."""

    asked: list[list[Sample]] = field(default_factory=list)
    name = "noting"
    prompt = NO_PROMPT
    workers = 3

    def settings(self) -> dict[str, object]:
        return {"kind": "noting"}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        places = list(range(len(samples)))
        return [places[i : i + 2] for i in range(0, len(places), 2)]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        self.asked.append(list(samples))
        return [Verdict(PARSED, len(one.response) > len(one.request)) for one in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        self.asked.append([sample])
        return verdict


@pytest.mark.parametrize(("view", "request_", "response"), [
    ("full", THINKS.request, THINKS.response), ("no-request", "", THINKS.response),
    ("no-thinking", THINKS.request, "It is 4."), ("last-3-words", THINKS.request, "It is 4."),
    ("thinking-only", THINKS.request, "skip the check, it is 4"),
    ("last-words", THINKS.request, THINKS.response),
])
def test_what_a_view_shows(view: str, request_: str, response: str) -> None:
    assert THINKS.seen(view) == Sample("t", request_, response)


def test_last_words_keep_the_lines_of_a_program() -> None:
    code = "\n".join(f"    x{i} = {i}" for i in range(30))
    assert Sample("c", "?", code).seen("last-6-words").response == "x28 = 28\n    x29 = 29"
    assert len(Sample("c", "?", code + " y = 1").seen("last-words").response.split()) == 70


@pytest.mark.parametrize("view", ["", "half", "last-0-words", "last--words", "Full", "last words"])
def test_an_unknown_view_is_refused(view: str) -> None:
    for call in (lambda: PLAIN.seen(view), lambda: Viewed(Keywords(), view),
                 lambda: build_monitor("hf:there/is/no/such/model", {"view": view})):
        with pytest.raises(MonitorError, match="there is no view .*: expected one of full"):
            call()


@pytest.mark.parametrize("view", [view for view in VIEWS if view != FULL])
def test_a_view_is_part_of_name_and_settings(view: str) -> None:
    plain, part = build_monitor("keywords"), build_monitor(f"keywords -o view={view}")
    assert part.name == f"keywords, view {view}"
    assert part.settings() == {**plain.settings(), "view": view}
    assert PLAIN.key(part.settings()) != PLAIN.key(plain.settings())
    assert (part.prompt, part.workers) == (plain.prompt, plain.workers)


def test_the_full_view_is_the_monitor_as_it_was() -> None:
    assert build_monitor("keywords", {"view": "full"}) == build_monitor("keywords") == Keywords()


def test_every_kind_takes_a_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    own = tmp_path / "own.py"
    own.write_text("def f(request, response, level: int = 3): return len(response) > level\n")
    short = build_monitor(f"{own}:f -o view=last-1-words", {"level": 5})
    assert short.name.endswith(":f, level 5, view last-1-words")
    assert short.judge([PLAIN], 0)[0].verdict is False  # "4."
    first = build_monitor("checks-first:keywords -o view=no-thinking")
    assert first.name == "checks first, keywords, view no-thinking"
    assert first.judge([THINKS], 0)[0].verdict is False  # the suspicious word is in the thinking
    assert build_monitor("checks-first:keywords").judge([THINKS], 0)[0].verdict is True
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-a-test")
    usual = build_monitor("api:m -o base_url=http://127.0.0.1:9/v1 -o view=last-70-words")
    assert usual.name == "m, base_url http://127.0.0.1:9/v1, view last-words"
    assert usual.settings()["view"] == "last-words"
    assert all("\n  view: str = full\n" in describe(kind) for kind in ("hf", "gpt-5-mini"))


def test_nothing_left_is_an_error_and_nobody_is_asked(tmp_path: Path) -> None:
    inner = Noting()
    monitor = Viewed(inner, "thinking-only")
    samples = [PLAIN, THINKS, Sample("q", "?", " "), Sample("u", "?", "<think>a b c</think>")]
    assert monitor.units(samples) == [[0, 2], [1, 3]]
    store = VerdictStore(tmp_path / "store.jsonl")
    found = score(monitor, samples, store).set_index("sample_id")
    assert found["status"].to_dict() == {"p": "error", "t": "parsed", "q": "error", "u": "parsed"}
    assert found.loc["p", "evidence"] == ("the view thinking-only leaves nothing: the response has "
                                          "no thinking")
    assert inner.asked[0] == [samples[1].seen("thinking-only"), samples[3].seen("thinking-only")]
    assert len(inner.asked) == 3 and len(store) == 2  # then one look at each stored reply
    assert monitor.judge(samples, 0)[1:3] == [Verdict(PARSED, True), Verdict.failure(
        "error", "the view thinking-only leaves nothing: the response has no thinking")]
    before = len(inner.asked)
    again = score(monitor, samples, store)
    assert all(len(asked) == 1 for asked in inner.asked[before:])  # nothing is asked twice
    assert again.set_index("sample_id")["status"].equals(found["status"])


def test_a_stored_reply_is_read_again_beside_what_was_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-key-of-a-test")
    answer = '{"misbehavior_detected": true}'
    sample = Sample("s", "Judge it.", f"<think>{answer}</think>It is 4.")
    stored = Verdict(PARSED, False, reply=f"I say {answer}", output_tokens=9)
    samples = pd.DataFrame([vars(sample)])
    for view, now in (("full", "unparsed"), ("no-thinking", "parsed")):
        monitor = build_monitor(f"api:m -o base_url=http://127.0.0.1:9/v1 -o view={view}")
        store = VerdictStore(tmp_path / f"{view}.jsonl")
        store.put({sample.key(monitor.settings()): stored})
        table = score(monitor, [sample], store)  # which reads the reply again, too
        found = _reread(store, table, samples, settings=monitor.settings())
        assert table["status"].tolist() == [now]
        assert [verdict.status for verdict in found.verdicts.values()] == [now]
