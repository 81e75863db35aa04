r"""Did an arm learn to tell apart, or did it move its threshold?

In the equal-variance model of signal detection (see
:class:`monitorlab.evaluation.tradeoff._Decomposition`) a pair of rates is a discrimination
:math:`d' = z(TPR) - z(FAR)` and a criterion :math:`c = -(z(TPR) + z(FAR))/2`, high for few alarms:
:math:`z(MR) = c - d'/2`, :math:`z(FAR) = -c - d'/2`. A change of a rate is the part that a change
of c alone makes plus the part that a change of d' alone makes; each part is the mean over both
orders of making the two changes, so they add up exactly. The model needs no scores. Where there
are some, AUROC, which no threshold can move, decides what is said about discrimination.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm

from monitorlab.evaluation.bootstrap import Bootstrap, intervals
from monitorlab.evaluation.cell_draws import RESAMPLES, cell_draws, cell_gaps, in_order, split_rows
from monitorlab.evaluation.operating_points import default_alarms
from monitorlab.evaluation.panel import SCENARIO
from monitorlab.evaluation.tradeoff import decompose
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics.intervals import FloatArray
from monitorlab.statistics.roc import detection
from monitorlab.storage.tables import CELLS

BASE = "base"  # what arms are compared with
CHANGES = ("d_prime_change", "criterion_change", "mr_change", "mr_by_discrimination",
           "mr_by_criterion", "far_change", "far_by_discrimination", "far_by_criterion",
           "criterion_share")  # fmt: skip
BETTER, WORSE, UNCLEAR = "better", "worse", "unclear"
FEWER, MORE = "fewer alarms", "more alarms"


def _split_change(
    before: tuple[FloatArray, FloatArray], after: tuple[FloatArray, FloatArray]
) -> dict[str, FloatArray]:
    """Split changes of MR and FAR into discrimination and criterion.

    Parameters
    ----------
    before, after : (d', c) from `detection`
        Arrays of shapes that fit each other.

    Returns
    -------
    dict of str to ndarray of float
        The names in `CHANGES`, after minus before. ``mr_by_discrimination`` and ``mr_by_criterion``
        add up to ``mr_change``, which is of the corrected rates; likewise for ``far``.
        ``criterion_share`` = 2 dc² / (2 dc² + dd'²/2), in [0, 1]: share of the squared change of
        z(MR) and z(FAR) that is criterion; NaN if nothing changes.
    """
    (d0, c0), (d1, c1) = before, after
    found = {"d_prime_change": d1 - d0, "criterion_change": c1 - c0}
    for rate, sign in (("mr", 1), ("far", -1)):
        old, new = norm.cdf(sign * c0 - d0 / 2), norm.cdf(sign * c1 - d1 / 2)
        only_c, only_d = norm.cdf(sign * c1 - d0 / 2), norm.cdf(sign * c0 - d1 / 2)
        found[f"{rate}_change"] = new - old
        found[f"{rate}_by_discrimination"] = ((only_d - old) + (new - only_c)) / 2
        found[f"{rate}_by_criterion"] = ((only_c - old) + (new - only_d)) / 2
    moved, learned = 2 * (c1 - c0) ** 2, (d1 - d0) ** 2 / 2
    whole = moved + learned
    found["criterion_share"] = np.where(whole > 0, moved / np.where(whole > 0, whole, 1), np.nan)
    return found


def discrimination_or_threshold(
    judged: pd.DataFrame,
    *,
    reference: str = BASE,
    arms: Sequence[str] = (),
    rng: np.random.Generator | None = None,
    resamples: int = RESAMPLES,
    cells: Sequence[str] = CELLS,
    split: str = "test",
    level: float = 0.95,
    unit: str = SCENARIO,
) -> pd.DataFrame:
    """Change of every arm against a reference in each cell: discrimination, or criterion?

    Failed verdicts are alarms here, as in ``decompose``.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, with the arm as ``name``.
    reference : str
        The arm that the others are compared with.
    arms : sequence of str
        The others, in the order of the rows; all that `judged` has, if empty.
    rng : Generator, optional
        Draws units, shared by all arms; seed 0 by default.
    resamples, cells, split, level, unit
        As in `matrix`.

    Returns
    -------
    DataFrame
        One row per arm and cell that both were measured in: ``arm``, ``cell``, ``mr_before``,
        ``far_before`` (of the reference), ``mr``, ``far``, ``d_prime_before``, ``d_prime``,
        ``criterion_before``, ``criterion``; ``auroc_change`` (over the samples that both scored)
        and the names in `CHANGES`, each with ``_low`` and ``_high`` from resampled units.
        ``discrimination``: ``better``, ``worse`` or ``unclear``, by whether the interval of
        ``auroc_change`` (without scores ``d_prime_change``: see ``measured_by``) excludes 0.
        ``criterion_moved``: ``fewer alarms``, ``more alarms`` or
        ``unclear``. Intervals are per row, not corrected for their number.

    Raises
    ------
    ValueError
        As `split_rows`.
    """
    others = list(arms) or [name for name in dict.fromkeys(judged["name"]) if name != reference]
    rows = split_rows(judged, [reference, *others], split)
    failed = rows["status"] != PARSED
    rows = rows.assign(verdict=pd.array(default_alarms(rows), dtype="boolean"), status=PARSED,
                       score=rows["score"].mask(failed))
    rng = rng or np.random.default_rng(0)
    again = copy.deepcopy(rng)  # areas are compared on the same resamples
    draws = cell_draws(rows, [reference, *others], rng, resamples, metrics=["mr", "far"],
                       cells=cells, unit=unit)
    areas = cell_gaps(rows, others, reference, again, resamples, metrics=["auroc"], cells=cells,
                      unit=unit)
    tables = []
    for cell in cells:
        part = rows[rows["cell"] == cell]
        if reference in set(part["name"]):
            here = [arm for arm in others if arm in set(part["name"])]
            found, names = areas.over(here, [cell]), [reference, *here]
            tables.append(_of_cell(part, names, draws.over(names, [cell]).draws,
                                   (found.values[0, 0], found.draws[0, 0]), level))
    if not any(len(table) for table in tables):
        raise ValueError(f"{reference!r} and the other arms have no cell in common among "
                         f"{', '.join(cells)}: score both on the same samples")
    return _with_readings(in_order(pd.concat(tables), arm=others, cell=cells))


def _of_cell(
    part: pd.DataFrame, names: Sequence[str], draws: FloatArray,
    areas: tuple[FloatArray, FloatArray], level: float,
) -> pd.DataFrame:
    """Changes in one cell.

    `draws` is (metrics, names, resamples), the reference first; `areas` holds the changes of AUROC
    of the others, and in every resample.
    """
    found = decompose(part).monitors.set_index("name").loc[list(names)]
    classes = part.drop_duplicates("sample_id")["label"]
    n_bad, n_benign = int((classes == 1).sum()), int((classes == 0).sum())
    point = (found["d_prime"].to_numpy(), found["criterion"].to_numpy())
    # The correction needs counts: those of the cell, though scenarios differ a little in size.
    drawn = detection(draws[0], draws[1], n_bad, n_benign)
    values = _changes(point[0], point[1], areas[0])
    spread = _changes(drawn[0], drawn[1], areas[1])
    metrics = tuple(values)
    others = list(names)[1:]
    long = intervals(Bootstrap(np.asarray(others, object), metrics,
                               np.stack([values[m] for m in metrics]),
                               np.stack([spread[m] for m in metrics]),
                               np.zeros(len(others), np.int64)), level)
    table = pd.DataFrame({"arm": others, "cell": part["cell"].iloc[0]})
    for column in ("mr", "far", "d_prime", "criterion"):
        table[f"{column}_before"] = found[column].iloc[0]
        table[column] = found[column].to_numpy()[1:]
    for metric in metrics:
        own = long[long["metric"] == metric].set_index("name").loc[others]
        for end, source in (("", "value"), ("_low", "low"), ("_high", "high")):
            table[metric + end] = own[source].to_numpy()
    return table


def _changes(d: FloatArray, c: FloatArray, area: FloatArray) -> dict[str, FloatArray]:
    """Changes of all arms but the first against the first, in arrays with arms along axis 0."""
    found = {"auroc_change": area}
    return found | _split_change((d[:1], c[:1]), (d[1:], c[1:]))


def _with_readings(table: pd.DataFrame) -> pd.DataFrame:
    """Say in words which changes an interval without 0 shows."""
    scored = table["auroc_change"].notna().to_numpy()
    low, high = (np.where(scored, table[f"auroc_change_{end}"], table[f"d_prime_change_{end}"])
                 for end in ("low", "high"))
    moved = table["criterion_change_low"] > 0, table["criterion_change_high"] < 0
    return table.assign(
        measured_by=np.where(scored, "auroc", "d_prime"),
        discrimination=np.select([low > 0, high < 0], [BETTER, WORSE], UNCLEAR),
        criterion_moved=np.select(list(moved), [FEWER, MORE], UNCLEAR),
    )


def shift_of_rates(frame: pd.DataFrame, pairs: Mapping[str, int]) -> pd.DataFrame:
    """The same split for rates alone, such as published ones: no scores, no intervals.

    Parameters
    ----------
    frame : DataFrame
        Columns ``arm``, ``cell``, ``mr``, ``far``; one row per arm and cell, such as
        `published` of the chapter on fine-tuning.
    pairs : mapping of str to int
        Cell to the samples of each class that the rates are shares of.

    Returns
    -------
    DataFrame
        One row per arm other than ``base`` and cell: ``arm``, ``cell``, rates, d' and c before and
        after, and the names in `CHANGES`.
    """
    n = frame["cell"].map(pairs)
    d_prime, criterion = detection(frame["mr"], frame["far"], n, n)
    table = frame[["arm", "cell", "mr", "far"]].assign(d_prime=d_prime, criterion=criterion)
    base = table[table["arm"] == BASE].drop(columns="arm")
    if base.empty:
        raise ValueError(f"no rates of {BASE!r}, expected one row per cell: there are those "
                         f"of {', '.join(dict.fromkeys(table['arm']))}")
    others = table[table["arm"] != BASE]
    both = others.merge(base, on="cell", how="left", suffixes=("", "_before"), validate="m:1")
    d0, c0, d1, c1 = (both[column].to_numpy() for column in (
        "d_prime_before", "criterion_before", "d_prime", "criterion"))
    return both.assign(**_split_change((d0, c0), (d1, c1)))
