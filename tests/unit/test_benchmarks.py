"""The scripts of tests/benchmarks run, and a ratio that is too small is told."""

import sys
from importlib import import_module
from math import isfinite, nan
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("benchmark_*.py"))
SLOW = {f"benchmark_{name}" for name in ("corpus", "live", "scoring", "training")}  # with models


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.long if name in SLOW else ()) for name in NAMES])
def test_each_script_measures(name: str) -> None:
    rows = import_module(name).measure(True)
    assert rows
    for row in rows:
        assert row.ratio > 0 and isfinite(row.ratio), row


@pytest.mark.parametrize("name", sorted(SLOW))
def test_slow_scripts_find_what_they_measure(name: str) -> None:
    assert callable(import_module(name).measure)


def test_what_is_below_the_requirement_is_missed() -> None:
    table = import_module("table")
    rows = [table.Row("what", "1 ms", "2 ms", ratio, 2.0, "") for ratio in (2.0, 1.9, nan)]
    assert table.missed(rows) == rows[1:]
    assert "| what | 1 ms | 2 ms | **1.9** | 2 |" in table.markdown(rows)


def test_ways_take_turns_and_the_smallest_time_counts() -> None:
    race = import_module("table").race
    calls: list[str] = []
    ticks = iter([0, 5, 10, 11, 20, 22, 30, 39])
    found = race({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2,
                 lambda: next(ticks))
    assert calls == ["a", "b"] * 2 and found == {"a": 2, "b": 1}
