"""What a promise about false alarms is worth: the benchmark split anew, many times."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from monitorlab.evaluation.operating_points import (
    ALL,
    allowed_loss,
    check_calibrator,
    check_scope,
    operating_scores,
    scenario_losses,
)
from monitorlab.evaluation.panel import SCENARIO, first_draws, unit_ids
from monitorlab.statistics.intervals import FloatArray, IntArray
from monitorlab.statistics.ranks import RANK_RULES

BoolArray = NDArray[np.bool_]


def resplit_check(
    judged: pd.DataFrame,
    level: float,
    calibrator: str = "crc",
    scope: str = "cell",
    rng: np.random.Generator | None = None,
    n: int = 1000,
    unit: str = SCENARIO,
    delta: float = 0.1,
    split_by: str = SCENARIO,
) -> pd.DataFrame:
    r"""Split the benchmark anew, many times, calibrate each time, and look at the test FAR.

    The promise of CRC is about the mean over splits. The promise :math:`P(R > \epsilon) \le \delta`
    is about the true rate, and the FAR of a test split scatters around that, so more than delta of
    the splits may show a test FAR above epsilon.

    Three ways to check. *Calibrated and split by pair*: shuffling the benign samples makes them
    exchangeable by construction, so mean and exceedance agree with an exact reference for any
    monitor (with rank k of n dev samples, and without ties, the false alarms among m test samples
    are BetaBinomial(m, k, n + 1 - k)), which checks the rule and not the benchmark. *Calibrated by
    pair, split by scenario*, as the benchmark's own dev split is: if the samples of a scenario
    resemble each other, dev holds less information than n samples, and the promise for single
    samples does not hold for new scenarios. *Calibrated and split by scenario*: it is made for
    those, and pays for it with a lower rate.

    Parameters
    ----------
    judged : DataFrame
        Verdicts joined with their samples. First draws only.
    level, calibrator, unit, delta
        As in `operating_points.calibrated_points`.
    scope : {"cell", "global"}
        One threshold per cell, or one for all.
    rng : Generator, optional
        For the splits; seed 0 by default.
    n : int
        Splits.
    split_by : {"scenario", "pair"}
        What stays together; ``scenario`` where the unit is. The number of dev units is that of
        the column ``split``.

    Returns
    -------
    DataFrame
        One row per name and cell: ``unit``, ``split_by``, ``n_dev`` and ``n_test`` (mean benign
        samples), ``mean_far``, ``far_q10``, ``far_q90``, ``exceed`` (share of splits with a test
        FAR above the level), and, where calibrated by pair, the exchangeable reference
        ``mean_far_expected``, ``exceed_expected``, ``true_exceed_expected`` (of the true rate,
        Beta(k, n + 1 - k)). The test FAR is what the promise is about: the mean over test scenarios
        of their rates by scenario, the share of test samples by pair.
    """
    check_scope(scope)
    check_calibrator(calibrator, unit)
    if unit == SCENARIO != split_by:
        raise ValueError(f"unit is {unit!r} and split_by {split_by!r}, expected scenarios to stay "
                         "whole where they are the units: split_by='scenario'")
    rng = np.random.default_rng(0) if rng is None else rng
    frame = first_draws(judged).assign(_score=lambda rows: operating_scores(rows))
    frame["_kept"] = unit_ids(frame, split_by).to_numpy()
    frame["_unit"] = unit_ids(frame, unit).to_numpy()
    benign = frame[frame["label"] == 0]
    keys = ["name", "cell"] if scope == "cell" else ["name"]
    rows = []
    for key, part in benign.groupby(keys, sort=False):
        where = {"name": key[0], "cell": key[1] if scope == "cell" else ALL, "unit": unit,
                 "split_by": split_by}
        dev, code = _random_dev(part, rng, n)
        scores = part["_score"].to_numpy()
        row = (_scenario_row(scores, dev, code, level, calibrator, delta) if unit == SCENARIO
               else _resplit_row(scores, dev[:, code], level, calibrator, delta))
        rows.append(where | row)
    return pd.DataFrame(rows)


def _random_dev(
    part: pd.DataFrame, rng: np.random.Generator, n: int
) -> tuple[BoolArray, IntArray]:
    """Random dev memberships, (n, kept units), with as many in dev as now; the unit of each row."""
    names, code = np.unique(part["_kept"].to_numpy(), return_inverse=True)
    n_dev = part.loc[part["split"] == "dev", "_kept"].nunique()
    rank = np.argsort(np.argsort(rng.random((n, len(names))), axis=1), axis=1)
    return rank < n_dev, code


def _scenario_row(
    scores: FloatArray, dev: BoolArray, code: IntArray, level: float, calibrator: str, delta: float
) -> dict[str, float]:
    """Thresholds by scenario on many splits: mean losses are one matrix product."""
    _, losses = scenario_losses(scores, code)
    here = dev.sum(axis=1)
    allowed = np.array([allowed_loss(calibrator, int(size), level, delta) for size in here])
    mean = dev.astype(float) @ losses / np.maximum(here, 1)[:, None]
    at = np.argmax(mean <= allowed[:, None] + 1e-12, axis=1)
    rest = ~dev
    far = (rest * losses[:, at].T).sum(axis=1) / np.maximum(rest.sum(axis=1), 1)
    far = np.where(allowed >= 0, far, 0.0)
    sizes = np.bincount(code)
    reference = ("mean_far_expected", "exceed_expected", "true_exceed_expected")
    return _summary(far, dev @ sizes, rest @ sizes, level) | dict.fromkeys(reference, np.nan)


def _resplit_row(
    scores: FloatArray, dev: BoolArray, level: float, calibrator: str, delta: float
) -> dict[str, float]:
    n, k, false = resplit_alarms(scores, dev, level, calibrator, delta)
    m = len(scores) - n
    used = m > 0
    mean, exceed, true = expected_far(n[used], m[used], k[used], level)
    return _summary(false[used] / m[used], n, m, level) | {
        "mean_far_expected": float(mean.mean()), "exceed_expected": float(exceed.mean()),
        "true_exceed_expected": float(true.mean()),
    }


def _summary(far: FloatArray, n: IntArray, m: IntArray, level: float) -> dict[str, float]:
    return {
        "n_dev": float(n.mean()), "n_test": float(m.mean()), "mean_far": float(far.mean()),
        "far_q10": float(np.quantile(far, 0.1)), "far_q90": float(np.quantile(far, 0.9)),
        "exceed": float(np.mean(far > level + 1e-12)),
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
        As in `operating_points.calibrated_points`, by pair.

    Returns
    -------
    n_dev, rank, false_alarms : ndarray of int, shape (n_splits,)
        Of each split; what :func:`monitorlab.statistics.thresholds.calibrate` and counting give.
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
