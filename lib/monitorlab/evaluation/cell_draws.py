"""Metrics of every arm in every cell, on the sample and on resampled scenarios.

The scenarios of a cell are drawn once for all arms, so differences between arms stay paired, and
means over cells are means of draws. Each cell has a generator of its own, so its draws depend
neither on what was judged in other cells nor on the choice of arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.evaluation.bootstrap import Bootstrap, Paired, bootstrap, paired
from monitorlab.evaluation.panel import SCENARIO
from monitorlab.statistics.intervals import FloatArray
from monitorlab.storage.tables import CELLS, STATUSES

METRICS = ("balanced_accuracy", "g2", "auroc", "mr", "far")
RESAMPLES = 2000


@dataclass(frozen=True)
class CellDraws:
    """Metrics of arms in cells.

    Attributes
    ----------
    arms, cells, metrics : tuple of str
        In the order asked for.
    values : (metrics, cells, arms) array of float
        On the sample; NaN where an arm has no verdicts (or scores) of both classes in a cell.
    draws : (metrics, cells, arms, resamples) array of float
        On resampled scenarios (or pairs).
    unscored : (cells, arms) array of int
        Samples that were asked about and have no score.
    """

    arms: tuple[str, ...]
    cells: tuple[str, ...]
    metrics: tuple[str, ...]
    values: FloatArray
    draws: FloatArray
    unscored: NDArray[np.int64]

    def over(self, arms: Sequence[str], cells: Sequence[str]) -> Bootstrap:
        """Mean over `cells` for some arms, in their order: NaN if one of the cells has no value."""
        arm = [self.arms.index(name) for name in arms]
        cell = [self.cells.index(name) for name in cells]
        return Bootstrap(
            np.asarray(arms, object), self.metrics,
            self.values[:, cell][:, :, arm].mean(axis=1),
            self.draws[:, cell][:, :, arm].mean(axis=1),
            self.unscored[cell][:, arm].sum(axis=0),
        )


def in_order(table: pd.DataFrame, **orders: Iterable[object]) -> pd.DataFrame:
    """Sort rows by several columns, the values of each in an order of its own."""
    places = {column: pd.Index(list(dict.fromkeys(values))) for column, values in orders.items()}
    return table.sort_values(
        list(orders), kind="stable", ignore_index=True,
        key=lambda column: pd.Series(places[str(column.name)].get_indexer(column), column.index),
    )


def standard_errors(found: Bootstrap) -> FloatArray:
    """Standard deviation over resamples, (metrics * arms,), in the row order of ``intervals``."""
    flat = found.draws.reshape(-1, found.draws.shape[-1])
    return pd.DataFrame(flat).std(axis=1).to_numpy()


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
    part = judged[(judged["split"] == split) & judged["name"].isin(list(arms))]
    missing = [arm for arm in arms if arm not in set(part["name"])]
    if missing or not len(arms):
        there = sorted(set(judged.loc[judged["split"] == split, "name"]))
        what = f"arm {missing[0]!r} has no verdicts" if missing else "no arms were named"
        raise ValueError(f"{what} in split {split!r}, where there are those of {there}: score the "
                         "arm on that split, or name other arms")
    return part


def cell_draws(
    judged: pd.DataFrame,
    arms: Sequence[str],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    *,
    metrics: Sequence[str] = METRICS,
    cells: Sequence[str] = CELLS,
    unit: str = SCENARIO,
) -> CellDraws:
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
        As in :func:`monitorlab.evaluation.bootstrap.bootstrap`.
    cells : sequence of str
        Cells, in this order.
    unit : {"scenario", "pair"}
        What is drawn whole.

    Raises
    ------
    ValueError
        As ``bootstrap``.
    """
    size = (len(metrics), len(cells), len(arms))
    values, draws = np.full(size, np.nan), np.full((*size, resamples), np.nan)
    unscored = np.zeros(size[1:], np.int64)
    chosen = judged[judged["name"].isin(list(arms))]
    for place, (cell, random) in enumerate(zip(cells, rng.spawn(len(cells)), strict=True)):
        part = chosen[chosen["cell"] == cell]
        if part.empty:
            continue
        found = bootstrap(part, random, resamples=resamples, metrics=metrics, unit=unit)
        at = [list(arms).index(name) for name in found.names]
        values[:, place, at], draws[:, place, at] = found.values, found.draws
        unscored[place, at] = found.unscored
    return CellDraws(tuple(arms), tuple(cells), tuple(metrics), values, draws, unscored)


