"""Run programs of the benchmark in a sandboxed subprocess, many of them quickly.

One *host* process per core is started in fresh Linux namespaces: without a network, and with every
file system read-only but one temporary folder. It forks a child for every program. Each child
works in an empty folder of its own under limits of time, memory and file size, and an audit hook
refuses sockets, foreign programs and writes elsewhere, also where namespaces are not to be had. The
isolation that was really in force is recorded with every outcome. The programs come from this
project and from public model outputs; this is a guard against accidents, not a jail for attackers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

HOST = Path(__file__).with_name("sandbox_host.py")
STATUSES = ("passed", "failed", "error", "timeout", "memory", "refused", "crashed")
START_TIMEOUT = 60.0


class SandboxError(RuntimeError):
    """The sandbox itself does not work on this machine."""


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes
    ----------
    seconds : float
        Wall-clock time, and processor time rounded up.
    memory_mb : int
        Address space in MiB, interpreter included.
    file_mb : int
        Largest file it may write, in MiB.
    """

    seconds: float = 5.0
    memory_mb: int = 1024
    file_mb: int = 8


@dataclass(frozen=True)
class Job:
    """One program and what it must pass.

    Attributes
    ----------
    source : str
        The program.
    tests : str
        Assertions, run in its namespace.
    setup, hidden_setup : str
        Code before the program, and code between the tests and the hidden tests.
    hidden : tuple of (str, object)
        Expressions and the JSON values they must have. Their values are compared by the caller's
        process, so a program cannot pass them by changing what equality means.
    """

    source: str
    tests: str
    setup: str = ""
    hidden_setup: str = ""
    hidden: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one program.

    Attributes
    ----------
    status : str
        ``passed`` all tests, ``failed`` an assertion, ``error`` (another exception), ``timeout``,
        ``memory``, ``refused`` (touched what the sandbox forbids) or ``crashed``.
    detail : str
        Last line of the traceback, or what was refused.
    hidden_passed : bool or None
        Whether every hidden test gave its value; None where there are none or the tests failed.
    seconds : float
        Wall-clock time.
    isolation : str
        What was in force, such as ``"namespaces+limits+audit"``.
    """

    status: str
    detail: str
    hidden_passed: bool | None
    seconds: float
    isolation: str


_NAMESPACES = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--ipc",
    "--mount",
    "--propagation",
    "private",
]
# Makes every mount read-only but the folder given first, then becomes the command that follows.
_READ_ONLY = """
set -e
mount --bind "$1" "$1"
cut -d' ' -f2 /proc/self/mounts | sort -u | while read -r mounted; do
    [ "$mounted" = "$1" ] || mount -o remount,bind,ro "$mounted"
done
cd "$1"
shift
exec "$@"
"""


@lru_cache(maxsize=1)
def isolation() -> str:
    """Strongest isolation that this machine offers.

    Returns
    -------
    str
        ``"namespaces+limits+audit"`` where unprivileged Linux namespaces work: no network at all,
        and nothing to write to but the sandbox's folder. Elsewhere ``"limits+audit"``, which stops
        accidents in Python and in the arguments of tools, and no more.
    """
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder:
        command = _inside(os.path.realpath(folder), [sys.executable, "-I", "-c", "pass"])
        try:
            done = subprocess.run(command, capture_output=True, timeout=START_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired):
            return "limits+audit"
    return "namespaces+limits+audit" if done.returncode == 0 else "limits+audit"


def _inside(folder: str, command: list[str]) -> list[str]:
    return [*_NAMESPACES, "sh", "-c", _READ_ONLY, "sh", folder, *command]


def _host_command(folder: str) -> list[str]:
    command = [sys.executable, "-I", str(HOST)]
    return _inside(folder, command) if isolation().startswith("namespaces") else command


def run_program(source: str, tests: str, limits: Limits | None = None) -> Outcome:
    """Run one program and its tests.

    Parameters
    ----------
    source : str
        The program.
    tests : str
        Assertions, run in its namespace.
    limits : Limits, optional
        What it may use.

    Returns
    -------
    Outcome
        What became of it.

    Raises
    ------
    SandboxError
        If the sandbox itself does not start.
    """
    return run_jobs([Job(source, tests)], limits, processes=1)[0]


def run_jobs(
    jobs: Sequence[Job], limits: Limits | None = None, processes: int | None = None
) -> list[Outcome]:
    """Run many programs, each in a child of its own.

    Parameters
    ----------
    jobs : sequence of Job
        Programs and tests.
    limits : Limits, optional
        What each may use.
    processes : int, optional
        How many at once; one per core by default.

    Returns
    -------
    list of Outcome
        In the order of `jobs`.

    Raises
    ------
    SandboxError
        If the sandbox itself does not start.
    """
    limits = limits or Limits()
    workers = max(1, min(processes or os.cpu_count() or 1, len(jobs)))
    parts = [list(range(len(jobs)))[i::workers] for i in range(workers)]
    outcomes: list[Outcome | None] = [None] * len(jobs)
    with ThreadPoolExecutor(workers) as pool:
        for part, found in zip(
            parts, pool.map(lambda p: _run_part([jobs[i] for i in p], limits), parts), strict=True
        ):
            for place, outcome in zip(part, found, strict=True):
                outcomes[place] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _run_part(jobs: Sequence[Job], limits: Limits) -> list[Outcome]:
    """Feed one host process line by line."""
    if not jobs:
        return []
    with tempfile.TemporaryDirectory(prefix="sandbox-") as name:
        folder = os.path.realpath(name)
        host = subprocess.Popen(
            _host_command(folder),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=folder, env={"PATH": os.environ.get("PATH", ""), "HOME": folder, "TMPDIR": folder},
        )  # fmt: skip
        try:
            return list(_converse(host, jobs, limits, folder))
        finally:
            with contextlib.suppress(BrokenPipeError):
                if host.stdin:
                    host.stdin.close()
            try:
                host.wait(timeout=START_TIMEOUT)
            except subprocess.TimeoutExpired:
                host.kill()
            for stream in (host.stdout, host.stderr):
                if stream:
                    stream.close()


def _converse(
    host: subprocess.Popen[str], jobs: Sequence[Job], limits: Limits, folder: str
) -> Iterator[Outcome]:
    assert host.stdin is not None
    assert host.stdout is not None
    assert host.stderr is not None
    for job in jobs:
        order = {
            "setup": job.setup, "source": job.source, "tests": job.tests,
            "hidden_setup": job.hidden_setup, "hidden": [text for text, _ in job.hidden],
            "limits": asdict(limits), "folder": folder,
            "confined": isolation().startswith("namespaces"),
        }  # fmt: skip
        try:
            host.stdin.write(json.dumps(order) + "\n")
            host.stdin.flush()
        except BrokenPipeError:
            pass
        line = host.stdout.readline()
        if not line:
            raise SandboxError(
                f"the sandbox host ended: {host.stderr.read().strip()[-300:] or 'no message'}. "
                "Check that Python may fork and that `unshare` works here."
            )
        reply = json.loads(line)
        passed = None
        if job.hidden and reply["status"] == "passed":
            wanted = [json.loads(json.dumps(value)) for _, value in job.hidden]
            passed = reply["hidden"] == wanted
        yield Outcome(reply["status"], reply["detail"], passed, reply["seconds"], isolation())
