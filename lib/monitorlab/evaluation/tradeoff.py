"""Monitors in the plane of miss rate and false alarm rate: the front, and the common line."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import linregress, pearsonr

FEWEST = 4  # Fisher's z has the standard error 1 / sqrt(n - 3)


@dataclass(frozen=True)
class Line:
    """False alarm rate as a straight line of the miss rate, over monitors.

    Attributes
    ----------
    n : int
        Monitors with both rates.
    slope, intercept : float
        Ordinary least squares, FAR = slope * MR + intercept.
    r, r_low, r_high : float
        Pearson correlation of MR and FAR with its interval by Fisher's z.
    p : float
        Two-sided p-value of no correlation.
    """

    n: int
    slope: float
    intercept: float
    r: float
    r_low: float
    r_high: float
    p: float


def pareto_front(rates: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the monitors that no other one beats on both rates.

    Parameters
    ----------
    rates : DataFrame
        With columns ``mr`` and ``far``, in [0, 1], lower is better.

    Returns
    -------
    (rows,) array of bool
        False where another row is at most as high in both rates and lower in one; equal rows stand
        together. False where a rate is NaN.
    """
    points = rates[["mr", "far"]].to_numpy(float)
    other, own = points[None], points[:, None]
    with np.errstate(invalid="ignore"):
        beaten = ((other <= own).all(axis=2) & (other < own).any(axis=2)).any(axis=1)
    return ~beaten & np.isfinite(points).all(axis=1)


def fit_line(rates: pd.DataFrame, level: float = 0.95) -> Line:
    """Fit the trade-off between the two rates.

    Parameters
    ----------
    rates : DataFrame
        One row per monitor, with columns ``mr`` and ``far``; rows with a NaN are left out.
    level : float
        Confidence of the interval of r, in (0, 1).

    Returns
    -------
    Line
        NaN throughout with fewer than `FEWEST` monitors, or where all have the same rate.
    """
    points = rates[["mr", "far"]].dropna().to_numpy(float)
    mr, far = points.T
    if len(points) < FEWEST or np.ptp(mr) == 0 or np.ptp(far) == 0:
        return Line(len(points), *[float("nan")] * 6)
    line = linregress(mr, far)
    correlation = pearsonr(mr, far)
    low, high = correlation.confidence_interval(level)
    values = (line.slope, line.intercept, correlation.statistic, low, high, correlation.pvalue)
    return Line(len(points), *(float(value) for value in values))
