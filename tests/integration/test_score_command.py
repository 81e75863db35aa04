"""`python -m monitorlab score` as people use it: killed, resumed, misused, with a secret key."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import openai_server
import pandas as pd
import pytest
from openai_server import FaultyServer
from typer.testing import CliRunner

from monitorlab.cli import app
from monitorlab.monitors.store import VerdictStore

SECRET = "sk-secret-4f9a1c77d2e84b60"
SAMPLES = 150
SLOW = """\
import os, time

def monitor(request, response):
    with open(os.environ["CALLS"], "a") as stream:
        stream.write(response + "\\n")
    time.sleep(0.004)
    number = int(response.split()[1])
    if number % 40 == 7:
        raise ValueError(f"cannot judge {number}")
    return {"score": number / 150, "evidence": f"saw, \\"{number}\\""}
"""


def write_samples(folder: Path, count: int = SAMPLES) -> None:
    rows = [{"sample_id": f"s{i:03}", "request": f"question {i // 2}", "response": f"answer {i}",
             "label": i % 2} for i in range(count)]
    pd.DataFrame(rows).to_csv(folder / "own.csv", index=False)


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def score(
    *options: str, monitor: str = "keywords", samples: str = "own.csv"
) -> tuple[int, str, str]:
    return call("score", "--monitor", monitor, "--samples", samples, *options)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with samples, and a project of its own for the default store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("MONITORLAB_ROOT", str(tmp_path / "project"))
    write_samples(tmp_path)
    return tmp_path


@pytest.mark.long
def test_killed_at_any_moment_it_goes_on_and_gives_the_same_table(folder: Path) -> None:
    (folder / "slow.py").write_text(SLOW)

    def command(name: str) -> tuple[list[str], dict[str, str]]:
        words = ["score", "--monitor", "slow.py:monitor", "--samples", "own.csv",
                 "--store", f"{name}.store", "--out", f"{name}.csv"]
        environment = os.environ | {"CALLS": f"{name}.calls", "OMP_NUM_THREADS": "1"}
        return [sys.executable, "-m", "monitorlab", *words], environment

    def calls(name: str) -> list[str]:
        path = folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    words, environment = command("whole")
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=120)
    assert len(calls("whole")) == SAMPLES

    rng, failing, lost = random.Random(5), {f"answer {i}" for i in range(7, SAMPLES, 40)}, 0
    words, environment = command("cut")
    for _ in range(3):
        target = len(calls("cut")) + rng.randint(5, 35)
        process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(calls("cut")) < target and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
        answered = sum(text not in failing for text in calls("cut"))
        stored = len((folder / "cut.store").read_bytes().rpartition(b"\n")[0].splitlines())
        assert 0 <= answered - stored - lost <= 1  # at most the call that was under way
        lost = answered - stored
        assert not (folder / "cut.csv").exists()
    subprocess.run(words, env=environment, check=True, capture_output=True, timeout=120)

    counts = Counter(text for text in calls("cut") if text not in failing)
    assert len(counts) == SAMPLES - len(failing)
    assert sum(counts.values()) - len(counts) == lost  # nothing that was stored is asked again
    assert (folder / "cut.csv").read_bytes() == (folder / "whole.csv").read_bytes()
    assert len(VerdictStore(folder / "cut.store")) == SAMPLES - len(failing)
    assert not list(folder.glob(".cut*"))


def test_the_first_run_says_rates_and_where_things_are(folder: Path) -> None:
    code, out, _ = score(monitor="always")
    assert code == 0
    assert "150 samples, 150 verdicts: 150 parsed" in out
    assert "miss rate MR: 0.000, 95 % interval 0.000 to 0.049, of 75 misbehaving" in out
    assert "false alarm rate FAR: 1.000" in out
    assert "Verdicts, one row each: verdicts/own-always-alarm.csv" in out
    assert len(pd.read_csv("verdicts/own-always-alarm.csv")) == 150
    assert (folder / "project/data/cache/verdicts/always-alarm.jsonl").is_file()


def test_a_function_that_raises_on_some_samples_gives_a_table_with_errors(folder: Path) -> None:
    (folder / "own.py").write_text(
        "def monitor(request, response):\n    return 1 / (int(response.split()[1]) % 10)\n")
    code, out, _ = score("--out", "table.csv", monitor="own.py:monitor")
    assert code == 0 and "135 parsed, 15 error" in out
    table = pd.read_csv("table.csv")
    assert set(table.loc[table["status"] == "error", "evidence"]) == {
        "ZeroDivisionError: division by zero (own.py, line 2)"}
    assert table.loc[table["status"] == "error", "verdict"].isna().all()


def test_a_function_that_always_raises_is_given_up_and_the_rest_is_kept(folder: Path) -> None:
    code = "def monitor(request, response):\n    return 0.5 if '{}' in response else None\n"
    (folder / "own.py").write_text(code.format("answer 1"))
    status, _, err = score("--store", "kept", "--limit", "120", "--patience", "200",
                           monitor="own.py:monitor")
    assert status == 0
    stored = (folder / "kept").read_bytes()
    (folder / "own.py").write_text(code.format("nowhere"))
    status, _, err = score("--store", "kept", monitor="own.py:monitor")
    assert status == 2 and "with other settings (sources" in err and "--force replaces it" in err
    status, _, err = score("--store", "kept", "--force", monitor="own.py:monitor")
    assert status == 1
    assert err.startswith("error: 5 units failed in a row, the last with: monitor returned None")
    assert "0 of 150 verdicts are stored in kept; the same command goes on from there" in err
    assert (folder / "kept").read_bytes() == stored


@pytest.mark.parametrize(("monitor", "options", "status", "words"), [
    ("keyword", [], 2, "there is no monitor 'keyword'. Is it 'keywords'?"),
    ("own.py:nothing", [], 2, "own.py has no function 'nothing'"),
    ("nowhere.py:monitor", [], 2, "nowhere.py is not a file"),
    ("keywords", ["--workers", "3"], 2, "the option workers means nothing to keywords"),
    ("keywords", ["-o", "speed=3"], 2, "means nothing to keywords. There are: name, view, words"),
    ("api:m", ["-o", "timeout=3"], 2, "Is it timeout_s? There are: name, view, prompt, read"),
    ("api:m", ["-o", "timeout_s=soon"], 2, "timeout_s is 'soon', expected a number"),
    ("api:m", ["--temperature", "hot"], 2, "temperature is 'hot', expected a number or none"),
    ("api:m", ["--temperature", "1", "-o", "temperature=0.5"], 2, "temperature is given twice"),
    ("api:m -o seed=1", ["-o", "seed=2"], 2, "seed is given twice, with two values"),
    ("api:m", ["-o", "seed=1", "-o", "seed=1"], 2, "seed is given twice"),
    ("coin", ["-o", "seed"], 2, "expected NAME=VALUE, got 'seed'"),
    ("hf:m", ["--temperature", "1"], 2, "needs a generated reply: add --read text"),
    ("keywords", ["--out", "own.csv"], 2, "would be the same file"),
    ("keywords", ["--out", "x.txt"], 2, "unknown ending"),
    ("keywords", ["--draws", "0"], 2, "draws is 0"),
    ("keywords", ["--store", "broken"], 1, "broken:1 is not a stored verdict"),
    ("keywords", ["--out", "own.py/x.csv"], 1, "own.py"),
    ("api:some-model", [], 2, "OPENAI_API_KEY"),
    ("api:some-model", ["--key-variable", "MY_OWN_KEY"], 2, "MY_OWN_KEY"),
    ("api:some-model", ["--prompt", "no-such-prompt"], 2, "no-such-prompt"),
    ("hf:no-such/model", [], 2, "pin a revision"),
])
def test_a_wrong_command_gets_one_message_and_an_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, monitor: str, options: list[str], status: int,
    words: str,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (folder / "own.py").write_text("def monitor(request, response): return True\n")
    (folder / "broken").write_text("nonsense\n")
    before = (folder / "own.csv").read_bytes()
    code, _, err = score(*options, monitor=monitor)
    assert (code, err.count("error: ")) == (status, 1)
    assert words in err and "Traceback" not in err
    assert (folder / "own.csv").read_bytes() == before


@pytest.mark.parametrize(("name", "content", "words"), [
    ("none.csv", None, "none.csv does not exist"),
    ("x.csv", "prompt,response\nq,r\n", "there is no column 'request'; found 'prompt'"),
    ("x.csv", "request,response,label\nq,r,1\nq,r,maybe\n", "line 3: the label is 'maybe'"),
    ("x.jsonl", '{"request": "q", "response": "r"}\n{"req', "line 2 is not JSON"),
])
def test_samples_that_cannot_be_used_end_with_code_2(
    folder: Path, name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (folder / name).write_text(content)
    code, _, err = score(samples=name)
    assert code == 2 and words in err
    assert not (folder / "verdicts").exists()


def test_a_model_that_is_nowhere_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, _, err = score("--revision", "main", monitor="hf:no-such-owner/no-such-model")
    assert code == 2
    assert "cannot load 'no-such-owner/no-such-model' at revision 'main'" in err
    assert "hf download no-such-owner/no-such-model" in err


def test_a_checkpoint_in_a_folder_is_read_by_logits_and_by_text(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from monitorlab.models.tiny import build_tokenizer
    from monitorlab.monitors.prompts import load_prompt

    tokenizer = build_tokenizer([load_prompt("direct").system], 400)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                         num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=4096,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    LlamaForCausalLM(config).save_pretrained("model")
    tokenizer.save_pretrained("model")

    code, out, _ = score("--limit", "6", "--out", "logits.csv", monitor="hf:model")
    assert code == 0 and "6 samples, 6 verdicts: 6 parsed" in out
    table = pd.read_csv("logits.csv")
    assert table["score"].between(0, 1).all() and (table["input_tokens"] > 50).all()
    before = Path("logits.csv").read_bytes()
    code, out, _ = score("--limit", "6", "--out", "logits.csv", monitor="hf:model")
    assert "6 of 6 verdicts are known" in out and Path("logits.csv").read_bytes() == before

    text = ["--read", "text", "--max-tokens", "3", "--limit", "6", "--prompt", "evidence"]
    code, out, _ = score(*text, monitor="hf:model")
    assert code == 3 and "6 truncated" in out and "no verdict could be read" in out
    manifest = Path("verdicts/own-model-read-text-max_new_tokens-3-evidence.csv.json")
    settings = json.loads(manifest.read_text())["settings"]
    assert settings["max_new_tokens"] == 3 and settings["kind"] == "text"


def test_a_trained_monitor_in_a_folder_is_loaded(folder: Path) -> None:
    from monitorlab.monitors.learned import WordMonitor

    rows = pd.DataFrame({"request": [f"q{i // 2}" for i in range(40)], "label": [0, 1] * 20,
                         "response": ["a careful answer", "a careless answer"] * 20})
    WordMonitor.train([rows], np.random.default_rng(1)).save(folder / "trained")
    rows.to_parquet("rows.parquet")
    code, out, _ = score(monitor="words:trained", samples="rows.parquet")
    assert code == 0 and "miss rate MR: 0.000" in out and "FAR: 0.000" in out


def test_checks_come_before_another_monitor(folder: Path) -> None:
    rows = {"request": ["How much are 3 boxes of 12?", "Hello?"],
            "response": ["3 * 12 = 38, so 38.", "Hello."]}
    pd.DataFrame(rows).to_csv("sums.csv", index=False)
    code, out, _ = score(monitor="checks-first:never", samples="sums.csv")
    assert code == 0 and "2 samples, 2 verdicts: 2 parsed" in out
    table = pd.read_csv("verdicts/sums-checks-first-never-alarm.csv").sort_values("sample_id")
    assert table["verdict"].tolist() == [True, False] and table["score"].tolist() == [0.95, 0]
    assert table["evidence"].str.startswith(("program checks: arithm", "never alarm: ben")).all()
    code, out, _ = score("-o", "ranked=false", "-o", "name=plain", monitor="checks-first:never",
                         samples="sums.csv")
    assert code == 0 and pd.read_csv("verdicts/sums-plain.csv")["score"].tolist() == [0.9, 0]


def test_a_view_makes_a_table_of_its_own(folder: Path) -> None:
    rows = {"request": ["2 + 2?", "1 + 1?"], "label": [1, 0],
            "response": ["<think>I skip the check.</think>It is 4.", "It is 2."]}
    pd.DataFrame(rows).to_csv("sums.csv", index=False)
    for options in ((), ("-o", "view=no-thinking"), ("-o", "view=thinking-only")):
        assert score(*options, samples="sums.csv")[0] == 0
    full, answer, thinking = (
        pd.read_csv(f"verdicts/sums-keywords{view}.csv").sort_values("sample_id")
        for view in ("", "-view-no-thinking", "-view-thinking-only"))
    assert full["verdict"].tolist() == [True, False]
    assert answer["verdict"].tolist() == [False, False]
    assert thinking["status"].tolist() == ["parsed", "error"]
    assert set(full["request_hash"]).isdisjoint({*answer["request_hash"],
                                                 *thinking["request_hash"]})
    code, _, err = score("-o", "view=half", samples="sums.csv")
    assert code == 2 and "there is no view 'half': expected one of full, last-words" in err


def test_the_monitors_are_listed() -> None:
    code, out, _ = call("monitors")
    assert code == 0 and "checks-first:MONITOR" in out
    assert "module:function" in out and "gpt-5-mini-2025-08-07" in out and "Apache-2.0" in out
    code, out, _ = call("monitors", "api")
    assert code == 0 and "  timeout_s: float = 60\n" in out and "  extra: JSON object" in out
    code, _, err = call("monitors", "ap")
    assert code == 2 and "Is it 'api'?" in err


class Server(ThreadingHTTPServer):
    """Speaks the chat protocol on loopback and remembers the keys it was shown."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        self.server.keys.add(key)
        message = {"role": "assistant", "content": '{"misbehavior_detected": true}'}
        answer: dict[str, object] = {
            "id": "1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010},
        }
        if self.server.status != 200:  # some servers repeat the key
            answer = {"error": {"message": f"Incorrect API key provided: {key}"}}
        body = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep test output clean."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("status", [200, 401])
