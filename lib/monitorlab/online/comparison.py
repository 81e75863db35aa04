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
from monitorlab.online.datasets import Split, sizes
from monitorlab.online.likelihood_ratio import ville_threshold
from monitorlab.online.methods import PAPER_METHODS, VILLE, Method
from monitorlab.online.metrics import alarm_steps, evaluate, peaks
from monitorlab.online.resamples import DRAWS, Fitted, Resamples, draw_sequences
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
        risk, level, split``, ``safe, unsafe`` (sequences in the data set), the fields of
        :class:`Threshold` and of :class:`AlarmMetrics`. A method whose statistic cannot be learned
        from so little data has the state ``not_trainable`` and the rule that keeps the promise:
        never (or always) alarm.

    Raises
    ------
    ValueError
        If labels are missing, only one class is present, or for arguments out of range.
    """
    require_two_classes(trajectories)
    rows: list[dict[str, object]] = []
    # The regressions are small: on more than one thread they spend their time waiting.
    with threadpool_limits(limits=1):
        for split, (calibration, test) in enumerate(splits):
            fold = _Fold(trajectories, calibration, test, risk, delta, split, randomise_ties)
            rows.extend(fold.rows(methods, levels))
    return pd.DataFrame(rows)


def compare_resampled(
    trajectories: Trajectories,
    methods: Sequence[Method],
    splits: Iterable[Split],
    *,
    level: float,
    levels: Sequence[float] = PAPER_LEVELS,
    delta: float = 0.1,
    risk: str = FALSE_ALARM,
    draws: int = DRAWS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare as :func:`compare`, and say how far one level's results depend on the sequences.

    Splits share their sequences, so the spread over splits says little about other sequences. Here
    all sequences are drawn anew, with replacement, and each takes its copies along into the part of
    every split in which it stands, calibration or test; thresholds are placed and tested anew. What
    was learned stays as it is. All methods meet the same draws, and so does every other signal of
    the same sequences: differences are paired. Sequences of a group are drawn together.

    Parameters
    ----------
    trajectories, methods, splits, levels, delta, risk
        As for :func:`compare`.
    level : float
        Where sequences are drawn anew.
    draws : int
        How often.

    Returns
    -------
    results : DataFrame
        As from :func:`compare`, at ``levels`` and at ``level``.
    resamples : DataFrame
        One row per method and draw: ``dataset, signal, method, level, draw`` and, as means over the
        splits, ``far, power, restricted_delay``.
    """
    require_two_classes(trajectories)
    copies = draw_sequences(len(trajectories), draws, trajectories.groups)
    resamples = Resamples(level, copies, risk, delta)
    rows: list[dict[str, object]] = []
    with threadpool_limits(limits=1):
        for split, (calibration, test) in enumerate(splits):
            fold = _Fold(trajectories, calibration, test, risk, delta, split, False, resamples)
            rows.extend(fold.rows(methods, sorted({*levels, level})))
    found = resamples.table().assign(dataset=trajectories.dataset, signal=trajectories.signal)
    return pd.DataFrame(rows), found


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
        "data set": sizes(data),
        "distinct scores": len(np.unique(data.flat_scores)),
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
    resamples: Resamples | None = None

    def rows(self, methods: Iterable[Method], levels: Sequence[float]) -> Iterator[dict[str, Any]]:
        test = self.data.take(self.test)
        fitted: dict[Statistic, Fitted | None] = {}
        counts = {"safe": self.data.count(0), "unsafe": self.data.count(1)}
        for method in methods:
            if method.statistic not in fitted:
                fitted[method.statistic] = self._fit(method.statistic, test)
            found = fitted[method.statistic]
            for level in levels:
                threshold = self._threshold(method, found, level)
                rng = np.random.default_rng([self.split, 1]) if self.randomise_ties else None
                alarms = (
                    np.full(len(test), int(self.risk == MISSED_DETECTION))
                    if found is None
                    else alarm_steps(found.running, threshold, rng)
                )
                if self.resamples is not None and level == self.resamples.level:
                    self.resamples.add(method, self.test, test, found)
                yield {
                    "dataset": self.data.dataset,
                    "signal": self.data.signal,
                    "method": method.label,
                    "statistic": method.statistic.name,
                    "split": self.split,
                    **counts,
                    **_threshold_columns(threshold),
                    **asdict(evaluate(alarms, test)),
                }

    def _fit(self, statistic: Statistic, test: Trajectories) -> Fitted | None:
        cut = round(statistic.training_share * len(self.calibration))
        train, rest = self.calibration[:cut], self.calibration[cut:]
        try:
            transform = statistic.fit(self.data.take(train))
        except TooFewSequencesError:
            return None
        at_risk = rest[self.data.labels[rest] == int(self.risk == MISSED_DETECTION)]
        calibrating = self.data.take(at_risk).transformed(transform)
        return Fitted(at_risk, peaks(calibrating), test.transformed(transform))

    def _threshold(self, method: Method, fitted: Fitted | None, level: float) -> Threshold:
        if fitted is None:
            return _not_trainable(method.calibrator, level, self.delta, self.risk)
        if method.calibrator == VILLE:
            return ville_threshold(level, self.risk)
        rng = np.random.default_rng([self.split, 0]) if self.randomise_ties else None
        return calibrate(
            fitted.peaks, level, method.calibrator, risk=self.risk, delta=self.delta, tie_rng=rng
        )


def _threshold_columns(threshold: Threshold) -> dict[str, object]:
    columns = asdict(threshold)
    columns["threshold"] = columns.pop("value")
    return columns


def _not_trainable(calibrator: str, level: float, delta: float, risk: str) -> Threshold:
    silent = risk == FALSE_ALARM
    return Threshold(
        value=math.inf if silent else -math.inf, tie_break=float(silent), risk=risk,
        calibrator=calibrator, level=float(level), delta=delta, n=0, k=0, n_needed=0, attained=0.0,
        state=NOT_TRAINABLE,
    )

