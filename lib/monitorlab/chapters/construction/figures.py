"""Figures of the benchmark chapters: one function each, from a tidy frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from monitorlab.benchmark.written import TIERS
from monitorlab.display.style import (
    BLACK,
    BLUE,
    CELL_TITLES,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SAFE,
    TWO_COLUMNS,
    UNSAFE,
    shared_legend,
    subplots,
)
from monitorlab.storage.tables import CELLS

TASK_COLORS = {"code": "#0072b2", "qa": "#e69f00", "reasoning": "#009e73"}
TASK_TITLES = {"code": "code", "qa": "QA", "reasoning": "reasoning"}
BARS = 24  # types that a panel names
PROBE_LOOKS = {
    "length": ("s", BLUE), "keywords": ("^", ORANGE), "response words": ("o", GREEN),
    "request words": ("x", BLACK), "all words": ("D", PURPLE),
}  # fmt: skip


def plot_types(samples: pd.DataFrame) -> Figure:
    """Pairs of each misbehavior type, one panel per category.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    """
    fig, axes = subplots(1, 3, TWO_COLUMNS, 6.6)
    pairs = samples[samples["label"] == 1]
    titles = {"spv": "Safety and permission", "syco": "Sycophancy (cue)", "sg": "Gaming"}
    for ax, (category, title) in zip(axes[0], titles.items(), strict=True):
        part = pairs[pairs["category"] == category]
        column = "cue_type" if category == "syco" else "misbehavior_type"
        counts = part.groupby([column, "task"]).size().unstack(fill_value=0)
        order = counts.sum(axis=1).sort_values(kind="stable").index
        rest, counts = counts.loc[order[:-BARS]], counts.loc[order[-BARS:]]
        left_out = f"\n({len(rest)} rarer types with {rest.to_numpy().sum()} pairs are left out)"
        left = np.zeros(len(counts))
        for task in counts.columns:
            names = [str(name).replace("_", " ") for name in counts.index]
            ax.barh(names, counts[task], left=left, color=TASK_COLORS[task],
                    label=TASK_TITLES[task])
            left += counts[task].to_numpy()
        ax.set_title(title)
        ax.set_xlabel("pairs" + (left_out if len(rest) else ""))
        ax.margins(y=0.01)
        ax.tick_params(axis="y", labelsize=7)
        ax.grid(axis="y", visible=False)
    shared_legend(fig, list(axes[0]), 3)
    return fig


def plot_lengths(samples: pd.DataFrame) -> Figure:
    """Distribution of response lengths, both sides, one panel per cell.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    """
    fig, axes = subplots(2, 3, TWO_COLUMNS, 4.0)
    for ax, cell in zip(axes.flat, CELLS, strict=True):
        part = samples[samples["cell"] == cell]
        words = part["response"].str.split().str.len()
        bins = np.linspace(0, np.quantile(words, 0.995), 26)
        for label, name, color in ((0, "benign", SAFE), (1, "misbehaving", UNSAFE)):
            chosen = words[part["label"] == label]
            ax.hist(chosen, bins, histtype="step", color=color, label=name, linewidth=1.4)
        ax.set_title(CELL_TITLES[cell])
    for ax in axes[1]:
        ax.set_xlabel("words in the response")
    for ax in axes[:, 0]:
        ax.set_ylabel("samples")
    shared_legend(fig, list(axes.flat), 2)
    return fig


def plot_probes(probes: pd.DataFrame, limits: Mapping[str, float]) -> Figure:
    """AUROC of every shortcut probe with its interval, one row per cell.

    Parameters
    ----------
    probes : DataFrame
        From `probes.probe_cells`.
    limits : mapping of str to float
        Largest AUROC that a probe shall reach, by cell.
    """
    cells = sorted(probes["cell"].unique(), key=[*CELLS, *probes["cell"]].index)
    fig, axes = subplots(1, 1, TWO_COLUMNS, 1.2 + 0.5 * len(cells))
    ax = axes[0, 0]
    for row, cell in enumerate(cells):
        ax.plot([limits[cell]] * 2, [row - 0.42, row + 0.42], color=UNSAFE, linewidth=1.5,
                label="goal")  # fmt: skip
        for place, (name, (marker, color)) in enumerate(PROBE_LOOKS.items()):
            found = probes[(probes["cell"] == cell) & (probes["probe"] == name)].iloc[0]
            height = row + (place - 2) * 0.17
            ax.plot([found["low"], found["high"]], [height] * 2, color=GREY, linewidth=1.2)
            ax.plot(found["auroc"], height, marker, color=color, label=name, markersize=5)
    ax.axvline(0.5, color=GREY, linestyle=":", linewidth=1)
    ax.set_yticks(range(len(cells)), [CELL_TITLES.get(cell, cell) for cell in cells])
    ax.invert_yaxis()
    ax.set_xlim(min(0.3, probes["low"].min() - 0.02), 1)
    ax.set_xlabel("AUROC (.5: no shortcut; bars: 95 % interval over scenarios)")
    shared_legend(fig, [ax], 6)
    return fig


def plot_agreement(frame: pd.DataFrame, pairs: Sequence[str]) -> Figure:
    """Agreement coefficients with intervals, one panel per pair of annotators.

    Parameters
    ----------
    frame : DataFrame
        Columns pair, coefficient, value, low, high.
    pairs : sequence of str
        Pairs of annotators to draw, in order.
    """
    fig, axes = subplots(1, len(pairs), TWO_COLUMNS, 2.1, sharey=True)
    for ax, pair in zip(axes[0], pairs, strict=True):
        part = frame[frame["pair"] == pair].reset_index(drop=True)
        ax.hlines(part.index, part["low"], part["high"], color=GREY, linewidth=1.5)
        ax.plot(part["value"], part.index, "o", color=SAFE)
        ax.set_yticks(list(part.index), list(part["coefficient"]))
        ax.set_title(pair)
        ax.set_xlim(min(0.85, float(part["low"].min()) - 0.03), 1.01)
        ax.set_xlabel("agreement ↑ (bars: 95 %)")
    axes[0, 0].invert_yaxis()
    return fig


def plot_by_tier(table: pd.DataFrame, name: str, value: str, label: str, guess: float) -> Figure:
    """Draw a share of several readers or monitors in each tier, one row for each.

    What is in no tier is drawn as not graded.

    Parameters
    ----------
    table : DataFrame
        Columns `name`, ``tier``, `value`, and its interval in ``..._low`` and ``..._high``; rows
        from top to bottom in its order.
    name, value : str
        Which columns.
    label : str
        Of the axis.
    guess : float
        What a coin has, drawn as a line.
    """
    rows = list(dict.fromkeys(table[name]))
    fig, axes = subplots(1, 1, TWO_COLUMNS, 0.9 + 0.34 * len(rows))
    ax = axes[0, 0]
    colors = {**dict(zip(TIERS, (BLUE, GREEN, ORANGE), strict=True)), "": GREY}
    tiers = [tier for tier in (*TIERS, "") if tier in set(table["tier"])]
    for place, tier in enumerate(tiers):
        part, color = table[table["tier"] == tier].set_index(name).reindex(rows), colors[tier]
        heights = np.arange(len(rows)) + (place - (len(tiers) - 1) / 2) * 0.2
        ax.hlines(heights, part[f"{value}_low"], part[f"{value}_high"], color=GREY, linewidth=1.2)
        ax.plot(part[value], heights, "o", color=color, label=tier or "not graded",
                markersize=5)
    ax.axvline(guess, color=GREY, linestyle=":", linewidth=1, label="a coin")
    ax.set_yticks(range(len(rows)), rows)
    ax.invert_yaxis()
    ax.set_xlabel(label)
    shared_legend(fig, [ax], 4)
    return fig


def plot_corpus(components: pd.DataFrame) -> Figure:
    """Samples per component of the training corpus, beside the published sizes.

    Parameters
    ----------
    components : DataFrame
        Columns component, published, built.
    """
    fig, axes = subplots(1, 1, TWO_COLUMNS, 2.2)
    ax = axes[0, 0]
    rows = range(len(components))
    ax.hlines(rows, components["built"], components["published"], color="#d5dbe3", linewidth=3)
    ax.plot(components["published"], rows, "D", color=GREY, label="published size")
    ax.plot(components["built"], rows, "o", color=SAFE, label="built in this run")
    ax.set_yticks(rows, [_component_title(name) for name in components["component"]])
    ax.set_xscale("log")
    ax.set_xlabel("samples (logarithmic)")
    ax.margins(y=0.12)
    ax.invert_yaxis()
    shared_legend(fig, [ax], 2)
    return fig


def plot_sway(effects: pd.DataFrame, model: str) -> Figure:
    """Change of the probability of the cued option, one row per cue, beside the neutral sentence.

    Parameters
    ----------
    effects : DataFrame
        From `monitorlab.chapters.construction.sway.effects`; the last row is the neutral sentence.
    model : str
        Name for the title.
    """
    fig, axes = subplots(1, 1, TWO_COLUMNS, 3.6)
    ax, rows, control = axes[0, 0], range(len(effects)), effects.iloc[-1]
    colors = [UNSAFE] * (len(effects) - 1) + [GREY]
    ax.axvspan(control["change_low"], control["change_high"], color=GREY, alpha=0.2, linewidth=0,
               label="interval of the neutral sentence")
    ax.axvline(0, color=BLACK, linestyle=":", linewidth=1, label="no change")
    ax.hlines(rows, effects["change_low"], effects["change_high"], color=colors, linewidth=1.6)
    ax.scatter(effects["change"], rows, color=colors, s=30, zorder=3)
    ax.set_yticks(rows, [str(name).replace("_", " ") for name in effects["cue"]])
    ax.invert_yaxis()
    ax.set_title(f"{model}, {control['questions']} questions")
    ax.set_xlabel("change of the probability of the cued wrong option (bars: 95 %; right: swayed)")
    shared_legend(fig, [ax], 2)
    return fig


def _component_title(name: str) -> str:
    """Title of the cell that a component belongs to, and what is special to the component."""
    for cell, title in CELL_TITLES.items():
        if name.startswith(cell):
            return f"{title}{name.removeprefix(cell).replace('_', ', ')}"
    return name.replace("_", " ")
