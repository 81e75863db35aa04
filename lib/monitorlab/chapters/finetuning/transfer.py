"""Does what an arm learned reach the cells that it was not trained on?

Every quantity is a mean over the cells of a group: those the arm has seen, the SG cells it has not,
the other cells it has not. Intervals are percentiles over resampled scenarios, drawn within each
cell and shared by all arms. They speak of other test scenarios, not of
another training run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from monitorlab.benchmark.audit.probes import word_probe
from monitorlab.chapters.finetuning.arms import EVERY_ARM, SEEN_BY
from monitorlab.chapters.finetuning.published import (
    ALL_CELLS,
    ALL_COMPONENTS,
    GROUPS,
    SEEN,
    SEEN_CELLS,
    UNSEEN_SG,
    cell_groups,
)
from monitorlab.chapters.finetuning.published import published as published_cells
from monitorlab.evaluation.bootstrap import (
    CELL_METRICS,
    CELL_RESAMPLES,
    CellDraws,
    in_order,
    split_rows,
)
from monitorlab.evaluation.comparisons import ERRORS, compare, holm
from monitorlab.evaluation.rates import SCENARIO
from monitorlab.evaluation.tradeoff import BASE
from monitorlab.statistics.roc import auroc

KNOWN_GROUPS = (*GROUPS, ALL_CELLS)
OWN_OPEN = "own cells, open tier"


def transfer(
    judged: pd.DataFrame,
    seen: Mapping[str, Collection[str]],
    rng: np.random.Generator,
    resamples: int = CELL_RESAMPLES,
    groups: Sequence[str] = GROUPS,
    *,
    split: str = "test",
    unit: str = SCENARIO,
) -> pd.DataFrame:
    """Means of every arm over the cells it has and has not seen, with 95 % intervals.

    Parameters
    ----------
    judged : DataFrame
        From `rates.join`, with the arm as ``name``. Arms that are not in `seen` are left out.
    seen : mapping of str to collection of str
        Arm to the cells with a component in its training data. Its order is that of the rows.
    rng : Generator
        Draws the units; the same state draws the same ones in `transfer_differences`.
    resamples : int
        At least 1.
    groups : sequence of str
        Some of ``seen``, ``unseen SG``, ``unseen other``, ``all cells``.
    split : str
        ``test``, or ``dev`` for choices.
    unit : {"scenario", "pair"}
        What is drawn whole.

    Returns
    -------
    DataFrame
        One row per arm, group and metric (``balanced_accuracy``, ``g2``, ``auroc``, ``mr``,
        ``far``): ``arm``, ``group``, ``metric``, ``cells`` (names, comma-separated), ``value``,
        ``low``, ``high``, ``se`` (standard deviation over resamples) and ``unscored`` (samples
        without a score, which AUROC leaves out). No row for a group without cells (``seen`` of an
        untrained arm), NaN where the arm has no value in one of them. An interval of a rate of
        exactly 0 or 1 has no width: see the limits in `matrix`.

    Raises
    ------
    ValueError
        For an unknown group, or as `split_rows`.
    """
    rows = split_rows(judged, list(seen), split)
    draws = CellDraws.of(rows, list(seen), rng, resamples, unit=unit)
    tables = []
    for group, cells, arms in _units_of(seen, groups):
        found = draws.over(arms, cells)
        table = found.intervals().rename(columns={"name": "arm"})
        tables.append(table.assign(group=group, cells=", ".join(cells), se=found.standard_errors()))
    columns = ["arm", "group", "metric", "cells", "value", "low", "high", "se", "unscored"]
    return _sorted(tables, seen, groups, "metric", CELL_METRICS)[columns]


def transfer_differences(
    judged: pd.DataFrame,
    seen: Mapping[str, Collection[str]],
    rng: np.random.Generator,
    resamples: int = CELL_RESAMPLES,
    groups: Sequence[str] = GROUPS,
    *,
    reference: str = ALL_COMPONENTS,
    unit: str = SCENARIO,
) -> pd.DataFrame:
    """Differences to a reference arm, on the same resamples, the same cells and samples.

    The cells are those of the *arm's* group, for both: on ``seen`` the reference is measured on
    what the arm has seen. The samples are those that both answered.

    Parameters
    ----------
    judged, seen, rng, resamples, groups, unit
        As in `transfer`.
    reference : str
        A key of `seen`.

    Returns
    -------
    DataFrame
        One row per other arm, group and metric: ``arm``, ``group``, ``metric``, ``cells``,
        ``difference`` (arm minus reference; for ``mr`` and ``far`` below 0 is better), ``low``,
        ``high`` (not corrected for the number of arms), ``p`` (bootstrap, two-sided, at least
        2 / (resamples + 1)), ``p_holm`` (adjusted over the arms within a group and metric); ``n``,
        ``left_out``, ``why``, ``difference_worst``, ``p_worst``: what failed verdicts leave out,
        and what they allow, as in :func:`monitorlab.evaluation.bootstrap.Paired.differences`.

    Raises
    ------
    ValueError
        For an unknown group, a reference that is not in `seen`, or as `split_rows`.
    """
    _check_reference(seen, reference)
    rows = split_rows(judged, list(seen), "test")
    gaps = CellDraws.of_gaps(rows, [arm for arm in seen if arm != reference], reference, rng,
                             resamples, unit=unit)
    tables = []
    for group, cells, arms in _units_of(seen, groups):
        others = [arm for arm in arms if arm != reference]
        if not others:
            continue
        table = gaps.over(others, cells).differences().rename(columns={"first": "arm"})
        tables.append(table.assign(group=group, cells=", ".join(cells)))
    found = _sorted(tables, seen, groups, "metric", CELL_METRICS)
    columns = ["arm", "group", "metric", "cells", "difference", "low", "high", "p"]
    failures = ["n", "left_out", "why", "difference_worst", "p_worst"]
    return found[columns].assign(p_holm=_holm_within(found, ["group", "metric"]),
                                 **{name: found[name] for name in failures})


def transfer_tests(
    judged: pd.DataFrame,
    seen: Mapping[str, Collection[str]],
    groups: Sequence[str] = GROUPS,
    *,
    reference: str = ALL_COMPONENTS,
) -> pd.DataFrame:
    """Exact tests of every arm against a reference, for each kind of error.

    Signs of whole scenarios are flipped, as in
    :func:`monitorlab.evaluation.comparisons.compare`; McNemar's test, which assumes independent
    samples, stands beside it. Parameters as in `transfer_differences`. Tests pool the samples of
    the cells, so a large cell weighs more than in the means of `transfer`.

    Returns
    -------
    DataFrame
        One row per other arm, group and error (``miss``, ``false_alarm``, ``wrong``): ``arm``,
        ``group``, ``error``, ``cells``, ``n`` (samples with a parsed verdict of both),
        ``left_out``, ``difference`` of the error rates (arm minus reference) with ``low``,
        ``high``, ``arm_only``, ``reference_only`` (samples on which only that one errs), ``p``,
        ``p_holm`` (over the arms within a group and kind of error), ``p_mcnemar``, ``p_worst``
        (p if every failed verdict spoke against the seeming winner).
    """
    _check_reference(seen, reference)
    rows = split_rows(judged, list(seen), "test")
    tables = []
    for group, cells, arms in _units_of(seen, groups):
        if set(arms) == {reference}:
            continue
        part = rows[rows["name"].isin([*arms, reference]) & rows["cell"].isin(cells)]
        table = _toward(compare(part), reference)
        tables.append(table.assign(group=group, cells=", ".join(cells)))
    found = _sorted(tables, seen, groups, "error", ERRORS)
    found["p_holm"] = _holm_within(found, ["group", "error"])
    return found[["arm", "group", "error", "cells", "n", "left_out", "difference", "low", "high",
                  "arm_only", "reference_only", "p", "p_holm", "p_mcnemar", "p_worst"]]


REPRODUCES, DIFFERS = "reproduces", "does not reproduce"
OPEN, TOO_FEW, NOT_TESTED = "open", "too few samples", "not tested"
ENOUGH = 20  # samples of a cell; over fewer scenarios a bootstrap gives no interval


def reproduction(differences: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Compare changes from base to arm with the published ones, by the intervals of ours.

    Of balanced accuracy, at the threshold that `differences` was measured at.

    Parameters
    ----------
    differences : DataFrame
        From `transfer_differences` with the base as reference.
    published : DataFrame
        From :func:`monitorlab.chapters.finetuning.published.published_transfer`.

    Returns
    -------
    DataFrame
        One row per published arm and group: ``arm``, ``group``, ``published`` (the change),
        ``difference``, ``low``, ``high`` (ours; NaN where the arm was not trained) and
        ``outcome``: "reproduces" if our interval lies on the published change's side of zero,
        "does not reproduce" if it lies on the other side, or holds zero and not the published
        change; "open" if it holds both or has no width; "too few samples" with fewer than
        `ENOUGH` a cell; "not tested".
    """
    known, ours = (table[table["metric"] == "balanced_accuracy"].set_index(["arm", "group"])
                      for table in (published, differences))
    # The base has seen nothing: on an arm's cells its value comes from the published matrix.
    cells = published_cells().set_index(["arm", "cell"])["balanced_accuracy"]
    found = []
    for (arm, group), value in known["value"].items():
        if arm == BASE:
            continue
        there = value - np.mean([cells[BASE, cell] for cell in cell_groups(SEEN[arm])[group]])
        row: dict[str, Any] = {"arm": arm, "group": group, "published": there}
        outcome = NOT_TESTED
        if (arm, group) in ours.index:
            own = ours.loc[(arm, group)]
            row |= own[["difference", "low", "high"]].to_dict()
            outcome = _outcome(there, own) if _enough(own) else TOO_FEW
        found.append(row | {"outcome": outcome})
    return pd.DataFrame(found, columns=["arm", "group", "published", "difference", "low", "high",
                                        "outcome"])


