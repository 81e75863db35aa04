"""The paper's protocol: many random splits, every method, every level, one tidy table.

Each split draws a calibration set; whatever a method learns or calibrates comes from there, and
its alarms are counted on the rest. Nothing is ever chosen on the test part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from monitorlab.online import running
from monitorlab.online.metrics import alarm_metrics, alarm_steps, peaks
from monitorlab.online.running import FloatArray, IntArray
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics import thresholds
from monitorlab.statistics.intervals import check_level
from monitorlab.statistics.ranks import RANK_RULES
from monitorlab.statistics.thresholds import FALSE_ALARM, MISSED_DETECTION, Threshold, calibrate

VILLE = "ville"
# (positions of the calibration sequences, positions of the test sequences)
Split = tuple[NDArray[np.int64], NDArray[np.int64]]


# What a calibrator promises, in symbols; all others keep the risk with high probability.
GUARANTEES = {"crc": "E[R] ≤ ε", VILLE: "R ≤ ε if the ratio is exact"}


@dataclass(frozen=True)
class Method:
    """A statistic and the calibrator that turns it into an alarm.

    Attributes
    ----------
    label : str
        How tables and figures call it.
    statistic : Statistic
        What is compared with the threshold.
    calibrator : str
        A rank rule of :mod:`monitorlab.statistics.thresholds`, or ``ville`` for the fixed 1/level.
    source : str
        Where the rule is defined.
    draws_ties : bool
        Break ties by a draw per sequence (:func:`monitorlab.statistics.thresholds.calibrate`),
        which spends the whole level on a coarse statistic and keeps the promise.
    """

    label: str
    statistic: running.Statistic
    calibrator: str = "crc"
    source: str = "[1] Eq. 8"
    draws_ties: bool = False

    @property
    def guarantee(self) -> str:
        """The promise, in symbols."""
        return GUARANTEES.get(self.calibrator, "P(R > ε) ≤ δ")


_ALL_OF_IT = running.LikelihoodRatio("likelihood_ratio_all", training_share=1.0)

PAPER_METHODS = (
    Method("CRC", running.LatestScore()),
    Method("UCB", running.LatestScore(), "hoeffding_bentkus", "[1] §3.2"),
    Method("e-valuator, anytime", _ALL_OF_IT, VILLE, "[2] §3.2"),
    Method("e-valuator, PAC", running.LikelihoodRatio(), "tolerance", "[2] §3.3"),
)

# What a method has to beat before anything that it learned is worth a word. All ties are drawn, so
# that no baseline is weak for being coarse.
TRIVIAL_METHODS = (
    Method("CRC, ties drawn", running.LatestScore(), draws_ties=True),
    Method("first score only", running.FirstScore(), draws_ties=True),
    Method("step number only", running.StepNumber(), draws_ties=True),
)

FURTHER_METHODS = (
    Method("exact binomial", running.LatestScore(), "binomial", "[3] §3.1"),
    Method("running mean + CRC", running.RunningMean()),
    Method("EWMA + CRC", running.Ewma()),
    Method("CUSUM + CRC", running.Cusum(), source="[1] Eq. 8, [4]"),
    Method("e-valuator ratio + CRC", running.LikelihoodRatio(), source="[1] Eq. 8, [2]"),
    Method("learned + CRC", running.LearnedPrefix(), source="[1] Eq. 8, ours"),
    Method("learned + exact", running.LearnedPrefix(), "binomial", "[3] §3.1, ours"),
    *(Method(f"chosen for {words} + CRC", running.ChosenPrefix(objective, f"chosen_{objective}"),
             source="[1] Eq. 8, ours", draws_ties=True)
      for objective, words in zip(running.OBJECTIVES, ("power", "half", "delay"), strict=True)),
)

ALL_METHODS = PAPER_METHODS + TRIVIAL_METHODS + FURTHER_METHODS


DRAWS = 300
MEASURES = ("far", "power", "after_onset", "by_half", "restricted_delay")


@dataclass(frozen=True)
class _Fitted:
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

    def with_ties_drawn(self, split: int) -> _Fitted:
        """Replace values by their rank plus the sequence's own draw: the same order, no ties."""
        ours, tests = (rng.random(n) for rng, n in zip(
            _tie_rngs(split), (len(self.peaks), len(self.running)), strict=True))
        values = np.unique(np.concatenate([self.peaks, self.running.flat_scores]))
        ranks = np.searchsorted(values, self.running.flat_scores).astype(np.float64)
        drawn = ranks + np.repeat(tests, self.running.lengths)
        return _Fitted(self.positions, np.searchsorted(values, self.peaks) + ours,
                       replace(self.running, flat_scores=drawn))


