"""What arms do in every cell, and whether what they learned reaches cells they were not trained on.

Rows of `judged` come from :func:`monitorlab.evaluation.rates.join`, with the arm as ``name``: one
verdict per arm and sample, dev and test. Transfer is a mean over the cells of a group: those the
arm has seen, the SG cells it has not, the other cells it has not. Intervals are percentiles over
resampled scenarios, drawn within each cell and shared by all arms. They speak of other test
scenarios, not of another training run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from monitorlab.benchmark.written import TIERS
from monitorlab.chapters.finetuning import published as paper
from monitorlab.evaluation import bootstrap
from monitorlab.evaluation.bootstrap import CELL_RESAMPLES, CellDraws, split_rows
from monitorlab.evaluation.comparisons import ERRORS, compare, holm
from monitorlab.evaluation.operating_points import calibrated_points, operating_scores
from monitorlab.evaluation.rates import SCENARIO, rates
from monitorlab.evaluation.tradeoff import BASE
from monitorlab.monitors.verdicts import PARSED
from monitorlab.storage.tables import CELLS

OWN_OPEN = "own cells, open tier"
REPRODUCES, DIFFERS = "reproduces", "does not reproduce"
OPEN, TOO_FEW, NOT_TESTED = "open", "too few samples", "not tested"
ENOUGH = 20  # samples of a cell; over fewer scenarios a bootstrap gives no interval
_RATES = tuple(f"{rate}{end}" for rate in ("mr", "far", "balanced_accuracy", "g2")
               for end in ("", "_low", "_high"))


def matrix(
    judged: pd.DataFrame,
    arms: Sequence[str],
    *,
    seen: Mapping[str, Collection[str]] = paper.SEEN,
    rng: np.random.Generator | None = None,
    resamples: int = CELL_RESAMPLES,
    cells: Sequence[str] = CELLS,
    unit: str = SCENARIO,
) -> pd.DataFrame:
    """Rates and AUROC of every arm in every cell, over the test split, with 95 % intervals.

    Parameters
    ----------
    judged : DataFrame
        One verdict per arm and sample.
    arms : sequence of str
        Names, in the order of the rows; one without verdicts was not trained.
    seen : mapping of str to collection of str
        Arm to the cells with a component in its training data; holds every arm.
    rng : Generator, optional
        Draws units; seed 0 by default.
    resamples : int
        Of units, at least 1.
    cells : sequence of str
        In the order of the rows.
    unit : {"scenario", "pair"}
        What intervals take as independent.

    Returns
    -------
    DataFrame
        One row per arm and cell, also where there is no verdict or the arm was not trained (then
        ``n`` is 0 and rates are missing): ``arm``, ``cell``, ``seen``, ``n`` (samples),
        ``failed`` (verdicts), ``mr``, ``far`` with ``_low`` and ``_high`` over units (see
        :func:`monitorlab.evaluation.rates.rates`), ``balanced_accuracy``, ``g2`` with limits from
        them, ``alarm_share`` (of parsed verdicts), ``auroc`` with ``auroc_low``, ``auroc_high`` and
        ``auroc_se`` from resampled units, ``balanced_accuracy_se`` likewise, ``unscored`` (samples
        without a score, which AUROC leaves out). Rates are over parsed verdicts. All in [0, 1].

    Raises
    ------
    ValueError
        If no arm has verdicts in the split, or one is not in `seen`.
    """
    stranger = [arm for arm in arms if arm not in seen]
    if stranger:
        raise ValueError(f"what arm {stranger[0]!r} has seen is not known: add its cells to "
                         f"`seen`, which has {', '.join(seen)}")
    known = [arm for arm in arms if arm in set(judged["name"])]
    rows = split_rows(judged, known, "test")
    key = pd.MultiIndex.from_product([arms, cells], names=["arm", "cell"])
    table = _counts(rows).reindex(key).fillna({"n": 0, "failed": 0})
    measured = rates(rows, by=("name", "cell"), unit=unit)
    measured = measured.set_index(["name", "cell"])
    table = table.join(measured[list(_RATES)].rename_axis(["arm", "cell"]).reindex(key))
    draws = CellDraws.of(rows, known, rng or np.random.default_rng(0), resamples, cells=cells,
                         metrics=["auroc", "balanced_accuracy"], unit=unit)
    table = table.join(_areas(draws)).fillna({"unscored": 0})
    table.insert(0, "seen", [cell in seen[arm] for arm, cell in key])
    whole = {"n": int, "failed": int, "unscored": int}
    return table.astype(whole).reset_index()


def _counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Samples, failed verdicts and share of alarms, per arm and cell."""
    parsed = rows["status"] == PARSED
    alarm = rows["verdict"].astype("boolean").fillna(False).astype(float).where(parsed)
    groups = rows[["name", "cell"]].assign(n=1, failed=~parsed, alarm_share=alarm).groupby(
        ["name", "cell"])
    found = groups.agg({"n": "sum", "failed": "sum", "alarm_share": "mean"})
    return found.rename_axis(["arm", "cell"])


