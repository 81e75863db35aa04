"""Figures of the matrix of arms and cells: heat maps, and how arms moved away from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.stats import norm

from monitorlab.benchmark.figures import CELL_TITLES
from monitorlab.evaluation.figures import FALSE_ALARMS, MISSES, check_some, looks
from monitorlab.finetuning.published import ARM_TITLES
from monitorlab.style import BLACK, GREY, TWO_COLUMNS, shared_legend, subplots

DIRECTIONS = {"auroc": "AUROC (higher is better)", "g2": "g-mean² (higher is better)",
              "balanced_accuracy": "balanced accuracy (higher is better)",
              "mr": MISSES, "far": FALSE_ALARMS}
TRAINED = "trained on this cell"
FAINT = "#c9cdd4"  # iso-d' curves, behind everything


def arm_title(arm: str) -> str:
    """Name of an arm in figures; arms beyond the paper's are called what they are."""
    return ARM_TITLES.get(arm, arm)


def arm_looks(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each arm: the paper's keep theirs, whatever others there are."""
    own = [arm for arm in dict.fromkeys(arms) if arm not in ARM_TITLES]
    # `looks` goes by the alphabet; numbered names keep the order of the arms.
    numbered = {arm: f"{place:03d}" for place, arm in enumerate([*ARM_TITLES, *own])}
    found = looks(list(numbered.values()))
    return {arm: found[numbered[arm]] for arm in dict.fromkeys(arms)}


def set_title(fig: Figure, title: str) -> None:
    """Put a title above a figure; none if it is empty."""
    if title:
        fig.suptitle(title, fontsize=10)


def plot_matrix(matrix: pd.DataFrame, published: pd.DataFrame, *, title: str = "") -> Figure:
    """Miss and false alarm rates of every arm and cell, measured beside published.

    Parameters
    ----------
    matrix : DataFrame
        From :func:`monitorlab.finetuning.matrix.matrix`. Its arms are the rows.
    published : DataFrame
        From :func:`monitorlab.finetuning.published.published`. Arms that the paper does not have
        are dashes there.
    title : str
        Above the figure; says so if a small stand-in was trained.
    """
    check_some(matrix, "arms")
    arms = list(dict.fromkeys(matrix["arm"]))
    fig, axes = subplots(2, 2, TWO_COLUMNS, 1.9 + 0.46 * len(arms), sharex=True, sharey=True)
    for row, (rate, words) in enumerate((("mr", MISSES), ("far", FALSE_ALARMS))):
        for ax, frame, source in zip(axes[row], (matrix, published), ("measured", "published"),
                                     strict=True):
            values = _wide(frame, rate, arms)
            ax.imshow(values, vmin=0, vmax=1, cmap="viridis_r", aspect="auto")
            _write(ax, values, [[_short(v) for v in line] for line in values], 0.5)
            _outline(ax, frame, arms)
            ax.set_title(f"{words[0].upper()}{words[1:]}, {source}", fontsize=9)
    _label(fig, axes, arms, title)
    return fig


def plot_auroc_matrix(matrix: pd.DataFrame, *, title: str = "") -> Figure:
    """AUROC of every arm and cell with its interval; white is chance.

    Parameters
    ----------
    matrix : DataFrame
        From :func:`monitorlab.finetuning.matrix.matrix`.
    title : str
        Above the figure.
    """
    check_some(matrix, "arms")
    arms = list(dict.fromkeys(matrix["arm"]))
    fig, axes = subplots(1, 1, TWO_COLUMNS, 1.6 + 0.4 * len(arms))
    ax = axes[0, 0]
    values, low, high = (_wide(matrix, f"auroc{end}", arms) for end in ("", "_low", "_high"))
    image = ax.imshow(values, vmin=0, vmax=1, cmap="RdBu", aspect="auto")
    texts = [[_short(v) if np.isnan([a, b]).any() else f"{_short(v)}\n{_short(a)} to {_short(b)}"
              for v, a, b in zip(*lines, strict=True)]
             for lines in zip(values, low, high, strict=True)]
    _write(ax, abs(values - 0.5), texts, 0.33)
    _outline(ax, matrix, arms)
    fig.colorbar(image, ax=ax, label=DIRECTIONS["auroc"], fraction=0.03)
    _label(fig, axes, arms, title)
    return fig


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


def _label(fig: Figure, axes: Any, arms: Sequence[str], title: str) -> None:
    """Name arms and cells, and say what the frames mean."""
    for ax in axes.flat:
        ax.grid(visible=False)
        ax.set_yticks(range(len(arms)), [arm_title(arm) for arm in arms])
    for ax in axes[-1]:
        ax.set_xticks(range(len(CELL_TITLES)), list(CELL_TITLES.values()), rotation=30, ha="right")
    first = axes[0, 0]
    first.scatter([], [], marker="s", facecolor="none", edgecolor=BLACK, linewidth=1.6, s=60,
                  label=TRAINED)
    shared_legend(fig, [first], 1)
    set_title(fig, title)


PLANES = {"rates": ("far", "mr"), "model": ("criterion", "d_prime")}


def plot_shift(
    shift: pd.DataFrame, *, arms: Sequence[str] = (), plane: str = "rates", title: str = ""
) -> Figure:
    """Where every arm went from the base, one panel per cell.

    In the plane of rates, grey curves have one discrimination each: a line along them is a moved
    threshold, a line across them towards the lower left corner is something learned.

    Parameters
    ----------
    shift : DataFrame
        From :func:`monitorlab.finetuning.shift.discrimination_or_threshold` or
        :func:`monitorlab.finetuning.shift.shift_of_rates`.
    arms : sequence of str
        Those to draw; all, if empty.
    plane : {"rates", "model"}
        False alarm and miss rate, or criterion and d'.
    title : str
        Above the figure.
    """
    if plane not in PLANES:
        raise ValueError(f"plane is {plane!r}, expected one of {', '.join(PLANES)}")
    chosen = shift[shift["arm"].isin(list(arms))] if len(arms) else shift
    check_some(chosen, "arms")
    cells = [cell for cell in CELL_TITLES if cell in set(chosen["cell"])]
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    # With one scale for all panels their distances can be compared.
    fig, axes = subplots(rows, columns, TWO_COLUMNS, 1.1 + 2.6 * rows, sharex=True, sharey=True)
    for ax in axes.flat[len(cells):]:
        ax.set_visible(False)
    style = arm_looks(list(dict.fromkeys(shift["arm"])))
    for ax, cell in zip(axes.flat, cells, strict=False):
        _lines(ax, chosen[chosen["cell"] == cell], PLANES[plane], style)
        ax.set_title(CELL_TITLES[cell], fontsize=9)
    drawn = list(axes.flat[: len(cells)])
    (_rates_plane if plane == "rates" else _model_plane)(drawn)
    for ax in drawn[-columns:]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(FALSE_ALARMS.replace(" (", "\n(") if plane == "rates"
                      else "criterion c\n(higher: fewer alarms)")
    for ax in axes[:, 0]:
        ax.set_ylabel(MISSES if plane == "rates" else "discrimination d'\n(higher is better)")
    shared_legend(fig, drawn, 4)
    set_title(fig, title)
    return fig


def _lines(
    ax: Axes, part: pd.DataFrame, plane: tuple[str, str], style: Mapping[str, tuple[str, str]]
) -> None:
    x, y = plane
    for row in part.to_dict("records"):
        start, end = (row[f"{x}_before"], row[f"{y}_before"]), (row[x], row[y])
        color, marker = style[row["arm"]]
        ax.plot(*zip(start, end, strict=True), color=color, linewidth=1.2, zorder=2)
        ax.plot(*end, color=color, marker=marker, linestyle="none", markersize=5.5, zorder=3,
                label=arm_title(row["arm"]))
    first = part.iloc[0]
    ax.plot(first[f"{x}_before"], first[f"{y}_before"], color="white", markeredgecolor=BLACK,
            marker="o", markersize=7, linestyle="none", zorder=4, label="base")


def _rates_plane(drawn: Sequence[Axes]) -> None:
    """Unit squares with curves of equal discrimination."""
    ticks = np.linspace(0, 1, 6)
    far = np.linspace(0.001, 0.999, 400)
    for ax in drawn:
        for d_prime in (0, 1, 2, 3):
            ax.plot(far, norm.cdf(-d_prime - norm.ppf(far)), color=FAINT, linewidth=0.9, zorder=0,
                    linestyle="-" if d_prime else "--",
                    label="equal discrimination, d' = 1, 2, 3" if d_prime == 1 else "chance"
                    if d_prime == 0 else "")
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=ticks, yticks=ticks)
        ax.set_aspect("equal")
        ax.grid(visible=False)


def _model_plane(drawn: Sequence[Axes]) -> None:
    """Lines of the neutral criterion and of no discrimination."""
    for ax in drawn:
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
        ax.axvline(0, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
