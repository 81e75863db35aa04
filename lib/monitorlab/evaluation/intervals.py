"""Intervals for one proportion and for the difference of two paired ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint

FloatArray = NDArray[np.float64]


def ratio(count: ArrayLike, n: ArrayLike) -> FloatArray:
    """Quotient of two arrays of the same shape, NaN where `n` is 0."""
    total = np.asarray(n, float)
    return np.where(total > 0, np.asarray(count, float) / np.where(total > 0, total, 1), np.nan)


def wilson(count: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """Wilson score interval of a proportion, NaN where `n` is 0.

    Parameters
    ----------
    count, n : array_like of float
        Events, out of how many; broadcast against each other. Need not be whole.
    level : float
        Confidence, in (0, 1).

    Returns
    -------
    low, high : ndarray of float
        In [0, 1].
    """
    return _interval(count, n, level, "wilson")


def clopper_pearson(
    count: ArrayLike, n: ArrayLike, level: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Exact interval of a proportion, never too narrow. Parameters and returns as in `wilson`."""
    return _interval(count, n, level, "beta")


def _interval(
    count: ArrayLike, n: ArrayLike, level: float, method: str
) -> tuple[FloatArray, FloatArray]:
    events, total = np.broadcast_arrays(np.asarray(count, float), np.asarray(n, float))
    empty = total <= 0
    low, high = proportion_confint(events, np.where(empty, 1, total), 1 - level, method)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def newcombe_paired(
    both: ArrayLike, first: ArrayLike, second: ArrayLike, neither: ArrayLike, level: float = 0.95
) -> tuple[FloatArray, FloatArray, FloatArray]:
    r"""Difference of two paired proportions with Newcombe's interval from Wilson limits.

    With Wilson limits :math:`l_i, u_i` of the two rates :math:`p_i` and their correlation
    :math:`\hat\phi`, the lower limit is :math:`p_1 - p_2 - \delta` with

    .. math:: \delta^2 = (p_1 - l_1)^2 - 2 \hat\phi (p_1 - l_1)(u_2 - p_2) + (u_2 - p_2)^2,

    and the upper one the same with the other limits.

    Parameters
    ----------
    both, first, second, neither : array_like of int
        Samples on which the event happened to both, to the first only, to the second only, to
        neither; broadcast against each other.
    level : float
        Confidence, in (0, 1).

    Returns
    -------
    difference, low, high : ndarray of float
        Rate of the first minus rate of the second, in [-1, 1]; NaN where there is no sample.

    References
    ----------
    R. G. Newcombe, *Improved confidence intervals for the difference between binomial proportions
    based on paired data*, Statistics in Medicine 17 (1998), 2635-2650, method 10.
    """
    a, b, c, d = (np.asarray(x, float) for x in np.broadcast_arrays(both, first, second, neither))
    n = a + b + c + d
    p1, p2 = ratio(a + b, n), ratio(a + c, n)
    (l1, u1), (l2, u2) = wilson(a + b, n, level), wilson(a + c, n, level)
    phi = _phi(a, b, c, d)
    below = np.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    above = np.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    # By the counts, so that it is exactly 0 where the two rates are equal.
    difference = ratio(b - c, n)
    return difference, difference - below, difference + above


def _phi(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray) -> FloatArray:
    """Correlation of the two events, with Newcombe's continuity correction; 0 if undefined."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    product = a * d - b * c
    corrected = np.where(product > 0, np.maximum(product - (a + b + c + d) / 2, 0), product)
    return np.where(margins > 0, corrected / np.sqrt(np.where(margins > 0, margins, 1)), 0.0)
