"""The sandbox's inside: reads one job per line, forks a child for each, writes one reply per line.

It is started as a script in a process of its own and imports the standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import types
from typing import Any

# Modules that programs use often, imported once, so that a child does not pay for them.
PRELOADED = (
    "ast base64 bisect collections csv dataclasses datetime decimal fractions functools glob "
    "hashlib heapq hmac html itertools logging math operator pathlib pickle random secrets "
    "shlex sqlite3 ssl statistics string subprocess textwrap typing urllib.parse uuid "
    "xml.etree.ElementTree zipfile"
)
REPLY_LIMIT = 1_000_000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.truncate", "os.link",
            "os.symlink", "shutil.rmtree", "os.utime")  # fmt: skip
_FORBIDDEN = ("socket.", "ctypes.", "os.kill", "os.killpg", "os.setuid", "os.fork", "pty.",
              "signal.pthread_kill", "ftplib.", "http.", "urllib.Request", "smtplib.")  # fmt: skip
# Programs under test may call everyday command-line tools; each runs under the same limits.
# fmt: off
_TOOLS = frozenset({
    "sort", "wc", "cat", "ls", "echo", "printf", "head", "tail", "grep", "cut", "tr", "uniq",
    "test", "true", "false", "du", "cp", "mv", "mkdir", "touch", "gzip", "gunzip", "tar",
    "date", "sh", "basename", "dirname", "cksum", "sha256sum", "md5sum", "find", "sed",
    "stat", "file", "nl", "rev", "seq", "env", "pwd", "fold", "expr", "id", "diff", "cmp",
    "python", "python3", "paste", "tac", "zcat", "split", "comm", "which", "chmod", "ln",
    "rm", "awk",
})
# fmt: on


class Refused(BaseException):
    """The program touched something that the sandbox forbids."""


def _guard(folder: str, refusals: list[str], confined: bool) -> None:
    """Refuse sockets, foreign programs and writes outside `folder`, for good.

    What was refused is noted, so that a program cannot hide it by catching the exception. Where the
    machine confines the process itself (`confined`), tools may name any path: it is read-only.
    """
    home = os.path.realpath(folder) + os.sep

    def inside(path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return True
        full = os.path.realpath(os.fsdecode(path))
        return (full + os.sep).startswith(home) or full == "/dev/null"

    def refuse(what: str) -> None:
        refusals.append(what)
        raise Refused(what)

    def check_words(command: Any) -> None:
        """Without confinement, a tool must not name a path outside of the folder."""
        if confined:
            return
        for word in re.split(r"[\s;|&<>()'\"=]+", os.fsdecode(command)):
            climbs = "/" in word and ".." in word.split("/")
            if climbs or (word.startswith("/") and not inside(word)):
                refuse(f"a tool with the path {word!r}")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool((flags or 0) & _WRITING) or any(c in "wax+" for c in mode or "")
            if writes and not inside(path):
                refuse(f"write outside its folder: {os.fsdecode(path)}")
        elif event in _CHANGES:
            for path in arguments[:2]:
                if isinstance(path, (str, bytes, os.PathLike)) and not inside(path):
                    refuse(f"{event} outside its folder: {os.fsdecode(path)}")
        elif event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
            name = os.path.basename(os.fsdecode(arguments[0] or b""))
            if name not in _TOOLS and not name.startswith("python3"):
                refuse(f"start of the program {name!r}")
            for word in list(arguments[1] or ())[1:]:
                check_words(word)
        elif event == "os.system":
            check_words(arguments[0])
        elif event == "sqlite3.connect":
            path = os.fsdecode(arguments[0]).removeprefix("file:").partition("?")[0]
            if path not in (":memory:", "") and not inside(path):
                refuse(f"database outside its folder: {path}")
        elif event.startswith(_FORBIDDEN):
            refuse(event)

    sys.addaudithook(hook)


def _limit(limits: dict[str, float]) -> None:
    seconds = int(limits["seconds"]) + 1
    memory, size = int(limits["memory_mb"]) << 20, int(limits["file_mb"]) << 20
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """Run program, tests and hidden expressions in one namespace."""
    # Dataclasses and pickle look a class up in the module that it names, so there must be one.
    module = sys.modules["__program__"] = types.ModuleType("__program__")
    space: dict[str, Any] = module.__dict__
    dumps, hidden = json.dumps, []
    try:
        for part in ("setup", "source", "tests"):
            exec(compile(job[part], f"<{part}>", "exec"), space)
        if job["hidden"]:
            exec(compile(job["hidden_setup"], "<hidden setup>", "exec"), space)
        for text in job["hidden"]:
            try:
                hidden.append(json.loads(dumps(eval(compile(text, "<hidden>", "eval"), space))))
            except Exception as error:
                hidden.append(f"raised {type(error).__name__}")
    except Refused as error:
        return {"status": "refused", "detail": str(error), "hidden": []}
    except MemoryError:
        return {"status": "memory", "detail": "more memory than allowed", "hidden": []}
    except AssertionError as error:
        return {"status": "failed", "detail": f"AssertionError: {error}"[:300], "hidden": []}
    except BaseException as error:
        return {"status": "error", "detail": f"{type(error).__name__}: {error}"[:300], "hidden": []}
    return {"status": "passed", "detail": "", "hidden": hidden}


def _child(job: dict[str, Any], folder: str, pipe: int) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(HOME=folder, TMPDIR=folder)
    tempfile.tempdir = None
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    write, finish = os.write, os._exit
    _limit(job["limits"])
    refusals: list[str] = []
    _guard(folder, refusals, job["confined"])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        reply = _run(job)
    if refusals:
        reply = {"status": "refused", "detail": refusals[0], "hidden": []}
    write(pipe, json.dumps(reply).encode()[:REPLY_LIMIT])
    finish(0)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait at most as long as allowed, and collect the reply."""
    folder = tempfile.mkdtemp(dir=job["folder"])
    reading, writing = os.pipe()
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _child(job, folder, writing)
        finally:
            os._exit(1)
    os.close(writing)
    deadline, data = started + job["limits"]["seconds"], b""
    late = False
    while True:
        left = deadline - time.perf_counter()
        ready, _, _ = select.select([reading], [], [], max(0.0, left))
        if not ready:
            late = True
            break
        block = os.read(reading, 65536)
        if not block:
            break
        data += block
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, state = os.waitpid(child, 0)
    shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - started
    if late:
        limit = job["limits"]["seconds"]
        reply = {"status": "timeout", "detail": f"longer than {limit} s", "hidden": []}
    else:
        try:
            reply = json.loads(data)
        except ValueError:
            reply = {"status": "crashed", "detail": f"no reply, exit state {state}", "hidden": []}
    return {**reply, "seconds": seconds}


def main() -> None:
    """Answer jobs until the input ends."""
    for name in PRELOADED.split():
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        reply = _answer(json.loads(line))
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
