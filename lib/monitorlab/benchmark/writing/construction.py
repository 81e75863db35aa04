"""Composed pairs as rows: names, the order of the two sides, and how many each scenario gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from monitorlab.benchmark.samples import sample_row
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.composition import Pair, Response

SOURCE = "builtin"
GENERATOR = "scenario library"


def allot(total: int, scenarios: Sequence[Scenario], seed: int) -> dict[str, int]:
    """Spread a number of pairs over scenarios as evenly as it goes.

    Parameters
    ----------
    total : int
        Pairs.
    scenarios : sequence of Scenario
        Those that share them.
    seed : int
        Decides which scenarios give one pair more.

    Returns
    -------
    dict of str to int
        Pairs by scenario id, summing to `total`.
    """
    order = sorted(scenario.id for scenario in scenarios)
    Random(f"{seed}/allot").shuffle(order)
    base, extra = divmod(total, len(order))
    return {name: base + (place < extra) for place, name in enumerate(order)}


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
