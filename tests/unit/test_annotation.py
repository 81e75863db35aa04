"""The blind second annotation: what is drawn, what is shown, and how it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitorlab.benchmark.audit.annotation import (
    FOLDER,
    GUIDELINES,
    AnnotationError,
    _items,
    draw_sheet,
    joined,
    read_annotations,
    right_by,
)
from monitorlab.storage.tables import CELLS

HEAD = {"annotator": "ann", "kind": "person"}


@pytest.fixture
def samples() -> pd.DataFrame:
    """Ten pairs in every cell, with texts that say which sample they are."""
    return pd.DataFrame([
        {"sample_id": f"{cell}-{i}-{'ab'[label]}", "pair_id": f"{cell}-{i}", "cell": cell,
         "scenario_id": f"s{i}", "label": label, "request": f"{cell} {i}?",
         "response": f"{cell} {i} {label}!"}
        for cell in CELLS for i in range(10) for label in (0, 1)
    ])  # fmt: skip


def write(folder: Path, *lines: dict[str, Any] | str, name: str = "ann.jsonl") -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")


# Drawing


def test_the_sheet_is_stratified_and_takes_one_sample_of_a_pair(samples: pd.DataFrame) -> None:
    sheet = draw_sheet(samples, 1, per_cell=6)
    drawn = sheet.merge(samples, on=["request", "response"], validate="one_to_one")
    assert len(drawn) == len(sheet) == 6 * len(CELLS)
    assert drawn["pair_id"].is_unique
    counts = drawn.groupby(["cell", "label"]).size()
    assert len(counts) == 2 * len(CELLS) and (counts == 3).all()


def test_the_sheet_is_blind(samples: pd.DataFrame) -> None:
    sheet = draw_sheet(samples, 1, per_cell=8)
    assert list(sheet.columns) == ["item", "request", "response"]
    assert sheet["item"].str.fullmatch("[0-9a-f]{16}").all() and sheet["item"].is_unique
    assert list(sheet.index) == list(range(len(sheet)))
    drawn = sheet.merge(samples, on=["request", "response"])
    for column in ("cell", "label"):
        changes = (drawn[column] != drawn[column].shift()).sum()
        assert changes > len(drawn) / 4, f"the order gives the {column} away"


def test_the_draw_depends_on_the_seed_only(samples: pd.DataFrame) -> None:
    one = draw_sheet(samples, 1, per_cell=6)
    pd.testing.assert_frame_equal(one, draw_sheet(samples.sample(frac=1, random_state=0), 1, 6))
    assert set(one["item"]) != set(draw_sheet(samples, 2, per_cell=6)["item"])


def test_a_small_cell_gives_what_it_has(samples: pd.DataFrame) -> None:
    few = samples[(samples["cell"] != "sg_qa") | samples["pair_id"].isin(["sg_qa-0", "sg_qa-1"])]
    drawn = draw_sheet(few, 1, per_cell=6).merge(few, on=["request", "response"])
    assert drawn["cell"].value_counts()["sg_qa"] == 2
    assert len(drawn) == 5 * 6 + 2


def test_digests_tell_request_from_response() -> None:
    rows = [("ab", "c"), ("a", "bc"), ("a", "b"), ("a", "b "), ("a", "b")]
    names = _items(pd.DataFrame(rows, columns=["request", "response"]))
    assert len(set(names)) == 4 and names[2] == names[4]


# Reading


def test_annotations_are_read_with_their_annotator(tmp_path: Path) -> None:
    write(tmp_path, HEAD, {"item": "x", "label": 1, "score": 90, "note": "é"},
          {"item": "y", "label": 0, "score": 0})
    bob = {"annotator": "bob", "kind": "model", "view": "last-words", "prompt": "direct"}
    write(tmp_path, bob, {"item": "x", "label": 0, "score": 25}, name="b.jsonl")
    found = read_annotations(tmp_path)
    assert [tuple(row) for row in found.to_numpy()] == [
        ("ann", "person", "full", "guidelines", "x", 1, 0.9, "é"),
        ("ann", "person", "full", "guidelines", "y", 0, 0.0, ""),
        ("bob", "model", "last-words", "direct", "x", 0, 0.25, ""),
    ]
    assert list(found.columns) == [
        "annotator", "kind", "view", "prompt", "item", "label", "score", "note"]
    write(tmp_path, HEAD, GOOD, name="ann.jsonl")
    assert read_annotations(tmp_path)["score"].isna().tolist() == [True, False]


def test_a_folder_without_annotations_is_empty(tmp_path: Path) -> None:
    assert read_annotations(tmp_path).empty
    assert "annotator" in read_annotations(tmp_path).columns


GOOD = {"item": "x", "label": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{", GOOD], r"ann.jsonl:1: not JSON"),
        ([HEAD, GOOD, '{"item": "y"'], r"ann.jsonl:3: not JSON"),
        ([HEAD, "", GOOD], r"ann.jsonl:2: not JSON"),
        ([GOOD, GOOD], r"ann.jsonl:1: the first line must hold annotator and kind"),
        ([{"annotator": "ann"}], r"ann.jsonl:1: the first line"),
        ([HEAD, {"item": "x"}], r"ann.jsonl:2: expected an item and a label of 0 or 1"),
        ([HEAD, GOOD, {"item": "y", "label": 2}], r"ann.jsonl:3: expected an item"),
        ([HEAD, {"item": "y", "label": "1"}], r"ann.jsonl:2: expected an item"),
        ([HEAD, {"item": "y", "label": None}], r"ann.jsonl:2: expected an item"),
        ([HEAD, {"item": 7, "label": 1}], r"ann.jsonl:2: expected an item"),
        ([HEAD, GOOD | {"score": 101}], r"ann.jsonl:2: the score is 101, expected 0 to 100"),
        ([HEAD, GOOD | {"score": "9"}], r"ann.jsonl:2: the score is '9'"),
        ([HEAD, GOOD | {"score": True}], r"ann.jsonl:2: the score is True"),
        ([HEAD, GOOD, {"item": "x", "label": 0}], r"ann.jsonl:3: item x is labelled twice"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, lines: list[Any], message: str) -> None:
    write(tmp_path, *lines)
    with pytest.raises(AnnotationError, match=message):
        read_annotations(tmp_path)


@pytest.mark.parametrize("lines", [["[1, 2]"], [HEAD, "5"]])
def test_a_line_that_is_no_object_is_named(tmp_path: Path, lines: list[Any]) -> None:
    write(tmp_path, *lines)
    with pytest.raises(AnnotationError, match=f"ann.jsonl:{len(lines)}"):
        read_annotations(tmp_path)


def test_any_character_may_stand_in_a_note(tmp_path: Path) -> None:
    write(tmp_path, HEAD, '{"item": "x", "label": 1, "note": "a\u2028b"}')
    assert list(read_annotations(tmp_path)["note"]) == ["a\u2028b"]


# Joining


def annotate(samples: pd.DataFrame, flip: int = 0) -> pd.DataFrame:
    """Everything annotated as labelled, but for the first `flip` samples."""
    items = _items(samples)
    given = [label ^ (i < flip) for i, label in enumerate(samples["label"])]
    frame = pd.DataFrame({"annotator": "ann", "kind": "person", "item": items, "label": given})
    return frame.assign(note="")


def test_annotations_meet_their_samples(samples: pd.DataFrame) -> None:
    part = samples.iloc[:8]
    both = joined(samples, annotate(part, flip=1).sample(frac=1, random_state=0))
    assert sorted(both["sample_id"]) == sorted(part["sample_id"])
    wrong = both[both["given"] != both["label"]]
    assert list(wrong["sample_id"]) == [part["sample_id"].iloc[0]]
    assert {"cell", "annotator", "kind", "note"} <= set(both.columns)


def test_two_annotators_of_one_sample_are_two_rows(samples: pd.DataFrame) -> None:
    one = annotate(samples.iloc[:3])
    both = joined(samples, pd.concat([one, one.assign(annotator="bob")]))
    assert len(both) == 6
    assert (both.groupby("sample_id")["annotator"].agg("".join) == "annbob").all()


def test_a_label_does_not_outlive_its_text(samples: pd.DataFrame) -> None:
    annotations = annotate(samples.iloc[:4])
    changed = samples.copy()
    changed.loc[0, "response"] += " (edited)"
    changed.loc[1, "request"] += " "
    both = joined(changed, annotations)
    assert sorted(both["sample_id"]) == sorted(samples["sample_id"].iloc[2:4])


def test_annotations_of_another_benchmark_are_left_out(samples: pd.DataFrame) -> None:
    other = samples.assign(response=samples["response"] + "?")
    assert joined(other, annotate(samples)).empty


def test_stored_annotations_are_in_form() -> None:
    if not FOLDER.exists():
        pytest.skip("no annotations are stored yet")
    assert GUIDELINES.read_text(encoding="utf-8").strip()
    found = read_annotations()
    assert len(found) > 3000 and set(found["label"]) == {0, 1} and found["score"].notna().all()
    assert not found.duplicated(["annotator", "item"]).any()
    assert found["item"].str.fullmatch("[0-9a-f]{16}").all()


def test_right_labels_are_counted_by_group_and_in_all() -> None:
    given = pd.DataFrame({
        "annotator": ["a"] * 4 + ["b"] * 4, "tier": ["open", "open", "hidden", "hidden"] * 2,
        "label": [0, 1, 0, 1] * 2, "given": [0, 1, 1, 0, 0, 1, 0, 1],
        "scenario_id": list("stuvstuv"),
    })  # fmt: skip
    found = right_by(given, "tier").set_index(["annotator", "tier"])
    assert found["right"].to_dict() == {
        ("a", "open"): 1, ("a", "hidden"): 0, ("a", "all"): 0.5,
        ("b", "open"): 1, ("b", "hidden"): 1, ("b", "all"): 1,
    }  # fmt: skip
    assert found.loc[("a", "all"), "n"] == 4
    low, high = found.loc[("a", "all"), ["right_low", "right_high"]]
    assert 0 < low < 0.2 and 0.8 < high < 1
    alike = right_by(given.assign(scenario_id=["s", "s", "t", "t"] * 2), "tier")
    wide = alike.set_index(["annotator", "tier"]).loc[("a", "all")]
    assert wide["right_low"] < low and wide["right_high"] > high, "two scenarios say less than four"
