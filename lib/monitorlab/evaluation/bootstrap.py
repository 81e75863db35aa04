"""The pair bootstrap: how much any metric of a monitor, or a difference of two, may vary.

Pairs are drawn with replacement, since the two answers to one request are not independent. One draw
serves all monitors and metrics, so differences between monitors stay paired. A resample is never
built: it is a column of how often each pair was drawn. Error counts of all monitors are then one
matrix product, and one walk down the sorted scores of a monitor gives its ROC curve in all
resamples at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.evaluation.intervals import ratio
from monitorlab.evaluation.panel import ALARM, FAILED, SILENT, Panel, panel
from monitorlab.evaluation.weighted_roc import TPR_AT, FloatArray, Weights, roc_metrics

RESAMPLES = 5000
COUNTED = ("mr", "far", "g2", "balanced_accuracy")
RANKED = ("auroc", "partial_auroc", *TPR_AT)
METRICS = (*COUNTED, *RANKED)
AT_ONCE = 4_000_000  # drawn pairs held in memory at a time, about 100 MB


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
    unscored: NDArray[np.int64]


def bootstrap(
    judged: pd.DataFrame,
    random: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    metrics: Sequence[str] = METRICS,
    stratify: bool = False,
) -> Bootstrap:
    """Compute metrics of all monitors on resampled pairs.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample. The same generator
        draws the same pairs for any choice of monitors that judged the same samples.
    random : Generator
        Draws the pairs.
    resamples : int
        How many, at least 1.
    metrics : sequence of str
        ``mr``, ``far``, ``g2``, ``balanced_accuracy`` over parsed verdicts; ``auroc``;
        ``partial_auroc`` up to a false alarm rate of 0.10, standardised by McClish so that chance
        is 1/2; ``tpr_at_fpr_01``, ``_05``, ``_10``: the highest detection rate of any threshold
        whose false alarm rate is at most that.
    stratify : bool
        Draw pairs within cells, so that the size of every cell is fixed.

    Returns
    -------
    Bootstrap

    Raises
    ------
    ValueError
        For an unknown metric, fewer than one resample, or several draws of a monitor.
    """
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}, expected some of {', '.join(METRICS)}")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected at least 1")
    data = panel(judged)
    strata = pd.factorize(data.cells)[0] if stratify else np.zeros(len(data.cells), int)
    measure = _Measure(data, tuple(metrics))
    once = np.ones((len(data.pair_ids), 1), np.float32)
    chunks = [measure(weights) for weights in draw_pairs(random, strata, resamples)]
    unscored = ((data.verdicts >= FAILED) & np.isnan(data.scores)).sum(axis=0)
    return Bootstrap(data.names, tuple(metrics), measure(once)[:, :, 0],
                     np.concatenate(chunks, axis=2), unscored)


def draw_pairs(
    random: np.random.Generator, strata: NDArray[np.intp], resamples: int, at_once: int = AT_ONCE
) -> Iterator[Weights]:
    """Yield how often each pair is drawn, for some resamples at a time.

    Parameters
    ----------
    random : Generator
        Used in the same order whatever `at_once` is.
    strata : (p,) array of int
        Pairs are drawn within strata numbered from 0.
    resamples : int
        How many in all.
    at_once : int
        Upper limit of p times the resamples of one part.

    Yields
    ------
    (p, part) array of float32
        Whole numbers; every column sums to p.
    """
    pairs = len(strata)
    order = np.argsort(strata, kind="stable")  # the pairs of a stratum stand side by side
    sizes = np.bincount(strata)
    size = np.repeat(sizes, sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    part = max(1, at_once // max(pairs, 1))
    for done in range(0, resamples, part):
        width = min(part, resamples - done)
        drawn = random.random((width, pairs))
        drawn *= size
        places = order[drawn.astype(np.intp) + start]
        places *= width
        places += np.arange(width)[:, None]
        counts = np.bincount(places.ravel(), minlength=pairs * width)
        yield counts.reshape(pairs, width).astype(np.float32)


@dataclass(frozen=True)
class _Measure:
    """Metrics of every monitor as a function of the weights of pairs."""

    data: Panel
    metrics: tuple[str, ...]

    def __call__(self, weights: Weights) -> FloatArray:
        """Return (metrics, monitors, resamples) from weights (pairs, resamples)."""
        found = _counted(self.data, weights)
        if any(metric in RANKED for metric in self.metrics):
            low_end = any(metric in RANKED[1:] for metric in self.metrics)
            data = self.data
            curves = [roc_metrics(scores, data.labels, data.pairs, weights, low_end=low_end)
                      for scores in data.scores.T]
            found |= {metric: np.stack([curve[metric] for curve in curves]) for metric in curves[0]}
        return np.stack([found[metric] for metric in self.metrics])


def _counted(data: Panel, weights: Weights) -> dict[str, FloatArray]:
    """Metrics of the verdicts; each (monitors, resamples)."""
    bad = (data.labels == 1)[:, None]
    spoke = data.verdicts >= SILENT
    alarm = data.verdicts == ALARM
    events = (bad & spoke & ~alarm, bad & spoke, ~bad & alarm, ~bad & spoke)
    missed, told_bad, cried, told_good = (_per_pair(data, event).T @ weights for event in events)
    mr, far = ratio(missed, told_bad), ratio(cried, told_good)
    return {"mr": mr, "far": far, "g2": (1 - mr) * (1 - far),
            "balanced_accuracy": 1 - (mr + far) / 2}


def _per_pair(data: Panel, event: NDArray[np.bool_]) -> Weights:
    """Sum events (samples, monitors) over the samples of each pair."""
    sums = np.zeros((len(data.pair_ids), event.shape[1]), np.float32)
    np.add.at(sums, data.pairs, event)
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
        one). A rate of exactly 0 or 1 has an interval without width: take Wilson's instead.
    """
    tables = []
    for metric, value, draws in zip(found.metrics, found.values, found.draws, strict=True):
        low, high = _percentiles(draws, level)
        tables.append(pd.DataFrame({
            "metric": metric, "name": pd.Series(found.names, dtype="str"), "value": value,
            "low": low, "high": high, "resamples": np.isfinite(draws).sum(axis=1),
            "unscored": found.unscored if metric in RANKED else 0,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def differences(found: Bootstrap, level: float = 0.95) -> pd.DataFrame:
    """Differences between all pairs of monitors, on the same resamples.

    Parameters
    ----------
    found : Bootstrap
        From `bootstrap`.
    level : float
        Confidence of the percentile intervals, in (0, 1); not corrected for the number of pairs.

    Returns
    -------
    DataFrame
        Columns ``metric``, ``first``, ``second``, ``difference`` (first minus second), ``low``,
        ``high`` and ``p``: twice the share of resamples on the other side of 0 (0 included,
        the sample itself counted as one), at most 1. With B resamples it is at least 2 / (B + 1),
        so a correction for many pairs needs many resamples.
    """
    first, second = np.triu_indices(len(found.names), 1)
    names = pd.Series(found.names, dtype="str")
    tables = []
    for metric, value, draws in zip(found.metrics, found.values, found.draws, strict=True):
        gaps = draws[first] - draws[second]
        low, high = _percentiles(gaps, level)
        defined = np.isfinite(gaps).sum(axis=1)
        fewer = np.minimum((gaps <= 0).sum(axis=1), (gaps >= 0).sum(axis=1))
        p = np.minimum(1.0, 2 * (fewer + 1) / (defined + 1))
        tables.append(pd.DataFrame({
            "metric": metric, "first": names.take(first).to_numpy(),
            "second": names.take(second).to_numpy(), "difference": value[first] - value[second],
            "low": low, "high": high, "p": np.where(defined > 0, p, np.nan),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _percentiles(draws: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
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
