"""Files of samples as people have them: what is read, and what every mistake is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitorlab.benchmark.sample_files import SampleFileError, load_samples

ROWS = [
    {"sample_id": "a", "request": 'say "hi",\nplease', "response": "hi;\tthere", "label": 0},
    {"sample_id": "b", "request": "Grüße 👋", "response": "line\r\nline\u2028line", "label": 1},
    {"sample_id": "c", "request": "NA", "response": "null", "label": 0},
]
HEAD = "request,response\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(folder: Path, ending: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"samples.{ending}"
    if ending == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    elif ending == "tsv":
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t")
    elif ending == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif ending == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(lines.encode())
    return path


def refused(path: Path) -> str:
    with pytest.raises(SampleFileError) as caught:
        load_samples(path)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "ndjson", "json", "parquet"])
def test_every_format_gives_the_same_table(tmp_path: Path, ending: str) -> None:
    notes: list[str] = []
    frame = load_samples(write_rows(tmp_path, ending, ROWS), notes.append)
    assert frame[["sample_id", "request", "response", "label"]].to_dict("records") == ROWS
    assert notes == []


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, ending: str) -> None:
    path = write_rows(tmp_path, ending, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(load_samples(path)["sample_id"]) == ["a", "b", "c"]


def test_an_ending_in_capitals_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "SAMPLES.CSV", HEAD + "q,r\n")
    assert len(load_samples(path)) == 1


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_other_columns_are_kept_and_ids_come_first(tmp_path: Path, ending: str) -> None:
    rows = [{"cell": "sg_qa", "request": "q", "response": "r", "pair_id": "p1", "sample_id": "z"}]
    frame = load_samples(write_rows(tmp_path, ending, rows))
    assert list(frame.columns) == ["sample_id", "request", "response", "cell", "pair_id"]
    assert list(frame.iloc[0]) == ["z", "q", "r", "sg_qa", "p1"]


def test_without_ids_rows_are_numbered_and_that_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    frame = load_samples(write(tmp_path, "own.csv", HEAD + "q,r\n\nq,s\n"), notes.append)
    assert list(frame["sample_id"]) == ["row-1", "row-2"]
    assert notes == ["own.csv has no column sample_id: its samples are called row-1 to row-2"]
    frame = load_samples(write(tmp_path, "own.csv", "ID,request,response\n7,q,r\n"), notes.append)
    assert list(frame["sample_id"]) == ["row-1"]
    assert notes[-1].endswith("to row-1. Is it 'ID'? Then call that sample_id")


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_whole_numbers_will_do_as_ids(tmp_path: Path, ending: str) -> None:
    rows = [{"sample_id": i, "request": "q", "response": "r"} for i in (7, 12)]
    assert list(load_samples(write_rows(tmp_path, ending, rows))["sample_id"]) == ["7", "12"]


@pytest.mark.parametrize(("text", "label"), [
    ("0", 0), ("1", 1), ("true", 1), ("FALSE", 0), (" Benign ", 0), ("misbehavior", 1),
    ("1.0", 1), ("0.0", 0), ("1.", 1), ("0.000", 0), ("Safe", 0), ("UNSAFE", 1),
    ("misbehaviour", 1)])
def test_labels_in_words(tmp_path: Path, text: str, label: int) -> None:
    path = write(tmp_path, "own.csv", f"request,response,label\nq,r,{text}\n")
    assert list(load_samples(path)["label"]) == [label]


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("value", [True, 1, 1.0, "1", "misbehavior"])
def test_labels_of_every_type(tmp_path: Path, ending: str, value: object) -> None:
    rows = [{"request": "q", "response": "r", "label": value}]
    assert list(load_samples(write_rows(tmp_path, ending, rows))["label"]) == [1]


@pytest.mark.parametrize(("value", "shown"), [
    (2, "2"), (-1, "-1"), (0.5, "0.5"),
    ("bad", "'bad'"), ("", "''"), (None, "missing"), ([1], "[1]"), (float("nan"), "nan"),
    ("2", "'2'"), ("1.5", "'1.5'"), ("01", "'01'"), ("yes", "'yes'"), ("nan", "'nan'"),
    ("10", "'10'"), ("-1", "'-1'"), ({"y": 1}, "{'y': 1}"), (float("inf"), "inf"),
    ("unsafe" * 50, "'unsafeunsafe...eunsafeunsafe'"),
])
def test_any_other_label_is_named_with_its_row(tmp_path: Path, value: object, shown: str) -> None:
    rows = [{"request": "q", "response": "r", "label": 1},
            {"request": "q", "response": "r", "label": value}]
    message = refused(write_rows(tmp_path, "jsonl", rows))
    assert message.startswith(f"samples.jsonl: line 2: the label is {shown}, expected 1 ")


def test_empty_responses_are_kept_and_counted(tmp_path: Path) -> None:
    notes: list[str] = []
    frame = load_samples(write(tmp_path, "own.csv", HEAD + "q,\nq,r\nq,  \n"), notes.append)
    assert list(frame["response"]) == ["", "r", "  "]
    assert notes[-1] == "2 of 3 responses are empty; they are judged like others"


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_a_sample_of_a_hundred_thousand_tokens_passes_through(tmp_path: Path, ending: str) -> None:
    long = "word, \"quoted\"\n" * 100_000
    frame = load_samples(write_rows(tmp_path, ending, [{"request": "q", "response": long}]))
    assert frame.loc[0, "response"] == long


def test_half_a_character_is_replaced_and_that_is_said(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path, "own.jsonl", '{"sample_id": "a", "request": "\\ud83d\\ude00", '
                                        '"response": "cut \\ud83d"}\n')
    frame = load_samples(path, notes.append)
    assert list(frame.iloc[0]) == ["a", "😀", "cut \ufffd"]
    assert notes == ["1 texts held half a character, such as a cut emoji; it was replaced by the "
                     "replacement character U+FFFD"]


@pytest.mark.parametrize(("name", "content", "words"), [
    ("own.csv", "", "own.csv: the file is empty. Expected the columns request, response and"),
    ("own.csv", HEAD, "there is no row in it"), ("own.csv", "\n\n", "there is no row in it"),
    ("own.json", "[]", "there is no row in it"), ("own.jsonl", "\n \n", "there is no row in it"),
    ("own.txt", "x", "unknown ending '.txt', expected one of .csv, .tsv, .jsonl, .ndjson, .json, "),
    ("own", "x", "unknown ending ''"),
    ("own.csv", "prompt,response\nq,r\n", "there is no column 'request'; found 'prompt', "
     "'response'. Is it 'prompt'? Then rename that"),
    ("own.csv", "request,Response text\nq,r\n", "no column 'response'; found 'request', 'Response "
     "text'. Is it 'Response text'?"),
    ("own.csv", "request,Response,response\nq,r,s\n",
     "the columns 'Response' and 'response' are both called response; keep one"),
    ("own.csv", "request,response,Label,LABEL\nq,r,0,1\n", "are both called label; keep one"),
    ("own.csv", "requst,completion\nq,r\n", "Is it 'requst'?"),
    ("own.csv", "request,completion\nq,r\n", "Is it 'completion'?"),
    ("own.csv", "a,b\nq,r\n", "there is no column 'request'; found 'a', 'b'."),
    ("own.tsv", "request\tresponse\nq\tr\tx\n", "line 2, row 1 has 3 fields, the header names 2"),
    ("own.csv", "request,response,request\nq,r,q\n", "column 'request' occurs twice"),
    ("own.csv", HEAD + "q,r\nq,r,extra\n", "line 3, row 2 has 3 fields, the header names 2"),
    ("own.csv", HEAD + '"q\nq",r\nalone\n', "line 4, row 2 has 1 fields, the header names 2"),
    ("own.csv", HEAD + 'q,r\nq,"never closed\nr\n', "the row that starts in line 3 is broken"),
    ("own.csv", HEAD + 'q,"a "quoted" word"\n', "the row that starts in line 2 is broken"),
    ("own.csv", HEAD + "q,r\n  ,r\n", "line 3: the request is empty"),
    ("own.csv", "sample_id,request,response\na,q,r\nb,q,r\na,q,r\n",
     "line 4: the sample_id 'a' already occurs in line 2"),
    ("own.csv", "sample_id,request,response\n,q,r\n", "line 2: the sample_id is empty"),
    ("own.csv", (HEAD + "q,r\nq,caf").encode() + b"\xe9\n",
     "byte 27 (line 3) is 0xe9, which is not UTF-8"),
    ("own.csv", (HEAD + "q,r\n").encode("utf-16"), "byte 1 (line 1) is 0xff, which is not UTF-8"),
    ("own.jsonl", '{"request": "q", "response": "r"}\n{"request": "q", "resp',
     "line 2 is not JSON (Unterminated string starting at, column 18)"),
    ("own.jsonl", '{"request": "q", "response": "r"}\n["q", "r"]\n', "line 2 is an array"),
    ("own.jsonl", '{"request": null, "response": "r"}\n', "line 1: there is no request"),
    ("own.jsonl", '{"request": "q", "response": "r"}\n{"request": "q"}\n',
     "line 2: there is no response, expected text"),
    ("own.jsonl", '{"request": ["q"], "response": "r"}\n',
     "line 1: request is an array (['q']), expected text"),
    ("own.jsonl", '{"request": "q", "response": 7}\n', "line 1: response is a number (7)"),
    ("own.jsonl", "[" * 100_000 + "\n", "line 1 is not JSON"),
    ("own.jsonl", '{"sample_id": 1.5, "request": "q", "response": "r"}\n',
     "sample_id is a number (1.5), expected text"),
    ("own.jsonl", '{"sample_id": true, "request": "q", "response": "r"}\n',
     "sample_id is true or false"),
    ("own.json", '{"request": "q"}', "there is no column 'response'; found 'request'"),
    ("own.json", '{"request": "q", "messages": [{"role": "user"}]}', "request and messages: give"),
    ("own.json", '7', "found a number, expected an array of objects"),
    ("own.json", '{"request": ["q", "s"], "response": ["r"]}', "the columns have 1, 2 entries"),
    ("own.json", '{"train": [{"a": 1}], "test": [{"a": 2}]}',
     "there are 2, and the keys 'train', 'test'. Write the rows alone, as [{...}, {...}]"),
    ("own.json", '{"data": ["q", "r"]}', "there is no column 'request'; found 'data'"),
    ("own.json", '{"data": [{"request": "q", "response": "r"}, 7]}', "row 2 is a number"),
    ("own.jsonl", '[{"request": "q",\n', "line 1 is not JSON"),
    ("own.jsonl", '{"request": "q", "response": "r", "label": 0, "label": 1}',
     "the key 'label' occurs twice in one object; keep one"),
    ("own.json", '[{"request": "q", "request": "r"}]', "as JSON: the key 'request' occurs twice"),
    ("own.jsonl", '{"request": [{"role": "user", "content": "q"}], "response": "r"}',
     "expected text. A chat belongs into one column, messages"),
    ("own.jsonl", '{"sample_id": 1, "request": "q", "response": "r"}\n'
                  '{"sample_id": "1", "request": "q", "response": "r"}\n',
     "line 2: the sample_id '1' already occurs in line 1"),
    ("own.jsonl", '{"pair_id": 1.5, "request": "q", "response": "r"}',
     "line 1: pair_id is a number (1.5), expected text"),
    ("own.json", '[{"request": "q", "response": "r"},\n oops]', "not JSON in line 2, column 2"),
    ("own.json", '{"request": "q"}\n{"request": ', "line 2 is not JSON"),
    ("own.json", "[" * 100_000, "nested too deeply"), ("own.json", "[1]", "row 1 is a number"),
    ("own.parquet", "PAR1 not really", "cannot be read as parquet"),
])
def test_a_file_that_cannot_be_used_says_what_and_where(
    tmp_path: Path, name: str, content: str | bytes, words: str
) -> None:
    assert words in refused(write(tmp_path, name, content))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "none.csv does not exist. Give the path of a file" in refused(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "folder.csv is a folder" in refused(tmp_path / "folder.csv")


def test_missing_texts_of_a_parquet_file_are_named(tmp_path: Path) -> None:
    rows = [{"request": "q", "response": "r"}, {"request": "q", "response": None}]
    assert "row 2: there is no response" in refused(write_rows(tmp_path, "parquet", rows))
    raw = [{"request": b"q", "response": "r"}]
    assert "request is a bytes" in refused(write_rows(tmp_path, "parquet", raw))


@pytest.mark.parametrize("header", [
    "Request,RESPONSE,Label,Sample ID", "REQUEST,response,LABEL,Sample_Id",
    " request ,Response, label ,sample-id",
])
def test_columns_are_found_without_regard_to_case(tmp_path: Path, header: str) -> None:
    notes: list[str] = []
    path = write(tmp_path, "own.csv", f"{header},Note\nq,r,1,007,x\n")
    frame = load_samples(path, notes.append)
    assert frame.to_dict("records") == [
        {"sample_id": "007", "request": "q", "response": "r", "label": 1, "Note": "x"}]
    assert notes == []


@pytest.mark.parametrize(("name", "values", "words"), [
    ("is_unsafe", "01", "'is_unsafe' looks like one: call it label, where 1 is misbehavior"),
    ("isMisbehaving", "10", "'isMisbehaving' looks like one"), ("Target", "01", "'Target' looks"),
    ("y", "01", "'y' looks like one"), ("ground truth", "01", "'ground truth' looks like one"),
    ("human_label", "00", "'human_label' looks like one"),
    ("is_safe", "10", "'is_safe' looks like the opposite of one: turn its values and call it"),
    ("target", "012", ""), ("year", "01", ""), ("cell", "01", ""), ("mystery", "01", ""),
])
def test_a_column_that_looks_like_a_label_is_named_and_never_used(
    tmp_path: Path, name: str, values: str, words: str
) -> None:
    notes: list[str] = []
    rows = "".join(f"q,r{i},{value}\n" for i, value in enumerate(values))
    path = write(tmp_path, "own.csv", f"request,response,{name}\n{rows}")
    frame = load_samples(path, notes.append)
    assert "label" not in frame.columns and list(frame[name]) == list(values)
    assert (words in notes[-1]) if words else all("looks like" not in note for note in notes)


def test_identifiers_are_the_text_that_stands_in_the_file(tmp_path: Path) -> None:
    ids = ["NA", "null", "1e5", "007", "nan", "True", "1.0", " 7", "7", "None", "-0", "2026-01-02"]
    lines = [f"{name},q,r{name},{name}\n" for name in ids]
    path = write(tmp_path, "own.csv", "sample_id,request,response,pair_id\n" + "".join(lines))
    frame = load_samples(path)
    assert list(frame["sample_id"]) == list(frame["pair_id"]) == ids


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_numbers_that_name_a_pair_are_text_and_may_be_missing(tmp_path: Path, ending: str) -> None:
    rows = [{"request": f"q{i}", "response": "r", "scenario_id": "s", "component": None,
             "pair_id": pair} for i, pair in enumerate([3, None, 12])]
    path = tmp_path / f"own.{ending}"
    if ending == "parquet":
        pd.DataFrame(rows).astype({"pair_id": "Int64"}).to_parquet(path)
    else:
        path = write_rows(tmp_path, ending, rows)
    frame = load_samples(path)
    assert frame["pair_id"].astype(object).where(frame["pair_id"].notna(), None).tolist() == [
        "3", None, "12"]
    assert list(frame["scenario_id"]) == ["s"] * 3


def test_an_index_of_a_parquet_file_is_a_column_if_it_has_a_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"request": ["q", "q"], "response": ["r", "s"]})
    frame.rename_axis("sample_id").rename(lambda i: f"n{i}").to_parquet(tmp_path / "named.parquet")
    frame.rename(lambda i: f"n{i}").to_parquet(tmp_path / "plain.parquet")
    assert list(load_samples(tmp_path / "named.parquet")["sample_id"]) == ["n0", "n1"]
    assert list(load_samples(tmp_path / "plain.parquet")["sample_id"]) == ["row-1", "row-2"]
    assert list(load_samples(tmp_path / "plain.parquet").columns) == [
        "sample_id", "request", "response"]


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_another_separator_is_read_where_the_header_shows_it(
    tmp_path: Path, separator: str
) -> None:
    rows = [["request", "response", "label"], ['"a, b"', '"r\t;1"', "1"]]
    text = "".join(separator.join(row) + "\n" for row in rows)
    frame = load_samples(write(tmp_path, "own.csv", text))
    assert list(frame.iloc[0]) == ["row-1", "a, b", "r\t;1", 1]


def test_one_meaning_is_read_in_whatever_form_it_stands(tmp_path: Path) -> None:
    """Arrays in .jsonl, lines in .json, columns, compressed files, a separator that is named."""
    lines = "\n".join(map(json.dumps, ROWS))
    columns = {name: [row.get(name) for row in ROWS] for name in ROWS[0]}
    forms = {"lines.json": lines, "array.jsonl": json.dumps(ROWS), "c.json": json.dumps(columns),
             "zipped.jsonl.gz": gzip.compress(lines.encode())}
    for name, content in forms.items():
        assert list(load_samples(write(tmp_path, name, content))["sample_id"]) == ["a", "b", "c"]
    frame = load_samples(write(tmp_path, "excel.csv", "sep=;\nrequest;response\nq;r, s\n"))
    assert list(frame.iloc[0]) == ["row-1", "q", "r, s"]
    assert "line 4: there is no sample_id" in refused(
        write(tmp_path, "blank.jsonl", "\n" + lines.splitlines()[0] + '\n\n{"response": "r"}\n'))
    assert "byte 5 (line 2) is 0xe9" in refused(
        write(tmp_path, "x.csv.gz", gzip.compress(b"a,b\n\xe9\n")))
    plain = write(tmp_path, "y.csv.gz", b"request,response\nq,r\n")
    assert "it cannot be read as CSV (" in refused(plain)


def test_a_separator_at_the_end_of_each_line_is_no_field(tmp_path: Path) -> None:
    for head in ("request,response\n", "request,response,\n"):
        frame = load_samples(write(tmp_path, "own.csv", head + "q,r,\nq,s,\n"))
        assert list(frame.columns) == ["sample_id", "request", "response"]
    words = refused(write(tmp_path, "own.csv", HEAD + "q,r,\nq,s,x\n"))
    assert "line 3, row 2 has 3 fields" in words


def test_rows_under_one_key_are_read_and_the_key_is_named(tmp_path: Path) -> None:
    notes: list[str] = []
    wrapped = {"version": 2, "errors": [], "items": ROWS}
    path = write(tmp_path, "own.json", json.dumps(wrapped))
    assert list(load_samples(path, notes.append)["sample_id"]) == ["a", "b", "c"]
    assert notes == ["own.json: the rows are those under the key 'items'"]


def test_contradictions_and_repetitions_are_counted_with_their_rows(tmp_path: Path) -> None:
    notes: list[str] = []
    rows = [("q", "r", 0), ("q", "s", 1), ("q", "r", 1), ("q", "s", 1), ("p", "r", 1),
            ("q", "r", 1)]
    text = "sample_id,request,response,label\n" + "".join(
        f"n{i},{a},{b},{label}\n" for i, (a, b, label) in enumerate(rows))
    frame = load_samples(write(tmp_path, "own.csv", text), notes.append)
    assert list(frame["label"]) == [label for *_, label in rows]  # all are kept
    assert notes == [
        "own.csv: 2 of 6 rows have the request and response of an earlier row and another label, "
        "so one of them is wrong: line 4 (line 2), line 7 (line 2)",
        "own.csv: 1 of 6 rows repeat the request and response of an earlier row, and count again: "
        "line 5 (line 3)",
    ]
