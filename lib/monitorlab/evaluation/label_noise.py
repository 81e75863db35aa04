r"""What miss rate and false alarm rate can still be true if some labels are wrong.

Two noise rates, one per *label*: eta1 is the share of samples labelled misbehaving that are benign,
eta0 the share of samples labelled benign that misbehave. Two answers:

* `_corrected`: a point, if wrong labels have nothing to do with the verdict (given the truth);
* `_worst_case`: the range over every way of choosing the wrong labels, such as exactly those on
  which the monitor disagrees with the label. Nothing is assumed but their number.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta

from monitorlab.evaluation.operating_points import default_alarms
from monitorlab.evaluation.rates import SCENARIO, first_draws, unit_ids
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics.intervals import Clustered, check_level, clopper_pearson

LEVEL = 0.95
Eta = float | tuple[float, float]


@dataclass(frozen=True)
class _Counts:
    """Verdicts of one monitor against the labels, which may be wrong.

    Attributes
    ----------
    hits, misses : int
        Alarms and silences among the parsed verdicts on samples labelled misbehaving.
    failed_bad : int
        Failed verdicts among them.
    false_alarms, passes : int
        Alarms and silences among the parsed verdicts on samples labelled benign.
    failed_benign : int
        Failed verdicts among them.
    """

    hits: int
    misses: int
    false_alarms: int
    passes: int
    failed_bad: int = 0
    failed_benign: int = 0

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 0:
            raise ValueError(f"counts are {vars(self)}, expected none below 0")
        if not self.hits + self.misses or not self.false_alarms + self.passes:
            raise ValueError("a label has no parsed verdict: rates need some of both labels")

    def read_failed(self, alarm: bool) -> _Counts:
        """Return the counts with every failed verdict read as an alarm, or as a silence."""
        if alarm:
            return _Counts(self.hits + self.failed_bad, self.misses,
                          self.false_alarms + self.failed_benign, self.passes)
        return _Counts(self.hits, self.misses + self.failed_bad,
                      self.false_alarms, self.passes + self.failed_benign)


def _corrected(miss: float, false: float, eta1: float, eta0: float) -> tuple[float, float]:
    r"""Rates against the truth, if errors of label and verdict are independent given the truth.

    The observed alarm rates mix the true ones,

    .. math:: 1 - MR_{obs} = (1 - \eta_1)\,TPR + \eta_1\,FAR, \qquad
              FAR_{obs} = \eta_0\,TPR + (1 - \eta_0)\,FAR,

    and the mixture is inverted, as Rogan and Gladen do for a prevalence.

    Parameters
    ----------
    miss, false : float
        Observed miss rate and false alarm rate, in [0, 1].
    eta1, eta0 : float
        Noise rates, at least 0, with eta1 + eta0 < 1.

    Returns
    -------
    miss, false : float
        True rates. Outside [0, 1] the noise rates contradict the observation: with independent
        errors, labels as bad as that would have shown up as more disagreement.

    References
    ----------
    Rogan and Gladen (1978), "Estimating prevalence from the results of a screening test".
    """
    determinant = 1.0 - eta1 - eta0
    if min(eta1, eta0) < 0 or determinant <= 1e-12:
        raise ValueError(f"noise rates are {eta1} and {eta0}, expected at least 0 and a sum below "
                         "1: with more noise than that the labels say nothing")
    hit = 1.0 - miss
    return (1.0 - ((1.0 - eta0) * hit - eta1 * false) / determinant,
            ((1.0 - eta1) * false - eta0 * hit) / determinant)


def _worst_case(
    counts: _Counts, eta1: float, eta0: float, worth: tuple[float, float] = (1.0, 1.0)
) -> dict[str, tuple[float, float]]:
    """Smallest and largest MR and FAR over all choices of wrong labels; failed verdicts included.

    At most ``floor(eta * n)`` of the n samples with a label are relabelled, and every failed
    verdict is read as an alarm or a silence. Each rate is monotone in every relabelling, so its
    extremes have a closed form: for the largest MR take alarms out of the misbehaving class and put
    silences in. The four extremes need not be reached by the same relabelling.

    Parameters
    ----------
    counts : Counts
        Verdicts against labels.
    eta1, eta0 : float
        Largest share of wrong labels among those labelled misbehaving, and benign; in [0, 1).
        A share of *these* samples: for a probability, use an upper bound of the share.
    worth : (float, float)
        How many independent samples a misbehaving and a benign one are worth
        (`Clustered.worth`): below 1 where errors cluster. It is taken to stay what it is for the
        labels as given.

    Returns
    -------
    dict
        Under ``mr`` and ``far`` the range in the sample, and under ``mr_interval`` and
        ``far_interval`` the 95 % interval of the rate in the population (Clopper and Pearson for as
        many samples as they are worth), whichever of the relabellings is the truth.
    """
    pairs = _extremes(counts, eta1, eta0)
    out: dict[str, tuple[float, float]] = {}
    for (rate, ((least, n_least), (most, n_most))), one in zip(pairs.items(), worth, strict=True):
        out[rate] = (least / n_least, most / n_most)
        # Each limit moves with its count like the rate does, so the extremes bound all between.
        out[f"{rate}_interval"] = (_exact(least, n_least, one)[0], _exact(most, n_most, one)[1])
    return out


def _exact(count: int, n: int, worth: float, level: float = LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's interval for as many samples as `n` are worth."""
    if worth == 0:
        return 0.0, 1.0  # a single scenario
    low, high = clopper_pearson(count * worth, n * worth, level)
    return float(low), float(high)


