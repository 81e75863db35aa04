"""Notebook 07: data sets of the comparison, its results as tables and sentences, its figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from monitorlab.display import style
from monitorlab.online.comparison import (
    PAPER_METHODS,
    TRIVIAL_METHODS,
    Method,
    Split,
    compare_methods,
)
from monitorlab.online.metrics import peaks
from monitorlab.online.score_files import from_frame, load_scores
from monitorlab.online.trajectories import UNKNOWN, Trajectories
from monitorlab.pipeline.runs import Run
from monitorlab.statistics.intervals import check_level
from monitorlab.statistics.thresholds import MISSED_DETECTION, NOT_TRAINABLE, Threshold
from monitorlab.storage import sources
from monitorlab.storage.sources import project_root
from monitorlab.storage.tables import SCHEMAS

# What only the notebook takes from here.
__all__ = ["SCHEMAS", "check_level", "sources"]

# Signals that cost next to nothing; the others need a model of their own.
FREE_SIGNALS = ("min_logprob", "mean_logprob", "words")

SIGNALS = "06_step_signals"
# What that notebook made, by its own names.
STAND_INS = {
    "miniature_math_strong": "miniature math, strong generator",
    "miniature_math_weak": "miniature math, weak generator",
    "miniature_conversations": "miniature conversations",
}

# Step scores under data/released, by name.
RELEASED = {
    "processbench_gsm8k": "ProcessBench, log-prob. of SmolLM2",
    "tau_bench": "tau-bench, kind of tool call",
}

HEADLINES = ("CRC", "UCB", "e-valuator, PAC", "learned + CRC", "first score only",
             "chosen for delay + CRC")
TRIVIAL = tuple(method.label for method in TRIVIAL_METHODS)
FEWEST = 10  # sequences of a class; from fewer, no verdict and no ranking

MOST_MARKS = 100  # steps that are marked one by one


class Scored(dict[tuple[str, str], Trajectories]):
    """Data sets by (dataset, signal), with readable titles."""

    @classmethod
    def earlier(cls, run: Run, needed: bool = True) -> Scored:
        """Take the step scores that the previous notebook made in this run, by small stand-ins.

        Parameters
        ----------
        run : Run
            The reader.
        needed : bool
            If not, and the run has no such notebook, there is nothing.
        """
        if not needed and not (run.folder.parent / SIGNALS).exists():
            print(f"this run has no {SIGNALS}: its small stand-ins are left out")
            return cls()
        return cls.of_stand_ins(run.read_table(SIGNALS, "steps"))

    @classmethod
    def of_stand_ins(cls, steps: pd.DataFrame) -> Scored:
        """Sequences of the table ``steps``, in order of first appearance."""
        found = cls()
        for (dataset, signal), group in steps.groupby(["dataset", "signal"], sort=False):
            one = from_frame(group.reset_index(drop=True), str(dataset), str(signal))
            if "step_label" in group and (group["step_label"] == 1).any():
                one = one.with_onsets(group)
            title = STAND_INS.get(one.dataset, "")
            found[one.dataset, one.signal] = replace(one, title=title, stand_in=True)
        return found

    @classmethod
    def released(cls, run: Run) -> Scored:
        """Take the real sequences of known onset that the project ships step scores of.

        Sequences without a label are left out, see ``data/released/README.md``.

        Parameters
        ----------
        run : Run
            Records the files as its inputs.
        """
        found = cls()
        for name, title in RELEASED.items():
            file = run.record_file(project_root() / "data" / "released" / f"{name}.jsonl")
            data = replace(load_scores(file), title=title)
            found[name, data.signal] = data.take(data.labels != UNKNOWN)
        return found

    def add(self, data: Iterable[Trajectories]) -> list[Trajectories]:
        """Add data sets; one whose name is taken gets another. Return them as they were added."""
        taken = {dataset for dataset, _ in self}
        added = []
        for one in data:
            while one.dataset in taken:
                title = one.title and f"{one.title} (own file)"
                one = replace(one, dataset=f"{one.dataset} (own file)", title=title)
            self[one.dataset, one.signal] = one
            added.append(one)
        return added

    def overview(self) -> pd.DataFrame:
        """One row per data set and signal: sizes, share unsafe, lengths, how coarse the score."""
        return pd.DataFrame(
            {
                "data set": one.name,
                "signal": one.signal.replace("_", " ") if one.stand_in else one.signal,
                "sequences": len(one),
                "unsafe": one.count(1) / (len(one) - one.count(UNKNOWN) or np.nan),
                "steps": float(np.mean(one.lengths)),
                "distinct scores": len(np.unique(one.flat_scores)),
            }
            for one in self.values()
        )


def sizes(data: Trajectories) -> str:
    """Return the readable name with the number of sequences of each class."""
    unknown = data.count(UNKNOWN)
    rest = f", {unknown} unknown" if unknown else ""
    return f"{data.name} ({data.count(0)} safe, {data.count(1)} unsafe{rest})"


def tie_effect(data: Trajectories, level: float, splits: Iterable[Split]) -> dict[str, object]:
    """What breaking ties by a draw changes for the CRC threshold on the latest score.

    Parameters
    ----------
    data : Trajectories
        Sequences.
    level : float
        Target false alarm rate.
    splits : iterable of (calibration, test)
        As for :func:`compare_methods`.

    Returns
    -------
    dict
        Data set, number of distinct scores, and the means over splits of the attained level, the
        false alarm rate and the power, without and with the draw.
    """
    row: dict[str, object] = {"data set": sizes(data),
                              "distinct scores": len(np.unique(data.flat_scores))}
    pair = (PAPER_METHODS[0], TRIVIAL_METHODS[0])
    found = compare_methods(data, pair, splits, levels=(level,))
    for method, more in zip(pair, ("", ", drawn"), strict=True):
        means = found[found["method"] == method.label].mean(numeric_only=True)
        for measure, name in (("attained", "attained"), ("far", "FAR"), ("power", "power")):
            row[f"{name}{more}"] = float(means[measure])
    return row


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

    @staticmethod
    def headlines(results: pd.DataFrame, level: float) -> dict[str, float]:
        """Mean measures at one level, named ``dataset.signal.method.measure``, for metrics."""
        chosen = results[np.isclose(results["level"], level) & results["method"].isin(HEADLINES)]
        groups = chosen.groupby(["dataset", "signal", "method"])
        means = groups[["far", "power", "restricted_delay"]].mean().stack()
        return {".".join(map(str, key)): float(value)
                for key, value in means.items() if math.isfinite(value)}


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


# Figures ------------------------------------------------------------------------------------


def plot_examples(
    trajectories: Trajectories, threshold: Threshold, title: str, positions: Sequence[int] = ()
) -> Figure:
    """Suspicion along a few sequences, the threshold, and where it alarms (paper figure 1).

    Parameters
    ----------
    trajectories : Trajectories
        Scores, high is unsafe.
    threshold : Threshold
        Drawn as a line; first crossing is marked.
    title : str
        Title of the figure, which says so if the scores come from a small stand-in model.
    positions : sequence of int
        Sequences to draw, one panel each. Those of `_telling_examples`, if empty.
    """
    positions = positions or _telling_examples(trajectories, threshold)
    fig, axes = style.subplots(1, len(positions), style.TWO_COLUMNS, 2.5, sharey=True)
    shown = [trajectories.steps(position) for position in positions]
    low, high = _finite_ends([*shown, np.array([threshold.value])])
    for ax, values, position in zip(axes[0], shown, positions, strict=True):
        unsafe = bool(trajectories.labels[position])
        color = style.UNSAFE if unsafe else style.SAFE
        steps = np.arange(1, len(values) + 1)
        drawn = np.clip(values, low, high)
        ax.plot(steps, drawn, color=color, marker="o" if len(values) <= MOST_MARKS else "")
        for at, end, sign in ((high, np.inf, "∞"), (low, -np.inf, "-∞")):
            if (values == end).any():
                ax.annotate(sign, (steps[np.argmax(values == end)], at), xytext=(5, 0),
                            textcoords="offset points", va="center")
        if np.isfinite(threshold.value):
            ax.axhline(threshold.value, color=style.GREY, linestyle="--", label="threshold")
        alarms = np.flatnonzero(threshold.alarms(values))
        if len(alarms):
            first = alarms[0]
            ax.plot(steps[first], drawn[first], "o", markersize=13, markerfacecolor="none",
                    markeredgecolor="#222222", clip_on=False, label="alarm")
        ax.set_title("unsafe" if unsafe else "safe", color=color)
        ax.set(xlabel="step", xlim=(0.7, len(values) + 0.3))
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel("suspicion\n(higher is worse)")
    return style.finished(fig, 2, f"{title} (small stand-in)" if trajectories.stand_in else title)


def _telling_examples(data: Trajectories, threshold: Threshold) -> list[int]:
    """Positions of the longest sequences of each class with and without an alarm, safe ones first.

    Ties go by position.
    """
    alarmed = threshold.alarms(peaks(data))
    positions: list[int] = []
    for label, alarm in ((0, False), (0, True), (1, True), (1, False)):
        group = np.flatnonzero((data.labels == label) & (alarmed == alarm))
        if len(group):
            positions.append(int(group[np.argmax(data.lengths[group])]))
    return positions


def plot_protocol(
    results: pd.DataFrame,
    panels: Mapping[tuple[str, str], str],
    methods: Sequence[str],
    title: str,
    measures: Sequence[str] = ("far", "power", "delay", "restricted_delay"),
) -> Figure:
    """Measures against the target level, one column per data set (paper figures 2 to 4).

    Parameters
    ----------
    results : DataFrame
        As from :func:`monitorlab.online.comparison.compare_methods`.
    panels : mapping of (dataset, signal) to str
        Columns and their titles.
    methods : sequence of str
        Method labels, one line each; the band is q10 to q90 over splits. The trivial baselines are
        drawn with them, dashed and without a band.
    title : str
        Title of the figure.
    measures : sequence of str
        Rows, the first of them what the level is about; `miss` is 1 minus the power.
    """
    results = results.assign(miss=1.0 - results["power"])
    results = results[results["dataset"].isin([dataset for dataset, _ in panels])
                      & results["method"].isin([*methods, *TRIVIAL])]
    width = style.TWO_COLUMNS * (max(len(panels) / 4, 1.0) if len(panels) > 1 else 0.62)
    fig, axes = _grid(measures, list(panels.values()), width, 1.7 * len(measures) + 1.0,
                      fontsize=8 if len(panels) > 3 else None)
    for row, measure in enumerate(measures):
        table = _over_splits(results, measure)
        for ax, key in zip(axes[row], panels, strict=True):
            chosen = table[(table["dataset"] == key[0]) & (table["signal"] == key[1])]
            for method in (*methods, *TRIVIAL):
                _band(ax, chosen[chosen["method"] == method], method)
            if row == 0:
                ends = [chosen["level"].min(), chosen["level"].max()]
                ax.plot(ends, ends, color=style.GREY, linestyle="--", label="level ε")
            else:
                ax.set_ylim(0, 1.02)
    return style.finished(fig, 5 if len(panels) > 1 else 3, title)


def plot_signals(
    results: pd.DataFrame, panels: Mapping[str, str], method: str, title: str
) -> Figure:
    """One method under several signals: what the score is worth (paper's ablation).

    The trivial baselines under the first signal are drawn with them, dashed.

    Parameters
    ----------
    results : DataFrame
        With several signals per data set.
    panels : mapping of dataset to str
        Columns and their titles.
    method : str
        Label of the method that is held fixed.
    title : str
        Title of the figure.
    """
    measures = ("power", "restricted_delay")
    width = style.TWO_COLUMNS if len(panels) > 1 else style.TWO_COLUMNS * 0.62
    fig, axes = _grid(measures, list(panels.values()), width, 2.0 * len(measures) + 0.8)
    for row, measure in enumerate(measures):
        table = _over_splits(results[results["method"] == method], measure)
        trivial = _over_splits(results[results["method"].isin(TRIVIAL)], measure)
        for ax, dataset in zip(axes[row], panels, strict=True):
            for signal, lines in table[table["dataset"] == dataset].groupby("signal", sort=False):
                color = style.SIGNAL_COLORS.get(str(signal), style.GREY)
                ax.plot(lines["level"], lines["mean"], marker="o", color=color,
                        label=style.SIGNAL_NAMES.get(str(signal), str(signal).replace("_", " ")))
                ax.fill_between(lines["level"], lines["q10"], lines["q90"], color=color, alpha=0.18)
            first = results.loc[results["dataset"] == dataset, "signal"].iloc[0]
            own = trivial[(trivial["dataset"] == dataset) & (trivial["signal"] == first)]
            for name in TRIVIAL:
                _band(ax, own[own["method"] == name], name)
            ax.set_ylim(0, 1.02)
    return style.finished(fig, 4, title)


def plot_trade_off(
    results: pd.DataFrame, panels: Mapping[tuple[str, str], str], level: float, title: str
) -> Figure:
    """Power against restricted delay at one level: up and to the left is better.

    Parameters
    ----------
    results : DataFrame
        As from :func:`monitorlab.online.comparison.compare_methods`.
    panels : mapping of (dataset, signal) to str
        One panel each, at most three to a row.
    level : float
        Target level.
    title : str
        Title of the figure.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = style.TWO_COLUMNS if columns > 1 else style.TWO_COLUMNS * 0.62
    fig, axes = style.subplots(rows, columns, width, 2.7 * rows + 1.1)
    for ax, (key, name) in zip(axes.flat, panels.items(), strict=False):
        for method, splits in _select(results, *key, level).groupby("method", sort=False):
            x, y = splits["restricted_delay"], splits["power"]
            ax.errorbar(x.mean(), y.mean(), xerr=_arms(x), yerr=_arms(y), label=method,
                        color=style.METHOD_COLORS.get(method, style.GREY), linestyle="none",
                        marker=style.METHOD_MARKERS.get(method, "o"), markersize=8,
                        elinewidth=0.8, alpha=0.9)
        ax.set_title(_two_lines(name), fontsize=8)
        ax.set_xlabel("restricted delay (lower is better)")
    for ax in axes[:, 0]:
        ax.set_ylabel("power (higher is better)")
    for ax in axes.flat[len(panels):]:
        ax.set_axis_off()
    return style.finished(fig, 4 if columns > 1 else 2, title)


def _grid(
    measures: Sequence[str], titles: Sequence[str], width: float, height: float, **font: Any
) -> tuple[Figure, Any]:
    """A row of panels per measure and a column per data set, with names at the edges."""
    fig, axes = style.subplots(len(measures), len(titles), width, height, sharex=True,
                               sharey="row")
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(_two_lines(title), **font)
    for ax in axes[-1]:
        ax.set_xlabel("target level ε")
    for ax, measure in zip(axes[:, 0], measures, strict=True):
        ax.set_ylabel(style.MEASURE_NAMES[measure])
    return fig, axes


def _over_splits(results: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean, q10 and q90 over splits of one measure, per data set, signal, method and level."""
    groups = results.groupby(["dataset", "signal", "method", "level"], sort=False)[measure]
    ends = {"q10": groups.quantile(0.1), "q90": groups.quantile(0.9)}
    return pd.DataFrame({"mean": groups.mean(), **ends}).reset_index()


def _two_lines(name: str) -> str:
    """Put the numbers of sequences, "(339 safe, 61 unsafe)", on a line of their own."""
    start, bracket, end = name.rpartition(" (")
    return f"{start}\n({end}" if bracket else name


def _finite_ends(values: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Where infinite values are drawn: a little beyond the finite ones."""
    numbers = np.concatenate(values)
    finite = numbers[np.isfinite(numbers)]
    if not len(finite):
        return -1.0, 1.0
    reach = 0.15 * (finite.max() - finite.min() or 1.0)
    return float(finite.min() - reach), float(finite.max() + reach)


def _band(ax: Axes, lines: pd.DataFrame, method: str) -> None:
    """Draw a method's mean over its levels, and q10 to q90 if it is no trivial baseline."""
    if lines.empty:
        return
    color = style.METHOD_COLORS.get(method, style.GREY)
    trivial = method in TRIVIAL
    ax.plot(lines["level"], lines["mean"], color=color, label=method,
            marker=style.METHOD_MARKERS.get(method, "o"), linestyle="--" if trivial else "-")
    if not trivial:
        ax.fill_between(lines["level"], lines["q10"], lines["q90"], color=color, alpha=0.15)


def _arms(values: pd.Series) -> list[list[float]]:
    """Distances from the mean down to q10 and up to q90, as error bars want them."""
    mean, low, high = values.mean(), values.quantile(0.1), values.quantile(0.9)
    return [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
