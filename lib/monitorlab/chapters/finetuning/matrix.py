"""The matrix of arms and cells: what every arm does in every cell, at its own or a set threshold.

Rows of `judged` come from :func:`monitorlab.evaluation.rates.join`, with the arm as ``name``: one
verdict per arm and sample, dev and test.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from monitorlab.chapters.finetuning.published import SEEN
from monitorlab.evaluation.bootstrap import CELL_RESAMPLES, CellDraws, split_rows
from monitorlab.evaluation.operating_points import ALL, calibrated_points, operating_scores
from monitorlab.evaluation.rates import SCENARIO, rates
from monitorlab.monitors.verdicts import PARSED
from monitorlab.storage.tables import CELLS

SCOPES = ("cell", "task", "category", "global")
_RATES = tuple(f"{rate}{end}" for rate in ("mr", "far", "balanced_accuracy", "g2")
               for end in ("", "_low", "_high"))


def matrix(
    judged: pd.DataFrame,
    arms: Sequence[str],
    *,
    seen: Mapping[str, Collection[str]] = SEEN,
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


def _thresholds(
    judged: pd.DataFrame, level: float, scope: str = "cell", calibrator: str = "crc",
    unit: str = SCENARIO,
) -> pd.DataFrame:
    """Thresholds calibrated on benign dev samples, per arm and scope.

    Parameters
    ----------
    judged : DataFrame
        Dev and test rows.
    level : float
        False alarm rate to keep to, in (0, 1).
    scope : {"cell", "task", "category", "global"}
        What has a threshold of its own; the column must be there.
    calibrator : str
        ``crc`` keeps the expected rate below the level; with probability .9 the rate itself is
        kept by ``hoeffding_bentkus`` (scenarios) or ``binomial`` (pairs).
    unit : {"scenario", "pair"}
        What is taken as exchangeable, as in :func:`~.operating_points.calibrated_points`.

    Returns
    -------
    DataFrame
        One row per arm and unit: ``arm``, ``scope``, ``unit`` (cell, task, category or ``all``),
        ``threshold`` (alarm if the score is above it; ``inf`` never alarms), ``state``
        (``calibrated``; ``never_alarm`` where there are fewer than ``n_needed`` dev units;
        ``too_many_failures`` where failed verdicts use up the level, so that nothing alarms),
        ``n_dev`` (benign dev samples), ``dev_units``, ``n_needed``, ``dev_far``.

    Raises
    ------
    ValueError
        For an unknown scope, or as :func:`~.operating_points.calibrated_points`.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope is {scope!r}, expected one of {', '.join(SCOPES)}")
    # Tasks and categories are calibrated as if they were cells.
    units = judged if scope == "global" else judged.assign(cell=judged[scope])
    points = calibrated_points(units, [level], [calibrator], "global" if scope == "global"
                               else "cell", unit=unit)
    points = points[(points["cell"] == ALL) == (scope == "global")]
    points = points.drop(columns="unit").rename(columns={"name": "arm", "cell": "unit"})
    points = points.assign(scope=scope)
    return points[["arm", "scope", "unit", "threshold", "state", "n_dev", "dev_units", "n_needed",
                   "dev_far"]].reset_index(drop=True)


def at_threshold(
    judged: pd.DataFrame, level: float, scope: str = "cell", calibrator: str = "crc",
    unit: str = SCENARIO,
) -> pd.DataFrame:
    """Replace verdicts by alarms at calibrated thresholds.

    A failed verdict becomes an alarm (it goes to a person), which the calibration has counted, or
    a silence where no threshold keeps the level. Every verdict is then decided: status ``parsed``.
    Dev rows are decided too, by thresholds they helped to choose: report test rows.

    Parameters
    ----------
    judged, level, scope, calibrator, unit
        As in `_thresholds`.

    Returns
    -------
    DataFrame
        The rows of `judged` with a new ``verdict`` and ``status``, the old status as
        ``status_before``, and ``threshold`` and ``state`` of the rule. Scores stay, so AUROC does.
    """
    table = _thresholds(judged, level, scope, calibrator, unit)
    where = pd.Series(ALL, index=judged.index) if scope == "global" else judged[scope]
    rules = table.set_index(["arm", "unit"])[["threshold", "state"]]
    own = rules.loc[pd.MultiIndex.from_arrays([judged["name"], where])].set_index(judged.index)
    alarm = operating_scores(judged) > own["threshold"].to_numpy()
    return judged.assign(
        status_before=judged["status"], status=PARSED,
        verdict=pd.array(alarm, dtype="boolean"), threshold=own["threshold"].to_numpy(),
        state=own["state"].to_numpy(),
    )
