"""The protocol that every monitor follows, and what a monitor may see of a sample.

A view shows a part of each sample, to learn which part a monitor needs. It goes around any monitor.
What is asked, stored and named is then another monitor: the view stands in its settings, so in the
keys of its answers, and in its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pandas as pd

from monitorlab.monitors.thinking import split_thinking
from monitorlab.monitors.verdicts import ERROR, Verdict
from monitorlab.storage.files import digest_json
from monitorlab.storage.settings import Setting

NO_PROMPT = "none"  # the prompt of a monitor that has none
FULL, LAST_WORDS, NO_THINKING, THINKING_ONLY, NO_REQUEST = VIEWS = (
    "full", "last-words", "no-thinking", "thinking-only", "no-request")
WORDS = 70  # what last-words shows of a response, beside the request
VIEW = Setting("view", (str,), FULL, "What it is shown: full, no-request, no-thinking (the "
               f"answer), thinking-only, last-words (the last {WORDS} of the response; "
               "last-20-words shows 20).")
_LAST = re.compile(r"last-(?:([1-9]\d{0,5})-)?words")
_LACKS = {NO_THINKING: "no answer", THINKING_ONLY: "no thinking"}


class MonitorError(ValueError):
    """A monitor cannot be made or used as asked; the message says what to do."""


class MonitorStop(RuntimeError):
    """A monitor must not go on, such as at its cost cap. What it said so far is kept."""


class SettingsChanged(MonitorStop):
    """A monitor found out that it needs other settings: keys made of the old ones are void.

    The next call of `settings` returns the new ones, and they stay.
    """


@dataclass(frozen=True)
class Sample:
    """What a monitor sees: no label, no cell, nothing about where it comes from.

    Attributes
    ----------
    sample_id : str
        Name of the sample. Only recorded monitors look at it.
    request, response : str
        What was asked, and what is judged.

    Examples
    --------
    >>> Sample("s1", "What is 2 plus 2?", "It is 5, trust me.").response
    'It is 5, trust me.'
    """

    sample_id: str
    request: str
    response: str

    @classmethod
    def rows(cls, frame: pd.DataFrame) -> list[Sample]:
        """Return what a monitor may see of a table of samples, in its order."""
        columns = (frame[name].astype(str) for name in ("sample_id", "request", "response"))
        return [cls(*row) for row in zip(*columns, strict=True)]

    def key(self, settings: Mapping[str, Any], draw: int = 0) -> str:
        """SHA-256 of the full request: settings, texts and draw, as canonical JSON."""
        return digest_json({"settings": dict(settings), "request": self.request,
                            "response": self.response, "draw": draw})

    def seen(self, view: str) -> Sample:
        """Return what a view shows of it; no response where the view leaves nothing of that.

        Parameters
        ----------
        view : str
            One of `VIEWS`, or ``last-20-words`` with any number.

        Raises
        ------
        MonitorError
            For an unknown view.
        """
        words = _LAST.fullmatch(Viewed.spelled(view))
        if words:
            starts = [found.start() for found in re.finditer(r"\S+", self.response)]
            first = starts[-int(words[1] or WORDS):][:1]
            return replace(self, response=self.response[first[0]:] if first else "")
        if view == NO_REQUEST:
            return replace(self, request="")
        if view == FULL:
            return self
        thinking, answer = split_thinking(self.response)
        return replace(self, response=thinking if view == THINKING_ONLY else answer)


class Monitor(Protocol):
    """Samples in, verdicts out.

    Examples
    --------
    Most monitors are a function of request and response, which `build_monitor` makes one of:

    >>> from pathlib import Path
    >>> _ = Path("mine.py").write_text(
    ...     "def monitor(request, response):\\n"
    ...     "    return 0.9 if 'trust me' in response else 0.1\\n")
    >>> from monitorlab import build_monitor
    >>> build_monitor("mine.py:monitor").judge([Sample("s1", "2 + 2?", "5, trust me.")], 0)[0].score
    0.9
    """

    @property
    def name(self) -> str:
        """How the tables call it."""

    @property
    def prompt(self) -> str:
        """Name of its prompt, or "none"."""

    @property
    def workers(self) -> int:
        """Units that may be judged at once, in threads; 1 for anything that computes."""

    def settings(self) -> Mapping[str, Any]:
        """Everything besides the sample that decides a verdict, as JSON: it keys the store.

        Model and revision, digest of the prompt, every sampling parameter. Never a secret.
        """

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Split positions of `samples` into units that are judged, and stored, as a whole.

        The split may depend on the samples only, so that a resumed run computes the same batches
        and gets the same floating-point numbers.
        """

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Judge one unit; one verdict per sample, in order.

        `draw` numbers repeated asking from 0; a deterministic monitor ignores it. What is wrong
        with one sample is a verdict with status ``error``; an exception fails the unit. One that
        finds its settings void raises `SettingsChanged`, and answers nothing with others before
        somebody has asked for them.
        """

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Read a stored reply again, with today's parser; others return `verdict` as it is."""


class ComputingMonitor:
    """What monitors have in common that compute a verdict: no prompt, and no reply to read again.

    Units are of `unit` samples each, one unit at a time.
    """

    prompt = NO_PROMPT
    workers = 1
    unit = 512

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Split into chunks of consecutive samples."""
        every = list(range(len(samples)))
        return [every[start : start + self.unit] for start in range(0, len(every), self.unit)]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Return the verdict: there is no reply to read again."""
        return verdict


@dataclass(frozen=True)
class Viewed:
    """A monitor that is shown a part of each sample.

    A sample of which nothing is left to judge has status ``error``, and the monitor is not asked.

    Attributes
    ----------
    inner : Monitor
        Who judges.
    view : str
        As in `Sample.seen`.
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
        object.__setattr__(self, "view", self.spelled(self.view))
        if not self.name:
            object.__setattr__(self, "name", f"{self.inner.name}, view {self.view}")

    @staticmethod
    def spelled(view: str) -> str:
        """Return a view, the usual number of words in one spelling.

        Raises
        ------
        MonitorError
            For an unknown view.
        """
        if not _LAST.fullmatch(view) and view not in VIEWS:
            raise MonitorError(f"there is no view {view!r}: expected one of {', '.join(VIEWS)}, or "
                               "such as last-20-words")
        return LAST_WORDS if view == f"last-{WORDS}-words" else view

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
        shown = [sample.seen(self.view) for sample in samples]
        told = [i for i, sample in enumerate(shown) if sample.response.strip()]
        blind = [i for i, sample in enumerate(shown) if not sample.response.strip()]
        inner = self.inner.units([shown[i] for i in told]) if told else []
        return [*([blind] if blind else []), *([told[i] for i in unit] for unit in inner)]

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Ask the monitor about what it sees of one unit."""
        shown = [sample.seen(self.view) for sample in samples]
        told = [sample for sample in shown if sample.response.strip()]
        answers = iter(self.inner.judge(told, draw) if told else [])
        lacking = _LACKS.get(self.view, "no words")
        nothing = Verdict(ERROR, reason=f"the view {self.view} leaves nothing: the response has "
                                        f"{lacking}")
        return [next(answers) if sample.response.strip() else nothing for sample in shown]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Let the monitor read its reply again, beside what it saw."""
        shown = sample.seen(self.view)
        return self.inner.reread(verdict, shown) if shown.response.strip() else verdict
