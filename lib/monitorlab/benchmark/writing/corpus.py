"""The training corpus: composed from scenarios, which are checked here, deduplicated, streamed.

Work is cut into runs of pairs of one scenario. Each pair depends on its seed, scenario and number
alone, so the corpus is the same with any number of processes.
"""

from __future__ import annotations

import math
import multiprocessing
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from monitorlab.benchmark.audit import duplicates
from monitorlab.benchmark.final_answers import chosen_letter
from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.scenarios.expressions import ExpressionError
from monitorlab.benchmark.scenarios.files import (
    CELLS,
    LIBRARY,
    Scenario,
    ScenarioError,
    load_cell,
    load_library,
)
from monitorlab.benchmark.scenarios.templates import TemplateError
from monitorlab.benchmark.writing import problems
from monitorlab.benchmark.writing.composition import Pair, compose_pair
from monitorlab.display import progress
from monitorlab.statistics.roc import auroc
from monitorlab.storage.tables import CORPUS


@dataclass(frozen=True)
class _Component:
    """One part of the corpus.

    Attributes
    ----------
    name : str
        Name in the table.
    cell : str
        Cell of its scenarios.
    size : int
        Samples in the published corpus.
    thinks : bool or None
        Whether its responses show their thinking; None is both.
    """

    name: str
    cell: str
    size: int
    thinks: bool | None = None


# The paper gives the five sizes and the five components, in this order each; which belongs to which
# is not published, so we keep the order.
COMPONENTS = (
    _Component("spv_code", "spv_code", 56_204),
    _Component("spv_qa", "spv_qa", 40_140),
    _Component("syco_qa", "syco_qa", 23_023),
    _Component("syco_reasoning_thinking", "syco_reasoning", 19_504, True),
    _Component("syco_reasoning_plain", "syco_reasoning", 14_710, False),
)
SIZE = sum(component.size for component in COMPONENTS)
RUN = 200  # pairs in one piece of work
PART = 8_192  # rows in one part of the table
QUEUE = 8  # pieces of work per process that wait at most
ROUNDS = 6


@dataclass
class Report:
    """What happened while the corpus was built.

    Attributes
    ----------
    composed, near_duplicates, near_test : int
        Samples composed; of those, nearly equal to an earlier one; nearly equal to a test sample.
    largest_test_similarity : float
        Largest estimated similarity of a kept sample to any test sample that shares a MinHash band.
    kept : Counter
        Samples by component.
    """

    composed: int = 0
    near_duplicates: int = 0
    near_test: int = 0
    largest_test_similarity: float = 0.0
    kept: Counter[str] = field(default_factory=Counter)

    @property
    def distinct_share(self) -> float:
        """Share of the composed samples that were no near-duplicate of an earlier one."""
        return 1 - self.near_duplicates / max(1, self.composed)


@dataclass(frozen=True)
class _Piece:
    component: _Component
    scenario: Scenario
    start: int
    stop: int
    seed: int