@dataclass(frozen=True)
class _CellGaps:
    """Differences of arms to a reference in cells, on the samples that both answered.

    Attributes
    ----------
    arms, cells, metrics : tuple of str
        In the order asked for.
    reference : str
        The arm that the others are compared with.
    values, draws, n, lost, left_out : ndarray
        As in :class:`monitorlab.evaluation.bootstrap.Paired`, with an axis of cells before that of
        pairs; NaN and 0 where an arm or the reference was not measured in a cell.
    """

    arms: tuple[str, ...]
    cells: tuple[str, ...]
    metrics: tuple[str, ...]
    reference: str
    values: FloatArray
    draws: NDArray[np.float32]
    n: NDArray[np.int64]
    lost: NDArray[np.int64]
    left_out: NDArray[np.int64]

    def over(self, arms: Sequence[str], cells: Sequence[str]) -> Paired:
        """Mean over `cells` for some arms, in their order: NaN if one of the cells has no value."""
        arm = [self.arms.index(name) for name in arms]
        cell = [self.cells.index(name) for name in cells]
        return Paired(
            np.asarray(arms, object), np.full(len(arms), self.reference, object), self.metrics,
            self.values[:, :, cell][:, :, :, arm].mean(axis=2),
            self.draws[:, :, cell][:, :, :, arm].mean(axis=2),
            self.n[:, cell][:, :, arm].sum(axis=1), self.lost[:, cell][:, :, arm].sum(axis=1),
            self.left_out[:, cell][:, :, arm].sum(axis=1),
        )


def cell_gaps(
    judged: pd.DataFrame,
    arms: Sequence[str],
    reference: str,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    *,
    metrics: Sequence[str] = METRICS,
    cells: Sequence[str] = CELLS,
    unit: str = SCENARIO,
) -> _CellGaps:
    """Compute differences of all arms to a reference in each cell, on the same resamples.

    The same state of `rng` draws the same scenarios as in `cell_draws`, for the same rows.

    Parameters
    ----------
    judged, rng, resamples, metrics, cells, unit
        As in `cell_draws`.
    arms : sequence of str
        Names to compare, in this order; without the reference.
    reference : str
        The arm that they are compared with.
    """
    size = (3, len(metrics), len(cells), len(arms))
    values = np.full(size, np.nan)
    draws = np.full((*size, resamples), np.nan, np.float32)
    n = np.zeros((2, len(cells), len(arms)), np.int64)
    left_out, lost = n.copy(), np.zeros((*n.shape, 2, len(STATUSES)), np.int64)
    chosen = judged[judged["name"].isin([*arms, reference])]
    for place, (cell, random) in enumerate(zip(cells, rng.spawn(len(cells)), strict=True)):
        part = chosen[chosen["cell"] == cell]
        there = set(part["name"])
        here = [arm for arm in arms if arm in there]
        if reference not in there or not here:
            continue
        found = paired(part, random, pairs=[(arm, reference) for arm in here],
                       resamples=resamples, metrics=metrics, unit=unit)
        at = [list(arms).index(arm) for arm in here]
        values[:, :, place, at], draws[:, :, place, at] = found.values, found.draws
        n[:, place, at], left_out[:, place, at] = found.n, found.left_out
        lost[:, place, at] = found.lost
    return _CellGaps(tuple(arms), tuple(cells), tuple(metrics), reference, values, draws, n, lost,
                    left_out)
