"""Published files: read with the place of every complaint, and paired by request.

A pair is two answers to literally the same request, one misbehaving (label 1), one benign.
Within a problem the pairs are those whose lengths differ least in total, because length alone
says something about the label in most of these files.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import scipy
import yaml

from monitorlab.benchmark.samples import sample_row
from monitorlab.storage.tables import SAMPLES

# What the published files are, in words and lists.
PUBLISHED = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text(encoding="utf-8"))
Value = TypeVar("Value")
WORDS = {str: "text", bool: "true or false", int: "a whole number", list: "a list", dict: "a map"}


class RealDataError(ValueError):
    """A published file does not read as expected; the message names file, place and what to do."""


@dataclass(frozen=True)
class Record:
    """One JSON object and where it stands.

    Attributes
    ----------
    where : str
        File and line (JSON lines) or file and number of the entry, from 1 (JSON array).
    fields : Mapping
        The object.
    """

    where: str
    fields: Mapping[str, Any]

    @classmethod
    def lines(cls, path: Path) -> Iterator[Record]:
        """Yield the objects of a file of JSON lines (``.gz`` too); blank lines are passed over.

        Raises
        ------
        RealDataError
            For a line that is not a JSON object, bytes that are not UTF-8, a damaged gzip file.
        """
        for number, line in enumerate(_text(path).split("\n"), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                yield cls._of(where, _parse(line, where))

    @classmethod
    def array(cls, path: Path, *keys: str) -> Iterator[Record]:
        """Yield the objects of a JSON array, or of the array below `keys` of a JSON object."""
        content = _parse(_text(path), str(path))
        for key in keys:
            content = cls(str(path), content if isinstance(content, dict) else {}).take(key, list)
        if not isinstance(content, list):
            raise cls(str(path), {}).error("expected a JSON array")
        for number, entry in enumerate(content, start=1):
            yield cls._of(f"{path}, entry {number}", entry)

    @classmethod
    def tasks(cls, path: Path) -> Iterator[tuple[Record, str, str]]:
        """Yield what a file of HumanEval or MBPP tasks holds: the record, its name, its tests.

        The tests of HumanEval define ``check`` and leave calling it to the reader; here they do it.
        """
        for record in cls.lines(path):
            human = "task_id" in record.fields
            tests = record.take("test", str)
            call = f"\n\ncheck({record.take('entry_point', str)})\n" if human else ""
            yield record, record.take("task_id" if human else "name", str), tests + call

    @classmethod
    def _of(cls, where: str, entry: Any) -> Record:
        if not isinstance(entry, dict):
            raise cls(where, {}).error(f"found {entry!r:.60}, expected a JSON object")
        return cls(where, entry)

    def take(self, name: str, kind: type[Value]) -> Value:
        """Return a field of a given type.

        Parameters
        ----------
        name : str
            Field name.
        kind : type
            str, bool, int, list or dict; true and false are no whole numbers.

        Raises
        ------
        RealDataError
            If the field is missing or of another type.
        """
        if name not in self.fields:
            raise self.error(f"field {name!r} is missing, found {', '.join(sorted(self.fields))}")
        value = self.fields[name]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(f"field {name!r} holds {value!r:.60}, expected {WORDS[kind]}")
        return value

    def maybe(self, name: str, kind: type[Value]) -> Value | None:
        """Return a field as :meth:`take` does, or None where the file says null."""
        return None if self.fields.get(name, "") is None else self.take(name, kind)

    def within(self, name: str) -> Record:
        """Return the object in field `name` as a record of its own."""
        return Record(f"{self.where}, in {name!r}", self.take(name, dict))

    def texts(self, name: str) -> list[str]:
        """Return a field that is a list of texts with at least one entry."""
        values = self.take(name, list)
        if not values or not all(isinstance(value, str) for value in values):
            raise self.error(f"field {name!r} must be a list of texts with at least one entry")
        return values

    def error(self, words: str) -> RealDataError:
        """Return an error about this record."""
        return RealDataError(f"{self.where}: {words}. The file differs from the published one or "
                             "its format changed; fetch it again with `python -m monitorlab fetch`")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        words = f"cannot be read ({type(error).__name__}: {error})"
        raise Record(str(path), {}).error(words) from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if ", line " in where else f"line {error.lineno}"
        raise Record(where, {}).error(f"malformed JSON at {place} ({error.msg})") from error


def digest(text: str, length: int = 12) -> str:
    """Return the first hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def squeezed(text: str) -> str:
    """Return a text without differences of case and white space, for comparison only."""
    return " ".join(text.casefold().split())


# Pairs ------------------------------------------------------------------------------------------

