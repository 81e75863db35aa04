"""The sandbox: what becomes of a program, what it may not touch, and what is recorded about it."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitorlab.benchmark.sandbox import runner
from monitorlab.benchmark.sandbox.runner import (
    Job,
    SandboxError,
    _Outcome,
    run_jobs,
)

ROOMY = {"seconds": 4, "memory_mb": 300, "file_mb": 2}

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

# Programs that do their task; each is followed by a sound `f` where it has none.
SOUND = {
    "bytes of stdout": (
        "import sys\nsys.stdout.buffer.write(b'x')\nsys.stderr.buffer.write(b'x')\n"
        "assert (sys.stdin.buffer.read(), sys.stdout.fileno()) == (b'', 1)"),
    "asyncio": (
        "import asyncio\nasync def g(n):\n    await asyncio.sleep(0)\n"
        "    return await asyncio.to_thread(lambda: n + 1)\ndef f(n): return asyncio.run(g(n))"),
    "asyncio streams": (
        "import asyncio\nasync def h(r, w):\n    w.write(await r.readline())\n    w.close()\n"
        "async def g(n):\n    await asyncio.start_unix_server(h, 's')\n"
        "    r, w = await asyncio.open_unix_connection('s')\n    w.write(b'%d\\n' % (n + 1))\n"
        "    return int(await r.readline())\ndef f(n): return asyncio.run(g(n))"),
    "own file": (
        "from pathlib import Path\ndef f(n): return n + 1\n"
        "assert 'def f(n)' in Path(__file__).read_text()"),
    "own source": (
        "import inspect\ndef f(n):\n    return n + 1\nassert inspect.getmodule(f).f is f\n"
        "assert inspect.getsource(f) == 'def f(n):\\n    return n + 1\\n'"),
    "own annotations": "def f(n: int): return n + 1\nassert f.__annotations__ == {'n': int}",
    "type hints": (
        "import typing\nclass A:\n    a: 'A'\nassert typing.get_type_hints(A) == {'a': A}"),
    "pickle": (
        "import pickle\nclass A:\n    def __init__(self, n): self.n = n\n"
        "def f(n): return pickle.loads(pickle.dumps(A(n + 1))).n"),
    "words of the prompt": "assert callable(exit) and callable(quit) and help",
    "library": "import packaging.version as v\nassert v.Version('1.10') > v.Version('1.9')",
    "main guard": "if __name__ == '__main__':\n    raise SystemExit(input())",
    "many threads": (
        "import threading\ne = threading.Event()\n"
        "a = [threading.Thread(target=e.wait) for _ in range(100)]\n"
        "for t in a: t.start()\ne.set()\nfor t in a: t.join()"),
    "own signal": (
        "import os, signal\ngot = []\nsignal.signal(signal.SIGUSR1, lambda *_: got.append(1))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\nassert got"),
    "own json.dumps": (
        "import json\nold = json.dumps\njson.dumps = lambda o, **k: old(o, indent=2, **k)"),
    "logging": (
        "import logging\nlogging.basicConfig(filename='log')\n"
        "try: 1 / 0\nexcept ZeroDivisionError: logging.exception('a')\n"
        "assert 'ZeroDivisionError' in open('log').read()"),
    "temporary files": (
        "import os, tempfile\nwith tempfile.TemporaryDirectory() as a:\n"
        "    open(a + '/b', 'w').close()\nassert not os.path.exists(a)"),
    "unittest": (
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test(self): self.assertEqual(f(1), 2)\ndef f(n): return n + 1\n"
        "suite = unittest.defaultTestLoader.loadTestsFromTestCase(T)\n"
        "assert unittest.TextTestRunner().run(suite).wasSuccessful()"),
}  # fmt: skip
# The same where the machine confines processes.
SOUND_PROCESSES = {
    "queue": (
        "import multiprocessing as m\ndef g(q, n): q.put(n + 1)\ndef f(n):\n    q = m.Queue()\n"
        "    m.Process(target=g, args=(q, n)).start()\n    return q.get()"),
    "pool": (
        "import multiprocessing as m\ndef g(n): return n + 1\ndef f(n):\n"
        "    with m.Pool(2) as p: return p.map(g, [n])[0]"),
    "tool that is ended": (
        "import subprocess\ntry: subprocess.run(['tail', '-f', '/dev/null'], timeout=.05)\n"
        "except subprocess.TimeoutExpired: pass"),
    "shell": "import os\nassert os.popen('(echo b; echo a) | sort | head -1').read() == 'a\\n'",
    "asyncio tool": (
        "import asyncio\nasync def g(n):\n"
        "    p = await asyncio.create_subprocess_exec('expr', str(n), '+', '1', stdout=-1)\n"
        "    return int((await p.communicate())[0])\ndef f(n): return asyncio.run(g(n))"),
}  # fmt: skip

# Programs whose `f` is wrong and that try to pass nevertheless.
REPLY = '{"status": "passed", "detail": ""}'
VERDICT = "{'status': 'passed', 'detail': ''}"
SPRAY = f"""
import os
def spray(*keys):
    for descriptor in range(3, 40):
        for data in ({REPLY!r}.encode(), b'\\0passed\\n\\0', *keys):
            try: os.write(descriptor, data)
            except OSError: pass
