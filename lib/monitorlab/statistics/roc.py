"""ROC and DET curves of one monitor and their measures, also in many resamples at once.

An alarm is ``score > threshold``, strictly, as everywhere. Samples with one score pass a threshold
together, so tied scores are one step of the curve and no point inside that step is a rule that a
monitor could follow. Where a rate is said to be reached (`_best_within`), it is reached by a
threshold; straight lines between points are used for areas and drawings only.

A resample is never built: `_counts_above` weighs the samples, in every resample at once, and all
curves and measures follow from its counts. `roc_band` resamples whole scenarios.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike, NDArray

from monitorlab.statistics.intervals import FloatArray, IntArray, Weights, draw_units, ratio

MAX_FAR = 0.1  # right end of the partial area
FARS = (0.01, 0.05, 0.10)  # false alarm rates at which detection is reported
MEASURES = ("auroc", "pauroc", *(f"tpr_{100 * far:02.0f}" for far in FARS))
RESAMPLES = 2000  # of `roc_band`
_AT_ONCE = 60_000  # weights of samples held at a time: they fit into a processor's cache


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
    values, classes = _checked(scores, labels)
    every, once = np.arange(len(values)), np.ones((len(values), 1), np.float32)
    caught, cried = (side[:, 0] for side in _counts_above(values, classes, every, once))
    return pd.DataFrame({"far": cried / cried[-1], "tpr": caught / caught[-1],
                         "threshold": [*np.unique(values)[::-1], -np.inf]})


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
    false, miss = points["far"].to_numpy(), 1.0 - points["tpr"].to_numpy()
    positives = int(np.sum(np.asarray(labels)))

    def probit(rates: FloatArray, n: int) -> FloatArray:
        inner = np.clip(rates, 0.5 / n, 1.0 - 0.5 / n)
        return np.asarray(scipy.stats.norm.ppf(inner), dtype=np.float64)

    return pd.DataFrame({"far": false, "mr": miss, "threshold": points["threshold"],
                         "x": probit(false, len(np.asarray(labels)) - positives),
                         "y": probit(miss, positives)})


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve, ties counted half; arguments and errors as in `roc`."""
    values, classes = _checked(scores, labels)
    positive = int(classes.sum())
    negative = len(classes) - positive
    wins = scipy.stats.rankdata(values)[classes == 1].sum() - positive * (positive + 1) / 2
    return float(wins / (positive * negative))


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


def _counts_above(scores: FloatArray, labels: ArrayLike, units: NDArray[np.intp],
                  weights: Weights) -> tuple[FloatArray, FloatArray]:
    """Alarms of every rule ``score > threshold``, under many weightings of the samples.

    Parameters
    ----------
    scores : (n,) array of float
        Suspicion, high is unsafe; samples with NaN are left out.
    labels : (n,) array of int
        1 is misbehavior.
    units : (n,) array of int
        The row of `weights` that holds a sample's weight.
    weights : (u, resamples) array of float32
        Whole numbers of at least 0.

    Returns
    -------
    caught, cried : (thresholds + 1, resamples) array of float
        Weight of the misbehaving and of the benign samples that alarm, from the rule that never
        does to the one that always does; one row per distinct score between them.
    """
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    ends = np.flatnonzero(np.diff(scores[order], append=np.nan) != 0)  # last sample of each step
    bad = np.asarray(labels)[order] == 1
    sides = []
    for member in (bad, ~bad):
        own = np.cumsum(weights[units[order[member]]], axis=0, dtype=np.float64)
        passed = np.append(0, np.cumsum(member)[ends])
        sides.append(np.pad(own, ((1, 0), (0, 0)))[passed])
    return sides[0], sides[1]


def _partial_area(caught: FloatArray, cried: FloatArray, max_far: float = MAX_FAR) -> FloatArray:
    """Area under each curve up to a false alarm rate, on the scale of McClish.

    Chance is 1/2 and the best is 1. A step that crosses `max_far` is cut on its straight line.

    Parameters
    ----------
    caught, cried : (thresholds + 1, resamples) array of float
        From `_counts_above`.
    max_far : float
        In (0, 1].

    References
    ----------
    D. K. McClish, *Analyzing a portion of the ROC curve*, Medical Decision Making 9 (1989),
    190-195.
    """
    right = np.diff(cried, axis=0)
    inside = np.clip(max_far * cried[-1] - cried[:-1], 0, right)
    rise = np.diff(caught, axis=0) * inside / np.maximum(right, 1)
    area = ratio(np.sum(inside * (caught[:-1] + rise / 2), axis=0), caught[-1] * cried[-1])
    chance = max_far**2 / 2
    return (1 + (area - chance) / (max_far - chance)) / 2


def _best_within(caught: FloatArray, cried: FloatArray, level: float) -> FloatArray:
    """Highest detection rate of any rule of each curve whose false alarm rate is at most `level`.

    `caught` and `cried` are those of `_counts_above`; NaN where a class is missing.
    """
    # Counts are whole: the tolerance keeps 0.29 * 100 from landing below 29.
    last = np.sum(cried <= np.floor(level * cried[-1] + 1e-9), axis=0) - 1
    best = ratio(np.take_along_axis(caught, last[None], axis=0)[0], caught[-1])
    return np.where(cried[-1] > 0, best, np.nan)


def _area(caught: FloatArray, cried: FloatArray) -> FloatArray:
    """Area under each curve of `_counts_above`, ties counted half; NaN where a class is missing."""
    twice = np.sum(np.diff(cried, axis=0) * (caught[1:] + caught[:-1]), axis=0)
    return ratio(twice / 2, caught[-1] * cried[-1])


