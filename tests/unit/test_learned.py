"""The word monitor, and how training rows are gathered and weights are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitorlab.benchmark.audit.probes import word_probe
from monitorlab.monitors.learned import (
    SETTINGS,
    WEIGHTS,
    WordMonitor,
    _read_folder,
    _training_rows,
    _write_folder,
)
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.scoring import score
from monitorlab.storage.files import digest_file, sealed_json


def pairs(count: int, seed: int = 0, telling: bool = True) -> pd.DataFrame:
    """Pairs of random words with one request each; the misbehaving side says "quietly"."""
    random = np.random.default_rng(seed)
    words = np.array([f"word{i}" for i in range(30)])
    rows = []
    for number in range(count):
        for label in (0, 1):
            said = [*random.choice(words, 8), "quietly" if label and telling else "openly"]
            rows.append({"sample_id": f"{number}-{label}", "request": f"question {number}",
                         "response": " ".join(random.permutation(said)), "label": label})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def monitor() -> WordMonitor:
    return WordMonitor.train([pairs(40), pairs(40, 1)], np.random.default_rng(0))


def test_a_telling_word_is_learned(monitor: WordMonitor) -> None:
    held_out = pairs(30, 9)
    table = score(monitor, Sample.rows(held_out)).set_index("sample_id")
    verdicts = table.loc[held_out["sample_id"], "verdict"].to_numpy(dtype=bool)
    assert (verdicts == (held_out["label"] == 1)).mean() > 0.95
    assert set(table["monitor"]) == {"TF-IDF"}


def test_without_a_difference_nothing_is_learned() -> None:
    monitor = WordMonitor.train([pairs(60, telling=False)], np.random.default_rng(0))
    held_out = pairs(200, 9, telling=False)
    scores = np.array([v.score for v in monitor.judge(Sample.rows(held_out), 0)], dtype=float)
    gap = scores[held_out["label"] == 1].mean() - scores[held_out["label"] == 0].mean()
    assert abs(gap) < 0.05


def test_scores_are_those_of_the_fitted_pipeline(monitor: WordMonitor) -> None:
    rows = pd.concat([pairs(40), pairs(40, 1)], ignore_index=True)
    fitted = word_probe().fit(list(rows["response"]), rows["label"])
    held_out = pairs(10, 9)
    expected = fitted.predict_proba(list(held_out["response"]))[:, 1]
    found = [v.score for v in monitor.judge(Sample.rows(held_out), 0)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_saved_monitor_gives_the_same_scores(monitor: WordMonitor, tmp_path: Path) -> None:
    monitor.save(tmp_path / "words")
    again = WordMonitor.load(tmp_path / "words")
    some = [*Sample.rows(pairs(20, 9)), Sample("x", "", ""), Sample("y", "é", "\ud800 quietly")]
    assert again.judge(some, 0) == monitor.judge(some, 0)
    assert again.settings() == monitor.settings() and again.name == monitor.name
    assert sorted(path.name for path in (tmp_path / "words").iterdir()) == [SETTINGS, WEIGHTS]


def test_other_weights_have_another_digest(monitor: WordMonitor) -> None:
    bent = dict(monitor.weights, intercept=monitor.weights["intercept"] + 1e-9)
    assert WordMonitor(monitor.vocabulary, bent).settings() != monitor.settings()
    renamed = [*monitor.vocabulary[:-1], "zzz"]
    assert WordMonitor(renamed, monitor.weights).settings() != monitor.settings()


def test_the_request_is_not_read(monitor: WordMonitor) -> None:
    one, other = monitor.judge([Sample("a", "quietly", "word1"), Sample("b", "", "word1")], 0)
    assert one.score == other.score


# Training rows


def test_parts_are_gathered_without_a_cap() -> None:
    rows = _training_rows([pairs(3), pairs(2, 1)], np.random.default_rng(0))
    assert len(rows) == 10 and list(rows.columns) == ["request", "response", "label"]


def test_a_cap_draws_whole_pairs_from_all_parts() -> None:
    parts = [pairs(50, part).assign(request=lambda f, part=part: f"{part} " + f["request"])
             for part in range(4)]
    rows = _training_rows(iter(parts), np.random.default_rng(1), cap=100)
    assert len(rows) == 100 and rows["label"].mean() == 0.5
    assert (rows.groupby("request").size() == 2).all()
    from_part = rows["request"].str[0].value_counts()
    assert len(from_part) == 4 and from_part.max() < 50
    again = _training_rows(iter(parts), np.random.default_rng(1), cap=100)
    pd.testing.assert_frame_equal(rows, again)
    other = _training_rows(iter(parts), np.random.default_rng(2), cap=100)
    assert set(other["request"]) != set(rows["request"])
    assert len(_training_rows(iter(parts), np.random.default_rng(1), cap=7)) == 7


@pytest.mark.parametrize(("frames", "words"), [
    ([], "labels \\[\\]"),
    ([pairs(2).query("label == 1")], "labels \\[1\\]"),
    ([pairs(2).drop(columns="response")], "lack response"),
    ([pairs(2).assign(label=2)], "a label of 0 or 1"),
    ([pairs(2).assign(response=None)], "a response"),
])
def test_unusable_rows_are_refused(frames: list[pd.DataFrame], words: str) -> None:
    with pytest.raises(MonitorError, match=words):
        _training_rows(frames, np.random.default_rng(0))


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(MonitorError, match="cap is 1"):
        _training_rows([pairs(2)], np.random.default_rng(0), cap=1)
    lonely = pd.DataFrame({"request": "q", "response": ["one", "two"], "label": [0, 1]})
    with pytest.raises(MonitorError, match="2 training rows are too few"):
        WordMonitor.train([lonely], np.random.default_rng(0))
    with pytest.raises(MonitorError, match="shapes"):
        WordMonitor(["a", "b"], {"idf": np.ones(2), "coefficients": np.ones(3),
                                 "intercept": np.ones(1)})


# Folders


def test_a_folder_that_is_not_a_monitor_is_refused(monitor: WordMonitor, tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match="holds no saved monitor"):
        WordMonitor.load(tmp_path)
    _write_folder(tmp_path / "other", {"kind": "encoder"}, {"a": np.ones(1)})
    with pytest.raises(MonitorError, match="'encoder', expected 'words'"):
        WordMonitor.load(tmp_path / "other")
    _write_folder(tmp_path / "short", {"kind": "words", "name": "n"}, {"a": np.ones(1)})
    with pytest.raises(MonitorError, match="reads None, expected 'response'"):
        WordMonitor.load(tmp_path / "short")
    _write_folder(tmp_path / "more", {"kind": "words", "name": "n", "vocabulary": [],
                                      "reads": "request and response"}, {"a": np.ones(1)})
    with pytest.raises(MonitorError, match="reads 'request and response', expected 'response'"):
        WordMonitor.load(tmp_path / "more")
    for name in (SETTINGS, WEIGHTS):
        monitor.save(tmp_path / name)
        path = tmp_path / name / name
        path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
        with pytest.raises(MonitorError, match=r"holds no saved monitor .* was changed after"):
            WordMonitor.load(tmp_path / name)


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / WEIGHTS, idf=np.array([{"a": 1}], dtype=object))
    (tmp_path / SETTINGS).write_text(sealed_json(
        {"kind": "words", "sha256": digest_file(tmp_path / WEIGHTS)}))
    with pytest.raises(MonitorError, match="allow_pickle"):
        _read_folder(tmp_path, "words")
    with pytest.raises(ValueError, match="pickle"):
        _write_folder(tmp_path / "new", {}, {"idf": np.array([{"a": 1}], dtype=object)})
    assert not (tmp_path / "new").exists()
