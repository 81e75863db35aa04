r"""Thresholds with a guarantee, read off the order statistics of a calibration set.

A sequence alarms when its statistic passes a threshold at some step, so all that matters of a
calibration sequence is its peak :math:`M_i = \max_t s_{i,t}` (the paper's minimum, turned to
suspicion). Both risks are step functions of the threshold that jump only at the peaks, hence every
calibrator reduces to one number k, the rank of the peak at which to put the threshold. No grid.

* false alarms, :math:`R_I = P(M > \lambda \mid \text{safe})`: the k-th *largest* safe peak;
* missed detections, :math:`R_{II} = P(M \le \lambda \mid \text{unsafe})`: just below the k-th
  *smallest* unsafe peak.

Without ties the risk of the threshold of rank k is distributed as Beta(k, n + 1 - k).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from monitorlab.online.bounds import (
    binomial_p_value,
    check_level,
    hoeffding_bentkus_p_value,
)

FloatArray = NDArray[np.float64]

FALSE_ALARM = "false_alarm"
MISSED_DETECTION = "missed_detection"
RISKS = (FALSE_ALARM, MISSED_DETECTION)

# States of a threshold. All but the first are honest answers, not failures: with too few sequences
# the only rule that keeps the promise is the one that never (or always) alarms.
CALIBRATED = "calibrated"
NEVER_ALARM = "never_alarm"
ALWAYS_ALARM = "always_alarm"
NOT_TRAINABLE = "not_trainable"
STATES = (CALIBRATED, NEVER_ALARM, ALWAYS_ALARM, NOT_TRAINABLE)


@dataclass(frozen=True)
class Threshold:
    """A calibrated alarm rule: alarm at the first step whose statistic passes ``value``.

    Attributes
    ----------
    value : float
        Suspicion threshold. Alarm if the statistic is strictly above it; ``inf`` never alarms,
        ``-inf`` always does.
    tie_break : float
        Used when the statistic equals ``value``: alarm if the sequence's own uniform draw is above
        it. 1 (never on a tie) unless a randomised tie-break was asked for.
    risk : str
        ``false_alarm`` or ``missed_detection``.
    calibrator : str
        Name of the rule that chose the rank.
    level, delta : float
        What was asked: risk at most ``level``; with probability ``1 - delta`` where the calibrator
        promises that, else NaN.
    n : int
        Calibration sequences of the class the risk is about.
    k : int
        Rank of the threshold; 0 if no rank keeps the promise.
    n_needed : int
        Smallest n for which a rank exists at this level and delta.
    attained : float
        Share of these n sequences on which the event (a false alarm, a miss) happens at this
        threshold. Ties make it fall short of (k - 1) / n.
    state : str
        ``calibrated``, ``never_alarm``, ``always_alarm``, or ``not_trainable`` where the statistic
        could not be learned.
    """

    value: float
    tie_break: float
    risk: str
    calibrator: str
    level: float
    delta: float
    n: int
    k: int
    n_needed: int
    attained: float
    state: str

    def explain(self) -> str:
        """Say in one sentence what was promised, or why nothing could be."""
        event, rule = (
            ("safe", "never alarms")
            if self.risk == FALSE_ALARM
            else ("unsafe", "always alarms")
        )
        if self.k == 0:
            return (
                f"{self.n_needed} {event} sequences are needed for level {self.level:g}, "
                f"there are {self.n}: the rule {rule}."
            )
        return (
            f"alarm above {self.value:.6g} (rank {self.k} of {self.n} {event} sequences, "
            f"level {self.level:g}, attained on them {self.attained:.3f})."
        )


def crc_rank(n: int, level: float, delta: float = math.nan) -> int:
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


def binomial_rank(n: int, level: float, delta: float) -> int:
    r"""Rank of the exact binomial test: one above the largest c with a p-value at most delta.

    :math:`c^* = \max\{c : P(\mathrm{Bin}(n, \epsilon) \le c) \le \delta\}`, :math:`k = c^* + 1`;
    it promises :math:`P(R > \epsilon) \le \delta`. Parameters as in :func:`crc_rank`.
    """
    return _rank_from_p_values(binomial_p_value, n, level, delta)


def hoeffding_bentkus_rank(n: int, level: float, delta: float) -> int:
    r"""Rank of the paper's UCB rule, by the Hoeffding-Bentkus p-value.

    Promises :math:`P(R > \epsilon) \le \delta`; never a larger rank than :func:`binomial_rank`.
    Parameters as in :func:`crc_rank`.

    References
    ----------
    arXiv 2607.02510, section 3.2.
    """
    return _rank_from_p_values(hoeffding_bentkus_p_value, n, level, delta)


@lru_cache(maxsize=4096)
def tolerance_rank(n: int, level: float, delta: float) -> int:
    r"""Rank of a one-sided distribution-free tolerance limit, as e-valuator's PAC variant has it.

    The limit is the j-th smallest peak, :math:`j = \min\{j : P(\mathrm{Bin}(n, 1 - \epsilon) \ge j)
    \le \delta\}`, and so the k-th largest with :math:`k = n - j + 1`. Counting alarms in place of
    silences shows it to be :func:`binomial_rank` from the other end: the two always agree.

    References
    ----------
    arXiv 2512.03109, section 3.3; Wilks (1941).
    """
    check_level(delta, "delta")
    if n == 0:
        return 0
    j = np.arange(1, n + 1)
    enough = stats.binom.sf(j - 1, n, 1.0 - check_level(level)) <= delta
    return int(n - j[np.argmax(enough)] + 1) if enough.any() else 0


# Depends on (n, level, delta) only, and a protocol of many splits asks for the same few again.
@lru_cache(maxsize=4096)
def _rank_from_p_values(
    p_value: Callable[[NDArray[np.int64], int, float], FloatArray],
    n: int,
    level: float,
    delta: float,
) -> int:
    check_level(level)
    check_level(delta, "delta")
    if n == 0:
        return 0
    # p-values do not decrease in the count, so those at most delta come first. Counts from level * n
    # on cannot pass for a delta below one half, but the full range keeps every delta right.
    return int(np.sum(p_value(np.arange(n), n, level) <= delta))


RANK_RULES: dict[str, Callable[[int, float, float], int]] = {
    "crc": crc_rank,
    "binomial": binomial_rank,
    "hoeffding_bentkus": hoeffding_bentkus_rank,
    "tolerance": tolerance_rank,
}


@lru_cache(maxsize=4096)
def sequences_needed(calibrator: str, level: float, delta: float) -> int:
    """Smallest calibration size at which a rank exists.

    Parameters
    ----------
    calibrator : str
        A key of ``RANK_RULES``.
    level, delta : float
        As in :func:`calibrate`.

    Returns
    -------
    int
        ``ceil(1 / level) - 1`` for CRC; the others by bisection, since a rank that exists at n
        exists at every larger size.
    """
    rule = RANK_RULES[calibrator]
    high = 1
    while rule(high, level, delta) == 0:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if rule(middle, level, delta) else (middle, high)
    return high


def calibrate(
    peaks: FloatArray,
    level: float,
    calibrator: str = "crc",
    *,
    risk: str = FALSE_ALARM,
    delta: float = 0.1,
    tie_rng: np.random.Generator | None = None,
) -> Threshold:
    """Choose a threshold for one risk from the peaks of one class.

    Parameters
    ----------
    peaks : ndarray of float, shape (n,)
        Highest statistic of each calibration sequence: of the *safe* ones for false alarms, of the
        *unsafe* ones for missed detections. Finite; equal values are ties.
    level : float
        Risk to keep to, in (0, 1).
    calibrator : {"crc", "binomial", "hoeffding_bentkus", "tolerance"}
        ``crc`` keeps E[R] <= level; the other three keep P(R > level) <= delta. All assume that
        calibration and future sequences of that class are exchangeable.
    risk : {"false_alarm", "missed_detection"}
        Which risk ``level`` is about.
    delta : float
        Error probability, in (0, 1); not used by ``crc``.
    tie_rng : Generator, optional
        If given, ties are broken by one uniform draw per sequence, which spends the whole level
        even on a coarse score. Without it ties fall on the safe side.

    Returns
    -------
    Threshold

    Raises
    ------
    ValueError
        For a peak that is not finite, a level or delta outside (0, 1), an unknown calibrator or
        risk.
    """
    if calibrator not in RANK_RULES:
        raise ValueError(f"calibrator is {calibrator!r}, expected one of {', '.join(RANK_RULES)}.")
    if risk not in RISKS:
        raise ValueError(f"risk is {risk!r}, expected one of {', '.join(RISKS)}.")
    values = np.asarray(peaks, dtype=np.float64).ravel()
    if not np.isfinite(values).all():
        at = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"peak {at} is {values[at]}, expected a finite statistic for every peak.")
    n = len(values)
    k = RANK_RULES[calibrator](n, level, delta)
    draws = np.ones(n) if tie_rng is None else tie_rng.random(n)
    value, tie_break = _place(values, draws, k, risk, randomised=tie_rng is not None)
    if k == 0:
        state = NEVER_ALARM if risk == FALSE_ALARM else ALWAYS_ALARM
    else:
        state = CALIBRATED
    alarmed = (values > value) | ((values == value) & (draws > tie_break))
    event = alarmed if risk == FALSE_ALARM else ~alarmed
    return Threshold(
        value=value,
        tie_break=tie_break,
        risk=risk,
        calibrator=calibrator,
        level=float(level),
        delta=math.nan if calibrator == "crc" else float(delta),
        n=n,
        k=k,
        n_needed=sequences_needed(calibrator, level, delta),
        attained=float(np.mean(event)) if n else 0.0,
        state=state,
    )


def _place(
    values: FloatArray, draws: FloatArray, k: int, risk: str, randomised: bool
) -> tuple[float, float]:
    """Return (value, tie_break) of rank k, in the order of (peak, draw)."""
    if k == 0:
        return (math.inf, 1.0) if risk == FALSE_ALARM else (-math.inf, 0.0)
    order = np.lexsort((draws, values)) if randomised else np.argsort(values)
    if risk == FALSE_ALARM:
        at = order[len(values) - k]
        return float(values[at]), float(draws[at])
    at = order[k - 1]
    if randomised:
        return float(values[at]), float(np.nextafter(draws[at], -np.inf))
    # One float below the k-th smallest peak: that peak itself must still alarm.
    return float(np.nextafter(values[at], -np.inf)), 1.0
