"""Labels checked by running and by solving again, and the tables that introduce the benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.scenarios.documents import LIBRARY, read_document
from monitorlab.benchmark.scenarios.files import Scenario, _load_file
from monitorlab.benchmark.writing import corpus
from monitorlab.benchmark.writing.composition import Pair, _Response, compose_pair
from monitorlab.benchmark.writing.corpus import (
    COMPONENTS,
    PATIENCE,
    _check_programs,
    _check_reasoning,
)
from monitorlab.benchmark.written import COUNTS, WrittenPair, written_samples
from monitorlab.chapters import construction
from monitorlab.cli import app

RIGHT, OTHER, BROKEN = "def f(n): return n + 1", "def f(n): return 2", "def f(n): return n"


def scenarios(path: str) -> list[Scenario]:
    """Scenarios of one library file, without the slow check of their form."""
    cell = path.partition("/")[0]
    return [
        Scenario(entry["id"], cell, path, entry)
        for entry in read_document(LIBRARY / path).value
    ]


def code_pair(name: str, cell: str, benign: str, misbehaving: str) -> Pair:
    sides = [_Response(source, program=runner.Job(source, "assert f(1) == 2"))
             for source in (benign, misbehaving)]  # fmt: skip
    return Pair(Scenario(name, cell, "x", {}), 0, "t", "request", "none", *sides)


@pytest.fixture(scope="module")
def quizzes() -> list[Pair]:
    return [compose_pair(s, n, 7) for s in scenarios("syco_reasoning/time.yaml")
            for n in range(2)]  # fmt: skip


@pytest.fixture(scope="module")
def programs() -> pd.DataFrame:
    pairs = [
        code_pair("both", "spv_code", RIGHT, OTHER),
        code_pair("one", "spv_code", BROKEN, OTHER),
        code_pair("none", "spv_code", BROKEN, BROKEN),
        Pair(Scenario("prose", "spv_qa", "x", {}), 0, "t", "r", "none",
             _Response("a"), _Response("b")),
    ]  # fmt: skip
    return _check_programs(pairs, 3)


def by_side(frame: pd.DataFrame, name: str) -> list[bool]:
    """Whether the benign and the misbehaving label are confirmed."""
    rows = frame[frame["pair_id"] == f"{name}-000"].sort_values("label")
    assert list(rows["label"]) == [0, 1]
    return list(rows["confirmed"])


@pytest.mark.parametrize(
    ("name", "confirmed"),
    [("both", [True, True]), ("one", [False, True]), ("none", [False, False])],
)  # fmt: skip
def test_labels_of_programs_are_what_running_shows(
    programs: pd.DataFrame, name: str, confirmed: list[bool]
) -> None:
    assert by_side(programs, name) == confirmed


def test_outcomes_stand_beside_their_samples(programs: pd.DataFrame) -> None:
    assert not programs["pair_id"].str.startswith("prose").any()
    found = programs.set_index(["pair_id", "label"])
    assert found.loc[("one-000", 0), "status"] == "failed"
    assert found.loc[("one-000", 1), "status"] == "passed"
    assert programs["isolation"].str.contains("audit").all()


def test_what_cannot_be_confined_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "isolation", lambda: "limits+audit")
    shell = "import os\ndef f(n): return n + 1 + os.system('true')"
    outside = "open('/outside', 'w')"
    found = _check_programs([code_pair("a", "spv_code", RIGHT, shell),
                            code_pair("b", "spv_code", outside, RIGHT)], 3)  # fmt: skip
    found = found.sort_values(["pair_id", "label"])
    assert list(found["status"]) == ["passed", "refused", "refused", "passed"]
    assert list(found["checked"]) == [True, False, True, True]
    assert list(found["confirmed"]) == [True, False, False, True]


def test_a_program_that_was_too_slow_on_a_busy_machine_is_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_jobs, limits = runner.run_jobs, []

    def busy(jobs: list[runner.Job], given: runner.Limits | None = None) -> list[runner._Outcome]:
        limits.append(given)
        found = run_jobs(jobs, given)
        return [replace(found[0], status="timeout"), *found[1:]] if given is None else found

    monkeypatch.setattr(runner, "run_jobs", busy)
    found = _check_programs([code_pair("a", "spv_code", RIGHT, RIGHT)], 1)
    assert found["confirmed"].all() and len(limits) == 2
    assert limits[1].seconds == PATIENCE



def test_nothing_to_check_gives_empty_tables() -> None:
    programs, reasoning = _check_programs([], 1), _check_reasoning([], 1)
    assert programs.empty and reasoning.empty
    assert list(programs.columns[-3:]) == ["isolation", "checked", "confirmed"]
    assert list(reasoning.columns[-1:]) == ["confirmed"]


def test_reasoning_is_solved_again(quizzes: list[Pair]) -> None:
    found = _check_reasoning(quizzes, 7)
    assert len(found) == 2 * len(quizzes)
    assert found["confirmed"].all()
    assert ((found["chosen"] == found["right"]) == (found["label"] == 0)).all()


def test_wrong_labels_of_reasoning_are_found(quizzes: list[Pair]) -> None:
    first, second, third = quizzes[:3]
    swapped = replace(first, benign=first.misbehaving, misbehaving=first.benign)
    silent = replace(second, benign=_Response("It depends."))
    # The cued option is not offered, so nothing shows that the cue was followed.
    assert third.problem is not None
    odd = replace(third.problem, options=(third.problem.options[0], "no such option"))
    found = _check_reasoning([swapped, silent, replace(third, problem=odd)], 7)
    assert by_side_of(found, swapped) == [False, False]
    assert by_side_of(found, silent) == [False, True]
    assert by_side_of(found, third) == [True, False]
    unread = found[found["chosen"].isna()]
    assert list(zip(unread["pair_id"], unread["label"], strict=True)) == [(silent.id, 0)]


def by_side_of(frame: pd.DataFrame, pair: Pair) -> list[bool]:
    return list(frame[frame["pair_id"] == pair.id].sort_values("label")["confirmed"])


# Overview


def test_counts_and_components(benchmark_pairs: list[WrittenPair]) -> None:
    quizzes = [pair for pair in benchmark_pairs if pair.cell == "syco_reasoning"][:40]
    samples = written_samples(quizzes)
    counts = construction.counts(samples)
    assert list(counts["wanted"]) == list(COUNTS.values())
    row = counts.iloc[list(COUNTS).index("syco_reasoning")]
    expected = (2 * len(quizzes), len(quizzes), samples["scenario_id"].nunique())
    assert (row["samples"], row["misbehaving"], row["scenarios"]) == expected
    assert row["dev"] + row["test"] == row["samples"] and row["dev"] > 0
    assert counts["samples"].sum() == row["samples"]
    for by in ("tier", "protocol"):
        assert construction.graded(samples, by).iloc[:, 1:].to_numpy().sum() == len(quizzes)
    report: Any = SimpleNamespace(kept={c.name: number for number, c in enumerate(COMPONENTS)})
    components = construction._components(report)
    assert list(components["built"]) == list(range(len(COMPONENTS)))
    assert components["published"].sum() == 153_581


def test_library_and_cues() -> None:
    members = scenarios("syco_reasoning/time.yaml")
    table = construction.library(members)
    assert len(table) == 1 and table.iloc[0, 1] == len(members) > 0
    cues = construction.cue_table()
    assert len(cues) == 10 and cues["cue"].is_unique
    assert cues["for example"].str.len().gt(20).all()
    assert not cues["for example"].str.contains(r"[{}|]").any(), "a template was not filled"


# Command line


@pytest.fixture
def broken_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cell with a single file, which is not in the expected form."""
    path = tmp_path / "syco_qa" / "test_a.yaml"
    path.parent.mkdir()
    path.write_text("- id: demo\n  colour: blue\n")
    monkeypatch.setattr(corpus, "load_cell", lambda cell, _: _load_file(path, cell))
    return path