def _component_sizes(share: float) -> dict[str, int]:
    """Samples per component for a cut of the corpus.

    Parameters
    ----------
    share : float
        In (0, 1]; 1 gives the published sizes.

    Returns
    -------
    dict of str to int
        By component.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a number above 0 and at most 1.")
    return {c.name: c.size if share == 1 else 2 * math.ceil(share * c.size / 2) for c in COMPONENTS}


def build_corpus(
    seed: int,
    share: float = 1.0,
    processes: int = 1,
    test_texts: Iterable[str] = (),
    scenarios: Iterable[Scenario] | None = None,
    report: Report | None = None,
) -> Iterator[pd.DataFrame]:
    """Compose the corpus part by part.

    Parameters
    ----------
    seed : int
        The same seed gives the same corpus.
    share : float
        Size relative to the published one.
    processes : int
        Processes that compose; 1 stays in this one.
    test_texts : iterable of str
        Request and response of every test sample; a nearly equal training pair is left out.
    scenarios : iterable of Scenario, optional
        The library.
    report : Report, optional
        Filled while the parts come.

    Yields
    ------
    DataFrame
        Schema ``corpus``, at most `PART` rows.

    Raises
    ------
    ScenarioError
        If the library cannot give enough different pairs.
    """
    wanted = _component_sizes(share)
    plan = _Plan(list(load_library() if scenarios is None else scenarios), seed, wanted)
    keeper = _Keeper(wanted, test_texts, Report() if report is None else report)
    buffer: list[pd.DataFrame] = []
    with _composer(processes) as compose:
        for _ in range(ROUNDS):
            pieces = plan.pieces()
            if not pieces:
                break
            for piece, frame, signatures in progress(
                compose(pieces), "pieces of the corpus", len(pieces)
            ):
                kept = keeper.new(frame, signatures)
                plan.done(piece, len(kept) // 2)
                buffer.append(keeper.trimmed(piece.component, kept))
                if sum(map(len, buffer)) >= PART:
                    yield pd.concat(buffer, ignore_index=True)
                    buffer = []
    if short := sorted({name for (_, name), count in plan.missing.items() if count}):
        raise ScenarioError(
            f"{', '.join(short)}: too few different pairs after {ROUNDS} rounds. Add choices, "
            "names or slots to these scenarios."
        )
    if buffer:
        yield pd.concat(buffer, ignore_index=True)


def _allot(total: int, scenarios: Sequence[Scenario], seed: int) -> dict[str, int]:
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


class _Plan:
    """Which pairs of which scenarios are still to be composed."""

    def __init__(self, library: Sequence[Scenario], seed: int, wanted: Mapping[str, int]) -> None:
        self.seed = seed
        self.missing: dict[tuple[str, str], int] = {}
        self._next: dict[tuple[str, str], int] = {}
        self._scenarios: dict[str, list[Scenario]] = {}
        for component in COMPONENTS:
            members = [s for s in library if s.cell == component.cell]
            if not members:
                raise ScenarioError(f"cell {component.cell!r} has no scenario. Add some.")
            self._scenarios[component.name] = members
            # The two components of one cell count from different numbers, so they share no pair.
            first = 1_000_000 if component.thinks is False else 0
            for name, count in _allot(math.ceil(wanted[component.name] / 2), members, seed).items():
                self.missing[component.name, name] = count
                self._next[component.name, name] = first

    def pieces(self) -> list[_Piece]:
        pieces = []
        for component in COMPONENTS:
            for scenario in self._scenarios[component.name]:
                key = component.name, scenario.id
                start, stop = self._next[key], self._next[key] + self.missing[key]
                self._next[key] = stop
                for low in range(start, stop, RUN):
                    pieces.append(_Piece(component, scenario, low, min(low + RUN, stop), self.seed))
        return pieces

    def done(self, piece: _Piece, pairs: int) -> None:
        self.missing[piece.component.name, piece.scenario.id] -= pairs


class _Keeper:
    """Keeps pairs that nearly equal neither an earlier pair nor a test sample."""

    def __init__(
        self, wanted: Mapping[str, int], test_texts: Iterable[str], report: Report
    ) -> None:
        self.wanted, self.report = wanted, report
        self._seen, self._test = duplicates.Neighbours(), duplicates.Neighbours()
        for signature in duplicates.signatures(list(test_texts)):
            self._test.add(signature)

    def new(self, frame: pd.DataFrame, signatures: np.ndarray) -> pd.DataFrame:
        keep = np.ones(len(frame), dtype=bool)
        for first in range(0, len(frame), 2):
            pair = signatures[first : first + 2]
            near = [self._seen.similarity(s) >= duplicates.NEAR for s in pair]
            to_test = [self._test.similarity(s) for s in pair]
            self.report.composed += 2
            self.report.near_duplicates += sum(near)
            self.report.near_test += sum(value >= duplicates.NEAR for value in to_test)
            if any(near) or max(to_test) >= duplicates.NEAR:
                keep[first : first + 2] = False
                continue
            self.report.largest_test_similarity = max(self.report.largest_test_similarity, *to_test)
            for signature in pair:
                self._seen.add(signature)
        return frame[keep]

    def trimmed(self, component: _Component, kept: pd.DataFrame) -> pd.DataFrame:
        """Leave out the last sample of a component of odd size."""
        room = self.wanted[component.name] - self.report.kept[component.name]
        kept = kept.iloc[:room]
        self.report.kept[component.name] += len(kept)
        return kept


_Composed = tuple[_Piece, pd.DataFrame, np.ndarray]


@contextmanager
def _composer(processes: int) -> Iterator[Callable[[Sequence[_Piece]], Iterator[_Composed]]]:
    """Compose pieces in order, in this process or in several."""
    if processes <= 1:
        yield lambda pieces: map(_compose, pieces)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:

        def spread(pieces: Sequence[_Piece]) -> Iterator[_Composed]:
            waiting: deque[Future[_Composed]] = deque()
            for piece in pieces:
                waiting.append(pool.submit(_compose, piece))
                if len(waiting) >= QUEUE * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield spread


def _compose(piece: _Piece) -> _Composed:
    """Compose the pairs of one piece and their signatures."""
    frame = pd.DataFrame(
        [
            row | {"component": piece.component.name}
            for number in range(piece.start, piece.stop)
            for row in compose_pair(
                piece.scenario, number, piece.seed, piece.component.thinks
            ).rows(piece.seed)
        ],
        columns=CORPUS.columns,
    )
    return piece, frame, duplicates.signatures(whole_texts(frame))


# Scenarios checked ---------------------------------------------------------------------------

MIN_SCENARIOS = 10  # fewer say nothing about shortcuts
PATIENCE = 60.0  # seconds for a program that was too slow at first
_OPTION = re.compile(r"^\(?([A-F])[.):] (.+)$", re.MULTILINE)


def _check_programs(pairs: Sequence[Pair], seed: int) -> pd.DataFrame:
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
        for sample_id, label, response in pair.sides(seed):
            assert response.program is not None
            rows.append((sample_id, pair.id, pair.scenario.cell, label))
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


def _check_reasoning(pairs: Sequence[Pair], seed: int) -> pd.DataFrame:
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
        for sample_id, label, response in pair.sides(seed):
            chosen = chosen_letter(response.text)
            wanted = cued if label else right
            confirmed = right is not None and right != cued and chosen == wanted
            rows.append((sample_id, pair.id, label, right, chosen, confirmed))
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
    programs = _check_programs(composed, seed)
    for checked in (programs[programs["checked"]], _check_reasoning(composed, seed)):
        for row in checked[~checked["confirmed"].astype(bool)].to_dict("records"):
            faults += 1
            name = str(row["pair_id"]).rpartition("-")[0]
            say(f"{places[name]}: {name}: label not confirmed: {_what_speaks_against(row)}")
    line = f"{cell}: {len(members)} scenarios, {len(composed)} pairs, {faults} faults"
    if unchecked := int((~programs["checked"]).sum()):
        line += f", {unchecked} programs not run for want of isolation"
    if len(places) >= MIN_SCENARIOS:
        line += _balance(composed)
    say(line)
    return faults


def _what_speaks_against(row: Mapping[str, Any]) -> str:
    """Say in words why a label is not confirmed: `row` of one of the two checks."""
    side = ("benign", "misbehaving")[int(row["label"])]
    if "status" in row:
        detail = str(row["detail"]).strip().removesuffix(":")
        why = f" ({detail})" if detail else ""
        return f"`tests` on the {side} program: {row['status']}{why}"
    return (f"the {side} answer ends at {row['chosen'] or 'no option'}, and the option that the "
            f"solver computes is {row['right'] or 'none'}")


def _balance(pairs: Sequence[Pair]) -> str:
    from monitorlab.benchmark.audit.probes import held_out_scores  # slow to load

    texts = [side.text for pair in pairs for side in (pair.benign, pair.misbehaving)]
    labels = np.tile([0, 1], len(pairs))
    groups = np.repeat([pair.scenario.id for pair in pairs], 2)
    length = auroc(np.array([len(text) for text in texts], dtype=float), labels)
    words = auroc(held_out_scores(texts, labels, groups), labels)
    return f"; AUROC of length {length:.2f}, of words in unseen scenarios {words:.2f}"
