"""A file of one's own in place of the benchmark: what is made of it, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitorlab.benchmark.sample_files import SampleFileError, own_samples
from monitorlab.chapters import evaluation as figures
from monitorlab.chapters.finetuning import own_benchmark
from monitorlab.display.style import cell_titles
from monitorlab.evaluation.comparisons import pair_anatomy, whole_pairs
from monitorlab.evaluation.rates import macro
from monitorlab.pipeline.runs import Run, open_run
from monitorlab.storage.manifests import ArtifactError
from monitorlab.storage.tables import CELLS, OPERATING_POINTS, RATES, SAMPLES

N = 60
PLAIN = pd.DataFrame({"request": [f"q{i // 2}" for i in range(N)],
                      "response": [f"r{i}" for i in range(N)], "label": np.tile([0, 1], N // 2)})
PAIRS = [f"p{i // 2}" for i in range(N)]
SCENARIOS = [f"s{i // 4}" for i in range(N)]


def read(folder: Path, frame: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, list[str]]:
    frame.to_csv(folder / "mine.csv", index=False)
    notes: list[str] = []
    found = own_samples(folder / "mine.csv", np.random.default_rng(seed), notes.append)
    return found, notes


def test_what_is_missing_is_the_sample_s_own(tmp_path: Path) -> None:
    found, notes = read(tmp_path, PLAIN)
    assert list(found.columns) == [*SAMPLES.columns, "tier", "protocol"]
    assert set(found["tier"]) == set(found["protocol"]) == {""}
    assert found["pair_id"].equals(found["sample_id"])
    assert found["scenario_id"].equals(found["sample_id"])
    assert set(found["cell"]) == {"own"} and set(found["source"]) == {"mine.csv"}
    assert found[["request", "response", "label"]].equals(PLAIN.astype(found.dtypes[PLAIN.columns]))
    assert any("a sample without a scenario_id counts as a scenario" in words for words in notes)
    found, notes = read(tmp_path, PLAIN.assign(pair_id=PAIRS))
    assert list(found["scenario_id"]) == PAIRS  # a pair is never cut in two by the split
    assert any("a pair without a scenario_id" in words for words in notes)


def test_columns_that_are_there_are_kept_and_blank_values_filled(tmp_path: Path) -> None:
    frame = PLAIN.assign(pair_id=PAIRS, scenario_id=SCENARIOS, Split=["dev"] * 20 + ["Test"] * 40,
                         cell=["7"] * 20 + [None] * 40)
    frame.loc[0, "pair_id"] = " "
    found, notes = read(tmp_path, frame)
    assert list(found["pair_id"]) == ["row-1", *PAIRS[1:]]
    assert list(found["scenario_id"]) == SCENARIOS
    assert list(found["cell"]) == ["7"] * 20 + ["own"] * 40
    assert list(found["split"]) == ["dev"] * 20 + ["test"] * 40
    assert not any("drawn" in words for words in notes)


def test_a_sample_without_a_pair_does_not_join_the_pair_of_its_name(tmp_path: Path) -> None:
    frame = PLAIN.assign(sample_id=[f"x{i}" for i in range(N)], pair_id=PAIRS)
    frame.loc[0, "pair_id"] = None
    frame.loc[[2, 3], "pair_id"] = "x0"
    found, _ = read(tmp_path, frame)
    assert found["pair_id"].value_counts()["x0"] == 2
    assert found["pair_id"][0] == "x0 (alone)"


def test_whole_scenarios_are_dealt_evenly_and_by_the_seed(tmp_path: Path) -> None:
    frame = PLAIN.assign(scenario_id=SCENARIOS, cell=["a"] * 40 + ["b"] * 20)
    found, notes = read(tmp_path, frame)
    assert (found.groupby("scenario_id")["split"].nunique() == 1).all()
    scenarios = found.drop_duplicates("scenario_id")
    assert (scenarios["split"] == "dev").sum() == 5
    assert "so 5 of 15 scenarios were drawn for dev and 10 for test" in notes[-1]
    in_dev = scenarios[scenarios["split"] == "dev"].groupby("cell").size()
    assert in_dev["a"] in (3, 4) and in_dev["b"] in (1, 2)
    assert found.equals(read(tmp_path, frame)[0])
    assert not found.equals(read(tmp_path, frame, seed=1)[0])


def test_classes_are_in_both_splits_where_every_sample_is_alone(tmp_path: Path) -> None:
    few = PLAIN.head(12).assign(label=[1] * 3 + [0] * 9)
    for seed in range(20):
        found, _ = read(tmp_path, few, seed)
        assert (found.groupby("split")["label"].nunique() == 2).all()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": None}, "there is no column 'label', expected 1"),
        ({"label": 1}, "the test split has 40 misbehaving and 0 benign samples"),
        ({"split": "dev"}, "the test split has 0 misbehaving and 0 benign samples (of 60 in all)"),
        ({"split": ["dev", "train"] * 30}, "the split of sample 'row-2' is 'train'"),
        ({"split": ["dev", None] * 30}, "the split of sample 'row-2' is missing"),
        ({"cell": "all"}, "a cell is called 'all'"),
        ({"pair_id": "p", "scenario_id": SCENARIOS}, "pair_id 'p' is in scenario_id 's0' and in"),
        ({"scenario_id": "s", "cell": ["a", "b"] * 30}, "scenario_id 's' is in cell 'a' and in"),
        ({"scenario_id": "s", "split": ["dev", "test"] * 30}, "'s' is in split 'dev' and in"),
    ],
)
def test_what_cannot_take_the_place_of_the_benchmark_is_refused(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    frame = PLAIN.assign(**columns)
    with pytest.raises(SampleFileError) as caught:
        read(tmp_path, frame.drop(columns="label") if columns == {"label": None} else frame)
    assert str(caught.value).startswith("mine.csv: ") and message in str(caught.value)


def test_only_pairs_of_two_labels_have_an_anatomy() -> None:
    rows = [("both", 1), ("both", 0), ("alike", 1), ("alike", 1), ("alone", 0), ("three", 0),
            ("three", 1), ("three", 1)]
    judged = pd.DataFrame(rows, columns=["pair_id", "label"])
    judged = judged.assign(sample_id=judged.index.astype(str), scenario_id=judged["pair_id"],
                           name="a", verdict=pd.array(judged["label"] == 1, "boolean"))
    judged = pd.concat([judged, judged.assign(name="b")])  # several monitors judge each sample
    whole = whole_pairs(judged)
    assert set(whole["pair_id"]) == {"both"} and len(whole) == 4
    assert (pair_anatomy(whole)["pairs"] == 1).all()
    assert whole_pairs(judged[judged["pair_id"] == "alone"]).empty


def test_cells_of_one_s_own_come_after_those_of_the_benchmark() -> None:
    assert list(cell_titles(["own", "sg_qa", "mine", "spv_code", "own"])) == [
        "spv_code", "sg_qa", "mine", "own"]
    assert cell_titles(["own"]) == {"own": "own"}


def test_cells_of_one_s_own_are_drawn_averaged_and_written() -> None:
    rates = {name: 0.5 for name in RATES.columns if RATES_TYPES[name] == "float"}
    counts = {name: 3 for name in RATES.columns if RATES_TYPES[name] == "int"}
    by_cell = pd.DataFrame([{"name": "a", "cell": "own", **rates, **counts}])
    RATES.check(by_cell)
    fig = figures.plot_cells(by_cell, ["a"])
    assert [tick.get_text() for tick in fig.axes[0].get_xticklabels()] == ["own"]
    ends = [f"{name}{end}" for name in ("g2", "balanced_accuracy") for end in ("_low", "_high")]
    mean = macro(by_cell.assign(**dict.fromkeys(ends, 0.5)), ["own"])
    assert mean.loc[0, "cells"] == 1 and mean.loc[0, "mr"] == 0.5
    cell = next(field for field in OPERATING_POINTS.fields if field.name == "cell")
    assert not cell.choices


RATES_TYPES = {field.name: field.dtype for field in RATES.fields}


def in_cells(cells: Sequence[str]) -> pd.DataFrame:
    rows = [{"request": f"{cell} {i}", "response": f"{cell} {i} {label}", "label": label,
             "pair_id": f"{cell} {i}", "cell": cell}
            for cell in cells for i in range(3) for label in (0, 1)]
    return pd.DataFrame(rows)


def test_a_cell_of_the_benchmark_says_category_and_task(tmp_path: Path) -> None:
    found = read(tmp_path, in_cells(["spv_code", "mine_too"]))[0].drop_duplicates("cell")
    assert found[["category", "task"]].to_numpy().tolist() == [["spv", "code"], ["mine_too"] * 2]


def test_arms_need_every_cell(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    in_cells(CELLS).to_csv(path, index=False)
    assert len(own_benchmark(path, np.random.default_rng(0))) == 36
    PLAIN.to_csv(path, index=False)
    with pytest.raises(SampleFileError, match="over the cells spv_code.*and the file has own. Na"):
        own_benchmark(path, np.random.default_rng(0))
    frame = in_cells(CELLS)
    frame.drop(frame.query("cell == 'sg_qa' and label == 1").index).to_csv(path, index=False)
    with pytest.raises(SampleFileError, match="sg_qa has no misbehaving sample in dev"):
        own_benchmark(path, np.random.default_rng(0))


def test_a_reader_of_another_file_is_told(tmp_path: Path) -> None:
    """A notebook must not measure verdicts on samples other than those that were judged."""
    first, second = tmp_path / "mine.csv", tmp_path / "elsewhere" / "mine.csv"
    second.parent.mkdir()
    first.write_text("one")
    second.write_text("other")

    def begin(stem: str, file: Path | None) -> Run:
        run = open_run(stem, profile="tiny", run_id="r", seed=1, root=tmp_path)
        if file:
            run.record_file(file)
        return run

    before, after = "03_monitor_evaluation", "04_operating_points"
    for given in (first, None):
        begin(before, given).close()
        begin(after, given).check_same_files(before)
    with pytest.raises(ArtifactError, match="worked on no own file, and this one on mine.csv. Run"):
        begin(after, first).check_same_files(before)
    begin(before, first).close()
    with pytest.raises(ArtifactError, match="worked on mine.csv, and this one on no own file"):
        begin(after, None).check_same_files(before)
    with pytest.raises(ArtifactError, match="mine.csv, and this one on a changed version of it"):
        begin(after, second).check_same_files(before)
