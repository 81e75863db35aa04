"""Figures of fine-tuning: what is drawn, not how it looks."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from monitorlab.chapters.finetuning import figures
from monitorlab.chapters.finetuning.published import (
    ARMS,
    GOAL,
    GROUPS,
    PAIRS,
    SEEN,
    published,
    published_transfer,
)
from monitorlab.display.style import CELL_TITLES
from monitorlab.evaluation.tradeoff import detection, shift_of_rates

CELLS = list(CELL_TITLES)
OWN = ["contrastive pairs", "reading first"]
TITLE = "A small stand-in"


def matrix_frame() -> pd.DataFrame:
    """The published matrix under another name, with areas, two more arms and a hole."""
    rng = np.random.default_rng(0)
    frame = published()
    more = [frame[frame["arm"] == "all"].assign(arm=arm) for arm in OWN]
    table = pd.concat([frame, *more], ignore_index=True)
    table["mr"] = (table["mr"] + rng.uniform(0, 0.05, len(table))).clip(0, 1)
    table["auroc"] = rng.uniform(0.4, 1, len(table))
    table = table.assign(auroc_low=table["auroc"] - 0.1, auroc_high=table["auroc"] + 0.05)
    table["n"] = np.where(table["arm"] == OWN[1], 0, 20)  # one that was not trained
    hole = (table["arm"] == "base") & (table["cell"] == "sg_qa")
    table.loc[hole, ["mr", "far", "auroc", "auroc_low", "auroc_high"]] = np.nan
    return table


MATRIX = matrix_frame()
SHIFT = shift_of_rates(published(), PAIRS)
PUBLISHED = published_transfer()
TRANSFER = PUBLISHED.assign(low=PUBLISHED["value"] - 0.03, high=PUBLISHED["value"] + 0.04,
                            value=PUBLISHED["value"] + 0.01)


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
    assert fig.get_suptitle() in (TITLE, "")
    return buffer.getvalue()


def legend_of(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.legends[0].get_texts()]


def texts_of(ax: Axes) -> dict[tuple[int, int], str]:
    return {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text()
            for t in ax.texts}


def outlined(ax: Axes) -> set[tuple[int, int]]:
    return {(round(box.get_y() + box.get_height() / 2), round(box.get_x() + box.get_width() / 2))
            for box in ax.patches}


def trained(frame: pd.DataFrame, arms: list[str]) -> set[tuple[int, int]]:
    return {(arms.index(row.arm), CELLS.index(row.cell)) for row in frame.itertuples() if row.seen}


def test_matrix_writes_every_number_and_frames_what_was_trained_on():
    fig = figures.plot_matrix(MATRIX, published(), title=TITLE)
    arms = [*ARMS, *OWN]
    titles = [ax.get_title() for ax in fig.axes]
    assert titles == [f"{rate} (lower is better), {source}" for rate in
                      ("Miss rate", "False alarm rate") for source in ("measured", "published")]
    for i, ax in enumerate(fig.axes):
        frame, rate = (MATRIX, published())[i % 2], ("mr", "far")[i // 2]
        values = frame.set_index(["arm", "cell"])[rate]
        for (row, column), text in texts_of(ax).items():
            value = values.get((arms[row], CELLS[column]), np.nan)
            assert text == ("–" if np.isnan(value) else f"{value:.2f}".removeprefix("0"))
        assert len(texts_of(ax)) == len(arms) * len(CELLS)
        assert outlined(ax) == trained(frame, arms)
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert names[:3] == ["base", "S&PV code", "S&PV QA"]
    assert names[-2:] == [OWN[0], f"{OWN[1]} (not trained)"]
    assert legend_of(fig) == ["trained on this cell"]
    assert fig.get_suptitle() == TITLE
    rendered(fig)


def test_areas_have_their_interval_and_chance_is_white():
    fig = figures.plot_auroc_matrix(MATRIX, title=TITLE)
    ax = fig.axes[0]
    row = MATRIX[(MATRIX["arm"] == "all") & (MATRIX["cell"] == "sg_code")].iloc[0]
    words = [f"{row[c]:.2f}".removeprefix("0") for c in ("auroc", "auroc_low", "auroc_high")]
    assert texts_of(ax)[ARMS.index("all"), CELLS.index("sg_code")] == (
        f"{words[0]}\n{words[1]} to {words[2]}")
    assert texts_of(ax)[0, CELLS.index("sg_qa")] == "–"
    image = ax.images[0]
    assert min(image.cmap(image.norm(0.5))[:3]) > 0.95
    assert outlined(ax) == trained(MATRIX, [*ARMS, *OWN])
    assert "(higher is better)" in fig.axes[-1].get_ylabel()
    rendered(fig)


def test_shift_goes_from_the_base_to_every_arm():
    fig = figures.plot_shift(SHIFT, title=TITLE)
    assert [ax.get_title() for ax in fig.axes] == list(CELL_TITLES.values())
    style = figures._arm_looks(list(dict.fromkeys(SHIFT["arm"])))
    for ax, cell in zip(fig.axes, CELLS, strict=True):
        lines = [(tuple(line.get_xdata()), tuple(line.get_ydata()), line.get_color())
                 for line in ax.lines if len(line.get_xdata()) == 2 and line.get_alpha() is None]
        for row in SHIFT[SHIFT["cell"] == cell].to_dict("records"):
            assert ((row["far_before"], row["far"]), (row["mr_before"], row["mr"]),
                    style[row["arm"]][0]) in lines
    assert {"base", "all", "S&PV QA"} <= set(legend_of(fig))
    assert "(lower" in fig.axes[0].get_ylabel()
    rendered(fig)


def test_curves_of_equal_discrimination_are_what_they_say():
    fig = figures.plot_shift(SHIFT[SHIFT["arm"] == "all"], "")
    curves = [line for line in fig.axes[0].lines if len(line.get_xdata()) == 400]
    for d_prime, line in enumerate(curves):
        found = detection(line.get_ydata(), line.get_xdata(), 10**9, 10**9)[0]
        assert found[50:-50] == pytest.approx(np.full(300, d_prime), abs=1e-3)
    assert legend_of(fig)[:2] == ["all", "base"]
    rendered(fig)


def test_shift_of_few_cells_has_few_panels():
    fig = figures.plot_shift(SHIFT[SHIFT["cell"].isin(["sg_code", "sg_qa"])], "")
    assert [ax.get_title() for ax in fig.axes] == ["SG code", "SG QA"]
    four = figures.plot_shift(SHIFT[~SHIFT["cell"].isin(["sg_code", "sg_qa"])], "")
    assert sum(ax.get_visible() for ax in four.axes) == 4
    assert all("(lower is better)" in ax.get_xlabel() for ax in four.axes[1:4])
    rendered(four)


def test_transfer_draws_intervals_goal_and_published_marks():
    fig = figures.plot_transfer(TRANSFER, PUBLISHED, TITLE)
    assert [ax.get_title() for ax in fig.axes] == [
        figures.GROUP_TITLES[group] for group in GROUPS]
    for ax, group in zip(fig.axes, GROUPS, strict=True):
        rows = TRANSFER[(TRANSFER["group"] == group)
                        & (TRANSFER["metric"] == "balanced_accuracy")].set_index("arm")
        drawn = ax.containers[0].lines[0]
        expected = rows["value"].reindex(list(ARMS)).to_numpy()
        assert np.asarray(drawn.get_xdata(), float) == pytest.approx(expected, nan_ok=True)
        assert list(drawn.get_ydata()) == list(range(len(ARMS)))
        spans = [path[:, 0].tolist() for path in ax.containers[0].lines[2][0].get_segments()
                 if len(path)]
        spans = [span for span in spans if np.isfinite(span).all()]
        assert np.sort(spans, axis=0) == pytest.approx(
            np.sort(rows[["low", "high"]].to_numpy(), axis=0))
        goals = [line.get_xdata()[0] for line in ax.lines if line.get_label().startswith("goal")]
        assert goals == ([GOAL["balanced_accuracy"]] if group == "unseen SG" else [])
        hollow = [line for line in ax.lines if line.get_marker() == "D"]
        assert np.asarray(hollow[0].get_xdata(), float) == pytest.approx(expected - 0.01,
                                                                         nan_ok=True)
    low, high = fig.axes[0].get_ylim()
    assert low > high  # the first arm is on top
    assert "goal, 0.743" in legend_of(fig) and "(higher is better)" in fig.axes[0].get_xlabel()
    rendered(fig)


def test_transfer_keeps_the_rows_of_arms_that_were_not_trained():
    some = TRANSFER[TRANSFER["arm"].isin(["base", "all"])]
    fig = figures.plot_transfer(some, PUBLISHED, "")
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert (names[0], names[1], names[-1]) == ("base", "S&PV code (not trained)", "all")
    rendered(fig)


def differences_frame() -> pd.DataFrame:
    return pd.DataFrame([
        {"arm": arm, "group": group, "metric": "balanced_accuracy", "difference": 0.05 * sign,
         "low": 0.05 * sign - 0.04, "high": 0.05 * sign + 0.04, "p_holm": p}
        for group, sign in (("unseen SG", 1), ("seen", -1))
        for arm, p in ((OWN[0], 0.01), (OWN[1], 0.4), ("spv_qa", np.nan))])


def test_beyond_fills_the_marks_that_differ():
    frame = differences_frame()
    fig = figures.plot_beyond(frame[frame["arm"].isin(OWN)], title=TITLE)
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == OWN
    for ax, sign in zip(fig.axes, (1, -1), strict=True):
        filled, hollow = (line for line in ax.lines[1:3])
        assert np.asarray(filled.get_xdata()) == pytest.approx([0.05 * sign, np.nan], nan_ok=True)
        assert np.asarray(hollow.get_xdata()) == pytest.approx([np.nan, 0.05 * sign], nan_ok=True)
        assert to_hex(hollow.get_markerfacecolor()) == "#ffffff"
        assert "difference to “all”" in ax.get_xlabel()
        assert "(higher is better)" in ax.get_xlabel()
    rendered(fig)


def test_beyond_draws_every_arm():
    fig = figures.plot_beyond(differences_frame(), "")
    assert [t.get_text() for t in fig.axes[0].get_yticklabels()] == [*OWN, "S&PV QA"]
    rendered(fig)


def test_an_arm_keeps_its_look_whatever_others_there_are():
    alone = figures._arm_looks(["all"])
    assert figures._arm_looks([*OWN, *SEEN])["all"] == alone["all"]
    many = figures._arm_looks([*ARMS, *(f"own {i}" for i in range(7))])
    assert len(set(many.values())) == 14
    assert figures._arm_title("spv_qa") == "S&PV QA" and figures._arm_title(OWN[0]) == OWN[0]


@pytest.mark.parametrize("draw", [
    lambda: figures.plot_matrix(MATRIX.head(0), published(), ""),
    lambda: figures.plot_auroc_matrix(MATRIX.head(0), ""),
    lambda: figures.plot_shift(SHIFT.head(0), ""),
    lambda: figures.plot_transfer(TRANSFER.head(0), PUBLISHED, ""),
    lambda: figures.plot_beyond(differences_frame().head(0), ""),
])
def test_nothing_to_draw_is_said_plainly(draw):
    with pytest.raises(ValueError, match=r"no [a-z ]+ to draw, expected at least one"):
        draw()
    assert not plt.get_fignums()


def test_two_rows_for_one_mark_are_refused():
    with pytest.raises(ValueError, match="has several rows, expected one to draw"):
        figures.plot_transfer(pd.concat([TRANSFER, TRANSFER]), PUBLISHED, "")
