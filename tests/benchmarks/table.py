"""One table of speeds: what a row holds, how two ways are timed, and how a table is written.

Every speed is a ratio of two times taken in one process, by turns, the smallest of each, so that a
busy machine tells nearly the same. With one thread (``OMP_NUM_THREADS=1``) a time is CPU time, with
several it is wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

THREADS = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
clock = time.process_time if THREADS == 1 else time.perf_counter


@dataclass(frozen=True)
class Row:
    """One claim about speed.

    Attributes
    ----------
    claim : str
        What was done, with its size.
    ours, other : str
        Time of the library; the peer or the naive form, with its time.
    ratio : float
        How many times faster the library is; a share where `other` is what it adds to.
    required : float
        Least ratio that is accepted.
    limit : str
        What bounds the ratio, and what else was measured on the way.
    """

    claim: str
    ours: str
    other: str
    ratio: float
    required: float
    limit: str


def race(
    ways: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float] = clock
) -> dict[str, float]:
    """Smallest time of each way in seconds; they take turns, `rounds` times."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, work in ways.items():
            began = clock()
            work()
            best[name] = min(best[name], clock() - began)
    return best


def ms(seconds: float) -> str:
    """Seconds as text, in milliseconds below a second."""
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def missed(rows: Sequence[Row]) -> list[Row]:
    """Those that do not reach what is required; a NaN does not."""
    return [row for row in rows if not row.ratio >= row.required]


def markdown(rows: Sequence[Row]) -> str:
    """The table."""
    lines = ["| what | here | other form | ratio | required | what bounds it |",
             "|---|---|---|---|---|---|"]
    lines += [f"| {row.claim} | {row.ours} | {row.other} | **{row.ratio:.3g}** | {row.required:g} "
              f"| {row.limit} |" for row in rows]
    return "\n".join(lines)


def alone(measure: Callable[[bool], list[Row]]) -> None:
    """Run one script: print its rows, or write them to a file for the whole table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing required")
    parser.add_argument("--out", type=Path, help="JSON file instead of a printed table")
    asked = parser.parse_args()
    rows = measure(asked.quick)
    if asked.out:
        asked.out.write_text(json.dumps([asdict(row) for row in rows]))
    else:
        print(markdown(rows))
        raise SystemExit(bool(missed(rows)) and not asked.quick)
