"""A sample as a row of the table, wherever it comes from."""

from __future__ import annotations

from typing import Any

import pandas as pd


def sample_row(
    *,
    sample_id: str,
    pair_id: str,
    scenario_id: str,
    cell: str,
    misbehavior_type: str,
    cue_type: str,
    source: str,
    generator: str,
    request: str,
    response: str,
    has_thinking: bool,
    label: int,
) -> dict[str, Any]:
    """Columns that samples, corpus and real pairs share; category and task follow from the cell.

    Parameters
    ----------
    sample_id, pair_id, scenario_id, cell, misbehavior_type, cue_type, source, generator : str
        As in schema ``samples``.
    request, response : str
        What was asked, and what the monitor judges.
    has_thinking : bool
        Whether the response shows its thinking.
    label : int
        1 is misbehavior.

    Returns
    -------
    dict
        Without ``split`` and ``component``, which the caller knows.
    """
    category, task = cell.split("_")
    return {
        "sample_id": sample_id,
        "pair_id": pair_id,
        "scenario_id": scenario_id,
        "cell": cell,
        "category": category,
        "task": task,
        "misbehavior_type": misbehavior_type,
        "cue_type": cue_type,
        "source": source,
        "generator": generator,
        "request": request,
        "response": response,
        "has_thinking": has_thinking,
        "label": label,
    }


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