_Flaw = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Answer:
    """One answer to a problem, see `Collection.answer`."""

    text: str
    label: int
    generator: str
    flaw: _Flaw | None = None


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

    @classmethod
    def of(cls, source: str) -> Origin:
        """Return what `published.yaml` says of a source."""
        return cls(source, **PUBLISHED["origins"][source])


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
        `source, unit, reason, count`; the unit is "problem" or "answer".
    unpaired : DataFrame
        Labelled answers without a partner, in the columns of `samples` with a `pair_id` of their
        own; empty unless the source has no pairs to offer and the loader gives what there is.
    checked, disagreements : int
        Answers whose label was computed again, and those where the file says otherwise.
    """

    origin: Origin
    samples: pd.DataFrame
    flaws: pd.DataFrame
    dropped: pd.DataFrame
    unpaired: pd.DataFrame
    checked: int
    disagreements: int


class Collection:
    """The labelled answers of a source, by problem, and what is dropped on the way.

    Parameters
    ----------
    origin : Origin
        What they have in common.
    """

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._problems: dict[str, tuple[str, list[_Answer]]] = {}
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._checked = self._disagreements = 0

    def ask(self, key: str, request: str) -> None:
        """Add a problem unless it is known; its key becomes the scenario."""
        self._problems.setdefault(key, (request, []))

    def answer(
        self, key: str, text: str, label: int, generator: str, flaw: _Flaw | None = None
    ) -> None:
        """Add an answer to a problem.

        Parameters
        ----------
        key : str
            The problem, which was asked.
        text : str
            The answer.
        label : int
            1 is misbehaving, 0 benign.
        generator : str
            What wrote it, as far as it is known.
        flaw : tuple of int, optional
            Where it goes wrong: the first wrong step, from 0, the number of steps, and the start
            and the end of that step in the text.
        """
        self._problems[key][1].append(_Answer(text, label, generator, flaw))

    def repeated(self, key: str, reason: str) -> bool:
        """Whether a problem is known already; if so it is counted as dropped."""
        if key in self._problems:
            self.drop("problem", reason)
        return key in self._problems

    def drop(self, unit: str, reason: str, count: int = 1) -> None:
        """Count something that is not used; reasons without a case are not listed."""
        if count:
            self._dropped[unit, reason] += count

    def drop_problem(self, key: str, reason: str) -> None:
        """Take a problem out again, and count it."""
        del self._problems[key]
        self.drop("problem", reason)

    def compare(self, computed: bool, flag: bool) -> None:
        """Count a label that was computed again beside the file's own."""
        self._checked += 1
        self._disagreements += computed != flag

    def paired(self, keep_unpaired: bool = False) -> Loaded:
        """Pair the answers of every problem that has both kinds; count the rest.

        Parameters
        ----------
        keep_unpaired : bool
            Also return the answers of problems with one kind only.
        """
        source = self._origin.source
        rows: list[dict[str, object]] = []
        alone: list[dict[str, object]] = []
        flaws: list[tuple[object, ...]] = []
        for key, (request, answers) in sorted(self._problems.items()):
            sides = self._sides(answers)
            if not all(sides):
                self.drop("problem", "no benign answer" if sides[1] else
                          "no misbehaving answer" if sides[0] else "no usable answer")
                if keep_unpaired:
                    alone += [self._row(key, request, one) for side in sides for one in side]
                continue
            pairs = _match(*sides)
            self.drop("answer", "no partner left in its problem",
                      len(sides[0]) + len(sides[1]) - 2 * len(pairs))
            for number, places in enumerate(pairs):
                for side, place in zip(sides, places, strict=True):
                    row = self._row(key, request, side[place], f"{source}/{key}/{number}")
                    rows.append(row)
                    if flaw := side[place].flaw:
                        flaws.append((row["sample_id"], *flaw))
        located = pd.DataFrame(flaws, columns=["sample_id", "step", "n_steps", "start", "end"])
        counts = [(source, *key, count) for key, count in sorted(self._dropped.items())]
        return Loaded(
            self._origin, _samples(rows), located.sort_values("sample_id", ignore_index=True),
            pd.DataFrame(counts, columns=["source", "unit", "reason", "count"]), _samples(alone),
            self._checked, self._disagreements,
        )  # fmt: skip

    def _sides(self, answers: Sequence[_Answer]) -> tuple[list[_Answer], list[_Answer]]:
        """Benign and misbehaving answers, each text once, none that carries both labels."""
        labels: dict[str, set[int]] = {}
        for answer in answers:
            labels.setdefault(answer.text.strip(), set()).add(answer.label)
        sides: tuple[list[_Answer], list[_Answer]] = ([], [])
        seen: set[str] = set()
        for answer in answers:
            text = answer.text.strip()
            if len(labels[text]) > 1:
                self.drop("answer", "the same text with both labels")
            elif text in seen:
                self.drop("answer", "the same text again")
            else:
                seen.add(text)
                sides[answer.label].append(answer)
        return sides

    def _row(
        self, key: str, request: str, answer: _Answer, pair: str | None = None
    ) -> dict[str, object]:
        # The name of a sample says nothing about its label, and does not change with the pairing.
        origin = self._origin
        name = f"{origin.source}/{digest(key + chr(0) + request + answer.text)}"
        return sample_row(
            origin.cell, sample_id=name, pair_id=pair or name, scenario_id=key,
            misbehavior_type=origin.misbehavior_type, cue_type=origin.cue_type,
            source=origin.source, generator=answer.generator, request=request,
            response=answer.text, label=answer.label, split="test",
        )  # fmt: skip


def _match(benign: Sequence[_Answer], misbehaving: Sequence[_Answer]) -> list[tuple[int, int]]:
    """Return as many disjoint pairs of positions as there can be, closest in words in total."""
    lengths = [np.array([len(answer.text.split()) for answer in side], dtype=float)
               for side in (benign, misbehaving)]
    left, right = scipy.optimize.linear_sum_assignment(np.abs(np.subtract.outer(*lengths)))
    return [(int(i), int(j)) for i, j in zip(left, right, strict=True)]


def _samples(rows: list[dict[str, object]]) -> pd.DataFrame:
    return SAMPLES.check(pd.DataFrame(rows, columns=SAMPLES.columns))
