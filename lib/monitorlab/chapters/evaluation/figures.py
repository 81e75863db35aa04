"""Figures of the evaluation chapter: one function each, from a tidy frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from monitorlab.display.style import (
    FALSE_ALARMS,
    GREEN,
    GREY,
    MISSES,
    ORANGE,
    SAFE,
    SKY,
    TWO_COLUMNS,
    UNSAFE,
    cell_titles,
    check_some,
    draw_point,
    looks,
    shared_legend,
    subplots,
)
from monitorlab.evaluation.comparisons import TREATMENTS
from monitorlab.evaluation.tradeoff import Line, pareto_front

TREATMENT_COLORS = dict(zip(TREATMENTS, (GREEN, ORANGE, SKY, UNSAFE, "#d0d3d8"), strict=True))
TREATMENT_WORDS = {
    "discriminates": "tells apart", "both": "alarms on both", "blind": "alarms on neither",
    "inverted": "alarms on the benign one", "undecided": "undecided (a failed verdict)",
}  # fmt: skip
SAME = "#e8eaee"


def plot_plane(
    rates: pd.DataFrame, line: Line, published: tuple[float, float], names: Sequence[str]
) -> Figure:
    """Monitors in the plane of miss rate and false alarm rate.

    Parameters
    ----------
    rates : DataFrame
        From :func:`monitorlab.evaluation.rates.rates`, one row per name.
    line : Line
        The fitted line; left out where it is undefined.
    published : (float, float)
        Slope and intercept of the published line.
    names : sequence of str
        All monitors of the chapter, for their colours.
    """
    check_some(rates, "monitors")
    fig, axes = subplots(1, 1, TWO_COLUMNS, 5.0)
    ax = axes[0, 0]
    front = rates[pareto_front(rates)].sort_values("mr")
    ax.plot(front["mr"], front["far"], color=GREY, linewidth=4, alpha=0.25, drawstyle="steps-post",
            label="Pareto front", zorder=1)
    _draw_line(ax, published[0], published[1], "--", "published line")
    if np.isfinite(line.slope):
        _draw_line(ax, line.slope, line.intercept, "-", "fitted line")
    style = looks(names)
    for row in rates.itertuples():
        draw_point(ax, row, style[row.name])
    _unit_square(ax, MISSES, FALSE_ALARMS)
    ax.set_anchor("E")  # beside the legend; `show` crops what is empty
    shared_legend(fig, [ax], place="outside right upper")
    return fig


def _draw_line(ax: Axes, slope: float, intercept: float, style: str, label: str) -> None:
    x = np.array([0.0, 1.0])
    ax.plot(x, slope * x + intercept, linestyle=style, color=GREY, linewidth=1, label=label)


def _unit_square(ax: Axes, x: str, y: str) -> None:
    ticks = np.linspace(0, 1, 6)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xlabel=x, ylabel=y, xticks=ticks, yticks=ticks)
    ax.set_aspect("equal")


def plot_cells(by_cell: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Miss rate and false alarm rate of every monitor in every cell that occurs, as heat maps.

    Parameters
    ----------
    by_cell : DataFrame
        From ``rates(judged, by=("name", "cell"))``.
    order : sequence of str
        Names from top to bottom.
    """
    check_some(order, "monitors")
    titles = cell_titles(by_cell["cell"])
    fig, axes = subplots(1, 2, TWO_COLUMNS, 1.2 + 0.27 * len(order), sharey=True)
    for ax, rate, title in zip(axes[0], ("mr", "far"), (MISSES, FALSE_ALARMS), strict=True):
        wide = by_cell.pivot(index="name", columns="cell", values=rate)
        wide = wide.reindex(index=list(order), columns=list(titles))
        image = ax.imshow(wide.to_numpy(), vmin=0, vmax=1, cmap="viridis_r", aspect="auto")
        for (row, column), value in np.ndenumerate(wide.to_numpy()):
            text = "–" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
            color = "white" if value > 0.5 else "black"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        ax.set_xticks(range(len(titles)), list(titles.values()), rotation=35, ha="right")
        ax.set_yticks(range(len(order)), list(order))
        ax.set_title(title)
        ax.grid(visible=False)
    fig.colorbar(image, ax=list(axes[0]), label="rate (yellow is good)", fraction=0.03)
    return fig


