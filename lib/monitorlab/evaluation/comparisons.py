"""Paired comparisons between monitors that judged the same samples.

Two monitors see the same samples, so only those on which they differ tell them apart. A sample on
which either of two failed says nothing about which errs more: it is left out of their test and
counted, and a second p-value shows what is left if every failure spoke against the seeming winner.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom
from statsmodels.stats.contingency_tables import cochrans_q

from monitorlab.evaluation.intervals import newcombe_paired, ratio, wilson
from monitorlab.evaluation.panel import ALARM, FAILED, NOT_ASKED, SILENT, Panel, panel

FloatArray = NDArray[np.float64]

TREATMENTS = ("discriminates", "both", "blind", "inverted", "undecided")
ERRORS = ("miss", "false_alarm", "wrong")


def pair_anatomy(
    judged: pd.DataFrame, by: Sequence[str] = ("name",), level: float = 0.95
) -> pd.DataFrame:
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

    Returns
    -------
    DataFrame
        A row for each group and treatment: ``discriminates`` (alarm on the misbehaving answer
        only), ``both``, ``blind`` (alarm on neither), ``inverted`` (on the benign one only),
        ``undecided`` (a failed verdict on either). ``count`` out of ``pairs``, ``share`` with its
        Wilson interval ``low``, ``high``; ``incomplete`` is the number of other pairs, of which
        the monitor was asked about one answer only.

    Raises
    ------
    ValueError
        If a monitor judged two answers of a pair with the same label.
    """
    keys = list(by)
    names = ["name", *(key for key in keys if key != "name"), "pair_id"]
    state = judged["verdict"].astype("Int8").fillna(FAILED).astype(int)
    if judged.duplicated([*names, "label"]).any():
        row = judged[judged.duplicated([*names, "label"])].iloc[0]
        raise ValueError(
            f"{row['name']!r} has two verdicts on answers of pair {row['pair_id']!r} with label "
            f"{row['label']}, expected one misbehaving and one benign answer, judged once"
        )
    sides = judged[names].assign(label=judged["label"], state=state)
    wide = sides.set_index([*names, "label"])["state"].unstack("label", fill_value=NOT_ASKED)
    bad, good = (wide.get(label, NOT_ASKED * np.ones(len(wide))) for label in (1, 0))
    kind = pd.Series(
        np.select(
            [(bad == NOT_ASKED) | (good == NOT_ASKED), (bad == FAILED) | (good == FAILED),
             (bad == ALARM) & (good == SILENT), (bad == ALARM) & (good == ALARM),
             (bad == SILENT) & (good == SILENT)],
            ["incomplete", "undecided", "discriminates", "both", "blind"], "inverted",
        ),
        index=wide.index, name="treatment",
    )  # fmt: skip
    counts = kind.groupby([wide.index.get_level_values(key) for key in keys]).value_counts()
    table = counts.unstack("treatment", fill_value=0)
    table = table.reindex(columns=[*TREATMENTS, "incomplete"], fill_value=0)
    long = table[list(TREATMENTS)].stack().rename("count").reset_index()
    long["pairs"] = np.repeat(table[list(TREATMENTS)].sum(axis=1).to_numpy(), len(TREATMENTS))
    long["share"] = ratio(long["count"], long["pairs"])
    long["low"], long["high"] = wilson(long["count"], long["pairs"], level)
    long["incomplete"] = np.repeat(table["incomplete"].to_numpy(), len(TREATMENTS))
    return long