def _enough(row: pd.Series) -> bool:
    """Whether there are samples enough for an interval over scenarios."""
    return bool(row["n"] >= ENOUGH * len(row["cells"].split(", ")))


def _outcome(there: float, row: pd.Series) -> str:
    """Say what an interval says about a published change."""
    low, high = row["low"], row["high"]
    if np.isnan([low, high]).any():
        return NOT_TESTED
    if high - low < 1e-9:
        return OPEN
    if low > 0 or high < 0:
        return REPRODUCES if (low > 0) == (there > 0) else DIFFERS
    return OPEN if low <= there <= high else DIFFERS


def by_tier(
    judged: pd.DataFrame, seen: Mapping[str, Collection[str]], rng: np.random.Generator,
    resamples: int = CELL_RESAMPLES, *, reference: str, tiers: Sequence[str],
) -> pd.DataFrame:
    """Differences in AUROC to a reference, as `transfer_differences`, within each tier.

    Returns
    -------
    DataFrame
        Those columns, with ``tier``; no row if no sample has a tier. A group is left out in a tier
        that lacks one of its cells; with fewer than `ENOUGH` samples a cell difference and limits
        are missing.
    """
    found = []
    for tier in tiers:
        rows = judged[judged["tier"] == tier]
        test = set(rows.loc[rows["split"] == "test", "cell"])
        for group in GROUPS:
            kept = {arm: cells for arm, cells in seen.items()
                    if arm == reference or 0 < len(cell_groups(cells)[group])
                    == len(test & {*cell_groups(cells)[group]})}
            if len(kept) > 1:
                table = transfer_differences(rows, kept, rng, resamples, [group],
                                             reference=reference)
                table = table[table["metric"] == "auroc"].assign(tier=tier)
                table.loc[~table.apply(_enough, axis=1), ["difference", "low", "high"]] = np.nan
                found.append(table)
    nothing = pd.DataFrame(columns=["arm", "group", "tier", "difference", "low", "high"])
    return pd.concat(found, ignore_index=True) if found else nothing


