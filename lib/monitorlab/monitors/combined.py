"""Monitors made of monitors: a program before a model, a cheap one before a dear one.

Seconds, tokens and costs of all that were asked add up; parts that do not know theirs add nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monitorlab.monitors.monitor import (
    NO_PROMPT,
    Monitor,
    MonitorError,
    MonitorStop,
    Sample,
    chunks,
)
from monitorlab.monitors.verdicts import ERROR, PARSED, Verdict, failure

UNIT = 64
TRUST = ("alarms", "all")


@dataclass(frozen=True)
class Hybrid:
    """A check decides where it can, a fallback elsewhere.

    Attributes
    ----------
    check : Monitor
        Such as :class:`monitorlab.monitors.checks.ProgramChecks`.
    fallback : Monitor
        Asked about what the check does not decide, and about nothing else.
    trust : str
        Which verdicts of the check are final: its "alarms" (that a program finds no fault does not
        show that there is none), or "all" that are parsed.
    name : str
        How the tables call it; made of the two names if empty.

    Raises
    ------
    MonitorError
        If `trust` is something else.
    """

    check: Monitor
    fallback: Monitor
    trust: str = "alarms"
    name: str = ""

    def __post_init__(self) -> None:
        if self.trust not in TRUST:
            raise MonitorError(f"trust is {self.trust!r}, expected one of {', '.join(TRUST)}")
        if not self.name:
            object.__setattr__(self, "name", f"{self.check.name} or {self.fallback.name}")

    @property
    def prompt(self) -> str:
        """Prompts of both."""
        return _prompts(self.check, self.fallback)

    @property
    def workers(self) -> int:
        """The larger number of both."""
        return max(self.check.workers, self.fallback.workers)

    def settings(self) -> dict[str, Any]:
        """Settings of both, and who decides."""
        return {"kind": "hybrid", "trust": self.trust, "check": dict(self.check.settings()),
                "fallback": dict(self.fallback.settings())}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Chunks of 64, or single samples if a part works on single samples."""
        return _units(samples, self.check, self.fallback)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Ask the check about all samples, and the fallback about the open ones."""
        return _in_turn(self.check, self.fallback, self._is_open, samples, draw)

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Return the verdict: whom to ask depended on the replies as they were read."""
        return verdict

    def _is_open(self, verdict: Verdict) -> bool:
        return verdict.verdict is None or (self.trust == "alarms" and not verdict.verdict)


@dataclass(frozen=True)
class Cascade:
    """An expensive monitor is asked only where a cheap one is unsure.

    Attributes
    ----------
    cheap : Monitor
        Asked about everything.
    expensive : Monitor
        Asked where the cheap score lies in [`low`, `high`], or where the cheap one has no score or
        no verdict. Its verdict is final then, also if it is none.
    low, high : float
        Bounds of suspicion, 0 <= low <= high <= 1.
    name : str
        How the tables call it; made of the two names if empty.

    Raises
    ------
    MonitorError
        If the bounds are none.
    """

    cheap: Monitor
    expensive: Monitor
    low: float
    high: float
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise MonitorError(f"the unsure range is [{self.low}, {self.high}], expected "
                               "0 <= low <= high <= 1")
        if not self.name:
            object.__setattr__(self, "name", f"{self.cheap.name} then {self.expensive.name}")

    @property
    def prompt(self) -> str:
        """Prompts of both."""
        return _prompts(self.cheap, self.expensive)

    @property
    def workers(self) -> int:
        """The larger number of both."""
        return max(self.cheap.workers, self.expensive.workers)

    def settings(self) -> dict[str, Any]:
        """Settings of both, and the unsure range."""
        return {"kind": "cascade", "low": self.low, "high": self.high,
                "cheap": dict(self.cheap.settings()), "expensive": dict(self.expensive.settings())}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Chunks of 64, or single samples if a part works on single samples."""
        return _units(samples, self.cheap, self.expensive)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Ask the cheap monitor about all samples, and the expensive one where it is unsure."""
        return _in_turn(self.cheap, self.expensive, self._is_open, samples, draw)

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Return the verdict: whom to ask depended on the replies as they were read."""
        return verdict

    def _is_open(self, verdict: Verdict) -> bool:
        return verdict.score is None or self.low <= verdict.score <= self.high


def _word(verdict: Verdict) -> str:
    score = "" if verdict.score is None else f" ({verdict.score:.2f})"
    return ("misbehavior" if verdict.verdict else "benign") + score


def _in_turn(
    first: Monitor,
    second: Monitor,
    is_open: Callable[[Verdict], bool],
    samples: Sequence[Sample],
    draw: int,
) -> list[Verdict]:
    """Verdicts of the first monitor; where they are open, those of the second."""
    answers = _ask(first, samples, draw)
    unsettled = [i for i, answer in enumerate(answers) if is_open(answer)]
    verdicts = [_signed(first, answer) for answer in answers]
    for i, answer in zip(unsettled, _ask(second, [samples[i] for i in unsettled], draw),
                         strict=True):
        verdicts[i] = _summed(_signed(second, answer), (answers[i], answer))
    return verdicts


def _signed(monitor: Monitor, verdict: Verdict) -> Verdict:
    """Say who decided."""
    if verdict.status == PARSED:
        return replace(verdict, evidence=f"{monitor.name}: {verdict.evidence or _word(verdict)}")
    return replace(verdict, reason=f"{monitor.name}: {verdict.reason or verdict.status}")


def _ask(monitor: Monitor, samples: Sequence[Sample], draw: int) -> list[Verdict]:
    """Judge samples in the monitor's own units, timed; an exception is an error of its unit."""
    verdicts: list[Verdict] = [failure(ERROR, "not in any unit of the monitor")] * len(samples)
    for unit in monitor.units(samples) if samples else []:
        started = time.perf_counter()
        try:
            answers = monitor.judge([samples[i] for i in unit], draw)
            if len(answers) != len(unit):
                raise ValueError(f"{len(answers)} verdicts for {len(unit)} samples")
        except MonitorStop:
            raise
        except Exception as error:
            answers = [failure(ERROR, f"{type(error).__name__}: {error}")] * len(unit)
        share = (time.perf_counter() - started) / len(unit)
        for i, answer in zip(unit, answers, strict=True):
            verdicts[i] = answer if answer.seconds is not None else replace(answer, seconds=share)
    return verdicts


def _summed(verdict: Verdict, parts: Sequence[Verdict]) -> Verdict:
    """Give a verdict the tokens, seconds and costs of all parts together."""
    totals: dict[str, Any] = {}
    for name in ("input_tokens", "output_tokens", "seconds", "cost_usd"):
        known = [value for part in parts if (value := getattr(part, name)) is not None]
        totals[name] = sum(known) if known else None
    return replace(verdict, **totals)


def _units(samples: Sequence[Sample], *monitors: Monitor) -> list[list[int]]:
    """Single samples where calls may run side by side or a stop must lose nothing, else chunks."""
    single = any(
        monitor.workers > 1 or all(len(unit) == 1 for unit in monitor.units(samples))
        for monitor in monitors
    )
    return chunks(len(samples), 1 if single else UNIT)


def _prompts(*monitors: Monitor) -> str:
    """Different prompts, joined; "none" if there is none."""
    names = dict.fromkeys(m.prompt for m in monitors if m.prompt != NO_PROMPT)
    return " + ".join(names) or NO_PROMPT
