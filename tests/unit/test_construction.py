"""The benchmark as a table: exact counts, whole scenarios per split, names that tell nothing."""

from collections import Counter

import pandas as pd
import pytest

from monitorlab.benchmark.scenarios.files import Scenario, ScenarioError
from monitorlab.benchmark.writing import construction
from monitorlab.benchmark.writing.composition import Pair
from monitorlab.benchmark.writing.construction import (
    COUNTS,
    _dev_scenarios,
    _different_pairs,
    allot,
    build_pairs,
    sides,
    to_table,
)
from monitorlab.storage.schemas import check_frame
from monitorlab.storage.tables import CELLS, SAMPLES

SEED = 7


def plain(name: str, *words: str) -> Scenario:
    """A scenario with one plan on each side."""
    fields = {"request": ["Do it.", "Please do."],
              "benign": [[f"I {{{'|'.join(words)}}} as asked."]],
              "misbehaving": [[f"I {{{'|'.join(words)}}} as I like."]]}  # fmt: skip
    return Scenario(name, "spv_qa", "test", "demo", "none", "demo.yaml:1", fields)


@pytest.fixture(scope="module")
def table(benchmark_pairs: list[Pair]) -> pd.DataFrame:
    return to_table(benchmark_pairs, SEED)


# Counts


def test_every_cell_has_its_exact_number_of_samples(table: pd.DataFrame) -> None:
    published = {"spv_code": 976, "spv_qa": 196, "syco_qa": 408, "syco_reasoning": 554,
                 "sg_code": 298, "sg_qa": 578}  # fmt: skip
    assert table.groupby("cell").size().to_dict() == published == COUNTS
    assert len(table) == 3010
    assert (table.groupby("cell")["label"].mean() == 0.5).all()


def test_the_table_fits_its_schema(table: pd.DataFrame) -> None:
    assert len(check_frame(table, SAMPLES)) == len(table)
    assert (table["cell"] == table["category"] + "_" + table["task"]).all()


def test_both_samples_of_a_pair_share_everything_but_the_response(table: pd.DataFrame) -> None:
    pairs = table.groupby("pair_id")
    assert (pairs["label"].agg(sorted).map(tuple) == (0, 1)).all()
    shared = ["scenario_id", "cell", "misbehavior_type", "cue_type", "request", "split"]
    assert (pairs[shared].nunique() == 1).all(axis=None)
    assert (pairs["response"].nunique() == 2).all()


def test_no_response_is_repeated_within_a_scenario(table: pd.DataFrame) -> None:
    assert not table.duplicated(["scenario_id", "response"]).any()


def test_pairs_are_spread_evenly_over_the_scenarios(table: pd.DataFrame) -> None:
    pairs = table.groupby(["cell", "scenario_id"])["pair_id"].nunique()
    spread = pairs.groupby("cell").agg(["min", "max"])
    assert (spread["max"] - spread["min"] <= 1).all() and (spread["min"] >= 1).all()


@pytest.mark.parametrize("total", [0, 1, 7, 12, 13])
def test_allotted_pairs_sum_to_the_total(total: int) -> None:
    scenarios = [plain(f"s{i}", "a", "b") for i in range(6)]
    shares = allot(total, scenarios, 0)
    assert sum(shares.values()) == total and set(shares) == {s.id for s in scenarios}
    assert max(shares.values()) - min(shares.values()) <= 1


def test_who_gets_one_pair_more_is_drawn() -> None:
    scenarios = [plain(f"s{i}", "a", "b") for i in range(6)]
    winners = {max(shares, key=lambda name: shares[name]) for shares in
               (allot(7, scenarios, seed) for seed in range(60))}  # fmt: skip
    assert winners == {f"s{i}" for i in range(6)}


# Sides and splits


def test_only_the_test_side_is_used(benchmark_pairs: list[Pair]) -> None:
    assert {pair.scenario.side for pair in benchmark_pairs} == {"test"}


def test_a_scenario_is_in_one_split_and_every_cell_in_both(table: pd.DataFrame) -> None:
    assert (table.groupby("scenario_id")["split"].nunique() == 1).all()
    share = table.drop_duplicates("scenario_id").groupby("cell")["split"].value_counts(True)
    for cell in CELLS:
        assert abs(share[cell, "dev"] - construction.DEV_SHARE) < 0.02, cell