def _tie_rngs(split: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Where the draws of calibrating and of test sequences come from, the same for all methods."""
    return np.random.default_rng([split, 0]), np.random.default_rng([split, 1])


def _draw_sequences(n: int, draws: int, groups: NDArray[Any] | None = None) -> NDArray[np.int16]:
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
class _Resamples:
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

    def add(self, method: Method, positions: IntArray, test: Trajectories,
            fitted: _Fitted | None) -> None:
        """Place the method's threshold for every draw and test it on one split.

        Parameters
        ----------
        method : Method
            Statistic and calibrator.
        positions : ndarray of int
            Which sequences ``test`` holds.
        test : Trajectories
            The test part.
        fitted : _Fitted or None
            None if the statistic could not be learned: the rule then never (or always) alarms.
        """
        never = self.risk == FALSE_ALARM
        if fitted is None:
            choice = np.zeros(len(self.copies), dtype=np.int64)
            alarms = np.full((len(test), 1), 0 if never else 1)
        else:
            values, choice = np.unique(self._thresholds(method, fitted), return_inverse=True)
            alarms = _first_alarms(fitted.running, values, strict=never)
        raised, share = alarms > 0, np.where(alarms > 0, alarms / test.lengths[:, None], 1.0)
        copies = self.copies[:, positions].astype(np.float64)
        unsafe, onsets = test.labels == 1, test.known_onsets
        measured = ((raised, test.labels == 0), (raised, unsafe),
                    (alarms >= onsets[:, None], unsafe & (onsets > 0)),
                    (raised & (share <= 0.5), unsafe), (share, unsafe))  # as in MEASURES
        self.found.setdefault(method.label, []).append(np.stack([
            _weighted(outcome[of], copies[:, of], choice) for outcome, of in measured], axis=1))

    def table(self) -> pd.DataFrame:
        """One row per method and draw, with means over the splits."""
        frames = []
        for label, splits in self.found.items():
            stacked = np.stack(splits)
            counted = np.sum(~np.isnan(stacked), axis=0)
            with np.errstate(invalid="ignore"):
                means = np.nansum(stacked, axis=0) / counted
            frames.append(pd.DataFrame(means, columns=list(MEASURES)).assign(
                method=label, level=self.level, draw=range(len(means))))
        return pd.concat(frames, ignore_index=True)

    def _thresholds(self, method: Method, fitted: _Fitted) -> FloatArray:
        """Threshold of every draw; alarm above it, or from it on for missed detections."""
        false_alarms, silent = self.risk == FALSE_ALARM, _silent(self.risk)
        if method.calibrator == VILLE:
            return np.full(len(self.copies), 1.0 / check_level(self.level))
        order = np.argsort(-fitted.peaks if false_alarms else fitted.peaks, kind="stable")
        drawn = np.cumsum(self.copies[:, fitted.positions[order]], axis=1, dtype=np.int64)
        if not drawn.shape[1]:
            return np.full(len(drawn), silent)
        rule = RANK_RULES[method.calibrator]
        sizes, draws = np.unique(drawn[:, -1], return_inverse=True)
        k = np.array([rule(int(n), self.level, self.delta) for n in sizes])[draws]
        at = np.minimum(np.sum(drawn < k[:, None], axis=1), drawn.shape[1] - 1)
        return np.where(k > 0, fitted.peaks[order][at], silent)


def _first_alarms(statistic: Trajectories, values: FloatArray, strict: bool) -> IntArray:
    """First alarm of every sequence for each of several thresholds at once.

    Parameters
    ----------
    statistic : Trajectories
        Running, in place of the scores.
    values : ndarray of float, shape (m,)
        Thresholds, increasing.
    strict : bool
        Alarm above the threshold; else also on it.

    Returns
    -------
    ndarray of int, shape (n, m)
        Steps from 1; 0 is none.
    """
    n, m = len(statistic), len(values)
    so_far = statistic.transformed(lambda scores: np.fmax.accumulate(scores, axis=1)).flat_scores
    # A step is silent for all thresholds from a certain one on, and the first alarm comes after
    # all silent steps, since the highest statistic so far never falls.
    passed = np.searchsorted(values, so_far, side="left" if strict else "right")
    row = np.repeat(np.arange(n), statistic.lengths)
    silent = np.bincount(row * (m + 1) + passed, minlength=n * (m + 1)).reshape(n, m + 1)
    silent = np.cumsum(silent, axis=1)[:, :m]
    return np.where(silent < statistic.lengths[:, None], silent + 1, 0)


def _weighted(outcome: NDArray[np.generic], copies: FloatArray, choice: IntArray) -> FloatArray:
    """Mean outcome over the copies of each draw, whose threshold is that of column ``choice``."""
    total = copies.sum(axis=1)
    sums = (copies @ outcome.astype(np.float64))[np.arange(len(copies)), choice]
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)


PAPER_LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def compare_methods(trajectories: Trajectories, methods: Sequence[Method], splits: Iterable[Split],
                    *, levels: Sequence[float] = PAPER_LEVELS, delta: float = 0.1,
                    risk: str = FALSE_ALARM, resamples: _Resamples | None = None) -> pd.DataFrame:
    """Run every method at every level on every split.

    Parameters
    ----------
    trajectories : Trajectories
        All labelled sequences of one data set under one signal.
    methods : sequence of Method
        What to compare.
    splits : iterable of (calibration, test)
        Positions of the sequences, as from :func:`monitorlab.online.comparison.random_splits`. A
        statistic that learns is fitted on the first positions of ``calibration``, so these should
        be in random order.
    levels : sequence of float
        Target risks, each in (0, 1).
    delta : float
        Error probability of the high-probability calibrators.
    risk : {"false_alarm", "missed_detection"}
        Which risk the levels are about.
    resamples : _Resamples, optional
        Gathers results on sequences drawn anew, for :func:`compare_resampled`.

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
    trajectories.require_two_classes()
    rows: list[dict[str, object]] = []
    # The regressions are small: on more than one thread they spend their time waiting.
    with threadpool_limits(limits=1):
        for split, (calibration, test) in enumerate(splits):
            fold = _Fold(trajectories, calibration, test, risk, delta, split, resamples)
            rows.extend(fold.rows(methods, levels))
    return pd.DataFrame(rows)


def compare_resampled(
    trajectories: Trajectories, methods: Sequence[Method], splits: Iterable[Split], *,
    level: float, levels: Sequence[float] = PAPER_LEVELS, delta: float = 0.1,
    risk: str = FALSE_ALARM, draws: int = DRAWS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare methods, and say how far one level's results depend on the sequences.

    Splits share their sequences, so the spread over splits says little about other sequences. Here
    all sequences are drawn anew, with replacement, and each takes its copies along into the part of
    every split in which it stands, calibration or test; thresholds are placed and tested anew. What
    was learned stays as it is. All methods meet the same draws, and so does every other signal of
    the same sequences: differences are paired. Sequences of a group are drawn together.

    Parameters
    ----------
    trajectories, methods, splits, levels, delta, risk
        As for :func:`compare_methods`.
    level : float
        Where sequences are drawn anew.
    draws : int
        How often.

    Returns
    -------
    results : DataFrame
        As from :func:`compare_methods`, at ``levels`` and at ``level``.
    resamples : DataFrame
        One row per method and draw: ``dataset, signal, method, level, draw`` and, as means over the
        splits, ``far, power, after_onset, by_half, restricted_delay``.
    """
    copies = _draw_sequences(len(trajectories), draws, trajectories.groups)
    resamples = _Resamples(level, copies, risk, delta)
    results = compare_methods(trajectories, methods, splits, levels=sorted({*levels, level}),
                              delta=delta, risk=risk, resamples=resamples)
    return results, resamples.table().assign(
        dataset=trajectories.dataset, signal=trajectories.signal)


@dataclass(frozen=True)
class _Fold:
    """One split: fit, calibrate and count, sharing fitted statistics between methods."""

    data: Trajectories
    calibration: IntArray
    test: IntArray
    risk: str
    delta: float
    split: int
    resamples: _Resamples | None = None

    def rows(self, methods: Iterable[Method], levels: Sequence[float]) -> Iterator[dict[str, Any]]:
        test = self.data.take(self.test)
        fitted: dict[running.Statistic, _Fitted | None] = {}
        counts = {"safe": self.data.count(0), "unsafe": self.data.count(1)}
        for method in methods:
            if method.statistic not in fitted:
                fitted[method.statistic] = self._fit(method.statistic, test)
            found = fitted[method.statistic]
            for level in levels:
                threshold = self._threshold(method, found, level)
                if found is None:
                    alarms = np.full(len(test), int(self.risk == MISSED_DETECTION))
                else:
                    tie_rng = _tie_rngs(self.split)[1] if method.draws_ties else None
                    alarms = alarm_steps(found.running, threshold, tie_rng)
                if self.resamples is not None and level == self.resamples.level:
                    drawn = found
                    if found is not None and method.draws_ties:
                        drawn = found.with_ties_drawn(self.split)
                    self.resamples.add(method, self.test, test, drawn)
                rule = dict(vars(threshold))
                rule["threshold"] = rule.pop("value")
                if method.draws_ties:  # another rule than without draws, also in a table's key
                    rule["calibrator"] += ", ties drawn"
                yield {"dataset": self.data.dataset, "signal": self.data.signal,
                       "method": method.label, "statistic": method.statistic.name,
                       "split": self.split, **counts, **rule, **vars(alarm_metrics(alarms, test))}

    def _fit(self, statistic: running.Statistic, test: Trajectories) -> _Fitted | None:
        at_risk = int(self.risk == MISSED_DETECTION)
        labels = self.data.labels[self.calibration]
        learns = running.training_part(statistic, labels, at_risk)
        try:
            transform = statistic.fit(self.data.take(self.calibration[learns]))
        except running.TooFewSequencesError:
            return None
        positions = self.calibration[~learns & (labels == at_risk)]
        calibrating = self.data.take(positions).transformed(transform)
        return _Fitted(positions, peaks(calibrating), test.transformed(transform))

    def _threshold(self, method: Method, fitted: _Fitted | None, level: float) -> Threshold:
        if fitted is None:
            silent = _silent(self.risk)
            return Threshold(silent, float(silent > 0), self.risk, method.calibrator, float(level),
                             self.delta, n=0, k=0, n_needed=0, attained=0.0,
                             state=thresholds.NOT_TRAINABLE)
        if method.calibrator == VILLE:
            return _ville_threshold(level, self.risk)
        return calibrate(
            fitted.peaks, level, method.calibrator, risk=self.risk, delta=self.delta,
            tie_rng=_tie_rngs(self.split)[0] if method.draws_ties else None)


def _silent(risk: str) -> float:
    """Threshold of the rule that keeps any promise: it never, or always, alarms."""
    return math.inf if risk == FALSE_ALARM else -math.inf


def _ville_threshold(level: float, risk: str = FALSE_ALARM) -> Threshold:
    """Threshold 1/level of the anytime test, whose level is of false alarms and in (0, 1).

    Not calibrated on data: n and k are 0 and the guarantee rests on the estimated ratio being
    exact, an assumption that no sample size makes true. It says nothing about what is missed.
    """
    if risk != FALSE_ALARM:
        raise ValueError(f"Ville's inequality bounds false alarms only, not {risk!r}.")
    return Threshold(1.0 / check_level(level), 1.0, FALSE_ALARM, VILLE, float(level), math.nan,
                     n=0, k=0, n_needed=0, attained=math.nan, state=thresholds.CALIBRATED)


def random_splits(n: int, n_splits: int, calibration_fraction: float,
                  seed: int | np.random.SeedSequence) -> Iterator[Split]:
    """Yield (calibration, test) positions, each split from a generator of its own.

    Parameters
    ----------
    n : int
        Sequences to split.
    n_splits : int
        Number of splits.
    calibration_fraction : float
        Share of sequences that calibrates, in (0, 1); rounded to whole sequences.
    seed : int or SeedSequence
        Root of the spawned generators: split i is the same however many are asked for.
    """
    if not 0.0 < calibration_fraction < 1.0:
        raise ValueError(f"calibration_fraction is {calibration_fraction}, expected a share "
                         "between 0 and 1.")
    size = round(calibration_fraction * n)
    if not 0 < size < n:
        raise ValueError(
            f"{n} sequences split at {calibration_fraction:g} leave {size} for calibration and "
            f"{n - size} for testing; both need at least one. Bring more sequences.")
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    for i in range(n_splits):
        # Spawned by position, not by SeedSequence.spawn, which would remember earlier calls.
        child = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, i))
        order = np.random.default_rng(child).permutation(n)
        yield order[:size], order[size:]
