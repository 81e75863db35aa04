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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitorlab.online.ranks import RANK_RULES, sequences_needed

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
    silent = NEVER_ALARM if risk == FALSE_ALARM else ALWAYS_ALARM
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
        state=CALIBRATED if k else silent,
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
