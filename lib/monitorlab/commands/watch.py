"""`python -m monitorlab watch`: lines with scores in, alarms out, by a policy.

A line is a JSON object: ``{"id": "a1", "score": 0.3}``, optionally with ``step`` and ``group``.
``"end": true`` ends a sequence, with its last score or alone. Numpy is all this needs.
"""

from __future__ import annotations

import functools
import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from typer import echo

from monitorlab.commands import CommandError
from monitorlab.online.drift import DriftTest
from monitorlab.online.policy import OnlineMonitor, Policy, PolicyError
from monitorlab.storage.files import DamagedFileError, read_sealed, sealed_json, write_text_atomic

SHOWN = 80  # characters of a bad line that a complaint repeats
KEPT_EVERY = 100  # finished sequences after which the evidence of drift is written down
_decode = json.JSONDecoder().raw_decode  # json.loads looks for white space around, line by line


def watch_stdin(policy: Path, *, mark: bool = False, evidence: Path | None = None) -> None:
    """Watch what comes in by a policy, and print its alarms.

    Parameters
    ----------
    policy : Path
        policy.json, as `calibrate` writes it.
    mark : bool
        Write into POLICY and its page when the guarantee becomes void.
    evidence : Path, optional
        File that keeps the evidence of drift over restarts.
    """
    rule = Policy.load(policy.expanduser())
    file = evidence.expanduser() if evidence else None
    monitor = OnlineMonitor(rule, _read_evidence(file, rule) if file else None)
    complain = functools.partial(echo, err=True)
    for warning in monitor.policy.warnings():
        complain(f"warning: {warning}")
    lines = io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")
    bad = watch(monitor, lines, functools.partial(print, flush=True), complain,
                functools.partial(_mark, policy.expanduser()) if mark else lambda now: None,
                functools.partial(_write_evidence, file) if file else lambda now: None)
    if bad:
        raise CommandError(f"{bad} of the lines could not be used")


def _mark(path: Path, policy: Policy) -> None:
    """Write a policy that has become void, and its page where there is one."""
    try:
        policy.save(path)
        if (path.parent / "page.html").exists():
            from monitorlab.commands.calibrate import Calibrated

            Calibrated.load(path.parent).write_page(path.parent)
    except (OSError, ValueError, LookupError) as error:  # the watch goes on
        echo(f"the policy or its page could not be marked: {error}", err=True)


def watch(monitor: OnlineMonitor, lines: Iterable[str], say: Callable[[str], object],
          complain: Callable[[str], object],
          changed: Callable[[Policy], object] = lambda policy: None,
          keep: Callable[[OnlineMonitor], object] = lambda monitor: None) -> int:
    """Pass every line to the monitor, and say its alarms as they come.

    Parameters
    ----------
    monitor : OnlineMonitor
        Of a policy.
    lines : iterable of str
        One JSON object each; empty ones are skipped.
    say : callable
        Takes JSON objects as text: every alarm once, the state of the guarantee when it changes,
        and the status at the end, whatever ended it.
    complain : callable
        Takes a sentence with the line's number for each line that cannot be used.
    changed : callable
        Takes the policy whose guarantee has become void, at that moment.
    keep : callable
        Takes the monitor, every `KEPT_EVERY` finished sequences and at the end.

    Returns
    -------
    int
        Lines that could not be used. Where such a line names a sequence, that sequence alarms.
    """
    bad, policy, kept = 0, monitor.policy, monitor.finished
    try:
        for number, line in enumerate(lines, 1):
            try:
                _take(monitor, line, say)
            except (ValueError, RecursionError) as error:
                bad += 1
                complain(f"line {number}: {error} (found {line.strip()[:SHOWN]!r})")
            if monitor.policy is not policy:
                policy = monitor.policy
                say(json.dumps(monitor.status()))
                changed(policy)
            if monitor.finished - kept >= KEPT_EVERY:
                kept = monitor.finished
                keep(monitor)
    finally:
        keep(monitor)
        say(json.dumps(monitor.status() | {"bad_lines": bad}))
    return bad


def _write_evidence(path: Path, monitor: OnlineMonitor) -> None:
    """Write the evidence of drift down, sealed, whole or not at all."""
    if monitor.drift is not None:
        write_text_atomic(path, sealed_json(monitor.drift.to_dict()))


def _read_evidence(path: Path, policy: Policy) -> DriftTest | None:
    """Return the test that goes on where an earlier watch stopped; None if there was none.

    Raises
    ------
    PolicyError
        The policy has no reference for drift, or the file is damaged or of another policy.
    """
    if policy.drift is None:
        raise PolicyError("the policy has no reference for drift, so there is no evidence to keep.")
    if not path.exists():
        return None
    try:
        return DriftTest.from_dict(read_sealed(path), policy.drift)
    except (DamagedFileError, ValueError) as error:
        raise PolicyError(f"{path} holds no evidence to go on from: {error}. Give another file, or "
                          "remove it to begin anew.") from None


def _take(monitor: OnlineMonitor, line: str, say: Callable[[str], object]) -> None:
    """Pass one line on; a ValueError says what is wrong with it."""
    line = line.strip()
    if not line:
        return
    row, end = _decode(line)
    if type(row) is not dict or end != len(line):
        raise ValueError("expected one JSON object")
    sequence_id, ends = _name(row, "id"), row.get("end", False)
    if ends is not True and ends is not False:
        raise ValueError('"end" is neither true nor false')
    if "score" in row or not ends:
        alarms, errors = monitor.alarms, monitor.errors
        group = _name(row, "group") if "group" in row else ""
        score: Any = row.get("score")  # None is no score, and the monitor says so
        alarm = monitor.update(sequence_id, score, step=row.get("step"), group=group)
        if alarm is not None and monitor.alarms > alarms:
            facts = alarm.to_dict()
            say(json.dumps({"alarm": facts.pop("sequence_id"), **facts}))
            if monitor.errors > errors:
                raise ValueError(alarm.reason)
    if ends:
        monitor.end(sequence_id)


def _name(row: dict[str, Any], key: str) -> str:
    """Return an identifier as text; a number names the same sequence as its digits."""
    name = row.get(key)
    if type(name) is int:
        return str(name)
    if type(name) is not str:
        raise ValueError(f'"{key}" is {json.dumps(name)[:SHOWN]}, expected text')
    return name
