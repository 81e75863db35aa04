r"""Intervals for one proportion and for the difference of two paired ones.

Two kinds. *Wilson*, *Clopper-Pearson* and *Newcombe* take samples as independent. But the samples
of a scenario share their wording and their author, and a monitor that errs on one of them tends to
err on the others. `Clustered` therefore takes whole scenarios as the units, as a bootstrap that
draws scenarios does, and says by how much the samples count too often: the *design effect* is the
variance of the rate over scenarios, divided by the one that independent samples would have,

.. math:: D = \frac{\frac{G}{G-1} \sum_g (e_g - \hat p\,n_g)^2}{n\,\hat p\,(1 - \hat p)},

with :math:`e_g` events among the :math:`n_g` samples of scenario g, n in all, G scenarios. Its
interval is Wilson's (or Clopper and Pearson's) for n/D samples, with the quantile of Student's t
for G - 1 degrees of freedom, as Korn and Graubard have it for surveys. D counts one more scenario
of mean size, all wrong or all right with even odds, so that a rate of exactly 0 is as uncertain as
its number of scenarios; it is never below 1, and it is 1 where no scenario has two samples.

References
----------
E. L. Korn and B. I. Graubard, *Confidence intervals for proportions with small expected number of
positive counts estimated from survey data*, Survey Methodology 24 (1998), 193-201.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t
from statsmodels.stats.proportion import proportion_confint

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Limits = tuple[FloatArray, FloatArray]


def ratio(count: ArrayLike, n: ArrayLike) -> FloatArray:
    """Quotient of two arrays of the same shape, NaN where `n` is 0."""
    total = np.asarray(n, float)
    return np.where(total > 0, np.asarray(count, float) / np.where(total > 0, total, 1), np.nan)


def wilson(count: ArrayLike, n: ArrayLike, level: float = 0.95) -> Limits:
    """Wilson score interval of a proportion of independent samples, NaN where `n` is 0.

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


def clopper_pearson(count: ArrayLike, n: ArrayLike, level: float = 0.95) -> Limits:
    """Exact interval of a proportion of independent samples, then never too narrow.

    Parameters and returns as in `wilson`.
    """
    return _interval(count, n, level, "beta")


def _interval(count: ArrayLike, n: ArrayLike, level: float, method: str) -> Limits:
    events, total = np.broadcast_arrays(np.asarray(count, float), np.asarray(n, float))
    empty = total <= 0
    low, high = proportion_confint(events, np.where(empty, 1, total), 1 - level, method)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


@dataclass(frozen=True)
class Clustered:
    """Rates of several groups of samples, with what their spread over scenarios needs.

    Attributes
    ----------
    events, n : (groups,) array of float
        Events, out of how many samples.
    scenarios : (groups,) array of int
        Scenarios with a sample.
    squares, cross, sizes : (groups,) array of float
        Sums over scenarios of :math:`e_g^2`, :math:`e_g n_g` and :math:`n_g^2`.
    """

    events: FloatArray
    n: FloatArray
    scenarios: IntArray
    squares: FloatArray
    cross: FloatArray
    sizes: FloatArray

    @classmethod
    def of(
        cls, events: ArrayLike, n: ArrayLike, group: ArrayLike | None = None, groups: int = 1
    ) -> Clustered:
        """Sum up scenarios.

        Parameters
        ----------
        events, n : array_like of float, shape (scenarios,)
            Events and samples of each scenario (of each group).
        group : array_like of int, shape (scenarios,), optional
            The group of each, from 0; all belong to one by default.
        groups : int
            How many groups there are.
        """
        e, m = np.asarray(events, float), np.asarray(n, float)
        where = np.zeros(len(e), np.intp) if group is None else np.asarray(group, np.intp)

        def total(values: FloatArray) -> FloatArray:
            return np.bincount(where, values, groups).astype(np.float64)

        used = np.bincount(where, m > 0, groups).astype(np.int64)
        return cls(total(e), total(m), used, total(e * e), total(e * m), total(m * m))

    @classmethod
    def stack(cls, parts: Sequence[Clustered]) -> Clustered:
        """Put the groups of several into one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts])
                     for field in fields(cls)))

    @property
    def rate(self) -> FloatArray:
        """Events per sample, in [0, 1]; NaN without samples."""
        return ratio(self.events, self.n)

    @property
    def design_effect(self) -> FloatArray:
        """How many samples say as much as one independent sample, at least 1; NaN without any."""
        mean = ratio(self.n, self.scenarios)  # of one more scenario, half of it wrong
        n = self.n + mean
        p = ratio(self.events + mean / 2, n)
        spread = self.squares - 2 * p * self.cross + p * p * self.sizes
        spread = spread + mean**2 * ((1 - p) ** 2 + p * p) / 2
        return _effect(spread, n * p * (1 - p), self.n, self.sizes, self.scenarios)

    def wilson(self, level: float = 0.95) -> Limits:
        """Wilson's interval for as many samples as the scenarios are worth.

        Parameters
        ----------
        level : float
            Confidence, in (0, 1).

        Returns
        -------
        low, high : (groups,) array of float
            In [0, 1]; (0, 1) for a single scenario, NaN without samples.
        """
        return self._scaled(wilson, level)

    def clopper_pearson(self, level: float = 0.95) -> Limits:
        """Clopper and Pearson's interval for as many; parameters and returns as in `wilson`."""
        return self._scaled(clopper_pearson, level)

    def _scaled(self, method: Callable[[ArrayLike, ArrayLike, float], Limits], level: float
                ) -> Limits:
        worth = worth_of(self.design_effect, self.n, self.sizes, self.scenarios, level)
        low, high = method(self.events * worth, self.n * worth, level)
        told, nothing = self.n > 0, worth == 0  # one scenario says nothing about others
        low = np.where(told & (nothing | (self.events <= 0)), 0.0, low)
        return low, np.where(told & (nothing | (self.events >= self.n)), 1.0, high)


