"""The bootstrap: how much a metric, a difference of two monitors, or a mean over cells may vary.

Whole scenarios are drawn with replacement (or whole pairs, where asked for): the answers to one
request, and the requests of one scenario, are not independent. One draw serves all monitors and
metrics, so differences between monitors stay paired. A resample is never built: it is a column of
how often each unit was drawn. Error counts of all monitors are then one matrix product, and one
walk down the sorted scores of a monitor gives its ROC curve in all resamples at once.

Two monitors are compared on the samples that *both* answered (`Paired`): a monitor that refuses the
hard half must not look better for it. What was left out is counted by status, and a second
difference reads every failed verdict against the seeming winner.

In `CellDraws` the scenarios of each cell are drawn once for all arms, and means over cells are
means of draws. Each cell has a generator of its own, so its draws depend neither on what was judged
in other cells nor on the choice of arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from monitorlab.evaluation import rates
from monitorlab.evaluation.rates import FAILED, NOT_ASKED, SCENARIO, SILENT, Panel
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics import intervals, roc
from monitorlab.statistics.intervals import FloatArray, IntArray, Weights
from monitorlab.statistics.roc import MEASURES
from monitorlab.storage.tables import CELLS, STATUSES

RESAMPLES = 5000
COUNTED = ("mr", "far", "g2", "balanced_accuracy")
METRICS = (*COUNTED, "auroc")
FEWER_IS_BETTER = ("mr", "far")
# Of `CellDraws`.
CELL_METRICS, CELL_RESAMPLES = ("balanced_accuracy", "g2", "auroc", "mr", "far"), 2000
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

    @classmethod
    def of(cls, judged: pd.DataFrame, random: np.random.Generator, *, resamples: int = RESAMPLES,
           metrics: Sequence[str] = METRICS, unit: str = SCENARIO) -> Bootstrap:
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
            ``mr``, ``far``, ``g2``, ``balanced_accuracy`` over parsed verdicts; ``auroc``.
        unit : {"scenario", "pair"}
            What is drawn whole. Pairs of one scenario resemble each other, so drawing pairs makes
            intervals that are too narrow for new scenarios.

        Raises
        ------
        ValueError
            For an unknown metric or unit, fewer than one resample, or as
            :meth:`monitorlab.evaluation.rates.Panel.of`.
        """
        data = Panel.of(judged, unit)
        values, draws = _drawn(data, metrics, random, resamples)
        unscored = ((data.verdicts >= FAILED) & np.isnan(data.scores)).sum(axis=0)
        return cls(data.names, tuple(metrics), values, draws, unscored)

    def intervals(self, level: float = 0.95) -> pd.DataFrame:
        """Percentile intervals of every metric and monitor.

        Parameters
        ----------
        level : float
            Confidence, in (0, 1).

        Returns
        -------
        DataFrame
            Columns ``metric``, ``name``, ``value``, ``low``, ``high``, ``resamples`` (those on
            which the metric is defined) and ``unscored`` (samples without a score, for metrics that
            need one). A rate of exactly 0 or 1 has an interval without width: take that of
            :func:`monitorlab.evaluation.rates.rates` instead.
        """
        flat, m = self.draws.reshape(-1, self.draws.shape[-1]), len(self.names)
        low, high = intervals.percentiles(flat, level)
        return pd.DataFrame({
            "metric": np.repeat(self.metrics, m),
            "name": pd.Series(np.tile(self.names, len(self.metrics)), dtype="str"),
            "value": self.values.ravel(), "low": low, "high": high,
            "resamples": np.isfinite(flat).sum(axis=1),
            "unscored": np.outer(np.isin(self.metrics, "auroc"), self.unscored).ravel(),
        })

    def standard_errors(self) -> FloatArray:
        """Standard deviation over resamples, (metrics * m,), in the row order of `intervals`."""
        return pd.DataFrame(self.draws.reshape(-1, self.draws.shape[-1])).std(axis=1).to_numpy()


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

    @classmethod
    def of(cls, judged: pd.DataFrame, random: np.random.Generator, *,
           pairs: Sequence[tuple[str, str]] | None = None, resamples: int = RESAMPLES,
           metrics: Sequence[str] = METRICS, unit: str = SCENARIO) -> Paired:
        """Differences between monitors on the samples that both answered, on resampled scenarios.

        Parameters
        ----------
        judged, random, resamples, metrics, unit
            As in `Bootstrap.of`; the same generator draws the same units.
        pairs : sequence of (str, str), optional
            Which monitors to compare; by default all of them, each with each.

        Raises
        ------
        ValueError
            For a name without a verdict, or as `Bootstrap.of`.
        """
        data = Panel.of(judged, unit)
        first, second = np.triu_indices(len(data.names), 1)
        if pairs is not None:
            names = [name for two in pairs for name in two]
            places = pd.Index(data.names).get_indexer(pd.Index(names))
            if (places < 0).any():
                raise ValueError(f"{names[int(np.argmax(places < 0))]!r} has judged nothing, "
                                 f"expected pairs of {', '.join(map(str, data.names))}")
            first, second = places.reshape(-1, 2).T
        wide, place, n, lost, left_out = _readings(data, first, second)
        values, draws = _drawn(wide, metrics, random, resamples)
        one, other = np.moveaxis(place, -1, 0)  # (3, pairs) columns of `wide`
        gaps = (values[:, one] - values[:, other]).swapaxes(0, 1)
        drawn = np.empty((len(place), len(metrics), len(first), resamples), np.float32)
        for reading in range(len(place)):
            np.subtract(draws[:, one[reading]], draws[:, other[reading]], out=drawn[reading],
                        casting="same_kind")
        return cls(data.names[first], data.names[second], tuple(metrics), gaps, drawn, n, lost,
                   left_out)

    def differences(self, level: float = 0.95) -> pd.DataFrame:
        """Differences between the monitors of each pair, over the samples that both answered.

        Parameters
        ----------
        level : float
            Confidence of the percentile intervals, in (0, 1); not corrected for the number of
            pairs.

        Returns
        -------
        DataFrame
            A row for each metric and pair ``first``, ``second``:

            - ``n``: samples that both answered (with a score, for metrics that need one);
              ``left_out``: the others that both were asked about; ``why``: of which monitor and
              status they are.
            - ``difference`` (first minus second), ``low``, ``high``, ``p``: twice the share of
              resamples on the other side of 0 (0 included, the sample itself counted as one), at
              most 1. With B resamples it is at least 2 / (B + 1), so a correction for many pairs
              needs many resamples.
            - ``difference_worst``: the difference over all samples that both were asked about, if
              every failed verdict (or missing score) spoke against the seeming winner; ``p_worst``:
              its p, 1 if that turns the order.
        """
        tables = []
        rows = np.arange(len(self.first))
        for place, metric in enumerate(self.metrics):
            kind = int(metric == "auroc")
            values, draws = self.values[:, place], self.draws[:, place]
            found = values[AS_FOUND]
            low, high = intervals.percentiles(draws[AS_FOUND], level)
            first_leads = found < 0 if metric in FEWER_IS_BETTER else found > 0
            worst = np.where(first_leads, AGAINST_FIRST, AGAINST_SECOND)
            gap, p_worst = values[worst, rows], _p_values(draws[worst, rows])
            turned = (np.sign(gap) != np.sign(found)) | (found == 0)
            tables.append(pd.DataFrame({
                "metric": metric, "first": pd.Series(self.first, dtype="str"),
                "second": pd.Series(self.second, dtype="str"), "n": self.n[kind],
                "left_out": self.left_out[kind], "why": self._why(kind),
                "difference": found, "low": low, "high": high, "p": _p_values(draws[AS_FOUND]),
                "difference_worst": np.where(np.isnan(found), np.nan, gap),
                "p_worst": np.where(np.isnan(found), np.nan, np.where(turned, 1.0, p_worst)),
            }))  # fmt: skip
        return pd.concat(tables, ignore_index=True)

    def _why(self, kind: int) -> list[str]:
        """Say in words whose samples were left out, and with which status."""
        words = ["without a score" if status == PARSED else status for status in STATUSES]
        told = []
        for first, second, counts in zip(self.first, self.second, self.lost[kind], strict=True):
            sides = []
            for name, own in zip((first, second), counts, strict=True):
                parts = [f"{n} {word}" for n, word in zip(own, words, strict=True) if n]
                if parts:
                    sides.append(f"{name}: {', '.join(parts)}")
            told.append("; ".join(sides))
        return told


