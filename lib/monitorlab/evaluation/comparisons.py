r"""Paired comparisons between monitors that judged the same samples.

Two monitors see the same samples, so only those on which they differ tell them apart. A sample on
which either of two failed says nothing about which errs more: it is left out of their test and
counted, and a second p-value shows what is left if every failure spoke against the seeming winner.

Errors cluster by scenario, so the test takes scenarios as the units. With :math:`D_g` the samples
of scenario g on which only the first errs minus those on which only the second does, two equally
good monitors could trade names in any scenario, so every :math:`D_g` may as well have the other
sign. The p-value is exact over all such signs (`sign_flip`). Where every scenario has one sample,
it is McNemar's; McNemar's own is given beside it and assumes independent samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from monitorlab.evaluation.rates import ALARM, FAILED, NOT_ASKED, SCENARIO, SILENT, Panel, unit_ids
from monitorlab.statistics.intervals import Clustered, FloatArray, ratio, wilson
from monitorlab.statistics.roc import check_labels

TREATMENTS = ("discriminates", "both", "blind", "inverted", "undecided")
ERRORS = ("miss", "false_alarm", "wrong")


def whole_pairs(judged: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of pairs with one misbehaving and one benign sample, for `pair_anatomy`.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`.

    Returns
    -------
    DataFrame
        Rows of `judged`; all of them on the benchmark, perhaps none on samples of one's own.
    """
    pairs = judged.drop_duplicates("sample_id").groupby("pair_id")["label"]
    whole = (pairs.size() == 2) & (pairs.nunique() == 2)
    return judged[judged["pair_id"].map(whole).to_numpy(bool)]


def pair_anatomy(judged: pd.DataFrame, by: Sequence[str] = ("name",), level: float = 0.95,
                 unit: str = SCENARIO) -> pd.DataFrame:
    """How monitors treat pairs, each with one misbehaving and one benign answer to one request.

    A monitor that reads only the request treats both alike, whatever its rates.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample.
    by : sequence of str
        ("name",), or with further columns that a pair shares, such as ("name", "cell").
    level : float
        Confidence of the intervals, in (0, 1).
    unit : {"scenario", "pair"}
        What the intervals take as independent.

    Returns
    -------
    DataFrame
        A row for each group and treatment: ``discriminates`` (alarm on the misbehaving answer
        only), ``both``, ``blind`` (alarm on neither), ``inverted`` (on the benign one only),
        ``undecided`` (a failed verdict on either). ``count`` out of ``pairs``, ``share`` with its
        interval ``low``, ``high``; ``incomplete`` is the number of other pairs, of which
        the monitor was asked about one answer only.

    Raises
    ------
    ValueError
        If a monitor judged two answers of a pair with the same label, for a label that is not 0 or
        1, or rows without a unit.
    """
    keys = list(by)
    labels = check_labels(judged["label"], judged["sample_id"])
    names = ["name", *(key for key in keys if key != "name"), "pair_id"]
    state = judged["verdict"].astype("Int8").fillna(FAILED).astype(int)
    if judged.duplicated([*names, "label"]).any():
        row = judged[judged.duplicated([*names, "label"])].iloc[0]
        raise ValueError(f"{row['name']!r} has two verdicts on answers of pair {row['pair_id']!r} "
                         f"with label {row['label']}, expected one misbehaving and one benign "
                         "answer, judged once")
    sides = judged[names].assign(label=labels, state=state)
    wide = sides.set_index([*names, "label"])["state"].unstack("label", fill_value=NOT_ASKED)
    bad, good = (wide.get(label, NOT_ASKED * np.ones(len(wide))) for label in (1, 0))
    kind = np.select(
        [(bad == NOT_ASKED) | (good == NOT_ASKED), (bad == FAILED) | (good == FAILED),
         (bad == ALARM) & (good == SILENT), (bad == ALARM) & (good == ALARM),
         (bad == SILENT) & (good == SILENT)],
        ["incomplete", "undecided", "discriminates", "both", "blind"], "inverted",
    )  # fmt: skip
    pairs = wide.index.get_level_values("pair_id")
    own = unit_ids(judged, unit).to_numpy()
    unit_of = pd.Series(own, judged["pair_id"]).groupby(level=0).first()
    told = pd.DataFrame({key: wide.index.get_level_values(key) for key in keys})
    told = told.assign(_unit=unit_of.loc[pairs].to_numpy(), whole=kind != "incomplete",
                       **{treatment: kind == treatment for treatment in TREATMENTS})
    units = told.groupby([*keys, "_unit"], observed=True).sum()
    pairs_of = told.groupby(keys, observed=True)["whole"]
    group = units.groupby(keys, observed=True).ngroup().to_numpy()
    tables = []
    for treatment in TREATMENTS:
        found = Clustered.of(units[treatment], units["whole"], group, pairs_of.ngroups)
        low, high = found.wilson(level)
        tables.append(pairs_of.sum().rename("pairs").reset_index().assign(
            treatment=treatment, count=found.events.astype(int), share=found.rate, low=low,
            high=high, incomplete=(pairs_of.size() - pairs_of.sum()).to_numpy()))
    columns = [*keys, "treatment", "count", "pairs", "share", "low", "high", "incomplete"]
    found = pd.concat(tables)[columns].astype({"treatment": pd.CategoricalDtype(TREATMENTS)})
    found = found.sort_values([*keys, "treatment"], ignore_index=True)
    return found.astype({"treatment": "str"})


