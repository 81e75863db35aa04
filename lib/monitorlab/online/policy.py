"""A calibrated monitor as a file, and the monitor that runs it on streams.

A policy is JSON that numpy alone can read and run: statistic with its fitted numbers, thresholds,
what they promise, from which data, until when, and what undrifted sequences look like. It is sealed
with a digest of its content, and whatever is cut, changed or unknown in it is refused.

The monitor fails closed: a score that is no number, a step that is missing, an error in the
statistic raise an alarm that says so. Silence means that scores came and stayed below the
threshold.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from monitorlab.online.drift import DriftReference, DriftTest
from monitorlab.online.running import Fitted, FloatArray, LatestScore, State
from monitorlab.statistics import thresholds
from monitorlab.statistics.thresholds import CALIBRATED, FALSE_ALARM, RISKS, Threshold
from monitorlab.storage.files import DamagedFileError, read_sealed, sealed_json, write_text_atomic

VERSION = 1
FORMAT = "monitorlab policy"
VALID_DAYS = 90
MOST_NAMED = 6  # groups that a promise names
SIDES = ("suspicion", "safety")
ON_ERROR = ("alarm", "raise")
DTYPES: dict[str, Any] = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
VALID, VOID, EXPIRED = "valid", "guarantee void", "expired"
_RULE_STATES = (CALIBRATED, thresholds.NEVER_ALARM, thresholds.ALWAYS_ALARM,
                thresholds.NOT_TRAINABLE)


class PolicyError(ValueError):
    """A file is no policy that can be run; the message says why and what to do."""


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _days_after(date: str, days: int) -> str:
    """Return the date so many days later, both as YYYY-MM-DD."""
    return (datetime.date.fromisoformat(date) + datetime.timedelta(days=days)).isoformat()


@dataclass(frozen=True)
class Policy:
    """A calibrated alarm rule with everything that a running monitor must know.

    Attributes
    ----------
    threshold : Threshold
        On the statistic; with level, delta, calibrator, n and what it attained.
    statistic : Fitted
        What is compared with the threshold, of suspicion; the score itself by default.
    groups : mapping of str to Threshold
        Thresholds of groups that have one of their own.
    side : {"suspicion", "safety"}
        What a high score means as it comes in; safety is turned, as when it was calibrated.
    dtype : {"float64", "float32", "float16"}
        What scores are rounded to before anything else, in calibration and later: a float32 of 0.1
        is above a float64 of 0.1, and would pass a threshold there.
    on_error : {"alarm", "raise"}
        What a score that cannot be used leads to. Silence is no choice.
    drift : DriftReference or None
        Where the peaks of undrifted sequences fall.
    name, data : str
        Of the calibrating data: its name, and its digest.
    created, expires : str
        First day, and first day on which the promise is no longer made, YYYY-MM-DD.
    void : str
        Why the guarantee no longer holds; empty while it does.
    scoring : str
        How texts were cut and scored, as :meth:`monitorlab.online.live.StepRule.scoring` says it;
        a text that is watched in another way is refused. Empty where the log does not tell.

    Examples
    --------
    >>> from monitorlab import calibrate
    >>> policy = Policy(calibrate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], level=0.10))
    >>> policy.save("policy.json")
    >>> Policy.load("policy.json") == policy
    True
    >>> policy.state("2020-01-01"), policy.state("2999-01-01")
    ('valid', 'expired')
    """

    threshold: Threshold
    statistic: Fitted = field(default_factory=LatestScore)
    groups: Mapping[str, Threshold] = field(default_factory=dict)
    side: str = "suspicion"
    dtype: str = "float64"
    on_error: str = "alarm"
    drift: DriftReference | None = None
    name: str = ""
    data: str = ""
    created: str = field(default_factory=_today)
    expires: str = ""
    void: str = ""
    scoring: str = ""

    def __post_init__(self) -> None:
        for what, known in (("side", SIDES), ("dtype", DTYPES), ("on_error", ON_ERROR)):
            if getattr(self, what) not in known:
                raise PolicyError(f"{what} of the policy is {getattr(self, what)!r}, expected one "
                                  f"of {', '.join(known)}.")
        for rule in (self.threshold, *self.groups.values()):
            _check_rule(rule)
        try:
            datetime.date.fromisoformat(self.created)
            if not self.expires:
                object.__setattr__(self, "expires", _days_after(self.created, VALID_DAYS))
            datetime.date.fromisoformat(self.expires)
        except (TypeError, ValueError):
            raise PolicyError(f"the policy was created {self.created!r} and expires "
                              f"{self.expires!r}, expected dates as YYYY-MM-DD.") from None

    @property
    def promise(self) -> str:
        """What holds, in words, and under which assumption."""
        rule = self.threshold
        if rule.state != CALIBRATED:
            return rule.explain()
        kind, event = (("safe", "raise an alarm") if rule.risk == FALSE_ALARM
                       else ("unsafe", "raise no alarm"))
        at_most = f"at most {100.0 * rule.level:.4g} % of {kind} sequences {event}"
        if rule.k == 0:
            return f"{at_most}, if the statistic is an exact likelihood ratio."
        how = ("On average" if math.isnan(rule.delta) else
               f"With probability {100.0 * (1.0 - rule.delta):.4g} %")
        basis = f"exchangeable with the {rule.n} that calibrated"
        if self.groups:
            more = len(self.groups) - MOST_NAMED
            named = ", ".join(list(self.groups)[:MOST_NAMED]) + f" and {more} more" * (more > 0)
            at_most += (f", within each of the groups {named}; sequences of other groups are "
                        "judged by the threshold of all, and promised nothing of their own")
            basis = f"exchangeable with those of their group among the {rule.n} that calibrated"
        return (f"{how} over calibration sets, {at_most}. This assumes that new {kind} sequences "
                f"are {basis}: the same kind of task, generator and score.")

    def state(self, today: str = "") -> str:
        """Return "valid", "guarantee void" or "expired" (on ``today``, YYYY-MM-DD)."""
        if self.void:
            return VOID
        return EXPIRED if (today or _today()) >= self.expires else VALID

    def warnings(self, today: str = "") -> list[str]:
        """Say in sentences what stands between this policy and its promise; empty if nothing."""
        state, said = self.state(today), []
        if state == VOID:
            said.append(f"the guarantee is void: {self.void}")
        if state == EXPIRED:
            said.append(f"the policy expired on {self.expires}: calibrate anew on recent data")
        if (today or _today()) < _days_after(self.created, -1):  # a day, for clocks that differ
            said.append(f"the policy was created on {self.created}, after today's date by this "
                        "machine's clock: set it, or an expired policy passes for a valid one")
        if self.threshold.state != CALIBRATED:
            said.append(self.threshold.explain().rstrip("."))
        return said

    def voided(self, reason: str) -> Policy:
        """Return the policy with its guarantee void, for a reason in words."""
        return replace(self, void=reason)

    def valid_for(self, days: int) -> Policy:
        """Return the policy with a promise that is made for so many days, from the first one."""
        return replace(self, expires=_days_after(self.created, days))

    def to_dict(self) -> dict[str, Any]:
        """Return what :meth:`load` reads, as strict JSON takes it, without the seal."""
        return {
            "format": FORMAT, "version": VERSION, "promise": self.promise,
            **{one.name: getattr(self, one.name) for one in fields(self)},
            "threshold": _to_dict(self.threshold), "statistic": self.statistic.to_dict(),
            "groups": {name: _to_dict(rule) for name, rule in self.groups.items()},
            "drift": None if self.drift is None else asdict(self.drift),
        }

    def save(self, path: str | Path) -> None:
        """Write the policy as sealed JSON, whole or not at all."""
        write_text_atomic(Path(path), sealed_json(self.to_dict()))

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """Read a policy, with numpy alone.

        Raises
        ------
        PolicyError
            For a file that is missing, cut, changed after it was written, no policy, of another
            version, or with a value that means nothing.
        """
        if not Path(path).is_file():
            raise PolicyError(f"{path} is no file. Make a policy with `python -m monitorlab "
                              "calibrate LOG --out FOLDER`, and give FOLDER/policy.json.")
        advice = "Take a copy of it as it was written, or calibrate anew."
        try:
            found = read_sealed(Path(path))
        except DamagedFileError as error:
            raise PolicyError(
                f"{path} is no policy that can be trusted: {error}. {advice}") from None
        if found.get("format") != FORMAT:
            raise PolicyError(f"{path} is no policy: its format is {found.get('format')!r}, "
                              f"expected {FORMAT!r}. {advice}")
        if found.get("version") != VERSION:
            raise PolicyError(f"{path} is a policy of version {found.get('version')!r}; this "
                              f"monitorlab reads version {VERSION}. Update it, or calibrate anew.")
        try:
            return _policy_from(found)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            raise PolicyError(f"{path} is no policy that can be run: {what} {advice}") from None


def _policy_from(found: Mapping[str, Any]) -> Policy:
    found = {"scoring": "", **found}  # policies of before do not say
    values = {one.name: found[one.name] for one in fields(Policy)}
    for name in ("name", "data", "scoring", "void", "created", "expires"):
        if not isinstance(values[name], str):
            raise PolicyError(f"{name} is {values[name]!r}, expected text.")
    if values["drift"] is not None:
        values["drift"] = DriftReference.from_dict(values["drift"])
    values["threshold"] = _rule_from_dict(values["threshold"])
    values["statistic"] = Fitted.from_dict(values["statistic"])
    values["groups"] = {name: _rule_from_dict(rule) for name, rule in values["groups"].items()}
    return Policy(**values)


def _to_dict(one: Threshold | Alarm) -> dict[str, Any]:
    """Return the fields for strict JSON: infinite numbers as text, what is undefined as null."""
    values = asdict(one)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None if math.isnan(value) else str(value)
    return values


def _rule_from_dict(found: Mapping[str, Any]) -> Threshold:
    values = {one.name: found[one.name] for one in fields(Threshold)}
    for name in ("value", "tie_break", "level", "delta", "attained"):
        given = values[name]
        if given is None and name in ("delta", "attained"):
            values[name] = math.nan
        elif given in ("inf", "-inf") or type(given) in (int, float):
            values[name] = float(given)
        else:
            raise PolicyError(f"{name} of the threshold is {given!r}, expected a number.")
    return Threshold(**values)


def _check_rule(rule: Threshold) -> None:
    """Refuse a threshold that could let everything pass without a word."""
    wrong = {
        "value": math.isnan(rule.value), "tie_break": not 0.0 <= rule.tie_break <= 1.0,
        "risk": rule.risk not in RISKS, "level": not 0.0 < rule.level < 1.0,
        "state": rule.state not in _RULE_STATES, "calibrator": not isinstance(rule.calibrator, str),
        "delta": not (math.isnan(rule.delta) or 0.0 < rule.delta < 1.0),
        **{name: type(getattr(rule, name)) is not int or getattr(rule, name) < 0
           for name in ("n", "k", "n_needed")},
    }
    for name, bad in wrong.items():
        if bad:
            raise PolicyError(f"{name} of the threshold is {getattr(rule, name)!r}, which no "
                              "calibration gives.")


def hashed_draws(ids: Iterable[str], purpose: str = "tie") -> FloatArray:
    """Return a uniform number in (0, 1) for each identifier, the same whenever it is asked for.

    Parameters
    ----------
    ids : iterable of str
        Sequence identifiers.
    purpose : str
        Numbers for different purposes are independent of one another.
    """
    return np.array([_hashed(one, purpose) for one in ids], dtype=np.float64)


def _hashed(identifier: str, purpose: str) -> float:
    text = f"{purpose}\n{identifier}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 12
    return (number + 0.5) * 2.0**-52


@dataclass(frozen=True)
class Alarm:
    """Why a sequence was stopped.

    Attributes
    ----------
    sequence_id : str
        Which one.
    step : int
        At which of its steps, counted from 1.
    value, threshold : float
        The statistic, and what it passed; NaN where an error raised the alarm.
    reason : str
        In words.
    state : str
        Of the guarantee at that moment: "valid", "guarantee void" or "expired".
    """

    sequence_id: str
    step: int
    value: float
    threshold: float
    reason: str
    state: str

    @property
    def is_error(self) -> bool:
        """Whether a score that could not be used raised it, not the statistic."""
        return math.isnan(self.value)

    def to_dict(self) -> dict[str, Any]:
        """Return the alarm as strict JSON takes it: infinite numbers as text, NaN as null."""
        return _to_dict(self)


class SequenceError(ValueError):
    """A step cannot be used, and the policy says that errors are raised."""


@dataclass(slots=True)
class _Open:
    """What is remembered of a sequence that has not ended: a few numbers."""

    state: State
    rule: Threshold
    draw: float
    step: int = 0
    first: int = 1
    peak: float = -math.inf
    alarm: Alarm | None = None

    def check(self, step: int) -> None:
        """Refuse a gap; steps may count from 0 or 1 on."""
        if self.step == 1:
            self.first = 0 if step == 0 else 1
        expected = self.step - 1 + self.first
        if step != expected:
            raise SequenceError(f"step {step!r} came where step {expected} was expected")


class OnlineMonitor:
    """Watches any number of interleaved sequences, one score at a time.

    Memory is a few numbers per open sequence; :meth:`end` frees them. Alarms are those of
    :func:`monitorlab.online.metrics.alarm_steps` on the whole sequences, ties included: the number
    that breaks a tie comes from a hash of the sequence's identifier.

    Parameters
    ----------
    policy : Policy
        As calibrated, or read from a file.
    drift : DriftTest, optional
        Test that goes on where another monitor of this policy stopped; a new one by default.

    Attributes
    ----------
    policy : Policy
        The same, with the guarantee void as soon as drift shows.
    drift : DriftTest or None
        The test; None without a reference.
    steps, finished, alarms, errors : int
        Scores seen, sequences ended, alarms raised, and those of them for an error.

    Examples
    --------
    >>> from monitorlab import Policy, calibrate
    >>> policy = Policy(calibrate([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], level=0.10))
    >>> monitor = OnlineMonitor(policy)
    >>> monitor.update("a", 0.35)
    >>> monitor.update("a", 0.95).reason
    '0.95 is above the threshold 0.9'
    >>> monitor.update("b", float("nan")).reason
    'the score is nan, expected a number'
    """

    def __init__(self, policy: Policy, drift: DriftTest | None = None):
        self.policy = policy
        self.steps = self.finished = self.alarms = self.errors = 0
        self._open: dict[str, _Open] = {}
        self._start, self._update = policy.statistic.start, policy.statistic.update
        self._read = _reader(policy)
        if drift is None and policy.drift is not None:
            drift = DriftTest(policy.drift)
        self.drift = drift
        self._void_if_drifted()

    @property
    def state(self) -> str:
        """State of the guarantee: "valid", "guarantee void" or "expired"."""
        return self.policy.state()

    @property
    def open(self) -> int:
        """How many sequences have begun and not ended."""
        return len(self._open)

    @property
    def drift_evidence(self) -> float:
        """Evidence of drift: 1 at the start, drift at 1 / rate; NaN without a reference."""
        return math.nan if self.drift is None else self.drift.evidence

    def update(self, sequence_id: str, score: float, *, step: int | None = None,
               group: str = "") -> Alarm | None:
        """Take the next score of a sequence, and return an alarm or None.

        A sequence that has alarmed stays alarmed: it returns the same alarm at every later step.

        Parameters
        ----------
        sequence_id : str
            Which sequence; one that was not open begins.
        score : float
            As the policy's side says, of any finite or infinite value.
        step : int, optional
            Number of the step, from 0 or 1 on; a gap is an error.
        group : str
            Group of the sequence, read at its first step; one that the policy does not know is
            judged by the common threshold.

        Raises
        ------
        SequenceError
            For a score that is no number, a gap, or an error in the statistic, if the policy's
            ``on_error`` is "raise"; by default they raise an alarm.
        """
        opened = self._next(sequence_id, group)
        if opened.alarm is not None:
            return opened.alarm
        try:
            if step is not None:
                opened.check(step)
            opened.state, value = self._update(opened.state, self._read(score))
            if value != value:
                raise SequenceError("the statistic is nan, expected a number")
        except Exception as error:  # whatever it is: an unwatched sequence must not go on
            return self._failed(sequence_id, opened, error)
        if value > opened.peak:
            opened.peak = value
        rule = opened.rule
        if value > rule.value or (value == rule.value and opened.draw > rule.tie_break):
            where = "above" if value > rule.value else "equal to"
            turned = " (of minus the score)" if self.policy.side == "safety" else ""
            reason = f"{value!r} is {where} the threshold {rule.value!r}{turned}"
            return self._raise(sequence_id, opened, value, rule.value, reason)
        return None

    def fail(self, sequence_id: str, error: Exception, *, group: str = "") -> Alarm:
        """Alarm a sequence whose next score could not be computed, and say why.

        Parameters
        ----------
        sequence_id, group : str
            As for :meth:`update`.
        error : Exception
            What went wrong.

        Raises
        ------
        SequenceError
            If the policy's ``on_error`` is "raise".
        """
        opened = self._next(sequence_id, group)
        return opened.alarm or self._failed(sequence_id, opened, error)

    def end(self, sequence_id: str) -> None:
        """Forget a sequence, and let the drift test look at it.

        Raises
        ------
        ValueError
            If no such sequence is open.
        """
        opened = self._open.pop(sequence_id, None)
        if opened is None:
            raise ValueError(f"no sequence {sequence_id!r} is open: it has ended, or no step came.")
        self.finished += 1
        if self.drift is None or (opened.alarm is not None and opened.alarm.is_error):
            return  # the peak of a sequence that broke off is not known
        self.drift.add(math.inf if opened.alarm else opened.peak, _hashed(sequence_id, "drift"))
        self._void_if_drifted()

    def _void_if_drifted(self) -> None:
        if self.drift is None or not self.drift.fired_at or self.policy.void:
            return
        self.policy = self.policy.voided(
            f"the peaks of the first {self.drift.fired_at} finished sequences differ from those of "
            f"the calibrating data (evidence {self.drift.evidence:.3g}, expected at most "
            f"{1.0 / self.drift.reference.rate:.3g}); calibrate anew on recent data")

    def status(self) -> dict[str, Any]:
        """Return counts, evidence of drift and state, as strict JSON takes them."""
        evidence = self.drift_evidence
        return {"state": self.state, "why": "; ".join(self.policy.warnings()), "steps": self.steps,
                "open": self.open, "finished": self.finished, "alarms": self.alarms,
                "errors": self.errors,
                "drift_evidence": evidence if math.isfinite(evidence) else None}

    def _next(self, sequence_id: str, group: str) -> _Open:
        """Count a step of a sequence, which begins if it was not open."""
        opened = self._open.get(sequence_id)
        if opened is None:
            rule = self.policy.groups.get(group, self.policy.threshold)
            # An alarm on equality, or none, needs no draw: it is above 0 and not above 1.
            random = 0.0 < rule.tie_break < 1.0
            draw = _hashed(sequence_id, "tie") if random else 0.5
            opened = self._open[sequence_id] = _Open(self._start(), rule, draw)
        self.steps += 1
        opened.step += 1
        return opened

    def _failed(self, sequence_id: str, opened: _Open, error: Exception) -> Alarm:
        if self.policy.on_error == "raise":
            raise SequenceError(f"sequence {sequence_id!r}, step {opened.step}: {error}") from error
        self.errors += 1
        ours = isinstance(error, SequenceError)
        reason = str(error) if ours else f"internal error: {type(error).__name__}: {error}"
        return self._raise(sequence_id, opened, math.nan, math.nan, reason)

    def _raise(self, sequence_id: str, opened: _Open, value: float, threshold: float,
               reason: str) -> Alarm:
        self.alarms += 1
        opened.alarm = Alarm(sequence_id, opened.step, value, threshold, reason, self.state)
        return opened.alarm


def _reader(policy: Policy) -> Callable[[Any], float]:
    """Return the map from a score as it comes in to suspicion, rounded as in calibration."""
    dtype, safety = DTYPES[policy.dtype], policy.side == "safety"
    exact = dtype is np.float64

    def read(score: Any) -> float:
        if type(score) is not float:
            if not hasattr(score, "__float__") or isinstance(score, bool | np.bool_):
                raise SequenceError(f"the score is {json.dumps(score, default=repr)[:60]}, "
                                    "expected a number")
            score = float(score)
        if score != score:
            raise SequenceError("the score is nan, expected a number")
        if not exact:
            with np.errstate(over="ignore"):
                score = float(dtype(score))
        return -score if safety else score

    return read
