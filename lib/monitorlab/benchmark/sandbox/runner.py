"""Run programs of the benchmark in a sandboxed subprocess, many of them quickly.

One *host* process per core is started in fresh Linux namespaces (`walls.py`): without a
network, without other processes, without privileges, with every file system read-only but one small
folder in memory. It forks a child for every program (`host.py`), which works in an empty
folder under limits of time, memory, files and processes; nothing of it is left when the next one
starts. An audit hook refuses sockets, foreign programs and writes elsewhere with a clear word, also
where namespaces are not to be had. There it is all there is, so programs may start no others.

The isolation that was really in force is recorded with every outcome, and `weakness` says in words
what it lacks. A program passes by proof only; `host.py` says how, and what no proof covers.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HOST = Path(__file__).with_name("host.py")
WALLS = Path(__file__).with_name("walls.py")
STATUSES = ("passed", "failed", "error", "timeout", "memory", "refused", "crashed")
START_TIMEOUT = 60.0
# What one program may use: wall-clock time, and processor time rounded up; address space,
# interpreter included; the largest file, and all its files together, in MiB; processes and threads
# at one time, two of which are the sandbox's own.
LIMITS: dict[str, float] = {"seconds": 5.0, "memory_mb": 1024, "file_mb": 8, "total_mb": 64,
                            "threads": 128}
UNCONFINED = "without namespaces"  # what the host says when it starts no other process


class SandboxError(RuntimeError):
    """The sandbox itself does not work on this machine."""


@dataclass(frozen=True)
class Job:
    """One program and what it must pass.

    Attributes
    ----------
    source : str
        The program.
    tests : str
        Assertions, run in its namespace.
    """

    source: str
    tests: str


@dataclass(frozen=True)
class _Outcome:
    """What became of one program.

    Attributes
    ----------
    status : str
        ``passed`` all tests, ``failed`` an assertion, ``error`` (another exception), ``timeout``,
        ``memory``, ``refused`` (touched what the sandbox forbids) or ``crashed``.
    detail : str
        Last line of the traceback, or what was refused.
    seconds : float
        Wall-clock time.
    isolation : str
        What was in force, such as ``"namespaces+limits+audit"``.
    """

    status: str
    detail: str
    seconds: float
    isolation: str

    @property
    def unchecked(self) -> bool:
        """Whether the program was refused only because this machine cannot confine it."""
        confined = self.isolation.startswith("namespaces")
        return self.status == "refused" and not confined and UNCONFINED in self.detail


_ADVICE = ". Check that Python may fork and that `unshare` works here."
# Looks at the walls from inside; the threads must not all be let through.
_PROBE = """
import os, subprocess, threading
assert os.getppid() == 1 and not os.path.exists("/proc/self")
assert subprocess.run(["sh", "-c", "true"]).returncode == 0
for path in ("/", "/tmp", "/dev", "/run"):
    assert subprocess.run(["touch", path + "/touched"], stderr=-3).returncode != 0
with open("large", "wb") as large:
    try:
        large.write(bytes(3 << 20))
        large.flush()
    except OSError as error:
        assert error.errno == 28
    else:
        raise AssertionError("no limit of bytes")
end = threading.Event()
for _ in range(24):
    try:
        threading.Thread(target=end.wait, daemon=True).start()
    except RuntimeError:
        break
else:
    raise AssertionError("no limit of processes")
