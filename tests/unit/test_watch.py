"""`watch`: JSON lines in, alarms out at once, and nothing that cannot be read passes in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monitorlab.cli import app
from monitorlab.commands.watch import watch
from monitorlab.online.drift import DriftReference
from monitorlab.online.policy import OnlineMonitor, Policy
from monitorlab.statistics.thresholds import calibrate

NINE = calibrate(np.arange(1, 10) / 10, level=0.1)


def run(lines: list[str], policy: Policy | None = None) -> tuple[list[dict], list[str], int]:
    said: list[dict] = []
    complaints: list[str] = []

    def say(text: str) -> None:
        said.append(json.loads(text, parse_constant=pytest.fail))

    bad = watch(OnlineMonitor(policy or Policy(NINE)), lines, say, complaints.append)
    return said, complaints, bad


def test_interleaved_sequences_alarm_once_each():
    said, complaints, bad = run([
        '{"id": "a", "score": 0.3}', '{"id": 7, "score": 0.95}', "", '{"id": "a", "score": 2}',
        '{"id": "7", "score": 0.99}', '{"id": "a", "score": 0.1, "end": true}',
        '{"id": 7, "end": true}', '{"id": "a", "score": 0.1}\n',
    ])
    assert [(row["alarm"], row["step"], row["value"]) for row in said[:-1]] == [
        ("7", 1, 0.95), ("a", 2, 2.0)]
    assert said[0]["reason"] == "0.95 is above the threshold 0.9" and said[0]["state"] == "valid"
    assert not complaints and bad == 0
    assert said[-1] == {"state": "valid", "why": "", "steps": 6, "open": 1, "finished": 2,
                        "alarms": 2, "errors": 0, "drift_evidence": None, "bad_lines": 0}


@pytest.mark.parametrize(("line", "why"), [
    ("{", "Expecting property name"), ("nonsense", "Expecting value"),
    ('{"id": "a", "score": 1} {}', "expected one JSON object"), ("[1]", "expected one JSON object"),
    ('{"score": 1}', '"id" is null, expected text'), ('{"id": null, "score": 1}', '"id" is null'),
    ('{"id": 1.5, "score": 1}', '"id" is 1.5'), ('{"id": true, "score": 1}', '"id" is true'),
    ('{"id": "a", "end": 1}', '"end" is neither true nor false'),
    ('{"id": "a", "score": 1, "group": []}', '"group" is []'),
    ('{"id": "gone", "end": true}', "no sequence 'gone' is open"), ("[" * 100_000, "recursion"),
])
def test_a_line_that_names_no_step_is_reported_and_counted(line, why):
    said, complaints, bad = run(['{"id": "b", "score": 0.1}', line, '{"id": "b", "score": 0.2}'])
    assert bad == 1 and len(said) == 1 and said[0]["bad_lines"] == 1 and said[0]["steps"] == 2
    assert complaints[0].startswith("line 2: ") and why in complaints[0]
    assert len(complaints[0]) < 300


@pytest.mark.parametrize(("line", "why"), [
    ('{"id": "a", "score": NaN}', "the score is nan"), ('{"id": "a"}', "the score is null"),
    ('{"id": "a", "score": "0.1"}', 'the score is "0.1"'),
    ('{"id": "a", "score": 0.1, "step": 3}', "step 3 came where step 1"),
])
def test_a_line_that_names_a_sequence_alarms_it(line, why):
    said, complaints, bad = run([line, '{"id": "a", "score": 0.1}'])
    assert said[0]["alarm"] == "a" and why in said[0]["reason"] and said[0]["value"] is None
    assert bad == 1 and why in complaints[0] and len(said) == 2


def test_infinite_values_are_strict_json():
    said, _, bad = run(['{"id": "a", "score": Infinity}'])
    assert said[0]["value"] == "inf" and bad == 0


def test_drift_is_said_once_and_marked_in_the_policy(tmp_path: Path):
    path = tmp_path / "policy.json"
    Policy(NINE, drift=DriftReference((0.5,), (90, 10))).save(path)
    lines = "".join(json.dumps({"id": f"s{i}", "score": 0.8, "end": True}) + "\n"
                    for i in range(80))
    plain = CliRunner().invoke(app, ["watch", str(path)], input=lines)
    assert plain.exit_code == 0 and Policy.load(path).state() == "valid"
    done = CliRunner().invoke(app, ["watch", str(path), "--mark"], input=lines)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["state"] for row in rows] == ["guarantee void"] * 2
    assert rows[0]["finished"] < 80 and "evidence" in rows[0]["why"]
    assert Policy.load(path).state() == "guarantee void"
    again = CliRunner().invoke(app, ["watch", str(path)], input="")
    assert "warning: the guarantee is void: the peaks of" in again.stderr


def test_the_command_counts_bad_lines_in_its_exit_code(tmp_path: Path):
    path = tmp_path / "policy.json"
    Policy(NINE).save(path)
    done = CliRunner().invoke(app, ["watch", str(path)], input=b'{"id": "\xff", "score": 1}\nbad\n')
    assert done.exit_code == 1
    assert "line 2: Expecting value" in done.stderr and "1 of the lines" in done.stderr
    assert json.loads(done.stdout.splitlines()[0])["value"] == 1.0
    path.write_text(path.read_text()[:-9])
    refused = CliRunner().invoke(app, ["watch", str(path)], input="")
    assert refused.exit_code == 2 and "no policy that can be trusted" in refused.stderr


def test_an_alarm_comes_while_the_stream_goes_on(tmp_path: Path):
    path = tmp_path / "policy.json"
    Policy(NINE).save(path)
    command = [sys.executable, "-m", "monitorlab", "watch", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=dict(os.environ)) as process:
        assert process.stdin and process.stdout
        process.stdin.write(b'{"id": "a", "score": 1.5}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["alarm"] == "a"
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_random_garbage_never_passes_in_silence_and_never_stops_the_watch():
    """Two thousand lines, cut, flipped and shuffled: each is a step, an end, or a complaint."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(2_000):
        row = {"id": f"s{rng.integers(50)}", "score": rng.choice([0.1, 0.5, 0.95, -np.inf, np.nan])}
        if rng.random() < 0.1:
            row[rng.choice(["step", "end", "group", "id"])] = rng.choice([None, True, 3, "x"])
        line = json.dumps(row, default=lambda one: one.item())
        if rng.random() < 0.2:
            line = line[: rng.integers(len(line))] + chr(rng.integers(1, 0xD7FF))
        lines.append(line)
    said, complaints, bad = run(lines)
    status = said[-1]
    assert bad == len(complaints) == status["bad_lines"] and 100 < bad < 1500
    assert len(said) - 1 == status["alarms"] >= status["errors"] > 0
    assert status["steps"] + status["finished"] + bad >= 2_000
    assert status["open"] <= 60


