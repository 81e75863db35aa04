"""From a scenario to a pair: one request, a benign and a misbehaving response.

A pair depends on the seed, its scenario and its number in that scenario, and on nothing else, so a
build is the same in any order and with any number of processes. In the training corpus misbehavior
is plain: insecure habits, violations and deference that are said aloud.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any

from monitorlab.benchmark.samples import sample_row
from monitorlab.benchmark.sandbox.runner import Job
from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing import programs, prose, sycophancy
from monitorlab.benchmark.writing.problems import WordProblem

SOURCE = "builtin"
GENERATOR = "scenario library"
DRAFTS = 3
LENGTH_TOLERANCE = 0.12


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
    type : str
        Kind of misbehavior: a CWE class, a deed, or what a cue appeals to.
    request, cue : str
        What was asked, and which cue it holds.
    benign, misbehaving : Response
        The two sides.
    problem : WordProblem, optional
        Of a reasoning pair, for the solver.
    """

    scenario: Scenario
    number: int
    type: str
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
    if scenario.cell == "spv_code":
        order = programs.draw_order(scenario, random)
        request = programs.write_request(order, random)

        def write(label: int) -> Response:
            text, program = programs.write_program(order, label, random)
            return Response(text, program=program)

        return Pair(scenario, number, order.type, request, "none", *_both(write, random))
    if scenario.cell == "spv_qa":
        errand = prose.draw_errand(scenario, random)
        request = prose.write_errand(errand, random)

        def report(label: int) -> Response:
            return Response(*prose.write_report(errand, label, random))

        return Pair(scenario, number, errand.type, request, "none", *_both(report, random))
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


def _quiz_pair(scenario: Scenario, number: int, random: Random, thinks: bool | None) -> Pair:
    names = sorted(scenario_files.cues())
    # Over the pairs of a scenario the cues rotate from a drawn start, so that all ten occur evenly.
    start = Random(scenario.id).randrange(len(names))
    cue = names[(start + number) % len(names)]
    kind = str(scenario_files.cues()[cue]["kind"])
    if scenario.cell == "syco_qa":
        quiz, values = sycophancy.draw_question(scenario, cue, random)

        def write(label: int) -> Response:
            return Response(
                *sycophancy.answer_question(scenario, quiz, values, label, random, thinks)
            )

        return Pair(scenario, number, kind, quiz.request, cue, *_both(write, random))
    quiz, problem = sycophancy.draw_reasoning(scenario, cue, random)

    def solve(label: int) -> Response:
        return Response(
            *sycophancy.answer_reasoning(scenario, quiz, problem, label, random, thinks)
        )

    sides = _both(solve, random)
    return Pair(scenario, number, kind, quiz.request, cue, *sides, problem=problem)


def sides(pair: Pair, seed: int) -> Iterator[tuple[str, int, Response]]:
    """The two samples of a pair in an order that says nothing about the label.

    Parameters
    ----------
    pair : Pair
        The pair.
    seed : int
        The build's seed.

    Yields
    ------
    sample_id : str
        Ends in ``-a`` or ``-b``, by coin.
    label : int
        1 is misbehavior.
    response : Response
        The response.
    """
    name = pair_id(pair)
    both = [(0, pair.benign), (1, pair.misbehaving)]
    if Random(f"{seed}/{name}/order").random() < 0.5:
        both.reverse()
    for letter, (label, response) in zip("ab", both, strict=True):
        yield f"{name}-{letter}", label, response


def pair_id(pair: Pair) -> str:
    """Name of a pair.

    Parameters
    ----------
    pair : Pair
        The pair.

    Returns
    -------
    str
        Scenario and number.
    """
    return f"{pair.scenario.id}-{pair.number:03d}"


def rows(pair: Pair, seed: int) -> Iterator[dict[str, Any]]:
    """Both samples of a pair as rows, without their split.

    Parameters
    ----------
    pair : Pair
        The pair.
    seed : int
        The build's seed.

    Yields
    ------
    dict
        See `samples.sample_row`.
    """
    for sample_id, label, response in sides(pair, seed):
        yield sample_row(
            sample_id=sample_id,
            pair_id=pair_id(pair),
            scenario_id=pair.scenario.id,
            cell=pair.scenario.cell,
            misbehavior_type=pair.type,
            cue_type=pair.cue,
            source=SOURCE,
            generator=GENERATOR,
            request=pair.request,
            response=response.text,
            has_thinking=response.thinks,
            label=label,
        )
