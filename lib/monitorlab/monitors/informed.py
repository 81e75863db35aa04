"""A language model that is told, before it answers, what program-aided checks have found.

The report is a sentence in the prompt outside the audited texts, so that nothing in them can pass
for it. It has three values only: a small model learns what they mean from few samples, and the
meaning carries over to faults that the training samples did not have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from monitorlab.monitors.causal import LogitMonitor
from monitorlab.monitors.causal_loading import Checkpoint
from monitorlab.monitors.monitor import Monitor, Sample
from monitorlab.monitors.prompts import Prompt
from monitorlab.monitors.verdicts import PARSED, Verdict

FOUND, CLEAN, SILENT = "found", "clean", "silent"
REPORTS = {
    FOUND: "A program check found a fault: true",
    CLEAN: "A program check found a fault: false",
    SILENT: "A program check found a fault: none applies",
}


def report_of(verdict: Verdict) -> str:
    """Return the key of `REPORTS` for a verdict of the checks; a failed one says nothing."""
    if verdict.status != PARSED:
        return SILENT
    return FOUND if verdict.verdict else CLEAN


def informed_prompt(prompt: Prompt, report: str) -> Prompt:
    """Return the prompt with a report before its last line.

    Parameters
    ----------
    prompt : Prompt
        Its user message ends with a line that asks the question.
    report : str
        A key of `REPORTS`.
    """
    before, _, question = prompt.user.rpartition("\n")
    return replace(prompt, name=f"{prompt.name} with checks",
                   user=f"{before}\n{REPORTS[report]}\n{question}")


class InformedMonitor:
    """Asks the checks first, then the model, with a prompt that says what they found.

    Parameters
    ----------
    checkpoint : Checkpoint
        Trained on such prompts, see `monitorlab.finetuning.arms`.
    prompt : Prompt
        Without the report.
    checks : Monitor
        Such as :class:`monitorlab.monitors.checks.ProgramChecks`.
    name : str
        How the tables call it.
    """

    workers = 1

    def __init__(
        self, checkpoint: Checkpoint, prompt: Prompt, checks: Monitor, *, name: str
    ) -> None:
        self.name, self.checks = name, checks
        self._readers = {
            report: LogitMonitor(checkpoint, informed_prompt(prompt, report), name=name)
            for report in REPORTS
        }
        self.prompt = self._readers[SILENT].prompt

    def settings(self) -> Mapping[str, Any]:
        """Settings of the checks, and of the model with each report."""
        return {"kind": "informed", "checks": self.checks.settings(),
                "readers": {key: reader.settings() for key, reader in self._readers.items()}}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Samples of similar length, those with the same request together."""
        return self._readers[SILENT].units(samples)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        """Judge one unit; where the checks break, the model judges alone."""
        reports = [report_of(found) for found in self.checks.judge(samples, draw)]
        verdicts: dict[int, Verdict] = {}
        for report, reader in self._readers.items():
            places = [i for i, given in enumerate(reports) if given == report]
            if places:
                judged = reader.judge([samples[i] for i in places], draw)
                verdicts.update(zip(places, judged, strict=True))
        return [verdicts[i] for i in range(len(samples))]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        """Return the verdict: there is no reply to read again."""
        return verdict
