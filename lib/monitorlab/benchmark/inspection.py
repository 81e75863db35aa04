"""The validator of the scenario library: form, composition, execution, balance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from monitorlab.benchmark import probes, sandbox, verification
from monitorlab.benchmark.composition import Pair, compose_pair
from monitorlab.benchmark.expressions import ExpressionError
from monitorlab.benchmark.scenario_files import (
    CODE_CELLS,
    LIBRARY,
    Scenario,
    ScenarioError,
    load_cell,
)
from monitorlab.benchmark.templates import TemplateError
from monitorlab.pipeline.tables import CELLS

MIN_SCENARIOS = 10  # fewer say nothing about shortcuts


def inspect_cells(
    cells: Iterable[str] | None,
    pairs: int,
    seed: int,
    say: Callable[[str], object] = print,
    folder: Path = LIBRARY,
) -> int:
    """Check cells one by one and say what was found.

    Parameters
    ----------
    cells : iterable of str or None
        Which; all by default.
    pairs : int
        Pairs composed from each scenario.
    seed : int
        Of the pairs.
    say : callable
        Takes one line.
    folder : Path
        The library.

    Returns
    -------
    int
        Number of faults.
    """
    faults = 0
    cells = tuple(cells or CELLS)
    if set(cells) & set(CODE_CELLS) and (words := sandbox.weakness()):
        say(words)
    for cell in cells:
        try:
            scenarios = load_cell(cell, folder)
        except ScenarioError as error:
            lines = str(error).splitlines()
            faults += len(lines)
            for line in lines:
                say(line)
            continue
        for side in ("test", "training"):
            members = [scenario for scenario in scenarios if scenario.side == side]
            if members:
                faults += _inspect_side(cell, side, members, pairs, seed, say)
    return faults


def _inspect_side(
    cell: str,
    side: str,
    members: Sequence[Scenario],
    pairs: int,
    seed: int,
    say: Callable[[str], object],
) -> int:
    composed: list[Pair] = []
    faults = 0
    for scenario in members:
        try:
            composed += [compose_pair(scenario, number, seed) for number in range(pairs)]
        except (ScenarioError, TemplateError, ExpressionError) as error:
            faults += 1
            text = str(error).removeprefix(f"{scenario.place}: ")
            say(f"{scenario.place}: {scenario.id}: {text}")
    places = {pair.scenario.id: pair.scenario.place for pair in composed}
    programs = verification.check_programs(composed, seed)
    for checked in (
        programs[programs["checked"]], verification.check_reasoning(composed, seed)
    ):  # fmt: skip
        for row in checked[~checked["confirmed"].astype(bool)].to_dict("records"):
            faults += 1
            name = str(row["pair_id"]).rpartition("-")[0]
            left_out = ("sample_id", "pair_id", "seconds", "checked")
            what = {k: v for k, v in row.items() if k not in left_out}
            say(f"{places[name]}: {name}: label not confirmed: {what}")
    line = f"{cell}, {side}: {len(members)} scenarios, {len(composed)} pairs, {faults} faults"
    if unchecked := int((~programs["checked"]).sum()):
        line += f", {unchecked} programs not run for want of isolation"
    if len(places) >= MIN_SCENARIOS:
        line += _balance(composed)
    say(line)
    return faults


def _balance(pairs: Sequence[Pair]) -> str:
    texts = [side.text for pair in pairs for side in (pair.benign, pair.misbehaving)]
    labels = np.tile([0, 1], len(pairs))
    groups = np.repeat([pair.scenario.id for pair in pairs], 2)
    length = probes.auroc(np.array([len(text) for text in texts], dtype=float), labels)
    words = probes.auroc(probes.held_out_scores(texts, labels, groups), labels)
    return f"; AUROC of length {length:.2f}, of words in unseen scenarios {words:.2f}"
