"""Sequences of a group: what a promise about all, or about single ones, is worth to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from monitorlab.evaluation.operating_points import choose_rule
from monitorlab.evaluation.rates import PAIR, SCENARIO
from monitorlab.online.comparison import random_splits
from monitorlab.online.metrics import peaks
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import calibrate

RULES = {"exact binomial, by sequence": ("binomial", PAIR),
         "CRC, by sequence": ("crc", PAIR),
         "Hoeffding-Bentkus, by prompt": ("hoeffding_bentkus", SCENARIO),
         "CRC, by prompt": ("crc", SCENARIO)}


def promises_by_group(
    prompts: int, answers: int, alike: float, level: float, delta: float, plays: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Calibrate on answers to few prompts again and again, and compare with what was promised.

    A peak is normal. The share `alike` of its variance belongs to the prompt, so the answers to one
    prompt resemble each other, and an answer to a *new* prompt is still normal: the true false
    alarm rate of a threshold is known.

    Parameters
    ----------
    prompts, answers : int
        Prompts, and safe answers to each.
    alike : float
        In [0, 1]; 0 makes all answers independent.
    level, delta : float
        Of the promises, in (0, 1).
    plays : int
        Calibrations.
    rng : Generator

    Returns
    -------
    DataFrame
        ``rule, promise, mean far, share above`` (of the calibrations whose true false alarm rate is
        above the level), ``silent`` (share that can promise nothing and never alarms).
    """
    units = np.repeat(np.arange(prompts), answers)
    risks: dict[str, list[float]] = {name: [] for name in RULES}
    for _ in range(plays):
        shared, own = rng.normal(size=prompts), rng.normal(size=len(units))
        peaks = np.sqrt(alike) * shared[units] + np.sqrt(1 - alike) * own
        # Ranks of peaks are all that counts; a verdict's score lies in [0, 1].
        scores = stats.norm.cdf(peaks)
        for name, (calibrator, unit) in RULES.items():
            value = choose_rule(scores, units, level, calibrator, delta, unit).value
            risks[name].append(max(1.0 - value, 0.0))
    found = {name: np.array(values) for name, values in risks.items()}
    return pd.DataFrame(
        {"rule": name, "promise": f"mean at most {level:g}" if RULES[name][0] == "crc" else
         f"above {level:g} in at most {delta:g}", "mean far": values.mean(),
         "share above": (values > level).mean(), "silent": (values == 0).mean()}
        for name, values in found.items())


def thresholds_by_group(
    data: Trajectories, groups: NDArray[Any], level: float, splits: int, seed: int
) -> pd.DataFrame:
    """Compare one threshold for all with one per group, on random halves.

    Parameters
    ----------
    data : Trajectories
        Labelled sequences.
    groups : ndarray, shape (n,)
        Group of each sequence.
    level : float
        Target false alarm rate.
    splits, seed : int
        Random halves; one calibrates (CRC), the other counts.

    Returns
    -------
    DataFrame
        ``group, threshold, far, power``: means over splits, a row per group and way.
    """
    found, rows = peaks(data), []
    for own, rest in random_splits(len(data), splits, 0.5, seed):
        safe = own[data.labels[own] == 0]
        for group in np.unique(groups):
            ours = rest[groups[rest] == group]
            for way, at in (("one for all", safe), ("its own", safe[groups[safe] == group])):
                alarm = found[ours] > calibrate(found[at], level).value
                unsafe = data.labels[ours] == 1
                rows.append((group, way, alarm[~unsafe].mean(), alarm[unsafe].mean()))
    table = pd.DataFrame(rows, columns=["group", "threshold", "far", "power"])
    return table.groupby(["group", "threshold"], sort=False).mean().reset_index()
