"""Score files as people write them: read where one meaning is possible, else refused by name."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitorlab.online.metrics import alarm_steps
from monitorlab.online.score_files import COLUMNS, load_evaluator, load_scores, load_signals
from monitorlab.online.trajectories import UNKNOWN, ScoreFileError, Trajectories
from monitorlab.storage.table_files import FileTable

HEADER = "trajectory_id,step,score,label\n"
PLAIN = HEADER + "a,1,0.25,0\na,2,0.5,0\nb,1,0.75,1\n"


def read(folder: Path, name: str, text: str, **options: object) -> Trajectories:
    file = folder / name
    data = text.encode()
    file.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    return load_scores(file, **options)


def refusal(folder: Path, name: str, text: str, **options: object) -> str:
    with pytest.raises(ScoreFileError) as caught:
        read(folder, name, text, **options)
    assert len(str(caught.value)) < 450
    return str(caught.value)


def check_plain(data: Trajectories) -> None:
    assert data.ids.tolist() == ["a", "b"]
    assert data.labels.tolist() == [0, 1]
    assert data.lengths.tolist() == [2, 1]
    assert data.flat_scores.tolist() == [0.25, 0.5, 0.75]


ROWS = [{"trajectory_id": "a", "step": 1, "score": 0.25, "label": 0},
        {"trajectory_id": "a", "step": 2, "score": 0.5, "label": 0},
        {"trajectory_id": "b", "step": 1, "score": 0.75, "label": 1}]
LISTS = [{"trajectory_id": "a", "scores": [0.25, 0.5], "label": 0},
         {"trajectory_id": "b", "scores": [0.75], "label": 1}]
LINES = "\n".join(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", PLAIN),
        ("X.CSV", PLAIN),
        ("x.Csv.GZ", PLAIN),
        ("bom.csv", "\ufeff" + PLAIN),
        ("crlf.csv", PLAIN.replace("\n", "\r\n")),
        ("blank.csv", PLAIN.replace("\n", "\n\n")),
        ("tab.tsv", PLAIN.replace(",", "\t")),
        ("tab.csv", PLAIN.replace(",", "\t")),
        ("semicolon.csv", PLAIN.replace(",", ";")),
        ("euro.csv", PLAIN.replace(",", ";").replace("0.", "0,")),
        ("excel.csv", "sep=;\n" + PLAIN.replace(",", ";").replace("0.", "0,")),
        ("quoted.csv", HEADER + 'a,1,"0,25",0\na,2,"0,5",0\nb,1,"0,75",1\n'),
        ("trailing.csv", HEADER + "a,1,0.25,0,\na,2,0.5,0,\nb,1,0.75,1,\n"),
        ("commas.csv", "trajectory_id,step,score,label,,\na,1,0.25,0,,\na,2,0.5,0,,\nb,1,0.75,1,,"),
        ("index.csv", ",trajectory_id,step,score,label\n0,a,1,0.25,0\n1,a,2,0.5,0\n2,b,1,0.75,1\n"),
        ("caps.csv", PLAIN.replace("trajectory_id", " Trajectory_ID").replace("label", "Label ")),
        ("zero.csv", HEADER + "a,0,0.25,0\na,1,0.5,0\nb,0,0.75,1\n"),
        ("percent.csv", HEADER + "a,1,25%,0\na,2,50 %,0\nb,1,75.0%,1\n"),
        ("bool.csv", HEADER + "a,1,0.25,False\na,2,0.5,FALSE\nb,1,0.75,true\n"),
        ("words.csv", HEADER + "a,1,0.25,safe\na,2,0.5,Safe\nb,1,0.75,unsafe\n"),
        ("others.csv", HEADER + "a,1,0.25,benign\na,2,0.5,benign\nb,1,0.75,misbehavior\n"),
        ("floats.csv", HEADER + "a,1,0.25,0.0\na,2,0.5,0.0\nb,1,0.75,1.0\n"),
        ("text.csv", "trajectory_id,score,label\na,\"[0.25, 0.5]\",0\nb,[0.75],1\n"),
        ("x.json", json.dumps(ROWS)),
        ("x.JSON.gz", json.dumps(ROWS, indent=1)),
        ("wrapped.json", json.dumps({"run": "r", "steps": ROWS})),
        ("pandas.json", pd.DataFrame(ROWS).to_json()),
        ("table.json", pd.DataFrame(ROWS).to_json(orient="table")),
        ("pipes.csv", PLAIN.replace(",", "|")),
        ("columns.json", json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]})),
        ("lists.json", json.dumps(LISTS)),
        ("x.jsonl", LINES),
        ("x.ndjson.gz", LINES + "\n\n"),
        ("lists.jsonl", "\n".join(map(json.dumps, LISTS))),
        ("lines.json", LINES),
        ("array.jsonl", json.dumps(ROWS)),
    ],
)
def test_forms_that_have_one_meaning(tmp_path, name, text):
    check_plain(read(tmp_path, name, text))


@pytest.mark.parametrize("name", ["x.parquet", "Y.PARQUET", "z.pq"])
def test_parquet_with_an_index_with_lists_and_with_booleans(tmp_path, name):
    frame = pd.DataFrame(ROWS)
    for table in (frame, frame.set_index(["trajectory_id", "step"]),
                  frame.astype({"label": bool}), pd.DataFrame(LISTS)):
        table.to_parquet(tmp_path / name)
        check_plain(load_scores(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "trajectory_id,label,step,score,label\na,0,1,0.5,1\n", "column 'label' appears"),
        ("x.csv", "trajectory_id,label,step,score,Label\na,0,1,0.5,1\n", "'label' appears twice"),
        ("x.jsonl", '{"trajectory_id":"a","step":1,"score":0,"step":1}', "'step' occurs twice"),
        ("x.csv", HEADER + "a,1,0.5,0\na,2,0.5,0,7\n", "row 2 has 5 fields, the header names 4"),
        ("x.csv", HEADER + "a,1,0.5,0\na,2,0.5\n", "row 2 has 3 fields"),
        ("x.csv", HEADER + "a,1,0,535,0\n", "row 1 has 5 fields"),
        ("x.csv", HEADER + 'a,1,"1,250",0\na,2,"2,125",0\n', "may separate thousands"),
        ("x.csv", HEADER + 'a,1,"0,25",0\na,2,0.5,0\n', "other numbers have a point"),
        ("x.csv", HEADER + "a,1,25%,0\na,2,0.5,0\n", "row 2: found '0.5', and other rows"),
        ("x.csv", HEADER + "a,1,1_000,0\n", "found '1_000', expected a number"),
        ("x.csv", HEADER + "a,1,1e400,0\n", "found '1e400', expected a number"),
        ("x.csv", HEADER + "a,1,1e308,0\n", "found 1e+308, expected a number between"),
        ("x.csv", HEADER + "a,1,nan,0\n", "found 'nan', expected a number, or inf"),
        ("x.csv", HEADER + "a,1,True,0\n", "found 'True', expected a number"),
        ("x.json", '[{"trajectory_id":"a","step":1,"score":true}]', "found True, expected"),
        ("x.csv", HEADER + "a,1,0.5,jailbroken\n", "expected 0 (safe) or 1 (unsafe)"),
        ("x.csv", HEADER + "a,1,0.5,perhaps\n", "found 'perhaps', expected 0 (safe) or 1 (unsafe)"),
        ("x.csv", HEADER + "a,1,0.5,-1\nb,1,0.5,1\n", "-1 means that no step is wrong"),
        ("x.csv", HEADER + "a,1,0.5,0\na,2,0.5,\n", "row 2: found '', but trajectory 'a' has"),
        ("x.csv", HEADER + "a,0,0.5,0\nb,1,0.5,1\n", "row 1: found 0, expected a whole number"),
        ("x.json", '[{"trajectory_id":"a","score":[]}]', "an empty list"),
        ("x.json", '[{"trajectory_id":"a","score":[0.1]},{"trajectory_id":"b","score":1}]',
         "row 2: found 1 where other rows have a list"),
        ("x.json", '[{"trajectory_id":"a","score":[0.1, null]}]', "row 1, step 2: found None"),
        ("x.json", '[{"trajectory_id":"a","score":[0.1,0.2],"tokens":[3]}]', "1 entries, but 2"),
        ("x.json", '[{"trajectory_id":"a","score":[0.1,0.2],"tokens":9}]', "one entry per step"),
        ("x.csv", "trajectory_id,score,label\na,[0.1 0.2],0\n", "expected a list with commas"),
        ("x.csv", "trajectory_id,score,label\na,0.1,0\n", "missing column step"),
        ("x.json", "{}", "missing column trajectory_id and score"),
        ("x.json", "[]", "expected an array of objects"),
        ("x.json", "[1, 2]", "row 1 is a number (1), expected an object"),
        ("x.json", "[" * 100_000, "cannot be read as JSON"),
        ("x.jsonl", LINES + '\n{"trajectory_id": "c", "st', "line 4 is not JSON"),
        ("x.xlsx", "PK", "unknown ending"),
        ("x.csv.zip", "PK", "unknown ending"),
        ("x", PLAIN, "unknown ending"),
        ("x.csv", ",".join(f"column{i}" * 9 for i in range(5_000)) + "\n1\n", "and 4994 more"),
        ("x.csv", HEADER + f"{'a' * 50_000},1,0.5,0\n{'a' * 50_000},3,0.5,0\n", "has step 3 where"),
        ("x.csv", HEADER + f"a,1,{'z' * 90_000},0\n", "expected a number"),
    ],
)  # fmt: skip
def test_what_is_refused_says_where_and_what_to_do(tmp_path, name, text, words):
    assert words in refusal(tmp_path, name, text)


def test_an_unknown_ending_is_refused_before_the_file_is_opened(tmp_path):
    with pytest.raises(ScoreFileError, match="unknown ending"):
        load_scores(tmp_path / "there_is_no_such_file.docx")
    with pytest.raises(ScoreFileError, match="is a folder"):
        (tmp_path / "folder.csv").mkdir()
        load_scores(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("file", "name"),
    [("2026.09.01_guard.csv", "2026.09.01_guard"), ("a.b.JSONL.gz", "a.b"),
     ("miniature_math_prod.csv", "miniature_math_prod"), ("cost_$5_vs_$x.csv", "cost_$5_vs_$x")],
)
def test_the_name_is_the_file_s_without_its_ending_and_says_nothing_about_the_data(
    tmp_path, file, name
):
    text = PLAIN if ".csv" in file else LINES
    found = read(tmp_path, file, text)
    assert (found.dataset, found.name, found.stand_in) == (name, name, False)


def test_infinite_scores_are_ranks(tmp_path):
    text = HEADER + "a,1,-inf,0\na,2,0.5,0\nb,1,Infinity,1\n"
    assert read(tmp_path, "x.csv", text).flat_scores.tolist() == [-np.inf, 0.5, np.inf]
    turned = read(tmp_path, "x.csv", text, orientation="safety")
    assert turned.flat_scores.tolist() == [np.inf, -0.5, -np.inf]


def test_turning_loses_no_difference(tmp_path):
    """One minus a probability ties everything below 1e-16; the alarm is about exactly those."""
    text = HEADER + "a,1,1e-20,0\na,2,1e-300,0\nb,1,0.0,1\n"
    scores = read(tmp_path, "x.csv", text, orientation="safety").flat_scores
    assert scores[0] < scores[1] < scores[2]


def test_logs_without_labels_have_alarms_at_a_given_threshold(tmp_path):
    for text in (HEADER + "a,1,0.25,\na,2,0.5,\nb,1,0.75,1\n",
                 "trajectory_id,step,score\na,1,0.25\na,2,0.5\nb,1,0.75\n"):
        data = read(tmp_path, "x.csv", text)
        assert alarm_steps(data, 0.4).tolist() == [2, 1]
        assert data.labels[0] == UNKNOWN
        assert alarm_steps(data, 0.6).tolist() == [0, 1]
        with pytest.raises(ScoreFileError, match=r"[12] of 2 sequences have none\. Calibration"):
            data.require_two_classes()


def test_columns_and_their_meaning_can_be_named(tmp_path):
    text = ("conv,turn,p_bad,ok,user,tokens_so_far,label\n"
            "a,1,0.25,1,ann,10,x\na,2,0.5,1,ann,30,x\nb,1,0.75,0,bob,5,x\n")
    named = "trajectory_id:conv, step:turn, score:p_bad, label:ok, total_tokens:tokens_so_far"
    for columns in (named, FileTable.named_columns(named, COLUMNS)):
        data = read(tmp_path, "x.csv", text, columns=columns, group="user", positive="safe")
        check_plain(data)
        assert data.groups.tolist() == ["ann", "bob"]
        assert data.flat_tokens.tolist() == [10, 20, 5]
    assert data.take(np.array([1])).groups.tolist() == ["bob"]
    assert "no column 'p_good'; found conv, turn" in refusal(
        tmp_path, "x.csv", text, columns={"trajectory_id": "conv", "score": "p_good"})
    assert "columns names 'scor'" in refusal(tmp_path, "x.csv", text, columns={"scor": "p_bad"})
    assert "COLUMNS holds 'score=p_bad'" in refusal(tmp_path, "x.csv", text, columns="score=p_bad")
    assert "found 'x'" in refusal(tmp_path, "x.csv", text, columns=named.replace("label:ok", ""))
    assert "positive is 'good'" in refusal(tmp_path, "x.csv", PLAIN, positive="good")
    mixed = text.replace("a,2,0.5,1,ann", "a,2,0.5,1,bob")
    assert "trajectory 'a' has group 'bob' here" in refusal(
        tmp_path, "x.csv", mixed, columns=named, group="user")


def test_words_mean_themselves_whatever_a_label_of_1_means(tmp_path):
    text = HEADER + "a,1,0.25,safe\nb,1,0.75,unsafe\nc,1,0.5,1\n"
    assert read(tmp_path, "x.csv", text, positive="safe").labels.tolist() == [0, 1, 0]


def test_a_column_names_the_signal(tmp_path):
    text = PLAIN.replace("\n", ",guard\n").replace("label,guard", "label,signal")
    both = text + "b,1,1.5,1,judge\na,1,0.5,0,judge\na,2,1.0,0,judge\n"
    check_plain(read(tmp_path, "one.csv", text))
    assert read(tmp_path, "one.csv", text).signal == "guard"
    (tmp_path / "two.csv").write_text(both)
    guard, judge = load_signals(tmp_path / "two.csv")
    check_plain(guard)
    assert (judge.signal, judge.ids.tolist()) == ("judge", ["a", "b"])
    assert judge.flat_scores.tolist() == [0.5, 1.0, 1.5]
    assert (guard.name, judge.dataset) == ("two, guard", "two")
    chosen = load_scores(tmp_path / "two.csv", "safety", signal="judge")
    assert chosen.flat_scores.tolist() == [-0.5, -1.0, -1.5]
    words = refusal(tmp_path, "two.csv", both)
    assert "holds the signals guard, judge" in words and "load_signals" in words
    other = both.replace("label,signal", "label,model")
    assert "step 1 of trajectory 'b' appears twice" in refusal(tmp_path, "three.csv", other)
    found = load_scores(tmp_path / "three.csv", columns="signal:model", signal="guard")
    check_plain(found)
    other = both.replace("a,1,0.5,0,judge\na,2,1.0,0", "a,1,0.5,1,judge\na,2,1.0,1")
    assert "has label 1 here and 0 before" in refusal(tmp_path, "four.csv", other)


def test_a_column_called_signal_that_holds_something_else_can_be_left_out(tmp_path):
    rows = "".join(f"t{i},1,0.5,{i % 2},{i * 0.1}\n" for i in range(60))
    text = "trajectory_id,step,score,label,signal\n" + rows
    assert "names 60 signals" in refusal(tmp_path, "x.csv", text)
    assert len(read(tmp_path, "x.csv", text, columns={"signal": ""})) == 60


def test_tokens_that_always_grow_may_be_a_running_total(tmp_path):
    rows = "".join(f"t{i},{t},0.5,{i % 2},{10 * t}\n" for i in range(9) for t in (1, 2, 3, 4))
    text = "trajectory_id,step,score,label,tokens\n" + rows
    words = refusal(tmp_path, "x.csv", text)
    assert "total_tokens:tokens" in words and "tokens:tokens" in words
    total = read(tmp_path, "x.csv", text, columns="total_tokens:tokens")
    assert (total.flat_tokens == 10).all()
    each = read(tmp_path, "x.csv", text, columns="tokens:tokens")
    assert each.flat_tokens[:4].tolist() == [10, 20, 30, 40]
    assert read(tmp_path, "x.csv", text.replace("t0,4,0.5,0,40", "t0,4,0.5,0,8")) is not None
    fallen = text.replace("t0,4,0.5,0,40", "t0,4,0.5,0,30")
    assert "row 4: found 30, not more than" in refusal(
        tmp_path, "x.csv", fallen, columns="total_tokens:tokens")


def test_published_tokens_are_those_of_each_step(tmp_path):
    frame = pd.DataFrame({
        "uq_problem_idx": [f"p{i}" for i in range(9) for _ in range(4)],
        "num_steps": [1, 2, 3, 4] * 9, "generated_tokens": [1, 2, 3, 4] * 9,
        "judge_probability": 1e-20, "solved": [i % 2 == 0 for i in range(9) for _ in range(4)],
    })
    frame.to_csv(tmp_path / "evaluator.csv", index=False)
    data = load_evaluator(tmp_path / "evaluator.csv", "evaluator_math")
    assert data.flat_tokens[:4].tolist() == [1, 2, 3, 4]
    assert (data.flat_scores == -1e-20).all() and data.labels[:2].tolist() == [0, 1]
    assert data.name == "MATH, process reward model" and data.signal == "verifier"


def test_reading_is_linear_in_time(tmp_path):
    """A quadratic reader takes a hundred times as long for ten times the rows."""
    seconds = []
    for n in (5_000, 50_000):
        text = json.dumps([{"trajectory_id": f"t{i // 5}", "step": i % 5 + 1, "score": i / n,
                            "label": 0} for i in range(n)])
        (tmp_path / "x.json").write_text(text)
        start = time.process_time()
        assert len(load_scores(tmp_path / "x.json")) == n // 5
        seconds.append(time.process_time() - start)
    assert seconds[1] < 40 * max(seconds[0], 0.05)


ONSETS = "trajectory_id,step,score,label,onset\na,1,0.1,1,2\na,2,0.9,1,2\nb,1,0.2,0,\n"


def test_onsets_come_in_and_go_out(tmp_path: Path):
    data = read(tmp_path, "x.csv", ONSETS)
    assert data.onsets.tolist() == [2, 0]
    assert data.to_frame()["onset"].tolist() == [2, 2, 0]
    lists = '{"trajectory_id": "a", "scores": [0.1, 0.9], "label": 1, "onset": 2}\n'
    assert read(tmp_path, "x.jsonl", lists).onsets.tolist() == [2]
    assert read(tmp_path, "x.csv", ONSETS, columns="onset:").onsets is None


@pytest.mark.parametrize(("old", "new", "message"), [
    ("a,2,0.9,1,2", "a,2,0.9,1,1", "has onset 1 here and 2 before"),
    ("1,2\n", "1,3\n", "column onset, row 1: found 3, expected the number of a step"),
    ("1,2\n", "1,1.5\n", "column onset, row 1: found 1.5"),
    ("a,1,0.1,1,2\na,2", "a,0,0.1,1,1\na,1", "counts from 0, column onset from 1"),
])
def test_onsets_that_mean_nothing_are_refused(tmp_path: Path, old: str, new: str, message: str):
    assert message in refusal(tmp_path, "x.csv", ONSETS.replace(old, new))


@pytest.mark.parametrize(("safe", "unsafe"), [
    ("no", "yes"), ("No", "YES"), ("false", "true"), ("safe", "unsafe"), ("correct", "incorrect"),
    ("harmless", "harmful"),
])
def test_labels_in_words_are_read(tmp_path: Path, safe: str, unsafe: str):
    text = HEADER + f"a,1,0.1,{safe}\nb,1,0.9,{unsafe}\n"
    assert read(tmp_path, "x.csv", text).labels.tolist() == [0, 1]
    turned = read(tmp_path, "x.csv", text, positive="safe").labels.tolist()
    assert turned == ([1, 0] if safe.lower() in ("no", "false") else [0, 1])


def test_a_label_of_two_meanings_is_refused_with_what_to_do(tmp_path: Path):
    said = refusal(tmp_path, "x.csv", HEADER + "a,1,0.1,pass\nb,1,0.9,fail\n")
    assert "found 'pass', expected 0 (safe) or 1 (unsafe)" in said
