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

    def clearly(self, sign: int) -> bool:
        """Whether the interval lies on that side of 0, from sequences enough to say so."""
        return self.n >= FEWEST and (self.low > 0.0 if sign > 0 else self.high < 0.0)

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0, and there are enough sequences to say so."""
        return self.clearly(1) or self.clearly(-1)

    def phrase(self, more: str, less: str) -> str:
        """Return ``more`` or ``less`` for a clear difference, else that there is none.

        Always followed by the numbers it rests on.
        """
        if math.isnan(self.mean):
            return "undefined"
        word = (more if self.mean > 0 else less) if self.clear else "no clear difference"
        return f"{word} ({self.mean:+.3f}, 95 % interval {self.low:+.3f} to {self.high:+.3f})"


class Comparison:
    """What became of every method on one data set, under one signal, at one level.

    Parameters
    ----------
    results, resamples : DataFrame
        As from :func:`monitorlab.online.comparison.compare_resampled`.
    dataset, signal : str
        Which rows.
    level : float
        Target level.

    Raises
    ------
    ValueError
        If there are no such rows; the message names those that exist.
    """

    def __init__(
        self, results: pd.DataFrame, resamples: pd.DataFrame, dataset: str, signal: str,
        level: float,
    ) -> None:
        self._results = _select(results, dataset, signal, level)
        self._resamples = _select(resamples, dataset, signal, level)
        self._level = level

    def table(self, methods: Sequence[Method]) -> pd.DataFrame:
        """One row per method: what it promises, where that is defined, and what was measured.

        Returns
        -------
        DataFrame
            ``method, guarantee, equation, false alarms, power``, ``at or after onset`` where onsets
            are known, ``by half, delay, restricted delay``. Rates read ``mean [q10, q90]`` over
            splits. The splits share sequences, so the bracket describes their spread and is no
            confidence interval. Delays read ``steps / tokens``, as mean shares of both.
        """
        known = "after_onset" in self._results and self._results["after_onset"].notna().any()
        rows = []
        for method in methods:
            splits = self._results[self._results["method"] == method.label]
            onset = {"at or after onset": _spread(splits["after_onset"])} if known else {}
            rows.append({
                "method": method.label, "guarantee": method.guarantee, "equation": method.source,
                "false alarms": _spread(splits["far"]), "power": _spread(splits["power"]),
                **onset, "by half": _spread(splits["by_half"]), "delay": _both(splits, "delay"),
                "restricted delay": _both(splits, "restricted_delay"),
            })
        return pd.DataFrame(rows)

    def intervals(self, methods: Sequence[Method]) -> pd.DataFrame:
        """One row per method, with 95 % intervals over sequences drawn anew.

        Returns
        -------
        DataFrame
            ``method, false alarms, power, at or after onset, by half, restricted delay``, each as
            ``mean over splits [2.5 %, 97.5 % of the draws]``.
        """
        names = {"false alarms": "far", "power": "power", "at or after onset": "after_onset",
                 "by half": "by_half", "restricted delay": "restricted_delay"}
        means, drawn = (frame.groupby("method") for frame in (self._results, self._resamples))
        return pd.DataFrame(
            {"method": method.label,
             **{name: _spread(drawn[measure].get_group(method.label), 0.025,
                              float(means[measure].get_group(method.label).mean()))
                for name, measure in names.items()}}
            for method in methods
        )

    def difference(self, first: str, second: str, measure: str) -> _Difference:
        """Compare two methods on one measure.

        The interval is that of the mean over splits under sequences drawn anew
        (:func:`monitorlab.online.comparison.compare_resampled`): the spread over splits would not
        do, since splits share their sequences.

        Parameters
        ----------
        first, second : str
            Methods.
        measure : {"far", "power", "after_onset", "by_half", "restricted_delay"}
            What to compare.
        """

        def gap(frame: pd.DataFrame, key: str) -> pd.Series:
            one, other = (frame[frame["method"] == name].set_index(key)[measure]
                          for name in (first, second))
            return one - other

        mean = float(gap(self._results, "split").mean())
        reach = self._reach() * float(gap(self._resamples, "draw").std(ddof=1))
        about = "safe" if measure == "far" else "unsafe"
        return _Difference(mean, mean - reach, mean + reach, int(self._results[about].iloc[0]))

    def verdict(self, methods: Sequence[Method]) -> list[str]:
        """Say in plain sentences what the comparison shows, from its numbers only.

        Returns
        -------
        list of str
            Sentences about: how many sequences there are, which methods kept the level and which
            were silent, scores that point the wrong way, the paper's threshold against the
            sequential test of equal guarantee, the statistic that alarms earliest and the one that
            detects most, and whether anything beats the trivial baselines. Where nothing alarmed,
            or from too few sequences, only that.
        """
        names = [method.label for method in methods]
        chosen = self._results[self._results["method"].isin(names)]
        safe, unsafe = int(chosen["safe"].iloc[0]), int(chosen["unsafe"].iloc[0])
        sentences = [f"{safe} safe and {unsafe} unsafe sequences."]
        alarmed = (chosen[["far", "power"]].fillna(0.0) > 0.0).any(axis=1)
        heard = set(chosen.loc[alarmed, "method"])
        loud = [name for name in names if name in heard]
        if not loud:
            return [*sentences, f"No method raised an alarm: {self._needs(chosen)}."]
        if min(safe, unsafe) < FEWEST:
            return [*sentences, f"Too few for a verdict: {FEWEST} of each class are needed."]
        kept = [name for name in loud if self._keeps_level(name)]
        sentences.append(self._kept(loud, kept))
        silent = chosen[~chosen["method"].isin(heard)]
        if len(silent):
            quiet = ", ".join(name for name in names if name not in heard)
            sentences.append(f"No alarm at all from {quiet}: {self._needs(silent)}.")
        sentences += self._wrong_way([name for name in loud if name not in TRIVIAL])
        if {"UCB", "e-valuator, PAC"} <= heard:
            sentences.append("The paper's threshold (UCB) against the sequential test with the "
                             "same kind of guarantee (e-valuator, PAC): "
                             f"{self._in_words('UCB', 'e-valuator, PAC')}.")
        sentences.append(self._best(kept))
        if any(name in TRIVIAL for name in kept):
            sentences.append(self._against_trivial(kept))
        return sentences

    def _reach(self) -> float:
        """Standard errors in half of a 95 % interval, by the sequences of the rarer class."""
        fewest = int(self._results[["safe", "unsafe"]].iloc[0].min())
        return float(stats.t.ppf(0.975, max(fewest - 1, 1)))

    def _keeps_level(self, method: str) -> bool:
        """Whether the measured risk is not above the level by a one-sided t-test at 1 %.

        The risk is the one that was controlled: false alarms, or missed detections. On one data
        set, splits are independent draws, and CRC keeps their mean to the level. Splits in which
        the rate is undefined do not count; where it is undefined in all of them, no promise was
        broken.
        """
        chosen = self._results[self._results["method"] == method]
        missed = chosen["risk"] == MISSED_DETECTION
        rate = chosen["far"].mask(missed, 1.0 - chosen["power"]).dropna()
        if len(rate) < 2:
            return bool(rate.empty or rate.mean() <= self._level)
        error = float(rate.std(ddof=1)) / np.sqrt(len(rate))
        return bool(rate.mean() <= self._level + stats.t.ppf(0.99, len(rate) - 1) * error)

    def _needs(self, rows: pd.DataFrame) -> str:
        """How many sequences calibrated, how many are needed, and what else silences a rule."""
        counted = rows[rows["n_needed"] > 0]
        if counted.empty:
            if (rows["state"] == NOT_TRAINABLE).all():
                return "too few sequences to learn from"
            return "nothing passed the threshold"
        kind = "unsafe" if (rows["risk"] == MISSED_DETECTION).all() else "safe"
        there = " to ".join(str(n) for n in sorted({counted["n"].min(), counted["n"].max()}))
        needed = " or ".join(str(n) for n in sorted(set(counted["n_needed"])))
        words = (f"a threshold for level {self._level:g} needs {needed} {kind} sequences, by the "
                 f"rule, and there were {there} to place it")
        if (counted["n"] >= counted["n_needed"]).any():
            words += "; where they are enough, nothing passed it, as when all scores tie"
        return words

    def _kept(self, loud: list[str], kept: list[str]) -> str:
        """Say which of the methods that raised alarms kept the level."""
        missed = self._results["risk"].iloc[0] == MISSED_DETECTION
        what = f"{'missed detections' if missed else 'false alarms'} to {self._level:g}"
        if len(kept) == len(loud):
            return (f"All {len(loud)} methods that raised alarms kept {what} within the spread of "
                    "the splits.")
        over = ", ".join(name for name in loud if name not in kept)
        return (f"{len(kept)} of {len(loud)} methods that raised alarms kept {what}; above it by "
                f"more than the spread of the splits: {over}.")

    def _wrong_way(self, names: list[str]) -> list[str]:
        """Warn of methods that alarm less often on unsafe sequences than on safe ones."""
        means = self._means(names, "power", "far")
        drawn = self._resamples.set_index("method")
        error = (drawn["power"] - drawn["far"]).groupby("method").std(ddof=1).reindex(names)
        below = means["power"] + self._reach() * error < means["far"]
        wrong = means[below & (means["power"] < self._level)]
        if wrong.empty:
            return []
        worst = wrong["power"].idxmin()
        return [f"Power lies below the level ({worst}: power {wrong.loc[worst, 'power']:.3f} at "
                f"false alarms {wrong.loc[worst, 'far']:.3f}): does a high score mean safe here?"]

    def _means(self, names: list[str], *measures: str) -> pd.DataFrame:
        """Means over splits, a row per method."""
        return self._results.groupby("method")[list(measures)].mean().loc[names]

    def _in_words(self, first: str, second: str) -> str:
        """Say how two methods differ in power and in delay."""
        power, delay = (self.difference(first, second, measure)
                        for measure in ("power", "restricted_delay"))
        return (f"power, {power.phrase('higher', 'lower')}; restricted delay, "
                f"{delay.phrase('later', 'earlier')}")

    def _best(self, kept: list[str]) -> str:
        """The earliest alarm and the highest power, together: neither says enough alone."""
        if not kept:
            return "No method kept the level, so none is recommended."
        means = self._means(kept, "power", "restricted_delay")
        early, strong = str(means["restricted_delay"].idxmin()), str(means["power"].idxmax())
        sentence = (f"Of the methods that kept the level, {early} alarms earliest, with a "
                    f"restricted delay of {means.loc[early, 'restricted_delay']:.3f}")
        if early != strong and self.difference(early, strong, "power").clear:
            said = self._in_words(early, strong)
            return f"{sentence}, but detects less than {strong}: {said}."
        return f"{sentence} and a power of {means.loc[early, 'power']:.3f}."

    def _against_trivial(self, kept: list[str]) -> str:
        """Whether a method beats the trivial baselines in power or in delay, losing in neither."""
        means = self._means(kept, "power", "restricted_delay")
        trivial = means[means.index.isin(TRIVIAL)]
        rivals = means[~means.index.isin(TRIVIAL)].sort_values("power", ascending=False)
        if rivals.empty:
            return "Only trivial baselines kept the level."
        strong, early = str(trivial["power"].idxmax()), str(trivial["restricted_delay"].idxmin())
        # whoever is behind in both means cannot be clearly ahead in one
        ahead = rivals[(rivals["power"] > trivial["power"].max())
                       | (rivals["restricted_delay"] < trivial["restricted_delay"].min())]
        found = {str(method): (self.difference(str(method), strong, "power"),
                               self.difference(str(method), early, "restricted_delay"))
                 for method in [*ahead.index] or [rivals.index[0]]}
        better = [method for method, (power, delay) in found.items()
                  if (power.clearly(1) and not delay.clearly(1))
                  or (delay.clearly(-1) and not power.clearly(-1))]
        first = (better or list(found))[0]
        power, delay = found[first]
        said = (f"power, {power.phrase('higher', 'lower')} than {strong}; restricted delay, "
                f"{delay.phrase('later', 'earlier')} than {early}")
        best = f"the best trivial baselines, {strong} for power and {early} for delay"
        if strong == early:
            best = f"the best trivial baseline, {strong}"
        if better:
            return (f"Clearly better than {best}, and clearly worse in neither: "
                    f"{', '.join(better)}. Of {first}: {said}.")
        return (f"No method is clearly better than {best}, without being clearly worse in the "
                f"other measure; {first} comes nearest: {said}.")


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


def _select(results: pd.DataFrame, dataset: str, signal: str, level: float) -> pd.DataFrame:
    chosen = results[(results["dataset"] == dataset) & (results["signal"] == signal)
                     & np.isclose(results["level"], level)]
    if chosen.empty:
        there = sorted(set(zip(results["dataset"], results["signal"], strict=True)))
        raise ValueError(f"no results for data set {dataset!r}, signal {signal!r}, level {level:g};"
                         f" there are {there} at levels {sorted(set(results['level']))}.")
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
