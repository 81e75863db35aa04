"""Resampling of whole units: how often each is drawn, and percentile intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from monitorlab.statistics.intervals import FloatArray
from monitorlab.statistics.roc import Weights

AT_ONCE = 4_000_000  # drawn units held in memory at a time, about 100 MB


def draw_units(
    random: np.random.Generator, strata: NDArray[np.intp], resamples: int, at_once: int = AT_ONCE
) -> Iterator[Weights]:
    """Yield how often each unit is drawn, for some resamples at a time.

    Parameters
    ----------
    random : Generator
        Used in the same order whatever `at_once` is.
    strata : (u,) array of int
        Units are drawn within strata numbered from 0.
    resamples : int
        How many in all.
    at_once : int
        Upper limit of u times the resamples of one part.

    Yields
    ------
    (u, part) array of float32
        Whole numbers; every column sums to u.
    """
    units = len(strata)
    order = np.argsort(strata, kind="stable")  # the units of a stratum stand side by side
    sizes = np.bincount(strata)
    size = np.repeat(sizes, sizes)
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)
    part = max(1, at_once // max(units, 1))
    for done in range(0, resamples, part):
        width = min(part, resamples - done)
        drawn = random.random((width, units))
        drawn *= size
        places = order[drawn.astype(np.intp) + start]
        places *= width
        places += np.arange(width)[:, None]
        counts = np.bincount(places.ravel(), minlength=units * width)
        yield counts.reshape(units, width).astype(np.float32)


def percentiles(
    draws: NDArray[np.floating], level: float
) -> tuple[FloatArray, FloatArray]:
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
