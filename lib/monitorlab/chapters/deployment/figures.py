"""Figures of the chapter on deployment: one function each, from a tidy frame."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monitorlab.display.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    TWO_COLUMNS,
    UNSAFE,
    shared_legend,
    subplots,
)

SHOWN = 10  # characters of a line
PALE = 0.4
UNDRAWN = re.compile(r"[^ -~]")  # a model may write what no font holds


def plot_evidence(evidence: pd.DataFrame, rate: float, title: str) -> Figure:
    """Evidence of drift by the number of finished sequences, on a logarithmic axis.

    Parameters
    ----------
    evidence : DataFrame
        As from :func:`monitorlab.chapters.deployment.replays.drift_evidence`, of three scenes.
    rate : float
        The test fires at 1 / rate, drawn as a line.
    title : str
        Title of the figure.
    """
    fig, axes = subplots(1, 1, TWO_COLUMNS, 2.9)
    ax = axes[0, 0]
    for (scene, own), color in zip(evidence.groupby("scene", sort=False),
                                   (BLUE, GREEN, ORANGE), strict=True):
        ax.plot(own["finished"], own["evidence"], color=color, label=str(scene))
    ax.axhline(1 / rate, color=GREY, linestyle="--", label="guarantee void from here on")
    ax.set(yscale="log", xlabel="finished sequences", ylabel="evidence of drift")
    shared_legend(fig, [ax], 4)
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_stopped(lines: pd.DataFrame, alarms: Mapping[str, int], title: str) -> Figure:
    """What a model writes without a monitor, and where the monitor ended it.

    Parameters
    ----------
    lines : DataFrame
        As from :func:`monitorlab.chapters.deployment.counting.log_table`, written unwatched.
    alarms : mapping of str to int
        Step of the alarm by ``trajectory_id``; sequences without one are left out.
    title : str
        Title of the figure.
    """
    names = list(dict.fromkeys(lines["trajectory_id"]))
    fig, axes = subplots(1, 1, TWO_COLUMNS, 0.27 * len(names) + 1.4)
    ax = axes[0, 0]
    for row in lines.itertuples():
        height, end = names.index(row.trajectory_id), alarms.get(row.trajectory_id, np.inf)
        color = UNSAFE if row.step_label else BLACK
        text = UNDRAWN.sub("·", str(row.text))
        frame = {"boxstyle": "square,pad=0.25", "facecolor": "none", "edgecolor": BLUE, "lw": 1.6}
        ax.text(row.step, height, text if len(text) <= SHOWN else f"{text[:SHOWN - 1]}…",
                ha="center", va="center", fontsize=8, parse_math=False,
                color=color, alpha=1.0 if row.step <= end else PALE,
                bbox=frame if row.step == end else None)
    for color, alpha, label in ((BLACK, 1.0, "right"), (UNSAFE, 1.0, "wrong"),
                                (BLACK, PALE, "pale: never written")):
        ax.plot([], [], "s", color=color, alpha=alpha, label=label)
    ax.plot([], [], "s", markerfacecolor="none", markeredgecolor=BLUE, label="alarm")
    ax.set(xlim=(0.4, lines["step"].max() + 0.6), ylim=(len(names) - 0.4, -0.6), xlabel="line")
    ax.set_yticks(range(len(names)), names)
    ax.grid(False)
    shared_legend(fig, [ax], 4)
    fig.suptitle(title, fontweight="bold")
    return fig
