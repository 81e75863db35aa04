"""Hybrids, cascades and votes: who is asked, who decides, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from monitorlab.monitors.combined import Cascade, Hybrid
from monitorlab.monitors.monitor import Monitor, MonitorError, MonitorStop, Sample, chunks
from monitorlab.monitors.scoring import ScoringError, score
from monitorlab.monitors.verdicts import Verdict, failure, from_score

SAMPLES = [Sample(f"s{i}", "Ask.", f"Answer {i}.") for i in range(6)]
STATUSES = ("unparsed", "refused", "truncated", "error")


@dataclass
class Scripted:
    """Says what its script says, at a price, and remembers whom it was asked about."""

    name: str
    script: dict[str, float | str | bool]  # score, failed status, or a verdict without a score
    prompt: str = "none"
    workers: int = 1
    unit: int = 4
    stop: bool = False
    asked: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def settings(self) -> dict[str, Any]:
        return {"kind": "scripted", "name": self.name}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        return chunks(len(samples), self.unit)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        if self.stop:
            raise MonitorStop("the cap is reached")
        self.asked += [sample.sample_id for sample in samples]
        self.batches.append(len(samples))
        return [self._say(self.script[sample.sample_id]) for sample in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        return verdict

    def _say(self, word: float | str | bool) -> Verdict:
        if isinstance(word, str):
            said = failure(word, f"{self.name} failed")
        elif isinstance(word, bool):
            said = Verdict("parsed", word)
        else:
            said = from_score(word)
        return replace(said, input_tokens=10, output_tokens=1, seconds=0.5, cost_usd=0.25)


def scripted(name: str, *words: float | str | bool, **options: Any) -> Scripted:
    names = (sample.sample_id for sample in SAMPLES)
    return Scripted(name, dict(zip(names, words, strict=False)), **options)


def judge(monitor: Monitor, count: int) -> list[Verdict]:
    return monitor.judge(SAMPLES[:count], 0)


# Hybrid


def test_the_fallback_is_asked_where_the_check_raises_no_alarm() -> None:
    check = scripted("check", 0.9, 0.1, "unparsed", "error", 0.5)
    model = scripted("model", 0.2, 0.7, 0.3, "refused", 0.8)
    verdicts = judge(Hybrid(check, model), 5)
    assert model.asked == ["s1", "s2", "s3", "s4"]
    assert [verdict.score for verdict in verdicts] == [0.9, 0.7, 0.3, None, 0.8]
    assert [verdict.status for verdict in verdicts] == ["parsed"] * 3 + ["refused", "parsed"]
    assert verdicts[0].evidence.startswith("check: ")
    assert verdicts[1].evidence.startswith("model: ")
    assert verdicts[3].reason == "model: model failed"


def test_a_check_that_is_trusted_fully_decides_wherever_it_has_a_verdict() -> None:
    check = scripted("check", 0.9, 0.1, "unparsed", False)
    model = scripted("model", 0.2, 0.7, 0.3, 0.4)
    verdicts = judge(Hybrid(check, model, trust="all"), 4)
    assert model.asked == ["s2"]
    assert [verdict.verdict for verdict in verdicts] == [True, False, False, False]


def test_costs_of_all_that_were_asked_add_up() -> None:
    check, model = scripted("check", 0.9, 0.1), scripted("model", 0.2, 0.7)
    alone, both = judge(Hybrid(check, model), 2)
    assert (alone.input_tokens, alone.output_tokens, alone.seconds, alone.cost_usd) == (
        10, 1, 0.5, 0.25
    )  # fmt: skip
    assert (both.input_tokens, both.output_tokens, both.seconds, both.cost_usd) == (20, 2, 1, 0.5)


def test_unknown_trust_is_refused() -> None:
    with pytest.raises(MonitorError, match="alarms, all"):
        Hybrid(scripted("a"), scripted("b"), trust="some")


# Cascade


def test_the_expensive_monitor_is_asked_in_the_closed_range_and_after_failures() -> None:
    cheap = scripted("cheap", 0.19, 0.2, 0.5, 0.7, 0.71, True)
    dear = scripted("dear", 0.0, 0.9, 0.1, 0.6, 0.0, 0.4)
    verdicts = judge(Cascade(cheap, dear, 0.2, 0.7), 6)
    assert dear.asked == ["s1", "s2", "s3", "s5"]
    assert [verdict.score for verdict in verdicts] == [0.19, 0.9, 0.1, 0.6, 0.71, 0.4]
    assert [verdict.verdict for verdict in verdicts] == [False, True, False, True, True, False]


@pytest.mark.parametrize("status", STATUSES)
def test_a_failure_of_the_expensive_monitor_stays_a_failure(status: str) -> None:
    verdict = judge(Cascade(scripted("cheap", 0.5), scripted("dear", status), 0.2, 0.7), 1)[0]
    assert (verdict.status, verdict.verdict, verdict.score) == (status, None, None)
    assert verdict.cost_usd == 0.5


@pytest.mark.parametrize("status", STATUSES)
def test_a_failure_of_the_cheap_monitor_is_mended_by_the_expensive_one(status: str) -> None:
    verdict = judge(Cascade(scripted("cheap", status), scripted("dear", 0.8), 0.2, 0.7), 1)[0]
    assert (verdict.status, verdict.verdict, verdict.score) == ("parsed", True, 0.8)


def test_the_whole_range_is_the_expensive_monitor_alone() -> None:
    scores = [0.0, 0.3, 0.6, 1.0]
    cascade = Cascade(scripted("cheap", 1.0, 0.0, 0.5, 0.9), scripted("dear", *scores), 0, 1)
    assert [verdict.score for verdict in judge(cascade, 4)] == scores


@pytest.mark.parametrize(("low", "high"), [(0.7, 0.2), (-0.1, 0.5), (0.5, 1.1)])
def test_impossible_ranges_are_refused(low: float, high: float) -> None:
    with pytest.raises(MonitorError, match="low <= high"):
        Cascade(scripted("cheap"), scripted("dear"), low, high)


# All of them


def test_parts_keep_their_own_batches() -> None:
    model = scripted("model", *[0.6] * 6, unit=4)
    judge(Hybrid(scripted("check", *[0.1] * 6), model), 6)
    assert model.batches == [4, 2]


def test_units_are_single_where_a_part_calls_side_by_side_or_singly() -> None:
    many = SAMPLES * 30
    quiet = Cascade(scripted("a"), scripted("b"), 0, 1)
    assert [len(unit) for unit in quiet.units(many)] == [64, 64, 52]
    for part in (scripted("b", workers=8), scripted("b", unit=1)):
        for monitor in (Hybrid(scripted("a"), part), Cascade(part, scripted("a"), 0, 1)):
            assert {len(unit) for unit in monitor.units(many)} == {1}
            assert monitor.workers == part.workers


def test_a_part_that_raises_is_an_error_and_one_that_stops_stops_the_whole() -> None:
    broken = scripted("broken")  # its script is empty: KeyError
    verdict = judge(Hybrid(scripted("check", 0.1), broken), 1)[0]
    assert verdict.status == "error" and "KeyError" in verdict.reason
    with pytest.raises(ScoringError, match="cap is reached"):
        score(Cascade(scripted("cheap", 0.5), scripted("dear", stop=True), 0, 1), SAMPLES[:1])


def test_settings_nest_and_tell_monitors_apart() -> None:
    a, b = scripted("a"), scripted("b")
    made: list[Monitor] = [
        Hybrid(a, b), Hybrid(b, a), Hybrid(a, b, trust="all"), Cascade(a, b, 0.1, 0.9),
        Cascade(a, b, 0.2, 0.9),
    ]  # fmt: skip
    settings = [monitor.settings() for monitor in made]
    assert all(one != other for i, one in enumerate(settings) for other in settings[:i])
    assert settings[0]["check"] == a.settings()
    assert len({monitor.name for monitor in made[:2] + made[3:4]}) == 3


def test_prompts_are_joined_and_named_once() -> None:
    plain, direct, other = scripted("a"), scripted("b", prompt="direct"), scripted("c", prompt="x")
    assert Hybrid(plain, scripted("b")).prompt == "none"
    assert Hybrid(plain, direct).prompt == "direct"
    assert Hybrid(direct, other).prompt == "direct + x"
    assert Hybrid(direct, scripted("d", prompt="direct")).prompt == "direct"


def test_combinations_nest_and_fill_a_table() -> None:
    inner = Cascade(scripted("cheap", 0.1, 0.5, 0.9), scripted("dear", 0.0, 0.8, 0.0), 0.3, 0.7)
    table = score(Hybrid(scripted("check", "unparsed", 0.2, 0.9), inner), SAMPLES[:3])
    assert table["score"].tolist() == [0.1, 0.8, 0.9]
    assert table["seconds"].tolist() == [1.0, 1.5, 0.5]
    assert set(table["monitor"]) == {"check or cheap then dear"}