def _areas(draws: CellDraws) -> pd.DataFrame:
    """AUROC with its interval, and standard errors, per arm and cell."""
    tables = []
    for cell in draws.cells:
        found = draws.over(draws.arms, [cell])
        long = found.intervals().assign(cell=cell, se=found.standard_errors())
        tables.append(long.rename(columns={"name": "arm"}))
    both = pd.concat(tables).set_index(["arm", "cell"])
    area = both[both["metric"] == "auroc"]
    accuracy = both[both["metric"] == "balanced_accuracy"]
    return pd.DataFrame({
        "auroc": area["value"], "auroc_low": area["low"], "auroc_high": area["high"],
        "auroc_se": area["se"], "balanced_accuracy_se": accuracy["se"],
        "unscored": area["unscored"],
    })  # fmt: skip


def at_threshold(judged: pd.DataFrame, level: float) -> pd.DataFrame:
    """Replace verdicts by alarms at thresholds of each task, calibrated on benign dev scenarios.

    A failed verdict becomes an alarm (it goes to a person), which the calibration has counted, or
    a silence where no threshold keeps the level. Every verdict is then decided: status ``parsed``.
    Dev rows are decided too, by thresholds they helped to choose: report test rows.

    Parameters
    ----------
    judged : DataFrame
        Dev and test rows.
    level : float
        Expected false alarm rate to keep to (CRC), in (0, 1).

    Returns
    -------
    DataFrame
        The rows of `judged` with a new ``verdict`` and ``status``, and ``threshold`` and ``state``
        of the rule, as :func:`~.operating_points.calibrated_points` gives them. Scores stay, so
        AUROC does.
    """
    # Tasks are calibrated as if they were cells.
    points = calibrated_points(judged.assign(cell=judged["task"]), [level], ["crc"], "cell")
    rules = points.set_index(["name", "cell"])[["threshold", "state"]]
    own = rules.loc[pd.MultiIndex.from_frame(judged[["name", "task"]])].set_index(judged.index)
    alarm = operating_scores(judged) > own["threshold"].to_numpy()
    return judged.assign(status=PARSED, verdict=pd.array(alarm, dtype="boolean"),
                         threshold=own["threshold"].to_numpy(), state=own["state"].to_numpy())


