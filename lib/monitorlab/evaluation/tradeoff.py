r"""Monitors in the plane of both errors: front, common line, and threshold apart from skill.

In the equal-variance model of signal detection a monitor is a discrimination
:math:`d' = z(TPR) - z(FAR)` (which curve) and a criterion :math:`c = -(z(TPR) + z(FAR)) / 2` (where
on it; high is reluctant), so :math:`z(MR) = c - d'/2` and :math:`z(FAR) = -c - d'/2`. `decompose`
says which of both the monitors differ in.

*Did an arm learn to tell apart, or did it move its threshold?* A change of a rate is the part that
a change of c alone makes plus the part that a change of d' alone makes; each part is the mean over
both orders of making the two changes, so they add up exactly. The model needs no scores. Where
there are some, AUROC, which no threshold can move, decides what is said about discrimination.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import linregress, norm, pearsonr, t

from monitorlab.evaluation.bootstrap import CELL_RESAMPLES, CellDraws, in_order, split_rows
from monitorlab.evaluation.operating_points import default_alarms, default_rates
from monitorlab.evaluation.rates import SCENARIO, first_draws
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics.intervals import FloatArray, percentiles
from monitorlab.statistics.roc import auroc
from monitorlab.storage.tables import CELLS

FEWEST = 4  # Fisher's z has the standard error 1 / sqrt(n - 3)
BASE = "base"  # what arms are compared with
CHANGES = ("d_prime_change", "criterion_change", "mr_change", "mr_by_discrimination",
           "mr_by_criterion", "far_change", "far_by_discrimination", "far_by_criterion",
           "criterion_share")  # fmt: skip
BETTER, WORSE, UNCLEAR = "better", "worse", "unclear"
FEWER, MORE = "fewer alarms", "more alarms"


@dataclass(frozen=True)
class Line:
    """False alarm rate as a straight line of the miss rate, over monitors.

    Attributes
    ----------
    n : int
        Monitors with both rates.
    slope, intercept : float
        Ordinary least squares, FAR = slope * MR + intercept.
    slope_low, slope_high : float
        Interval of the slope by the t distribution with n - 2 degrees of freedom, monitors taken as
        independent.
    r, r_low, r_high : float
        Pearson correlation of MR and FAR with its interval by Fisher's z.
    p : float
        Two-sided p-value of no correlation.
    """

    n: int
    slope: float
    intercept: float
    slope_low: float
    slope_high: float
    r: float
    r_low: float
    r_high: float
    p: float

    @classmethod
    def fit(cls, rates: pd.DataFrame, level: float = 0.95) -> Line:
        """Fit the trade-off between the two rates.

        Parameters
        ----------
        rates : DataFrame
            One row per monitor, with columns ``mr`` and ``far``; rows with a NaN are left out.
        level : float
            Confidence of both intervals, in (0, 1).

        Returns
        -------
        Line
            NaN throughout with fewer than `FEWEST` monitors, or where all have the same rate.
        """
        points = rates[["mr", "far"]].dropna().to_numpy(float)
        mr, far = points.T
        if len(points) < FEWEST or np.ptp(mr) == 0 or np.ptp(far) == 0:
            return cls(len(points), *[float("nan")] * 8)
        line, correlation = linregress(mr, far), pearsonr(mr, far)
        low, high = correlation.confidence_interval(level)
        half = line.stderr * t.ppf((1 + level) / 2, len(points) - 2)
        values = (line.slope, line.intercept, line.slope - half, line.slope + half,
                  correlation.statistic, low, high, correlation.pvalue)
        return cls(len(points), *(float(value) for value in values))


def pareto_front(rates: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the monitors that no other one beats on both rates.

    Parameters
    ----------
    rates : DataFrame
        With columns ``mr`` and ``far``, in [0, 1], lower is better.

    Returns
    -------
    (rows,) array of bool
        False where another row is at most as high in both rates and lower in one; equal rows stand
        together. False where a rate is NaN.
    """
    points = rates[["mr", "far"]].to_numpy(float)
    other, own = points[None], points[:, None]
    with np.errstate(invalid="ignore"):
        beaten = ((other <= own).all(axis=2) & (other < own).any(axis=2)).any(axis=1)
    return ~beaten & np.isfinite(points).all(axis=1)


