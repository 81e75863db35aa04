"""Notebook 04: figures of thresholds, one function each, from a tidy frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import norm

from monitorlab.benchmark.sample_files import own_samples
from monitorlab.benchmark.samples import halved
from monitorlab.display import style
from monitorlab.evaluation import tradeoff
from monitorlab.evaluation.operating_points import ALL, OWN_DEFAULT
from monitorlab.monitors import recorded
from monitorlab.monitors.rules import CORNERS
from monitorlab.statistics.roc import det
from monitorlab.storage.tables import OPERATING_POINTS

# What only the notebook takes from here.
__all__ = [
    "CORNERS", "OPERATING_POINTS", "halved", "own_samples", "recorded", "tradeoff",
]  # fmt: skip

# Unit of the rule and of the split, in words.
WAYS = {("pair", "pair"): ("calibrated by pair, tested on other pairs", style.GREY),
        ("pair", "scenario"): ("calibrated by pair, tested on other scenarios", style.UNSAFE),
        ("scenario", "scenario"): ("calibrated by scenario, tested on other scenarios", style.SAFE)}
SCOPE_COLORS = {"cell": style.SAFE, "global": style.UNSAFE}
SCOPE_TITLES = {"cell": "one threshold per cell", "global": "one threshold for all"}


def plot_curves(
    bands: Mapping[str, pd.DataFrame], scored: pd.DataFrame, names: Sequence[str]
) -> Figure:
    """ROC curves with pointwise bands beside DET curves of the same monitors.

    Parameters
    ----------
    bands : mapping of str to DataFrame
        Per name the grid of :class:`monitorlab.statistics.roc._RocBand`.
    scored : DataFrame
        Columns name, score, label: the scored test samples.
    names : sequence of str
        All monitors of the chapter, for their colours.
    """
    style.check_some(list(bands), "curves")
    fig, axes = style.subplots(1, 2, style.TWO_COLUMNS, 4.9)
    left, right = axes[0]
    look = style.looks(names)
    for name, grid in bands.items():
        color, marker = look[name]
        line = {"color": color, "marker": marker, "markevery": 0.15, "markersize": 4.5,
                "linewidth": 1.3}
        left.fill_between(grid["far"], grid["low"], grid["high"], color=color, linewidth=0,
                          alpha=min(0.15, 0.8 / len(bands)))
        left.plot(grid["far"], grid["tpr"], label=name, **line)
        part = scored[scored["name"] == name]
        points = det(part["score"].to_numpy(float), part["label"].to_numpy(int))
        right.plot(points["x"], points["y"], **line)
    left.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", linewidth=1, label="chance")
    left.set(xlabel=style.FALSE_ALARMS, ylabel="detection rate (higher is better)",
             xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title="ROC")
    ticks = np.array([0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99])
    where, words = norm.ppf(ticks), [f"{100 * tick:g}" for tick in ticks]
    right.plot(where, -where, color=style.GREY, linestyle=":", linewidth=1)
    right.set_xticks(where, words)
    right.set_yticks(where, words)
    right.set(xlabel="false alarm rate, % (lower is better)",
              ylabel="miss rate, % (lower is better)", title="DET",
              xlim=(where[0], where[-1]), ylim=(where[0], where[-1]))
    for ax in (left, right):
        ax.set_aspect("equal")
    return style.finished(fig, 3)


def plot_rules(tradeoff: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Miss and false alarm rates at default thresholds and at common levels.

    Parameters
    ----------
    tradeoff : DataFrame
        From :func:`monitorlab.evaluation.operating_points.tradeoff_at_own_threshold`.
    names : sequence of str
        All monitors of the chapter, for their colours.
    """
    style.check_some(tradeoff, "rules")
    rules = list(dict.fromkeys(tradeoff["rule"]))
    fig, axes = style.subplots(1, len(rules), style.TWO_COLUMNS, 3.7, sharey=True)
    look = style.looks(names)
    top = np.nanmax([0.1, *tradeoff["far"], *tradeoff["far_high"]])
    for ax, rule in zip(axes[0], rules, strict=True):
        for row in tradeoff[tradeoff["rule"] == rule].itertuples():
            style.draw_point(ax, row, look[row.name], size=5)
        if rule != OWN_DEFAULT:
            level = float(tradeoff.loc[tradeoff["rule"] == rule, "level"].iloc[0])
            ax.axhline(level, color=style.GREY, linewidth=1, linestyle="--", label="level")
        title = "own threshold" if rule == OWN_DEFAULT else rule.replace("<=", "≤")
        ax.set(title=title.replace("far", "FAR"), xlim=(-0.05, 1.07),
               ylim=(-0.03 * top, 1.03 * top), xlabel=style.MISSES.replace(" (", "\n("))
    axes[0, 0].set_ylabel(style.FALSE_ALARMS)
    return style.finished(fig, 3)