"""
_PROBE_LIMITS = {"seconds": 20, "total_mb": 2, "threads": 16}


@lru_cache(maxsize=1)
def _missing() -> str:
    """Why programs cannot be confined here; empty if they can."""
    try:
        (outcome,) = _run_part([Job(_PROBE, "")], LIMITS | _PROBE_LIMITS, "namespaces")
    except SandboxError as error:
        return re.sub(r"^\w+: (\[.*?\] )?", "", str(error).removesuffix(_ADVICE).splitlines()[-1])
    return "" if outcome.status == "passed" else f"{outcome.status}: {outcome.detail}"


def isolation() -> str:
    """Strongest isolation that this machine offers.

    Returns
    -------
    str
        ``"namespaces+limits+audit"`` where Linux namespaces work and were seen to hold. Elsewhere
        ``"limits+audit"``, which stops accidents in Python, and no more.
    """
    return "limits+audit" if _missing() else "namespaces+limits+audit"


def weakness() -> str:
    """What the isolation of this machine lacks, in words.

    Returns
    -------
    str
        One sentence or more; empty where nothing is lacking.
    """
    if isolation().startswith("namespaces"):
        return ""
    return (
        f"Isolation is weak here: programs get no Linux namespaces ({_missing() or 'switched off'})"
        ", only limits and an audit hook, which stops accidents but not malice. Programs that "
        "start tools, shells or other processes are refused, and their labels stay unchecked. "
        "Namespaces need Linux 5.14 or later and, in a container, leave to call `unshare`."
    )


def run_jobs(jobs: Sequence[Job], processes: int | None = None, **limits: float) -> list[_Outcome]:
    """Run many programs, each in a child of its own.

    Parameters
    ----------
    jobs : sequence of Job
        Programs and tests.
    processes : int, optional
        How many at once; one per core by default.
    **limits
        What each may use, where that is not as `LIMITS` says.

    Returns
    -------
    list of _Outcome
        In the order of `jobs`.

    Raises
    ------
    SandboxError
        If the sandbox itself does not start.
    ValueError
        If there is no such limit: what is misspelt would not hold.
    """
    if unknown := sorted(limits.keys() - LIMITS.keys()):
        raise ValueError(f"there is no limit {unknown[0]!r}: expected some of {', '.join(LIMITS)}")
    limits = LIMITS | limits
    workers = max(1, min(processes or os.cpu_count() or 1, len(jobs)))
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda first: _run_part(jobs[first::workers], limits),
                              range(workers)))
    return [parts[place % workers][place // workers] for place in range(len(jobs))]


def _run_part(
    jobs: Sequence[Job], limits: Mapping[str, float], confinement: str | None = None
) -> list[_Outcome]:
    """Feed one host process line by line."""
    if not jobs:
        return []
    confinement = confinement or isolation()
    # What site-packages start by themselves could load C calls, which programs must not find.
    python = [sys.executable, "-I", "-S"]
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    with tempfile.TemporaryDirectory(prefix="sandbox-") as name:
        folder = os.path.realpath(name)
        if confinement.startswith("namespaces"):
            command = [*python, str(WALLS), str(limits["total_mb"]), *python, str(HOST)]
        else:
            command = [*python, str(HOST), folder]
        host = subprocess.Popen(
            command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=folder, env={
                "PATH": os.environ.get("PATH", ""), "LIBRARIES": os.pathsep.join(libraries),
                "MALLOC_ARENA_MAX": "1",  # else twenty threads reserve all memory
            },
        )  # fmt: skip
        try:
            return list(_converse(host, jobs, limits, confinement))
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
    host: subprocess.Popen[str], jobs: Sequence[Job], limits: Mapping[str, float], confinement: str
) -> Iterator[_Outcome]:
    assert host.stdin is not None
    assert host.stdout is not None
    assert host.stderr is not None
    for job in jobs:
        order = {"source": job.source, "tests": job.tests, "limits": limits}
        try:
            host.stdin.write(json.dumps(order) + "\n")
            host.stdin.flush()
        except BrokenPipeError:
            pass
        line = host.stdout.readline()
        if not line:
            raise SandboxError(
                f"the sandbox host ended: {host.stderr.read().strip()[-300:] or 'no message'}"
                + _ADVICE
            )
        reply = json.loads(line)
        yield _Outcome(reply["status"], reply["detail"], reply["seconds"], confinement)
