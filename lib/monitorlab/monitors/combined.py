"""*Checks first*: a program looks before a model is asked.

Seconds, tokens and costs of all that were asked add up; parts that do not know theirs add nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from monitorlab.monitors.checks.program import ProgramChecks
from monitorlab.monitors.monitor import NO_PROMPT, Monitor, MonitorError, Sample, chunks, samples_of
from monitorlab.monitors.recorded import RecordedMonitor
from monitorlab.monitors.scoring import judged
from monitorlab.monitors.verdicts import ERROR, PARSED, Verdict, failure

CHECKS_FIRST = "checks first"
UNIT = 64
TRUST = ("alarms", "all")
AMOUNTS = ("input_tokens", "output_tokens", "seconds", "cost_usd")


@dataclass(frozen=True)
class ChecksFirst:
    """A check decides where it can, another monitor elsewhere.

    Attributes
    ----------
    inner : Monitor
        Asked about what the check does not decide, and about nothing else.
    check : Monitor
        Asked about everything; the program checks unless another one is given.
    trust : str
        Which verdicts of the check are final: its "alarms" (that a program finds no fault does not
        show that there is none), or "all" that are parsed.
    ranked : bool
        Whether an alarm of the check ranks above all that the other monitor says, so that one
        threshold can be calibrated for both: its score is (1 + suspicion) / 2 then, and any other
        score is half of what it was. Verdicts stay those of the monitor that decided. If not, the
        scores of both stand as they are.
    name : str
        How the tables call it; made of the two names if empty.

    Raises
    ------
    MonitorError
        If `trust` is something else.
    """

    inner: Monitor
    check: Monitor = field(default_factory=ProgramChecks)
    trust: str = "alarms"
    ranked: bool = True
    name: str = ""

    def __post_init__(self) -> None:
        if self.trust not in TRUST:
            raise MonitorError(f"trust is {self.trust!r}, expected one of {', '.join(TRUST)}")
        if not self.name:
            object.__setattr__(self, "name", f"{self.check.name} or {self.inner.name}")

    @property
    def prompt(self) -> str:
        """Prompts of both, each once; "none" if there is none."""
        prompts = (self.check.prompt, self.inner.prompt)
        return " + ".join(dict.fromkeys(p for p in prompts if p != NO_PROMPT)) or NO_PROMPT

    @property
    def workers(self) -> int:
        """The larger number of both."""
        return max(self.check.workers, self.inner.workers)

    def settings(self) -> dict[str, Any]:
        """Settings of both, and who decides."""
        return {"kind": "hybrid", "trust": self.trust, "check": dict(self.check.settings()),
                "fallback": dict(self.inner.settings()),
                **({"ranked": True} if self.ranked else {})}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Single samples where calls may run side by side or a stop must lose nothing, else 64."""
        single = any(monitor.workers > 1 or all(len(unit) == 1 for unit in monitor.units(samples))
                     for monitor in (self.check, self.inner))
        return chunks(len(samples), 1 if single else UNIT)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Ask the check about all samples, and the other monitor about the open ones."""
        found = _ask(self.check, samples, draw)
        left = [i for i, verdict in enumerate(found) if self._is_open(verdict)]
        answers = _ask(self.inner, [samples[i] for i in left], draw)
        said = dict(zip(left, answers, strict=True))
        return [self.decided(verdict, said.get(i)) for i, verdict in enumerate(found)]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Return the verdict: whom to ask depended on the replies as they were read."""
        return verdict

    def decided(self, found: Verdict, said: Verdict | None) -> Verdict:
        """Return the verdict on one sample.

        Parameters
        ----------
        found : Verdict
            Of the check.
        said : Verdict or None
            Of the other monitor; None if it was not asked. It is not looked at where the check
            decides.
        """
        if said is None or not self._is_open(found):
            verdict = _signed(self.check, found)
            alarm = bool(verdict.verdict)
        else:
            verdict, alarm = _summed(_signed(self.inner, said), found, said), False
        if not self.ranked or verdict.score is None:
            return verdict
        return replace(verdict, score=(verdict.score + alarm) / 2)

    def _is_open(self, found: Verdict) -> bool:
        return found.verdict is None or (self.trust == "alarms" and not found.verdict)


