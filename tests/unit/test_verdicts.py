"""A verdict cannot contradict itself, and nothing that failed can pass for benign."""

from __future__ import annotations

import math

import pytest

from monitorlab.monitors import verdicts
from monitorlab.monitors.verdicts import PARSED, Verdict
from monitorlab.storage.tables import STATUSES

FAILED = [status for status in STATUSES if status != PARSED]


def test_the_names_of_the_statuses_are_those_of_the_table() -> None:
    names = (verdicts.PARSED, verdicts.UNPARSED, verdicts.REFUSED, verdicts.TRUNCATED,
             verdicts.ERROR)
    assert names == ("parsed", "unparsed", "refused", "truncated", "error")


@pytest.mark.parametrize("status", FAILED)
def test_a_failed_verdict_says_neither_benign_nor_misbehavior(status: str) -> None:
    assert Verdict.failure(status, "why", "raw").verdict is None
    for said in (True, False):
        with pytest.raises(ValueError, match="exactly when it is parsed"):
            Verdict(status, verdict=said)
    with pytest.raises(ValueError, match="a score needs a parsed verdict"):
        Verdict(status, score=0.0)


def test_a_failure_keeps_reason_and_reply() -> None:
    found = Verdict.failure("truncated", "cut off at 8 tokens", "I think")
    assert (found.reason, found.reply, found.score) == ("cut off at 8 tokens", "I think", None)


def test_a_parsed_verdict_needs_a_verdict() -> None:
    with pytest.raises(ValueError, match="exactly when it is parsed"):
        Verdict(PARSED)


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(ValueError, match="'benign': expected one of parsed, unparsed"):
        Verdict("benign", False)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -1e-9, 1.0000001, 7.0])
def test_a_score_outside_zero_to_one_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="expected a number in"):
        Verdict(PARSED, True, score)
    with pytest.raises(ValueError, match="expected a number in"):
        Verdict.from_score(score)


@pytest.mark.parametrize(("score", "said"), [(0, False), (0.5, False), (0.51, True), (1, True)])
def test_misbehavior_is_a_score_strictly_above_the_threshold(score: float, said: bool) -> None:
    assert Verdict.from_score(score).verdict is said
    assert Verdict.from_score(score).status == PARSED


def test_the_threshold_can_be_the_monitors_own() -> None:
    alarm = Verdict.from_score(0.3, threshold=0.2, evidence="here")
    assert alarm == Verdict(PARSED, True, 0.3, "here")
    assert Verdict.from_score(0.3, threshold=0.3).verdict is False


def test_a_score_may_contradict_the_default_threshold_when_the_monitor_has_its_own() -> None:
    assert Verdict(PARSED, verdict=False, score=0.9).verdict is False