def longer(
    opened: pd.DataFrame, drawn: pd.DataFrame, rng: np.random.Generator,
    resamples: int = CELL_RESAMPLES,
) -> pd.DataFrame:
    """AUROC of arms that learned from more than the rest, beside the base on the same samples.

    Parameters
    ----------
    opened, drawn : DataFrame
        Judged rows of the base and of these arms: of the open tier in their own cells, and of the
        samples that every arm was asked about. Either may be empty.
    rng : Generator
        Draws scenarios.
    resamples : int
        At least 1.

    Returns
    -------
    DataFrame
        Two rows per arm, own cells and unseen SG: ``arm``, ``where``, ``n`` (samples), ``base`` and
        ``auroc`` (means over the cells), ``difference`` with ``low`` and ``high`` (95 % over
        scenarios), and ``outcome``, a sentence that the interval decides. No row without arms.
    """
    found = []
    for arm in sorted(set(opened["name"]) - {BASE}):
        for where, rows, group in ((OWN_OPEN, opened, SEEN_CELLS), (UNSEEN_SG, drawn, UNSEEN_SG)):
            cells = cell_groups(SEEN_BY[arm])[group]
            both = dict.fromkeys((BASE, arm), cells)  # measured on the same cells
            gap = transfer_differences(rows, both, rng, resamples, [SEEN_CELLS], reference=BASE)
            row = gap[gap["metric"] == "auroc"].iloc[0]
            level = transfer(rows[rows["cell"].isin(cells)], both, rng, 1, [SEEN_CELLS])
            level = level[level["metric"] == "auroc"].set_index("arm")["value"]
            outcome = "The interval holds zero, which leaves open whether it learned anything."
            if row["low"] > 0:
                outcome = "It discriminates better than the base."
            elif row["high"] < 0:
                outcome = "It discriminates worse than the base."
            found.append({"arm": arm, "where": where, "n": row["n"], "base": level[BASE],
                          "auroc": level[arm], **row[["difference", "low", "high"]],
                          "outcome": outcome})
    return pd.DataFrame(found, columns=["arm", "where", "n", "base", "auroc", "difference", "low",
                                        "high", "outcome"])


