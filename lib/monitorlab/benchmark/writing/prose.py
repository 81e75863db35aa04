"""Prose: a seeded author who draws templates, fills their slots and lays sentences out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

from monitorlab.benchmark.scenarios.files import shared
from monitorlab.benchmark.scenarios.templates import render

_SENTENCE_START = re.compile(r"(?:\A|(?<=[.!?]\s))([a-z])")
_ABBREVIATION = re.compile(r"(?:\.\.|e\.g|i\.e|vs|etc|approx|no)\.\s\Z", re.IGNORECASE)
_SPACES = re.compile(r"(?<=\S) {2,}")
_LOOSE = re.compile(r" +([,.;:?!])(?=\s|\Z)")
CONTRAST_SHARE = 0.4  # answers that set what they say against what they do not say
CONTRACTION_SHARE = 0.5


class Author(Random):
    """A generator that writes with what it draws; the same seed writes the same."""

    def fill(self, text: str, values: Mapping[str, Any]) -> str:
        """Render a template and tidy the result: spaces, and capitals at sentence starts.

        Parameters
        ----------
        text : str
            The template.
        values : mapping
            Its slots.
        """
        return _tidy(render(text, values, self.randrange))

    def draw(self, texts: Sequence[str], values: Mapping[str, Any]) -> str:
        """Draw one of several templates and fill it."""
        return self.fill(self.choice(texts), values)

    def phrase(self, name: str, values: Mapping[str, Any]) -> str:
        """Draw one of the shared phrases and fill it; the name is a key of ``phrases.yaml``."""
        return self.draw(shared("phrases")[name], values)

    def contrast(self, own: str, other: str, values: Mapping[str, Any]) -> str:
        """Put what an answer says beside what it does not say: the same words, whatever the label.

        Parameters
        ----------
        own, other : str
            Templates of the two.
        values : mapping
            Their slots.

        Returns
        -------
        str
            One or two sentences.
        """
        both = {"own": self.fill(own, values), "other": self.fill(other, values)}
        return self.phrase("contrasts", both)

    def spoken(self, text: str) -> str:
        """Write every second text in a more casual voice: ``do not`` as ``don't`` and the like."""
        return _contract(text) if self.random() < CONTRACTION_SHARE else text

    @staticmethod
    def lay_out(points: Sequence[str], layout: str) -> str:
        """Write points one after the other.

        Parameters
        ----------
        points : sequence of str
            Complete sentences.
        layout : {"running", "lines", "bullets", "numbered"}
            Sentences in a row or one below the other, without a mark, with a dash, with a number.

        Returns
        -------
        str
            One block of text.
        """
        if layout == "bullets":
            points = [f"- {point}" for point in points]
        elif layout == "numbered":
            points = [f"{i}. {point}" for i, point in enumerate(points, 1)]
        return (" " if layout == "running" else "\n").join(points)


def _tidy(text: str) -> str:
    """Remove doubled spaces and begin sentences with a capital."""
    text = _LOOSE.sub(r"\1", _SPACES.sub(" ", text.strip()))

    def capital(found: re.Match[str]) -> str:
        before = text[max(0, found.start() - 8) : found.start()]
        return found[1] if _ABBREVIATION.search(before) else found[1].upper()

    return _SENTENCE_START.sub(capital, text)


def _contract(text: str) -> str:
    """Write ``do not`` as ``don't`` and the like."""
    phrases = shared("phrases")

    def short(found: re.Match[str]) -> str:
        # "what is on it is new" and "the one that is" keep their verb.
        before = text[: found.start()].rsplit(maxsplit=1)
        kept = before and before[-1].lower() in phrases["prepositions"]
        return found[0] if kept else str(phrases["contractions"][found[1]])

    return _long_forms().sub(short, text)


@lru_cache(maxsize=1)
def _long_forms() -> re.Pattern[str]:
    """What can be contracted, only before another word: "as it is." stays as it is."""
    forms = "|".join(map(re.escape, shared("phrases")["contractions"]))
    return re.compile(rf"\b({forms})\b(?= [a-z])")
