"""Tables and sentences follow the numbers, whichever way they point."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters.online import FEWEST, Comparison, _over_splits
from monitorlab.online.comparison import (
    ALL_METHODS,
    PAPER_METHODS,
    TRIVIAL_METHODS,
    compare_resampled,
    random_splits,
)
from monitorlab.online.trajectories import Trajectories

KEY = ("d", "s", 0.2)
COLUMNS = ["dataset", "signal", "method", "level", "split", "far", "power", "delay",
           "restricted_delay"]
TRIVIAL = [method.label for method in TRIVIAL_METHODS]


def rows(wiggle: float, n: int, cells: dict[str, tuple[float, ...]]) -> pd.DataFrame:
    """``n`` rows of every method: FAR, restricted delay and power as given, with some noise."""
    rng = np.random.default_rng(n)
    found = []
    for method in ALL_METHODS:
        name = re.sub(r"\W+", "_", method.label.removesuffix(", PAC"))
        far, delay, power = (*cells.get(name, (0.15, 0.8)), 0.5)[:3]
        for split in range(n):
            noise = rng.uniform(-wiggle, wiggle, 3)
            found.append(("d", "s", method.label, 0.2, split, far + noise[0], power + noise[1],
                          np.nan, delay + noise[2]))
    return pd.DataFrame(found, columns=COLUMNS)


def results(
    safe: int = 90, unsafe: int = 60, risk: str = "false_alarm", **cells: tuple[float, ...]
) -> pd.DataFrame:
    """Ten splits; (FAR, restricted delay[, power]) by method, else 0.15, 0.8 and 0.5."""
    return rows(0.004, 10, cells).assign(
        safe=safe, unsafe=unsafe, risk=risk, n=18, n_needed=4, state="calibrated",
        by_half=0.2, delay_tokens=np.nan, restricted_delay_tokens=0.25)


def drawn(wiggle: float = 0.01, **cells: tuple[float, ...]) -> pd.DataFrame:
    """Two hundred draws of the sequences, around the same means."""
    return rows(wiggle, 200, cells).rename(columns={"split": "draw"})


def of(frame: pd.DataFrame, draws: pd.DataFrame | None = None) -> Comparison:
    return Comparison(frame, drawn() if draws is None else draws, *KEY)


def words(wiggle: float = 0.01, **cells: tuple[float, ...]) -> str:
    return " ".join(of(results(**cells), drawn(wiggle, **cells)).verdict(ALL_METHODS))


def test_verdict_names_who_broke_the_level_and_who_is_earliest():
    text = words(UCB=(0.3, 0.1), CRC=(0.15, 0.6))
    assert "above it by more than the spread of the splits: UCB" in text
    assert "CRC alarms earliest" in text  # UCB would be earlier, but did not keep the level
    assert text.startswith("90 safe and 60 unsafe sequences.")


def test_verdict_changes_direction_with_the_numbers():
    assert "restricted delay, later (+0." in words(UCB=(0.15, 0.9))
    assert "restricted delay, earlier (-0." in words(UCB=(0.15, 0.7))
    assert "restricted delay, no clear difference" in words()
    assert "restricted delay, no clear difference" in words(0.2, UCB=(0.15, 0.7))
    assert "All 17 methods that raised alarms kept" in words()


def test_no_ranking_by_delay_alone_while_power_falls():
    text = words(UCB=(0.15, 0.6, 0.3), CRC=(0.15, 0.7, 0.6))
    assert "UCB alarms earliest, with a restricted delay of 0.6" in text
    assert "but detects less than CRC: power, lower (-0.3" in text
    better = words(UCB=(0.15, 0.6, 0.7), CRC=(0.15, 0.7, 0.6))
    assert "detects less" not in better and "and a power of 0.70" in better


def test_the_best_trivial_baseline_has_to_be_beaten():
    """In power or in delay, clearly, and with no clear loss in the other."""
    text = words(first_score_only=(0.15, 0.5, 0.55), learned_CRC=(0.15, 0.5, 0.65))
    assert ("Clearly better than the best trivial baseline, first score only, and clearly worse in "
            "neither: learned + CRC. Of learned + CRC: power, higher (+0.") in text
    assert "restricted delay, no clear difference (" in text
    # a later alarm for more power is another trade and no gain
    trade = words(first_score_only=(0.15, 0.5, 0.55), learned_CRC=(0.15, 0.6, 0.65))
    assert "No method is clearly better than the best trivial baseline, first score only" in trade
    assert "learned + CRC comes nearest: power, higher (+0." in trade
    # the best may be one baseline for power and another for delay
    two = words(first_score_only=(0.15, 0.5, 0.4), step_number_only=(0.15, 0.9, 0.6),
                learned_CRC=(0.15, 0.7, 0.7))
    assert "step number only for power and first score only for delay" in two
    assert "first score only alarms earliest" in two, "a trivial one may be the best, and is told"
    none = of(results()).verdict(ALL_METHODS)[-1]
    assert none.startswith("No method is clearly better")
    only = [method for method in ALL_METHODS if method.label in TRIVIAL]
    assert of(results()).verdict(only)[-1] == "Only trivial baselines kept the level."


def test_scores_that_point_the_wrong_way_are_called_by_name():
    text = words(CRC=(0.18, 0.99, 0.01))
    assert "Power lies below the level (CRC: power 0.0" in text
    assert "does a high score mean safe here?" in text
    assert "does a high score" not in words(CRC=(0.05, 0.9, 0.12))  # below the level, above its FAR
    assert "does a high score" not in words(0.3, CRC=(0.18, 0.9, 0.15))  # chance would do it


def silent(frame: pd.DataFrame, *labels: str) -> pd.DataFrame:
    rest = frame["method"].isin(labels) if labels else frame["method"].notna()
    return frame.assign(far=frame["far"].mask(rest, 0.0), power=frame["power"].mask(rest, 0.0),
                        restricted_delay=frame["restricted_delay"].mask(rest, 1.0))


def test_methods_that_never_alarm_are_neither_praised_nor_ranked():
    frame = silent(results()).assign(n=3)
    text = " ".join(of(frame).verdict(ALL_METHODS))
    assert "No method raised an alarm: a threshold for level 0.2 needs 4 safe sequences" in text
    assert "there were 3 to place it" in text
    assert "kept" not in text and "earliest" not in text
    some = " ".join(of(silent(results(), "UCB", "CRC")).verdict(ALL_METHODS))
    assert "All 15 methods that raised alarms kept" in some
    assert "No alarm at all from CRC, UCB: " in some and "nothing passed it" in some
    assert "(UCB)" not in some and "CRC alarms earliest" not in some.replace("+ CRC", "")


@pytest.mark.parametrize(("safe", "unsafe"), [(300, 1), (1, 300), (FEWEST - 1, FEWEST)])
def test_from_few_sequences_no_verdict(safe, unsafe):
    text = of(results(safe, unsafe)).verdict(ALL_METHODS)
    assert text == [f"{safe} safe and {unsafe} unsafe sequences.",
                    "Too few for a verdict: 10 of each class are needed."]
    gap = of(results(300, 1, CRC=(0.15, 0.1)), drawn(CRC=(0.15, 0.1))).difference(
        "CRC", "UCB", "power")
    assert not gap.clear


def test_an_undefined_rate_breaks_no_promise():
    frame = results(CRC=(np.nan, 0.8))
    assert of(frame)._keeps_level("CRC")
    some = results(CRC=(0.5, 0.8))
    some.loc[(some["method"] == "CRC") & (some["split"] < 9), "far"] = np.nan
    assert not of(some)._keeps_level("CRC")
    some.loc[some["method"] == "CRC", "far"] = [np.nan] * 9 + [0.1]
    assert of(some)._keeps_level("CRC")
    assert "d.s.CRC.far" not in Comparison.headlines(frame, 0.2)


def test_the_level_kept_is_that_of_the_controlled_risk():
    missing = results(risk="missed_detection", CRC=(0.9, 0.2, 0.85), UCB=(0.01, 0.9, 0.7))
    assert of(missing)._keeps_level("CRC")  # misses 0.15
    assert not of(missing)._keeps_level("UCB")  # misses 0.3
    text = " ".join(of(missing).verdict(ALL_METHODS))
    assert "kept missed detections to 0.2" in text


def weak(n: int, seed: int, signal: float) -> Trajectories:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.int8)
    scores = rng.normal(size=(n, 4)) + signal * labels[:, None]
    return Trajectories.from_padded("d", "s", [f"t{i}" for i in range(n)], scores,
                                    np.ones((n, 4)), labels)


def test_the_words_on_whole_comparisons():
    """From scores to sentences: constant ones, ten sequences, and the wrong way round."""
    def said(data: Trajectories) -> str:
        results, drawn = compare_resampled(
            data, PAPER_METHODS, random_splits(len(data), 4, 0.2, 0), level=0.2, levels=(0.2,))
        return " ".join(Comparison(results, drawn, *KEY).verdict(PAPER_METHODS))

    data = weak(200, 0, 1.0)
    assert "No method raised an alarm" in said(replace(data, flat_scores=0.0 * data.flat_scores))
    assert "No method raised an alarm: a threshold for level 0.2 needs 4 or 11" in said(
        data.take(np.arange(10)))
    wrong = said(replace(data, flat_scores=-data.flat_scores))
    assert "does a high score mean safe here?" in wrong
    assert "does a high score" not in said(data)


def test_keeps_level_allows_for_the_spread_only():
    assert of(results(CRC=(0.2, 0.8)))._keeps_level("CRC")
    assert not of(results(CRC=(0.21, 0.8)))._keeps_level("CRC")
    one = results(CRC=(0.21, 0.8)).query("split == 0")
    assert not of(one)._keeps_level("CRC")


def test_differences_are_paired():
    cells = {"CRC": (0.15, 0.7)}
    gap = of(results(**cells), drawn(**cells)).difference("CRC", "UCB", "restricted_delay")
    assert gap.mean == pytest.approx(-0.1, abs=0.01)
    assert gap.clear and gap.low < -0.1 < gap.high
    undefined = of(results()).difference("CRC", "UCB", "delay")
    assert not undefined.clear
    assert undefined.phrase("later", "earlier") == "undefined"
    # Noise that both share cancels.
    shared = drawn(0.0, **cells)
    noise = np.random.default_rng(0).normal(size=200)
    shared["restricted_delay"] += np.tile(noise, len(ALL_METHODS))
    paired = of(results(**cells), shared).difference("CRC", "UCB", "restricted_delay")
    assert paired.clear and paired.high - paired.low < 1e-9


def test_intervals_come_from_the_draws_and_means_from_the_splits():
    wide = np.tile(np.linspace(0, 1, 200), len(ALL_METHODS))
    means, resamples = results(), drawn().assign(after_onset=wide, by_half=0.1)
    means = means.assign(after_onset=0.3, by_half=0.1)
    table = of(means, resamples).intervals(TRIVIAL_METHODS)
    assert list(table["method"]) == [method.label for method in TRIVIAL_METHODS]
    assert set(table["at or after onset"]) == {"0.30\u00a0[0.03,\u00a00.97]"}


def test_tables_say_when_nothing_was_detected():
    table = of(results()).table(ALL_METHODS)
    assert list(table["delay"]) == ["none detected"] * len(ALL_METHODS)
    assert table["false alarms"].str.contains(r"\[").all()
    assert set(table["restricted delay"]) == {"0.80\u00a0/\u00a00.25"}, "steps, then tokens"
    assert "at or after onset" not in table
    known = of(results().assign(after_onset=0.3)).table(ALL_METHODS)
    assert set(known["at or after onset"]) == {"0.30\u00a0[0.30,\u00a00.30]"}
    assert set(_over_splits(results(), "far").columns) >= {"mean", "q10", "q90"}
    assert Comparison.headlines(results(), 0.2)["d.s.CRC.far"] == pytest.approx(0.15, abs=0.01)


def test_an_unknown_level_names_those_that_exist():
    with pytest.raises(ValueError, match=r"level 0\.3; there are"):
        Comparison(results(), drawn(), "d", "s", 0.3)
