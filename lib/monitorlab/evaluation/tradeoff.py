"""Monitors in the plane of both errors: front, common line, and threshold apart from skill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import linregress, norm, pearsonr, t

from monitorlab.evaluation.operating_points import default_rates
from monitorlab.evaluation.panel import first_draws
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics.roc import auroc, detection

FEWEST = 4  # Fisher's z has the standard error 1 / sqrt(n - 3)


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


def fit_line(rates: pd.DataFrame, level: float = 0.95) -> Line:
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
        return Line(len(points), *[float("nan")] * 8)
    line = linregress(mr, far)
    correlation = pearsonr(mr, far)
    low, high = correlation.confidence_interval(level)
    half = line.stderr * t.ppf((1 + level) / 2, len(points) - 2)
    values = (line.slope, line.intercept, line.slope - half, line.slope + half,
              correlation.statistic, low, high, correlation.pvalue)
    return Line(len(points), *(float(value) for value in values))


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
        Per name: ``auroc`` (scored samples; missing without scores), ``auroc_rank`` (1 is best),
        ``alarm_rate``, ``mr``, ``far``, ``d_prime``, ``criterion``.
    var_d, var_c : float
        Sample variances over monitors.
    criterion_share : float
        2 var_c / (2 var_c + var_d / 2), in [0, 1]: share of the variation along the curve.
    r : float
        Pearson correlation of MR and FAR as found.
    r_same_criterion, r_same_discrimination : float
        The same if all monitors had the mean c, or the mean d'. These are poles, near +1 and -1 by
        construction (with one c both errors fall as d' grows); the data decide between them.
    rho_auroc_alarms : float
        Spearman correlation of AUROC and alarm rate: whether better monitors alarm more often.

    References
    ----------
    Green and Swets (1966); Macmillan and Creelman (2005), chapters 1-2.
    """

    monitors: pd.DataFrame
    var_d: float
    var_c: float
    criterion_share: float
    r: float
    r_same_criterion: float
    r_same_discrimination: float
    rho_auroc_alarms: float


def decompose(judged: pd.DataFrame) -> _Decomposition:
    """Split the variation of default (MR, FAR) over monitors into criterion and discrimination.

    Rates of 0 and 1 have no z: every rate is (count + 1/2) / (n + 1), the log-linear correction
    of Hautus (1995). Failed verdicts are alarms. Correlations need two monitors that differ, and
    are NaN otherwise.

    Parameters
    ----------
    judged : DataFrame
        Verdicts of several monitors joined with their samples. First draws only.
    """
    table = default_rates(judged)
    areas = first_draws(judged).groupby("name", sort=False)[list(judged.columns)].apply(_area_of)
    d, c = detection(table["mr"], table["far"], table["n_bad"], table["n_benign"])
    table = table[["name", "alarm_rate", "mr", "far"]].assign(
        d_prime=d, criterion=c, auroc=areas.reindex(table["name"]).to_numpy(dtype=np.float64)
    )
    table["auroc_rank"] = table["auroc"].rank(ascending=False)
    many = len(table) > 1
    var_d, var_c = (float(np.var(v, ddof=1)) if many else np.nan for v in (d, c))
    spread = 2 * var_c + var_d / 2
    scored = table.dropna(subset="auroc")
    return _Decomposition(
        table, var_d, var_c, 2 * var_c / spread if spread > 0 else np.nan,
        _correlation(table["mr"], table["far"]),
        _correlation(norm.cdf(c.mean() - d / 2), norm.cdf(-c.mean() - d / 2)),
        _correlation(norm.cdf(c - d.mean() / 2), norm.cdf(-c - d.mean() / 2)),
        _correlation(scored["auroc"].rank(), scored["alarm_rate"].rank()),
    )


def _area_of(part: pd.DataFrame) -> float:
    scored = part[part["score"].notna() & (part["status"] == PARSED)]
    if scored["label"].nunique() < 2:
        return np.nan
    return auroc(scored["score"].to_numpy(dtype=np.float64), scored["label"].to_numpy())


def _correlation(one: ArrayLike, other: ArrayLike) -> float:
    """Pearson correlation; NaN where either side does not vary."""
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) < 1e-12 or np.ptp(y) < 1e-12:
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])