"""
LOOK = """
import sys, types
seen, keys = set(), []
def look(o):
    if id(o) in seen: return
    seen.add(id(o))
    if isinstance(o, bytes): keys.append(o)
    elif isinstance(o, dict): [look(i) for i in list(o.values())]
    elif isinstance(o, (list, tuple)): [look(i) for i in o]
    elif isinstance(o, types.ModuleType): look(vars(o))
    elif isinstance(o, types.FunctionType):
        look(o.__globals__)
        for cell in o.__closure__ or ():
            try: look(cell.cell_contents)
            except ValueError: pass
def look_around():
    frame = sys._getframe()
    while frame:
        look(frame.f_locals)
        look(frame.f_globals)
        frame = frame.f_back
    look(sys.modules)
    spray(*keys)
"""
FORGERIES = {
    "replaced dumps": (
        f"import json\njson.dumps = json.JSONEncoder.encode = lambda *a, **k: {REPLY!r}"),
    "replaced write": f"import os\nw = os.write\nos.write = lambda d, b: w(d, {REPLY!r}.encode())",
    "replaced builtins": (
        "import builtins\nfor n in ('exec', 'compile', 'isinstance', 'AssertionError', 'str'):\n"
        "    setattr(builtins, n, lambda *a, **k: 'passed')"),
    "replaced main": (
        "import __main__\nfor n in list(vars(__main__)):\n"
        f"    if n[:2] != '__' and n != 'f': setattr(__main__, n, lambda *a, **k: {VERDICT})"),
    "replaced functions of callers": (
        "import sys\nframe = sys._getframe()\nwhile frame := frame.f_back:\n"
        "    for n, o in list(frame.f_globals.items()):\n"
        f"        if callable(o): frame.f_globals[n] = lambda *a, **k: {VERDICT}"),
    "open descriptors": f"{SPRAY}\nspray()",
    "open descriptors, then leaving": f"{SPRAY}\nspray()\nos._exit(0)",
    "leaving in a test": f"{SPRAY}\ndef f(n):\n    spray()\n    os._exit(0)",
    "system exit in a test": "def f(n): raise SystemExit(0)",
    "iteration ended": "raise StopIteration",
    "at exit": f"{SPRAY}\nimport atexit\natexit.register(spray)",
    "key looked for": f"{SPRAY}{LOOK}\nlook_around()",
    "key looked for in a test": (
        f"{SPRAY}{LOOK}\ndef f(n):\n    look_around()\n    os._exit(0)"),
    "all objects": "import gc\ngc.get_objects()\nf = lambda n: n + 1",
    "what a frame holds": (
        "import gc, sys\ngc.get_referents(sys._getframe(1))\nf = lambda n: n + 1"),
    "own memory": "open('/proc/self/mem', 'rb')\nf = lambda n: n + 1",
    "own memory from its folder": (
        "import os\nd = os.open('/proc/self', os.O_RDONLY)\nos.open('mem', os.O_RDONLY, dir_fd=d)\n"
        "f = lambda n: n + 1"),
    "own pipe read": (
        "def can_read(d):\n    try: return open(f'/proc/self/fd/{d}', 'rb')\n"
        "    except FileNotFoundError: return None\n"
        "if any(can_read(d) for d in range(3, 40)): f = lambda n: n + 1"),
    "another interpreter": "import _xxsubinterpreters as i\ni.create()\nf = lambda n: n + 1",
    "C by another door": (
        "import importlib.util as u\nm = u.module_from_spec(u.find_spec('_ctypes'))\n"
        "f = lambda n: n + 1"),
    "C that was loaded before": (
        "def walk(c):\n    yield c\n    for s in type.__subclasses__(c):\n"
        "        if s is not type: yield from walk(s)\n"
        "if any(c.__name__ == 'CDLL' for c in walk(object)): f = lambda n: n + 1"),
    "line jumped over": (
        "import sys\ndef t(frame, event, _):\n    if event == 'line': frame.f_lineno += 1\n"
        "    return t\ndef f(n):\n    sys._getframe(1).f_trace = t\n    sys.settrace(t)\n"
        "    return n + 1"),
    "own audit hook": "import sys\nsys.addaudithook(lambda *_: None)\nf = lambda n: n + 1",
    "memory of a parent": (
        "import subprocess, sys\ncode = 'import ctypes as c, os\\nb = c.create_string_buffer(8)\\n"
        "to, at = (c.c_size_t * 2)(c.addressof(b), 8), (c.c_size_t * 2)(%d, 8)\\n"
        "print(c.CDLL(None).process_vm_readv(os.getppid(), to, 1, at, 1, 0))' % id(object)\n"
        "done = subprocess.run([sys.executable, '-c', code], capture_output=True)\n"
        "if int(done.stdout) > 0: f = lambda n: n + 1"),
    "hook taken apart": (
        "import signal, sys\ndef h(_, frame):\n    for o in frame.f_locals.values():\n"
        "        for c in getattr(o, '__closure__', None) or ():\n"
        "            if callable(c.cell_contents): c.cell_contents = lambda *_: None\n"
        "signal.signal(signal.SIGALRM, h)\nsignal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)\n"
        "for _ in range(20000): sys.audit('a')\nsignal.setitimer(signal.ITIMER_REAL, 0)\n"
        "import gc\ngc.get_objects()\nf = lambda n: n + 1"),
}  # fmt: skip

# Ways to another process.
STARTS = {
    "tool": "import subprocess\nsubprocess.run(['true'])",
    "shell": "import os\nos.system('true')",
    "pipe": "import os\nos.popen('true')",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "spawn": "import os\nos.spawnv(os.P_WAIT, '/bin/true', ['true'])",
    "posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {})",
    "fork": "import os\nos.fork()",
    "terminal": "import pty\npty.spawn('true')",
    "asyncio": "import asyncio\nasyncio.run(asyncio.create_subprocess_exec('true'))",
    "multiprocessing": (
        "import multiprocessing as m\nm.get_context('fork').Process(target=print).start()"),
    "multiprocessing anew": (
        "import multiprocessing as m\nm.get_context('spawn').Process(target=print).start()"),
    "below subprocess": "import _posixsubprocess\n_posixsubprocess.fork_exec()",
    "swallowed": "import os\ntry: os.system('true')\nexcept BaseException: pass",
}  # fmt: skip

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
    "foreign program": ("import subprocess\nsubprocess.run(['mount'])", "program 'mount'"),
    "exec": ("import os\nos.execv('/bin/mount', ['mount'])", "program 'mount'"),
    "kill": ("import os\nos.kill(os.getppid(), 9)", "os.kill"),
    "kill all": ("import os\nos.kill(-1, 0)", "os.kill"),
    "C library": ("import ctypes\nctypes.CDLL(None)", "_ctypes"),
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
    monkeypatch.setattr(runner, "isolation", lambda: "limits+audit")


@pytest.fixture
def namespaces() -> None:
    if not runner.isolation().startswith("namespaces"):
        pytest.skip("no unprivileged namespaces on this machine")


@pytest.fixture(scope="module")
def endings() -> dict[str, _Outcome]:
    jobs = [Job(source, TESTS) for source, _, _ in ENDINGS.values()]
    return dict(zip(ENDINGS, run_jobs(jobs, processes=2, **ROOMY), strict=True))


def forbidden(outside: Path) -> dict[str, _Outcome]:
    jobs = [Job(source.replace("OUT", str(outside)), "") for source, _ in FORBIDDEN.values()]
    return dict(zip(FORBIDDEN, run_jobs(jobs, processes=2, **ROOMY), strict=True))


def check_refusals(found: dict[str, _Outcome], outside: Path) -> None:
    for name, outcome in found.items():
        assert (name, outcome.status) == (name, "refused"), outcome.detail
        assert FORBIDDEN[name][1] in outcome.detail or outcome.unchecked
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "as it was"


# What becomes of a program


@pytest.mark.parametrize("name", ENDINGS)
def test_endings(endings: dict[str, _Outcome], name: str) -> None:
    outcome = endings[name]
    _, status, detail = ENDINGS[name]
    assert outcome.status == status, outcome.detail
    assert status in runner.STATUSES
    assert detail in outcome.detail if detail else outcome.detail == ""
    assert 0 < outcome.seconds < ROOMY["seconds"]


def test_endless_programs_end_in_time_and_outcomes_keep_their_order() -> None:
    loop, ok, sleep = "while True: pass", "x = 1", "import time\ntime.sleep(60)"
    sources = [loop, ok, "1 / 0", ok, sleep, "assert False"]
    found = run_jobs([Job(source, "") for source in sources], processes=2, seconds=0.5)
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
    assert run_program(stubborn, "", seconds=0.3).status == "timeout"


def test_no_jobs_no_outcomes() -> None:
    assert run_jobs([]) == []


def test_a_limit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no limit 'memory': expected some of seconds, memory_mb"):
        run_jobs([Job("x = 1", "")], memory=64)


def run_program(source: str, tests: str, **limits: float) -> _Outcome:
    return run_jobs([Job(source, tests)], processes=1, **limits)[0]


def followed_by_f(source: str) -> str:
    return source if "def f(" in source else f"{source}\ndef f(n): return n + 1"


@pytest.mark.parametrize("isolation", ["namespaces", "audit_only"])
def test_correct_programs_are_not_called_wrong(
    request: pytest.FixtureRequest, isolation: str
) -> None:
    request.getfixturevalue(isolation)
    programs = {**SOUND, **(SOUND_PROCESSES if isolation == "namespaces" else {})}
    jobs = [Job(followed_by_f(source), TESTS) for source in programs.values()]
    for name, outcome in zip(programs, run_jobs(jobs, processes=2), strict=True):
        assert (name, outcome.status, outcome.detail) == (name, "passed", "")


@pytest.mark.parametrize("isolation", ["namespaces", "audit_only"])
def test_no_program_forges_a_pass(request: pytest.FixtureRequest, isolation: str) -> None:
    request.getfixturevalue(isolation)
    right = Job("def f(n): return n + 1", TESTS)
    jobs = [Job(f"def f(n): return 0\n{source}", TESTS) for source in FORGERIES.values()]
    first, *found, last = run_jobs([right, *jobs, right], processes=1, **ROOMY)
    for name, outcome in zip(FORGERIES, found, strict=True):
        assert (name, outcome.status == "passed") == (name, False)
    assert first.status == last.status == "passed"


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
        ], processes=1, **ROOMY)  # fmt: skip
    assert [outcome.status for outcome in found] == ["failed", "failed", "passed"]
    assert list(tmp_path.iterdir()) == []


def test_without_namespaces_no_other_process_is_started(audit_only: None) -> None:
    found = run_jobs([Job(source, "") for source in STARTS.values()], processes=2, **ROOMY)
    for name, outcome in zip(STARTS, found, strict=True):
        assert (name, outcome.status) == (name, "refused"), outcome.detail
        assert (name, outcome.unchecked) == (name, True), outcome.detail
    other = run_program("open('/etc/x', 'w')", "", **ROOMY)
    assert (other.status, other.unchecked) == ("refused", False)


# Other processes, and limits on many things together

LOOK_FOR_OTHERS = (
    "import os, subprocess\nseen = subprocess.run(['sh', '-c', 'echo $$; for i in $(seq 2 600); do"
    " kill -0 $i && echo $i; done'], capture_output=True, text=True).stdout.split()\n"
    "assert set(seen) <= {str(os.getpid()), seen[0]}, seen\n"
    "assert not os.path.exists('/proc/self')"
)


def test_a_program_neither_sees_nor_ends_other_processes(namespaces: None) -> None:
    with subprocess.Popen(["sleep", "30"]) as victim:
        shell = f"import os\nassert os.system('kill -9 {victim.pid}') != 0"
        direct = f"import os\nos.kill({victim.pid}, 9)"
        first, second, third = run_jobs(
            [Job(shell, ""), Job(direct, ""), Job(LOOK_FOR_OTHERS, "")], processes=1, **ROOMY
        )
        assert victim.poll() is None
        victim.kill()
    assert (first.status, first.detail) == ("passed", "")
    assert "ProcessLookupError" in second.detail
    assert (third.status, third.detail) == ("passed", "")


def test_a_program_cannot_disturb_the_host(namespaces: None) -> None:
    sources = [
        "os.system('kill -9 1; kill -15 1; kill -2 1; kill -19 1')",
        "import resource\nresource.prlimit(1, resource.RLIMIT_CPU, (1, 1))",
        "os.setpriority(os.PRIO_PROCESS, 1, 19)", "os.sched_setaffinity(1, [0])", "",
    ]  # fmt: skip
    first = "import os\nassert os.getppid() == 1\n"  # else it is the machine that is disturbed
    found = run_jobs([Job(first + source, "") for source in sources], processes=1, **ROOMY)
    assert [outcome.status for outcome in found] == ["passed", *["error"] * 3, "passed"]
    assert all("PermissionError" in outcome.detail for outcome in found[1:4])


def test_nothing_survives_a_program(namespaces: None) -> None:
    stubborn = (
        "import os, signal, subprocess, time\n"
        "subprocess.Popen(['sh', '-c', 'trap \"\" TERM HUP; while :; do sleep 29.125; done &'],"
        " start_new_session=True)\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        "    for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n"
        "    while True:\n        open('beat', 'w').close()\n        time.sleep(.01)"
    )
    late = f"{stubborn}\ntime.sleep(30)"
    sources = [stubborn, LOOK_FOR_OTHERS, late, LOOK_FOR_OTHERS]
    found = run_jobs([Job(source, "") for source in sources], processes=1, seconds=2)
    statuses = [outcome.status for outcome in found]
    assert statuses == ["passed", "passed", "timeout", "passed"], found[1].detail
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "29.125" not in commands


def test_processes_are_limited(namespaces: None) -> None:
    limits = {"seconds": 2, "threads": 20}
    count = (
        "import os, time\nstarted = 0\ntry:\n    while started < 40:\n"
        "        if os.fork() == 0: time.sleep(9)\n        started += 1\n"
        "except BlockingIOError: pass\nassert started < 20, started"
    )
    bombs = ["import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
             "import os, time\nos.system('b() { b | b & }; b')\ntime.sleep(9)"]  # fmt: skip
    (counted,) = run_jobs([Job(count, "")], **limits)
    assert (counted.status, counted.detail) == ("passed", "")  # else what follows is dangerous
    found = run_jobs([Job(source, "") for source in (*bombs, LOOK_FOR_OTHERS)], 1, **limits)
    assert [outcome.status for outcome in found] == ["timeout", "timeout", "passed"]
    assert all(outcome.seconds < 8 for outcome in found)


@pytest.mark.parametrize("isolation", ["namespaces", "audit_only"])
def test_bytes_are_limited_together(request: pytest.FixtureRequest, isolation: str) -> None:
    request.getfixturevalue(isolation)
    write = "for i in range({}): open(f'{{i}}', 'wb').write(bytes(1 << 20))"
    limits = {"seconds": 4, "total_mb": 3}
    found = run_jobs([Job(write.format(n), "") for n in (2, 5, 2)], processes=1, **limits)
    assert [outcome.status for outcome in found] == ["passed", "error", "passed"]
    assert "OSError" in found[1].detail
    if isolation == "namespaces":
        shell = "import os\nassert os.system('head -c 5000000 /dev/zero > a') == 0"
        assert run_program(shell, "", **limits).status == "failed"


# What is recorded, and what is left


def test_isolation_is_recorded(endings: dict[str, _Outcome]) -> None:
    assert {outcome.isolation for outcome in endings.values()} == {runner.isolation()}
    assert runner.isolation() in ("namespaces+limits+audit", "limits+audit")


@pytest.fixture
def no_walls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine that forbids namespaces, as containers do."""
    walls = tmp_path / "walls.py"
    walls.write_text("raise OSError(1, 'unshare: Operation not permitted')")
    monkeypatch.setattr(runner, "WALLS", walls)
    runner._missing.cache_clear()
    yield walls
    runner._missing.cache_clear()


