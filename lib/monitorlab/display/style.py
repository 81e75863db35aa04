"""One look for every figure: sizes, colours, and a colour per monitor that never changes."""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection
from matplotlib.container import Container
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter
from numpy.typing import ArrayLike, NDArray

from monitorlab.display.tables import CELL_TITLES as CELL_TITLES
from monitorlab.display.tables import cell_titles as cell_titles

ONE_COLUMN = 4.2  # inches
TWO_COLUMNS = 8.4

# Okabe and Ito (2008): distinguishable with every common colour vision.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#222222"
GREY = "#8a8f98"

SAFE, UNSAFE = BLUE, VERMILION

# Colour and marker of each method, colour and words of each signal, and so on.
_LOOKS = tomllib.loads(Path(__file__).with_name("looks.toml").read_text(encoding="utf-8"))
METHOD_COLORS, METHOD_MARKERS = _LOOKS["method_colors"], _LOOKS["method_markers"]
SIGNAL_COLORS, SIGNAL_NAMES = _LOOKS["signal_colors"], _LOOKS["signal_names"]
TREATMENT_COLORS, TREATMENT_NAMES = _LOOKS["treatment_colors"], _LOOKS["treatment_names"]
MEASURE_NAMES = _LOOKS["measure_names"]

# What matplotlib calls the artists that nobody named.
UNLABELLED = re.compile(r"_(child|container)\d+|_nolegend_")

POINTS_PER_INCH = 72
WIDTH_OF_A_LETTER = 0.6  # share of the font's size, on average
LONGEST_TICK = 48  # characters

STYLE = Path(__file__).with_name("monitorlab.mplstyle")
COLORS, MARKERS = _LOOKS["monitor_colors"], _LOOKS["monitor_markers"]
MISSES = "miss rate (lower is better)"
FALSE_ALARMS = "false alarm rate (lower is better)"


class _TextFigure(Figure):
    """A figure that draws names from anywhere: as text, and within the room there is.

    Two dollar signs in a name are no formula, and a name of 200 characters gets lines, and a gap in
    the middle, instead of a figure three metres wide.
    """

    def draw(self, renderer: Any) -> None:
        """Draw after a look at every text."""
        for text in self.findobj(Text, include_self=False):
            text.set_parse_math(False)
        for text in self.texts:  # the title
            _fit(text, self.get_figwidth())
        for ax in self.axes:
            place = ax.get_subplotspec()
            columns = place.get_gridspec().ncols if place is not None else 1
            _fit(ax.title, self.get_figwidth() / columns)
            for axis in (ax.xaxis, ax.yaxis):
                _fit_ticks(axis)
        super().draw(renderer)


def _fit(text: Text, inches: float) -> None:
    letter = WIDTH_OF_A_LETTER * float(text.get_fontsize()) / POINTS_PER_INCH
    width = max(int(inches / letter), 10)
    lines = text.get_text().split("\n")
    if max(map(len, lines)) > width:
        text.set_text("\n".join(_wrapped(line, width) for line in lines))


def _fit_ticks(axis: Axis) -> None:
    """Names at an axis are text; numbers keep their formulas, such as powers of ten."""
    formatter = axis.get_major_formatter()
    named = isinstance(formatter, FixedFormatter | FuncFormatter)
    for tick in (*axis.majorTicks, *axis.minorTicks):
        tick.label1.set_parse_math(not named)
    if named and any(len(tick.label1.get_text()) > LONGEST_TICK for tick in axis.majorTicks):
        axis.set_major_formatter(
            lambda at, place: _wrapped(formatter(at, int(place)), LONGEST_TICK, 2))


def subplots(rows: int, columns: int, width: float, height: float, **options: Any
             ) -> tuple[Figure, Any]:
    """Return a styled figure and its axes as a 2-d array.

    Parameters
    ----------
    rows, columns : int
        Layout.
    width, height : float
        Size of the whole figure in inches.
    **options
        As for :func:`matplotlib.pyplot.subplots`.
    """
    with plt.style.context(STYLE):
        return plt.subplots(rows, columns, figsize=(width, height), squeeze=False,
                            FigureClass=_TextFigure, **options)


