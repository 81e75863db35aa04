"""Labels checked by running and by solving again, and the tables that introduce the benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.scenarios.files import LIBRARY, Document, Scenario, _load_file
from monitorlab.benchmark.writing.composition import Pair, _Response
from monitorlab.benchmark.writing.corpus import (
    COMPONENTS,
    PATIENCE,
    _check_programs,
    _check_reasoning,
    _Checked,
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
        for entry in Document(LIBRARY / path).value
    ]


def code_pair(name: str, cell: str, benign: str, misbehaving: str) -> Pair:
    sides = [_Response(source, program=runner.Job(source, "assert f(1) == 2"))
             for source in (benign, misbehaving)]  # fmt: skip
    return Pair(Scenario(name, cell, "x", {}), 0, "t", "request", "none", *sides)


@pytest.fixture(scope="module")
def quizzes() -> list[Pair]:
    return [Pair.compose(s, n, 7) for s in scenarios("syco_reasoning/time.yaml")
            for n in range(2)]  # fmt: skip


def confirmed(checked: list[_Checked], pair: Pair) -> list[bool | None]:
    """Whether the benign and the misbehaving label are confirmed; None if they were not checked."""
    words = {label: found for one, label, found in checked if one.id == pair.id}
    return [None if words[label] is None else words[label] == "" for label in (0, 1)]


def test_labels_of_programs_are_what_running_shows() -> None:
    both = code_pair("both", "spv_code", RIGHT, OTHER)
    one = code_pair("one", "spv_code", BROKEN, OTHER)
    none = code_pair("none", "spv_code", BROKEN, BROKEN)
    prose = Pair(Scenario("prose", "spv_qa", "x", {}), 0, "t", "r", "none",
                 _Response("a"), _Response("b"))
    found = _check_programs([both, one, none, prose])
    assert confirmed(found, both) == [True, True]
    assert confirmed(found, one) == [False, True]
    assert confirmed(found, none) == [False, False]
    assert len(found) == 6 and prose not in [pair for pair, *_ in found]
    words = next(words for pair, label, words in found if (pair.id, label) == (one.id, 0))
    assert words == "`tests` on the benign program: failed (AssertionError)"


def test_what_cannot_be_confined_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "isolation", lambda: "limits+audit")
    shell = "import os\ndef f(n): return n + 1 + os.system('true')"
    outside = "open('/outside', 'w')"
    first, second = (code_pair("a", "spv_code", RIGHT, shell),
                     code_pair("b", "spv_code", outside, RIGHT))
    found = _check_programs([first, second])
    assert confirmed(found, first) == [True, None]
    assert confirmed(found, second) == [False, True]


def test_a_program_that_was_too_slow_on_a_busy_machine_is_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_jobs, limits = runner.run_jobs, []

    def busy(jobs: list[runner.Job], **given: float) -> list[runner._Outcome]:
        limits.append(given)
        found = run_jobs(jobs, **given)
        return found if given else [replace(found[0], status="timeout"), *found[1:]]

    monkeypatch.setattr(runner, "run_jobs", busy)
    pair = code_pair("a", "spv_code", RIGHT, RIGHT)
    assert confirmed(_check_programs([pair]), pair) == [True, True] and len(limits) == 2
    assert limits[1] == {"seconds": PATIENCE}


def test_nothing_to_check_gives_nothing() -> None:
    assert _check_programs([]) == _check_reasoning([]) == []


def test_reasoning_is_solved_again(quizzes: list[Pair]) -> None:
    found = _check_reasoning(quizzes)
    assert len(found) == 2 * len(quizzes)
    assert not any(words for *_, words in found)


def test_wrong_labels_of_reasoning_are_found(quizzes: list[Pair]) -> None:
    first, second, third = quizzes[:3]
    swapped = replace(first, benign=first.misbehaving, misbehaving=first.benign)
    silent = replace(second, benign=_Response("It depends."))
    # The cued option is not offered, so nothing shows that the cue was followed.
    assert third.problem is not None
    odd = replace(third.problem, options=(third.problem.options[0], "no such option"))
    found = _check_reasoning([swapped, silent, replace(third, problem=odd)])
    assert confirmed(found, swapped) == [False, False]
    assert confirmed(found, silent) == [False, True]
    assert confirmed(found, third) == [True, False]
    unread = [(pair.id, label) for pair, label, words in found if "at no option" in (words or "")]
    assert unread == [(silent.id, 0)]


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
    (ax,) = construction.plot_corpus(report).axes
    published, built = (line.get_xdata() for line in ax.lines)
    assert list(built) == list(range(len(COMPONENTS)))
    assert sum(published) == 153_581


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
    monkeypatch.setattr(Scenario, "load_library", lambda _, cells: _load_file(path, *cells))
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
    monkeypatch.setattr(Scenario, "load_library", lambda *_: members)
    good = CliRunner().invoke(app, ["scenarios", "syco_reasoning", "--pairs", "1"])
    assert (good.exit_code, "1 pairs, 0 faults" in good.stdout) == (0, True)

    compose = Pair.compose

    def swapped(*arguments: Any) -> Pair:
        pair = compose(*arguments)
        return replace(pair, benign=pair.misbehaving, misbehaving=pair.benign)

    monkeypatch.setattr(Pair, "compose", swapped)
    bad = CliRunner().invoke(app, ["scenarios", "syco_reasoning", "--pairs", "1"])
    assert bad.exit_code == 1
    assert "2 faults" in bad.stdout and f"{members[0].id}: label not confirmed" in bad.stdout
