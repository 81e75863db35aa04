"""Stored replies read again: what changes, what stays, and that nothing old is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from monitorlab.benchmark.sample_files import load_samples
from monitorlab.cli import app
from monitorlab.commands.score import _Request, _reread, _Scoring
from monitorlab.monitors.api.monitor import ApiMonitor
from monitorlab.monitors.monitor import MonitorError, Sample
from monitorlab.monitors.store import VerdictStore, read_verdicts, write_verdicts
from monitorlab.monitors.verdicts import PARSED, Verdict
from monitorlab.storage.tables import VERDICTS

T, F = '{"misbehavior_detected": true}', '{"misbehavior_detected": false}'
LIMIT = 64
# What an older reader made of a reply, the reply, tokens of it, and what today's reader says.
CASES: dict[str, tuple[Verdict, str, int, str]] = {
    "007": (Verdict(PARSED, True, evidence="x"), T, 9, "parsed"),
    "NA": (Verdict(PARSED, False), f"<|START_THINKING|>Draft {F}. But", LIMIT, "truncated"),
    "1e5": (Verdict(PARSED, False), f"So {F}. But then the log", LIMIT, "truncated"),
    "1": (Verdict(PARSED, False), f'{{"a": {F}, "b": {T}}}', 20, "unparsed"),
    "2": (Verdict.failure("unparsed", "no verdict in the reply"), f'{{"a": [{T}]}}', 20, "parsed"),
    "3": (Verdict.failure("truncated", "cut off at the length limit before a verdict"), "Let me",
          LIMIT, "truncated"),
    "4": (Verdict.failure("refused", "the provider withheld the answer: its content filter"), F, 9,
          "refused"),
    "5": (Verdict(PARSED, True, 0.9), "", 0, "parsed"),
    "8": (Verdict.failure("truncated", "the server cut the prompt: it read 9 tokens"), T, 9,
          "truncated"),
    "9": (Verdict(PARSED, False, ending="model_length"), f"So {F}. But", 12, "truncated"),
    "10": (Verdict(PARSED, True, ending="end_turn"), f"{T} So it is.", LIMIT, "parsed"),
    "6": (Verdict(PARSED, False, 0.2), f"It quotes {F}. Fine: {F}", 12, "parsed"),
}


def monitor() -> ApiMonitor:
    """One that nobody answers."""
    return ApiMonitor("m", "direct", base_url="http://127.0.0.1:9/v1", max_tokens=LIMIT,
                      max_retries=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Samples, a store as an older reader left it, and the table and manifest of that time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MONITORLAB_ROOT", str(tmp_path / "project"))
    lines = [f"{name},question {name},answer {name},{i % 2}\n" for i, name in enumerate(CASES)]
    Path("own.csv").write_text("sample_id,request,response,label\n" + "".join(lines))
    settings = monitor().settings()
    keys = [sample.key(settings) for sample in Sample.rows(load_samples("own.csv"))]
    stored = {key: Verdict(**{**vars(old), "reply": reply, "output_tokens": tokens,
                              "input_tokens": 5, "seconds": 0.5, "cost_usd": 0.25})
              for key, (old, reply, tokens, _) in zip(keys, CASES.values(), strict=True)}
    VerdictStore(Path("old.jsonl")).put({**stored, "0" * 64: Verdict(PARSED, True, reply=T)})
    rows = [{"sample_id": name, "monitor": "m", "prompt": "direct", "draw": 0,
             "status": old.status, "verdict": old.verdict, "score": old.score,
             "evidence": old.evidence or old.reason or None, "input_tokens": 5,
             "output_tokens": stored[key].output_tokens, "seconds": None, "cost_usd": 0.25,
             "request_hash": key}
            for key, (name, (old, *_)) in zip(keys, CASES.items(), strict=True)]
    write_verdicts(VERDICTS.check(pd.DataFrame(rows)), Path("old.csv"))
    Path("old.csv.json").write_text(json.dumps(
        {"monitor": "m", "settings": dict(settings), "rates": {"mr": 1.0}, "written": "then"}))
    return tmp_path


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["reread", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


COMMAND = ("old.jsonl", "--table", "old.csv", "--samples", "own.csv")


def test_the_command_says_what_changed_and_keeps_the_old_files(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.glob("o*")}
    code, out, err = call(*COMMAND)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "9 stored replies read again, 5 of them changed",
        "  3 benign -> truncated", "  1 benign -> unparsed", "  1 unparsed -> misbehavior",
        "1 stored answers belong to no row of the table; they stay as they are",
        "2 stored answers are the server's decision, not a reading; they stay as they are",
        "1 stored answers have no text: they were computed, or the reply is empty; they stay as "
        "they are",
        "Verdicts, one row each: old.reread.csv",
        "Answers with the same keys: old.reread.jsonl. `score --store` takes it",
    ]
    assert all(path.read_bytes() == data for path, data in before.items())
    table = read_verdicts("old.reread.csv").set_index("sample_id")
    assert table["status"].to_dict() == {name: case[3] for name, case in CASES.items()}
    assert table.loc["1e5", "evidence"] == "cut off behind an answer: it may have been a draft"
    assert (table["cost_usd"] == 0.25).all() and table.loc["6", "score"] == 0.2
    facts = json.loads(Path("old.reread.csv.json").read_text())
    assert facts["verdicts"] == {"parsed": 5, "unparsed": 1, "refused": 1, "truncated": 5,
                                 "error": 0}
    assert facts["monitor"] == "m" and "rates" not in facts
    assert facts["reread"]["changes"]["benign -> truncated"] == 3


def test_a_second_time_gives_the_same_bytes(folder: Path) -> None:
    call(*COMMAND)
    first = {path: path.read_bytes() for path in folder.glob("*.reread.*")}
    assert call(*COMMAND)[0] == 0 and len(first) >= 3
    assert {path: path.read_bytes() for path in first} == first
    code, out, _ = call("old.reread.jsonl", "--table", "old.reread.csv", "--samples", "own.csv",
                        "--max-tokens", str(LIMIT))
    assert code == 0 and "9 stored replies read again, 0 of them changed" in out


def test_scoring_from_the_new_store_gives_the_new_table_and_asks_nobody(folder: Path) -> None:
    call(*COMMAND)
    request = _Request(Path("own.csv"), out=Path("again.csv"), store=Path("old.reread.jsonl"))
    summary = _Scoring(monitor(), load_samples("own.csv"), request).carried_out()
    assert summary.known == len(CASES)
    found, expected = (read_verdicts(name).set_index("sample_id").drop(index="5")  # has no text
                       for name in ("again.csv", "old.reread.csv"))
    pd.testing.assert_frame_equal(found, expected)


def test_what_is_there_already_is_never_replaced(folder: Path) -> None:
    Path("old.reread.csv").write_text("mine")
    code, _, err = call(*COMMAND)
    assert code == 2 and err == (
        "error: old.reread.csv is there already and holds something else; it is kept. Choose other "
        "names with --out and --out-store, or move it away\n")
    assert Path("old.reread.csv").read_text() == "mine"
    for option, value in (("--out", "own.csv"), ("--out-store", "own.csv"), ("--out", "old.csv")):
        before = Path(value).read_bytes()
        assert call(*COMMAND, option, value)[0] == 2
        assert Path(value).read_bytes() == before
    assert not list(folder.glob(".*.tmp"))


def test_without_a_manifest_the_limit_is_unknown_and_that_is_said(folder: Path) -> None:
    Path("old.csv.json").unlink()
    code, out, _ = call(*COMMAND)
    assert code == 0 and "6 replies do not say whether they were cut off" in out
    table = read_verdicts("old.reread.csv").set_index("sample_id")
    assert table.loc["NA", "status"] == "truncated"  # thinking that never ends
    assert table.loc["1e5", "status"] == "parsed"
    code, out, _ = call(*COMMAND, "--max-tokens", str(LIMIT), "--out", "known.csv", "--out-store",
                        "known.jsonl")
    assert code == 0 and "do not say" not in out
    assert (read_verdicts("known.csv").set_index("sample_id")["status"].to_dict()
            == {name: case[3] for name, case in CASES.items()})


@pytest.mark.parametrize(("change", "words"), [
    ("samples", "about a sample that the file of samples does not hold, or not with these texts"),
    ("kind", "of a monitor of another kind"), ("prompt", "a prompt that is not known here"),
])
def test_what_cannot_be_read_again_stays_and_is_counted(
    folder: Path, change: str, words: str
) -> None:
    store, table = VerdictStore(Path("old.jsonl")), read_verdicts("old.csv")
    samples, settings = load_samples("own.csv"), dict(monitor().settings())
    if change == "samples":
        samples.loc[samples["sample_id"] == "NA", "response"] = "another answer"
        samples = samples[samples["sample_id"] != "1e5"]
    elif change == "prompt":
        table.loc[table["sample_id"].isin(["NA", "1e5"]), "prompt"] = "mine"
    else:
        settings["kind"] = "cascade"
        table["request_hash"] = [
            sample.key(settings) for sample in Sample.rows(
                samples.set_index("sample_id").loc[table["sample_id"]].reset_index())]
        store = VerdictStore(folder / "cascade.jsonl")
        store.put({key: Verdict(PARSED, False, reply=F) for key in table["request_hash"][:2]})
    found = _reread(store, table, samples, settings=settings)
    assert {why: n for why, n in found.kept.items() if words in why} and sum(
        n for why, n in found.kept.items() if words in why) == 2
    assert not any(table.set_index("sample_id").loc[name, "request_hash"] in found.verdicts
                   for name in ("NA", "1e5"))


def test_a_prompt_can_be_named(folder: Path) -> None:
    table = read_verdicts("old.csv").assign(prompt="renamed")
    store, samples = VerdictStore(Path("old.jsonl")), load_samples("own.csv")
    assert not _reread(store, table, samples).verdicts
    assert len(_reread(store, table, samples, prompt="direct").verdicts) == 9
    with pytest.raises(MonitorError, match="cannot read prompt 'nothing'"):
        _reread(store, table, samples, prompt="nothing")


@pytest.mark.parametrize(("arguments", "words"), [
    (("none.jsonl", *COMMAND[1:]), "there is no store none.jsonl"),
    ((*COMMAND[:2], "none.csv", *COMMAND[3:]), "none.csv: none.csv does not exist"),
    ((*COMMAND[:2], "own.csv", *COMMAND[3:]), "own.csv: table 'verdicts': missing columns"),
    ((*COMMAND, "--out", "x.txt"), "x.txt has an unknown ending, expected one of .csv, .jsonl"),
])
def test_what_is_not_there_or_no_table_is_said(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = call(*arguments)
    assert code == 2 and words in err and len(err) < 500
    assert not list(folder.glob("*.reread.*"))


def test_two_readings_of_one_store_do_not_touch_it(folder: Path) -> None:
    before = Path("old.jsonl").read_bytes()
    assert call(*COMMAND)[0] == 0
    first = VerdictStore(Path("old.reread.jsonl"))
    assert call(*COMMAND)[0] == 0
    second = VerdictStore(Path("old.reread.jsonl"))
    assert Path("old.jsonl").read_bytes() == before
    assert [first.get(key) for key in first] == [second.get(key) for key in second]
    assert list(VerdictStore(Path("old.reread.jsonl"))) == list(VerdictStore(Path("old.jsonl")))
