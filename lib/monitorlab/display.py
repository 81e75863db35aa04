"""What notebooks call to show things: figures, tables, sentences, progress, a headline.

Everything here treats values as text from strangers. HTML and Markdown in a value are shown, not
obeyed. Every output also has a plain-text form, which is what a regression test compares.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
import string
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from monitorlab.pipeline.artifacts import Run, write_file_atomic, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Item = TypeVar("Item")
DASH = "–"
PIXELS_PER_INCH = 96  # a CSS inch; the PNG has twice as many, so it is crisp on a dense screen
CELL = "text-align: {side}; padding: 2px 10px;"
FIGURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

_run: Run | None = None


def use(run: Run) -> None:
    """Make `run` the one whose folder `show` and `headline` write to."""
    global _run
    _run = run


def current_run() -> Run:
    """Return the run given to `use`.

    Raises
    ------
    RuntimeError
        If `use` has not been called.
    """
    if _run is None:
        raise RuntimeError("no run yet: call display.use(run) in the cell that opens the run")
    return _run


# Figures ------------------------------------------------------------------------------------


def show(fig: Figure, name: str, alt: str, thumbnail: bool = False) -> None:
    """Save a figure as SVG and PNG in the run's `figures` folder, show it and close it.

    Parameters
    ----------
    fig : Figure
        Closed afterwards, so that it appears once.
    name : str
        File name without ending, letters, digits, `_` and `-`.
    alt : str
        What the figure shows, for readers who cannot see it. Must not be empty.
    thumbnail : bool
        Whether this figure stands for the notebook on the index page; the first figure does
        when none is marked.

    Raises
    ------
    ValueError
        For an empty `alt` or a name that is not a plain file name.
    """
    if not alt.strip():
        raise ValueError(f"figure {name!r} has no alt text: say in a sentence what it shows")
    if not FIGURE_NAME.fullmatch(name):
        raise ValueError(f"figure name {name!r}: expected letters, digits, '_' or '-'")
    folder = current_run().folder / "figures"
    picture = _rendered(fig, name, "png")
    for ending, data in (("svg", _rendered(fig, name, "svg")), ("png", picture)):
        with write_file_atomic(folder / f"{name}.{ending}") as path:
            path.write_bytes(data)
    _record_figure(name, alt, thumbnail)
    _close(fig)
    width, height = struct.unpack(">II", picture[16:24])  # PNG header: IHDR width, height
    size = {"alt": alt, "width": width // 2, "height": height // 2}
    _display({"image/png": picture, "text/plain": f"[figure {name}: {alt}]"}, {"image/png": size})


def _rendered(fig: Figure, name: str, kind: str) -> bytes:
    """Return the same bytes for the same figure: no date, no random element names."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    note = {"Date": None} if kind == "svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": name}):
        fig.savefig(buffer, format=kind, dpi=2 * PIXELS_PER_INCH, bbox_inches="tight",
                    metadata=note)
    return buffer.getvalue()


def _close(fig: Figure) -> None:
    from matplotlib import pyplot

    pyplot.close(fig)


