"""From the long table of a comparison to a results table and to sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from monitorlab.online.comparison import TRIVIAL_METHODS, Method
from monitorlab.statistics.thresholds import MISSED_DETECTION, NOT_TRAINABLE

HEADLINES = ("CRC", "UCB", "e-valuator, PAC", "learned + CRC", "first score only",
             "chosen for delay + CRC")
TRIVIAL = tuple(method.label for method in TRIVIAL_METHODS)
FEWEST = 10  # sequences of a class; from fewer, no verdict and no ranking


def results_table(
    results: pd.DataFrame, methods: Sequence[Method], dataset: str, signal: str, level: float
) -> pd.DataFrame:
    """One row per method: what it promises, where that is defined, and what was measured.

    Parameters
    ----------
    results : DataFrame
        As from :func:`monitorlab.online.comparison.compare_methods`.
    methods : sequence of Method
        Rows, in order.
    dataset, signal : str
        Which comparison to read.
    level : float
        Target level.

    Returns
    -------
    DataFrame
        ``method, guarantee, equation, false alarms, power``, ``at or after onset`` where onsets are
        known, ``by half, delay, restricted delay``. Rates read ``mean [q10, q90]`` over splits. The
        splits share sequences, so the bracket describes their spread and is no confidence interval.
        Delays read ``steps / tokens``, as mean shares of both.
    """
    chosen = _select(results, dataset, signal, level)
    known = "after_onset" in chosen and bool(chosen["after_onset"].notna().any())
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
                **({"at or after onset": _spread(splits["after_onset"])} if known else {}),
                "by half": _spread(splits["by_half"]),
                "delay": _both(splits, "delay"),
                "restricted delay": _both(splits, "restricted_delay"),
            }
        )
    return pd.DataFrame(rows)


def interval_table(
    results: pd.DataFrame, resamples: pd.DataFrame, methods: Sequence[Method], dataset: str,
    signal: str, level: float,
) -> pd.DataFrame:
    """One row per method, with 95 % intervals over sequences drawn anew.

    Parameters
    ----------
    results, resamples : DataFrame
        As from :func:`monitorlab.online.comparison.compare_resampled`.
    methods : sequence of Method
        Rows, in order.
    dataset, signal, level
        Which comparison.

    Returns
    -------
    DataFrame
        ``method, false alarms, power, at or after onset, by half, restricted delay``, each as
        ``mean over splits [2.5 %, 97.5 % of the draws]``.
    """
    names = {"false alarms": "far", "power": "power", "at or after onset": "after_onset",
             "by half": "by_half", "restricted delay": "restricted_delay"}
    means, drawn = (_select(frame, dataset, signal, level).groupby("method")
                    for frame in (results, resamples))
    return pd.DataFrame(
        {"method": method.label,
         **{name: _spread(drawn[measure].get_group(method.label), 0.025,
                          float(means[measure].get_group(method.label).mean()))
            for name, measure in names.items()}}
        for method in methods
    )


def band_over_splits(results: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean, q10 and q90 over splits of one measure, per data set, signal, method and level."""
    keys = ["dataset", "signal", "method", "level"]
    grouped = results.groupby(keys, sort=False)[measure]
    return pd.DataFrame(
        {"mean": grouped.mean(), "q10": grouped.quantile(0.1), "q90": grouped.quantile(0.9)}
    ).reset_index()


@dataclass(frozen=True)
class _Difference:
    """A paired comparison of two methods on the same sequences.

    Attributes
    ----------
    mean : float
        Mean over splits of (first - second).
    low, high : float
        95 % interval over sequences drawn anew.
    n : int
        Sequences that it is about: the unsafe ones, or the safe ones for false alarms.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0, and there are enough sequences to say so."""
        return self.n >= FEWEST and (self.low > 0.0 or self.high < 0.0)

    def phrase(self, more: str, less: str) -> str:
        """Return ``more`` or ``less`` for a clear difference, else that there is none.

        Always followed by the numbers it rests on.
        """
        if math.isnan(self.mean):
            return "undefined"
        word = (more if self.mean > 0 else less) if self.clear else "no clear difference"
        return f"{word} ({self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f})"