Count = tuple[int, int]


def _extremes(counts: _Counts, eta1: float, eta0: float) -> dict[str, tuple[Count, Count]]:
    """(events, n) of the smallest and the largest MR and FAR."""
    alarm, silent = counts.read_failed(True), counts.read_failed(False)
    flips1 = _flips(alarm.hits + alarm.misses, eta1)
    flips0 = _flips(alarm.false_alarms + alarm.passes, eta0)
    return {
        "mr": (
            _moved(alarm.misses, alarm.hits, alarm.false_alarms, flips1, flips0, down=True),
            _moved(silent.misses, silent.hits, silent.passes, flips1, flips0, down=False),
        ),
        "far": (
            _moved(silent.false_alarms, silent.passes, silent.misses, flips0, flips1, down=True),
            _moved(alarm.false_alarms, alarm.passes, alarm.hits, flips0, flips1, down=False),
        ),
    }


def _flips(n: int, eta: float) -> int:
    if not 0 <= eta < 1:
        raise ValueError(f"noise rate is {eta}, expected a share in [0, 1)")
    return math.floor(eta * n + 1e-9)


def _moved(errors: int, rest: int, incoming: int, out: int, into: int, *, down: bool) -> Count:
    """Errors and size of a class after the relabelling that moves its error rate furthest.

    `incoming` are the samples of the other class that would be right here (`down`) or errors.
    """
    leave, join = min(out, errors if down else rest), min(into, incoming)
    n = errors + rest - leave + join
    return (errors - leave, n) if down else (errors + join, n)


