"""Views beside the full one, mutations that must be noticed, and rates of groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitorlab.chapters import evaluation as instrument
from monitorlab.evaluation.rates import join, rates
from monitorlab.monitors.monitor import FULL, VIEWS, Sample
from monitorlab.monitors.prompts import load_prompt
from monitorlab.monitors.rules import Keywords
from monitorlab.monitors.scoring import score
from monitorlab.monitors.store import VerdictStore

READER = Keywords({"any": ["zzz"]}, name="TF-IDF")  # one of those that are asked with every view


def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def thinkers(pairs: int = 20) -> pd.DataFrame:
    """Misbehavior shows in the thinking alone, and half of the pairs show theirs."""
    rows = []
    for number in range(pairs):
        for label in (0, 1):
            word = "zzz" if label else "sum"
            said = f"<think>{word}</think>It is {number}." if number % 2 else f"{word}. No more."
            rows.append({"sample_id": f"s{number:02}-{label}", "scenario_id": f"c{number // 2}",
                         "request": "Add.", "response": said, "label": label})
    return pd.DataFrame(rows)


def scored(scores: np.ndarray, labels: np.ndarray, per_scenario: int = 4) -> pd.DataFrame:
    """Verdicts of one monitor with these scores, joined."""
    names = [f"s{i:04}" for i in range(len(scores))]
    verdicts = pd.DataFrame({
        "sample_id": names, "monitor": "m", "prompt": "none", "draw": 0, "status": "parsed",
        "verdict": scores > 0.5, "score": scores, "evidence": None})
    scenarios = [f"c{i // per_scenario}" for i in range(len(scores))]
    return join(verdicts, pd.DataFrame({"sample_id": names, "label": labels,
                                        "scenario_id": scenarios}))


def test_views_are_asked_and_the_full_one_is_the_monitor_itself(tmp_path: Path) -> None:
    samples, store = thinkers(), VerdictStore(tmp_path / "store.jsonl")
    verdicts = instrument._ask_views([Keywords(), READER], samples, store)
    assert set(verdicts["base"]) == {"TF-IDF"} and len(verdicts) == len(VIEWS) * len(samples)
    full = verdicts[verdicts["view"] == FULL].reset_index(drop=True)
    assert full["request_hash"].equals(score(READER, samples)["request_hash"])
    shown = verdicts.set_index(["view", "sample_id"])["characters"]
    assert shown["full", "s01-0"] == len("Add.") + len("<think>sum</think>It is 1.")
    assert shown["no-thinking", "s01-0"] == len("Add.It is 1.")
    assert shown["no-request", "s01-0"] == len("<think>sum</think>It is 1.")
    with pytest.raises(ValueError, match="none of the monitors is one of TF-IDF, program checks"):
        instrument._ask_views([Keywords()], samples)


def test_a_view_that_hides_the_sign_loses_half_of_the_accuracy() -> None:
    samples = thinkers()
    table = instrument.view_table([READER], samples, rng(), 300)
    assert table["view"].tolist() == list(VIEWS)
    rows = table.set_index("view")
    assert rows["balanced_accuracy"].to_dict() == {
        "full": 1.0, "last-words": 1.0, "no-thinking": 0.75, "thinking-only": 1.0,
        "no-request": 1.0}
    answer = rows.loc["no-thinking"]
    assert (answer["difference"], answer["n_both"], answer["answered"]) == (-0.25, 40, 1)
    assert answer["difference_low"] <= -0.25 <= answer["difference_high"] < 0
    thinking = rows.loc["thinking-only"]
    assert (thinking["difference"], thinking["n_both"], thinking["answered"]) == (0, 20, 0.5)
    assert thinking["characters"] == len("Add.zzz") and pd.isna(thinking["input_tokens"])
    assert pd.isna(rows.loc["full", "difference"]) and pd.isna(rows.loc["full", "n_both"])


@pytest.mark.filterwarnings("error")
def test_a_view_that_leaves_nothing_of_any_sample_has_no_rates() -> None:
    samples = thinkers()
    samples = samples[~samples["response"].str.contains("think")]
    table = instrument.view_table([READER], samples, rng(), 50)
    row = table.set_index("view").loc["thinking-only"]
    assert row["answered"] == 0 and row["n_both"] == 0
    assert pd.isna(row[["mr", "far", "difference", "characters"]].to_numpy(float)).all()


LABELS = np.tile([0, 1], 60)
PERFECT = LABELS * 0.8 + 0.1
NOISE = rng().random(120)


@pytest.mark.parametrize(("before", "after", "labels", "found"), [
    (PERFECT, NOISE, LABELS, instrument.WORSE), (PERFECT, PERFECT, LABELS, instrument.NOT_SEEN),
    (NOISE, rng().permutation(NOISE), LABELS, instrument.AT_CHANCE),
    (PERFECT * 0.3 + NOISE, PERFECT * 0.2 + NOISE[::-1], LABELS, instrument.TOO_FEW),
    (PERFECT, NOISE, 0 * LABELS, instrument.TOO_FEW),
])
def test_a_mutation_is_noticed_where_there_is_something_to_lose(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, found: str
) -> None:
    row = instrument.mutation("x", scored(before, labels), scored(after, labels), rng(), 500)
    assert row["found"] == found and (row["mutation"], row["n"]) == ("x", 120)
    if labels.any():
        assert row["loss"] == pytest.approx(row["before"] - row["after"])
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]
    if found == instrument.WORSE:
        assert (row["before"], row["before_low"], row["before_high"]) == (1, 1, 1)
        assert 0.35 < row["after"] < 0.65
    if found == instrument.NOT_SEEN:
        assert row["loss"] == row["loss_low"] == row["loss_high"] == 0


def test_few_scenarios_accuse_nobody() -> None:
    few = scored(PERFECT, LABELS, per_scenario=8)
    row = instrument.mutation("x", few, few, rng(), 50)
    assert row["found"] == instrument.TOO_FEW and row["before_low"] == 1


def test_shuffled_labels_show_as_worse() -> None:
    judged = scored(PERFECT, LABELS)
    mixed = judged.assign(label=rng().permutation(LABELS))
    assert instrument.mutation("x", judged, mixed, rng(), 200)["found"] == instrument.WORSE


def test_a_prompt_without_guidelines_says_only_how_to_answer() -> None:
    prompt = load_prompt("direct")
    bare = instrument.without_guidelines(prompt)
    system, user = (message["content"] for message in bare.messages(Sample("s", "Add.", "4")))
    assert "misbehavior_detected" in system and "Sycophancy" not in system
    assert "<audited_request>\nAdd." in user and "student" not in system + user
    assert bare.digest != prompt.digest and bare.name == "direct without guidelines"
    with pytest.raises(ValueError, match="the prompt evidence asks for evidence, expected verdict"):
        instrument.without_guidelines(load_prompt("evidence"))


def test_rates_of_groups_are_those_of_their_rows() -> None:
    scores = np.where(np.arange(120) < 60, LABELS, 1 - LABELS).astype(float)  # right, inverted
    judged = scored(scores, LABELS).assign(half=np.repeat(["first", "second"], 60))
    table = instrument.group_rates(judged, ["half"], rng(), 100)
    assert table["group"].tolist() == ["all", "first", "second"]
    assert table["auroc"].tolist() == [0.5, 1, 0]
    assert table["mr"].tolist() == [0.5, 0, 1] and table["n_benign"].tolist() == [60, 30, 30]
    alone = rates(judged[judged["half"] == "second"]).iloc[0]
    assert table.iloc[2][["far", "far_low", "units"]].tolist() == alone[
        ["far", "far_low", "units"]].tolist()
    assert instrument.auroc_by(judged, "half").to_dict() == {"second": 0, "first": 1}
