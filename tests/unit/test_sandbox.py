"""The sandbox: what becomes of a program, what it may not touch, and what is recorded about it."""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitorlab.benchmark import sandbox
from monitorlab.benchmark.sandbox import Job, Limits, Outcome, SandboxError, run_jobs, run_program

ROOMY = Limits(seconds=4, memory_mb=300, file_mb=2)
GREEDY = "class Equal:\n    def __eq__(self, other): return True\ndef f(n): return Equal()"
HIDDEN = (("f(2)", 3), ("f(9)", 10))

# What a program does, what becomes of it, and a piece of the detail.
ENDINGS = {
    "right": ("def f(n): return n + 1", "passed", ""),
    "wrong": ("def f(n): return n", "failed", "AssertionError: f(1) is 1"),
    "division": ("1 / 0", "error", "ZeroDivisionError"),
    "syntax": ("def f(n) return n", "error", "SyntaxError"),
    "leaves": ("raise SystemExit(0)", "error", "SystemExit"),
    "vanishes": ("import os\nos._exit(0)", "crashed", "no reply"),
    "memory": ("f = bytearray(10**10)", "memory", "memory"),
    "slow memory": ("x = [0]\nwhile True: x += x", "memory", "memory"),
    "large file": ("open('big', 'wb').write(b'0' * (3 << 20))", "error", "File too large"),
    "small file": ("open('a', 'wb').write(b'0' * 9999)\ndef f(n): return n + 1", "passed", ""),
    "recursion": ("def f(n): return f(n)", "error", "RecursionError"),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\n"
        "def f(n): return A(n + 1).n", "passed", ""),
    "prints": (
        "import os, sys\nprint('{}')\nos.write(1, b'{}\\n')\nos.write(2, b'x')\n"
        "def f(n): return n + 1", "passed", ""),
    "reads input": ("input()", "error", "EOFError"),
    "sort": (
        "import subprocess\ndef f(n):\n    done = subprocess.run(['sort', '-n'], input='9\\n2\\n',"
        " capture_output=True, text=True)\n    return int(done.stdout.split()[0])", "passed", ""),
}  # fmt: skip
TESTS = "assert f(1) == 2, f'f(1) is {f(1)}'"

# What the audit hook refuses; OUT is a folder outside the sandbox.
FORBIDDEN = {
    "write": ("open('OUT/a', 'w')", "write outside its folder"),
    "append": ("open('OUT/kept', 'a').write('more')", "write outside its folder"),
    "low-level write": ("import os\nos.open('OUT/a', os.O_CREAT | os.O_WRONLY)", "write outside"),
    "after chdir": ("import os\nos.chdir('OUT')\nopen('a', 'w')", "write outside its folder"),
    "folder": ("import os\nos.mkdir('OUT/a')", "os.mkdir outside"),
    "remove": ("import os\nos.remove('OUT/kept')", "os.remove outside"),
    "rename": ("import os\nopen('a', 'w')\nos.rename('a', 'OUT/a')", "os.rename outside"),
    "link": ("import os\nos.symlink('OUT', 'l')\nopen('l/a', 'w')", "os.symlink outside"),
    "database": ("import sqlite3\nsqlite3.connect('OUT/a')", "database outside"),
    "socket": ("import socket\nsocket.socket()", "socket."),
    "name look-up": ("import socket\nsocket.getaddrinfo('localhost', 80)", "socket."),
    "fork": ("import os\nos.fork()", "os.fork"),
    "processes": (
        "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()",
        "os.fork"),
    "foreign program": ("import subprocess\nsubprocess.run(['mount'])", "program 'mount'"),
    "exec": ("import os\nos.execv('/bin/mount', ['mount'])", "program 'mount'"),
    "kill": ("import os\nos.kill(os.getppid(), 9)", "os.kill"),
    "C library": ("import ctypes\nctypes.CDLL(None)", "ctypes."),
    "swallowed": (
        "try:\n    open('OUT/a', 'w')\nexcept BaseException:\n    pass", "write outside"),
    "in a thread": (
        "import threading\nt = threading.Thread(target=open, args=('OUT/a', 'w'))\n"
        "t.start()\nt.join()", "write outside"),
}  # fmt: skip


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "kept").write_text("as it was")
    return folder


