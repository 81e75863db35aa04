"""Metrics of every arm in every cell, on the sample and on resampled scenarios.

The scenarios of a cell are drawn once for all arms, so differences between arms stay paired, and
means over cells are means of draws. Each cell has a generator of its own, so its draws depend
neither on what was judged in other cells nor on the choice of arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.evaluation.bootstrap import Bootstrap, Paired, bootstrap, paired
from monitorlab.evaluation.panel import SCENARIO
from monitorlab.statistics.intervals import FloatArray
from monitorlab.storage.tables import CELLS, STATUSES

METRICS = ("balanced_accuracy", "g2", "auroc", "mr", "far")
RESAMPLES = 2000
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
) -> CellDraws[Bootstrap]:
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
    chosen = judged[judged["name"].isin(list(arms))]
    nothing = Bootstrap(np.empty(0, object), tuple(metrics), np.empty((len(metrics), 0)),
                        np.empty((len(metrics), 0, resamples)), np.empty(0, np.int64))
    found = []
    for cell, random in zip(cells, rng.spawn(len(cells)), strict=True):
        part = chosen[chosen["cell"] == cell]
        found.append(nothing if part.empty else bootstrap(
            part, random, resamples=resamples, metrics=metrics, unit=unit))
    return CellDraws(tuple(arms), tuple(cells), tuple(found))


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
) -> CellDraws[Paired]:
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
    chosen = judged[judged["name"].isin([*arms, reference])]
    none, size = np.empty(0, object), (3, len(metrics), 0)
    counts = np.empty((2, 0), np.int64)
    nothing = Paired(none, none, tuple(metrics), np.empty(size),
                     np.empty((*size, resamples), np.float32), counts,
                     np.empty((2, 0, 2, len(STATUSES)), np.int64), counts)
    found = []
    for cell, random in zip(cells, rng.spawn(len(cells)), strict=True):
        part = chosen[chosen["cell"] == cell]
        there = set(part["name"])
        pairs = [(arm, reference) for arm in arms if {arm, reference} <= there]
        found.append(paired(part, random, pairs=pairs, resamples=resamples, metrics=metrics,
                            unit=unit) if pairs else nothing)
    return CellDraws(tuple(arms), tuple(cells), tuple(found), reference)