def plot_promise(splits: pd.DataFrame, level: float, delta: float) -> Figure:
    """Test false alarm rates over random splits, beside what was promised.

    Parameters
    ----------
    splits : DataFrame
        Rows of :func:`monitorlab.evaluation.operating_points.resplit_check`, all with scope
        ``global``, and a column ``calibrator``.
    level, delta : float
        What was asked.
    """
    style.check_some(splits, "splits")
    order = list(dict.fromkeys(splits["name"]))
    expected = splits["calibrator"] == "crc"
    panels = {"in expectation: the mean stays below": splits[expected],
              f"with probability: below in {100 * (1 - delta):g} % of cases": splits[~expected]}
    panels = {title: part for title, part in panels.items() if len(part)}
    fig, axes = style.subplots(1, len(panels), style.TWO_COLUMNS, 1.6 + 0.4 * len(order),
                               sharex=True, sharey=True)
    for ax, (title, part) in zip(axes[0], panels.items(), strict=True):
        for place, ((unit, split_by), (label, color)) in enumerate(WAYS.items()):
            rows = part[(part["unit"] == unit) & (part["split_by"] == split_by)]
            rows = style.one_row_each(rows, "name", order)
            y = np.arange(len(order)) + 0.24 * (place - 1)
            ax.hlines(y, rows["far_q10"], rows["far_q90"], color=color, linewidth=2, alpha=0.6)
            ax.plot(rows["mean_far"], y, "o", color=color, markersize=4, label=label)
        ax.axvline(level, color=style.GREY, linestyle="--", linewidth=1, label="level")
        ax.set_yticks(range(len(order)), order)
        ax.set(xlabel=f"test {style.FALSE_ALARMS}".replace(" (", "\n("), xlim=(0, None))
        ax.set_title(title, fontsize=9)
    axes[0, 0].invert_yaxis()
    axes[0, 0].plot([], [], color=style.GREY, linewidth=2, alpha=0.6,
                    label="10th to 90th percentile")
    return style.finished(fig, 2)


