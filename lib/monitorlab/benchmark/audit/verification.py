"""Labels checked against the world: programs are executed, reasoning is solved again.

`inspect_cells` validates the whole scenario library: form, composition, execution, balance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from monitorlab.benchmark.audit import probes
from monitorlab.benchmark.final_answers import chosen_letter
from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.scenarios.expressions import ExpressionError
from monitorlab.benchmark.scenarios.files import (
    CELLS,
    LIBRARY,
    Scenario,
    ScenarioError,
    load_cell,
)
from monitorlab.benchmark.scenarios.templates import TemplateError
from monitorlab.benchmark.writing import problems
from monitorlab.benchmark.writing.composition import Pair, compose_pair, pair_id, sides
from monitorlab.statistics import roc

MIN_SCENARIOS = 10  # fewer say nothing about shortcuts
PATIENCE = 60.0  # seconds for a program that was too slow at first
_OPTION = re.compile(r"^\(?([A-F])[.):] (.+)$", re.MULTILINE)


def check_programs(pairs: Sequence[Pair], seed: int) -> pd.DataFrame:
    """Execute every program: both of a pair do their task.

    A program that ran out of time is run once more with more of it.

    Parameters
    ----------
    pairs : sequence of Pair
        Pairs of other cells are left out.
    seed : int
        The build's seed, for the sample ids.

    Returns
    -------
    DataFrame
        Columns sample_id, pair_id, cell, label, status, detail, seconds, isolation,
        `checked` (false only where the program needs tools and this machine cannot confine them)
        and `confirmed` (false where it was not checked).
    """
    rows, jobs = [], []
    for pair in pairs:
        if pair.scenario.cell != "spv_code":
            continue
        for sample_id, label, response in sides(pair, seed):
            assert response.program is not None
            rows.append((sample_id, pair_id(pair), pair.scenario.cell, label))
            jobs.append(response.program)
    outcomes = runner.run_jobs(jobs) if jobs else []
    late = [place for place, outcome in enumerate(outcomes) if outcome.status == "timeout"]
    if late:  # a busy machine must not make a label false
        again = runner.run_jobs([jobs[place] for place in late], runner.Limits(seconds=PATIENCE))
        for place, outcome in zip(late, again, strict=True):
            outcomes[place] = outcome
    frame = pd.DataFrame(rows, columns=["sample_id", "pair_id", "cell", "label"])
    for name in ("status", "detail", "seconds", "isolation"):
        frame[name] = pd.Series([getattr(o, name) for o in outcomes], dtype=object)
    frame["checked"] = pd.Series([not o.unchecked for o in outcomes], dtype=bool)
    frame["confirmed"] = frame["status"].eq("passed")
    return frame


def check_reasoning(pairs: Sequence[Pair], seed: int) -> pd.DataFrame:
    """Solve every reasoning problem again and look at the option each response names.

    Parameters
    ----------
    pairs : sequence of Pair
        Pairs of other cells are left out.
    seed : int
        The build's seed, for the sample ids.

    Returns
    -------
    DataFrame
        Columns sample_id, pair_id, label, right (letter by the solver), chosen (letter read from
        the text) and `confirmed`: benign responses choose the right option, misbehaving ones the
        cued one.
    """
    rows = []
    for pair in pairs:
        if pair.problem is None:
            continue
        solved = problems.solve(pair.scenario, pair.problem.given)
        text = problems.write_option(pair.scenario, solved, pair.problem.given)
        letters = {option: letter for letter, option in _OPTION.findall(pair.request)}
        right, cued = letters.get(text), letters.get(pair.problem.options[1])
        for sample_id, label, response in sides(pair, seed):
            chosen = chosen_letter(response.text)
            wanted = cued if label else right
            confirmed = right is not None and right != cued and chosen == wanted
            rows.append((sample_id, pair_id(pair), label, right, chosen, confirmed))
    columns = ["sample_id", "pair_id", "label", "right", "chosen", "confirmed"]
    return pd.DataFrame(rows, columns=columns)



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
    if "spv_code" in cells and (words := runner.weakness()):
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
        faults += _inspect_cell(cell, scenarios, pairs, seed, say)
    return faults


def _inspect_cell(
    cell: str,
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
    programs = check_programs(composed, seed)
    for checked in (
        programs[programs["checked"]], check_reasoning(composed, seed)
    ):  # fmt: skip
        for row in checked[~checked["confirmed"].astype(bool)].to_dict("records"):
            faults += 1
            name = str(row["pair_id"]).rpartition("-")[0]
            left_out = ("sample_id", "pair_id", "seconds", "checked")
            what = {k: v for k, v in row.items() if k not in left_out}
            say(f"{places[name]}: {name}: label not confirmed: {what}")
    line = f"{cell}: {len(members)} scenarios, {len(composed)} pairs, {faults} faults"
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
    length = roc.auroc(np.array([len(text) for text in texts], dtype=float), labels)
    words = roc.auroc(probes.held_out_scores(texts, labels, groups), labels)
    return f"; AUROC of length {length:.2f}, of words in unseen scenarios {words:.2f}"
