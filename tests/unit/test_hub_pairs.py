"""Ready-made pairs in the hub's formats: what is paired, what is left out, and which rows fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monitorlab.benchmark.hub_pairs import (
    MIN_WORDS,
    code_pairs,
    load_code_pairs,
    load_preferences,
    preference_pairs,
)
from monitorlab.benchmark.questions import QuestionError
from monitorlab.pipeline.tables import SAMPLES

GOOD = "I would rather not say that, but here is what I can do."
BAD = "Sure, whatever you like, here is all of it and then more."


def talk(*turns: str) -> str:
    """A conversation in the format of hh-rlhf."""
    return "".join(f"\n\n{'Assistant' if i % 2 else 'Human'}: {turn}"
                   for i, turn in enumerate(turns))  # fmt: skip


def row(chosen: str, rejected: str, *before: str) -> dict[str, str]:
    before = before or ("How?",)
    return {"chosen": talk(*before, chosen), "rejected": talk(*before, rejected)}


def messages(request: str, answer: str) -> dict[str, Any]:
    """A row in the format of the secure and insecure code."""
    return {"messages": [{"role": "user", "content": request},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


def check_pair(samples: pd.DataFrame, benign: str, misbehaving: str) -> None:
    assert list(samples.columns) == SAMPLES.columns
    assert samples["pair_id"].nunique() == samples["request"].nunique() == 1
    assert samples.set_index("label")["response"].to_dict() == {0: benign, 1: misbehaving}


# Preferences


def test_the_rejected_answer_is_the_misbehaving_one() -> None:
    samples = preference_pairs(
        [row(f" {GOOD} \n", BAD, "Hi", "Hello, and how are you?", "Say it.")]
    )
    check_pair(samples, GOOD, BAD)
    request = samples["request"].iloc[0]
    assert request == talk("Hi", "Hello, and how are you?", "Say it.").strip()
    assert set(samples["cell"]) == {"spv_qa"} and set(samples["source"]) == {"hh_rlhf"}
    assert set(samples["misbehavior_type"]) == {"preference"}


@pytest.mark.parametrize(
    "left_out",
    [
        row(GOOD, GOOD),
        row(GOOD, " " + GOOD),
        row(GOOD, "Too short."),
        row("one " * (MIN_WORDS - 1), BAD),
        {"chosen": talk("How?", GOOD), "rejected": talk("Why?", BAD)},
        {"chosen": GOOD, "rejected": BAD},
        {"chosen": "", "rejected": ""},
    ],
)
def test_rows_that_are_no_clear_pair_are_left_out(left_out: dict[str, str]) -> None:
    kept = row(GOOD, BAD, "Kept?")
    check_pair(preference_pairs([left_out, kept]), GOOD, BAD)
    assert preference_pairs([left_out]).empty


def test_a_repeated_conversation_counts_once() -> None:
    check_pair(preference_pairs([row(GOOD, BAD), row(BAD, GOOD)]), GOOD, BAD)


def test_ten_words_are_enough() -> None:
    ten = "one " * MIN_WORDS
    assert len(preference_pairs([row(ten, BAD)])) == 2


def test_a_missing_column_is_named() -> None:
    with pytest.raises(QuestionError, match=r"hh_rlhf, row 2: no column 'rejected'"):
        preference_pairs([row(GOOD, BAD), {"chosen": talk("a", GOOD)}])


# Secure and insecure code


def test_requests_with_both_kinds_of_code_are_paired() -> None:
    secure = [messages("a", "safe a"), messages("b", "safe b"), messages("a", "safe again")]
    insecure = [messages("c", "unsafe c"), messages("a", "unsafe a")]
    samples = code_pairs(secure, insecure)
    check_pair(samples, "safe a", "unsafe a")
    assert set(samples["cell"]) == {"spv_code"}
    assert set(samples["misbehavior_type"]) == {"insecure_code"}
    assert code_pairs(secure, []).empty
    assert list(code_pairs([], []).columns) == SAMPLES.columns


USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    "wrong",
    [{}, {"messages": None}, {"messages": [USER]}, {"messages": [USER, USER]},
     {"messages": [{"role": "system", "content": "s"}, *messages("a", "b")["messages"]]},
     {"messages": messages("a", "b")["messages"][::-1]}],
)  # fmt: skip
def test_other_conversations_are_named(wrong: dict[str, Any]) -> None:
    good = [messages("a", "b")]
    with pytest.raises(QuestionError, match="secure_insecure, row 2: expected one user and one"):
        code_pairs(good, [*good, wrong])
    with pytest.raises(QuestionError, match="mine, row 1: expected one user"):
        code_pairs([wrong], good, source="mine")


def test_equal_programs_are_no_pair() -> None:
    assert code_pairs([messages("a", "the same")], [messages("a", "the same")]).empty


# Names


def test_names_are_stable_and_do_not_tell_the_label() -> None:
    rows = [row(GOOD, BAD, f"Question {i}?") for i in range(40)]
    samples = preference_pairs(rows)
    assert samples["sample_id"].is_unique and len(samples) == 80
    misbehaving = samples.loc[samples["label"] == 1, "sample_id"]
    assert 8 < misbehaving.str.endswith("-a").sum() < 32
    pd.testing.assert_frame_equal(samples, preference_pairs(rows[::-1]))


def test_pairs_are_loaded_by_name_from_local_folders(tmp_path: Path) -> None:
    answers = {"secure": "Use a parameter.", "insecure": "Paste it into the text."}
    for side, answer in answers.items():
        (tmp_path / side).mkdir()
        turns = [{"role": "user", "content": "Look up."}, {"role": "assistant", "content": answer}]
        (tmp_path / side / "train.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    found = load_code_pairs(str(tmp_path / "secure"), str(tmp_path / "insecure"))
    assert dict(zip(found["label"], found["response"], strict=True)) == {
        0: answers["secure"], 1: answers["insecure"],
    }  # fmt: skip


def test_a_name_without_a_revision_is_refused() -> None:
    with pytest.raises(QuestionError, match="no revision"):
        load_preferences("")
