"""`score --engine ray`: the table of one process, whatever is killed, and no word of Ray's."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from monitorlab.cli import app
from monitorlab.monitors.store import VerdictStore

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None,
                               reason="Ray is not installed: pip install -e '.[ray]'")
SAMPLES = 48
OWN = """\
import os, signal, time

def monitor(request, response):
    number = int(response.split()[0].split("-")[1])
    if os.path.exists(f"kill-{number}"):
        if os.path.exists("once"):
            os.remove(f"kill-{number}")
        os.kill(os.getpid(), signal.SIGKILL)
    with open("calls", "a") as stream:
        stream.write(f"{os.getpid()} {response}\\n")
    time.sleep(float(os.environ.get("PAUSE", "0")))
    if number % 20 == 7 or os.path.exists("broken"):
        raise ValueError(f"cannot judge {number}")
    return {"score": number / 48, "evidence": f"saw, \\"{number}\\""}
"""
RAY = ("--engine", "ray", "--workers", "2")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with samples and a monitor; what Ray writes needs a short path."""
    monkeypatch.chdir(tmp_path)
    short = tempfile.mkdtemp(prefix="ml", dir="/tmp")
    for name, value in {"MONITORLAB_ROOT": tmp_path / "project", "TMPDIR": short,
                        "HOME": tmp_path, "OMP_NUM_THREADS": 1,
                        "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": 100 * 2**20}.items():
        monkeypatch.setenv(name, str(value))
    (tmp_path / "own.py").write_text(OWN)
    rows = [{"sample_id": f"s{i:03}", "request": f"question {i // 2}", "label": i % 2,
             "response": f"sample-{i}" + " leak" * (i % 3 == 0)} for i in range(SAMPLES)]
    pd.DataFrame(rows).to_csv("own.csv", index=False)
    yield Path(short)
    for place in processes(Path(short)):  # agents of Ray outlive a command that is killed
        os.kill(int(place.name), signal.SIGKILL)
    shutil.rmtree(short)


def start(out: str, *options: str, monitor: str = "own.py:monitor") -> subprocess.Popen[str]:
    words = ["score", "--monitor", monitor, "--samples", "own.csv", "--out", f"{out}.csv",
             "--store", f"{out}.store", *options]
    return subprocess.Popen([sys.executable, "-m", "monitorlab", *words], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def score(out: str, *options: str, monitor: str = "own.py:monitor") -> tuple[int, str, str]:
    return finish(start(out, *options, monitor=monitor))


def calls() -> list[list[str]]:
    path = Path("calls")
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def processes(folder: Path) -> list[Path]:
    """Processes of Ray: their words, or a file that they have open, name the folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            opened = [os.readlink(file) for file in (place / "fd").iterdir()]
            if str(folder) in f"{(place / 'cmdline').read_bytes()!r}{opened}":
                found.append(place)
    return found


def left(folder: Path, judging: bool = False) -> list[Path]:
    """Processes that half a minute after the command are still there, or those that judge."""
    deadline, asked = time.monotonic() + 30, {pid for pid, *_ in calls()}
    while found := [place for place in processes(folder) if not judging or place.name in asked]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return found


@needs_ray
def test_a_killed_worker_loses_and_repeats_nothing_and_the_table_is_that_of_one_process(
    folder: Path,
) -> None:
    assert score("one")[0] == 0
    Path("calls").unlink()
    for name in ("kill-20", "once"):
        Path(name).touch()
    code, out, err = score("two", *RAY)
    assert (code, err) == (0, "") and out.startswith("48 samples, 48 verdicts: 45 parsed, 3 error")
    assert not Path("kill-20").exists() and len({pid for pid, *_ in calls()}) == 3
    failing = {f"sample-{i}" for i in range(7, SAMPLES, 20)}
    asked = Counter(words[1] for words in calls())
    assert asked.keys() == {f"sample-{i}" for i in range(SAMPLES)}
    assert {name for name, times in asked.items() if times > 1} <= failing
    assert Path("two.csv").read_bytes() == Path("one.csv").read_bytes()
    assert len(VerdictStore(Path("two.store"))) == SAMPLES - len(failing)
    assert left(folder) == [] and list(folder.iterdir()) == []


@needs_ray
def test_what_fails_in_a_worker_ends_in_the_words_of_one_process(folder: Path) -> None:
    Path("broken").touch()
    plain, ray = score("one"), score("two", *RAY)
    assert ray[0] == plain[0] == 1 and ray[1] == ""
    shape = r"error: 5 units failed in a row, the last with: ValueError: cannot judge \d+ .*\n"
    assert re.fullmatch(shape, ray[2]) and re.fullmatch(shape, plain[2])
    Path("broken").unlink()
    Path("kill-20").touch()
    code, out, err = score("two", *RAY, "--patience", "2")
    assert (code, out) == (1, "")
    assert err.startswith("error: processes of Ray died again and again"), err
    assert err.count("\n") == 1 and "verdicts are stored in two.store" in err, err


@needs_ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_it_leaves_no_process_and_goes_on_in_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("PAUSE", "0.3")
    process = start("two", *RAY)
    while len(calls()) < 8 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    code, _, err = finish(process)
    if number != signal.SIGKILL:
        assert (code, err) == (128 + number, "error: interrupted; what ran so far is kept\n")
    assert left(folder, judging=number == signal.SIGKILL) == []
    before, stored = calls(), len(VerdictStore(Path("two.store")))
    assert stored > 0 and len(before) - 4 <= stored <= len(before) < SAMPLES
    monkeypatch.setenv("PAUSE", "0")
    code, out, _ = score("two")
    assert code == 0 and f"{stored} of 48 verdicts are known" in out
    assert len(calls()) - len(before) == SAMPLES - stored


STRANGER = """\
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level=50)
    print("in")
except ConnectionError:
    print("out")
"""


@needs_ray
def test_nobody_without_its_token_uses_the_ports_that_ray_opens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAUSE", "300")
    process = start("two", *RAY)
    while not calls() and process.poll() is None:
        time.sleep(0.02)
    known = Path(f"/proc/{calls()[0][0]}/environ").read_text()
    token = re.findall(r"RAY_AUTH_TOKEN=(\w+)", known)[0]
    words = "".join((place / "cmdline").read_text() for place in processes(folder))
    address = re.findall(r"--gcs-address=([\d.]+:\d+)", words)[0]
    asking = [sys.executable, "-c", STRANGER, address]
    said = [subprocess.run(asking, env=os.environ | more, capture_output=True, text=True).stdout
            for more in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}, {})]
    assert [word.split()[-1] for word in said] == ["in", "out"]
    process.kill()
    finish(process)


def test_what_it_needs_is_said_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*options: str) -> str:
        found = CliRunner().invoke(app, ["score", "--samples", "own.csv", "--engine", "ray",
                                         *options])
        assert found.exit_code == 2
        return found.stderr

    assert "say how many processes, as in --workers 4" in said("--monitor", "nowhere.py:f")
    command = ("--monitor", "own.py:monitor", "--workers", "2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "Install it: pip install 'monitorlab[ray]'" in said(*command)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert "waits for 3 answers at a time" in said(*command, "-o", "workers=3")
    assert not Path("calls").exists()
