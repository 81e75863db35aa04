"""Statistics that learn which course of scores announces danger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from monitorlab.online.running import (
    FEATURES,
    Fitted,
    FittedPrefix,
    prefix_features,
    require_both_classes,
)
from monitorlab.online.trajectories import Trajectories


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

    def fit(self, train: Trajectories) -> Fitted:
        """Fit on all steps of ``train``, each labelled by its sequence.

        Raises
        ------
        TooFewSequencesError
            If ``train`` lacks one of the classes.
        """
        require_both_classes(train, self.name)
        reference, counts = np.unique(train.flat_scores, return_counts=True)
        unweighted = FittedPrefix(
            tuple(reference.tolist()), tuple(counts.tolist()), (0.0,) * len(FEATURES), 0.0)
        features = np.empty((len(train.flat_scores), len(FEATURES)))
        for block, at in train.blocks():
            scores = block.scores
            columns = prefix_features(unweighted.normal_scores(scores))
            features[at] = np.stack(columns, axis=-1)[~np.isnan(scores)]
        scaler = StandardScaler().fit(features)
        model = LogisticRegression(max_iter=500)
        model.fit(scaler.transform(features), np.repeat(train.labels, train.lengths))
        weights = model.coef_[0] / scaler.scale_
        intercept = float(model.intercept_[0] - np.sum(weights * scaler.mean_))
        return FittedPrefix(
            unweighted.reference, unweighted.counts, tuple(weights.tolist()), intercept)
