"""The whole online comparison, against the published e-valuator package on the same scores.

The package's prefix step is quadratic in the rows, so it gets a subsample, and its time per
trajectory at that size is a lower bound for any larger one.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from evaluator import EValuator
from evaluator import utils as package
from table import Row, alone, ms, race

from monitorlab.online.comparison import PAPER_METHODS, compare_methods, random_splits
from monitorlab.online.score_files import load_evaluator
from monitorlab.online.trajectories import Trajectories
from monitorlab.storage.sources import fetch


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
    frame = data.to_frame()
    return pd.DataFrame(
        {
            "uq_problem_idx": frame["trajectory_id"],
            "num_steps": frame["step"],
            "judge_probability": -frame["score"],
            "solved": 1 - frame["label"],
        }
    )


def noise(count: int, steps: int = 2) -> Trajectories:
    """Short trajectories without a signal, each second unsafe."""
    ids = np.arange(count)
    return Trajectories("noise", "score", ids.astype(str).astype(object),
                        np.random.default_rng(0).random(count * steps), np.ones(count * steps),
                        np.full(count, steps), (ids % 2).astype(np.int8))


def measure(quick: bool) -> list[Row]:
    """Sequential tests on the subsample, and the whole protocol."""
    size, splits, rounds = (100, 1, 1) if quick else (400, 10, 3)
    package.tqdm = lambda iterable, **_: iterable  # its progress bar would be timed as well
    random = np.random.default_rng(0)
    data = noise(200) if quick else load_evaluator(fetch("evaluator/math.csv.gz"), "evaluator_math")
    sample = data.take(random.choice(len(data), size, replace=False))
    split, frame = next(random_splits(size, 1, 0.5, seed=0)), package_frame(sample)
    whole = list(random_splits(len(data), splits, 0.2, seed=0))
    found = race({
        "all": lambda: compare_methods(data, PAPER_METHODS, whole),
        "same": lambda: compare_methods(sample, PAPER_METHODS[2:], [split]),
        "package": lambda: run_package(frame, split),
    }, rounds)
    work = len(data) * splits * len(PAPER_METHODS)
    share = found["package"] * work / (size * 2)
    return [
        Row(f"two sequential tests, 6 levels, 1 split of {size} trajectories", ms(found["same"]),
            f"`e-valuator` {ms(found['package'])}", found["package"] / found["same"], 20,
            "no bound: the package prepares in a time quadratic in the rows"),
        Row(f"4 methods, 6 levels, {splits} splits of {len(data):,} trajectories",
            ms(found["all"]), f"`e-valuator` at its speed per trajectory above, {ms(share)}",
            share / found["all"], 100, "a lower bound, for the same reason"),
    ]


if __name__ == "__main__":
    alone(measure)
