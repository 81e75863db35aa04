"""The benchmark: 3,010 samples in six cells, half misbehaving, in pairs that share a request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

import pandas as pd

from monitorlab.benchmark.samples import sample_row
from monitorlab.benchmark.scenarios.files import Scenario, ScenarioError, cues, load_library
from monitorlab.benchmark.writing.composition import Pair, Response, compose_pair
from monitorlab.storage.tables import CELLS

# Samples per cell: the paper gives the numbers, but not which of 976 and 196 (and of 298 and 578)
# is code and which is QA; that is our reading.
COUNTS = {
    "spv_code": 976, "spv_qa": 196, "syco_qa": 408, "syco_reasoning": 554, "sg_code": 298,
    "sg_qa": 578,
}  # fmt: skip
DEV_SHARE = 0.25
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


def _dev_scenarios(scenarios: Sequence[Scenario], seed: int) -> set[str]:
    """Draw the scenarios of the dev split, the same share of every cell.

    Parameters
    ----------
    scenarios : sequence of Scenario
        Of the test side.
    seed : int
        The build's seed.

    Returns
    -------
    set of str
        Ids; the others are the test split. A scenario is never in both.
    """
    chosen: set[str] = set()
    for cell in CELLS:
        names = sorted(scenario.id for scenario in scenarios if scenario.cell == cell)
        Random(f"{seed}/{cell}/split").shuffle(names)
        chosen.update(names[: round(DEV_SHARE * len(names))])
    return chosen


def build_pairs(seed: int, scenarios: Iterable[Scenario] | None = None) -> list[Pair]:
    """Compose every pair of the benchmark.

    Parameters
    ----------
    seed : int
        The same seed gives the same pairs, byte for byte.
    scenarios : iterable of Scenario, optional
        The library; read from ``data/scenarios`` by default.

    Returns
    -------
    list of Pair
        1,505 pairs, ordered by cell and scenario.

    Raises
    ------
    ScenarioError
        If a cell has no scenarios of the test side, or cannot give enough different pairs.
    """
    library = [s for s in (load_library() if scenarios is None else scenarios) if s.side == "test"]
    pairs: list[Pair] = []
    for cell, count in COUNTS.items():
        members = [scenario for scenario in library if scenario.cell == cell]
        if not members:
            raise ScenarioError(f"cell {cell!r} has no scenario of side 'test'. Add some.")
        shares = allot(count // 2, members, seed)
        for scenario in members:
            pairs += _different_pairs(scenario, shares[scenario.id], seed)
    return pairs


def _different_pairs(scenario: Scenario, count: int, seed: int) -> list[Pair]:
    """Compose pairs of one scenario without repeating a response.

    Parameters
    ----------
    scenario : Scenario
        Any scenario.
    count : int
        Pairs wanted.
    seed : int
        The build's seed.

    Returns
    -------
    list of Pair
        Exactly `count`.

    Raises
    ------
    ScenarioError
        If ten times as many attempts do not give enough.
    """
    pairs: list[Pair] = []
    seen: set[str] = set()
    for number in range(10 * count + 10):
        if len(pairs) == count:
            break
        pair = compose_pair(scenario, number, seed)
        texts = {pair.benign.text, pair.misbehaving.text}
        if len(texts) == 2 and not texts & seen:
            seen |= texts
            pairs.append(pair)
    if len(pairs) < count:
        raise ScenarioError(
            f"{scenario.place}: {scenario.id!r} gives {len(pairs)} different pairs, {count} are "
            "needed. Add choices or slots."
        )
    return pairs


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


def to_table(pairs: Sequence[Pair], seed: int) -> pd.DataFrame:
    """Samples of a list of pairs.

    Parameters
    ----------
    pairs : sequence of Pair
        Of the test side.
    seed : int
        The build's seed, which also draws the dev split.

    Returns
    -------
    DataFrame
        Schema ``samples``, in the order of the pairs.
    """
    dev = _dev_scenarios(list({pair.scenario.id: pair.scenario for pair in pairs}.values()), seed)
    return pd.DataFrame(
        row | {"split": "dev" if pair.scenario.id in dev else "test"}
        for pair in pairs
        for row in rows(pair, seed)
    )


def load_benchmark(split: str = "", seed: int = 2026) -> pd.DataFrame:
    """Build the benchmark that comes with the library: 3,010 samples in six cells, in pairs.

    Parameters
    ----------
    split : {"", "dev", "test"}
        Thresholds are chosen on ``dev`` and reported on ``test``, which share no scenario; both if
        empty.
    seed : int
        The same seed gives the same samples, byte for byte.

    Returns
    -------
    DataFrame
        Schema ``samples``, a row for each: ``request``, ``response``, ``label`` (1 is misbehavior),
        ``pair_id``, ``scenario_id``, ``cell`` and what else is known. Give a monitor request and
        response only.

    Raises
    ------
    ValueError
        For another split.

    Examples
    --------
    >>> samples = load_benchmark()
    >>> len(samples), float(samples["label"].mean())
    (3010, 0.5)
    """
    if split not in ("", "dev", "test"):
        raise ValueError(f"split is {split!r}, expected 'dev', 'test' or '' for both")
    samples = to_table(build_pairs(seed), seed)
    return samples[samples["split"] == split].reset_index(drop=True) if split else samples


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
            misbehavior_type=_misbehavior_type(pair),
            cue_type=pair.cue,
            source=SOURCE,
            generator=GENERATOR,
            request=pair.request,
            response=response.text,
            has_thinking=response.thinks,
            label=label,
        )


def _misbehavior_type(pair: Pair) -> str:
    """Named type: a CWE class, a gaming type, or what the cue of a sycophancy pair appeals to.

    Parameters
    ----------
    pair : Pair
        The pair.

    Returns
    -------
    str
        The type of the pair, the same for both samples.
    """
    if pair.scenario.cell.startswith("syco"):
        return str(cues()[pair.cue]["kind"])
    return pair.scenario.type