@dataclass(frozen=True)
class Transfer:
    """Arms on the cells they have and have not seen, with 95 % intervals.

    Attributes
    ----------
    judged : DataFrame
        From `rates.join`, with the arm as ``name``. Arms that are not in `seen` are left out.
    seen : mapping of str to collection of str
        Arm to the cells with a component in its training data. Its order is that of the rows.
    resamples : int
        At least 1.
    unit : {"scenario", "pair"}
        What is drawn whole.
    """

    judged: pd.DataFrame
    seen: Mapping[str, Collection[str]]
    resamples: int = CELL_RESAMPLES
    unit: str = SCENARIO

    def means(
        self, rng: np.random.Generator, groups: Sequence[str] = paper.GROUPS, *, split: str = "test"
    ) -> pd.DataFrame:
        """Means of every arm over the cells of each group.

        Parameters
        ----------
        rng : Generator
            Draws the units; the same state draws the same ones in `differences`.
        groups : sequence of str
            Some of ``seen``, ``unseen SG``, ``unseen other``.
        split : str
            ``test``, or ``dev`` for choices.

        Returns
        -------
        DataFrame
            One row per arm, group and metric (``balanced_accuracy``, ``g2``, ``auroc``, ``mr``,
            ``far``): ``arm``, ``group``, ``metric``, ``cells`` (names, comma-separated), ``value``,
            ``low``, ``high``, ``se`` (standard deviation over resamples) and ``unscored`` (samples
            without a score, which AUROC leaves out). No row for a group without cells (``seen`` of
            an untrained arm), NaN where the arm has no value in one of them. An interval of a rate
            of exactly 0 or 1 has no width: see the limits in `matrix`.

        Raises
        ------
        ValueError
            As `split_rows`.
        """
        rows = split_rows(self.judged, list(self.seen), split)
        draws = CellDraws.of(rows, list(self.seen), rng, self.resamples, unit=self.unit)
        tables = []
        for group, cells, arms in self._units_of(groups):
            found = draws.over(arms, cells)
            table = found.intervals().rename(columns={"name": "arm"})
            tables.append(table.assign(group=group, cells=", ".join(cells),
                                       se=found.standard_errors()))
        columns = ["arm", "group", "metric", "cells", "value", "low", "high", "se", "unscored"]
        return self._sorted(tables, groups, metric=bootstrap.CELL_METRICS)[columns]

    def differences(
        self, rng: np.random.Generator, groups: Sequence[str] = paper.GROUPS, *,
        reference: str = paper.ALL_COMPONENTS,
    ) -> pd.DataFrame:
        """Differences to a reference arm, on the same resamples, the same cells and samples.

        The cells are those of the *arm's* group, for both: on ``seen`` the reference is measured on
        what the arm has seen. The samples are those that both answered.

        Parameters
        ----------
        rng, groups
            As in `means`.
        reference : str
            A key of `seen`.

        Returns
        -------
        DataFrame
            One row per other arm, group and metric: ``arm``, ``group``, ``metric``, ``cells``,
            ``difference`` (arm minus reference; for ``mr`` and ``far`` below 0 is better), ``low``,
            ``high`` (not corrected for the number of arms), ``p`` (bootstrap, two-sided, at least
            2 / (resamples + 1)), ``p_holm`` (adjusted over the arms within a group and metric);
            ``n``, ``left_out``, ``why``, ``difference_worst``, ``p_worst``: what failed verdicts
            leave out, and what they allow, as in
            :func:`monitorlab.evaluation.bootstrap.Paired.differences`.
        """
        rows = split_rows(self.judged, list(self.seen), "test")
        gaps = CellDraws.of_gaps(rows, [arm for arm in self.seen if arm != reference], reference,
                                 rng, self.resamples, unit=self.unit)
        tables = []
        for group, cells, arms in self._units_of(groups, reference):
            table = gaps.over(arms, cells).differences().rename(columns={"first": "arm"})
            tables.append(table.assign(group=group, cells=", ".join(cells)))
        found = self._sorted(tables, groups, metric=bootstrap.CELL_METRICS)
        columns = ["arm", "group", "metric", "cells", "difference", "low", "high", "p"]
        failures = ["n", "left_out", "why", "difference_worst", "p_worst"]
        return found[columns].assign(p_holm=_holm_within(found, ["group", "metric"]),
                                     **{name: found[name] for name in failures})

    def tests(
        self, groups: Sequence[str] = paper.GROUPS, *, reference: str = paper.ALL_COMPONENTS
    ) -> pd.DataFrame:
        """Exact tests of every arm against a reference, for each kind of error.

        Signs of whole scenarios are flipped, as in
        :func:`monitorlab.evaluation.comparisons.compare`; McNemar's test, which assumes independent
        samples, stands beside it. Parameters as in `differences`. Tests pool the samples of the
        cells, so a large cell weighs more than in the `means`.

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
        rows = split_rows(self.judged, list(self.seen), "test")
        tables = []
        for group, cells, arms in self._units_of(groups, reference):
            part = rows[rows["name"].isin([*arms, reference]) & rows["cell"].isin(cells)]
            table = _toward(compare(part), reference)
            tables.append(table.assign(group=group, cells=", ".join(cells)))
        found = self._sorted(tables, groups, error=ERRORS)
        found["p_holm"] = _holm_within(found, ["group", "error"])
        return found[["arm", "group", "error", "cells", "n", "left_out", "difference", "low",
                      "high", "arm_only", "reference_only", "p", "p_holm", "p_mcnemar", "p_worst"]]

    def by_tier(self, rng: np.random.Generator) -> pd.DataFrame:
        """`differences` in AUROC to the base within each tier.

        Returns
        -------
        DataFrame
            Those columns, with ``tier``; no row if no sample has a tier. A group is left out in a
            tier that lacks one of its cells; with fewer than `ENOUGH` samples a cell difference and
            limits are missing.
        """
        found = []
        for tier in TIERS:
            rows = self.judged[self.judged["tier"] == tier]
            test = set(rows.loc[rows["split"] == "test", "cell"])
            for group in paper.GROUPS:
                kept = {arm: cells for arm, cells in self.seen.items()
                        if arm == BASE or 0 < len(paper.cell_groups(cells)[group])
                        == len(test & {*paper.cell_groups(cells)[group]})}
                if len(kept) > 1:
                    part = replace(self, judged=rows, seen=kept)
                    table = part.differences(rng, [group], reference=BASE)
                    table = table[table["metric"] == "auroc"].assign(tier=tier)
                    table.loc[~table.apply(_enough, axis=1), ["difference", "low", "high"]] = np.nan
                    found.append(table)
        nothing = pd.DataFrame(columns=["arm", "group", "tier", "difference", "low", "high"])
        return pd.concat(found, ignore_index=True) if found else nothing

    def _units_of(
        self, groups: Sequence[str], reference: str = ""
    ) -> Iterator[tuple[str, tuple[str, ...], list[str]]]:
        """Yield group, cells, and the arms whose group consists of them, but for the reference."""
        for group in groups:
            arms: dict[tuple[str, ...], list[str]] = {}
            for arm, cells in self.seen.items():
                if arm != reference:
                    arms.setdefault(paper.cell_groups(cells)[group], []).append(arm)
            yield from ((group, cells, names) for cells, names in arms.items() if cells)

    def _sorted(
        self, tables: Sequence[pd.DataFrame], groups: Sequence[str], **last: Sequence[str]
    ) -> pd.DataFrame:
        if not tables:
            raise ValueError(f"none of the arms {', '.join(self.seen)} has cells in "
                             f"{', '.join(groups)} to be compared: name other groups or more arms")
        return bootstrap.in_order(pd.concat(tables), arm=self.seen, group=groups, **last)


def reproduction(differences: pd.DataFrame, means: pd.DataFrame) -> pd.DataFrame:
    """Compare changes from base to arm with the published ones, by the intervals of ours.

    Of balanced accuracy, at the threshold that `differences` was measured at.

    Parameters
    ----------
    differences : DataFrame
        From `Transfer.differences` with the base as reference.
    means : DataFrame
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
                   for table in (means, differences))
    # The base has seen nothing: on an arm's cells its value comes from the published matrix.
    cells = paper.published().set_index(["arm", "cell"])["balanced_accuracy"]
    found = []
    for (arm, group), value in known["value"].items():
        if arm == BASE:
            continue
        own = paper.cell_groups(paper.SEEN[arm])[group]
        there = value - np.mean([cells[BASE, cell] for cell in own])
        row: dict[str, Any] = {"arm": arm, "group": group, "published": there}
        outcome = NOT_TESTED
        if (arm, group) in ours.index:
            here = ours.loc[(arm, group)]
            row |= here[["difference", "low", "high"]].to_dict()
            outcome = _outcome(there, here) if _enough(here) else TOO_FEW
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


