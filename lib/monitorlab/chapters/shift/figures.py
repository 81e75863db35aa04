"""Figures of the chapter on misses and change: one function each, from a tidy frame."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monitorlab.chapters.shift.scenes import AS_CALIBRATED, ROLLING, WEIGHTED
from monitorlab.display.style import (
    BLUE,
    FALSE_ALARMS,
    GREEN,
    GREY,
    ORANGE,
    TWO_COLUMNS,
    shared_legend,
    subplots,
)

WAYS = {AS_CALIBRATED: (GREY, "o"), ROLLING: (BLUE, "s"), WEIGHTED: (GREEN, "D")}


def plot_feasible(lines: pd.DataFrame, title: str) -> Figure:
    """Which pairs of levels one threshold can keep at once.

    Parameters
    ----------
    lines : DataFrame
        ``name, far_level, miss_level``: the lowest level of misses beside each of false alarms.
    title : str
        Title of the figure.
    """
    names = list(dict.fromkeys(lines["name"]))
    fig, axes = subplots(1, len(names), TWO_COLUMNS, 3.2, sharex=True, sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        own = lines[lines["name"] == name]
        x, y = own["far_level"].to_numpy(), own["miss_level"].to_numpy()
        ax.step(x, y, where="post", color=BLUE)
        ax.fill_between(x, y, 1.0, step="post", color=BLUE, alpha=0.15, label="both can be kept")
        ax.fill_between(x, 0.0, y, step="post", color=ORANGE, alpha=0.15,
                        label="no threshold keeps both")
        ax.set(xlim=(x.min(), x.max()), ylim=(0, 1), xlabel="level of false alarms")
        ax.set_title(name, fontsize=8)
    axes[0, 0].set_ylabel("level of misses")
    shared_legend(fig, list(axes[0]), 2)
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_kept(kept: pd.DataFrame, level: float, title: str) -> Figure:
    """False alarms and power after each change, by the way of placing the threshold.

    Parameters
    ----------
    kept : DataFrame
        As from :func:`monitorlab.chapters.shift.scenes.watch_scenes`.
    level : float
        Target false alarm rate, drawn as a line.
    title : str
        Title of the figure.
    """
    changes = list(dict.fromkeys(kept["change"]))
    fig, axes = subplots(1, 2, TWO_COLUMNS, 0.55 * len(changes) + 1.4, sharey=True)
    for column, (measure, label) in enumerate(
        (("far", FALSE_ALARMS), ("power", "power (higher is better)"))
    ):
        ax = axes[0, column]
        for number, (way, (color, marker)) in enumerate(WAYS.items()):
            own = kept[kept["threshold"] == way]
            if own.empty:
                continue
            height = np.array([changes.index(change) for change in own["change"]])
            error = 1.96 * own["far_error"] if measure == "far" else None
            ax.errorbar(own[measure], height + 0.22 * (number - 1), xerr=error, color=color,
                        marker=marker, linestyle="none", label=way)
        if measure == "far":
            ax.axvline(level, color=GREY, linestyle="--", label="level")
        ax.set_xlim(0, ax.get_xlim()[1] + 0.02)  # a mark at 1 is whole
        ax.set_xlabel(label)
    axes[0, 0].set_yticks(range(len(changes)), changes)
    axes[0, 0].set_ylim(len(changes) - 0.5, -0.5)
    shared_legend(fig, list(axes[0]), 4)
    fig.suptitle(title, fontweight="bold")
    return fig