def difference(
    results: pd.DataFrame, resamples: pd.DataFrame, first: str, second: str, measure: str,
    dataset: str, signal: str, level: float, second_signal: str = "",
) -> _Difference:
    """Compare two methods on one measure, or one method under two signals of the same sequences.

    The interval is that of the mean over splits under sequences drawn anew
    (:func:`monitorlab.online.comparison.compare_resampled`): the spread over splits would not do,
    since splits share their sequences.

    Parameters
    ----------
    results, resamples : DataFrame
        As from :func:`monitorlab.online.comparison.compare_resampled`.
    first, second : str
        Methods.
    measure : {"far", "power", "after_onset", "by_half", "restricted_delay"}
        What to compare.
    dataset, signal, level
        Which comparison.
    second_signal : str
        Signal of the second method, if it is another.
    """
    sides = ((first, signal), (second, second_signal or signal))

    def pair(frame: pd.DataFrame, key: str) -> pd.Series:
        one, other = (
            _select(frame[frame["method"] == method], dataset, name, level).set_index(key)[measure]
            for method, name in sides
        )
        return one - other

    mean = float(pair(results, "split").mean())
    counts = _select(results, dataset, signal, level)[["safe", "unsafe"]].iloc[0]
    reach = _reach(int(counts.min())) * float(pair(resamples, "draw").std(ddof=1))
    return _Difference(mean, mean - reach, mean + reach,
                       int(counts["safe" if measure == "far" else "unsafe"]))


def _keeps_level(
    results: pd.DataFrame, method: str, dataset: str, signal: str, level: float
) -> bool:
    """Whether the measured risk is not above the level by a one-sided t-test at 1 %.

    The risk is the one that was controlled: false alarms, or missed detections. On one data set,
    splits are independent draws, and CRC keeps their mean to the level. Splits in which the rate is
    undefined do not count; where it is undefined in all of them, no promise was broken.
    """
    chosen = _select(results, dataset, signal, level)
    chosen = chosen[chosen["method"] == method]
    missed = chosen["risk"] == MISSED_DETECTION
    rate = chosen["far"].mask(missed, 1.0 - chosen["power"]).dropna()
    if len(rate) < 2:
        return bool(rate.empty or rate.mean() <= level)
    error = float(rate.std(ddof=1)) / np.sqrt(len(rate))
    return bool(rate.mean() <= level + stats.t.ppf(0.99, len(rate) - 1) * error)


def verdict(
    results: pd.DataFrame, resamples: pd.DataFrame, methods: Sequence[Method], dataset: str,
    signal: str, level: float,
) -> list[str]:
    """Say in plain sentences what the comparison shows on one data set, from its numbers only.

    Parameters
    ----------
    results, resamples : DataFrame
        As from :func:`monitorlab.online.comparison.compare_resampled`.
    methods : sequence of Method
        Methods to judge.
    dataset, signal, level
        Which comparison.

    Returns
    -------
    list of str
        Sentences about: how many sequences there are, which methods kept the level and which were
        silent, scores that point the wrong way, the paper's threshold against the sequential test
        of equal guarantee, the statistic that alarms earliest and the one that detects most, and
        whether anything beats the trivial baselines. Where nothing alarmed, or from too few
        sequences, only that.
    """
    results, resamples = (_select(frame, dataset, signal, level) for frame in (results, resamples))
    chosen = results[results["method"].isin([method.label for method in methods])]
    names = [method.label for method in methods]
    safe, unsafe = int(chosen["safe"].iloc[0]), int(chosen["unsafe"].iloc[0])
    sentences = [f"{safe} safe and {unsafe} unsafe sequences."]
    loud = [name for name in names if _alarmed(chosen[chosen["method"] == name])]
    if not loud:
        return [*sentences, f"No method raised an alarm: {_needs(chosen, level)}."]
    if min(safe, unsafe) < FEWEST:
        return [*sentences, f"Too few for a verdict: {FEWEST} of each class are needed."]
    over = [name for name in loud if not _keeps_level(results, name, dataset, signal, level)]
    sentences.append(_kept(loud, over, level, str(chosen["risk"].iloc[0])))
    silent = chosen[~chosen["method"].isin(loud)]
    if len(silent):
        quiet = ", ".join(name for name in names if name not in loud)
        sentences.append(f"No alarm at all from {quiet}: {_needs(silent, level)}.")
    where = (dataset, signal, level)
    read = [name for name in loud if name not in TRIVIAL]  # a step number has no direction
    sentences += _wrong_way(chosen, resamples, read, *where) if read else []
    if {"UCB", "e-valuator, PAC"} <= set(loud):
        sentences.append(_threshold_against_test(results, resamples, *where))
    kept = [name for name in loud if name not in over]
    sentences.append(_best(results, resamples, kept, *where))
    if any(name in TRIVIAL for name in kept):
        sentences.append(_against_trivial(results, resamples, kept, *where))
    return sentences


