"""What a promise about false alarms is worth: the benchmark split anew, many times."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from monitorlab.evaluation.operating_points import ALL, check_scope, operating_scores
from monitorlab.evaluation.panel import first_draws
from monitorlab.online.ranks import RANK_RULES

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def resplit_check(
    judged: pd.DataFrame,
    level: float,
    calibrator: str = "crc",
    scope: str = "cell",
    rng: np.random.Generator | None = None,
    n: int = 1000,
    unit: str = "pair",
    delta: float = 0.1,
    split_column: str = "split",
) -> pd.DataFrame:
    r"""Split the benchmark anew, many times, calibrate each time, and look at the test FAR.

    The promise of CRC is about the mean over splits. The promise :math:`P(R > \epsilon) \le \delta`
    is about the true rate, and the FAR of m test samples scatters around that, so more than
    delta of the splits may show a test FAR above epsilon. The exact reference for exchangeable
    samples without ties: with rank k of n dev samples, the test false alarms are
    BetaBinomial(m, k, n + 1 - k). Ties make fewer alarms.

    Splitting by *pair* shuffles the benign samples, which makes them exchangeable by construction:
    mean and exceedance then agree with the reference for any monitor, which checks the rule and not
    the benchmark. Splitting by *scenario*, as the benchmark's own dev split does, keeps the samples
    of a scenario on one side. If they resemble each other, dev holds less information than n
    samples, the exceedance is above the reference, and the promise for single samples does not
    hold for new scenarios. The distance between both units is what clustering costs.

    Parameters
    ----------
    judged : DataFrame
        Verdicts joined with their samples. First draws only.
    level, calibrator, delta
        As in `operating_points.calibrated_points`.
    scope : {"cell", "global"}
        One threshold per cell, or one for all.
    rng : Generator, optional
        For the splits; seed 0 by default.
    n : int
        Splits.
    unit : {"pair", "scenario"}
        What stays together. The number of dev units is that of `split_column`.

    Returns
    -------
    DataFrame
        One row per name and cell: ``unit``, ``n_dev`` and ``n_test`` (mean benign samples),
        ``mean_far``, ``far_q10``, ``far_q90``, ``exceed`` (share of splits with a test FAR above
        the level) and the exchangeable reference ``mean_far_expected``, ``exceed_expected``,
        ``true_exceed_expected`` (of the true rate, Beta(k, n + 1 - k)).
    """
    check_scope(scope)
    if unit not in ("pair", "scenario"):
        raise ValueError(f"unit is {unit!r}, expected pair or scenario")
    rng = np.random.default_rng(0) if rng is None else rng
    frame = first_draws(judged).assign(_score=lambda f: operating_scores(f))
    benign = frame[frame["label"] == 0]
    keys = ["name", "cell"] if scope == "cell" else ["name"]
    rows = []
    for key, part in benign.groupby(keys, sort=False):
        where = {"name": key[0], "cell": key[1] if scope == "cell" else ALL, "unit": unit}
        dev = _random_dev(part, f"{unit}_id", split_column, rng, n)
        rows.append(where | _resplit_row(part["_score"].to_numpy(), dev, level, calibrator, delta))
    return pd.DataFrame(rows)


def _random_dev(
    part: pd.DataFrame, column: str, split_column: str, rng: np.random.Generator, n: int
) -> BoolArray:
    """Random dev memberships, shape (n, n_rows), with as many dev units as now."""
    names, code = np.unique(part[column].to_numpy(), return_inverse=True)
    n_dev = part.loc[part[split_column] == "dev", column].nunique()
    rank = np.argsort(np.argsort(rng.random((n, len(names))), axis=1), axis=1)
    return np.asarray((rank < n_dev)[:, code], dtype=bool)


def _resplit_row(
    scores: FloatArray, dev: BoolArray, level: float, calibrator: str, delta: float
) -> dict[str, float]:
    n, k, false = resplit_alarms(scores, dev, level, calibrator, delta)
    m = len(scores) - n
    used = m > 0
    far = false[used] / m[used]
    mean, exceed, true = expected_far(n[used], m[used], k[used], level)
    return {
        "n_dev": float(n.mean()), "n_test": float(m.mean()), "mean_far": float(far.mean()),
        "far_q10": float(np.quantile(far, 0.1)), "far_q90": float(np.quantile(far, 0.9)),
        "exceed": float(np.mean(far > level + 1e-12)), "mean_far_expected": float(mean.mean()),
        "exceed_expected": float(exceed.mean()), "true_exceed_expected": float(true.mean()),
    }


def resplit_alarms(
    scores: FloatArray, dev: BoolArray, level: float, calibrator: str, delta: float = 0.1
) -> tuple[IntArray, IntArray, IntArray]:
    """Calibrate on many splits of the same benign scores at once.

    Parameters
    ----------
    scores : ndarray, shape (n_samples,)
        Operating scores of benign samples.
    dev : ndarray of bool, shape (n_splits, n_samples)
        Who calibrates; the others are tested.
    level, calibrator, delta
        As in `operating_points.calibrated_points`.

    Returns
    -------
    n_dev, rank, false_alarms : ndarray of int, shape (n_splits,)
        Of each split; what :func:`monitorlab.online.calibration.calibrate` and counting give.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    above = np.searchsorted(-falling, -falling, side="left")  # samples strictly above each one
    taken: IntArray = np.cumsum(dev[:, order], axis=1, dtype=np.int64)
    n: IntArray = taken[:, -1]
    rule = {size: RANK_RULES[calibrator](int(size), level, delta) for size in np.unique(n)}
    k = np.array([rule[size] for size in n], dtype=np.int64)
    at = np.argmax(taken >= np.maximum(k, 1)[:, None], axis=1)
    alarms = np.where(k > 0, above[at], 0)
    rows = np.arange(len(dev))
    own = np.where(alarms > 0, taken[rows, np.maximum(alarms, 1) - 1], 0)
    return n, k, alarms - own


def expected_far(
    n_dev: ArrayLike, n_test: ArrayLike, rank: ArrayLike, level: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Exchangeable reference: mean test FAR, P(test FAR > level) and P(true FAR > level).

    Parameters
    ----------
    n_dev, n_test, rank : array_like of int
        Benign dev and test samples, and the rank k of the threshold (0 is never alarm).
    level : float
        In (0, 1).
    """
    n, m, k = (np.asarray(value, dtype=np.int64) for value in (n_dev, n_test, rank))
    some = np.maximum(k, 1)
    most = np.floor(level * m + 1e-9)
    exceed = stats.betabinom.sf(most, m, some, n + 1 - some)
    true = stats.beta.sf(level, some, n + 1 - some)
    return k / (n + 1), np.where(k > 0, exceed, 0.0), np.where(k > 0, true, 0.0)
