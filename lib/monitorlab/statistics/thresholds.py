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
import reprlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

FALSE_ALARM, MISSED_DETECTION = RISKS = ("false_alarm", "missed_detection")

# States of a threshold. All but the first are honest answers, not failures: with too few sequences
# the only rule that keeps the promise is the one that never (or always) alarms.
CALIBRATED, NEVER_ALARM, ALWAYS_ALARM = "calibrated", "never_alarm", "always_alarm"
NOT_TRAINABLE = "not_trainable"


@dataclass(frozen=True)
class Threshold:
    """A calibrated alarm rule: alarm at the first step whose statistic passes ``value``.

    Attributes
    ----------
    value : float
        Suspicion threshold. Alarm if the statistic is strictly above it; ``inf`` never alarms.
    tie_break : float
        Used when the statistic equals ``value``: alarm if the sequence's own uniform draw is above
        it. 1 is never, and 0 is always, as in the rule that alarms whatever the statistic
        (``value`` -inf). In between only if a randomised tie-break was asked for.
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

    Examples
    --------
    >>> rule = calibrate([0.1, 0.3, 0.5], level=0.25)
    >>> print(rule.explain())
    alarm above 0.5 (rank 1 of 3 safe sequences, level 0.25, attained on them 0.000).
    >>> rule.alarms(np.array([0.4, 0.6]))
    array([False,  True])
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

    def alarms(self, statistic: FloatArray, draws: FloatArray | None = None) -> NDArray[np.bool_]:
        """Say where a statistic passes the threshold; NaN does not.

        Parameters
        ----------
        statistic : ndarray of float
            High is unsafe.
        draws : ndarray of float, optional
            The uniform draw of the sequence that each entry belongs to; needed where ``tie_break``
            lies between 0 and 1.
        """
        passed = statistic > self.value
        if self.tie_break >= 1.0:
            return passed
        if self.tie_break <= 0.0:
            return passed | (statistic == self.value)
        if draws is None:
            raise ValueError("this threshold breaks ties at random: it needs a draw per sequence.")
        return passed | ((statistic == self.value) & (draws > self.tie_break))

    def explain(self) -> str:
        """Say in one sentence what was promised, or why nothing could be."""
        event, rule = ("safe", "never alarms") if self.risk == FALSE_ALARM else (
            "unsafe", "always alarms")
        if self.state == NOT_TRAINABLE:
            return f"the statistic cannot be learned from so few sequences: the rule {rule}."
        if self.state != CALIBRATED:
            return (f"{self.n_needed} {event} sequences are needed for level {self.level!r}, "
                    f"there are {self.n}: the rule {rule}.")
        where = f"alarm above {self.value!r}"
        if math.isinf(self.value):
            where = "never alarm" if self.value > 0 else (
                "always alarm" if self.tie_break <= 0.0 else "alarm above -inf")
        if self.k == 0:
            return (f"{where}, whatever the data (1 / level, level {self.level!r}); false alarms "
                    "keep to the level if the statistic is an exact likelihood ratio.")
        return (f"{where} (rank {self.k} of {self.n} {event} sequences, level {self.level!r}, "
                f"attained on them {self.attained:.3f}).")


def calibrate(peaks: ArrayLike, level: float, calibrator: str = "crc", *, risk: str = FALSE_ALARM,
              delta: float = 0.1, tie_rng: np.random.Generator | FloatArray | None = None
              ) -> Threshold:
    """Choose a threshold for one risk from the peaks of one class.

    Parameters
    ----------
    peaks : array_like of float, shape (n,)
        Highest statistic of each calibration sequence, as from
        :func:`monitorlab.online.metrics.peaks`: of the *safe* ones for false alarms, of the
        *unsafe* ones for missed detections. Equal values are ties; infinite ones are ranks like any
        other.
    level : float
        Risk to keep to, in (0, 1).
    calibrator : {"crc", "binomial", "hoeffding_bentkus", "tolerance"}
        ``crc`` keeps E[R] <= level; the other three keep P(R > level) <= delta. All assume that
        calibration and future sequences of that class are exchangeable.
    risk : {"false_alarm", "missed_detection"}
        Which risk ``level`` is about.
    delta : float
        Error probability, in (0, 1); not used by ``crc``.
    tie_rng : Generator, or ndarray of float, shape (n,), optional
        If given, ties are broken by one uniform draw per sequence (or by these numbers), which
        spends the whole level even on a coarse score. Without it ties fall on the safe side.

    Returns
    -------
    Threshold

    Raises
    ------
    ValueError
        For peaks that are not one number per sequence, a level or delta outside (0, 1), an unknown
        calibrator or risk.

    Examples
    --------
    Nine safe sequences are enough for level 0.10 in expectation; the highest peak is the threshold:

    >>> threshold = calibrate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], level=0.10)
    >>> threshold.value, threshold.state
    (0.9, 'calibrated')
    """
    from monitorlab.statistics.ranks import RANK_RULES, sequences_needed  # a policy needs no scipy

    if calibrator not in RANK_RULES:
        raise ValueError(f"calibrator is {calibrator!r}, expected one of {', '.join(RANK_RULES)}.")
    if risk not in RISKS:
        raise ValueError(f"risk is {risk!r}, expected one of {', '.join(RISKS)}.")
    values = _one_per_sequence(peaks)
    n = len(values)
    k = RANK_RULES[calibrator](n, level, delta)
    draws = np.ones(n) if tie_rng is None else tie_draws(tie_rng, n)
    value, tie_break = _place(values, draws, k, risk, randomised=tie_rng is not None)
    silent = NEVER_ALARM if risk == FALSE_ALARM else ALWAYS_ALARM
    threshold = Threshold(value, tie_break, risk, calibrator, float(level),
                          delta=math.nan if calibrator == "crc" else float(delta), n=n, k=k,
                          n_needed=sequences_needed(calibrator, level, delta), attained=0.0,
                          state=CALIBRATED if k else silent)
    event = threshold.alarms(values, draws) == (risk == FALSE_ALARM)
    return replace(threshold, attained=float(np.mean(event)) if n else 0.0)


def tie_draws(source: np.random.Generator | FloatArray, n: int) -> FloatArray:
    """Return one number in (0, 1) for each of n sequences, drawn, or as they are given.

    Raises
    ------
    ValueError
        If there are more or fewer given numbers than sequences.
    """
    if isinstance(source, np.random.Generator):
        return source.random(n)
    if source.shape != (n,):
        raise ValueError(f"the tie-breaking numbers have shape {source.shape}, expected ({n},), "
                         "one for each sequence.")
    return source


def _one_per_sequence(peaks: ArrayLike) -> FloatArray:
    """Return the peaks as floats, or say what they are instead."""
    advice = "expected one number per sequence, as monitorlab.online.metrics.peaks returns them"
    try:
        found = np.asarray(peaks)
    except ValueError:
        raise ValueError(f"the peaks are lists of different lengths, {advice}.") from None
    if found.ndim != 1:
        what = f"have shape {found.shape}" if found.ndim else f"are a single {type(peaks).__name__}"
        raise ValueError(f"the peaks {what}, {advice}: a step is no sequence.")
    if np.ma.is_masked(peaks):
        raise ValueError(f"the peaks hold masked values, {advice}.")
    if found.dtype.kind not in "iuf":
        for at, value in enumerate(found.tolist()):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"peak {at} is {reprlib.repr(value)}, {advice}.")
    values = found.astype(np.float64)
    if np.isnan(values).any():
        raise ValueError(f"peak {int(np.argmax(np.isnan(values)))} is nan, {advice}.")
    return values


def _place(values: FloatArray, draws: FloatArray, k: int, risk: str, randomised: bool
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
    if values[at] == -np.inf:
        return -math.inf, 0.0
    # One float below the k-th smallest peak: that peak itself must still alarm.
    return float(np.nextafter(values[at], -np.inf)), 1.0


def calibrate_weighted(peaks: ArrayLike, weights: ArrayLike, level: float, heaviest: float
                       ) -> float:
    r"""Threshold for false alarms where future sequences are drawn otherwise than calibrating ones.

    If a future sequence with property x is :math:`w(x)` times as likely as a calibrating one, up to
    a constant, the lowest :math:`\lambda` with

    .. math:: \sum_i w_i 1\{M_i > \lambda\} + \bar w \le \epsilon \Bigl(\sum_i w_i + \bar w\Bigr)

    keeps :math:`E[R_I] \le \epsilon` for future sequences, where :math:`\bar w` is at least the
    weight of every one of them. With equal weights it is the threshold of :func:`calibrate`.

    Parameters
    ----------
    peaks : array_like of float, shape (n,)
        Of safe calibration sequences; high is unsafe.
    weights : array_like of float, shape (n,)
        :math:`w_i`, positive; known, or estimated on other data.
    level : float
        Target false alarm rate, in (0, 1).
    heaviest : float
        :math:`\bar w`.

    Returns
    -------
    float
        Alarm above it; inf if no threshold keeps the promise.

    Raises
    ------
    ValueError
        For peaks that are not one number per sequence, weights that do not fit them or are not
        positive, and a `heaviest` below one of them.

    References
    ----------
    Tibshirani et al. (2019), *Conformal prediction under covariate shift*, with the loss of
    Angelopoulos et al. (2022), *Conformal risk control*, proposition 3.

    Examples
    --------
    >>> calibrate_weighted([0.1, 0.3, 0.5], [1, 1, 1], 0.5, heaviest=1)
    0.3
    >>> calibrate_weighted([0.1, 0.3, 0.5], [1, 1, 2], 0.5, heaviest=2)
    0.5
    """
    from monitorlab.statistics.intervals import check_level  # a policy needs no scipy

    values, given = _one_per_sequence(peaks), np.asarray(weights, dtype=np.float64)
    if given.shape != values.shape or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"the weights have shape {given.shape} and the least is "
                         f"{given.min(initial=math.inf)}, expected a positive number for each of "
                         f"{len(values)} sequences.")
    if heaviest < given.max(initial=0.0) or not math.isfinite(heaviest):
        raise ValueError(f"the heaviest weight is {heaviest}, expected at least that of every "
                         f"sequence, {given.max(initial=0.0)}.")
    room = check_level(level) * (given.sum() + heaviest) - heaviest
    order = np.argsort(-values, kind="stable")
    # Above the j-th largest peak alarm those that are larger, ties never.
    distinct, last = np.unique(-values[order], return_index=True)
    above = np.cumsum(given[order])[last] - given[order][last]
    kept = np.flatnonzero(above <= room + 1e-9 * heaviest)
    return float(-distinct[kept[-1]]) if room >= -1e-9 * heaviest and len(kept) else math.inf


def lowest_miss_level(threshold: float, unsafe_peaks: ArrayLike) -> float:
    r"""Lowest level of missed detections that a threshold is known to keep as well.

    Both promises hold at once if the threshold of the false alarms lies at or below that of the
    missed detections. With m of n unsafe peaks at or below it, the latter's rank must be above m,
    and CRC has this rank from the level :math:`(m + 1) / (n + 1)` on. So there is a rule for both
    exactly where the second level is at least this number.

    Parameters
    ----------
    threshold : float
        Such as the value that :func:`calibrate` chose for false alarms; alarm above it.
    unsafe_peaks : array_like of float, shape (n,)
        Of unsafe calibration sequences.

    Returns
    -------
    float
        In (0, 1]; 1 means that nothing can be promised about misses.

    References
    ----------
    arXiv 2607.02510, equation 8, for both risks.

    Examples
    --------
    >>> lowest_miss_level(0.5, [0.2, 0.6, 0.7, 0.9])
    0.4
    """
    values = _one_per_sequence(unsafe_peaks)
    return float((np.sum(values <= threshold) + 1) / (len(values) + 1))
