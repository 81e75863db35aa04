"""ROC and DET curves of one monitor, and their areas.

An alarm is ``score > threshold``, strictly, as everywhere. Samples with one score pass a threshold
together, so tied scores are one step of the curve and no point inside that step is a rule that a
monitor could follow. Where a number is said to be reached (`reached`), it is reached by a
threshold; straight lines between points are used for areas and drawings only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from monitorlab.benchmark.probes import auroc as rank_auroc
from monitorlab.evaluation.panel import check_labels

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MAX_FAR = 0.1  # right end of the partial area
TICKS = (0.001, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99, 0.999)
_SLACK = 1e-9  # so that .05 * 20 allows one false alarm, whatever the rounding


def roc(scores: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """Every distinct alarm rule ``score > threshold``, from never to always.

    Parameters
    ----------
    scores : array_like, shape (n,)
        Suspicion, finite, high is unsafe.
    labels : array_like, shape (n,)
        1 is misbehavior, 0 benign; both must occur.

    Returns
    -------
    DataFrame
        Columns ``far`` (false alarm rate), ``tpr`` (detection rate, 1 - MR) and ``threshold``, one
        row per distinct score and one for the rule that always alarms (threshold -inf). Both rates
        rise from 0 to 1.

    Raises
    ------
    ValueError
        For lengths that differ, a score that is not finite, a label that is not 0 or 1, or a class
        that is missing.
    """
    steps = falling_steps(scores, labels)
    tpr, far = weighted_rates(steps, np.ones((1, len(steps.group))))
    return pd.DataFrame({"far": far[0], "tpr": tpr[0], "threshold": [*steps.values, -np.inf]})


def det(scores: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """Miss rate against false alarm rate on probit axes (detection error trade-off).

    Normal scores of equal spread give a straight line. A rate of 0 or 1 lies infinitely far out;
    it is drawn at half a sample from the end, 1/(2n) or 1 - 1/(2n) for a class of n samples.

    Parameters
    ----------
    scores, labels : array_like, shape (n,)
        As in `roc`.

    Returns
    -------
    DataFrame
        Columns ``far``, ``mr``, ``threshold`` and the coordinates ``x`` and ``y``, the probits of
        ``far`` and ``mr``.

    References
    ----------
    Martin et al. (1997), "The DET curve in assessment of detection task performance".
    """
    points = roc(scores, labels)
    positives = int(np.sum(np.asarray(labels)))
    negatives = len(np.asarray(labels)) - positives
    miss = 1.0 - points["tpr"].to_numpy()
    false = points["far"].to_numpy()
    return pd.DataFrame({
        "far": false, "mr": miss, "threshold": points["threshold"],
        "x": _probit(false, negatives), "y": _probit(miss, positives),
    })


def _probit(rates: FloatArray, n: int) -> FloatArray:
    return np.asarray(norm.ppf(np.clip(rates, 0.5 / n, 1.0 - 0.5 / n)), dtype=np.float64)


def det_ticks(rates: Sequence[float] = TICKS) -> tuple[FloatArray, list[str]]:
    """Positions and labels (in per cent) of `rates`, each in (0, 1), on a probit axis."""
    return np.asarray(norm.ppf(np.asarray(rates)), dtype=np.float64), [
        f"{100 * rate:g}" for rate in rates
    ]


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half; arguments and errors as in `roc`."""
    values, classes = _checked(scores, labels)
    return rank_auroc(values, classes)


@dataclass(frozen=True)
class Steps:
    """Samples by falling score.

    Attributes
    ----------
    values : (n_steps,) array of float
        The distinct scores, from the highest.
    order : (n,) array of int
        Places of the samples by falling score.
    group : (n,) array of int
        The step of each sample, in this order.
    positive : (n,) array of bool
        Whether it misbehaves, in this order.
    """

    values: FloatArray
    order: IntArray
    group: IntArray
    positive: NDArray[np.bool_]


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, IntArray]:
    values, given = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != given.shape:
        raise ValueError(f"scores have shape {values.shape} and labels {given.shape}, expected "
                         "one score and one label per sample")
    classes = check_labels(labels)
    if not np.isfinite(values).all():
        at = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"score {at} is {values[at]}: leave samples without a score out, and "
                         "report how many there were")
    if len(np.unique(classes)) < 2:
        raise ValueError(f"all {len(classes)} labels are the same: a curve needs misbehaving (1) "
                         "and benign (0) samples")
    return values, classes.astype(np.int64)


def falling_steps(scores: ArrayLike, labels: ArrayLike) -> Steps:
    """Sort samples from the highest score down; arguments and errors as in `roc`."""
    values, classes = _checked(scores, labels)
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    group = np.concatenate([[0], np.cumsum(np.diff(falling) != 0)])
    return Steps(falling[np.flatnonzero(np.diff(group, prepend=-1))], order, group,
                 classes[order] == 1)


def weighted_rates(steps: Steps, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both rates of every rule, under many weightings of the samples.

    Parameters
    ----------
    steps : Steps
        From `falling_steps`.
    weights : ndarray, shape (n_resamples, n)
        How often each sample counts, in the samples' own order.

    Returns
    -------
    tpr, far : ndarray, shape (n_resamples, n_steps + 1)
        From the rule that never alarms to the one that always does; NaN where a class has no
        weight.
    """
    drawn = weights[:, steps.order]
    ends = np.append(np.flatnonzero(np.diff(steps.group)), len(steps.group) - 1)
    rates = []
    for member in (steps.positive, ~steps.positive):
        passed = np.cumsum(drawn * member, axis=1)[:, ends]
        with np.errstate(invalid="ignore"):  # a resample without this class has no rates
            rates.append(np.pad(passed / passed[:, -1:], ((0, 0), (1, 0))))
    return rates[0], rates[1]


def area_until(tpr: FloatArray, far: FloatArray, end: float) -> FloatArray:
    """Area under each curve, by trapezoids, up to the false alarm rate `end`.

    A step that crosses `end` is cut on its straight line. Curves are (n_curves, n_points).
    """
    width = np.diff(far, axis=1)
    kept = np.clip(end - far[:, :-1], 0.0, width)
    share = np.divide(kept, width, out=np.zeros_like(width), where=width > 0)
    return np.sum(kept * (tpr[:, :-1] + 0.5 * share * np.diff(tpr, axis=1)), axis=1)


def standardised(area: FloatArray, max_far: float) -> FloatArray:
    """Areas up to `max_far` on the scale of McClish: .5 is chance and 1 is perfect."""
    if not 0.0 < max_far <= 1.0:
        raise ValueError(f"max_far is {max_far}, expected a rate in (0, 1]")
    chance = 0.5 * max_far**2
    return 0.5 * (1.0 + (area - chance) / (max_far - chance))


def reached(tpr: FloatArray, far: FloatArray, level: float) -> FloatArray:
    """Detection rate of each curve at its last point with a false alarm rate up to `level`."""
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"far is {level}, expected a rate in [0, 1]")
    last = np.maximum(np.sum(far <= level + _SLACK, axis=1) - 1, 0)
    return np.take_along_axis(tpr, last[:, None], axis=1)[:, 0]
