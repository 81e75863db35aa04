"""Tables as escaped HTML and as plain text; text from strangers is shown, not obeyed.

HTML and Markdown inside a value end up as the characters they are made of.
"""

from __future__ import annotations

import html
import math
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

DASH = "–"
P_VALUE = re.compile(r"p(_\w+)?")  # columns that hold p-values: "p", "p_holm"
SMALLEST_P = 0.001
P_DECIMALS = 3
CELL_TITLES = {
    "spv_code": "S&PV code", "spv_qa": "S&PV QA", "syco_qa": "Syco QA",
    "syco_reasoning": "Syco reasoning", "sg_code": "SG code", "sg_qa": "SG QA",
}  # fmt: skip
CELL = "text-align: {side}; padding: 2px 7px;"
ON_ONE_LINE = 24  # characters; a column of cells this short, such as "0.42 (0.34 to 0.50)", is kept


def cell_titles(cells: Iterable[str]) -> dict[str, str]:
    """Return titles of the cells that occur: the benchmark's in its order, then others by name."""
    there = set(cells)
    known = {cell: title for cell, title in CELL_TITLES.items() if cell in there}
    return known | {cell: cell for cell in sorted(there - set(known))}


def flat(text: str) -> str:
    """Return the text on one line, without control characters."""
    return "".join(sign for sign in re.sub(r"\s+", " ", text) if sign.isprintable())


def _in_words(value: Any, spec: str, missing: str) -> str | None:
    """Return what a value that is no text reads like; numbers follow a specification."""
    if value is None or value is pd.NA or value is pd.NaT:
        return missing
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if not isinstance(value, (int, float, np.integer, np.floating)):
        return None
    if not math.isfinite(value):
        return missing if math.isnan(value) else "∞" if value > 0 else "-∞"
    text = format(value, spec)
    return text.removeprefix("-") if re.fullmatch(r"-0(\.0*)?%?", text) else text  # no "-0.00"


@dataclass(frozen=True)
class Sentence(string.Formatter):
    """`str.format` for values that come from data.

    Attributes
    ----------
    markdown : bool
        Whether text becomes Markdown that shows it literally; else it is put on one line.
    """

    markdown: bool

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        """Refuse `!r` and the like."""
        if conversion:
            raise ValueError(f"'!{conversion}' is not supported here: values are formatted by type")
        return value

    def format_field(self, value: Any, format_spec: str) -> str:
        """Format numbers by their specification and everything else as literal text."""
        words = _in_words(value, format_spec, "undefined")
        if words is not None:
            return words
        if isinstance(value, (list, tuple, np.ndarray)):
            return ", ".join(self.format_field(item, format_spec) for item in value)
        text = flat(format(str(value), format_spec))
        if not self.markdown:
            return text
        # An entity never counts as markup, neither for Markdown nor for HTML, so nothing has to be
        # known about the dialect.
        return "".join(f"&#{ord(sign)};" if sign in string.punctuation else sign for sign in text)


class _Column:
    """One column of a table: header, formatted cells, side and style."""

    def __init__(self, values: pd.Series, decimals: int) -> None:
        self.header = str(values.name)
        write = _format_p if P_VALUE.fullmatch(self.header) else _format_value
        self.cells = [write(value, decimals) for value in values]
        # a column of Python objects is aligned by what it holds
        held = values.infer_objects() if values.dtype == object else values
        self.numeric = pd.api.types.is_numeric_dtype(held) and not pd.api.types.is_bool_dtype(held)
        short = all(len(cell) <= ON_ONE_LINE for cell in self.cells)
        self.style = CELL.format(side="right" if self.numeric else "left") + (
            " white-space: nowrap;" if short else "")


def _format_value(value: object, decimals: int) -> str:
    """Return a cell's text: fixed decimals for floats, a dash for what is missing."""
    spec = f".{decimals}f" if isinstance(value, (float, np.floating)) else ""
    words = _in_words(value, spec, DASH)
    return str(value) if words is None else words


def _format_p(value: object, decimals: int) -> str:
    """Return the text of a p-value: "< .001" below that, and three decimals or more elsewhere.

    No p-value is 0, so none may read "0.000".
    """
    if isinstance(value, (float, np.floating)) and value < SMALLEST_P:
        return f"< {SMALLEST_P:.{P_DECIMALS}f}".replace("0.", ".")
    return _format_value(value, max(decimals, P_DECIMALS))


class Table:
    """A frame as a table; its index is not shown.

    Parameters
    ----------
    frame : DataFrame
        Any values; missing ones are a dash.
    decimals : int or mapping of column to int
        Decimals of the float columns; a column that a mapping leaves out gets 3.
    caption : str
        Sentence above the table.

    Raises
    ------
    ValueError
        If `decimals` names a column that the frame does not have.
    """

    def __init__(self, frame: pd.DataFrame, decimals: int | Mapping[str, int] = 3,
                 caption: str = "") -> None:
        named = decimals if isinstance(decimals, Mapping) else {}
        if unknown := [str(name) for name in named if name not in frame.columns]:
            raise ValueError(f"decimals names column {unknown[0]!r}, the table has "
                             f"{', '.join(map(str, frame.columns))}")
        default = 3 if isinstance(decimals, Mapping) else decimals
        self._columns = [_Column(frame.iloc[:, i], named.get(name, default))
                         for i, name in enumerate(frame.columns)]
        self._rows, self._caption = len(frame), caption

    def html(self) -> str:
        """Return an HTML table in which every cell, header and caption is escaped."""
        def cell(tag: str, column: _Column, text: str) -> str:
            kind = ' class="number"' if column.numeric else ""
            scope = ' scope="col"' if tag == "th" else ""
            return f'<{tag}{scope}{kind} style="{column.style}">{html.escape(text)}</{tag}>'

        lines = ['<table class="monitorlab">']
        if self._caption:
            caption = html.escape(self._caption)
            lines.append(f'<caption style="text-align: left;">{caption}</caption>')
        header = "".join(cell("th", column, column.header) for column in self._columns)
        lines += [f"<thead><tr>{header}</tr></thead>", "<tbody>"]
        for i in range(self._rows):
            cells = "".join(cell("td", column, column.cells[i]) for column in self._columns)
            lines.append(f"<tr>{cells}</tr>")
        return "\n".join([*lines, "</tbody></table>"])

    def text(self) -> str:
        """Return the table as aligned text."""
        aligned = []
        for column in self._columns:
            texts = [column.header, *map(flat, column.cells)]
            width = max(map(len, texts))
            aligned.append([text.rjust(width) if column.numeric else text.ljust(width)
                            for text in texts])
        lines = ["  ".join(cells).rstrip() for cells in zip(*aligned, strict=True)]
        return "\n".join([self._caption, *lines] if self._caption else lines)
