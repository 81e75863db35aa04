"""From the long table of a comparison to a results table and to sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from monitorlab.online.methods import Method

HEADLINES = ("CRC", "UCB", "e-valuator, PAC", "learned + CRC")
# A difference counts as clear if it has the same sign in at least this share of the splits.
CLEAR = 0.9


def results_table(
    results: pd.DataFrame, methods: Sequence[Method], dataset: str, signal: str, level: float
) -> pd.DataFrame:
    """One row per method: what it promises, where that is defined, and what was measured.

    Parameters
    ----------
    results : DataFrame
        As from :func:`monitorlab.online.comparison.compare`.
    methods : sequence of Method
        Rows, in order.
    dataset, signal : str
        Which comparison to read.
    level : float
        Target level.

    Returns
    -------
    DataFrame
        ``method, guarantee, equation, false alarms, power, delay, restricted delay``, delays as
        shares of steps. Measured cells read ``mean [q10, q90]`` over splits. The splits share
        sequences, so the bracket describes their spread and is no confidence interval.
    """
    chosen = _select(results, dataset, signal, level)
    rows = []
    for method in methods:
        splits = chosen[chosen["method"] == method.label]
        rows.append(
            {
                "method": method.label,
                "guarantee": method.guarantee,
                "equation": method.source,
                "false alarms": _spread(splits["far"]),
                "power": _spread(splits["power"]),
                "delay": _spread(splits["delay"]),
                "restricted delay": _spread(splits["restricted_delay"]),
            }
        )
    return pd.DataFrame(rows)


def band(results: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean, q10 and q90 over splits of one measure, per data set, signal, method and level."""
    keys = ["dataset", "signal", "method", "level"]
    grouped = results.groupby(keys, sort=False)[measure]
    return pd.DataFrame(
        {"mean": grouped.mean(), "q10": grouped.quantile(0.1), "q90": grouped.quantile(0.9)}
    ).reset_index()


@dataclass(frozen=True)
class Difference:
    """A paired comparison of two methods over the same splits.

    Attributes
    ----------
    mean : float
        Mean of (first - second).
    q10, q90 : float
        Spread over splits.
    agree : float
        Share of splits with the sign of the mean, in [0, 1].
    clear : bool
        Whether nearly all splits agree (``agree`` at least 0.9).
    """

    mean: float
    q10: float
    q90: float
    agree: float

    @property
    def clear(self) -> bool:
        """Whether nearly all splits agree on the sign."""
        return self.agree >= CLEAR and self.mean != 0.0

    def phrase(self, more: str, less: str) -> str:
        """Return ``more`` or ``less`` for a clear difference, else that there is none.

        Always followed by the numbers it rests on.
        """
        word = (more if self.mean > 0 else less) if self.clear else "no clear difference"
        return f"{word} ({self.mean:+.3f}, same sign in {self.agree:.0%} of the splits)"


def difference(
    results: pd.DataFrame, first: str, second: str, measure: str, dataset: str, signal: str,
    level: float,
) -> Difference:
    """Compare two methods split by split on one measure; arguments as in `results_table`."""
    chosen = _select(results, dataset, signal, level)
    one, other = (
        chosen[chosen["method"] == name].set_index("split")[measure] for name in (first, second)
    )
    gap = (one - other).dropna()
    if gap.empty:
        return Difference(float("nan"), float("nan"), float("nan"), 0.0)
    mean = float(gap.mean())
    return Difference(
        mean, float(gap.quantile(0.1)), float(gap.quantile(0.9)),
        float(np.mean(np.sign(gap) == np.sign(mean))),
    )


def keeps_level(
    results: pd.DataFrame, method: str, dataset: str, signal: str, level: float
) -> bool:
    """Whether the mean measured FAR is not above the level by a one-sided t-test at 1 %.

    The test treats splits as independent, which they are not quite; this is a reading aid for a
    table, while the guarantee itself rests on its proof and on the Monte Carlo tests.
    """
    chosen = _select(results, dataset, signal, level)
    far = chosen.loc[chosen["method"] == method, "far"]
    if len(far) < 2:
        return bool(far.mean() <= level)
    error = float(far.std(ddof=1)) / np.sqrt(len(far))
    return bool(far.mean() <= level + stats.t.ppf(0.99, len(far) - 1) * error)


