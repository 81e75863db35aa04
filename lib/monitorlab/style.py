"""One look for every figure: sizes, colours, and a colour per monitor that never changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ONE_COLUMN = 4.2  # inches
TWO_COLUMNS = 8.4

# Okabe and Ito (2008): distinguishable with every common colour vision.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#222222"
GREY = "#8a8f98"

SAFE, UNSAFE = BLUE, VERMILION

METHOD_COLORS = {
    "CRC": GREEN,
    "UCB": VERMILION,
    "e-valuator, anytime": BLUE,
    "e-valuator, PAC": ORANGE,
    "exact binomial": "#8c510a",
    "running mean + CRC": SKY,
    "EWMA + CRC": PURPLE,
    "CUSUM + CRC": GREY,
    "e-valuator ratio + CRC": "#b8860b",
    "learned + CRC": BLACK,
    "learned + exact": "#6a3d9a",
}
METHOD_MARKERS = {
    "CRC": "o", "UCB": "s", "e-valuator, anytime": "^", "e-valuator, PAC": "D",
    "exact binomial": "P", "running mean + CRC": "v", "EWMA + CRC": "<", "CUSUM + CRC": ">",
    "e-valuator ratio + CRC": "d", "learned + CRC": "*", "learned + exact": "X",
}
SIGNAL_COLORS = {
    "verifier": GREEN, "guard": GREEN, "min_logprob": PURPLE, "mean_logprob": SKY, "score": GREEN,
    "words": GREY,
}

STYLE = Path(__file__).with_name("monitorlab.mplstyle")


def subplots(
    rows: int, columns: int, width: float, height: float, **options: Any
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
        return plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, **options
        )


def shared_legend(fig: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Put one legend under the figure, each label once, in order of appearance."""
    handles: dict[str, Any] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fig.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns,
        frameon=False, fontsize=8,
    )
