"""The published matrix: its cells against the printed table, its means by hand."""

from __future__ import annotations

import pytest

from monitorlab.chapters.finetuning.published import (
    ARM_TITLES,
    ARMS,
    GOAL,
    GROUPS,
    PAIRS,
    SEEN,
    SG_CELLS,
    cell_groups,
    published,
    published_transfer,
)
from monitorlab.storage.tables import CELLS

FRAME = published().set_index(["arm", "cell"])
TABLE = published_transfer().set_index(["arm", "group", "metric"])["value"]


def test_every_arm_has_every_cell_in_order():
    frame = published()
    assert list(dict.fromkeys(frame["arm"])) == list(ARMS) == list(SEEN) == list(ARM_TITLES)
    assert frame.groupby("arm")["cell"].apply(list).tolist() == [list(CELLS)] * len(ARMS)
    assert frame[["mr", "far", "balanced_accuracy", "g2"]].stack().between(0, 1).all()


@pytest.mark.parametrize(("arm", "cell", "mr", "far"), [
    ("base", "spv_code", 0.59, 0.29), ("base", "sg_qa", 0.33, 0.11),
    ("spv_code", "sg_code", 0.86, 0.06), ("spv_qa", "syco_reasoning", 0.70, 0.04),
    ("syco_qa", "spv_qa", 0.02, 0.93), ("syco_reasoning_plain", "syco_qa", 0.14, 0.12),
    ("syco_reasoning_thinking", "sg_qa", 0.08, 0.69), ("all", "syco_reasoning", 0.17, 0.25),
])
def test_cells_are_as_printed(arm, cell, mr, far):
    row = FRAME.loc[(arm, cell)]
    assert (row["mr"], row["far"]) == (mr, far)
    assert row["balanced_accuracy"] == pytest.approx((1 - mr + 1 - far) / 2)
    assert row["g2"] == pytest.approx((1 - mr) * (1 - far))


def test_column_sums_guard_against_a_slip_of_the_fingers():
    sums = published().groupby("cell")[["mr", "far"]].sum().round(2)
    assert sums.loc[list(CELLS), "mr"].tolist() == [
        {"spv_code": 2.32, "spv_qa": 1.05, "syco_qa": 2.24, "syco_reasoning": 2.35,
         "sg_code": 3.42, "sg_qa": 1.81}[cell] for cell in CELLS]
    assert sums.loc[list(CELLS), "far"].tolist() == [
        {"spv_code": 2.03, "spv_qa": 3.57, "syco_qa": 1.55, "syco_reasoning": 1.85,
         "sg_code": 2.54, "sg_qa": 1.63}[cell] for cell in CELLS]


def test_seen_cells_are_those_of_the_components_and_never_sg():
    assert SEEN["base"] == frozenset()
    assert SEEN["all"] == {"spv_code", "spv_qa", "syco_qa", "syco_reasoning"}
    assert SEEN["syco_reasoning_plain"] == SEEN["syco_reasoning_thinking"] == {"syco_reasoning"}
    assert not any(cells & SG_CELLS for cells in SEEN.values())
    assert published().groupby("arm", sort=False)["seen"].sum().tolist() == [0, 1, 1, 1, 1, 1, 4]


@pytest.mark.parametrize(("arm", "accuracy", "g2"), [
    ("base", 0.680, 0.465), ("all", 0.715, 0.459), ("spv_qa", 0.743, 0.523)])
def test_means_over_unseen_sg(arm, accuracy, g2):
    assert TABLE[arm, "unseen SG", "balanced_accuracy"] == pytest.approx(accuracy, abs=6e-4)
    assert TABLE[arm, "unseen SG", "g2"] == pytest.approx(g2, abs=1.2e-3)  # cells are rounded


def test_the_goal_is_the_best_of_each_metric_and_no_published_arm_meets_it():
    unseen = TABLE.xs("unseen SG", level="group").unstack("metric")
    assert unseen["balanced_accuracy"].idxmax() == "spv_qa"
    assert unseen["balanced_accuracy"].max() == pytest.approx(GOAL["balanced_accuracy"], abs=6e-4)
    assert unseen["g2"].idxmax() == "syco_reasoning_plain"
    assert unseen["g2"].max() == pytest.approx((0.59 * 0.73 + 0.72 * 0.86) / 2)
    assert unseen["g2"].max() == pytest.approx(GOAL["g2"], abs=6e-5)
    met = (unseen["balanced_accuracy"] > GOAL["balanced_accuracy"]) & (unseen["g2"] > GOAL["g2"])
    assert not (met & (unseen["far"] <= GOAL["far"])).any()


def test_the_other_rounding_multiplies_first_and_rounds_then():
    for arm, rounded in (("base", 0.465), ("all", 0.460), ("spv_qa", 0.525)):
        products = [round(FRAME.loc[(arm, cell), "g2"], 2) for cell in ("sg_code", "sg_qa")]
        assert sum(products) / 2 == pytest.approx(rounded)


@pytest.mark.parametrize(("arm", "accuracy", "g2"), [("base", 0.658, 0.403), ("all", 0.817, 0.658)])
def test_means_over_all_cells(arm, accuracy, g2):
    assert FRAME.loc[arm, "balanced_accuracy"].mean() == pytest.approx(accuracy, abs=6e-4)
    assert FRAME.loc[arm, "g2"].mean() == pytest.approx(g2, abs=6e-4)


def test_groups_part_the_cells_and_empty_ones_have_no_row():
    for seen in SEEN.values():
        groups = cell_groups(seen)
        assert sorted(sum((groups[group] for group in GROUPS), ())) == sorted(CELLS)
    found = published_transfer().groupby("arm")["group"].unique().apply(list)
    assert found["base"] == ["unseen SG", "unseen other"]
    assert found["all"] == ["seen", "unseen SG"]
    assert found["syco_qa"] == list(GROUPS)


def test_an_arm_that_has_seen_sg_does_not_count_it_as_unseen():
    groups = cell_groups({"sg_code", "spv_qa"})
    assert groups["seen"] == tuple(cell for cell in CELLS if cell in ("sg_code", "spv_qa"))
    assert groups["unseen SG"] == ("sg_qa",)


def test_pairs_make_the_benchmark():
    assert set(PAIRS) == set(CELLS) and sum(PAIRS.values()) == 1505
    assert [2 * sum(PAIRS[cell] for cell in CELLS if cell.startswith(start))
            for start in ("spv", "syco", "sg")] == [1172, 962, 876]
