"""Figures of the online-monitoring chapters: one function each, from a tidy frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monitorlab.chapters.online.summary import TRIVIAL
from monitorlab.display import style
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import Threshold

MOST_MARKS = 100  # steps that are marked one by one

MEASURE_LABELS = {
    "far": "false alarm rate ↓", "miss": "miss rate ↓", "power": "power ↑",
    "after_onset": "caught at or\nafter the onset ↑",
    "by_half": "caught by half ↑\n(of the steps)",
    "delay": "delay if detected ↓\n(share of steps)",
    "restricted_delay": "restricted delay ↓\n(a miss counts as 1)",
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
        Title of the figure, which says so if the scores come from a small stand-in model.
    """
    fig, axes = style.subplots(1, len(positions), style.TWO_COLUMNS, 2.5, sharey=True)
    shown = [trajectories.steps(position) for position in positions]
    low, high = _finite_ends([*shown, np.array([threshold.value])])
    for ax, values, position in zip(axes[0], shown, positions, strict=True):
        unsafe = bool(trajectories.labels[position])
        color = style.UNSAFE if unsafe else style.SAFE
        steps = np.arange(1, len(values) + 1)
        drawn = np.clip(values, low, high)
        ax.plot(steps, drawn, color=color, marker="o" if len(values) <= MOST_MARKS else "")
        for at, end, sign in ((high, np.inf, "∞"), (low, -np.inf, "-∞")):
            if (values == end).any():
                ax.annotate(sign, (steps[np.argmax(values == end)], at), xytext=(5, 0),
                            textcoords="offset points", va="center")
        if np.isfinite(threshold.value):
            ax.axhline(threshold.value, color=style.GREY, linestyle="--", label="threshold")
        alarms = np.flatnonzero(threshold.alarms(values))
        if len(alarms):
            first = alarms[0]
            ax.plot(steps[first], drawn[first], "o", markersize=13, markerfacecolor="none",
                    markeredgecolor="#222222", clip_on=False, label="alarm")
        ax.set_title("unsafe" if unsafe else "safe", color=color)
        ax.set(xlabel="step", xlim=(0.7, len(values) + 0.3))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("suspicion\n(higher is worse)")
    style.shared_legend(fig, axes[0], 2)
    fig.suptitle(f"{title} (small stand-in)" if trajectories.stand_in else title, fontweight="bold")
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
    width = style.TWO_COLUMNS * (max(len(panels) / 4, 1.0) if len(panels) > 1 else 0.62)
    fig, axes = _grid(measures, list(panels.values()), width, 1.7 * len(measures) + 1.0,
                      fontsize=8 if len(panels) > 3 else None)
    for row, measure in enumerate(measures):
        table = _over_splits(results, measure)
        for ax, key in zip(axes[row], panels, strict=True):
            chosen = table[(table["dataset"] == key[0]) & (table["signal"] == key[1])]
            for method in (*methods, *TRIVIAL):
                _band(ax, chosen[chosen["method"] == method], method)
            if row == 0:
                ends = [chosen["level"].min(), chosen["level"].max()]
                ax.plot(ends, ends, color=style.GREY, linestyle="--", label="level ε")
            else:
                ax.set_ylim(0, 1.02)
    style.shared_legend(fig, list(axes[0]), 5 if len(panels) > 1 else 3)
    fig.suptitle(title, fontweight="bold")
    return fig


