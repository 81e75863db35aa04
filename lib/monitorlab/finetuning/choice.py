"""Which arm is the best? The question is put to the dev split, so that test can answer for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from monitorlab.finetuning.cell_draws import METRICS, cell_draws, split_rows
from monitorlab.finetuning.published import SEEN_CELLS, UNSEEN_SG
from monitorlab.finetuning.transfer import check_reference, units_of
from monitorlab.monitors.verdicts import PARSED

MARGIN = 0.02  # what an arm may lose on cells that were trained on


@dataclass(frozen=True)
class BestArm:
    """The arm chosen on the dev split.

    Attributes
    ----------
    arm : str
        Its name.
    ranking : DataFrame
        One row per candidate, best first: ``arm``, ``value`` (mean of the metric over the group),
        ``lost`` (mean of the reference minus its own, on cells trained on; NaN without a
        reference) and ``kept`` (whether that is within the margin).
    """

    arm: str
    ranking: pd.DataFrame


def best_arm(
    judged: pd.DataFrame,
    seen: Mapping[str, Collection[str]],
    *,
    metric: str = "balanced_accuracy",
    group: str = UNSEEN_SG,
    reference: str = "",
    margin: float = MARGIN,
) -> BestArm:
    """Choose the arm with the highest mean over unseen cells **of the dev split**.

    Arms are compared on the samples that all of them answered (but for those that answered none),
    so no arm gains by failing on hard ones. Test samples take no part, whatever rows `judged`
    holds, so the choice does not flatter numbers on test. It uses dev labels of the unseen cells:
    unseen in training, not in selection.

    Parameters
    ----------
    judged, seen
        As in :func:`monitorlab.finetuning.transfer.transfer`, with dev rows.
    metric : {"balanced_accuracy", "g2", "auroc"}
        Higher is better.
    group : str
        A group whose cells are the same for all arms, or means are not comparable.
    reference : str
        A key of `seen`, which is no candidate then. Arms that lose more than `margin` against it
        on the cells that they have seen rank behind those that do not.
    margin : float
        At least 0, in units of the metric.

    Raises
    ------
    ValueError
        If the arms' groups differ, no arm has a value, for another metric or reference, or as
        ``transfer``.
    """
    if metric not in METRICS[:3]:
        raise ValueError(f"metric is {metric!r}, expected one of {', '.join(METRICS[:3])}")
    if reference:
        check_reference(seen, reference)
    arms = [arm for arm in seen if arm != reference]
    rows = split_rows(judged, list(seen), "dev")
    parsed = rows["status"] == PARSED
    silent = ~parsed.groupby(rows["name"]).transform("any")
    answered = (parsed | silent).groupby(rows["sample_id"]).transform("all")
    draws = cell_draws(rows[answered], list(seen), np.random.default_rng(0), 1, metrics=[metric])

    def means(names: list[str], which: str) -> np.ndarray:
        units = list(units_of({name: seen[name] for name in names}, [which]))
        if len(units) != 1 or len(units[0][2]) != len(names):
            raise ValueError(f"the arms do not share the cells of group {which!r}, so their means "
                             "are of different things: choose another group or leave arms out")
        return draws.over(names, units[0][1]).values[0]

    values = means(arms, group)
    if not np.isfinite(values).any():
        raise ValueError(f"no arm has a {metric} on all cells of {group!r} in dev: score both "
                         "classes there")
    lost = np.full(len(arms), np.nan)
    if reference:
        own = means([*arms, reference], SEEN_CELLS)
        lost = own[-1] - own[:-1]
    ranking = pd.DataFrame({"arm": arms, "value": values, "lost": lost,
                            "kept": ~(lost > margin)})
    ranking = ranking.sort_values(["kept", "value"], ascending=False, kind="stable",
                                  ignore_index=True)
    return BestArm(str(ranking["arm"].iloc[0]), ranking)