def headline_metrics(results: pd.DataFrame, level: float) -> dict[str, float]:
    """Mean measures at one level, named ``dataset.signal.method.measure``, for ``metrics.json``."""
    chosen = results[np.isclose(results["level"], level) & results["method"].isin(HEADLINES)]
    means = chosen.groupby(["dataset", "signal", "method"])[["far", "power", "restricted_delay"]]
    return {
        ".".join((*map(str, key), measure)): float(value)
        for key, row in means.mean().iterrows()
        for measure, value in row.items()
        if math.isfinite(value)
    }


def _reach(n: int) -> float:
    """Standard errors in half of a 95 % interval, from n sequences of the rarer class."""
    return float(stats.t.ppf(0.975, max(n - 1, 1)))


def _alarmed(rows: pd.DataFrame) -> bool:
    return bool((rows[["far", "power"]].fillna(0.0) > 0.0).any(axis=None))


def _needs(rows: pd.DataFrame, level: float) -> str:
    """How many sequences calibrated, how many are needed, and what else keeps a rule silent."""
    counted = rows[rows["n_needed"] > 0]
    if counted.empty:
        untrained = (rows["state"] == NOT_TRAINABLE).all()
        return "too few sequences to learn from" if untrained else "nothing passed the threshold"
    kind = "unsafe" if (rows["risk"] == MISSED_DETECTION).all() else "safe"
    there = " to ".join(str(n) for n in sorted({counted["n"].min(), counted["n"].max()}))
    needed = " or ".join(str(n) for n in sorted(set(counted["n_needed"])))
    words = (f"a threshold for level {level:g} needs {needed} {kind} sequences, by the rule, and "
             f"there were {there} to place it")
    if (counted["n"] >= counted["n_needed"]).any():
        words += "; where they are enough, nothing passed it, as when all scores tie"
    return words


def _kept(names: list[str], over: list[str], level: float, risk: str) -> str:
    what = "missed detections" if risk == MISSED_DETECTION else "false alarms"
    if not over:
        return (f"All {len(names)} methods that raised alarms kept {what} to {level:g} within the "
                "spread of the splits.")
    return (
        f"{len(names) - len(over)} of {len(names)} methods that raised alarms kept {what} to "
        f"{level:g}; above it by more than the spread of the splits: {', '.join(over)}."
    )


def _wrong_way(
    chosen: pd.DataFrame, resamples: pd.DataFrame, names: list[str], dataset: str, signal: str,
    level: float,
) -> list[str]:
    """Warn of methods that alarm less often on unsafe sequences than on safe ones."""
    means = chosen.groupby("method")[["far", "power"]].mean().loc[names]
    drawn = _select(resamples, dataset, signal, level).set_index("method")
    error = (drawn["power"] - drawn["far"]).groupby("method").std(ddof=1).reindex(names)
    fewest = int(chosen[["safe", "unsafe"]].iloc[0].min())
    below = means["power"] + _reach(fewest) * error < means["far"]
    wrong = means[below & (means["power"] < level)]
    if wrong.empty:
        return []
    worst = wrong["power"].idxmin()
    return [
        f"Power lies below the level ({worst}: power {wrong.loc[worst, 'power']:.3f} at false "
        f"alarms {wrong.loc[worst, 'far']:.3f}): does a high score mean safe here?"
    ]


def _threshold_against_test(
    results: pd.DataFrame, resamples: pd.DataFrame, dataset: str, signal: str, level: float
) -> str:
    pair = ("UCB", "e-valuator, PAC")
    power, delay = (
        difference(results, resamples, *pair, measure, dataset, signal, level)
        for measure in ("power", "restricted_delay")
    )
    return (
        "The paper's threshold (UCB) against the sequential test with the same kind of guarantee "
        f"(e-valuator, PAC): power, {power.phrase('higher', 'lower')}; restricted delay, "
        f"{delay.phrase('later', 'earlier')}."
    )


