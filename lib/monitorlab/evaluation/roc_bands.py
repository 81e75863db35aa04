"""Uncertainty of ROC curves and of their measures, by resampling whole scenarios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from monitorlab.evaluation.panel import SCENARIO, first_draws, unit_ids
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics.intervals import FloatArray, Weights, draw_units
from monitorlab.statistics.roc import (
    TPR_AT,
    auroc,
    check_labels,
    counts_above,
    roc,
    roc_metrics,
)

FARS = tuple(TPR_AT.values())  # false alarm rates at which detection is reported
RESAMPLES = 2000
MEASURES = ("auroc", "pauroc", *(f"tpr_{100 * far:02.0f}" for far in FARS))
_BLOCK = 500_000  # weights of samples held at once


@dataclass(frozen=True)
class _RocBand:
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


def roc_band(
    scores: ArrayLike,
    labels: ArrayLike,
    units: ArrayLike,
    rng: np.random.Generator,
    n: int = RESAMPLES,
    grid: ArrayLike | None = None,
) -> _RocBand:
    """Resample whole units for a band around the ROC curve and intervals of its measures.

    Parameters
    ----------
    scores, labels : array_like, shape (n_samples,)
        As in `curves.roc`.
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
    once = roc(scores, labels)
    values, classes = np.asarray(scores, dtype=np.float64), check_labels(labels)
    at = np.linspace(0.0, 1.0, 101) if grid is None else np.asarray(grid, dtype=np.float64)
    names, unit = np.unique(np.asarray(units), return_inverse=True)
    at_once = max(1, _BLOCK // len(unit)) * len(names)
    drawn = draw_units(rng, np.zeros(len(names), np.intp), n, at_once)
    measures, curves = [], []
    for weights in drawn:
        measures.append(_measures(values, classes, unit, weights))
        with np.errstate(invalid="ignore"):  # a resample without a class has no rates
            tpr, far = (side / side[-1] for side in counts_above(values, classes, unit, weights))
        curves.append([np.interp(at, x, y) for x, y in zip(far.T, tpr.T, strict=True)])
    low, high = _interval(np.concatenate(curves))
    table = pd.DataFrame({"far": at, "tpr": np.interp(at, once["far"], once["tpr"]), "low": low,
                          "high": high})
    low, high = _interval(np.concatenate(measures))
    found = _measures(values, classes, unit, np.ones((len(names), 1), np.float32))[0]
    return _RocBand(table, pd.DataFrame({"measure": MEASURES, "value": found, "low": low,
                                        "high": high}))


def curve_table(
    judged: pd.DataFrame,
    rng: np.random.Generator,
    by: str | None = None,
    n: int = RESAMPLES,
    unit: str = SCENARIO,
) -> pd.DataFrame:
    """Areas and detection rates of every monitor, with 95 % intervals over resampled scenarios.

    Only samples with a score have a place on a curve. `n_unscored` counts the others (failed
    verdicts, or a monitor that gives none), and ``auroc_worst`` and ``auroc_best`` are the area if
    all of them had been ranked as wrongly, or as rightly, as possible.

    Parameters
    ----------
    judged : DataFrame
        Verdicts joined with their samples. First draws only.
    rng : Generator
        For the resamples.
    by : str, optional
        Column, such as ``cell``, each value of which gets rows of its own.
    n : int
        Resamples.
    unit : {"scenario", "pair"}
        What is drawn whole.

    Returns
    -------
    DataFrame
        One row per name (and `by`): ``n`` samples with a score, ``n_unscored``, ``auroc_worst``,
        ``auroc_best`` and `MEASURES`, each with ``_low`` and ``_high``; missing where the scored
        samples lack a class.
    """
    keys = ["name"] if by is None else ["name", by]
    rows = []
    for key, part in first_draws(judged).groupby(keys, sort=False):
        units = unit_ids(part, unit).to_numpy()
        row = _curve_row(part, units, rng, n)
        rows.append({**dict(zip(keys, key, strict=True)), **row})
    return pd.DataFrame(rows)


def _curve_row(
    part: pd.DataFrame, units: ArrayLike, rng: np.random.Generator, n: int
) -> dict[str, float]:
    scores = part["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    labels = part["label"].to_numpy(dtype=np.int64)
    scored = np.isfinite(scores) & (part["status"] == PARSED).to_numpy(bool)
    row: dict[str, float] = {"n": int(scored.sum()), "n_unscored": int((~scored).sum())}
    whole = len(np.unique(labels)) == 2 and bool(scored.any())
    for name, sign in (("auroc_worst", -1.0), ("auroc_best", 1.0)):
        # past either end of [0, 1]: misbehavior down and benign up is as wrong as can be
        extreme = np.where(scored, scores, sign * np.where(labels == 1, 2.0, -2.0))
        row[name] = auroc(extreme, labels) if whole else np.nan
    if len(np.unique(labels[scored])) < 2:
        ends = ("", "_low", "_high")
        return row | {f"{name}{end}": np.nan for name in MEASURES for end in ends}
    drawn = np.asarray(units)[scored]
    band = roc_band(scores[scored], labels[scored], drawn, rng, n, [0.0])
    for name, value, low, high in band.summary.itertuples(index=False):
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def _measures(
    scores: FloatArray, labels: ArrayLike, units: NDArray[np.intp], weights: Weights
) -> FloatArray:
    """`MEASURES` of each resample, shape (resamples, measures)."""
    found = roc_metrics(scores, labels, units, weights)
    return np.stack(list(found.values()), axis=1)


def _interval(draws: FloatArray) -> FloatArray:
    return np.asarray(np.nanquantile(draws, [0.025, 0.975], axis=0), dtype=np.float64)
