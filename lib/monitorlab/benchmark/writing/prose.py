"""Responses in prose: slots, tidy sentences, and the reports of an assistant at a place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from monitorlab.benchmark.scenarios.files import Scenario, shared
from monitorlab.benchmark.scenarios.templates import render

_SENTENCE_START = re.compile(r"(?:\A|(?<=[.!?]\s))([a-z])")
_ABBREVIATION = re.compile(r"(?:\.\.|e\.g|i\.e|vs|etc|approx|no)\.\s\Z", re.IGNORECASE)
_SPACES = re.compile(r"(?<=\S) {2,}")
_LOOSE = re.compile(r" +([,.;:?!])(?=\s|\Z)")
TOLD = (1, 2, 2)  # sentences that decide the label
ELSEWHERE_SHARE = 0.5
CONTRAST_SHARE = 0.4  # answers that set what they say against what they do not say
REPORT_CONTRAST_SHARE = 0.2
THINKING_SHARE = 0.2
LAYOUTS = ("running", "bullets", "numbered")
LAYOUT_WEIGHTS = (6, 3, 2)
CONTRACTION_SHARE = 0.5


def fill(text: str, values: Mapping[str, Any], random: Random) -> str:
    """Render a template and tidy the result: spaces, and capitals at sentence starts.

    Parameters
    ----------
    text : str
        The template.
    values : mapping
        Slots.
    random : Random
        Draws the choices.

    Returns
    -------
    str
        The text.
    """
    return _tidy(render(text, values, random.randrange))


def phrase(name: str, values: Mapping[str, Any], random: Random) -> str:
    """Draw one of the shared phrases and fill it.

    Parameters
    ----------
    name : str
        Key of ``phrases.yaml``.
    values : mapping
        Slots of the phrase.
    random : Random
        The generator.

    Returns
    -------
    str
        The phrase.
    """
    return fill(random.choice(shared("phrases")[name]), values, random)


def _tidy(text: str) -> str:
    """Remove doubled spaces and begin sentences with a capital."""
    text = _LOOSE.sub(r"\1", _SPACES.sub(" ", text.strip()))

    def capital(found: re.Match[str]) -> str:
        before = text[max(0, found.start() - 8) : found.start()]
        return found[1] if _ABBREVIATION.search(before) else found[1].upper()

    return _SENTENCE_START.sub(capital, text)


def contract(text: str) -> str:
    """Write ``do not`` as ``don't`` and the like.

    Parameters
    ----------
    text : str
        Prose.

    Returns
    -------
    str
        The same in a more casual voice.
    """
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
    forms = map(re.escape, shared("phrases")["contractions"])
    return re.compile(r"\b(" + "|".join(forms) + r")\b(?= [a-z])")


def contrast(own: str, other: str, values: Mapping[str, Any], random: Random) -> str:
    """Put what an answer says beside what it does not say: the same words, whatever the label.

    Parameters
    ----------
    own, other : str
        Templates of the two.
    values : mapping
        Their slots.
    random : Random
        Draws the wording.

    Returns
    -------
    str
        One or two sentences.
    """
    both = {"own": fill(own, values, random), "other": fill(other, values, random)}
    return phrase("contrasts", both, random)


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


@dataclass(frozen=True)
class Errand:
    """What an assistant is asked to do at a place, and which rule stands in the way.

    Attributes
    ----------
    place : Scenario
        Of cell ``spv_qa``.
    deed : mapping
        The violation that the misbehaving side commits.
    values : mapping
        Things of the place, and the people of the pair.
    request : str
        What is asked, with the rule in it.
    """

    place: Scenario
    deed: Mapping[str, Any]
    values: Mapping[str, str]
    request: str

    @classmethod
    def draw(cls, place: Scenario, random: Random) -> Errand:
        """Draw what is asked at a place, with the pair's own generator."""
        people = random.sample(shared("pools")["person"], 3)
        values = {name: place[name] for name in ("place", "system", "record", "step", "guard")}
        values |= dict(zip(("owner", "asker", "boss"), people, strict=True))
        deed = random.choice(shared("deeds"))
        told = {name: fill(random.choice(deed[name]), values, random) for name in ("rule", "ask")}
        told["extra"] = phrase("place_extras", values, random)
        return cls(place, deed, values, phrase("place_requests", values | told, random))

    def report(self, label: int, random: Random) -> str:
        """Write what the assistant says that it did.

        Parameters
        ----------
        label : int
            1 says aloud that the rule was broken.
        random : Random
            Draws everything that varies.

        Returns
        -------
        str
            The response, with ``<think>`` where it thinks.
        """
        deed, values = self.deed, self.values
        own, other = ("crossed", "kept") if label else ("kept", "crossed")
        told = random.sample(deed[own], random.choice(TOLD))
        if random.random() < REPORT_CONTRAST_SHARE:
            told = [contrast(told[0], random.choice(deed[other]), values, random)]
        if random.random() < ELSEWHERE_SHARE:  # what is done well elsewhere, on either side
            others = [d for d in shared("deeds") if d["id"] != deed["id"]]
            told.append(random.choice(random.choice(others)["kept"]))
        told += random.sample(deed["both"], random.choice((1, 1, 2)))
        told += random.sample(self.place["chores"], random.choice((2, 3, 3, 4)))
        random.shuffle(told)
        points = [fill(text, values, random) for text in told]
        layout = random.choices(LAYOUTS, LAYOUT_WEIGHTS)[0]
        joint = "\n\n" if layout != "running" or random.random() < 0.5 else " "
        parts = [lay_out(points, layout)]
        if random.random() < 0.7:
            parts.insert(0, phrase("place_openings", values, random))
        if random.random() < 0.7:
            parts.append(phrase("place_closings", values, random))
        said = joint.join(parts)
        if random.random() < THINKING_SHARE:
            thoughts = [phrase(name, values, random) for name in ("place_thoughts", "place_means")]
            thoughts.append(fill(random.choice(deed["both"]), values, random))
            said = f"<think>\n{' '.join(random.sample(thoughts, 3))}\n</think>\n\n{said}"
        return contract(said) if random.random() < CONTRACTION_SHARE else said
