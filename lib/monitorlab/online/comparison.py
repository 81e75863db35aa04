"""The paper's protocol: many random splits, every method, every level, one tidy table.

Each split draws a calibration set; whatever a method learns or calibrates comes from there, and
its alarms are counted on the rest. Nothing is ever chosen on the test part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from monitorlab.online.calibration import (
    FALSE_ALARM,
    MISSED_DETECTION,
    NOT_TRAINABLE,
    Threshold,
    calibrate,
)
from monitorlab.online.datasets import TITLES, Split
from monitorlab.online.likelihood_ratio import ville_threshold
from monitorlab.online.methods import PAPER_METHODS, VILLE, Method
from monitorlab.online.metrics import alarm_steps, evaluate, peaks
from monitorlab.online.statistics import Statistic, TooFewSequencesError
from monitorlab.online.trajectories import Trajectories, require_two_classes

FloatArray = NDArray[np.float64]

PAPER_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def compare(
    trajectories: Trajectories,
    methods: Sequence[Method],
    splits: Iterable[Split],
    *,
    levels: Sequence[float] = PAPER_LEVELS,
    delta: float = 0.1,
    risk: str = FALSE_ALARM,
    randomise_ties: bool = False,
) -> pd.DataFrame:
    """Run every method at every level on every split.

    Parameters
    ----------
    trajectories : Trajectories
        All labelled sequences of one data set under one signal.
    methods : sequence of Method
        What to compare.
    splits : iterable of (calibration, test)
        Positions of the sequences, as from :func:`monitorlab.online.datasets.random_splits`. A
        statistic that learns is fitted on the first positions of ``calibration``, so these should
        be in random order.
    levels : sequence of float
        Target risks, each in (0, 1).
    delta : float
        Error probability of the high-probability calibrators.
    risk : {"false_alarm", "missed_detection"}
        Which risk the levels are about.
    randomise_ties : bool
        Break ties by a draw per sequence (see :func:`monitorlab.online.calibration.calibrate`).

    Returns
    -------
    DataFrame
        One row per method, level and split: ``dataset, signal, method, statistic, calibrator,
        risk, level, split``, the fields of :class:`Threshold` and of :class:`AlarmMetrics`. A
        method whose statistic cannot be learned from so little data has the state
        ``not_trainable`` and the rule that keeps the promise: never (or always) alarm.

    Raises
    ------
    ValueError
        If only one class is present, or for arguments out of range.
    """
    require_two_classes(trajectories)
    rows: list[dict[str, object]] = []
    # The regressions are small: on more than one thread they spend their time waiting.
    with threadpool_limits(limits=1):
        for split, (calibration, test) in enumerate(splits):
            fold = _Fold(trajectories, calibration, test, risk, delta, split, randomise_ties)
            rows.extend(fold.rows(methods, levels))
    return pd.DataFrame(rows)


def tie_effect(
    data: Trajectories, level: float, splits: Iterable[Split]
) -> dict[str, object]:
    """What breaking ties by a draw changes for the CRC threshold on the latest score.

    Parameters
    ----------
    data : Trajectories
        Sequences.
    level : float
        Target false alarm rate.
    splits : iterable of (calibration, test)
        As for :func:`compare`.

    Returns
    -------
    dict
        Data set, number of distinct scores, and the means over splits of the attained level, the
        false alarm rate and the power, without and with the draw.
    """
    row: dict[str, object] = {
        "data set": TITLES.get(data.dataset, data.dataset),
        "distinct scores": len(np.unique(data.scores[~np.isnan(data.scores)])),
    }
    splits = list(splits)
    for drawn in (False, True):
        found = compare(data, PAPER_METHODS[:1], splits, levels=(level,), randomise_ties=drawn)
        for measure, name in (("attained", "attained"), ("far", "FAR"), ("power", "power")):
            row[f"{name}, drawn" if drawn else name] = float(found[measure].mean())
    return row


@dataclass(frozen=True)
class _Fold:
    """One split: fit, calibrate and count, sharing fitted statistics between methods."""

    data: Trajectories
    calibration: NDArray[np.int64]
    test: NDArray[np.int64]
    risk: str
    delta: float
    split: int
    randomise_ties: bool

    def rows(self, methods: Iterable[Method], levels: Sequence[float]) -> Iterator[dict[str, Any]]:
        test = self.data.take(self.test)
        fitted: dict[Statistic, tuple[FloatArray, FloatArray] | None] = {}
        for method in methods:
            if method.statistic not in fitted:
                fitted[method.statistic] = self._fit(method.statistic, test)
            for level in levels:
                threshold, running = self._threshold(method, fitted[method.statistic], level)
                rng = np.random.default_rng([self.split, 1]) if self.randomise_ties else None
                alarms = (
                    np.full(len(test), int(self.risk == MISSED_DETECTION))
                    if running is None
                    else alarm_steps(running, threshold, rng)
                )
                yield {
                    "dataset": self.data.dataset,
                    "signal": self.data.signal,
                    "method": method.label,
                    "statistic": method.statistic.name,
                    "split": self.split,
                    **_threshold_columns(threshold),
                    **asdict(evaluate(alarms, test)),
                }

    def _fit(
        self, statistic: Statistic, test: Trajectories
    ) -> tuple[FloatArray, FloatArray] | None:
        """Return (calibration peaks of the class at risk, running statistic on the test part)."""
        cut = round(statistic.training_share * len(self.calibration))
        train, rest = self.calibration[:cut], self.data.take(self.calibration[cut:])
        try:
            transform = statistic.fit(self.data.take(train))
        except TooFewSequencesError:
            return None
        at_risk = rest.take(rest.labels == int(self.risk == MISSED_DETECTION))
        return peaks(transform(at_risk.scores)), transform(test.scores)

    def _threshold(
        self, method: Method, fitted: tuple[FloatArray, FloatArray] | None, level: float
    ) -> tuple[Threshold, FloatArray | None]:
        if fitted is None:
            return _not_trainable(method.calibrator, level, self.delta, self.risk), None
        calibration_peaks, running = fitted
        if method.calibrator == VILLE:
            return ville_threshold(level, self.risk), running
        rng = np.random.default_rng([self.split, 0]) if self.randomise_ties else None
        threshold = calibrate(
            calibration_peaks, level, method.calibrator,
            risk=self.risk, delta=self.delta, tie_rng=rng,
        )
        return threshold, running


def _threshold_columns(threshold: Threshold) -> dict[str, object]:
    columns = asdict(threshold)
    columns["threshold"] = columns.pop("value")
    return columns


def _not_trainable(calibrator: str, level: float, delta: float, risk: str) -> Threshold:
    silent = risk == FALSE_ALARM
    return Threshold(
        value=math.inf if silent else -math.inf, tie_break=1.0, risk=risk, calibrator=calibrator,
        level=float(level), delta=delta, n=0, k=0, n_needed=0, attained=0.0,
        state=NOT_TRAINABLE,
    )

