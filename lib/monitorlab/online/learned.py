"""A learned sequential statistic: the log odds of danger given a summary of the prefix.

A simple threshold on the score ignores time and history. Five numbers per step, all updatable in
constant time, already tell much more: the score, its running maximum and mean, the first score
(how hard the problem looked at the outset) and how far we are. A logistic regression of the
sequence label on them, over all steps of the training sequences, gives one running number; the
calibrator then treats it like any other statistic. Fitted on one part of the calibration set and
calibrated on the rest, so the guarantee does not depend on the model being right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monitorlab.online.statistics import (
    Transform,
    require_both_classes,
    running_max,
    running_mean,
)
from monitorlab.online.trajectories import Trajectories

FloatArray = NDArray[np.float64]

FEATURES = ("score", "running maximum", "running mean", "first score", "log step")


def normal_scores(scores: FloatArray, reference: FloatArray) -> FloatArray:
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


def prefix_features(values: FloatArray) -> FloatArray:
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
        require_both_classes(train, self.name)
        reference = np.sort(train.flat_scores)
        features = np.empty((len(reference), len(FEATURES)))
        for block, at in train.blocks():
            scores = block.scores
            features[at] = prefix_features(normal_scores(scores, reference))[~np.isnan(scores)]
        labels = np.repeat(train.labels, train.lengths)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        model.fit(features, labels)

        def transform(scores: FloatArray) -> FloatArray:
            mask = ~np.isnan(scores)
            odds = np.full(scores.shape, np.nan)
            rows = prefix_features(normal_scores(scores, reference))[mask]
            odds[mask] = model.decision_function(rows) if len(rows) else np.empty(0)
            return odds

        return transform
