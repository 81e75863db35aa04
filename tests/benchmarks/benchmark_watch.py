"""How many lines a second `watch` takes, and whether memory grows with them.

Sequences of five steps with their ends, alarms and drift test; making the lines is not timed.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator

import numpy as np
from table import Row, alone, race

from monitorlab.commands.watch import watch
from monitorlab.online.drift import DriftReference
from monitorlab.online.metrics import peaks
from monitorlab.online.policy import OnlineMonitor, Policy
from monitorlab.online.running import Ewma, LatestScore, LearnedPrefix, Statistic
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import calibrate

STEPS = 5


def stream(lines: int, seed: int) -> Iterator[str]:
    """Lines of sequences that end after `STEPS` scores."""
    scores = np.random.default_rng(seed).random(100_000).tolist()
    for i in range(lines):
        end = ', "end": true' if i % STEPS == STEPS - 1 else ""
        yield f'{{"id": "s{i // STEPS}", "score": {scores[i % len(scores)]}{end}}}\n'


def policy(statistic: Statistic) -> Policy:
    """Fit and calibrate on noise, with a reference for the drift test."""
    rng = np.random.default_rng(0)
    n = 3000
    data = Trajectories("noise", "score", np.arange(n).astype(str).astype(object),
                        rng.random(n * STEPS), np.ones(n * STEPS), np.full(n, STEPS),
                        rng.integers(0, 2, n).astype(np.int8))
    fitted = statistic.fit(data.take(np.arange(1000)))
    found = peaks(data.transformed(fitted))
    rule = calibrate(found[1000:2000], 0.05)
    return Policy(rule, fitted, drift=DriftReference.of(found[1000:2000], found[2000:], rule.value))


def measure(quick: bool) -> list[Row]:
    """A row per statistic, against parsing the lines alone."""
    lines, rows = (1_000 if quick else 100_000), []
    for statistic in (LatestScore(), Ewma(), LearnedPrefix()):
        fitted, texts = policy(statistic), list(stream(lines, 1))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = race({
            "ours": lambda fitted=fitted, texts=texts: watch(
                OnlineMonitor(fitted), texts, len, str),
            "json": lambda texts=texts: [json.loads(text)["id"] for text in texts],
        }, 1 if quick else 3)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        rows.append(Row(
            f"`watch`, {statistic.name}, {lines:,} steps",
            f"{lines / found['ours']:,.0f} steps/s",
            f"`json.loads` of the same lines {lines / found['json']:,.0f}/s",
            found["json"] / found["ours"], 0.15,
            f"1: every line is parsed; {grown:.0f} MiB more after all of them"))
    return rows


if __name__ == "__main__":
    alone(measure)