def _drawn(data: Panel, metrics: Sequence[str], random: np.random.Generator,
           resamples: int) -> tuple[FloatArray, FloatArray]:
    """Metrics on the sample, (metrics, monitors), and in resamples, with a last axis of them."""
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {unknown[0]!r}, expected some of {', '.join(METRICS)}")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected at least 1")
    units = len(data.unit_ids)
    chunks = [_measured(data, metrics, weights)
              for weights in intervals.draw_units(random, units, resamples)]
    once = _measured(data, metrics, np.ones((units, 1), np.float32))
    return once[:, :, 0], np.concatenate(chunks, axis=2)


def _measured(data: Panel, metrics: Sequence[str], weights: Weights) -> FloatArray:
    """Metrics (metrics, monitors, resamples) from weights of units (units, resamples)."""
    found = _counted(data, weights)
    if "auroc" in metrics:
        areas: dict[bytes, FloatArray] = {}  # columns with the same scores share one
        keys = [scores.tobytes() for scores in data.scores.T]
        for key, scores in zip(keys, data.scores.T, strict=True):
            if key not in areas:
                areas[key] = roc.resampled_auroc(scores, data.labels, data.units, weights)
        found["auroc"] = np.array([areas[key] for key in keys])
    shape = (len(data.names), weights.shape[1])
    return np.stack([found[metric].reshape(shape) for metric in metrics])