def _measures(caught: FloatArray, cried: FloatArray) -> FloatArray:
    """`MEASURES` of each curve of `_counts_above`, shape (resamples, measures)."""
    best = [_best_within(caught, cried, far) for far in FARS]
    return np.stack([_area(caught, cried), _partial_area(caught, cried), *best], axis=1)


def resampled_auroc(scores: FloatArray, labels: ArrayLike, units: NDArray[np.intp],
                    weights: Weights) -> FloatArray:
    """Area under the ROC curve of one monitor under many weightings of its samples.

    Parameters
    ----------
    scores : (n,) array of float
        Suspicion, high is unsafe; samples with NaN are left out.
    labels : (n,) array of int
        1 is misbehavior.
    units : (n,) array of int
        The row of `weights` that holds a sample's weight.
    weights : (u, resamples) array of float32
        Whole numbers of at least 0.

    Returns
    -------
    (resamples,) array of float
        Ties counted by half; NaN where a class has no weight.
    """
    width = max(1, _AT_ONCE // max(len(scores), 1))
    return np.concatenate([
        _area(*_counts_above(scores, labels, units, weights[:, start : start + width]))
        for start in range(0, weights.shape[1], width)])


class _RocBand(NamedTuple):
    """A ROC curve with its sampling uncertainty.

    Attributes
    ----------
    grid : DataFrame
        Columns ``far``, ``tpr``, ``low``, ``high``: pointwise 95 % band of the curve, with straight
        lines between its points; for drawing.
    summary : DataFrame
        Columns ``measure`` (`MEASURES`), ``value``, ``low``, ``high``: percentile intervals from
        the same resamples. If no resample differs (a perfect monitor) an interval is one point.
    """

    grid: pd.DataFrame
    summary: pd.DataFrame


def roc_band(scores: ArrayLike, labels: ArrayLike, units: ArrayLike, rng: np.random.Generator,
             n: int = RESAMPLES, grid: ArrayLike | None = None) -> _RocBand:
    """Resample whole units for a band around the ROC curve and intervals of its measures.

    Parameters
    ----------
    scores, labels : array_like, shape (n_samples,)
        As in `roc`.
    units : array_like, shape (n_samples,)
        Name of the unit that is resampled whole: the scenario of each sample. With pairs, bands
        speak of new pairs from the same scenarios.
    rng : Generator
        For the resamples.
    n : int
        Resamples.
    grid : array_like, optional
        False alarm rates of the band, in [0, 1]; 0, .01, ..., 1 by default.
    """
    points = roc(scores, labels)
    values, classes = np.asarray(scores, dtype=np.float64), check_labels(labels)
    at = np.linspace(0.0, 1.0, 101) if grid is None else np.asarray(grid, dtype=np.float64)
    names, unit = np.unique(np.asarray(units), return_inverse=True)
    at_once = max(1, _AT_ONCE // len(unit)) * len(names)
    measures, curves = [], []
    for weights in draw_units(rng, len(names), n, at_once):
        counts = _counts_above(values, classes, unit, weights)
        measures.append(_measures(*counts))
        with np.errstate(invalid="ignore"):  # a resample without a class has no rates
            tpr, far = (side / side[-1] for side in counts)
        curves.append([np.interp(at, x, y) for x, y in zip(far.T, tpr.T, strict=True)])
    once = np.ones((len(names), 1), np.float32)
    value = _measures(*_counts_above(values, classes, unit, once))[0]
    (low, high), (least, most) = (
        np.nanquantile(np.concatenate(drawn), [0.025, 0.975], axis=0)
        for drawn in (curves, measures))
    tpr = np.interp(at, points["far"], points["tpr"])
    return _RocBand(pd.DataFrame({"far": at, "tpr": tpr, "low": low, "high": high}),
                    pd.DataFrame({"measure": MEASURES, "value": value, "low": least, "high": most}))


class JudgedError(ValueError):
    """Verdicts and samples do not fit together; the message says where and what to do."""


def check_labels(labels: ArrayLike, ids: ArrayLike | None = None) -> NDArray[np.int8]:
    """Return labels as 0 and 1; what is neither is refused, and never taken for benign.

    Parameters
    ----------
    labels : array_like, shape (n,)
        Numbers or booleans; 1 is misbehavior.
    ids : array_like of str, shape (n,), optional
        Names of the samples, for the message.

    Raises
    ------
    JudgedError
        For a missing label, text such as "1", or another number.
    """
    values = labels if isinstance(labels, pd.Series) else pd.Series(np.asarray(labels))
    if pd.api.types.is_bool_dtype(values.dtype) or pd.api.types.is_numeric_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numbers = np.array([float(value) if isinstance(value, bool | int | float | np.number
                            | np.bool_) else np.nan for value in values])
    strange = ~np.isin(numbers, (0.0, 1.0))
    if strange.any():
        at = int(np.argmax(strange))
        value = values.iloc[at]
        missing = pd.api.types.is_scalar(value) and pd.isna(value)
        value = value.item() if isinstance(value, np.generic) else value
        shown = "missing" if missing else repr(value)[:40]
        where = f"(row {at})" if ids is None else f"of sample {str(np.asarray(ids)[at])[:60]!r}"
        raise JudgedError(f"{strange.sum()} of {len(numbers)} labels are neither 0 nor 1, the "
                          f"first {where} is {shown}: expected the number 1 (misbehavior) or 0 "
                          "(benign)")
    return numbers.astype(np.int8)
