"""The sandbox's inside: reads one job per line, forks a child for each, writes one reply per line.

It is started as a script in a process of its own, ``host.py FOLDER [KEEPER]``, and imports
the standard library only. With a `KEEPER`, the descriptor of `walls.py`, it is the first
process of its namespaces, so that it can end all others; without one programs may start none.

**How a verdict is told.** Program and tests share one interpreter, so a program can replace any
function that tests or this file use, and write what it likes to any open descriptor. Therefore
only *passed* needs a proof, and the proof is a key that a program cannot reach. A child draws it,
hands it over through a pipe that is closed before the program starts, and keeps it in a chain of
calls that C runs (`_chain`): program, tests, and last the call that sends the key. Nothing
that Python code can name holds the key: no variable of a frame, no module, no traceback. What
could look further is refused by the first audit hook (`_keep_secrets`) and, where namespaces are to
be had, by the kernel: the garbage collector's lists, C calls, other interpreters, trace functions
(they can jump over lines) and the files and calls that show memory. Any other end of a child,
whatever it wrote, is not a pass.

**What no design with one interpreter can exclude.** Tests trust Python's own words: an object can
claim to be equal to all others, a function can read what its caller compares it with, and byte code
made to crash the interpreter can read all memory; from Python 3.13 on, a signal handler can change
the variables of the hook that it interrupts.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import re
import resource
import select
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import call
from typing import Any, NoReturn

# Modules that programs use often, imported once, so that a child does not pay for them.
PRELOADED = (
    "ast base64 bisect collections csv dataclasses datetime decimal fractions functools glob "
    "hashlib heapq hmac html itertools logging math operator pathlib pickle random secrets "
    "shlex sqlite3 ssl statistics string subprocess textwrap typing urllib.parse uuid "
    "xml.etree.ElementTree zipfile"
)
MODULE = "__program__"
REPLY_LIMIT = 1_000_000
DETAIL_LIMIT = 300
KEY_SIZE = 32
TICK = 0.05  # seconds between two looks at what a program wrote, where nothing else limits it
_RECORD = re.compile(rb"\0(\w+\n[^\0]*)\0")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_WRITES = re.compile("[wax+]")
_PROCESSES = re.compile(r"/proc(/\d+(/.*)?)?", re.DOTALL)
_UNIX = 1  # the address family
# What shows more of the interpreter than Python code can name.
_SECRETS = frozenset({
    "gc.get_objects", "gc.get_referrers", "gc.get_referents", "sys.settrace", "sys.addaudithook",
    "cpython.PyInterpreterState_New", "sqlite3.enable_load_extension", "sqlite3.load_extension",
})  # fmt: skip
# What changes files, with the number of paths that each names.
_CHANGES = {
    "os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.chmod": 1, "os.chown": 1,
    "os.truncate": 1, "os.link": 2, "os.symlink": 2, "os.utime": 1, "os.setxattr": 1,
    "os.removexattr": 1, "shutil.rmtree": 1, "shutil.chown": 1,
}  # fmt: skip
_STARTS = frozenset({
    "subprocess.Popen", "os.posix_spawn", "os.exec", "os.system", "os.fork", "os.forkpty",
    "pty.spawn", "resource.prlimit",
})  # fmt: skip
_NETWORK = ("socket.", "ftplib.", "http.", "urllib.Request", "smtplib.", "poplib.", "imaplib.")
# Programs under test may call everyday command-line tools; each runs under the same limits.
# fmt: off
_TOOLS = frozenset({
    "sort", "wc", "cat", "ls", "echo", "printf", "head", "tail", "grep", "cut", "tr", "uniq",
    "test", "true", "false", "du", "cp", "mv", "mkdir", "touch", "gzip", "gunzip", "tar",
    "date", "sh", "basename", "dirname", "cksum", "sha256sum", "md5sum", "find", "sed",
    "stat", "file", "nl", "rev", "seq", "env", "pwd", "fold", "expr", "id", "diff", "cmp",
    "python", "python3", "paste", "tac", "zcat", "split", "comm", "which", "chmod", "ln",
    "rm", "awk", "uname",
})
# fmt: on
_Hook = Callable[[str, tuple[Any, ...]], None]


def _keep_secrets(pipe: int) -> _Hook:
    """Make the hook that guards the key.

    Signal handlers run in the frame of whatever they interrupt and can look at its variables.
    Here these are constants and functions in C, which nothing can change.
    """
    secrets, dubious = _SECRETS, ("_test", "_xx", "_interp", "_ctypes")
    compiled = tuple(path + os.sep for path in sys.path if path.endswith("lib-dynload"))
    write, leave = os.write, os._exit

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import":
            name, file = "".join((arguments[0], "")), arguments[1]
            if not name.rpartition(".")[2].startswith(dubious) and (
                file is None or "".join((file, "")).startswith(compiled)
            ):
                return
            event = f"import of the compiled module {name[:80]}"
        elif event not in secrets and not event.startswith("ctypes."):
            return
        try:
            write(pipe, f"\0refused\n{event}\0".encode(errors="backslashreplace"))
        finally:
            leave(1)

    return hook


def _refuser(pipe: int) -> Callable[[str], NoReturn]:
    """Make a function that reports what was refused and ends the process at once.

    A program could catch an exception and go on; it cannot go on after this.
    """
    write, leave = os.write, os._exit

    def refuse(what: str) -> NoReturn:
        try:
            text = what.replace("\0", "?")[:DETAIL_LIMIT]
            write(pipe, f"\0refused\n{text}\0".encode(errors="backslashreplace"))
        finally:
            leave(1)

    return refuse


def _keep_folder(home: str, refuse: Callable[[str], NoReturn], confined: bool) -> _Hook:
    """Make the hook that refuses sockets, foreign programs and writes outside of `home`.

    Where the machine confines the process itself (`confined`), tools and forks are harmless, and
    this hook only says sooner and more clearly what would fail anyway. Elsewhere it is all there
    is: no program is started, and no other process is signalled. It uses nothing that a program
    could replace without meaning harm.
    """
    readlink, folder_now, as_path, own = os.readlink, os.getcwd, os.fspath, os.getpid()
    kind, text, octets, number = type, str, bytes, int
    home = home.rstrip("/") + "/"

    def decode(path: Any) -> str:
        path = as_path(path)
        return path.decode("utf-8", "surrogateescape") if kind(path) is octets else path

    def real(path: Any) -> str:
        """Give the path without links."""
        path = decode(path)
        left = path.split("/")[::-1]
        done = [] if path.startswith("/") else folder_now().split("/")[1:]
        follow = 40
        while left:
            step = left.pop()
            if step == "..":
                del done[-1:]
            elif step not in ("", "."):
                try:
                    target = readlink("/" + "/".join([*done, step]))
                except (OSError, ValueError):
                    done.append(step)
                    continue
                follow -= 1
                if follow < 0:
                    refuse("a path of endless links")
                done = [] if target.startswith("/") else done
                left += target.split("/")[::-1]
        return "/" + "/".join(done)

    def inside(path: Any) -> bool:
        if kind(path) is number or path is None:
            return True
        full = real(path)
        return (full + "/").startswith(home) or full == "/dev/null"

    def check_open(path: Any, mode: Any, flags: Any) -> None:
        if ((flags or 0) & _WRITING or _WRITES.search(mode or "")) and not inside(path):
            refuse(f"write outside its folder: {decode(path)}")
        if not confined and kind(path) is not number and _PROCESSES.fullmatch(real(path)):
            refuse(f"look at a process: {decode(path)}")

    def check_start(event: str, program: Any = b"", *_: Any) -> None:
        if not confined:
            refuse(f"{event}: without namespaces a program gets no other process")
        if event in ("os.forkpty", "pty.spawn"):
            refuse(event)
        if event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
            name = decode(program or b"").rpartition("/")[2]
            if name not in _TOOLS and not name.startswith("python3"):
                refuse(f"start of the program {name!r}")

    def check_socket(event: str, *arguments: Any) -> None:
        if event == "socket.__new__" and arguments[1] in (_UNIX, -1):
            return
        if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
            address = arguments[1]
            if address is None or (kind(address) in (text, octets) and inside(address)):
                return
        if event != "socket.gethostname":
            refuse(event)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            check_open(*arguments)
        elif event in _STARTS:
            check_start(event, *arguments)
        elif event in _CHANGES:
            for path in arguments[: _CHANGES[event]]:
                if not inside(path):
                    refuse(f"{event} outside its folder: {decode(path)}")
        elif event == "sqlite3.connect":
            path = decode(arguments[0]).removeprefix("file:").partition("?")[0]
            if path not in (":memory:", "") and ("%" in path or not inside(path)):
                refuse(f"database outside its folder: {path}")
        elif event in ("os.kill", "os.killpg"):
            if arguments[0] <= 1 or not (confined or arguments[0] == own):
                refuse(event)
        elif event == "import" and not confined and arguments[0] == "_posixsubprocess":
            check_start(f"import of {arguments[0]}")
        elif event.startswith(_NETWORK):
            check_socket(event, *arguments)

    return hook


def _limit(limits: dict[str, float], confined: bool) -> None:
    seconds = int(limits["seconds"]) + 1
    memory, size = int(limits["memory_mb"]) << 20, int(limits["file_mb"]) << 20
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    threading.stack_size(2 << 20)  # the usual 8 MiB each would use the memory up
    if confined:  # elsewhere it would count every process of the user
        threads = int(limits["threads"])
        resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))


def _open_streams() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = os.fdopen(number, "w" if number else "r", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _new_module(place: str, source: str) -> dict[str, Any]:
    """Make the module whose namespace program and tests share, with its source in a file."""
    file = os.path.join(place, f"{MODULE}.py")
    with contextlib.suppress(UnicodeError), open(file, "w", encoding="utf-8") as stream:
        stream.write(source)
    module = types.ModuleType(MODULE)
    module.__file__ = file
    # Dataclasses and pickle look a class up in the module that it names, so there must be one.
    sys.modules[MODULE] = sys.modules["__main__"] = module
    sys.argv = [file]
    sys.path.insert(0, place)
    return module.__dict__


def _send(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _chain(
    job: dict[str, Any], space: dict[str, Any], pipe: int, key_pipe: int
) -> list[Callable[[], object]]:
    """Make the calls that run a job, the last but one of which sends the key.

    Everything that knows the key or the tests must be gone, but for the calls themselves, when
    the program begins.
    """
    key = os.urandom(KEY_SIZE)
    os.write(key_pipe, key)
    os.close(key_pipe)

    def run(part: str, file: str) -> Callable[[], object]:
        return partial(exec, compile(job[part], file, "exec", dont_inherit=True), space)

    calls: list[Callable[[], object]] = [
        run("source", space["__file__"]), run("tests", "<tests>"),
        partial(os.write, pipe, key), partial(os._exit, 0)]
    job.clear()
    return calls


def _describe(error: BaseException) -> tuple[str, str]:
    if isinstance(error, MemoryError):
        return "memory", "more memory than allowed"
    try:
        words = str(error)
    except BaseException:
        words = "no words"
    status = "failed" if isinstance(error, AssertionError) else "error"
    return status, f"{type(error).__name__}: {words}"[:DETAIL_LIMIT].replace("\0", "?")


def _child(job: dict[str, Any], place: str, pipe: int, key_pipe: int, confined: bool) -> NoReturn:
    os.setsid()
    work = os.path.join(place, "work")
    os.chdir(work)
    os.environ.update(HOME=work, TMPDIR=work)
    tempfile.tempdir = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    space = _new_module(place, job["source"])
    _open_streams()
    _limit(job["limits"], confined)
    if not confined:
        del sys.modules["_posixsubprocess"]  # so that its import is seen
        subprocess._fork_exec = None  # type: ignore[attr-defined]
    leave = os._exit
    # No variable may name the hooks.
    sys.addaudithook(_keep_folder(place, _refuser(pipe), confined))
    sys.addaudithook(_keep_secrets(pipe))
    try:
        deque(map(call, _chain(job, space, pipe, key_pipe)), 0)
        status, detail = "error", "StopIteration: "  # it ends such a chain early
    except BaseException as error:
        status, detail = _describe(error)
    _send(pipe, f"\0{status}\n{detail}\0".encode(errors="backslashreplace"))
    leave(0)


def _written(place: str) -> int:
    """Bytes on disk of all files below a folder."""
    total, folders = 0, [place]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                total += 512 * entry.stat(follow_symlinks=False).st_blocks
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return total


def _listen(
    child: int, pipe: int, key: bytes, deadline: float, full: Callable[[], bool] | None
) -> tuple[bytes, str]:
    """Collect what a child writes until it has passed, has ended, or may go on no longer.

    Gives it with ``""``, ``"late"``, ``"full"`` or ``"long"``. Who may fork can leave the pipe open
    behind himself; `full` is given where nobody may.
    """
    data = bytearray()
    process = os.pidfd_open(child) if full is None else pipe
    try:
        while True:
            left = deadline - time.monotonic()
            wait = max(0.0, left if full is None else min(left, TICK))
            ready, _, _ = select.select([pipe, process], [], [], wait)
            if full is not None and full():
                return bytes(data), "full"
            if not ready:
                if left <= wait:
                    return bytes(data), "late"
                continue
            block = os.read(pipe, 65536) if pipe in ready else b""
            data += block
            if not block or (key and data.endswith(key)):
                return bytes(data), ""
            if len(data) > REPLY_LIMIT:
                return bytes(data), "long"
    finally:
        if process != pipe:
            os.close(process)


def _end(child: int, confined: bool) -> int:
    """End a child with all that it left behind, and give its exit state."""
    state = 0
    if not confined:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1]
    while True:  # whoever lost its parent has become ours
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        try:
            ended, found = os.waitpid(-1, 0)
        except ChildProcessError:
            return state
        state = found if ended == child else state


def _reply(
    data: bytes, key: bytes, why: str, state: int, limits: dict[str, float]
) -> dict[str, Any]:
    """Judge by what a child wrote; nothing but the key makes a pass."""
    records = [record.decode(errors="replace").split("\n", 1) for record in _RECORD.findall(data)]
    first = {name: text for name, text in reversed(records)}
    if "refused" in first:
        status, detail = "refused", first["refused"]
    elif why == "late":
        status, detail = "timeout", f"longer than {limits['seconds']} s"
    elif why == "full":
        status, detail = "error", f"OSError: more than {limits['total_mb']:g} MiB written"
    elif why == "" and len(key) == KEY_SIZE and data.endswith(key):
        status, detail = "passed", ""
    elif why == "" and (known := [name for name in ("failed", "error", "memory") if name in first]):
        status, detail = known[0], first[known[0]]
    else:
        status, detail = "crashed", f"no reply, exit state {state}" if not why else "endless reply"
    return {"status": status, "detail": detail}


def _new_folder(folder: str, keeper: int | None) -> str:
    """Give a place without a trace of earlier jobs, with an empty folder ``work``."""
    if keeper is None:
        place = tempfile.mkdtemp(dir=folder)
    else:
        place = folder
        os.write(keeper, b".")
        if not os.read(keeper, 1):
            raise SystemExit("the folder's keeper is gone")
        os.mkdir(os.path.join(place, "shm"))
    os.mkdir(os.path.join(place, "work"))
    return place


def _remove(place: str) -> None:
    with contextlib.suppress(RecursionError):
        shutil.rmtree(place, ignore_errors=True)
    if os.path.lexists(place):  # too deep, or closed by the program
        order = 'chmod -R u+rwx "$0"; rm -rf "$0"'
        subprocess.run(["sh", "-c", order, place], stderr=subprocess.DEVNULL, check=False)


def _answer(job: dict[str, Any], folder: str, keeper: int | None) -> dict[str, Any]:
    """Fork, wait at most as long as allowed, and collect the reply."""
    limits, confined = job["limits"], keeper is not None
    place = _new_folder(folder, keeper)
    reading, writing = os.pipe()
    key_reading, key_writing = os.pipe()
    started, leave = time.monotonic(), os._exit
    child = os.fork()
    if child == 0:
        try:
            for descriptor in (reading, key_reading, *([keeper] if keeper is not None else [])):
                os.close(descriptor)
            _child(job, place, writing, key_writing, confined)
        finally:
            leave(1)
    os.close(writing)
    os.close(key_writing)
    key = os.read(key_reading, KEY_SIZE)
    os.close(key_reading)
    room = int(limits["total_mb"]) << 20
    full = None if confined else lambda: _written(place) > room
    data, why = _listen(child, reading, key, started + limits["seconds"], full)
    state = _end(child, confined)
    os.close(reading)
    if not confined:
        _remove(place)
    seconds = time.monotonic() - started
    return {**_reply(data, key, why, state, limits), "seconds": seconds}


def _answer_jobs() -> None:
    """Answer jobs until the input ends."""
    folder, keeper = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None
    if keeper is not None:
        if os.getpid() != 1:
            raise SystemExit("not the first process of a namespace")
        os.set_inheritable(keeper, False)
    sys.path += filter(None, os.environ.pop("LIBRARIES", "").split(os.pathsep))
    for prepare in (site.setquit, site.setcopyright, site.sethelper):
        prepare()
    for name in PRELOADED.split():
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a first process gets only what it handles
    gc.freeze()
    for job in map(json.loads, sys.stdin):
        # No variable keeps an answer: the next program could read it there.
        print(json.dumps(_answer(job, folder, keeper)), flush=True)


if __name__ == "__main__":
    _answer_jobs()
