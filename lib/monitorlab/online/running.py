"""Statistics of a running sequence: what is compared with the threshold at each step.

A statistic maps step scores to one number per step that depends on the scores so far only. Some
need no data (``training_share`` 0); others are fitted on part of the calibration set, and the
threshold is then chosen on the *other* part, which keeps the guarantee whatever was learned.

What :meth:`Statistic.fit` returns is plain data: numbers that go into JSON and come back as they
were, and two ways to use them; what learns nothing returns itself. Called on an array it does all
sequences at once; step by step, ``update`` takes one score of one sequence. Both add in the same
order, so they give equal numbers to the last bit. This module needs numpy alone; learning happens
in :mod:`monitorlab.online.learned`.

A score may be infinite. Then so is every mean and sum from there on, and where both signs meet,
suspicion wins: +inf.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from monitorlab.online.trajectories import Trajectories

FloatArray = NDArray[np.float64]
# What an open sequence has to remember: a few numbers, nothing that grows without end.
State = tuple[Any, ...]


IntArray = NDArray[np.int64]


class TooFewSequencesError(ValueError):
    """A statistic that learns was given too few sequences of one class."""


class Fitted(Protocol):
    """A fitted statistic: plain numbers that turn step scores into a running statistic."""

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the statistic of all steps: (n, T), NaN-padded, to the same, high is unsafe."""
        ...

    def start(self) -> State:
        """Return the state of a sequence before its first step."""
        ...

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Take one more score, any number but NaN; return the next state and the statistic."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return what :func:`fitted_from_dict` turns back into this, as strict JSON takes it."""
        ...


class Statistic(Protocol):
    """A rule that turns step scores into a running statistic; see :func:`training_part`."""

    @property
    def name(self) -> str:
        """Short name, used in tables."""
        ...

    @property
    def training_share(self) -> float:
        """Share of the calibration sequences to learn from, in [0, 1]."""
        ...

    @property
    def all_others(self) -> bool:
        """Whether it learns from all sequences of the class that does not calibrate."""
        ...

    def fit(self, train: Trajectories) -> Fitted:
        """Return the fitted statistic. ``train`` is empty if ``training_share`` is 0."""
        ...


def training_part(
    statistic: Statistic, labels: NDArray[np.integer[Any]], at_risk: int = 0
) -> NDArray[np.bool_]:
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


def require_both_classes(train: Trajectories, who: str) -> None:
    """Raise :class:`TooFewSequencesError` if ``train`` lacks safe or unsafe sequences."""
    unsafe = int(np.sum(train.labels == 1))
    if unsafe == 0 or unsafe == len(train):
        raise TooFewSequencesError(
            f"{who} learns from safe and unsafe sequences; the training part of the calibration "
            f"set has {len(train) - unsafe} safe and {unsafe} unsafe ones. Use more sequences, or "
            "a statistic without training (running_min, running_mean, ewma)."
        )


def running_max(scores: FloatArray) -> FloatArray:
    """Highest score up to each step; shape (n, T), NaN where ``scores`` is."""
    return np.where(np.isnan(scores), np.nan, np.fmax.accumulate(scores, axis=1))


def _where_present(values: FloatArray, scores: FloatArray) -> FloatArray:
    """Keep the padding, and let suspicion win where infinities of both signs have met."""
    return np.where(np.isnan(scores), np.nan, np.where(np.isnan(values), np.inf, values))


def _number(score: float) -> float:
    """Return the score as a float, or refuse NaN, which no order knows."""
    value = float(score)
    if value != value:
        raise ValueError("the score is nan, expected a number: a step without a score is no step.")
    return value


def _suspicious(value: float) -> float:
    """Let suspicion win where infinities of both signs have met."""
    return math.inf if value != value else value


class _Plain:
    """What fitted statistics share: their fields are all there is to them."""

    kind: str

    def to_dict(self) -> dict[str, Any]:
        """Return kind and numbers, as strict JSON takes them; infinite numbers become text."""
        numbers = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        return {"kind": self.kind, **{name: _written(value) for name, value in numbers.items()}}

    def start(self) -> State:
        """Return the empty state."""
        return ()


