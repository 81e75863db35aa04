"""A sample as a row of the table, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def sample_row(cell: str, *, response: str, **fields: str | int) -> dict[str, Any]:
    """Columns that samples, corpus and real pairs share, with those that follow from others.

    Parameters
    ----------
    cell : str
        Gives category and task, too.
    response : str
        What the monitor judges; it tells whether it shows its thinking.
    **fields
        The other columns of schema ``real_samples``, without ``split``, which the caller knows.
    """
    category, task = cell.split("_")
    return {"cell": cell, "category": category, "task": task, "response": response,
            "has_thinking": "<think>" in response, **fields}


def whole_texts(samples: pd.DataFrame) -> list[str]:
    """Request and response of each sample as one text, for comparing whole samples.

    Parameters
    ----------
    samples : DataFrame
        With columns ``request`` and ``response``.

    Returns
    -------
    list of str
        In the order of the rows.
    """
    return list(samples["request"] + "\n" + samples["response"])


def draw_pairs(
    samples: pd.DataFrame, most: int, rng: np.random.Generator,
    by: Sequence[str] = ("cell", "split"),
) -> pd.DataFrame:
    """Draw whole pairs at random, a limited number of each group.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``.
    most : int
        Pairs kept of each group; 0 keeps all of them.
    rng : Generator
        Decides which.
    by : sequence of str
        Columns that make a group; a pair shares them.

    Returns
    -------
    DataFrame
        Rows of `samples`, in their order.
    """
    if not most or samples.empty:
        return samples
    pairs = samples.drop_duplicates("pair_id")
    turn = pd.Series(rng.permutation(len(pairs)), index=pairs.index)
    rank = turn.groupby([pairs[column] for column in by]).rank()
    kept = pairs.loc[rank <= most, "pair_id"]
    return samples[samples["pair_id"].isin(kept)].reset_index(drop=True)


def halved(samples: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Give every scenario a random split, dev or test: half of each source, and of each label.

    Parameters
    ----------
    samples : DataFrame
        Schema ``samples``; the label of a scenario is 1 if any of its samples misbehaves.
    rng : Generator
        Decides which half.

    Returns
    -------
    DataFrame
        A copy with another column ``split``.
    """
    worst = samples.groupby("scenario_id")["label"].transform("max")
    scenarios = samples.assign(label=worst).drop_duplicates("scenario_id")
    turn = pd.Series(rng.permutation(len(scenarios)), index=scenarios.index)
    rank = turn.groupby([scenarios["source"], scenarios["label"]]).rank()
    dev = scenarios.loc[rank % 2 == 1, "scenario_id"]
    split = np.where(samples["scenario_id"].isin(dev), "dev", "test")
    return samples.assign(split=pd.array(split, dtype="str"))
