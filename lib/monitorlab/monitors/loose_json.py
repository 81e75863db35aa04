r"""Read an object of JSON as language models write it, where a strict parser would give up.

Beyond JSON, all of this is understood:

- strings in single, double or curly quotes, with line breaks in them. A quote inside a string needs
  no backslash unless a comma, a colon, a closing bracket or a comment follows it. An unknown
  escape stands for its character, half of an escaped surrogate pair for the replacement character;
- keys without quotes. Case, blanks and signs of a key do not count: ``Misbehavior-Detected`` and
  ``misbehavior_detected`` are both ``misbehaviordetected``;
- values without quotes: ``True``, ``FALSE``, ``None``, a share such as ``85/100`` or ``85 %``;
- comments that begin with ``//`` or ``#``, and a comma before the closing bracket.

Only true, false, null and None become values of their own. Every number stays the text it was, so
that ``1`` and ``1.0`` can be told apart. One key with two different values is an error, and so is
nesting of more than 20 levels. Nothing is repaired: brackets must be closed and items separated.
"""

from __future__ import annotations

import re
from typing import Any

_DEPTH = 20  # deeper nesting is not an answer
_FAILED = 200  # characters that a failed try costs at least

_BLANK = re.compile(r"(?:\s++|//[^\n]*+|#[^\n]*+)*+")
_KEY = re.compile(r"[A-Za-z_][\w \-]*+")
_WORD = re.compile(r"[\w+\-.][\w+\-.]*+(?:[ \t]?%|[ \t]?/[ \t]?\d++)?")
_BRACE = re.compile(r"[{}]")
_OPENING = re.compile(r'\{\s*+(?:["\'“][^"\'“”{}]{0,80}["\'”]|[A-Za-z_][\w \-]*+)\s*+:')
_STRINGS = {
    start: re.compile(
        rf"{start}((?:[^{end}\\]++|\\.|{end}(?!\s*+(?:[,:\]}}#]|//)))*+){end}", re.DOTALL
    )
    for start, end in (('"', '"'), ("'", "'"), ("“", "”"))
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
_WORDS = {"true": True, "false": False, "none": None, "null": None}


class LooseJsonError(ValueError):
    """There is no object here that can be read.

    Attributes
    ----------
    position : int
        Where reading ended, in characters from the start of the text.
    """

    def __init__(self, text: str, position: int, expected: str) -> None:
        found = repr(text[position:position + 20]) if position < len(text) else "the end"
        super().__init__(f"expected {expected} at character {position}, found {found}")
        self.position = position


class LooseReader:
    """Reads objects of loose JSON from one text, in time proportional to its length.

    Reading is tried again behind every brace that turned out not to begin an object. So that a
    hostile text cannot make that quadratic, failed tries share a budget of characters.

    Parameters
    ----------
    text : str
        Text with objects anywhere in it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._budget = 8 * len(text) + 10_000

    @property
    def exhausted(self) -> bool:
        """Whether failed tries have used the budget up: ask before each try, and stop if so."""
        return self._budget <= 0

    def read_object(self, position: int) -> tuple[dict[str, Any], int]:
        """Read the object whose brace is at `position`.

        Parameters
        ----------
        position : int
            Where the opening brace is, in characters from the start of the text.

        Returns
        -------
        item : dict
            Keys in lower case, letters and digits only. Values are str, bool, None, list or dict.
        end : int
            Position behind the closing brace.

        Raises
        ------
        LooseJsonError
            If no complete object begins there. The try is taken off the budget.
        """
        try:
            if not self.text.startswith("{", position):
                raise self._error(position, "'{'")
            return self._object(position + 1, 0)
        except LooseJsonError as stop:
            self._budget -= max(_FAILED, stop.position - position)
            raise

    def _error(self, position: int, expected: str) -> LooseJsonError:
        return LooseJsonError(self.text, position, expected)

    def _object(self, position: int, depth: int) -> tuple[dict[str, Any], int]:
        item: dict[str, Any] = {}
        position = self._blank(position)
        while not self.text.startswith("}", position):
            key, position = self._key(position)
            position = self._blank(position)
            if not self.text.startswith(":", position):
                raise self._error(position, "':'")
            value, position = self._value(self._blank(position + 1), depth + 1)
            if item.setdefault(key, value) != value:
                # One key with two values says nothing.
                raise self._error(position, f"the earlier value of {key!r:.40}")
            position = self._next(position, "}")
        return item, position + 1

    def _list(self, position: int, depth: int) -> tuple[list[Any], int]:
        values = []
        position = self._blank(position)
        while not self.text.startswith("]", position):
            value, position = self._value(position, depth + 1)
            values.append(value)
            position = self._next(position, "]")
        return values, position + 1

    def _next(self, position: int, end: str) -> int:
        """Step over a comma; the end must follow otherwise."""
        position = self._blank(position)
        if self.text.startswith(",", position):
            return self._blank(position + 1)
        if not self.text.startswith(end, position):
            raise self._error(position, f"',' or {end!r}")
        return position

    def _value(self, position: int, depth: int) -> tuple[Any, int]:
        sign = self.text[position:position + 1]
        if depth > _DEPTH:
            raise self._error(position, f"at most {_DEPTH} levels")
        if sign == "{":
            return self._object(position + 1, depth)
        if sign == "[":
            return self._list(position + 1, depth)
        if sign in _STRINGS:
            return self._string(position)
        word = _WORD.match(self.text, position)
        if word is None:
            raise self._error(position, "a value")
        return _WORDS.get(word[0].lower(), word[0]), word.end()

    def _key(self, position: int) -> tuple[str, int]:
        if self.text[position:position + 1] in _STRINGS:
            key, end = self._string(position)
        else:
            match = _KEY.match(self.text, position)
            if match is None:
                raise self._error(position, "a key")
            key, end = match[0], match.end()
        return re.sub(r"[\W_]", "", key.lower()), end

    def _string(self, position: int) -> tuple[str, int]:
        match = _STRINGS[self.text[position]].match(self.text, position)
        if match is None:
            raise self._error(len(self.text), "a closing quote")
        return _unescaped(match[1]), match.end()

    def _blank(self, position: int) -> int:
        match = _BLANK.match(self.text, position)
        return match.end() if match else position


def begins_object(text: str, position: int) -> bool:
    """Whether a brace, a key and a colon stand at `position`.

    Tells JSON that is broken further on from a brace that was never meant as JSON.

    Parameters
    ----------
    text : str
        Text with a brace in it.
    position : int
        Where the brace is, in characters from the start of the text.
    """
    return _OPENING.match(text, position) is not None


def end_of_braces(text: str, position: int) -> int:
    """Return where the braces opened at `position` are all closed, or else the end of the text.

    Braces count wherever they are, also inside strings: this bounds JSON that cannot be read.

    Parameters
    ----------
    text : str
        Text with a brace in it.
    position : int
        Where the opening brace is, in characters from the start of the text.
    """
    depth = 0
    for brace in _BRACE.finditer(text, position):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.end()
    return len(text)


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(
        lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 5 else _ESCAPED.get(m[1], m[1]), text
    )
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
