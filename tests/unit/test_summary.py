"""Tables and sentences follow the numbers, whichever way they point."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monitorlab.online.methods import ALL_METHODS
from monitorlab.online.summary import (
    band,
    difference,
    headline_metrics,
    keeps_level,
    results_table,
    verdict,
)

KEY = ("d", "s", 0.2)


def results(**far_and_delay: tuple[float, float]) -> pd.DataFrame:
    """Ten splits of every method; FAR and restricted delay as given, else 0.15 and 0.8."""
    rng = np.random.default_rng(0)
    rows = []
    for method in ALL_METHODS:
        far, delay = far_and_delay.get(method.label.split(",")[0].replace(" ", "_"), (0.15, 0.8))
        for split in range(10):
            wiggle = rng.uniform(-0.004, 0.004)
            rows.append(
                ("d", "s", method.label, 0.2, split, far + wiggle, 0.5 + wiggle, np.nan,
                 delay + wiggle)
            )
    columns = ["dataset", "signal", "method", "level", "split", "far", "power", "delay",
               "restricted_delay"]
    return pd.DataFrame(rows, columns=columns)


def test_verdict_names_who_broke_the_level_and_who_is_earliest():
    text = " ".join(verdict(results(UCB=(0.3, 0.1), CRC=(0.15, 0.6)), ALL_METHODS, *KEY))
    assert "above it by more than the spread of the splits: UCB" in text
    assert "CRC alarms earliest" in text  # UCB would be earlier, but did not keep the level


def test_verdict_changes_direction_with_the_numbers():
    ucb_late = " ".join(verdict(results(UCB=(0.15, 0.9)), ALL_METHODS, *KEY))
    ucb_early = " ".join(verdict(results(UCB=(0.15, 0.7)), ALL_METHODS, *KEY))
    same = " ".join(verdict(results(), ALL_METHODS, *KEY))
    assert "restricted delay, later (+0." in ucb_late
    assert "restricted delay, earlier (-0." in ucb_early
    assert "restricted delay, no clear difference" in same
    assert "All 11 methods kept" in same


def test_keeps_level_allows_for_the_spread_only():
    assert keeps_level(results(CRC=(0.2, 0.8)), "CRC", *KEY)
    assert not keeps_level(results(CRC=(0.21, 0.8)), "CRC", *KEY)
    one = results(CRC=(0.21, 0.8)).query("split == 0")
    assert not keeps_level(one, "CRC", *KEY)


def test_differences_are_paired():
    gap = difference(results(CRC=(0.15, 0.7)), "CRC", "UCB", "restricted_delay", *KEY)
    assert gap.mean == pytest.approx(-0.1, abs=0.01)
    assert gap.clear
    undefined = difference(results(), "CRC", "UCB", "delay", *KEY)
    assert not undefined.clear
    assert "no clear difference" in undefined.phrase("later", "earlier")


def test_tables_say_when_nothing_was_detected():
    table = results_table(results(), ALL_METHODS, *KEY)
    assert list(table["delay"]) == ["none detected"] * len(ALL_METHODS)
    assert table["false alarms"].str.contains(r"\[").all()
    assert set(band(results(), "far").columns) >= {"mean", "q10", "q90"}
    assert headline_metrics(results(), 0.2)["d.s.CRC.far"] == pytest.approx(0.15, abs=0.01)


def test_an_unknown_level_names_those_that_exist():
    with pytest.raises(ValueError, match=r"level 0\.3; there are"):
        results_table(results(), ALL_METHODS, "d", "s", 0.3)
