"""Published verifier scores (MATH, 5,000 solutions): known rows, and the room above them.

Needs ``evaluator/math.csv.gz`` from the open tier: a cache named by MONITORLAB_CACHE, or a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitorlab.online.comparison import ALL_METHODS, Split, compare_methods, random_splits
from monitorlab.online.score_files import load_evaluator
from monitorlab.online.trajectories import Trajectories

# FAR, power, delay, restricted delay; ten splits, delays as shares of tokens.
KNOWN_ROWS = {
    (0.1, "CRC"): (0.090, 0.219, 0.757, 0.947),
    (0.1, "exact binomial"): (0.077, 0.194, 0.765, 0.954),
    (0.1, "e-valuator, PAC"): (0.067, 0.219, 0.544, 0.901),
    (0.1, "e-valuator, anytime"): (0.023, 0.090, 0.550, 0.960),
    (0.2, "CRC"): (0.196, 0.406, 0.687, 0.873),
    (0.2, "exact binomial"): (0.175, 0.376, 0.708, 0.890),
    (0.2, "e-valuator, PAC"): (0.162, 0.431, 0.461, 0.766),
    (0.1, "running mean + CRC"): (0.098, 0.281, 0.468, 0.851),
}
WANTED = {method for _, method in KNOWN_ROWS} | {"learned + CRC"}
MEASURES = ["far", "power", "delay_tokens", "restricted_delay_tokens"]


@pytest.fixture(scope="module")
def math(get: Callable[[str], Path]) -> Trajectories:
    data = load_evaluator(get("evaluator/math.csv.gz"), "evaluator_math")
    return data.take(np.argsort(data.ids))


def known_splits(n: int) -> Iterator[Split]:
    """The splits behind the known rows: seeds 0 to 9, and e-valuator's own half (seed 42) first."""
    for seed in range(10):
        chosen = np.sort(np.random.default_rng(seed).choice(n, n // 5, replace=False))
        first = np.random.default_rng(42).choice(chosen, len(chosen) // 2, replace=False)
        rest = np.setdiff1d(chosen, first)
        yield np.concatenate([first, rest]), np.setdiff1d(np.arange(n), chosen)


@pytest.fixture(scope="module")
def table(math: Trajectories) -> pd.DataFrame:
    methods = [method for method in ALL_METHODS if method.label in WANTED]
    assert len(methods) == len(WANTED)
    frame = compare_methods(math, methods, known_splits(len(math)), levels=(0.1, 0.2))
    return frame.groupby(["level", "method"])[[*MEASURES, "delay", "restricted_delay"]].mean()


@pytest.fixture(scope="module")
def many(math: Trajectories) -> pd.DataFrame:
    """The learned statistic on forty splits that nobody has looked at."""
    learned = [method for method in ALL_METHODS if method.label == "learned + CRC"]
    splits = random_splits(len(math), 40, 0.2, seed=1)
    return compare_methods(math, learned, splits, levels=(0.1, 0.2))


@pytest.mark.parametrize("row", KNOWN_ROWS, ids=str)
def test_known_rows(table, row):
    np.testing.assert_allclose(table.loc[row, MEASURES], KNOWN_ROWS[row], atol=1e-3)


@pytest.mark.parametrize(("level", "goal"), [(0.1, 0.85), (0.2, 0.70)])
def test_the_learned_statistic_keeps_the_level_and_alarms_earlier(table, many, level, goal):
    row = table.loc[(level, "learned + CRC")]
    assert row["far"] <= level + 0.005
    assert row["restricted_delay"] <= goal
    assert row["restricted_delay_tokens"] <= goal
    # Not an accident of ten splits: forty others, the same way.
    others = many[many["level"] == level]
    assert len(others) == 40
    assert others["far"].mean() <= level + 0.005
    assert others["restricted_delay_tokens"].mean() <= goal


def test_shuffled_labels_leave_nothing_to_learn(math):
    """If the learned statistic could see the future or the labels, this would show it."""
    labels = np.random.default_rng(0).permutation(math.labels)
    blind = replace(math, dataset="blind", labels=labels)
    learned = [method for method in ALL_METHODS if method.label == "learned + CRC"]
    splits = random_splits(len(math), 20, 0.2, seed=1)
    frame = compare_methods(blind, learned, splits, levels=(0.1,))
    assert frame["power"].mean() == pytest.approx(frame["far"].mean(), abs=0.015)


CHOSEN = {f"chosen for {objective} + CRC" for objective in ("power", "half", "delay")}


def against_the_threshold(data: Trajectories, splits: Iterator[Split]) -> pd.DataFrame:
    """Means over splits minus those of the paper's threshold, ties drawn."""
    methods = [one for one in ALL_METHODS if one.label in {"CRC, ties drawn", *CHOSEN}]
    frame = compare_methods(data, methods, splits, levels=(0.1, 0.2))
    means = frame.groupby(["method", "level"])[["power", "by_half", "restricted_delay"]].mean()
    return means.loc[sorted(CHOSEN)] - means.loc["CRC, ties drawn"]


@pytest.mark.long
@pytest.mark.parametrize("name", ["math", "gsm8k"])
def test_from_150_sequences_the_chosen_statistic_loses_no_power(get, name):
    data = load_evaluator(get(f"evaluator/{name}.csv.gz"), name)
    gain = against_the_threshold(data, random_splits(len(data), 30, 150 / len(data), seed=2026))
    assert gain["power"].min() >= -0.01


def test_with_more_sequences_it_gains_in_its_objective(math, get):
    """On a judge's coarse scores there is nothing to gain, and nothing may be lost beyond noise."""
    gain = against_the_threshold(math, random_splits(len(math), 10, 0.2, seed=3))
    assert gain.loc["chosen for power + CRC", "power"].min() > 0.08
    assert gain.loc["chosen for half + CRC", "by_half"].min() > 0.15
    assert gain.loc["chosen for delay + CRC", "restricted_delay"].max() < -0.12
    judged = load_evaluator(get("evaluator/gsm8k.csv.gz"), "gsm8k")
    gain = against_the_threshold(judged, random_splits(len(judged), 10, 0.2, seed=3))
    assert gain["power"].min() > -0.01 and gain["restricted_delay"].max() < 0.01
