"""Rank rules: how many calibration peaks a threshold may leave above itself.

Each rule maps (n, level, delta) to the rank k at which the threshold goes; 0 means that no rank
keeps the promise.

Of ``n`` exchangeable sequences, each of which alarms (or is missed) independently with an unknown
probability R, ``c`` did. A p-value for the hypothesis ``R > level`` that is at most ``delta`` lets
us claim ``R <= level`` with probability ``1 - delta``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy.special import rel_entr

from monitorlab.statistics.intervals import FloatArray, check_level

EXACT_UP_TO = 10**9  # beyond, a sequence more or less is below the precision of a level


def hoeffding_bentkus_p_value(mean: ArrayLike, n: int, level: float) -> FloatArray:
    r"""Hoeffding-Bentkus p-value of ``R > level`` from the mean of n losses in [0, 1].

    .. math:: \min\bigl(e^{-n\,h_1(\min(\hat r, \epsilon),\, \epsilon)},\;
              e\,P(\mathrm{Bin}(n, \epsilon) \le \lceil n \hat r \rceil)\bigr),

    with :math:`\hat r` the mean loss, such as the share c / n of alarms, and :math:`h_1` the binary
    relative entropy. For the 0/1 loss of an alarm the exact binomial p-value is never larger.

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

    References
    ----------
    arXiv 2607.02510, section 3.2 (UCB); Bates et al. (2021), proposition 3.
    """
    means, epsilon = np.asarray(mean, dtype=np.float64), check_level(level)
    if n < 1 or not ((means >= 0) & (means <= 1)).all():
        raise ValueError(f"n is {n}, with mean losses from {means.min():g} to {means.max():g}, "
                         "expected n of at least 1 and losses between 0 and 1.")
    low = np.minimum(means, epsilon)
    hoeffding = np.exp(-n * (rel_entr(low, epsilon) + rel_entr(1 - low, 1 - epsilon)))
    # Where n * (c / n) lands above a whole number c, its ceiling must not be c + 1.
    bentkus = np.e * scipy.stats.binom.cdf(np.ceil(n * means - 1e-9), n, epsilon)
    return np.asarray(np.minimum(np.minimum(hoeffding, bentkus), 1.0), dtype=np.float64)


def _binomial_p_value(mean: ArrayLike, n: int, level: float) -> FloatArray:
    r"""Exact p-value of ``R > level``: :math:`P(\mathrm{Bin}(n, \epsilon) \le c)`, c = n mean.

    Clopper and Pearson (1934); Bates et al. (2021), "Distribution-free, risk-controlling
    prediction sets", section 3.1.
    """
    return np.asarray(scipy.stats.binom.cdf(np.rint(n * np.asarray(mean)), n, check_level(level)))


def _crc_rank(n: int, level: float, delta: float = math.nan) -> int:
    r"""Rank of conformal risk control: :math:`k = \lfloor \epsilon (n + 1) \rfloor`.

    The closed form of :math:`\frac{n}{n+1} \hat R + \frac{1}{n+1} \le \epsilon` with
    :math:`\hat R = (k - 1) / n`; it promises :math:`E[R] \le \epsilon`.

    Parameters
    ----------
    n : int
        Calibration sequences of the relevant class.
    level : float
        Target risk, in (0, 1).
    delta : float
        Not used; present so that all rank rules share a signature.

    Returns
    -------
    int
        k in 0..n, with 0 meaning that no threshold keeps the promise.

    References
    ----------
    arXiv 2607.02510, equation 8; Angelopoulos et al. (2022), "Conformal risk control".
    """
    # The tolerance keeps 0.1 * (9 + 1) from landing on 0.99999...
    return min(math.floor(check_level(level) * (n + 1) + 1e-9), n)


def _binomial_rank(n: int, level: float, delta: float) -> int:
    r"""Rank of the exact binomial test: one above the largest c with a p-value at most delta.

    :math:`c^* = \max\{c : P(\mathrm{Bin}(n, \epsilon) \le c) \le \delta\}`, :math:`k = c^* + 1`;
    it promises :math:`P(R > \epsilon) \le \delta`. Parameters as in :func:`_crc_rank`.
    """
    return _rank_from_p_values(_binomial_p_value, n, level, delta)


def _hoeffding_bentkus_rank(n: int, level: float, delta: float) -> int:
    r"""Rank of the paper's UCB rule, by the Hoeffding-Bentkus p-value.

    Promises :math:`P(R > \epsilon) \le \delta`; never a larger rank than :func:`_binomial_rank`.
    Parameters as in :func:`_crc_rank`.

    References
    ----------
    arXiv 2607.02510, section 3.2.
    """
    return _rank_from_p_values(hoeffding_bentkus_p_value, n, level, delta)


@lru_cache(maxsize=4096)
def _tolerance_rank(n: int, level: float, delta: float) -> int:
    r"""Rank of a one-sided distribution-free tolerance limit, as e-valuator's PAC variant has it.

    The limit is the j-th smallest peak, :math:`j = \min\{j : P(\mathrm{Bin}(n, 1 - \epsilon) \ge j)
    \le \delta\}`, and so the k-th largest with :math:`k = n - j + 1`. Counting alarms in place of
    silences shows it to be :func:`_binomial_rank` from the other end: the two always agree.

    References
    ----------
    arXiv 2512.03109, section 3.3; Wilks (1941).
    """
    check_level(delta, "delta")
    if n == 0:
        return 0
    j = np.arange(1, n + 1)
    enough = scipy.stats.binom.sf(j - 1, n, 1.0 - check_level(level)) <= delta
    return int(n - j[np.argmax(enough)] + 1) if enough.any() else 0


# Depends on (n, level, delta) only, and a protocol of many splits asks for the same few again.
@lru_cache(maxsize=4096)
def _rank_from_p_values(p_value: Callable[[ArrayLike, int, float], FloatArray], n: int,
                        level: float, delta: float) -> int:
    check_level(level)
    check_level(delta, "delta")
    if n == 0:
        return 0
    # p-values do not decrease in the count, so those at most delta come first.
    return int(np.sum(p_value(np.arange(n) / n, n, level) <= delta))


RANK_RULES: dict[str, Callable[[int, float, float], int]] = {
    "crc": _crc_rank, "binomial": _binomial_rank, "hoeffding_bentkus": _hoeffding_bentkus_rank,
    "tolerance": _tolerance_rank}


@lru_cache(maxsize=4096)
def sequences_needed(calibrator: str, level: float, delta: float) -> int:
    r"""Smallest calibration size at which a rank exists.

    Parameters
    ----------
    calibrator : str
        A key of ``RANK_RULES``.
    level, delta : float
        As in :func:`calibrate`.

    Returns
    -------
    int
        :math:`\lceil 1 / \epsilon \rceil - 1` for CRC. The others need a size at which no alarm at
        all has a p-value of at most delta, :math:`(1 - \epsilon)^n \le \delta`, hence
        :math:`\lceil \log \delta / \log(1 - \epsilon) \rceil`.
    """
    guess = math.ceil(1.0 / check_level(level)) - 1
    if calibrator != "crc":
        guess = math.ceil(math.log(check_level(delta, "delta")) / math.log1p(-check_level(level)))
    if guess > EXACT_UP_TO:
        return guess
    # Rounding may put the guess one off, where the quotient is a whole number.
    near = range(max(guess - 1, 1), guess + 2)
    return next((n for n in near if _has_rank(calibrator, n, level, delta)), guess)


def _has_rank(calibrator: str, n: int, level: float, delta: float) -> bool:
    """Whether the rule finds a rank at n, asked of its largest threshold only."""
    if calibrator == "crc":
        return _crc_rank(n, level) > 0
    if calibrator == "tolerance":
        return bool(scipy.stats.binom.sf(n - 1, n, 1.0 - level) <= delta)
    p_value = _binomial_p_value if calibrator == "binomial" else hoeffding_bentkus_p_value
    return bool(p_value(0, n, level) <= delta)
