r"""Thresholds chosen on the dev split, per monitor and task, with a bound on false alarms.

The rule is ``score > threshold``, and what is promised depends on what is taken as exchangeable.

*By scenario*, the default. The loss of scenario g is the share of its benign samples that alarm,

.. math:: L_g(\lambda) = \frac{1}{n_g} \sum_{i \in g} 1[s_i > \lambda] \in [0, 1],

which falls as the threshold rises. If scenarios are exchangeable, so are their losses, whatever
the samples of a scenario have in common. With :math:`\hat R(\lambda)` the mean loss of n dev
scenarios, ``crc`` takes the lowest threshold with

.. math:: \frac{n}{n+1} \hat R(\lambda) + \frac{1}{n+1} \le \epsilon
          \quad\Rightarrow\quad E[L_{n+1}] \le \epsilon,

the expected loss of a *new* scenario. ``hoeffding_bentkus`` takes the lowest one at which the
p-value of :math:`R > \epsilon` is at most delta, so that :math:`P(R > \epsilon) \le \delta` for the
mean loss R over all scenarios; the exact binomial rule needs losses of 0 or 1 and does not apply.

*By pair*: every benign sample is a unit of its own. Calibration is that of
:mod:`monitorlab.statistics.thresholds` with the benign dev scores as peaks: ``crc``, or the exact
``binomial`` rule. The promise is about new samples of the *same* scenarios. Where samples of a
scenario resemble each other, it does not hold for new ones.

A verdict that failed is handed to a person: it counts as an alarm, on benign samples too. It gets
the score `FAILED_SCORE`, above all others, *before* calibration, so the promise covers it. A
monitor that fails on too many benign samples then has no threshold that keeps a level; its state is
``too_many_failures``. In that state, and in ``never_alarm`` (too few units), the only rule that
keeps the promise alarms on nothing, failures included: its miss rate is 1. A parsed verdict without
a score has score 1 or 0, what it says.

What such a promise is worth shows when the benchmark is split anew, many times: `resplit_check`.

References
----------
A. N. Angelopoulos et al., *Conformal risk control*, ICLR 2024 (losses in [0, 1] that are monotone).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from monitorlab.evaluation.rates import PAIR, SCENARIO, first_draws, unit_ids
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics import intervals
from monitorlab.statistics.intervals import Clustered, FloatArray, IntArray, check_level
from monitorlab.statistics.ranks import RANK_RULES, hoeffding_bentkus_p_value, sequences_needed
from monitorlab.statistics.thresholds import CALIBRATED, NEVER_ALARM, calibrate

BoolArray = NDArray[np.bool_]

FAILED_SCORE = 2.0  # parsed scores lie in [0, 1]
LEVELS = (0.01, 0.05, 0.1)
# In expectation, and with probability 1 - delta.
CALIBRATORS: Mapping[str, tuple[str, ...]] = {SCENARIO: ("crc", "hoeffding_bentkus"),
                                              PAIR: ("crc", "binomial")}
SCOPES = ("cell", "global")  # one threshold per cell, or one for all
ALL = "all"
TOO_MANY_FAILURES = "too_many_failures"
PER_CELL = "per_cell"
OWN_DEFAULT = "own default"


def operating_scores(judged: pd.DataFrame) -> FloatArray:
    """Score of every row by which it may alarm: never missing, `FAILED_SCORE` where it failed.

    Returns
    -------
    ndarray, shape (n_rows,)
        The score in [0, 1]; 1 or 0 for a parsed verdict without one; 2 for a failed verdict.
    """
    scores = judged["score"].to_numpy(dtype=np.float64, na_value=np.nan)
    said = judged["verdict"].astype("boolean").fillna(False).to_numpy(bool)
    parsed = (judged["status"] == PARSED).to_numpy(bool)
    return np.where(parsed, np.where(np.isnan(scores), said, scores), FAILED_SCORE)


def default_alarms(judged: pd.DataFrame) -> BoolArray:
    """Alarms at each monitor's own threshold: its verdict, and every failed verdict."""
    said = judged["verdict"].astype("boolean").fillna(False).to_numpy(bool)
    return said | (judged["status"] != PARSED).to_numpy(bool)


class _Rule(NamedTuple):
    """An alarm rule ``score > value`` with a promise about false alarms.

    Attributes
    ----------
    value : float
        Threshold; ``inf`` never alarms.
    state : str
        ``calibrated``, ``never_alarm`` (too few units) or ``too_many_failures``.
    n, n_needed : int
        Units that calibrated it, and how many are needed for any promise.
    """

    value: float
    state: str
    n: int
    n_needed: int