def _wrapped(name: str, width: int, lines: int = 3) -> str:
    """Return a name on lines of at most ``width`` characters, cut in the middle if it is longer.

    For names that come from outside and stand where there is little room.
    """
    most = width * lines - lines
    if len(name) > most:
        half = most // 2
        name = f"{name[:half]}…{name[-half + 1:]}"
    if len(name) <= width:
        return name
    return "\n".join(textwrap.wrap(name, width, break_on_hyphens=False))


def shared_legend(fig: Figure, axes: Sequence[Axes], columns: int = 1,
                  place: Any = "outside lower center") -> None:
    """Put one legend beside the axes, each label once, in order of appearance.

    As matplotlib's own, but a name that begins with an underscore is a name.
    """
    entries: dict[str, Any] = {}
    for artist in (one for ax in axes for one in (*ax.get_children(), *ax.containers)):
        if isinstance(artist, Line2D | Patch | Collection | Container):
            label = str(artist.get_label() or "")
            if label and not UNLABELLED.fullmatch(label):
                entries.setdefault(label, artist)
    fig.legend(list(entries.values()), [_wrapped(label, 60, 2) for label in entries],
               loc=place, ncols=columns, frameon=False, fontsize=8)


def finished(fig: Figure, columns: int = 1, title: str = "", **font: Any) -> Figure:
    """Put the legend of all axes below a figure, and a bold title above; return the figure.

    Parameters
    ----------
    fig : Figure
        With everything drawn.
    columns : int
        Of the legend.
    title : str
        None if empty.
    **font
        Of the title, instead of bold.
    """
    shared_legend(fig, fig.axes, columns)
    if title:
        fig.suptitle(title, **(font or {"fontweight": "bold"}))
    return fig


def looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each monitor, the same in every figure of one list of names.

    Colours repeat after 12 names, with other markers; both together after 144.
    """
    found = {}
    for i, name in enumerate(sorted(set(names))):
        again, place = divmod(i, len(COLORS))
        found[name] = (COLORS[place], MARKERS[(place + again) % len(MARKERS)])
    return found


def whiskers(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """Lengths of error bars, (2, n): never negative by rounding, NaN where an end is missing."""
    middle = np.atleast_1d(np.asarray(value, float))
    return np.maximum([middle - np.asarray(low, float), np.asarray(high, float) - middle], 0.0)


def draw_point(ax: Axes, row: Any, look: tuple[str, str], size: float = 6) -> None:
    """One monitor in the plane of both errors with its intervals; nothing if a rate is NaN."""
    if not np.isfinite([row.mr, row.far]).all():
        return
    color, marker = look
    ax.errorbar(row.mr, row.far, color=color, marker=marker, markersize=size, linestyle="none",
                elinewidth=0.8, label=row.name, zorder=3,
                xerr=whiskers(row.mr, row.mr_low, row.mr_high),
                yerr=whiskers(row.far, row.far_low, row.far_high))


def one_row_each(part: pd.DataFrame, column: str, order: Sequence[str]) -> pd.DataFrame:
    """Rows in the order of drawing, NaN where there is none.

    Raises
    ------
    ValueError
        If a value of `column` has several rows.
    """
    several = part[column][part[column].duplicated()]
    if len(several):
        raise ValueError(f"{column} {several.iloc[0]!r} has several rows, expected one to draw: "
                         "select one of them first")
    return part.set_index(column).reindex(list(order))


def check_some(things: Sequence[Any] | pd.DataFrame, what: str) -> None:
    """Raise a ValueError if there is nothing to draw."""
    if not len(things):
        raise ValueError(f"no {what} to draw, expected at least one: look at the filter before it")
