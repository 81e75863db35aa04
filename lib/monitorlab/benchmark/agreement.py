"""Agreement between annotators: Cohen's kappa, Krippendorff's alpha, Gwet's AC1, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import krippendorff
import numpy as np
import pandas as pd
from scipy.stats import binomtest

RESAMPLES = 2000
Statistic = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Agreement:
    """One coefficient with its interval.

    Attributes
    ----------
    value : float
        Estimate; 1 is perfect agreement.
    low, high : float
        95 % percentile bootstrap interval over samples; without any disagreement the lower end is
        the coefficient at the exact binomial bound.
    """

    value: float
    low: float
    high: float


def observed(first: np.ndarray, second: np.ndarray) -> float:
    """Share of items on which two annotators agree.

    Parameters
    ----------
    first, second : (n,) array of int
        Labels.

    Returns
    -------
    float
        In [0, 1].
    """
    return float(np.mean(first == second))


def kappa(first: np.ndarray, second: np.ndarray) -> float:
    """Cohen's kappa: agreement beyond what the annotators' own label rates give by chance.

    Parameters
    ----------
    first, second : (n,) array of int
        Labels, 0 or 1.

    Returns
    -------
    float
        At most 1; 1 where both use one and the same label throughout.
    """
    rates = np.mean(first), np.mean(second)
    chance = rates[0] * rates[1] + (1 - rates[0]) * (1 - rates[1])
    if chance == 1:
        return 1.0
    return float((observed(first, second) - chance) / (1 - chance))


def alpha(first: np.ndarray, second: np.ndarray) -> float:
    """Krippendorff's alpha for nominal labels.

    Parameters
    ----------
    first, second : (n,) array of int
        Labels.

    Returns
    -------
    float
        At most 1; 1 where both use one and the same label throughout.
    """
    if len(np.unique(np.concatenate([first, second]))) == 1:
        return 1.0
    ratings = np.array([first, second], dtype=float)
    return float(krippendorff.alpha(ratings, level_of_measurement="nominal"))


def ac1(first: np.ndarray, second: np.ndarray) -> float:
    r"""Gwet's AC1 for two annotators and two labels.

    Chance agreement is :math:`2 \pi (1 - \pi)` with :math:`\pi` the mean rate of label 1, so that a
    rare label does not push the coefficient down as it does kappa.

    Parameters
    ----------
    first, second : (n,) array of int
        Labels, 0 or 1.

    Returns
    -------
    float
        At most 1.

    References
    ----------
    K. L. Gwet, *Computing inter-rater reliability and its variance in the presence of high
    agreement*, British Journal of Mathematical and Statistical Psychology 61 (2008), 29-48.
    """
    rate = float(np.mean(np.concatenate([first, second])))
    chance = 2 * rate * (1 - rate)
    return (observed(first, second) - chance) / (1 - chance)


STATISTICS: dict[str, Statistic] = {
    "observed": observed, "Cohen's kappa": kappa, "Krippendorff's alpha": alpha, "Gwet's AC1": ac1,
}  # fmt: skip


def measure(
    statistic: Statistic, first: np.ndarray, second: np.ndarray, random: np.random.Generator
) -> Agreement:
    """Compute a coefficient with a bootstrap interval over samples.

    Parameters
    ----------
    statistic : callable
        One of `STATISTICS`.
    first, second : (n,) array of int
        Labels of the same samples.
    random : Generator
        For the resamples.

    Returns
    -------
    Agreement
        Estimate and 95 % interval.
    """
    n = len(first)
    if observed(first, second) == 1:
        # A bootstrap of perfect agreement is perfect agreement. The exact binomial bound says how
        # many disagreements would still be no surprise.
        unseen = math.ceil(n * (1 - binomtest(n, n).proportion_ci(0.95, "exact").low))
        doubtful = np.array(second)
        doubtful[np.linspace(0, n - 1, unseen).astype(int)] ^= 1
        return Agreement(statistic(first, second), statistic(first, doubtful), 1.0)
    # Only how often each pair of labels occurs matters, so resamples are multinomial counts.
    cells, counts = np.unique(np.stack([first, second]), axis=1, return_counts=True)
    draws = random.multinomial(len(first), counts / counts.sum(), RESAMPLES)
    cache: dict[bytes, float] = {}
    values = np.empty(RESAMPLES)
    for place, draw in enumerate(draws):
        key = draw.tobytes()
        if key not in cache:
            cache[key] = statistic(np.repeat(cells[0], draw), np.repeat(cells[1], draw))
        values[place] = cache[key]
    low, high = np.quantile(values, [0.025, 0.975])
    return Agreement(statistic(first, second), float(low), float(high))


def agreement_table(
    first: pd.Series, second: pd.Series, random: np.random.Generator
) -> pd.DataFrame:
    """All coefficients between two sets of labels.

    Parameters
    ----------
    first, second : Series of int
        Labels, 0 or 1, in the same order of samples.
    random : Generator
        For the intervals.

    Returns
    -------
    DataFrame
        Columns coefficient, value, low, high.
    """
    rows = []
    for name, statistic in STATISTICS.items():
        found = measure(statistic, first.to_numpy(int), second.to_numpy(int), random)
        rows.append((name, found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["coefficient", "value", "low", "high"])
