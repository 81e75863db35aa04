"""Seeded Monte Carlo: signals of equal quality are rarely called clearly different.

Two signals score the same sequences, equally well and independently of each other, so that every
clear difference is a false one. The nominal rate is 5 %. Splits share their sequences, so the share
of splits that agree on a sign says nothing about other sequences: the same trials show it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monitorlab.chapters.online import Comparison
from monitorlab.online.comparison import ALL_METHODS, compare_resampled, random_splits
from monitorlab.online.trajectories import Trajectories

TRIALS = 60
CHANCE = 1e-3
LEVEL = 0.3
METHODS = [one for one in ALL_METHODS if one.label in ("CRC", "running mean + CRC")]


def two_signals(n: int, seed: int, shifts: tuple[float, float]) -> list[Trajectories]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.int8)
    ids = [f"t{i}" for i in range(n)]
    return [
        Trajectories.from_padded("d", name, ids, rng.normal(size=(n, 3)) + shift * labels[:, None],
                                 np.ones((n, 3)), labels)
        for name, shift in zip("ab", shifts, strict=True)
    ]


def trial(
    seed: int, shifts: tuple[float, float] = (0.8, 0.8), n: int = 200
) -> list[tuple[bool, bool]]:
    """For each method, whether the gap in power is called clear, and whether all splits agree."""
    splits = list(random_splits(n, 4, 0.3, seed))
    compared = [compare_resampled(data, METHODS, splits, level=LEVEL, levels=(), draws=100)
                for data in two_signals(n, seed, shifts)]
    results, drawn = map(pd.concat, zip(*compared, strict=True))
    sides = [frame.assign(method=frame["method"] + frame["signal"], signal="both")
             for frame in (results, drawn)]  # both signals as methods, to be compared
    found = []
    for method in (method.label for method in METHODS):
        gap = Comparison(*sides, "d", "both", LEVEL).difference(f"{method}a", f"{method}b", "power")
        power = results[results["method"] == method].pivot(
            index="split", columns="signal", values="power")
        signs = np.sign(power["a"] - power["b"])
        found.append((gap.clear, bool((signs == np.sign(gap.mean)).all())))
    return found


@pytest.mark.long
def test_equal_signals_are_rarely_clearly_different():
    """Six seconds: fewer trials could not tell 5 % from what agreement over splits claims."""
    found = np.array([trial(seed) for seed in range(TRIALS)])  # (trials, methods, 2)
    allowed = stats.binom.isf(CHANCE, TRIALS, 0.06)
    clear, agreeing = found.sum(axis=0).T
    assert (clear <= allowed).all(), clear
    assert (agreeing > allowed).all(), agreeing


def test_a_real_difference_is_seen():
    found = np.array([trial(seed, (2.0, 0.3)) for seed in range(20)])
    assert (found[:, :, 0].sum(axis=0) >= 18).all()
