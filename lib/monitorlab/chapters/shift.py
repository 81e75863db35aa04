"""Notebook 08: missed detections, and what becomes of a guarantee when things change.

A scene says which sequences calibrate and which ones arrive later. One play of it draws both, puts
a threshold on the first and lets the second arrive one by one, unlabelled, while detectors watch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from monitorlab.chapters.online import Scored, plot_protocol, sizes
from monitorlab.display import style
from monitorlab.evaluation.operating_points import choose_rule
from monitorlab.evaluation.rates import PAIR, SCENARIO
from monitorlab.monitors import recorded
from monitorlab.online.comparison import random_splits
from monitorlab.online.drift import DriftReference, DriftTest
from monitorlab.online.metrics import peaks
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.intervals import check_level
from monitorlab.statistics.thresholds import calibrate, calibrate_weighted, lowest_miss_level
from monitorlab.storage import sources
from monitorlab.storage.tables import SCHEMAS

# What only the notebook takes from here.
__all__ = ["SCHEMAS", "Scored", "check_level", "plot_protocol", "recorded", "sizes", "sources"]

FloatArray = NDArray[np.float64]

LOOK_EVERY = 25  # sequences between two looks of a test that looks again and again
MARTINGALE, REPEATED, CORRECTED = ("conformal martingale", "rank-sum test, every look",
                                   "rank-sum test, corrected looks")
AS_CALIBRATED, ROLLING, WEIGHTED = "as calibrated", "rolling, labels late", "weighted"
WAYS = {AS_CALIBRATED: (style.GREY, "o"), ROLLING: (style.BLUE, "s"), WEIGHTED: (style.GREEN, "D")}
RULES = {"exact binomial, by sequence": ("binomial", PAIR),
         "CRC, by sequence": ("crc", PAIR),
         "Hoeffding-Bentkus, by prompt": ("hoeffding_bentkus", SCENARIO),
         "CRC, by prompt": ("crc", SCENARIO)}


@dataclass(frozen=True)
class Scene:
    """One kind of change.

    Attributes
    ----------
    name : str
        How tables and figures call it.
    before : ndarray of float, shape (n, 2)
        Peak and label of the sequences that calibrate; and that arrive, if `after` is None.
    after : ndarray of float, shape (m, 2), optional
        Peak and label of those that arrive instead.
    chance : ndarray of float, shape (n,), optional
        How likely a sequence is let in where it arrives, up to a constant, at most 1. What is
        more likely now weighs more in the weighted threshold, if `known`.
    known : bool
        Whether `chance` depends only on what is known of a sequence beside its scores.
    """

    name: str
    before: FloatArray
    after: FloatArray | None = None
    chance: FloatArray | None = None
    known: bool = False

    @classmethod
    def of_generators(cls, strong: Trajectories, weak: Trajectories) -> list[Scene]:
        """Return the changes that users meet, made of two generators' sequences.

        Parameters
        ----------
        strong, weak : Trajectories
            Labelled sequences of two generators under one verifier. Those of the first calibrate.
        """
        first, second = (np.column_stack([peaks(data), data.labels]) for data in (strong, weak))
        lengths = strong.lengths.astype(float)
        longer = np.exp((lengths - lengths.max()) / max(float(lengths.std()), 1e-9))
        unsafe = first[:, 1] == 1
        higher = first.copy()
        higher[:, 0] += 0.5 * first[:, 0].std()
        return [
            cls("no change", first),
            cls("another generator", first, after=second),
            cls("longer solutions", first, chance=longer, known=True),
            cls("another verifier", first, after=higher),
            cls("more unsafe ones", first, chance=np.where(unsafe, 1.0, 1 / 3)),
        ]

    def play(self, n: int, m: int, rng: np.random.Generator) -> _Play:
        """Draw n sequences that calibrate and up to m that arrive, none of them twice.

        Raises
        ------
        ValueError
            If there are not more than n sequences.
        """
        if not 0 < n < len(self.before):
            raise ValueError(f"{n} sequences are to calibrate, and there are {len(self.before)}: "
                             "expected fewer, and at least one")
        order = rng.permutation(len(self.before))
        own, rest = order[:n], order[n:]
        if self.chance is not None:
            rest = rest[rng.random(len(rest)) < self.chance[rest]]
        arriving = self.before[rest]
        if self.after is not None:
            same = len(self.after) == len(self.before)  # the same problems: none that calibrated
            arriving = self.after[rest if same else rng.permutation(len(self.after))]
        weights = self.chance[own] if self.known and self.chance is not None else None
        return _Play(self.before[own], arriving[:m], weights)


@dataclass(frozen=True)
class _Play:
    """What one play of a scene draws.

    Attributes
    ----------
    calibrating, arriving : ndarray of float, shape (n, 2) and (m, 2)
        Peaks and labels, in the order of arrival; no sequence is in both.
    weights : ndarray of float, shape (n,), optional
        Of the calibrating sequences, at most 1.
    """

    calibrating: FloatArray
    arriving: FloatArray
    weights: FloatArray | None

    def alarms(self, level: float, late: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Say which arriving sequences alarm, by each way of placing the threshold.

        Parameters
        ----------
        level : float
            Target false alarm rate.
        late : int
            How many sequences later a label becomes known.

        Yields
        ------
        way : str
            "as calibrated"; "rolling, labels late", from half as many of the latest safe sequences
            as calibrated at first; and "weighted" where the play has weights.
        alarmed : ndarray of bool, shape (m,)
        """
        is_safe = self.calibrating[:, 1] == 0
        safe, arriving = self.calibrating[is_safe, 0], self.arriving[:, 0]
        yield AS_CALIBRATED, arriving > calibrate(safe, level).value
        yield ROLLING, _rolling(safe, self.arriving, level, late)
        if self.weights is not None:
            yield WEIGHTED, arriving > calibrate_weighted(safe, self.weights[is_safe], level, 1.0)


