"""The door: good score tables come in whatever their row order, bad ones name the cell.

And what comes in is as large as its steps, not as its longest sequence times their number.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitorlab.online import trajectories
from monitorlab.online.comparison import ALL_METHODS, PAPER_METHODS, compare_methods, random_splits
from monitorlab.online.metrics import alarm_metrics, alarm_steps, peaks
from monitorlab.online.running import Ewma, RunningMean, _FittedCusum
from monitorlab.online.score_files import from_frame, load_evaluator, load_scores
from monitorlab.online.trajectories import UNKNOWN, ScoreFileError, Trajectories
from monitorlab.statistics.thresholds import calibrate

TRANSFORMS = {
    "mean": RunningMean(), "max": lambda scores: np.maximum.accumulate(scores, axis=1),
    "ewma": Ewma(0.3), "cusum": _FittedCusum(0.1),
}


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "trajectory_id": ["a", "a", "a", "b", "b"],
            "step": [1, 2, 3, 1, 2],
            "score": [0.1, 0.2, 0.3, -4.0, 9.0],
            "label": [0, 0, 0, 1, 1],
        }
    )


def test_padding_and_round_trip(frame):
    data = from_frame(frame, "d", "s")
    assert data.scores.shape == (2, 3)
    assert np.isnan(data.scores[1, 2])
    assert data.lengths.tolist() == [3, 2]
    assert data.labels.tolist() == [0, 1]
    back = data.to_frame()
    pd.testing.assert_frame_equal(back[list(frame.columns)], frame)
    assert (back["tokens"] == 1).all()


def test_row_order_and_index_do_not_matter(frame):
    shuffled = frame.sample(frac=1, random_state=1).set_index(pd.Index([9, 9, 2, 5, 7]))
    one, other = from_frame(frame, "d", "s"), from_frame(shuffled, "d", "s")
    order = np.argsort(other.ids)
    np.testing.assert_array_equal(one.scores, other.take(order).scores)


def _edit(frame: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    frame = frame.astype(object)
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (1, "score", float("nan"), "column score, row 2: found nan"),
        (2, "score", "high", "column score, row 3: found 'high'"),
        (2, "score", "", "column score, row 3: found ''"),
        (0, "step", "first", "column step, row 1: found 'first'"),
        (0, "step", 1.5, "column step, row 1: found 1.5, expected a whole number"),
        (0, "step", 0, "column step, row 1: found 0"),
        (3, "label", 2, "column label, row 4: found 2, expected 0"),
        (3, "label", None, "column label, row 4: found None"),
        (1, "label", 1, "row 2: trajectory 'a' has label 1 here and 0 before"),
        (2, "step", 2, "row 3: step 2 of trajectory 'a' appears twice"),
        (2, "step", 7, "row 3: trajectory 'a' has step 7 where step 3 was expected"),
        (2, "step", 10**15, "where step 3 was expected"),
        (0, "trajectory_id", None, "column trajectory_id, row 1: no identifier"),
        (0, "trajectory_id", "  ", "column trajectory_id, row 1: no identifier"),
    ],
)
def test_a_bad_cell_is_named(frame, row, column, value, message):
    with pytest.raises(ScoreFileError, match=message.replace("(", r"\(")):
        from_frame(_edit(frame, row, column, value), "d", "s")


def test_tokens_must_be_positive(frame):
    with pytest.raises(ScoreFileError, match="column tokens, row 2: found 0"):
        from_frame(frame.assign(tokens=[5, 0, 1, 1, 1]), "d", "s")


def test_missing_and_repeated_columns_and_no_rows(frame):
    with pytest.raises(ScoreFileError, match="missing column score; found trajectory_id"):
        from_frame(frame.drop(columns="score"), "d", "s")
    with pytest.raises(ScoreFileError, match="'score' appears twice"):
        from_frame(pd.concat([frame, frame[["score"]]], axis=1), "d", "s")
    with pytest.raises(ScoreFileError, match="a header and no rows"):
        from_frame(frame.iloc[:0], "d", "s")


def test_csv_and_parquet_agree_and_orientation_turns(frame, tmp_path):
    frame.to_csv(tmp_path / "mine.csv", index=False)
    frame.to_parquet(tmp_path / "mine.parquet")
    csv, parquet = load_scores(tmp_path / "mine.csv"), load_scores(tmp_path / "mine.parquet")
    np.testing.assert_array_equal(csv.scores, parquet.scores)
    assert csv.dataset == "mine"
    safety = load_scores(tmp_path / "mine.csv", "safety")
    np.testing.assert_array_equal(safety.scores, -csv.scores)


def test_ugly_files(tmp_path):
    with pytest.raises(ScoreFileError, match="does not exist"):
        load_scores(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ScoreFileError, match=r"the file is empty"):
        load_scores(tmp_path / "empty.csv")
    (tmp_path / "text.parquet").write_text("trajectory_id,step")
    with pytest.raises(ScoreFileError, match="cannot be read as parquet"):
        load_scores(tmp_path / "text.parquet")
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00 truncated")
    with pytest.raises(ScoreFileError, match="cannot be read as CSV"):
        load_scores(tmp_path / "cut.csv.gz")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ScoreFileError, match="is 0xff, which is not UTF-8"):
        load_scores(tmp_path / "bytes.csv")
    with pytest.raises(ScoreFileError, match="expected one of suspicion, safety"):
        load_scores(tmp_path / "empty.csv", "upwards")


def test_file_errors_name_the_file(frame, tmp_path):
    _edit(frame, 1, "score", "?").to_csv(tmp_path / "logs.csv", index=False)
    with pytest.raises(ScoreFileError, match=r"logs\.csv: column score, row 2: found '\?'"):
        load_scores(tmp_path / "logs.csv")


def test_evaluator_files_are_turned_at_the_door(tmp_path):
    published = pd.DataFrame(
        {
            "uq_problem_idx": ["p", "p", "q"],
            "num_steps": [1, 2, 1],
            "judge_probability": [0.9, 0.8, 0.1],
            "solved": [True, True, False],
            "generated_tokens": [3, 4, 5],
        }
    )
    published.to_csv(tmp_path / "x.csv", index=False)
    got = load_evaluator(tmp_path / "x.csv", "x")
    np.testing.assert_array_equal(got.scores[0], [-0.9, -0.8])
    assert got.labels.tolist() == [0, 1]
    assert got.flat_tokens[:2].tolist() == [3, 4]


def test_one_class_calibrates_and_is_refused_where_both_are_needed(frame, tmp_path):
    frame[frame["label"] == 0].to_csv(tmp_path / "safe.csv", index=False)
    data = load_scores(tmp_path / "safe.csv")
    assert peaks(data).tolist() == [0.3]
    with pytest.raises(ScoreFileError, match="column label: all 1 sequences have label 0"):
        data.require_two_classes()
    with pytest.raises(ScoreFileError, match="column label: all 1 sequences have label 0"):
        compare_methods(data, PAPER_METHODS, [])


def test_levels_of_an_index_are_columns(frame):
    indexed = from_frame(frame.set_index(["trajectory_id", "step"]), "d", "s")
    np.testing.assert_array_equal(indexed.scores, from_frame(frame, "d", "s").scores)


def test_groups_and_unknown_labels_survive_the_way_out_and_back(frame):
    frame["label"] = [0, 0, 0, None, None]
    frame["group"] = list("xxxyy")
    data = from_frame(frame, "d", "s")
    assert (data.labels.tolist(), data.groups.tolist()) == ([0, UNKNOWN], ["x", "y"])
    back = from_frame(data.to_frame(), "d", "s")
    assert (back.labels.tolist(), back.groups.tolist()) == ([0, UNKNOWN], ["x", "y"])


def uneven(short: int, long: int, steps: int) -> Trajectories:
    """Many sequences of 5 steps and a few long ones in between."""
    rng = np.random.default_rng(0)
    lengths = np.full(short + long, 5)
    lengths[:: max(short // long, 1)][:long] = steps
    n = int(lengths.sum())
    ids = np.array([f"t{i}" for i in range(len(lengths))], dtype=object)
    labels = (np.arange(len(lengths)) % 2).astype(np.int8)
    return Trajectories("d", "s", ids, rng.normal(size=n) + 0.5 * np.repeat(labels, lengths),
                        np.ones(n), lengths, labels)


def test_parts_of_similar_length_give_what_one_padded_array_gives(monkeypatch):
    data = uneven(40, 3, 200)
    splits = list(random_splits(43, 2, 0.6, 1))
    whole = {name: transform(data.scores) for name, transform in TRANSFORMS.items()}
    together = compare_methods(data, ALL_METHODS, splits, levels=(0.3,))
    monkeypatch.setattr(trajectories, "BLOCK_CELLS", 1)
    parts = [block.scores.size for block, _ in data.blocks()]
    assert len(parts) > 1 and max(parts) <= 2 * 3 * 200
    for name, transform in TRANSFORMS.items():
        np.testing.assert_array_equal(data.transformed(transform).scores, whole[name])
    again = compare_methods(data, ALL_METHODS, splits, levels=(0.3,))
    pd.testing.assert_frame_equal(again, together)


def test_flat_and_padded_are_the_same(frame):
    data = from_frame(frame, "d", "s")
    again = Trajectories.from_padded(
        "d", "s", data.ids, data.scores, np.ones(data.scores.shape), data.labels)
    np.testing.assert_array_equal(again.flat_scores, data.flat_scores)
    np.testing.assert_array_equal(data.steps(1), [-4.0, 9.0])
    for index in (np.array([1, 0]), np.array([False, True]), np.array([], dtype=int)):
        np.testing.assert_array_equal(
            data.take(index).scores[:, :2] if len(data.take(index)) else np.empty((0, 2)),
            data.scores[index][:, :2])


def memory(of: str) -> float:
    """MB of this process: VmRSS is now, VmHWM the most since the mark was reset."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{of}:\s+(\d+) kB", status)[1]) / 1000  # type: ignore[index]


def test_a_few_long_sequences_do_not_pad_the_others(tmp_path):
    """10,000 streams of 5 steps and 3 of 50,000: 2 MB of scores, 4 GB if padded."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("no way to reset the high-water mark of memory here")
    made = uneven(10_000, 3, 50_000)
    made.ids[1] = "x" * 50_000  # nor does one long name widen the others
    made.to_frame().to_csv(tmp_path / "uneven.csv", index=False)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    data = load_scores(tmp_path / "uneven.csv")
    threshold = calibrate(peaks(data.take(data.labels == 0)), 0.1)
    alarms = alarm_steps(data, threshold)
    splits = random_splits(len(data), 1, 0.2, 0)
    results = compare_methods(data, PAPER_METHODS[:2], splits, levels=(0.1,))
    assert memory("VmHWM") - before < 300
    with pytest.raises(ValueError, match="would take 4 GB as one padded array, for 200000 steps"):
        data.scores  # noqa: B018
    assert alarm_metrics(alarms, data).far == pytest.approx(0.1, abs=0.01)
    assert results["far"].between(0.05, 0.15).all()
