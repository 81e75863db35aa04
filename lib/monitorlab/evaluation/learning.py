"""Learning curves, and whether differences between arms exceed the noise of training.

A curve is a tidy frame: one row per arm, size (examples trained on), seed and cell (or group of
cells), with a column per metric.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import chi2

from monitorlab.evaluation.cell_draws import in_order
from monitorlab.statistics.roc import auroc, check_labels
from monitorlab.storage.tables import CELLS

KEYS = ("arm", "size", "seed", "cell")


def areas(verdicts: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """AUROC of every training in every cell, as `summary` takes it.

    Parameters
    ----------
    verdicts : DataFrame
        Columns ``arm``, ``size``, ``seed``, ``sample_id``, ``score`` in [0, 1], high is unsafe.
    samples : DataFrame
        Columns ``sample_id``, ``cell``, ``label``; those that were judged are looked at.

    Returns
    -------
    DataFrame
        ``arm, size, seed, cell, auroc``; NaN where a cell lacks a class. Samples without a score
        are left out.
    """
    check_labels(samples["label"], samples["sample_id"])
    known = samples.set_index("sample_id")[["cell", "label"]]
    rows = verdicts.join(known, on="sample_id").dropna(subset=["score"])
    found = [
        {**dict(zip(KEYS, keys, strict=True)),
         "auroc": auroc(part["score"].astype(float), part["label"])
         if part["label"].nunique() == 2 else np.nan}
        for keys, part in rows.groupby(list(KEYS), sort=False)
    ]
    return in_order(pd.DataFrame(found), cell=CELLS)


def _check_curves(curves: pd.DataFrame, metric: str) -> None:
    """Raise a ValueError unless there is one row per arm, size, seed and cell, with the metric."""
    missing = [column for column in (*KEYS, metric) if column not in curves]
    if missing:
        raise ValueError(f"curves lack the column {missing[0]!r}, expected {', '.join(KEYS)} and "
                         f"the metric; there are {', '.join(map(str, curves.columns))}")
    if curves.empty:
        raise ValueError("curves have no rows, expected one per arm, size, seed and cell")
    repeated = curves.duplicated(list(KEYS))
    if repeated.any():
        row = curves[repeated].iloc[0]
        raise ValueError(f"{', '.join(f'{key} {row[key]!r}' for key in KEYS)} has several rows, "
                         "expected one training each: average them or give each its own seed")


def summary(curves: pd.DataFrame, metric: str = "auroc") -> pd.DataFrame:
    """Mean and spread over seeds, at each size.

    Parameters
    ----------
    curves : DataFrame
        Columns ``arm``, ``size``, ``seed``, ``cell`` and `metric`. Missing values do not count.
    metric : str
        Column to summarise.

    Returns
    -------
    DataFrame
        One row per arm, cell and size, in that order: ``metric``, ``seeds`` (trainings with a
        value), ``mean``, ``min``, ``max``, ``spread`` (standard deviation with n - 1; NaN for a
        single seed).
    """
    _check_curves(curves, metric)
    groups = curves.groupby(["arm", "cell", "size"], sort=False)[metric]
    table = groups.agg(seeds="count", mean="mean", min="min", max="max", spread="std")
    table = table.reset_index()
    table.insert(3, "metric", metric)
    return in_order(table, arm=curves["arm"], cell=curves["cell"], size=sorted(curves["size"]))


def seed_noise(
    curves: pd.DataFrame, errors: pd.DataFrame, metric: str = "auroc", level: float = 0.95
) -> pd.DataFrame:
    """Standard deviation between seeds beside the standard error over test scenarios.

    The first says how much another training of the same arm would differ on these scenarios, the
    second how much this training would on others. Intervals from resampled scenarios hold the
    second only, so a difference between two arms with one training each is only as good as the
    first.

    Parameters
    ----------
    curves, metric
        As in `summary`; usually at one size.
    errors : DataFrame
        Columns ``arm``, ``cell`` and ``se``: the bootstrap standard error over scenarios, from
        :func:`monitorlab.chapters.finetuning.transfer.transfer` (its ``group`` as ``cell``) or
        :func:`monitorlab.chapters.finetuning.matrix.matrix` (``auroc_se``).
    level : float
        Confidence of the interval of the standard deviation, in (0, 1).

    Returns
    -------
    DataFrame
        One row per arm, cell and size: ``metric``, ``seeds``, ``mean``, ``between`` (standard
        deviation between seeds) with ``between_low``, ``between_high`` (chi-squared, for normal
        values: wide for few seeds), ``scenarios`` (the standard error given; NaN where there is
        none), ``ratio`` (between / scenarios) and ``both`` (root of the sum of their squares: the
        standard error of a single training judged on other scenarios).
    """
    several = errors.duplicated(["arm", "cell"])
    if several.any():
        row = errors[several].iloc[0]
        raise ValueError(f"arm {row['arm']!r}, cell {row['cell']!r} has several standard errors, "
                         "expected one: select the metric first")
    table = summary(curves, metric).drop(columns=["min", "max"])
    table = table.rename(columns={"spread": "between"}).merge(
        errors[["arm", "cell", "se"]].rename(columns={"se": "scenarios"}), on=["arm", "cell"],
        how="left", validate="m:1")
    free = np.maximum(table["seeds"] - 1, 1)
    for end, tail in (("low", (1 + level) / 2), ("high", (1 - level) / 2)):
        table[f"between_{end}"] = table["between"] * np.sqrt(free / chi2.ppf(tail, free))
    table["ratio"] = (table["between"] / table["scenarios"]).where(table["scenarios"] > 0)
    table["both"] = np.hypot(table["between"], table["scenarios"])
    return table[["arm", "cell", "size", "metric", "seeds", "mean", "between", "between_low",
                  "between_high", "scenarios", "ratio", "both"]]