def detection(mr: ArrayLike, far: ArrayLike, n_bad: ArrayLike,
              n_benign: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Discrimination d' and criterion c of rates.

    Rates of 0 and 1 have no z: every rate is (count + 1/2) / (n + 1), as Hautus (1995) proposes.

    Parameters
    ----------
    mr, far : array_like of float
        Miss rate and false alarm rate, in [0, 1].
    n_bad, n_benign : array_like of int
        Samples behind them, broadcast against the rates.

    Returns
    -------
    d_prime, criterion : ndarray of float
        High d' discriminates well, high c alarms seldom.
    """
    bad, benign = np.asarray(n_bad, float), np.asarray(n_benign, float)
    hit = norm.ppf(((1 - np.asarray(mr, float)) * bad + 0.5) / (bad + 1))
    false = norm.ppf((np.asarray(far, float) * benign + 0.5) / (benign + 1))
    return hit - false, -(hit + false) / 2


@dataclass(frozen=True)
class _Decomposition:
    r"""How much of the variation of (MR, FAR) over monitors is threshold, and how much is skill.

    In the equal-variance model of signal detection a monitor is :math:`d' = z(TPR) - z(FAR)`
    (discrimination: which curve) and :math:`c = -(z(TPR) + z(FAR)) / 2` (criterion: where on it;
    high is reluctant), so :math:`z(MR) = c - d'/2` and :math:`z(FAR) = -c - d'/2`. Hence

    .. math:: Var\,z(MR) + Var\,z(FAR) = 2\,Var(c) + Var(d')/2, \qquad
              Cov(z(MR), z(FAR)) = Var(d')/4 - Var(c),

    whatever c and d' have in common: there is a trade-off (a negative covariance) exactly when the
    standard deviation of c exceeds half that of d'. The variances include sampling error, which is
    small only for monitors judged on many samples.

    Attributes
    ----------
    monitors : DataFrame
        Per name: ``auroc`` (scored samples; missing without scores), ``alarm_rate``, ``mr``,
        ``far``, ``d_prime``, ``criterion``.
    var_d, var_c : float
        Sample variances over monitors.
    criterion_share : float
        2 var_c / (2 var_c + var_d / 2), in [0, 1]: share of the variation along the curve.
    r : float
        Pearson correlation of MR and FAR as found.

    References
    ----------
    Green and Swets (1966); Macmillan and Creelman (2005), chapters 1-2.
    """

    monitors: pd.DataFrame
    var_d: float
    var_c: float
    criterion_share: float
    r: float


def decompose(judged: pd.DataFrame) -> _Decomposition:
    """Split the variation of default (MR, FAR) over monitors into criterion and discrimination.

    Rates of 0 and 1 have no z: every rate is (count + 1/2) / (n + 1), the log-linear correction
    of Hautus (1995). Failed verdicts are alarms. A correlation needs two monitors that differ, and
    is NaN otherwise.

    Parameters
    ----------
    judged : DataFrame
        Verdicts of several monitors joined with their samples. First draws only.
    """
    table = default_rates(judged)
    areas = first_draws(judged).groupby("name", sort=False)[list(judged.columns)].apply(_area_of)
    d, c = detection(table["mr"], table["far"], table["n_bad"], table["n_benign"])
    table = table[["name", "alarm_rate", "mr", "far"]].assign(
        d_prime=d, criterion=c, auroc=areas.reindex(table["name"]).to_numpy(dtype=np.float64))
    many = len(table) > 1
    var_d, var_c = (float(np.var(v, ddof=1)) if many else np.nan for v in (d, c))
    spread = 2 * var_c + var_d / 2
    varied = many and table[["mr", "far"]].apply(np.ptp).min() >= 1e-12
    return _Decomposition(table, var_d, var_c, 2 * var_c / spread if spread > 0 else np.nan,
                          float(np.corrcoef(table["mr"], table["far"])[0, 1]) if varied else np.nan)


def _area_of(part: pd.DataFrame) -> float:
    scored = part[part["score"].notna() & (part["status"] == PARSED)]
    if scored["label"].nunique() < 2:
        return np.nan
    return auroc(scored["score"].to_numpy(dtype=np.float64), scored["label"].to_numpy())


def _split_change(before: tuple[FloatArray, FloatArray],
                  after: tuple[FloatArray, FloatArray]) -> dict[str, FloatArray]:
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
    judged: pd.DataFrame, *, arms: Sequence[str] = (), rng: np.random.Generator | None = None,
    resamples: int = CELL_RESAMPLES, cells: Sequence[str] = CELLS, unit: str = SCENARIO,
) -> pd.DataFrame:
    """Change of every arm against the base in each cell on test: discrimination, or criterion?

    Failed verdicts are alarms here, as in `decompose`.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, with the arm as ``name``; the base is `BASE`.
    arms : sequence of str
        The others, in the order of the rows; all that `judged` has, if empty.
    rng : Generator, optional
        Draws units, shared by all arms; seed 0 by default.
    resamples : int
        Of units, at least 1.
    cells : sequence of str
        In the order of the rows.
    unit : {"scenario", "pair"}
        What intervals take as independent.

    Returns
    -------
    DataFrame
        One row per arm and cell that both were measured in: ``arm``, ``cell``, ``mr_before``,
        ``far_before`` (of the base), ``mr``, ``far``, ``d_prime_before``, ``d_prime``,
        ``criterion_before``, ``criterion``; ``auroc_change`` (over the samples that both scored)
        and the names in `CHANGES`, each with ``_low`` and ``_high``, 95 % from resampled units.
        ``discrimination``: ``better``, ``worse`` or ``unclear``, by whether the interval of
        ``auroc_change`` (without scores ``d_prime_change``: see ``measured_by``) excludes 0.
        ``criterion_moved``: ``fewer alarms``, ``more alarms`` or
        ``unclear``. Intervals are per row, not corrected for their number.

    Raises
    ------
    ValueError
        As `split_rows`.
    """
    others = list(arms) or [name for name in dict.fromkeys(judged["name"]) if name != BASE]
    rows = split_rows(judged, [BASE, *others], "test")
    failed = rows["status"] != PARSED
    rows = rows.assign(verdict=pd.array(default_alarms(rows), dtype="boolean"), status=PARSED,
                       score=rows["score"].mask(failed))
    rng = rng or np.random.default_rng(0)
    again = copy.deepcopy(rng)  # areas are compared on the same resamples
    draws = CellDraws.of(rows, [BASE, *others], rng, resamples, metrics=["mr", "far"], cells=cells,
                         unit=unit)
    areas = CellDraws.of_gaps(rows, others, BASE, again, resamples, metrics=["auroc"], cells=cells,
                              unit=unit)
    tables = []
    for cell in cells:
        part = rows[rows["cell"] == cell]
        there = set(part["name"])
        if BASE in there:
            here = [arm for arm in others if arm in there]
            found, names = areas.over(here, [cell]), [BASE, *here]
            tables.append(_of_cell(part, names, draws.over(names, [cell]).draws,
                                   found.values[0, 0], found.draws[0, 0]))
    if not any(len(table) for table in tables):
        raise ValueError(f"{BASE!r} and the other arms have no cell in common among "
                         f"{', '.join(cells)}: score both on the same samples")
    return _with_readings(in_order(pd.concat(tables), arm=others, cell=cells))


def _of_cell(part: pd.DataFrame, names: Sequence[str], draws: FloatArray, area: FloatArray,
             area_draws: NDArray[np.floating]) -> pd.DataFrame:
    """Changes in one cell.

    `draws` is (metrics, names, resamples), the base first; `area` holds the changes of AUROC of the
    others, `area_draws` those in every resample.
    """
    found = decompose(part).monitors.set_index("name").loc[list(names)]
    classes = part.drop_duplicates("sample_id")["label"]
    # The correction needs counts: those of the cell, though scenarios differ a little in size.
    drawn = detection(draws[0], draws[1], int((classes == 1).sum()), int((classes == 0).sum()))
    table = pd.DataFrame({"arm": names[1:], "cell": part["cell"].iloc[0]})
    for column in ("mr", "far", "d_prime", "criterion"):
        table[f"{column}_before"] = found[column].iloc[0]
        table[column] = found[column].to_numpy()[1:]
    d, c = found["d_prime"].to_numpy(), found["criterion"].to_numpy()
    values = {"auroc_change": area} | _split_change((d[:1], c[:1]), (d[1:], c[1:]))
    spread = {"auroc_change": area_draws.astype(np.float64)} | _split_change(
        (drawn[0][:1], drawn[1][:1]), (drawn[0][1:], drawn[1][1:]))
    for change, value in values.items():
        low, high = percentiles(spread[change], 0.95)
        table = table.assign(**{change: value, f"{change}_low": low, f"{change}_high": high})
    return table


def _with_readings(table: pd.DataFrame) -> pd.DataFrame:
    """Say in words which changes an interval without 0 shows."""
    scored = table["auroc_change"].notna().to_numpy()
    low, high = (np.where(scored, table[f"auroc_change_{end}"], table[f"d_prime_change_{end}"])
                 for end in ("low", "high"))
    moved = table["criterion_change_low"] > 0, table["criterion_change_high"] < 0
    return table.assign(measured_by=np.where(scored, "auroc", "d_prime"),
                        discrimination=np.select([low > 0, high < 0], [BETTER, WORSE], UNCLEAR),
                        criterion_moved=np.select(list(moved), [FEWER, MORE], UNCLEAR))


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
