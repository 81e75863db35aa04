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
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import beta

from monitorlab.evaluation.operating_points import default_alarms
from monitorlab.evaluation.rates import SCENARIO, first_draws, unit_ids
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics.intervals import Clustered, check_level, clopper_pearson

LEVEL = 0.95
Eta = float | tuple[float, float]


class _Counts(NamedTuple):
    """Verdicts of one monitor against the labels, which may be wrong.

    Attributes
    ----------
    hits, misses : int
        Alarms and silences among the parsed verdicts on samples labelled misbehaving.
    false_alarms, passes : int
        Alarms and silences among the parsed verdicts on samples labelled benign.
    failed_bad, failed_benign : int
        Failed verdicts among both.
    """

    hits: int
    misses: int
    false_alarms: int
    passes: int
    failed_bad: int = 0
    failed_benign: int = 0


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


def _worst_case(counts: _Counts, eta1: float, eta0: float,
                worth: tuple[float, ...] = (1.0, 1.0)) -> dict[str, tuple[float, float]]:
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
    hits, misses, cries, passes, failed_bad, failed_benign = counts
    flips1 = math.floor(eta1 * (hits + misses + failed_bad) + 1e-9)
    flips0 = math.floor(eta0 * (cries + passes + failed_benign) + 1e-9)
    # Of the class: errors, right and failed verdicts, and how many samples may leave it. Of the
    # other: samples that would be right here, that would be errors, and how many may come.
    classes = {"mr": (misses, hits, failed_bad, flips1,
                      cries + failed_benign, passes + failed_benign, flips0),
               "far": (cries, passes, failed_benign, flips0,
                       misses + failed_bad, hits + failed_bad, flips1)}
    found: dict[str, tuple[float, float]] = {}
    for (rate, numbers), one in zip(classes.items(), worth, strict=True):
        errors, right, failed, out, come_right, come_wrong, into = numbers
        size = errors + right + failed
        less = min(out, errors)
        least = errors - less, size - less + min(into, come_right)
        more = min(into, come_wrong)
        most = errors + failed + more, size - min(out, right) + more
        found[rate] = least[0] / least[1], most[0] / most[1]
        # Each limit moves with its count like the rate does, so the extremes bound all between.
        found[f"{rate}_interval"] = _exact(*least, one)[0], _exact(*most, one)[1]
    return found


def _exact(count: int, n: int, worth: float, level: float = LEVEL) -> tuple[float, float]:
    """Clopper and Pearson's interval for as many samples as `n` are worth."""
    if worth == 0:
        return 0.0, 1.0  # a single scenario
    low, high = clopper_pearson(count * worth, n * worth, level)
    return float(low), float(high)


def noise_bounds(judged: pd.DataFrame, etas: Sequence[Eta], unit: str = SCENARIO) -> pd.DataFrame:
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
        counts = _Counts(*(int(np.sum(rows)) for rows in (
            parsed & alarm & bad, ~alarm & bad, parsed & alarm & ~bad, ~alarm & ~bad,
            ~parsed & bad, ~parsed & ~bad)))
        units = unit_ids(part, unit).to_numpy()
        worth = tuple(float(Clustered.of_samples(errors[own], units[own]).worth(LEVEL)[0])
                      for errors, own in ((~alarm, parsed & bad), (alarm, parsed & ~bad)))
        for eta in etas:
            eta1, eta0 = eta if isinstance(eta, tuple) else (eta, eta)
            rows += [{"name": name, **row} for row in _bounds(counts, eta1, eta0, worth)]
    return pd.DataFrame(rows)


def _bounds(counts: _Counts, eta1: float, eta0: float,
            worth: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    sizes = counts.hits + counts.misses, counts.false_alarms + counts.passes
    errors = counts.misses, counts.false_alarms
    observed = [count / n for count, n in zip(errors, sizes, strict=True)]
    points = _corrected(observed[0], observed[1], eta1, eta0)
    # Two intervals that hold together with 95 %. Both true rates rise with both observed ones.
    (miss_low, miss_high), (false_low, false_high) = (
        _exact(count, n, one, (1 + LEVEL) / 2)
        for count, n, one in zip(errors, sizes, worth, strict=True))
    ends = (points, _corrected(miss_low, false_low, eta1, eta0),
            _corrected(miss_high, false_high, eta1, eta0))
    ranges = _worst_case(counts, eta1, eta0, worth)
    for i, rate in enumerate(("mr", "far")):
        point, low, high = (float(np.clip(end[i], 0, 1)) for end in ends)
        yield {"rate": rate, "eta1": eta1, "eta0": eta0, "n": sizes[i], "n_failed": counts[4 + i],
               "observed": observed[i], "corrected": point, "corrected_low": low,
               "corrected_high": high, "consistent": bool(-1e-9 <= points[i] <= 1 + 1e-9),
               "worst_low": ranges[rate][0], "worst_high": ranges[rate][1],
               "outer_low": ranges[f"{rate}_interval"][0],
               "outer_high": ranges[f"{rate}_interval"][1]}


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