def longer(
    opened: pd.DataFrame, drawn: pd.DataFrame, seen: Mapping[str, Collection[str]],
    rng: np.random.Generator, resamples: int = CELL_RESAMPLES,
) -> pd.DataFrame:
    """AUROC of arms that learned from more than the rest, beside the base on the same samples.

    Parameters
    ----------
    opened, drawn : DataFrame
        Judged rows of the base and of these arms: of the open tier in their own cells, and of the
        samples that every arm was asked about. Either may be empty.
    seen : mapping of str to collection of str
        Arm to the cells with a component in its training data.
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
    kinds = ((OWN_OPEN, opened, paper.SEEN_CELLS), (paper.UNSEEN_SG, drawn, paper.UNSEEN_SG))
    for arm in sorted(set(opened["name"]) - {BASE}):
        for where, rows, group in kinds:
            cells = paper.cell_groups(seen[arm])[group]
            # Both are measured on the same cells.
            both = Transfer(rows, dict.fromkeys((BASE, arm), cells), resamples)
            gap = both.differences(rng, [paper.SEEN_CELLS], reference=BASE)
            row = gap[gap["metric"] == "auroc"].iloc[0]
            both = replace(both, judged=rows[rows["cell"].isin(cells)], resamples=1)
            level = both.means(rng, [paper.SEEN_CELLS])
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


def _holm_within(table: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """Holm's adjustment of ``p`` within groups; a missing p stays missing and does not count."""
    adjusted = pd.Series(np.nan, index=table.index)
    for _, part in table.dropna(subset="p").groupby(list(keys))["p"]:
        adjusted[part.index] = holm(part.to_numpy())
    return adjusted
