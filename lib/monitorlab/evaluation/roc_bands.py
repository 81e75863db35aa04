"""Uncertainty of ROC curves and of their measures, by resampling whole pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from monitorlab.evaluation.curves import (
    MAX_FAR,
    area_until,
    auroc,
    falling_steps,
    reached,
    standardised,
    weighted_rates,
)
from monitorlab.evaluation.panel import first_draws
from monitorlab.monitors.verdicts import PARSED

FloatArray = NDArray[np.float64]

FARS = (0.01, 0.05, 0.1)  # false alarm rates at which detection is reported
RESAMPLES = 2000
MEASURES = ("auroc", "pauroc", *(f"tpr_{100 * far:02.0f}" for far in FARS))
_BLOCK = 500_000  # weights held at once by the bootstrap


@dataclass(frozen=True)
class RocBand:
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
    pairs: ArrayLike,
    rng: np.random.Generator,
    n: int = RESAMPLES,
    grid: ArrayLike | None = None,
    max_far: float = MAX_FAR,
) -> RocBand:
    """Resample whole pairs for a band around the ROC curve and intervals of its measures.

    Parameters
    ----------
    scores, labels : array_like, shape (n_samples,)
        As in `curves.roc`.
    pairs : array_like, shape (n_samples,)
        Name of the unit that is resampled whole; pass scenarios for wider, more careful bands.
    rng : Generator
        For the resamples.
    n : int
        Resamples.
    grid : array_like, optional
        False alarm rates of the band, in [0, 1]; 0, .01, ..., 1 by default.
    max_far : float
        Right end of the partial area.
    """
    steps = falling_steps(scores, labels)
    at = np.linspace(0.0, 1.0, 101) if grid is None else np.asarray(grid, dtype=np.float64)
    tpr, far = weighted_rates(steps, np.ones((1, len(steps.group))))
    measures, curves = [], []
    for weights in _resampled(pairs, rng, n):
        drawn = weighted_rates(steps, weights)
        measures.append(_measures(*drawn, max_far))
        curves.append(_on_grid(*drawn, at))
    low, high = _interval(np.concatenate(curves))
    table = pd.DataFrame({"far": at, "tpr": _on_grid(tpr, far, at)[0], "low": low, "high": high})
    low, high = _interval(np.concatenate(measures))
    return RocBand(table, pd.DataFrame({
        "measure": MEASURES, "value": _measures(tpr, far, max_far)[0], "low": low, "high": high,
    }))


def curve_table(
    judged: pd.DataFrame,
    rng: np.random.Generator,
    by: str | None = None,
    n: int = RESAMPLES,
    max_far: float = MAX_FAR,
) -> pd.DataFrame:
    """Areas and detection rates of every monitor, with 95 % pair-bootstrap intervals.

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
    max_far : float
        Right end of the partial area.

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
        rows.append({**dict(zip(keys, key, strict=True)), **_curve_row(part, rng, n, max_far)})
    return pd.DataFrame(rows)


def _curve_row(
    part: pd.DataFrame, rng: np.random.Generator, n: int, max_far: float
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
    pairs = part["pair_id"].to_numpy()[scored]
    band = roc_band(scores[scored], labels[scored], pairs, rng, n, [0.0], max_far)
    for name, value, low, high in band.summary.itertuples(index=False):
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row


def _resampled(pairs: ArrayLike, rng: np.random.Generator, n: int) -> Iterator[FloatArray]:
    """How often each sample was drawn, in blocks of resamples."""
    names, unit = np.unique(np.asarray(pairs), return_inverse=True)
    size = max(1, _BLOCK // len(unit))
    for start in range(0, n, size):
        rows = min(size, n - start)
        drawn = rng.integers(0, len(names), (rows, len(names)))
        drawn += np.arange(rows)[:, None] * len(names)
        counts = np.bincount(drawn.ravel(), minlength=rows * len(names))
        yield counts.reshape(rows, len(names))[:, unit].astype(np.float64)


def _measures(tpr: FloatArray, far: FloatArray, max_far: float) -> FloatArray:
    """`MEASURES` of each curve, shape (n_curves, n_measures)."""
    areas = [area_until(tpr, far, 1.0), standardised(area_until(tpr, far, max_far), max_far)]
    return np.stack([*areas, *(reached(tpr, far, level) for level in FARS)], axis=1)


def _on_grid(tpr: FloatArray, far: FloatArray, grid: FloatArray) -> FloatArray:
    return np.stack([np.interp(grid, x, y) for x, y in zip(far, tpr, strict=True)])


def _interval(draws: FloatArray) -> FloatArray:
    return np.asarray(np.nanquantile(draws, [0.025, 0.975], axis=0), dtype=np.float64)