def test_the_key_is_sent_and_written_nowhere(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.status = status
    url = f"http://user:{SECRET}@127.0.0.1:{server.server_port}/v1?api_key={SECRET}"
    code, out, err = score("--base-url", url, "--limit", "6", "--store", "kept.jsonl",
                           "--input-price", "1", "--output-price", "10", "--cost-cap", "1",
                           monitor="api:some-model")
    assert server.keys == {SECRET}
    assert code == (0 if status == 200 else 1)
    if status == 200:
        assert "6 parsed" in out and "tokens: 6,000 in, 60 out" in out
        assert "cost: 0.0066 USD" in out
        place = f"some-model-base_url-http-127.0.0.1-{server.server_port}-v1-direct"
        assert (folder / f"verdicts/own-{place}.csv.json").is_file()
    else:
        assert "Incorrect API key" in err
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in out + err


def test_a_function_monitor_leaks_no_key_of_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    (folder / "own.py").write_text("def monitor(request, response): return 0.5\n")
    code, out, err = score("--limit", "3", monitor="own.py:monitor")
    assert code == 0
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) >= 4
    assert SECRET not in out + err + "".join(path.read_text() for path in written)


def test_the_cost_cap_stops_the_run_and_keeps_what_was_paid(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    url = f"http://127.0.0.1:{server.server_port}/v1"
    options = ["--base-url", url, "--limit", "6", "--store", "kept.jsonl", "--workers", "1",
               "--input-price", "1000", "--output-price", "1", "--max-tokens", "10"]
    code, _, err = score(*options, "--cost-cap", "3.5", monitor="api:some-model")
    kept = len(VerdictStore(folder / "kept.jsonl"))
    assert code == 1 and 0 < kept < 6
    assert f"{kept} of 6 verdicts are stored in kept.jsonl" in err
    code, out, _ = score(*options, monitor="api:some-model")
    assert code == 0 and f"{kept} of 6 verdicts are known" in out and "6 parsed" in out


def test_two_functions_of_one_name_make_two_tables(folder: Path) -> None:
    for place, said in (("a", True), ("b", False)):
        (folder / place).mkdir()
        (folder / place / "my.py").write_text(f"def monitor(request, response): return {said}\n")
    tables = {}
    for place in "ab":
        code, out, _ = score(monitor=f"{place}/my.py:monitor")
        assert code == 0 and f"verdicts/own-{place}-my.py-monitor.csv" in out
        tables[place] = Path(f"verdicts/own-{place}-my.py-monitor.csv")
    found = {place: pd.read_csv(path) for place, path in tables.items()}
    assert found["a"]["verdict"].all() and not found["b"]["verdict"].any()
    assert {str(name) for frame in found.values() for name in frame["monitor"]} == {
        "a/my.py:monitor", "b/my.py:monitor"}
    stores = sorted(path.name for path in (folder / "project/data/cache/verdicts").glob("*.jsonl"))
    assert stores == ["a-my.py-monitor.jsonl", "b-my.py-monitor.jsonl"]
    before = tables["a"].read_bytes()
    code, _, err = score("--out", str(tables["a"]), monitor="b/my.py:monitor")
    assert code == 2 and tables["a"].read_bytes() == before
    assert ("was made by 'a/my.py:monitor' with other settings (sources" in err
            and 'spec "a/my.py:monitor" there, "b/my.py:monitor" here' in err)
    code, out, _ = score("--name", "second", monitor="b/my.py:monitor")
    assert code == 0 and "verdicts/own-second.csv" in out
    assert "150 of 150 verdicts are known" in out  # another name, the same answers
    assert set(pd.read_csv("verdicts/own-second.csv")["monitor"]) == {"second"}
    code, _, _ = score("--out", str(tables["a"]), "--force", monitor="b/my.py:monitor")
    assert code == 0 and set(pd.read_csv(tables["a"])["monitor"]) == {"b/my.py:monitor"}


def test_other_samples_of_the_same_file_name_replace_nothing(folder: Path) -> None:
    (folder / "b").mkdir()
    write_samples(folder, 4)
    assert score()[0] == 0
    before = Path("verdicts/own-keywords.csv").read_bytes()
    rows = [{"sample_id": "x", "request": "another", "response": "one"}]
    pd.DataFrame(rows).to_csv("b/own.csv", index=False)
    code, _, err = score(samples="b/own.csv")
    assert code == 2 and "holds 4 verdicts about samples that are not in b/own.csv" in err
    assert Path("verdicts/own-keywords.csv").read_bytes() == before


def test_one_model_at_two_servers_and_two_temperatures_makes_four_tables(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with FaultyServer() as one, FaultyServer() as other:
        for server in (one, other):
            for temperature in ("0", "0.7"):
                code, _, _ = score("--limit", "3", "-o", f"base_url={server.url}",
                                   "-o", f"temperature={temperature}", monitor="api:m")
                assert code == 0
        assert (one.requests, other.requests) == (6, 6)
        again = score("--limit", "3", "--base-url", one.url, "--temperature", "0.7",
                      "-o", "timeout_s=5", "-o", "workers=1", monitor="api:m")
        assert again[0] == 0 and "3 of 3 verdicts are known" in again[1]
        assert one.requests == 6  # the same settings: nothing is asked twice
    tables = list(Path("verdicts").glob("*.csv"))
    names = {str(name) for path in tables for name in pd.read_csv(path)["monitor"]}
    assert len(tables) == len(names) == 4
    assert f"m, base_url {one.url}, temperature 0.7" in names
    stores = list((folder / "project/data/cache/verdicts").glob("*.jsonl"))
    assert len(stores) == 4


def test_every_setting_reaches_the_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_OWN_KEY", SECRET)
    with FaultyServer() as server:
        code, out, _ = score(
            "--limit", "1", "-o", "limit_name=max_completion_tokens", "-o", "temperature=none",
            "-o", "max_tokens=2000", "-o", 'extra={"reasoning_effort": "low"}', "-o", "seed=4",
            "-o", "name=mine", "-o", "read=logits", "-o", "prompt=brief",
            monitor=f"api:m -o base_url={server.url} -o key_variable=MY_OWN_KEY")
        (body,) = server.bodies
    assert code == 0 and "verdicts/own-mine-brief.csv" in out
    assert body["max_completion_tokens"] == 2000 and body["reasoning_effort"] == "low"
    assert body["seed"] == 4 and body["logprobs"] is True
    assert not {"temperature", "max_tokens"} & set(body)


def test_a_timeout_that_is_given_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with FaultyServer(lambda number, text: "stall", stall_s=1.0) as server:
        start = time.monotonic()
        code, _, err = score("--limit", "2", "--patience", "1", "--base-url", server.url,
                             "-o", "timeout_s=0.05", "-o", "max_retries=0", monitor="api:m")
        assert time.monotonic() - start < 20
    assert code == 1 and "no answer in 1 calls, the last: no answer in time" in err
    assert "raise -o timeout_s, or lower --workers" in err


@pytest.mark.parametrize(("reply", "code", "words"), [
    (("", "length", 512), 3,
     "6 truncated: 512 tokens eaten by hidden thinking: raise --max-tokens"),
    (("<think>Well", "length", 512), 3,
     "6 truncated: 512 tokens eaten by thinking: raise --max-tokens"),
    (("It is mis", "length", 512), 3, "verdict, 512 tokens: raise --max-tokens"),
    (("It is mis", "length", 100), 3, "after 100 tokens and not at --max-tokens 512"),
    (("No idea.", "stop", 5), 3, "6 unparsed: no verdict in the reply: the replies are in the"),
    (("I cannot help with that.", "stop", 5), 3, "6 refused: the monitor declines to judge: "),
    (('{"misbehavior_detected": true}', "stop", 5), 0, "6 parsed"),
])
def test_no_verdict_is_no_success_and_gets_a_line_of_advice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reply: tuple[str, str, int], code: int,
    words: str,
) -> None:
    content, finish, tokens = reply
    answer = openai_server.completion(content, finish)
    answer["usage"] = {"prompt_tokens": 90, "completion_tokens": tokens,
                       "total_tokens": 90 + tokens}
    monkeypatch.setitem(openai_server.ANSWERS, "said", lambda text, key: answer)
    with FaultyServer(lambda number, text: "said") as server:
        found, out, _ = score("--limit", "6", "--base-url", server.url, monitor="api:m")
    assert found == code and words in out
    assert out.count("  6 ") == (code == 3)  # one line
    assert next(Path("verdicts").glob("*.csv")).is_file()


def test_logits_that_a_server_does_not_send_are_missed(folder: Path) -> None:
    with FaultyServer() as server:
        code, out, _ = score("--limit", "4", "--read", "logits", "--base-url", server.url,
                             monitor="api:m")
        assert code == 0
        assert ("  4 of 4 verdicts without a score: --read logits, but the server sent no "
                "log-probabilities") in out
        assert "log-probabilities" not in score("--limit", "4", "--base-url", server.url,
                                                monitor="api:m")[1]


def test_some_verdicts_are_a_success_and_errors_get_a_line(folder: Path) -> None:
    (folder / "own.py").write_text(
        "def monitor(request, response):\n    return 1 / (int(response.split()[1]) % 10)\n")
    code, out, _ = score("--out", "table.csv", monitor="own.py:monitor")
    assert code == 0 and "\n  15 error: ZeroDivisionError: division by zero (own.py, line" in out
    (folder / "own.py").write_text("def monitor(request, response):\n    return None\n")
    code, out, _ = score("--out", "none.csv", "--limit", "3", monitor="own.py:monitor")
    assert code == 3 and "3 error: monitor returned None" in out
    assert len(pd.read_csv("none.csv")) == 3


def test_the_monitor_of_the_notebook_takes_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monitorlab.chapters import evaluation as lineup
    from monitorlab.monitors import scoring
    from monitorlab.monitors.monitor import Sample

    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with FaultyServer() as server:
        words = f"api:NAME -o base_url={server.url} -o max_tokens=9 -o 'extra={{\"top_p\": 0.5}}'"
        (monitor,) = lineup.given_monitors(words, lineup.rule_monitors(1))
        table = scoring.score(monitor, [Sample("s", "What?", "This.")])
        (body,) = server.bodies
    assert (body["max_tokens"], body["top_p"]) == (9, 0.5)
    assert set(table["monitor"]) == {
        f'NAME, base_url {server.url}, max_tokens 9, extra {{"top_p": 0.5}}'}
