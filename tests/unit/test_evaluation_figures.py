"""Figures of the evaluation chapters: what is drawn, not how it looks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

from monitorlab.chapters import evaluation as figures
from monitorlab.chapters import operating_points as operating_figures
from monitorlab.display import style
from monitorlab.display.style import CELL_TITLES, SAFE, UNSAFE
from monitorlab.evaluation.comparisons import TREATMENTS, compare, pair_anatomy
from monitorlab.evaluation.cost import cascade_sweep
from monitorlab.evaluation.label_noise import noise_bounds
from monitorlab.evaluation.operating_points import (
    ALL,
    calibrated_points,
    resplit_check,
    tradeoff_at_own_threshold,
)
from monitorlab.evaluation.rates import rates
from monitorlab.evaluation.tradeoff import Line
from monitorlab.statistics.roc import roc_band

CELLS = list(CELL_TITLES)
NAMES = ["rules, else TF-IDF", "small LM, as text, evidence", "coin", "TF-IDF > encoder"]
MANY = [f"monitor {i:02}" for i in range(14)]
NO_LINE = Line(1, *[np.nan] * 8)


def judged_frame(name: str, seed: int = 0, pairs: int = 20, skill: float = 0.3) -> pd.DataFrame:
    """Pairs in every cell, half of them dev; every eleventh verdict failed, but for seed 0."""
    rng = np.random.default_rng(seed)
    n = 2 * pairs * len(CELLS)
    number, labels = np.arange(n) // 2, np.tile([1, 0], n // 2)
    scores = np.clip(rng.normal(0.5 + skill * (labels - 0.5), 0.2), 0, 1)
    parsed = np.ones(n, bool) if seed == 0 else np.arange(n) % 11 > 0
    return pd.DataFrame({
        "name": name, "monitor": name, "prompt": "none", "draw": 0, "label": labels,
        "sample_id": [f"s{i:04}" for i in range(n)], "pair_id": [f"p{i:04}" for i in number],
        "scenario_id": [f"c{i // 4}" for i in number], "cell": np.repeat(CELLS, 2 * pairs),
        "split": np.where(number % pairs < pairs // 2, "dev", "test"),
        "status": np.where(parsed, "parsed", "unparsed"),
        "score": np.where(parsed, scores, np.nan), "verdict": pd.array(scores > 0.5, "boolean"),
        "seconds": 0.1, "cost_usd": 0.01, "input_tokens": pd.array([9] * n, "Int64"),
        "output_tokens": pd.array([1] * n, "Int64"), "evidence": "", "request_hash": "x",
    }).assign(verdict=lambda frame: frame["verdict"].where(parsed))


JUDGED = pd.concat([judged_frame(name, seed, skill=0.1 + 0.2 * seed)
                    for seed, name in enumerate(NAMES)], ignore_index=True)
RATES = rates(JUDGED)
BY_CELL = rates(JUDGED, by=("name", "cell"))


@pytest.fixture(autouse=True)
def strict_and_closed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of what other tests left behind
        yield
    plt.close("all")


def rendered(fig: Figure) -> bytes:
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def points_of(ax: Axes) -> dict[str, tuple[float, float, str, str]]:
    """Label to x, y, colour and marker of each single monitor with error bars."""
    found = {}
    for drawn in ax.containers:
        line = drawn.lines[0]
        x, y = (float(values[0]) for values in line.get_data())
        found[drawn.get_label()] = (x, y, to_hex(line.get_color()), line.get_marker())
    return found


def legend_of(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.legends[0].get_texts()]


def a_curve(name: str) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    part = JUDGED[(JUDGED["name"] == name) & JUDGED["score"].notna()]
    band = roc_band(part["score"], part["label"], part["scenario_id"], np.random.default_rng(0), 30)
    return {name: band.grid}, part


def test_every_one_of_many_monitors_has_a_look_of_its_own():
    found = style.looks([f"{i:03}" for i in range(100)])
    assert len(set(found.values())) == 100
    assert style.looks(MANY[::-1]) == style.looks(MANY) == style.looks(MANY + MANY)


def test_whiskers_are_never_negative_and_stay_missing():
    lengths = style.whiskers([0.0, 0.4, np.nan], [1e-17, 0.1, np.nan], [0.2, 0.4 - 1e-17, 0.3])
    assert lengths[:, :2] == pytest.approx(np.array([[0.0, 0.3], [0.2, 0.0]]))
    assert (lengths[:, :2] >= 0).all() and np.isnan(lengths[:, 2]).all()


def test_plane_has_a_point_per_monitor_where_its_rates_are():
    line = Line.fit(RATES)
    fig = figures.plot_plane(RATES, line, (-0.42, 0.49), MANY + NAMES)
    ax, known = fig.axes[0], style.looks(MANY + NAMES)
    drawn = points_of(ax)
    assert set(drawn) == set(NAMES)
    for row in RATES.itertuples():
        x, y, color, marker = drawn[row.name]
        assert (x, y) == pytest.approx((row.mr, row.far))
        assert (color, marker) == (known[row.name][0].lower(), known[row.name][1])
    assert ax.get_xlabel() == "miss rate (lower is better)"
    assert ax.get_ylabel() == "false alarm rate (lower is better)"
    ends = {drawn.get_label(): drawn.get_ydata() for drawn in ax.lines}
    assert ends["published line"] == pytest.approx([0.49, 0.07])
    assert ends["fitted line"] == pytest.approx([line.intercept, line.intercept + line.slope])
    assert rendered(fig).startswith(b"\x89PNG")


def test_plane_leaves_out_what_is_not_defined():
    alone = RATES.head(2).assign(mr=[0.3, np.nan], mr_low=[0.3 + 1e-17, np.nan])
    fig = figures.plot_plane(alone, NO_LINE, (-0.42, 0.49), NAMES)
    assert set(points_of(fig.axes[0])) == {alone["name"].iloc[0]}
    assert "fitted line" not in legend_of(fig)
    rendered(fig)


def test_cells_show_every_rate_and_a_dash_where_there_is_none():
    asked = BY_CELL[(BY_CELL["name"] != "coin") | BY_CELL["cell"].isin(CELLS[:2])]
    order = [*NAMES, "never asked"]
    fig = figures.plot_cells(asked, order)
    *maps, bar = fig.axes
    assert "yellow is good" in bar.get_ylabel()
    for ax, rate in zip(maps, ("mr", "far"), strict=True):
        assert "(lower is better)" in ax.get_title()
        texts = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text()
                 for t in ax.texts}
        assert len(texts) == len(order) * len(CELLS)
        dashes = {place for place, text in texts.items() if text == "–"}
        coin, last = order.index("coin"), len(NAMES)
        assert dashes == {(coin, c) for c in range(2, 6)} | {(last, c) for c in range(6)}
        value = asked.set_index(["name", "cell"]).loc[(NAMES[1], CELLS[3]), rate]
        assert texts[1, 3] == f"{value:.2f}".removeprefix("0")
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == order
    rendered(fig)


def test_anatomy_stacks_shares_to_one_and_colours_them_by_treatment():
    anatomy = pair_anatomy(JUDGED)
    fig = figures.plot_anatomy(anatomy, NAMES)
    ax = fig.axes[0]
    assert len(ax.patches) == len(NAMES) * len(TREATMENTS)
    shares = anatomy.set_index(["name", "treatment"])["share"]
    for treatment, bars in zip(TREATMENTS, ax.containers, strict=True):
        for name, bar in zip(NAMES, bars, strict=True):
            assert bar.get_width() == pytest.approx(shares[name, treatment])
            assert bar.get_facecolor() == to_rgba(figures.style.TREATMENT_COLORS[treatment])
    ends = [bar.get_x() + bar.get_width() for bar in ax.containers[-1]]
    assert ends == pytest.approx([1.0] * len(NAMES))
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first name is on top
    rendered(fig)


def test_anatomy_without_some_treatment_has_empty_bars_for_it():
    anatomy = pair_anatomy(JUDGED)
    fig = figures.plot_anatomy(anatomy[anatomy["treatment"] != "undecided"], NAMES)
    assert [bar.get_width() for bar in fig.axes[0].containers[-1]] == [0.0] * len(NAMES)


def compared_pair(difference: float, separated: bool, survives: bool) -> pd.DataFrame:
    rows = [{"error": error, "first": "a", "second": "b", "difference": difference,
             "separated": separated, "survives": survives} for error in ("miss", "false_alarm")]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("separated", "survives", "seen", "marks"), [
    (True, True, 1.0, 0), (True, False, 1.0, 2), (False, False, 0.0, 0)])
def test_separation_says_which_row_has_fewer(separated, survives, seen, marks):
    fig = figures.plot_separation(compared_pair(-0.2, separated, survives), ["a", "b"])
    for ax in fig.axes:
        matrix = np.asarray(ax.images[0].get_array().filled(np.nan))
        assert (matrix[0, 1], matrix[1, 0]) == (seen, -seen)  # the first has fewer: blue
        assert np.isnan(np.diag(matrix)).all()
        assert [text.get_text() for text in ax.texts] == ["?"] * marks
        if separated:
            assert to_hex(ax.images[0].cmap(1.0)) == SAFE.lower()
    assert legend_of(fig)[:2] == ["row has fewer (good)", "row has more"]


def test_separation_leaves_out_monitors_that_are_not_in_the_order():
    fig = figures.plot_separation(compare(JUDGED), NAMES[:2])
    assert fig.axes[0].images[0].get_array().shape == (2, 2)
    rendered(fig)


def judges_frame() -> pd.DataFrame:
    by_source = rates(JUDGED.assign(source=np.where(JUDGED["cell"] == CELLS[0], "tool", "chat")),
                      by=("source", "name"))
    missing = (by_source["source"] == "tool") & (by_source["name"] == "coin")
    return by_source.assign(**{column: by_source[column].where(~missing)
                               for column in ("mr", "mr_low", "mr_high")})


def test_judges_have_boxes_of_what_failed_verdicts_allow():
    frame = judges_frame()
    fig = figures.plot_judges(frame, {"chat": "Chat", "tool": "Tools"})
    assert [ax.get_title() for ax in fig.axes] == ["Chat", "Tools"]
    for ax, source in zip(fig.axes, ("chat", "tool"), strict=True):
        rows = list(frame[frame["source"] == source].itertuples())
        assert len(ax.patches) == len(rows) == len(NAMES)
        for row, box in zip(rows, ax.patches, strict=True):
            extent = (box.get_x(), box.get_y(), box.get_x() + box.get_width(),
                      box.get_y() + box.get_height())
            assert extent == pytest.approx((row.mr_least, row.far_least, row.mr_most, row.far_most))
    failing, whole = fig.axes[0].patches[0], NAMES[0]
    assert {box.get_width() > 0 for box in fig.axes[0].patches} == {True, False}
    assert failing.get_width() > 0 and whole in points_of(fig.axes[0])
    chat, tool = (points_of(ax) for ax in fig.axes)
    assert set(tool) == set(NAMES) - {"coin"}
    assert all(tool[name][2:] == chat[name][2:] for name in tool)
    rendered(fig)


def test_a_judge_known_by_its_box_only_is_in_the_legend():
    frame = judges_frame()
    fig = figures.plot_judges(frame[frame["source"] == "tool"], {"tool": "Tools"})
    assert sorted(legend_of(fig)) == sorted(NAMES)
    rendered(fig)


def test_a_monitor_keeps_its_colour_in_every_figure():
    everyone, name = MANY + NAMES, NAMES[0]
    color, marker = style.looks(everyone)[name]
    plane = figures.plot_plane(RATES, NO_LINE, (-0.42, 0.49), everyone)
    rules = operating_figures.plot_rules(tradeoff_at_own_threshold(JUDGED, [0.1]), everyone)
    for fig in (plane, rules):
        assert points_of(fig.axes[0])[name][2:] == (color.lower(), marker)
    curves = operating_figures.plot_curves(*a_curve(name), everyone)
    for ax in curves.axes:
        assert (ax.lines[0].get_color(), ax.lines[0].get_marker()) == (color, marker)


def test_curves_draw_the_grid_its_band_and_det_points():
    bands, scored = a_curve(NAMES[2])
    fig = operating_figures.plot_curves(bands, scored, NAMES)
    left, right = fig.axes
    grid = bands[NAMES[2]]
    assert left.lines[0].get_ydata() == pytest.approx(grid["tpr"])
    edge = left.collections[0].get_paths()[0].vertices
    assert (edge[:, 1].min(), edge[:, 1].max()) == pytest.approx(
        (grid["low"].min(), grid["high"].max()))
    assert len(right.lines[0].get_xdata()) == scored["score"].nunique() + 1
    assert [t.get_text() for t in right.get_xticklabels()] == ["1", "5", "20", "40", "60", "80",
                                                               "95", "99"]
    assert left.get_ylabel() == "detection rate (higher is better)"
    assert "(lower is better)" in right.get_ylabel()
    rendered(fig)


def test_rules_have_a_panel_each_and_the_level_where_one_was_asked():
    table = tradeoff_at_own_threshold(JUDGED, [0.05, 0.2])
    fig = operating_figures.plot_rules(table, NAMES)
    assert [ax.get_title() for ax in fig.axes] == ["own threshold", "FAR ≤ 0.05", "FAR ≤ 0.2"]
    for ax, rule in zip(fig.axes, table["rule"].unique(), strict=True):
        drawn = points_of(ax)
        for row in table[table["rule"] == rule].itertuples():
            assert drawn[row.name][:2] == pytest.approx((row.mr, row.far))
        levels = [line.get_ydata()[0] for line in ax.lines if line.get_label() == "level"]
        assert levels == list(table.loc[table["rule"] == rule, "level"].dropna().unique())
        assert ax.get_ylim()[1] > table["far_high"].max()
    rendered(fig)


def test_promise_shows_means_and_percentiles_of_every_way():
    ways = {("pair", "pair"): ("crc", "binomial"), ("pair", "scenario"): ("crc", "binomial"),
            ("scenario", "scenario"): ("crc", "hoeffding_bentkus")}
    splits = pd.concat(
        resplit_check(JUDGED, 0.1, rule, "global", n=20, unit=unit, split_by=split_by).assign(
            calibrator=rule)
        for (unit, split_by), rules in ways.items() for rule in rules)
    fig = operating_figures.plot_promise(splits, 0.1, 0.05)
    assert [ax.get_title() for ax in fig.axes] == [
        "in expectation: the mean stays below", "with probability: below in 95 % of cases"]
    for place, ax in enumerate(fig.axes):
        for i, ((unit, split_by), rules) in enumerate(ways.items()):
            part = splits[(splits["calibrator"] == rules[place]) & (splits["unit"] == unit)
                          & (splits["split_by"] == split_by)]
            assert ax.lines[i].get_xdata() == pytest.approx(part["mean_far"])
            spans = np.array([path[:, 0] for path in ax.collections[i].get_segments()])
            assert spans == pytest.approx(part[["far_q10", "far_q90"]].to_numpy())
        assert ax.get_xlim()[0] == 0
    assert fig.axes[0].get_xlim() == fig.axes[1].get_xlim()
    rendered(fig)


@pytest.mark.parametrize("monitors", [1, 4])
def test_scopes_have_a_panel_per_monitor_with_both_scopes(monitors):
    points = pd.concat(calibrated_points(JUDGED, [0.1], ["crc"], scope=scope)
                       for scope in ("cell", "global"))
    fig = operating_figures.plot_scopes(points, 0.1, NAMES[:monitors])
    shown = [ax for ax in fig.axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == NAMES[:monitors]
    for ax, name in zip(shown, NAMES, strict=False):
        for drawn, (scope, color) in zip(ax.containers, (("cell", SAFE), ("global", UNSAFE)),
                                         strict=True):
            part = points[(points["name"] == name) & (points["scope"] == scope)
                          & (points["cell"] != ALL)].set_index("cell").loc[CELLS]
            assert drawn.lines[0].get_xdata() == pytest.approx(part["far"])
            assert drawn.lines[0].get_color() == color
    rendered(fig)
    # Every lowest panel of a column is labelled, also above an empty place.
    for ax in shown[-3:]:
        assert "(lower is better)" in ax.get_xlabel()
        assert ax.xaxis.get_tick_params()["labelbottom"]


def test_cascade_draws_both_errors_and_a_price_that_may_be_unbounded():
    cheap, dear = (JUDGED[JUDGED["name"] == name] for name in NAMES[:2])
    sweep = cascade_sweep(cheap, dear, [0.0, 0.5, 1.0], base_rate=0.1, review_usd=1.0)
    sweep["usd_per_caught_high"] = [np.inf, *sweep["usd_per_caught_high"][1:]]
    fig = operating_figures.plot_cascade(sweep)
    left, right = fig.axes
    assert left.lines[0].get_ydata() == pytest.approx(sweep["mr"])
    assert left.lines[1].get_ydata() == pytest.approx(sweep["far"])
    assert right.lines[0].get_ydata() == pytest.approx(sweep["usd_per_caught"])
    low, top = right.get_ylim()
    assert low == 0 and sweep["usd_per_caught"].max() < top < np.inf
    assert right.collections[0].get_paths()[0].vertices[:, 1].max() > top  # out of the picture
    assert all("lower is better" in ax.get_ylabel() for ax in fig.axes)
    rendered(fig)


def test_cascade_that_catches_nothing_has_no_price():
    sweep = pd.DataFrame({"share": [0.0, 1.0], "mr": 1.0, "far": 0.0, "usd_per_caught": np.inf,
                          "usd_per_caught_low": np.inf, "usd_per_caught_high": np.inf})
    fig = operating_figures.plot_cascade(sweep)
    assert len(fig.axes[1].lines[0].get_xdata()) == 0
    rendered(fig)


def test_noise_spans_the_worst_case_of_each_share_of_wrong_labels():
    bounds = noise_bounds(JUDGED, (0.01, 0.05))
    fig = operating_figures.plot_noise(bounds, NAMES[:3])
    for ax, rate in zip(fig.axes, ("mr", "far"), strict=True):
        for drawn, eta in zip(ax.collections, (0.01, 0.05), strict=True):
            part = bounds[(bounds["rate"] == rate) & (bounds["eta1"] == eta)].set_index("name")
            spans = np.array([path[:, 0] for path in drawn.get_segments()])
            assert spans == pytest.approx(
                part.loc[NAMES[:3], ["worst_low", "worst_high"]].to_numpy())
        assert ax.lines[0].get_xdata() == pytest.approx(part.loc[NAMES[:3], "observed"])
        assert "(lower is better)" in ax.get_xlabel()
    assert legend_of(fig)[0] == "worst case, 1.0 % of labels wrong"
    rendered(fig)


@pytest.mark.parametrize("draw", [
    lambda: figures.plot_plane(RATES.head(0), NO_LINE, (-0.42, 0.49), NAMES),
    lambda: figures.plot_cells(BY_CELL.head(0), []),
    lambda: figures.plot_anatomy(pair_anatomy(JUDGED).head(0), []),
    lambda: figures.plot_separation(compared_pair(0.1, True, True).head(0), []),
    lambda: figures.plot_judges(RATES.head(0), {}),
    lambda: operating_figures.plot_curves({}, JUDGED.head(0), NAMES),
    lambda: operating_figures.plot_rules(RATES.head(0), NAMES),
    lambda: operating_figures.plot_promise(RATES.head(0), 0.1, 0.1),
    lambda: operating_figures.plot_scopes(RATES.head(0), 0.1, []),
    lambda: operating_figures.plot_cascade(RATES.head(0)),
    lambda: operating_figures.plot_noise(RATES.head(0), NAMES),
])
def test_nothing_to_draw_is_said_plainly(draw):
    with pytest.raises(ValueError, match=r"no [a-z ]+ to draw, expected at least one"):
        draw()
    assert not plt.get_fignums()


def test_one_monitor_alone_can_be_drawn():
    alone, only = JUDGED[JUDGED["name"] == "coin"], ["coin"]
    for fig in (
        figures.plot_plane(rates(alone), NO_LINE, (-0.42, 0.49), only),
        figures.plot_cells(rates(alone, by=("name", "cell")), only),
        figures.plot_anatomy(pair_anatomy(alone), only),
        figures.plot_separation(compare(alone), only),
        operating_figures.plot_noise(noise_bounds(alone, (0.05,)), only),
    ):
        assert rendered(fig).startswith(b"\x89PNG")


def test_two_rows_for_one_mark_are_refused():
    points = calibrated_points(JUDGED, [0.1, 0.2], ["crc"])
    with pytest.raises(ValueError, match="cell 'spv_code' has several rows"):
        operating_figures.plot_scopes(points, 0.1, NAMES)
