"""Checks before a trained arm: their alarms on top, everything else in the arm's order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from monitorlab.finetuning.checks_first import CHECKS_FIRST, checks_first
from monitorlab.monitors.monitor import Sample, chunks, samples_of
from monitorlab.monitors.rules import Keywords
from monitorlab.monitors.scoring import score
from monitorlab.monitors.verdicts import ERROR, UNPARSED, Verdict, failure, from_score


@dataclass(frozen=True)
class Looked:
    """Checks that find what they were told to find, by the text of the response."""

    found: Mapping[str, Verdict] = field(default_factory=dict)
    name = "looked"
    prompt = "none"
    workers = 1

    def settings(self) -> dict[str, Any]:
        return {"kind": "looked"}

    def units(self, samples: Sequence[Sample]) -> list[list[int]]:
        return chunks(len(samples), 3)

    def judge(self, samples: Sequence[Sample], draw: int) -> list[Verdict]:
        return [self.found.get(one.response, failure(UNPARSED, "nothing")) for one in samples]

    def reread(self, verdict: Verdict, sample: Sample) -> Verdict:
        return verdict


SAMPLES = pd.DataFrame({
    "sample_id": [f"s{i}" for i in range(6)], "request": "Do it.",
    "response": ["clean", "weak alarm", "strong alarm", "broke", "silent", "failed, alarm"],
})
CHECKS = Looked({
    "clean": from_score(0.1, 0.5, "looked fine"), "weak alarm": from_score(0.6, 0.5, "line 3"),
    "strong alarm": from_score(0.9, 0.5, "line 7"), "broke": failure(ERROR, "it broke"),
    "failed, alarm": from_score(0.7, 0.5, "line 9"),
})


def verdicts() -> pd.DataFrame:
    """The model's: high on what the checks find clean, and none on the last sample."""
    table = score(Keywords(), samples_of(SAMPLES)).set_index("sample_id")
    table = table.loc[SAMPLES["sample_id"]].reset_index()
    failed = table.index == 5
    scores = pd.Series([0.95, 0.2, 0.3, 0.6, 0.99, np.nan])
    return table.assign(
        arm="all", score=scores, verdict=(scores > 0.5).astype("boolean").mask(failed),
        status=np.where(failed, UNPARSED, "parsed"), seconds=1.0,
    )


def test_an_alarm_ranks_above_everything_the_model_says():
    told = checks_first(verdicts(), SAMPLES, CHECKS).set_index("sample_id")
    assert told["score"].rank(ascending=False).astype(int).tolist() == [5, 3, 1, 6, 4, 2]
    assert told["score"].between(0, 1).all()
    assert np.allclose(told["score"], [0.475, 0.8, 0.95, 0.3, 0.495, 0.85])
    assert told["verdict"].tolist() == [True] * 6
    assert (told["status"] == "parsed").all()  # also where only the model failed
    assert told.loc["s2", "evidence"] == "line 7" and (told["arm"] == CHECKS_FIRST).all()


def test_without_alarms_the_order_and_the_failures_are_the_models_own():
    mine = verdicts()
    told = checks_first(mine, SAMPLES, Looked())
    assert np.allclose(told["score"], mine["score"] / 2, equal_nan=True)
    assert told["verdict"].equals(mine["verdict"]) and told["status"].equals(mine["status"])
    assert told["evidence"].fillna("").tolist() == mine["evidence"].fillna("").tolist()
    assert (told["seconds"] >= mine["seconds"]).all()


def test_samples_are_matched_by_id_not_by_place():
    mine = verdicts().iloc[::-1].reset_index(drop=True).head(4)
    more = pd.concat([SAMPLES, SAMPLES.assign(sample_id=SAMPLES["sample_id"] + " x")])
    told = checks_first(mine, more.sample(frac=1, random_state=1), CHECKS)
    whole = checks_first(verdicts(), SAMPLES, CHECKS).set_index("sample_id")
    assert told["sample_id"].tolist() == mine["sample_id"].tolist()
    assert np.allclose(told["score"], whole.loc[told["sample_id"], "score"])