def drifting(n: int) -> list[str]:
    """Sequences of one step, whose peaks rise after half of them."""
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.random(n // 2) * 0.9, 0.5 + rng.random(n - n // 2) * 0.4])
    return [json.dumps({"id": f"s{i}", "score": score, "end": True})
            for i, score in enumerate(scores.tolist())]


def test_evidence_of_drift_goes_on_over_restarts(tmp_path: Path):
    """Stopped twice and gone on, by the command: the same evidence to the last bit."""
    path, file = tmp_path / "policy.json", tmp_path / "evidence.json"
    Policy(NINE, drift=DriftReference((0.3, 0.6), (100, 100, 100))).save(path)
    lines = drifting(400)
    command = ["watch", str(path), "--evidence", str(file)]
    found = []
    for part in (lines[:150], lines[150:250], lines[250:]):
        done = CliRunner().invoke(app, command, input="\n".join(part))
        assert done.exit_code == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    whole, _, _ = run(lines, Policy.load(path))
    assert found[-1]["drift_evidence"] == whole[-1]["drift_evidence"]
    assert [one["state"] for one in found] == ["valid", "valid", "guarantee void"]
    assert whole[-1]["state"] == "guarantee void"
    again = CliRunner().invoke(app, command, input="")
    assert "the guarantee is void" in again.stderr  # from the first line on
    assert json.loads(again.stdout.splitlines()[-1])["state"] == "guarantee void"


def test_evidence_is_written_down_while_the_stream_goes_on(tmp_path: Path):
    policy = Policy(NINE, drift=DriftReference((0.3, 0.6), (100, 100, 100)))
    seen: list[int] = []
    watch(OnlineMonitor(policy), drifting(250), len, print,
          keep=lambda monitor: seen.append(monitor.finished))
    assert seen == [100, 200, 250]


@pytest.mark.parametrize(("reference", "change", "message"), [
    (DriftReference((0.3, 0.7), (100, 100, 100)), None, "about sequences of another policy"),
    (None, None, "no reference for drift"),
    (DriftReference((0.3, 0.6), (100, 100, 100)), -9, "holds no evidence to go on from"),
])
def test_evidence_of_another_policy_or_cut_is_refused(reference, change, message, tmp_path: Path):
    path, file = tmp_path / "policy.json", tmp_path / "evidence.json"
    Policy(NINE, drift=DriftReference((0.3, 0.6), (100, 100, 100))).save(path)
    command = ["watch", str(path), "--evidence", str(file)]
    assert CliRunner().invoke(app, command, input=drifting(2)[0]).exit_code == 0
    Policy(NINE, drift=reference).save(path)
    file.write_text(file.read_text()[:change])
    refused = CliRunner().invoke(app, command, input="")
    assert refused.exit_code == 2 and message in refused.stderr
