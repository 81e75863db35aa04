"""Statistics that learn which course of scores announces danger, ours and a published one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitorlab.online.running import (
    FEATURES,
    Fitted,
    FittedPrefix,
    FittedRatio,
    LatestScore,
    TooFewSequencesError,
    prefix_features,
    require_both_classes,
)
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.intervals import check_level
from monitorlab.statistics.thresholds import CALIBRATED, FALSE_ALARM, Threshold

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

LEAST_SQUARES = 1.0  # ridge penalty on standardised weights, that of scikit-learn's default
ROUNDS = 3  # of finding the peaks and learning from them
FOLDS = 5
FEWEST_TO_CHOOSE = 20  # training sequences of a class; from fewer, the score itself is taken
LEVELS = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2)  # false alarm rates that an objective averages
MISS = 3.0  # lengths that a missed sequence costs where delay is the objective
PEAKS = 2.0  # weight of what is learned from peaks, beside what is learned from all steps
HEAD_STARTS = (0.0, 0.4, 0.8, 1.2)  # standard deviations, shrinking as 1 / step
NEAR = 1.0  # standard errors from the best within which candidates are averaged
MINIMUM_PER_CLASS = 5  # sequences that a step's classifier of the likelihood ratio learns from
OBJECTIVES = ("power", "by_half", "restricted_delay")
Rows = tuple[tuple[float, ...], ...]  # of step t, t numbers


@dataclass(frozen=True)
class LearnedPrefix:
    """Log odds of an unsafe sequence, by logistic regression on prefix features.

    A simple threshold on the score ignores time and history. A few numbers per step, all updatable
    in constant time, tell more: the score, its maximum, mean and minimum so far, the first score
    (how hard the problem looked at the outset), how far we are, and a few more
    (:data:`monitorlab.online.running.FEATURES`). A regression of the sequence label on them, over
    all steps of the training sequences, gives one running number; the calibrator then treats it
    like any other statistic, so the guarantee does not depend on the model being right.

    Attributes
    ----------
    training_share : float
        Share of the calibration sequences of the class at risk to learn from; the rest calibrates.
    all_others : bool
        See :func:`monitorlab.online.running.training_part`.
    """

    name: str = "learned"
    training_share: float = 0.5
    all_others: bool = True

    def fit(self, train: Trajectories) -> Fitted:
        """Fit on all steps of ``train``, each labelled by its sequence.

        Raises
        ------
        TooFewSequencesError
            If ``train`` lacks one of the classes.
        """
        require_both_classes(train, self.name)
        table = _table(train)
        return table.fitted(table.step_weights(np.arange(len(train))))


@dataclass(frozen=True)
class ChosenPrefix:
    """The statistic that cross-validation prefers for an objective, among a handful.

    Candidates are the score itself; the log odds of :class:`LearnedPrefix`; what lies halfway
    between the two; and log odds that are learned from all steps and, with more weight, from the
    peaks, which are all that a threshold sees; each with several head starts for early steps. Five
    folds of the training part say what each would reach at a few false alarm rates. One that is
    worse there than the score itself, in the objective, in power or in restricted delay, is left
    out; those that come near the best are averaged, since which of them is first is chance. From
    few sequences the score itself is taken. Only the training part is read, so the guarantee stays.

    Attributes
    ----------
    objective : {"power", "by_half", "restricted_delay"}
        What to maximise: the share of unsafe sequences with an alarm; the share with an alarm in
        the first half of their steps; or minus the mean share of steps until the alarm, where a
        miss counts as three lengths. (Counted as one length, as in tables, a monitor that reads
        the first score and then gives up would often be the best.)
    training_share, all_others
        As for :class:`LearnedPrefix`.
    """

    objective: str = "restricted_delay"
    name: str = "chosen_restricted_delay"
    training_share: float = 0.5
    all_others: bool = True

    def fit(self, train: Trajectories) -> Fitted:
        """Choose on ``train`` and fit the choice on all of it.

        Raises
        ------
        TooFewSequencesError
            If ``train`` lacks one of the classes.
        ValueError
            For an unknown objective.
        """
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"objective is {self.objective!r}, expected one of {', '.join(OBJECTIVES)}.")
        require_both_classes(train, self.name)
        if min(train.count(0), train.count(1)) < FEWEST_TO_CHOOSE:
            return LatestScore()
        table = _table(train)
        near = self._near_the_best(table)
        if near == [0]:
            return LatestScore()
        candidates = list(table.candidates(np.arange(len(train))))
        return table.fitted(np.mean([candidates[at] for at in near], axis=0))

    def _near_the_best(self, table: _Table) -> list[int]:
        """Return the candidates with the best held-out objective; 0 is the score itself."""
        fold = np.empty(len(table.labels), dtype=np.int64)
        for label in (0, 1):
            ours = np.flatnonzero(table.labels == label)
            fold[ours] = np.arange(len(ours)) % FOLDS
        odds = np.empty((1 + 3 * len(HEAD_STARTS), len(table.features)))
        for held_out in range(FOLDS):
            steps = np.repeat(fold == held_out, table.lengths)
            weights = np.array(list(table.candidates(np.flatnonzero(fold != held_out))))
            odds[:, steps] = weights @ table.features[steps].T
        power, half, delay = np.array([table.reached(one) for one in odds]).T
        objective = {"power": power, "by_half": half,
                     "restricted_delay": -(delay + (MISS - 1.0) * (1.0 - power)) / MISS,
                     }[self.objective]
        worse = (power < power[0]) | (delay > delay[0]) | (objective < objective[0])
        objective = np.where(worse, -np.inf, objective)
        chance = float(np.max(power))
        error = math.sqrt(chance * (1.0 - chance) / int(np.sum(table.labels == 1)))
        return np.flatnonzero(objective >= np.max(objective) - NEAR * error).tolist()


@dataclass(frozen=True)
class _Table:
    """Training sequences as standardised features, step behind step.

    Attributes
    ----------
    features : ndarray of float, shape (number of steps, number of features)
        Mean 0 and standard deviation 1, or all 0.
    centres, scales : ndarray of float, shape (number of features,)
        What was subtracted and divided by.
    labels, lengths : ndarray of int, shape (n,)
        1 is unsafe; steps of each sequence.
    scale : FittedPrefix
        Without weights: it knows the reference scores.
    """

    features: FloatArray
    centres: FloatArray
    scales: FloatArray
    labels: NDArray[np.int8]
    lengths: IntArray
    scale: FittedPrefix

    def fitted(self, weights: FloatArray) -> FittedPrefix:
        """Return the statistic with these weights of standardised features."""
        plain = weights / self.scales
        return FittedPrefix(self.scale.reference, self.scale.counts, tuple(plain.tolist()),
                            float(-np.sum(plain * self.centres)))

    def candidates(self, chosen: IntArray) -> Iterator[FloatArray]:
        """Yield weights of all candidates, learned from the sequences ``chosen``."""
        score = np.zeros(len(FEATURES))
        score[FEATURES.index("score")] = 1.0
        early = np.zeros(len(FEATURES))
        early[FEATURES.index("one over step")] = self.scales[FEATURES.index("one over step")]
        by_steps = self.step_weights(chosen)
        by_peaks = self.peak_weights(chosen, by_steps)
        score, by_steps, by_peaks = map(self._unit, (score, by_steps, by_peaks))
        yield score
        halfway = (score + by_steps) / 2.0
        for learned in (halfway, by_steps, self._unit(by_steps + PEAKS * by_peaks)):
            for head_start in HEAD_STARTS:
                yield learned + head_start * early

    def _unit(self, weights: FloatArray) -> FloatArray:
        """Scale weights so that the statistic has standard deviation 1."""
        return weights / (float(np.std(self.features @ weights)) or 1.0)

    def step_weights(self, chosen: IntArray) -> FloatArray:
        """Learn from all steps of the sequences ``chosen``, each labelled by its sequence."""
        rows = np.isin(np.repeat(np.arange(len(self.labels)), self.lengths), chosen)
        return logistic(self.features[rows], np.repeat(self.labels, self.lengths)[rows])

    def peak_weights(self, chosen: IntArray, weights: FloatArray) -> FloatArray:
        """Learn from one step of each sequence: where the statistic so far has its peak."""
        starts = np.cumsum(self.lengths) - self.lengths
        sequence = np.repeat(np.arange(len(self.labels)), self.lengths)
        for _ in range(ROUNDS):
            odds = self.features @ weights
            highest = np.maximum.reduceat(odds, starts)
            peaks = np.flatnonzero(odds == np.repeat(highest, self.lengths))
            _, first = np.unique(sequence[peaks], return_index=True)
            weights = logistic(self.features[peaks[first][chosen]], self.labels[chosen])
        return weights

    def reached(self, odds: FloatArray) -> tuple[float, float, float]:
        """Return power, share caught by half and restricted delay, as means over ``LEVELS``."""
        starts = np.cumsum(self.lengths) - self.lengths
        step = np.arange(len(odds)) - np.repeat(starts, self.lengths) + 1
        safe = np.maximum.reduceat(odds, starts)[self.labels == 0]
        unsafe = self.labels == 1
        found = []
        for threshold, weight in _thresholds(safe):
            late = np.where(odds > threshold, step, len(odds) + 1)
            alarm = np.minimum.reduceat(late, starts)[unsafe]
            share = np.minimum(alarm / self.lengths[unsafe], 1.0)
            raised = alarm <= self.lengths[unsafe]
            found.append(weight * np.array([
                np.mean(raised), np.mean(raised & (share <= 0.5)), np.mean(share)]))
        power, half, delay = np.sum(found, axis=0)
        return float(power), float(half), float(delay)


def _thresholds(safe_peaks: FloatArray) -> Iterator[tuple[float, float]]:
    """Yield thresholds that spend ``LEVELS`` on these peaks, with weights that sum to 1.

    Where peaks tie, the level lies between two thresholds, and both count by how near they are.
    """
    values, counts = np.unique(safe_peaks, return_counts=True)
    above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]]) / len(safe_peaks)
    cuts = np.concatenate([[-np.inf], values])  # alarms of `above` lie strictly over the cut
    for level in LEVELS:
        at = int(np.argmax(above <= level))
        share = (level - above[at]) / (above[at - 1] - above[at]) if at else 0.0
        yield float(cuts[at]), (1.0 - share) / len(LEVELS)
        if share > 0.0:
            yield float(cuts[at - 1]), share / len(LEVELS)


def _table(train: Trajectories) -> _Table:
    reference, counts = np.unique(train.flat_scores, return_counts=True)
    scale = FittedPrefix(
        tuple(reference.tolist()), tuple(counts.tolist()), (0.0,) * len(FEATURES), 0.0)
    features = np.empty((len(train.flat_scores), len(FEATURES)))
    for block, at in train.blocks():
        scores = block.scores
        columns = prefix_features(scale.normal_scores(scores))
        features[at] = np.stack(columns, axis=-1)[~np.isnan(scores)]
    centres, scales = features.mean(axis=0), features.std(axis=0)
    scales[scales < 1e-9] = 1.0
    return _Table((features - centres) / scales, centres, scales, train.labels, train.lengths,
                  scale)


def logistic(features: FloatArray, labels: NDArray[np.int8]) -> FloatArray:
    """Weights of a ridge logistic regression with an intercept, by Newton's method.

    Parameters
    ----------
    features : ndarray of float, shape (n, p)
        Standardised.
    labels : ndarray of int, shape (n,)
        0 or 1.

    Returns
    -------
    ndarray of float, shape (p,)
        Without the intercept, which moves no ranks.
    """
    inputs = np.column_stack([features, np.ones(len(features))])
    penalty = np.append(np.full(features.shape[1], LEAST_SQUARES), 1e-9)
    signs = 1.0 - 2.0 * labels

    def loss(weights: FloatArray) -> float:
        return float(np.sum(np.logaddexp(0.0, signs * (inputs @ weights)))
                     + penalty @ weights**2 / 2.0)

    weights = np.zeros(len(penalty))
    lowest = loss(weights)
    for _ in range(50):
        chance = 1.0 / (1.0 + np.exp(-np.clip(inputs @ weights, -500.0, 500.0)))
        gradient = inputs.T @ (chance - labels) + penalty * weights
        curvature = (inputs.T * (chance * (1.0 - chance))) @ inputs + np.diag(penalty)
        move = np.linalg.solve(curvature, gradient)
        while (found := loss(weights - move)) > lowest and np.abs(move).max() > 1e-12:
            move /= 2.0
        weights, gain, lowest = weights - move, lowest - found, found
        if gain < 1e-10 * lowest:
            break
    return weights[:-1]


@dataclass(frozen=True)
class LikelihoodRatio:
    r"""Sequential test by an estimated likelihood ratio, after e-valuator (arXiv 2512.03109).

    At step t a logistic regression on the whole standardised prefix estimates the odds of danger,
    and

    .. math:: M_t = \frac{p(\text{unsafe} \mid s_{1:t})}{p(\text{safe} \mid s_{1:t})}
                   \cdot \frac{p(\text{safe})}{p(\text{unsafe})}.

    If the classifiers were exact, :math:`M_t` would be a test martingale under safety and Ville's
    inequality would bound the chance that it ever exceeds :math:`1/\epsilon` by :math:`\epsilon`
    ("anytime"). The PAC variant only uses it as a statistic and calibrates a tolerance limit.

    Same numbers as the published package on clean input, on padded arrays: one regression and one
    prediction per step, instead of one prediction per row.

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
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

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
