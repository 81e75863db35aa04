"""Text from strangers: shown, not obeyed.

HTML and Markdown inside a value end up as the characters they are made of.
"""

from __future__ import annotations

import math
import re
import string
from typing import Any

import numpy as np
import pandas as pd


def escape_markdown(text: str) -> str:
    """Return Markdown that shows `text` literally, on one line.

    Every ASCII sign becomes a numeric entity: an entity never counts as markup, neither for
    Markdown nor for HTML, so nothing has to be known about the dialect.
    """
    return "".join(
        f"&#{ord(sign)};" if sign in string.punctuation else sign for sign in flat(text)
    )


def flat(text: str) -> str:
    """Return the text on one line, without control characters."""
    return "".join(sign for sign in re.sub(r"\s+", " ", text) if sign.isprintable())


class Plain(string.Formatter):
    """`str.format` for values that come from data."""

    def literal(self, text: str) -> str:
        """Return text as it may stand in the output."""
        return flat(text)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        """Refuse `!r` and the like."""
        if conversion:
            raise ValueError(f"'!{conversion}' is not supported here: values are formatted by type")
        return value

    def format_field(self, value: Any, format_spec: str) -> str:
        """Format numbers by their specification and everything else as literal text."""
        if isinstance(value, (bool, np.bool_)):
            return "yes" if value else "no"
        if value is None or value is pd.NA or value is pd.NaT:
            return "undefined"
        if isinstance(value, (int, float, np.integer, np.floating)):
            if not math.isfinite(value):
                return "undefined" if math.isnan(value) else ("∞" if value > 0 else "-∞")
            text = format(value, format_spec)
            return text.removeprefix("-") if re.fullmatch(r"-0(\.0*)?%?", text) else text
        if isinstance(value, (list, tuple, np.ndarray)):
            return ", ".join(self.format_field(item, format_spec) for item in value)
        return self.literal(format(str(value), format_spec))


class Escaping(Plain):
    """The same, with text turned into harmless Markdown."""

    def literal(self, text: str) -> str:
        """Return text as Markdown that shows it."""
        return escape_markdown(text)
