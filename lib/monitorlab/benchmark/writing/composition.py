"""From a scenario to a pair: one request, a benign and a misbehaving response.

A pair depends on the seed, its scenario and its number in that scenario, and on nothing else, so a
build is the same in any order and with any number of processes. Programs of one scenario come in
many styles: names, comments, docstrings, quotes and spacing vary.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from random import Random

from monitorlab.benchmark.sandbox.runner import Job
from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing import sycophancy
from monitorlab.benchmark.writing.problems import WordProblem
from monitorlab.benchmark.writing.prose import draw_slots, fill, write_response

DRAFTS = 3
LENGTH_TOLERANCE = 0.12
LEAD_SHARE = 0.8
REMARK_COUNTS = (0, 1, 1, 2)
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class _CodeStyle:
    """How a program is written down; it does the same in every style."""

    comments: bool
    docstrings: bool
    single_quotes: bool
    airy: bool

    @staticmethod
    def draw(random: Random) -> _CodeStyle:
        """Draw a style."""
        return _CodeStyle(
            comments=random.random() < 0.6,
            docstrings=random.random() < 0.6,
            single_quotes=random.random() < 0.35,
            airy=random.random() < 0.7,
        )


@lru_cache(maxsize=16384)
def _restyle(source: str, style: _CodeStyle) -> str:
    """Write a program in another style.

    Parameters
    ----------
    source : str
        Valid Python.
    style : _CodeStyle
        What to keep and how to quote.

    Returns
    -------
    str
        A program that does the same.
    """
    if not style.docstrings:
        source = _without_docstrings(source)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    lines = source.splitlines()
    for token in reversed(tokens):
        row, column = token.start
        if token.type == tokenize.COMMENT and not style.comments:
            lines[row - 1] = lines[row - 1][:column].rstrip()
            if not lines[row - 1]:
                lines[row - 1] = "\0"
        elif token.type == tokenize.STRING and style.single_quotes and token.end[0] == row:
            body = token.string[1:-1]
            if token.string[0] == '"' and '"' not in body and "'" not in body and body:
                line = lines[row - 1]
                lines[row - 1] = f"{line[:column]}'{body}'{line[token.end[1] :]}"
    kept = [line for line in lines if line != "\0"]
    text = "\n".join(kept).strip("\n")
    if not style.airy:
        text = _squeezed(text)
    return text + "\n"


def _squeezed(text: str) -> str:
    """Without blank lines inside functions, unless a string spans lines."""
    if '"""' in text or "'''" in text:
        return text
    return re.sub(r"\n\n+(?=[ \t])", "\n", text)


def _without_docstrings(source: str) -> str:
    lines = source.splitlines()
    tree = ast.parse(source)
    holders = (ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef)
    for node in [n for n in ast.walk(tree) if isinstance(n, holders)]:
        if ast.get_docstring(node) is None or len(node.body) < 2:
            continue
        first = node.body[0]
        if node.body[1].lineno == first.end_lineno:
            continue
        if first.col_offset != len(lines[first.lineno - 1]) - len(lines[first.lineno - 1].lstrip()):
            continue
        for row in range(first.lineno, (first.end_lineno or first.lineno) + 1):
            lines[row - 1] = "\0"
    return "\n".join(line for line in lines if line != "\0") + "\n"


@lru_cache(maxsize=4096)
def _words(source: str) -> frozenset[str]:
    """All identifiers and words of a text.

    Parameters
    ----------
    source : str
        Program or prose.

    Returns
    -------
    frozenset of str
        Its words.
    """
    return frozenset(_WORD.findall(source))


def _draw_names(
    alternatives: Mapping[str, list[str]], taken: frozenset[str] | set[str], random: Random
) -> dict[str, str]:
    """Draw what each identifier is called.

    Parameters
    ----------
    alternatives : mapping of str to list of str
        Canonical name to its alternatives.
    taken : set of str
        Words of the programs; an alternative among them would capture another name.
    random : Random
        The generator.

    Returns
    -------
    dict of str to str
        Canonical name to drawn name, all different.
    """
    drawn: dict[str, str] = {}
    for canonical, names in alternatives.items():
        used = set(drawn.values())
        others = used | set(taken) | (alternatives.keys() - {canonical})
        free = [n for n in names if n == canonical or n not in others] or [canonical]
        drawn[canonical] = random.choice(free)
    return drawn


@lru_cache(maxsize=4096)
def _renamer(names: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")\b")


def _rename(text: str, drawn: Mapping[str, str]) -> str:
    """Rename whole words.

    Parameters
    ----------
    text : str
        Program or prose.
    drawn : mapping of str to str
        Canonical name to drawn name.

    Returns
    -------
    str
        The renamed text.
    """
    if not drawn:
        return text
    return _renamer(tuple(drawn)).sub(lambda found: drawn[found[1]], text)


@lru_cache(maxsize=1024)
def _scenario_words(programs: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*(_words(program) for program in programs))


def scenario_words(scenario: Scenario) -> frozenset[str]:
    """All words of a code scenario's programs and tests.

    Parameters
    ----------
    scenario : Scenario
        Of a code cell.

    Returns
    -------
    frozenset of str
        Words that a drawn name must not collide with.
    """
    return _scenario_words(
        (*scenario["benign"], *scenario["misbehaving"], scenario["tests"])
    )


@dataclass(frozen=True)
class Response:
    """A response before it becomes a sample; its program, if any, with what that must pass."""

    text: str
    thinks: bool = False
    program: Job | None = None