def _counted(data: Panel, weights: Weights) -> dict[str, FloatArray]:
    """Metrics of the verdicts; each (monitors, resamples)."""
    bad = (data.labels == 1)[:, None]
    spoke, alarm = data.verdicts >= SILENT, data.verdicts == rates.ALARM
    counts = []
    for event in (bad & spoke & ~alarm, bad & spoke, ~bad & alarm, ~bad & spoke):
        per_unit = np.zeros((len(data.unit_ids), event.shape[1]), np.float32)
        np.add.at(per_unit, data.units, event)
        counts.append(per_unit.T @ weights)
    mr, far = intervals.ratio(counts[0], counts[1]), intervals.ratio(counts[2], counts[3])
    return {"mr": mr, "far": far, "g2": (1 - mr) * (1 - far),
            "balanced_accuracy": 1 - (mr + far) / 2}


def _readings(
    data: Panel, first: NDArray[np.intp], second: NDArray[np.intp]
) -> tuple[Panel, NDArray[np.intp], IntArray, IntArray, IntArray]:
    """A panel with a column for every way to read a monitor in some pair, each once.

    Returns
    -------
    Panel
        Its columns are such readings.
    (3, pairs, 2) array of int
        Columns of both monitors of each pair: where failures are left out, and read against the
        first or the second.
    three arrays of int
        `n`, `lost` and `left_out` of `Paired`.
    """
    columns: dict[bytes, int] = {}
    verdicts: list[NDArray[np.int8]] = []
    scores: list[FloatArray] = []
    ranked = np.asarray(np.isfinite(data.scores).any(axis=0))  # others have no curve at all

    def place(verdict: NDArray[Any], score: FloatArray) -> int:
        verdict = verdict.astype(np.int8)
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
        return place(np.where(asked, told, NOT_ASKED),
                     np.where(asked & ranked[monitor], ranks, np.nan))

    found = np.empty((3, len(first), 2), np.intp)
    n, left_out = np.zeros((2, 2, len(first)), np.int64)
    lost = np.zeros((2, len(first), 2, len(STATUSES)), np.int64)
    usable = (data.verdicts >= SILENT, ~np.isnan(data.scores))
    for pair, (i, j) in enumerate(zip(first, second, strict=True)):
        asked = (data.verdicts[:, [i, j]] != NOT_ASKED).all(axis=1)
        spoke, scored = (good[:, [i, j]].all(axis=1) for good in usable)
        n[:, pair] = (asked & spoke).sum(), (asked & scored).sum()
        left_out[:, pair] = asked.sum() - n[:, pair]
        for side, monitor in enumerate((i, j)):
            for kind, good in enumerate(usable):
                status = data.statuses[asked & ~good[:, monitor], monitor]
                lost[kind, pair, side] = np.bincount(status[status >= 0], minlength=len(STATUSES))
            found[AS_FOUND, pair, side] = place(
                np.where(spoke, data.verdicts[:, monitor], NOT_ASKED),
                np.where(scored, data.scores[:, monitor], np.nan))
            found[AGAINST_FIRST, pair, side] = read(monitor, asked, kindly=side == 1)
            found[AGAINST_SECOND, pair, side] = read(monitor, asked, kindly=side == 0)
    shape = len(verdicts), len(data.labels)
    wide = replace(data, names=np.arange(len(verdicts)).astype(object),
                   verdicts=np.array(verdicts, np.int8).reshape(shape).T,
                   scores=np.array(scores, float).reshape(shape).T)
    return wide, found, n, lost, left_out


