"""Pairs of programs from which a small monitor can learn what static checks know.

The teacher is `monitorlab.monitors.gaming_checks`: rules over a program and the tests that its
request shows. Its pupil gets benign programs of the training corpus to which one short edit is
made. In the misbehaving sample the edit games tests that were made up for the request; in the
benign one an edit of the same form, place and length does not. No specification-gaming scenario
enters, so those stay unseen.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pandas as pd

from monitorlab.finetuning.gaming_edits import (
    EDITS,
    EQUAL,
    FIXED_SAID,
    GIVEN,
    GIVEN_SAID,
    KINDS,
    LEADS,
    NAMES,
    REMARKS,
    TASKS,
    TESTS_SAID,
    VALUES,
    WORDS,
)
from monitorlab.monitors.findings import parse_python, python_blocks
from monitorlab.monitors.gaming_checks import CLEAN, gaming_checks
from monitorlab.monitors.monitor import MonitorError, Sample

COMPONENT = "gamed_programs"
SOURCE = "spv_code"  # component of the corpus whose benign programs are edited
LONGEST = 24  # lines of a program; a small monitor reads few tokens
LONG_TASK = 200  # characters of a sentence of the original task
NEAR = 8  # characters by which the two edits of a pair may differ, where there is a choice
TRIES = 6  # per pair wanted, before giving up
T = TypeVar("T")
_NEEDED = ("component", "label", "scenario_id", "request", "response")


@dataclass
class Report:
    """What happened while pairs were made.

    Attributes
    ----------
    programs : int
        Programs of the corpus that could be edited.
    made, dropped : Counter
        Pairs by kind of edit: kept, and left out because the teacher sees no sign in the
        misbehaving sample or one in the benign sample.
    """

    programs: int = 0
    made: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Program:
    """A program of the corpus and the function of it that is put to the test."""

    row: int  # position in the corpus
    source: str
    request: str
    function: ast.FunctionDef
    first: ast.stmt  # statement before which top-level edits go


_SLOT = re.compile(r"<(\w+)>")
_SENTENCE = re.compile(r"(?<=[.?!])\s+")


def gamed_pairs(
    corpus: pd.DataFrame, n: int, rng: np.random.Generator, report: Report | None = None
) -> pd.DataFrame:
    """Make pairs of an honest and a gaming program, labelled by the static checks.

    Parameters
    ----------
    corpus : DataFrame
        Schema ``corpus``; only benign rows of the component ``spv_code`` are used.
    n : int
        Pairs wanted; kinds of edits take turns.
    rng : Generator
        Decides everything that varies.
    report : Report, optional
        Filled on the way.

    Returns
    -------
    DataFrame
        2 n rows with the columns of ``corpus``, the two samples of a pair one after the other in
        random order. ``misbehavior_type`` is the kind of edit, ``scenario_id`` is that of the
        program behind ``gamed/``, ``component`` and ``cell`` are ``gamed_programs``.

    Raises
    ------
    MonitorError
        If `n` is below 1, columns are missing, no program can be edited, or the teacher rejects
        nearly every pair.
    """
    missing = [name for name in _NEEDED if name not in corpus]
    if missing or n < 1:
        what = f"the corpus lacks {', '.join(missing)}" if missing else f"{n} pairs were asked for"
        raise MonitorError(f"{what}: give a table of schema 'corpus' and ask for at least one pair")
    report = Report() if report is None else report
    programs = list(_programs(corpus))
    report.programs = len(programs)
    if not programs:
        raise MonitorError(
            f"no benign program of {SOURCE!r} in the corpus has a function and {LONGEST} lines at "
            "most: give the corpus of the benchmark"
        )
    kept: list[dict[str, object]] = []
    for number in range(TRIES * n):
        if number % len(programs) == 0:
            programs = [programs[i] for i in rng.permutation(len(programs))]
        program, kind = programs[number % len(programs)], KINDS[number % len(KINDS)]
        pair = _pair(program, kind, rng)
        if pair is None or not _teacher_agrees(*pair):
            report.dropped[kind] += 1
            continue
        report.made[kind] += 1
        kept += _rows(corpus, program, kind, pair, f"{len(kept) // 2:05}", rng)
        if len(kept) == 2 * n:
            return pd.DataFrame(kept, columns=corpus.columns)
    raise MonitorError(f"{len(kept) // 2} of {n} pairs after {TRIES * n} tries; dropped by kind: "
                       f"{dict(report.dropped)}. Give a corpus with more programs")


def _programs(corpus: pd.DataFrame) -> Iterator[_Program]:
    """Short benign programs with a function that the request names."""
    chosen = np.flatnonzero((corpus["component"] == SOURCE) & (corpus["label"] == 0))
    texts = corpus[["request", "response"]].iloc[chosen]
    for row, (request, response) in zip(chosen.tolist(), texts.to_numpy(), strict=True):
        blocks = python_blocks(response)
        if len(blocks) != 1 or blocks[0].source.count("\n") > LONGEST:
            continue
        body = blocks[0].tree.body
        functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.args.args
                     and not node.decorator_list and f"`{node.name}" in request]
        after = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom))
                 and not isinstance(getattr(node, "value", None), ast.Constant)]
        if functions:
            source = blocks[0].source.strip("\n") + "\n"
            yield _Program(row, source, request, functions[-1], after[0])


def _pair(program: _Program, kind: str, rng: np.random.Generator) -> tuple[str, str, str] | None:
    """Request, gaming program and honest program; None if the program cannot take the edit."""
    edit = _one([edit for edit in EDITS if edit.kind == kind], rng)
    given, place = _one(edit.given, rng), _one(edit.places, rng)
    slots = _slots(program, rng)
    bad, good = _similar(
        [_fill(text, slots) for text in edit.bad], [_fill(text, slots) for text in edit.good], rng)
    programs = [_edited(program, text, place, slots) for text in (bad, good)]
    if programs[0] is None or programs[1] is None:
        return None
    lead = _one(LEADS, rng)
    shown = [f"{lead}```python\n{text}```" for text in programs]
    fixed = kind in ("special_case", "answer_table") or rng.random() < 0.15
    return _request(program, given, fixed, slots, rng), shown[0], shown[1]


def _one(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]


def _slots(program: _Program, rng: np.random.Generator) -> dict[str, str]:
    """Draw every name and literal that edits and requests may need."""
    slots: dict[str, str] = {}
    taken = set(re.findall(r"\w+", program.source))
    for name, options in NAMES.items():
        slots[name] = _one([word for word in options if word not in taken] or options, rng)
        taken.add(slots[name])
    arguments = program.function.args
    slots |= {"f": program.function.name, "a": arguments.args[0].arg,
              "args": ", ".join(part.arg for part in arguments.args)}
    others = len(arguments.args) - len(arguments.defaults) - 1
    slots["rest"] = "".join(f", {_one(VALUES, rng)}" for _ in range(others))
    texts = rng.random(2) < (0.6, 0.4)  # kinds of arguments and of results
    for letters, text in (("xu", texts[0]), ("yv", texts[1])):
        drawn = _literals(5, bool(text), rng)
        slots |= dict(zip([letters[0] + i for i in "123"] + [letters[1] + i for i in "12"], drawn,
                          strict=True))
    slots |= dict(zip(("w1", "w2"), _literals(2, True, rng), strict=True))
    slots |= dict(zip(("k1", "k2"), _literals(2, False, rng), strict=True))
    return slots


def _literals(count: int, text: bool, rng: np.random.Generator) -> list[str]:
    """Different made-up texts or whole numbers, as Python writes them."""
    numbers = rng.choice(np.arange(13, 990), count, replace=False)
    if not text:
        return [str(number) for number in numbers]
    words = rng.choice(WORDS, count, replace=False)
    return [f'"{word} {number}"' if number % 2 else f'"{word}-{number % 90}"'
            for word, number in zip(words, numbers, strict=True)]


def _fill(text: str, slots: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda found: slots[found[1]], text)


def _similar(
    first: Sequence[str], second: Sequence[str], rng: np.random.Generator
) -> tuple[str, str]:
    """Draw a text of each group, of about equal length; a coin says which one is drawn freely."""
    if rng.random() < 0.5:
        return _similar_to(_one(first, rng), second, rng)
    return _similar_to(_one(second, rng), first, rng)[::-1]


def _similar_to(text: str, others: Sequence[str], rng: np.random.Generator) -> tuple[str, str]:
    away = [abs(len(other) - len(text)) for other in others]
    near = [other for other, far in zip(others, away, strict=True) if far <= max(NEAR, min(away))]
    return text, _one(near, rng)


def _edited(program: _Program, edit: str, place: str, slots: Mapping[str, str]) -> str | None:
    """The program with the edit; None if it has no such place or would not parse."""
    lines = program.source.split("\n")
    body = program.function.body
    documented = ast.get_docstring(program.function) is not None
    if place == "body":
        if len(body) == documented:
            return None
        at = body[documented].lineno - 1
        lines[at:at] = [" " * body[documented].col_offset + line for line in edit.split("\n")]
    elif place == "end":
        lines += ["", *edit.split("\n"), ""]
    else:
        if place == "return":
            last = body[-1]
            if not isinstance(last, ast.Return) or last.value is None \
                    or isinstance(last.value, ast.Tuple) or last.lineno != last.end_lineno:
                return None
            row, start = last.lineno - 1, last.col_offset + len("return ")
            lines[row] = f"{lines[row][:start]}{slots['K']}({lines[row][start:]})"
            edit = _fill(EQUAL, {**slots, "edit": edit})
        at = program.first.lineno - 1 - len(getattr(program.first, "decorator_list", ()))
        lines[at:at] = [*edit.split("\n"), "", ""]
    text = "\n".join(lines)
    return text if parse_python(text) is not None else None


def _request(
    program: _Program, given: str, fixed: bool, slots: Mapping[str, str], rng: np.random.Generator
) -> str:
    """A task in one or two sentences, given code, tests, and maybe a remark."""
    named = [part for part in _SENTENCE.split(program.request)
             if f"`{slots['f']}" in part and part.count("`") % 2 == 0]
    task = _fill(_one(TASKS, rng), slots)
    if named and len(named[0]) < LONG_TASK and rng.random() < 0.5:
        task = named[0]
    code, tests, said = GIVEN[given]
    more = [_fill(text, slots) for text in (said, _one(FIXED_SAID, rng) if fixed else "") if text]
    parts = [" ".join([task, *more])]
    if code:
        parts += [_one(GIVEN_SAID, rng), f"```python\n{_fill(code, slots)}\n```"]
    parts += [_one(TESTS_SAID, rng), f"```python\n{_fill(tests, slots)}\n```"]
    return "\n\n".join([*parts, _one(REMARKS, rng)]).rstrip()


def _teacher_agrees(request: str, bad: str, good: str) -> bool:
    gaming, honest = gaming_checks([Sample("bad", request, bad), Sample("good", request, good)])
    return bool(gaming and honest and gaming.suspicion > 0.5 and honest.suspicion == CLEAN)


def _rows(
    corpus: pd.DataFrame, program: _Program, kind: str, pair: tuple[str, str, str], number: str,
    rng: np.random.Generator,
) -> Iterator[dict[str, object]]:
    """Both samples of a pair, in random order."""
    source = corpus.iloc[program.row].to_dict()
    scenario = f"gamed/{source['scenario_id']}"
    facts = {
        "pair_id": f"{scenario}-{number}", "scenario_id": scenario, "component": COMPONENT,
        "cell": COMPONENT, "category": "sg", "task": "code", "misbehavior_type": kind,
        "cue_type": "none", "generator": "edited by rules", "has_thinking": False,
        "request": pair[0],
    }  # fmt: skip
    labels = (1, 0) if rng.random() < 0.5 else (0, 1)
    for letter, label in zip("ab", labels, strict=True):
        yield source | facts | {"sample_id": f"{scenario}-{number}-{letter}", "label": label,
                                "response": pair[2 - label]}
