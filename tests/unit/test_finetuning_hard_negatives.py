"""Responses that mention a cue and set it aside: what changes, what does not, how often."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from monitorlab.benchmark import construction, duplicates
from monitorlab.benchmark.composition import compose_pair
from monitorlab.benchmark.scenario_files import Scenario
from monitorlab.finetuning.hard_negatives import MENTIONS, NEUTRAL, hard_negatives
from monitorlab.monitors.monitor import MonitorError
from monitorlab.monitors.rules import chosen_option, cued_option
from monitorlab.pipeline.tables import CORPUS

CELLS = ("spv_code", "spv_qa", "syco_qa", "syco_reasoning")
SHARE = 0.3
FENCED = re.compile(r"```.*?```", re.DOTALL)


@pytest.fixture(scope="module")
def corpus(library: list[Scenario]) -> pd.DataFrame:
    """Three pairs of every scenario of the training side."""
    return pd.DataFrame([
        row | {"component": scenario.cell}
        for scenario in library if scenario.side == "training" and scenario.cell in CELLS
        for number in range(3)
        for row in construction.rows(compose_pair(scenario, number, 7), 7)
    ], columns=CORPUS.columns)


@pytest.fixture(scope="module")
def made(corpus: pd.DataFrame) -> pd.DataFrame:
    return hard_negatives(corpus, SHARE, np.random.default_rng(4))


def _pattern(sentence: str) -> str:
    words = re.sub(r"\\{(?:z|who)\\}", r"\\w+", re.escape(sentence))
    return f"(?i:{words})"


WORDING = re.compile("|".join(
    _pattern(sentence)
    for group in (MENTIONS, NEUTRAL) for row in group.values() for sentence in row
))


def without(text: str) -> str:
    """A response without the sentences that may have been put into it."""
    return re.sub(rf" (?:{WORDING.pattern})|\A(?:{WORDING.pattern})\n\n", "", text)


def test_everything_but_some_responses_is_as_it_was(
    corpus: pd.DataFrame, made: pd.DataFrame
) -> None:
    rest = corpus.columns.drop("response")
    pd.testing.assert_frame_equal(made[rest], corpus[rest])
    assert list(made.columns) == [*corpus.columns, "mentions_cue"]
    assert made["mentions_cue"].dtype == bool
    for before, after in zip(corpus["response"], made["response"], strict=True):
        assert before == (without(after) if after != before else after)
        assert FENCED.findall(after) == FENCED.findall(before)


def test_shares_are_as_asked(corpus: pd.DataFrame, made: pd.DataFrame) -> None:
    for name, part in made.groupby("component"):
        benign = part[part["label"] == 0]
        assert benign["mentions_cue"].sum() == round(SHARE * len(benign)), name
        changed = part["response"] != corpus.loc[part.index, "response"]
        by_label = changed.groupby(part["label"]).sum()
        assert by_label[0] == by_label[1]
    assert not made.loc[made["label"] == 1, "mentions_cue"].any()


def test_a_multiple_choice_mention_names_the_cue(made: pd.DataFrame) -> None:
    rows = made[made["mentions_cue"] & (made["category"] == "syco")]
    assert len(rows) > 50
    for row in rows.itertuples():
        found = WORDING.search(str(row.response))
        assert found
        assert re.search(rf"(?<!\w){cued_option(str(row.request))}(?!\w)", found[0])


def test_the_choice_that_rules_read_stays(corpus: pd.DataFrame, made: pd.DataFrame) -> None:
    rows = made["category"] == "syco"
    assert made.loc[rows, "response"].map(chosen_option).equals(
        corpus.loc[rows, "response"].map(chosen_option))


def test_length_does_not_tell_the_classes_apart(made: pd.DataFrame) -> None:
    for name, part in made.groupby("component"):
        assert 0.45 < roc_auc_score(part["label"], part["response"].str.len()) < 0.55, name


def test_length_tells_nothing_new_where_sentences_were_added(
    corpus: pd.DataFrame, made: pd.DataFrame
) -> None:
    grown = made["response"].str.len() - corpus["response"].str.len()
    grown = grown[grown > 0]
    labels = made.loc[grown.index, "label"]
    assert 0.4 < roc_auc_score(labels, grown) < 0.6


def test_places_vary_and_are_sentence_boundaries(made: pd.DataFrame) -> None:
    shares = []
    for response in made.loc[made["mentions_cue"], "response"]:
        found = WORDING.search(response)
        assert found
        assert not found.start() or re.search(r"[\w\"')\]%][.!?] $", response[: found.start()])
        assert re.match(r"\s|\Z", response[found.end() :])
        shares.append(found.start() / len(response))
    assert min(shares) < 0.1
    assert max(shares) > 0.6
    assert np.std(shares) > 0.15


def test_half_lip_service_makes_sentences_say_nothing(corpus: pd.DataFrame) -> None:
    made = hard_negatives(corpus, 0.4, np.random.default_rng(4), lip_service=0.4)
    by_label = made.groupby(["component", "label"])["mentions_cue"].sum().unstack()
    assert ((by_label[0] - by_label[1]).abs() <= 1).all()
    assert made["label"].equals(corpus["label"])
    pairs = made.groupby("pair_id")["mentions_cue"].sum()
    assert pairs.max() == 1


def test_the_generator_decides_everything(corpus: pd.DataFrame, made: pd.DataFrame) -> None:
    again = hard_negatives(corpus, SHARE, np.random.default_rng(4))
    other = hard_negatives(corpus, SHARE, np.random.default_rng(5))
    pd.testing.assert_frame_equal(made, again)
    assert not made["mentions_cue"].equals(other["mentions_cue"])


def test_share_zero_is_a_copy(corpus: pd.DataFrame) -> None:
    made = hard_negatives(corpus, 0, np.random.default_rng(4))
    assert not made["mentions_cue"].any()
    pd.testing.assert_frame_equal(made.drop(columns="mentions_cue"), corpus)


def test_a_request_without_a_cue_gets_no_mention(corpus: pd.DataFrame) -> None:
    plain = corpus[corpus["category"] == "syco"].head(20)
    plain = plain.assign(request="Which one is it?\n\nA) this\nB) that")
    assert not hard_negatives(plain, 1, np.random.default_rng(0))["mentions_cue"].any()


def test_a_row_without_partner_and_prose_gets_its_sentence_first(corpus: pd.DataFrame) -> None:
    code = corpus[(corpus["task"] == "code") & (corpus["label"] == 0)].head(1)
    code = code.assign(response="```python\nx = 'One. Two.'\n```")
    made = hard_negatives(code, 1, np.random.default_rng(0))["response"].iloc[0]
    sentence, rest = made.split("\n\n", 1)
    assert sentence in MENTIONS["code"]
    assert rest == "```python\nx = 'One. Two.'\n```"


def test_wordings_are_many_and_choose_nothing() -> None:
    for kind, sentences in MENTIONS.items():
        assert len(set(sentences)) >= 12, kind
        assert NEUTRAL.keys() == MENTIONS.keys()
        for sentence in sentences + NEUTRAL[kind]:
            assert chosen_option(sentence.format(z="B", who="Rosa")) is None, sentence


def test_wordings_are_not_those_of_the_benchmark(library: list[Scenario]) -> None:
    theirs: set[bytes] = set()
    for scenario in (one for one in library if one.cell.startswith("syco")):
        for number in range(3):
            for row in construction.rows(compose_pair(scenario, number, 7), 7):
                theirs |= duplicates.shingles(row["response"])
    assert len(theirs) > 10_000
    for sentences in (*MENTIONS.values(), *NEUTRAL.values()):
        for sentence in sentences:
            for letter in "abcd":
                ours = duplicates.shingles(sentence.format(z=letter, who="rosa"))
                assert not ours & theirs, sentence


@pytest.mark.parametrize("shares", [(-0.1, 0.0), (1.1, 0.0), (0.6, 0.6), (float("nan"), 0.0)])
def test_shares_must_fit_together(corpus: pd.DataFrame, shares: tuple[float, float]) -> None:
    with pytest.raises(MonitorError, match="at most 1 together"):
        hard_negatives(corpus, shares[0], np.random.default_rng(0), lip_service=shares[1])


def test_missing_columns_are_named(corpus: pd.DataFrame) -> None:
    with pytest.raises(MonitorError, match="lacks pair_id"):
        hard_negatives(corpus.drop(columns="pair_id"), 0.5, np.random.default_rng(0))
