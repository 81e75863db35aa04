"""Checks first: who is asked, who decides, how scores rank, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monitorlab.monitors.checks.program import CHECKS_FIRST, ChecksFirst
from monitorlab.monitors.monitor import Monitor, MonitorError, MonitorStop, Sample
from monitorlab.monitors.rules import Keywords
from monitorlab.monitors.scoring import ScoringError, score
from monitorlab.monitors.verdicts import ERROR, UNPARSED, Verdict

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
        places = list(range(len(samples)))
        return [places[i : i + self.unit] for i in range(0, len(places), self.unit)]

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
            said = Verdict.failure(word, f"{self.name} failed")
        elif isinstance(word, bool):
            said = Verdict("parsed", word)
        else:
            said = Verdict.from_score(word)
        return replace(said, input_tokens=10, output_tokens=1, seconds=0.5, cost_usd=0.25)


def scripted(name: str, *words: float | str | bool, **options: Any) -> Scripted:
    names = (sample.sample_id for sample in SAMPLES)
    return Scripted(name, dict(zip(names, words, strict=False)), **options)


def first(check: Monitor, inner: Monitor, **options: Any) -> ChecksFirst:
    return ChecksFirst(inner, check, **{"ranked": False, **options})


def judge(monitor: Monitor, count: int) -> list[Verdict]:
    return monitor.judge(SAMPLES[:count], 0)


def test_the_fallback_is_asked_where_the_check_raises_no_alarm() -> None:
    check = scripted("check", 0.9, 0.1, "unparsed", "error", 0.5)
    model = scripted("model", 0.2, 0.7, 0.3, "refused", 0.8)
    verdicts = judge(first(check, model), 5)
    assert model.asked == ["s1", "s2", "s3", "s4"]
    assert [verdict.score for verdict in verdicts] == [0.9, 0.7, 0.3, None, 0.8]
    assert [verdict.status for verdict in verdicts] == ["parsed"] * 3 + ["refused", "parsed"]
    assert verdicts[0].evidence.startswith("check: ")
    assert verdicts[1].evidence.startswith("model: ")
    assert verdicts[3].reason == "model: model failed"


def test_a_check_that_is_trusted_fully_decides_wherever_it_has_a_verdict() -> None:
    check = scripted("check", 0.9, 0.1, "unparsed", False)
    model = scripted("model", 0.2, 0.7, 0.3, 0.4)
    verdicts = judge(first(check, model, trust="all"), 4)
    assert model.asked == ["s2"]
    assert [verdict.verdict for verdict in verdicts] == [True, False, False, False]


def test_costs_of_all_that_were_asked_add_up() -> None:
    check, model = scripted("check", 0.9, 0.1), scripted("model", 0.2, 0.7)
    alone, both = judge(first(check, model), 2)
    assert (alone.input_tokens, alone.output_tokens, alone.seconds, alone.cost_usd) == (
        10, 1, 0.5, 0.25
    )  # fmt: skip
    assert (both.input_tokens, both.output_tokens, both.seconds, both.cost_usd) == (20, 2, 1, 0.5)


def test_unknown_trust_is_refused() -> None:
    with pytest.raises(MonitorError, match="alarms, all"):
        first(scripted("a"), scripted("b"), trust="some")


def test_parts_keep_their_own_batches() -> None:
    model = scripted("model", *[0.6] * 6, unit=4)
    judge(first(scripted("check", *[0.1] * 6), model), 6)
    assert model.batches == [4, 2]


def test_units_are_single_where_a_part_calls_side_by_side_or_singly() -> None:
    many = SAMPLES * 30
    quiet = first(scripted("a"), scripted("b"))
    assert [len(unit) for unit in quiet.units(many)] == [64, 64, 52]
    for part in (scripted("b", workers=8), scripted("b", unit=1)):
        for monitor in (first(scripted("a"), part), first(part, scripted("a"))):
            assert {len(unit) for unit in monitor.units(many)} == {1}
            assert monitor.workers == part.workers


def test_a_part_that_raises_is_an_error_and_one_that_stops_stops_the_whole() -> None:
    broken = scripted("broken")  # its script is empty: KeyError
    verdict = judge(first(scripted("check", 0.1), broken), 1)[0]
    assert verdict.status == "error" and "KeyError" in verdict.reason
    with pytest.raises(ScoringError, match="cap is reached"):
        score(first(scripted("check", 0.1), scripted("model", stop=True)), SAMPLES[:1])


def test_settings_nest_and_tell_monitors_apart() -> None:
    a, b = scripted("a"), scripted("b")
    made: list[Monitor] = [
        first(a, b), first(b, a), first(a, b, trust="all"), first(a, b, ranked=True),
    ]  # fmt: skip
    settings = [monitor.settings() for monitor in made]
    assert all(one != other for i, one in enumerate(settings) for other in settings[:i])
    assert settings[0]["check"] == a.settings()
    assert made[0].name != made[1].name


def test_prompts_are_joined_and_named_once() -> None:
    plain, direct, other = scripted("a"), scripted("b", prompt="direct"), scripted("c", prompt="x")
    assert first(plain, scripted("b")).prompt == "none"
    assert first(plain, direct).prompt == "direct"
    assert first(direct, other).prompt == "direct + x"
    assert first(direct, scripted("d", prompt="direct")).prompt == "direct"


def test_combinations_nest_and_fill_a_table() -> None:
    inner = first(scripted("rule", 0.8, 0.1, 0.9), scripted("model", 0.0, 0.3, 0.0))
    table = score(first(scripted("check", "unparsed", 0.2, 0.9), inner), SAMPLES[:3])
    assert table["score"].tolist() == [0.8, 0.3, 0.9]
    assert table["seconds"].tolist() == [1.0, 1.5, 0.5]
    assert set(table["monitor"]) == {"check or rule or model"}


def test_ranked_scores_put_an_alarm_above_all_else_and_keep_the_verdicts() -> None:
    check = scripted("check", 0.6, 0.9, 0.1, "unparsed", False)
    model = scripted("model", 0.0, 0.0, 0.95, "refused", True)
    verdicts = judge(first(check, model, ranked=True), 5)
    assert [verdict.score for verdict in verdicts] == [0.8, 0.95, 0.475, None, None]
    assert [verdict.verdict for verdict in verdicts] == [True, True, True, None, True]
    (trusted,) = judge(first(scripted("check", 0.1), model, ranked=True, trust="all"), 1)
    assert (trusted.verdict, trusted.score) == (False, 0.05)


# A monitor that has judged already


@dataclass(frozen=True)
class Looked:
    """Checks that find what they were told to find, by the text of the response."""

    found: Mapping[str, Verdict] = field(default_factory=dict)
    name = "looked"
    prompt = "none"
    workers = 1

    def settings(self) -> dict[str, Any]:
        return {"kind": "looked"}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        places = list(range(len(samples)))
        return [places[i : i + 3] for i in range(0, len(places), 3)]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        nothing = Verdict.failure(UNPARSED, "nothing")
        return [self.found.get(one.response, nothing) for one in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        return verdict


ROWS = pd.DataFrame({
    "sample_id": [f"s{i}" for i in range(6)], "request": "Do it.",
    "response": ["clean", "weak alarm", "strong alarm", "broke", "silent", "failed, alarm"],
})
LOOKED = Looked({
    "clean": Verdict.from_score(0.1, 0.5, "looked fine"),
    "weak alarm": Verdict.from_score(0.6, 0.5, "line 3"),
    "strong alarm": Verdict.from_score(0.9, 0.5, "line 7"),
    "broke": Verdict.failure(ERROR, "it broke"),
    "failed, alarm": Verdict.from_score(0.7, 0.5, "line 9"),
})


def said() -> pd.DataFrame:
    """The model's: high on what the checks find clean, and none on the last sample."""
    table = score(Keywords(), Sample.rows(ROWS)).set_index("sample_id")
    table = table.loc[ROWS["sample_id"]].reset_index()
    failed = table.index == 5
    scores = pd.Series([0.95, 0.2, 0.3, 0.6, 0.99, np.nan])
    return table.assign(
        arm="all", score=scores, verdict=(scores > 0.5).astype("boolean").mask(failed),
        status=np.where(failed, UNPARSED, "parsed"), seconds=1.0,
    )


