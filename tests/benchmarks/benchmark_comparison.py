"""Time the whole online comparison, and the published e-valuator package on the same work.

    python tests/benchmarks/benchmark_comparison.py [--rows 400]

Ours: 4 methods x 6 levels x 10 splits on 5,000 published trajectories, prefixes, fits and alarms
included. The package: the same preparation, fit and apply for its two methods on one split of a
subsample, because its prefix step is quadratic in the rows; its time per trajectory at that size is
a lower bound for any larger one. Both in this process, alternating, medians over three rounds.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from evaluator import EValuator
from evaluator import utils as package

from monitorlab.online.comparison import PAPER_METHODS, Method, compare_methods, random_splits
from monitorlab.online.score_files import load_evaluator
from monitorlab.online.trajectories import Trajectories, to_frame
from monitorlab.storage.sources import fetch

ROUNDS = 3


def seconds(work: Callable[[], object]) -> float:
    """Run once and return the wall time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_package(frame: pd.DataFrame, split: tuple[np.ndarray, np.ndarray]) -> None:
    """Prepare, fit and apply both published variants on one split."""
    ids = frame["uq_problem_idx"].unique()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ready = package.add_judge_probability_series(frame)
        parts = [ready[ready["uq_problem_idx"].isin(ids[index])].reset_index(drop=True)
                 for index in split]
        for variant in ("Ville", "PAC"):
            model = EValuator(mt_variant=variant, alphas=[0.05, 0.1, 0.2, 0.3, 0.4, 0.5])
            model.fit(parts[0])
            model.apply(parts[1])


def package_frame(data: Trajectories) -> pd.DataFrame:
    """Back to the package's columns and orientation."""
    frame = to_frame(data)
    return pd.DataFrame(
        {
            "uq_problem_idx": frame["trajectory_id"],
            "num_steps": frame["step"],
            "judge_probability": -frame["score"],
            "solved": 1 - frame["label"],
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400, help="trajectories for the package")
    size = parser.parse_args().rows
    package.tqdm = lambda iterable, **_: iterable  # its progress bar would be timed as well
    data = load_evaluator(fetch("evaluator/math.csv.gz"), "evaluator_math")
    sample = data.take(np.random.default_rng(0).choice(len(data), size, replace=False))
    split = next(random_splits(size, 1, 0.5, seed=0))
    frame = package_frame(sample)
    sequential: tuple[Method, ...] = PAPER_METHODS[2:]
    times: dict[str, list[float]] = {"all": [], "package": [], "same": []}
    for _ in range(ROUNDS):
        splits = list(random_splits(len(data), 10, 0.2, seed=0))
        times["all"].append(seconds(lambda s=splits: compare_methods(data, PAPER_METHODS, s)))
        times["package"].append(seconds(lambda: run_package(frame, split)))
        times["same"].append(seconds(lambda: compare_methods(sample, sequential, [split])))
    whole, theirs, ours = (float(np.median(times[key])) for key in ("all", "package", "same"))
    print(f"4 methods x 6 levels x 10 splits, {len(data)} trajectories: {whole:.2f} s")
    print(f"2 sequential tests x 6 levels x 1 split, {size} trajectories (subsample):")
    print(f"  published package {theirs:.2f} s, here {ours:.3f} s, ratio {theirs / ours:.0f}")


if __name__ == "__main__":
    main()
