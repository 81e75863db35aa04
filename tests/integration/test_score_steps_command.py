"""`python -m monitorlab score-steps`, end to end, on tiny checkpoints of the real architectures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_scorers
from openai_server import FaultyServer, completion
from typer.testing import CliRunner

from monitorlab.cli import app
from monitorlab.commands.score_steps import _build_verifier
from monitorlab.online.score_files import load_signals
from monitorlab.signals.recordings import RecordedSequence
from monitorlab.signals.step_scores import LogProbabilityScorer
from monitorlab.signals.verifiers import GuardScorer
from monitorlab.storage.sources import project_root

pytestmark = pytest.mark.usefixtures("one_thread")
folders = test_scorers.folders
Get = Callable[[str], Path]

SOLVED = [
    {"trajectory_id": "a", "problem": "2 + 2 + 1?", "steps": ["2 + 2 = 4.", "4 + 1 = 6."],
     "label": 1, "onset": 2, "group": "p"},
    {"trajectory_id": "b", "problem": "3 + 3?", "steps": ["It is 6."], "label": 0, "group": "q"},
    {"trajectory_id": "c", "problem": "4 + 4?", "steps": ["8 " * 400], "group": "q"},  # too long
]
PROBLEMS = [{"trajectory_id": f"sample-{i}", "problem": f"sample-{i}: what is {i} + 1?",
             "answer": str(i + 1)} for i in range(6)]
CHAT = [{"role": "user", "content": "May I have the code?"},
        {"role": "assistant", "content": "No."}, {"role": "user", "content": "Please."},
        {"role": "assistant", "content": "Fine, it is 4471."}]


def lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["score-steps", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_solutions_become_a_table_that_the_monitors_read(
    folders: dict[str, str], tmp_path: Path
) -> None:
    file, out = lines(tmp_path / "mine.jsonl", SOLVED), tmp_path / "steps.csv"
    code, said = call(file, "--verifier", f"logprob:{folders['causal']}", "--out", out)
    assert code == 0 and "1 skipped: the trajectory has" in said
    assert "2 sequences, 3 steps: 1 safe, 1 unsafe; 1 with a known onset; 1 skipped" in said
    scorer = LogProbabilityScorer.load(folders["causal"])
    expected = [scorer.score(str(one["problem"]), one["steps"]).scores for one in SOLVED[:2]]
    (data,) = load_signals(out)
    assert data.flat_scores == pytest.approx(np.concatenate(expected), abs=1e-6)
    assert (data.ids.tolist(), data.labels.tolist()) == (["a", "b"], [1, 0])
    assert data.onsets.tolist() == [2, 0]
    table = pd.read_csv(out)
    assert table["step_label"].tolist() == [0, 1, 0] and set(table["group"]) == {"p", "q"}
    assert set(table["dataset"]) == {"mine"} and set(table["signal"]) == {"logprob:causal"}
    code, _ = call(file, "--verifier", f"logprob:{folders['causal']}", "--out",
                   out.with_suffix(".jsonl"))
    (same,) = load_signals(out.with_suffix(".jsonl"))
    assert same.flat_scores == pytest.approx(data.flat_scores)
    assert same.onsets.tolist() == [2, 0]


@pytest.mark.parametrize(("verifier", "options"), [
    ("prm:{process}", []), ("prm:{plain}", ["-o", "good_label=good"]),
    ("prm:{shepherd}", ["-o", "least_mass=0"]),
])
def test_reward_models_are_told_apart(
    folders: dict[str, str], tmp_path: Path, verifier: str, options: list[str]
) -> None:
    out = tmp_path / "steps.parquet"
    code, said = call(lines(tmp_path / "x.jsonl", SOLVED[:2]), "--verifier",
                      verifier.format(**folders), "--out", out, *options)
    assert code == 0, said
    assert pd.read_parquet(out)["score"].between(0, 1).all()


def test_a_guard_judges_what_either_side_says(folders: dict[str, str], tmp_path: Path) -> None:
    rows = [{"trajectory_id": "a", "messages": CHAT, "label": 1, "onset": 2}]
    file, found = lines(tmp_path / "x.jsonl", rows), {}
    for turns in ("assistant", "user", "both"):
        out = tmp_path / f"{turns}.csv"
        code, said = call(file, "--verifier", f"guard:{folders['guard']}", "--out", out,
                          "-o", "least_mass=0", "-o", f"turns={turns}")
        assert code == 0, said
        found[turns] = pd.read_csv(out)
    scores = {turns: table["score"].tolist() for turns, table in found.items()}
    assert scores["both"][::2] == pytest.approx(scores["user"], abs=1e-5)
    assert scores["both"][1::2] == pytest.approx(scores["assistant"], abs=1e-5)
    assert found["both"]["onset"].tolist() == [4] * 4
    (one,) = RecordedSequence.load(str(file))
    scorer = GuardScorer.load(folders["guard"], least_mass=0.0)
    assert scores["assistant"] == pytest.approx(
        scorer.score(one.problem, one.steps).scores, abs=1e-5)
    code, said = call(file, "--verifier", f"logprob:{folders['causal']}", "--out",
                      tmp_path / "l.csv", "-o", "turns=user")
    assert code == 2 and "the option turns means nothing to score-steps with logprob" in said


def test_a_turn_is_scored_after_all_that_was_said(folders: dict[str, str]) -> None:
    scorer = LogProbabilityScorer.load(folders["causal"])
    asked, said = ("One?", "Two?"), ("It is one.", "It is two.")
    whole = scorer.score(asked, said)
    assert whole.scores[0] == pytest.approx(scorer.score("One?", [said[0]]).scores[0])
    alone = scorer.score("Two?", [said[1]]).scores[0]
    assert whole.scores[1] != pytest.approx(alone), "what came before is not seen"


class Solver(FaultyServer):
    """A server that solves problems, wrongly for odd numbers, and checks answers."""

    def _act(self, handler, behavior, text):
        if behavior != "ok" or "<audited_request>" in text:
            return super()._act(handler, behavior, text)
        number = int(text.partition(":")[0].removeprefix("sample-"))
        answer = number + 1 + number % 2
        body = json.dumps(completion(f"We add.\n\n\\boxed{{{answer}}} {'leak' * (number % 2)}"))
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())
        self.answered.update([f"sample-{number}"])


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    return lines(tmp_path / "problems.jsonl", PROBLEMS)


@pytest.mark.parametrize("check", ["boxed", "exact", "api:judge -o base_url={url}"])
def test_a_served_model_solves_and_its_answers_are_checked(
    folders: dict[str, str], problems: Path, tmp_path: Path, check: str
) -> None:
    words = ["--verifier", f"logprob:{folders['causal']}", "--out", tmp_path / "steps.csv"]
    with Solver(["429 seconds"]) as server:
        words += ["--generator", f"api:m -o base_url={server.url}",
                  "--check", check.format(url=server.url)]
        code, said = call(problems, *words)
        assert code == 0, said
        assert "6 of 6 problems solved by m" in said and "6 of 6 solutions checked, 3 wrong" in said
        asked = server.requests
        call(problems, *words)
        assert server.requests == asked, "nothing is asked, and paid for, twice"
    labels = pd.read_csv(tmp_path / "steps.csv").groupby("trajectory_id")["label"].first()
    assert labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_a_model_in_a_folder_solves(folders: dict[str, str], problems: Path, tmp_path: Path):
    out = tmp_path / "steps.csv"
    code, said = call(problems, "--verifier", f"logprob:{folders['causal']}", "--out", out,
                      "--generator", f"hf:{folders['causal']} -o max_new_tokens=200 -o "
                      "temperature=1", "--check", "boxed")
    assert code == 0, said
    first = out.read_bytes()
    for file in tmp_path.glob("steps.csv*"):
        file.unlink()
    call(problems, "--verifier", f"logprob:{folders['causal']}", "--out", out, "--generator",
         f"hf:{folders['causal']} -o max_new_tokens=200 -o temperature=1", "--check", "boxed")
    assert out.read_bytes() == first, "the same seed writes the same solutions"


def test_killed_at_any_moment_it_goes_on_to_the_same_table(
    folders: dict[str, str], tmp_path: Path
) -> None:
    rows = [{"trajectory_id": str(i), "problem": f"{i} + 1?", "steps": [f"It is {i + 1}."] * 9}
            for i in range(150)]
    file, out = lines(tmp_path / "x.jsonl", rows), tmp_path / "steps.csv"
    words = [str(file), "--verifier", f"logprob:{folders['causal']}", "--out"]
    call(*words, tmp_path / "whole.csv")
    store = tmp_path / "steps.csv.scores.jsonl"
    command = [sys.executable, "-m", "monitorlab", "score-steps", *words, str(out)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (store.exists() and store.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists(), "it ended before it could be killed"
    kept = store.read_bytes().count(b"\n")
    assert 0 < kept < 150
    with store.open("ab") as stream:
        stream.write(b'{"key": "half a li')  # what a crash leaves behind
    assert call(*words, out)[0] == 0
    assert store.read_bytes().count(b"\n") == 150, "what was kept is not computed again"
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_table_that_was_made_otherwise_is_kept(folders: dict[str, str], tmp_path: Path) -> None:
    file, out = lines(tmp_path / "x.jsonl", SOLVED), tmp_path / "steps.csv"
    words = [file, "--verifier", f"logprob:{folders['causal']}", "--out", out]
    assert call(*words)[0] == 0
    code, said = call(*words, "-o", "pool=mean")
    assert code == 2 and 'verifier.pool "min" there, "mean" here' in said
    assert call(*words, "-o", "pool=mean", "--force")[0] == 0


@pytest.mark.parametrize(("words", "message"), [
    (["problems.jsonl", "--verifier", "logprob:x"], "x"),
    (["problems.jsonl", "--verifier", "logprob:{causal}", "-o", "device=cuda:9"],
     "no device 'cuda:9'"),
    (["solved.jsonl", "--verifier", "logprob:{causal}", "-o", "dtype=float7"], "unknown dtype"),
    (["problems.jsonl", "--verifier", "words"], "the verifier is 'words', expected logprob:NAME"),
    (["problems.jsonl", "--verifier", "tool-calls", "-o", "pol=min"], "the option pol means"),
    (["problems.jsonl", "--verifier", "tool-calls"], "6 of 6 problems have no steps"),
    (["math", "--verifier", "tool-calls"], "source_revision=COMMIT"),
    (["red_team", "--verifier", "tool-calls"], "source_revision=COMMIT"),
    (["nowhere", "--verifier", "tool-calls"], "neither a file nor one of processbench_gsm8k"),
    (["solved.jsonl", "--verifier", "tool-calls", "--generator", "keywords"], "leave it out"),
])
def test_a_wrong_command_gets_one_message(
    folders: dict[str, str], problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    words: list[str], message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lines(tmp_path / "solved.jsonl", SOLVED)
    code, said = call(*(word.format(**folders) for word in words), "--out", "steps.csv")
    assert code == 2 and message in said and "Traceback" not in said
    assert not (tmp_path / "steps.csv").exists()


@pytest.fixture
def smollm2() -> str:
    from monitorlab.models.smollm2 import smollm2_installed

    if not smollm2_installed():
        pytest.skip("the real small model is not installed")
    return "smollm2"


def test_the_real_small_model_solves_and_is_scored(smollm2: str, tmp_path: Path) -> None:
    file = lines(tmp_path / "x.jsonl", [{"problem": "What is 2 plus 3?", "answer": "5"}])
    out = tmp_path / "steps.jsonl"
    code, said = call(file, "--verifier", f"logprob:{smollm2}", "--out", out, "--generator",
                      f"{smollm2} -o dtype=float32 -o max_new_tokens=24", "--check", "exact")
    assert code == 0, said
    (row,) = map(json.loads, out.read_text().splitlines())
    assert min(row["score"]) > 0 and row["label"] in (0, 1)


RELEASED = project_root() / "data" / "released"


def released(name: str) -> dict[str, dict[str, Any]]:
    rows = map(json.loads, (RELEASED / f"{name}.jsonl").read_text().splitlines())
    return {row["trajectory_id"]: row for row in rows}


def test_the_released_tool_calls_are_made_by_the_command(get: Get, tmp_path: Path) -> None:
    get("tau_bench/gpt-4o-airline.json")
    out = tmp_path / "tau_bench.jsonl"
    assert call("tau_bench", "--verifier", "tool-calls", "--out", out)[0] == 0
    assert out.read_text() == (RELEASED / out.name).read_text()


def test_some_of_the_released_log_probabilities_are_asked_again(get: Get, smollm2: str) -> None:
    get("processbench/gsm8k.json")
    kept = released("processbench_gsm8k")
    known = [one for one in RecordedSequence.load("processbench_gsm8k") if one.name in kept]
    shortest = sorted(known, key=lambda one: len(str(one.steps)))[:2]
    verifier, _ = _build_verifier(f"logprob:{smollm2}", {})
    scorer = verifier.load()
    for one in shortest:
        row = kept[one.name]
        found = scorer.score(one.problem, one.steps)
        assert found.scores == pytest.approx(row["score"], abs=1e-3)
        assert found.tokens.tolist() == row["tokens"]
        assert (one.label, one.onset, one.group) == (row["label"], row["onset"], row["group"])