def _written(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_written(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


class _Untrained(_Plain):
    """A statistic without anything to learn: it is its own fitted form."""

    training_share = 0.0
    all_others = False

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

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the scores."""
        return scores

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Return the score."""
        return state, _number(score)


@dataclass(frozen=True)
class RunningMean(_Untrained):
    r"""Mean of the scores so far, :math:`\bar s_t = \frac{1}{t} \sum_{u \le t} s_u`."""

    name = kind = "running_mean"

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the mean up to each step."""
        steps = np.arange(1, scores.shape[1] + 1)
        with np.errstate(invalid="ignore"):
            values = np.cumsum(np.where(np.isnan(scores), 0.0, scores), axis=1) / steps
        return _where_present(values, scores)

    def start(self) -> State:
        """Return no steps, and their sum."""
        return 0, 0.0

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Add one score."""
        steps, total = state[0] + 1, state[1] + _number(score)
        return (steps, total), _suspicious(total / steps)


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

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the weighted mean up to each step."""
        values = np.array(scores, dtype=np.float64)
        if self.weight == 1.0:
            return values
        with np.errstate(invalid="ignore"):
            for t in range(1, values.shape[1]):
                values[:, t] = (1.0 - self.weight) * values[:, t - 1] + self.weight * scores[:, t]
        return _where_present(values, scores)

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Move towards one score."""
        value = _number(score)
        if state and self.weight != 1.0:
            value = (1.0 - self.weight) * state[0] + self.weight * value
        return (value,), _suspicious(value)


@dataclass(frozen=True)
class FirstScore(_Untrained):
    """The first score and nothing after it: how hard the problem looked at the outset.

    A trivial baseline. It predicts and cannot detect: what happens after step 1 is not read.
    """

    name = kind = "first_score"

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the first column, as wide as the scores."""
        return np.where(np.isnan(scores), np.nan, scores[:, :1])

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Return the first score."""
        value = _number(score)
        state = state or (value,)
        return state, state[0]


@dataclass(frozen=True)
class StepNumber(_Untrained):
    """How many steps there are so far, whatever their scores: long sequences are suspicious.

    A trivial baseline. It reads no score at all.
    """

    name = kind = "step_number"

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return 1, 2, 3, ... in every row."""
        return np.where(np.isnan(scores), np.nan, np.arange(1.0, scores.shape[1] + 1.0))

    def start(self) -> State:
        """Return no steps."""
        return (0.0,)

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Count one step."""
        _number(score)
        steps = state[0] + 1.0
        return (steps,), steps


@dataclass(frozen=True)
class Cusum:
    r"""Page's cumulative sum, :math:`S_t = \max(0, S_{t-1} + s_t - r)`, :math:`S_0 = 0`.

    The reference r lies halfway between the mean step score of safe and of unsafe training
    sequences, the classical choice for a shift of known size (Page, 1954).
    """

    name: str = "cusum"
    training_share: float = 0.25
    all_others: bool = True

    def fit(self, train: Trajectories) -> Fitted:
        """Fix the reference from ``train``; both classes must be present.

        Raises
        ------
        TooFewSequencesError
            If ``train`` lacks a class, or finite scores in one.
        """
        require_both_classes(train, self.name)
        means = []
        for label in (0, 1):
            scores = train.take(train.labels == label).flat_scores
            if not np.isfinite(scores).any():
                raise TooFewSequencesError(
                    f"{self.name} needs the mean score of safe and of unsafe sequences; all "
                    f"{len(scores)} scores of the {('safe', 'unsafe')[label]} ones are infinite."
                )
            means.append(np.mean(scores[np.isfinite(scores)]))
        return _FittedCusum(float(np.mean(means)))


@dataclass(frozen=True)
class _FittedCusum(_Plain):
    """Cumulative sum over a known reference; remembers itself."""

    reference: float
    kind = "cusum"

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the sum of excesses over the reference up to each step, floored at 0."""
        values = np.empty_like(scores)
        total = np.zeros(len(scores))
        with np.errstate(invalid="ignore"):
            for t in range(scores.shape[1]):
                total = np.maximum(0.0, total + scores[:, t] - self.reference)
                values[:, t] = total
        return _where_present(values, scores)

    def start(self) -> State:
        """Return an empty sum."""
        return (0.0,)

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Add one excess."""
        total = state[0] + _number(score) - self.reference
        total = 0.0 if total <= 0.0 else total  # NaN stays
        return (total,), _suspicious(total)


FEATURES = (
    "score", "running maximum", "running mean", "first score", "log step", "running minimum",
    "previous score", "weighted mean", "spread", "root of the cumulative sum", "one over step",
)  # fmt: skip
MEMORY = 0.3  # weight of the latest score in the weighted mean


@dataclass(frozen=True)
class FittedPrefix(_Plain):
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

    @cached_property
    def _table(self) -> tuple[float, ...]:
        return tuple(self.quantiles.tolist())

    def normal_scores(self, scores: FloatArray) -> FloatArray:
        """Map scores of any shape to normal quantiles of their mid-rank; NaN is kept."""
        reference = np.array(self.reference)
        at = np.searchsorted(reference, scores, "left") + np.searchsorted(
            reference, scores, "right")
        return np.where(np.isnan(scores), np.nan, self.quantiles[at])

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the log odds of all steps."""
        odds = np.full(scores.shape, self.intercept)
        for weight, feature in zip(
            self.weights, prefix_features(self.normal_scores(scores)), strict=True
        ):
            odds += weight * feature
        return odds

    def start(self) -> State:
        """Return no steps; see :meth:`update` for what is remembered of them."""
        return 0, -math.inf, math.inf, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Take one score into maximum, minimum and sums, and weigh the features."""
        score = _number(score)
        at = bisect_left(self.reference, score) + bisect_right(self.reference, score)
        value = self._table[at]
        steps, highest, lowest, total, squares, first, previous, smooth, excess = state
        if not steps:
            first = previous = smooth = value
        else:
            smooth = (1.0 - MEMORY) * smooth + MEMORY * value
        steps, highest, lowest = steps + 1, max(highest, value), min(lowest, value)
        total, squares, excess = total + value, squares + value * value, max(0.0, excess + value)
        mean = total / steps
        spread = math.sqrt(max(squares / steps - mean * mean, 0.0))
        w = self.weights  # in the order of FEATURES, added from left to right
        odds = (self.intercept + w[0] * value + w[1] * highest + w[2] * mean + w[3] * first
                + w[4] * math.log(steps) + w[5] * lowest + w[6] * previous + w[7] * smooth
                + w[8] * spread + w[9] * math.sqrt(excess) + w[10] * (1.0 / steps))
        return (steps, highest, lowest, total, squares, first, value, smooth, excess), odds


def prefix_features(values: FloatArray) -> list[FloatArray]:
    """Summarise each prefix by the numbers named in ``FEATURES``.

    Parameters
    ----------
    values : ndarray of float, shape (n, T)
        Finite scores on a common scale, NaN-padded.

    Returns
    -------
    list of ndarray of float, shape (n, T)
        One per feature, of steps 1..t at step t.
    """
    shape = values.shape
    steps = np.arange(1, shape[1] + 1)
    # math.log, as in the update: numpy's may differ from it in the last bit
    log_step = np.array([math.log(t) for t in steps.tolist()])
    mean = RunningMean()(values)
    spread = np.sqrt(np.maximum(RunningMean()(values * values) - mean * mean, 0.0))
    return [
        values, running_max(values), mean, np.broadcast_to(values[:, :1], shape),
        np.broadcast_to(log_step, shape), -running_max(-values),
        np.concatenate([values[:, :1], values[:, :-1]], axis=1), Ewma(MEMORY)(values), spread,
        np.sqrt(_FittedCusum(0.0)(values)), np.broadcast_to(1.0 / steps, shape),
    ]  # fmt: skip


PROBABILITY_FLOOR = 1e-6
MOST_LOG_ODDS = math.log((1.0 - PROBABILITY_FLOOR) / PROBABILITY_FLOOR)


@dataclass(frozen=True)
class FittedRatio(_Plain):
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

    weights: tuple[tuple[float, ...], ...]
    centres: tuple[tuple[float, ...], ...]
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

    def __call__(self, scores: FloatArray) -> FloatArray:
        """Return the ratios of all steps; a step without a classifier repeats the last one."""
        ratios = np.full(scores.shape, np.nan)
        latest = np.ones(len(scores))
        finite = np.where(np.isneginf(scores), self.lowest, scores)
        finite = np.where(np.isposinf(scores), self.highest, finite)
        modelled = min(len(self.intercepts), scores.shape[1])
        for at in range(modelled):
            reached = ~np.isnan(scores[:, at])
            if not reached.any():
                break
            terms = np.array(self.weights[at]) * (
                finite[reached, : at + 1] - np.array(self.centres[at]))
            # cumsum adds from left to right, as the update does; sum would not
            odds = np.cumsum(terms, axis=1)[:, -1] + self.intercepts[at]
            latest[reached] = self._ratio(odds)
            ratios[reached, at] = latest[reached]
        rest = scores[:, modelled:]
        ratios[:, modelled:] = np.where(np.isnan(rest), np.nan, latest[:, None])
        return ratios

    def _ratio(self, odds: FloatArray) -> FloatArray:
        return np.exp(np.clip(odds, -MOST_LOG_ODDS, MOST_LOG_ODDS)) * self.prior

    def start(self) -> State:
        """Return no scores, and the ratio of no evidence."""
        return (), 1.0

    def update(self, state: State, score: float) -> tuple[State, float]:
        """Weigh all scores so far, or repeat the last ratio where no classifier is left."""
        score = _number(score)
        if math.isinf(score):
            score = self.highest if score > 0.0 else self.lowest
        prefix, latest = state
        at = len(prefix)
        if at == len(self.intercepts):
            return state, latest
        prefix = (*prefix, score)
        odds = 0.0
        for weight, value, centre in zip(self.weights[at], prefix, self.centres[at], strict=True):
            odds += weight * (value - centre)
        latest = float(self._ratio(np.array([odds + self.intercepts[at]]))[0])
        return (prefix, latest), latest


KINDS: dict[str, type[Any]] = {
    one.kind: one
    for one in (LatestScore, FirstScore, StepNumber, RunningMean, Ewma, _FittedCusum,
                FittedPrefix, FittedRatio)
}


def fitted_from_dict(data: Mapping[str, Any]) -> Fitted:
    """Turn what :meth:`Fitted.to_dict` wrote back into the same fitted statistic.

    Parameters
    ----------
    data : mapping
        ``kind`` and the fields of that kind; numbers are numbers, or the texts inf and -inf.

    Raises
    ------
    ValueError
        For an unknown kind, a field that is missing or not known, and values that are no numbers
        or do not fit together.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"the fitted statistic is {type(data).__name__}, expected an object with "
                         "a kind and its numbers.")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"the kind of the fitted statistic is {kind!r}, expected one of "
                         f"{', '.join(KINDS)}. A newer version may have written it.")
    names = [one.name for one in fields(KINDS[kind])]
    for problem, found in (("lacks", [n for n in names if n not in data]),
                           ("has the unknown", [n for n in data if n not in (*names, "kind")])):
        if found:
            raise ValueError(f"the fitted statistic of kind {kind!r} {problem} field "
                             f"{', '.join(map(str, found))}; expected kind and "
                             f"{', '.join(names) or 'nothing else'}.")
    try:
        fitted: Fitted = KINDS[kind](**{name: _read(data[name]) for name in names})
        fitted.update(fitted.start(), 0.0)  # numbers in the wrong depth show here
        return fitted
    except (TypeError, ValueError) as error:
        raise ValueError(f"the fitted statistic of kind {kind!r} cannot be used: {error}") from None


def _read(value: Any) -> Any:
    """Read a number, or numbers in lists; 1 and "inf" are numbers, True and "1" are not."""
    if isinstance(value, list | tuple):
        return tuple(_read(one) for one in value)
    if value in ("inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"found {value!r}, expected a number.")
    return value
