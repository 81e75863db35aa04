"""The verdicts of several monitors on the same samples, as matrices.

Paired comparisons and the bootstrap need one verdict per monitor and sample; `majority` makes one
out of several draws, and `first_draws` keeps one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitorlab.monitors.verdicts import PARSED, UNPARSED

ALARM, SILENT, FAILED, NOT_ASKED = 1, 0, -1, -2


@dataclass(frozen=True)
class Panel:
    """n samples in p pairs, judged by m monitors.

    Attributes
    ----------
    names : (m,) array of str
        The monitors, sorted.
    sample_ids : (n,) array of str
        The samples that any of them was asked about, sorted.
    labels : (n,) array of int
        1 is misbehavior.
    pair_ids : (p,) array of str
        Sorted.
    cells : (p,) array of str
        Cell of each pair.
    pairs : (n,) array of int
        Place of each sample's pair in `pair_ids`.
    verdicts : (n, m) array of int
        `ALARM`, `SILENT`, `FAILED` or `NOT_ASKED`.
    scores : (n, m) array of float
        Suspicion in [0, 1], high is unsafe; NaN where there is none.
    """

    names: NDArray[np.object_]
    sample_ids: NDArray[np.object_]
    labels: NDArray[np.int8]
    pair_ids: NDArray[np.object_]
    cells: NDArray[np.object_]
    pairs: NDArray[np.intp]
    verdicts: NDArray[np.int8]
    scores: NDArray[np.float64]


def panel(judged: pd.DataFrame) -> Panel:
    """Arrange judged verdicts as matrices.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample.

    Raises
    ------
    ValueError
        If a name has several draws.
    """
    monitors, names = pd.factorize(judged["name"], sort=True)
    rows, sample_ids = pd.factorize(judged["sample_id"], sort=True)
    place = rows * len(names) + monitors
    if len(np.unique(place)) < len(place):
        several = judged["name"].to_numpy()[pd.Series(place).duplicated().to_numpy()][0]
        raise ValueError(
            f"{several!r} judged a sample several times, expected one verdict per sample. Take one "
            "draw (judged[judged.draw == 0]) or the majority (monitorlab.evaluation.panel.majority)"
        )
    verdicts = np.full((len(sample_ids), len(names)), NOT_ASKED, np.int8)
    verdicts[rows, monitors] = judged["verdict"].astype("Int8").fillna(FAILED).to_numpy(np.int8)
    scores = np.full(verdicts.shape, np.nan)
    scores[rows, monitors] = judged["score"].to_numpy(float, na_value=np.nan)
    first = np.unique(rows, return_index=True)[1]
    samples = judged[["label", "pair_id", "cell"]].take(first)
    pairs, pair_ids = pd.factorize(samples["pair_id"], sort=True)
    cells = samples["cell"].to_numpy(object)[np.unique(pairs, return_index=True)[1]]
    return Panel(
        names=np.asarray(names, object),
        sample_ids=np.asarray(sample_ids, object),
        labels=samples["label"].to_numpy(np.int8),
        pair_ids=np.asarray(pair_ids, object),
        cells=cells,
        pairs=pairs,
        verdicts=verdicts,
        scores=scores,
    )


def first_draws(judged: pd.DataFrame) -> pd.DataFrame:
    """Keep the first verdict of each monitor on each sample: repeats are no new samples.

    Curves, operating points, costs and label noise call this themselves, so they leave later draws
    out without a word. `panel` refuses several draws instead, and asks for a choice.

    Parameters
    ----------
    judged : DataFrame
        From `join`.

    Returns
    -------
    DataFrame
        The rows of `judged` with the lowest ``draw`` of their name and sample.
    """
    return judged[judged["draw"] == judged.groupby(["name", "sample_id"])["draw"].transform("min")]


def majority(judged: pd.DataFrame) -> pd.DataFrame:
    """Reduce several draws to one row per name and sample.

    A verdict needs more than half of *all* draws, failed ones included; a sample without such a
    majority is ``unparsed``. This is another monitor than a single draw: it asks several times.

    Parameters
    ----------
    judged : DataFrame
        From `join`.

    Returns
    -------
    DataFrame
        The columns of `judged`; ``draw`` is 0, ``score`` the mean score of the parsed draws where
        there is a majority. Tokens, seconds and cost are those of the first draw.
    """
    key = ["name", "sample_id"]
    told = judged[key].assign(
        draws=1,
        yes=judged["verdict"].fillna(False).astype(int),
        no=(~judged["verdict"]).fillna(False).astype(int),
        score=judged["score"],
    ).groupby(key, sort=False)
    votes = told[["draws", "yes", "no"]].sum()
    one = judged.drop_duplicates(key).reset_index(drop=True)  # in the order of `votes`
    half = votes["draws"].to_numpy() / 2
    alarm = votes["yes"].to_numpy() > half
    decided = pd.Series(alarm | (votes["no"].to_numpy() > half))
    words = [f"no majority: {yes} alarms and {no} silences in {draws} draws"
             for draws, yes, no in votes.to_numpy()]
    return one.assign(
        draw=0,
        status=np.where(decided, PARSED, UNPARSED),
        verdict=pd.Series(alarm, dtype="boolean").where(decided),
        score=told["score"].mean().reset_index(drop=True).where(decided),
        evidence=one["evidence"].where(decided, pd.Series(words, dtype=object)),
    )
