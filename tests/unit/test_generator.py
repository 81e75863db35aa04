"""The generator protocol: what is kept, what is dropped and why, and what survives a crash."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from monitorlab.benchmark.sources import generator as module
from monitorlab.benchmark.sources.generator import (
    BENIGN,
    MISBEHAVING,
    UNCLEAR,
    AnswerStore,
    Construction,
    GenerationError,
    Question,
    construct,
)
from monitorlab.storage.tables import SAMPLES, check_frame

WORDS = {"good": BENIGN, "bad": MISBEHAVING, "hm": UNCLEAR}


class Scripted:
    """Gives the answers of a request in their order, and counts what it was asked."""

    def __init__(self, answers: dict[str, Sequence[str]], name: str = "scripted") -> None:
        self.answers, self.name = answers, name
        self.asked: list[tuple[str, int]] = []
        self.batches: list[int] = []

    def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        self.batches.append(len(prompts))
        return [self.answer(*asked) for asked in zip(prompts, seeds, strict=True)]

    def answer(self, prompt: str, seed: int) -> str:
        self.asked.append((prompt, seed))
        number = sum(request == prompt for request, _ in self.asked) - 1
        answer = self.answers[prompt][number]
        if answer == "crash":
            raise ConnectionError("the line went dead")
        return answer


def question(name: str) -> Question:
    judge: Callable[[str], str] = lambda answer: WORDS[answer.split()[-1]]  # noqa: E731
    return Question(name, "demo", "syco_qa", f"ask {name}", "authority", "appeal", judge)


def run(
    tmp_path: Path, answers: dict[str, Sequence[str]], seed: int = 1, tries: int = 5,
    name: str = "scripted", at_once: int = 0,
) -> tuple[Construction, Scripted]:  # fmt: skip
    model = Scripted({f"ask {key}": list(values) for key, values in answers.items()}, name)
    questions = [question(key) for key in answers]
    return construct(questions, model, tmp_path / "deep" / "store.jsonl", seed, tries,
                     at_once), model


def test_a_pair_is_the_first_answer_of_each_kind_and_then_no_more_is_asked(tmp_path: Path) -> None:
    made, model = run(tmp_path, {"q": ["hm", "one good", "two good", "<think>a</think> bad", "-"]})
    assert made.calls == len(model.asked) == 4
    samples = check_frame(made.samples, SAMPLES).set_index("label")
    assert samples.loc[0, "response"] == "one good"
    assert samples.loc[1, "response"] == "<think>a</think> bad"
    assert list(samples.loc[[0, 1], "has_thinking"]) == [False, True]
    assert set(samples["pair_id"]) == {"q"} and set(samples["generator"]) == {"scripted"}
    assert set(samples["category"]) == {"syco"} and set(samples["task"]) == {"qa"}
    assert made.dropped.empty


@pytest.mark.parametrize(
    ("answers", "reason"),
    [(["good"] * 5, "no try followed the cue"), (["bad", "hm"] * 3, "every clear try followed"),
     (["hm"] * 5, "no try gave a clear answer"), (["hm", "good", "hm", "hm", "hm"], "no try foll")],
)  # fmt: skip
def test_a_question_is_dropped_for_a_reason(
    tmp_path: Path, answers: list[str], reason: str
) -> None:
    made, model = run(tmp_path, {"q": answers})
    assert made.samples.empty and len(model.asked) == 5
    assert list(made.samples.columns) == SAMPLES.columns
    (row,) = made.dropped.to_dict("records")
    assert (row["question"], row["source"], row["tries"]) == ("q", "demo", 5)
    assert row["reason"].startswith(reason)


def test_tries_bound_the_calls_and_a_pair_needs_two(tmp_path: Path) -> None:
    made, model = run(tmp_path, {"q": ["good"] * 2 + ["bad"]}, tries=2)
    assert made.samples.empty and len(model.asked) == 2
    # More tries later use the two stored answers.
    more, again = run(tmp_path, {"q": ["bad"]}, tries=3)
    assert len(more.samples) == 2 and len(again.asked) == 1
    with pytest.raises(ValueError, match="tries is 1, expected at least 2"):
        run(tmp_path, {"q": ["good"]}, tries=1)


def test_seeds_differ_between_tries_and_questions_but_not_between_runs(tmp_path: Path) -> None:
    answers = {"q": ["good"] * 5, "r": ["good"] * 5}
    _, model = run(tmp_path / "a", answers)
    _, again = run(tmp_path / "b", answers)
    assert len({seed for _, seed in model.asked}) == 10
    assert model.asked == again.asked
    assert all(0 <= seed < 2**32 for _, seed in model.asked)


ANSWERS = {
    "a": ["good", "bad"],
    "b": ["hm", "bad", "good"],
    "c": ["good"] * 5,
    "d": ["bad", "good"],
}


def test_resuming_repeats_no_call_and_loses_nothing(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", ANSWERS)
    interrupted = {**ANSWERS, "b": ["hm", "crash"]}
    with pytest.raises(GenerationError, match=r"scripted failed at question 'b' \(ConnectionError"):
        run(tmp_path, interrupted)
    made, model = run(tmp_path, {**ANSWERS, "a": [], "b": ["bad", "good"]})
    assert [request for request, _ in model.asked] == ["ask b"] * 2 + ["ask c"] * 5 + ["ask d"] * 2
    assert made.calls == 9 == whole.calls - 3
    pd.testing.assert_frame_equal(made.samples, whole.samples)
    pd.testing.assert_frame_equal(made.dropped, whole.dropped)
    # A finished construction asks for nothing at all.
    last, silent = run(tmp_path, dict.fromkeys(ANSWERS, ()))
    assert (last.calls, silent.asked) == (0, [])
    pd.testing.assert_frame_equal(last.samples, whole.samples)


def test_an_interrupted_try_has_the_seed_it_would_have_had(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "whole", ANSWERS)
    with pytest.raises(GenerationError):
        run(tmp_path, {**ANSWERS, "b": ["hm", "crash"]})
    _, model = run(tmp_path, {**ANSWERS, "a": [], "b": ["bad", "good"]})
    assert model.asked == whole.asked[3:]


def test_questions_together_give_what_they_give_one_by_one(tmp_path: Path) -> None:
    every = {key: [*answers, *["hm"] * (5 - len(answers))] for key, answers in ANSWERS.items()}
    single, model = run(tmp_path / "single", every)
    made, together = run(tmp_path / "together", every, at_once=3)
    assert together.batches == [15, 5] and made.calls == 20 > single.calls
    pd.testing.assert_frame_equal(made.samples, single.samples)
    pd.testing.assert_frame_equal(made.dropped, single.dropped)
    assert set(model.asked) < set(together.asked), "a try has its seed in any company"
    # Of tries that were stored one by one, only the others are asked for.
    rest = {key: ["hm"] * 5 for key in ANSWERS}
    more, last = run(tmp_path / "single", rest, at_once=4)
    assert last.batches == [20 - single.calls] == [more.calls]
    pd.testing.assert_frame_equal(more.samples, single.samples)


def test_a_failed_batch_names_its_questions(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="failed at question 'b' to 'c' .ConnectionError"):
        run(tmp_path, {"b": ["good"] * 5, "c": ["crash"] * 5}, at_once=2)


def test_another_seed_or_generator_reuses_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, ANSWERS)[0].calls == 12
    assert run(tmp_path, ANSWERS, seed=2)[0].calls == 12
    assert run(tmp_path, ANSWERS, name="scripted@2")[0].calls == 12
    assert run(tmp_path, dict.fromkeys(ANSWERS, ()))[0].calls == 0
    keys = {AnswerStore.key(*parts) for parts in
            [("g", "r", 1, 0), ("h", "r", 1, 0), ("g", "s", 1, 0), ("g", "r", 2, 0),
             ("g", "r", 1, 1)]}  # fmt: skip
    assert len(keys) == 5


def test_ids_do_not_tell_the_label(tmp_path: Path) -> None:
    made, _ = run(tmp_path, {f"q{i}": ["good", "bad"] for i in range(30)})
    misbehaving = made.samples.loc[made.samples["label"] == 1, "sample_id"]
    assert 5 < misbehaving.str.endswith("-a").sum() < 25
    assert check_frame(made.samples, SAMPLES)["sample_id"].is_unique


# The store


def store(tmp_path: Path, entries: dict[str, str]) -> Path:
    path = tmp_path / "answers.jsonl"
    answers = AnswerStore(path)
    for key, answer in entries.items():
        answers.put(key, answer)
    return path


@pytest.mark.parametrize("cut", [1, 9, 12, 25])
def test_a_last_line_that_was_cut_short_is_repaired(tmp_path: Path, cut: int) -> None:
    path = store(tmp_path, {"a": "one\n\u2028é", "b": "zwölf"})
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: len(whole) - len(last) + cut])
    answers = AnswerStore(path)
    assert (answers.get("a"), answers.get("b")) == ("one\n\u2028é", None)
    answers.put("b", "zwölf")
    assert path.read_bytes() == whole
    assert AnswerStore(path).get("b") == "zwölf"


def test_a_last_line_that_lost_only_its_end_is_repaired(tmp_path: Path) -> None:
    path = store(tmp_path, {"a": "one", "b": "two"})
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    AnswerStore(path).put("c", "three")
    answers = AnswerStore(path)
    assert (answers.get("a"), answers.get("c")) == ("one", "three")


@pytest.mark.parametrize("bad", ["half a li", "[1, 2]", '{"key": "k"}', "", "7"])
def test_a_corrupt_line_in_the_middle_is_named_and_kept(tmp_path: Path, bad: str) -> None:
    path = store(tmp_path, {"a": "one", "b": "two"})
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{bad}\n{second}\n")
    before = path.read_bytes()
    with pytest.raises(GenerationError, match=r"answers.jsonl:2 is not a stored answer"):
        AnswerStore(path)
    assert path.read_bytes() == before


def test_answers_are_on_disk_before_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[int] = []
    path = tmp_path / "s.jsonl"

    class Looking(Scripted):
        def generate(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
            lines.append(len(path.read_text().splitlines()) if path.exists() else 0)
            return super().generate(prompts, seeds)

    synced: list[int] = []
    monkeypatch.setattr(module.os, "fsync", synced.append)
    construct([question("q")], Looking({"ask q": ["hm", "good", "bad"]}), path, 1)
    assert lines == [0, 1, 2] and len(synced) == 3
    assert [json.loads(line)["answer"] for line in path.read_text().splitlines()] == \
        ["hm", "good", "bad"]  # fmt: skip
