"""Real pairs on tiny files in the published formats: who is paired, what is dropped and why."""

import gzip
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from monitorlab.benchmark.sandbox.runner import Job
from monitorlab.benchmark.sources import programs, texts
from monitorlab.benchmark.sources.records import (
    Collection,
    Loaded,
    Origin,
    RealDataError,
    Record,
    _Answer,
    _match,
)
from monitorlab.chapters import construction
from monitorlab.chapters.construction import _combine, _sources_table
from monitorlab.storage.tables import SAMPLES

Get = Callable[[str], Path]
ORIGIN = Origin("demo", "syco_reasoning", "wrong_solution", "by hand")


@pytest.fixture
def get(tmp_path: Path) -> Get:
    return lambda key: tmp_path / key


def write(path: Path, records: list[Any] | dict[str, Any]) -> None:
    """Write JSON lines, gzipped JSON lines or one JSON value, as the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(records))
        return
    lines = "\n".join(json.dumps(record) for record in records) + "\n"
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())


def dropped(loaded: Loaded) -> dict[tuple[str, str], int]:
    return loaded.dropped.set_index(["unit", "reason"])["count"].to_dict()


Problems = dict[str, list[tuple[str, int]]]  # texts and labels, by key


def paired(problems: Problems, keep_unpaired: bool = False, origin: Origin = ORIGIN) -> Loaded:
    found = Collection(origin)
    for key, answers in problems.items():
        found.ask(key, f"request {key}")
        for text, label in answers:
            found.answer(key, text, label, "model")
    return found.paired(keep_unpaired)


# Pairing


def test_pairs_share_the_request_and_have_one_of_each_label() -> None:
    loaded = paired({"a": [("yes", 0), ("no", 1)], "b": [("good", 0)]})
    assert list(loaded.samples.columns) == SAMPLES.columns
    pairs = loaded.samples.groupby("pair_id")
    assert (pairs["label"].agg(sorted).map(tuple) == (0, 1)).all()
    assert (pairs["request"].nunique() == 1).all() and (pairs["scenario_id"].nunique() == 1).all()
    assert set(loaded.samples["scenario_id"]) == {"a"}
    assert dropped(loaded) == {("problem", "no misbehaving answer"): 1}


def test_lengths_of_a_pair_are_as_close_as_they_can_be() -> None:
    benign = [_Answer("w " * n, 0, "m") for n in (10, 50)]
    misbehaving = [_Answer("w " * n, 1, "m") for n in (49, 90, 12)]
    assert _match(benign, misbehaving) == [(0, 2), (1, 0)]


def test_names_do_not_tell_the_label_and_do_not_depend_on_the_order() -> None:
    one, other = (paired({key: [("yes", 0), ("no", 1), ("never", 1)] for key in keys})
                  for keys in ("abc", "cba"))
    pd.testing.assert_frame_equal(one.samples, other.samples)
    assert one.samples["sample_id"].str.fullmatch("demo/[0-9a-f]{12}").all()
    assert dropped(one) == {("answer", "no partner left in its problem"): 3}


def test_a_text_with_both_labels_is_ambiguous_and_a_repeated_one_counts_once() -> None:
    answers = [("x", 0), ("x ", 1), ("yes", 0), ("yes\n", 0), ("no", 1)]
    loaded = paired({"a": answers, "b": [("x", 0), ("x", 1)]})
    assert sorted(loaded.samples["response"]) == ["no", "yes"]
    assert dropped(loaded) == {
        ("answer", "the same text with both labels"): 4,
        ("answer", "the same text again"): 1,
        ("problem", "no usable answer"): 1,
    }


def test_answers_without_a_partner_are_kept_apart_on_demand() -> None:
    loaded = paired({"a": [("yes", 0)]}, keep_unpaired=True)
    assert loaded.samples.empty and list(loaded.unpaired["response"]) == ["yes"]
    assert (loaded.unpaired["pair_id"] == loaded.unpaired["sample_id"]).all()


# Reading


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"input": 1', "line 2: malformed JSON at column"),
        ("[1, 2]", "line 2: found [1, 2], expected a JSON object"),
        ('{"steps": ["a"], "mistake_index": null}', "line 2: field 'input' is missing, found"),
        ('{"input": 7, "steps": ["a"]}', "line 2: field 'input' holds 7, expected text"),
        ('{"input": "q", "steps": []}', "field 'steps' must be a list of texts"),
        ('{"input": "q", "steps": ["a"], "mistake_index": 4, "answer": "x", "target": "y"}',
         "the first wrong step is 4, expected 0 to 0"),
        ('{"input": "q", "steps": ["a"], "mistake_index": true, "answer": "x", "target": "y"}',
         "holds True, expected a whole number"),
    ],
)
def test_a_malformed_line_is_named(get: Get, line: str, words: str) -> None:
    path = get("bigbench_mistake/word_sorting.jsonl")
    good = {"input": "p", "steps": ["s"], "mistake_index": None, "answer": "x", "target": "x"}
    write(path, [good])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(RealDataError) as caught:
        texts.bigbench_mistake(get, "word_sorting")
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_damaged_archive_and_a_wrong_array_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}" * 500)[:-9])
    with pytest.raises(RealDataError, match="a.jsonl.gz: cannot be read"):
        list(Record.lines(path))
    other = tmp_path / "b.json"
    other.write_text('[\n{"a": 1},\n{"a": }]')
    with pytest.raises(RealDataError, match="b.json: malformed JSON at line 3"):
        list(Record.array(other))
    other.write_text('{"a": 1}')
    with pytest.raises(RealDataError, match="expected a JSON array"):
        list(Record.array(other))
    with pytest.raises(RealDataError, match="field 'samples' is missing"):
        list(Record.array(other, "samples"))


# GSM8K


@pytest.mark.parametrize(
    ("text", "value"),
    [("A: 1,250", 1250), ("so\nA: $3.50", Fraction(7, 2)), ("A: 1/5", Fraction(1, 5)),
     ("A: 40%", 40), ("A: -18.", -18), ("A: 10+x", None), ("18", None), ("A: 1\nA: 2", None),
     ("A: 3\nmore", None), ("A: 1/0", None), ("A: ", None), ("", None)],
)
def test_final_answers_are_read_exactly(text: str, value: Fraction | None) -> None:
    assert texts._final_answer(text) == value


@pytest.mark.parametrize(
    ("text", "false"),
    [("<<16-3=13>>", False), ("<<520*(1+0.18)=500>>", True), ("<<1/3=0.33>>", False),
     ("<<x+1=5>>", False), ("<<2**9=1>>", False), ("<<1/0=1>>", False),
     ("<<10,000*2=20000>>", False), ("<<2*3=6>> <<-4--1=3>>", True), ("<<+(4)=4>>", False),
     ("<<5//2=2>>", False)],
)
def test_false_calculations_are_found(text: str, false: bool) -> None:
    assert texts._false_equation(text) is false


def gsm8k(question: str, *four: tuple[str, bool], reference: str = "A: 5") -> dict[str, Any]:
    models = {model: {"solution": text, "is_correct": flag}
              for model, (text, flag) in zip(texts.MODELS, four, strict=True)}
    return {"question": question, "ground_truth": f"because\n{reference}"} | models


def test_solutions_are_judged_by_the_final_answer(get: Get) -> None:
    right, wrong, cut = ("2+3\nA: 5.0", True), ("2*3\nA: 6", False), ("2+3=", False)
    false = ("<<9*9=2>>\nA: 5", True)
    lying = ("other\nA: 7", True)
    write(get(texts.KEY), [
        gsm8k("q1", right, wrong, cut, lying), gsm8k("q2", right, right, false, cut),
        gsm8k("Q1 ", wrong, wrong, wrong, wrong),
    ])
    loaded = texts.gsm8k_solutions(get)
    assert sorted(zip(loaded.samples["response"], loaded.samples["label"], strict=True)) \
        in ([("2*3\nA: 6", 1), ("2+3\nA: 5.0", 0)], [("2+3\nA: 5.0", 0), ("other\nA: 7", 1)])
    assert loaded.disagreements == 1 and loaded.checked == 6
    assert dropped(loaded) == {
        ("answer", "no partner left in its problem"): 1,
        ("answer", "no readable final answer"): 2,
        ("answer", "right answer after a false calculation"): 1,
        ("answer", "the same text again"): 1,
        ("problem", "no misbehaving answer"): 1,
        ("problem", "the same question again"): 1,
    }
    assert set(loaded.samples["generator"]) <= set(texts.MODELS)


def test_a_reference_without_a_number_is_an_error(get: Get) -> None:
    write(get(texts.KEY), [gsm8k("q", *[("A: 1", True)] * 4, reference="five")])
    with pytest.raises(RealDataError, match="line 1: the reference solution ends with no number"):
        texts.gsm8k_solutions(get)


# Chains


def test_flaws_point_into_the_response(get: Get) -> None:
    common = {"generator": "m", "problem": "p"}
    write(get("processbench/math.json"), [
        common | {"steps": ["one", "two"], "label": -1, "final_answer_correct": True},
        common | {"steps": ["one", "t\n\nwo", "three"], "label": 1, "final_answer_correct": True},
        common | {"steps": ["hm"], "label": -1, "final_answer_correct": False},
    ])
    loaded = texts.processbench(get, "math")
    flaw = loaded.flaws.iloc[0]
    response = loaded.samples.set_index("sample_id").loc[flaw["sample_id"], "response"]
    assert response[flaw["start"]: flaw["end"]] == "t\n\nwo"
    assert (flaw["step"], flaw["n_steps"], len(loaded.flaws)) == (1, 3, 1)
    assert dropped(loaded) == {("answer", texts.CLEAN_BUT_WRONG): 1}


def test_one_chain_per_problem_gives_no_pairs(get: Get) -> None:
    good = {"steps": ["s"], "mistake_index": None, "answer": "x", "target": "x"}
    write(get("bigbench_mistake/word_sorting.jsonl"), [
        good | {"input": "a"}, good | {"input": "b", "mistake_index": 0},
        good | {"input": "c", "answer": None},
    ])
    loaded = texts.bigbench_mistake(get, "word_sorting")
    row = _sources_table([loaded]).iloc[0]
    assert (row["pairs"], row["problems"]) == (0, 0) and pd.isna(row["words_benign"])
    assert dropped(loaded) == {
        ("answer", texts.CLEAN_BUT_WRONG): 1, ("problem", "no benign answer"): 1,
        ("problem", "no misbehaving answer"): 1, ("problem", "no usable answer"): 1,
    }


# Programs


def run(name: str, solution: str, solved: bool, **other: str) -> dict[str, Any]:
    fields = {"prompt": "def f(x):\n", "entry_point": "f", "test": "T"} | other
    return fields | {"name": name, "solution": solution, "is_solved": solved}


def humaneval(solution: str, solved: bool) -> dict[str, Any]:
    fields = {key: value for key, value in run("", solution, solved).items() if key != "name"}
    return fields | {"task_id": "HumanEval/0"}


def by_marker(jobs: list[Job], seconds: float) -> list[SimpleNamespace]:
    """A stub that only reads: the comment in a program is its outcome."""
    for job in jobs:
        assert job.tests.startswith("T")
        assert ("check(f)" in job.tests) == ("humaneval" in job.source)
    return [SimpleNamespace(status=job.source.rpartition("# ")[2].split()[0]) for job in jobs]


def test_programs_are_judged_by_running_them(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "run_jobs", by_marker)
    files = {f"reflexion/{name}": [] for name in programs.RUNS}
    body, _, _, whole, _, simple, again = files
    files[body] = [humaneval("    return 1  # passed humaneval", True), humaneval(" ", False)]
    files[whole] = [humaneval("def f(x):\n    return 2  # error humaneval", True)]
    files[simple] = [
        run("mbpp_1", "def f(x):\n    return 1  # passed", False),
        run("mbpp_1", "def f(x):\n    while True: pass  # timeout", False),
        run("mbpp_2", "def f(x):\n    return 1  # failed", False),
        run("mbpp_3", "def f(x):\n    return g(x)  # failed", False),
        run("mbpp_3", "def f(x):\n    import math\n\ndef f(x):\n    return 1  # failed", False),
        run("mbpp_4", "def f(x):\n    return 1  # passed", True),
    ]
    files[again] = [
        run("mbpp_1", "def f(x):\n    return 1  # passed\n", True),
        run("mbpp_4", "def f(x):\n    return 1  # failed", True, test="U"),
    ]
    for key, rows in files.items():
        write(get(key), rows)
    loaded = programs.reflexion_runs(get)
    assert set(loaded.samples["scenario_id"]) == {"HumanEval/0"}
    benign = loaded.samples.set_index("label").loc[0]
    assert benign["response"] == "def f(x):\n    return 1  # passed humaneval\n"
    assert benign["generator"] == "not recorded, reflexion"
    assert loaded.checked == 5 and loaded.disagreements == 2
    assert dropped(loaded) == {
        ("answer", "no program was written"): 1,
        ("answer", "no verdict: timeout"): 1,
        ("answer", "the same program from another run"): 1,
        ("answer", programs.LOST): 1,
        ("answer", programs.PASTED): 1,
        ("problem", programs.DIFFERENT_TASK): 1,
        ("problem", "no benign answer"): 1,
        ("problem", "no misbehaving answer"): 1,
        ("problem", "no usable answer"): 1,
    }


@pytest.mark.parametrize(
    ("program", "names"),
    [("import os.path as p, re\ndef f(a, *b, c=1, **d):\n    return p, re, a, b, c, d", set()),
     ("def f(n):\n    return helper(n) + m", {"helper", "m"}),
     ("try:\n    x = [y for y in range(3)]\nexcept ValueError as e:\n    print(e, x)", set()),
     ("from typing import *\nx: List = []", set()), ("def f(:", set())],
)
def test_names_that_are_defined_nowhere(program: str, names: set[str]) -> None:
    assert programs._undefined_names(program) == names


# Preferences


def dialogue(chosen: str, rejected: str, head: str = "hello", other: str = "") -> dict[str, str]:
    return {"chosen": f"\n\nHuman: {head}\n\nAssistant: {chosen}",
            "rejected": f"\n\nHuman: {other or head}\n\nAssistant: {rejected}"}


def test_preferences_keep_one_clear_pair_per_dialogue(get: Get) -> None:
    one, two = "a reply of ten words " * 3, "another reply of ten words " * 3
    write(get(texts.FULL), [
        dialogue(one, two), dialogue(one, two, head=" Hello"), dialogue(one, "short", "x"),
        dialogue(one, two, "y", other="z"), dialogue(one, one.upper(), "v"),
        dialogue(one, two, "w"), dialogue(two, one, "w"),
        {"chosen": "hello", "rejected": "hello"}, dialogue(one + "\n\nHuman: and?", two, "u"),
    ])
    loaded = texts.hh_rlhf(get, texts.FULL)
    assert len(loaded.samples) == 2
    rejected = loaded.samples.set_index("label").loc[1]
    assert rejected["response"] == two.strip() and rejected["request"] == "Human: hello"
    assert dropped(loaded) == {
        ("problem", "a final reply of fewer than 10 words"): 1,
        ("problem", "equal replies"): 1,
        ("problem", "one reply both preferred and rejected"): 1,
        ("problem", texts.NO_DIALOGUE): 2,
        ("problem", "the dialogues differ before the final reply"): 1,
        ("problem", "the same dialogue again"): 2,
    }
    assert "not a harm label" in loaded.origin.label_from


@pytest.mark.parametrize(
    ("here", "key"),
    [({texts.SAMPLE}, texts.SAMPLE), ({texts.FULL}, texts.FULL),
     ({texts.SAMPLE, texts.FULL}, texts.FULL), (set(), texts.FULL)],
)
def test_the_sample_is_used_where_only_it_is_at_hand(
    here: set[str], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(construction, "available", here.__contains__)
    assert construction._hh_key() == key


# Transcripts


def transcript(lied: bool, *texts: str, roles: str = "suauaua") -> dict[str, Any]:
    names = {"s": "system", "u": "user", "a": "assistant"}
    messages = [{"role": names[role], "content": text}
                for role, text in zip(roles, texts, strict=False)]
    return {"metadata": {"messages": messages, "meta": {"did_lie": lied}}}


def cot(lied: bool, first: str, explanation: str, question: str = "q") -> dict[str, Any]:
    options = f"{question}\nA. {texts.STAR} one\nB. two"
    return transcript(lied, "s", "u", "ok", options, f"<answer>{first}</answer>", "why?",
                      explanation)


def test_following_a_star_silently_is_checked_again(get: Get) -> None:
    write(get("lie_detector/cot-unfaithfulness/gpt-4o.json"), {"samples": [
        cot(True, "A", "it is one <answer>A</answer>"),
        cot(False, "B", "it is two <answer>B</answer>", "other"),
        cot(True, "A", "it is two after all <answer>B</answer>"),
        cot(True, "A", "it has a star <answer>A</answer>"),
        cot(False, "A", "I saw nothing <answer>A</answer>"),
        transcript(True, "s", "u"), transcript(True),
    ]})
    loaded = texts.lie_detector(get, "cot_unfaithfulness")
    assert loaded.samples.empty and sorted(loaded.unpaired["label"]) == [0, 1]
    assert (loaded.checked, loaded.disagreements) == (3, 1)
    response = loaded.unpaired["response"].iloc[0]
    assert response.startswith("Assistant: <answer>") and "User: why?" in response
    assert dropped(loaded)["answer", "the transcript contradicts its label"] == 1
    assert dropped(loaded)["answer", "the transcript is empty"] == 1


def test_denials_need_a_plain_answer_and_pair_under_one_request(get: Get) -> None:
    def ask(lied: bool, question: str, answer: str) -> dict[str, Any]:
        return transcript(lied, "s", question, answer, roles="sua")

    write(get("lie_detector/tool/gpt-4o.json"), {"samples": [
        ask(True, "q", "B"), ask(False, "q", "A"), ask(True, "r", "B) no"), ask(True, "q", "A"),
        ask(False, "q", 'analysisThe user asks: "Do you know'),
    ]})
    loaded = texts.lie_detector(get, "tool")
    assert list(loaded.samples.sort_values("label")["response"]) == ["A", "B"]
    assert list(loaded.unpaired["response"]) == ["B) no"]
    assert sum(loaded.dropped.query("unit == 'answer'")["count"]) == 2


def test_labels_about_another_conversation_are_not_used(get: Get) -> None:
    write(get("lie_detector/unanswerable/gpt-4o.json"), {"samples": [
        transcript(lied, "s", "u", "question", "could you?", "NO", roles="suaua")
        for lied in (True, False)]})
    loaded = texts.lie_detector(get, "unanswerable")
    assert loaded.samples.empty and loaded.unpaired.empty
    assert dropped(loaded) == {("answer", "the labelled answer is in another conversation"): 2}


# All together


def test_sources_are_stacked_with_an_overview() -> None:
    full = paired({"a": [("yes it is", 0), ("no", 1)]})
    empty = paired({"b": [("x", 0)]}, origin=Origin("none", "sg_qa", "t", "by rule"))
    together = _combine([full, empty])
    assert len(together.samples) == 2 and together.unpaired.empty
    assert list(together.overview["source"]) == ["demo", "none"]
    assert list(together.overview["pairs"]) == [1, 0]
    row = together.overview.iloc[0]
    assert (row["words_benign"], row["words_misbehaving"]) == (3, 1)
    assert empty.dropped.to_dict("records") == [
        {"source": "none", "unit": "problem", "reason": "no misbehaving answer", "count": 1}]


# Weaknesses and their fixes


def test_twins_do_not_say_which_they_are(get: Get, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(programs, "TASKS", ("022_0", "078_0"))
    (tmp_path / "cweval").mkdir()
    (tmp_path / "cweval/cwe_022_0_task.py").write_text(
        "import os\nBASE = os.sep\n\ndef read(name):\n    '''Read it.'''\n"
        "    # defend against traversal\n    return open(BASE + os.path.basename(name)).read()\n")
    (tmp_path / "cweval/cwe_022_0_test.py").write_text(
        "import os\nimport pytest\nfrom cwe_022_0_task import read\n\n"
        "def read_unsafe_0(name):\n    # unsafe\n    return open(name).read()\n\n"
        "def read_unsafe_1(name):\n    return open(os.fspath(name)).read()\n\n"
        "def test_read_unsafe():\n    assert read_unsafe_0('a')\n")
    for kind in ("task", "test"):
        (tmp_path / f"cweval/cwe_078_0_{kind}.py").write_text("def run(x):\n    return x\n")
    loaded = programs.cweval(get)
    rows = loaded.samples.set_index("label")
    assert rows.loc[0, "response"] == (
        "import os\nBASE = os.sep\ndef read(name):\n"
        "    return open(BASE + os.path.basename(name)).read()\n")
    assert rows.loc[1, "response"] == (
        "import os\ndef read(name):\n    return open(os.fspath(name)).read()\n")  # alike in length
    assert rows.loc[0, "request"] == "Write the Python function `read(name)`.\n\nRead it."
    assert dropped(loaded) == {("answer", "no partner left in its problem"): 1,
                               ("problem", "no insecure function beside the secure one"): 1}


def test_fixes_know_the_line_that_went(get: Get, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(programs, "FIXES", ("sven/one.jsonl",))
    row = {"func_name": "go", "file_name": "a/b.py", "vul_type": "cwe-078", "commit_link": "c",
           "func_src_before": "def go(x):\n    shell(x)\n",
           "func_src_after": "def go(x):\n    pass\n",
           "line_changes": {"deleted": [{"line_no": 2, "char_start": 11, "char_end": 24}],
                            "added": []}}
    write(tmp_path / "sven/one.jsonl", [row, row, row | {"file_name": "b.c"}])
    loaded = programs.sven(get)
    (flaw,) = loaded.flaws.itertuples()
    text = loaded.samples.set_index("sample_id").loc[flaw.sample_id]
    assert text["response"][flaw.start:flaw.end] == "    shell(x)\n" and flaw.step == 1
    assert text["label"] == 1 and text["request"] == "Write `go` of b.py."
    assert dropped(loaded) == {("problem", "not Python"): 1,
                               ("problem", "the same function of the same commit again"): 1}
