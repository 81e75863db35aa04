"""The verdict store: append-only, never half a line, never a failed call, several processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from monitorlab.monitors.store import StoreError, VerdictStore
from monitorlab.monitors.verdicts import PARSED, Verdict

FULL = Verdict(PARSED, True, 0.75, "quote \u2028 é", "half \ud83d\n", "", 10, 2, 0.5, 0.01,
               "length")


def write_many(path: str, name: str, count: int) -> None:
    """Write verdicts one by one, as one of several processes."""
    store = VerdictStore(Path(path))
    for i in range(count):
        store.put({f"{name}-{i}": Verdict(PARSED, True, i / count, name * 50)})


def read_often(path: str, times: int, found: Any) -> None:
    """Open the store again and again while others write; report the sizes, or the error."""
    try:
        found.put([len(VerdictStore(Path(path))) for _ in range(times)])
    except Exception as error:
        found.put(repr(error))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "store.jsonl"


def test_what_was_put_is_there_when_the_store_is_opened_again(path: Path) -> None:
    VerdictStore(path).put({"a": FULL, "b": Verdict(PARSED, False)})
    store = VerdictStore(path)
    assert store.get("a") == FULL
    assert store.get("b") == Verdict(PARSED, False)
    assert "c" not in store and store.get("c") is None and len(store) == 2


def test_nothing_is_written_before_the_first_put(path: Path) -> None:
    VerdictStore(path).put({})
    assert not path.parent.exists()


@pytest.mark.parametrize("status", ["unparsed", "refused", "truncated"])
def test_an_answer_without_a_verdict_is_kept(path: Path, status: str) -> None:
    VerdictStore(path).put({"a": Verdict.failure(status, "why", "reply")})
    assert VerdictStore(path).get("a") == Verdict.failure(status, "why", "reply")


def test_a_failed_call_is_never_stored(path: Path) -> None:
    store = VerdictStore(path)
    store.put({"a": Verdict.failure("error", "timeout"), "b": Verdict.from_score(0.1)})
    assert "a" not in store
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["b"]


def test_the_store_only_grows_at_its_end(path: Path) -> None:
    store = VerdictStore(path)
    store.put({"a": Verdict.from_score(0.1)})
    before = path.read_bytes()
    store.put({"a": Verdict.from_score(0.9), "b": Verdict.from_score(0.2)})
    assert path.read_bytes().startswith(before)
    assert len(path.read_text().splitlines()) == 2
    assert VerdictStore(path).get("a") == Verdict.from_score(0.1)


@pytest.mark.parametrize("keep", [1, 20, 5])
def test_a_line_that_was_cut_off_is_taken_off_and_the_rest_stays(path: Path, keep: int) -> None:
    VerdictStore(path).put({"a": Verdict.from_score(0.1), "b": Verdict.from_score(0.2)})
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: len(whole) - len(last)] + last[:-keep])
    store = VerdictStore(path)
    assert len(store) == 1 and "b" not in store
    store.put({"b": Verdict.from_score(0.2)})
    assert path.read_bytes() == whole


def test_a_file_of_one_cut_line_becomes_empty(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"key": "a", "sta')
    assert len(VerdictStore(path)) == 0
    assert path.read_bytes() == b""


def test_a_line_cut_by_another_process_is_mended_before_the_next_put(path: Path) -> None:
    store = VerdictStore(path)
    store.put({"a": Verdict.from_score(0.1)})
    with path.open("ab") as stream:
        stream.write(b'{"key": "b", "stat')  # killed while this store was open
    store.put({"c": Verdict.from_score(0.3)})
    assert len(VerdictStore(path)) == 2


@pytest.mark.parametrize("line", [
    "not json", "", "[]", "7", "null", '{"status": "parsed", "verdict": true}',
    '{"key": "a", "status": "parsed"}', '{"key": "a", "status": "benign", "verdict": false}',
    '{"key": "a", "status": "parsed", "verdict": true, "score": NaN}',
    '{"key": "a", "status": "parsed", "verdict": true, "colour": "red"}',
])
def test_a_broken_line_is_named(path: Path, line: str) -> None:
    VerdictStore(path).put({"a": Verdict.from_score(0.1)})
    with path.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(StoreError, match=r"store\.jsonl:2 is not a stored verdict .*Delete that"):
        VerdictStore(path)


@pytest.mark.parametrize("bit", [1, 32])
def test_no_changed_byte_changes_a_verdict(path: Path, bit: int) -> None:
    VerdictStore(path).put({"a": FULL})
    whole = path.read_bytes()
    for place in range(len(whole) - 1):  # without its end a line counts as cut off
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1:])
        with contextlib.suppress(StoreError):
            assert VerdictStore(path).get("a") == FULL, path.read_text()


def test_a_line_of_an_older_store_has_no_checksum(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"key": "a", "status": "parsed", "verdict": true}\n')
    assert VerdictStore(path).get("a") == Verdict(PARSED, True)


def test_threads_may_share_a_store(path: Path) -> None:
    store = VerdictStore(path)

    def write(name: str) -> None:
        for i in range(20):
            store.put({f"{name}-{i}": Verdict.from_score(0.5)})

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == len(VerdictStore(path)) == 80


@pytest.mark.parametrize("action", ["put", "open"])
def test_nothing_is_written_or_mended_while_another_process_holds_the_lock(
    path: Path, action: str
) -> None:
    store = VerdictStore(path)
    store.put({"a": Verdict.from_score(0.1)})
    with path.open("ab") as stream:
        stream.write(b'{"key": "half a li')  # the other process is in the middle of a line
    before = path.read_bytes()

    def act() -> None:
        if action == "put":
            store.put({"b": Verdict.from_score(0.2)})
        else:
            VerdictStore(path)

    thread = threading.Thread(target=act)
    with FileLock(f"{path}.lock"):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and path.read_bytes() == before
    thread.join(10)
    assert not thread.is_alive() and path.read_bytes() != before


def test_a_line_that_is_just_being_written_is_no_broken_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    VerdictStore(path).put({"a": Verdict.from_score(0.1)})
    with path.open("ab") as stream:
        stream.write(b'{"key": "half a li')
    monkeypatch.setattr(VerdictStore, "_mend", lambda self: None)  # it began after the mending
    assert len(VerdictStore(path)) == 1


def test_two_processes_write_and_two_read_without_a_broken_line(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    found = spawn.Queue()
    writers = [spawn.Process(target=write_many, args=(str(path), name, 500)) for name in "ab"]
    readers = [spawn.Process(target=read_often, args=(str(path), 50, found)) for _ in range(2)]
    for process in (*writers, *readers):
        process.start()
    sizes = [found.get(timeout=60) for _ in readers]
    for process in (*writers, *readers):
        process.join(60)
        assert process.exitcode == 0
    assert all(isinstance(size, list) and size == sorted(size) for size in sizes), sizes
    lines = path.read_bytes().splitlines()
    assert len(lines) == 1000
    assert {json.loads(line)["key"] for line in lines} == {
        f"{name}-{i}" for name in "ab" for i in range(500)}
    assert VerdictStore(path).get("b-250") == Verdict(PARSED, True, 0.5, "b" * 50)