def test_a_broken_scenario_file_ends_the_command_with_its_line(broken_library: Path) -> None:
    result = CliRunner().invoke(app, ["scenarios", "syco_qa"])
    assert result.exit_code == 1
    assert "syco_qa/test_a.yaml:1" in result.stdout and "colour" in result.stdout
    assert "Traceback" not in result.output


def test_an_unknown_cell_is_named() -> None:
    result = CliRunner().invoke(app, ["scenarios", "no_such_cell"])
    assert result.exit_code == 1
    assert "'no_such_cell' has no scenarios; there are those of" in result.output
    assert "Traceback" not in result.output


def test_an_unconfirmed_label_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, quizzes: list[Pair]
) -> None:
    members = [pair.scenario for pair in quizzes[:2]][:1]
    monkeypatch.setattr(corpus, "load_cell", lambda cell, _: members)
    good = CliRunner().invoke(app, ["scenarios", "syco_reasoning", "--pairs", "1"])
    assert (good.exit_code, "1 pairs, 0 faults" in good.stdout) == (0, True)

    def swapped(*arguments: Any) -> Pair:
        pair = compose_pair(*arguments)
        return replace(pair, benign=pair.misbehaving, misbehaving=pair.benign)

    monkeypatch.setattr(corpus, "compose_pair", swapped)
    bad = CliRunner().invoke(app, ["scenarios", "syco_reasoning", "--pairs", "1"])
    assert bad.exit_code == 1
    assert "2 faults" in bad.stdout and f"{members[0].id}: label not confirmed" in bad.stdout
