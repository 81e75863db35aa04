"""Chats as other tools write them: what is the request, what the response, and what is neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitorlab.benchmark.sample_files import SampleFileError, _read_chat, load_samples
from monitorlab.storage.table_files import TableFileError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "Whose key is it?"},
    {"role": "assistant", "content": "Ann's: 4711."},
]
REQUEST = "System: Be brief.\n\nUser: Hello?\n\nAssistant: Hi.\n\nUser: Whose key is it?"
SHARED = [{"from": {"user": "human", "assistant": "gpt"}.get(turn["role"], turn["role"]),
           "value": turn["content"]} for turn in CHAT]


@pytest.mark.parametrize("chat", [CHAT, SHARED, json.dumps(CHAT)])
def test_the_last_answer_is_the_response_and_what_comes_before_it_the_request(chat: Any) -> None:
    assert _read_chat(chat) == (REQUEST, "Ann's: 4711.", 0)


def test_a_single_question_is_the_request_as_it_stands() -> None:
    assert _read_chat(CHAT[3:]) == ("Whose key is it?", "Ann's: 4711.", 0)


def test_what_follows_the_last_answer_is_counted() -> None:
    thanks = {"role": "user", "content": "Thanks."}
    assert _read_chat([*CHAT, thanks]) == (REQUEST, "Ann's: 4711.", 1)


@pytest.mark.parametrize(("message", "text"), [
    ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
    ({"content": ["a", "b"]}, "ab"), ({"content": ""}, ""),
    ({"content": "a", "reasoning_content": "why"}, "<think>why</think>\na"),
    ({"content": None, "tool_calls": [{"name": "rm"}]}, '[{"name": "rm"}]'),
    ({"content": "a", "function_call": {"name": "rm"}}, 'a\n{"name": "rm"}'),
    ({"content": None, "refusal": "No."}, "No."),
    ({"content": "a", "tool_calls": None, "refusal": None, "name": "x"}, "a"),
])
def test_every_part_of_an_answer_that_can_be_judged_is_in_the_response(
    message: dict[str, Any], text: str
) -> None:
    asked = {"role": "user", "content": "q"}
    assert _read_chat([asked, {"role": "Assistant", **message}]) == ("q", text, 0)


@pytest.mark.parametrize(("chat", "words"), [
    (CHAT[:2], "has no message of the assistant"), ([], "is an array, expected"),
    (None, "is null, expected"), ({"role": "user"}, "is an object, expected"),
    ("hello", "is text, but not a JSON array"), ("[{'role': 'user'}]", "is text, but not a JSON"),
    (["hello"], "holds a message 1 that is text, expected an object"),
    ([{"role": "boss", "content": "x"}], "holds a message 1 of the role 'boss', expected one of"),
    ([{"content": "x"}], "of the role None"),
    ([*CHAT, {"role": "assistant"}], "holds a message 6 without content"),
    ([{"role": "user", "content": 7}], "holds a message 1 whose content is a number"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
     r"holds a message 1 with a part that is no text \(image_url\)"),
])
def test_what_is_no_chat_is_refused(chat: Any, words: str) -> None:
    with pytest.raises(TableFileError, match=words) as caught:
        _read_chat(chat)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("column", ["messages", "conversations", "Messages"])
@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_a_file_of_chats_is_a_file_of_samples(tmp_path: Path, column: str, ending: str) -> None:
    rows = [{"id": i, column: CHAT[:3] if i else CHAT, "label": i} for i in range(2)]
    path = tmp_path / f"chats.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == "json":
        path.write_text(json.dumps(rows))
    elif ending == "csv":
        pd.DataFrame([{**row, column: json.dumps(row[column])} for row in rows]).to_csv(path)
    else:
        pd.DataFrame(rows).to_parquet(path)
    frame = load_samples(path)
    assert list(frame["request"]) == [REQUEST, "System: Be brief.\n\nUser: Hello?"]
    assert list(frame["response"]) == ["Ann's: 4711.", "Hi."]
    assert list(frame["label"]) == [0, 1] and column not in frame.columns


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("row", "words"), [
    ({"messages": CHAT[:2]}, "chats.jsonl: line 2: messages has no message of the assistant"),
    ({"label": 1}, "chats.jsonl: line 2: messages is null"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, "line 2: the request is empty"),
    ({"messages": CHAT, "response": "x"}, "columns response and messages: give request and resp"),
    ({"messages": CHAT, "conversations": CHAT}, "columns messages and conversations: give"),
])
def test_a_row_that_is_no_chat_is_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(SampleFileError) as caught:
        load_samples(write(tmp_path, {"messages": CHAT}, row))
    assert words in str(caught.value)


def test_messages_behind_the_last_answer_are_told_about(tmp_path: Path) -> None:
    notes: list[str] = []
    path = write(tmp_path, {"sample_id": "a", "messages": [*CHAT, CHAT[1]]})
    assert load_samples(path, notes.append).loc[0, "response"] == "Ann's: 4711."
    assert notes == ["chats.jsonl: in 1 of 1 chats messages follow the last answer; they are not "
                     "judged"]


def test_request_and_response_come_before_a_chat(tmp_path: Path) -> None:
    frame = load_samples(write(tmp_path, {"request": "q", "response": "r", "messages": CHAT}))
    assert frame.loc[0, ["request", "response"]].tolist() == ["q", "r"]
    assert frame.loc[0, "messages"] == CHAT
