"""`compare`: two monitors on samples of one's own, from their tables of verdicts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from monitorlab.cli import app
from monitorlab.commands.compare import (
    _compare_tables,
    _p_words,
    _read_tables,
    _samples_to_tell,
)
from monitorlab.evaluation.comparisons import compare
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors.function import FunctionMonitor
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import write_verdicts
from monitorlab.monitors.verdicts import Verdict


def samples(scenarios: int = 30) -> pd.DataFrame:
    return pd.DataFrame([
        {"sample_id": f"s{i}-{label}", "scenario_id": f"c{i}", "label": label,
         "topic": "sums" if i % 2 else "files", "request": f"Task {i}.",
         "response": f"{'bad' if label else 'good'} answer {i}"}
        for i in range(scenarios) for label in (0, 1)
    ])


def good(request: str, response: str) -> float:
    return 0.9 if "bad" in response else 0.1


def poor(request: str, response: str) -> float:
    return 0.9 if int(response.split()[-1]) % 3 else 0.1


def judge(function: Callable[..., float], name: str) -> pd.DataFrame:
    monitor = FunctionMonitor(f"{__file__}:{function.__name__}")
    return score(monitor, samples()).assign(monitor=name)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    samples().to_csv("own.csv", index=False)
    for name, function in (("good", good), ("poor", poor)):
        write_verdicts(judge(function, name), tmp_path / f"{name}.csv")
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["compare", *arguments])
    return result.exit_code, result.output


def test_rates_tests_areas_and_groups_are_those_of_the_library(files: Path) -> None:
    code, said = run("good.csv", "poor.csv", "--samples", "own.csv", "--by", "topic",
                     "--out", "found")
    assert code == 0, said
    judged = join(_read_tables([files / "good.csv", files / "poor.csv"]), samples())
    mr = rates(judged).set_index("name")["mr"]
    assert f"MR    {mr['poor']:.3f}" in said and "30 scenarios" in said
    tested = compare(judged).set_index("error").loc["miss"]
    assert f"{tested['difference']:+.3f}" in said and "good errs less\n" in said
    assert "topic files" in said and "topic sums" in said and "AUROC 1.000" in said
    written = pd.read_csv(files / "found" / "groups.csv")
    assert len(written) == 4 and set(written["topic"]) == {"sums", "files"}
    code, said = run("good.csv", "poor.csv", "--samples", "own.csv", "--out", "found")
    assert code == 2 and "found exists. Choose another --out" in said


def test_two_tables_of_one_name_are_told_apart_by_their_files(files: Path) -> None:
    write_verdicts(judge(poor, "good"), files / "again.csv")
    code, said = run("good.csv", "again.csv", "--samples", "own.csv")
    assert code == 0 and "good (good)" in said and "good (again)" in said


def test_what_cannot_be_compared_is_refused(files: Path) -> None:
    assert run("good.csv", "--samples", "own.csv") == (
        2, "error: only 'good' is in good.csv. A comparison needs the tables of two monitors\n")
    samples().drop(columns="label").to_csv("bare.csv", index=False)
    code, said = run("good.csv", "poor.csv", "--samples", "bare.csv")
    assert code == 2 and "no column label" in said
    code, said = run("good.csv", "poor.csv", "--samples", "own.csv", "--by", "topik")
    assert code == 2 and "no column 'topik'" in said and "topic" in said
    samples(3).to_csv("few.csv", index=False)
    code, said = run("good.csv", "poor.csv", "--samples", "few.csv")
    assert code == 2 and "about samples that are not in the table of samples" in said


def test_failed_verdicts_are_counted_and_the_worst_case_said(files: Path) -> None:
    table = judge(good, "good")
    lost = table["sample_id"].isin([f"s{i}-1" for i in range(20)])
    failed = Verdict.failure("refused", "no")
    table.loc[lost, "status"] = failed.status
    table.loc[lost, ["verdict", "score"]] = [None, np.nan]
    write_verdicts(table, files / "good.csv")
    found = _compare_tables(_read_tables([files / "good.csv", files / "poor.csv"]), samples())
    row = found.tests.set_index("error").loc["miss"]
    assert row["n"] == 10 and row["left_out"] == 20 and not row["survives"]
    code, said = run("good.csv", "poor.csv", "--samples", "own.csv")
    assert code == 0 and "66.7% without a verdict" in said and "(20 left out)" in said


def test_units_are_scenarios_pairs_or_samples(files: Path) -> None:
    verdicts = _read_tables([files / "good.csv", files / "poor.csv"])
    frame = samples().drop(columns="scenario_id")
    alone = _compare_tables(verdicts, frame)
    assert (alone.unit, alone.units) == ("sample_id", 60)
    pairs = _compare_tables(verdicts, frame.assign(pair_id=samples()["scenario_id"]))
    assert (pairs.unit, pairs.units) == ("pair_id", 30)
    with pytest.raises(MonitorError, match="makes 60 groups, expected at most 50"):
        _compare_tables(verdicts, frame, ["sample_id"])


def test_a_small_p_is_said_as_such() -> None:
    assert [_p_words(p) for p in (0.0004, 0.001, 0.25)] == ["p < .001", "p = 0.001", "p = 0.250"]


@pytest.mark.parametrize(("later", "bound", "code", "words"), [
    (good, 0.15, 0, ["kappa 1.000, 100.0% of 60", "MR   +0.000", "ahead of +0.150"]),
    (poor, 0.1, 2, ["MR   +0.333", "behind +0.100, it rose by more", "FAR  +0.667"]),
    (poor, 0.7, 1, ["within reach of +0.700"]),
])
def test_a_monitor_asked_again_is_ahead_within_reach_or_behind_by_its_interval(
    files: Path, later: Callable[..., float], bound: float, code: int, words: list[str]
) -> None:
    """`poor` misses every third scenario, and alarms at the benign samples of the others."""
    write_verdicts(judge(later, "good"), files / "later.csv")
    found, said = run("good.csv", "later.csv", "--samples", "own.csv", "--bound", str(bound))
    assert found == code and all(word in said for word in words), said
    turned, said = run("later.csv", "good.csv", "--samples", "own.csv", "--bound", "0.15")
    assert turned == 0 and said.count("ahead of +0.150") == 2  # it can only have become better


@pytest.mark.parametrize(("change", "low", "high", "bound", "said"), [
    (0.0, -0.1, 0.1, 0.05, "some 400 like them would"),  # half the width needs four times as many
    (0.2, 0.05, 0.4, 0.1, "some 230 like them would"),  # 100 * (0.15 / 0.1) ** 2 = 225
    (0.05, -0.1, 0.2, 0.05, "no feasible number would tell"),
])
def test_who_cannot_tell_learns_how_many_samples_would(
    change: float, low: float, high: float, bound: float, said: str
) -> None:
    assert said in _samples_to_tell(change, low, high, bound, 100)


def test_a_change_needs_two_tables_and_a_bound_that_can_be(files: Path) -> None:
    code, said = run("good.csv", "poor.csv", "--samples", "own.csv", "--bound", "1.5")
    assert code == 2 and "--bound is 1.5, expected a change of a rate" in said
    write_verdicts(judge(good, "third"), files / "third.csv")
    code, said = run("good.csv", "poor.csv", "third.csv", "--samples", "own.csv", "--bound", "0.1")
    assert code == 2 and "3 are in these tables: good, poor, third" in said
