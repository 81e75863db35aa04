"""Figures of the step-signal chapter: one function each, from a tidy frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monitorlab.display.style import (
    GREY,
    SAFE,
    SIGNAL_COLORS,
    SIGNAL_NAMES,
    TWO_COLUMNS,
    UNSAFE,
    VERMILION,
    shared_legend,
    subplots,
)

FEWEST = 20  # steps at a position; a share of fewer is noise


def plot_trajectories(
    panels: Sequence[tuple[str, Sequence[str], Sequence[int], Mapping[str, np.ndarray]]],
    title: str,
) -> Figure:
    """Write out a few solutions, each step with a bar of suspicion per signal.

    Parameters
    ----------
    panels : sequence of (heading, lines, step labels, suspicion by signal)
        Suspicions lie in [0, 1] (ranks for signals without a scale); a label of 1 is a wrong step.
    title : str
        Title of the figure.
    """
    longest = max(len(lines) for _, lines, _, _ in panels)
    fig, axes = subplots(1, len(panels), TWO_COLUMNS, 0.42 * longest + 1.5)
    for ax, (heading, lines, labels, signals) in zip(axes[0], panels, strict=True):
        y = np.arange(len(lines))
        height = 0.8 / len(signals)
        for k, (signal, values) in enumerate(signals.items()):
            offset = (k - (len(signals) - 1) / 2) * height
            ax.barh(y + offset, values, height * 0.9, color=SIGNAL_COLORS.get(signal, GREY),
                    label=SIGNAL_NAMES.get(signal, signal))
        ax.set_yticks(y, lines, family="monospace")
        for text, label in zip(ax.get_yticklabels(), labels, strict=True):
            text.set_color(UNSAFE if label else "#222222")
        ax.set_ylim(longest - 0.5, -0.5)
        ax.set_xlim(0, 1)
        ax.grid(axis="y", visible=False)
        ax.set_title(heading, fontsize=9)
        ax.set_xlabel("suspicion, as a rank among all steps\n(high means unsafe)")
    shared_legend(fig, [axes[0, 0]], 3)
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_auroc(frame: pd.DataFrame, title: str) -> Figure:
    """AUROC of each signal at the level of steps, with intervals.

    Parameters
    ----------
    frame : DataFrame
        Columns ``dataset, signal, auroc, low, high``.
    title : str
        Title of the figure.
    """
    fig, axes = subplots(1, 1, TWO_COLUMNS * 0.75, 0.36 * len(frame) + 1.3)
    ax = axes[0, 0]
    rows = frame.iloc[::-1].reset_index(drop=True)
    for y, row in rows.iterrows():
        arms = [[row["auroc"] - row["low"]], [row["high"] - row["auroc"]]]
        ax.errorbar(row["auroc"], y, xerr=arms, marker="o", capsize=3,
                    color=SIGNAL_COLORS.get(row["signal"], GREY))
    names = [SIGNAL_NAMES.get(signal, signal) for signal in rows["signal"]]
    sets = rows["dataset"].str.removeprefix("miniature_").str.replace("_", ", ")
    labels = [f"{name}: {one}" for name, one in zip(sets, names, strict=True)]
    ax.set_yticks(range(len(rows)), labels)
    ax.axvline(0.5, color=GREY, linestyle="--")
    ax.annotate("chance", (0.5, 1.0), xycoords=("data", "axes fraction"), xytext=(4, -9),
                textcoords="offset points", color=GREY, fontsize=8)
    ax.set_xlim(min(0.45, float(rows["low"].min()) - 0.02), 1.0)
    ax.set_xlabel("step AUROC (higher is better)")
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_errors(frame: pd.DataFrame, title: str) -> Figure:
    """What kinds of wrong steps occur, and at which step the first one lies.

    Parameters
    ----------
    frame : DataFrame
        One row per generated step: ``generator, step, verdict, first`` with ``first`` true for the
        first wrong step of its solution. Positions with fewer than `FEWEST` steps are left out on
        the right.
    title : str
        Title of the figure.
    """
    fig, axes = subplots(1, 2, TWO_COLUMNS, 2.9)
    generators = list(dict.fromkeys(frame["generator"]))
    colors = {"strong": SAFE, "weak": VERMILION}
    wrong = frame[frame["verdict"] != "right"]
    kinds = list(wrong["verdict"].value_counts().index)
    width = 0.8 / len(generators)
    for k, generator in enumerate(generators):
        rows = frame[frame["generator"] == generator]
        offset = (k - (len(generators) - 1) / 2) * width
        shares = [(rows["verdict"] == kind).mean() for kind in kinds]
        color = colors.get(generator, GREY)
        axes[0, 0].barh(np.arange(len(kinds)) + offset, shares, width * 0.92, color=color,
                        label=f"{generator} generator")
        at = rows.groupby("step")["first"].agg(["mean", "size"])
        at = at[at["size"] >= FEWEST]
        axes[0, 1].plot(at.index, at["mean"], marker="o", color=color)
    axes[0, 0].set_yticks(range(len(kinds)), kinds)
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlabel("share of all steps (lower is better)")
    axes[0, 1].set_xlabel("position of the step")
    axes[0, 1].set_ylabel("first errors, share of steps\n(lower is better)")
    axes[0, 1].set_ylim(0)
    axes[0, 1].xaxis.get_major_locator().set_params(integer=True)
    shared_legend(fig, [axes[0, 0]], len(generators))
    fig.suptitle(title, fontweight="bold")
    return fig
