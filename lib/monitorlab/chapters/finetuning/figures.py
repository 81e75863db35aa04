"""Figures of fine-tuning: arms and cells as heat maps, moves from the base, transfer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.stats import norm

from monitorlab.chapters.finetuning import published as paper
from monitorlab.display import style
from monitorlab.display.style import BLACK, CELL_TITLES, FALSE_ALARMS, GREY, MISSES, TWO_COLUMNS

FAINT = "#c9cdd4"  # iso-d' curves, behind everything
GROUP_TITLES = {
    paper.SEEN_CELLS: "cells seen in training", paper.UNSEEN_OTHER: "unseen: other cells",
    paper.UNSEEN_SG: "unseen: specification gaming",
}  # fmt: skip
GROUP_COLORS = {paper.SEEN_CELLS: style.GREEN, paper.UNSEEN_SG: style.UNSAFE,
                paper.UNSEEN_OTHER: style.BLUE}


def _arm_title(arm: str, trained: Collection[str] | None = None) -> str:
    """Name of an arm in figures; arms beyond the paper's are called what they are."""
    missing = trained is not None and arm not in trained
    return paper.ARM_TITLES.get(arm, arm) + (" (not trained)" if missing else "")


def _arm_looks(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each arm: the paper's keep theirs, whatever others there are."""
    own = [arm for arm in dict.fromkeys(arms) if arm not in paper.ARM_TITLES]
    # `looks` goes by the alphabet; numbered names keep the order of the arms.
    numbered = {arm: f"{place:03d}" for place, arm in enumerate([*paper.ARM_TITLES, *own])}
    found = style.looks(list(numbered.values()))
    return {arm: found[numbered[arm]] for arm in dict.fromkeys(arms)}


def plot_matrix(matrix: pd.DataFrame, published: pd.DataFrame, title: str) -> Figure:
    """Miss and false alarm rates of every arm and cell, measured beside published.

    Parameters
    ----------
    matrix : DataFrame
        From :func:`monitorlab.chapters.finetuning.transfer.matrix`. Its arms are the rows.
    published : DataFrame
        From `monitorlab.chapters.finetuning.published`. Arms that the paper lacks are dashes
        there.
    title : str
        Above the figure; says so if a small stand-in was trained.
    """
    style.check_some(matrix, "arms")
    arms = list(dict.fromkeys(matrix["arm"]))
    fig, axes = style.subplots(2, 2, TWO_COLUMNS, 1.9 + 0.46 * len(arms), sharex=True, sharey=True)
    for row, (rate, words) in enumerate((("mr", MISSES), ("far", FALSE_ALARMS))):
        for ax, frame, source in zip(axes[row], (matrix, published), ("measured", "published"),
                                     strict=True):
            values = _wide(frame, rate, arms)
            ax.imshow(values, vmin=0, vmax=1, cmap="viridis_r", aspect="auto")
            _write(ax, values, [[_short(v) for v in line] for line in values], 0.5)
            _outline(ax, frame, arms)
            ax.set_title(f"{words[0].upper()}{words[1:]}, {source}", fontsize=9)
    return _labelled(fig, axes, arms, matrix, title)


def plot_auroc_matrix(matrix: pd.DataFrame, title: str) -> Figure:
    """AUROC of every arm and cell with its interval; white is chance.

    Parameters
    ----------
    matrix : DataFrame
        From :func:`monitorlab.chapters.finetuning.transfer.matrix`.
    title : str
        Above the figure.
    """
    style.check_some(matrix, "arms")
    arms = list(dict.fromkeys(matrix["arm"]))
    fig, axes = style.subplots(1, 1, TWO_COLUMNS, 1.6 + 0.4 * len(arms))
    ax = axes[0, 0]
    values, low, high = (_wide(matrix, f"auroc{end}", arms) for end in ("", "_low", "_high"))
    image = ax.imshow(values, vmin=0, vmax=1, cmap="RdBu", aspect="auto")
    texts = [[_short(v) if np.isnan([a, b]).any() else f"{_short(v)}\n{_short(a)} to {_short(b)}"
              for v, a, b in zip(*lines, strict=True)]
             for lines in zip(values, low, high, strict=True)]
    _write(ax, abs(values - 0.5), texts, 0.33)
    _outline(ax, matrix, arms)
    fig.colorbar(image, ax=ax, label="AUROC (higher is better)", fraction=0.03)
    return _labelled(fig, axes, arms, matrix, title)


def _wide(frame: pd.DataFrame, column: str, arms: Sequence[str]) -> NDArray[np.float64]:
    """Values as (arms, cells), NaN where there is none."""
    wide = frame.pivot(index="arm", columns="cell", values=column)
    return wide.reindex(index=list(arms), columns=list(CELL_TITLES)).to_numpy(float)


def _short(value: float) -> str:
    """Two decimals without the leading zero; a dash for a missing value."""
    return "–" if np.isnan(value) else f"{value:.2f}".removeprefix("0")


def _write(
    ax: Axes, darkness: NDArray[np.float64], texts: Sequence[Sequence[str]], limit: float
) -> None:
    """Write a text into every square, white where it is darker than `limit`."""
    for (row, column), dark in np.ndenumerate(darkness):
        ax.text(column, row, texts[row][column], ha="center", va="center", fontsize=7,
                color="white" if dark > limit else "black")


def _outline(ax: Axes, frame: pd.DataFrame, arms: Sequence[str]) -> None:
    """Frame the squares of cells that the arm was trained on."""
    cells, places = list(CELL_TITLES), {arm: place for place, arm in enumerate(arms)}
    for row in frame[frame["seen"] & frame["arm"].isin(places)].itertuples():
        corner = (cells.index(row.cell) - 0.47, places[row.arm] - 0.44)
        ax.add_patch(Rectangle(corner, 0.94, 0.88, fill=False, edgecolor="white", linewidth=3.2))
        ax.add_patch(Rectangle(corner, 0.94, 0.88, fill=False, edgecolor=BLACK, linewidth=1.6))


def _labelled(
    fig: Figure, axes: Any, arms: Sequence[str], matrix: pd.DataFrame, title: str
) -> Figure:
    """Name arms and cells, and say what the frames mean."""
    trained = set(matrix.loc[matrix["n"] > 0, "arm"])
    for ax in axes.flat:
        ax.grid(visible=False)
        ax.set_yticks(range(len(arms)), [_arm_title(arm, trained) for arm in arms])
    for ax in axes[-1]:
        ax.set_xticks(range(len(CELL_TITLES)), list(CELL_TITLES.values()), rotation=30, ha="right")
    axes[0, 0].scatter([], [], marker="s", facecolor="none", edgecolor=BLACK, linewidth=1.6, s=60,
                       label="trained on this cell")
    return style.finished(fig, 1, title, fontsize=10)


def plot_shift(shift: pd.DataFrame, title: str) -> Figure:
    """Where every arm went from the base in the plane of both errors, one panel per cell.

    Grey curves have one discrimination each: a line along them is a moved threshold, a line across
    them towards the lower left corner is something learned.

    Parameters
    ----------
    shift : DataFrame
        From :func:`monitorlab.evaluation.tradeoff.discrimination_or_threshold` or
        :func:`monitorlab.evaluation.tradeoff.shift_of_rates`.
    title : str
        Above the figure.
    """
    style.check_some(shift, "arms")
    cells = [cell for cell in CELL_TITLES if cell in set(shift["cell"])]
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    # With one scale for all panels their distances can be compared.
    fig, axes = style.subplots(rows, columns, TWO_COLUMNS, 1.1 + 2.6 * rows, sharex=True,
                               sharey=True)
    for ax in axes.flat[len(cells):]:
        ax.set_visible(False)
    drawn = list(axes.flat[: len(cells)])
    look = _arm_looks(list(dict.fromkeys(shift["arm"])))
    for ax, cell in zip(drawn, cells, strict=True):
        _lines(ax, shift[shift["cell"] == cell], look)
        _equal_discrimination(ax)
        ax.set_title(CELL_TITLES[cell], fontsize=9, pad=8)
    for ax in drawn[-columns:]:  # the lowest ones
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(FALSE_ALARMS.replace(" (", "\n("))
    for ax in axes[:, 0]:
        ax.set_ylabel(MISSES)
    return style.finished(fig, 4, title, fontsize=10)


def _lines(ax: Axes, part: pd.DataFrame, look: Mapping[str, tuple[str, str]]) -> None:
    """A line from the base to every arm of one cell."""
    for row in part.itertuples():
        color, marker = look[row.arm]
        ax.plot([row.far_before, row.far], [row.mr_before, row.mr], color=color, linewidth=1.2,
                zorder=2)
        ax.plot(row.far, row.mr, color=color, marker=marker, linestyle="none", markersize=5.5,
                zorder=3, label=_arm_title(row.arm))
    first = part.iloc[0]
    ax.plot(first["far_before"], first["mr_before"], color="white", markeredgecolor=BLACK,
            marker="o", markersize=7, linestyle="none", zorder=4, label="base")


def _equal_discrimination(ax: Axes) -> None:
    """A unit square with curves of equal discrimination."""
    ticks = np.linspace(0, 1, 6)
    far = np.linspace(0.001, 0.999, 400)
    labels = {0: "chance", 1: "equal discrimination, d' = 1, 2, 3"}
    for d_prime in range(4):
        ax.plot(far, norm.cdf(-d_prime - norm.ppf(far)), color=FAINT, linewidth=0.9, zorder=0,
                linestyle="-" if d_prime else "--", label=labels.get(d_prime, ""))
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=ticks, yticks=ticks)
    ax.set_aspect("equal")
    ax.grid(visible=False)


