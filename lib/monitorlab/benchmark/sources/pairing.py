"""From labelled answers to pairs: which problems qualify, who is paired with whom, what is lost.

A pair is two answers to literally the same request, one misbehaving (label 1), one benign.
Within a problem the pairs are those whose lengths differ least in total, because length alone
says something about the label in most of these files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

from monitorlab.benchmark.samples import sample_row
from monitorlab.benchmark.sources.records import digest
from monitorlab.storage.tables import SAMPLES, check_frame

DROPPED = ("source", "unit", "reason", "count")
FLAWS = ("sample_id", "step", "n_steps", "start", "end")
NO_BENIGN = "no benign answer"
NO_MISBEHAVING = "no misbehaving answer"
NO_ANSWER = "no usable answer"
BOTH_LABELS = "the same text with both labels"
REPEATED = "the same text again"
NO_PARTNER = "no partner left in its problem"


class Flaw(NamedTuple):
    """Where an answer goes wrong.

    Attributes
    ----------
    step : int
        First wrong step, from 0.
    n_steps : int
        Steps of the answer.
    start, end : int
        The step is ``response[start:end]``.
    """

    step: int
    n_steps: int
    start: int
    end: int


@dataclass(frozen=True)
class Answer:
    """One answer: label 1 is misbehaving; `generator` is what wrote it, as far as it is known."""

    text: str
    label: int
    generator: str
    flaw: Flaw | None = None


@dataclass
class Problem:
    """One request with all its answers; `key` becomes the scenario."""

    key: str
    request: str
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Origin:
    """What the samples of a source have in common.

    Attributes
    ----------
    source, cell, misbehavior_type, cue_type : str
        As in the table `samples`. A pair has one misbehavior type, on both its sides.
    label_from : str
        How the label was established, and what is wrong with it, in one sentence.
    """

    source: str
    cell: str
    misbehavior_type: str
    label_from: str
    cue_type: str = "none"


@dataclass
class Tally:
    """What was dropped and, for labels that were computed again, how they compare.

    Attributes
    ----------
    dropped : Counter
        (unit, reason) to count; the unit is "problem" or "answer".
    checked, disagreements : int
        Answers whose label was computed again, and those where the file says otherwise.
    """

    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    checked: int = 0
    disagreements: int = 0

    def drop(self, unit: str, reason: str, count: int = 1) -> None:
        """Count something that is not used; reasons without a case are not listed."""
        if count:
            self.dropped[unit, reason] += count

    def compare(self, computed: bool, flag: bool) -> None:
        """Count a label that was computed again beside the file's own."""
        self.checked += 1
        self.disagreements += computed != flag


@dataclass(frozen=True)
class Loaded:
    """One source, paired.

    Attributes
    ----------
    origin : Origin
        What the samples have in common.
    samples : DataFrame
        Pairs, in the columns of `samples`.
    flaws : DataFrame
        `sample_id, step, n_steps, start, end`, where the source locates the first wrong step.
    dropped : DataFrame
        `source, unit, reason, count`.
    unpaired : DataFrame
        Labelled answers without a partner, in the columns of `samples` with a `pair_id` of their
        own; empty unless the source has no pairs to offer and the loader gives what there is.
    checked, disagreements : int
        As in :class:`Tally`.
    """

    origin: Origin
    samples: pd.DataFrame
    flaws: pd.DataFrame
    dropped: pd.DataFrame
    unpaired: pd.DataFrame
    checked: int
    disagreements: int


def build(
    origin: Origin, problems: Iterable[Problem], tally: Tally, keep_unpaired: bool = False
) -> Loaded:
    """Pair the answers of every problem that has both kinds; count the rest.

    Parameters
    ----------
    origin : Origin
        What the samples have in common.
    problems : iterable of Problem
        In any order; keys are unique.
    tally : Tally
        What the loader has dropped so far; it is added to.
    keep_unpaired : bool
        Also return the answers of problems with one kind only.
    """
    rows: list[dict[str, object]] = []
    alone: list[dict[str, object]] = []
    flaws: list[tuple[object, ...]] = []
    for problem in sorted(problems, key=lambda problem: problem.key):
        sides = _sides(problem, tally)
        if not all(sides):
            reason = NO_BENIGN if sides[1] else NO_MISBEHAVING if sides[0] else NO_ANSWER
            tally.drop("problem", reason)
            if keep_unpaired:
                alone += [_row(origin, problem, answer) for side in sides for answer in side]
            continue
        pairs = _match(sides[0], sides[1])
        if leftover := len(sides[0]) + len(sides[1]) - 2 * len(pairs):
            tally.drop("answer", NO_PARTNER, leftover)
        for number, (benign, misbehaving) in enumerate(pairs):
            for answer in (sides[0][benign], sides[1][misbehaving]):
                row = _row(origin, problem, answer, f"{origin.source}/{problem.key}/{number}")
                rows.append(row)
                if answer.flaw:
                    flaws.append((row["sample_id"], *answer.flaw))
    counts = [(origin.source, *key, count) for key, count in sorted(tally.dropped.items())]
    return Loaded(
        origin,
        _samples(rows),
        pd.DataFrame(flaws, columns=list(FLAWS)).sort_values("sample_id", ignore_index=True),
        pd.DataFrame(counts, columns=list(DROPPED)),
        _samples(alone),
        tally.checked,
        tally.disagreements,
    )


def _match(benign: Sequence[Answer], misbehaving: Sequence[Answer]) -> list[tuple[int, int]]:
    """Return as many disjoint pairs of positions as there can be, closest in words in total."""
    lengths = [np.array([len(answer.text.split()) for answer in side], dtype=float)
               for side in (benign, misbehaving)]
    left, right = linear_sum_assignment(np.abs(np.subtract.outer(*lengths)))
    return [(int(i), int(j)) for i, j in zip(left, right, strict=True)]


def _sides(problem: Problem, tally: Tally) -> tuple[list[Answer], list[Answer]]:
    """Benign and misbehaving answers, each text once, none that carries both labels."""
    labels: dict[str, set[int]] = {}
    for answer in problem.answers:
        labels.setdefault(answer.text.strip(), set()).add(answer.label)
    sides: tuple[list[Answer], list[Answer]] = ([], [])
    seen: set[str] = set()
    for answer in problem.answers:
        text = answer.text.strip()
        if len(labels[text]) > 1:
            tally.drop("answer", BOTH_LABELS)
        elif text in seen:
            tally.drop("answer", REPEATED)
        else:
            seen.add(text)
            sides[answer.label].append(answer)
    return sides


def _row(
    origin: Origin, problem: Problem, answer: Answer, pair: str | None = None
) -> dict[str, object]:
    # The name of a sample says nothing about its label, and does not change with the pairing.
    name = f"{origin.source}/{digest(problem.key + chr(0) + problem.request + answer.text)}"
    return sample_row(
        origin.cell, sample_id=name, pair_id=pair or name, scenario_id=problem.key,
        misbehavior_type=origin.misbehavior_type, cue_type=origin.cue_type, source=origin.source,
        generator=answer.generator, request=problem.request, response=answer.text,
        label=answer.label, split="test",
    )  # fmt: skip


def _samples(rows: list[dict[str, object]]) -> pd.DataFrame:
    return check_frame(pd.DataFrame(rows, columns=SAMPLES.columns), SAMPLES)