def _p_values(gaps: NDArray[np.floating]) -> FloatArray:
    """Two-sided p-value of each row of resampled differences; NaN where none is defined."""
    defined = np.isfinite(gaps).sum(axis=1)
    fewer = np.minimum((gaps <= 0).sum(axis=1), (gaps >= 0).sum(axis=1))
    return np.where(defined > 0, np.minimum(1.0, 2 * (fewer + 1) / (defined + 1)), np.nan)


Found = TypeVar("Found", Bootstrap, Paired)
# The axis of arms (or pairs) in every array of `Bootstrap` and of `Paired`.
_AXES = {"values": -1, "draws": -2, "unscored": -1, "n": -1, "left_out": -1, "lost": -3}


@dataclass(frozen=True)
class CellDraws(Generic[Found]):
    """What was found about arms in cells.

    Attributes
    ----------
    arms, cells : tuple of str
        In the order asked for.
    found : tuple of Bootstrap, or of Paired
        In each cell, of the arms that were measured there.
    reference : str
        The arm that the others are compared with, if they are.
    """

    arms: tuple[str, ...]
    cells: tuple[str, ...]
    found: tuple[Found, ...]
    reference: str = ""

    @staticmethod
    def of(judged: pd.DataFrame, arms: Sequence[str], rng: np.random.Generator,
           resamples: int = CELL_RESAMPLES, *, metrics: Sequence[str] = CELL_METRICS,
           cells: Sequence[str] = CELLS, unit: str = SCENARIO) -> CellDraws[Bootstrap]:
        """Compute metrics of all arms in each cell, on the sample and on resampled scenarios.

        Parameters
        ----------
        judged : DataFrame
            Of one split: see `split_rows`.
        arms : sequence of str
            Names to keep, in this order.
        rng : Generator
            Spawns a generator per cell.
        resamples : int
            At least 1.
        metrics : sequence of str
            As in `Bootstrap.of`.
        cells : sequence of str
            Cells, in this order.
        unit : {"scenario", "pair"}
            What is drawn whole.

        Raises
        ------
        ValueError
            As `Bootstrap.of`.
        """
        found = [Bootstrap.of(part, random, resamples=resamples, metrics=metrics, unit=unit)
                 for part, random in _by_cell(judged, arms, cells, rng)]
        return CellDraws(tuple(arms), tuple(cells), tuple(found))

    @staticmethod
    def of_gaps(judged: pd.DataFrame, arms: Sequence[str], reference: str, rng: np.random.Generator,
                resamples: int = CELL_RESAMPLES, *, metrics: Sequence[str] = CELL_METRICS,
                cells: Sequence[str] = CELLS, unit: str = SCENARIO) -> CellDraws[Paired]:
        """Compute differences of all arms to a reference in each cell, on the same resamples.

        The same state of `rng` draws the same scenarios as in `of`, for the same rows.

        Parameters
        ----------
        judged, rng, resamples, metrics, cells, unit
            As in `of`.
        arms : sequence of str
            Names to compare, in this order; without the reference.
        reference : str
            The arm that they are compared with.
        """
        found = []
        for part, random in _by_cell(judged, [*arms, reference], cells, rng):
            there = set(part["name"])
            pairs = [(arm, reference) for arm in arms if {arm, reference} <= there]
            found.append(Paired.of(part, random, pairs=pairs, resamples=resamples,
                                   metrics=metrics, unit=unit))
        return CellDraws(tuple(arms), tuple(cells), tuple(found), reference)

    def over(self, arms: Sequence[str], cells: Sequence[str]) -> Found:
        """Mean over `cells` for some arms, in their order: NaN if one of the cells has no value."""
        names = np.asarray(arms, object)
        together: dict[str, Any] = {"names": names}
        if self.reference:
            together = {"first": names, "second": np.full(len(arms), self.reference, object)}
        parts = [self.found[self.cells.index(cell)] for cell in cells]
        for name, axis in _AXES.items():
            if hasattr(parts[0], name):
                stacked = np.stack([_of_arms(part, name, axis, arms) for part in parts])
                rate = np.issubdtype(stacked.dtype, np.floating)
                together[name] = stacked.mean(axis=0) if rate else stacked.sum(axis=0)
        return replace(parts[0], **together)