def plot_scopes(points: pd.DataFrame, level: float, order: Sequence[str]) -> Figure:
    """False alarm rate of every cell under one global threshold and under one per cell.

    Parameters
    ----------
    points : DataFrame
        From :func:`monitorlab.evaluation.operating_points.calibrated_points`, both scopes, one
        calibrator, one level.
    level : float
        What was asked.
    order : sequence of str
        Monitors, one panel each.
    """
    style.check_some(order, "monitors")
    columns = min(3, len(order))
    rows = -(-len(order) // columns)
    by_cell = points[points["cell"] != ALL]
    titles = style.cell_titles(by_cell["cell"])
    cells = list(titles)
    height = 0.8 + max(1.9, 0.3 * len(cells)) * rows
    fig, axes = style.subplots(rows, columns, style.TWO_COLUMNS, height, sharex=True, sharey=True)
    for ax in axes.flat[len(order):]:
        ax.set_visible(False)
    for ax in axes.flat[max(len(order) - columns, 0) : len(order)]:  # the lowest panels
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(f"test {style.FALSE_ALARMS}".replace(" (", "\n("))
    for ax, name in zip(axes.flat, order, strict=False):
        for scope, color in SCOPE_COLORS.items():
            part = by_cell[(by_cell["name"] == name) & (by_cell["scope"] == scope)]
            part = style.one_row_each(part, "cell", cells)
            y = np.arange(len(cells)) + (0.16 if scope == "global" else -0.16)
            ax.errorbar(part["far"], y, marker="o", markersize=4, linestyle="none", color=color,
                        elinewidth=0.8, label=SCOPE_TITLES[scope],
                        xerr=style.whiskers(part["far"], part["far_low"], part["far_high"]))
        ax.axvline(level, color=style.GREY, linestyle="--", linewidth=1, label="level")
        ax.set_title(name, fontsize=9)
        ax.set_yticks(range(len(cells)), list(titles.values()))
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_xlim(left=-0.01)
    return style.finished(fig, 3)


def plot_cascade(sweep: pd.DataFrame) -> Figure:
    """Errors and cost of a cascade against the share of samples that it escalates.

    Parameters
    ----------
    sweep : DataFrame
        From :func:`monitorlab.evaluation.cost.cascade_sweep`.
    """
    style.check_some(sweep, "budgets")
    fig, axes = style.subplots(1, 2, style.TWO_COLUMNS, 3.3)
    left, right = axes[0]
    dots = {"marker": "o", "markersize": 4}
    left.plot(sweep["share"], sweep["mr"], color=style.UNSAFE, label="miss rate", **dots)
    left.plot(sweep["share"], sweep["far"], color=style.SAFE, label="false alarm rate", **dots)
    left.set(xlabel="share escalated (test, at the base rate)", ylabel="rate (lower is better)",
             xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    finite = sweep[np.isfinite(sweep["usd_per_caught"])]
    high = finite["usd_per_caught_high"]
    # An interval may have no upper end; the picture has one, above all that is finite.
    top = 1.05 * max([1e-9, *finite["usd_per_caught"], *high[np.isfinite(high)]])
    right.fill_between(finite["share"], finite["usd_per_caught_low"], high.clip(upper=2 * top),
                       color=style.GREY, alpha=0.2, linewidth=0, label="95 % interval of the price")
    right.plot(finite["share"], finite["usd_per_caught"], color=style.GREY, label="price", **dots)
    right.set(xlabel="share escalated (test, at the base rate)", ylim=(0, top),
              ylabel="USD per caught misbehavior\n(lower is better)", xlim=(-0.02, 1.02))
    return style.finished(fig, 4)


def plot_noise(bounds: pd.DataFrame, names: Sequence[str]) -> Figure:
    """What miss and false alarm rates may be if some labels are wrong.

    Parameters
    ----------
    bounds : DataFrame
        From :func:`monitorlab.evaluation.label_noise.noise_bounds` with equal noise rates.
    names : sequence of str
        Monitors to draw, in order; also for their colours.
    """
    style.check_some(names, "monitors")
    style.check_some(bounds, "noise rates")
    fig, axes = style.subplots(1, 2, style.TWO_COLUMNS, 1.2 + 0.34 * len(names), sharey=True)
    etas = sorted(bounds["eta1"].unique())
    shades = np.linspace(0.9, 0.35, len(etas))
    titles = {"mr": style.MISSES, "far": style.FALSE_ALARMS}
    for ax, (rate, title) in zip(axes[0], titles.items(), strict=True):
        for eta, shade in zip(etas, shades, strict=True):
            part = bounds[(bounds["rate"] == rate) & (bounds["eta1"] == eta)]
            part = style.one_row_each(part, "name", names)
            ax.hlines(range(len(names)), part["worst_low"], part["worst_high"], color=style.SAFE,
                      alpha=float(shade) * 0.5, linewidth=3 + 5 * float(shade),
                      label=f"worst case, {100 * eta:.1f} % of labels wrong")
        ax.plot(part["observed"], range(len(names)), "|", color="black", markersize=10,
                label="as labelled")
        ax.set_yticks(range(len(names)), list(names))
        ax.set(xlabel=title, xlim=(-0.02, 1.02))
    axes[0, 0].invert_yaxis()
    return style.finished(fig, 3)
