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
import pandas as pd
import pytest
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
    assert status == 1
    assert err.startswith("error: 5 units failed in a row, the last with: monitor returned None")
    assert "0 of 150 verdicts are stored in kept; the same command goes on from there" in err
    assert (folder / "kept").read_bytes() == stored


@pytest.mark.parametrize(("monitor", "options", "status", "words"), [
    ("keyword", [], 2, "there is no monitor 'keyword'. Is it 'keywords'?"),
    ("own.py:nothing", [], 2, "own.py has no function 'nothing'"),
    ("nowhere.py:monitor", [], 2, "nowhere.py is not a file"),
    ("keywords", ["--workers", "3"], 2, "the option workers means nothing to keywords"),
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

    from monitorlab.monitors.miniature import build_tokenizer
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
    assert code == 0 and "6 truncated" in out and "no verdict could be read" in out
    settings = json.loads(Path("verdicts/own-model-evidence.csv.json").read_text())["settings"]
    assert settings["max_new_tokens"] == 3 and settings["kind"] == "text"


def test_a_trained_monitor_in_a_folder_is_loaded(folder: Path) -> None:
    from monitorlab.monitors.learned import WordMonitor

    rows = pd.DataFrame({"request": [f"q{i // 2}" for i in range(40)], "label": [0, 1] * 20,
                         "response": ["a careful answer", "a careless answer"] * 20})
    WordMonitor.train([rows], np.random.default_rng(1)).save(folder / "trained")
    rows.to_parquet("rows.parquet")
    code, out, _ = score(monitor="words:trained", samples="rows.parquet")
    assert code == 0 and "miss rate MR: 0.000" in out and "FAR: 0.000" in out


def test_the_monitors_are_listed() -> None:
    code, out, _ = call("monitors")
    assert code == 0
    assert "module:function" in out and "gpt-5-mini-2025-08-07" in out and "Apache-2.0" in out


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
        assert (folder / "verdicts/own-some-model-direct.csv.json").is_file()
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
