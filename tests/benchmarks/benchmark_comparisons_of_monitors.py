"""Time the comparison of many monitors, and the way of many verdicts from disk to rates.

    python tests/benchmarks/benchmark_comparisons_of_monitors.py [--monitors 22] [--pairs 1505]

Simulated verdicts and scores, 2 % of them failed; what is timed is all paired tests and the
bootstrap of scenarios: MR, FAR, balanced accuracy, g-mean squared and AUROC, alone and for all
pairs of monitors on the samples that both answered; then 200,000 verdicts through the store, and
through parquet, schema, join and rates. Set OMP_NUM_THREADS=1 for one core. Medians over three
rounds.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from monitorlab.evaluation.bootstrap import METRICS, bootstrap, differences, intervals, paired
from monitorlab.evaluation.comparisons import compare
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import from_score
from monitorlab.storage.tables import CELLS, VERDICTS, check_frame

ROUNDS = 3


def seconds(work: Callable[[], Any]) -> float:
    """Median wall time over `ROUNDS` runs."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def simulate(monitors: int, pairs: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Verdicts (schema ``verdicts``, 2 % failed) and the samples they are about."""
    random = np.random.default_rng(0)
    number = np.arange(2 * pairs)
    label = 1 - number % 2
    samples = pd.DataFrame({
        "sample_id": [f"{i:06d}" for i in number], "pair_id": [f"{i // 2:06d}" for i in number],
        "scenario_id": [f"{i // 20:06d}" for i in number], "label": label, "split": "test",
        "cell": [CELLS[i // 2 % 6] for i in number], "category": "sg", "task": "qa",
        "misbehavior_type": "simulated",
    })  # fmt: skip
    tables = []
    for monitor in range(monitors):
        score = 1 / (1 + np.exp(-random.normal(label * 2.0 - 1.0 + 0.02 * monitor)))
        parsed = random.random(len(number)) > 0.02
        tables.append(pd.DataFrame({
            "sample_id": samples["sample_id"], "monitor": f"m{monitor:02d}", "prompt": "direct",
            "draw": 0, "status": np.where(parsed, "parsed", "refused"),
            "verdict": pd.Series(score > 0.5, dtype="boolean").where(parsed),
            "score": np.where(parsed, score, np.nan), "evidence": None, "input_tokens": 900,
            "output_tokens": 12, "seconds": 0.4, "cost_usd": 0.0001, "request_hash": "0" * 64,
        }))  # fmt: skip
    return check_frame(pd.concat(tables), VERDICTS), samples


def time_comparisons(monitors: int, pairs: int, resamples: int) -> None:
    """Print the time of all tests and of the bootstrap."""
    judged = join(*simulate(monitors, pairs))

    def everything(metrics: tuple[str, ...]) -> None:
        compare(judged)
        how = {"resamples": resamples, "metrics": metrics}
        intervals(bootstrap(judged, np.random.default_rng(0), **how))
        differences(paired(judged, np.random.default_rng(0), **how))

    print(f"{monitors} monitors, {2 * pairs:,} samples, {resamples:,} resamples")
    print(f"  paired tests             {seconds(lambda: compare(judged)):.2f} s")
    print(f"  and bootstrap, 5 metrics {seconds(lambda: everything(METRICS[:5])):.2f} s")
    print(f"  and bootstrap, 9 metrics {seconds(lambda: everything(METRICS)):.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"  peak memory of the process {peak:.0f} MiB")


def time_loading(rows: int) -> None:
    """Print the time from files to rates."""
    per_monitor = 4000
    verdicts, samples = simulate(rows // per_monitor, per_monitor // 2)
    with tempfile.TemporaryDirectory() as folder:
        table, lines = Path(folder) / "verdicts.parquet", Path(folder) / "store.jsonl"
        pq.write_table(pa.Table.from_pandas(verdicts, VERDICTS.arrow(), False), table)
        VerdictStore(lines).put({f"{i:064x}": from_score(i / rows) for i in range(rows)})

        def load() -> None:
            read = check_frame(pq.read_table(table).to_pandas(), VERDICTS)
            rates(join(read, samples), by=("name", "cell"))

        print(f"{len(verdicts):,} verdicts")
        print(f"  parquet, check, join, rates by cell {seconds(load):.2f} s")
        print(f"  store of as many lines, opened      {seconds(lambda: VerdictStore(lines)):.2f} s")


def main() -> None:
    """Time both, and print one line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--monitors", type=int, default=22)
    parser.add_argument("--pairs", type=int, default=1505)
    parser.add_argument("--resamples", type=int, default=5000)
    parser.add_argument("--verdicts", type=int, default=200_000)
    chosen = parser.parse_args()
    time_comparisons(chosen.monitors, chosen.pairs, chosen.resamples)
    time_loading(chosen.verdicts)


if __name__ == "__main__":
    main()
