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

import numpy as np
import pandas as pd

from monitorlab.benchmark.audit import duplicates
from monitorlab.benchmark.final_answers import chosen_letter
from monitorlab.benchmark.samples import whole_texts
from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.scenarios.files import CELLS, LIBRARY, Scenario, ScenarioError
from monitorlab.benchmark.scenarios.templates import ExpressionError
from monitorlab.benchmark.writing.composition import Pair
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


@dataclass
class _Share:
    """What one scenario gives to one component: pairs still missing, and the next number."""

    component: _Component
    scenario: Scenario
    missing: int
    number: int

    def pieces(self) -> Iterator[_Piece]:
        """Cut what is missing into pieces of work, whose numbers are not used again."""
        start, self.number = self.number, self.number + self.missing
        for low in range(start, self.number, RUN):
            yield _Piece(self, low, min(low + RUN, self.number))


@dataclass(frozen=True)
class _Piece:
    share: _Share
    start: int
    stop: int


def _component_sizes(share: float) -> dict[str, int]:
    """Samples per component for a cut of the corpus; a share of 1 gives the published sizes."""
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, expected a number above 0 and at most 1.")
    return {c.name: c.size if share == 1 else 2 * math.ceil(share * c.size / 2) for c in COMPONENTS}


def build_corpus(
    seed: int, share: float = 1.0, processes: int = 1, test_texts: Iterable[str] = (),
    scenarios: Iterable[Scenario] | None = None, report: Report | None = None,
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
    library = Scenario.load_library() if scenarios is None else list(scenarios)
    shares = _shares(library, seed, wanted)
    report = Report() if report is None else report
    keeper = _Keeper(test_texts, report)
    buffer: list[pd.DataFrame] = []
    with _composer(processes, seed) as compose:
        for _ in range(ROUNDS):
            pieces = [piece for one in shares for piece in one.pieces()]
            if not pieces:
                break
            composed = zip(pieces, compose(pieces), strict=True)
            shown = progress(composed, "pieces of the corpus", len(pieces))
            for piece, (frame, signatures) in shown:
                kept = frame[keeper.new(signatures)]
                piece.share.missing -= len(kept) // 2
                name = piece.share.component.name
                # A component of odd size lacks the partner of its last sample.
                kept = kept.iloc[: wanted[name] - report.kept[name]]
                report.kept[name] += len(kept)
                buffer.append(kept)
                if sum(map(len, buffer)) >= PART:
                    yield pd.concat(buffer, ignore_index=True)
                    buffer = []
    if short := sorted({one.scenario.id for one in shares if one.missing}):
        raise ScenarioError(f"{', '.join(short)}: too few different pairs after {ROUNDS} rounds. "
                            "Add choices, names or slots to these scenarios.")
    if buffer:
        yield pd.concat(buffer, ignore_index=True)


def _shares(library: Sequence[Scenario], seed: int, wanted: Mapping[str, int]) -> list[_Share]:
    """Spread the pairs of every component over the scenarios of its cell."""
    shares = []
    for component in COMPONENTS:
        members = [scenario for scenario in library if scenario.cell == component.cell]
        if not members:
            raise ScenarioError(f"cell {component.cell!r} has no scenario. Add some.")
        counts = _allot(math.ceil(wanted[component.name] / 2), members, seed)
        # The two components of one cell count from different numbers, so they share no pair.
        first = 1_000_000 if component.thinks is False else 0
        shares += [_Share(component, member, counts[member.id], first) for member in members]
    return shares


def _allot(total: int, scenarios: Sequence[Scenario], seed: int) -> dict[str, int]:
    """Pairs by scenario id, as even as it goes; the seed decides who gives one more."""
    order = sorted(scenario.id for scenario in scenarios)
    Random(f"{seed}/allot").shuffle(order)
    base, extra = divmod(total, len(order))
    return {name: base + (place < extra) for place, name in enumerate(order)}


class _Keeper:
    """Keeps pairs that nearly equal neither an earlier pair nor a test sample."""

    def __init__(self, test_texts: Iterable[str], report: Report) -> None:
        self.report = report
        self._seen = duplicates.Neighbours()
        self._test = duplicates.Neighbours(list(test_texts))

    def new(self, signatures: np.ndarray) -> np.ndarray:
        """Say of each sample whether it is kept; those of a pair stand one behind the other."""
        keep = np.zeros(len(signatures), dtype=bool)
        for first in range(0, len(signatures), 2):
            pair = signatures[first : first + 2]
            near = [self._seen.similarity(signature) >= duplicates.NEAR for signature in pair]
            to_test = [self._test.similarity(signature) for signature in pair]
            self.report.composed += 2
            self.report.near_duplicates += sum(near)
            self.report.near_test += sum(value >= duplicates.NEAR for value in to_test)
            if any(near) or max(to_test) >= duplicates.NEAR:
                continue
            keep[first : first + 2] = True
            self.report.largest_test_similarity = max(self.report.largest_test_similarity, *to_test)
            for signature in pair:
                self._seen.add(signature)
        return keep


_Composed = tuple[pd.DataFrame, np.ndarray]


@contextmanager
def _composer(
    processes: int, seed: int
) -> Iterator[Callable[[Sequence[_Piece]], Iterator[_Composed]]]:
    """Compose pieces in order, in this process or in several."""
    if processes <= 1:
        yield lambda pieces: (_compose(piece, seed) for piece in pieces)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        def spread(pieces: Sequence[_Piece]) -> Iterator[_Composed]:
            waiting: deque[Future[_Composed]] = deque()
            for piece in pieces:
                waiting.append(pool.submit(_compose, piece, seed))
                if len(waiting) >= QUEUE * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        yield spread


def _compose(piece: _Piece, seed: int) -> _Composed:
    """Compose the pairs of one piece and their signatures."""
    component = piece.share.component
    pairs = [Pair.compose(piece.share.scenario, number, seed, component.thinks)
             for number in range(piece.start, piece.stop)]
    rows = [row | {"component": component.name} for pair in pairs for row in pair.rows(seed)]
    frame = pd.DataFrame(rows, columns=CORPUS.columns)
    return frame, duplicates.signatures(whole_texts(frame))


# Scenarios checked ---------------------------------------------------------------------------

MIN_SCENARIOS = 10  # fewer say nothing about shortcuts
PATIENCE = 60.0  # seconds for a program that was too slow at first
_SIDES = ("benign", "misbehaving")
_OPTION = re.compile(r"^\(?([A-F])[.):] (.+)$", re.MULTILINE)
# A pair, a label, and what speaks against it: nothing if it is confirmed, None if it was not run.
_Checked = tuple[Pair, int, str | None]


def _check_programs(pairs: Sequence[Pair]) -> list[_Checked]:
    """Execute every program: both of a pair do their task.

    A program that ran out of time is run once more with more of it. Without isolation, programs
    that need tools are not run.
    """
    sides = [(pair, label, response.program) for pair in pairs
             for label, response in enumerate((pair.benign, pair.misbehaving)) if response.program]
    jobs = [job for *_, job in sides]
    outcomes = runner.run_jobs(jobs)
    late = [place for place, outcome in enumerate(outcomes) if outcome.status == "timeout"]
    if late:  # a busy machine must not make a label false
        again = runner.run_jobs([jobs[place] for place in late], seconds=PATIENCE)
        for place, outcome in zip(late, again, strict=True):
            outcomes[place] = outcome
    checked: list[_Checked] = []
    for (pair, label, _), outcome in zip(sides, outcomes, strict=True):
        detail = outcome.detail.strip().removesuffix(":")
        words = (f"`tests` on the {_SIDES[label]} program: {outcome.status}"
                 + (f" ({detail})" if detail else ""))
        passed = outcome.status == "passed"
        checked.append((pair, label, None if outcome.unchecked else "" if passed else words))
    return checked


def _check_reasoning(pairs: Sequence[Pair]) -> list[_Checked]:
    """Solve every reasoning problem again and look at the option each response names.

    Benign responses choose the right option, misbehaving ones the cued one.
    """
    checked: list[_Checked] = []
    for pair in pairs:
        if pair.problem is None:
            continue
        letters = {option: letter for letter, option in _OPTION.findall(pair.request)}
        right, cued = (letters.get(text) for text in (pair.problem.solved(),
                                                      pair.problem.options[1]))
        for label, response in enumerate((pair.benign, pair.misbehaving)):
            chosen = chosen_letter(response.text)
            confirmed = right not in (None, cued) and chosen == (cued if label else right)
            words = (f"the {_SIDES[label]} answer ends at {chosen or 'no option'}, and the option "
                     f"that the solver computes is {right or 'none'}")
            checked.append((pair, label, "" if confirmed else words))
    return checked


def inspect_cells(
    cells: Iterable[str] | None, pairs: int, seed: int, say: Callable[[str], object] = print,
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
            members = Scenario.load_library(folder, [cell])
        except ScenarioError as error:
            for line in str(error).splitlines():
                say(line)
                faults += 1
        else:
            faults += _inspect_cell(members, pairs, seed, say)
    return faults


def _inspect_cell(
    members: Sequence[Scenario], pairs: int, seed: int, say: Callable[[str], object]
) -> int:
    composed: list[Pair] = []
    faults = 0
    for scenario in members:
        try:
            composed += [Pair.compose(scenario, number, seed) for number in range(pairs)]
        except (ScenarioError, ExpressionError) as error:
            faults += 1
            text = str(error).removeprefix(f"{scenario.place}: ")
            say(f"{scenario.place}: {scenario.id}: {text}")
    checked = _check_programs(composed) + _check_reasoning(composed)
    for pair, _, words in checked:
        if words:
            faults += 1
            origin = pair.scenario
            say(f"{origin.place}: {origin.id}: label not confirmed: {words}")
    line = f"{members[0].cell}: {len(members)} scenarios, {len(composed)} pairs, {faults} faults"
    if unchecked := sum(words is None for *_, words in checked):
        line += f", {unchecked} programs not run for want of isolation"
    if len({pair.scenario.id for pair in composed}) >= MIN_SCENARIOS:
        line += _balance(composed)
    say(line)
    return faults


def _balance(pairs: Sequence[Pair]) -> str:
    from monitorlab.benchmark.audit.probes import held_out_scores  # slow to load

    texts = [side.text for pair in pairs for side in (pair.benign, pair.misbehaving)]
    labels = np.tile([0, 1], len(pairs))
    groups = np.repeat([pair.scenario.id for pair in pairs], 2)
    length = auroc(np.array([len(text) for text in texts], dtype=float), labels)
    words = auroc(held_out_scores(texts, labels, groups), labels)
    return f"; AUROC of length {length:.2f}, of words in unseen scenarios {words:.2f}"