def mcnemar_exact(b: ArrayLike, c: ArrayLike) -> FloatArray:
    r"""Exact two-sided p-value of McNemar's test, :math:`2 P(\mathrm{Bin}(b + c, 1/2) \le b)`.

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
    return np.asarray(np.minimum(1.0, 2 * binom.cdf(fewer, total, 0.5)), dtype=np.float64)


def compare_all(judged: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """Test every pair of monitors, for each kind of error.

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample.
    level : float
        Family-wise error rate over all pairs of monitors within a kind of error, in (0, 1).

    Returns
    -------
    DataFrame
        A row for each kind of error (``miss`` on misbehaving samples, ``false_alarm`` on benign
        ones, ``wrong`` on all) and pair ``first``, ``second``:

        - ``n``: samples with a parsed verdict of both; ``left_out``: those where either failed.
        - ``difference`` of the error rates, first minus second, with Newcombe's ``low``, ``high``
          (confidence 95 %, not corrected for the number of pairs).
        - ``b``, ``c``: samples on which only the first, only the second errs; ``p``: exact
          McNemar; ``p_holm``: adjusted by Holm within the kind of error.
        - ``separated``: ``p_holm`` is at most `level`; ``better``: then the name with fewer errors.
        - ``p_worst``: p if every failed verdict of the monitor with fewer errors were an error and
          every one of the other right, 1 if that turns the order; ``p_worst_holm``; ``survives``:
          that is still at most `level`.
    """
    data = panel(judged)
    first, second = np.triu_indices(len(data.names), 1)
    tables = []
    for error in ERRORS:
        counts = _count(*_states(data, error))
        table = pd.DataFrame({key: matrix[first, second] for key, matrix in counts.items()})
        tables.append(_test(table, level).assign(error=error))
    result = pd.concat(tables, ignore_index=True)
    names = [np.tile(data.names[side], len(ERRORS)) for side in (first, second)]
    result.insert(0, "error", result.pop("error"))
    result.insert(1, "first", pd.Series(names[0], dtype="str"))
    result.insert(2, "second", pd.Series(names[1], dtype="str"))
    leader = result["second"].where(result["difference"] > 0, result["first"])
    result.insert(result.columns.get_loc("separated") + 1, "better",
                  leader.where(result["separated"], ""))
    return result


def _states(data: Panel, error: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Wrong, right and failed verdicts as 0/1 matrices, (samples of that kind, monitors)."""
    chosen = {"miss": data.labels == 1, "false_alarm": data.labels == 0,
              "wrong": np.ones(len(data.labels), bool)}[error]  # fmt: skip
    verdicts, labels = data.verdicts[chosen], data.labels[chosen, None]
    spoke = verdicts >= SILENT
    right = verdicts == labels
    # Counts in float64 are exact, and its matrix product is many times faster than that of ints.
    return (spoke & ~right).astype(float), right.astype(float), (verdicts == FAILED).astype(float)


def _count(wrong: FloatArray, right: FloatArray, failed: FloatArray) -> dict[str, FloatArray]:
    """Samples in each combination of states, as (monitors, monitors) matrices, row by column."""
    only = wrong.T @ right
    lost = failed.T @ right  # the row's monitor failed, the column's was right
    spoilt = wrong.T @ failed  # the row's monitor was wrong, the column's failed
    void = failed.T @ failed
    return {
        "a": wrong.T @ wrong, "b": only, "c": only.T, "d": right.T @ right,
        "left_out": lost + lost.T + spoilt + spoilt.T + void,
        # Samples that would count against one monitor: it errs where it failed, and the other is
        # right where that failed.
        "against_first": lost + spoilt + void, "against_second": (lost + spoilt).T + void,
    }  # fmt: skip


def _test(counts: pd.DataFrame, level: float) -> pd.DataFrame:
    """Intervals and p-values for one kind of error, a row per pair of monitors."""
    a, b, c, d = (counts[key].to_numpy().astype(int) for key in "abcd")
    difference, low, high = newcombe_paired(a, b, c, d)
    second_leads = b > c
    more, fewer = np.maximum(b, c), np.minimum(b, c)
    against = np.where(second_leads, counts["against_second"], counts["against_first"]).astype(int)
    still = more > fewer + against
    p = mcnemar_exact(b, c)
    p_worst = np.where(still, mcnemar_exact(more, fewer + against), 1.0)
    table = pd.DataFrame({
        "n": a + b + c + d, "left_out": counts["left_out"].astype(int), "difference": difference,
        "low": low, "high": high, "b": b, "c": c,
        "p": p, "p_holm": holm(p), "p_worst": p_worst, "p_worst_holm": holm(p_worst),
    })  # fmt: skip
    table.insert(table.columns.get_loc("p_worst"), "separated", table["p_holm"] <= level)
    return table.assign(survives=table["p_worst_holm"] <= level)


def holm(p: FloatArray) -> FloatArray:
    """Holm's adjusted p-values, none of them missing, in the order of `p`; shape (n,).

    Statsmodels' function would collect all garbage on every call.
    """
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def cochran_q(judged: pd.DataFrame) -> pd.DataFrame:
    """Cochran's Q: do all monitors err equally often?

    Parameters
    ----------
    judged : DataFrame
        From `monitorlab.evaluation.rates.join`, one row per name and sample.

    Returns
    -------
    DataFrame
        A row for each kind of error: ``monitors``, ``n`` samples with a parsed verdict of all,
        ``left_out`` (the other samples), ``q``, ``df``, ``p`` (chi-squared approximation). Where
        the monitors never differ, q is 0 and p is 1. No row with fewer than two monitors.
    """
    data = panel(judged)
    m = len(data.names)
    rows = []
    for error in ERRORS if m > 1 else ():
        wrong, right, _ = _states(data, error)
        told = ((wrong + right) == 1).all(axis=1)
        errors = wrong[told]
        same = bool((errors == errors[:, :1]).all())
        found = None if same else cochrans_q(errors)
        rows.append({
            "error": error, "monitors": m, "n": int(told.sum()), "left_out": int((~told).sum()),
            "q": 0.0 if found is None else float(found.statistic), "df": m - 1,
            "p": 1.0 if found is None else float(found.pvalue),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["error", "monitors", "n", "left_out", "q", "df", "p"])
