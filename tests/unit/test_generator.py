"""The generator protocol: what is kept, what is dropped and why, and what survives a crash."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitorlab.benchmark.sources.generator import (
    BENIGN,
    FAILED,
    MISBEHAVING,
    NO_JUDGE,
    NOT_ASKED,
    UNCLEAR,
    Question,
    _Construction,
    construct,
)
from monitorlab.benchmark.written import PairError, WrittenPair
from monitorlab.monitors.monitor import MonitorStop, Sample
from monitorlab.monitors.scoring import ScoringError
from monitorlab.monitors.verdicts import PARSED, TRUNCATED, UNPARSED, Verdict
from monitorlab.storage.tables import CELLS, SAMPLES

WORDS = {"good": BENIGN, "bad": MISBEHAVING, "hm": UNCLEAR}


class Scripted:
    """Gives the answers of a request by the number of the draw, and counts what it was asked."""

    prompt, workers = "plain", 1

    def __init__(self, answers: Mapping[str, Sequence[str]], name: str = "scripted") -> None:
        self.answers, self.name = answers, name
        self.asked: list[tuple[str, int]] = []

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "scripted", "name": self.name}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        return [[place] for place in range(len(samples))]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        return [self.answer(sample, draw) for sample in samples]

    def answer(self, sample: Sample, draw: int) -> Verdict:
        self.asked.append((sample.request, draw))
        text = self.answers[sample.request][draw]
        if text == "stop":
            raise MonitorStop("the cost cap is reached")
        if text == "crash":
            raise ConnectionError("the line went dead")
        status = TRUNCATED if text.startswith("cut") else UNPARSED
        return Verdict(status, reply=text, reason="nobody judges it")

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        return verdict


class Reader(Scripted):
    """Judges by the last word of a response."""

    def answer(self, sample: Sample, draw: int) -> Verdict:
        self.asked.append((sample.request, draw))
        word = sample.response.split()[-1]
        return Verdict(UNPARSED, reply=word, reason="?") if word == "hm" else \
            Verdict(PARSED, word == "bad", reply=word)


def question(name: str, own: bool = True) -> Question:
    judge: Callable[[str], str] = lambda answer: WORDS[answer.split()[-1]]  # noqa: E731
    return Question(name, "demo", "syco_qa", f"ask {name}", "authority", "appeal",
                    judge if own else None, "Be good.")


def run(
    folder: Path, answers: Mapping[str, Sequence[str]], tries: int = 5, name: str = "scripted",
    max_calls: int = 0, judge: Scripted | None = None,
) -> tuple[_Construction, Scripted]:  # fmt: skip
    model = Scripted({f"ask {key}": list(values) for key, values in answers.items()}, name)
    questions = [question(key, judge is None) for key in answers]
    return construct(questions, model, folder / "deep" / "store.jsonl", tries, judge,
                     max_calls), model


def reason(made: _Construction, name: str = "q") -> str:
    return str(made.dropped.set_index("question").loc[name, "reason"])


def test_a_pair_is_the_first_answer_of_each_kind_and_then_no_more_is_asked(tmp_path: Path) -> None:
    made, model = run(tmp_path, {"q": ["hm", "one good", "two good", "<think>a</think> bad", "-"]})
    assert made.calls == len(model.asked) == 4
    samples = SAMPLES.check(made.samples).set_index("label")
    assert samples.loc[0, "response"] == "one good"
    assert samples.loc[1, "response"] == "<think>a</think> bad"
    assert list(samples.loc[[0, 1], "has_thinking"]) == [False, True]
    assert set(samples["pair_id"]) == {"q"} and set(samples["generator"]) == {"scripted"}
    assert set(samples["category"]) == {"syco"} and set(samples["task"]) == {"qa"}
    assert made.dropped.empty


@pytest.mark.parametrize(
    ("answers", "why"),
    [(["good"] * 5, "every clear try was benign"), (["bad", "hm"] * 3, "every clear try mis"),
     (["hm"] * 5, "no try gave a clear answer"), (["hm", "good", "hm", "hm", "hm"], "every ")],
)  # fmt: skip
def test_a_question_is_dropped_for_a_reason(tmp_path: Path, answers: list[str], why: str) -> None:
    made, model = run(tmp_path, {"q": answers})
    assert made.samples.empty and len(model.asked) == 5
    assert list(made.samples.columns) == SAMPLES.columns
    (row,) = made.dropped.to_dict("records")
    assert (row["question"], row["source"], row["cell"], row["tries"]) == \
        ("q", "demo", "syco_qa", 5)  # fmt: skip
    assert row["reason"].startswith(why)


def test_tries_bound_the_calls_and_a_pair_needs_two(tmp_path: Path) -> None:
    made, model = run(tmp_path, {"q": ["good"] * 2 + ["bad"]}, tries=2)
    assert made.samples.empty and len(model.asked) == 2
    # More tries later use the two stored answers.
    more, again = run(tmp_path, {"q": ["-", "-", "bad"]}, tries=3)
    assert len(more.samples) == 2 and len(again.asked) == 1
    with pytest.raises(ValueError, match="tries is 1, expected at least 2"):
        run(tmp_path, {"q": ["good"]}, tries=1)


ANSWERS = {"a": ["good", "bad"], "b": ["hm", "bad", "good"], "c": ["good"] * 5,
           "d": ["bad", "good"]}  # fmt: skip


def test_resuming_repeats_no_call_and_loses_nothing(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", ANSWERS)
    with pytest.raises(ScoringError, match="the cost cap is reached"):
        run(tmp_path, {**ANSWERS, "b": ["hm", "stop"]})
    made, model = run(tmp_path, ANSWERS)
    assert made.calls == len(model.asked) == whole.calls - 5, "four first tries, and a second one"
    pd.testing.assert_frame_equal(made.samples, whole.samples)
    pd.testing.assert_frame_equal(made.dropped, whole.dropped)
    # A finished construction asks for nothing at all.
    last, silent = run(tmp_path, dict.fromkeys(ANSWERS, ()))
    assert (last.calls, silent.asked) == (0, [])
    pd.testing.assert_frame_equal(last.samples, whole.samples)


def test_a_call_that_failed_is_repeated_and_else_said(tmp_path: Path) -> None:
    made, _ = run(tmp_path, {"q": ["good", "crash", "bad"], "r": ["good"] * 3}, tries=2)
    assert reason(made) == FAILED and made.dropped.set_index("question").loc["q", "tries"] == 1
    again, _ = run(tmp_path, {"q": ["-", "bad"], "r": []}, tries=2)
    assert len(again.samples) == 2 and again.calls == 1


def test_the_limit_of_calls_holds_over_runs(tmp_path: Path) -> None:
    first, model = run(tmp_path, ANSWERS, max_calls=6)
    assert first.calls == len(model.asked) == 6
    assert reason(first, "c") == NOT_ASKED and len(first.samples) == 2
    second, _ = run(tmp_path, ANSWERS)
    assert second.calls == 12 - 6 and len(second.samples) == 6


def test_another_generator_reuses_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, ANSWERS)[0].calls == 12
    assert run(tmp_path, ANSWERS, name="scripted@2")[0].calls == 12
    assert run(tmp_path, dict.fromkeys(ANSWERS, ()))[0].calls == 0


def test_ids_do_not_tell_the_label(tmp_path: Path) -> None:
    made, _ = run(tmp_path, {f"q{i}": ["good", "bad"] for i in range(30)})
    misbehaving = made.samples.loc[made.samples["label"] == 1, "sample_id"]
    assert 5 < misbehaving.str.endswith("-a").sum() < 25
    assert SAMPLES.check(made.samples)["sample_id"].is_unique


def test_a_judge_reads_answers_and_the_rule_and_never_a_cut_one(tmp_path: Path) -> None:
    reader = Reader({}, "reader")
    made, _ = run(tmp_path, {"q": ["hm", "cut bad", "good", "bad"]}, judge=reader)
    assert [row.response for row in made.samples.itertuples()] == ["good", "bad"]
    assert [asked for asked, _ in reader.asked] == \
        ["ask q\n\nThe rule that decides: Be good."] * 3  # fmt: skip
    again = Reader({}, "reader")
    run(tmp_path, {"q": []}, judge=again)
    assert again.asked == [], "what was judged is not judged again"


def test_without_a_judge_such_questions_are_not_even_asked(tmp_path: Path) -> None:
    model = Scripted({"ask q": ["good", "bad"]})
    made = construct([question("q", own=False)], model, tmp_path / "store.jsonl")
    assert model.asked == [] and reason(made) == NO_JUDGE


def test_a_cut_answer_counts_if_it_is_clear_by_then(tmp_path: Path) -> None:
    made, _ = run(tmp_path, {"q": ["cut good", "bad"]})
    assert len(made.samples) == 2


# Written pairs as questions


@pytest.fixture(scope="module")
def asked() -> dict[str, Question]:
    return {question.id: question for question in Question.load("pairs", 1)}


def test_the_requests_of_all_six_cells_are_questions(asked: dict[str, Question]) -> None:
    assert len(asked) == 1505 and {one.cell for one in asked.values()} == set(CELLS)
    decided = pd.DataFrame([(one.cell, one.judge is not None) for one in asked.values()])
    share = decided.groupby(0)[1].mean()
    assert share["spv_code"] == share["sg_code"] == 1 and share["spv_qa"] == share["sg_qa"] == 0
    assert 0.4 < share["syco_qa"] < 0.8
    assert all(one.rule and one.request for one in asked.values())


def test_pairs_are_judged_as_they_are_labelled(asked: dict[str, Question]) -> None:
    """Letters and programs of the written responses; gaming needs a sign that is seen."""
    seen = {}
    for pair in WrittenPair.load():
        judge = asked[pair.name].judge
        if judge and seen.setdefault(pair.cell, 0) < 5:
            seen[pair.cell] += 1
            if pair.fields["protocol"] != "third_option":
                assert judge(pair.sections["benign"]) == BENIGN, pair.name
            unseen = (UNCLEAR,) if pair.cell == "sg_code" else ()
            assert judge(pair.sections["misbehaving"]) in (MISBEHAVING, *unseen), pair.name
            assert judge("I would rather not say.") == UNCLEAR
    assert set(seen) == {"spv_code", "sg_code", "syco_qa", "syco_reasoning"}


def test_own_questions_need_no_responses(tmp_path: Path) -> None:
    path = tmp_path / "mine.md"
    path.write_text("%% pair sg_qa/mine-1\ntype: proxy\nrule: Count all.\n%% request\nCount.\n")
    (mine,) = Question.load(str(path), 1)
    assert (mine.id, mine.cell, mine.request, mine.judge) == ("sg_qa/mine-1", "sg_qa", "Count.",
                                                              None)  # fmt: skip
    path.write_text(path.read_text().replace("rule: Count all.\n", ""))
    with pytest.raises(PairError, match=r"mine.md:1: sg_qa/mine-1 has no rule"):
        Question.load(str(path), 1)
