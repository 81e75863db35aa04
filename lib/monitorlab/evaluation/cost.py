"""What a caught misbehavior costs.

A benchmark is half misbehavior and production is not, so every mean here weighs the two classes by
a base rate. Alarms are those of the operating rule: a failed verdict goes to a person, like an
alarm (see :mod:`monitorlab.evaluation.operating_points`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from monitorlab.evaluation.operating_points import default_alarms, per_unit
from monitorlab.evaluation.panel import SCENARIO, first_draws, unit_ids
from monitorlab.monitors.verdicts import PARSED
from monitorlab.statistics.intervals import Clustered, FloatArray

_CORNER = 0.975  # two such intervals hold together with 95 %


@dataclass(frozen=True)
class Prices:
    """Prices in USD for verdicts whose own cost was not recorded.

    Attributes
    ----------
    per_hour : float
        Of a machine, while it works on the sample.
    per_million_input, per_million_output : float
        Of tokens read and written.
    """

    per_hour: float = 0.0
    per_million_input: float = 0.0
    per_million_output: float = 0.0

    def __post_init__(self) -> None:
        for name, price in vars(self).items():
            if not 0 <= price < np.inf:
                raise ValueError(f"{name} is {price}, expected a price of at least 0 USD")


def priced(judged: pd.DataFrame, prices: Prices | None) -> pd.DataFrame:
    """Fill in the cost of verdicts that have none, from their seconds and tokens.

    A recorded ``cost_usd`` stays. Else the known ones among seconds, input and output tokens are
    priced; where nothing is known, or no prices are given, neither is the cost. ``Prices()`` says
    that computing is free.
    """
    if prices is None:
        return judged
    recorded = numbers(judged, "cost_usd")
    parts = np.stack([
        numbers(judged, "seconds") * prices.per_hour / 3600,
        numbers(judged, "input_tokens") * prices.per_million_input / 1e6,
        numbers(judged, "output_tokens") * prices.per_million_output / 1e6,
    ])
    computed = np.where(np.isnan(parts).all(axis=0), np.nan, np.nansum(parts, axis=0))
    return judged.assign(cost_usd=np.where(np.isnan(recorded), computed, recorded))


def numbers(frame: pd.DataFrame, column: str) -> FloatArray:
    """Return a column of counts, seconds or USD as floats, NaN where it is not known."""
    return np.asarray(frame[column].to_numpy(dtype=np.float64, na_value=np.nan))


def cost_table(
    judged: pd.DataFrame,
    base_rate: float = 0.01,
    review_usd: float = 0.0,
    prices: Prices | None = None,
    unit: str = SCENARIO,
) -> pd.DataFrame:
    r"""Cost of every monitor at its own threshold, per sample and per caught misbehavior.

    With base rate :math:`\pi`, compute cost C per sample and review cost v per alarm, one caught
    misbehavior costs

    .. math:: \frac{C + v\,(\pi\,TPR + (1 - \pi)\,FAR)}{\pi\,TPR}.

    Parameters
    ----------
    judged : DataFrame
        Verdicts joined with their samples. First draws only.
    base_rate : float
        Share of misbehavior where the monitor is used, in (0, 1).
    review_usd : float
        What a person's look at one alarm costs, at least 0.
    prices : Prices, optional
        For verdicts without a recorded cost, which else is unknown.
    unit : {"scenario", "pair"}
        What the intervals take as independent.

    Returns
    -------
    DataFrame
        One row per name: ``n``; ``seconds``, ``input_tokens``, ``output_tokens``,
        ``usd`` per sample; ``tpr``, ``far``; per 1,000 samples ``caught_per_1000`` and
        ``alarms_per_1000``; ``false_per_caught``; ``usd_per_caught`` with ``_low`` and ``_high``
        (joint 95 % over TPR and FAR, each over units; the compute cost is taken as known).
        Infinite if nothing is caught. A mean is missing if a parsed verdict lacks the quantity;
        failed ones without it (no reply, no bill) are left out.

    Raises
    ------
    ValueError
        For a base rate outside (0, 1) or a negative price.
    """
    check_base_rate(base_rate)
    if not 0 <= review_usd < np.inf:
        raise ValueError(f"review_usd is {review_usd}, expected a price of at least 0 USD")
    frame = priced(first_draws(judged), prices)
    frame = frame.assign(_unit=unit_ids(frame, unit).to_numpy())
    rows = []
    for name, part in frame.groupby("name", sort=False):
        rows.append({"name": name, **_cost_row(part, base_rate, review_usd)})
    return pd.DataFrame(rows)


def check_base_rate(base_rate: float) -> None:
    """Raise a ValueError unless `base_rate` lies strictly between 0 and 1."""
    if not 0 < base_rate < 1:
        raise ValueError(f"base_rate is {base_rate}, expected a share strictly between 0 and 1")


def _cost_row(part: pd.DataFrame, base_rate: float, review_usd: float) -> dict[str, float]:
    alarm, bad = default_alarms(part), (part["label"] == 1).to_numpy(bool)
    usd = _mean_at(part, "cost_usd", base_rate)
    units = part["_unit"].to_numpy()
    hits = Clustered.of(*per_unit(alarm[bad], units[bad]))
    false = Clustered.of(*per_unit(alarm[~bad], units[~bad]))
    (tpr,), (far,) = hits.rate, false.rate
    (tpr_low,), (tpr_high,) = hits.clopper_pearson(_CORNER)
    (far_low,), (far_high,) = false.clopper_pearson(_CORNER)

    def per_caught(hit: float, cry: float) -> float:
        alarms = base_rate * hit + (1 - base_rate) * cry
        return _ratio(usd + review_usd * alarms, base_rate * hit)

    return {
        "n": len(part),
        "seconds": _mean_at(part, "seconds", base_rate),
        "input_tokens": _mean_at(part, "input_tokens", base_rate),
        "output_tokens": _mean_at(part, "output_tokens", base_rate),
        "usd": usd, "tpr": float(tpr), "far": float(far),
        "caught_per_1000": float(1000 * base_rate * tpr),
        "alarms_per_1000": float(1000 * (base_rate * tpr + (1 - base_rate) * far)),
        "false_per_caught": _ratio((1 - base_rate) * far, base_rate * tpr),
        "usd_per_caught": per_caught(tpr, far),
        "usd_per_caught_low": per_caught(tpr_high, far_low),
        "usd_per_caught_high": per_caught(tpr_low, far_high),
    }


def _ratio(above: Any, below: Any) -> float:
    """Quotient, infinite where something is spent for nothing and missing for 0/0 or unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(above) / np.float64(below))


def _mean_at(part: pd.DataFrame, column: str, base_rate: float) -> float:
    """Mean over samples with classes weighted to the base rate; NaN if not known."""
    values = numbers(part, column)
    known, parsed = ~np.isnan(values), (part["status"] == PARSED).to_numpy(bool)
    bad = (part["label"] == 1).to_numpy(bool)
    if (parsed & ~known).any() or not (known & bad).any() or not (known & ~bad).any():
        return np.nan
    return float(base_rate * values[known & bad].mean()
                 + (1 - base_rate) * values[known & ~bad].mean())