def choose_rule(scores: FloatArray, units: ArrayLike, level: float, calibrator: str, delta: float,
                unit: str) -> _Rule:
    """Choose a threshold from the operating scores of benign dev samples.

    Parameters
    ----------
    scores : ndarray of float, shape (n_samples,)
        From `operating_scores`.
    units : array_like, shape (n_samples,)
        Scenario of each; not looked at by pair.
    level : float
        False alarm rate to keep to, in (0, 1).
    calibrator, delta, unit
        As in `calibrated_points`.
    """
    _check_calibrator(calibrator, unit)
    if unit == PAIR:
        threshold = calibrate(scores, level, calibrator, delta=delta)
        rule = _Rule(threshold.value, threshold.state, threshold.n, threshold.n_needed)
    else:
        n = len(np.unique(np.asarray(units)))
        allowed, value = _allowed_loss(calibrator, n, level, delta), np.inf
        if allowed >= 0:
            values, losses = _scenario_losses(scores, units)
            value = float(values[np.argmax(losses.mean(axis=0) <= allowed + 1e-12)])
        rule = _Rule(value, NEVER_ALARM if np.isinf(value) else CALIBRATED, n,
                     sequences_needed(calibrator, level, delta))
    if rule.state == CALIBRATED and rule.value >= FAILED_SCORE:
        return rule._replace(state=TOO_MANY_FAILURES)
    return rule


