"""P-values and confidence bounds for a false alarm rate, from c alarms in n safe sequences.

Every function here is about one binomial experiment: ``n`` exchangeable sequences, each of which
alarms (or is missed) independently with an unknown probability R, and ``c`` of them did. A p-value
for the hypothesis ``R > level`` that is at most ``delta`` lets us claim ``R <= level`` with
probability ``1 - delta``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

FloatArray = NDArray[np.float64]


def check_level(level: float, name: str = "level") -> float:
    """Return ``level`` as a float, or raise if it is not strictly between 0 and 1.

    Parameters
    ----------
    level : float
        A rate or a probability.
    name : str
        How the error message calls it.

    Raises
    ------
    ValueError
        If ``level`` is NaN, at most 0 or at least 1.
    """
    value = float(level)
    if not 0.0 < value < 1.0:
        raise ValueError(
            f"{name} is {level!r}, expected a number strictly between 0 and 1. "
            "At 0 nothing could ever alarm and at 1 everything may: neither needs calibration."
        )
    return value


def _check_counts(count: ArrayLike, n: int) -> NDArray[np.int64]:
    counts = np.asarray(count)
    if not np.issubdtype(counts.dtype, np.integer):
        raise TypeError(f"count has dtype {counts.dtype}, expected whole numbers of sequences.")
    if n < 1:
        raise ValueError(f"n is {n}, expected at least one sequence.")
    if counts.size and (counts.min() < 0 or counts.max() > n):
        raise ValueError(f"count must lie in 0..{n}, found {counts.min()}..{counts.max()}.")
    return counts.astype(np.int64)


def binomial_p_value(count: ArrayLike, n: int, level: float) -> FloatArray:
    r"""Exact p-value of ``R > level``: :math:`P(\mathrm{Bin}(n, \epsilon) \le c)`.

    Parameters
    ----------
    count : array_like of int
        Sequences c, out of ``n``, on which the event happened.
    n : int
        Sequences in all, at least 1.
    level : float
        Level epsilon of the risk, in (0, 1).

    Returns
    -------
    ndarray
        P-values in [0, 1], the shape of ``count``; non-decreasing in ``count``.

    References
    ----------
    Clopper and Pearson (1934); Bates et al. (2021), "Distribution-free, risk-controlling
    prediction sets", section 3.1.
    """
    counts = _check_counts(count, n)
    return np.asarray(stats.binom.cdf(counts, n, check_level(level)), dtype=np.float64)


def hoeffding_bentkus_p_value(count: ArrayLike, n: int, level: float) -> FloatArray:
    r"""Hoeffding-Bentkus p-value of ``R > level``.

    .. math:: \min\bigl(e^{-n\,h_1(\min(\hat r, \epsilon),\, \epsilon)},\;
              e\,P(\mathrm{Bin}(n, \epsilon) \le \lceil n \hat r \rceil)\bigr),

    with :math:`\hat r = c / n` and :math:`h_1` the binary relative entropy. It holds for any loss
    in [0, 1]; for the 0/1 loss of an alarm the exact binomial p-value is never larger.

    Parameters
    ----------
    count : array_like of int
        Sequences c, out of ``n``, on which the event happened. Taken as a whole number, because
        ``ceil(n * (c / n))`` in floating point can land one above c.
    n : int
        Sequences in all, at least 1.
    level : float
        Level epsilon of the risk, in (0, 1).

    Returns
    -------
    ndarray
        P-values in [0, 1], the shape of ``count``; non-decreasing in ``count``.

    References
    ----------
    arXiv 2607.02510, section 3.2 (UCB); Bates et al. (2021), proposition 3.
    """
    counts = _check_counts(count, n)
    return _hoeffding_bentkus(counts / n, counts, n, level)


def mean_loss_p_value(mean: ArrayLike, n: int, level: float) -> FloatArray:
    """Hoeffding-Bentkus p-value of ``R > level`` from the mean of n losses in [0, 1].

    Parameters
    ----------
    mean : array_like of float
        Mean loss, in [0, 1]; the losses themselves need not be 0 or 1.
    n : int
        Losses, at least 1.
    level : float
        Level epsilon of the expected loss R, in (0, 1).

    Returns
    -------
    ndarray
        P-values in [0, 1], the shape of ``mean``; non-decreasing in it.
    """
    means = np.asarray(mean, dtype=np.float64)
    if n < 1 or not ((means >= 0) & (means <= 1)).all():
        raise ValueError(f"n is {n}, with mean losses from {means.min():g} to {means.max():g}, "
                         "expected n of at least 1 and losses between 0 and 1.")
    return _hoeffding_bentkus(means, np.ceil(n * means - 1e-9), n, level)


def _hoeffding_bentkus(
    rate: FloatArray, count: NDArray[Any], n: int, level: float
) -> FloatArray:
    epsilon = check_level(level)
    hoeffding = np.exp(-n * _relative_entropy(np.minimum(rate, epsilon), epsilon))
    bentkus = np.e * stats.binom.cdf(count, n, epsilon)
    return np.asarray(np.minimum(np.minimum(hoeffding, bentkus), 1.0), dtype=np.float64)


def _relative_entropy(rate: FloatArray, level: float) -> FloatArray:
    """h1(a, b) = a log(a/b) + (1-a) log((1-a)/(1-b)), with 0 log 0 = 0."""
    first = np.where(rate > 0, rate * np.log(np.where(rate > 0, rate, 1.0) / level), 0.0)
    rest = np.where(rate < 1, 1.0 - rate, 1.0)
    second = np.where(rate < 1, rest * np.log(rest / (1.0 - level)), 0.0)
    return first + second


def clopper_pearson_upper(count: int, n: int, delta: float) -> float:
    """One-sided exact upper confidence bound for R.

    Parameters
    ----------
    count, n : int
        Events c out of n sequences.
    delta : float
        Error probability, in (0, 1): the bound lies below R with probability at most ``delta``.

    Returns
    -------
    float
        Upper bound in (0, 1]; 1 if every sequence had the event.
    """
    counts = _check_counts(count, n)
    confidence = 1.0 - check_level(delta, "delta")
    if int(counts) == n:
        return 1.0
    return float(stats.beta.ppf(confidence, int(counts) + 1, n - int(counts)))


def hoeffding_bentkus_upper(count: int, n: int, delta: float) -> float:
    """One-sided Hoeffding-Bentkus upper confidence bound for R: the level where p = delta.

    Parameters and returns as in :func:`clopper_pearson_upper`.
    """
    _check_counts(count, n)
    check_level(delta, "delta")
    if count == n:
        return 1.0

    def excess(level: float) -> float:
        return float(hoeffding_bentkus_p_value(count, n, level)) - delta

    return float(optimize.brentq(excess, max(count / n, 1e-12), 1.0 - 1e-12, xtol=1e-15))