def test_a_machine_without_namespaces_is_noticed(no_walls: Path) -> None:
    assert runner.isolation() == "limits+audit"
    assert run_program("f = 1", "assert f").isolation == "limits+audit"
    words = runner.weakness()
    assert "Isolation is weak here" in words and "(unshare: Operation not permitted)" in words
    assert "refused" in words and len(words) < 400


def test_walls_that_do_not_hold_are_noticed(no_walls: Path, tmp_path: Path) -> None:
    """The command is started, but in no namespace."""
    no_walls.write_text(
        f"import os, sys\nos.execv(sys.argv[2], [*sys.argv[2:], {str(tmp_path)!r}])"
    )
    assert runner.isolation() == "limits+audit"
    assert "(failed: " in runner.weakness()


def test_strong_isolation_needs_no_words(namespaces: None) -> None:
    assert runner.weakness() == ""


@pytest.mark.parametrize("mode", ["strongest", "limits+audit"])
def test_programs_start_in_an_empty_folder_that_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    mode = runner.isolation() if mode == "strongest" else mode
    monkeypatch.setattr(runner, "isolation", lambda: mode)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alone = (
        "import os, tempfile\nassert os.listdir('.') == []\n"
        "assert set(os.listdir('..')) <= {'work', 'shm', '__program__.py'}\n"
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
    monkeypatch.setattr(runner, "HOST", tmp_path / "nothing.py")
    with pytest.raises(SandboxError, match=r"host ended: .*nothing.py.*Check that Python may fork"):
        run_program("x = 1", "")
    (tmp_path / "broken.py").write_text("raise OSError('no forks today')")
    monkeypatch.setattr(runner, "HOST", tmp_path / "broken.py")
    with pytest.raises(SandboxError, match="no forks today"):
        run_jobs([Job("x = 1", "")] * 3, processes=2)


def test_a_host_that_ends_between_jobs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audit_only: None
) -> None:
    (tmp_path / "host.py").write_text(
        "import json, os\ninput()\nos.close(0)\nprint(json.dumps({'status': 'passed', 'detail': '',"
        " 'seconds': 0.1}), flush=True)\n"
    )
    monkeypatch.setattr(runner, "HOST", tmp_path / "host.py")
    with pytest.raises(SandboxError, match="host ended"):
        run_jobs([Job("x = 1", "")] * 2, processes=1)
