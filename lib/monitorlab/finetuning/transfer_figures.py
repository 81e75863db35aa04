"""Figures of transfer: arms on seen and unseen cells, differences to an arm, learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monitorlab.benchmark.figures import CELL_TITLES
from monitorlab.evaluation.figures import check_some, one_row_each, whiskers
from monitorlab.finetuning.figures import DIRECTIONS, arm_looks, arm_title, set_title
from monitorlab.finetuning.published import (
    ALL_CELLS,
    ALL_COMPONENTS,
    GROUPS,
    SEEN_CELLS,
    UNSEEN_OTHER,
    UNSEEN_SG,
    Goal,
)
from monitorlab.style import BLACK, BLUE, GREEN, GREY, TWO_COLUMNS, UNSAFE, shared_legend, subplots

GROUP_TITLES = {SEEN_CELLS: "cells seen in training", UNSEEN_SG: "unseen: specification gaming",
                UNSEEN_OTHER: "unseen: other cells", ALL_CELLS: "all cells"}
GROUP_COLORS = {SEEN_CELLS: GREEN, UNSEEN_SG: UNSAFE, UNSEEN_OTHER: BLUE, ALL_CELLS: BLACK}
UNTRAINED = "base"


def plot_transfer(
    table: pd.DataFrame,
    goal: Goal | None = None,
    *,
    published: pd.DataFrame | None = None,
    metric: str = "balanced_accuracy",
    groups: Sequence[str] = GROUPS,
    title: str = "",
) -> Figure:
    """Every arm on the cells it has seen and on those it has not, one panel per group.

    Parameters
    ----------
    table : DataFrame
        From :func:`monitorlab.finetuning.transfer.transfer`.
    goal : Goal, optional
        Drawn in the panel of unseen SG, where it has the metric.
    published : DataFrame, optional
        From :func:`monitorlab.finetuning.published.published_transfer`: hollow marks.
    metric : str
        ``balanced_accuracy``, ``g2``, ``auroc``, ``mr`` or ``far``.
    groups : sequence of str
        Panels from left to right.
    title : str
        Above the figure.
    """
    rows = table[table["metric"] == metric]
    check_some(rows, "arms")
    arms = list(dict.fromkeys(rows["arm"]))
    fig, axes = subplots(1, len(groups), TWO_COLUMNS, 1.5 + 0.29 * len(arms), sharex=True,
                         sharey=True)
    y = np.arange(len(arms))
    for ax, group in zip(axes[0], groups, strict=True):
        part = one_row_each(rows[rows["group"] == group], "arm", arms)
        ax.errorbar(part["value"], y, xerr=whiskers(part["value"], part["low"], part["high"]),
                    color=GROUP_COLORS[group], marker="o", linestyle="none", elinewidth=1.4,
                    markersize=5.5, zorder=3)
        if published is not None:
            known = published[(published["metric"] == metric) & (published["group"] == group)]
            ax.plot(one_row_each(known, "arm", arms)["value"], y, color=GREY, marker="D",
                    markerfacecolor="white", linestyle="none", markersize=5, zorder=2,
                    label="published (other data)")
        aim = getattr(goal, metric, None) if group == UNSEEN_SG else None
        if aim is not None:
            ax.axvline(aim, color=BLACK, linestyle="--", linewidth=1, label=f"goal, {aim:g}")
        if metric in ("balanced_accuracy", "auroc"):
            ax.axvline(0.5, color=GREY, linestyle=":", linewidth=1, label="chance")
        ax.set_title(GROUP_TITLES[group], fontsize=9)
        ax.set_xlabel(DIRECTIONS[metric].replace(" (", "\n("))
    _arms_on_y(axes, arms)
    axes[0, 0].errorbar([], [], xerr=np.zeros((2, 0)), color=BLACK, marker="o", linestyle="none",
                        label="measured, 95 % interval over scenarios")
    shared_legend(fig, list(axes[0]), 4)
    set_title(fig, title)
    return fig


def plot_beyond(
    differences: pd.DataFrame,
    arms: Sequence[str] = (),
    *,
    metric: str = "balanced_accuracy",
    groups: Sequence[str] = (UNSEEN_SG, SEEN_CELLS),
    reference: str = ALL_COMPONENTS,
    level: float = 0.05,
    title: str = "",
) -> Figure:
    """What arms beyond the recipe gain over the reference, on unseen and on seen cells.

    Parameters
    ----------
    differences : DataFrame
        From :func:`monitorlab.finetuning.transfer.transfer_differences`.
    arms : sequence of str
        From top to bottom; all that there are, if empty.
    metric, groups, title
        As in `plot_transfer`.
    reference : str
        The arm they were compared with, for the label.
    level : float
        Marks are filled where ``p_holm`` is at most this.
    """
    order = list(arms) or list(dict.fromkeys(differences["arm"]))
    rows = differences[(differences["metric"] == metric) & differences["arm"].isin(order)]
    check_some(rows, "differences")
    fig, axes = subplots(1, len(groups), TWO_COLUMNS, 1.6 + 0.3 * len(order), sharex=True,
                         sharey=True)
    y = np.arange(len(order))
    for ax, group in zip(axes[0], groups, strict=True):
        part = one_row_each(rows[rows["group"] == group], "arm", order)
        color = GROUP_COLORS[group]
        ax.errorbar(part["difference"], y, color=color, linestyle="none", elinewidth=1.4, zorder=2,
                    xerr=whiskers(part["difference"], part["low"], part["high"]))
        for clear, face in ((True, color), (False, "white")):
            chosen = part["difference"].where((part["p_holm"] <= level) == clear)
            ax.plot(chosen, y, marker="o", linestyle="none", color=color, markerfacecolor=face,
                    markersize=6, zorder=3)
        ax.axvline(0, color=BLACK, linewidth=1)
        ax.set_title(GROUP_TITLES[group], fontsize=9)
        name, good = DIRECTIONS[metric].removesuffix(")").split(" (")
        ax.set_xlabel(f"{name}, difference to “{arm_title(reference)}”\n({good})")
    _arms_on_y(axes, order)
    for label, face in ((f"differs from 0 (Holm, {100 * level:g} %)", GREY),
                        ("does not clearly differ", "white")):
        axes[0, 0].plot([], [], marker="o", linestyle="none", color=GREY, markerfacecolor=face,
                        label=label)
    axes[0, 0].plot([], [], color=GREY, linewidth=1.4, label="95 % interval over scenarios")
    shared_legend(fig, [axes[0, 0]], 3)
    set_title(fig, title)
    return fig


def _arms_on_y(axes: Any, arms: Sequence[str]) -> None:
    """Name arms from top to bottom, with room above and below."""
    axes[0, 0].set_yticks(range(len(arms)), [arm_title(arm) for arm in arms])
    axes[0, 0].set_ylim(len(arms) - 0.4, -0.6)
    for ax in axes[0]:
        ax.grid(axis="y", visible=False)
        for place in range(0, len(arms), 2):  # stripes lead the eye across panels
            ax.axhspan(place - 0.5, place + 0.5, color="#f3f4f6", zorder=0, linewidth=0)


def plot_learning(
    summary: pd.DataFrame,
    *,
    untrained: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Metric against the number of training examples, one panel per cell or group.

    Parameters
    ----------
    summary : DataFrame
        From :func:`monitorlab.finetuning.learning.summary`: lines are means over seeds, bands go
        from the smallest to the largest.
    untrained : mapping of str to float, optional
        Cell (or group) to the value of the base.
    title : str
        Above the figure.
    """
    rows = summary[summary["size"] > 0]
    check_some(rows, "sizes")
    cells = list(dict.fromkeys(rows["cell"]))
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    fig, axes = subplots(lines, columns, TWO_COLUMNS, 1.1 + 2.2 * lines, sharex=True, sharey=True)
    for ax in axes.flat[len(cells):]:
        ax.set_visible(False)
    style = arm_looks(list(dict.fromkeys(rows["arm"])))
    for ax, cell in zip(axes.flat, cells, strict=False):
        for arm, part in rows[rows["cell"] == cell].groupby("arm", sort=False):
            color, marker = style[str(arm)]
            ax.fill_between(part["size"], part["min"], part["max"], color=color, alpha=0.18,
                            linewidth=0)
            ax.plot(part["size"], part["mean"], color=color, marker=marker, markersize=5,
                    label=arm_title(str(arm)))
        if untrained is not None and cell in untrained:
            ax.axhline(untrained[cell], color=GREY, linestyle="--", linewidth=1, label=UNTRAINED)
        ax.set_title(GROUP_TITLES.get(cell, CELL_TITLES.get(cell, cell)), fontsize=9)
        ax.set_xscale("log", base=2)
        sizes = sorted(rows["size"].unique())
        ax.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        ax.minorticks_off()
    for ax in axes.flat[max(len(cells) - columns, 0) : len(cells)]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("training examples (doubling)")
    metric = rows["metric"].iloc[0]
    for ax in axes[:, 0]:
        ax.set_ylabel(DIRECTIONS.get(metric, metric).replace(" (", "\n("))
    shared_legend(fig, list(axes.flat[: len(cells)]), 4)
    set_title(fig, title)
    return fig