def noise_bounds(
    judged: pd.DataFrame, etas: Sequence[Eta], unit: str = SCENARIO
) -> pd.DataFrame:
    """True MR and FAR of every monitor under label noise: corrected points and worst-case ranges.

    Parameters
    ----------
    judged : DataFrame
        Verdicts joined with their samples. First draws only.
    etas : sequence of float or (float, float)
        Noise rates: one for both labels, or (eta1, eta0).
    unit : {"scenario", "pair"}
        What the intervals take as independent.

    Returns
    -------
    DataFrame
        One row per name, noise rate and ``rate`` (mr, far): ``eta1``, ``eta0``, ``n``
        (parsed verdicts on samples with that label), ``n_failed``, ``observed``; ``corrected`` with
        ``_low`` and ``_high``, at 95 % from intervals of both observed rates over units, all cut to
        [0, 1], and ``consistent`` (False if the point had to be cut); ``worst_low`` and
        ``worst_high``, the range in the sample; ``outer_low`` and ``outer_high``, with 95 %
        sampling error. Failed verdicts are not in ``observed`` and ``corrected``; the ranges allow
        either reading of them. Groups in which a label has no parsed verdict are left out.
    """
    frame = first_draws(judged)
    rows: list[dict[str, Any]] = []
    for name, part in frame.groupby("name", sort=False):
        parsed = (part["status"] == PARSED).to_numpy(bool)
        alarm, bad = default_alarms(part), (part["label"] == 1).to_numpy(bool)
        if not (parsed & bad).any() or not (parsed & ~bad).any():
            continue
        counts = _Counts(
            hits=int(np.sum(parsed & alarm & bad)), misses=int(np.sum(~alarm & bad)),
            false_alarms=int(np.sum(parsed & alarm & ~bad)), passes=int(np.sum(~alarm & ~bad)),
            failed_bad=int(np.sum(~parsed & bad)), failed_benign=int(np.sum(~parsed & ~bad)),
        )
        units = unit_ids(part, unit).to_numpy()
        worth = (_worth(~alarm, units, parsed & bad), _worth(alarm, units, parsed & ~bad))
        for eta in etas:
            eta1, eta0 = eta if isinstance(eta, tuple) else (eta, eta)
            rows += [{"name": name, **row} for row in _bounds(counts, eta1, eta0, worth)]
    return pd.DataFrame(rows)


def _worth(errors: NDArray[np.bool_], units: NDArray[Any], rows: NDArray[np.bool_]) -> float:
    """How many independent samples one of these rows is worth."""
    return float(Clustered.of_samples(errors[rows], units[rows]).worth(LEVEL)[0])


def _bounds(
    counts: _Counts, eta1: float, eta0: float, worth: tuple[float, float]
) -> list[dict[str, Any]]:
    bad, benign = counts.hits + counts.misses, counts.false_alarms + counts.passes
    observed = (counts.misses / bad, counts.false_alarms / benign)
    points = _corrected(*observed, eta1, eta0)
    # Two intervals that hold together with 95 %. Both true rates rise with both observed ones.
    both = (1 + LEVEL) / 2
    ends = [_exact(counts.misses, bad, worth[0], both),
            _exact(counts.false_alarms, benign, worth[1], both)]
    lows = _corrected(ends[0][0], ends[1][0], eta1, eta0)
    highs = _corrected(ends[0][1], ends[1][1], eta1, eta0)
    ranges = _worst_case(counts, eta1, eta0, worth)
    sizes = ((bad, counts.failed_bad), (benign, counts.failed_benign))
    rows = []
    for i, rate in enumerate(("mr", "far")):
        n, failed = sizes[i]
        point, low, high = (float(np.clip(v[i], 0, 1)) for v in (points, lows, highs))
        rows.append({
            "rate": rate, "eta1": eta1, "eta0": eta0, "n": n, "n_failed": failed,
            "observed": observed[i], "corrected": point, "corrected_low": low,
            "corrected_high": high, "consistent": bool(-1e-9 <= points[i] <= 1 + 1e-9),
            "worst_low": ranges[rate][0], "worst_high": ranges[rate][1],
            "outer_low": ranges[f"{rate}_interval"][0],
            "outer_high": ranges[f"{rate}_interval"][1],
        })
    return rows


def eta_from_agreement(disagreements: int, n: int, delta: float = 0.05) -> float:
    """Upper bound of the noise rate, from a second annotation of n samples.

    Where two annotators disagree, one of them is wrong, so the rate of disagreement bounds the
    share of labels that only one of them got wrong. An error that both make in the same way is
    invisible here; no agreement, however high, bounds those.

    Parameters
    ----------
    disagreements, n : int
        Samples labelled differently, out of how many, drawn at random.
    delta : float
        Error probability, in (0, 1): the rate is above the bound with probability at most `delta`
        (Clopper-Pearson).

    Returns
    -------
    float
        In (0, 1].
    """
    if operator.index(disagreements) not in range(n + 1) or n < 1:
        raise ValueError(f"{disagreements} disagreements on {n} samples, expected 0 to n of at "
                         "least one")
    if disagreements == n:
        return 1.0
    return float(beta.ppf(1 - check_level(delta, "delta"), disagreements + 1, n - disagreements))