def plot_transfer(means: pd.DataFrame, published: pd.DataFrame, title: str) -> Figure:
    """Balanced accuracy of every arm on cells it has seen and on others, one panel per group.

    Parameters
    ----------
    means : DataFrame
        From :meth:`monitorlab.chapters.finetuning.transfer.Transfer.means`. The goal is drawn in
        the panel of unseen SG.
    published : DataFrame
        From :func:`monitorlab.chapters.finetuning.published.published_transfer`: hollow marks.
    title : str
        Above the figure.
    """
    rows, known = (table[table["metric"] == "balanced_accuracy"] for table in (means, published))
    style.check_some(rows, "arms")
    arms = list(dict.fromkeys([*published["arm"], *rows["arm"]]))
    fig, axes = style.subplots(1, len(paper.GROUPS), TWO_COLUMNS, 1.5 + 0.29 * len(arms),
                               sharex=True, sharey=True)
    y = np.arange(len(arms))
    for ax, group in zip(axes[0], paper.GROUPS, strict=True):
        part = style.one_row_each(rows[rows["group"] == group], "arm", arms)
        ax.errorbar(part["value"], y, xerr=style.whiskers(part["value"], part["low"], part["high"]),
                    color=GROUP_COLORS[group], marker="o", linestyle="none", elinewidth=1.4,
                    markersize=5.5, zorder=3)
        there = style.one_row_each(known[known["group"] == group], "arm", arms)
        ax.plot(there["value"], y, color=GREY, marker="D", markerfacecolor="white",
                linestyle="none", markersize=5, zorder=2, label="published (other data)")
        if group == paper.UNSEEN_SG:
            goal = paper.GOAL["balanced_accuracy"]
            ax.axvline(goal, color=BLACK, linestyle="--", linewidth=1, label=f"goal, {goal:g}")
        ax.axvline(0.5, color=GREY, linestyle=":", linewidth=1, label="chance")
        ax.set_title(GROUP_TITLES[group], fontsize=9)
        ax.set_xlabel("balanced accuracy\n(higher is better)")
    _arms_on_y(axes, arms, set(rows["arm"]))
    axes[0, 0].errorbar([], [], xerr=np.zeros((2, 0)), color=BLACK, marker="o", linestyle="none",
                        label="measured, 95 % interval over scenarios")
    return style.finished(fig, 4, title, fontsize=10)