def _rolling(safe: FloatArray, arriving: FloatArray, level: float, late: int) -> NDArray[np.bool_]:
    latest = deque(safe.tolist(), maxlen=max(len(safe) // 2, 1))
    value, alarmed = calibrate(safe, level).value, np.zeros(len(arriving), bool)
    for i, peak in enumerate(arriving[:, 0]):
        if i >= late and arriving[i - late, 1] == 0:
            latest.append(arriving[i - late, 0])
            value = calibrate(np.array(latest), level).value
        alarmed[i] = peak > value
    return alarmed


def _martingale(old: FloatArray, new: FloatArray, rate: float, rng: np.random.Generator) -> int:
    half = len(old) // 2
    reference = DriftReference.of(old[half:], old[:half], np.inf, rate)
    test = DriftTest(reference)
    for peak, draw in zip(new.tolist(), rng.random(len(new)).tolist(), strict=True):
        test.add(peak, draw)
    return test.fired_at


def _looks(
    old: FloatArray, new: FloatArray, rate: float, rng: np.random.Generator, *, corrected: bool
) -> int:
    """Compare everything that arrived with what calibrated, look after look."""
    for look, seen in enumerate(range(LOOK_EVERY, len(new) + 1, LOOK_EVERY), 1):
        share = 1 / (look * (look + 1)) if corrected else 1  # these shares sum to 1
        if stats.mannwhitneyu(old, new[:seen], method="asymptotic").pvalue <= rate * share:
            return seen
    return 0


# Peaks that calibrated, peaks that arrived, rate, generator -> sequences until the alarm, or 0.
DETECTORS: Mapping[str, Callable[[FloatArray, FloatArray, float, np.random.Generator], int]] = {
    MARTINGALE: _martingale, REPEATED: partial(_looks, corrected=False),
    CORRECTED: partial(_looks, corrected=True),
}


@dataclass(frozen=True)
class Plays:
    """How often scenes are played, and how large a play is.

    Attributes
    ----------
    calibrating, arriving : int
        Sequences.
    late : int
        How many sequences later a label becomes known.
    number : int
        How often each scene is drawn.
    """

    calibrating: int
    arriving: int
    late: int
    number: int

    @classmethod
    def of(cls, data: Trajectories, number: int) -> Plays:
        """Two fifths of the sequences calibrate, and labels are a tenth of them late."""
        return cls(2 * len(data) // 5, 3 * len(data) // 5, len(data) // 10, number)

    def watch(
        self, scenes: Sequence[Scene], level: float, rate: float, rng: np.random.Generator
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Play every scene many times.

        Parameters
        ----------
        scenes : sequence of Scene
        level : float
            Target false alarm rate of the thresholds.
        rate : float
            Chance of a false report that detectors are to keep to.
        rng : Generator

        Returns
        -------
        detected : DataFrame
            One row per scene and detector: ``reported`` (share of plays), ``after`` (median
            sequences until the report, over the plays with one), and what happened until the
            report, or to the end without one, under the threshold as calibrated, as means over
            plays: ``false_alarms``, ``allowed`` (the level times the safe sequences) and
            ``missed``.
        kept : DataFrame
            One row per scene and way of placing the threshold: ``far`` and ``power`` among the
            later half of the arriving sequences, where every change has had its time, as means over
            plays with ``far_error``, the standard error of the mean.
        """
        reports, found = [], []
        for scene in scenes:
            for _ in range(self.number):
                one = scene.play(self.calibrating, self.arriving, rng)
                old, new, safe = one.calibrating[:, 0], one.arriving[:, 0], one.arriving[:, 1] == 0
                ways = dict(one.alarms(level, self.late))
                for name, detect in DETECTORS.items():
                    at = detect(old, new, rate, rng)
                    alarmed, ours = ways[AS_CALIBRATED][: at or None], safe[: at or None]
                    accrued = np.sum(alarmed & ours), level * np.sum(ours), np.sum(~alarmed & ~ours)
                    reports.append((scene.name, name, at > 0, at or np.nan, *accrued))
                later = np.arange(len(new)) >= len(new) // 2
                for way, alarmed in ways.items():
                    rates = _mean(alarmed[later & safe]), _mean(alarmed[later & ~safe])
                    found.append((scene.name, way, *rates))
        accruing = ["false_alarms", "allowed", "missed"]
        detected = pd.DataFrame(
            reports, columns=["change", "detector", "reported", "after", *accruing],
        ).groupby(["change", "detector"], sort=False).agg(
            {"reported": "mean", "after": "median", **dict.fromkeys(accruing, "mean")})
        kept = pd.DataFrame(found, columns=["change", "threshold", "far", "power"]).groupby(
            ["change", "threshold"], sort=False).agg(
            far=("far", "mean"), far_error=("far", "sem"), power=("power", "mean"))
        return detected.reset_index(), kept.reset_index()


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else np.nan


def _feasible(named: Mapping[str, Trajectories]) -> pd.DataFrame:
    """Lowest level of misses that the threshold of each level of false alarms keeps as well.

    Columns are ``name, far_level, miss_level``.
    """
    rows = []
    for name, data in named.items():
        safe, unsafe = (peaks(data.take(data.labels == label)) for label in (0, 1))
        for level in np.linspace(0.01, 0.5, 50):
            value = calibrate(safe, float(level)).value
            rows.append((name, level, lowest_miss_level(value, unsafe)))
    return pd.DataFrame(rows, columns=["name", "far_level", "miss_level"])


def promises_by_group(
    prompts: int, answers: int, alike: float, level: float, delta: float, plays: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Calibrate on answers to few prompts again and again, and compare with what was promised.

    A peak is normal. The share `alike` of its variance belongs to the prompt, so the answers to one
    prompt resemble each other, and an answer to a *new* prompt is still normal: the true false
    alarm rate of a threshold is known.

    Parameters
    ----------
    prompts, answers : int
        Prompts, and safe answers to each.
    alike : float
        In [0, 1]; 0 makes all answers independent.
    level, delta : float
        Of the promises, in (0, 1).
    plays : int
        Calibrations.
    rng : Generator

    Returns
    -------
    DataFrame
        ``rule, promise, mean far, share above`` (of the calibrations whose true false alarm rate is
        above the level), ``silent`` (share that can promise nothing and never alarms).
    """
    units = np.repeat(np.arange(prompts), answers)
    risks: dict[str, list[float]] = {name: [] for name in RULES}
    for _ in range(plays):
        shared, own = rng.normal(size=prompts), rng.normal(size=len(units))
        peaks = np.sqrt(alike) * shared[units] + np.sqrt(1 - alike) * own
        # Ranks of peaks are all that counts; a verdict's score lies in [0, 1].
        scores = stats.norm.cdf(peaks)
        for name, (calibrator, unit) in RULES.items():
            value = choose_rule(scores, units, level, calibrator, delta, unit).value
            risks[name].append(max(1.0 - value, 0.0))
    found = {name: np.array(values) for name, values in risks.items()}
    return pd.DataFrame(
        {"rule": name, "promise": f"mean at most {level:g}" if RULES[name][0] == "crc" else
         f"above {level:g} in at most {delta:g}", "mean far": values.mean(),
         "share above": (values > level).mean(), "silent": (values == 0).mean()}
        for name, values in found.items())


def thresholds_by_group(
    data: Trajectories, groups: NDArray[Any], level: float, splits: int, seed: int
) -> pd.DataFrame:
    """Compare one threshold for all with one per group, on random halves.

    Parameters
    ----------
    data : Trajectories
        Labelled sequences.
    groups : ndarray, shape (n,)
        Group of each sequence.
    level : float
        Target false alarm rate.
    splits, seed : int
        Random halves; one calibrates (CRC), the other counts.

    Returns
    -------
    DataFrame
        ``group, threshold, far, power``: means over splits, a row per group and way.
    """
    found, rows = peaks(data), []
    for own, rest in random_splits(len(data), splits, 0.5, seed):
        safe = own[data.labels[own] == 0]
        for group in np.unique(groups):
            ours = rest[groups[rest] == group]
            for way, at in (("one for all", safe), ("its own", safe[groups[safe] == group])):
                alarm = found[ours] > calibrate(found[at], level).value
                unsafe = data.labels[ours] == 1
                rows.append((group, way, alarm[~unsafe].mean(), alarm[unsafe].mean()))
    table = pd.DataFrame(rows, columns=["group", "threshold", "far", "power"])
    return table.groupby(["group", "threshold"], sort=False).mean().reset_index()


# Figures ------------------------------------------------------------------------------------


def plot_feasible(named: Mapping[str, Trajectories], title: str) -> Figure:
    """Which pairs of levels one threshold can keep at once, one panel per data set.

    Parameters
    ----------
    named : mapping of str to Trajectories
        Labelled sequences by name; all of them calibrate.
    title : str
        Title of the figure.
    """
    lines = _feasible(named)
    fig, axes = style.subplots(1, len(named), style.TWO_COLUMNS, 3.2, sharex=True, sharey=True)
    for ax, name in zip(axes[0], named, strict=True):
        own = lines[lines["name"] == name]
        x, y = own["far_level"].to_numpy(), own["miss_level"].to_numpy()
        ax.step(x, y, where="post", color=style.BLUE)
        ax.fill_between(x, y, 1.0, step="post", color=style.BLUE, alpha=0.15,
                        label="both can be kept")
        ax.fill_between(x, 0.0, y, step="post", color=style.ORANGE, alpha=0.15,
                        label="no threshold keeps both")
        ax.set(xlim=(x.min(), x.max()), ylim=(0, 1), xlabel="level of false alarms")
        ax.set_title(name, fontsize=8)
    axes[0, 0].set_ylabel("level of misses")
    return style.finished(fig, 2, title)


def plot_kept(kept: pd.DataFrame, level: float, title: str) -> Figure:
    """False alarms and power after each change, by the way of placing the threshold.

    Parameters
    ----------
    kept : DataFrame
        As from `Plays.watch`.
    level : float
        Target false alarm rate, drawn as a line.
    title : str
        Title of the figure.
    """
    changes = list(dict.fromkeys(kept["change"]))
    fig, axes = style.subplots(1, 2, style.TWO_COLUMNS, 0.55 * len(changes) + 1.4, sharey=True)
    measures = {"far": style.FALSE_ALARMS, "power": "power (higher is better)"}
    for ax, (measure, label) in zip(axes[0], measures.items(), strict=True):
        for number, (way, (color, marker)) in enumerate(WAYS.items()):
            own = kept[kept["threshold"] == way]
            if own.empty:
                continue
            height = np.array([changes.index(change) for change in own["change"]])
            error = 1.96 * own["far_error"] if measure == "far" else None
            ax.errorbar(own[measure], height + 0.22 * (number - 1), xerr=error, color=color,
                        marker=marker, linestyle="none", label=way)
        if measure == "far":
            ax.axvline(level, color=style.GREY, linestyle="--", label="level")
        ax.set_xlim(0, ax.get_xlim()[1] + 0.02)  # a mark at 1 is whole
        ax.set_xlabel(label)
    axes[0, 0].set_yticks(range(len(changes)), changes)
    axes[0, 0].set_ylim(len(changes) - 0.5, -0.5)
    return style.finished(fig, 4, title)
