"""Responses in prose: slots are drawn, plans are written out, style varies on both sides alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

from monitorlab.benchmark.scenarios import files as scenario_files
from monitorlab.benchmark.scenarios.files import Scenario
from monitorlab.benchmark.scenarios.templates import render

_SENTENCE_START = re.compile(r"(?:\A|(?<=[.!?]\s))([a-z])")
_ABBREVIATION = re.compile(r"(?:\.\.|e\.g|i\.e|vs|etc|approx|no)\.\s\Z", re.IGNORECASE)
_SPACES = re.compile(r"(?<=\S) {2,}")
_LOOSE = re.compile(r" +([,.;:?!])(?=\s|\Z)")
_LETTER = re.compile(r"\b(?:Dear|Yours|[Rr]egards|Hello|Good morning)\b")  # greets by itself
SLOT_TRIES = 20  # two slots of a short list may have to share a value
LAYOUTS = ("running", "bullets", "numbered")
LAYOUT_WEIGHTS = (6, 3, 2)
GREETING_SHARE = 0.12
CONTRACTION_SHARE = 0.5
PARAGRAPH_SHARE = 0.4


def draw_slots(scenario: Scenario, random: Random) -> dict[str, Any]:
    """Give every slot of a scenario a value.

    Parameters
    ----------
    scenario : Scenario
        Slots that draw from one list or pool get different values.
    random : Random
        The pair's own generator.

    Returns
    -------
    dict
        Value by slot.
    """
    drawn: dict[str, Any] = {}
    for name, entry in scenario.get("slots", {}).items():
        values = scenario_files.values_of(entry)
        value = random.choice(values)
        for _ in range(SLOT_TRIES):
            if value not in drawn.values():
                break
            value = random.choice(values)
        drawn[name] = value
    return drawn


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


def _tidy(text: str) -> str:
    """Remove doubled spaces and begin sentences with a capital.

    Parameters
    ----------
    text : str
        Rendered text.

    Returns
    -------
    str
        Tidied text.
    """
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
    shorter = scenario_files.phrases()["contractions"]

    def short(found: re.Match[str]) -> str:
        # "what is on it is new" and "the one that is" keep their verb.
        before = text[: found.start()].rsplit(maxsplit=1)
        kept = before and before[-1].lower() in scenario_files.phrases()["prepositions"]
        return found[0] if kept else str(shorter[found[1]])

    return _long_forms().sub(short, text)


@lru_cache(maxsize=1)
def _long_forms() -> re.Pattern[str]:
    """What can be contracted, only before another word: "as it is." stays as it is."""
    forms = map(re.escape, scenario_files.phrases()["contractions"])
    return re.compile(r"\b(" + "|".join(forms) + r")\b(?= [a-z])")


def lay_out(points: Sequence[str], layout: str) -> str:
    """Write points as running sentences, bullets or a numbered list.

    Parameters
    ----------
    points : sequence of str
        Complete sentences.
    layout : str
        One of `LAYOUTS`.

    Returns
    -------
    str
        One block of text.
    """
    if layout == "bullets":
        return "\n".join(f"- {point}" for point in points)
    if layout == "numbered":
        return "\n".join(f"{i}. {point}" for i, point in enumerate(points, 1))
    return " ".join(points)


def _write_plan(
    parts: Sequence[str | Sequence[str]], values: Mapping[str, Any], random: Random
) -> str:
    """Write out the parts of a plan in order; points within a part come in seeded order.

    Parameters
    ----------
    parts : sequence
        Templates, or lists of templates (points).
    values : mapping
        Slots.
    random : Random
        Draws order, layout and choices.

    Returns
    -------
    str
        The text.
    """
    joint = "\n\n" if random.random() < PARAGRAPH_SHARE else " "
    text = ""
    for part in parts:
        if isinstance(part, str):
            block, listed = fill(part, values, random), False
        else:
            order = random.sample(list(part), len(part))
            layout = random.choices(LAYOUTS, LAYOUT_WEIGHTS)[0]
            block = lay_out([fill(point, values, random) for point in order], layout)
            listed = layout != "running"
        if not text:
            text = block
            continue
        if listed:
            text += ("\n" if text.endswith(":") else "\n\n") + block
        elif "\n- " in text[-400:] or text.splitlines()[-1][:2] in ("- ", "1.", "2.", "3.", "4."):
            text += "\n\n" + block
        else:
            text += joint + block
    return text


def write_response(plan: Any, values: Mapping[str, Any], random: Random) -> tuple[str, bool]:
    """Write one response.

    Parameters
    ----------
    plan : list or mapping
        Parts, or ``think`` and ``say`` with parts each.
    values : mapping
        Slots.
    random : Random
        Draws everything that varies.

    Returns
    -------
    text : str
        The response, with ``<think>`` where the plan thinks.
    thinks : bool
        Whether it shows its thinking.
    """
    thinks = isinstance(plan, Mapping)
    said = _write_plan(plan["say"] if isinstance(plan, Mapping) else plan, values, random)
    if random.random() < GREETING_SHARE and not _LETTER.search(said):
        said = f"{random.choice(scenario_files.phrases()['greetings'])}\n\n{said}"
    if isinstance(plan, Mapping):
        said = wrap_thinking(_write_plan(plan["think"], values, random), said)
    if random.random() < CONTRACTION_SHARE:
        said = contract(said)
    return said, thinks


def wrap_thinking(thought: str, said: str) -> str:
    """Put thinking before what is said.

    Parameters
    ----------
    thought : str
        The thinking.
    said : str
        The answer.

    Returns
    -------
    str
        Both, the thinking between ``<think>`` and ``</think>``.
    """
    return f"<think>\n{thought}\n</think>\n\n{said}"
