"""Tables as escaped HTML and as plain text; text from strangers is shown, not obeyed.

HTML and Markdown inside a value end up as the characters they are made of.
"""

from __future__ import annotations

import html
import math
import re
import string
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd


def _escape_markdown(text: str) -> str:
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
        return _escape_markdown(text)


DASH = "–"
P_VALUE = re.compile(r"p(_\w+)?")  # columns that hold p-values: "p", "p_holm"
SMALLEST_P = 0.001
CELL_TITLES = {
    "spv_code": "S&PV code", "spv_qa": "S&PV QA", "syco_qa": "Syco QA",
    "syco_reasoning": "Syco reasoning", "sg_code": "SG code", "sg_qa": "SG QA",
}  # fmt: skip
P_DECIMALS = 3
CELL = "text-align: {side}; padding: 2px 7px;"
ON_ONE_LINE = 24  # characters; a column of cells this short, such as "0.42 (0.34 to 0.50)", is kept


def cell_titles(cells: Iterable[str]) -> dict[str, str]:
    """Return titles of the cells that occur: the benchmark's in its order, then others by name."""
    there = set(cells)
    known = {cell: title for cell, title in CELL_TITLES.items() if cell in there}
    return known | {cell: cell for cell in sorted(there - set(known))}


class Column:
    """One column of a table: header, formatted cells, side and style."""

    def __init__(self, values: pd.Series, decimals: int) -> None:
        self.header = str(values.name)
        write = _format_p if P_VALUE.fullmatch(self.header) else _format_value
        self.cells = [write(value, decimals) for value in values]
        # a column of Python objects is aligned by what it holds
        held = values.infer_objects() if values.dtype == object else values
        self.numeric = pd.api.types.is_numeric_dtype(held) and not pd.api.types.is_bool_dtype(held)
        self.side = "right" if self.numeric else "left"
        short = all(len(cell) <= ON_ONE_LINE for cell in self.cells)
        self.style = CELL.format(side=self.side) + (" white-space: nowrap;" if short else "")


def _format_value(value: object, decimals: int) -> str:
    """Return a cell's text: fixed decimals for floats, a dash for what is missing."""
    if value is None or value is pd.NA or value is pd.NaT:
        return DASH
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return DASH
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        text = f"{value:.{decimals}f}"
        return text.removeprefix("-") if float(text) == 0 else text  # no "-0.00"
    return str(value)


def _format_p(value: object, decimals: int) -> str:
    """Return the text of a p-value: "< .001" below that, and three decimals or more elsewhere.

    No p-value is 0, so none may read "0.000".
    """
    if isinstance(value, (float, np.floating)) and value < SMALLEST_P:
        return f"< {SMALLEST_P:.{P_DECIMALS}f}".replace("0.", ".")
    return _format_value(value, max(decimals, P_DECIMALS))


def html_table(columns: Sequence[Column], rows: int, caption: str | None) -> str:
    """Return an HTML table in which every cell, header and caption is escaped."""
    def cell(tag: str, column: Column, text: str) -> str:
        kind = ' class="number"' if column.numeric else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f'<{tag}{scope}{kind} style="{column.style}">{html.escape(text)}</{tag}>'

    lines = ['<table class="monitorlab">']
    if caption:
        lines.append(f'<caption style="text-align: left;">{html.escape(caption)}</caption>')
    header = "".join(cell("th", column, column.header) for column in columns)
    lines.append(f"<thead><tr>{header}</tr></thead>")
    lines.append("<tbody>")
    for i in range(rows):
        cells = "".join(cell("td", column, column.cells[i]) for column in columns)
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody></table>")
    return "\n".join(lines)


def plain_table(columns: Sequence[Column], rows: int, caption: str | None) -> str:
    """Return the table as aligned text."""
    lines = [caption] if caption else []
    texts = [[column.header, *map(flat, column.cells)] for column in columns]
    widths = [max(map(len, column)) for column in texts]
    for i in range(rows + 1):
        cells = [
            text[i].rjust(width) if column.numeric else text[i].ljust(width)
            for text, width, column in zip(texts, widths, columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
