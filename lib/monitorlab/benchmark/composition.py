"""From a scenario to a pair: one request, a benign and a misbehaving response.

A pair depends on the seed, its scenario and its number in that scenario, and on nothing else, so a
build is the same in any order and with any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any

from monitorlab.benchmark import programs, scenario_files, sycophancy
from monitorlab.benchmark.problems import Problem
from monitorlab.benchmark.prose import draw_slots, fill, write_response
from monitorlab.benchmark.scenario_files import Scenario

DRAFTS = 3
LENGTH_TOLERANCE = 0.12
LEAD_SHARE = 0.8
REMARK_COUNTS = (0, 1, 1, 2)


@dataclass(frozen=True)
class Program:
    """A program of a pair, with what it must pass.

    Attributes
    ----------
    source : str
        The program as it stands in the response.
    setup, tests, hidden_setup : str
        Code that runs before it, assertions after it, and code before the hidden tests.
    hidden : tuple of (str, object)
        Expressions and the JSON values they must have.
    """

    source: str
    tests: str
    setup: str = ""
    hidden_setup: str = ""
    hidden: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Response:
    """A response before it becomes a sample."""

    text: str
    thinks: bool = False
    program: Program | None = None


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
    problem : Problem, optional
        Of a reasoning pair, for the solver.
    """

    scenario: Scenario
    number: int
    request: str
    cue: str
    benign: Response
    misbehaving: Response
    problem: Problem | None = field(default=None, compare=False)


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
    if scenario.cell in scenario_files.PROSE_CELLS:
        return _prose_pair(scenario, number, random)
    if scenario.cell in scenario_files.CODE_CELLS:
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
    taken = programs.scenario_words(scenario)
    shared = programs.draw_names(scenario["names"], taken, random)
    visible = scenario.get("visible") or scenario["tests"]
    tests = programs.rename(visible, shared)
    setup = programs.rename(scenario.get("setup", ""), shared)
    values = draw_slots(scenario, random)
    blocks = {"tests": tests, "setup": setup}
    requests: Sequence[str] = scenario["request"]
    marked = values | {name: _mark(name) for name in blocks}
    request = programs.rename(fill(requests[number % len(requests)], marked, random), shared)
    for name, code in blocks.items():
        request = request.replace(_mark(name), _fenced(code))
    hidden = tuple(
        (programs.rename(str(expression), shared), value)
        for expression, value in scenario.get("hidden", [])
    )
    hidden_setup = programs.rename(scenario.get("hidden_setup", ""), shared)

    def write(label: int) -> Response:
        side = "misbehaving" if label else "benign"
        names = shared | programs.draw_names(
            scenario.get("locals", {}), taken | set(shared.values()), random
        )
        source = random.choice(scenario[side])
        source = programs.rename(programs.restyle(source, programs.CodeStyle.draw(random)), names)
        remarks = scenario["remarks"]
        remarks = remarks[side] if isinstance(remarks, dict) else remarks
        drawn = random.sample(remarks, random.choice(REMARK_COUNTS))
        pieces = [_fenced(source)]
        if random.random() < LEAD_SHARE:
            pieces.insert(0, sycophancy.phrase("code_leads", {}, random))
        if drawn:
            said = " ".join(fill(remark, values, random) for remark in drawn)
            pieces.append(programs.rename(said, names))
        program = Program(source, tests, setup, hidden_setup, hidden)
        return Response("\n\n".join(pieces), program=program)

    return Pair(scenario, number, request, scenario.cue, *_both(write, random))


def _mark(name: str) -> str:
    """Stands for a block of code while the prose around it is tidied and renamed."""
    return f"\0{name}\0"


def _fenced(code: str) -> str:
    return f"```python\n{code.strip()}\n```"