def _scenario_losses(scores: FloatArray, units: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Share of the samples of each scenario that alarm, at every threshold that matters.

    Parameters
    ----------
    scores, units : array_like, shape (n_samples,)
        Operating scores of benign samples, and their scenarios.

    Returns
    -------
    values : (thresholds,) array of float
        The distinct scores, rising.
    losses : (scenarios, thresholds) array of float
        :math:`L_g` in [0, 1] for ``score > value``; falling along a row, 0 at its end. Scenarios
        in sorted order.
    """
    values, step = np.unique(scores, return_inverse=True)
    names, unit = np.unique(np.asarray(units), return_inverse=True)
    here = np.zeros((len(names), len(values)))
    np.add.at(here, (unit, step), 1.0)
    sizes = here.sum(axis=1, keepdims=True)
    return values, (sizes - np.cumsum(here, axis=1)) / sizes


@lru_cache(maxsize=4096)
def _allowed_loss(calibrator: str, n: int, level: float, delta: float = 0.1) -> float:
    """Largest mean loss of n dev scenarios at which the promise still holds; -1 if none does.

    Parameters
    ----------
    calibrator : {"crc", "hoeffding_bentkus"}
        As in `calibrated_points`.
    n : int
        Dev scenarios.
    level, delta : float
        In (0, 1).
    """
    _check_calibrator(calibrator, SCENARIO)
    epsilon = check_level(level)
    if calibrator == "crc":
        return max((epsilon * (n + 1) - 1) / n, 0.0) if epsilon * (n + 1) >= 1 - 1e-9 else -1.0
    check_level(delta, "delta")
    if n == 0 or float(hoeffding_bentkus_p_value(0.0, n, epsilon)) > delta:
        return -1.0
    low, high = 0.0, epsilon  # the p-value does not fall in the mean loss, and is above delta here
    for _ in range(60):
        middle = (low + high) / 2
        if float(hoeffding_bentkus_p_value(middle, n, epsilon)) <= delta:
            low = middle
        else:
            high = middle
    return low


def calibrated_points(judged: pd.DataFrame, levels: Sequence[float] = LEVELS,
                      calibrators: Sequence[str] = (), scope: str = "cell", delta: float = 0.1,
                      unit: str = SCENARIO) -> pd.DataFrame:
    """Choose thresholds on dev and measure them on test.

    Parameters
    ----------
    judged : DataFrame
        Verdicts joined with their samples. First draws only.
    levels : sequence of float
        False alarm rates to keep to, in (0, 1).
    calibrators : sequence of str
        By scenario ``crc`` and ``hoeffding_bentkus``; by pair ``crc``, ``binomial`` or another key
        of ``RANK_RULES``. The two of `CALIBRATORS`, if empty.
    scope : {"cell", "global"}
        One threshold per cell, or one for all of them.
    delta : float
        Error probability of calibrators that promise P(R > level) <= delta.
    unit : {"scenario", "pair"}
        What is taken as exchangeable.

    Returns
    -------
    DataFrame
        One row per name, calibrator, level and cell, and one for all cells together (``all``):
        ``name, cell, scope, unit, calibrator, level, threshold, state, n_dev`` (benign dev
        samples), ``dev_units, n_needed`` (units that there are, and that any promise needs),
        ``dev_far, n_test`` (benign test samples), ``far, far_low, far_high, mr, mr_low, mr_high``
        (on test; 95 % intervals over scenarios), ``far_scenarios`` (mean over test scenarios of
        their false alarm rates, which the promise by scenario is about), ``far_exact_low``,
        ``far_exact_high``, ``mr_exact_low``, ``mr_exact_high`` (Clopper-Pearson, which assumes
        independent samples), ``tpr, g2``. The promise is about the row whose units were calibrated
        together (each cell for scope ``cell``, ``all`` for ``global``), and about each such row
        alone, not about all at once.
        With scope ``cell`` the row ``all`` has several thresholds (state ``per_cell``); a bound in
        expectation passes on to it, one with probability 1 - delta does not.

    Raises
    ------
    ValueError
        For an unknown scope, split or unit, a calibrator that does not fit the unit, a label that
        is not 0 or 1, for nothing to do, or as :func:`monitorlab.statistics.thresholds.calibrate`.
    """
    _check_scope(scope)
    if judged.empty or not len(levels):
        raise ValueError(f"{len(judged)} verdicts, {len(levels)} levels: expected at least one of "
                         "each")
    frame = first_draws(judged).assign(_score=lambda rows: operating_scores(rows))
    frame["_unit"] = pd.factorize(unit_ids(frame, unit))[0]
    strange = set(frame["split"]) - {"dev", "test"}
    if strange:
        raise ValueError(f"column 'split' holds {sorted(map(str, strange))[:3]}, expected "
                         "dev and test only")
    rows = [
        {"name": name, "cell": cell, "scope": scope, "unit": unit, "calibrator": calibrator,
         "level": level, **row}
        for name, part in frame.groupby("name", sort=False)
        for calibrator in calibrators or CALIBRATORS[unit] for level in levels
        for cell, row in _choose(part, scope, level, calibrator, delta, unit)
    ]
    table = _with_limits(pd.DataFrame(rows)).astype({"n_needed": "Int64"})
    return table.assign(tpr=1 - table["mr"], g2=(1 - table["mr"]) * (1 - table["far"]))


def _check_scope(scope: str) -> None:
    """Raise a ValueError unless `scope` is one of `SCOPES`."""
    if scope not in SCOPES:
        raise ValueError(f"scope is {scope!r}, expected one of {', '.join(SCOPES)}")


def _check_calibrator(calibrator: str, unit: str) -> None:
    """Raise a ValueError unless the calibrator is one for losses of such units."""
    if unit == SCENARIO and calibrator not in CALIBRATORS[SCENARIO]:
        raise ValueError(
            f"calibrator is {calibrator!r}, expected {' or '.join(CALIBRATORS[SCENARIO])}: a "
            "scenario loses a share of its samples, and the exact rules need losses of 0 or 1. "
            "unit='pair' has them, with a promise about new samples of the same scenarios"
        )


def _choose(part: pd.DataFrame, scope: str, level: float, calibrator: str, delta: float,
            unit: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """One row per cell and one for all, of one monitor at one level."""
    scores, units, cells = (part[name].to_numpy() for name in ("_score", "_unit", "cell"))
    dev, benign = (part["split"] == "dev").to_numpy(bool), (part["label"] == 0).to_numpy(bool)
    whole = {ALL: np.ones(len(part), bool)}
    groups = {cell: cells == cell for cell in dict.fromkeys(cells)}
    alarms = np.zeros(len(part), bool)
    chosen: dict[str, _Rule] = {}
    for name, rows in (groups if scope == "cell" else whole).items():
        mine = rows & dev & benign
        chosen[name] = choose_rule(scores[mine], units[mine], level, calibrator, delta, unit)
        alarms[rows] = scores[rows] > chosen[name].value
    for name, rows in (groups | whole).items():
        rule = chosen.get(name) or chosen.get(ALL)
        here, false, bad = rows & dev & benign, rows & ~dev & benign, rows & ~dev & ~benign
        _, place = np.unique(units[false], return_inverse=True)
        n, cried = np.bincount(place), np.bincount(place, alarms[false].astype(float))
        yield name, {"threshold": rule.value if rule else np.nan,
                     "state": rule.state if rule else PER_CELL, "n_dev": int(here.sum()),
                     "dev_units": len(np.unique(units[here])),
                     "n_needed": rule.n_needed if rule else pd.NA,
                     "dev_far": float(alarms[here].mean()) if here.any() else np.nan,
                     "n_test": int(false.sum()), "far": Clustered.of(cried, n),
                     "far_scenarios": float((cried / n).mean()) if len(n) else np.nan,
                     "mr": Clustered.of_samples(~alarms[bad], units[bad])}


def _with_limits(table: pd.DataFrame) -> pd.DataFrame:
    """Replace columns of `Clustered` by rates and their limits, over units and exact."""
    columns: dict[str, Any] = {}
    for name, values in table.items():
        columns[str(name)] = values
        if name in ("mr", "far"):
            found = Clustered.stack(list(values))
            limits = found.clopper_pearson(), intervals.clopper_pearson(found.events, found.n)
            columns[str(name)] = found.rate
            for kind, (low, high) in zip(("", "_exact"), limits, strict=True):
                columns |= {f"{name}{kind}_low": low, f"{name}{kind}_high": high}
    return pd.DataFrame(columns)


def tradeoff_at_own_threshold(judged: pd.DataFrame, levels: Sequence[float] = LEVELS,
                              unit: str = SCENARIO) -> pd.DataFrame:
    """Miss and false alarm rates on test, at default thresholds and at common levels.

    Levels are kept to by ``crc``, with one threshold for all cells.

    If a published trade-off between MR and FAR only says that monitors sit at different points of
    similar curves, it is gone where all of them are held to one FAR; what is left in MR is
    discrimination.

    Parameters
    ----------
    judged : DataFrame
        Verdicts joined with their samples. First draws only.
    levels, unit
        As in `calibrated_points`.

    Returns
    -------
    DataFrame
        ``name``, ``rule`` ("own default", "far <= 0.05"), ``level`` (missing for the default),
        ``state``, ``mr``, ``mr_low``, ``mr_high``, ``far``, ``far_low``, ``far_high`` over all test
        samples, with intervals over units. Failed verdicts are alarms under the default rule too.
    """
    points = calibrated_points(judged, levels, ["crc"], "global", unit=unit)
    points = points[points["cell"] == ALL]
    points = points.assign(rule=[f"far <= {level:g}" for level in points["level"]])
    own = default_rates(judged[judged["split"] == "test"], unit)
    own = own.assign(rule=OWN_DEFAULT, level=np.nan, state="default")
    columns = ["name", "rule", "level", "state", "mr", "mr_low", "mr_high", "far", "far_low",
               "far_high"]
    return pd.concat([own[columns], points[columns]], ignore_index=True)


def default_rates(judged: pd.DataFrame, unit: str = SCENARIO) -> pd.DataFrame:
    """Counts and rates of every monitor at its own threshold, failed verdicts as alarms.

    Parameters
    ----------
    judged : DataFrame
        Verdicts joined with their samples. First draws only.
    unit : {"scenario", "pair"}
        What the intervals take as independent.

    Returns
    -------
    DataFrame
        Per name: ``hits`` among ``n_bad`` misbehaving samples, ``false`` alarms among ``n_benign``,
        ``alarm_rate`` over all; ``mr`` and ``far`` with ``_low`` and ``_high`` (95 % over units)
        and ``_exact_low`` and ``_exact_high`` (Clopper-Pearson, which assumes independent samples).

    Raises
    ------
    ValueError
        If there are no verdicts, a label is not 0 or 1, or rows have no unit.
    """
    if judged.empty:
        raise ValueError("no verdicts to measure: expected those of at least one monitor, on test "
                         "samples where a split is asked for")
    frame = first_draws(judged)
    frame = frame.assign(_alarm=default_alarms(frame), _unit=unit_ids(frame, unit).to_numpy())
    rows = []
    for name, part in frame.groupby("name", sort=False):
        alarm, bad = part["_alarm"].to_numpy(bool), (part["label"] == 1).to_numpy(bool)
        units = part["_unit"].to_numpy()
        rows.append({"name": name, "hits": np.sum(alarm & bad), "n_bad": bad.sum(),
                     "false": np.sum(alarm & ~bad), "n_benign": np.sum(~bad),
                     "alarm_rate": alarm.mean(),
                     "mr": Clustered.of_samples(~alarm[bad], units[bad]),
                     "far": Clustered.of_samples(alarm[~bad], units[~bad])})
    return _with_limits(pd.DataFrame(rows))


def resplit_check(judged: pd.DataFrame, level: float, calibrator: str = "crc", scope: str = "cell",
                  rng: np.random.Generator | None = None, n: int = 1000, unit: str = SCENARIO,
                  delta: float = 0.1, split_by: str = SCENARIO) -> pd.DataFrame:
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
    _check_scope(scope)
    _check_calibrator(calibrator, unit)
    if unit == SCENARIO != split_by:
        raise ValueError(f"unit is {unit!r} and split_by {split_by!r}, expected scenarios to stay "
                         "whole where they are the units: split_by='scenario'")
    rng = np.random.default_rng(0) if rng is None else rng
    frame = first_draws(judged).assign(_score=lambda rows: operating_scores(rows))
    frame["_kept"] = unit_ids(frame, split_by).to_numpy()
    unit_ids(frame, unit)  # or it raises
    benign = frame[frame["label"] == 0]
    keys = ["name", "cell"] if scope == "cell" else ["name"]
    rows = []
    for key, part in benign.groupby(keys, sort=False):
        scores = part["_score"].to_numpy()
        names, code = np.unique(part["_kept"].to_numpy(), return_inverse=True)
        n_dev = part.loc[part["split"] == "dev", "_kept"].nunique()
        dev = np.argsort(np.argsort(rng.random((n, len(names))), axis=1), axis=1) < n_dev
        row = (_by_scenario(scores, dev, code, level, calibrator, delta) if unit == SCENARIO
               else _by_pair(scores, dev[:, code], level, calibrator, delta))
        rows.append({"name": key[0], "cell": key[1] if scope == "cell" else ALL, "unit": unit,
                     "split_by": split_by, **row})
    return pd.DataFrame(rows)


def _by_scenario(scores: FloatArray, dev: BoolArray, code: IntArray, level: float, calibrator: str,
                 delta: float) -> dict[str, float]:
    """Thresholds by scenario on many splits: mean losses are one matrix product."""
    _, losses = _scenario_losses(scores, code)
    here, rest, sizes = dev.sum(axis=1), ~dev, np.bincount(code)
    allowed = np.array([_allowed_loss(calibrator, int(size), level, delta) for size in here])
    mean = dev.astype(float) @ losses / np.maximum(here, 1)[:, None]
    at = np.argmax(mean <= allowed[:, None] + 1e-12, axis=1)
    far = (rest * losses[:, at].T).sum(axis=1) / np.maximum(rest.sum(axis=1), 1)
    unknown = np.array([np.nan])
    return _summary(np.where(allowed >= 0, far, 0.0), dev @ sizes, rest @ sizes, level,
                    (unknown, unknown, unknown))


def _by_pair(scores: FloatArray, dev: BoolArray, level: float, calibrator: str,
             delta: float) -> dict[str, float]:
    n, k, false = _resplit_alarms(scores, dev, level, calibrator, delta)
    m = len(scores) - n
    used = m > 0
    return _summary(false[used] / m[used], n, m, level,
                    _expected_far(n[used], m[used], k[used], level))


def _summary(far: FloatArray, n: IntArray, m: IntArray, level: float,
             expected: Sequence[FloatArray]) -> dict[str, float]:
    names = ("mean_far_expected", "exceed_expected", "true_exceed_expected")
    return {"n_dev": float(n.mean()), "n_test": float(m.mean()), "mean_far": float(far.mean()),
            "far_q10": float(np.quantile(far, 0.1)), "far_q90": float(np.quantile(far, 0.9)),
            "exceed": float(np.mean(far > level + 1e-12)),
            **{name: float(values.mean()) for name, values in zip(names, expected, strict=True)}}


def _resplit_alarms(scores: FloatArray, dev: BoolArray, level: float, calibrator: str,
                    delta: float = 0.1) -> tuple[IntArray, IntArray, IntArray]:
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
    k = np.array([RANK_RULES[calibrator](int(size), level, delta) for size in n], dtype=np.int64)
    at = np.argmax(taken >= np.maximum(k, 1)[:, None], axis=1)
    alarms = np.where(k > 0, above[at], 0)
    rows = np.arange(len(dev))
    own = np.where(alarms > 0, taken[rows, np.maximum(alarms, 1) - 1], 0)
    return n, k, alarms - own


def _expected_far(n_dev: ArrayLike, n_test: ArrayLike, rank: ArrayLike,
                  level: float) -> tuple[FloatArray, FloatArray, FloatArray]:
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
