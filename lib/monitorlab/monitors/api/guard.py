"""A guard behind a chat endpoint: what it is sent, and how its own words are read."""

from __future__ import annotations

from dataclasses import dataclass

from monitorlab.models.guard_families import GuardFamily
from monitorlab.monitors.monitor import Sample
from monitorlab.monitors.prompts import broken_up
from monitorlab.monitors.verdicts import PARSED, TRUNCATED, UNPARSED, Verdict, failure
from monitorlab.storage.files import digest_json


@dataclass(frozen=True)
class GuardPrompt:
    """What a guard behind a chat endpoint is sent, and how its reply is read.

    The server puts the conversation into the guard's own chat template. A guideline goes as a
    system message, which the template of ShieldGemma takes for that.

    Attributes
    ----------
    family : GuardFamily
    answer : str
        As of a prompt that asks for a verdict.
    """

    family: GuardFamily
    answer: str = "verdict"

    @property
    def name(self) -> str:
        """How the tables call it."""
        return self.family.name

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides a verdict besides the server's template; hexadecimal."""
        return digest_json(self.family.settings())

    def messages(self, sample: Sample) -> list[dict[str, str]]:
        """Return the conversation of one sample."""
        guideline, frame = self.family.guideline, self.family.frame
        system = [{"role": "system", "content": guideline}] if guideline else []
        return [*system, {"role": "user", "content": broken_up(sample.request, frame)},
                {"role": "assistant", "content": broken_up(sample.response, frame)}]

    def read(self, text: str, finished: bool) -> Verdict:
        """Read a reply; the label stands at its beginning, so a cut one may have it."""
        found = self.family.read(text)
        if found is not None:
            return Verdict(PARSED, found[0], evidence=found[2], reply=text)
        if not finished:
            return failure(TRUNCATED, "the reply was cut off before a label of the guard", text)
        labels = ", ".join(label.strip() for label in self.family.unsafe + self.family.safe)
        return failure(UNPARSED, f"the reply does not say one label of {self.name} ({labels}): is "
                                 "it a guard of this family, with its own chat template?", text)

    def label(self, text: str) -> tuple[int, dict[bool, tuple[str, ...]]] | None:
        """Where the label begins in a reply, and the labels that mean unsafe and safe."""
        found = self.family.read(text)
        if found is None:
            return None
        return found[1], {bad: tuple(label.strip().lower() for label in labels) for bad, labels in
                          ((True, self.family.unsafe), (False, self.family.safe))}