def _best(
    results: pd.DataFrame, resamples: pd.DataFrame, kept: list[str], dataset: str, signal: str,
    level: float,
) -> str:
    """The earliest alarm and the highest power, together: neither says enough alone."""
    if not kept:
        return "No method kept the level, so none is recommended."
    chosen = _select(results, dataset, signal, level)
    means = chosen.groupby("method")[["power", "restricted_delay"]].mean().loc[kept]
    early, strong = str(means["restricted_delay"].idxmin()), str(means["power"].idxmax())
    where = (dataset, signal, level)

    def against(first: str, second: str, measure: str) -> _Difference:
        return difference(results, resamples, first, second, measure, *where)

    told = f"with a restricted delay of {means.loc[early, 'restricted_delay']:.3f}"
    sentence = f"Of the methods that kept the level, {early} alarms earliest, {told}"
    loss = against(early, strong, "power")
    if early != strong and loss.clear:
        sentence += (f", but detects less than {strong}: power, "
                     f"{loss.phrase('higher', 'lower')}; restricted delay, "
                     f"{against(early, strong, 'restricted_delay').phrase('later', 'earlier')}")
    else:
        sentence += f" and a power of {means.loc[early, 'power']:.3f}"
    return sentence + "."


def _against_trivial(
    results: pd.DataFrame, resamples: pd.DataFrame, kept: list[str], dataset: str, signal: str,
    level: float,
) -> str:
    """Whether a method beats the trivial baselines: in power or in delay, and loses in neither."""
    chosen = _select(results, dataset, signal, level)
    means = chosen.groupby("method")[["power", "restricted_delay"]].mean().loc[kept]
    trivial = means[means.index.isin(TRIVIAL)]
    rivals = means[~means.index.isin(TRIVIAL)].sort_values("power", ascending=False)
    if rivals.empty:
        return "Only trivial baselines kept the level."
    strong, early = str(trivial["power"].idxmax()), str(trivial["restricted_delay"].idxmin())

    def against(method: str) -> tuple[_Difference, _Difference]:
        where = (dataset, signal, level)
        return (difference(results, resamples, method, strong, "power", *where),
                difference(results, resamples, method, early, "restricted_delay", *where))

    # whoever is behind in both means cannot be clearly ahead in one
    ahead = rivals[(rivals["power"] > trivial["power"].max())
                   | (rivals["restricted_delay"] < trivial["restricted_delay"].min())]
    candidates = [*ahead.index] or [rivals.index[0]]
    found = {str(method): against(str(method)) for method in candidates}
    better = [method for method, (power, delay) in found.items()
              if (power.clear and power.mean > 0 and not (delay.clear and delay.mean > 0))
              or (delay.clear and delay.mean < 0 and not (power.clear and power.mean < 0))]
    first = (better or list(found))[0]
    power, delay = found[first]
    said = (f"power, {power.phrase('higher', 'lower')} than {strong}; restricted delay, "
            f"{delay.phrase('later', 'earlier')} than {early}")
    best = f"the best trivial baselines, {strong} for power and {early} for delay"
    if strong == early:
        best = f"the best trivial baseline, {strong}"
    if better:
        return (f"Clearly better than {best}, and clearly worse in neither: {', '.join(better)}. "
                f"Of {first}: {said}.")
    return (f"No method is clearly better than {best}, without being clearly worse in the other "
            f"measure; {first} comes nearest: {said}.")


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


def _spread(values: pd.Series, tail: float = 0.1, mean: float | None = None) -> str:
    values = values.dropna()
    if values.empty:
        return "none detected"
    low, high = values.quantile(tail), values.quantile(1.0 - tail)
    # no-break spaces: a cell is one thing
    middle = values.mean() if mean is None else mean
    return f"{middle:.2f}\u00a0[{low:.2f},\u00a0{high:.2f}]"


def _both(splits: pd.DataFrame, delay: str) -> str:
    """Return the mean delay in steps and in tokens."""
    means = [splits[name].mean() for name in (delay, f"{delay}_tokens")]
    return "none detected" if math.isnan(means[0]) else "\u00a0/\u00a0".join(
        f"{mean:.2f}" for mean in means)
