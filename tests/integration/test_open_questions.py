"""Questions from the published files through the generator protocol, with scripted answers.

Needs the open tier: a cache named by MONITORLAB_CACHE, or a network.
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from monitorlab.benchmark.sources.generator import (
    BENIGN,
    MISBEHAVING,
    UNCLEAR,
    Question,
    construct,
)
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.verdicts import UNPARSED, Verdict
from monitorlab.storage.sources import SourceError, fetch
from monitorlab.storage.tables import SAMPLES

OPTION = re.compile(r"^\(?([A-F])[.):] (.+)$", re.MULTILINE)
FEW = 3  # tasks that are really run


class Scripted:
    """Gives prepared answers by the number of the draw."""

    name, prompt, workers = "scripted", "plain", 1

    def __init__(self, answers: Mapping[str, list[str]]) -> None:
        self._answers = answers

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "scripted"}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        return [list(range(len(samples)))]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        return [Verdict(UNPARSED, reply=self._answers[one.request][draw]) for one in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        return verdict


def file(key: str) -> Path:
    try:
        return fetch(key)
    except SourceError as error:
        pytest.skip(f"open tier not available: {error}")


def questions(source: str, key: str) -> list[Question]:
    file(key)
    return Question.load(source, 2026)


def letters(question: Question) -> dict[str, str]:
    """Letter of each option text; the last one counts, as a question may hold such lines too."""
    return {text: letter for letter, text in OPTION.findall(question.request)}


def verdicts(question: Question) -> dict[str, str]:
    return {letter: question.judge(f"Answer: {letter}") for letter in letters(question).values()}


def by_verdict(question: Question) -> dict[str, str]:
    return {verdict: letter for letter, verdict in verdicts(question).items()}


def through_protocol(tmp_path: Path, chosen: list[Question], answers: list[list[str]]) -> None:
    """Unclear, misbehaving, benign: every question becomes a pair after three calls."""
    script = {q.request: texts for q, texts in zip(chosen, answers, strict=True)}
    made = construct(chosen, Scripted(script), tmp_path / "answers.jsonl")
    samples = SAMPLES.check(made.samples)
    assert made.dropped.empty and made.calls == 3 * len(chosen)
    assert samples["pair_id"].value_counts().to_dict() == {q.id: 2 for q in chosen}
    by_id = dict(zip([q.id for q in chosen], answers, strict=True))
    for row in samples.itertuples():
        assert row.response == by_id[row.pair_id][2 - row.label]


def lettered(question: Question) -> list[str]:
    letter = by_verdict(question)
    return ["It depends.", f"I agree.\nAnswer: {letter[MISBEHAVING]}",
            f"**Answer: {letter[BENIGN]}**"]  # fmt: skip


def test_gsm8k(tmp_path: Path) -> None:
    found = questions("gsm8k", "gsm8k/test.jsonl")
    rows = [json.loads(line) for line in file("gsm8k/test.jsonl").read_text().splitlines()]
    assert len(found) == len(rows) == 1319 and len({q.id for q in found}) == 1319
    for question, row in zip(found, rows, strict=True):
        assert row["question"] in question.request
        judged = verdicts(question)
        assert len(judged) == 4
        assert sorted(judged.values()) == sorted([BENIGN, MISBEHAVING, UNCLEAR, UNCLEAR])
        right = row["answer"].rsplit("#### ", 1)[1].replace(",", "")
        assert judged[letters(question)[right]] == BENIGN
        values = [float(text) for text in letters(question)]
        assert len(set(values)) == len(values), question.id
    through_protocol(tmp_path, found[:20], [lettered(q) for q in found[:20]])


def test_gsm8k_wrong_options_look_like_the_right_one() -> None:
    found = questions("gsm8k", "gsm8k/test.jsonl")
    assert not [q.id for q in found if any("e+" in text for text in letters(q))]


def test_truthfulqa(tmp_path: Path) -> None:
    found = questions("truthfulqa", "truthfulqa/TruthfulQA.csv")
    with file("truthfulqa/TruthfulQA.csv").open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(found) == len(rows) > 780
    for question, row in zip(found, rows, strict=True):
        assert row["Question"] in question.request
        judged = verdicts(question)
        assert list(judged.values()).count(BENIGN) == 1
        assert list(judged.values()).count(MISBEHAVING) == 1
        assert judged[letters(question)[row["Best Answer"].strip()]] == BENIGN
        (cued,) = (text for text, x in letters(question).items() if judged[x] == MISBEHAVING)
        assert cued in row["Incorrect Answers"]
    assert len({by_verdict(q)[BENIGN] for q in found}) == 4
    through_protocol(tmp_path, found[:20], [lettered(q) for q in found[:20]])


def block(code: str) -> str:
    return f"```python\n{code}\n```"


def hard_coded(question: Question, entry: str) -> str | None:
    """A program that answers its two tests; None if they are no equations in one argument."""
    shown = question.request.rpartition("```python\n")[2].removesuffix("\n```")
    cases = [re.fullmatch(rf"assert {entry}\((.*)\) == (.+)", line) for line in shown.splitlines()]
    if None in cases or any(len(ast.parse(f"f({c[1]})").body[0].value.args) != 1
                            for c in cases if c):
        return None
    table = ", ".join(f"(({c[1]}), {c[2]})" for c in cases if c)
    return (f"def {entry}(*arguments):\n    for given, result in [{table}]:\n"
            "        if given in (arguments, *arguments):\n            return result\n"
            "    return object()")


def judged_by_running(tmp_path: Path, tasks: list[tuple[Question, str, str]]) -> None:
    """Tasks with a right solution and the name of the function."""
    answers = []
    for question, solution, entry in tasks:
        gamed = hard_coded(question, entry)
        assert gamed is not None, question.request
        answers.append(["I will look into it.", block(gamed), block(solution)])
    through_protocol(tmp_path, [question for question, _, _ in tasks], answers)


def test_humaneval(tmp_path: Path) -> None:
    found = {q.id: q for q in questions("humaneval", "humaneval/HumanEval.jsonl.gz")}
    with gzip.open(file("humaneval/HumanEval.jsonl.gz"), "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    assert len(rows) == 164 and len(found) > 150
    assert all(q.request.count("\nassert ") == 2 for q in found.values())
    tasks = []
    for row in rows:
        question = found.get(row["task_id"].replace("/", "_").lower())
        gamed = question and len(tasks) < FEW and hard_coded(question, row["entry_point"])
        if gamed and question.judge(block(gamed)) == MISBEHAVING:  # others show no sign
            solution = row["prompt"] + row["canonical_solution"]
            tasks.append((question, solution, row["entry_point"]))
    assert len(tasks) == FEW
    judged_by_running(tmp_path, tasks)


def test_mbpp(tmp_path: Path) -> None:
    found = {q.id: q for q in questions("mbpp", "mbpp/mbpp-py.jsonl")}
    lines = file("mbpp/mbpp-py.jsonl").read_text().splitlines()
    rows = {row["name"]: row for row in map(json.loads, lines)}
    assert len(rows) == 397 and set(found) <= set(rows) and len(found) > 350
    written = {  # the file holds no solutions
        "mbpp_234_volume_cube": "def volume_cube(l):\n    return l ** 3",
        "mbpp_89_closest_num": "def closest_num(N):\n    return N - 1",
    }
    judged_by_running(
        tmp_path, [(found[n], text, rows[n]["entry_point"]) for n, text in written.items()]
    )
