"""What may change between calibration and deployment, and what becomes of a threshold then.

A scene says which sequences calibrate and which ones arrive later. One play of it draws both, puts
a threshold on the first and lets the second arrive one by one, unlabelled, while detectors watch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from monitorlab.online.drift import DriftReference, DriftTest
from monitorlab.online.metrics import peaks
from monitorlab.online.trajectories import Trajectories
from monitorlab.statistics.thresholds import calibrate, calibrate_weighted, lowest_miss_level

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NO_CHANGE = "no change"
LOOK_EVERY = 25  # sequences between two looks of a test that looks again and again
MARTINGALE, REPEATED, CORRECTED = ("conformal martingale", "rank-sum test, every look",
                                   "rank-sum test, corrected looks")
AS_CALIBRATED, ROLLING, WEIGHTED = "as calibrated", "rolling, labels late", "weighted"


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


def scenes(strong: Trajectories, weak: Trajectories) -> list[Scene]:
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
        Scene(NO_CHANGE, first),
        Scene("another generator", first, after=second),
        Scene("longer solutions", first, chance=longer, known=True),
        Scene("another verifier", first, after=higher),
        Scene("more unsafe ones", first, chance=np.where(unsafe, 1.0, 1 / 3)),
    ]


@dataclass(frozen=True)
class Play:
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


def play(scene: Scene, n: int, m: int, rng: np.random.Generator) -> Play:
    """Draw n sequences that calibrate and up to m that arrive, none of them twice.

    Raises
    ------
    ValueError
        If there are not more than n sequences.
    """
    if not 0 < n < len(scene.before):
        raise ValueError(f"{n} sequences are to calibrate, and there are {len(scene.before)}: "
                         "expected fewer, and at least one")
    order = rng.permutation(len(scene.before))
    own, rest = order[:n], order[n:]
    if scene.chance is not None:
        rest = rest[rng.random(len(rest)) < scene.chance[rest]]
    arriving = scene.before[rest]
    if scene.after is not None:
        same = len(scene.after) == len(scene.before)  # the same problems: none that calibrated
        arriving = scene.after[rest if same else rng.permutation(len(scene.after))]
    weights = scene.chance[own] if scene.known and scene.chance is not None else None
    return Play(scene.before[own], arriving[:m], weights)


# Detectors ------------------------------------------------------------------------------------


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


# Thresholds -----------------------------------------------------------------------------------


def _safe(table: FloatArray) -> FloatArray:
    return np.asarray(table[table[:, 1] == 0, 0])


def alarms(one: Play, level: float, late: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Say which arriving sequences alarm, by each way of placing the threshold.

    Parameters
    ----------
    one : Play
    level : float
        Target false alarm rate.
    late : int
        How many sequences later a label becomes known.

    Yields
    ------
    way : str
        "as calibrated"; "rolling, labels late", from half as many of the latest safe sequences as
        calibrated at first; and "weighted" where the play has weights.
    alarmed : ndarray of bool, shape (m,)
    """
    safe, arriving = _safe(one.calibrating), one.arriving[:, 0]
    yield AS_CALIBRATED, arriving > calibrate(safe, level).value
    yield ROLLING, _rolling(safe, one.arriving, level, late)
    if one.weights is not None:
        weights = one.weights[one.calibrating[:, 1] == 0]
        yield WEIGHTED, arriving > calibrate_weighted(safe, weights, level, 1.0)


def _rolling(safe: FloatArray, arriving: FloatArray, level: float, late: int) -> NDArray[np.bool_]:
    latest = deque(safe.tolist(), maxlen=max(len(safe) // 2, 1))
    value, alarmed = calibrate(safe, level).value, np.zeros(len(arriving), bool)
    for i, peak in enumerate(arriving[:, 0]):
        if i >= late and arriving[i - late, 1] == 0:
            latest.append(arriving[i - late, 0])
            value = calibrate(np.array(latest), level).value
        alarmed[i] = peak > value
    return alarmed


def feasible(named: Mapping[str, Trajectories]) -> pd.DataFrame:
    """Lowest level of misses that the threshold of each level of false alarms keeps as well.

    Parameters
    ----------
    named : mapping of str to Trajectories
        Labelled sequences by name; all of them calibrate.

    Returns
    -------
    DataFrame
        ``name, far_level, miss_level``.
    """
    rows = []
    for name, data in named.items():
        safe, unsafe = (peaks(data.take(data.labels == label)) for label in (0, 1))
        for level in np.linspace(0.01, 0.5, 50):
            value = calibrate(safe, float(level)).value
            rows.append((name, level, lowest_miss_level(value, unsafe)))
    return pd.DataFrame(rows, columns=["name", "far_level", "miss_level"])


# Many plays -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """How large a play is.

    Attributes
    ----------
    calibrating, arriving : int
        Sequences.
    late : int
        How many sequences later a label becomes known.
    plays : int
        How often each scene is drawn.
    """

    calibrating: int
    arriving: int
    late: int
    plays: int


def sizes_for(data: Trajectories, plays: int) -> Sizes:
    """Two fifths of the sequences calibrate, and labels are a tenth of them late."""
    return Sizes(2 * len(data) // 5, 3 * len(data) // 5, len(data) // 10, plays)


def watch_scenes(
    chosen: Sequence[Scene], sizes: Sizes, level: float, rate: float, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Play every scene many times.

    Parameters
    ----------
    chosen : sequence of Scene
    sizes : Sizes
    level : float
        Target false alarm rate of the thresholds.
    rate : float
        Chance of a false report that detectors are to keep to.
    rng : Generator

    Returns
    -------
    detected : DataFrame
        One row per scene and detector: ``reported`` (share of plays), ``after`` (median sequences
        until the report, over the plays with one), and what happened until the report, or to the
        end without one, under the threshold as calibrated, as means over plays: ``false_alarms``,
        ``allowed`` (the level times the safe sequences) and ``missed``.
    kept : DataFrame
        One row per scene and way of placing the threshold: ``far`` and ``power`` among the later
        half of the arriving sequences, where every change has had its time, as means over plays
        with ``far_error``, the standard error of the mean.
    """
    reports, found = [], []
    for scene in chosen:
        for _ in range(sizes.plays):
            one = play(scene, sizes.calibrating, sizes.arriving, rng)
            old, new, safe = one.calibrating[:, 0], one.arriving[:, 0], one.arriving[:, 1] == 0
            ways = dict(alarms(one, level, sizes.late))
            for name, detect in DETECTORS.items():
                at = detect(old, new, rate, rng)
                alarmed, ours = ways[AS_CALIBRATED][: at or None], safe[: at or None]
                accrued = np.sum(alarmed & ours), level * np.sum(ours), np.sum(~alarmed & ~ours)
                reports.append((scene.name, name, at > 0, at or np.nan, *accrued))
            later = np.arange(len(new)) >= len(new) // 2
            found += [(scene.name, way, _mean(alarmed[later & safe]), _mean(alarmed[later & ~safe]))
                      for way, alarmed in ways.items()]
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
