"""What notebooks call to show things: figures, tables, sentences, progress, a headline.

Everything here treats values as text from strangers. HTML and Markdown in a value are shown, not
obeyed. Every output also has a plain-text form, which is what a regression test compares.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from monitorlab.display.progress import in_kernel, progress
from monitorlab.display.tables import Column, Escaping, Plain, html_table, plain_table
from monitorlab.storage.files import write_file_atomic, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 96  # a CSS inch; the PNG has twice as many, so it is crisp on a dense screen
FIGURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

class HasFolder(Protocol):
    """A run, as far as outputs need it."""

    folder: Path


_run: HasFolder | None = None


def use(run: HasFolder) -> None:
    """Make `run` the one whose folder `show` and `headline` write to."""
    global _run
    _run = run


def current_run() -> HasFolder:
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


def table(
    frame: pd.DataFrame, decimals: int | Mapping[str, int] = 3, caption: str | None = None
) -> None:
    """Show a frame as a table, with stated decimals and everything escaped.

    Parameters
    ----------
    frame : DataFrame
        Shown as it is; the index only when it has a name. Missing values are a dash.
    decimals : int or mapping of column to int
        Decimals of the float columns; a column that a mapping leaves out gets 3. P-values, which
        are columns called `p` or `p_...`, have at least 3 and read "< .001" below that.
    caption : str, optional
        Sentence above the table.

    Raises
    ------
    ValueError
        If `decimals` names a column that the frame does not have.
    """
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    named = decimals if isinstance(decimals, Mapping) else {}
    if unknown := [str(name) for name in named if name not in frame.columns]:
        raise ValueError(f"decimals names column {unknown[0]!r}, the table has "
                         f"{', '.join(map(str, frame.columns))}")
    default = 3 if isinstance(decimals, Mapping) else decimals
    columns = [Column(frame.iloc[:, i], named.get(name, default))
               for i, name in enumerate(frame.columns)]
    _display({"text/html": html_table(columns, len(frame), caption),
              "text/plain": plain_table(columns, len(frame), caption)})


def spans(frame: pd.DataFrame, columns: Sequence[str], decimals: int = 2) -> pd.DataFrame:
    """Join estimates and their limits, so that a table has room for more of them.

    Parameters
    ----------
    frame : DataFrame
        With a column `c`, `c_low` and `c_high` for every c of `columns`; for a single one the
        limits may be called `low` and `high`.
    columns : sequence of str
        Estimates.
    decimals : int
        Of all three numbers.

    Returns
    -------
    DataFrame
        A copy in which each column is text, "0.42 (0.34 to 0.50)", a dash where the estimate is
        missing, and the limits are gone.
    """

    def joined(value: float, low: float, high: float) -> str:
        if pd.isna(value):
            return "–"
        return f"{value:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"

    if len(columns) == 1 and f"{columns[0]}_low" not in frame:
        ends = {end: f"{columns[0]}_{end}" for end in ("low", "high")}
        frame = frame.rename(columns=ends)
    texts = {
        name: list(map(joined, frame[name], frame[f"{name}_low"], frame[f"{name}_high"]))
        for name in columns
    }
    limits = [f"{name}{end}" for name in columns for end in ("_low", "_high")]
    return frame.assign(**texts).drop(columns=limits)


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
    _display({"text/markdown": Escaping().vformat(template, (), values),
              "text/plain": Plain().vformat(template, (), values)})


def html(markup: str, text: str) -> None:
    """Show prepared HTML, with the text that stands for it where there is none.

    Parameters
    ----------
    markup : str
        HTML in which every text from data is escaped already.
    text : str
        Plain counterpart, without times or paths.
    """
    _display({"text/html": markup, "text/plain": text})


def _display(data: dict[str, Any], details: dict[str, Any] | None = None) -> None:
    """Send a MIME bundle to the notebook, or its plain text to the terminal."""
    if not in_kernel():
        print(data["text/plain"])
        return
    from IPython.display import display

    display(data, raw=True, metadata=details or {})


__all__ = ["current_run", "headline", "html", "progress", "say", "show", "spans", "table",
           "use"]