def test_an_alarm_ranks_above_everything_the_model_says() -> None:
    told = ChecksFirst.before(said(), ROWS, LOOKED).set_index("sample_id")
    assert told["score"].rank(ascending=False).astype(int).tolist() == [5, 3, 1, 6, 4, 2]
    assert told["score"].between(0, 1).all()
    assert np.allclose(told["score"], [0.475, 0.8, 0.95, 0.3, 0.495, 0.85])
    assert told["verdict"].tolist() == [True] * 6
    assert (told["status"] == "parsed").all()  # also where only the model failed
    assert told.loc["s2", "evidence"] == "looked: line 7" and (told["arm"] == CHECKS_FIRST).all()


def test_without_alarms_the_order_and_the_failures_are_the_models_own() -> None:
    mine = said()
    told = ChecksFirst.before(mine, ROWS, Looked())
    assert np.allclose(told["score"], mine["score"] / 2, equal_nan=True)
    assert told["verdict"].equals(mine["verdict"]) and told["status"].equals(mine["status"])
    assert told["evidence"].str.startswith("keywords: ").all()
    assert (told["seconds"] >= mine["seconds"]).all()


def test_samples_are_matched_by_id_not_by_place() -> None:
    mine = said().iloc[::-1].reset_index(drop=True).head(4)
    more = pd.concat([ROWS, ROWS.assign(sample_id=ROWS["sample_id"] + " x")])
    told = ChecksFirst.before(mine, more.sample(frac=1, random_state=1), LOOKED)
    whole = ChecksFirst.before(said(), ROWS, LOOKED).set_index("sample_id")
    assert told["sample_id"].tolist() == mine["sample_id"].tolist()
    assert np.allclose(told["score"], whole.loc[told["sample_id"], "score"])
