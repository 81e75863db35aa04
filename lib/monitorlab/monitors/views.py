"""What a monitor is shown of a sample: all of it, or a part, to learn which part it needs.

A view goes around any monitor. What is asked, stored and named is then another monitor: the view
stands in its settings, so in the keys of its answers, and in its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from monitorlab.monitors.monitor import Monitor, MonitorError, Sample
from monitorlab.monitors.thinking import split_thinking
from monitorlab.monitors.verdicts import ERROR, Verdict, failure
from monitorlab.storage.settings import Setting

FULL, LAST_WORDS, NO_THINKING, THINKING_ONLY, NO_REQUEST = VIEWS = (
    "full", "last-words", "no-thinking", "thinking-only", "no-request")
WORDS = 70  # what last-words shows of a response, beside the request
SETTING = Setting("view", (str,), FULL, "What it is shown: full, no-request, no-thinking (the "
                  f"answer), thinking-only, last-words (the last {WORDS} of the response; "
                  "last-20-words shows 20).")
_LAST = re.compile(r"last-(?:([1-9]\d{0,5})-)?words")
_LACKS = {NO_THINKING: "no answer", THINKING_ONLY: "no thinking"}


def seen(sample: Sample, view: str) -> Sample:
    """Return what a view shows of a sample.

    Parameters
    ----------
    sample : Sample
        All of it.
    view : str
        One of `VIEWS`, or ``last-20-words`` with any number.

    Returns
    -------
    Sample
        Of the same name. Its response is empty where the view leaves nothing of it.

    Raises
    ------
    MonitorError
        For an unknown view.
    """
    words = _LAST.fullmatch(checked(view))
    if words:
        starts = [found.start() for found in re.finditer(r"\S+", sample.response)]
        first = starts[-int(words[1] or WORDS):][:1]
        return replace(sample, response=sample.response[first[0]:] if first else "")
    if view == NO_REQUEST:
        return replace(sample, request="")
    if view == FULL:
        return sample
    thinking, answer = split_thinking(sample.response)
    return replace(sample, response=thinking if view == THINKING_ONLY else answer)


@dataclass(frozen=True)
class Viewed:
    """A monitor that is shown a part of each sample.

    A sample of which nothing is left to judge has status ``error``, and the monitor is not asked.

    Attributes
    ----------
    inner : Monitor
        Who judges.
    view : str
        As in `seen`.
    name : str
        How the tables call it; made of the monitor's name and the view if empty.

    Raises
    ------
    MonitorError
        For an unknown view.
    """

    inner: Monitor
    view: str
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "view", checked(self.view))
        if not self.name:
            object.__setattr__(self, "name", f"{self.inner.name}, view {self.view}")

    @property
    def prompt(self) -> str:
        """That of the monitor."""
        return self.inner.prompt

    @property
    def workers(self) -> int:
        """That of the monitor."""
        return self.inner.workers

    def settings(self) -> Mapping[str, Any]:
        """Those of the monitor, and the view."""
        return {**self.inner.settings(), "view": self.view}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Those of the monitor, over what it sees; the others are one unit, and cost nothing."""
        shown = [seen(sample, self.view) for sample in samples]
        told = [i for i, sample in enumerate(shown) if sample.response.strip()]
        inner = self.inner.units([shown[i] for i in told]) if told else []
        blind = sorted(set(range(len(samples))) - set(told))
        return [*([blind] if blind else []), *([told[i] for i in unit] for unit in inner)]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Ask the monitor about what it sees of one unit."""
        shown = [seen(sample, self.view) for sample in samples]
        told = [sample for sample in shown if sample.response.strip()]
        answers = iter(self.inner.judge(told, draw) if told else [])
        return [next(answers) if sample.response.strip() else self._nothing() for sample in shown]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Let the monitor read its reply again, beside what it saw."""
        shown = seen(sample, self.view)
        return self.inner.reread(verdict, shown) if shown.response.strip() else verdict

    def _nothing(self) -> Verdict:
        lacking = _LACKS.get(self.view, "no words")
        return failure(ERROR, f"the view {self.view} leaves nothing: the response has {lacking}")


def checked(view: str) -> str:
    """Return a view, in one spelling of the usual number of words.

    Raises
    ------
    MonitorError
        For an unknown view.
    """
    words = _LAST.fullmatch(view)
    if words is None and view not in VIEWS:
        raise MonitorError(f"there is no view {view!r}: expected one of {', '.join(VIEWS)}, or "
                           "such as last-20-words")
    return LAST_WORDS if words and int(words[1] or WORDS) == WORDS else view
