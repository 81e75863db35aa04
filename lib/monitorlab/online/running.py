"""Statistics of a running sequence: what is compared with the threshold at each step.

A statistic maps step scores to one number per step that depends on the scores so far only. Some
need no data (``training_share`` 0); others are fitted on part of the calibration set, and the
threshold is then chosen on the *other* part, which keeps the guarantee whatever was learned.

What :meth:`Statistic.fit` returns is plain data: numbers that go into JSON and come back as they
were, and two ways to use them; what learns nothing returns itself. Called on an array it does all
sequences at once; step by step, ``update`` takes one score of one sequence. Both add in the same
order, so they give equal numbers to the last bit. Whatever is fitted already needs numpy alone.

A score may be infinite. Then so is every mean and sum from there on, and where both signs meet,
suspicion wins: +inf.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from monitorlab.online.trajectories import Trajectories

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
# What an open sequence has to remember: a few numbers, nothing that grows without end.
State = tuple[Any, ...]
Rows = tuple[tuple[float, ...], ...]  # of step t, t numbers


class TooFewSequencesError(ValueError):
    """A statistic that learns was given too few sequences of one class."""


class Fitted:
    """A fitted statistic: its fields are plain numbers that make a running statistic of scores."""

    kind: str  # its name in files

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the statistic of all steps: (n, T), NaN-padded, to the same, high is unsafe."""
        state, values = self.start(), np.empty_like(scores)
        with np.errstate(invalid="ignore"):
            for t in range(scores.shape[1]):
                state, values[:, t] = self._step(state, scores[:, t])
        # Keep the padding; suspicion wins where infinities of both signs have met.
        return np.where(np.isnan(scores), np.nan, np.where(np.isnan(values), np.inf, values))

    def start(self) -> State:
        """Return the state of a sequence before its first step."""
        return ()

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Take one more score, any number but NaN; return the next state and the statistic."""
        state, value = self._step(state, _number(score))
        return state, math.inf if value != value else value

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        """Take one score of one sequence, or of many as an array, by the same operations."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return kind and numbers, as strict JSON takes them; infinite numbers become text."""
        numbers = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        return {"kind": self.kind, **{name: _written(value) for name, value in numbers.items()}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Fitted:
        """Turn what :meth:`to_dict` wrote back into the same fitted statistic.

        Parameters
        ----------
        data : mapping
            ``kind`` and the fields of that kind; numbers are numbers, or the texts inf and -inf.

        Raises
        ------
        ValueError
            For an unknown kind, a field that is missing or not known, and values that are no
            numbers or do not fit together.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"the fitted statistic is {type(data).__name__}, expected an object "
                             "with a kind and its numbers.")
        kind = data.get("kind")
        kinds = {one.kind: one for one in (
            LatestScore, FirstScore, StepNumber, RunningMean, Ewma, _FittedCusum, _FittedPrefix,
            _FittedRatio)}
        if not isinstance(kind, str) or kind not in kinds:
            raise ValueError(f"the kind of the fitted statistic is {kind!r}, expected one of "
                             f"{', '.join(kinds)}. A newer version may have written it.")
        names = [one.name for one in fields(kinds[kind])]
        for problem, found in (("lacks", [n for n in names if n not in data]),
                               ("has the unknown", [n for n in data if n not in (*names, "kind")])):
            if found:
                raise ValueError(f"the fitted statistic of kind {kind!r} {problem} field "
                                 f"{', '.join(map(str, found))}; expected kind and "
                                 f"{', '.join(names) or 'nothing else'}.")
        try:
            fitted = kinds[kind](**{name: _read(data[name]) for name in names})
            fitted.update(fitted.start(), 0.0)  # numbers in the wrong depth show here
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"the fitted statistic of kind {kind!r} cannot be used: {error}") from None
        return fitted


def _written(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_written(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _read(value: Any) -> Any:
    """Read a number, or numbers in lists; 1 and "inf" are numbers, True and "1" are not."""
    if isinstance(value, list | tuple):
        return tuple(_read(one) for one in value)
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"found {value!r}, expected a number.")
    return value


class Statistic:
    """A rule that turns step scores into a running statistic; see :func:`training_part`.

    Attributes
    ----------
    name : str
        Short name, used in tables.
    training_share : float
        Share of the calibration sequences (with ``all_others``, of those of the class at risk) to
        learn from, in [0, 1]; the rest calibrates.
    all_others : bool
        Whether it learns from all sequences of the class that does not calibrate.
    """

    name: str
    training_share: float = 0.0
    all_others: bool = False

    def fit(self, train: Trajectories) -> Fitted:
        """Return the fitted statistic. ``train`` is empty if ``training_share`` is 0.

        Raises
        ------
        TooFewSequencesError
            If there are too few sequences, or finite scores, of a class to learn from.
        """
        raise NotImplementedError


def training_part(statistic: Statistic, labels: NDArray[np.integer[Any]],
                  at_risk: int = 0) -> NDArray[np.bool_]:
    r"""Say from which calibration sequences a statistic learns; the others may calibrate.

    False alarms are counted on safe sequences, so only these calibrate, and an unsafe one that is
    not learned from is wasted: with ``all_others`` every unsafe sequence trains, beside the first
    ``training_share`` of the safe ones. The guarantee is kept. Whether a safe sequence trains is
    decided by its place in a random order and never by its scores, so given everything that was
    learned from, the statistic is one fixed function, the safe sequences that are left and a
    future safe one are exchangeable, and so are their peaks; that is all that a rank rule assumes.

    Parameters
    ----------
    statistic : Statistic
        What is to be fitted.
    labels : ndarray of int, shape (n,)
        1 is unsafe, 0 is safe, in random order.
    at_risk : {0, 1}
        The class that calibrates: 0 for false alarms, 1 for missed detections.

    Returns
    -------
    ndarray of bool, shape (n,)
        True for sequences to learn from. Those of class ``at_risk`` that are False calibrate.
    """
    place = np.arange(len(labels))
    if not statistic.all_others:
        return place < round(statistic.training_share * len(labels))
    ours = labels == at_risk
    first = np.cumsum(ours) <= round(statistic.training_share * int(np.sum(ours)))
    return np.where(ours, first, True)


def _require_both_classes(train: Trajectories, who: str, least: int = 1) -> None:
    """Raise :class:`TooFewSequencesError` if ``train`` has fewer safe or unsafe sequences."""
    unsafe = int(np.sum(train.labels == 1))
    if min(unsafe, len(train) - unsafe) < least:
        raise TooFewSequencesError(
            f"{who} learns from at least {least} safe and {least} unsafe sequences; the training "
            f"part of the calibration set has {len(train) - unsafe} safe and {unsafe} unsafe ones. "
            "Use more, or a statistic without training (running_min, running_mean, ewma).")


def _number(score: float) -> float:
    """Return the score as a float, or refuse NaN, which no order knows."""
    value = float(score)
    if value != value:
        raise ValueError("the score is nan, expected a number: a step without a score is no step.")
    return value


class _Untrained(Fitted, Statistic):
    """A statistic without anything to learn: it is its own fitted form."""

    def fit(self, train: Trajectories) -> Self:
        """Return the statistic itself."""
        return self


@dataclass(frozen=True)
class LatestScore(_Untrained):
    """The step score itself: alarm at the first score above the threshold.

    This is the monitor of the paper. Its peak over a sequence is the running maximum of suspicion,
    the paper's running minimum of safety (arXiv 2607.02510, section 3.1).
    """

    name, kind = "running_min", "latest"

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        return state, score


@dataclass(frozen=True)
class RunningMean(_Untrained):
    r"""Mean of the scores so far, :math:`\bar s_t = \frac{1}{t} \sum_{u \le t} s_u`."""

    name = kind = "running_mean"

    def start(self) -> State:
        """Return no steps, and their sum."""
        return 0, 0.0

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        steps, total = state[0] + 1, state[1] + score
        return (steps, total), total / steps


@dataclass(frozen=True)
class Ewma(_Untrained):
    r"""Exponentially weighted mean, :math:`z_t = (1 - w) z_{t-1} + w s_t`, :math:`z_1 = s_1`.

    Attributes
    ----------
    weight : float
        w in (0, 1]: 1 forgets everything but the latest score.
    """

    weight: float = 0.3
    name = kind = "ewma"

    def __post_init__(self) -> None:
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"EWMA weight is {self.weight}, expected a number in (0, 1].")

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        if state and self.weight != 1.0:
            score = (1.0 - self.weight) * state[0] + self.weight * score
        return (score,), score


@dataclass(frozen=True)
class FirstScore(_Untrained):
    """The first score and nothing after it: how hard the problem looked at the outset.

    A trivial baseline. It predicts and cannot detect: what happens after step 1 is not read.
    """

    name = kind = "first_score"

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        state = state or (score,)
        return state, state[0]


@dataclass(frozen=True)
class StepNumber(_Untrained):
    """How many steps there are so far, whatever their scores: long sequences are suspicious.

    A trivial baseline. It reads no score at all.
    """

    name = kind = "step_number"

    def start(self) -> State:
        """Return no steps."""
        return (0.0,)

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        steps = state[0] + 1.0
        return (steps,), steps


@dataclass(frozen=True)
class Cusum(Statistic):
    r"""Page's cumulative sum, :math:`S_t = \max(0, S_{t-1} + s_t - r)`, :math:`S_0 = 0`.

    The reference r lies halfway between the mean step score of safe and of unsafe training
    sequences, the classical choice for a shift of known size (Page, 1954).
    """

    name, training_share, all_others = "cusum", 0.25, True

    def fit(self, train: Trajectories) -> Fitted:
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
                    f"{len(scores)} scores of the {('safe', 'unsafe')[label]} ones are infinite.")
            means.append(np.mean(scores[np.isfinite(scores)]))
        return _FittedCusum(float(np.mean(means)))


@dataclass(frozen=True)
class _FittedCusum(Fitted):
    """Cumulative sum over a known reference; remembers itself."""

    reference: float
    kind = "cusum"

    def start(self) -> State:
        """Return an empty sum."""
        return (0.0,)

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        total = state[0] + score - self.reference
        if isinstance(total, float):
            total = 0.0 if total <= 0.0 else total  # NaN stays
        else:
            total = np.maximum(0.0, total)
        return (total,), total


FEATURES = (
    "score", "running maximum", "running mean", "first score", "log step", "running minimum",
    "previous score", "weighted mean", "spread", "root of the cumulative sum", "one over step",
)  # fmt: skip
MEMORY = 0.3  # weight of the latest score in the weighted mean


@dataclass(frozen=True)
class _FittedPrefix(Fitted):
    """Log odds of danger: a weighted sum of a few numbers about the sequence so far.

    Each score is first replaced by the normal quantile of its mid-rank among reference scores. This
    makes the features independent of the scale of the score: probabilities, log-probabilities and
    ratings on a grid look alike. Ties share a mid-rank; scores beyond the reference stay finite.

    Attributes
    ----------
    reference : tuple of float
        Distinct scores, increasing.
    counts : tuple of int
        How often each occurred.
    weights : tuple of float
        One for each of ``FEATURES``.
    intercept : float
        What is added.
    """

    reference: tuple[float, ...]
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    intercept: float
    kind = "prefix"

    def __post_init__(self) -> None:
        if len(self.weights) != len(FEATURES):
            raise ValueError(f"there are {len(self.weights)} weights, expected {len(FEATURES)}.")
        if not self.reference or len(self.reference) != len(self.counts):
            raise ValueError(f"there are {len(self.reference)} reference scores and "
                             f"{len(self.counts)} counts, expected as many, and at least one.")
        if any(low >= high for low, high in pairwise(self.reference)) or min(self.counts) < 1:
            raise ValueError("the reference must increase, and its counts be 1 or more.")

    @cached_property
    def quantiles(self) -> FloatArray:
        """Normal scores below the reference, at its first value, between it and the next, ..."""
        up_to = np.concatenate([[0], np.cumsum(self.counts)])
        middle = np.empty(2 * len(self.counts) + 1)
        middle[0::2] = up_to
        middle[1::2] = (up_to[:-1] + up_to[1:]) / 2.0
        normal = NormalDist()
        return np.array([normal.inv_cdf((at + 0.5) / (up_to[-1] + 1.0)) for at in middle])

    def normal_scores(self, scores: Any) -> Any:
        """Map one score, or an array of any shape, to normal quantiles of their mid-rank."""
        if isinstance(scores, float):
            at = bisect_left(self.reference, scores) + bisect_right(self.reference, scores)
            return float(self.quantiles[at])
        at = sum(np.searchsorted(self._reference, scores, side) for side in ("left", "right"))
        return np.where(np.isnan(scores), np.nan, self.quantiles[at])

    @cached_property
    def _reference(self) -> FloatArray:
        return np.array(self.reference)

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        state, features = _prefix_features(state, self.normal_scores(score))
        odds = self.intercept
        for weight, feature in zip(self.weights, features, strict=True):
            odds = odds + weight * feature
        return state, odds


def _prefix_features(state: State, value: Any) -> tuple[State, tuple[Any, ...]]:
    """Take one more value of a sequence, or one of many; return the numbers named in ``FEATURES``.

    Parameters
    ----------
    state : tuple
        Empty before the first value; then what this function returned.
    value : float, or ndarray of float, shape (n,)
        Finite score on a common scale.

    Returns
    -------
    state, features : tuple
        Each feature is a number, or one per sequence.
    """
    alone = isinstance(value, float)
    most, least, root = (max, min, math.sqrt) if alone else (np.maximum, np.minimum, np.sqrt)
    steps, highest, lowest, total, squares, first, previous, smooth, excess = state or (
        0, value, value, 0.0, 0.0, value, value, value, 0.0)
    if steps:
        smooth = (1.0 - MEMORY) * smooth + MEMORY * value
    steps, highest, lowest = steps + 1, most(highest, value), least(lowest, value)
    total, squares, excess = total + value, squares + value * value, most(0.0, excess + value)
    mean = total / steps
    spread = root(most(squares / steps - mean * mean, 0.0))
    # math.log for arrays too: numpy's may differ from it in the last bit
    features = (value, highest, mean, first, math.log(steps), lowest, previous, smooth, spread,
                root(excess), 1.0 / steps)
    return (steps, highest, lowest, total, squares, first, value, smooth, excess), features


PROBABILITY_FLOOR = 1e-6
MOST_LOG_ODDS = math.log((1.0 - PROBABILITY_FLOOR) / PROBABILITY_FLOOR)


@dataclass(frozen=True)
class _FittedRatio(Fitted):
    """Estimated likelihood ratio of unsafe to safe, one linear classifier per step.

    The classifier of step t reads all t scores, so the state holds as many as there are
    classifiers; every later step repeats the last ratio.

    Attributes
    ----------
    weights, centres : tuple of tuple of float
        Of step t, t numbers each: log odds of danger are the sum of weight times (score - centre),
    intercepts : tuple of float
        plus one number per step.
    prior : float
        Safe training sequences per unsafe one.
    lowest, highest : float
        What stands for -inf and +inf, which no sum may meet.
    """

    weights: Rows
    centres: Rows
    intercepts: tuple[float, ...]
    prior: float
    lowest: float
    highest: float
    kind = "likelihood_ratio"

    def __post_init__(self) -> None:
        expected = list(range(1, len(self.intercepts) + 1))
        for name in ("weights", "centres"):
            if [len(one) for one in getattr(self, name)] != expected:
                raise ValueError(f"the {name} of step t must be t numbers, for each of the "
                                 f"{len(self.intercepts)} intercepts.")

    def start(self) -> State:
        """Return no scores, and the ratio of no evidence."""
        return (), 1.0

    def _step(self, state: State, score: Any) -> tuple[State, Any]:
        """Weigh all scores so far, or repeat the last ratio where no classifier is left."""
        prefix, latest = state
        at = len(prefix)
        if at == len(self.intercepts):
            return state, latest
        alone = isinstance(score, float)
        if not alone or math.isinf(score):
            ends = np.where(score > 0.0, self.highest, self.lowest)
            score = np.where(np.isinf(score), ends, score)
        prefix = (*prefix, float(score) if alone else score)
        odds = 0.0
        for weight, value, centre in zip(self.weights[at], prefix, self.centres[at], strict=True):
            odds = odds + weight * (value - centre)
        within = np.clip(odds + self.intercepts[at], -MOST_LOG_ODDS, MOST_LOG_ODDS)
        ratio = np.exp(np.atleast_1d(within)) * self.prior
        latest = float(ratio[0]) if alone else ratio
        return (prefix, latest), latest


# Learning ------------------------------------------------------------------------------------

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


@dataclass(frozen=True)
class LearnedPrefix(Statistic):
    """Log odds of an unsafe sequence, by logistic regression on prefix features.

    A simple threshold on the score ignores time and history. A few numbers per step, all updatable
    in constant time, tell more: the score, its maximum, mean and minimum so far, the first score
    (how hard the problem looked at the outset), how far we are, and a few more
    (:data:`FEATURES`). A regression of the sequence label on them, over
    all steps of the training sequences, gives one running number; the calibrator then treats it
    like any other statistic, so the guarantee does not depend on the model being right.

    """

    name, training_share, all_others = "learned", 0.5, True

    def fit(self, train: Trajectories) -> Fitted:
        """Fit on all steps of ``train``, each labelled by its sequence.

        Raises
        ------
        TooFewSequencesError
            If ``train`` lacks one of the classes.
        """
        _require_both_classes(train, self.name)
        table = _Table.of(train)
        return table.fitted(table.step_weights(np.arange(len(train))))


@dataclass(frozen=True)
class ChosenPrefix(Statistic):
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
    training_share, all_others = 0.5, True

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
        _require_both_classes(train, self.name)
        if min(train.count(0), train.count(1)) < FEWEST_TO_CHOOSE:
            return LatestScore()
        table = _Table.of(train)
        near = self._near_the_best(table)
        if near == [0]:
            return LatestScore()
        candidates = list(table.candidates(np.arange(len(train))))
        return table.fitted(np.mean([candidates[at] for at in near], axis=0))

    def _near_the_best(self, table: _Table) -> list[int]:
        """Return the candidates with the best held-out objective; 0 is the score itself."""
        train = table.train
        fold = np.empty(len(train), dtype=np.int64)
        for label in (0, 1):
            ours = np.flatnonzero(train.labels == label)
            fold[ours] = np.arange(len(ours)) % FOLDS
        odds = np.empty((1 + 3 * len(HEAD_STARTS), len(table.features)))
        for held_out in range(FOLDS):
            steps = np.repeat(fold == held_out, train.lengths)
            weights = np.array(list(table.candidates(np.flatnonzero(fold != held_out))))
            odds[:, steps] = weights @ table.features[steps].T
        power, half, delay = np.array([table.reached(one) for one in odds]).T
        costs = (delay + (MISS - 1.0) * (1.0 - power)) / MISS
        objective = {"power": power, "by_half": half, "restricted_delay": -costs}[self.objective]
        worse = (power < power[0]) | (delay > delay[0]) | (objective < objective[0])
        objective = np.where(worse, -np.inf, objective)
        chance = float(np.max(power))
        error = math.sqrt(chance * (1.0 - chance) / train.count(1))
        return np.flatnonzero(objective >= np.max(objective) - NEAR * error).tolist()


@dataclass(frozen=True)
class _Table:
    """Training sequences as standardised features, step behind step.

    Attributes
    ----------
    train : Trajectories
        The sequences.
    features : ndarray of float, shape (number of steps, number of features)
        Mean 0 and standard deviation 1, or all 0.
    centres, scales : ndarray of float, shape (number of features,)
        What was subtracted and divided by.
    scale : _FittedPrefix
        Without weights: it knows the reference scores.
    """

    train: Trajectories
    features: FloatArray
    centres: FloatArray
    scales: FloatArray
    scale: _FittedPrefix

    @classmethod
    def of(cls, train: Trajectories) -> _Table:
        reference, counts = np.unique(train.flat_scores, return_counts=True)
        scale = _FittedPrefix(
            tuple(reference.tolist()), tuple(counts.tolist()), (0.0,) * len(FEATURES), 0.0)
        features = np.empty((len(train.flat_scores), len(FEATURES)))
        for block, at in train.blocks():
            scores = block.scores
            padded, state = np.empty((*scores.shape, len(FEATURES))), ()
            for t, column in enumerate(scale.normal_scores(scores).T):
                state, found = _prefix_features(state, column)
                for i, feature in enumerate(found):
                    padded[:, t, i] = feature
            features[at] = padded[~np.isnan(scores)]
        centres, scales = features.mean(axis=0), features.std(axis=0)
        scales[scales < 1e-9] = 1.0
        return cls(train, (features - centres) / scales, centres, scales, scale)

    def fitted(self, weights: FloatArray) -> _FittedPrefix:
        """Return the statistic with these weights of standardised features."""
        plain = weights / self.scales
        return _FittedPrefix(self.scale.reference, self.scale.counts, tuple(plain.tolist()),
                            float(-np.sum(plain * self.centres)))

    def candidates(self, chosen: IntArray) -> Iterator[FloatArray]:
        """Yield weights of all candidates, learned from the sequences ``chosen``."""
        score, early = np.zeros((2, len(FEATURES)))
        score[FEATURES.index("score")] = 1.0
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
        lengths = self.train.lengths
        rows = np.isin(np.repeat(np.arange(len(lengths)), lengths), chosen)
        return _logistic(self.features[rows], np.repeat(self.train.labels, lengths)[rows])

    def peak_weights(self, chosen: IntArray, weights: FloatArray) -> FloatArray:
        """Learn from one step of each sequence: where the statistic so far has its peak."""
        starts, lengths = self.train.starts, self.train.lengths
        sequence = np.repeat(np.arange(len(lengths)), lengths)
        for _ in range(ROUNDS):
            odds = self.features @ weights
            peaks = np.flatnonzero(odds == np.repeat(np.maximum.reduceat(odds, starts), lengths))
            _, first = np.unique(sequence[peaks], return_index=True)
            weights = _logistic(self.features[peaks[first][chosen]], self.train.labels[chosen])
        return weights

    def reached(self, odds: FloatArray) -> tuple[float, float, float]:
        """Return power, share caught by half and restricted delay, as means over ``LEVELS``."""
        starts, unsafe = self.train.starts, self.train.labels == 1
        lengths = self.train.lengths[unsafe]
        safe = np.maximum.reduceat(odds, starts)[self.train.labels == 0]
        found = []
        for threshold, weight in _thresholds(safe):
            late = np.where(odds > threshold, self.train.step_numbers, len(odds) + 1)
            alarm = np.minimum.reduceat(late, starts)[unsafe]
            share, raised = np.minimum(alarm / lengths, 1.0), alarm <= lengths
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


def _logistic(features: FloatArray, labels: NDArray[np.int8]) -> FloatArray:
    """Weights of a ridge logistic regression with an intercept, by Newton's method.

    Of standardised features (n, p) and labels 0 or 1; without the intercept, which moves no ranks.
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
class LikelihoodRatio(Statistic):
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
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        _require_both_classes(train, self.name, MINIMUM_PER_CLASS)
        lowest, highest = _stand_ins(train.flat_scores)
        scores = np.clip(train.flat_scores, lowest, highest)
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
        return _FittedRatio(tuple(weights), tuple(centres), tuple(intercepts),
                            (len(train) - train.count(1)) / train.count(1), lowest, highest)


def _stand_ins(scores: FloatArray) -> tuple[float, float]:
    """Where -inf and +inf stand: one range of the finite training scores beyond them."""
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    reach = (high - low) or 1.0
    return low - reach, high + reach
