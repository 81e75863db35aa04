"""The committed scenario library: variety, sides, and every implementation executed."""

from __future__ import annotations

from random import Random

import pytest

from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.writing.composition import compose_pair
from monitorlab.benchmark.writing.problems import draw_problem

MINIMUM = {
    ("spv_code", "test"): 60, ("spv_code", "training"): 60,
    ("spv_qa", "test"): 50, ("spv_qa", "training"): 60,
    ("syco_qa", "test"): 100, ("syco_qa", "training"): 100,
    ("syco_reasoning", "test"): 40, ("syco_reasoning", "training"): 40,
    ("sg_code", "test"): 50, ("sg_qa", "test"): 90,
}  # fmt: skip


@pytest.mark.parametrize(("cell", "side"), MINIMUM)
def test_every_cell_has_its_minimum_of_scenarios(
    library: list[Scenario], cell: str, side: str
) -> None:
    found = sum(s.cell == cell and s.side == side for s in library)
    assert found >= MINIMUM[cell, side]


def test_gaming_has_no_training_side(library: list[Scenario]) -> None:
    assert not [s.id for s in library if s.cell.startswith("sg_") and s.side == "training"]


@pytest.mark.parametrize("side", ["test", "training"])
def test_code_covers_twenty_weakness_classes(library: list[Scenario], side: str) -> None:
    assert len({s.type for s in library if s.cell == "spv_code" and s.side == side}) >= 20


def test_gaming_covers_fourteen_types_and_all_its_cues(library: list[Scenario]) -> None:
    members = [s for s in library if s.cell in ("sg_code", "sg_qa")]
    assert len({s.type for s in members}) == 14
    assert {s.type for s in members if s.cell == "sg_qa"} == {s.type for s in members}
    assert len({s.cue for s in members}) == 6


def test_there_are_ten_cues_of_three_kinds() -> None:
    cues = scenario_files.cues()
    assert len(cues) == 10
    assert sorted({str(cue["kind"]) for cue in cues.values()}) == [
        "metadata", "unauthorized_access", "user_suggestion",
    ]  # fmt: skip


def test_no_text_of_a_question_or_code_serves_both_sides(library: list[Scenario]) -> None:
    names = ("request", "question")
    texts = {
        side: {
            text for s in library if s.side == side for name in names for text in s.get(name, [])
        }
        for side in ("test", "training")
    }
    assert not texts["test"] & texts["training"]


def test_every_implementation_does_its_task_and_only_benign_ones_pass_hidden_tests(
    library: list[Scenario],
) -> None:
    jobs, names = [], []
    for scenario in library:
        if scenario.cell not in scenario_files.CODE_CELLS:
            continue
        tests = scenario.get("visible") or scenario["tests"]
        hidden = tuple((str(a), b) for a, b in scenario.get("hidden", []))
        for side in ("benign", "misbehaving"):
            for number, source in enumerate(scenario[side]):
                names.append((scenario.id, side, number, scenario.cell))
                setup = scenario.get("setup", ""), scenario.get("hidden_setup", "")
                jobs.append(runner.Job(source, tests, *setup, hidden))
    wrong = []
    for (name, side, number, cell), outcome in zip(names, runner.run_jobs(jobs), strict=True):
        right = cell == "spv_code" or outcome.hidden_passed == (side == "benign")
        if (outcome.status != "passed" or not right) and not outcome.unchecked:
            wrong.append((name, side, number, outcome.status, outcome.detail))
    assert not wrong


def test_every_problem_family_agrees_with_its_solver(library: list[Scenario]) -> None:
    for scenario in library:
        if scenario.cell == "syco_reasoning":
            for number in range(5):  # raises where derivation and solver differ
                problem = draw_problem(scenario, Random(f"{scenario.id}/{number}"))
                assert problem.cued != problem.right


def test_composed_text_holds_no_leftover_of_a_template(library: list[Scenario]) -> None:
    for scenario in library:
        if scenario.cell in scenario_files.CODE_CELLS:
            continue
        for number in range(2):
            pair = compose_pair(scenario, number, 11)
            for text in (pair.request, pair.benign.text, pair.misbehaving.text):
                assert not {"{", "}", "|", "\0"} & set(text), (scenario.place, text)
                assert "  " not in text.replace("\n  ", "\n"), (scenario.place, text)
