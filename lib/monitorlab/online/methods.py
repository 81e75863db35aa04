"""The methods that are compared: a statistic, a calibrator, and what the pair promises."""

from __future__ import annotations

from dataclasses import dataclass

from monitorlab.online.learned import LearnedPrefix
from monitorlab.online.likelihood_ratio import LikelihoodRatio
from monitorlab.online.statistics import Cusum, Ewma, LatestScore, RunningMean, Statistic

VILLE = "ville"


@dataclass(frozen=True)
class Method:
    """A statistic and the calibrator that turns it into an alarm.

    Attributes
    ----------
    label : str
        How tables and figures call it.
    statistic : Statistic
        What is compared with the threshold.
    calibrator : str
        A rank rule of :mod:`monitorlab.online.calibration`, or ``ville`` for the fixed 1/level.
    guarantee : str
        The promise, in symbols.
    source : str
        Where the rule is defined.
    """

    label: str
    statistic: Statistic
    calibrator: str
    guarantee: str
    source: str


IN_EXPECTATION = "E[R] ≤ ε"
HIGH_PROBABILITY = "P(R > ε) ≤ δ"

PAPER_METHODS = (
    Method("CRC", LatestScore(), "crc", IN_EXPECTATION, "[1] Eq. 8"),
    Method("UCB", LatestScore(), "hoeffding_bentkus", HIGH_PROBABILITY, "[1] §3.2"),
    Method(
        "e-valuator, anytime",
        LikelihoodRatio("likelihood_ratio_all", training_share=1.0),
        VILLE,
        "R ≤ ε if the ratio is exact",
        "[2] §3.2",
    ),
    Method("e-valuator, PAC", LikelihoodRatio(), "tolerance", HIGH_PROBABILITY, "[2] §3.3"),
)

FURTHER_METHODS = (
    Method("exact binomial", LatestScore(), "binomial", HIGH_PROBABILITY, "[3] §3.1"),
    Method("running mean + CRC", RunningMean(), "crc", IN_EXPECTATION, "[1] Eq. 8"),
    Method("EWMA + CRC", Ewma(), "crc", IN_EXPECTATION, "[1] Eq. 8"),
    Method("CUSUM + CRC", Cusum(), "crc", IN_EXPECTATION, "[1] Eq. 8, [4]"),
    Method("e-valuator ratio + CRC", LikelihoodRatio(), "crc", IN_EXPECTATION, "[1] Eq. 8, [2]"),
    Method("learned + CRC", LearnedPrefix(), "crc", IN_EXPECTATION, "[1] Eq. 8, ours"),
    Method("learned + exact", LearnedPrefix(), "binomial", HIGH_PROBABILITY, "[3] §3.1, ours"),
)

ALL_METHODS = PAPER_METHODS + FURTHER_METHODS
