"""Data sets of the comparison: readable names, an overview, splits, a few telling sequences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.online.calibration import Threshold
from monitorlab.online.metrics import peaks
from monitorlab.online.trajectories import UNKNOWN, Trajectories, from_steps

# (positions of the calibration sequences, positions of the test sequences)
Split = tuple[NDArray[np.int64], NDArray[np.int64]]

# Signals that cost next to nothing; the others need a model of their own.
FREE_SIGNALS = ("min_logprob", "mean_logprob", "words")

# What notebook 06 made, by its own names.
STAND_INS = {
    "miniature_math_strong": "miniature math, strong generator",
    "miniature_math_weak": "miniature math, weak generator",
    "miniature_conversations": "miniature conversations",
}


def stand_ins(steps: pd.DataFrame) -> dict[tuple[str, str], Trajectories]:
    """Take the step scores of the previous notebook, all by small stand-in models.

    Parameters
    ----------
    steps : DataFrame
        The table ``steps``.

    Returns
    -------
    dict
        Keyed by (dataset, signal), with readable titles.
    """
    return {
        key: replace(data, title=STAND_INS.get(data.dataset, ""), stand_in=True)
        for key, data in from_steps(steps).items()
    }


def add(
    scored: dict[tuple[str, str], Trajectories], data: Iterable[Trajectories]
) -> list[Trajectories]:
    """Add data sets to those that are there; one whose name is taken gets another.

    Parameters
    ----------
    scored : dict
        Keyed by (dataset, signal); changed in place.
    data : iterable of Trajectories
        New ones, of any name.

    Returns
    -------
    list of Trajectories
        As they were added.
    """
    taken = {dataset for dataset, _ in scored}
    added = []
    for one in data:
        while one.dataset in taken:
            title = one.title and f"{one.title} (own file)"
            one = replace(one, dataset=f"{one.dataset} (own file)", title=title)
        scored[one.dataset, one.signal] = one
        added.append(one)
    return added


def is_ablation(data: Trajectories) -> bool:
    """Whether this is one of the free signals beside the stand-in verifier and guard."""
    return data.stand_in and data.signal in FREE_SIGNALS


def sizes(data: Trajectories) -> str:
    """Return the readable name with the number of sequences of each class."""
    unknown = data.count(UNKNOWN)
    rest = f", {unknown} unknown" if unknown else ""
    return f"{data.name} ({data.count(0)} safe, {data.count(1)} unsafe{rest})"


def figure_title(text: str, data: Trajectories) -> str:
    """Return a figure's title, which says so if its scores come from a small stand-in model."""
    return f"{text} (small stand-in)" if data.stand_in else text


def overview(data: Iterable[Trajectories]) -> pd.DataFrame:
    """One row per data set and signal: sizes, share unsafe, lengths, how coarse the score is."""
    return pd.DataFrame(
        {
            "data set": one.name,
            "signal": one.signal.replace("_", " ") if one.stand_in else one.signal,
            "sequences": len(one),
            "unsafe": one.count(1) / (len(one) - one.count(UNKNOWN) or np.nan),
            "steps": float(np.mean(one.lengths)),
            "distinct scores": len(np.unique(one.flat_scores)),
        }
        for one in data
    )


def telling_examples(data: Trajectories, threshold: Threshold, per_class: int = 2) -> list[int]:
    """Positions of a few sequences to draw: of each class, with and without an alarm.

    Parameters
    ----------
    data : Trajectories
        Sequences to choose from.
    threshold : Threshold
        Rule on the latest score.
    per_class : int
        At most this many safe and as many unsafe ones, alarming and silent in turn.

    Returns
    -------
    list of int
        Safe sequences first; longer ones are preferred, ties by position.
    """
    alarmed = threshold.alarms(peaks(data))
    positions: list[int] = []
    for label, wanted in ((0, (False, True)), (1, (True, False))):
        for alarm in wanted[:per_class]:
            group = np.flatnonzero((data.labels == label) & (alarmed == alarm))
            if len(group):
                positions.append(int(group[np.argmax(data.lengths[group])]))
    return positions


def rounded(data: Trajectories, step: float) -> Trajectories:
    """Return the same sequences with scores rounded to multiples of ``step``."""
    name = f"{data.name}, rounded"
    return replace(
        data, dataset=name, title=name, flat_scores=np.round(data.flat_scores / step) * step
    )


def random_splits(
    n: int, n_splits: int, calibration_fraction: float, seed: int | np.random.SeedSequence
) -> Iterator[Split]:
    """Yield (calibration, test) positions, each split from a generator of its own.

    Parameters
    ----------
    n : int
        Sequences to split.
    n_splits : int
        Number of splits.
    calibration_fraction : float
        Share of sequences that calibrates, in (0, 1); rounded to whole sequences.
    seed : int or SeedSequence
        Root of the spawned generators: split i is the same however many are asked for.
    """
    if not 0.0 < calibration_fraction < 1.0:
        raise ValueError(
            f"calibration_fraction is {calibration_fraction}, expected a share between 0 and 1."
        )
    size = round(calibration_fraction * n)
    if not 0 < size < n:
        raise ValueError(
            f"{n} sequences split at {calibration_fraction:g} leave {size} for calibration and "
            f"{n - size} for testing; both need at least one. Bring more sequences."
        )
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    for i in range(n_splits):
        # Spawned by position, not by SeedSequence.spawn, which would remember earlier calls.
        child = np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, i))
        order = np.random.default_rng(child).permutation(n)
        yield order[:size], order[size:]