def plot_signals(
    results: pd.DataFrame, panels: Mapping[str, str], method: str, title: str
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
    """
    measures = ("power", "restricted_delay")
    width = style.TWO_COLUMNS if len(panels) > 1 else style.TWO_COLUMNS * 0.62
    fig, axes = _grid(measures, list(panels.values()), width, 2.0 * len(measures) + 0.8)
    for row, measure in enumerate(measures):
        table = _over_splits(results[results["method"] == method], measure)
        trivial = _over_splits(results[results["method"].isin(TRIVIAL)], measure)
        for ax, dataset in zip(axes[row], panels, strict=True):
            for signal, lines in table[table["dataset"] == dataset].groupby("signal", sort=False):
                color = style.SIGNAL_COLORS.get(str(signal), style.GREY)
                ax.plot(lines["level"], lines["mean"], marker="o", color=color,
                        label=style.SIGNAL_NAMES.get(str(signal), str(signal).replace("_", " ")))
                ax.fill_between(lines["level"], lines["q10"], lines["q90"], color=color, alpha=0.18)
            first = results.loc[results["dataset"] == dataset, "signal"].iloc[0]
            own = trivial[(trivial["dataset"] == dataset) & (trivial["signal"] == first)]
            for name in TRIVIAL:
                _band(ax, own[own["method"] == name], name)
            ax.set_ylim(0, 1.02)
    style.shared_legend(fig, list(axes[0]), 4)
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
    width = style.TWO_COLUMNS if columns > 1 else style.TWO_COLUMNS * 0.62
    fig, axes = style.subplots(rows, columns, width, 2.7 * rows + 1.1)
    for ax, (key, name) in zip(axes.flat, panels.items(), strict=False):
        chosen = results[(results["dataset"] == key[0]) & (results["signal"] == key[1])
                         & np.isclose(results["level"], level)]
        for method, splits in chosen.groupby("method", sort=False):
            x, y = splits["restricted_delay"], splits["power"]
            ax.errorbar(x.mean(), y.mean(), xerr=_arms(x), yerr=_arms(y), label=method,
                        color=style.METHOD_COLORS.get(method, style.GREY), linestyle="none",
                        marker=style.METHOD_MARKERS.get(method, "o"), markersize=8,
                        elinewidth=0.8, alpha=0.9)
        ax.set_title(_two_lines(name), fontsize=8)
        ax.set_xlabel("restricted delay (lower is better)")
    for ax in axes[:, 0]:
        ax.set_ylabel("power (higher is better)")
    for ax in axes.flat[len(panels):]:
        ax.set_axis_off()
    style.shared_legend(fig, list(axes.flat[: len(panels)]), 4 if columns > 1 else 2)
    fig.suptitle(title, fontweight="bold")
    return fig


def _grid(
    measures: Sequence[str], titles: Sequence[str], width: float, height: float, **font: Any
) -> tuple[Figure, Any]:
    """A row of panels per measure and a column per data set, with names at the edges."""
    fig, axes = style.subplots(len(measures), len(titles), width, height, sharex=True,
                               sharey="row")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(_two_lines(title), **font)
    for ax in axes[-1]:
        ax.set_xlabel("target level ε")
    for ax, measure in zip(axes[:, 0], measures, strict=True):
        ax.set_ylabel(MEASURE_LABELS[measure])
    return fig, axes


def _over_splits(results: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean, q10 and q90 over splits of one measure, per data set, signal, method and level."""
    groups = results.groupby(["dataset", "signal", "method", "level"], sort=False)[measure]
    ends = {"q10": groups.quantile(0.1), "q90": groups.quantile(0.9)}
    return pd.DataFrame({"mean": groups.mean(), **ends}).reset_index()


def _two_lines(name: str) -> str:
    """Put the numbers of sequences, "(339 safe, 61 unsafe)", on a line of their own."""
    start, bracket, end = name.rpartition(" (")
    return f"{start}\n({end}" if bracket else name


def _finite_ends(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Where infinite values are drawn: a little beyond the finite ones."""
    numbers = np.concatenate(values)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return -1.0, 1.0
    reach = 0.15 * (finite.max() - finite.min() or 1.0)
    return float(finite.min() - reach), float(finite.max() + reach)


def _band(ax: Axes, lines: pd.DataFrame, method: str) -> None:
    """Draw a method's mean over its levels, and q10 to q90 if it is no trivial baseline."""
    if lines.empty:
        return
    color = style.METHOD_COLORS.get(method, style.GREY)
    trivial = method in TRIVIAL
    ax.plot(lines["level"], lines["mean"], color=color, label=method,
            marker=style.METHOD_MARKERS.get(method, "o"), linestyle="--" if trivial else "-")
    if not trivial:
        ax.fill_between(lines["level"], lines["q10"], lines["q90"], color=color, alpha=0.15)


def _arms(values: pd.Series) -> list[list[float]]:
    """Distances from the mean down to q10 and up to q90, as error bars want them."""
    mean, low, high = values.mean(), values.quantile(0.1), values.quantile(0.9)
    return [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
