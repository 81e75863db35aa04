"""The verdicts of several monitors on the same samples, as matrices.

Paired comparisons and the bootstrap need one verdict per monitor and sample; `first_draws` keeps
one of several draws. What enters a statistic passes here: labels are 0 or 1, and every sample
belongs to a scenario and a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.statistics.roc import JudgedError, check_labels
from monitorlab.storage.tables import STATUSES

ALARM, SILENT, FAILED, NOT_ASKED = 1, 0, -1, -2
SCENARIO, PAIR = "scenario", "pair"
UNITS = (SCENARIO, PAIR)


def unit_ids(judged: pd.DataFrame, unit: str) -> pd.Series:
    """Name of the unit of every row, where `unit` is what is taken as independent.

    Raises
    ------
    ValueError
        For a unit that is none of `UNITS`, or rows without one.
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}, expected one of {', '.join(UNITS)}")
    column = f"{unit}_id"
    lacking = len(judged) if column not in judged else int(judged[column].isna().sum())
    if lacking:
        raise JudgedError(f"{lacking} of {len(judged)} rows have no {column}, expected one "
                          f"each: samples that resemble each other share it"
                          + ("" if unit == PAIR else "; unit='pair' takes pairs as independent"))
    return judged[column]


@dataclass(frozen=True)
class Panel:
    """n samples in u units (scenarios, or pairs), judged by m monitors.

    Attributes
    ----------
    names : (m,) array of str
        The monitors, sorted.
    labels : (n,) array of int
        1 is misbehavior.
    unit_ids : (u,) array of str
        Sorted.
    units : (n,) array of int
        Place of each sample's unit in `unit_ids`.
    verdicts : (n, m) array of int
        `ALARM`, `SILENT`, `FAILED` or `NOT_ASKED`.
    scores : (n, m) array of float
        Suspicion in [0, 1], high is unsafe; NaN where there is none.
    statuses : (n, m) array of int
        Place of the status in ``STATUSES``; -1 where the monitor was not asked.
    """

    names: NDArray[np.object_]
    labels: NDArray[np.int8]
    unit_ids: NDArray[np.object_]
    units: NDArray[np.intp]
    verdicts: NDArray[np.int8]
    scores: NDArray[np.float64]
    statuses: NDArray[np.int8]


def panel(judged: pd.DataFrame, unit: str = SCENARIO) -> Panel:
    """Arrange judged verdicts as matrices.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample.
    unit : {"scenario", "pair"}
        What is taken as independent.

    Raises
    ------
    ValueError
        If a name has several draws, a label is not 0 or 1, two rows of a sample have different
        labels, or a sample has no unit.
    """
    labels, units_of = check_labels(judged["label"], judged["sample_id"]), unit_ids(judged, unit)
    monitors, names = pd.factorize(judged["name"], sort=True)
    rows, sample_ids = pd.factorize(judged["sample_id"], sort=True)
    place = rows * len(names) + monitors
    if len(np.unique(place)) < len(place):
        several = judged["name"].to_numpy()[pd.Series(place).duplicated().to_numpy()][0]
        raise ValueError(
            f"{several!r} judged a sample several times, expected one verdict per sample. Take one "
            "draw: judged[judged.draw == 0]"
        )
    verdicts = np.full((len(sample_ids), len(names)), NOT_ASKED, np.int8)
    verdicts[rows, monitors] = judged["verdict"].astype("Int8").fillna(FAILED).to_numpy(np.int8)
    scores = np.full(verdicts.shape, np.nan)
    scores[rows, monitors] = judged["score"].to_numpy(float, na_value=np.nan)
    statuses = np.full(verdicts.shape, -1, np.int8)
    statuses[rows, monitors] = pd.Index(STATUSES).get_indexer(pd.Index(judged["status"]))
    first = np.unique(rows, return_index=True)[1]
    other = labels != labels[first][rows]
    if other.any():
        raise JudgedError(f"sample {sample_ids[rows[np.argmax(other)]]!r} has label 0 in one row "
                          "and 1 in another, expected one label per sample")
    units, names_of_units = pd.factorize(units_of.take(first), sort=True)
    return Panel(
        names=np.asarray(names, object),
        labels=labels[first],
        unit_ids=np.asarray(names_of_units, object),
        units=units,
        verdicts=verdicts,
        scores=scores,
        statuses=statuses,
    )


def first_draws(judged: pd.DataFrame) -> pd.DataFrame:
    """Keep the first verdict of each monitor on each sample: repeats are no new samples.

    Curves, operating points, costs and label noise call this themselves, so they leave later draws
    out without a word. `panel` refuses several draws instead, and asks for a choice.

    Parameters
    ----------
    judged : DataFrame
        From `join`.

    Returns
    -------
    DataFrame
        The rows of `judged` with the lowest ``draw`` of their name and sample.

    Raises
    ------
    JudgedError
        For a label that is not 0 or 1.
    """
    check_labels(judged["label"], judged["sample_id"])
    return judged[judged["draw"] == judged.groupby(["name", "sample_id"])["draw"].transform("min")]