def plot_beyond(differences: pd.DataFrame, title: str) -> Figure:
    """What arms beyond the recipe gain over the reference, on unseen and on seen cells.

    Marks are filled where ``p_holm`` is at most .05.

    Parameters
    ----------
    differences : DataFrame
        From :func:`monitorlab.chapters.finetuning.transfer.Transfer.differences`.
    title : str
        Above the figure.
    """
    groups = (paper.UNSEEN_SG, paper.SEEN_CELLS)
    order = list(dict.fromkeys(differences["arm"]))
    rows = differences[differences["metric"] == "balanced_accuracy"]
    style.check_some(rows, "differences")
    fig, axes = style.subplots(1, len(groups), TWO_COLUMNS, 1.6 + 0.3 * len(order), sharex=True,
                               sharey=True)
    y = np.arange(len(order))
    for ax, group in zip(axes[0], groups, strict=True):
        part = style.one_row_each(rows[rows["group"] == group], "arm", order)
        color = GROUP_COLORS[group]
        ax.errorbar(part["difference"], y, color=color, linestyle="none", elinewidth=1.4, zorder=2,
                    xerr=style.whiskers(part["difference"], part["low"], part["high"]))
        for clear, face in ((True, color), (False, "white")):
            chosen = part["difference"].where((part["p_holm"] <= 0.05) == clear)
            ax.plot(chosen, y, marker="o", linestyle="none", color=color, markerfacecolor=face,
                    markersize=6, zorder=3)
        ax.axvline(0, color=BLACK, linewidth=1)
        ax.set_title(GROUP_TITLES[group], fontsize=9)
        ax.set_xlabel("balanced accuracy, difference to "
                      f"“{_arm_title(paper.ALL_COMPONENTS)}”\n(higher is better)")
    low, high = axes[0, 0].get_xlim()
    axes[0, 0].set_xlim(min(low, -0.05), max(high, 0.05))
    _arms_on_y(axes, order, order)
    for label, face in (("differs from 0 (Holm, 5 %)", GREY),
                        ("does not clearly differ", "white")):
        axes[0, 0].plot([], [], marker="o", linestyle="none", color=GREY, markerfacecolor=face,
                        label=label)
    axes[0, 0].plot([], [], color=GREY, linewidth=1.4, label="95 % interval over scenarios")
    return style.finished(fig, 3, title, fontsize=10)


def _arms_on_y(axes: Any, arms: Sequence[str], trained: Collection[str]) -> None:
    """Name arms from top to bottom, with room above and below."""
    axes[0, 0].set_yticks(range(len(arms)), [_arm_title(arm, trained) for arm in arms])
    axes[0, 0].set_ylim(len(arms) - 0.4, -0.6)
    for ax in axes[0]:
        ax.grid(axis="y", visible=False)
        for place in range(0, len(arms), 2):  # stripes lead the eye across panels
            ax.axhspan(place - 0.5, place + 0.5, color="#f3f4f6", zorder=0, linewidth=0)