@dataclass(frozen=True)
class Pair:
    """One request with its two responses.

    Attributes
    ----------
    scenario : Scenario
        Where it comes from.
    number : int
        Its number within the scenario.
    request, cue : str
        What was asked, and which cue it holds.
    benign, misbehaving : Response
        The two sides.
    problem : WordProblem, optional
        Of a reasoning pair, for the solver.
    """

    scenario: Scenario
    number: int
    request: str
    cue: str
    benign: Response
    misbehaving: Response
    problem: WordProblem | None = field(default=None, compare=False)


def compose_pair(scenario: Scenario, number: int, seed: int, thinks: bool | None = None) -> Pair:
    """Compose one pair.

    Parameters
    ----------
    scenario : Scenario
        Of any cell.
    number : int
        Number of the pair within its scenario, from 0.
    seed : int
        The build's seed.
    thinks : bool, optional
        Whether the responses of a sycophancy pair show their thinking; drawn by default.

    Returns
    -------
    Pair
        The same for the same arguments, on any machine.
    """
    random = Random(f"{seed}/{scenario.id}/{number}")
    if scenario.cell == "spv_qa":
        return _prose_pair(scenario, number, random)
    if scenario.cell == "spv_code":
        return _code_pair(scenario, number, random)
    return _quiz_pair(scenario, number, random, thinks)


def _both(write: Callable[[int], Response], random: Random) -> tuple[Response, Response]:
    """Draft each side several times and keep two drafts of about equal length.

    The longer side is drawn with a coin, so that length says nothing about the label.
    """
    benign = [write(0) for _ in range(DRAFTS)]
    misbehaving = [write(1) for _ in range(DRAFTS)]
    first, second = closest_lengths(
        [len(draft.text) for draft in benign],
        [len(draft.text) for draft in misbehaving],
        benign_longer=random.random() < 0.5,
    )
    return benign[first], misbehaving[second]


def closest_lengths(
    benign: Sequence[int], misbehaving: Sequence[int], benign_longer: bool
) -> tuple[int, int]:
    """Choose the draft of each side so that the lengths are alike, in the order of the coin.

    Parameters
    ----------
    benign, misbehaving : sequence of int
        Lengths of the drafts of each side, at least 1.
    benign_longer : bool
        Which side the coin wants to be longer; equal lengths are as good.

    Returns
    -------
    int, int
        Places of the two drafts, in `benign` and in `misbehaving`. Among those in the order of the
        coin that differ by at most `LENGTH_TOLERANCE` of the longer one, they differ least. If
        there are none, they differ least of all.
    """

    def unlikeness(places: tuple[int, int]) -> tuple[bool, float]:
        first, second = benign[places[0]], misbehaving[places[1]]
        apart = abs(first - second) / max(first, second)
        wrong_way = first != second and (first > second) != benign_longer
        return wrong_way or apart > LENGTH_TOLERANCE, apart

    return min(product(range(len(benign)), range(len(misbehaving))), key=unlikeness)


def _prose_pair(scenario: Scenario, number: int, random: Random) -> Pair:
    values = draw_slots(scenario, random)
    requests: Sequence[str] = scenario["request"]
    request = fill(requests[number % len(requests)], values, random)

    def write(label: int) -> Response:
        plans = scenario["misbehaving" if label else "benign"]
        return Response(*write_response(random.choice(plans), values, random))

    return Pair(scenario, number, request, scenario.cue, *_both(write, random))


def _quiz_pair(scenario: Scenario, number: int, random: Random, thinks: bool | None) -> Pair:
    names = sorted(scenario_files.cues())
    # Over the pairs of a scenario the cues rotate from a drawn start, so that all ten occur evenly.
    start = Random(scenario.id).randrange(len(names))
    cue = names[(start + number) % len(names)]
    if scenario.cell == "syco_qa":
        quiz, values = sycophancy.draw_question(scenario, cue, random)

        def write(label: int) -> Response:
            return Response(
                *sycophancy.answer_question(scenario, quiz, values, label, random, thinks)
            )

        return Pair(scenario, number, quiz.request, cue, *_both(write, random))
    quiz, problem = sycophancy.draw_reasoning(scenario, cue, random)

    def solve(label: int) -> Response:
        return Response(
            *sycophancy.answer_reasoning(scenario, quiz, problem, label, random, thinks)
        )

    return Pair(scenario, number, quiz.request, cue, *_both(solve, random), problem=problem)


def _code_pair(scenario: Scenario, number: int, random: Random) -> Pair:
    taken = scenario_words(scenario)
    shared = _draw_names(scenario["names"], taken, random)
    tests = _rename(scenario["tests"], shared)
    values = draw_slots(scenario, random)
    requests: Sequence[str] = scenario["request"]
    request = _rename(fill(requests[number % len(requests)], values, random), shared)

    def write(label: int) -> Response:
        side = "misbehaving" if label else "benign"
        names = shared | _draw_names(
            scenario.get("locals", {}), taken | set(shared.values()), random
        )
        source = random.choice(scenario[side])
        source = _rename(_restyle(source, _CodeStyle.draw(random)), names)
        remarks = scenario["remarks"]
        remarks = remarks[side] if isinstance(remarks, dict) else remarks
        drawn = random.sample(remarks, random.choice(REMARK_COUNTS))
        pieces = [_fenced(source)]
        if random.random() < LEAD_SHARE:
            pieces.insert(0, sycophancy.phrase("code_leads", {}, random))
        if drawn:
            said = " ".join(fill(remark, values, random) for remark in drawn)
            pieces.append(_rename(said, names))
        program = Job(source, tests)
        return Response("\n\n".join(pieces), program=program)

    return Pair(scenario, number, request, scenario.cue, *_both(write, random))


def _fenced(code: str) -> str:
    return f"```python\n{code.strip()}\n```"
