r"""Intervals: of one proportion, of paired ones, of rates from a few labels, of resamples.

Two kinds. *Wilson* and *Clopper-Pearson* take samples as independent. But the samples
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

*Rates from a few labels and many guesses*, `corrected_rate`. Of T units n are labelled at random;
for all of them there is a guess. A rate is a quotient of two means,
:math:`\theta = E[e] / E[c]`, such as false alarms among safe sequences. The guesses'
means over the other units correct the labelled ones,

.. math:: \bar e_L + \lambda\,(\bar{\hat e}_U - \bar{\hat e}_L),

and the same for c. Guesses that are wrong cancel on average. With :math:`\rho` the correlation of
:math:`e - \theta c` with its guess, the best weight leaves :math:`r = 1 - \rho^2 (T - n) / T`
of the variance: n labels are worth n / r. The interval is Wilson's for so many, which is
not empty where no event was seen; then there is nothing to correct, and r is 1.

References
----------
A. N. Angelopoulos, S. Bates, C. Fannjiang, M. I. Jordan and T. Zrnic, *Prediction-powered
inference*, Science 382 (2023), 669-674; A. N. Angelopoulos, J. C. Duchi and T. Zrnic, *PPI++*
(arXiv 2311.01453), section 6, for the weight.
E. L. Korn and B. I. Graubard, *Confidence intervals for proportions with small expected number of
positive counts estimated from survey data*, Survey Methodology 24 (1998), 193-201.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Weights = NDArray[np.float32]  # whole numbers, exact below 2**24
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
    from statsmodels.stats.proportion import proportion_confint  # half a second

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
    def of(cls, events: ArrayLike, n: ArrayLike, group: ArrayLike | None = None, groups: int = 1
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
    def of_samples(cls, events: ArrayLike, scenarios: ArrayLike) -> Clustered:
        """Sum up single samples of one group, each 0 or 1, by the scenario of each."""
        names, place = np.unique(np.asarray(scenarios), return_inverse=True)
        return cls.of(np.bincount(place, np.asarray(events, float), len(names)),
                      np.bincount(place, minlength=len(names)))

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
        return self._effect(p, mean**2 * ((1 - p) ** 2 + p * p) / 2, n * p * (1 - p))

    def _effect(self, p: FloatArray, added: FloatArray, independent: FloatArray) -> FloatArray:
        """Variance around p, with one more scenario's share, over that of independent samples."""
        spread = self.squares - 2 * p * self.cross + p * p * self.sizes + added
        count = self.scenarios + 1.0
        effect = np.maximum(1.0, ratio(spread * count / np.maximum(count - 1, 1), independent))
        return np.where(self.n > 0, np.where(self._single, 1.0, effect), np.nan)

    @property
    def _single(self) -> NDArray[np.bool_]:
        """Whether no scenario has two samples: then the samples are the units."""
        return np.asarray(self.sizes <= self.n * (1 + 1e-9))

    def worth(self, level: float) -> FloatArray:
        """How many independent samples one sample is worth in an interval of this level.

        In [0, 1]; 1 where no scenario has two samples, 0 for a single scenario.
        """
        free, tail = self.scenarios - 1, (1 + level) / 2
        quantile = scipy.stats.t.ppf(tail, np.maximum(free, 1))
        shorter = (scipy.stats.norm.ppf(tail) / quantile) ** 2
        worth = np.where(free > 0, shorter / self.design_effect, 0.0)
        return np.asarray(np.where(self._single, 1.0, worth), dtype=np.float64)

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
        worth = self.worth(level)
        low, high = method(self.events * worth, self.n * worth, level)
        told, nothing = self.n > 0, worth == 0  # one scenario says nothing about others
        low = np.where(told & (nothing | (self.events <= 0)), 0.0, low)
        return low, np.where(told & (nothing | (self.events >= self.n)), 1.0, high)


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
        raise ValueError(f"{name} is {level!r}, expected a number strictly between 0 and 1. At 0 "
                         "nothing could ever alarm and at 1 everything may: neither needs "
                         "calibration.")
    return value