def checks_first(
    verdicts: pd.DataFrame, samples: pd.DataFrame, check: Monitor | None = None
) -> pd.DataFrame:
    """Put the checks before a monitor that has judged already, such as a trained arm.

    Parameters
    ----------
    verdicts : DataFrame
        Schema ``verdicts``, with an ``arm``; of one monitor.
    samples : DataFrame
        Schema ``samples``; those that `verdicts` are about.
    check : Monitor, optional
        The program checks by default.

    Returns
    -------
    DataFrame
        Like `verdicts`, with the arm ``checks first`` and the ranked scores of `ChecksFirst`, in
        [0, 1], high is unsafe.
    """
    asked = samples_of(samples[samples["sample_id"].isin(set(verdicts["sample_id"]))])
    arm = RecordedMonitor(next(iter(verdicts["monitor"]), ""), {})
    monitor = ChecksFirst(arm, check or ProgramChecks())
    found = {sample.sample_id: verdict for sample, verdict in
             zip(asked, _ask(monitor.check, asked, 0), strict=True)}
    rows = verdicts.astype(object).where(verdicts.notna(), None).to_dict("records")
    made = [monitor.decided(found[row["sample_id"]], _verdict(row)) for row in rows]
    columns = {
        "status": [verdict.status for verdict in made],
        "verdict": [verdict.verdict for verdict in made],
        "score": [verdict.score for verdict in made],
        "evidence": [verdict.evidence or verdict.reason for verdict in made],
        "seconds": [verdict.seconds for verdict in made],
    }
    typed = {name: pd.Series(values, index=verdicts.index, dtype=verdicts[name].dtype)
             for name, values in columns.items()}
    return verdicts.assign(arm=CHECKS_FIRST, monitor=CHECKS_FIRST, **typed)


def _verdict(row: Mapping[Hashable, Any]) -> Verdict:
    """A row of a table of verdicts as the verdict that it was."""
    words, parsed = row["evidence"] or "", row["status"] == PARSED
    amounts: dict[str, Any] = {name: row[name] for name in AMOUNTS}
    return Verdict(row["status"], row["verdict"], row["score"], evidence=words if parsed else "",
                   reason="" if parsed else words, **amounts)


def _signed(monitor: Monitor, verdict: Verdict) -> Verdict:
    """Say who decided."""
    if verdict.status != PARSED:
        return replace(verdict, reason=f"{monitor.name}: {verdict.reason or verdict.status}")
    score = "" if verdict.score is None else f" ({verdict.score:.2f})"
    words = verdict.evidence or ("misbehavior" if verdict.verdict else "benign") + score
    return replace(verdict, evidence=f"{monitor.name}: {words}")


def _ask(monitor: Monitor, samples: Sequence[Sample], draw: int) -> list[Verdict]:
    """Judge samples in the monitor's own units, timed; an exception is an error of its unit."""
    verdicts: list[Verdict] = [failure(ERROR, "not in any unit of the monitor")] * len(samples)
    for unit in monitor.units(samples) if samples else []:
        for i, answer in zip(unit, judged(monitor, [samples[i] for i in unit], draw), strict=True):
            verdicts[i] = answer
    return verdicts


def _summed(verdict: Verdict, *parts: Verdict) -> Verdict:
    """Give a verdict the tokens, seconds and costs of all parts together."""
    totals: dict[str, Any] = {}
    for name in AMOUNTS:
        known = [value for part in parts if (value := getattr(part, name)) is not None]
        totals[name] = sum(known) if known else None
    return replace(verdict, **totals)
