"""The best arm: chosen on dev, by unseen cells, at no great loss on those trained on."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from monitorlab.finetuning.choice import best_arm
from monitorlab.finetuning.published import SEEN
from monitorlab.pipeline.tables import CELLS

ALL = SEEN["all"]
SOME = dict.fromkeys(("all", "pairs", "mixed"), ALL)
UNSEEN = ("sg_code", "sg_qa")
BY_HAND = {
    "balanced_accuracy": lambda part: balanced_accuracy_score(
        part["label"], part["verdict"].astype(bool)),
    "auroc": lambda part: roc_auc_score(part["label"], part["score"]),
}


def arm_rows(name: str, seen: float, unseen: float, seed: int, split: str = "dev") -> pd.DataFrame:
    """Normal scores with a discrimination of their own on cells seen and unseen."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({"cell": np.repeat(CELLS, 80), "label": np.tile([1, 0], 40 * len(CELLS))})
    d_prime = np.where(rows["cell"].isin(UNSEEN), unseen, seen)
    x = d_prime * (rows["label"] - 0.5) + rng.normal(size=len(rows))
    number = np.arange(len(rows))
    return rows.assign(
        name=name, monitor=name, prompt="none", draw=0, split=split, status="parsed",
        sample_id=[f"{split}{i:04}" for i in number], score=1 / (1 + np.exp(-x)),
        pair_id=[f"{split} pair {i // 2}" for i in number],
        verdict=pd.array(x > 0, dtype="boolean"),
        scenario_id=[f"{split} scenario {i // 6}" for i in number],
    )


def judged(**arms: tuple[float, float]) -> pd.DataFrame:
    return pd.concat([arm_rows(name, *ds, seed) for seed, (name, ds) in enumerate(arms.items())],
                     ignore_index=True)


DEV = judged(all=(2.0, 0.2), pairs=(2.0, 1.2), mixed=(0.5, 2.5))


@pytest.mark.parametrize("metric", BY_HAND)
def test_the_value_is_the_mean_over_unseen_cells_of_dev(metric):
    flattered = arm_rows("all", 3.0, 9.0, 7, "test")
    found = best_arm(pd.concat([DEV, flattered], ignore_index=True), SOME, metric=metric)
    expected = {
        arm: np.mean([BY_HAND[metric](DEV[(DEV["name"] == arm) & (DEV["cell"] == cell)])
                      for cell in UNSEEN]) for arm in SOME}
    assert found.ranking.set_index("arm")["value"].to_dict() == pytest.approx(expected)
    assert found.ranking["value"].is_monotonic_decreasing
    assert found.arm == "mixed"
    assert found.ranking["kept"].all() and found.ranking["lost"].isna().all()


def test_an_arm_that_loses_too_much_on_seen_cells_comes_last():
    found = best_arm(DEV, SOME, reference="all")
    assert found.arm == "pairs" and found.ranking["arm"].tolist() == ["pairs", "mixed"]
    assert found.ranking["kept"].tolist() == [True, False]
    seen = {arm: np.mean([BY_HAND["balanced_accuracy"](
        DEV[(DEV["name"] == arm) & (DEV["cell"] == cell)]) for cell in sorted(ALL)])
        for arm in SOME}
    lost = found.ranking.set_index("arm")["lost"]
    assert lost["mixed"] == pytest.approx(seen["all"] - seen["mixed"])
    assert best_arm(DEV, SOME, reference="all", margin=0.9).arm == "mixed"


def test_where_every_arm_loses_the_best_of_them_is_named_and_marked():
    found = best_arm(judged(all=(3.0, 0.0), pairs=(0.2, 0.4), mixed=(0.2, 2.0)), SOME,
                     reference="all")
    assert found.arm == "mixed" and not found.ranking["kept"].any()


def test_of_equal_arms_the_first_named_is_best_and_one_without_a_value_is_last():
    one = DEV[DEV["name"] == "all"]
    rows = pd.concat([one[one["cell"] != "sg_qa"].assign(name="lame"), one.assign(name="b"),
                      one.assign(name="a")], ignore_index=True)
    found = best_arm(rows, {"lame": ALL, "b": ALL, "a": ALL})
    assert found.arm == "b" and found.ranking["arm"].tolist() == ["b", "a", "lame"]


@pytest.mark.parametrize(("call", "words"), [
    (lambda: best_arm(DEV.assign(split="test"), SOME), "no verdicts in split 'dev'"),
    (lambda: best_arm(DEV, SOME, metric="mr"), "metric is 'mr'"),
    (lambda: best_arm(DEV, {**SOME, "mixed": frozenset()}, group="seen"), "do not share the cells"),
    (lambda: best_arm(DEV, {**SOME, "mixed": SEEN["spv_qa"]}, reference="all"), "do not share"),
    (lambda: best_arm(DEV, SOME, reference="base"), "reference 'base' is none of the arms"),
    (lambda: best_arm(DEV[DEV["cell"] != "sg_qa"], SOME), "no arm has a balanced_accuracy"),
])
def test_what_cannot_be_is_said_plainly(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_arm_that_fails_on_what_it_finds_hard_is_not_chosen_for_it():
    """Without the samples that `shy` would get wrong it looks perfect; so would the others."""
    rows = judged(all=(2.0, 0.2), shy=(2.0, 0.2), good=(2.0, 1.5))
    wrong = rows["verdict"].astype(bool) != (rows["label"] == 1)
    hard = (rows["name"] == "shy") & wrong & rows["cell"].isin(UNSEEN)
    rows.loc[hard, ["status", "score", "verdict"]] = ["refused", np.nan, pd.NA]
    found = best_arm(rows, dict.fromkeys(("all", "shy", "good"), ALL)).ranking.set_index("arm")
    told = rows[~rows["sample_id"].isin(rows.loc[hard, "sample_id"]) & (rows["name"] == "good")]
    expected = np.mean([BY_HAND["balanced_accuracy"](told[told["cell"] == cell])
                        for cell in UNSEEN])
    assert found.loc["good", "value"] == pytest.approx(expected)
    none = rows.assign(status=rows["status"].mask(rows["name"] == "shy", "error"),
                       score=rows["score"].mask(rows["name"] == "shy"),
                       verdict=rows["verdict"].mask(rows["name"] == "shy"))
    ranking = best_arm(none, dict.fromkeys(("all", "shy", "good"), ALL)).ranking
    assert ranking["arm"].tolist() == ["good", "all", "shy"]  # one without a verdict is last
