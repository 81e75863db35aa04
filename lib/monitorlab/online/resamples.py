"""What results would be on other sequences: all of them drawn anew, thresholds placed anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.online.bounds import check_level
from monitorlab.online.calibration import FALSE_ALARM
from monitorlab.online.methods import VILLE, Method
from monitorlab.online.ranks import RANK_RULES
from monitorlab.online.statistics import running_max
from monitorlab.online.trajectories import Trajectories

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DRAWS = 300
MEASURES = ("far", "power", "restricted_delay")


@dataclass(frozen=True)
class Fitted:
    """What a statistic makes of one split.

    Attributes
    ----------
    positions : ndarray of int, shape (m,)
        Sequences that calibrate: those of the class at risk, learned from left out.
    peaks : ndarray of float, shape (m,)
        Their peaks.
    running : Trajectories
        The test part, with the running statistic in place of the scores.
    """

    positions: IntArray
    peaks: FloatArray
    running: Trajectories


def draw_sequences(
    n: int, draws: int, groups: NDArray[Any] | None = None
) -> NDArray[np.int16]:
    """Draw sequences with replacement, or whole groups of them, as many as there are.

    Parameters
    ----------
    n : int
        Sequences.
    draws : int
        How often.
    groups : ndarray, shape (n,), optional
        Sequences of a group resemble one another, and are drawn together.

    Returns
    -------
    ndarray of int, shape (draws, n)
        Copies of each sequence.
    """
    codes, names = pd.factorize(np.arange(n) if groups is None else groups)
    rng = np.random.default_rng([n, draws])
    copies = np.empty((draws, n), dtype=np.int16)
    for row in copies:
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        row[:] = times[codes]
    return copies


@dataclass
class Resamples:
    """Results of every method at one level on sequences drawn anew, gathered split by split.

    Attributes
    ----------
    level : float
        Target risk.
    copies : ndarray of int, shape (draws, n)
        How often each sequence was drawn.
    risk : str
        Which risk the level is about.
    delta : float
        Error probability of the calibrators that have one.
    """

    level: float
    copies: NDArray[np.int16]
    risk: str
    delta: float
    found: dict[str, list[FloatArray]] = field(default_factory=dict)

    def add(
        self, method: Method, positions: IntArray, test: Trajectories, fitted: Fitted | None
    ) -> None:
        """Place the method's threshold for every draw and test it on one split.

        Parameters
        ----------
        method : Method
            Statistic and calibrator.
        positions : ndarray of int
            Which sequences ``test`` holds.
        test : Trajectories
            The test part.
        fitted : Fitted or None
            None if the statistic could not be learned: the rule then never (or always) alarms.
        """
        never = self.risk == FALSE_ALARM
        if fitted is None:
            choice = np.zeros(len(self.copies), dtype=np.int64)
            alarms = np.full((len(test), 1), 0 if never else 1)
        else:
            thresholds = self._thresholds(method, fitted)
            values, choice = np.unique(thresholds, return_inverse=True)
            alarms = first_alarms(fitted.running, values, strict=never)
        share = np.where(alarms > 0, alarms / test.lengths[:, None], 1.0)
        copies = self.copies[:, positions].astype(np.float64)
        safe, unsafe = test.labels == 0, test.labels == 1
        measured = np.stack(
            [
                _weighted(alarms[safe] > 0, copies[:, safe], choice),
                _weighted(alarms[unsafe] > 0, copies[:, unsafe], choice),
                _weighted(share[unsafe], copies[:, unsafe], choice),
            ],
            axis=1,
        )
        self.found.setdefault(method.label, []).append(measured)

    def table(self) -> pd.DataFrame:
        """One row per method and draw, with means over the splits."""
        frames = []
        for label, splits in self.found.items():
            stacked = np.stack(splits)
            counted = np.sum(~np.isnan(stacked), axis=0)
            with np.errstate(invalid="ignore"):
                means = np.nansum(stacked, axis=0) / counted
            frames.append(
                pd.DataFrame(means, columns=list(MEASURES)).assign(
                    method=label, level=self.level, draw=range(len(means))
                )
            )
        return pd.concat(frames, ignore_index=True)

    def _thresholds(self, method: Method, fitted: Fitted) -> FloatArray:
        """Threshold of every draw; alarm above it, or from it on for missed detections."""
        false_alarms = self.risk == FALSE_ALARM
        silent = np.inf if false_alarms else -np.inf
        if method.calibrator == VILLE:
            return np.full(len(self.copies), 1.0 / check_level(self.level))
        order = np.argsort(-fitted.peaks if false_alarms else fitted.peaks, kind="stable")
        drawn = np.cumsum(self.copies[:, fitted.positions[order]], axis=1, dtype=np.int64)
        if not drawn.shape[1]:
            return np.full(len(drawn), silent)
        sizes = drawn[:, -1]
        rule = RANK_RULES[method.calibrator]
        rank = {n: rule(int(n), self.level, self.delta) for n in np.unique(sizes)}
        k = np.array([rank[n] for n in sizes])
        at = np.minimum(np.sum(drawn < k[:, None], axis=1), drawn.shape[1] - 1)
        return np.where(k > 0, fitted.peaks[order][at], silent)


def first_alarms(running: Trajectories, values: FloatArray, strict: bool) -> IntArray:
    """First alarm of every sequence for each of several thresholds at once.

    Parameters
    ----------
    running : Trajectories
        A running statistic.
    values : ndarray of float, shape (m,)
        Thresholds, increasing.
    strict : bool
        Alarm above the threshold; else also on it.

    Returns
    -------
    ndarray of int, shape (n, m)
        Steps from 1; 0 is none.
    """
    n, m = len(running), len(values)
    so_far = running.transformed(running_max).flat_scores
    # A step is silent for all thresholds from a certain one on, and the first alarm comes after
    # all silent steps, since the highest statistic so far never falls.
    passed = np.searchsorted(values, so_far, side="left" if strict else "right")
    row = np.repeat(np.arange(n), running.lengths)
    silent = np.bincount(row * (m + 1) + passed, minlength=n * (m + 1)).reshape(n, m + 1)
    silent = np.cumsum(silent, axis=1)[:, :m]
    return np.where(silent < running.lengths[:, None], silent + 1, 0)


def _weighted(outcome: NDArray[np.generic], copies: FloatArray, choice: IntArray) -> FloatArray:
    """Mean outcome over the copies of each draw, whose threshold is that of column ``choice``."""
    total = copies.sum(axis=1)
    sums = (copies @ outcome.astype(np.float64))[np.arange(len(copies)), choice]
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
