"""Statistics of a running sequence: what is compared with the threshold at each step.

A statistic maps step scores to one number per step that depends on the scores so far only. Some
need no data (``training_share`` 0); others are fitted on part of the calibration set, and the
threshold is then chosen on the *other* part, which keeps the guarantee whatever was learned.

A score may be infinite. Then so is every mean and sum from there on, and where both signs meet,
suspicion wins: +inf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monitorlab.online.trajectories import Trajectories

FloatArray = NDArray[np.float64]

# (n, T) suspicion, NaN-padded -> (n, T) statistic, NaN-padded, high is unsafe.
Transform = Callable[[FloatArray], FloatArray]


class TooFewSequencesError(ValueError):
    """A statistic that learns was given too few sequences of one class."""


class Statistic(Protocol):
    """A rule that turns step scores into a running statistic.

    Attributes
    ----------
    name : str
        Short name, used in tables.
    training_share : float
        Share of the calibration sequences that :meth:`fit` is given, in [0, 1].
    """

    @property
    def name(self) -> str:
        """Short name, used in tables."""
        ...

    @property
    def training_share(self) -> float:
        """Share of the calibration sequences to learn from, in [0, 1]."""
        ...

    def fit(self, train: Trajectories) -> Transform:
        """Return the fitted transform. ``train`` is empty if ``training_share`` is 0."""
        ...


@dataclass(frozen=True)
class LatestScore:
    """The step score itself: alarm at the first score above the threshold.

    This is the monitor of the paper. Its peak over a sequence is the running maximum of suspicion,
    the paper's running minimum of safety (arXiv 2607.02510, section 3.1).
    """

    name: str = "running_min"
    training_share: float = 0.0

    def fit(self, train: Trajectories) -> Transform:
        """Nothing to fit."""
        return lambda scores: scores


@dataclass(frozen=True)
class RunningMean:
    r"""Mean of the scores so far, :math:`\bar s_t = \frac{1}{t} \sum_{u \le t} s_u`."""

    name: str = "running_mean"
    training_share: float = 0.0

    def fit(self, train: Trajectories) -> Transform:
        """Nothing to fit."""
        return running_mean


@dataclass(frozen=True)
class Ewma:
    r"""Exponentially weighted mean, :math:`z_t = (1 - w) z_{t-1} + w s_t`, :math:`z_1 = s_1`.

    Attributes
    ----------
    weight : float
        w in (0, 1]: 1 forgets everything but the latest score.
    """

    weight: float = 0.3
    name: str = "ewma"
    training_share: float = 0.0

    def fit(self, train: Trajectories) -> Transform:
        """Nothing to fit."""
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"EWMA weight is {self.weight}, expected a number in (0, 1].")
        return lambda scores: ewma(scores, self.weight)


@dataclass(frozen=True)
class Cusum:
    r"""Page's cumulative sum, :math:`S_t = \max(0, S_{t-1} + s_t - r)`, :math:`S_0 = 0`.

    The reference r lies halfway between the mean step score of safe and of unsafe training
    sequences, the classical choice for a shift of known size (Page, 1954).
    """

    name: str = "cusum"
    training_share: float = 0.25

    def fit(self, train: Trajectories) -> Transform:
        """Fix the reference from ``train``; both classes must be present.

        Raises
        ------
        TooFewSequencesError
            If ``train`` lacks a class, or finite scores in one.
        """
        _require_both_classes(train, self.name)
        means = []
        for label in (0, 1):
            scores = train.take(train.labels == label).flat_scores
            if not np.isfinite(scores).any():
                raise TooFewSequencesError(
                    f"{self.name} needs the mean score of safe and of unsafe sequences; all "
                    f"{len(scores)} scores of the {('safe', 'unsafe')[label]} ones are infinite."
                )
            means.append(np.mean(scores[np.isfinite(scores)]))
        reference = float(np.mean(means))
        return lambda scores: cusum(scores, reference)


def running_mean(scores: FloatArray) -> FloatArray:
    """Mean of the scores up to each step; shape (n, T), NaN where ``scores`` is."""
    steps = np.arange(1, scores.shape[1] + 1)
    with np.errstate(invalid="ignore"):
        values = np.cumsum(np.where(np.isnan(scores), 0.0, scores), axis=1) / steps
    return _where_present(values, scores)


def running_max(scores: FloatArray) -> FloatArray:
    """Highest score up to each step; shape (n, T), NaN where ``scores`` is."""
    return np.where(np.isnan(scores), np.nan, np.fmax.accumulate(scores, axis=1))


def ewma(scores: FloatArray, weight: float) -> FloatArray:
    """Exponentially weighted mean up to each step; shape (n, T), NaN where ``scores`` is."""
    values = np.array(scores, dtype=np.float64)
    if weight == 1.0:
        return values
    with np.errstate(invalid="ignore"):
        for t in range(1, values.shape[1]):
            values[:, t] = (1.0 - weight) * values[:, t - 1] + weight * scores[:, t]
    return _where_present(values, scores)


def cusum(scores: FloatArray, reference: float) -> FloatArray:
    """Cumulative sum of excesses over ``reference``, floored at 0; shape (n, T)."""
    values = np.empty_like(scores)
    total = np.zeros(len(scores))
    with np.errstate(invalid="ignore"):
        for t in range(scores.shape[1]):
            total = np.maximum(0.0, total + scores[:, t] - reference)
            values[:, t] = total
    return _where_present(values, scores)


def _where_present(values: FloatArray, scores: FloatArray) -> FloatArray:
    """Keep the padding, and let suspicion win where infinities of both signs have met."""
    return np.where(np.isnan(scores), np.nan, np.where(np.isnan(values), np.inf, values))


def _require_both_classes(train: Trajectories, who: str) -> None:
    """Raise if ``train`` lacks safe or unsafe sequences."""
    unsafe = int(np.sum(train.labels == 1))
    if unsafe == 0 or unsafe == len(train):
        raise TooFewSequencesError(
            f"{who} learns from safe and unsafe sequences; the training part of the calibration "
            f"set has {len(train) - unsafe} safe and {unsafe} unsafe ones. Use more sequences, or "
            "a statistic without training (running_min, running_mean, ewma)."
        )


FEATURES = ("score", "running maximum", "running mean", "first score", "log step")


def _normal_scores(scores: FloatArray, reference: FloatArray) -> FloatArray:
    """Map scores to the normal quantile of their mid-rank within ``reference``.

    Makes the features independent of the scale of the score: probabilities, log-probabilities and
    ratings on a grid look alike. Ties share a mid-rank; scores beyond the reference stay finite.

    Parameters
    ----------
    scores : ndarray of float
        Any shape, NaN kept.
    reference : ndarray of float, shape (m,)
        Sorted scores to rank within.

    Returns
    -------
    ndarray of float
        The shape of ``scores``, increasing in it.
    """
    below = np.searchsorted(reference, scores, side="left")
    up_to = np.searchsorted(reference, scores, side="right")
    level = ((below + up_to) / 2.0 + 0.5) / (len(reference) + 1.0)
    return np.where(np.isnan(scores), np.nan, special.ndtri(level))


def _prefix_features(values: FloatArray) -> FloatArray:
    """Summarise each prefix by the numbers named in ``FEATURES``.

    Parameters
    ----------
    values : ndarray of float, shape (n, T)
        Scores on a common scale, NaN-padded.

    Returns
    -------
    ndarray of float, shape (n, T, 5)
        Features of steps 1..t at step t; rows past the end hold NaN.
    """
    n, horizon = values.shape
    first = np.broadcast_to(values[:, :1], (n, horizon))
    steps = np.broadcast_to(np.log(np.arange(1, horizon + 1)), (n, horizon))
    return np.stack([values, running_max(values), running_mean(values), first, steps], axis=-1)


@dataclass(frozen=True)
class LearnedPrefix:
    """Log odds of an unsafe sequence, by logistic regression on prefix features.

    A simple threshold on the score ignores time and history. Five numbers per step, all updatable
    in constant time, already tell much more: the score, its running maximum and mean, the first
    score (how hard the problem looked at the outset) and how far we are. A regression of the
    sequence label on them, over all steps of the training sequences, gives one running number; the
    calibrator then treats it like any other statistic, so the guarantee does not depend on the
    model being right.

    Attributes
    ----------
    training_share : float
        Share of the calibration sequences used to fit; the rest calibrates.
    """

    name: str = "learned"
    training_share: float = 0.5

    def fit(self, train: Trajectories) -> Transform:
        """Fit on all steps of ``train``, each labelled by its sequence.

        Raises
        ------
        TooFewSequencesError
            If ``train`` lacks one of the classes.
        """
        _require_both_classes(train, self.name)
        reference = np.sort(train.flat_scores)
        features = np.empty((len(reference), len(FEATURES)))
        for block, at in train.blocks():
            scores = block.scores
            features[at] = _prefix_features(_normal_scores(scores, reference))[~np.isnan(scores)]
        labels = np.repeat(train.labels, train.lengths)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        model.fit(features, labels)

        def transform(scores: FloatArray) -> FloatArray:
            mask = ~np.isnan(scores)
            odds = np.full(scores.shape, np.nan)
            rows = _prefix_features(_normal_scores(scores, reference))[mask]
            odds[mask] = model.decision_function(rows) if len(rows) else np.empty(0)
            return odds

        return transform
