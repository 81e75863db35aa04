"""Sequences that hang together: what a promise about single ones is worth, and its mend."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from monitorlab.evaluation.operating_points import choose_rule
from monitorlab.evaluation.panel import PAIR, SCENARIO

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