@pytest.fixture
def audit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without unprivileged namespaces."""
    monkeypatch.setattr(sandbox, "isolation", lambda: "limits+audit")


@pytest.fixture(scope="module")
def endings() -> dict[str, Outcome]:
    jobs = [Job(source, TESTS) for source, _, _ in ENDINGS.values()]
    return dict(zip(ENDINGS, run_jobs(jobs, ROOMY, processes=2), strict=True))


def forbidden(outside: Path) -> dict[str, Outcome]:
    jobs = [Job(source.replace("OUT", str(outside)), "") for source, _ in FORBIDDEN.values()]
    return dict(zip(FORBIDDEN, run_jobs(jobs, ROOMY, processes=2), strict=True))


def check_refusals(found: dict[str, Outcome], outside: Path) -> None:
    for name, outcome in found.items():
        assert (name, outcome.status) == (name, "refused"), outcome.detail
        assert FORBIDDEN[name][1] in outcome.detail
        assert outcome.hidden_passed is None
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "as it was"


# What becomes of a program


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(endings: dict[str, Outcome], name: str) -> None:
    outcome = endings[name]
    _, status, detail = ENDINGS[name]
    assert outcome.status == status, outcome.detail
    assert status in sandbox.STATUSES
    assert detail in outcome.detail if detail else outcome.detail == ""
    assert 0 < outcome.seconds < ROOMY.seconds


def test_endless_programs_end_in_time_and_outcomes_keep_their_order() -> None:
    loop, ok, sleep = "while True: pass", "x = 1", "import time\ntime.sleep(60)"
    sources = [loop, ok, "1 / 0", ok, sleep, "assert False"]
    found = run_jobs([Job(source, "") for source in sources], Limits(seconds=0.5), processes=2)
    statuses = [outcome.status for outcome in found]
    assert statuses == ["timeout", "passed", "error", "passed", "timeout", "failed"]
    assert found[0].detail == "longer than 0.5 s"
    assert all(0.5 <= found[i].seconds < 3 for i in (0, 4))


def test_a_swallowed_time_limit_does_not_help() -> None:
    stubborn = (
        "import signal\nfor s in (signal.SIGTERM, signal.SIGXCPU):\n"
        "    signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    )
    assert run_program(stubborn, "", Limits(seconds=0.3)).status == "timeout"


def test_no_jobs_no_outcomes() -> None:
    assert run_jobs([]) == []


# Hidden tests


def test_hidden_tests_are_compared_outside_the_program() -> None:
    tuples = "def f(n): return (n, {1: n}) if n else g()"
    found = run_jobs([
        Job(GREEDY, "assert f(1) == 2", hidden=HIDDEN),
        Job("def f(n): return n + 1", "assert f(1) == 2", hidden=HIDDEN),
        Job("def f(n): return 2", "assert f(1) == 2", hidden=HIDDEN),
        Job("def f(n): return 3", "assert f(1) == 2", hidden=HIDDEN),
        Job("def f(n): return n + 1", "assert f(1) == 2"),
        Job(tuples, "", hidden=(("f(2)", (2, {"1": 2})), ("f(0)", "raised NameError"))),
    ], processes=1)  # fmt: skip
    assert [outcome.status for outcome in found] == [*["passed"] * 3, "failed", *["passed"] * 2]
    assert [o.hidden_passed for o in found] == [False, True, False, None, None, True]


def test_parts_run_in_order_and_in_one_namespace() -> None:
    late = "try:\n    later\nexcept NameError:\n    pass\nelse:\n    raise AssertionError('early')"
    job = Job("b = a + 1", f"assert b == 2\n{late}", "a = 1", "later = 5", (("later + b", 7),))
    (found,) = run_jobs([job])
    assert (found.status, found.hidden_passed) == ("passed", True)


# What it may not touch


def test_refusals(outside: Path) -> None:
    check_refusals(forbidden(outside), outside)


def test_refusals_without_namespaces(outside: Path, audit_only: None) -> None:
    found = forbidden(outside)
    check_refusals(found, outside)
    assert {outcome.isolation for outcome in found.values()} == {"limits+audit"}
    assert run_program("f = 1", "assert f").status == "passed"


@pytest.mark.parametrize("source", [
    pytest.param("import sqlite3\nc = sqlite3.connect('file:OUT/a?mode=rwc', uri=True)\n"
                 "c.execute('create table t(x)')\nc.commit()", id="database address"),
    pytest.param("import subprocess\nsubprocess.run(['touch', 'OUT/a'])", id="tool"),
    pytest.param("import os\nos.system('touch OUT/a')", id="shell"),
])  # fmt: skip
def test_nothing_is_written_elsewhere_without_namespaces(
    tmp_path: Path, audit_only: None, source: str
) -> None:
    run_program(source.replace("OUT", str(tmp_path)), "")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def namespaces() -> None:
    if not sandbox.isolation().startswith("namespaces"):
        pytest.skip("no unprivileged namespaces on this machine")


def test_tools_cannot_write_elsewhere_or_reach_the_network(
    tmp_path: Path, namespaces: None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        socket.create_connection(("127.0.0.1", port), 2).close()  # from outside it can be reached
        run = "import subprocess\ndone = subprocess.run({}, capture_output=True, text=True)\n"
        found = run_jobs([
            Job(run.format(["sh", "-c", f"echo a > {tmp_path}/a"]), "assert done.returncode == 0"),
            Job(run.format([sys.executable, "-I", "-c", connect]), "assert done.returncode == 0"),
            Job(run.format([sys.executable, "-I", "-c", "1"]), "assert done.returncode == 0"),
        ], ROOMY, processes=1)  # fmt: skip
    assert [outcome.status for outcome in found] == ["failed", "failed", "passed"]
    assert list(tmp_path.iterdir()) == []


# What is recorded, and what is left


def test_isolation_is_recorded(endings: dict[str, Outcome]) -> None:
    assert {outcome.isolation for outcome in endings.values()} == {sandbox.isolation()}
    assert sandbox.isolation() in ("namespaces+limits+audit", "limits+audit")


@pytest.fixture
def fresh_isolation() -> Iterator[None]:
    sandbox.isolation.cache_clear()
    yield
    sandbox.isolation.cache_clear()


@pytest.mark.parametrize("command", ["false", "no-such-program-anywhere"])
def test_a_machine_without_namespaces_is_noticed(
    monkeypatch: pytest.MonkeyPatch, fresh_isolation: None, command: str
) -> None:
    monkeypatch.setattr(sandbox, "_NAMESPACES", [command])
    assert sandbox.isolation() == "limits+audit"
    assert run_program("f = 1", "assert f").isolation == "limits+audit"


@pytest.mark.parametrize("mode", ["strongest", "limits+audit"])
def test_programs_start_in_an_empty_folder_that_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    mode = sandbox.isolation() if mode == "strongest" else mode
    monkeypatch.setattr(sandbox, "isolation", lambda: mode)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alone = (
        "import os, tempfile\nassert os.listdir('.') == [] and len(os.listdir('..')) == 1\n"
        "here = os.path.realpath('.')\n"
        "assert here == os.path.realpath(os.environ['HOME']) == tempfile.gettempdir()\n"
        "os.makedirs('a/b')\nopen('a/b/c', 'w').write('c')\nos.chmod('a/b', 0)"
    )
    found = run_jobs([Job(alone, ""), Job(alone, ""), Job("1 / 0", "")], processes=1)
    assert [outcome.status for outcome in found] == ["passed", "passed", "error"]
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit_only: None
) -> None:
    monkeypatch.setattr(sandbox, "HOST", tmp_path / "nothing.py")
    with pytest.raises(SandboxError, match=r"host ended: .*nothing.py.*Check that Python may fork"):
        run_program("x = 1", "")
    (tmp_path / "broken.py").write_text("raise OSError('no forks today')")
    monkeypatch.setattr(sandbox, "HOST", tmp_path / "broken.py")
    with pytest.raises(SandboxError, match="no forks today"):
        run_jobs([Job("x = 1", "")] * 3, processes=2)


def test_a_host_that_ends_between_jobs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit_only: None
) -> None:
    (tmp_path / "host.py").write_text(
        "import json, os\ninput()\nos.close(0)\nprint(json.dumps({'status': 'passed', 'detail': '',"
        " 'hidden': [], 'seconds': 0.1}), flush=True)\n"
    )
    monkeypatch.setattr(sandbox, "HOST", tmp_path / "host.py")
    with pytest.raises(SandboxError, match="host ended"):
        run_jobs([Job("x = 1", "")] * 2, processes=1)