def _record_figure(name: str, alt: str, thumbnail: bool) -> None:
    """Keep `figures.json`: name, alt text and thumbnail mark of each figure, in order."""
    path = current_run().folder / "figures" / "figures.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    entry = {"name": name, "alt": alt, "thumbnail": thumbnail}
    if name in [figure["name"] for figure in figures]:
        figures = [entry if figure["name"] == name else figure for figure in figures]
    else:
        figures.append(entry)
    write_text_atomic(path, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def headline(value: str, caption: str) -> None:
    """Record the one number that the index page shows for this notebook.

    Parameters
    ----------
    value : str
        The number, formatted, with its unit: "0.91".
    caption : str
        What it is, in a few words.
    """
    if not value.strip() or not caption.strip():
        raise ValueError(f"headline ({value!r}, {caption!r}): neither part may be empty")
    text = json.dumps({"value": value, "caption": caption}, ensure_ascii=False) + "\n"
    write_text_atomic(current_run().folder / "headline.json", text)


# Tables -------------------------------------------------------------------------------------


def table(frame: pd.DataFrame, decimals: int | Mapping[str, int] = 3, caption: str | None = None,
          bold: Mapping[str, str] | None = None, units: Mapping[str, str] | None = None) -> None:
    """Show a frame as a table, with stated decimals and everything escaped.

    Parameters
    ----------
    frame : DataFrame
        Shown as it is; the index only when it has a name. Missing values are a dash.
    decimals : int or mapping of column to int
        Decimals of the float columns; a column that a mapping leaves out gets 3.
    caption : str, optional
        Sentence above the table.
    bold : mapping of column to "min" or "max", optional
        Columns whose best value is set in bold (marked `*` in plain text).
    units : mapping of column to str, optional
        Unit put in the column's header.

    Raises
    ------
    ValueError
        If a mapping names a column that the frame does not have.
    """
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    named = decimals if isinstance(decimals, Mapping) else {}
    bold, units = bold or {}, units or {}
    for what, mapping in (("decimals", named), ("bold", bold), ("units", units)):
        unknown = [str(name) for name in mapping if name not in frame.columns]
        if unknown:
            raise ValueError(f"{what} names column {unknown[0]!r}, the table has "
                             f"{', '.join(map(str, frame.columns))}")
    default = 3 if isinstance(decimals, Mapping) else decimals
    columns = [
        _Column(frame.iloc[:, i], named.get(name, default), bold.get(name), units.get(name))
        for i, name in enumerate(frame.columns)
    ]
    _display({"text/html": _html_table(columns, len(frame), caption),
              "text/plain": _plain_table(columns, len(frame), caption)})


class _Column:
    """One column of a table: header, formatted cells, side and which cells are bold."""

    def __init__(self, values: pd.Series, decimals: int, bold: str | None, unit: str | None):
        self.header = f"{values.name} ({unit})" if unit else str(values.name)
        self.cells = [format_value(value, decimals) for value in values]
        # a column of Python objects is aligned by what it holds
        held = values.infer_objects() if values.dtype == object else values
        self.numeric = pd.api.types.is_numeric_dtype(held) and not pd.api.types.is_bool_dtype(held)
        self.side = "right" if self.numeric else "left"
        self.bold = [False] * len(self.cells)
        if bold is not None:
            self._mark_best(values, bold)

    def _mark_best(self, values: pd.Series, bold: str) -> None:
        if bold not in ("min", "max"):
            raise ValueError(f"bold of column {values.name!r} is {bold!r}: expected 'min' or 'max'")
        best = values.min() if bold == "min" else values.max()
        if not pd.isna(best):
            shown = self.cells[list(values == best).index(True)]
            self.bold = [cell == shown for cell in self.cells]  # equal as shown, equally bold


def format_value(value: object, decimals: int) -> str:
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


def _html_table(columns: Sequence[_Column], rows: int, caption: str | None) -> str:
    def cell(tag: str, column: _Column, text: str, strong: bool = False) -> str:
        inner = html.escape(text)
        kind = ' class="number"' if column.numeric else ""
        inner = f"<strong>{inner}</strong>" if strong else inner
        return f'<{tag}{kind} style="{CELL.format(side=column.side)}">{inner}</{tag}>'

    lines = ['<table class="monitorlab">']
    if caption:
        lines.append(f'<caption style="text-align: left;">{html.escape(caption)}</caption>')
    header = "".join(cell("th", column, column.header) for column in columns)
    lines.append(f"<thead><tr>{header}</tr></thead>")
    lines.append("<tbody>")
    for i in range(rows):
        cells = "".join(cell("td", column, column.cells[i], column.bold[i]) for column in columns)
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody></table>")
    return "\n".join(lines)


def _plain_table(columns: Sequence[_Column], rows: int, caption: str | None) -> str:
    lines = [caption] if caption else []
    texts = [
        [column.header] + [_flat(cell) + "*" * strong
                           for cell, strong in zip(column.cells, column.bold, strict=True)]
        for column in columns
    ]
    widths = [max(map(len, column)) for column in texts]
    for i in range(rows + 1):
        cells = [
            text[i].rjust(width) if column.numeric else text[i].ljust(width)
            for text, width, column in zip(texts, widths, columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# Sentences ----------------------------------------------------------------------------------


def say(template: str, **values: object) -> None:
    """Show a sentence in Markdown whose numbers and names come from a run.

    Parameters
    ----------
    template : str
        Markdown written by the author, with `{name}` or `{name:.2f}` where a value goes.
    **values
        Numbers are formatted by their specification (NaN reads "undefined"); text is escaped,
        so it can be neither HTML nor Markdown; a list becomes its items with commas.
    """
    _display({"text/markdown": _Escaping().vformat(template, (), values),
              "text/plain": _Plain().vformat(template, (), values)})


def escape_markdown(text: str) -> str:
    """Return Markdown that shows `text` literally, on one line.

    Every ASCII sign becomes a numeric entity: an entity never counts as markup, neither for
    Markdown nor for HTML, so nothing has to be known about the dialect.
    """
    return "".join(
        f"&#{ord(sign)};" if sign in string.punctuation else sign for sign in _flat(text)
    )


def _flat(text: str) -> str:
    """Return the text on one line, without control characters."""
    return "".join(sign for sign in re.sub(r"\s+", " ", text) if sign.isprintable())


class _Plain(string.Formatter):
    """`str.format` for values that come from data."""

    def literal(self, text: str) -> str:
        return _flat(text)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion:
            raise ValueError(f"'!{conversion}' is not supported here: values are formatted by type")
        return value

    def format_field(self, value: Any, format_spec: str) -> str:
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


class _Escaping(_Plain):
    """The same, with text turned into harmless Markdown."""

    def literal(self, text: str) -> str:
        return escape_markdown(text)


# Progress -----------------------------------------------------------------------------------


def progress(iterable: Iterable[Item], desc: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar, in a terminal or in a notebook.

    Parameters
    ----------
    iterable : iterable
        What to go through.
    desc : str
        What is being done, in a few words.
    total : int, optional
        Number of items, when the iterable cannot tell.

    Yields
    ------
    item
        The items of `iterable`, in order.

    Notes
    -----
    In a notebook the bar is a widget, replaced at the end by one line of text that holds no
    time, so stderr stays empty and a saved notebook says the same every time. In a terminal
    the bar goes to stderr, and only if that is a screen.
    """
    if _in_kernel():
        yield from _notebook_bar(iterable, desc, total)
        return
    from tqdm import tqdm

    yield from tqdm(iterable, desc=desc, total=total, disable=None, file=sys.stderr)


def _notebook_bar(iterable: Iterable[Item], desc: str, total: int | None) -> Iterator[Item]:
    from IPython.display import display
    from tqdm.notebook import tqdm

    bar = tqdm(iterable, desc=desc, total=total, display=False)
    handle = display(bar.container, display_id=True)
    done = 0
    try:
        for item in bar:
            done += 1
            yield item
    finally:
        bar.close()
        text = f"{desc}: {done}" if bar.total is None else f"{desc}: {done} of {bar.total}"
        handle.update({"text/plain": text}, raw=True)


def _in_kernel() -> bool:
    """Say whether outputs go to a notebook; IPython is asked only if it is loaded already."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def _display(data: dict[str, Any], details: dict[str, Any] | None = None) -> None:
    """Send a MIME bundle to the notebook, or its plain text to the terminal."""
    if not _in_kernel():
        print(data["text/plain"])
        return
    from IPython.display import display

    display(data, raw=True, metadata=details or {})
