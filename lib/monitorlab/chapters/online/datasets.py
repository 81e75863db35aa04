"""Data sets of the comparison: readable names, an overview, splits, a few telling sequences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from monitorlab.online.comparison import PAPER_METHODS, TRIVIAL_METHODS, Split, compare_methods
from monitorlab.online.metrics import peaks
from monitorlab.online.score_files import from_frame, load_scores
from monitorlab.online.trajectories import UNKNOWN, Trajectories
from monitorlab.pipeline.runs import Run
from monitorlab.statistics.thresholds import Threshold
from monitorlab.storage.sources import project_root

# Signals that cost next to nothing; the others need a model of their own.
FREE_SIGNALS = ("min_logprob", "mean_logprob", "words")

SIGNALS = "06_step_signals"
# What that notebook made, by its own names.
STAND_INS = {
    "miniature_math_strong": "miniature math, strong generator",
    "miniature_math_weak": "miniature math, weak generator",
    "miniature_conversations": "miniature conversations",
}

# Step scores under data/released, by name.
RELEASED = {
    "processbench_gsm8k": "ProcessBench, log-prob. of SmolLM2",
    "tau_bench": "tau-bench, kind of tool call",
}


def earlier(run: Run, needed: bool = True) -> dict[tuple[str, str], Trajectories]:
    """Take the step scores that the previous notebook made in this run, all by small stand-ins.

    Parameters
    ----------
    run : Run
        The reader.
    needed : bool
        If not, and the run has no such notebook, there is nothing.

    Returns
    -------
    dict
        Keyed by (dataset, signal), with readable titles.
    """
    if not needed and not (run.folder.parent / SIGNALS).exists():
        print(f"this run has no {SIGNALS}: its small stand-ins are left out")
        return {}
    return _stand_ins(run.read_table(SIGNALS, "steps"))


def _stand_ins(steps: pd.DataFrame) -> dict[tuple[str, str], Trajectories]:
    """Sequences of the table ``steps``, by data set and signal, in order of first appearance."""
    found = {}
    for (dataset, signal), group in steps.groupby(["dataset", "signal"], sort=False):
        one = from_frame(group.reset_index(drop=True), str(dataset), str(signal))
        wrong = group[group["step_label"] == 1] if "step_label" in group else group[:0]
        if len(wrong):
            first = wrong.groupby("trajectory_id")["step"].min().reindex(one.ids, fill_value=0)
            one = replace(one, onsets=first.to_numpy(dtype=np.int64))
        title = STAND_INS.get(one.dataset, "")
        found[one.dataset, one.signal] = replace(one, title=title, stand_in=True)
    return found


def released(run: Run) -> dict[tuple[str, str], Trajectories]:
    """Take the real sequences of known onset that the project ships step scores of.

    Sequences without a label are left out, see ``data/released/README.md``.

    Parameters
    ----------
    run : Run
        Records the files as its inputs.

    Returns
    -------
    dict
        Keyed by (dataset, signal), with readable titles.
    """
    found = {}
    for name, title in RELEASED.items():
        file = run.record_file(project_root() / "data" / "released" / f"{name}.jsonl")
        data = replace(load_scores(file), title=title)
        found[name, data.signal] = data.take(data.labels != UNKNOWN)
    return found


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


def sizes(data: Trajectories) -> str:
    """Return the readable name with the number of sequences of each class."""
    unknown = data.count(UNKNOWN)
    rest = f", {unknown} unknown" if unknown else ""
    return f"{data.name} ({data.count(0)} safe, {data.count(1)} unsafe{rest})"


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


def tie_effect(data: Trajectories, level: float, splits: Iterable[Split]) -> dict[str, object]:
    """What breaking ties by a draw changes for the CRC threshold on the latest score.

    Parameters
    ----------
    data : Trajectories
        Sequences.
    level : float
        Target false alarm rate.
    splits : iterable of (calibration, test)
        As for :func:`compare_methods`.

    Returns
    -------
    dict
        Data set, number of distinct scores, and the means over splits of the attained level, the
        false alarm rate and the power, without and with the draw.
    """
    row: dict[str, object] = {"data set": sizes(data),
                              "distinct scores": len(np.unique(data.flat_scores))}
    pair = (PAPER_METHODS[0], TRIVIAL_METHODS[0])
    found = compare_methods(data, pair, splits, levels=(level,))
    for method, more in zip(pair, ("", ", drawn"), strict=True):
        means = found[found["method"] == method.label].mean(numeric_only=True)
        for measure, name in (("attained", "attained"), ("far", "FAR"), ("power", "power")):
            row[f"{name}{more}"] = float(means[measure])
    return row
