"""Figures of the online-monitoring chapters: one function each, from a tidy frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monitorlab.chapters.online.summary import band_over_splits
from monitorlab.display.style import (
    GREY,
    METHOD_COLORS,
    METHOD_MARKERS,
    SAFE,
    SIGNAL_COLORS,
    SIGNAL_NAMES,
    TWO_COLUMNS,
    UNSAFE,
    shared_legend,
    subplots,
)
from monitorlab.online.comparison import TRIVIAL_METHODS
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import Threshold

FloatArray = NDArray[np.float64]

TRIVIAL = [method.label for method in TRIVIAL_METHODS]
MOST_MARKS = 100  # steps that are marked one by one

MEASURE_LABELS = {
    "far": "false alarm rate ↓",
    "miss": "miss rate ↓",
    "power": "power ↑",
    "after_onset": "caught at or\nafter the onset ↑",
    "by_half": "caught by half ↑\n(of the steps)",
    "delay": "delay if detected ↓\n(share of steps)",
    "restricted_delay": "restricted delay ↓\n(a miss counts as 1)",
    "delay_tokens": "delay if detected ↓\n(share of tokens)",
    "restricted_delay_tokens": "restricted delay ↓\n(share of tokens)",
}


def plot_examples(
    trajectories: Trajectories, threshold: Threshold, positions: Sequence[int], title: str
) -> Figure:
    """Suspicion along a few sequences, the threshold, and where it alarms (paper figure 1).

    Parameters
    ----------
    trajectories : Trajectories
        Scores, high is unsafe.
    threshold : Threshold
        Drawn as a line; first crossing is marked.
    positions : sequence of int
        Sequences to draw, one panel each.
    title : str
        Title of the figure.
    """
    fig, axes = subplots(1, len(positions), TWO_COLUMNS, 2.5, sharey=True)
    shown = [trajectories.steps(position) for position in positions]
    low, high = _finite_ends([*shown, np.array([threshold.value])])
    for ax, values, position in zip(axes[0], shown, positions, strict=True):
        unsafe = bool(trajectories.labels[position])
        color = UNSAFE if unsafe else SAFE
        steps = np.arange(1, len(values) + 1)
        drawn = np.clip(values, low, high)
        ax.plot(steps, drawn, color=color, marker="o" if len(values) <= MOST_MARKS else "")
        for at, end, sign in ((high, np.inf, "∞"), (low, -np.inf, "-∞")):
            if (values == end).any():
                ax.annotate(sign, (steps[np.argmax(values == end)], at), xytext=(5, 0),
                            textcoords="offset points", va="center")
        if np.isfinite(threshold.value):
            ax.axhline(threshold.value, color=GREY, linestyle="--", label="threshold")
        alarms = np.flatnonzero(threshold.alarms(values))
        if len(alarms):
            first = alarms[0]
            ax.plot(steps[first], drawn[first], "o", markersize=13, markerfacecolor="none",
                    markeredgecolor="#222222", clip_on=False, label="alarm")
        ax.set_title("unsafe" if unsafe else "safe", color=color)
        ax.set_xlabel("step")
        ax.set_xlim(0.7, len(values) + 0.3)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("suspicion\n(higher is worse)")
    shared_legend(fig, axes[0], 2)
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_protocol(
    results: pd.DataFrame,
    panels: Mapping[tuple[str, str], str],
    methods: Sequence[str],
    title: str,
    measures: Sequence[str] = ("far", "power", "delay", "restricted_delay"),
) -> Figure:
    """Measures against the target level, one column per data set (paper figures 2 to 4).

    Parameters
    ----------
    results : DataFrame
        As from :func:`monitorlab.online.comparison.compare_methods`.
    panels : mapping of (dataset, signal) to str
        Columns and their titles.
    methods : sequence of str
        Method labels, one line each; the band is q10 to q90 over splits. The trivial baselines are
        drawn with them, dashed and without a band.
    title : str
        Title of the figure.
    measures : sequence of str
        Rows, the first of them what the level is about; `miss` is 1 minus the power.
    """
    results = results.assign(miss=1.0 - results["power"])
    results = results[results["dataset"].isin([dataset for dataset, _ in panels])
                      & results["method"].isin([*methods, *TRIVIAL])]
    width = TWO_COLUMNS * max(len(panels) / 4, 1.0) if len(panels) > 1 else TWO_COLUMNS * 0.62
    fig, axes = subplots(
        len(measures), len(panels), width, 1.7 * len(measures) + 1.0, sharex=True, sharey="row"
    )
    for row, measure in enumerate(measures):
        table = band_over_splits(results, measure)
        for column, (key, name) in enumerate(panels.items()):
            ax = axes[row, column]
            chosen = table[(table["dataset"] == key[0]) & (table["signal"] == key[1])]
            for method in (*methods, *TRIVIAL):
                _band(ax, chosen[chosen["method"] == method], method)
            if row == 0:
                ends = [chosen["level"].min(), chosen["level"].max()]
                ax.plot(ends, ends, color=GREY, linestyle="--", label="level ε")
            else:
                ax.set_ylim(0, 1.02)
            if row == 0:
                ax.set_title(_two_lines(name), fontsize=8 if len(panels) > 3 else None)
            if row == len(measures) - 1:
                ax.set_xlabel("target level ε")
        axes[row, 0].set_ylabel(MEASURE_LABELS[measure])
    shared_legend(fig, list(axes[0]), 5 if len(panels) > 1 else 3)
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_signals(
    results: pd.DataFrame,
    panels: Mapping[str, str],
    method: str,
    title: str,
    measures: Sequence[str] = ("power", "restricted_delay"),
) -> Figure:
    """One method under several signals: what the score is worth (paper's ablation).

    The trivial baselines under the first signal are drawn with them, dashed.

    Parameters
    ----------
    results : DataFrame
        With several signals per data set.
    panels : mapping of dataset to str
        Columns and their titles.
    method : str
        Label of the method that is held fixed.
    title : str
        Title of the figure.
    measures : sequence of str
        Rows.
    """
    width = TWO_COLUMNS if len(panels) > 1 else TWO_COLUMNS * 0.62
    fig, axes = subplots(len(measures), len(panels), width, 2.0 * len(measures) + 0.8,
                         sharex=True, sharey="row")
    for row, measure in enumerate(measures):
        table = band_over_splits(results[results["method"] == method], measure)
        trivial = band_over_splits(results[results["method"].isin(TRIVIAL)], measure)
        for column, (dataset, panel) in enumerate(panels.items()):
            ax = axes[row, column]
            for signal, lines in table[table["dataset"] == dataset].groupby("signal", sort=False):
                color = SIGNAL_COLORS.get(str(signal), GREY)
                ax.plot(lines["level"], lines["mean"], marker="o", color=color,
                        label=SIGNAL_NAMES.get(str(signal), str(signal).replace("_", " ")))
                ax.fill_between(lines["level"], lines["q10"], lines["q90"], color=color, alpha=0.18)
            first = results.loc[results["dataset"] == dataset, "signal"].iloc[0]
            for name in TRIVIAL:
                _band(ax, trivial[(trivial["dataset"] == dataset) & (trivial["signal"] == first)
                                  & (trivial["method"] == name)], name)
            ax.set_ylim(0, 1.02)
            if row == 0:
                ax.set_title(_two_lines(panel))
            if row == len(measures) - 1:
                ax.set_xlabel("target level ε")
        axes[row, 0].set_ylabel(MEASURE_LABELS[measure])
    shared_legend(fig, list(axes[0]), 4)
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_trade_off(
    results: pd.DataFrame, panels: Mapping[tuple[str, str], str], level: float, title: str
) -> Figure:
    """Power against restricted delay at one level: up and to the left is better.

    Parameters
    ----------
    results : DataFrame
        As from :func:`monitorlab.online.comparison.compare_methods`.
    panels : mapping of (dataset, signal) to str
        One panel each, at most three to a row.
    level : float
        Target level.
    title : str
        Title of the figure.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = TWO_COLUMNS if columns > 1 else TWO_COLUMNS * 0.62
    fig, axes = subplots(rows, columns, width, 2.7 * rows + 1.1)
    for ax, (key, name) in zip(axes.flat, panels.items(), strict=False):
        chosen = results[(results["dataset"] == key[0]) & (results["signal"] == key[1])
                         & np.isclose(results["level"], level)]
        for method, splits in chosen.groupby("method", sort=False):
            _cross(ax, splits["restricted_delay"], splits["power"], str(method))
        ax.set_title(_two_lines(name), fontsize=8)
        ax.set_xlabel("restricted delay (lower is better)")
    for ax in axes[:, 0]:
        ax.set_ylabel("power (higher is better)")
    for ax in axes.flat[len(panels):]:
        ax.set_axis_off()
    shared_legend(fig, list(axes.flat[: len(panels)]), 4 if columns > 1 else 2)
    fig.suptitle(title, fontweight="bold")
    return fig


def _two_lines(name: str) -> str:
    """Put the numbers of sequences, "(339 safe, 61 unsafe)", on a line of their own."""
    start, bracket, end = name.rpartition(" (")
    return f"{start}\n({end}" if bracket else name


def _finite_ends(values: Sequence[FloatArray]) -> tuple[float, float]:
    """Where infinite values are drawn: a little beyond the finite ones."""
    numbers = np.concatenate(values)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return -1.0, 1.0
    reach = 0.15 * (finite.max() - finite.min() or 1.0)
    return float(finite.min() - reach), float(finite.max() + reach)


def _band(ax: Axes, lines: pd.DataFrame, method: str) -> None:
    if lines.empty:
        return
    color = METHOD_COLORS.get(method, GREY)
    trivial = method in TRIVIAL
    ax.plot(lines["level"], lines["mean"], color=color, label=method,
            marker=METHOD_MARKERS.get(method, "o"), linestyle="--" if trivial else "-")
    if not trivial:
        ax.fill_between(lines["level"], lines["q10"], lines["q90"], color=color, alpha=0.15)


def _cross(ax: Axes, x: pd.Series, y: pd.Series, method: str) -> None:
    """Mark the means, with arms from q10 to q90 over splits."""
    ax.errorbar(x.mean(), y.mean(), xerr=_arms(x), yerr=_arms(y), label=method, linestyle="none",
                color=METHOD_COLORS.get(method, GREY), marker=METHOD_MARKERS.get(method, "o"),
                markersize=8, elinewidth=0.8, alpha=0.9)


def _arms(values: pd.Series) -> list[list[float]]:
    """Distances from the mean down to q10 and up to q90, as error bars want them."""
    mean, low, high = values.mean(), values.quantile(0.1), values.quantile(0.9)
    return [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
