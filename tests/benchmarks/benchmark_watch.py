"""How many lines a second `watch` takes, and whether memory grows with them.

    python tests/benchmarks/benchmark_watch.py [--lines 500000]

Sequences of five steps with their ends, alarms and drift test, in one process; reading JSON counts.
CPU seconds, so that a busy machine tells the same.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np

from monitorlab.commands.watch import watch
from monitorlab.online.drift import DriftReference
from monitorlab.online.learned import LearnedPrefix
from monitorlab.online.metrics import peaks
from monitorlab.online.policy import OnlineMonitor, Policy
from monitorlab.online.running import Ewma, LatestScore, Statistic
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


def main() -> None:
    """Print a line per statistic."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=500_000)
    lines = parser.parse_args().lines
    for statistic in (LatestScore(), Ewma(), LearnedPrefix()):
        monitor = OnlineMonitor(policy(statistic))
        began = time.process_time()
        for _ in stream(lines, 1):
            pass
        writing = time.process_time() - began  # making the lines is not the watch's work
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        watch(monitor, stream(lines, 1), len, print)
        seconds = time.process_time() - began - writing
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"watch, {statistic.name:12} {lines / seconds:10,.0f} steps/s of CPU, "
              f"{grown / 1024:.1f} MiB more, {monitor.alarms:,} alarms, {monitor.state}")


if __name__ == "__main__":
    main()
