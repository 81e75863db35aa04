"""What notebooks call to show things: figures, tables, sentences, progress, a headline.

Everything here treats values as text from strangers. HTML and Markdown in a value are shown, not
obeyed. Every output also has a plain-text form, which is what a regression test compares.
"""

from __future__ import annotations

import io
import json
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pandas as pd

from monitorlab.display.tables import Sentence, Table
from monitorlab.storage.files import write_file_atomic, write_text_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 96  # a CSS inch; the PNG has twice as many, so it is crisp on a dense screen
FIGURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
Item = TypeVar("Item")


class _HasFolder(Protocol):
    """A run, as far as outputs need it."""

    folder: Path


_run: _HasFolder | None = None


def use(run: _HasFolder) -> None:
    """Make `run` the one whose folder `show` and `headline` write to."""
    global _run
    _run = run


def _current_run() -> _HasFolder:
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
    import matplotlib as mpl
    from matplotlib import pyplot

    folder, data = _current_run().folder / "figures", {}
    # The same bytes for the same figure: no date, no random element names.
    for ending, note in (("png", "Software"), ("svg", "Date")):
        buffer = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": name}):
            fig.savefig(buffer, format=ending, dpi=2 * PIXELS_PER_INCH, bbox_inches="tight",
                        metadata={note: None})
        data[ending] = buffer.getvalue()
        with write_file_atomic(folder / f"{name}.{ending}") as path:
            path.write_bytes(data[ending])
    _record_figure(folder / "figures.json", {"name": name, "alt": alt, "thumbnail": thumbnail})
    pyplot.close(fig)
    width, height = struct.unpack(">II", data["png"][16:24])  # PNG header: IHDR width, height
    size = {"alt": alt, "width": width // 2, "height": height // 2}
    _display({"image/png": data["png"], "text/plain": f"[figure {name}: {alt}]"},
             {"image/png": size})


def _record_figure(path: Path, entry: dict[str, Any]) -> None:
    """Keep `figures.json`: name, alt text and thumbnail mark of each figure, in order."""
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    by_name = {figure["name"]: figure for figure in figures} | {entry["name"]: entry}
    text = json.dumps(list(by_name.values()), indent=1, ensure_ascii=False)
    write_text_atomic(path, text + "\n")


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
    write_text_atomic(_current_run().folder / "headline.json", text)


# Tables -------------------------------------------------------------------------------------


def table(frame: pd.DataFrame, decimals: int | Mapping[str, int] = 3, caption: str = "") -> None:
    """Show a frame as a table, with stated decimals and everything escaped.

    Parameters
    ----------
    frame : DataFrame
        Shown as it is; the index only when it has a name. Missing values are a dash.
    decimals : int or mapping of column to int
        Decimals of the float columns; a column that a mapping leaves out gets 3. P-values, which
        are columns called `p` or `p_...`, have at least 3 and read "< .001" below that.
    caption : str
        Sentence above the table.

    Raises
    ------
    ValueError
        If `decimals` names a column that the frame does not have.
    """
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    shown = Table(frame, decimals, caption)
    _display({"text/html": shown.html(), "text/plain": shown.text()})


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

    if len(columns) == 1 and f"{columns[0]}_low" not in frame:
        frame = frame.rename(columns={end: f"{columns[0]}_{end}" for end in ("low", "high")})
    texts = {}
    for name in columns:
        numbers = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
        texts[name] = ["–" if pd.isna(value) else
                       f"{value:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"
                       for value, low, high in numbers]
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
    _display({"text/markdown": Sentence(markdown=True).vformat(template, (), values),
              "text/plain": Sentence(markdown=False).vformat(template, (), values)})


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
    if not _in_kernel():
        print(data["text/plain"])
        return
    from IPython.display import display

    display(data, raw=True, metadata=details or {})


def _in_kernel() -> bool:
    """Say whether outputs go to a notebook; IPython is asked only if it is loaded already."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


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


def notify(sentence: str) -> None:
    """Print a sentence for the reader without breaking a progress bar.

    Parameters
    ----------
    sentence : str
        To stderr in a terminal, and into the output of the cell in a notebook.
    """
    if _in_kernel():
        print(sentence)
        return
    from tqdm import tqdm

    tqdm.write(sentence, file=sys.stderr)


__all__ = ["headline", "html", "notify", "progress", "say", "show", "spans", "table", "use"]