def verdict(
    results: pd.DataFrame, methods: Sequence[Method], dataset: str, signal: str, level: float
) -> list[str]:
    """Say in plain sentences what the comparison shows on one data set, from its numbers only.

    Parameters
    ----------
    results : DataFrame
        As from :func:`monitorlab.online.comparison.compare`, with the paper's four methods and
        ``learned + CRC`` among them.
    methods : sequence of Method
        Methods to judge.
    dataset, signal, level
        Which comparison.

    Returns
    -------
    list of str
        Sentences about: which methods kept the level; the paper's threshold against the sequential
        test of equal guarantee; the statistic that alarms earliest.
    """
    names = [method.label for method in methods]
    over = [n for n in names if not keeps_level(results, n, dataset, signal, level)]
    sentences = [_kept(len(names), over, level)]
    if {"UCB", "e-valuator, PAC"} <= set(names):
        sentences.append(_threshold_against_test(results, dataset, signal, level))
    sentences.append(_earliest(results, names, over, dataset, signal, level))
    return sentences


def headline_metrics(results: pd.DataFrame, level: float) -> dict[str, float]:
    """Mean measures at one level, named ``dataset.signal.method.measure``, for ``metrics.json``."""
    chosen = results[np.isclose(results["level"], level) & results["method"].isin(HEADLINES)]
    means = chosen.groupby(["dataset", "signal", "method"])[["far", "power", "restricted_delay"]]
    return {
        ".".join((*map(str, key), measure)): float(value)
        for key, row in means.mean().iterrows()
        for measure, value in row.items()
    }


def _kept(n: int, over: list[str], level: float) -> str:
    if not over:
        return f"All {n} methods kept false alarms to {level:g} within the spread of the splits."
    return (
        f"{n - len(over)} of {n} methods kept false alarms to {level:g}; above it by more than the "
        f"spread of the splits: {', '.join(over)}."
    )


def _threshold_against_test(
    results: pd.DataFrame, dataset: str, signal: str, level: float
) -> str:
    pair = ("UCB", "e-valuator, PAC")
    power = difference(results, *pair, "power", dataset, signal, level)
    delay = difference(results, *pair, "restricted_delay", dataset, signal, level)
    return (
        "The paper's threshold (UCB) against the sequential test with the same kind of guarantee "
        f"(e-valuator, PAC): power, {power.phrase('higher', 'lower')}; restricted delay, "
        f"{delay.phrase('later', 'earlier')}."
    )


def _earliest(
    results: pd.DataFrame, names: list[str], over: list[str], dataset: str, signal: str,
    level: float,
) -> str:
    chosen = _select(results, dataset, signal, level)
    kept = chosen[chosen["method"].isin([name for name in names if name not in over])]
    means = kept.groupby("method")["restricted_delay"].mean().sort_values()
    if means.empty:
        return "No method kept the level, so none is recommended."
    best = str(means.index[0])
    sentence = (
        f"Of the methods that kept the level, {best} alarms earliest, with a restricted delay of "
        f"{means.iloc[0]:.3f}"
    )
    if best == "CRC" or "CRC" not in names:
        return sentence + "."
    gap = difference(results, best, "CRC", "restricted_delay", dataset, signal, level)
    return f"{sentence}; against the paper's CRC threshold, {gap.phrase('later', 'earlier')}."


def _select(results: pd.DataFrame, dataset: str, signal: str, level: float) -> pd.DataFrame:
    chosen = results[
        (results["dataset"] == dataset)
        & (results["signal"] == signal)
        & np.isclose(results["level"], level)
    ]
    if chosen.empty:
        raise ValueError(
            f"no results for data set {dataset!r}, signal {signal!r}, level {level:g}; there are "
            f"{sorted(set(zip(results['dataset'], results['signal'], strict=True)))} at levels "
            f"{sorted(set(results['level']))}."
        )
    return chosen


def _spread(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return "none detected"
    low, high = values.quantile(0.1), values.quantile(0.9)
    # no-break spaces: a cell is one thing
    return f"{values.mean():.2f}\u00a0[{low:.2f},\u00a0{high:.2f}]"
