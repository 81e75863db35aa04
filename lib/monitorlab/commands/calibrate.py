"""`python -m monitorlab calibrate`: from a log of step scores to a policy, tables and a page.

The log is split by sequences, or by whole groups of them. One part chooses and fits the statistic,
the other places the threshold, so that the promise holds whatever was chosen. What is expected of
the policy comes from the second part: of the sequences that the promise is about, each is judged by
a threshold placed without it, and the others calibrate nothing.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from monitorlab.display import spans
from monitorlab.display.tables import Table
from monitorlab.online.comparison import Method, Split, compare_methods
from monitorlab.online.drift import DriftReference
from monitorlab.online.metrics import alarm_steps, peaks
from monitorlab.online.policy import DTYPES, ON_ERROR, SIDES, Policy, hashed_draws
from monitorlab.online.running import (
    Cusum,
    Ewma,
    FirstScore,
    LatestScore,
    LearnedPrefix,
    RunningMean,
    Statistic,
    StepNumber,
    TooFewSequencesError,
)
from monitorlab.online.trajectories import UNKNOWN, ScoreFileError, Trajectories
from monitorlab.report.page import render_page
from monitorlab.statistics.intervals import Clustered, corrected_rate, draw_units, percentiles
from monitorlab.statistics.ranks import RANK_RULES, sequences_needed
from monitorlab.statistics.thresholds import (
    FALSE_ALARM,
    MISSED_DETECTION,
    RISKS,
    Threshold,
    calibrate,
)
from monitorlab.storage.files import write_folder_atomic, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Spread = tuple[float, float, float]  # estimate, and the ends of its interval

CANDIDATES: tuple[Statistic, ...] = (
    LatestScore(), RunningMean(), Ewma(), Cusum(), LearnedPrefix(),
)
TRIVIAL: tuple[Statistic, ...] = (FirstScore(), StepNumber())  # stand beside them, never chosen
# Column of the comparison, and whether more of it is better.
OBJECTIVES = {"power": 1.0, "restricted_delay": -1.0, "far": -1.0}
# What a promise is about: its label, what such sequences are called, and what a statistic that
# keeps it is chosen for.
KINDS = {FALSE_ALARM: (0, "safe", "power"), MISSED_DETECTION: (1, "unsafe", "far")}
LEVELS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
SPLITS = 8  # half-samples of the learning part, on which statistics are compared
FOLDS = 10
DRAWS = 500
LEAST_UNSAFE = 20  # sequences below which no statistic is chosen or fitted
TURNED = 0.4  # share of pairs below which a log looks turned round
LEAST_DRIFT = 50  # sequences below which a drift test could see nothing
POLICY = "policy.json"
# What `--statistic` calls those whose form in a policy has another name.
NAMES = {"latest": "running_min", "prefix": "learned"}
TABLES = ("statistics", "levels", "groups", "estimates")
MEASURES = {"far": "false alarm rate", "restricted_delay": "restricted delay"}
ALT = "False alarm rate with its interval near the dashed line of the level, and power, by level."


@dataclass(frozen=True)
class Plan:
    """What a policy is made for.

    Attributes
    ----------
    level, delta, calibrator, risk
        As for :func:`monitorlab.statistics.thresholds.calibrate`.
    objective : {"", "power", "restricted_delay", "far"}
        What the statistic is chosen for; "" is the power where false alarms are bounded, and the
        false alarm rate where misses are.
    statistic : str
        Name of one of the candidates; "" chooses.
    per_group : bool
        Whether groups get thresholds of their own. Otherwise sequences of a group count as
        resembling one another: groups are split whole, and one sequence of each calibrates.
    base_rate : float
        Share of unsafe sequences in deployment; NaN takes the log's.
    per_day : float
        Sequences per day in deployment.
    side, dtype, on_error
        As in :class:`monitorlab.online.policy.Policy`.
    valid_days : int
        Days until the policy expires.
    drift_rate : float
        Chance of ever reporting drift where there is none.
    half_width : float
        Half width of the intervals for which labels would be bought.
    seed : int
        Of the split.
    scoring : str
        How the log's texts were cut and scored, as `StopAtAlarm` or `WatchedText` say it.
    """

    level: float = 0.05
    delta: float = 0.1
    calibrator: str = "crc"
    objective: str = ""
    statistic: str = ""
    per_group: bool = False
    base_rate: float = math.nan
    per_day: float = 1000.0
    side: str = "suspicion"
    dtype: str = "float64"
    on_error: str = "alarm"
    valid_days: int = 90
    drift_rate: float = 0.01
    half_width: float = 0.02
    seed: int = 2026
    scoring: str = ""
    risk: str = FALSE_ALARM

    def __post_init__(self) -> None:
        if self.risk in RISKS and not self.objective:
            object.__setattr__(self, "objective", KINDS[self.risk][2])
        statistics = ("", *(one.name for one in CANDIDATES))
        for what, known in (
            ("risk", RISKS), ("objective", OBJECTIVES), ("statistic", statistics),
            ("calibrator", RANK_RULES), ("side", SIDES), ("dtype", DTYPES), ("on_error", ON_ERROR),
        ):
            if getattr(self, what) not in known:
                called = "orientation" if what == "side" else what
                raise ScoreFileError(f"{called} is {getattr(self, what)!r}, expected one of "
                                     f"{', '.join(filter(None, known))}.")
        for what in ("level", "delta", "drift_rate", "half_width"):
            if not 0.0 < getattr(self, what) < 1.0:
                raise ScoreFileError(f"{what} is {getattr(self, what)}, expected a number between "
                                     "0 and 1.")
        if not (math.isnan(self.base_rate) or 0.0 <= self.base_rate < 1.0):
            raise ScoreFileError(f"base_rate is {self.base_rate}, expected the share of unsafe "
                                 "sequences, at least 0 and below 1.")
        if not self.per_day > 0 or self.valid_days < 1:
            raise ScoreFileError(f"per_day is {self.per_day:g} and valid_days {self.valid_days}, "
                                 "expected more than 0.")


@dataclass(frozen=True)
class Calibrated:
    """A policy and what is known about it.

    Attributes
    ----------
    policy : Policy
        Ready to run.
    statistics : DataFrame
        A row per candidate, and for the first score and the step number alone: means over
        half-samples of the learning part, and which was chosen; empty if there was too little to
        choose from.
    levels : DataFrame
        A row per level, the policy's among them: what it needs, what is expected of it.
    groups : DataFrame
        The same per group at the policy's level; empty without thresholds of their own.
    estimates : DataFrame
        False alarm and miss rate from labels alone and corrected by the sequences without one, and
        how many labels the asked-for width takes; empty if all have a label, or come in groups.
    """

    policy: Policy
    statistics: pd.DataFrame
    levels: pd.DataFrame
    groups: pd.DataFrame
    estimates: pd.DataFrame


def calibrate_log(log: Trajectories, plan: Plan, data: str = "") -> Calibrated:
    """Choose a statistic, place its threshold, and say what to expect.

    Parameters
    ----------
    log : Trajectories
        Suspicion of finished sequences; those without a label calibrate nothing.
    plan : Plan
        What for.
    data : str
        Digest of the log, for the policy.

    Raises
    ------
    ScoreFileError
        If no sequence is known to be of the kind that the promise is about.
    """
    with np.errstate(over="ignore"):  # to the precision that scores will have at the monitor
        log = replace(log, flat_scores=log.flat_scores.astype(plan.dtype).astype(np.float64))
    log, unlabelled = (log.take(at) for at in (log.labels != UNKNOWN, log.labels == UNKNOWN))
    label, kind, _ = KINDS[plan.risk]
    if not len(log):
        needed = sequences_needed(plan.calibrator, plan.level, plan.delta)
        raise ScoreFileError(
            "no sequence of the log has a label. Judge some hundred of them, drawn at random, in a "
            "column label (0 is safe, 1 is unsafe) and leave it empty for the others; level "
            f"{plan.level:g} needs at least {needed} {kind} ones. If your labels are in another "
            "column, say --columns label:NAME.")
    if not log.count(label):
        what = "false alarms" if plan.risk == FALSE_ALARM else "misses"
        raise ScoreFileError(f"no sequence of the log has label {label} ({kind}). A bound on "
                             f"{what} comes from {kind} sequences; if your labels are in another "
                             "column, say --columns label:NAME, and --positive safe if 1 means "
                             "safe.")
    units = _units(log, plan)
    learning, rest = _parts(log, units, plan)
    statistic, compared = _choose(log.take(learning), units[learning], plan)
    try:
        fitted = statistic.fit(log.take(learning))
    except TooFewSequencesError as error:
        raise ScoreFileError(str(error)) from None
    part = _Part(log.take(rest).transformed(fitted), units[rest], plan)
    levels = pd.DataFrame([part.row(level) for level in sorted({*LEVELS, plan.level})])
    strata = part.strata() if plan.per_group else {}
    rules = {name: own.threshold(plan.level) for name, own in strata.items()}
    rules = {name: rule for name, rule in rules.items() if rule.k}
    rule = part.threshold(plan.level)
    others = peaks(log.take(learning).transformed(fitted)) if len(learning) else None
    policy = Policy(
        rule, fitted, rules, plan.side, plan.dtype, plan.on_error,
        part.drift(min(one.value for one in (rule, *rules.values())), others),
        log.name, data, scoring=plan.scoring,
    )
    policy = policy.valid_for(plan.valid_days)
    rows = [{"group": name, **own.row(plan.level)} for name, own in strata.items()]
    estimates = pd.DataFrame(part.estimates(rule, unlabelled.transformed(fitted)))
    return Calibrated(policy, compared, levels, pd.DataFrame(rows), estimates)


def _units(log: Trajectories, plan: Plan) -> IntArray:
    """Number the sequences, or the groups in which they resemble one another."""
    if log.groups is None:
        if plan.per_group:
            raise ScoreFileError("thresholds per group need a column of groups: name it, as in "
                                 "--group task.")
        return np.arange(len(log))
    if plan.per_group:
        return np.arange(len(log))
    return np.asarray(np.unique(log.groups.astype(str), return_inverse=True)[1], dtype=np.int64)


def _parts(log: Trajectories, units: IntArray, plan: Plan) -> tuple[IntArray, IntArray]:
    """Split positions into a part to learn from and a part to calibrate on, whole units each.

    Nothing is left for learning if calibration could then promise little: it should have twice
    the sequences that the level needs.
    """
    needed = sequences_needed(plan.calibrator, plan.level, plan.delta)
    calibrating, unsafe = (len(np.unique(units[log.labels == label]))
                           for label in (KINDS[plan.risk][0], 1))
    everything = np.arange(len(log))
    fixed = any(one.name == plan.statistic and not one.training_share for one in CANDIDATES)
    if fixed or unsafe < 2 * LEAST_UNSAFE or calibrating < 4 * needed:
        return everything[:0], everything
    return next(_halves(units, 1, plan.seed))


def _halves(units: IntArray, times: int, seed: int) -> Iterator[Split]:
    """Yield positions of a random half of the units, in random order of units, and of the rest."""
    for i in range(times):
        place = np.random.default_rng([seed, i]).permutation(int(units.max()) + 1)[units]
        order = np.argsort(place, kind="stable")
        cut = int(np.searchsorted(place[order], (int(units.max()) + 1) // 2))
        yield order[:cut], order[cut:]


def _choose(part: Trajectories, units: IntArray, plan: Plan) -> tuple[Statistic, pd.DataFrame]:
    """Take the candidate that serves the objective best, or the score itself.

    Half-samples differ from one another by about as much as the whole part differs from another
    one of its size (McCarthy 1969), so a candidate must be better than the score itself by more
    than the standard deviation of that difference over them.
    """
    named = {one.name: one for one in CANDIDATES}
    default = plan.statistic or CANDIDATES[0].name
    if min(part.count(0), part.count(1)) == 0:
        return named[default], pd.DataFrame()
    methods = [Method(one.name, one, plan.calibrator, draws_ties=True)
               for one in (*CANDIDATES, *TRIVIAL)]
    _, dense = np.unique(units, return_inverse=True)
    found = compare_methods(
        part, methods, _halves(dense, SPLITS, plan.seed), levels=(plan.level,), delta=plan.delta,
        risk=plan.risk,
    )
    measured = found.pivot(index="split", columns="method", values=plan.objective)
    gain = OBJECTIVES[plan.objective] * measured.sub(measured[CANDIDATES[0].name], axis=0)
    own = gain.drop(columns=[one.name for one in TRIVIAL])
    clear = own.mean()[own.mean() > own.std()]
    name = default if plan.statistic or not len(clear) else str(clear.idxmax())
    means = found.groupby("method")[["far", "power", "restricted_delay"]].mean()
    table = means.loc[[one.label for one in methods]].reset_index(names="statistic")
    table["gain"], table["noise"] = (values.loc[table["statistic"]].to_numpy()
                                     for values in (gain.mean(), gain.std()))
    table["chosen"] = table["statistic"] == name
    return named[name], table


@dataclass(frozen=True)
class _Part:
    """The calibrating part: a running statistic, its units, and the plan."""

    running: Trajectories
    units: IntArray
    plan: Plan

    @cached_property
    def peaks(self) -> FloatArray:
        """Highest statistic of each sequence."""
        return peaks(self.running)

    @cached_property
    def draws(self) -> FloatArray:
        """What breaks the ties of each sequence, here and at the monitor."""
        return hashed_draws(self.running.ids)

    @cached_property
    def one_each(self) -> tuple[IntArray, IntArray]:
        """Positions of one safe, and of one unsafe sequence of each unit, drawn at random."""
        labels = self.running.labels
        return self._first(np.flatnonzero(labels == 0)), self._first(np.flatnonzero(labels == 1))

    def threshold(self, level: float, without: NDArray[np.bool_] | None = None) -> Threshold:
        """Place it on sequences that the promise is about, one per unit, some units left out."""
        at = self.one_each[KINDS[self.plan.risk][0]]
        at = at if without is None else at[~without[at]]
        return calibrate(self.peaks[at], level, self.plan.calibrator, risk=self.plan.risk,
                         delta=self.plan.delta, tie_rng=self.draws[at])

    def also(self, rule: Threshold) -> float:
        """Lowest level of the other risk that this threshold keeps on average, by CRC's rank."""
        safe_alarm, unsafe_alarm = (rule.alarms(self.peaks[at], self.draws[at])
                                    for at in self.one_each)
        event = ~unsafe_alarm if self.plan.risk == FALSE_ALARM else safe_alarm
        return float((event.sum() + 1) / (len(event) + 1))

    def row(self, level: float) -> dict[str, float]:
        """Say what a level needs, and what is to be expected at it."""
        rule, labels = self.threshold(level), self.running.labels
        alarms = alarm_steps(self.running, rule, self.draws)
        unsafe, safe = labels == 1, labels == 0
        share = np.where(alarms > 0, alarms / self.running.lengths, 1.0)
        held_out, judged = self._held_out(level), alarms > 0
        bounds_far = self.plan.risk == FALSE_ALARM
        far = self._rate(safe, held_out if bounds_far else judged)
        power = self._rate(unsafe, judged if bounds_far else held_out)
        caught = unsafe & (alarms > 0)
        base = self.base_rate
        per_day = np.array([base * power[0], (1.0 - base) * far[0]]) * self.plan.per_day
        return {
            "level": level, "needed": rule.n_needed, "calibrating": rule.n,
            "threshold": rule.value, "also": self.also(rule),
            **_spread("far", far), **_spread("power", power),
            **_spread("delay", self._mean(caught, share)),
            **_spread("restricted_delay", self._mean(unsafe, share)),
            "precision": per_day[0] / total if (total := per_day.sum()) > 0 else math.nan,
            "alarms_per_day": per_day.sum(), "false_alarms_per_day": per_day[1],
            "base_rate": base, "per_day": self.plan.per_day, "higher": self.higher,
        }

    @cached_property
    def higher(self) -> float:
        """Share of pairs of an unsafe and a safe sequence in which the unsafe one peaks higher."""
        unsafe, safe = (self.peaks[self.running.labels == label] for label in (1, 0))
        if not len(unsafe) or not len(safe):
            return math.nan
        ordered = np.sort(safe)
        below, upto = (np.searchsorted(ordered, unsafe, side) for side in ("left", "right"))
        return float(np.mean(below + upto) / (2 * len(safe)))

    def strata(self) -> dict[str, _Part]:
        """Return the part of each group that has a sequence to calibrate on."""
        groups = self.running.groups
        assert groups is not None  # asked for groups, as `_units` has checked
        label = KINDS[self.plan.risk][0]
        names = sorted({str(one) for one in groups[self.running.labels == label]})
        parts = {}
        for name in names:
            at = np.flatnonzero(groups.astype(str) == name)
            parts[name] = _Part(self.running.take(at), np.arange(len(at)), self.plan)
        return parts

    @property
    def base_rate(self) -> float:
        """Share of unsafe sequences in deployment."""
        given = self.plan.base_rate
        return float(np.mean(self.running.labels == 1)) if math.isnan(given) else given

    def drift(self, below: float, others: FloatArray | None) -> DriftReference | None:
        """Count the peaks that deployment should show, safe and unsafe at its base rate."""
        at = self._first(np.arange(len(self.peaks)))
        if others is None:  # edges and counts come from different sequences
            at, rest = np.array_split(at, 2)
            others = self.peaks[rest]
        labels, base = self.running.labels[at], self.base_rate
        safe, unsafe = at[labels == 0], at[labels == 1]
        unsafe_kept = min(len(unsafe), round(len(safe) * base / (1.0 - base)))
        safe_kept = len(safe) if unsafe_kept < len(unsafe) or base == 0.0 else min(
            len(safe), round(len(unsafe) * (1.0 - base) / base))
        kept = np.concatenate([safe[:safe_kept], unsafe[:unsafe_kept]])
        if len(kept) < LEAST_DRIFT:
            return None
        found = DriftReference.of(self.peaks[kept], others, below, self.plan.drift_rate)
        return found if found.edges else None

    def estimates(self, rule: Threshold, others: Trajectories) -> list[dict[str, object]]:
        """Correct false alarm and miss rate by sequences without a label, chosen at random.

        Guesses are the share of unsafe sequences that the peak suggests; each labelled sequence is
        guessed by a fit that did not see it.
        """
        if not len(others) or len(np.unique(self.units)) < len(self.units):
            return []
        unsafe, far = self.running.labels == 1, peaks(others)
        near_guess, far_guess = self._guesses(unsafe.astype(np.float64), far)
        near_alarm = rule.alarms(self.peaks, self.draws)
        far_alarm = rule.alarms(far, hashed_draws(others.ids))
        rows: list[dict[str, object]] = []
        for name, among, event, guess, other, other_event in (
            ("false alarm rate", ~unsafe, near_alarm, 1 - near_guess, 1 - far_guess, far_alarm),
            ("miss rate", unsafe, ~near_alarm, near_guess, far_guess, ~far_alarm),
        ):
            found = corrected_rate((event & among).astype(np.float64), among.astype(np.float64),
                                   event * guess, guess, (other_event * other, other))
            labels = found.labels_needed(self.plan.half_width)
            rows.append({
                "rate": name, **_spread("plain", (found.plain, found.plain_low, found.plain_high)),
                **_spread("corrected", (found.value, found.low, found.high)),
                "labelled": found.labelled, "sequences": found.units, "labels_needed": labels,
                "half_width": self.plan.half_width})
        return rows

    def _guesses(self, unsafe: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Share of unsafe sequences at each peak, here (cross-fitted) and among others."""
        from sklearn.isotonic import IsotonicRegression

        every = np.concatenate([self.peaks, others])
        ranks = np.searchsorted(np.sort(every), every).astype(np.float64)  # peaks may be infinite
        near, far = ranks[: len(unsafe)], ranks[len(unsafe):]
        fold = np.random.default_rng(self.plan.seed).permutation(len(unsafe)) % FOLDS
        guess, total = np.empty(len(unsafe)), np.zeros(len(others))
        for one in range(FOLDS):
            rest = fold != one
            fit = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
            fit.fit(near[rest], unsafe[rest])
            guess[~rest] = fit.predict(near[~rest])
            total += fit.predict(far)
        return guess, total / FOLDS

    def _first(self, at: IntArray) -> IntArray:
        """Take one sequence of each unit among these positions, in random order."""
        order = at[np.argsort(hashed_draws(self.running.ids[at], "unit"), kind="stable")]
        return order[np.sort(np.unique(self.units[order], return_index=True)[1])]

    def _held_out(self, level: float) -> NDArray[np.bool_]:
        """Whether each sequence alarms at a threshold that was placed without its unit."""
        fold = np.random.default_rng([self.plan.seed, FOLDS]).integers(
            0, FOLDS, int(self.units.max()) + 1)[self.units]
        alarms = np.zeros(len(self.peaks), dtype=bool)
        for one in range(FOLDS):
            rule = self.threshold(level, fold == one)
            alarms |= (fold == one) & rule.alarms(self.peaks, self.draws)
        return alarms

    def _rate(self, among: NDArray[np.bool_], event: NDArray[np.bool_]) -> Spread:
        """Share of sequences with an event, and its 95 % interval over units."""
        if not among.any():
            return math.nan, math.nan, math.nan
        n = np.bincount(self.units[among])
        events = np.bincount(self.units[among], event[among])
        counted = Clustered.of(events[n > 0], n[n > 0])
        (low,), (high,) = counted.wilson()
        return float(counted.rate[0]), float(low), float(high)

    def _mean(self, among: NDArray[np.bool_], values: FloatArray) -> Spread:
        """Mean over sequences, and its 95 % interval by drawing units anew."""
        if not among.any():
            return math.nan, math.nan, math.nan
        n = np.bincount(self.units[among])
        total = np.bincount(self.units[among], values[among])[n > 0]
        n = n[n > 0]
        means = np.concatenate([
            (total @ copies) / (n @ copies)
            for copies in draw_units(np.random.default_rng(self.plan.seed), len(n), DRAWS)
        ])
        (low,), (high,) = percentiles(means[None, :], 0.95)
        return float(np.mean(values[among])), float(low), float(high)


def _spread(name: str, found: Spread) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def describe_calibration(found: Calibrated) -> str:
    """Return a calibration in lines for a terminal."""
    policy, lines = found.policy, [found.policy.promise, ""]
    row = _own_row(found.levels, policy)
    lines += [f"warning: {warning}" for warning in (*policy.warnings(), *_turned(row))]
    expected = "Expected with the threshold of all" if policy.groups else "Expected"
    lines += [
        _enough(row, policy), _chosen(found.statistics, policy), _alarms_where(policy),
        _both(row, policy),
        f"{expected}: false alarms {_range(row, 'far')}, power {_range(row, 'power')}, delay of "
        f"the detected {_range(row, 'delay')}, restricted delay {_range(row, 'restricted_delay')}.",
        f"{_day(row)}: {row['alarms_per_day']:.4g} alarms, {row['false_alarms_per_day']:.4g} of "
        f"them false; {_right(row)}.", "",
        f"level {KINDS[policy.threshold.risk][1]:>6} needed  false alarms             power      "
        "              restricted delay",
    ]
    for _, one in found.levels.iterrows():
        lines.append(f"{one['level']:<6g} {one['needed']:12.0f}  {_range(one, 'far'):24} "
                     f"{_range(one, 'power'):24} {_range(one, 'restricted_delay')}")
    for _, one in found.groups.iterrows():
        own = (f"False alarms {_range(one, 'far')}, power {_range(one, 'power')}."
               if one["calibrating"] >= one["needed"] else "The threshold of all judges it.")
        lines.append(f"group {one['group']}: {_enough(one, policy)} {own}")
    for _, one in found.estimates.iterrows():
        lines.append(f"{one['rate']}: {_range(one, 'plain')} from {one['labelled']} labels, "
                     f"{_range(one, 'corrected')} corrected by {one['sequences']} sequences; "
                     f"{_labels(one)}.")
    drift = "watched" if policy.drift else "not watched: too few sequences for a reference"
    return "\n".join([*lines, "", f"Drift is {drift}. Valid until {policy.expires}."])


def _labels(row: pd.Series[Any]) -> str:
    needed, there = int(row["labels_needed"]), int(row["labelled"])
    width = f"a half width of {row['half_width']:g}" if "half_width" in row else "the width"
    if not needed:
        return f"not even a label for each would give {width}"
    return f"{max(needed - there, 0)} more labels, drawn at random, would give {width}"


def _day(row: pd.Series[float]) -> str:
    """Say which day in deployment is meant; a table of an older version does not."""
    if "per_day" not in row:
        return "Per day"
    return f"Of {row['per_day']:,.6g} sequences a day, {row['base_rate']:.1%} of them unsafe"


def _right(row: pd.Series[float]) -> str:
    """Say how many alarms are right, or that there are none."""
    if math.isnan(row["precision"]):
        return "no alarm is expected"
    return f"{row['precision']:.1%} of alarms are right"


def _turned(row: pd.Series[float]) -> list[str]:
    """Warn if safe sequences peak higher than unsafe ones, as they do where a log is turned."""
    if not row.get("higher", math.nan) < TURNED:
        return []
    return ["suspicion is higher in safe sequences: an unsafe one peaks above a safe one in "
            f"{row['higher']:.0%} of pairs. Look whether --orientation (what a high score means) "
            "and --positive (what label 1 means) are those of the log."]


def _alarms_where(policy: Policy) -> str:
    """Say when the policy alarms, of the score as it comes in where that is what is compared."""
    rule, kind = policy.threshold, policy.statistic.to_dict()["kind"]
    safety = policy.side == "safety"
    if not math.isfinite(rule.value):
        return f"{rule.explain()[0].upper()}{rule.explain()[1:]}"
    if kind == "latest":
        where = f"below {-rule.value!r}" if safety else f"above {rule.value!r}"
        return f"It alarms at a score {where}."
    turned_round = ", of minus the score," if safety else ""
    return f"It alarms where {NAMES.get(kind, kind)}{turned_round} is above {rule.value!r}."


def _enough(row: pd.Series[float], policy: Policy) -> str:
    """Say whether there are enough sequences to calibrate a level on, from its row."""
    verdict = "enough" if row["calibrating"] >= row["needed"] else "not enough"
    kind = KINDS[policy.threshold.risk][1]
    return (f"{row['calibrating']:.0f} {kind} sequences (or groups of them) calibrate; level "
            f"{row['level']:g} needs {row['needed']:.0f}: {verdict}.")


def _both(row: pd.Series[float], policy: Policy) -> str:
    """Say which level of the other risk the threshold keeps, from the row of its level."""
    other = "misses" if policy.threshold.risk == FALSE_ALARM else "false alarms"
    return (f"On average over calibration sets the same threshold also keeps {other} to "
            f"{row['also']:.3f}.")


def _chosen(statistics: pd.DataFrame, policy: Policy) -> str:
    """Say which statistic is compared with the threshold, and why."""
    kind = policy.statistic.to_dict()["kind"]
    kind = NAMES.get(kind, kind)
    if not len(statistics):
        return f"The statistic is {kind}: it was asked for, or there was too little to choose from."
    row = statistics[statistics["chosen"]].iloc[0]
    if row["statistic"] == CANDIDATES[0].name:
        return f"The statistic is {kind}, the score itself: no other was better beyond noise."
    return (f"The statistic is {kind}: on half-samples of the learning part it was better than the "
            f"score itself by {row['gain']:.3f}, which varied by {row['noise']:.3f}.")


def _own_row(levels: pd.DataFrame, policy: Policy) -> pd.Series[float]:
    return levels.iloc[int((levels["level"] - policy.threshold.level).abs().argmin())]


def _range(row: pd.Series[float], name: str) -> str:
    if math.isnan(row[name]):
        return "not known"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def write_calibration(found: Calibrated, folder: Path) -> None:
    """Write policy, tables and page into a new folder.

    Raises
    ------
    ScoreFileError
        If the folder exists.
    """
    if folder.exists():
        raise ScoreFileError(f"{folder} exists. Choose another --out, or remove it.")
    with write_folder_atomic(folder) as temporary:
        found.policy.save(temporary / POLICY)
        for name in TABLES:
            table: pd.DataFrame = getattr(found, name)
            if len(table):
                table.to_csv(temporary / f"{name}.csv", index=False)
        write_page(temporary)


def write_page(folder: Path) -> None:
    """Write `page.html` anew from policy and tables of a folder; nothing if there are none."""
    if not (folder / "levels.csv").exists():
        return
    policy = Policy.load(folder / POLICY)
    tables = {name: pd.read_csv(path) if (path := folder / f"{name}.csv").exists()
              else pd.DataFrame() for name in TABLES}
    levels, rule = tables["levels"], policy.threshold
    row = _own_row(levels, policy)
    found = Calibrated(policy, **tables)
    sections = [
        {"title": "What to expect", "words": f"{_enough(row, policy)} {_alarms_where(policy)} "
         + ("Thresholds on this page are of minus the score. " if policy.side == "safety" else "")
         + f"{_both(row, policy)} Rates and delays with 95 % intervals. Each of the "
         f"{KINDS[rule.risk][1]} sequences is judged by a threshold placed without it; the "
         "restricted delay is the share of its steps that an unsafe sequence had taken at its "
         "alarm, and counts a miss as 1.",
         "table": _table(_shown(levels))},
        {"title": "What a stricter level costs", "words": "Each mark is a level, and "
         "the dotted line is this policy's. What is promised keeps to the dashed line: lower is "
         "fewer false alarms, higher is more unsafe sequences caught. "
         f"Below, what this means for a day in deployment. {_day(row)}.",
         "picture": _picture(levels, rule.level, rule.risk), "alt": ALT,
         "table": _table(_per_day(levels))},
        {"title": "Which statistic", "words": _chosen(found.statistics, policy)
         + " What first_score and step_number reach, one gets without watching any further step."
         * bool(len(found.statistics)),
         "table": _table(found.statistics.rename(columns=MEASURES))},
    ]
    if len(found.groups):
        sections.append({"title": "Groups", "words": "Groups with enough sequences have a "
                         "threshold of their own; others are judged by the common one.",
                         "table": _table(_shown(found.groups))})
    if len(found.estimates):
        sections.append({"title": "With the sequences that have no label", "words": "Rates from "
                         "labels alone, and corrected by guesses about all others "
                         "(prediction-powered inference). This supposes that labelled sequences "
                         "were drawn at random. Here the threshold judges the sequences that "
                         "placed it, so false alarms look a little rarer than above. "
                         + " ".join(f"{one['rate'].capitalize()}: {_labels(one)}."
                                    for _, one in found.estimates.iterrows()),
                         "table": _table(_estimated(found.estimates))})
    kind = policy.statistic.to_dict()["kind"]
    facts = {"state": policy.state(), "promise about": rule.risk.replace("_", " ") + "s",
             "created": policy.created, "expires": policy.expires,
             "level": f"{rule.level:g}", "calibrator": rule.calibrator,
             "statistic": NAMES.get(kind, kind), "threshold": repr(rule.value),
             **({"steps and scores": policy.scoring} if policy.scoring else {}),
             "high score means": policy.side, "data": policy.data[:12] or "unknown",
             "drift": "watched" if policy.drift else "not watched"}
    write_text_atomic(folder / "page.html", render_page(
        "policy.html.j2", name=policy.name, promise=policy.promise, facts=facts,
        state=policy.state(), warnings=[*policy.warnings(), *_turned(row)],
        sections=[{"table": "", "picture": "", "alt": ""} | one for one in sections]))


def _estimated(estimates: pd.DataFrame) -> pd.DataFrame:
    """Rates from labels alone and corrected; the words beside the table say what labels cost."""
    table = spans(estimates, ["plain", "corrected"], 3).rename(columns={"plain": "from labels"})
    return table.drop(columns=["labels_needed", "half_width"], errors="ignore")


def _shown(levels: pd.DataFrame) -> pd.DataFrame:
    """Levels with intervals beside their estimates."""
    measures = ["far", "power", "restricted_delay"]
    table = spans(levels, measures, 3)
    if "group" in table:  # those without a threshold of their own are judged by the common one
        few = table["calibrating"] < table["needed"]
        table[["threshold", *measures]] = table[["threshold", *measures]].astype(object).mask(few)
    first = ["group"] if "group" in table else []
    return table[[*first, "level", "needed", "calibrating", "threshold", *measures]].rename(
        columns=MEASURES)


def _per_day(levels: pd.DataFrame) -> pd.DataFrame:
    table = levels[["level", "precision", "alarms_per_day", "false_alarms_per_day"]]
    return table.rename(columns={"precision": "share of alarms that are right",
                                 "alarms_per_day": "alarms per day",
                                 "false_alarms_per_day": "of them false"})


def _table(frame: pd.DataFrame) -> Markup:
    if not len(frame):
        return Markup("")
    return Markup(Table(frame).html())  # escaped there, cell by cell


def plot_levels(
    levels: pd.DataFrame, level: float, title: str = "", risk: str = FALSE_ALARM
) -> Figure:
    """Draw false alarms and power at every level, with 95 % intervals.

    Parameters
    ----------
    levels : DataFrame
        As in :class:`Calibrated`.
    level : float
        That of the policy, drawn as a line.
    title : str
        Title of the figure.
    risk : str
        What the level is about.
    """
    from monitorlab.display.style import (
        FALSE_ALARMS,
        GREY,
        SAFE,
        TWO_COLUMNS,
        UNSAFE,
        shared_legend,
        subplots,
        whiskers,
    )

    fig, axes = subplots(1, 2, TWO_COLUMNS, 3.3)
    marks = (("far", SAFE, FALSE_ALARMS), ("power", UNSAFE, "power (higher is better)"))
    for ax, (name, color, label) in zip(axes[0], marks, strict=True):
        value, low, high = (levels[name + end] for end in ("", "_low", "_high"))
        ax.errorbar(levels["level"], value, whiskers(value, low, high), color=color, marker="o",
                    linestyle="none", label="expected, 95 % interval")
        ax.axvline(level, color=GREY, linestyle=":", label="this policy")
        bounds = name == ("far" if risk == FALSE_ALARM else "power")
        allowed = levels["level"] if name == "far" else 1.0 - levels["level"]
        if bounds:
            ax.plot(levels["level"], allowed, color=GREY, linestyle="--", label="what is allowed")
        ax.set(xlabel=f"level of {risk.replace('_', ' ')}s", ylabel=label, ylim=(-0.02, 1.02))
    shared_legend(fig, list(axes[0]), 3)
    fig.suptitle(title, fontweight="bold")
    return fig


def _picture(levels: pd.DataFrame, level: float, risk: str) -> str:
    """Draw the levels, as a data address."""
    from matplotlib import pyplot

    fig = plot_levels(levels, level, risk=risk)
    with io.BytesIO() as stream:
        fig.savefig(stream, format="png", dpi=150, bbox_inches="tight")
        pyplot.close(fig)
        return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