def test_another_seed_draws_another_split(library: list[Scenario]) -> None:
    test_side = [scenario for scenario in library if scenario.side == "test"]
    assert _dev_scenarios(test_side, 1) == _dev_scenarios(test_side, 1)
    assert _dev_scenarios(test_side, 1) != _dev_scenarios(test_side, 2)


# Names


def test_sample_ids_do_not_tell_the_label(table: pd.DataFrame) -> None:
    assert table["sample_id"].is_unique
    assert table["sample_id"].str.fullmatch(r"[a-z][a-z0-9_]*-\d{3,}-[ab]").all()
    first = table[table["sample_id"].str.endswith("-a")]
    assert len(first) == len(table) / 2
    assert abs(first["label"].mean() - 0.5) < 0.05
    by_cell = first.groupby("cell")["label"].mean()
    assert by_cell.between(0.35, 0.65).all(), by_cell


def test_the_order_of_the_rows_does_not_tell_the_label(table: pd.DataFrame) -> None:
    assert abs(table["label"].to_numpy()[::2].mean() - 0.5) < 0.05


def test_the_order_of_the_sides_changes_with_the_seed(benchmark_pairs: list[Pair]) -> None:
    orders = [[label for _, label, _ in sides(benchmark_pairs[0], seed)] for seed in range(40)]
    assert [0, 1] in orders and [1, 0] in orders
    for name, label, response in sides(benchmark_pairs[0], SEED):
        wanted = benchmark_pairs[0].misbehaving if label else benchmark_pairs[0].benign
        assert response is wanted and name[-2:] in ("-a", "-b")


def test_types_and_cues_are_named(table: pd.DataFrame) -> None:
    syco = table[table["category"] == "syco"]
    assert set(syco["misbehavior_type"]) == {"user_suggestion", "metadata", "unauthorized_access"}
    assert syco.groupby("cell")["cue_type"].nunique().eq(10).all()
    cues = syco.groupby("cell")["cue_type"].value_counts(normalize=True)
    assert cues.between(0.05, 0.15).all()
    code = table[table["cell"] == "spv_code"]
    assert code["misbehavior_type"].str.fullmatch(r"CWE-\d+").all()
    assert set(code["cue_type"]) == {"none"}


# Determinism


def test_the_same_seed_gives_the_same_table(
    library: list[Scenario], benchmark_pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(construction, "COUNTS", dict.fromkeys(CELLS, 20))
    tables = [to_table(build_pairs(seed, library), seed) for seed in (SEED, SEED, SEED + 1)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert set(tables[0]["response"]).isdisjoint(tables[2]["response"])
    assert tables[0].groupby("cell").size().eq(20).all()
    # A smaller build takes the same pairs: they do not depend on how many there are.
    texts = {(p.scenario.id, p.number): p.benign.text for p in benchmark_pairs}
    small = build_pairs(SEED, library)
    assert all(texts[p.scenario.id, p.number] == p.benign.text for p in small if p.number == 0)


# Too little to draw from


def test_a_scenario_that_cannot_vary_enough_is_named() -> None:
    with pytest.raises(ScenarioError) as error:
        _different_pairs(plain("poor", "act", "work"), 60, 0)
    assert "demo.yaml:1: 'poor' gives" in str(error.value)
    assert "60 are needed" in str(error.value)


def test_different_pairs_repeat_no_response() -> None:
    pairs = _different_pairs(plain("rich", *"abcdefghijklmnop"), 12, 0)
    texts = Counter(text for pair in pairs for text in (pair.benign.text, pair.misbehaving.text))
    assert len(pairs) == 12 and max(texts.values()) == 1


def test_a_cell_without_scenarios_is_named(library: list[Scenario]) -> None:
    rest = [s for s in library if s.cell != "spv_code" or s.side == "training"]
    with pytest.raises(ScenarioError, match="cell 'spv_code' has no scenario of side 'test'"):
        build_pairs(0, rest)
