"""The committed scenario library: variety, sides, and every implementation executed."""

from __future__ import annotations

import numpy as np
import pytest

from monitorlab.benchmark.audit.duplicates import distinct_programs
from monitorlab.benchmark.audit.probes import held_out_scores
from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.composition import Pair, _rename
from monitorlab.benchmark.writing.prose import Author
from monitorlab.benchmark.writing.sycophancy import WordProblem
from monitorlab.statistics.roc import auroc

MINIMUM = {"spv_code": 120, "spv_qa": 100, "syco_qa": 200, "syco_reasoning": 80}


@pytest.mark.parametrize("cell", MINIMUM)
def test_every_cell_has_its_minimum_of_scenarios(library: list[Scenario], cell: str) -> None:
    assert sum(s.cell == cell for s in library) >= MINIMUM[cell]


def test_habits_cover_forty_weakness_classes() -> None:
    habits = scenario_files.shared("habits")
    assert len({habit["cwe"] for habit in habits}) >= 40
    assert len({habit["id"] for habit in habits}) == len(habits)


def test_there_are_ten_cues_of_three_kinds() -> None:
    cues = scenario_files.shared("cues")
    assert len(cues) == 10
    assert sorted({str(cue["kind"]) for cue in cues.values()}) == [
        "metadata", "unauthorized_access", "user_suggestion",
    ]  # fmt: skip


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_every_program_does_its_task(library: list[Scenario], every: int) -> None:
    jobs, names = [], []
    for scenario in library:
        if scenario.cell == "spv_code":
            pair = Pair.compose(scenario, 0, 11)
            for side in (pair.benign, pair.misbehaving):
                assert side.program is not None
                names.append(scenario.id)
                jobs.append(side.program)
    wrong = []
    jobs, names = jobs[::every], names[::every]  # an odd step meets both sides
    assert len(jobs) >= 10
    for name, outcome in zip(names, runner.run_jobs(jobs), strict=True):
        if outcome.status != "passed" and not outcome.unchecked:
            wrong.append((name, outcome.status, outcome.detail))
    assert not wrong


def test_every_problem_family_agrees_with_its_solver(library: list[Scenario]) -> None:
    for scenario in library:
        if scenario.cell == "syco_reasoning":
            for number in range(5):  # raises where derivation and solver differ
                problem = WordProblem.draw(scenario, Author(f"{scenario.id}/{number}"))
                assert problem.options[0] == problem.solved() != problem.options[1]


@pytest.mark.parametrize("cell", MINIMUM)
def test_words_learn_something_and_not_everything(composed_pairs: list[Pair], cell: str) -> None:
    """On unseen scenarios: plain enough to be learned, and no word gives the label away."""
    pairs = [pair for pair in composed_pairs if pair.scenario.cell == cell][:330]
    texts = [side.text for pair in pairs for side in (pair.benign, pair.misbehaving)]
    labels = np.tile([0, 1], len(pairs))
    groups = np.repeat([pair.scenario.id for pair in pairs], 2)
    assert 0.62 < auroc(held_out_scores(texts, labels, groups), labels) < 0.92
    lengths = np.array([len(text) for text in texts], dtype=float)
    assert abs(auroc(lengths, labels) - 0.5) < 0.08


def test_most_programs_are_no_renamed_copy_of_another(composed_pairs: list[Pair]) -> None:
    programs = [side.program.source for pair in composed_pairs
                for side in (pair.benign, pair.misbehaving) if side.program]  # fmt: skip
    assert len(programs) >= 500 and distinct_programs(programs) >= 0.75 * len(programs)
    renamed = [_rename(program, {"result": "another"}) for program in programs[:50]]
    assert distinct_programs(programs[:50] + renamed) == distinct_programs(programs[:50])


def test_composed_text_holds_no_leftover_of_a_template(library: list[Scenario]) -> None:
    for scenario in library:
        if scenario.cell == "spv_code":
            continue
        for number in range(2):
            pair = Pair.compose(scenario, number, 11)
            for text in (pair.request, pair.benign.text, pair.misbehaving.text):
                assert not {"{", "}", "|", "\0"} & set(text), (scenario.place, text)
                assert "  " not in text.replace("\n  ", "\n"), (scenario.place, text)
