"""Alarm times, false alarm rate, power, detection after the onset, and delay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitorlab.online.running import FloatArray, IntArray
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import Threshold, tie_draws


@dataclass(frozen=True)
class _AlarmMetrics:
    """What a monitor did on a test set. Rates in [0, 1]; NaN where the class is absent.

    Attributes
    ----------
    far : float
        Share of safe sequences with an alarm. Lower is better.
    power : float
        Share of unsafe sequences with an alarm. Higher is better; 1 - power is the miss rate.
    after_onset : float
        Share of unsafe sequences of known onset whose alarm comes at or after it: there was
        something to detect. An earlier alarm is a prediction. NaN if no onset is known.
    by_half : float
        Share of unsafe sequences with an alarm in the first half of their steps.
    delay : float
        Mean share of its steps that a *detected* unsafe sequence had taken at the alarm, the
        paper's delay. NaN if none was detected. Lower is better, but see ``restricted_delay``.
    restricted_delay : float
        The same over *all* unsafe sequences, with a miss counted as 1. Two monitors that detect
        different sequences can be compared on it.
    delay_tokens, restricted_delay_tokens : float
        The same as shares of the sequence's tokens.
    """

    far: float
    power: float
    after_onset: float
    by_half: float
    delay: float
    restricted_delay: float
    delay_tokens: float
    restricted_delay_tokens: float


def peaks(statistic: Trajectories | FloatArray) -> FloatArray:
    """Highest statistic of each sequence.

    Parameters
    ----------
    statistic : Trajectories, or ndarray of float, shape (n, T)
        Scores or a running statistic; NaN after the last step in an array.

    Returns
    -------
    ndarray of float, shape (n,)

    Examples
    --------
    >>> import numpy as np
    >>> peaks(np.array([[0.2, 0.6, 0.4], [0.1, 0.3, np.nan]]))
    array([0.6, 0.3])
    """
    values, lengths = _flat(statistic)
    return np.asarray(np.fmax.reduceat(values, np.cumsum(lengths) - lengths))


def alarm_steps(statistic: Trajectories | FloatArray, threshold: Threshold | float,
                tie_rng: np.random.Generator | FloatArray | None = None) -> IntArray:
    """First step, counted from 1, at which each sequence alarms; 0 if it never does.

    Parameters
    ----------
    statistic : Trajectories, or ndarray of float, shape (n, T)
        Scores or a running statistic, NaN after the last step in an array; high is unsafe.
    threshold : Threshold or float
        The rule, or a number: alarm above it.
    tie_rng : Generator, or ndarray of float, shape (n,), optional
        Draws each sequence's tie-breaking number, or is these numbers; needed if the threshold
        randomises ties.

    Returns
    -------
    ndarray of int, shape (n,)
    """
    values, lengths = _flat(statistic)
    starts = np.cumsum(lengths) - lengths
    if not isinstance(threshold, Threshold):
        passed = values > float(threshold)
    elif tie_rng is not None and 0.0 < threshold.tie_break < 1.0:
        passed = threshold.alarms(values, np.repeat(tie_draws(tie_rng, len(lengths)), lengths))
    else:
        passed = threshold.alarms(values)
    step = np.arange(len(values)) - np.repeat(starts, lengths) + 1
    first = np.minimum.reduceat(np.where(passed, step, len(values) + 1), starts)
    return np.where(first <= lengths, first, 0)


def alarm_metrics(alarms: IntArray, test: Trajectories) -> _AlarmMetrics:
    """Score the alarm steps of a monitor against the labels of a test set.

    Parameters
    ----------
    alarms : ndarray of int, shape (n,)
        As from :func:`alarm_steps`.
    test : Trajectories
        The sequences they belong to.
    """
    unsafe, raised, onsets = test.labels == 1, alarms > 0, test.known_onsets
    caught = unsafe & raised
    steps = np.where(raised, alarms / test.lengths, 1.0)  # share of its steps at the alarm
    taken = test.step_numbers <= np.repeat(alarms, test.lengths)
    written = np.add.reduceat(np.where(taken, test.flat_tokens, 0.0), test.starts)
    total = np.add.reduceat(test.flat_tokens, test.starts)
    tokens = np.where(raised, written / total, 1.0)  # up to the end of the alarm step
    known = unsafe & (onsets > 0)
    return _AlarmMetrics(
        far=_mean(raised[test.labels == 0]),
        power=_mean(raised[unsafe]),
        after_onset=_mean(alarms[known] >= onsets[known]),
        by_half=_mean((raised & (steps <= 0.5))[unsafe]),
        delay=_mean(steps[caught]),
        restricted_delay=_mean(steps[unsafe]),
        delay_tokens=_mean(tokens[caught]),
        restricted_delay_tokens=_mean(tokens[unsafe]),
    )


def _mean(values: NDArray[Any]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _flat(statistic: Trajectories | FloatArray) -> tuple[FloatArray, IntArray]:
    """Return all steps behind one another and the length of each sequence."""
    if isinstance(statistic, Trajectories):
        return statistic.flat_scores, statistic.lengths
    padded = np.asarray(statistic, dtype=np.float64)
    if padded.ndim != 2:
        raise ValueError(f"the statistic has shape {padded.shape}, expected trajectories or an "
                         "array of shape (sequences, steps), NaN after the last step.")
    return padded.ravel(), np.full(padded.shape[0], padded.shape[1])
