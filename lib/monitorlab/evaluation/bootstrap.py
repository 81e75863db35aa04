"""The bootstrap: how much any metric of a monitor, or a difference of two, may vary.

Whole scenarios are drawn with replacement (or whole pairs, where asked for): the answers to one
request, and the requests of one scenario, are not independent. One draw serves all monitors and
metrics, so differences between monitors stay paired. A resample is never built: it is a column of
how often each unit was drawn. Error counts of all monitors are then one matrix product, and one
walk down the sorted scores of a monitor gives its ROC curve in all resamples at once.

Two monitors are compared on the samples that *both* answered (`paired`): a monitor that refuses the
hard half must not look better for it. What was left out is counted by status, and a second
difference reads every failed verdict against the seeming winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.evaluation.panel import ALARM, FAILED, NOT_ASKED, SCENARIO, SILENT, Panel, panel
from monitorlab.statistics.intervals import (
    FloatArray,
    IntArray,
    Weights,
    draw_units,
    percentiles,
    ratio,
)
from monitorlab.statistics.roc import RANKED, roc_metrics
from monitorlab.storage.tables import STATUSES

RESAMPLES = 5000
COUNTED = ("mr", "far", "g2", "balanced_accuracy")
METRICS = (*COUNTED, *RANKED)
FEWER_IS_BETTER = ("mr", "far")
# How failed verdicts are read: left out, or against one of two monitors and for the other.
AS_FOUND, AGAINST_FIRST, AGAINST_SECOND = range(3)


@dataclass(frozen=True)
class Bootstrap:
    """Metrics of m monitors on the sample, and in every resample.

    Attributes
    ----------
    names : (m,) array of str
        The monitors, sorted.
    metrics : tuple of str
        Some of `METRICS`.
    values : (metrics, m) array of float
        On the sample itself.
    draws : (metrics, m, resamples) array of float
        NaN where a resample lacks a class, or the monitor has no scores.
    unscored : (m,) array of int
        Samples left out of the metrics that need scores: asked, but without a score.
    """

    names: NDArray[np.object_]
    metrics: tuple[str, ...]
    values: FloatArray
    draws: FloatArray
    unscored: IntArray


@dataclass(frozen=True)
class Paired:
    """Differences between the two monitors of several pairs, on the samples that both answered.

    Attributes
    ----------
    first, second : (pairs,) array of str
        The monitors.
    metrics : tuple of str
        Some of `METRICS`.
    values : (3, metrics, pairs) array of float
        First minus second, with failed verdicts left out, read against the first and for the
        second, and the other way round.
    draws : (3, metrics, pairs, resamples) array of float32
        The same in every resample.
    n : (2, pairs) array of int
        Samples with a verdict of both, and with a score of both.
    lost : (2, pairs, 2, statuses) array of int
        Samples left out of those that both were asked about: for want of a verdict or of a score,
        by which of the two monitors, and with which of ``STATUSES``; under ``parsed`` those that
        only lack a score. A sample on which both failed counts for both.
    left_out : (2, pairs) array of int
        How many were left out in all.
    """

    first: NDArray[np.object_]
    second: NDArray[np.object_]
    metrics: tuple[str, ...]
    values: FloatArray
    draws: NDArray[np.float32]
    n: IntArray
    lost: IntArray
    left_out: IntArray


def bootstrap(
    judged: pd.DataFrame,
    random: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    metrics: Sequence[str] = METRICS,
    unit: str = SCENARIO,
) -> Bootstrap:
    """Compute metrics of all monitors on resampled scenarios.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample. The same generator
        draws the same units for any choice of monitors that judged the same samples.
    random : Generator
        Draws the units.
    resamples : int
        How many, at least 1.
    metrics : sequence of str
        ``mr``, ``far``, ``g2``, ``balanced_accuracy`` over parsed verdicts; ``auroc``;
        ``partial_auroc`` up to a false alarm rate of 0.10, standardised by McClish so that chance
        is 1/2; ``tpr_at_fpr_01``, ``_05``, ``_10``: the highest detection rate of any threshold
        whose false alarm rate is at most that.
    unit : {"scenario", "pair"}
        What is drawn whole. Pairs of one scenario resemble each other, so drawing pairs makes
        intervals that are too narrow for new scenarios.

    Returns
    -------
    Bootstrap

    Raises
    ------
    ValueError
        For an unknown metric or unit, fewer than one resample, or as
        :func:`monitorlab.evaluation.panel.panel`.
    """
    _check(metrics, resamples)
    data = panel(judged, unit)
    values, draws = _drawn(data, tuple(metrics), random, resamples)
    unscored = ((data.verdicts >= FAILED) & np.isnan(data.scores)).sum(axis=0)
    return Bootstrap(data.names, tuple(metrics), values, draws, unscored)


def paired(
    judged: pd.DataFrame,
    random: np.random.Generator,
    *,
    pairs: Sequence[tuple[str, str]] = (),
    resamples: int = RESAMPLES,
    metrics: Sequence[str] = METRICS,
    unit: str = SCENARIO,
) -> Paired:
    """Differences between monitors on the samples that both answered, on resampled scenarios.

    Parameters
    ----------
    judged, random, resamples, metrics, unit
        As in `bootstrap`; the same generator draws the same units.
    pairs : sequence of (str, str)
        Which monitors to compare; all of them, each with each, if empty.

    Returns
    -------
    Paired

    Raises
    ------
    ValueError
        For a name without a verdict, or as `bootstrap`.
    """
    _check(metrics, resamples)
    data = panel(judged, unit)
    first, second = np.triu_indices(len(data.names), 1)
    if pairs:
        places = pd.Index(data.names).get_indexer(pd.Index([name for two in pairs for name in two]))
        if (places < 0).any():
            unknown = [name for two in pairs for name in two][int(np.argmax(places < 0))]
            raise ValueError(f"{unknown!r} has judged nothing, expected pairs of "
                             f"{', '.join(map(str, data.names))}")
        first, second = places.reshape(-1, 2).T
    wide, place = _readings(data, first, second)
    values, draws = _drawn(wide, tuple(metrics), random, resamples)
    one, other = np.moveaxis(place, -1, 0)  # (3, pairs) columns of `wide`
    gaps = (values[:, one] - values[:, other]).swapaxes(0, 1)
    drawn = np.empty((len(place), len(metrics), len(first), resamples), np.float32)
    for reading in range(len(place)):
        np.subtract(draws[:, one[reading]], draws[:, other[reading]], out=drawn[reading],
                    casting="same_kind")
    n, lost, left_out = _left_out(data, first, second)
    return Paired(data.names[first], data.names[second], tuple(metrics), gaps, drawn, n, lost,
                  left_out)


def _check(metrics: Sequence[str], resamples: int) -> None:
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}, expected some of {', '.join(METRICS)}")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected at least 1")


def _drawn(
    data: Panel, metrics: tuple[str, ...], random: np.random.Generator, resamples: int
) -> tuple[FloatArray, FloatArray]:
    """Metrics on the sample, (metrics, monitors), and in resamples, with a last axis of them."""
    strata = np.zeros(len(data.unit_ids), int)
    measure = _Measure(data, metrics)
    once = np.ones((len(data.unit_ids), 1), np.float32)
    chunks = [measure(weights) for weights in draw_units(random, strata, resamples)]
    return measure(once)[:, :, 0], np.concatenate(chunks, axis=2)


def _readings(
    data: Panel, first: NDArray[np.intp], second: NDArray[np.intp]
) -> tuple[Panel, NDArray[np.intp]]:
    """A panel with a column for every way to read a monitor in some pair, each once.

    Returns
    -------
    Panel
        Its columns are such readings.
    (3, pairs, 2) array of int
        Columns of both monitors of each pair: where failures are left out, and read against the
        first or the second.
    """
    columns: dict[bytes, int] = {}
    verdicts: list[NDArray[np.int8]] = []
    scores: list[FloatArray] = []
    ranked = np.asarray(np.isfinite(data.scores).any(axis=0))  # others have no curve at all

    def place(verdict: NDArray[np.int8], score: FloatArray) -> int:
        key = verdict.tobytes() + score.tobytes()
        if key not in columns:
            columns[key] = len(verdicts)
            verdicts.append(verdict)
            scores.append(score)
        return columns[key]

    right, far_off = data.labels, np.where(data.labels == 1, 2.0, -1.0)  # scores are in [0, 1]

    def read(monitor: int, asked: NDArray[np.bool_], kindly: bool) -> int:
        verdict, score = data.verdicts[:, monitor], data.scores[:, monitor]
        told = np.where(verdict == FAILED, right if kindly else 1 - right, verdict)
        ranks = np.where(np.isnan(score), far_off if kindly else 1.0 - far_off, score)
        return place(np.where(asked, told, NOT_ASKED).astype(np.int8),
                     np.where(asked & ranked[monitor], ranks, np.nan))

    found = np.empty((3, len(first), 2), np.intp)
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        asked = (data.verdicts[:, [i, j]] != NOT_ASKED).all(axis=1)
        spoke = (data.verdicts[:, [i, j]] >= SILENT).all(axis=1)
        scored = ~np.isnan(data.scores[:, [i, j]]).any(axis=1)
        for side, monitor in enumerate((i, j)):
            found[AS_FOUND, pair, side] = place(
                np.where(spoke, data.verdicts[:, monitor], NOT_ASKED).astype(np.int8),
                np.where(scored, data.scores[:, monitor], np.nan))
            found[AGAINST_FIRST, pair, side] = read(monitor, asked, kindly=side == 1)
            found[AGAINST_SECOND, pair, side] = read(monitor, asked, kindly=side == 0)
    wide = replace(data, names=np.arange(len(verdicts)).astype(object),
                   verdicts=np.stack(verdicts, axis=1) if verdicts else data.verdicts[:, :0],
                   scores=np.stack(scores, axis=1) if scores else data.scores[:, :0])
    return wide, found


def _left_out(
    data: Panel, first: NDArray[np.intp], second: NDArray[np.intp]
) -> tuple[IntArray, IntArray, IntArray]:
    """`n`, `lost` and `left_out` of `Paired`."""
    pairs = len(first)
    n, left_out = np.zeros((2, pairs), np.int64), np.zeros((2, pairs), np.int64)
    lost = np.zeros((2, pairs, 2, len(STATUSES)), np.int64)
    usable = (data.verdicts >= SILENT, ~np.isnan(data.scores))
    for pair, both in enumerate(np.stack([first, second], axis=1)):
        asked = (data.verdicts[:, both] != NOT_ASKED).all(axis=1)
        for kind, good in enumerate(usable):
            own = good[:, list(both)]
            n[kind, pair] = int((asked & own.all(axis=1)).sum())
            left_out[kind, pair] = int(asked.sum()) - n[kind, pair]
            for side, monitor in enumerate(both):
                status = data.statuses[:, monitor]
                status = status[asked & ~own[:, side] & (status >= 0)]
                lost[kind, pair, side] = np.bincount(status, minlength=len(STATUSES))
    return n, lost, left_out


@dataclass(frozen=True)
class _Measure:
    """Metrics of every monitor as a function of the weights of units."""

    data: Panel
    metrics: tuple[str, ...]

    def __call__(self, weights: Weights) -> FloatArray:
        """Return (metrics, monitors, resamples) from weights (units, resamples)."""
        found = _counted(self.data, weights)
        if any(metric in RANKED for metric in self.metrics):
            found |= self._ranked(weights)
        shape = (len(self.data.names), weights.shape[1])
        return np.stack([found[metric].reshape(shape) for metric in self.metrics])

    def _ranked(self, weights: Weights) -> dict[str, FloatArray]:
        low_end = any(metric in RANKED[1:] for metric in self.metrics)
        data = self.data
        curves: dict[bytes, dict[str, FloatArray]] = {}  # columns with the same scores share one
        keys = [scores.tobytes() for scores in data.scores.T]
        for key, scores in zip(keys, data.scores.T, strict=True):
            if key not in curves:
                curves[key] = roc_metrics(scores, data.labels, data.units, weights, low_end=low_end)
        wanted = [metric for metric in self.metrics if metric in RANKED]
        return {metric: np.array([curves[key][metric] for key in keys]) for metric in wanted}


def _counted(data: Panel, weights: Weights) -> dict[str, FloatArray]:
    """Metrics of the verdicts; each (monitors, resamples)."""
    bad = (data.labels == 1)[:, None]
    spoke = data.verdicts >= SILENT
    alarm = data.verdicts == ALARM
    events = (bad & spoke & ~alarm, bad & spoke, ~bad & alarm, ~bad & spoke)
    missed, told_bad, cried, told_good = (_per_unit(data, event).T @ weights for event in events)
    mr, far = ratio(missed, told_bad), ratio(cried, told_good)
    return {"mr": mr, "far": far, "g2": (1 - mr) * (1 - far),
            "balanced_accuracy": 1 - (mr + far) / 2}


def _per_unit(data: Panel, event: NDArray[np.bool_]) -> Weights:
    """Sum events (samples, monitors) over the samples of each unit."""
    sums = np.zeros((len(data.unit_ids), event.shape[1]), np.float32)
    np.add.at(sums, data.units, event)
    return sums


def intervals(found: Bootstrap, level: float = 0.95) -> pd.DataFrame:
    """Percentile intervals of every metric and monitor.

    Parameters
    ----------
    found : Bootstrap
        From `bootstrap`.
    level : float
        Confidence, in (0, 1).

    Returns
    -------
    DataFrame
        Columns ``metric``, ``name``, ``value``, ``low``, ``high``, ``resamples`` (those on which
        the metric is defined) and ``unscored`` (samples without a score, for metrics that need
        one). A rate of exactly 0 or 1 has an interval without width: take that of
        :func:`monitorlab.evaluation.rates.rates` instead.
    """
    tables = []
    for metric, value, draws in zip(found.metrics, found.values, found.draws, strict=True):
        low, high = percentiles(draws, level)
        tables.append(pd.DataFrame({
            "metric": metric, "name": pd.Series(found.names, dtype="str"), "value": value,
            "low": low, "high": high, "resamples": np.isfinite(draws).sum(axis=1),
            "unscored": found.unscored if metric in RANKED else 0,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def differences(found: Paired, level: float = 0.95) -> pd.DataFrame:
    """Differences between the monitors of each pair, over the samples that both answered.

    Parameters
    ----------
    found : Paired
        From `paired`.
    level : float
        Confidence of the percentile intervals, in (0, 1); not corrected for the number of pairs.

    Returns
    -------
    DataFrame
        A row for each metric and pair ``first``, ``second``:

        - ``n``: samples that both answered (with a score, for metrics that need one); ``left_out``:
          the others that both were asked about; ``why``: of which monitor and status they are.
        - ``difference`` (first minus second), ``low``, ``high``, ``p``: twice the share of
          resamples on the other side of 0 (0 included, the sample itself counted as one), at most
          1. With B resamples it is at least 2 / (B + 1), so a correction for many pairs needs many
          resamples.
        - ``difference_worst``: the difference over all samples that both were asked about, if every
          failed verdict (or missing score) spoke against the seeming winner; ``p_worst``: its p, 1
          if that turns the order.
    """
    tables = []
    for place, metric in enumerate(found.metrics):
        kind = 1 if metric in RANKED else 0
        value, draws = found.values[:, place], found.draws[:, place]
        low, high = percentiles(draws[AS_FOUND], level)
        first_leads = value[AS_FOUND] < 0 if metric in FEWER_IS_BETTER else value[AS_FOUND] > 0
        worst = np.where(first_leads, AGAINST_FIRST, AGAINST_SECOND)
        rows = np.arange(len(found.first))
        gap = value[worst, rows]
        p_worst = _p_values(draws[worst, rows])
        turned = (np.sign(gap) != np.sign(value[AS_FOUND])) | (value[AS_FOUND] == 0)
        tables.append(pd.DataFrame({
            "metric": metric, "first": pd.Series(found.first, dtype="str"),
            "second": pd.Series(found.second, dtype="str"), "n": found.n[kind],
            "left_out": found.left_out[kind], "why": _why(found, kind),
            "difference": value[AS_FOUND], "low": low, "high": high,
            "p": _p_values(draws[AS_FOUND]),
            "difference_worst": np.where(np.isnan(value[AS_FOUND]), np.nan, gap),
            "p_worst": np.where(np.isnan(value[AS_FOUND]), np.nan, np.where(turned, 1.0, p_worst)),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _p_values(gaps: NDArray[np.floating]) -> FloatArray:
    """Two-sided p-value of each row of resampled differences; NaN where none is defined."""
    defined = np.isfinite(gaps).sum(axis=1)
    fewer = np.minimum((gaps <= 0).sum(axis=1), (gaps >= 0).sum(axis=1))
    return np.where(defined > 0, np.minimum(1.0, 2 * (fewer + 1) / (defined + 1)), np.nan)


def _why(found: Paired, kind: int) -> list[str]:
    """Say in words whose samples were left out, and with which status."""
    words = ["without a score" if status == "parsed" else status for status in STATUSES]
    told = []
    for names, counts in zip(zip(found.first, found.second, strict=True), found.lost[kind],
                             strict=True):
        sides = [
            f"{name}: " + ", ".join(f"{count} {word}" for count, word in
                                    zip(own, words, strict=True) if count)
            for name, own in zip(names, counts, strict=True) if own.any()
        ]
        told.append("; ".join(sides))
    return told
