"""Where a reply of a language model thinks: tags of many spellings, channels, and bare words.

No list of tags is ever complete, so their shape counts: a tag with a word of thinking in its name
opens it, whatever else is in the name or behind it, such as ``<think>``, ``<seed:think>``,
``[THINK]``, ``<|START_THINKING|>``, ``◁think▷`` and ``<reasoning effort="high">``. The tag of the
same name with a slash, or with "end" in it, closes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from monitorlab.monitors.verdicts import WORDING, pattern

_MOST_TAGS = 2000  # more are not thinking
# Signs that are not seen: byte order mark, soft hyphen, zero width, direction.
SIGNS = "\ufeff\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064"
UNSEEN = rf"\s{SIGNS}"  # and blanks, in brackets of a pattern
_TAG = pattern("thinking", "tag", re.I)
_BEGIN = frozenset({"begin", "start", "open", "of", "prefix"})
_END = frozenset({"end", "close", "stop", "suffix"})
_STEM = re.compile(r"(think|thought|reason|reflect)(?:ings?|s|ion)\Z")

_GOES_ON = re.compile(r"[\w,;'’\-–—/]\Z")
_QUOTES = frozenset("\"'`“”‘’„«»()")

_CHANNEL = re.compile(r"<\|channel\|>\s*+(\w++)[^<]*+(?:<\|constrain\|>[^<]*+)?<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_ONLY_PREFIX = pattern("thinking", "prefix")
_BARE, _BARE_END = pattern("thinking", "bare", re.M), pattern("thinking", "bare_end", re.I)
ANNOUNCED = pattern("thinking", "announced", re.I)  # how a reply begins that thinks aloud


@dataclass(frozen=True)
class Tag:
    """A tag of thinking.

    Attributes
    ----------
    start, end : int
        Where it is, in characters from the start of the text.
    key : str
        Equal for the two tags of a pair.
    closes : bool
        Whether it ends thinking.
    heading : bool
        It may be a heading in square brackets just as well, such as ``[Analysis]``.
    """

    start: int
    end: int
    key: str
    closes: bool
    heading: bool

    @classmethod
    def find(cls, text: str) -> list[Tag] | None:
        """Return the tags of thinking in a text, in order; None if there are too many."""
        found: list[Tag] = []
        for match in _TAG.finditer(text):
            if len(found) == _MOST_TAGS:
                return None
            if not match[0].rstrip(">＞▷|｜ ").endswith("/"):  # <think/> is empty
                key, closes = _key(match["name"] or match["square"])
                chief = re.search(WORDING["parts"]["THOUGHT"], key)
                heading = match["name"] is None and chief is None
                found.append(cls(match.start(), match.end(), key, closes, heading))
        return found

    @classmethod
    def opened_by(cls, prompt: str) -> str:
        """Return the tag of thinking that a prompt ends with; empty if there is none."""
        tail = prompt[-200:].rstrip()
        for tag in (cls.find(tail) or [])[-1:]:
            if tag.end == len(tail) and not tag.closes:
                return tail[tag.start:]
        return ""

    def is_mention(self, text: str) -> bool:
        """Whether it stands within a sentence of its text, and not where a reply would think.

        That is: behind a word of the same line, or behind a quotation mark. At the beginning of the
        reply, behind the name of a role, on a new line and behind the end of a sentence it opens
        thinking.
        """
        before = text[max(0, self.start - 60):self.start]
        if _ONLY_PREFIX.fullmatch(before):
            return False
        return before[-1] in _QUOTES or _GOES_ON.search(before.rstrip(" \t")) is not None

    def is_quoted(self, text: str) -> bool:
        """Whether it stands between quotation marks of its text, such as backticks."""
        return text[self.start - 1:self.start] in _QUOTES and text[self.end:self.end + 1] in _QUOTES


@lru_cache(maxsize=1024)
def _key(name: str) -> tuple[str, bool]:
    """Name of a tag without what tells its two ends apart, and whether it is the closing one."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word]
    closes = name.startswith("/") or not _END.isdisjoint(words)
    return "".join(_STEM.sub(r"\1", word) for word in words if word not in _BEGIN | _END), closes


def without_channels(text: str) -> str | None:
    """Take off thinking that no tags mark: channels, and words such as ``analysis`` at the front.

    Parameters
    ----------
    text : str
        The raw reply.

    Returns
    -------
    str or None
        The last final channel of a harmony reply; what stands behind the end of thinking that a
        bare word began; other replies as they are. None if the thinking never ends.
    """
    channels = list(_CHANNEL.finditer(text))
    final = [found.end() for found in channels if found[1] == "final"]
    if final:
        return _CHANNEL_END.split(text[final[-1]:], maxsplit=1)[0]
    if channels:
        return None
    begin = _BARE.search(text, 0, text.find("{") if "{" in text else len(text))
    if begin is None:
        return text
    ends = [found.end() for found in _BARE_END.finditer(text, begin.end())]
    return text[ends[-1]:] if ends else None


def split_thinking(text: str) -> tuple[str, str]:
    """Split a text into what it thinks and what it answers.

    Thinking is what stands between a tag of thinking and the one that closes it, all that comes
    before a closing tag that nothing opened, and what `without_channels` takes off. A tag within a
    sentence is a mention, and a heading in square brackets thinks only up to a tag that closes it.

    Parameters
    ----------
    text : str
        A response, or a raw reply.

    Returns
    -------
    thinking, answer : str
        Without blanks around them; several stretches of thinking are joined by a blank line. A text
        that never ends its thinking has no answer.
    """
    final = without_channels(text)
    if final is None:
        return text.strip(), ""
    thoughts, answers = [text[: text.rindex(final)]], [""]
    marked, at = Tag.find(final) or [], 0
    mentioned: set[str] = set()
    for number, tag in enumerate(marked):
        if tag.start < at:
            continue
        end = next((other for other in marked[number + 1:]
                    if other.closes and other.key == tag.key), None)
        if tag.closes:
            if tag.key in mentioned or tag.is_quoted(final):
                continue
            thoughts += [*answers, final[at:tag.start]]  # a chat template opened it
            answers, at = [], tag.end
        elif tag.is_mention(final):
            mentioned.add(tag.key)
        elif end is not None or not tag.heading:
            answers.append(final[at:tag.start])
            thoughts.append(final[tag.end:end.start if end else len(final)])
            at = end.end if end else len(final)
    thinking = "\n\n".join(part.strip() for part in thoughts if part.strip())
    return thinking, "".join([*answers, final[at:]]).strip()