def plot_anatomy(anatomy: pd.DataFrame, order: Sequence[str]) -> Figure:
    """What becomes of pairs, one stacked bar per monitor.

    Parameters
    ----------
    anatomy : DataFrame
        From :func:`monitorlab.evaluation.comparisons.pair_anatomy`.
    order : sequence of str
        Names from top to bottom.
    """
    check_some(order, "monitors")
    fig, axes = subplots(1, 1, TWO_COLUMNS, 1.1 + 0.24 * len(order))
    ax = axes[0, 0]
    wide = anatomy.pivot(index="name", columns="treatment", values="share")
    wide = wide.reindex(index=list(order), columns=list(TREATMENTS))
    left = np.zeros(len(wide))
    for treatment in TREATMENTS:
        share = wide[treatment].fillna(0).to_numpy()
        ax.barh(range(len(wide)), share, left=left, color=TREATMENT_COLORS[treatment],
                label=TREATMENT_WORDS[treatment])
        left += share
    ax.set_yticks(range(len(order)), list(order))
    ax.invert_yaxis()
    ax.margins(y=0.01)
    ax.set(xlabel="share of pairs (green is good)", xlim=(0, 1))
    ax.grid(axis="y", visible=False)
    shared_legend(fig, [ax], 3)
    return fig


def plot_separation(compared: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Which monitors can be told apart: one matrix for misses, one for false alarms.

    Parameters
    ----------
    compared : DataFrame
        From :func:`monitorlab.evaluation.comparisons.compare`.
    order : sequence of str
        Names from top to bottom and left to right; others are left out.
    """
    check_some(order, "monitors")
    fig, axes = subplots(1, 2, TWO_COLUMNS, 2.4 + 0.2 * len(order), sharey=True)
    at = {name: i for i, name in enumerate(order)}
    colors = ListedColormap([UNSAFE, SAME, SAFE])
    if len(compared):
        compared = compared[compared["first"].isin(at) & compared["second"].isin(at)]
    for ax, error, title in zip(axes[0], ("miss", "false_alarm"), ("misses", "false alarms"),
                                strict=True):
        matrix = np.full((len(order), len(order)), np.nan)
        for row in compared[compared["error"] == error].itertuples():
            sign = np.sign(row.difference) if row.separated else 0.0
            matrix[at[row.first], at[row.second]] = -sign
            matrix[at[row.second], at[row.first]] = sign
        ax.imshow(matrix, vmin=-1, vmax=1, cmap=colors, aspect="auto")
        for row in compared[(compared["error"] == error) & compared["separated"]].itertuples():
            if not row.survives:
                for pair in ((row.first, row.second), (row.second, row.first)):
                    ax.text(at[pair[1]], at[pair[0]], "?", ha="center", va="center", fontsize=7)
        ax.set_xticks(range(len(order)), list(order), rotation=90)
        ax.set_yticks(range(len(order)), list(order))
        ax.set_title(title)
        ax.grid(visible=False)
    for color, label in ((SAFE, "row has fewer (good)"), (UNSAFE, "row has more"),
                         (SAME, "cannot be separated (Holm, 5 %)")):
        axes[0, 0].scatter([], [], marker="s", color=color, label=label)
    axes[0, 0].scatter([], [], marker="$?$", color="black",
                       label="could be due to failed verdicts")
    shared_legend(fig, [axes[0, 0]], 4)
    return fig


def plot_judges(rates: pd.DataFrame, sources: dict[str, str]) -> Figure:
    """Recorded judges in the plane of miss rate and false alarm rate, one panel per source.

    Parameters
    ----------
    rates : DataFrame
        From ``rates(judged, by=("name", "source"))``.
    sources : dict
        Source to title of its panel.
    """
    check_some(sources, "sources")
    height = min(4.2, 1.2 + 7.2 / len(sources))  # the panels are square
    fig, axes = subplots(1, len(sources), TWO_COLUMNS, height, sharey=True)
    style = looks(list(rates["name"].unique()))
    for ax, (source, title) in zip(axes[0], sources.items(), strict=True):
        for row in rates[rates["source"] == source].itertuples():
            draw_point(ax, row, style[row.name])
            ax.add_patch(_box(row, style[row.name][0]))
        _unit_square(ax, MISSES, "")
        ax.set_title(title)
    axes[0, 0].set_ylabel(FALSE_ALARMS)
    shared_legend(fig, list(axes[0]), 3)
    return fig


def _box(row: Any, color: str) -> Rectangle:
    """Rectangle of the rates that the failed verdicts allow."""
    least, most = (getattr(row, f"mr_{end}") for end in ("least", "most"))
    low, high = (getattr(row, f"far_{end}") for end in ("least", "most"))
    label = None if np.isfinite([row.mr, row.far]).all() else row.name  # else of the point
    return Rectangle((least, low), most - least, high - low, color=color, alpha=0.15, zorder=0,
                     label=label)
