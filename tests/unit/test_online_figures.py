"""Figures draw any name as text, within their room, and infinite scores at the edge."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from monitorlab.chapters import online as figures
from monitorlab.display.style import TWO_COLUMNS, _wrapped, shared_legend, subplots
from monitorlab.online.comparison import PAPER_METHODS, TRIVIAL_METHODS, compare_methods
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import calibrate

NAMES = ("cost_$5_vs_$x", r"a\frac{", "_private", "50%^2_{", "$", "x" * 250, "many words " * 25)


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of what other tests left behind
        yield
    plt.close("all")


def data(name: str) -> Trajectories:
    rng = np.random.default_rng(0)
    labels = (np.arange(60) % 2).astype(np.int8)
    scores = rng.normal(size=(60, 3)) + labels[:, None]
    return Trajectories.from_padded(name, name, [f"t{i}" for i in range(60)], scores,
                                    np.ones((60, 3)), labels)


def drawn(fig: Figure) -> tuple[str, float]:
    """All text of the figure as it was drawn, and its width in inches."""
    out = io.BytesIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        fig.savefig(out, format="svg", bbox_inches="tight")
    svg = out.getvalue().decode()
    width = re.search(r'width="([\d.]+)pt"', svg)
    assert width is not None
    return "".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg)), float(width[1]) / 72


@pytest.mark.parametrize("name", [NAMES[0], NAMES[5]])
def test_every_figure_draws_a_name_as_it_is(name):
    one = data(name)
    split = (np.arange(30), np.arange(30, 60))
    methods = (*PAPER_METHODS[:1], *TRIVIAL_METHODS)
    results = compare_methods(one, methods, [split], levels=(0.2,))
    panels = {(name, name): figures.sizes(one)}
    threshold = calibrate(one.flat_scores[:30], 0.2)
    for fig in (
        figures.plot_examples(one, threshold, f"Until the alarm: {name}", [0, 1]),
        figures.plot_protocol(results, panels, ["CRC"], name),
        figures.plot_trade_off(results, panels, 0.2, name),
        figures.plot_signals(results, {name: name}, "CRC", "Signals"),
    ):
        text, width = drawn(fig)
        assert width < TWO_COLUMNS + 1.5
        start = name[:12].replace("_", "").replace(" ", "")
        assert start in text.replace("_", "").replace(" ", "")
        if "suspicion" not in text:  # every comparison has the trivial baselines beside it
            assert all(method.label in text for method in TRIVIAL_METHODS)


@pytest.mark.parametrize("name", NAMES)
def test_names_at_axes_and_in_legends_are_text_too(name):
    fig, axes = subplots(1, 2, TWO_COLUMNS, 3)
    for ax in axes[0]:
        ax.plot([1, 10], [0, 1], label=name)
        ax.set_yticks([0, 1], [name, "other"])
        ax.set_title(name)
        ax.set_xscale("log")
    shared_legend(fig, list(axes[0]), 1)
    text, width = drawn(fig)
    assert width < 2 * TWO_COLUMNS
    if name == NAMES[-1]:  # drawing again changes nothing
        assert drawn(fig)[0] == text
    assert text.replace(" ", "").count(name[:9].replace(" ", "")) >= 5
    assert "mathdefault" not in text  # powers of ten stay formulas


def test_long_names_keep_their_ends():
    assert _wrapped("short", 20) == "short"
    lines = _wrapped("a" * 100 + "b" * 100, 20).split("\n")
    assert len(lines) == 3 and max(map(len, lines)) <= 20
    assert lines[0].startswith("aaa") and lines[-1].endswith("bbb")


def test_infinite_scores_are_drawn_at_the_edge():
    one = data("ends")
    one.flat_scores[:3] = [-np.inf, 0.0, np.inf]
    for peaks in ([0.5] * 40, [np.inf] * 40, []):
        fig = figures.plot_examples(one, calibrate(peaks, 0.2), "Ends", [0, 1])
        text, _ = drawn(fig)
        assert text.count("∞") == 2 and "Ends (small" not in text
    made = replace(one, stand_in=True)
    assert "Ends (small stand-in)" in drawn(
        figures.plot_examples(made, calibrate([0.5] * 40, 0.2), "Ends", [0, 1]))[0]
    everything = replace(one, flat_scores=np.full_like(one.flat_scores, -np.inf))
    drawn(figures.plot_examples(everything, calibrate([], 0.2), "Nothing finite", [0]))


def test_sizes_of_both_classes_stand_beside_a_figure():
    one = data("mine")
    split = (np.arange(30), np.arange(30, 60))
    results = compare_methods(one, PAPER_METHODS[:1], [split], levels=(0.2,))
    fig = figures.plot_protocol(results, {("mine", "mine"): figures.sizes(one)}, ["CRC"], "t")
    assert fig.axes[0].get_title() == "mine\n(30 safe, 30 unsafe)"
    assert "(30 safe, 30 unsafe)" in drawn(fig)[0]
