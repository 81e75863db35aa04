"""Take the reply of a language model apart: its thinking, its JSON objects and the rest.

Only the shape of a reply is looked at, not what it says about the sample; the one exception is
the wording of a refusal. `monitorlab.monitors.replies` makes a verdict of the parts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitorlab.monitors.loose_json import (
    LooseJsonError,
    LooseReader,
    begins_object,
    end_of_braces,
)

_MOST_OBJECTS = 2000  # more are not an answer

_THINK = r"(?:think|thinking|thought|reasoning)"
# A brace that may begin an object, with a key or a comment behind it, or a thinking tag.
_MARK = re.compile(rf"\{{(?=\s*+[\"'“/#A-Za-z_])|[<\[]\s?(/?)\s?{_THINK}\s?[>\]]", re.I)
_CLOSER = re.compile(rf"[<\[]\s?/\s?{_THINK}\s?[>\]]", re.I)
_CHANNEL = re.compile(r"<\|channel\|>\s*+(\w++)[^<]*+(?:<\|constrain\|>[^<]*+)?<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_SPACE = re.compile(r"\s*+")

_HELP = (
    "(?:help|assist|comply|fulfil|provide|do that|do this|continue|engage|support|participate|"
    "process|judge|evaluate|audit|assess|review|answer|respond|discuss|take part|complete)"
)
_REFUSALS = (
    r"\bi(?: am|'m) (?:\w+ )?sorry\b[,.]? (?:but|i)\b",
    r"^(?:sorry|apologies)\b[,.]",
    r"\bi (?:can't|cannot|can not|won't|will not|(?:must |have to )?decline to) (?:\w+ )?" + _HELP,
    r"\bi(?: am|'m) (?:unable|not able|not allowed) to (?:\w+ )?" + _HELP,
    r"\bi (?:must|have to) decline\b",
    r"\bagainst (?:my|our) (?:guidelines|polic)",
    r"\bviolates? (?:our|the) \w+ polic",
    r"\btut mir leid|\bich kann (?:\w+ ){0,3}nicht (?:weiter)?helfen",
    r"\bje suis (?:vraiment )?désolée?\b|^désolée?\b|\bje ne peux pas (?:\w+ ){0,2}aider",
    r"\blo siento\b|\bno puedo (?:ayudar|cumplir|continuar)",
    r"^(?:me )?desculpe\b|\bnão posso ajudar|\bmi dispiace\b|\bnon posso aiutar",
    r"\bhet spijt me\b|\bprzykro mi\b|^przepraszam\b|\büzgünüm\b",
    r"^(?:извините|простите)\b|\bя не могу (?:\w+ ){0,2}(?:помочь|выполнить)",
    r"抱歉|对不起|我(?:无法|不能)(?:协助|帮助|提供|完成|回答|满足)",
    r"申し訳|お(?:手伝い|答え)できません|죄송|도와드릴 수 없|^عذر|क्षमा करें",
)
_REFUSAL = re.compile("|".join(_REFUSALS))


@dataclass(frozen=True)
class ReplyParts:
    """What a reply consists of once its thinking is taken off.

    Attributes
    ----------
    body : str
        The answer, without blanks and a code fence around it.
    objects : sequence of (dict, str)
        The objects of the answer, outermost only, in order, each with the text it was read from.
    broken : sequence of str
        Texts that begin like an object and cannot be read as one.
    thinking : bool
        The reply ends inside its thinking; there is no answer.
    tangled : bool
        Reading was given up: too many objects, or too much that looks like one.
    """

    body: str
    objects: Sequence[tuple[dict[str, Any], str]] = ()
    broken: Sequence[str] = ()
    thinking: bool = False
    tangled: bool = False


def take_apart(text: str) -> ReplyParts:
    """Take the thinking off a reply and find the objects of what is left.

    Thinking is ``<think>...</think>`` and its relatives at the beginning of the reply, all that
    comes before a closing tag that nothing opened, and every harmony channel but the last
    ``final`` one.

    Parameters
    ----------
    text : str
        The raw reply.

    Returns
    -------
    ReplyParts
        No text raises, and the time is proportional to its length.
    """
    return _parts(_final_channel(text))


def declines(body: str) -> bool:
    """Whether an answer declines to judge in its first 200 characters.

    Parameters
    ----------
    body : str
        A reply without its thinking. What stands in quotes or behind a brace is not looked at.
    """
    head = re.sub(r'["“«„][^"“”«»„]*+["”»]', "", body[:600].split("{")[0])
    return _REFUSAL.search(head.replace("’", "'").strip().lower()[:200]) is not None


def _final_channel(text: str) -> str:
    """Keep the last final channel of a harmony reply; thinking alone becomes an open tag."""
    channels = list(_CHANNEL.finditer(text))
    final = [match.end() for match in channels if match[1] == "final"]
    if final:
        return _CHANNEL_END.split(text[final[-1]:], maxsplit=1)[0]
    if channels:
        return "<think>"
    if re.match(r"analysis(?=[A-Z])", text):  # a decoder took the marks off
        before, _, last = text.rpartition("assistantfinal")
        return last if before else "<think>"
    return text


def _parts(text: str) -> ReplyParts:
    reader = LooseReader(text)
    objects: list[tuple[dict[str, Any], str]] = []
    broken: list[str] = []
    start = position = mentioned = 0
    while mark := _MARK.search(text, position):
        if reader.exhausted or len(objects) > _MOST_OBJECTS:
            return ReplyParts(text, tangled=True)
        position = mark.end()
        if mark[0] == "{":
            try:
                value, position = reader.read_object(mark.start())
                objects.append((value, text[mark.start():position]))
            except LooseJsonError:
                if begins_object(text, mark.start()):
                    # Whatever is in there may be inside a string: it must not pass for an answer.
                    position = end_of_braces(text, mark.start())
                    broken.append(text[mark.start():position])
        elif mark[1]:
            if mentioned:
                mentioned -= 1
            else:  # the template opened the thinking: all that came before belongs to it
                objects, broken, start = [], [], position
        elif (blank := _SPACE.match(text, start)) and blank.end() == mark.start():
            closer = _CLOSER.search(text, position)
            if closer is None:
                return ReplyParts("", thinking=True)
            start = position = closer.end()
        else:
            mentioned += 1
    return ReplyParts(_unwrapped(text[start:]), objects, broken)


def _unwrapped(text: str) -> str:
    """Take a code fence around the whole reply off."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and len(body) >= 6:
        body = re.sub(r"\A(?:json|JSON|python|text)?\s*+", "", body[3:-3]).strip()
    return body
