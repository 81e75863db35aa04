"""Metrics of every arm in every cell, on the sample and on resampled pairs.

The pairs of a cell are drawn once for all arms, so differences between arms stay paired, and means
over cells are means of draws. Each cell has a generator of its own, so its draws depend neither on
what was judged in other cells nor on the choice of arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.evaluation.bootstrap import Bootstrap, bootstrap
from monitorlab.pipeline.tables import CELLS

FloatArray = NDArray[np.float64]

METRICS = ("balanced_accuracy", "g2", "auroc", "mr", "far")
RESAMPLES = 2000
UNITS = ("pair", "scenario")


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
        On resampled pairs.
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
    unit: str = "pair",
) -> CellDraws:
    """Compute metrics of all arms in each cell, on the sample and on resampled pairs.

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
    unit : {"pair", "scenario"}
        What is drawn. Pairs of one scenario resemble each other; drawing whole scenarios allows
        for that and usually makes wider intervals.

    Raises
    ------
    ValueError
        For an unknown unit, or as ``bootstrap``.
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}, expected one of {', '.join(UNITS)}")
    size = (len(metrics), len(cells), len(arms))
    values, draws = np.full(size, np.nan), np.full((*size, resamples), np.nan)
    unscored = np.zeros(size[1:], np.int64)
    chosen = judged[judged["name"].isin(list(arms))]
    if unit == "scenario":
        chosen = chosen.assign(pair_id=chosen["scenario_id"])
    for place, (cell, random) in enumerate(zip(cells, rng.spawn(len(cells)), strict=True)):
        part = chosen[chosen["cell"] == cell]
        if part.empty:
            continue
        found = bootstrap(part, random, resamples=resamples, metrics=metrics)
        at = [list(arms).index(name) for name in found.names]
        values[:, place, at], draws[:, place, at] = found.values, found.draws
        unscored[place, at] = found.unscored
    return CellDraws(tuple(arms), tuple(cells), tuple(metrics), values, draws, unscored)
