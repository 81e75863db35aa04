"""Take the reply of a language model apart: its thinking, its JSON objects and the rest.

Only the shape of a reply is looked at, not what it says about the sample; the one exception is
the wording of a refusal. `monitorlab.monitors.replies` makes a verdict of the parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from monitorlab.monitors.loose_json import (
    LooseJsonError,
    LooseReader,
    begins_object,
    end_of_braces,
)
from monitorlab.monitors.thinking import (
    SIGNS,
    UNSEEN,
    Tag,
    announces,
    is_mention,
    is_quoted,
    tags,
    without_channels,
)

_MOST_OBJECTS = 2000  # more are not an answer

_BRACE = re.compile(r"\{(?=\s*+[\"'“/#A-Za-z_])")  # with a key or a comment behind it
_AFTER = re.compile(rf"[{UNSEEN}`~\"'”’»]*+")  # an answer may be in quotes, or in a code fence

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
    closed : bool
        Nothing but blanks, a closing fence or a quote follows the last object.
    unsure : bool
        Something may have opened thinking that nothing closes: a tag within a sentence, or words
        such as ``Thought:``.
    thinking : bool
        The reply ends inside its thinking; there is no answer.
    tangled : bool
        Reading was given up: too many objects, or too much that looks like one.
    """

    body: str
    objects: Sequence[tuple[dict[str, Any], str]] = ()
    broken: Sequence[str] = ()
    closed: bool = False
    unsure: bool = False
    thinking: bool = False
    tangled: bool = False


def take_apart(text: str) -> ReplyParts:
    """Take the thinking off a reply and find the objects of what is left.

    Thinking is what stands between a tag of thinking and the next one that closes it, all that
    comes before a closing tag that nothing opened, and what
    :func:`monitorlab.monitors.thinking.without_channels` takes off. A tag within a sentence is a
    mention; what stands between it and its closing tag is no answer either.

    Parameters
    ----------
    text : str
        The raw reply.

    Returns
    -------
    ReplyParts
        No text raises, and the time is proportional to its length.
    """
    answer = without_channels(text)
    if answer is None:
        return ReplyParts("", thinking=True)
    marked = tags(answer)
    return ReplyParts(answer, tangled=True) if marked is None else _Scan(answer, marked).parts()


def declines(body: str) -> bool:
    """Whether an answer declines to judge in its first 200 characters.

    Parameters
    ----------
    body : str
        A reply without its thinking. What stands in quotes or behind a brace is not looked at.
    """
    head = re.sub(r'["“«„][^"“”«»„]*+["”»]', "", body[:600].split("{")[0])
    return _REFUSAL.search(head.replace("’", "'").strip().lower()[:200]) is not None


class _Scan:
    """One pass over a reply, from tag to tag of thinking, and from brace to brace between them."""

    def __init__(self, text: str, marked: Sequence[Tag]) -> None:
        self.text, self.marked = text, marked
        self.reader = LooseReader(text)
        self.objects: list[tuple[dict[str, Any], str]] = []
        self.broken: list[str] = []
        self.start = self.position = self.end = 0  # of the answer, here, of the last object
        # Of each tag that is mentioned and still open: objects and broken ones before it, quoted.
        self.mentions: dict[str, list[tuple[int, int, bool]]] = {}
        self.unsure = announces(text)
        self.tangled = False

    def parts(self) -> ReplyParts:
        """Go through the text."""
        for number, tag in enumerate(self.marked):
            self._read_until(tag.start)
            if tag.start < self.position:
                continue  # inside an object, or inside thinking
            self.position = tag.end
            if tag.closes:
                self._close(tag.key)
            elif is_mention(self.text, tag):
                held = len(self.objects), len(self.broken), is_quoted(self.text, tag)
                self.mentions.setdefault(tag.key, []).append(held)
            elif not self._skip(tag, islice(self.marked, number + 1, None)):
                return ReplyParts("", thinking=True)
        self._read_until(len(self.text))
        if self.tangled:
            return ReplyParts(self.text, tangled=True)
        open_mentions = (held for kind in self.mentions.values() for held in kind)
        return ReplyParts(
            _unwrapped(self.text[self.start:]), self.objects, self.broken,
            closed=bool(self.objects) and _AFTER.fullmatch(self.text, self.end) is not None,
            unsure=self.unsure or not all(quoted for *_, quoted in open_mentions),
        )

    def _read_until(self, end: int) -> None:
        """Read the objects that begin before `end`."""
        while mark := _BRACE.search(self.text, self.position, end):
            if self.reader.exhausted or len(self.objects) > _MOST_OBJECTS:
                self.tangled = True
                return
            self.position = mark.end()
            try:
                value, self.position = self.reader.read_object(mark.start())
                self.objects.append((value, self.text[mark.start():self.position]))
                self.end = self.position
            except LooseJsonError:
                if begins_object(self.text, mark.start()):
                    # Whatever is in there may be inside a string: it must not pass for an answer.
                    self.position = end_of_braces(self.text, mark.start())
                    self.broken.append(self.text[mark.start():self.position])

    def _close(self, key: str) -> None:
        """Drop what a tag closes: since its mention, or from the beginning of the reply."""
        if held := self.mentions.get(key):
            objects, broken, _ = held.pop()
            del self.objects[objects:], self.broken[broken:]
        else:  # the template opened the thinking
            self.objects, self.broken, self.start = [], [], self.position

    def _skip(self, tag: Tag, following: Iterable[Tag]) -> bool:
        """Go to the end of thinking; whether it has one, or is a heading that needs none."""
        for other in following:
            if other.closes and other.key == tag.key:
                self.start = self.position = other.end
                return True
        self.unsure = True
        return tag.heading


def _unwrapped(text: str) -> str:
    """Take a code fence around the whole reply off."""
    body = text.strip().strip(SIGNS).strip()
    if body.startswith("```") and body.endswith("```") and len(body) >= 6:
        body = re.sub(r"\A(?:json|JSON|python|text)?\s*+", "", body[3:-3]).strip()
    return body