def worth_of(
    effect: ArrayLike, n: ArrayLike, sizes: ArrayLike, scenarios: ArrayLike, level: float
) -> FloatArray:
    """How many independent samples one sample is worth in an interval of this level.

    Parameters
    ----------
    effect : array_like of float
        Design effect.
    n, sizes, scenarios : array_like of float
        Samples, sum of the squared sizes of scenarios, number of scenarios.
    level : float
        Confidence, in (0, 1).

    Returns
    -------
    ndarray of float
        In [0, 1]; 1 where no scenario has two samples, 0 for a single scenario.
    """
    free = np.asarray(scenarios, float) - 1
    tail = (1 + level) / 2
    quantile = t.ppf(tail, np.maximum(free, 1))
    worth = np.where(free > 0, (norm.ppf(tail) / quantile) ** 2 / np.asarray(effect, float), 0.0)
    return np.asarray(np.where(_single(n, sizes), 1.0, worth), dtype=np.float64)


def _single(n: ArrayLike, sizes: ArrayLike) -> NDArray[np.bool_]:
    """Whether no scenario has two samples: then the samples are the units."""
    return np.asarray(sizes, float) <= np.asarray(n, float) * (1 + 1e-9)


def _effect(
    spread: FloatArray, independent: FloatArray, n: ArrayLike, sizes: ArrayLike,
    scenarios: ArrayLike,
) -> FloatArray:
    count = np.asarray(scenarios, float) + 1
    effect = np.maximum(1.0, ratio(spread * count / np.maximum(count - 1, 1), independent))
    return np.where(np.asarray(n) > 0, np.where(_single(n, sizes), 1.0, effect), np.nan)


def paired_worth(
    gaps: FloatArray, n: FloatArray, discordant: FloatArray, level: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Design effect of the difference of two paired rates, for many pairs of monitors.

    One more scenario of mean size is counted, on which each of the two errs always or never, with
    even odds.

    Parameters
    ----------
    gaps, n : (scenarios, pairs) array of float
        In each scenario, samples on which only the first errs minus those on which only the second
        does; samples that both answered.
    discordant : (pairs,) array of float
        Samples on which only one of both errs.
    level : float
        Confidence of the interval that is meant, in (0, 1).

    Returns
    -------
    effect : (pairs,) array of float
        At least 1; NaN without samples.
    worth : (pairs,) array of float
        How many independent samples one sample is worth, as in `worth_of`.
    """
    total, scenarios, sizes = n.sum(axis=0), (n > 0).sum(axis=0), (n * n).sum(axis=0)
    mean = ratio(total, scenarios)
    more = total + mean
    d = ratio(gaps.sum(axis=0), more)
    spread = (gaps**2).sum(axis=0) - 2 * d * (gaps * n).sum(axis=0) + d * d * sizes
    spread = spread + mean**2 * (1 / 2 + d * d)
    independent = discordant + mean / 2 - more * d * d
    effect = _effect(spread, independent, total, sizes, scenarios)
    return effect, worth_of(effect, total, sizes, scenarios, level)


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