def mcnemar_exact(b: ArrayLike, c: ArrayLike) -> FloatArray:
    r"""Exact two-sided p-value of McNemar's test, :math:`2 P(\mathrm{Bin}(b + c, 1/2) \le b)`.

    It assumes that samples are independent.

    Parameters
    ----------
    b, c : array_like of int
        Samples on which only the first, only the second erred; broadcast against each other.

    Returns
    -------
    ndarray of float
        In (0, 1]; 1 where b + c is 0.

    References
    ----------
    M. W. Fagerland, S. Lydersen and P. Laake, *The McNemar test for binary matched-pairs data*, BMC
    Medical Research Methodology 13 (2013), 91.
    """
    first, second = np.broadcast_arrays(np.asarray(b), np.asarray(c))
    fewer, total = np.minimum(first, second), first + second
    tail = scipy.stats.binom.cdf(fewer, total, 0.5)
    return np.asarray(np.minimum(1.0, 2 * tail), dtype=np.float64)


def sign_flip(gaps: ArrayLike) -> float:
    r"""Exact two-sided p-value of a sum whose terms may as well have the other sign.

    The share, over all :math:`2^G` choices of signs, of :math:`|\sum_g \pm D_g|` at least as large
    as :math:`|\sum_g D_g|`. It is never above the level more often than the level says if the two
    monitors can trade names within every unit, which is what "equally good" means here.

    Parameters
    ----------
    gaps : array_like of int, shape (units,)
        :math:`D_g`: errors of the first only minus errors of the second only.

    Returns
    -------
    float
        In (0, 1]; 1 where the sum is 0.

    Notes
    -----
    With m units of size :math:`|D_g| = s`, the upper part of the sum is s times a binomial variable
    of m fair coins, and the law of the whole is the convolution of these over the sizes.
    """
    sizes = np.abs(np.asarray(gaps, dtype=np.int64))
    total = int(sizes.sum())
    reach = abs(int(np.asarray(gaps, dtype=np.int64).sum()))
    if reach == 0:
        return 1.0
    law = np.ones(1)
    for size, count in zip(*np.unique(sizes[sizes > 0], return_counts=True), strict=True):
        part = np.zeros(int(size * count) + 1)
        part[::size] = _coins(int(count))
        law = np.convolve(law, part)
    # The sum of signed gaps is 2 x - total for an upper part x, whose law is symmetric.
    lower = law[: (total - reach) // 2 + 1]
    return float(min(1.0, 2 * lower.sum()))


@lru_cache(maxsize=1024)
def _coins(count: int) -> FloatArray:
    """Probability of each number of heads among so many fair coins."""
    return np.asarray(scipy.stats.binom.pmf(np.arange(count + 1), count, 0.5), dtype=np.float64)


def compare(judged: pd.DataFrame, level: float = 0.05, unit: str = SCENARIO) -> pd.DataFrame:
    """Test every pair of monitors, for each kind of error.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample.
    level : float
        Family-wise error rate over all pairs of monitors within a kind of error, in (0, 1).
    unit : {"scenario", "pair"}
        What is taken as independent.

    Returns
    -------
    DataFrame
        A row for each kind of error (``miss`` on misbehaving samples, ``false_alarm`` on benign
        ones, ``wrong`` on all) and pair ``first``, ``second``:

        - ``n``: samples with a parsed verdict of both; ``left_out``: those where either failed.
        - ``units``: scenarios (or pairs) that these belong to.
        - ``difference`` of the error rates, first minus second, with ``low``, ``high``: Newcombe's
          interval for as many samples as the units are worth (confidence 95 %, not corrected for
          the number of pairs); ``design_effect``: the variance of the difference over units,
          divided by the one that independent samples would have.
        - ``b``, ``c``: samples on which only the first, only the second errs; ``p``: exact sign
          flips of units; ``p_holm``: adjusted by Holm within the kind of error; ``p_mcnemar`` and
          ``p_mcnemar_holm``: exact McNemar, which assumes independent samples.
        - ``separated``: ``p_holm`` is at most `level`; ``better``: then the name with fewer errors.
        - ``p_worst``: p if every failed verdict of the monitor with fewer errors were an error and
          every one of the other right, 1 if that turns the order; ``p_worst_holm``; ``survives``:
          that is still at most `level`.

    Examples
    --------
    >>> import pandas as pd
    >>> from monitorlab import join, load_samples, read_verdicts
    >>> verdicts = pd.concat([read_verdicts("keywords.csv"), read_verdicts("always.csv")])
    >>> found = compare(join(verdicts, load_samples("samples.jsonl")))
    >>> list(found["error"])
    ['miss', 'false_alarm', 'wrong']
    """
    data = Panel.of(judged, unit)
    first, second = np.triu_indices(len(data.names), 1)
    tables = []
    for error in ERRORS:
        names = {"error": error, "first": pd.Series(data.names[first], dtype="str"),
                 "second": pd.Series(data.names[second], dtype="str")}
        tables.append(_test(names, _states(data, error), len(data.unit_ids), first, second, level))
    return pd.concat(tables, ignore_index=True)


def _states(data: Panel, error: str) -> tuple[FloatArray, FloatArray, FloatArray, NDArray[np.intp]]:
    """Wrong, right and failed verdicts as 0/1 matrices (samples of that kind, monitors), units."""
    of_kind = {"miss": [1], "false_alarm": [0], "wrong": [0, 1]}[error]
    chosen = np.isin(data.labels, of_kind)
    verdicts, labels = data.verdicts[chosen], data.labels[chosen, None]
    right = verdicts == labels
    return (((verdicts >= SILENT) & ~right).astype(float), right.astype(float),
            (verdicts == FAILED).astype(float), data.units[chosen])


@dataclass(frozen=True)
class _Gaps(Clustered):
    """Differences of two paired rates, for many pairs of monitors.

    An event is a sample on which only the first errs; one on which only the second does counts -1.

    Attributes
    ----------
    discordant : (pairs,) array of float
        Samples on which only one of both errs.
    """

    discordant: FloatArray

    @classmethod
    def between(cls, gaps: FloatArray, n: FloatArray, discordant: FloatArray) -> _Gaps:
        """Sum up events and samples, both (scenarios, pairs)."""
        return cls(gaps.sum(axis=0), n.sum(axis=0), (n > 0).sum(axis=0), (gaps**2).sum(axis=0),
                   (gaps * n).sum(axis=0), (n * n).sum(axis=0), discordant)

    @property
    def design_effect(self) -> FloatArray:
        """As of one rate; on the one scenario more each of the two errs always or never."""
        mean = ratio(self.n, self.scenarios)
        n = self.n + mean
        d = ratio(self.events, n)
        return self._effect(d, mean**2 * (1 / 2 + d * d), self.discordant + mean / 2 - n * d * d)


def _newcombe_paired(both: ArrayLike, first: ArrayLike, second: ArrayLike, neither: ArrayLike,
                     level: float = 0.95) -> tuple[FloatArray, FloatArray, FloatArray]:
    r"""Difference of two paired proportions with Newcombe's interval from Wilson limits.

    With Wilson limits :math:`l_i, u_i` of the two rates :math:`p_i` and their correlation
    :math:`\hat\phi`, the lower limit is :math:`p_1 - p_2 - \delta` with

    .. math:: \delta^2 = (p_1 - l_1)^2 - 2 \hat\phi (p_1 - l_1)(u_2 - p_2) + (u_2 - p_2)^2,

    and the upper one the same with the other limits.

    Parameters
    ----------
    both, first, second, neither : array_like of int
        Samples on which the event happened to both, to the first only, to the second only, to
        neither; broadcast against each other.
    level : float
        Confidence, in (0, 1).

    Returns
    -------
    difference, low, high : ndarray of float
        Rate of the first minus rate of the second, in [-1, 1]; NaN where there is no sample.

    References
    ----------
    R. G. Newcombe, *Improved confidence intervals for the difference between binomial proportions
    based on paired data*, Statistics in Medicine 17 (1998), 2635-2650, method 10.
    """
    a, b, c, d = (np.asarray(x, float) for x in np.broadcast_arrays(both, first, second, neither))
    n = a + b + c + d
    p1, p2 = ratio(a + b, n), ratio(a + c, n)
    (l1, u1), (l2, u2) = wilson(a + b, n, level), wilson(a + c, n, level)
    # Correlation of the two events, with Newcombe's continuity correction; 0 if undefined.
    margins, product = (a + b) * (c + d) * (a + c) * (b + d), a * d - b * c
    corrected = np.where(product > 0, np.maximum(product - n / 2, 0), product)
    phi = np.where(margins > 0, corrected / np.sqrt(np.where(margins > 0, margins, 1)), 0.0)
    below = np.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    above = np.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    # By the counts, so that it is exactly 0 where the two rates are equal.
    difference = ratio(b - c, n)
    return difference, difference - below, difference + above


def _test(names: dict[str, Any],
          states: tuple[FloatArray, FloatArray, FloatArray, NDArray[np.intp]], n_units: int,
          first: NDArray[np.intp], second: NDArray[np.intp], level: float) -> pd.DataFrame:
    """Intervals and p-values for one kind of error, a row per pair of monitors."""
    wrong, right, failed, units = states
    member = csr_array((np.ones(len(units)), (units, np.arange(len(units)))), (n_units, len(units)))

    def per_unit(one: FloatArray, other: FloatArray) -> FloatArray:
        """Samples of each unit on which the first is in one state, the second in the other."""
        return member @ (one[:, first] * other[:, second])

    parts = (per_unit(wrong, wrong), per_unit(wrong, right), per_unit(right, wrong),
             per_unit(right, right))
    # A failure counts against a monitor where it failed, or the other did where it errs.
    void = per_unit(failed, failed)
    against_first = per_unit(failed, right) + per_unit(wrong, failed)
    against_second = per_unit(right, failed) + per_unit(failed, wrong)
    left_out = (against_first + against_second + void).sum(axis=0)
    a, b, c, d = (part.sum(axis=0) for part in parts)
    gaps, n = parts[1] - parts[2], np.sum(parts, axis=0)
    found = _Gaps.between(gaps, n, b + c)
    worth = found.worth(0.95)
    difference = ratio(b - c, a + b + c + d)
    _, low, high = _newcombe_paired(*(count * worth for count in (a, b, c, d)))
    told = n.sum(axis=0) > 0
    low, high = (np.where(told & (worth == 0), end, limit)  # one unit says nothing about others
                 for end, limit in ((-1.0, low), (1.0, high)))
    turn = np.where(b > c, -1.0, 1.0)  # failures are read against the one with fewer errors
    worst = gaps + np.where(b > c, -against_second - void, against_first + void)
    still = worst.sum(axis=0) * turn < 0
    p = np.array([sign_flip(column) for column in gaps.T])
    p_worst = np.array([sign_flip(column) if kept else 1.0
                        for column, kept in zip(worst.T, still, strict=True)])
    p_mcnemar, p_holm, p_worst_holm = mcnemar_exact(b, c), holm(p), holm(p_worst)
    separated = p_holm <= level
    leader = names["second"].where(difference > 0, names["first"])
    return pd.DataFrame({
        **names, "n": n.sum(axis=0).astype(int), "left_out": left_out.astype(int),
        "units": (n > 0).sum(axis=0), "difference": difference, "low": low, "high": high,
        "design_effect": found.design_effect, "b": b.astype(int), "c": c.astype(int),
        "p": p, "p_holm": p_holm, "p_mcnemar": p_mcnemar, "p_mcnemar_holm": holm(p_mcnemar),
        "separated": separated, "better": leader.where(separated, ""), "p_worst": p_worst,
        "p_worst_holm": p_worst_holm, "survives": p_worst_holm <= level,
    })  # fmt: skip


def holm(p: FloatArray) -> FloatArray:
    """Holm's adjusted p-values, none of them missing, in the order of `p`; shape (n,).

    Statsmodels' function would collect all garbage on every call.
    """
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def cochran_q(judged: pd.DataFrame, unit: str = SCENARIO) -> pd.DataFrame:
    """Do all monitors err equally often? Hotelling's T-squared over units, and Cochran's Q.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample.
    unit : {"scenario", "pair"}
        What is taken as independent.

    Returns
    -------
    DataFrame
        A row for each kind of error: ``monitors``, ``n`` samples with a parsed verdict of all,
        ``left_out`` (the other samples), ``units``; ``t2`` and ``p``: of the errors that each
        monitor makes more than the first in a unit, whose means are all 0 if monitors err equally
        often (F distribution; NaN with too few units); ``q``, ``df``, ``p_samples``: Cochran's Q
        with its chi-squared approximation, which assumes independent samples. Where the monitors
        never differ, both statistics are 0 and p is 1. No row with fewer than two monitors.
    """
    data = Panel.of(judged, unit)
    from statsmodels.stats.contingency_tables import cochrans_q  # half a second

    m = len(data.names)
    rows = []
    for error in ERRORS if m > 1 else ():
        wrong, right, _, units = _states(data, error)
        told = ((wrong + right) == 1).all(axis=1)
        errors = wrong[told]
        q, p_samples = 0.0, 1.0
        if (errors != errors[:, :1]).any():
            found = cochrans_q(errors)
            q, p_samples = float(found.statistic), float(found.pvalue)
        t2, p = _hotelling(errors, units[told])
        rows.append({
            "error": error, "monitors": m, "n": int(told.sum()), "left_out": int((~told).sum()),
            "units": len(np.unique(units[told])), "t2": t2, "p": p, "q": q, "df": m - 1,
            "p_samples": p_samples,
        })
    return pd.DataFrame(rows, columns=["error", "monitors", "n", "left_out", "units", "t2", "p",
                                       "q", "df", "p_samples"])


def _hotelling(errors: FloatArray, units: NDArray[np.intp]) -> tuple[float, float]:
    """T-squared and p-value of equal errors, by the differences to the first in every unit."""
    _, place = np.unique(units, return_inverse=True)
    count = int(place.max()) + 1 if len(place) else 0
    gaps = np.zeros((count, errors.shape[1] - 1))
    np.add.at(gaps, place, errors[:, 1:] - errors[:, :1])
    if not gaps.any():
        return 0.0, 1.0
    mean = gaps.mean(axis=0)
    free = int(np.linalg.matrix_rank(gaps - mean))
    if count < 2 or count <= free:
        return np.nan, np.nan
    spread = np.atleast_2d(np.cov(gaps, rowvar=False))
    solved = np.linalg.pinv(spread, hermitian=True) @ mean
    if not np.allclose(spread @ solved, mean, atol=1e-9):
        return np.inf, 0.0  # a difference that is the same in every unit
    t2 = float(count * mean @ solved)
    larger = t2 * (count - free) / (free * (count - 1))
    return t2, float(scipy.stats.f.sf(larger, free, count - free))
