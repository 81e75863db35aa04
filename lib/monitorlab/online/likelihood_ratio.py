r"""Sequential test by an estimated likelihood ratio, after e-valuator (arXiv 2512.03109).

At step t a logistic regression on the whole standardised prefix estimates the odds of danger, and

.. math:: M_t = \frac{p(\text{unsafe} \mid s_{1:t})}{p(\text{safe} \mid s_{1:t})}
               \cdot \frac{p(\text{safe})}{p(\text{unsafe})}.

If the classifiers were exact, :math:`M_t` would be a test martingale under safety and Ville's
inequality would bound the chance that it ever exceeds :math:`1/\epsilon` by :math:`\epsilon`
("anytime"). The PAC variant only uses it as a statistic and calibrates a tolerance limit.

Same numbers as the published package on clean input, on padded arrays: one regression and one
prediction per step, instead of one prediction per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from monitorlab.online.running import Fitted, FittedRatio, TooFewSequencesError
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.intervals import check_level
from monitorlab.statistics.thresholds import CALIBRATED, FALSE_ALARM, Threshold

FloatArray = NDArray[np.float64]

MINIMUM_PER_CLASS = 5
Rows = tuple[tuple[float, ...], ...]  # of step t, t numbers


@dataclass(frozen=True)
class LikelihoodRatio:
    """Estimated likelihood ratio of unsafe to safe, one classifier per step.

    Attributes
    ----------
    training_share : float
        1/2 for the PAC variant (the other half calibrates), 1 for the anytime variant, which has
        nothing to calibrate and trains on everything.
    """

    name: str = "likelihood_ratio"
    training_share: float = 0.5
    all_others: bool = False  # as in the published package

    def fit(self, train: Trajectories) -> Fitted:
        """Fit one classifier for every step that at least five sequences per class reach.

        Raises
        ------
        TooFewSequencesError
            If step 1 has fewer than five sequences of a class.
        """
        unsafe = int(np.sum(train.labels == 1))
        if min(unsafe, len(train) - unsafe) < MINIMUM_PER_CLASS:
            raise TooFewSequencesError(
                f"{self.name} needs at least {MINIMUM_PER_CLASS} safe and {MINIMUM_PER_CLASS} "
                f"unsafe sequences to learn from; it was given {len(train) - unsafe} safe and "
                f"{unsafe} unsafe ones."
            )
        weights, centres, intercepts = _fit_steps(train)
        lowest, highest = _stand_ins(train.flat_scores)
        return FittedRatio(weights, centres, intercepts, (len(train) - unsafe) / unsafe,
                           lowest, highest)


def ville_threshold(level: float, risk: str = FALSE_ALARM) -> Threshold:
    """Threshold 1/level of the anytime test.

    Parameters
    ----------
    level : float
        Target false alarm rate, in (0, 1).
    risk : str
        Must be ``false_alarm``: the test says nothing about what it misses.

    Returns
    -------
    Threshold
        Not calibrated on data: n and k are 0 and the guarantee rests on the estimated ratio being
        exact, an assumption that no sample size makes true.
    """
    if risk != FALSE_ALARM:
        raise ValueError(f"Ville's inequality bounds false alarms only, not {risk!r}.")
    value = 1.0 / check_level(level)
    return Threshold(
        value=value, tie_break=1.0, risk=FALSE_ALARM, calibrator="ville", level=float(level),
        delta=math.nan, n=0, k=0, n_needed=0, attained=math.nan, state=CALIBRATED,
    )


def _stand_ins(scores: FloatArray) -> tuple[float, float]:
    """Where -inf and +inf stand: one range of the finite training scores beyond them."""
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    reach = (high - low) or 1.0
    return low - reach, high + reach


def _fit_steps(train: Trajectories) -> tuple[Rows, Rows, tuple[float, ...]]:
    """Return weights, centres and intercepts for the steps that enough sequences reach."""
    scores = np.clip(train.flat_scores, *_stand_ins(train.flat_scores))
    weights, centres, intercepts = [], [], []
    for steps in range(1, int(train.lengths.max()) + 1):
        reached = train.lengths >= steps
        unsafe = train.labels[reached]
        if min(int(unsafe.sum()), int((1 - unsafe).sum())) < MINIMUM_PER_CLASS:
            break  # later steps are reached by fewer still
        prefixes = scores[train.starts[reached][:, None] + np.arange(steps)]
        scaler = StandardScaler().fit(prefixes)
        model = LogisticRegression(max_iter=200)
        model.fit(scaler.transform(prefixes), unsafe)
        weights.append(tuple((model.coef_[0] / scaler.scale_).tolist()))
        centres.append(tuple(scaler.mean_.tolist()))
        intercepts.append(float(model.intercept_[0]))
    return tuple(weights), tuple(centres), tuple(intercepts)