@dataclass(frozen=True)
class _CorrectedRate:
    """A rate from labels and guesses.

    Attributes
    ----------
    value, low, high : float
        Estimate and 95 % interval, in [0, 1]; NaN if no labelled unit counts.
    plain, plain_low, plain_high : float
        The same from labels alone.
    share : float
        Share of units that count (c).
    correlation : float
        How well guesses follow labels where it matters, in [0, 1].
    labelled, units : int
        Labels there are, and units in all.
    """

    value: float
    low: float
    high: float
    plain: float
    plain_low: float
    plain_high: float
    share: float
    correlation: float
    labelled: int
    units: int

    def labels_needed(self, half_width: float) -> int:
        """Return how many labels in all give an interval of at most this half width; 0 if none.

        Supposes that further labels are drawn at random from the same units, and that rate and
        guesses stay what they are.
        """
        if math.isnan(self.value):
            return 0
        n = np.arange(1, self.units + 1, dtype=np.float64)
        worth = n * self.share / (1.0 - self.correlation**2 * (self.units - n) / self.units)
        low, high = wilson(self.value * worth, worth)
        fits = (high - low) / 2.0 <= half_width
        return int(n[np.argmax(fits)]) if fits.any() else 0


def corrected_rate(event: FloatArray, among: FloatArray, event_guess: FloatArray,
                   among_guess: FloatArray,
                   others: tuple[FloatArray, FloatArray]) -> _CorrectedRate:
    """Estimate a rate from labelled units and guesses about others.

    Parameters
    ----------
    event, among : ndarray of float, shape (n,)
        Of the labelled units: whether the event happened, and whether the unit counts, 0 or 1; an
        event counts.
    event_guess, among_guess : ndarray of float, shape (n,)
        Guesses about both that did not see these labels.
    others : two ndarrays of float, shape (m,)
        The same guesses about units without a label.
    """
    n, m = len(event), len(others[0])
    counted, correlation = float(among.sum()), 0.0
    theta = value = low = high = plain_low = plain_high = math.nan
    if counted:
        value = theta = float(event.sum()) / counted
        ((plain_low,), (plain_high,)) = wilson([event.sum()], [counted])
        score, guess = event - theta * among, event_guess - theta * among_guess
        spread = float(np.std(score) * np.std(guess))
        if spread > 0 and m:
            correlation = max(0.0, float(np.cov(score, guess, ddof=0)[0, 1]) / spread)
            weight = correlation * float(np.std(score) / np.std(guess)) * m / (n + m)
            top, bottom = (
                float(known.mean() + weight * (far.mean() - near.mean()))
                for known, near, far in ((event, event_guess, others[0]),
                                         (among, among_guess, others[1])))
            value = min(max(top / bottom, 0.0), 1.0) if bottom > 0 else theta
        worth = counted / (1.0 - correlation**2 * m / (n + m))
        ((low,), (high,)) = wilson([value * worth], [worth])
    return _CorrectedRate(value, float(low), float(high), theta, float(plain_low),
                          float(plain_high), counted / n if n else math.nan, correlation, n, n + m)


AT_ONCE = 4_000_000  # drawn units held in memory at a time, about 100 MB


def draw_units(random: np.random.Generator, units: int, resamples: int, at_once: int = AT_ONCE
               ) -> Iterator[Weights]:
    """Yield how often each unit is drawn, for some resamples at a time.

    Parameters
    ----------
    random : Generator
        Used in the same order whatever `at_once` is.
    units : int
        How many there are, and how many are drawn in each resample.
    resamples : int
        How many in all.
    at_once : int
        Upper limit of `units` times the resamples of one part.

    Yields
    ------
    (units, part) array of float32
        Whole numbers; every column sums to `units`.
    """
    part = max(1, at_once // max(units, 1))
    for done in range(0, resamples, part):
        width = min(part, resamples - done)
        drawn = random.random((width, units))
        drawn *= units
        places = drawn.astype(np.intp)
        places *= width
        places += np.arange(width)[:, None]
        counts = np.bincount(places.ravel(), minlength=units * width)
        yield counts.reshape(units, width).astype(np.float32)


def percentiles(draws: NDArray[np.floating], level: float) -> Limits:
    """Percentile interval of each row over the resamples on which it is defined."""
    ends = [(1 - level) / 2, (1 + level) / 2]
    known = np.isfinite(draws)
    limits = np.full((2, len(draws)), np.nan)
    whole = known.all(axis=1)
    if whole.any():
        limits[:, whole] = np.quantile(draws[whole], ends, axis=1)
    for row in np.flatnonzero(known.any(axis=1) & ~whole):
        limits[:, row] = np.quantile(draws[row, known[row]], ends)
    return limits[0], limits[1]
