"""The door: good score tables come in whatever their row order, bad ones name the cell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from monitorlab.online.score_files import load_evaluator, load_scores
from monitorlab.online.trajectories import ScoreFileError, from_frame, to_frame


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
    trajectories = from_frame(frame, "d", "s")
    assert trajectories.scores.shape == (2, 3)
    assert np.isnan(trajectories.scores[1, 2])
    assert trajectories.lengths.tolist() == [3, 2]
    assert trajectories.labels.tolist() == [0, 1]
    back = to_frame(trajectories)
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
        (4, "score", float("inf"), "column score, row 5: found inf"),
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
    np.testing.assert_array_equal(safety.scores, 1.0 - csv.scores)


def test_ugly_files(tmp_path):
    with pytest.raises(ScoreFileError, match="is not a file"):
        load_scores(tmp_path / "nowhere.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ScoreFileError, match=r"empty\.csv is empty"):
        load_scores(tmp_path / "empty.csv")
    (tmp_path / "text.parquet").write_text("trajectory_id,step")
    with pytest.raises(ScoreFileError, match="cannot be read as parquet"):
        load_scores(tmp_path / "text.parquet")
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00 truncated")
    with pytest.raises(ScoreFileError, match="cannot be read as CSV"):
        load_scores(tmp_path / "cut.csv.gz")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ScoreFileError, match="cannot be read as CSV"):
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
    np.testing.assert_allclose(got.scores[0], [0.1, 0.2])
    assert got.labels.tolist() == [0, 1]
    assert got.tokens[0].tolist() == [3, 4]


def test_one_class_file_is_refused_before_anything_runs(frame, tmp_path):
    frame[frame["label"] == 0].to_csv(tmp_path / "safe.csv", index=False)
    with pytest.raises(ScoreFileError, match="column label: all 1 sequences have label 0"):
        load_scores(tmp_path / "safe.csv")