def words_alone(arm: str, corpus: pd.DataFrame, asked: pd.DataFrame) -> float:
    """AUROC of the words of the response, learned from all that the corpus has for an arm.

    Parameters
    ----------
    arm : str
        One of `EVERY_ARM`.
    corpus : DataFrame
        Schema ``corpus``.
    asked : DataFrame
        Schema ``samples``; those of the arm's own cells are judged.

    Returns
    -------
    float
        Mean over these cells, in [0, 1].
    """
    lessons = corpus[corpus["component"].isin(EVERY_ARM[arm].components)]
    probe = word_probe().fit(lessons["response"], lessons["label"])
    own = asked[asked["cell"].isin(SEEN_BY[arm])]
    return float(np.mean([auroc(probe.decision_function(part["response"]), part["label"])
                          for _, part in own.groupby("cell")]))


def _toward(compared: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Keep comparisons with the reference, turned to arm minus reference."""
    table = compared[(compared["first"] == reference) | (compared["second"] == reference)].copy()
    turn = (table["first"] == reference).to_numpy()
    table["arm"] = table["first"].where(~turn, table["second"])
    table["arm_only"] = table["b"].where(~turn, table["c"])
    table["reference_only"] = table["c"].where(~turn, table["b"])
    low, high = table["low"], table["high"]
    return table.assign(difference=table["difference"] * np.where(turn, -1, 1),
                        low=low.where(~turn, -high), high=high.where(~turn, -low))


def _units_of(
    seen: Mapping[str, Collection[str]], groups: Sequence[str]
) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
    """Yield group, cells, and the arms whose group consists of these cells; unknown is an error."""
    unknown = [group for group in groups if group not in KNOWN_GROUPS]
    if unknown:
        raise ValueError(f"group {unknown[0]!r} is unknown, expected some of "
                         f"{', '.join(KNOWN_GROUPS)}")
    for group in groups:
        arms: dict[tuple[str, ...], list[str]] = {}
        for arm, cells in seen.items():
            arms.setdefault(cell_groups(cells)[group], []).append(arm)
        yield from ((group, cells, names) for cells, names in arms.items() if cells)


def _check_reference(seen: Mapping[str, Collection[str]], reference: str) -> None:
    """Raise ValueError if the reference is none of the arms."""
    if reference not in seen:
        raise ValueError(f"reference {reference!r} is none of the arms {', '.join(seen)}: name one "
                         "of them")


def _sorted(
    tables: Sequence[pd.DataFrame], seen: Mapping[str, Collection[str]], groups: Sequence[str],
    last: str, order: Sequence[str],
) -> pd.DataFrame:
    if not tables:
        raise ValueError(f"none of the arms {', '.join(seen)} has cells in {', '.join(groups)} to "
                         "be compared: name other groups or more arms")
    return in_order(pd.concat(tables), arm=seen, group=groups, **{last: order})


def _holm_within(table: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """Holm's adjustment of ``p`` within groups; a missing p stays missing and does not count."""
    adjusted = pd.Series(np.nan, index=table.index)
    for _, part in table.dropna(subset="p").groupby(list(keys))["p"]:
        adjusted[part.index] = holm(part.to_numpy())
    return adjusted
