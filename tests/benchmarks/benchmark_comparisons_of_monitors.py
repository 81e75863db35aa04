"""The comparison of many monitors, and the way of many verdicts from disk to rates.

Verdicts and scores are simulated, 2 % of them failed.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score
from table import Row, alone, ms, race

from monitorlab.evaluation.bootstrap import METRICS, Bootstrap
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors.store import VerdictStore
from monitorlab.monitors.verdicts import Verdict
from monitorlab.storage.tables import CELLS, VERDICTS


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
    return VERDICTS.check(pd.concat(tables)), samples


def resample(judged: pd.DataFrame, random: np.random.Generator) -> list[tuple[float, ...]]:
    """One resample of scenarios written down plainly: MR, FAR and AUROC of each monitor."""
    found = []
    for _, own in judged[judged["status"] == "parsed"].groupby("name"):
        places = list(own.groupby("scenario_id").indices.values())
        rows = np.concatenate([places[i] for i in random.integers(len(places), size=len(places))])
        label = own["label"].to_numpy()[rows]
        said = own["verdict"].to_numpy(bool)[rows]
        score = own["score"].to_numpy()[rows]
        found.append((float((~said[label == 1]).mean()), float(said[label == 0].mean()),
                      float(roc_auc_score(label, score))))
    return found


def measure(quick: bool) -> list[Row]:
    """Bootstrap per resample, verdicts from parquet to rates, and a store that is opened."""
    monitors, pairs, resamples, lines, rounds = (
        (3, 60, 20, 600, 1) if quick else (22, 1505, 5000, 200_000, 3))
    judged = join(*simulate(monitors, pairs))
    random, few = np.random.default_rng(0), min(resamples, 5)
    drawn = race({
        "ours": lambda: Bootstrap.of(
            judged, random, resamples=resamples, metrics=METRICS[:5]).intervals(),
        "naive": lambda: [resample(judged, random) for _ in range(few)],
    }, rounds)
    ours, naive = drawn["ours"] / resamples, drawn["naive"] / few
    each = lines // 50
    verdicts, samples = simulate(lines // each, each // 2)
    with tempfile.TemporaryDirectory() as folder:
        table, store = Path(folder) / "verdicts.parquet", Path(folder) / "store.jsonl"
        pq.write_table(pa.Table.from_pandas(verdicts, VERDICTS.arrow(), False), table)
        VerdictStore(store).put({f"{i:064x}": Verdict.from_score(i / lines) for i in range(lines)})

        def bare() -> pd.DataFrame:
            read = pd.read_parquet(table).merge(samples, on="sample_id")
            read["wrong"] = read["verdict"].astype("Float64") != read["label"]
            return read.groupby(["monitor", "cell", "label"])["wrong"].mean()

        loaded = race({
            "rates": lambda: rates(join(VERDICTS.check(pq.read_table(table).to_pandas()),
                                        samples), by=("name", "cell")),
            "bare": bare,
            "store": lambda: VerdictStore(store),
            "json": lambda: [json.loads(line) for line in store.open()],
        }, rounds)
    return [
        Row(f"one of {resamples:,} resamples of scenarios, {monitors} monitors, {2 * pairs:,} "
            "samples, 5 metrics", ms(ours), f"plain pandas and scikit-learn, 3 of them {ms(naive)}",
            naive / ours, 20, "sums over the distinct scores of each monitor"),
        Row(f"{len(verdicts):,} verdicts read, checked, joined, rated by cell",
            ms(loaded["rates"]), f"pandas without checks and intervals {ms(loaded['bare'])}",
            loaded["bare"] / loaded["rates"], 0.1, "1, reached without checks and intervals"),
        Row(f"store of {lines:,} verdicts opened", ms(loaded["store"]),
            f"`json.loads` of its lines {ms(loaded['json'])}", loaded["json"] / loaded["store"],
            0.15, "1: its lines are JSON"),
    ]


if __name__ == "__main__":
    alone(measure)