def _by_cell(judged: pd.DataFrame, names: Sequence[str], cells: Sequence[str],
             rng: np.random.Generator) -> Iterator[tuple[pd.DataFrame, np.random.Generator]]:
    """Rows of some arms in each cell, with a generator for it."""
    chosen = judged[judged["name"].isin(list(names))]
    for cell, random in zip(cells, rng.spawn(len(cells)), strict=True):
        yield chosen[chosen["cell"] == cell], random


def _of_arms(found: Bootstrap | Paired, name: str, axis: int, arms: Sequence[str]) -> NDArray[Any]:
    """An array for these arms: NaN, or a count of 0, for one that was not measured."""
    here = list(found.names if isinstance(found, Bootstrap) else found.first)
    array = getattr(found, name)
    shape = list(array.shape)
    shape[axis] = 1
    none = np.full(shape, np.nan if np.issubdtype(array.dtype, np.floating) else 0, array.dtype)
    at = [here.index(arm) if arm in here else len(here) for arm in arms]
    return np.take(np.concatenate([array, none], axis), at, axis)


def in_order(table: pd.DataFrame, **orders: Iterable[object]) -> pd.DataFrame:
    """Sort rows by several columns, the values of each in an order of its own."""
    places = {column: pd.Index(list(dict.fromkeys(values))) for column, values in orders.items()}
    return table.sort_values(
        list(orders), kind="stable", ignore_index=True,
        key=lambda column: pd.Series(places[str(column.name)].get_indexer(column), column.index))


def split_rows(judged: pd.DataFrame, arms: Sequence[str], split: str) -> pd.DataFrame:
    """Rows of some arms in one split.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, with the arm as ``name``.
    arms : sequence of str
        Each must have rows there.
    split : str
        ``dev`` or ``test``.

    Raises
    ------
    ValueError
        For an arm that is named twice or has no verdict in that split.
    """
    several = sorted({arm for arm in arms if list(arms).count(arm) > 1})
    if several:
        raise ValueError(f"arm {several[0]!r} is named twice, expected each arm once")
    there = judged[judged["split"] == split]
    missing = [arm for arm in arms if arm not in set(there["name"])]
    if missing or not len(arms):
        what = f"arm {missing[0]!r} has no verdicts" if missing else "no arms were named"
        raise ValueError(f"{what} in split {split!r}, where there are those of "
                         f"{sorted(set(there['name']))}: score the arm on that split, or name "
                         "other arms")
    return there[there["name"].isin(list(arms))]


def curve_table(judged: pd.DataFrame, rng: np.random.Generator, by: str | None = None,
                n: int = roc.RESAMPLES, unit: str = SCENARIO) -> pd.DataFrame:
    """Areas and detection rates of every monitor, with 95 % intervals over resampled scenarios.

    Only samples with a score have a place on a curve. `n_unscored` counts the others (failed
    verdicts, or a monitor that gives none).

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
        One row per name (and `by`): ``n`` samples with a score, ``n_unscored`` and `MEASURES`,
        each with ``_low`` and ``_high``; missing where the scored samples lack a class.
    """
    keys, rows = ["name"] if by is None else ["name", by], []
    for key, part in rates.first_draws(judged).groupby(keys, sort=False):
        row = _curve_row(part, rates.unit_ids(part, unit), rng, n)
        rows.append(dict(zip(keys, key, strict=True)) | row)
    return pd.DataFrame(rows)


def _curve_row(part: pd.DataFrame, units: ArrayLike, rng: np.random.Generator,
               n: int) -> dict[str, float]:
    scores = part["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    labels = part["label"].to_numpy(dtype=np.int64)
    scored = np.isfinite(scores) & (part["status"] == PARSED).to_numpy(bool)
    row: dict[str, float] = {"n": int(scored.sum()), "n_unscored": int((~scored).sum())}
    if len(np.unique(labels[scored])) < 2:
        return row | {f"{name}{end}": np.nan for name in MEASURES for end in ("", "_low", "_high")}
    summary = roc.roc_band(scores[scored], labels[scored], np.asarray(units)[scored], rng, n,
                           [0.0]).summary
    for name, value, low, high in summary.itertuples(index=False):
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row
