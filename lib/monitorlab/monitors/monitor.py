"""The protocol that every monitor follows, and what a monitor may see of a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from monitorlab.monitors.verdicts import Verdict
from monitorlab.storage.files import digest_json

NO_PROMPT = "none"  # the prompt of a monitor that has none


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
        ...

    @property
    def prompt(self) -> str:
        """Name of its prompt, or "none"."""
        ...

    @property
    def workers(self) -> int:
        """Units that may be judged at once, in threads; 1 for anything that computes."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """Everything besides the sample that decides a verdict, as JSON: it keys the store.

        Model and revision, digest of the prompt, every sampling parameter. Never a secret.
        """
        ...

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Split positions of `samples` into units that are judged, and stored, as a whole.

        The split may depend on the samples only, so that a resumed run computes the same batches
        and gets the same floating-point numbers.
        """
        ...

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Judge one unit; one verdict per sample, in order.

        `draw` numbers repeated asking from 0; a deterministic monitor ignores it. What is wrong
        with one sample is a verdict with status ``error``; an exception fails the unit. One that
        finds its settings void raises `SettingsChanged`, and answers nothing with others before
        somebody has asked for them.
        """
        ...

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Read a stored reply again, with today's parser; others return `verdict` as it is."""
        ...


def samples_of(frame: pd.DataFrame) -> list[Sample]:
    """Return what a monitor may see of a table of samples, in its order."""
    columns = (frame[name].astype(str) for name in ("sample_id", "request", "response"))
    return [Sample(*row) for row in zip(*columns, strict=True)]


def request_key(settings: Mapping[str, Any], sample: Sample, draw: int) -> str:
    """SHA-256 of the full request: settings, texts and draw, as canonical JSON."""
    asked = {"settings": dict(settings), "request": sample.request, "response": sample.response,
             "draw": draw}
    return digest_json(asked)


def chunks(count: int, size: int) -> list[list[int]]:
    """Units of `size` consecutive positions."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


class ComputingMonitor:
    """What monitors have in common that compute a verdict: no prompt, and no reply to read again.

    Units are of `unit` samples each, one unit at a time.
    """

    prompt = NO_PROMPT
    workers = 1
    unit = 512

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Chunks of consecutive samples."""
        return chunks(len(samples), self.unit)

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Return the verdict: there is no reply to read again."""
        return verdict
